//! Why a request is refused, in the words the clients know.

use std::fmt;

use crate::json;

/// A refused Engine.IO request.
///
/// Codes and texts are those of the reference server (engine.io 6.6,
/// `Server.errors` and `Server.errorMessages`), which clients and proxies
/// match on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RequestError {
    /// `transport` is missing or not served.
    UnknownTransport,
    /// `sid` names no session.
    UnknownSid,
    /// A handshake with another method than GET.
    BadHandshakeMethod,
    /// The request does not fit its session.
    BadRequest,
    /// Refused by policy.
    Forbidden,
    /// `EIO` is not 4.
    UnsupportedProtocolVersion,
}

impl RequestError {
    /// The number in the body's `code`.
    pub fn code(self) -> u8 {
        match self {
            Self::UnknownTransport => 0,
            Self::UnknownSid => 1,
            Self::BadHandshakeMethod => 2,
            Self::BadRequest => 3,
            Self::Forbidden => 4,
            Self::UnsupportedProtocolVersion => 5,
        }
    }

    /// The text in the body's `message`.
    pub fn message(self) -> &'static str {
        match self {
            Self::UnknownTransport => "Transport unknown",
            Self::UnknownSid => "Session ID unknown",
            Self::BadHandshakeMethod => "Bad handshake method",
            Self::BadRequest => "Bad request",
            Self::Forbidden => "Forbidden",
            Self::UnsupportedProtocolVersion => "Unsupported protocol version",
        }
    }

    /// The status of the HTTP response.
    pub fn http_status(self) -> u16 {
        match self {
            Self::Forbidden => 403,
            _ => 400,
        }
    }

    /// The response's body: `{"code":…,"message":…}`.
    pub fn body(self) -> String {
        let mut out = String::from("{\"code\":");
        json::push_u64(self.code().into(), &mut out);
        out.push_str(",\"message\":");
        json::quote_into(self.message(), &mut out);
        out.push('}');
        out
    }
}

impl fmt::Display for RequestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.message())
    }
}

impl std::error::Error for RequestError {}

//! Who a socket belongs to, and how that is found out.

use std::fmt;
use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;

use heartline_wire::codes::Code;
use heartline_wire::handshake::Handshake;

/// A boxed future that may move between threads.
pub type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// Longest id of a user, a type, a tenant or a device, bytes.
pub const MAX_ID: usize = 256;

/// Whether a text may be an id, wherever it comes from: 1 to [`MAX_ID`] bytes. The ids of two users
/// that differ by half characters would be one, and what has a control character is no room's
/// name, nor kept by every database.
///
/// ```
/// use heartline_core::auth::is_id;
/// assert!(is_id("ann") && is_id("7 🚀"));
/// assert!(!is_id("") && !is_id("a\0") && !is_id("\u{fffd}"));
/// ```
pub fn is_id(text: &str) -> bool {
    let is_foreign = |c: char| c == char::REPLACEMENT_CHARACTER || c.is_control();
    (1..=MAX_ID).contains(&text.len()) && !text.contains(is_foreign)
}

/// A user within a tenant: what device policies, message limits and presence count by.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct UserKey {
    /// The tenant, where there are several.
    pub tenant_id: Option<Arc<str>>,
    /// The user's id within the tenant.
    pub user_id: Arc<str>,
    /// The kind of user (`driver`, `admin`, …), where ids repeat between kinds.
    pub user_type: Option<Arc<str>>,
}

/// What a verified token says of its bearer. Default: anonymous.
#[derive(Debug, Clone, Default)]
pub struct Identity {
    /// The user; `None` for an anonymous socket.
    pub user: Option<Arc<UserKey>>,
    /// The device the token was made for.
    pub device_id: Option<Arc<str>>,
    /// The user's wallet, where an app has such.
    pub wallet_address: Option<Arc<str>>,
    /// Patterns of rooms that may be joined; `None`: all but private ones.
    pub rooms: Option<Arc<[RoomPattern]>>,
    /// Patterns of rooms that may be published to; `None`: all but private ones.
    pub publish: Option<Arc<[RoomPattern]>>,
    /// Whether `metrics:request` is answered.
    pub admin: bool,
    /// When the token expires, Unix milliseconds.
    pub expires_at: Option<u64>,
}

impl Identity {
    /// Whether all of its ids may be ids ([`is_id`]).
    pub fn has_ids(&self) -> bool {
        let user = self.user.as_deref();
        let of_user = user.map(|user| {
            [
                Some(&user.user_id),
                user.user_type.as_ref(),
                user.tenant_id.as_ref(),
            ]
        });
        let others = [self.device_id.as_ref(), self.wallet_address.as_ref()];
        let ids = of_user.into_iter().flatten().chain(others).flatten();
        ids.into_iter().all(|id| is_id(id))
    }

    /// The tenant, if any.
    pub fn tenant_id(&self) -> Option<&Arc<str>> {
        self.user.as_ref().and_then(|user| user.tenant_id.as_ref())
    }

    /// The user's id, if authenticated.
    pub fn user_id(&self) -> Option<&str> {
        self.user.as_ref().map(|user| &*user.user_id)
    }
}

/// A room name or a prefix of room names: `lobby`, `conversation:*`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RoomPattern {
    text: Box<str>,
    prefix: bool,
}

impl RoomPattern {
    /// A pattern; a `*` at the end stands for any rest.
    pub fn new(pattern: &str) -> Self {
        match pattern.strip_suffix('*') {
            Some(prefix) => RoomPattern {
                text: prefix.into(),
                prefix: true,
            },
            None => RoomPattern {
                text: pattern.into(),
                prefix: false,
            },
        }
    }

    /// The pattern as it was written.
    pub fn text(&self) -> String {
        match self.prefix {
            true => format!("{}*", self.text),
            false => self.text.to_string(),
        }
    }

    /// The room that this pattern names, if it is a single one.
    pub fn exact(&self) -> Option<&str> {
        (!self.prefix).then_some(&*self.text)
    }

    /// Whether every room fits.
    pub fn matches_all(&self) -> bool {
        self.prefix && self.text.is_empty()
    }

    /// Whether `room` fits.
    pub fn matches(&self, room: &str) -> bool {
        if self.prefix {
            room.starts_with(&*self.text)
        } else {
            room == &*self.text
        }
    }
}

/// What a client presents when it connects.
#[derive(Debug, Clone)]
pub struct Credentials {
    /// The token: from the CONNECT payload's or the `auth` frame's `token`, else
    /// the `Authorization: Bearer` header, else a parameter of the query, else a cookie.
    pub token: Option<String>,
    /// The whole CONNECT payload as JSON text, for authenticators of other kinds.
    pub payload: Option<String>,
    /// The namespace that is to be joined.
    pub namespace: String,
    /// The client's address.
    pub remote_addr: IpAddr,
    /// The HTTP request by which the connection began: kept only if the authenticator
    /// [wants it](Authenticator::wants_handshake) or a handler does.
    pub handshake: Option<Arc<Handshake>>,
}

/// Why a client is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuthError {
    /// A token is needed and none came.
    Required,
    /// The token is no good.
    Invalid,
    /// The token was good once.
    Expired,
    /// It could not be checked now (no key set, say); the client may try again.
    Unavailable,
}

impl AuthError {
    /// The contract's code.
    pub fn code(self) -> Code {
        match self {
            AuthError::Required => Code::AuthRequired,
            AuthError::Invalid => Code::AuthTokenInvalid,
            AuthError::Expired => Code::AuthTokenExpired,
            AuthError::Unavailable => Code::AuthUnavailable,
        }
    }

    /// One sentence for people.
    pub fn message(self) -> &'static str {
        self.code().sentence()
    }
}

impl fmt::Display for AuthError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.message())
    }
}

impl std::error::Error for AuthError {}

/// Turns credentials into an identity.
///
/// It is asked only when a token came, or when it [wants
/// handshakes](Self::wants_handshake), and the namespace's `auth.mode` is not `off`.
pub trait Authenticator: Send + Sync + 'static {
    /// Verifies. Must not block: what has to wait (a key set over HTTP) awaits.
    fn authenticate(&self, credentials: Credentials) -> BoxFuture<Result<Identity, AuthError>>;

    /// Whether [`Credentials::handshake`] is looked at, for a cookie, say: it costs each
    /// connection the memory of its first request's head. Clients without a token are
    /// brought before it then; who has neither is [`AuthError::Required`] to have one, or
    /// is anonymous where `auth.mode` is `optional`.
    fn wants_handshake(&self) -> bool {
        false
    }
}

/// Refuses every token: what a gateway has when none was configured.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoAuthenticator;

impl Authenticator for NoAuthenticator {
    fn authenticate(&self, _: Credentials) -> BoxFuture<Result<Identity, AuthError>> {
        Box::pin(std::future::ready(Err(AuthError::Invalid)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_whole_names_or_prefixes() {
        assert!(RoomPattern::new("conversation:*").matches("conversation:42"));
        assert!(!RoomPattern::new("conversation:*").matches("conversatio"));
        assert!(RoomPattern::new("lobby").matches("lobby"));
        assert!(!RoomPattern::new("lobby").matches("lobby2"));
        assert!(RoomPattern::new("*").matches("anything"));
    }
}

//! Who asks for something that is neither Socket.IO nor live.

use std::net::IpAddr;

use hyper::HeaderMap;

use crate::http::cors::Origin;

/// Who asks: in the extensions of each request to an app's own HTTP.
#[derive(Debug, Clone)]
pub struct Visitor {
    pub(super) address: IpAddr,
    pub(super) origin: Origin,
}

impl Visitor {
    /// What limits count by: the client's address, of IPv6 the first of its /64. Behind a
    /// trusted proxy it is the one that the proxy names.
    pub fn address(&self) -> IpAddr {
        self.address
    }

    /// A page asks that is neither the server's own nor of an allowed origin.
    pub fn is_foreign(&self) -> bool {
        matches!(self.origin, Origin::Foreign(_) | Origin::Malformed)
    }

    /// Adds what a browser needs to show the response to its page, if the page may see it.
    pub fn allow(&self, headers: &mut HeaderMap) {
        self.origin.apply(headers);
    }

    /// Adds what a preflight request (`OPTIONS`, with these headers) is answered, on top of
    /// [`allow`](Self::allow).
    pub fn allow_preflight(&self, request: &HeaderMap, headers: &mut HeaderMap) {
        self.origin.apply_preflight(request, headers);
    }
}

//! What is read of a request's head: whether it names its host, and what its query says.

use std::borrow::Cow;

use hyper::header;
use hyper::{Request as HttpRequest, Version};

/// Whether a request names its host as it has to (RFC 9112 §3.2): once, but in HTTP/1.0.
pub(super) fn names_its_host<B>(request: &HttpRequest<B>) -> bool {
    let hosts = request.headers().get_all(header::HOST).iter().count();
    hosts == 1 || (hosts == 0 && request.version() != Version::HTTP_11)
}

/// The query of a request, without its `?`.
pub(super) struct Query<'a>(&'a str);

impl<'a> Query<'a> {
    pub(super) fn of<B>(request: &'a HttpRequest<B>) -> Query<'a> {
        Query(request.uri().query().unwrap_or_default())
    }

    /// The first value under a name.
    pub(super) fn get(&self, name: &str) -> Option<Cow<'a, str>> {
        form_urlencoded::parse(self.0.as_bytes())
            .find(|(key, _)| key == name)
            .map(|(_, value)| value)
    }
}

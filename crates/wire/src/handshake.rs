//! The HTTP request by which a connection began: its query, headers and cookies.
//!
//! A value is what the client sent, and proves nothing. Its size is bounded by what the HTTP
//! side reads of a request's head (16 KB).

use std::borrow::Cow;
use std::fmt;

/// A connection's first request.
///
/// ```
/// use heartline_wire::handshake::Handshake;
///
/// let handshake = Handshake {
///     query: "room=a%20b&EIO=4".into(),
///     headers: vec![("cookie".into(), "theme=dark; session=s1".into())],
///     at: 0,
/// };
/// assert_eq!(handshake.query("room").as_deref(), Some("a b"));
/// assert_eq!(handshake.cookie("session"), Some("s1"));
/// ```
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Handshake {
    /// The query as it came, without the question mark.
    pub query: String,
    /// Names in lower case and values, in the order in which they came; a header that came
    /// twice is there twice. Values that are no text are left out.
    pub headers: Vec<(String, String)>,
    /// When it came, Unix milliseconds.
    pub at: u64,
}

/// A token without the scheme before it, which is written in any case (RFC 9110 §11.1): clients
/// that were written for headers put `Bearer ` before it elsewhere, too.
///
/// ```
/// use heartline_wire::handshake::without_scheme;
/// assert_eq!(without_scheme("bearer  t "), "t");
/// assert_eq!(without_scheme("Bearer"), "Bearer");
/// assert_eq!(without_scheme("Bearer "), "");
/// assert_eq!(without_scheme("t"), "t");
/// ```
#[must_use]
pub fn without_scheme(token: &str) -> &str {
    match token.split_once(' ') {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => token.trim(),
        _ => token,
    }
}

impl fmt::Debug for Handshake {
    /// Without values: tokens and cookies are among them.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self.headers.iter().map(|(name, _)| name.as_str()).collect();
        f.debug_struct("Handshake")
            .field("headers", &names)
            .finish_non_exhaustive()
    }
}

impl Handshake {
    /// All parameters of the query, decoded (WHATWG URL, `application/x-www-form-urlencoded`).
    pub fn parameters(&self) -> impl Iterator<Item = (Cow<'_, str>, Cow<'_, str>)> {
        form_urlencoded::parse(self.query.as_bytes())
    }

    /// The first parameter of this name.
    pub fn query(&self, name: &str) -> Option<Cow<'_, str>> {
        self.parameters()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value)
    }

    /// The first header of this name, whatever its case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(key, _)| key.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
    }

    /// The cookie of this name (RFC 6265 §4.2).
    pub fn cookie(&self, name: &str) -> Option<&str> {
        let headers = self.headers.iter();
        let cookies = headers.filter(|(key, _)| key == "cookie");
        cookie(cookies.map(|(_, value)| value.as_str()), name)
    }
}

/// The cookie of this name in the values of `Cookie` headers (RFC 6265 §4.2).
pub fn cookie<'a>(mut headers: impl Iterator<Item = &'a str>, name: &str) -> Option<&'a str> {
    headers.find_map(|value| {
        let mut pairs = value
            .split(';')
            .filter_map(|pair| pair.trim().split_once('='));
        let (_, value) = pairs.find(|(key, _)| *key == name)?;
        Some(value.trim_matches('"'))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cookies_of_several_headers_are_found_by_their_whole_name() {
        let handshake = Handshake {
            query: String::new(),
            headers: vec![
                ("cookie".into(), "a=1; session=\"x=y\"".into()),
                ("cookie".into(), "b=2".into()),
            ],
            at: 0,
        };
        assert_eq!(handshake.cookie("session"), Some("x=y"));
        assert_eq!(handshake.cookie("b"), Some("2"));
        assert_eq!(handshake.cookie("ession"), None);
    }

    #[test]
    fn values_stay_out_of_logs() {
        let handshake = Handshake {
            query: "token=secret".into(),
            headers: vec![("authorization".into(), "Bearer secret".into())],
            at: 0,
        };
        assert!(!format!("{handshake:?}").contains("secret"));
    }
}

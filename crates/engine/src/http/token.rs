//! The token that a connection's first request brings.

use heartline_wire::handshake::without_scheme;
use hyper::Request;
use hyper::header::{self, HeaderMap, HeaderValue};

use crate::http::cors::Origin;

/// Where a token is looked for besides the `Authorization` header.
#[derive(Debug, Clone, Default)]
pub struct TokenPlaces {
    /// The parameter of the query.
    pub query: Option<String>,
    /// The cookie. Browsers send cookies along with what foreign pages ask, too: so it counts
    /// only if the page is the server's own or allowed.
    pub cookie: Option<String>,
}

/// The bearer token of the header, else that of the query, else that of the cookie. An empty
/// one is none, as in Socket.IO's `auth`.
pub(crate) fn token<B>(
    request: &Request<B>,
    origin: &Origin,
    places: &TokenPlaces,
) -> Option<Box<str>> {
    let headers = request.headers();
    let bearer = headers
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok()?.split_once(' '))
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
        .map(|(_, token)| token.trim())
        .filter(|token| !token.is_empty());
    if let Some(token) = bearer {
        return Some(token.into());
    }
    let query = places.query.as_ref().and_then(|name| {
        let query = request.uri().query().unwrap_or_default();
        form_urlencoded::parse(query.as_bytes())
            .find(|(key, value)| key == name && !value.is_empty())
            .map(|(_, value)| without_scheme(&value).into())
    });
    query.or_else(|| {
        let name = places.cookie.as_ref()?;
        let cookies = headers.get_all(header::COOKIE).iter();
        let cookies = cookies.filter_map(|value: &HeaderValue| value.to_str().ok());
        let token = heartline_wire::handshake::cookie(cookies, name)?;
        (!token.is_empty() && is_of_a_known_page(headers, origin)).then(|| token.into())
    })
}

/// Whether no foreign page can have made a browser send this. Browsers leave `Origin` out of
/// a page's own GET requests; a foreign page's have none if it cannot read the answer, and
/// newer browsers say so in another header. A WebSocket of a browser always has one.
fn is_of_a_known_page(headers: &HeaderMap, origin: &Origin) -> bool {
    match origin {
        Origin::Allowed(_) => true,
        Origin::Foreign(_) | Origin::Malformed => false,
        Origin::Absent => headers
            .get("sec-fetch-site")
            .is_none_or(|site| site == "same-origin" || site == "none"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(origin: &Origin, uri: &str, headers: &[(&'static str, &str)]) -> Option<String> {
        let mut request = Request::new(());
        *request.uri_mut() = uri.parse().unwrap();
        for (name, value) in headers {
            request.headers_mut().append(*name, value.parse().unwrap());
        }
        let places = TokenPlaces {
            query: Some("token".into()),
            cookie: Some("session".into()),
        };
        token(&request, origin, &places).map(Into::into)
    }

    #[test]
    fn the_header_comes_before_the_query_and_that_before_the_cookie() {
        let header = ("authorization", "bearer  h ");
        let cookie = ("cookie", "a=1; session=c");
        let own = Origin::Absent;
        let at = |uri, headers: &[_]| found(&own, uri, headers);
        assert_eq!(at("/?token=q", &[cookie, header]).as_deref(), Some("h"));
        assert_eq!(at("/?token=q", &[cookie]).as_deref(), Some("q"));
        assert_eq!(at("/?token=Bearer+q", &[]).as_deref(), Some("q"));
        assert_eq!(at("/?token=bearer+q", &[]).as_deref(), Some("q"));
        assert_eq!(at("/?token=", &[cookie]).as_deref(), Some("c"));
        let empty = ("authorization", "Bearer ");
        assert_eq!(at("/?token=q", &[empty]).as_deref(), Some("q"));
        assert_eq!(at("/?tokens=q", &[("cookie", "session=")]), None);
    }

    #[test]
    fn a_cookie_counts_only_if_no_foreign_page_can_have_sent_it() {
        let cookie = ("cookie", "session=c");
        let by = |origin: &Origin, headers: &[_]| found(origin, "/", headers).is_some();
        assert!(by(
            &Origin::Allowed(HeaderValue::from_static("https://app.example")),
            &[cookie, ("sec-fetch-site", "cross-site")]
        ));
        assert!(!by(&Origin::Foreign(None), &[cookie]));
        assert!(!by(&Origin::Malformed, &[cookie]));
        for (site, believed) in [
            ("same-origin", true),
            ("none", true),
            ("same-site", false),
            ("cross-site", false),
        ] {
            let headers = [cookie, ("sec-fetch-site", site)];
            assert_eq!(by(&Origin::Absent, &headers), believed, "{site}");
        }
    }
}

//! Which browser origins may connect, and the headers that tell browsers so.

use hyper::header::{self, HeaderMap, HeaderValue};

use crate::http::remote::Scheme;

/// Which browser origins may connect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AllowedOrigins {
    /// Any origin.
    Any,
    /// The server's own origin and these, each `scheme://host[:port]`, compared as
    /// [`normalized`].
    List(Vec<String>),
}

impl Default for AllowedOrigins {
    fn default() -> Self {
        AllowedOrigins::List(Vec::new())
    }
}

impl AllowedOrigins {
    /// The list with each entry as browsers write it.
    pub(crate) fn normalized(self) -> Self {
        let entry = |origin: String| normalized(&origin).unwrap_or(origin);
        match self {
            AllowedOrigins::Any => AllowedOrigins::Any,
            AllowedOrigins::List(list) => {
                AllowedOrigins::List(list.into_iter().map(entry).collect())
            }
        }
    }
}

/// An origin as browsers write it: scheme and host in lower case, the scheme's own port left
/// out, no slash at the end. `None` for what is no origin: a path, a star, no scheme.
///
/// ```
/// use heartline_engine::http::cors::normalized;
/// let written = normalized("HTTPS://App.example:443/");
/// assert_eq!(written.as_deref(), Some("https://app.example"));
/// assert_eq!(normalized("https://app.example/chat"), None);
/// ```
pub fn normalized(origin: &str) -> Option<String> {
    let origin = origin.trim();
    if origin.eq_ignore_ascii_case("null") {
        return Some("null".into());
    }
    let (scheme, authority) = origin.split_once("://")?;
    let scheme = scheme.to_ascii_lowercase();
    let is_scheme = |c: char| c.is_ascii_alphanumeric() || "+-.".contains(c);
    if !scheme.starts_with(|c: char| c.is_ascii_alphabetic()) || !scheme.chars().all(is_scheme) {
        return None;
    }
    let authority = authority.strip_suffix('/').unwrap_or(authority);
    let (host, port) = match authority.strip_prefix('[') {
        Some(v6) => {
            let (v6, port) = v6.split_once(']')?;
            let v6 = v6.parse::<std::net::Ipv6Addr>().ok()?;
            (format!("[{v6}]"), port)
        }
        None => {
            let colon = authority.find(':').unwrap_or(authority.len());
            let (host, port) = authority.split_at(colon);
            (host.to_ascii_lowercase(), port)
        }
    };
    let no_host = |c: char| c.is_whitespace() || c.is_control() || "/?#@*\\,\"".contains(c);
    if host.is_empty() || host.contains(no_host) {
        return None;
    }
    let default_port = match &*scheme {
        "http" => Some(80),
        "https" => Some(443),
        _ => None,
    };
    let port = match port.strip_prefix(':') {
        None if port.is_empty() => None,
        Some("") => None,
        Some(digits) if digits.bytes().all(|digit| digit.is_ascii_digit()) => {
            digits.parse::<u16>().map(Some).ok()?
        }
        _ => return None,
    };
    Some(match port.filter(|port| Some(*port) != default_port) {
        Some(port) => format!("{scheme}://{host}:{port}"),
        None => format!("{scheme}://{host}"),
    })
}

/// What a request's `Origin` header comes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Origin {
    /// There is none: no browser, or a same-origin GET.
    Absent,
    /// Allowed; the headers name it.
    Allowed(HeaderValue),
    /// A foreign page, and what it would have to be called in the list.
    Foreign(Option<String>),
    /// No origin at all, by its characters.
    Malformed,
}

/// Judges the `Origin` header. `allowed` is normalized, `scheme` the one by which the server
/// was reached, if that is known.
pub(crate) fn judge(
    headers: &HeaderMap,
    allowed: &AllowedOrigins,
    scheme: Option<Scheme>,
) -> Origin {
    let Some(value) = headers.get(header::ORIGIN) else {
        return Origin::Absent;
    };
    let Ok(text) = value.to_str() else {
        return Origin::Malformed;
    };
    let AllowedOrigins::List(list) = allowed else {
        return Origin::Allowed(value.clone());
    };
    let origin = normalized(text);
    let fits = origin
        .as_ref()
        .is_some_and(|origin| list.contains(origin) || is_own(origin, headers, scheme));
    match fits {
        true => Origin::Allowed(value.clone()),
        false => Origin::Foreign(origin),
    }
}

/// Whether the page came from the host that the request goes to. Where the scheme is not
/// known, either is the own one.
fn is_own(origin: &str, headers: &HeaderMap, known: Option<Scheme>) -> bool {
    let host = headers.get(header::HOST);
    let Some(host) = host.and_then(|host| host.to_str().ok()) else {
        return false;
    };
    [Scheme::Http, Scheme::Https]
        .into_iter()
        .filter(|scheme| known.is_none_or(|known| known == *scheme))
        .map(Scheme::as_str)
        .filter(|scheme| {
            origin
                .strip_prefix(scheme)
                .is_some_and(|rest| rest.starts_with(':'))
        })
        .any(|scheme| normalized(&format!("{scheme}://{host}")).as_deref() == Some(origin))
}

impl Origin {
    /// Adds what a browser needs to let its page see the response, errors included.
    pub(crate) fn apply(&self, headers: &mut HeaderMap) {
        if let Origin::Allowed(origin) = self {
            headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
            headers.insert(
                header::ACCESS_CONTROL_ALLOW_CREDENTIALS,
                HeaderValue::from_static("true"),
            );
            headers.append(header::VARY, HeaderValue::from_static("Origin"));
        }
    }

    /// The answer to a preflight request, on top of [`apply`](Self::apply).
    pub(crate) fn apply_preflight(&self, request: &HeaderMap, headers: &mut HeaderMap) {
        if let Origin::Allowed(_) = self {
            headers.insert(
                header::ACCESS_CONTROL_ALLOW_METHODS,
                HeaderValue::from_static("GET,HEAD,PUT,PATCH,POST,DELETE"),
            );
            if let Some(wanted) = request.get(header::ACCESS_CONTROL_REQUEST_HEADERS) {
                headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, wanted.clone());
                headers.append(
                    header::VARY,
                    HeaderValue::from_static("Access-Control-Request-Headers"),
                );
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged_by(
        origin: &str,
        host: &str,
        allowed: &AllowedOrigins,
        known: Option<Scheme>,
    ) -> bool {
        let mut headers = HeaderMap::new();
        headers.insert(header::ORIGIN, origin.parse().unwrap());
        headers.insert(header::HOST, host.parse().unwrap());
        let allowed = allowed.clone().normalized();
        matches!(judge(&headers, &allowed, known), Origin::Allowed(_))
    }

    fn judged(origin: &str, host: &str, allowed: &AllowedOrigins) -> bool {
        judged_by(origin, host, allowed, None)
    }

    #[test]
    fn the_own_origin_is_allowed_and_no_other() {
        let own = AllowedOrigins::default();
        assert!(judged("https://app.example", "app.example", &own));
        assert!(judged("http://app.example:80", "app.example", &own));
        assert!(judged("http://localhost:8080", "localhost:8080", &own));
        assert!(judged("https://app.example", "APP.example:443", &own));
        assert!(judged("http://[::1]:8080", "[0:0::1]:8080", &own));
        assert!(!judged("http://app.example:8080", "app.example", &own));
        assert!(!judged("https://app.example", "app.example:80", &own));
        assert!(!judged("https://evil.example", "app.example", &own));
        assert!(!judged("ftp://app.example", "app.example", &own));
        assert!(!judged("null", "app.example", &own));
    }

    #[test]
    fn the_own_origin_has_the_scheme_that_the_server_was_reached_by() {
        let own = AllowedOrigins::default();
        let by = |origin, known| judged_by(origin, "app.example", &own, Some(known));
        assert!(by("https://app.example", Scheme::Https));
        assert!(!by("http://app.example", Scheme::Https));
        assert!(by("http://app.example", Scheme::Http));
        assert!(!by("https://app.example", Scheme::Http));
    }

    #[test]
    fn a_list_adds_to_it() {
        let list = AllowedOrigins::List(vec!["https://web.example".into()]);
        assert!(judged("https://web.example", "api.example", &list));
        assert!(!judged("https://web.example.evil", "api.example", &list));
        assert!(judged("null", "x", &AllowedOrigins::Any));
    }

    #[test]
    fn entries_of_the_list_may_be_written_in_more_than_one_way() {
        for written in [
            "https://web.example/",
            "https://web.example:443",
            "HTTPS://Web.Example:0443/",
            " https://web.example ",
        ] {
            let list = AllowedOrigins::List(vec![written.into()]);
            assert!(
                judged("https://web.example", "api.example", &list),
                "{written}"
            );
            assert!(
                !judged("http://web.example", "api.example", &list),
                "{written}"
            );
            assert!(!judged("https://web.example:444", "api.example", &list));
        }
        let list = AllowedOrigins::List(vec!["null".into(), "capacitor://localhost".into()]);
        assert!(judged("null", "x", &list) && judged("capacitor://localhost", "x", &list));
    }

    #[test]
    fn what_is_no_origin_has_no_normal_form() {
        for written in [
            "app.example",
            "https://",
            "https://app.example/chat",
            "https://*.app.example",
            "https://app.example:port",
            "https://app.example:99999",
            "https://me@app.example",
            "https://a.example,https://b.example",
            "*",
            "",
        ] {
            assert_eq!(normalized(written), None, "{written}");
        }
    }
}

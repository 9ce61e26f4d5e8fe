//! Which browser origins may connect, and the headers that tell browsers so.

use hyper::header::{self, HeaderMap, HeaderValue};

/// Which browser origins may connect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AllowedOrigins {
    /// Any origin.
    Any,
    /// The server's own origin and these, each `scheme://host[:port]`.
    List(Vec<String>),
}

impl Default for AllowedOrigins {
    fn default() -> Self {
        AllowedOrigins::List(Vec::new())
    }
}

/// What a request's `Origin` header comes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Origin {
    /// There is none: no browser, or a same-origin GET.
    Absent,
    /// Allowed; the headers name it.
    Allowed(HeaderValue),
    /// A foreign page.
    Foreign,
    /// No origin at all, by its characters.
    Malformed,
}

/// Judges the `Origin` header.
pub(crate) fn judge(headers: &HeaderMap, allowed: &AllowedOrigins) -> Origin {
    let Some(value) = headers.get(header::ORIGIN) else {
        return Origin::Absent;
    };
    let Ok(origin) = value.to_str() else {
        return Origin::Malformed;
    };
    let fits = match allowed {
        AllowedOrigins::Any => true,
        AllowedOrigins::List(list) => {
            list.iter().any(|one| one.eq_ignore_ascii_case(origin)) || is_own(origin, headers)
        }
    };
    if fits {
        Origin::Allowed(value.clone())
    } else {
        Origin::Foreign
    }
}

/// Whether the page came from the host that the request goes to.
fn is_own(origin: &str, headers: &HeaderMap) -> bool {
    let Some(host) = headers
        .get(header::HOST)
        .and_then(|host| host.to_str().ok())
    else {
        return false;
    };
    let Some((scheme, authority)) = origin.split_once("://") else {
        return false;
    };
    let default_port = match scheme {
        "http" => ":80",
        "https" => ":443",
        _ => return false,
    };
    let bare = |name: &str| {
        name.strip_suffix(default_port)
            .unwrap_or(name)
            .to_ascii_lowercase()
    };
    bare(authority) == bare(host)
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

    fn judged(origin: &str, host: &str, allowed: &AllowedOrigins) -> bool {
        let mut headers = HeaderMap::new();
        headers.insert(header::ORIGIN, origin.parse().unwrap());
        headers.insert(header::HOST, host.parse().unwrap());
        matches!(judge(&headers, allowed), Origin::Allowed(_))
    }

    #[test]
    fn the_own_origin_is_allowed_and_no_other() {
        let own = AllowedOrigins::default();
        assert!(judged("https://app.example", "app.example", &own));
        assert!(judged("http://app.example:80", "app.example", &own));
        assert!(judged("http://localhost:8080", "localhost:8080", &own));
        assert!(!judged("http://app.example:8080", "app.example", &own));
        assert!(!judged("https://evil.example", "app.example", &own));
        assert!(!judged("null", "app.example", &own));
    }

    #[test]
    fn a_list_adds_to_it() {
        let list = AllowedOrigins::List(vec!["https://web.example".into()]);
        assert!(judged("https://web.example", "api.example", &list));
        assert!(!judged("https://web.example.evil", "api.example", &list));
        assert!(judged("null", "x", &AllowedOrigins::Any));
    }
}

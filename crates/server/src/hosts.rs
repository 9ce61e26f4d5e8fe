//! Which names are this machine's, and whether a request was sent to one of them.
//!
//! A browser on this machine can be made to ask what listens here only: by a page from
//! elsewhere, or under a name that was pointed at this machine (DNS rebinding). The headers
//! `Host` and `Origin` tell.

use std::net::IpAddr;

use axum::http::HeaderMap;
use axum::http::header::{HOST, HeaderName, ORIGIN};

/// Whether an address, with its port or without, is one that only this machine can reach.
pub(crate) fn is_loopback(address: &str) -> bool {
    let is_own = |host: &str| {
        let host = host
            .strip_prefix('[')
            .map_or(host, |host| host.trim_end_matches(']'));
        let ip = host.parse::<IpAddr>();
        host.eq_ignore_ascii_case("localhost") || ip.is_ok_and(|ip| ip.is_loopback())
    };
    is_own(address)
        || address
            .rsplit_once(':')
            .is_some_and(|(host, _)| is_own(host))
}

/// Whether no page from elsewhere, and under no foreign name, can have sent this request. What
/// is not ASCII is a foreign name too. Only a browser is sure to send the headers.
pub(crate) fn is_local_request(headers: &HeaderMap) -> bool {
    let all = |name: HeaderName, is_local: fn(&str) -> bool| {
        let mut values = headers.get_all(name).iter();
        values.all(|value| value.to_str().is_ok_and(is_local))
    };
    all(HOST, is_loopback)
        && all(ORIGIN, |origin| {
            let host = origin.split_once("://");
            host.is_some_and(|(_, host)| is_loopback(host))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(name: HeaderName, value: &[u8]) -> bool {
        let mut headers = HeaderMap::new();
        headers.insert(name, value.try_into().unwrap());
        is_local_request(&headers)
    }

    #[test]
    fn a_name_that_was_pointed_at_this_machine_is_not_its_own() {
        for own in [
            "localhost",
            "LOCALHOST:9090",
            "127.0.0.1",
            "127.9.9.9:1",
            "[::1]:80",
            "::1",
        ] {
            assert!(asked(HOST, own.as_bytes()), "{own}");
        }
        for foreign in [
            &b"evil.example"[..],
            b"evil.example:9090",
            b"127.0.0.1.evil.example",
            b"10.0.0.1",
            b"0.0.0.0",
            b"localhost.evil.example",
            b"",
            b"\xff",
            "l\u{f6}calhost".as_bytes(),
        ] {
            assert!(!asked(HOST, foreign), "{foreign:?}");
        }
        assert!(is_local_request(&HeaderMap::new()));
        let mut two = HeaderMap::new();
        two.append(HOST, "localhost".parse().unwrap());
        two.append(HOST, "evil.example".parse().unwrap());
        assert!(!is_local_request(&two));
    }

    #[test]
    fn a_page_from_elsewhere_is_not_local() {
        assert!(asked(ORIGIN, b"http://localhost:8080"));
        for foreign in [&b"https://evil.example"[..], b"null", b"\xff://localhost"] {
            assert!(!asked(ORIGIN, foreign), "{foreign:?}");
        }
    }
}

//! Places as people write them: origins, paths, and addresses to listen on.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use super::value::Wrong;

/// An origin as browsers write it: lower case, without a default port or a slash.
pub(super) fn origin(given: &str) -> Result<String, Wrong> {
    if given == "*" {
        return Ok(given.to_owned());
    }
    let wrong = |why: String| Err(format!("holds {given:?}: {why}"));
    let Some((scheme, rest)) = given.split_once("://") else {
        let host = given.trim_matches('/');
        let host = if host.is_empty() || host == "null" {
            "app.example"
        } else {
            host
        };
        return wrong(format!("an origin has a scheme, like \"https://{host}\""));
    };
    let scheme = scheme.to_ascii_lowercase();
    let fits = |c: char| c.is_ascii_alphanumeric() || "+-.".contains(c);
    if !scheme.starts_with(|c: char| c.is_ascii_alphabetic()) || !scheme.chars().all(fits) {
        return wrong("an origin begins like \"https://\"".into());
    }
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    if scheme == "ws" || scheme == "wss" {
        let page = scheme.replace("ws", "http");
        return wrong(format!(
            "an origin is where a page comes from, also for WebSockets: \"{page}://{authority}\""
        ));
    }
    if !["", "/"].contains(&&rest[authority.len()..]) {
        return wrong(format!(
            "an origin has no path; write \"{scheme}://{authority}\""
        ));
    }
    if authority.contains('*') {
        return wrong(
            "a part of a name cannot be a star; list every origin, like \"https://app.example\", \
             or allow all with [\"*\"]"
                .into(),
        );
    }
    let (host, port) = split_port(authority);
    if !host.is_ascii() {
        return wrong("browsers write this name in ASCII, as \"https://xn--….example\"".into());
    }
    let is_v6 = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'));
    let is_v6 = is_v6.is_some_and(|host| host.parse::<Ipv6Addr>().is_ok());
    if host.is_empty() || !(is_v6 || is_name(host)) {
        return wrong(
            "an origin has a scheme, a host and no more, like \"https://app.example\"".into(),
        );
    }
    let port = match port {
        None | Some("") => None,
        Some(port) => match port.parse::<u16>() {
            Ok(port) => Some(port),
            Err(_) => return wrong(format!("{port:?} is no port between 0 and 65535")),
        },
    };
    let host = host.to_ascii_lowercase();
    Ok(match (scheme.as_str(), port) {
        (_, None) | ("http", Some(80)) | ("https", Some(443)) => format!("{scheme}://{host}"),
        (_, Some(port)) => format!("{scheme}://{host}:{port}"),
    })
}

/// Host and port of an authority; the colons of an IPv6 address in brackets are its own.
fn split_port(authority: &str) -> (&str, Option<&str>) {
    match authority.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, Some(port)),
        _ => (authority, None),
    }
}

fn is_name(host: &str) -> bool {
    let fits = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
    !host.is_empty() && host.chars().all(fits)
}

/// Longest path, bytes: clients and proxies have to bring it with each request.
const MAX_PATH: usize = 256;

/// A path with a slash before it.
pub(super) fn path(given: &str, like: &str) -> Result<String, Wrong> {
    let path = match given.starts_with('/') {
        true => given.to_owned(),
        false => format!("/{given}"),
    };
    let fits = |c: char| c.is_ascii_graphic() && !"?#\"<>\\^`{|}%[]".contains(c);
    // Browsers take dots between slashes out before they ask.
    let is_plain = !path.split('/').any(|part| part == "." || part == "..");
    let is_word = ["off", "false", "none", "on", "true"].contains(&given);
    if path.len() > MAX_PATH {
        return Err(format!(
            "must be a path of at most {MAX_PATH} bytes, like {like:?}"
        ));
    }
    match path.len() > 1 && is_plain && !is_word && !path.contains("//") && path.chars().all(fits) {
        true => Ok(path),
        false => Err(format!("must be a path like {like:?}, not {given:?}")),
    }
}

/// An address that can be listened on, or connected to: a host and a port.
pub(super) fn address(given: &str) -> Result<(), Wrong> {
    if given.parse::<SocketAddr>().is_ok() {
        return Ok(());
    }
    let wrong = |why: String| {
        let like = "an address and a port like \"127.0.0.1:8080\"";
        Err(format!("must be {like}, not {given:?}{why}"))
    };
    if given.parse::<IpAddr>().is_ok_and(|ip| ip.is_ipv6()) {
        return wrong(format!(": write \"[{given}]:8080\""));
    }
    let (host, Some(port)) = split_port(given) else {
        return wrong(match given.parse::<u16>() {
            Ok(port) => {
                format!(": write \"127.0.0.1:{port}\", or \"0.0.0.0:{port}\" for all addresses")
            }
            Err(_) => String::new(),
        });
    };
    let number = !port.is_empty() && port.chars().all(|c| c.is_ascii_digit());
    if number && port.parse::<u16>().is_err() {
        return wrong(": ports end at 65535".into());
    }
    if (host.is_empty() || host == "*") && number {
        return wrong(format!(
            ": write \"127.0.0.1:{port}\", or \"0.0.0.0:{port}\" for all addresses"
        ));
    }
    // A name of digits and dots is an address with a mistake.
    let all_digits = host.chars().all(|c| c.is_ascii_digit() || c == '.');
    match number && is_name(host) && !all_digits {
        true => Ok(()),
        false => wrong(String::new()),
    }
}

/// Whether an address means one place to those who are told it.
pub(super) fn is_reachable(address: &str) -> bool {
    let all = address
        .parse::<SocketAddr>()
        .is_ok_and(|at| at.ip().is_unspecified());
    !all && !address.ends_with(":0")
}

/// Whether two listeners cannot both have what they ask for.
pub(super) fn collide(one: &str, other: &str) -> bool {
    let local = |address: &str| match address.strip_prefix("localhost:") {
        Some(port) => format!("127.0.0.1:{port}"),
        None => address.to_owned(),
    };
    let (one, other) = (&*local(one), &*local(other));
    let (Ok(one), Ok(other)) = (one.parse::<SocketAddr>(), other.parse::<SocketAddr>()) else {
        return one == other && !one.ends_with(":0");
    };
    let everywhere = one.ip().is_unspecified() || other.ip().is_unspecified();
    one.port() == other.port() && one.port() != 0 && (one.ip() == other.ip() || everywhere)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_is_kept_as_browsers_write_it() {
        for (given, kept) in [
            ("https://app.example/", "https://app.example"),
            ("https://app.example:443", "https://app.example"),
            ("http://app.example:80/", "http://app.example"),
            ("HTTPS://App.Example", "https://app.example"),
            ("https://app.example:", "https://app.example"),
            ("https://app.example:8443", "https://app.example:8443"),
            ("https://app.example:08443", "https://app.example:8443"),
            ("http://app.example:443", "http://app.example:443"),
            ("http://[::1]:3000", "http://[::1]:3000"),
            ("http://localhost:5173", "http://localhost:5173"),
            ("capacitor://localhost", "capacitor://localhost"),
            ("*", "*"),
        ] {
            assert_eq!(origin(given).as_deref(), Ok(kept));
        }
    }

    #[test]
    fn what_no_browser_can_send_is_refused_with_the_right_form() {
        for (given, form) in [
            ("https://app.example/chat", "\"https://app.example\""),
            ("https://app.example?x", "\"https://app.example\""),
            ("https://*.app.example", "[\"*\"]"),
            ("https://*", "[\"*\"]"),
            ("*.app.example", "\"https://*.app.example\""),
            ("app.example", "\"https://app.example\""),
            ("app.example:8080", "\"https://app.example:8080\""),
            ("", "\"https://app.example\""),
            ("null", "\"https://app.example\""),
            ("wss://app.example", "\"https://app.example\""),
            ("https://", "\"https://app.example\""),
            ("file:///", "\"https://app.example\""),
            ("https://me@app.example", "\"https://app.example\""),
            ("https://app.example:99999", "65535"),
            ("https://b\u{fc}cher.example", "xn--"),
            ("https://app .example", "\"https://app.example\""),
        ] {
            let wrong = origin(given).expect_err(given);
            assert!(wrong.contains(form), "{given}: {wrong}");
        }
    }

    #[test]
    fn paths_get_the_slash_they_need() {
        assert_eq!(path("socket.io/", "/x/").as_deref(), Ok("/socket.io/"));
        for wrong in [
            "", "/", "//", "/a//b", "/a?b", "/a b", "/\u{e4}", "/%41", "/a/../b", "/./", "off",
            "true", "[]", "/[a]/",
        ] {
            assert!(path(wrong, "/live").is_err(), "{wrong}");
        }
        let long = "x".repeat(MAX_PATH);
        assert!(path(&long[1..], "/live").is_ok());
        assert!(path(&long, "/live").unwrap_err().contains("256 bytes"));
    }

    #[test]
    fn addresses_have_a_host_and_a_port() {
        for good in [
            "127.0.0.1:0",
            "[::]:80",
            "localhost:8080",
            "a-b.example:65535",
        ] {
            assert_eq!(address(good), Ok(()), "{good}");
        }
        for wrong in [
            "127.0.0.1:99999",
            "127.0.0.1",
            "8080",
            ":8080",
            "::1",
            "[::1]",
            "localhost:",
            "x:http",
            "1.2.3:80",
            "256.0.0.1:80",
            "http://x:80",
            "a b:80",
            "127.0.0.1:-1",
            "127.0.0.1:+1",
            "",
        ] {
            assert!(address(wrong).is_err(), "{wrong}");
        }
        assert!(collide("0.0.0.0:80", "127.0.0.1:80") && collide("a:1", "a:1"));
        assert!(collide("localhost:80", "127.0.0.1:80") && collide("0.0.0.0:80", "localhost:80"));
        assert!(is_reachable("10.0.0.7:7000") && is_reachable("node-1:7000"));
        for nowhere in ["0.0.0.0:7000", "[::]:7000", "node-1:0"] {
            assert!(!is_reachable(nowhere), "{nowhere}");
        }
        assert!(!collide("127.0.0.1:0", "127.0.0.1:0") && !collide("127.0.0.1:1", "127.0.0.2:1"));
    }
}

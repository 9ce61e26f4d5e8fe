//! Whose request it is, when proxies stand in between.

use std::net::{IpAddr, Ipv4Addr};

use hyper::HeaderMap;
use ipnet::IpNet;

/// The scheme that a client's browser used, as far as it is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scheme {
    Http,
    Https,
}

impl Scheme {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Scheme::Http => "http",
            Scheme::Https => "https",
        }
    }
}

fn is_trusted(ip: IpAddr, trusted: &[IpNet]) -> bool {
    trusted.iter().any(|net| net.contains(&ip))
}

/// The client's address: the peer's own, or, if the peer is a trusted proxy,
/// the last address in `X-Forwarded-For` that no trusted proxy has.
///
/// An entry is an address with or without a port, an IPv6 one in brackets then; quotes and
/// blanks do not count. The walk ends at what is none of that: what stands before it may
/// be anybody's invention. `Forwarded` (RFC 7239) is not read: a proxy that writes one of
/// the two lets the other through as its client sent it.
pub(crate) fn client_address(peer: IpAddr, headers: &HeaderMap, trusted: &[IpNet]) -> IpAddr {
    let mut client = peer.to_canonical();
    let lines = headers.get_all("x-forwarded-for").iter().rev();
    for line in lines {
        // Whatever a client has put before it, the proxy's own part can be read.
        let line = String::from_utf8_lossy(line.as_bytes());
        for hop in line.rsplit(',').map(str::trim) {
            if !is_trusted(client, trusted) {
                return client;
            }
            // An empty element of a list is none (RFC 9110 §5.6.1).
            if hop.is_empty() {
                continue;
            }
            let Some(ip) = parse_hop(hop) else {
                return client;
            };
            client = ip.to_canonical();
        }
    }
    client
}

fn parse_hop(hop: &str) -> Option<IpAddr> {
    let hop = hop.trim_matches(|c: char| c == '"' || c.is_whitespace());
    let is_port = |port: &str| port.parse::<u16>().is_ok();
    if let Some(bracketed) = hop.strip_prefix('[') {
        let (address, port) = bracketed.split_once(']')?;
        let fits = port.is_empty() || port.strip_prefix(':').is_some_and(is_port);
        return address.parse().ok().filter(|_| fits);
    }
    if let Some((address, port)) = hop.rsplit_once(':') {
        if let Ok(v4) = address.parse::<Ipv4Addr>() {
            return is_port(port).then_some(v4.into());
        }
    }
    hop.parse().ok()
}

/// The scheme of the page's own server: by TLS here, or by the `X-Forwarded-Proto` of a
/// trusted proxy. Without either it is not known: whatever stands in front may speak TLS.
pub(crate) fn client_scheme(
    peer: IpAddr,
    tls: bool,
    headers: &HeaderMap,
    trusted: &[IpNet],
) -> Option<Scheme> {
    if !is_trusted(peer.to_canonical(), trusted) {
        return tls.then_some(Scheme::Https);
    }
    // Of several proxies, the first one met the browser.
    let told = headers.get("x-forwarded-proto")?.to_str().ok()?;
    match told.split(',').next()?.trim() {
        told if told.eq_ignore_ascii_case("https") => Some(Scheme::Https),
        told if told.eq_ignore_ascii_case("http") => Some(Scheme::Http),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(peer: &str, forwarded: &str) -> String {
        let mut headers = HeaderMap::new();
        headers.insert("x-forwarded-for", forwarded.parse().unwrap());
        let trusted = ["10.0.0.0/8".parse().unwrap()];
        client_address(peer.parse().unwrap(), &headers, &trusted).to_string()
    }

    #[test]
    fn only_trusted_proxies_are_believed() {
        assert_eq!(client("192.0.2.1", "198.51.100.7"), "192.0.2.1");
        assert_eq!(client("10.0.0.1", "198.51.100.7"), "198.51.100.7");
        assert_eq!(
            client("10.0.0.1", "1.2.3.4, 198.51.100.7, 10.0.0.9"),
            "198.51.100.7"
        );
        assert_eq!(client("10.0.0.1", "nonsense"), "10.0.0.1");
        assert_eq!(client("::ffff:10.0.0.1", "2001:db8::1"), "2001:db8::1");
    }

    #[test]
    fn an_entry_may_have_a_port_brackets_quotes_and_blanks() {
        for (forwarded, is) in [
            ("203.0.113.7:51234", "203.0.113.7"),
            ("[2001:db8::1]:443", "2001:db8::1"),
            ("[2001:db8::1]", "2001:db8::1"),
            ("\"[2001:db8::1]:443\"", "2001:db8::1"),
            ("\"203.0.113.7\"", "203.0.113.7"),
            ("  203.0.113.7 \t", "203.0.113.7"),
            ("[::ffff:203.0.113.7]:1", "203.0.113.7"),
            ("2001:db8::1", "2001:db8::1"),
            ("203.0.113.7:51234, 10.0.0.9:80", "203.0.113.7"),
            ("203.0.113.7,, ,", "203.0.113.7"),
        ] {
            assert_eq!(client("10.0.0.1", forwarded), is, "{forwarded}");
        }
    }

    #[test]
    fn what_is_no_address_ends_the_walk() {
        for forwarded in [
            "203.0.113.7, unknown",
            "203.0.113.7, 10.0.0.2:port",
            "203.0.113.7, 10.0.0.2:99999",
            "203.0.113.7, [2001:db8::1",
            "203.0.113.7, [2001:db8::1]x",
            "203.0.113.7, _hidden",
            "203.0.113.7, 10.0.0",
        ] {
            assert_eq!(client("10.0.0.1", forwarded), "10.0.0.1", "{forwarded}");
        }
    }

    #[test]
    fn a_client_cannot_hide_behind_its_own_header() {
        let trusted = ["10.0.0.0/8".parse().unwrap()];
        let client = |lines: &[&[u8]]| {
            let mut headers = HeaderMap::new();
            for line in lines {
                let line = hyper::header::HeaderValue::from_bytes(line).unwrap();
                headers.append("x-forwarded-for", line);
            }
            client_address("10.0.0.1".parse().unwrap(), &headers, &trusted).to_string()
        };
        assert_eq!(client(&[b"\xff, 203.0.113.7"]), "203.0.113.7");
        assert_eq!(client(&[b"192.0.2.1", b"203.0.113.7"]), "203.0.113.7");
        assert_eq!(client(&[b"\xff", b"203.0.113.7"]), "203.0.113.7");
    }

    #[test]
    fn the_scheme_is_known_by_tls_or_from_a_trusted_proxy() {
        let trusted = ["10.0.0.0/8".parse().unwrap()];
        let scheme = |peer: &str, tls, told: &str| {
            let mut headers = HeaderMap::new();
            headers.insert("x-forwarded-proto", told.parse().unwrap());
            client_scheme(peer.parse().unwrap(), tls, &headers, &trusted)
        };
        assert_eq!(scheme("10.0.0.1", false, "HTTPS"), Some(Scheme::Https));
        assert_eq!(scheme("10.0.0.1", true, "http, https"), Some(Scheme::Http));
        assert_eq!(scheme("10.0.0.1", true, "gopher"), None);
        assert_eq!(scheme("192.0.2.1", false, "https"), None);
        assert_eq!(scheme("192.0.2.1", true, "http"), Some(Scheme::Https));
    }
}

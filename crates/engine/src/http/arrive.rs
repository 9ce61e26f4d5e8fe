//! What the shards ask HTTP about newcomers: who may come in, and whether a request is one for
//! a new WebSocket and nothing else. What is, begins without HTTP; for all the rest, whatever
//! is wrong with it included, the answers are [HTTP's](super::route).

use std::io;
use std::net::IpAddr;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use hyper::Request as HttpRequest;
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use tokio::net::TcpListener;
use tokio::sync::oneshot;

use crate::http::accept::Inside;
use crate::http::cors::Origin;
use crate::http::front::{Asker, HttpFront, Sender};
use crate::http::head::names_its_host;
use crate::http::remote::client_address;
use crate::http::upgrade::{PLAIN, agree, wants_upgrade};
use crate::shard::ShardMessage;
use crate::shard::listener::Listener;
use crate::shard::newcomers::{Arrival, Caller, Doorman, Listening, Opening};
use crate::shard::request::Protocol;
use crate::slots::address_group;

/// Most headers of a request that is read here; who sends more has HTTP's bound.
const HEADERS: usize = 64;
/// How long is waited for the shards to close a listener: far longer than a turn.
const CLOSING: Duration = Duration::from_secs(1);

impl<Op: Send + 'static> HttpFront<Op> {
    /// Has the shards accept connections until `drained`.
    pub(super) async fn accept_by_shards(
        self: &Arc<Self>,
        listener: TcpListener,
        drained: impl Future<Output = ()>,
    ) -> io::Result<()> {
        let listener = listener.into_std()?;
        let id = self.listeners.fetch_add(1, Ordering::Relaxed);
        let listening = Guard { front: self, id };
        for shard in &self.parts.shards {
            shard.0.push(ShardMessage::Listen(Listening {
                id,
                listener: Listener::new(mio::net::TcpListener::from_std(listener.try_clone()?)),
                doorman: self.clone(),
            }));
        }
        drop(listener);
        drained.await;
        let closed = listening.end();
        // Whoever has waited for this may want to listen there.
        let _ = tokio::time::timeout(CLOSING, async {
            for shard in closed {
                let _ = shard.await;
            }
        })
        .await;
        Ok(())
    }
}

/// Shards listen for as long as it is there.
struct Guard<'a, Op> {
    front: &'a HttpFront<Op>,
    id: usize,
}

impl<Op> Guard<'_, Op> {
    /// Has them stop; each receiver ends when a shard has.
    fn end(self) -> Vec<oneshot::Receiver<()>> {
        let closed = self.stop();
        std::mem::forget(self);
        closed
    }

    fn stop(&self) -> Vec<oneshot::Receiver<()>> {
        let shards = self.front.parts.shards.iter();
        let closing = shards.map(|shard| {
            let (closed, is_closed) = oneshot::channel();
            shard.0.push(ShardMessage::ListenNoMore(self.id, closed));
            is_closed
        });
        closing.collect()
    }
}

impl<Op> Drop for Guard<'_, Op> {
    fn drop(&mut self) {
        self.stop();
    }
}

impl<Op: Send + 'static> Doorman for HttpFront<Op> {
    fn enter(&self, tcp: &mio::net::TcpStream, peer: IpAddr) -> Option<Inside> {
        self.let_in(tcp.as_raw_fd(), peer)
    }

    fn hand_on(&self, arrival: Arrival, shard: u16, connections: usize) -> Option<Arrival> {
        let others = self.parts.shards.iter().enumerate();
        let others = others.filter(|(number, _)| *number != usize::from(shard));
        match others
            .map(|(_, other)| other)
            .min_by_key(|other| other.connections())
        {
            Some(least) if has_clearly_more(connections, least.connections()) => {
                least.hand_on(arrival);
                None
            }
            _ => Some(arrival),
        }
    }

    fn open(&self, read: &[u8], peer: IpAddr) -> Option<Opening> {
        if self.parts.gatekeeper.is_some() || *self.parts.draining.borrow() {
            return None;
        }
        let (request, head) = parse(read)?;
        let sender = Sender {
            ip: peer,
            is_node: false,
            tls: PLAIN.tls,
            take: PLAIN,
        };
        let path = request.uri().path();
        let (protocol, base64) = if path == self.settings.engineio_path {
            (Protocol::EngineIo, begins_session(&request)?)
        } else if self.settings.live_path.as_deref() == Some(path) {
            (Protocol::Plain, false)
        } else {
            return None;
        };
        let origin = self.judge(request.headers(), sender);
        let is_welcome = matches!(origin, Origin::Absent | Origin::Allowed(_));
        if !is_welcome || !wants_upgrade(&request) {
            return None;
        }
        let agreed = agree(&request, self.settings.compression).ok()?;
        let client = client_address(peer, request.headers(), &self.settings.trusted_proxies);
        let guard = self.parts.slots.take(client).ok()?;
        let limiter = self.parts.connect_limiter.as_ref();
        if limiter.is_some_and(|limiter| limiter(address_group(client), Asker::Shard).is_err()) {
            return None;
        }
        let mut besides = HeaderMap::new();
        if protocol == Protocol::EngineIo {
            origin.apply(&mut besides);
        }
        Some(Opening {
            protocol,
            base64,
            preface: agreed.response(&besides),
            deflate: agreed.deflate(),
            handshake: self.handshake(&request, &origin),
            guard,
            head,
        })
    }

    fn serve(self: Arc<Self>, caller: Caller) {
        match tokio::net::TcpStream::from_std(caller.tcp) {
            Ok(tcp) => drop(tokio::spawn(async move {
                let (peer, inside) = (caller.peer, caller.inside);
                self.connection(tcp, caller.read, peer, PLAIN, inside, caller.patience)
                    .await;
            })),
            Err(error) => tracing::warn!(%error, "a connection could not be served"),
        }
    }

    fn not_accepted(&self, error: &io::Error) -> bool {
        let clock = self.parts.clock;
        self.accept_failures.tell(error, "public", clock)
    }
}

/// Whether a shard has so many more connections than another that one should change threads: a
/// sixteenth more is no reason.
fn has_clearly_more(own: usize, other: usize) -> bool {
    own > other + own / 16
}

/// A whole GET request without a body, and how long its head is.
fn parse(read: &[u8]) -> Option<(HttpRequest<()>, usize)> {
    let mut lines = [httparse::EMPTY_HEADER; HEADERS];
    let mut parsed = httparse::Request::new(&mut lines);
    let Ok(httparse::Status::Complete(head)) = parsed.parse(read) else {
        return None;
    };
    if parsed.method != Some("GET") || parsed.version != Some(1) {
        return None;
    }
    let mut request = HttpRequest::new(());
    *request.uri_mut() = parsed.path?.parse().ok()?;
    let headers = request.headers_mut();
    headers.reserve(parsed.headers.len());
    for line in parsed.headers.iter() {
        let name = HeaderName::from_bytes(line.name.as_bytes()).ok()?;
        headers.append(name, HeaderValue::from_bytes(line.value).ok()?);
    }
    let has_body = [
        header::CONTENT_LENGTH,
        header::TRANSFER_ENCODING,
        header::EXPECT,
    ];
    let is_plain = has_body.iter().all(|name| !headers.contains_key(name));
    (is_plain && names_its_host(&request)).then_some((request, head))
}

/// Whether a request to Engine.IO's endpoint is for a new session over WebSocket, and then
/// whether that asks for binary as base64.
fn begins_session<B>(request: &HttpRequest<B>) -> Option<bool> {
    let query = request.uri().query().unwrap_or_default();
    let mut found: [Option<String>; 4] = Default::default();
    for (key, value) in form_urlencoded::parse(query.as_bytes()) {
        let place = ["transport", "EIO", "b64", "sid"]
            .iter()
            .position(|name| *name == key);
        if let Some(place) = place {
            // Of several, the first counts.
            found[place].get_or_insert_with(|| value.into_owned());
        }
    }
    let [transport, version, base64, sid] = found.each_ref().map(Option::as_deref);
    let begins = transport == Some("websocket") && version == Some("4") && sid.is_none();
    begins.then(|| base64.is_some_and(|value| value == "1" || value == "true"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_connections_are_spread_evenly_and_many_nearly_so() {
        assert!(!has_clearly_more(0, 0) && !has_clearly_more(5, 5) && !has_clearly_more(5, 6));
        assert!(has_clearly_more(1, 0) && has_clearly_more(6, 5));
        assert!(!has_clearly_more(1060, 1000) && has_clearly_more(1100, 1000));
    }

    fn head(line: &str, headers: &str) -> String {
        format!("{line}\r\nhost: x\r\n{headers}\r\n")
    }

    #[test]
    fn a_request_is_read_here_if_all_of_it_has_come_and_it_has_no_body() {
        let get = head("GET /live?a=b HTTP/1.1", "x-y: z\r\n");
        let (request, length) = parse(get.as_bytes()).unwrap();
        assert_eq!((request.uri().path(), length), ("/live", get.len()));
        assert_eq!(request.headers()["x-y"], "z");
        let with_frames = [get.as_bytes(), b"\x81\x80abcd"].concat();
        assert_eq!(parse(&with_frames).unwrap().1, get.len());
        for cut in 0..get.len() {
            assert!(parse(&get.as_bytes()[..cut]).is_none(), "{cut}");
        }
    }

    #[test]
    fn what_else_comes_is_left_to_http() {
        let many: String = (0..HEADERS).map(|n| format!("x-{n}: y\r\n")).collect();
        for other in [
            head("POST /live HTTP/1.1", ""),
            head("GET /live HTTP/1.0", ""),
            head("GET /live HTTP/1.1", "Content-Length: 0\r\n"),
            head("GET /live HTTP/1.1", "transfer-encoding: chunked\r\n"),
            head("GET /live HTTP/1.1", "expect: 100-continue\r\n"),
            head("GET /live HTTP/1.1", "Host: y\r\n"),
            "GET /live HTTP/1.1\r\nx-y: z\r\n\r\n".into(),
            head("GET /live HTTP/1.1", &many),
            head("GET /li ve HTTP/1.1", ""),
            "\x16\x03\x01 a client that speaks TLS\r\n\r\n".into(),
        ] {
            assert!(parse(other.as_bytes()).is_none(), "{other}");
        }
    }

    #[test]
    fn a_session_begins_here_if_it_is_a_new_one_over_websocket() {
        let begins = |query: &str| {
            let mut request = HttpRequest::new(());
            *request.uri_mut() = format!("/socket.io/?{query}").parse().unwrap();
            begins_session(&request)
        };
        assert_eq!(begins("EIO=4&transport=websocket"), Some(false));
        assert_eq!(begins("transport=websocket&EIO=4&b64=1&t=x"), Some(true));
        assert_eq!(begins("transport=websocket&EIO=4&EIO=3"), Some(false));
        for other in [
            "",
            "EIO=4&transport=polling",
            "EIO=3&transport=websocket",
            "EIO=3&EIO=4&transport=websocket",
            "EIO=4&transport=websocket&sid=x",
            "EIO=4&transport=websocket&sid=",
        ] {
            assert_eq!(begins(other), None, "{other}");
        }
    }
}

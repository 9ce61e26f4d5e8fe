//! Connections to the operators' listener: no more than it can bear, and none that only
//! takes a place. Who has asked and ended their side of the stream is answered; HTTP alone
//! would take that for a departure.

use std::future::Future;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes, HttpBody};
use axum::extract::Request;
use axum::extract::connect_info::{ConnectInfo, Connected};
use axum::http::{StatusCode, Version, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::serve::{IncomingStream, Listener};
use heartline_engine::http::body;
use http_body::{Frame, SizeHint};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, Sleep, sleep};

use super::problem::Problem;
use super::{LONGEST, MIN_BODY};

/// Connections at once; further ones wait to be accepted. Backends keep theirs for later, so
/// there is room for many.
const MAX_CONNECTIONS: usize = 1024;
/// How long the first byte of a connection may take.
const FIRST: Duration = Duration::from_secs(10);
/// How long a connection may wait for its next request, longer than scrapers and backends
/// keep theirs; and how long no byte of an answer may move.
const IDLE: Duration = Duration::from_secs(65);
/// How long a request of [`MIN_BODY`] bytes may take to come whole, however slowly: 2 MB at 1 Mbit/s;
/// where larger ones are taken, so much longer. The answer to one
/// that has may take `LONGEST` more. Who has said all they have to say and ended their side is
/// answered as long: that looks like a departure, and is none.
const COMES: Duration = Duration::from_secs(20);

/// Answers with `router` whoever comes to `listener`, until it is aborted; or until `ended`, from
/// where on nobody is let in any more, and it resolves once all have their answers who had asked.
pub(super) async fn serve(
    listener: Bounded,
    router: Router,
    ended: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    let router = router.layer(middleware::from_fn(attend));
    let answers = router.into_make_service_with_connect_info::<Arrival>();
    let serving = axum::serve(listener, answers);
    serving.with_graceful_shutdown(ended).await
}

/// How much of the request that a connection brings has come.
#[derive(Clone, Default)]
struct Arrival(Arc<AtomicU8>);

impl Arrival {
    /// All of its head, and not all of its body.
    const HEAD: u8 = 1;
    /// All of it. Otherwise: none, or some of its head.
    const WHOLE: u8 = 2;

    fn is_now(&self, state: u8) {
        self.0.store(state, Ordering::Relaxed);
    }

    /// Whether it was so; it is no more.
    fn take(&self, state: u8) -> bool {
        let (order, then) = (Ordering::Relaxed, Ordering::Relaxed);
        self.0.compare_exchange(state, 0, order, then).is_ok()
    }
}

impl Connected<IncomingStream<'_, Bounded>> for Arrival {
    fn connect_info(stream: IncomingStream<'_, Bounded>) -> Arrival {
        stream.io().arrival.clone()
    }
}

/// Notes how much of a request has come, and reads what comes of it after it was answered: a
/// client that still sends may lose the answer to the end of the connection.
async fn attend(
    ConnectInfo(arrival): ConnectInfo<Arrival>,
    request: Request,
    next: Next,
) -> Response {
    let (parts, body) = request.into_parts();
    let (body, rest) = body::lend(body, &parts.headers);
    let hosts = parts.headers.get_all(header::HOST).iter().count();
    let must_name_one = parts.version == Version::HTTP_11;
    let request = Request::from_parts(parts, Body::new(body)).map(|body| {
        let is_whole = body.is_end_stream();
        arrival.is_now(if is_whole {
            Arrival::WHOLE
        } else {
            Arrival::HEAD
        });
        let arrival = arrival.clone();
        match is_whole {
            true => body,
            false => Body::new(Coming { body, arrival }),
        }
    });
    // RFC 9112 §3.2.
    let answer = match hosts == 1 || (hosts == 0 && !must_name_one) {
        true => next.run(request).await,
        false => {
            drop(request);
            let what = "The header Host must be there once";
            Problem::new(StatusCode::BAD_REQUEST, what).into_response()
        }
    };
    rest.discard_first().await;
    // It may be refused before the rest of it has come.
    arrival.take(Arrival::HEAD);
    answer
}

/// The body of a request, which notes that all of it has come.
struct Coming {
    body: Body,
    arrival: Arrival,
}

impl HttpBody for Coming {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let frame = Pin::new(&mut self.body).poll_frame(cx);
        if matches!(frame, Poll::Ready(None)) || self.body.is_end_stream() {
            self.arrival.is_now(Arrival::WHOLE);
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A listener with so many places.
pub(super) struct Bounded {
    listener: TcpListener,
    places: Arc<Semaphore>,
    first: Duration,
    idle: Duration,
    comes: Duration,
    longest: Duration,
}

impl Bounded {
    /// For bodies of at most so many bytes.
    pub(super) fn new(listener: TcpListener, max_body: usize) -> Self {
        let times = u32::try_from(max_body.div_ceil(MIN_BODY)).unwrap_or(u32::MAX);
        Bounded {
            listener,
            places: Arc::new(Semaphore::new(MAX_CONNECTIONS)),
            first: FIRST,
            idle: IDLE,
            comes: COMES.saturating_mul(times.max(1)),
            longest: LONGEST,
        }
    }
}

impl Listener for Bounded {
    type Io = Connection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Connection, SocketAddr) {
        // The semaphore is never closed.
        let place = self.places.clone().acquire_owned().await.ok();
        let (stream, peer) = Listener::accept(&mut self.listener).await;
        let connection = Connection {
            stream,
            alarm: Box::pin(sleep(self.first)),
            idle: self.idle,
            comes: self.comes,
            longest: self.longest,
            arrival: Arrival::default(),
            asked: false,
            answered: false,
            ended: false,
            _place: place,
        };
        (connection, peer)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// A connection that ends when nothing moves on it.
pub(super) struct Connection {
    stream: TcpStream,
    alarm: Pin<Box<Sleep>>,
    idle: Duration,
    /// From a request's first byte to its last.
    comes: Duration,
    /// How much longer it may take until the answer's first, if it has come whole.
    longest: Duration,
    arrival: Arrival,
    /// Something was said since the last answer left.
    asked: bool,
    /// Some of an answer was written.
    answered: bool,
    /// Nothing more will be.
    ended: bool,
    _place: Option<OwnedSemaphorePermit>,
}

impl Connection {
    fn wait(&mut self, time: Duration) {
        self.alarm.as_mut().reset(Instant::now() + time);
    }

    /// Notes that something was written, or looks whether nothing was for too long.
    fn judge(
        &mut self,
        written: Poll<io::Result<usize>>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        if written.is_ready() {
            // No answer is written before all has come but the word that it may (100).
            if self.arrival.0.load(Ordering::Relaxed) != Arrival::HEAD {
                self.arrival.is_now(0);
                self.answered = true;
                self.wait(self.idle);
            }
            return written;
        }
        let late = self.poll_late(cx);
        late.map(|()| Err(io::ErrorKind::TimedOut.into()))
    }

    /// Whether it takes too long. A request that has come in time has time for its answer.
    fn poll_late(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let late = self.alarm.as_mut().poll(cx);
        if late.is_ready() && self.arrival.take(Arrival::WHOLE) {
            self.wait(self.longest);
            return self.alarm.as_mut().poll(cx);
        }
        late
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        match Pin::new(&mut self.stream).poll_read(cx, buffer) {
            Poll::Ready(Ok(())) if buffer.filled().len() > before => {
                if !std::mem::replace(&mut self.asked, true) {
                    let comes = self.comes;
                    self.wait(comes);
                }
                return Poll::Ready(Ok(()));
            }
            Poll::Ready(Ok(())) if self.asked => self.ended = true,
            Poll::Pending => {}
            ready => return ready,
        }
        // As if the peer had left: HTTP ends in good order.
        self.poll_late(cx).map(Ok)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.judge(written, cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.judge(written, cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // Hyper asks for it when it has nothing more to write.
        if std::mem::take(&mut self.answered) {
            self.asked = false;
            if self.ended {
                // It waits for a next request, and is to hear that none will come.
                cx.waker().wake_by_ref();
            }
        }
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};

    /// Serves with two places and these patiences; what answers takes `takes`.
    fn served(
        first: Duration,
        (idle, comes): (Duration, Duration),
        takes: Duration,
    ) -> (tokio::runtime::Runtime, SocketAddr) {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        let bounded = Bounded {
            places: Arc::new(Semaphore::new(2)),
            first,
            idle,
            comes,
            ..Bounded::new(listener, MIN_BODY)
        };
        let answers = axum::Router::new().fallback(move |body: String| async move {
            sleep(takes).await;
            format!("hello {body}")
        });
        runtime.spawn(serve(bounded, answers, std::future::pending()));
        (runtime, address)
    }

    fn connect(address: SocketAddr) -> std::net::TcpStream {
        let stream = std::net::TcpStream::connect(address).unwrap();
        let patience = Some(Duration::from_secs(60));
        stream.set_read_timeout(patience).unwrap();
        stream
    }

    fn answer(mut stream: std::net::TcpStream) -> String {
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    #[test]
    fn connections_that_say_nothing_give_their_places_to_those_who_wait() {
        let (_runtime, address) = served(Duration::from_millis(500), (IDLE, COMES), Duration::ZERO);
        let mut silent: Vec<_> = (0..4).map(|_| connect(address)).collect();
        let mut asks = connect(address);
        asks.write_all(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
            .unwrap();
        let answer = answer(asks);
        assert!(answer.ends_with("hello "), "{answer}");
        for stream in &mut silent {
            assert_eq!(stream.read(&mut [0]).unwrap(), 0);
        }
    }

    #[test]
    fn no_request_that_is_allowed_is_cut_before_its_answer() {
        let ack = super::super::connections::MAX_ACK;
        let others = heartline::Gateway::EMIT_TAKES;
        let redis = super::super::idempotency::PATIENCE * 2;
        assert!(LONGEST >= ack + others + redis, "{LONGEST:?}");
        assert!(COMES >= FIRST);
        // Nor is it given up by other nodes while it runs.
        assert!(super::super::idempotency::RUNS_FOR > LONGEST);
    }

    #[test]
    fn who_asks_and_says_no_more_is_answered() {
        // Also by what takes longer than any wait between requests, and than a request may take
        // to come.
        let (_runtime, address) = served(
            FIRST,
            (Duration::from_millis(20), Duration::from_millis(100)),
            Duration::from_millis(400),
        );
        for (request, said) in [
            ("GET / HTTP/1.1\r\nhost: x\r\n\r\n", "hello "),
            ("GET / HTTP/1.0\r\n\r\n", "hello "),
            (
                "POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\n\r\nyou",
                "hello you",
            ),
        ] {
            let mut asks = connect(address);
            asks.write_all(request.as_bytes()).unwrap();
            asks.shutdown(std::net::Shutdown::Write).unwrap();
            let answer = answer(asks);
            assert!(answer.ends_with(said), "{answer:?}");
        }
    }

    #[test]
    fn half_a_request_takes_a_place_no_longer_than_a_whole_one_may_take_to_come() {
        let comes = Duration::from_millis(100);
        for half in [
            "POST / HTTP/1.1\r\nhost: x\r\n",
            "POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\n\r\nyo",
            "POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\nexpect: 100-continue\r\n\r\n",
            "POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n2\r\nyo\r\n",
        ] {
            for ends in [false, true] {
                let (_runtime, address) = served(FIRST, (IDLE, comes), Duration::ZERO);
                let mut asks = connect(address);
                asks.write_all(half.as_bytes()).unwrap();
                if ends {
                    asks.shutdown(std::net::Shutdown::Write).unwrap();
                }
                let begun = Instant::now();
                let answer = answer(asks);
                assert!(!answer.contains("hello"), "{half}: {answer}");
                assert!(begun.elapsed() < FIRST, "{half}");
            }
        }
    }

    #[test]
    fn who_sends_more_than_is_taken_hears_that() {
        let (_runtime, address) = served(FIRST, (IDLE, COMES), Duration::ZERO);
        for length in [3_000_000, 6_000_000, 8_000_000] {
            let begun = Instant::now();
            let mut asks = connect(address);
            let head = format!("POST / HTTP/1.1\r\nhost: x\r\ncontent-length: {length}\r\n\r\n");
            asks.write_all(head.as_bytes()).unwrap();
            asks.write_all(&vec![b'x'; length]).unwrap();
            asks.shutdown(std::net::Shutdown::Write).unwrap();
            let answer = answer(asks);
            assert!(answer.starts_with("HTTP/1.1 413"), "{length}: {answer}");
            assert!(begun.elapsed() < COMES, "{length}: it ends with that");
        }
    }

    #[test]
    fn a_request_names_its_host_once() {
        let (_runtime, address) = served(FIRST, (IDLE, COMES), Duration::ZERO);
        for (hosts, version, status) in [
            ("", "1.1", "400"),
            ("host: x\r\nhost: x\r\n", "1.1", "400"),
            ("host: x\r\nhost: y\r\n", "1.0", "400"),
            ("host: x\r\n", "1.1", "200"),
            ("", "1.0", "200"),
        ] {
            let mut asks = connect(address);
            let head = format!("GET / HTTP/{version}\r\n{hosts}connection: close\r\n\r\n");
            asks.write_all(head.as_bytes()).unwrap();
            let answer = answer(asks);
            let told = answer.split(' ').nth(1);
            assert_eq!(told, Some(status), "{version} {hosts:?}: {answer}");
        }
    }

    #[test]
    fn a_request_that_trickles_in_has_an_end() {
        let comes = Duration::from_millis(100);
        let (_runtime, address) = served(FIRST, (IDLE, comes), Duration::ZERO);
        let mut slow = connect(address);
        slow.set_read_timeout(Some(Duration::from_millis(10)))
            .unwrap();
        slow.write_all(b"GET / HTTP/1.1\r\nx: ").unwrap();
        let begun = Instant::now();
        while slow.write_all(b"x").is_ok() && !matches!(slow.read(&mut [0]), Ok(0)) {
            assert!(begun.elapsed() < FIRST);
        }
    }
}

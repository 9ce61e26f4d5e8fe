//! Connections to the operators' listener: no more than it can bear, and none that only
//! takes a place. Who has asked and ended their side of the stream is answered; HTTP alone
//! would take that for a departure.

use std::future::Future;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::serve::Listener;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, Sleep, sleep};

use super::LONGEST;

/// Connections at once; further ones wait to be accepted. Backends keep theirs for later, so
/// there is room for many.
const MAX_CONNECTIONS: usize = 1024;
/// How long the first byte of a connection may take.
const FIRST: Duration = Duration::from_secs(10);
/// How long a connection may wait for its next request, longer than scrapers and backends
/// keep theirs; and how long no byte of an answer may move.
const IDLE: Duration = Duration::from_secs(65);
/// How long a request may take to come, however slowly: 2 MB at 1 Mbit/s.
const COMES: Duration = Duration::from_secs(20);
/// How long it may take from a request's first byte to the answer's. Who has said all they have to
/// say and ended their side is answered as long: that looks like a departure, and is none.
const ASKED: Duration = COMES.saturating_add(LONGEST);

/// A listener with so many places.
pub(super) struct Bounded {
    listener: TcpListener,
    places: Arc<Semaphore>,
    first: Duration,
    idle: Duration,
    asked: Duration,
}

impl Bounded {
    pub(super) fn new(listener: TcpListener) -> Self {
        Bounded {
            listener,
            places: Arc::new(Semaphore::new(MAX_CONNECTIONS)),
            first: FIRST,
            idle: IDLE,
            asked: ASKED,
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
            patience: self.asked,
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
    /// From a request's first byte to the answer's.
    patience: Duration,
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
            self.answered = true;
            self.wait(self.idle);
            return written;
        }
        let late = self.alarm.as_mut().poll(cx);
        late.map(|()| Err(io::ErrorKind::TimedOut.into()))
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
                    let patience = self.patience;
                    self.wait(patience);
                }
                return Poll::Ready(Ok(()));
            }
            Poll::Ready(Ok(())) if self.asked => self.ended = true,
            Poll::Pending => {}
            ready => return ready,
        }
        // As if the peer had left: HTTP ends in good order.
        self.alarm.as_mut().poll(cx).map(Ok)
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
        (idle, asked): (Duration, Duration),
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
            asked,
            ..Bounded::new(listener)
        };
        let answers = axum::Router::new().fallback(move |body: String| async move {
            sleep(takes).await;
            format!("hello {body}")
        });
        runtime.spawn(async move { axum::serve(bounded, answers).await });
        (runtime, address)
    }

    fn connect(address: SocketAddr) -> std::net::TcpStream {
        let stream = std::net::TcpStream::connect(address).unwrap();
        let patience = Some(Duration::from_secs(20));
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
        let (_runtime, address) = served(Duration::from_millis(50), (IDLE, ASKED), Duration::ZERO);
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
        assert!(ASKED >= COMES + LONGEST && COMES >= FIRST);
        // Nor is it given up by other nodes while it runs.
        assert!(super::super::idempotency::RUNS_FOR > LONGEST);
    }

    #[test]
    fn who_asks_and_says_no_more_is_answered() {
        // Also by what takes longer than any wait between requests.
        let (_runtime, address) = served(
            FIRST,
            (Duration::from_millis(20), ASKED),
            Duration::from_millis(200),
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
    fn a_request_that_trickles_in_has_an_end() {
        let asked = Duration::from_millis(100);
        let (_runtime, address) = served(FIRST, (IDLE, asked), Duration::ZERO);
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

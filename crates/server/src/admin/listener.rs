//! Connections to the operators' listener: no more than it can bear, and none that only
//! takes a place.

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

/// Connections at once; further ones wait to be accepted. Backends keep theirs for later, so
/// there is room for many.
const MAX_CONNECTIONS: usize = 1024;
/// How long the first byte of a connection may take.
const FIRST: Duration = Duration::from_secs(10);
/// How long no byte may move in either direction: longer than scrapers and backends keep a
/// connection for their next request.
const IDLE: Duration = Duration::from_secs(65);

/// A listener with so many places.
pub(super) struct Bounded {
    listener: TcpListener,
    places: Arc<Semaphore>,
    first: Duration,
}

impl Bounded {
    pub(super) fn new(listener: TcpListener) -> Self {
        Bounded {
            listener,
            places: Arc::new(Semaphore::new(MAX_CONNECTIONS)),
            first: FIRST,
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
    _place: Option<OwnedSemaphorePermit>,
}

impl Connection {
    /// Notes that something has moved, or looks whether nothing has for too long.
    fn judge<T>(
        &mut self,
        progress: Poll<io::Result<T>>,
        late: io::Result<T>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<T>> {
        if progress.is_ready() {
            self.alarm.as_mut().reset(Instant::now() + IDLE);
            return progress;
        }
        self.alarm.as_mut().poll(cx).map(|()| late)
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let read = Pin::new(&mut self.stream).poll_read(cx, buffer);
        // As if the peer had left: HTTP ends in good order.
        self.judge(read, Ok(()), cx)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.judge(written, Err(io::ErrorKind::TimedOut.into()), cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.judge(written, Err(io::ErrorKind::TimedOut.into()), cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
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

    #[test]
    fn connections_that_say_nothing_give_their_places_to_those_who_wait() {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        let bounded = Bounded {
            places: Arc::new(Semaphore::new(2)),
            first: Duration::from_millis(50),
            ..Bounded::new(listener)
        };
        let answers = axum::Router::new().fallback(|| async { "hello" });
        runtime.spawn(async move { axum::serve(bounded, answers).await });
        let connect = || {
            let stream = std::net::TcpStream::connect(address).unwrap();
            stream
                .set_read_timeout(Some(Duration::from_secs(20)))
                .unwrap();
            stream
        };
        let mut silent: Vec<_> = (0..4).map(|_| connect()).collect();
        let mut asks = connect();
        asks.write_all(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
            .unwrap();
        let mut answer = String::new();
        asks.read_to_string(&mut answer).unwrap();
        assert!(answer.ends_with("hello"), "{answer}");
        for stream in &mut silent {
            assert_eq!(stream.read(&mut [0]).unwrap(), 0);
        }
    }
}

//! The stream that HTTP is served on, with two things that hyper does not do.
//!
//! It does not wait for ever for a peer who does not read: hyper bounds how long a
//! request may take to come, not how long a response may take to leave, and an
//! unread one would hold its memory and its descriptor.
//!
//! And it holds back the response that ends HTTP (`101 Switching Protocols`), so
//! that it leaves together with the first frames: one packet less for every
//! WebSocket that is opened.

use std::future::Future;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

/// Fails a write that has made no progress for `limit`.
pub(crate) struct HttpStream<S> {
    inner: S,
    /// The response that ended HTTP.
    held: Vec<u8>,
    limit: Duration,
    /// Runs while something waits.
    timer: Option<(Step, Pin<Box<Sleep>>)>,
}

/// How that response begins.
const SWITCHING: &[u8] = b"HTTP/1.1 101 ";

/// What waits. A TCP stream is always flushed, which is no progress of a write.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Step {
    Write,
    Flush,
}

impl<S> HttpStream<S> {
    pub(crate) fn new(inner: S, limit: Duration) -> Self {
        HttpStream {
            inner,
            held: Vec::new(),
            limit,
            timer: None,
        }
    }

    /// The stream, and what must be written to it before anything else.
    pub(crate) fn into_parts(self) -> (S, Vec<u8>) {
        (self.inner, self.held)
    }

    fn holds(&self, bytes: &[u8]) -> bool {
        !self.held.is_empty() || bytes.starts_with(SWITCHING)
    }

    fn judge<T>(
        &mut self,
        step: Step,
        progress: Poll<io::Result<T>>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<T>> {
        if progress.is_ready() {
            if self.timer.as_ref().is_some_and(|(waits, _)| *waits == step) {
                self.timer = None;
            }
            return progress;
        }
        let limit = self.limit;
        let (_, timer) = self
            .timer
            .get_or_insert_with(|| (step, Box::pin(sleep(limit))));
        match timer.as_mut().poll(cx) {
            Poll::Ready(()) => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for HttpStream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for HttpStream<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.holds(bytes) {
            self.held.extend_from_slice(bytes);
            return Poll::Ready(Ok(bytes.len()));
        }
        let progress = Pin::new(&mut self.inner).poll_write(cx, bytes);
        self.judge(Step::Write, progress, cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.holds(slices.first().map_or(&[], |first| first)) {
            self.held.extend(slices.iter().flat_map(|slice| &**slice));
            return Poll::Ready(Ok(slices.iter().map(|slice| slice.len()).sum()));
        }
        let progress = Pin::new(&mut self.inner).poll_write_vectored(cx, slices);
        self.judge(Step::Write, progress, cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let progress = Pin::new(&mut self.inner).poll_flush(cx);
        self.judge(Step::Flush, progress, cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let progress = Pin::new(&mut self.inner).poll_shutdown(cx);
        self.judge(Step::Flush, progress, cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    const LIMIT: Duration = Duration::from_millis(20);

    #[tokio::test]
    async fn who_does_not_read_is_not_waited_for() {
        let (near, far) = tokio::io::duplex(16);
        let mut near = HttpStream::new(near, LIMIT);
        let error = near.write_all(&[0; 17]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        drop(far);
    }

    #[tokio::test]
    async fn the_end_of_http_is_held_back() {
        let (near, mut far) = tokio::io::duplex(1000);
        let mut near = HttpStream::new(near, LIMIT);
        near.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
        near.write_all(b"HTTP/1.1 101 Switching").await.unwrap();
        near.write_all(b" Protocols\r\n\r\n").await.unwrap();
        let (near, held) = near.into_parts();
        assert_eq!(held, b"HTTP/1.1 101 Switching Protocols\r\n\r\n");
        drop(near);
        let mut all = Vec::new();
        far.read_to_end(&mut all).await.unwrap();
        assert_eq!(all, b"HTTP/1.1 200 OK\r\n\r\n");
    }

    #[tokio::test]
    async fn who_reads_is() {
        let (near, mut far) = tokio::io::duplex(16);
        let mut near = HttpStream::new(near, Duration::from_secs(60));
        let reads = async {
            let mut all = vec![0; 1000];
            far.read_exact(&mut all).await
        };
        let (written, read) = tokio::join!(near.write_all(&[0; 1000]), reads);
        assert!(written.is_ok() && read.is_ok());
    }
}

//! The stream that HTTP is served on, with five things that hyper does not do.
//!
//! It does not wait for ever for a peer who does not read: hyper bounds how long a
//! request may take to come, not how long a response may take to leave, and an
//! unread one would hold its memory and its descriptor.
//!
//! It tells a request that is slow to come from one that nobody has begun to send: a
//! connection may wait longer for its next request than that may take to arrive.
//!
//! It answers who has said all they have to say and ended their side of the stream: hyper takes
//! that end for a departure, and gives up what is being answered. A departure looks the same, so
//! the end is kept from hyper for a time, and for a short one where an answer may be long in coming.
//!
//! It reads what a client still sends, [within bounds](super::body), while it is answered: hyper
//! would close the connection then, and a client may lose the answer to that.
//!
//! And it holds back the response that ends HTTP (`101 Switching Protocols`), so
//! that it leaves together with the first frames: one packet less for every
//! WebSocket that is opened.

use std::convert::Infallible;
use std::future::Future;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep};

use super::body::{Lent, lend};

/// How long a response may make no progress towards a client that does not read.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);
/// Bound on a request's headers.
pub(crate) const HEADER_BYTES: usize = 16 * 1024;
/// How long who has ended their side of the stream is still answered.
pub(super) const OWED: Duration = Duration::from_secs(10);
/// The same where an answer may be long in coming, and where a body has not come whole: what a shard
/// has to say already leaves within some turns, and who has left is to be missed at once.
pub(super) const AT_ONCE: Duration = Duration::from_millis(50);

/// The bound that hyper has on headers, the wait for them included. The stream's own come
/// first, but without one hyper does not ask the stream for the next request before something
/// happens to it.
const NEVER: Duration = Duration::from_secs(600);

/// Serves HTTP on a stream of which `early` has been read, until it ends or is upgraded.
///
/// The headers of a request may take `head` from the first byte, the first request `head`
/// from now; `idle` says how long the next one may be waited for, and `owed` how long a client
/// that says no more is still to be answered.
pub(super) async fn serve<S, F, R>(
    stream: S,
    early: Bytes,
    head: Duration,
    idle: impl Fn() -> Duration + Send + Sync,
    owed: impl Fn(&Request<Asking>) -> Duration + Send + Sync,
    answer: F,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    F: Fn(Request<Asking>) -> R,
    R: Future<Output = Response<Full<Bytes>>>,
{
    let exchange = Arc::new(Exchange::default());
    let stream = HttpStream::new(stream, early, head, exchange.clone());
    let service = hyper::service::service_fn(|request: Request<Incoming>| {
        let (parts, incoming) = request.into_parts();
        let (incoming, rest) = lend(incoming, &parts.headers);
        let asking = Asking {
            incoming,
            exchange: exchange.clone(),
        };
        let request = Request::from_parts(parts, asking);
        exchange.ask(request.body().is_end_stream(), owed(&request));
        let answer = answer(request);
        let (exchange, idle) = (&exchange, &idle);
        async move {
            let answer = answer.await;
            if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
                rest.discard();
            }
            exchange.idle(idle());
            exchange.enter(match answer.status() {
                StatusCode::SWITCHING_PROTOCOLS => Phase::Switching,
                _ => Phase::Answered,
            });
            Ok::<_, Infallible>(answer)
        }
    });
    // How a connection of HTTP ends is nobody's concern here: what matters
    // of it is told by the requests that were dropped with it.
    let _ = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(NEVER)
        .max_buf_size(HEADER_BYTES)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades()
        .await;
}

/// The body of a request, whose end is noted.
pub(crate) struct Asking {
    incoming: Lent<Incoming>,
    exchange: Arc<Exchange>,
}

impl Body for Asking {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<hyper::Result<Frame<Bytes>>>> {
        let frame = ready!(Pin::new(&mut self.incoming).poll_frame(cx));
        if self.incoming.is_end_stream() || frame.is_none() {
            self.exchange.whole.store(true, Ordering::Relaxed);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}

/// How far the present request has come.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Phase {
    /// Its headers are on their way.
    Begun,
    /// It is being answered.
    Asked,
    /// Its response is on its way; there is no next one yet.
    Answered,
    /// The same, and the response has left.
    Left,
    /// Its response is the last of HTTP.
    Switching,
}

/// What a stream and the service on it have in common. One task has both.
struct Exchange {
    phase: AtomicU8,
    /// All of the present request has been read.
    whole: AtomicBool,
    /// How long it is answered if that was the last of what the client says, ms.
    owed: AtomicU32,
    /// How long the next request may be waited for, ms.
    idle: AtomicU32,
}

impl Default for Exchange {
    fn default() -> Self {
        Exchange {
            phase: AtomicU8::new(Phase::Begun as u8),
            whole: AtomicBool::new(false),
            owed: AtomicU32::new(0),
            idle: AtomicU32::new(0),
        }
    }
}

impl Exchange {
    fn enter(&self, phase: Phase) {
        self.phase.store(phase as u8, Ordering::Relaxed);
    }

    fn is(&self, phase: Phase) -> bool {
        self.phase.load(Ordering::Relaxed) == phase as u8
    }

    fn ask(&self, whole: bool, owed: Duration) {
        self.whole.store(whole, Ordering::Relaxed);
        self.owed.store(millis(owed), Ordering::Relaxed);
        self.enter(Phase::Asked);
    }

    fn idle(&self, idle: Duration) {
        self.idle.store(millis(idle), Ordering::Relaxed);
    }

    /// How long after its last word a client is still answered.
    fn owed(&self) -> Duration {
        match self.whole.load(Ordering::Relaxed) {
            true => Duration::from_millis(self.owed.load(Ordering::Relaxed).into()),
            false => AT_ONCE,
        }
    }
}

fn millis(time: Duration) -> u32 {
    u32::try_from(time.as_millis()).unwrap_or(u32::MAX)
}

/// Ends when a request does not come in time; fails a write that has made no progress for
/// [`WRITE_TIMEOUT`].
pub(crate) struct HttpStream<S> {
    inner: S,
    /// What was read before, and nobody has been given yet.
    early: Bytes,
    exchange: Arc<Exchange>,
    /// The response that ended HTTP.
    held: Vec<u8>,
    /// How long a request's headers may take.
    head: Duration,
    limit: Duration,
    /// Runs while something waits to be written.
    timer: Option<(Step, Pin<Box<Sleep>>)>,
    /// When the wait for what is to be read is over.
    deadline: Option<Instant>,
    /// When the peer was found to say no more.
    ended: Option<Instant>,
    /// Set to the deadline, or to an earlier one.
    alarm: Pin<Box<Sleep>>,
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
    fn new(inner: S, early: Bytes, head: Duration, exchange: Arc<Exchange>) -> Self {
        HttpStream {
            inner,
            early,
            exchange,
            held: Vec::new(),
            head,
            limit: WRITE_TIMEOUT,
            timer: None,
            deadline: None,
            ended: None,
            alarm: Box::pin(sleep(head)),
        }
    }

    /// The stream, what must be written to it before anything else, and what was read of it
    /// beyond `read`, that included.
    pub(crate) fn into_parts(self, read: Bytes) -> (S, Vec<u8>, Bytes) {
        let read = match self.early.is_empty() {
            true => read,
            false => [read, self.early].concat().into(),
        };
        (self.inner, self.held, read)
    }

    /// Whether bytes are the response that ends HTTP. What they look like tells where it
    /// begins, and only after it was given: a client's data may look the same.
    fn holds(&self, bytes: &[u8]) -> bool {
        self.exchange.is(Phase::Switching)
            && (!self.held.is_empty() || bytes.starts_with(SWITCHING))
    }

    /// Whether a request that should have come has not. Wakes the task when that is so.
    fn is_late(&mut self, cx: &mut Context<'_>) -> bool {
        let limit = if self.exchange.is(Phase::Begun) {
            self.head
        } else if self.exchange.is(Phase::Answered) || self.exchange.is(Phase::Left) {
            Duration::from_millis(self.exchange.idle.load(Ordering::Relaxed).into())
        } else {
            self.deadline = None;
            return false;
        };
        let now = Instant::now();
        let deadline = *self.deadline.get_or_insert(now + limit);
        if now >= deadline {
            return true;
        }
        // Left where it is as long as it comes early enough: then it is set anew.
        if self.alarm.deadline() > deadline || self.alarm.as_mut().poll(cx).is_ready() {
            self.alarm.as_mut().reset(deadline);
            return self.alarm.as_mut().poll(cx).is_ready();
        }
        false
    }

    /// Whether the peer's last word is kept from HTTP, which would not answer it. Wakes the
    /// task when that is over.
    fn is_owed(&mut self, cx: &mut Context<'_>) -> bool {
        if self.exchange.is(Phase::Answered) {
            // What leaves wakes the task, and how long that may take has its own bound.
            return true;
        }
        if !self.exchange.is(Phase::Asked) && !self.exchange.is(Phase::Switching) {
            return false;
        }
        let now = Instant::now();
        let until = *self.ended.get_or_insert(now) + self.exchange.owed();
        if now >= until {
            return false;
        }
        self.alarm.as_mut().reset(until);
        self.alarm.as_mut().poll(cx).is_pending()
    }

    fn judge<T>(
        &mut self,
        step: Step,
        progress: Poll<io::Result<T>>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<T>> {
        if progress.is_ready() {
            if step == Step::Write {
                // The wait for the next request begins when the response has left.
                self.deadline = None;
            }
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
        let before = buffer.filled().len();
        let read = if self.early.is_empty() {
            Pin::new(&mut self.inner).poll_read(cx, buffer)
        } else {
            let length = self.early.len().min(buffer.remaining());
            buffer.put_slice(&self.early.split_to(length));
            Poll::Ready(Ok(()))
        };
        if read.is_pending() {
            // As if the peer had left: HTTP ends in good order.
            return match self.is_late(cx) {
                true => Poll::Ready(Ok(())),
                false => Poll::Pending,
            };
        }
        if buffer.filled().len() > before {
            if self.exchange.is(Phase::Answered) || self.exchange.is(Phase::Left) {
                self.exchange.enter(Phase::Begun);
                self.deadline = None;
            }
        } else if matches!(read, Poll::Ready(Ok(()))) && self.is_owed(cx) {
            return Poll::Pending;
        }
        read
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
        if self.exchange.is(Phase::Answered) {
            // Hyper asks for it when it has nothing more to write.
            self.exchange.enter(Phase::Left);
        }
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
    use http_body_util::BodyExt;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    const SHORT: Duration = Duration::from_millis(20);

    fn stream<S>(inner: S, limit: Duration) -> HttpStream<S> {
        let mut stream = HttpStream::new(inner, Bytes::new(), limit, Arc::default());
        stream.limit = limit;
        stream
    }

    #[tokio::test]
    async fn who_does_not_read_is_not_waited_for() {
        let (near, far) = tokio::io::duplex(16);
        let error = stream(near, SHORT).write_all(&[0; 17]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        drop(far);
    }

    #[tokio::test]
    async fn the_end_of_http_is_held_back() {
        let (near, mut far) = tokio::io::duplex(1000);
        let mut near = stream(near, SHORT);
        near.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
        near.exchange.enter(Phase::Switching);
        near.write_all(b"HTTP/1.1 101 Switching").await.unwrap();
        near.write_all(b" Protocols\r\n\r\n").await.unwrap();
        let (near, held, _) = near.into_parts(Bytes::new());
        assert_eq!(held, b"HTTP/1.1 101 Switching Protocols\r\n\r\n");
        drop(near);
        let mut all = Vec::new();
        far.read_to_end(&mut all).await.unwrap();
        assert_eq!(all, b"HTTP/1.1 200 OK\r\n\r\n");
    }

    #[tokio::test]
    async fn data_that_looks_like_the_end_of_http_is_data() {
        let (near, mut far) = tokio::io::duplex(1000);
        let mut near = stream(near, SHORT);
        near.exchange.enter(Phase::Answered);
        near.write_all(SWITCHING).await.unwrap();
        let (_, held, _) = near.into_parts(Bytes::new());
        assert!(held.is_empty());
        let mut all = Vec::new();
        far.read_to_end(&mut all).await.unwrap();
        assert_eq!(all, SWITCHING);
    }

    #[tokio::test]
    async fn who_reads_is() {
        let (near, mut far) = tokio::io::duplex(16);
        let mut near = stream(near, Duration::from_secs(60));
        let reads = async {
            let mut all = vec![0; 1000];
            far.read_exact(&mut all).await
        };
        let (written, read) = tokio::join!(near.write_all(&[0; 1000]), reads);
        assert!(written.is_ok() && read.is_ok());
    }

    /// Serves one end of a pipe with these limits, seconds, and gives the other.
    fn served(head: u64, idle: u64) -> tokio::io::DuplexStream {
        let (near, far) = tokio::io::duplex(10_000);
        let (head, idle) = (Duration::from_secs(head), Duration::from_secs(idle));
        tokio::spawn(serve(
            near,
            Bytes::new(),
            head,
            move || idle,
            |_| OWED,
            |_| std::future::ready(Response::new(Full::from("hello"))),
        ));
        far
    }

    /// Seconds until the other side ends the stream.
    async fn lasts(far: &mut tokio::io::DuplexStream) -> u64 {
        let begun = Instant::now();
        far.read_to_end(&mut Vec::new()).await.unwrap();
        begun.elapsed().as_secs()
    }

    async fn ask(far: &mut tokio::io::DuplexStream) {
        far.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
            .await
            .unwrap();
        let mut response = Vec::new();
        while !response.ends_with(b"hello") {
            response.push(far.read_u8().await.unwrap());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_is_kept_for_its_next_request_longer_than_that_may_take() {
        let mut far = served(10, 65);
        for _ in 0..3 {
            tokio::time::sleep(Duration::from_secs(9)).await;
            ask(&mut far).await;
        }
        tokio::time::sleep(Duration::from_secs(60)).await;
        ask(&mut far).await;
        assert_eq!(lasts(&mut far).await, 65);
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_answered_before_they_have_said_all_hears_it_at_once_and_may_ask_again() {
        let mut far = served(10, 65);
        let begun = Instant::now();
        far.write_all(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 4\r\n\r\nab")
            .await
            .unwrap();
        let mut response = Vec::new();
        while !response.ends_with(b"hello") {
            response.push(far.read_u8().await.unwrap());
        }
        assert_eq!(begun.elapsed(), Duration::ZERO);
        far.write_all(b"cd").await.unwrap();
        ask(&mut far).await;
        // Who says no more of it has no place for long.
        let begun = Instant::now();
        far.write_all(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 4\r\n\r\nab")
            .await
            .unwrap();
        assert!(lasts(&mut far).await <= 1 && begun.elapsed() < Duration::from_secs(2));
    }

    #[tokio::test(start_paused = true)]
    async fn headers_that_do_not_come_are_not_waited_for() {
        assert_eq!(lasts(&mut served(10, 65)).await, 10);
        let mut far = served(10, 65);
        far.write_all(b"GET / HTTP").await.unwrap();
        tokio::time::sleep(Duration::from_secs(5)).await;
        far.write_all(b"/1.1\r\n").await.unwrap();
        assert_eq!(lasts(&mut far).await, 5);
        let mut far = served(10, 65);
        ask(&mut far).await;
        tokio::time::sleep(Duration::from_secs(30)).await;
        far.write_all(b"G").await.unwrap();
        assert_eq!(lasts(&mut far).await, 10);
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_among_many_waits_less_for_its_next_request() {
        let mut far = served(10, 3);
        ask(&mut far).await;
        assert_eq!(lasts(&mut far).await, 3);
    }

    /// Says `request` and no more. It is answered after `takes`, if that is waited for, as
    /// `owed` says. What the answer is, and how long the stream lasts, ms.
    async fn last_word(request: &str, owed: Duration, takes: u64) -> (String, u128) {
        let (near, mut far) = tokio::io::duplex(10_000);
        let head = Duration::from_secs(10);
        let answer = |request: Request<Asking>| async move {
            let body = request.into_body().collect().await;
            tokio::time::sleep(Duration::from_millis(takes)).await;
            Response::new(Full::from(match body {
                Ok(body) => format!("heard {}", body.to_bytes().len()),
                Err(_) => "cut off".into(),
            }))
        };
        let served = serve(near, Bytes::new(), head, || head, |_| owed, answer);
        far.write_all(request.as_bytes()).await.unwrap();
        far.shutdown().await.unwrap();
        let begun = Instant::now();
        let mut told = String::new();
        let (read, ()) = tokio::join!(far.read_to_string(&mut told), served);
        read.unwrap();
        // Clocks of tests go by milliseconds, rounded up.
        let lasted = begun.elapsed().as_millis() / 10 * 10;
        (told.rsplit("\r\n\r\n").next().unwrap().into(), lasted)
    }

    const GET: &str = "GET / HTTP/1.1\r\nhost: x\r\n\r\n";

    #[tokio::test(start_paused = true)]
    async fn who_says_no_more_is_answered_and_the_stream_ends_with_that() {
        for takes in [0, 9000] {
            for request in [GET, "GET / HTTP/1.0\r\n\r\n"] {
                let answered = last_word(request, OWED, takes).await;
                assert_eq!(answered, ("heard 0".into(), u128::from(takes)));
            }
            let post = "POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\nhi";
            let answered = last_word(post, OWED, takes).await;
            assert_eq!(answered, ("heard 2".into(), u128::from(takes)));
        }
        let answered = last_word(&GET.repeat(2), OWED, 9000).await;
        assert_eq!(answered, ("heard 0".into(), 18_000));
    }

    #[tokio::test(start_paused = true)]
    async fn who_has_left_is_not_answered_for_long() {
        let nothing = |lasted| (String::new(), lasted);
        assert_eq!(last_word(GET, OWED, 60_000).await, nothing(10_000));
        assert_eq!(last_word(GET, AT_ONCE, 60_000).await, nothing(50));
        assert_eq!(last_word(GET, AT_ONCE, 10).await.0, "heard 0");
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_takes_a_while_to_leave_does_so_whole() {
        let (near, mut far) = tokio::io::duplex(1000);
        let answer = |_| std::future::ready(Response::new(Full::from(vec![b'x'; 100_000])));
        let (idle, early) = (|| OWED, Bytes::new());
        tokio::spawn(serve(near, early, OWED, idle, |_| AT_ONCE, answer));
        far.write_all(GET.as_bytes()).await.unwrap();
        far.shutdown().await.unwrap();
        let mut told = Vec::new();
        while far.read_buf(&mut told).await.unwrap() > 0 {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        assert_eq!(told.iter().filter(|byte| **byte == b'x').count(), 100_000);
    }

    #[tokio::test(start_paused = true)]
    async fn the_rest_of_a_body_is_not_waited_for_when_the_client_has_left() {
        let cut = "POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\nhi";
        assert_eq!(last_word(cut, OWED, 0).await.1, 50);
    }
}

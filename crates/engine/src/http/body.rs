//! Bodies of requests: read within bounds, and their rest had back. Whoever is answered while they
//! still send may lose the answer to a reset of TCP if the connection ends then, so that what comes
//! after it is read and thrown away, within bounds.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf as _, Bytes};
use http_body_util::BodyExt as _;
use hyper::body::{Body, Frame, SizeHint};
use hyper::header::{self, HeaderMap};

/// Most bytes of a body that are read in vain.
const DISCARDED: usize = 8 << 20;
/// How long that may take.
const TIME: Duration = Duration::from_secs(10);
/// How long nothing may come meanwhile: who has the answer may send no more.
const STALLS: Duration = Duration::from_secs(1);
/// How long a body may take that is read for an answer.
pub(super) const BODY_TIMEOUT: Duration = Duration::from_secs(30);

/// Why there is no body.
pub(super) enum BodyError {
    TooLarge,
    Broken,
}

/// Reads a body of at most `limit` bytes.
pub(super) async fn read_body<B>(mut body: B, limit: usize) -> Result<Bytes, BodyError>
where
    B: Body<Data = Bytes> + Unpin,
{
    let mut kept = Vec::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| BodyError::Broken)?;
        let Ok(data) = frame.into_data() else {
            continue;
        };
        if data.len() > limit - kept.len() {
            return Err(BodyError::TooLarge);
        }
        kept.extend_from_slice(&data);
    }
    Ok(kept.into())
}

/// A body that goes back when whoever was given it lets go of it, if there is more of it to come.
pub struct Lent<B: Body + Unpin> {
    body: Option<B>,
    rest: Option<Arc<Mutex<Option<B>>>>,
    /// The client sends nothing before it is asked to (100).
    waits: bool,
}

/// Where it goes back.
pub struct Rest<B>(Option<Arc<Mutex<Option<B>>>>);

/// Lends a body that came with some headers.
pub fn lend<B: Body + Unpin>(body: B, headers: &HeaderMap) -> (Lent<B>, Rest<B>) {
    let rest = (!body.is_end_stream()).then(Arc::default);
    let lent = Lent {
        body: Some(body),
        rest: rest.clone(),
        waits: headers.contains_key(header::EXPECT),
    };
    (lent, Rest(rest))
}

impl<B: Body + Unpin> Body for Lent<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        self.waits = false;
        let Some(body) = &mut self.body else {
            return Poll::Ready(None);
        };
        let frame = ready!(Pin::new(body).poll_frame(cx));
        if !matches!(frame, Some(Ok(_))) {
            self.rest = None;
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        let body = self.body.as_ref();
        body.map_or_else(SizeHint::default, Body::size_hint)
    }
}

impl<B: Body + Unpin> Drop for Lent<B> {
    fn drop(&mut self) {
        let body = self.body.take().filter(|body| !body.is_end_stream());
        if let (Some(rest), false) = (&self.rest, self.waits) {
            *rest.lock().unwrap_or_else(PoisonError::into_inner) = body;
        }
    }
}

impl<B: Body + Unpin> Rest<B> {
    fn take(self) -> Option<B> {
        let rest = self.0?;
        rest.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Reads what is left, and throws it away: all of it, or as much as there is time for. It is
    /// for the time when the answer is there, and goes on while that leaves: HTTP keeps the
    /// connection as long as somebody reads the body.
    pub fn discard(self)
    where
        B: Send + 'static,
        B::Data: Send,
        B::Error: Send,
    {
        if let Some(body) = self.take() {
            tokio::spawn(read_away(body));
        }
    }

    /// The same before the answer leaves, for a connection that takes what comes behind an answer
    /// for the next request.
    pub async fn discard_first(self) {
        if let Some(body) = self.take() {
            read_away(body).await;
        }
    }
}

async fn read_away<B: Body + Unpin>(mut body: B) {
    let reading = async {
        let mut seen = 0;
        while seen < DISCARDED {
            match tokio::time::timeout(STALLS, body.frame()).await {
                Ok(Some(Ok(frame))) => {
                    seen += frame.data_ref().map_or(0, |data| data.remaining());
                }
                _ => return,
            }
        }
    };
    // How much of it has come matters to nobody.
    let _ = tokio::time::timeout(TIME, reading).await;
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use tokio::time::Instant;

    /// Kilobytes that come one after the other, each so many milliseconds after the one before;
    /// how many were taken.
    struct Comes {
        left: usize,
        every: u64,
        taken: Arc<AtomicUsize>,
        next: Option<Pin<Box<tokio::time::Sleep>>>,
    }

    impl Body for Comes {
        type Data = Bytes;
        type Error = std::convert::Infallible;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
            if self.left == 0 {
                return Poll::Ready(None);
            }
            let every = Duration::from_millis(self.every);
            let next = self
                .next
                .get_or_insert_with(|| Box::pin(tokio::time::sleep(every)));
            ready!(next.as_mut().poll(cx));
            (self.next, self.left) = (None, self.left - 1);
            self.taken.fetch_add(1, Ordering::Relaxed);
            Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(&[0; 1024])))))
        }

        fn is_end_stream(&self) -> bool {
            self.left == 0
        }
    }

    /// Of a body of so many kilobytes, which come so many milliseconds apart, `read` are read by
    /// whoever wants it. How many were in the end, and how many milliseconds the rest has taken.
    async fn taken(left: usize, every: u64, read: usize, expects: bool) -> (usize, u128) {
        let taken = Arc::new(AtomicUsize::new(0));
        let body = Comes {
            left,
            every,
            taken: taken.clone(),
            next: None,
        };
        let mut headers = HeaderMap::new();
        if expects {
            headers.insert(header::EXPECT, "100-continue".parse().unwrap());
        }
        let (mut lent, rest) = lend(body, &headers);
        for _ in 0..read {
            lent.frame().await.unwrap().unwrap();
        }
        drop(lent);
        let begun = Instant::now();
        rest.discard_first().await;
        (taken.load(Ordering::Relaxed), begun.elapsed().as_millis())
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_left_of_a_body_is_read_within_bounds() {
        assert_eq!(taken(0, 0, 0, false).await, (0, 0));
        for read in [0, 3, 5] {
            assert_eq!(taken(5, 0, read, false).await.0, 5, "{read}");
        }
        // Too much, too slow, and not at all.
        let most = DISCARDED / 1024;
        assert_eq!(taken(2 * most, 0, 3, false).await.0, most + 3);
        let (slow, time) = taken(1000, 900, 0, false).await;
        assert!(slow < 12 && time <= TIME.as_millis() + 10, "{slow} {time}");
        let (none, time) = taken(1000, 60_000, 0, false).await;
        assert!(
            none == 0 && time <= STALLS.as_millis() + 10,
            "{none} {time}"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_to_be_asked_for_a_body_is_not_asked_in_vain() {
        assert_eq!(taken(5, 0, 0, true).await.0, 0);
        assert_eq!(taken(5, 0, 1, true).await.0, 5);
    }
}

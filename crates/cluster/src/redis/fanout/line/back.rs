//! Whether what this node has said has come back: until then, nobody here has heard it.
//!
//! Own events have numbers, and get into the line in their order. So whichever comes back says so
//! of all before it. Of rooms that nobody follows here nothing comes back: the end of an empty
//! request for ends does, behind all that was in the line when it was asked for.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use heartline_core::auth::BoxFuture;
use heartline_core::backplane::line::Heard;
use tokio::sync::watch;

use super::super::send::MAX_WAIT;
use super::{Line, PATIENCE};
use crate::envelope::Origin;
use crate::locked::locked;

/// How long somebody waits at most: longer than it takes to give up what cannot be said, and then
/// to find out that no answer comes.
const LONGEST: Duration =
    Duration::from_millis(2 * MAX_WAIT.as_millis() as u64 + PATIENCE.as_millis() as u64);

/// Numbers of own events.
pub(super) struct Back {
    /// Up to which they are in the line, or were given up.
    settled: watch::Sender<u64>,
    /// Up to which they have come back, or will not.
    come: watch::Sender<u64>,
    /// The last that is known to be in the line: what is settled besides was given up, and has
    /// been told here if it is told at all. Raised before the other two look at it.
    in_line: AtomicU64,
    /// One asks at a time: what it hears is good for all who have waited.
    asks: tokio::sync::Mutex<()>,
}

impl Default for Back {
    fn default() -> Self {
        Back {
            settled: watch::Sender::new(0),
            come: watch::Sender::new(0),
            in_line: AtomicU64::new(0),
            asks: tokio::sync::Mutex::default(),
        }
    }
}

impl Back {
    /// All up to this number are in the line, or were given up; the last of them `is_in_line`.
    pub(super) fn settle(&self, number: u64, is_in_line: bool) {
        if is_in_line {
            self.in_line.fetch_max(number, Ordering::AcqRel);
        }
        raise(&self.settled, number);
        self.has_come(0);
    }

    /// All up to this number have come back, or will not; and so have those that were given up
    /// behind it, if nothing is on its way any more.
    fn has_come(&self, number: u64) {
        raise(&self.come, number);
        // Read first: of what is settled by then it is known what is in the line.
        let settled = *self.settled.borrow();
        if *self.come.borrow() >= self.in_line.load(Ordering::Acquire) {
            raise(&self.come, settled);
        }
    }
}

/// Raises what is watched; those who wait hear of it.
fn raise(watched: &watch::Sender<u64>, number: u64) {
    watched.send_if_modified(|known| {
        let is_news = *known < number;
        *known = number.max(*known);
        is_news
    });
}

impl Line {
    /// The number of what was said last, in whichever scope.
    pub(in super::super) fn last_said(&self) -> u64 {
        locked(&self.queue).last_said()
    }

    /// Resolves when all that was said up to a number has come back, or will not, at the latest
    /// after [`LONGEST`]. `None`: it has.
    pub(in super::super) fn back(self: &Arc<Self>, number: u64) -> Option<BoxFuture<()>> {
        if *self.back.come.borrow() >= number {
            return None;
        }
        let line = self.clone();
        Some(Box::pin(async move {
            let mut come = line.back.come.subscribe();
            let has_come = async {
                let _ = come.wait_for(|come| *come >= number).await;
            };
            let both = async {
                tokio::select! {
                    () = has_come => {}
                    () = line.is_behind_all(number) => {}
                }
            };
            let _ = tokio::time::timeout(LONGEST, both).await;
            // What is later than that has nobody wait once more.
            line.back.has_come(number);
        }))
    }

    /// Returns when what was in the line when all up to a number was said has come.
    async fn is_behind_all(&self, number: u64) {
        let mut settled = self.back.settled.subscribe();
        let _ = settled.wait_for(|settled| *settled >= number).await;
        let turn = self.back.asks.lock().await;
        if *self.back.come.borrow() >= number {
            return;
        }
        let upto = *self.back.settled.borrow();
        match self.collect(Vec::new(), None).await {
            Some(_) => self.back.has_come(upto),
            None => {
                // It may still come, and the next one may ask.
                drop(turn);
                std::future::pending().await
            }
        }
    }

    /// The number that comes back with an event of this node's own: of all before it nothing is
    /// on its way any more.
    pub(in super::super) fn own_number(&self, heard: &Heard<'_>, origin: Origin) -> Option<u64> {
        // A gap goes before what waits, and has a later number.
        let is_said = heard.message.is_some() && heard.edges_after.is_none();
        (origin.tag == self.tag && is_said).then_some(origin.number)
    }

    /// All that is for this node up to one of its own numbers has been told.
    pub(in super::super) fn has_come(&self, number: u64) {
        self.back.has_come(number);
    }
}

//! What the fan-out counts, and how often it complains.

use std::sync::Mutex;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use tokio::time::Instant;

use crate::locked::locked;

/// At most one error in this time is logged: all are counted.
const LOG_INTERVAL: Duration = Duration::from_secs(10);

/// What happened so far; all of it grows.
#[derive(Debug, Default)]
pub struct Counters {
    /// Publications sent to other nodes.
    pub sent: AtomicU64,
    /// Publications that came from other nodes.
    pub received: AtomicU64,
    /// Publications that could not be sent to other nodes.
    pub undelivered: AtomicU64,
    /// Publications of other nodes that were dropped here, as there was too much to do.
    pub dropped: AtomicU64,
    /// Times this node was cut off from the others' publications.
    pub gaps: AtomicU64,
    /// Times that somebody was told of lost publications: a room, a user, everybody.
    pub missed: AtomicU64,
    /// Errors of the server or the link to it.
    pub errors: AtomicU64,
    logged: LogLimit,
    /// For publications over a bound.
    pub(super) refused: LogLimit,
}

/// Logs what goes wrong again and again, now and then.
#[derive(Debug, Default)]
pub(super) struct LogLimit(Mutex<Option<Instant>>);

impl LogLimit {
    /// Logs, unless something was logged a moment ago.
    pub(super) fn warn(&self, error: &dyn std::fmt::Display, what: &str) {
        let mut logged = locked(&self.0);
        if logged.is_none_or(|at| at.elapsed() > LOG_INTERVAL) {
            *logged = Some(Instant::now());
            tracing::warn!(%error, "{what}");
        }
    }
}

impl Counters {
    /// Logs an error, unless one was logged a moment ago.
    pub(super) fn complain(&self, error: &dyn std::fmt::Display, what: &str) {
        self.logged.warn(error, what);
    }
}

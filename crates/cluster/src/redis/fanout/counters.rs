//! What the fan-out counts, and how often it complains.

use std::sync::atomic::AtomicU64;

use crate::seldom::LogLimit;

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
    /// Publications of other nodes in a version that this one does not know.
    pub newer: AtomicU64,
    /// Publications of other nodes that nobody could read.
    pub damaged: AtomicU64,
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

impl Counters {
    /// Logs an error, unless one was logged a moment ago.
    pub(super) fn complain(&self, error: &dyn std::fmt::Display, what: &str) {
        self.logged.warn(error, what);
    }
}

//! Lines of the log that may be due again and again: now and then one.

use std::sync::Mutex;
use std::time::Duration;

use tokio::time::Instant;

use crate::locked::locked;

/// At most one line in this time: what it is about is counted as well.
const INTERVAL: Duration = Duration::from_secs(10);

/// Logs what goes wrong again and again, now and then.
#[derive(Debug, Default)]
pub(crate) struct LogLimit(Mutex<Option<Instant>>);

impl LogLimit {
    /// Logs, unless something was logged a moment ago.
    pub(crate) fn warn(&self, error: &dyn std::fmt::Display, what: &str) {
        let mut logged = locked(&self.0);
        if logged.is_none_or(|at| at.elapsed() > INTERVAL) {
            *logged = Some(Instant::now());
            tracing::warn!(%error, "{what}");
        }
    }
}

//! How much one operation may ask of the store, and how long its answer is waited for: by how
//! long the last answers took.

use std::time::Duration;

/// Newcomers, departures or users in one operation: a few milliseconds of the store's
/// time at most.
pub(super) const MAX_PER_OPERATION: usize = 200;
/// So many at least, for what an operation costs by itself.
const MIN_PER_OPERATION: usize = 10;
/// An answer that takes longer says that the store has too much to do. Renewals wait as long,
/// so it is far less than a lease.
const SLOW: Duration = Duration::from_millis(200);
/// One that takes less says that it has time.
const QUICK: Duration = Duration::from_millis(50);
/// The least time after which an operation is said again.
const MIN_PATIENCE: Duration = Duration::from_millis(500);

/// The pace of one incarnation.
pub(super) struct Pace {
    size: usize,
    latency: Duration,
}

impl Default for Pace {
    fn default() -> Pace {
        Pace {
            size: MAX_PER_OPERATION,
            latency: Duration::ZERO,
        }
    }
}

impl Pace {
    /// Newcomers, departures or users for one operation.
    pub(super) fn size(&self) -> usize {
        self.size
    }

    /// An answer came after so long.
    pub(super) fn answered(&mut self, took: Duration) {
        self.latency = (self.latency * 3 + took) / 4;
        if took > SLOW {
            self.shrink();
        } else if took < QUICK {
            self.size = (self.size + self.size / 4 + 1).min(MAX_PER_OPERATION);
        }
    }

    /// None came.
    pub(super) fn shrink(&mut self) {
        self.size = (self.size / 2).max(MIN_PER_OPERATION);
    }

    /// How long to wait for an answer after so many that were late: for several times as long as
    /// answers take, and `most` at most. Saying it again costs little.
    pub(super) fn patience(&self, late: u32, most: Duration) -> Duration {
        let first = (self.latency * 8).max(MIN_PATIENCE);
        (first * 2u32.pow(late.min(8))).min(most)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_shrink_while_answers_are_late_and_grow_again() {
        let mut pace = Pace::default();
        for _ in 0..10 {
            pace.answered(SLOW * 2);
        }
        assert_eq!(pace.size(), MIN_PER_OPERATION);
        for _ in 0..30 {
            pace.answered(Duration::from_millis(3));
        }
        assert_eq!(pace.size(), MAX_PER_OPERATION);
    }

    #[test]
    fn a_busy_store_is_given_more_time_and_never_more_than_allowed() {
        let most = Duration::from_secs(2);
        let mut pace = Pace::default();
        assert_eq!(pace.patience(0, most), MIN_PATIENCE);
        assert_eq!(pace.patience(1, most), MIN_PATIENCE * 2);
        for _ in 0..20 {
            pace.answered(Duration::from_millis(150));
        }
        assert!(pace.patience(0, most) > Duration::from_secs(1));
        assert_eq!(pace.patience(3, most), most);
    }
}

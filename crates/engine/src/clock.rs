//! Time: the one place that reads a clock.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use heartline_wire::time::Micros;
use tokio::time::Instant;

/// Time as the engine sees it: moments of one monotonic clock since the gateway
/// started, and what Unix time that was. It is the clock of the tokio runtime's timers, so
/// a test that stops these stops it too.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    start: Instant,
    unix_start: Duration,
}

impl Clock {
    /// A clock whose time begins now.
    pub fn start() -> Self {
        Clock {
            start: Instant::now(),
            unix_start: SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .unwrap_or_default(),
        }
    }

    /// The same, but it is this time since the beginning of Unix time.
    #[cfg(any(test, feature = "harness"))]
    pub fn start_at(unix_start: Duration) -> Self {
        Clock {
            start: Instant::now(),
            unix_start,
        }
    }

    /// The present moment; never 0.
    pub fn now(&self) -> Micros {
        Micros(self.start.elapsed().as_micros() as u64 + 1)
    }

    /// The Unix time in milliseconds of a moment of this clock.
    pub fn unix_millis(&self, at: Micros) -> u64 {
        (self.unix_start.as_micros() as u64 + at.0) / 1000
    }

    /// The moment of this clock at a Unix time in milliseconds.
    pub fn at_unix_millis(&self, unix: u64) -> Micros {
        Micros(unix.saturating_mul(1000)) - self.unix_start
    }
}

//! Time: the one place that reads a clock.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::Instant;

/// Microseconds of the shard's monotonic clock.
pub type Micros = u64;

/// A duration in microseconds, the largest there is for what is longer.
pub fn micros(duration: Duration) -> Micros {
    u64::try_from(duration.as_micros()).unwrap_or(Micros::MAX)
}

/// The first moment after `now` that is whole periods of `every` after `last`. What was
/// missed meanwhile is not made up for, and those who were spread out stay so.
pub fn next_in_phase(last: Micros, every: Micros, now: Micros) -> Micros {
    let every = every.max(1);
    let missed = now.saturating_sub(last) / every;
    last.saturating_add(every.saturating_mul(missed + 1))
}

/// Time as the engine sees it: monotonic microseconds since the gateway
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

    /// Microseconds since the start; never 0.
    pub fn now(&self) -> Micros {
        self.start.elapsed().as_micros() as Micros + 1
    }

    /// The Unix time in milliseconds of a moment of this clock.
    pub fn unix_millis(&self, at: Micros) -> u64 {
        (self.unix_start.as_micros() as u64 + at) / 1000
    }

    /// The moment of this clock at a Unix time in milliseconds.
    pub fn at_unix_millis(&self, unix: u64) -> Micros {
        (unix.saturating_mul(1000)).saturating_sub(self.unix_start.as_micros() as u64)
    }
}

//! Time: the one place that reads a clock.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use heartline_wire::time::Micros;
use tokio::time::Instant;

/// A clock that goes as fast as the other needs no setting: rounding, and a second that is smeared.
const SET: Duration = Duration::from_millis(500);

/// Time as the engine sees it: moments of one monotonic clock since the gateway
/// started, and what Unix time that was, by the system's clock as it was set last. It is the
/// clock of the tokio runtime's timers, so a test that stops these stops it too.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    start: Instant,
    /// Microseconds. All copies have one, which stays for as long as the process: 8 bytes.
    unix_start: &'static AtomicU64,
    /// What it was at the start.
    first: u64,
    follows: bool,
}

impl Clock {
    /// A clock whose time begins now.
    pub fn start() -> Self {
        Clock::new(system(), true)
    }

    /// The same, but it is this time since the beginning of Unix time, whatever the system's says.
    #[cfg(any(test, feature = "harness"))]
    pub fn start_at(unix_start: Duration) -> Self {
        Clock::new(unix_start, false)
    }

    fn new(unix_start: Duration, follows: bool) -> Self {
        Clock {
            start: Instant::now(),
            unix_start: Box::leak(Box::new(AtomicU64::new(micros(unix_start)))),
            first: micros(unix_start),
            follows,
        }
    }

    /// The present moment; never 0.
    pub fn now(&self) -> Micros {
        Micros(self.start.elapsed().as_micros() as u64 + 1)
    }

    /// Takes over what the system's clock says, if that was set since, or the machine has slept:
    /// what time it was before. To be called now and then; moments stay what they are.
    pub fn follow(&self) -> Option<SystemTime> {
        match self.follows {
            true => self.set(system()),
            false => None,
        }
    }

    /// It is this time since the beginning of Unix time.
    pub fn set(&self, unix: Duration) -> Option<SystemTime> {
        let elapsed = micros(self.start.elapsed());
        let unix_start = micros(unix).saturating_sub(elapsed);
        let before = self.unix_start.load(Ordering::Relaxed);
        if unix_start.abs_diff(before) < micros(SET) {
            return None;
        }
        self.unix_start.store(unix_start, Ordering::Relaxed);
        UNIX_EPOCH.checked_add(Duration::from_micros(before.saturating_add(elapsed)))
    }

    /// The Unix time in milliseconds of a moment of this clock.
    pub fn unix_millis(&self, at: Micros) -> u64 {
        self.unix_start.load(Ordering::Relaxed).saturating_add(at.0) / 1000
    }

    /// The same by the system's clock as it was at the start: whatever is ordered by it stays so
    /// when that is set.
    pub fn steady_millis(&self, at: Micros) -> u64 {
        self.first.saturating_add(at.0) / 1000
    }

    /// The moment of this clock at a Unix time in milliseconds.
    pub fn at_unix_millis(&self, unix: u64) -> Micros {
        let unix_start = self.unix_start.load(Ordering::Relaxed);
        Micros(unix.saturating_mul(1000).saturating_sub(unix_start))
    }
}

/// Since the beginning of Unix time.
fn system() -> Duration {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_secs(86_400);

    #[test]
    fn a_clock_that_is_set_keeps_its_moments() {
        let clock = Clock::start_at(DAY);
        let (copy, at) = (clock, clock.now());
        assert!((0..1_000).contains(&(clock.unix_millis(at) - 86_400_000)));
        // Less than anybody sets one by.
        assert_eq!(clock.set(DAY + Duration::from_millis(300)), None);
        assert_eq!(clock.follow(), None);
        let before = clock.set(100 * DAY).unwrap();
        assert!(before < UNIX_EPOCH + DAY + Duration::from_secs(5));
        let steady = copy.steady_millis(copy.now());
        assert!((0..5_000).contains(&(steady - 86_400_000)), "{steady}");
        let now = copy.unix_millis(copy.now());
        assert!((0..5_000).contains(&(now - 8_640_000_000)), "{now}");
        assert!(clock.now() - at < Duration::from_secs(5));
        // Set back, also to before it was started.
        assert!(clock.set(DAY).is_some());
        assert!(copy.unix_millis(at) < 86_405_000);
        assert!(clock.at_unix_millis(0) == Micros(0));
        assert!(clock.set(Duration::ZERO).is_some());
    }

    #[test]
    fn the_clock_of_a_gateway_follows_that_of_the_system() {
        let clock = Clock::start();
        assert_eq!(clock.follow(), None);
        assert!(clock.set(DAY).is_some());
        assert!(
            clock
                .follow()
                .is_some_and(|before| before >= UNIX_EPOCH + DAY)
        );
        let off = (clock.unix_millis(clock.now()) / 1000).abs_diff(system().as_secs());
        assert!(off <= 5, "{off}");
    }
}

//! Time as an argument: moments of a clock that somebody else reads.

use std::ops::{Add, AddAssign, Sub};
use std::time::Duration;

/// A moment: microseconds of one monotonic clock, which began when the gateway did. What
/// lies between two moments is a [`Duration`]. Sums and differences end at the first and
/// the last moment there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Micros(pub u64);

impl Micros {
    /// Before all that the clock tells.
    pub const ZERO: Micros = Micros(0);
    /// Never.
    pub const MAX: Micros = Micros(u64::MAX);
}

impl Micros {
    /// The first moment after `now` that is whole periods of `every` after this one. What
    /// was missed meanwhile is not made up for, and those who were spread out stay so.
    pub fn next_in_phase(self, every: Duration, now: Micros) -> Micros {
        let every = micros(every).max(1);
        let missed = now.0.saturating_sub(self.0) / every;
        Micros(self.0.saturating_add(every.saturating_mul(missed + 1)))
    }
}

/// A duration in whole microseconds, the largest number there is for what is longer.
pub fn micros(duration: Duration) -> u64 {
    let whole = duration.as_secs().saturating_mul(1_000_000);
    whole.saturating_add(u64::from(duration.subsec_micros()))
}

impl Add<Duration> for Micros {
    type Output = Micros;

    fn add(self, later: Duration) -> Micros {
        Micros(self.0.saturating_add(micros(later)))
    }
}

impl AddAssign<Duration> for Micros {
    fn add_assign(&mut self, later: Duration) {
        *self = *self + later;
    }
}

impl Sub<Duration> for Micros {
    type Output = Micros;

    fn sub(self, earlier: Duration) -> Micros {
        Micros(self.0.saturating_sub(micros(earlier)))
    }
}

/// The time since another moment; none if that is still to come.
impl Sub for Micros {
    type Output = Duration;

    fn sub(self, since: Micros) -> Duration {
        Duration::from_micros(self.0.saturating_sub(since.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn never_stays_never_and_nothing_is_before_the_beginning() {
        let second = Duration::from_secs(1);
        assert_eq!(Micros(1) + second, Micros(1_000_001));
        assert_eq!(Micros::MAX + second, Micros::MAX);
        assert_eq!(Micros(1) + Duration::MAX, Micros::MAX);
        assert_eq!(Micros(1) - second, Micros::ZERO);
        assert_eq!(Micros(5) - Micros(2), Duration::from_micros(3));
        assert_eq!(Micros(2) - Micros(5), Duration::ZERO);
        assert_eq!(
            Micros(7).next_in_phase(second, Micros(7)),
            Micros(1_000_007)
        );
        assert_eq!(
            Micros(7).next_in_phase(second, Micros(9_000_000)),
            Micros(9_000_007)
        );
    }
}

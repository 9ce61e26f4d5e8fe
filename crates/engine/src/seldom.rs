//! Lines of the log that a stranger can cause: now and then one, with how many there were.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use heartline_wire::time::Micros;

/// Lets one of many through.
#[derive(Debug)]
pub struct Seldom {
    /// Shortest time between two.
    period: Duration,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    last: Option<Micros>,
    /// Those that were kept back since.
    kept_back: u64,
}

impl Seldom {
    /// At most one in this time.
    pub const fn every(period: Duration) -> Self {
        Seldom {
            period,
            state: Mutex::new(State {
                last: None,
                kept_back: 0,
            }),
        }
    }

    /// For how many this one speaks, itself included; `None`: it is not for the log.
    pub fn speaks_for(&self, now: Micros) -> Option<u64> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let soon = |last: Micros| now < last + self.period;
        if state.last.is_some_and(soon) {
            state.kept_back += 1;
            return None;
        }
        state.last = Some(now);
        Some(1 + std::mem::take(&mut state.kept_back))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_comes_once_in_a_while_and_counts_those_that_did_not() {
        let seldom = Seldom::every(Duration::from_micros(100));
        assert_eq!(seldom.speaks_for(Micros(5)), Some(1));
        assert_eq!(seldom.speaks_for(Micros(5)), None);
        assert_eq!(seldom.speaks_for(Micros(104)), None);
        assert_eq!(seldom.speaks_for(Micros(105)), Some(3));
        assert_eq!(seldom.speaks_for(Micros(500)), Some(1));
    }
}

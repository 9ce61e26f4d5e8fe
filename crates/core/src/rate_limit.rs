//! How often something may happen. Time is an argument.
//!
//! Two shapes of one rule, "at most `count` in any `window`":
//! [`Gcra`] is a single number, kept in the connection, for limits that are
//! per socket; it allows a burst of `count` and then one every `window/count`.
//! [`KeyedLimiter`] remembers the moments themselves, so the rule holds exactly
//! in every window, also across the edge of two; it is shared by all
//! connections of a key (a user's devices, an address), survives
//! reconnections, is bounded, and forgets keys that rest.

use std::collections::VecDeque;
use std::hash::{BuildHasher, Hash};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use hashbrown::{DefaultHashBuilder, HashMap};
use heartline_wire::time::{Micros, micros};

use crate::policy::Limit;

/// Generic cell rate algorithm: the theoretical arrival time of the next event.
#[derive(Debug, Clone, Copy, Default)]
pub struct Gcra(Micros);

impl Gcra {
    /// Whether one more may happen at `now`; else how long to wait.
    pub fn take(&mut self, limit: Limit, now: Micros) -> Result<(), Duration> {
        let step = (micros(limit.window) / u64::from(limit.count.max(1))).max(1);
        let arrival = self.0.max(now) + Duration::from_micros(step);
        let latest = now + limit.window;
        if arrival > latest {
            return Err(arrival - latest);
        }
        self.0 = arrival;
        Ok(())
    }
}

const PARTS: usize = 64;
/// Keys remembered per part; the bound of the whole is 64 times that.
const KEYS_PER_PART: usize = 4096;
/// Moments remembered per part, eight bytes each: 1 MB, so 64 MB in all. A key by itself may
/// have as many as its limit counts.
const MOMENTS_PER_PART: usize = 131_072;

struct Recent {
    moments: VecDeque<Micros>,
    window: Duration,
    /// Refusals since something was last allowed.
    refused: u32,
}

struct Part<K> {
    keys: HashMap<K, Recent>,
    /// Moments of all keys together.
    moments: usize,
}

impl<K> Default for Part<K> {
    fn default() -> Self {
        Part {
            keys: HashMap::new(),
            moments: 0,
        }
    }
}

/// What a limiter says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It may happen, and is counted.
    Allowed,
    /// Not now.
    Refused {
        /// When it is worth trying again, from now.
        again_in: Duration,
        /// Refusals in a row, this one included.
        refused: u32,
    },
}

/// Counts what happens by a key (a user, an address), exactly: what a limit says holds in
/// every window.
pub struct KeyedLimiter<K> {
    parts: Vec<Mutex<Part<K>>>,
    hasher: DefaultHashBuilder,
}

impl<K> Default for KeyedLimiter<K> {
    fn default() -> Self {
        KeyedLimiter {
            parts: (0..PARTS).map(|_| Mutex::default()).collect(),
            hasher: DefaultHashBuilder::default(),
        }
    }
}

impl<K: Hash + Eq> KeyedLimiter<K> {
    /// Whether one more may happen for `key` at `now`. A refusal is not counted
    /// as an event.
    pub fn take(&self, key: K, limit: Limit, now: Micros) -> Verdict {
        let window = limit.window;
        let part = (self.hasher.hash_one(&key) >> 32) as usize % PARTS;
        let mut part = self.parts[part]
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        part.make_room(&key, now);
        let Part { keys, moments } = &mut *part;
        let recent = keys.entry(key).or_insert_with(|| Recent {
            moments: VecDeque::new(),
            window,
            refused: 0,
        });
        while recent
            .moments
            .front()
            .is_some_and(|&moment| moment + window <= now)
        {
            recent.moments.pop_front();
            *moments -= 1;
        }
        if recent.moments.len() >= limit.count as usize {
            recent.refused = recent.refused.saturating_add(1);
            let oldest = recent.moments.front().copied().unwrap_or(now);
            return Verdict::Refused {
                again_in: (oldest + window - now).max(Duration::from_micros(1)),
                refused: recent.refused,
            };
        }
        recent.moments.push_back(now);
        *moments += 1;
        recent.refused = 0;
        Verdict::Allowed
    }

    /// How long it takes until one more may happen for `key`, if none may at `now`; nothing is
    /// counted.
    pub fn wait(&self, key: &K, limit: Limit, now: Micros) -> Option<Duration> {
        let part = (self.hasher.hash_one(key) >> 32) as usize % PARTS;
        let part = self.parts[part]
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let moments = &part.keys.get(key)?.moments;
        let counts = |moment: &&Micros| **moment + limit.window > now;
        let mut recent = moments.iter().filter(counts);
        let oldest = *recent.clone().next()?;
        let is_full = recent.by_ref().count() >= limit.count as usize;
        is_full.then(|| (oldest + limit.window - now).max(Duration::from_micros(1)))
    }

    /// Forgets keys whose last event no longer counts.
    pub fn forget_idle(&self, now: Micros) {
        for part in &self.parts {
            let mut part = part.lock().unwrap_or_else(PoisonError::into_inner);
            part.keep(|_, recent| !recent.is_idle(now));
            if part.keys.is_empty() {
                part.keys.shrink_to_fit();
            }
        }
    }

    /// How many keys are remembered.
    pub fn count(&self) -> usize {
        self.parts
            .iter()
            .map(|part| {
                let part = part.lock().unwrap_or_else(PoisonError::into_inner);
                part.keys.len()
            })
            .sum()
    }
}

impl<K: Hash + Eq> Part<K> {
    fn keep(&mut self, mut which: impl FnMut(&K, &Recent) -> bool) {
        self.keys.retain(|key, recent| which(key, recent));
        let moments = self.keys.values().map(|recent| recent.moments.len());
        self.moments = moments.sum();
    }

    fn is_full_for(&self, key: &K) -> bool {
        let is_crowded = self.keys.len() >= KEYS_PER_PART && !self.keys.contains_key(key);
        is_crowded || (self.moments >= MOMENTS_PER_PART && self.keys.len() > 1)
    }

    /// Makes room for a moment of `key`. Where all keys are busy, the oldest quarter goes,
    /// which errs on the side of the users forgotten: a quarter at once, so that the search
    /// is paid for by many.
    fn make_room(&mut self, key: &K, now: Micros) {
        if !self.is_full_for(key) {
            return;
        }
        self.keep(|_, recent| !recent.is_idle(now));
        if self.is_full_for(key) {
            let last = |recent: &Recent| recent.moments.back().copied().unwrap_or_default();
            let mut moments: Vec<Micros> = self.keys.values().map(last).collect();
            let quarter = moments.len() / 4;
            let (_, &mut threshold, _) = moments.select_nth_unstable(quarter);
            self.keep(|one, recent| one == key || last(recent) > threshold);
        }
    }
}

impl Recent {
    fn is_idle(&self, now: Micros) -> bool {
        self.moments
            .back()
            .is_none_or(|&moment| moment + self.window <= now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn at(seconds: f64) -> Micros {
        Micros::ZERO + SECOND.mul_f64(seconds)
    }

    const TEN: Limit = Limit::per(10, 10);

    #[test]
    fn the_eleventh_in_ten_seconds_is_refused_and_told_when() {
        let limiter = KeyedLimiter::default();
        for i in 0..10 {
            assert_eq!(
                limiter.take("u", TEN, at(f64::from(i) / 2.0)),
                Verdict::Allowed
            );
        }
        let refused = limiter.take("u", TEN, at(6.0));
        assert_eq!(
            refused,
            Verdict::Refused {
                again_in: 4 * SECOND,
                refused: 1
            }
        );
        assert_eq!(limiter.take("u", TEN, at(10.0)), Verdict::Allowed);
        assert_eq!(limiter.take("other", TEN, at(6.0)), Verdict::Allowed);
    }

    #[test]
    fn who_only_looks_is_not_counted_and_is_told_when() {
        let limiter = KeyedLimiter::default();
        assert_eq!(limiter.wait(&"u", TEN, at(0.0)), None);
        for i in 0..10 {
            assert_eq!(limiter.wait(&"u", TEN, at(f64::from(i))), None);
            limiter.take("u", TEN, at(f64::from(i)));
        }
        assert_eq!(limiter.wait(&"u", TEN, at(9.0)), Some(SECOND));
        assert_eq!(limiter.wait(&"other", TEN, at(9.0)), None);
        assert_eq!(limiter.wait(&"u", TEN, at(10.0)), None);
    }

    #[test]
    fn a_thousand_idle_keys_are_forgotten() {
        let limiter = KeyedLimiter::default();
        for key in 0..1000 {
            limiter.take(key, TEN, Micros::ZERO);
        }
        assert_eq!(limiter.count(), 1000);
        limiter.forget_idle(at(10.0));
        assert_eq!(limiter.count(), 0);
    }

    #[test]
    fn the_number_of_keys_is_bounded() {
        let limiter = KeyedLimiter::default();
        for key in 0..(PARTS * KEYS_PER_PART * 2) {
            limiter.take(key, TEN, Micros(key as u64 % 1000));
        }
        assert!(limiter.count() <= PARTS * KEYS_PER_PART);
    }

    #[test]
    fn what_is_remembered_is_bounded_in_bytes_and_somebody_new_is_counted_all_the_same() {
        let limiter = KeyedLimiter::default();
        let generous = Limit::per(100_000, 1000);
        for key in 0..200 {
            for _ in 0..50_000 {
                limiter.take(key, generous, Micros(key as u64));
            }
        }
        let moments = limiter
            .parts
            .iter()
            .map(|part| part.lock().unwrap().moments);
        // One key of a part may be over by what it has itself.
        assert!(
            moments
                .clone()
                .all(|moments| moments <= MOMENTS_PER_PART + 50_000)
        );
        assert!(moments.sum::<usize>() < 200 * 50_000);
        let one = Limit::per(1, 1000);
        assert_eq!(limiter.take(1000, one, Micros(300)), Verdict::Allowed);
        assert_ne!(limiter.take(1000, one, Micros(300)), Verdict::Allowed);
    }

    proptest! {
        #[test]
        fn no_window_ever_holds_more_than_count(gaps in prop::collection::vec(0u64..3_000_000, 1..200)) {
            let limiter = KeyedLimiter::default();
            let mut now = Micros::ZERO;
            let mut allowed: Vec<Micros> = Vec::new();
            for gap in gaps {
                now += Duration::from_micros(gap);
                if limiter.take((), TEN, now) == Verdict::Allowed {
                    allowed.push(now);
                }
                let inside = allowed.iter().filter(|&&at| at + 10 * SECOND > now).count();
                prop_assert!(inside <= 10);
            }
        }

        #[test]
        fn gcra_allows_a_burst_and_then_the_rate(gaps in prop::collection::vec(0u64..2_000_000, 1..200)) {
            let mut gcra = Gcra::default();
            let (mut now, mut allowed) = (Micros::ZERO, 0);
            for gap in gaps {
                now += Duration::from_micros(gap);
                match gcra.take(TEN, now) {
                    Ok(()) => allowed += 1,
                    Err(wait) => prop_assert!(gcra.clone().take(TEN, now + wait).is_ok()),
                }
            }
            prop_assert!(allowed <= 10 + (now - Micros::ZERO).as_secs());
        }
    }
}

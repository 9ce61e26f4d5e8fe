//! One timing wheel per shard: the next deadline of each of its connections.
//!
//! A hashed wheel: a deadline hangs in the list of its tick modulo the number
//! of lists; a list's visitor leaves alone what belongs to a later turn. Arming,
//! re-arming and cancelling are a few writes. A deadline fires at most one tick
//! (8 ms) late and never early.

use heartline_wire::id::Slot;
use heartline_wire::time::Micros;

const TICK_SHIFT: u32 = 13; // 8 192 µs
const SLOTS: usize = 2048; // one turn is 16.8 s
const NONE: u32 = u32::MAX;
/// Whoever hangs in no list has this before itself.
const NOWHERE: u32 = NONE - 1;
/// Furthest deadline, in ticks from now: a hundred days. What is meant to come later comes
/// then, and is asked for again.
const FURTHEST: u64 = 1 << 30;

#[derive(Clone, Copy)]
struct Node {
    next: u32,
    /// `NOWHERE` when not armed.
    prev: u32,
    /// The low half of the tick that it fires in: no two that are armed lie so far from each
    /// other that it would not do, however long the process has run.
    tick: u32,
}

const UNARMED: Node = Node {
    next: NONE,
    prev: NOWHERE,
    tick: 0,
};

impl Node {
    fn is_armed(&self) -> bool {
        self.prev != NOWHERE
    }

    /// Whether its tick is `target` or came before it.
    fn is_due(&self, target: u64) -> bool {
        (target as u32).wrapping_sub(self.tick) < 1 << 31
    }
}

pub(crate) struct Wheel {
    heads: Box<[u32]>,
    counts: Box<[u32]>,
    occupied: [u64; SLOTS / 64],
    nodes: Vec<Node>,
    /// The first tick that has not been visited.
    current: u64,
    armed: usize,
}

impl Wheel {
    pub(crate) fn new(now: Micros) -> Self {
        Wheel {
            heads: vec![NONE; SLOTS].into_boxed_slice(),
            counts: vec![0; SLOTS].into_boxed_slice(),
            occupied: [0; SLOTS / 64],
            nodes: Vec::new(),
            current: tick_of(now),
            armed: 0,
        }
    }

    /// Arms `key` for `deadline`, in place of what it was armed for.
    pub(crate) fn set(&mut self, Slot(key): Slot, deadline: Micros) {
        let tick = tick_after(deadline).clamp(self.current, self.current + FURTHEST);
        if self.nodes.len() <= key as usize {
            self.nodes.resize(key as usize + 1, UNARMED);
        }
        let known = self.nodes[key as usize];
        if known.is_armed() && known.tick == tick as u32 {
            return;
        }
        self.cancel(Slot(key));
        let slot = tick as usize % SLOTS;
        let head = self.heads[slot];
        self.nodes[key as usize] = Node {
            next: head,
            prev: NONE,
            tick: tick as u32,
        };
        if head != NONE {
            self.nodes[head as usize].prev = key;
        }
        self.heads[slot] = key;
        self.counts[slot] += 1;
        self.occupied[slot / 64] |= 1 << (slot % 64);
        self.armed += 1;
    }

    /// Disarms `key`, if it is armed.
    pub(crate) fn cancel(&mut self, Slot(key): Slot) {
        let Some(&node) = self.nodes.get(key as usize) else {
            return;
        };
        if !node.is_armed() {
            return;
        }
        let slot = node.tick as usize % SLOTS;
        if node.prev == NONE {
            self.heads[slot] = node.next;
        } else {
            self.nodes[node.prev as usize].next = node.next;
        }
        if node.next != NONE {
            self.nodes[node.next as usize].prev = node.prev;
        }
        self.counts[slot] -= 1;
        if self.counts[slot] == 0 {
            self.occupied[slot / 64] &= !(1 << (slot % 64));
        }
        self.nodes[key as usize] = UNARMED;
        self.armed -= 1;
    }

    /// Moves to `now` and appends the keys whose deadlines have come, disarmed.
    pub(crate) fn advance(&mut self, now: Micros, due: &mut Vec<Slot>) {
        let target = tick_of(now);
        if target < self.current {
            return;
        }
        let steps = (target - self.current + 1).min(SLOTS as u64);
        if self.armed > 0 {
            let first = target + 1 - steps;
            for tick in first..=target {
                let slot = tick as usize % SLOTS;
                if self.occupied[slot / 64] >> (slot % 64) & 1 == 0 {
                    continue;
                }
                let mut key = self.heads[slot];
                while key != NONE {
                    let node = self.nodes[key as usize];
                    if node.is_due(target) {
                        self.cancel(Slot(key));
                        due.push(Slot(key));
                    }
                    key = node.next;
                }
            }
        }
        self.current = target + 1;
    }

    /// When `advance` should be called next; `None` when nothing is armed. May
    /// be early (a list whose entries belong to a later turn), never late.
    pub(crate) fn next_wake(&self) -> Option<Micros> {
        if self.armed == 0 {
            return None;
        }
        let start = self.current as usize % SLOTS;
        let words = SLOTS / 64;
        for step in 0..=words {
            let word = (start / 64 + step) % words;
            let mut bits = self.occupied[word];
            if step == 0 {
                bits &= u64::MAX << (start % 64);
            } else if step == words {
                bits &= !(u64::MAX << (start % 64));
            }
            if bits != 0 {
                let slot = word * 64 + bits.trailing_zeros() as usize;
                let ahead = (slot + SLOTS - start) % SLOTS;
                return Some(Micros((self.current + ahead as u64) << TICK_SHIFT));
            }
        }
        None
    }

    /// How many deadlines hang in the list that `deadline` belongs to: the
    /// measure by which first pings are spread.
    pub(crate) fn crowd(&self, deadline: Micros) -> u32 {
        self.counts[tick_after(deadline) as usize % SLOTS]
    }
}

/// The tick that a deadline fires in. Rounded up: it never fires early.
fn tick_after(deadline: Micros) -> u64 {
    tick_of(Micros(deadline.0.saturating_add((1 << TICK_SHIFT) - 1)))
}

fn tick_of(time: Micros) -> u64 {
    time.0 >> TICK_SHIFT
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn fired(wheel: &mut Wheel, now: Micros) -> Vec<Slot> {
        let mut due = Vec::new();
        wheel.advance(now, &mut due);
        due.sort_unstable();
        due
    }

    #[test]
    fn fires_once_and_never_early() {
        let mut wheel = Wheel::new(Micros::ZERO);
        wheel.set(Slot(3), Micros(100_000));
        assert_eq!(fired(&mut wheel, Micros(99_000)), []);
        assert_eq!(fired(&mut wheel, Micros(100_000 + 8_192)), [Slot(3)]);
        assert_eq!(fired(&mut wheel, Micros(90_000_000)), []);
    }

    #[test]
    fn a_later_turn_is_left_alone() {
        let mut wheel = Wheel::new(Micros::ZERO);
        wheel.set(Slot(0), Micros(60_000_000));
        for second in 1..60 {
            assert_eq!(fired(&mut wheel, Micros(second * 1_000_000)), []);
        }
        assert_eq!(fired(&mut wheel, Micros(60_010_000)), [Slot(0)]);
    }

    #[test]
    fn a_long_sleep_misses_nothing() {
        let mut wheel = Wheel::new(Micros::ZERO);
        for key in 0..100 {
            wheel.set(Slot(key), Micros(u64::from(key) * 700_000));
        }
        assert_eq!(fired(&mut wheel, Micros(3_600_000_000)).len(), 100);
    }

    #[test]
    fn deadlines_come_however_long_the_process_has_run() {
        const SECOND: u64 = 1_000_000;
        const DAY: u64 = 86_400 * SECOND;
        let mut wheel = Wheel::new(Micros::ZERO);
        for days in [1, 406, 407, 408, 900, 36_500] {
            let now = days * DAY;
            let late = Micros(now + 25 * SECOND + (1 << TICK_SHIFT));
            assert_eq!(fired(&mut wheel, Micros(now)), []);
            wheel.set(Slot(0), Micros(now + 25 * SECOND));
            wheel.set(Slot(1), Micros(now + 400 * DAY));
            assert!(wheel.next_wake().expect("armed") <= late, "on day {days}");
            assert_eq!(fired(&mut wheel, Micros(now + 24 * SECOND)), []);
            assert_eq!(fired(&mut wheel, late), [Slot(0)], "on day {days}");
            wheel.cancel(Slot(1));
        }
    }

    proptest! {
        #[test]
        fn behaves_like_a_sorted_list(ops in prop::collection::vec((0u32..40, 0u64..40_000_000, prop::bool::ANY), 1..200)) {
            let mut wheel = Wheel::new(Micros::ZERO);
            let mut model = std::collections::HashMap::new();
            let mut now = 0u64;
            for (key, delay, cancel) in ops {
                if cancel {
                    wheel.cancel(Slot(key));
                    model.remove(&key);
                } else {
                    wheel.set(Slot(key), Micros(now + delay));
                    model.insert(key, now + delay);
                }
                if let Some(Micros(wake)) = wheel.next_wake() {
                    let earliest = model.values().min().copied().expect("armed");
                    prop_assert!(wake <= earliest + 2 * 8_192, "{wake} {earliest}");
                } else {
                    prop_assert!(model.is_empty());
                }
                now += delay / 3;
                for Slot(key) in fired(&mut wheel, Micros(now)) {
                    let deadline = model.remove(&key).expect("was armed");
                    prop_assert!(deadline <= now);
                }
                prop_assert!(model.values().all(|&deadline| deadline + 8_192 > now));
            }
        }
    }
}

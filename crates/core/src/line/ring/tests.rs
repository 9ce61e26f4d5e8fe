//! A ring beside all that was ever said in its place, and beside what all nodes together have
//! kept of it.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;

use super::*;

/// An event as the model has it.
#[derive(Debug, Clone)]
struct Said {
    id: u64,
    offset: u64,
    key: Option<u8>,
    is_removal: bool,
}

impl Said {
    fn kept(&self, at: u64) -> Kept {
        Kept {
            id: self.id,
            offset: self.offset,
            at: Micros(at),
            message: Message::new("e", if self.is_removal { "null" } else { "1" }),
            key: self.key.map(|key| key.to_string().into()),
            only: None,
        }
    }
}

/// What all nodes together have kept, as `line.lua` does it.
#[derive(Debug, Clone, Default)]
struct Store {
    list: VecDeque<Said>,
    keys: BTreeMap<u8, Said>,
    known: Extent,
}

const EVENTS_THERE: usize = 5;

impl Store {
    fn drop_one(&mut self, said: &Said) {
        self.known.dropped = said.id;
        self.known.dropped_offset = said.offset;
    }

    fn say(&mut self, said: &Said) {
        match said.key {
            Some(key) if said.is_removal => drop(self.keys.remove(&key)),
            Some(key) => drop(self.keys.insert(key, said.clone())),
            None => {}
        }
        self.list.push_back(said.clone());
        self.known.last = said.id;
        while self.list.len() > EVENTS_THERE {
            let oldest = self.list.pop_front().unwrap();
            if oldest.key.is_none() || oldest.is_removal {
                self.drop_one(&oldest);
            }
        }
    }

    fn tail(&self, at: u64) -> (Extent, Vec<Kept>) {
        let mut all: BTreeMap<u64, &Said> = BTreeMap::new();
        all.extend(
            self.keys
                .values()
                .chain(&self.list)
                .map(|said| (said.id, said)),
        );
        (
            self.known,
            all.into_values().map(|said| said.kept(at)).collect(),
        )
    }
}

#[derive(Debug, Clone)]
enum Step {
    /// Something is said; who hears it, and after how many others in other places.
    Say {
        key: Option<u8>,
        is_removal: bool,
        is_heard: bool,
        others: u64,
    },
    /// It was lost for all.
    Gap {
        is_heard: bool,
    },
    /// What is kept in common is too old.
    Expire,
    /// It comes here, or an earlier state of it that was noted.
    TakeIn,
    Note,
    TakeInNoted,
    /// Time passes.
    Wait(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let say = (prop::option::of(0u8..3), any::<bool>(), 0u8..4, 0u64..3);
    let say = say.prop_map(|(key, is_removal, heard, others)| Step::Say {
        key,
        is_removal: is_removal && key.is_some(),
        is_heard: heard > 0,
        others,
    });
    let step = prop_oneof![
        12 => say,
        1 => any::<bool>().prop_map(|is_heard| Step::Gap { is_heard }),
        1 => Just(Step::Expire),
        3 => Just(Step::TakeIn),
        1 => Just(Step::Note),
        1 => Just(Step::TakeInNoted),
        1 => (1u64..6).prop_map(Step::Wait),
    ];
    prop::collection::vec(step, 1..60)
}

/// What whoever has all up to a place must be told, by number: of a key the newest.
fn due(all: &[Said], last: u64, is_after: impl Fn(&Said) -> bool) -> Vec<u64> {
    let all: Vec<&Said> = all.iter().filter(|said| said.id <= last).collect();
    let newest = |said: &Said| {
        let later = |other: &&&Said| other.id > said.id && other.key == said.key;
        said.key.is_none() || !all.iter().any(|other| later(&other))
    };
    let due = all.iter().filter(|said| is_after(said) && newest(said));
    due.map(|said| said.id).collect()
}

fn check(ring: &Ring, all: &[Said], lost: &[u64]) {
    let most = all.last().map_or(0, |said| said.id) + 1;
    let holds = |found: Vec<&Arc<Kept>>, due: Vec<u64>| {
        let found: Vec<u64> = found.iter().map(|event| event.id).collect();
        assert!(found.is_sorted_by(|a, b| a < b), "{found:?}");
        assert!(
            due.iter().all(|id| found.contains(id)),
            "{due:?} of {found:?}"
        );
        assert!(found.iter().all(|id| all.iter().any(|said| said.id == *id)));
    };
    for after in 0..=most {
        if ring.is_complete_after(after) {
            let gap = lost
                .iter()
                .find(|gap| **gap > after && **gap <= ring.last());
            assert_eq!(gap, None, "after {after} nothing was lost");
            let due = due(all, ring.last(), |said| said.id > after);
            holds(ring.between(after, ring.last()).collect(), due);
        }
    }
    let last = all.iter().rfind(|said| said.id <= ring.last());
    for after in 0..=last.map_or(0, |said| said.offset) {
        if ring.is_complete_after_offset(after) && ring.is_complete_after(0) {
            let due = due(all, ring.last(), |said| said.offset > after);
            holds(ring.between_offsets(after, u64::MAX).collect(), due);
        }
    }
}

fn run(steps: Vec<Step>, bounds: Bounds) {
    let account: Arc<Account> = Arc::default();
    let mut ring = Ring::new(account.clone());
    let (mut store, mut all, mut lost): (Store, Vec<Said>, Vec<u64>) = Default::default();
    let (mut line, mut now) = (0, 0);
    let mut noted = None;
    for step in steps {
        match step {
            Step::Say {
                key,
                is_removal,
                is_heard,
                others,
            } => {
                line += 1 + others;
                let offset = all.len() as u64 + 1;
                let said = Said {
                    id: line,
                    offset,
                    key,
                    is_removal,
                };
                let before = store.known.last;
                store.say(&said);
                all.push(said.clone());
                if is_heard {
                    if before > ring.last() {
                        ring.skip(before, offset - 1);
                    }
                    ring.push(said.kept(now), &bounds);
                }
            }
            Step::Gap { is_heard } => {
                line += 1;
                let dropped_offset = all.len() as u64;
                store = Store {
                    known: Extent {
                        last: line,
                        dropped: line,
                        dropped_offset,
                    },
                    ..Store::default()
                };
                lost.push(line);
                if is_heard {
                    ring.skip(line, dropped_offset);
                }
            }
            Step::Expire => {
                store.list.clear();
                store.known.dropped = store.known.last;
                store.known.dropped_offset = all.len() as u64;
            }
            Step::TakeIn => {
                let (known, events) = store.tail(now);
                let before = ring.last();
                ring.take_in(known, events, &bounds);
                assert_eq!(ring.last(), known.last.max(before));
                if bounds.events > 100 && known.last >= ring.last() {
                    assert!(ring.is_complete_after(known.dropped));
                }
            }
            Step::Note => noted = Some(store.tail(now)),
            Step::TakeInNoted => {
                if let Some((known, events)) = noted.take() {
                    let before = ring.last();
                    ring.take_in(known, events, &bounds);
                    assert_eq!(ring.last(), known.last.max(before));
                }
            }
            Step::Wait(time) => {
                now += time;
                ring.trim(Micros(now), &bounds);
            }
        }
        check(&ring, &all, &lost);
    }
    drop(ring);
    assert_eq!(account.held(), 0);
}

proptest! {
    #[test]
    fn what_is_said_to_be_complete_is(steps in steps()) {
        let bounds = Bounds {
            age: Duration::from_secs(1),
            events: 1_000,
            bytes: 1 << 20,
            buffer: 1 << 20,
        };
        run(steps, bounds);
    }

    #[test]
    fn within_the_tightest_bounds_what_is_said_to_be_complete_is(
        steps in steps(), events in 1usize..5, bytes in 1usize..9, buffer in 1usize..9,
    ) {
        let bounds = Bounds {
            age: Duration::from_micros(8),
            events,
            bytes: 170 * bytes,
            buffer: 170 * buffer,
        };
        run(steps, bounds);
    }
}

#[test]
fn what_was_collected_is_shared_and_stays_as_it_was_when_others_take_its_place() {
    let bounds = Bounds {
        age: Duration::from_secs(60),
        events: 3,
        bytes: 1 << 20,
        buffer: 1 << 20,
    };
    let account: Arc<Account> = Arc::default();
    let mut ring = Ring::new(account.clone());
    let say = |ring: &mut Ring, id: u64, key: Option<u8>| {
        let said = Said {
            id,
            offset: id,
            key,
            is_removal: false,
        };
        let mut event = said.kept(id);
        event.message = Message::new("e", &id.to_string());
        ring.push(event, &bounds);
    };
    for id in 1..=3 {
        say(&mut ring, id, (id == 2).then_some(1));
    }
    let collect = |ring: &Ring| ring.between(0, u64::MAX).cloned().collect::<Vec<_>>();
    let (one, other) = (collect(&ring), collect(&ring));
    let is_same = std::iter::zip(&one, &other).all(|(one, other)| Arc::ptr_eq(one, other));
    assert!(one.len() == 3 && is_same);
    drop(other);
    (4..=20).for_each(|id| say(&mut ring, id, None));
    let texts = |all: &[Arc<Kept>]| -> Vec<String> {
        all.iter()
            .map(|event| event.message.args.to_string())
            .collect()
    };
    assert_eq!(texts(&one), ["1", "2", "3"]);
    // The newest of a key stays, and the three that are the newest.
    assert_eq!(texts(&collect(&ring)), ["2", "18", "19", "20"]);
    let weighs: usize = collect(&ring).iter().map(|event| event.size()).sum();
    assert_eq!(account.held(), weighs);
    drop(ring);
    assert_eq!(account.held(), 0);
}

#[test]
fn what_was_passed_over_nobody_here_misses_and_who_comes_from_elsewhere_is_told() {
    let bounds = Bounds {
        events: 3,
        age: Duration::from_secs(60),
        bytes: 1 << 20,
        buffer: 1 << 20,
    };
    let said = |id: u64| {
        let said = Said {
            id,
            offset: 0,
            key: None,
            is_removal: false,
        };
        said.kept(1)
    };
    let ids = |ring: &Ring| -> Vec<u64> {
        let all = ring.between(0, u64::MAX);
        all.map(|event| event.id).collect()
    };
    let mut ring = Ring::new(Arc::default());
    ring.push(said(1), &bounds);
    (2..9).for_each(|id| ring.pass_over(id));
    let in_common = |dropped: u64| {
        let known = Extent {
            dropped,
            dropped_offset: 0,
            last: 8,
        };
        (known, (dropped + 1..9).map(said).collect::<Vec<_>>())
    };
    let (known, events) = in_common(5);
    ring.take_in(known, events.clone(), &bounds);
    assert!(ring.is_complete_after(0) && ids(&ring) == [1]);
    // Of these some are not kept in common any more.
    ring.is_for_others();
    ring.take_in(known, events, &bounds);
    assert!(ring.is_complete_after(5) && !ring.is_complete_after(4));
    assert_eq!(ids(&ring), [6, 7, 8]);
    // Here all are.
    let mut ring = Ring::new(Arc::default());
    ring.push(said(5), &bounds);
    (6..9).for_each(|id| ring.pass_over(id));
    ring.is_for_others();
    let (known, events) = in_common(5);
    ring.take_in(known, events, &bounds);
    assert!(ring.is_complete_after(5));
    assert_eq!(ids(&ring), [6, 7, 8]);
}

//! A room that follows the line of all nodes: what its members hear, beside what was said.

use std::cell::RefCell;
use std::time::Duration;

use heartline_wire::id::Slot;
use proptest::prelude::*;

use super::*;
use crate::message::Message;
use crate::rooms::LocalRooms;

#[derive(Debug, Clone)]
enum Step {
    /// Something is said, and comes here or does not, once or twice.
    Say {
        times: u8,
    },
    /// All nodes hear that something was lost, or this one does not.
    Gap {
        times: u8,
    },
    /// The store has forgotten the room.
    Forget,
    /// The end of the room comes.
    TakeIn,
    GoesWithout,
    Doubts,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let times = || prop_oneof![1 => Just(0u8), 5 => Just(1u8), 1 => Just(2u8)];
    let step = prop_oneof![
        12 => times().prop_map(|times| Step::Say { times }),
        1 => times().prop_map(|times| Step::Gap { times }),
        1 => Just(Step::Forget),
        4 => Just(Step::TakeIn),
        1 => Just(Step::GoesWithout),
        1 => Just(Step::Doubts),
    ];
    prop::collection::vec(step, 1..60)
}

/// What the members of the room are told.
#[derive(Debug, Clone, Copy)]
enum Told {
    /// An event of this number, the so manieth that was said at all.
    Event(u64, usize),
    Gap(Gap),
    Begin(Gap),
}

/// The room where all nodes meet.
#[derive(Debug, Default)]
struct Common {
    line: u64,
    epoch: u64,
    offset: u64,
    last: u64,
    dropped: (u64, u64),
    /// All that was said, lost or forgotten.
    count: usize,
}

impl Common {
    fn say(&mut self) -> Numbered {
        self.line += 2;
        self.count += 1;
        if self.epoch == 0 {
            self.epoch = self.line;
        }
        self.offset += 1;
        let before = std::mem::replace(&mut self.last, self.line);
        Numbered {
            id: self.line,
            before,
            epoch: self.epoch,
            offset: self.offset,
        }
    }

    fn gap(&mut self) -> Numbered {
        self.line += 2;
        self.count += 1;
        self.epoch = self.line;
        self.dropped = (self.line, self.offset);
        let before = std::mem::replace(&mut self.last, self.line);
        Numbered {
            id: self.line,
            before,
            epoch: self.epoch,
            offset: self.offset,
        }
    }
}

/// What a member knows of the room.
#[derive(Debug, Default)]
struct Member {
    /// The epoch and number of the last event, if it knows.
    at: Option<(u64, u64)>,
    /// The same among all that was said.
    count: Option<usize>,
    is_told_of_gap: bool,
}

impl Member {
    /// Looks at what it is told; `common` is as it was then.
    fn hear(&mut self, told: Told, common: &Common) {
        match told {
            Told::Begin(from) => {
                assert!(
                    self.at.is_none(),
                    "it has counted on something else: {self:?}"
                );
                self.at = Some((from.epoch, from.offset));
                self.count = Some(common.count);
            }
            Told::Gap(gap) => {
                self.at = Some((gap.epoch, gap.offset));
                self.is_told_of_gap = true;
            }
            Told::Event(offset, count) => {
                let (epoch, last) = self.at.expect("it knows where it is");
                assert_eq!(last + 1, offset);
                assert!(self.count.is_none_or(|before| before < count), "twice");
                let is_next = self.count.is_some_and(|before| before + 1 == count);
                assert!(is_next || self.is_told_of_gap, "{self:?} before {count}");
                self.at = Some((epoch, offset));
                self.count = Some(count);
                self.is_told_of_gap = false;
            }
        }
    }
}

fn kept() -> Kept {
    Kept {
        id: 0,
        offset: 0,
        at: Micros::ZERO,
        message: Message::new("e", "1"),
        key: None,
        only: None,
    }
}

fn run(steps: Vec<Step>) {
    let bounds = Bounds {
        age: Duration::from_secs(1),
        events: 100,
        bytes: 1 << 20,
        buffer: 1 << 20,
    };
    let line = Line::new(bounds, 1);
    let directory = Arc::new(RoomDirectory::new(1));
    directory.keep(line.account.clone(), true, |_| true);
    let place = RoomRef {
        namespace: NamespaceId::ROOT,
        tenant: None,
        name: "r",
    };
    let mut rooms = LocalRooms::new(directory.clone(), 0);
    rooms.join(NamespaceId::ROOT, None, "r", Slot(1), &mut Vec::new(), 0);
    let room = directory.find(&place).unwrap();
    let (mut common, mut member) = (Common::default(), Member::default());
    let told: RefCell<Vec<Told>> = RefCell::default();
    let gap = |_: usize, gap: Gap| told.borrow_mut().push(Told::Gap(gap));
    for step in steps {
        let was_awaited = room.is_awaited();
        let lasts = room.with_ring(Ring::last);
        match step {
            Step::Say { times } => {
                let at = common.say();
                let count = common.count;
                for _ in 0..times {
                    let event = |_: usize, offset: &u64| {
                        told.borrow_mut().push(Told::Event(*offset, count));
                    };
                    room.follow(&line, at, kept(), |offset, _| offset, event, gap);
                }
            }
            Step::Gap { times } => {
                let at = common.gap();
                (0..times).for_each(|_| room.follow_gap(&line, at, gap));
            }
            Step::Forget => {
                common.count += 1;
                (common.epoch, common.offset, common.last) = (0, 0, 0);
                common.dropped = (0, 0);
            }
            Step::TakeIn => {
                if common.epoch == 0 {
                    common.line += 2;
                    common.epoch = common.line;
                }
                let known = Extent {
                    dropped: common.last,
                    dropped_offset: common.offset,
                    last: common.last,
                };
                let numbers = (common.epoch, common.offset);
                room.take_in(&line, numbers, known, Vec::new(), |_, from, is_late| {
                    told.borrow_mut().push(match is_late {
                        true => Told::Gap(from),
                        false => Told::Begin(from),
                    });
                });
                assert!(!room.is_awaited());
            }
            Step::GoesWithout => room.goes_without(),
            Step::Doubts => room.doubts(),
        }
        let heard = std::mem::take(&mut *told.borrow_mut());
        heard.iter().for_each(|told| member.hear(*told, &common));
        if was_awaited && heard.is_empty() {
            assert_eq!(
                room.with_ring(Ring::last),
                lasts,
                "nothing is kept that nobody heard"
            );
        }
        let (epoch, offset) = member.at.unwrap_or((room.epoch(), room.offset()));
        assert_eq!((room.epoch(), room.offset()), (epoch, offset));
        let offsets = room.with_ring(|ring| {
            let kept = ring.between_offsets(0, u64::MAX);
            kept.map(|event| event.offset).collect::<Vec<_>>()
        });
        let offsets = offsets.unwrap_or_default();
        // Of several epochs a number would be there twice.
        assert!(offsets.is_sorted_by(|one, next| one < next), "{offsets:?}");
        assert!(offsets.last().is_none_or(|last| *last <= room.offset()));
    }
}

proptest! {
    #[test]
    fn a_member_hears_all_in_order_or_of_a_gap(steps in steps()) {
        run(steps);
    }
}

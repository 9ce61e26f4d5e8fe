//! Which connections have something to write, and in which order they get to it.
//!
//! A turn writes to a slice of them and listens again before it writes to the next. So a
//! publication to ten thousand members stops nobody from being read, and members who are
//! still to be written get the next publication in the same call.
//!
//! What is for one connection alone (answers, pings, closes) does not wait behind what is
//! for many: the two stand in queues of their own, and each turn takes a slice of both.
//! The order of what one connection is sent is its own queue's
//! ([`Outbound`](super::outbound::Outbound)), and both write all of that.

use std::collections::VecDeque;

use heartline_wire::id::Slot;

/// Connections of each queue that one turn writes to. A write costs some microseconds, and
/// asking the poller about one: with 256, listening in between costs less than can be
/// measured (with 64, two to three percent), and nobody waits longer than two milliseconds
/// to be heard.
pub(crate) const SLICE: usize = 256;

/// From so many connections on, a line for many that has just formed waits for one look at the
/// poller before it is written to: some tenths of a microsecond, where each write takes two. In a
/// room of a thousand with two publications in flight that makes 1 write of 1.18, and with four
/// 0.73 of the processor time for a delivery; with one in flight it costs nothing measurable.
pub(crate) const LONG: usize = 64;

/// Where a connection stands that has something to write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(crate) enum Waits {
    /// It has nothing to write, or has been written to.
    #[default]
    Nowhere,
    /// Among those that have to write what is for many.
    WithMany,
    /// Among those that have to write something of their own.
    Alone,
}

/// The connections that have something to write.
#[derive(Debug, Default)]
pub(crate) struct Writes {
    alone: VecDeque<Slot>,
    with_many: VecDeque<Slot>,
}

impl Writes {
    /// Puts a connection in line, `place` being where it stands by now. One that has to
    /// write something of its own moves to that queue; what it leaves behind in the other
    /// is passed over ([`Waits::Nowhere`] by then, or written once more).
    pub(crate) fn push(&mut self, slot: Slot, place: &mut Waits, wanted: Waits) {
        if wanted <= *place {
            return;
        }
        *place = wanted;
        match wanted {
            Waits::Alone => self.alone.push_back(slot),
            Waits::WithMany => self.with_many.push_back(slot),
            Waits::Nowhere => {}
        }
    }

    /// Takes the next of those who have something of their own to write.
    pub(crate) fn pop_alone(&mut self) -> Option<Slot> {
        self.alone.pop_front()
    }

    /// Takes the next of those who have something to write that is for many.
    pub(crate) fn pop_with_many(&mut self) -> Option<Slot> {
        self.with_many.pop_front()
    }

    /// Places in the line of those who have to write what is for many, those included that will
    /// be passed over.
    pub(crate) fn many(&self) -> usize {
        self.with_many.len()
    }

    /// Places in line, those included that will be passed over.
    #[cfg(any(test, feature = "harness"))]
    pub(crate) fn len(&self) -> usize {
        self.alone.len() + self.with_many.len()
    }

    /// Whether nobody waits.
    pub(crate) fn is_empty(&self) -> bool {
        self.alone.is_empty() && self.with_many.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_who_wait_keep_their_order_and_stand_in_line_once() {
        let mut writes = Writes::default();
        let mut places = [Waits::Nowhere; 4];
        for slot in [2, 0, 2, 1, 0].map(Slot) {
            writes.push(slot, &mut places[slot.index()], Waits::WithMany);
        }
        let order: Vec<Slot> = std::iter::from_fn(|| writes.pop_with_many()).collect();
        assert_eq!(order, [2, 0, 1].map(Slot));
        assert!(writes.is_empty());
    }

    #[test]
    fn an_answer_does_not_wait_behind_what_is_for_many() {
        let mut writes = Writes::default();
        let mut places = [Waits::Nowhere; 3];
        for slot in [0, 1, 2].map(Slot) {
            writes.push(slot, &mut places[slot.index()], Waits::WithMany);
        }
        writes.push(Slot(2), &mut places[2], Waits::Alone);
        writes.push(Slot(2), &mut places[2], Waits::WithMany);
        assert_eq!(writes.pop_alone(), Some(Slot(2)));
        assert_eq!(writes.pop_alone(), None);
    }
}

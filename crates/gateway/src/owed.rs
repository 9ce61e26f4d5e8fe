//! Which stored messages the rooms of this node may be owed, where several nodes have one store.
//!
//! A message is stored and then told, to all nodes. A node that is killed in between leaves one
//! that nobody was told of: each node then finds out which of them its rooms have not heard, and
//! one tells it from the store ([`crate::untold`]). What is known here is which messages a room
//! has heard of, by their offsets, which have no gaps.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hashbrown::HashMap;
use heartline_core::message::Message;
use heartline_core::rooms::{self, RoomKey};
use heartline_core::store::{History, MAX_PART, PART, Start, StoredMessage};
use heartline_wire::time::Micros;
use serde::Deserialize;

use crate::in_doubt::Place;

/// For so long a message that is stored may be on its way: more than a line that cannot be reached
/// keeps one waiting, and more than nodes' readings of the time differ.
pub(crate) const PATIENCE: Duration = Duration::from_secs(5);

/// A room that opens so soon after a node has gone is looked at: those who were there may be the
/// only ones who wait for its messages.
const AFTERMATH: Duration = Duration::from_secs(60);

/// For so long what others have kept of a room that opens may be on its way.
const TAKING_IN: Duration = Duration::from_secs(2);

/// Messages after one that a room has not heard, at most: those before them are not waited for any
/// more then.
const MAX_AHEAD: usize = 256;

/// How much earlier than a room a message has to be for its clock's sake, milliseconds.
const SKEW: u64 = 2_000;

/// The messages of rooms, as far as they were heard.
#[derive(Default)]
pub(crate) struct Owed {
    /// Several nodes have one store.
    is_on: bool,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    rooms: HashMap<Place, Heard>,
    /// Rooms that open until then are looked at.
    aftermath: Micros,
}

/// What a room has heard.
#[derive(Debug, Default)]
struct Heard {
    /// Whoever came before has read it, or was told: Unix milliseconds.
    since: u64,
    /// All up to this one were heard, or are not waited for; `None`: it has heard of none.
    told: Option<u64>,
    /// Those after it that were heard.
    ahead: BTreeSet<u64>,
    /// From when on the store is to be asked up to where it has messages.
    asks_at: Option<Micros>,
    /// Up to this one there are messages, of which some were not heard; since when that is known.
    there: Option<(u64, Micros)>,
}

impl Heard {
    /// Takes up what follows without a gap, and begins to wait for what is missing.
    fn go_on(&mut self, now: Micros) {
        if let Some(mut told) = self.told {
            while self.ahead.first().is_some_and(|next| *next <= told + 1) {
                told = self.ahead.pop_first().map_or(told, |next| next.max(told));
            }
            if self.ahead.len() > MAX_AHEAD {
                told = self.ahead.pop_last().unwrap_or(told);
                self.ahead.clear();
            }
            self.told = Some(told);
            self.there = self.there.filter(|(there, _)| *there > told);
        }
        if let Some(last) = self.ahead.last() {
            self.there.get_or_insert((*last, now));
        }
    }

    fn is_told(&self, offset: u64) -> bool {
        self.told.is_some_and(|told| offset <= told) || self.ahead.contains(&offset)
    }

    /// There are messages up to this one. What is waited for longer already is not waited for anew.
    fn there(&mut self, offset: u64, now: Micros) {
        match self.there {
            Some((there, _)) if there < offset => {
                self.asks_at.get_or_insert(now + PATIENCE);
            }
            Some(_) => {}
            None => self.there = Some((offset, now)),
        }
    }
}

/// The place of a room.
pub(crate) fn place(key: &RoomKey) -> Place {
    (key.tenant.clone(), key.name.clone())
}

/// The offset of a stored message, by what is said of it; `None`: it is something else.
pub(crate) fn offset_of(message: &Message, room: &str) -> Option<u64> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct New<'a> {
        #[serde(borrow)]
        id: std::borrow::Cow<'a, str>,
        offset: u64,
    }
    if &*message.event != "message:new" || rooms::conversation_of(room).is_none() {
        return None;
    }
    let args = format!("[{}]", message.args);
    let [new]: [New<'_>; 1] = serde_json::from_str(&args).ok()?;
    let (_, end) = new.id.rsplit_once('-')?;
    (end.parse() == Ok(new.offset)).then_some(new.offset)
}

impl Owed {
    pub(crate) fn new(is_on: bool) -> Owed {
        Owed {
            is_on,
            known: Mutex::default(),
        }
    }

    pub(crate) fn is_on(&self) -> bool {
        self.is_on
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The room of a conversation has members here from now on, in one more namespace: what was said
    /// in it before, it has not heard. `at` is in Unix milliseconds.
    pub(crate) fn opened(&self, place: impl FnOnce() -> Place, now: Micros, at: u64) {
        if !self.is_on {
            return;
        }
        let mut known = self.known();
        let asks_at = (now < known.aftermath).then_some(now + TAKING_IN);
        let room = Heard {
            since: at.saturating_add(SKEW),
            asks_at,
            ..Heard::default()
        };
        known.rooms.insert(place(), room);
    }

    /// Nothing was said in the room for so long before it opened here: nobody in it can have heard
    /// of a message of that time.
    pub(crate) fn was_silent(&self, place: &Place, time: Duration) {
        if let Some(room) = self.known().rooms.get_mut(place) {
            room.since = room.since.saturating_sub(time.as_millis() as u64);
        }
    }

    /// A room hears of a message.
    pub(crate) fn heard(&self, place: impl FnOnce() -> Place, offset: u64, now: Micros) {
        if !self.is_on {
            return;
        }
        let mut known = self.known();
        let Some(room) = known.rooms.get_mut(&place()) else {
            return;
        };
        if offset == 1 {
            room.told.get_or_insert(1);
        }
        room.ahead.insert(offset);
        room.go_on(now);
    }

    /// The members of a room are told that they miss something: they read what there is.
    pub(crate) fn was_lost(&self, place: impl FnOnce() -> Place, at: u64) {
        if !self.is_on {
            return;
        }
        if let Some(room) = self.known().rooms.get_mut(&place()) {
            *room = Heard {
                since: at.saturating_add(SKEW),
                ..Heard::default()
            };
        }
    }

    /// The store has this message, which another has stored.
    pub(crate) fn is_there(&self, place: impl FnOnce() -> Place, offset: u64, now: Micros) {
        if !self.is_on {
            return;
        }
        if let Some(room) = self.known().rooms.get_mut(&place())
            && !room.is_told(offset)
        {
            room.there(offset, now);
        }
    }

    /// Whether a room has heard of a message already.
    pub(crate) fn is_told(&self, place: impl FnOnce() -> Place, offset: u64) -> bool {
        let known = self.is_on.then(|| self.known());
        known.is_some_and(|known| {
            let room = known.rooms.get(&place());
            room.is_some_and(|room| room.is_told(offset))
        })
    }

    /// A node has gone, or this one begins: what it has stored last may be told by nobody.
    pub(crate) fn doubt(&self, now: Micros) {
        let mut known = self.known();
        known.aftermath = now + AFTERMATH;
        for room in known.rooms.values_mut() {
            room.asks_at.get_or_insert(now);
        }
    }

    /// Rooms of which the store is to be asked now.
    pub(crate) fn due(&self, now: Micros) -> Vec<Place> {
        let is_due = |room: &Heard| {
            let is_late = |(_, since)| now >= since + PATIENCE;
            room.asks_at.is_some_and(|at| now >= at) || room.there.is_some_and(is_late)
        };
        let known = self.known();
        let due = known.rooms.iter().filter(|(_, room)| is_due(room));
        due.map(|(place, _)| place.clone()).collect()
    }

    /// From where a room's messages are to be read, and how many at most.
    pub(crate) fn from(&self, place: &Place) -> (Start, usize) {
        let known = self.known();
        match known.rooms.get(place).and_then(|room| room.told) {
            Some(told) => (Start::After(told), MAX_PART),
            None => (Start::End, PART),
        }
    }

    /// The store has answered: those of its messages that the room has been owed for long enough.
    /// They are owed anew from now on, should they not come.
    pub(crate) fn owed(&self, place: &Place, part: &History, now: Micros) -> Vec<StoredMessage> {
        let mut known = self.known();
        let Some(room) = known.rooms.get_mut(place) else {
            return Vec::new();
        };
        room.asks_at = None;
        let late = room.there.filter(|(_, since)| now >= *since + PATIENCE);
        let is_missing = |message: &&StoredMessage| {
            let is_new = match room.told {
                Some(told) => message.offset > told,
                None => message.created_at >= room.since,
            };
            is_new && !room.ahead.contains(&message.offset)
        };
        let missing = part.messages.iter().filter(is_missing).cloned();
        let mut missing: Vec<StoredMessage> = missing.collect();
        let first = part
            .messages
            .first()
            .map_or(part.head, |one| one.offset - 1);
        room.told = match (room.told, missing.first()) {
            // What is not kept any more nobody waits for.
            (Some(told), _) => Some(told.max(first)),
            (None, Some(missing)) => Some(missing.offset - 1),
            (None, None) => Some(part.head),
        };
        room.there = room.there.filter(|_| late.is_none());
        if let Some(last) = missing.last() {
            room.there(last.offset, now);
        }
        room.go_on(now);
        missing.retain(|one| late.is_some_and(|(there, _)| one.offset <= there));
        missing
    }

    /// The rooms of which something is known.
    pub(crate) fn all(&self) -> Vec<Place> {
        self.known().rooms.keys().cloned().collect()
    }

    /// A room is not here any more.
    pub(crate) fn forget(&self, place: &Place) {
        self.known().rooms.remove(place);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place() -> Place {
        (None, "conversation:1".into())
    }

    fn message(offset: u64) -> StoredMessage {
        StoredMessage {
            id: StoredMessage::id_of(7, offset),
            offset,
            conversation_id: "1".into(),
            sender_id: "ann".into(),
            sender_type: None,
            content: "hello".into(),
            temp_id: None,
            created_at: 10_000,
        }
    }

    fn part(offsets: std::ops::RangeInclusive<u64>) -> History {
        History {
            head: *offsets.end(),
            messages: offsets.map(message).collect(),
            floor: 0,
            complete: true,
        }
    }

    fn at(seconds: u64) -> Micros {
        Micros::ZERO + Duration::from_secs(seconds)
    }

    fn offsets(owed: &[StoredMessage]) -> Vec<u64> {
        owed.iter().map(|message| message.offset).collect()
    }

    /// A room that opened before any of these messages, and has heard of some.
    fn heard(some: &[u64]) -> Owed {
        let owed = Owed::new(true);
        owed.opened(place, at(1), 1_000);
        for &offset in some {
            owed.heard(place, offset, at(10));
        }
        owed
    }

    #[test]
    fn a_hole_is_owed_when_it_has_not_been_filled_for_long_enough() {
        let owed = heard(&[1, 2, 5]);
        assert!(owed.due(at(14)).is_empty());
        assert_eq!(owed.due(at(15)), [place()]);
        assert_eq!(owed.from(&place()), (Start::After(2), MAX_PART));
        let told = owed.owed(&place(), &part(3..=5), at(15));
        assert_eq!(offsets(&told), [3, 4]);
        // It is not told again at once, nor once it has come.
        assert!(owed.due(at(16)).is_empty());
        owed.heard(place, 4, at(16));
        owed.heard(place, 3, at(16));
        assert!(owed.due(at(99)).is_empty());
        assert!(heard(&[1, 3, 2]).due(at(99)).is_empty());
    }

    #[test]
    fn what_came_just_now_is_not_owed_yet_when_a_node_goes() {
        let owed = heard(&[1]);
        owed.doubt(at(20));
        assert_eq!(owed.due(at(20)), [place()]);
        assert!(owed.owed(&place(), &part(2..=3), at(20)).is_empty());
        owed.heard(place, 2, at(21));
        assert!(owed.due(at(24)).is_empty());
        let told = owed.owed(&place(), &part(3..=4), at(25));
        // The fourth was not known then.
        assert_eq!(offsets(&told), [3]);
    }

    #[test]
    fn of_what_was_said_before_a_room_opened_nothing_is_owed() {
        let owed = Owed::new(true);
        owed.opened(place, at(1), 20_000);
        owed.doubt(at(2));
        assert_eq!(owed.from(&place()), (Start::End, PART));
        assert!(owed.owed(&place(), &part(1..=3), at(2)).is_empty());
        assert!(owed.due(at(99)).is_empty());
        // If it was silent then, nobody has heard of it.
        let owed = Owed::new(true);
        owed.opened(place, at(1), 20_000);
        owed.was_silent(&place(), Duration::from_secs(60));
        owed.doubt(at(2));
        assert!(owed.owed(&place(), &part(1..=3), at(2)).is_empty());
        let told = owed.owed(&place(), &part(1..=3), at(8));
        assert_eq!(offsets(&told), [1, 2, 3]);
    }

    #[test]
    fn who_was_told_of_a_loss_and_messages_that_are_not_kept_any_more_wait_for_nothing() {
        let owed = heard(&[1, 5]);
        owed.was_lost(place, 30_000);
        assert!(owed.due(at(99)).is_empty());
        let owed = heard(&[1, 5]);
        let part = History {
            floor: 4,
            complete: false,
            ..part(5..=5)
        };
        assert!(owed.owed(&place(), &part, at(15)).is_empty());
        assert!(owed.due(at(99)).is_empty());
    }

    #[test]
    fn a_room_remembers_so_many_messages_after_a_hole() {
        let all: Vec<u64> = (0..=MAX_AHEAD as u64).map(|more| 3 + more).collect();
        let owed = heard(&[1]);
        for &offset in &all {
            owed.heard(place, offset, at(10));
        }
        assert!(owed.due(at(99)).is_empty());
        assert!(owed.is_told(place, 2) && owed.is_told(place, 3 + MAX_AHEAD as u64));
    }

    #[test]
    fn what_says_no_stored_message_is_none() {
        let said = |event: &str, args: &str| Message::new(event, args);
        let new = serde_json::to_string(&message(4)).unwrap();
        let room = "conversation:1";
        assert_eq!(offset_of(&said("message:new", &new), room), Some(4));
        for (event, args, room) in [
            ("news", &*new, room),
            ("message:new", &new, "lobby"),
            ("message:new", r#"{"id":"7-5","offset":4}"#, room),
            ("message:new", r#"{"offset":4}"#, room),
            ("message:new", "", room),
            ("message:new", "1,2", room),
        ] {
            assert_eq!(offset_of(&said(event, args), room), None, "{args}");
        }
    }
}

//! Which stored messages the rooms of this node may be owed, where a database stores them.
//!
//! A message is stored and then told, to all nodes. A node that is killed in between leaves one
//! that nobody was told of, and so does a database that stores what was given up: each node then
//! finds out which of them its rooms have not heard, and one tells it from the store
//! ([`crate::untold`]). What is known here is which messages a room
//! has heard of, by their offsets, which have no gaps.

use std::collections::BTreeMap;
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

/// A room that opens so soon after a node has gone is looked at, at least: those who were there may
/// be the only ones who wait for its messages.
const AFTERMATH: Duration = Duration::from_secs(60);

/// For so long what others have kept of a room that opens may be on its way.
const TAKING_IN: Duration = Duration::from_secs(2);

/// Holes in what a room has heard, at most: the oldest is not waited for any more then.
const MAX_HOLES: usize = 256;

/// How much earlier than a room a message has to be for its clock's sake, milliseconds.
const SKEW: u64 = 2_000;

/// The messages of rooms, as far as they were heard.
#[derive(Default)]
pub(crate) struct Owed {
    /// The store is not this process' own.
    is_on: bool,
    /// For how long rooms that open after a node has gone are looked at.
    aftermath: Duration,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    rooms: HashMap<Place, Heard>,
    /// Rooms that open until then are looked at.
    aftermath: Micros,
    /// A line of all nodes is known; when it becomes another, what was kept of rooms is gone.
    has_line: bool,
    /// Until then nothing is known of how long rooms were silent.
    forgetful: Micros,
}

/// Offsets, as runs without a gap: the first of each with its last.
#[derive(Debug, Default)]
struct Runs(BTreeMap<u64, u64>);

impl Runs {
    fn insert(&mut self, offset: u64) {
        let before = self.0.range_mut(..=offset).next_back();
        let start = match before {
            Some((_, last)) if *last >= offset => return,
            Some((start, last)) if *last + 1 == offset => {
                *last = offset;
                *start
            }
            _ => {
                self.0.insert(offset, offset);
                offset
            }
        };
        let next = offset.checked_add(1);
        if let Some(last) = next.and_then(|next| self.0.remove(&next)) {
            self.0.insert(start, last);
        }
    }

    fn contains(&self, offset: u64) -> bool {
        let before = self.0.range(..=offset).next_back();
        before.is_some_and(|(_, last)| *last >= offset)
    }

    fn last(&self) -> Option<u64> {
        self.0.last_key_value().map(|(_, last)| *last)
    }

    /// Takes the first run if it begins with this offset or before.
    fn take(&mut self, offset: u64) -> Option<u64> {
        let first = self.0.first_entry()?;
        (*first.key() <= offset).then(|| first.remove())
    }

    /// Forgets all after this offset.
    fn cut(&mut self, offset: u64) {
        self.0.retain(|first, last| {
            *last = offset.min(*last);
            *first <= offset
        });
    }
}

/// What a room has heard.
#[derive(Debug, Default)]
struct Heard {
    /// In how many namespaces it is here.
    open: u32,
    /// When it opened, as late as may be: Unix milliseconds.
    opened: u64,
    /// Whoever came before has read it, or was told: Unix milliseconds.
    since: u64,
    /// All up to this one were heard, or are not waited for; `None`: it has heard of none.
    told: Option<u64>,
    /// Of those up to this one it is not known whether they were heard.
    assumed: u64,
    /// The last message of the store is new to the room: those before it are to be looked at too.
    looks_back: bool,
    /// Those after it that were heard.
    ahead: Runs,
    /// From when on the store is to be asked up to where it has messages.
    asks_at: Option<Micros>,
    /// Up to this one there are messages, of which some were not heard; since when that is known.
    there: Option<(u64, Micros)>,
}

impl Heard {
    /// Takes up what follows without a gap, and begins to wait for what is missing.
    fn go_on(&mut self, now: Micros) {
        if self.ahead.0.len() > MAX_HOLES
            && let Some((&first, _)) = self.ahead.0.first_key_value()
        {
            self.assume(first.saturating_sub(1));
        }
        if let Some(mut told) = self.told {
            while let Some(last) = self.ahead.take(told.saturating_add(1)) {
                told = told.max(last);
            }
            self.told = Some(told);
            self.there = self.there.filter(|(there, _)| *there > told);
        }
        if let Some(last) = self.ahead.last() {
            self.there.get_or_insert((last, now));
        }
    }

    fn is_told(&self, offset: u64) -> bool {
        self.told.is_some_and(|told| offset <= told) || self.ahead.contains(offset)
    }

    /// Nothing up to this one is waited for any more, whether it was heard or not.
    fn assume(&mut self, offset: u64) {
        if self.told.is_none_or(|told| told < offset) {
            self.told = Some(offset);
            self.assumed = offset;
        }
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
    /// `window` is for how long clients may come back.
    pub(crate) fn new(is_on: bool, window: Option<Duration>) -> Owed {
        Owed {
            is_on,
            aftermath: AFTERMATH + window.unwrap_or_default(),
            known: Mutex::default(),
        }
    }

    pub(crate) fn is_on(&self) -> bool {
        self.is_on
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The room of a conversation has members here from now on, perhaps in one more namespace: what
    /// was said in it before, it has not heard. `at` is in Unix milliseconds.
    pub(crate) fn opened(&self, place: impl FnOnce() -> Place, now: Micros, at: u64) {
        if !self.is_on {
            return;
        }
        let mut known = self.known();
        let asks_at = (now < known.aftermath).then_some(now + TAKING_IN);
        let room = known.rooms.entry(place()).or_insert_with(|| Heard {
            opened: at.saturating_add(SKEW),
            since: at.saturating_add(SKEW),
            ..Heard::default()
        });
        room.open += 1;
        room.asks_at = room.asks_at.or(asks_at);
    }

    /// The room is not here any more, in one of the namespaces in which it
    /// [opened](Self::opened): it hears nothing of what is said from now on.
    pub(crate) fn closed(&self, place: &Place) {
        let mut known = self.known();
        let Some(room) = known.rooms.get_mut(place) else {
            return;
        };
        room.open = room.open.saturating_sub(1);
        if room.open == 0 {
            known.rooms.remove(place);
            if known.rooms.is_empty() {
                known.rooms.shrink_to_fit();
            }
        }
    }

    /// The line of all nodes is another. But for the first that this node knows, what was kept of
    /// rooms is gone with the one before: for so long nobody can say how long a room was silent.
    pub(crate) fn line_becomes(&self, now: Micros, time: Duration) {
        let mut known = self.known();
        if std::mem::replace(&mut known.has_line, true) {
            known.forgetful = now + time;
        }
    }

    /// Nothing was said in the room for so long before it opened here: nobody in it can have heard
    /// of a message of that time.
    pub(crate) fn was_silent(&self, place: &Place, now: Micros, time: Duration) {
        let mut known = self.known();
        if now < known.forgetful {
            return;
        }
        if let Some(room) = known.rooms.get_mut(place) {
            let from = room.opened.saturating_sub(time.as_millis() as u64);
            room.since = room.since.min(from);
        }
    }

    /// Of a room that opened here, other nodes have kept these messages: those before them have been
    /// told.
    pub(crate) fn had(&self, place: &Place, offsets: &[u64], now: Micros) {
        let mut known = self.known();
        let (Some(room), Some(first)) = (known.rooms.get_mut(place), offsets.iter().min()) else {
            return;
        };
        if room.told.is_none() {
            room.assume(first.saturating_sub(1));
        }
        for offset in offsets {
            room.ahead.insert(*offset);
        }
        room.go_on(now);
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
        if room.told.is_none() && (offset == 1 || room.asks_at.is_none()) {
            // The first that it hears. Where no node has gone lately, nothing before it is owed.
            room.assume(offset.saturating_sub(1));
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
                open: room.open,
                opened: at.saturating_add(SKEW),
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

    /// Whether a room has heard of a message of its own node that was stored at `created_at`: another
    /// node has told it, as this one was so long about it. Unix milliseconds both.
    pub(crate) fn was_told(
        &self,
        place: impl FnOnce() -> Place,
        message: &StoredMessage,
        at: u64,
    ) -> bool {
        // Before that no other node tells it.
        if !self.is_on || at.saturating_sub(message.created_at) < PATIENCE.as_millis() as u64 {
            return false;
        }
        let known = self.known();
        let room = known.rooms.get(&place());
        room.is_some_and(|room| message.offset > room.assumed && room.is_told(message.offset))
    }

    /// Whether a room has heard of a message already, or does not wait for it any more.
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
        known.aftermath = now + self.aftermath;
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
        let room = known.rooms.get(place);
        match room.and_then(|room| room.told) {
            Some(told) => (Start::After(told), MAX_PART),
            // Of most rooms the last one shows that nothing is owed.
            None if !room.is_some_and(|room| room.looks_back) => (Start::End, 1),
            None => (Start::End, PART),
        }
    }

    /// The store could not be asked about a room: it is asked later.
    pub(crate) fn ask_later(&self, place: &Place, now: Micros) {
        if let Some(room) = self.known().rooms.get_mut(place) {
            room.asks_at = Some(now + PATIENCE);
            room.there = room.there.map(|(there, _)| (there, now));
        }
    }

    /// The store has answered what it was asked [`from`](Self::from): those of its messages that the
    /// room has been owed for long enough. They are owed anew from now on, should they not come.
    pub(crate) fn owed(
        &self,
        place: &Place,
        (from, part): (Start, &History),
        now: Micros,
    ) -> Vec<StoredMessage> {
        let mut known = self.known();
        let Some(room) = known.rooms.get_mut(place) else {
            return Vec::new();
        };
        // What came since the question is no part of the answer.
        let asked = match from {
            Start::After(told) => Some(told),
            _ => None,
        };
        if asked.is_none() && room.told.is_some() {
            room.asks_at = Some(now);
            return Vec::new();
        }
        room.asks_at = None;
        let last = part.messages.last();
        let is_news = last.is_some_and(|last| last.created_at >= room.since);
        if room.told.is_none() && !std::mem::replace(&mut room.looks_back, true) && is_news {
            room.asks_at = Some(now);
            return Vec::new();
        }
        if asked.is_some_and(|told| part.head < told) {
            // It is an older store: its numbers come again, and are others.
            room.told = None;
            room.ahead = Runs::default();
            room.there = None;
            room.assume(part.head);
            return Vec::new();
        }
        let late = room.there.filter(|(_, since)| now >= *since + PATIENCE);
        if late.is_some_and(|(there, _)| there > part.head) {
            // What was heard beyond the end of the store is no message of it, for long enough.
            room.ahead.cut(part.head);
        }
        let is_missing = |message: &&StoredMessage| {
            let is_new = match room.told {
                Some(told) => message.offset > told,
                None => message.created_at >= room.since,
            };
            is_new && !room.ahead.contains(message.offset)
        };
        let missing = part.messages.iter().filter(is_missing).cloned();
        let mut missing: Vec<StoredMessage> = missing.collect();
        let first = part.messages.first();
        let first = first.map_or(part.head, |one| one.offset.saturating_sub(1));
        match (room.told, missing.first()) {
            // What is not kept any more nobody waits for.
            (Some(_), _) => room.assume(first),
            (None, Some(missing)) => room.assume(missing.offset.saturating_sub(1)),
            (None, None) => room.assume(part.head),
        }
        room.there = room.there.filter(|_| late.is_none());
        if room.told.is_none_or(|told| told < part.head) {
            // More than one part may be missing.
            room.there(part.head, now);
        }
        room.go_on(now);
        missing.retain(|one| late.is_some_and(|(there, _)| one.offset <= there));
        missing
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
        let owed = Owed::new(true, None);
        owed.opened(place, at(1), 1_000);
        for &offset in some {
            owed.heard(place, offset, at(10));
        }
        owed
    }

    /// The store is asked, and has answered.
    fn answered(owed: &Owed, part: &History, now: Micros) -> Vec<StoredMessage> {
        let (from, _) = owed.from(&place());
        owed.owed(&place(), (from, part), now)
    }

    #[test]
    fn what_comes_while_the_store_is_asked_is_no_part_of_its_answer() {
        let owed = heard(&[1, 2]);
        owed.doubt(at(11));
        let (from, _) = owed.from(&place());
        owed.heard(place, 3, at(11));
        assert!(owed.owed(&place(), (from, &part(2..=2)), at(11)).is_empty());
        owed.heard(place, 4, at(12));
        assert!(owed.is_told(place, 3) && owed.due(at(99)).is_empty());
        // A room that had heard of nothing when the store was asked for the last one.
        let owed = Owed::new(true, None);
        owed.doubt(at(1));
        owed.opened(place, at(1), 1_000);
        let (from, _) = owed.from(&place());
        owed.had(&place(), &[55], at(2));
        assert!(
            owed.owed(&place(), (from, &part(58..=58)), at(2))
                .is_empty()
        );
        assert_eq!(owed.due(at(2)), [place()]);
        assert_eq!(owed.from(&place()), (Start::After(55), MAX_PART));
    }

    #[test]
    fn a_hole_is_owed_when_it_has_not_been_filled_for_long_enough() {
        let owed = heard(&[1, 2, 5]);
        assert!(owed.due(at(14)).is_empty());
        assert_eq!(owed.due(at(15)), [place()]);
        assert_eq!(owed.from(&place()), (Start::After(2), MAX_PART));
        let told = answered(&owed, &part(3..=5), at(15));
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
        assert!(answered(&owed, &part(2..=3), at(20)).is_empty());
        owed.heard(place, 2, at(21));
        assert!(owed.due(at(24)).is_empty());
        let told = answered(&owed, &part(3..=4), at(25));
        // The fourth was not known then.
        assert_eq!(offsets(&told), [3]);
    }

    #[test]
    fn of_what_was_said_before_a_room_opened_nothing_is_owed() {
        let owed = Owed::new(true, None);
        owed.opened(place, at(1), 20_000);
        owed.doubt(at(2));
        assert_eq!(owed.from(&place()), (Start::End, 1));
        assert!(answered(&owed, &part(3..=3), at(2)).is_empty());
        assert!(owed.due(at(99)).is_empty());
        // If it was silent then, nobody has heard of it.
        let owed = Owed::new(true, None);
        owed.opened(place, at(1), 20_000);
        owed.was_silent(&place(), at(1), Duration::from_secs(60));
        // It is not twice as long if it opens in two namespaces.
        owed.was_silent(&place(), at(1), Duration::from_secs(60));
        owed.doubt(at(2));
        assert!(answered(&owed, &part(3..=3), at(2)).is_empty());
        assert_eq!(owed.due(at(2)), [place()]);
        assert_eq!(owed.from(&place()), (Start::End, PART));
        assert!(answered(&owed, &part(1..=3), at(2)).is_empty());
        let told = answered(&owed, &part(1..=3), at(8));
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
        assert!(answered(&owed, &part, at(15)).is_empty());
        assert!(owed.due(at(99)).is_empty());
    }

    #[test]
    fn a_late_message_of_ones_own_is_not_told_only_if_another_node_can_have_told_it() {
        let owed = heard(&[1, 2]);
        let was_told = |offset, at| owed.was_told(place, &message(offset), at);
        assert!(was_told(2, 15_000));
        assert!(!was_told(2, 14_999), "nobody tells it so soon");
        assert!(!was_told(3, 15_000));
        // What is not waited for any more nobody has told.
        for more in 0..=MAX_HOLES as u64 {
            owed.heard(place, 4 + 2 * more, at(10));
        }
        assert!(!was_told(3, 99_000) && owed.is_told(place, 3));
    }

    #[test]
    fn where_other_nodes_have_kept_what_came_before_the_next_one_is_owed() {
        let owed = Owed::new(true, None);
        owed.doubt(at(1));
        owed.opened(place, at(1), 20_000);
        owed.had(&place(), &[55, 54], at(2));
        assert_eq!(owed.from(&place()), (Start::After(55), MAX_PART));
        assert!(answered(&owed, &part(56..=56), at(3)).is_empty());
        let told = answered(&owed, &part(56..=56), at(8));
        assert_eq!(offsets(&told), [56]);
    }

    #[test]
    fn an_older_store_and_one_that_does_not_answer() {
        let owed = heard(&[1, 2, 3, 5]);
        owed.ask_later(&place(), at(15));
        assert!(owed.due(at(19)).is_empty());
        assert_eq!(owed.due(at(20)), [place()]);
        assert!(answered(&owed, &part(1..=2), at(20)).is_empty());
        assert!(owed.due(at(99)).is_empty());
        assert!(!owed.is_told(place, 3));
        owed.heard(place, 3, at(21));
        assert!(owed.due(at(99)).is_empty());
    }

    #[test]
    fn a_hole_is_owed_however_much_was_heard_after_it() {
        let all: Vec<u64> = [1].into_iter().chain(3..=9_003).collect();
        let owed = heard(&all);
        assert_eq!(owed.due(at(15)), [place()]);
        let told = answered(
            &owed,
            &History {
                head: 9_003,
                ..part(2..=200)
            },
            at(15),
        );
        assert_eq!(offsets(&told), [2]);
        owed.heard(place, 2, at(16));
        assert!(owed.is_told(place, 9_003) && owed.due(at(99)).is_empty());
    }

    #[test]
    fn of_too_many_holes_the_oldest_is_given_up() {
        let every_other: Vec<u64> = (0..=MAX_HOLES as u64).map(|more| 1 + 2 * more).collect();
        let owed = heard(&every_other);
        assert!(!owed.is_told(place, 2));
        owed.heard(place, 3 + 2 * MAX_HOLES as u64, at(10));
        assert!(owed.is_told(place, 3) && !owed.is_told(place, 4));
    }

    #[test]
    fn runs_are_what_a_set_is() {
        let mut seed = 7u64;
        for _ in 0..200 {
            let (mut runs, mut set) = (Runs::default(), std::collections::BTreeSet::new());
            for _ in 0..40 {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                let offset = seed >> 59;
                runs.insert(offset);
                set.insert(offset);
                assert!((0..32).all(|one| runs.contains(one) == set.contains(&one)));
                assert_eq!(runs.last(), set.last().copied());
                let mut gaps = runs.0.iter().zip(runs.0.keys().skip(1));
                assert!(gaps.all(|((_, last), next)| last + 1 < *next));
            }
            runs.cut(20);
            set.retain(|offset| *offset <= 20);
            assert!((0..32).all(|one| runs.contains(one) == set.contains(&one)));
        }
        let mut runs = Runs::default();
        runs.insert(u64::MAX);
        runs.insert(u64::MAX - 1);
        assert!(runs.contains(u64::MAX) && runs.0.len() == 1);
    }

    #[test]
    fn what_is_more_than_one_answer_is_asked_for_until_the_end() {
        let owed = heard(&[1]);
        owed.doubt(at(11));
        let answer = || History {
            head: 5,
            ..part(2..=3)
        };
        assert!(answered(&owed, &answer(), at(11)).is_empty());
        assert_eq!(offsets(&answered(&owed, &answer(), at(16))), [2, 3]);
        owed.heard(place, 2, at(17));
        owed.heard(place, 3, at(17));
        assert_eq!(owed.due(at(22)), [place()]);
        assert_eq!(offsets(&answered(&owed, &part(4..=5), at(22))), [4, 5]);
    }

    #[test]
    fn a_room_that_closes_in_all_its_namespaces_waits_for_nothing() {
        let owed = heard(&[1, 2]);
        owed.opened(place, at(11), 11_000);
        owed.closed(&place());
        owed.heard(place, 4, at(12));
        assert_eq!(owed.due(at(17)), [place()]);
        owed.closed(&place());
        assert!(owed.due(at(99)).is_empty());
        // Those who were in it hear of nothing between.
        owed.opened(place, at(20), 20_000);
        owed.heard(place, 9, at(21));
        assert!(owed.due(at(99)).is_empty());
    }

    #[test]
    fn what_the_store_has_not_got_is_not_asked_for_for_ever() {
        let owed = heard(&[1, 2]);
        owed.heard(place, 90_000, at(10));
        assert_eq!(owed.due(at(15)), [place()]);
        assert!(answered(&owed, &part(2..=2), at(15)).is_empty());
        assert!(owed.due(at(99)).is_empty());
        owed.heard(place, 3, at(20));
        assert!(owed.due(at(99)).is_empty());
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

//! What the records so far come to: sockets, rooms and the newest event of each key; and all of
//! it as records again, with which the next file begins.

use std::collections::BTreeMap;
use std::sync::Arc;

use hashbrown::{HashMap, HashSet};
use heartline_core::auth::{Identity, RoomPattern, UserKey};
use heartline_core::line::MAX_KEYS;
use heartline_core::line::session::{MAX_PLACES, Session};
use heartline_core::message::Message;
use heartline_core::namespaces::NamespaceId;
use heartline_core::presence::SocketAddress;
use heartline_core::rooms::{Room, RoomKey};
use heartline_wire::json;

use super::record::{EventRecord, Record, RoomRecord, Where};
use crate::data::{SocketData, Texts};

/// What a journal may hold.
#[derive(Debug, Clone)]
pub(crate) struct Size {
    /// A file is full at so many bytes.
    pub(crate) segment: u64,
    /// How old events may be that a start goes on with, milliseconds.
    pub(crate) age: u64,
    /// How long users who were there at the end are expected back, milliseconds.
    pub(crate) wait: u64,
    /// The namespaces whose rooms are told of users who come and go.
    pub(crate) tells_rooms: Vec<NamespaceId>,
}

/// Rooms of a user's ended sockets that are to hear when it goes: as many as presence remembers.
const MAX_LEFT: usize = 1_000;

/// A user who is online, as far as anybody was told.
#[derive(Debug, Clone, Default)]
pub(crate) struct KnownUser {
    /// The number of the change since which it is.
    pub(crate) rev: u64,
    /// Until when, if no socket of it comes, Unix milliseconds; 0: nobody knows yet.
    pub(crate) until: u64,
    /// Rooms that have heard of it.
    pub(crate) rooms: HashSet<RoomKey>,
}

impl KnownUser {
    /// Whether what this socket is in has heard of the user: who was lost before was another time
    /// that it was online. The numbers of changes are no less than the time.
    fn has(&self, socket: &Known) -> bool {
        socket.lost_at.is_none_or(|at| at >= self.rev)
    }

    /// The rooms of a socket that is not there any more are to hear when the user goes, where rooms
    /// are told of users: at most [`MAX_LEFT`] in all.
    fn note_left(&mut self, socket: &Known, tells_rooms: &[NamespaceId]) {
        let more = MAX_LEFT.saturating_sub(self.rooms.len());
        let rooms = socket.rooms.keys();
        let rooms = rooms.filter(|room| tells_rooms.contains(&room.namespace));
        self.rooms.extend(rooms.take(more).cloned());
    }
}

/// What is written down of a socket.
#[derive(Debug, Clone)]
pub(crate) struct Known {
    pub(crate) name: SocketAddress,
    pub(crate) user: Option<Arc<UserKey>>,
    /// The patterns of rooms that its last token grants.
    grants: Option<Vec<String>>,
    /// Its rooms, each with the place since which it is there.
    pub(crate) rooms: HashMap<RoomKey, u64>,
    pub(crate) left: u64,
    /// Where it was, each with the number of the last event that it was sent there; the last
    /// place has none yet.
    pub(crate) places: Vec<(SocketAddress, u64)>,
    /// When it was lost, Unix milliseconds; `None`: it was there until the end.
    pub(crate) lost_at: Option<u64>,
    /// What is remembered of it.
    pub(crate) remembered: Texts,
}

/// The patterns of rooms that a token grants, as they are written down.
pub(super) fn grants_of(identity: &Identity) -> Option<Vec<String>> {
    let patterns = identity.rooms.as_ref();
    patterns.map(|all| all.iter().map(RoomPattern::text).collect())
}

impl Known {
    /// What is known of a socket that was lost at this Unix time in milliseconds.
    pub(crate) fn of(session: &Session<Option<SocketData>>, lost_at: u64) -> Known {
        let rooms = session.rooms.iter();
        Known {
            name: session.name,
            user: session.identity.user.clone(),
            grants: grants_of(&session.identity),
            rooms: rooms
                .map(|(room, since)| (room.key.clone(), *since))
                .collect(),
            left: session.left,
            places: session.places.clone(),
            lost_at: Some(lost_at),
            remembered: session
                .data
                .as_ref()
                .map(|data| data.remembered().clone())
                .unwrap_or_default(),
        }
    }

    /// As far as it is known whose socket it was.
    pub(crate) fn identity(&self) -> Identity {
        let patterns = self.grants.as_ref();
        Identity {
            user: self.user.clone(),
            rooms: patterns.map(|all| all.iter().map(|one| RoomPattern::new(one)).collect()),
            ..Identity::default()
        }
    }
}

/// How far a room is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct KnownRoom {
    pub(crate) incarnation: u64,
    /// The epoch of its numbers.
    pub(crate) epoch: u64,
    pub(crate) offset: u64,
    /// The number in the line of the last that was lost.
    pub(crate) lost: u64,
    /// The offset of the last stored message of which it was told; 0: of none.
    pub(crate) told: u64,
    /// The number of its last event.
    last: u64,
}

impl KnownRoom {
    /// How far a room is of which this was the last event that is not kept any more.
    pub(crate) fn of(room: &Room, dropped: u64) -> KnownRoom {
        KnownRoom {
            incarnation: room.incarnation,
            epoch: room.epoch(),
            offset: room.offset(),
            lost: dropped,
            told: 0,
            last: 0,
        }
    }
}

/// The offset of a stored message that an event tells of.
fn stored_offset(message: &Message) -> Option<u64> {
    let is_stored = &*message.event == "message:new";
    let offset = is_stored.then(|| json::field(&message.args, "offset"))??;
    offset.parse().ok()
}

/// What is known of sockets and rooms, by all records so far.
#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) sockets: HashMap<SocketAddress, Known>,
    pub(super) rooms: HashMap<RoomKey, KnownRoom>,
    /// Who is online. Of their rooms, those that no socket is in any more.
    pub(super) users: HashMap<Arc<UserKey>, KnownUser>,
    tells_rooms: Vec<NamespaceId>,
    /// The number in the line of the last event that was lost without anybody knowing whose.
    pub(super) lost: u64,
    /// The newest of each key of the rooms, however old.
    keyed: HashMap<RoomKey, Newest>,
    /// What these weigh, bytes; and what they may weigh.
    keyed_bytes: usize,
    most_keyed: usize,
}

/// The newest events of a room's keys.
#[derive(Debug, Default)]
struct Newest {
    /// Their numbers in the line.
    ids: HashMap<Box<str>, u64>,
    events: BTreeMap<u64, Box<EventRecord>>,
}

/// What it costs to know an event, about, bytes.
fn weight(event: &EventRecord) -> usize {
    const BESIDES: usize = 256;
    let key = event.key.as_ref().map_or(0, |key| 2 * key.len());
    BESIDES + event.message.size() + key
}

impl Newest {
    /// Forgets the one with this number; its weight.
    fn forget(&mut self, id: u64) -> usize {
        let Some(event) = self.events.remove(&id) else {
            return 0;
        };
        if let Some(key) = &event.key {
            self.ids.remove(key);
        }
        weight(&event)
    }
}

impl State {
    /// Nothing is known yet, of files of this size.
    pub(super) fn new(size: &Size) -> State {
        State {
            // A file that begins with them still has room for as much again.
            most_keyed: (size.segment / 2) as usize,
            tells_rooms: size.tells_rooms.clone(),
            ..State::default()
        }
    }

    /// Takes a record in, behind all that were before it.
    pub(super) fn apply(&mut self, record: &Record) {
        match record {
            Record::Head(_) | Record::Dropped { .. } | Record::Last { .. } => {}
            Record::Room(room) => self.note_room(room, 0),
            Record::Event(event) => self.note_event(event),
            Record::Told { room, offset } => self.note_told(room, *offset),
            Record::Gap { room, epoch, place } => {
                self.note_room(room, *place);
                if let Some(known) = self.rooms.get_mut(&room.key) {
                    (known.epoch, known.lost) = (*epoch, *place);
                }
            }
            Record::Lost { place } => self.lost = self.lost.max(*place),
            Record::Online {
                user,
                rev,
                until,
                rooms,
            } => {
                let known = KnownUser {
                    rev: *rev,
                    until: *until,
                    rooms: rooms.iter().cloned().collect(),
                };
                self.users.insert(user.clone(), known);
            }
            Record::Offline { user, rev } => {
                let is_over = self.users.get(user).is_some_and(|known| known.rev < *rev);
                if is_over {
                    self.users.remove(user);
                }
            }
            of_socket => self.apply_to_socket(of_socket),
        }
    }

    fn apply_to_socket(&mut self, record: &Record) {
        match record {
            Record::Opened { name, user, rooms } => {
                let known = Known {
                    name: *name,
                    user: user.clone(),
                    grants: rooms.clone(),
                    rooms: HashMap::new(),
                    left: 0,
                    places: vec![(*name, u64::MAX)],
                    lost_at: None,
                    remembered: Texts::new(),
                };
                self.sockets.insert(*name, known);
                self.is_here(user.as_ref());
            }
            Record::Granted { name, rooms } => {
                if let Some(known) = self.sockets.get_mut(name) {
                    known.grants.clone_from(rooms);
                }
            }
            Record::Remembered { name, key, text } => {
                if let Some(known) = self.sockets.get_mut(name) {
                    match text {
                        Some(text) => known.remembered.insert(key.clone(), text.clone()),
                        None => known.remembered.remove(key),
                    };
                }
            }
            Record::Joined { name, room, since } => {
                self.note_room(room, 0);
                if let Some(known) = self.sockets.get_mut(name) {
                    known.rooms.insert(room.key.clone(), *since);
                }
            }
            Record::Left { name, room, place } => {
                if let Some(known) = self.sockets.get_mut(name) {
                    known.rooms.remove(room);
                    known.left = known.left.max(*place);
                }
            }
            Record::Parked { name, at } => {
                if let Some(known) = self.sockets.get_mut(name) {
                    known.lost_at = Some(*at);
                }
            }
            Record::Back { name, address, end } => {
                if let Some(known) = self.sockets.get_mut(name) {
                    known.lost_at = None;
                    if let Some((_, last)) = known.places.last_mut() {
                        *last = *end;
                    }
                    known.places.push((*address, u64::MAX));
                    if known.places.len() > MAX_PLACES {
                        let (_, end) = known.places.remove(0);
                        known.left = known.left.max(end);
                    }
                    let user = known.user.clone();
                    self.is_here(user.as_ref());
                }
            }
            Record::Ended { name } => self.end(name),
            _ => {}
        }
    }

    /// A socket of a user is here: nobody knows any more until when the user is online.
    fn is_here(&mut self, user: Option<&Arc<UserKey>>) {
        if let Some(known) = user.and_then(|user| self.users.get_mut(user)) {
            known.until = 0;
        }
    }

    /// A socket does not come back. The rooms that it was in know of its user all the same.
    fn end(&mut self, name: &SocketAddress) {
        let Some(ended) = self.sockets.remove(name) else {
            return;
        };
        let user = ended.user.as_ref();
        let user = user.and_then(|user| self.users.get_mut(user));
        if let Some(user) = user.filter(|user| user.has(&ended)) {
            user.note_left(&ended, &self.tells_rooms);
        }
    }

    /// The process is over whose records these are, and another begins at this Unix time in
    /// milliseconds: what was there until now is lost with it, and its users are expected back until
    /// then. Who was expected before, and has not come, has no more time than it had.
    pub(super) fn lose(&mut self, now: u64, until: u64) {
        for socket in self.sockets.values_mut() {
            if socket.lost_at.is_some() {
                continue;
            }
            let user = socket.user.as_ref();
            if let Some(user) = user.and_then(|user| self.users.get_mut(user)) {
                user.note_left(socket, &self.tells_rooms);
            }
            socket.lost_at = Some(now);
        }
        let users = self.users.values_mut().filter(|known| known.until == 0);
        users.for_each(|known| known.until = until);
    }

    /// Who is online, each with all rooms that have heard of it.
    pub(super) fn online(&self) -> HashMap<Arc<UserKey>, KnownUser> {
        let mut users = self.users.clone();
        for socket in self.sockets.values() {
            let user = socket.user.as_ref().and_then(|user| users.get_mut(user));
            if let Some(user) = user.filter(|user| user.has(socket)) {
                user.rooms.extend(socket.rooms.keys().cloned());
            }
        }
        users
    }

    fn note_event(&mut self, event: &EventRecord) {
        let Where::Room(room) = &event.to else {
            return;
        };
        self.note_room(room, event.id);
        self.note_keyed(&room.key, event);
        // Before something that is gone: that may have been a later message.
        let lost = self.rooms.get(&room.key).map_or(0, |known| known.lost);
        let offset = stored_offset(&event.message).filter(|_| event.id > lost);
        if let Some(offset) = offset {
            self.note_told(&room.key, offset);
        }
    }

    /// Of each key the newest is remembered. Of too much the room's oldest goes, as in memory.
    fn note_keyed(&mut self, room: &RoomKey, event: &EventRecord) {
        let Some(key) = &event.key else {
            return;
        };
        let known = self.keyed.entry(room.clone()).or_default();
        let before = known.ids.get(key).copied();
        if before.is_some_and(|before| before >= event.id) {
            return;
        }
        self.keyed_bytes -= before.map_or(0, |before| known.forget(before));
        if &*event.message.args != "null" {
            let size = weight(event);
            while self.keyed_bytes + size > self.most_keyed || known.ids.len() >= MAX_KEYS {
                let Some(oldest) = known.events.keys().next().copied() else {
                    break;
                };
                self.keyed_bytes -= known.forget(oldest);
            }
            if self.keyed_bytes + size <= self.most_keyed {
                known.ids.insert(key.clone(), event.id);
                known.events.insert(event.id, Box::new(event.clone()));
                self.keyed_bytes += size;
            }
        }
        if known.events.is_empty() {
            self.keyed.remove(room);
        }
    }

    fn forget_keyed(&mut self, room: &RoomKey) {
        if let Some(known) = self.keyed.remove(room) {
            let sizes = known.events.values().map(|event| weight(event));
            self.keyed_bytes -= sizes.sum::<usize>();
        }
    }

    /// The newest of keys that were said before a number.
    pub(super) fn keyed_before(&self, id: u64) -> impl Iterator<Item = &EventRecord> {
        let of_rooms = self.keyed.values();
        of_rooms.flat_map(move |known| known.events.range(..id).map(|(_, event)| &**event))
    }

    fn note_room(&mut self, room: &RoomRecord, id: u64) {
        let new = KnownRoom {
            incarnation: room.incarnation,
            epoch: room.incarnation,
            offset: 0,
            lost: 0,
            told: 0,
            last: 0,
        };
        let mut is_new = false;
        let known = match self.rooms.get_mut(&room.key) {
            Some(known) => known,
            None => self.rooms.entry(room.key.clone()).or_insert(new),
        };
        if known.incarnation != room.incarnation {
            let told = known.told;
            *known = KnownRoom { told, ..new };
            is_new = true;
        }
        known.offset = known.offset.max(room.offset);
        known.last = known.last.max(id);
        if is_new {
            self.forget_keyed(&room.key);
        }
    }

    fn note_told(&mut self, room: &RoomKey, offset: u64) {
        if let Some(known) = self.rooms.get_mut(room) {
            known.told = known.told.max(offset);
        }
    }

    /// Forgets rooms of which nothing is kept and in which nobody is.
    pub(super) fn forget_rooms(&mut self, kept_from: u64) {
        let rooms = self.sockets.values().flat_map(|known| known.rooms.keys());
        let used: HashSet<&RoomKey> = rooms.collect();
        let is_needed = |(key, room): &(&RoomKey, &KnownRoom)| {
            let is_used = used.contains(*key);
            is_used || room.last >= kept_from
        };
        let rooms = self.rooms.iter();
        let gone = rooms.filter(|one| !is_needed(one));
        let gone: Vec<RoomKey> = gone.map(|(key, _)| key.clone()).collect();
        drop(used);
        for room in gone {
            self.rooms.remove(&room);
            self.forget_keyed(&room);
        }
    }

    /// What is known of a socket, as records.
    fn of_socket(&self, known: &Known) -> impl Iterator<Item = Record> {
        let name = known.name;
        let opened = Record::Opened {
            name,
            user: known.user.clone(),
            rooms: known.grants.clone(),
        };
        let all = &self.rooms;
        let joined = known.rooms.iter().filter_map(move |(key, since)| {
            let room = all.get(key)?;
            Some(Record::Joined {
                name,
                room: RoomRecord {
                    key: key.clone(),
                    incarnation: room.incarnation,
                    offset: room.offset,
                },
                since: *since,
            })
        });
        let left = (known.left > 0).then(|| Record::Left {
            name,
            room: RoomKey {
                namespace: name.namespace(),
                tenant: None,
                name: "".into(),
            },
            place: known.left,
        });
        let earlier = std::iter::once(0).chain(known.places.iter().map(|(_, end)| *end));
        let places = std::iter::zip(&known.places, earlier);
        let places = places.filter(move |((address, _), _)| *address != name);
        let places = places.map(move |((address, _), end)| Record::Back {
            name,
            address: *address,
            end,
        });
        let texts = known.remembered.iter();
        let texts = texts.map(move |(key, text)| Record::Remembered {
            name,
            key: key.clone(),
            text: Some(text.clone()),
        });
        let parked = known.lost_at.map(|at| Record::Parked { name, at });
        let first = std::iter::once(opened).chain(places).chain(texts);
        first.chain(joined).chain(left).chain(parked)
    }

    /// All of it as records, with the newest of keys that were said before a number.
    pub(super) fn records(&self, own_from: u64) -> impl Iterator<Item = Record> {
        let rooms = self.rooms.iter().flat_map(|(key, known)| {
            let room = RoomRecord {
                key: key.clone(),
                incarnation: known.incarnation,
                offset: known.offset,
            };
            let gap = (known.lost > 0).then(|| Record::Gap {
                room: room.clone(),
                epoch: known.epoch,
                place: known.lost,
            });
            let told = (known.told > 0).then(|| Record::Told {
                room: key.clone(),
                offset: known.told,
            });
            std::iter::once(Record::Room(room)).chain(gap).chain(told)
        });
        let lost = (self.lost > 0).then_some(Record::Lost { place: self.lost });
        let sockets = self
            .sockets
            .values()
            .flat_map(move |known| self.of_socket(known));
        let users = self.users.iter().map(|(user, known)| Record::Online {
            user: user.clone(),
            rev: known.rev,
            until: known.until,
            rooms: known.rooms.iter().cloned().collect(),
        });
        let keyed = self.keyed_before(own_from).cloned();
        let keyed = keyed.map(|event| Record::Event(Box::new(event)));
        let places = lost.into_iter().chain(rooms).chain(keyed);
        // A user's sockets say that nobody knows until when it is online: what is known comes later.
        places.chain(sockets).chain(users)
    }
}

#[cfg(test)]
mod tests {
    use super::super::record::keyed;
    use super::*;
    use heartline_wire::id::Sid;

    fn user(id: &str) -> Arc<UserKey> {
        Arc::new(UserKey {
            tenant_id: None,
            user_id: id.into(),
            user_type: None,
        })
    }

    fn key(namespace: u16, name: &str) -> RoomKey {
        RoomKey {
            namespace: NamespaceId(namespace),
            tenant: None,
            name: name.into(),
        }
    }

    fn opened(name: SocketAddress, user: &Arc<UserKey>) -> Record {
        Record::Opened {
            name,
            user: Some(user.clone()),
            rooms: None,
        }
    }

    /// A state of one user, in a room of each of two namespaces by a socket that is lost or ends. Of
    /// the first one the rooms are told.
    fn with_a_user(user: &Arc<UserKey>, name: SocketAddress) -> State {
        let mut state = State::new(&Size {
            segment: 20_000,
            age: 1_000,
            wait: 0,
            tells_rooms: vec![NamespaceId(0)],
        });
        state.apply(&opened(name, user));
        state.apply(&Record::Online {
            user: user.clone(),
            rev: 5,
            until: 0,
            rooms: Vec::new(),
        });
        for room in [key(0, "told"), key(1, "untold")] {
            let room = RoomRecord {
                key: room,
                incarnation: 1,
                offset: 0,
            };
            let since = 0;
            state.apply(&Record::Joined { name, room, since });
        }
        state
    }

    #[test]
    fn of_a_socket_that_is_gone_the_rooms_are_known_that_are_told_of_users() {
        let (ann, name) = (user("ann"), SocketAddress(Sid::from_bytes([1; 24])));
        for is_ended in [true, false] {
            let mut state = with_a_user(&ann, name);
            match is_ended {
                true => state.apply(&Record::Ended { name }),
                false => state.lose(1, 61),
            }
            let rooms = &state.users[&ann].rooms;
            assert_eq!(*rooms, HashSet::from_iter([key(0, "told")]), "{is_ended}");
        }
    }

    #[test]
    fn who_does_not_come_has_the_time_that_the_first_loss_gives_and_who_comes_a_new_one() {
        let (ann, name) = (user("ann"), SocketAddress(Sid::from_bytes([1; 24])));
        let again = |state: &State| {
            let mut again = State::new(&Size {
                segment: 20_000,
                age: 1_000,
                wait: 0,
                tells_rooms: vec![NamespaceId(0)],
            });
            state.records(0).for_each(|record| again.apply(&record));
            again
        };
        let comes = [
            opened(SocketAddress(Sid::from_bytes([2; 24])), &ann),
            Record::Back {
                name,
                address: SocketAddress(Sid::from_bytes([3; 24])),
                end: 0,
            },
        ];
        for come in comes {
            let mut state = with_a_user(&ann, name);
            for now in [10, 20, 30] {
                state.lose(now, now + 60);
                state = again(&state);
                let known = (state.users[&ann].until, state.sockets[&name].lost_at);
                assert_eq!(known, (70, Some(10)));
            }
            state.apply(&come);
            assert_eq!(state.users[&ann].until, 0);
            state = again(&state);
            state.lose(40, 100);
            assert_eq!(state.users[&ann].until, 100);
        }
    }

    #[test]
    fn what_a_room_keeps_of_its_keys_is_bounded() {
        let mut state = State::new(&Size {
            segment: 20_000,
            age: 1_000,
            wait: 0,
            tells_rooms: Vec::new(),
        });
        let text = format!("\"{}\"", "x".repeat(1_000));
        for id in 1..100 {
            state.apply(&keyed(id, &format!("key{id}"), &text));
            assert!(state.keyed_bytes <= 10_000);
        }
        let ids: Vec<u64> = state.keyed_before(1_000).map(|event| event.id).collect();
        assert_eq!(ids, (93..100).collect::<Vec<_>>());
        state.forget_rooms(1_000);
        assert_eq!((state.keyed_bytes, state.keyed.len()), (0, 0));
    }
}

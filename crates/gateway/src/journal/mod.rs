//! A file from which a gateway goes on after it was killed: the events that are kept, and the
//! sockets that were there.
//!
//! Every record is written, not synced, before anybody hears of it: the kernel has it, and a
//! process that is killed loses nothing. What a machine that stops has not put onto its disk is
//! gone; so the file is of one start of the machine, and begins anew with the next. There are
//! two files, of which the older one goes when the newer one is full.

mod record;
pub(crate) mod stopped;

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::data::{SocketData, Texts};
use hashbrown::{HashMap, HashSet};
use heartline_core::auth::{Identity, RoomPattern, UserKey};
use heartline_core::line::MAX_KEYS;
use heartline_core::line::ring::Kept;
use heartline_core::line::session::{MAX_PLACES, Session};
use heartline_core::line::shelf::ScopeRef;
use heartline_core::message::Message;
use heartline_core::namespaces::NamespaceId;
use heartline_core::presence::SocketAddress;
use heartline_core::rooms::{Gap, Room, RoomKey};
use heartline_wire::json;
use record::{EventRecord, Head, Record, RoomRecord, Where};

/// What a journal may hold.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Size {
    /// A file is full at so many bytes.
    pub(crate) segment: u64,
    /// How old events may be that a start goes on with, milliseconds.
    pub(crate) age: u64,
}

/// Which start of the machine this is.
const BOOT: &str = "/proc/sys/kernel/random/boot_id";

/// What is written down of a socket.
#[derive(Debug, Clone)]
pub(crate) struct Known {
    pub(crate) name: SocketAddress,
    pub(crate) user: Option<Arc<UserKey>>,
    /// The patterns of rooms that its token grants.
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

impl Known {
    /// What is known of a socket that was lost at this Unix time in milliseconds.
    pub(crate) fn of(session: &Session<Option<SocketData>>, lost_at: u64) -> Known {
        let patterns = session.identity.rooms.as_ref();
        let rooms = session.rooms.iter();
        Known {
            name: session.name,
            user: session.identity.user.clone(),
            grants: patterns.map(|all| all.iter().map(RoomPattern::text).collect()),
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
struct State {
    sockets: HashMap<SocketAddress, Known>,
    rooms: HashMap<RoomKey, KnownRoom>,
    /// The number in the line of the last event that was lost without anybody knowing whose.
    lost: u64,
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
    fn new(size: Size) -> State {
        State {
            // A file that begins with them still has room for as much again.
            most_keyed: (size.segment / 2) as usize,
            ..State::default()
        }
    }

    fn apply(&mut self, record: &Record) {
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
                }
            }
            Record::Ended { name } => {
                self.sockets.remove(name);
            }
        }
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
    fn keyed_before(&self, id: u64) -> impl Iterator<Item = &EventRecord> {
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
    fn forget_rooms(&mut self, kept_from: u64) {
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

    /// All of it as records, with the newest of keys that were said before a number.
    fn records(&self, own_from: u64) -> impl Iterator<Item = Record> {
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
        let sockets = self.sockets.values().flat_map(move |known| {
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
        });
        let keyed = self.keyed_before(own_from).cloned();
        let keyed = keyed.map(|event| Record::Event(Box::new(event)));
        lost.into_iter().chain(rooms).chain(keyed).chain(sockets)
    }
}

/// What was in a journal.
#[derive(Default)]
pub(crate) struct Found {
    pub(crate) sockets: Vec<Known>,
    pub(crate) rooms: Vec<(RoomKey, KnownRoom)>,
    /// The events, each place's in their order, with the Unix time in milliseconds.
    pub(crate) events: Vec<(Place, u64, Kept)>,
    /// Places of which something was dropped, with the number of the last.
    pub(crate) dropped: Vec<(Place, u64)>,
    /// The number of the last event.
    pub(crate) last: u64,
    /// Events before this number may be missing.
    pub(crate) kept_from: u64,
    /// Those up to this number are not all.
    pub(crate) lost: u64,
}

impl From<Place> for Where {
    fn from(place: Place) -> Where {
        match place {
            Place::Room(key, incarnation) => Where::Room(RoomRecord {
                key,
                incarnation,
                offset: 0,
            }),
            Place::Scope {
                namespace,
                tenant,
                user,
            } => Where::Scope {
                namespace,
                tenant,
                user,
            },
            Place::Socket(name) => Where::Socket(name),
        }
    }
}

impl Found {
    /// Takes in what is known besides the events that are all there.
    fn take_in(&mut self, state: &State) {
        self.lost = state.lost;
        self.last = self.last.max(state.lost);
        self.sockets = state.sockets.values().cloned().collect();
        let rooms = state.rooms.iter();
        self.rooms = rooms.map(|(key, room)| (key.clone(), *room)).collect();
        let keyed = state.keyed_before(self.kept_from).cloned();
        let mut events: Vec<_> = keyed.map(event_found).collect();
        events.sort_unstable_by_key(|(.., event)| event.id);
        self.events.splice(..0, events);
    }

    /// Forgets what is too old, and what is more than one file may have: the newest, as
    /// records.
    fn forget_old(&mut self, size: Size, now: u64) -> Vec<u8> {
        let oldest = now.saturating_sub(size.age);
        let (mut records, mut bytes) = (Vec::new(), 0);
        let mut first = self.events.len();
        for (place, at, event) in self.events.iter().rev() {
            let mut record = Vec::new();
            record::push(&event_record(place.clone().into(), *at, event), &mut record);
            bytes += record.len() as u64;
            if *at < oldest || bytes > size.segment {
                break;
            }
            records.push(record);
            first -= 1;
        }
        let forgotten = self.events.drain(..first).next_back();
        if let Some((.., event)) = forgotten {
            self.kept_from = event.id + 1;
        }
        records.into_iter().rev().flatten().collect()
    }
}

/// Where an event went.
#[derive(Debug, Clone)]
pub(crate) enum Place {
    /// A room, with its incarnation.
    Room(RoomKey, u64),
    Scope {
        namespace: NamespaceId,
        tenant: Option<Arc<str>>,
        user: Option<Arc<str>>,
    },
    /// A single socket, by the id under which it is known.
    Socket(SocketAddress),
}

struct Tape {
    file: File,
    /// Events before this number are in neither file.
    kept_from: u64,
    /// Events before this number are not in the newer one.
    own_from: u64,
    /// The number of the last event.
    last: u64,
    length: u64,
    state: State,
    buffer: Vec<u8>,
    broken: bool,
}

/// The journal of a gateway.
pub(crate) struct Journal {
    path: PathBuf,
    head: Head,
    size: Size,
    tape: Mutex<Tape>,
    /// Unix milliseconds of now.
    now: Box<dyn Fn() -> u64 + Send + Sync>,
    /// A second gateway must not write into the same.
    _lock: File,
}

fn older(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".1");
    name.into()
}

fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options
}

impl Journal {
    /// Opens the journal and reads what is in it, if it is of this start of the machine and of
    /// the same namespaces. Else it begins anew, with this epoch and secret.
    ///
    /// # Errors
    /// The file cannot be used, or another gateway has it.
    pub(crate) fn open(
        path: &Path,
        namespaces: String,
        (epoch, secret): (u32, [u8; 32]),
        size: Size,
        now: Box<dyn Fn() -> u64 + Send + Sync>,
    ) -> io::Result<(Journal, Found)> {
        let mut lock = path.as_os_str().to_owned();
        lock.push(".lock");
        let lock = private().open(lock)?;
        lock.try_lock()
            .map_err(|_| io::Error::other("another gateway has it open"))?;
        let boot = std::fs::read_to_string(BOOT).unwrap_or_default();
        let mut head = Head {
            boot,
            namespaces,
            epoch,
            secret,
            own_from: 1,
        };
        let (mut state, mut found) = match read(path, &head, size) {
            Some((before, state, found)) => {
                (head.epoch, head.secret) = (before.epoch, before.secret);
                (state, found)
            }
            None => (State::new(size), Found::default()),
        };
        let events = found.forget_old(size, now());
        let kept_from = found.kept_from.max(1);
        state.forget_rooms(kept_from);
        found.take_in(&state);
        head.own_from = kept_from;
        // All that is still needed goes into a new file.
        let mut buffer = head_of(&head, &state);
        buffer.extend(events);
        let tape = Tape {
            file: replace(path, &buffer)?,
            kept_from,
            own_from: kept_from,
            last: found.last,
            length: buffer.len() as u64,
            state,
            buffer: Vec::new(),
            broken: false,
        };
        // What it has is in this one.
        let _ = std::fs::remove_file(older(path));
        let journal = Journal {
            path: path.into(),
            head,
            size,
            tape: Mutex::new(tape),
            now,
            _lock: lock,
        };
        Ok((journal, found))
    }

    /// Its epoch and its secret.
    pub(crate) fn identity(&self) -> (u32, [u8; 32]) {
        (self.head.epoch, self.head.secret)
    }

    fn tape(&self) -> MutexGuard<'_, Tape> {
        self.tape.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The file becomes the older one, and a new one begins with all that is known.
    fn turn_over(&self, tape: &mut Tape) -> io::Result<()> {
        tape.kept_from = tape.own_from;
        tape.own_from = tape.last + 1;
        tape.state.forget_rooms(tape.kept_from);
        let head = Head {
            own_from: tape.own_from,
            ..self.head.clone()
        };
        let begin = head_of(&head, &tape.state);
        std::fs::rename(&self.path, older(&self.path))?;
        tape.file = replace(&self.path, &begin)?;
        tape.length = begin.len() as u64;
        Ok(())
    }

    fn note(&self, records: &[Record]) {
        let mut tape = self.tape();
        if tape.broken {
            return;
        }
        for record in records {
            tape.state.apply(record);
            record::push(record, &mut tape.buffer);
            tape.last = tape.last.max(record.place());
        }
        let written = tape.write();
        let written = written.and_then(|()| match tape.length > self.size.segment {
            true => self.turn_over(&mut tape),
            false => Ok(()),
        });
        if let Err(error) = written {
            tracing::error!(
                %error,
                path = %self.path.display(),
                "the journal cannot be written: nothing of it survives the end of this process"
            );
            tape.broken = true;
            // Half of it would be taken for all.
            let _ = std::fs::remove_file(&self.path);
            let _ = std::fs::remove_file(older(&self.path));
        }
    }

    /// Notes an event of a room, before anybody hears of it.
    pub(crate) fn room_event(&self, room: &Room, event: &Kept) {
        let to = Where::Room(RoomRecord {
            key: room.key.clone(),
            incarnation: room.incarnation,
            offset: event.offset,
        });
        self.note(&[event_record(to, (self.now)(), event)]);
    }

    /// The same of events that went to no room.
    pub(crate) fn events(&self, scope: ScopeRef<'_>, events: &[Kept]) {
        let to = Where::Scope {
            namespace: scope.namespace,
            tenant: scope.tenant.map(Into::into),
            user: scope.user.map(Into::into),
        };
        let now = (self.now)();
        let records = events.iter();
        let records: Vec<Record> = records
            .map(|event| event_record(to.clone(), now, event))
            .collect();
        self.note(&records);
    }

    /// The same of one to a single socket.
    pub(crate) fn direct(&self, name: SocketAddress, event: &Kept) {
        self.note(&[event_record(Where::Socket(name), (self.now)(), event)]);
    }

    /// Publications of a room were lost.
    pub(crate) fn gap(&self, room: &Room, gap: Gap) {
        self.note(&[Record::Gap {
            room: RoomRecord {
                key: room.key.clone(),
                incarnation: room.incarnation,
                offset: gap.offset,
            },
            epoch: gap.epoch,
            place: gap.place,
        }]);
    }

    /// Publications were lost, and nobody knows whose.
    pub(crate) fn lost(&self, place: u64) {
        self.note(&[Record::Lost { place }]);
    }

    /// A socket has begun.
    pub(crate) fn opened(&self, name: SocketAddress, identity: &Identity) {
        let patterns = identity.rooms.as_ref();
        self.note(&[Record::Opened {
            name,
            user: identity.user.clone(),
            rooms: patterns.map(|all| all.iter().map(RoomPattern::text).collect()),
        }]);
    }

    /// It has come into a room.
    pub(crate) fn joined(&self, name: SocketAddress, room: &Room, offset: u64, since: u64) {
        self.note(&[Record::Joined {
            name,
            room: RoomRecord {
                key: room.key.clone(),
                incarnation: room.incarnation,
                offset,
            },
            since,
        }]);
    }

    /// It has left a room.
    pub(crate) fn left(&self, name: SocketAddress, room: &RoomKey, place: u64) {
        self.note(&[Record::Left {
            name,
            room: room.clone(),
            place,
        }]);
    }

    /// Something is remembered of it under a name, as JSON; `None`: no more.
    pub(crate) fn remembered(&self, name: SocketAddress, key: &str, text: Option<&str>) {
        self.note(&[Record::Remembered {
            name,
            key: key.to_owned(),
            text: text.map(ToOwned::to_owned),
        }]);
    }

    /// Its connection is lost.
    pub(crate) fn parked(&self, name: SocketAddress) {
        let at = (self.now)();
        self.note(&[Record::Parked { name, at }]);
    }

    /// It has come back, and is in the rooms in which it was, but for those that are `gone`. Up to
    /// `end` it was sent events where it was before.
    pub(crate) fn back<'a>(
        &self,
        name: SocketAddress,
        (address, end): (SocketAddress, u64),
        gone: impl Iterator<Item = &'a RoomKey>,
    ) {
        // Whatever part of this is written, the next process takes no room away from who was not
        // told yet that they are back.
        let gone = gone.map(|room| Record::Left {
            name,
            room: room.clone(),
            place: 0,
        });
        let back = Record::Back { name, address, end };
        self.note(&std::iter::once(back).chain(gone).collect::<Vec<_>>());
    }

    /// It will not come back.
    pub(crate) fn ended(&self, name: SocketAddress) {
        self.note(&[Record::Ended { name }]);
    }
}

impl Tape {
    fn write(&mut self) -> io::Result<()> {
        let written = self.file.write_all(&self.buffer);
        self.length += self.buffer.len() as u64;
        self.buffer.clear();
        if self.buffer.capacity() > 1 << 20 {
            self.buffer = Vec::new();
        }
        written
    }
}

fn event_record(mut to: Where, at: u64, event: &Kept) -> Record {
    if let Where::Room(room) = &mut to {
        room.offset = event.offset;
    }
    Record::Event(Box::new(EventRecord {
        to,
        id: event.id,
        at,
        message: event.message.clone(),
        key: event.key.clone(),
        only: event.only.clone(),
    }))
}

/// What a file begins with.
fn head_of(head: &Head, state: &State) -> Vec<u8> {
    let mut begin = Vec::new();
    record::push(&Record::Head(head.clone()), &mut begin);
    for record in state.records(head.own_from) {
        record::push(&record, &mut begin);
    }
    begin
}

/// Puts a new file in the place of another, at once and with this in it.
fn replace(path: &Path, begin: &[u8]) -> io::Result<File> {
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    let name = PathBuf::from(name);
    let mut file = private().truncate(true).open(&name)?;
    file.write_all(begin)?;
    std::fs::rename(&name, path)?;
    Ok(file)
}

/// Reads both files; `None` if there is nothing that this gateway can go on with.
fn read(path: &Path, expected: &Head, size: Size) -> Option<(Head, State, Found)> {
    let usable = |file: &Path| {
        let bytes = std::fs::read(file).ok()?;
        let mut rest = &bytes[..];
        let Some(Record::Head(head)) = record::take(&mut rest) else {
            return None;
        };
        let fits = head.boot == expected.boot
            && !head.boot.is_empty()
            && head.namespaces == expected.namespaces;
        let begin = bytes.len() - rest.len();
        fits.then_some((head, bytes, begin))
    };
    let newer = usable(path);
    let mut before = usable(&older(path));
    if let (Some((newer, ..)), Some((older, ..))) = (&newer, &before) {
        let goes_on = older.epoch == newer.epoch && older.own_from < newer.own_from;
        before = before.filter(|_| goes_on);
    }
    let kept_from = before.iter().chain(&newer).next()?.0.own_from;
    let (mut state, mut found) = (State::new(size), Found::default());
    let mut last = None;
    for (head, bytes, begin) in before.into_iter().chain(newer) {
        // Each begins with all that is known.
        state = State::new(size);
        let mut rest = &bytes[begin..];
        while let Some(record) = record::take(&mut rest) {
            state.apply(&record);
            found.last = found.last.max(record.place());
            // Before these there is only what is newest of its key.
            if let Record::Event(event) = record
                && event.id >= head.own_from
            {
                found.events.push(event_found(*event));
            }
        }
        found.last = found.last.max(head.own_from - 1);
        last = Some(head);
    }
    found.kept_from = kept_from;
    last.map(|head| (head, state, found))
}

impl From<Where> for Place {
    fn from(to: Where) -> Place {
        match to {
            Where::Room(room) => Place::Room(room.key, room.incarnation),
            Where::Scope {
                namespace,
                tenant,
                user,
            } => Place::Scope {
                namespace,
                tenant,
                user,
            },
            Where::Socket(name) => Place::Socket(name),
        }
    }
}

fn event_found(event: EventRecord) -> (Place, u64, Kept) {
    let offset = match &event.to {
        Where::Room(room) => room.offset,
        Where::Scope { .. } | Where::Socket(_) => 0,
    };
    let kept = Kept {
        id: event.id,
        offset,
        at: heartline_wire::time::Micros::ZERO,
        message: event.message,
        key: event.key,
        only: event.only,
    };
    (event.to.into(), event.at, kept)
}

#[cfg(test)]
mod tests {
    use super::*;
    use heartline_core::message::Message;
    use heartline_wire::time::Micros;

    fn open(path: &Path) -> (Journal, Found) {
        let size = Size {
            segment: 10_000,
            age: 1_000,
        };
        let now = Box::new(|| 7);
        Journal::open(path, "/".into(), (1, [2; 32]), size, now).unwrap()
    }

    /// A folder of its own for a test.
    fn folder(name: &str) -> PathBuf {
        let name = format!("heartline-{name}-{}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir(&folder).unwrap();
        folder
    }

    /// An event in a room, under a key.
    fn keyed(id: u64, key: &str, args: &str) -> Record {
        let to = Where::Room(RoomRecord {
            key: RoomKey {
                namespace: NamespaceId::ROOT,
                tenant: None,
                name: "map".into(),
            },
            incarnation: 3,
            offset: 0,
        });
        let event = Kept {
            id,
            offset: id,
            at: Micros::ZERO,
            message: Message::new("e", args),
            key: Some(key.into()),
            only: None,
        };
        event_record(to, 7, &event)
    }

    #[test]
    fn the_newest_of_each_key_goes_from_file_to_file() {
        let folder = folder("journal-keys");
        let path = folder.join("journal");
        let (journal, _) = open(&path);
        let text = format!("\"{}\"", "x".repeat(1_000));
        for (id, key, args) in [
            (1, "a", "1"),
            (2, "b", "2"),
            (3, "a", "3"),
            (4, "b", "null"),
        ] {
            journal.note(&[keyed(id, key, args)]);
        }
        // Other rooms have filled both files since; nobody else forgets the room.
        let scope = ScopeRef {
            namespace: NamespaceId::ROOT,
            tenant: None,
            user: None,
        };
        let socket = SocketAddress::parse("AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA").unwrap();
        journal.opened(socket, &Identity::default());
        let Record::Event(event) = keyed(4, "b", "null") else {
            unreachable!("it was made as one")
        };
        let Where::Room(room) = event.to else {
            unreachable!("it goes to a room")
        };
        let joined = Record::Joined {
            name: socket,
            room,
            since: 0,
        };
        journal.note(&[joined]);
        for id in 5..50 {
            let event = Kept {
                id,
                offset: 0,
                at: Micros::ZERO,
                message: Message::new("e", &text),
                key: None,
                only: None,
            };
            journal.events(scope, &[event]);
        }
        drop(journal);
        for _ in 0..2 {
            let (journal, found) = open(&path);
            assert!(found.kept_from > 30);
            let first = &found.events[0].2;
            assert_eq!((first.id, &*first.message.args), (3, "3"));
            assert!(found.events[1].2.id >= found.kept_from);
            drop(journal);
        }
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn what_a_room_keeps_of_its_keys_is_bounded() {
        let mut state = State::new(Size {
            segment: 20_000,
            age: 1_000,
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

    #[test]
    fn two_files_hold_what_is_newest_and_say_from_where_on() {
        let folder = folder("journal");
        let path = folder.join("journal");
        let (mut journal, found) = open(&path);
        assert_eq!((found.last, found.kept_from), (0, 0));
        let scope = ScopeRef {
            namespace: NamespaceId::ROOT,
            tenant: None,
            user: None,
        };
        let event = |id| Kept {
            id,
            offset: 0,
            at: Micros::ZERO,
            message: Message::new("e", &format!("\"{}\"", "x".repeat(1_000))),
            key: None,
            only: None,
        };
        let mut identity = journal.identity();
        for id in 1..=200 {
            journal.events(scope, &[event(id)]);
            // Killed at any moment: what is there is without a gap up to the last.
            if id % 7 != 0 {
                continue;
            }
            drop(journal);
            let (again, found) = open(&path);
            assert_eq!(again.identity(), identity);
            identity = again.identity();
            assert_eq!(found.last, id);
            let ids: Vec<u64> = found.events.iter().map(|(.., event)| event.id).collect();
            assert_eq!(ids, (found.kept_from.max(1)..=id).collect::<Vec<_>>());
            assert!(ids.len() >= 7 && ids.len() < 20, "{}", ids.len());
            journal = again;
        }
        std::fs::remove_dir_all(folder).unwrap();
    }
}

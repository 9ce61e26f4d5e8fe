//! The rooms of a node: which shards have members, and the numbers of publications.

use std::hash::{BuildHasher, Hash, Hasher};
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use hashbrown::{DefaultHashBuilder, Equivalent, HashMap};
use heartline_wire::time::Micros;

use crate::backplane::Subscription;
use crate::line::ring::{Extent, Kept, Ring};
use crate::line::{Account, Bounds, Line};
use crate::namespaces::NamespaceId;

const PARTS: usize = 64;

const NONE: u32 = u32::MAX;

/// Who holds a room that nobody may want to come back to: the directory, and the last to leave.
const HOLDERS: usize = 2;

/// A room's name within its tenant and namespace.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RoomKey {
    /// The namespace.
    pub namespace: NamespaceId,
    /// The tenant; `None` where there are none.
    pub tenant: Option<Arc<str>>,
    /// The name that clients use.
    pub name: Arc<str>,
}

/// The same, borrowed, for looking up.
pub struct RoomRef<'a> {
    /// The namespace.
    pub namespace: NamespaceId,
    /// The tenant; `None` where there are none.
    pub tenant: Option<&'a str>,
    /// The name that clients use.
    pub name: &'a str,
}

impl Hash for RoomRef<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.namespace.hash(state);
        self.tenant.hash(state);
        self.name.hash(state);
    }
}

impl Equivalent<RoomKey> for RoomRef<'_> {
    fn equivalent(&self, key: &RoomKey) -> bool {
        self.namespace == key.namespace
            && self.tenant == key.tenant.as_deref()
            && *self.name == *key.name
    }
}

/// A room that has members.
#[derive(Debug)]
pub struct Room {
    /// Which room it is.
    pub key: RoomKey,
    /// Tells this room from an earlier one of the same name.
    pub incarnation: u64,
    /// Publications so far. Held while one is handed to the shards.
    sequence: Mutex<Sequence>,
    is_kept: bool,
    /// Other nodes' publications come as long as the room is there.
    pub(super) subscription: Option<Arc<dyn Subscription>>,
    /// Index of the member list in each shard.
    locals: Box<[AtomicU32]>,
}

/// The publications of a room.
#[derive(Debug)]
struct Sequence {
    /// How many there were.
    offset: u64,
    /// The epoch in which they are numbered: another one after some were lost.
    epoch: u64,
    /// The newest of them, in rooms whose publications are kept.
    ring: Option<Box<Ring>>,
    /// Since when a room that is kept was seen to have no members.
    empty_since: Option<Micros>,
    /// What is known of the numbers that all nodes have agreed on.
    numbers: Numbers,
}

/// Where a room's numbers come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Numbers {
    /// From here.
    Own,
    /// From the line that all nodes share, of which this node does not know yet how far it is.
    Awaited,
    /// The same, and this node does not find out: who is in the room is told of a gap.
    Unknown,
    /// The same: what comes next has the next number, or something was lost.
    Shared,
}

/// The numbers of a room's event that were taken elsewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Numbered {
    /// Its place in the line.
    pub id: u64,
    /// That of the event before it in the room; 0: there was none.
    pub before: u64,
    /// The epoch of its offset.
    pub epoch: u64,
    /// Its number in the room.
    pub offset: u64,
}

/// What a room makes of a publication whose numbers were taken elsewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Followed {
    /// It has been here, or comes with the room's end.
    Before,
    /// It is the next one.
    Next,
    /// Others are lost before it, which the members were told first.
    BehindGap,
}

/// Publications were lost here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gap {
    /// The room's next publications are of this epoch.
    pub epoch: u64,
    /// The last one's number.
    pub offset: u64,
    /// The gap's own place in the line, where publications are kept; else 0.
    pub place: u64,
}

/// How an earlier process has left a room.
#[derive(Debug, Clone, Copy)]
pub struct Left {
    /// Tells it from an earlier one of the same name.
    pub incarnation: u64,
    /// The epoch in which its publications are numbered.
    pub epoch: u64,
    /// How many there were.
    pub offset: u64,
    /// Those up to this number in the line may be missing.
    pub missing: u64,
    /// From this number on all are there; before it, what is newest of its key.
    pub whole_from: u64,
}

/// What joining as the first of a shard found.
pub(super) struct Entered {
    pub(super) room: Arc<Room>,
    /// How many publications there were: the first that the shard gets is the next.
    pub(super) offset: u64,
    /// The epoch in which they have their numbers.
    pub(super) epoch: u64,
    /// The number of the last of them in the line; 0 where they are not kept.
    pub(super) last: u64,
}

impl Room {
    /// Looks at what is kept of the room, if anything is.
    pub fn with_ring<T>(&self, look: impl FnOnce(&Ring) -> T) -> Option<T> {
        let sequence = self.sequence();
        sequence.ring.as_deref().map(look)
    }

    /// Where publications of other nodes come from.
    pub fn subscription(&self) -> Option<&Arc<dyn Subscription>> {
        self.subscription.as_ref()
    }

    /// How many publications there were.
    pub fn offset(&self) -> u64 {
        self.sequence().offset
    }

    /// The epoch in which the next publication is numbered.
    pub fn epoch(&self) -> u64 {
        self.sequence().epoch
    }

    fn sequence(&self) -> MutexGuard<'_, Sequence> {
        self.sequence.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The shard's index of its member list.
    pub fn local(&self, shard: u16) -> Option<u32> {
        let local = self.locals[usize::from(shard)].load(Ordering::Acquire);
        (local != NONE).then_some(local)
    }

    fn is_empty(&self) -> bool {
        self.locals
            .iter()
            .all(|local| local.load(Ordering::Acquire) == NONE)
    }

    /// Numbers a publication and hands it, by `to_shard`, to each shard with
    /// members, in order.
    pub fn publish<T>(
        &self,
        make: impl FnOnce(u64) -> T,
        mut to_shard: impl FnMut(usize, &T),
    ) -> u64 {
        let mut sequence = self.sequence();
        sequence.offset += 1;
        let publication = make(sequence.offset);
        self.hand(&publication, &mut to_shard);
        sequence.offset
    }

    /// Whether publications are kept.
    pub fn is_kept(&self) -> bool {
        self.is_kept
    }

    /// The same in a room whose publications are kept: `note` sees it when it has its number in
    /// the line, and `make` gets that too.
    pub fn publish_kept<T>(
        &self,
        line: &Line,
        mut event: Kept,
        note: impl FnOnce(&Kept),
        make: impl FnOnce(u64, u64) -> T,
        mut to_shard: impl FnMut(usize, &T),
    ) -> u64 {
        let mut sequence = self.sequence();
        sequence.offset += 1;
        let offset = sequence.offset;
        event.offset = offset;
        line.take(1, |id| {
            event.id = id;
            note(&event);
            self.hand(&make(offset, id), &mut to_shard);
        });
        if let Some(ring) = &mut sequence.ring {
            ring.push(event, &line.bounds);
        }
        offset
    }

    /// Hands on a publication whose numbers were taken elsewhere, unless it has been here. If
    /// there are others between it and the one before, `gap` is handed on first.
    pub fn follow<T>(
        &self,
        line: &Line,
        at: Numbered,
        mut event: Kept,
        make: impl FnOnce(u64, u64) -> T,
        mut to_shard: impl FnMut(usize, &T),
        mut gap: impl FnMut(usize, Gap),
    ) -> Followed {
        let mut sequence = self.sequence();
        let is_next = sequence.epoch == at.epoch && sequence.offset + 1 == at.offset;
        let followed = match sequence.numbers {
            // Who waits for the room's numbers gets it with them.
            Numbers::Awaited => return Followed::Before,
            Numbers::Shared if sequence.epoch == at.epoch && at.offset <= sequence.offset => {
                return Followed::Before;
            }
            Numbers::Shared if is_next => Followed::Next,
            Numbers::Own | Numbers::Unknown | Numbers::Shared => {
                self.skip_to(&mut sequence, at, &mut gap);
                Followed::BehindGap
            }
        };
        sequence.numbers = Numbers::Shared;
        sequence.offset = at.offset;
        (event.id, event.offset) = (at.id, at.offset);
        line.follow(at.id, || {
            self.hand(&make(at.offset, at.id), &mut to_shard);
        });
        if let Some(ring) = &mut sequence.ring {
            ring.push(event, &line.bounds);
        }
        followed
    }

    /// Hands on what has no number of its own: each shard with members gets that of the last
    /// publication.
    pub fn pass(&self, mut to_shard: impl FnMut(usize, u64)) {
        let sequence = self.sequence();
        let offset = sequence.offset;
        self.hand(&offset, &mut |shard, offset: &u64| to_shard(shard, *offset));
    }

    /// All nodes hear that publications were lost: the next ones are of another epoch.
    pub fn follow_gap(&self, line: &Line, at: Numbered, mut gap: impl FnMut(usize, Gap)) {
        let mut sequence = self.sequence();
        if sequence.numbers == Numbers::Awaited
            || (sequence.epoch == at.epoch && at.offset <= sequence.offset)
        {
            return;
        }
        sequence.numbers = Numbers::Shared;
        line.follow(at.id, || {
            let next = Numbered {
                offset: at.offset + 1,
                before: at.id,
                ..at
            };
            self.skip_to(&mut sequence, next, &mut gap);
        });
    }

    fn skip_to(&self, sequence: &mut Sequence, at: Numbered, gap: &mut impl FnMut(usize, Gap)) {
        let is_another = sequence.epoch != at.epoch;
        (sequence.epoch, sequence.offset) = (at.epoch, at.offset - 1);
        match &mut sequence.ring {
            Some(ring) if is_another => ring.begin_anew(at.before, at.offset - 1),
            Some(ring) => ring.skip(at.before, at.offset - 1),
            None => {}
        }
        let lost = Gap {
            epoch: sequence.epoch,
            offset: sequence.offset,
            place: at.before,
        };
        self.hand(&lost, &mut |shard, lost: &Gap| gap(shard, *lost));
    }

    /// Whether this node does not know yet how far the room is in the line of all nodes.
    pub fn is_awaited(&self) -> bool {
        matches!(self.sequence().numbers, Numbers::Awaited | Numbers::Unknown)
    }

    /// Nobody has told in time how far the room is: whatever comes first is behind a gap.
    pub fn goes_without(&self) {
        let mut sequence = self.sequence();
        if sequence.numbers == Numbers::Awaited {
            sequence.numbers = Numbers::Unknown;
        }
    }

    /// Something may have been lost: what comes next is behind a gap.
    pub fn doubts(&self) {
        let mut sequence = self.sequence();
        if sequence.numbers == Numbers::Shared {
            sequence.numbers = Numbers::Unknown;
        }
    }

    /// Takes in what all nodes together know of the room: how many publications there were, in
    /// which epoch, and those that are kept. `to_shard` tells each shard with members how far
    /// the room is if that was not known before, and whether these have counted on something
    /// else: then something may be lost, which is answered too.
    pub fn take_in(
        &self,
        line: &Line,
        (epoch, offset): (u64, u64),
        known: Extent,
        events: Vec<Kept>,
        mut to_shard: impl FnMut(usize, Gap, bool),
    ) -> bool {
        let mut sequence = self.sequence();
        let is_another = sequence.epoch != epoch;
        if let Some(ring) = &mut sequence.ring {
            if is_another && !ring.is_empty() {
                ring.begin_anew(known.dropped, known.dropped_offset);
            }
            ring.take_in(known, events, &line.bounds);
        }
        if sequence.numbers == Numbers::Shared {
            return false;
        }
        let is_late = sequence.numbers == Numbers::Unknown;
        sequence.numbers = Numbers::Shared;
        (sequence.epoch, sequence.offset) = (epoch, offset);
        let from = Gap {
            epoch,
            offset,
            place: known.last,
        };
        self.hand(&from, &mut |shard, from: &Gap| {
            to_shard(shard, *from, is_late);
        });
        is_late
    }

    fn hand<T>(&self, publication: &T, to_shard: &mut impl FnMut(usize, &T)) {
        for (shard, local) in self.locals.iter().enumerate() {
            if local.load(Ordering::Acquire) != NONE {
                to_shard(shard, publication);
            }
        }
    }
}

type Part = Mutex<HashMap<RoomKey, Arc<Room>>>;

/// The rooms of this node.
pub struct RoomDirectory {
    parts: Vec<Part>,
    hasher: DefaultHashBuilder,
    shards: usize,
    /// The next incarnation's number, or epoch's: no two have the same.
    incarnations: AtomicU64,
    /// Rooms that have members.
    peopled: AtomicUsize,
    subscribe: OnceLock<Subscribe>,
    close: OnceLock<Close>,
    keep: OnceLock<Keep>,
}

/// Which rooms' publications are kept, by their names; and what they are counted on.
struct Keep {
    rule: Box<dyn Fn(&str) -> bool + Send + Sync>,
    account: Arc<Account>,
    /// Their numbers are those of the line that all nodes share.
    is_shared: bool,
}

/// Tells the backplane of a room that has members from now on.
type Subscribe = Box<dyn Fn(&RoomKey) -> Option<Arc<dyn Subscription>> + Send + Sync>;

/// Hears of a room that is not here any more.
type Close = Box<dyn Fn(&RoomKey) + Send + Sync>;

impl RoomDirectory {
    /// No rooms yet, on a node of so many shards.
    pub fn new(shards: usize) -> Self {
        RoomDirectory {
            parts: (0..PARTS).map(|_| Mutex::default()).collect(),
            hasher: DefaultHashBuilder::default(),
            shards,
            incarnations: AtomicU64::new(1),
            peopled: AtomicUsize::new(0),
            subscribe: OnceLock::new(),
            close: OnceLock::new(),
            keep: OnceLock::new(),
        }
    }

    /// Has the publications of rooms kept whose names fit the rule. Such a room stays for a
    /// while when its last member has left ([`trim`](Self::trim)).
    pub fn keep(
        &self,
        account: Arc<Account>,
        is_shared: bool,
        rule: impl Fn(&str) -> bool + Send + Sync + 'static,
    ) {
        let rule = Box::new(rule);
        let _ = self.keep.set(Keep {
            rule,
            account,
            is_shared,
        });
    }

    /// Has `subscribe` called for each room that comes to be.
    pub fn on_open(
        &self,
        subscribe: impl Fn(&RoomKey) -> Option<Arc<dyn Subscription>> + Send + Sync + 'static,
    ) {
        let _ = self.subscribe.set(Box::new(subscribe));
    }

    /// Has `close` called for each room that is not here any more, before it can open again: while
    /// its part of the directory is locked.
    pub fn on_close(&self, close: impl Fn(&RoomKey) + Send + Sync + 'static) {
        let _ = self.close.set(Box::new(close));
    }

    fn closed(&self, room: &Room) {
        if let Some(close) = self.close.get() {
            close(&room.key);
        }
    }

    fn part(&self, room: &RoomRef<'_>) -> &Part {
        &self.parts[(self.hasher.hash_one(room) >> 48) as usize % PARTS]
    }

    /// The room, if it has members, or has had them lately and is kept.
    pub fn find(&self, room: &RoomRef<'_>) -> Option<Arc<Room>> {
        let part = self
            .part(room)
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        part.get(room).cloned()
    }

    /// Puts a room there as an earlier process has left it.
    pub fn restore(
        &self,
        key: &RoomKey,
        left: Left,
        events: Vec<Kept>,
        bounds: &Bounds,
    ) -> Option<Arc<Room>> {
        let Left {
            incarnation,
            epoch,
            offset,
            missing,
            whole_from,
        } = left;
        let keep = self.keep.get().filter(|keep| (keep.rule)(&key.name))?;
        let mut ring = Ring::new(keep.account.clone());
        // Before the first that is there, something may be gone; without any, nothing of this
        // room is known to be complete but what comes after all.
        let first = events.iter().find(|event| event.id >= whole_from);
        let first = first.map_or(offset + 1, |event| event.offset);
        ring.skip(missing, first - 1);
        for event in events {
            ring.push(event, bounds);
        }
        let room = Arc::new(Room {
            subscription: self.subscribe.get().and_then(|subscribe| subscribe(key)),
            key: key.clone(),
            is_kept: true,
            incarnation,
            sequence: Mutex::new(Sequence {
                offset,
                epoch,
                ring: Some(Box::new(ring)),
                empty_since: None,
                numbers: Numbers::Own,
            }),
            locals: (0..self.shards).map(|_| AtomicU32::new(NONE)).collect(),
        });
        self.incarnations
            .fetch_max(incarnation.max(epoch) + 1, Ordering::Relaxed);
        let place = RoomRef {
            namespace: key.namespace,
            tenant: key.tenant.as_deref(),
            name: &key.name,
        };
        let part = self.part(&place);
        let mut part = part.lock().unwrap_or_else(PoisonError::into_inner);
        part.insert(key.clone(), room.clone());
        Some(room)
    }

    /// The room, which comes to be if it is not there yet. Without members a room that is kept
    /// stays for a while.
    pub fn open(&self, room: &RoomRef<'_>, tenant: Option<&Arc<str>>) -> Arc<Room> {
        let part = self.part(room);
        let mut part = part.lock().unwrap_or_else(PoisonError::into_inner);
        self.find_or_make(&mut part, room, tenant)
    }

    fn find_or_make(
        &self,
        part: &mut HashMap<RoomKey, Arc<Room>>,
        room: &RoomRef<'_>,
        tenant: Option<&Arc<str>>,
    ) -> Arc<Room> {
        if let Some(found) = part.get(room) {
            return found.clone();
        }
        let key = RoomKey {
            namespace: room.namespace,
            tenant: tenant.cloned(),
            name: room.name.into(),
        };
        let subscribe = self.subscribe.get();
        let keep = self.keep.get().filter(|keep| (keep.rule)(room.name));
        let incarnation = self.incarnations.fetch_add(1, Ordering::Relaxed);
        let made = Arc::new(Room {
            subscription: subscribe.and_then(|subscribe| subscribe(&key)),
            key: key.clone(),
            incarnation,
            is_kept: keep.is_some(),
            sequence: Mutex::new(Sequence {
                offset: 0,
                epoch: incarnation,
                ring: keep.map(|keep| Box::new(Ring::new(keep.account.clone()))),
                empty_since: None,
                numbers: match keep.is_some_and(|keep| keep.is_shared) {
                    true => Numbers::Awaited,
                    false => Numbers::Own,
                },
            }),
            locals: (0..self.shards).map(|_| AtomicU32::new(NONE)).collect(),
        });
        part.insert(key, made.clone());
        made
    }

    /// Announces that a shard has members under `local`.
    pub(super) fn enter(
        &self,
        room: &RoomRef<'_>,
        tenant: Option<&Arc<str>>,
        shard: u16,
        local: u32,
    ) -> Entered {
        let mut part = self
            .part(room)
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let found = self.find_or_make(&mut part, room, tenant);
        if found.is_empty() {
            self.peopled.fetch_add(1, Ordering::Relaxed);
        }
        let mut sequence = found.sequence();
        found.locals[usize::from(shard)].store(local, Ordering::Release);
        sequence.empty_since = None;
        let ring = sequence.ring.as_deref();
        let last = ring.map_or(0, Ring::last);
        let (offset, epoch) = (sequence.offset, sequence.epoch);
        drop(sequence);
        Entered {
            room: found,
            offset,
            epoch,
            last,
        }
    }

    /// Publications were lost on their way to this node: the room's next ones are of a new
    /// epoch. `note` sees the gap where publications are kept. Hands it to each shard with
    /// members by `to_shard`, behind what was published before. What is kept is no more complete
    /// for who comes back from before it.
    pub fn begin_epoch(
        &self,
        room: &Room,
        line: Option<&Line>,
        note: impl FnOnce(Gap),
        mut to_shard: impl FnMut(usize, Gap),
    ) {
        let mut sequence = room.sequence();
        sequence.epoch = self.incarnations.fetch_add(1, Ordering::Relaxed);
        let gap = |place| Gap {
            epoch: sequence.epoch,
            offset: sequence.offset,
            place,
        };
        let mut hand = |shard: usize, gap: &Gap| to_shard(shard, *gap);
        let offset = sequence.offset;
        match line.filter(|_| sequence.ring.is_some()) {
            Some(line) => {
                let place = line.take(1, |place| {
                    note(gap(place));
                    room.hand(&gap(place), &mut hand);
                });
                if let Some(ring) = &mut sequence.ring {
                    ring.skip(place, offset);
                }
            }
            None => room.hand(&gap(0), &mut hand),
        }
    }

    /// All rooms that are there.
    pub fn all(&self) -> Vec<Arc<Room>> {
        let mut all = Vec::new();
        for part in &self.parts {
            let part = part.lock().unwrap_or_else(PoisonError::into_inner);
            all.extend(part.values().cloned());
        }
        all
    }

    /// Announces that a shard has no members any more, and gives up its `room`.
    pub(super) fn exit(&self, room: Arc<Room>, shard: u16) {
        let key = RoomRef {
            namespace: room.key.namespace,
            tenant: room.key.tenant.as_deref(),
            name: &room.key.name,
        };
        let mut part = self
            .part(&key)
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        room.locals[usize::from(shard)].store(NONE, Ordering::Release);
        if !room.is_empty() {
            return;
        }
        self.peopled.fetch_sub(1, Ordering::Relaxed);
        // What was said may be asked for; and whoever was lost in the room, to go on in it.
        let is_asked_for = || room.offset() > 0 || Arc::strong_count(&room) > HOLDERS;
        if !room.is_kept || !is_asked_for() {
            part.remove(&key);
            self.closed(&room);
            if part.is_empty() {
                part.shrink_to_fit();
            }
        }
    }

    /// Drops what is too old of what rooms keep, and rooms that have had no members for as
    /// long.
    pub fn trim(&self, now: Micros, bounds: &Bounds) {
        for part in &self.parts {
            let mut part = part.lock().unwrap_or_else(PoisonError::into_inner);
            part.retain(|_, room| {
                let mut sequence = room.sequence();
                let Some(ring) = &mut sequence.ring else {
                    return true;
                };
                ring.trim(now, bounds);
                if !room.is_empty() {
                    return true;
                }
                let since = *sequence.empty_since.get_or_insert(now);
                drop(sequence);
                let stays = now - since <= bounds.age;
                if !stays {
                    self.closed(room);
                }
                stays
            });
            if part.is_empty() {
                part.shrink_to_fit();
            }
        }
    }

    /// How many rooms have members.
    pub fn count(&self) -> usize {
        self.peopled.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests;

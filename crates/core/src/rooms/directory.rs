//! The rooms of a node: which shards have members, and the numbers of publications.

use std::hash::{BuildHasher, Hash, Hasher};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use hashbrown::{DefaultHashBuilder, Equivalent, HashMap};

use crate::backplane::Subscription;
use crate::namespaces::NamespaceId;

const PARTS: usize = 64;

const NONE: u32 = u32::MAX;

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
    sequence: Mutex<u64>,
    /// Publications are numbered in it; another one after some were lost. Changes while
    /// `sequence` is held.
    epoch: AtomicU64,
    /// Other nodes' publications come as long as the room is there.
    pub(super) subscription: Option<Arc<dyn Subscription>>,
    /// Index of the member list in each shard.
    locals: Box<[AtomicU32]>,
}

impl Room {
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
        let mut sequence = self.sequence.lock().unwrap_or_else(PoisonError::into_inner);
        *sequence += 1;
        let publication = make(*sequence);
        for (shard, local) in self.locals.iter().enumerate() {
            if local.load(Ordering::Acquire) != NONE {
                to_shard(shard, &publication);
            }
        }
        *sequence
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
    subscribe: OnceLock<Subscribe>,
}

/// Tells the backplane of a room that has members from now on.
type Subscribe = Box<dyn Fn(&RoomKey) -> Option<Arc<dyn Subscription>> + Send + Sync>;

impl RoomDirectory {
    /// No rooms yet, on a node of so many shards.
    pub fn new(shards: usize) -> Self {
        RoomDirectory {
            parts: (0..PARTS).map(|_| Mutex::default()).collect(),
            hasher: DefaultHashBuilder::default(),
            shards,
            incarnations: AtomicU64::new(1),
            subscribe: OnceLock::new(),
        }
    }

    /// Has `subscribe` called for each room that comes to be.
    pub fn on_open(
        &self,
        subscribe: impl Fn(&RoomKey) -> Option<Arc<dyn Subscription>> + Send + Sync + 'static,
    ) {
        let _ = self.subscribe.set(Box::new(subscribe));
    }

    fn part(&self, room: &RoomRef<'_>) -> &Part {
        &self.parts[(self.hasher.hash_one(room) >> 48) as usize % PARTS]
    }

    /// The room, if it has members.
    pub fn find(&self, room: &RoomRef<'_>) -> Option<Arc<Room>> {
        let part = self
            .part(room)
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        part.get(room).cloned()
    }

    /// Announces that a shard has members under `local`. Answers the room, its epoch and
    /// how many publications it has had: the first this shard will get is the next.
    pub(super) fn enter(
        &self,
        room: &RoomRef<'_>,
        tenant: Option<&Arc<str>>,
        shard: u16,
        local: u32,
    ) -> (Arc<Room>, u64, u64) {
        let mut part = self
            .part(room)
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let found = match part.get(room) {
            Some(found) => found.clone(),
            None => {
                let key = RoomKey {
                    namespace: room.namespace,
                    tenant: tenant.cloned(),
                    name: room.name.into(),
                };
                let subscribe = self.subscribe.get();
                let incarnation = self.incarnations.fetch_add(1, Ordering::Relaxed);
                let made = Arc::new(Room {
                    subscription: subscribe.and_then(|subscribe| subscribe(&key)),
                    key: key.clone(),
                    incarnation,
                    sequence: Mutex::new(0),
                    epoch: AtomicU64::new(incarnation),
                    locals: (0..self.shards).map(|_| AtomicU32::new(NONE)).collect(),
                });
                part.insert(key, made.clone());
                made
            }
        };
        let (epoch, offset) = {
            let sequence = found
                .sequence
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            found.locals[usize::from(shard)].store(local, Ordering::Release);
            (found.epoch.load(Ordering::Relaxed), *sequence)
        };
        (found, epoch, offset)
    }

    /// Publications were lost on their way to this node: the room's next ones are of a new
    /// epoch. Hands it, with the last publication's number, to each shard with members by
    /// `to_shard`, behind what was published before.
    pub fn begin_epoch(&self, room: &Room, mut to_shard: impl FnMut(usize, u64, u64)) {
        let sequence = room.sequence.lock().unwrap_or_else(PoisonError::into_inner);
        let epoch = self.incarnations.fetch_add(1, Ordering::Relaxed);
        room.epoch.store(epoch, Ordering::Relaxed);
        for (shard, local) in room.locals.iter().enumerate() {
            if local.load(Ordering::Acquire) != NONE {
                to_shard(shard, epoch, *sequence);
            }
        }
    }

    /// All rooms that have members.
    pub fn all(&self) -> Vec<Arc<Room>> {
        let mut all = Vec::new();
        for part in &self.parts {
            let part = part.lock().unwrap_or_else(PoisonError::into_inner);
            all.extend(part.values().cloned());
        }
        all
    }

    /// Announces that a shard has no members any more.
    pub(super) fn exit(&self, room: &Room, shard: u16) {
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
        if room.is_empty() {
            part.remove(&key);
            if part.is_empty() {
                part.shrink_to_fit();
            }
        }
    }

    /// How many rooms there are.
    pub fn count(&self) -> usize {
        self.parts
            .iter()
            .map(|part| part.lock().unwrap_or_else(PoisonError::into_inner).len())
            .sum()
    }
}

//! Which stored messages rooms were told of, while those of a killed process may still come up.
//!
//! A message is stored and then told. A process that is killed in between leaves messages that
//! nobody was told of, and its database may even be storing more of them. So for a while the
//! next process tells a room of a message only when the room was told of the one before; where
//! one is missing, what is there is read from the store and told in its turn ([`crate::untold`]).

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hashbrown::HashMap;
use heartline_core::namespaces::NamespaceId;
use heartline_core::rooms::RoomKey;
use tokio::sync::Notify;

/// The tenant, and the name of the room.
pub(crate) type Place = (Option<Arc<str>>, Arc<str>);

/// Rooms whose messages are told in their turns.
#[derive(Default)]
pub(crate) struct InDoubt {
    rooms: Mutex<HashMap<Place, Told>>,
    /// A room wants to be filled.
    pub(crate) wake: Notify,
}

/// What is known of a room.
#[derive(Default)]
struct Told {
    /// The last message that it was told of.
    offset: u64,
    /// The store has been asked: `offset` is of this store, and not of one before it.
    is_sure: bool,
    /// Messages may be there that it was not told of.
    is_wanted: bool,
    /// The first of them that was stored by this process.
    held: Option<u64>,
    /// The last that was told from the store as another process'; 0: none was.
    anothers: u64,
    /// Where the room is known to be; that of a conversation is told everywhere.
    namespaces: Vec<NamespaceId>,
}

/// What has become of a message that this process has stored.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum InTurn<T> {
    /// Its room was told of it now.
    Now(T),
    /// Its room was told of it from the store, or is going to be.
    FromStore,
    /// The same, and so was who is not in the room: it was found before it was known whose it is.
    AsAnothers,
}

impl InDoubt {
    fn rooms(&self) -> MutexGuard<'_, HashMap<Place, Told>> {
        self.rooms.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins with the rooms of an earlier process, and the last message that each was told of.
    pub(crate) fn begin(&self, told: impl Iterator<Item = (RoomKey, u64)>) {
        let mut rooms = self.rooms();
        for (key, offset) in told {
            let room = rooms.entry((key.tenant, key.name)).or_default();
            room.offset = room.offset.max(offset);
            room.is_wanted = true;
            room.namespaces.push(key.namespace);
        }
    }

    /// Tells a room of a message that this process has stored, if its turn has come; else it is
    /// told from the store, or was. It must not wait.
    pub(crate) fn in_turn<T>(
        &self,
        namespace: NamespaceId,
        place: impl Fn() -> Place,
        offset: u64,
        tell: impl FnOnce() -> T,
    ) -> InTurn<T> {
        let mut rooms = self.rooms();
        if rooms.is_empty() {
            drop(rooms);
            return InTurn::Now(tell());
        }
        let Some(room) = rooms.get_mut(&place()) else {
            drop(rooms);
            return InTurn::Now(tell());
        };
        if room.is_sure && offset <= room.offset {
            let is_held = room.held.is_some_and(|held| held <= offset);
            return match offset <= room.anothers && !is_held {
                true => InTurn::AsAnothers,
                false => InTurn::FromStore,
            };
        }
        if room.is_sure && offset == room.offset + 1 {
            room.offset = offset;
            // Within the lock: what is told from the store comes before or after.
            return InTurn::Now(tell());
        }
        if !room.namespaces.contains(&namespace) {
            room.namespaces.push(namespace);
        }
        room.held = Some(room.held.map_or(offset, |held| held.min(offset)));
        room.is_wanted = true;
        drop(rooms);
        self.wake.notify_one();
        InTurn::FromStore
    }

    /// A message was there already when it was to be stored: by whom, nobody knows.
    pub(crate) fn is_there(&self, place: impl Fn() -> Place, offset: u64) {
        let mut rooms = self.rooms();
        if rooms.is_empty() {
            return;
        }
        if let Some(room) = rooms.get_mut(&place())
            && (!room.is_sure || offset > room.offset)
        {
            room.is_wanted = true;
            self.wake.notify_one();
        }
    }

    /// A room that wants to be filled.
    pub(crate) fn wanted(&self) -> Option<Place> {
        let rooms = self.rooms();
        let mut wanted = rooms.iter().filter(|(_, room)| room.is_wanted);
        wanted.next().map(|(place, _)| place.clone())
    }

    /// After which message a room is to be filled; until it is wanted again.
    pub(crate) fn take_up(&self, place: &Place) -> u64 {
        let mut rooms = self.rooms();
        rooms.get_mut(place).map_or(u64::MAX, |room| {
            room.is_wanted = false;
            room.offset
        })
    }

    /// The store has answered, with the offset of the last message that it has. Whether that is
    /// less than what the room was told of: it is another store, and is to be asked again.
    pub(crate) fn is_another(&self, place: &Place, head: u64) -> bool {
        let mut rooms = self.rooms();
        let Some(room) = rooms.get_mut(place) else {
            return false;
        };
        let is_another = !room.is_sure && head < room.offset;
        if is_another {
            // What this process has stored is new, and nothing else.
            room.offset = room.held.map_or(head, |held| held - 1);
            room.is_wanted = true;
        }
        room.is_sure = true;
        is_another
    }

    /// It could not be filled.
    pub(crate) fn give_back(&self, place: &Place) {
        if let Some(room) = self.rooms().get_mut(place) {
            room.is_wanted = true;
        }
    }

    /// Tells a room of a message of the store, unless it was told of it; `tell` hears in which
    /// namespaces the room is known. Whether another process has stored it, as far as is known: who
    /// is not in the room was told by nobody.
    pub(crate) fn fill(
        &self,
        place: &Place,
        offset: u64,
        tell: impl FnOnce(&[NamespaceId]),
    ) -> bool {
        let mut rooms = self.rooms();
        let Some(room) = rooms.get_mut(place).filter(|room| offset > room.offset) else {
            return false;
        };
        room.offset = offset;
        tell(&room.namespaces);
        let is_anothers = room.held.is_none_or(|held| offset < held);
        if is_anothers {
            room.anothers = offset;
        }
        is_anothers
    }

    /// Nothing of an earlier process can come any more.
    pub(crate) fn end(&self) {
        *self.rooms() = HashMap::new();
    }
}

//! What an earlier process has left, as a start goes on with it: events at their places, beside
//! what is known of sockets and rooms.

use std::sync::Arc;

use hashbrown::HashMap;
use heartline_core::auth::UserKey;
use heartline_core::line::ring::Kept;
use heartline_core::namespaces::NamespaceId;
use heartline_core::presence::SocketAddress;
use heartline_core::rooms::RoomKey;
use heartline_wire::time::Micros;

use super::known::{Known, KnownRoom, KnownUser, Size, State};
use super::record::{self, EventRecord, Record, RoomRecord, Where};

/// What was in a journal.
#[derive(Default)]
pub(crate) struct Found {
    pub(crate) sockets: Vec<Known>,
    pub(crate) rooms: Vec<(RoomKey, KnownRoom)>,
    /// Who was online.
    pub(crate) users: HashMap<Arc<UserKey>, KnownUser>,
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

impl Found {
    /// Takes in what is known besides the events that are all there.
    pub(super) fn take_in(&mut self, state: &State) {
        self.lost = state.lost;
        self.last = self.last.max(state.lost);
        self.sockets = state.sockets.values().cloned().collect();
        self.users = state.online();
        let rooms = state.rooms.iter();
        self.rooms = rooms.map(|(key, room)| (key.clone(), *room)).collect();
        let keyed = state.keyed_before(self.kept_from).cloned();
        let mut events: Vec<_> = keyed.map(event_found).collect();
        events.sort_unstable_by_key(|(.., event)| event.id);
        self.events.splice(..0, events);
    }

    /// Forgets what is too old, and what is more than one file may have: the newest, as
    /// records.
    pub(super) fn forget_old(&mut self, size: &Size, now: u64) -> Vec<u8> {
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

/// An event of a place as a record. `at` is when it was said, Unix milliseconds.
pub(super) fn event_record(mut to: Where, at: u64, event: &Kept) -> Record {
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

/// A record of an event as what a start goes on with: its place, when it was said (Unix
/// milliseconds), and itself.
pub(super) fn event_found(event: EventRecord) -> (Place, u64, Kept) {
    let offset = match &event.to {
        Where::Room(room) => room.offset,
        Where::Scope { .. } | Where::Socket(_) => 0,
    };
    let kept = Kept {
        id: event.id,
        offset,
        at: Micros::ZERO,
        message: event.message,
        key: event.key,
        only: event.only,
    };
    (event.to.into(), event.at, kept)
}

//! What of a socket is written down, so that another process or node can go on with it.

use std::sync::Arc;

use heartline_core::auth::Identity;
use heartline_core::namespaces::NamespaceId;
use heartline_core::presence::SocketAddress;
use heartline_core::rooms::{self, Joined, Room};
use heartline_engine::shard::engine::Engine;
use heartline_wire::id::Slot;

use crate::hub::Hub;
use crate::journal::Journal;

impl Hub {
    /// The name under which a socket is written down, where that is done.
    fn written(
        &self,
        engine: &Engine,
        slot: Slot,
        namespace: NamespaceId,
    ) -> Option<(&Journal, SocketAddress)> {
        let (recovery, name) = self.kept_name(engine, slot, namespace)?;
        Some((recovery.journal.as_ref()?, name))
    }

    /// Writes down that a socket has begun.
    pub(in crate::hub) fn note_open(&self, engine: &Engine, slot: Slot, namespace: NamespaceId) {
        if let Some((journal, name)) = self.written(engine, slot, namespace)
            && let Some(socket) = self.link(slot).and_then(|link| link.socket(namespace))
        {
            journal.opened(name, &socket.identity);
        }
        self.remember(engine, slot, namespace);
    }

    /// Writes down what its token grants, which was renewed, where the one `before` granted something
    /// else. What was taken from it is left.
    pub(in crate::hub) fn note_granted(
        &self,
        engine: &Engine,
        slot: Slot,
        namespace: NamespaceId,
        before: &Identity,
    ) {
        if let Some((journal, name)) = self.written(engine, slot, namespace)
            && let Some(socket) = self.link(slot).and_then(|link| link.socket(namespace))
            && socket.identity.rooms != before.rooms
        {
            journal.granted(name, &socket.identity);
        }
        self.remember(engine, slot, namespace);
    }

    /// Writes down that it has come into the last of its rooms.
    pub(in crate::hub) fn note_join(
        &self,
        engine: &Engine,
        slot: Slot,
        namespace: NamespaceId,
        joined: &Joined,
    ) {
        if let Some((journal, name)) = self.written(engine, slot, namespace)
            && let Some(socket) = self.link(slot).and_then(|link| link.socket(namespace))
            && let Some(room) = socket.rooms.last().and_then(|last| self.rooms.room(*last))
        {
            journal.joined(name, room, joined.offset, joined.since);
        }
        self.remember(engine, slot, namespace);
    }

    /// Writes down that it leaves a room.
    pub(in crate::hub) fn note_leave(
        &self,
        engine: &Engine,
        slot: Slot,
        namespace: NamespaceId,
        membership: rooms::Membership,
    ) {
        if let Some((journal, name)) = self.written(engine, slot, namespace)
            && let Some(room) = self.rooms.room(membership)
        {
            journal.left(name, &room.key, self.place);
        }
        self.remember(engine, slot, namespace);
    }

    /// Writes down that it has come back, to which of the rooms in which it was, and with what its
    /// token grants, where the one before granted something else.
    pub(super) fn note_back(
        &self,
        engine: &Engine,
        slot: Slot,
        namespace: NamespaceId,
        before: (&Identity, &[(Arc<Room>, u64)]),
    ) {
        if let Some((journal, name)) = self.written(engine, slot, namespace)
            && let Some(address) = self.address(engine, slot, namespace)
            && let Some(socket) = self.link(slot).and_then(|link| link.socket(namespace))
        {
            let earlier = socket.back().and_then(|back| back.places.last());
            let here = (address, earlier.map_or(0, |(_, end)| *end));
            let (granted, rooms) = before;
            let rooms = rooms.iter().map(|(room, _)| &room.key);
            let gone = rooms.filter(|room| !self.is_in(socket, &room.name));
            let is_another = socket.identity.rooms != granted.rooms;
            journal.back(name, here, gone, is_another.then_some(&*socket.identity));
        }
        self.remember(engine, slot, namespace);
    }
}

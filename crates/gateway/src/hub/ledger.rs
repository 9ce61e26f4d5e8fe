//! What a socket has, written down where other nodes find it: the one to which its client
//! comes back goes on with it, whatever has become of this one.

use std::sync::Arc;

use heartline_core::backplane::line::Lost;
use heartline_core::namespaces::NamespaceId;
use heartline_core::presence::SocketAddress;
use heartline_core::rooms::{Gap, Room};
use heartline_engine::shard::engine::Engine;
use heartline_wire::id::Slot;
use heartline_wire::reason::Reason;

use super::Hub;
use crate::common::Record;

impl Hub {
    /// The id under which a socket is known.
    pub(super) fn name_of(
        &self,
        engine: &Engine,
        slot: Slot,
        namespace: NamespaceId,
    ) -> Option<SocketAddress> {
        let socket = self.link(slot)?.socket(namespace)?;
        match socket.back() {
            Some(back) => Some(back.name),
            None => self.address(engine, slot, namespace),
        }
    }

    /// Writes down what a socket has.
    pub(super) fn remember(&self, engine: &Engine, slot: Slot, namespace: NamespaceId) {
        let Some((_, common)) = self.shared.fanout.common() else {
            return;
        };
        let (Some(name), Some(address)) = (
            self.name_of(engine, slot, namespace),
            self.address(engine, slot, namespace),
        ) else {
            return;
        };
        let Some(socket) = self.link(slot).and_then(|link| link.socket(namespace)) else {
            return;
        };
        let rooms = socket.rooms.iter().filter_map(|member| {
            let room = self.rooms.room(*member)?;
            Some((room.key.name.to_string(), self.rooms.since(*member)))
        });
        let earlier = socket.back().map_or(&[][..], |back| &back.places);
        let earlier = earlier.iter().map(|(place, end)| (place.id(), *end));
        let grants = socket.identity.rooms.as_ref();
        let data = self.shared.data.find(&address);
        let record = Record {
            rooms: rooms.collect(),
            left: socket.left(),
            places: earlier.chain([(address.id(), u64::MAX)]).collect(),
            grants: grants.map(|all| all.iter().map(|one| one.text()).collect()),
            remembered: data.map(|data| data.to_write()).unwrap_or_default(),
        };
        common.remember(name, Some(record.written(&socket.identity, false)));
    }

    /// The app has come to remember something of a socket, which is known by this name, or of
    /// one that was lost.
    pub(super) fn remember_asked(
        &self,
        engine: &Engine,
        socket: &SocketAddress,
        name: &SocketAddress,
    ) {
        if let Some(slot) = self.locate(engine, socket) {
            self.remember(engine, slot, socket.namespace());
        } else if let Some((recovery, common)) = self.shared.fanout.common() {
            // Within the step: whoever takes it up writes later.
            recovery.sessions.look_at(name, |session| {
                common.remember(*name, Some(Record::lost(session)));
            });
        }
    }

    /// Writes down what all sockets have.
    pub(super) fn remember_all(&self, engine: &Engine) {
        for slot in (0..self.links.len() as u32).map(Slot) {
            let sockets = self.link(slot).into_iter().flat_map(|link| &link.sockets);
            for socket in sockets {
                self.remember(engine, slot, socket.namespace);
            }
        }
    }

    /// It is known how far a room is: its members have heard nothing yet.
    pub(super) fn begin(&mut self, engine: &Engine, room: &Arc<Room>, from: Gap) {
        if !self.rooms.begin(room, from) {
            return;
        }
        for &slot in self.rooms.members(room) {
            self.remember(engine, slot, room.key.namespace);
        }
    }

    /// Another node has taken up what a socket here has: its client is there, so its user is not
    /// gone, whichever node the cluster hears first; or has ended it. What it had is not kept: it is
    /// that node's, or of a connection that has come back here since. The connection is over; what
    /// its client had in other namespaces waits for it.
    pub(super) fn lose(
        &mut self,
        engine: &mut Engine,
        socket: &SocketAddress,
        name: SocketAddress,
        how: Lost,
    ) {
        if let Some(slot) = self.locate(engine, socket) {
            if how == Lost::TakenUp
                && let Some(link) = self.link_mut(slot)
            {
                link.note_taken_over(engine.now);
            }
            self.forget_socket(engine, slot, socket.namespace(), Reason::Replaced);
            self.link_closed(engine, slot, Reason::TransportClosed);
            match how {
                Lost::TakenUp => self.leave_to_another(engine, slot),
                _ => engine.close(slot, Reason::TransportClosed),
            }
        }
        if let Some((recovery, common)) = self.shared.fanout.common()
            && !common.has_claimed(name)
        {
            recovery.sessions.give_up(&name);
        }
    }
}

//! Telling sockets that publications were lost on their way from other nodes.

use std::sync::Arc;

use heartline_core::message::Message;
use heartline_core::namespaces::NamespaceId;
use heartline_core::presence::SocketAddress;
use heartline_core::rooms::{Gap, Room};
use heartline_engine::shard::engine::Engine;
use heartline_wire::id::Slot;
use heartline_wire::{json, live};

use super::Hub;
use super::link::SocketState;
use crate::op::Doubtful;
use crate::publication::Encoding;

impl Hub {
    /// The members of a room are told; what they get next is of another epoch.
    pub(super) fn gap(&mut self, engine: &mut Engine, room: &Arc<Room>, gap: Gap) {
        let Some(members) = self.rooms.begin_epoch(room, gap) else {
            return;
        };
        let epoch = self.shared.fanout.epoch(gap.epoch);
        for &slot in &members {
            self.tell_gap(
                engine,
                slot,
                room.key.namespace,
                &room.key.name,
                (&epoch, gap.offset),
            );
        }
        self.rooms.restore(room, members);
    }

    /// A socket of a user is told for the user's own room. That room has no numbers.
    pub(super) fn user_gap(&mut self, engine: &mut Engine, to: &SocketAddress) {
        let Some(slot) = self.locate(engine, to) else {
            return;
        };
        let namespace = to.namespace();
        let socket = self.link(slot).and_then(|link| link.socket(namespace));
        if let Some(room) = socket.and_then(|socket| Hub::private_room(&socket.identity)) {
            let epoch = self.shared.fanout.epoch(0);
            self.tell_gap(engine, slot, namespace, &room, (&epoch, 0));
        }
    }

    /// All sockets are told that may have missed something, each for the rooms that say so.
    pub(super) fn anybody_gap(&mut self, engine: &mut Engine, lost: Doubtful) {
        for slot in (0..self.links.len() as u32).map(Slot) {
            let sockets = self.link(slot).into_iter().flat_map(|link| &link.sockets);
            let told: Vec<_> = sockets
                .flat_map(|socket| self.doubtful_of(socket, lost))
                .collect();
            for (namespace, room, epoch, offset) in told {
                let epoch = self.shared.fanout.epoch(epoch);
                self.tell_gap(engine, slot, namespace, &room, (&epoch, offset));
            }
        }
    }

    /// The rooms for which a socket is told of a loss, each with its place.
    fn doubtful_of(
        &self,
        socket: &SocketState,
        lost: Doubtful,
    ) -> Vec<(NamespaceId, Arc<str>, u64, u64)> {
        let (fanout, namespace) = (&self.shared.fanout, socket.namespace);
        let own = Hub::private_room(&socket.identity);
        let is_nobody = own.is_none();
        let own = own.filter(|room| fanout.is_told_as_user(lost, room));
        let own = own.map(|room| (namespace, room.into(), 0, 0));
        let rooms = socket.rooms.iter();
        let rooms = rooms.filter_map(|member| self.rooms.room(*member));
        let rooms = rooms.filter(|room| fanout.is_told_as_member(lost, &room.key.name, is_nobody));
        let rooms = rooms.map(|room| {
            (
                namespace,
                room.key.name.clone(),
                room.epoch(),
                room.offset(),
            )
        });
        own.into_iter().chain(rooms).collect()
    }

    /// The sockets of a namespace and tenant are told: for the user's own room, or for each room
    /// of one that is nobody's.
    pub(super) fn everybody_gap(
        &mut self,
        engine: &mut Engine,
        namespace: NamespaceId,
        tenant: Option<&Arc<str>>,
    ) {
        for slot in (0..self.links.len() as u32).map(Slot) {
            let socket = self.link(slot).and_then(|link| link.socket(namespace));
            let Some(socket) = socket.filter(|socket| socket.identity.tenant_id() == tenant) else {
                continue;
            };
            if let Some(room) = Hub::private_room(&socket.identity) {
                let epoch = self.shared.fanout.epoch(0);
                self.tell_gap(engine, slot, namespace, &room, (&epoch, 0));
                continue;
            }
            let rooms = socket.rooms.iter();
            let rooms: Vec<_> = rooms
                .filter_map(|member| self.rooms.room(*member).cloned())
                .collect();
            for room in rooms {
                let epoch = self.shared.fanout.epoch(room.epoch());
                let place = (&*epoch, room.offset());
                self.tell_gap(engine, slot, namespace, &room.key.name, place);
            }
        }
    }

    fn tell_gap(
        &mut self,
        engine: &mut Engine,
        slot: Slot,
        namespace: NamespaceId,
        room: &str,
        (epoch, offset): (&str, u64),
    ) {
        let encoding = self.link(slot).map(|link| link.encoding);
        if encoding == Some(Encoding::Live) {
            self.send_live(engine, slot, |text| {
                live::push_gap(room, epoch, offset, text);
            });
            return;
        }
        let data = format!(r#"{{"room":{}}}"#, json::quote(room));
        self.emit_here(engine, slot, namespace, &Message::new("room:gap", &data));
    }
}

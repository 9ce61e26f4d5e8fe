//! What sockets of this shard watch: changes on their way to them, and who is in which room.

use std::sync::Arc;

use heartline_core::namespaces::NamespaceId;
use heartline_core::presence::SocketAddress;
use heartline_core::presence::watch::{Scope, What};
use heartline_core::rooms::RoomRef;
use heartline_engine::shard::engine::Engine;
use heartline_wire::codes::Code;
use heartline_wire::id::Slot;

use super::Hub;
use super::link::SocketState;
use crate::metrics::Outbound;
use crate::op::WatchOp;
use crate::publication::Publication;

impl Hub {
    /// Something is to be done about what sockets watch.
    pub(super) fn watch_op(&mut self, engine: &mut Engine, op: WatchOp) {
        match op {
            WatchOp::Changed {
                to,
                scope,
                rev,
                publication,
            } => self.watched(engine, &to, (&scope, rev), &publication),
            WatchOp::Begin { to, scope } => match self.locate(engine, &to) {
                Some(_) => self.shared.watches.begin(&scope, to),
                // It ended before it was known to watch anything.
                None => self.shared.watches.gone(to),
            },
            WatchOp::Follow { scope, reply } => {
                self.follow(&scope);
                let _ = reply.send(());
            }
        }
    }

    /// A change of what a socket watches. Of a room it hears only as long as it is there, or may
    /// join: which is decided here and now. The number of its last words is that of the change
    /// before the one that is withheld: it has heard no other.
    fn watched(
        &mut self,
        engine: &mut Engine,
        to: &SocketAddress,
        (scope, rev): (&Arc<Scope>, Option<u64>),
        publication: &Publication,
    ) {
        let Some(slot) = self.locate(engine, to) else {
            return;
        };
        // The last words name nobody.
        let forbidden = rev.and_then(|_| self.forbids(slot, to, scope));
        if let Some(code) = forbidden {
            let watches = self.shared.watches.clone();
            if let Some(said) = watches.expelled(scope, *to, (code.as_str(), rev)) {
                self.emit_here(engine, slot, to.namespace(), &said);
            }
        } else if self.give(engine, slot, to.namespace(), publication) {
            self.metrics.deliveries.add(1);
            self.metrics.outbound(Outbound::Event).add(1);
        }
    }

    /// Why a socket may not hear of what it watches. Who is to be asked of the store first may
    /// ask again by itself.
    fn forbids(&self, slot: Slot, to: &SocketAddress, scope: &Scope) -> Option<Code> {
        let room = scope.room_name()?;
        let socket = self.link(slot)?.socket(to.namespace())?;
        if self.is_in(socket, room) {
            return None;
        }
        match self.shared.members.may_join_now(room, &socket.identity) {
            Some(Ok(())) => None,
            Some(Err(_)) => Some(Code::Forbidden),
            None => Some(Code::Timeout),
        }
    }

    /// Says who is in a room: each user as often as there are sockets here.
    fn follow(&self, scope: &Arc<Scope>) {
        let What::Room(place) = &scope.what else {
            return;
        };
        let fanout = &self.shared.fanout;
        let namespace = fanout.namespaces.find(&place.namespace);
        let room = namespace.and_then(|namespace| {
            fanout.rooms.find(&RoomRef {
                namespace,
                tenant: scope.tenant.as_deref(),
                name: &place.room,
            })
        });
        let members = room.iter().flat_map(|room| {
            let slots = self.rooms.members(room).iter();
            slots.filter_map(|slot| self.link(*slot)?.socket(room.key.namespace))
        });
        let users = members.filter_map(|socket| {
            let user = socket.identity.user.as_ref()?;
            Some(user.user_id.clone())
        });
        let users = users.collect();
        self.shared.watches.seeded(scope, self.shard, users);
    }

    /// A socket has come into a room, or left it.
    pub(super) fn note_moved(&self, socket: &SocketState, room: &str, enters: bool) {
        if let Some(user) = &socket.identity.user {
            let namespace = self.namespace_name(socket.namespace);
            let place = (user, namespace, room);
            self.shared.watches.moved(place, self.shard, enters);
        }
    }

    /// A socket has left a room, and goes on: it watches it no more.
    pub(super) fn note_left(
        &mut self,
        engine: &mut Engine,
        slot: Slot,
        namespace: NamespaceId,
        room: &str,
    ) {
        if let Some(socket) = self.link(slot).and_then(|link| link.socket(namespace)) {
            self.note_moved(socket, room, false);
        }
        let Some(reader) = self.address(engine, slot, namespace) else {
            return;
        };
        let watches = &self.shared.watches;
        if let Some(said) = watches.left(reader, self.namespace_name(namespace), room) {
            self.emit_here(engine, slot, namespace, &said);
        }
    }

    /// A socket ends: it has left its rooms, and watches nothing any more.
    pub(super) fn note_moved_out(&self, engine: &Engine, slot: Slot, socket: &SocketState) {
        if let Some(conn) = engine.id(slot) {
            let reader = SocketAddress::new(conn, socket.namespace, socket.secret);
            self.shared.watches.gone(reader);
        }
        for membership in &socket.rooms {
            if let Some(room) = self.rooms.room(*membership) {
                self.note_moved(socket, &room.key.name, false);
            }
        }
    }
}

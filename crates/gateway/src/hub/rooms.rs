//! Which rooms a socket is in: joins, leaves, grants that end, and the members that a
//! conversation remembers.

use std::sync::Arc;
use std::time::Duration;

use heartline_core::auth::{Identity, UserKey};
use heartline_core::message::Message;
use heartline_core::namespaces::NamespaceId;
use heartline_core::policy::Announce;
use heartline_core::presence::{RoomAddress, SocketAddress};
use heartline_core::rooms::{self, Joined, Membership, PRIVATE, Room, RoomError, RoomRef};
use heartline_engine::shard::engine::Engine;
use heartline_wire::id::Slot;
use heartline_wire::{json, live};
use tokio::sync::oneshot;

use super::Hub;
use super::resume::snapshot;
use super::tasks::TaskKind;
use crate::event::EventError;
use crate::op::{Held, Op, Recover};
use crate::publication::Encoding;

/// How long the store may take to keep a member.
const REMEMBER: Duration = Duration::from_secs(10);
/// How long a subscription may take.
const SUBSCRIBE: Duration = Duration::from_secs(5);

/// The only namespace of live connections.
const ROOT: NamespaceId = NamespaceId::ROOT;

impl Hub {
    /// Puts a socket into a room; permissions have been looked at.
    pub(super) fn join(
        &mut self,
        engine: &mut Engine,
        slot: Slot,
        namespace: NamespaceId,
        name: &str,
    ) -> Result<Joined, RoomError> {
        let max = self.shared.config.max_rooms_per_socket;
        let Some(socket) = self
            .links
            .get_mut(slot.index())
            .and_then(Option::as_mut)
            .and_then(|link| link.socket_mut(namespace))
        else {
            return Err(RoomError::Invalid);
        };
        // A user's own room is no list of members: it is the directory of users.
        if Self::private_room(&socket.identity).as_deref() == Some(name) {
            return Ok(Joined {
                incarnation: 0,
                offset: 0,
                since: 0,
                held: None,
            });
        }
        if socket.rooms.len() >= max {
            let there = socket.rooms.iter().any(|member| {
                self.rooms
                    .room(*member)
                    .is_some_and(|room| *room.key.name == *name)
            });
            if !there {
                return Err(RoomError::Limit);
            }
        }
        let before = socket.rooms.len();
        let tenant = socket.identity.tenant_id().cloned();
        let joined = self.rooms.join(
            namespace,
            tenant.as_ref(),
            name,
            slot,
            &mut socket.rooms,
            self.place,
        );
        if socket.rooms.len() > before {
            if let Some((user, address, place)) = self.followed(engine, slot, namespace, name) {
                self.shared
                    .fanout
                    .backplane
                    .enter_room(&user, address, place);
            }
        }
        Ok(joined)
    }

    /// A user's socket and a room of it, if the room's members are told of the user's
    /// presence.
    pub(super) fn followed(
        &self,
        engine: &Engine,
        slot: Slot,
        namespace: NamespaceId,
        room: &str,
    ) -> Option<(Arc<UserKey>, SocketAddress, RoomAddress)> {
        let there = &self.shared.fanout.namespaces.get(namespace);
        if there.config.announce != Announce::Rooms {
            return None;
        }
        let socket = self.link(slot)?.socket(namespace)?;
        let address = SocketAddress::new(engine.id(slot)?, namespace, socket.secret);
        let place = RoomAddress {
            namespace: there.name.clone(),
            room: room.into(),
        };
        Some((socket.identity.user.clone()?, address, place))
    }

    /// The app puts a socket into a room. A socket that has gone answers nobody: whoever
    /// waits sees that.
    pub(super) fn join_asked(
        &mut self,
        engine: &mut Engine,
        to: &SocketAddress,
        room: &str,
        reply: oneshot::Sender<Result<Held, RoomError>>,
    ) {
        if let Some(slot) = self.locate(engine, to) {
            let joined = self.join(engine, slot, to.namespace(), room);
            let _ = reply.send(joined.map(|joined| joined.held));
        }
    }

    /// The same at a client's wish, which the limit on joins counts.
    pub(super) fn try_join(
        &mut self,
        engine: &mut Engine,
        to: &SocketAddress,
        room: &str,
        reply: oneshot::Sender<Result<Held, EventError>>,
    ) {
        let Some(slot) = self.locate(engine, to) else {
            return;
        };
        let namespace = to.namespace();
        let counted = self.count_join(engine, slot, Some(namespace));
        let joined = counted.and_then(|()| Ok(self.join(engine, slot, namespace, room)?));
        if joined.is_ok() {
            self.note_joined(engine, slot, namespace, room);
        }
        let _ = reply.send(joined.map(|joined| joined.held));
    }

    /// A socket leaves a room, or was not in it.
    pub(super) fn leave_asked(
        &mut self,
        engine: &mut Engine,
        to: &SocketAddress,
        room: &str,
        reply: oneshot::Sender<()>,
    ) {
        if let Some(slot) = self.locate(engine, to) {
            self.leave(engine, slot, to.namespace(), room);
            let _ = reply.send(());
        }
    }

    /// The publications of a topic arrive from other nodes: who waited for that joins.
    /// `held` kept them coming until now.
    pub(super) fn subscription_ready(
        &mut self,
        engine: &mut Engine,
        to: &SocketAddress,
        topic: &str,
        id: Option<&str>,
        recover: Recover,
        held: Held,
    ) {
        if let Some(slot) = self.locate(engine, to) {
            self.subscribe_now(engine, slot, topic, id, recover);
            self.release_input(engine, slot);
        }
        drop(held);
    }

    /// One more join of a socket, or of the connection itself under the limits of `/`, if
    /// the limit allows.
    pub(super) fn count_join(
        &mut self,
        engine: &mut Engine,
        slot: Slot,
        of: Option<NamespaceId>,
    ) -> Result<(), EventError> {
        let namespace = of.unwrap_or(NamespaceId::ROOT);
        let limits = &self.shared.fanout.namespaces.get(namespace).config.limits;
        let limit = limits.joins;
        let now = engine.now;
        let meter = self.link_mut(slot).and_then(|link| link.meter(of));
        let taken = match (meter, limit) {
            (Some(meter), Some(limit)) => meter.joins.take(limit, now),
            _ => Ok(()),
        };
        taken.map_err(|wait| {
            self.metrics.rate_limited_joins.add(1);
            EventError::rate_limited(wait)
        })
    }

    pub(super) fn leave(
        &mut self,
        engine: &Engine,
        slot: Slot,
        namespace: NamespaceId,
        name: &str,
    ) {
        let Some(socket) = self.link(slot).and_then(|link| link.socket(namespace)) else {
            return;
        };
        let found = socket.rooms.iter().position(|member| {
            self.rooms
                .room(*member)
                .is_some_and(|room| *room.key.name == *name)
        });
        if let Some(index) = found {
            let place = self.place;
            let socket = self
                .link_mut(slot)
                .and_then(|link| link.socket_mut(namespace));
            let left = socket.map(|socket| {
                if place > 0 {
                    socket.set_left(place);
                }
                socket.rooms.swap_remove(index)
            });
            if let Some(membership) = left {
                self.leave_membership(membership, namespace);
                if let Some((user, address, place)) = self.followed(engine, slot, namespace, name) {
                    self.shared
                        .fanout
                        .backplane
                        .leave_room(&user, address, &place);
                }
            }
        }
    }

    /// Takes a membership out of its room and keeps the moved member's position true.
    pub(super) fn leave_membership(&mut self, membership: Membership, namespace: NamespaceId) {
        let links = &mut self.links;
        self.rooms.leave(membership, |moved, from, to| {
            let socket = links
                .get_mut(moved.index())
                .and_then(Option::as_mut)
                .and_then(|link| link.socket_mut(namespace));
            if let Some(entry) =
                socket.and_then(|socket| socket.rooms.iter_mut().find(|member| **member == from))
            {
                *entry = to;
            }
        });
    }

    pub(super) fn leave_all(
        &mut self,
        mut memberships: Vec<heartline_core::rooms::Membership>,
        namespace: NamespaceId,
    ) {
        while let Some(membership) = memberships.pop() {
            self.leave_membership(membership, namespace);
        }
    }

    /// A socket leaves the rooms which its token has granted `before` and does not any
    /// more, and is told so. Rooms into which the app has put it against its token stay.
    pub(super) fn leave_what_was_taken(
        &mut self,
        engine: &mut Engine,
        slot: Slot,
        namespace: NamespaceId,
        before: &Identity,
    ) {
        let Some(socket) = self.link(slot).and_then(|link| link.socket(namespace)) else {
            return;
        };
        let taken: Vec<Arc<str>> = socket
            .rooms
            .iter()
            .filter_map(|member| self.rooms.room(*member))
            .map(|room| &room.key.name)
            .filter(|room| rooms::may_join(room, before).is_ok())
            .filter(|room| rooms::may_join(room, &socket.identity).is_err())
            .cloned()
            .collect();
        for room in taken {
            self.leave(engine, slot, namespace, &room);
            self.tell_forbidden(engine, slot, namespace, &room);
        }
    }

    /// Tells a socket that it is not in a room any more which it may not be in.
    pub(super) fn tell_forbidden(
        &mut self,
        engine: &mut Engine,
        slot: Slot,
        namespace: NamespaceId,
        room: &str,
    ) {
        let encoding = self.link(slot).map(|link| link.encoding);
        if encoding == Some(Encoding::Live) {
            self.send_live(engine, slot, |text| {
                live::push_unsubscribed(room, None, Some("forbidden"), text);
            });
        } else {
            let mut data = String::from(r#"{"room":"#);
            json::quote_into(room, &mut data);
            data.push_str(r#","reason":"forbidden"}"#);
            self.emit_here(engine, slot, namespace, &Message::new("room:left", &data));
        }
    }

    /// A token that names a conversation makes its bearer a member of it.
    pub(super) fn note_memberships(&mut self, engine: &mut Engine, identity: &Identity) {
        let (Some(user), Some(patterns)) = (&identity.user, &identity.rooms) else {
            return;
        };
        for conversation in patterns
            .iter()
            .filter_map(|pattern| pattern.exact())
            .filter_map(rooms::conversation_of)
        {
            self.remember_member(engine, conversation, user);
        }
    }

    /// The rooms of a socket by their names, in the order of these.
    pub(super) fn room_names(&self, members: &[Membership], identity: &Identity) -> Vec<String> {
        let mut rooms: Vec<String> = members
            .iter()
            .filter_map(|member| self.rooms.room(*member))
            .map(|room| room.key.name.to_string())
            .chain(Hub::private_room(identity))
            .collect();
        rooms.sort_unstable();
        rooms
    }

    /// The private room of a user, in a list of rooms.
    pub(super) fn private_room(identity: &Identity) -> Option<String> {
        identity.user_id().map(|user| format!("{PRIVATE}{user}"))
    }

    /// Whoever joins a conversation's room is one of its members from then on.
    pub(super) fn note_joined(
        &mut self,
        engine: &mut Engine,
        slot: Slot,
        namespace: NamespaceId,
        room: &str,
    ) {
        let Some(conversation) = rooms::conversation_of(room) else {
            return;
        };
        let user = self
            .link(slot)
            .and_then(|link| link.socket(namespace))
            .and_then(|socket| socket.identity.user.clone());
        if let Some(user) = user {
            self.remember_member(engine, conversation, &user);
        }
    }

    /// The user belongs to the conversation from now on.
    pub(super) fn remember_member(
        &mut self,
        engine: &mut Engine,
        conversation: &str,
        user: &Arc<UserKey>,
    ) {
        let store = self.shared.store.clone();
        let (conversation, user) = (conversation.to_owned(), user.clone());
        let work = async move {
            if let Err(error) = store.add_member(&conversation, &user).await {
                tracing::warn!(%error, "a conversation's member could not be stored");
            }
        };
        self.start(engine, Box::pin(work), TaskKind::Detached, REMEMBER);
    }

    pub(super) fn subscribe(
        &mut self,
        engine: &mut Engine,
        slot: Slot,
        topic: &str,
        id: Option<&str>,
        recover: Recover,
    ) {
        self.active(engine, slot);
        if let Err(error) = self.count_join(engine, slot, Some(ROOT)) {
            self.live_error(engine, slot, &error.code, &error.error, id);
            return;
        }
        let Some(socket) = self.link(slot).and_then(|link| link.socket(ROOT)) else {
            return;
        };
        if let Err(error) = rooms::may_join(topic, &socket.identity) {
            self.live_error(engine, slot, error.code().as_str(), error.message(), id);
            return;
        }
        let tenant = socket.identity.tenant_id().cloned();
        let name = self.namespace_name(ROOT);
        let held = self
            .shared
            .fanout
            .backplane
            .subscribe(name, tenant.as_deref(), topic);
        let ready = held.as_ref().and_then(|held| held.ready());
        let (Some(ready), Some(to)) = (ready, self.address(engine, slot, ROOT)) else {
            self.subscribe_now(engine, slot, topic, id, recover);
            return;
        };
        // What comes from other nodes is to arrive before the answer says that it
        // does, and nothing of the topic before the answer.
        if let Some(link) = self.link_mut(slot) {
            link.holding += 1;
        }
        engine.pause(slot);
        let (shared, shard) = (self.shared.clone(), self.shard);
        let (topic, id) = (topic.into(), id.map(Into::into));
        let work = async move {
            ready.await;
            let op = Op::Subscribe {
                to,
                topic,
                id,
                recover,
                held,
            };
            shared.fanout.post(shard, op);
        };
        self.start(engine, Box::pin(work), TaskKind::Subscribe(to), SUBSCRIBE);
    }

    /// A live connection wants to leave a topic. What it has published before is on its way
    /// to it, and so are the answers; what it says next waits until it has left.
    pub(super) fn unsubscribe(
        &mut self,
        engine: &mut Engine,
        slot: Slot,
        topic: &str,
        id: Option<&str>,
    ) {
        let Some(to) = self.address(engine, slot, ROOT) else {
            return;
        };
        if let Some(link) = self.link_mut(slot) {
            link.holding += 1;
        }
        engine.pause(slot);
        let (topic, id) = (topic.into(), id.map(Into::into));
        let op = Op::Unsubscribe { to, topic, id };
        self.shared.fanout.post(self.shard, op);
    }

    /// A live connection leaves a topic.
    pub(super) fn unsubscribed(
        &mut self,
        engine: &mut Engine,
        to: &SocketAddress,
        topic: &str,
        id: Option<Box<str>>,
    ) {
        if let Some(slot) = self.locate(engine, to) {
            self.leave(engine, slot, ROOT, topic);
            self.send_live(engine, slot, |text| {
                live::push_unsubscribed(topic, id.as_deref(), None, text);
            });
            self.release_input(engine, slot);
        }
    }

    /// Puts a live connection into a topic that it may join.
    pub(super) fn subscribe_now(
        &mut self,
        engine: &mut Engine,
        slot: Slot,
        topic: &str,
        id: Option<&str>,
        recover: Recover,
    ) {
        let joined = match self.join(engine, slot, ROOT, topic) {
            Ok(joined) => joined,
            Err(error) => {
                let code = error.code().as_str();
                return self.live_error(engine, slot, code, error.message(), id);
            }
        };
        self.note_joined(engine, slot, ROOT, topic);
        let epoch = self.shared.fanout.epoch(joined.incarnation);
        let room = self.kept_room(slot, topic);
        let to = joined.offset;
        let missed = recover
            .zip(room.as_ref())
            .and_then(|((epoch, offset), room)| {
                let missed = self.missed_of_topic(room, (&epoch, offset), to)?;
                Some((offset, missed))
            });
        match missed {
            Some((offset, missed)) => {
                self.send_live(engine, slot, |text| {
                    live::push_subscribed(topic, id, &epoch, offset, "[]", true, text);
                });
                self.replay_topic(engine, slot, topic, missed);
            }
            None => {
                let snapshot = room.map_or_else(|| "[]".into(), |room| snapshot(&room, to));
                self.send_live(engine, slot, |text| {
                    live::push_subscribed(topic, id, &epoch, to, &snapshot, false, text);
                });
            }
        }
    }

    /// A topic of a live connection whose publications may be kept.
    fn kept_room(&self, slot: Slot, topic: &str) -> Option<Arc<Room>> {
        self.shared.fanout.recovery.as_ref()?;
        let socket = self.link(slot)?.socket(ROOT)?;
        self.shared.fanout.rooms.find(&RoomRef {
            namespace: ROOT,
            tenant: socket.identity.tenant_id().map(|tenant| &**tenant),
            name: topic,
        })
    }
}

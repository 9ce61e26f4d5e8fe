//! Which rooms a socket is in: joins, leaves, grants that end, and the members that a
//! conversation remembers.

use std::sync::Arc;
use std::time::Duration;

use heartline_core::auth::{Identity, UserKey};
use heartline_core::entries::MemberEntry;
use heartline_core::message::Message;
use heartline_core::namespaces::NamespaceId;
use heartline_core::policy::Announce;
use heartline_core::presence::{RoomAddress, SocketAddress};
use heartline_core::rooms::{self, Joined, Membership, PRIVATE, Room, RoomError, RoomRef, STAYS};
use heartline_engine::shard::engine::Engine;
use heartline_wire::codes::Code;
use heartline_wire::id::Slot;
use heartline_wire::json;
use heartline_wire::live::{self, Subscribed};
use heartline_wire::time::Micros;
use tokio::sync::oneshot;

use super::Hub;
use super::link::SocketState;
use super::resume::snapshot;
use super::tasks::{Subscribing, TaskKind, not_reached};
use crate::api::{MEMBERS_AN_EVENT, count_newcomer};
use crate::event::{EventError, to_json};
use crate::gateway::{Gateway, WeakGateway};
use crate::op::{Held, Op, Recover, TopicAsked};
use crate::publication::Encoding;

/// How long the store may take to keep a member.
const REMEMBER: Duration = Duration::from_secs(10);
/// How long a subscription may take: longer than a store that is away is waited for (5 s), and
/// less than clients wait for its answer (10 s).
pub(super) const SUBSCRIBE: Duration = Duration::from_secs(8);
/// How much longer, where the other nodes are asked who is there: as long as they may take.
const ASK_NODES: Duration = Duration::from_secs(4);

/// The only namespace of live connections.
const ROOT: NamespaceId = NamespaceId::ROOT;

/// Who is in a topic, as a live connection is told.
async fn members_of(gateway: &Gateway, identity: &Identity, topic: &str) -> Vec<MemberEntry> {
    let namespaces = &gateway.shared.fanout.namespaces;
    let there = &namespaces.get(ROOT).name;
    gateway.members_told(there, identity, topic).await
}

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
        if socket.identity.user.is_none() && rooms::conversation_of(name).is_some() {
            // Whoever wants to put them there: a conversation is somebody's.
            return Err(RoomError::AuthRequired);
        }
        // A user's own room is no list of members: it is the directory of users.
        if Self::private_room(&socket.identity).as_deref() == Some(name) {
            return Ok(Joined {
                incarnation: 0,
                epoch: 0,
                offset: 0,
                since: 0,
                held: None,
            });
        }
        if socket.rooms.len() >= max {
            let there = |member: &Membership| {
                let room = self.rooms.room(*member);
                room.is_some_and(|room| *room.key.name == *name)
            };
            if !socket.rooms.iter().any(there) {
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
            self.note_join(engine, slot, namespace, &joined);
            if let Some(socket) = self.link(slot).and_then(|link| link.socket(namespace)) {
                self.note_moved(socket, name, true);
            }
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
        members: Option<Vec<MemberEntry>>,
        held: &Result<Held, EventError>,
    ) {
        let Some(slot) = self.locate(engine, to) else {
            return;
        };
        if let Some(members) = &members {
            self.charge(engine, to, members.len() / MEMBERS_AN_EVENT);
        }
        match held {
            Ok(_) => self.subscribe_now(engine, slot, topic, id, recover, members),
            Err(error) => self.live_error(engine, slot, error, Some(topic), id),
        }
        self.release_input(engine, slot);
    }

    /// Nothing came of a subscription. That costs the topic and not the connection: its client is
    /// in a topic when it has heard `subscribed`, also in one that it has come back with.
    pub(super) fn not_subscribed(
        &mut self,
        engine: &mut Engine,
        asked: &Subscribing,
        error: &EventError,
    ) {
        if let Some(slot) = self.locate(engine, &asked.to) {
            let (topic, id) = (Some(&*asked.topic), asked.id.as_deref());
            self.refuse_live(engine, slot, error, topic, id);
            self.release_input(engine, slot);
        }
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
        engine: &mut Engine,
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
                socket.rooms.remove(index)
            });
            if let Some(membership) = left {
                self.note_left(engine, slot, namespace, name);
                self.note_leave(engine, slot, namespace, membership);
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
    /// more, and is told so. Rooms into which the app has put it against its token stay. Of some
    /// conversations only the store knows; they are returned.
    pub(super) fn leave_what_was_taken(
        &mut self,
        engine: &mut Engine,
        slot: Slot,
        namespace: NamespaceId,
        before: &Identity,
    ) -> Vec<Arc<str>> {
        let Some(socket) = self.link(slot).and_then(|link| link.socket(namespace)) else {
            return Vec::new();
        };
        let members = &self.shared.members;
        let changed = |room: &str| {
            let before = members.grant(room, before);
            before.is_ok() && before != members.grant(room, &socket.identity)
        };
        let (mut taken, mut in_doubt) = (Vec::new(), Vec::new());
        for member in &socket.rooms {
            let room = self.rooms.room(*member).map(|room| &room.key.name);
            let Some(room) = room.filter(|room| changed(room)) else {
                continue;
            };
            match members.may_join_now(room, &socket.identity) {
                Some(Ok(())) => {}
                Some(Err(_)) => taken.push(room.clone()),
                None => in_doubt.push(room.clone()),
            }
        }
        for room in taken {
            self.take_room(engine, slot, namespace, &room);
        }
        in_doubt
    }

    /// A socket leaves a room that is not open to it any more, and is told so.
    fn take_room(&mut self, engine: &mut Engine, slot: Slot, namespace: NamespaceId, room: &str) {
        self.leave(engine, slot, namespace, room);
        self.tell_forbidden(engine, slot, namespace, room);
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

    /// A socket may have lost a conversation: it leaves the room, if it is there.
    pub(super) fn look_again(&mut self, engine: &mut Engine, to: &SocketAddress, room: Arc<str>) {
        let Some(slot) = self.locate(engine, to) else {
            return;
        };
        let Some(socket) = self.link(slot).and_then(|link| link.socket(to.namespace())) else {
            return;
        };
        if !self.is_in(socket, &room) {
            return;
        }
        let identity = socket.identity.clone();
        match self.shared.members.may_join_now(&room, &identity) {
            Some(Ok(())) => {}
            Some(Err(_)) => self.take_room(engine, slot, to.namespace(), &room),
            None => {
                let (shared, to) = (self.shared.clone(), *to);
                let work = async move {
                    // Who cannot be asked about keeps what there is.
                    let open = shared.members.may_join(&room, &identity).await;
                    if open.is_err_and(|error| error.code == Code::Forbidden.as_str()) {
                        shared
                            .fanout
                            .post(to.0.conn.shard, Op::LookAgain { to, room });
                    }
                };
                self.start(engine, work, TaskKind::Detached, REMEMBER);
            }
        }
    }

    /// Whether a socket is in the room of this name.
    pub(super) fn is_in(&self, socket: &SocketState, name: &str) -> bool {
        socket.rooms.iter().any(|member| {
            self.rooms
                .room(*member)
                .is_some_and(|room| *room.key.name == *name)
        })
    }

    /// A token that names conversations makes its bearer a member of each.
    pub(super) fn note_memberships(&mut self, engine: &mut Engine, identity: &Identity) {
        let (Some(user), Some(patterns)) = (&identity.user, &identity.rooms) else {
            return;
        };
        let named: Vec<String> = patterns
            .iter()
            .filter_map(|pattern| pattern.exact())
            .filter_map(rooms::conversation_of)
            .map(ToOwned::to_owned)
            .collect();
        if named.is_empty() {
            return;
        }
        let (members, user) = (self.shared.members.clone(), user.clone());
        let work = async move {
            for conversation in named {
                members.joined(&conversation, &user).await;
            }
        };
        self.start(engine, work, TaskKind::Detached, REMEMBER);
    }

    /// The rooms of a socket by their names, in the order of these.
    pub(super) fn room_names(&self, members: &[Membership], identity: &Identity) -> Vec<String> {
        let mut rooms = self.recent_rooms(members);
        rooms.extend(Hub::private_room(identity));
        rooms.sort_unstable();
        rooms
    }

    /// The same without the private one, the newest first.
    pub(super) fn recent_rooms(&self, members: &[Membership]) -> Vec<String> {
        let rooms = members.iter().rev();
        let rooms = rooms.filter_map(|member| self.rooms.room(*member));
        rooms.map(|room| room.key.name.to_string()).collect()
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
            let (members, id) = (self.shared.members.clone(), conversation.to_owned());
            let work = async move { members.joined(&id, &user).await };
            self.start(engine, work, TaskKind::Detached, REMEMBER);
        }
    }

    /// A live connection wants to join a topic, and with `members` to hear who is there: up to
    /// that moment, and itself.
    pub(super) fn subscribe(
        &mut self,
        engine: &mut Engine,
        slot: Slot,
        topic: &str,
        id: Option<&str>,
        recover: Recover,
        members: bool,
    ) {
        self.active(engine, slot);
        if let Err(error) = self.count_join(engine, slot, Some(ROOT)) {
            self.refuse_live(engine, slot, &error, Some(topic), id);
            return;
        }
        let Some(to) = self.address(engine, slot, ROOT) else {
            return;
        };
        let mut recover = Some(recover);
        let asked = || {
            Op::SubscribeAsked(TopicAsked {
                to,
                topic: topic.into(),
                id: id.map(Into::into),
                recover: recover.take().flatten(),
                members,
            })
        };
        // How long that takes is none of the topic's time.
        if self.do_in_turn(engine, slot, asked) {
            return self.pause_input(engine, slot);
        }
        self.subscribe_in_turn(engine, slot, (topic, id), recover.flatten(), members);
    }

    /// A live connection wants to be in a topic, and what it has said before is done.
    pub(super) fn subscribe_asked(&mut self, engine: &mut Engine, asked: TopicAsked) {
        let Some(slot) = self.locate(engine, &asked.to) else {
            return;
        };
        let topic = (&*asked.topic, asked.id.as_deref());
        self.subscribe_in_turn(engine, slot, topic, asked.recover, asked.members);
        self.release_input(engine, slot);
    }

    fn subscribe_in_turn(
        &mut self,
        engine: &mut Engine,
        slot: Slot,
        (topic, id): (&str, Option<&str>),
        recover: Recover,
        members: bool,
    ) {
        let Some(socket) = self.link(slot).and_then(|link| link.socket(ROOT)) else {
            return;
        };
        let identity = socket.identity.clone();
        let open = self.shared.members.may_join_now(topic, &identity);
        if let Some(Err(error)) = open {
            self.refuse_live(engine, slot, &error.into(), Some(topic), id);
            return;
        }
        let tenant = identity.tenant_id().cloned();
        let held = self.shared.fanout.hold_room(ROOT, tenant.as_ref(), topic);
        let ready = held.as_ref().and_then(|held| held.ready());
        let may_stick = ready.is_some() || open.is_none();
        if let (true, Some(error)) = (may_stick, self.has_waited(slot, engine.now)) {
            self.refuse_live(engine, slot, &error, Some(topic), id);
            return;
        }
        let gateway = self.handlers.gateway.get();
        let gateway = gateway.filter(|_| members).and_then(WeakGateway::upgrade);
        let waits = may_stick || gateway.is_some();
        let waits = waits || self.is_behind(engine, slot, topic, &recover);
        let (true, Some(to)) = (waits, self.address(engine, slot, ROOT)) else {
            self.subscribe_now(engine, slot, topic, id, recover, None);
            return;
        };
        // What comes from other nodes is to arrive before the answer says that it
        // does, and nothing of the topic before the answer.
        self.pause_input(engine, slot);
        let (shared, shard) = (self.shared.clone(), self.shard);
        let asked = Box::new(Subscribing::new(to, topic, id));
        let (topic, id) = (asked.topic.clone(), asked.id.clone());
        let work = async move {
            let open = shared.members.may_join(&topic, &identity).await;
            if let (Ok(()), Some(ready)) = (&open, ready) {
                ready.await;
            }
            let members = match (&open, gateway) {
                (Ok(()), Some(gateway)) => Some(members_of(&gateway, &identity, &topic).await),
                _ => None,
            };
            let held = open.map(|()| held);
            let op = Op::Subscribe {
                to,
                topic,
                id,
                recover,
                members,
                held,
            };
            shared.fanout.post(shard, op);
        };
        let time = SUBSCRIBE + if members { ASK_NODES } else { Duration::ZERO };
        self.start(engine, work, TaskKind::Subscribe(asked), time);
    }

    /// Whether an answer to a live client belongs behind what is in the mailbox: other answers, or
    /// what it has heard on another shard.
    fn is_behind(&self, engine: &Engine, slot: Slot, topic: &str, recover: &Recover) -> bool {
        if !self.is_next(engine) {
            return true;
        }
        let (Some((_, heard)), Some(room)) = (recover, self.kept_room(slot, topic)) else {
            return false;
        };
        // Known when all shards have been handed the last publication.
        let last = room.offset();
        let delivered = self.rooms.delivered(&room);
        delivered.is_some_and(|delivered| delivered < *heard && *heard <= last)
    }

    /// Whether a connection has waited for a topic in vain a short while ago, and what it is told
    /// if it would have to wait for another: its input is not to stand still once more.
    fn has_waited(&self, slot: Slot, now: Micros) -> Option<EventError> {
        let until = self.link(slot)?.no_waiting_until();
        (until > now).then(|| not_reached(until - now))
    }

    /// A live connection wants to leave a topic. What it has published before is on its way
    /// to it, and so are the answers; what it says next waits until it has left. Its user's own
    /// room it stays in.
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
        if topic.starts_with(PRIVATE) {
            let error = EventError::new(Code::Forbidden, STAYS);
            return self.refuse_live(engine, slot, &error, Some(topic), id);
        }
        self.pause_input(engine, slot);
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
        members: Option<Vec<MemberEntry>>,
    ) {
        let members = members.map(|members| self.with_newcomer(slot, topic, members));
        let members = members.as_deref();
        let joined = match self.join(engine, slot, ROOT, topic) {
            Ok(joined) => joined,
            Err(error) => {
                return self.live_error(engine, slot, &error.into(), Some(topic), id);
            }
        };
        self.note_joined(engine, slot, ROOT, topic);
        let epoch = self.shared.fanout.epoch(joined.epoch);
        let room = self.kept_room(slot, topic);
        let to = joined.offset;
        let missed = recover
            .zip(room.as_ref())
            .and_then(|((epoch, offset), room)| {
                let missed = self.missed_of_topic(room, (&epoch, offset), to)?;
                Some((offset, missed))
            });
        let afresh = match (&missed, room) {
            (None, Some(room)) => snapshot(&room, to),
            _ => "[]".into(),
        };
        let answer = Subscribed {
            topic,
            id,
            epoch: &epoch,
            offset: missed.as_ref().map_or(to, |(offset, _)| *offset),
            snapshot: &afresh,
            recovered: missed.is_some(),
            members,
            is_left_out: self.shared.fanout.leaves_out(topic),
        };
        self.send_live(engine, slot, |text| live::push_subscribed(&answer, text));
        if let Some((_, missed)) = missed {
            self.replay_topic(engine, slot, topic, missed);
        }
    }

    /// The members of a topic as JSON, with a live connection that is about to join it.
    fn with_newcomer(&self, slot: Slot, topic: &str, mut members: Vec<MemberEntry>) -> String {
        let socket = self.link(slot).and_then(|link| link.socket(ROOT));
        if let Some(socket) = socket
            && let Some(user) = &socket.identity.user
        {
            let is_counted = self.is_in(socket, topic) || topic.starts_with(PRIVATE);
            count_newcomer(&mut members, user, !is_counted);
        }
        to_json(&members).unwrap_or_else(|_| "[]".into())
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

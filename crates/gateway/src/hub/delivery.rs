//! Getting things to sockets: one, a room, a namespace.

use std::sync::Arc;
use std::time::Duration;

use hashbrown::HashSet;
use heartline_core::auth::UserKey;
use heartline_core::message::{Message, MessageError};
use heartline_core::namespaces::NamespaceId;
use heartline_core::presence::{Others, SocketAddress};
use heartline_core::rooms::{Room, RoomKey};
use heartline_engine::shard::engine::Engine;
use heartline_engine::tasks::Started;
use heartline_wire::codes::Code;
use heartline_wire::id::Slot;
use heartline_wire::live;
use heartline_wire::socketio::MAX_ATTACHMENTS;
use tokio::sync::oneshot;

use super::Hub;
use super::link::{MAX_PENDING_ACKS, SocketState};
use super::tasks::TaskKind;
use crate::event::{Args, EventError, to_json};
use crate::handler::Reply;
use crate::metrics::Outbound;
use crate::op::Manner;
use crate::publication::{self, AckRef, Encoding, Head, Publication, Told, may_mislead};

/// How long the store may take to say who is a member.
const ASK_STORE: Duration = Duration::from_secs(10);

/// An event that is told instead of a room's, and waits until the store has said whether it is for
/// a socket.
pub(super) struct Telling {
    to: SocketAddress,
    publication: Arc<Publication>,
    room: Arc<str>,
}

impl Hub {
    /// An event to one socket of this shard.
    pub(super) fn emit_here(
        &mut self,
        engine: &mut Engine,
        slot: Slot,
        namespace: NamespaceId,
        message: &Message,
    ) {
        let place = self.passing(slot, namespace);
        self.emit_at(engine, slot, namespace, message, place);
    }

    /// The same with a place in the line.
    fn emit_at(
        &mut self,
        engine: &mut Engine,
        slot: Slot,
        namespace: NamespaceId,
        message: &Message,
        place: Option<Told>,
    ) {
        let Some(encoding) = self.link(slot).map(|link| link.encoding) else {
            return;
        };
        self.metrics.outbound(Outbound::Event).add(1);
        let namespace = self.namespace_name(namespace);
        let head = Head {
            namespace,
            place,
            ..Head::default()
        };
        engine.send_with(slot, |out| {
            publication::push_event(encoding, &head, message, out);
        });
    }

    pub(super) fn emit(
        &mut self,
        engine: &mut Engine,
        to: &SocketAddress,
        message: &Message,
        how: Manner,
    ) {
        let Some(slot) = self.locate(engine, to) else {
            if let Manner::Kept(_) = how {
                self.direct_missed(to);
            }
            return;
        };
        let is_live = self
            .link(slot)
            .is_some_and(|link| link.encoding == Encoding::Live);
        if is_live && live::is_reserved(&message.event) && &*message.event != "pong" {
            tracing::debug!("an event has the name of one of the live protocol's own frames");
            return;
        }
        let namespace = to.namespace();
        match how {
            Manner::Kept(told) => self.emit_kept(engine, slot, namespace, message, told),
            Manner::Passing => self.emit_here(engine, slot, namespace, message),
            Manner::Volatile if !engine.is_writable(slot) => engine.stats.volatile_dropped += 1,
            Manner::Volatile => {
                let place = self.passing(slot, namespace);
                let place = place.filter(|_| may_mislead(message));
                self.emit_at(engine, slot, namespace, message, place);
            }
        }
    }

    /// The same of an event that is kept until it has come.
    fn emit_kept(
        &mut self,
        engine: &mut Engine,
        slot: Slot,
        namespace: NamespaceId,
        message: &Message,
        told: Told,
    ) {
        if !self.was_told(slot, namespace, told.place.id) {
            self.emit_at(engine, slot, namespace, message, Some(told));
            self.note_direct(engine, slot, namespace, told.place.id);
        }
    }

    pub(super) fn emit_acked(
        &mut self,
        engine: &mut Engine,
        to: &SocketAddress,
        message: &Message,
        reply: oneshot::Sender<Result<Args, EventError>>,
    ) {
        let Some(slot) = self.locate(engine, to) else {
            return;
        };
        let Some(link) = self.link_mut(slot) else {
            return;
        };
        let encoding = link.encoding;
        if encoding == Encoding::Live {
            let error = EventError::from(Code::NotSupported);
            let _ = reply.send(Err(error));
            return;
        }
        let Some(socket) = link.socket_mut(to.namespace()) else {
            return;
        };
        let acks = socket.acks_for_more();
        // Those whose caller has given up make room first.
        if acks.waiting.len() >= MAX_PENDING_ACKS {
            acks.waiting.retain(|_, waiting| !waiting.is_closed());
        }
        if acks.waiting.len() >= MAX_PENDING_ACKS {
            let error = EventError::from(Code::TooManyAcks);
            let _ = reply.send(Err(error));
            return;
        }
        let id = acks.next;
        acks.next += 1;
        acks.waiting.insert(id, reply);
        self.metrics.outbound(Outbound::Event).add(1);
        let name = self.namespace_name(to.namespace());
        let head = Head {
            namespace: name,
            ack: Some(id),
            ..Head::default()
        };
        engine.send_with(slot, |out| {
            publication::push_event(encoding, &head, message, out);
        });
    }

    pub(super) fn send_to(
        &mut self,
        engine: &mut Engine,
        to: &SocketAddress,
        publication: &Arc<Publication>,
        instead_of: Option<&Arc<str>>,
    ) {
        let Some(slot) = self.locate(engine, to) else {
            return;
        };
        let Some(link) = self.link(slot) else {
            return;
        };
        if let (Some(room), Some(socket)) = (instead_of, link.socket(to.namespace())) {
            if self.is_in(socket, room) {
                return;
            }
            match self.shared.members.may_be_told_now(room, &socket.identity) {
                Some(true) => {}
                Some(false) => return,
                None => return self.ask_and_tell(engine, slot, to, publication, room),
            }
        }
        self.give_one(engine, slot, to.namespace(), publication);
    }

    fn give_one(
        &mut self,
        engine: &mut Engine,
        slot: Slot,
        namespace: NamespaceId,
        publication: &Publication,
    ) {
        if self.give(engine, slot, namespace, publication) {
            self.metrics.deliveries.add(1);
            self.metrics.outbound(Outbound::Event).add(1);
        }
    }

    /// The same once the store has said whether the socket may join the room. What comes later is not
    /// held up by that, and is told before it.
    fn ask_and_tell(
        &mut self,
        engine: &mut Engine,
        slot: Slot,
        to: &SocketAddress,
        publication: &Arc<Publication>,
        room: &Arc<str>,
    ) {
        let namespace = to.namespace();
        if self.has_caught_up(slot, namespace, publication) {
            return;
        }
        let link = self.link(slot);
        let Some(socket) = link.and_then(|link| link.socket(namespace)) else {
            return;
        };
        let (shared, identity) = (self.shared.clone(), socket.identity.clone());
        let asked = room.clone();
        let work = async move {
            let open = shared.members.may_join(&asked, &identity).await;
            open.map(|()| None).map_err(Box::new)
        };
        let telling = || Telling {
            to: *to,
            publication: publication.clone(),
            room: room.clone(),
        };
        let due = engine.now + ASK_STORE;
        let kind = || TaskKind::Tell(Box::new(telling()));
        match self.tasks.start(Box::pin(work), due, kind) {
            Started::Waiting(_) => {
                let is_kept = publication.last_kept().is_some();
                let link = self.link_mut(slot).filter(|_| is_kept);
                let socket = link.and_then(|link| link.socket_mut(namespace));
                if socket.is_some_and(SocketState::waits_for_answer) {
                    self.remember(engine, slot, namespace);
                }
            }
            Started::Done(Ok(_)) => self.give_one(engine, slot, namespace, publication),
            Started::Done(Err(error)) => self.not_told(engine, to, publication, &error),
            Started::Panicked => {
                self.note_panic();
                self.not_told(engine, to, publication, &Code::Internal.into());
            }
        }
    }

    /// The store has said, some time after it was asked, whether an event is for a socket; or it has
    /// not.
    pub(super) fn tell_late(&mut self, engine: &mut Engine, telling: &Telling, said: Reply) {
        let Telling {
            to,
            publication,
            room,
        } = telling;
        let (namespace, is_kept) = (to.namespace(), publication.last_kept().is_some());
        let Some(slot) = self.locate(engine, to) else {
            return;
        };
        let link = self.link_mut(slot);
        let Some(socket) = link.and_then(|link| link.socket_mut(namespace)) else {
            return;
        };
        let is_last = is_kept && socket.is_answered();
        // Its token may be another by now.
        let identity = socket.identity.clone();
        let is_refused = self.shared.members.may_be_told_now(room, &identity) == Some(false);
        let is_for_it = self
            .link(slot)
            .and_then(|link| link.socket(namespace))
            .is_some_and(|socket| !is_refused && !self.is_in(socket, room));
        match said {
            _ if !is_for_it => {}
            Ok(_) => self.send_late(engine, slot, namespace, publication),
            Err(error) => self.not_told(engine, to, publication, &error),
        }
        if is_last {
            self.remember(engine, slot, namespace);
        }
    }

    /// An event is not for a socket; or the store cannot say whether it is: then it is lost, and the
    /// socket is told of that.
    fn not_told(
        &mut self,
        engine: &mut Engine,
        to: &SocketAddress,
        publication: &Publication,
        why: &EventError,
    ) {
        let Some(slot) = self.locate(engine, to) else {
            return;
        };
        if why.code != Code::Forbidden.as_str() {
            self.user_gap(engine, to);
            self.note_late(engine, slot, to.namespace(), publication);
        }
    }

    /// Sends something behind what came later. With its own place the client would go back by what it
    /// has heard since.
    fn send_late(
        &mut self,
        engine: &mut Engine,
        slot: Slot,
        namespace: NamespaceId,
        publication: &Publication,
    ) {
        let Some(encoding) = self.link(slot).map(|link| link.encoding) else {
            return;
        };
        match (publication.place, self.passing(slot, namespace)) {
            (Some(Told { is_own, .. }), Some(Told { place, .. })) => {
                let told = Told { place, is_own };
                engine.send_with(slot, |out| publication.push(encoding, told, out));
            }
            _ => engine.send(slot, publication.frames(encoding)),
        }
        self.metrics.deliveries.add(1);
        self.metrics.outbound(Outbound::Event).add(1);
        self.note_late(engine, slot, namespace, publication);
    }

    /// Until what was sent now has come, nobody knows whether a client that has heard no later place
    /// has got it.
    fn note_late(
        &mut self,
        engine: &mut Engine,
        slot: Slot,
        namespace: NamespaceId,
        publication: &Publication,
    ) {
        let is_kept = publication.last_kept().is_some();
        let Some(told) = self.passing(slot, namespace).filter(|_| is_kept) else {
            return;
        };
        let link = self.link_mut(slot);
        if let Some(socket) = link.and_then(|link| link.socket_mut(namespace)) {
            socket.note_late(told.place.id);
        }
        self.note_direct(engine, slot, namespace, told.place.id);
    }

    /// Where an answer goes to what a socket has asked. A live connection has one namespace: what it
    /// asked before it became somebody is answered all the same.
    pub(super) fn locate_asker(&self, engine: &Engine, asker: &SocketAddress) -> Option<Slot> {
        let is_live = |slot: &Slot| {
            let link = self.link(*slot);
            link.is_some_and(|link| link.encoding == Encoding::Live)
        };
        self.locate(engine, asker)
            .or_else(|| engine.find(asker.0.conn).filter(is_live))
    }

    pub(super) fn ack(
        &mut self,
        engine: &mut Engine,
        to: &SocketAddress,
        ack: AckRef<'_>,
        args: &Args,
    ) {
        let Some(slot) = self.locate_asker(engine, to) else {
            return;
        };
        let Some(encoding) = self.link(slot).map(|link| link.encoding) else {
            return;
        };
        if encoding == Encoding::Text && args.attachments.len() > MAX_ATTACHMENTS {
            // What a msgpack client brought, as the answer to another.
            let error = MessageError::TooManyAttachments(MAX_ATTACHMENTS).into();
            return self.refuse(engine, to, Some(ack), &error);
        }
        self.metrics.outbound(Outbound::Ack).add(1);
        let name = self.namespace_name(to.namespace());
        engine.send_with(slot, |out| {
            publication::push_ack(encoding, name, ack, &args.json, &args.attachments, out);
        });
    }

    /// An event was refused: the answer says so, or an event of its own does.
    pub(super) fn refuse(
        &mut self,
        engine: &mut Engine,
        to: &SocketAddress,
        ack: Option<AckRef<'_>>,
        error: &EventError,
    ) {
        self.metrics.outbound(Outbound::Error).add(1);
        let Ok(json) = to_json(error) else {
            return;
        };
        if ack.is_none() || error.announced {
            if let Some(slot) = self.locate_asker(engine, to) {
                let live = self
                    .link(slot)
                    .is_some_and(|link| link.encoding == Encoding::Live);
                if live && !error.announced {
                    self.live_error(engine, slot, error, None, None);
                } else {
                    let data = json.replacen(r#""ok":false,"#, "", 1);
                    self.emit_here(
                        engine,
                        slot,
                        to.namespace(),
                        &Message::new("message:error", &data),
                    );
                }
            }
        }
        if let Some(ack) = ack {
            let args = Args {
                json,
                attachments: Vec::new(),
            };
            self.ack(engine, to, ack, &args);
        }
    }

    // --- rooms -----------------------------------------------------------

    // --- many ------------------------------------------------------------

    /// The hot path: one publication to the members of a room here.
    pub(super) fn deliver(
        &mut self,
        engine: &mut Engine,
        room: &Arc<Room>,
        offset: u64,
        publication: &Publication,
        skip: Option<&SocketAddress>,
    ) {
        let lost = self.is_lost(engine, skip);
        let skip = skip.and_then(|socket| self.locate(engine, socket));
        let Some(members) = self.rooms.deliver(room, offset) else {
            return;
        };
        let namespace = room.key.namespace;
        let mut given = 0;
        for &slot in &members {
            let is_own = lost.is_some_and(|lost| self.is_own(slot, namespace, lost));
            if Some(slot) != skip && !is_own {
                given += u64::from(self.give(engine, slot, namespace, publication));
            }
        }
        self.metrics.deliveries.add(given);
        self.metrics.outbound(Outbound::Event).add(given);
        self.rooms.restore(room, members);
    }

    pub(super) fn broadcast(
        &mut self,
        engine: &mut Engine,
        namespace: NamespaceId,
        tenant: Option<Arc<str>>,
        publication: &Publication,
        about: Option<&[Arc<UserKey>]>,
    ) {
        let tenant = tenant.as_deref();
        let subjects: HashSet<&UserKey> = about.into_iter().flatten().map(|user| &**user).collect();
        let mut sent = 0;
        for slot in (0..self.links.len() as u32).map(Slot) {
            let Some(link) = self.link(slot) else {
                continue;
            };
            let Some(socket) = link.socket(namespace) else {
                continue;
            };
            let is_other = socket.identity.tenant_id().map(|tenant| &**tenant) != tenant;
            if is_other || self.has_caught_up(slot, namespace, publication) {
                continue;
            }
            let user = socket.identity.user.as_deref();
            let own = user.filter(|user| subjects.contains(user));
            match (own.cloned(), about) {
                (Some(own), Some(about)) => {
                    for (index, (message, _)) in publication
                        .messages()
                        .zip(about)
                        .enumerate()
                        .filter(|(_, (_, about))| ***about != own)
                    {
                        // Counts as outbound by itself.
                        let place = publication.place_of(index);
                        self.emit_at(engine, slot, namespace, message, place);
                        self.metrics.deliveries.add(1);
                    }
                }
                _ => {
                    if self.give(engine, slot, namespace, publication) {
                        sent += publication.len();
                    }
                }
            }
        }
        self.metrics.deliveries.add(sent);
        self.metrics.outbound(Outbound::Event).add(sent);
    }

    /// To whoever but `user` is in any of `rooms` and in none of `others`, once each.
    pub(super) fn deliver_around(
        &mut self,
        engine: &mut Engine,
        user: &UserKey,
        rooms: &[Arc<Room>],
        others: Option<&Others>,
        publication: &Publication,
    ) {
        let mut slots = self.members_of(rooms);
        let own = |socket: &SocketState| socket.identity.user.as_deref() == Some(user);
        slots.retain(|slot| {
            let link = self.link(*slot);
            link.is_some_and(|link| !link.sockets.iter().any(own))
        });
        if let (Some(others), Some(room)) = (others, rooms.first()) {
            self.forget_who_heard(&room.key, others, &mut slots);
        }
        for slot in slots {
            let namespace = rooms.first().map(|room| room.key.namespace);
            if namespace.is_some_and(|namespace| self.give(engine, slot, namespace, publication)) {
                self.metrics.deliveries.add(1);
                self.metrics.outbound(Outbound::Event).add(1);
            }
        }
    }

    fn members_of(&self, rooms: &[Arc<Room>]) -> Vec<Slot> {
        let members = rooms.iter().flat_map(|room| self.rooms.members(room));
        let mut slots: Vec<Slot> = members.copied().collect();
        slots.sort_unstable();
        slots.dedup();
        slots
    }

    /// Takes out who is in any of `others` as well. Either the rooms of those in question
    /// are gone through or the others are, whichever is less.
    fn forget_who_heard(&self, room: &RoomKey, others: &Others, slots: &mut Vec<Slot>) {
        let namespace = room.namespace;
        let rooms = |slot: Slot| {
            let socket = self.link(slot).and_then(|link| link.socket(namespace));
            socket.map_or(&[][..], |socket| &socket.rooms)
        };
        let theirs: usize = slots.iter().map(|slot| rooms(*slot).len()).sum();
        if theirs <= others.len_at_most() {
            let name = self.namespace_name(namespace);
            slots.retain(|slot| {
                let mut there = rooms(*slot).iter().filter_map(|one| self.rooms.room(*one));
                !there.any(|there| others.contains(name, &there.key.name))
            });
        } else {
            let tenant = room.tenant.as_deref();
            let fanout = &self.shared.fanout;
            let others = fanout.find_rooms(namespace, tenant, &others.list());
            let heard = self.members_of(&others);
            slots.retain(|slot| heard.binary_search(slot).is_err());
        }
    }

    /// A live `error` frame, perhaps about a topic that a client wanted to be in. What was asked for
    /// in a frame that has just come is refused with [`refuse_live`](Self::refuse_live).
    pub(super) fn live_error(
        &mut self,
        engine: &mut Engine,
        slot: Slot,
        error: &EventError,
        topic: Option<&str>,
        id: Option<&str>,
    ) {
        let write = self.error_frame(error, topic, id);
        self.send_live(engine, slot, write);
    }

    /// What writes the live frame of an error, which counts as said.
    pub(super) fn error_frame<'a>(
        &self,
        error: &'a EventError,
        topic: Option<&'a str>,
        id: Option<&'a str>,
    ) -> impl FnOnce(&mut String) + use<'a> {
        self.metrics.outbound(Outbound::Error).add(1);
        let wait = error.retry_after_ms;
        move |text| live::push_error(&error.code, &error.error, wait, topic, id, text)
    }
}

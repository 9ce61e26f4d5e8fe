//! Connections that were lost and come back: what is kept of a socket, and how another
//! connection goes on with it.
//!
//! A resumed socket has gone through the same admission as everybody. It stands at a new
//! address and keeps its id as a name. When it is in its rooms again, a place in the line is
//! taken: what it missed up to there comes from the rings, and what comes after from the
//! mailbox, whose events up to that place are not for it ([`CatchingUp`]). So all it gets is in
//! the order of the line, and the last place it has seen says everything that it has.

use std::cell::Cell;
use std::collections::VecDeque;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use hashbrown::HashMap;
use heartline_core::auth::Identity;
use heartline_core::line::Place;
use heartline_core::line::ring::{Kept, Ring};
use heartline_core::line::session::{Session, Unclaimed};
use heartline_core::line::shelf::ScopeRef;
use heartline_core::message::Message;
use heartline_core::namespaces::NamespaceId;
use heartline_core::presence::SocketAddress;
use heartline_core::rooms::{self, Grant, Joined, Room};
use heartline_core::store::conversations::Membership as Kind;
use heartline_engine::shard::engine::Engine;
use heartline_wire::id::Slot;
use heartline_wire::reason::Reason;
use heartline_wire::time::Micros;
use heartline_wire::{json, live};

use super::Hub;
use super::link::Back;
use crate::data::SocketData;
use crate::journal::Journal;
use crate::metrics::Resume;
use crate::op::{LineOp, Manner, Op, Park, SelectedAction};
use crate::publication::{self, Encoding, Head, Publication, Told};
use crate::recovery::Recovery;

/// What one resume may weigh, bytes; and half of what may wait for a connection.
const MAX_REPLAY_BYTES: usize = 512 << 10;

/// For how long the user of a connection that is taken over stays online without one: another
/// is being let in.
const TAKING_OVER: Duration = Duration::from_secs(5);

/// What a client brings of an earlier connection.
#[derive(Debug)]
pub(crate) struct Ticket {
    /// The socket, and the place in the line at which it began; `None`: the token is not one of
    /// this gateway.
    session: Option<(SocketAddress, u64)>,
    /// Its address has tried too often: nobody looks.
    is_limited: bool,
    /// The socket was another user's.
    is_foreign: bool,
    since: Since,
    /// When it has come back.
    came_at: Micros,
    /// Live topics, each with the epoch and offset of the last event that came.
    pub(crate) topics: Vec<(Box<str>, Option<(Box<str>, u64)>)>,
}

/// What a client has received.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Since {
    /// Everything up to this place.
    Place(Place),
    /// It does not say: Socket.IO's clients have received nothing, and of live clients the
    /// topics tell.
    Unsaid,
    /// Something that is no place.
    Garbled,
}

impl Since {
    fn of(text: Option<&str>) -> Since {
        match text {
            None => Since::Unsaid,
            Some(text) => Place::parse(text).map_or(Since::Garbled, Since::Place),
        }
    }
}

impl Ticket {
    /// The place at which it began.
    pub(super) fn begin(&self) -> u64 {
        self.session.map_or(0, |(_, begin)| begin)
    }

    /// It is brought now.
    pub(super) fn comes(&mut self, now: Micros) {
        self.came_at = now;
    }

    /// Is not looked at, as there were too many that were of no use.
    pub(super) fn is_refused(&mut self) {
        self.session = None;
        self.is_limited = true;
    }

    /// The socket was another user's, as another node knows.
    pub(super) fn is_anothers(&mut self) {
        self.is_foreign = true;
    }

    /// The place up to which it has received everything, or before.
    pub(super) fn place(&self) -> u64 {
        match self.since {
            Since::Place(place) => place.id.max(self.begin()),
            Since::Unsaid | Since::Garbled => self.begin(),
        }
    }

    /// The socket that the client had.
    pub(super) fn name(&self) -> Option<SocketAddress> {
        self.session.map(|(name, _)| name)
    }
}

type Parked = Session<Option<SocketData>>;

/// Sockets that have come back, and have got from the rings what is still in the mailbox.
#[derive(Default)]
pub(super) struct CatchingUp {
    sockets: HashMap<(Slot, NamespaceId), Caught>,
    /// The same by their places.
    order: VecDeque<(u64, Slot, NamespaceId)>,
}

#[derive(Clone, Copy)]
struct Caught {
    /// Up to this place.
    told: u64,
    /// But not of its topics: they have places of their own.
    has_topics: bool,
}

impl CatchingUp {
    /// One more socket that was told all up to a place; whether none was before.
    fn push(&mut self, slot: Slot, namespace: NamespaceId, caught: Caught) -> bool {
        let is_first = self.order.back().is_none_or(|last| last.0 < caught.told);
        self.order.push_back((caught.told, slot, namespace));
        self.sockets.insert((slot, namespace), caught);
        is_first
    }

    fn find(&self, slot: Slot, namespace: NamespaceId) -> Option<Caught> {
        if self.sockets.is_empty() {
            return None;
        }
        self.sockets.get(&(slot, namespace)).copied()
    }

    /// A socket has gone.
    pub(super) fn forget(&mut self, slot: Slot, namespace: NamespaceId) {
        if !self.sockets.is_empty() {
            self.sockets.remove(&(slot, namespace));
        }
    }

    /// All up to a place has been delivered.
    fn reached(&mut self, place: u64) {
        while let Some(&(told, slot, namespace)) = self.order.front()
            && told <= place
        {
            self.order.pop_front();
            // Another socket may have the slot by now.
            let there = self.find(slot, namespace);
            if there.is_some_and(|there| there.told <= place) {
                self.sockets.remove(&(slot, namespace));
            }
        }
        if self.order.is_empty() {
            *self = CatchingUp::default();
        }
    }
}

/// What is told to a socket that has come back.
#[derive(Default)]
pub(super) struct Missed {
    /// The events, by their places.
    pub(super) events: Vec<Arc<Kept>>,
    /// Rooms that its new token does not grant.
    taken: Vec<Arc<str>>,
}

/// Whether who was lost for this reason may come back to what it had.
fn is_resumable(reason: Reason) -> bool {
    match reason {
        // Without a DISCONNECT, and of live clients without a goodbye: see `park_all`.
        Reason::ClientLeft
        | Reason::TransportClosed
        | Reason::TransportError
        | Reason::HeartbeatTimeout
        | Reason::StaleSweep
        | Reason::TokenExpired
        | Reason::SlowConsumer
        | Reason::Drained
        | Reason::NodeLost => true,
        Reason::IdleTimeout
        | Reason::AuthFailed
        | Reason::Kicked
        | Reason::Replaced
        | Reason::DeviceLimit
        | Reason::RateLimited
        | Reason::PayloadTooLarge
        | Reason::ProtocolViolation => false,
    }
}

impl Hub {
    fn recovery(&self) -> Option<&Recovery> {
        self.shared.fanout.recovery.as_ref()
    }

    /// Notes the place in the line of what comes next.
    pub(super) fn note_place(&mut self, op: &Op) {
        let reached = match op {
            Op::Send { publication, .. }
            | Op::Deliver { publication, .. }
            | Op::Broadcast { publication, .. }
            | Op::DeliverAround { publication, .. }
            | Op::Select {
                action: SelectedAction::Send(publication),
                ..
            } => publication.last_kept(),
            Op::Emit {
                how: Manner::Kept(told),
                ..
            } => Some(told.place.id),
            Op::Line(LineOp::Reached { place }) => Some(*place),
            Op::Line(LineOp::Gap { gap, .. }) => Some(gap.place),
            _ => None,
        };
        if let Some(reached) = reached {
            self.place = self.place.max(reached);
        }
    }

    /// Whether a socket has got a publication among what it missed.
    pub(super) fn has_caught_up(
        &self,
        slot: Slot,
        namespace: NamespaceId,
        publication: &Publication,
    ) -> bool {
        let Some(there) = self.catching_up.find(slot, namespace) else {
            return false;
        };
        let by_itself = publication.offset.is_some();
        let id = publication.last_kept();
        id.is_some_and(|id| id <= there.told) && !(by_itself && there.has_topics)
    }

    /// Whether a socket was told, among what it missed, all up to a place.
    pub(super) fn was_told(&self, slot: Slot, namespace: NamespaceId, place: u64) -> bool {
        let there = self.catching_up.find(slot, namespace);
        there.is_some_and(|there| place <= there.told)
    }

    /// Gives a publication to a socket, if it has not got it among what it missed.
    pub(super) fn give(
        &self,
        engine: &mut Engine,
        slot: Slot,
        namespace: NamespaceId,
        publication: &Publication,
    ) -> bool {
        let Some(encoding) = self.link(slot).map(|link| link.encoding) else {
            return false;
        };
        if self.has_caught_up(slot, namespace, publication) {
            return false;
        }
        let frames = || publication.frames(encoding);
        match (
            self.later_place(slot, namespace, publication),
            &publication.conflate,
        ) {
            (Some(place), _) => {
                engine.send_with(slot, |out| publication.push(encoding, place, out))
            }
            (None, Some(key)) => engine.send_keyed(slot, key, frames()),
            (None, None) => engine.send(slot, frames()),
        }
        true
    }

    /// The place that comes with what is not kept, for a socket that was told more already
    /// than had been said before: it would go back by the other.
    fn later_place(
        &self,
        slot: Slot,
        namespace: NamespaceId,
        publication: &Publication,
    ) -> Option<Told> {
        publication.place.filter(|told| !told.is_own)?;
        self.catching_up.find(slot, namespace)?;
        self.passing(slot, namespace)
    }

    /// Whoever has said something and does not want to hear it, if that is no socket of this
    /// shard: it may have been lost since, and be another by now.
    pub(super) fn is_lost<'a>(
        &self,
        engine: &Engine,
        by: Option<&'a SocketAddress>,
    ) -> Option<&'a SocketAddress> {
        self.recovery()?;
        by.filter(|by| self.locate(engine, by).is_none())
    }

    /// Whether a socket has said something itself, here or where it was before it was lost.
    pub(super) fn is_own(&self, slot: Slot, namespace: NamespaceId, by: &SocketAddress) -> bool {
        let socket = self.link(slot).and_then(|link| link.socket(namespace));
        let back = socket.and_then(|socket| socket.back());
        back.is_some_and(|back| back.was_at(by))
    }

    /// What was in the mailbox when sockets came back has been delivered.
    pub(super) fn reached(&mut self, place: u64) {
        self.catching_up.reached(place);
    }

    /// The place in the line up to which everything has been sent to a socket.
    fn place_of(&self, slot: Slot, namespace: NamespaceId) -> u64 {
        let there = self.catching_up.find(slot, namespace);
        self.place.max(there.map_or(0, |there| there.told))
    }

    /// The place that comes with an event which is not kept: all before it has been sent.
    pub(super) fn passing(&self, slot: Slot, namespace: NamespaceId) -> Option<Told> {
        let recovery = self.recovery()?;
        Some(Told {
            place: recovery.line.place(self.place_of(slot, namespace)),
            is_own: false,
        })
    }

    /// The token by which a socket can be resumed that begins, or goes on, now.
    pub(super) fn resume_token(&self, name: &SocketAddress, begin: u64) -> Option<String> {
        self.recovery()?.token(name, begin)
    }

    /// What the payload of a CONNECT brings: `pid` and `offset`.
    /// Source: socket.io-client, `Socket._sendConnectPacket`.
    pub(super) fn ticket(&self, payload: &str, namespace: NamespaceId) -> Option<Ticket> {
        let recovery = self.recovery()?;
        let text = |name| json::field(payload, name).and_then(json::unquote);
        let session = recovery.named(&text("pid")?);
        let session = session.filter(|(name, _)| name.namespace() == namespace);
        let since = match json::field(payload, "offset") {
            None => Since::Unsaid,
            Some(offset) => match json::unquote(offset) {
                Some(offset) => Since::of(Some(&offset)),
                None => Since::Garbled,
            },
        };
        Some(Ticket {
            session,
            is_limited: false,
            is_foreign: false,
            since,
            came_at: Micros::ZERO,
            topics: Vec::new(),
        })
    }

    /// What an `auth` frame brings.
    pub(super) fn live_ticket(&self, resume: &live::Resume<'_>) -> Ticket {
        let session = self
            .recovery()
            .and_then(|recovery| recovery.named(&resume.token));
        let topics = resume
            .topics
            .iter()
            .take(self.shared.config.max_rooms_per_socket);
        let topics = topics.map(|(topic, at)| {
            let at = at.as_ref();
            let at = at.map(|(epoch, offset)| ((&**epoch).into(), *offset));
            ((&**topic).into(), at)
        });
        Ticket {
            session: session.filter(|(name, _)| name.namespace() == NamespaceId::ROOT),
            is_limited: false,
            is_foreign: false,
            since: Since::of(resume.place.as_deref()),
            came_at: Micros::ZERO,
            topics: topics.collect(),
        }
    }

    // --- going ------------------------------------------------------------

    /// Keeps what the sockets of a connection had that has ended, if its client may come back.
    pub(super) fn park_all(&mut self, engine: &Engine, slot: Slot, reason: Reason) {
        if self.recovery().is_none() || !is_resumable(reason) {
            return;
        }
        let Some(link) = self.link(slot) else {
            return;
        };
        // Of Socket.IO's clients, who says goodbye has sent a DISCONNECT before.
        if link.encoding == Encoding::Live && engine.said_goodbye(slot) {
            return;
        }
        let namespaces: Vec<NamespaceId> =
            link.sockets.iter().map(|socket| socket.namespace).collect();
        for namespace in namespaces {
            self.park(engine, slot, namespace);
        }
    }

    fn park(&mut self, engine: &Engine, slot: Slot, namespace: NamespaceId) {
        let (Some(recovery), Some(address)) =
            (self.recovery(), self.address(engine, slot, namespace))
        else {
            return;
        };
        let Some(socket) = self.link(slot).and_then(|link| link.socket(namespace)) else {
            return;
        };
        let members = socket.rooms.iter();
        let rooms = members.filter_map(|member| {
            let room = self.rooms.room(*member)?.clone();
            Some((room, self.rooms.since(*member)))
        });
        let (name, mut places) = match socket.back() {
            Some(back) => (back.name, back.places.clone()),
            None => (address, Vec::new()),
        };
        let end = self.place_of(slot, namespace);
        places.push((address, end));
        if let Some(journal) = &recovery.journal {
            journal.parked(name);
        }
        self.remember(engine, slot, namespace, true);
        recovery.park(Session {
            name,
            places,
            identity: socket.identity.clone(),
            rooms: rooms.collect(),
            taken: Vec::new(),
            left: socket.left(),
            end,
            lost_at: engine.now,
            data: self.shared.data.find(&address),
        });
    }

    /// The client of a connection has come back by another: if this one is older, it is over,
    /// and what it had is kept for the other.
    pub(super) fn park_asked(
        &mut self,
        engine: &mut Engine,
        Park {
            socket,
            user,
            since,
            reply,
        }: Park,
    ) {
        let namespace = socket.namespace();
        let mut is_there = false;
        if let Some(slot) = self.locate(engine, &socket)
            && let Some(link) = self.link_mut(slot)
            && let Some(there) = link.socket(namespace)
        {
            is_there = true;
            // Of two that were on their way at once, the one that left later is wanted.
            let is_earlier = match there.back() {
                Some(back) => back.came_at <= since,
                None => there.connected_at < since,
            };
            if is_earlier && there.identity.user == user {
                is_there = false;
                link.rare().back_by = engine.now + TAKING_OVER;
                self.link_closed(engine, slot, Reason::TransportClosed);
                engine.close(slot, Reason::TransportClosed);
            }
        }
        let _ = reply.send(is_there);
    }

    /// The id under which a socket is known, where something is kept.
    fn kept_name(
        &self,
        engine: &Engine,
        slot: Slot,
        namespace: NamespaceId,
    ) -> Option<(&Recovery, SocketAddress)> {
        let recovery = self.recovery()?;
        let socket = self.link(slot)?.socket(namespace)?;
        let name = match socket.back() {
            Some(back) => back.name,
            None => self.address(engine, slot, namespace)?,
        };
        Some((recovery, name))
    }

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

    /// A socket is sent something that is kept for it alone until it has come.
    pub(super) fn note_direct(
        &mut self,
        engine: &mut Engine,
        slot: Slot,
        namespace: NamespaceId,
        place: u64,
    ) {
        let link = self.link_mut(slot);
        if let Some(socket) = link.and_then(|link| link.socket_mut(namespace)) {
            socket.note_direct(engine.now, place);
            engine.want_receipt(slot);
        }
    }

    /// Something that is kept for a socket alone has not found it. It stays for who comes back.
    pub(super) fn direct_missed(&self, to: &SocketAddress) {
        let link = self.link(to.0.conn.slot);
        let socket = link.and_then(|link| link.socket(to.namespace()));
        // One whose connection ends is lost or gone in a moment.
        let is_ending = socket.is_some_and(|socket| socket.secret == to.0.secret);
        if let Some(recovery) = self.recovery().filter(|_| !is_ending) {
            recovery.may_have_ended(*to);
        }
    }

    /// All that was sent to a connection before a moment has come.
    pub(super) fn direct_received(&mut self, engine: &mut Engine, slot: Slot, before: Micros) {
        let Some(link) = self.link_mut(slot) else {
            return;
        };
        let sockets = link.sockets.iter_mut();
        let received: Vec<_> = sockets
            .map(|socket| (socket.namespace, socket.direct_received(before)))
            .collect();
        for (namespace, (last, is_more)) in received {
            if let (Some(id), Some((recovery, name))) =
                (last, self.kept_name(engine, slot, namespace))
            {
                recovery.direct.received(&name, id);
                if let Some(common) = &recovery.common {
                    common.received(name, id);
                }
            }
            if is_more {
                engine.want_receipt(slot);
            }
        }
    }

    /// Writes down that a socket has begun.
    pub(super) fn note_open(&self, engine: &Engine, slot: Slot, namespace: NamespaceId) {
        if let Some((journal, name)) = self.written(engine, slot, namespace)
            && let Some(socket) = self.link(slot).and_then(|link| link.socket(namespace))
        {
            journal.opened(name, &socket.identity);
        }
        self.remember(engine, slot, namespace, false);
    }

    /// Writes down that it has come into the last of its rooms.
    pub(super) fn note_join(
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
        self.remember(engine, slot, namespace, false);
    }

    /// Writes down that it leaves a room.
    pub(super) fn note_leave(
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
        self.remember(engine, slot, namespace, false);
    }

    /// Writes down that it has come back, and to which rooms.
    fn note_back(&self, engine: &Engine, slot: Slot, namespace: NamespaceId) {
        if let Some((journal, name)) = self.written(engine, slot, namespace)
            && let Some(address) = self.address(engine, slot, namespace)
            && let Some(socket) = self.link(slot).and_then(|link| link.socket(namespace))
        {
            let earlier = socket.back().and_then(|back| back.places.last());
            journal.back(name, address, earlier.map_or(0, |(_, end)| *end));
            for member in &socket.rooms {
                if let Some(room) = self.rooms.room(*member) {
                    journal.joined(name, room, room.offset(), self.rooms.since(*member));
                }
            }
        }
        self.remember(engine, slot, namespace, false);
    }

    // --- coming back ------------------------------------------------------

    /// Lets a socket that has just been added go on where its client was lost; `None`, with
    /// the socket as new as before, if something would be missing.
    pub(super) fn take_up(
        &mut self,
        engine: &mut Engine,
        slot: Slot,
        namespace: NamespaceId,
        ticket: &Ticket,
    ) -> Option<Missed> {
        let identity = self.link(slot)?.socket(namespace)?.identity.clone();
        let taken_up = self.try_to_take_up(engine, slot, namespace, &identity, ticket);
        let outcome = taken_up
            .as_ref()
            .map_or_else(|why| *why, |_| Resume::Recovered);
        self.metrics.resumes(outcome).add(1);
        let is_forged = matches!(
            outcome,
            Resume::BadToken | Resume::BadOffset | Resume::Foreign
        );
        if let Some(ip) = engine
            .conn(slot)
            .map(|conn| conn.ip())
            .filter(|_| is_forged)
        {
            self.shared.limits.note_failed_resume(ip, engine.now);
        }
        if taken_up.is_err() {
            let socket = self.link(slot)?.socket(namespace)?;
            for room in self.room_list(&socket.rooms) {
                self.leave(engine, slot, namespace, &room);
            }
        }
        taken_up.ok()
    }

    fn try_to_take_up(
        &mut self,
        engine: &mut Engine,
        slot: Slot,
        namespace: NamespaceId,
        identity: &Arc<Identity>,
        ticket: &Ticket,
    ) -> Result<Missed, Resume> {
        let fanout = self.shared.fanout.clone();
        let recovery = fanout.recovery.as_ref().ok_or(Resume::Unknown)?;
        if ticket.is_limited {
            return Err(Resume::Limited);
        }
        if ticket.is_foreign {
            return Err(Resume::Foreign);
        }
        let (name, begin) = ticket.session.ok_or(Resume::BadToken)?;
        let since = match ticket.since {
            Since::Garbled => return Err(Resume::BadOffset),
            Since::Place(place) if place.epoch == recovery.line.epoch() => {
                if place.id > recovery.line.last() {
                    return Err(Resume::BadOffset);
                }
                // What is older than the session is of the one before: nothing has come.
                Some(place.id.max(begin))
            }
            Since::Place(_) => Some(begin),
            Since::Unsaid => None,
        };
        let common = recovery.common.as_ref();
        if common.is_some_and(|common| !common.has_claimed(name)) {
            // Another node goes on with it: what this one knows of it is old.
            recovery.sessions.give_up(&name);
            return Err(Resume::Unknown);
        }
        let address = self.address(engine, slot, namespace);
        let address = address.ok_or(Resume::Unknown)?;
        let user = identity.user.as_ref();
        // What is said to it from here on comes here.
        let taken = || recovery.is_at(name, address);
        let session = recovery.sessions.claim(&name, user, engine.now, taken);
        let session = session.map_err(|why| match why {
            Unclaimed::Unknown => Resume::Unknown,
            Unclaimed::Foreign => Resume::Foreign,
        })?;
        let taken_up = self.go_on(engine, slot, namespace, session, (since, begin), ticket);
        if taken_up.is_err() {
            // Nobody will ask for it again.
            recovery.is_gone(name, address);
            recovery.give_up(vec![name]);
        }
        taken_up
    }

    /// Goes on with a session, if nothing of what its client missed is gone.
    fn go_on(
        &mut self,
        engine: &mut Engine,
        slot: Slot,
        namespace: NamespaceId,
        mut session: Parked,
        (since, begin): (Option<u64>, u64),
        ticket: &Ticket,
    ) -> Result<Missed, Resume> {
        let fanout = self.shared.fanout.clone();
        let recovery = fanout.recovery.as_ref().ok_or(Resume::Unknown)?;
        let is_live = self
            .link(slot)
            .is_some_and(|link| link.encoding == Encoding::Live);
        let is_sure = since.is_some() || !is_live;
        let mut since = since.unwrap_or(begin);
        if is_live {
            since = since.max(self.heard_on_topics(&session, ticket));
        }
        if session.left > since {
            return Err(Resume::Left);
        }
        if since < recovery.missing() {
            return Err(Resume::Trimmed);
        }
        let mut missed = Missed::default();
        for (room, joined) in &session.rooms {
            let name = &room.key.name;
            let is_open = self.is_open(slot, namespace, name)?;
            let was_open = self.shared.members.grant(name, &session.identity).is_ok();
            if was_open && !is_open {
                missed.taken.push(name.clone());
            } else if !is_live || is_put_there(is_open, name, ticket) {
                self.join_again(engine, slot, namespace, room, *joined)?;
            }
        }
        // What it missed is decided by what its new token grants.
        session.taken.clone_from(&missed.taken);
        // All that is published from here on is in the mailbox, for whoever is in a room.
        let now = recovery.line.last();
        self.collect(namespace, &session, (since, now), is_live, &mut missed)?;
        let unsure = |event: &Arc<Kept>| event.id <= session.end;
        if !is_sure && missed.events.iter().any(unsure) {
            return Err(Resume::Unsure);
        }
        self.bound(&missed)?;
        let caught = Caught {
            told: now,
            has_topics: is_live,
        };
        if self.catching_up.push(slot, namespace, caught) {
            fanout.post(self.shard, Op::Line(LineOp::Reached { place: now }));
        }
        self.set_back(engine, slot, namespace, session, ticket.came_at);
        Ok(missed)
    }

    /// Whether a room is open to the new socket. Whoever belongs to the conversations of its
    /// session has been asked about before.
    fn is_open(&self, slot: Slot, namespace: NamespaceId, room: &str) -> Result<bool, Resume> {
        let socket = self.link(slot).and_then(|link| link.socket(namespace));
        let identity = &socket.ok_or(Resume::Unsure)?.identity;
        let open = self.shared.members.may_join_now(room, identity);
        open.map(|open| open.is_ok()).ok_or(Resume::Unsure)
    }

    /// Puts the socket into a room that it was in since a place.
    fn join_again(
        &mut self,
        engine: &mut Engine,
        slot: Slot,
        namespace: NamespaceId,
        room: &Room,
        since: u64,
    ) -> Result<(), Resume> {
        let joined = self
            .join(engine, slot, namespace, &room.key.name)
            .map_err(|_| Resume::Room)?;
        let is_kept = room.with_ring(|_| ()).is_some();
        if is_kept && joined.incarnation != room.incarnation {
            return Err(Resume::Room);
        }
        let socket = self.link(slot).and_then(|link| link.socket(namespace));
        if let Some(membership) = socket.and_then(|socket| socket.rooms.last()).copied() {
            self.rooms.set_since(membership, since);
        }
        Ok(())
    }

    /// Finds what the socket missed between two places, in its rooms and of what went to no
    /// room. Live clients ask for their topics' events themselves.
    fn collect(
        &self,
        namespace: NamespaceId,
        session: &Parked,
        (since, now): (u64, u64),
        is_live: bool,
        missed: &mut Missed,
    ) -> Result<(), Resume> {
        let rooms = session.rooms.iter().filter(|_| !is_live);
        for (room, joined) in rooms.filter(|(room, _)| !missed.taken.contains(&room.key.name)) {
            let after = since.max(*joined);
            let events = &mut missed.events;
            let found = room.with_ring(|ring| self.take(ring, session, (after, now), events));
            found.transpose()?;
        }
        if let Some(ring) = self
            .recovery()
            .and_then(|all| all.direct.find(&session.name))
        {
            let ring = ring.lock().unwrap_or_else(PoisonError::into_inner);
            self.take(&ring, session, (since, now), &mut missed.events)?;
        }
        let identity = &session.identity;
        let everybody = ScopeRef {
            namespace,
            tenant: identity.tenant_id().map(|tenant| &**tenant),
            user: None,
        };
        let user = identity.user_id().map(|user| ScopeRef {
            user: Some(user),
            ..everybody
        });
        let shelf = self.recovery().map(|recovery| &recovery.shelf);
        for scope in std::iter::once(everybody).chain(user) {
            if let Some(ring) = shelf.and_then(|shelf| shelf.find(scope)) {
                let ring = ring.lock().unwrap_or_else(PoisonError::into_inner);
                self.take(&ring, session, (since, now), &mut missed.events)?;
            }
        }
        missed.events.sort_by_key(|event| event.id);
        Ok(())
    }

    /// Adds what a session missed of a ring, or says that something of it is gone.
    fn take(
        &self,
        ring: &Ring,
        session: &Parked,
        (after, to): (u64, u64),
        missed: &mut Vec<Arc<Kept>>,
    ) -> Result<(), Resume> {
        if !ring.is_complete_after(after) {
            return Err(Resume::Trimmed);
        }
        let members = &self.shared.members;
        let in_doubt = Cell::new(false);
        let is_open = |room: &str| match members.grant(room, &session.identity) {
            // Only members are told of what is said in a conversation.
            Ok(Grant::Given | Grant::ToMembers(Kind::Joined)) => true,
            Ok(Grant::ToMembers(Kind::Invited)) => {
                let open = members.may_join_now(room, &session.identity);
                in_doubt.set(in_doubt.get() || open.is_none());
                open.is_some_and(|open| open.is_ok())
            }
            Err(_) => false,
        };
        let events = ring.between(after, to);
        let heard = events.filter(|event| session.hears(event, is_open));
        missed.extend(heard.cloned());
        match in_doubt.get() {
            true => Err(Resume::Unsure),
            false => Ok(()),
        }
    }

    /// What one resume may bring must fit what may wait for the connection.
    fn bound(&self, missed: &Missed) -> Result<(), Resume> {
        let max = MAX_REPLAY_BYTES.min(self.shared.config.send_buffer / 2);
        let bytes: usize = missed.events.iter().map(|event| event.message.size()).sum();
        let most = self.recovery().map_or(0, |recovery| recovery.max_replay);
        match missed.events.len() <= most && bytes <= max {
            true => Ok(()),
            false => Err(Resume::TooMuch),
        }
    }

    fn set_back(
        &mut self,
        engine: &Engine,
        slot: Slot,
        namespace: NamespaceId,
        session: Parked,
        came_at: Micros,
    ) {
        let shared = self.shared.clone();
        let Some(address) = self.address(engine, slot, namespace) else {
            return;
        };
        if let Some(data) = session.data {
            shared.data.put(address, data);
        }
        let socket = self
            .link_mut(slot)
            .and_then(|link| link.socket_mut(namespace));
        if let Some(socket) = socket {
            socket.set_back(Back {
                name: session.name,
                places: session.places,
                came_at,
            });
            if session.left > 0 {
                socket.set_left(session.left);
            }
        }
        self.note_back(engine, slot, namespace);
    }

    /// Tells a client what it has missed. What comes before the answer to a CONNECT,
    /// Socket.IO's client keeps, and its handlers get it when they see that the connection is
    /// there. Source: socket.io's tests of connection state recovery.
    pub(super) fn replay(
        &mut self,
        engine: &mut Engine,
        slot: Slot,
        namespace: NamespaceId,
        missed: &Missed,
    ) {
        let (Some(recovery), Some(encoding)) =
            (self.recovery(), self.link(slot).map(|link| link.encoding))
        else {
            return;
        };
        let name = self.namespace_name(namespace);
        for event in &missed.events {
            if encoding == Encoding::Live && live::is_reserved(&event.message.event) {
                continue;
            }
            let topic = event.only.as_ref().and_then(|only| only.topic.as_deref());
            let head = Head {
                namespace: name,
                topic,
                place: Some(Told {
                    place: recovery.line.place(event.id),
                    is_own: true,
                }),
                ..Head::default()
            };
            engine.send_with(slot, |out| {
                publication::push_event(encoding, &head, &event.message, out);
            });
        }
        self.metrics.replayed.add(missed.events.len() as u64);
        self.note_direct_again(engine, slot, namespace);
    }

    /// What is kept for a socket alone that has come back was sent, or has come before: it is so
    /// of all when the next has come.
    fn note_direct_again(&mut self, engine: &mut Engine, slot: Slot, namespace: NamespaceId) {
        if let Some((recovery, name)) = self.kept_name(engine, slot, namespace)
            && recovery.direct.find(&name).is_some()
        {
            let place = self.place_of(slot, namespace);
            self.note_direct(engine, slot, namespace, place);
        }
    }

    /// Tells a socket that has come back which rooms it is not in any more.
    pub(super) fn tell_taken(
        &mut self,
        engine: &mut Engine,
        slot: Slot,
        namespace: NamespaceId,
        missed: &Missed,
    ) {
        for room in &missed.taken {
            self.tell_forbidden(engine, slot, namespace, room);
        }
    }

    /// The live topics that a client has named, as if it had subscribed to each.
    pub(super) fn resume_topics(&mut self, engine: &mut Engine, slot: Slot, ticket: &Ticket) {
        for (topic, at) in &ticket.topics {
            self.subscribe(engine, slot, topic, None, at.clone());
        }
    }

    /// The place up to which a live client has received everything, as its topics tell: what
    /// was queued for it before an event that came has come as well.
    fn heard_on_topics(&self, session: &Parked, ticket: &Ticket) -> u64 {
        let fanout = &self.shared.fanout;
        let places = ticket.topics.iter().filter_map(|(topic, at)| {
            let (epoch, offset) = at.as_ref()?;
            let rooms = session.rooms.iter();
            let (room, joined) = rooms
                .into_iter()
                .find(|(room, _)| *room.key.name == **topic)?;
            if fanout.epoch(room.epoch()) != **epoch {
                return None;
            }
            let at = room.with_ring(|ring| ring.id_of(*offset)).flatten();
            Some((*joined).max(at.unwrap_or(0)))
        });
        // It cannot have received more than was sent.
        places.max().unwrap_or(0).min(session.end)
    }

    /// What a live client missed of a topic, if it can be told: the events with their offsets.
    pub(super) fn missed_of_topic(
        &self,
        room: &Room,
        (epoch, offset): (&str, u64),
        to: u64,
    ) -> Option<Vec<Arc<Kept>>> {
        if self.shared.fanout.epoch(room.epoch()) != epoch || offset > to {
            return None;
        }
        let most = self.recovery()?.max_replay;
        let max = MAX_REPLAY_BYTES.min(self.shared.config.send_buffer / 2);
        let found = room.with_ring(|ring| {
            let is_complete = ring.is_complete_after_offset(offset);
            is_complete.then(|| {
                let events = ring.between_offsets(offset, to);
                events.cloned().collect::<Vec<_>>()
            })
        })??;
        let bytes: usize = found.iter().map(|event| event.message.size()).sum();
        (found.len() <= most && bytes <= max).then_some(found)
    }

    /// Takes out what a live client has said itself and did not want to hear.
    fn without_own(
        &self,
        engine: &Engine,
        slot: Slot,
        mut missed: Vec<Arc<Kept>>,
    ) -> Vec<Arc<Kept>> {
        let here = self.address(engine, slot, NamespaceId::ROOT);
        missed.retain(|event| {
            let skip = event.only.as_ref().and_then(|only| only.skip);
            let is_own =
                |by: SocketAddress| Some(by) == here || self.is_own(slot, NamespaceId::ROOT, &by);
            !skip.is_some_and(is_own)
        });
        missed
    }

    /// Tells a live client what it missed of a topic.
    pub(super) fn replay_topic(
        &mut self,
        engine: &mut Engine,
        slot: Slot,
        topic: &str,
        missed: Vec<Arc<Kept>>,
    ) {
        let missed = self.without_own(engine, slot, missed);
        for event in &missed {
            let head = Head {
                topic: Some(topic),
                offset: Some(event.offset),
                ..Head::default()
            };
            engine.send_with(slot, |out| {
                publication::push_event(Encoding::Live, &head, &event.message, out);
            });
        }
        self.metrics.replayed.add(missed.len() as u64);
    }

    /// The rooms of some memberships by their names.
    fn room_list(&self, members: &[rooms::Membership]) -> Vec<Arc<str>> {
        let rooms = members.iter().filter_map(|member| self.rooms.room(*member));
        rooms.map(|room| room.key.name.clone()).collect()
    }
}

/// Whether the app has put a live client into a topic: it goes on with those it names itself,
/// and with no others that it may join.
fn is_put_there(is_open: bool, topic: &str, ticket: &Ticket) -> bool {
    let is_named = ticket.topics.iter().any(|(named, _)| **named == *topic);
    !is_named && !is_open
}

/// The newest of each key of a topic, as the `snapshot` of `subscribed`.
pub(super) fn snapshot(room: &Room, to: u64) -> String {
    let listed = room.with_ring(|ring| {
        let mut text = String::from("[");
        for event in ring.newest(to) {
            if text.len() > 1 {
                text.push(',');
            }
            push_snapshot(event, &mut text);
        }
        text.push(']');
        text
    });
    listed.unwrap_or_else(|| "[]".into())
}

fn push_snapshot(event: &Kept, out: &mut String) {
    let Message {
        event: name,
        args,
        attachments,
    } = &event.message;
    out.push_str(r#"{"key":"#);
    json::quote_into(event.key.as_deref().unwrap_or(""), out);
    out.push_str(r#","event":"#);
    json::quote_into(name, out);
    out.push_str(r#","data":"#);
    out.push_str(&publication::live_data(args, attachments));
    out.push_str(&format!(r#","offset":{}}}"#, event.offset));
}

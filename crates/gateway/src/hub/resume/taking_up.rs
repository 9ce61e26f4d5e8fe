//! Going on where a client was lost, or beginning afresh with the reason.

use std::sync::Arc;

use heartline_core::auth::Identity;
use heartline_core::line::ring::Kept;
use heartline_core::line::session::Unclaimed;
use heartline_core::namespaces::NamespaceId;
use heartline_core::rooms::{self, Room};
use heartline_engine::shard::engine::Engine;
use heartline_wire::id::Slot;
use heartline_wire::time::Micros;

use super::catching_up::Caught;
use super::missed::Missed;
use super::parking::Parked;
use super::ticket::{Since, Ticket};
use crate::hub::Hub;
use crate::hub::link::Back;
use crate::metrics::Resume;
use crate::op::{LineOp, Op};
use crate::publication::Encoding;

impl Hub {
    /// Lets a socket that has just been added go on where its client was lost; `None`, with
    /// the socket as new as before, if something would be missing.
    pub(in crate::hub) fn take_up(
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
        let (name, begin) = ticket.session?;
        let line = recovery.line.epoch();
        // Numbers of another line say nothing of this one.
        let begin = (begin.epoch == line).then_some(begin.id);
        let since = match ticket.since {
            Since::Garbled => return Err(Resume::BadOffset),
            Since::Place(place) if place.epoch == line => {
                if place.id > recovery.line.last() {
                    return Err(Resume::BadOffset);
                }
                // What is older than the session is of the one before: nothing has come.
                Some(place.id.max(begin.unwrap_or(0)))
            }
            // Numbers only grow, from line to line too: it has been in a later one since.
            Since::Place(place)
                if recovery.common.is_some() && begin.is_some_and(|begin| place.id > begin) =>
            {
                return Err(Resume::Trimmed);
            }
            // What is of an earlier line is of the session before, if this one began in this line.
            Since::Place(_) => Some(begin.ok_or(Resume::Trimmed)?),
            Since::Unsaid => None,
        };
        let begin = match begin.or(since) {
            Some(begin) => begin,
            // The topics of a live client tell of each by itself.
            None if !ticket.topics.is_empty() => 0,
            None => return Err(Resume::Trimmed),
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
        let sessions = &recovery.sessions;
        let session = sessions.claim(&name, user, ticket.ends, engine.now, taken);
        let session = session.map_err(|why| match why {
            Unclaimed::Unknown => Resume::Unknown,
            Unclaimed::Foreign => Resume::Foreign,
            Unclaimed::Ended => {
                sessions.give_up(&name);
                recovery.give_up(vec![name]);
                Resume::Unknown
            }
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
        let mut put = Vec::new();
        for (room, joined) in &session.rooms {
            let name = &room.key.name;
            let is_open = self.is_open(slot, namespace, name)?;
            let was_open = self.shared.members.grant(name, &session.identity).is_ok();
            if was_open && !is_open {
                missed.taken.push(name.clone());
            } else if !is_live || is_put_there(is_open, name, ticket) {
                let offset = self.join_again(engine, slot, namespace, room, *joined)?;
                if is_live {
                    put.push((room.clone(), *joined, offset));
                }
            }
        }
        // What it missed is decided by what its new token grants.
        session.taken.clone_from(&missed.taken);
        // All that is published from here on is in the mailbox, for whoever is in a room.
        let now = recovery.line.last();
        let socket = self.link(slot).and_then(|link| link.socket(namespace));
        let by = socket.ok_or(Resume::Unsure)?.identity.clone();
        let who = (&session, &*by);
        self.collect(namespace, who, (since, now), is_live, &mut missed)?;
        for (room, joined, offset) in put {
            let places = (since.max(joined), now);
            self.collect_put(&room, who, places, offset, &mut missed)?;
        }
        let unsure = |event: &Arc<Kept>| event.id <= session.end;
        if !is_sure && missed.events.iter().any(unsure) {
            return Err(Resume::Unsure);
        }
        if !self.may_bring(&missed.events) {
            return Err(Resume::TooMuch);
        }
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

    /// Puts the socket into a room that it was in since a place; the offset in the room behind
    /// which it hears by itself what comes.
    fn join_again(
        &mut self,
        engine: &mut Engine,
        slot: Slot,
        namespace: NamespaceId,
        room: &Room,
        since: u64,
    ) -> Result<u64, Resume> {
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
        Ok(joined.offset)
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
        let before = (&*session.identity, &*session.rooms);
        self.note_back(engine, slot, namespace, before);
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

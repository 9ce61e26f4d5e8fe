//! What a socket missed: found, bounded and told.

use std::cell::Cell;
use std::sync::{Arc, PoisonError};

use hashbrown::HashMap;
use heartline_core::auth::Identity;
use heartline_core::line::ring::{Kept, Ring};
use heartline_core::line::shelf::ScopeRef;
use heartline_core::namespaces::NamespaceId;
use heartline_core::rooms::Room;
use heartline_engine::shard::engine::Engine;
use heartline_wire::id::Slot;
use heartline_wire::live;

use super::parking::Parked;
use crate::hub::Hub;
use crate::metrics::Resume;
use crate::publication::{self, Encoding, Head, Told};

/// What one resume may weigh, bytes; and half of what may wait for a connection.
const MAX_REPLAY_BYTES: usize = 512 << 10;

/// What is told to a socket that has come back.
#[derive(Default)]
pub(in crate::hub) struct Missed {
    /// The events, by their places.
    pub(in crate::hub) events: Vec<Arc<Kept>>,
    /// The topics of some of them, by the same: those of rooms into which the app has put a live
    /// client.
    topics: HashMap<u64, Arc<str>>,
    /// Rooms that its new token does not grant.
    pub(super) taken: Vec<Arc<str>>,
}

impl Hub {
    /// Finds what the socket missed between two places, in its rooms and of what went to no
    /// room, as an identity that it has now. Live clients ask for their topics' events themselves.
    pub(super) fn collect(
        &self,
        namespace: NamespaceId,
        (session, by): (&Parked, &Identity),
        (since, now): (u64, u64),
        is_live: bool,
        missed: &mut Missed,
    ) -> Result<(), Resume> {
        let rooms = session.rooms.iter().filter(|_| !is_live);
        for (room, joined) in rooms.filter(|(room, _)| !missed.taken.contains(&room.key.name)) {
            let after = since.max(*joined);
            let events = &mut missed.events;
            let found = room.with_ring(|ring| self.take(ring, (session, by), (after, now), events));
            found.transpose()?;
        }
        if let Some(ring) = self
            .recovery()
            .and_then(|all| all.direct.find(&session.name))
        {
            let ring = ring.lock().unwrap_or_else(PoisonError::into_inner);
            self.take(&ring, (session, by), (since, now), &mut missed.events)?;
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
                self.take(&ring, (session, by), (since, now), &mut missed.events)?;
            }
        }
        missed.events.sort_by_key(|event| event.id);
        Ok(())
    }

    /// The same of a room into which the app had put a live client, and in which it is again: it
    /// hears by itself what comes behind an `offset`. Such events bring no place. Of those that
    /// were sent to it and that it may not have got, nobody knows; nor, should it be cut off once
    /// more, of those that are on their way to it now.
    pub(super) fn collect_put(
        &self,
        room: &Room,
        (session, by): (&Parked, &Identity),
        (after, now): (u64, u64),
        offset: u64,
        missed: &mut Missed,
    ) -> Result<(), Resume> {
        let mut found = Vec::new();
        let taken = room.with_ring(|ring| self.take(ring, (session, by), (after, now), &mut found));
        taken.transpose()?;
        let is_unsure = |event: &Arc<Kept>| event.id <= session.end || event.offset > offset;
        if found.iter().any(is_unsure) {
            return Err(Resume::Unsure);
        }
        let topics = found.iter().map(|event| (event.id, room.key.name.clone()));
        missed.topics.extend(topics);
        missed.events.append(&mut found);
        missed.events.sort_by_key(|event| event.id);
        Ok(())
    }

    /// Adds what a session missed of a ring, or says that something of it is gone. What is told
    /// instead of a room's events must have been open to it, and be so to the new identity.
    fn take(
        &self,
        ring: &Ring,
        (session, by): (&Parked, &Identity),
        (after, to): (u64, u64),
        missed: &mut Vec<Arc<Kept>>,
    ) -> Result<(), Resume> {
        if !ring.is_complete_after(after) {
            return Err(Resume::Trimmed);
        }
        let members = &self.shared.members;
        let in_doubt = Cell::new(false);
        let is_open = |room: &str| {
            let was = members.may_be_told_now(room, &session.identity);
            let is = members.may_join_now(room, by).map(|open| open.is_ok());
            match (was, is) {
                (Some(false), _) | (_, Some(false)) => false,
                (Some(true), Some(true)) => true,
                _ => {
                    in_doubt.set(true);
                    false
                }
            }
        };
        let events = ring.between(after, to);
        let heard = events.filter(|event| session.hears(event, is_open));
        missed.extend(heard.cloned());
        match in_doubt.get() {
            true => Err(Resume::Unsure),
            false => Ok(()),
        }
    }

    /// Whether what one resume is to bring fits what may wait for the connection.
    pub(super) fn may_bring(&self, events: &[Arc<Kept>]) -> bool {
        let max = MAX_REPLAY_BYTES.min(self.shared.config.send_buffer / 2);
        let bytes: usize = events.iter().map(|event| event.message.size()).sum();
        let most = self.recovery().map_or(0, |recovery| recovery.max_replay);
        events.len() <= most && bytes <= max
    }

    /// Tells a client what it has missed. What comes before the answer to a CONNECT,
    /// Socket.IO's client keeps, and its handlers get it when they see that the connection is
    /// there. Source: socket.io's tests of connection state recovery.
    pub(in crate::hub) fn replay(
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
            let put = missed.topics.get(&event.id).map(|topic| &**topic);
            let topic = event.only.as_ref().and_then(|only| only.topic.as_deref());
            let head = Head {
                namespace: name,
                topic: put.or(topic),
                offset: put.map(|_| event.offset),
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

    /// Tells a socket that has come back which rooms it is not in any more.
    pub(in crate::hub) fn tell_taken(
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
}

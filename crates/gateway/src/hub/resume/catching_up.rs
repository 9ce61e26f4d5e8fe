//! What is in the mailbox of sockets that have come back, and has come to them already.

use std::collections::VecDeque;

use hashbrown::HashMap;
use heartline_core::namespaces::NamespaceId;
use heartline_core::presence::SocketAddress;
use heartline_engine::shard::engine::Engine;
use heartline_wire::id::Slot;

use crate::hub::Hub;
use crate::op::{LineOp, Manner, Op, SelectedAction};
use crate::publication::{Publication, Told};

/// Sockets that have come back, and have got from the rings what is still in the mailbox.
#[derive(Default)]
pub(in crate::hub) struct CatchingUp {
    sockets: HashMap<(Slot, NamespaceId), Caught>,
    /// The same by their places.
    order: VecDeque<(u64, Slot, NamespaceId)>,
}

#[derive(Clone, Copy)]
pub(super) struct Caught {
    /// Up to this place.
    pub(super) told: u64,
    /// But not of its topics: they have places of their own.
    pub(super) has_topics: bool,
}

impl CatchingUp {
    /// One more socket that was told all up to a place; whether none was before.
    pub(super) fn push(&mut self, slot: Slot, namespace: NamespaceId, caught: Caught) -> bool {
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
    pub(in crate::hub) fn forget(&mut self, slot: Slot, namespace: NamespaceId) {
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

impl Hub {
    /// Notes the place in the line of what comes next.
    pub(in crate::hub) fn note_place(&mut self, op: &Op) {
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

    /// The place in the line up to which everything has been sent to a socket.
    pub(super) fn place_of(&self, slot: Slot, namespace: NamespaceId) -> u64 {
        let there = self.catching_up.find(slot, namespace);
        self.place.max(there.map_or(0, |there| there.told))
    }

    /// The place that comes with an event which is not kept: all before it has been sent.
    pub(in crate::hub) fn passing(&self, slot: Slot, namespace: NamespaceId) -> Option<Told> {
        let recovery = self.recovery()?;
        Some(Told {
            place: recovery.line.place(self.place_of(slot, namespace)),
            is_own: false,
        })
    }

    /// What was in the mailbox when sockets came back has been delivered.
    pub(in crate::hub) fn reached(&mut self, place: u64) {
        self.catching_up.reached(place);
    }

    /// Whether a socket has got a publication among what it missed.
    pub(in crate::hub) fn has_caught_up(
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
    pub(in crate::hub) fn was_told(&self, slot: Slot, namespace: NamespaceId, place: u64) -> bool {
        let there = self.catching_up.find(slot, namespace);
        there.is_some_and(|there| place <= there.told)
    }

    /// Gives a publication to a socket, if it has not got it among what it missed.
    pub(in crate::hub) fn give(
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
    pub(in crate::hub) fn is_lost<'a>(
        &self,
        engine: &Engine,
        by: Option<&'a SocketAddress>,
    ) -> Option<&'a SocketAddress> {
        self.recovery()?;
        by.filter(|by| self.locate(engine, by).is_none())
    }

    /// Whether a socket has said something itself, here or where it was before it was lost.
    pub(in crate::hub) fn is_own(
        &self,
        slot: Slot,
        namespace: NamespaceId,
        by: &SocketAddress,
    ) -> bool {
        let socket = self.link(slot).and_then(|link| link.socket(namespace));
        let back = socket.and_then(|socket| socket.back());
        back.is_some_and(|back| back.was_at(by))
    }
}

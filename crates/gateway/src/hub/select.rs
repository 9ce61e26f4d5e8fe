//! Sockets chosen by their rooms, and what becomes of them: the wishes of backends and of
//! Socket.IO servers on Node.

use std::sync::Arc;

use hashbrown::HashSet;
use heartline_core::namespaces::NamespaceId;
use heartline_core::presence::SocketAddress;
use heartline_core::rooms::Room;
use heartline_engine::shard::engine::Engine;
use heartline_wire::id::Slot;
use heartline_wire::live;
use heartline_wire::reason::Reason;

use super::Hub;
use super::link::SocketState;
use super::query::SLICE;
use super::rooms::SUBSCRIBE;
use super::tasks::TaskKind;
use crate::metrics::Outbound;
use crate::op::{ChoicePlace, Chosen, FIRST_CHOICE, Held, SelectedAction, Selection};
use crate::publication::Encoding;

impl Hub {
    /// Slots of a selection's sockets, as many as a turn has time for, and the place to go on
    /// from. They are told of from the end of each list: what moves into the place of who has
    /// left was told of then.
    fn some_chosen(
        &self,
        engine: &Engine,
        selection: &Selection,
        (room, before): ChoicePlace,
    ) -> (Vec<Slot>, Option<ChoicePlace>) {
        let namespace = selection.namespace;
        let slice = |all: usize| {
            let end = before.min(all);
            end.saturating_sub(SLICE as usize)..end
        };
        let (mut chosen, next): (Vec<Slot>, Option<ChoicePlace>) = if selection.all {
            let part = slice(self.links.len());
            let next = (part.start > 0).then_some((room, part.start));
            (part.map(|slot| Slot(slot as u32)).collect(), next)
        } else if let Some(there) = selection.among.rooms.get(room) {
            let members = self.rooms.members(there);
            let part = slice(members.len());
            let next = match part.start {
                0 => (room + 1, usize::MAX),
                start => (room, start),
            };
            (members[part].to_vec(), Some(next))
        } else {
            let named = self.named(engine, namespace, &selection.among);
            (named.into_iter().collect(), None)
        };
        let named = self.named(engine, namespace, &selection.except);
        let skip = selection.skip.as_ref();
        let lost = self.is_lost(engine, skip);
        let skip = skip.and_then(|socket| self.locate(engine, socket));
        let tenant = selection.tenant.as_ref();
        chosen.retain(|slot| {
            Some(*slot) != skip
                && !named.contains(slot)
                && !lost.is_some_and(|lost| self.is_own(*slot, namespace, lost))
                && self
                    .link(*slot)
                    .and_then(|link| link.socket(namespace))
                    .is_some_and(|socket| {
                        socket.identity.tenant_id() == tenant
                            && !self.is_in_any(socket, &selection.except.rooms)
                    })
        });
        (chosen, next)
    }

    /// The slots of all of a selection's sockets.
    fn chosen(&self, engine: &Engine, selection: &Selection) -> Vec<Slot> {
        let (mut chosen, mut place) = (Vec::new(), Some(FIRST_CHOICE));
        while let Some(from) = place {
            let (some, next) = self.some_chosen(engine, selection, from);
            chosen.extend(some);
            place = next;
        }
        if !selection.all {
            chosen.sort_unstable();
            chosen.dedup();
        }
        chosen
    }

    /// Some of a selection's sockets, and the place to go on from.
    pub(super) fn choose(
        &self,
        engine: &Engine,
        selection: &Selection,
        from: ChoicePlace,
    ) -> (Vec<SocketAddress>, Option<ChoicePlace>) {
        let (slots, next) = self.some_chosen(engine, selection, from);
        let addresses = slots
            .into_iter()
            .filter_map(|slot| self.address(engine, slot, selection.namespace));
        (addresses.collect(), next)
    }

    pub(super) fn select(
        &mut self,
        engine: &mut Engine,
        selection: &Selection,
        action: &SelectedAction,
    ) {
        let namespace = selection.namespace;
        let mut held: Vec<Held> = match action {
            SelectedAction::Join(rooms) => vec![None; rooms.len()],
            _ => Vec::new(),
        };
        for slot in self.chosen(engine, selection) {
            match action {
                SelectedAction::Send(publication) => {
                    let encoding = self.link(slot).map(|link| link.encoding);
                    // On Node any name may be one of the live protocol's own types.
                    let is_live = live::is_reserved(&publication.message.event);
                    let fits = !is_live || encoding != Some(Encoding::Live);
                    if fits && self.give(engine, slot, namespace, publication) {
                        self.metrics.deliveries.add(1);
                        self.metrics.outbound(Outbound::Event).add(1);
                    }
                }
                SelectedAction::Join(rooms) => {
                    for (room, held) in rooms.iter().zip(&mut held) {
                        // What is no room's name, or one too many, is not joined.
                        if heartline_core::rooms::is_valid_name(room)
                            && let Ok(joined) = self.join(engine, slot, namespace, room)
                        {
                            self.note_joined(engine, slot, namespace, room);
                            *held = joined.held.or(held.take());
                        }
                    }
                }
                SelectedAction::Leave(rooms) => {
                    for room in rooms.iter() {
                        self.leave(engine, slot, namespace, room);
                    }
                }
                SelectedAction::Disconnect => {
                    self.end_socket(engine, slot, namespace, Reason::Kicked)
                }
            }
        }
        // Nobody waits for it, and without it nothing is heard in a room whose publications are kept.
        for ready in held.into_iter().filter_map(|held| held?.ready()) {
            self.start(engine, ready, TaskKind::Detached, SUBSCRIBE);
        }
    }

    /// The slots of the sockets that are named themselves.
    fn named(&self, engine: &Engine, namespace: NamespaceId, places: &Chosen) -> HashSet<Slot> {
        let here = places
            .sockets
            .iter()
            .filter(|socket| socket.namespace() == namespace && socket.0.conn.shard == self.shard);
        here.filter_map(|socket| self.locate(engine, socket))
            .collect()
    }

    fn is_in_any(&self, socket: &SocketState, rooms: &[Arc<Room>]) -> bool {
        !rooms.is_empty()
            && socket
                .rooms
                .iter()
                .filter_map(|member| self.rooms.room(*member))
                .any(|there| rooms.iter().any(|room| Arc::ptr_eq(room, there)))
    }
}

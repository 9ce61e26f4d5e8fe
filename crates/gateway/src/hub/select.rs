//! Sockets chosen by their rooms, and what becomes of them: the wishes of backends and of
//! Socket.IO servers on Node.

use std::sync::Arc;

use hashbrown::HashSet;
use heartline_core::namespaces::NamespaceId;
use heartline_core::presence::SocketAddress;
use heartline_engine::shard::engine::Engine;
use heartline_wire::id::Slot;
use heartline_wire::live;
use heartline_wire::reason::Reason;

use super::Hub;
use crate::metrics::Outbound;
use crate::op::{Chosen, SelectedAction, Selection};
use crate::publication::Encoding;

impl Hub {
    /// The slots of a selection's sockets.
    fn chosen(&self, engine: &Engine, selection: &Selection) -> Vec<Slot> {
        let namespace = selection.namespace;
        let except = self.slots_of(engine, namespace, &selection.except);
        let mut chosen: Vec<Slot> = match selection.all {
            true => (0..self.links.len() as u32).map(Slot).collect(),
            false => self
                .slots_of(engine, namespace, &selection.among)
                .into_iter()
                .collect(),
        };
        let skip = selection
            .skip
            .and_then(|socket| self.locate(engine, &socket));
        let tenant = selection.tenant.as_ref();
        chosen.retain(|slot| {
            Some(*slot) != skip
                && !except.contains(slot)
                && self.is_of_tenant(*slot, namespace, tenant)
        });
        chosen
    }

    /// A selection's sockets.
    pub(super) fn choose(&self, engine: &Engine, selection: &Selection) -> Vec<SocketAddress> {
        let slots = self.chosen(engine, selection).into_iter();
        slots
            .filter_map(|slot| self.address(engine, slot, selection.namespace))
            .collect()
    }

    pub(super) fn select(
        &mut self,
        engine: &mut Engine,
        selection: &Selection,
        action: &SelectedAction,
    ) {
        let namespace = selection.namespace;
        for slot in self.chosen(engine, selection) {
            match action {
                SelectedAction::Send(publication) => {
                    let encoding = self.link(slot).map(|link| link.encoding);
                    // On Node any name may be one of the live protocol's own types.
                    let is_live = live::is_reserved(&publication.message.event);
                    if let Some(encoding) =
                        encoding.filter(|encoding| !is_live || *encoding != Encoding::Live)
                    {
                        engine.send(slot, publication.frames(encoding));
                        self.metrics.deliveries.add(1);
                        self.metrics.outbound(Outbound::Event).add(1);
                    }
                }
                SelectedAction::Join(rooms) => {
                    for room in rooms.iter() {
                        // What is no room's name, or one too many, is not joined.
                        if heartline_core::rooms::is_valid_name(room) {
                            let _ = self.join(engine, slot, namespace, room);
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
    }

    fn slots_of(&self, engine: &Engine, namespace: NamespaceId, places: &Chosen) -> HashSet<Slot> {
        let mut slots = HashSet::new();
        for room in &places.rooms {
            slots.extend(self.rooms.members(room));
        }
        for socket in &places.sockets {
            if socket.namespace() == namespace && socket.0.conn.shard == self.shard {
                slots.extend(self.locate(engine, socket));
            }
        }
        slots
    }

    fn is_of_tenant(&self, slot: Slot, namespace: NamespaceId, tenant: Option<&Arc<str>>) -> bool {
        self.link(slot)
            .and_then(|link| link.socket(namespace))
            .is_some_and(|socket| socket.identity.tenant_id() == tenant)
    }
}

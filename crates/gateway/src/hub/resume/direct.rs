//! What is kept for one socket alone, until it has come.

use heartline_core::namespaces::NamespaceId;
use heartline_core::presence::SocketAddress;
use heartline_engine::shard::engine::Engine;
use heartline_wire::id::Slot;
use heartline_wire::time::Micros;

use crate::hub::Hub;
use crate::recovery::Recovery;

impl Hub {
    /// The id under which a socket is known, where something is kept.
    pub(super) fn kept_name(
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

    /// A socket is sent something that is kept for it alone until it has come.
    pub(in crate::hub) fn note_direct(
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
    pub(in crate::hub) fn direct_missed(&self, to: &SocketAddress) {
        let link = self.link(to.0.conn.slot);
        let socket = link.and_then(|link| link.socket(to.namespace()));
        // One whose connection ends is lost or gone in a moment.
        let is_ending = socket.is_some_and(|socket| socket.secret == to.0.secret);
        if let Some(recovery) = self.recovery().filter(|_| !is_ending) {
            recovery.may_have_ended(*to);
        }
    }

    /// All that was sent to a connection before a moment has come.
    pub(in crate::hub) fn direct_received(
        &mut self,
        engine: &mut Engine,
        slot: Slot,
        before: Micros,
    ) {
        let Some(link) = self.link_mut(slot) else {
            return;
        };
        let sockets = link.sockets.iter_mut();
        let received: Vec<_> = sockets
            .map(|socket| (socket.namespace, socket.direct_received(before)))
            .collect();
        for (namespace, received) in received {
            if received.is_proved {
                self.remember(engine, slot, namespace);
            }
            if let (Some(id), Some((recovery, name))) =
                (received.last, self.kept_name(engine, slot, namespace))
            {
                recovery.direct.received(&name, id);
                if let Some(common) = &recovery.common {
                    common.received(name, id);
                }
            }
            if received.is_more {
                engine.want_receipt(slot);
            }
        }
    }

    /// What is kept for a socket alone that has come back was sent, or has come before: it is so
    /// of all when the next has come.
    pub(super) fn note_direct_again(
        &mut self,
        engine: &mut Engine,
        slot: Slot,
        namespace: NamespaceId,
    ) {
        if let Some((recovery, name)) = self.kept_name(engine, slot, namespace)
            && recovery.direct.find(&name).is_some()
        {
            let place = self.place_of(slot, namespace);
            self.note_direct(engine, slot, namespace, place);
        }
    }
}

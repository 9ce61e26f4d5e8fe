//! The sweep: what the timers missed.
//!
//! It goes through all connections, everybody who is online and all that apps remember. A shard
//! does that in slices, and what clients want comes between two of them.

use std::time::Duration;

use heartline_core::presence::{Presence, SocketAddress};
use heartline_engine::shard::engine::Engine;
use heartline_wire::id::Slot;
use heartline_wire::reason::Reason;

use super::Hub;
use super::query::SLICE;
use crate::data::AllData;
use crate::op::SweepPlace;

impl Hub {
    /// Finds some of what the timers missed, from a place on; how many entries it removed, and
    /// the place to go on from.
    pub(super) fn sweep(
        &mut self,
        engine: &mut Engine,
        from: SweepPlace,
    ) -> (usize, Option<SweepPlace>) {
        match from {
            SweepPlace::Slot(from) => {
                let (removed, next) = self.sweep_slots(engine, from);
                let next = next.map_or(SweepPlace::Users(0), SweepPlace::Slot);
                (removed, Some(next))
            }
            SweepPlace::Users(part) => {
                let (removed, next) = self.sweep_users(engine, part);
                let next = next.map_or(SweepPlace::Data(0), SweepPlace::Users);
                (removed, Some(next))
            }
            SweepPlace::Data(part) => (0, self.sweep_data(engine, part).map(SweepPlace::Data)),
        }
    }

    /// Ends connections of a slice of the slots of which nothing was heard; how many, and the slot
    /// to go on from.
    fn sweep_slots(&self, engine: &mut Engine, from: Slot) -> (usize, Option<Slot>) {
        let stale_after = self.shared.config.heartbeat.stale_after();
        let all = self.links.len() as u32;
        let end = from.0.saturating_add(SLICE).min(all);
        let mut removed = 0;
        for slot in (from.0..end).map(Slot) {
            let Some(conn) = engine.conn(slot) else {
                continue;
            };
            // Silence proves something only as far as was listened: not while we do not read,
            // and not over a time in which the process stood still.
            let idle = engine.heard_until - conn.last_seen.max(engine.punctual_since);
            if idle > stale_after && !conn.paused {
                tracing::info!(
                    user_id =
                        self.link(slot)
                            .and_then(|link| link.sockets.first()?.identity.user_id()),
                    idle_ms = idle.as_millis() as u64,
                    "the sweep removed a stale connection"
                );
                engine.close(slot, Reason::StaleSweep);
                removed += 1;
            }
        }
        (removed, (end < all).then_some(Slot(end)))
    }

    /// Takes out entries of who is online whose sockets are not there, of a part of the users or of
    /// several that are small; how many, and the part to go on from.
    fn sweep_users(&self, engine: &Engine, from: usize) -> (usize, Option<usize>) {
        let backplane = &self.shared.fanout.backplane;
        let (mut removed, mut looked_at, mut part) = (0, 0, from);
        while part < Presence::parts() && looked_at < SLICE as usize {
            let alive = |socket: &SocketAddress| self.is_alive(engine, socket);
            let (orphans, users) = backplane.local().orphans_in(part, self.shard, alive);
            for (user, socket) in orphans {
                tracing::warn!(
                    user_id = &*user.user_id,
                    socket_id = socket.0.encode(),
                    "the sweep removed an orphaned entry"
                );
                backplane.disconnect(&user, socket, Duration::ZERO);
                removed += 1;
            }
            looked_at += users;
            part += 1;
        }
        (removed, (part < Presence::parts()).then_some(part))
    }

    /// Drops what handlers that were late have left for sockets that are not there, in the same way.
    fn sweep_data(&self, engine: &Engine, from: usize) -> Option<usize> {
        let (mut looked_at, mut part) = (0, from);
        while part < AllData::parts() && looked_at < SLICE as usize {
            looked_at += self.shared.data.forget_in(part, |socket| {
                socket.0.conn.shard == self.shard && !self.is_alive(engine, socket)
            });
            part += 1;
        }
        (part < AllData::parts()).then_some(part)
    }

    /// Whether a socket is there, or on its way in.
    fn is_alive(&self, engine: &Engine, address: &SocketAddress) -> bool {
        let joining = engine.find(address.0.conn).and_then(|slot| {
            let joining = self.link(slot)?.joining.as_ref();
            joining.map(|joining| joining.secret)
        });
        self.locate(engine, address).is_some() || joining == Some(address.0.secret)
    }
}

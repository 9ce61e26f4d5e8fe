//! The sweep: what the timers missed.

use std::sync::Arc;

use std::time::Duration;

use heartline_core::presence::SocketAddress;
use heartline_engine::shard::engine::Engine;
use heartline_wire::reason::Reason;

use super::Hub;

impl Hub {
    /// Finds what the timers missed; how many entries it removed.
    pub(super) fn sweep(&mut self, engine: &mut Engine) -> usize {
        let stale_after = self.shared.config.heartbeat.stale_after();
        let mut removed = 0;
        for slot in engine.open_slots() {
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
        let shared: Arc<_> = self.shared.clone();
        let alive = |address: &SocketAddress| {
            let joining = engine.find(address.0.conn).and_then(|slot| {
                self.link(slot)?
                    .joining
                    .as_ref()
                    .map(|joining| joining.secret)
            });
            self.locate(engine, address).is_some() || joining == Some(address.0.secret)
        };
        for (user, socket) in shared.fanout.backplane.local().orphans(self.shard, alive) {
            tracing::warn!(
                user_id = &*user.user_id,
                socket_id = socket.0.encode(),
                "the sweep removed an orphaned entry"
            );
            shared
                .fanout
                .backplane
                .disconnect(&user, socket, Duration::ZERO);
            removed += 1;
        }
        let shard = self.shard;
        shared
            .data
            .forget(|socket| socket.0.conn.shard == shard && !alive(socket));
        removed
    }
}

//! The end of a node, told on one page.
//!
//! What happens, in this order, and who sees what of it:
//!
//! 1. **The signal.** `heartline serve` gets SIGTERM or SIGINT, or `POST /v1/drain`
//!    comes; an embedding program calls [`Gateway::drain`](crate::Gateway::drain). The flag
//!    `draining` goes up and never down. A second signal ends the process at once.
//! 2. **The doors close** (`engine/http.rs`). The public listener accepts nobody new; while
//!    polling sessions are left it stays for their requests, and everybody else gets 503.
//!    `/readyz` says 503, so a load balancer takes the node out. A handshake that was under
//!    way when the flag went up is closed as soon as its connection opens; a CONNECT to one
//!    more namespace is refused with `DRAINING`, and closes a connection that is in none.
//!    Operators' API and metrics go on to the end.
//! 3. **Everybody is told** (`drain`, `let_go`). Each socket hears `server:drain
//!    { reconnectInMs }`, with a time of its own that is spread at random over 2 to 60
//!    seconds, longer the more connections there are. With `server.drain_spread` this
//!    happens to one connection after the other, in random order over that time.
//! 4. **Work is finished.** A connection that has handlers at work stays until the last of
//!    them has answered, and is then let go (`finish`); so does one that has to do something when
//!    what it has said before is heard. Nothing new is read from it that would start
//!    another: its client has been told.
//! 5. **The close.** WebSockets get 1001 with the reason `drained`, live clients the same,
//!    polling clients their last events in one response, and after it their session is
//!    unknown: some take the close packet for a goodbye for good, and would not come back.
//!    The socket's rooms and presence are given back as at every end (`ends`), disconnect
//!    handlers run, and the reason `drained` is in the log, the metrics and the timeline.
//!    Its user is not announced as offline before the time at which it was told to come
//!    back and five seconds more (`back_by`), here or in the cluster.
//! 6. **Other nodes** hear of each departure through the backplane; the node's lease is
//!    given back last ([`Backplane::close`](heartline_core::backplane::Backplane::close)), so nobody
//!    has to sweep after it, and the store keeps what it has accepted.
//! 7. **The time is up** (`force`): `server.drain_timeout` after the last was let go,
//!    whoever is still there is closed as in 5 without waiting for handlers. The process
//!    exits with 0, at the latest a second after that.
//!
//! `POST /v1/nodes/ID/shed` takes some connections, at random, through 3 to 6 while the node
//! stays (`shed`): after a rolling restart, when one node has them all.

use std::time::Duration;

use heartline_core::message::Message;
use heartline_core::namespaces::NamespaceId;
use heartline_engine::shard::engine::Engine;
use heartline_wire::id::{ConnId, Slot};
use heartline_wire::reason::Reason;
use heartline_wire::time::Micros;

use super::Hub;
use crate::op::Op;

/// How much later than it was told a client may come back without its user having been away.
const LATE: Duration = Duration::from_secs(5);

impl Hub {
    /// Begins to let everybody go.
    pub(super) fn drain(&mut self, engine: &mut Engine, spread: Duration) {
        let all = engine.open_slots();
        self.let_go_over(engine, &all, spread);
    }

    /// Lets `count` connections go of the `of` that this shard and those behind it have, whichever,
    /// each at some time within `spread`: this shard its part, the others what is left. The node
    /// stays.
    pub(super) fn shed(&mut self, engine: &mut Engine, count: usize, of: usize, spread: Duration) {
        let mut staying = engine.open_slots();
        staying.retain(|&slot| {
            let link = self.link(slot);
            link.is_some_and(|link| !link.leaving && link.drain_at() == Micros::MAX)
        });
        let behind = of.saturating_sub(staying.len());
        let part = (count * staying.len()).checked_div(of).unwrap_or(0);
        let next = self.shard + 1;
        let is_last = usize::from(next) >= self.shared.fanout.shards.len();
        let wanted = match is_last {
            true => count,
            false => part.max(count.saturating_sub(behind)),
        };
        let wanted = wanted.min(staying.len());
        if !is_last {
            let (count, of) = (count - wanted, behind);
            self.shared
                .fanout
                .post(next, Op::Shed { count, of, spread });
        }
        for index in 0..wanted {
            let others = (staying.len() - index) as u64;
            staying.swap(index, index + engine.random_below(others) as usize);
        }
        self.let_go_over(engine, &staying[..wanted], spread);
    }

    fn let_go_over(&mut self, engine: &mut Engine, slots: &[Slot], spread: Duration) {
        for &slot in slots {
            if spread.is_zero() {
                self.let_go(engine, slot);
                continue;
            }
            let at = engine.now + engine.random_time(spread);
            if let Some(link) = self.link_mut(slot) {
                link.rare().drain_at = Some(at);
            }
            self.rearm(engine, slot);
        }
    }

    /// Tells a client when to come back, and lets it go as soon as its
    /// handlers are done.
    pub(super) fn let_go(&mut self, engine: &mut Engine, slot: Slot) {
        let back_in = 250 + engine.random_below(self.reconnect_spread_ms());
        let data = format!(r#"{{"reconnectInMs":{back_in}}}"#);
        let back_by = engine.now + Duration::from_millis(back_in) + LATE;
        let Some(link) = self.link_mut(slot) else {
            return;
        };
        link.rare().drain_at = None;
        link.leaving = true;
        link.rare().back_by = back_by;
        let busy = link.is_at_work();
        let namespaces: Vec<NamespaceId> =
            link.sockets.iter().map(|socket| socket.namespace).collect();
        for namespace in namespaces {
            self.emit_here(
                engine,
                slot,
                namespace,
                &Message::new("server:drain", &data),
            );
        }
        if busy {
            self.rearm(engine, slot);
        } else {
            engine.close(slot, Reason::Drained);
        }
    }

    /// A connection that was only kept for its work can go.
    pub(super) fn finish(&mut self, engine: &mut Engine, conn: ConnId) {
        if let Some(slot) = engine.find(conn) {
            engine.close(slot, Reason::Drained);
        }
    }

    /// The drain's time is up.
    pub(super) fn force(&mut self, engine: &mut Engine) {
        for slot in engine.open_slots() {
            engine.close(slot, Reason::Drained);
        }
        engine.flush_all();
        engine.force_closing();
    }

    /// Over how many milliseconds drained clients should come back: one for
    /// each connection, between 2 s and 60 s.
    fn reconnect_spread_ms(&self) -> u64 {
        (self.shared.slots.total() as u64).clamp(2_000, 60_000)
    }
}

//! What takes effect at once waits for what its connection has put into the line before, which
//! takes effect when it comes back.

use std::sync::Arc;
use std::time::Duration;

use heartline_core::auth::BoxFuture;
use heartline_core::presence::SocketAddress;
use heartline_engine::shard::engine::Engine;
use heartline_wire::id::{ConnId, Slot};
use tokio::sync::oneshot;

use super::Hub;
use super::tasks::TaskKind;
use crate::in_order::{Found, Later, Watch};
use crate::op::Op;

/// How long the line may take at most: longer than it takes to know that it is away.
const LINE_TIME: Duration = Duration::from_secs(8);

/// Whose rooms are changed.
fn whose(op: &Op) -> Option<&SocketAddress> {
    match op {
        Op::Join { to, .. }
        | Op::TryJoin { to, .. }
        | Op::Leave { to, .. }
        | Op::Unsubscribe { to, .. }
        | Op::Refresh { to, .. } => Some(to),
        _ => None,
    }
}

impl Hub {
    /// A step of a handler of this connection begins.
    pub(super) fn begin_step(&self, slot: Option<Slot>) -> Watch {
        let link = slot.and_then(|slot| self.link(slot));
        let (said, later) = link.map_or((0, None), |link| link.said());
        Watch::begin(said, later.cloned())
    }

    /// It is over: what has come to wait in it goes on in its turn. Whether a change of rooms was
    /// asked for.
    pub(super) fn end_step(&mut self, engine: &mut Engine, conn: ConnId, step: Watch) -> bool {
        let Found { asked, said, later } = step.end();
        let slot = engine.find(conn);
        let link = slot.and_then(|slot| self.link_mut(slot));
        let is_new = match link {
            Some(link) => {
                let (before, waiting) = link.said();
                let is_new = later.is_some() && waiting.is_none();
                if said > before {
                    link.rare().said = said;
                }
                is_new
            }
            None => true,
        };
        if let Some(later) = later.filter(|_| is_new) {
            self.wait_for_line(engine, conn, said, later);
        }
        asked
    }

    /// What a connection has to do later is done when what it has said has come back. It is not
    /// read until then.
    fn wait_for_line(&mut self, engine: &mut Engine, conn: ConnId, said: u64, later: Arc<Later>) {
        if let Some(slot) = engine.find(conn) {
            if let Some(link) = self.link_mut(slot) {
                link.rare().later = Some(later.clone());
            }
            self.pause_input(engine, slot);
        }
        let common = self.shared.fanout.common();
        let back = common.and_then(|(_, common)| common.back(said));
        let work = async move {
            if let Some(back) = back {
                back.await;
            }
        };
        self.start(engine, work, TaskKind::Later { conn, later }, LINE_TIME);
    }

    /// It has come back, or is not waited for any more.
    pub(super) fn line_came(&mut self, engine: &mut Engine, conn: ConnId, later: &Arc<Later>) {
        let slot = engine.find(conn);
        if let Some(link) = slot.and_then(|slot| self.link_mut(slot)) {
            link.rare().later = None;
        }
        let step = self.begin_step(slot);
        later.done();
        self.end_step(engine, conn, step);
        if let Some(slot) = slot {
            self.release_input(engine, slot);
        }
    }

    /// What a connection has to do behind all that it has said; `None`: nothing of it is on its
    /// way.
    fn later(&mut self, engine: &mut Engine, slot: Slot) -> Option<Arc<Later>> {
        let (said, later) = self.link(slot)?.said();
        if let Some(later) = later {
            return Some(later.clone());
        }
        let (_, common) = self.shared.fanout.common()?;
        if said == 0 || common.back(said).is_none() {
            return None;
        }
        let (conn, later) = (engine.id(slot)?, Arc::new(Later::default()));
        self.wait_for_line(engine, conn, said, later.clone());
        Some(later)
    }

    /// A change of a socket's rooms, if it is its turn; else it comes again.
    pub(super) fn in_its_turn(&mut self, engine: &mut Engine, op: Op) -> Option<Op> {
        let slot = whose(&op).and_then(|to| self.locate(engine, to));
        let Some(later) = slot.and_then(|slot| self.later(engine, slot)) else {
            return Some(op);
        };
        let (shared, shard) = (self.shared.clone(), self.shard);
        later.act(move || shared.fanout.post(shard, op));
        None
    }

    /// Resolves when all that a connection has said before has come back. `None`: it has.
    pub(super) fn turn(&mut self, engine: &mut Engine, slot: Slot) -> Option<BoxFuture<()>> {
        let later = self.later(engine, slot)?;
        let (reply, turn) = oneshot::channel();
        later.act(move || {
            // An error: nobody waits any more.
            let _ = reply.send(());
        });
        Some(Box::pin(async move { drop(turn.await) }))
    }
}

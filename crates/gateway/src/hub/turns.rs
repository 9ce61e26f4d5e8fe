//! What takes effect at once waits for what its connection has put into the line before, which
//! takes effect when it comes back, and for what it has sent to the store.

use std::sync::Arc;
use std::time::Duration;

use heartline_core::presence::SocketAddress;
use heartline_engine::shard::engine::Engine;
use heartline_wire::id::{ConnId, Slot};

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
    /// A step of a handler of this connection begins; one that stores something waits for nothing.
    pub(super) fn begin_step(&self, slot: Option<Slot>, stores: bool) -> Watch {
        let link = slot.and_then(|slot| self.link(slot));
        let (said, later) = link.map_or((0, None), |link| link.said());
        match stores {
            true => Watch::begin_at_once(said),
            false => Watch::begin(
                said,
                link.is_some_and(|link| link.sends > 0),
                later.cloned(),
            ),
        }
    }

    /// It is over: what has come to wait in it goes on in its turn. Whether a change of rooms was
    /// asked for, and whether something is stored.
    pub(super) fn end_step(
        &mut self,
        engine: &mut Engine,
        conn: ConnId,
        step: Watch,
    ) -> (bool, bool) {
        let found = step.end();
        let Found { said, later, .. } = found;
        let ended = (found.asked, found.stores);
        if said == 0 && later.is_none() {
            return ended;
        }
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
        ended
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
        self.go_on_when_back(engine, conn, said, later);
    }

    fn go_on_when_back(&mut self, engine: &mut Engine, conn: ConnId, said: u64, later: Arc<Later>) {
        let common = self.shared.fanout.common();
        let back = common.and_then(|(_, common)| common.back(said));
        let work = async move {
            if let Some(back) = back {
                back.await;
            }
        };
        self.start(engine, work, TaskKind::Later { conn, later }, LINE_TIME);
    }

    /// What a connection has said has come back; what it has to do later is done, unless it waits
    /// for the store.
    pub(super) fn line_came(&mut self, engine: &mut Engine, conn: ConnId, later: &Arc<Later>) {
        let link = engine.find(conn).and_then(|slot| self.link_mut(slot));
        match link.filter(|link| link.sends > 0) {
            Some(link) => link.rare().later_is_due = true,
            None => self.do_later(engine, conn, later, false),
        }
    }

    /// What a connection has to do later is done, if it has not to wait again; if it is late, in
    /// any case.
    pub(super) fn do_later(
        &mut self,
        engine: &mut Engine,
        conn: ConnId,
        later: &Arc<Later>,
        is_late: bool,
    ) {
        let slot = engine.find(conn);
        let step = self.begin_step(slot, true);
        let common = self.shared.fanout.common();
        let is_heard = |said| common.is_none_or(|(_, common)| common.back(said).is_none());
        let is_done = later.go_on(|said| is_late || is_heard(said));
        let Found { said, .. } = step.end();
        if let Some(link) = slot.and_then(|slot| self.link_mut(slot)) {
            let rare = link.rare();
            // What is late, nothing more waits for.
            (rare.said, rare.later_is_due) = (if is_late { 0 } else { said }, false);
            if is_done {
                rare.later = None;
            }
        }
        match (is_done, slot) {
            (false, _) => self.go_on_when_back(engine, conn, said, later.clone()),
            (true, Some(slot)) => self.release_input(engine, slot),
            (true, None) => {}
        }
    }

    /// A handler of a connection that has stored something has ended: others are told of it.
    pub(super) fn has_stored(&mut self, engine: &mut Engine, conn: ConnId, slot: Slot) {
        let common = self.shared.fanout.common();
        // Whichever thread has told them.
        let last = common.map_or(0, |(_, common)| common.last_said());
        let Some(link) = self.link_mut(slot) else {
            return;
        };
        link.sends = link.sends.saturating_sub(1);
        let (said, later) = link.said();
        let later = later.filter(|_| link.sends == 0).cloned();
        if last > said {
            link.rare().said = last;
        }
        if let Some(later) = later
            && std::mem::take(&mut link.rare().later_is_due)
        {
            self.go_on_when_back(engine, conn, last, later);
        }
    }

    /// What a connection has to do behind all that it has said; `None`: nothing of it is on its
    /// way.
    fn later(&mut self, engine: &mut Engine, slot: Slot) -> Option<Arc<Later>> {
        let (said, later) = self.link(slot)?.said();
        if let Some(later) = later {
            return Some(later.clone());
        }
        let common = self.shared.fanout.common();
        let back = common.and_then(|(_, common)| common.back(said));
        if self.link(slot)?.sends == 0 && (said == 0 || back.is_none()) {
            return None;
        }
        let (conn, later) = (engine.id(slot)?, Arc::new(Later::default()));
        self.wait_for_line(engine, conn, said, later.clone());
        Some(later)
    }

    /// What is asked of this shard, unless it is a change of a socket's rooms whose turn it is not:
    /// that comes again then, as [`Op::Due`].
    pub(super) fn in_its_turn(&mut self, engine: &mut Engine, op: Op) -> Option<Op> {
        if let Op::Due(op) = op {
            return Some(*op);
        }
        let Some(slot) = whose(&op).and_then(|to| self.locate(engine, to)) else {
            return Some(op);
        };
        let (shared, shard) = (self.shared.clone(), self.shard);
        let come_again = move |op| shared.fanout.post(shard, Op::Due(Box::new(op)));
        if let Some(later) = self.later(engine, slot) {
            later.act(move || come_again(op));
            return None;
        }
        if self.link(slot).is_some_and(|link| link.said().0 > 0) {
            // What its connection has said has come back, and may be behind this here.
            come_again(op);
            return None;
        }
        Some(op)
    }

    /// What an ended connection has still to do is done, unless something does it that has not
    /// ended with it: what it has published was taken.
    pub(super) fn do_what_is_left(&mut self, slot: Slot) {
        let Some(link) = self.link_mut(slot) else {
            return;
        };
        let later = link.said().1.cloned();
        if let Some(later) = later
            && std::mem::take(&mut link.rare().later_is_due)
        {
            later.go_on(|_| true);
        }
    }

    /// Has this shard do something when all that a connection has said before is heard and stored.
    /// False: it is, and nothing is done.
    pub(super) fn do_in_turn(
        &mut self,
        engine: &mut Engine,
        slot: Slot,
        op: impl FnOnce() -> Op,
    ) -> bool {
        let Some(later) = self.later(engine, slot) else {
            return false;
        };
        let (shared, shard, op) = (self.shared.clone(), self.shard, op());
        later.act(move || shared.fanout.post(shard, op));
        true
    }
}

//! Handlers that are still at work, and what a connection's input waits for.

use std::time::Duration;

use heartline_core::auth::AuthError;
use heartline_core::presence::SocketAddress;
use heartline_engine::shard::engine::Engine;
use heartline_engine::tasks::{Ended, TaskId, Work};
use heartline_wire::codes::Code;
use heartline_wire::id::{ConnId, Slot};

use super::Hub;
use crate::event::EventError;
use crate::in_order;
use crate::op::{Op, Refusal};
use crate::shared::OwnShared;

/// What a client is told to wait whose topic did not come in time: its input stood still for eight
/// seconds, and is not to do so all the time.
const ASK_AGAIN_MS: u64 = 20_000;

/// What the hub wants to know of a task when it ends.
pub(super) enum TaskKind {
    /// A handler of this connection; with `holds`, its further input waits for it.
    Handler {
        conn: ConnId,
        holds: bool,
    },
    Connect(SocketAddress),
    /// The connection's input waits for it.
    Subscribe(Box<Subscribing>),
    Detached,
}

/// A live connection that wants to be in a topic.
pub(super) struct Subscribing {
    pub(super) to: SocketAddress,
    pub(super) topic: Box<str>,
    /// What it calls its question; `None`: it has not asked by one, or came back with the topic.
    pub(super) id: Option<Box<str>>,
}

impl Subscribing {
    pub(super) fn new(to: SocketAddress, topic: &str, id: Option<&str>) -> Subscribing {
        Subscribing {
            to,
            topic: topic.into(),
            id: id.map(Into::into),
        }
    }
}

pub(super) struct HubWaker {
    pub(super) shared: OwnShared,
    pub(super) shard: u16,
}

impl heartline_engine::tasks::Wakes for HubWaker {
    fn wake(&self, task: TaskId) {
        self.shared.fanout.post(self.shard, Op::Wake(task));
    }
}

impl Hub {
    /// Runs `work` now, and goes on with it later if it waits.
    pub(super) fn start(
        &mut self,
        engine: &mut Engine,
        work: Work,
        kind: TaskKind,
        time: Duration,
    ) {
        let asked = in_order::Watch::begin();
        let ended = self.tasks.start(work, kind, engine.now + time);
        if let (Ended::Waiting(task), true) = (&ended, asked.anything()) {
            self.hold_input(engine, *task);
        }
        self.ended(engine, ended);
    }

    /// A future can go on.
    pub(super) fn wake(&mut self, engine: &mut Engine, task: TaskId) {
        if let Some(ended) = self.tasks.resume(task) {
            self.ended(engine, ended);
        }
    }

    /// Code that is not ours has panicked.
    pub(super) fn note_panic(&self) {
        tracing::error!("a handler panicked; its event was refused");
        self.metrics.handler_panics.add(1);
    }

    pub(super) fn ended(&mut self, engine: &mut Engine, ended: Ended<TaskKind>) {
        match ended {
            Ended::Waiting(_) => {}
            Ended::Done(kind) => self.task_done(engine, kind),
            Ended::Panicked(kind) => {
                self.note_panic();
                match kind {
                    TaskKind::Connect(socket) => {
                        self.connect_failed(engine, socket, Refusal::Failed);
                    }
                    // It would panic again.
                    TaskKind::Subscribe(asked) => {
                        self.not_subscribed(engine, &asked, &Code::Internal.into());
                    }
                    kind => self.task_failed(engine, kind),
                }
            }
        }
    }

    pub(super) fn task_done(&mut self, engine: &mut Engine, kind: TaskKind) {
        if let TaskKind::Handler { conn, holds } = kind {
            self.handler_done(engine, conn, holds);
        }
    }

    pub(super) fn task_failed(&mut self, engine: &mut Engine, kind: TaskKind) {
        match kind {
            TaskKind::Handler { conn, holds } => self.handler_done(engine, conn, holds),
            TaskKind::Connect(socket) => {
                let refusal = Refusal::Auth(AuthError::Unavailable);
                self.connect_failed(engine, socket, refusal);
            }
            TaskKind::Subscribe(asked) => {
                let error = EventError::new(Code::Internal, "The topic was not reached in time");
                let error = error.retry_after(ASK_AGAIN_MS);
                self.not_subscribed(engine, &asked, &error);
            }
            TaskKind::Detached => {}
        }
    }

    pub(super) fn expire_tasks(&mut self, engine: &mut Engine) {
        let mut expired = Vec::new();
        self.tasks.expire(engine.now, |kind| expired.push(kind));
        for kind in expired {
            if matches!(kind, TaskKind::Handler { .. }) {
                tracing::warn!("a handler ran out of time; its event was refused");
                self.metrics.handler_timeouts.add(1);
            }
            self.task_failed(engine, kind);
        }
    }

    /// What the client sends waits until the handler that runs under `task` has ended:
    /// it has asked for a change of rooms, and what follows is to find that done.
    pub(super) fn hold_input(&mut self, engine: &mut Engine, task: TaskId) {
        let Some(TaskKind::Handler { conn, holds }) = self.tasks.meta_mut(task) else {
            return;
        };
        *holds = true;
        let conn = *conn;
        if let Some(slot) = engine.find(conn) {
            if let Some(link) = self.link_mut(slot) {
                link.holding += 1;
                engine.pause(slot);
            }
        }
    }

    /// One thing less that the client's next event has to wait for.
    pub(super) fn release_input(&mut self, engine: &mut Engine, slot: Slot) {
        if let Some(link) = self.link_mut(slot) {
            link.holding = link.holding.saturating_sub(1);
        }
        self.listen_again(engine, slot);
    }

    /// Takes in what the client says, unless something is in the way.
    pub(super) fn listen_again(&mut self, engine: &mut Engine, slot: Slot) {
        let max = self.shared.config.max_handlers_in_flight;
        let is_free = self.link(slot).is_some_and(|link| {
            link.joining.is_none() && link.holding == 0 && usize::from(link.in_flight) < max
        });
        if is_free {
            engine.resume(slot);
        }
    }

    /// A handler of this connection has ended.
    pub(super) fn handler_done(&mut self, engine: &mut Engine, conn: ConnId, holds: bool) {
        let Some(slot) = engine.find(conn) else {
            return;
        };
        let Some(link) = self.link_mut(slot) else {
            return;
        };
        link.in_flight = link.in_flight.saturating_sub(1);
        if link.leaving && link.in_flight == 0 {
            // Behind the handler's own answer, which is in the mailbox.
            self.shared.fanout.post(self.shard, Op::Finish(conn));
        } else if holds {
            self.release_input(engine, slot);
        } else {
            self.listen_again(engine, slot);
        }
    }
}

//! Handlers that are still at work, and what a connection's input waits for.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use heartline_core::auth::AuthError;
use heartline_core::presence::SocketAddress;
use heartline_engine::shard::engine::Engine;
use heartline_engine::tasks::{Ended, Started, TaskId, Work};
use heartline_wire::codes::Code;
use heartline_wire::id::{ConnId, Slot};
use heartline_wire::time::micros;

use super::Hub;
use super::answers::Asked;
use super::delivery::Telling;
use super::link::Link;
use crate::event::EventError;
use crate::handler::Reply;
use crate::in_order::Later;
use crate::op::{Op, Refusal};
use crate::shared::OwnShared;

/// What a client is told to wait whose topic did not come in time: its input stood still for eight
/// seconds, and is not to do so all the time. Until then no other topic holds it either.
const ASK_AGAIN: Duration = Duration::from_secs(20);

/// What the hub wants to know of a task when it ends.
pub(super) enum TaskKind {
    /// A handler of this connection; with `holds`, its further input waits for it, with `stores`
    /// much of that.
    Handler {
        conn: ConnId,
        holds: bool,
        stores: bool,
        asked: Asked,
    },
    Connect(SocketAddress),
    /// The connection's input waits for it.
    Subscribe(Box<Subscribing>),
    /// What a connection has to do then.
    Later {
        conn: ConnId,
        later: Arc<Later>,
    },
    /// An event is for a socket, if the store says so.
    Tell(Box<Telling>),
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

/// A topic did not come in time, or is not waited for.
pub(super) fn not_reached(ask_again: Duration) -> EventError {
    let error = EventError::new(Code::Internal, "The topic was not reached in time");
    error.retry_after(micros(ask_again).div_ceil(1000))
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
    /// Runs `work`, which is no handler's, now, and goes on with it later if it waits.
    pub(super) fn start(
        &mut self,
        engine: &mut Engine,
        work: impl Future<Output = ()> + Send + 'static,
        kind: TaskKind,
        time: Duration,
    ) {
        let work = async move {
            work.await;
            Ok(None)
        };
        self.carry(engine, Box::pin(work), kind, time);
    }

    /// The same of work whose result is nobody's.
    pub(super) fn carry(
        &mut self,
        engine: &mut Engine,
        work: Work<Reply>,
        kind: TaskKind,
        time: Duration,
    ) {
        let mut kept = Some(kind);
        let due = engine.now + time;
        let started = self
            .tasks
            .start(work, due, || kept.take().unwrap_or(TaskKind::Detached));
        match (started, kept) {
            (Started::Done(_), Some(kind)) => self.task_done(engine, kind, Ok(None)),
            (Started::Panicked, Some(kind)) => self.task_panicked(engine, kind),
            _ => {}
        }
    }

    /// Runs a handler to its first wait. What it comes to, or `None` if it goes on later;
    /// `asked` is where the answer goes then.
    pub(super) fn start_handler(
        &mut self,
        engine: &mut Engine,
        slot: Slot,
        work: Work<Reply>,
        asked: impl FnOnce() -> Asked,
    ) -> Option<Reply> {
        let conn = engine.id(slot)?;
        let step = self.begin_step(Some(slot), false);
        let due = engine.now + self.shared.config.handler_timeout;
        let started = self.tasks.start(work, due, || TaskKind::Handler {
            conn,
            holds: false,
            stores: false,
            asked: asked(),
        });
        let (asks, stores) = self.end_step(engine, conn, step);
        let task = match started {
            Started::Done(reply) => return Some(reply),
            Started::Panicked => {
                self.note_panic();
                return Some(Err(Box::new(Code::Internal.into())));
            }
            Started::Waiting(task) => task,
        };
        let max = self.shared.config.max_handlers_in_flight;
        if let Some(link) = self.link_mut(slot) {
            link.in_flight += 1;
            if usize::from(link.in_flight) >= max {
                engine.pause(slot);
            }
        }
        if stores {
            self.note_stores(engine, task);
        }
        if asks {
            self.hold_input(engine, task);
        }
        None
    }

    /// A future can go on.
    pub(super) fn wake(&mut self, engine: &mut Engine, task: TaskId) {
        let conn = match self.tasks.meta_mut(task) {
            Some(TaskKind::Handler { conn, stores, .. }) => Some((*conn, *stores)),
            _ => None,
        };
        let step = conn.map(|(conn, stores)| self.begin_step(engine.find(conn), stores));
        let ended = self.tasks.resume(task);
        if let (Some((conn, _)), Some(step)) = (conn, step)
            && self.end_step(engine, conn, step).1
        {
            self.note_stores(engine, task);
        }
        match ended {
            Some(Ended::Done(kind, reply)) => self.task_done(engine, kind, reply),
            Some(Ended::Panicked(kind)) => self.task_panicked(engine, kind),
            Some(Ended::Waiting) | None => {}
        }
    }

    /// Code that is not ours has panicked.
    pub(super) fn note_panic(&self) {
        tracing::error!("a handler panicked; its event was refused");
        self.metrics.handler_panics.add(1);
    }

    fn task_panicked(&mut self, engine: &mut Engine, kind: TaskKind) {
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

    fn task_done(&mut self, engine: &mut Engine, kind: TaskKind, reply: Reply) {
        if let TaskKind::Handler {
            conn,
            holds,
            stores,
            asked,
        } = kind
        {
            self.post_reply(asked, reply);
            self.handler_done(engine, conn, holds, stores);
        } else if let TaskKind::Later { conn, later } = kind {
            self.line_came(engine, conn, &later);
        } else if let TaskKind::Tell(telling) = kind {
            self.tell_late(engine, &telling, reply);
        }
    }

    pub(super) fn task_failed(&mut self, engine: &mut Engine, kind: TaskKind) {
        match kind {
            TaskKind::Handler {
                conn,
                holds,
                stores,
                asked,
            } => {
                self.post_reply(asked, Err(Box::new(Code::Internal.into())));
                self.handler_done(engine, conn, holds, stores);
            }
            TaskKind::Connect(socket) => {
                let refusal = Refusal::Auth(AuthError::Unavailable);
                self.connect_failed(engine, socket, refusal);
            }
            TaskKind::Subscribe(asked) => {
                if let Some(slot) = self.locate(engine, &asked.to) {
                    if let Some(link) = self.link_mut(slot) {
                        link.rare().no_waiting_until = engine.now + ASK_AGAIN;
                    }
                }
                self.not_subscribed(engine, &asked, &not_reached(ASK_AGAIN));
            }
            TaskKind::Later { conn, later } => self.do_later(engine, conn, &later, true),
            TaskKind::Tell(telling) => {
                self.tell_late(engine, &telling, Err(Box::new(Code::Internal.into())));
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
        let Some(TaskKind::Handler { conn, holds, .. }) = self.tasks.meta_mut(task) else {
            return;
        };
        *holds = true;
        let conn = *conn;
        if let Some(slot) = engine.find(conn) {
            self.pause_input(engine, slot);
        }
    }

    /// The handler that runs under `task` stores something: what its client says behind it waits.
    fn note_stores(&mut self, engine: &Engine, task: TaskId) {
        if let Some(TaskKind::Handler { conn, stores, .. }) = self.tasks.meta_mut(task)
            && !std::mem::replace(stores, true)
        {
            let slot = engine.find(*conn);
            if let Some(link) = slot.and_then(|slot| self.link_mut(slot)) {
                link.sends += 1;
            }
        }
    }

    /// One thing more that the client's next event has to wait for.
    pub(super) fn pause_input(&mut self, engine: &mut Engine, slot: Slot) {
        if let Some(link) = self.link_mut(slot) {
            link.holding += 1;
            engine.pause(slot);
        }
    }

    /// One thing less that the client's next event has to wait for.
    pub(super) fn release_input(&mut self, engine: &mut Engine, slot: Slot) {
        if let Some(link) = self.link_mut(slot) {
            link.holding = link.holding.saturating_sub(1);
        }
        self.listen_again(engine, slot);
    }

    /// Takes in what the client says, unless something is in the way. A connection that was only
    /// kept for what it had to do goes when that is done.
    pub(super) fn listen_again(&mut self, engine: &mut Engine, slot: Slot) {
        let is_done = |link: &Link| link.leaving && !link.is_at_work();
        if self.link(slot).is_some_and(is_done)
            && let Some(conn) = engine.id(slot)
        {
            // Behind the last answer, which is in the mailbox.
            return self.shared.fanout.post(self.shard, Op::Finish(conn));
        }
        let max = self.shared.config.max_handlers_in_flight;
        let is_free = self.link(slot).is_some_and(|link| {
            link.joining.is_none() && link.holding == 0 && usize::from(link.in_flight) < max
        });
        if is_free {
            engine.resume(slot);
        }
    }

    /// A handler of this connection has ended.
    pub(super) fn handler_done(
        &mut self,
        engine: &mut Engine,
        conn: ConnId,
        holds: bool,
        stores: bool,
    ) {
        let Some(slot) = engine.find(conn) else {
            return;
        };
        if stores {
            self.has_stored(engine, conn, slot);
        }
        let Some(link) = self.link_mut(slot) else {
            return;
        };
        link.in_flight = link.in_flight.saturating_sub(1);
        if holds {
            self.release_input(engine, slot);
        } else {
            self.listen_again(engine, slot);
        }
    }
}

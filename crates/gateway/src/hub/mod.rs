//! What is said on the connections of one shard, and what it means.
//!
//! Both protocols end in the same event and start from the same publication:
//! `socketio` and `live` translate, `events` decides who handles, `connect`
//! lets sockets in, `lifecycle` lets them go, `delivery` fans out, `query`
//! answers the API.
//!
//! Everything that another thread (or a handler) wants of a socket comes as an
//! [`Op`] through the shard's mailbox, so a connection's state has one owner
//! and no lock.

mod connect;
mod delivery;
mod events;
mod lifecycle;
pub(crate) mod link;
mod live;
pub(crate) mod query;
pub(crate) mod select;
mod socketio;

use std::sync::Arc;

use crate::engine::conn::{Kind, TransportName};
use crate::engine::id::ConnId;
use crate::engine::tasks::{Ended, TaskId, Tasks, Work};
use crate::engine::wheel::Micros;
use crate::engine::{App, Data, Engine, Handshake};
use crate::handler::Handlers;
use crate::in_order;
use crate::metrics::{Inbound, ShardMetrics};
use crate::namespaces::NamespaceId;
use crate::op::Op;
use crate::presence::SocketAddress;
use crate::publication::Form;
use crate::reason::Reason;
use crate::rooms::LocalRooms;
use crate::shared::{OwnShared, Shared};
use crate::socket::Socket;
use link::Link;

/// How often tasks that ran out of time are looked for.
const TASK_SWEEP: Micros = 250_000;

/// What the hub wants to know of a task when it ends.
pub(crate) enum TaskKind {
    /// A handler of this connection; with `holds`, its further input waits for it.
    Handler {
        conn: ConnId,
        holds: bool,
    },
    Connect(SocketAddress),
    /// The connection waits for it.
    Subscribe(SocketAddress),
    Detached,
}

pub(crate) struct HubPost {
    shared: OwnShared,
    shard: u16,
}

impl crate::engine::tasks::Post for HubPost {
    fn post(&self, task: TaskId) {
        self.shared.fanout.post(self.shard, Op::Wake(task));
    }
}

/// As [`OwnShared`]: the outer count of references is the shard's own.
type OwnHandlers = Arc<Arc<Handlers>>;

/// The sockets of one shard.
pub(crate) struct Hub {
    pub(crate) shared: OwnShared,
    handlers: OwnHandlers,
    pub(crate) shard: u16,
    links: Vec<Option<Link>>,
    pub(crate) rooms: LocalRooms,
    tasks: Tasks<HubPost, TaskKind>,
    next_task_sweep: Micros,
    pub(crate) metrics: Arc<ShardMetrics>,
}

impl Hub {
    pub(crate) fn new(shared: Arc<Shared>, handlers: Arc<Handlers>, shard: u16) -> Self {
        let shared = Arc::new(shared);
        let metrics = shared.metrics.shards[usize::from(shard)].clone();
        let post = Arc::new(HubPost {
            shared: shared.clone(),
            shard,
        });
        Hub {
            rooms: LocalRooms::new(shared.fanout.rooms.clone(), shard),
            tasks: Tasks::new(post),
            handlers: Arc::new(handlers),
            links: Vec::new(),
            next_task_sweep: 0,
            shared,
            shard,
            metrics,
        }
    }

    fn link(&self, slot: u32) -> Option<&Link> {
        self.links.get(slot as usize)?.as_ref()
    }

    fn link_mut(&mut self, slot: u32) -> Option<&mut Link> {
        self.links.get_mut(slot as usize)?.as_mut()
    }

    /// Where a socket is, if it is still there.
    fn locate(&self, engine: &Engine, address: &SocketAddress) -> Option<u32> {
        let slot = engine.find(address.0.conn)?;
        let socket = self.link(slot)?.socket(address.namespace())?;
        (socket.secret == address.0.secret).then_some(slot)
    }

    fn address(&self, engine: &Engine, slot: u32, namespace: NamespaceId) -> Option<SocketAddress> {
        let socket = self.link(slot)?.socket(namespace)?;
        Some(SocketAddress::new(
            engine.id(slot)?,
            namespace,
            socket.secret,
        ))
    }

    /// A handle for handlers; also of a socket whose connection is closing.
    fn handle(&self, engine: &Engine, slot: u32, namespace: NamespaceId) -> Option<Socket> {
        let socket = self.link(slot)?.socket(namespace)?;
        Some(Socket {
            shared: self.shared.clone(),
            address: self.address(engine, slot, namespace)?,
            identity: socket.identity.clone(),
            remote: engine.address(slot)?,
        })
    }

    fn namespace_name(&self, namespace: NamespaceId) -> &Arc<str> {
        &self.shared.fanout.namespaces.get(namespace).name
    }

    // --- tasks -----------------------------------------------------------

    /// Runs `work` now, and goes on with it later if it waits.
    fn start(&mut self, engine: &mut Engine, work: Work, kind: TaskKind, time: Micros) {
        let asked = in_order::Watch::begin();
        let ended = self.tasks.start(work, kind, engine.now + time);
        if let (Ended::Waiting(task), true) = (&ended, asked.anything()) {
            self.hold_input(engine, *task);
        }
        self.ended(engine, ended);
    }

    /// Code that is not ours has panicked.
    fn note_panic(&self) {
        tracing::error!("a handler panicked; its event was refused");
        self.metrics.handler_panics.add(1);
    }

    fn ended(&mut self, engine: &mut Engine, ended: Ended<TaskKind>) {
        match ended {
            Ended::Waiting(_) => {}
            Ended::Done(kind) => self.task_done(engine, kind),
            Ended::Panicked(kind) => {
                self.note_panic();
                self.task_failed(engine, kind);
            }
        }
    }

    fn task_done(&mut self, engine: &mut Engine, kind: TaskKind) {
        if let TaskKind::Handler { conn, holds } = kind {
            self.handler_done(engine, conn, holds);
        }
    }

    fn task_failed(&mut self, engine: &mut Engine, kind: TaskKind) {
        match kind {
            TaskKind::Handler { conn, holds } => self.handler_done(engine, conn, holds),
            TaskKind::Connect(socket) => self.connect_failed(engine, socket),
            TaskKind::Subscribe(socket) => {
                if let Some(slot) = self.locate(engine, &socket) {
                    self.release_input(engine, slot);
                }
            }
            TaskKind::Detached => {}
        }
    }

    fn expire_tasks(&mut self, engine: &mut Engine) {
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
}

impl App for Hub {
    type Op = Op;

    fn opened(&mut self, engine: &mut Engine, slot: u32, handshake: Handshake) {
        if self.links.len() <= slot as usize {
            self.links.resize_with(slot as usize + 1, || None);
        }
        let live = engine
            .conn(slot)
            .is_some_and(|conn| conn.kind == Kind::Plain);
        let mut link = Link::new(if live { Form::Live } else { Form::Text });
        link.user_agent = handshake
            .user_agent
            .as_deref()
            .map(|agent| self.shared.user_agents.intern(agent));
        if !live {
            link.bearer = handshake.bearer.clone();
        }
        self.links[slot as usize] = Some(link);
        self.metrics.connects.add(1);
        if self.shared.is_draining() {
            // Its handshake began before the drain did.
            engine.close(slot, Reason::Drained);
            return;
        }
        if live {
            self.live_opened(engine, slot, handshake);
        }
        self.rearm(engine, slot);
    }

    fn message(&mut self, engine: &mut Engine, slot: u32, data: Data<'_>) {
        match self.link(slot).map(|link| link.form) {
            Some(Form::Live) => match data {
                Data::Text(text) => self.live_frame(engine, slot, text),
                Data::Binary(_) => {}
            },
            Some(Form::Text | Form::Msgpack) => self.socketio_message(engine, slot, data),
            None => {}
        }
    }

    fn closed(&mut self, engine: &mut Engine, slot: u32, reason: Reason) {
        self.link_closed(engine, slot, reason);
    }

    fn upgraded(&mut self, _engine: &mut Engine, slot: u32) {
        if let Some(link) = self.link(slot) {
            for socket in &link.sockets {
                self.metrics
                    .connections(TransportName::Polling, socket.namespace)
                    .sub(1);
                self.metrics
                    .connections(TransportName::WebSocket, socket.namespace)
                    .add(1);
            }
        }
    }

    fn deadline(&mut self, engine: &mut Engine, slot: u32) {
        self.link_deadline(engine, slot);
    }

    fn op(&mut self, engine: &mut Engine, op: Op) {
        match op {
            Op::Wake(task) => {
                if let Some(ended) = self.tasks.resume(task) {
                    self.ended(engine, ended);
                }
            }
            Op::Connecting { socket, outcome } => self.connecting(engine, socket, outcome),
            Op::Emit {
                to,
                message,
                volatile,
            } => self.emit(engine, &to, &message, volatile),
            Op::EmitWithAck { to, message, reply } => {
                self.emit_with_ack(engine, &to, &message, reply)
            }
            Op::Send {
                to,
                publication,
                instead_of,
            } => self.send_to(engine, &to, &publication, instead_of.as_deref()),
            Op::Ack { to, ack, args } => self.ack(engine, &to, &ack, &args),
            Op::Refuse { to, ack, error } => self.refuse(engine, &to, ack.as_ref(), &error),
            Op::Join { to, room, reply } => {
                if let Some(slot) = self.locate(engine, &to) {
                    let joined = self.join(engine, slot, to.namespace(), &room);
                    let _ = reply.send(joined.map(|joined| joined.held));
                }
            }
            Op::TryJoin { to, room, reply } => {
                if let Some(slot) = self.locate(engine, &to) {
                    let _ = reply.send(self.try_join(engine, slot, to.namespace(), &room));
                }
            }
            Op::Subscribe {
                to,
                topic,
                id,
                held,
            } => {
                if let Some(slot) = self.locate(engine, &to) {
                    self.subscribe_now(engine, slot, &topic, id.as_deref());
                    self.release_input(engine, slot);
                }
                drop(held);
            }
            Op::Leave { to, room, reply } => {
                if let Some(slot) = self.locate(engine, &to) {
                    self.leave(engine, slot, to.namespace(), &room);
                    let _ = reply.send(());
                }
            }
            Op::Deliver {
                room,
                offset,
                publication,
            } => self.deliver(engine, &room, offset, &publication),
            Op::Broadcast {
                namespace,
                tenant,
                publication,
                about,
            } => self.broadcast(
                engine,
                namespace,
                tenant.as_deref(),
                &publication,
                about.as_deref(),
            ),
            Op::DeliverAround {
                user,
                rooms,
                except,
                publication,
            } => self.deliver_around(engine, &user, &rooms, &except, &publication),
            Op::Select { selection, deed } => self.select(engine, &selection, &deed),
            Op::Disconnect { to, reason, reply } => {
                let there = self.locate(engine, &to);
                if let Some(slot) = there {
                    self.end_socket(engine, slot, to.namespace(), reason);
                }
                if let Some(reply) = reply {
                    let _ = reply.send(there.is_some());
                }
            }
            Op::Replaced {
                to,
                by,
                node,
                reason,
            } => self.replaced(engine, &to, by.as_deref(), &node, reason),
            Op::Refresh { to, identity } => self.refresh(engine, &to, identity),
            Op::Drain { spread } => self.drain(engine, spread),
            Op::Finish(conn) => {
                if let Some(slot) = engine.find(conn) {
                    engine.close(slot, Reason::Drained);
                }
            }
            Op::Force => self.force(engine),
            Op::Query(query) => self.answer(engine, query),
        }
    }

    fn is_overloaded(&self) -> bool {
        self.shared.fanout.is_overloaded()
    }

    fn turn(&mut self, engine: &mut Engine) {
        if engine.now >= self.next_task_sweep {
            self.next_task_sweep = engine.now + TASK_SWEEP;
            if self.tasks.waiting() > 0 {
                self.expire_tasks(engine);
            }
        }
        self.metrics.take_engine_stats(&mut engine.stats);
    }

    fn next_wake(&self) -> Option<Micros> {
        (self.tasks.waiting() > 0).then_some(self.next_task_sweep)
    }
}

impl Hub {
    fn count_inbound(&self, kind: Inbound) {
        self.metrics.inbound(kind).add(1);
    }
}

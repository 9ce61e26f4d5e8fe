//! What is said on the connections of one shard, and what it means.
//!
//! Both protocols end in the same event and start from the same publication:
//! `socketio` and `live` translate, `events` decides who handles, `tasks` carries the
//! handlers and `answers` brings what they come to, `admission` finds out whose sockets they
//! will be, `connect` lets them in and `hello` greets them, `rooms` knows where they are, `turns`
//! what has to wait for the line, `delivery` and `select` bring things to them,
//! `deadlines` and `sweep` watch them, `ends` and `drain` let them go, `resume` lets them go
//! on, `gaps` tells of losses between nodes, `watching` brings what is watched, `query`
//! answers the API.
//!
//! Everything that another thread (or a handler) wants of a socket comes as an
//! [`Op`] through the shard's mailbox, so a connection's state has one owner
//! and no lock.

mod admission;
mod answers;
mod connect;
mod deadlines;
mod delivery;
mod drain;
mod ends;
mod events;
mod gaps;
mod hello;
mod ledger;
mod link;
mod live;
mod query;
mod resume;
mod rooms;
mod select;
mod socketio;
mod sweep;
mod tasks;
#[cfg(test)]
mod tests;
mod turns;
mod watching;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use heartline_core::namespaces::NamespaceId;
use heartline_core::presence::SocketAddress;
use heartline_core::rooms::LocalRooms;
use heartline_engine::app::{App, Data};
use heartline_engine::shard::conn::TransportName;
use heartline_engine::shard::engine::Engine;
use heartline_engine::shard::request::{Handshake, Protocol};
use heartline_engine::tasks::Tasks;
use heartline_wire::id::Slot;
use heartline_wire::reason::Reason;
use heartline_wire::time::Micros;
use link::{Link, SocketState};
use resume::CatchingUp;
use tasks::{HubWaker, TaskKind};

use crate::handler::{Handlers, Reply};
use crate::metrics::{Inbound, ShardMetrics};
use crate::op::{LineOp, Op};
use crate::publication::{AckId, Encoding};
use crate::shared::{OwnShared, Shared};
use crate::socket::Socket;

/// How often tasks that ran out of time are looked for.
const TASK_SWEEP: Duration = Duration::from_millis(250);

/// As [`OwnShared`]: the outer count of references is the shard's own.
type OwnHandlers = Arc<Arc<Handlers>>;

/// The sockets of one shard.
pub(crate) struct Hub {
    pub(crate) shared: OwnShared,
    handlers: OwnHandlers,
    pub(crate) shard: u16,
    links: Vec<Option<Link>>,
    pub(crate) rooms: LocalRooms,
    /// The place in the line of the last kept event that this shard has delivered.
    place: u64,
    /// Sockets that have come back, and need not be told again what is in the mailbox.
    catching_up: CatchingUp,
    tasks: Tasks<HubWaker, TaskKind, Reply>,
    next_task_sweep: Micros,
    pub(crate) metrics: Arc<ShardMetrics>,
}

impl Hub {
    pub(crate) fn new(shared: Arc<Shared>, handlers: Arc<Handlers>, shard: u16) -> Self {
        let shared = Arc::new(shared);
        let metrics = shared.metrics.shards[usize::from(shard)].clone();
        let post = Arc::new(HubWaker {
            shared: shared.clone(),
            shard,
        });
        Hub {
            rooms: LocalRooms::new(shared.fanout.rooms.clone(), shard),
            tasks: Tasks::new(post),
            handlers: Arc::new(handlers),
            links: Vec::new(),
            place: 0,
            catching_up: CatchingUp::default(),
            next_task_sweep: Micros::ZERO,
            shared,
            shard,
            metrics,
        }
    }

    fn link(&self, slot: Slot) -> Option<&Link> {
        self.links.get(slot.index())?.as_ref()
    }

    fn link_mut(&mut self, slot: Slot) -> Option<&mut Link> {
        self.links.get_mut(slot.index())?.as_mut()
    }

    /// Where a socket is, if it is still there.
    fn locate(&self, engine: &Engine, address: &SocketAddress) -> Option<Slot> {
        let slot = engine.find(address.0.conn)?;
        let socket = self.link(slot)?.socket(address.namespace())?;
        (socket.secret == address.0.secret).then_some(slot)
    }

    fn address(
        &self,
        engine: &Engine,
        slot: Slot,
        namespace: NamespaceId,
    ) -> Option<SocketAddress> {
        let socket = self.link(slot)?.socket(namespace)?;
        Some(SocketAddress::new(
            engine.id(slot)?,
            namespace,
            socket.secret,
        ))
    }

    /// A handle for handlers; also of a socket whose connection is closing.
    fn handle(&self, engine: &Engine, slot: Slot, namespace: NamespaceId) -> Option<Socket> {
        let socket = self.link(slot)?.socket(namespace)?;
        let address = self.address(engine, slot, namespace)?;
        Some(self.handle_of(socket, address, engine.address(slot)?))
    }

    fn handle_of(&self, socket: &SocketState, address: SocketAddress, remote: IpAddr) -> Socket {
        Socket {
            shared: self.shared.clone(),
            address,
            identity: socket.identity.clone(),
            remote,
            name: socket.back().map(|back| Box::new(back.name)),
            ended: None,
        }
    }

    fn namespace_name(&self, namespace: NamespaceId) -> &Arc<str> {
        &self.shared.fanout.namespaces.get(namespace).name
    }
}

impl App for Hub {
    type Op = Op;

    fn opened(&mut self, engine: &mut Engine, slot: Slot, handshake: Handshake) {
        if self.links.len() <= slot.index() {
            self.links.resize_with(slot.index() + 1, || None);
        }
        let live = engine
            .conn(slot)
            .is_some_and(|conn| conn.protocol == Protocol::Plain);
        let mut link = Link::new(if live { Encoding::Live } else { Encoding::Text });
        link.user_agent = handshake
            .user_agent
            .as_deref()
            .map(|agent| self.shared.user_agents.intern(agent));
        if handshake.request.is_some() {
            link.rare().handshake = handshake.request.clone();
        }
        if !live && handshake.token.is_some() {
            link.rare().token = handshake.token.clone();
        }
        self.links[slot.index()] = Some(link);
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

    fn message(&mut self, engine: &mut Engine, slot: Slot, data: Data<'_>) {
        match self.link(slot).map(|link| link.encoding) {
            Some(Encoding::Live) => match data {
                Data::Text(text) => self.live_frame(engine, slot, text),
                Data::Binary(_) => {}
            },
            Some(Encoding::Text | Encoding::Msgpack) => self.socketio_message(engine, slot, data),
            None => {}
        }
    }

    fn closed(&mut self, engine: &mut Engine, slot: Slot, reason: Reason) {
        self.link_closed(engine, slot, reason);
    }

    fn hears_out(&self, slot: Slot) -> bool {
        // Who is not let in yet, and has left, has nothing more to say.
        self.link(slot).is_none_or(|link| link.joining.is_none())
    }

    fn pinged(&mut self, engine: &mut Engine, slot: Slot) {
        // If there is an answer, it is the transport's; who is far over the limit is closed.
        let _ = self.count_event(engine, slot, None);
    }

    fn received(&mut self, engine: &mut Engine, slot: Slot, before: Micros) {
        self.direct_received(engine, slot, before);
    }

    fn upgraded(&mut self, _engine: &mut Engine, slot: Slot) {
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

    fn deadline(&mut self, engine: &mut Engine, slot: Slot) {
        self.link_deadline(engine, slot);
    }

    fn op(&mut self, engine: &mut Engine, op: Op) {
        self.note_place(&op);
        let Some(op) = self.in_its_turn(engine, op) else {
            return;
        };
        match op {
            Op::Due(op) => self.op(engine, *op),
            Op::Wake(task) => self.wake(engine, task),
            Op::Connecting(connecting) => self.connecting(engine, connecting),
            Op::Emit { to, message, how } => self.emit(engine, &to, &message, how),
            Op::EmitWithAck { to, message, reply } => self.emit_acked(engine, &to, &message, reply),
            Op::Send {
                to,
                publication,
                instead_of,
            } => self.send_to(engine, &to, &publication, instead_of.as_ref()),
            Op::Ack { to, ack, args } => self.ack(engine, &to, ack.borrowed(), &args),
            Op::Refuse { to, ack, error } => {
                self.refuse(engine, &to, ack.as_ref().map(AckId::borrowed), &error);
            }
            Op::Answer { to, text } => self.live_answer(engine, &to, &text),
            Op::Join { to, room, reply } => self.join_asked(engine, &to, &room, reply),
            Op::TryJoin { to, room, reply } => self.try_join(engine, &to, &room, reply),
            Op::SubscribeAsked(asked) => self.subscribe_asked(engine, asked),
            Op::Subscribe {
                to,
                topic,
                id,
                recover,
                members,
                held,
            } => {
                let id = id.as_deref();
                self.subscription_ready(engine, &to, &topic, id, recover, members, &held);
            }
            Op::Unsubscribe { to, topic, id } => self.unsubscribed(engine, &to, &topic, id),
            Op::Leave { to, room, reply } => self.leave_asked(engine, &to, &room, reply),
            Op::Deliver {
                room,
                offset,
                publication,
                skip,
            } => self.deliver(engine, &room, offset, &publication, skip.as_ref()),
            Op::Line(op) => self.line(engine, op),
            Op::Broadcast {
                namespace,
                tenant,
                publication,
                about,
            } => self.broadcast(engine, namespace, tenant, &publication, about.as_deref()),
            Op::DeliverAround {
                user,
                rooms,
                others,
                publication,
            } => self.deliver_around(engine, &user, &rooms, others.as_ref(), &publication),
            Op::Watch(op) => self.watch_op(engine, op),
            Op::Select { selection, action } => self.select(engine, &selection, &action),
            Op::Disconnect { to, reason, reply } => self.disconnect(engine, &to, reason, reply),
            Op::Replaced(lost) => self.replaced_asked(engine, &lost),
            Op::Refresh { to, who, reply } => self.refresh(engine, &to, who, reply),
            Op::LookAgain { to, room } => self.look_again(engine, &to, room),
            Op::Charge { to, events } => self.charge(engine, &to, events),
            Op::Drain { spread } => self.drain(engine, spread),
            Op::Shed { count, of, spread } => self.shed(engine, count, of, spread),
            Op::Finish(conn) => self.finish(engine, conn),
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
    /// What concerns the line of kept events, and what was lost of it.
    fn line(&mut self, engine: &mut Engine, op: LineOp) {
        match op {
            LineOp::Gap { room, gap } => self.gap(engine, &room, gap),
            LineOp::UserGap { to } => self.user_gap(engine, &to),
            LineOp::AnybodyGap(lost) => self.anybody_gap(engine, lost),
            LineOp::EverybodyGap { namespace, tenant } => {
                self.everybody_gap(engine, namespace, tenant.as_ref());
            }
            LineOp::Begin { room, from } => self.begin(engine, &room, from),
            LineOp::Reached { place } => self.reached(place),
            LineOp::Park(park) => self.park_asked(engine, park),
            LineOp::Lose { socket, name, how } => self.lose(engine, &socket, name, how),
            LineOp::Remember { socket, name } => self.remember_asked(engine, &socket, &name),
            LineOp::RememberAll => self.remember_all(engine),
            LineOp::Settle(reply) => drop(reply.send(())),
        }
    }

    fn count_inbound(&self, kind: Inbound) {
        self.metrics.inbound(kind).add(1);
    }
}

//! The connections of one shard, the lists they stand in, and what an
//! [`App`](crate::app::App) may ask of them and send to them.
//!
//! When they are pinged is in `deadlines`, how they end in `ends`.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use heartline_wire::id::{ConnId, Sid, Slot};
use heartline_wire::reason::Reason;
use heartline_wire::time::{Micros, micros};
use heartline_wire::ws::deflate::Inflater;
use mio::{Interest, Registry, Token};

use crate::clock::Clock;
use crate::random::{SecretSource, Spread};
use crate::shard::conn::{Conn, PeerEnds, Phase, Slab, Transport, TransportName};
use crate::shard::frames::{Framer, Frames, Framing};
use crate::shard::heartbeat::{Heartbeat, HeartbeatTiming};
use crate::shard::outbound::{ConflationKey, Outbound};
use crate::shard::pieces::Pieces;
use crate::shard::receipt::Receipt;
use crate::shard::request::Protocol;
use crate::shard::stream::WebSocket;
use crate::shard::wheel::Wheel;
use crate::shard::writes::{Waits, Writes};
use crate::slots::SlotGuard;

/// Queues kept for reuse per shard.
const MAX_POOLED_QUEUES: usize = 1024;

/// What the engine has to know of the configuration.
#[derive(Debug, Clone)]
pub struct Settings {
    /// How often to ping, and when to give up.
    pub heartbeat_timing: HeartbeatTiming,
    /// Largest message from a client, bytes.
    pub max_payload: usize,
    /// The same until the app has [let it in](Engine::let_in), bytes: what a stranger may
    /// have kept for it. A token and what comes with it must fit.
    pub max_first_payload: usize,
    /// Bytes that may wait for one client, bookkeeping included.
    pub send_buffer: usize,
    /// How long an upgrade from polling may take.
    pub upgrade_timeout: Duration,
    /// Smallest message that is compressed, where the client understands it.
    pub compress_from: usize,
    /// What names of connections begin with, so that other nodes know whose they are.
    pub tag: Option<u32>,
}

/// The place that a connection takes.
pub(crate) struct Place {
    /// Among all of the gateway.
    pub(crate) guard: SlotGuard,
    /// The slot under which the poller knows its socket already.
    pub(crate) kept: Option<Slot>,
}

/// The connections of one shard and what can be done to them.
pub struct Engine {
    /// The number of the shard.
    pub shard: u16,
    /// What Unix time a moment is. The present moment is `now`.
    pub clock: Clock,
    /// Read once per turn.
    pub now: Micros,
    /// What peers sent before this moment has been read, unless their
    /// connection is paused. Silence proves nothing beyond it.
    pub heard_until: Micros,
    /// Since when deadlines are acted on when they come. Before that the process stood still:
    /// nobody was pinged, so nobody had anything to say.
    pub punctual_since: Micros,
    /// What was configured.
    pub settings: Arc<Settings>,
    pub(super) conns: Slab,
    pub(super) wheel: Wheel,
    pub(super) registry: Registry,
    pub(super) random: Spread,
    pub(super) secrets: SecretSource,
    /// Connections that have something to write.
    pub(crate) writes: Writes,
    /// Connections that ended and whose application does not know yet.
    pub(super) closed: Vec<(Slot, Reason)>,
    /// What peers have done that ends their connections, in order.
    pub(super) endings: Vec<PeerEnds>,
    /// Connections to read in the next turn although no event may come.
    pub(super) again: Vec<Slot>,
    pub(super) app_due: Vec<Slot>,
    /// Slots without a connection whose deadline has come.
    pub(super) nobody_due: Vec<Slot>,
    /// Connections whose time is over, and whose answers may have come: they are judged when
    /// the poller has been asked once more.
    pub(super) doubtful: Vec<Slot>,
    /// Kept for its memory.
    pub(super) due: Vec<Slot>,
    #[expect(
        clippy::vec_box,
        reason = "a queue moves between pool and connection as its box"
    )]
    pub(super) pool: Vec<Box<Outbound>>,
    pub(super) pieces: Pieces,
    pub(super) shaper: Framer,
    pub(super) inflater: Inflater,
    /// Whether what the mailbox had is being worked off: some of it may not be done yet.
    pub(super) works_off: bool,
    /// What was sent to connections since the shard has begun to work off what the mailbox had.
    pub(super) given: usize,
    /// The last turn has not done all that was asked before it.
    pub(super) is_behind: bool,
    /// What is counted.
    pub stats: Stats,
}

/// What the engine counts; read and reset by the application's metrics.
#[derive(Debug, Default)]
pub struct Stats {
    /// Publications that took the place of an older one.
    pub conflated: u64,
    /// Volatile events that could not leave at once.
    pub volatile_dropped: u64,
    /// Round trips measured since they were last taken, µs.
    pub rtts: Vec<u32>,
}

impl Engine {
    /// No connections yet. `registry` is of the poller that the shard asks.
    pub(crate) fn new(
        shard: u16,
        clock: Clock,
        now: Micros,
        settings: Arc<Settings>,
        registry: Registry,
    ) -> Self {
        let compress_from = settings.compress_from;
        Engine {
            shard,
            clock,
            now,
            heard_until: Micros::ZERO,
            punctual_since: now,
            settings,
            conns: Slab::default(),
            wheel: Wheel::new(now),
            registry,
            random: Spread::from_os(),
            secrets: SecretSource::new(),
            writes: Writes::default(),
            closed: Vec::new(),
            endings: Vec::new(),
            again: Vec::new(),
            app_due: Vec::new(),
            nobody_due: Vec::new(),
            doubtful: Vec::new(),
            due: Vec::new(),
            pool: Vec::new(),
            pieces: Pieces::default(),
            shaper: Framer::new(compress_from),
            inflater: Inflater::default(),
            works_off: false,
            given: 0,
            is_behind: false,
            stats: Stats::default(),
        }
    }

    // --- questions -------------------------------------------------------

    /// The connection, while it is open.
    pub fn conn(&self, slot: Slot) -> Option<&Conn> {
        self.conns
            .get(slot)
            .filter(|conn| conn.phase == Phase::Open)
    }

    /// The same, also of one that has ended, until the application has been told.
    pub fn known(&self, slot: Slot) -> Option<&Conn> {
        self.conns.get(slot)
    }

    /// Whether the peer gets all that is sent in this turn, or nothing of it: in one response.
    pub fn is_heard_whole(&self, slot: Slot) -> bool {
        let conn = self.conns.get(slot);
        conn.is_some_and(|conn| match &conn.transport {
            Transport::Polling(polling) => polling.get.is_some() || polling.probe.is_none(),
            Transport::WebSocket(_) => false,
        })
    }

    /// Whether the peer of a connection has closed it with 1000: it does not mean to come back.
    pub fn said_goodbye(&self, slot: Slot) -> bool {
        self.conns.get(slot).is_some_and(|conn| conn.said_goodbye)
    }

    /// The slot of an open connection, if it is still that connection.
    pub fn find(&self, id: ConnId) -> Option<Slot> {
        let conn = self.conns.get(id.slot)?;
        (conn.generation == id.generation && conn.phase == Phase::Open).then_some(id.slot)
    }

    /// Sid and place of a connection.
    pub fn id(&self, slot: Slot) -> Option<ConnId> {
        Some(ConnId {
            shard: self.shard,
            slot,
            generation: self.conns.get(slot)?.generation,
        })
    }

    /// The client's address, also of a connection that is closing.
    pub fn address(&self, slot: Slot) -> Option<std::net::IpAddr> {
        self.conns.get(slot).map(|conn| conn.guard.ip())
    }

    /// How a connection travels at present.
    pub fn transport_name(&self, slot: Slot) -> Option<TransportName> {
        self.conns.get(slot).map(Conn::transport_name)
    }

    /// How many connections there are, those included that are closing, and that wait for
    /// their first request.
    pub(super) fn connections(&self) -> usize {
        self.conns.len()
    }

    /// The slots of open connections.
    pub fn open_slots(&self) -> Vec<Slot> {
        self.conns
            .slots()
            .filter(|&slot| self.conn(slot).is_some())
            .collect()
    }

    /// Whether what others have asked of the shard is being worked off: what one of them wanted
    /// before now may still stand behind.
    pub fn works_off(&self) -> bool {
        self.works_off
    }

    /// A random secret for a name.
    pub fn secret(&mut self) -> [u8; 12] {
        let mut secret = self.secrets.take();
        if let Some(tag) = self.settings.tag {
            secret[..4].copy_from_slice(&tag.to_be_bytes());
        }
        secret
    }

    /// A random number in `0..bound`.
    pub fn random_below(&mut self, bound: u64) -> u64 {
        self.random.below(bound)
    }

    /// A random time shorter than `bound`, in whole microseconds.
    pub fn random_time(&mut self, bound: Duration) -> Duration {
        Duration::from_micros(self.random.below(micros(bound)))
    }

    // --- beginnings ------------------------------------------------------

    /// Takes in a connection; its slot.
    pub(super) fn open(
        &mut self,
        protocol: Protocol,
        framing: Framing,
        transport: Transport,
        place: Place,
    ) -> Slot {
        let Place { guard, kept } = place;
        let slot = kept.unwrap_or_else(|| self.conns.reserve().0);
        let generation = self.conns.generation(slot);
        let first_ping = self.first_ping();
        let secret = self.secret();
        self.conns.put(
            slot,
            Conn {
                generation,
                protocol,
                phase: Phase::Open,
                paused: false,
                unread: false,
                again: false,
                waits: Waits::Nowhere,
                framing,
                hup: false,
                discard: false,
                gone: false,
                ends: false,
                told: false,
                transport,
                piece: None,
                out: None,
                heartbeat: Heartbeat::new(first_ping),
                receipt: Receipt::default(),
                rtt: 0,
                last_seen: self.now,
                connected_at: self.now,
                app_deadline: Micros::MAX,
                close_deadline: Micros::MAX,
                secret,
                said_goodbye: false,
                let_in: false,
                guard,
            },
        );
        self.rearm(slot);
        slot
    }

    pub(super) fn open_websocket(
        &mut self,
        protocol: Protocol,
        framing: Framing,
        websocket: WebSocket,
        preface: Vec<u8>,
        place: Place,
    ) -> Option<Slot> {
        let is_known = place.kept.is_some();
        let slot = self.open(protocol, framing, Transport::WebSocket(websocket), place);
        let conn = self.conns.get_mut(slot)?;
        let transport = (!is_known).then_some(&mut conn.transport);
        if let Some(Transport::WebSocket(websocket)) = transport {
            let interest = Interest::READABLE | Interest::WRITABLE;
            if let Err(error) =
                self.registry
                    .register(websocket.stream.socket(), Token(slot.index()), interest)
            {
                tracing::warn!(%error, "a connection could not be registered with the poller");
                self.forget(slot);
                return None;
            }
        }
        let mut out = self.pool.pop().unwrap_or_default();
        out.set_preface(preface);
        conn.out = Some(out);
        self.writes.push(slot, &mut conn.waits, Waits::Alone);
        Some(slot)
    }

    pub(super) fn open_polling(&mut self, framing: Framing, mut guard: SlotGuard) -> Slot {
        guard.set_polling(true);
        self.open(
            Protocol::EngineIo,
            framing,
            Transport::Polling(Box::default()),
            Place { guard, kept: None },
        )
    }

    /// The `sid` of a connection.
    pub(super) fn sid(&self, slot: Slot) -> Option<String> {
        let conn = self.conns.get(slot)?;
        let name = Sid {
            conn: self.id(slot)?,
            namespace: 0,
            secret: conn.secret,
        };
        Some(name.encode())
    }

    /// The Engine.IO open packet.
    pub(super) fn open_packet(&self, slot: Slot, upgrades: &[&str]) -> Option<String> {
        let settings = &self.settings;
        Some(heartline_wire::engineio::open_packet(
            &self.sid(slot)?,
            upgrades,
            settings.heartbeat_timing.interval.as_millis() as u64,
            settings.heartbeat_timing.timeout.as_millis() as u64,
            settings.max_payload,
        ))
    }

    /// From now on a client may send messages of `max_payload`.
    pub fn let_in(&mut self, slot: Slot) {
        if let Some(conn) = self.conns.get_mut(slot) {
            conn.let_in = true;
        }
    }

    /// Largest message that a client may send now, bytes.
    pub(super) fn payload_bound(&self, slot: Slot) -> usize {
        let settings = &self.settings;
        match self.conns.get(slot).is_some_and(|conn| conn.let_in) {
            true => settings.max_payload,
            false => settings.max_first_payload.min(settings.max_payload),
        }
    }

    // --- output ----------------------------------------------------------

    /// Lets `write` append whole WebSocket frames to what leaves next.
    pub fn send_with(&mut self, slot: Slot, write: impl FnOnce(&mut Vec<u8>)) {
        self.given += 1;
        match self.framing(slot) {
            Framing::Plain => self.enqueue(slot, Waits::Alone, |out| out.append(write)),
            framing => {
                let mut frames = Vec::new();
                write(&mut frames);
                let frames = self.shaper.framing(&frames, framing);
                self.enqueue(slot, Waits::Alone, |out| {
                    out.append(|buffer| buffer.extend_from_slice(&frames));
                });
            }
        }
    }

    /// Sends frames that other connections share.
    pub fn send(&mut self, slot: Slot, frames: &Frames) {
        self.given += 1;
        match self.framing(slot) {
            Framing::Plain => self.enqueue_shared(slot, frames.plain()),
            framing => {
                let framed = self.shaper.shared(frames, framing);
                self.enqueue_shared(slot, &framed);
            }
        }
    }

    /// Sends a publication of which only the newest per key is worth keeping.
    pub fn send_keyed(&mut self, slot: Slot, key: &ConflationKey, frames: &Frames) {
        self.given += 1;
        match self.framing(slot) {
            Framing::Plain => self.enqueue_keyed(slot, key, frames.plain()),
            framing => {
                let framed = self.shaper.shared(frames, framing);
                self.enqueue_keyed(slot, key, &framed);
            }
        }
    }

    fn enqueue_shared(&mut self, slot: Slot, frames: &Bytes) {
        if !self.holds(slot, frames) {
            self.enqueue(slot, Waits::WithMany, |out| out.push(frames));
        }
    }

    fn enqueue_keyed(&mut self, slot: Slot, key: &ConflationKey, frames: &Bytes) {
        // So little is kept in pieces that no publication would take another's place.
        if !self.holds(slot, frames) {
            // Without a poll nothing leaves, however little it is.
            let waits = self.conn(slot).is_some_and(|conn| match &conn.transport {
                Transport::Polling(polling) => polling.get.is_none(),
                Transport::WebSocket(_) => false,
            });
            let mut replaced = false;
            self.enqueue(slot, Waits::WithMany, |out| {
                replaced = out.push_keyed(key, frames, waits);
            });
            self.stats.conflated += u64::from(replaced);
        }
    }

    /// Has the connection hold `frames` together with all others they are for. False if it
    /// needs a queue of its own for that.
    fn holds(&mut self, slot: Slot, frames: &Bytes) -> bool {
        let Some(conn) = self.conns.get_mut(slot) else {
            return false;
        };
        let is_websocket = matches!(conn.transport, Transport::WebSocket(_));
        if conn.phase != Phase::Open || conn.out.is_some() || !is_websocket {
            return false;
        }
        let held = match conn.piece.take() {
            None => Ok(self.pieces.hold(frames)),
            Some(first) => self.pieces.join(first, frames, self.settings.send_buffer),
        };
        let is_held = held.is_ok();
        let (Ok(piece) | Err(piece)) = held;
        conn.piece = Some(piece);
        self.writes.push(slot, &mut conn.waits, Waits::WithMany);
        is_held
    }

    /// The queue of what a connection has to send, with where it stands in line. What it held
    /// together with others is in it.
    pub(super) fn queue(&mut self, slot: Slot) -> Option<(&mut Outbound, &mut Waits, &mut Writes)> {
        let conn = self.conns.get_mut(slot)?;
        let out = conn
            .out
            .get_or_insert_with(|| self.pool.pop().unwrap_or_default());
        if let Some(piece) = conn.piece.take() {
            out.push(self.pieces.bytes(&piece));
            self.pieces.release(piece);
        }
        Some((out, &mut conn.waits, &mut self.writes))
    }

    pub(super) fn framing(&self, slot: Slot) -> Framing {
        self.conns
            .get(slot)
            .map_or(Framing::Plain, |conn| conn.framing)
    }

    /// Whether something sent now would leave at once.
    pub fn is_writable(&self, slot: Slot) -> bool {
        self.conn(slot).is_some_and(|conn| match &conn.transport {
            Transport::Polling(polling) => polling.get.is_some(),
            Transport::WebSocket(_) => !conn.out.as_ref().is_some_and(|out| out.blocked),
        })
    }

    pub(crate) fn enqueue(&mut self, slot: Slot, place: Waits, push: impl FnOnce(&mut Outbound)) {
        if self.conn(slot).is_none() {
            return;
        }
        let Some((out, waits, writes)) = self.queue(slot) else {
            return;
        };
        let is_second = out.holds_any();
        push(out);
        // Who takes no more stands in line again when the poller says that it does.
        if !out.blocked {
            writes.push(slot, waits, place);
        }
        // One message may always wait, however large; a second one over the
        // bound may mean that the peer does not keep up.
        if is_second && out.waiting() > self.settings.send_buffer {
            self.judge(slot);
        }
    }

    /// Ends a connection for which more waits than may, unless its peer takes it. One that takes
    /// no more is asked again only before it would be ended: that it takes more by now may not
    /// have been heard yet.
    fn judge(&mut self, slot: Slot) {
        let (bound, now) = (self.settings.send_buffer, self.now);
        let is_over = move |conn: &Conn| match (&conn.transport, &conn.out) {
            (_, None) => false,
            (Transport::WebSocket(_), Some(out)) => out.is_over(bound, now),
            (Transport::Polling(_), Some(out)) => out.waiting() > bound,
        };
        let is_blocked = |conn: &Conn| conn.out.as_ref().is_some_and(|out| out.blocked);
        if self
            .conn(slot)
            .is_some_and(|conn| !is_blocked(conn) || is_over(conn))
        {
            self.flush(slot);
        }
        if self.conn(slot).is_some_and(is_over) {
            self.close(slot, Reason::SlowConsumer);
        }
    }

    /// Writes to a connection whose turn has come. False if it does not stand in line:
    /// it has been written to since, or is another connection by now.
    pub(super) fn write_in_turn(&mut self, slot: Slot) -> bool {
        let stood = self
            .conns
            .get_mut(slot)
            .is_some_and(|conn| std::mem::take(&mut conn.waits) != Waits::Nowhere);
        if stood {
            self.flush(slot);
        }
        stood
    }

    /// Writes what waits, as far as the transport takes it. Where the connection stands in
    /// line is left as it is, so that it stands there once.
    pub(super) fn flush(&mut self, slot: Slot) {
        match self.conns.get(slot).map(|conn| &conn.transport) {
            Some(Transport::WebSocket(_)) => self.flush_websocket(slot),
            Some(Transport::Polling(_)) => self.flush_polling(slot),
            None => {}
        }
    }

    /// Writes what waits on every connection, without waiting for the turn's end.
    pub fn flush_all(&mut self) {
        while let Some(slot) = self
            .writes
            .pop_alone()
            .or_else(|| self.writes.pop_with_many())
        {
            self.write_in_turn(slot);
        }
    }

    pub(super) fn recycle(&mut self, mut out: Box<Outbound>) {
        if self.pool.len() < MAX_POOLED_QUEUES && out.recycle() {
            self.pool.push(out);
        }
    }

    // --- input -----------------------------------------------------------

    /// Stops taking in what the peer says, until [`resume`](Self::resume).
    pub fn pause(&mut self, slot: Slot) {
        if let Some(conn) = self.conns.get_mut(slot) {
            conn.paused = true;
        }
    }

    /// Goes on where [`pause`](Self::pause) stopped.
    pub fn resume(&mut self, slot: Slot) {
        if let Some(conn) = self.conns.get_mut(slot) {
            let more = match &conn.transport {
                Transport::WebSocket(websocket) => conn.unread || websocket.stash.is_some(),
                Transport::Polling(polling) => polling.held.is_some(),
            };
            if conn.ends && conn.phase == Phase::Open {
                return;
            }
            if std::mem::take(&mut conn.paused) && more {
                self.read_later(slot);
            }
        }
    }

    /// Has the connection read in the next turn although no event may come.
    pub(super) fn read_later(&mut self, slot: Slot) {
        if let Some(conn) = self.conns.get_mut(slot) {
            if !std::mem::replace(&mut conn.again, true) {
                self.again.push(slot);
            }
        }
    }

    /// A pong has come. Whether it was waited for.
    pub(super) fn pong(&mut self, slot: Slot) -> bool {
        let now = self.now;
        let Some(conn) = self.conns.get_mut(slot) else {
            return false;
        };
        let Some(rtt) = conn.heartbeat.pong(now) else {
            return false;
        };
        conn.rtt = micros(rtt).clamp(1, u64::from(u32::MAX)) as u32;
        self.stats.rtts.push(conn.rtt);
        true
    }

    /// Has the application told, by [`received`](crate::app::App::received), when it is known
    /// that what was sent has come.
    pub fn want_receipt(&mut self, slot: Slot) {
        if let Some(conn) = self.conns.get_mut(slot) {
            conn.receipt.want();
        }
    }

    /// A pong has come: before when all that was sent has come, if it proves that to who wants
    /// to know.
    pub(super) fn receipt(&mut self, slot: Slot) -> Option<Micros> {
        let conn = self.conns.get_mut(slot)?;
        let proves = conn.receipt.pong();
        proves.then(|| conn.heartbeat.last_ping())
    }
}

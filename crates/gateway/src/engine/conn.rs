//! One connection as its shard sees it.

use heartline_wire::ws::Decoder;

use super::frames::Shape;
use super::heartbeat::Heartbeat;
use super::outbound::Outbound;
use super::polling::Polling;
use super::slots::SlotGuard;
use super::stream::Stream;
use super::wheel::Micros;
use crate::reason::Reason;

/// Which protocol a connection speaks below its messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Engine.IO 4: packets with a type, text pings.
    EngineIo,
    /// Plain WebSocket: messages as they are, ping frames.
    Plain,
}

/// How a connection's bytes travel, as the registry and the metrics name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum TransportName {
    Polling,
    WebSocket,
    Live,
}

impl TransportName {
    pub(crate) const ALL: [TransportName; 3] = [Self::Polling, Self::WebSocket, Self::Live];

    pub(crate) fn word(self) -> &'static str {
        match self {
            TransportName::Polling => "polling",
            TransportName::WebSocket => "websocket",
            TransportName::Live => "live",
        }
    }
}

pub(crate) enum Transport {
    WebSocket(WebSocket),
    Polling(Box<Polling>),
}

pub(crate) struct WebSocket {
    pub(crate) stream: Stream,
    pub(crate) decoder: Decoder,
    /// permessage-deflate was negotiated: messages may come compressed.
    pub(crate) deflate: bool,
    /// Bytes that were read before the connection was paused.
    pub(crate) stash: Option<Box<Stash>>,
}

/// What was read and is not decoded yet.
pub(crate) struct Stash {
    pub(crate) bytes: Vec<u8>,
    /// How many of them are done with.
    pub(crate) at: usize,
}

impl Stash {
    /// `None` if there is nothing to keep.
    pub(crate) fn of(bytes: &[u8]) -> Option<Box<Self>> {
        let bytes = bytes.to_vec();
        (!bytes.is_empty()).then(|| Box::new(Stash { bytes, at: 0 }))
    }
}

impl WebSocket {
    pub(crate) fn new(stream: Stream, deflate: bool) -> Self {
        WebSocket {
            stream,
            decoder: Decoder::default(),
            deflate,
            stash: None,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    Open,
    /// Logically gone; its transport is being ended in good order.
    Closing(Reason),
}

pub(crate) struct Conn {
    pub(crate) generation: u32,
    pub(crate) kind: Kind,
    pub(crate) phase: Phase,
    /// Its input waits until the application has caught up.
    pub(crate) paused: bool,
    /// The socket may hold bytes of which no event will tell.
    pub(crate) unread: bool,
    /// It is in the list of connections to flush.
    pub(crate) dirty: bool,
    pub(crate) shape: Shape,
    /// The poller has told of the stream's end, which it does once: reading goes
    /// on until the end itself is read.
    pub(crate) hup: bool,
    /// What still comes in is not even decoded: the peer broke the framing, or has
    /// closed.
    pub(crate) discard: bool,
    /// The transport has ended; the slot is freed once the application knows.
    pub(crate) gone: bool,
    /// The application knows that the connection is over.
    pub(crate) told: bool,
    pub(crate) transport: Transport,
    pub(crate) out: Option<Box<Outbound>>,
    pub(crate) heartbeat: Heartbeat,
    pub(crate) rtt: u32,
    pub(crate) last_seen: Micros,
    pub(crate) connected_at: Micros,
    /// When the application wants to be asked; `Micros::MAX` for never.
    pub(crate) app_deadline: Micros,
    pub(crate) close_deadline: Micros,
    pub(crate) secret: [u8; 12],
    pub(crate) guard: SlotGuard,
}

impl Conn {
    pub(crate) fn transport_name(&self) -> TransportName {
        match (&self.transport, self.kind) {
            (Transport::Polling(_), _) => TransportName::Polling,
            (_, Kind::EngineIo) => TransportName::WebSocket,
            (_, Kind::Plain) => TransportName::Live,
        }
    }
}

/// The connections of a shard by slot. Slots are used again, lowest cost first;
/// generations tell their users apart.
#[derive(Default)]
pub(crate) struct Slab {
    conns: Vec<Option<Conn>>,
    generations: Vec<u32>,
    free: Vec<u32>,
}

impl Slab {
    /// Takes a slot and tells its generation.
    pub(crate) fn reserve(&mut self) -> (u32, u32) {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.conns.push(None);
            self.generations.push(0);
            self.conns.len() as u32 - 1
        });
        (slot, self.generations[slot as usize])
    }

    pub(crate) fn put(&mut self, slot: u32, conn: Conn) {
        self.conns[slot as usize] = Some(conn);
    }

    pub(crate) fn remove(&mut self, slot: u32) -> Option<Conn> {
        let conn = self.conns.get_mut(slot as usize)?.take()?;
        self.generations[slot as usize] = self.generations[slot as usize].wrapping_add(1);
        self.free.push(slot);
        Some(conn)
    }

    pub(crate) fn get(&self, slot: u32) -> Option<&Conn> {
        self.conns.get(slot as usize)?.as_ref()
    }

    pub(crate) fn get_mut(&mut self, slot: u32) -> Option<&mut Conn> {
        self.conns.get_mut(slot as usize)?.as_mut()
    }

    pub(crate) fn len(&self) -> usize {
        self.conns.len() - self.free.len()
    }

    pub(crate) fn slots(&self) -> impl Iterator<Item = u32> + '_ {
        self.conns
            .iter()
            .enumerate()
            .filter_map(|(slot, conn)| conn.as_ref().map(|_| slot as u32))
    }
}

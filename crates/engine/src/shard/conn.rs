//! One connection as its shard sees it.

use heartline_wire::id::Slot;
use heartline_wire::reason::Reason;
use heartline_wire::time::Micros;
use heartline_wire::ws;

use crate::shard::frames::Framing;
use crate::shard::heartbeat::Heartbeat;
use crate::shard::outbound::Outbound;
use crate::shard::pieces::Piece;
use crate::shard::polling::Polling;
use crate::shard::receipt::Receipt;
use crate::shard::request::Protocol;
use crate::shard::stream::WebSocket;
use crate::shard::writes::Waits;
use crate::slots::SlotGuard;

/// How a connection's bytes travel, as the registry and the metrics name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TransportName {
    /// Engine.IO over HTTP long-polling.
    Polling,
    /// Engine.IO over WebSocket.
    WebSocket,
    /// Plain WebSocket.
    Live,
}

impl TransportName {
    /// All of them, in the order of their discriminants.
    pub const ALL: [TransportName; 3] = [Self::Polling, Self::WebSocket, Self::Live];

    /// The word for it in the registry and the metrics.
    pub fn as_str(self) -> &'static str {
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

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    Open,
    /// Logically gone; its transport is being ended in good order.
    Closing(Reason),
}

/// One connection.
pub struct Conn {
    pub(crate) generation: u32,
    /// What it speaks.
    pub protocol: Protocol,
    pub(crate) phase: Phase,
    /// Its input waits until the application has caught up.
    pub paused: bool,
    /// The socket may hold bytes of which no event will tell.
    pub(crate) unread: bool,
    /// It is read in the next turn, whether or not an event comes.
    pub(crate) again: bool,
    /// Where it stands among those that have something to write.
    pub(crate) waits: Waits,
    pub(crate) framing: Framing,
    /// The poller has told of the stream's end, which it does once: reading goes
    /// on until the end itself is read.
    pub(crate) hup: bool,
    /// What still comes in is not even decoded: the peer broke the framing, or has
    /// closed.
    pub(crate) discard: bool,
    /// The transport has ended; the slot is freed once the application knows.
    pub(crate) gone: bool,
    /// Its peer has done what ends it, which is acted on behind what was to be answered then.
    /// It is paused until that.
    pub(crate) ends: bool,
    /// The application knows that the connection is over.
    pub(crate) told: bool,
    pub(crate) transport: Transport,
    /// What waits, if it is only what waits for others too. Then there is no `out`.
    pub(crate) piece: Option<Piece>,
    pub(crate) out: Option<Box<Outbound>>,
    pub(crate) heartbeat: Heartbeat,
    pub(crate) receipt: Receipt,
    /// The last ping's round trip, µs; 0 while none has been measured.
    pub rtt: u32,
    /// When something was last heard from it.
    pub last_seen: Micros,
    /// When it began.
    pub connected_at: Micros,
    /// When the application wants to be asked; `Micros::MAX` for never.
    pub(crate) app_deadline: Micros,
    pub(crate) close_deadline: Micros,
    pub(crate) secret: [u8; 12],
    /// The peer has closed with 1000: it does not mean to come back.
    pub(crate) said_goodbye: bool,
    /// The application has let it in.
    pub(crate) let_in: bool,
    pub(crate) guard: SlotGuard,
}

impl Conn {
    /// The client's address.
    pub fn ip(&self) -> std::net::IpAddr {
        self.guard.ip()
    }

    /// How it travels at present.
    pub fn transport_name(&self) -> TransportName {
        match (&self.transport, self.protocol) {
            (Transport::Polling(_), _) => TransportName::Polling,
            (_, Protocol::EngineIo) => TransportName::WebSocket,
            (_, Protocol::Plain) => TransportName::Live,
        }
    }
}

/// What a peer has done that ends its connection.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Ending {
    /// It has ended its half of the stream.
    Half,
    /// It broke the framing: nothing that follows can be understood.
    Broken(ws::Error),
    /// It has sent a close frame with this code.
    Close(u16),
    /// It has said what nobody may say, or its goodbye.
    Said {
        reason: Reason,
        code: u16,
        text: &'static str,
    },
}

/// The same with the connection, by slot and generation.
#[derive(Debug)]
pub(crate) struct PeerEnds {
    pub(crate) slot: Slot,
    pub(crate) generation: u32,
    pub(crate) ending: Ending,
}

/// The connections of a shard by slot. Slots are used again, lowest cost first;
/// generations tell their users apart.
#[derive(Default)]
pub(crate) struct Slab {
    conns: Vec<Option<Conn>>,
    generations: Vec<u32>,
    free: Vec<Slot>,
    /// Free as well, but the lists of the turn (what the poller tells, whose deadlines are in
    /// doubt) may still name them for who was there.
    freed: Vec<Slot>,
}

impl Slab {
    /// Takes a slot and tells its generation.
    pub(crate) fn reserve(&mut self) -> (Slot, u32) {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.conns.push(None);
            self.generations.push(0);
            Slot(self.conns.len() as u32 - 1)
        });
        (slot, self.generations[slot.index()])
    }

    /// The generation of a slot's present or next user.
    pub(crate) fn generation(&self, slot: Slot) -> u32 {
        self.generations[slot.index()]
    }

    /// Gives back a slot that was taken for nobody in the end.
    pub(crate) fn give_back(&mut self, slot: Slot) {
        self.freed.push(slot);
    }

    /// What the poller has told of is heard: slots that were freed by now can be used again.
    pub(crate) fn use_again(&mut self) {
        self.free.append(&mut self.freed);
    }

    pub(crate) fn put(&mut self, slot: Slot, conn: Conn) {
        self.conns[slot.index()] = Some(conn);
    }

    pub(crate) fn remove(&mut self, slot: Slot) -> Option<Conn> {
        let conn = self.conns.get_mut(slot.index())?.take()?;
        self.generations[slot.index()] = self.generations[slot.index()].wrapping_add(1);
        self.freed.push(slot);
        Some(conn)
    }

    pub(crate) fn get(&self, slot: Slot) -> Option<&Conn> {
        self.conns.get(slot.index())?.as_ref()
    }

    pub(crate) fn get_mut(&mut self, slot: Slot) -> Option<&mut Conn> {
        self.conns.get_mut(slot.index())?.as_mut()
    }

    pub(crate) fn len(&self) -> usize {
        self.conns.len() - self.free.len() - self.freed.len()
    }

    pub(crate) fn slots(&self) -> impl Iterator<Item = Slot> + '_ {
        self.conns
            .iter()
            .enumerate()
            .filter_map(|(slot, conn)| conn.as_ref().map(|_| Slot(slot as u32)))
    }
}

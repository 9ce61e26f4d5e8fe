//! Those who have come to a shard by TCP and not asked for anything yet, as data; and what the
//! shard asks the HTTP side about them.

use std::collections::VecDeque;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hashbrown::HashMap;
use heartline_wire::id::Slot;
use heartline_wire::time::Micros;
use mio::net::TcpStream;

use crate::http::accept::Inside;
use crate::shard::listener::Listener;
use crate::shard::request::{Handshake, Protocol};
use crate::slots::SlotGuard;

/// How long a client may take to send a request's headers, or to finish TLS.
pub(crate) const HEADER_TIMEOUT: Duration = Duration::from_secs(10);

/// What the HTTP side knows of newcomers.
pub(crate) trait Doorman: Send + Sync {
    /// Whether one may speak HTTP here; else the connection is closed.
    fn enter(&self, tcp: &TcpStream, peer: IpAddr) -> Option<Inside>;

    /// Hands a newcomer on if another shard has clearly fewer connections than the one with
    /// this number, which has so many; else gives them back.
    fn hand_on(&self, arrival: Arrival, shard: u16, connections: usize) -> Option<Arrival>;

    /// What is opened for a request, of which this much has come; `None` if HTTP is to decide.
    fn open(&self, read: &[u8], peer: IpAddr) -> Option<Opening>;

    /// Has HTTP serve a connection.
    fn serve(self: Arc<Self>, caller: Caller);

    /// A connection could not be accepted. Whether the next one may be at once.
    fn not_accepted(&self, error: &io::Error) -> bool;
}

/// A WebSocket that a request begins.
pub(crate) struct Opening {
    pub(crate) protocol: Protocol,
    pub(crate) base64: bool,
    /// HTTP's last response.
    pub(crate) preface: Vec<u8>,
    /// The window of permessage-deflate, if that was negotiated.
    pub(crate) deflate: Option<u8>,
    pub(crate) handshake: Handshake,
    pub(crate) guard: SlotGuard,
    /// Bytes of the request; frames may follow.
    pub(crate) head: usize,
}

/// Whose request, as far as it has come, is for HTTP.
pub(crate) struct Caller {
    pub(crate) tcp: std::net::TcpStream,
    pub(crate) peer: IpAddr,
    pub(crate) inside: Inside,
    /// What was read of the connection.
    pub(crate) read: Bytes,
    /// How long the rest of the request's head may take.
    pub(crate) patience: Duration,
}

/// A socket to listen on.
pub(crate) struct Listening {
    /// Tells it from others.
    pub(crate) id: usize,
    pub(crate) listener: Listener,
    pub(crate) doorman: Arc<dyn Doorman>,
}

/// Who has been accepted.
pub(crate) struct Arrival {
    pub(crate) tcp: TcpStream,
    pub(crate) peer: IpAddr,
    pub(crate) inside: Inside,
    pub(crate) doorman: Arc<dyn Doorman>,
    /// Until when the first request may come.
    pub(crate) until: Micros,
}

/// The listeners of a shard and those who wait before they ask.
#[derive(Default)]
pub(crate) struct Arrivals {
    pub(crate) listeners: HashMap<usize, Listening>,
    /// By the slot that is kept for them.
    pub(crate) waiting: HashMap<u32, Waiting>,
    /// Where somebody has spoken for whom there was no time yet.
    pub(crate) unheard: VecDeque<Slot>,
    /// When newcomers have a turn although no event comes.
    pub(crate) again: Option<Micros>,
    /// For how many newcomers this turn has still time.
    pub(crate) room: usize,
    /// Somebody was handed on.
    pub(crate) handed_on: bool,
}

/// Who has been accepted and has not asked yet.
pub(crate) struct Waiting {
    pub(crate) arrival: Arrival,
    /// The poller has told of something to read, and nobody has read it.
    pub(crate) spoke: bool,
    /// The poller has told of the stream's end, which it does once.
    pub(crate) hup: bool,
}

/// Newcomers who are accepted or heard in one turn: some milliseconds of it. Of those who have
/// connected, thousands may speak in one moment.
pub(crate) const NEWCOMERS: usize = 64;

impl Arrivals {
    /// When a turn is due for them, deadlines aside.
    pub(crate) fn next_wake(&self) -> Option<Micros> {
        self.again
    }

    /// Whether there is time for one more in this turn, who has it then.
    pub(crate) fn has_room(&mut self) -> bool {
        let room = self.room;
        self.room = room.saturating_sub(1);
        room > 0
    }

    /// Has a turn begin with newcomers at this moment, or at an earlier one.
    pub(crate) fn again_at(&mut self, at: Micros) {
        self.again = Some(self.again.map_or(at, |again| again.min(at)));
    }
}

//! Those who have come to a shard by TCP and not asked for anything yet, as data; and what the
//! shard asks the HTTP side about them.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hashbrown::HashMap;
use heartline_wire::time::Micros;
use mio::net::{TcpListener, TcpStream};

use crate::http::accept::Inside;
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

    /// Has HTTP serve a connection of which this was read. The rest of its first request's
    /// head may take `patience`.
    fn serve(
        self: Arc<Self>,
        tcp: std::net::TcpStream,
        peer: IpAddr,
        inside: Inside,
        read: Bytes,
        patience: Duration,
    );

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

/// A socket to listen on.
pub(crate) struct Listening {
    /// Tells it from others.
    pub(crate) id: usize,
    pub(crate) listener: TcpListener,
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
    pub(crate) waiting: HashMap<u32, Arrival>,
    /// When it is tried again to accept although no event comes.
    pub(crate) again: Option<Micros>,
}

impl Arrivals {
    /// When a turn is due for them, deadlines aside.
    pub(crate) fn next_wake(&self) -> Option<Micros> {
        self.again
    }
}

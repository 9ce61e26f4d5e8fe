//! Who comes to a shard by TCP, and has not asked for anything yet.
//!
//! Every shard listens itself, on a descriptor of its own for the one listening socket, and
//! reads the request of whoever it accepts. If that is a whole and plain one for a new
//! WebSocket, the connection is here from its first byte on: no other thread, no other poller
//! and no task have seen it. Everything else, what is refused too, is HTTP's, which gets the
//! socket with what was read ([`Doorman`](crate::shard::newcomers::Doorman)).
//!
//! With several shards all are woken for a newcomer who comes while they sleep, and the first
//! takes them: one that is busy keeps nobody waiting. A shard that has clearly more
//! connections than another hands on whom it accepts.

use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::time::Duration;

use bytes::Bytes;
use heartline_wire::id::Slot;
use mio::{Interest, Token};
use tokio::sync::oneshot;

use crate::app::App;
use crate::shard::Shard;
use crate::shard::engine::Place;
use crate::shard::newcomers::{Arrival, HEADER_TIMEOUT, Listening};
use crate::shard::request::Upgraded;

/// Marks the poller's token of a listener.
pub(crate) const LISTENER: usize = 1 << 41;
/// Connections that one turn accepts: some milliseconds of it.
const ACCEPTS: usize = 64;
/// How long nothing is accepted when nothing can be.
const PAUSE: Duration = Duration::from_millis(50);
/// What is read of a request at once; hyper's bound on a head is the same.
const HEAD: usize = 16 * 1024;

impl<A: App> Shard<A> {
    /// Accepts on one more socket.
    pub(super) fn listen(&mut self, mut listening: Listening) {
        let token = Token(LISTENER | listening.id);
        let registry = &self.engine.registry;
        if let Err(error) = registry.register(&mut listening.listener, token, Interest::READABLE) {
            tracing::error!(%error, "a listener could not be registered with the poller");
            return;
        }
        self.arrivals.listeners.insert(listening.id, listening);
    }

    /// Accepts on it no more; `closed` is dropped when its descriptor is.
    pub(super) fn listen_no_more(&mut self, id: usize, closed: oneshot::Sender<()>) {
        self.arrivals.listeners.remove(&id);
        drop(closed);
    }

    /// Accepts who has come to a listener.
    pub(super) fn accept(&mut self, token: usize) {
        self.accept_from(token & !LISTENER);
    }

    /// Accepts those for whom there was no time, or no descriptor.
    pub(super) fn accept_again(&mut self) {
        if self.arrivals.again.is_some_and(|at| at <= self.engine.now) {
            self.arrivals.again = None;
            let ids: Vec<usize> = self.arrivals.listeners.keys().copied().collect();
            for id in ids {
                self.accept_from(id);
            }
        }
    }

    fn accept_from(&mut self, id: usize) {
        for _ in 0..ACCEPTS {
            let Some(listening) = self.arrivals.listeners.get(&id) else {
                return;
            };
            match listening.listener.accept() {
                Ok((tcp, peer)) => {
                    let (peer, doorman) = (peer.ip(), listening.doorman.clone());
                    if let Some(inside) = doorman.enter(&tcp, peer) {
                        let until = self.engine.now + HEADER_TIMEOUT;
                        self.place(Arrival {
                            tcp,
                            peer,
                            inside,
                            doorman,
                            until,
                        });
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if listening.doorman.not_accepted(&error) => {}
                Err(_) => {
                    self.arrivals.again = Some(self.engine.now + PAUSE);
                    return;
                }
            }
        }
        self.arrivals.again = Some(self.engine.now);
    }

    /// Takes in who was accepted, unless that is for a shard with fewer connections.
    fn place(&mut self, arrival: Arrival) {
        let doorman = arrival.doorman.clone();
        let connections = self.connections();
        if let Some(arrival) = doorman.hand_on(arrival, self.engine.shard, connections) {
            self.arrived(arrival);
        }
    }

    /// Reads the request of a newcomer if it has come by now, or waits for it.
    pub(super) fn arrived(&mut self, mut arrival: Arrival) {
        let mut buffer = std::mem::take(&mut self.read_buffer);
        let read = arrival.tcp.read(&mut buffer[..HEAD]);
        match read {
            Err(error) if is_passing(&error) => self.wait_for(arrival),
            Ok(n) if n > 0 => self.asked(arrival, &buffer[..n], None),
            // It left without a word.
            _ => {}
        }
        self.read_buffer = buffer;
    }

    /// How many connections there are; who has not asked for one has a slot at most.
    pub(super) fn connections(&self) -> usize {
        self.engine.taken() - self.arrivals.waiting.len()
    }

    fn wait_for(&mut self, mut arrival: Arrival) {
        let (slot, _) = self.engine.conns.reserve();
        let interest = Interest::READABLE | Interest::WRITABLE;
        let token = Token(slot.index());
        let registry = &self.engine.registry;
        if let Err(error) = registry.register(&mut arrival.tcp, token, interest) {
            tracing::warn!(%error, "a connection could not be registered with the poller");
            self.engine.conns.give_back(slot);
            return;
        }
        self.engine.wheel.set(slot, arrival.until);
        self.arrivals.waiting.insert(slot.0, arrival);
    }

    /// Something has come for a slot that no connection has.
    pub(super) fn arrival_readable(&mut self, slot: Slot) {
        let Some(arrival) = self.arrivals.waiting.get_mut(&slot.0) else {
            return;
        };
        let mut buffer = std::mem::take(&mut self.read_buffer);
        let read = arrival.tcp.read(&mut buffer[..HEAD]);
        match read {
            Err(error) if is_passing(&error) => {}
            Ok(n) if n > 0 => {
                if let Some(arrival) = self.arrivals.waiting.remove(&slot.0) {
                    self.asked(arrival, &buffer[..n], Some(slot));
                }
            }
            _ => self.give_up(slot),
        }
        self.read_buffer = buffer;
    }

    /// A newcomer has left, or has not asked in time.
    pub(super) fn give_up(&mut self, slot: Slot) {
        if self.arrivals.waiting.remove(&slot.0).is_some() {
            self.let_go(slot);
        }
    }

    /// Nobody waits for the slot any more.
    fn let_go(&mut self, slot: Slot) {
        self.engine.wheel.cancel(slot);
        self.engine.conns.give_back(slot);
    }

    /// The first bytes of a request have come. The newcomer has waited in the slot `kept`.
    fn asked(&mut self, arrival: Arrival, read: &[u8], kept: Option<Slot>) {
        let Arrival {
            mut tcp,
            peer,
            inside,
            doorman,
            until,
        } = arrival;
        let Some(opening) = doorman.open(read, peer) else {
            if let Some(slot) = kept {
                // Closed with the descriptor at the latest.
                let _ = self.engine.registry.deregister(&mut tcp);
                self.let_go(slot);
            }
            let patience = until - self.engine.now;
            let tcp = OwnedFd::from(tcp).into();
            return doorman.serve(tcp, peer, inside, Bytes::copy_from_slice(read), patience);
        };
        let upgraded = Upgraded {
            tcp: OwnedFd::from(tcp).into(),
            tls: None,
            preface: opening.preface,
            leftover: Bytes::copy_from_slice(&read[opening.head..]),
            deflate: opening.deflate,
        };
        let (protocol, base64) = (opening.protocol, opening.base64);
        let place = Place {
            guard: opening.guard,
            kept,
        };
        let opened = self.open_websocket(protocol, base64, upgraded, opening.handshake, place);
        if let Some(slot) = opened.filter(|_| kept.is_some() && read.len() == HEAD) {
            // There may be more, of which the poller has told.
            self.engine.read_later(slot);
        }
    }
}

fn is_passing(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
    )
}

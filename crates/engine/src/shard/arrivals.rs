//! Who comes to a shard by TCP, and has not asked for anything yet.
//!
//! Every shard listens itself, on a [descriptor of its own](crate::shard::listener) for the one
//! listening socket, and reads the request of whoever it accepts. If that is a whole and plain one
//! for a new WebSocket, the connection is here from its first byte on: no other thread, no other
//! poller and no task have seen it. Everything else, what is refused too, is HTTP's, which gets
//! the socket with what was read ([`Doorman`](crate::shard::newcomers::Doorman)).
//!
//! A shard that has clearly more connections than another hands on whom it accepts.

use std::io::{self, Read};
use std::os::fd::OwnedFd;

use bytes::Bytes;
use heartline_wire::id::Slot;
use mio::{Interest, Token};
use tokio::sync::oneshot;

use crate::app::App;
use crate::http::accept::PAUSE;
use crate::http::served::HEADER_BYTES;
use crate::shard::Shard;
use crate::shard::engine::Place;
use crate::shard::newcomers::{Arrival, Caller, HEADER_TIMEOUT, Listening, NEWCOMERS, Waiting};
use crate::shard::request::Upgraded;

/// Marks the poller's token of a listener.
pub(crate) const LISTENER: usize = 1 << 41;
/// Connections that wait at a listener which is closed are accepted first, as closing resets
/// them; and no more than so many, as others may go on coming.
const LAST: usize = 4096;

impl<A: App> Shard<A> {
    /// Accepts on one more socket.
    pub(super) fn listen(&mut self, mut listening: Listening) {
        let token = Token(LISTENER | listening.id);
        if let Err(error) = listening.listener.join(&self.engine.registry, token) {
            tracing::error!(%error, "a listener could not be registered with the poller");
            return;
        }
        self.arrivals.listeners.insert(listening.id, listening);
    }

    /// Accepts on it no more; `closed` is dropped when its descriptor is.
    pub(super) fn listen_no_more(&mut self, id: usize, closed: oneshot::Sender<()>) {
        for _ in 0..LAST {
            if !self.accept_one(id).is_ok_and(|accepted| accepted) {
                break;
            }
        }
        if let Some(mut listening) = self.arrivals.listeners.remove(&id) {
            listening.listener.leave(&self.engine.registry);
        }
        drop(closed);
    }

    /// Accepts who has come to a listener.
    pub(super) fn accept(&mut self, token: usize) {
        self.accept_from(token & !LISTENER);
    }

    /// Begins a turn with those for whom there was no time in the last, or no descriptor.
    pub(super) fn go_on_with_newcomers(&mut self) {
        self.arrivals.room = NEWCOMERS;
        for _ in 0..NEWCOMERS {
            let Some(slot) = self.arrivals.unheard.pop_front() else {
                break;
            };
            let waiting = self.arrivals.waiting.get(&slot.0);
            if waiting.is_some_and(|waiting| waiting.spoke) {
                self.arrival_readable(slot, false);
            }
        }
        if self.arrivals.again.is_some_and(|at| at <= self.engine.now) {
            self.arrivals.again = None;
            let ids: Vec<usize> = self.arrivals.listeners.keys().copied().collect();
            for id in ids {
                self.accept_from(id);
            }
        }
        if !self.arrivals.unheard.is_empty() {
            self.arrivals.again_at(self.engine.now);
        }
    }

    fn accept_from(&mut self, id: usize) {
        loop {
            if !self.arrivals.has_room() {
                self.arrivals.again_at(self.engine.now);
                break;
            }
            match self.accept_one(id) {
                Ok(true) => {}
                Ok(false) => break,
                Err(_) => {
                    self.arrivals.again_at(self.engine.now + PAUSE);
                    break;
                }
            }
        }
        if std::mem::take(&mut self.arrivals.handed_on) {
            self.fall_behind(id);
        }
    }

    /// Accepts one of those who have come to a listener. Whether there may be more of them.
    ///
    /// # Errors
    /// When none can be accepted at present.
    fn accept_one(&mut self, id: usize) -> io::Result<bool> {
        let Some(listening) = self.arrivals.listeners.get(&id) else {
            return Ok(false);
        };
        match listening.listener.accept() {
            Ok((tcp, peer)) => {
                let (peer, doorman) = (peer.ip(), listening.doorman.clone());
                if let Some(inside) = doorman.enter(&tcp, peer) {
                    let until = self.engine.now + HEADER_TIMEOUT;
                    let arrival = Arrival {
                        tcp,
                        peer,
                        inside,
                        doorman,
                        until,
                    };
                    self.place(arrival);
                }
                Ok(true)
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
            Err(error) if listening.doorman.not_accepted(&error) => Ok(true),
            Err(error) => Err(error),
        }
    }

    /// Takes in who was accepted, unless that is for a shard with fewer connections.
    fn place(&mut self, arrival: Arrival) {
        let doorman = arrival.doorman.clone();
        let connections = self.engine.connections();
        match doorman.hand_on(arrival, self.engine.shard, connections) {
            Some(arrival) => self.read_first(arrival),
            None => self.arrivals.handed_on = true,
        }
    }

    /// Of the shards that sleep, the others are woken first.
    fn fall_behind(&mut self, id: usize) {
        let Some(listening) = self.arrivals.listeners.get_mut(&id) else {
            return;
        };
        let token = Token(LISTENER | id);
        let moved = listening.listener.fall_behind(&self.engine.registry, token);
        if let Err(error) = moved {
            // The other shards listen.
            tracing::error!(%error, "a listener could not be registered with the poller again");
        }
    }

    /// Takes in whom another shard has accepted.
    pub(super) fn arrived(&mut self, arrival: Arrival) {
        match self.arrivals.has_room() {
            true => self.read_first(arrival),
            false => self.wait_for(arrival),
        }
    }

    /// Reads the request of a newcomer if it has come by now, or waits for it.
    fn read_first(&mut self, mut arrival: Arrival) {
        let mut buffer = std::mem::take(&mut self.read_buffer);
        let read = arrival.tcp.read(&mut buffer[..HEADER_BYTES]);
        match read {
            Err(error) if is_passing(&error) => self.wait_for(arrival),
            Ok(n) if n > 0 => drop(self.asked(arrival, &buffer[..n], None)),
            // It left without a word.
            _ => {}
        }
        self.read_buffer = buffer;
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
        let waiting = Waiting {
            arrival,
            spoke: false,
            hup: false,
        };
        self.arrivals.waiting.insert(slot.0, waiting);
    }

    /// Something has come for a slot that no connection has; the stream has `ended` with it.
    pub(super) fn arrival_readable(&mut self, slot: Slot, ended: bool) {
        let Some(waiting) = self.arrivals.waiting.get_mut(&slot.0) else {
            return;
        };
        waiting.hup |= ended;
        if self.arrivals.room == 0 {
            if !std::mem::replace(&mut waiting.spoke, true) {
                self.arrivals.unheard.push_back(slot);
                self.arrivals.again_at(self.engine.now);
            }
            return;
        }
        self.arrivals.room -= 1;
        waiting.spoke = false;
        let mut buffer = std::mem::take(&mut self.read_buffer);
        let read = waiting.arrival.tcp.read(&mut buffer[..HEADER_BYTES]);
        match read {
            Err(error) if is_passing(&error) => {}
            Ok(n) if n > 0 => self.first_words(slot, &buffer[..n]),
            _ => self.give_up(slot),
        }
        self.read_buffer = buffer;
    }

    /// Who waits in a slot has said this.
    fn first_words(&mut self, slot: Slot, read: &[u8]) {
        let Some(Waiting { arrival, hup, .. }) = self.arrivals.waiting.remove(&slot.0) else {
            return;
        };
        let opened = self.asked(arrival, read, Some(slot));
        // What has come besides, be it the end, the poller has told already.
        if let Some(slot) = opened.filter(|_| hup || read.len() == HEADER_BYTES) {
            if let Some(conn) = self.engine.conns.get_mut(slot) {
                conn.hup |= hup;
            }
            self.engine.read_later(slot);
        }
    }

    /// The time is over in which a newcomer should have asked.
    pub(super) fn has_not_asked(&mut self, slot: Slot) {
        let waiting = self.arrivals.waiting.get(&slot.0);
        // What was said in time is heard, later than it should have been.
        if waiting.is_some_and(|waiting| !waiting.spoke) {
            self.give_up(slot);
        }
    }

    /// A newcomer is not waited for any more.
    fn give_up(&mut self, slot: Slot) {
        if self.arrivals.waiting.remove(&slot.0).is_some() {
            self.let_go(slot);
        }
    }

    /// Nobody waits for the slot any more.
    fn let_go(&mut self, slot: Slot) {
        self.engine.wheel.cancel(slot);
        self.engine.conns.give_back(slot);
    }

    /// The first bytes of a request have come; the slot of the WebSocket that they open. The
    /// newcomer has waited in the slot `kept`.
    fn asked(&mut self, arrival: Arrival, read: &[u8], kept: Option<Slot>) -> Option<Slot> {
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
            doorman.serve(Caller {
                tcp: OwnedFd::from(tcp).into(),
                peer,
                inside,
                read: Bytes::copy_from_slice(read),
                patience: until - self.engine.now,
            });
            return None;
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
        self.open_websocket(protocol, base64, upgraded, opening.handshake, place)
    }
}

fn is_passing(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
    )
}

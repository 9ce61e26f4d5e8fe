//! Reading from and writing to WebSocket connections, and the upgrade that
//! makes one of a polling session (Engine.IO protocol 4, "Upgrade").

use std::io::{self, IoSlice};

use heartline_wire::engineio;
use heartline_wire::engineio::Packet;
use heartline_wire::id::Slot;
use heartline_wire::reason::Reason;
use heartline_wire::time::Micros;
use heartline_wire::ws::{self, Message, OpCode, Role};

use crate::app::{App, Data};
use crate::shard::conn::{Ending, Phase, Transport};
use crate::shard::engine::Engine;
use crate::shard::request::Protocol;
use crate::shard::stream::{Stash, Stream};
use crate::shard::writes::Waits;
use crate::shard::{READ_BUFFER, Shard};

/// Slices given to one `writev`.
const SLICES: usize = 64;
/// Reads of one connection per turn; then the others come first.
pub(super) const READS_PER_TURN: usize = 4;

impl Engine {
    /// Writes what waits, as far as the socket takes it.
    pub(crate) fn flush_websocket(&mut self, slot: Slot) {
        if !self.flush_piece(slot) {
            self.flush_queue(slot);
        }
    }

    /// Writes what a connection holds together with others. False if it has a queue, by now.
    fn flush_piece(&mut self, slot: Slot) -> bool {
        let Some(conn) = self.conns.get_mut(slot) else {
            return false;
        };
        let (Transport::WebSocket(websocket), Some(piece)) = (&mut conn.transport, &conn.piece)
        else {
            return false;
        };
        let bytes = self.pieces.bytes(piece);
        let written = match &websocket.stream {
            Stream::Plain(_) => websocket.stream.write(&[IoSlice::new(bytes)]),
            // What it has encrypted and not sent yet is the queue's business.
            Stream::Tls(_) => Ok(0),
        };
        // An error is met again by who writes the queue.
        let written = written.unwrap_or(0);
        if written == bytes.len() {
            if let Some(piece) = conn.piece.take() {
                self.pieces.release(piece);
            }
            return true;
        }
        if let Some((out, ..)) = self.queue(slot) {
            out.advance(written);
        }
        false
    }

    fn flush_queue(&mut self, slot: Slot) {
        let Some(conn) = self.conns.get_mut(slot) else {
            return;
        };
        let Transport::WebSocket(websocket) = &mut conn.transport else {
            return;
        };
        let mut error = None;
        let mut done = true;
        if let Some(out) = &mut conn.out {
            loop {
                if out.is_empty() {
                    out.blocked = false;
                    match websocket.stream.flush() {
                        Ok(flushed) => done = flushed,
                        Err(failed) => error = Some(failed),
                    }
                    break;
                }
                let mut slices = [IoSlice::new(&[]); SLICES];
                let count = out.gather(&mut slices);
                match websocket.stream.write(&slices[..count]) {
                    Ok(written) => {
                        let all = slices[..count]
                            .iter()
                            .map(|slice| slice.len())
                            .sum::<usize>();
                        out.advance(written);
                        // A short write says the socket is full; asking again
                        // would only hear WouldBlock, and the event comes anyway.
                        if written < all && matches!(websocket.stream, Stream::Plain(_)) {
                            out.block(self.now);
                            done = false;
                            break;
                        }
                    }
                    Err(failed) if failed.kind() == io::ErrorKind::WouldBlock => {
                        out.block(self.now);
                        done = false;
                        break;
                    }
                    Err(failed) if failed.kind() == io::ErrorKind::Interrupted => {}
                    Err(failed) => {
                        error = Some(failed);
                        break;
                    }
                }
            }
        }
        if let Some(error) = error {
            self.lost(slot, reason_of(&error));
            return;
        }
        if done {
            if conn.discard && conn.phase != Phase::Open {
                // Nothing sensible will come from the peer; its answer is that
                // it ends the stream as well.
                let _ = websocket
                    .stream
                    .socket()
                    .shutdown(std::net::Shutdown::Write);
            }
            if let Some(out) = conn.out.take() {
                self.recycle(out);
            }
        }
    }

    /// The socket takes bytes again: what is left for it stands in line.
    pub(crate) fn writable(&mut self, slot: Slot) {
        if let Some(conn) = self.conns.get_mut(slot) {
            // An event says so whatever it is about: who stands in line waits there.
            let has_some = conn.out.is_some() || conn.piece.is_some();
            if has_some && conn.waits == Waits::Nowhere {
                self.writes.push(slot, &mut conn.waits, Waits::Alone);
            }
        }
    }
}

fn reason_of(error: &io::Error) -> Reason {
    match error.kind() {
        io::ErrorKind::ConnectionReset
        | io::ErrorKind::BrokenPipe
        | io::ErrorKind::UnexpectedEof => Reason::TransportClosed,
        _ => Reason::TransportError,
    }
}

/// Bytes of compressed messages, as they were before or as they came where that is more, that one
/// connection is heard with in a turn: as many as one that does not compress can bring. They may be
/// a thousand times what came, and each is parsed.
pub(super) const INFLATED_PER_TURN: usize = READS_PER_TURN * READ_BUFFER;

/// What becomes of a connection after one of its messages.
enum Next {
    Go,
    /// Enough for this turn: the others come first.
    Later,
    /// Stop reading: paused, closing or gone.
    Stop,
}

impl<A: App> Shard<A> {
    /// Reads what has come for `slot` and hands it on, message by message.
    pub(crate) fn readable(&mut self, slot: Slot) {
        // Since when is not known; what comes whole in one turn has held nothing up.
        let was_inside = self.engine.is_inside(slot);
        self.read(slot);
        if was_inside && !self.engine.is_inside(slot) {
            self.engine.may_answer(slot, Micros::ZERO);
        }
        // Nothing tells of the end of a paused connection later.
        let conn = self.engine.conn(slot);
        let waits = conn.is_some_and(|conn| conn.paused && conn.hup && !conn.ends);
        if waits && !self.app.hears_out(slot) {
            self.engine.lost(slot, Reason::TransportClosed);
        }
    }

    fn read(&mut self, slot: Slot) {
        self.inflated_now = 0;
        for _ in 0..READS_PER_TURN {
            let Some(conn) = self.engine.conns.get_mut(slot) else {
                return;
            };
            if conn.paused {
                // It is read on resume.
                conn.unread = true;
                return;
            }
            if self.mailbox.is_overloaded() {
                conn.unread = true;
                break;
            }
            let Transport::WebSocket(websocket) = &mut conn.transport else {
                return;
            };
            if let Some(mut stash) = websocket.stash.take() {
                let generation = conn.generation;
                let (going, left) = self.take_in(slot, &mut stash.bytes[stash.at..]);
                if left > 0 {
                    stash.at = stash.bytes.len() - left;
                    self.put_back(slot, generation, stash);
                }
                if !going && !self.discards(slot) {
                    return;
                }
                continue;
            }
            conn.unread = false;
            let mut buffer = std::mem::take(&mut self.read_buffer);
            let read = websocket.stream.read(&mut buffer);
            let more = match read {
                Ok((0, _)) => {
                    self.engine.end_behind(slot, Ending::Half);
                    false
                }
                Ok((_, more)) if conn.discard => more || conn.hup,
                Ok((n, more)) => {
                    conn.last_seen = self.engine.now;
                    let more = more || conn.hup;
                    let generation = conn.generation;
                    let (going, left) = self.take_in(slot, &mut buffer[..n]);
                    if let Some(stash) = Stash::of(&buffer[n - left..n]) {
                        self.put_back(slot, generation, stash);
                    }
                    if more && !going {
                        if let Some(conn) = self.engine.conns.get_mut(slot) {
                            conn.unread = true;
                        }
                    }
                    (going || self.discards(slot)) && more
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => false,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => true,
                Err(error) => {
                    self.engine.lost(slot, reason_of(&error));
                    false
                }
            };
            self.read_buffer = buffer;
            if !more {
                return;
            }
        }
        self.engine.read_later(slot);
    }

    fn discards(&self, slot: Slot) -> bool {
        let conn = self.engine.conns.get(slot);
        conn.is_some_and(|conn| conn.discard)
    }

    /// Keeps what has not been decoded of a connection that is paused, or has its next turn.
    fn put_back(&mut self, slot: Slot, generation: u32, stash: Box<Stash>) {
        if let Some(conn) = self.engine.conns.get_mut(slot) {
            if conn.generation == generation && (conn.paused || conn.again) {
                if let Transport::WebSocket(websocket) = &mut conn.transport {
                    websocket.stash = Some(stash);
                }
            }
        }
    }

    /// Decodes `input`. Answers whether reading goes on, and how many bytes at
    /// the end of `input` are not decoded.
    fn take_in(&mut self, slot: Slot, input: &mut [u8]) -> (bool, usize) {
        let max = self.engine.payload_bound(slot);
        let Some(conn) = self.engine.conns.get_mut(slot) else {
            return (false, 0);
        };
        let protocol = conn.protocol;
        let Transport::WebSocket(websocket) = &mut conn.transport else {
            return (false, 0);
        };
        // Out of the connection while messages borrow from it: the
        // application may change or end the connection meanwhile.
        let mut decoder = std::mem::take(&mut websocket.decoder);
        let deflate = websocket.deflate;
        let generation = conn.generation;
        let mut rest = input;
        let mut going = true;
        loop {
            match decoder.decode_extended(&mut rest, Role::Server, deflate, max) {
                Ok(Some(message)) => match self.frame(slot, protocol, message) {
                    Next::Go => {}
                    next => {
                        if let Next::Later = next {
                            self.engine.read_later(slot);
                        }
                        going = false;
                        break;
                    }
                },
                Ok(None) => break,
                Err(error) => {
                    self.fail(slot, error);
                    return (false, 0);
                }
            }
        }
        if let Some(conn) = self.engine.conns.get_mut(slot) {
            if conn.generation == generation {
                if let Transport::WebSocket(websocket) = &mut conn.transport {
                    websocket.decoder = decoder;
                }
            }
        }
        (going, rest.len())
    }

    /// The peer broke the framing: nothing that follows can be understood. What it
    /// said before that is answered first.
    fn fail(&mut self, slot: Slot, error: ws::Error) {
        if let Some(conn) = self.engine.conns.get_mut(slot) {
            conn.discard = true;
            self.engine.end_behind(slot, Ending::Broken(error));
        }
    }

    /// A compressed message: what it was before.
    fn compressed(&mut self, slot: Slot, protocol: Protocol, text: bool, payload: &[u8]) -> Next {
        let mut inflated = std::mem::take(&mut self.inflated);
        inflated.clear();
        let max = self.engine.payload_bound(slot);
        let found = self.engine.inflater.inflate(payload, max, &mut inflated);
        let message = found.and_then(|()| match text {
            true => std::str::from_utf8(&inflated)
                .map(Message::Text)
                .map_err(|_| ws::Error::InvalidUtf8),
            false => Ok(Message::Binary(&inflated)),
        });
        // What stands for little costs as much time.
        self.inflated_now += inflated.len().max(payload.len());
        let is_enough = self.inflated_now >= INFLATED_PER_TURN;
        let next = match message {
            Ok(message) => match self.frame(slot, protocol, message) {
                Next::Go if is_enough => Next::Later,
                next => next,
            },
            Err(error) => {
                self.fail(slot, error);
                Next::Stop
            }
        };
        inflated.shrink_to(READ_BUFFER);
        self.inflated = inflated;
        next
    }

    fn frame(&mut self, slot: Slot, protocol: Protocol, message: Message<'_>) -> Next {
        let Some(conn) = self.engine.conns.get(slot) else {
            return Next::Stop;
        };
        if let Phase::Closing(_) = conn.phase {
            // Nothing counts any more but the peer's own close.
            if let Message::Close(_) = message {
                self.engine.end_when_written(slot);
                return Next::Stop;
            }
            return Next::Go;
        }
        match message {
            Message::Text(text) => match protocol {
                Protocol::EngineIo => self.packet(slot, text),
                Protocol::Plain => self.app.message(&mut self.engine, slot, Data::Text(text)),
            },
            Message::Binary(bytes) => match protocol {
                Protocol::Plain if !self.app.plain_binary() => self.engine.close_behind_with(
                    slot,
                    Reason::ProtocolViolation,
                    1003,
                    "only text frames are understood here",
                ),
                Protocol::EngineIo | Protocol::Plain => {
                    self.app
                        .message(&mut self.engine, slot, Data::Binary(bytes));
                }
            },
            Message::Compressed { text, payload } => {
                return self.compressed(slot, protocol, text, payload);
            }
            Message::Ping(payload) => {
                // Past what `b64=1` does to messages: this is none.
                self.engine.enqueue(slot, Waits::Alone, |out| {
                    out.append(|buffer| ws::push_frame(OpCode::Pong, payload, buffer));
                });
                self.app.pinged(&mut self.engine, slot);
            }
            Message::Pong(_) => self.pong(slot),
            Message::Close(frame) => {
                let said_goodbye = frame.as_ref().is_some_and(|frame| frame.code == 1000);
                if let Some(conn) = self.engine.conns.get_mut(slot) {
                    conn.said_goodbye = said_goodbye;
                }
                let code = frame.map_or(1000, |frame| frame.code);
                self.engine.end_behind(slot, Ending::Close(code));
                return Next::Stop;
            }
        }
        match self.engine.conns.get(slot) {
            Some(conn) if !conn.paused && self.has_enough() => Next::Later,
            Some(conn) if !conn.paused => Next::Go,
            _ => Next::Stop,
        }
    }

    /// An Engine.IO packet in a text frame.
    fn packet(&mut self, slot: Slot, text: &str) {
        match engineio::decode_text(text) {
            Ok(packet) => self.engineio_packet(slot, packet),
            Err(_) => self.engine.close_behind(slot, Reason::ProtocolViolation),
        }
    }

    /// What an Engine.IO packet means on an open session, whatever carried it.
    pub(crate) fn engineio_packet(&mut self, slot: Slot, packet: Packet<'_>) {
        match packet {
            Packet::Message(text) => self.app.message(&mut self.engine, slot, Data::Text(text)),
            Packet::Binary(bytes) => self
                .app
                .message(&mut self.engine, slot, Data::Binary(&bytes)),
            Packet::Pong(_) => self.pong(slot),
            Packet::Close => self.engine.close_behind(slot, Reason::ClientLeft),
            // Only servers ping in protocol 4.
            Packet::Ping(_) => self.engine.close_behind(slot, Reason::ProtocolViolation),
            // Without meaning once the session is open; the reference ignores them.
            Packet::Open(_) | Packet::Upgrade | Packet::Noop => {
                self.app.pinged(&mut self.engine, slot);
            }
        }
    }

    fn pong(&mut self, slot: Slot) {
        let receipt = self.engine.receipt(slot);
        if !self.engine.pong(slot) {
            self.app.pinged(&mut self.engine, slot);
        }
        if let Some(before) = receipt {
            self.app.received(&mut self.engine, slot, before);
        }
    }

    // --- the upgrade -----------------------------------------------------
}

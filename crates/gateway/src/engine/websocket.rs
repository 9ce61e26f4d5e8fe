//! Reading from and writing to WebSocket connections, and the upgrade that
//! makes one of a polling session (Engine.IO protocol 4, "Upgrade").

use std::io::{self, IoSlice};

use heartline_wire::engineio::Packet;
use heartline_wire::ws::{self, Message, Role};
use heartline_wire::{engineio, ws::OpCode};
use mio::{Interest, Token};

use super::conn::{Kind, Phase, Stash, Transport, WebSocket};
use super::frames::Shape;
use super::polling::{Probe, Reply};
use super::requests;
use super::shard::{READ_BUFFER, Shard};
use super::stream::Stream;
use super::{App, CLOSE_WAIT, Data, Engine};
use crate::reason::Reason;

/// Slices given to one `writev`.
const SLICES: usize = 64;
/// Reads of one connection per turn; then the others come first.
const READS_PER_TURN: usize = 4;
/// Longest message of an upgrade: `2probe`.
const PROBE_MESSAGE: usize = 16;
/// Marks the poller's token of a probing WebSocket.
pub(crate) const PROBE: usize = 1 << 40;

impl Engine {
    pub(crate) fn flush_websocket(&mut self, slot: u32) {
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

    /// The socket takes bytes again.
    pub(crate) fn writable(&mut self, slot: u32) {
        let blocked = self
            .conns
            .get(slot)
            .and_then(|conn| conn.out.as_ref())
            .is_some();
        if blocked {
            self.flush(slot);
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

/// What becomes of a connection after one of its messages.
enum Next {
    Go,
    /// Stop reading: paused, closing or gone.
    Stop,
}

impl<A: App> Shard<A> {
    /// Reads what has come for `slot` and hands it on, message by message.
    pub(crate) fn readable(&mut self, slot: u32) {
        for _ in 0..READS_PER_TURN {
            let Some(conn) = self.engine.conns.get_mut(slot) else {
                return;
            };
            if conn.paused {
                // It is read on resume.
                conn.unread = true;
                return;
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
                    self.engine.lost(slot, Reason::TransportClosed);
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
        self.engine.again.push(slot);
    }

    fn discards(&self, slot: u32) -> bool {
        let conn = self.engine.conns.get(slot);
        conn.is_some_and(|conn| conn.discard)
    }

    /// Keeps what a paused connection has not decoded.
    fn put_back(&mut self, slot: u32, generation: u32, stash: Box<Stash>) {
        if let Some(conn) = self.engine.conns.get_mut(slot) {
            if conn.generation == generation && conn.paused {
                if let Transport::WebSocket(websocket) = &mut conn.transport {
                    websocket.stash = Some(stash);
                }
            }
        }
    }

    /// Decodes `input`. Answers whether reading goes on, and how many bytes at
    /// the end of `input` are not decoded.
    fn take_in(&mut self, slot: u32, input: &mut [u8]) -> (bool, usize) {
        let max = self.engine.settings.max_payload;
        let Some(conn) = self.engine.conns.get_mut(slot) else {
            return (false, 0);
        };
        let kind = conn.kind;
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
                Ok(Some(message)) => {
                    if let Next::Stop = self.frame(slot, kind, message) {
                        going = false;
                        break;
                    }
                }
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
    fn fail(&mut self, slot: u32, error: ws::Error) {
        if let Some(conn) = self.engine.conns.get_mut(slot) {
            if !std::mem::replace(&mut conn.discard, true) {
                self.failed.push((slot, conn.generation, error));
            }
        }
    }

    /// Closes the connections whose peers broke the framing in this turn.
    pub(crate) fn close_failed(&mut self) {
        for (slot, generation, error) in std::mem::take(&mut self.failed) {
            let conn = self.engine.conns.get(slot);
            if conn.is_some_and(|conn| conn.generation == generation) {
                let reason = match error {
                    ws::Error::TooBig => Reason::PayloadTooLarge,
                    _ => Reason::ProtocolViolation,
                };
                self.engine.close_with(slot, reason, error.close_code(), "");
            }
        }
    }

    /// A compressed message: what it was before.
    fn compressed(&mut self, slot: u32, kind: Kind, text: bool, payload: &[u8]) -> Next {
        let mut inflated = std::mem::take(&mut self.inflated);
        inflated.clear();
        let max = self.engine.settings.max_payload;
        let found = self.engine.inflater.inflate(payload, max, &mut inflated);
        let message = found.and_then(|()| match text {
            true => std::str::from_utf8(&inflated)
                .map(Message::Text)
                .map_err(|_| ws::Error::InvalidUtf8),
            false => Ok(Message::Binary(&inflated)),
        });
        let next = match message {
            Ok(message) => self.frame(slot, kind, message),
            Err(error) => {
                self.fail(slot, error);
                Next::Stop
            }
        };
        inflated.shrink_to(READ_BUFFER);
        self.inflated = inflated;
        next
    }

    fn frame(&mut self, slot: u32, kind: Kind, message: Message<'_>) -> Next {
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
            Message::Text(text) => match kind {
                Kind::EngineIo => self.packet(slot, text),
                Kind::Plain => self.app.message(&mut self.engine, slot, Data::Text(text)),
            },
            Message::Binary(bytes) => match kind {
                Kind::Plain if !self.app.plain_binary() => self.engine.close_with(
                    slot,
                    Reason::ProtocolViolation,
                    1003,
                    "only text frames are understood here",
                ),
                Kind::EngineIo | Kind::Plain => {
                    self.app
                        .message(&mut self.engine, slot, Data::Binary(bytes));
                }
            },
            Message::Compressed { text, payload } => {
                return self.compressed(slot, kind, text, payload);
            }
            Message::Ping(payload) => {
                // Past what `b64=1` does to messages: this is none.
                self.engine.enqueue(slot, |out| {
                    out.append(|buffer| ws::push_frame(OpCode::Pong, payload, buffer));
                });
            }
            Message::Pong(_) => self.engine.pong(slot),
            Message::Close(frame) => {
                let code = frame.map_or(1000, |frame| frame.code);
                self.engine.close_with(slot, Reason::ClientLeft, code, "");
                // Both closes are under way: nothing is waited for but the write.
                self.engine.flush(slot);
                self.engine.end_when_written(slot);
                return Next::Stop;
            }
        }
        match self.engine.conns.get(slot) {
            Some(conn) if !conn.paused => Next::Go,
            _ => Next::Stop,
        }
    }

    /// An Engine.IO packet in a text frame.
    fn packet(&mut self, slot: u32, text: &str) {
        match engineio::decode_text(text) {
            Ok(packet) => self.engineio_packet(slot, packet),
            Err(_) => self.engine.close(slot, Reason::ProtocolViolation),
        }
    }

    /// What an Engine.IO packet means on an open session, whatever carried it.
    pub(crate) fn engineio_packet(&mut self, slot: u32, packet: Packet<'_>) {
        match packet {
            Packet::Message(text) => self.app.message(&mut self.engine, slot, Data::Text(text)),
            Packet::Binary(bytes) => self
                .app
                .message(&mut self.engine, slot, Data::Binary(&bytes)),
            Packet::Pong(_) => self.engine.pong(slot),
            Packet::Close => self.engine.close(slot, Reason::ClientLeft),
            // Only servers ping in protocol 4.
            Packet::Ping(_) => self.engine.close(slot, Reason::ProtocolViolation),
            // Without meaning once the session is open; the reference ignores them.
            Packet::Open(_) | Packet::Upgrade | Packet::Noop => {}
        }
    }

    // --- the upgrade -----------------------------------------------------

    /// A WebSocket wants to take over from the polling session `slot`.
    pub(crate) fn begin_probe(
        &mut self,
        slot: u32,
        mut stream: Stream,
        deflate: Option<u8>,
        leftover: &[u8],
    ) {
        let deadline = self.engine.now + self.engine.settings.upgrade_timeout;
        let Some(conn) = self.engine.conns.get_mut(slot) else {
            return;
        };
        let Transport::Polling(polling) = &mut conn.transport else {
            return refuse_probe(stream);
        };
        if polling.probe.is_some() || conn.phase != Phase::Open {
            return refuse_probe(stream);
        }
        let token = Token(slot as usize | PROBE);
        let interest = Interest::READABLE | Interest::WRITABLE;
        if self
            .engine
            .registry
            .register(stream.socket(), token, interest)
            .is_err()
        {
            return;
        }
        polling.probe = Some(Box::new(Probe {
            websocket: WebSocket::new(stream, deflate.is_some()),
            deflate,
            deadline,
            probed: false,
        }));
        self.engine.rearm(slot);
        let mut leftover = leftover.to_vec();
        if !self.probe_input(slot, &mut leftover) {
            return;
        }
        self.probe_readable(slot);
    }

    pub(crate) fn probe_readable(&mut self, slot: u32) {
        let mut buffer = std::mem::take(&mut self.read_buffer);
        let mut reads = 0;
        while let Some(probe) = self.probe(slot) {
            reads += 1;
            if reads > READS_PER_TURN {
                // A probe says a dozen bytes.
                self.drop_probe(slot);
                break;
            }
            match probe.websocket.stream.read(&mut buffer) {
                Ok((n, _)) if n > 0 => {
                    if !self.probe_input(slot, &mut buffer[..n]) {
                        break;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // It went away; the polling session lives on.
                _ => {
                    self.drop_probe(slot);
                    break;
                }
            }
        }
        self.read_buffer = buffer;
    }

    fn probe(&mut self, slot: u32) -> Option<&mut Probe> {
        match &mut self.engine.conns.get_mut(slot)?.transport {
            Transport::Polling(polling) => polling.probe.as_deref_mut(),
            Transport::WebSocket(_) => None,
        }
    }

    fn drop_probe(&mut self, slot: u32) {
        if let Some(conn) = self.engine.conns.get_mut(slot) {
            if let Transport::Polling(polling) = &mut conn.transport {
                polling.probe = None;
            }
        }
    }

    /// False when there is no probe any more.
    fn probe_input(&mut self, slot: u32, input: &mut [u8]) -> bool {
        let Some(probe) = self.probe(slot) else {
            return false;
        };
        let mut decoder = std::mem::take(&mut probe.websocket.decoder);
        let deflate = probe.websocket.deflate;
        let mut rest = input;
        loop {
            let mut inflated = Vec::new();
            let message = match decoder.decode_extended(&mut rest, Role::Server, deflate, 1024) {
                Ok(Some(Message::Compressed { payload, .. })) => {
                    // What no client says stays empty, and is refused as such.
                    let _ = self
                        .engine
                        .inflater
                        .inflate(payload, PROBE_MESSAGE, &mut inflated);
                    Message::Text(std::str::from_utf8(&inflated).unwrap_or_default())
                }
                Ok(Some(message)) => message,
                Ok(None) => break,
                Err(_) => {
                    self.drop_probe(slot);
                    return false;
                }
            };
            let Some(probe) = self.probe(slot) else {
                return false;
            };
            match message {
                Message::Text("2probe") if !probe.probed => {
                    probe.probed = true;
                    // A fresh socket takes eight bytes.
                    if probe
                        .websocket
                        .stream
                        .write(&[IoSlice::new(b"\x81\x063probe")])
                        .is_err()
                    {
                        self.drop_probe(slot);
                        return false;
                    }
                    self.release_poll(slot);
                }
                Message::Text("5") if probe.probed => {
                    let decoder = std::mem::take(&mut decoder);
                    self.complete_upgrade(slot, decoder, rest);
                    return false;
                }
                Message::Ping(_) | Message::Pong(_) => {}
                _ => {
                    self.drop_probe(slot);
                    return false;
                }
            }
        }
        if let Some(probe) = self.probe(slot) {
            probe.websocket.decoder = decoder;
        }
        true
    }

    /// The poll that waits is let go, so that the client can switch.
    fn release_poll(&mut self, slot: u32) {
        if let Some(conn) = self.engine.conns.get_mut(slot) {
            if let Transport::Polling(polling) = &mut conn.transport {
                if let Some(get) = polling.get.take() {
                    let _ = get.reply.send(Reply::Payload(b"6".to_vec()));
                }
            }
        }
    }

    fn complete_upgrade(&mut self, slot: u32, decoder: ws::Decoder, rest: &mut [u8]) {
        self.release_poll(slot);
        let Some(conn) = self.engine.conns.get_mut(slot) else {
            return;
        };
        let Transport::Polling(polling) = &mut conn.transport else {
            return;
        };
        let Some(probe) = polling.probe.take() else {
            return;
        };
        if polling.post.is_some() || polling.held.is_some() {
            // Clients change over when their POST is answered. What it says must
            // not be lost, so the session stays where it is.
            return;
        }
        if conn.shape == Shape::Plain {
            conn.shape = requests::shape(false, probe.deflate);
        }
        let mut websocket = probe.websocket;
        websocket.decoder = decoder;
        websocket.stash = Stash::of(rest);
        let interest = Interest::READABLE | Interest::WRITABLE;
        let registered = self.engine.registry.reregister(
            websocket.stream.socket(),
            Token(slot as usize),
            interest,
        );
        conn.transport = Transport::WebSocket(websocket);
        conn.guard.set_polling(false);
        if registered.is_err() {
            self.engine.lost(slot, Reason::TransportError);
            return;
        }
        conn.last_seen = self.engine.now;
        if let Phase::Closing(reason) = conn.phase {
            conn.close_deadline = self.engine.now + CLOSE_WAIT;
            self.engine.append_close(slot, reason.close_code(), "");
        } else {
            self.app.upgraded(&mut self.engine, slot);
        }
        self.engine.flush(slot);
        self.engine.rearm(slot);
        self.engine.again.push(slot);
    }
}

/// The session is upgraded already, or is being upgraded: the newcomer is
/// told to go; the session is left alone.
fn refuse_probe(mut stream: Stream) {
    let mut frame = Vec::new();
    ws::push_close(1000, "", &mut frame);
    let _ = stream.write(&[IoSlice::new(&frame)]);
}

//! The upgrade: a WebSocket that wants to take over from polling.

use std::io::{self, IoSlice};

use heartline_wire::id::Slot;
use heartline_wire::reason::Reason;
use heartline_wire::ws;
use heartline_wire::ws::{Message, Role};
use mio::{Interest, Token};

use crate::app::App;
use crate::shard::Shard;
use crate::shard::conn::{Phase, Transport};
use crate::shard::ends::CLOSE_WAIT;
use crate::shard::frames::{Framing, framing};
use crate::shard::polling::Probe;
use crate::shard::request::Reply;
use crate::shard::stream::{Stash, Stream, WebSocket};
use crate::shard::websocket::READS_PER_TURN;

/// Longest message of an upgrade: `2probe`.
const PROBE_MESSAGE: usize = 16;
/// Marks the poller's token of a probing WebSocket.
pub(crate) const PROBE: usize = 1 << 40;

impl<A: App> Shard<A> {
    /// A WebSocket wants to take over from the polling session `slot`.
    pub(crate) fn begin_probe(
        &mut self,
        slot: Slot,
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
        let token = Token(slot.index() | PROBE);
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

    pub(crate) fn probe_readable(&mut self, slot: Slot) {
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

    /// What wants to take over from a session, unless that has ended in the meantime.
    fn probe(&mut self, slot: Slot) -> Option<&mut Probe> {
        let conn = self.engine.conns.get_mut(slot)?;
        match &mut conn.transport {
            Transport::Polling(polling) if !conn.gone => polling.probe.as_deref_mut(),
            Transport::Polling(_) | Transport::WebSocket(_) => None,
        }
    }

    fn drop_probe(&mut self, slot: Slot) {
        if let Some(conn) = self.engine.conns.get_mut(slot) {
            if let Transport::Polling(polling) = &mut conn.transport {
                polling.probe = None;
            }
        }
    }

    /// False when there is no probe any more.
    fn probe_input(&mut self, slot: Slot, input: &mut [u8]) -> bool {
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
    fn release_poll(&mut self, slot: Slot) {
        if let Some(conn) = self.engine.conns.get_mut(slot) {
            if let Transport::Polling(polling) = &mut conn.transport {
                if let Some(get) = polling.get.take() {
                    let _ = get.reply.send(Reply::Payload(b"6".to_vec()));
                }
            }
        }
    }

    fn complete_upgrade(&mut self, slot: Slot, decoder: ws::Decoder, rest: &mut [u8]) {
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
        if polling.is_posting() {
            // Clients change over when their POST is answered. What it says must
            // not be lost, so the session stays where it is.
            return;
        }
        if conn.framing == Framing::Plain {
            conn.framing = framing(false, probe.deflate);
        }
        let mut websocket = probe.websocket;
        websocket.decoder = decoder;
        websocket.stash = Stash::of(rest);
        let interest = Interest::READABLE | Interest::WRITABLE;
        let registered = self.engine.registry.reregister(
            websocket.stream.socket(),
            Token(slot.index()),
            interest,
        );
        conn.transport = Transport::WebSocket(websocket);
        conn.guard.set_polling(false);
        conn.last_seen = self.engine.now;
        let (phase, told) = (conn.phase, conn.told);
        if let Phase::Closing(_) = phase {
            conn.close_deadline = self.engine.now + CLOSE_WAIT;
        }
        // When the application hears of the end, it asks how the connection travels.
        if !told {
            self.app.upgraded(&mut self.engine, slot);
        }
        if registered.is_err() {
            self.engine.lost(slot, Reason::TransportError);
            return;
        }
        if let Phase::Closing(reason) = phase {
            self.engine.append_close(slot, reason.close_code(), "");
        }
        self.engine.flush(slot);
        self.engine.rearm(slot);
        self.engine.read_later(slot);
    }
}

/// The session is upgraded already, or is being upgraded: the newcomer is
/// told to go; the session is left alone.
fn refuse_probe(mut stream: Stream) {
    let mut frame = Vec::new();
    ws::push_close(1000, "", &mut frame);
    let _ = stream.write(&[IoSlice::new(&frame)]);
}

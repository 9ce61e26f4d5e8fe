//! What the HTTP side asks of a shard, and how a shard answers polling requests.

use std::io::IoSlice;

use bytes::Bytes;
use heartline_wire::engineio::{self, RequestError};
use heartline_wire::id::{Sid, Slot};
use heartline_wire::reason::Reason;
use tokio::sync::oneshot;

use crate::app::App;
use crate::shard::conn::{Phase, Transport};
use crate::shard::engine::{Engine, Place};
use crate::shard::frames::framing;
use crate::shard::polling::{Held, Incoming, Pending, Polling};
use crate::shard::request::{Handshake, PostStart, Protocol, Reply, Request, RequestId, Upgraded};
use crate::shard::stream::{Stash, Stream, WebSocket};
use crate::shard::websocket::READS_PER_TURN;
use crate::shard::{READ_BUFFER, Shard};

/// Why a session ends of which two GETs or two POSTs are on their way at once. It is no breach:
/// engine.io-client, whose GET has broken, says its goodbye while its last POST is still on its
/// way, and comes back. Source: engine.io, `Polling.onPollRequest` and `onDataRequest`
/// ("overlap from client" is a transport error).
const OVERLAP: Reason = Reason::TransportError;

/// Bytes of a payload that are heard in a turn: as many as a WebSocket can bring. Each of them
/// may be half a packet.
pub(super) const PAYLOAD_PER_TURN: usize = READS_PER_TURN * READ_BUFFER;

impl Engine {
    /// The slot of the session `name`, closing ones included.
    fn session(&self, name: &Sid) -> Option<Slot> {
        let conn = self.conns.get(name.conn.slot)?;
        let same = conn.generation == name.conn.generation
            && conn.secret == name.secret
            && conn.protocol == Protocol::EngineIo
            && name.namespace == 0;
        (same && !conn.gone).then_some(name.conn.slot)
    }

    fn polling(&mut self, name: &Sid) -> Result<(Slot, &mut Polling), Reply> {
        let slot = self
            .session(name)
            .ok_or(Reply::Error(RequestError::UnknownSid))?;
        match self.conns.get_mut(slot).map(|conn| &mut conn.transport) {
            Some(Transport::Polling(polling)) => Ok((slot, polling)),
            _ => Err(Reply::Error(RequestError::BadRequest)),
        }
    }

    /// What a POST is answered with that comes to a session which is closing; `None` if it is not.
    fn reply_behind_the_end(&self, slot: Slot) -> Option<Reply> {
        let conn = self.conns.get(slot)?;
        match (conn.phase, &conn.transport) {
            (Phase::Closing(_), Transport::Polling(polling)) => {
                Some(polling.farewell.reply_to_post())
            }
            _ => None,
        }
    }

    /// The same for a request that has just come: whoever's time is over is gone for it,
    /// also when the wheel is a tick behind.
    fn polling_now(&mut self, name: &Sid) -> Result<(Slot, &mut Polling), Reply> {
        if let Some(slot) = self.session(name) {
            self.beat(slot);
        }
        self.polling(name)
    }

    pub(crate) fn flush_polling(&mut self, slot: Slot) {
        let Some(conn) = self.conns.get_mut(slot) else {
            return;
        };
        if let Phase::Closing(_) = conn.phase {
            return;
        }
        let Transport::Polling(polling) = &mut conn.transport else {
            return;
        };
        if polling.get.is_none() || conn.out.as_ref().is_none_or(|out| out.is_empty()) {
            return;
        }
        let payload = Polling::drain(&mut conn.out);
        if let Some(get) = polling.get.take() {
            if get.reply.send(Reply::Payload(payload)).is_err() {
                // Dropped in this moment, and the payload with it: a session
                // with a hole in it must not go on.
                self.lost(slot, Reason::TransportClosed);
                return;
            }
        }
        if let Some(out) = conn.out.take() {
            self.recycle(out);
        }
    }
}

impl<A: App> Shard<A> {
    pub(crate) fn request(&mut self, request: Request) {
        match request {
            Request::OpenWebSocket {
                protocol,
                base64,
                upgraded,
                handshake,
                guard,
            } => {
                let place = Place { guard, kept: None };
                self.open_websocket(protocol, base64, upgraded, handshake, place);
            }
            Request::OpenPolling {
                base64,
                handshake,
                guard,
                reply,
            } => {
                let slot = self.engine.open_polling(framing(base64, None), guard);
                self.app.opened(&mut self.engine, slot, handshake);
                let answer = match self.engine.open_packet(slot, &["websocket"]) {
                    Some(packet) => Reply::Payload(packet.into_bytes()),
                    None => Reply::Status(500),
                };
                if reply.send(answer).is_err() {
                    self.engine.lost(slot, Reason::TransportClosed);
                }
            }
            Request::Exists { name, reply } => {
                let _ = reply.send(self.engine.session(&name).is_some());
            }
            Request::Upgrade { name, mut upgraded } => {
                if let Some(slot) = self.engine.session(&name) {
                    let deflate = upgraded.deflate;
                    let preface = std::mem::take(&mut upgraded.preface);
                    let (mut stream, leftover) = upgraded.into_stream();
                    // A fresh socket takes it whole.
                    if stream.write(&[IoSlice::new(&preface)]).is_err() {
                        return;
                    }
                    self.begin_probe(slot, stream, deflate, &leftover);
                }
            }
            Request::Get { name, id, reply } => self.get(&name, id, reply),
            Request::PostBegins { name, id, reply } => self.post_begins(&name, id, reply),
            Request::Post {
                name,
                id,
                body,
                reply,
            } => self.post(&name, id, body, reply),
            Request::PostRefused { name, id } => {
                if let Ok((slot, polling)) = self.engine.polling(&name) {
                    if let Some(post) = polling.take_post(id) {
                        self.engine.may_answer(slot, post.since);
                    }
                }
            }
            Request::Aborted { name, id } => self.aborted(&name, id),
        }
    }

    pub(super) fn open_websocket(
        &mut self,
        protocol: Protocol,
        base64: bool,
        mut upgraded: Upgraded,
        handshake: Handshake,
        place: Place,
    ) -> Option<Slot> {
        let framing = framing(base64, upgraded.deflate);
        let deflate = upgraded.deflate.is_some();
        let preface = std::mem::take(&mut upgraded.preface);
        let (stream, leftover) = upgraded.into_stream();
        // More may have been decrypted than HTTP has read, and no event tells of that.
        let more = matches!(stream, Stream::Tls(_)) || !leftover.is_empty();
        let websocket = WebSocket::new(stream, deflate);
        let opened = self
            .engine
            .open_websocket(protocol, framing, websocket, preface, place);
        let slot = opened?;
        if protocol == Protocol::EngineIo {
            if let Some(packet) = self.engine.open_packet(slot, &[]) {
                self.engine.send_with(slot, |out| {
                    heartline_wire::ws::push_frame(
                        heartline_wire::ws::OpCode::Text,
                        packet.as_bytes(),
                        out,
                    );
                });
            }
        }
        if more {
            if let Some(conn) = self.engine.conns.get_mut(slot) {
                if let Transport::WebSocket(websocket) = &mut conn.transport {
                    websocket.stash = Stash::of(&leftover);
                }
            }
            self.engine.read_later(slot);
        }
        self.app.opened(&mut self.engine, slot, handshake);
        opened
    }

    fn get(&mut self, name: &Sid, id: RequestId, reply: oneshot::Sender<Reply>) {
        let now = self.engine.now;
        let (slot, polling) = match self.engine.polling_now(name) {
            Ok(found) => found,
            Err(answer) => return drop(reply.send(answer)),
        };
        if polling.get.is_some() {
            // Two GETs at once: the first is let go with a close, the second refused.
            let _ = reply.send(Reply::Status(400));
            self.engine.close(slot, OVERLAP);
            return;
        }
        let upgrading = polling.probe.as_ref().is_some_and(|probe| probe.probed);
        polling.get = Some(Pending { id, reply });
        let Some(conn) = self.engine.conns.get_mut(slot) else {
            return;
        };
        conn.last_seen = now;
        if let Phase::Closing(_) = conn.phase {
            self.engine.finish_polling(slot);
            return;
        }
        self.engine.flush_polling(slot);
        if upgrading {
            if let Ok((_, polling)) = self.engine.polling(name) {
                if let Some(get) = polling.get.take() {
                    let _ = get.reply.send(Reply::Payload(b"6".to_vec()));
                }
            }
        }
    }

    fn post_begins(&mut self, name: &Sid, id: RequestId, reply: oneshot::Sender<PostStart>) {
        let (slot, polling) = match self.engine.polling_now(name) {
            Ok(found) => found,
            Err(answer) => return drop(reply.send(PostStart::Refuse(answer))),
        };
        let is_busy = polling.is_posting();
        if let Some(answer) = self.engine.reply_behind_the_end(slot) {
            // Nothing is heard of it any more; what is left to say to it is for its GET.
            let _ = reply.send(PostStart::Refuse(answer));
            return;
        }
        if is_busy {
            let _ = reply.send(PostStart::Refuse(Reply::Status(400)));
            self.engine.close(slot, OVERLAP);
            return;
        }
        let since = self.engine.now;
        let (answer, ended) = oneshot::channel();
        if let Ok((_, polling)) = self.engine.polling(name) {
            let reply = answer;
            polling.post = Some(Incoming { id, since, reply });
        }
        let bound = self.engine.payload_bound(slot);
        let _ = reply.send(PostStart::Read(bound, ended));
    }

    fn post(&mut self, name: &Sid, id: RequestId, body: Bytes, reply: oneshot::Sender<Reply>) {
        let now = self.engine.now;
        let (slot, polling) = match self.engine.polling(name) {
            Ok(found) => found,
            Err(answer) => return drop(reply.send(answer)),
        };
        let Some(Incoming { since, .. }) = polling.take_post(id) else {
            let answer = self.engine.reply_behind_the_end(slot);
            return drop(reply.send(answer.unwrap_or(Reply::Status(400))));
        };
        if let Some(conn) = self.engine.conns.get_mut(slot) {
            conn.last_seen = now;
        }
        match String::from_utf8(body.into()) {
            Ok(text) => {
                let held = Held {
                    text,
                    at: 0,
                    since,
                    reply,
                };
                self.payload(slot, held);
            }
            Err(_) => {
                let _ = reply.send(Reply::Status(400));
                self.engine.close_behind(slot, Reason::ProtocolViolation);
            }
        }
    }

    /// Processes a payload's packets until it ends or the session is paused, or enough was
    /// heard of it for this turn.
    fn payload(&mut self, slot: Slot, mut held: Held) {
        let share = held.at + PAYLOAD_PER_TURN;
        let mut is_enough = self.app.is_overloaded();
        loop {
            let Some(conn) = self.engine.conn(slot) else {
                // The session ended by what the payload said; that was read all the same.
                let _ = held.reply.send(Reply::Accepted);
                return;
            };
            let is_over = held.at > held.text.len();
            // What ends the session is the last that counts.
            if conn.ends || (is_over && !conn.paused) {
                let _ = held.reply.send(Reply::Accepted);
                self.engine.may_answer(slot, held.since);
                return;
            }
            is_enough |= self.has_enough() || held.at >= share;
            if conn.paused || is_enough {
                self.hold(slot, held);
                return;
            }
            let rest = &held.text[held.at..];
            let end = rest.find(engineio::SEPARATOR).unwrap_or(rest.len());
            held.at += end + 1;
            match engineio::decode_text(&rest[..end]) {
                Ok(packet) => self.engineio_packet(slot, packet),
                Err(_) => {
                    let _ = held.reply.send(Reply::Status(400));
                    self.engine.close_behind(slot, Reason::ProtocolViolation);
                    return;
                }
            }
        }
    }

    /// Keeps what is left of a payload, until the session is resumed or for the next turn.
    fn hold(&mut self, slot: Slot, held: Held) {
        let Some(conn) = self.engine.conns.get_mut(slot) else {
            return;
        };
        let Transport::Polling(polling) = &mut conn.transport else {
            return;
        };
        polling.held = Some(held);
        if !conn.paused {
            self.engine.read_later(slot);
        }
    }

    /// Goes on with a payload that was held by a pause.
    pub(crate) fn resume_polling(&mut self, slot: Slot) {
        if let Some(conn) = self.engine.conns.get_mut(slot) {
            if let Transport::Polling(polling) = &mut conn.transport {
                if let Some(held) = polling.held.take() {
                    self.payload(slot, held);
                }
            }
        }
    }

    fn aborted(&mut self, name: &Sid, id: RequestId) {
        let Ok((slot, polling)) = self.engine.polling(name) else {
            return;
        };
        let get = polling.get.as_ref().is_some_and(|get| get.id == id);
        let post = polling.post.as_ref().is_some_and(|post| post.id == id);
        if get || post {
            polling.get = None;
            self.engine.lost(slot, Reason::TransportClosed);
        }
    }
}

//! The live protocol: frames of a plain WebSocket.

use heartline_core::namespaces::NamespaceId;
use heartline_engine::shard::engine::Engine;
use heartline_wire::codes::Code;
use heartline_wire::id::Slot;
use heartline_wire::live::{self, ClientFrame};
use heartline_wire::reason::Reason;
use heartline_wire::{json, ws};

use super::Hub;
use super::events::InboundEvent;
use crate::event::EventError;
use crate::handler::{Body, PublishFrame};
use crate::metrics::Inbound;
use crate::publication::AckRef;
use crate::socket::presented;

/// A live connection's only namespace.
const ROOT: NamespaceId = NamespaceId::ROOT;

/// Frames in a row that fit nothing, after which the connection is closed.
const MAX_VIOLATIONS: u8 = 20;

impl Hub {
    pub(super) fn live_frame(&mut self, engine: &mut Engine, slot: Slot, text: &str) {
        let frame = match live::decode(text) {
            Ok(frame) => frame,
            Err(error) => {
                return self.violation(engine, slot, &error.message(), error.id());
            }
        };
        let Some(link) = self.link_mut(slot) else {
            return;
        };
        link.violations = 0;
        let first = matches!(frame, ClientFrame::Auth { .. } | ClientFrame::Ping { .. });
        if link.sockets.is_empty() && !first {
            let (reason, code) = (Reason::AuthFailed, Code::AuthRequired);
            engine.close_behind_with(slot, reason, reason.close_code(), code.as_str());
            return;
        }
        if !self.may_say(engine, slot, &frame) {
            return;
        }
        match frame {
            ClientFrame::Auth { token, id, resume } => {
                self.count_inbound(Inbound::Auth);
                self.live_auth(engine, slot, &token, id, resume.as_deref());
            }
            ClientFrame::Ping { id } => {
                self.count_inbound(Inbound::Ping);
                let now = engine.clock.unix_millis(engine.now);
                self.answer_live(engine, slot, |text| live::push_pong(id, now, text));
            }
            ClientFrame::Subscribe {
                topic,
                id,
                recover,
                members,
            } => {
                self.count_inbound(Inbound::Subscribe);
                let recover = recover.map(|(epoch, offset)| ((*epoch).into(), offset));
                self.subscribe(engine, slot, &topic, id, recover, members);
            }
            ClientFrame::Unsubscribe { topic, id } => {
                self.count_inbound(Inbound::Unsubscribe);
                self.active(engine, slot);
                self.unsubscribe(engine, slot, &topic, id);
            }
            ClientFrame::Publish {
                topic,
                event,
                data,
                key,
                to_self,
                id,
            } => {
                self.count_inbound(Inbound::Publish);
                let frame = PublishFrame::new(&topic, &event, data, key.as_deref(), to_self);
                self.live_event(engine, slot, "publish", Body::Publish(&frame), id);
            }
            ClientFrame::Emit { event, data, id } => {
                self.count_inbound(Inbound::Event);
                self.live_event(engine, slot, &event, Body::Args(data), id);
            }
        }
    }

    /// Whether the limit on events allows a frame that is no event: it costs as much as one.
    /// What `publish` and `emit` say is counted on its way to the handler.
    fn may_say(&mut self, engine: &mut Engine, slot: Slot, frame: &ClientFrame<'_>) -> bool {
        let (ClientFrame::Ping { id }
        | ClientFrame::Auth { id, .. }
        | ClientFrame::Subscribe { id, .. }
        | ClientFrame::Unsubscribe { id, .. }) = frame
        else {
            return true;
        };
        let Err(error) = self.count_frame(engine, slot) else {
            return true;
        };
        self.refuse_live(engine, slot, &error, None, *id);
        false
    }

    /// Counts a frame that is no event as one: of the socket, or of the connection as long as
    /// there is none.
    ///
    /// # Errors
    /// `RATE_LIMITED`; nothing of it has been said.
    fn count_frame(&mut self, engine: &mut Engine, slot: Slot) -> Result<(), EventError> {
        let link = self.link(slot);
        let is_there = link.is_some_and(|link| link.socket(ROOT).is_some());
        self.count_event(engine, slot, is_there.then_some(ROOT))
    }

    /// Sends a frame of the live protocol.
    pub(super) fn send_live(
        &self,
        engine: &mut Engine,
        slot: Slot,
        write: impl FnOnce(&mut String),
    ) {
        engine.send_with(slot, |out| {
            let mut text = String::new();
            write(&mut text);
            ws::push_frame(ws::OpCode::Text, text.as_bytes(), out);
        });
    }

    fn violation(&mut self, engine: &mut Engine, slot: Slot, message: &str, id: Option<&str>) {
        let Some(link) = self.link_mut(slot) else {
            return;
        };
        link.violations += 1;
        if link.violations > MAX_VIOLATIONS {
            engine.close_behind(slot, Reason::ProtocolViolation);
            return;
        }
        let error = match self.count_frame(engine, slot) {
            Ok(()) => EventError::new(Code::ProtocolViolation, message.to_owned()),
            Err(error) => error,
        };
        self.refuse_live(engine, slot, &error, None, id);
    }

    pub(super) fn active(&mut self, engine: &Engine, slot: Slot) {
        let now = engine.now;
        if let Some(socket) = self.link_mut(slot).and_then(|link| link.socket_mut(ROOT)) {
            socket.last_activity = now;
        }
    }

    /// First identity of a connection, or a new token for the one it has.
    fn live_auth(
        &mut self,
        engine: &mut Engine,
        slot: Slot,
        token: &str,
        id: Option<&str>,
        resume: Option<&live::Resume<'_>>,
    ) {
        let socket = self.link(slot).and_then(|link| link.socket(ROOT));
        let identity = socket.map(|socket| socket.identity.clone());
        match &identity {
            Some(identity) if identity.user.is_some() && resume.is_none() => {}
            Some(identity) if presented(token).is_none() && resume.is_none() => {
                // Nobody came with nothing: nothing has changed.
                let address = self.address(engine, slot, ROOT);
                if let Some(address) = address.filter(|_| self.shared.config.hello) {
                    self.hello(engine, slot, ROOT, identity, &address.id(), None, None, id);
                }
                return;
            }
            _ => {
                // As of a CONNECT of Socket.IO.
                if self.count_join(engine, slot, None).is_err() {
                    return engine.close_behind(slot, Reason::RateLimited);
                }
                if self.link(slot).is_some_and(|link| link.leaving) {
                    return self.refuse_live(engine, slot, &Code::Draining.into(), None, id);
                }
                let ticket = resume.map(|resume| self.live_ticket(resume));
                let token = presented(token);
                return self.connect(engine, slot, ROOT, token, None, ticket, id);
            }
        }
        // The same as `auth:refresh` on Socket.IO.
        let data = format!(r#"{{"token":{}}}"#, json::quote(token));
        self.live_event(engine, slot, "auth:refresh", Body::Args(&data), id);
    }

    /// The same event as a Socket.IO client's.
    fn live_event(
        &mut self,
        engine: &mut Engine,
        slot: Slot,
        name: &str,
        body: Body<'_>,
        id: Option<&str>,
    ) {
        let inbound = InboundEvent {
            namespace: ROOT,
            name,
            body,
            attachments: &[],
            ack: id.map(AckRef::Raw),
        };
        self.event(engine, slot, inbound);
    }
}

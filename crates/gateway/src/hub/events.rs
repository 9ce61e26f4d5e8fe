//! From an event to its handler, whichever protocol it came by.

use bytes::Bytes;
use heartline_core::message::check_heard;
use heartline_core::namespaces::NamespaceId;
use heartline_core::presence::SocketAddress;
use heartline_engine::shard::engine::Engine;
use heartline_engine::tasks::guarded;
use heartline_wire::codes::Code;
use heartline_wire::id::Slot;
use heartline_wire::reason::Reason;

use super::Hub;
use super::tasks::TaskKind;
use crate::event::{EventError, temp_id};
use crate::handler::{Announced, Body, ErasedHandler, Event, Responder};
use crate::publication::{AckId, Encoding};

/// What clients say to show that they are there: nobody has done anything by that.
const SIGNS_OF_LIFE: [&str; 2] = ["ping", "heartbeat:response"];

/// An application event of a client.
pub(super) struct InboundEvent<'a> {
    pub(super) namespace: NamespaceId,
    pub(super) name: &'a str,
    pub(super) body: Body<'a>,
    pub(super) attachments: &'a [Bytes],
    /// Where the answer goes, if one is wanted.
    pub(super) ack: Option<AckId>,
}

impl Hub {
    /// An application event has come for the socket of a namespace.
    pub(super) fn event(&mut self, engine: &mut Engine, slot: Slot, inbound: InboundEvent<'_>) {
        let namespace = inbound.namespace;
        let now = engine.now;
        let is_sign_of_life =
            self.shared.config.builtin_events && SIGNS_OF_LIFE.contains(&inbound.name);
        let Some(link) = self.link_mut(slot) else {
            return;
        };
        if link.leaving {
            // Its client has been told; it is kept for the handlers that are at work.
            return;
        }
        let encoding = link.encoding;
        let Some(socket) = link.socket_mut(namespace) else {
            return;
        };
        if !is_sign_of_life {
            socket.last_activity = now;
        }
        let said = match inbound.body {
            Body::Args(args) => args,
            Body::Publish(frame) => frame.data,
        };
        let max = engine.settings.max_payload;
        if let Err(error) = check_heard(said, inbound.attachments, max) {
            return self.refuse_event(engine, slot, &inbound, error.into());
        }
        if !self.is_within_limit(engine, slot, &inbound) {
            return;
        }
        let Some(handle) = self.handle(engine, slot, namespace) else {
            return;
        };
        let handlers = self.handlers.clone();
        let Some(handler) = handlers.find(namespace, inbound.name) else {
            return self.unhandled(engine, slot, namespace, encoding, inbound.ack);
        };
        let handshake = self.link(slot).and_then(|link| link.handshake().cloned());
        let event = Event {
            socket: &handle,
            name: inbound.name,
            body: inbound.body,
            attachments: inbound.attachments,
            gateway: &handlers.gateway,
            handshake: handshake.as_ref(),
            ending: None,
        };
        self.handle_event(engine, slot, handler, &event, inbound.ack);
    }

    /// Counts one more frame of a socket, or of the connection itself under the limits of
    /// `/`. Whoever is far over the limit is closed.
    ///
    /// # Errors
    /// `RATE_LIMITED`; nothing of it has been said.
    pub(super) fn count_event(
        &mut self,
        engine: &mut Engine,
        slot: Slot,
        of: Option<NamespaceId>,
    ) -> Result<(), EventError> {
        let namespace = of.unwrap_or(NamespaceId::ROOT);
        let limits = &self.shared.fanout.namespaces.get(namespace).config.limits;
        let limit = limits.events;
        let Some(limit) = limit else {
            return Ok(());
        };
        let Some(meter) = self.link_mut(slot).and_then(|link| link.meter(of)) else {
            return Ok(());
        };
        let Err(wait) = meter.events.take(limit, engine.now) else {
            *meter.refused = meter.refused.saturating_sub(1);
            return Ok(());
        };
        *meter.refused = meter.refused.saturating_add(1);
        // More than can be counted is far over any limit.
        let far = *meter.refused == u16::MAX || limit.is_far_over(u32::from(*meter.refused));
        self.metrics.rate_limited_events.add(1);
        if far {
            engine.close(slot, Reason::RateLimited);
        }
        Err(EventError::rate_limited(wait))
    }

    /// Counts an event as so many more. It has been let in: what is over the limit keeps the
    /// next ones out.
    pub(super) fn charge(&mut self, engine: &mut Engine, to: &SocketAddress, events: usize) {
        let Some(slot) = self.locate(engine, to) else {
            return;
        };
        let limits = &self
            .shared
            .fanout
            .namespaces
            .get(to.namespace())
            .config
            .limits;
        let Some(limit) = limits.events else {
            return;
        };
        let meter = self
            .link_mut(slot)
            .and_then(|link| link.meter(Some(to.namespace())));
        if let Some(meter) = meter {
            for _ in 0..events {
                if meter.events.take(limit, engine.now).is_err() {
                    break;
                }
            }
        }
    }

    /// Whether the limit on events allows this one; a refusal has been answered.
    fn is_within_limit(
        &mut self,
        engine: &mut Engine,
        slot: Slot,
        inbound: &InboundEvent<'_>,
    ) -> bool {
        let counted = self.count_event(engine, slot, Some(inbound.namespace));
        let Err(error) = counted else {
            return true;
        };
        self.refuse_inbound(engine, slot, inbound, error);
        false
    }

    /// The contract's messages are sent by clients that may listen to either: whatever refuses
    /// them, they hear it as the acknowledgement and as `message:error`.
    fn announced(&self, event: &str, body: &Body<'_>) -> Announced {
        match body {
            Body::Args(args)
                if matches!(event, "message:send" | "chat:send")
                    && self.shared.config.builtin_events =>
            {
                Some(temp_id(args))
            }
            _ => None,
        }
    }

    fn refuse_inbound(
        &mut self,
        engine: &mut Engine,
        slot: Slot,
        inbound: &InboundEvent<'_>,
        error: EventError,
    ) {
        if let Some(address) = self.address(engine, slot, inbound.namespace) {
            let error = match self.announced(inbound.name, &inbound.body) {
                Some(temp_id) => error.announce().about(temp_id),
                None => error,
            };
            self.refuse(engine, &address, inbound.ack.as_ref(), &error);
        }
    }

    /// An event that cannot be passed on: its sender hears why. It counts as an event, so
    /// that refusals cannot be had without a limit.
    pub(super) fn refuse_event(
        &mut self,
        engine: &mut Engine,
        slot: Slot,
        inbound: &InboundEvent<'_>,
        error: EventError,
    ) {
        if self.is_within_limit(engine, slot, inbound) {
            self.refuse_inbound(engine, slot, inbound, error);
        }
    }

    /// Runs a handler for an event of this connection. A panic costs the event alone.
    pub(super) fn handle_event(
        &mut self,
        engine: &mut Engine,
        slot: Slot,
        handler: &dyn ErasedHandler,
        event: &Event<'_>,
        ack: Option<AckId>,
    ) {
        let responder =
            Responder::new(event.socket, ack).announcing(self.announced(event.name, &event.body));
        let Some(called) = guarded(|| handler.call(event, responder)) else {
            return self.note_panic();
        };
        let (Some(work), Some(conn)) = (called, engine.id(slot)) else {
            return;
        };
        let max = self.shared.config.max_handlers_in_flight;
        if let Some(link) = self.link_mut(slot) {
            link.in_flight += 1;
            if usize::from(link.in_flight) >= max {
                engine.pause(slot);
            }
        }
        let time = self.shared.config.handler_timeout;
        let kind = TaskKind::Handler { conn, holds: false };
        self.start(engine, work, kind, time);
    }

    /// Nobody is there for this event. Whoever asked for an answer gets one, unless all
    /// events are the app's: Socket.IO clients know silence then, as of any other server,
    /// and try again.
    fn unhandled(
        &mut self,
        engine: &mut Engine,
        slot: Slot,
        namespace: NamespaceId,
        encoding: Encoding,
        ack: Option<AckId>,
    ) {
        let code = match encoding {
            Encoding::Live => Code::LiveNotImplemented,
            _ if ack.is_some() && self.shared.config.builtin_events => Code::NotImplemented,
            _ => return,
        };
        let error = EventError::from(code);
        if let Some(AckId::Raw(id)) = &ack {
            // Live: no handler has run that could have answered.
            return self.live_error(engine, slot, &error, Some(&**id));
        }
        if let Some(address) = self.address(engine, slot, namespace) {
            self.refuse(engine, &address, ack.as_ref(), &error);
        }
    }
}

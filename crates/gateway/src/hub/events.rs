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
use super::answers::{About, Called};
use crate::event::EventError;
use crate::handler::{Body, Event, Handle};
use crate::publication::{AckRef, Encoding};

/// What clients say by themselves, to show that they are there and to stay: nobody has done
/// anything by that. A live connection's `auth` is `auth:refresh`.
const SIGNS_OF_LIFE: [&str; 3] = ["ping", "heartbeat:response", "auth:refresh"];

/// An application event of a client.
pub(super) struct InboundEvent<'a> {
    pub(super) namespace: NamespaceId,
    pub(super) name: &'a str,
    pub(super) body: Body<'a>,
    pub(super) attachments: &'a [Bytes],
    /// Where the answer goes, if one is wanted.
    pub(super) ack: Option<AckRef<'a>>,
}

impl<'a> InboundEvent<'a> {
    fn about(&self, address: SocketAddress) -> About<'a> {
        About {
            address,
            name: self.name,
            body: self.body,
            ack: self.ack,
        }
    }
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
        let Some(socket) = link.socket_mut(namespace) else {
            return;
        };
        if !is_sign_of_life {
            socket.last_activity = now;
        }
        let (said, around) = match inbound.body {
            // The data is a member of what `publish` takes.
            Body::Args(args) => (args, usize::from(inbound.name == "publish")),
            Body::Publish(frame) => (frame.data, 0),
        };
        let max = engine.settings.max_payload;
        if let Err(error) = check_heard(said, inbound.attachments, max, around) {
            return self.refuse_event(engine, slot, &inbound, error.into());
        }
        if !self.is_within_limit(engine, slot, &inbound) {
            return;
        }
        if let Some((address, called)) = self.call(engine, slot, &inbound) {
            self.handled(engine, slot, &inbound.about(address), called);
        }
    }

    /// Calls the handler of an event. `None`: its socket is gone.
    fn call(
        &self,
        engine: &Engine,
        slot: Slot,
        inbound: &InboundEvent<'_>,
    ) -> Option<(SocketAddress, Called)> {
        let link = self.link(slot)?;
        let socket = link.socket(inbound.namespace)?;
        let address = SocketAddress::new(engine.id(slot)?, inbound.namespace, socket.secret);
        let remote = engine.address(slot)?;
        let Some(handler) = self.handlers.find(inbound.namespace, inbound.name) else {
            return Some((address, Called::Nobody));
        };
        let handle = || self.handle_of(socket, address, remote);
        let event = Event {
            socket: Handle::new(&handle),
            name: inbound.name,
            body: inbound.body,
            attachments: inbound.attachments,
            gateway: &self.handlers.gateway,
            handshake: link.handshake(),
            ending: None,
        };
        Some((address, Called::of(guarded(|| handler.call(&event)))))
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
            engine.close_behind(slot, Reason::RateLimited);
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

    /// Behind the answers to what was said before.
    fn refuse_inbound(
        &mut self,
        engine: &mut Engine,
        slot: Slot,
        inbound: &InboundEvent<'_>,
        error: EventError,
    ) {
        if let Some(address) = self.address(engine, slot, inbound.namespace) {
            self.answer_event(engine, &inbound.about(address), Err(Box::new(error)));
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

    /// Nobody is there for this event: what its sender is told. Whoever asked for an answer
    /// gets one, unless all events are the app's: Socket.IO clients know silence then, as of any
    /// other server, and try again.
    pub(super) fn unhandled(&self, slot: Slot, about: &About<'_>) -> Option<EventError> {
        let code = match self.link(slot)?.encoding {
            Encoding::Live => Code::LiveNotImplemented,
            _ if about.ack.is_some() && self.shared.config.builtin_events => Code::NotImplemented,
            _ => return None,
        };
        Some(code.into())
    }
}

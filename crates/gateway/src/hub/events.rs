//! From an event to its handler, whichever protocol it came by.

use bytes::Bytes;

use super::{Hub, Op, TaskKind};
use crate::engine::Engine;
use crate::engine::id::ConnId;
use crate::handler::{Event, EventError, Responder};
use crate::publication::{AckId, Form, NsId};
use crate::reason::Reason;

/// Refusals in a row, as a multiple of a limit's count, after which the
/// connection is closed: it is over the limit by far.
pub(crate) const FAR_OVER: u32 = 10;
/// The least such number.
pub(crate) const FAR_OVER_AT_LEAST: u32 = 100;

impl Hub {
    /// An application event has come for the socket of `namespace`.
    pub(super) fn event(
        &mut self,
        engine: &mut Engine,
        slot: u32,
        namespace: NsId,
        name: &str,
        args: &str,
        attachments: &[Bytes],
        ack: Option<AckId>,
    ) {
        let now = engine.now;
        let limit = self.shared.namespaces[usize::from(namespace)]
            .config
            .limits
            .events;
        let Some(link) = self.link_mut(slot) else {
            return;
        };
        let form = link.form;
        let Some(socket) = link.socket_mut(namespace) else {
            return;
        };
        socket.last_activity = now;
        if let Some(limit) = limit {
            if let Err(wait) = link.events.take(limit, now) {
                link.refused = link.refused.saturating_add(1);
                let far =
                    link.refused >= (limit.count.saturating_mul(FAR_OVER)).max(FAR_OVER_AT_LEAST);
                self.metrics.rate_limited_events.add(1);
                if far {
                    engine.close(slot, Reason::RateLimited);
                    return;
                }
                let error = EventError::rate_limited(wait);
                if let Some(address) = self.address(engine, slot, namespace) {
                    self.refuse(engine, &address, ack.as_ref(), &error);
                }
                return;
            }
            link.refused = 0;
        }
        let Some(handle) = self.handle(engine, slot, namespace) else {
            return;
        };
        let shared = self.shared.clone();
        let Some(handler) = shared.handlers.find(name) else {
            return self.unhandled(engine, slot, namespace, form, ack);
        };
        let event = Event {
            socket: &handle,
            name,
            args,
            attachments,
        };
        let work = handler.call(&event, Responder::new(handle.clone(), ack));
        let (Some(work), Some(conn)) = (work, engine.id(slot)) else {
            return;
        };
        if let Some(link) = self.link_mut(slot) {
            link.in_flight += 1;
            if usize::from(link.in_flight) >= shared.config.max_handlers_in_flight {
                engine.pause(slot);
            }
        }
        let time = shared.config.handler_timeout.as_micros() as u64;
        self.start(engine, work, TaskKind::Handler(conn), time);
    }

    /// Nobody is there for this event: whoever asked for an answer gets one.
    fn unhandled(
        &mut self,
        engine: &mut Engine,
        slot: u32,
        namespace: NsId,
        form: Form,
        ack: Option<AckId>,
    ) {
        let code = match form {
            Form::Live => "not-implemented",
            _ if ack.is_some() => "NOT_IMPLEMENTED",
            _ => return,
        };
        if form == Form::Live {
            let id = match &ack {
                Some(AckId::Raw(id)) => Some(&**id),
                _ => None,
            };
            self.live_error(engine, slot, code, "Nobody here handles this event", id);
            return;
        }
        let error = EventError::new(code, "Nobody here handles this event");
        if let Some(address) = self.address(engine, slot, namespace) {
            self.refuse(engine, &address, ack.as_ref(), &error);
        }
    }

    /// A handler of this connection has ended.
    pub(super) fn handler_done(&mut self, engine: &mut Engine, conn: ConnId) {
        let Some(slot) = engine.find(conn) else {
            return;
        };
        let Some(link) = self.link_mut(slot) else {
            return;
        };
        link.in_flight = link.in_flight.saturating_sub(1);
        if link.leaving && link.in_flight == 0 {
            // Behind the handler's own answer, which is in the mailbox.
            self.shared.post(self.shard, Op::Finish(conn));
        } else if link.joining.is_none() {
            engine.resume(slot);
        }
    }
}

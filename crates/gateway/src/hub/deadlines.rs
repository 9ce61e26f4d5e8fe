//! When something is due on a connection, and what is done then.

use std::time::Duration;

use heartline_core::message::Message;
use heartline_core::namespaces::NamespaceId;
use heartline_engine::shard::engine::Engine;
use heartline_wire::codes::Code;
use heartline_wire::id::Slot;
use heartline_wire::reason::Reason;
use heartline_wire::time::Micros;

use super::Hub;
use super::link::{Link, SocketState};
use super::query::SLICE;
use crate::publication::Encoding;

/// Over how long those go whose tokens expire at one time.
pub(super) const EXPIRY_SPREAD: Duration = Duration::from_secs(1);

/// When something was last said in any namespace: a connection is idle when all of its sockets
/// are. `None`: it has none.
fn last_activity(link: &Link) -> Option<Micros> {
    link.sockets.iter().map(|socket| socket.last_activity).max()
}

impl Hub {
    /// Sets the connection's next deadline to the earliest of all that it has.
    pub(super) fn rearm(&mut self, engine: &mut Engine, slot: Slot) {
        let Some(link) = self.link(slot) else {
            return;
        };
        let deadline = self.next_deadline(engine, slot, link);
        engine.set_app_deadline(slot, deadline);
    }

    pub(super) fn next_deadline(&self, engine: &Engine, slot: Slot, link: &Link) -> Micros {
        let idle = self.idle_timeout();
        let mut deadline = link.drain_at();
        if let Some(until) = self.join_deadline(engine, slot, link) {
            deadline = deadline.min(until);
        }
        for socket in &link.sockets {
            deadline = deadline.min(socket.expires).min(socket.next_heartbeat());
        }
        match last_activity(link) {
            Some(at) => deadline.min(at + idle),
            None => deadline,
        }
    }

    pub(super) fn idle_timeout(&self) -> Duration {
        let idle = self.shared.config.heartbeat.idle_timeout;
        idle.unwrap_or(Duration::MAX)
    }

    /// Until when a connection that is in no namespace must have joined one: as long after it left
    /// the last one as after it began.
    pub(super) fn join_deadline(&self, engine: &Engine, slot: Slot, link: &Link) -> Option<Micros> {
        if link.joining.is_some() {
            return None;
        }
        let since = match link.ever_joined {
            false => engine.conn(slot)?.connected_at,
            true => link.left_at()?,
        };
        let config = &self.shared.config;
        let time = match link.encoding {
            Encoding::Live => config.auth_timeout,
            Encoding::Text | Encoding::Msgpack => config.connect_timeout,
        };
        Some(since + time)
    }

    /// A deadline has come: finds out which, and acts.
    pub(super) fn link_deadline(&mut self, engine: &mut Engine, slot: Slot) {
        let now = engine.now;
        let idle = self.idle_timeout();
        let Some(link) = self.link(slot) else {
            return;
        };
        if link.drain_at() <= now {
            self.let_go(engine, slot);
            return;
        }
        if self
            .join_deadline(engine, slot, link)
            .is_some_and(|until| until <= now)
        {
            let reason = Reason::AuthFailed;
            if link.encoding == Encoding::Live {
                engine.close_with(
                    slot,
                    reason,
                    reason.close_code(),
                    Code::AuthRequired.as_str(),
                );
            } else {
                engine.close(slot, reason);
            }
            return;
        }
        let due = |at: fn(&SocketState) -> Micros| {
            link.sockets
                .iter()
                .filter(|socket| at(socket) <= now)
                .map(|socket| socket.namespace)
                .collect::<Vec<NamespaceId>>()
        };
        let expired = due(|socket| socket.expires);
        let beating = due(SocketState::next_heartbeat);
        let is_idle = last_activity(link).is_some_and(|at| at + idle <= now);
        if !expired.is_empty() {
            return self.expire(engine, slot, &expired);
        }
        if is_idle {
            engine.close(slot, Reason::IdleTimeout);
            return;
        }
        if let Some(every) = self.shared.config.heartbeat.app_interval {
            let data = format!(r#"{{"timestamp":{}}}"#, engine.clock.unix_millis(now));
            for namespace in beating {
                self.emit_here(engine, slot, namespace, &Message::new("heartbeat", &data));
                if let Some(socket) = self
                    .link_mut(slot)
                    .and_then(|link| link.socket_mut(namespace))
                {
                    socket.set_next_heartbeat(socket.next_heartbeat().next_in_phase(every, now));
                }
            }
        }
        self.rearm(engine, slot);
    }

    /// The clock was set: tokens at a slice of the slots expire when it says so now. The slot to go
    /// on from.
    pub(super) fn clock_was_set(&mut self, engine: &mut Engine, from: Slot) -> Option<Slot> {
        let all = self.links.len() as u32;
        let end = from.0.saturating_add(SLICE).min(all);
        for slot in (from.0..end).map(Slot) {
            let Some(link) = self.link_mut(slot) else {
                continue;
            };
            for socket in &mut link.sockets {
                if let Some(at) = socket.identity.expires_at {
                    // Those whose time is over by now do not all go at once.
                    let jitter = engine.random_time(EXPIRY_SPREAD);
                    let at = engine.clock.at_unix_millis(at).max(engine.now);
                    socket.expires = at + jitter;
                }
            }
            self.rearm(engine, slot);
        }
        (end < all).then_some(Slot(end))
    }

    /// Tells sockets that their token has expired, and closes. No namespace DISCONNECT: the
    /// client is to come back.
    fn expire(&mut self, engine: &mut Engine, slot: Slot, expired: &[NamespaceId]) {
        let data = format!(
            r#"{{"code":"{}","message":"The token has expired; come back with a new one"}}"#,
            Code::AuthTokenExpired
        );
        let message = Message::new("auth:error", &data);
        for &namespace in expired {
            self.emit_here(engine, slot, namespace, &message);
        }
        engine.close(slot, Reason::TokenExpired);
    }
}

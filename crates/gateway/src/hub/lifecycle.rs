//! How sockets end: deadlines, sweeps, drains, and the one place where
//! everything a socket had is given back.

use std::sync::Arc;

use super::link::{Link, Sock};
use super::{Hub, TaskKind};
use crate::engine::Engine;
use crate::engine::conn::TransportName;
use crate::engine::tasks::guarded;
use crate::engine::wheel::Micros;
use crate::namespaces::NamespaceId;
use crate::presence::SocketAddress;
use crate::publication::{Form, Message};
use crate::reason::Reason;

impl Hub {
    // --- deadlines -------------------------------------------------------

    /// Sets the connection's next deadline to the earliest of all that it has.
    pub(super) fn rearm(&mut self, engine: &mut Engine, slot: u32) {
        let Some(link) = self.link(slot) else {
            return;
        };
        let deadline = self.next_deadline(engine, slot, link);
        engine.set_app_deadline(slot, deadline);
    }

    fn next_deadline(&self, engine: &Engine, slot: u32, link: &Link) -> Micros {
        let idle = self.idle_timeout();
        let mut deadline = link.drain_at;
        if let Some(until) = self.join_deadline(engine, slot, link) {
            deadline = deadline.min(until);
        }
        for socket in &link.sockets {
            deadline = deadline
                .min(socket.expires)
                .min(socket.next_heartbeat)
                .min(socket.last_activity.saturating_add(idle));
        }
        deadline
    }

    fn idle_timeout(&self) -> Micros {
        let idle = self.shared.config.heartbeat.idle_timeout;
        idle.map_or(Micros::MAX, |idle| idle.as_micros() as Micros)
    }

    /// Until when a connection must have joined something.
    fn join_deadline(&self, engine: &Engine, slot: u32, link: &Link) -> Option<Micros> {
        if link.ever_joined || link.joining.is_some() {
            return None;
        }
        let config = &self.shared.config;
        let time = match link.form {
            Form::Live => config.auth_timeout,
            Form::Text | Form::Msgpack => config.connect_timeout,
        };
        Some(engine.conn(slot)?.connected_at + time.as_micros() as Micros)
    }

    /// A deadline has come: finds out which, and acts.
    pub(super) fn link_deadline(&mut self, engine: &mut Engine, slot: u32) {
        let now = engine.now;
        let idle = self.idle_timeout();
        let Some(link) = self.link(slot) else {
            return;
        };
        if link.drain_at <= now {
            self.let_go(engine, slot);
            return;
        }
        if self
            .join_deadline(engine, slot, link)
            .is_some_and(|until| until <= now)
        {
            let reason = Reason::AuthFailed;
            if link.form == Form::Live {
                engine.close_with(slot, reason, reason.close_code(), "AUTH_REQUIRED");
            } else {
                engine.close(slot, reason);
            }
            return;
        }
        let due = |at: fn(&Sock) -> Micros| {
            link.sockets
                .iter()
                .filter(|socket| at(socket) <= now)
                .map(|socket| socket.namespace)
                .collect::<Vec<NamespaceId>>()
        };
        let expired = due(|socket| socket.expires);
        let beating = due(|socket| socket.next_heartbeat);
        let is_idle = link
            .sockets
            .iter()
            .any(|socket| socket.last_activity.saturating_add(idle) <= now);
        if !expired.is_empty() {
            let data = r#"{"code":"AUTH_TOKEN_EXPIRED","message":"The token has expired; come back with a new one"}"#;
            for namespace in expired {
                self.emit_here(engine, slot, namespace, &Message::new("auth:error", data));
            }
            // No namespace DISCONNECT: the client is to come back.
            engine.close(slot, Reason::TokenExpired);
            return;
        }
        if is_idle {
            engine.close(slot, Reason::IdleTimeout);
            return;
        }
        if let Some(every) = self.shared.config.heartbeat.app_interval {
            let every = every.as_micros() as Micros;
            let data = format!(r#"{{"timestamp":{}}}"#, engine.clock.unix_millis(now));
            for namespace in beating {
                self.emit_here(engine, slot, namespace, &Message::new("heartbeat", &data));
                if let Some(socket) = self
                    .link_mut(slot)
                    .and_then(|link| link.socket_mut(namespace))
                {
                    socket.next_heartbeat = (socket.next_heartbeat + every).max(now + every / 2);
                }
            }
        }
        self.rearm(engine, slot);
    }

    // --- ends ------------------------------------------------------------

    /// Ends a socket from this side. Its client is told not to come back if
    /// the reason is of that kind; the transport ends with its last socket.
    pub(super) fn end_socket(
        &mut self,
        engine: &mut Engine,
        slot: u32,
        namespace: NamespaceId,
        reason: Reason,
    ) {
        let Some(link) = self.link(slot) else {
            return;
        };
        let form = link.form;
        // What is no fault of one namespace alone ends the connection.
        let ends_all = link.sockets.len() == 1 || !reason.is_final();
        if form != Form::Live && reason.is_final() {
            self.disconnect_packet(engine, slot, namespace);
        }
        if ends_all {
            engine.close(slot, reason);
        } else {
            self.forget_socket(engine, slot, namespace, reason);
            self.rearm(engine, slot);
        }
    }

    /// The client has left a namespace; the connection stays.
    pub(super) fn leave_namespace(
        &mut self,
        engine: &mut Engine,
        slot: u32,
        namespace: NamespaceId,
        reason: Reason,
    ) {
        self.forget_socket(engine, slot, namespace, reason);
        self.rearm(engine, slot);
    }

    /// The connection is over: so are all of its sockets.
    pub(super) fn link_closed(&mut self, engine: &mut Engine, slot: u32, reason: Reason) {
        while let Some(namespace) = self
            .link(slot)
            .and_then(|link| link.sockets.last())
            .map(|socket| socket.namespace)
        {
            self.forget_socket(engine, slot, namespace, reason);
        }
        if let Some(link) = self.links.get_mut(slot as usize) {
            let never_joined = link.take().is_some_and(|link| !link.ever_joined);
            if never_joined {
                self.metrics.disconnects(reason).add(1);
            }
        }
    }

    /// Gives back everything that a socket had.
    pub(super) fn forget_socket(
        &mut self,
        engine: &mut Engine,
        slot: u32,
        namespace: NamespaceId,
        reason: Reason,
    ) {
        let shared = self.shared.clone();
        let handle = self.handle(engine, slot, namespace);
        let Some(link) = self.link_mut(slot) else {
            return;
        };
        let Some(index) = link
            .sockets
            .iter()
            .position(|socket| socket.namespace == namespace)
        else {
            return;
        };
        let socket = link.sockets.swap_remove(index);
        self.leave_all(socket.rooms, namespace);
        let transport = engine
            .transport_name(slot)
            .unwrap_or(TransportName::WebSocket);
        self.metrics.connections(transport, namespace).sub(1);
        self.metrics.disconnects(reason).add(1);
        let id = engine.id(slot);
        if let (Some(user), Some(conn)) = (&socket.identity.user, id) {
            let address = SocketAddress::new(conn, namespace, socket.secret);
            shared.fanout.backplane.disconnect(user, address);
        }
        let connected_for_ms = engine.now.saturating_sub(socket.connected_at) / 1000;
        let user_id = socket.identity.user_id().unwrap_or("");
        let socket_id = handle
            .as_ref()
            .map(crate::socket::Socket::id)
            .unwrap_or_default();
        match reason {
            Reason::ClientLeft | Reason::TransportClosed | Reason::Drained => tracing::debug!(
                socket_id,
                user_id,
                reason = reason.word(),
                connected_for_ms,
                "disconnected"
            ),
            _ => tracing::info!(
                socket_id,
                user_id,
                reason = reason.word(),
                connected_for_ms,
                "disconnected"
            ),
        }
        let Some(handle) = handle else {
            return;
        };
        let handlers = self.handlers.clone();
        for handler in &handlers.disconnect {
            let Some(work) = guarded(|| handler(handle.clone(), reason)) else {
                self.note_panic();
                continue;
            };
            let time = shared.config.handler_timeout.as_micros() as Micros;
            self.start(engine, work, TaskKind::Detached, time);
        }
    }

    pub(super) fn leave_all(
        &mut self,
        mut memberships: Vec<crate::rooms::Membership>,
        namespace: NamespaceId,
    ) {
        while let Some(membership) = memberships.pop() {
            self.leave_membership(membership, namespace);
        }
    }

    // --- the sweep -------------------------------------------------------

    /// Finds what the timers missed; how many entries it removed.
    pub(super) fn sweep(&mut self, engine: &mut Engine) -> usize {
        let stale_after = self.shared.config.heartbeat.stale_after();
        let limit = stale_after.as_micros() as Micros;
        let mut removed = 0;
        for slot in engine.open_slots() {
            let Some(conn) = engine.conn(slot) else {
                continue;
            };
            // Whom we do not listen to at present cannot be heard from.
            let idle = engine.now.saturating_sub(conn.last_seen);
            if idle > limit && !conn.paused {
                tracing::info!(
                    user_id =
                        self.link(slot)
                            .and_then(|link| link.sockets.first()?.identity.user_id()),
                    idle_ms = idle / 1000,
                    "the sweep removed a stale connection"
                );
                engine.close(slot, Reason::StaleSweep);
                removed += 1;
            }
        }
        let shared: Arc<_> = self.shared.clone();
        let alive = |address: &SocketAddress| {
            let joining = engine.find(address.0.conn).and_then(|slot| {
                self.link(slot)?
                    .joining
                    .as_ref()
                    .map(|joining| joining.secret)
            });
            self.locate(engine, address).is_some() || joining == Some(address.0.secret)
        };
        for (user, socket) in shared.fanout.backplane.local().orphans(self.shard, alive) {
            tracing::warn!(
                user_id = &*user.user_id,
                socket_id = socket.0.encode(),
                "the sweep removed an orphaned entry"
            );
            shared.fanout.backplane.disconnect(&user, socket);
            removed += 1;
        }
        removed
    }

    // --- the drain -------------------------------------------------------

    /// Begins to let everybody go.
    pub(super) fn drain(&mut self, engine: &mut Engine, spread: Micros) {
        for slot in engine.open_slots() {
            if spread == 0 {
                self.let_go(engine, slot);
                continue;
            }
            let at = engine.now + engine.random_below(spread);
            if let Some(link) = self.link_mut(slot) {
                link.drain_at = at;
            }
            self.rearm(engine, slot);
        }
    }

    /// Tells a client when to come back, and lets it go as soon as its
    /// handlers are done.
    fn let_go(&mut self, engine: &mut Engine, slot: u32) {
        let range = self.shared.reconnect_spread_ms();
        let data = format!(
            r#"{{"reconnectInMs":{}}}"#,
            250 + engine.random_below(range)
        );
        let Some(link) = self.link_mut(slot) else {
            return;
        };
        link.drain_at = Micros::MAX;
        link.leaving = true;
        let busy = link.in_flight > 0;
        let namespaces: Vec<NamespaceId> =
            link.sockets.iter().map(|socket| socket.namespace).collect();
        for namespace in namespaces {
            self.emit_here(
                engine,
                slot,
                namespace,
                &Message::new("server:drain", &data),
            );
        }
        if busy {
            self.rearm(engine, slot);
        } else {
            engine.close(slot, Reason::Drained);
        }
    }

    /// The drain's time is up.
    pub(super) fn force(&mut self, engine: &mut Engine) {
        for slot in engine.open_slots() {
            engine.close(slot, Reason::Drained);
        }
        engine.flush_all();
        engine.force_closing();
    }
}

//! How one socket ends, and the one place where everything it had is given back.

use std::sync::Arc;
use std::time::Duration;

use heartline_core::auth::Identity;
use heartline_core::message::Message;
use heartline_core::namespaces::NamespaceId;
use heartline_core::presence::SocketAddress;
use heartline_engine::shard::conn::TransportName;
use heartline_engine::shard::engine::Engine;
use heartline_engine::tasks::guarded;
use heartline_wire::handshake::Handshake;
use heartline_wire::id::Slot;
use heartline_wire::json;
use heartline_wire::reason::Reason;
use tokio::sync::oneshot;

use super::Hub;
use super::link::Displaced;
use super::tasks::TaskKind;
use crate::handler::{Body, Ending, Event, Handle};
use crate::op::Replaced;
use crate::publication::Encoding;
use crate::socket::Socket;

impl Hub {
    /// Somebody wants a socket to end; tells whether it was there.
    pub(super) fn disconnect(
        &mut self,
        engine: &mut Engine,
        to: &SocketAddress,
        reason: Reason,
        reply: Option<oneshot::Sender<bool>>,
    ) {
        let there = self.locate(engine, to);
        if let Some(slot) = there {
            self.end_socket(engine, slot, to.namespace(), reason);
        }
        if let Some(reply) = reply {
            let _ = reply.send(there.is_some());
        }
    }

    /// Ends a connection whose sessions go on elsewhere. Whoever still hears on it is not to come
    /// back and take them again: a page that was copied, perhaps.
    pub(super) fn leave_to_another(&self, engine: &mut Engine, slot: Slot) {
        let (code, text) = (Reason::Replaced.close_code(), Reason::Replaced.as_str());
        engine.close_with(slot, Reason::TransportClosed, code, text);
    }

    /// Ends a socket from this side. Its client is told not to come back if
    /// the reason is of that kind; the transport ends with its last socket.
    pub(super) fn end_socket(
        &mut self,
        engine: &mut Engine,
        slot: Slot,
        namespace: NamespaceId,
        reason: Reason,
    ) {
        let Some(link) = self.link(slot) else {
            return;
        };
        let encoding = link.encoding;
        // What is no fault of one namespace alone ends the connection.
        let ends_all = link.sockets.len() == 1 || !reason.is_final();
        if encoding != Encoding::Live && reason.is_final() {
            if reason == Reason::Kicked && self.shared.config.builtin_events {
                // The packet has no room for a reason; who was replaced has heard of it.
                let data = format!(r#"{{"reason":"{reason}"}}"#);
                let message = Message::new("connection:closed", &data);
                self.emit_here(engine, slot, namespace, &message);
            }
            self.disconnect_packet(engine, slot, namespace);
        }
        if ends_all && encoding == Encoding::Live {
            engine.close_with(slot, reason, reason.close_code(), reason.as_str());
        } else if ends_all {
            engine.close(slot, reason);
        } else {
            self.leave_namespace(engine, slot, namespace, reason);
        }
    }

    /// A socket is gone; the connection stays, and what was counted stays with it.
    pub(super) fn leave_namespace(
        &mut self,
        engine: &mut Engine,
        slot: Slot,
        namespace: NamespaceId,
        reason: Reason,
    ) {
        if let Some(link) = self.link_mut(slot) {
            link.keep_counts(namespace);
        }
        self.forget_socket(engine, slot, namespace, reason);
        let now = engine.now;
        if let Some(link) = self.link_mut(slot) {
            link.note_left(now);
        }
        self.rearm(engine, slot);
    }

    /// The connection is over: so are all of its sockets.
    pub(super) fn link_closed(&mut self, engine: &mut Engine, slot: Slot, reason: Reason) {
        self.do_what_is_left(slot);
        self.park_all(engine, slot, reason);
        while let Some(namespace) = self
            .link(slot)
            .and_then(|link| link.sockets.last())
            .map(|socket| socket.namespace)
        {
            self.forget_socket(engine, slot, namespace, reason);
        }
        if let Some(link) = self.links.get_mut(slot.index()) {
            let never_joined = link.take().is_some_and(|link| !link.ever_joined);
            if never_joined {
                self.metrics.disconnects(reason).add(1);
                self.note_early_end(engine, slot, reason);
            }
        }
    }

    /// A line of the log for the end of a connection that was never in a namespace. Those that
    /// were refused are of more interest, now and then: strangers can cause as many as they like.
    fn note_early_end(&self, engine: &Engine, slot: Slot, reason: Reason) {
        let remote = engine.address(slot).map(tracing::field::display);
        let speaks_for = match reason {
            Reason::AuthFailed => self.shared.refusals.speaks_for(engine.now),
            _ => None,
        };
        let reason = reason.as_str();
        match speaks_for {
            Some(connections) => tracing::info!(
                remote,
                reason,
                connections,
                "disconnected before it was in a namespace"
            ),
            None => tracing::debug!(remote, reason, "disconnected before it was in a namespace"),
        }
    }

    /// Gives back everything that a socket had.
    pub(super) fn forget_socket(
        &mut self,
        engine: &mut Engine,
        slot: Slot,
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
        let handshake = link.handshake().cloned();
        let back_by = link.back_by();
        let mut socket = link.sockets.swap_remove(index);
        self.catching_up.forget(slot, namespace);
        let rooms = match self.handlers.disconnect(namespace).next() {
            Some(_) => self.room_names(&socket.rooms, &socket.identity),
            None => Vec::new(),
        };
        let user = socket.identity.user.as_ref();
        if let Some(user) = user.filter(|user| shared.sessions.follows(user)) {
            // Before they are left: who comes back meanwhile finds them here or there.
            shared.sessions.left(user, self.recent_rooms(&socket.rooms));
        }
        self.note_moved_out(engine, slot, &socket);
        self.leave_all(std::mem::take(&mut socket.rooms), namespace);
        let transport = engine
            .transport_name(slot)
            .unwrap_or(TransportName::WebSocket);
        self.metrics.connections(transport, namespace).sub(1);
        self.metrics.disconnects(reason).add(1);
        let id = engine.id(slot);
        if let (Some(user), Some(conn)) = (&socket.identity.user, id) {
            let address = SocketAddress::new(conn, namespace, socket.secret);
            let keep = back_by - engine.now;
            shared.fanout.backplane.disconnect(user, address, keep);
        }
        if let (Some(recovery), Some(conn)) = (&shared.fanout.recovery, id) {
            let address = SocketAddress::new(conn, namespace, socket.secret);
            let name = socket.back().map_or(address, |back| back.name);
            recovery.is_gone(name, address);
            recovery.may_have_ended(name);
        }
        note_end(
            handle.as_ref(),
            &socket.identity,
            reason,
            engine.now - socket.connected_at,
        );
        let data = match (&handle, id) {
            (Some(handle), Some(_)) => shared.data.take(&handle.address),
            _ => None,
        };
        if let Some(mut handle) = handle {
            handle.ended = data;
            let ending = Ending { reason, rooms };
            self.tell_app(engine, &handle, &ending, handshake.as_ref());
        }
    }

    /// The app's handlers hear that a socket has gone.
    fn tell_app(
        &mut self,
        engine: &mut Engine,
        handle: &Socket,
        ending: &Ending,
        handshake: Option<&Arc<Handshake>>,
    ) {
        let handlers = self.handlers.clone();
        let socket = || handle.clone();
        for handler in handlers.disconnect(handle.address.namespace()) {
            let event = Event {
                socket: Handle::new(&socket),
                name: "disconnect",
                body: Body::Args(""),
                attachments: &[],
                gateway: &handlers.gateway,
                handshake,
                ending: Some(ending),
            };
            match guarded(|| handler.call(&event)) {
                None => self.note_panic(),
                // Nobody is left who could be told.
                Some(Err(_)) => {}
                Some(Ok(work)) => {
                    let time = self.shared.config.handler_timeout;
                    self.carry(engine, work, TaskKind::Detached, time);
                }
            }
        }
    }

    /// Another node or shard says that a socket's place was taken.
    pub(super) fn replaced_asked(&mut self, engine: &mut Engine, lost: &Replaced) {
        let Replaced {
            to,
            by,
            node,
            reason,
        } = lost;
        self.replaced(engine, to, by.as_deref(), node, *reason);
    }

    /// Another connection of the user has taken this socket's place.
    pub(super) fn replaced(
        &mut self,
        engine: &mut Engine,
        to: &SocketAddress,
        by: Option<&str>,
        node: &str,
        reason: Reason,
    ) {
        let Some(slot) = self.locate(engine, to) else {
            // It was let in, and does not know it yet.
            let link = engine.find(to.0.conn).and_then(|slot| self.link_mut(slot));
            let joining = link.and_then(|link| link.joining.as_mut());
            if let Some(joining) = joining.filter(|joining| joining.secret == to.0.secret) {
                joining.displaced = Some(Displaced {
                    by: by.map(Into::into),
                    node: node.into(),
                    reason,
                });
            }
            return;
        };
        let message = match reason {
            Reason::DeviceLimit => "Another device took this one's place",
            _ => "A newer connection took this one's place",
        };
        let data = format!(
            r#"{{"message":"{message}","by":{{"deviceId":{},"nodeId":{}}}}}"#,
            by.map_or("null".into(), json::quote),
            json::quote(node),
        );
        let message = Message::new("connection:replaced", &data);
        self.emit_here(engine, slot, to.namespace(), &message);
        self.end_socket(engine, slot, to.namespace(), reason);
    }
}

/// A line of the log for a socket's end.
fn note_end(socket: Option<&Socket>, identity: &Identity, reason: Reason, connected_for: Duration) {
    let connected_for_ms = connected_for.as_millis() as u64;
    let user_id = identity.user_id().unwrap_or("");
    let socket_id = socket.map(Socket::id).unwrap_or_default();
    match reason {
        Reason::ClientLeft | Reason::TransportClosed | Reason::Drained => tracing::debug!(
            socket_id,
            user_id,
            reason = reason.as_str(),
            connected_for_ms,
            "disconnected"
        ),
        _ => tracing::info!(
            socket_id,
            user_id,
            reason = reason.as_str(),
            connected_for_ms,
            "disconnected"
        ),
    }
}

//! How a socket comes to be: credentials, identity, admission, hello.
//!
//! Nothing is registered, announced or counted before the identity is known
//! and the device policy has let the newcomer in. The connection's input
//! waits meanwhile, so what a client sends early is neither lost nor taken
//! for an anonymous socket's. Should the connection end first, the admission
//! is taken back when it arrives.

use std::sync::Arc;

use heartline_wire::{json, live, ws};

use super::link::{Joining, Ousted, Sock};
use super::{Hub, TaskKind};
use crate::auth::{AuthError, Credentials, Identity};
use crate::config::AuthMode;
use crate::engine::Engine;
use crate::engine::wheel::Micros;
use crate::handler::{Body, Event};
use crate::namespaces::NamespaceId;
use crate::op::{Op, Outcome, Refusal};
use crate::presence::{Admitted, DeviceLimitReached, Newcomer, SocketAddress};
use crate::publication::{Form, Message};
use crate::reason::Reason;
use crate::rooms::{self, PRIVATE};
use crate::shared::Shared;

/// Verifies credentials and asks the backplane for admission.
async fn authenticate(
    shared: &Shared,
    mode: AuthMode,
    credentials: Credentials,
    socket: SocketAddress,
) -> Outcome {
    let identity = match (mode, &credentials.token) {
        (AuthMode::Off, _) | (AuthMode::Optional, None) => shared.anonymous.clone(),
        (AuthMode::Required, None) => return Err(Refusal::Auth(AuthError::Required)),
        (AuthMode::Required | AuthMode::Optional, Some(_)) => {
            let identity = shared
                .authenticator
                .authenticate(credentials)
                .await
                .map_err(Refusal::Auth)?;
            Arc::new(shared.tenants.intern_identity(identity))
        }
    };
    let Some(user) = &identity.user else {
        return Ok((identity, Admitted::default()));
    };
    let newcomer = Newcomer {
        user: user.clone(),
        socket,
        device_id: identity.device_id.clone(),
        policy: shared
            .fanout
            .namespaces
            .get(socket.namespace())
            .config
            .devices,
    };
    match shared.fanout.backplane.connect(newcomer).await {
        Ok(admitted) => Ok((identity, admitted)),
        Err(DeviceLimitReached) => Err(Refusal::DeviceLimit),
    }
}

impl Hub {
    /// Begins to let a socket into `namespace`.
    pub(super) fn connect(
        &mut self,
        engine: &mut Engine,
        slot: u32,
        namespace: NamespaceId,
        token: Option<String>,
        payload: Option<String>,
        id: Option<&str>,
    ) {
        let secret = engine.secret();
        let (Some(conn), Some(remote)) = (
            engine.id(slot),
            engine.conn(slot).map(|conn| conn.guard.ip()),
        ) else {
            return;
        };
        let shared = self.shared.clone();
        let has_connect_handlers = !self.handlers.connect.is_empty();
        let Some(link) = self.link_mut(slot) else {
            return;
        };
        link.joining = Some(Box::new(Joining {
            namespace,
            secret,
            payload: payload.clone().filter(|_| has_connect_handlers),
            id: id.map(Into::into),
            ousted: None,
        }));
        engine.pause(slot);
        let mode = shared.fanout.namespaces.get(namespace).config.auth_mode;
        let credentials = Credentials {
            token,
            payload,
            namespace: shared.fanout.namespaces.get(namespace).name.to_string(),
            remote_addr: remote,
        };
        let socket = SocketAddress::new(conn, namespace, secret);
        let time = shared.config.auth_timeout.as_micros() as Micros;
        let work = async move {
            let outcome = authenticate(&shared, mode, credentials, socket).await;
            shared
                .fanout
                .post(conn.shard, Op::Connecting { socket, outcome });
        };
        self.start(engine, Box::pin(work), TaskKind::Connect(socket), time);
    }

    /// The authentication did not come to an end.
    pub(super) fn connect_failed(&mut self, engine: &mut Engine, socket: SocketAddress) {
        let refusal = Refusal::Auth(AuthError::Unavailable);
        self.connecting(engine, socket, Err(refusal));
    }

    /// The authentication has ended.
    pub(super) fn connecting(
        &mut self,
        engine: &mut Engine,
        socket: SocketAddress,
        outcome: Outcome,
    ) {
        if let Ok((identity, admitted)) = &outcome {
            self.make_way(admitted, identity);
        }
        let slot = engine.find(socket.0.conn);
        let joining = slot.and_then(|slot| {
            let link = self.link_mut(slot)?;
            let joining = link
                .joining
                .take_if(|joining| joining.secret == socket.0.secret)?;
            Some((slot, joining))
        });
        let Some((slot, joining)) = joining else {
            // The connection ended meanwhile, or was refused for its slowness.
            if let Ok((identity, _)) = &outcome {
                if let Some(user) = &identity.user {
                    self.shared.fanout.backplane.disconnect(user, socket);
                }
            }
            return;
        };
        match outcome {
            Ok((identity, _)) => {
                let mut joining = *joining;
                let ousted = joining.ousted.take();
                self.establish(engine, slot, joining, identity);
                if let Some(Ousted { by, node, reason }) = ousted {
                    self.replaced(engine, &socket, by.as_deref(), &node, reason);
                }
            }
            Err(refusal) => self.refuse_connection(engine, slot, &joining, refusal),
        }
        self.listen_again(engine, slot);
        self.rearm(engine, slot);
    }

    /// Those whose places the newcomer took are told and let go.
    fn make_way(&self, admitted: &Admitted, newcomer: &Identity) {
        let by = &newcomer.device_id;
        for (list, reason) in [
            (&admitted.replaced, Reason::Replaced),
            (&admitted.evicted, Reason::DeviceLimit),
        ] {
            for &to in list {
                let op = Op::Replaced {
                    to,
                    by: by.clone(),
                    node: self.shared.node_id.clone(),
                    reason,
                };
                self.shared.fanout.post(to.0.conn.shard, op);
            }
        }
    }

    fn refuse_connection(
        &mut self,
        engine: &mut Engine,
        slot: u32,
        joining: &Joining,
        refusal: Refusal,
    ) {
        self.metrics.refused(refusal.code()).add(1);
        if self.link(slot).is_some_and(|link| link.form == Form::Live) {
            let (reason, text) = (refusal.reason(), refusal.code());
            engine.close_with(slot, reason, reason.close_code(), text);
            return;
        }
        let name = self.namespace_name(joining.namespace).clone();
        let data = format!(r#"{{"code":"{}"}}"#, refusal.code());
        self.connect_error(engine, slot, &name, refusal.message(), Some(&data));
    }

    /// The socket exists from here on.
    fn establish(
        &mut self,
        engine: &mut Engine,
        slot: u32,
        joining: Joining,
        identity: Arc<Identity>,
    ) {
        let now = engine.now;
        let Joining {
            namespace,
            secret,
            payload,
            id,
            ousted: _,
        } = joining;
        let shared = self.shared.clone();
        let jitter = engine.random_below(1_000_000);
        let app_interval = shared.config.heartbeat.app_interval;
        let Some(link) = self.link_mut(slot) else {
            return;
        };
        let form = link.form;
        // A live connection that was anonymous so far becomes somebody: what
        // the nobody had joined is left behind.
        if let Some(index) = link
            .sockets
            .iter()
            .position(|socket| socket.namespace == namespace)
        {
            let nobody = link.sockets.swap_remove(index);
            self.leave_all(nobody.rooms, namespace);
            if let Some(transport) = engine.transport_name(slot) {
                self.metrics.connections(transport, namespace).sub(1);
            }
        }
        let Some(link) = self.link_mut(slot) else {
            return;
        };
        link.ever_joined = true;
        // Almost always the only one.
        link.sockets.reserve_exact(1);
        link.sockets.push(Sock {
            namespace,
            secret,
            expires: identity.expires_at.map_or(Micros::MAX, |at| {
                engine.clock.at_unix_millis(at).saturating_add(jitter)
            }),
            identity: identity.clone(),
            connected_at: now,
            last_activity: now,
            next_heartbeat: app_interval
                .map_or(Micros::MAX, |every| now + every.as_micros() as Micros),
            rooms: Vec::new(),
            acks: None,
        });
        if let Some(transport) = engine.transport_name(slot) {
            self.metrics.connections(transport, namespace).add(1);
        }
        let Some(handle) = self.handle(engine, slot, namespace) else {
            return;
        };
        let socket_id = handle.id();
        tracing::debug!(
            socket_id,
            user_id = identity.user_id(),
            namespace = %self.namespace_name(namespace),
            "connected"
        );
        if form != Form::Live {
            self.connect_reply(engine, slot, namespace, &socket_id);
        }
        if shared.config.hello {
            self.hello(
                engine,
                slot,
                namespace,
                &identity,
                &socket_id,
                id.as_deref(),
            );
        }
        self.note_memberships(engine, &identity);
        let handlers = self.handlers.clone();
        for handler in &handlers.connect {
            let event = Event {
                socket: &handle,
                name: "connect",
                body: Body::Args(payload.as_deref().unwrap_or("")),
                attachments: &[],
            };
            self.handle_event(engine, slot, &**handler, &event, None);
        }
    }

    fn hello(
        &mut self,
        engine: &mut Engine,
        slot: u32,
        namespace: NamespaceId,
        identity: &Identity,
        socket_id: &str,
        id: Option<&str>,
    ) {
        let config = &self.shared.config;
        let server_time = engine.clock.unix_millis(engine.now);
        let mut fields = format!(
            r#""socketId":"{socket_id}","pingInterval":{},"pingTimeout":{},"authenticated":{}"#,
            config.heartbeat.interval.as_millis(),
            config.heartbeat.timeout.as_millis(),
            identity.user.is_some(),
        );
        let mut member = |name: &str, value: Option<&str>| {
            if let Some(value) = value {
                fields.push_str(&format!(r#","{name}":"#));
                json::quote_into(value, &mut fields);
            }
        };
        let user_type = identity
            .user
            .as_ref()
            .and_then(|user| user.user_type.as_deref());
        member("userId", identity.user_id());
        member("userType", user_type);
        member("deviceId", identity.device_id.as_deref());
        member("nodeId", Some(&config.node_id));
        fields.push_str(&format!(r#","serverTime":{server_time},"recovered":false"#));
        let live = self.link(slot).is_some_and(|link| link.form == Form::Live);
        if live {
            engine.send_with(slot, |out| {
                let mut text = String::new();
                live::push_hello(&fields, id, &mut text);
                ws::push_frame(ws::OpCode::Text, text.as_bytes(), out);
            });
        } else {
            let message = Message::new("server:hello", &format!("{{{fields}}}"));
            self.emit_here(engine, slot, namespace, &message);
        }
        if let Some(user) = &identity.user {
            let success = format!(
                r#"{{"userId":{},"userType":{},"socketId":"{socket_id}","serverTime":{server_time}}}"#,
                json::quote(&user.user_id),
                user.user_type.as_deref().map_or("null".into(), json::quote),
            );
            self.emit_here(
                engine,
                slot,
                namespace,
                &Message::new("connection:success", &success),
            );
        }
    }

    /// A token that names a conversation makes its bearer a member of it.
    fn note_memberships(&mut self, engine: &mut Engine, identity: &Identity) {
        let (Some(user), Some(patterns)) = (&identity.user, &identity.rooms) else {
            return;
        };
        for conversation in patterns
            .iter()
            .filter_map(|pattern| pattern.exact())
            .filter_map(rooms::conversation_of)
        {
            self.remember_member(engine, conversation, user);
        }
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
                joining.ousted = Some(Ousted {
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

    /// A socket's token was renewed.
    pub(super) fn refresh(
        &mut self,
        engine: &mut Engine,
        to: &SocketAddress,
        identity: Arc<Identity>,
    ) {
        let Some(slot) = self.locate(engine, to) else {
            return;
        };
        let expires = identity
            .expires_at
            .map_or(Micros::MAX, |at| engine.clock.at_unix_millis(at));
        let Some(socket) = self
            .link_mut(slot)
            .and_then(|link| link.socket_mut(to.namespace()))
        else {
            return;
        };
        let before = std::mem::replace(&mut socket.identity, identity);
        socket.expires = expires;
        self.leave_what_was_taken(engine, slot, to.namespace(), &before);
        self.rearm(engine, slot);
    }

    /// A socket leaves the rooms which its token has granted `before` and does not any
    /// more, and is told so. Rooms into which the app has put it against its token stay.
    fn leave_what_was_taken(
        &mut self,
        engine: &mut Engine,
        slot: u32,
        namespace: NamespaceId,
        before: &Identity,
    ) {
        let Some(link) = self.link(slot) else {
            return;
        };
        let form = link.form;
        let Some(socket) = link.socket(namespace) else {
            return;
        };
        let taken: Vec<Arc<str>> = socket
            .rooms
            .iter()
            .filter_map(|member| self.rooms.room(*member))
            .map(|room| &room.key.name)
            .filter(|room| rooms::may_join(room, before).is_ok())
            .filter(|room| rooms::may_join(room, &socket.identity).is_err())
            .cloned()
            .collect();
        for room in taken {
            self.leave(engine, slot, namespace, &room);
            if form == Form::Live {
                engine.send_with(slot, |out| {
                    let mut text = String::new();
                    live::push_unsubscribed(&room, None, Some("forbidden"), &mut text);
                    ws::push_frame(ws::OpCode::Text, text.as_bytes(), out);
                });
            } else {
                let mut data = String::from(r#"{"room":"#);
                json::quote_into(&room, &mut data);
                data.push_str(r#","reason":"forbidden"}"#);
                self.emit_here(engine, slot, namespace, &Message::new("room:left", &data));
            }
        }
    }

    /// A live connection has begun: who brought a token is looked at, who may
    /// come without one is let in, the others have `auth_timeout`.
    pub(super) fn live_opened(
        &mut self,
        engine: &mut Engine,
        slot: u32,
        handshake: crate::engine::Handshake,
    ) {
        let token = handshake.bearer.or(handshake.query_token).map(String::from);
        let mode = self
            .shared
            .fanout
            .namespaces
            .get(NamespaceId::ROOT)
            .config
            .auth_mode;
        if token.is_some() || mode != AuthMode::Required {
            self.connect(engine, slot, NamespaceId::ROOT, token, None, None);
        }
    }

    /// The private room of a user, in a list of rooms.
    pub(super) fn private_room(identity: &Identity) -> Option<String> {
        identity.user_id().map(|user| format!("{PRIVATE}{user}"))
    }
}

//! The live protocol: frames of a plain WebSocket.

use std::sync::Arc;

use heartline_wire::live::{self, ClientFrame};
use heartline_wire::{json, ws};

use super::events::InboundEvent;
use super::{Hub, TaskKind};
use crate::auth::UserKey;
use crate::engine::Engine;
use crate::engine::wheel::Micros;
use crate::handler::{Body, PublishFrame};
use crate::metrics::Inbound;
use crate::namespaces::NamespaceId;
use crate::op::Op;
use crate::publication::AckId;
use crate::reason::Reason;
use crate::rooms;

/// A live connection's only namespace.
const ROOT: NamespaceId = NamespaceId::ROOT;
/// How long a subscription may take, microseconds.
const SUBSCRIBE: Micros = 5_000_000;
/// How long the store may take to keep a member, microseconds.
const REMEMBER: Micros = 10_000_000;
/// Frames in a row that fit nothing, after which the connection is closed.
const MAX_VIOLATIONS: u8 = 20;

impl Hub {
    pub(super) fn live_frame(&mut self, engine: &mut Engine, slot: u32, text: &str) {
        let frame = match live::decode(text) {
            Ok(frame) => frame,
            Err(error) => {
                let id = match &error {
                    live::FrameError::Missing { id, .. } => *id,
                    _ => None,
                };
                return self.violation(engine, slot, &error.message(), id);
            }
        };
        let Some(link) = self.link_mut(slot) else {
            return;
        };
        link.violations = 0;
        if link.sockets.is_empty() {
            match frame {
                ClientFrame::Auth { .. } | ClientFrame::Ping { .. } => {}
                _ => {
                    let reason = Reason::AuthFailed;
                    engine.close_with(slot, reason, reason.close_code(), "AUTH_REQUIRED");
                    return;
                }
            }
        }
        match frame {
            ClientFrame::Auth { token, id } => {
                self.count_inbound(Inbound::Auth);
                self.live_auth(engine, slot, &token, id);
            }
            ClientFrame::Ping { id } => {
                self.count_inbound(Inbound::Ping);
                let now = engine.clock.unix_millis(engine.now);
                engine.send_with(slot, |out| {
                    let mut text = String::new();
                    live::push_pong(id, now, &mut text);
                    ws::push_frame(ws::OpCode::Text, text.as_bytes(), out);
                });
            }
            ClientFrame::Subscribe { topic, id, .. } => {
                self.count_inbound(Inbound::Subscribe);
                self.subscribe(engine, slot, &topic, id);
            }
            ClientFrame::Unsubscribe { topic, id } => {
                self.count_inbound(Inbound::Unsubscribe);
                self.active(engine, slot);
                self.leave(engine, slot, ROOT, &topic);
                engine.send_with(slot, |out| {
                    let mut text = String::new();
                    live::push_unsubscribed(&topic, id, None, &mut text);
                    ws::push_frame(ws::OpCode::Text, text.as_bytes(), out);
                });
            }
            ClientFrame::Publish {
                topic,
                event,
                data,
                key,
                id,
            } => {
                self.count_inbound(Inbound::Publish);
                let frame = PublishFrame::new(&topic, &event, data, key.as_deref());
                self.live_event(engine, slot, "publish", Body::Publish(&frame), id);
            }
            ClientFrame::Emit { event, data, id } => {
                self.count_inbound(Inbound::Event);
                self.live_event(engine, slot, &event, Body::Args(data), id);
            }
        }
    }

    fn violation(&mut self, engine: &mut Engine, slot: u32, message: &str, id: Option<&str>) {
        let Some(link) = self.link_mut(slot) else {
            return;
        };
        link.violations += 1;
        if link.violations > MAX_VIOLATIONS {
            engine.close(slot, Reason::ProtocolViolation);
            return;
        }
        self.live_error(engine, slot, "protocol-violation", message, id);
    }

    fn active(&mut self, engine: &Engine, slot: u32) {
        let now = engine.now;
        if let Some(socket) = self.link_mut(slot).and_then(|link| link.socket_mut(ROOT)) {
            socket.last_activity = now;
        }
    }

    /// First identity of a connection, or a new token for the one it has.
    fn live_auth(&mut self, engine: &mut Engine, slot: u32, token: &str, id: Option<&str>) {
        let Some(link) = self.link(slot) else {
            return;
        };
        let known = link
            .socket(ROOT)
            .is_some_and(|socket| socket.identity.user.is_some());
        if !known {
            self.connect(engine, slot, ROOT, Some(token.to_owned()), None, id);
            return;
        }
        // The same as `auth:refresh` on Socket.IO.
        let data = format!(r#"{{"token":{}}}"#, json::quote(token));
        self.live_event(engine, slot, "auth:refresh", Body::Args(&data), id);
    }

    /// The same event as a Socket.IO client's.
    fn live_event(
        &mut self,
        engine: &mut Engine,
        slot: u32,
        name: &str,
        body: Body<'_>,
        id: Option<&str>,
    ) {
        let inbound = InboundEvent {
            namespace: ROOT,
            name,
            body,
            attachments: &[],
            ack: id.map(|id| AckId::Raw(id.into())),
        };
        self.event(engine, slot, inbound);
    }

    fn subscribe(&mut self, engine: &mut Engine, slot: u32, topic: &str, id: Option<&str>) {
        self.active(engine, slot);
        if let Err(error) = self.count_join(engine, slot, ROOT) {
            self.live_error(engine, slot, &error.code, &error.error, id);
            return;
        }
        let Some(socket) = self.link(slot).and_then(|link| link.socket(ROOT)) else {
            return;
        };
        if let Err(error) = rooms::may_join(topic, &socket.identity) {
            self.live_error(engine, slot, error.code(), error.message(), id);
            return;
        }
        let tenant = socket.identity.tenant_id().cloned();
        let name = self.namespace_name(ROOT);
        let held = self
            .shared
            .fanout
            .backplane
            .subscribe(name, tenant.as_deref(), topic);
        let ready = held.as_ref().and_then(|held| held.ready());
        let (Some(ready), Some(to)) = (ready, self.address(engine, slot, ROOT)) else {
            self.subscribe_now(engine, slot, topic, id);
            return;
        };
        // What comes from other nodes is to arrive before the answer says that it
        // does, and nothing of the topic before the answer.
        if let Some(link) = self.link_mut(slot) {
            link.holding += 1;
        }
        engine.pause(slot);
        let (shared, shard) = (self.shared.clone(), self.shard);
        let (topic, id) = (topic.into(), id.map(Into::into));
        let work = async move {
            ready.await;
            let op = Op::Subscribe {
                to,
                topic,
                id,
                held,
            };
            shared.fanout.post(shard, op);
        };
        self.start(engine, Box::pin(work), TaskKind::Subscribe(to), SUBSCRIBE);
    }

    /// Puts a live connection into a topic that it may join.
    pub(super) fn subscribe_now(
        &mut self,
        engine: &mut Engine,
        slot: u32,
        topic: &str,
        id: Option<&str>,
    ) {
        match self.join(engine, slot, ROOT, topic) {
            Ok(joined) => {
                self.note_joined(engine, slot, ROOT, topic);
                let epoch = self.shared.fanout.epoch(joined.incarnation);
                engine.send_with(slot, |out| {
                    let mut text = String::new();
                    live::push_subscribed(topic, id, &epoch, joined.offset, "[]", false, &mut text);
                    ws::push_frame(ws::OpCode::Text, text.as_bytes(), out);
                });
            }
            Err(error) => self.live_error(engine, slot, error.code(), error.message(), id),
        }
    }

    /// Whoever joins a conversation's room is one of its members from then on.
    pub(super) fn note_joined(
        &mut self,
        engine: &mut Engine,
        slot: u32,
        namespace: NamespaceId,
        room: &str,
    ) {
        let Some(conversation) = rooms::conversation_of(room) else {
            return;
        };
        let user = self
            .link(slot)
            .and_then(|link| link.socket(namespace))
            .and_then(|socket| socket.identity.user.clone());
        if let Some(user) = user {
            self.remember_member(engine, conversation, &user);
        }
    }

    /// The user belongs to the conversation from now on.
    pub(super) fn remember_member(
        &mut self,
        engine: &mut Engine,
        conversation: &str,
        user: &Arc<UserKey>,
    ) {
        let store = self.shared.store.clone();
        let (conversation, user) = (conversation.to_owned(), user.clone());
        let work = async move {
            if let Err(error) = store.add_member(&conversation, &user).await {
                tracing::warn!(%error, "a conversation's member could not be stored");
            }
        };
        self.start(engine, Box::pin(work), TaskKind::Detached, REMEMBER);
    }
}

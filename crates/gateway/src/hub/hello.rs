//! The first thing that a socket is told.

use heartline_core::auth::Identity;
use heartline_core::message::Message;
use heartline_core::namespaces::NamespaceId;
use heartline_engine::shard::engine::Engine;
use heartline_wire::id::Slot;
use heartline_wire::{json, live};

use super::Hub;
use crate::publication::{Encoding, Told};

impl Hub {
    pub(super) fn hello(
        &mut self,
        engine: &mut Engine,
        slot: Slot,
        namespace: NamespaceId,
        identity: &Identity,
        socket_id: &str,
        pid: Option<&str>,
        place: Option<Told>,
        id: Option<&str>,
    ) {
        let recovered = self
            .link(slot)
            .and_then(|link| link.socket(namespace))
            .is_some_and(|socket| socket.back().is_some());
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
        fields.push_str(&format!(
            r#","serverTime":{server_time},"recovered":{recovered},"maxPayload":{}"#,
            config.max_payload,
        ));
        if let Some(pid) = pid {
            fields.push_str(&format!(r#","resume":"{pid}""#));
            if let Some(told) = place {
                fields.push_str(&format!(r#","place":"{}""#, told.place));
            }
        }
        let live = self
            .link(slot)
            .is_some_and(|link| link.encoding == Encoding::Live);
        if live {
            self.send_live(engine, slot, |text| live::push_hello(&fields, id, text));
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
}

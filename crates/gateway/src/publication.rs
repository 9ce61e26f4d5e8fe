//! One event on its way to many: encoded at most once per wire form.

use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use heartline_wire::{json, live, msgpack, socketio, ws};

use crate::engine::frames::Frames;
use crate::engine::outbound::ConflationKey;

/// How a connection's messages are encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// Socket.IO's default parser.
    Text,
    /// socket.io-msgpack-parser.
    Msgpack,
    /// The live protocol.
    Live,
}

/// What is said: a name and its arguments as the inside of a JSON array, with
/// placeholders for the binary attachments.
#[derive(Debug, Clone, Default)]
pub struct Message {
    /// The event's name.
    pub event: Arc<str>,
    /// The arguments: JSON values with commas between them.
    pub args: Arc<str>,
    /// What the placeholders stand for.
    pub attachments: Vec<Bytes>,
}

impl Message {
    pub(crate) fn new(event: &str, args: &str) -> Self {
        Message {
            event: event.into(),
            args: args.into(),
            attachments: Vec::new(),
        }
    }
}

/// A message with everything that decides how it looks on the wire.
#[derive(Debug)]
pub(crate) struct Publication {
    pub(crate) namespace: Arc<str>,
    pub(crate) message: Message,
    /// What is said after it in the same breath.
    also: Vec<Message>,
    /// The room, where it goes to one.
    pub(crate) topic: Option<Arc<str>>,
    pub(crate) offset: Option<u64>,
    /// Set when only the newest per key is worth delivering.
    pub(crate) conflate: Option<ConflationKey>,
    text: OnceLock<Frames>,
    msgpack: OnceLock<Frames>,
    live: OnceLock<Frames>,
}

impl Publication {
    pub(crate) fn new(
        namespace: Arc<str>,
        message: Message,
        topic: Option<Arc<str>>,
        offset: Option<u64>,
        conflate: Option<ConflationKey>,
    ) -> Self {
        Publication {
            namespace,
            message,
            also: Vec::new(),
            topic,
            offset,
            conflate,
            text: OnceLock::new(),
            msgpack: OnceLock::new(),
            live: OnceLock::new(),
        }
    }

    /// Several events one after the other, to no room.
    pub(crate) fn of_many(namespace: Arc<str>, mut messages: Vec<Message>) -> Self {
        let also = messages.split_off(messages.len().min(1));
        let message = messages.pop().unwrap_or_default();
        Publication {
            also,
            ..Publication::new(namespace, message, None, None, None)
        }
    }

    /// How many events it is.
    pub(crate) fn len(&self) -> u64 {
        1 + self.also.len() as u64
    }

    /// The events.
    pub(crate) fn messages(&self) -> impl Iterator<Item = &Message> {
        std::iter::once(&self.message).chain(&self.also)
    }

    /// The WebSocket frames that carry it in `form`.
    pub(crate) fn frames(&self, form: Form) -> &Frames {
        let cell = match form {
            Form::Text => &self.text,
            Form::Msgpack => &self.msgpack,
            Form::Live => &self.live,
        };
        cell.get_or_init(|| {
            let mut out = Vec::new();
            for message in self.messages() {
                push_event(
                    form,
                    &self.namespace,
                    None,
                    message,
                    self.topic.as_deref(),
                    self.offset,
                    &mut out,
                );
            }
            out.into()
        })
    }
}

/// Appends an event's frames in `form`.
pub(crate) fn push_event(
    form: Form,
    namespace: &str,
    ack: Option<u64>,
    message: &Message,
    topic: Option<&str>,
    offset: Option<u64>,
    out: &mut Vec<u8>,
) {
    let Message {
        event,
        args,
        attachments,
    } = message;
    match form {
        Form::Text => {
            let mut text = String::with_capacity(event.len() + args.len() + 32);
            text.push('4');
            socketio::push_event(namespace, ack, event, args, attachments.len(), &mut text);
            push_text(&text, attachments, out);
        }
        Form::Msgpack => {
            let mut packet = Vec::with_capacity(args.len() + 64);
            msgpack::encode_event(namespace, ack, event, args, attachments, &mut packet);
            ws::push_frame(ws::OpCode::Binary, &packet, out);
        }
        Form::Live => {
            let mut text = String::with_capacity(args.len() + 64);
            live::push_event(
                event,
                topic,
                &live_data(args, attachments),
                offset,
                &mut text,
            );
            ws::push_frame(ws::OpCode::Text, text.as_bytes(), out);
        }
    }
}

/// Appends the answer to an event that asked for one.
pub(crate) fn push_ack(
    form: Form,
    namespace: &str,
    id: &AckId,
    args: &str,
    attachments: &[Bytes],
    out: &mut Vec<u8>,
) {
    match (form, id) {
        (Form::Text, AckId::Number(id)) => {
            let mut text = String::with_capacity(args.len() + 24);
            text.push('4');
            socketio::push_ack(namespace, *id, args, attachments.len(), &mut text);
            push_text(&text, attachments, out);
        }
        (Form::Msgpack, AckId::Number(id)) => {
            let mut packet = Vec::with_capacity(args.len() + 32);
            msgpack::encode_ack(namespace, *id, args, attachments, &mut packet);
            ws::push_frame(ws::OpCode::Binary, &packet, out);
        }
        (Form::Live, AckId::Raw(id)) => {
            let mut text = String::with_capacity(args.len() + 32);
            live::push_ack(Some(id), &live_data(args, attachments), &mut text);
            ws::push_frame(ws::OpCode::Text, text.as_bytes(), out);
        }
        // An id of the other protocol cannot come up.
        _ => {}
    }
}

fn push_text(text: &str, attachments: &[Bytes], out: &mut Vec<u8>) {
    ws::push_frame(ws::OpCode::Text, text.as_bytes(), out);
    for attachment in attachments {
        ws::push_frame(ws::OpCode::Binary, attachment, out);
    }
}

/// How the client named an event that it wants answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum AckId {
    Number(u64),
    /// Live: any JSON string or number.
    Raw(Box<str>),
}

/// A live frame has one value: the only argument, `null`, or all as an array.
/// Binary becomes base64.
fn live_data<'a>(args: &'a str, attachments: &[Bytes]) -> Cow<'a, str> {
    let mut elements = json::elements(args);
    let data = match (elements.next(), elements.next()) {
        (None, _) => Cow::Borrowed("null"),
        (Some(only), None) => Cow::Borrowed(only),
        (Some(_), Some(_)) => Cow::Owned(format!("[{args}]")),
    };
    if attachments.is_empty() {
        return data;
    }
    match serde_json::from_str(&data) {
        Ok(mut value) => {
            inline_attachments(&mut value, attachments);
            Cow::Owned(value.to_string())
        }
        Err(_) => data,
    }
}

fn inline_attachments(value: &mut serde_json::Value, attachments: &[Bytes]) {
    use base64::Engine as _;
    use serde_json::Value;
    match value {
        Value::Object(map) if map.get("_placeholder") == Some(&Value::Bool(true)) => {
            let number = map.get("num").and_then(Value::as_u64).unwrap_or(u64::MAX);
            let bytes = usize::try_from(number)
                .ok()
                .and_then(|number| attachments.get(number));
            *value = bytes.map_or(Value::Null, |bytes| {
                Value::String(base64::engine::general_purpose::STANDARD.encode(bytes))
            });
        }
        Value::Object(map) => map
            .values_mut()
            .for_each(|value| inline_attachments(value, attachments)),
        Value::Array(list) => list
            .iter_mut()
            .for_each(|value| inline_attachments(value, attachments)),
        _ => {}
    }
}

/// The address part of a registry entry.
pub(crate) fn address_text(ip: IpAddr) -> String {
    ip.to_canonical().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(frames: &[u8]) -> &str {
        std::str::from_utf8(&frames[2..]).unwrap()
    }

    #[test]
    fn one_message_in_three_forms() {
        let publication = Publication::new(
            "/".into(),
            Message::new("position", r#"{"x":1}"#),
            Some("map".into()),
            Some(7),
            None,
        );
        assert_eq!(
            text(publication.frames(Form::Text).plain()),
            r#"42["position",{"x":1}]"#
        );
        assert_eq!(
            text(publication.frames(Form::Live).plain()),
            r#"{"type":"position","topic":"map","data":{"x":1},"offset":7}"#
        );
        assert_eq!(publication.frames(Form::Msgpack).plain()[0], 0x82);
    }

    #[test]
    fn live_has_one_value() {
        assert_eq!(live_data("", &[]), "null");
        assert_eq!(live_data("1", &[]), "1");
        assert_eq!(live_data("1,2", &[]), "[1,2]");
        let bin = [Bytes::from_static(&[1, 2, 3])];
        assert_eq!(
            live_data(r#"{"a":{"_placeholder":true,"num":0}}"#, &bin),
            r#"{"a":"AQID"}"#
        );
    }
}

//! One event on its way to many: encoded at most once per wire encoding.
//!
//! Whatever way a message comes in by, [`check`](heartline_core::message::check) holds it to `server.max_payload`: the
//! JSON text of its arguments and its attachments together, as many attachments as
//! clients take, and none that is named twice. msgpack is measured as the JSON it
//! becomes, and no more of it than that is written (`heartline_wire::msgpack`).
//!
//! What a message becomes on its way out is then bounded by the bytes it has:
//!
//! - text: the arguments as they are, the attachments as they are;
//! - live: the arguments as they are, and 4/3 of the attachments, as base64;
//! - msgpack: 9/4 of the arguments (short floats; [`msgpack::packet_bound`]), the
//!   attachments as they are;
//! - polling and `b64=1`: 4/3 of the attachments again, as base64.
//!
//! Arguments are never parsed and written anew, so escapes (`\u0001` for one character)
//! and numbers (`1e20`) grow nowhere but from msgpack to JSON, where the limit is. Only
//! names are quoted, up to six bytes for one: an event has 128 of them, a room 256. And the
//! encoders write each attachment once, whether somebody has checked or not.

use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use heartline_core::line::Place;
use heartline_core::message::Message;
use heartline_engine::shard::frames::Frames;
use heartline_engine::shard::outbound::ConflationKey;
use heartline_wire::{json, live, msgpack, socketio, ws};

/// How a connection's messages are encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Encoding {
    /// Socket.IO's default parser.
    Text,
    /// socket.io-msgpack-parser.
    Msgpack,
    /// The live protocol.
    Live,
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
    /// What Socket.IO's clients are told of their place in the line.
    pub(crate) place: Option<Told>,
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
            place: None,
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

    /// The same at a place in the line.
    pub(crate) fn at(self, place: Option<Told>) -> Self {
        Publication { place, ..self }
    }

    /// The number of its last event in the line, if it is kept.
    pub(crate) fn last_kept(&self) -> Option<u64> {
        let told = self.place.filter(|told| told.is_own)?;
        Some(told.place.id + self.also.len() as u64)
    }

    /// The place of the event with this index.
    pub(crate) fn place_of(&self, index: usize) -> Option<Told> {
        let mut told = self.place?;
        if told.is_own {
            told.place.id += index as u64;
        }
        Some(told)
    }

    /// How many events it is.
    pub(crate) fn len(&self) -> u64 {
        1 + self.also.len() as u64
    }

    /// The events.
    pub(crate) fn messages(&self) -> impl Iterator<Item = &Message> {
        std::iter::once(&self.message).chain(&self.also)
    }

    /// Bytes of the events and the key, as they wait in a mailbox.
    pub(crate) fn size(&self) -> usize {
        let key = self.conflate.as_ref().map_or(0, |key| key.key.len());
        self.messages().map(Message::size).sum::<usize>() + key
    }

    /// The WebSocket frames that carry it in `encoding`.
    pub(crate) fn frames(&self, encoding: Encoding) -> &Frames {
        let cell = match encoding {
            Encoding::Text => &self.text,
            Encoding::Msgpack => &self.msgpack,
            Encoding::Live => &self.live,
        };
        cell.get_or_init(|| {
            let mut out = Vec::new();
            for (index, message) in self.messages().enumerate() {
                self.push_one(encoding, message, self.place_of(index), &mut out);
            }
            out.into()
        })
    }

    /// The same with another place, for one who needs it.
    pub(crate) fn push(&self, encoding: Encoding, place: Told, out: &mut Vec<u8>) {
        for message in self.messages() {
            self.push_one(encoding, message, Some(place), out);
        }
    }

    fn push_one(
        &self,
        encoding: Encoding,
        message: &Message,
        place: Option<Told>,
        out: &mut Vec<u8>,
    ) {
        let head = Head {
            namespace: &self.namespace,
            topic: self.topic.as_deref(),
            offset: self.offset,
            place,
            ..Head::default()
        };
        push_event(encoding, &head, message, out);
    }
}

/// A place in the line that comes with an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Told {
    pub(crate) place: Place,
    /// It is the event's own place; else that of what came before it.
    pub(crate) is_own: bool,
}

/// What an event comes with.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Head<'a> {
    pub(crate) namespace: &'a str,
    /// It wants to be acknowledged under this number.
    pub(crate) ack: Option<u64>,
    /// The room, where it went to one.
    pub(crate) topic: Option<&'a str>,
    /// Its number there.
    pub(crate) offset: Option<u64>,
    pub(crate) place: Option<Told>,
}

/// Whether Socket.IO's client takes an event's last argument for its place in the line: a
/// string, or the event's name where there are no arguments.
/// Source: `emitEvent` of socket.io-client.
pub(crate) fn may_mislead(message: &Message) -> bool {
    let args = message.args.trim_ascii_end();
    args.is_empty() || args.ends_with('"')
}

/// The arguments with the place as the last of them.
fn with_place<'a>(args: &'a str, place: Option<Told>) -> Cow<'a, str> {
    match place {
        None => Cow::Borrowed(args),
        Some(Told { place, .. }) if args.is_empty() => Cow::Owned(format!("\"{place}\"")),
        Some(Told { place, .. }) => Cow::Owned(format!("{args},\"{place}\"")),
    }
}

/// Appends an event's frames in `encoding`.
pub(crate) fn push_event(
    encoding: Encoding,
    head: &Head<'_>,
    message: &Message,
    out: &mut Vec<u8>,
) {
    let Message {
        event,
        args,
        attachments,
    } = message;
    let Head {
        namespace,
        ack,
        topic,
        offset,
        place,
    } = *head;
    match encoding {
        Encoding::Text => {
            let args = &with_place(args, place);
            let mut text = String::with_capacity(event.len() + args.len() + 32);
            text.push('4');
            socketio::push_event(namespace, ack, event, args, attachments.len(), &mut text);
            push_text(&text, attachments, out);
        }
        Encoding::Msgpack => {
            let args = &with_place(args, place);
            let mut packet = Vec::with_capacity(args.len() + 64);
            msgpack::encode_event(namespace, ack, event, args, attachments, &mut packet);
            ws::push_frame(ws::OpCode::Binary, &packet, out);
        }
        Encoding::Live => {
            let mut text = String::with_capacity(args.len() + 64);
            // In a topic the offset says it.
            let place = place.filter(|told| told.is_own && offset.is_none());
            live::push_event(
                event,
                topic,
                &live_data(args, attachments),
                offset,
                place.map(|told| told.place.to_string()).as_deref(),
                &mut text,
            );
            ws::push_frame(ws::OpCode::Text, text.as_bytes(), out);
        }
    }
}

/// Bytes of a Socket.IO answer around its namespace and arguments, about: types, number, brackets.
const ACK_AROUND: usize = 6;
/// Bytes of a live answer around its id and data.
const LIVE_ACK_AROUND: usize = r#"{"type":"ack","id":,"data":}"#.len();

/// Appends the answer to an event that asked for one.
pub(crate) fn push_ack(
    encoding: Encoding,
    namespace: &str,
    id: AckRef<'_>,
    args: &str,
    attachments: &[Bytes],
    out: &mut Vec<u8>,
) {
    match (encoding, id) {
        (Encoding::Text, AckRef::Number(id)) => {
            let expected = namespace.len() + args.len() + ACK_AROUND;
            ws::push_frame_with(ws::OpCode::Text, expected, out, |out| {
                out.push(b'4');
                socketio::push_ack(namespace, id, args, attachments.len(), out);
            });
            push_attachments(attachments, out);
        }
        (Encoding::Msgpack, AckRef::Number(id)) => {
            let mut packet = Vec::with_capacity(args.len() + 32);
            msgpack::encode_ack(namespace, id, args, attachments, &mut packet);
            ws::push_frame(ws::OpCode::Binary, &packet, out);
        }
        (Encoding::Live, AckRef::Raw(id)) => {
            let data = live_data(args, attachments);
            let expected = id.len() + data.len() + LIVE_ACK_AROUND;
            ws::push_frame_with(ws::OpCode::Text, expected, out, |out| {
                live::push_ack(Some(id), &data, out);
            });
        }
        // An id of the other protocol cannot come up.
        _ => {}
    }
}

fn push_text(text: &str, attachments: &[Bytes], out: &mut Vec<u8>) {
    ws::push_frame(ws::OpCode::Text, text.as_bytes(), out);
    push_attachments(attachments, out);
}

fn push_attachments(attachments: &[Bytes], out: &mut Vec<u8>) {
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

/// The same, borrowed from the event: what is answered at once keeps no copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AckRef<'a> {
    Number(u64),
    Raw(&'a str),
}

impl AckId {
    pub(crate) fn borrowed(&self) -> AckRef<'_> {
        match self {
            AckId::Number(id) => AckRef::Number(*id),
            AckId::Raw(id) => AckRef::Raw(id),
        }
    }
}

impl AckRef<'_> {
    pub(crate) fn kept(self) -> AckId {
        match self {
            AckRef::Number(id) => AckId::Number(id),
            AckRef::Raw(id) => AckId::Raw(id.into()),
        }
    }
}

/// A live frame has one value: the only argument, `null`, or all as an array.
/// Binary becomes base64.
pub(crate) fn live_data<'a>(args: &'a str, attachments: &[Bytes]) -> Cow<'a, str> {
    let args = args.trim_ascii();
    let data = if !args.is_empty() && !args.as_bytes().contains(&b',') {
        // Nothing to take apart.
        Cow::Borrowed(args)
    } else {
        let mut elements = json::elements(args);
        match (elements.next(), elements.next()) {
            (None, _) => Cow::Borrowed("null"),
            (Some(only), None) => Cow::Borrowed(only),
            (Some(_), Some(_)) => Cow::Owned(format!("[{args}]")),
        }
    };
    if attachments.is_empty() {
        return data;
    }
    let mut inlined = String::new();
    socketio::inline_attachments(&data, attachments, &mut inlined);
    Cow::Owned(inlined)
}

/// The address part of a registry entry.
pub(crate) fn address_text(ip: IpAddr) -> String {
    ip.to_canonical().to_string()
}

/// A round trip in µs as an entry has it: in milliseconds, if one was measured.
pub(crate) fn rtt_millis(rtt: u32) -> Option<f64> {
    (rtt > 0).then(|| f64::from(rtt) / 1000.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

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
            text(publication.frames(Encoding::Text).plain()),
            r#"42["position",{"x":1}]"#
        );
        assert_eq!(
            text(publication.frames(Encoding::Live).plain()),
            r#"{"type":"position","topic":"map","data":{"x":1},"offset":7}"#
        );
        assert_eq!(publication.frames(Encoding::Msgpack).plain()[0], 0x82);
    }

    #[test]
    fn live_has_one_value() {
        for none in ["", " ", " \t\r\n"] {
            assert_eq!(live_data(none, &[]), "null");
        }
        assert_eq!(live_data(" 1\n", &[]), "1");
        assert_eq!(live_data("1", &[]), "1");
        assert_eq!(live_data("1,2", &[]), "[1,2]");
        let bin = [Bytes::from_static(&[1, 2, 3])];
        assert_eq!(
            live_data(r#"{"a":{"_placeholder":true,"num":0}}"#, &bin),
            r#"{"a":"AQID"}"#
        );
        // The rest stays as it was written.
        assert_eq!(
            live_data(r#"{"_placeholder":true,"num":0}, [1e400, "\u00e9"]"#, &bin),
            r#"["AQID", [1e400, "\u00e9"]]"#
        );
    }

    const P: &str = r#"{"_placeholder":true,"num":0}"#;

    /// Whatever a message says: checked or not, what it becomes has a bound.
    #[test]
    fn no_form_is_longer_than_its_parts_allow() {
        let value = prop_oneof![
            Just(P.to_owned()),
            Just(format!("{{\"x\":[{P},{P}]}}")),
            Just(r#"{"_placeholder":true,"num":1,"x":{"_placeholder":true,"num":0}}"#.to_owned()),
            Just("1e5".to_owned()),
            Just("[1.5,1e5,0.1]".to_owned()),
            Just(r#""\u0001\u00e9""#.to_owned()),
            "\"[a-z]{0,300}\"",
        ];
        let attachment = prop::collection::vec(any::<u8>(), 0..2000).prop_map(Bytes::from);
        let given = (
            prop::collection::vec(value, 0..40),
            prop::collection::vec(attachment, 0..3),
        );
        proptest!(|((args, attachments) in given)| {
            let message = Message {
                event: "e".into(),
                args: args.join(",").into(),
                attachments,
            };
            let (text, bins) = (message.args.len(), message.size() - message.args.len() - 1);
            let parts = message.attachments.len();
            let bounds = [
                (Encoding::Text, text + bins + 40 + 10 * parts),
                (Encoding::Live, text + bins.div_ceil(3) * 4 + 4 * parts + 60),
                (Encoding::Msgpack, 10 + msgpack::packet_bound("/", "e", &message.args, &message.attachments)),
            ];
            for (encoding, bound) in bounds {
                let mut frames = Vec::new();
                let head = Head {
                    namespace: "/",
                    ..Head::default()
                };
                push_event(encoding, &head, &message, &mut frames);
                prop_assert!(frames.len() <= bound, "{encoding:?}: {} > {bound}", frames.len());
            }
        });
    }
}

//! Socket.IO servers on Node that use `@socket.io/redis-adapter` on the same Redis, and
//! programs that use `@socket.io/redis-emitter`: a team can move over node by node.
//!
//! Broadcasts go both ways (`socket.io#NAMESPACE#ROOM#`, msgpack). Requests to join,
//! leave or disconnect sockets come in (`socket.io-request#NAMESPACE#`, JSON); those
//! that want answers are the Node servers' among themselves. Both are heard by pattern:
//! who subscribes to the request channel itself would be counted as a server that has
//! to answer.

use bytes::Bytes;
use heartline_core::backplane::{Action, Message, MessageError, Target, check};
use heartline_wire::{json, msgpack};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::envelope::Unread;

/// What is listened to.
pub(super) const PATTERNS: [&str; 2] = ["socket.io#*", "socket.io-request#*"];
/// What Heartline's nodes call themselves: they hear each other by other channels.
const OWN: &str = "heartline-";

/// Something that a Node server or an emitter wants of this node's sockets.
#[derive(Debug)]
pub struct Foreign {
    /// The namespace.
    pub namespace: String,
    /// Sockets in any of these rooms, or with these ids; none: all sockets.
    pub rooms: Vec<String>,
    /// But in none of these.
    pub except: Vec<String>,
    /// What becomes of them.
    pub action: Action,
}

/// A publication as the adapter writes it: channel and body. `None` for what Node
/// servers have no name for: they know of no tenants.
pub(super) fn encode(
    tag: u32,
    target: &Target<'_>,
    message: &Message,
) -> Option<(String, Vec<u8>)> {
    let (namespace, rooms, except) = match *target {
        Target::Room {
            namespace,
            tenant: None,
            room,
            ..
        } => (namespace, vec![room.to_owned()], String::new()),
        Target::Rooms {
            namespace,
            tenant: None,
            rooms,
            except,
        } => {
            let rooms = rooms.iter().map(ToOwned::to_owned).collect();
            (namespace, rooms, quoted(except.iter()))
        }
        Target::All {
            namespace,
            tenant: None,
        } => (namespace, Vec::new(), String::new()),
        Target::User {
            namespace,
            tenant: None,
            user,
            instead_of: None,
            ..
        } => (namespace, vec![format!("user:{user}")], String::new()),
        _ => return None,
    };
    let comma = if message.args.is_empty() { "" } else { "," };
    let text = format!(
        r#"["{OWN}{tag:08x}",{{"type":2,"data":[{}{comma}{}],"nsp":{}}},{{"rooms":[{}],"except":[{except}],"flags":{{}}}}]"#,
        json::quote(&message.event),
        message.args,
        json::quote(namespace),
        quoted(rooms.iter().map(String::as_str)),
    );
    let mut body = Vec::with_capacity(text.len());
    msgpack::encode_value(&text, &message.attachments, &mut body);
    let channel = match &*rooms {
        [room] => format!("socket.io#{namespace}#{room}#"),
        _ => format!("socket.io#{namespace}#"),
    };
    Some((channel, body))
}

fn quoted<'a>(names: impl Iterator<Item = &'a str>) -> String {
    names.map(json::quote).collect::<Vec<_>>().join(",")
}

#[derive(Default, Deserialize)]
struct Options {
    #[serde(default)]
    rooms: Vec<String>,
    #[serde(default)]
    except: Vec<String>,
}

#[derive(Deserialize)]
struct Packet {
    #[serde(rename = "type")]
    kind: u8,
    data: Vec<Box<RawValue>>,
    nsp: String,
}

#[derive(Deserialize)]
struct Request {
    #[serde(default)]
    uid: String,
    #[serde(rename = "type")]
    kind: u8,
    #[serde(default)]
    opts: Options,
    #[serde(default)]
    rooms: Vec<String>,
}

/// Reads what came by one of the [`PATTERNS`]. An event has at most `max` bytes, as JSON
/// text and attachments; the rooms that it is for, as many again.
///
/// # Errors
/// Whatever is not for this node, and what [`check`] refuses.
pub(super) fn decode(channel: &[u8], body: &[u8], max: usize) -> Result<Foreign, Unread> {
    let channel = std::str::from_utf8(channel).map_err(|_| Unread::Nothing)?;
    match channel.strip_prefix("socket.io-request#") {
        Some(rest) => rest
            .strip_suffix('#')
            .and_then(|namespace| decode_request(namespace, body))
            .ok_or(Unread::Nothing),
        None => {
            let value = msgpack::decode_value(body, max.saturating_mul(2));
            let (text, attachments) = value.map_err(|error| match error {
                msgpack::DecodeError::TooLarge => Unread::Refused(MessageError::TooLarge(max)),
                _ => Unread::Nothing,
            })?;
            let foreign = broadcast(&text, attachments).ok_or(Unread::Nothing)?;
            if let Action::Emit(message) = &foreign.action {
                check(&message.args, &message.attachments, max)?;
            }
            Ok(foreign)
        }
    }
}

fn broadcast(text: &str, attachments: Vec<Bytes>) -> Option<Foreign> {
    let (uid, packet, options): (String, Packet, Options) = serde_json::from_str(text).ok()?;
    // 2 is an event; binary ones are not told apart here.
    if uid.starts_with(OWN) || packet.kind != 2 {
        return None;
    }
    let (event, args) = packet.data.split_first()?;
    let event: String = serde_json::from_str(event.get()).ok()?;
    let args: Vec<&str> = args.iter().map(|arg| arg.get()).collect();
    Some(Foreign {
        namespace: packet.nsp,
        rooms: options.rooms,
        except: options.except,
        action: Action::Emit(Message {
            event: event.into(),
            args: args.join(",").into(),
            attachments,
        }),
    })
}

fn decode_request(namespace: &str, body: &[u8]) -> Option<Foreign> {
    // Broadcasts that want acknowledgements are msgpack, and not for us.
    let request: Request = serde_json::from_slice(body).ok()?;
    if request.uid.starts_with(OWN) {
        return None;
    }
    let action = match request.kind {
        2 => Action::Join(request.rooms),
        3 => Action::Leave(request.rooms),
        4 => Action::Disconnect,
        _ => return None,
    };
    Some(Foreign {
        namespace: namespace.to_owned(),
        rooms: request.opts.rooms,
        except: request.opts.except,
        action,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX: usize = 1_000_000;

    #[test]
    fn a_broadcast_looks_like_the_adapters() {
        let message = Message {
            event: "hi".into(),
            args: r#"{"a":{"_placeholder":true,"num":0}},2"#.into(),
            attachments: vec![Bytes::from_static(&[1, 2])],
        };
        let target = Target::Room {
            namespace: "/",
            tenant: None,
            room: "r",
            key: None,
        };
        let (channel, body) = encode(7, &target, &message).unwrap();
        assert_eq!(channel, "socket.io#/#r#");
        // Our own nodes leave it alone.
        let heard = decode(channel.as_bytes(), &body, MAX);
        assert_eq!(heard.unwrap_err(), Unread::Nothing);
        let (text, attachments) = msgpack::decode_value(&body, MAX).unwrap();
        assert_eq!(
            text,
            r#"["heartline-00000007",{"type":2,"data":["hi",{"a":{"_placeholder":true,"num":0}},2],"nsp":"/"},{"rooms":["r"],"except":[],"flags":{}}]"#
        );
        assert_eq!(attachments, message.attachments);
        // As a Node server would have sent it.
        let mut theirs = Vec::new();
        let text = text.replace("heartline-00000007", "nXPT41");
        msgpack::encode_value(&text, &attachments, &mut theirs);
        let foreign = decode(channel.as_bytes(), &theirs, MAX).unwrap();
        assert_eq!(
            (&*foreign.namespace, &*foreign.rooms),
            ("/", &["r".to_owned()][..])
        );
        let Action::Emit(heard) = foreign.action else {
            panic!("an event");
        };
        assert_eq!((heard.event, heard.args), (message.event, message.args));
        assert_eq!(heard.attachments, message.attachments);
    }

    #[test]
    fn what_no_client_may_say_no_server_may_either() {
        let read = |args: &str, attachments: &[Bytes]| {
            let text = format!(
                r#"["nXPT41",{{"type":2,"data":["e",{args}],"nsp":"/"}},{{"rooms":["r"],"except":[]}}]"#
            );
            let mut body = Vec::new();
            msgpack::encode_value(&text, attachments, &mut body);
            decode(b"socket.io#/#r#", &body, 200).map(drop)
        };
        let placeholder = r#"{"_placeholder":true,"num":0}"#;
        let bin = [Bytes::from_static(b"bin")];
        assert_eq!(read(placeholder, &bin), Ok(()));
        let twice = format!("{placeholder},{placeholder}");
        let refused = |why| Err(Unread::Refused(why));
        assert_eq!(
            read(&twice, &bin),
            refused(MessageError::RepeatedAttachment)
        );
        for length in [199, 10_000] {
            let long = format!("\"{}\"", "x".repeat(length));
            assert_eq!(read(&long, &[]), refused(MessageError::TooLarge(200)));
        }
    }

    #[test]
    fn what_has_a_tenant_stays_here() {
        let message = Message::default();
        let target = Target::All {
            namespace: "/",
            tenant: Some("t"),
        };
        assert!(encode(7, &target, &message).is_none());
    }

    #[test]
    fn requests_are_read_and_others_left_alone() {
        let read = |body: &str| decode(b"socket.io-request#/chat#", body.as_bytes(), MAX);
        let join = r#"{"type":2,"opts":{"rooms":["r1"],"except":[]},"rooms":["r2"]}"#;
        let foreign = read(join).unwrap();
        assert_eq!((&*foreign.namespace, &*foreign.rooms[0]), ("/chat", "r1"));
        assert!(matches!(foreign.action, Action::Join(rooms) if rooms == ["r2"]));
        let leave = read(&join.replace("\"type\":2", "\"type\":3")).unwrap();
        assert!(matches!(leave.action, Action::Leave(_)));
        let end = read(r#"{"uid":"x","type":4,"opts":{"rooms":[],"except":["r"]},"close":true}"#);
        assert!(matches!(end.unwrap().action, Action::Disconnect));
        assert!(read(r#"{"uid":"x","requestId":"y","type":0,"rooms":[]}"#).is_err());
        assert!(read("nonsense").is_err());
    }
}

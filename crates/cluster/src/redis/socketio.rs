//! Socket.IO servers on Node that use `@socket.io/redis-adapter` on the same Redis, and
//! programs that use `@socket.io/redis-emitter`: a team can move over node by node.
//!
//! The package has two adapters, which do not hear each other: `classic` (`createAdapter`;
//! pub/sub, msgpack, heard by pattern) and `sharded` (`createShardedAdapter`; sharded
//! pub/sub of Redis 7, a channel for each room). Both count whoever subscribes to a
//! namespace's main channel as a server that answers requests. This node subscribes, so it
//! answers all of them: acknowledgements of a broadcast cannot be waited for otherwise.

mod classic;
mod name;
mod reply;
mod sharded;

use std::time::Duration;

use bytes::Bytes;
use heartline_core::backplane::{Action, Message, MessageError, Target, check};
use heartline_wire::json;
use heartline_wire::msgpack::{self, Fault};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::fanout::Recipients;
use crate::envelope::Unread;
use name::{Name, names};

pub use reply::Reply;

/// What Heartline's nodes call themselves: they hear each other by other channels.
const OWN: &str = "heartline-";
/// How long acknowledgements are waited for where a request does not say, and at most.
const ACK_TIME: Duration = Duration::from_secs(5);
const MAX_ACK_TIME: Duration = Duration::from_secs(300);
/// The type of a packet that is an event; binary ones are not told apart here.
const EVENT: u8 = 2;

/// Which of the package's adapters Node servers use, if there are any.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SocketIoAdapter {
    /// There are none.
    #[default]
    Off,
    /// `createAdapter`.
    Classic,
    /// `createShardedAdapter`.
    Sharded,
}

/// Something that a Node server or an emitter wants.
#[derive(Debug)]
pub struct Foreign {
    /// The namespace.
    pub namespace: String,
    /// It is about sockets in any of these rooms, or with these ids; none: all sockets.
    pub rooms: Vec<String>,
    /// But in none of these.
    pub except: Vec<String>,
    /// What is wanted.
    pub wish: Wish,
}

/// What is wanted of this node's sockets.
#[derive(Debug)]
pub enum Wish {
    /// Something is done to them.
    Do(Action),
    /// They are sent an event, and what they answer in this time is told.
    Ask(Message, Duration, Reply),
    /// Who they are is told.
    Fetch(Reply),
    /// Their ids are told.
    Ids(Reply),
    /// All rooms are told.
    Rooms(Reply),
    /// An answer from every server's own code. This one has none.
    Nothing(Reply),
}

/// How this node speaks with Node servers.
#[derive(Debug, Clone)]
pub struct Adapter {
    kind: SocketIoAdapter,
    /// What the names of their channels begin with.
    key: String,
    /// This node's name among them.
    uid: String,
}

/// What is listened to whatever rooms there are.
#[derive(Debug, Default)]
pub(super) struct Always {
    pub(super) channels: Vec<String>,
    pub(super) patterns: Vec<String>,
}

impl Adapter {
    /// `key` is the adapters' option `key` or `channelPrefix`; `tag` names this process.
    pub fn new(kind: SocketIoAdapter, key: &str, tag: u32) -> Adapter {
        Adapter {
            kind,
            key: key.to_owned(),
            uid: format!("{OWN}{tag:08x}"),
        }
    }

    /// What is listened to for these namespaces.
    pub(super) fn always<'a>(&self, namespaces: impl Iterator<Item = &'a str>) -> Always {
        match self.kind {
            SocketIoAdapter::Off => Always::default(),
            SocketIoAdapter::Classic => Always {
                channels: namespaces
                    .map(|name| format!("{}-request#{name}#", self.key))
                    .collect(),
                patterns: vec![format!("{}#*", literal(&self.key))],
            },
            SocketIoAdapter::Sharded => Always {
                channels: namespaces.map(|name| self.channel(name)).collect(),
                patterns: Vec::new(),
            },
        }
    }

    /// A namespace's main channel.
    fn channel(&self, namespace: &str) -> String {
        format!("{}#{namespace}#", self.key)
    }

    /// What the names of sharded channels begin with.
    pub(super) fn sharded_prefix(&self) -> Option<String> {
        (self.kind == SocketIoAdapter::Sharded).then(|| format!("{}#", self.key))
    }

    /// The channel that Node servers speak to about one room (a socket's id is one too), if
    /// it has to be listened to by itself.
    pub(super) fn room_channel(&self, namespace: &str, room: &str) -> Option<String> {
        (self.kind == SocketIoAdapter::Sharded).then(|| format!("{}#{namespace}#{room}#", self.key))
    }

    /// Whether they are spoken with.
    pub(super) fn is_on(&self) -> bool {
        self.kind != SocketIoAdapter::Off
    }

    /// Whether a channel is one of theirs.
    pub(super) fn is_theirs(&self, channel: &[u8]) -> bool {
        let rest = channel.strip_prefix(self.key.as_bytes());
        self.kind != SocketIoAdapter::Off
            && rest.is_some_and(|rest| rest.starts_with(b"#") || rest.starts_with(b"-request#"))
    }

    /// A publication as the adapter writes it. `None` for what Node servers have no name
    /// for: they know of no tenants.
    pub(super) fn encode(
        &self,
        target: &Target<'_>,
        message: &Message,
    ) -> Option<(Recipients, Vec<u8>)> {
        let broadcast = match self.kind {
            SocketIoAdapter::Off => return None,
            _ => Broadcast::of(target, message)?,
        };
        let (channel, body) = match self.kind {
            SocketIoAdapter::Sharded => sharded::encode(self, &broadcast),
            _ => classic::encode(self, &broadcast),
        };
        Some((Recipients::Channel(channel), body))
    }

    /// Reads what came by one of their channels. An event has at most `max` bytes, as JSON
    /// text and attachments; the rooms that it is for, as many again.
    ///
    /// # Errors
    /// Whatever is not for this node, and what [`check`] refuses.
    pub(super) fn decode(
        &self,
        channel: &[u8],
        body: &[u8],
        max: usize,
    ) -> Result<Foreign, Unread> {
        let channel = std::str::from_utf8(channel).map_err(|_| Unread::Nothing)?;
        let rest = channel.strip_prefix(&*self.key).ok_or(Unread::Nothing)?;
        let (text, attachments) = open(body, max)?;
        let foreign = match (self.kind, rest.strip_prefix("-request#")) {
            (SocketIoAdapter::Sharded, _) => sharded::decode(self, &text, attachments),
            (_, Some(rest)) => rest
                .strip_suffix('#')
                .and_then(|namespace| classic::decode_request(self, namespace, &text, attachments)),
            (_, None) => classic::decode_broadcast(&text, attachments),
        };
        let foreign = foreign.ok_or(Unread::Nothing)?;
        if let Wish::Do(Action::Emit(message)) | Wish::Ask(message, ..) = &foreign.wish {
            check(&message.args, &message.attachments, max)?;
        }
        Ok(foreign)
    }
}

/// A pattern that is right for this name only.
fn literal(name: &str) -> String {
    let mut pattern = String::with_capacity(name.len());
    for letter in name.chars() {
        if matches!(letter, '*' | '?' | '[' | ']' | '^' | '-' | '\\') {
            pattern.push('\\');
        }
        pattern.push(letter);
    }
    pattern
}

/// JSON, or msgpack: as JSON text with placeholders, and what they stand for.
fn open(body: &[u8], max: usize) -> Result<(String, Vec<Bytes>), Unread> {
    let bound = max.saturating_mul(2);
    if body.first() != Some(&b'{') {
        return msgpack::decode_value(body, bound).map_err(|error| match error {
            msgpack::DecodeError::Unfit(Fault::TooLarge) => {
                Unread::Refused(MessageError::TooLarge(max))
            }
            msgpack::DecodeError::Unfit(Fault::TooDeep) => Unread::Refused(MessageError::TooDeep),
            _ => Unread::Nothing,
        });
    }
    if body.len() > bound {
        return Err(Unread::Refused(MessageError::TooLarge(max)));
    }
    let text = std::str::from_utf8(body).map_err(|_| Unread::Nothing)?;
    Ok((text.to_owned(), Vec::new()))
}

/// JSON as bytes: msgpack, if there is something binary.
fn close(text: &str, attachments: &[Bytes]) -> Vec<u8> {
    if attachments.is_empty() {
        return text.as_bytes().to_vec();
    }
    to_msgpack(text, attachments)
}

fn to_msgpack(text: &str, attachments: &[Bytes]) -> Vec<u8> {
    let mut body = Vec::with_capacity(text.len());
    msgpack::encode_value(text, attachments, &mut body);
    body
}

/// A publication in the adapters' terms.
struct Broadcast<'a> {
    namespace: &'a str,
    rooms: Vec<String>,
    message: &'a Message,
    /// The packet, JSON.
    packet: String,
    /// Rooms and exceptions, JSON.
    options: String,
}

impl<'a> Broadcast<'a> {
    fn of(target: &Target<'a>, message: &'a Message) -> Option<Broadcast<'a>> {
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
        Some(Broadcast {
            namespace,
            packet: format!(
                r#"{{"type":{EVENT},"data":[{}{comma}{}],"nsp":{}}}"#,
                json::quote(&message.event),
                message.args,
                json::quote(namespace),
            ),
            options: format!(
                r#"{{"rooms":[{}],"except":[{except}],"flags":{{}}}}"#,
                quoted(rooms.iter().map(String::as_str)),
            ),
            rooms,
            message,
        })
    }
}

fn quoted<'a>(names: impl Iterator<Item = &'a str>) -> String {
    names.map(json::quote).collect::<Vec<_>>().join(",")
}

#[derive(Default, Deserialize)]
struct Options {
    #[serde(default)]
    rooms: Vec<Name>,
    #[serde(default)]
    except: Vec<Name>,
    #[serde(default)]
    flags: Option<Flags>,
}

#[derive(Default, Deserialize)]
struct Flags {
    /// Milliseconds.
    #[serde(default)]
    timeout: Option<f64>,
}

impl Options {
    fn ack_time(&self) -> Duration {
        let asked = self.flags.as_ref().and_then(|flags| flags.timeout);
        let time = asked.and_then(|millis| Duration::try_from_secs_f64(millis / 1000.0).ok());
        time.unwrap_or(ACK_TIME).min(MAX_ACK_TIME)
    }

    fn foreign(self, namespace: String, wish: Wish) -> Foreign {
        Foreign {
            namespace,
            rooms: names(self.rooms),
            except: names(self.except),
            wish,
        }
    }
}

#[derive(Deserialize)]
struct Packet {
    #[serde(rename = "type")]
    kind: u8,
    data: Vec<Box<RawValue>>,
    #[serde(default)]
    nsp: Option<String>,
}

impl Packet {
    /// The event in it; `None` for other packets.
    fn message(&self, attachments: Vec<Bytes>) -> Option<Message> {
        if self.kind != EVENT {
            return None;
        }
        let (event, args) = self.data.split_first()?;
        let Name(event) = serde_json::from_str(event.get()).ok()?;
        let args: Vec<&str> = args.iter().map(|arg| arg.get()).collect();
        Some(Message {
            event: event.into(),
            args: args.join(",").into(),
            attachments,
        })
    }
}

#[cfg(test)]
mod tests;

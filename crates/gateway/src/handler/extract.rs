//! What handlers take from events, and what their answers are on the wire.

use std::cell::{LazyCell, OnceCell};
use std::sync::Arc;

use bytes::Bytes;
use heartline_wire::codes::Code;
use heartline_wire::handshake::Handshake;
use heartline_wire::json;
use heartline_wire::reason::Reason;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::binary;
use crate::event::{Args, EventError, PublishRequest};
use crate::gateway::{Gateway, GatewayCell, WeakGateway};
use crate::objects;
use crate::socket::Socket;

/// An event on its way to its handler.
pub struct Event<'a> {
    pub(crate) socket: Handle<'a>,
    pub(crate) name: &'a str,
    pub(crate) body: Body<'a>,
    pub(crate) attachments: &'a [Bytes],
    pub(crate) gateway: &'a GatewayCell,
    /// The connection's first request, where that is kept.
    pub(crate) handshake: Option<&'a Arc<Handshake>>,
    /// Set for the end of a socket.
    pub(crate) ending: Option<&'a Ending>,
}

/// The socket of an event: its handle is made for whoever asks for it, as it counts references.
pub(crate) type Handle<'a> = LazyCell<Socket, &'a dyn Fn() -> Socket>;

/// How a socket ended.
pub(crate) struct Ending {
    pub(crate) reason: Reason,
    pub(crate) rooms: Vec<String>,
}

/// What an event says.
#[derive(Clone, Copy)]
pub(crate) enum Body<'a> {
    /// The arguments as the inside of a JSON array.
    Args(&'a str),
    /// A live `publish` frame, taken apart already.
    Publish(&'a PublishFrame<'a>),
}

/// The fields of a live `publish` frame. They are the event `publish`, which takes them
/// as they are; only a handler that asks for arguments has them written as JSON.
pub(crate) struct PublishFrame<'a> {
    pub(crate) topic: &'a str,
    pub(crate) event: &'a str,
    /// JSON.
    pub(crate) data: &'a str,
    pub(crate) key: Option<&'a str>,
    pub(crate) to_self: bool,
    args: OnceCell<String>,
}

impl<'a> PublishFrame<'a> {
    pub(crate) fn new(
        topic: &'a str,
        event: &'a str,
        data: &'a str,
        key: Option<&'a str>,
        to_self: bool,
    ) -> Self {
        PublishFrame {
            topic,
            event,
            data,
            key,
            to_self,
            args: OnceCell::new(),
        }
    }

    /// The same as the argument of a Socket.IO client's `publish`.
    fn args(&self) -> &str {
        self.args.get_or_init(|| {
            let mut args = String::from(r#"{"room":"#);
            json::quote_into(self.topic, &mut args);
            args.push_str(r#","event":"#);
            json::quote_into(self.event, &mut args);
            if let Some(key) = self.key {
                args.push_str(r#","key":"#);
                json::quote_into(key, &mut args);
            }
            if !self.to_self {
                args.push_str(r#","self":false"#);
            }
            args.push_str(r#","data":"#);
            args.push_str(self.data);
            args.push('}');
            args
        })
    }
}

impl<'a> Event<'a> {
    /// The event's name.
    pub fn name(&self) -> &'a str {
        self.name
    }

    /// The socket it came from.
    pub fn socket(&self) -> &Socket {
        &self.socket
    }

    /// The arguments as the inside of a JSON array: `1,{"a":2}`.
    pub fn args(&self) -> &'a str {
        match self.body {
            Body::Args(args) => args,
            Body::Publish(frame) => frame.args(),
        }
    }

    /// The first argument's JSON, `null` if there is none.
    pub fn first(&self) -> &'a str {
        json::elements(self.args()).next().unwrap_or("null")
    }
}

/// Something a handler takes from an event.
pub trait FromEvent: Sized {
    /// Whether connections have to keep their first request for it. The gateway does that if
    /// any of its handlers needs it; it costs each connection the memory of that head.
    const NEEDS_HANDSHAKE: bool = false;

    /// Takes it, or says why the event does not fit.
    fn from_event(event: &Event<'_>) -> Result<Self, EventError>;
}

impl FromEvent for Gateway {
    fn from_event(event: &Event<'_>) -> Result<Self, EventError> {
        let gateway = event.gateway.get().and_then(WeakGateway::upgrade);
        gateway.ok_or_else(|| EventError::new(Code::Internal, "The gateway has ended"))
    }
}

/// The HTTP request by which the connection began.
impl FromEvent for Arc<Handshake> {
    const NEEDS_HANDSHAKE: bool = true;

    fn from_event(event: &Event<'_>) -> Result<Self, EventError> {
        Ok(event.handshake.cloned().unwrap_or_default())
    }
}

/// Why the socket ended; for [`on_disconnect`](crate::GatewayBuilder::on_disconnect).
impl FromEvent for Reason {
    fn from_event(event: &Event<'_>) -> Result<Self, EventError> {
        let ending = event.ending.map(|ending| ending.reason);
        ending.ok_or_else(|| EventError::new(Code::Internal, "The socket has not ended"))
    }
}

/// The rooms that the socket was in when it ended; for
/// [`on_disconnect`](crate::GatewayBuilder::on_disconnect).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeftRooms(pub Vec<String>);

impl FromEvent for LeftRooms {
    fn from_event(event: &Event<'_>) -> Result<Self, EventError> {
        let rooms = event.ending.map(|ending| ending.rooms.clone());
        Ok(LeftRooms(rooms.unwrap_or_default()))
    }
}

impl FromEvent for Socket {
    fn from_event(event: &Event<'_>) -> Result<Self, EventError> {
        Ok(event.socket().clone())
    }
}

/// The event's first argument, or a handler's answer, as a typed value. A struct is read from an
/// object, by the names of its members: a list in its place does not fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Json<T>(pub T);

impl<T: DeserializeOwned> FromEvent for Json<T> {
    fn from_event(event: &Event<'_>) -> Result<Self, EventError> {
        binary::read(event.first(), event.attachments)
            .map(Json)
            .map_err(EventError::misfit)
    }
}

/// All arguments of an event, or of a handler's answer, as a tuple: `All((name, image)):
/// All<(String, Binary)>`. An event with more or fewer arguments does not fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct All<T>(pub T);

impl<T: DeserializeOwned> FromEvent for All<T> {
    fn from_event(event: &Event<'_>) -> Result<Self, EventError> {
        binary::read_list(&format!("[{}]", event.args()), event.attachments)
            .map(All)
            .map_err(EventError::misfit)
    }
}

impl<T: Serialize> IntoReply for All<T> {
    fn into_reply(self) -> Result<Option<Args>, EventError> {
        Args::many(&self.0).map(Some)
    }
}

impl FromEvent for PublishRequest {
    fn from_event(event: &Event<'_>) -> Result<Self, EventError> {
        #[derive(Deserialize)]
        struct Raw<'a> {
            room: String,
            event: String,
            #[serde(default, borrow)]
            data: Option<&'a RawValue>,
            #[serde(default)]
            key: Option<String>,
            #[serde(default, rename = "self")]
            to_self: Option<bool>,
        }
        if let Body::Publish(frame) = event.body {
            return Ok(PublishRequest {
                room: frame.topic.to_owned(),
                event: frame.event.to_owned(),
                data: Args {
                    json: frame.data.to_owned(),
                    attachments: Vec::new(),
                },
                key: frame.key.map(ToOwned::to_owned),
                to_self: frame.to_self,
            });
        }
        let text = json::whole(event.first());
        let raw: Raw<'_> = objects::read(&text).map_err(EventError::misfit)?;
        Ok(PublishRequest {
            room: raw.room,
            event: raw.event,
            data: Args {
                json: raw.data.map_or("null", RawValue::get).to_owned(),
                // Placeholders in the data keep their numbers.
                attachments: event.attachments.to_vec(),
            },
            key: raw.key,
            to_self: raw.to_self.unwrap_or(true),
        })
    }
}

impl FromEvent for Args {
    fn from_event(event: &Event<'_>) -> Result<Self, EventError> {
        Ok(Args {
            json: event.args().to_owned(),
            attachments: event.attachments.to_vec(),
        })
    }
}

/// The event's name, for a handler of several.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventName(pub String);

impl FromEvent for EventName {
    fn from_event(event: &Event<'_>) -> Result<Self, EventError> {
        Ok(EventName(event.name.to_owned()))
    }
}

/// What a handler's return value is on the wire.
pub trait IntoReply {
    /// Turns it into the acknowledgement's arguments; `None` for no acknowledgement.
    fn into_reply(self) -> Result<Option<Args>, EventError>;
}

/// No acknowledgement, even to a client that asked for one: what comes of a handler on Node
/// that does not call its callback.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NoAnswer;

impl IntoReply for NoAnswer {
    fn into_reply(self) -> Result<Option<Args>, EventError> {
        Ok(None)
    }
}

impl IntoReply for () {
    fn into_reply(self) -> Result<Option<Args>, EventError> {
        Ok(Some(Args::default()))
    }
}

impl IntoReply for Args {
    fn into_reply(self) -> Result<Option<Args>, EventError> {
        Ok(Some(self))
    }
}

impl<T: Serialize> IntoReply for Json<T> {
    fn into_reply(self) -> Result<Option<Args>, EventError> {
        Args::one(&self.0).map(Some)
    }
}

impl<T: IntoReply> IntoReply for Result<T, EventError> {
    fn into_reply(self) -> Result<Option<Args>, EventError> {
        self?.into_reply()
    }
}

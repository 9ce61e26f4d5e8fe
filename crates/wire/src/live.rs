//! Heartline's live protocol: one JSON object per WebSocket text frame.
//!
//! Source: Heartline's contract, "Transports". A frame has a `type`; an `id`
//! that the client sends, a string or a number, comes back in the answer as it
//! was written. Payloads and ids stay raw JSON.
//!
//! ```
//! use heartline_wire::live::{self, ClientFrame, Subscribed};
//!
//! let frame = live::decode(r#"{"type":"subscribe","topic":"room:7","id":1}"#);
//! let Ok(ClientFrame::Subscribe { topic, id, .. }) = frame else { panic!() };
//!
//! let said = Subscribed {
//!     topic: &topic,
//!     id,
//!     epoch: "e1",
//!     offset: 9,
//!     snapshot: "[]",
//!     recovered: false,
//!     members: None,
//!     is_left_out: false,
//! };
//! let mut answer = String::new();
//! live::push_subscribed(&said, &mut answer);
//! assert_eq!(
//!     answer,
//!     r#"{"type":"subscribed","topic":"room:7","id":1,"epoch":"e1","offset":9,"snapshot":[],"recovered":false}"#
//! );
//! ```

mod decode;
mod encode;

use std::borrow::Cow;
use std::fmt;

pub use decode::decode;
pub use encode::{
    Subscribed, push_ack, push_error, push_event, push_gap, push_hello, push_pong, push_refusal,
    push_subscribed, push_unsubscribed,
};

/// Names that an event may not take, as its `type` would read as one of the
/// protocol's own frames.
pub const RESERVED_TYPES: &[&str] = &[
    "hello",
    "subscribed",
    "unsubscribed",
    "gap",
    "ack",
    "pong",
    "error",
    "auth",
    "subscribe",
    "unsubscribe",
    "publish",
    "emit",
    "ping",
];

/// Whether `name` is one of [`RESERVED_TYPES`].
pub fn is_reserved(name: &str) -> bool {
    RESERVED_TYPES.contains(&name)
}

/// What a client brings along of a connection that was lost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resume<'a> {
    /// The `resume` of its hello.
    pub token: Cow<'a, str>,
    /// The `place` of the last event that had one.
    pub place: Option<Cow<'a, str>>,
    /// Its topics, each with the epoch and offset of the last event that was received.
    pub topics: Vec<(Cow<'a, str>, Option<Position<'a>>)>,
}

/// An epoch, and an offset in it.
pub type Position<'a> = (Cow<'a, str>, u64);

/// What a client can send. Ids and data are raw JSON.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientFrame<'a> {
    /// Authenticates the connection.
    Auth {
        /// The token.
        token: Cow<'a, str>,
        /// Comes back in the answer.
        id: Option<&'a str>,
        /// What an earlier connection had.
        resume: Option<Box<Resume<'a>>>,
    },
    /// Joins a topic.
    Subscribe {
        /// The topic's name.
        topic: Cow<'a, str>,
        /// Comes back in the answer.
        id: Option<&'a str>,
        /// Epoch and offset of the last event that was received.
        recover: Option<Position<'a>>,
        /// Whether the answer is to say who is there: with `"members":true`.
        members: bool,
    },
    /// Leaves a topic.
    Unsubscribe {
        /// The topic's name.
        topic: Cow<'a, str>,
        /// Comes back in the answer.
        id: Option<&'a str>,
    },
    /// Publishes an event to a topic.
    Publish {
        /// The topic's name.
        topic: Cow<'a, str>,
        /// The event's name.
        event: Cow<'a, str>,
        /// The payload; `null` if the frame has none.
        data: &'a str,
        /// Of events with the same key only the last one matters.
        key: Option<Cow<'a, str>>,
        /// Whether the publisher hears it too, if it is in the topic: not with
        /// `"self":false`.
        to_self: bool,
        /// Comes back in the answer.
        id: Option<&'a str>,
    },
    /// Calls the handler of an event.
    Emit {
        /// The event's name.
        event: Cow<'a, str>,
        /// The payload; `null` if the frame has none.
        data: &'a str,
        /// Comes back in the answer.
        id: Option<&'a str>,
    },
    /// Asks for a sign of life.
    Ping {
        /// Comes back in the answer.
        id: Option<&'a str>,
    },
}

/// Why a frame was not understood. The connection stays open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FrameError<'a> {
    /// The text is not one JSON object.
    NotJson,
    /// A member is given twice.
    Twice {
        /// Its name.
        field: Cow<'a, str>,
        /// Comes back in the answer.
        id: Option<&'a str>,
    },
    /// The `id` is neither a string nor a number: nothing can come back in the answer.
    WrongId,
    /// The object has no `type`, or one that is no string.
    NoType {
        /// Comes back in the answer.
        id: Option<&'a str>,
    },
    /// There is no such `type`.
    UnknownType {
        /// The frame's `type`.
        kind: Cow<'a, str>,
        /// Comes back in the answer.
        id: Option<&'a str>,
    },
    /// A field is missing or is no string.
    Missing {
        /// The frame's `type`.
        kind: &'static str,
        /// The field.
        field: &'static str,
        /// Comes back in the answer.
        id: Option<&'a str>,
    },
    /// A field is neither `true` nor `false`.
    NoBool {
        /// The frame's `type`.
        kind: &'static str,
        /// The field.
        field: &'static str,
        /// Comes back in the answer.
        id: Option<&'a str>,
    },
}

impl<'a> FrameError<'a> {
    /// The frame's `id` as it came, if it has one that can come back.
    pub fn id(&self) -> Option<&'a str> {
        match *self {
            Self::NotJson | Self::WrongId => None,
            Self::NoType { id }
            | Self::Twice { id, .. }
            | Self::UnknownType { id, .. }
            | Self::Missing { id, .. }
            | Self::NoBool { id, .. } => id,
        }
    }

    /// The sentence for the answer. It repeats at most 32 characters of what
    /// the client sent.
    pub fn message(&self) -> String {
        self.to_string()
    }
}

impl fmt::Display for FrameError<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotJson => f.write_str("the frame is not a JSON object"),
            Self::Twice { field, .. } => write!(f, "the frame has {field} twice"),
            Self::WrongId => f.write_str("id must be a string or a number"),
            Self::NoType { .. } => f.write_str("the frame has no type"),
            // A precision cuts at characters.
            Self::UnknownType { kind, .. } => write!(
                f,
                "unknown type {kind:.32}; clients send auth, subscribe, unsubscribe, publish, \
                 emit and ping"
            ),
            Self::Missing { kind, field, .. } => {
                write!(f, "{kind} needs {field}, which must be a string")
            }
            Self::NoBool { kind, field, .. } => {
                write!(f, "{field} of {kind} must be true or false")
            }
        }
    }
}

impl std::error::Error for FrameError<'_> {}

//! Socket.IO protocol 5 with the default parser.
//!
//! Source: the Socket.IO protocol document, revision 5
//! (<https://socket.io/docs/v4/socket-io-protocol/>), section "Packet
//! encoding": `<type>[<attachments>-][<namespace>,][<id>][JSON]`. What the
//! document leaves open follows `socket.io-parser` 4.2.7.
//!
//! Payloads stay JSON text. The attachments of a binary packet travel next to
//! it, and its text has `{"_placeholder":true,"num":i}` in their places.
//!
//! ```
//! use heartline_wire::socketio::{PacketType, decode, push_ack, split_event};
//!
//! let packet = decode(r#"2/chat,7["say","hello",{"to":3}]"#)?;
//! assert_eq!(packet.kind, PacketType::Event);
//! assert_eq!(packet.namespace, "/chat");
//! let (name, args) = split_event(packet.data.unwrap_or_default()).unwrap();
//! assert_eq!((name.as_ref(), args), ("say", r#""hello",{"to":3}"#));
//!
//! let mut answer = String::new();
//! push_ack("/chat", 7, "true", 0, &mut answer);
//! assert_eq!(answer, "3/chat,7[true]");
//! # Ok::<(), heartline_wire::socketio::DecodeError>(())
//! ```

mod decode;
mod encode;
mod placeholder;

use std::fmt;

pub use decode::{array_inside, decode, split_event};
pub(crate) use decode::{check_data, without_query};
pub use encode::{push_ack, push_connect, push_connect_error, push_disconnect, push_event};
pub(crate) use placeholder::{Candidate, Named};
pub use placeholder::{PlaceholderError, check_placeholders, inline_attachments};

/// The most attachments a binary packet may announce (`maxAttachments` of
/// `socket.io-parser` 4.2.6 and later; it bounds what a receiver waits for).
pub const MAX_ATTACHMENTS: usize = 10;

/// Event names that belong to the library and may not be sent.
pub const RESERVED_EVENTS: [&str; 6] = [
    "connect",
    "connect_error",
    "disconnect",
    "disconnecting",
    "newListener",
    "removeListener",
];

/// The digit that a packet begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum PacketType {
    /// Joins a namespace, or confirms it.
    Connect = 0,
    /// Leaves a namespace.
    Disconnect = 1,
    /// An event and its arguments.
    Event = 2,
    /// The answer to an event with an id.
    Ack = 3,
    /// A namespace was refused.
    ConnectError = 4,
    /// An event with attachments.
    BinaryEvent = 5,
    /// An answer with attachments.
    BinaryAck = 6,
}

impl PacketType {
    pub(crate) fn from_number(number: u64) -> Option<Self> {
        Some(match number {
            0 => Self::Connect,
            1 => Self::Disconnect,
            2 => Self::Event,
            3 => Self::Ack,
            4 => Self::ConnectError,
            5 => Self::BinaryEvent,
            6 => Self::BinaryAck,
            _ => return None,
        })
    }

    /// Whether attachments follow the packet.
    pub fn is_binary(self) -> bool {
        matches!(self, Self::BinaryEvent | Self::BinaryAck)
    }

    /// The digit on the wire.
    pub fn digit(self) -> char {
        char::from(b'0' + self as u8)
    }
}

/// A decoded packet; everything is borrowed from its text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet<'a> {
    /// What it is.
    pub kind: PacketType,
    /// `/` unless the packet names another. A query string is cut off.
    pub namespace: &'a str,
    /// Of an event: the answer it wants. Of an ack: what it answers.
    pub id: Option<u64>,
    /// How many binary messages follow: 0, or 1 to [`MAX_ATTACHMENTS`].
    pub attachments: usize,
    /// The payload, validated JSON without whitespace around it.
    pub data: Option<&'a str>,
}

/// Why a text is no packet. The reference's answer is to close the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DecodeError {
    /// The packet is empty or does not begin with a known type.
    UnknownType,
    /// The number of attachments is missing, or none, or too high.
    InvalidAttachments,
    /// The id does not fit 64 bits.
    InvalidId,
    /// The payload is no JSON.
    InvalidJson,
    /// The payload is missing, or has another shape than its type demands.
    InvalidPayload(PacketType),
    /// An event by a name that belongs to the library.
    ReservedName,
    /// A placeholder for an attachment that does not follow.
    InvalidPlaceholder,
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::UnknownType => "unknown packet type",
            Self::InvalidAttachments => "number of attachments must be between 1 and 10",
            Self::InvalidId => "packet id out of range",
            Self::InvalidJson => "payload is not JSON",
            Self::InvalidPayload(kind) => match kind {
                PacketType::Connect => "CONNECT payload must be an object",
                PacketType::Disconnect => "DISCONNECT takes no payload",
                PacketType::Event | PacketType::BinaryEvent => {
                    "EVENT payload must be an array that begins with a name"
                }
                PacketType::Ack | PacketType::BinaryAck => "ACK payload must be an array",
                PacketType::ConnectError => "CONNECT_ERROR payload must be an object or a string",
            },
            Self::ReservedName => "event name is reserved",
            Self::InvalidPlaceholder => "placeholder without attachment",
        })
    }
}

impl std::error::Error for DecodeError {}

//! Socket.IO protocol 5 with `socket.io-msgpack-parser` 3.0.2.
//!
//! Every packet is one binary message: a map with `type`, `data`, `nsp` and
//! perhaps `id`, in the dialect of `notepack.io` 2.2 (the msgpack
//! specification, with `undefined` and dates as fixexts of type 0, and what is an
//! `ArrayBuffer` or a typed array on Node as an ext 8, 16 or 32 of type 0). There
//! are no placeholders and no binary kinds; binary is a msgpack bin in its
//! place. A bin is also what is written: notepack reads it as a `Buffer` on Node and as an
//! `ArrayBuffer` in browsers, where it does not know that ext.
//!
//! Packets are transcoded into the shape of the default parser: the payload
//! becomes JSON text with placeholders, bins become attachments. So the rest of
//! Heartline knows only one form, and the two parsers' clients can meet in a
//! room.
//!
//! Transcoding multiplies, so each direction has its bound. A byte of msgpack may be
//! six of JSON (a control character in a string is `\\u0001`, `false` is a word; an
//! integer is up to four with its comma, a float or a date six for each of its bytes) and
//! two bytes of an empty bin are a placeholder of 35: [`decode`] takes a limit, and nothing
//! is written beyond it. The other way JSON text can only become 9/4 as long (`,1e5` is a
//! float of nine bytes; an integer, a word, a string with or without escapes and a
//! bracket are shorter than their text, but for heads of four bytes where it is longer
//! than 255), and each attachment is written at most once: see [`encode_event`].
//!
//! Reader and writer are our own: the JSON text is the tree, so a msgpack crate
//! would only contribute the marker bytes.

mod date;
mod json_writer;
mod marker;
mod read;
mod transcode;
mod write;

use std::fmt;

use bytes::Bytes;

use crate::socketio::{self, PacketType};

pub use transcode::{decode, decode_value};
pub use write::{
    encode_ack, encode_connect, encode_connect_error, encode_disconnect, encode_event,
    encode_value, packet_bound,
};

/// A decoded packet, in the shape of the default parser.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    /// What it is. Never one of the binary kinds, attachments or not.
    pub kind: PacketType,
    /// The namespace; a query string is cut off.
    pub namespace: String,
    /// Of an event: the answer it wants. Of an ack: what it answers.
    pub id: Option<u64>,
    /// The payload as JSON text, each bin replaced by a placeholder.
    pub data: Option<String>,
    /// The bins, in the order of their placeholders.
    pub attachments: Vec<Bytes>,
    /// The payload breaks a bound, and is left out with its bins.
    pub fault: Option<Fault>,
}

/// Which bound a payload breaks. Its packet is well formed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It has more bytes than the limit.
    TooLarge,
    /// Arrays and maps are nested deeper than [`crate::json::MAX_DEPTH`], and what is around
    /// a payload.
    TooDeep,
}

/// Why a message is no packet. The reference's answer is to close the
/// connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DecodeError {
    /// A length points behind the end of the message.
    Truncated,
    /// Bytes follow the packet.
    TrailingBytes,
    /// A string is not UTF-8.
    InvalidUtf8,
    /// A marker that msgpack does not define, or a map key that is neither a
    /// string nor an integer.
    InvalidValue,
    /// A value breaks a bound of [`decode_value`].
    Unfit(Fault),
    /// The message is no map, or `type`, `nsp` or `id` is missing or wrong.
    InvalidPacket,
    /// The packet breaks a rule that both parsers share.
    Packet(socketio::DecodeError),
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Truncated => "msgpack ends early",
            Self::TrailingBytes => "bytes follow the packet",
            Self::InvalidUtf8 => "msgpack string is not UTF-8",
            Self::InvalidValue => "invalid msgpack value",
            Self::Unfit(Fault::TooDeep) => "msgpack is nested too deeply",
            Self::Unfit(Fault::TooLarge) => "msgpack is too large as JSON",
            Self::InvalidPacket => "invalid packet type, namespace or id",
            Self::Packet(error) => return error.fmt(f),
        })
    }
}

impl std::error::Error for DecodeError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Packet(error) => Some(error),
            _ => None,
        }
    }
}

impl From<socketio::DecodeError> for DecodeError {
    fn from(error: socketio::DecodeError) -> Self {
        Self::Packet(error)
    }
}

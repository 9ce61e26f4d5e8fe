//! WebSocket frames (RFC 6455), without extensions.
//!
//! [`Decoder`] turns what a socket delivers into messages and borrows them
//! from the read buffer whenever it can; the `push_` functions append frames
//! to a write buffer.
//!
//! ```
//! use heartline_wire::ws::{self, Decoder, Message, OpCode, Role};
//!
//! let mut buffer = Vec::new();
//! ws::push_frame(OpCode::Text, b"one", &mut buffer);
//! ws::push_frame(OpCode::Text, b"two", &mut buffer);
//!
//! let mut decoder = Decoder::default();
//! let mut rest = &mut buffer[..];
//! let mut seen = Vec::new();
//! while let Some(message) = decoder.decode(&mut rest, Role::Client, 1_000)? {
//!     if let Message::Text(text) = message {
//!         seen.push(text.to_owned());
//!     }
//! }
//! assert_eq!(seen, ["one", "two"]);
//! assert!(decoder.is_idle());
//! # Ok::<(), ws::Error>(())
//! ```

mod close;
mod decoder;
pub mod deflate;
mod header;
mod state;

use std::fmt;

pub use close::{CloseFrame, is_valid_close_code, push_close};
pub use decoder::Decoder;
pub use header::{frame_boundary, push_frame, push_frame_with, push_header, push_masked_frame};

/// The most a control frame may carry (RFC 6455 §5.5).
pub const MAX_CONTROL_PAYLOAD: usize = 125;

/// What a frame is (RFC 6455 §5.2 and §11.8).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum OpCode {
    /// A further fragment of the message in progress.
    Continuation = 0x0,
    /// A text message, or its first fragment.
    Text = 0x1,
    /// A binary message, or its first fragment.
    Binary = 0x2,
    /// The closing handshake.
    Close = 0x8,
    /// A ping, to be answered with a pong of the same payload.
    Ping = 0x9,
    /// The answer to a ping, or a one-way heartbeat.
    Pong = 0xa,
}

impl OpCode {
    /// `None` for the reserved codes.
    pub(crate) fn from_bits(bits: u8) -> Option<Self> {
        Some(match bits {
            0x0 => Self::Continuation,
            0x1 => Self::Text,
            0x2 => Self::Binary,
            0x8 => Self::Close,
            0x9 => Self::Ping,
            0xa => Self::Pong,
            _ => return None,
        })
    }

    /// Control frames have the top bit of the code set (RFC 6455 §5.5).
    pub(crate) fn is_control(self) -> bool {
        self as u8 & 0x8 != 0
    }
}

/// Which side of the connection decodes (RFC 6455 §5.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// Every frame that arrives must be masked.
    Server,
    /// No frame that arrives may be masked.
    Client,
}

/// Why a connection must be failed (RFC 6455 §7.1.7).
///
/// Nothing that follows on the connection can be decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// The frame breaks the protocol; the reason is fit for a close frame.
    Protocol(&'static str),
    /// A text message or a close reason is not UTF-8.
    InvalidUtf8,
    /// The message is larger than the caller allows.
    TooBig,
}

impl Error {
    /// The status code to close with (RFC 6455 §7.4.1).
    pub fn close_code(&self) -> u16 {
        match self {
            Self::Protocol(_) => 1002,
            Self::InvalidUtf8 => 1007,
            Self::TooBig => 1009,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Protocol(reason) => reason,
            Self::InvalidUtf8 => "text is not UTF-8",
            Self::TooBig => "message too big",
        })
    }
}

impl std::error::Error for Error {}

/// A whole message, or a control frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message<'a> {
    /// A text message.
    Text(&'a str),
    /// A binary message.
    Binary(&'a [u8]),
    /// A message to be [inflated](deflate::Inflater), and, if it is text, to be
    /// checked then (RFC 7692 §6.2).
    Compressed {
        /// Text, or else binary.
        text: bool,
        /// As it came.
        payload: &'a [u8],
    },
    /// A ping and its payload.
    Ping(&'a [u8]),
    /// A pong and its payload.
    Pong(&'a [u8]),
    /// The peer closes; `None` if it sent no status code.
    Close(Option<CloseFrame<'a>>),
}

//! Packets and polling payloads (Engine.IO protocol 4, "Packet encoding").

use std::borrow::Cow;
use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

use crate::json;

/// Between the packets of a polling payload ("Payload encoding").
pub const SEPARATOR: char = '\x1e';

/// Padding is optional: browsers send it, hand-written clients may not.
const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// The digit that a packet begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum PacketType {
    /// The handshake, from the server only.
    Open = 0,
    /// The transport can be closed.
    Close = 1,
    /// A heartbeat from the server, or the probe of an upgrade.
    Ping = 2,
    /// The answer to a ping.
    Pong = 3,
    /// A payload of the protocol above.
    Message = 4,
    /// The client leaves polling for this transport.
    Upgrade = 5,
    /// Releases a pending poll during an upgrade.
    Noop = 6,
}

impl PacketType {
    /// The digit on the wire.
    pub fn digit(self) -> char {
        char::from(b'0' + self as u8)
    }
}

/// A decoded packet; payloads are borrowed, base64 is decoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Packet<'a> {
    /// The handshake's JSON.
    Open(&'a str),
    /// The peer closes.
    Close,
    /// A ping and its payload (`probe` during an upgrade).
    Ping(&'a str),
    /// A pong and its payload.
    Pong(&'a str),
    /// A text message.
    Message(&'a str),
    /// A binary message that came as base64 text.
    Binary(Cow<'a, [u8]>),
    /// The client has changed its transport.
    Upgrade,
    /// Nothing.
    Noop,
}

/// The text is no Engine.IO packet. The protocol's answer is to close the
/// session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DecodeError;

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("invalid Engine.IO packet")
    }
}

impl std::error::Error for DecodeError {}

/// Decodes a text frame, or one packet of a polling payload.
///
/// A packet that begins with `b` is base64 and becomes [`Packet::Binary`].
/// What follows the digit of a packet that has no payload is ignored, as in
/// the reference implementation.
///
/// # Errors
///
/// The text is empty, its first character is no packet type, or its base64 is
/// invalid.
///
/// ```
/// use heartline_wire::engineio::{Packet, decode_text};
///
/// assert_eq!(decode_text("2probe"), Ok(Packet::Ping("probe")));
/// assert_eq!(decode_text("bAQI="), Ok(Packet::Binary(vec![1, 2].into())));
/// assert!(decode_text("x").is_err());
/// ```
#[inline]
pub fn decode_text(frame: &str) -> Result<Packet<'_>, DecodeError> {
    let rest = frame.get(1..).unwrap_or_default();
    Ok(match frame.as_bytes().first() {
        Some(b'0') => Packet::Open(rest),
        Some(b'1') => Packet::Close,
        Some(b'2') => Packet::Ping(rest),
        Some(b'3') => Packet::Pong(rest),
        Some(b'4') => Packet::Message(rest),
        Some(b'5') => Packet::Upgrade,
        Some(b'6') => Packet::Noop,
        Some(b'b') => {
            let bytes = LENIENT.decode(rest).map_err(|_| DecodeError)?;
            Packet::Binary(Cow::Owned(bytes))
        }
        _ => return Err(DecodeError),
    })
}

/// The packets of a polling body; see [`decode_payload`].
#[derive(Clone, Debug)]
pub struct Payload<'a> {
    packets: std::str::Split<'a, char>,
    failed: bool,
}

/// Splits the body of a polling request into its packets.
///
/// The iterator ends after the first error. An empty body holds one empty
/// packet, which is one.
pub fn decode_payload(body: &str) -> Payload<'_> {
    Payload {
        packets: body.split(SEPARATOR),
        failed: false,
    }
}

impl<'a> Iterator for Payload<'a> {
    type Item = Result<Packet<'a>, DecodeError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        let packet = decode_text(self.packets.next()?);
        self.failed = packet.is_err();
        Some(packet)
    }
}

/// Appends a binary message as text: `b` and base64.
pub fn push_base64(data: &[u8], out: &mut String) {
    out.push('b');
    STANDARD.encode_string(data, out);
}

/// The open packet, leading `0` included ("Handshake").
///
/// Its JSON has exactly the keys the protocol names; clients obey the values.
pub fn open_packet(
    sid: &str,
    upgrades: &[&str],
    ping_interval_ms: u64,
    ping_timeout_ms: u64,
    max_payload: usize,
) -> String {
    let mut out = String::with_capacity(128);
    out.push_str("0{\"sid\":");
    json::quote_into(sid, &mut out);
    out.push_str(",\"upgrades\":[");
    for (index, upgrade) in upgrades.iter().enumerate() {
        if index > 0 {
            out.push(',');
        }
        json::quote_into(upgrade, &mut out);
    }
    out.push_str("],\"pingInterval\":");
    json::push_u64(ping_interval_ms, &mut out);
    out.push_str(",\"pingTimeout\":");
    json::push_u64(ping_timeout_ms, &mut out);
    out.push_str(",\"maxPayload\":");
    json::push_u64(max_payload as u64, &mut out);
    out.push('}');
    out
}

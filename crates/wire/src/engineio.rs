//! Engine.IO protocol 4: packets, polling payloads and refusals.
//!
//! Source: the Engine.IO protocol document, revision 4
//! (<https://socket.io/docs/v4/engine-io-protocol/>), sections "Packet
//! encoding" and "Protocol". Over WebSocket a text frame is one packet and a
//! binary frame is a message's bytes without a type; over HTTP a body is a
//! [payload](decode_payload).

mod packet;
mod request;

pub use packet::{
    DecodeError, Packet, PacketType, Payload, SEPARATOR, decode_payload, decode_text, open_packet,
    push_base64,
};
pub use request::RequestError;

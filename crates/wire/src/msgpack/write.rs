//! From a packet with JSON text to msgpack.

use bytes::Bytes;

use super::json_writer::{Shapes, push_json};
use super::marker::{push_array, push_map, push_str, push_unsigned};
use crate::socketio::PacketType;

/// Appends an event. `args` is the raw inside of an array, without the name;
/// placeholders in it become the attachments they point at, each attachment at most once.
/// So what is appended has at most [`packet_bound`] bytes.
pub fn encode_event(
    namespace: &str,
    id: Option<u64>,
    name: &str,
    args: &str,
    attachments: &[Bytes],
    out: &mut Vec<u8>,
) {
    out.reserve(namespace.len() + name.len() + args.len() + 48);
    push_head(PacketType::Event, true, id, out);
    let shapes = Shapes::of(args, attachments.len());
    push_array(shapes.top.saturating_add(1), out);
    push_str(name, out);
    push_json(args, &shapes, attachments, out);
    push_tail(namespace, id, out);
}

/// The most bytes that an event or its answer takes; the module's documentation says why.
pub fn packet_bound(namespace: &str, name: &str, args: &str, attachments: &[Bytes]) -> usize {
    // The map's names, its numbers and the heads of its texts take 40 bytes, an array of
    // arguments up to four more, and a float that is the only argument nine for one digit.
    const HEADS: usize = 64;
    let bins: usize = attachments.iter().map(Bytes::len).sum();
    HEADS + namespace.len() + name.len() + args.len().div_ceil(4) * 9 + bins
}

/// Appends the answer to an event. `args` is the raw inside of an array.
pub fn encode_ack(namespace: &str, id: u64, args: &str, attachments: &[Bytes], out: &mut Vec<u8>) {
    push_head(PacketType::Ack, true, Some(id), out);
    let shapes = Shapes::of(args, attachments.len());
    push_array(shapes.top, out);
    push_json(args, &shapes, attachments, out);
    push_tail(namespace, Some(id), out);
}

/// Appends a value that is no packet. Placeholders in its JSON become the attachments
/// they point at, each attachment at most once.
pub fn encode_value(json: &str, attachments: &[Bytes], out: &mut Vec<u8>) {
    push_json(json, &Shapes::of(json, attachments.len()), attachments, out);
}

/// Appends the confirmation of a `CONNECT`.
pub fn encode_connect(namespace: &str, sid: &str, pid: Option<&str>, out: &mut Vec<u8>) {
    push_head(PacketType::Connect, true, None, out);
    push_map(1 + u32::from(pid.is_some()), out);
    push_str("sid", out);
    push_str(sid, out);
    if let Some(pid) = pid {
        push_str("pid", out);
        push_str(pid, out);
    }
    push_tail(namespace, None, out);
}

/// Appends the refusal of a `CONNECT`. `data` is raw JSON.
pub fn encode_connect_error(namespace: &str, message: &str, data: Option<&str>, out: &mut Vec<u8>) {
    push_head(PacketType::ConnectError, true, None, out);
    push_map(1 + u32::from(data.is_some()), out);
    push_str("message", out);
    push_str(message, out);
    if let Some(data) = data {
        push_str("data", out);
        push_json(data, &Shapes::of(data, 0), &[], out);
    }
    push_tail(namespace, None, out);
}

/// Appends the end of a namespace.
pub fn encode_disconnect(namespace: &str, out: &mut Vec<u8>) {
    push_head(PacketType::Disconnect, false, None, out);
    push_tail(namespace, None, out);
}

/// The packet's map up to the value of `data`.
fn push_head(kind: PacketType, has_data: bool, id: Option<u64>, out: &mut Vec<u8>) {
    let members = 2 + u32::from(has_data) + u32::from(id.is_some());
    push_map(members, out);
    push_str("type", out);
    push_unsigned((kind as u8).into(), out);
    if has_data {
        push_str("data", out);
    }
}

/// The packet's map from behind `data`.
fn push_tail(namespace: &str, id: Option<u64>, out: &mut Vec<u8>) {
    push_str("nsp", out);
    push_str(namespace, out);
    if let Some(id) = id {
        push_str("id", out);
        push_unsigned(id, out);
    }
}

//! From packets to text. The Engine.IO message type is the caller's to add.

use super::PacketType;
use crate::json::{self, Sink};

/// Type, attachments, namespace and id: all that comes before the payload.
#[inline]
fn push_head(
    kind: PacketType,
    attachments: usize,
    namespace: &str,
    id: Option<u64>,
    out: &mut impl Sink,
) {
    json::push_u64(kind as u64, out);
    if kind.is_binary() {
        json::push_u64(attachments as u64, out);
        out.push_text("-");
    }
    if namespace != "/" {
        out.push_text(namespace);
        out.push_text(",");
    }
    if let Some(id) = id {
        json::push_u64(id, out);
    }
}

/// Appends an event. `args` is the raw inside of an array, without the name;
/// empty for an event without arguments. With attachments it becomes a binary
/// event, whose attachments the caller sends behind it.
pub fn push_event(
    namespace: &str,
    id: Option<u64>,
    name: &str,
    args: &str,
    attachments: usize,
    out: &mut String,
) {
    let kind = match attachments {
        0 => PacketType::Event,
        _ => PacketType::BinaryEvent,
    };
    out.reserve(namespace.len() + name.len() + args.len() + 16);
    push_head(kind, attachments, namespace, id, out);
    out.push('[');
    json::quote_into(name, out);
    if !args.is_empty() {
        out.push(',');
        out.push_str(args);
    }
    out.push(']');
}

/// Appends the answer to an event. `args` is the raw inside of an array.
#[inline]
pub fn push_ack(namespace: &str, id: u64, args: &str, attachments: usize, out: &mut impl Sink) {
    let kind = match attachments {
        0 => PacketType::Ack,
        _ => PacketType::BinaryAck,
    };
    push_head(kind, attachments, namespace, Some(id), out);
    out.push_text("[");
    out.push_text(args);
    out.push_text("]");
}

/// Appends the confirmation of a `CONNECT`. Clients take a packet without
/// `sid` for an older protocol. `pid` is the private id for connection state
/// recovery.
pub fn push_connect(namespace: &str, sid: &str, pid: Option<&str>, out: &mut String) {
    push_head(PacketType::Connect, 0, namespace, None, out);
    out.push_str("{\"sid\":");
    json::quote_into(sid, out);
    if let Some(pid) = pid {
        out.push_str(",\"pid\":");
        json::quote_into(pid, out);
    }
    out.push('}');
}

/// Appends the refusal of a `CONNECT`. `data` is raw JSON. Clients do not
/// reconnect by themselves after it.
pub fn push_connect_error(namespace: &str, message: &str, data: Option<&str>, out: &mut String) {
    push_head(PacketType::ConnectError, 0, namespace, None, out);
    out.push_str("{\"message\":");
    json::quote_into(message, out);
    if let Some(data) = data {
        out.push_str(",\"data\":");
        out.push_str(data);
    }
    out.push('}');
}

/// Appends the end of a namespace. Clients do not reconnect by themselves
/// after it.
pub fn push_disconnect(namespace: &str, out: &mut String) {
    push_head(PacketType::Disconnect, 0, namespace, None, out);
}

//! From frames to text.

use crate::json::{self, Sink};

/// Opens a frame: `{"type":"<kind>"`; `kind` needs no escapes.
#[inline]
fn open(kind: &str, out: &mut impl Sink) {
    out.push_text("{\"type\":\"");
    out.push_text(kind);
    out.push_text("\"");
}

#[inline]
fn push_text(name: &str, value: &str, out: &mut String) {
    push_name(name, out);
    json::quote_into(value, out);
}

#[inline]
fn push_raw(name: &str, value: &str, out: &mut impl Sink) {
    push_name(name, out);
    out.push_text(value);
}

#[inline]
fn push_number(name: &str, value: u64, out: &mut String) {
    push_name(name, out);
    json::push_u64(value, out);
}

#[inline]
fn push_name(name: &str, out: &mut impl Sink) {
    out.push_text(",\"");
    out.push_text(name);
    out.push_text("\":");
}

#[inline]
fn push_id(id: Option<&str>, out: &mut impl Sink) {
    if let Some(id) = id {
        push_raw("id", id, out);
    }
}

/// Appends an event: `{"type":E,"topic":T,"data":D,"offset":N}`, absent parts
/// left out. `data` is raw JSON. What goes to no topic may have a `place` instead of the
/// offset: a resume goes on after it.
pub fn push_event(
    event: &str,
    topic: Option<&str>,
    data: &str,
    offset: Option<u64>,
    place: Option<&str>,
    out: &mut String,
) {
    out.reserve(event.len() + topic.map_or(0, str::len) + data.len() + 64);
    out.push_str("{\"type\":");
    json::quote_into(event, out);
    if let Some(topic) = topic {
        push_text("topic", topic, out);
    }
    push_raw("data", data, out);
    if let Some(offset) = offset {
        push_number("offset", offset, out);
    }
    if let Some(place) = place {
        push_text("place", place, out);
    }
    out.push('}');
}

/// What the answer to `subscribe` says.
#[derive(Debug, Clone, Copy)]
pub struct Subscribed<'a> {
    /// The topic.
    pub topic: &'a str,
    /// The request's id, raw JSON.
    pub id: Option<&'a str>,
    /// In what the topic's events are numbered.
    pub epoch: &'a str,
    /// The number of the last event before those that follow.
    pub offset: u64,
    /// The newest event of each key, a raw JSON array.
    pub snapshot: &'a str,
    /// Whether all that was missed follows.
    pub recovered: bool,
    /// Who is there, a raw JSON array, where that was asked for.
    pub members: Option<&'a str>,
    /// Others' events are kept for who comes back, and the topic's are not: `"kept":false`.
    pub is_left_out: bool,
}

/// Appends the answer to `subscribe`.
pub fn push_subscribed(answer: &Subscribed<'_>, out: &mut String) {
    open("subscribed", out);
    push_text("topic", answer.topic, out);
    push_id(answer.id, out);
    push_text("epoch", answer.epoch, out);
    push_number("offset", answer.offset, out);
    push_raw("snapshot", answer.snapshot, out);
    let recovered = if answer.recovered { "true" } else { "false" };
    push_raw("recovered", recovered, out);
    if let Some(members) = answer.members {
        push_raw("members", members, out);
    }
    if answer.is_left_out {
        push_raw("kept", "false", out);
    }
    out.push('}');
}

/// Appends the answer to `unsubscribe`; with a `reason`, what the server says when it ends
/// a subscription by itself.
pub fn push_unsubscribed(topic: &str, id: Option<&str>, reason: Option<&str>, out: &mut String) {
    open("unsubscribed", out);
    push_text("topic", topic, out);
    push_id(id, out);
    if let Some(reason) = reason {
        push_text("reason", reason, out);
    }
    out.push('}');
}

/// Appends what the server says when events of a topic were lost on their way to it: what
/// follows is numbered from `offset` on, in a new epoch.
pub fn push_gap(topic: &str, epoch: &str, offset: u64, out: &mut String) {
    open("gap", out);
    push_text("topic", topic, out);
    push_text("epoch", epoch, out);
    push_number("offset", offset, out);
    out.push('}');
}

/// Appends the answer to `publish` or `emit`. `data` is raw JSON.
#[inline]
pub fn push_ack(id: Option<&str>, data: &str, out: &mut impl Sink) {
    open("ack", out);
    push_id(id, out);
    push_raw("data", data, out);
    out.push_text("}");
}

/// Appends the answer to `ping`; the time in milliseconds since 1970.
pub fn push_pong(id: Option<&str>, timestamp_ms: u64, out: &mut String) {
    open("pong", out);
    push_id(id, out);
    push_number("timestamp", timestamp_ms, out);
    out.push('}');
}

/// Appends an error: `{"type":"error","code":…,"message":…,"retryAfterMs":…,"data":…,"id":…}`; the
/// time after which trying again makes sense in milliseconds, and the topic that came to nothing as
/// `{"topic":…}`, where there are such. (A `topic` beside the `type` has what was said in it.)
pub fn push_error(
    code: &str,
    message: &str,
    retry_after_ms: Option<u64>,
    topic: Option<&str>,
    id: Option<&str>,
    out: &mut String,
) {
    open("error", out);
    push_text("code", code, out);
    push_text("message", message, out);
    if let Some(wait) = retry_after_ms {
        push_number("retryAfterMs", wait, out);
    }
    if let Some(topic) = topic {
        out.push_str(r#","data":{"topic":"#);
        json::quote_into(topic, out);
        out.push('}');
    }
    push_id(id, out);
    out.push('}');
}

/// Appends what a client is told that the app does not let in, with the app's own `data`,
/// raw JSON.
pub fn push_refusal(
    code: &str,
    message: &str,
    data: Option<&str>,
    id: Option<&str>,
    out: &mut String,
) {
    open("error", out);
    push_text("code", code, out);
    push_text("message", message, out);
    if let Some(data) = data {
        push_raw("data", data, out);
    }
    push_id(id, out);
    out.push('}');
}

/// Appends the answer to `auth`. `fields` is the hello's raw JSON members
/// without braces.
pub fn push_hello(fields: &str, id: Option<&str>, out: &mut String) {
    open("hello", out);
    if !fields.is_empty() {
        out.push(',');
        out.push_str(fields);
    }
    push_id(id, out);
    out.push('}');
}

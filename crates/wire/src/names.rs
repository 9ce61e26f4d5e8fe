//! Names of events: which belong to a protocol, which to the gateway, which to everybody.
//!
//! Source: Heartline's contract, "Reserved names". A client that could publish under a
//! name which the gateway itself speaks would be taken for the gateway by every member
//! of the room; an event under one of a protocol's own names would break the receiving
//! client's parser.
//!
//! ```
//! use heartline_wire::names::{self, Speaker};
//!
//! assert!(names::may_say(Speaker::Client, "position"));
//! assert!(!names::may_say(Speaker::Client, "message:new"));
//! assert!(names::may_say(Speaker::Backend, "message:new"));
//! assert!(!names::may_say(Speaker::Backend, "disconnect"));
//! ```

use crate::{live, socketio};

/// Longest name of an event, bytes.
pub const MAX_EVENT: usize = 128;

/// What the gateway says by itself, besides the [`GATEWAY_FAMILIES`].
pub const GATEWAY_EVENTS: &[&str] = &[
    "heartbeat",
    "ping",
    "pong",
    "room:joined",
    "room:left",
    "room:gap",
    "message:new",
    "message:notification",
    "message:sent",
    "message:error",
    "message:read",
    "member:joined",
    "member:left",
    "user:online",
    "user:offline",
    "metrics:response",
];

/// Names which begin like this are the gateway's as well.
pub const GATEWAY_FAMILIES: &[&str] = &["server:", "connection:", "auth:", "session:", "presence:"];

/// Who gives an event its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Speaker {
    /// A connected client, by `publish`.
    Client,
    /// The app: its handlers, the HTTP API, other servers of the cluster.
    Backend,
}

/// Whether an event of this name would be read as the gateway's own word.
pub fn is_gateways(name: &str) -> bool {
    GATEWAY_EVENTS.contains(&name)
        || GATEWAY_FAMILIES
            .iter()
            .any(|family| name.starts_with(family))
}

/// Whether `speaker` may give an event this name: it has 1 to 128 bytes, is none of the
/// protocols' own and, from a client, none of the gateway's.
pub fn may_say(speaker: Speaker, name: &str) -> bool {
    !name.is_empty()
        && name.len() <= MAX_EVENT
        && !live::is_reserved(name)
        && !socketio::RESERVED_EVENTS.contains(&name)
        && (speaker == Speaker::Backend || !is_gateways(name))
}

/// Whether the app may send an event of this name to a single socket: Socket.IO clients take
/// the live protocol's types like any other name. A live client is not sent an event under
/// one of these.
pub fn may_emit(name: &str) -> bool {
    !name.is_empty() && name.len() <= MAX_EVENT && !socketio::RESERVED_EVENTS.contains(&name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_cannot_speak_with_the_gateways_voice() {
        for name in GATEWAY_EVENTS
            .iter()
            .chain(&["server:drain", "connection:replaced", "auth:error"])
            .chain(&["session:resume", "presence:change", "server:anything"])
        {
            assert!(!may_say(Speaker::Client, name), "{name}");
        }
        for name in [
            "position",
            "message",
            "message:edited",
            "user:moved",
            "room",
        ] {
            assert!(may_say(Speaker::Client, name), "{name}");
        }
    }

    #[test]
    fn nobody_takes_a_protocols_own_name_or_an_endless_one() {
        let long = "x".repeat(MAX_EVENT + 1);
        for speaker in [Speaker::Client, Speaker::Backend] {
            for name in live::RESERVED_TYPES
                .iter()
                .chain(&socketio::RESERVED_EVENTS)
                .chain(&["", &long])
            {
                assert!(!may_say(speaker, name), "{name}");
            }
            assert!(may_say(speaker, &long[1..]));
        }
    }
}

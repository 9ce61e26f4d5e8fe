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

/// Whom the gateway tells something under a name of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Audience {
    /// One connection, about itself: never said in a room.
    Connection,
    /// All sockets of one user.
    User,
    /// Those who are in a room.
    Room,
    /// Those who are told of a user's presence: a namespace, or the user's rooms.
    Presence,
}

impl Audience {
    /// The words in the documentation.
    pub const fn as_str(self) -> &'static str {
        match self {
            Audience::Connection => "one connection",
            Audience::User => "a user",
            Audience::Room => "a room",
            Audience::Presence => "who hears of the user",
        }
    }
}

/// An event under one of the gateway's own names.
#[derive(Debug, Clone, Copy)]
pub struct Own {
    /// Its name.
    pub name: &'static str,
    /// Who hears it.
    pub to: Audience,
    /// When: a sentence without its full stop.
    pub when: &'static str,
}

/// What the gateway says by itself, besides all else in the [`GATEWAY_FAMILIES`].
pub const GATEWAY_EVENTS: &[Own] = {
    const fn own(name: &'static str, to: Audience, when: &'static str) -> Own {
        Own { name, to, when }
    }
    use Audience::*;
    &[
        own(
            "server:hello",
            Connection,
            "Right after connecting; live: the frame `hello`",
        ),
        own(
            "server:drain",
            Connection,
            "The node goes away: `{ reconnectInMs }`",
        ),
        own(
            "connection:success",
            Connection,
            "After the hello, to authenticated sockets",
        ),
        own(
            "connection:replaced",
            Connection,
            "Before the end of a socket whose place another one took",
        ),
        own(
            "connection:closed",
            Connection,
            "Before the end of a socket that an operator or the app ends: `{ reason }`",
        ),
        own(
            "auth:error",
            Connection,
            "The token has expired: `{ code, message }`",
        ),
        own(
            "session:resume",
            Connection,
            "After the hello, to users of whom something is kept: `{ metadata, rooms, version, lastSeenAt }`",
        ),
        own(
            "presence:change",
            Connection,
            "What is watched has changed: `{ epoch, rev, room?, users, asOf, stale?, ended? }`",
        ),
        own(
            "heartbeat",
            Connection,
            "Each `heartbeat.app_interval`: `{ timestamp }`",
        ),
        own(
            "ping",
            Connection,
            "Never sent: what clients ask, and a type of the live protocol",
        ),
        own("pong", Connection, "The answer to `ping`: `{ timestamp }`"),
        own("room:joined", Connection, "A `join` is done: `{ room }`"),
        own(
            "room:left",
            Connection,
            "A `leave` is done: `{ room }`; with a `reason`, the room was taken away",
        ),
        own(
            "room:gap",
            Connection,
            "Events of a room were lost on their way from other nodes: `{ room }`; live: the \
             frame `gap`",
        ),
        own("message:new", Room, "A message was stored"),
        own(
            "message:notification",
            User,
            "The same, to members who are not in the room: `{ conversationId, message }`",
        ),
        own(
            "message:sent",
            Connection,
            "One's own message is stored: `{ tempId, message }`",
        ),
        own(
            "message:error",
            Connection,
            "One's own event was refused: `{ error, code, retryAfterMs?, tempId? }`",
        ),
        own(
            "message:read",
            User,
            "One has read on another socket; with `conversations.receipts`, to the room: `{ conversationId, userId, userType?, offset }`",
        ),
        own(
            "member:joined",
            Room,
            "A conversation has a new member: `{ conversationId, userId, userType? }`",
        ),
        own(
            "member:left",
            Room,
            "A membership has ended: `{ conversationId, userId, userType? }`",
        ),
        own(
            "user:online",
            Presence,
            "A user's first connection: `{ userId, userType, at, rev }`",
        ),
        own(
            "user:offline",
            Presence,
            "A user's last connection is gone: `{ userId, userType, at, rev }`",
        ),
        own(
            "metrics:response",
            Connection,
            "The answer to `metrics:request`",
        ),
    ]
};

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
    GATEWAY_FAMILIES
        .iter()
        .any(|family| name.starts_with(family))
        || GATEWAY_EVENTS.iter().any(|own| own.name == name)
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
        let anything = GATEWAY_FAMILIES
            .iter()
            .map(|family| format!("{family}anything"));
        for name in GATEWAY_EVENTS
            .iter()
            .map(|own| own.name.to_owned())
            .chain(anything)
        {
            let name = &name;
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

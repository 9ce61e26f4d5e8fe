//! `devices`, `limits`, `rooms`, `conversations`, `invites`, `presence`, `checkpoint`, `session`:
//! what users may do, and what is told of them.

#![expect(clippy::unit_arg, reason = "in the table a setter is one line")]

use heartline::auth::RoomPattern;
use heartline::config::{
    Announce, ConnectLimit, ConversationAccess, DevicePolicy, NamespaceConfig, OnExcess,
    RoomsDefault,
};
use toml::Value;

use super::kept::patterns;
use super::key::{Key, node, space};
use crate::config::value::{Wrong, count, duration_or_none, limit, one_of, optional, text, truth};

/// The limit's number and policy arrive apart; both live in one value.
fn device_limit(config: &mut NamespaceConfig) -> (usize, OnExcess) {
    match config.devices {
        DevicePolicy::Limit { max, on_excess } => (max, on_excess),
        _ => (5, OnExcess::Reject),
    }
}

/// A web address with a place for the code.
fn invite_url(value: &Value) -> Result<String, Wrong> {
    let given = text(value)?;
    let url = reqwest::Url::parse(&given.replace("{code}", "code"));
    let is_web = url.is_ok_and(|url| ["http", "https"].contains(&url.scheme()));
    match is_web && given.contains("{code}") {
        true => Ok(given),
        false => Err("must be an address like \"https://app.example/invite/{code}\"".into()),
    }
}

/// The keys of users and rooms, in the order of the reference.
pub(super) const KEYS: &[Key] = &[
    space(
        "devices.policy",
        "\"unlimited\"",
        "`unlimited`, `replace` (the newcomer wins) or `limit`",
        |n, v| {
            let (max, on_excess) = device_limit(n);
            let limit = DevicePolicy::Limit { max, on_excess };
            let policies = [
                ("unlimited", DevicePolicy::Unlimited),
                ("replace", DevicePolicy::Replace),
                ("limit", limit),
            ];
            Ok(n.devices = one_of(v, &policies)?)
        },
    ),
    space(
        "devices.max",
        "5",
        "devices a user may have, for `limit`",
        |n, v| {
            let max = count(v)?;
            if let DevicePolicy::Limit { max: there, .. } = &mut n.devices {
                *there = max;
            }
            Ok(())
        },
    ),
    space(
        "devices.max_sockets",
        "1000",
        "sockets a user may have, whatever the policy; one more is refused with `DEVICE_LIMIT`",
        |n, v| Ok(n.max_sockets = count(v)?),
    ),
    space(
        "devices.on_excess",
        "\"reject\"",
        "for `limit`: `reject` the newcomer, or `evict_oldest`",
        |n, v| {
            let choices = [
                ("reject", OnExcess::Reject),
                ("evict_oldest", OnExcess::EvictOldest),
            ];
            let choice = one_of(v, &choices)?;
            if let DevicePolicy::Limit { on_excess, .. } = &mut n.devices {
                *on_excess = choice;
            }
            Ok(())
        },
    ),
    space(
        "limits.messages",
        "{ count = 10, window = \"10s\" }",
        "`message:send` and `chat:send`, per user, per socket when anonymous; one that comes again under its `tempId` counts once; a namespace with another limit counts for itself",
        |n, v| Ok(n.limits.messages = optional(v, limit)?),
    ),
    space(
        "limits.events",
        "{ count = 10000, window = \"10s\" }",
        "every frame and event that a client sends, per socket; CONNECTs and pings of the transport count per connection, by the limits of `/`; a CONNECT over it closes the connection",
        |n, v| Ok(n.limits.events = optional(v, limit)?),
    ),
    space(
        "limits.joins",
        "{ count = 500, window = \"10s\" }",
        "joins, per socket; CONNECTs per connection, by the limit of `/`",
        |n, v| Ok(n.limits.joins = optional(v, limit)?),
    ),
    node(
        "limits.connects_per_ip",
        "\"default\"",
        "new connections per address; `default` is { count = 1000, window = \"10s\" }, loopback excepted",
        |s, v| {
            s.gateway.connects_per_ip = match v.as_str() {
                Some("default") => ConnectLimit::Default,
                _ => optional(v, limit)?.map_or(ConnectLimit::Off, ConnectLimit::Limit),
            };
            Ok(())
        },
    ),
    node(
        "rooms.max_per_socket",
        "100",
        "rooms one socket may be in",
        |s, v| Ok(s.gateway.max_rooms_per_socket = count(v)?),
    ),
    node(
        "rooms.default",
        "\"open\"",
        "what a token without a list of rooms may join, and one without a list of rooms to publish \
         to may write to, conversations excepted: `open`: every room, or `none`. Who has no token \
         has no lists; `user:ID` is open to its user in any case, and the API to all rooms",
        |s, v| {
            let choices = [("open", RoomsDefault::Open), ("none", RoomsDefault::Closed)];
            Ok(s.gateway.rooms_default = one_of(v, &choices)?)
        },
    ),
    node(
        "conversations.access",
        "\"members\"",
        "who may join a conversation that their token does not name: `members`, or `open`: any user \
         whose token has no list of rooms. With `--dev` it is `open` unless it is set",
        |s, v| {
            let choices = [
                ("members", ConversationAccess::Members),
                ("open", ConversationAccess::Open),
            ];
            Ok(s.gateway.conversations.access = one_of(v, &choices)?)
        },
    ),
    node(
        "conversations.receipts",
        "false",
        "whether everybody in the room of a conversation hears how far its members have read \
         (`message:read`); a user's own sockets hear it in any case",
        |s, v| Ok(s.gateway.conversations.receipts = truth(v)?),
    ),
    node(
        "invites.url",
        "\"off\"",
        "the address of an invite, like `https://app.example/invite/{code}`: the API tells it with \
         the code. `invite:join` finds a code behind `invite`, `invites`, `i` or `join` in the path, \
         else at its end, else in the query as `code` or `invite`; of an \
         address in which it does not a client has to give the code alone",
        |s, v| Ok(s.gateway.conversations.invite_url = optional(v, invite_url)?),
    ),
    space(
        "presence.announce",
        "\"namespace\"",
        "who hears `user:online` and `user:offline`: `namespace`, `rooms` (those who share a room) or `off`",
        |n, v| {
            let choices = [
                ("namespace", Announce::Namespace),
                ("rooms", Announce::Rooms),
                ("off", Announce::Off),
            ];
            Ok(n.announce = one_of(v, &choices)?)
        },
    ),
    node(
        "checkpoint.rooms",
        "[\"*\"]",
        "which rooms are kept with what `session:checkpoint` says, by names or prefixes (`lobby:*`); a user's own room never is",
        |s, v| {
            let patterns = patterns(v)?;
            s.gateway.checkpoint_rooms = patterns.iter().map(|one| RoomPattern::new(one)).collect();
            Ok(())
        },
    ),
    node(
        "session.rejoin",
        "false",
        "whether who comes back joins the kept rooms again that the token still grants; otherwise `session:resume` only names them",
        |s, v| Ok(s.gateway.session_rejoin = truth(v)?),
    ),
    node(
        "presence.offline_grace",
        "\"0s\"",
        "a user who is back within this long was never away",
        |s, v| Ok(s.gateway.offline_grace = duration_or_none(v)?),
    ),
];

//! The shapes of what the operators' API answers, as schemas.

use serde_json::{Map, Value, json};

/// The schema of this name.
pub(super) fn reference(name: &str) -> Value {
    json!({ "$ref": format!("#/components/schemas/{name}") })
}

/// A shape: members with their types, `?` behind those that may be absent. A capital letter
/// begins the name of another shape, `[]` is a list.
type Shape = (&'static str, &'static [(&'static str, &'static str)]);

const PRESENCE: &[(&str, &str)] = &[
    ("userId", "string"),
    ("online", "boolean"),
    ("devices", "integer"),
    ("lastSeenAt", "integer?"),
    ("rev", "integer"),
    ("stale", "boolean?"),
];

const ROOM: &[(&str, &str)] = &[
    ("room", "string"),
    ("namespace", "string"),
    ("tenantId", "string?"),
    ("members", "integer"),
    ("kept", "boolean?"),
];

/// What is missing in an answer of all nodes.
const MISSING: [(&str, &str); 2] = [("unreachable", "string[]?"), ("partial", "boolean?")];

const SHAPES: &[Shape] = &[
    (
        "Problem",
        &[
            ("type", "string"),
            ("title", "string"),
            ("status", "integer"),
            ("detail", "string"),
            ("code", "string"),
        ],
    ),
    (
        "Health",
        &[
            ("status", "string"),
            ("cluster", "string?"),
            ("keys", "string?"),
            ("store", "string?"),
        ],
    ),
    ("Any", &[]),
    (
        "Connection",
        &[
            ("socketId", "string"),
            ("userId", "string?"),
            ("userType", "string?"),
            ("tenantId", "string?"),
            ("deviceId", "string?"),
            ("walletAddress", "string?"),
            ("nodeId", "string"),
            ("transport", "string?"),
            ("namespace", "string"),
            ("remoteAddr", "string?"),
            ("userAgent", "string?"),
            ("state", "string"),
            ("connectedAt", "integer?"),
            ("lastSeenAt", "integer?"),
            ("lastActivityAt", "integer?"),
            ("rttMs", "number?"),
            ("rooms", "string[]"),
        ],
    ),
    (
        "Connections",
        &[
            ("items", "Connection[]"),
            ("nextCursor", "string?"),
            ("unreachable", "string[]?"),
            ("partial", "boolean?"),
        ],
    ),
    (
        "UserConnections",
        &[
            ("items", "Connection[]"),
            ("unreachable", "string[]?"),
            ("partial", "boolean?"),
        ],
    ),
    ("Presence", PRESENCE),
    ("Presences", &[("users", "Presence[]"), ("asOf", "integer")]),
    ("Room", ROOM),
    (
        "Rooms",
        &[
            ("items", "Room[]"),
            ("nextCursor", "string?"),
            ("unreachable", "string[]?"),
            ("partial", "boolean?"),
        ],
    ),
    (
        "Node",
        &[
            ("nodeId", "string"),
            ("state", "string"),
            ("connections", "integer?"),
            ("users", "integer?"),
            ("uptimeSeconds", "integer?"),
            ("version", "string?"),
        ],
    ),
    ("Nodes", &[("nodes", "Node[]"), ("partial", "boolean?")]),
    ("Emitted", &[("delivered", "integer"), ("ack", "any[]?")]),
    (
        "Delivered",
        &[("delivered", "integer"), ("offset", "integer?")],
    ),
    (
        "DeliveredToUser",
        &[("delivered", "integer"), ("partial", "boolean?")],
    ),
    (
        "Disconnected",
        &[
            ("disconnected", "integer"),
            ("unreachable", "string[]?"),
            ("partial", "boolean?"),
        ],
    ),
    (
        "Member",
        &[
            ("userId", "string"),
            ("userType", "string?"),
            ("devices", "integer"),
        ],
    ),
    (
        "Members",
        &[
            ("members", "Member[]"),
            ("unreachable", "string[]?"),
            ("partial", "boolean?"),
        ],
    ),
    (
        "Joined",
        &[
            ("joined", "integer"),
            ("unreachable", "string[]?"),
            ("partial", "boolean?"),
        ],
    ),
    (
        "Left",
        &[
            ("left", "integer"),
            ("unreachable", "string[]?"),
            ("partial", "boolean?"),
        ],
    ),
    (
        "Message",
        &[
            ("id", "string"),
            ("offset", "integer"),
            ("conversationId", "string"),
            ("senderId", "string"),
            ("senderType", "string?"),
            ("content", "string"),
            ("tempId", "string|number?"),
            ("createdAt", "integer"),
        ],
    ),
    (
        "History",
        &[
            ("messages", "Message[]"),
            ("head", "integer"),
            ("floor", "integer"),
            ("complete", "boolean"),
        ],
    ),
    (
        "ConversationMember",
        &[
            ("userId", "string"),
            ("userType", "string?"),
            ("invited", "boolean"),
            ("joinedAt", "integer"),
            ("readOffset", "integer"),
        ],
    ),
    (
        "ConversationMembers",
        &[
            ("members", "ConversationMember[]"),
            ("nextCursor", "string?"),
        ],
    ),
    (
        "Invite",
        &[
            ("code", "string"),
            ("url", "string?"),
            ("conversationId", "string"),
            ("tenantId", "string?"),
            ("createdBy", "string?"),
            ("createdAt", "integer"),
            ("expiresAt", "integer?"),
            ("maxUses", "integer?"),
            ("uses", "integer"),
            ("revokedAt", "integer?"),
            ("label", "string?"),
        ],
    ),
    (
        "Invites",
        &[("invites", "Invite[]"), ("nextCursor", "string?")],
    ),
    (
        "Welcome",
        &[
            ("ok", "boolean"),
            ("conversationId", "string"),
            ("room", "string"),
        ],
    ),
    ("Added", &[("added", "integer")]),
    ("Removed", &[("removed", "integer")]),
    (
        "Shed",
        &[
            ("nodeId", "string"),
            ("connections", "integer"),
            ("overMs", "integer"),
        ],
    ),
    ("Draining", &[("draining", "boolean")]),
    (
        "Challenge",
        &[("challenge", "string"), ("expiresAt", "integer")],
    ),
    (
        "WalletUser",
        &[
            ("userId", "string"),
            ("walletAddress", "string"),
            ("userType", "string?"),
        ],
    ),
    (
        "SignedIn",
        &[
            ("token", "string"),
            ("expiresAt", "integer"),
            ("user", "WalletUser"),
        ],
    ),
    (
        "SignInError",
        &[("error", "string"), ("message", "string?")],
    ),
];

fn schema(kind: &str) -> Value {
    let kind = kind.trim_end_matches('?');
    if let Some(item) = kind.strip_suffix("[]") {
        return json!({ "type": "array", "items": schema(item) });
    }
    if let Some((one, other)) = kind.split_once('|') {
        return json!({ "type": [one, other] });
    }
    match kind {
        "any" => json!({}),
        name if name.starts_with(|first: char| first.is_ascii_uppercase()) => reference(name),
        kind => json!({ "type": kind }),
    }
}

/// A member's schema, with what its name does not say.
fn described(name: &str, mut schema: Value) -> Value {
    let description = match name {
        "ack" => "What the client acknowledged with; bytes in it are texts in base64.",
        "unreachable" => "Nodes that did not answer: what is there is missing.",
        "partial" => {
            "The answer may not be the whole, or what was wished is not done everywhere: nodes did \
             not answer, or this node does not know which nodes there are and what they have, as it \
             does not reach Redis, or not all have come back after Redis had forgotten them. Absent \
             otherwise."
        }
        _ => return schema,
    };
    schema["description"] = description.into();
    schema
}

fn object(members: &[(&str, &str)]) -> Value {
    let required: Vec<_> = members
        .iter()
        .filter(|(_, kind)| !kind.ends_with('?'))
        .collect();
    let required: Vec<_> = required.iter().map(|(name, _)| *name).collect();
    let properties: Map<String, Value> = members
        .iter()
        .map(|(name, kind)| ((*name).to_owned(), described(name, schema(kind))))
        .collect();
    json!({ "type": "object", "properties": properties, "required": required })
}

/// All shapes by their names.
pub(super) fn all() -> Map<String, Value> {
    let shapes = SHAPES
        .iter()
        .map(|(name, members)| ((*name).to_owned(), object(members)));
    let mut all: Map<String, Value> = shapes.collect();
    let mut user = PRESENCE.to_vec();
    user.push(("asOf", "integer"));
    all.insert("PresenceAsOf".into(), object(&user));
    user.push(("connections", "Connection[]"));
    user.extend(MISSING);
    all.insert("User".into(), object(&user));
    let mut room = ROOM.to_vec();
    room.extend(MISSING);
    all.insert("OneRoom".into(), object(&room));
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use heartline::entries::{
        ConversationMember, MemberEntry, Missing, NodeEntry, Page, RoomEntry, SocketEntry,
        UserPresence,
    };
    use heartline::store::{History, StoredMessage};
    use serde::Serialize;

    /// Whether a full entry has just the members of a shape, in these types.
    fn fits(name: &str, entry: impl Serialize) {
        let entry = serde_json::to_value(entry).unwrap();
        let entry = entry.as_object().unwrap();
        let schema = all().remove(name).unwrap();
        let described = schema["properties"].as_object().unwrap();
        let names = |of: &Map<String, Value>| of.keys().cloned().collect::<Vec<_>>();
        assert_eq!(names(entry), names(described), "{name}");
        for (member, value) in entry {
            let kind = match value {
                Value::String(_) => "string",
                Value::Bool(_) => "boolean",
                Value::Array(_) => "array",
                Value::Number(number) if number.is_f64() => "number",
                Value::Number(_) => "integer",
                _ => continue,
            };
            let types = &described[member]["type"];
            let is_one = types
                .as_array()
                .is_some_and(|all| all.iter().any(|one| one == kind));
            assert!(types == kind || is_one, "{name}.{member}");
        }
    }

    #[test]
    fn the_document_describes_what_is_answered() {
        let text = || Some("x".to_owned());
        let socket = SocketEntry {
            socket_id: "x".into(),
            user_id: text(),
            user_type: text(),
            tenant_id: text(),
            device_id: text(),
            wallet_address: text(),
            node_id: "x".into(),
            transport: "live".into(),
            namespace: "/".into(),
            remote_addr: "x".into(),
            user_agent: text(),
            state: "connected".into(),
            connected_at: 1,
            last_seen_at: 1,
            last_activity_at: 1,
            rtt_ms: Some(0.5),
            rooms: vec![],
        };
        fits("Connection", &socket);
        let page = Page {
            items: vec![socket],
            next_cursor: text(),
            missing: Missing {
                unreachable: vec!["n".into()],
                partial: true,
            },
        };
        fits("Connections", page);
        let room = RoomEntry {
            room: "x".into(),
            namespace: "/".into(),
            tenant_id: text(),
            members: 1,
            kept: Some(false),
        };
        fits("Room", room);
        let member = MemberEntry {
            user_id: "x".into(),
            user_type: text(),
            devices: 1,
        };
        fits("Member", member);
        let member = ConversationMember {
            user_id: "x".into(),
            user_type: text(),
            invited: true,
            joined_at: 1,
            read_offset: 1,
        };
        fits("ConversationMember", member);
        let message = StoredMessage {
            id: "x".into(),
            offset: 1,
            conversation_id: "x".into(),
            sender_id: "x".into(),
            sender_type: text(),
            content: "x".into(),
            temp_id: text(),
            created_at: 1,
        };
        fits("Message", &message);
        let history = History {
            messages: vec![message],
            head: 1,
            floor: 0,
            complete: true,
        };
        fits("History", history);
        fits(
            "Presence",
            UserPresence {
                user_id: "x".into(),
                online: true,
                devices: 1,
                last_seen_at: Some(1),
                rev: 1,
                stale: true,
                types: Vec::new(),
            },
        );
        fits(
            "Node",
            NodeEntry {
                node_id: "x".into(),
                state: "ready".into(),
                connections: Some(1),
                users: Some(1),
                uptime_seconds: Some(1),
                version: text(),
            },
        );
    }
}

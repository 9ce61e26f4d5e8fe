//! The API's own description (OpenAPI 3.1), made from one table of routes.

use axum::Json;
use heartline::store::invites::MAX_USES;
use heartline::store::{MAX_PART, PART};
use serde_json::{Map, Value, json};

use super::connections::{DEFAULT_LIMIT, MAX_LIMIT};
use super::idempotency::{KEY, MAX_KEY};
use super::metrics;
use super::nodes::{DEFAULT_OVER_MS, MAX_OVER_MS};
use super::schemas;
use super::strict::MAX_LISTED;

/// A route of the operators' listener.
pub(super) struct Route {
    pub(super) method: &'static str,
    pub(super) path: &'static str,
    does: &'static str,
    /// The parameters that the query may have.
    pub(super) query: &'static [&'static str],
    /// The members that the body may have; the first is required.
    pub(super) body: &'static [&'static str],
    /// The schema of the answer; none: it is text in the forms that metrics have.
    answer: &'static str,
    /// The statuses from 502 on that it has, besides 503 for a POST under a key.
    fails: &'static [u16],
}

impl Route {
    /// Whether it is a POST that changes something: one that can have an `Idempotency-Key`.
    pub(super) fn changes(&self) -> bool {
        let is_of_v1 = self.path.starts_with("/v1/");
        self.method == "post" && is_of_v1 && self.path != "/v1/presence"
    }

    /// Its answers from 502 on, in their order.
    fn failures(&self) -> impl Iterator<Item = u16> {
        let under_a_key = self.changes() && !self.fails.contains(&503);
        let mut all = self.fails.to_vec();
        all.extend(under_a_key.then_some(503));
        all.sort_unstable();
        all.into_iter()
    }

    /// What a parameter of the query must be, if this value is not that.
    pub(super) fn misfit(&self, name: &str, value: &str) -> Option<String> {
        let (fits, must_be) = match name {
            "limit" => {
                let most = self.most_items();
                let fits = value.parse().is_ok_and(|limit| (1..=most).contains(&limit));
                (fits, format!("a whole number from 1 to {most}"))
            }
            "after" | "before" => {
                let must_be = "a whole number, the offset of a message";
                (value.parse::<u64>().is_ok(), must_be.to_owned())
            }
            "state" => (STATES.contains(&value), STATES.join(" or ")),
            _ => return None,
        };
        (!fits).then_some(must_be)
    }

    /// The greatest `limit`.
    fn most_items(&self) -> usize {
        match self.answer {
            "History" => MAX_PART,
            _ => MAX_LIMIT,
        }
    }
}

/// What `state` may be.
const STATES: [&str; 2] = ["connected", "suspended"];

const WHICH: &[&str] = &["tenantId", "userType"];

/// The members of a body that says which sockets are meant. A room of `except` may be a
/// socket's id or `user:ID`.
const WHO: &[&str] = &[
    "users",
    "sockets",
    "rooms",
    "except",
    "namespace",
    "tenantId",
];

/// The members of a body that says how many connections are to go: a share of them or a
/// number.
const SHED: &[&str] = &["share", "connections", "overMs"];

/// The members of a body that says who comes by which invite; the first two are required.
const INVITED: &[&str] = &["code", "userId", "userType", "tenantId"];

/// All routes of the operators' listener.
pub(super) static ROUTES: &[Route] = &[
    Route {
        method: "get",
        path: "/healthz",
        does: "Whether the process answers",
        query: &[],
        body: &[],
        answer: "Health",
        fails: &[],
    },
    Route {
        method: "get",
        path: "/readyz",
        does: "Whether the node takes connections; 503 while it drains",
        query: &[],
        body: &[],
        answer: "Health",
        fails: &[503],
    },
    Route {
        method: "get",
        path: "/metrics",
        does: "Metrics as Prometheus' text, or as OpenMetrics text for whoever accepts that",
        query: &[],
        body: &[],
        answer: "",
        fails: &[],
    },
    Route {
        method: "get",
        path: "/openapi.json",
        does: "This document",
        query: &[],
        body: &[],
        answer: "Any",
        fails: &[],
    },
    Route {
        method: "get",
        path: "/v1/connections",
        does: "Sockets, a page at a time; those that were lost and may come back are suspended",
        query: &[
            "cursor",
            "limit",
            "userId",
            "userType",
            "tenantId",
            "namespace",
            "room",
            "state",
        ],
        body: &[],
        answer: "Connections",
        fails: &[],
    },
    Route {
        method: "get",
        path: "/v1/connections/{socketId}",
        does: "One socket",
        query: &[],
        body: &[],
        answer: "Connection",
        fails: &[502],
    },
    Route {
        method: "delete",
        path: "/v1/connections/{socketId}",
        does: "End a socket; its client does not come back by itself",
        query: &[],
        body: &[],
        answer: "Disconnected",
        fails: &[502],
    },
    Route {
        method: "post",
        path: "/v1/connections/{socketId}/disconnect",
        does: "The same",
        query: &[],
        body: &[],
        answer: "Disconnected",
        fails: &[502],
    },
    Route {
        method: "post",
        path: "/v1/connections/{socketId}/emit",
        does: "Send an event to one socket; with ackWithinMs, wait for its acknowledgement",
        query: &[],
        body: &["event", "data", "ackWithinMs"],
        answer: "Emitted",
        fails: &[502, 504],
    },
    Route {
        method: "get",
        path: "/v1/users/{userId}",
        does: "A user's presence, as it was at asOf, and sockets",
        query: WHICH,
        body: &[],
        answer: "User",
        fails: &[],
    },
    Route {
        method: "get",
        path: "/v1/users/{userId}/presence",
        does: "A user's presence, as it was at asOf",
        query: WHICH,
        body: &[],
        answer: "PresenceAsOf",
        fails: &[],
    },
    Route {
        method: "get",
        path: "/v1/users/{userId}/connections",
        does: "A user's sockets",
        query: WHICH,
        body: &[],
        answer: "UserConnections",
        fails: &[],
    },
    Route {
        method: "delete",
        path: "/v1/users/{userId}/connections",
        does: "End all of a user's sockets",
        query: WHICH,
        body: &[],
        answer: "Disconnected",
        fails: &[],
    },
    Route {
        method: "post",
        path: "/v1/users/{userId}/emit",
        does: "Send an event to all of a user's sockets",
        query: WHICH,
        body: &["event", "data", "namespace"],
        answer: "DeliveredToUser",
        fails: &[],
    },
    Route {
        method: "post",
        path: "/v1/users/{userId}/disconnect",
        does: "End all of a user's sockets",
        query: WHICH,
        body: &[],
        answer: "Disconnected",
        fails: &[],
    },
    Route {
        method: "post",
        path: "/v1/presence",
        does: "Presence of up to 1000 users, as it was at asOf",
        query: &[],
        body: &["users", "tenantId"],
        answer: "Presences",
        fails: &[],
    },
    Route {
        method: "get",
        path: "/v1/rooms",
        does: "Rooms by name, a page at a time",
        query: &["cursor", "limit", "namespace", "tenantId"],
        body: &[],
        answer: "Rooms",
        fails: &[],
    },
    Route {
        method: "get",
        path: "/v1/rooms/{room}",
        does: "One room",
        query: &["namespace", "tenantId"],
        body: &[],
        answer: "OneRoom",
        fails: &[502],
    },
    Route {
        method: "get",
        path: "/v1/rooms/{room}/members",
        does: "The users in a room, on all nodes, at most 1000",
        query: &["namespace", "tenantId"],
        body: &[],
        answer: "Members",
        fails: &[],
    },
    Route {
        method: "post",
        path: "/v1/rooms/{room}/members",
        does: "Put sockets into a room: those of users, with these ids, in rooms. Into a conversation's as members",
        query: &[],
        body: WHO,
        answer: "Joined",
        fails: &[],
    },
    Route {
        method: "post",
        path: "/v1/rooms/{room}/members/leave",
        does: "Take sockets out of a room; without users, sockets and rooms: all of them",
        query: &[],
        body: WHO,
        answer: "Left",
        fails: &[],
    },
    Route {
        method: "post",
        path: "/v1/rooms/{room}/publish",
        does: "Send an event to a room's members, but not to those in the rooms of except",
        query: &[],
        body: &["event", "data", "key", "namespace", "tenantId", "except"],
        answer: "Delivered",
        fails: &[],
    },
    Route {
        method: "post",
        path: "/v1/broadcast",
        does: "Send an event to all sockets of a namespace and tenant, but not to those in the \
               rooms of except",
        query: &[],
        body: &["event", "data", "namespace", "tenantId", "except"],
        answer: "Delivered",
        fails: &[],
    },
    Route {
        method: "get",
        path: "/v1/conversations/{conversationId}/messages",
        does: "What was said in a conversation: its newest messages, or those after or before \
               an offset; complete is false where some are not kept any more",
        query: &["after", "before", "limit", "tenantId"],
        body: &[],
        answer: "History",
        fails: &[503],
    },
    Route {
        method: "get",
        path: "/v1/conversations/{conversationId}/members",
        does: "The members of a conversation by their ids, a page at a time",
        query: &["cursor", "limit", "tenantId"],
        body: &[],
        answer: "ConversationMembers",
        fails: &[503],
    },
    Route {
        method: "put",
        path: "/v1/conversations/{conversationId}/members",
        does: "Make users members of a conversation: they may join it, whatever their tokens say",
        query: &[],
        body: &["users", "userType", "tenantId"],
        answer: "Added",
        fails: &[503],
    },
    Route {
        method: "delete",
        path: "/v1/conversations/{conversationId}/members",
        does: "End memberships; sockets that nothing else lets in leave the room",
        query: &[],
        body: &["users", "userType", "tenantId"],
        answer: "Removed",
        fails: &[503],
    },
    Route {
        method: "put",
        path: "/v1/conversations/{conversationId}/members/{userId}",
        does: "Make one user a member",
        query: WHICH,
        body: &[],
        answer: "Added",
        fails: &[503],
    },
    Route {
        method: "delete",
        path: "/v1/conversations/{conversationId}/members/{userId}",
        does: "End one user's membership",
        query: WHICH,
        body: &[],
        answer: "Removed",
        fails: &[503],
    },
    Route {
        method: "get",
        path: "/v1/invites",
        does: "Invites by their codes, a page at a time",
        query: &["cursor", "limit", "conversationId", "tenantId"],
        body: &[],
        answer: "Invites",
        fails: &[503],
    },
    Route {
        method: "post",
        path: "/v1/invites",
        does: "Make an invite to a conversation, for a time (30m, 7d) and a number of users or \
               without end",
        query: &[],
        body: &[
            "conversationId",
            "expiresIn",
            "maxUses",
            "label",
            "createdBy",
            "tenantId",
        ],
        answer: "Invite",
        fails: &[503],
    },
    Route {
        method: "post",
        path: "/v1/invites/join",
        does: "Make a user a member by an invite: its code, or an address with it",
        query: &[],
        body: INVITED,
        answer: "Welcome",
        fails: &[503],
    },
    Route {
        method: "get",
        path: "/v1/invites/{code}",
        does: "One invite",
        query: &[],
        body: &[],
        answer: "Invite",
        fails: &[503],
    },
    Route {
        method: "delete",
        path: "/v1/invites/{code}",
        does: "Take an invite back; who has come by it stays",
        query: &[],
        body: &[],
        answer: "Invite",
        fails: &[503],
    },
    Route {
        method: "get",
        path: "/v1/nodes",
        does: "The nodes",
        query: &[],
        body: &[],
        answer: "Nodes",
        fails: &[],
    },
    Route {
        method: "post",
        path: "/v1/nodes/{nodeId}/shed",
        does: "Let a share of a node's connections go, or so many, slowly, and tell them when to \
               come back; the node stays",
        query: &[],
        body: SHED,
        answer: "Shed",
        fails: &[502],
    },
    Route {
        method: "post",
        path: "/v1/drain",
        does: "Let everybody go, then stop",
        query: &[],
        body: &[],
        answer: "Draining",
        fails: &[],
    },
];

/// Sign-in with a wallet, which the public listener answers where `auth.wallet.enabled` is set.
static SIGN_IN: &[Route] = &[
    Route {
        method: "post",
        path: crate::wallet::CHALLENGE,
        does: "A text for a wallet to sign; it is good once, until expiresAt",
        query: &[],
        body: &["walletAddress"],
        answer: "Challenge",
        fails: &[503],
    },
    Route {
        method: "post",
        path: crate::wallet::CONNECT,
        does: "A token for who has signed that text",
        query: &[],
        body: &["walletAddress", "challenge", "signature"],
        answer: "SignedIn",
        fails: &[503],
    },
];

pub(super) async fn document() -> Json<Value> {
    Json(build())
}

/// A parameter of a route's query.
fn parameter(route: &Route, name: &str) -> Value {
    let (schema, description) = match name {
        "limit" if route.answer == "History" => (
            json!({ "type": "integer", "minimum": 1, "maximum": MAX_PART, "default": PART }),
            "Most messages of this part.",
        ),
        "after" => (
            json!({ "type": "integer", "minimum": 0 }),
            "What follows the message with this offset, the oldest first wanted.",
        ),
        "before" => (
            json!({ "type": "integer", "minimum": 0 }),
            "What comes before the message with this offset, the newest first wanted.",
        ),
        "limit" => (
            json!({ "type": "integer", "minimum": 1, "maximum": MAX_LIMIT, "default": DEFAULT_LIMIT }),
            "Most items of this part. A part may have fewer, also none, before the end.",
        ),
        "cursor" => (
            json!({ "type": "string" }),
            "Where this part begins: the nextCursor of the part before, as it was. Without it, \
             or empty, the list begins. The end is a part without nextCursor. What comes and \
             goes meanwhile may be missed; what stays is listed once.",
        ),
        "userId" => (json!({ "type": "string" }), "Only this user's."),
        "userType" => (
            json!({ "type": "string" }),
            "Only this kind of user; any without it.",
        ),
        "conversationId" => (json!({ "type": "string" }), "Only this conversation's."),
        "tenantId" => (json!({ "type": "string" }), "The tenant."),
        "namespace" => (
            json!({ "type": "string" }),
            "The namespace, with its slash.",
        ),
        "room" => (json!({ "type": "string" }), "Only those in this room."),
        "state" => (
            json!({ "type": "string", "enum": STATES }),
            "Only those that have a connection, or only those that were lost and may come back.",
        ),
        _ => (json!({ "type": "string" }), ""),
    };
    json!({ "name": name, "in": "query", "description": description, "schema": schema })
}

/// The header by which a POST that is sent again is done once.
fn idempotency_key() -> Value {
    json!({
        "name": KEY,
        "in": "header",
        "description": "What the caller makes up for this one request, such as a UUID. What was \
            done under a key is not done again for 24 hours, but answered as it was, \
            with Idempotency-Replayed: true; while it runs, 409; another request under it, 422.",
        "schema": { "type": "string", "minLength": 1, "maxLength": MAX_KEY,
            "pattern": "^[!-~]+$" },
    })
}

fn member(name: &str) -> Value {
    match name {
        "data" => json!({}),
        "ackWithinMs" => json!({ "type": "integer", "minimum": 0, "maximum": 60_000 }),
        "share" => json!({ "type": "number", "exclusiveMinimum": 0, "maximum": 1 }),
        "connections" => json!({ "type": "integer", "minimum": 1 }),
        "maxUses" => json!({ "type": "integer", "minimum": 1, "maximum": MAX_USES }),
        "overMs" => json!({ "type": "integer", "minimum": 0, "maximum": MAX_OVER_MS,
            "default": DEFAULT_OVER_MS }),
        "users" | "sockets" | "rooms" | "except" => {
            json!({ "type": "array", "items": { "type": "string" }, "maxItems": MAX_LISTED })
        }
        _ => json!({ "type": "string" }),
    }
}

fn operation(route: &Route) -> Value {
    let mut parameters: Vec<Value> = route
        .path
        .split('{')
        .skip(1)
        .filter_map(|rest| rest.split_once('}'))
        .map(|(name, _)| json!({ "name": name, "in": "path", "required": true, "schema": { "type": "string" } }))
        .collect();
    parameters.extend(route.query.iter().map(|name| parameter(route, name)));
    parameters.extend(route.changes().then(idempotency_key));
    let good = match route.answer {
        "" => {
            let text = json!({ "schema": { "type": "string" } });
            json!({ metrics::PLAIN: text, metrics::OPEN: text })
        }
        name => json!({ "application/json": { "schema": schemas::reference(name) } }),
    };
    let problem = json!({ "application/problem+json": {
        "schema": schemas::reference("Problem") } });
    let mut operation = json!({
        "summary": route.does,
        "parameters": parameters,
        "responses": {
            "2XX": { "description": "As asked", "content": &good },
            "4XX": { "description": "What is wrong", "content": &problem },
        },
    });
    for status in route.failures() {
        let (description, content) = match status {
            502 => (
                "A node that knows does not answer, or nobody knows which",
                &problem,
            ),
            // Of a node that drains.
            503 if route.path == "/readyz" => ("Not just now", &good),
            503 => ("Not just now", &problem),
            _ => ("No acknowledgement in time", &problem),
        };
        let response = json!({ "description": description, "content": content });
        operation["responses"][status.to_string()] = response;
    }
    if !route.body.is_empty() {
        let required = if [WHO, SHED].contains(&route.body) {
            &[][..]
        } else if route.body == INVITED {
            &route.body[..2]
        } else {
            &route.body[..1]
        };
        let members: Map<String, Value> = route
            .body
            .iter()
            .map(|name| ((*name).to_owned(), member(name)))
            .collect();
        operation["requestBody"] = json!({ "required": true, "content": { "application/json": {
            "schema": { "type": "object", "properties": members, "required": required,
                "additionalProperties": false } } } });
    }
    if route.path.starts_with("/v1") {
        operation["security"] = json!([{ "token": [] }]);
    }
    operation
}

/// A route that is not of this listener: anybody may ask, and errors are its own.
fn sign_in(route: &Route) -> Value {
    let mut operation = operation(route);
    let schema = &mut operation["requestBody"]["content"]["application/json"]["schema"];
    schema["required"] = json!(route.body);
    schema["additionalProperties"] = true.into();
    let wrong = json!({ "application/json": { "schema": schemas::reference("SignInError") } });
    for status in ["4XX", "503"] {
        operation["responses"][status]["content"] = wrong.clone();
    }
    operation["servers"] = json!([{ "url": "{public}", "description": "The public listener",
        "variables": { "public": { "default": "http://localhost:8080" } } }]);
    operation
}

fn build() -> Value {
    let mut paths = Map::new();
    for route in ROUTES {
        let entry = paths.entry(route.path).or_insert_with(|| json!({}));
        entry[route.method] = operation(route);
    }
    for route in SIGN_IN {
        paths.insert(route.path.into(), json!({ route.method: sign_in(route) }));
    }
    json!({
        "openapi": "3.1.0",
        "info": { "title": "Heartline", "version": env!("CARGO_PKG_VERSION") },
        "paths": paths,
        "components": {
            "securitySchemes": { "token": { "type": "http", "scheme": "bearer" } },
            "schemas": schemas::all(),
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The reference for people, in Markdown.
    fn table() -> String {
        let names = |names: &[&str], separator: &str| {
            let quoted: Vec<String> = names.iter().map(|name| format!("`{name}`")).collect();
            quoted.join(separator)
        };
        let mut out =
            String::from("| request | what it does | query | body |\n|---|---|---|---|\n");
        for route in ROUTES {
            out.push_str(&format!(
                "| `{} {}` | {} | {} | {} |\n",
                route.method.to_uppercase(),
                route.path,
                route.does,
                names(route.query, ", "),
                names(route.body, ", "),
            ));
        }
        out
    }

    #[test]
    fn the_reference_of_the_api_is_up_to_date() {
        let written = include_str!("../../../../docs/operations.md");
        let table = table();
        assert!(
            written.contains(&table),
            "docs/operations.md should have this table:\n{table}"
        );
    }

    #[test]
    fn every_route_is_described_once() {
        let document = build();
        let described: usize = document["paths"]
            .as_object()
            .unwrap()
            .values()
            .map(|path| path.as_object().unwrap().len())
            .sum();
        assert_eq!(described, ROUTES.len() + SIGN_IN.len());
        // Every answer has a schema.
        let schemas = &document["components"]["schemas"];
        for route in ROUTES.iter().chain(SIGN_IN) {
            assert!(
                route.answer.is_empty() || schemas[route.answer].is_object(),
                "{}",
                route.path
            );
        }
        // The router's own list, read from its source.
        let source = include_str!("mod.rs");
        let routed = source.matches("get(").count()
            + source.matches("post(").count()
            + source.matches("put(").count()
            + source.matches(".delete(").count();
        assert_eq!(routed, ROUTES.len());
    }
}

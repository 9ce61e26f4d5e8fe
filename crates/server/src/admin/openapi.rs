//! The API's own description (OpenAPI 3.1), made from one table of routes.

use axum::Json;
use serde_json::{Map, Value, json};

/// Method, path, what it does, parameters of the query, members of the body.
type Route = (
    &'static str,
    &'static str,
    &'static str,
    &'static [&'static str],
    &'static [&'static str],
);

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

/// All routes of the operators' listener.
pub(super) const ROUTES: &[Route] = &[
    ("get", "/healthz", "Whether the process answers", &[], &[]),
    (
        "get",
        "/readyz",
        "Whether the node takes connections; 503 while it drains",
        &[],
        &[],
    ),
    ("get", "/metrics", "Metrics as OpenMetrics text", &[], &[]),
    ("get", "/openapi.json", "This document", &[], &[]),
    (
        "get",
        "/v1/connections",
        "Sockets, a page at a time",
        &[
            "cursor",
            "limit",
            "userId",
            "userType",
            "tenantId",
            "namespace",
            "room",
        ],
        &[],
    ),
    ("get", "/v1/connections/{socketId}", "One socket", &[], &[]),
    (
        "delete",
        "/v1/connections/{socketId}",
        "End a socket; its client does not come back by itself",
        &[],
        &[],
    ),
    (
        "post",
        "/v1/connections/{socketId}/disconnect",
        "The same",
        &[],
        &[],
    ),
    (
        "post",
        "/v1/connections/{socketId}/emit",
        "Send an event to one socket; with ackWithinMs, wait for its acknowledgement",
        &[],
        &["event", "data", "ackWithinMs"],
    ),
    (
        "get",
        "/v1/users/{userId}",
        "A user's presence and sockets",
        WHICH,
        &[],
    ),
    (
        "get",
        "/v1/users/{userId}/presence",
        "A user's presence",
        WHICH,
        &[],
    ),
    (
        "get",
        "/v1/users/{userId}/connections",
        "A user's sockets",
        WHICH,
        &[],
    ),
    (
        "delete",
        "/v1/users/{userId}/connections",
        "End all of a user's sockets",
        WHICH,
        &[],
    ),
    (
        "post",
        "/v1/users/{userId}/emit",
        "Send an event to all of a user's sockets",
        WHICH,
        &["event", "data", "namespace"],
    ),
    (
        "post",
        "/v1/users/{userId}/disconnect",
        "End all of a user's sockets",
        WHICH,
        &[],
    ),
    (
        "post",
        "/v1/presence",
        "Presence of up to 1000 users",
        &[],
        &["users", "tenantId"],
    ),
    (
        "get",
        "/v1/rooms",
        "Rooms by name, a page at a time",
        &["cursor", "limit", "namespace", "tenantId"],
        &[],
    ),
    (
        "get",
        "/v1/rooms/{room}",
        "One room",
        &["namespace", "tenantId"],
        &[],
    ),
    (
        "get",
        "/v1/rooms/{room}/members",
        "The users in a room, on all nodes, at most 1000",
        &["namespace", "tenantId"],
        &[],
    ),
    (
        "post",
        "/v1/rooms/{room}/members",
        "Put sockets into a room: those of users, those with these ids, those in rooms",
        &[],
        WHO,
    ),
    (
        "post",
        "/v1/rooms/{room}/members/leave",
        "Take sockets out of a room; without users, sockets and rooms: all of them",
        &[],
        WHO,
    ),
    (
        "post",
        "/v1/rooms/{room}/publish",
        "Send an event to a room's members, but not to those in the rooms of except",
        &[],
        &["event", "data", "key", "namespace", "tenantId", "except"],
    ),
    (
        "post",
        "/v1/broadcast",
        "Send an event to all sockets of a namespace and tenant, but not to those in the rooms of except",
        &[],
        &["event", "data", "namespace", "tenantId", "except"],
    ),
    ("get", "/v1/nodes", "The nodes", &[], &[]),
    ("post", "/v1/drain", "Let everybody go, then stop", &[], &[]),
];

pub(super) async fn document() -> Json<Value> {
    Json(build())
}

fn build() -> Value {
    let mut paths = Map::new();
    for (method, path, summary, query, body) in ROUTES {
        let mut parameters: Vec<Value> = path
            .split('{')
            .skip(1)
            .filter_map(|rest| rest.split_once('}'))
            .map(|(name, _)| json!({ "name": name, "in": "path", "required": true, "schema": { "type": "string" } }))
            .collect();
        parameters.extend(query.iter().map(|name| {
            let kind = if *name == "limit" {
                "integer"
            } else {
                "string"
            };
            json!({ "name": name, "in": "query", "schema": { "type": kind } })
        }));
        let mut operation = json!({
            "summary": summary,
            "parameters": parameters,
            "responses": {
                "2XX": { "description": "As asked" },
                "4XX": { "description": "What is wrong", "content": { "application/problem+json": {
                    "schema": { "$ref": "#/components/schemas/Problem" } } } },
            },
        });
        if !body.is_empty() {
            let members: Map<String, Value> = body
                .iter()
                .map(|name| {
                    let schema = match *name {
                        "data" => json!({}),
                        "ackWithinMs" => json!({ "type": "integer" }),
                        "users" | "sockets" | "rooms" | "except" => {
                            json!({ "type": "array", "items": { "type": "string" } })
                        }
                        _ => json!({ "type": "string" }),
                    };
                    ((*name).to_owned(), schema)
                })
                .collect();
            let required: &[&str] = if *body == WHO { &[] } else { &body[..1] };
            operation["requestBody"] = json!({ "required": true, "content": { "application/json": {
                "schema": { "type": "object", "properties": members, "required": required } } } });
        }
        if path.starts_with("/v1") {
            operation["security"] = json!([{ "token": [] }]);
        }
        let entry = paths.entry((*path).to_owned()).or_insert_with(|| json!({}));
        entry[*method] = operation;
    }
    json!({
        "openapi": "3.1.0",
        "info": { "title": "Heartline", "version": env!("CARGO_PKG_VERSION") },
        "paths": paths,
        "components": {
            "securitySchemes": { "token": { "type": "http", "scheme": "bearer" } },
            "schemas": { "Problem": { "type": "object", "properties": {
                "type": { "type": "string" }, "title": { "type": "string" },
                "status": { "type": "integer" }, "detail": { "type": "string" } } } },
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_route_is_described_once() {
        let document = build();
        let described: usize = document["paths"]
            .as_object()
            .unwrap()
            .values()
            .map(|path| path.as_object().unwrap().len())
            .sum();
        assert_eq!(described, ROUTES.len());
        // The router's own list, read from its source.
        let source = include_str!("mod.rs");
        let routed = source.matches("get(").count()
            + source.matches("post(").count()
            + source.matches(".delete(").count();
        assert_eq!(routed, ROUTES.len());
    }
}

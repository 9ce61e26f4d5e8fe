//! `presence:get` and `metrics:request`.

use heartline_core::entries::UserPresence;
use serde::{Deserialize, Serialize};

use crate::event::EventError;
use crate::handler::Json;
use crate::socket::Socket;

/// Most users one question may be about.
const MAX_USERS: usize = 1000;

#[derive(Debug, Deserialize)]
pub(super) struct Question {
    users: Vec<String>,
}

#[derive(Debug, Serialize)]
pub(super) struct Answer {
    users: Vec<UserPresence>,
}

/// Presence of users of the asking socket's own tenant.
pub(super) async fn presence_get(
    socket: Socket,
    Json(question): Json<Question>,
) -> Result<Json<Answer>, EventError> {
    if question.users.len() > MAX_USERS {
        return Err(EventError::new(
            "INVALID_DATA",
            "Ask about at most 1000 users at once",
        ));
    }
    let tenant = socket.identity.tenant_id().cloned();
    let users = socket
        .shared
        .fanout
        .backplane
        .presence(tenant, question.users)
        .await;
    Ok(Json(Answer { users }))
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct MetricsResponse {
    connected_users: usize,
    connections: u64,
    heartbeats: u64,
    rate_limit_entries: usize,
    /// Seconds.
    uptime: u64,
}

/// A node's numbers, for sockets whose token says `admin: true`.
pub(super) async fn metrics_request(socket: Socket) -> Result<Json<serde_json::Value>, EventError> {
    if !socket.identity.admin {
        let mut error = EventError::new("FORBIDDEN", "Only an admin's token may ask for metrics");
        error.announced = true;
        return Err(error);
    }
    let shared = &socket.shared;
    let response = MetricsResponse {
        connected_users: shared.fanout.backplane.local().online(),
        connections: shared.metrics.sockets(),
        heartbeats: shared.metrics.heartbeats(),
        rate_limit_entries: shared.limits.entries(),
        uptime: shared.clock.now() / 1_000_000,
    };
    socket.emit("metrics:response", &response)?;
    let value = serde_json::to_value(response)
        .map_err(|error| EventError::new("INTERNAL", error.to_string()))?;
    Ok(Json(value))
}

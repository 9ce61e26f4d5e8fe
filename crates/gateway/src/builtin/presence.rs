//! `presence:get` and `metrics:request`.

use serde::{Deserialize, Serialize};

use crate::entries::UserPresence;
use crate::{Code, EventError, Gateway, Json, Socket};

/// Most users one question may be about.
const MAX_USERS: usize = 100;

#[derive(Debug, Deserialize)]
pub(super) struct Question {
    users: Vec<String>,
}

#[derive(Debug, Serialize)]
pub(super) struct Answer {
    users: Vec<UserPresence>,
}

/// Presence of users of the asking socket's own tenant. Each of them counts as an event.
pub(super) async fn presence_get(
    socket: Socket,
    gateway: Gateway,
    Json(question): Json<Question>,
) -> Result<Json<Answer>, EventError> {
    if question.users.len() > MAX_USERS {
        return Err(EventError::new(
            Code::InvalidData,
            "Ask about at most 100 users at once",
        ));
    }
    socket.charge(question.users.len().saturating_sub(1));
    let tenant = socket.identity().tenant_id().map(|tenant| &**tenant);
    let users = gateway.presence(tenant, &question.users).await;
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
pub(super) async fn metrics_request(
    socket: Socket,
    gateway: Gateway,
) -> Result<Json<serde_json::Value>, EventError> {
    if !socket.identity().admin {
        let sentence = "Only an admin's token may ask for metrics";
        return Err(EventError::new(Code::Forbidden, sentence).announce());
    }
    let counts = gateway.counts();
    let response = MetricsResponse {
        connected_users: counts.users_online,
        connections: counts.sockets,
        heartbeats: counts.heartbeats,
        rate_limit_entries: counts.rate_limit_entries,
        uptime: counts.uptime.as_secs(),
    };
    socket.answer("metrics:response", &response)?;
    let value = serde_json::to_value(response)
        .map_err(|error| EventError::new(Code::Internal, error.to_string()))?;
    Ok(Json(value))
}

//! `/v1/connections`.

use std::time::Duration;

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State as With};
use axum::http::StatusCode;
use heartline::Code;
use heartline::entries::{ConnectionState, Page, SocketEntry, SocketFilter};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::problem::Problem;
use super::rooms::{known_namespace, with_missing};
use super::state::State;
use super::strict::{Known, Named};

pub(super) const DEFAULT_LIMIT: usize = 100;
pub(super) const MAX_LIMIT: usize = 1000;

/// How much of a list, and from where.
#[derive(Debug, Deserialize)]
pub(super) struct Part {
    cursor: Option<String>,
    limit: Option<usize>,
}

impl Part {
    /// The cursor and the bounded limit.
    pub(super) fn split(self) -> Result<(Option<String>, usize), Problem> {
        let limit = self.limit.unwrap_or(DEFAULT_LIMIT);
        match (1..=MAX_LIMIT).contains(&limit) {
            true => Ok((self.cursor.filter(|cursor| !cursor.is_empty()), limit)),
            false => Err(Problem::new(
                StatusCode::BAD_REQUEST,
                "limit must be between 1 and 1000",
            )),
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Wanted {
    user_id: Option<String>,
    user_type: Option<String>,
    tenant_id: Option<String>,
    namespace: Option<String>,
    room: Option<String>,
    state: Option<ConnectionState>,
}

pub(super) async fn list(
    With(state): With<State>,
    part: Result<Query<Part>, QueryRejection>,
    wanted: Result<Query<Wanted>, QueryRejection>,
) -> Result<Json<Page<SocketEntry>>, Problem> {
    let (cursor, limit) = part?.0.split()?;
    let wanted = wanted?.0;
    let filter = SocketFilter {
        user_id: wanted.user_id,
        user_type: wanted.user_type,
        tenant_id: wanted.tenant_id,
        namespace: known_namespace(&state, wanted.namespace)?,
        room: wanted.room,
        state: wanted.state,
    };
    Ok(Json(
        state.gateway.connections(filter, cursor, limit).await?,
    ))
}

fn missing() -> Problem {
    Problem::new(StatusCode::NOT_FOUND, "There is no such connection")
        .with_code(Code::Disconnected.as_str())
}

pub(super) async fn inspect(
    With(state): With<State>,
    Named(socket_id): Named,
) -> Result<Json<SocketEntry>, Problem> {
    let found = state.gateway.connection(&socket_id).await?;
    found.map(Json).ok_or_else(missing)
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Outgoing {
    event: String,
    #[serde(default)]
    data: Option<Box<RawValue>>,
    /// Wait for an acknowledgement, so many milliseconds.
    #[serde(default)]
    ack_within_ms: Option<u64>,
}

/// What an emit is answered with.
#[derive(Debug, Serialize)]
pub(super) struct Emitted {
    delivered: u32,
    /// The acknowledgement's arguments.
    #[serde(skip_serializing_if = "Option::is_none")]
    ack: Option<Box<RawValue>>,
}

/// Longest wait for an acknowledgement.
pub(super) const MAX_ACK: Duration = Duration::from_secs(60);

pub(super) async fn emit(
    With(state): With<State>,
    Named(socket_id): Named,
    body: Known<Outgoing>,
) -> Result<Json<Emitted>, Problem> {
    let Known(out) = body;
    let data = out.data.as_ref().map_or("null", |data| data.get());
    let ack_within = out.ack_within_ms.map(Duration::from_millis);
    if ack_within.is_some_and(|time| time > MAX_ACK) {
        return Err(Problem::new(
            StatusCode::BAD_REQUEST,
            "ackWithinMs is at most 60000",
        ));
    }
    let emitted = state
        .gateway
        .emit(&socket_id, &out.event, data, ack_within)
        .await?;
    match emitted {
        Ok(args) => {
            // As text: it may be nested deeper than what is read into values.
            let ack = args.map(|args| RawValue::from_string(format!("[{args}]")));
            let ack = ack.transpose().map_err(|_| {
                Problem::new(StatusCode::BAD_GATEWAY, "The acknowledgement is no JSON")
            })?;
            Ok(Json(Emitted { delivered: 1, ack }))
        }
        Err(error) if *error.code == *Code::Disconnected.as_str() => Err(missing()),
        Err(error) => {
            let is = |code: Code| error.code == code.as_str();
            let status = if is(Code::Timeout) {
                StatusCode::GATEWAY_TIMEOUT
            } else if is(Code::NodeUnreachable) {
                StatusCode::BAD_GATEWAY
            } else {
                StatusCode::CONFLICT
            };
            Err(Problem::new(status, error.error).with_code(&error.code))
        }
    }
}

pub(super) async fn disconnect(
    With(state): With<State>,
    Named(socket_id): Named,
) -> Result<Json<Value>, Problem> {
    let ended = state.gateway.disconnect(&socket_id).await?;
    match ended.sockets {
        0 => Err(missing()),
        count => Ok(Json(with_missing(
            json!({ "disconnected": count }),
            ended.missing,
        ))),
    }
}

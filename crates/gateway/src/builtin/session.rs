//! `ping` and `heartbeat:response`.

use serde::Serialize;

use crate::{Gateway, Json, Socket};

#[derive(Debug, Serialize)]
pub(super) struct Timestamp {
    timestamp: u64,
}

/// `ping` is answered `pong { timestamp }`, and acknowledged.
pub(super) async fn ping(socket: Socket, gateway: Gateway) -> Json<Timestamp> {
    let timestamp = gateway.unix_millis();
    socket.pong(timestamp);
    Json(Timestamp { timestamp })
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Latency {
    latency_ms: Option<u64>,
}

/// The answer to a `heartbeat` event: the acknowledgement tells how long ago
/// the timestamp it echoes was made.
pub(super) async fn heartbeat_response(
    gateway: Gateway,
    Json(response): Json<serde_json::Value>,
) -> Json<Latency> {
    let sent = response
        .get("timestamp")
        .and_then(serde_json::Value::as_u64);
    Json(Latency {
        latency_ms: sent.and_then(|sent| gateway.unix_millis().checked_sub(sent)),
    })
}

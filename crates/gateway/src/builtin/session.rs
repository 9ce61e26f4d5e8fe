//! `ping` and `heartbeat:response`.

use heartline_wire::json;
use serde::Serialize;

use crate::{Event, EventError, FromEvent, Gateway, Json, Socket};

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

/// The timestamp that is echoed, Unix milliseconds. Nothing else is looked at; without one, nothing
/// is wrong.
pub(super) struct Echo(Option<u64>);

impl FromEvent for Echo {
    fn from_event(event: &Event<'_>) -> Result<Self, EventError> {
        let timestamp = json::field(event.first(), "timestamp");
        Ok(Echo(timestamp.and_then(|at| at.parse().ok())))
    }
}

/// The answer to a `heartbeat` event: the acknowledgement tells how long ago
/// the timestamp it echoes was made.
pub(super) async fn heartbeat_response(gateway: Gateway, Echo(sent): Echo) -> Json<Latency> {
    Json(Latency {
        latency_ms: sent.and_then(|sent| gateway.unix_millis().checked_sub(sent)),
    })
}

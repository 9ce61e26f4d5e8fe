//! `/v1/nodes`.

use std::time::Duration;

use axum::Json;
use axum::extract::State as With;
use axum::http::StatusCode;
use heartline::entries::Missing;
use heartline::{Code, Part, ShedError};
use serde::Deserialize;
use serde_json::{Value, json};

use super::problem::Problem;
use super::rooms::with_missing;
use super::state::State;
use super::strict::{Known, Named};

/// Over how long connections are let go, where nothing else is asked for, milliseconds.
pub(super) const DEFAULT_OVER_MS: u64 = 60_000;
/// The longest time for that: an hour. Who wants it slower asks for fewer, more often.
pub(super) const MAX_OVER_MS: u64 = 3_600_000;

pub(super) async fn list(With(state): With<State>) -> Json<Value> {
    let (nodes, partial) = state.gateway.nodes().await;
    let missing = Missing {
        partial,
        ..Missing::default()
    };
    Json(with_missing(json!({ "nodes": nodes }), missing))
}

/// How many connections are to go, and over how long.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Wish {
    #[serde(default)]
    share: Option<f64>,
    #[serde(default)]
    connections: Option<usize>,
    #[serde(default)]
    over_ms: Option<u64>,
}

impl Wish {
    /// The connections that are meant, and milliseconds.
    fn understood(&self) -> Result<(Part, u64), Problem> {
        let bad = |what| Err(Problem::new(StatusCode::BAD_REQUEST, what));
        let part = match (self.share, self.connections) {
            (Some(share), None) if share > 0.0 && share <= 1.0 => Part::Share(share),
            (None, Some(count)) if count > 0 => Part::Connections(count),
            (Some(_), None) => return bad("share is more than 0 and at most 1, like 0.3"),
            (None, Some(_)) => return bad("connections is at least 1"),
            _ => return bad("Say either which share of the connections is to go, or how many"),
        };
        match self.over_ms.unwrap_or(DEFAULT_OVER_MS) {
            over if over <= MAX_OVER_MS => Ok((part, over)),
            _ => bad("overMs is at most 3600000, an hour"),
        }
    }
}

pub(super) async fn shed(
    With(state): With<State>,
    Named(node_id): Named,
    body: Known<Wish>,
) -> Result<(StatusCode, Json<Value>), Problem> {
    let Known(wish) = body;
    let (part, over_ms) = wish.understood()?;
    let over = Duration::from_millis(over_ms);
    let shed = state.gateway.shed(&node_id, part, over).await;
    let connections = shed.map_err(|error| {
        let problem = |status| Problem::new(status, error.to_string());
        match error {
            ShedError::UnknownNode => problem(StatusCode::NOT_FOUND),
            ShedError::Unreachable | ShedError::NotKnown => problem(StatusCode::BAD_GATEWAY),
            ShedError::Draining => problem(StatusCode::CONFLICT).with_code(Code::Draining.as_str()),
        }
    })?;
    let answer = json!({ "nodeId": node_id, "connections": connections, "overMs": over_ms });
    Ok((StatusCode::ACCEPTED, Json(answer)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wish_names_a_share_or_a_number_within_bounds() {
        let read = |body: &str| {
            let wish: Wish = serde_json::from_str(body).ok()?;
            wish.understood().ok()
        };
        let share = |share| Some((Part::Share(share), DEFAULT_OVER_MS));
        assert_eq!(read(r#"{"share":0.3}"#), share(0.3));
        assert_eq!(read(r#"{"share":1}"#), share(1.0));
        let five = Some((Part::Connections(5), 0));
        assert_eq!(read(r#"{"connections":5,"overMs":0}"#), five);
        for wrong in [
            "{}",
            r#"{"share":0}"#,
            r#"{"share":-0.1}"#,
            r#"{"share":1.1}"#,
            r#"{"share":1e999}"#,
            r#"{"share":"0.3"}"#,
            r#"{"connections":0}"#,
            r#"{"connections":-1}"#,
            r#"{"connections":1.5}"#,
            r#"{"share":0.3,"connections":5}"#,
            r#"{"share":0.3,"overMs":3600001}"#,
            r#"{"share":0.3,"overMs":-1}"#,
        ] {
            assert_eq!(read(wrong), None, "{wrong}");
        }
    }
}

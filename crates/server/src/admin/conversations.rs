//! `/v1/conversations`.

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State as With};
use axum::http::StatusCode;
use heartline::store::{Channel, History, HistoryQuery, MAX_PART, PART, Start};
use serde::Deserialize;

use super::problem::Problem;
use super::state::State;
use super::strict::Named;

/// Most bytes of messages in one answer: all of the longest that there can be.
const MAX_BYTES: usize = 16 << 20;

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Wanted {
    tenant_id: Option<String>,
    after: Option<u64>,
    before: Option<u64>,
    limit: Option<usize>,
}

pub(super) async fn messages(
    With(state): With<State>,
    Named(conversation): Named,
    wanted: Result<Query<Wanted>, QueryRejection>,
) -> Result<Json<History>, Problem> {
    let wanted = wanted?.0;
    let bad = |what: &str| Problem::new(StatusCode::BAD_REQUEST, what);
    let from = Start::of(wanted.after, wanted.before)
        .ok_or_else(|| bad("Ask with after or with before, not both"))?;
    let limit = wanted.limit.unwrap_or(PART);
    if !(1..=MAX_PART).contains(&limit) {
        return Err(bad("limit must be between 1 and 200"));
    }
    let query = HistoryQuery {
        tenant: wanted.tenant_id.map(Into::into),
        channel: Channel::Conversation(conversation),
        from,
        limit,
        bytes: MAX_BYTES,
    };
    let history = state.gateway.store().history(query).await;
    history.map(Json).map_err(|error| {
        tracing::error!(%error, "a history could not be read");
        Problem::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "The history cannot be read now",
        )
    })
}

//! `/v1/conversations`.

use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, State as With};
use axum::http::StatusCode;
use heartline::auth::UserKey;
use heartline::store::conversations::Added;
use heartline::store::{Channel, History, HistoryQuery, MAX_PART, PART, Start, StoreError};
use heartline::{Code, rooms};
use serde::Deserialize;
use serde_json::{Value, json};

use super::connections::Part;
use super::problem::Problem;
use super::state::State;
use super::strict::{Known, Named, checked};

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
    Named(id): Named,
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
        tenant: checked("tenantId", wanted.tenant_id)?.map(Into::into),
        channel: Channel::Conversation(conversation(&id)?.to_owned()),
        from,
        limit,
        bytes: MAX_BYTES,
    };
    let history = state.gateway.store().history(query).await;
    history.map(Json).map_err(|error| unavailable(&error))
}

/// The store cannot do something at present.
pub(super) fn unavailable(error: &StoreError) -> Problem {
    tracing::error!(%error, "the store could not do what the API was asked for");
    let code = match error {
        StoreError::Overloaded => Code::Overloaded,
        StoreError::Failed(_) => Code::Internal,
    };
    let what = "The store cannot do that now; try again";
    Problem::new(StatusCode::SERVICE_UNAVAILABLE, what).with_code(code.as_str())
}

/// A conversation's id, if it can be one.
pub(super) fn conversation(id: &str) -> Result<&str, Problem> {
    match rooms::is_valid_name(&rooms::of_conversation(id)) {
        true => Ok(id),
        false => Err(Problem::new(
            StatusCode::BAD_REQUEST,
            "A conversation's id has 1 to 243 bytes and no control characters",
        )
        .with_code(Code::InvalidRoom.as_str())),
    }
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Of {
    tenant_id: Option<String>,
}

pub(super) async fn members(
    With(state): With<State>,
    Named(id): Named,
    part: Result<Query<Part>, QueryRejection>,
    of: Result<Query<Of>, QueryRejection>,
) -> Result<Json<Value>, Problem> {
    let (cursor, limit) = part?.0.split()?;
    let tenant = checked("tenantId", of?.0.tenant_id)?;
    let (tenant, id) = (tenant.as_deref(), conversation(&id)?);
    let page = state
        .gateway
        .conversation_members(tenant, id, cursor.as_deref(), limit)
        .await?
        .map_err(|error| unavailable(&error))?;
    let mut answer = json!({ "members": page.items });
    if let Some(next) = page.next_cursor {
        answer["nextCursor"] = next.into();
    }
    Ok(Json(answer))
}

/// Which user is meant.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Which {
    tenant_id: Option<String>,
    user_type: Option<String>,
}

/// Users of one type.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Users {
    users: Vec<String>,
    #[serde(flatten)]
    which: Which,
}

/// The key of a user.
pub(super) fn key(
    user_id: String,
    user_type: Option<String>,
    tenant_id: Option<String>,
) -> Result<Arc<UserKey>, Problem> {
    let user_id = checked("A user's id", Some(user_id))?.unwrap_or_default();
    Ok(Arc::new(UserKey {
        tenant_id: checked("tenantId", tenant_id)?.map(Into::into),
        user_id: user_id.into(),
        user_type: checked("userType", user_type)?.map(Into::into),
    }))
}

/// The keys of users.
fn keys(users: Vec<String>, which: &Which) -> Result<Vec<Arc<UserKey>>, Problem> {
    let key = |user| key(user, which.user_type.clone(), which.tenant_id.clone());
    users.into_iter().map(key).collect()
}

async fn add_all(
    state: &State,
    id: &str,
    users: Vec<Arc<UserKey>>,
) -> Result<Json<Value>, Problem> {
    let id = conversation(id)?;
    let mut count = 0;
    for added in state.gateway.add_members(id, &users).await {
        match added.map_err(|error| unavailable(&error))? {
            Added::New => count += 1,
            Added::Raised | Added::Known => {}
            Added::Full => {
                return Err(Problem::new(
                    StatusCode::CONFLICT,
                    "A conversation has at most 10 000 members, and a user 10 000 conversations",
                ));
            }
        }
    }
    Ok(Json(json!({ "added": count })))
}

async fn remove_all(
    state: &State,
    id: &str,
    users: Vec<Arc<UserKey>>,
) -> Result<Json<Value>, Problem> {
    let id = conversation(id)?;
    let mut count = 0;
    for user in &users {
        let removed = state.gateway.remove_member(id, user).await;
        count += usize::from(removed.map_err(|error| unavailable(&error))?);
    }
    Ok(Json(json!({ "removed": count })))
}

pub(super) async fn add_members(
    With(state): With<State>,
    Named(id): Named,
    Known(of): Known<Users>,
) -> Result<Json<Value>, Problem> {
    add_all(&state, &id, keys(of.users, &of.which)?).await
}

pub(super) async fn remove_members(
    With(state): With<State>,
    Named(id): Named,
    Known(of): Known<Users>,
) -> Result<Json<Value>, Problem> {
    remove_all(&state, &id, keys(of.users, &of.which)?).await
}

pub(super) async fn add_member(
    With(state): With<State>,
    path: Result<Path<(String, String)>, PathRejection>,
    which: Result<Query<Which>, QueryRejection>,
) -> Result<Json<Value>, Problem> {
    let Path((id, user)) = path?;
    add_all(&state, &id, keys(vec![user], &which?.0)?).await
}

pub(super) async fn remove_member(
    With(state): With<State>,
    path: Result<Path<(String, String)>, PathRejection>,
    which: Result<Query<Which>, QueryRejection>,
) -> Result<Json<Value>, Problem> {
    let Path((id, user)) = path?;
    remove_all(&state, &id, keys(vec![user], &which?.0)?).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_that_no_token_may_have_is_refused() {
        let long = "i".repeat(257);
        let is_refused = |user: &str, user_type: Option<&str>, tenant_id: Option<&str>| {
            let which = Which {
                tenant_id: tenant_id.map(ToOwned::to_owned),
                user_type: user_type.map(ToOwned::to_owned),
            };
            keys(vec![user.to_owned()], &which).is_err()
        };
        assert!(!is_refused(&long[1..], Some("driver"), Some("t")));
        for bad in ["", "a\n", "\u{7f}", &long] {
            assert!(is_refused(bad, None, None), "{bad:?}");
            assert!(is_refused("a", Some(bad), None), "{bad:?}");
            assert!(is_refused("a", None, Some(bad)), "{bad:?}");
        }
    }
}

//! `/v1/users` and `/v1/presence`.

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State as With};
use axum::http::StatusCode;
use heartline::auth::UserKey;
use heartline::entries::{Missing, SocketEntry, UserPresence};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::problem::Problem;
use super::rooms::with_missing;
use super::state::State;
use super::strict::{Known, NamedUser};

/// Which of the users with an id.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Which {
    tenant_id: Option<String>,
    user_type: Option<String>,
}

/// A user's presence, and until when nothing is missing in it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct AsOf {
    #[serde(flatten)]
    presence: UserPresence,
    /// Unix milliseconds.
    as_of: u64,
}

async fn presence_of(state: &State, user_id: &str, which: &Which) -> Result<AsOf, Problem> {
    let users = [user_id.to_owned()];
    let tenant = which.tenant_id.as_deref();
    let (mut found, as_of) = state.gateway.presence_asked(tenant, &users).await;
    let found = found
        .pop()
        .ok_or_else(|| Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "Presence had no answer"))?;
    let presence = match &which.user_type {
        Some(user_type) => found.of_type(user_type),
        None => found,
    };
    Ok(AsOf { presence, as_of })
}

/// The sockets of the users that are meant: of one type, or of any.
async fn sockets_of(state: &State, user_id: &str, which: &Which) -> (Vec<SocketEntry>, Missing) {
    let meant = |user: &UserKey| {
        let wanted = which.user_type.as_deref();
        wanted.is_none() || user.user_type.as_deref() == wanted
    };
    let users = (which.tenant_id.as_deref(), user_id);
    state.gateway.users_connections(users, meant).await
}

pub(super) async fn inspect(
    With(state): With<State>,
    NamedUser(user_id): NamedUser,
    which: Result<Query<Which>, QueryRejection>,
) -> Result<Json<Value>, Problem> {
    let which = which?.0;
    let presence = presence_of(&state, &user_id, &which).await?;
    let mut answer = serde_json::to_value(presence)
        .map_err(|error| Problem::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))?;
    let (sockets, missing) = sockets_of(&state, &user_id, &which).await;
    answer["connections"] = json!(sockets);
    Ok(Json(with_missing(answer, missing)))
}

pub(super) async fn presence(
    With(state): With<State>,
    NamedUser(user_id): NamedUser,
    which: Result<Query<Which>, QueryRejection>,
) -> Result<Json<AsOf>, Problem> {
    presence_of(&state, &user_id, &which?.0).await.map(Json)
}

pub(super) async fn connections(
    With(state): With<State>,
    NamedUser(user_id): NamedUser,
    which: Result<Query<Which>, QueryRejection>,
) -> Result<Json<Value>, Problem> {
    let (sockets, missing) = sockets_of(&state, &user_id, &which?.0).await;
    Ok(Json(with_missing(json!({ "items": sockets }), missing)))
}

#[derive(Debug, Deserialize)]
pub(super) struct Outgoing {
    event: String,
    #[serde(default)]
    data: Option<Box<RawValue>>,
    #[serde(default)]
    namespace: Option<String>,
}

pub(super) async fn emit(
    With(state): With<State>,
    NamedUser(user_id): NamedUser,
    which: Result<Query<Which>, QueryRejection>,
    body: Known<Outgoing>,
) -> Result<Json<Value>, Problem> {
    let (which, Known(out)) = (which?.0, body);
    let data = out.data.as_ref().map_or("null", |data| data.get());
    let (gateway, namespace) = (&state.gateway, out.namespace.as_deref());
    let reached = match &which.user_type {
        Some(user_type) => {
            let user = UserKey {
                tenant_id: which.tenant_id.as_deref().map(Into::into),
                user_id: user_id.into(),
                user_type: Some(user_type.as_str().into()),
            };
            let sent = gateway.emit_to_user(user, namespace, &out.event, data);
            sent.await?
        }
        None => {
            let users = (which.tenant_id.as_deref(), &*user_id);
            let sent = gateway.emit_to_users(users, namespace, &out.event, data);
            sent.await?
        }
    };
    let mut answer = json!({ "delivered": reached.sockets });
    if reached.partial {
        answer["partial"] = true.into();
    }
    Ok(Json(answer))
}

pub(super) async fn disconnect(
    With(state): With<State>,
    NamedUser(user_id): NamedUser,
    which: Result<Query<Which>, QueryRejection>,
) -> Result<Json<Value>, Problem> {
    let which = which?.0;
    let tenant = which.tenant_id.as_deref();
    let ended = match which.user_type {
        Some(user_type) => {
            let user = UserKey {
                tenant_id: tenant.map(Into::into),
                user_id: user_id.into(),
                user_type: Some(user_type.into()),
            };
            state.gateway.disconnect_user(&user).await
        }
        None => state.gateway.disconnect_users((tenant, &user_id)).await,
    };
    let answer = json!({ "disconnected": ended.sockets });
    Ok(Json(with_missing(answer, ended.missing)))
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Question {
    users: Vec<String>,
    #[serde(default)]
    tenant_id: Option<String>,
}

pub(super) async fn presence_of_many(
    With(state): With<State>,
    body: Known<Question>,
) -> Result<Json<Value>, Problem> {
    let Known(question) = body;
    let (users, as_of) = state
        .gateway
        .presence_as_of(question.tenant_id.as_deref(), &question.users)
        .await;
    Ok(Json(json!({ "users": users, "asOf": as_of })))
}

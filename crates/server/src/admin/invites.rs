//! `/v1/invites`.

use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State as With};
use axum::http::StatusCode;
use heartline::auth::UserKey;
use heartline::store::invites::{Invite, InviteQuery, MAX_LABEL, MAX_USES, NewInvite};
use heartline::{BadCursor, Code, EventError};
use heartline_wire::invite;
use serde::Deserialize;
use serde_json::{Value, json};

use super::connections::Part;
use super::conversations::{conversation, key, unavailable};
use super::problem::Problem;
use super::state::State;
use super::strict::{Known, Named, checked};
use crate::config::parse_duration;

/// Longest text that says who made an invite, bytes.
const MAX_BY: usize = 256;

/// Longest time that an invite can be used, milliseconds: ten years.
const MAX_TIME: u128 = 3_653 * 86_400_000;

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Wanted {
    conversation_id: String,
    expires_in: Option<String>,
    max_uses: Option<u32>,
    label: Option<String>,
    created_by: Option<String>,
    tenant_id: Option<String>,
}

fn bad(what: &str) -> Problem {
    Problem::new(StatusCode::BAD_REQUEST, what)
}

/// When an invite ends that is made now.
fn expiry(expires_in: Option<&str>, now: u64) -> Result<Option<u64>, Problem> {
    let Some(text) = expires_in else {
        return Ok(None);
    };
    let time = parse_duration(text).map(|time| time.as_millis());
    match time.filter(|time| (1..=MAX_TIME).contains(time)) {
        Some(time) => Ok(Some(now + time as u64)),
        None => Err(bad(
            "expiresIn must be a duration like \"30m\" or \"7d\", of at most ten years",
        )),
    }
}

/// An invite, and its address where there is one.
fn told(state: &State, invite: &Invite) -> Value {
    let mut answer = json!(invite);
    if let Some(url) = state.gateway.invite_url(&invite.code) {
        answer["url"] = url.into();
    }
    answer
}

pub(super) async fn create(
    With(state): With<State>,
    Known(wanted): Known<Wanted>,
) -> Result<(StatusCode, Json<Value>), Problem> {
    let now = state.gateway.unix_millis();
    if wanted
        .max_uses
        .is_some_and(|most| !(1..=MAX_USES).contains(&most))
    {
        return Err(bad("maxUses must be between 1 and 100000"));
    }
    let is_long = |text: &Option<String>, most| text.as_ref().is_some_and(|it| it.len() > most);
    if is_long(&wanted.label, MAX_LABEL) || is_long(&wanted.created_by, MAX_BY) {
        return Err(bad("label has at most 200 bytes, and createdBy 256"));
    }
    let new = NewInvite {
        tenant_id: checked("tenantId", wanted.tenant_id)?.map(Into::into),
        conversation_id: conversation(&wanted.conversation_id)?.to_owned(),
        created_by: wanted.created_by,
        created_at: now,
        expires_at: expiry(wanted.expires_in.as_deref(), now)?,
        max_uses: wanted.max_uses,
        label: wanted.label,
    };
    let invite = state.gateway.create_invite(new).await;
    let invite = invite.map_err(|error| unavailable(&error))?;
    Ok((StatusCode::CREATED, Json(told(&state, &invite))))
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Which {
    tenant_id: Option<String>,
    conversation_id: Option<String>,
}

/// The code of the last invite of the part before.
fn cursor(text: String) -> Result<String, Problem> {
    match invite::parse(&text).as_ref() == Some(&text) {
        true => Ok(text),
        false => Err(BadCursor.into()),
    }
}

pub(super) async fn list(
    With(state): With<State>,
    part: Result<Query<Part>, QueryRejection>,
    which: Result<Query<Which>, QueryRejection>,
) -> Result<Json<Value>, Problem> {
    let (after, limit) = part?.0.split()?;
    let which = which?.0;
    let after = after.map(cursor).transpose()?;
    if let Some(id) = &which.conversation_id {
        conversation(id)?;
    }
    let query = InviteQuery {
        tenant_id: checked("tenantId", which.tenant_id)?.map(Into::into),
        conversation_id: which.conversation_id,
        after,
        limit: limit + 1,
    };
    let invites = state.gateway.store().invites(query).await;
    let mut invites = invites.map_err(|error| unavailable(&error))?;
    let more = invites.len() > limit;
    invites.truncate(limit);
    let items: Vec<Value> = invites.iter().map(|invite| told(&state, invite)).collect();
    let mut answer = json!({ "invites": items });
    if let Some(last) = invites.last().filter(|_| more) {
        answer["nextCursor"] = last.code.as_str().into();
    }
    Ok(Json(answer))
}

fn found(state: &State, invite: Option<Invite>) -> Result<Json<Value>, Problem> {
    match invite {
        Some(invite) => Ok(Json(told(state, &invite))),
        None => Err(refused(&Code::InviteNotFound.into())),
    }
}

pub(super) async fn inspect(
    With(state): With<State>,
    Named(code): Named,
) -> Result<Json<Value>, Problem> {
    let invite = state.gateway.store().invite(&code).await;
    found(&state, invite.map_err(|error| unavailable(&error))?)
}

pub(super) async fn revoke(
    With(state): With<State>,
    Named(code): Named,
) -> Result<Json<Value>, Problem> {
    let now = state.gateway.unix_millis();
    let invite = state.gateway.store().revoke_invite(&code, now).await;
    found(&state, invite.map_err(|error| unavailable(&error))?)
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Joining {
    code: String,
    user_id: String,
    user_type: Option<String>,
    tenant_id: Option<String>,
}

impl Joining {
    /// Who comes in.
    fn user(self) -> Result<Arc<UserKey>, Problem> {
        key(self.user_id, self.user_type, self.tenant_id)
    }
}

/// Why somebody does not come in, as HTTP has it.
fn refused(error: &EventError) -> Problem {
    let is = |code: Code| error.code() == code.as_str();
    let status = match () {
        () if is(Code::InviteNotFound) => StatusCode::NOT_FOUND,
        () if [
            Code::InviteExpired,
            Code::InviteExhausted,
            Code::InviteRevoked,
        ]
        .into_iter()
        .any(is) =>
        {
            StatusCode::GONE
        }
        () if is(Code::RateLimited) => StatusCode::TOO_MANY_REQUESTS,
        () if is(Code::InvalidInvite) => StatusCode::BAD_REQUEST,
        () => StatusCode::SERVICE_UNAVAILABLE,
    };
    Problem::new(status, error.message().to_owned())
        .with_code(error.code())
        .retry_after(error.retry_after_ms())
}

pub(super) async fn join(
    With(state): With<State>,
    Known(joining): Known<Joining>,
) -> Result<Json<Value>, Problem> {
    let code = joining.code.clone();
    let user = joining.user()?;
    let welcome = state.gateway.join_by_invite(&code, &user, None);
    let welcome = welcome.await.map_err(|error| refused(&error))?;
    Ok(Json(json!({
        "ok": true,
        "conversationId": welcome.conversation_id,
        "room": welcome.room,
    })))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_joins_is_somebody_whom_a_token_could_name() {
        let is_let_in = |joining: Value| {
            let joining: Joining = serde_json::from_value(joining).unwrap();
            joining.user().is_ok()
        };
        assert!(is_let_in(
            json!({ "code": "c", "userId": "7", "userType": "driver" })
        ));
        let long = "i".repeat(257);
        for bad in ["", "a\n", "\u{7f}", &long] {
            for joining in [
                json!({ "code": "c", "userId": bad }),
                json!({ "code": "c", "userId": "7", "userType": bad }),
                json!({ "code": "c", "userId": "7", "tenantId": bad }),
            ] {
                assert!(!is_let_in(joining), "{bad:?}");
            }
        }
    }

    #[test]
    fn a_part_begins_behind_a_code() {
        assert_eq!(cursor("k3Jd81LmQz".into()).unwrap(), "k3Jd81LmQz");
        for bad in [
            "x",
            "a\n",
            " k3Jd81LmQz",
            "https://app.example/invite/k3Jd81LmQz",
        ] {
            assert!(cursor(bad.into()).is_err(), "{bad:?}");
        }
    }
}

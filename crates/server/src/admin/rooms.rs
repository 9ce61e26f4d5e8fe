//! `/v1/rooms` and `/v1/broadcast`.

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State as With};
use axum::http::StatusCode;
use heartline::entries::{Page, RoomEntry};
use heartline::{Broadcast, Publish, Published};
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::connections::Part;
use super::problem::Problem;
use super::state::State;
use super::strict::Known;

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Place {
    namespace: Option<String>,
    tenant_id: Option<String>,
}

pub(super) async fn list(
    With(state): With<State>,
    part: Result<Query<Part>, QueryRejection>,
    place: Result<Query<Place>, QueryRejection>,
) -> Result<Json<Page<RoomEntry>>, Problem> {
    let (cursor, limit) = part?.0.split()?;
    let place = place?.0;
    let rooms = state.gateway.rooms(
        place.namespace.as_deref(),
        place.tenant_id.as_deref(),
        cursor,
        limit,
    );
    Ok(Json(rooms.await?))
}

pub(super) async fn inspect(
    With(state): With<State>,
    Path(room): Path<String>,
    place: Result<Query<Place>, QueryRejection>,
) -> Result<Json<RoomEntry>, Problem> {
    let place = place?.0;
    let namespace = place.namespace.unwrap_or_else(|| "/".into());
    let found = state
        .gateway
        .room(&namespace, place.tenant_id.as_deref(), &room)
        .await;
    found
        .map(Json)
        .ok_or_else(|| Problem::new(StatusCode::NOT_FOUND, "This room has no members"))
}

/// An event as a backend sends it.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Outgoing {
    event: String,
    #[serde(default)]
    data: Option<Box<RawValue>>,
    #[serde(default)]
    key: Option<String>,
    #[serde(default)]
    namespace: Option<String>,
    #[serde(default)]
    tenant_id: Option<String>,
}

impl Outgoing {
    fn data(&self) -> String {
        self.data
            .as_ref()
            .map_or("null", |data| data.get())
            .to_owned()
    }

    fn namespace(&self) -> String {
        self.namespace.clone().unwrap_or_else(|| "/".into())
    }
}

fn answer(published: Published) -> Json<Value> {
    let mut answer = json!({ "delivered": published.delivered });
    if let Some(offset) = published.offset {
        answer["offset"] = offset.into();
    }
    Json(answer)
}

pub(super) async fn publish(
    With(state): With<State>,
    Path(room): Path<String>,
    body: Known<Outgoing>,
) -> Result<Json<Value>, Problem> {
    let Known(out) = body;
    let publish = Publish {
        tenant_id: out.tenant_id.clone(),
        namespace: out.namespace(),
        room,
        data: out.data(),
        event: out.event,
        key: out.key,
    };
    Ok(answer(state.gateway.publish(publish).await?))
}

pub(super) async fn broadcast(
    With(state): With<State>,
    body: Known<Outgoing>,
) -> Result<Json<Value>, Problem> {
    let Known(out) = body;
    let broadcast = Broadcast {
        tenant_id: out.tenant_id.clone(),
        namespace: out.namespace(),
        data: out.data(),
        event: out.event,
    };
    Ok(answer(state.gateway.broadcast(broadcast).await?))
}

//! `/v1/rooms` and `/v1/broadcast`.

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State as With};
use axum::http::StatusCode;
use heartline::entries::{Missing, Page, RoomEntry};
use heartline::{Broadcast, Publish, PublishError, Published, Sockets};
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::connections::Part;
use super::problem::Problem;
use super::state::State;
use super::strict::{Known, NamedRoom};

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Place {
    namespace: Option<String>,
    tenant_id: Option<String>,
}

/// The namespace that a query names, if it names one.
pub(super) fn known_namespace(
    state: &State,
    name: Option<String>,
) -> Result<Option<String>, Problem> {
    match name {
        Some(name) if state.gateway.everybody(&name, None).is_none() => {
            Err(PublishError::UnknownNamespace(name).into())
        }
        known => Ok(known),
    }
}

pub(super) async fn list(
    With(state): With<State>,
    part: Result<Query<Part>, QueryRejection>,
    place: Result<Query<Place>, QueryRejection>,
) -> Result<Json<Page<RoomEntry>>, Problem> {
    let (cursor, limit) = part?.0.split()?;
    let place = place?.0;
    let namespace = known_namespace(&state, place.namespace)?;
    let rooms = state.gateway.rooms(
        namespace.as_deref(),
        place.tenant_id.as_deref(),
        cursor,
        limit,
    );
    Ok(Json(rooms.await?))
}

pub(super) async fn inspect(
    With(state): With<State>,
    NamedRoom(room): NamedRoom,
    place: Result<Query<Place>, QueryRejection>,
) -> Result<Json<Value>, Problem> {
    let place = place?.0;
    let namespace = known_namespace(&state, place.namespace)?.unwrap_or_else(|| "/".into());
    let found = state
        .gateway
        .room(&namespace, place.tenant_id.as_deref(), &room)
        .await;
    match found {
        (Some(room), missing) => Ok(Json(with_missing(json!(room), missing))),
        (None, missing) if missing.partial => Err(Problem::new(
            StatusCode::BAD_GATEWAY,
            "No node that answers has members of this room, and not all do; try again",
        )),
        (None, _) => Err(Problem::new(
            StatusCode::NOT_FOUND,
            "This room has no members",
        )),
    }
}

pub(super) async fn members(
    With(state): With<State>,
    NamedRoom(room): NamedRoom,
    place: Result<Query<Place>, QueryRejection>,
) -> Result<Json<Value>, Problem> {
    let place = place?.0;
    let namespace = known_namespace(&state, place.namespace)?.unwrap_or_else(|| "/".into());
    let tenant = place.tenant_id.as_deref();
    let (members, missing) = state.gateway.room_members(&namespace, tenant, &room).await;
    Ok(Json(with_missing(json!({ "members": members }), missing)))
}

/// An answer, with what is missing in it.
pub(super) fn with_missing(mut answer: Value, missing: Missing) -> Value {
    if !missing.unreachable.is_empty() {
        answer["unreachable"] = missing.unreachable.into();
    }
    if missing.partial {
        answer["partial"] = true.into();
    }
    answer
}

/// Which sockets are meant: any of these.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Who {
    #[serde(default)]
    users: Vec<String>,
    #[serde(default)]
    sockets: Vec<String>,
    #[serde(default)]
    rooms: Vec<String>,
    #[serde(default)]
    except: Vec<String>,
    #[serde(default)]
    namespace: Option<String>,
    #[serde(default)]
    tenant_id: Option<String>,
}

impl Who {
    fn sockets(self) -> Sockets {
        let users = self.users.into_iter().map(|user| format!("user:{user}"));
        let rooms = users.chain(self.sockets).chain(self.rooms);
        Sockets {
            tenant_id: self.tenant_id,
            namespace: self.namespace.unwrap_or_else(|| "/".into()),
            rooms: rooms.collect(),
            except: self.except,
        }
    }
}

pub(super) async fn join(
    With(state): With<State>,
    NamedRoom(room): NamedRoom,
    Known(who): Known<Who>,
) -> Result<Json<Value>, Problem> {
    let which = who.sockets();
    if which.rooms.is_empty() {
        let detail = "users, sockets or rooms say who is to join";
        return Err(Problem::new(StatusCode::BAD_REQUEST, detail));
    }
    let moved = state.gateway.join_sockets(&which, &room).await?;
    let answer = json!({ "joined": moved.sockets });
    Ok(Json(with_missing(answer, moved.missing)))
}

pub(super) async fn leave(
    With(state): With<State>,
    NamedRoom(room): NamedRoom,
    Known(who): Known<Who>,
) -> Result<Json<Value>, Problem> {
    let mut which = who.sockets();
    if which.rooms.is_empty() {
        which.rooms.push(room.clone());
    }
    let moved = state.gateway.leave_sockets(&which, &room).await?;
    let answer = json!({ "left": moved.sockets });
    Ok(Json(with_missing(answer, moved.missing)))
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
    #[serde(default)]
    except: Vec<String>,
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
    NamedRoom(room): NamedRoom,
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
        except: out.except,
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
        except: out.except,
    };
    Ok(answer(state.gateway.broadcast(broadcast).await?))
}

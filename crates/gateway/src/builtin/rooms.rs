//! `join`, `leave`, their short forms, and `publish`.

use serde::{Deserialize, Serialize};

use crate::rooms::{self, RoomError};
use crate::{Code, Event, EventError, FromEvent, Json, PublishRequest, Socket};

/// `{ room }`, or the room's name alone.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub(super) enum RoomArgument {
    Object { room: String },
    Name(String),
}

#[derive(Debug, Serialize)]
pub(super) struct RoomReply {
    ok: bool,
    room: String,
}

#[derive(Serialize)]
struct RoomEvent<'a> {
    room: &'a str,
}

/// The room an event is about; what names none is `INVALID_ROOM`.
pub(super) struct Wanted(String);

impl FromEvent for Wanted {
    fn from_event(event: &Event<'_>) -> Result<Self, EventError> {
        match serde_json::from_str(&heartline_wire::json::whole(event.first())) {
            Ok(RoomArgument::Object { room } | RoomArgument::Name(room)) => Ok(Wanted(room)),
            Err(_) => Err(EventError::new(
                Code::InvalidRoom,
                "room is missing: give { room }, or the room's name alone",
            )),
        }
    }
}

/// The room of `join:KIND` with an id: the id itself, or the only or the
/// best-named member of an object; without one, the kind alone.
pub(super) struct KindRoom(String);

impl FromEvent for KindRoom {
    fn from_event(event: &Event<'_>) -> Result<Self, EventError> {
        let kind = event.name().split_once(':').map_or("", |(_, kind)| kind);
        let value: serde_json::Value =
            serde_json::from_str(&heartline_wire::json::whole(event.first())).unwrap_or_default();
        let text = |value: &serde_json::Value| match value {
            serde_json::Value::String(text) if !text.is_empty() => Some(text.clone()),
            serde_json::Value::Number(number) => Some(number.to_string()),
            _ => None,
        };
        let id = match &value {
            serde_json::Value::Object(members) => {
                let own = format!("{kind}Id");
                [own.as_str(), "id"]
                    .into_iter()
                    .find_map(|name| members.get(name).and_then(text))
                    .or_else(|| {
                        members
                            .values()
                            .find_map(text)
                            .filter(|_| members.len() == 1)
                    })
            }
            value => text(value),
        };
        let unusable = id.is_none()
            && !(value.is_null() || value.as_object().is_some_and(serde_json::Map::is_empty));
        if kind.is_empty() || unusable {
            return Err(RoomError::Invalid.into());
        }
        Ok(KindRoom(match id {
            Some(id) => format!("{kind}:{id}"),
            None => kind.to_owned(),
        }))
    }
}

pub(super) async fn join(
    socket: Socket,
    Wanted(room): Wanted,
) -> Result<Json<RoomReply>, EventError> {
    enter(socket, room).await
}

pub(super) async fn join_kind(
    socket: Socket,
    KindRoom(room): KindRoom,
) -> Result<Json<RoomReply>, EventError> {
    enter(socket, room).await
}

async fn enter(socket: Socket, room: String) -> Result<Json<RoomReply>, EventError> {
    socket.ask_to_join(&room).await?;
    socket.answer("room:joined", &RoomEvent { room: &room })?;
    Ok(Json(RoomReply { ok: true, room }))
}

pub(super) async fn leave(
    socket: Socket,
    Wanted(room): Wanted,
) -> Result<Json<RoomReply>, EventError> {
    exit(socket, room).await
}

pub(super) async fn leave_kind(
    socket: Socket,
    KindRoom(room): KindRoom,
) -> Result<Json<RoomReply>, EventError> {
    exit(socket, room).await
}

async fn exit(socket: Socket, room: String) -> Result<Json<RoomReply>, EventError> {
    if !rooms::is_valid_name(&room) {
        return Err(RoomError::Invalid.into());
    }
    if room.starts_with(rooms::PRIVATE) {
        return Err(EventError::new(
            Code::Forbidden,
            "A user's own room cannot be left",
        ));
    }
    socket.leave(&room).await?;
    socket.answer("room:left", &RoomEvent { room: &room })?;
    Ok(Json(RoomReply { ok: true, room }))
}

#[derive(Debug, Serialize)]
pub(super) struct PublishReply {
    ok: bool,
    room: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    offset: Option<u64>,
}

/// Gives an event to a room.
pub(super) async fn publish(
    socket: Socket,
    request: PublishRequest,
) -> Result<Json<PublishReply>, EventError> {
    let room = request.room.clone();
    let offset = socket.ask_to_publish(request).await?;
    Ok(Json(PublishReply {
        ok: true,
        room,
        offset,
    }))
}

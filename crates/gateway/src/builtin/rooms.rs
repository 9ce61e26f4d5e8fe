//! `join`, `leave`, their short forms, and `publish`.

use serde::{Deserialize, Serialize};

use crate::entries::MemberEntry;
use crate::rooms::{self, RoomError};
use crate::{Code, Event, EventError, FromEvent, Gateway, Json, PublishRequest, Socket};

#[derive(Debug, Serialize)]
pub(super) struct RoomReply {
    ok: bool,
    room: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    members: Option<Vec<MemberEntry>>,
}

impl RoomReply {
    fn of(room: String) -> Json<RoomReply> {
        Json(RoomReply {
            ok: true,
            room,
            members: None,
        })
    }
}

#[derive(Serialize)]
struct RoomEvent<'a> {
    room: &'a str,
}

/// The room an event is about, `{ room }` or its name alone, and whether its members are asked for with `members: true`;
/// what names none is `INVALID_ROOM`, and what names one and does not fit otherwise `INVALID_DATA`.
pub(super) struct Wanted {
    room: String,
    members: bool,
}

impl FromEvent for Wanted {
    fn from_event(event: &Event<'_>) -> Result<Self, EventError> {
        #[derive(Deserialize)]
        struct Object {
            room: String,
            members: Option<bool>,
        }
        if let Ok(Json(room)) = Json::<String>::from_event(event) {
            return Ok(Wanted {
                room,
                members: false,
            });
        }
        match Json::<Object>::from_event(event) {
            Ok(Json(Object { room, members })) => Ok(Wanted {
                room,
                members: members == Some(true),
            }),
            Err(_) => Err(misfit(event)),
        }
    }
}

/// The room that somebody leaves, `{ room }` or its name alone. Nothing else of an object is looked at.
pub(super) struct Named(String);

impl FromEvent for Named {
    fn from_event(event: &Event<'_>) -> Result<Self, EventError> {
        #[derive(Deserialize)]
        struct Object {
            room: String,
        }
        if let Ok(Json(room)) = Json::<String>::from_event(event) {
            return Ok(Named(room));
        }
        match Json::<Object>::from_event(event) {
            Ok(Json(Object { room })) => Ok(Named(room)),
            Err(_) => Err(misfit(event)),
        }
    }
}

/// Most bytes of data of which all is looked at: a room's name has 256, and 1 536 where each of them
/// is escaped.
const MAX_DATA: usize = 4_096;

/// Data that is not looked at for its size.
fn too_long() -> EventError {
    let sentence = format!("What names a room has at most {MAX_DATA} bytes");
    EventError::new(Code::InvalidRoom, sentence)
}

/// What `members` must be.
const MEMBERS: &str = "members must be true or false";

/// What is wrong with data that names no room, or one and more.
fn misfit(event: &Event<'_>) -> EventError {
    let no_room = |sentence| EventError::new(Code::InvalidRoom, sentence);
    let misfit = |sentence| EventError::new(Code::InvalidData, sentence);
    if event.first().len() > MAX_DATA {
        return too_long();
    }
    match serde_json::from_str(event.first()) {
        Ok(serde_json::Value::Object(members)) => match members.get("room") {
            Some(serde_json::Value::String(_)) if !is_wish(members.get("members")) => {
                misfit(MEMBERS)
            }
            // Of several members of one name this is the last.
            Some(serde_json::Value::String(_)) => misfit("the data has a member twice"),
            Some(_) => no_room("room must be text: give { room }, or the room's name alone"),
            None => no_room("room is missing: give { room }, or the room's name alone"),
        },
        Ok(serde_json::Value::Null) | Err(_) => {
            no_room("room is missing: give { room }, or the room's name alone")
        }
        Ok(_) => no_room("a room's name must be text: give { room }, or the room's name alone"),
    }
}

/// Whether `members` says that they are wanted, or that they are not.
fn is_wish(members: Option<&serde_json::Value>) -> bool {
    members.is_none_or(|wish| wish.is_boolean() || wish.is_null())
}

/// The room of `join:KIND` with an id: the id itself, or the only or the
/// best-named member of an object; without one, the kind alone. A member that is `null` is none, and
/// `members`, `true` or `false`, is a question; anything else called so is the app's own.
pub(super) struct KindRoom(Wanted);

impl FromEvent for KindRoom {
    fn from_event(event: &Event<'_>) -> Result<Self, EventError> {
        let kind = event.name().split_once(':').map_or("", |(_, kind)| kind);
        if kind.len().max(event.first().len()) > MAX_DATA {
            return Err(too_long());
        }
        let mut value: serde_json::Value =
            serde_json::from_str(&heartline_wire::json::whole(event.first())).unwrap_or_default();
        let wants_members = value.get("members").is_some_and(|wanted| *wanted == true);
        if let Some(object) = value.as_object_mut() {
            let is_question =
                |name: &str, value: &serde_json::Value| name == "members" && value.is_boolean();
            object.retain(|name, value| !value.is_null() && !is_question(name, value));
        }
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
        if unusable {
            let sentence = format!(
                "An id must be text that is not empty, or a number: give it alone, or as {{ {kind}Id }}"
            );
            return Err(EventError::new(Code::InvalidRoom, sentence));
        }
        if kind.is_empty() {
            return Err(RoomError::Invalid.into());
        }
        Ok(KindRoom(Wanted {
            room: match id {
                Some(id) => format!("{kind}:{id}"),
                None => kind.to_owned(),
            },
            members: wants_members,
        }))
    }
}

pub(super) async fn join(
    socket: Socket,
    gateway: Gateway,
    wanted: Wanted,
) -> Result<Json<RoomReply>, EventError> {
    enter(socket, gateway, wanted).await
}

pub(super) async fn join_kind(
    socket: Socket,
    gateway: Gateway,
    KindRoom(wanted): KindRoom,
) -> Result<Json<RoomReply>, EventError> {
    enter(socket, gateway, wanted).await
}

async fn enter(
    socket: Socket,
    gateway: Gateway,
    Wanted { room, members }: Wanted,
) -> Result<Json<RoomReply>, EventError> {
    socket.ask_to_join(&room).await?;
    socket.answer("room:joined", &RoomEvent { room: &room })?;
    let mut reply = RoomReply::of(room);
    if members {
        reply.0.members = Some(gateway.members_for(&socket, &reply.0.room).await);
    }
    Ok(reply)
}

pub(super) async fn leave(
    socket: Socket,
    Named(room): Named,
) -> Result<Json<RoomReply>, EventError> {
    exit(socket, room).await
}

pub(super) async fn leave_kind(
    socket: Socket,
    KindRoom(wanted): KindRoom,
) -> Result<Json<RoomReply>, EventError> {
    exit(socket, wanted.room).await
}

async fn exit(socket: Socket, room: String) -> Result<Json<RoomReply>, EventError> {
    if !rooms::is_valid_name(&room) {
        return Err(RoomError::Invalid.into());
    }
    if room.starts_with(rooms::PRIVATE) {
        return Err(EventError::new(Code::Forbidden, rooms::STAYS));
    }
    socket.leave(&room).await?;
    socket.answer("room:left", &RoomEvent { room: &room })?;
    Ok(RoomReply::of(room))
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

//! `join`, `leave`, their short forms, and `publish`.

use std::collections::BTreeMap;

use heartline_wire::json;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::given::Given;
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
    let data = json::whole(event.first());
    if let Ok(members) = serde_json::from_str::<Members<'_>>(&data) {
        let is_text = |room: &&RawValue| room.get().starts_with('"');
        return match members.get("room") {
            Some(room) if is_text(room) && !is_wish(members.get("members")) => misfit(MEMBERS),
            // Of several members of one name this is the last.
            Some(room) if is_text(room) => misfit("the data has a member twice"),
            Some(_) => no_room("room must be text: give { room }, or the room's name alone"),
            None => no_room("room is missing: give { room }, or the room's name alone"),
        };
    }
    match serde_json::from_str::<&RawValue>(&data).map(RawValue::get) {
        Ok("null") | Err(_) => no_room("room is missing: give { room }, or the room's name alone"),
        Ok(_) => no_room("a room's name must be text: give { room }, or the room's name alone"),
    }
}

/// The members of an object, each as it was written.
type Members<'a> = BTreeMap<String, &'a RawValue>;

/// Whether `members` says that they are wanted, or that they are not.
fn is_wish(members: Option<&&RawValue>) -> bool {
    members.is_none_or(|wish| is_bool(wish) || wish.get() == "null")
}

fn is_bool(value: &RawValue) -> bool {
    matches!(value.get(), "true" | "false")
}

/// An id's text; `None`: it is none.
fn id_of(value: &RawValue) -> Option<String> {
    match Given::of(value.get()) {
        Given::Text(id) | Given::Number(id) if !id.is_empty() => Some(id),
        _ => None,
    }
}

/// The id among the members of an object: the best-named, or the only one.
fn id_among(members: &Members<'_>, kind: &str) -> Option<String> {
    let own = format!("{kind}Id");
    let named = [own.as_str(), "id"].into_iter();
    named
        .filter_map(|name| members.get(name))
        .find_map(|value| id_of(value))
        .or_else(|| {
            let only = members.values().next().filter(|_| members.len() == 1);
            id_of(only?)
        })
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
        let unusable = || {
            let sentence = format!(
                "An id must be text that is not empty, or a number: give it alone, or as {{ {kind}Id }}"
            );
            EventError::new(Code::InvalidRoom, sentence)
        };
        let data = json::whole(event.first());
        let value: &RawValue = serde_json::from_str(&data).map_err(|_| unusable())?;
        let mut wants_members = false;
        let id = match value.get() {
            "null" => None,
            object if object.starts_with('{') => {
                let mut members: Members<'_> =
                    serde_json::from_str(object).map_err(|_| unusable())?;
                let wish = members.get("members");
                wants_members = wish.is_some_and(|wish| wish.get() == "true");
                let is_question =
                    |name: &str, value: &RawValue| name == "members" && is_bool(value);
                members.retain(|name, value| value.get() != "null" && !is_question(name, value));
                match members.is_empty() {
                    true => None,
                    false => Some(id_among(&members, kind).ok_or_else(unusable)?),
                }
            }
            _ => Some(id_of(value).ok_or_else(unusable)?),
        };
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

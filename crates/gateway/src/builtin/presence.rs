//! `presence:get`, `presence:watch`, `presence:unwatch` and `metrics:request`.

use serde::{Deserialize, Serialize};

use super::given::Few;
use crate::entries::UserPresence;
use crate::{Code, EventError, Gateway, Json, Picture, Socket};

/// Most users one question may be about.
const MAX_USERS: usize = 100;
/// Events as which a room counts that is watched: all nodes are asked who is in it.
const ROOM_EVENTS: usize = 10;
/// Members in the picture of a room that count as an event more.
const MEMBERS_AN_EVENT: usize = 10;

#[derive(Debug, Deserialize)]
pub(super) struct Question {
    users: Few<MAX_USERS>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Answer {
    users: Vec<UserPresence>,
    as_of: u64,
}

fn too_many() -> EventError {
    EventError::new(Code::InvalidData, "Ask about at most 100 users at once")
}

/// What a watch is of, as a client names it.
enum Named<'a> {
    Room(&'a str),
    Users(&'a [String]),
}

/// The one thing that is named; `None`: nothing is.
///
/// # Errors
/// `INVALID_DATA`: both are, or too many users.
fn named<'a>(
    room: Option<&'a str>,
    users: Option<&'a Few<MAX_USERS>>,
) -> Result<Option<Named<'a>>, EventError> {
    match (room, users.map(|Few(users)| &users[..])) {
        (None, None) => Ok(None),
        (Some(room), None) => Ok(Some(Named::Room(room))),
        (None, Some(users)) if users.len() > MAX_USERS => Err(too_many()),
        (None, Some(users)) => Ok(Some(Named::Users(users))),
        (Some(_), Some(_)) => Err(EventError::new(
            Code::InvalidData,
            "Name a room or users, not both",
        )),
    }
}

/// Presence of users of the asking socket's own tenant. Each of them counts as an event.
pub(super) async fn presence_get(
    socket: Socket,
    gateway: Gateway,
    Json(question): Json<Question>,
) -> Result<Json<Answer>, EventError> {
    let Few(users) = question.users;
    if users.len() > MAX_USERS {
        return Err(too_many());
    }
    socket.charge(users.len().saturating_sub(1));
    let tenant = socket.identity().tenant_id().map(|tenant| &**tenant);
    let (users, as_of) = gateway.presence_as_of(tenant, &users).await;
    Ok(Json(Answer { users, as_of }))
}

/// A place in a history.
#[derive(Debug, Deserialize)]
struct After {
    epoch: String,
    rev: u64,
}

/// `{ room }` or `{ users }`, and where to go on.
#[derive(Debug, Deserialize)]
pub(super) struct Watch {
    room: Option<String>,
    users: Option<Few<MAX_USERS>>,
    after: Option<After>,
}

/// Watches a room or users: a picture, and its changes from there on. Each of the users counts as
/// an event, a room as [ten](ROOM_EVENTS) and ten in its picture as one more.
pub(super) async fn presence_watch(
    socket: Socket,
    gateway: Gateway,
    Json(watch): Json<Watch>,
) -> Result<Json<Picture>, EventError> {
    let after = watch.after.as_ref();
    let after = after.map(|after| (&*after.epoch, after.rev));
    let picture = match named(watch.room.as_deref(), watch.users.as_ref())? {
        Some(Named::Room(room)) => {
            // Before it is answered: what is refused costs as much.
            socket.charge(ROOM_EVENTS - 1);
            let picture = gateway.watch_room(&socket, room, after).await;
            let members = picture.as_ref().map_or(0, |picture| picture.users.len());
            socket.charge(members / MEMBERS_AN_EVENT);
            picture
        }
        Some(Named::Users(users)) => {
            socket.charge(users.len().saturating_sub(1));
            gateway.watch_users(&socket, users, after).await
        }
        None => Err(EventError::new(
            Code::InvalidData,
            "Say what to watch: { room } or { users }",
        )),
    };
    Ok(Json(picture?))
}

/// Which watch is to end: of a room, of users, of an epoch; all, if none is named.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Unwatch {
    room: Option<String>,
    users: Option<Few<MAX_USERS>>,
    epoch: Option<String>,
}

#[derive(Debug, Serialize)]
pub(super) struct Unwatched {
    ok: bool,
    /// How many there were.
    ended: usize,
}

pub(super) async fn presence_unwatch(
    socket: Socket,
    gateway: Gateway,
    Json(unwatch): Json<Option<Unwatch>>,
) -> Result<Json<Unwatched>, EventError> {
    let unwatch = unwatch.unwrap_or_default();
    let named = named(unwatch.room.as_deref(), unwatch.users.as_ref())?;
    let ended = match (named, unwatch.epoch.as_deref()) {
        (None, epoch) => gateway.unwatch(&socket, epoch),
        (Some(Named::Room(room)), None) => gateway.unwatch_room(&socket, room).into(),
        (Some(Named::Users(users)), None) => gateway.unwatch_users(&socket, users).into(),
        (Some(_), Some(_)) => {
            let sentence = "Name a room, users or an epoch, one of them";
            return Err(EventError::new(Code::InvalidData, sentence));
        }
    };
    Ok(Json(Unwatched { ok: true, ended }))
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct MetricsResponse {
    connected_users: usize,
    connections: u64,
    heartbeats: u64,
    rate_limit_entries: usize,
    /// Seconds.
    uptime: u64,
}

/// A node's numbers, for sockets whose token says `admin: true`.
pub(super) async fn metrics_request(
    socket: Socket,
    gateway: Gateway,
) -> Result<Json<serde_json::Value>, EventError> {
    if !socket.identity().admin {
        let sentence = "Only an admin's token may ask for metrics";
        return Err(EventError::new(Code::Forbidden, sentence));
    }
    let counts = gateway.counts();
    let response = MetricsResponse {
        connected_users: counts.users_online,
        connections: counts.sockets,
        heartbeats: counts.heartbeats,
        rate_limit_entries: counts.rate_limit_entries,
        uptime: counts.uptime.as_secs(),
    };
    socket.answer("metrics:response", &response)?;
    let value = serde_json::to_value(response)
        .map_err(|error| EventError::new(Code::Internal, error.to_string()))?;
    Ok(Json(value))
}

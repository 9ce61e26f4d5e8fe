//! `invite:join`: into a conversation by a code.

use serde::{Deserialize, Serialize};

use crate::{Code, Event, EventError, FromEvent, Gateway, Json, Socket};

/// `{ code }`, or the code alone. What has none in it is no invite, which is said to those alone
/// who may come by one.
#[derive(Debug)]
pub(super) struct Pasted(String);

impl FromEvent for Pasted {
    fn from_event(event: &Event<'_>) -> Result<Self, EventError> {
        #[derive(Deserialize)]
        struct Object {
            code: String,
        }
        if let Ok(Json(code)) = Json::<String>::from_event(event) {
            return Ok(Pasted(code));
        }
        let object = Json::<Object>::from_event(event);
        Ok(Pasted(object.map_or_else(
            |_| String::new(),
            |Json(object)| object.code,
        )))
    }
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Joined {
    ok: bool,
    conversation_id: String,
    room: String,
}

/// The user is a member then, and may join the room.
pub(super) async fn join(
    socket: Socket,
    gateway: Gateway,
    Pasted(code): Pasted,
) -> Result<Json<Joined>, EventError> {
    let user = socket.identity().user.as_ref().ok_or(Code::AuthRequired)?;
    let address = Some(socket.remote_addr());
    let welcome = gateway.join_by_invite(&code, user, address).await?;
    Ok(Json(Joined {
        ok: true,
        conversation_id: welcome.conversation_id,
        room: welcome.room,
    }))
}

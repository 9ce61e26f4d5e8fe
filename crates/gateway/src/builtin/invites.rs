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
        #[serde(untagged)]
        enum Raw {
            Object { code: String },
            Code(String),
        }
        Ok(Pasted(
            match serde_json::from_str(&heartline_wire::json::whole(event.first())) {
                Ok(Raw::Object { code } | Raw::Code(code)) => code,
                Err(_) => String::new(),
            },
        ))
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

//! `invite:join`: into a conversation by a code.

use serde::{Deserialize, Serialize};

use crate::{Code, EventError, Gateway, Json, Socket};

/// `{ code }`, or the code alone.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub(super) enum Pasted {
    Object { code: String },
    Code(String),
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
    Json(pasted): Json<Pasted>,
) -> Result<Json<Joined>, EventError> {
    let (Pasted::Object { code } | Pasted::Code(code)) = pasted;
    let user = socket.identity().user.as_ref().ok_or(Code::AuthRequired)?;
    let address = Some(socket.remote_addr());
    let welcome = gateway.join_by_invite(&code, user, address).await?;
    Ok(Json(Joined {
        ok: true,
        conversation_id: welcome.conversation_id,
        room: welcome.room,
    }))
}

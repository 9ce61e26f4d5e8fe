//! `auth:refresh`: a new token for a socket that stays.

use serde::{Deserialize, Serialize};

use crate::{EventError, Json, Socket};

#[derive(Debug, Deserialize)]
pub(super) struct Refresh {
    token: String,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Refreshed {
    ok: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_at: Option<u64>,
}

/// It must be the same user: a socket never changes hands.
pub(super) async fn refresh(
    socket: Socket,
    Json(request): Json<Refresh>,
) -> Result<Json<Refreshed>, EventError> {
    let expires_at = socket.refresh(request.token).await?;
    Ok(Json(Refreshed {
        ok: true,
        expires_at,
    }))
}

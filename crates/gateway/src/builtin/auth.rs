//! `auth:refresh`: a new token for a socket that stays.

use std::sync::Arc;

use heartline_core::auth::Credentials;
use serde::{Deserialize, Serialize};

use crate::event::EventError;
use crate::handler::Json;
use crate::op::Op;
use crate::socket::Socket;

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
    let credentials = Credentials {
        token: Some(request.token),
        payload: None,
        namespace: socket.namespace().to_owned(),
        remote_addr: socket.remote_addr(),
    };
    let shared = &socket.shared;
    let identity = shared
        .authenticator
        .authenticate(credentials)
        .await
        .map_err(|error| EventError::new(error.code(), error.message()))?;
    let mut identity = shared.tenants.intern_identity(identity);
    if identity.user != socket.identity.user || identity.user.is_none() {
        return Err(EventError::new(
            "FORBIDDEN",
            "The token must be for the user that is connected",
        ));
    }
    // The registry knows this socket by its user and device; they stay.
    identity.user = socket.identity.user.clone();
    identity.device_id = socket.identity.device_id.clone();
    let expires_at = identity.expires_at;
    socket.post_in_order(Op::Refresh {
        to: socket.address(),
        identity: Arc::new(identity),
    });
    Ok(Json(Refreshed {
        ok: true,
        expires_at,
    }))
}

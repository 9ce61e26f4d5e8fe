//! `read` and `inbox:get`: how far somebody has read, and what is new to them.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::given::Id;
use super::history::{MAX_BYTES, refused};
use crate::auth::{Identity, UserKey};
use crate::store::conversations::{INBOX, Inbox, InboxEntry, InboxPlace, InboxQuery, MAX_INBOX};
use crate::{Code, EventError, Gateway, Json, Socket, rooms};

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Read {
    conversation_id: Id,
    offset: u64,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Marked {
    ok: bool,
    conversation_id: String,
    offset: u64,
}

fn user(identity: &Identity) -> Result<&Arc<UserKey>, EventError> {
    identity.user.as_ref().ok_or(Code::AuthRequired.into())
}

/// Moves the marker of a member forward; it is kept when that is answered. To look at a conversation
/// makes nobody a member, and who is none has no marker.
pub(super) async fn read(
    socket: Socket,
    Json(read): Json<Read>,
) -> Result<Json<Marked>, EventError> {
    let conversation_id = String::from(read.conversation_id);
    user(socket.identity())?;
    // A marker goes no further than what is stored.
    socket.behind_own().await;
    socket
        .may_join(&rooms::of_conversation(&conversation_id))
        .await?;
    let marked = socket.mark_read(&conversation_id, read.offset).await;
    match marked.map_err(|error| refused(&error))? {
        Some(offset) => Ok(Json(Marked {
            ok: true,
            conversation_id,
            offset,
        })),
        None => Err(EventError::new(
            Code::Forbidden,
            "You are no member of this conversation",
        )),
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Wanted {
    cursor: Option<String>,
    limit: Option<usize>,
}

#[derive(Debug, Serialize)]
pub(super) struct Told {
    ok: bool,
    #[serde(flatten)]
    inbox: Inbox,
}

/// A part of the user's conversations, the newest first: those that are open to the token.
pub(super) async fn inbox_get(
    socket: Socket,
    gateway: Gateway,
    Json(wanted): Json<Option<Wanted>>,
) -> Result<Json<Told>, EventError> {
    let misfit = |what: &'static str| EventError::new(Code::InvalidData, what);
    let wanted = wanted.unwrap_or_default();
    let limit = wanted.limit.unwrap_or(INBOX);
    if !(1..=MAX_INBOX).contains(&limit) {
        return Err(misfit("limit must be between 1 and 100"));
    }
    let after = wanted.cursor.map(|cursor| InboxPlace::parse(&cursor));
    let after = after.map(|place| place.ok_or_else(|| misfit("cursor is none")));
    let query = InboxQuery {
        user: user(socket.identity())?.clone(),
        after: after.transpose()?,
        limit,
        bytes: MAX_BYTES.min(gateway.config().send_buffer / 2),
    };
    // What the client has said itself is a part of it.
    socket.behind_own().await;
    let inbox = gateway.store().inbox(query).await;
    let mut inbox = inbox.map_err(|error| refused(&error))?;
    let access = gateway.config().room_access();
    let is_open = |entry: &InboxEntry| {
        let room = rooms::of_conversation(&entry.conversation_id);
        let grant = rooms::may_join(&room, socket.identity(), access);
        grant.is_ok_and(|grant| grant.for_member(Some(entry.membership)).is_ok())
    };
    inbox.conversations.retain(is_open);
    Ok(Json(Told { ok: true, inbox }))
}

//! `history:get`: what was said in a conversation, a part at a time.

use serde::{Deserialize, Serialize};

use super::given::Id;
use super::messages::RETRY_AFTER_MS;
use crate::store::{Channel, History, HistoryQuery, MAX_PART, PART, Start, StoreError};
use crate::{Code, Event, EventError, FromEvent, Gateway, Json, Socket, rooms};

/// Most bytes of a part's messages: what is asked for does not make its reader slow.
pub(super) const MAX_BYTES: usize = 256 << 10;

/// A conversation, and what of it.
pub(super) struct Wanted {
    conversation: String,
    from: Start,
    limit: usize,
}

impl FromEvent for Wanted {
    fn from_event(event: &Event<'_>) -> Result<Self, EventError> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Raw {
            conversation_id: Id,
            after: Option<u64>,
            before: Option<u64>,
            limit: Option<usize>,
        }
        let misfit = |what: &'static str| EventError::new(Code::InvalidData, what);
        let Json(raw) = Json::<Raw>::from_event(event)?;
        let from = Start::of(raw.after, raw.before)
            .ok_or_else(|| misfit("Ask with after or with before, not both"))?;
        let limit = raw.limit.unwrap_or(PART);
        if !(1..=MAX_PART).contains(&limit) {
            return Err(misfit("limit must be between 1 and 200"));
        }
        Ok(Wanted {
            conversation: raw.conversation_id.into(),
            from,
            limit,
        })
    }
}

#[derive(Debug, Serialize)]
pub(super) struct Told {
    ok: bool,
    #[serde(flatten)]
    history: History,
}

/// Reads a part of a conversation that the socket may join.
pub(super) async fn history_get(
    socket: Socket,
    gateway: Gateway,
    wanted: Wanted,
) -> Result<Json<Told>, EventError> {
    let room = rooms::of_conversation(&wanted.conversation);
    // What the client has said itself is a part of it.
    socket.behind_own().await;
    socket.may_join(&room).await?;
    let query = HistoryQuery {
        tenant: socket.identity().tenant_id().cloned(),
        channel: Channel::Conversation(wanted.conversation),
        from: wanted.from,
        limit: wanted.limit,
        // Half of what may wait for a reader: the answer alone does not close anybody.
        bytes: MAX_BYTES.min(gateway.config().send_buffer / 2),
    };
    let history = gateway.store().history(query).await;
    let history = history.map_err(|error| refused(&error))?;
    Ok(Json(Told { ok: true, history }))
}

/// What a client is told when the store could not do something.
pub(super) fn refused(error: &StoreError) -> EventError {
    match error {
        StoreError::Overloaded => Code::Overloaded.into(),
        StoreError::Failed(reason) => {
            tracing::error!(reason, "the store could not do what a client asked for");
            let what = "The store cannot do that now; try again";
            EventError::new(Code::Internal, what).retry_after(RETRY_AFTER_MS)
        }
    }
}

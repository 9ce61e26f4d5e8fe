//! `history:get`: what was said in a conversation, a part at a time.

use serde::{Deserialize, Serialize};

use crate::store::{Channel, History, HistoryQuery, MAX_PART, PART, Start, StoreError};
use crate::{Code, Event, EventError, FromEvent, Gateway, Json, Socket, rooms};

/// Most bytes of a part's messages: a history that is asked for does not make its reader slow.
const MAX_BYTES: usize = 256 << 10;

/// A conversation, and what of it.
pub(super) struct Wanted {
    conversation: String,
    from: Start,
    limit: usize,
}

impl FromEvent for Wanted {
    fn from_event(event: &Event<'_>) -> Result<Self, EventError> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Id {
            Text(String),
            Number(serde_json::Number),
        }
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
            conversation: match raw.conversation_id {
                Id::Text(id) => id,
                Id::Number(id) => id.to_string(),
            },
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
    socket.may_join(&room).await?;
    let query = HistoryQuery {
        tenant: socket.identity().tenant_id().cloned(),
        channel: Channel::Conversation(wanted.conversation),
        from: wanted.from,
        limit: wanted.limit,
        // Half of what may wait for a reader: the answer alone does not close anybody.
        bytes: MAX_BYTES.min(gateway.config().send_buffer / 2),
    };
    match gateway.store().history(query).await {
        Ok(history) => Ok(Json(Told { ok: true, history })),
        Err(StoreError::Overloaded) => Err(Code::Overloaded.into()),
        Err(StoreError::Failed(reason)) => {
            tracing::error!(reason, "a history could not be read");
            let what = "The history could not be read; try again";
            Err(EventError::new(Code::Internal, what))
        }
    }
}

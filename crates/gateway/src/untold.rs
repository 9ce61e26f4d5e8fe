//! Messages that were stored, and of which a process that ended has told nobody.

use std::sync::Arc;

use heartline_core::auth::UserKey;
use heartline_core::message::Message;
use heartline_core::rooms::{self, RoomKey};
use heartline_core::store::{Channel, HistoryQuery, MAX_PART, Start, StoredMessage};
use heartline_wire::json;

use crate::event::to_json;
use crate::fanout::ToRoom;
use crate::shared::Shared;

/// Bytes of one part of a history, as JSON.
const PART_BYTES: usize = 1 << 20;

/// Tells the rooms that an earlier process has left of what is in the store after the last that
/// was told there. It is done once, before or while the first clients come back: to them these
/// are messages like any other.
pub(crate) async fn tell(shared: Arc<Shared>) {
    let Some(recovery) = &shared.fanout.recovery else {
        return;
    };
    for (room, told) in recovery.take_told() {
        tell_room(&shared, &room, told).await;
    }
}

/// Tells members who are not in the room, as when the message is stored.
async fn notify(
    shared: &Shared,
    room: &RoomKey,
    conversation_id: &str,
    (message, json): (&StoredMessage, &str),
) {
    let speaker = UserKey {
        tenant_id: room.tenant.clone(),
        user_id: message.sender_id.as_str().into(),
        user_type: message.sender_type.as_deref().map(Into::into),
    };
    let data = format!(
        r#"{{"conversationId":{},"message":{json}}}"#,
        json::quote(conversation_id)
    );
    let notification = Message::new("message:notification", &data);
    let told = shared.notify(room.namespace, conversation_id, &speaker, notification);
    if let Err(error) = told.await {
        tracing::error!(%error, "a conversation's members could not be told");
    }
}

async fn tell_room(shared: &Arc<Shared>, room: &RoomKey, mut told: u64) {
    let channel = match rooms::conversation_of(&room.name) {
        Some(id) => Channel::Conversation(id.into()),
        None => Channel::Room(room.name.to_string()),
    };
    loop {
        let part = shared.store.history(HistoryQuery {
            tenant: room.tenant.clone(),
            channel: channel.clone(),
            from: Start::After(told),
            limit: MAX_PART,
            bytes: PART_BYTES,
        });
        let messages = match part.await {
            Ok(history) => history.messages,
            Err(error) => {
                tracing::error!(%error, "messages that nobody was told of could not be read");
                return;
            }
        };
        let Some(last) = messages.last() else {
            return;
        };
        told = last.offset;
        for message in &messages {
            let Ok(json) = to_json(message) else {
                continue;
            };
            let to = ToRoom {
                namespace: room.namespace,
                tenant: room.tenant.as_deref(),
                room: &room.name,
                key: None,
                skip: None,
            };
            let new = Message::new("message:new", &json);
            shared.fanout.publish_to_room(&to, new);
            if let Channel::Conversation(id) = &channel {
                notify(shared, room, id, (message, &json)).await;
            }
        }
    }
}

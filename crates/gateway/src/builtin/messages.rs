//! `message:send` and `chat:send`: stored first, then told.

use std::sync::Arc;

use heartline_core::auth::UserKey;
use heartline_core::message::Message;
use heartline_core::rooms;
use heartline_core::store::{Channel, NewMessage, StoredMessage};
use heartline_wire::reason::Reason;
use serde::{Deserialize, Serialize};

use crate::event::{EventError, to_json};
use crate::fanout::ToUser;
use crate::handler::{Event, FromEvent, Json};
use crate::limits::{OverLimit, Sender};
use crate::op::Op;
use crate::socket::Socket;

/// Longest content of `chat:send`, characters.
const MAX_CHAT: usize = 500;
/// Longest content of `message:send`, characters.
const MAX_MESSAGE: usize = 10_000;
/// Longest `tempId`, bytes.
const MAX_TEMP_ID: usize = 128;
/// Where `chat:send` goes when it names no room.
const OPEN_ROOM: &str = "chat";

/// What came, taken apart as far as it goes: a refusal must name the `tempId`
/// even if nothing else fits.
#[derive(Debug, Default)]
pub(super) struct Draft {
    conversation: Option<String>,
    room: Option<String>,
    content: Option<String>,
    temp_id: Option<String>,
}

impl FromEvent for Draft {
    fn from_event(event: &Event<'_>) -> Result<Self, EventError> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Raw {
            conversation_id: Option<serde_json::Value>,
            room: Option<serde_json::Value>,
            content: Option<serde_json::Value>,
            temp_id: Option<serde_json::Value>,
        }
        let Ok(raw) = serde_json::from_str::<Raw>(event.first()) else {
            return Ok(Draft::default());
        };
        let id = |value: Option<serde_json::Value>| match value {
            Some(serde_json::Value::String(text)) if !text.is_empty() => Some(text),
            Some(serde_json::Value::Number(number)) => Some(number.to_string()),
            _ => None,
        };
        let content = match raw.content {
            Some(serde_json::Value::String(text)) => Some(text),
            _ => None,
        };
        Ok(Draft {
            conversation: id(raw.conversation_id),
            room: id(raw.room),
            content,
            temp_id: id(raw.temp_id).filter(|id| id.len() <= MAX_TEMP_ID),
        })
    }
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Sent {
    ok: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    temp_id: Option<String>,
    message: StoredMessage,
}

pub(super) async fn message_send(socket: Socket, draft: Draft) -> Result<Json<Sent>, EventError> {
    let Draft {
        conversation,
        content,
        temp_id,
        ..
    } = draft;
    let refuse = refusals(temp_id.clone());
    let user = allowed(&socket, &refuse)?;
    let content = content
        .filter(|content| !content.trim().is_empty() && content.chars().count() <= MAX_MESSAGE)
        .ok_or_else(|| refuse("INVALID_CONTENT", "A message has 1 to 10000 characters"))?;
    let conversation =
        conversation.ok_or_else(|| refuse("INVALID_ROOM", "conversationId is missing"))?;
    let room = rooms::of_conversation(&conversation);
    rooms::may_join(&room, socket.identity())
        .and_then(|()| rooms::may_publish(&room, socket.identity()))
        .map_err(|error| refuse(error.code(), error.message()))?;
    let channel = Channel::Conversation(conversation);
    send(socket, user, channel, room, content, temp_id).await
}

pub(super) async fn chat_send(socket: Socket, draft: Draft) -> Result<Json<Sent>, EventError> {
    let Draft {
        room,
        content,
        temp_id,
        ..
    } = draft;
    let refuse = refusals(temp_id.clone());
    let user = allowed(&socket, &refuse)?;
    let content = content
        .filter(|content| !content.trim().is_empty() && content.chars().count() <= MAX_CHAT)
        .ok_or_else(|| refuse("INVALID_CONTENT", "A message has 1 to 500 characters"))?;
    let room = room.unwrap_or_else(|| OPEN_ROOM.to_owned());
    if rooms::conversation_of(&room).is_some() {
        let advice = "A conversation is no open room; write in it with message:send";
        return Err(refuse("INVALID_ROOM", advice));
    }
    rooms::may_publish(&room, socket.identity())
        .map_err(|error| refuse(error.code(), error.message()))?;
    let channel = Channel::Room(room.clone());
    send(socket, user, channel, room, content, temp_id).await
}

type Refuse = Box<dyn Fn(&'static str, &'static str) -> EventError + Send + Sync>;

/// Errors of this event: announced as `message:error` and named by `tempId`.
fn refusals(temp_id: Option<String>) -> Refuse {
    Box::new(move |code, error| {
        let mut refused = EventError::new(code, error);
        refused.temp_id = temp_id.clone();
        refused.announced = true;
        refused
    })
}

/// The sender, if it may send one more message now.
fn allowed(socket: &Socket, refuse: &Refuse) -> Result<Arc<UserKey>, EventError> {
    if let Err(over) = take(socket) {
        let mut error = refuse("RATE_LIMITED", "Rate limit exceeded. Please slow down.");
        error.retry_after_ms = Some(over.retry_after_ms);
        return Err(error);
    }
    socket.identity.user.clone().ok_or_else(|| {
        refuse(
            "AUTH_REQUIRED",
            "Only authenticated users may send messages",
        )
    })
}

/// One more message of the user, or of the anonymous socket; who is over the limit by
/// far is let go.
fn take(socket: &Socket) -> Result<(), OverLimit> {
    let shared = &socket.shared;
    let namespace = shared.fanout.namespaces.get(socket.address().namespace());
    let Some(limit) = namespace.config.limits.messages else {
        return Ok(());
    };
    let sender = match &socket.identity.user {
        Some(user) => Sender::User(user.clone()),
        None => Sender::Socket(socket.address()),
    };
    let taken = shared
        .limits
        .take_message(sender, limit, shared.clock.now());
    if taken.is_err_and(|over| limit.is_far_over(over.refused)) {
        socket.post(Op::Disconnect {
            to: socket.address(),
            reason: Reason::RateLimited,
            reply: None,
        });
    }
    taken
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Notification<'a> {
    conversation_id: &'a str,
    message: &'a StoredMessage,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Confirmation<'a> {
    temp_id: Option<&'a str>,
    message: &'a StoredMessage,
}

async fn send(
    socket: Socket,
    sender: Arc<UserKey>,
    channel: Channel,
    room: String,
    content: String,
    temp_id: Option<String>,
) -> Result<Json<Sent>, EventError> {
    let shared = socket.shared.clone();
    let refuse = refusals(temp_id.clone());
    let stored = shared
        .store
        .append(NewMessage {
            sender: sender.clone(),
            channel: channel.clone(),
            content,
            temp_id: temp_id.clone(),
            created_at: shared.unix_millis(),
        })
        .await
        .map_err(|error| {
            tracing::error!(%error, "a message could not be stored");
            refuse("SEND_FAILED", "The message could not be stored; try again")
        })?;
    let message = stored.message;
    // From here on the message exists: a failure to tell somebody is not the
    // sender's error. A repetition is only answered, everybody else knows.
    if !stored.duplicate {
        let json = to_json(&message)?;
        socket.publish_message(&room, Message::new("message:new", &json), None)?;
        if let Channel::Conversation(conversation) = &channel {
            notify(&socket, &sender, conversation, &room, &message).await?;
        }
    }
    socket.emit(
        "message:sent",
        &Confirmation {
            temp_id: temp_id.as_deref(),
            message: &message,
        },
    )?;
    Ok(Json(Sent {
        ok: true,
        temp_id,
        message,
    }))
}

/// Tells a conversation's members who are not in its room. Which of their sockets may
/// hear of it is decided where each of them is, by what its token grants at that moment.
async fn notify(
    socket: &Socket,
    sender: &Arc<UserKey>,
    conversation: &str,
    room: &str,
    message: &StoredMessage,
) -> Result<(), EventError> {
    let shared = &socket.shared;
    let tenant = socket.identity.tenant_id().map(|tenant| &**tenant);
    let members = match shared.store.members(tenant, conversation).await {
        Ok(members) => members,
        Err(error) => {
            tracing::error!(%error, "a conversation's members could not be read");
            return Ok(());
        }
    };
    let notification = to_json(&Notification {
        conversation_id: conversation,
        message,
    })?;
    for member in members.iter().filter(|member| *member != sender) {
        let to = ToUser {
            namespace: socket.address().namespace(),
            tenant: member.tenant_id.as_deref(),
            user: &member.user_id,
            only: Some(member),
            topic: None,
            instead_of: Some(room),
        };
        let message = Message::new("message:notification", &notification);
        shared.fanout.send_to_user(&to, message);
    }
    Ok(())
}

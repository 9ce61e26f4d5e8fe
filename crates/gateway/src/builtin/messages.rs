//! `message:send` and `chat:send`: stored first, then told.

use std::sync::Arc;
use std::time::Duration;

use heartline_wire::json;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tokio::sync::oneshot;

use super::given::Given;
use crate::auth::UserKey;
use crate::store::{Channel, NewMessage, StoreError, Stored, StoredMessage, Tell, temp_id};
use crate::{Code, Event, EventError, FromEvent, Gateway, Json, Notice, Socket, To, rooms};

/// Longest content of `chat:send`, characters.
const MAX_CHAT: usize = 500;
/// Longest content of `message:send`, characters.
const MAX_MESSAGE: usize = 10_000;
/// Longest `tempId`, bytes.
const MAX_TEMP_ID: usize = 128;
/// How long a sender waits for the store.
const STORE_TIME: Duration = Duration::from_secs(10);
/// When a message that could not be stored may be tried again, milliseconds: a queue that was
/// full has moved on, a full disk costs little more than the question.
pub(super) const RETRY_AFTER_MS: u64 = 1_000;
/// Where `chat:send` goes when it names no room.
const OPEN_ROOM: &str = "chat";

/// What came, taken apart as far as it goes: a refusal must name the `tempId`
/// even if nothing else fits.
#[derive(Debug, Default)]
pub(super) struct Draft {
    conversation: Option<String>,
    room: Option<String>,
    content: Option<String>,
    /// As [`temp_id`] says.
    temp_id: Option<String>,
    /// A `conversationId` came that is no id.
    has_other_conversation: bool,
    /// A `room` came that is no name of one.
    has_other_room: bool,
    /// A `tempId` came by which no message can be known again.
    has_other_temp_id: bool,
}

impl FromEvent for Draft {
    fn from_event(event: &Event<'_>) -> Result<Self, EventError> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Raw {
            conversation_id: Option<Given>,
            room: Option<Given>,
            content: Option<Given>,
            temp_id: Option<Box<RawValue>>,
        }
        let Ok(Json(raw)) = Json::<Raw>::from_event(event) else {
            return Ok(Draft::default());
        };
        let (conversation, has_other_conversation) = id(raw.conversation_id);
        let (room, has_other_room) = id(raw.room);
        let (temp_id, has_other_temp_id) = match raw.temp_id.as_deref().map(RawValue::get) {
            // What a form has before anything is put there is no tempId.
            None | Some("\"\"") => (None, false),
            Some(raw) => {
                let kept = kept_temp_id(raw);
                let is_other = kept.is_none();
                (kept, is_other)
            }
        };
        let content = match raw.content {
            Some(Given::Text(text)) => Some(text),
            _ => None,
        };
        Ok(Draft {
            conversation,
            room,
            content,
            temp_id,
            has_other_conversation,
            has_other_room,
            has_other_temp_id,
        })
    }
}

/// A `tempId` as stores keep it; `None`: no message can be known again by it.
fn kept_temp_id(raw: &str) -> Option<String> {
    let text = json::unquote(raw);
    let text = text.as_deref().unwrap_or(raw);
    // Not all databases keep a NUL.
    let fits = text.len() <= MAX_TEMP_ID && !text.contains('\0');
    let kept = temp_id::of_json(raw).filter(|_| fits)?;
    Some(kept.into_owned())
}

/// An id: text that is not empty, or a number; and whether something else came in its place.
fn id(value: Option<Given>) -> (Option<String>, bool) {
    match value {
        Some(Given::Text(text)) if !text.is_empty() => (Some(text), false),
        Some(Given::Number(number)) => (Some(number), false),
        None => (None, false),
        Some(_) => (None, true),
    }
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Sent {
    ok: bool,
    #[serde(
        skip_serializing_if = "Option::is_none",
        serialize_with = "temp_id::serialize"
    )]
    temp_id: Option<String>,
    message: StoredMessage,
}

/// Errors of this event are announced as `message:error`, and named by `tempId`.
fn refuse(temp_id: &Option<String>, error: impl Into<EventError>) -> EventError {
    let mut error = error.into().announce();
    error.temp_id.clone_from(temp_id);
    error
}

/// Text of 1 to `max` characters.
fn text_of(content: Option<String>, max: usize) -> Result<String, EventError> {
    let refused = |what: String| EventError::new(Code::InvalidContent, what);
    let content = content.ok_or_else(|| refused("content is missing".to_owned()))?;
    if content.contains('\0') {
        // Not all databases keep it.
        return Err(refused("A message has no NUL in it".to_owned()));
    }
    match content.chars().count() {
        _ if content.trim().is_empty() => {
            let what = format!("A message has 1 to {max} characters, not white space alone");
            Err(refused(what))
        }
        count if count <= max => Ok(content),
        _ => Err(refused(format!("A message has 1 to {max} characters"))),
    }
}

/// The sender, if it may send one more message now. One that has been counted is not counted
/// again: whoever sends it again has had no answer.
fn sender(
    socket: &Socket,
    channel: Option<&Channel>,
    temp_id: Option<&str>,
) -> Result<Arc<UserKey>, EventError> {
    let user = socket.identity().user.clone();
    let comes_again = || Some(socket.has_sent(user.as_ref()?, channel?, temp_id?));
    if comes_again() != Some(true) {
        socket.take_message()?;
    }
    user.ok_or_else(|| {
        EventError::new(
            Code::AuthRequired,
            "Only authenticated users may send messages",
        )
    })
}

/// Without its `tempId` a message would be stored once more each time that it comes.
fn check_temp_id(draft: &Draft) -> Result<(), EventError> {
    let misfit = "tempId must be a number, or text of 1 to 128 bytes without a NUL";
    match draft.has_other_temp_id {
        true => Err(EventError::new(Code::InvalidData, misfit)),
        false => Ok(()),
    }
}

/// A message that may be stored.
struct Checked {
    sender: Arc<UserKey>,
    channel: Channel,
    room: String,
    content: String,
}

async fn check_message(socket: &Socket, draft: Draft) -> Result<Checked, EventError> {
    let misfit = check_temp_id(&draft);
    let channel = draft.conversation.map(Channel::Conversation);
    let sender = sender(socket, channel.as_ref(), draft.temp_id.as_deref())?;
    misfit?;
    let content = text_of(draft.content, MAX_MESSAGE)?;
    let why = match draft.has_other_conversation {
        true => "conversationId must be text that is not empty, or a number",
        false => "conversationId is missing",
    };
    let channel = channel.ok_or_else(|| EventError::new(Code::InvalidRoom, why))?;
    let room = rooms::of_conversation(channel.name());
    socket.may_publish(&room).await?;
    socket.in_turn(&room).await;
    Ok(Checked {
        sender,
        channel,
        room,
        content,
    })
}

async fn check_chat(socket: &Socket, draft: Draft) -> Result<Checked, EventError> {
    let misfit = check_temp_id(&draft);
    let room = draft.room.unwrap_or_else(|| OPEN_ROOM.to_owned());
    let channel = Channel::Room(room.clone());
    let sender = sender(socket, Some(&channel), draft.temp_id.as_deref())?;
    misfit?;
    if draft.has_other_room {
        return Err(EventError::new(
            Code::InvalidRoom,
            "room must be a room's name; without one, a message goes to the room chat",
        ));
    }
    let content = text_of(draft.content, MAX_CHAT)?;
    if rooms::conversation_of(&room).is_some() {
        let advice = "A conversation is no open room; write in it with message:send";
        return Err(EventError::new(Code::InvalidRoom, advice));
    }
    socket.may_publish(&room).await?;
    socket.in_turn(&room).await;
    Ok(Checked {
        sender,
        channel,
        room,
        content,
    })
}

pub(super) async fn message_send(
    socket: Socket,
    gateway: Gateway,
    draft: Draft,
) -> Result<Json<Sent>, EventError> {
    let temp_id = draft.temp_id.clone();
    let checked = check_message(&socket, draft).await;
    send(socket, gateway, checked, temp_id).await
}

pub(super) async fn chat_send(
    socket: Socket,
    gateway: Gateway,
    draft: Draft,
) -> Result<Json<Sent>, EventError> {
    let temp_id = draft.temp_id.clone();
    let checked = check_chat(&socket, draft).await;
    send(socket, gateway, checked, temp_id).await
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Confirmation<'a> {
    #[serde(serialize_with = "temp_id::serialize")]
    temp_id: &'a Option<String>,
    message: &'a StoredMessage,
}

async fn send(
    socket: Socket,
    gateway: Gateway,
    checked: Result<Checked, EventError>,
    temp_id: Option<String>,
) -> Result<Json<Sent>, EventError> {
    let Checked {
        sender,
        channel,
        room,
        content,
    } = checked.map_err(|error| refuse(&temp_id, error))?;
    let new = NewMessage {
        sender: sender.clone(),
        channel: channel.clone(),
        content,
        temp_id: temp_id.clone(),
        created_at: gateway.unix_millis(),
    };
    // Before the message is: whoever may join and writes is a member, and has read what is written.
    let (wrote, written) = oneshot::channel();
    let member = match &channel {
        Channel::Conversation(conversation) => Some(socket.writes_in(conversation, written)),
        Channel::Room(_) => None,
    };
    let tenant = sender.tenant_id.as_deref();
    let to = gateway.to(socket.namespace(), tenant, &room);
    let to = to.map(|to| to.by_client(&sender));
    let (others, mut notice) = oneshot::channel();
    let stored = store(&gateway, new, tell(to.clone(), others));
    let stored = stored.await;
    if let Some(temp_id) = &temp_id {
        note_sent(&socket, &sender, (&channel, temp_id), &stored);
    }
    let stored = stored.map_err(|error| refuse(&temp_id, error))?;
    let message = stored.message;
    if let Some(member) = member {
        // An error: they are a member already, or the store finds them one by itself.
        let _ = wrote.send(message.offset);
        member.await;
    }
    if let (true, Some(to)) = (stored.duplicate, to) {
        to.was_stored(&message);
    }
    // From here on the message exists: a failure to tell somebody is not the
    // sender's error. A repetition is only answered, everybody else knows.
    if let Ok(notice) = notice.try_recv() {
        notice.send().await;
    }
    socket.answer(
        "message:sent",
        &Confirmation {
            temp_id: &temp_id,
            message: &message,
        },
    )?;
    Ok(Json(Sent {
        ok: true,
        temp_id,
        message,
    }))
}

/// Remembers a message that is in the store, or may be: the same comes again to find out.
fn note_sent(
    socket: &Socket,
    sender: &UserKey,
    (channel, temp_id): (&Channel, &str),
    stored: &Result<Stored, EventError>,
) {
    let is_refused = |error: &EventError| error.code != Code::SendFailed.as_str();
    if stored.as_ref().is_err_and(is_refused) {
        return;
    }
    let was_there = socket.notes_sent(sender, channel, temp_id, stored.is_ok());
    if was_there && stored.as_ref().is_ok_and(|stored| !stored.duplicate) {
        // The store has forgotten the first: this is one more, and said once more. It is there;
        // what comes next may be refused for it.
        let _ = socket.take_message();
    }
}

/// Tells a room of its new message, in the order in which the store has them; whoever waits for the
/// store tells the others. Where nobody does any more, they are told all the same.
fn tell(to: Option<To>, others: oneshot::Sender<Notice>) -> Tell {
    Box::new(move |message| match to.map(|to| to.emit_stored(message)) {
        Some(Ok(Some(notice))) => drop(others.send(notice)),
        Some(Err(error)) => {
            tracing::warn!(%error, id = message.id, "a room could not be told of a message");
        }
        Some(Ok(None)) | None => {}
    })
}

/// Stores a message, if that is done in time.
async fn store(gateway: &Gateway, new: NewMessage, tell: Tell) -> Result<Stored, EventError> {
    let stored = gateway.store().append(new, tell);
    let error = match tokio::time::timeout(STORE_TIME, stored).await {
        Ok(Ok(stored)) => return Ok(stored),
        Ok(Err(StoreError::Overloaded)) => Code::Overloaded.into(),
        Ok(Err(StoreError::Failed(reason))) => {
            tracing::error!(reason, "a message could not be stored");
            Code::SendFailed.into()
        }
        Err(_) => EventError::new(
            Code::SendFailed,
            "The message may have been stored; the same tempId finds out",
        ),
    };
    Err(EventError::retry_after(error, RETRY_AFTER_MS))
}

//! Where messages are kept before anybody is told of them.

pub mod memory;

use std::fmt;
use std::sync::Arc;

use serde::Serialize;

use crate::auth::{BoxFuture, UserKey};

/// Where a message is said. A conversation and an open room of the same name are
/// different places: whoever writes in one has no part in the other.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Channel {
    /// A conversation, by its id: it has members, and its writers are among them.
    Conversation(String),
    /// An open room, by its name: it has no members but those who are in it.
    Room(String),
}

impl Channel {
    /// The id of the conversation, or the name of the open room.
    pub fn name(&self) -> &str {
        match self {
            Channel::Conversation(name) | Channel::Room(name) => name,
        }
    }
}

/// A message that is to be stored.
#[derive(Debug, Clone)]
pub struct NewMessage {
    /// The sender.
    pub sender: Arc<UserKey>,
    /// Where it is said.
    pub channel: Channel,
    /// The text.
    pub content: String,
    /// The sender's own name for it: the same twice in one channel is one message.
    pub temp_id: Option<String>,
    /// Unix milliseconds.
    pub created_at: u64,
}

/// A message as clients see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct StoredMessage {
    /// Unique; later messages of a conversation have greater ids.
    pub id: String,
    /// The conversation or open room.
    pub conversation_id: String,
    /// The sender's id.
    pub sender_id: String,
    /// The kind of user the sender is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sender_type: Option<String>,
    /// The text.
    pub content: String,
    /// The sender's own name for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub temp_id: Option<String>,
    /// Unix milliseconds.
    pub created_at: u64,
}

/// What storing came to.
#[derive(Debug, Clone)]
pub struct Stored {
    /// The message as it is kept.
    pub message: StoredMessage,
    /// It had been stored before, under the same `temp_id`.
    pub duplicate: bool,
}

/// The store could not keep a message.
#[derive(Debug)]
pub struct StoreError(pub String);

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for StoreError {}

/// Keeps messages, and knows who belongs to a conversation.
///
/// What [`append`](MessageStore::append) has answered is kept: only then are
/// others told.
pub trait MessageStore: Send + Sync + 'static {
    /// Stores a message, or finds the one that this sender stored in this channel under
    /// the same `temp_id`. Who writes in a conversation is a member of it from then on.
    fn append(&self, message: NewMessage) -> BoxFuture<Result<Stored, StoreError>>;

    /// Notes that a user belongs to a conversation.
    fn add_member(
        &self,
        conversation_id: &str,
        user: &Arc<UserKey>,
    ) -> BoxFuture<Result<(), StoreError>>;

    /// Who belongs to a conversation of a tenant.
    fn members(
        &self,
        tenant: Option<&str>,
        conversation_id: &str,
    ) -> BoxFuture<Result<Vec<Arc<UserKey>>, StoreError>>;

    /// Waits until everything accepted is kept for good.
    fn close(&self) -> BoxFuture<()> {
        Box::pin(std::future::ready(()))
    }
}

//! Where messages are kept before anybody is told of them.

mod challenges;
mod checkpoints;
mod codes;
pub mod conversations;
mod error;
pub mod invites;
mod log;
pub mod memory;
pub mod offer;
mod people;
mod retention;
pub mod temp_id;

use std::ops::Range;
use std::sync::Arc;

use serde::Serialize;

use crate::auth::{BoxFuture, UserKey};
pub use challenges::{Challenge, Challenges, MAX_CHALLENGES, MAX_OPEN, Redeemed};
pub use checkpoints::{
    Bound, Changed, Changes, Checkpoint, Checkpoints, MAX_DEPTH, MAX_MEMBERS, MAX_METADATA,
    MAX_PATCH, MAX_ROOMS, Outcome, Patch,
};
pub use error::StoreError;
pub use retention::{Cleaned, Cleaning, ENDED_INVITES, Job, Retention};

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
    /// The sender's own name for it, as [`temp_id`] says: the same twice in one channel is one
    /// message.
    pub temp_id: Option<String>,
    /// Unix milliseconds.
    pub created_at: u64,
}

/// A message as clients see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct StoredMessage {
    /// Unique: the number of the conversation in its store, a dash, and the offset.
    pub id: String,
    /// Its place in its conversation or open room: 1, 2, 3, …
    pub offset: u64,
    /// The conversation or open room.
    pub conversation_id: String,
    /// The sender's id.
    pub sender_id: String,
    /// The kind of user the sender is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sender_type: Option<String>,
    /// The text.
    pub content: String,
    /// The sender's own name for it, as [`temp_id`] says. In JSON it is as it was given.
    #[serde(
        skip_serializing_if = "Option::is_none",
        serialize_with = "temp_id::serialize"
    )]
    pub temp_id: Option<String>,
    /// Unix milliseconds.
    pub created_at: u64,
}

impl StoredMessage {
    /// The id of the message in this place of the conversation that has this number in its
    /// store.
    pub fn id_of(conversation: u64, offset: u64) -> String {
        format!("{conversation}-{offset}")
    }

    /// What it takes as JSON, at most about, bytes.
    pub fn json_bytes(&self) -> usize {
        let quoted = |byte: u8| match byte {
            b'"' | b'\\' => 2,
            0..0x20 => 6,
            _ => 1,
        };
        let texts = [&self.conversation_id, &self.sender_id, &self.content];
        let texts = texts.into_iter().chain(&self.sender_type);
        let texts = texts.chain(&self.temp_id).flat_map(|text| text.bytes());
        // The names of the members, the id and the numbers.
        192 + texts.map(quoted).sum::<usize>()
    }
}

/// What storing came to.
#[derive(Debug, Clone)]
pub struct Stored {
    /// The message as it is kept.
    pub message: StoredMessage,
    /// It had been stored before, under the same `temp_id`.
    pub duplicate: bool,
}

/// Tells others of a message that is new. It must not wait, nor ask the store anything.
pub type Tell = Box<dyn FnOnce(&StoredMessage) + Send>;

/// From where a history is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// What follows the message with this offset, the oldest first wanted; 0 is the beginning.
    After(u64),
    /// What comes before the message with this offset, the newest first wanted.
    Before(u64),
    /// The newest.
    End,
}

impl Start {
    /// The start that is meant by two offsets of which at most one may be given.
    pub fn of(after: Option<u64>, before: Option<u64>) -> Option<Start> {
        match (after, before) {
            (None, None) => Some(Start::End),
            (Some(offset), None) => Some(Start::After(offset)),
            (None, Some(offset)) => Some(Start::Before(offset)),
            (Some(_), Some(_)) => None,
        }
    }
}

/// Most messages that are read at once.
pub const MAX_PART: usize = 200;

/// Messages that are read at once, if nothing is said of it.
pub const PART: usize = 50;

/// What is asked of a conversation or open room.
#[derive(Debug, Clone)]
pub struct HistoryQuery {
    /// Whose it is.
    pub tenant: Option<Arc<str>>,
    /// The conversation or open room.
    pub channel: Channel,
    /// From where.
    pub from: Start,
    /// Most messages, 1 to [`MAX_PART`].
    pub limit: usize,
    /// Most bytes of JSON ([`StoredMessage::json_bytes`]); one message fits in any case.
    pub bytes: usize,
}

/// A part of a conversation.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct History {
    /// The messages, by their offsets, without a gap.
    pub messages: Vec<StoredMessage>,
    /// The offset of the last message that there was; 0: none.
    pub head: u64,
    /// The offset of the last message that is not kept any more; 0: all are.
    pub floor: u64,
    /// Nothing that was asked for is gone. There may be more than fits one part.
    pub complete: bool,
}

/// Which offsets answer a question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Window {
    /// The offsets.
    pub offsets: Range<u64>,
    /// They are taken from the newest on, until enough are.
    pub newest_first: bool,
    /// Nothing that was asked for is gone.
    pub complete: bool,
}

impl Window {
    /// What is read of a conversation with this head and floor.
    pub fn of(from: Start, limit: usize, head: u64, floor: u64) -> Window {
        let limit = limit as u64;
        let end = match from {
            Start::After(offset) => {
                let start = offset.clamp(floor, head) + 1;
                return Window {
                    offsets: start..start.saturating_add(limit).min(head + 1),
                    newest_first: false,
                    complete: (floor..=head).contains(&offset),
                };
            }
            Start::Before(offset) => offset.clamp(1, head + 1),
            Start::End => head + 1,
        };
        let start = end.saturating_sub(limit).max(1);
        let first_kept = (floor + 1).min(end);
        Window {
            offsets: start.max(first_kept)..end,
            newest_first: true,
            complete: start >= first_kept,
        }
    }
}

/// The messages of a part as they are read, until it is full.
#[derive(Debug)]
pub struct Part {
    messages: Vec<StoredMessage>,
    bytes: usize,
    newest_first: bool,
}

impl Part {
    /// A part that may have so many bytes of JSON.
    pub fn new(window: &Window, bytes: usize) -> Part {
        Part {
            messages: Vec::new(),
            bytes,
            newest_first: window.newest_first,
        }
    }

    /// Takes the next message, if it fits; else the part is full.
    pub fn take(&mut self, message: StoredMessage) -> bool {
        let bytes = message.json_bytes();
        let fits = bytes <= self.bytes || self.messages.is_empty();
        if fits {
            self.bytes = self.bytes.saturating_sub(bytes);
            self.messages.push(message);
        }
        fits
    }

    /// Its messages by their offsets.
    pub fn finish(mut self) -> Vec<StoredMessage> {
        if self.newest_first {
            self.messages.reverse();
        }
        self.messages
    }
}

/// Keeps messages.
///
/// What [`append`](MessageStore::append) has answered is kept: only then are
/// others told.
pub trait MessageStore: Send + Sync + 'static {
    /// Stores a message in the next place of its conversation, or finds the one that this
    /// sender stored in this channel under the same `temp_id`, for as long as that is kept; or
    /// longer, with the text with which it comes again. A member of the conversation who writes
    /// has read what is before.
    ///
    /// A new message is told before the answer is there: those of one conversation in the order
    /// of their offsets, whoever stored them and whether or not the answer is still waited
    /// for. One that was stored before is not told.
    fn append(&self, message: NewMessage, tell: Tell) -> BoxFuture<Result<Stored, StoreError>>;

    /// A part of a conversation or open room. One that nobody has written in is empty.
    fn history(&self, query: HistoryQuery) -> BoxFuture<Result<History, StoreError>>;

    /// A small step of removing something, from where the last one ended or 0: it waits for
    /// nothing else but messages that are being stored. What is removed of a conversation's
    /// messages is its beginning, and its floor says so.
    /// A store that says nothing of it removes nothing.
    fn clean(&self, _what: Cleaning, _from: u64) -> BoxFuture<Result<Cleaned, StoreError>> {
        let nothing = Cleaned {
            rows: 0,
            next: None,
        };
        Box::pin(std::future::ready(Ok(nothing)))
    }

    /// Takes a job for a node until then, Unix milliseconds, if no other has it: see
    /// [`Job::take`]. What is known of it, and whether this node has it.
    fn take_job(
        &self,
        _name: &'static str,
        _owner: &str,
        _now: u64,
        _until: u64,
    ) -> BoxFuture<Result<(Option<u64>, bool), StoreError>> {
        Box::pin(std::future::ready(Ok((None, false))))
    }

    /// Notes that a job was done at this moment, Unix milliseconds, and lets it go. `None`: it
    /// was not done. Of a job that another node has by now, nothing changes.
    fn end_job(
        &self,
        _name: &'static str,
        _owner: &str,
        _done: Option<u64>,
    ) -> BoxFuture<Result<(), StoreError>> {
        Box::pin(std::future::ready(Ok(())))
    }

    /// Where it keeps the challenges that wallets sign, if it does.
    fn challenges(&self) -> Option<&dyn Challenges> {
        None
    }

    /// Where it keeps what users' clients want to find again, if it does.
    fn checkpoints(&self) -> Option<&dyn Checkpoints> {
        None
    }

    /// Whether other nodes store in it too: an offset says the same to all of them.
    fn is_shared(&self) -> bool {
        false
    }

    /// Whether it cannot keep messages at the moment.
    fn is_in_trouble(&self) -> bool {
        false
    }

    /// Waits until everything accepted is kept for good.
    fn close(&self) -> BoxFuture<()> {
        Box::pin(std::future::ready(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_window_tells_what_is_gone_of_it() {
        let window = |from, limit, head, floor| {
            let window = Window::of(from, limit, head, floor);
            (window.offsets, window.complete)
        };
        assert_eq!(window(Start::End, 50, 0, 0), (1..1, true));
        assert_eq!(window(Start::After(0), 50, 0, 0), (1..1, true));
        assert_eq!(window(Start::After(3), 2, 9, 3), (4..6, true));
        assert_eq!(window(Start::After(2), 2, 9, 3), (4..6, false));
        assert_eq!(window(Start::After(9), 2, 9, 3), (10..10, true));
        // Somebody saw more than there is: it has been lost.
        assert_eq!(window(Start::After(10), 2, 9, 3), (10..10, false));
        assert_eq!(window(Start::End, 5, 9, 3), (5..10, true));
        assert_eq!(window(Start::Before(5), 5, 9, 3), (4..5, false));
        assert_eq!(window(Start::Before(5), 1, 9, 3), (4..5, true));
        assert_eq!(window(Start::Before(4), 1, 9, 3), (4..4, false));
        assert_eq!(window(Start::Before(1), 1, 9, 0), (1..1, true));
        assert_eq!(window(Start::Before(u64::MAX), 1, 9, 9), (10..10, false));
    }

    proptest! {
        #[test]
        fn a_window_is_kept_and_bounded(
            head in 0u64..30, gone in 0u64..30, offset in 0u64..40, kind in 0usize..3, limit in 1usize..12
        ) {
            let floor = gone.min(head);
            let from = [Start::After(offset), Start::Before(offset), Start::End][kind];
            let window = Window::of(from, limit, head, floor);
            let offsets: Vec<u64> = window.offsets.collect();
            prop_assert!(offsets.len() <= limit);
            prop_assert!(offsets.iter().all(|offset| (floor + 1..=head).contains(offset)));
            let asked = |at: u64| match from {
                Start::After(after) => at > after && at <= after + limit as u64,
                Start::Before(before) => at < before && at + limit as u64 >= before.min(head + 1),
                Start::End => at + limit as u64 > head,
            };
            let missing = (1..=head).filter(|at| asked(*at) && !offsets.contains(at)).count();
            let ahead = matches!(from, Start::After(after) if after > head);
            prop_assert_eq!(window.complete, missing == 0 && !ahead);
        }
    }
}

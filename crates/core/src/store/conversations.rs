//! Who belongs to conversations, and how far they have read.

use std::sync::Arc;

use serde::Serialize;

use crate::auth::{BoxFuture, UserKey};
use crate::store::{StoreError, StoredMessage};

/// Most members of one conversation: all are read at once, in a few milliseconds.
pub const MAX_MEMBERS: usize = 10_000;

/// Most conversations of one user: an inbox looks at all of them.
pub const MAX_CONVERSATIONS: usize = 10_000;

/// Most conversations in one part of an inbox.
pub const MAX_INBOX: usize = 100;

/// Conversations in one part of an inbox, if nothing is said of it.
pub const INBOX: usize = 50;

/// Longest conversation's id, bytes: as long as a room's name at most.
const MAX_ID: usize = 256;

/// How somebody came to be a member; the later one is the stronger.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Membership {
    /// By joining or writing where the token, or nobody, had anything against it.
    Joined,
    /// By an invite or a backend: it holds whatever rooms a token names.
    Invited,
}

/// A member of a conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Who.
    pub user: Arc<UserKey>,
    /// How.
    pub membership: Membership,
    /// Since when, Unix milliseconds.
    pub joined_at: u64,
    /// The offset of the last message that was read; 0: none.
    pub read_offset: u64,
}

/// What became of a new member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Added {
    /// One more.
    New,
    /// A member who had joined is an invited one from now on.
    Raised,
    /// Nothing is new.
    Known,
    /// The conversation has [`MAX_MEMBERS`], or the user [`MAX_CONVERSATIONS`]; nothing was
    /// done.
    Full,
}

/// Where a read marker stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Marked {
    /// The offset of the last message that was read.
    pub offset: u64,
    /// It stood elsewhere before.
    pub moved: bool,
}

/// What is asked of a user's conversations.
#[derive(Debug, Clone)]
pub struct InboxQuery {
    /// Whose.
    pub user: Arc<UserKey>,
    /// Only those that come after this one: the [`next`](Inbox::next) of the part before.
    pub after: Option<InboxPlace>,
    /// Most conversations, 1 to [`MAX_INBOX`].
    pub limit: usize,
    /// Most bytes of JSON; one conversation fits in any case.
    pub bytes: usize,
}

/// A place among a user's conversations: the newest first, then by the ids, the last first.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct InboxPlace {
    /// When the last message was said, or else when the user became a member; Unix
    /// milliseconds.
    pub at: u64,
    /// The conversation.
    pub conversation_id: String,
}

impl InboxPlace {
    /// As clients have it.
    pub fn cursor(&self) -> String {
        format!("{}.{}", self.at, self.conversation_id)
    }

    /// What a client brings back; `None` for what is no cursor. No conversation's id has a
    /// control character in it, nor do all databases take each.
    pub fn parse(cursor: &str) -> Option<InboxPlace> {
        let (at, conversation_id) = cursor.split_once('.')?;
        let is_length = (1..=MAX_ID).contains(&conversation_id.len());
        if !is_length || conversation_id.contains(char::is_control) {
            return None;
        }
        // Databases have no larger numbers.
        let at = at.parse().ok().filter(|at| *at <= i64::MAX as u64)?;
        Some(InboxPlace {
            at,
            conversation_id: conversation_id.to_owned(),
        })
    }
}

/// A conversation as one of its members sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct InboxEntry {
    /// The conversation.
    pub conversation_id: String,
    /// The offset of its last message; 0: none.
    pub head: u64,
    /// The offset of the last message that the user has read; 0: none.
    pub read_offset: u64,
    /// How many of those that are kept the user has not read.
    pub unread: u64,
    /// The last message, if it is kept.
    pub last: Option<StoredMessage>,
    /// What kind of member the user is.
    #[serde(skip)]
    pub membership: Membership,
}

impl InboxEntry {
    /// A conversation with this head and floor, and a member with this marker.
    pub fn new(
        conversation_id: String,
        (head, floor): (u64, u64),
        (membership, read_offset): (Membership, u64),
        last: Option<StoredMessage>,
    ) -> InboxEntry {
        InboxEntry {
            conversation_id,
            head,
            read_offset,
            unread: head.saturating_sub(read_offset.max(floor)),
            last,
            membership,
        }
    }

    /// What it takes as JSON, at most about, bytes.
    fn json_bytes(&self) -> usize {
        let last = self.last.as_ref().map_or(4, StoredMessage::json_bytes);
        128 + 6 * self.conversation_id.len() + last
    }
}

/// A part of a user's conversations.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Inbox {
    /// The conversations, the newest first.
    pub conversations: Vec<InboxEntry>,
    /// Where the next part begins; absent: this was the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

impl Inbox {
    /// The first of these that fit; each comes with its place.
    pub fn of(
        entries: impl Iterator<Item = (InboxPlace, InboxEntry)>,
        query: &InboxQuery,
    ) -> Inbox {
        let (mut inbox, mut bytes, mut last) = (Inbox::default(), query.bytes, None);
        for (place, entry) in entries {
            let weight = entry.json_bytes();
            let is_first = inbox.conversations.is_empty();
            if inbox.conversations.len() == query.limit || (weight > bytes && !is_first) {
                inbox.next = last.as_ref().map(InboxPlace::cursor);
                break;
            }
            bytes = bytes.saturating_sub(weight);
            inbox.conversations.push(entry);
            last = Some(place);
        }
        inbox
    }
}

/// Knows who belongs to a conversation, and how far each has read. What it has answered is
/// kept.
pub trait Conversations: Send + Sync + 'static {
    /// Makes a user a member of a conversation of the user's tenant. `now` is in Unix
    /// milliseconds.
    fn add_member(
        &self,
        conversation_id: &str,
        user: &Arc<UserKey>,
        membership: Membership,
        now: u64,
    ) -> BoxFuture<Result<Added, StoreError>>;

    /// Ends a membership; whether there was one. What was read is forgotten.
    fn remove_member(
        &self,
        conversation_id: &str,
        user: &Arc<UserKey>,
    ) -> BoxFuture<Result<bool, StoreError>>;

    /// All members of a conversation of a tenant, by their ids and types.
    fn members(
        &self,
        tenant: Option<&str>,
        conversation_id: &str,
    ) -> BoxFuture<Result<Vec<Member>, StoreError>>;

    /// Moves a member's read marker forward to the message with this offset, at most to the
    /// last one there is. `None`: the user is no member. Who writes has read what is before.
    fn mark_read(
        &self,
        conversation_id: &str,
        user: &Arc<UserKey>,
        offset: u64,
        now: u64,
    ) -> BoxFuture<Result<Option<Marked>, StoreError>>;

    /// A part of the conversations that a user is a member of.
    fn inbox(&self, query: InboxQuery) -> BoxFuture<Result<Inbox, StoreError>>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_cursor_of_an_inbox_is_known_as_such() {
        for good in ["1.a", "0.a.b", "9223372036854775807.ü"] {
            let place = InboxPlace::parse(good).expect(good);
            assert_eq!(place.cursor(), good);
        }
        let long = format!("1.{}", "a".repeat(257));
        for bad in [
            "",
            "1",
            "1.",
            ".a",
            "x.a",
            "1.\0",
            "1.a\n",
            "9223372036854775808.a",
            &long,
        ] {
            assert_eq!(InboxPlace::parse(bad), None, "{bad:?}");
        }
    }
}

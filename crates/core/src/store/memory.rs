//! What a node needs of messages while it runs, in memory.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use crate::auth::{BoxFuture, UserKey};
use crate::bounded::Bounded;
use crate::store::{Channel, MessageStore, NewMessage, StoreError, Stored, StoredMessage};

/// How many messages a [`MemoryStore`] remembers by their `temp_id`.
const REMEMBERED_MESSAGES: usize = 65_536;

/// What they may weigh, bytes: the longest have 40 KB.
const REMEMBERED_BYTES: usize = 64 << 20;

/// How many conversations it keeps members of.
const CONVERSATIONS: usize = 65_536;

/// What these may weigh, bytes.
const CONVERSATION_BYTES: usize = 64 << 20;

/// How many members of each.
const MEMBERS: usize = 4_096;

/// What an entry of either table costs besides its texts, about, bytes.
const OVERHEAD: usize = 256;

type Conversation = (Option<Arc<str>>, String);

/// What one message is known by, however often it is sent.
type Attempt = (Arc<UserKey>, Channel, String);

/// The members of a conversation.
#[derive(Default)]
struct Members {
    /// Each with the number of when it was last noted.
    noted: BTreeMap<Arc<UserKey>, u64>,
    notes: u64,
    /// What they weigh.
    bytes: usize,
}

struct Memory {
    last_id: u64,
    by_temp_id: Bounded<Attempt, StoredMessage>,
    members: Bounded<Conversation, Members>,
}

/// Keeps in memory what a node needs while it runs: the newest 65 536 messages
/// that have a `temp_id`, to answer repetitions, and the members of the 65 536
/// conversations that were used last, 4 096 of each; either of at most 64 MB. Gone with the
/// process.
#[derive(Default)]
pub struct MemoryStore {
    memory: Mutex<Memory>,
}

impl MessageStore for MemoryStore {
    fn append(&self, new: NewMessage) -> BoxFuture<Result<Stored, StoreError>> {
        let mut memory = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
        Box::pin(std::future::ready(Ok(memory.append(new))))
    }

    fn add_member(
        &self,
        conversation_id: &str,
        user: &Arc<UserKey>,
    ) -> BoxFuture<Result<(), StoreError>> {
        let mut memory = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
        memory.add_member(conversation_id, user);
        Box::pin(std::future::ready(Ok(())))
    }

    fn members(
        &self,
        tenant: Option<&str>,
        conversation_id: &str,
    ) -> BoxFuture<Result<Vec<Arc<UserKey>>, StoreError>> {
        let mut memory = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (tenant.map(Arc::from), conversation_id.to_owned());
        let known = memory.members.get(&key);
        let members = known.map(|members| members.noted.keys().cloned().collect());
        Box::pin(std::future::ready(Ok(members.unwrap_or_default())))
    }
}

impl Default for Memory {
    fn default() -> Self {
        Memory {
            last_id: 0,
            by_temp_id: Bounded::new(REMEMBERED_MESSAGES, REMEMBERED_BYTES),
            members: Bounded::new(CONVERSATIONS, CONVERSATION_BYTES),
        }
    }
}

/// What a user among members weighs, bytes.
fn weight(user: &UserKey) -> usize {
    let text = |text: &Option<Arc<str>>| text.as_ref().map_or(0, |text| text.len());
    OVERHEAD + user.user_id.len() + text(&user.tenant_id) + text(&user.user_type)
}

impl Members {
    /// The user is one of them. When there are too many, an eighth goes at once: those that
    /// were noted longest ago.
    fn note(&mut self, user: &Arc<UserKey>) {
        self.notes += 1;
        if self.noted.insert(user.clone(), self.notes).is_some() {
            return;
        }
        self.bytes += weight(user);
        if self.noted.len() <= MEMBERS {
            return;
        }
        let mut notes: Vec<u64> = self.noted.values().copied().collect();
        let (_, &mut oldest, _) = notes.select_nth_unstable(MEMBERS / 8);
        self.noted.retain(|_, note| *note > oldest);
        self.bytes = self.noted.keys().map(|user| weight(user)).sum();
    }
}

impl Memory {
    fn append(&mut self, new: NewMessage) -> Stored {
        let repeated = new
            .temp_id
            .clone()
            .map(|temp_id| (new.sender.clone(), new.channel.clone(), temp_id));
        let known = repeated.as_ref().and_then(|key| self.by_temp_id.get(key));
        if let Some(message) = known.cloned() {
            return Stored {
                message,
                duplicate: true,
            };
        }
        if let Channel::Conversation(id) = &new.channel {
            self.add_member(id, &new.sender);
        }
        // Ids go on rising across a restart.
        self.last_id = (self.last_id + 1).max(new.created_at * 1000);
        let message = StoredMessage {
            id: self.last_id.to_string(),
            conversation_id: new.channel.name().to_owned(),
            sender_id: new.sender.user_id.to_string(),
            sender_type: new.sender.user_type.as_ref().map(ToString::to_string),
            content: new.content,
            temp_id: new.temp_id,
            created_at: new.created_at,
        };
        if let Some(key) = repeated {
            // The names are there twice, in the key and in the message.
            let names = key.1.name().len() + key.2.len();
            let bytes = 2 * names + message.content.len() + weight(&key.0);
            self.by_temp_id.put(key, message.clone(), bytes);
        }
        Stored {
            message,
            duplicate: false,
        }
    }

    fn add_member(&mut self, conversation_id: &str, user: &Arc<UserKey>) {
        let key = (user.tenant_id.clone(), conversation_id.to_owned());
        let mut members = self.members.take(&key).unwrap_or_default();
        members.note(user);
        let bytes = OVERHEAD + 2 * conversation_id.len() + members.bytes;
        self.members.put(key, members, bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(temp_id: &str) -> NewMessage {
        NewMessage {
            sender: Arc::new(UserKey {
                tenant_id: None,
                user_id: "u".into(),
                user_type: None,
            }),
            channel: Channel::Conversation("c".into()),
            content: "hello".into(),
            temp_id: Some(temp_id.into()),
            created_at: 1,
        }
    }

    #[test]
    fn the_same_temp_id_twice_is_one_message() {
        let mut memory = Memory::default();
        let first = memory.append(message("t1"));
        let second = memory.append(message("t1"));
        let third = memory.append(message("t2"));
        assert!(!first.duplicate && second.duplicate && !third.duplicate);
        assert_eq!(first.message, second.message);
        assert!(third.message.id > first.message.id);
    }

    #[test]
    fn the_same_temp_id_elsewhere_is_another_message() {
        let mut memory = Memory::default();
        let first = memory.append(message("t1"));
        for channel in ["d", "e"].map(|name| Channel::Conversation(name.into())) {
            let elsewhere = NewMessage {
                channel,
                ..message("t1")
            };
            assert!(!memory.append(elsewhere).duplicate);
        }
        let room = NewMessage {
            channel: Channel::Room("c".into()),
            ..message("t1")
        };
        let in_room = memory.append(room);
        assert!(!in_room.duplicate && in_room.message.id != first.message.id);
    }

    #[test]
    fn writing_in_an_open_room_makes_nobody_a_member_of_a_conversation() {
        let mut memory = Memory::default();
        memory.append(NewMessage {
            channel: Channel::Room("c".into()),
            ..message("t1")
        });
        assert_eq!(memory.members.len(), 0);
        memory.append(message("t2"));
        assert_eq!(memory.members.len(), 1);
    }

    #[test]
    fn repetitions_are_remembered_within_bounds() {
        let mut memory = Memory::default();
        for number in 0..REMEMBERED_MESSAGES + 10 {
            memory.append(message(&number.to_string()));
        }
        assert_eq!(memory.by_temp_id.len(), REMEMBERED_MESSAGES);
    }

    #[test]
    fn long_messages_are_remembered_within_a_bound_of_bytes() {
        let mut memory = Memory::default();
        for number in 0..3_000 {
            memory.append(NewMessage {
                content: "x".repeat(40_000),
                ..message(&number.to_string())
            });
        }
        assert!(memory.by_temp_id.bytes() <= REMEMBERED_BYTES);
        assert!(memory.append(message("2999")).duplicate);
        assert!(!memory.append(message("0")).duplicate);
    }

    fn user(id: &str) -> Arc<UserKey> {
        Arc::new(UserKey {
            tenant_id: None,
            user_id: id.into(),
            user_type: None,
        })
    }

    fn members(memory: &mut Memory, conversation: &str) -> Vec<String> {
        let known = memory.members.get(&(None, conversation.to_owned()));
        let noted = known.into_iter().flat_map(|members| members.noted.keys());
        noted.map(|user| user.user_id.to_string()).collect()
    }

    #[test]
    fn a_new_conversation_has_members_however_many_there_were_before() {
        let mut memory = Memory::default();
        memory.add_member("first", &user("a"));
        memory.add_member("second", &user("a"));
        for number in 0..CONVERSATIONS {
            memory.add_member(&number.to_string(), &user("a"));
            // It is used, so it stays.
            memory.add_member("first", &user("b"));
        }
        assert_eq!(members(&mut memory, "65535"), ["a"]);
        assert_eq!(members(&mut memory, "first"), ["a", "b"]);
        assert!(members(&mut memory, "second").is_empty());
        assert_eq!(memory.members.len(), CONVERSATIONS);
    }

    #[test]
    fn one_member_more_than_fits_takes_the_place_of_the_quietest() {
        let mut memory = Memory::default();
        for number in 0..MEMBERS {
            memory.add_member("c", &user(&number.to_string()));
        }
        memory.add_member("c", &user("0"));
        memory.add_member("c", &user("new"));
        let left = members(&mut memory, "c");
        assert!(left.len() <= MEMBERS, "{}", left.len());
        for (who, stays) in [("new", true), ("0", true), ("4095", true), ("1", false)] {
            assert_eq!(left.contains(&who.to_owned()), stays, "{who}");
        }
    }
}

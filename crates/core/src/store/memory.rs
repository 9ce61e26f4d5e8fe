//! What a node needs of messages while it runs, in memory.

use std::collections::{BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use hashbrown::HashMap;

use crate::auth::{BoxFuture, UserKey};
use crate::store::{Channel, MessageStore, NewMessage, StoreError, Stored, StoredMessage};

/// How many messages a [`MemoryStore`] remembers by their `temp_id`.
const REMEMBERED_MESSAGES: usize = 65_536;

/// How many conversations it keeps members of.
const CONVERSATIONS: usize = 65_536;

/// How many members of each.
const MEMBERS: usize = 4_096;

type Conversation = (Option<Arc<str>>, String);

/// What one message is known by, however often it is sent.
type Attempt = (Arc<UserKey>, Channel, String);

#[derive(Default)]
struct Memory {
    last_id: u64,
    by_temp_id: HashMap<Attempt, StoredMessage>,
    order: VecDeque<Attempt>,
    members: HashMap<Conversation, BTreeSet<Arc<UserKey>>>,
}

/// Keeps in memory what a node needs while it runs: the newest 65 536 messages
/// that have a `temp_id`, to answer repetitions, and the members of 65 536
/// conversations. Gone with the process.
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
        let memory = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (tenant.map(Arc::from), conversation_id.to_owned());
        let members = memory
            .members
            .get(&key)
            .into_iter()
            .flatten()
            .cloned()
            .collect();
        Box::pin(std::future::ready(Ok(members)))
    }
}

impl Memory {
    fn append(&mut self, new: NewMessage) -> Stored {
        let repeated = new
            .temp_id
            .clone()
            .map(|temp_id| (new.sender.clone(), new.channel.clone(), temp_id));
        if let Some(message) = repeated.as_ref().and_then(|key| self.by_temp_id.get(key)) {
            return Stored {
                message: message.clone(),
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
            self.by_temp_id.insert(key.clone(), message.clone());
            self.order.push_back(key);
            if self.order.len() > REMEMBERED_MESSAGES {
                if let Some(oldest) = self.order.pop_front() {
                    self.by_temp_id.remove(&oldest);
                }
            }
        }
        Stored {
            message,
            duplicate: false,
        }
    }

    fn add_member(&mut self, conversation_id: &str, user: &Arc<UserKey>) {
        let key = (user.tenant_id.clone(), conversation_id.to_owned());
        if self.members.len() >= CONVERSATIONS && !self.members.contains_key(&key) {
            return;
        }
        let members = self.members.entry(key).or_default();
        if members.len() < MEMBERS {
            members.insert(user.clone());
        }
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
        assert!(memory.members.is_empty());
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
}

//! What a node needs of messages while it runs, in memory.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use crate::auth::{BoxFuture, UserKey};
use crate::bounded::Bounded;
use crate::store::challenges::OpenChallenges;
use crate::store::log::Log;
use crate::store::{
    Challenge, Challenges, Changed, Changes, Channel, Checkpoint, Checkpoints, Cleaned, Cleaning,
    History, HistoryQuery, Job, MessageStore, NewMessage, Redeemed, StoreError, Stored, Tell,
};

/// How many conversations it keeps members of.
const CONVERSATIONS: usize = 65_536;

/// What these may weigh, bytes.
const CONVERSATION_BYTES: usize = 64 << 20;

/// How many members of each.
const MEMBERS: usize = 4_096;

/// How many users it keeps a checkpoint of, those who were there last.
const CHECKPOINTS: usize = 65_536;

/// What these may weigh, bytes.
const CHECKPOINT_BYTES: usize = 64 << 20;

/// What an entry costs besides its texts, about, bytes.
const OVERHEAD: usize = 256;

type Conversation = (Option<Arc<str>>, String);

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
    log: Log,
    members: Bounded<Conversation, Members>,
    /// By their names, which are written in the code.
    jobs: BTreeMap<&'static str, Job>,
}

/// Keeps in memory what a node needs while it runs: the newest 65 536 messages, and the members
/// of the 65 536 conversations that were used last, 4 096 of each; either of at most 64 MB.
/// Gone with the process.
#[derive(Default)]
pub struct MemoryStore {
    memory: Mutex<Memory>,
    challenges: Mutex<OpenChallenges>,
    checkpoints: Mutex<Sessions>,
}

impl Checkpoints for MemoryStore {
    fn change(&self, changes: Changes) -> BoxFuture<Result<Changed, StoreError>> {
        let Sessions(kept) = &mut *self
            .checkpoints
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let changed = changes.apply(kept.get(&changes.user).cloned());
        if let (Some(checkpoint), true) = (&changed.checkpoint, changed.differs) {
            let rooms = checkpoint.rooms.iter().map(String::len).sum::<usize>();
            let bytes = weight(&changes.user) + checkpoint.metadata.len() + rooms;
            kept.put(changes.user, checkpoint.clone(), bytes);
        }
        Box::pin(std::future::ready(Ok(changed)))
    }

    fn checkpoint(&self, user: &Arc<UserKey>) -> BoxFuture<Result<Option<Checkpoint>, StoreError>> {
        let mut kept = self
            .checkpoints
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let kept = kept.0.get(user).cloned();
        Box::pin(std::future::ready(Ok(kept)))
    }
}

impl Challenges for MemoryStore {
    fn issue(&self, challenge: Challenge, now: u64) -> BoxFuture<Result<(), StoreError>> {
        let mut open = self
            .challenges
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        open.issue(challenge, now);
        Box::pin(std::future::ready(Ok(())))
    }

    fn redeem(
        &self,
        hash: [u8; 32],
        wallet: [u8; 32],
        now: u64,
    ) -> BoxFuture<Result<Redeemed, StoreError>> {
        let mut open = self
            .challenges
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let redeemed = open.redeem(&hash, &wallet, now);
        Box::pin(std::future::ready(Ok(redeemed)))
    }
}

impl MessageStore for MemoryStore {
    fn append(&self, new: NewMessage, tell: Tell) -> BoxFuture<Result<Stored, StoreError>> {
        let mut memory = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
        if let Channel::Conversation(id) = &new.channel {
            memory.add_member(id, &new.sender);
        }
        let stored = memory.log.append(new);
        if !stored.duplicate {
            // Under the lock: the next message cannot be told before this one.
            tell(&stored.message);
        }
        Box::pin(std::future::ready(Ok(stored)))
    }

    fn history(&self, query: HistoryQuery) -> BoxFuture<Result<History, StoreError>> {
        let mut memory = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
        Box::pin(std::future::ready(Ok(memory.log.history(&query))))
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

    fn clean(&self, what: Cleaning, _: u64) -> BoxFuture<Result<Cleaned, StoreError>> {
        let mut memory = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
        // All at once: there is not much of it.
        let rows = memory.log.clean(what);
        Box::pin(std::future::ready(Ok(Cleaned { rows, next: None })))
    }

    fn take_job(
        &self,
        name: &'static str,
        owner: &str,
        now: u64,
        until: u64,
    ) -> BoxFuture<Result<(Option<u64>, bool), StoreError>> {
        let mut memory = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
        let job = memory.jobs.entry(name).or_default();
        let is_taken = job.take(owner, now, until);
        Box::pin(std::future::ready(Ok((job.last_at, is_taken))))
    }

    fn end_job(&self, name: &'static str, done: Option<u64>) -> BoxFuture<Result<(), StoreError>> {
        let mut memory = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
        memory.jobs.entry(name).or_default().end(done);
        Box::pin(std::future::ready(Ok(())))
    }

    fn challenges(&self) -> Option<&dyn Challenges> {
        Some(self)
    }

    fn checkpoints(&self) -> Option<&dyn Checkpoints> {
        Some(self)
    }
}

/// What is kept of users.
struct Sessions(Bounded<Arc<UserKey>, Checkpoint>);

impl Default for Sessions {
    fn default() -> Self {
        Sessions(Bounded::new(CHECKPOINTS, CHECKPOINT_BYTES))
    }
}

impl Default for Memory {
    fn default() -> Self {
        Memory {
            log: Log::default(),
            members: Bounded::new(CONVERSATIONS, CONVERSATION_BYTES),
            jobs: BTreeMap::new(),
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

    #[test]
    fn writing_in_an_open_room_makes_nobody_a_member_of_a_conversation() {
        let store = MemoryStore::default();
        let say = |channel| {
            let new = NewMessage {
                sender: user("u"),
                channel,
                content: "hello".into(),
                temp_id: None,
                created_at: 1,
            };
            drop(store.append(new, Box::new(|_| ())));
            store.memory.lock().unwrap().members.len()
        };
        assert_eq!(say(Channel::Room("c".into())), 0);
        assert_eq!(say(Channel::Conversation("c".into())), 1);
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

//! What a node needs of messages while it runs, in memory.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::auth::{BoxFuture, UserKey};
use crate::bounded::Bounded;
use crate::store::challenges::OpenChallenges;
use crate::store::codes::Codes;
use crate::store::conversations::{
    Added, Conversations, Inbox, InboxEntry, InboxPlace, InboxQuery, Marked, Member, Membership,
};
use crate::store::invites::{Invite, InviteQuery, Invites, NewInvite, Unusable, Used};
use crate::store::log::Log;
use crate::store::people::People;
use crate::store::{
    Challenge, Challenges, Changed, Changes, Channel, Checkpoint, Checkpoints, Cleaned, Cleaning,
    History, HistoryQuery, Job, MessageStore, NewMessage, Redeemed, Start, StoreError, Stored,
    StoredMessage, Tell,
};

/// How many users it keeps a checkpoint of, those who were there last.
const CHECKPOINTS: usize = 65_536;

/// What these may weigh, bytes.
const CHECKPOINT_BYTES: usize = 64 << 20;

/// What an entry costs besides its texts, about, bytes.
const OVERHEAD: usize = 256;

#[derive(Default)]
struct Memory {
    log: Log,
    people: People,
    codes: Codes,
    /// By their names, which are written in the code.
    jobs: BTreeMap<&'static str, Job>,
}

/// Keeps in memory what a node needs while it runs: the newest 65 536 messages, and the members
/// of the 65 536 conversations that were used last; either of at most 64 MB; 65 536 invites; and
/// as many messages of before by what their senders called them.
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

/// An answer that is there.
fn ready<T: Send + 'static>(answer: T) -> BoxFuture<Result<T, StoreError>> {
    Box::pin(std::future::ready(Ok(answer)))
}

impl MemoryStore {
    fn lock(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl MessageStore for MemoryStore {
    fn append(&self, new: NewMessage, tell: Tell) -> BoxFuture<Result<Stored, StoreError>> {
        let mut memory = self.lock();
        let (sender, channel) = (new.sender.clone(), new.channel.clone());
        let stored = memory.log.append(new);
        if !stored.duplicate {
            if let Channel::Conversation(id) = &channel {
                memory.people.mark_read(id, &sender, stored.message.offset);
            }
            // Under the lock: the next message cannot be told before this one.
            tell(&stored.message);
        }
        ready(stored)
    }

    fn history(&self, query: HistoryQuery) -> BoxFuture<Result<History, StoreError>> {
        ready(self.lock().log.history(&query))
    }

    fn clean(&self, what: Cleaning, _: u64) -> BoxFuture<Result<Cleaned, StoreError>> {
        let mut memory = self.lock();
        // All at once: there is not much of it.
        let rows = match what {
            Cleaning::InvitesBefore(time) => memory.codes.clean(time),
            Cleaning::MessagesBefore { .. } | Cleaning::MessagesBeyond(_) => memory.log.clean(what),
        };
        Box::pin(std::future::ready(Ok(Cleaned { rows, next: None })))
    }

    fn take_job(
        &self,
        name: &'static str,
        owner: &str,
        now: u64,
        until: u64,
    ) -> BoxFuture<Result<(Option<u64>, bool), StoreError>> {
        let mut memory = self.lock();
        let job = memory.jobs.entry(name).or_default();
        let is_taken = job.take(owner, now, until);
        Box::pin(std::future::ready(Ok((job.last_at, is_taken))))
    }

    fn end_job(
        &self,
        name: &'static str,
        owner: &str,
        done: Option<u64>,
    ) -> BoxFuture<Result<(), StoreError>> {
        let mut memory = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
        memory.jobs.entry(name).or_default().end(owner, done);
        Box::pin(std::future::ready(Ok(())))
    }

    fn challenges(&self) -> Option<&dyn Challenges> {
        Some(self)
    }

    fn checkpoints(&self) -> Option<&dyn Checkpoints> {
        Some(self)
    }
}

impl Conversations for MemoryStore {
    fn add_member(
        &self,
        conversation_id: &str,
        user: &Arc<UserKey>,
        membership: Membership,
        now: u64,
    ) -> BoxFuture<Result<Added, StoreError>> {
        let mut memory = self.lock();
        ready(memory.people.add(conversation_id, user, membership, now))
    }

    fn remove_member(
        &self,
        conversation_id: &str,
        user: &Arc<UserKey>,
    ) -> BoxFuture<Result<bool, StoreError>> {
        ready(self.lock().people.remove(conversation_id, user))
    }

    fn members(
        &self,
        tenant: Option<&str>,
        conversation_id: &str,
    ) -> BoxFuture<Result<Vec<Member>, StoreError>> {
        ready(self.lock().people.members(tenant, conversation_id))
    }

    fn mark_read(
        &self,
        conversation_id: &str,
        user: &Arc<UserKey>,
        offset: u64,
        _now: u64,
    ) -> BoxFuture<Result<Option<Marked>, StoreError>> {
        let mut memory = self.lock();
        let (head, ..) = memory.end_of(user, conversation_id);
        let offset = offset.min(head);
        ready(memory.people.mark_read(conversation_id, user, offset))
    }

    fn inbox(&self, query: InboxQuery) -> BoxFuture<Result<Inbox, StoreError>> {
        let mut memory = self.lock();
        let mut entries = Vec::new();
        for (id, own) in memory.people.conversations_of(&query.user) {
            let (head, floor, last) = memory.end_of(&query.user, &id);
            let place = InboxPlace {
                at: last.as_ref().map_or(own.joined_at, |last| last.created_at),
                conversation_id: id.to_string(),
            };
            if query.after.as_ref().is_none_or(|after| place < *after) {
                let marker = (own.membership, own.read_offset);
                let entry = InboxEntry::new(id.to_string(), (head, floor), marker, last);
                entries.push((place, entry));
            }
        }
        entries.sort_by(|(one, _), (other, _)| other.cmp(one));
        ready(Inbox::of(entries.into_iter(), &query))
    }
}

/// What a user weighs, bytes.
fn weight(user: &UserKey) -> usize {
    let text = |text: &Option<Arc<str>>| text.as_ref().map_or(0, |text| text.len());
    OVERHEAD + user.user_id.len() + text(&user.tenant_id) + text(&user.user_type)
}

/// What is kept of users.
struct Sessions(Bounded<Arc<UserKey>, Checkpoint>);

impl Default for Sessions {
    fn default() -> Self {
        Sessions(Bounded::new(CHECKPOINTS, CHECKPOINT_BYTES))
    }
}

impl Invites for MemoryStore {
    fn create_invite(&self, code: &str, new: NewInvite) -> BoxFuture<Result<bool, StoreError>> {
        ready(self.lock().codes.create(code, new))
    }

    fn invite(&self, code: &str) -> BoxFuture<Result<Option<Invite>, StoreError>> {
        ready(self.lock().codes.get(code))
    }

    fn invites(&self, query: InviteQuery) -> BoxFuture<Result<Vec<Invite>, StoreError>> {
        ready(self.lock().codes.list(&query))
    }

    fn revoke_invite(&self, code: &str, now: u64) -> BoxFuture<Result<Option<Invite>, StoreError>> {
        ready(self.lock().codes.revoke(code, now))
    }

    fn use_invite(
        &self,
        code: &str,
        user: &Arc<UserKey>,
        now: u64,
    ) -> BoxFuture<Result<Result<Used, Unusable>, StoreError>> {
        let memory = &mut *self.lock();
        ready(memory.codes.take(&mut memory.people, code, user, now))
    }
}

impl Memory {
    /// The head and floor of a conversation of a user's tenant, and its last message.
    fn end_of(&mut self, user: &UserKey, id: &str) -> (u64, u64, Option<StoredMessage>) {
        let mut end = self.log.history(&HistoryQuery {
            tenant: user.tenant_id.clone(),
            channel: Channel::Conversation(id.to_owned()),
            from: Start::End,
            limit: 1,
            bytes: 0,
        });
        (end.head, end.floor, end.messages.pop())
    }
}

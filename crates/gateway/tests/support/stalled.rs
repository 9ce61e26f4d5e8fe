//! A store of tests that takes its time, fails and panics as it is told to, and counts.

use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use heartline::auth::{BoxFuture, UserKey};
use heartline::store::conversations::{
    Added, Conversations, Inbox, InboxQuery, Marked, Member, Membership,
};
use heartline::store::memory::MemoryStore;
use heartline::store::{History, HistoryQuery, MessageStore, NewMessage, StoreError, Stored, Tell};

use super::invites_of;

/// A store that stores a message whether or not anybody waits. What it is told holds for all that
/// are made of it.
#[derive(Clone, Default)]
pub(crate) struct Stalled {
    store: Arc<MemoryStore>,
    /// How long it takes for a message.
    pub(crate) time: Arc<Mutex<Duration>>,
    /// So many times it does not say who the members are.
    pub(crate) fails: Arc<AtomicU32>,
    /// Then it panics so many times instead.
    pub(crate) panics: Arc<AtomicU32>,
    /// How long it takes to say who they are.
    pub(crate) reads: Arc<Mutex<Duration>>,
    /// How often a marker was written.
    pub(crate) marks: Arc<AtomicUsize>,
}

/// Takes one of so many, if there is one left.
fn one_of(count: &AtomicU32) -> bool {
    let taken = count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
        left.checked_sub(1)
    });
    taken.is_ok()
}

impl MessageStore for Stalled {
    fn append(&self, new: NewMessage, tell: Tell) -> BoxFuture<Result<Stored, StoreError>> {
        let (store, time) = (self.store.clone(), *self.time.lock().unwrap());
        if time.is_zero() {
            return store.append(new, tell);
        }
        let stored = tokio::spawn(async move {
            tokio::time::sleep(time).await;
            store.append(new, tell).await
        });
        Box::pin(async move { stored.await.unwrap() })
    }

    fn history(&self, query: HistoryQuery) -> BoxFuture<Result<History, StoreError>> {
        self.store.history(query)
    }
}

impl Conversations for Stalled {
    fn add_member(
        &self,
        conversation_id: &str,
        user: &Arc<UserKey>,
        membership: Membership,
        now: u64,
    ) -> BoxFuture<Result<Added, StoreError>> {
        self.store
            .add_member(conversation_id, user, membership, now)
    }

    fn remove_member(
        &self,
        conversation_id: &str,
        user: &Arc<UserKey>,
    ) -> BoxFuture<Result<bool, StoreError>> {
        self.store.remove_member(conversation_id, user)
    }

    fn members(
        &self,
        tenant: Option<&str>,
        conversation_id: &str,
    ) -> BoxFuture<Result<Vec<Member>, StoreError>> {
        if one_of(&self.fails) {
            return Box::pin(async { Err(StoreError::Failed("it is away".into())) });
        }
        assert!(!one_of(&self.panics), "a store that panics");
        let (members, time) = (
            self.store.members(tenant, conversation_id),
            *self.reads.lock().unwrap(),
        );
        Box::pin(async move {
            tokio::time::sleep(time).await;
            members.await
        })
    }

    fn mark_read(
        &self,
        conversation_id: &str,
        user: &Arc<UserKey>,
        offset: u64,
        now: u64,
    ) -> BoxFuture<Result<Option<Marked>, StoreError>> {
        self.marks.fetch_add(1, Ordering::Relaxed);
        self.store.mark_read(conversation_id, user, offset, now)
    }

    fn inbox(&self, query: InboxQuery) -> BoxFuture<Result<Inbox, StoreError>> {
        self.store.inbox(query)
    }
}

invites_of::has_invites_of!(Stalled, store);

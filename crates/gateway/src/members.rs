//! Who belongs to conversations, as far as this node remembers it; and what opens one.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hashbrown::HashMap;
use heartline_core::auth::{BoxFuture, Identity, UserKey};
use heartline_core::backplane::Target;
use heartline_core::message::Message;
use heartline_core::policy::RoomAccess;
use heartline_core::rooms::{self, Grant, RoomError};
use heartline_core::store::StoreError;
use heartline_core::store::conversations::{Added, MAX_MEMBERS as MAX_OF_ONE, Member, Membership};
use heartline_core::store::offer::Store;
use heartline_engine::clock::Clock;
use heartline_wire::codes::Code;
use heartline_wire::time::Micros;
use serde::{Deserialize, Serialize};
use tokio::sync::{Notify, OnceCell, oneshot};

use crate::event::{EventError, to_json};
use crate::fanout::{Fanout, ToRoom};
use crate::op::{Guest, Op};

/// How long what was read is believed: longest after another node's change that this one was
/// not told of.
const FRESH: Duration = Duration::from_secs(30);

/// How many conversations are remembered, and how many members of all together (about 64 MB).
/// When there are more, all are forgotten.
const MAX_CONVERSATIONS: usize = 100_000;
const MAX_MEMBERS: usize = 1_000_000;

/// How long the store may take to keep a member before whoever joined is answered.
const PATIENCE: Duration = Duration::from_secs(2);

/// What whoever asks is told to wait when the store does not answer, milliseconds.
pub(crate) const RETRY_AFTER_MS: u64 = 1_000;

/// The members of a conversation.
pub(crate) type List = HashMap<Arc<UserKey>, Membership>;

type Conversation = (Option<Arc<str>>, Arc<str>);

/// A conversation that was asked for: read once, by the first who wants it.
struct Known {
    since: Micros,
    list: OnceCell<Arc<List>>,
}

/// What a node has changed, told to the others.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Change {
    conversation_id: String,
    tenant_id: Option<String>,
    user_id: String,
    user_type: Option<String>,
    left: bool,
}

/// What members are told.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Told<'a> {
    conversation_id: &'a str,
    user_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    user_type: Option<&'a str>,
}

/// The members of conversations.
pub(crate) struct Members {
    store: Arc<dyn Store>,
    access: RoomAccess,
    fanout: Arc<Fanout>,
    clock: Clock,
    known: Mutex<HashMap<Conversation, Arc<Known>>>,
    /// Changes of other nodes may have been lost since who is here was looked at.
    lost: Notify,
}

/// A store that cannot say who belongs to a conversation.
fn unreadable(error: &StoreError) -> EventError {
    tracing::error!(%error, "a conversation's members could not be read");
    let what = "The members could not be read; try again";
    EventError::new(Code::Internal, what).retry_after(RETRY_AFTER_MS)
}

impl Members {
    pub(crate) fn new(
        store: Arc<dyn Store>,
        access: RoomAccess,
        fanout: Arc<Fanout>,
        clock: Clock,
    ) -> Members {
        Members {
            store,
            access,
            fanout,
            clock,
            known: Mutex::default(),
            lost: Notify::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Conversation, Arc<Known>>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is remembered of a conversation, if that is fresh.
    fn fresh(&self, conversation: &Conversation) -> Option<Arc<Known>> {
        let known = self.lock().get(conversation)?.clone();
        (self.clock.now() < known.since + FRESH).then_some(known)
    }

    /// The members of a conversation, if they are remembered.
    fn remembered(&self, tenant: Option<&Arc<str>>, id: &str) -> Option<Arc<List>> {
        let known = self.fresh(&(tenant.cloned(), id.into()))?;
        known.list.get().cloned()
    }

    /// The members of a conversation. Many who ask at once are one question to the store.
    pub(crate) async fn list(
        &self,
        tenant: Option<&Arc<str>>,
        id: &str,
    ) -> Result<Arc<List>, StoreError> {
        let conversation = (tenant.cloned(), Arc::from(id));
        let known = self.fresh(&conversation).unwrap_or_else(|| {
            let known = Arc::new(Known {
                since: self.clock.now(),
                list: OnceCell::new(),
            });
            self.remember(conversation, known.clone());
            known
        });
        let read = || async {
            let tenant = tenant.map(|tenant| &**tenant);
            let members = self.store.members(tenant, id).await?;
            let list = members.into_iter();
            let list = list.map(|member| (member.user, member.membership));
            Ok(Arc::new(list.collect()))
        };
        known.list.get_or_try_init(read).await.cloned()
    }

    fn remember(&self, conversation: Conversation, new: Arc<Known>) {
        let mut all = self.lock();
        let weight = |known: &Arc<Known>| known.list.get().map_or(0, |list| list.len());
        // Looked at seldom: between two looks this many conversations may come.
        let is_full = all.len() >= MAX_CONVERSATIONS
            || (all.len() % 256 == 255 && all.values().map(weight).sum::<usize>() > MAX_MEMBERS);
        if is_full {
            all.clear();
        }
        all.insert(conversation, new);
    }

    fn forget(&self, tenant: Option<&Arc<str>>, id: &str) {
        self.lock().remove(&(tenant.cloned(), Arc::from(id)));
    }

    /// Nothing is known any more of what other nodes have changed.
    pub(crate) fn forget_all(&self) {
        self.lock().clear();
    }

    /// Changes of other nodes may have been lost: nothing is known any more, and whoever is in a
    /// conversation's room here is looked at, once for all losses until that begins. What other
    /// nodes change is not in a store that this one has alone.
    pub(crate) fn changes_lost(&self) {
        self.forget_all();
        if self.store.is_shared() {
            self.lost.notify_one();
        }
    }

    /// Waits until changes of other nodes may have been lost.
    pub(crate) async fn loss(&self) {
        self.lost.notified().await;
    }

    /// Those of who is in rooms of conversations as members that are none, as far as the store says.
    /// It is asked about one conversation at a time.
    ///
    /// # Errors
    /// It does not say who belongs to one.
    pub(crate) async fn strangers(&self, guests: &[Guest]) -> Result<Vec<Guest>, StoreError> {
        let mut strangers = Vec::new();
        for (room, user) in guests {
            let Some(id) = rooms::conversation_of(room) else {
                continue;
            };
            let list = self.list(user.tenant_id.as_ref(), id).await?;
            // Whom an app has put there against their token is a member too, unless it was full.
            if !list.contains_key(user) && list.len() < MAX_OF_ONE {
                strangers.push((room.clone(), user.clone()));
            }
        }
        Ok(strangers)
    }

    /// Those of them leave who are still no members: it is looked at anew.
    ///
    /// # Errors
    /// The store does not say who belongs to a conversation: nobody has left.
    pub(crate) async fn put_out(&self, strangers: &[Guest]) -> Result<(), StoreError> {
        for (room, user) in strangers {
            if let Some(id) = rooms::conversation_of(room) {
                self.forget(user.tenant_id.as_ref(), id);
            }
        }
        for (room, user) in self.strangers(strangers).await? {
            if let Some(id) = rooms::conversation_of(&room) {
                self.expel(id, &user);
            }
        }
        Ok(())
    }

    /// Whether a room that a token grants so far is open, if that can be said at once.
    fn decide(
        &self,
        room: &str,
        identity: &Identity,
        grant: Result<Grant, RoomError>,
    ) -> Option<Result<(), RoomError>> {
        let grant = match grant {
            Ok(Grant::Given) => return Some(Ok(())),
            Ok(grant) => grant,
            Err(error) => return Some(Err(error)),
        };
        let (user, id) = (identity.user.as_ref()?, rooms::conversation_of(room)?);
        let list = self.remembered(user.tenant_id.as_ref(), id)?;
        Some(grant.for_member(list.get(user).copied()))
    }

    /// The same, after the store was asked where nobody knows.
    async fn find_out(
        &self,
        room: &str,
        identity: &Identity,
        grant: Result<Grant, RoomError>,
    ) -> Result<(), EventError> {
        if let Some(decided) = self.decide(room, identity, grant) {
            return Ok(decided?);
        }
        let (Ok(grant), Some(user), Some(id)) =
            (grant, &identity.user, rooms::conversation_of(room))
        else {
            return Err(RoomError::Forbidden.into());
        };
        let list = self.list(user.tenant_id.as_ref(), id).await;
        let list = list.map_err(|error| unreadable(&error))?;
        Ok(grant.for_member(list.get(user).copied())?)
    }

    /// What a token says of joining a room.
    pub(crate) fn grant(&self, room: &str, identity: &Identity) -> Result<Grant, RoomError> {
        rooms::may_join(room, identity, self.access)
    }

    /// Whether a room may be joined; `None`: the store has to be asked.
    pub(crate) fn may_join_now(
        &self,
        room: &str,
        identity: &Identity,
    ) -> Option<Result<(), RoomError>> {
        self.decide(room, identity, self.grant(room, identity))
    }

    /// Whether what is said to the members of a conversation who are not in its room is for this one
    /// of them; `None`: the store has to be asked.
    pub(crate) fn may_be_told_now(&self, room: &str, identity: &Identity) -> Option<bool> {
        let grant = self.grant(room, identity);
        match self.decide(room, identity, grant) {
            // Nobody else is told.
            None if grant == Ok(Grant::ToMembers(Membership::Joined)) => Some(true),
            open => open.map(|open| open.is_ok()),
        }
    }

    /// Whether a room may be joined.
    pub(crate) async fn may_join(&self, room: &str, identity: &Identity) -> Result<(), EventError> {
        self.find_out(room, identity, self.grant(room, identity))
            .await
    }

    /// Whether a room may be published to; `None`: the store has to be asked.
    pub(crate) fn may_publish_now(
        &self,
        room: &str,
        identity: &Identity,
    ) -> Option<Result<(), RoomError>> {
        let grant = rooms::may_publish(room, identity, self.access);
        self.decide(room, identity, grant)
    }

    /// Whether a room may be published to.
    pub(crate) async fn may_publish(
        &self,
        room: &str,
        identity: &Identity,
    ) -> Result<(), EventError> {
        let grant = rooms::may_publish(room, identity, self.access);
        self.find_out(room, identity, grant).await
    }

    /// All members of a conversation, with what is known of them.
    pub(crate) fn all(
        &self,
        tenant: Option<&str>,
        id: &str,
    ) -> BoxFuture<Result<Vec<Member>, StoreError>> {
        self.store.members(tenant, id)
    }

    /// Somebody has joined a conversation: a member from now on. Resolves when the store has
    /// that, or takes too long; a store that does not keep it only warns.
    pub(crate) async fn joined(self: &Arc<Self>, id: &str, user: &Arc<UserKey>) {
        match self.list(user.tenant_id.as_ref(), id).await {
            Ok(list) if list.contains_key(user) => {}
            _ => self.takes_part(id, user, None).await,
        }
    }

    /// The same where it is to be kept with what is stored next: the store is asked at once. That
    /// has been read by who has `written` it, whose offset is said there: where nodes share a store,
    /// it may not have found them a member yet.
    pub(crate) fn takes_part(
        self: &Arc<Self>,
        id: &str,
        user: &Arc<UserKey>,
        written: Option<oneshot::Receiver<u64>>,
    ) -> BoxFuture<()> {
        let remembered = self.remembered(user.tenant_id.as_ref(), id);
        if remembered.is_some_and(|list| list.contains_key(user)) {
            return Box::pin(std::future::ready(()));
        }
        let added = self.add(id, user, Membership::Joined);
        let written = written.filter(|_| self.store.is_shared());
        let (members, id, user) = (self.clone(), id.to_owned(), user.clone());
        // It is kept however long that takes.
        let kept = tokio::spawn(async move {
            let is_in = added.await? != Added::Full;
            if let Some(written) = written.filter(|_| is_in)
                && let Ok(offset) = written.await
            {
                let now = members.clock.unix_millis(members.clock.now());
                members.store.mark_read(&id, &user, offset, now).await?;
            }
            Ok::<(), StoreError>(())
        });
        Box::pin(async move {
            if let Ok(Ok(Err(error))) = tokio::time::timeout(PATIENCE, kept).await {
                tracing::warn!(%error, "a conversation's member could not be stored");
            }
        })
    }

    /// Makes a user a member, and tells who is to know.
    pub(crate) fn add(
        self: &Arc<Self>,
        id: &str,
        user: &Arc<UserKey>,
        membership: Membership,
    ) -> BoxFuture<Result<Added, StoreError>> {
        let now = self.clock.unix_millis(self.clock.now());
        let added = self.store.add_member(id, user, membership, now);
        let (members, id, user) = (self.clone(), id.to_owned(), user.clone());
        Box::pin(async move {
            let added = added.await?;
            members.added(&id, &user, added);
            Ok(added)
        })
    }

    /// A user has become a member.
    pub(crate) fn added(&self, id: &str, user: &UserKey, added: Added) {
        if [Added::New, Added::Raised].contains(&added) {
            self.changed(id, user, false);
        }
        if added == Added::New {
            self.tell(id, user, "member:joined");
        }
    }

    /// Ends a membership, and tells who is to know; whether there was one. The user's sockets
    /// leave the conversation's room, unless their tokens open it: also where the store says that
    /// there is none, or nothing. Whoever ended it before may have had no time to tell.
    pub(crate) async fn remove(&self, id: &str, user: &Arc<UserKey>) -> Result<bool, StoreError> {
        let removed = self.store.remove_member(id, user).await;
        self.changed(id, user, true);
        if let Ok(true) = removed {
            // Also to who goes.
            self.tell(id, user, "member:left");
        }
        self.expel(id, user);
        removed
    }

    /// What this node and others remember is not so any more.
    fn changed(&self, id: &str, user: &UserKey, left: bool) {
        self.forget(user.tenant_id.as_ref(), id);
        let text = |text: &Option<Arc<str>>| text.as_ref().map(ToString::to_string);
        let change = Change {
            conversation_id: id.to_owned(),
            tenant_id: text(&user.tenant_id),
            user_id: user.user_id.to_string(),
            user_type: text(&user.user_type),
            left,
        };
        if let Ok(change) = to_json(&change) {
            let message = Message::new("members", &change);
            self.fanout.backplane.publish(&Target::Nodes, &message);
        }
    }

    /// Another node has changed something.
    pub(crate) fn changed_elsewhere(&self, message: &Message) {
        let Ok(change) = serde_json::from_str::<Change>(&message.args) else {
            // Whoever's membership it was about.
            self.fanout.unread.notes.fetch_add(1, Ordering::Relaxed);
            return self.changes_lost();
        };
        let user = UserKey {
            tenant_id: change.tenant_id.map(Into::into),
            user_id: change.user_id.into(),
            user_type: change.user_type.map(Into::into),
        };
        self.forget(user.tenant_id.as_ref(), &change.conversation_id);
        if change.left {
            self.expel(&change.conversation_id, &user);
        }
    }

    /// Looks again at a user's sockets here that may be in the room of a conversation.
    fn expel(&self, id: &str, user: &UserKey) {
        let room: Arc<str> = rooms::of_conversation(id).into();
        let tenant = user.tenant_id.as_deref();
        let local = self.fanout.backplane.local();
        for to in local.sockets(tenant, &user.user_id, Some(user)) {
            let room = room.clone();
            self.fanout
                .post(to.0.conn.shard, Op::LookAgain { to, room });
        }
    }

    /// Tells the room of a conversation, in every namespace, of a user.
    fn tell(&self, id: &str, user: &UserKey, event: &str) {
        let told = Told {
            conversation_id: id,
            user_id: &user.user_id,
            user_type: user.user_type.as_deref(),
        };
        if let Ok(told) = to_json(&told) {
            self.tell_room(id, user, &Message::new(event, &told));
        }
    }

    /// Gives a message to the room of a conversation of a user's tenant, in every namespace.
    pub(crate) fn tell_room(&self, id: &str, user: &UserKey, message: &Message) {
        let room = rooms::of_conversation(id);
        for (namespace, _) in self.fanout.namespaces.iter() {
            let to = ToRoom {
                namespace,
                tenant: user.tenant_id.as_deref(),
                room: &room,
                key: None,
                skip: None,
            };
            drop(self.fanout.publish_to_room(&to, message.clone()));
        }
    }
}

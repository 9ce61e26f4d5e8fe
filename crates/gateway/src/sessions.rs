//! What users' clients keep for the next time, on its way to the store.
//!
//! Changes of one user are gathered for a moment and written together, so that a client may say
//! every few milliseconds where it is. One batch of a user's is under way at a time: what was
//! said first is merged first.

use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hashbrown::{HashMap, HashSet};
use heartline_core::auth::{RoomPattern, UserKey};
use heartline_core::presence::SocketAddress;
use heartline_core::rooms::PRIVATE;
use heartline_core::store::{
    Changes, Checkpoint, MAX_ROOMS, MessageStore, Outcome, Patch, StoreError,
};
use heartline_engine::clock::Clock;
use tokio::runtime::Handle;
use tokio::sync::{Notify, oneshot, watch};

use crate::fanout::Fanout;

/// How long changes are gathered.
const GATHERED_FOR: Duration = Duration::from_millis(200);

/// How many patches of one user may wait, and what they may weigh, bytes: a store that is slow
/// for seconds is no place to keep what a client says meanwhile.
const MAX_WAITING: usize = 256;
const MAX_WAITING_BYTES: usize = 1 << 20;

/// How long an end waits for what is under way: as long as the store may wait for a stranger.
const CLOSING: Duration = Duration::from_secs(6);

type Told<T> = Result<T, StoreError>;

/// What waits of one user.
#[derive(Default)]
struct Waiting {
    patches: Vec<(Patch, oneshot::Sender<Told<Outcome>>)>,
    bytes: usize,
    /// The rooms of sockets that have ended, the last one's first.
    left: Option<Vec<String>>,
    questions: Vec<oneshot::Sender<Told<Option<Checkpoint>>>>,
    hurry: Arc<Notify>,
}

impl Waiting {
    fn is_empty(&self) -> bool {
        self.patches.is_empty() && self.left.is_none() && self.questions.is_empty()
    }
}

#[derive(Default)]
struct Table {
    waiting: HashMap<Arc<UserKey>, Waiting>,
    /// Users with sockets here of whom something is kept: only their ends are written.
    kept: HashSet<Arc<UserKey>>,
}

/// Checkpoints of the users that are connected here.
pub(crate) struct Sessions {
    table: Mutex<Table>,
    store: Arc<dyn MessageStore>,
    fanout: Arc<Fanout>,
    clock: Clock,
    /// Which rooms are kept.
    rooms: Vec<RoomPattern>,
    /// Where batches are written; none in tests without a runtime.
    runtime: Option<Handle>,
    /// How many users' changes are under way.
    busy: watch::Sender<usize>,
    /// Nothing is gathered any more.
    closing: AtomicBool,
}

fn keeps_none() -> StoreError {
    StoreError::Failed("this store keeps no checkpoints".into())
}

impl Sessions {
    pub(crate) fn new(
        store: Arc<dyn MessageStore>,
        fanout: Arc<Fanout>,
        clock: Clock,
        rooms: Vec<RoomPattern>,
    ) -> Sessions {
        Sessions {
            table: Mutex::default(),
            store,
            fanout,
            clock,
            rooms,
            runtime: Handle::try_current().ok(),
            busy: watch::Sender::new(0),
            closing: AtomicBool::new(false),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Merges a patch of so many bytes into what is kept of a user; what came of it, once that
    /// is kept.
    pub(crate) fn change(
        self: &Arc<Self>,
        user: &Arc<UserKey>,
        patch: Patch,
        bytes: usize,
    ) -> impl Future<Output = Told<Outcome>> + use<> {
        let (reply, outcome) = oneshot::channel();
        let mut table = self.lock();
        let waiting = self.waiting(&mut table, user);
        let is_full = waiting.patches.len() >= MAX_WAITING;
        let accepted = !is_full && waiting.bytes + bytes <= MAX_WAITING_BYTES;
        if accepted {
            waiting.patches.push((patch, reply));
            waiting.bytes += bytes;
        }
        drop(table);
        async move {
            match accepted {
                true => outcome.await.unwrap_or_else(|_| Err(keeps_none())),
                false => Err(StoreError::Overloaded),
            }
        }
    }

    /// Whether the end of one of this user's sockets is to be noted.
    pub(crate) fn follows(&self, user: &Arc<UserKey>) -> bool {
        let table = self.lock();
        table.kept.contains(user) || table.waiting.contains_key(user)
    }

    /// A socket of a user has ended that was in these rooms, the newest first.
    pub(crate) fn left(self: &Arc<Self>, user: &Arc<UserKey>, rooms: Vec<String>) {
        let mut table = self.lock();
        let left = &mut self.waiting(&mut table, user).left;
        let earlier = left.replace(rooms);
        if let (Some(left), Some(earlier)) = (left, earlier) {
            left.extend(earlier);
        }
    }

    /// What is kept of a user, all that was said here included; the rooms are those of the
    /// user's sockets here, if these are in any. A newcomer's own rooms do not count: it asks
    /// where its user was before.
    pub(crate) async fn checkpoint(
        self: &Arc<Self>,
        user: &Arc<UserKey>,
        newcomer: Option<SocketAddress>,
    ) -> Told<Option<Checkpoint>> {
        // The rooms first: a socket that ends notes them before it gives them back, so that
        // they are found here or behind what waits.
        let here = self.rooms_here(user, newcomer).await;
        let asked = self.ask_behind(user);
        let found = match asked {
            Some(answer) => answer.await.unwrap_or_else(|_| Err(keeps_none())),
            None => match self.store.checkpoints() {
                Some(checkpoints) => checkpoints.checkpoint(user).await,
                None => return Ok(None),
            },
        };
        let mut found = found?;
        if let Some(checkpoint) = &mut found {
            if let Some(rooms) = here.filter(|rooms| !rooms.is_empty()) {
                checkpoint.rooms = rooms;
            }
            self.lock().kept.insert(user.clone());
            // Whose last socket ended meanwhile was not followed.
            if self.sockets_here(user).is_empty() {
                self.lock().kept.remove(user);
            }
        }
        Ok(found)
    }

    /// Puts a question behind what waits of a user, which is written at once then.
    fn ask_behind(
        &self,
        user: &Arc<UserKey>,
    ) -> Option<oneshot::Receiver<Told<Option<Checkpoint>>>> {
        let mut table = self.lock();
        let waiting = table.waiting.get_mut(user)?;
        let (reply, answer) = oneshot::channel();
        waiting.questions.push(reply);
        waiting.hurry.notify_one();
        Some(answer)
    }

    /// What waits of a user; if nothing did, it will be written after a moment.
    fn waiting<'a>(self: &Arc<Self>, table: &'a mut Table, user: &Arc<UserKey>) -> &'a mut Waiting {
        table.waiting.entry(user.clone()).or_insert_with(|| {
            let waiting = Waiting::default();
            if let Some(runtime) = &self.runtime {
                self.busy.send_modify(|busy| *busy += 1);
                let (sessions, user) = (self.clone(), user.clone());
                let hurry = waiting.hurry.clone();
                runtime.spawn(async move { sessions.write_all(&user, &hurry).await });
            }
            waiting
        })
    }

    /// Writes what waits of a user, batch by batch, until nothing does.
    async fn write_all(&self, user: &Arc<UserKey>, hurry: &Notify) {
        loop {
            if !self.closing.load(Ordering::Relaxed) {
                let _ = tokio::time::timeout(GATHERED_FOR, hurry.notified()).await;
            }
            match self.take(user) {
                Some(batch) => self.write(user, batch).await,
                None => break,
            }
        }
        self.busy.send_modify(|busy| *busy -= 1);
    }

    /// What waits of a user; nothing: the user's changes are no longer under way.
    fn take(&self, user: &Arc<UserKey>) -> Option<Waiting> {
        let mut table = self.lock();
        let Some(waiting) = table.waiting.get_mut(user).filter(|all| !all.is_empty()) else {
            table.waiting.remove(user);
            return None;
        };
        let batch = std::mem::take(waiting);
        waiting.hurry = batch.hurry.clone();
        Some(batch)
    }

    async fn write(&self, user: &Arc<UserKey>, batch: Waiting) {
        let here = self.rooms_here(user, None).await;
        let is_gone = here.is_none();
        // Who has just come back is in no rooms yet but those that everybody is put into: what
        // was left a moment ago counts.
        let rooms = match (here, batch.left) {
            (here, Some(left)) => {
                let here = here.unwrap_or_default();
                Some(self.to_keep(here.into_iter().chain(left)))
            }
            // A question alone changes nothing.
            (here, None) => here.filter(|_| !batch.patches.is_empty()),
        };
        let (patches, replies): (Vec<_>, Vec<_>) = batch.patches.into_iter().unzip();
        let changes = Changes {
            user: user.clone(),
            patches,
            rooms,
            now: self.clock.unix_millis(self.clock.now()),
        };
        let changed = match self.store.checkpoints() {
            Some(checkpoints) => checkpoints.change(changes).await,
            None => Err(keeps_none()),
        };
        if let Err(error) = &changed {
            tracing::warn!(%error, "a checkpoint could not be kept");
        }
        // Before the answers: who hears that something is kept may go at once.
        match &changed {
            _ if is_gone => drop(self.lock().kept.remove(user)),
            Ok(changed) if changed.checkpoint.is_some() => {
                self.lock().kept.insert(user.clone());
            }
            _ => {}
        }
        for (index, reply) in replies.into_iter().enumerate() {
            let outcome = changed.as_ref().map_err(Clone::clone);
            let outcome = outcome.and_then(|changed| {
                let outcome = changed.outcomes.get(index).cloned();
                outcome.ok_or_else(keeps_none)
            });
            let _ = reply.send(outcome);
        }
        for question in batch.questions {
            let checkpoint = changed.as_ref().map_err(Clone::clone);
            let _ = question.send(checkpoint.map(|changed| changed.checkpoint.clone()));
        }
    }

    fn sockets_here(&self, user: &UserKey) -> Vec<SocketAddress> {
        let local = self.fanout.backplane.local();
        local.sockets(user.tenant_id.as_deref(), &user.user_id, Some(user))
    }

    /// The rooms that the user's sockets are in here, one of them left out; `None`: there are no
    /// other sockets.
    async fn rooms_here(
        &self,
        user: &UserKey,
        without: Option<SocketAddress>,
    ) -> Option<Vec<String>> {
        let others = || {
            let mut sockets = self.sockets_here(user);
            sockets.retain(|socket| Some(*socket) != without);
            Some(sockets).filter(|sockets| !sockets.is_empty())
        };
        let rooms = self.fanout.recent_rooms(&others()?).await;
        // A socket whose end was under way has ended now.
        others().map(|_| self.to_keep(rooms))
    }

    /// Those of some rooms that are kept, each once.
    fn to_keep(&self, rooms: impl IntoIterator<Item = String>) -> Vec<String> {
        let mut kept = Vec::new();
        for room in rooms {
            let is_wanted = self.rooms.iter().any(|pattern| pattern.matches(&room));
            if is_wanted && !room.starts_with(PRIVATE) && !kept.contains(&room) {
                kept.push(room);
            }
            if kept.len() == MAX_ROOMS {
                break;
            }
        }
        kept
    }

    /// Writes at once what waits. Resolves when that is done, or has taken too long.
    pub(crate) async fn close(&self) {
        self.closing.store(true, Ordering::Relaxed);
        for waiting in self.lock().waiting.values() {
            waiting.hurry.notify_one();
        }
        let mut busy = self.busy.subscribe();
        let done = busy.wait_for(|busy| *busy == 0);
        let _ = tokio::time::timeout(CLOSING, done).await;
    }
}

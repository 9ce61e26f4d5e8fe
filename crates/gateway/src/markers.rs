//! Read markers on their way to the store: those of a moment are one.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hashbrown::HashMap;
use heartline_core::auth::UserKey;
use heartline_core::message::Message;
use heartline_core::presence::SocketAddress;
use heartline_core::rooms;
use heartline_core::store::StoreError;
use heartline_core::store::conversations::Marked;
use heartline_core::store::offer::Store;
use heartline_engine::clock::Clock;
use serde::Serialize;
use tokio::sync::oneshot;

use crate::event::to_json;
use crate::fanout::{Fanout, ToRoom, ToUser};

/// How long a marker waits for others of its user and conversation: who scrolls says a new
/// one with every message.
const GATHER: Duration = Duration::from_millis(200);

type Place = (Arc<UserKey>, Arc<str>);

type Reply = oneshot::Sender<Result<Option<Marked>, StoreError>>;

/// What is to become of a marker.
struct Waiting {
    offset: u64,
    /// Whose client said so.
    by: SocketAddress,
    /// As many as handlers wait: their number has a bound for each connection.
    replies: Vec<Reply>,
}

/// The markers that wait, and the way to the store.
pub(crate) struct Markers {
    store: Arc<dyn Store>,
    fanout: Arc<Fanout>,
    clock: Clock,
    /// Everybody in the room is told.
    receipts: bool,
    waiting: Mutex<HashMap<Place, Waiting>>,
}

/// What is told of a marker.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Read<'a> {
    conversation_id: &'a str,
    user_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    user_type: Option<&'a str>,
    offset: u64,
}

impl Markers {
    pub(crate) fn new(
        store: Arc<dyn Store>,
        fanout: Arc<Fanout>,
        clock: Clock,
        receipts: bool,
    ) -> Markers {
        Markers {
            store,
            fanout,
            clock,
            receipts,
            waiting: Mutex::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Place, Waiting>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Moves a user's marker forward, with all that is said of it within a moment; where it
    /// stands then. `None`: the user is no member.
    pub(crate) async fn mark(
        self: &Arc<Self>,
        (user, id): (&Arc<UserKey>, &str),
        offset: u64,
        by: SocketAddress,
    ) -> Result<Option<Marked>, StoreError> {
        let place: Place = (user.clone(), id.into());
        let (reply, answer) = oneshot::channel();
        if self.gather(&place, offset, by, reply) {
            let markers = self.clone();
            tokio::spawn(async move {
                tokio::time::sleep(GATHER).await;
                let waiting = markers.lock().remove(&place);
                if let Some(waiting) = waiting {
                    markers.write(&place, waiting).await;
                }
            });
        }
        let ended = || StoreError::Failed("the gateway ends".into());
        answer.await.unwrap_or_else(|_| Err(ended()))
    }

    /// Whether it is the first of its place.
    fn gather(&self, place: &Place, offset: u64, by: SocketAddress, reply: Reply) -> bool {
        let mut all = self.lock();
        let waiting = all.entry(place.clone()).or_insert_with(|| Waiting {
            offset: 0,
            by,
            replies: Vec::new(),
        });
        if offset >= waiting.offset {
            waiting.offset = offset;
            waiting.by = by;
        }
        waiting.replies.push(reply);
        waiting.replies.len() == 1
    }

    async fn write(&self, (user, id): &Place, waiting: Waiting) {
        let now = self.clock.unix_millis(self.clock.now());
        let marked = self.store.mark_read(id, user, waiting.offset, now).await;
        if let Ok(Some(marked)) = marked
            && marked.moved
        {
            self.tell(user, id, marked.offset, waiting.by);
        }
        for reply in waiting.replies {
            // Whoever asked may have gone.
            let _ = reply.send(marked.clone());
        }
    }

    /// Tells the user's other sockets, in every namespace, and, where receipts are on,
    /// everybody in the room; each socket once.
    fn tell(&self, user: &UserKey, id: &str, offset: u64, by: SocketAddress) {
        let read = Read {
            conversation_id: id,
            user_id: &user.user_id,
            user_type: user.user_type.as_deref(),
            offset,
        };
        let Ok(read) = to_json(&read) else {
            return;
        };
        let message = Message::new("message:read", &read);
        let room = rooms::of_conversation(id);
        for (namespace, _) in self.fanout.namespaces.iter() {
            let (tenant, skip) = (user.tenant_id.as_deref(), Some(by));
            if self.receipts {
                let to = ToRoom {
                    namespace,
                    tenant,
                    room: &room,
                    key: None,
                    skip,
                };
                drop(self.fanout.publish_to_room(&to, message.clone()));
            }
            let to = ToUser {
                namespace,
                tenant,
                user: &user.user_id,
                only: Some(user),
                topic: None,
                instead_of: self.receipts.then_some(&*room),
                key: None,
                skip,
            };
            drop(self.fanout.send_to_user(&to, message.clone()));
        }
    }
}

//! A lane: one task with a connection of its own, which stores everything that waits for it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use heartline_core::store::{StoreError, Stored};
use tokio::sync::mpsc::{Receiver, Sender};

use super::session::{Meaning, Pauses, Server, Session, meaning, random, sentence};
use super::tables::{Attempt, Tables};
use crate::queue::Queue;
use crate::waiting::Reply;

/// Most messages in one statement: more make it longer, and hardly cheaper.
const BATCH: usize = 1_024;

/// And most bytes.
const BATCH_BYTES: usize = 4 << 20;

/// How long a statement may take. After that the connection is given up, and the same is asked
/// on another: what was stored after all is found by its keys.
const ANSWER: Duration = Duration::from_secs(10);

/// How often the same rows are tried for, when others are at them.
const TRIES: u32 = 20;

/// How often a batch is sent that PostgreSQL does not survive, and for how long at least.
const LOSSES: u32 = 5;
const LOSING: Duration = Duration::from_secs(30);

/// Whoever has waited so long has been told that it failed: a message that was never sent is
/// not stored much later, when nobody expects it any more.
const STALE: Duration = Duration::from_secs(10);

/// A message in a lane.
pub(super) struct Queued {
    pub(super) attempt: Attempt,
    pub(super) reply: Reply,
    pub(super) since: Instant,
}

impl Queued {
    fn is_given_up(&self) -> bool {
        self.reply.sender.is_closed() && self.since.elapsed() > STALE
    }
}

/// What a batch came to.
pub(super) type Done = Vec<(Reply, Result<Stored, StoreError>)>;

/// How a lane fares, for whoever asks.
pub(super) type Trouble = Arc<AtomicBool>;

/// Why a part of a batch is not stored.
enum NotStored {
    /// Because of what is in it.
    Refused(String),
    Failed(String),
}

pub(super) struct Lane {
    pub(super) server: Arc<Server>,
    pub(super) session: Option<Arc<Session>>,
    pub(super) tables: Tables,
    pub(super) queue: Arc<Queue<Queued>>,
    pub(super) trouble: Trouble,
    pub(super) done: Sender<Done>,
}

impl Lane {
    /// Stores until the queue is closed and empty.
    pub(super) async fn run(mut self) {
        loop {
            // While nothing waits a lost connection is replaced all the same: whoever asks
            // whether the store is in trouble hears the truth.
            let session = self.session().await;
            let batch = tokio::select! {
                batch = self.queue.take_soon(BATCH, BATCH_BYTES) => batch,
                () = session.over() => continue,
            };
            let Some(batch) = batch else {
                break;
            };
            let wanted = batch.into_iter().filter(|queued| !queued.is_given_up());
            let (attempts, replies): (Vec<_>, Vec<_>) =
                wanted.map(|queued| (queued.attempt, queued.reply)).unzip();
            let stored = self.store(&attempts).await;
            let done = replies.into_iter().zip(stored).collect();
            if self.done.send(done).await.is_err() {
                break;
            }
        }
    }

    /// The connection; waits until there is one.
    async fn session(&mut self) -> Arc<Session> {
        let mut pauses = Pauses::default();
        loop {
            if let Some(session) = self.session.as_ref().filter(|session| !session.is_over()) {
                return session.clone();
            }
            self.session = None;
            match self.server.connect().await {
                Ok(session) => {
                    if self.is_in_trouble(false) {
                        tracing::info!(server = %self.server.url(), "PostgreSQL is there again");
                    }
                    self.session = Some(session);
                }
                Err(error) => {
                    if !self.is_in_trouble(true) {
                        tracing::warn!(
                            server = %self.server.url(),
                            error = error.sentence,
                            "PostgreSQL is away: messages wait"
                        );
                    }
                    tokio::time::sleep(pauses.next(random())).await;
                }
            }
        }
    }

    /// Notes how it fares; what was noted before.
    fn is_in_trouble(&self, is: bool) -> bool {
        self.trouble.swap(is, Ordering::Relaxed)
    }

    /// Stores a batch; one message that cannot be kept costs the others nothing.
    async fn store(&mut self, batch: &[Attempt]) -> Vec<Result<Stored, StoreError>> {
        let mut all = Vec::with_capacity(batch.len());
        let mut parts = vec![batch];
        while let Some(part) = parts.pop() {
            if part.is_empty() {
                continue;
            }
            match self.store_part(part).await {
                Ok(stored) => all.extend(stored.into_iter().map(Ok)),
                Err(NotStored::Refused(_)) if part.len() > 1 => {
                    let (first, second) = part.split_at(part.len() / 2);
                    parts.extend([second, first]);
                }
                Err(NotStored::Refused(what) | NotStored::Failed(what)) => {
                    let failed = || Err(StoreError::Failed(what.clone()));
                    all.extend(part.iter().map(|_| failed()));
                }
            }
        }
        all
    }

    async fn store_part(&mut self, part: &[Attempt]) -> Result<Vec<Stored>, NotStored> {
        let (mut tries, mut losses, start) = (0, 0, Instant::now());
        loop {
            let session = self.session().await;
            let answer = self.tables.append(&session, part);
            let error = match tokio::time::timeout(ANSWER, answer).await {
                Ok(Ok(Some(stored))) => {
                    self.is_in_trouble(false);
                    return Ok(stored);
                }
                Ok(Ok(None)) => (Meaning::Again, "what was stored before was removed".into()),
                Ok(Err(error)) => (meaning(&error), sentence(&error)),
                Err(_) => (Meaning::Away, "it does not answer".into()),
            };
            match error {
                (Meaning::Away, what) => {
                    self.session = None;
                    losses += 1;
                    if losses > LOSSES && start.elapsed() > LOSING {
                        return Err(NotStored::Failed(what));
                    }
                    self.is_in_trouble(true);
                    tracing::warn!(error = what, "the connection to PostgreSQL was lost");
                    tokio::time::sleep(Pauses::default().next(random())).await;
                }
                (Meaning::Refused, what) => return Err(NotStored::Refused(what)),
                (Meaning::Failed, what) => {
                    self.is_in_trouble(true);
                    return Err(NotStored::Failed(what));
                }
                (Meaning::Again, what) if tries > TRIES => return Err(NotStored::Failed(what)),
                (Meaning::Again, _) => tries += 1,
            }
        }
    }
}

impl Drop for Lane {
    /// However the task ends, nobody waits for it any more.
    fn drop(&mut self) {
        self.queue.abandon();
    }
}

/// Tells of what is stored, in its order, while the lane stores what comes next.
pub(super) async fn tell_all(mut done: Receiver<Done>) {
    while let Some(batch) = done.recv().await {
        for (reply, stored) in batch {
            reply.answer(stored);
        }
    }
}

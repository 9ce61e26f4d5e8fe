//! Messages in SQLite: what is answered is on the disk, once, in its place.
//!
//! One thread writes. It takes everything that waits, commits it in one transaction and takes
//! what has come meanwhile: one message in flight is one commit, and under load the batch grows
//! with the time that the disk needs. A second thread tells of what is stored, in its order, and
//! two more read.

mod challenges;
mod checkpoints;
mod clean;
mod codes;
mod conversations;
mod database;
mod invites;
mod people;
mod reader;
mod tables;
mod writer;

use std::path::Path;
use std::sync::{Arc, mpsc};

use heartline_core::auth::{BoxFuture, UserKey};
use heartline_core::store::{
    Challenge, Challenges, Changed, Changes, Checkpoint, Checkpoints, Cleaned, Cleaning, History,
    HistoryQuery, MAX_METADATA, MessageStore, NewMessage, Redeemed, StoreError, Stored, Tell,
};
use rusqlite::{Connection, Transaction};
use tokio::sync::{oneshot, watch};

use crate::queue::Queue;
use crate::waiting::{OVERHEAD, Reply, answer, weight};
use crate::{Looked, OpenError};
use database::Database;
use reader::{Question, Reader, Seat};
use tables::Tables;
use writer::{Health, Waiting, Work, Writer, Writing};

/// How many messages may wait to be stored.
const MAX_WAITING: usize = 65_536;

/// What they may weigh, bytes.
const MAX_WAITING_BYTES: usize = 64 << 20;

/// How many questions may wait: two readers answer thousands a second.
const MAX_QUESTIONS: usize = 4_096;

/// How many threads read.
const READERS: usize = 2;

/// How many batches that are stored may wait to be told.
const UNTOLD: usize = 2;

/// Keeps messages, and who belongs to conversations, in a file of SQLite.
pub struct SqliteStore {
    queue: Arc<Queue<Work>>,
    questions: Arc<Queue<Question>>,
    health: Arc<Health>,
    ended: watch::Receiver<bool>,
}

impl SqliteStore {
    /// Opens the file, or makes it, and starts the threads.
    ///
    /// # Errors
    /// When another gateway has it open, when it cannot be used, or when it has tables of a
    /// newer version.
    pub fn open(path: &Path) -> Result<SqliteStore, OpenError> {
        SqliteStore::open_with(path, |_| Ok(()))
    }

    /// Looks at a file, which may be open, without changing anything.
    ///
    /// # Errors
    /// When it cannot be used, or has tables of a newer version.
    pub fn look(path: &Path) -> Result<Looked, OpenError> {
        database::look(path)
    }

    /// The same as [`open`](Self::open), with something to be done to the connection that writes.
    fn open_with(
        path: &Path,
        adjust: impl FnOnce(&mut Connection) -> rusqlite::Result<()>,
    ) -> Result<SqliteStore, OpenError> {
        let database = Arc::new(Database::claim(path)?);
        let mut connection = database.writer()?;
        let unusable = |error| database.unusable(&error);
        adjust(&mut connection).map_err(unusable)?;
        let queue = Arc::new(Queue::new(MAX_WAITING, MAX_WAITING_BYTES));
        let questions = Arc::new(Queue::new(MAX_QUESTIONS, usize::MAX));
        let health = Arc::new(Health::default());
        let (done, told) = mpsc::sync_channel(UNTOLD);
        let (ended, has_ended) = watch::channel(false);
        let seats: Vec<Seat> = (0..READERS).map(|_| Seat::default()).collect();
        let writer = Writer::new(
            connection,
            (database.clone(), seats.clone()),
            queue.clone(),
            health.clone(),
            done,
        );
        let writer = writer.map_err(unusable)?;
        spawn("store-write", move || writer.run())?;
        spawn("store-tell", move || writer::tell_all(&told, ended))?;
        for seat in seats {
            let reader = Reader::new(seat, database.clone(), questions.clone())?;
            spawn("store-read", move || reader.run())?;
        }
        Ok(SqliteStore {
            queue,
            questions,
            health,
            ended: has_ended,
        })
    }
}

fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> Result<(), OpenError> {
    let thread = std::thread::Builder::new().name(name.into()).spawn(run);
    thread.map(drop).map_err(OpenError::no_thread)
}

impl SqliteStore {
    /// Writes something else than a message, of so many bytes, in the transaction of what waits
    /// with it. The function may be called again when the transaction could not be made.
    fn write<T: Send + 'static>(
        &self,
        bytes: usize,
        write: impl FnMut(&mut Tables, &Transaction<'_>) -> rusqlite::Result<T> + Send + 'static,
    ) -> BoxFuture<Result<T, StoreError>> {
        let (reply, written) = oneshot::channel();
        let job = Writing {
            write,
            result: None,
            reply,
        };
        let waits = self.queue.put(Work::Job(Box::new(job)), OVERHEAD + bytes);
        answer(waits, written)
    }

    /// Asks the database something.
    fn read<T: Send + 'static>(
        &self,
        ask: impl FnOnce(&mut Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> BoxFuture<Result<T, StoreError>> {
        let (reply, answered) = oneshot::channel();
        let health = self.health.clone();
        let question: Question = Box::new(move |connection| {
            let failed = |error: rusqlite::Error| {
                health.hear(&error);
                StoreError::Failed(error.to_string())
            };
            let _ = reply.send(ask(connection).map_err(failed));
        });
        answer(self.questions.put(question, 0), answered)
    }
}

impl MessageStore for SqliteStore {
    fn append(&self, message: NewMessage, tell: Tell) -> BoxFuture<Result<Stored, StoreError>> {
        let bytes = weight(&message);
        let (sender, stored) = oneshot::channel();
        let reply = Reply { tell, sender };
        let waiting = Waiting { message, reply };
        let message = Work::Message(Box::new(waiting));
        answer(self.queue.put(message, bytes), stored)
    }

    fn history(&self, query: HistoryQuery) -> BoxFuture<Result<History, StoreError>> {
        self.read(move |connection| tables::history(connection, &query))
    }

    fn clean(&self, what: Cleaning, from: u64) -> BoxFuture<Result<Cleaned, StoreError>> {
        self.write(0, move |_, transaction| {
            clean::step(transaction, what, from)
        })
    }

    /// This process has the file alone, and so every job.
    fn take_job(
        &self,
        name: &'static str,
        _: &str,
        _: u64,
        _: u64,
    ) -> BoxFuture<Result<(Option<u64>, bool), StoreError>> {
        self.write(0, move |_, transaction| {
            Ok((clean::last_run(transaction, name)?, true))
        })
    }

    fn end_job(
        &self,
        name: &'static str,
        _: &str,
        done: Option<u64>,
    ) -> BoxFuture<Result<(), StoreError>> {
        self.write(0, move |_, transaction| match done {
            Some(at) => clean::note_run(transaction, name, at),
            None => Ok(()),
        })
    }

    fn challenges(&self) -> Option<&dyn Challenges> {
        Some(self)
    }

    fn checkpoints(&self) -> Option<&dyn Checkpoints> {
        Some(self)
    }

    fn is_in_trouble(&self) -> bool {
        self.health.is_in_trouble()
    }

    fn close(&self) -> BoxFuture<()> {
        self.queue.close();
        self.questions.close();
        let mut ended = self.ended.clone();
        Box::pin(async move {
            // An error: the thread has ended too.
            let _ = ended.wait_for(|ended| *ended).await;
        })
    }
}

impl Challenges for SqliteStore {
    fn issue(&self, challenge: Challenge, now: u64) -> BoxFuture<Result<(), StoreError>> {
        self.write(0, move |_, transaction| {
            challenges::issue(transaction, &challenge, now)
        })
    }

    fn redeem(
        &self,
        hash: [u8; 32],
        wallet: [u8; 32],
        now: u64,
    ) -> BoxFuture<Result<Redeemed, StoreError>> {
        self.write(0, move |_, transaction| {
            challenges::redeem(transaction, &hash, &wallet, now)
        })
    }
}

impl Checkpoints for SqliteStore {
    fn change(&self, changes: Changes) -> BoxFuture<Result<Changed, StoreError>> {
        // What it may become, at most; patches are counted where they wait.
        let bytes = MAX_METADATA;
        self.write(bytes, move |tables, transaction| {
            checkpoints::change(tables, transaction, &changes)
        })
    }

    fn checkpoint(&self, user: &Arc<UserKey>) -> BoxFuture<Result<Option<Checkpoint>, StoreError>> {
        let user = user.clone();
        self.read(move |connection| checkpoints::find(connection, &user))
    }
}

impl Drop for SqliteStore {
    fn drop(&mut self) {
        self.queue.close();
        self.questions.close();
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

    use super::*;
    use heartline_core::auth::UserKey;
    use heartline_core::store::{Channel, Start, StoredMessage};
    use std::path::PathBuf;
    use std::sync::atomic::{AtomicUsize, Ordering};

    fn message(number: usize, length: usize) -> NewMessage {
        NewMessage {
            sender: Arc::new(UserKey {
                tenant_id: None,
                user_id: "u".into(),
                user_type: None,
            }),
            channel: Channel::Conversation("c".into()),
            content: "x".repeat(length),
            temp_id: Some(number.to_string()),
            created_at: 7,
        }
    }

    fn file(name: &str) -> PathBuf {
        let name = format!("heartline-store-{name}-{}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir(&folder).unwrap();
        folder.join("heartline.db")
    }

    #[tokio::test]
    async fn a_full_disk_refuses_messages_and_not_the_next_that_fit() {
        let path = file("full");
        let store = SqliteStore::open_with(&path, |connection| {
            connection.execute_batch("PRAGMA max_page_count = 64")
        });
        let store = store.unwrap();
        let mut kept = 0;
        let refused = loop {
            let stored = store.append(message(kept, 40_000), Box::new(|_| ())).await;
            match stored {
                Ok(stored) => assert_eq!(stored.message.offset, kept as u64 + 1),
                Err(error) => break error,
            }
            kept += 1;
            assert!(kept < 100);
        };
        assert!(matches!(refused, StoreError::Failed(_)), "{refused}");
        assert!(kept > 2 && store.is_in_trouble());
        // The next that fits is in the place that was not taken.
        let stored = store
            .append(message(kept, 10), Box::new(|_| ()))
            .await
            .unwrap();
        assert!(!stored.duplicate && !store.is_in_trouble());
        assert_eq!(stored.message.offset, kept as u64 + 1);
        let query = HistoryQuery {
            tenant: None,
            channel: Channel::Conversation("c".into()),
            from: Start::After(0),
            limit: 200,
            bytes: usize::MAX,
        };
        let history = store.history(query).await.unwrap();
        let offsets: Vec<_> = history.messages.iter().map(|one| one.offset).collect();
        assert_eq!(offsets, (1..=kept as u64 + 1).collect::<Vec<_>>());
        std::fs::remove_dir_all(path.parent().unwrap()).unwrap();
    }

    #[tokio::test]
    async fn one_message_after_the_other_is_one_commit_each_and_many_at_once_share_them() {
        let path = file("commits");
        let commits = Arc::new(AtomicUsize::new(0));
        let counted = commits.clone();
        let store = SqliteStore::open_with(&path, |connection| {
            connection.commit_hook(Some(move || {
                counted.fetch_add(1, Ordering::Relaxed);
                false
            }))
        });
        let store = store.unwrap();
        let send = |number| store.append(message(number, 10), Box::new(|_| ()));
        for number in 0..30 {
            send(number).await.unwrap();
        }
        assert_eq!(commits.swap(0, Ordering::Relaxed), 30);
        // While the first is written the others come.
        let all: Vec<_> = (100..1_000).map(send).collect();
        for stored in all {
            stored.await.unwrap();
        }
        let commits = commits.load(Ordering::Relaxed);
        assert!((1..300).contains(&commits), "{commits}");
        std::fs::remove_dir_all(path.parent().unwrap()).unwrap();
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn messages_are_told_in_their_order_and_before_they_are_acknowledged() {
        let path = file("order");
        let store = Arc::new(SqliteStore::open(&path).unwrap());
        let told = Arc::new(std::sync::Mutex::new(Vec::new()));
        let senders: Vec<_> = (0..8)
            .map(|sender| {
                let (store, told) = (store.clone(), told.clone());
                tokio::spawn(async move {
                    for number in 0..50 {
                        let hear = told.clone();
                        let tell = move |message: &StoredMessage| {
                            hear.lock().unwrap().push(message.offset);
                        };
                        let new = message(sender * 50 + number, 10);
                        let offset = store.append(new, Box::new(tell)).await.unwrap();
                        let offset = offset.message.offset;
                        assert!(told.lock().unwrap().contains(&offset));
                    }
                })
            })
            .collect();
        for sender in senders {
            sender.await.unwrap();
        }
        assert_eq!(*told.lock().unwrap(), (1..=400).collect::<Vec<u64>>());
        std::fs::remove_dir_all(path.parent().unwrap()).unwrap();
    }

    #[tokio::test]
    async fn who_panics_while_telling_costs_nobody_the_answer() {
        let path = file("panic");
        let store = SqliteStore::open(&path).unwrap();
        let panics = store.append(message(0, 10), Box::new(|_| panic!("on purpose")));
        assert_eq!(panics.await.unwrap().message.offset, 1);
        let next = store.append(message(1, 10), Box::new(|_| ())).await;
        assert_eq!(next.unwrap().message.offset, 2);
        std::fs::remove_dir_all(path.parent().unwrap()).unwrap();
    }

    #[tokio::test]
    async fn what_was_accepted_is_kept_by_a_close_and_nothing_is_afterwards() {
        let path = file("close");
        let store = SqliteStore::open(&path).unwrap();
        let all: Vec<_> = (0..5_000)
            .map(|number| store.append(message(number, 10), Box::new(|_| ())))
            .collect();
        store.close().await;
        for (number, stored) in all.into_iter().enumerate() {
            assert_eq!(stored.await.unwrap().message.offset, number as u64 + 1);
        }
        let late = store.append(message(5_000, 10), Box::new(|_| ())).await;
        assert!(matches!(late, Err(StoreError::Failed(_))));
        let log = std::fs::metadata(format!("{}-wal", path.display()));
        assert!(log.map_or(0, |log| log.len()) == 0, "the log is brought in");
        std::fs::remove_dir_all(path.parent().unwrap()).unwrap();
    }

    #[tokio::test]
    async fn the_log_stays_small_however_much_is_written() {
        let path = file("log");
        let store = SqliteStore::open(&path).unwrap();
        let log = || {
            std::fs::metadata(format!("{}-wal", path.display()))
                .unwrap()
                .len()
        };
        let mut largest = 0;
        for round in 0..40 {
            let all: Vec<_> = (0..50)
                .map(|number| store.append(message(round * 50 + number, 40_000), Box::new(|_| ())))
                .collect();
            for stored in all {
                stored.await.unwrap();
            }
            largest = largest.max(log());
        }
        assert!(largest > 4 << 20 && largest < 80 << 20, "{largest}");
        std::fs::remove_dir_all(path.parent().unwrap()).unwrap();
    }

    #[tokio::test]
    async fn a_stranger_that_locks_the_database_for_a_moment_costs_nothing_but_the_wait() {
        let path = file("locked");
        let store = SqliteStore::open(&path).unwrap();
        let stranger = Connection::open(&path).unwrap();
        stranger.execute_batch("BEGIN IMMEDIATE").unwrap();
        let stored = store.append(message(0, 10), Box::new(|_| ()));
        let stored = tokio::spawn(stored);
        let moment = tokio::time::sleep(std::time::Duration::from_millis(100));
        moment.await;
        assert!(!stored.is_finished());
        stranger.execute_batch("ROLLBACK").unwrap();
        assert_eq!(stored.await.unwrap().unwrap().message.offset, 1);
        std::fs::remove_dir_all(path.parent().unwrap()).unwrap();
    }
}

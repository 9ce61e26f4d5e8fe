//! The only thread that writes: everything that waits is one transaction.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::sync::mpsc::{Receiver, SyncSender};
use std::time::{Duration, Instant};

use heartline_core::store::{NewMessage, StoreError, Stored};
use rusqlite::{Connection, ErrorCode, OptionalExtension, Transaction, TransactionBehavior};
use tokio::sync::{oneshot, watch};

use super::database::{Database, is_damaged, leave_the_log};
use super::reader::Seat;
use super::tables::Tables;
use crate::queue::Queue;
use crate::waiting::Reply;

/// Most messages in one transaction: more make it longer, and hardly cheaper.
const BATCH: usize = 1_024;

/// And most bytes: the log grows by little more between two checkpoints.
const BATCH_BYTES: usize = 4 << 20;

/// The log is brought into the database when it has so many pages: 16 MB.
const CHECKPOINT_PAGES: i32 = 4_096;

/// And cut when it has so many in spite of that, because somebody was reading: 64 MB.
const TRUNCATE_PAGES: i32 = 16_384;

/// After a checkpoint that could not bring in all, so many pages later is the next: 4 MB.
const RETRY_PAGES: i32 = 1_024;

/// How long a transaction waits for a stranger that has the database locked, and how long
/// between two tries.
const PATIENCE: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(50);

/// A message that waits to be stored.
pub(crate) struct Waiting {
    pub(crate) message: NewMessage,
    pub(crate) reply: Reply,
}

/// Something else that is to be written, in the same transaction as what it waits with.
pub(crate) trait Job: Send {
    /// Writes. It is done again when the transaction could not be made, and whatever it wrote
    /// is undone where it fails.
    ///
    /// # Errors
    /// What the whole transaction fails by: the file is damaged, or it is rolled back already.
    fn run(&mut self, tables: &mut Tables, transaction: &Transaction<'_>) -> rusqlite::Result<()>;

    /// Says what it came to, once the transaction is on the disk, or that nothing was written.
    fn answer(self: Box<Self>, written: Result<(), StoreError>);
}

/// A job that is a function, whose last result is the answer.
pub(crate) struct Writing<F, T> {
    pub(crate) write: F,
    pub(crate) result: Option<rusqlite::Result<T>>,
    pub(crate) reply: oneshot::Sender<Result<T, StoreError>>,
}

impl<F, T> Job for Writing<F, T>
where
    F: FnMut(&mut Tables, &Transaction<'_>) -> rusqlite::Result<T> + Send,
    T: Send,
{
    fn run(&mut self, tables: &mut Tables, transaction: &Transaction<'_>) -> rusqlite::Result<()> {
        // What a job leaves when it fails must not become part of the others' transaction.
        transaction.execute_batch("SAVEPOINT job")?;
        let result = (self.write)(tables, transaction);
        if let Err(error) = &result {
            *tables = Tables::default();
            if is_damaged(error) || transaction.is_autocommit() {
                return result.map(drop);
            }
            transaction.execute_batch("ROLLBACK TO job")?;
        }
        self.result = Some(result);
        transaction.execute_batch("RELEASE job")
    }

    fn answer(self: Box<Self>, written: Result<(), StoreError>) {
        let missing = || StoreError::Failed("nothing was written".into());
        let failed = |error: rusqlite::Error| StoreError::Failed(error.to_string());
        let answer = match written {
            Ok(()) => self
                .result
                .map_or_else(|| Err(missing()), |result| result.map_err(failed)),
            Err(error) => Err(error),
        };
        let _ = self.reply.send(answer);
    }
}

/// What waits for the writer.
pub(crate) enum Work {
    Message(Box<Waiting>),
    Job(Box<dyn Job>),
}

impl Work {
    /// Says what it came to; of a message others are told first.
    fn answer(self, written: Result<Option<Stored>, StoreError>) {
        match (self, written) {
            (Work::Message(waiting), Ok(Some(stored))) => waiting.reply.answer(Ok(stored)),
            (Work::Message(waiting), Ok(None)) => drop(waiting),
            (Work::Message(waiting), Err(error)) => waiting.reply.answer(Err(error)),
            (Work::Job(job), written) => job.answer(written.map(drop)),
        }
    }
}

/// How the writer fares, for whoever asks.
#[derive(Default)]
pub(crate) struct Health {
    in_trouble: AtomicBool,
    damaged: AtomicBool,
}

impl Health {
    /// Whether the last that was to be stored could not be, or its log not be brought in, or the
    /// file was found damaged.
    pub(crate) fn is_in_trouble(&self) -> bool {
        self.in_trouble.load(Ordering::Relaxed) || self.is_damaged()
    }

    /// Notes what a question has failed by: to a file that it found damaged nothing more is
    /// written.
    pub(crate) fn hear(&self, error: &rusqlite::Error) {
        if is_damaged(error) && !self.damaged.swap(true, Ordering::Relaxed) {
            tracing::error!(%error, "the database is damaged: nothing is stored until a restart");
        }
    }

    fn is_damaged(&self) -> bool {
        self.damaged.load(Ordering::Relaxed)
    }
}

/// What is believed of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Belief {
    /// It is as the connection has it.
    Good,
    /// The disk has failed while a batch was written. What was committed before is on the disk.
    /// The batch may be in the log, but is not counted there: a new connection writes over it.
    Doubted,
    /// The disk has failed while the log was brought in: what was brought in before may be
    /// neither on the disk nor in the log for long. All connections are closed, and the log
    /// counts from its beginning.
    Unsettled,
    /// It is damaged, or what was acknowledged is not in it: nothing is written any more.
    Broken,
}

/// What a batch came to: for each message, what is stored.
type Done = (Vec<Work>, Result<Vec<Option<Stored>>, StoreError>);

/// The thread that writes.
pub(crate) struct Writer {
    /// `None`: it could not be opened again.
    connection: Option<Connection>,
    tables: Tables,
    queue: Arc<Queue<Work>>,
    health: Arc<Health>,
    done: SyncSender<Done>,
    /// Pages in the log, told by SQLite at each commit.
    log_pages: Arc<AtomicI32>,
    checkpoint_at: i32,
    belief: Belief,
    /// The log could not be brought in, and was not since.
    log_waits: bool,
    /// A conversation's row, and its head when the last batch was on the disk.
    last: Option<(u64, u64)>,
    /// The connections of those who read.
    readers: Vec<Seat>,
    /// Released when the last connection is closed.
    database: Arc<Database>,
}

impl Writer {
    pub(crate) fn new(
        connection: Connection,
        (database, readers): (Arc<Database>, Vec<Seat>),
        queue: Arc<Queue<Work>>,
        health: Arc<Health>,
        done: SyncSender<Done>,
    ) -> rusqlite::Result<Writer> {
        let mut writer = Writer {
            connection: None,
            tables: Tables::default(),
            queue,
            health,
            done,
            log_pages: Arc::new(AtomicI32::new(0)),
            checkpoint_at: CHECKPOINT_PAGES,
            belief: Belief::Good,
            log_waits: false,
            last: None,
            readers,
            database,
        };
        writer.take(connection)?;
        Ok(writer)
    }

    /// Writes by this connection.
    fn take(&mut self, mut connection: Connection) -> rusqlite::Result<()> {
        let told = self.log_pages.clone();
        connection.wal_hook(Some(move |_: &mut rusqlite::hooks::Wal, pages| {
            told.store(pages, Ordering::Relaxed);
            Ok(())
        }))?;
        self.connection = Some(connection);
        Ok(())
    }

    /// Stores until the queue is closed and empty.
    pub(crate) fn run(mut self) {
        while let Some(mut batch) = self.queue.take(BATCH, BATCH_BYTES) {
            let stored = self.store(&mut batch);
            if self.done.send((batch, stored)).is_err() {
                break;
            }
            self.checkpoint_if_due();
        }
        if self.is_believed().is_ok() {
            self.checkpoint("TRUNCATE");
        }
        if self.belief != Belief::Good {
            self.close();
        }
    }

    fn store(&mut self, batch: &mut [Work]) -> Result<Vec<Option<Stored>>, StoreError> {
        let until = Instant::now() + PATIENCE;
        loop {
            if let Err(what) = self.is_believed() {
                self.fares(true);
                return Err(StoreError::Failed(what));
            }
            let error = match self.write(batch) {
                Ok(stored) => {
                    self.fares(self.log_waits);
                    return Ok(stored);
                }
                Err(error) => error,
            };
            let locked = matches!(
                error.sqlite_error_code(),
                Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked)
            );
            if locked && Instant::now() < until {
                std::thread::sleep(PAUSE);
                continue;
            }
            self.fares(true);
            self.doubt(&error, Belief::Doubted);
            return Err(StoreError::Failed(error.to_string()));
        }
    }

    fn fares(&self, is_in_trouble: bool) {
        self.health
            .in_trouble
            .store(is_in_trouble, Ordering::Relaxed);
    }

    /// Believes no more of the file than the error leaves: `disk` if the disk has failed.
    fn doubt(&mut self, error: &rusqlite::Error, disk: Belief) {
        let path = self.database.path();
        if is_damaged(error) {
            tracing::error!(database = %path, %error, "the database is damaged");
            self.belief = Belief::Broken;
        } else if error.sqlite_error_code() == Some(ErrorCode::SystemIoFailure) {
            tracing::error!(
                database = %path, %error,
                "the disk has failed: the database is opened anew before anything is stored"
            );
            let connection = self.connection.as_ref();
            self.belief = match connection.is_some_and(Connection::is_autocommit) {
                true => disk,
                // It could not even be rolled back.
                false => Belief::Unsettled,
            };
        }
    }

    /// Sees that the file is as the connection has it, and opens it anew if that is in doubt; or
    /// says why nothing can be stored.
    fn is_believed(&mut self) -> Result<(), String> {
        if self.health.is_damaged() {
            self.belief = Belief::Broken;
        }
        match self.belief {
            Belief::Good => return Ok(()),
            Belief::Broken => {
                let what = "the database was found damaged: nothing is stored until a restart";
                return Err(what.into());
            }
            // The old connection is closed when the new one is open: were there none, the log would
            // be read from its beginning, with what the failed sync has left there.
            Belief::Doubted => {}
            Belief::Unsettled => {
                let seats = self.readers.clone();
                // Until it is open again nobody else opens it.
                let mut seats: Vec<_> = seats.iter().map(Seat::lock).collect();
                seats.iter_mut().for_each(|seat| drop(seat.take()));
                self.close();
                self.database.settle().map_err(|error| error.to_string())?;
                return self.open();
            }
        }
        self.open()
    }

    fn open(&mut self) -> Result<(), String> {
        let connection = self.database.writer().map_err(|error| error.to_string())?;
        self.tables.forget(true);
        self.take(connection).map_err(|error| error.to_string())?;
        // SQLite calls a page damaged also when the disk has not given it: the next batch asks
        // again.
        let has_the_last = self.has_the_last().map_err(|error| error.to_string())?;
        if !has_the_last {
            tracing::error!(
                database = %self.database.path(),
                "the database has not got what was acknowledged: nothing is stored until a restart"
            );
            self.belief = Belief::Broken;
            return Err("what was acknowledged is not in the database any more".into());
        }
        self.belief = Belief::Good;
        tracing::info!(database = %self.database.path(), "the database is open again");
        Ok(())
    }

    /// Whether the last that was acknowledged is still there.
    fn has_the_last(&self) -> rusqlite::Result<bool> {
        let (Some((id, head)), Some(connection)) = (self.last, &self.connection) else {
            return Ok(true);
        };
        let sql = "SELECT head >= ?2 FROM conversation WHERE id = ?1";
        let found = connection.query_row(sql, [id, head], |row| row.get(0));
        Ok(found.optional()?.unwrap_or(false))
    }

    /// Closes the connection, and leaves the log as it is.
    fn close(&mut self) {
        if let Some(connection) = self.connection.take()
            && let Err(error) = leave_the_log(&connection)
        {
            tracing::error!(%error, "the database's log may be brought in by a failing disk");
        }
    }

    /// Writes all of it in one transaction, in its order, or nothing.
    fn write(&mut self, batch: &mut [Work]) -> rusqlite::Result<Vec<Option<Stored>>> {
        let (connection, tables) = (&mut self.connection, &mut self.tables);
        let Some(connection) = connection else {
            return Err(rusqlite::Error::InvalidQuery);
        };
        let mut last = self.last;
        let done = connection
            .transaction_with_behavior(TransactionBehavior::Immediate)
            .and_then(|transaction| {
                let mut all = Vec::with_capacity(batch.len());
                for work in batch {
                    all.push(match work {
                        Work::Message(waiting) => Some(tables.put(&transaction, &waiting.message)?),
                        Work::Job(job) => {
                            tables.write_heads(&transaction)?;
                            job.run(tables, &transaction)?;
                            None
                        }
                    });
                }
                last = tables.last_head().or(last);
                tables.write_heads(&transaction)?;
                transaction.commit()?;
                Ok(all)
            });
        tables.forget(done.is_err());
        if done.is_ok() {
            self.last = last;
        }
        done
    }

    fn checkpoint_if_due(&mut self) {
        let pages = self.log_pages.load(Ordering::Relaxed);
        if pages < CHECKPOINT_PAGES {
            // The log begins anew.
            self.checkpoint_at = CHECKPOINT_PAGES;
        }
        let is_good = self.belief == Belief::Good && !self.health.is_damaged();
        if pages >= self.checkpoint_at && is_good {
            self.checkpoint_at = pages + RETRY_PAGES;
            self.checkpoint(if pages >= TRUNCATE_PAGES {
                "TRUNCATE"
            } else {
                "PASSIVE"
            });
        }
    }

    fn checkpoint(&mut self, mode: &str) {
        let sql = format!("PRAGMA wal_checkpoint({mode})");
        let Some(connection) = &self.connection else {
            return;
        };
        let done = connection.query_row(&sql, [], |_| Ok(()));
        self.log_waits = done.is_err();
        if let Err(error) = done {
            tracing::warn!(%error, "the database's log could not be brought in");
            self.fares(true);
            self.doubt(&error, Belief::Unsettled);
        }
    }
}

impl Drop for Writer {
    /// However the thread ends, nobody waits for it any more.
    fn drop(&mut self) {
        self.queue.abandon();
    }
}

/// The thread that tells of what is stored: one, so that all is told in its order, and another
/// than the writer, which has the next batch to write.
pub(crate) fn tell_all(done: &Receiver<Done>, ended: watch::Sender<bool>) {
    struct Ended(watch::Sender<bool>);
    impl Drop for Ended {
        fn drop(&mut self) {
            self.0.send_replace(true);
        }
    }
    let _ended = Ended(ended);
    for (batch, stored) in done {
        match stored {
            Ok(stored) => {
                let done = batch.into_iter().zip(stored);
                done.for_each(|(work, stored)| work.answer(Ok(stored)));
            }
            Err(error) => batch
                .into_iter()
                .for_each(|work| work.answer(Err(error.clone()))),
        }
    }
}

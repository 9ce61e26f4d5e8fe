//! The only thread that writes: everything that waits is one transaction.

use std::sync::Arc;
use std::sync::atomic::{AtomicI32, AtomicU8, Ordering};
use std::sync::mpsc::{Receiver, SyncSender};
use std::time::{Duration, Instant};

use heartline_core::store::{NewMessage, StoreError, Stored};
use rusqlite::{Connection, ErrorCode, Transaction, TransactionBehavior, ffi};
use tokio::sync::{oneshot, watch};

use super::database::{Database, is_damaged};
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
        if result.is_err() {
            *tables = Tables::default();
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
pub(crate) struct Health(AtomicU8);

const FAILING: u8 = 1;
const BROKEN: u8 = 2;

impl Health {
    /// Whether the last that was to be stored could not be.
    pub(crate) fn is_in_trouble(&self) -> bool {
        self.0.load(Ordering::Relaxed) != 0
    }

    fn is_broken(&self) -> bool {
        self.0.load(Ordering::Relaxed) == BROKEN
    }

    fn is(&self, health: u8) {
        self.0.store(health, Ordering::Relaxed);
    }
}

/// What a batch came to: for each message, what is stored.
type Done = (Vec<Work>, Result<Vec<Option<Stored>>, StoreError>);

/// The thread that writes.
pub(crate) struct Writer {
    connection: Connection,
    tables: Tables,
    queue: Arc<Queue<Work>>,
    health: Arc<Health>,
    done: SyncSender<Done>,
    /// Pages in the log, told by SQLite at each commit.
    log_pages: Arc<AtomicI32>,
    checkpoint_at: i32,
    /// Released when the last connection is closed.
    _database: Arc<Database>,
}

impl Writer {
    pub(crate) fn new(
        mut connection: Connection,
        database: Arc<Database>,
        queue: Arc<Queue<Work>>,
        health: Arc<Health>,
        done: SyncSender<Done>,
    ) -> rusqlite::Result<Writer> {
        let log_pages = Arc::new(AtomicI32::new(0));
        let told = log_pages.clone();
        connection.wal_hook(Some(move |_: &mut rusqlite::hooks::Wal, pages| {
            told.store(pages, Ordering::Relaxed);
            Ok(())
        }))?;
        Ok(Writer {
            connection,
            tables: Tables::default(),
            queue,
            health,
            done,
            log_pages,
            checkpoint_at: CHECKPOINT_PAGES,
            _database: database,
        })
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
        self.checkpoint("TRUNCATE");
    }

    fn store(&mut self, batch: &mut [Work]) -> Result<Vec<Option<Stored>>, StoreError> {
        if self.health.is_broken() {
            let what = "the database was found damaged: nothing is stored until a restart";
            return Err(StoreError::Failed(what.into()));
        }
        let until = Instant::now() + PATIENCE;
        loop {
            let error = match self.write(batch) {
                Ok(stored) => {
                    self.health.is(0);
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
            self.health.is(match is_fatal(&error) {
                true => BROKEN,
                false => FAILING,
            });
            return Err(StoreError::Failed(error.to_string()));
        }
    }

    /// Writes all of it in one transaction, in its order, or nothing.
    fn write(&mut self, batch: &mut [Work]) -> rusqlite::Result<Vec<Option<Stored>>> {
        let (connection, tables) = (&mut self.connection, &mut self.tables);
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
                tables.write_heads(&transaction)?;
                transaction.commit()?;
                Ok(all)
            });
        tables.forget(done.is_err());
        done
    }

    fn checkpoint_if_due(&mut self) {
        let pages = self.log_pages.load(Ordering::Relaxed);
        if pages < CHECKPOINT_PAGES {
            // The log begins anew.
            self.checkpoint_at = CHECKPOINT_PAGES;
        }
        if pages >= self.checkpoint_at && !self.health.is_broken() {
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
        if let Err(error) = self.connection.query_row(&sql, [], |_| Ok(())) {
            tracing::warn!(%error, "the database's log could not be brought in");
            if is_fatal(&error) {
                self.health.is(BROKEN);
            }
        }
    }
}

impl Drop for Writer {
    /// However the thread ends, nobody waits for it any more.
    fn drop(&mut self) {
        self.queue.abandon();
    }
}

/// Whether nothing may be written any more: the file is damaged, or what the disk was told to
/// keep it may have lost without being asked again.
fn is_fatal(error: &rusqlite::Error) -> bool {
    let code = error.sqlite_error().map_or(0, |error| error.extended_code);
    is_damaged(error) || [ffi::SQLITE_IOERR_FSYNC, ffi::SQLITE_IOERR_DIR_FSYNC].contains(&code)
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

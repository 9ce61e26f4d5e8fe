//! The only thread that writes: everything that waits is one transaction.

use std::sync::Arc;
use std::sync::atomic::{AtomicI32, AtomicU8, Ordering};
use std::sync::mpsc::{Receiver, SyncSender};
use std::time::{Duration, Instant};

use heartline_core::store::{NewMessage, StoreError, Stored, Tell};
use rusqlite::{Connection, ErrorCode, ffi};
use tokio::sync::{oneshot, watch};

use crate::database::{Database, is_damaged};
use crate::queue::Queue;
use crate::tables::Tables;

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
    pub(crate) tell: Tell,
    pub(crate) reply: oneshot::Sender<Result<Stored, StoreError>>,
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

/// What a batch came to.
type Done = (Vec<Waiting>, Result<Vec<Stored>, StoreError>);

/// The thread that writes.
pub(crate) struct Writer {
    connection: Connection,
    tables: Tables,
    queue: Arc<Queue<Waiting>>,
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
        queue: Arc<Queue<Waiting>>,
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
        while let Some(batch) = self.queue.take(BATCH, BATCH_BYTES) {
            let stored = self.store(&batch);
            if self.done.send((batch, stored)).is_err() {
                break;
            }
            self.checkpoint_if_due();
        }
        self.checkpoint("TRUNCATE");
    }

    fn store(&mut self, batch: &[Waiting]) -> Result<Vec<Stored>, StoreError> {
        if self.health.is_broken() {
            let what = "the database was found damaged: nothing is stored until a restart";
            return Err(StoreError::Failed(what.into()));
        }
        let until = Instant::now() + PATIENCE;
        loop {
            let messages = batch.iter().map(|waiting| &waiting.message);
            let error = match self.tables.append(&mut self.connection, messages) {
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
            Ok(stored) => batch.into_iter().zip(stored).for_each(answer),
            Err(error) => batch.into_iter().for_each(|waiting| {
                let _ = waiting.reply.send(Err(error.clone()));
            }),
        }
    }
}

/// Tells others, then the sender.
fn answer((waiting, stored): (Waiting, Stored)) {
    if !stored.duplicate {
        let tell = || (waiting.tell)(&stored.message);
        if std::panic::catch_unwind(std::panic::AssertUnwindSafe(tell)).is_err() {
            tracing::error!(id = stored.message.id, "telling of a message panicked");
        }
    }
    // Whoever asked may have gone.
    let _ = waiting.reply.send(Ok(stored));
}

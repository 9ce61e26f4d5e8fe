//! Threads that read: each has a connection that cannot write.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rusqlite::Connection;

use super::database::Database;
use crate::OpenError;
use crate::queue::Queue;

/// How long a question may take: while it is read the log only grows. A disk that has to move
/// for each of 200 messages is done by then.
const TIME: Duration = Duration::from_secs(1);

/// How many of SQLite's steps lie between two looks at the clock.
const STEPS: i32 = 1_000;

/// A question that waits: it asks the connection, and answers whoever waits for it.
pub(crate) type Question = Box<dyn FnOnce(&mut Connection) + Send>;

/// A connection that reads, while it is not closed for a moment. Whoever has it locked keeps it
/// from being closed, and the log from being read anew.
#[derive(Clone, Default)]
pub(crate) struct Seat(Arc<Mutex<Option<Connection>>>);

impl Seat {
    pub(crate) fn lock(&self) -> MutexGuard<'_, Option<Connection>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The thread that reads.
pub(crate) struct Reader {
    seat: Seat,
    questions: Arc<Queue<Question>>,
    /// When the present question must have ended, microseconds after the start.
    until: Arc<AtomicU64>,
    start: Instant,
    database: Arc<Database>,
}

fn micros(time: Duration) -> u64 {
    time.as_micros() as u64
}

impl Reader {
    /// A reader whose connection is in its seat.
    pub(crate) fn new(
        seat: Seat,
        database: Arc<Database>,
        questions: Arc<Queue<Question>>,
    ) -> Result<Reader, OpenError> {
        let reader = Reader {
            seat,
            questions,
            until: Arc::new(AtomicU64::new(u64::MAX)),
            start: Instant::now(),
            database,
        };
        let connection = reader.open()?;
        *reader.seat.lock() = Some(connection);
        Ok(reader)
    }

    fn open(&self) -> Result<Connection, OpenError> {
        let mut connection = self.database.reader()?;
        let (limit, start) = (self.until.clone(), self.start);
        let is_late = move || micros(start.elapsed()) > limit.load(Ordering::Relaxed);
        let limited = connection.progress_handler(STEPS, Some(is_late));
        limited.map_err(|error| self.database.unusable(&error))?;
        Ok(connection)
    }

    /// Answers until the queue is closed and empty.
    pub(crate) fn run(self) {
        while let Some(question) = self.questions.take(1, usize::MAX) {
            for ask in question {
                self.answer(ask);
            }
        }
    }

    fn answer(&self, ask: Question) {
        let mut seat = self.seat.lock();
        if seat.is_none() {
            match self.open() {
                Ok(connection) => *seat = Some(connection),
                // Whoever asks hears that nobody answers.
                Err(error) => tracing::warn!(%error, "the database cannot be read"),
            }
        }
        if let Some(connection) = &mut *seat {
            let until = micros(self.start.elapsed() + TIME);
            self.until.store(until, Ordering::Relaxed);
            ask(connection);
        }
    }
}

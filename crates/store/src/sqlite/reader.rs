//! Threads that read: each has a connection that cannot write.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rusqlite::Connection;

use super::database::Database;
use crate::queue::Queue;

/// How long a question may take: while it is read the log only grows. A disk that has to move
/// for each of 200 messages is done by then.
const TIME: Duration = Duration::from_secs(1);

/// How many of SQLite's steps lie between two looks at the clock.
const STEPS: i32 = 1_000;

/// A question that waits: it asks the connection, and answers whoever waits for it.
pub(crate) type Question = Box<dyn FnOnce(&mut Connection) + Send>;

/// The thread that reads.
pub(crate) struct Reader {
    connection: Connection,
    questions: Arc<Queue<Question>>,
    /// When the present question must have ended, microseconds after the start.
    until: Arc<AtomicU64>,
    start: Instant,
    _database: Arc<Database>,
}

fn micros(time: Duration) -> u64 {
    time.as_micros() as u64
}

impl Reader {
    pub(crate) fn new(
        mut connection: Connection,
        database: Arc<Database>,
        questions: Arc<Queue<Question>>,
    ) -> rusqlite::Result<Reader> {
        let until = Arc::new(AtomicU64::new(u64::MAX));
        let start = Instant::now();
        let limit = until.clone();
        let is_late = move || micros(start.elapsed()) > limit.load(Ordering::Relaxed);
        connection.progress_handler(STEPS, Some(is_late))?;
        Ok(Reader {
            connection,
            questions,
            until,
            start,
            _database: database,
        })
    }

    /// Answers until the queue is closed and empty.
    pub(crate) fn run(mut self) {
        while let Some(question) = self.questions.take(1, usize::MAX) {
            for ask in question {
                let until = micros(self.start.elapsed() + TIME);
                self.until.store(until, Ordering::Relaxed);
                ask(&mut self.connection);
            }
        }
    }
}

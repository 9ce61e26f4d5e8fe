//! Connections for questions: a few, of which each has one question at a time.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use heartline_core::store::StoreError;
use tokio::sync::Semaphore;
use tokio_postgres::Error;

use super::session::{Meaning, Server, Session, meaning, sentence};

/// How many connections ask: a question takes little longer than the way there and back.
const CONNECTIONS: usize = 4;

/// How many questions may wait.
const WAITING: usize = 4_096;

/// How long a question may take, with what it waits for a connection that is free.
const TIME: Duration = Duration::from_secs(5);

/// How often the same is asked when others were at the rows, or the connection was an old one.
const TRIES: u32 = 8;

pub(super) struct Pool {
    server: Arc<Server>,
    idle: Mutex<Vec<Arc<Session>>>,
    free: Semaphore,
    waiting: AtomicUsize,
}

/// A question that is counted for as long as it waits or is asked.
struct Counted<'a>(&'a AtomicUsize);

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Pool {
    pub(super) fn new(server: Arc<Server>) -> Pool {
        Pool {
            server,
            idle: Mutex::default(),
            free: Semaphore::new(CONNECTIONS),
            waiting: AtomicUsize::new(0),
        }
    }

    /// Asks a question; it is asked again where that may help, so what it writes must be the
    /// same if it is written twice.
    pub(super) async fn ask<T, A>(
        &self,
        question: impl Fn(Arc<Session>) -> A,
    ) -> Result<T, StoreError>
    where
        A: Future<Output = Result<T, Error>>,
    {
        let counted = Counted(&self.waiting);
        if self.waiting.fetch_add(1, Ordering::Relaxed) >= WAITING {
            return Err(StoreError::Overloaded);
        }
        let late = || StoreError::Failed("PostgreSQL does not answer".into());
        let asked = tokio::time::timeout(TIME, async {
            let closed = |_| StoreError::Failed("the store is closed".into());
            // Who asks has time left: where more questions come than are answered, those that are
            // asked are still answered, and their connections kept.
            let free = tokio::time::timeout(TIME * 4 / 5, self.free.acquire()).await;
            let _permit = free.map_err(|_| late())?.map_err(closed)?;
            self.ask_now(&question).await
        });
        let asked = asked.await;
        drop(counted);
        asked.unwrap_or_else(|_| Err(late()))
    }

    async fn ask_now<T, A>(&self, question: &impl Fn(Arc<Session>) -> A) -> Result<T, StoreError>
    where
        A: Future<Output = Result<T, Error>>,
    {
        let mut tries = 0;
        loop {
            let (session, is_new) = match self.idle() {
                Some(session) => (session, false),
                None => {
                    let failed = |error: super::session::NotConnected| {
                        StoreError::Failed(format!("PostgreSQL is away: {}", error.sentence))
                    };
                    (self.server.connect().await.map_err(failed)?, true)
                }
            };
            let answer = question(session.clone()).await;
            let error = match answer {
                Ok(answer) => {
                    self.put_back(session);
                    return Ok(answer);
                }
                Err(error) => error,
            };
            let again = match meaning(&error) {
                // An old connection may have been lost long ago.
                Meaning::Away => !is_new,
                Meaning::Again => true,
                Meaning::Refused | Meaning::Failed => false,
            };
            if meaning(&error) != Meaning::Away {
                self.put_back(session);
            }
            tries += 1;
            if !again || tries > TRIES {
                return Err(StoreError::Failed(sentence(&error)));
            }
        }
    }

    fn idle(&self) -> Option<Arc<Session>> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.retain(|session| !session.is_over());
        idle.pop()
    }

    fn put_back(&self, session: Arc<Session>) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.push(session);
    }

    /// Nothing is asked any more.
    pub(super) fn close(&self) {
        self.free.close();
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.clear();
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

    use super::super::url::PostgresUrl;
    use super::*;

    #[tokio::test]
    async fn questions_that_a_silent_server_keeps_waiting_are_all_answered_in_time() {
        let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = silent.local_addr().unwrap().port();
        let url = PostgresUrl::parse(&format!("postgres://ann@127.0.0.1:{port}/app")).unwrap();
        let pool = Arc::new(Pool::new(Arc::new(Server::new(url).unwrap())));
        let until = tokio::time::Instant::now() + TIME + Duration::from_secs(1);
        let asked: Vec<_> = (0..10 * CONNECTIONS)
            .map(|_| {
                let pool = pool.clone();
                tokio::spawn(async move { pool.ask(|_| async { Ok(()) }).await })
            })
            .collect();
        for answer in asked {
            let answer = tokio::time::timeout_at(until, answer).await;
            let refused = answer.expect("it is answered in time").unwrap();
            assert!(matches!(refused, Err(StoreError::Failed(_))), "{refused:?}");
        }
        assert_eq!(pool.waiting.load(Ordering::Relaxed), 0);
    }
}

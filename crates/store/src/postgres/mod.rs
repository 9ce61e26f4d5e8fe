//! Messages in PostgreSQL, for any number of nodes: what is answered is committed, once, in its
//! place.
//!
//! Messages are spread over lanes by their conversation. A lane takes everything that waits for
//! it, stores it by one statement and takes what has come meanwhile. The statement locks the rows
//! of its conversations until it is committed, all nodes in one order: so offsets have no gaps
//! and are in the order of commits, whoever writes. A statement whose answer was lost is sent
//! again, because every message has a key.

mod challenges;
mod checkpoints;
mod clean;
mod codes;
mod conversations;
mod invites;
mod lane;
mod people;
mod pool;
mod schema;
mod session;
mod sessions;
mod tables;
mod url;

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use heartline_core::auth::BoxFuture;
use heartline_core::store::{
    Challenges, Checkpoints, Cleaned, Cleaning, History, HistoryQuery, MessageStore, NewMessage,
    StoreError, Stored, Tell,
};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::AbortHandle;

use crate::queue::Queue;
use crate::waiting::{Reply, answer, weight};
use crate::{Looked, OpenError};
use lane::{Lane, Queued, Trouble};
use pool::Pool;
use session::{NotConnected, Pauses, Server, Session, random, sentence};
use tables::{Attempt, Tables};
pub use url::PostgresUrl;

/// How many lanes there are: while one waits for its commit others have theirs.
const LANES: usize = 4;

/// How many messages may wait in a lane, and what they may weigh, bytes: 65 536 and 64 MB in all.
const MAX_WAITING: usize = 65_536 / LANES;
const MAX_WAITING_BYTES: usize = (64 << 20) / LANES;

/// How many batches of a lane that are stored may wait to be told.
const UNTOLD: usize = 2;

/// How long a start waits for a server that is not there yet, as when both start together.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long an end waits for a server that is away.
const LAST: Duration = Duration::from_secs(5);

/// Keeps messages, and who belongs to conversations, in PostgreSQL 13 or newer.
pub struct PostgresStore {
    lanes: Vec<(Arc<Queue<Queued>>, Trouble)>,
    tasks: Vec<AbortHandle>,
    pool: Arc<Pool>,
    /// The number of the next attempt.
    attempts: AtomicI64,
    ended: watch::Receiver<()>,
}

impl PostgresStore {
    /// Connects, makes the tables if there are none, and starts the lanes in the runtime that
    /// it is called in. Waits ten seconds for a server that is not there.
    ///
    /// # Errors
    /// A sentence that says what to do.
    pub async fn open(url: &PostgresUrl) -> Result<PostgresStore, OpenError> {
        let unusable = |what: &str| OpenError::of(format!("the database {url} {what}"));
        let server = Server::new(url.clone());
        let server = Arc::new(server.map_err(|what| unusable(&format!("cannot be used: {what}")))?);
        let mut session = first(&server).await?;
        keeps_statements(&server, &session)
            .await
            .map_err(|what| unusable(&what))?;
        let client = Arc::get_mut(&mut session)
            .expect("nobody else has seen it")
            .client();
        match schema::prepare(client).await {
            Ok(Ok(())) => {}
            Ok(Err(what)) => return Err(unusable(&what)),
            Err(error) => {
                let what = sentence(&error);
                return Err(unusable(&format!(
                    "cannot be prepared: {what}. Its tables are in a schema of their own, which \
                     CREATE SCHEMA heartline AUTHORIZATION this user makes as well"
                )));
            }
        }
        Ok(PostgresStore::start(server, session))
    }

    /// Looks at a database without changing anything; tries to connect once.
    ///
    /// # Errors
    /// A sentence that says what to do.
    pub async fn look(url: &PostgresUrl) -> Result<Looked, OpenError> {
        let unusable = |what: String| OpenError::of(format!("the database {url} {what}"));
        let server = Server::new(url.clone());
        let server = server.map_err(|what| unusable(format!("cannot be used: {what}")))?;
        let session = server.connect().await;
        let session = session.map_err(|error| not_entered(&server, error, "now"))?;
        keeps_statements(&server, &session)
            .await
            .map_err(unusable)?;
        match schema::look(session.shared()).await {
            Ok(looked) => looked.map_err(unusable),
            Err(error) => Err(unusable(format!("does not answer: {}", sentence(&error)))),
        }
    }

    fn start(server: Arc<Server>, session: Arc<Session>) -> PostgresStore {
        let (is_running, ended) = watch::channel(());
        let is_running = Arc::new(is_running);
        let mut session = Some(session);
        let (mut lanes, mut tasks) = (Vec::new(), Vec::new());
        for _ in 0..LANES {
            let queue = Arc::new(Queue::new(MAX_WAITING, MAX_WAITING_BYTES));
            let trouble = Trouble::default();
            let (done, told) = mpsc::channel(UNTOLD);
            let lane = Lane {
                server: server.clone(),
                session: session.take(),
                tables: Tables::default(),
                queue: queue.clone(),
                trouble: trouble.clone(),
                done,
            };
            tasks.push(tokio::spawn(lane.run()).abort_handle());
            let is_running = is_running.clone();
            tokio::spawn(async move {
                lane::tell_all(told).await;
                drop(is_running);
            });
            lanes.push((queue, trouble));
        }
        PostgresStore {
            lanes,
            tasks,
            pool: Arc::new(Pool::new(server)),
            // Numbers of two processes never meet.
            attempts: AtomicI64::new((random() >> 1) as i64),
            ended,
        }
    }

    /// Asks the database something: see [`Pool::ask`].
    fn ask<T, A>(
        &self,
        question: impl Fn(Arc<Session>) -> A + Send + Sync + 'static,
    ) -> BoxFuture<Result<T, StoreError>>
    where
        T: Send + 'static,
        A: Future<Output = Result<T, tokio_postgres::Error>> + Send + 'static,
    {
        let pool = self.pool.clone();
        Box::pin(async move { pool.ask(question).await })
    }
}

/// Or says what stands between.
async fn keeps_statements(server: &Server, session: &Session) -> Result<(), String> {
    match server.keeps_statements(session).await {
        Ok(true) => Ok(()),
        Ok(false) => Err(
            "is behind a proxy that hands out connections by transaction and \
             forgets prepared statements: with PgBouncer that needs pool_mode = session, or \
             PgBouncer 1.21 or newer with max_prepared_statements above 0. Set that, or have \
             store.url lead to PostgreSQL itself"
                .into(),
        ),
        Err(error) => Err(format!("does not answer: {}", sentence(&error))),
    }
}

/// Why there is no connection; `when` says for how long that is so.
fn not_entered(server: &Server, error: NotConnected, when: &str) -> OpenError {
    let (url, what) = (server.url(), error.sentence);
    OpenError::of(match error.is_final {
        true => format!(
            "the database {url} cannot be entered: {what}. See that user, password, database and \
             sslmode in store.url are right"
        ),
        false => format!(
            "the database {url} cannot be reached {when}: {what}. See that PostgreSQL runs there \
             and takes connections from this machine"
        ),
    })
}

/// The first connection.
async fn first(server: &Server) -> Result<Arc<Session>, OpenError> {
    let until = Instant::now() + PATIENCE;
    let mut pauses = Pauses::default();
    loop {
        let error = match server.connect().await {
            Ok(session) => return Ok(session),
            Err(error) => error,
        };
        if error.is_final || Instant::now() > until {
            let when = format!("for {} seconds", PATIENCE.as_secs());
            return Err(not_entered(server, error, &when));
        }
        tracing::debug!(error = error.sentence, "PostgreSQL is not there yet");
        tokio::time::sleep(pauses.next(random())).await;
    }
}

/// The lane of a conversation: always the same, so that its messages stay in their order.
fn lane_of(message: &NewMessage) -> usize {
    let mut hasher = DefaultHasher::new();
    (&message.sender.tenant_id, &message.channel).hash(&mut hasher);
    (hasher.finish() % LANES as u64) as usize
}

impl MessageStore for PostgresStore {
    fn append(&self, message: NewMessage, tell: Tell) -> BoxFuture<Result<Stored, StoreError>> {
        let (lane, bytes) = (lane_of(&message), weight(&message));
        let (sender, stored) = oneshot::channel();
        let number = self.attempts.fetch_add(1, Ordering::Relaxed) & i64::MAX;
        let queued = Queued {
            attempt: Attempt { message, number },
            reply: Reply { tell, sender },
            since: Instant::now(),
        };
        answer(self.lanes[lane].0.put(queued, bytes), stored)
    }

    fn history(&self, query: HistoryQuery) -> BoxFuture<Result<History, StoreError>> {
        self.ask(move |session| {
            let query = query.clone();
            async move { tables::history(&session, &query).await }
        })
    }

    fn is_shared(&self) -> bool {
        true
    }

    fn clean(&self, what: Cleaning, from: u64) -> BoxFuture<Result<Cleaned, StoreError>> {
        self.ask(move |session| async move { clean::step(&session, what, from).await })
    }

    fn take_job(
        &self,
        name: &'static str,
        owner: &str,
        now: u64,
        until: u64,
    ) -> BoxFuture<Result<(Option<u64>, bool), StoreError>> {
        let owner: Arc<str> = owner.into();
        self.ask(move |session| {
            let owner = owner.clone();
            async move { clean::take(&session, name, &owner, now, until).await }
        })
    }

    fn end_job(
        &self,
        name: &'static str,
        owner: &str,
        done: Option<u64>,
    ) -> BoxFuture<Result<(), StoreError>> {
        let (owner, done): (Arc<str>, _) = (owner.into(), done.map(|at| at as i64));
        self.ask(move |session| {
            let owner = owner.clone();
            async move { clean::end(&session, name, &owner, done).await }
        })
    }

    fn is_in_trouble(&self) -> bool {
        let mut lanes = self.lanes.iter();
        lanes.any(|(_, trouble)| trouble.load(Ordering::Relaxed))
    }

    fn close(&self) -> BoxFuture<()> {
        for (queue, _) in &self.lanes {
            queue.close();
        }
        let mut ended = self.ended.clone();
        let (tasks, pool) = (self.tasks.clone(), self.pool.clone());
        Box::pin(async move {
            let all = async { while ended.changed().await.is_ok() {} };
            if tokio::time::timeout(LAST, all).await.is_err() {
                tracing::error!("PostgreSQL is away: messages that were not acknowledged are lost");
                tasks.iter().for_each(AbortHandle::abort);
            }
            pool.close();
        })
    }

    fn challenges(&self) -> Option<&dyn Challenges> {
        Some(self)
    }

    fn checkpoints(&self) -> Option<&dyn Checkpoints> {
        Some(self)
    }
}

impl Drop for PostgresStore {
    fn drop(&mut self) {
        for (queue, _) in &self.lanes {
            queue.close();
        }
    }
}

//! Connections to PostgreSQL: how they are made, and what their errors mean.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Error, Row, Statement};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::url::PostgresUrl;

/// How long all of a connection may take, for each host: resolving, TLS, the password, which server it is.
const CONNECT: Duration = Duration::from_secs(10);

/// How long is waited between two attempts to connect, at first and at most.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// A statement is planned once for each connection, and again when its tables have changed.
const ONE_PLAN: &str = "SET plan_cache_mode = force_generic_plan";

/// How long a statement may wait for a connection that a proxy has to make for it.
const PROBE: Duration = Duration::from_secs(3);

/// What an error means for what was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Meaning {
    /// The connection is of no use any more; what was asked may have been done.
    Away,
    /// Somebody else was at the same rows: the same may succeed at once.
    Again,
    /// Something of what was asked cannot be kept, however often it is tried.
    Refused,
    /// It was not done.
    Failed,
}

/// What an error of PostgreSQL means, by its code (its manual, appendix A).
pub(super) fn meaning(error: &Error) -> Meaning {
    let Some(code) = error.code().map(tokio_postgres::error::SqlState::code) else {
        return Meaning::Away;
    };
    match code {
        // Serialization, deadlock, unique.
        "40001" | "40P01" | "23505" => Meaning::Again,
        // Shutdown, start, too many connections, a server that only reads now; a statement that
        // a proxy or a change of tables has made unknown, or another's.
        "57P01" | "57P02" | "57P03" | "57P05" | "53300" | "25006" | "26000" | "42P05" | "0A000" => {
            Meaning::Away
        }
        _ => match &code[..2] {
            "08" => Meaning::Away,
            "22" | "23" | "54" => Meaning::Refused,
            _ => Meaning::Failed,
        },
    }
}

/// An error as operators read it: PostgreSQL's own sentence, or what happened to the connection.
/// Details are left out, because they repeat values.
pub(super) fn sentence(error: &Error) -> String {
    match error.as_db_error() {
        Some(error) => format!("{} ({})", error.message(), error.code().code()),
        None => match std::error::Error::source(error) {
            Some(cause) => format!("{error}: {cause}"),
            None => error.to_string(),
        },
    }
}

/// Whether the server's certificate is not good, or TLS cannot be agreed on.
fn is_of_tls(error: &Error) -> bool {
    let cause = std::error::Error::source(error);
    let cause = cause.and_then(|cause| cause.downcast_ref::<std::io::Error>());
    let inner = cause.and_then(std::io::Error::get_ref);
    inner.is_some_and(|inner| inner.is::<rustls::Error>())
}

/// A database, and the way to it.
pub(super) struct Server {
    url: PostgresUrl,
    tls: MakeRustlsConnect,
}

/// Why there is no connection.
#[derive(Debug)]
pub(super) struct NotConnected {
    pub(super) sentence: String,
    /// It is no use to try again: somebody has to change something.
    pub(super) is_final: bool,
}

impl Server {
    pub(super) fn new(url: PostgresUrl) -> Result<Server, String> {
        let tls = url.tls()?;
        Ok(Server { url, tls })
    }

    pub(super) fn url(&self) -> &PostgresUrl {
        &self.url
    }

    /// One attempt.
    pub(super) async fn connect(&self) -> Result<Arc<Session>, NotConnected> {
        let attempt = self.url.config().connect(self.tls.clone());
        let time = CONNECT.saturating_mul(self.url.hosts());
        let (client, connection) = match tokio::time::timeout(time, attempt).await {
            Ok(Ok(connected)) => connected,
            Ok(Err(error)) => {
                // Wrong password, no such role, no such database; a certificate that is not good.
                let code = error.code().map_or("", |code| code.code());
                return Err(NotConnected {
                    sentence: sentence(&error),
                    is_final: code.starts_with("28") || code == "3D000" || is_of_tls(&error),
                });
            }
            Err(_) => {
                return Err(NotConnected {
                    sentence: "it does not answer".into(),
                    is_final: false,
                });
            }
        };
        let (is_over, over) = watch::channel(());
        tokio::spawn(async move {
            let _is_over = is_over;
            if let Err(error) = connection.await {
                tracing::debug!(error = sentence(&error), "a connection to PostgreSQL ended");
            }
        });
        // Planning the statement for a batch takes longer than doing it for one message. A proxy
        // may forget this, or not like it: then it is planned each time.
        if let Err(error) = client.batch_execute(ONE_PLAN).await {
            tracing::debug!(error = sentence(&error), "statements are planned each time");
        }
        Ok(Arc::new(Session {
            client,
            statements: Mutex::default(),
            over,
        }))
    }
}

/// The statement is not there, or another is under its name.
const ANOTHER: [&str; 2] = ["26000", "42P05"];

impl Server {
    /// Whether a connection still knows a statement while others are at work. Where a proxy hands
    /// out connections by transaction, another one may do each, which knows nothing of it.
    pub(super) async fn keeps_statements(&self, session: &Session) -> Result<bool, Error> {
        let ask = async {
            let statement = session.client.prepare("SELECT 1").await?;
            let Ok(other) = self.connect().await else {
                return Ok(());
            };
            // A proxy hands out first what was last used: the connection that knows it.
            other.batch("BEGIN; SELECT 1").await?;
            let asked = session.client.query(&statement, &[]);
            let answer = tokio::time::timeout(PROBE, asked).await;
            other.batch("ROLLBACK").await?;
            // Late: there is no second connection, so no statement meets another.
            answer.map_or(Ok(()), |answer| answer.map(drop))
        };
        match ask.await {
            Ok(()) => Ok(true),
            Err(error) => {
                let code = error.code().map_or("", |code| code.code());
                if ANOTHER.contains(&code) {
                    Ok(false)
                } else {
                    Err(error)
                }
            }
        }
    }
}

/// A connection with the statements that it knows.
pub(super) struct Session {
    client: Client,
    statements: Mutex<HashMap<&'static str, Statement>>,
    over: watch::Receiver<()>,
}

/// What is put into a statement.
pub(super) type Values<'a> = &'a [&'a (dyn ToSql + Sync)];

impl Session {
    pub(super) fn client(&mut self) -> &mut Client {
        &mut self.client
    }

    /// The client, for what needs no statement that is known.
    pub(super) fn shared(&self) -> &Client {
        &self.client
    }

    pub(super) fn is_over(&self) -> bool {
        self.client.is_closed()
    }

    /// Waits until the connection is lost.
    pub(super) async fn over(&self) {
        let mut over = self.over.clone();
        // Nothing is ever sent: an error says that the other end is gone.
        while over.changed().await.is_ok() {}
    }

    /// The rows that a statement comes to. It is prepared when it is asked for the first time.
    pub(super) async fn query(
        &self,
        sql: &'static str,
        values: Values<'_>,
    ) -> Result<Vec<Row>, Error> {
        let statement = self.statement(sql).await?;
        self.client.query(&statement, values).await
    }

    /// How many rows a statement changed.
    pub(super) async fn execute(
        &self,
        sql: &'static str,
        values: Values<'_>,
    ) -> Result<u64, Error> {
        let statement = self.statement(sql).await?;
        self.client.execute(&statement, values).await
    }

    /// Does something that has neither values nor rows.
    pub(super) async fn batch(&self, sql: &str) -> Result<(), Error> {
        self.client.batch_execute(sql).await
    }

    async fn statement(&self, sql: &'static str) -> Result<Statement, Error> {
        let known = self.known().get(sql).cloned();
        match known {
            Some(statement) => Ok(statement),
            None => {
                let statement = self.client.prepare(sql).await?;
                self.known().insert(sql, statement.clone());
                Ok(statement)
            }
        }
    }

    fn known(&self) -> std::sync::MutexGuard<'_, HashMap<&'static str, Statement>> {
        self.statements
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// How long to wait before the next attempt to connect: twice as long each time, of which a
/// random half, so that nodes do not come back all at once.
#[derive(Debug, Default)]
pub(super) struct Pauses(u32);

impl Pauses {
    /// The next pause; `random` is any number.
    pub(super) fn next(&mut self, random: u64) -> Duration {
        let whole = FIRST_PAUSE.saturating_mul(1 << self.0.min(10));
        let whole = whole.min(LONGEST_PAUSE);
        self.0 = self.0.saturating_add(1);
        let half = whole / 2;
        half + half.mul_f64((random % 1_024) as f64 / 1_024.0)
    }
}

/// A number that nobody else draws.
pub(super) fn random() -> u64 {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes).expect("the operating system gives randomness");
    u64::from_ne_bytes(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_up_to_two_seconds_and_are_never_the_same_for_all() {
        let mut pauses = Pauses::default();
        let (least, most) = (0, 1_023);
        assert_eq!(pauses.next(least), Duration::from_millis(25));
        assert!(pauses.next(most) > Duration::from_millis(99));
        for _ in 0..20 {
            let pause = pauses.next(random());
            assert!(pause <= LONGEST_PAUSE);
        }
        assert!(pauses.next(least) >= LONGEST_PAUSE / 2);
    }
}

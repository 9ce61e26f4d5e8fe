//! The tables, and how a database gets them.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use tokio_postgres::{Client, Error, Transaction};

use crate::look::Looked;

/// The tables, step by step, in the order of their numbers.
const MIGRATIONS: &[(i32, &str)] = &[
    (1, include_str!("migrations/0001.sql")),
    (2, include_str!("migrations/0002.sql")),
    (3, include_str!("migrations/0003.sql")),
    (4, include_str!("migrations/0004.sql")),
];

/// What nodes that start together wait for: one of them makes the tables. Any number that no
/// other program uses will do.
const LOCK: i64 = 0x6865_6172_746c_696e;

/// The oldest PostgreSQL that is tested: 13.
const OLDEST: i32 = 130_000;

/// What an answer stands for that these settings of the server do not keep: the last believes a
/// sync after one that has failed.
const NOT_DURABLE: [(&str, &str); 4] = [
    ("fsync", "off"),
    ("synchronous_commit", "off"),
    ("full_page_writes", "off"),
    ("data_sync_retry", "on"),
];

/// What is to be said of a database, a sentence each; or why it cannot be used.
pub(super) async fn examine(client: &Client) -> Result<Result<Vec<String>, String>, Error> {
    let number = setting(client, "server_version_num").await?;
    if number.parse().is_ok_and(|number: i32| number < OLDEST) {
        let version = setting(client, "server_version").await?;
        return Ok(Err(format!(
            "is PostgreSQL {version}, and 13 or newer is needed"
        )));
    }
    let encoding = setting(client, "server_encoding").await?;
    if encoding != "UTF8" {
        return Ok(Err(format!(
            "keeps text as {encoding}, which has no place for everything that is said: create \
             one with ENCODING 'UTF8'"
        )));
    }
    let mut warnings = Vec::new();
    for (name, value) in NOT_DURABLE {
        if setting(client, name).await? == value {
            warnings.push(format!(
                "PostgreSQL has {name} = {value}: messages that were acknowledged may be lost when its \
                 machine fails"
            ));
        }
    }
    Ok(Ok(warnings))
}

/// Brings the tables to what this version knows, in one transaction; or says why it cannot.
pub(super) async fn prepare(client: &mut Client) -> Result<Result<(), String>, Error> {
    match examine(client).await? {
        Ok(warnings) => warnings.iter().for_each(|what| tracing::warn!("{what}")),
        Err(what) => return Ok(Err(what)),
    }
    migrate(client).await
}

/// Looks at a database without changing anything; or says why it cannot be used.
pub(super) async fn look(client: &Client) -> Result<Result<Looked, String>, Error> {
    let start = Instant::now();
    let what = format!("PostgreSQL {}", setting(client, "server_version").await?);
    let round_trip = Some(start.elapsed());
    let ahead = Some(clock_ahead(client).await?);
    let warnings = match examine(client).await? {
        Ok(warnings) => warnings,
        Err(what) => return Ok(Err(what)),
    };
    let has_tables = "SELECT to_regclass('heartline.migration') IS NOT NULL";
    let version = match client.query_one(has_tables, &[]).await?.get(0) {
        true => client.query_one(VERSION, &[]).await?.get(0),
        false => 0,
    };
    Ok(not_newer(version).map(|()| Looked {
        what: Some(what),
        version: version.into(),
        known: known().into(),
        round_trip,
        ahead,
        warnings,
        ..Looked::default()
    }))
}

/// How far the clock of the database's machine is ahead of this one's, milliseconds.
async fn clock_ahead(client: &Client) -> Result<i64, Error> {
    let here = || {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        now.map_or(0, |now| now.as_millis() as i64)
    };
    let before = here();
    let sql = "SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint";
    let there: i64 = client.query_one(sql, &[]).await?.get(0);
    // It was said in between.
    Ok(there - i64::midpoint(before, here()))
}

const VERSION: &str = "SELECT coalesce(max(version), 0) FROM heartline.migration";

/// The version of the tables that this program makes.
fn known() -> i32 {
    MIGRATIONS.last().map_or(0, |(number, _)| *number)
}

fn not_newer(version: i32) -> Result<(), String> {
    let known = known();
    match version > known {
        true => Err(format!(
            "has tables of a newer Heartline (schema {version}, and this one knows {known}): run \
             that version, or set store.url to another database"
        )),
        false => Ok(()),
    }
}

async fn setting(client: &Client, name: &str) -> Result<String, Error> {
    let sql = format!("SELECT current_setting('{name}')");
    Ok(client.query_one(&sql, &[]).await?.get(0))
}

async fn migrate(client: &mut Client) -> Result<Result<(), String>, Error> {
    let transaction = client.transaction().await?;
    // Of this transaction: a proxy that hands out connections by transaction keeps it.
    let lock = "SELECT pg_advisory_xact_lock($1)";
    transaction.execute(lock, &[&LOCK]).await?;
    // Who may not make schemas may use one that is there.
    if !exists(&transaction, "to_regnamespace('heartline')").await? {
        transaction.batch_execute("CREATE SCHEMA heartline").await?;
    }
    if !exists(&transaction, "to_regclass('heartline.migration')").await? {
        let table = "CREATE TABLE heartline.migration (
            version integer PRIMARY KEY, at timestamptz NOT NULL DEFAULT now())";
        transaction.batch_execute(table).await?;
    }
    if let Err(what) = not_newer(transaction.query_one(VERSION, &[]).await?.get(0)) {
        return Ok(Err(what));
    }
    for (number, sql) in MIGRATIONS {
        let done = "INSERT INTO heartline.migration (version) VALUES ($1) ON CONFLICT DO NOTHING";
        if transaction.execute(done, &[number]).await? > 0 {
            transaction.batch_execute(sql).await?;
        }
    }
    transaction.commit().await?;
    Ok(Ok(()))
}

async fn exists(transaction: &Transaction<'_>, what: &str) -> Result<bool, Error> {
    let sql = format!("SELECT {what} IS NOT NULL");
    Ok(transaction.query_one(&sql, &[]).await?.get(0))
}

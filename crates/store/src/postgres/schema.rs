//! The tables, and how a database gets them.

use tokio_postgres::{Client, Error, Transaction};

/// The tables, step by step, in the order of their numbers.
const MIGRATIONS: &[(i32, &str)] = &[
    (1, include_str!("migrations/0001.sql")),
    (2, include_str!("migrations/0002.sql")),
    (3, include_str!("migrations/0003.sql")),
];

/// What nodes that start together wait for: one of them makes the tables. Any number that no
/// other program uses will do.
const LOCK: i64 = 0x6865_6172_746c_696e;

/// The oldest PostgreSQL that is tested: 13.
const OLDEST: i32 = 130_000;

/// What an answer stands for that a setting of the server does not keep.
const DURABLE: [&str; 2] = ["fsync", "synchronous_commit"];

/// Brings the tables to what this version knows, in one transaction; or says why it cannot.
pub(super) async fn prepare(client: &mut Client) -> Result<Result<(), String>, Error> {
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
    for name in DURABLE {
        if setting(client, name).await? == "off" {
            tracing::warn!(
                "PostgreSQL has {name} = off: messages that were acknowledged may be lost when \
                 its machine fails"
            );
        }
    }
    migrate(client).await
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
    let version = "SELECT coalesce(max(version), 0) FROM heartline.migration";
    let version: i32 = transaction.query_one(version, &[]).await?.get(0);
    let known = MIGRATIONS.last().map_or(0, |(number, _)| *number);
    if version > known {
        return Ok(Err(format!(
            "has tables of a newer Heartline (schema {version}, and this one knows {known}): run \
             that version, or set store.url to another database"
        )));
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

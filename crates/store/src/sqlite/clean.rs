//! Removing, step by step.

use heartline_core::store::{Cleaned, Cleaning};
use rusqlite::{OptionalExtension, Transaction, params};

use crate::clean::{Plan, ROWS, Row, TALKS, Talk, by_age, by_number, of_invites};

/// One step, in the transaction of what waits with it.
pub(crate) fn step(
    transaction: &Transaction<'_>,
    what: Cleaning,
    from: u64,
) -> rusqlite::Result<Cleaned> {
    let number = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
    let plan = match what {
        Cleaning::MessagesBefore { time, now } => {
            by_age(&messages(transaction, from)?, number(time), number(now))
        }
        Cleaning::MessagesBeyond(keep) => by_number(&talks(transaction, from)?, number(keep)),
        Cleaning::InvitesBefore(time) => return invites(transaction, number(time)),
    };
    let rows = apply(transaction, &plan)?;
    let next = plan.next.map(|next| next as u64);
    Ok(Cleaned { rows, next })
}

fn messages(transaction: &Transaction<'_>, from: u64) -> rusqlite::Result<Vec<Row>> {
    let mut read = transaction.prepare_cached(
        "SELECT id, conversation, \"offset\", created_at FROM message
         WHERE id > ?1 ORDER BY id LIMIT ?2",
    )?;
    let rows = read.query_map(params![from, ROWS], |row| {
        Ok(Row {
            id: row.get(0)?,
            conversation: row.get(1)?,
            offset: row.get(2)?,
            created_at: row.get(3)?,
        })
    })?;
    rows.collect()
}

fn talks(transaction: &Transaction<'_>, from: u64) -> rusqlite::Result<Vec<Talk>> {
    let mut read = transaction.prepare_cached(
        "SELECT id, head, floor FROM conversation WHERE id > ?1 ORDER BY id LIMIT ?2",
    )?;
    let rows = read.query_map(params![from, TALKS], |row| {
        Ok(Talk {
            id: row.get(0)?,
            head: row.get(1)?,
            floor: row.get(2)?,
        })
    })?;
    rows.collect()
}

fn apply(transaction: &Transaction<'_>, plan: &Plan) -> rusqlite::Result<u64> {
    let mut raise = transaction
        .prepare_cached("UPDATE conversation SET floor = max(floor, ?2) WHERE id = ?1")?;
    let mut remove = transaction
        .prepare_cached("DELETE FROM message WHERE conversation = ?1 AND \"offset\" <= ?2")?;
    let mut rows = 0;
    for (conversation, floor) in &plan.floors {
        raise.execute([conversation, floor])?;
        rows += remove.execute([conversation, floor])? as u64;
    }
    Ok(rows)
}

/// The first invites that ended before `?1`, `?2` at most.
macro_rules! ended {
    () => {
        "SELECT code FROM invite WHERE ends_at < ?1 ORDER BY ends_at, code LIMIT ?2"
    };
}

/// Removes who came by the first of the invites that ended before a moment, then these, once
/// nothing is left of that.
fn invites(transaction: &Transaction<'_>, before: i64) -> rusqlite::Result<Cleaned> {
    let remove = |sql| {
        let mut remove = transaction.prepare_cached(sql)?;
        remove.execute(params![before, ROWS])
    };
    let uses = remove(concat!(
        "DELETE FROM invite_use WHERE (code, person) IN (
             SELECT code, person FROM invite_use WHERE code IN (",
        ended!(),
        ") LIMIT ?2)"
    ))?;
    let invites = match uses < ROWS {
        true => remove(concat!("DELETE FROM invite WHERE code IN (", ended!(), ")"))?,
        false => 0,
    };
    Ok(of_invites(uses as u64, invites as u64))
}

/// When a job was done last.
pub(crate) fn last_run(transaction: &Transaction<'_>, name: &str) -> rusqlite::Result<Option<u64>> {
    let mut read = transaction.prepare_cached("SELECT last_at FROM job WHERE name = ?1")?;
    Ok(read
        .query_row([name], |row| row.get(0))
        .optional()?
        .flatten())
}

/// Notes that a job was done.
pub(crate) fn note_run(transaction: &Transaction<'_>, name: &str, at: u64) -> rusqlite::Result<()> {
    let mut note = transaction.prepare_cached(
        "INSERT INTO job (name, last_at) VALUES (?1, ?2)
         ON CONFLICT (name) DO UPDATE SET last_at = max(ifnull(last_at, 0), excluded.last_at)",
    )?;
    note.execute(params![name, at]).map(drop)
}

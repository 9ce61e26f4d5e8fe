//! Rows of challenges: one is there as long as it is open.

use heartline_core::store::{Challenge, MAX_CHALLENGES, MAX_OPEN, Redeemed};
use rusqlite::{OptionalExtension, ToSql, Transaction, params};

/// Gives one out. Rows have ascending numbers, so that as many as there may be in all are
/// those from a number on.
pub(super) fn issue(
    transaction: &Transaction<'_>,
    new: &Challenge,
    now: u64,
) -> rusqlite::Result<()> {
    let run = |sql: &str, params: &[&dyn ToSql]| transaction.prepare_cached(sql)?.execute(params);
    run("DELETE FROM challenge WHERE expires_at <= ?1", &[&now])?;
    let sql = "INSERT INTO challenge (hash, wallet, expires_at) VALUES (?1, ?2, ?3)";
    run(sql, &[&new.hash, &new.wallet, &new.expires_at])?;
    let id = transaction.last_insert_rowid();
    let surplus = "DELETE FROM challenge WHERE wallet = ?1 AND id NOT IN (
                   SELECT id FROM challenge WHERE wallet = ?1 ORDER BY id DESC LIMIT ?2)";
    run(surplus, &[&new.wallet, &(MAX_OPEN as i64)])?;
    let before = id - MAX_CHALLENGES as i64;
    run("DELETE FROM challenge WHERE id <= ?1", &[&before])?;
    Ok(())
}

/// Uses one up.
pub(super) fn redeem(
    transaction: &Transaction<'_>,
    hash: &[u8; 32],
    wallet: &[u8; 32],
    now: u64,
) -> rusqlite::Result<Redeemed> {
    let sql = "SELECT wallet = ?2 FROM challenge WHERE hash = ?1 AND expires_at > ?3";
    let mut find = transaction.prepare_cached(sql)?;
    let found = find.query_row(params![hash, wallet, now], |row| row.get(0));
    match found.optional()? {
        None => Ok(Redeemed::Unknown),
        Some(false) => Ok(Redeemed::OtherWallet),
        Some(true) => {
            let sql = "DELETE FROM challenge WHERE hash = ?1";
            transaction.prepare_cached(sql)?.execute([hash])?;
            Ok(Redeemed::Taken)
        }
    }
}

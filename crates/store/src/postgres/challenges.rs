//! Rows of challenges: one is there as long as it is open.

use heartline_core::store::{Challenge, MAX_CHALLENGES, MAX_OPEN, Redeemed};
use tokio_postgres::Error;

use super::session::Session;

/// Gives one out. Rows have ascending numbers, so that as many as there may be in all are
/// those from a number on.
pub(super) async fn issue(session: &Session, new: &Challenge, now: u64) -> Result<(), Error> {
    let (hash, wallet) = (&new.hash[..], &new.wallet[..]);
    let expired = "DELETE FROM heartline.challenge WHERE expires_at <= $1";
    session.execute(expired, &[&(now as i64)]).await?;
    // Once, if the answer to an earlier try was lost.
    let sql = "INSERT INTO heartline.challenge (hash, wallet, expires_at) VALUES ($1, $2, $3)
        ON CONFLICT DO NOTHING RETURNING id";
    let expires_at = new.expires_at as i64;
    let rows = session.query(sql, &[&hash, &wallet, &expires_at]).await?;
    let Some(row) = rows.first() else {
        return Ok(());
    };
    let surplus = "DELETE FROM heartline.challenge WHERE wallet = $1 AND id NOT IN (
        SELECT id FROM heartline.challenge WHERE wallet = $1 ORDER BY id DESC LIMIT $2)";
    session
        .execute(surplus, &[&wallet, &(MAX_OPEN as i64)])
        .await?;
    let before = row.get::<_, i64>(0) - MAX_CHALLENGES as i64;
    let oldest = "DELETE FROM heartline.challenge WHERE id <= $1";
    session.execute(oldest, &[&before]).await?;
    Ok(())
}

/// Uses one up: the statement that deletes it finds it once.
pub(super) async fn redeem(
    session: &Session,
    hash: &[u8; 32],
    wallet: &[u8; 32],
    now: u64,
) -> Result<Redeemed, Error> {
    let (hash, wallet, now) = (&hash[..], &wallet[..], now as i64);
    let take =
        "DELETE FROM heartline.challenge WHERE hash = $1 AND wallet = $2 AND expires_at > $3";
    if session.execute(take, &[&hash, &wallet, &now]).await? > 0 {
        return Ok(Redeemed::Taken);
    }
    let find =
        "SELECT FROM heartline.challenge WHERE hash = $1 AND wallet <> $2 AND expires_at > $3";
    Ok(
        match session.query(find, &[&hash, &wallet, &now]).await?.len() {
            0 => Redeemed::Unknown,
            _ => Redeemed::OtherWallet,
        },
    )
}

//! Removing, step by step, and who does it.

use heartline_core::store::{Cleaned, Cleaning, Job};
use tokio_postgres::Error;

use super::session::Session;
use crate::clean::{Plan, ROWS, Row, TALKS, Talk, by_age, by_number, of_invites};

/// One step. What it looks at and what it removes are two statements: floors only rise, so what
/// happens in between does no harm.
pub(super) async fn step(session: &Session, what: Cleaning, from: u64) -> Result<Cleaned, Error> {
    let number = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
    let from = number(from);
    let plan = match what {
        Cleaning::MessagesBefore { time, now } => {
            let messages = messages(session, from).await?;
            by_age(&messages, number(time), number(now))
        }
        Cleaning::MessagesBeyond(keep) => by_number(&talks(session, from).await?, number(keep)),
        Cleaning::InvitesBefore(time) => return invites(session, number(time)).await,
    };
    let rows = match plan.floors.is_empty() {
        true => 0,
        false => apply(session, &plan).await?,
    };
    let next = plan.next.map(|next| next as u64);
    Ok(Cleaned { rows, next })
}

async fn messages(session: &Session, from: i64) -> Result<Vec<Row>, Error> {
    let sql = "SELECT id, conversation, \"offset\", created_at FROM heartline.message
        WHERE id > $1 ORDER BY id LIMIT $2";
    let rows = session.query(sql, &[&from, &(ROWS as i64)]).await?;
    let rows = rows.iter().map(|row| Row {
        id: row.get(0),
        conversation: row.get(1),
        offset: row.get(2),
        created_at: row.get(3),
    });
    Ok(rows.collect())
}

async fn talks(session: &Session, from: i64) -> Result<Vec<Talk>, Error> {
    let sql = "SELECT id, head, floor FROM heartline.conversation
        WHERE id > $1 ORDER BY id LIMIT $2";
    let rows = session.query(sql, &[&from, &(TALKS as i64)]).await?;
    let rows = rows.iter().map(|row| Talk {
        id: row.get(0),
        head: row.get(1),
        floor: row.get(2),
    });
    Ok(rows.collect())
}

/// Conversations are locked in the order in which messages lock them.
async fn apply(session: &Session, plan: &Plan) -> Result<u64, Error> {
    let sql = "WITH gone AS MATERIALIZED (
            SELECT * FROM unnest($1::bigint[], $2::bigint[]) AS g (id, floor)
        ), locked AS MATERIALIZED (
            SELECT id FROM heartline.conversation WHERE id IN (SELECT id FROM gone)
            ORDER BY name, kind, tenant NULLS FIRST FOR NO KEY UPDATE
        ), raised AS (
            UPDATE heartline.conversation c SET floor = greatest(c.floor, g.floor)
            FROM gone g JOIN locked l ON l.id = g.id WHERE c.id = g.id
        ), removed AS (
            DELETE FROM heartline.message m USING gone g
            WHERE m.conversation = g.id AND m.\"offset\" <= g.floor
            RETURNING 1
        )
        SELECT count(*) FROM removed";
    let ids: Vec<i64> = plan.floors.keys().copied().collect();
    let floors: Vec<i64> = plan.floors.values().copied().collect();
    let rows = session.query(sql, &[&ids, &floors]).await?;
    Ok(rows.first().map_or(0, |row| row.get::<_, i64>(0)) as u64)
}

/// The first invites that ended before `$1`, `$2` at most.
macro_rules! ended {
    () => {
        "SELECT code FROM heartline.invite WHERE ends_at < $1 ORDER BY ends_at, code LIMIT $2"
    };
}

/// Removes who came by the first of the invites that ended before a moment, then these, once
/// nothing is left of that. Nobody comes by them in between: they ended long ago.
async fn invites(session: &Session, before: i64) -> Result<Cleaned, Error> {
    let uses = concat!(
        "DELETE FROM heartline.invite_use u USING (
            SELECT code, person FROM heartline.invite_use WHERE code IN (",
        ended!(),
        ") LIMIT $2) AS gone
        WHERE u.code = gone.code AND u.person = gone.person"
    );
    let rows = ROWS as i64;
    let uses = session.execute(uses, &[&before, &rows]).await?;
    let invites = concat!(
        "DELETE FROM heartline.invite WHERE code IN (",
        ended!(),
        ")"
    );
    let invites = match uses < ROWS as u64 {
        true => session.execute(invites, &[&before, &rows]).await?,
        false => 0,
    };
    Ok(of_invites(uses, invites))
}

/// Takes a job until then, Unix milliseconds, unless another node has it: see [`Job::take`]. When
/// it was done last, and whether it is taken.
pub(super) async fn take(
    session: &Session,
    name: &str,
    owner: &str,
    now: u64,
    until: u64,
) -> Result<(Option<u64>, bool), Error> {
    let number = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
    let horizon = number(Job::horizon(now, until));
    let (now, until) = (number(now), number(until));
    let sql = "INSERT INTO heartline.job AS j (name, owner, owned_until) VALUES ($1, $2, $4)
        ON CONFLICT (name) DO UPDATE SET owner = $2, owned_until = $4
        WHERE j.owned_until <= $3 OR j.owned_until > $5 OR j.owner = $2
        RETURNING last_at";
    let taken = session
        .query(sql, &[&name, &owner, &now, &until, &horizon])
        .await?;
    let last = |row: &tokio_postgres::Row| row.get::<_, Option<i64>>(0).map(|at| at as u64);
    if let Some(row) = taken.first() {
        return Ok((last(row), true));
    }
    let sql = "SELECT last_at FROM heartline.job WHERE name = $1";
    let known = session.query(sql, &[&name]).await?;
    Ok((known.first().and_then(last), false))
}

/// Lets a job go that this node has, and notes when it was done, if it was.
pub(super) async fn end(
    session: &Session,
    name: &str,
    owner: &str,
    done: Option<i64>,
) -> Result<(), Error> {
    let sql = "UPDATE heartline.job SET owner = NULL, owned_until = 0,
            last_at = coalesce(greatest(last_at, $2), $2, last_at)
        WHERE name = $1 AND owner = $3";
    session
        .execute(sql, &[&name, &done, &owner])
        .await
        .map(drop)
}

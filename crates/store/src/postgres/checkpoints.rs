//! Rows of checkpoints, one a user.

use heartline_core::auth::UserKey;
use heartline_core::store::{Changed, Changes, Checkpoint};
use tokio_postgres::{Error, Row};

use super::people;
use super::session::Session;

/// Rooms have no control characters in their names.
const BETWEEN_ROOMS: &str = "\n";

fn read(row: &Row) -> Checkpoint {
    let rooms: &str = row.get(1);
    let rooms = rooms.split(BETWEEN_ROOMS).filter(|room| !room.is_empty());
    Checkpoint {
        metadata: row.get(0),
        rooms: rooms.map(ToOwned::to_owned).collect(),
        version: row.get::<_, i64>(2) as u64,
        last_seen_at: row.get::<_, i64>(3) as u64,
    }
}

/// Changes what is kept of a user, in one transaction. The user's row is locked, so that of two
/// nodes the later one sees what the earlier has kept.
pub(super) async fn change(session: &Session, changes: &Changes) -> Result<Changed, Error> {
    let person = people::person(session, &changes.user).await?;
    session.batch("BEGIN").await?;
    let changed = change_locked(session, person, changes).await;
    let end = match changed {
        Ok(_) => "COMMIT",
        Err(_) => "ROLLBACK",
    };
    let ended = session.batch(end).await;
    let changed = changed?;
    ended?;
    Ok(changed)
}

async fn change_locked(
    session: &Session,
    person: i64,
    changes: &Changes,
) -> Result<Changed, Error> {
    let lock = "SELECT FROM heartline.person WHERE id = $1 FOR UPDATE";
    session.query(lock, &[&person]).await?;
    let sql = "SELECT metadata, rooms, version, last_seen_at FROM heartline.checkpoint
        WHERE person = $1";
    let rows = session.query(sql, &[&person]).await?;
    let changed = changes.apply(rows.first().map(read));
    if let (Some(now), true) = (&changed.checkpoint, changed.differs) {
        let sql = "INSERT INTO heartline.checkpoint
                (person, metadata, rooms, version, last_seen_at)
            VALUES ($1, $2, $3, $4, $5)
            ON CONFLICT (person) DO UPDATE SET metadata = excluded.metadata,
                rooms = excluded.rooms, version = excluded.version,
                last_seen_at = excluded.last_seen_at";
        let rooms = now.rooms.join(BETWEEN_ROOMS);
        let (version, seen) = (now.version as i64, now.last_seen_at as i64);
        session
            .execute(sql, &[&person, &now.metadata, &rooms, &version, &seen])
            .await?;
    }
    Ok(changed)
}

/// What is kept of a user.
pub(super) async fn find(session: &Session, user: &UserKey) -> Result<Option<Checkpoint>, Error> {
    let sql = "SELECT c.metadata, c.rooms, c.version, c.last_seen_at
        FROM heartline.person p JOIN heartline.checkpoint c ON c.person = p.id
        WHERE p.user_id = $1 AND ARRAY[p.tenant, p.kind] = ARRAY[$2::text, $3::text]";
    let (tenant, kind) = (user.tenant_id.as_deref(), user.user_type.as_deref());
    let rows = session
        .query(sql, &[&&*user.user_id, &tenant, &kind])
        .await?;
    Ok(rows.first().map(read))
}

//! Rows of checkpoints, one a user.

use std::sync::Arc;

use heartline_core::auth::UserKey;
use heartline_core::store::{Changed, Changes, Checkpoint};
use rusqlite::{Connection, OptionalExtension, Row, Transaction, params};

use super::tables::Tables;

/// Rooms have no control characters in their names.
const BETWEEN_ROOMS: &str = "\n";

fn read(row: &Row<'_>) -> rusqlite::Result<Checkpoint> {
    let rooms: String = row.get(1)?;
    let rooms = rooms.split(BETWEEN_ROOMS).filter(|room| !room.is_empty());
    Ok(Checkpoint {
        metadata: row.get(0)?,
        rooms: rooms.map(ToOwned::to_owned).collect(),
        version: row.get(2)?,
        last_seen_at: row.get(3)?,
    })
}

/// Changes what is kept of a user.
pub(super) fn change(
    tables: &mut Tables,
    transaction: &Transaction<'_>,
    changes: &Changes,
) -> rusqlite::Result<Changed> {
    let person = tables.person(transaction, &changes.user)?;
    let sql = "SELECT metadata, rooms, version, last_seen_at FROM checkpoint WHERE person = ?1";
    let mut find = transaction.prepare_cached(sql)?;
    let changed = changes.apply(find.query_row([person], read).optional()?);
    if let (Some(now), true) = (&changed.checkpoint, changed.differs) {
        let mut write = transaction.prepare_cached(
            "INSERT INTO checkpoint (person, metadata, rooms, version, last_seen_at)
             VALUES (?1, ?2, ?3, ?4, ?5)
             ON CONFLICT (person) DO UPDATE SET metadata = ?2, rooms = ?3, version = ?4,
             last_seen_at = ?5",
        )?;
        let rooms = now.rooms.join(BETWEEN_ROOMS);
        write.execute(params![
            person,
            now.metadata,
            rooms,
            now.version,
            now.last_seen_at
        ])?;
    }
    Ok(changed)
}

/// What is kept of a user.
pub(super) fn find(
    connection: &Connection,
    user: &Arc<UserKey>,
) -> rusqlite::Result<Option<Checkpoint>> {
    let mut find = connection.prepare_cached(
        "SELECT c.metadata, c.rooms, c.version, c.last_seen_at
         FROM person p JOIN checkpoint c ON c.person = p.id
         WHERE p.user_id = ?1 AND ifnull(p.tenant, x'00') = ifnull(?2, x'00')
         AND ifnull(p.kind, x'00') = ifnull(?3, x'00')",
    )?;
    let (tenant, kind) = (user.tenant_id.as_deref(), user.user_type.as_deref());
    let found = find.query_row(params![&*user.user_id, tenant, kind], read);
    found.optional()
}

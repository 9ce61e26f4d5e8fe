//! Rows of invites, and of who has come by which.

use std::sync::Arc;

use heartline_core::auth::UserKey;
use heartline_core::store::Channel;
use heartline_core::store::conversations::{Added, Membership};
use heartline_core::store::invites::{Invite, InviteQuery, NewInvite, Unusable, Used};
use rusqlite::{Connection, OptionalExtension, Row, Transaction, params};

use super::people;
use super::tables::Tables;

const INVITE: &str = "
    SELECT i.code, c.name, c.tenant, i.created_by, i.created_at, i.expires_at, i.max_uses, i.uses,
           i.revoked_at, i.label
    FROM invite i JOIN conversation c ON c.id = i.conversation";

fn read(row: &Row<'_>) -> rusqlite::Result<Invite> {
    Ok(Invite {
        code: row.get(0)?,
        conversation_id: row.get(1)?,
        tenant_id: row.get(2)?,
        created_by: row.get(3)?,
        created_at: row.get(4)?,
        expires_at: row.get(5)?,
        max_uses: row.get(6)?,
        uses: row.get(7)?,
        revoked_at: row.get(8)?,
        label: row.get(9)?,
    })
}

/// The invite of a code.
pub(super) fn get(connection: &Connection, code: &str) -> rusqlite::Result<Option<Invite>> {
    let mut find = connection.prepare_cached(&format!("{INVITE} WHERE i.code = ?1"))?;
    find.query_row([code], read).optional()
}

/// Keeps a new invite, if its code is free.
pub(super) fn create(
    tables: &mut Tables,
    transaction: &Transaction<'_>,
    code: &str,
    new: &NewInvite,
) -> rusqlite::Result<bool> {
    let place = Channel::Conversation(new.conversation_id.clone());
    let place = (new.tenant_id.clone(), place);
    let conversation = tables.talk(transaction, place, new.created_at)?.id;
    let mut insert = transaction.prepare_cached(
        "INSERT INTO invite
             (code, conversation, created_by, created_at, expires_at, max_uses, label)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7) ON CONFLICT DO NOTHING",
    )?;
    let inserted = insert.execute(params![
        code,
        conversation,
        new.created_by,
        new.created_at,
        new.expires_at,
        new.max_uses,
        new.label
    ])?;
    Ok(inserted > 0)
}

/// Invites by their codes.
pub(super) fn list(connection: &Connection, query: &InviteQuery) -> rusqlite::Result<Vec<Invite>> {
    let mut find = connection.prepare_cached(&format!(
        "{INVITE} WHERE ifnull(c.tenant, x'00') = ifnull(?1, x'00') AND (?2 IS NULL OR c.name = ?2)
         AND i.code > ?3 ORDER BY i.code LIMIT ?4"
    ))?;
    let invites = find.query_map(
        params![
            query.tenant_id.as_deref(),
            query.conversation_id,
            query.after.as_deref().unwrap_or_default(),
            query.limit as u64
        ],
        read,
    )?;
    invites.collect()
}

/// Takes an invite back.
pub(super) fn revoke(
    transaction: &Transaction<'_>,
    code: &str,
    now: u64,
) -> rusqlite::Result<Option<Invite>> {
    let mut revoke = transaction
        .prepare_cached("UPDATE invite SET revoked_at = ifnull(revoked_at, ?2) WHERE code = ?1")?;
    revoke.execute(params![code, now])?;
    get(transaction, code)
}

/// Lets a user in by an invite. There is one writer, so nobody comes between look and use.
pub(super) fn take(
    tables: &mut Tables,
    transaction: &Transaction<'_>,
    code: &str,
    user: &Arc<UserKey>,
    now: u64,
) -> rusqlite::Result<Result<Used, Unusable>> {
    let invite = get(transaction, code)?;
    let invite = invite.filter(|invite| invite.tenant_id.as_deref() == user.tenant_id.as_deref());
    let Some(invite) = invite else {
        return Ok(Err(Unusable::NotFound));
    };
    let person = tables.person(transaction, user)?;
    let mut find =
        transaction.prepare_cached("SELECT 1 FROM invite_use WHERE code = ?1 AND person = ?2")?;
    let is_used = find.exists(params![code, person])?;
    let id = invite.conversation_id.clone();
    let usable = match is_used {
        true => invite.holds(now),
        false => invite.admits(now),
    };
    if let Err(why) = usable {
        // Who has come by it once stays what they are when it is over.
        let is_in = is_used && people::is_member(transaction, &id, user)?;
        let known = Used {
            conversation_id: id,
            added: Added::Known,
        };
        return Ok(if is_in { Ok(known) } else { Err(why) });
    }
    let added = people::add(tables, transaction, (&id, user), Membership::Invited, now)?;
    if added == Added::Full {
        return Ok(Err(Unusable::Full));
    }
    if !is_used {
        let sql = "INSERT INTO invite_use (code, person, at) VALUES (?1, ?2, ?3)";
        let mut insert = transaction.prepare_cached(sql)?;
        insert.execute(params![code, person, now])?;
        let sql = "UPDATE invite SET uses = uses + 1 WHERE code = ?1";
        transaction.prepare_cached(sql)?.execute([code])?;
    }
    Ok(Ok(Used {
        conversation_id: id,
        added,
    }))
}

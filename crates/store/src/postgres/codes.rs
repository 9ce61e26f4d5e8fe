//! Rows of invites, and of who has come by which.

use heartline_core::auth::UserKey;
use heartline_core::store::conversations::{Added, Membership};
use heartline_core::store::invites::{Invite, InviteQuery, NewInvite, Unusable, Used};
use tokio_postgres::types::ToSql;
use tokio_postgres::{Error, Row};

use super::people;
use super::session::Session;

/// Invites, with a condition behind it.
macro_rules! invites {
    ($condition:literal) => {
        concat!(
            "SELECT i.code, c.name, c.tenant, i.created_by, i.created_at, i.expires_at,
                i.max_uses, i.uses, i.revoked_at, i.label
            FROM heartline.invite i JOIN heartline.conversation c ON c.id = i.conversation ",
            $condition
        )
    };
}

fn read(row: &Row) -> Invite {
    let time = |index| row.get::<_, Option<i64>>(index).map(|at| at as u64);
    let count = |number: i64| u32::try_from(number).unwrap_or(u32::MAX);
    Invite {
        code: row.get(0),
        conversation_id: row.get(1),
        tenant_id: row.get(2),
        created_by: row.get(3),
        created_at: row.get::<_, i64>(4) as u64,
        expires_at: time(5),
        max_uses: row.get::<_, Option<i64>>(6).map(count),
        uses: count(row.get(7)),
        revoked_at: time(8),
        label: row.get(9),
    }
}

/// The invite of a code.
pub(super) async fn get(session: &Session, code: &str) -> Result<Option<Invite>, Error> {
    let rows = session
        .query(invites!("WHERE i.code = $1"), &[&code])
        .await?;
    Ok(rows.first().map(read))
}

/// Keeps a new invite, if its code is free.
pub(super) async fn create(session: &Session, code: &str, new: &NewInvite) -> Result<bool, Error> {
    let (tenant, id) = (new.tenant_id.as_deref(), &*new.conversation_id);
    let conversation = people::conversation(session, tenant, id, new.created_at).await?;
    let sql = "INSERT INTO heartline.invite
            (code, conversation, created_by, created_at, expires_at, max_uses, label)
        VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT DO NOTHING";
    let created_at = new.created_at as i64;
    let expires_at = new.expires_at.map(|at| at as i64);
    let max_uses = new.max_uses.map(i64::from);
    let values: [&(dyn ToSql + Sync); 7] = [
        &code,
        &conversation,
        &new.created_by,
        &created_at,
        &expires_at,
        &max_uses,
        &new.label,
    ];
    Ok(session.execute(sql, &values).await? > 0)
}

/// Invites by their codes.
pub(super) async fn list(session: &Session, query: &InviteQuery) -> Result<Vec<Invite>, Error> {
    let sql = invites!(
        "WHERE ARRAY[c.tenant] = ARRAY[$1::text] AND ($2::text IS NULL OR c.name = $2)
            AND i.code > $3 ORDER BY i.code LIMIT $4"
    );
    let after = query.after.as_deref().unwrap_or_default();
    let limit = query.limit as i64;
    let tenant = query.tenant_id.as_deref();
    let rows = session
        .query(sql, &[&tenant, &query.conversation_id, &after, &limit])
        .await?;
    Ok(rows.iter().map(read).collect())
}

/// Takes an invite back.
pub(super) async fn revoke(
    session: &Session,
    code: &str,
    now: u64,
) -> Result<Option<Invite>, Error> {
    let sql = "UPDATE heartline.invite SET revoked_at = coalesce(revoked_at, $2) WHERE code = $1";
    session.execute(sql, &[&code, &(now as i64)]).await?;
    get(session, code).await
}

/// Lets a user in by an invite, in one transaction. The invite is locked, so nobody comes
/// between look and use.
pub(super) async fn take(
    session: &Session,
    code: &str,
    user: &UserKey,
    now: u64,
) -> Result<Result<Used, Unusable>, Error> {
    session.batch("BEGIN").await?;
    let used = take_locked(session, code, user, now).await;
    let end = if matches!(used, Ok(Ok(_))) {
        "COMMIT"
    } else {
        "ROLLBACK"
    };
    let ended = session.batch(end).await;
    let used = used?;
    ended?;
    Ok(used)
}

async fn take_locked(
    session: &Session,
    code: &str,
    user: &UserKey,
    now: u64,
) -> Result<Result<Used, Unusable>, Error> {
    let sql = invites!("WHERE i.code = $1 FOR UPDATE OF i");
    let invite = session.query(sql, &[&code]).await?.first().map(read);
    let invite = invite.filter(|invite| invite.tenant_id.as_deref() == user.tenant_id.as_deref());
    let Some(invite) = invite else {
        return Ok(Err(Unusable::NotFound));
    };
    let person = people::person(session, user).await?;
    let sql = "SELECT FROM heartline.invite_use WHERE code = $1 AND person = $2";
    let is_used = !session.query(sql, &[&code, &person]).await?.is_empty();
    let id = invite.conversation_id.clone();
    let usable = match is_used {
        true => invite.holds(now),
        false => invite.admits(now),
    };
    if let Err(why) = usable {
        // Who has come by it once stays what they are when it is over.
        let is_in = is_used && people::is_member(session, &id, user).await?;
        let known = Used {
            conversation_id: id,
            added: Added::Known,
        };
        return Ok(if is_in { Ok(known) } else { Err(why) });
    }
    let added = people::add(session, &id, user, Membership::Invited, now).await?;
    if added == Added::Full {
        return Ok(Err(Unusable::Full));
    }
    if !is_used {
        let sql = "INSERT INTO heartline.invite_use (code, person, at) VALUES ($1, $2, $3)";
        session
            .execute(sql, &[&code, &person, &(now as i64)])
            .await?;
        let sql = "UPDATE heartline.invite SET uses = uses + 1 WHERE code = $1";
        session.execute(sql, &[&code]).await?;
    }
    Ok(Ok(Used {
        conversation_id: id,
        added,
    }))
}

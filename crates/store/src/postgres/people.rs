//! Rows of members: who belongs to which conversation, and how far each has read.

use std::sync::Arc;

use heartline_core::auth::UserKey;
use heartline_core::store::StoredMessage;
use heartline_core::store::conversations::{
    Added, Inbox, InboxEntry, InboxPlace, InboxQuery, MAX_CONVERSATIONS, MAX_MEMBERS, Marked,
    Member, Membership,
};
use tokio_postgres::{Error, Row};

use super::session::Session;

/// The kind of place that has members.
const KIND: &str = "conversation";

fn membership(invited: bool) -> Membership {
    match invited {
        true => Membership::Invited,
        false => Membership::Joined,
    }
}

fn number(row: &Row, index: usize) -> u64 {
    row.get::<_, i64>(index) as u64
}

/// The row of a user, made if there is none.
pub(super) async fn person(session: &Session, user: &UserKey) -> Result<i64, Error> {
    let (tenant, kind) = (user.tenant_id.as_deref(), user.user_type.as_deref());
    let id = &*user.user_id;
    loop {
        let find = "SELECT id FROM heartline.person
            WHERE user_id = $1 AND ARRAY[tenant, kind] = ARRAY[$2::text, $3::text]";
        if let Some(row) = session.query(find, &[&id, &tenant, &kind]).await?.first() {
            return Ok(row.get(0));
        }
        let make = "INSERT INTO heartline.person (user_id, tenant, kind) VALUES ($1, $2, $3)
            ON CONFLICT DO NOTHING";
        session.execute(make, &[&id, &tenant, &kind]).await?;
    }
}

/// The row of a conversation, made if there is none.
pub(super) async fn conversation(
    session: &Session,
    tenant: Option<&str>,
    id: &str,
    now: u64,
) -> Result<i64, Error> {
    loop {
        let find = "SELECT id FROM heartline.conversation
            WHERE name = $1 AND kind = $2 AND ARRAY[tenant] = ARRAY[$3::text]";
        if let Some(row) = session.query(find, &[&id, &KIND, &tenant]).await?.first() {
            return Ok(row.get(0));
        }
        let make =
            "INSERT INTO heartline.conversation (tenant, kind, name, head, floor, created_at)
            VALUES ($1, $2, $3, 0, 0, $4) ON CONFLICT DO NOTHING";
        let values: [&(dyn tokio_postgres::types::ToSql + Sync); 4] =
            [&tenant, &KIND, &id, &(now as i64)];
        session.execute(make, &values).await?;
    }
}

/// Makes a user a member.
pub(super) async fn add(
    session: &Session,
    id: &str,
    user: &UserKey,
    new: Membership,
    now: u64,
) -> Result<Added, Error> {
    let person = person(session, user).await?;
    let conversation = conversation(session, user.tenant_id.as_deref(), id, now).await?;
    // Not counted any further than it matters. `xmax` is 0 in a row that was not there before.
    let sql = "WITH known AS (
            SELECT FROM heartline.member WHERE conversation = $1 AND person = $2
        ), bound AS (
            SELECT (SELECT count(*) FROM (
                    SELECT FROM heartline.member WHERE conversation = $1 LIMIT $5) m) >= $5
                OR (SELECT count(*) FROM (
                    SELECT FROM heartline.member WHERE person = $2 LIMIT $6) m) >= $6 AS is_full
        ), put AS (
            INSERT INTO heartline.member AS m (conversation, person, invited, joined_at)
            SELECT $1, $2, $3, $4 FROM bound
            WHERE NOT is_full OR EXISTS (SELECT FROM known)
            ON CONFLICT (conversation, person) DO UPDATE SET invited = true
                WHERE EXCLUDED.invited AND NOT m.invited
            RETURNING (xmax = 0) AS is_new
        )
        SELECT (SELECT is_new FROM put), is_full AND NOT EXISTS (SELECT FROM known) FROM bound";
    let invited = new == Membership::Invited;
    let (members, conversations) = (MAX_MEMBERS as i64, MAX_CONVERSATIONS as i64);
    let now = now as i64;
    let rows = session
        .query(
            sql,
            &[
                &conversation,
                &person,
                &invited,
                &now,
                &members,
                &conversations,
            ],
        )
        .await?;
    let put = rows
        .first()
        .map(|row| (row.get::<_, Option<bool>>(0), row.get::<_, bool>(1)));
    Ok(match put {
        Some((Some(true), _)) => Added::New,
        Some((Some(false), _)) => Added::Raised,
        Some((None, true)) => Added::Full,
        _ => Added::Known,
    })
}

/// The member that is meant, as a part of statements: $1 to $4.
macro_rules! member {
    () => {
        "talk AS (
            SELECT id, head FROM heartline.conversation
            WHERE name = $1 AND kind = 'conversation' AND ARRAY[tenant] = ARRAY[$2::text]
        ), who AS (
            SELECT id FROM heartline.person
            WHERE user_id = $3 AND ARRAY[tenant, kind] = ARRAY[$2::text, $4::text]
        )"
    };
}

/// Whether a user is a member.
pub(super) async fn is_member(session: &Session, id: &str, user: &UserKey) -> Result<bool, Error> {
    let sql = concat!(
        "WITH ",
        member!(),
        " SELECT EXISTS (SELECT FROM heartline.member m JOIN talk ON m.conversation = talk.id
            JOIN who ON m.person = who.id)"
    );
    let (tenant, kind) = (user.tenant_id.as_deref(), user.user_type.as_deref());
    let rows = session
        .query(sql, &[&id, &tenant, &&*user.user_id, &kind])
        .await?;
    Ok(rows.first().is_some_and(|row| row.get(0)))
}

/// Ends a membership.
pub(super) async fn remove(session: &Session, id: &str, user: &UserKey) -> Result<bool, Error> {
    let sql = concat!(
        "WITH ",
        member!(),
        " DELETE FROM heartline.member m USING talk, who
        WHERE m.conversation = talk.id AND m.person = who.id"
    );
    let (tenant, kind) = (user.tenant_id.as_deref(), user.user_type.as_deref());
    let removed = session
        .execute(sql, &[&id, &tenant, &&*user.user_id, &kind])
        .await?;
    Ok(removed > 0)
}

/// All members of a conversation.
pub(super) async fn members(
    session: &Session,
    tenant: Option<&Arc<str>>,
    id: &str,
) -> Result<Vec<Member>, Error> {
    let sql = "SELECT p.user_id, p.kind, m.invited, m.joined_at, m.read_offset
        FROM heartline.conversation c JOIN heartline.member m ON m.conversation = c.id
        JOIN heartline.person p ON p.id = m.person
        WHERE c.name = $1 AND c.kind = 'conversation' AND ARRAY[c.tenant] = ARRAY[$2::text]";
    let name = tenant.map(|tenant| &**tenant);
    let rows = session.query(sql, &[&id, &name]).await?;
    let member = |row: &Row| Member {
        user: Arc::new(UserKey {
            tenant_id: tenant.cloned(),
            user_id: row.get::<_, &str>(0).into(),
            user_type: row.get::<_, Option<&str>>(1).map(Into::into),
        }),
        membership: membership(row.get(2)),
        joined_at: number(row, 3),
        read_offset: number(row, 4),
    };
    let mut members: Vec<Member> = rows.iter().map(member).collect();
    members.sort_unstable_by(|one, other| one.user.cmp(&other.user));
    Ok(members)
}

/// Moves a member's marker forward. One that another statement moves meanwhile is where this one
/// does not see it: it is looked at again.
pub(super) async fn mark_read(
    session: &Session,
    id: &str,
    user: &UserKey,
    offset: u64,
    now: u64,
) -> Result<Option<Marked>, Error> {
    let sql = concat!(
        "WITH ",
        member!(),
        ", moved AS (
            UPDATE heartline.member m
            SET read_offset = least($5::bigint, talk.head), read_at = $6
            FROM talk, who WHERE m.conversation = talk.id AND m.person = who.id
                AND m.read_offset < least($5::bigint, talk.head)
            RETURNING m.read_offset
        )
        SELECT (SELECT read_offset FROM moved), m.read_offset, talk.head FROM heartline.member m
        JOIN talk ON m.conversation = talk.id JOIN who ON m.person = who.id"
    );
    let (tenant, kind) = (user.tenant_id.as_deref(), user.user_type.as_deref());
    let offset = i64::try_from(offset).unwrap_or(i64::MAX);
    let values: [&(dyn tokio_postgres::types::ToSql + Sync); 6] =
        [&id, &tenant, &&*user.user_id, &kind, &offset, &(now as i64)];
    loop {
        let rows = session.query(sql, &values).await?;
        let Some(row) = rows.first() else {
            return Ok(None);
        };
        let (moved, stood) = (row.get::<_, Option<i64>>(0), row.get::<_, i64>(1));
        let wanted = offset.min(row.get::<_, i64>(2));
        if moved.is_some() || stood >= wanted {
            return Ok(Some(Marked {
                offset: moved.unwrap_or(stood) as u64,
                moved: moved.is_some(),
            }));
        }
    }
}

/// The newest of a user's conversations, without what was said in them; then that of those.
const INBOX: &str = "
    WITH own AS (
        SELECT c.id, c.name, c.head, c.floor, m.read_offset, m.invited,
               coalesce(l.created_at, m.joined_at) AS at
        FROM heartline.member m JOIN heartline.conversation c ON c.id = m.conversation
        LEFT JOIN heartline.message l ON l.conversation = c.id AND l.\"offset\" = c.head
        WHERE m.person = $1
    ), page AS (
        SELECT * FROM own WHERE $2::bigint IS NULL OR (at, name) < ($2, $3::text)
        ORDER BY at DESC, name DESC LIMIT $4
    )
    SELECT page.at, page.name, page.head, page.floor, page.read_offset, page.id,
           l.\"offset\", p.user_id, p.kind, l.key, l.content, l.created_at,
           page.invited, l.attempt
    FROM page LEFT JOIN heartline.message l
        ON l.conversation = page.id AND l.\"offset\" = page.head
    LEFT JOIN heartline.person p ON p.id = l.sender
    ORDER BY page.at DESC, page.name DESC";

fn inbox_entry(row: &Row) -> (InboxPlace, InboxEntry) {
    let conversation_id: String = row.get(1);
    let last = row.get::<_, Option<i64>>(6).map(|offset| {
        let key: String = row.get(9);
        let is_made = key == row.get::<_, i64>(13).to_string();
        StoredMessage {
            id: StoredMessage::id_of(number(row, 5), offset as u64),
            offset: offset as u64,
            conversation_id: conversation_id.clone(),
            sender_id: row.get(7),
            sender_type: row.get(8),
            temp_id: (!is_made).then_some(key),
            content: row.get(10),
            created_at: number(row, 11),
        }
    });
    let place = InboxPlace {
        at: number(row, 0),
        conversation_id: conversation_id.clone(),
    };
    let ends = (number(row, 2), number(row, 3));
    let marker = (membership(row.get(12)), number(row, 4));
    let entry = InboxEntry::new(conversation_id, ends, marker, last);
    (place, entry)
}

/// A part of a user's conversations.
pub(super) async fn inbox(session: &Session, query: &InboxQuery) -> Result<Inbox, Error> {
    let user = &query.user;
    let find = "SELECT id FROM heartline.person
        WHERE user_id = $1 AND ARRAY[tenant, kind] = ARRAY[$2::text, $3::text]";
    let (tenant, kind) = (user.tenant_id.as_deref(), user.user_type.as_deref());
    let known = session
        .query(find, &[&&*user.user_id, &tenant, &kind])
        .await?;
    let Some(person) = known.first().map(|row| row.get::<_, i64>(0)) else {
        return Ok(Inbox::default());
    };
    let at = query.after.as_ref().map(|after| after.at as i64);
    let id = query.after.as_ref().map(|after| &*after.conversation_id);
    let limit = query.limit as i64 + 1;
    let rows = session.query(INBOX, &[&person, &at, &id, &limit]).await?;
    Ok(Inbox::of(rows.iter().map(inbox_entry), query))
}

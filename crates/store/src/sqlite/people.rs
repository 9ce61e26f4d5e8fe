//! Rows of members: who belongs to which conversation, and how far each has read.

use std::sync::Arc;

use heartline_core::auth::UserKey;
use heartline_core::store::conversations::{
    Added, Inbox, InboxEntry, InboxPlace, InboxQuery, MAX_CONVERSATIONS, MAX_MEMBERS, Marked,
    Member, Membership,
};
use heartline_core::store::{Channel, StoredMessage};
use rusqlite::{Connection, OptionalExtension, Row, Transaction, params};

use super::tables::{Tables, find, find_person};

/// A conversation by its id, of a user's tenant.
pub(super) fn place(user: &UserKey, id: &str) -> (Option<Arc<str>>, Channel) {
    (user.tenant_id.clone(), Channel::Conversation(id.to_owned()))
}

fn membership(invited: bool) -> Membership {
    match invited {
        true => Membership::Invited,
        false => Membership::Joined,
    }
}

/// Makes a user a member.
pub(super) fn add(
    tables: &mut Tables,
    transaction: &Transaction<'_>,
    (id, user): (&str, &Arc<UserKey>),
    new: Membership,
    now: u64,
) -> rusqlite::Result<Added> {
    let person = tables.person(transaction, user)?;
    let conversation = tables.talk(transaction, place(user, id), now)?.id;
    let mut find = transaction
        .prepare_cached("SELECT invited FROM member WHERE conversation = ?1 AND person = ?2")?;
    let known: Option<bool> = find
        .query_row([conversation, person], |row| row.get(0))
        .optional()?;
    match known {
        Some(invited) if membership(invited) < new => {
            let raise = "UPDATE member SET invited = 1 WHERE conversation = ?1 AND person = ?2";
            let mut raise = transaction.prepare_cached(raise)?;
            raise.execute([conversation, person])?;
            return Ok(Added::Raised);
        }
        Some(_) => return Ok(Added::Known),
        None => {}
    }
    // Not counted any further than it matters.
    let mut count = transaction.prepare_cached(
        "SELECT (SELECT count(*) FROM (SELECT 1 FROM member WHERE conversation = ?1 LIMIT ?3)) >= ?3
             OR (SELECT count(*) FROM (SELECT 1 FROM member WHERE person = ?2 LIMIT ?4)) >= ?4",
    )?;
    let bounds = params![
        conversation,
        person,
        MAX_MEMBERS as u64,
        MAX_CONVERSATIONS as u64
    ];
    if count.query_row(bounds, |row| row.get(0))? {
        return Ok(Added::Full);
    }
    let mut insert = transaction.prepare_cached(
        "INSERT INTO member (conversation, person, invited, joined_at) VALUES (?1, ?2, ?3, ?4)",
    )?;
    let invited = new == Membership::Invited;
    insert.execute(params![conversation, person, invited, now])?;
    Ok(Added::New)
}

/// Whether a user is a member.
pub(super) fn is_member(
    transaction: &Transaction<'_>,
    id: &str,
    user: &UserKey,
) -> rusqlite::Result<bool> {
    let (Some(person), Some((conversation, ..))) = (
        find_person(transaction, user)?,
        find(transaction, &place(user, id))?,
    ) else {
        return Ok(false);
    };
    let mut find = transaction
        .prepare_cached("SELECT 1 FROM member WHERE conversation = ?1 AND person = ?2")?;
    find.exists([conversation, person])
}

/// Ends a membership.
pub(super) fn remove(
    transaction: &Transaction<'_>,
    id: &str,
    user: &UserKey,
) -> rusqlite::Result<bool> {
    let (Some(person), Some((conversation, ..))) = (
        find_person(transaction, user)?,
        find(transaction, &place(user, id))?,
    ) else {
        return Ok(false);
    };
    let mut delete =
        transaction.prepare_cached("DELETE FROM member WHERE conversation = ?1 AND person = ?2")?;
    Ok(delete.execute([conversation, person])? > 0)
}

/// All members of a conversation.
pub(super) fn members(
    connection: &mut Connection,
    tenant: Option<Arc<str>>,
    id: String,
) -> rusqlite::Result<Vec<Member>> {
    let transaction = connection.transaction()?;
    let place = (tenant, Channel::Conversation(id));
    let Some((conversation, ..)) = find(&transaction, &place)? else {
        return Ok(Vec::new());
    };
    let mut read = transaction.prepare_cached(
        "SELECT p.user_id, p.kind, m.invited, m.joined_at, m.read_offset
         FROM member m JOIN person p ON p.id = m.person WHERE m.conversation = ?1",
    )?;
    let member = |row: &Row<'_>| {
        Ok(Member {
            user: Arc::new(UserKey {
                tenant_id: place.0.clone(),
                user_id: row.get(0)?,
                user_type: row.get(1)?,
            }),
            membership: membership(row.get(2)?),
            joined_at: row.get(3)?,
            read_offset: row.get(4)?,
        })
    };
    let members = read.query_map([conversation], member)?;
    let mut members: Vec<Member> = members.collect::<rusqlite::Result<_>>()?;
    members.sort_unstable_by(|one, other| one.user.cmp(&other.user));
    Ok(members)
}

/// Moves a member's marker forward. Nobody else leaves a row. The heads of this transaction's
/// messages are written.
pub(super) fn mark_read(
    transaction: &Transaction<'_>,
    (id, user): (&str, &UserKey),
    offset: u64,
    now: u64,
) -> rusqlite::Result<Option<Marked>> {
    let (Some(person), Some((conversation, head, _))) = (
        find_person(transaction, user)?,
        find(transaction, &place(user, id))?,
    ) else {
        return Ok(None);
    };
    let mut find = transaction
        .prepare_cached("SELECT read_offset FROM member WHERE conversation = ?1 AND person = ?2")?;
    let known: Option<u64> = find
        .query_row([conversation, person], |row| row.get(0))
        .optional()?;
    let Some(before) = known else {
        return Ok(None);
    };
    let offset = offset.min(head).max(before);
    let moved = offset > before;
    if moved {
        let mut update = transaction.prepare_cached(
            "UPDATE member SET read_offset = ?3, read_at = ?4
             WHERE conversation = ?1 AND person = ?2",
        )?;
        update.execute([conversation, person, offset, now])?;
    }
    Ok(Some(Marked { offset, moved }))
}

/// The newest of a user's conversations, without what was said in them; then that of those.
const INBOX: &str = "
    WITH page AS (
        SELECT c.id, c.name, c.head, c.floor, m.read_offset, m.invited,
               ifnull(l.created_at, m.joined_at) AS at
        FROM member m JOIN conversation c ON c.id = m.conversation
        LEFT JOIN message l ON l.conversation = c.id AND l.\"offset\" = c.head
        WHERE m.person = ?1 AND (?2 IS NULL OR (at, c.name) < (?2, ?3))
        ORDER BY at DESC, c.name DESC LIMIT ?4)
    SELECT page.at, page.name, page.head, page.floor, page.read_offset, page.id,
           l.\"offset\", p.user_id, p.kind, l.key, l.content, l.created_at,
           page.invited
    FROM page LEFT JOIN message l ON l.conversation = page.id AND l.\"offset\" = page.head
    LEFT JOIN person p ON p.id = l.sender
    ORDER BY page.at DESC, page.name DESC";

fn inbox_entry(row: &Row<'_>) -> rusqlite::Result<(InboxPlace, InboxEntry)> {
    let conversation_id: String = row.get(1)?;
    let last = match row.get::<_, Option<u64>>(6)? {
        None => None,
        Some(offset) => Some(StoredMessage {
            id: StoredMessage::id_of(row.get(5)?, offset),
            offset,
            conversation_id: conversation_id.clone(),
            sender_id: row.get(7)?,
            sender_type: row.get(8)?,
            temp_id: row.get(9)?,
            content: row.get(10)?,
            created_at: row.get(11)?,
        }),
    };
    let place = InboxPlace {
        at: row.get(0)?,
        conversation_id: conversation_id.clone(),
    };
    let ends = (row.get(2)?, row.get(3)?);
    let marker = (membership(row.get(12)?), row.get(4)?);
    let entry = InboxEntry::new(conversation_id, ends, marker, last);
    Ok((place, entry))
}

/// A part of a user's conversations.
pub(super) fn inbox(connection: &mut Connection, query: &InboxQuery) -> rusqlite::Result<Inbox> {
    let transaction = connection.transaction()?;
    let Some(person) = find_person(&transaction, &query.user)? else {
        return Ok(Inbox::default());
    };
    let (at, id) = match &query.after {
        Some(after) => (Some(after.at), Some(&after.conversation_id)),
        None => (None, None),
    };
    let mut read = transaction.prepare_cached(INBOX)?;
    let rows = read.query_map(params![person, at, id, query.limit as u64 + 1], inbox_entry)?;
    let entries: Vec<(InboxPlace, InboxEntry)> = rows.collect::<rusqlite::Result<_>>()?;
    Ok(Inbox::of(entries.into_iter(), query))
}

//! Rows of messages: how a batch is written and a part of a conversation is read.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use heartline_core::auth::UserKey;
use heartline_core::store::{
    Channel, History, HistoryQuery, NewMessage, Part, Stored, StoredMessage, Window,
};
use rusqlite::{Connection, OptionalExtension, Transaction, params};

use crate::waiting::kind;

/// How many users, and how many conversations, are known without asking the database.
const REMEMBERED: usize = 100_000;

/// A conversation or open room of a tenant.
type Place = (Option<Arc<str>>, Channel);

/// A conversation's row.
#[derive(Clone, Copy)]
pub(super) struct Talk {
    pub(super) id: u64,
    pub(super) head: u64,
}

/// What the only writer knows of the tables.
#[derive(Default)]
pub(crate) struct Tables {
    people: HashMap<Arc<UserKey>, u64>,
    talks: HashMap<Place, Talk>,
    /// Heads that are still to be written in this transaction, by the conversations' rows.
    heads: BTreeMap<u64, u64>,
    /// The same of read markers of who has written there: by conversation and person.
    markers: BTreeMap<(u64, u64), u64>,
}

impl Tables {
    /// Forgets what may not be so any more: after a transaction that was not made the rows are
    /// others than these. Or what is too much to remember.
    pub(super) fn forget(&mut self, all: bool) {
        if all || self.people.len() > REMEMBERED || self.talks.len() > REMEMBERED {
            *self = Tables::default();
        }
    }

    /// One of the heads that are still to be written, by its conversation's row.
    pub(super) fn last_head(&self) -> Option<(u64, u64)> {
        self.heads.last_key_value().map(|(id, head)| (*id, *head))
    }

    /// Writes the heads of the conversations that have become longer, and the markers of those
    /// who wrote there.
    pub(super) fn write_heads(&mut self, transaction: &Transaction<'_>) -> rusqlite::Result<()> {
        if self.heads.is_empty() {
            return Ok(());
        }
        let sql = "UPDATE conversation SET head = ?2 WHERE id = ?1";
        let mut update = transaction.prepare_cached(sql)?;
        for (id, head) in std::mem::take(&mut self.heads) {
            update.execute([id, head])?;
        }
        let mut update = transaction.prepare_cached(
            "UPDATE member SET read_offset = ?3
             WHERE conversation = ?1 AND person = ?2 AND read_offset < ?3",
        )?;
        for ((conversation, person), offset) in std::mem::take(&mut self.markers) {
            update.execute([conversation, person, offset])?;
        }
        Ok(())
    }

    /// Stores a message, or finds it. The head of its conversation is written by
    /// [`write_heads`](Tables::write_heads).
    pub(super) fn put(
        &mut self,
        transaction: &Transaction<'_>,
        new: &NewMessage,
    ) -> rusqlite::Result<Stored> {
        let sender = self.person(transaction, &new.sender)?;
        let place = (new.sender.tenant_id.clone(), new.channel.clone());
        let talk = self.talk(transaction, place, new.created_at)?;
        let mut insert = transaction.prepare_cached(
            "INSERT INTO message (conversation, \"offset\", sender, key, content, created_at)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6)
             ON CONFLICT (sender, conversation, key) WHERE key IS NOT NULL DO NOTHING",
        )?;
        let offset = talk.head + 1;
        let (key, content, at) = (&new.temp_id, &new.content, new.created_at);
        let inserted = insert.execute(params![talk.id, offset, sender, key, content, at])?;
        let mut message = StoredMessage {
            id: StoredMessage::id_of(talk.id, offset),
            offset,
            conversation_id: new.channel.name().to_owned(),
            sender_id: new.sender.user_id.to_string(),
            sender_type: new.sender.user_type.as_ref().map(ToString::to_string),
            content: String::new(),
            temp_id: new.temp_id.clone(),
            created_at: at,
        };
        let duplicate = inserted == 0;
        if duplicate {
            let mut find = transaction.prepare_cached(
                "SELECT \"offset\", content, created_at FROM message
                 WHERE sender = ?1 AND conversation = ?2 AND key = ?3",
            )?;
            find.query_row(params![sender, talk.id, key], |row| {
                message.offset = row.get(0)?;
                message.content = row.get(1)?;
                message.created_at = row.get(2)?;
                Ok(())
            })?;
            message.id = StoredMessage::id_of(talk.id, message.offset);
        } else {
            message.content.clone_from(content);
            talk.head = offset;
            let id = talk.id;
            self.heads.insert(id, offset);
            if let Channel::Conversation(_) = new.channel {
                self.markers.insert((id, sender), offset);
            }
        }
        Ok(Stored { message, duplicate })
    }

    /// The row of a user, made if there is none.
    pub(super) fn person(
        &mut self,
        transaction: &Transaction<'_>,
        user: &Arc<UserKey>,
    ) -> rusqlite::Result<u64> {
        if let Some(id) = self.people.get(user) {
            return Ok(*id);
        }
        let id = match find_person(transaction, user)? {
            Some(id) => id,
            None => {
                let (tenant, kind) = (user.tenant_id.as_deref(), user.user_type.as_deref());
                let key = params![&*user.user_id, tenant, kind];
                let sql = "INSERT INTO person (user_id, tenant, kind) VALUES (?1, ?2, ?3)";
                transaction.prepare_cached(sql)?.insert(key)? as u64
            }
        };
        self.people.insert(user.clone(), id);
        Ok(id)
    }

    /// The row of a conversation, made if there is none.
    pub(super) fn talk(
        &mut self,
        transaction: &Transaction<'_>,
        place: Place,
        now: u64,
    ) -> rusqlite::Result<&mut Talk> {
        let known = match self.talks.get(&place) {
            Some(known) => *known,
            None => match find(transaction, &place)? {
                Some((id, head, _)) => Talk { id, head },
                None => {
                    let mut insert = transaction.prepare_cached(
                        "INSERT INTO conversation (tenant, kind, name, head, floor, created_at)
                         VALUES (?1, ?2, ?3, 0, 0, ?4)",
                    )?;
                    let (tenant, channel) = (place.0.as_deref(), &place.1);
                    let id = insert.insert(params![tenant, kind(channel), channel.name(), now])?;
                    Talk {
                        id: id as u64,
                        head: 0,
                    }
                }
            },
        };
        Ok(self.talks.entry(place).or_insert(known))
    }
}

/// The row of a user.
pub(super) fn find_person(
    connection: &Connection,
    user: &UserKey,
) -> rusqlite::Result<Option<u64>> {
    let (tenant, kind) = (user.tenant_id.as_deref(), user.user_type.as_deref());
    let mut find = connection.prepare_cached(
        "SELECT id FROM person WHERE user_id = ?1
         AND ifnull(tenant, x'00') = ifnull(?2, x'00')
         AND ifnull(kind, x'00') = ifnull(?3, x'00')",
    )?;
    let key = params![&*user.user_id, tenant, kind];
    find.query_row(key, |row| row.get(0)).optional()
}

/// The row, head and floor of a conversation.
pub(super) fn find(
    connection: &Connection,
    (tenant, channel): &Place,
) -> rusqlite::Result<Option<(u64, u64, u64)>> {
    let mut find = connection.prepare_cached(
        "SELECT id, head, floor FROM conversation WHERE name = ?1 AND kind = ?2
         AND ifnull(tenant, x'00') = ifnull(?3, x'00')",
    )?;
    let key = params![channel.name(), kind(channel), tenant.as_deref()];
    let read = |row: &rusqlite::Row<'_>| Ok((row.get(0)?, row.get(1)?, row.get(2)?));
    find.query_row(key, read).optional()
}

/// A part of a conversation, as it was at one moment.
pub(crate) fn history(
    connection: &mut Connection,
    query: &HistoryQuery,
) -> rusqlite::Result<History> {
    let transaction = connection.transaction()?;
    let place = (query.tenant.clone(), query.channel.clone());
    let (id, head, floor) = find(&transaction, &place)?.unwrap_or_default();
    let window = Window::of(query.from, query.limit, head, floor);
    let mut part = Part::new(&window, query.bytes);
    let order = if window.newest_first { "DESC" } else { "ASC" };
    let mut read = transaction.prepare_cached(&format!(
        "SELECT m.\"offset\", p.user_id, p.kind, m.key, m.content, m.created_at
         FROM message m JOIN person p ON p.id = m.sender
         WHERE m.conversation = ?1 AND m.\"offset\" >= ?2 AND m.\"offset\" < ?3
         ORDER BY m.\"offset\" {order}"
    ))?;
    let mut rows = read.query([id, window.offsets.start, window.offsets.end])?;
    while let Some(row) = rows.next()? {
        let offset = row.get(0)?;
        let fits = part.take(StoredMessage {
            id: StoredMessage::id_of(id, offset),
            offset,
            conversation_id: query.channel.name().to_owned(),
            sender_id: row.get(1)?,
            sender_type: row.get(2)?,
            temp_id: row.get(3)?,
            content: row.get(4)?,
            created_at: row.get(5)?,
        });
        if !fits {
            break;
        }
    }
    Ok(History {
        messages: part.finish(),
        head,
        floor,
        complete: window.complete,
    })
}

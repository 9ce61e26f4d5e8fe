//! Rows of messages: how a batch is written, and how a part of a conversation is read.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use heartline_core::auth::UserKey;
use heartline_core::store::{
    History, HistoryQuery, NewMessage, Part, Stored, StoredMessage, Window,
};
use tokio_postgres::types::ToSql;
use tokio_postgres::{Error, Row};

use super::session::Session;
use crate::waiting::kind;

/// How many users a lane knows without asking the database.
const REMEMBERED: usize = 25_000;

/// How often a part is read again that has just become shorter.
const LOOKS: u32 = 3;

/// A message with the number of its attempt.
pub(super) struct Attempt {
    pub(super) message: NewMessage,
    /// `message.attempt`: nobody else has it.
    pub(super) number: i64,
}

/// A conversation as a key, in the order in which conversations are locked.
type Place<'a> = (&'a str, &'static str, Option<&'a str>);

/// Messages of which each is there once.
struct Batch<'a> {
    places: Vec<Place<'a>>,
    /// Each with the place of its conversation among these, its sender's row and its key.
    rows: Vec<(&'a Attempt, i64, i64, String)>,
    /// Which of the rows each message is.
    of: Vec<usize>,
}

/// Where a message is, and by which attempt it came there.
#[derive(Clone, Copy)]
struct Found {
    conversation: i64,
    offset: i64,
    attempt: i64,
}

/// What somebody else stored under the same key.
type Others = HashMap<(i64, i64), (String, i64)>;

fn place(message: &NewMessage) -> Place<'_> {
    let tenant = message.sender.tenant_id.as_deref();
    (message.channel.name(), kind(&message.channel), tenant)
}

impl<'a> Batch<'a> {
    /// Folds those that are the same message; `people` are their senders' rows.
    fn of(all: &'a [Attempt], people: &HashMap<Arc<UserKey>, i64>) -> Batch<'a> {
        let mut numbers: BTreeMap<Place<'_>, i64> = BTreeMap::new();
        for attempt in all {
            numbers.insert(place(&attempt.message), 0);
        }
        for (number, (_, known)) in (1..).zip(&mut numbers) {
            *known = number;
        }
        let mut rows = Vec::with_capacity(all.len());
        let mut known = HashMap::new();
        let of = all.iter().map(|attempt| {
            let message = &attempt.message;
            let at = numbers[&place(message)];
            let sender = people.get(&message.sender).copied().unwrap_or(0);
            let key = match &message.temp_id {
                Some(temp_id) => temp_id.clone(),
                None => attempt.number.to_string(),
            };
            *known.entry((at, sender, key.clone())).or_insert_with(|| {
                rows.push((attempt, at, sender, key));
                rows.len() - 1
            })
        });
        let of = of.collect();
        let places = numbers.into_keys().collect();
        Batch { places, rows, of }
    }

    /// Stores all of them, or none.
    async fn store(&self, session: &Session) -> Result<Vec<Option<Found>>, Error> {
        let (mut tenants, mut kinds, mut names) = (Vec::new(), Vec::new(), Vec::new());
        for (name, kind, tenant) in &self.places {
            names.push(*name);
            kinds.push(*kind);
            tenants.push(*tenant);
        }
        let column = |of: fn(&(&Attempt, i64, i64, String)) -> i64| -> Vec<i64> {
            self.rows.iter().map(of).collect()
        };
        let places = column(|row| row.1);
        let senders = column(|row| row.2);
        let attempts = column(|row| row.0.number);
        let times = column(|row| row.0.message.created_at as i64);
        let keys: Vec<&str> = self.rows.iter().map(|row| &*row.3).collect();
        let contents = self.rows.iter().map(|row| &*row.0.message.content);
        let contents: Vec<&str> = contents.collect();
        let values: [&(dyn ToSql + Sync); 9] = [
            &tenants, &kinds, &names, &places, &senders, &keys, &attempts, &times, &contents,
        ];
        let answer = session.query(include_str!("append.sql"), &values);
        let mut found = vec![None; self.rows.len()];
        for row in answer.await? {
            let index = row.get::<_, i64>(0) as usize - 1;
            found[index] = Some(Found {
                conversation: row.get(1),
                offset: row.get(2),
                attempt: row.get(3),
            });
        }
        Ok(found)
    }

    /// What each message has come to. `None`: one that was there is there no more.
    fn stored(
        &self,
        all: &[Attempt],
        found: &[Option<Found>],
        others: &Others,
    ) -> Option<Vec<Stored>> {
        let each = all.iter().zip(&self.of).map(|(attempt, row)| {
            let Found {
                conversation,
                offset,
                attempt: by,
            } = found[*row]?;
            let new = &attempt.message;
            let first = &self.rows[*row].0;
            let (content, created_at) = match others.get(&(conversation, offset)) {
                Some((content, at)) => (content, *at as u64),
                None if by == first.number => (&first.message.content, first.message.created_at),
                None => return None,
            };
            let message = StoredMessage {
                id: StoredMessage::id_of(conversation as u64, offset as u64),
                offset: offset as u64,
                conversation_id: new.channel.name().to_owned(),
                sender_id: new.sender.user_id.to_string(),
                sender_type: new.sender.user_type.as_ref().map(ToString::to_string),
                content: content.clone(),
                temp_id: new.temp_id.clone(),
                created_at,
            };
            let duplicate = by != attempt.number;
            Some(Stored { message, duplicate })
        });
        each.collect()
    }
}

/// What a lane knows of the tables.
#[derive(Default)]
pub(super) struct Tables {
    people: HashMap<Arc<UserKey>, i64>,
}

impl Tables {
    /// Stores all of these in one transaction, in their order, or none. One that an earlier
    /// attempt with the same number has stored is as new as then. `None`: try again, because
    /// something went away in between.
    pub(super) async fn append(
        &mut self,
        session: &Session,
        all: &[Attempt],
    ) -> Result<Option<Vec<Stored>>, Error> {
        self.know(session, all).await?;
        let batch = Batch::of(all, &self.people);
        let found = batch.store(session).await?;
        let others = others(session, &batch, &found).await?;
        Ok(batch.stored(all, &found, &others))
    }

    /// Finds the rows of all senders, and makes those that are missing.
    async fn know(&mut self, session: &Session, all: &[Attempt]) -> Result<(), Error> {
        if self.people.len() > REMEMBERED {
            self.people.clear();
        }
        let sender = |attempt: &Attempt| attempt.message.sender.clone();
        // In one order on all nodes, because new rows are locked.
        let mut unknown: Vec<Arc<UserKey>> = all.iter().map(sender).collect();
        unknown.sort();
        unknown.dedup();
        unknown.retain(|user| !self.people.contains_key(user));
        self.find(session, &mut unknown).await?;
        if !unknown.is_empty() {
            let (ids, tenants, kinds) = columns(&unknown);
            let sql = "INSERT INTO heartline.person (user_id, tenant, kind)
                SELECT user_id, tenant, kind FROM unnest($1::text[], $2::text[], $3::text[])
                    WITH ORDINALITY AS u (user_id, tenant, kind, ord)
                ORDER BY ord ON CONFLICT DO NOTHING";
            session.execute(sql, &[&ids, &tenants, &kinds]).await?;
            self.find(session, &mut unknown).await?;
        }
        Ok(())
    }

    /// Takes those that are found out of the list.
    async fn find(
        &mut self,
        session: &Session,
        users: &mut Vec<Arc<UserKey>>,
    ) -> Result<(), Error> {
        if users.is_empty() {
            return Ok(());
        }
        let (ids, tenants, kinds) = columns(users);
        let sql = "SELECT u.ord, p.id
            FROM unnest($1::text[], $2::text[], $3::text[])
                WITH ORDINALITY AS u (user_id, tenant, kind, ord)
            CROSS JOIN LATERAL (
                SELECT id FROM heartline.person p
                WHERE p.user_id = u.user_id
                    AND ARRAY[p.tenant, p.kind] = ARRAY[u.tenant, u.kind]
                LIMIT 1
            ) p";
        for row in session.query(sql, &[&ids, &tenants, &kinds]).await? {
            let index = row.get::<_, i64>(0) as usize - 1;
            self.people.insert(users[index].clone(), row.get(1));
        }
        users.retain(|user| !self.people.contains_key(user));
        Ok(())
    }
}

type Columns<'a> = (Vec<&'a str>, Vec<Option<&'a str>>, Vec<Option<&'a str>>);

fn columns(users: &[Arc<UserKey>]) -> Columns<'_> {
    let ids = users.iter().map(|user| &*user.user_id).collect();
    let tenants = users.iter().map(|user| user.tenant_id.as_deref()).collect();
    let kinds = users.iter().map(|user| user.user_type.as_deref()).collect();
    (ids, tenants, kinds)
}

/// The texts of those that other attempts have stored. They are read by themselves: while an
/// answer is on its way the rows of the statement stay locked, so it has to be short.
async fn others(
    session: &Session,
    batch: &Batch<'_>,
    found: &[Option<Found>],
) -> Result<Others, Error> {
    let (mut conversations, mut offsets) = (Vec::new(), Vec::new());
    for (row, found) in batch.rows.iter().zip(found) {
        if let Some(found) = found.filter(|found| found.attempt != row.0.number) {
            conversations.push(found.conversation);
            offsets.push(found.offset);
        }
    }
    if offsets.is_empty() {
        return Ok(Others::new());
    }
    let sql = "SELECT f.conversation, f.\"offset\", m.content, m.created_at
        FROM unnest($1::bigint[], $2::bigint[]) AS f (conversation, \"offset\")
        CROSS JOIN LATERAL (
            SELECT content, created_at FROM heartline.message m
            WHERE m.conversation = f.conversation AND m.\"offset\" = f.\"offset\"
            LIMIT 1
        ) m";
    let rows = session.query(sql, &[&conversations, &offsets]).await?;
    let read = rows.iter().map(|row| {
        let text: String = row.get(2);
        ((row.get(0), row.get(1)), (text, row.get(3)))
    });
    Ok(read.collect())
}

/// Messages of a conversation in an order, as far as their texts fit so many bytes.
macro_rules! messages {
    ($order:literal) => {
        concat!(
            "SELECT m.\"offset\", p.user_id, p.kind, m.key, m.attempt, m.content, m.created_at
            FROM (
                SELECT *, sum(octet_length(content)) OVER (ORDER BY \"offset\" ",
            $order,
            ") - octet_length(content) AS before
                FROM heartline.message
                WHERE conversation = $1 AND \"offset\" >= $2 AND \"offset\" < $3
            ) m JOIN heartline.person p ON p.id = m.sender
            WHERE m.before < $4 ORDER BY m.\"offset\" ",
            $order
        )
    };
}

/// A part of a conversation.
pub(super) async fn history(session: &Session, query: &HistoryQuery) -> Result<History, Error> {
    let mut looks = 0;
    loop {
        // What is removed between two statements is gone from its beginning: look again.
        let (history, was_removed) = look(session, query).await?;
        looks += 1;
        if !was_removed || looks > LOOKS {
            return Ok(history);
        }
    }
}

/// What there is, and whether something was removed meanwhile.
async fn look(session: &Session, query: &HistoryQuery) -> Result<(History, bool), Error> {
    let tenant = query.tenant.as_deref();
    let (name, kind) = (query.channel.name(), kind(&query.channel));
    let find = "SELECT id, head, floor FROM heartline.conversation
        WHERE name = $1 AND kind = $2 AND ARRAY[tenant] = ARRAY[$3::text]";
    let found = session.query(find, &[&name, &kind, &tenant]).await?;
    let found = found.first();
    let number = |index| found.map_or(0, |row| row.get::<_, i64>(index));
    let (id, head, floor) = (number(0), number(1) as u64, number(2) as u64);
    let window = Window::of(query.from, query.limit, head, floor);
    let mut part = Part::new(&window, query.bytes);
    let wanted = window.offsets.end.saturating_sub(window.offsets.start);
    let mut was_removed = false;
    if wanted > 0 {
        let (start, end) = (window.offsets.start as i64, window.offsets.end as i64);
        let bytes = i64::try_from(query.bytes).unwrap_or(i64::MAX).max(1);
        let sql = match window.newest_first {
            true => messages!("DESC"),
            false => messages!("ASC"),
        };
        let rows = session.query(sql, &[&id, &start, &end, &bytes]).await?;
        let _ = rows.iter().all(|row| part.take(message(query, id, row)));
        was_removed = (rows.len() as u64) < wanted && has_a_hole(&rows, &window, query.bytes);
    }
    let history = History {
        messages: part.finish(),
        head,
        floor,
        complete: window.complete,
    };
    Ok((history, was_removed))
}

/// Whether messages are missing though there was room for them.
fn has_a_hole(rows: &[Row], window: &Window, bytes: usize) -> bool {
    let texts = rows.iter().map(|row| row.get::<_, &str>(5).len());
    let begins = rows.first().map(|row| row.get::<_, i64>(0) as u64);
    texts.sum::<usize>() < bytes || (!window.newest_first && begins != Some(window.offsets.start))
}

fn message(query: &HistoryQuery, conversation: i64, row: &Row) -> StoredMessage {
    let offset = row.get::<_, i64>(0) as u64;
    let key: String = row.get(3);
    let is_made = key == row.get::<_, i64>(4).to_string();
    StoredMessage {
        id: StoredMessage::id_of(conversation as u64, offset),
        offset,
        conversation_id: query.channel.name().to_owned(),
        sender_id: row.get(1),
        sender_type: row.get(2),
        temp_id: (!is_made).then_some(key),
        content: row.get(5),
        created_at: row.get::<_, i64>(6) as u64,
    }
}

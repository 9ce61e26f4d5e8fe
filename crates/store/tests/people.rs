//! Members of conversations and their read markers: a database beside the model in memory, and
//! many who want something at once.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use heartline_core::auth::UserKey;
use heartline_core::store::conversations::{
    Added, Inbox, InboxPlace, InboxQuery, Member, Membership,
};
use heartline_core::store::invites::{InviteQuery, NewInvite, Unusable};
use heartline_core::store::memory::MemoryStore;
use heartline_core::store::offer::Store;
use heartline_core::store::{Channel, Cleaned, Cleaning, NewMessage};
use heartline_store::SqliteStore;
use proptest::prelude::*;

/// Where a test's database is: it can be closed and opened again.
trait Database {
    fn open(&self) -> Arc<dyn Store>;
}

mod support;

use support::Server;

/// Works on PostgreSQL have to be within their runtime.
struct Postgres<'a>(&'a Server, &'a tokio::runtime::Runtime);

impl Database for Postgres<'_> {
    fn open(&self) -> Arc<dyn Store> {
        Arc::new(self.1.block_on(self.0.open_locally()))
    }
}

struct Sqlite(PathBuf);

impl Sqlite {
    fn new() -> Sqlite {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("heartline-people-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir(&path).unwrap();
        Sqlite(path)
    }
}

impl Database for Sqlite {
    /// The lock is free once the last thread has let it go.
    fn open(&self) -> Arc<dyn Store> {
        let until = Instant::now() + Duration::from_secs(60);
        loop {
            match SqliteStore::open(&self.0.join("heartline.db")) {
                Ok(store) => return Arc::new(store),
                Err(error) => assert!(Instant::now() < until, "{error}"),
            }
            std::thread::yield_now();
        }
    }
}

impl Drop for Sqlite {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn user(number: u8, tenant: Option<u8>) -> Arc<UserKey> {
    Arc::new(UserKey {
        tenant_id: tenant.map(|tenant| tenant.to_string().into()),
        user_id: (number / 2).to_string().into(),
        user_type: (number % 2 == 1).then(|| "admin".into()),
    })
}

#[derive(Debug, Clone)]
enum Step {
    Add(u8, u8, bool),
    Remove(u8, u8),
    Say(u8, u8),
    Read(u8, u8, u64),
    Members(u8),
    /// A user's whole inbox, so many conversations at a time.
    Inbox(u8, usize),
    /// An invite of this number to a conversation: how many may come, and until when.
    Invite(u8, u8, Option<u32>, Option<u64>),
    Use(u8, u8),
    Revoke(u8),
    /// The invites, perhaps of one conversation, from a number on.
    Invites(Option<u8>, Option<u8>, usize),
    /// Invites that ended more than so long ago are removed.
    Clean(u64),
    /// The process ends and comes back.
    Again,
}

fn step() -> impl Strategy<Value = Step> {
    let (who, place, place2) = (0u8..5, 0u8..4, 0u8..4);
    prop_oneof![
        4 => (who.clone(), place.clone(), any::<bool>())
            .prop_map(|(who, place, invited)| Step::Add(who, place, invited)),
        1 => (who.clone(), place.clone()).prop_map(|(who, place)| Step::Remove(who, place)),
        4 => (who.clone(), place.clone()).prop_map(|(who, place)| Step::Say(who, place)),
        3 => (who.clone(), place.clone(), 0u64..6)
            .prop_map(|(who, place, offset)| Step::Read(who, place, offset)),
        2 => place.prop_map(Step::Members),
        3 => (who, 1usize..4).prop_map(|(who, limit)| Step::Inbox(who, limit)),
        1 => Just(Step::Again),
        2 => (0u8..4, place2.clone(), prop::option::of(1u32..3), prop::option::of(0u64..12))
            .prop_map(|(code, place, most, until)| Step::Invite(code, place, most, until)),
        5 => (0u8..5, 0u8..4).prop_map(|(who, code)| Step::Use(who, code)),
        1 => (0u8..4).prop_map(Step::Revoke),
        1 => (0u64..4).prop_map(Step::Clean),
        1 => (prop::option::of(place2), prop::option::of(0u8..4), 1usize..4)
            .prop_map(|(place, after, limit)| Step::Invites(place, after, limit)),
    ]
}

fn message(sender: Arc<UserKey>, place: &str, at: u64) -> NewMessage {
    NewMessage {
        sender,
        channel: Channel::Conversation(place.into()),
        content: format!("said at {at}"),
        temp_id: None,
        created_at: at,
    }
}

async fn whole_inbox(store: &dyn Store, user: &Arc<UserKey>, limit: usize) -> Vec<Inbox> {
    let mut parts: Vec<Inbox> = Vec::new();
    loop {
        let after = parts.last().map(|part| part.next.clone().unwrap());
        let query = InboxQuery {
            user: user.clone(),
            after: after.map(|next| InboxPlace::parse(&next).unwrap()),
            limit,
            bytes: usize::MAX,
        };
        let mut part = store.inbox(query).await.unwrap();
        for entry in &mut part.conversations {
            // Stores number their conversations as they like.
            entry.last.iter_mut().for_each(|last| last.id.clear());
        }
        let is_last = part.next.is_none();
        parts.push(part);
        if is_last {
            return parts;
        }
    }
}

/// Removes invites that ended before a moment, step by step; what each step came to.
async fn clean(store: &dyn Store, before: u64) -> Vec<Cleaned> {
    let (mut steps, mut from) = (Vec::new(), Some(0));
    while let Some(start) = from {
        let what = Cleaning::InvitesBefore(before);
        let cleaned = store.clean(what, start).await.unwrap();
        from = cleaned.next;
        steps.push(cleaned);
        assert!(steps.len() < 100, "{steps:?}");
    }
    steps
}

/// What a step comes to, in words.
async fn take(store: &dyn Store, step: &Step, at: u64) -> String {
    let tenant = Some(1);
    match *step {
        Step::Add(who, place, invited) => {
            let membership = match invited {
                true => Membership::Invited,
                false => Membership::Joined,
            };
            let who = user(who, tenant);
            let added = store.add_member(&place.to_string(), &who, membership, at);
            format!("{:?}", added.await)
        }
        Step::Remove(who, place) => {
            let removed = store.remove_member(&place.to_string(), &user(who, tenant));
            format!("{:?}", removed.await)
        }
        Step::Say(who, place) => {
            let new = message(user(who, tenant), &place.to_string(), at);
            let stored = store.append(new, Box::new(|_| ())).await.unwrap();
            stored.message.offset.to_string()
        }
        Step::Read(who, place, offset) => {
            let marked = store.mark_read(&place.to_string(), &user(who, tenant), offset, at);
            format!("{:?}", marked.await)
        }
        Step::Members(place) => {
            let members = store.members(Some("1"), &place.to_string());
            format!("{:?}", members.await)
        }
        Step::Inbox(who, limit) => {
            format!("{:?}", whole_inbox(store, &user(who, tenant), limit).await)
        }
        Step::Again => String::new(),
        Step::Invite(code, place, max_uses, expires_at) => {
            let new = NewInvite {
                tenant_id: tenant.map(|tenant| tenant.to_string().into()),
                conversation_id: place.to_string(),
                created_by: Some("somebody".into()),
                created_at: at,
                expires_at,
                max_uses,
                label: None,
            };
            let created = store.create_invite(&code.to_string(), new);
            format!("{:?}", created.await)
        }
        Step::Use(who, code) => {
            // Somebody of another tenant finds nothing.
            let who = user(who, tenant.filter(|_| who < 4));
            let used = store.use_invite(&code.to_string(), &who, at).await;
            format!("{used:?} {:?}", store.invite(&code.to_string()).await)
        }
        Step::Revoke(code) => format!("{:?}", store.revoke_invite(&code.to_string(), at).await),
        Step::Clean(age) => {
            let steps = clean(store, at.saturating_sub(age)).await;
            let rows: u64 = steps.iter().map(|step| step.rows).sum();
            rows.to_string()
        }
        Step::Invites(place, after, limit) => {
            let query = InviteQuery {
                tenant_id: Some("1".into()),
                conversation_id: place.map(|place| place.to_string()),
                after: after.map(|after| after.to_string()),
                limit,
            };
            format!("{:?}", store.invites(query).await)
        }
    }
}

fn a_database_keeps_what_the_model_keeps(
    database: &dyn Database,
    runtime: &tokio::runtime::Runtime,
    steps: &[Step],
) {
    let model = MemoryStore::default();
    let mut store = database.open();
    for (at, step) in steps.iter().enumerate() {
        if let Step::Again = step {
            runtime.block_on(store.close());
            drop(store);
            store = database.open();
        }
        // Some fall into one moment.
        let at = at as u64 / 3;
        let expected = runtime.block_on(take(&model, step, at));
        let kept = runtime.block_on(take(&*store, step, at));
        assert_eq!(expected, kept, "{step:?}");
    }
    runtime.block_on(store.close());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn sqlite_keeps_the_members_that_the_model_keeps(
        steps in prop::collection::vec(step(), 1..60)
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        a_database_keeps_what_the_model_keeps(&Sqlite::new(), &runtime, &steps);
    }
}

#[test]
fn postgres_keeps_the_members_that_the_model_keeps() {
    let (server, runtime) = (Server::start(), support::runtime());
    let database = Postgres(&server, &runtime);
    let config = ProptestConfig {
        cases: 48,
        failure_persistence: None,
        ..ProptestConfig::default()
    };
    proptest!(config, |(steps in prop::collection::vec(step(), 1..40))| {
        runtime.block_on(server.clear());
        a_database_keeps_what_the_model_keeps(&database, &runtime, &steps);
    });
}

#[test]
fn postgres_lets_in_whoever_comes_at_once_as_often_as_may_be() {
    let (server, runtime) = (Server::start(), support::runtime());
    let store = Postgres(&server, &runtime).open();
    runtime.block_on(whoever_comes_at_once_is_a_member_once(store.clone()));
    runtime.block_on(no_more_come_by_an_invite_than_may(store.clone()));
    runtime.block_on(ended_invites_go_and_those_without_an_end_stay(
        store.clone(),
        STEP,
    ));
    runtime.block_on(an_invite_raises_whom_it_has_let_in_before(store.clone()));
    runtime.block_on(markers_stand_at_the_furthest_and_writers_have_read_what_they_wrote(store));
}

fn named(members: &[Member]) -> Vec<(&str, u64)> {
    let name = |member: &'_ Member| member.read_offset;
    members
        .iter()
        .map(|member| (&*member.user.user_id, name(member)))
        .collect()
}

/// Runs `ask` for so many at once; what each was answered.
async fn at_once<T: Send + 'static, F: Future<Output = T> + Send + 'static>(
    many: usize,
    ask: impl Fn(usize) -> F,
) -> Vec<T> {
    let asking: Vec<_> = (0..many).map(|number| tokio::spawn(ask(number))).collect();
    let mut answers = Vec::new();
    for answer in asking {
        answers.push(answer.await.unwrap());
    }
    answers
}

const MANY: usize = 64;

async fn whoever_comes_at_once_is_a_member_once(store: Arc<dyn Store>) {
    for round in 0..20 {
        let place = round.to_string();
        let added = at_once(MANY, |number| {
            let membership = match number % 2 {
                0 => Membership::Joined,
                _ => Membership::Invited,
            };
            store.add_member(&place, &user((number % 8) as u8, None), membership, 1)
        });
        let added: Vec<Added> = added.await.into_iter().map(Result::unwrap).collect();
        let count = |what| added.iter().filter(|added| **added == what).count();
        assert_eq!(count(Added::New), 8);
        let members = store.members(None, &place).await.unwrap();
        assert_eq!(members.len(), 8);
        let removed = at_once(MANY, |number| {
            store.remove_member(&place, &user((number % 8) as u8, None))
        });
        let removed = removed.await.into_iter().filter(|gone| *gone == Ok(true));
        assert_eq!(removed.count(), 8);
        assert!(store.members(None, &place).await.unwrap().is_empty());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sqlite_makes_whoever_comes_at_once_a_member_once() {
    let database = Sqlite::new();
    whoever_comes_at_once_is_a_member_once(database.open()).await;
}

async fn an_invite_raises_whom_it_has_let_in_before(store: Arc<dyn Store>) {
    let ann = user(0, None);
    let new = NewInvite {
        conversation_id: "raised".into(),
        max_uses: Some(1),
        ..NewInvite::default()
    };
    assert_eq!(store.create_invite("raises", new).await, Ok(true));
    let uses = async || {
        let used = store.use_invite("raises", &ann, 2).await.unwrap();
        used.map(|used| used.added)
    };
    assert_eq!(uses().await, Ok(Added::New));
    assert_eq!(uses().await, Ok(Added::Known));
    assert_eq!(store.remove_member("raised", &ann).await, Ok(true));
    let by_token = store.add_member("raised", &ann, Membership::Joined, 3);
    assert_eq!(by_token.await, Ok(Added::New));
    assert_eq!(uses().await, Ok(Added::Raised));
    let members = store.members(None, "raised").await.unwrap();
    assert_eq!(members[0].membership, Membership::Invited);
    let invite = store.invite("raises").await.unwrap().unwrap();
    assert_eq!(invite.uses, 1);
    // When it is over, whoever is in stays what they are.
    store.revoke_invite("raises", 4).await.unwrap();
    assert_eq!(uses().await, Ok(Added::Known));
    assert_eq!(store.remove_member("raised", &ann).await, Ok(true));
    assert_eq!(uses().await, Err(Unusable::Revoked));
}

#[tokio::test(flavor = "multi_thread")]
async fn sqlite_and_the_model_raise_whom_an_invite_has_let_in_before() {
    let database = Sqlite::new();
    an_invite_raises_whom_it_has_let_in_before(database.open()).await;
    an_invite_raises_whom_it_has_let_in_before(Arc::new(MemoryStore::default())).await;
}

async fn markers_stand_at_the_furthest_and_writers_have_read_what_they_wrote(
    store: Arc<dyn Store>,
) {
    let (reader, writer) = (user(0, None), user(2, None));
    for who in [&reader, &writer] {
        let added = store.add_member("c", who, Membership::Joined, 1).await;
        assert_eq!(added, Ok(Added::New));
    }
    let offsets = at_once(MANY, |number| {
        let said = store.append(message(writer.clone(), "c", 2), Box::new(|_| ()));
        let read = store.mark_read("c", &reader, number as u64, 3);
        async move { (said.await.unwrap().message.offset, read.await.unwrap()) }
    });
    let offsets = offsets.await;
    // Nobody is told of a place further than the messages there were.
    let read = offsets.iter().map(|(_, marked)| marked.unwrap().offset);
    assert!(read.max().unwrap() <= MANY as u64);
    let ahead = store.mark_read("c", &reader, u64::MAX >> 1, 4).await;
    assert_eq!(ahead.unwrap().unwrap().offset, MANY as u64);
    let back = store.mark_read("c", &reader, 1, 4).await.unwrap().unwrap();
    assert_eq!((back.offset, back.moved), (MANY as u64, false));
    let members = store.members(None, "c").await.unwrap();
    let all = MANY as u64;
    assert_eq!(named(&members), [("0", all), ("1", all)]);
    let stranger = store.mark_read("c", &user(4, None), 1, 4).await;
    assert_eq!(stranger, Ok(None));
    // Whoever moves it, nobody is told of a place before the one that they have asked for.
    for round in 0..20 {
        let reader = user(10 + 2 * round, None);
        let added = store.add_member("c", &reader, Membership::Joined, 5).await;
        assert_eq!(added, Ok(Added::New));
        let marked = at_once(MANY, |number| {
            store.mark_read("c", &reader, number as u64 + 1, 6)
        });
        for (before, marked) in (0..).zip(marked.await) {
            let offset = marked.unwrap().unwrap().offset;
            assert!(offset > before, "{offset} where {} was asked", before + 1);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sqlite_has_markers_at_the_furthest_and_writers_have_read_what_they_wrote() {
    let database = Sqlite::new();
    let store = database.open();
    markers_stand_at_the_furthest_and_writers_have_read_what_they_wrote(store).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_marker_that_is_refused_leaves_no_row_in_sqlite() {
    let database = Sqlite::new();
    let store = database.open();
    let (member, stranger) = (user(0, None), user(2, None));
    let added = store.add_member("c", &member, Membership::Joined, 1).await;
    assert_eq!(added, Ok(Added::New));
    for (who, place) in [(&stranger, "c"), (&stranger, "d"), (&member, "d")] {
        assert_eq!(store.mark_read(place, who, 1, 2).await, Ok(None));
    }
    let file = rusqlite::Connection::open(database.0.join("heartline.db")).unwrap();
    let sql = "SELECT (SELECT count(*) FROM conversation), (SELECT count(*) FROM person)";
    let rows: (u64, u64) = file
        .query_row(sql, [], |row| Ok((row.get(0)?, row.get(1)?)))
        .unwrap();
    assert_eq!(rows, (1, 1));
}

async fn no_more_come_by_an_invite_than_may(store: Arc<dyn Store>) {
    for round in 0..10 {
        let (place, code) = (round.to_string(), format!("code{round}"));
        let new = NewInvite {
            conversation_id: place.clone(),
            max_uses: Some(7),
            ..NewInvite::default()
        };
        assert_eq!(store.create_invite(&code, new.clone()).await, Ok(true));
        assert_eq!(store.create_invite(&code, new).await, Ok(false));
        // Each of a hundred users twice at once: with two devices, say.
        let used = at_once(200, |number| {
            let who = UserKey {
                tenant_id: None,
                user_id: (number / 2).to_string().into(),
                user_type: None,
            };
            store.use_invite(&code, &Arc::new(who), 1)
        });
        let used: Vec<_> = used.await.into_iter().map(Result::unwrap).collect();
        let came = used.iter().filter(|used| used.is_ok()).count();
        assert_eq!(came, 14, "seven users, each twice");
        let late = used.iter().flat_map(|used| used.as_ref().err());
        assert!(late.into_iter().all(|why| *why == Unusable::Exhausted));
        assert_eq!(store.members(None, &place).await.unwrap().len(), 7);
        assert_eq!(store.invite(&code).await.unwrap().unwrap().uses, 7);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sqlite_lets_no_more_come_by_an_invite_than_may() {
    let database = Sqlite::new();
    no_more_come_by_an_invite_than_may(database.open()).await;
}

/// More invites, and more uses of one, than a step removes.
const TOO_MANY: usize = 600;

/// What a step removes of invites and their uses, at most.
const STEP: u64 = 1_000;

async fn ended_invites_go_and_those_without_an_end_stay(store: Arc<dyn Store>, most: u64) {
    let make = |code: String, expires_at, max_uses| {
        let new = NewInvite {
            conversation_id: "party".into(),
            expires_at,
            max_uses,
            ..NewInvite::default()
        };
        let store = store.clone();
        async move { assert_eq!(store.create_invite(&code, new).await, Ok(true)) }
    };
    let stranger = |number: usize| {
        Arc::new(UserKey {
            tenant_id: None,
            user_id: format!("stranger {number}").into(),
            user_type: None,
        })
    };
    make("popular".into(), Some(10), None).await;
    make("revoked".into(), Some(900), None).await;
    make("used up".into(), None, Some(1)).await;
    make("late".into(), Some(11), None).await;
    make("for ever".into(), None, None).await;
    at_once(TOO_MANY, |number| {
        make(format!("old {number}"), Some(9), None)
    })
    .await;
    let come = |number| store.use_invite("popular", &stranger(number), 1);
    let came = at_once(TOO_MANY, come).await;
    assert!(came.iter().all(|came| came.as_ref().unwrap().is_ok()));
    for code in ["used up", "late", "for ever"] {
        let came = store.use_invite(code, &stranger(0), 1).await;
        assert!(came.unwrap().is_ok(), "{code}");
    }
    store.revoke_invite("revoked", 3).await.unwrap();
    let why = |code: &'static str| {
        let came = store.use_invite(code, &stranger(TOO_MANY), 20);
        async move { came.await.unwrap().err() }
    };
    // Until they are removed it is known what became of them.
    assert_eq!(why("popular").await, Some(Unusable::Expired));
    assert_eq!(why("revoked").await, Some(Unusable::Revoked));
    let steps = clean(&*store, 11).await;
    let rows: u64 = steps.iter().map(|step| step.rows).sum();
    assert_eq!(rows as usize, TOO_MANY + TOO_MANY + 2, "{steps:?}");
    assert!(steps.iter().all(|step| step.rows <= most), "{steps:?}");
    for code in ["popular", "revoked", "old 0", "old 599"] {
        assert_eq!(store.invite(code).await, Ok(None), "{code}");
    }
    assert_eq!(why("popular").await, Some(Unusable::NotFound));
    assert_eq!(why("late").await, Some(Unusable::Expired));
    assert_eq!(why("used up").await, Some(Unusable::Exhausted));
    assert_eq!(why("for ever").await, None);
    // Whoever has come by one is a member all the same.
    let members = store.members(None, "party").await.unwrap();
    assert_eq!(members.len(), TOO_MANY + 1);
    // What came of a code is of no other invite that may have it.
    make("popular".into(), None, Some(1)).await;
    let again = store.use_invite("popular", &stranger(1), 20).await;
    assert!(again.unwrap().is_ok());
    assert_eq!(store.invite("popular").await.unwrap().unwrap().uses, 1);
    assert_eq!(clean(&*store, 11).await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn in_sqlite_ended_invites_go_step_by_step_and_those_without_an_end_stay() {
    let database = Sqlite::new();
    ended_invites_go_and_those_without_an_end_stay(database.open(), STEP).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn in_memory_ended_invites_go_and_those_without_an_end_stay() {
    // There all is one step.
    let store = Arc::new(MemoryStore::default());
    ended_invites_go_and_those_without_an_end_stay(store, u64::MAX).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn invites_of_an_earlier_version_go_as_well() {
    let database = Sqlite::new();
    let connection = rusqlite::Connection::open(database.0.join("heartline.db")).unwrap();
    let table = "CREATE TABLE migration (version INTEGER PRIMARY KEY, at INTEGER NOT NULL) STRICT";
    connection.execute_batch(table).unwrap();
    for (number, sql) in [
        (1, include_str!("../src/sqlite/migrations/0001.sql")),
        (2, include_str!("../src/sqlite/migrations/0002.sql")),
        (3, include_str!("../src/sqlite/migrations/0003.sql")),
        (10, include_str!("../src/sqlite/migrations/0010.sql")),
        (11, include_str!("../src/sqlite/migrations/0011.sql")),
        (20, include_str!("../src/sqlite/migrations/0020.sql")),
    ] {
        connection.execute_batch(sql).unwrap();
        let done = "INSERT INTO migration (version, at) VALUES (?1, 0)";
        connection.execute(done, [number]).unwrap();
    }
    let rows = "INSERT INTO conversation (id, kind, name, head, floor, created_at)
            VALUES (1, 'conversation', 'c', 0, 0, 0);
        INSERT INTO invite (code, conversation, created_at, expires_at, revoked_at)
            VALUES ('old', 1, 0, 5, NULL), ('revoked', 1, 0, 50, 4), ('late', 1, 0, 50, NULL);
        INSERT INTO invite_use (code, person, at) VALUES ('old', 7, 1);";
    connection.execute_batch(rows).unwrap();
    drop(connection);
    let store = database.open();
    let steps = clean(&*store, 50).await;
    assert_eq!(
        steps,
        [Cleaned {
            rows: 3,
            next: None
        }]
    );
    assert!(store.invite("late").await.unwrap().is_some());
    for code in ["old", "revoked"] {
        assert_eq!(store.invite(code).await, Ok(None), "{code}");
    }
}

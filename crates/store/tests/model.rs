//! Databases beside the model in memory: the same said to both is kept in the same places.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use heartline_core::auth::UserKey;
use heartline_core::store::memory::MemoryStore;
use heartline_core::store::{
    Channel, Cleaning, History, HistoryQuery, MessageStore, NewMessage, Start, Stored,
    StoredMessage,
};
use heartline_store::SqliteStore;
use proptest::prelude::*;
use tokio::runtime::Runtime;

mod support;

use support::Server;

/// A folder for one test.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Folder {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("heartline-store-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir(&path).unwrap();
        Folder(path)
    }

    fn file(&self) -> PathBuf {
        self.0.join("heartline.db")
    }

    fn open(&self) -> SqliteStore {
        SqliteStore::open(&self.file()).unwrap()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn message(
    user: u8,
    tenant: Option<u8>,
    channel: Channel,
    temp_id: Option<String>,
    created_at: u64,
) -> NewMessage {
    NewMessage {
        sender: Arc::new(UserKey {
            tenant_id: tenant.map(|tenant| tenant.to_string().into()),
            user_id: user.to_string().into(),
            user_type: (user > 2).then(|| "admin".into()),
        }),
        channel,
        content: format!("{user} says {temp_id:?}"),
        temp_id,
        created_at,
    }
}

fn channel(number: u8) -> Channel {
    match number {
        0..3 => Channel::Conversation(number.to_string()),
        _ => Channel::Room((number - 3).to_string()),
    }
}

/// The same but for the conversation's number in the store.
fn without_row(message: &mut StoredMessage) {
    let (_, offset) = message.id.split_once('-').unwrap();
    assert_eq!(offset, message.offset.to_string());
    message.id.clear();
}

#[derive(Debug, Clone)]
enum Step {
    /// Said together by one or more users.
    Say(Vec<(u8, Option<u8>, u8, Option<u8>)>),
    Read(Option<u8>, u8, Start, usize, usize),
    /// What is older than so many messages is removed.
    Age(u64),
    /// All but so many of each are removed.
    Number(u64),
    /// The process ends and comes back.
    Again,
}

fn step() -> impl Strategy<Value = Step> {
    let tenant = || prop_oneof![Just(None), (0u8..2).prop_map(Some)];
    let said = (0u8..4, tenant(), 0u8..6, prop::option::of(0u8..4));
    let start = prop_oneof![
        Just(Start::End),
        (0u64..12).prop_map(Start::After),
        (0u64..12).prop_map(Start::Before)
    ];
    prop_oneof![
        6 => prop::collection::vec(said, 1..6).prop_map(Step::Say),
        4 => (tenant(), 0u8..6, start, 1usize..6, prop_oneof![Just(600usize), Just(usize::MAX)])
            .prop_map(|(tenant, channel, start, limit, bytes)| {
                Step::Read(tenant, channel, start, limit, bytes)
            }),
        1 => (0u64..12).prop_map(Step::Age),
        1 => (0u64..4).prop_map(Step::Number),
        1 => Just(Step::Again),
    ]
}

type Said = (u8, Option<u8>, u8, Option<u8>);

/// Says all at once, the first at this time; what was told in each place, and what was answered.
fn say(
    runtime: &Runtime,
    store: &dyn MessageStore,
    all: &[Said],
    time: u64,
) -> (Vec<StoredMessage>, Vec<Stored>) {
    let told = Arc::new(Mutex::new(Vec::new()));
    let answers: Vec<_> = all
        .iter()
        .zip(time..)
        .map(|(&(user, tenant, place, temp_id), time)| {
            let temp_id = temp_id.map(|id| id.to_string());
            let new = message(user, tenant, channel(place), temp_id, time);
            let told = told.clone();
            let tell = move |message: &StoredMessage| {
                told.lock()
                    .unwrap()
                    .push(((tenant, place), message.clone()));
            };
            store.append(new, Box::new(tell))
        })
        .collect();
    let answers = runtime.block_on(async {
        let mut stored = Vec::new();
        for answer in answers {
            stored.push(answer.await.unwrap());
        }
        stored
    });
    let mut told = std::mem::take(&mut *told.lock().unwrap());
    // Their order in each place is what counts.
    told.sort_by_key(|(place, _)| *place);
    (
        told.into_iter().map(|(_, message)| message).collect(),
        answers,
    )
}

fn read(runtime: &Runtime, store: &dyn MessageStore, query: HistoryQuery) -> History {
    runtime.block_on(store.history(query)).unwrap()
}

/// Removes all that is to be removed; how many rows that were.
fn clean(runtime: &Runtime, store: &dyn MessageStore, what: Cleaning) -> u64 {
    let (mut rows, mut from) = (0, 0);
    loop {
        let cleaned = runtime.block_on(store.clean(what, from)).unwrap();
        rows += cleaned.rows;
        match cleaned.next {
            Some(next) => from = next,
            None => return rows,
        }
    }
}

/// Goes the same steps with a store and with the model; `again` opens what the store left.
fn follow(
    steps: Vec<Step>,
    runtime: &Runtime,
    mut again: impl FnMut() -> Box<dyn MessageStore>,
) -> Result<(), TestCaseError> {
    let model = MemoryStore::default();
    let mut store = again();
    let mut time = 0;
    for step in steps {
        match step {
            Step::Say(all) => {
                let (mut expected_told, mut expected) = say(runtime, &model, &all, time);
                let (mut told, mut answers) = say(runtime, &*store, &all, time);
                time += all.len() as u64;
                prop_assert!(told.len() == answers.iter().filter(|one| !one.duplicate).count());
                for stored in expected.iter_mut().chain(&mut answers) {
                    without_row(&mut stored.message);
                }
                expected_told
                    .iter_mut()
                    .chain(&mut told)
                    .for_each(without_row);
                prop_assert_eq!(expected_told, told);
                prop_assert_eq!(format!("{expected:?}"), format!("{answers:?}"));
            }
            Step::Read(tenant, place, from, limit, bytes) => {
                let query = HistoryQuery {
                    tenant: tenant.map(|tenant| tenant.to_string().into()),
                    channel: channel(place),
                    from,
                    limit,
                    bytes,
                };
                let mut expected = read(runtime, &model, query.clone());
                let mut history = read(runtime, &*store, query);
                expected.messages.iter_mut().for_each(without_row);
                history.messages.iter_mut().for_each(without_row);
                prop_assert_eq!(expected, history);
            }
            Step::Age(_) | Step::Number(_) => {
                let what = match step {
                    Step::Age(age) => Cleaning::MessagesBefore {
                        time: time.saturating_sub(age),
                        now: time,
                    },
                    Step::Number(newest) => Cleaning::MessagesBeyond(newest),
                    _ => unreachable!("it is one of them"),
                };
                let expected = clean(runtime, &model, what);
                prop_assert_eq!(expected, clean(runtime, &*store, what));
            }
            Step::Again => {
                runtime.block_on(store.close());
                drop(store);
                store = again();
            }
        }
    }
    runtime.block_on(store.close());
    Ok(())
}

fn cases(number: u32) -> ProptestConfig {
    ProptestConfig {
        cases: number,
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

proptest! {
    #![proptest_config(cases(48))]

    #[test]
    fn sqlite_keeps_what_the_model_keeps(steps in prop::collection::vec(step(), 1..24)) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let folder = Folder::new();
        follow(steps, &runtime, || Box::new(open_again(&folder)))?;
    }
}

#[test]
fn postgres_keeps_what_the_model_keeps() {
    let server = Server::start();
    let runtime = support::runtime();
    proptest!(cases(48), |(steps in prop::collection::vec(step(), 1..24))| {
        runtime.block_on(server.clear());
        follow(steps, &runtime, || Box::new(runtime.block_on(server.open_locally())))?;
    });
}

/// The lock is free once the last thread has let it go.
fn open_again(folder: &Folder) -> SqliteStore {
    let until = std::time::Instant::now() + std::time::Duration::from_secs(60);
    loop {
        match SqliteStore::open(&folder.file()) {
            Ok(store) => return store,
            Err(error) => assert!(std::time::Instant::now() < until, "{error}"),
        }
        std::thread::yield_now();
    }
}

#[test]
fn when_something_was_done_last_is_known_after_a_restart() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    let folder = Folder::new();
    let take = |store: &SqliteStore| {
        runtime
            .block_on(store.take_job("clean", "a", 10, 20))
            .unwrap()
    };
    let store = folder.open();
    assert_eq!(take(&store), (None, true));
    runtime
        .block_on(store.end_job("clean", "a", Some(10)))
        .unwrap();
    runtime.block_on(store.end_job("clean", "a", None)).unwrap();
    runtime.block_on(store.close());
    drop(store);
    assert_eq!(take(&open_again(&folder)), (Some(10), true));
}

#[test]
fn a_second_gateway_on_the_same_file_is_refused() {
    let folder = Folder::new();
    let _first = folder.open();
    let second = SqliteStore::open(&folder.file()).err().unwrap().to_string();
    assert!(second.contains("in use by another gateway"), "{second}");
}

#[test]
fn what_is_no_database_is_refused_and_left_alone() {
    let folder = Folder::new();
    let text = "not a database".repeat(100);
    std::fs::write(folder.file(), &text).unwrap();
    let refused = SqliteStore::open(&folder.file()).err().unwrap().to_string();
    assert!(refused.contains("is not a database"), "{refused}");
    assert_eq!(std::fs::read_to_string(folder.file()).unwrap(), text);
    let nowhere = folder.0.join("nowhere/heartline.db");
    let refused = SqliteStore::open(&nowhere).err().unwrap().to_string();
    assert!(refused.contains("cannot be opened"), "{refused}");
}

#[test]
fn tables_of_a_newer_version_or_of_another_program_are_refused() {
    let folder = Folder::new();
    drop(folder.open());
    let until = std::time::Instant::now() + std::time::Duration::from_secs(60);
    let connection = rusqlite::Connection::open(folder.file()).unwrap();
    connection
        .busy_timeout(std::time::Duration::from_secs(60))
        .unwrap();
    let newer = "INSERT INTO migration VALUES (1000, 0)";
    connection.execute_batch(newer).unwrap();
    loop {
        let refused = SqliteStore::open(&folder.file()).err().unwrap().to_string();
        if refused.contains("newer Heartline (schema 1000") {
            break;
        }
        assert!(std::time::Instant::now() < until, "{refused}");
    }
    let other = Folder::new();
    let connection = rusqlite::Connection::open(other.file()).unwrap();
    connection.execute_batch("CREATE TABLE mine (a)").unwrap();
    let refused = SqliteStore::open(&other.file()).err().unwrap().to_string();
    assert!(refused.contains("another program's"), "{refused}");
    for (file, why) in [
        (folder.file(), "newer"),
        (other.file(), "another program's"),
    ] {
        let looked = SqliteStore::look(&file).err().unwrap().to_string();
        assert!(looked.contains(why), "{looked}");
    }
}

#[test]
fn a_file_can_be_looked_at_whoever_has_it_and_is_left_as_it_was() {
    let folder = Folder::new();
    let beside = || {
        let files = std::fs::read_dir(&folder.0).unwrap();
        let mut names: Vec<_> = files.map(|file| file.unwrap().file_name()).collect();
        names.sort();
        names
    };
    let glance = || {
        let looked = SqliteStore::look(&folder.file()).unwrap();
        (looked.version == looked.known, looked.is_in_use)
    };
    let look = || {
        let before = beside();
        let looked = glance();
        assert_eq!(beside(), before);
        looked
    };
    assert_eq!(look(), (false, false), "there is none yet");
    let store = folder.open();
    assert_eq!(look(), (true, true));
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(store.close());
    drop(store);
    let until = std::time::Instant::now() + std::time::Duration::from_secs(60);
    // While it is being closed, its files come and go by themselves.
    while glance() != (true, false) {
        assert!(std::time::Instant::now() < until);
    }
    assert_eq!(look(), (true, false));
}

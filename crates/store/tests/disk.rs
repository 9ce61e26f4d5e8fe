//! What SQLite keeps when a sync fails: what was acknowledged is on the disk, whatever the system
//! says afterwards of what it has not written.
//!
//! Each test runs a process of its own on a disk that fails (`disk.c`); what is on the disk is
//! looked at when it has ended, as after a power cut.

#![cfg(all(feature = "sqlite", target_os = "linux"))]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};

use heartline_core::auth::UserKey;
use heartline_core::store::{
    Channel, History, HistoryQuery, MessageStore, NewMessage, Start, StoreError, Stored,
};
use heartline_store::SqliteStore;
use rusqlite::Connection;

/// Where the process's database is.
const FOLDER: &str = "FAILING_DISK";

/// Runs `act` in a process with a disk that fails, in a new folder; `None` in that process, else
/// the folder. `name` is the test's.
fn on_a_failing_disk(name: &str, parts: &[&str], act: impl Fn(&Path, &str)) -> Option<PathBuf> {
    if let Some(folder) = std::env::var_os(FOLDER) {
        act(Path::new(&folder), &std::env::var("PART").unwrap());
        return None;
    }
    let folder = std::env::temp_dir().join(format!("heartline-{name}-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir(&folder).unwrap();
    let library = folder.join("disk.so");
    let compiled = Command::new("cc")
        .args(["-O1", "-shared", "-fPIC", "-o"])
        .arg(&library)
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/disk.c"))
        .args(["-ldl", "-lpthread"])
        .status();
    assert!(compiled.unwrap().success());
    for part in parts {
        let done = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", name, "--nocapture"])
            .env("LD_PRELOAD", &library)
            .env(FOLDER, &folder)
            .env("PART", part)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&done.stdout);
        let errors = String::from_utf8_lossy(&done.stderr);
        assert!(done.status.success(), "{part}: {said}\n{errors}");
    }
    Some(folder)
}

/// The next sync of the file whose name ends so fails.
fn fail(folder: &Path, end: &str) {
    std::fs::write(folder.join("fail"), end).unwrap();
}

fn has_failed(folder: &Path) -> bool {
    !folder.join("fail").exists()
}

fn open(folder: &Path) -> SqliteStore {
    SqliteStore::open(&folder.join("heartline.db")).unwrap()
}

fn message(number: usize, length: usize) -> NewMessage {
    NewMessage {
        sender: Arc::new(UserKey {
            tenant_id: None,
            user_id: "u".into(),
            user_type: None,
        }),
        channel: Channel::Conversation("c".into()),
        content: format!("{}{number}", " ".repeat(length)),
        temp_id: Some(number.to_string()),
        created_at: 7,
    }
}

async fn send(store: &SqliteStore, number: usize) -> Result<Stored, StoreError> {
    send_long(store, number, 10).await
}

async fn send_long(
    store: &SqliteStore,
    number: usize,
    length: usize,
) -> Result<Stored, StoreError> {
    store
        .append(message(number, length), Box::new(|_| ()))
        .await
}

/// So many that are read, the newest.
async fn history(store: &SqliteStore, limit: usize) -> History {
    let query = HistoryQuery {
        tenant: None,
        channel: Channel::Conversation("c".into()),
        from: Start::End,
        limit,
        bytes: usize::MAX,
    };
    store.history(query).await.unwrap()
}

/// Those that are on the disk, each once and without gaps.
fn after_a_power_cut(folder: &Path) -> Vec<usize> {
    for end in ["", "-wal"] {
        let from = folder.join(format!("heartline.db{end}.disk"));
        if from.exists() {
            std::fs::copy(from, folder.join(format!("cut.db{end}"))).unwrap();
        }
    }
    let database = Connection::open(folder.join("cut.db")).unwrap();
    let check: String = database
        .query_row("PRAGMA integrity_check", [], |row| row.get(0))
        .unwrap();
    assert_eq!(check, "ok");
    let sql = "SELECT \"offset\", key FROM message ORDER BY \"offset\"";
    let mut rows = database.prepare(sql).unwrap();
    let rows = rows.query_map([], |row| Ok((row.get(0)?, row.get(1)?)));
    let rows: Vec<(usize, String)> = rows.unwrap().map(Result::unwrap).collect();
    for (index, (offset, _)) in rows.iter().enumerate() {
        assert_eq!(*offset, index + 1);
    }
    std::fs::remove_dir_all(folder).unwrap();
    rows.iter().map(|(_, key)| key.parse().unwrap()).collect()
}

#[test]
fn a_message_whose_sync_failed_is_refused_and_the_next_are_kept() {
    let name = "a_message_whose_sync_failed_is_refused_and_the_next_are_kept";
    let runtime = || tokio::runtime::Runtime::new().unwrap();
    let act = |folder: &Path, _: &str| {
        runtime().block_on(async {
            let store = open(folder);
            let told = Arc::new(Mutex::new(Vec::new()));
            assert_eq!(send(&store, 1).await.unwrap().message.offset, 1);
            fail(folder, "-wal");
            let hear = told.clone();
            let tell = move |told: &heartline_core::store::StoredMessage| {
                hear.lock().unwrap().push(told.offset);
            };
            let refused = store.append(message(2, 10), Box::new(tell)).await;
            assert!(matches!(refused, Err(StoreError::Failed(_))), "{refused:?}");
            assert!(has_failed(folder) && store.is_in_trouble());
            // Nobody is told of it, and nobody reads it.
            assert!(told.lock().unwrap().is_empty());
            let history = history(&store, 10).await;
            assert_eq!((history.messages.len(), history.head), (1, 1));
            // Its place is the next one's; and it may be sent again.
            let next = send(&store, 3).await.unwrap();
            assert_eq!((next.message.offset, next.duplicate), (2, false));
            assert!(!store.is_in_trouble());
            let again = send(&store, 2).await.unwrap();
            assert_eq!((again.message.offset, again.duplicate), (3, false));
            std::process::exit(0);
        });
    };
    if let Some(folder) = on_a_failing_disk(name, &["all"], act) {
        assert_eq!(after_a_power_cut(&folder), [1, 3, 2]);
    }
}

#[test]
fn a_read_that_fails_while_the_database_is_opened_anew_does_not_stop_it_for_good() {
    let name = "a_read_that_fails_while_the_database_is_opened_anew_does_not_stop_it_for_good";
    /// So often an opening reads, the last time for what was acknowledged last: each of its
    /// reads fails once.
    const READS: usize = 4;
    let act = |folder: &Path, _: &str| {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(async {
            let store = open(folder);
            let mut refused = 0;
            for read in 0..READS {
                send(&store, 2 * read).await.unwrap();
                fail(folder, "-wal");
                assert!(send(&store, 2 * read + 1).await.is_err() && has_failed(folder));
                std::fs::write(folder.join("fail-read"), read.to_string()).unwrap();
                // One fails by the read.
                let mut tries = 0;
                while let Err(error) = send(&store, 2 * read + 1).await {
                    tries += 1;
                    assert!(tries < 2, "read {read}: {error}");
                }
                refused += tries;
                std::fs::write(folder.join("fail-read"), "-1").unwrap();
            }
            assert!(refused == READS && !store.is_in_trouble());
            std::process::exit(0);
        });
    };
    if let Some(folder) = on_a_failing_disk(name, &["all"], act) {
        assert_eq!(
            after_a_power_cut(&folder),
            (0..2 * READS).collect::<Vec<_>>()
        );
    }
}

#[test]
fn a_message_that_is_found_after_a_failed_sync_and_a_kill_is_on_the_disk_before_it_is_acknowledged()
{
    let name = "a_message_that_is_found_after_a_failed_sync_and_a_kill_is_on_the_disk_before_it_is_acknowledged";
    let act = |folder: &Path, part: &str| {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(async {
            let store = open(folder);
            if part == "killed" {
                send(&store, 1).await.unwrap();
                fail(folder, "-wal");
                assert!(send(&store, 2).await.is_err() && has_failed(folder));
            } else {
                // The system still has what the disk did not take.
                let found = send(&store, 2).await.unwrap();
                assert_eq!(found.message.offset, 2);
            }
            std::process::exit(0);
        });
    };
    if let Some(folder) = on_a_failing_disk(name, &["killed", "again"], act) {
        assert_eq!(after_a_power_cut(&folder), [1, 2]);
    }
}

#[test]
fn messages_survive_a_sync_that_fails_while_the_log_is_brought_in() {
    let name = "messages_survive_a_sync_that_fails_while_the_log_is_brought_in";
    /// Of 400 KB: the log is brought in after 40 of them.
    const LONG: usize = 400_000;
    let act = |folder: &Path, _: &str| {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(async {
            let store = open(folder);
            send(&store, 0).await.unwrap();
            // Somebody reads, so that a part of the log is brought in without a sync at its end.
            let stranger = Connection::open(folder.join("heartline.db")).unwrap();
            let count = "BEGIN; SELECT count(*) FROM message;";
            let mut sent = 1;
            for _ in 0..20 {
                send_long(&store, sent, LONG).await.unwrap();
                sent += 1;
            }
            stranger.execute_batch(count).unwrap();
            for _ in 0..25 {
                send_long(&store, sent, LONG).await.unwrap();
                sent += 1;
            }
            // The rest is brought in, and the sync fails.
            stranger.execute_batch("COMMIT").unwrap();
            drop(stranger);
            fail(folder, ".db");
            while !has_failed(folder) {
                assert!(sent < 150);
                send_long(&store, sent, LONG).await.unwrap();
                sent += 1;
            }
            // Afterwards it is brought in again, as a whole, and the log begins anew.
            for _ in 0..60 {
                send_long(&store, sent, LONG).await.unwrap();
                sent += 1;
            }
            assert!(!store.is_in_trouble());
            assert_eq!(history(&store, 1).await.head, sent as u64);
            std::fs::write(folder.join("sent"), sent.to_string()).unwrap();
            std::process::exit(0);
        });
    };
    if let Some(folder) = on_a_failing_disk(name, &["all"], act) {
        let sent: usize = std::fs::read_to_string(folder.join("sent"))
            .unwrap()
            .parse()
            .unwrap();
        assert_eq!(after_a_power_cut(&folder), (0..sent).collect::<Vec<_>>());
    }
}

//! SQLite on a file that is damaged: nothing more is written to it, whoever comes upon it first.

#![cfg(feature = "sqlite")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

use std::io::{Seek, SeekFrom, Write};
use std::path::Path;
use std::sync::Arc;

use heartline_core::auth::UserKey;
use heartline_core::store::invites::{Invites, NewInvite};
use heartline_core::store::{Channel, Cleaning, MessageStore, NewMessage};
use heartline_store::SqliteStore;
use rusqlite::Connection;

/// Opens a database in a new folder in which the pages of invites are overwritten, and in which
/// nobody has come upon them.
async fn damaged(folder: &Path) -> SqliteStore {
    let _ = std::fs::remove_dir_all(folder);
    std::fs::create_dir(folder).unwrap();
    let path = folder.join("heartline.db");
    let store = SqliteStore::open(&path).unwrap();
    let new = NewInvite {
        conversation_id: "c".into(),
        expires_at: Some(5),
        ..NewInvite::default()
    };
    assert_eq!(store.create_invite("code", new).await, Ok(true));
    append(&store, 1).await.unwrap();
    store.close().await;
    drop(store);
    {
        let database = Connection::open(&path).unwrap();
        let sql = "SELECT rootpage FROM sqlite_schema WHERE tbl_name = 'invite' AND rootpage > 0";
        let mut read = database.prepare(sql).unwrap();
        let pages = read.query_map([], |row| row.get(0)).unwrap();
        let pages: Vec<u64> = pages.map(Result::unwrap).collect();
        let size = "SELECT page_size FROM pragma_page_size";
        let size: u64 = database.query_row(size, [], |row| row.get(0)).unwrap();
        let mut file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
        assert!(!pages.is_empty());
        for page in pages {
            file.seek(SeekFrom::Start((page - 1) * size + 8)).unwrap();
            file.write_all(&vec![0xff; size as usize - 8]).unwrap();
        }
    }
    // The lock is free once the last thread has let it go.
    let until = std::time::Instant::now() + std::time::Duration::from_secs(60);
    loop {
        match SqliteStore::open(&path) {
            Ok(store) => return store,
            Err(error) => assert!(std::time::Instant::now() < until, "{error}"),
        }
        std::thread::yield_now();
    }
}

async fn append(store: &SqliteStore, number: usize) -> Result<u64, String> {
    let new = NewMessage {
        sender: Arc::new(UserKey {
            tenant_id: None,
            user_id: "u".into(),
            user_type: None,
        }),
        channel: Channel::Conversation("c".into()),
        content: "something".into(),
        temp_id: Some(number.to_string()),
        created_at: 7,
    };
    let stored = store.append(new, Box::new(|_| ())).await;
    stored
        .map(|stored| stored.message.offset)
        .map_err(|error| error.to_string())
}

async fn is_written_no_more(store: &SqliteStore) {
    assert!(store.is_in_trouble());
    let refused = append(store, 2).await.unwrap_err();
    assert!(refused.contains("damaged"), "{refused}");
    assert!(store.is_in_trouble());
}

#[tokio::test]
async fn a_file_that_a_cleaning_finds_damaged_is_written_no_more() {
    let name = format!("heartline-damaged-cleaning-{}", std::process::id());
    let folder = std::env::temp_dir().join(name);
    let store = damaged(&folder).await;
    let cleaned = store.clean(Cleaning::InvitesBefore(1_000), 0).await;
    assert!(cleaned.is_err(), "{cleaned:?}");
    is_written_no_more(&store).await;
    std::fs::remove_dir_all(&folder).unwrap();
}

#[tokio::test]
async fn a_file_that_who_comes_by_an_invite_finds_damaged_is_written_no_more() {
    let name = format!("heartline-damaged-use-{}", std::process::id());
    let folder = std::env::temp_dir().join(name);
    let store = damaged(&folder).await;
    let user = Arc::new(UserKey {
        tenant_id: None,
        user_id: "u".into(),
        user_type: None,
    });
    assert!(store.use_invite("code", &user, 1).await.is_err());
    is_written_no_more(&store).await;
    std::fs::remove_dir_all(&folder).unwrap();
}

#[tokio::test]
async fn a_file_that_a_question_finds_damaged_is_written_no_more() {
    let name = format!("heartline-damaged-question-{}", std::process::id());
    let folder = std::env::temp_dir().join(name);
    let store = damaged(&folder).await;
    assert!(store.invite("code").await.is_err());
    is_written_no_more(&store).await;
    std::fs::remove_dir_all(&folder).unwrap();
}

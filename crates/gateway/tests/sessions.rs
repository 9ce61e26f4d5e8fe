//! Checkpoints on their way to a store: gathered, and answered when they are kept.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

#[path = "support/conversations_of.rs"]
mod conversations_of;
#[path = "support/invites_of.rs"]
mod invites_of;
mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use heartline::auth::{BoxFuture, UserKey};
use heartline::store::memory::MemoryStore;
use heartline::store::{
    Changed, Changes, Checkpoint, Checkpoints, History, HistoryQuery, MessageStore, NewMessage,
    Patch, StoreError, Stored, Tell,
};
use heartline::{Config, Gateway, Socket};
use support::{Client, Names, config, start};

/// A store that counts what is written, and fails where it is told to.
#[derive(Clone, Default)]
struct Counting(Arc<Inside>);

#[derive(Default)]
struct Inside {
    store: MemoryStore,
    writes: AtomicUsize,
    fails: AtomicBool,
    /// How many questions it refuses as too many.
    overloaded: AtomicUsize,
    /// How often it was asked.
    questions: AtomicUsize,
    /// Answers are on their way while somebody writes here.
    slow: tokio::sync::RwLock<()>,
}

impl Inside {
    async fn has_one_of_ann(&self) {
        let changes = Changes {
            user: Arc::new(UserKey {
                tenant_id: None,
                user_id: "ann".into(),
                user_type: None,
            }),
            patches: vec![Patch::parse(r#"{"n":1}"#, None).unwrap()],
            rooms: None,
            now: 7,
        };
        self.store.change(changes).await.unwrap();
    }
}

impl Checkpoints for Counting {
    fn change(&self, changes: Changes) -> BoxFuture<Result<Changed, StoreError>> {
        if self.0.fails.load(Ordering::Relaxed) {
            let away = StoreError::Failed("away".into());
            return Box::pin(std::future::ready(Err(away)));
        }
        self.0.writes.fetch_add(1, Ordering::Relaxed);
        let (inside, changed) = (self.0.clone(), self.0.store.change(changes));
        Box::pin(async move {
            let changed = changed.await;
            drop(inside.slow.read().await);
            changed
        })
    }

    fn checkpoint(&self, user: &Arc<UserKey>) -> BoxFuture<Result<Option<Checkpoint>, StoreError>> {
        let left = |left: usize| left.checked_sub(1);
        let overloaded = &self.0.overloaded;
        match overloaded.fetch_update(Ordering::Relaxed, Ordering::Relaxed, left) {
            Ok(_) => Box::pin(std::future::ready(Err(StoreError::Overloaded))),
            Err(_) => {
                let (inside, found) = (self.0.clone(), self.0.store.checkpoint(user));
                Box::pin(async move {
                    let found = found.await;
                    inside.questions.fetch_add(1, Ordering::Relaxed);
                    drop(inside.slow.read().await);
                    found
                })
            }
        }
    }
}

impl MessageStore for Counting {
    fn append(&self, message: NewMessage, tell: Tell) -> BoxFuture<Result<Stored, StoreError>> {
        self.0.store.append(message, tell)
    }

    fn history(&self, query: HistoryQuery) -> BoxFuture<Result<History, StoreError>> {
        self.0.store.history(query)
    }

    fn checkpoints(&self) -> Option<&dyn Checkpoints> {
        Some(self)
    }
}

conversations_of::has_conversations_of!(Counting, 0.store);
invites_of::has_invites_of!(Counting, 0.store);

async fn gateway() -> (Gateway, String, Counting) {
    let store = Counting::default();
    let config = Config {
        handler_timeout: support::DEADLINE,
        ..config()
    };
    let builder = Gateway::builder(config).authenticator(Names);
    let (gateway, address) = start(builder.store(store.clone())).await;
    (gateway, address, store)
}

async fn ann(address: &str) -> Client {
    Client::connect(address, r#"{"token":"ann"}"#).await
}

async fn until(is_so: impl Fn() -> bool) {
    let deadline = tokio::time::Instant::now() + support::DEADLINE;
    while !is_so() {
        assert!(tokio::time::Instant::now() < deadline);
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn ten_checkpoints_at_once_are_one_row_and_ten_acknowledgements() {
    let (_gateway, address, store) = gateway().await;
    let mut client = ann(&address).await;
    let all: Vec<String> = (1..=10)
        .map(|number| format!(r#"42{number}["session:checkpoint",{{"n":{number}}}]"#))
        .collect();
    let all: Vec<&str> = all.iter().map(String::as_str).collect();
    client.send_all(&all).await;
    for number in 1..=10 {
        let ack = client.hear(&format!("43{number}[")).await;
        let expected = format!(r#"43{number}[{{"ok":true,"version":{number}}}]"#);
        assert_eq!(ack, expected);
    }
    assert_eq!(store.0.writes.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn what_was_said_just_now_is_there_for_who_comes_just_then() {
    let (_gateway, address, store) = gateway().await;
    let mut first = ann(&address).await;
    first.send(r#"421["session:checkpoint",{"n":1}]"#).await;
    first.hear("431[").await;
    first.send(r#"422["session:checkpoint",{"n":2}]"#).await;
    first.send(r#"423["ping"]"#).await;
    first.hear("433[").await;
    // The second has not been written when this one comes.
    let mut second = ann(&address).await;
    let resumed = second.hear("session:resume").await;
    assert!(resumed.contains(r#""metadata":{"n":2}"#), "{resumed}");
    first.hear("432[").await;
    assert_eq!(store.0.writes.load(Ordering::Relaxed), 2);
}

#[tokio::test]
async fn who_comes_while_the_other_socket_ends_hears_of_its_rooms() {
    let (gateway, address, store) = gateway().await;
    store.0.has_one_of_ann().await;
    let mut first = ann(&address).await;
    first.hear("session:resume").await;
    first.send(r#"421["join","news"]"#).await;
    first.hear("431[").await;
    let slow = store.0.slow.write().await;
    let asked = store.0.questions.load(Ordering::Relaxed);
    let mut second = ann(&address).await;
    until(|| store.0.questions.load(Ordering::Relaxed) > asked).await;
    drop(first);
    until(|| gateway.counts().sockets == 1).await;
    drop(slow);
    let resumed = second.hear("session:resume").await;
    assert!(resumed.contains(r#""rooms":["news"]"#), "{resumed}");
}

#[tokio::test]
async fn rooms_that_the_app_puts_everybody_into_do_not_hide_those_of_before() {
    let builder = Gateway::builder(config()).authenticator(Names);
    let joined = Arc::new(AtomicUsize::new(0));
    let count = joined.clone();
    let builder = builder.on_connect(move |socket: Socket| {
        let count = count.clone();
        async move {
            let _ = socket.join("lobby").await;
            count.fetch_add(1, Ordering::Relaxed);
        }
    });
    let store = Counting::default();
    let (gateway, address) = start(builder.store(store.clone())).await;
    // Who comes back does so before their end is written, while it is, and afterwards.
    for comes_meanwhile in [false, true] {
        let mut first = ann(&address).await;
        first.send(r#"421["session:checkpoint",{"n":1}]"#).await;
        first.hear("431[").await;
        first.send(r#"422["join","news"]"#).await;
        first.hear("432[").await;
        let writes = store.0.writes.load(Ordering::Relaxed);
        let slow = store.0.slow.write().await;
        drop(first);
        until(|| gateway.counts().sockets == 0).await;
        if comes_meanwhile {
            until(|| store.0.writes.load(Ordering::Relaxed) > writes).await;
        }
        let before = joined.load(Ordering::Relaxed);
        let mut next = ann(&address).await;
        until(|| joined.load(Ordering::Relaxed) > before).await;
        drop(slow);
        let resumed = next.hear("session:resume").await;
        assert!(resumed.contains(r#""news""#), "{resumed}");
        drop(next);
        until(|| gateway.counts().sockets == 0).await;
    }
}

#[tokio::test]
async fn where_the_store_is_away_it_is_said_and_nothing_is_kept_half() {
    let (_gateway, address, store) = gateway().await;
    let mut client = ann(&address).await;
    client.send(r#"421["session:checkpoint",{"n":1}]"#).await;
    client.hear("431[").await;
    store.0.fails.store(true, Ordering::Relaxed);
    client.send(r#"422["session:checkpoint",{"n":2}]"#).await;
    let refused = client.hear("432[").await;
    assert!(refused.contains("SAVE_FAILED"), "{refused}");
    store.0.fails.store(false, Ordering::Relaxed);
    let again = r#"423["session:checkpoint",{"m":3},{"ifVersion":1}]"#;
    client.send(again).await;
    let kept = client.hear("433[").await;
    assert_eq!(kept, r#"433[{"ok":true,"version":2}]"#);
    let mut second = ann(&address).await;
    let resumed = second.hear("session:resume").await;
    assert!(resumed.contains(r#""metadata":{"m":3,"n":1}"#), "{resumed}");
}

#[tokio::test]
async fn where_all_come_at_once_the_store_is_asked_again() {
    let (_gateway, address, store) = gateway().await;
    store.0.has_one_of_ann().await;
    store.0.overloaded.store(2, Ordering::Relaxed);
    let mut client = ann(&address).await;
    let resumed = client.hear("session:resume").await;
    assert!(resumed.contains(r#""metadata":{"n":1}"#), "{resumed}");
    assert_eq!(store.0.overloaded.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn who_keeps_nothing_costs_the_store_nothing_when_they_go() {
    let (gateway, address, store) = gateway().await;
    drop(ann(&address).await);
    until(|| gateway.counts().sockets == 0).await;
    gateway.drain().await;
    assert_eq!(store.0.writes.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn more_than_may_wait_is_refused_at_once() {
    let (_gateway, address, store) = gateway().await;
    let mut client = ann(&address).await;
    // However slowly the rest is sent, it all comes while the first is being written.
    let writing = store.0.slow.write().await;
    client.send(r#"421["session:checkpoint",{"n":1}]"#).await;
    until(|| store.0.writes.load(Ordering::Relaxed) == 1).await;
    // Each takes members away that are not there: much to say, and little to keep.
    let nothing = format!(r#"{{"{}":null}}"#, "x".repeat(60_000));
    let all: Vec<String> = (2..=20)
        .map(|number| format!(r#"42{number}["session:checkpoint",{nothing}]"#))
        .collect();
    let all: Vec<&str> = all.iter().map(String::as_str).collect();
    client.send_all(&all).await;
    let refused = client.hear("OVERLOADED").await;
    assert!(refused.starts_with("4319["), "{refused}");
    drop(writing);
    client.hear("431[").await;
}

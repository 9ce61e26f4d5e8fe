//! Messages in PostgreSQL by several gateways at once, and while it fails.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

mod support;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use heartline_core::auth::UserKey;
use heartline_core::store::{
    Channel, HistoryQuery, MessageStore, NewMessage, Start, StoreError, StoredMessage,
};
use heartline_store::{PostgresStore, PostgresUrl};
use support::{Link, Server};

/// How long a condition may take to come true.
const SOON: Duration = Duration::from_secs(60);

fn message(user: u64, conversation: u64, temp_id: &str) -> NewMessage {
    NewMessage {
        sender: Arc::new(UserKey {
            tenant_id: None,
            user_id: format!("u{user}").into(),
            user_type: None,
        }),
        channel: Channel::Conversation(format!("c{conversation}")),
        content: format!("{temp_id} of {user}"),
        temp_id: Some(temp_id.to_owned()),
        created_at: 7,
    }
}

async fn until(what: &str, condition: impl Fn() -> bool) {
    let end = Instant::now() + SOON;
    while !condition() {
        assert!(Instant::now() < end, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// All of a conversation, in its order.
async fn all(store: &PostgresStore, conversation: u64) -> Vec<StoredMessage> {
    let mut all: Vec<StoredMessage> = Vec::new();
    loop {
        let query = HistoryQuery {
            tenant: None,
            channel: Channel::Conversation(format!("c{conversation}")),
            from: Start::After(all.len() as u64),
            limit: 200,
            bytes: usize::MAX,
        };
        let history = store.history(query).await.unwrap();
        assert!(history.complete && history.floor == 0);
        all.extend(history.messages);
        if all.len() as u64 == history.head {
            return all;
        }
    }
}

/// What a gateway's senders saw: what was acknowledged, and what was told, in its order.
#[derive(Default)]
struct Seen {
    acknowledged: Mutex<HashMap<(String, String), StoredMessage>>,
    told: Mutex<Vec<StoredMessage>>,
    failed: AtomicUsize,
}

/// Sends messages one after the other, each again until it is acknowledged, until `enough`.
async fn send(store: Arc<PostgresStore>, user: u64, seen: Arc<Seen>, enough: Arc<AtomicBool>) {
    let mut number = 0;
    while !enough.load(Ordering::Relaxed) {
        let (conversation, temp_id) = (number % 5, format!("t{number}"));
        let stored = loop {
            let hear = seen.clone();
            let tell = move |message: &StoredMessage| {
                hear.told.lock().unwrap().push(message.clone());
            };
            let new = message(user, conversation, &temp_id);
            match store.append(new, Box::new(tell)).await {
                Ok(stored) => break stored,
                Err(StoreError::Failed(_)) => {
                    seen.failed.fetch_add(1, Ordering::Relaxed);
                    tokio::task::yield_now().await;
                }
                Err(StoreError::Overloaded) => panic!("so few messages are not too many"),
            }
        };
        let key = (format!("u{user}"), temp_id);
        let mut acknowledged = seen.acknowledged.lock().unwrap();
        acknowledged.insert(key, stored.message);
        number += 1;
    }
}

/// Everything is there once and in its place, and was told at most once.
async fn check(store: &PostgresStore, gateways: &[Arc<Seen>]) {
    let mut kept = HashMap::new();
    for conversation in 0..5 {
        let messages = all(store, conversation).await;
        for (index, message) in messages.into_iter().enumerate() {
            assert_eq!(message.offset, index as u64 + 1);
            let key = (message.sender_id.clone(), message.temp_id.clone().unwrap());
            let conversation = message.conversation_id.clone();
            assert!(
                kept.insert(key, message).is_none(),
                "twice in {conversation}"
            );
        }
    }
    let mut told = HashMap::new();
    for seen in gateways {
        for (key, message) in seen.acknowledged.lock().unwrap().iter() {
            assert_eq!(kept.get(key), Some(message));
        }
        let mut last: HashMap<String, u64> = HashMap::new();
        for message in seen.told.lock().unwrap().iter() {
            let before = last.insert(message.conversation_id.clone(), message.offset);
            assert!(before.is_none_or(|before| before < message.offset));
            assert!(told.insert(message.id.clone(), ()).is_none(), "told twice");
        }
    }
    assert_eq!(told.len(), kept.len(), "all that is kept was told");
}

#[test]
fn two_gateways_that_write_the_same_conversations_leave_no_gap_and_wait_for_each_other() {
    let server = Server::start();
    let runtime = support::runtime();
    runtime.block_on(async {
        let stores = [Arc::new(server.open().await), Arc::new(server.open().await)];
        let (seen, enough) = (Arc::new(Seen::default()), Arc::new(AtomicBool::new(false)));
        let other = Arc::new(Seen::default());
        let mut tasks = Vec::new();
        for user in 0..24 {
            // Every third sends everything by both: the same tempIds at the same time.
            let by: &[usize] = [&[0][..], &[1], &[0, 1]][user as usize % 3];
            for gateway in by {
                let seen = [&seen, &other][*gateway].clone();
                let store = stores[*gateway].clone();
                tasks.push(tokio::spawn(send(store, user, seen, enough.clone())));
            }
        }
        let count = |seen: &Seen| seen.acknowledged.lock().unwrap().len();
        until("messages by both", || {
            count(&seen) > 2_000 && count(&other) > 2_000
        })
        .await;
        enough.store(true, Ordering::Relaxed);
        for task in tasks {
            task.await.unwrap();
        }
        for seen in [&seen, &other] {
            assert_eq!(seen.failed.load(Ordering::Relaxed), 0);
        }
        check(&stores[0], &[seen, other]).await;
        let client = server.client().await;
        let deadlocks = "SELECT sum(deadlocks)::bigint FROM pg_stat_database";
        let row = client.query_one(deadlocks, &[]).await.unwrap();
        assert_eq!(row.get::<_, i64>(0), 0);
    });
}

#[test]
fn what_was_acknowledged_is_there_once_after_postgres_crashed_under_load() {
    let server = Server::start();
    let runtime = support::runtime();
    runtime.block_on(async {
        let store = Arc::new(server.open().await);
        let (seen, enough) = (Arc::new(Seen::default()), Arc::new(AtomicBool::new(false)));
        let sender = |user| tokio::spawn(send(store.clone(), user, seen.clone(), enough.clone()));
        let tasks: Vec<_> = (0..24).map(sender).collect();
        let count = || seen.acknowledged.lock().unwrap().len();
        for _ in 0..4 {
            let before = count();
            until("messages under way", || count() > before + 400).await;
            server.stop("immediate");
            until("it is noticed", || store.is_in_trouble()).await;
            let waits = count();
            server.up();
            until("they go on", || count() > waits + 100).await;
        }
        enough.store(true, Ordering::Relaxed);
        for task in tasks {
            task.await.unwrap();
        }
        // One lane may go on before another has its connection again.
        until("all lanes go on", || !store.is_in_trouble()).await;
        check(&store, &[seen]).await;
    });
}

#[test]
fn what_was_stored_though_its_answer_was_lost_is_there_once_and_told_once() {
    let server = Server::start();
    let runtime = support::runtime();
    runtime.block_on(async {
        let link = Link::to(&server).await;
        let store = Arc::new(server.open_by(&link).await);
        let (seen, enough) = (Arc::new(Seen::default()), Arc::new(AtomicBool::new(false)));
        let sender = |user| tokio::spawn(send(store.clone(), user, seen.clone(), enough.clone()));
        let tasks: Vec<_> = (0..24).map(sender).collect();
        let count = || seen.acknowledged.lock().unwrap().len();
        for _ in 0..10 {
            let before = count();
            until("messages under way", || count() > before + 50).await;
            link.lose_answers(true);
            until("it is noticed", || store.is_in_trouble()).await;
            link.lose_answers(false);
        }
        enough.store(true, Ordering::Relaxed);
        for task in tasks {
            task.await.unwrap();
        }
        assert_eq!(seen.failed.load(Ordering::Relaxed), 0);
        check(&store, &[seen]).await;
    });
}

#[test]
fn while_postgres_is_away_messages_wait_up_to_a_bound_and_are_stored_when_it_is_back() {
    let server = Server::start();
    let runtime = support::runtime();
    runtime.block_on(async {
        let store = server.open().await;
        let client = server.client().await;
        let lanes = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'heartline'";
        let end = Instant::now() + SOON;
        while client.query_one(lanes, &[]).await.unwrap().get::<_, i64>(0) < 4 {
            assert!(Instant::now() < end, "not all lanes have come");
        }
        server.stop("fast");
        until("it is noticed while nothing is sent", || {
            store.is_in_trouble()
        })
        .await;
        let mut waiting = Vec::new();
        let full = loop {
            let number = waiting.len();
            let mut new = message(1, 1, &format!("t{number}"));
            new.content = "x".repeat(40_000);
            let mut stored = store.append(new, Box::new(|_| ()));
            let at_once = std::future::poll_fn(|context| {
                std::task::Poll::Ready(stored.as_mut().poll(context))
            });
            match at_once.await {
                std::task::Poll::Ready(answer) => break answer,
                std::task::Poll::Pending => waiting.push(stored),
            }
        };
        assert!(matches!(full, Err(StoreError::Overloaded)), "{full:?}");
        assert!(waiting.len() > 300, "{}", waiting.len());
        server.up();
        for (index, stored) in waiting.into_iter().enumerate() {
            assert_eq!(stored.await.unwrap().message.offset, index as u64 + 1);
        }
    });
}

#[test]
fn a_message_that_cannot_be_kept_costs_those_it_waits_with_nothing() {
    let server = Server::start();
    let runtime = support::runtime();
    runtime.block_on(async {
        let store = server.open().await;
        let answers: Vec<_> = (0..50)
            .map(|number| {
                let mut new = message(number % 3, 1, &format!("t{number}"));
                if number % 10 == 5 {
                    new.content = "no text of PostgreSQL: \0".into();
                }
                store.append(new, Box::new(|_| ()))
            })
            .collect();
        let mut kept = 0;
        for (number, answer) in answers.into_iter().enumerate() {
            match answer.await {
                Ok(stored) => {
                    kept += 1;
                    assert_eq!(stored.message.offset, kept);
                }
                Err(error) => assert_eq!(number % 10, 5, "{error}"),
            }
        }
        assert_eq!(kept, 45);
        assert!(!store.is_in_trouble());
    });
}

#[test]
fn a_server_that_lets_nobody_in_or_has_newer_tables_is_said_at_the_start() {
    let server = Server::start();
    let runtime = support::runtime();
    runtime.block_on(async {
        let open = |url: String| async move {
            let url = PostgresUrl::parse(&url).unwrap();
            PostgresStore::open(&url).await.err().unwrap().to_string()
        };
        let look = || async {
            let url = PostgresUrl::parse(server.url()).unwrap();
            let looked = PostgresStore::look(&url).await;
            looked.map(|looked| (looked.version, looked.version == looked.known))
        };
        assert_eq!(look().await.unwrap(), (0, false), "and none are made");
        assert_eq!(look().await.unwrap().0, 0);
        let wrong = open(server.url().replace("secret", "wrong")).await;
        assert!(wrong.contains("password authentication failed"), "{wrong}");
        let missing = open(format!("{}x", server.url())).await;
        assert!(missing.contains("does not exist"), "{missing}");
        let encrypted = open(format!("{}?sslmode=require", server.url())).await;
        assert!(encrypted.contains("TLS"), "{encrypted}");
        for wrong in [&wrong, &missing, &encrypted] {
            assert!(
                !wrong.contains("secret") && !wrong.contains("heartline:"),
                "{wrong}"
            );
        }
        // Two that start together make the tables once.
        let (first, second) = tokio::join!(server.open(), server.open());
        first.close().await;
        second.close().await;
        assert!(look().await.unwrap().1);
        let newer = "INSERT INTO heartline.migration (version) VALUES (1000)";
        server.client().await.batch_execute(newer).await.unwrap();
        let refused = open(server.url().to_owned()).await;
        assert!(
            refused.contains("newer Heartline (schema 1000"),
            "{refused}"
        );
        let looked = look().await.err().unwrap().to_string();
        assert!(looked.contains("newer Heartline"), "{looked}");
    });
}

#[test]
fn a_way_that_is_to_be_encrypted_is_and_a_server_that_is_to_be_verified_is() {
    let server = Server::start();
    server.encrypt();
    let runtime = support::runtime();
    runtime.block_on(async {
        let server = &server;
        let open = |query: String| async move {
            let url = format!("{}?connect_timeout=5&{query}", server.url());
            let opened = PostgresStore::open(&PostgresUrl::parse(&url).unwrap()).await;
            let encrypted = "SELECT count(*) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid)
                WHERE application_name = 'heartline' AND ssl";
            match opened {
                Ok(store) => {
                    let client = server.client().await;
                    let row = client.query_one(encrypted, &[]).await.unwrap();
                    store.close().await;
                    Ok(row.get::<_, i64>(0) > 0)
                }
                Err(error) => Err(error.to_string()),
            }
        };
        let ca = server.folder().join("ca.pem");
        assert_eq!(open("sslmode=require".into()).await, Ok(true));
        assert_eq!(open("sslmode=disable".into()).await, Ok(false));
        let verified = format!("sslmode=verify-full&sslrootcert={}", ca.display());
        assert_eq!(open(verified).await, Ok(true));
        let stranger = open("sslmode=verify-full".into()).await.unwrap_err();
        assert!(stranger.contains("certificate"), "{stranger}");
        assert!(stranger.contains("sslmode in store.url"), "{stranger}");
    });
}

#[test]
fn a_job_is_one_gateways_at_a_time_and_others_know_when_it_was_done() {
    let server = Server::start();
    let runtime = support::runtime();
    runtime.block_on(async {
        let (a, b) = (server.open().await, server.open().await);
        let take = |store: &PostgresStore, owner: &str, now, until| {
            let taken = store.take_job("clean", owner, now, until);
            async move { taken.await.unwrap() }
        };
        assert_eq!(take(&a, "a", 10, 20).await, (None, true));
        assert_eq!(take(&b, "b", 19, 30).await, (None, false));
        assert_eq!(take(&a, "a", 19, 29).await, (None, true));
        b.end_job("clean", "b", Some(24)).await.unwrap();
        assert_eq!(take(&b, "b", 25, 35).await, (None, false));
        a.end_job("clean", "a", Some(25)).await.unwrap();
        assert_eq!(take(&b, "b", 26, 36).await, (Some(25), true));
        b.end_job("clean", "b", None).await.unwrap();
        assert_eq!(take(&a, "a", 27, 37).await, (Some(25), true));
        assert_eq!(take(&b, "b", 37, 47).await, (Some(25), true));
        // A gateway whose clock was ahead took it, for no longer than others do.
        assert_eq!(take(&b, "b", 1_037, 1_047).await, (Some(25), true));
        assert_eq!(take(&a, "a", 37, 47).await, (Some(25), true));
        assert_eq!(take(&b, "b", 38, 48).await, (Some(25), false));
    });
}

#[test]
fn a_message_whose_sender_was_told_that_it_failed_long_ago_does_not_appear_later() {
    let server = Server::start();
    let runtime = support::runtime();
    runtime.block_on(async {
        let store = server.open().await;
        server.stop("fast");
        until("it is noticed", || store.is_in_trouble()).await;
        let given_up = store.append(message(1, 1, "given up"), Box::new(|_| ()));
        let waits = store.append(message(1, 1, "waits"), Box::new(|_| ()));
        // As long as a sender waits.
        assert!(
            tokio::time::timeout(Duration::from_secs(11), given_up)
                .await
                .is_err()
        );
        server.up();
        assert_eq!(waits.await.unwrap().message.offset, 1);
        let kept = all(&store, 1).await;
        assert_eq!(kept.len(), 1);
    });
}

#[test]
fn a_host_that_is_gone_without_a_word_keeps_no_question_from_the_next() {
    let server = Server::start();
    let runtime = support::runtime();
    runtime.block_on(async {
        // Nobody accepts, and what is more than may wait gets no answer at all.
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let gone = socket.listen(1).unwrap();
        let address = gone.local_addr().unwrap();
        let moment = Duration::from_millis(300);
        let mut waiting = Vec::new();
        while let Ok(one) =
            tokio::time::timeout(moment, tokio::net::TcpStream::connect(address)).await
        {
            waiting.push(one.unwrap());
            assert!(waiting.len() < 100);
        }
        let store = server.open_after(address).await;
        assert!(all(&store, 1).await.is_empty());
        store.close().await;
    });
}

#[test]
fn an_end_does_not_wait_for_ever_for_a_server_that_is_away() {
    let server = Server::start();
    let runtime = support::runtime();
    runtime.block_on(async {
        let store = server.open().await;
        server.stop("immediate");
        let stored = store.append(message(1, 1, "t"), Box::new(|_| ()));
        let start = Instant::now();
        store.close().await;
        assert!(start.elapsed() < SOON);
        assert!(matches!(stored.await, Err(StoreError::Failed(_))));
    });
}

#[test]
fn one_message_after_the_other_is_one_commit_each_and_many_at_once_share_them() {
    let server = Server::start();
    support::runtime().block_on(async {
        let store = Arc::new(server.open_locally().await);
        let client = server.client().await;
        // Each transaction that writes has a number; looking has none.
        let count = || async {
            let sql = "SELECT txid_snapshot_xmax(txid_current_snapshot())";
            client.query_one(sql, &[]).await.unwrap().get::<_, i64>(0)
        };
        let send =
            |number: usize| store.append(message(1, 1, &number.to_string()), Box::new(|_| ()));
        send(0).await.unwrap();
        let before = count().await;
        for number in 1..=30 {
            send(number).await.unwrap();
        }
        assert_eq!(count().await - before, 30);
        let before = count().await;
        let all: Vec<_> = (100..400)
            .map(|number| tokio::spawn(send(number)))
            .collect();
        for stored in all {
            stored.await.unwrap().unwrap();
        }
        assert!(count().await - before < 100);
    });
}

#[test]
fn a_message_whose_commit_failed_is_refused_and_stored_when_it_is_sent_again() {
    let server = Server::start();
    support::runtime().block_on(async {
        let store = server.open_locally().await;
        let client = server.client().await;
        let (told, hear) = (Arc::new(AtomicUsize::new(0)), |told: &Arc<AtomicUsize>| {
            let told = told.clone();
            move |_: &StoredMessage| {
                told.fetch_add(1, Ordering::Relaxed);
            }
        });
        let send = |temp_id| store.append(message(1, 1, temp_id), Box::new(hear(&told)));
        assert_eq!(send("first").await.unwrap().message.offset, 1);
        // What it says when the disk has failed, at the commit.
        let fails = "CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS
                $$ BEGIN RAISE 'could not fsync file' USING ERRCODE = '58030'; END $$;
            CREATE CONSTRAINT TRIGGER fails AFTER INSERT ON heartline.message
                DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION fail()";
        client.batch_execute(fails).await.unwrap();
        let refused = send("second").await;
        assert!(matches!(&refused, Err(StoreError::Failed(what)) if what.contains("58030")));
        assert!(store.is_in_trouble() && told.load(Ordering::Relaxed) == 1);
        let mended = "DROP TRIGGER fails ON heartline.message";
        client.batch_execute(mended).await.unwrap();
        let again = send("second").await.unwrap();
        assert_eq!((again.message.offset, again.duplicate), (2, false));
        assert!(!store.is_in_trouble() && told.load(Ordering::Relaxed) == 2);
        assert_eq!(all(&store, 1).await.len(), 2);
    });
}

#[test]
fn a_proxy_that_forgets_statements_is_refused_at_the_start_and_one_that_does_not_is_used() {
    let server = Server::start();
    support::runtime().block_on(async {
        let by_transaction = server.pool("transaction").await;
        let refusals = [
            PostgresStore::open(&by_transaction)
                .await
                .err()
                .unwrap()
                .to_string(),
            PostgresStore::look(&by_transaction)
                .await
                .err()
                .unwrap()
                .to_string(),
        ];
        for refused in refusals {
            assert!(refused.contains("by transaction and forgets prepared statements"));
            assert!(refused.contains("pool_mode = session"), "{refused}");
        }
    });
    let server = Server::start();
    support::runtime().block_on(async {
        let by_session = server.pool("session").await;
        PostgresStore::look(&by_session).await.unwrap();
        let store = Arc::new(PostgresStore::open(&by_session).await.unwrap());
        // On all lanes at once.
        let senders = (0..40).map(|number: u64| {
            let store = store.clone();
            tokio::spawn(async move {
                let new = message(number, number % 10, "one");
                store.append(new, Box::new(|_| ())).await.unwrap();
            })
        });
        for sender in senders.collect::<Vec<_>>() {
            sender.await.unwrap();
        }
        for conversation in 0..10 {
            assert_eq!(all(&store, conversation).await.len(), 4);
        }
    });
}

#[test]
fn settings_by_which_what_was_acknowledged_may_be_lost_are_said() {
    let server = Server::start();
    support::runtime().block_on(async {
        let url = PostgresUrl::parse(server.url()).unwrap();
        let warnings = || async { PostgresStore::look(&url).await.unwrap().warnings };
        assert_eq!(warnings().await, [] as [&str; 0]);
        // Its clock is this machine's.
        let ahead = PostgresStore::look(&url).await.unwrap().ahead;
        assert!(ahead.is_some_and(|ahead| ahead.abs() < 1000), "{ahead:?}");
        let client = server.client().await;
        for set in [
            "fsync = off",
            "full_page_writes = off",
            "data_sync_retry = on",
        ] {
            let set = format!("ALTER SYSTEM SET {set}");
            client.batch_execute(&set).await.unwrap();
        }
        server.stop("fast");
        server.up();
        let said = warnings().await;
        let names = [
            "fsync = off",
            "full_page_writes = off",
            "data_sync_retry = on",
        ];
        assert_eq!(said.len(), names.len());
        for (said, name) in said.iter().zip(names) {
            assert!(
                said.contains(name) && said.contains("may be lost"),
                "{said}"
            );
        }
    });
}

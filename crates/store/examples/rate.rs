//! How many messages a second are stored, and what one transaction for all that waits gains
//! over one for each: `cargo run --release -p heartline-store --example rate [SECONDS [URL]]`.
//! URL is a database of PostgreSQL for this alone: its schema `heartline` is filled.

#![allow(
    clippy::unwrap_used,
    reason = "a measurement that cannot go on should stop"
)]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, UNIX_EPOCH};

use heartline_core::auth::UserKey;
use heartline_core::store::{Channel, MessageStore, NewMessage};
use heartline_store::{PostgresStore, PostgresUrl, SqliteStore};

/// Messages of 100 bytes by 1 000 users in 200 conversations.
fn message(number: u64) -> NewMessage {
    NewMessage {
        sender: Arc::new(UserKey {
            tenant_id: None,
            user_id: format!("user-{}", number % 1_000).into(),
            user_type: None,
        }),
        channel: Channel::Conversation(format!("c{}", number % 200)),
        content: "x".repeat(100),
        temp_id: Some(format!(
            "{:016x}",
            number.wrapping_mul(0x9e37_79b9_7f4a_7c15)
        )),
        created_at: number,
    }
}

/// What a run found: messages a second, and half of the times and nearly all of them.
type Figures = (f64, Duration, Duration);

async fn sqlite(in_flight: usize, time: Duration) -> Figures {
    let folder = std::env::temp_dir().join(format!("heartline-rate-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir(&folder).unwrap();
    let store = SqliteStore::open(&folder.join("rate.db")).unwrap();
    let figures = measure(Arc::new(store), in_flight, time).await;
    std::fs::remove_dir_all(&folder).unwrap();
    figures
}

async fn measure(store: Arc<dyn MessageStore>, in_flight: usize, time: Duration) -> Figures {
    // In a database that stays no key comes twice.
    let next = UNIX_EPOCH.elapsed().unwrap().as_micros() as u64;
    let next = Arc::new(AtomicU64::new(next));
    let start = Instant::now();
    let senders: Vec<_> = (0..in_flight)
        .map(|_| {
            let (store, next) = (store.clone(), next.clone());
            tokio::spawn(async move {
                let mut times = Vec::new();
                while start.elapsed() < time {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    let begin = Instant::now();
                    store
                        .append(message(number), Box::new(|_| ()))
                        .await
                        .unwrap();
                    times.push(begin.elapsed());
                }
                times
            })
        })
        .collect();
    let mut times = Vec::new();
    for sender in senders {
        times.append(&mut sender.await.unwrap());
    }
    let rate = times.len() as f64 / start.elapsed().as_secs_f64();
    times.sort();
    store.close().await;
    (rate, times[times.len() / 2], times[times.len() * 99 / 100])
}

#[tokio::main(flavor = "multi_thread", worker_threads = 1)]
async fn main() {
    let mut arguments = std::env::args().skip(1);
    let seconds = arguments.next().map_or(3, |text| text.parse().unwrap());
    let url = arguments
        .next()
        .map(|url| PostgresUrl::parse(&url).unwrap());
    let time = Duration::from_secs(seconds);
    // With one in flight each message is a transaction of its own.
    let mut single = None;
    for in_flight in [1, 16, 64, 256, 1_024] {
        let (rate, half, most) = match &url {
            None => sqlite(in_flight, time).await,
            Some(url) => {
                let store = PostgresStore::open(url).await.unwrap();
                measure(Arc::new(store), in_flight, time).await
            }
        };
        let single = *single.get_or_insert(rate);
        println!(
            "{in_flight:>5} in flight: {rate:>7.0} messages/s ({:>5.1} x), p50 {half:.1?}, p99 {most:.1?}",
            rate / single
        );
    }
}

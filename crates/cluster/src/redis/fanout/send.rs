//! Publications on their way to other nodes: a bounded queue, and the loop that empties
//! it, many in one write.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use redis::RedisError;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::counters::Counters;
use super::driver::{Driver, Outgoing, Recipients};

/// Publications that wait to be sent, and their bytes: a server that is away must not
/// take this process's memory.
pub(super) const MAX_QUEUED: usize = 65_536;
pub(super) const MAX_QUEUED_BYTES: usize = 64 << 20;
/// Publications in one write.
const MAX_PER_WRITE: usize = 256;
/// How long a publication may wait for the server before it is given up.
pub(super) const MAX_WAIT: Duration = Duration::from_secs(2);
/// Pauses before a write that failed is tried again.
const FIRST_PAUSE: Duration = Duration::from_millis(10);
const MAX_PAUSE: Duration = Duration::from_millis(250);

/// Where publications are put in line.
pub(super) struct Outbox {
    queue: mpsc::UnboundedSender<Outgoing>,
    backlog: Arc<Backlog>,
    counters: Arc<Counters>,
}

/// What waits, or is being sent.
#[derive(Default)]
struct Backlog {
    count: AtomicUsize,
    bytes: AtomicUsize,
}

impl Backlog {
    fn release(&self, count: usize, bytes: usize) {
        self.count.fetch_sub(count, Ordering::Relaxed);
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// What [`Fanout::run`](super::Fanout::run) reads from.
pub struct Queue {
    queue: mpsc::UnboundedReceiver<Outgoing>,
    backlog: Arc<Backlog>,
    counters: Arc<Counters>,
}

/// A queue's two ends.
pub(super) fn queue(counters: &Arc<Counters>) -> (Outbox, Queue) {
    let (sender, receiver) = mpsc::unbounded_channel();
    let backlog: Arc<Backlog> = Arc::default();
    let outbox = Outbox {
        queue: sender,
        backlog: backlog.clone(),
        counters: counters.clone(),
    };
    let queue = Queue {
        queue: receiver,
        backlog,
        counters: counters.clone(),
    };
    (outbox, queue)
}

impl Outbox {
    /// Publications that wait to be sent.
    pub(super) fn queued(&self) -> usize {
        self.backlog.count.load(Ordering::Relaxed)
    }

    /// Puts a publication in line. One that does not fit is counted as undelivered.
    pub(super) fn push(&self, to: Recipients, bytes: Vec<u8>) {
        let size = bytes.len();
        let queued = self.backlog.count.fetch_add(1, Ordering::Relaxed);
        let queued_bytes = self.backlog.bytes.fetch_add(size, Ordering::Relaxed);
        let outgoing = Outgoing {
            to,
            bytes,
            at: Instant::now(),
        };
        if queued >= MAX_QUEUED
            || queued_bytes >= MAX_QUEUED_BYTES
            || self.queue.send(outgoing).is_err()
        {
            self.backlog.release(1, size);
            self.counters.undelivered.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Queue {
    /// Sends what is put in line, until nobody can put anything there any more.
    pub(super) async fn send_all(mut self, driver: &impl Driver) {
        let mut batch: Vec<Outgoing> = Vec::with_capacity(MAX_PER_WRITE);
        while self.queue.recv_many(&mut batch, MAX_PER_WRITE).await > 0 {
            self.send(driver, &mut batch).await;
            self.backlog.release(batch.len(), bytes_of(&batch));
            batch.clear();
        }
    }

    /// Sends a batch, again and again until it is sent or too old.
    async fn send(&self, driver: &impl Driver, batch: &mut Vec<Outgoing>) {
        let mut pause = FIRST_PAUSE;
        while let Err(error) = driver.send(batch).await {
            self.counters.errors.fetch_add(1, Ordering::Relaxed);
            self.drop_old(batch, &error);
            if batch.is_empty() {
                return;
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(MAX_PAUSE);
        }
        let sent = batch.len() as u64;
        self.counters.sent.fetch_add(sent, Ordering::Relaxed);
    }

    /// Gives up what has waited for too long.
    fn drop_old(&self, batch: &mut Vec<Outgoing>, error: &RedisError) {
        let is_old = |outgoing: &mut Outgoing| outgoing.at.elapsed() >= MAX_WAIT;
        let old: Vec<Outgoing> = batch.extract_if(.., is_old).collect();
        if !old.is_empty() {
            let lost = old.len() as u64;
            self.counters.undelivered.fetch_add(lost, Ordering::Relaxed);
            self.counters
                .complain(error, "publications did not reach other nodes");
        }
        self.backlog.release(old.len(), bytes_of(&old));
    }
}

fn bytes_of(batch: &[Outgoing]) -> usize {
    batch.iter().map(|outgoing| outgoing.bytes.len()).sum()
}

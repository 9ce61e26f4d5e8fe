//! Publications on their way to other nodes: a bounded queue, and the loop that empties
//! it, many in one write.
//!
//! Each publication has a number, and that of the one before it in its channel, so whoever
//! hears the next one sees what was lost. What is given up here, for its age or for want of
//! room, is remembered until the server takes publications again; then a mark says it where
//! no next publication may come.

use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hashbrown::HashMap;
use redis::RedisError;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::counters::Counters;
use super::driver::{Driver, Outgoing, Recipients, Unsent};
use crate::envelope::{self, Origin};
use crate::locked::locked;
use crate::seal::Seal;

/// Publications that wait to be sent, and their bytes: a server that is away must not
/// take this process's memory.
pub(super) const MAX_QUEUED: usize = 65_536;
pub(super) const MAX_QUEUED_BYTES: usize = 64 << 20;
/// Publications in one write.
const MAX_PER_WRITE: usize = 256;
/// How long a publication may wait for the server before it is given up: later it would be
/// taken for news.
pub(super) const MAX_WAIT: Duration = Duration::from_secs(2);
/// Pauses before a write that failed is tried again.
const FIRST_PAUSE: Duration = Duration::from_millis(10);
const MAX_PAUSE: Duration = Duration::from_millis(250);
/// Channels whose last number is remembered, some megabytes. When there are more, all are
/// forgotten: a publication that is lost on the way just then goes unnoticed, one that is given
/// up here does not.
const MAX_CHANNELS: usize = 65_536;
/// Recipients that are owed a mark. When there are more, everybody is.
pub(super) const MAX_OWED: usize = 4096;

/// What is told when publications are given up: in which channel (`None`: in any), and the
/// last one's number.
pub(super) type GivenUp<'a> = dyn Fn(Option<&str>, u64) + Send + Sync + 'a;

#[derive(Default)]
struct Line {
    waiting: VecDeque<Outgoing>,
    /// What waits or is being sent, and its bytes.
    count: usize,
    bytes: usize,
    /// The last publication's number.
    number: u64,
    /// The last one's in each channel.
    last: HashMap<String, u64>,
    /// Who has lost publications and does not know it, and the number of the last.
    owed: HashMap<Recipients, u64>,
    /// Of these, what this node has not looked at itself.
    given_up: Vec<(Option<String>, u64)>,
}

/// Where publications are put in line.
pub(super) struct Outbox {
    tag: u32,
    /// By which everybody is told.
    everybody: Recipients,
    seal: Arc<Seal>,
    /// What is signed instead of a channel where each process of a user has its own.
    users: String,
    line: Mutex<Line>,
    work: Notify,
    counters: Arc<Counters>,
}

/// What [`Fanout::run`](super::Fanout::run) reads from.
pub struct Queue(Arc<Outbox>);

/// A queue's two ends. `everybody` is the channel that all nodes hear, `users` what the names of
/// those begin with by which processes are told what is for users.
pub(super) fn queue(
    tag: u32,
    (everybody, users): (String, String),
    seal: Arc<Seal>,
    counters: &Arc<Counters>,
) -> (Arc<Outbox>, Queue) {
    let outbox = Arc::new(Outbox {
        tag,
        everybody: Recipients::Channel(everybody),
        seal,
        users,
        line: Mutex::default(),
        work: Notify::new(),
        counters: counters.clone(),
    });
    (outbox.clone(), Queue(outbox))
}

impl Line {
    /// The next publication's number, and the one before it in its channel.
    fn number(&mut self, to: &Recipients) -> (u64, u64) {
        self.number += 1;
        let (Recipients::Room(channel) | Recipients::Channel(channel)) = to else {
            return (self.number, 0);
        };
        if let Some(last) = self.last.get_mut(channel) {
            return (self.number, std::mem::replace(last, self.number));
        }
        if self.last.len() >= MAX_CHANNELS {
            self.last.clear();
        }
        self.last.insert(channel.clone(), self.number);
        (self.number, 0)
    }

    /// Takes it out of the account: it was sent, or is lost.
    fn release(&mut self, outgoing: &Outgoing) {
        self.count -= 1;
        self.bytes -= outgoing.bytes.len();
    }

    /// Remembers what is lost.
    fn lose(&mut self, outgoing: Outgoing, everybody: &Recipients) {
        self.release(&outgoing);
        let Some(number) = outgoing.number else {
            return;
        };
        if let Recipients::Room(channel) = &outgoing.to {
            match self.given_up.len() < MAX_OWED {
                true => self.given_up.push((Some(channel.clone()), number)),
                false => self.given_up = vec![(None, self.number)],
            }
        }
        self.owe(outgoing.to, number, everybody);
    }

    fn owe(&mut self, to: Recipients, number: u64, everybody: &Recipients) {
        if self.owed.len() >= MAX_OWED && !self.owed.contains_key(&to) {
            self.owed.clear();
            self.owed.insert(everybody.clone(), self.number);
        }
        let last = self.owed.entry(to).or_insert(number);
        *last = number.max(*last);
    }
}

impl Outbox {
    /// Publications that wait to be sent.
    pub(super) fn queued(&self) -> usize {
        locked(&self.line).count
    }

    /// Puts one of this node's publications in line; answers its number. What does not fit,
    /// the oldest first, is counted as undelivered.
    pub(super) fn publish(&self, to: Recipients, mut envelope: Vec<u8>) -> u64 {
        self.seal.prepare(&mut envelope);
        let mut line = locked(&self.line);
        let (number, after) = line.number(&to);
        envelope::stamp(&mut envelope, number, after);
        self.push(&mut line, to, envelope, Some(number));
        number
    }

    /// Puts something in line that others do not miss when it is lost.
    pub(super) fn say(&self, to: Recipients, bytes: Vec<u8>) {
        self.push(&mut locked(&self.line), to, bytes, None);
    }

    fn push(&self, line: &mut Line, to: Recipients, bytes: Vec<u8>, number: Option<u64>) {
        line.count += 1;
        line.bytes += bytes.len();
        line.waiting.push_back(Outgoing {
            to,
            bytes,
            at: Instant::now(),
            number,
        });
        while line.count > MAX_QUEUED || line.bytes > MAX_QUEUED_BYTES {
            let Some(oldest) = line.waiting.pop_front() else {
                break;
            };
            self.counters.undelivered.fetch_add(1, Ordering::Relaxed);
            line.lose(oldest, &self.everybody);
        }
        self.work.notify_one();
    }
}

impl Outbox {
    /// Signs what is on its way, once its numbers are known; it was prepared for that.
    fn sign(&self, to: &Recipients, bytes: &mut [u8]) {
        let place = match to {
            Recipients::Room(channel) | Recipients::Channel(channel) => channel,
            Recipients::User(_) => &self.users,
        };
        self.seal.sign(place, bytes);
    }
}

impl Queue {
    /// Sends what is put in line, until it is dropped.
    pub(super) async fn send_all(self, driver: &impl Driver, given_up: &GivenUp<'_>) {
        let mut batch: Vec<Outgoing> = Vec::with_capacity(MAX_PER_WRITE);
        let mut pause = FIRST_PAUSE;
        loop {
            self.next_batch(&mut batch);
            let was_empty = batch.is_empty();
            if !was_empty {
                // Here, where no shard waits for it. What has no number is for Socket.IO servers.
                for outgoing in batch.iter_mut().filter(|one| one.number.is_some()) {
                    self.0.sign(&outgoing.to, &mut outgoing.bytes);
                }
                self.send(driver, &mut batch).await;
                let mut line = locked(&self.0.line);
                batch.drain(..).for_each(|sent| line.release(&sent));
            }
            self.look_at_given_up(given_up);
            let owed = self.next_owed();
            if owed.is_empty() {
                if was_empty {
                    self.0.work.notified().await;
                }
                continue;
            }
            let marks: Vec<Outgoing> = owed.iter().map(|owed| self.mark(owed)).collect();
            if let Err(unsent) = driver.send(&marks).await {
                self.complain(&unsent.error);
                self.owe_again(owed);
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(MAX_PAUSE);
            } else {
                pause = FIRST_PAUSE;
            }
        }
    }

    /// The first in line; those that are too old are given up.
    fn next_batch(&self, batch: &mut Vec<Outgoing>) {
        let mut line = locked(&self.0.line);
        while batch.len() < MAX_PER_WRITE {
            let Some(outgoing) = line.waiting.pop_front() else {
                break;
            };
            match outgoing.at.elapsed() < MAX_WAIT {
                true => batch.push(outgoing),
                false => {
                    self.0.counters.undelivered.fetch_add(1, Ordering::Relaxed);
                    line.lose(outgoing, &self.0.everybody);
                }
            }
        }
    }

    /// Sends a batch, again and again until it is sent or too old.
    async fn send(&self, driver: &impl Driver, batch: &mut Vec<Outgoing>) {
        let mut pause = FIRST_PAUSE;
        while let Err(Unsent { error, is_begun }) = driver.send(batch).await {
            self.complain(&error);
            if is_begun {
                self.drop_unnumbered(batch);
            }
            self.drop_old(batch);
            if batch.is_empty() {
                return;
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(MAX_PAUSE);
        }
        let sent = batch.len() as u64;
        self.0.counters.sent.fetch_add(sent, Ordering::Relaxed);
    }

    fn complain(&self, error: &RedisError) {
        let counters = &self.0.counters;
        counters.errors.fetch_add(1, Ordering::Relaxed);
        counters.complain(error, "publications do not reach other nodes");
    }

    /// Gives up what has waited for too long.
    fn drop_old(&self, batch: &mut Vec<Outgoing>) {
        self.give_up(batch, |outgoing| outgoing.at.elapsed() >= MAX_WAIT);
    }

    /// Gives up what may have been sent, and would be heard twice if it were sent again: what is for
    /// Socket.IO servers. Their adapters bring each thing once or not at all, so that clients are
    /// made to miss some over an outage, and are not made to hear anything twice; and a second
    /// answer would count a node twice that was asked.
    fn drop_unnumbered(&self, batch: &mut Vec<Outgoing>) {
        self.give_up(batch, |outgoing| outgoing.number.is_none());
    }

    fn give_up(&self, batch: &mut Vec<Outgoing>, is_given_up: impl Fn(&Outgoing) -> bool) {
        let mut line = locked(&self.0.line);
        for old in batch.extract_if(.., |outgoing| is_given_up(outgoing)) {
            self.0.counters.undelivered.fetch_add(1, Ordering::Relaxed);
            line.lose(old, &self.0.everybody);
        }
    }

    fn look_at_given_up(&self, look: &GivenUp<'_>) {
        let given_up = std::mem::take(&mut locked(&self.0.line).given_up);
        for (channel, last) in given_up {
            look(channel.as_deref(), last);
        }
    }

    /// Some of those who are owed a mark. Everybody is the first: whoever hears that need not
    /// tell again what a room has lost.
    fn next_owed(&self) -> Vec<(Recipients, u64)> {
        let mut line = locked(&self.0.line);
        let everybody = line.owed.get_key_value(&self.0.everybody);
        let others = line.owed.keys().filter(|to| **to != self.0.everybody);
        let next = everybody.into_iter().map(|(to, _)| to).chain(others);
        let next: Vec<Recipients> = next.take(MAX_PER_WRITE).cloned().collect();
        let next = next.into_iter();
        next.filter_map(|to| line.owed.remove_entry(&to)).collect()
    }

    fn owe_again(&self, owed: Vec<(Recipients, u64)>) {
        let mut line = locked(&self.0.line);
        for (to, last) in owed {
            line.owe(to, last, &self.0.everybody);
        }
    }

    fn mark(&self, (to, last): &(Recipients, u64)) -> Outgoing {
        let mut line = locked(&self.0.line);
        // Whoever hears it twice knows it by its number.
        line.number += 1;
        let origin = Origin {
            tag: self.0.tag,
            number: line.number,
            after: *last,
        };
        let user = match to {
            Recipients::User(user) => Some(&**user),
            _ => None,
        };
        let mut bytes = envelope::mark(origin, user);
        self.0.seal.prepare(&mut bytes);
        self.0.sign(to, &mut bytes);
        Outgoing {
            to: to.clone(),
            bytes,
            at: Instant::now(),
            number: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use heartline_core::backplane::{Message, Target};

    use super::super::driver::Listener;
    use super::super::pubsub::RedisDriver;
    use super::*;

    /// A server that fails as often as there are `times`; each says whether some may have been sent.
    #[derive(Clone)]
    struct Failing {
        times: Arc<Mutex<VecDeque<bool>>>,
        writes: Arc<Mutex<Vec<String>>>,
    }

    impl Driver for Failing {
        type Link = <RedisDriver as Driver>::Link;

        async fn send(&self, batch: &[Outgoing]) -> Result<(), Unsent> {
            let texts = batch.iter().map(|outgoing| match outgoing.number {
                Some(number) => number.to_string(),
                None => String::from_utf8_lossy(&outgoing.bytes).into_owned(),
            });
            locked(&self.writes).push(texts.collect::<Vec<_>>().join(" "));
            let error = (redis::ErrorKind::Io, "it fails").into();
            match locked(&self.times).pop_front() {
                Some(is_begun) => Err(Unsent { error, is_begun }),
                None => Ok(()),
            }
        }

        async fn listen(&self, _: Listener) -> redis::RedisResult<Self::Link> {
            unreachable!("nobody listens")
        }
    }

    /// What was written, and how much was counted as sent and as undelivered, where three were to be
    /// sent and that has failed so.
    async fn sent(fails: &[bool]) -> (String, [u64; 2]) {
        let counters: Arc<Counters> = Arc::default();
        let names = ("all".into(), "users".into());
        let (outbox, queue) = queue(1, names, Arc::default(), &counters);
        let server = || Recipients::Channel("socket.io#/#".into());
        let origin = Origin {
            tag: 1,
            number: 0,
            after: 0,
        };
        let target = Target::Nodes;
        let envelope = envelope::encode(origin, &target, &Message::new("e", ""));
        outbox.say(server(), b"a".to_vec());
        outbox.publish(Recipients::Room("r".into()), envelope);
        outbox.say(server(), b"b".to_vec());
        let driver = Failing {
            times: Arc::new(Mutex::new(fails.iter().copied().collect())),
            writes: Arc::default(),
        };
        let is_sent = async {
            while outbox.queued() > 0 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        let given_up = |_: Option<&str>, _: u64| {};
        tokio::select! {
            () = queue.send_all(&driver, &given_up) => {}
            () = is_sent => {}
            () = tokio::time::sleep(Duration::from_secs(60)) => panic!("it is not sent"),
        }
        let counted = [&counters.sent, &counters.undelivered];
        let counted = counted.map(|counter| counter.load(Ordering::Relaxed));
        let writes = locked(&driver.writes).join(", ");
        (writes, counted)
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_for_socket_io_servers_is_not_sent_again_where_it_may_have_been() {
        let expected = |writes: &str, counted| (writes.to_owned(), counted);
        let all = sent(&[true, true]).await;
        assert_eq!(all, expected("a 1 b, 1, 1", [1, 2]));
        // Nobody was reached, and none of it was sent.
        let all = sent(&[false]).await;
        assert_eq!(all, expected("a 1 b, a 1 b", [3, 0]));
        let all = sent(&[false, true]).await;
        assert_eq!(all, expected("a 1 b, a 1 b, 1", [1, 2]));
    }
}

//! Limits that several connections share: messages of a user, connections of an address.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hash, RandomState};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use heartline_core::auth::UserKey;
use heartline_core::policy::{ConnectLimit, Limit};
use heartline_core::rate_limit::{KeyedLimiter, Verdict};
use heartline_engine::slots::address_group;
use heartline_wire::time::{Micros, micros};

/// Whose messages are counted together. A user's are, in all namespaces that have the same
/// limit; one with another limit counts for itself, or its window would be the other's.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Sender {
    User(Arc<UserKey>, Limit),
    Socket(heartline_core::presence::SocketAddress),
}

/// Who has named invites that there are not.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Guesser {
    User(Arc<UserKey>),
    Address(IpAddr),
}

impl Guesser {
    /// An address; of IPv6, the /64 that one subscriber has.
    pub(crate) fn at(address: IpAddr) -> Guesser {
        Guesser::Address(match address {
            IpAddr::V6(v6) => {
                let network = u128::from(v6) >> 64 << 64;
                v6.to_ipv4_mapped()
                    .map_or(IpAddr::V6(network.into()), IpAddr::V4)
            }
            v4 => v4,
        })
    }
}

/// So many failed resumes of an address, and for the rest of the minute its clients begin
/// afresh without a look at what they bring.
const FAILED_RESUMES: Limit = Limit::per(10, 60);

/// Wrong invites of a user, and of an address.
const GUESSES: Limit = Limit::per(10, 60);

/// So many messages are known by the names that their senders gave them, at least.
const SENT: usize = 16_384;

/// Messages that have been counted, by hashes of whose they are, where they went and the name
/// that their sender gave them, and whether each was in the store: who sends one again, because no
/// answer came, is not counted again. At most 2 × `SENT` entries of 16 bytes: about
/// 1 MB with what is free in their tables.
#[derive(Default)]
struct Sent {
    hashing: RandomState,
    newer: HashMap<u64, bool>,
    older: HashMap<u64, bool>,
}

impl Sent {
    /// Whether it was in the store at an earlier time.
    fn note(&mut self, message: impl Hash, is_stored: bool) -> bool {
        let hash = self.hashing.hash_one(message);
        let was_stored = self.find(hash) == Some(true);
        if self.newer.len() >= SENT {
            self.older = std::mem::take(&mut self.newer);
        }
        self.newer.insert(hash, is_stored || was_stored);
        was_stored
    }

    fn has(&self, message: impl Hash) -> bool {
        self.find(self.hashing.hash_one(message)).is_some()
    }

    fn find(&self, hash: u64) -> Option<bool> {
        let found = self.newer.get(&hash).or_else(|| self.older.get(&hash));
        found.copied()
    }
}

/// A refusal by a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct OverLimit {
    /// When it is worth trying again, milliseconds from now.
    pub(crate) retry_after_ms: u64,
    /// Refusals in a row, this one included.
    pub(crate) refused: u32,
}

/// What is counted for several connections together.
#[derive(Default)]
pub(crate) struct Limits {
    messages: KeyedLimiter<Sender>,
    connects: KeyedLimiter<IpAddr>,
    failed_resumes: KeyedLimiter<IpAddr>,
    guesses: KeyedLimiter<Guesser>,
    sent: Mutex<Sent>,
    /// Messages refused since the start.
    pub(crate) refused_messages: AtomicU64,
    /// Connections refused since the start.
    pub(crate) refused_connects: AtomicU64,
}

impl Limits {
    /// One more message of this sender, if the limit allows.
    pub(crate) fn take_message(
        &self,
        sender: Sender,
        limit: Limit,
        now: Micros,
    ) -> Result<(), OverLimit> {
        let taken = take(&self.messages, sender, limit, now);
        if taken.is_err() {
            self.refused_messages.fetch_add(1, Ordering::Relaxed);
        }
        taken
    }

    /// A message that has been counted is in the store, or may be. Whether it was there at an
    /// earlier time: if it is new there nevertheless, the store has forgotten that one.
    pub(crate) fn note_sent(&self, message: impl Hash, is_stored: bool) -> bool {
        self.sent().note(message, is_stored)
    }

    /// Whether a message is in the store already, or may be: it is told from others by the same
    /// things as in `note_sent`.
    pub(crate) fn was_sent(&self, message: impl Hash) -> bool {
        self.sent().has(message)
    }

    fn sent(&self) -> MutexGuard<'_, Sent> {
        self.sent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One more connection of this address, if the limit allows. By default loopback is
    /// spared: behind a proxy on the same machine everybody has that address. Whoever answers by a
    /// refusal counts it.
    pub(crate) fn take_connect(
        &self,
        ip: IpAddr,
        limit: ConnectLimit,
        now: Micros,
    ) -> Result<(), OverLimit> {
        let limit = match limit {
            ConnectLimit::Off => return Ok(()),
            ConnectLimit::Default if ip.is_loopback() => return Ok(()),
            ConnectLimit::Default => Limit::per(1000, 10),
            ConnectLimit::Limit(limit) => limit,
        };
        take(&self.connects, ip, limit, now)
    }

    /// Whether clients of this address may still try to go on where they were lost. Loopback is
    /// spared, as above.
    pub(crate) fn may_resume(&self, ip: IpAddr, now: Micros) -> bool {
        let ip = address_group(ip);
        ip.is_loopback() || self.failed_resumes.wait(&ip, FAILED_RESUMES, now).is_none()
    }

    /// A client has come with what it cannot have from this gateway, or with another user's.
    pub(crate) fn note_failed_resume(&self, ip: IpAddr, now: Micros) {
        let ip = address_group(ip);
        if !ip.is_loopback() {
            self.failed_resumes.take(ip, FAILED_RESUMES, now);
        }
    }

    /// Whether somebody may name one more invite, which may be wrong; else how long that takes,
    /// milliseconds.
    pub(crate) fn may_guess(&self, who: &[Guesser], now: Micros) -> Result<(), u64> {
        let wait = |guesser| self.guesses.wait(guesser, GUESSES, now);
        match who.iter().filter_map(wait).max() {
            Some(wait) => Err(micros(wait).div_ceil(1000)),
            None => Ok(()),
        }
    }

    /// The invite was wrong.
    pub(crate) fn guessed_wrong(&self, who: Vec<Guesser>, now: Micros) {
        for guesser in who {
            self.guesses.take(guesser, GUESSES, now);
        }
    }

    /// How many senders and addresses are remembered.
    pub(crate) fn entries(&self) -> usize {
        let addresses = self.connects.count() + self.failed_resumes.count();
        self.messages.count() + addresses + self.guesses.count()
    }

    /// Forgets those that have been quiet for long enough.
    pub(crate) fn forget_idle(&self, now: Micros) {
        self.messages.forget_idle(now);
        self.connects.forget_idle(now);
        self.failed_resumes.forget_idle(now);
        self.guesses.forget_idle(now);
    }
}

fn take<K: Hash + Eq>(
    limiter: &KeyedLimiter<K>,
    key: K,
    limit: Limit,
    now: Micros,
) -> Result<(), OverLimit> {
    match limiter.take(key, limit, now) {
        Verdict::Allowed => Ok(()),
        Verdict::Refused { again_in, refused } => Err(OverLimit {
            retry_after_ms: micros(again_in).div_ceil(1000),
            refused,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn after_ten_failed_resumes_an_address_has_to_wait_a_minute() {
        let limits = Limits::default();
        let at = |seconds: u64| Micros(seconds * 1_000_000);
        let [ip, other] = ["2001:db8::1", "192.0.2.1"].map(|ip| ip.parse().unwrap());
        let neighbour = "2001:db8::2".parse().unwrap();
        for second in 0..10 {
            assert!(limits.may_resume(ip, at(second)));
            limits.note_failed_resume(ip, at(second));
        }
        assert!(!limits.may_resume(ip, at(10)) && !limits.may_resume(neighbour, at(59)));
        assert!(limits.may_resume(other, at(10)));
        assert!(limits.may_resume(ip, at(60)));
        limits.forget_idle(at(600));
        assert_eq!(limits.entries(), 0);
        let loopback = "127.0.0.1".parse().unwrap();
        (0..20).for_each(|_| limits.note_failed_resume(loopback, at(0)));
        assert!(limits.may_resume(loopback, at(0)));
    }

    #[test]
    fn of_many_messages_the_last_are_known_when_they_come_again() {
        let limits = Limits::default();
        let message = |number: usize| ("ann", number);
        for number in 0..3 * SENT {
            assert!(!limits.note_sent(message(number), false));
        }
        assert!((2 * SENT..3 * SENT).all(|number| limits.was_sent(message(number))));
        assert!(!limits.was_sent(message(0)) && !limits.was_sent(message(3 * SENT)));
        // Of what may have been stored nobody knows that it was there.
        let last = message(3 * SENT - 1);
        assert!(!limits.note_sent(last, true) && limits.note_sent(last, false));
        assert!(limits.note_sent(last, true));
        let sent = limits.sent();
        assert!(sent.newer.len() + sent.older.len() <= 2 * SENT);
    }
}

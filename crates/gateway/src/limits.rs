//! Limits that several connections share: messages of a user, connections of an address.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use heartline_core::auth::UserKey;
use heartline_core::policy::{ConnectLimit, Limit};
use heartline_core::rate_limit::{KeyedLimiter, Verdict};
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

/// Wrong invites of a user, and of an address.
const GUESSES: Limit = Limit::per(10, 60);

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
    guesses: KeyedLimiter<Guesser>,
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
        take(&self.messages, sender, limit, now, &self.refused_messages)
    }

    /// One more connection of this address, if the limit allows. By default loopback is
    /// spared: behind a proxy on the same machine everybody has that address.
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
        take(&self.connects, ip, limit, now, &self.refused_connects)
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
        self.messages.count() + self.connects.count() + self.guesses.count()
    }

    /// Forgets those that have been quiet for long enough.
    pub(crate) fn forget_idle(&self, now: Micros) {
        self.messages.forget_idle(now);
        self.connects.forget_idle(now);
        self.guesses.forget_idle(now);
    }
}

fn take<K: std::hash::Hash + Eq>(
    limiter: &KeyedLimiter<K>,
    key: K,
    limit: Limit,
    now: Micros,
    refusals: &AtomicU64,
) -> Result<(), OverLimit> {
    match limiter.take(key, limit, now) {
        Verdict::Allowed => Ok(()),
        Verdict::Refused { again_in, refused } => {
            refusals.fetch_add(1, Ordering::Relaxed);
            Err(OverLimit {
                retry_after_ms: micros(again_in).div_ceil(1000),
                refused,
            })
        }
    }
}

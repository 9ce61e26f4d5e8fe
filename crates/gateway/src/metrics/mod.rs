//! What a gateway counts. Each shard has its own counters, written by one
//! thread; they are summed when somebody asks. Label values come from closed
//! sets, never from what a client sends. `text` names and writes them.

mod text;

pub(crate) use text::{Gauges, as_prometheus};

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use heartline_core::namespaces::NamespaceId;
use heartline_engine::shard::conn::TransportName;
use heartline_engine::shard::engine::Stats;
use heartline_wire::codes::Code;
use heartline_wire::reason::Reason;
use prometheus_client::metrics::histogram::Histogram;

/// A number that one thread writes and any may read.
#[derive(Debug, Default)]
pub(crate) struct Count(AtomicU64);

impl Count {
    /// Only by the owning shard: no read-modify-write, hence no bus lock.
    pub(crate) fn add(&self, n: u64) {
        self.0.store(self.get().wrapping_add(n), Ordering::Relaxed);
    }

    /// Only by the owning shard.
    pub(crate) fn sub(&self, n: u64) {
        self.0.store(self.get().wrapping_sub(n), Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

macro_rules! kinds {
    ($(#[$doc:meta])* $name:ident { $($variant:ident = $word:literal),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(crate) enum $name { $($variant),* }
        impl $name {
            const WORDS: &'static [&'static str] = &[$($word),*];
        }
    };
}

kinds! {
    /// Kinds of messages from clients.
    Inbound {
        Connect = "connect", Disconnect = "disconnect", Event = "event", Ack = "ack",
        Auth = "auth", Subscribe = "subscribe", Unsubscribe = "unsubscribe",
        Publish = "publish", Ping = "ping",
    }
}
kinds! {
    /// Kinds of messages to clients.
    Outbound { Event = "event", Ack = "ack", Error = "error" }
}

kinds! {
    /// What became of clients that came back, and why not what they hoped for.
    Resume {
        Recovered = "recovered", BadToken = "bad_token", BadOffset = "bad_offset",
        Unknown = "unknown", Foreign = "foreign", Left = "left", Room = "room",
        Trimmed = "trimmed", Unsure = "unsure", TooMuch = "too_much", Limited = "limited",
    }
}

const REFUSALS: [&str; 7] = [
    Code::AuthRequired.as_str(),
    Code::AuthTokenInvalid.as_str(),
    Code::AuthTokenExpired.as_str(),
    Code::AuthUnavailable.as_str(),
    Code::DeviceLimit.as_str(),
    Code::Internal.as_str(),
    "REFUSED",
];

/// The counters of one shard.
pub(crate) struct ShardMetrics {
    connections: Vec<[Count; 3]>,
    pub(crate) connects: Count,
    refused: [Count; REFUSALS.len()],
    disconnects: [Count; Reason::COUNT],
    inbound: [Count; Inbound::WORDS.len()],
    outbound: [Count; Outbound::WORDS.len()],
    pub(crate) deliveries: Count,
    resumes: [Count; Resume::WORDS.len()],
    /// Events that were told again to who came back.
    pub(crate) replayed: Count,
    dropped_conflated: Count,
    dropped_volatile: Count,
    pub(crate) rate_limited_events: Count,
    pub(crate) rate_limited_joins: Count,
    pub(crate) handler_panics: Count,
    pub(crate) handler_timeouts: Count,
    heartbeats: Count,
    rtt: Histogram,
}

impl ShardMetrics {
    fn new(namespaces: usize, rtt: Histogram) -> Self {
        ShardMetrics {
            connections: (0..namespaces).map(|_| Default::default()).collect(),
            connects: Count::default(),
            refused: Default::default(),
            disconnects: Default::default(),
            inbound: Default::default(),
            outbound: Default::default(),
            deliveries: Count::default(),
            resumes: Default::default(),
            replayed: Count::default(),
            dropped_conflated: Count::default(),
            dropped_volatile: Count::default(),
            rate_limited_events: Count::default(),
            rate_limited_joins: Count::default(),
            handler_panics: Count::default(),
            handler_timeouts: Count::default(),
            heartbeats: Count::default(),
            rtt,
        }
    }

    pub(crate) fn connections(&self, transport: TransportName, namespace: NamespaceId) -> &Count {
        &self.connections[usize::from(namespace.0)][transport as usize]
    }

    pub(crate) fn disconnects(&self, reason: Reason) -> &Count {
        &self.disconnects[reason as usize]
    }

    pub(crate) fn inbound(&self, kind: Inbound) -> &Count {
        &self.inbound[kind as usize]
    }

    pub(crate) fn outbound(&self, kind: Outbound) -> &Count {
        &self.outbound[kind as usize]
    }

    pub(crate) fn resumes(&self, outcome: Resume) -> &Count {
        &self.resumes[outcome as usize]
    }

    pub(crate) fn refused(&self, code: &str) -> &Count {
        let index = REFUSALS.iter().position(|known| *known == code);
        &self.refused[index.unwrap_or(0)]
    }

    pub(crate) fn take_engine_stats(&self, stats: &mut Stats) {
        self.dropped_conflated
            .add(std::mem::take(&mut stats.conflated));
        self.dropped_volatile
            .add(std::mem::take(&mut stats.volatile_dropped));
        self.heartbeats.add(stats.rtts.len() as u64);
        for rtt in stats.rtts.drain(..) {
            self.rtt.observe(f64::from(rtt) / 1e6);
        }
    }
}

/// What came of removing old rows.
#[derive(Debug, Default)]
pub(crate) struct Runs {
    /// When the last one ended, Unix milliseconds; 0: there was none.
    pub(crate) last_at: AtomicU64,
    pub(crate) rows: AtomicU64,
    /// How long they took, microseconds.
    pub(crate) micros: AtomicU64,
    pub(crate) runs: AtomicU64,
    pub(crate) errors: AtomicU64,
}

/// The counters of a gateway.
pub(crate) struct Metrics {
    pub(crate) shards: Vec<Arc<ShardMetrics>>,
    namespaces: Vec<Arc<str>>,
    rtt: Histogram,
    pub(crate) retention: Arc<Runs>,
}

impl Metrics {
    pub(crate) fn new(shards: usize, namespaces: Vec<Arc<str>>) -> Self {
        let rtt = Histogram::new([
            0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
        ]);
        Metrics {
            shards: (0..shards)
                .map(|_| Arc::new(ShardMetrics::new(namespaces.len(), rtt.clone())))
                .collect(),
            namespaces,
            rtt,
            retention: Arc::default(),
        }
    }

    fn sum(&self, of: impl Fn(&ShardMetrics) -> u64) -> u64 {
        self.shards
            .iter()
            .fold(0, |sum, shard| sum.wrapping_add(of(shard)))
    }

    /// Sockets in any namespace.
    pub(crate) fn sockets(&self) -> u64 {
        self.sum(|shard| {
            shard
                .connections
                .iter()
                .flatten()
                .fold(0, |sum, count| sum.wrapping_add(count.get()))
        })
    }

    /// Pongs that answered a ping.
    pub(crate) fn heartbeats(&self) -> u64 {
        self.sum(|shard| shard.heartbeats.get())
    }
}

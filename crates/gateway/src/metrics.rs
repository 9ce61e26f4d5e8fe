//! What a gateway counts. Each shard has its own counters, written by one
//! thread; they are summed when somebody asks. Label values come from closed
//! sets, never from what a client sends.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use heartline_core::backplane::ClusterStatus;
use heartline_core::namespaces::NamespaceId;
use heartline_engine::shard::conn::TransportName;
use heartline_engine::shard::engine::Stats;
use heartline_wire::codes::Code;
use heartline_wire::reason::Reason;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

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

const REFUSALS: [&str; 6] = [
    Code::AuthRequired.as_str(),
    Code::AuthTokenInvalid.as_str(),
    Code::AuthTokenExpired.as_str(),
    Code::AuthUnavailable.as_str(),
    Code::DeviceLimit.as_str(),
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

/// Numbers that are looked up when asked for.
pub(crate) struct Gauges {
    pub(crate) rooms: u64,
    pub(crate) users_online: u64,
    pub(crate) transports: u64,
    pub(crate) rate_limit_entries: u64,
    pub(crate) uptime_seconds: u64,
    pub(crate) draining: bool,
    /// Shared limiters' refusals: messages, connects.
    pub(crate) limited_messages: u64,
    pub(crate) limited_connects: u64,
    pub(crate) cluster: Option<ClusterStatus>,
}

/// The counters of a gateway.
pub(crate) struct Metrics {
    pub(crate) shards: Vec<Arc<ShardMetrics>>,
    namespaces: Vec<Arc<str>>,
    rtt: Histogram,
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

    /// All of it as OpenMetrics text.
    pub(crate) fn encode(self: &Arc<Self>, gauges: Gauges) -> String {
        let mut registry = Registry::with_prefix("heartline");
        registry.register(
            "heartbeat_rtt_seconds",
            "Round trip of a ping and its pong",
            self.rtt.clone(),
        );
        registry.register_collector(Box::new(Snapshot(self.clone(), gauges)));
        let mut out = String::new();
        if text::encode(&mut out, &registry).is_err() {
            tracing::error!("the metrics could not be written");
        }
        out
    }
}

struct Snapshot(Arc<Metrics>, Gauges);

impl std::fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Snapshot")
    }
}

type Encoded = Result<(), std::fmt::Error>;

fn counter(to: &mut DescriptorEncoder<'_>, name: &str, help: &str, value: u64) -> Encoded {
    let metric = ConstCounter::new(value);
    let encoder = to.encode_descriptor(name, help, None, MetricType::Counter)?;
    metric.encode(encoder)
}

fn gauge(to: &mut DescriptorEncoder<'_>, name: &str, help: &str, value: u64) -> Encoded {
    let metric = ConstGauge::new(value as i64);
    let encoder = to.encode_descriptor(name, help, None, MetricType::Gauge)?;
    metric.encode(encoder)
}

fn counters(
    to: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    label: &'static str,
    values: impl Iterator<Item = (&'static str, u64)>,
) -> Encoded {
    let mut encoder = to.encode_descriptor(name, help, None, MetricType::Counter)?;
    for (word, value) in values {
        let labels = [(label, word)];
        ConstCounter::new(value).encode(encoder.encode_family(&labels)?)?;
    }
    Ok(())
}

fn encode_cluster(to: &mut DescriptorEncoder<'_>, cluster: &ClusterStatus) -> Encoded {
    let age = cluster.lease_age.unwrap_or_default().as_secs_f64();
    let encoder = to.encode_descriptor(
        "cluster_lease_age_seconds",
        "Since this node's lease was renewed",
        None,
        MetricType::Gauge,
    )?;
    ConstGauge::new(age).encode(encoder)?;
    gauge(
        to,
        "cluster_degraded",
        "1 while this node serves alone: its cluster's store is away",
        u64::from(cluster.degraded),
    )?;
    gauge(
        to,
        "cluster_publications_queued",
        "Publications that wait to be sent to other nodes",
        cluster.queued as u64,
    )?;
    for (name, help, value) in [
        (
            "cluster_errors",
            "Errors of the cluster's store or the way to it",
            cluster.errors,
        ),
        (
            "cluster_incarnations",
            "Times this node joined",
            cluster.incarnations,
        ),
        (
            "cluster_repairs",
            "Entries that were missing or too many; should stay at 0",
            cluster.repairs,
        ),
        (
            "cluster_swept",
            "Entries of dead nodes that this one removed",
            cluster.swept,
        ),
        (
            "cluster_presence_edges",
            "Changes of presence heard of",
            cluster.edges,
        ),
        (
            "cluster_unregistered_connects",
            "Sockets admitted while the store was away",
            cluster.unregistered,
        ),
        (
            "cluster_publications_sent",
            "Publications sent to other nodes",
            cluster.sent,
        ),
        (
            "cluster_publications_received",
            "Publications that came from other nodes",
            cluster.received,
        ),
        (
            "cluster_publications_undelivered",
            "What other nodes could not be told",
            cluster.undelivered,
        ),
        (
            "cluster_subscription_gaps",
            "Times this node was cut off from the others' publications",
            cluster.gaps,
        ),
    ] {
        counter(to, name, help, value)?;
    }
    Ok(())
}

impl Collector for Snapshot {
    fn encode(&self, mut to: DescriptorEncoder<'_>) -> Encoded {
        let Snapshot(metrics, gauges) = self;
        {
            let mut encoder = to.encode_descriptor(
                "connections",
                "Sockets by transport and namespace",
                None,
                MetricType::Gauge,
            )?;
            for (index, namespace) in metrics.namespaces.iter().enumerate() {
                for transport in TransportName::ALL {
                    let value =
                        metrics.sum(|shard| shard.connections[index][transport as usize].get());
                    let labels = [
                        ("transport", transport.as_str()),
                        ("namespace", &**namespace),
                    ];
                    ConstGauge::new(value as i64).encode(encoder.encode_family(&labels)?)?;
                }
            }
        }
        let to = &mut to;
        gauge(
            to,
            "transports",
            "Transport sessions, joined to a namespace or not",
            gauges.transports,
        )?;
        gauge(to, "rooms", "Rooms with members on this node", gauges.rooms)?;
        gauge(to, "users_online", "Users online", gauges.users_online)?;
        gauge(
            to,
            "rate_limit_entries",
            "Keys the rate limiters remember",
            gauges.rate_limit_entries,
        )?;
        gauge(
            to,
            "uptime_seconds",
            "Time since this node started",
            gauges.uptime_seconds,
        )?;
        gauge(
            to,
            "draining",
            "1 while this node is going away",
            u64::from(gauges.draining),
        )?;
        counter(
            to,
            "connects",
            "Transport sessions begun",
            metrics.sum(|shard| shard.connects.get()),
        )?;
        counters(
            to,
            "connect_refusals",
            "Sockets refused",
            "code",
            REFUSALS
                .iter()
                .enumerate()
                .map(|(index, code)| (*code, metrics.sum(|shard| shard.refused[index].get()))),
        )?;
        counters(
            to,
            "disconnects",
            "Sockets ended",
            "reason",
            Reason::all().map(|reason| {
                let value = metrics.sum(|shard| shard.disconnects[reason as usize].get());
                (reason.as_str(), value)
            }),
        )?;
        counters(
            to,
            "messages_inbound",
            "Messages from clients",
            "type",
            Inbound::WORDS
                .iter()
                .enumerate()
                .map(|(index, word)| (*word, metrics.sum(|shard| shard.inbound[index].get()))),
        )?;
        counters(
            to,
            "messages_outbound",
            "Messages to clients",
            "type",
            Outbound::WORDS
                .iter()
                .enumerate()
                .map(|(index, word)| (*word, metrics.sum(|shard| shard.outbound[index].get()))),
        )?;
        counter(
            to,
            "deliveries",
            "Publications given to sockets",
            metrics.sum(|shard| shard.deliveries.get()),
        )?;
        let slow = Reason::SlowConsumer as usize;
        counters(
            to,
            "deliveries_dropped",
            "Deliveries that did not happen; slow_consumer counts connections",
            "reason",
            [
                (
                    "conflated",
                    metrics.sum(|shard| shard.dropped_conflated.get()),
                ),
                (
                    "volatile",
                    metrics.sum(|shard| shard.dropped_volatile.get()),
                ),
                (
                    "slow_consumer",
                    metrics.sum(|shard| shard.disconnects[slow].get()),
                ),
            ]
            .into_iter(),
        )?;
        counters(
            to,
            "rate_limited",
            "Refusals by limit",
            "limit",
            [
                ("messages", gauges.limited_messages),
                (
                    "events",
                    metrics.sum(|shard| shard.rate_limited_events.get()),
                ),
                ("joins", metrics.sum(|shard| shard.rate_limited_joins.get())),
                ("connects_per_ip", gauges.limited_connects),
            ]
            .into_iter(),
        )?;
        counter(
            to,
            "heartbeats",
            "Pongs that answered a ping",
            metrics.heartbeats(),
        )?;
        counters(
            to,
            "handler_failures",
            "Handlers that did not come to an answer",
            "cause",
            [
                ("panic", metrics.sum(|shard| shard.handler_panics.get())),
                ("timeout", metrics.sum(|shard| shard.handler_timeouts.get())),
            ]
            .into_iter(),
        )?;
        match &gauges.cluster {
            Some(cluster) => encode_cluster(to, cluster),
            None => Ok(()),
        }
    }
}

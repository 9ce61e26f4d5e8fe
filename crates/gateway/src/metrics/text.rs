//! The metrics by their names: one table of what there is, written as OpenMetrics text.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use heartline_core::backplane::ClusterStatus;
use heartline_engine::shard::conn::TransportName;
use heartline_wire::reason::Reason;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;

use super::{Inbound, Metrics, Outbound, REFUSALS, Resume, Runs};

/// Numbers that are looked up when asked for.
pub(crate) struct Gauges {
    pub(crate) rooms: u64,
    pub(crate) users_online: u64,
    pub(crate) transports: u64,
    pub(crate) rate_limit_entries: u64,
    pub(crate) uptime_seconds: u64,
    pub(crate) draining: bool,
    /// Lost sockets that may come back.
    pub(crate) suspended: u64,
    /// Bytes of events that are kept for them.
    pub(crate) kept_bytes: u64,
    /// Refusals by the limit on messages, which all shards share.
    pub(crate) limited_messages: u64,
    /// The same by the limit on connections.
    pub(crate) limited_connects: u64,
    /// For how many seconds what was told of users was wrong, by cause.
    pub(crate) presence_wrong: Vec<(&'static str, f64)>,
    /// What nodes said to each other, and changes of presence in the line, that could not be read.
    pub(crate) unread_notes: u64,
    pub(crate) unread_changes: u64,
    /// `None`: this node is alone.
    pub(crate) cluster: Option<ClusterStatus>,
}

type Numbers<'a> = (&'a Metrics, &'a Gauges);

/// A number without labels: name, help text, and where it is found.
type Plain<T> = (&'static str, &'static str, fn(&T) -> u64);

/// Numbers by one label: name, help text, the label, and its values.
type Labelled = (
    &'static str,
    &'static str,
    &'static str,
    fn(&Numbers<'_>) -> Vec<(&'static str, u64)>,
);

const GAUGES: &[Plain<Gauges>] = &[
    (
        "transports",
        "Transport sessions, joined to a namespace or not",
        |g| g.transports,
    ),
    ("rooms", "Rooms with members on this node", |g| g.rooms),
    ("users_online", "Users online on this node", |g| {
        g.users_online
    }),
    ("suspended", "Lost sockets that can be resumed", |g| {
        g.suspended
    }),
    ("kept_bytes", "Bytes of events kept for lost sockets", |g| {
        g.kept_bytes
    }),
    (
        "rate_limit_entries",
        "Keys the rate limiters remember",
        |g| g.rate_limit_entries,
    ),
    ("uptime_seconds", "Time since this node started", |g| {
        g.uptime_seconds
    }),
    ("draining", "1 while this node is going away", |g| {
        u64::from(g.draining)
    }),
];

const COUNTERS: &[Plain<Metrics>] = &[
    ("connects", "Transport sessions begun", |m| {
        m.sum(|shard| shard.connects.get())
    }),
    ("deliveries", "Publications given to sockets", |m| {
        m.sum(|shard| shard.deliveries.get())
    }),
    (
        "heartbeats",
        "Pongs that answered a ping",
        Metrics::heartbeats,
    ),
    (
        "replayed",
        "Events that clients had missed and were told when they came back",
        |m| m.sum(|shard| shard.replayed.get()),
    ),
];

const RETENTION: &[Plain<Runs>] = &[
    ("retention_runs", "Times that old rows were removed", |r| {
        r.runs.load(Ordering::Relaxed)
    }),
    ("retention_rows", "Rows that were removed", |r| {
        r.rows.load(Ordering::Relaxed)
    }),
    (
        "retention_errors",
        "Times that old rows could not be removed",
        |r| r.errors.load(Ordering::Relaxed),
    ),
];

const LABELLED: &[Labelled] = &[
    (
        "connect_refusals",
        "Sockets refused",
        "code",
        |(metrics, _)| {
            let count = |index: usize| metrics.sum(|shard| shard.refused[index].get());
            words(&REFUSALS, count)
        },
    ),
    (
        "disconnects",
        "Sockets ended; node_lost: users' on nodes that died, counted by the one that swept them",
        "reason",
        |(metrics, gauges)| {
            let swept = gauges.cluster.as_ref().map_or(0, |cluster| cluster.swept);
            let count = |reason: Reason| match reason {
                Reason::NodeLost => swept,
                _ => metrics.sum(|shard| shard.disconnects[reason as usize].get()),
            };
            Reason::all()
                .map(|reason| (reason.as_str(), count(reason)))
                .collect()
        },
    ),
    (
        "messages_inbound",
        "Messages from clients",
        "type",
        |(metrics, _)| {
            words(Inbound::WORDS, |index| {
                metrics.sum(|shard| shard.inbound[index].get())
            })
        },
    ),
    (
        "resumes",
        "Sockets that came back to go on where they were lost, and what became of that",
        "outcome",
        |(metrics, _)| {
            words(Resume::WORDS, |index| {
                metrics.sum(|shard| shard.resumes[index].get())
            })
        },
    ),
    (
        "messages_outbound",
        "Messages to clients",
        "type",
        |(metrics, _)| {
            words(Outbound::WORDS, |index| {
                metrics.sum(|shard| shard.outbound[index].get())
            })
        },
    ),
    (
        "deliveries_dropped",
        "Deliveries that did not happen; slow_consumer counts connections",
        "reason",
        |(metrics, _)| {
            let slow = Reason::SlowConsumer as usize;
            vec![
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
        },
    ),
    (
        "rate_limited",
        "Refusals by limit",
        "limit",
        |(metrics, gauges)| {
            vec![
                ("messages", gauges.limited_messages),
                (
                    "events",
                    metrics.sum(|shard| shard.rate_limited_events.get()),
                ),
                ("joins", metrics.sum(|shard| shard.rate_limited_joins.get())),
                ("connects_per_ip", gauges.limited_connects),
            ]
        },
    ),
    (
        "handler_failures",
        "Handlers that did not come to an answer",
        "cause",
        |(metrics, _)| {
            vec![
                ("panic", metrics.sum(|shard| shard.handler_panics.get())),
                ("timeout", metrics.sum(|shard| shard.handler_timeouts.get())),
            ]
        },
    ),
    (
        "cluster_unreadable",
        "What other nodes said or wrote that cannot be read: of another version, damaged, an \
         event of the line or a change of presence in one, what nodes say to each other alone, or a \
         record that was set aside",
        "cause",
        |(_, gauges)| {
            let cluster = gauges.cluster.iter();
            let causes = cluster.flat_map(|cluster| {
                [
                    ("version", cluster.newer),
                    ("damaged", cluster.damaged),
                    ("record", cluster.set_aside),
                    ("line", cluster.unread),
                    ("change", gauges.unread_changes),
                    ("note", gauges.unread_notes),
                ]
            });
            causes.collect()
        },
    ),
];

const CLUSTER_GAUGES: &[Plain<ClusterStatus>] = &[
    (
        "cluster_degraded",
        "1 while this node serves alone: its cluster's store is away",
        |c| u64::from(c.degraded),
    ),
    (
        "cluster_publications_queued",
        "Publications that wait to be sent to other nodes",
        |c| c.queued as u64,
    ),
];

const CLUSTER_COUNTERS: &[Plain<ClusterStatus>] = &[
    (
        "cluster_errors",
        "Errors of the cluster's store or the way to it",
        |c| c.errors,
    ),
    ("cluster_incarnations", "Times this node joined", |c| {
        c.incarnations
    }),
    (
        "cluster_repairs",
        "Entries that were missing or too many; should stay at 0",
        |c| c.repairs,
    ),
    (
        "cluster_swept",
        "Entries of dead nodes that this one removed",
        |c| c.swept,
    ),
    (
        "cluster_nodes_given_up",
        "Nodes that did not answer, and were taken for dead by a word of this one",
        |c| c.given_up,
    ),
    (
        "cluster_presence_edges",
        "Changes of presence heard of",
        |c| c.edges,
    ),
    (
        "cluster_presence_edges_missed",
        "Changes of presence that were gone before this node read them; should stay at 0",
        |c| c.missed_edges,
    ),
    (
        "cluster_presence_edges_unreadable",
        "Changes of presence that could not be read; should stay at 0",
        |c| c.unreadable_edges,
    ),
    (
        "cluster_unregistered_connects",
        "Sockets admitted while the store was away",
        |c| c.unregistered,
    ),
    (
        "cluster_publications_sent",
        "Publications sent to other nodes",
        |c| c.sent,
    ),
    (
        "cluster_publications_received",
        "Publications that came from other nodes",
        |c| c.received,
    ),
    (
        "cluster_publications_undelivered",
        "What other nodes could not be told, and what Socket.IO servers may not have been",
        |c| c.undelivered,
    ),
    (
        "cluster_publications_dropped",
        "Publications of other nodes that were dropped, as this one had too much to do",
        |c| c.dropped,
    ),
    (
        "cluster_publications_unsigned",
        "What was said in the name of a node and not signed, where cluster.key is set",
        |c| c.unsigned,
    ),
    (
        "cluster_publications_forged",
        "What was said in the name of a node with a wrong signature",
        |c| c.forged,
    ),
    (
        "cluster_gaps_told",
        "Times that a room, a user or everybody was told of lost publications",
        |c| c.missed,
    ),
    (
        "cluster_subscription_gaps",
        "Times this node was cut off from the others' publications",
        |c| c.gaps,
    ),
];

fn words(words: &[&'static str], count: impl Fn(usize) -> u64) -> Vec<(&'static str, u64)> {
    let numbered = words.iter().enumerate();
    numbered
        .map(|(index, word)| (*word, count(index)))
        .collect()
}

impl Metrics {
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

/// OpenMetrics text as Prometheus' text (0.0.4): a counter is described under the name that its
/// number has, and nothing says where the text ends.
pub(crate) fn as_prometheus(open: &str) -> String {
    let mut out = String::with_capacity(open.len() * 21 / 20);
    let mut lines = open.lines().peekable();
    while let Some(line) = lines.next() {
        // What a line of help describes has its type in the next one.
        let kind = match line.starts_with("# HELP ") {
            true => lines.peek().copied().unwrap_or_default(),
            false => line,
        };
        let is_of_counter = kind.starts_with("# TYPE ") && kind.ends_with(" counter");
        let parts = line.splitn(4, ' ').collect::<Vec<_>>();
        match parts[..] {
            ["#", "EOF"] => {}
            ["#", word, name, rest] if is_of_counter => {
                out.extend(["# ", word, " ", name, "_total ", rest, "\n"]);
            }
            _ => out.extend([line, "\n"]),
        }
    }
    out
}

struct Snapshot(Arc<Metrics>, Gauges);

impl std::fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Snapshot")
    }
}

type Encoded = Result<(), std::fmt::Error>;
type Encoder<'a, 'b> = &'a mut DescriptorEncoder<'b>;

fn plain<T>(to: Encoder<'_, '_>, kind: MetricType, table: &[Plain<T>], of: &T) -> Encoded {
    for (name, help, value) in table {
        let encoder = to.encode_descriptor(name, help, None, kind)?;
        match kind {
            MetricType::Counter => ConstCounter::new(value(of)).encode(encoder)?,
            _ => ConstGauge::new(value(of) as i64).encode(encoder)?,
        }
    }
    Ok(())
}

fn connections(to: Encoder<'_, '_>, metrics: &Metrics) -> Encoded {
    let help = "Sockets by transport and namespace";
    let mut encoder = to.encode_descriptor("connections", help, None, MetricType::Gauge)?;
    for (index, namespace) in metrics.namespaces.iter().enumerate() {
        for transport in TransportName::ALL {
            let count = metrics.sum(|shard| shard.connections[index][transport as usize].get());
            let labels = [
                ("transport", transport.as_str()),
                ("namespace", &**namespace),
            ];
            ConstGauge::new(count as i64).encode(encoder.encode_family(&labels)?)?;
        }
    }
    Ok(())
}

/// Also of a node alone, which needs nobody's leave: it is always 0 there.
fn lease_age(to: Encoder<'_, '_>, cluster: Option<&ClusterStatus>) -> Encoded {
    let (name, help) = (
        "cluster_lease_age_seconds",
        "Since this node's lease was renewed; 0 for a node alone",
    );
    let age = cluster.and_then(|cluster| cluster.lease_age);
    let age = age.unwrap_or_default().as_secs_f64();
    let encoder = to.encode_descriptor(name, help, None, MetricType::Gauge)?;
    ConstGauge::new(age).encode(encoder)
}

fn presence_wrong(to: Encoder<'_, '_>, gauges: &Gauges) -> Encoded {
    let (name, help) = (
        "presence_wrong_seconds",
        "For how long what clients were told of users was wrong, of a sample; should stay at 0",
    );
    let mut encoder = to.encode_descriptor(name, help, None, MetricType::Counter)?;
    for (cause, seconds) in &gauges.presence_wrong {
        let labels = [("cause", *cause)];
        ConstCounter::new(*seconds).encode(encoder.encode_family(&labels)?)?;
    }
    Ok(())
}

fn retention(to: Encoder<'_, '_>, runs: &Runs) -> Encoded {
    plain(to, MetricType::Counter, RETENTION, runs)?;
    let (name, help) = ("retention_seconds", "How long removing old rows took");
    let encoder = to.encode_descriptor(name, help, None, MetricType::Counter)?;
    let seconds = runs.micros.load(Ordering::Relaxed) as f64 / 1e6;
    ConstCounter::new(seconds).encode(encoder)?;
    let (name, help) = (
        "retention_last_run_timestamp_seconds",
        "When this node last removed old rows, Unix time; 0: it has not yet",
    );
    let encoder = to.encode_descriptor(name, help, None, MetricType::Gauge)?;
    let last = runs.last_at.load(Ordering::Relaxed) as f64 / 1e3;
    ConstGauge::new(last).encode(encoder)
}

impl Collector for Snapshot {
    fn encode(&self, mut to: DescriptorEncoder<'_>) -> Encoded {
        let Snapshot(metrics, gauges) = self;
        let to = &mut to;
        connections(to, metrics)?;
        plain(to, MetricType::Gauge, GAUGES, gauges)?;
        plain(to, MetricType::Counter, COUNTERS, metrics)?;
        retention(to, &metrics.retention)?;
        presence_wrong(to, gauges)?;
        for (name, help, label, values) in LABELLED {
            let mut encoder = to.encode_descriptor(name, help, None, MetricType::Counter)?;
            for (word, value) in values(&(metrics, gauges)) {
                let labels = [(*label, word)];
                ConstCounter::new(value).encode(encoder.encode_family(&labels)?)?;
            }
        }
        lease_age(to, gauges.cluster.as_ref())?;
        if let Some(cluster) = &gauges.cluster {
            plain(to, MetricType::Gauge, CLUSTER_GAUGES, cluster)?;
            plain(to, MetricType::Counter, CLUSTER_COUNTERS, cluster)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

    use super::*;
    use heartline_core::presence::audit::Cause;

    fn told(cluster: Option<ClusterStatus>) -> String {
        let causes = Cause::WORDS.into_iter().chain(["kept"]);
        Arc::new(Metrics::new(1, vec!["/".into()])).encode(Gauges {
            rooms: 0,
            users_online: 0,
            transports: 0,
            rate_limit_entries: 0,
            uptime_seconds: 0,
            draining: false,
            suspended: 0,
            kept_bytes: 0,
            limited_messages: 0,
            limited_connects: 0,
            presence_wrong: causes.map(|cause| (cause, 0.0)).collect(),
            unread_notes: 0,
            unread_changes: 0,
            cluster,
        })
    }

    /// The labels of a sample's line, and their values.
    fn labels_of(sample: &str) -> impl Iterator<Item = (&str, &str)> {
        let from = sample.split_once('{').map_or("", |(_, rest)| rest);
        let labels = from.rsplit_once('}').map_or("", |(labels, _)| labels);
        let pairs = labels.split(',').filter_map(|pair| pair.split_once('='));
        pairs.map(|(label, value)| (label, value.trim_matches('"')))
    }

    /// The reference for people, in Markdown.
    fn table() -> String {
        let text = as_prometheus(&told(Some(ClusterStatus::default())));
        let mut out =
            String::from("| metric | type | labels | what it says |\n|---|---|---|---|\n");
        let mut lines = text.lines().peekable();
        while let Some(line) = lines.next() {
            let help = line.strip_prefix("# HELP ").unwrap();
            let (name, help) = help.split_once(' ').unwrap();
            let kind = lines.next().and_then(|line| line.rsplit(' ').next());
            let mut labels: Vec<(&str, Vec<String>)> = Vec::new();
            while let Some(sample) = lines.next_if(|line| !line.starts_with('#')) {
                for (label, value) in labels_of(sample) {
                    let known = labels.iter().position(|(of, _)| *of == label);
                    let index = known.unwrap_or(labels.len());
                    if known.is_none() {
                        labels.push((label, Vec::new()));
                    }
                    let (values, value) = (&mut labels[index].1, format!("`{value}`"));
                    // The values of these are what is configured, and bounds of time.
                    if !["namespace", "le"].contains(&label) && !values.contains(&value) {
                        values.push(value);
                    }
                }
            }
            let labels = labels.iter().map(|(label, values)| {
                let colon = if values.is_empty() { "" } else { ": " };
                format!("`{label}`{colon}{}", values.join(", "))
            });
            let labels = labels.collect::<Vec<_>>().join("; ");
            let (kind, help) = (kind.unwrap(), help.trim_end_matches('.'));
            out.push_str(&format!("| `{name}` | {kind} | {labels} | {help} |\n"));
        }
        out
    }

    #[test]
    fn the_reference_of_the_metrics_is_up_to_date() {
        let written = include_str!("../../../../docs/operations.md");
        let table = table();
        assert!(
            written.contains(&table),
            "docs/operations.md should have this table:\n{table}"
        );
    }

    #[test]
    fn prometheus_hears_the_same_and_each_number_is_of_a_kind_that_was_named() {
        let open = told(Some(ClusterStatus::default()));
        assert!(open.contains("# TYPE heartline_connects counter\n"));
        assert!(open.ends_with("# EOF\n"));
        let text = as_prometheus(&open);
        assert!(text.contains(
            "# HELP heartline_connects_total Transport sessions begun\n\
             # TYPE heartline_connects_total counter\n\
             heartline_connects_total 0\n"
        ));
        assert!(text.contains("\n# TYPE heartline_rooms gauge\n"));
        assert!(text.contains("# TYPE heartline_heartbeat_rtt_seconds histogram\n"));
        assert!(!text.contains("EOF") && text.ends_with('\n'));
        let samples = |text: &str| {
            let samples = text.lines().filter(|line| !line.starts_with('#'));
            samples.map(ToOwned::to_owned).collect::<Vec<_>>()
        };
        assert_eq!(samples(&text), samples(&open));
        let mut named = "";
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("# TYPE ") {
                named = rest.split(' ').next().unwrap();
            } else if !line.starts_with('#') {
                let name = line.split(['{', ' ']).next().unwrap();
                let rest = name.strip_prefix(named).unwrap_or(name);
                assert!(["", "_sum", "_count", "_bucket"].contains(&rest), "{line}");
            }
        }
    }

    #[test]
    fn who_was_on_a_node_that_died_is_counted_where_that_was_swept() {
        let lost = r#"heartline_disconnects_total{reason="node_lost"}"#;
        assert!(told(None).contains(&format!("{lost} 0\n")));
        let swept = ClusterStatus {
            swept: 3,
            ..ClusterStatus::default()
        };
        assert!(told(Some(swept)).contains(&format!("{lost} 3\n")));
    }

    #[test]
    fn a_node_alone_has_a_lease_of_no_age() {
        let age = "\nheartline_cluster_lease_age_seconds 0.0\n";
        assert!(told(None).contains(age), "{}", told(None));
        let renewed = ClusterStatus {
            lease_age: Some(std::time::Duration::from_secs(2)),
            ..ClusterStatus::default()
        };
        assert!(told(Some(renewed)).contains("\nheartline_cluster_lease_age_seconds 2.0\n"));
    }
}

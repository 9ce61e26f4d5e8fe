//! What a run has seen.

use std::collections::BTreeMap;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

/// Where a run is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Connections are opened.
    Connecting,
    /// The scenario runs, unmeasured.
    WarmingUp,
    /// The scenario runs and is measured.
    Measuring,
    /// What is on its way is awaited.
    Draining,
}

/// How a run goes.
#[derive(Clone, Copy, Debug)]
pub struct Progress {
    /// Where it is.
    pub stage: Stage,
    /// The part of this stage that is done, 0 to 1.
    pub done: f64,
    /// Connections that are there.
    pub connected: usize,
    /// Acknowledgements, deliveries or connections measured so far.
    pub operations: u64,
    /// Connections that failed or were lost.
    pub failed: u64,
}

/// Percentiles, microseconds.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Latency {
    /// Half were faster.
    pub p50: u64,
    /// Nine in ten were.
    pub p90: u64,
    /// 99 in a hundred were.
    pub p99: u64,
    /// 999 in a thousand were.
    pub p999: u64,
    /// The slowest.
    pub max: u64,
    /// The arithmetic mean.
    pub mean: f64,
}

impl Latency {
    pub(crate) fn of(histogram: &Histogram<u64>) -> Option<Self> {
        (!histogram.is_empty()).then(|| Latency {
            p50: histogram.value_at_quantile(0.5),
            p90: histogram.value_at_quantile(0.9),
            p99: histogram.value_at_quantile(0.99),
            p999: histogram.value_at_quantile(0.999),
            max: histogram.max(),
            mean: (histogram.mean() * 10.0).round() / 10.0,
        })
    }
}

/// What the server used.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct ServerCost {
    /// Resident bytes before the first connection.
    pub resident_before: u64,
    /// Resident bytes with an eighth of the connections.
    pub resident_at_eighth: u64,
    /// Resident bytes with all of them, before the scenario runs.
    pub resident_connected: u64,
    /// Resident bytes after the scenario, with all of them.
    pub resident_after: u64,
    /// The slope between an eighth and all of them.
    pub bytes_per_connection: i64,
    /// Seconds on a processor while connections were opened.
    pub cpu_connecting: f64,
    /// Seconds on a processor while it was measured.
    pub cpu: f64,
    /// The same by the clock: 1 is one processor, busy.
    pub cpu_share: f64,
    /// Seconds on a processor for a million operations.
    pub cpu_per_million: Option<f64>,
}

/// The result of a run.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// [`Scenario::word`](crate::Scenario::word).
    pub scenario: &'static str,
    /// [`Protocol::word`](crate::Protocol::word).
    pub protocol: &'static str,
    /// Connections asked for.
    pub connections: usize,
    /// Connections that came about.
    pub connected: usize,
    /// Handshakes that did not end in a connection, by reason.
    pub failures: BTreeMap<String, u64>,
    /// Connections that the server ended, or that broke, before the run's end.
    pub disconnected: u64,
    /// Close codes of these.
    pub close_codes: BTreeMap<u16, u64>,
    /// Connections a second while they were opened.
    pub connects_per_second: f64,
    /// Seconds that were measured.
    pub seconds: f64,
    /// Acknowledgements (echo), deliveries (broadcast, slow), connections (churn).
    pub operations: u64,
    /// The same a second.
    pub per_second: f64,
    /// What was sent and never arrived.
    pub lost: u64,
    /// From an event to its acknowledgement; from a publication to a delivery;
    /// from the first packet of a connection until it is ready.
    pub latency_us: Option<Latency>,
    /// What the server used, where its processes were named and lived to the end.
    pub server: Option<ServerCost>,
}

impl Report {
    /// One line of JSON.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }
}

pub(crate) fn rate(count: u64, time: Duration) -> f64 {
    let seconds = time.as_secs_f64();
    if seconds > 0.0 {
        (count as f64 / seconds * 10.0).round() / 10.0
    } else {
        0.0
    }
}

//! A run from its first connection to its report.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use mio::Poll;

use crate::plan::{Plan, Scenario};
use crate::process::{self, Usage, Watched};
use crate::report::{Latency, Progress, Report, ServerCost, Stage, rate};
use crate::shared::{Mailbox, Phase, Shared, Tokens};
use crate::tls::Tls;
use crate::worker::{self, Worker};

/// How often the run is looked at.
const WATCH_INTERVAL: Duration = Duration::from_millis(20);
/// How long after the measurement what is on its way may make no progress.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(3);

const NO_NAME: Error = Error::Plan("the address has no name that TLS can ask for");

/// Why there is no report.
#[derive(Debug)]
pub enum Error {
    /// The plan cannot be carried out; why.
    Plan(&'static str),
    /// No connection came about; how many failed, by reason.
    NoConnection(BTreeMap<String, u64>),
    /// The server ended all connections, or all of those that had something to say, before anything
    /// could be measured: how many there were, and how many of them it ended, by close code.
    AllEnded(usize, BTreeMap<u16, u64>),
    /// No process has this id, or it may not be looked at.
    NoProcess,
    /// A thread or a poller could not be made.
    Io(io::Error),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Plan(why) => f.write_str(why),
            Self::NoConnection(failures) => {
                f.write_str("no connection came about")?;
                for (reason, count) in failures {
                    write!(f, "; {count} × {reason}")?;
                }
                Ok(())
            }
            Self::AllEnded(connected, codes) => {
                write!(
                    f,
                    "nothing was measured: of {connected} connections the server ended"
                )?;
                if codes.is_empty() {
                    return f.write_str(" some, without a close code");
                }
                let each = codes
                    .iter()
                    .map(|(code, count)| format!("{count} with {code}"));
                write!(f, " {}", each.collect::<Vec<_>>().join(", "))
            }
            Self::NoProcess => f.write_str("a process given as the server's is not there"),
            Self::Io(error) => write!(f, "the client could not start: {error}"),
        }
    }
}

impl std::error::Error for Error {}

/// Carries out `plan`.
///
/// `tokens` gives the token of each connection by its number, or `None` to
/// connect without; `watch` is told how it goes, some times a second.
///
/// # Errors
///
/// Only if there is nothing to report: see [`Error`]. Connections that fail
/// or break are part of the report.
pub fn run(
    plan: &Plan,
    tokens: Tokens<'_>,
    watch: &mut dyn FnMut(Progress),
) -> Result<Report, Error> {
    check(plan)?;
    if process::usage(&plan.pids).is_none() {
        return Err(Error::NoProcess);
    }
    let mut polls = Vec::new();
    let mut mailboxes = Vec::new();
    for _ in 0..plan.threads {
        let poll = Poll::new().map_err(Error::Io)?;
        mailboxes.push(Mailbox::new(&poll).map_err(Error::Io)?);
        polls.push(poll);
    }
    let tls = match plan.target.tls {
        true => Some(Tls::new(plan.target.host()).map_err(|_| NO_NAME)?),
        false => None,
    };
    let shared = Shared::new(plan, tokens, tls, mailboxes);
    std::thread::scope(|scope| {
        let shared = &shared;
        let threads: Vec<_> = polls
            .into_iter()
            .enumerate()
            .map(|(number, poll)| scope.spawn(move || Worker::new(shared, number, poll).run()))
            .collect();
        let report = coordinate(shared, watch);
        shared.enter(Phase::Over);
        let mut histogram = worker::histogram();
        for thread in threads {
            if let Ok(own) = thread.join() {
                // Same bounds, so it cannot fail.
                let _ = histogram.add(own);
            }
        }
        report.map(|report| finish(shared, report, &histogram))
    })
}

fn check(plan: &Plan) -> Result<(), Error> {
    let publishes = matches!(plan.scenario, Scenario::Broadcast | Scenario::Slow);
    Err(Error::Plan(if plan.connections == 0 {
        "at least one connection is needed"
    } else if plan.duration.is_zero() {
        "measuring takes some time: give a duration of more than 0"
    } else if plan.threads == 0 || plan.concurrency == 0 {
        "at least one thread and one handshake at a time are needed"
    } else if publishes && plan.rooms == 0 {
        "publications need a room: give at least one"
    } else if plan.rooms > plan.connections {
        "there are more rooms than connections"
    } else if plan.publishers == 0 {
        "at least one member of a room publishes"
    } else if publishes && plan.publisher(plan.rooms - 1, plan.publishers - 1) >= plan.connections {
        "there are more publishers than connections"
    } else if plan.in_flight == 0 && plan.publish_rate <= 0.0 {
        "give events in flight, or a rate"
    } else if plan.scenario == Scenario::Slow && plan.publish_rate <= 0.0 {
        "slow members need a rate of publications, not a number in flight"
    } else {
        return Ok(());
    }))
}

/// What is measured outside the threads.
struct Measured {
    seconds: Duration,
    connecting: Duration,
    connected: usize,
    operations: u64,
    server: Option<ServerCost>,
}

fn coordinate(shared: &Shared<'_>, watch: &mut dyn FnMut(Progress)) -> Result<Measured, Error> {
    let plan = shared.plan;
    let server = Watched::new(&plan.pids);
    let usage = || server.usage();
    let before = usage();
    let mut cost = ServerCost {
        resident_before: before.resident,
        ..ServerCost::default()
    };
    let mut connecting = Duration::ZERO;
    let mut connected = 0;
    if plan.scenario != Scenario::Churn {
        let eighth = (plan.connections / 8).max(1);
        connecting += connect(shared, eighth, watch);
        settle(shared, plan.connections, watch);
        cost.resident_at_eighth = usage().resident;
        let paused = usage().cpu;
        connecting += connect(shared, plan.connections, watch);
        cost.cpu_connecting = seconds(usage().cpu.saturating_sub(paused));
        settle(shared, plan.connections, watch);
        cost.resident_connected = usage().resident;
        connected = shared.ready.load(Ordering::Relaxed);
        if connected == 0 {
            return Err(Error::NoConnection(shared.failures()));
        }
        let rise = cost.resident_connected as i64 - cost.resident_at_eighth as i64;
        cost.bytes_per_connection = rise / (connected.saturating_sub(eighth)).max(1) as i64;
    } else {
        shared.allowed.store(plan.connections, Ordering::Relaxed);
    }

    shared.enter(Phase::Running);
    wait(shared, plan.warmup, Stage::WarmingUp, watch);
    let start: Usage = usage();
    let began = Instant::now();
    shared.enter(Phase::Measuring);
    wait(shared, plan.duration, Stage::Measuring, watch);
    shared.enter(Phase::Draining);
    let measured = began.elapsed();
    let end = usage();
    let operations = shared.operations.load(Ordering::Relaxed);
    if plan.scenario != Scenario::Churn {
        if has_ended(shared, operations) {
            return Err(Error::AllEnded(connected, shared.close_codes()));
        }
        drain(shared, watch);
    } else if operations == 0 {
        return Err(Error::NoConnection(shared.failures()));
    }
    cost.resident_after = usage().resident;
    cost.cpu = seconds(end.cpu.saturating_sub(start.cpu));
    cost.cpu_share = (cost.cpu / measured.as_secs_f64() * 1e4).round() / 1e4;
    cost.cpu_per_million =
        (operations > 0).then(|| (cost.cpu / operations as f64 * 1e9).round() / 1e3);
    Ok(Measured {
        seconds: measured,
        connecting,
        connected,
        operations,
        server: server.is_known().then_some(cost),
    })
}

/// Whether the server has left nobody to measure: none, or none of those that make something happen.
fn has_ended(shared: &Shared<'_>, operations: u64) -> bool {
    let is_alone = shared.ready.load(Ordering::Relaxed) == 0;
    let is_quiet = shared.plan.scenario != Scenario::Idle && operations == 0;
    shared.disconnected.load(Ordering::Relaxed) > 0 && (is_alone || is_quiet)
}

fn seconds(micros: u64) -> f64 {
    micros as f64 / 1e6
}

/// Opens connections until there are `number`, or as many as there will be.
fn connect(shared: &Shared<'_>, number: usize, watch: &mut dyn FnMut(Progress)) -> Duration {
    let began = Instant::now();
    shared.allowed.store(number, Ordering::Relaxed);
    shared.wake();
    loop {
        let there = shared.ready.load(Ordering::Relaxed);
        let lost =
            shared.failed.load(Ordering::Relaxed) + shared.disconnected.load(Ordering::Relaxed);
        if there as u64 + lost >= number as u64 {
            return began.elapsed();
        }
        let done = there as f64 / shared.plan.connections as f64;
        watch(shared.progress(Stage::Connecting, done));
        std::thread::sleep(if began.elapsed() < WATCH_INTERVAL * 5 {
            WATCH_INTERVAL / 20
        } else {
            WATCH_INTERVAL
        });
    }
}

fn settle(shared: &Shared<'_>, of: usize, watch: &mut dyn FnMut(Progress)) {
    if shared.plan.pids.is_empty() {
        return;
    }
    let done = shared.ready.load(Ordering::Relaxed) as f64 / of as f64;
    watch(shared.progress(Stage::Connecting, done));
    std::thread::sleep(shared.plan.settle);
}

fn wait(shared: &Shared<'_>, time: Duration, stage: Stage, watch: &mut dyn FnMut(Progress)) {
    let began = Instant::now();
    loop {
        let elapsed = began.elapsed();
        let Some(left) = time.checked_sub(elapsed).filter(|left| !left.is_zero()) else {
            return;
        };
        watch(shared.progress(stage, elapsed.as_secs_f64() / time.as_secs_f64()));
        std::thread::sleep(WATCH_INTERVAL.min(left));
    }
}

/// Waits for what is on its way, as long as some of it arrives.
fn drain(shared: &Shared<'_>, watch: &mut dyn FnMut(Progress)) {
    // The threads tell of what they have just sent first.
    std::thread::sleep(WATCH_INTERVAL);
    let mut progress = (Instant::now(), 0);
    loop {
        let received = shared.received.load(Ordering::Relaxed);
        if received >= shared.expected.load(Ordering::Relaxed)
            && (shared.plan.scenario != Scenario::Slow || progress.0.elapsed() > DRAIN_TIMEOUT)
        {
            return;
        }
        if progress.1 != received {
            progress = (Instant::now(), received);
        }
        if progress.0.elapsed() > DRAIN_TIMEOUT {
            return;
        }
        watch(shared.progress(Stage::Draining, 0.5));
        std::thread::sleep(WATCH_INTERVAL);
    }
}

fn finish(shared: &Shared<'_>, measured: Measured, histogram: &Histogram<u64>) -> Report {
    let plan = shared.plan;
    let expected = shared.expected.load(Ordering::Relaxed);
    let received = shared.received.load(Ordering::Relaxed);
    let churn = plan.scenario == Scenario::Churn;
    Report {
        scenario: plan.scenario.word(),
        protocol: plan.protocol.word(),
        connections: plan.connections,
        connected: measured.connected,
        failures: shared.failures(),
        disconnected: shared.disconnected.load(Ordering::Relaxed),
        close_codes: shared.close_codes(),
        connects_per_second: if churn {
            rate(measured.operations, measured.seconds)
        } else {
            rate(measured.connected as u64, measured.connecting)
        },
        seconds: measured.seconds.as_secs_f64(),
        operations: measured.operations,
        per_second: rate(measured.operations, measured.seconds),
        lost: expected.saturating_sub(received),
        latency_us: Latency::of(histogram),
        server: measured.server,
    }
}

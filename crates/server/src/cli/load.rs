//! `heartline load`: the load generator, with a line that says how it goes.

use std::io::{IsTerminal, Write};
use std::num::NonZero;
use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};
use heartline_load::{Plan, Progress, Protocol, Scenario, Stage, Target};

use crate::auth::jwt::system_clock;
use crate::auth::sign::{Claims, sign};
use crate::config::given::Given;
use crate::config::parse_duration;
use crate::exit::{Exit, print, refuse};

#[derive(Clone, Copy, Debug, ValueEnum)]
enum ScenarioName {
    /// Connections that do nothing but answer pings
    Idle,
    /// Events with acknowledgements, some in flight on each connection
    Echo,
    /// One member of each room publishes, all receive
    Broadcast,
    /// Connections that leave as soon as they have come
    Churn,
    /// A broadcast during which some members do not read
    Slow,
    /// No server: what a system call, a write to a socket and a read cost this machine
    Calibrate,
}

impl ScenarioName {
    /// `None` for what needs no server.
    fn scenario(self) -> Option<Scenario> {
        Some(match self {
            ScenarioName::Idle => Scenario::Idle,
            ScenarioName::Echo => Scenario::Echo,
            ScenarioName::Broadcast => Scenario::Broadcast,
            ScenarioName::Churn => Scenario::Churn,
            ScenarioName::Slow => Scenario::Slow,
            ScenarioName::Calibrate => return None,
        })
    }
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum ProtocolName {
    /// Socket.IO v4 over WebSocket
    Socketio,
    /// Socket.IO v4 over HTTP long-polling
    Polling,
    /// Heartline's live protocol
    Live,
    /// Frames without a protocol, for the limits in bench/
    Raw,
}

/// The load generator's command line.
#[derive(Debug, Args)]
pub(crate) struct Load {
    /// What the connections do
    scenario: ScenarioName,
    /// The server: http://HOST:PORT, with a path where it is not the usual one
    #[arg(long, default_value = "http://127.0.0.1:8080")]
    url: String,
    /// What the connections speak
    #[arg(long, default_value = "socketio")]
    protocol: ProtocolName,
    /// How many connections
    #[arg(long, short = 'c', default_value_t = 100, value_parser = up_to::<MAX_CONNECTIONS>)]
    connections: usize,
    /// Client threads; as many as there are processors if not given
    #[arg(long, value_parser = threads)]
    threads: Option<NonZero<usize>>,
    /// Handshakes under way at once
    #[arg(long, default_value_t = 128, value_parser = up_to::<MAX_CONNECTIONS>)]
    concurrency: usize,
    /// Most new connections a second (the ramp); 0 for as many as there can be
    #[arg(long, default_value_t = 0)]
    connect_rate: u32,
    /// How long is measured
    #[arg(long, short = 'd', default_value = "10s", value_parser = some_time)]
    duration: Duration,
    /// How long the same is done before it is measured
    #[arg(long, default_value = "1s", value_parser = duration)]
    warmup: Duration,
    /// Rooms, over which the connections are spread evenly; 1 for broadcast and
    /// slow, else none, if not given. They are joined by the event `join { room }`,
    /// published to by `publish { room, event, data }`
    #[arg(long, value_parser = up_to::<MAX_CONNECTIONS>)]
    rooms: Option<usize>,
    /// Events on their way at once: of a connection (echo), of a room (broadcast)
    #[arg(long, default_value_t = 1, value_parser = up_to::<MAX_IN_FLIGHT>)]
    in_flight: usize,
    /// Members of each room that take turns publishing (broadcast)
    #[arg(long, default_value_t = 1, value_parser = up_to::<MAX_CONNECTIONS>)]
    publishers: usize,
    /// Every event leaves in a write of its own, as soon as it is due; otherwise what
    /// there is for a connection at one time is one write
    #[arg(long)]
    apart: bool,
    /// Publications a second over all rooms, instead of --in-flight
    #[arg(long, default_value = "0", hide_default_value = true, value_parser = rate)]
    publish_rate: f64,
    /// Bytes of padding in each event
    #[arg(long, default_value_t = 128, value_parser = padding)]
    size: usize,
    /// The event that the server acknowledges (echo)
    #[arg(long, default_value = "ping")]
    event: String,
    /// Publish with a key: of what waits for a slow member only the newest is kept
    #[arg(long)]
    keyed: bool,
    /// The share of members that stop reading, in percent (slow)
    #[arg(long, default_value_t = 10, value_parser = up_to::<100>)]
    slow_percent: usize,
    /// A process of the server on this machine, for its memory and CPU; may be repeated
    #[arg(long = "pid")]
    pids: Vec<u32>,
    /// How long the server is left alone before its memory is read
    #[arg(long, default_value = "1500ms", value_parser = duration)]
    settle: Duration,
    /// Connect with tokens, signed with the configured secret as `token` does it,
    /// for users user-0, user-1, …
    #[arg(long)]
    tokens: bool,
    /// How many users the tokens are for; as many as connections if not given
    #[arg(long, requires = "tokens")]
    users: Option<NonZero<usize>>,
    /// What the users' names begin with: two loads at once need two, or their
    /// devices replace each other's connections
    #[arg(long, default_value = "user", requires = "tokens")]
    user_prefix: String,
    #[command(flatten)]
    given: Given,
}

/// Most connections: a machine has not so many.
const MAX_CONNECTIONS: usize = 10_000_000;
/// Most client threads.
const MAX_THREADS: usize = 1024;
/// Most events on their way at once, of a connection or a room: there is a place for each.
const MAX_IN_FLIGHT: usize = 100_000;
/// Most publications a second: more than one processor can write.
const MAX_RATE: f64 = 10_000_000.0;
/// Longest time.
const MAX_TIME: Duration = Duration::from_secs(366 * 86_400);

fn duration(text: &str) -> Result<Duration, String> {
    let time = parse_duration(text).filter(|time| *time <= MAX_TIME);
    time.ok_or_else(|| "write it like 10s or 500ms, and at most 366d".into())
}

fn up_to<const MAX: usize>(text: &str) -> Result<usize, String> {
    let number: Option<usize> = text.parse().ok();
    number
        .filter(|number| *number <= MAX)
        .ok_or_else(|| format!("write a whole number, at most {MAX}"))
}

fn threads(text: &str) -> Result<NonZero<usize>, String> {
    let number = up_to::<MAX_THREADS>(text)?;
    NonZero::new(number).ok_or_else(|| "at least one thread is needed".into())
}

fn rate(text: &str) -> Result<f64, String> {
    let rate: Option<f64> = text.parse().ok();
    rate.filter(|rate| (0.0..=MAX_RATE).contains(rate))
        .ok_or_else(|| format!("write a number of publications a second, 0 to {MAX_RATE}"))
}

fn some_time(text: &str) -> Result<Duration, String> {
    let time = duration(text)?;
    match time.is_zero() {
        true => Err("measuring takes some time: more than 0".into()),
        false => Ok(time),
    }
}

/// Runs it: the result is one line of JSON on standard output.
pub(crate) fn run(load: Load) -> Result<(), Exit> {
    let Some(scenario) = load.scenario.scenario() else {
        return calibrate(&load);
    };
    let target: Target = load.url.parse().map_err(usage)?;
    let users = load.users;
    let prefix = load.user_prefix.clone();
    let settings = match load.tokens {
        true => Some(load.given.clone().load(false)?.settings.jwt),
        false => None,
    };
    if let Some(settings) = &settings {
        sign(settings, &Claims::default(), 0).map_err(usage)?;
    }
    let plan = plan(load, scenario, target);
    let expires = system_clock() + 24 * 3600;
    let tokens = |index: usize| {
        let user = users.map_or(index, |users| index % users);
        let claims = Claims {
            user: format!("{prefix}-{user}"),
            device: Some(format!("device-{index}")),
            ..Claims::default()
        };
        sign(settings.as_ref()?, &claims, expires).ok()
    };
    let mut line = Line::new();
    let report = heartline_load::run(&plan, &tokens, &mut |progress| line.show(&progress));
    line.clear();
    let report = report.map_err(|error| match error {
        heartline_load::Error::Plan(_) => usage(error),
        _ => refuse(Exit::Failed, error),
    })?;
    print(&format!("{}\n", report.to_json()))
}

fn usage(error: impl std::fmt::Display) -> Exit {
    refuse(Exit::BadConfiguration, error)
}

fn calibrate(load: &Load) -> Result<(), Exit> {
    let found = heartline_load::calibrate(load.size, load.duration)
        .and_then(|found| Ok(serde_json::to_string(&found)?))
        .map_err(|error| refuse(Exit::Failed, error))?;
    print(&format!("{found}\n"))
}

fn plan(load: Load, scenario: Scenario, target: Target) -> Plan {
    let mut plan = Plan::new(scenario, target);
    plan.protocol = match load.protocol {
        ProtocolName::Socketio => Protocol::SocketIo,
        ProtocolName::Polling => Protocol::Polling,
        ProtocolName::Live => Protocol::Live,
        ProtocolName::Raw => Protocol::Raw,
    };
    plan.connections = load.connections;
    plan.threads = load
        .threads
        .or_else(|| std::thread::available_parallelism().ok())
        .map_or(1, NonZero::get);
    plan.concurrency = load.concurrency;
    plan.connect_rate = load.connect_rate;
    plan.duration = load.duration;
    plan.warmup = load.warmup;
    let publishes = matches!(scenario, Scenario::Broadcast | Scenario::Slow);
    plan.rooms = load.rooms.unwrap_or(usize::from(publishes));
    plan.in_flight = load.in_flight;
    plan.publishers = load.publishers;
    plan.apart = load.apart;
    plan.publish_rate = load.publish_rate;
    plan.size = load.size;
    plan.event = load.event;
    plan.keyed = load.keyed;
    plan.slow_percent = load.slow_percent;
    plan.pids = load.pids;
    plan.settle = load.settle;
    plan
}

/// The progress line, on standard error if that is a terminal.
struct Line {
    terminal: bool,
    shown: Option<Instant>,
    before: (Instant, u64),
    rate: f64,
}

/// How often the line changes.
const REFRESH: Duration = Duration::from_millis(200);
const BAR: usize = 24;

impl Line {
    fn new() -> Self {
        Line {
            terminal: std::io::stderr().is_terminal(),
            shown: None,
            before: (Instant::now(), 0),
            rate: 0.0,
        }
    }

    fn show(&mut self, progress: &Progress) {
        let early = self.shown.is_some_and(|shown| shown.elapsed() < REFRESH);
        if !self.terminal || early {
            return;
        }
        self.shown = Some(Instant::now());
        let (then, count) = self.before;
        let done = progress.operations.saturating_sub(count);
        self.rate = done as f64 / then.elapsed().as_secs_f64().max(0.001);
        self.before = (Instant::now(), progress.operations);
        let mut stderr = std::io::stderr();
        // A terminal that cannot be written to is no reason to stop.
        let _ = write!(stderr, "\r\x1b[K{}", text(progress, self.rate));
        let _ = stderr.flush();
    }

    fn clear(&self) {
        if self.shown.is_some() {
            let _ = write!(std::io::stderr(), "\r\x1b[K");
        }
    }
}

fn text(progress: &Progress, rate: f64) -> String {
    let full = (progress.done * BAR as f64).round() as usize;
    let bar: String = (0..BAR)
        .map(|place| if place < full { '█' } else { '·' })
        .collect();
    let stage = match progress.stage {
        Stage::Connecting => "connecting",
        Stage::WarmingUp => "warming up",
        Stage::Measuring => "measuring",
        Stage::Draining => "draining",
    };
    let mut text = format!("{stage:<10} {bar} {} connected", progress.connected);
    if progress.operations > 0 {
        text += &format!(", {} done, {rate:.0}/s", progress.operations);
    }
    if progress.failed > 0 {
        text += &format!(", {} failed", progress.failed);
    }
    text
}

/// Most padding of an event, bytes: every connection that publishes writes it at once.
const MAX_PADDING: usize = 16 << 20;

fn padding(text: &str) -> Result<usize, String> {
    let size: Option<usize> = text.parse().ok();
    size.filter(|size| *size <= MAX_PADDING)
        .ok_or_else(|| format!("write a number of bytes, at most {MAX_PADDING}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn padding_has_a_bound() {
        assert_eq!(padding("16777216"), Ok(MAX_PADDING));
        for wrong in ["16777217", "999999999999", "-1", "1MB", ""] {
            assert!(padding(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn rates_and_other_numbers_have_bounds_and_are_numbers() {
        assert_eq!(
            (rate("0"), rate("10000000"), rate("0.5")),
            (Ok(0.0), Ok(MAX_RATE), Ok(0.5))
        );
        for wrong in [
            "inf", "-inf", "1e300", "10000001", "NaN", "-1", "-0.1", "fast", "",
        ] {
            assert!(rate(wrong).is_err(), "{wrong}");
        }
        assert_eq!((up_to::<100>("0"), up_to::<100>("100")), (Ok(0), Ok(100)));
        for wrong in [
            "101",
            "18446744073709551615",
            "99999999999999999999",
            "-1",
            "NaN",
            "1.5",
        ] {
            assert!(up_to::<100>(wrong).is_err(), "{wrong}");
        }
        for wrong in ["0", "1025", "-1"] {
            assert!(threads(wrong).is_err(), "{wrong}");
        }
        assert_eq!(duration("366d"), Ok(MAX_TIME));
        for wrong in ["367d", "1000000y", "-1s", "inf", ""] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_command_line_takes_no_number_without_a_bound() {
        #[derive(Debug, clap::Parser)]
        struct Line {
            #[command(flatten)]
            load: Load,
        }
        let taken = |option: &str, value: &str| {
            let line = ["load", "broadcast", &format!("{option}={value}")];
            <Line as clap::Parser>::try_parse_from(line).is_ok()
        };
        for (option, good, wrong) in [
            ("--connections", "10000000", "10000001"),
            ("--threads", "1024", "1025"),
            ("--concurrency", "1000", "18446744073709551615"),
            ("--connect-rate", "4294967295", "4294967296"),
            ("--duration", "1s", "1000000y"),
            ("--warmup", "0s", "1000000y"),
            ("--rooms", "5", "18446744073709551615"),
            ("--in-flight", "100000", "18446744073709551615"),
            ("--publishers", "5", "18446744073709551615"),
            ("--publish-rate", "0.5", "inf"),
            ("--publish-rate", "1e7", "NaN"),
            ("--size", "0", "18446744073709551615"),
            ("--slow-percent", "100", "101"),
            ("--settle", "0s", "1000000y"),
        ] {
            assert!(taken(option, good) && !taken(option, wrong), "{option}");
        }
    }

    #[test]
    fn the_line_says_how_it_goes() {
        let progress = Progress {
            stage: Stage::Measuring,
            done: 0.5,
            connected: 10,
            operations: 1200,
            failed: 1,
        };
        assert_eq!(
            text(&progress, 600.4),
            "measuring  ████████████············ 10 connected, 1200 done, 600/s, 1 failed"
        );
    }
}

//! `recovery`, `store`, `retention`: what is kept, where, and for how long.

#![expect(clippy::unit_arg, reason = "in the table a setter is one line")]

use std::path::PathBuf;
use std::time::Duration;

use heartline::auth::RoomPattern;
use heartline::rooms::{MAX_NAME, can_fit};
use toml::Value;

use super::key::{Key, node};
use crate::config::settings::StoreUrl;
use crate::config::value::{
    Wrong, count, duration, list, one_of, optional, positive_duration, size, text,
};

/// Longest that messages are kept where their age is bounded.
const MAX_AGE: Duration = Duration::from_secs(100 * 31_557_600);

/// A build without SQLite keeps messages in memory.
const STORE: &str = match cfg!(feature = "sqlite") {
    true => "\"sqlite://heartline.db\"",
    false => "\"memory:\"",
};

fn store(value: &Value) -> Result<StoreUrl, Wrong> {
    let url = text(value)?;
    // It is not said again what was set: there may be a password in it.
    match url.split_once(':') {
        Some(("memory", "")) => Ok(StoreUrl::Memory),
        Some(("sqlite", path)) => sqlite(path.strip_prefix("//").unwrap_or_default()),
        Some(("postgres" | "postgresql", _)) => postgres(&url),
        _ => Err("must be postgres://USER:PASSWORD@HOST/DATABASE, sqlite://PATH or memory:".into()),
    }
}

#[cfg(feature = "postgres")]
fn postgres(url: &str) -> Result<StoreUrl, Wrong> {
    let url = heartline_store::PostgresUrl::parse(url)?;
    Ok(StoreUrl::Postgres(Box::new(url)))
}

#[cfg(not(feature = "postgres"))]
fn postgres(_: &str) -> Result<StoreUrl, Wrong> {
    Err(
        "cannot be postgres:// in this build, which was made without it: `cargo build --release \
         -p heartline-server` makes one that can; or set it to memory:"
            .into(),
    )
}

#[cfg(feature = "sqlite")]
fn sqlite(path: &str) -> Result<StoreUrl, Wrong> {
    match path {
        "" => Err("must name a file, like sqlite://heartline.db".into()),
        path => Ok(StoreUrl::Sqlite(path.into())),
    }
}

#[cfg(not(feature = "sqlite"))]
fn sqlite(_: &str) -> Result<StoreUrl, Wrong> {
    Err(
        "cannot be sqlite:// in this build, which was made without it: `cargo build --release \
         -p heartline-server` makes one that can; or set it to memory:"
            .into(),
    )
}

/// Rooms by their names, or by the beginnings of these.
pub(super) fn patterns(value: &Value) -> Result<Vec<String>, Wrong> {
    let patterns = list(value)?;
    let misfit = patterns.iter().find(|one| !can_fit(&RoomPattern::new(one)));
    match misfit {
        None => Ok(patterns),
        Some(pattern) => Err(format!(
            "holds {pattern:?}, which fits no room: give names of 1 to {MAX_NAME} bytes, or their \
             beginnings, like \"lobby:*\""
        )),
    }
}

/// How old something becomes before it is removed.
fn age(value: &Value) -> Result<Duration, Wrong> {
    let age = duration(value)?;
    match (Duration::from_secs(1)..=MAX_AGE).contains(&age) {
        true => Ok(age),
        false => Err("must be between 1s and 100y, like \"90d\"".into()),
    }
}

/// The keys of what is kept, in the order of the reference.
pub(super) const KEYS: &[Key] = &[
    node(
        "recovery.window",
        "\"off\"",
        "how long a lost connection can be resumed, with its id, its rooms and all that it \
         missed; `off`: every reconnection is fresh. A node alone that is stopped leaves what it \
         keeps to the next in `heartline.resume`, beside the store's file or in the working \
         directory",
        |s, v| Ok(s.gateway.recovery.window = optional(v, positive_duration)?),
    ),
    node(
        "recovery.rooms",
        "[\"*\"]",
        "whose events are kept for that: names of rooms, or beginnings of names with `*`; what \
         goes to everybody is kept with `\"*\"`",
        |s, v| Ok(s.gateway.recovery.rooms = patterns(v)?),
    ),
    node(
        "recovery.events",
        "256",
        "most events that are kept of one room, for `recovery.window` and twice the time of a \
         heartbeat; whoever missed more begins afresh",
        |s, v| Ok(s.gateway.recovery.events = count(v)?),
    ),
    node(
        "recovery.bytes",
        "\"256KB\"",
        "what these may weigh",
        |s, v| Ok(s.gateway.recovery.bytes = size(v)?),
    ),
    node(
        "recovery.buffer",
        "\"64MB\"",
        "what all rooms together may keep",
        |s, v| Ok(s.gateway.recovery.buffer = size(v)?),
    ),
    node(
        "recovery.sessions",
        "100_000",
        "most lost connections that can be resumed; of more, the first that were lost cannot",
        |s, v| Ok(s.gateway.recovery.sessions = count(v)?),
    ),
    node(
        "recovery.max_replay",
        "1_000",
        "most events in one resume; whoever missed more begins afresh. They also fit half of \
         `server.send_buffer`",
        |s, v| Ok(s.gateway.recovery.max_replay = count(v)?),
    ),
    node(
        "recovery.journal",
        "\"off\"",
        "a file that is written to as events are kept and sockets come and go: after `kill -9` \
         the next process goes on with it, and clients lose nothing. It is as secret as the \
         messages, grows to 128 MB (more where connections and rooms alone are 32 MB), and is \
         worth nothing after a restart of the machine. With it no `heartline.resume` is left",
        |s, v| Ok(s.gateway.recovery.journal = optional(v, |v| Ok(PathBuf::from(text(v)?)))?),
    ),
    node(
        "recovery.unreachable",
        "\"deliver\"",
        "or `refuse`: what becomes of kept publications while a cluster's Redis is away for longer \
         than two seconds. `deliver`: the node's own clients hear them, and all others are told of \
         a gap as soon as Redis is back; `refuse`: `SEND_FAILED` for who publishes",
        |s, v| {
            let choices = [("deliver", false), ("refuse", true)];
            s.gateway.recovery.refuse_unreachable = one_of(v, &choices)?;
            Ok(())
        },
    ),
    node(
        "store.url",
        STORE,
        "where messages are kept: `postgres://USER:PASSWORD@HOST/DATABASE`, PostgreSQL 13 or \
         newer, which nodes of a cluster share; `sqlite://PATH`, a file of this node alone, from \
         the working directory on; or `memory:`, the newest and until the process ends. With `--dev` or with \
         `cluster.url` it is `memory:` unless it is set. Where it is not set and the usual file \
         is another gateway's or cannot be written, messages are kept in memory, with a warning",
        |s, v| Ok(s.store = store(v)?),
    ),
    node(
        "retention.schedule",
        "\"0 2 * * *\"",
        "when old messages are removed, and invites that expired or were taken back 30 days \
         before: minute, hour, day, month and weekday as cron has them; `heartline config check` \
         prints the next three times. Of nodes that share a store one does it. What was missed is \
         made up for within five minutes of the start",
        |s, v| s.schedule.set_times(&text(v)?),
    ),
    node(
        "retention.timezone",
        "\"UTC\"",
        "in which time zone that is, like `Europe/Berlin`",
        |s, v| s.schedule.set_zone(&text(v)?),
    ),
    node(
        "retention.messages",
        "\"off\"",
        "how old messages become, like `90d`; `off`: as old as they like",
        |s, v| Ok(s.retention.messages = optional(v, age)?),
    ),
    node(
        "retention.per_conversation",
        "\"off\"",
        "how many messages of a conversation or open room are kept; `off`: all",
        |s, v| Ok(s.retention.per_conversation = optional(v, count)?.map(|count| count as u64)),
    ),
];

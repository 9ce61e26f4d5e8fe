//! `cluster`: how nodes are one gateway.

#![expect(clippy::unit_arg, reason = "in the table a setter is one line")]

use std::time::Duration;

use heartline_cluster::SocketIoAdapter;
use heartline_cluster::seal::{Also, MIN_KEY};
use toml::Value;

use super::key::{Key, node, secret};
use super::server::address;
use crate::config::place;
use crate::config::value::{Wrong, one_of, optional, positive_duration, text};

fn cluster_key(value: &Value) -> Result<String, Wrong> {
    long_enough(text(value)?)
}

/// A key that nobody can try out.
fn long_enough(key: String) -> Result<String, Wrong> {
    match key.len() {
        MIN_KEY.. => Ok(key),
        length => Err(format!(
            "must have at least {MIN_KEY} bytes, not {length}: `openssl rand -base64 32` makes one"
        )),
    }
}

/// `cluster.failure_timeout`: shorter ones would take a busy machine for a dead one.
fn failure_timeout(value: &Value) -> Result<Duration, Wrong> {
    let timeout = positive_duration(value)?;
    match timeout < Duration::from_millis(300) || timeout > Duration::from_secs(3600) {
        true => Err("must be between 300ms and 1h".into()),
        false => Ok(timeout),
    }
}

/// An address that other nodes can reach.
fn advertised(value: &Value) -> Result<Option<String>, Wrong> {
    let address = set_address(value)?;
    match address.as_deref().is_none_or(place::is_reachable) {
        true => Ok(address),
        false => Err("must be a host and port that other nodes can reach, like \
                      \"10.0.0.7:7000\": not all addresses, and not port 0"
            .into()),
    }
}

/// What names of channels can begin with, also in Redis' patterns.
/// Longest beginning of the names of channels, bytes: all that is published bears it.
const MAX_PREFIX: usize = 128;

fn channel_prefix(value: &Value) -> Result<String, Wrong> {
    let prefix = text(value)?;
    let fits = |c: char| c.is_ascii_graphic() && !"*?[]\\".contains(c);
    match (1..=MAX_PREFIX).contains(&prefix.len()) && prefix.chars().all(fits) {
        true => Ok(prefix),
        false => Err(format!(
            "must be text of at most {MAX_PREFIX} bytes, without spaces and without * ? [ ] \\, like \"socket.io\", not {prefix:?}"
        )),
    }
}

/// What is not `auto`.
fn set_address(value: &Value) -> Result<Option<String>, Wrong> {
    match value.as_str() {
        Some("auto") => Ok(None),
        _ => address(value).map(Some),
    }
}

/// The keys of `cluster`, in the order of the reference.
pub(super) const KEYS: &[Key] = &[
    node(
        "cluster.url",
        "\"off\"",
        "Redis or Valkey that makes nodes one gateway: `redis://[USER:PASSWORD@]HOST:PORT[/DB]`, \
         `redis+sentinel://HOST:PORT,HOST:PORT/MASTER`, `redis+cluster://HOST:PORT,HOST:PORT`, \
         `rediss` for TLS; `off`: this node is the whole cluster",
        |s, v| {
            s.cluster_url = optional(v, text)?;
            match &s.cluster_url {
                Some(url) => heartline_cluster::check_url(url)
                    .map_err(|error| format!("cannot be used: {error}")),
                None => Ok(()),
            }
        },
    ),
    node(
        "cluster.prefix",
        "\"hl\"",
        "what keys and channels begin with: clusters with different ones share a Redis",
        |s, v| {
            let prefix = text(v)?;
            let fits = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
            match !prefix.is_empty() && prefix.len() <= 32 && prefix.chars().all(fits) {
                true => Ok(s.cluster_prefix = prefix),
                false => Err("must have 1 to 32 letters, digits, _ or -".into()),
            }
        },
    ),
    secret(
        "cluster.key",
        "a secret of 32 bytes or more (`openssl rand -base64 32`), the same on all nodes: what they \
         publish is signed with it, and what is not signed with it is dropped; `off`: whoever can \
         write to Redis can speak as a node",
        |s, v| Ok(s.cluster_key = optional(v, cluster_key)?),
    ),
    secret(
        "cluster.key_previous",
        "what is believed as well, while keys are changed: what another key has signed, or, with \
         the word `unsigned`, what nobody has",
        |s, v| {
            Ok(
                s.cluster_key_previous = optional(v, |value| match Also::read(&text(value)?) {
                    Also::Key(key) => long_enough(key).map(Also::Key),
                    also => Ok(also),
                })?,
            )
        },
    ),
    node(
        "cluster.listen",
        "\"auto\"",
        "where other nodes reach this one, for requests of sessions that are here; `auto`: a free \
         port of the address by which this node reaches Redis",
        |s, v| Ok(s.cluster_listen = set_address(v)?),
    ),
    node(
        "cluster.advertise",
        "\"auto\"",
        "the host and port that other nodes are told, if it is not that of `cluster.listen`; `auto` also does where that is all addresses",
        |s, v| Ok(s.cluster_advertise = advertised(v)?),
    ),
    node(
        "cluster.socketio_adapter",
        "\"off\"",
        "exchange broadcasts with Socket.IO servers on Node that use `@socket.io/redis-adapter`, \
         and obey `@socket.io/redis-emitter`: `off`, `classic` (they use `createAdapter`) or \
         `sharded` (`createShardedAdapter`); `true` is `classic`",
        |s, v| {
            let kinds = [
                ("off", SocketIoAdapter::Off),
                ("false", SocketIoAdapter::Off),
                ("classic", SocketIoAdapter::Classic),
                ("true", SocketIoAdapter::Classic),
                ("on", SocketIoAdapter::Classic),
                ("sharded", SocketIoAdapter::Sharded),
            ];
            Ok(s.socketio_adapter = one_of(v, &kinds)?)
        },
    ),
    node(
        "cluster.socketio_key",
        "\"socket.io\"",
        "what the names of the adapter's channels begin with: its option `key`, or `channelPrefix`",
        |s, v| Ok(s.socketio_key = channel_prefix(v)?),
    ),
    node(
        "cluster.lease_ttl",
        "\"15s\"",
        "how long a node is believed after it was last heard of",
        |s, v| Ok(s.lease_ttl = positive_duration(v)?),
    ),
    node(
        "cluster.lease_refresh",
        "\"5s\"",
        "how often a node renews its lease",
        |s, v| Ok(s.lease_refresh = positive_duration(v)?),
    ),
    node(
        "cluster.failure_timeout",
        "\"1200ms\"",
        "for how long a node may leave others' questions whether it lives without an answer; if \
         Redis does not hear of it either, in a third of that time more, its users are offline \
         before its lease ends. At least 300 ms; `off`: nodes do not ask each other",
        |s, v| Ok(s.failure_timeout = optional(v, failure_timeout)?),
    ),
];

//! `server`, `admin`, `heartbeat`: where the node listens, what one connection may take, and
//! when it counts as gone.

#![expect(clippy::unit_arg, reason = "in the table a setter is one line")]

use std::path::PathBuf;

use heartline::config::AllowedOrigins;
use heartline_engine::slots::canonical_network;
use toml::Value;

use super::key::{Key, node, secret};
use crate::config::place;
use crate::config::value::{
    Wrong, count, duration_or_none, list, optional, positive_duration, size, size_from, text,
    whole_up_to,
};

/// Smallest `server.max_payload`, bytes: CONNECT without a token fits.
const MIN_PAYLOAD: usize = 128;
/// Smallest `server.send_buffer`, bytes: what every client is told at first fits.
const MIN_SEND_BUFFER: usize = 1024;

/// More threads than any machine has cores for.
const MAX_THREADS: usize = 1024;

fn live_path(value: &Value) -> Result<String, Wrong> {
    place::path(&text(value)?, "/live")
}

/// A folder of the machine that serves.
fn folder(value: &Value) -> Result<PathBuf, Wrong> {
    Ok(PathBuf::from(text(value)?))
}

/// An address to listen on.
pub(super) fn address(value: &Value) -> Result<String, Wrong> {
    let address = text(value)?;
    place::address(&address)?;
    Ok(address)
}

/// What an `Authorization` header can bring behind `Bearer `.
fn bearer(value: &Value) -> Result<String, Wrong> {
    let token = text(value)?;
    if token.to_ascii_lowercase().starts_with("bearer ") {
        return Err(
            "is the token alone: leave \"Bearer \" out, which clients put before it".into(),
        );
    }
    let fits = |c: char| c.is_ascii_graphic() || c == ' ';
    match token.chars().all(fits) && token.trim() == token {
        true => Ok(token),
        false => Err(
            "must be of printable ASCII without spaces around it, or no header could \
                      bring it: `openssl rand -hex 32` makes a good one"
                .into(),
        ),
    }
}

/// The keys of the server, in the order of the reference.
pub(super) const KEYS: &[Key] = &[
    node(
        "server.listen",
        "\"0.0.0.0:8080\"",
        "public address: Socket.IO, live, `/healthz`",
        |s, v| Ok(s.listen = address(v)?),
    ),
    node(
        "server.socketio_path",
        "\"/socket.io/\"",
        "path of Socket.IO; a slash that is missing at its beginning or end is added",
        |s, v| {
            let path = place::path(&text(v)?, "/socket.io/")?;
            Ok(s.gateway.socketio_path = if path.ends_with('/') {
                path
            } else {
                path + "/"
            })
        },
    ),
    node(
        "server.live_path",
        "\"/live\"",
        "path of the live protocol, not below that of Socket.IO",
        |s, v| Ok(s.gateway.live_path = optional(v, live_path)?),
    ),
    node(
        "server.allowed_origins",
        "[]",
        "origins from which browsers may connect, besides the server's own, each with a scheme \
         and without a path, like `\"https://app.example\"`; `[\"*\"]` allows all",
        |s, v| {
            let origins = list(v)?
                .iter()
                .map(|given| place::origin(given))
                .collect::<Result<Vec<_>, _>>()?;
            s.gateway.allowed_origins = match origins.iter().any(|origin| origin == "*") {
                true => AllowedOrigins::Any,
                false => AllowedOrigins::List(origins),
            };
            Ok(())
        },
    ),
    node(
        "server.trusted_proxies",
        "[]",
        "addresses and networks (CIDR) whose `X-Forwarded-For` is believed",
        |s, v| {
            s.gateway.trusted_proxies = list(v)?
                .iter()
                .map(|net| {
                    let whole = net.parse().map(|ip: std::net::IpAddr| ip.into());
                    let network = net.parse().or(whole).map_err(|_| {
                        format!("holds {net:?}, which is no network like \"10.0.0.0/8\"")
                    });
                    network.map(canonical_network)
                })
                .collect::<Result<_, _>>()?;
            Ok(())
        },
    ),
    node(
        "server.max_payload",
        "\"1MB\"",
        "largest message; a larger one closes with 1009 (WebSocket) or gets 413 (polling)",
        |s, v| Ok(s.gateway.max_payload = size_from(MIN_PAYLOAD, v)?),
    ),
    node(
        "server.compression",
        "\"off\"",
        "smallest message that is compressed, for example `\"1KB\"`, where a client offers permessage-deflate; one of more than 64 KiB goes as it is; `off` declines it",
        |s, v| Ok(s.gateway.compression = optional(v, size)?),
    ),
    node(
        "server.http_compression",
        "\"1KB\"",
        "smallest response to a polling request that is compressed, where the client accepts gzip or deflate; `off` compresses none",
        |s, v| Ok(s.gateway.http_compression = optional(v, size)?),
    ),
    node(
        "server.client_files",
        "\"off\"",
        "folder with the browser client's files (the `dist` folder of the npm package `socket.io-client`), served as `/socket.io/socket.io.js` and so on",
        |s, v| Ok(s.gateway.client_files = optional(v, folder)?),
    ),
    node(
        "server.node_id",
        "\"random\"",
        "this node's name, unique in the cluster: `[A-Za-z0-9_-]{1,32}`",
        |s, v| {
            let id = text(v)?;
            if id == "random" {
                return Ok(());
            }
            let fits = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
            match !id.is_empty() && id.len() <= 32 && id.chars().all(fits) {
                true => Ok(s.gateway.node_id = id),
                false => Err("must have 1 to 32 letters, digits, _ or -".into()),
            }
        },
    ),
    node(
        "server.max_connections",
        "\"off\"",
        "connections at once; more get HTTP 503",
        |s, v| Ok(s.gateway.max_connections = optional(v, count)?),
    ),
    node(
        "server.max_connections_per_ip",
        "\"off\"",
        "connections at once from one address; more get HTTP 429",
        |s, v| Ok(s.gateway.max_connections_per_ip = optional(v, count)?),
    ),
    node(
        "server.connect_timeout",
        "\"45s\"",
        "a Socket.IO connection that is in no namespace for this time is closed",
        |s, v| Ok(s.gateway.connect_timeout = positive_duration(v)?),
    ),
    node(
        "server.upgrade_timeout",
        "\"10s\"",
        "time for the upgrade from polling to WebSocket",
        |s, v| Ok(s.gateway.upgrade_timeout = positive_duration(v)?),
    ),
    node(
        "server.auth_timeout",
        "\"10s\"",
        "a live connection that must authenticate and has not in this time is closed",
        |s, v| Ok(s.gateway.auth_timeout = positive_duration(v)?),
    ),
    node(
        "server.drain_timeout",
        "\"5s\"",
        "time for clients and handlers to finish at shutdown",
        |s, v| Ok(s.gateway.drain_timeout = positive_duration(v)?),
    ),
    node(
        "server.drain_spread",
        "\"off\"",
        "let connections go evenly over this time, before `drain_timeout` counts",
        |s, v| {
            Ok(s.gateway.drain_spread =
                Some(duration_or_none(v)?).filter(|spread| !spread.is_zero()))
        },
    ),
    node(
        "server.send_buffer",
        "\"1MB\"",
        "bound on what waits for one slow connection; past it the connection is closed with 4413 (a burst may be four times as much for a tenth of a second)",
        |s, v| Ok(s.gateway.send_buffer = size_from(MIN_SEND_BUFFER, v)?),
    ),
    node(
        "server.worker_threads",
        "0",
        "threads that own connections; 0 means one per core",
        |s, v| Ok(s.gateway.worker_threads = whole_up_to(MAX_THREADS, v)?),
    ),
    node(
        "server.max_handlers_in_flight",
        "64",
        "handlers of one connection that may run at once; its input waits beyond",
        |s, v| Ok(s.gateway.max_handlers_in_flight = count(v)?),
    ),
    node(
        "server.handler_timeout",
        "\"30s\"",
        "a handler that takes longer is dropped and its event refused",
        |s, v| Ok(s.gateway.handler_timeout = positive_duration(v)?),
    ),
    node(
        "server.tls.cert",
        "\"off\"",
        "PEM file with the certificate chain; re-read on SIGHUP",
        |s, v| Ok(s.tls_cert = optional(v, text)?),
    ),
    node(
        "server.tls.key",
        "\"off\"",
        "PEM file with the private key; re-read on SIGHUP",
        |s, v| Ok(s.tls_key = optional(v, text)?),
    ),
    node(
        "admin.listen",
        "\"127.0.0.1:9090\"",
        "operators' address: metrics, health, API",
        |s, v| Ok(s.admin_listen = address(v)?),
    ),
    secret(
        "admin.token",
        "bearer token for `/v1`; without one it answers only on a loopback listener",
        |s, v| Ok(s.admin_token = optional(v, bearer)?),
    ),
    node(
        "heartbeat.interval",
        "\"25s\"",
        "time between pings",
        |s, v| Ok(s.gateway.heartbeat.interval = positive_duration(v)?),
    ),
    node(
        "heartbeat.timeout",
        "\"10s\"",
        "time to answer a ping",
        |s, v| Ok(s.gateway.heartbeat.timeout = positive_duration(v)?),
    ),
    node(
        "heartbeat.app_interval",
        "\"off\"",
        "when set, each socket also gets the event `heartbeat {timestamp}` this often",
        |s, v| Ok(s.gateway.heartbeat.app_interval = optional(v, positive_duration)?),
    ),
    node(
        "heartbeat.stale_after",
        "\"auto\"",
        "silence after which the sweep disconnects, not less than interval + timeout; `auto` is 5 s more than that",
        |s, v| {
            if v.as_str() == Some("auto") {
                return Ok(());
            }
            Ok(s.gateway.heartbeat.stale_after = Some(positive_duration(v)?))
        },
    ),
    node(
        "heartbeat.sweep_interval",
        "\"30s\"",
        "time between sweeps",
        |s, v| Ok(s.gateway.heartbeat.sweep_interval = positive_duration(v)?),
    ),
    node(
        "heartbeat.idle_timeout",
        "\"off\"",
        "when set, a socket with no application event in this long is closed; `ping`, \
         `heartbeat:response` and `auth:refresh` are none",
        |s, v| Ok(s.gateway.heartbeat.idle_timeout = optional(v, positive_duration)?),
    ),
];

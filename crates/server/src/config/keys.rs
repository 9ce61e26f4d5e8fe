//! Every key that there is: its name, default, meaning and parser stand
//! together here and nowhere else. The reference in docs/configuration.md is
//! printed from this table.

#![expect(clippy::unit_arg, reason = "in the table a setter is one line")]

use std::path::PathBuf;
use std::time::Duration;

use heartline::auth::RoomPattern;
use heartline::config::{
    AllowedOrigins, Announce, AuthMode, ConnectLimit, ConversationAccess, DevicePolicy,
    NamespaceConfig, OnExcess, RoomsDefault,
};
use heartline_cluster::SocketIoAdapter;
use heartline_cluster::seal::{Also, MIN_KEY};
use toml::Value;

use super::place;
use super::settings::{LogFormat, Settings, StoreUrl};
use super::value::{
    Wrong, count, duration, duration_or_none, is_off, limit, list, optional, positive_duration,
    size, size_from, text, truth, whole,
};

/// Puts a value where it belongs.
pub(crate) enum Apply {
    /// For the whole node.
    Node(fn(&mut Settings, &Value) -> Result<(), Wrong>),
    /// For all namespaces, and for one as `namespaces."/name".KEY`.
    Namespace(fn(&mut NamespaceConfig, &Value) -> Result<(), Wrong>),
}

/// One key.
pub(crate) struct Key {
    pub(crate) name: &'static str,
    /// As one would write it in the file.
    pub(crate) default: &'static str,
    pub(crate) help: &'static str,
    pub(crate) apply: Apply,
    /// Its value is not for other people's eyes.
    pub(crate) secret: bool,
}

impl Key {
    /// A value as it may be shown.
    pub(super) fn masked(&self, value: &Value) -> String {
        if self.secret && !is_off(value) {
            return "\"********\"".into();
        }
        match value.as_str().and_then(super::value::masked_url) {
            Some(url) => Value::from(url).to_string(),
            None => value.to_string(),
        }
    }
}

const fn node(
    name: &'static str,
    default: &'static str,
    help: &'static str,
    apply: fn(&mut Settings, &Value) -> Result<(), Wrong>,
) -> Key {
    Key {
        name,
        default,
        help,
        apply: Apply::Node(apply),
        secret: false,
    }
}

const fn secret(
    name: &'static str,
    help: &'static str,
    apply: fn(&mut Settings, &Value) -> Result<(), Wrong>,
) -> Key {
    Key {
        name,
        default: "\"off\"",
        help,
        apply: Apply::Node(apply),
        secret: true,
    }
}

const fn space(
    name: &'static str,
    default: &'static str,
    help: &'static str,
    apply: fn(&mut NamespaceConfig, &Value) -> Result<(), Wrong>,
) -> Key {
    Key {
        name,
        default,
        help,
        apply: Apply::Namespace(apply),
        secret: false,
    }
}

fn one_of<T: Copy>(value: &Value, choices: &[(&str, T)]) -> Result<T, Wrong> {
    let text = text(value)?;
    let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
    let plain = text.to_ascii_lowercase().replace('-', "_");
    choices
        .iter()
        .find(|(name, _)| *name == plain)
        .map(|(_, choice)| *choice)
        .ok_or_else(|| format!("must be one of {}, not {text:?}", names.join(", ")))
}

/// Longest name of a host (RFC 1035), and a port.
const MAX_DOMAIN: usize = 253 + 6;
/// Smallest `server.max_payload`, bytes: CONNECT without a token fits.
const MIN_PAYLOAD: usize = 128;
/// Smallest `server.send_buffer`, bytes: what every client is told at first fits.
const MIN_SEND_BUFFER: usize = 1024;
/// Largest `auth.wallet.ttl`: as long as somebody may look for their wallet.
const MAX_CHALLENGE_TTL: Duration = Duration::from_secs(3_600);
/// Largest `auth.jwt.leeway`: clocks do not differ by more, and tokens should expire.
const MAX_LEEWAY: Duration = Duration::from_secs(86_400);

fn live_path(value: &Value) -> Result<String, Wrong> {
    place::path(&text(value)?, "/live")
}

/// A folder that is there.
fn folder(value: &Value) -> Result<PathBuf, Wrong> {
    let path = PathBuf::from(text(value)?);
    match path.is_dir() {
        true => Ok(path),
        false => Err(format!("must be a folder that is there, not {path:?}")),
    }
}

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

fn address(value: &Value) -> Result<String, Wrong> {
    let address = text(value)?;
    place::address(&address)?;
    Ok(address)
}

/// A parameter of the query that Engine.IO does not use itself.
fn query_name(value: &Value) -> Result<String, Wrong> {
    let name = text(value)?;
    if ["EIO", "transport", "sid", "t", "b64", "j"].contains(&name.as_str()) {
        return Err(format!("cannot be {name:?}: Engine.IO uses that itself"));
    }
    let fits = |c: char| c.is_ascii_alphanumeric() || "_-.".contains(c);
    match name.chars().all(fits) {
        true => Ok(name),
        false => Err(format!(
            "must be the name of a parameter, like \"token\", not {name:?}"
        )),
    }
}

/// The name of a cookie (RFC 6265 §4.1.1).
fn cookie_name(value: &Value) -> Result<String, Wrong> {
    let name = text(value)?;
    let fits = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
    match name.chars().all(fits) {
        true => Ok(name),
        false => Err(format!(
            "must be the name of a cookie, like \"session\", not {name:?}"
        )),
    }
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

fn hmac_secret(value: &Value) -> Result<String, Wrong> {
    let secret = text(value)?;
    // Whoever has a public key could sign with it otherwise.
    match secret.contains("-----BEGIN") {
        true => Err("is a PEM: a public key belongs into auth.jwt.public_key".into()),
        false => Ok(secret),
    }
}

/// A URL that can be fetched. It is not repeated: it may hold a password.
fn web_url(value: &Value) -> Result<String, Wrong> {
    let given = text(value)?;
    let like = "must be a URL like \"https://issuer.example/.well-known/jwks.json\"";
    let url = reqwest::Url::parse(&given).map_err(|error| format!("{like}: {error}"))?;
    let fits = |c: char| c.is_ascii_graphic();
    match ["http", "https"].contains(&url.scheme()) && given.chars().all(fits) {
        true => Ok(url.into()),
        false => Err(like.into()),
    }
}

/// A web address with a place for the code.
fn invite_url(value: &Value) -> Result<String, Wrong> {
    let given = text(value)?;
    let url = reqwest::Url::parse(&given.replace("{code}", "code"));
    let is_web = url.is_ok_and(|url| ["http", "https"].contains(&url.scheme()));
    match is_web && given.contains("{code}") {
        true => Ok(given),
        false => Err("must be an address like \"https://app.example/invite/{code}\"".into()),
    }
}

/// One text, and not what looks like a list of several.
fn one_text(value: &Value) -> Result<String, Wrong> {
    let given = text(value).ok().filter(|given| !given.starts_with('['));
    given.ok_or_else(|| "must be one text, not a list".into())
}

/// A host, with a port perhaps, as it stands in a URL.
fn domain(value: &Value) -> Result<String, Wrong> {
    let given = text(value)?;
    let origin = place::origin(&format!("https://{given}"));
    let origin = origin.ok().filter(|_| !given.contains(['/', '*', '@']));
    let domain = origin
        .as_deref()
        .and_then(|origin| origin.strip_prefix("https://"));
    match domain.filter(|domain| domain.len() <= MAX_DOMAIN && domain.is_ascii()) {
        Some(domain) => Ok(domain.to_owned()),
        None => Err("must be a host as in a URL, like \"app.example\"".into()),
    }
}

fn claim_name(value: &Value) -> Result<String, Wrong> {
    match is_off(value) {
        true => Err("must be the name of a claim, like \"sub\"".into()),
        false => text(value),
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
fn channel_prefix(value: &Value) -> Result<String, Wrong> {
    let prefix = text(value)?;
    let fits = |c: char| c.is_ascii_graphic() && !"*?[]\\".contains(c);
    match !prefix.is_empty() && prefix.chars().all(fits) {
        true => Ok(prefix),
        false => Err(format!(
            "must be text without spaces and without * ? [ ] \\, like \"socket.io\", not {prefix:?}"
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

/// How old something becomes before it is removed.
fn age(value: &Value) -> Result<Duration, Wrong> {
    let age = duration(value)?;
    match age >= Duration::from_secs(1) {
        true => Ok(age),
        false => Err("must be at least 1s, like \"90d\", or off".into()),
    }
}

/// The limit's number and policy arrive apart; both live in one value.
fn device_limit(config: &mut NamespaceConfig) -> (usize, OnExcess) {
    match config.devices {
        DevicePolicy::Limit { max, on_excess } => (max, on_excess),
        _ => (5, OnExcess::Reject),
    }
}

macro_rules! claim {
    ($name:literal, $default:literal, $field:ident) => {
        node(
            concat!("auth.jwt.claims.", $name),
            $default,
            concat!("the claim that carries this: ", $name),
            |settings, value| Ok(settings.jwt.claims.$field = claim_name(value)?),
        )
    };
}

/// All keys, in the order of the reference.
pub(crate) static KEYS: &[Key] = &[
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
                    net.parse().or(whole).map_err(|_| {
                        format!("holds {net:?}, which is no network like \"10.0.0.0/8\"")
                    })
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
        "smallest message that is compressed, for example `\"1KB\"`, where a client offers permessage-deflate; `off` declines it",
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
        "a Socket.IO connection that joins no namespace in this time is closed",
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
        |s, v| {
            let threads = whole(v)?;
            match threads <= 1024 {
                true => Ok(s.gateway.worker_threads = threads),
                false => Err("must be at most 1024".into()),
            }
        },
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
        "when set, a socket with no application event in this long is closed",
        |s, v| Ok(s.gateway.heartbeat.idle_timeout = optional(v, positive_duration)?),
    ),
    space(
        "auth.mode",
        "\"required\"",
        "`required`, `optional` (anonymous sockets allowed) or `off`",
        |n, v| {
            let modes = [
                ("required", AuthMode::Required),
                ("optional", AuthMode::Optional),
                ("off", AuthMode::Off),
            ];
            Ok(n.auth_mode = one_of(v, &modes)?)
        },
    ),
    secret(
        "auth.jwt.secret",
        "secret of HS256, HS384 and HS512 tokens: 16 bytes at least, and 32 to be safe",
        |s, v| Ok(s.jwt.secret = optional(v, hmac_secret)?),
    ),
    node(
        "auth.jwt.public_key",
        "\"off\"",
        "PEM file (or PEM text, its line ends may be written `\\n`) of the public key of RS*, PS*, ES* and EdDSA tokens",
        |s, v| Ok(s.jwt.public_key = optional(v, text)?),
    ),
    node(
        "auth.jwt.jwks_url",
        "\"off\"",
        "URL of a key set; fetched at start, again after its `Cache-Control: max-age` (30 s to 1 h, else 5 min), and for a `kid` it does not hold. Where it cannot be reached, its keys are good for an hour more",
        |s, v| Ok(s.jwt.jwks_url = optional(v, web_url)?),
    ),
    node(
        "auth.jwt.issuer",
        "\"off\"",
        "the `iss` that tokens must have",
        |s, v| Ok(s.jwt.issuer = optional(v, one_text)?),
    ),
    node(
        "auth.jwt.audience",
        "\"off\"",
        "the `aud` that tokens must have",
        |s, v| Ok(s.jwt.audience = optional(v, one_text)?),
    ),
    node(
        "auth.jwt.leeway",
        "\"5s\"",
        "how far clocks may differ; a connection whose token expires stays for as long",
        |s, v| match duration_or_none(v)? {
            leeway if leeway <= MAX_LEEWAY => Ok(s.jwt.leeway = leeway),
            _ => Err("must be at most 1d, or tokens would hardly expire".into()),
        },
    ),
    node(
        "auth.jwt.query",
        "\"token\"",
        "the parameter of a connection's query that may bring a token (`?token=`), where neither the client's `auth` nor the header `Authorization` does; `off` for none",
        |s, v| Ok(s.gateway.token_query = optional(v, query_name)?),
    ),
    node(
        "auth.jwt.cookie",
        "\"off\"",
        "the cookie that may bring a token, where nothing else does; believed only of the server's own pages and those of `server.allowed_origins`, which cannot be `[\"*\"]` then",
        |s, v| Ok(s.gateway.token_cookie = optional(v, cookie_name)?),
    ),
    node(
        "auth.wallet.enabled",
        "false",
        "people sign in with a Stellar or ed25519 key: `POST /auth/challenge` and `POST /auth/connect` on the public port ([wallets](wallets.md))",
        |s, v| Ok(s.wallet.enabled = truth(v)?),
    ),
    node(
        "auth.wallet.domain",
        "\"off\"",
        "where people sign in, like `\"app.example\"`: their wallets show it to them; needed for that",
        |s, v| Ok(s.wallet.domain = optional(v, domain)?.unwrap_or_default()),
    ),
    node(
        "auth.wallet.ttl",
        "\"5m\"",
        "how long a challenge can be signed, at most `\"1h\"`",
        |s, v| match positive_duration(v)? {
            ttl if ttl <= MAX_CHALLENGE_TTL => Ok(s.wallet.ttl = ttl),
            _ => Err("must be at most 1h: a challenge is signed at once, or not at all".into()),
        },
    ),
    node(
        "auth.wallet.token_ttl",
        "\"12h\"",
        "how long the token is good that a wallet gets",
        |s, v| Ok(s.wallet.token_ttl = positive_duration(v)?),
    ),
    node(
        "auth.wallet.user_type",
        "\"off\"",
        "the `userType` of who signs in with a wallet",
        |s, v| Ok(s.wallet.user_type = optional(v, one_text)?),
    ),
    secret(
        "auth.wallet.key",
        "PEM file (or PEM text) of an Ed25519 private key that signs these tokens (EdDSA); without it `auth.jwt.secret` does (HS256)",
        |s, v| Ok(s.jwt.wallet_key = optional(v, text)?),
    ),
    claim!("user", "\"sub\"", user),
    claim!("user_type", "\"userType\"", user_type),
    claim!("tenant", "\"tenantId\"", tenant),
    claim!("device", "\"deviceId\"", device),
    claim!("wallet", "\"walletAddress\"", wallet),
    claim!("rooms", "\"rooms\"", rooms),
    claim!("publish", "\"publish\"", publish),
    space(
        "devices.policy",
        "\"unlimited\"",
        "`unlimited`, `replace` (the newcomer wins) or `limit`",
        |n, v| {
            let (max, on_excess) = device_limit(n);
            let limit = DevicePolicy::Limit { max, on_excess };
            let policies = [
                ("unlimited", DevicePolicy::Unlimited),
                ("replace", DevicePolicy::Replace),
                ("limit", limit),
            ];
            Ok(n.devices = one_of(v, &policies)?)
        },
    ),
    space(
        "devices.max",
        "5",
        "devices a user may have, for `limit`",
        |n, v| {
            let max = count(v)?;
            if let DevicePolicy::Limit { max: there, .. } = &mut n.devices {
                *there = max;
            }
            Ok(())
        },
    ),
    space(
        "devices.max_sockets",
        "1000",
        "sockets a user may have, whatever the policy; one more is refused with `DEVICE_LIMIT`",
        |n, v| Ok(n.max_sockets = count(v)?),
    ),
    space(
        "devices.on_excess",
        "\"reject\"",
        "for `limit`: `reject` the newcomer, or `evict_oldest`",
        |n, v| {
            let choices = [
                ("reject", OnExcess::Reject),
                ("evict_oldest", OnExcess::EvictOldest),
            ];
            let choice = one_of(v, &choices)?;
            if let DevicePolicy::Limit { on_excess, .. } = &mut n.devices {
                *on_excess = choice;
            }
            Ok(())
        },
    ),
    space(
        "limits.messages",
        "{ count = 10, window = \"10s\" }",
        "`message:send` and `chat:send`, per user, per socket when anonymous; one that comes again under its `tempId` counts once; a namespace with another limit counts for itself",
        |n, v| Ok(n.limits.messages = optional(v, limit)?),
    ),
    space(
        "limits.events",
        "{ count = 10000, window = \"10s\" }",
        "every frame and event that a client sends, per socket; CONNECTs and pings of the transport count per connection, by the limits of `/`",
        |n, v| Ok(n.limits.events = optional(v, limit)?),
    ),
    space(
        "limits.joins",
        "{ count = 500, window = \"10s\" }",
        "joins, per socket; CONNECTs per connection, by the limit of `/`",
        |n, v| Ok(n.limits.joins = optional(v, limit)?),
    ),
    node(
        "limits.connects_per_ip",
        "\"default\"",
        "new connections per address; `default` is { count = 1000, window = \"10s\" }, loopback excepted",
        |s, v| {
            s.gateway.connects_per_ip = match v.as_str() {
                Some("default") => ConnectLimit::Default,
                _ => optional(v, limit)?.map_or(ConnectLimit::Off, ConnectLimit::Limit),
            };
            Ok(())
        },
    ),
    node(
        "rooms.max_per_socket",
        "100",
        "rooms one socket may be in",
        |s, v| Ok(s.gateway.max_rooms_per_socket = count(v)?),
    ),
    node(
        "rooms.default",
        "\"open\"",
        "what a token without a list of rooms may join, and one without a list of rooms to publish \
         to may write to, conversations excepted: `open`: every room, or `none`. Who has no token \
         has no lists; `user:ID` is open to its user in any case, and the API to all rooms",
        |s, v| {
            let choices = [("open", RoomsDefault::Open), ("none", RoomsDefault::Closed)];
            Ok(s.gateway.rooms_default = one_of(v, &choices)?)
        },
    ),
    node(
        "conversations.access",
        "\"members\"",
        "who may join a conversation that their token does not name: `members`, or `open`: any user \
         whose token has no list of rooms. With `--dev` it is `open` unless it is set",
        |s, v| {
            let choices = [
                ("members", ConversationAccess::Members),
                ("open", ConversationAccess::Open),
            ];
            Ok(s.gateway.conversations.access = one_of(v, &choices)?)
        },
    ),
    node(
        "conversations.receipts",
        "false",
        "whether everybody in the room of a conversation hears how far its members have read \
         (`message:read`); a user's own sockets hear it in any case",
        |s, v| Ok(s.gateway.conversations.receipts = truth(v)?),
    ),
    node(
        "invites.url",
        "\"off\"",
        "the address of an invite, like `https://app.example/invite/{code}`: the API tells it with \
         the code",
        |s, v| Ok(s.gateway.conversations.invite_url = optional(v, invite_url)?),
    ),
    space(
        "presence.announce",
        "\"namespace\"",
        "who hears `user:online` and `user:offline`: `namespace`, `rooms` (those who share a room) or `off`",
        |n, v| {
            let choices = [
                ("namespace", Announce::Namespace),
                ("rooms", Announce::Rooms),
                ("off", Announce::Off),
            ];
            Ok(n.announce = one_of(v, &choices)?)
        },
    ),
    node(
        "checkpoint.rooms",
        "[\"*\"]",
        "which rooms are kept with what `session:checkpoint` says, by names or prefixes (`lobby:*`); a user's own room never is",
        |s, v| {
            let patterns = list(v)?;
            s.gateway.checkpoint_rooms = patterns.iter().map(|one| RoomPattern::new(one)).collect();
            Ok(())
        },
    ),
    node(
        "session.rejoin",
        "false",
        "whether who comes back joins the kept rooms again that the token still grants; otherwise `session:resume` only names them",
        |s, v| Ok(s.gateway.session_rejoin = truth(v)?),
    ),
    node(
        "presence.offline_grace",
        "\"0s\"",
        "a user who is back within this long was never away",
        |s, v| Ok(s.gateway.offline_grace = duration_or_none(v)?),
    ),
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
        |s, v| Ok(s.gateway.recovery.rooms = list(v)?),
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
         messages, grows to 128 MB, and is worth nothing after a restart of the machine. With it \
         no `heartline.resume` is left",
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
        "when old messages are removed, and what else has expired: minute, hour, day, month and \
         weekday as cron has them; `heartline config check` prints the next three times. Of \
         nodes that share a store one does it. What was missed is made up for within five \
         minutes of the start",
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
    node(
        "log.format",
        "\"text\"",
        "`text` or `json`, one event a line, on standard error",
        |s, v| {
            Ok(s.log_format = one_of(v, &[("text", LogFormat::Text), ("json", LogFormat::Json)])?)
        },
    ),
    node(
        "log.level",
        "\"info\"",
        "`error`, `warn`, `info`, `debug` or `trace`",
        |s, v| {
            let levels = [
                ("error", "error"),
                ("warn", "warn"),
                ("info", "info"),
                ("debug", "debug"),
                ("trace", "trace"),
            ];
            Ok(s.log_level = one_of(v, &levels)?.to_owned())
        },
    ),
    node(
        "dev.builtin_page",
        "true",
        "with `--dev`: whether the demo page is served at `/`",
        |s, v| Ok(s.demo_page = truth(v)?),
    ),
];

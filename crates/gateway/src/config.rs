//! What a gateway can be told. Plain data with the contract's defaults; parsing
//! files and environments is the binary's business.

pub use heartline_core::policy::{
    Announce, AuthMode, ConnectLimit, ConversationAccess, DevicePolicy, Limit, LimitsConfig,
    NamespaceConfig, OnExcess, RoomAccess, RoomsDefault,
};
pub use heartline_engine::http::cors::{AllowedOrigins, normalized as normalized_origin};

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use heartline_core::auth::RoomPattern;
use ipnet::IpNet;

/// Settings of one gateway.
///
/// ```
/// use std::time::Duration;
/// let mut config = heartline::Config::default();
/// config.heartbeat.interval = Duration::from_secs(5);
/// assert_eq!(config.max_payload, 1_000_000);
/// ```
#[derive(Debug, Clone)]
pub struct Config {
    /// Path of the Engine.IO endpoint, with both slashes (`/socket.io/`).
    pub socketio_path: String,
    /// Path of the live endpoint (`/live`); `None` switches the live protocol off.
    pub live_path: Option<String>,
    /// Origins beyond the server's own from which browsers may connect.
    pub allowed_origins: AllowedOrigins,
    /// The parameter of the query that may bring a token; `None` for none.
    pub token_query: Option<String>,
    /// The cookie that may bring a token; `None` for none. It is believed only of the
    /// server's own pages and those of `allowed_origins`, which must be a list then.
    pub token_cookie: Option<String>,
    /// Peers whose `X-Forwarded-For` is believed.
    pub trusted_proxies: Vec<IpNet>,
    /// Largest message in bytes; a larger one closes with 1009 or gets HTTP 413. A client that
    /// is in no namespace yet may send 65 536 bytes, or 400 for each of `max_rooms_per_socket` if
    /// that is more.
    pub max_payload: usize,
    /// Smallest message that is compressed, bytes, where the client offers
    /// permessage-deflate (RFC 7692); `None` to decline every offer. One of more than 64 KiB
    /// goes as it is.
    pub compression: Option<usize>,
    /// Smallest response to a polling request that is compressed, bytes, where the client
    /// accepts gzip or deflate; `None` to compress none.
    pub http_compression: Option<usize>,
    /// Folder with the browser client's files (the `dist` folder of the npm package
    /// `socket.io-client`), served beside the endpoint as `socket.io.js` and so on; `None` to
    /// serve none.
    pub client_files: Option<PathBuf>,
    /// Name of this node. In a cluster it is unique, and `[A-Za-z0-9_-]{1,32}`.
    pub node_id: String,
    /// Most connections at once; more get HTTP 503.
    pub max_connections: Option<usize>,
    /// Most connections at once from one address; more get HTTP 429.
    pub max_connections_per_ip: Option<usize>,
    /// How long a Socket.IO connection may stay without joining a namespace: at first, and when it has
    /// left the last that it was in.
    pub connect_timeout: Duration,
    /// How long an upgrade from polling to WebSocket may take.
    pub upgrade_timeout: Duration,
    /// How long a live connection that must authenticate may take to do so.
    pub auth_timeout: Duration,
    /// How long a drain waits for peers and handlers before it forces the rest.
    pub drain_timeout: Duration,
    /// Over how long a drain lets connections go; `None` lets all go at once.
    pub drain_spread: Option<Duration>,
    /// Bound in bytes on what waits for one slow connection.
    pub send_buffer: usize,
    /// Threads that own connections, at most 1 024; 0 means one per core.
    pub worker_threads: usize,
    /// Pings, sweeps and idleness.
    pub heartbeat: HeartbeatConfig,
    /// What is kept for lost connections that come back.
    pub recovery: RecoveryConfig,
    /// Most rooms one socket may be in, its private `user:ID` room not counted.
    pub max_rooms_per_socket: usize,
    /// What who has no list of rooms may do in those that are no conversations.
    pub rooms_default: RoomsDefault,
    /// Which rooms are kept with a user's checkpoint; private ones never are.
    pub checkpoint_rooms: Vec<RoomPattern>,
    /// Whether who comes back joins the kept rooms again that the token still grants.
    pub session_rejoin: bool,
    /// Conversations.
    pub conversations: ConversationsConfig,
    /// How long a user stays online after the last connection went.
    pub offline_grace: Duration,
    /// New connections per address.
    pub connects_per_ip: ConnectLimit,
    /// The namespaces that exist. Always holds `/`.
    pub namespaces: BTreeMap<String, NamespaceConfig>,
    /// Whether `server:hello` and `connection:success` are sent.
    pub hello: bool,
    /// Whether the contract's own events (`join`, `message:send`, …) are handled. Without
    /// them, a Socket.IO client's event that no handler is for is left unanswered.
    pub builtin_events: bool,
    /// Most handlers of one connection that may be running at once; reading
    /// from the connection pauses there. At least 1.
    pub max_handlers_in_flight: usize,
    /// How long a handler may run before it is dropped and its event refused.
    pub handler_timeout: Duration,
}

impl Config {
    /// What decides of rooms where a token's claims do not.
    pub fn room_access(&self) -> RoomAccess {
        RoomAccess {
            conversations: self.conversations.access,
            rooms: self.rooms_default,
        }
    }

    /// How long a lost connection may come back, and for how long what was said is kept for
    /// that: who is lost may have been so for as long as it takes to notice, and twice that,
    /// to be sure. `None`: nothing is.
    pub fn kept_for(&self) -> Option<(Duration, Duration)> {
        let window = self.recovery.window?;
        Some((window, self.heartbeat.age_kept(window)))
    }
}

impl Default for Config {
    fn default() -> Self {
        Config {
            socketio_path: "/socket.io/".into(),
            live_path: Some("/live".into()),
            allowed_origins: AllowedOrigins::default(),
            token_query: Some("token".into()),
            token_cookie: None,
            trusted_proxies: Vec::new(),
            max_payload: 1_000_000,
            compression: None,
            http_compression: Some(1024),
            client_files: None,
            node_id: random_node_id(),
            max_connections: None,
            max_connections_per_ip: None,
            connect_timeout: Duration::from_secs(45),
            upgrade_timeout: Duration::from_secs(10),
            auth_timeout: Duration::from_secs(10),
            drain_timeout: Duration::from_secs(5),
            drain_spread: None,
            send_buffer: 1_000_000,
            worker_threads: 0,
            heartbeat: HeartbeatConfig::default(),
            recovery: RecoveryConfig::default(),
            max_rooms_per_socket: 100,
            rooms_default: RoomsDefault::default(),
            checkpoint_rooms: vec![RoomPattern::new("*")],
            session_rejoin: false,
            conversations: ConversationsConfig::default(),
            offline_grace: Duration::ZERO,
            connects_per_ip: ConnectLimit::Default,
            namespaces: BTreeMap::from([("/".into(), NamespaceConfig::default())]),
            hello: true,
            builtin_events: true,
            max_handlers_in_flight: 64,
            handler_timeout: Duration::from_secs(30),
        }
    }
}

/// Most threads that own connections: each has pollers and buffers of its own.
const MAX_THREADS: usize = 1024;

impl Config {
    /// What no gateway can work with, and what to set instead.
    pub(crate) fn check(&self) -> Result<(), String> {
        self.check_namespaces()?;
        self.check_paths()?;
        self.check_times()?;
        if self.token_cookie.is_some() && self.allowed_origins == AllowedOrigins::Any {
            return Err(
                "a token in a cookie needs a list of allowed_origins: any page could \
                        connect as its visitor otherwise"
                    .into(),
            );
        }
        for (name, value) in [
            ("max_payload", self.max_payload),
            ("send_buffer", self.send_buffer),
            ("max_handlers_in_flight", self.max_handlers_in_flight),
        ] {
            if value == 0 {
                return Err(format!("{name} must be at least 1"));
            }
        }
        if self.worker_threads > MAX_THREADS {
            return Err(format!("worker_threads must be at most {MAX_THREADS}"));
        }
        Ok(())
    }

    /// What no node of a cluster can work with, and what to set instead: the names of processes and
    /// channels there are made of nodes' names.
    pub(crate) fn check_of_cluster(&self) -> Result<(), String> {
        let fits = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
        let is_name = (1..=32).contains(&self.node_id.len()) && self.node_id.chars().all(fits);
        match is_name {
            true => Ok(()),
            false => Err("node_id must have 1 to 32 letters, digits, _ or - in a cluster".into()),
        }
    }

    fn check_namespaces(&self) -> Result<(), String> {
        if !self.namespaces.contains_key("/") {
            return Err("the namespace / must exist".into());
        }
        if self.namespaces.len() > usize::from(u16::MAX) {
            return Err("there are too many namespaces".into());
        }
        for (name, namespace) in &self.namespaces {
            let in_name = |what: &str| Err(format!("the namespace {name:?} {what}"));
            if !name.starts_with('/') {
                return in_name("must begin with a slash");
            }
            // Either ends the name in a packet.
            if name.contains([',', '?']) {
                return in_name("can have no comma and no question mark: no client could name it");
            }
            if namespace.max_sockets == 0 {
                return in_name("must have max_sockets of at least 1");
            }
            if matches!(namespace.devices, DevicePolicy::Limit { max: 0, .. }) {
                return in_name("must have devices with a max of at least 1");
            }
            let LimitsConfig {
                messages,
                events,
                joins,
            } = &namespace.limits;
            let mut limits = [messages, events, joins].into_iter().flatten();
            if limits.any(Limit::is_nothing) {
                return in_name(
                    "must have limits of at least 1 in more than no time; None is no limit",
                );
            }
        }
        match &self.connects_per_ip {
            ConnectLimit::Limit(limit) if limit.is_nothing() => Err(
                "connects_per_ip must be at least 1 in more than no time; ConnectLimit::Off is no \
                 limit"
                    .into(),
            ),
            _ => Ok(()),
        }
    }

    /// Each path leads to one place.
    fn check_paths(&self) -> Result<(), String> {
        let socketio = &self.socketio_path;
        if !socketio.starts_with('/') || !socketio.ends_with('/') {
            return Err(format!(
                "socketio_path must be a path with a slash before and behind it, like \
                 \"/socket.io/\", not {socketio:?}"
            ));
        }
        let Some(live) = &self.live_path else {
            return Ok(());
        };
        if !live.starts_with('/') {
            return Err(format!(
                "live_path must begin with a slash, like \"/live\", not {live:?}"
            ));
        }
        if format!("{live}/").starts_with(socketio) {
            return Err(format!(
                "live_path {live:?} must not be socketio_path {socketio:?} or below it: Socket.IO \
                 would answer there"
            ));
        }
        Ok(())
    }

    fn check_times(&self) -> Result<(), String> {
        let HeartbeatConfig {
            interval, timeout, ..
        } = self.heartbeat;
        for (name, time) in [
            ("heartbeat.interval", Some(interval)),
            ("heartbeat.timeout", Some(timeout)),
            ("heartbeat.app_interval", self.heartbeat.app_interval),
            (
                "heartbeat.sweep_interval",
                Some(self.heartbeat.sweep_interval),
            ),
            ("heartbeat.idle_timeout", self.heartbeat.idle_timeout),
            ("connect_timeout", Some(self.connect_timeout)),
            ("upgrade_timeout", Some(self.upgrade_timeout)),
            ("auth_timeout", Some(self.auth_timeout)),
            ("handler_timeout", Some(self.handler_timeout)),
        ] {
            if time.is_some_and(|time| time.is_zero()) {
                return Err(format!("{name} must be more than 0"));
            }
        }
        if self.heartbeat.stale_after() < interval + timeout {
            return Err(
                "heartbeat.stale_after must be at least heartbeat.interval + heartbeat.timeout, or \
                 clients that answer every ping in time would be swept away"
                    .into(),
            );
        }
        Ok(())
    }

    /// The namespaces, in whose order their numbers are.
    pub(crate) fn namespace_list(&self) -> String {
        let names: Vec<&str> = self.namespaces.keys().map(String::as_str).collect();
        names.join(" ")
    }
}

/// Who takes part in conversations, and what of it others see.
#[derive(Debug, Clone, Default)]
pub struct ConversationsConfig {
    /// Who may join one that their token does not name.
    pub access: ConversationAccess,
    /// Whether everybody in a conversation is told how far its members have read.
    pub receipts: bool,
    /// The address of an invite, with `{code}` in it. `invite:join` takes the whole address where it
    /// finds the code there ([`is_template`](heartline_wire::invite::is_template)).
    pub invite_url: Option<String>,
}

/// A random node name, `node-` and eight hexadecimal digits.
pub fn random_node_id() -> String {
    let mut bytes = [0u8; 4];
    heartline_engine::random::fill(&mut bytes);
    format!("node-{:08x}", u32::from_be_bytes(bytes))
}

/// Liveness settings. See the contract, "Heartbeats and staleness".
#[derive(Debug, Clone)]
pub struct HeartbeatConfig {
    /// Time between pings.
    pub interval: Duration,
    /// Time a peer has to answer one.
    pub timeout: Duration,
    /// When set, each socket also gets the event `heartbeat {timestamp}` this often.
    pub app_interval: Option<Duration>,
    /// Age of `lastSeenAt` past which the sweep disconnects an entry;
    /// `None` means interval + timeout + 5 s.
    pub stale_after: Option<Duration>,
    /// Time between sweeps.
    pub sweep_interval: Duration,
    /// When set, a socket with no application event in this long is closed.
    pub idle_timeout: Option<Duration>,
}

impl HeartbeatConfig {
    /// For how long what was said is kept for who comes back within a window.
    pub(crate) fn age_kept(&self, window: Duration) -> Duration {
        window + 2 * (self.interval + self.timeout)
    }

    /// Age past which the sweep disconnects an entry.
    pub fn stale_after(&self) -> Duration {
        self.stale_after
            .unwrap_or(self.interval + self.timeout + Duration::from_secs(5))
    }
}

impl Default for HeartbeatConfig {
    fn default() -> Self {
        HeartbeatConfig {
            interval: Duration::from_secs(25),
            timeout: Duration::from_secs(10),
            app_interval: None,
            stale_after: None,
            sweep_interval: Duration::from_secs(30),
            idle_timeout: None,
        }
    }
}

/// What is kept for lost connections that come back. See the contract, "Reconnecting".
#[derive(Debug, Clone)]
pub struct RecoveryConfig {
    /// How long a lost connection can be resumed; `None`: nothing is kept, and every
    /// reconnection is fresh.
    pub window: Option<Duration>,
    /// Patterns of the rooms whose events are kept; what goes to whole namespaces is kept with
    /// `*` among them.
    pub rooms: Vec<String>,
    /// Most events of a room.
    pub events: usize,
    /// What these may weigh, bytes.
    pub bytes: usize,
    /// What all that is kept may weigh, bytes.
    pub buffer: usize,
    /// Most lost connections; of more, those that were lost first cannot be resumed.
    pub sessions: usize,
    /// Most events in one resume. Half of [`Config::send_buffer`] is another bound.
    pub max_replay: usize,
    /// A file from which the next process goes on, if this one is killed; `None`: what is kept
    /// ends with the process.
    pub journal: Option<PathBuf>,
    /// A file in which a drain leaves to the next process what is kept, where this one is no
    /// part of a cluster and has no journal; `None`: it ends with the process.
    pub stopped: Option<PathBuf>,
    /// What is to be kept is refused while the line that all nodes share cannot be reached;
    /// otherwise those who are here hear it, and who was away is told of a gap.
    pub refuse_unreachable: bool,
}

impl Default for RecoveryConfig {
    fn default() -> Self {
        RecoveryConfig {
            window: None,
            rooms: vec!["*".into()],
            events: 256,
            bytes: 256_000,
            buffer: 64_000_000,
            sessions: 100_000,
            max_replay: 1_000,
            journal: None,
            stopped: None,
            refuse_unreachable: false,
        }
    }
}

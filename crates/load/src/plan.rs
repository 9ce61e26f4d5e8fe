//! What is to be done to which server.

use std::fmt;
use std::net::{SocketAddr, ToSocketAddrs};
use std::str::FromStr;
use std::time::Duration;

/// What the connections do once they are there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scenario {
    /// Nothing but answer pings.
    Idle,
    /// Each sends events and waits for their acknowledgements.
    Echo,
    /// One member of each room publishes; all receive.
    Broadcast,
    /// They leave as soon as they have come, and others come.
    Churn,
    /// A broadcast during which some members do not read.
    Slow,
}

impl Scenario {
    /// The name on the command line and in the report.
    pub fn word(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Echo => "echo",
            Self::Broadcast => "broadcast",
            Self::Churn => "churn",
            Self::Slow => "slow",
        }
    }
}

/// What the connections speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// Socket.IO v4 over a WebSocket from the start.
    SocketIo,
    /// Socket.IO v4 over HTTP long-polling, never upgraded.
    Polling,
    /// Heartline's live protocol.
    Live,
    /// Frames without a protocol, for servers that are nothing but a limit to
    /// compare with: `e…` comes back to its sender, `s` subscribes and comes
    /// back, `p…` goes to every subscriber.
    Raw,
}

impl Protocol {
    /// The name on the command line and in the report.
    pub fn word(self) -> &'static str {
        match self {
            Self::SocketIo => "socketio",
            Self::Polling => "polling",
            Self::Live => "live",
            Self::Raw => "raw",
        }
    }

    fn default_path(self) -> &'static str {
        match self {
            Self::SocketIo | Self::Polling => "/socket.io/",
            Self::Live => "/live",
            Self::Raw => "/",
        }
    }
}

/// Where the server is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The value of the `Host` header.
    pub(crate) authority: String,
    /// The path, if the address named one.
    path: Option<String>,
    pub(crate) address: SocketAddr,
}

/// Why an address cannot be a target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TargetError {
    /// Neither `http://` nor `ws://`.
    Scheme,
    /// The name does not resolve, or the port is no number.
    Unresolved(String),
}

impl fmt::Display for TargetError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Scheme => f.write_str(
                "write the address like http://127.0.0.1:8080 (TLS is not spoken: aim behind its terminator)",
            ),
            Self::Unresolved(why) => write!(f, "the address does not resolve: {why}"),
        }
    }
}

impl std::error::Error for TargetError {}

impl FromStr for Target {
    type Err = TargetError;

    fn from_str(url: &str) -> Result<Self, TargetError> {
        let rest = url
            .strip_prefix("http://")
            .or_else(|| url.strip_prefix("ws://"))
            .ok_or(TargetError::Scheme)?;
        let (authority, path) = match rest.find('/') {
            Some(at) => (&rest[..at], &rest[at..]),
            None => (rest, ""),
        };
        let named = authority
            .rsplit_once(':')
            .is_some_and(|(_, port)| !port.ends_with(']'));
        let resolvable = if named {
            authority.to_owned()
        } else {
            format!("{authority}:80")
        };
        let address = resolvable
            .to_socket_addrs()
            .map_err(|error| TargetError::Unresolved(error.to_string()))?
            .next()
            .ok_or_else(|| TargetError::Unresolved("no address".into()))?;
        Ok(Target {
            authority: authority.to_owned(),
            path: (path.len() > 1).then(|| path.to_owned()),
            address,
        })
    }
}

impl Target {
    /// The path for `protocol`, its usual one if the address named none.
    pub(crate) fn path(&self, protocol: Protocol) -> &str {
        self.path
            .as_deref()
            .unwrap_or_else(|| protocol.default_path())
    }
}

/// A run. [`Plan::new`] has defaults for everything else.
#[derive(Clone, Debug)]
pub struct Plan {
    /// What the connections do.
    pub scenario: Scenario,
    /// Where the server is.
    pub target: Target,
    /// What they speak.
    pub protocol: Protocol,
    /// How many connections, 1 or more.
    pub connections: usize,
    /// Client threads, 1 or more.
    pub threads: usize,
    /// Handshakes under way at once.
    pub concurrency: usize,
    /// Most new connections a second; 0 for as many as there can be.
    pub connect_rate: u32,
    /// How long is measured.
    pub duration: Duration,
    /// How long the same is done before it is measured.
    pub warmup: Duration,
    /// Rooms, over which the connections are spread evenly; 0 to join none.
    pub rooms: usize,
    /// Events on their way at once: of a connection (echo), of a room (broadcast).
    pub in_flight: usize,
    /// Publications a second over all rooms instead of `in_flight`; 0 for that.
    pub publish_rate: f64,
    /// Bytes of padding in each event's data.
    pub size: usize,
    /// The event that is acknowledged (echo).
    pub event: String,
    /// Publish with a key, so that the server may keep only the newest.
    pub keyed: bool,
    /// The share of members that stop reading (slow), in percent.
    pub slow_percent: usize,
    /// The server's processes on this machine, for its memory and CPU.
    pub pids: Vec<u32>,
    /// How long the server is left alone before its memory is read.
    pub settle: Duration,
    /// How long one handshake may take.
    pub connect_timeout: Duration,
}

impl Plan {
    /// A small run of `scenario` against `target`.
    pub fn new(scenario: Scenario, target: Target) -> Self {
        Plan {
            scenario,
            target,
            protocol: Protocol::SocketIo,
            connections: 100,
            threads: 1,
            concurrency: 128,
            connect_rate: 0,
            duration: Duration::from_secs(10),
            warmup: Duration::from_secs(1),
            rooms: 1,
            in_flight: 1,
            publish_rate: 0.0,
            size: 128,
            event: "ping".into(),
            keyed: false,
            slow_percent: 10,
            pids: Vec::new(),
            settle: Duration::from_millis(1500),
            connect_timeout: Duration::from_secs(20),
        }
    }

    /// The room of connection `index`.
    pub(crate) fn room(&self, index: usize) -> Option<usize> {
        (self.rooms > 0).then(|| index % self.rooms)
    }

    /// Whether connection `index` stops reading once it is in its room. The
    /// first of a room never does: it publishes.
    pub(crate) fn is_slow(&self, index: usize) -> bool {
        let position = index / self.rooms.max(1);
        self.scenario == Scenario::Slow
            && position > 0
            && (position * self.slow_percent) / 100 != ((position - 1) * self.slow_percent) / 100
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        let target: Target = "http://127.0.0.1:8080".parse().unwrap();
        assert_eq!(target.address.port(), 8080);
        assert_eq!(target.path(Protocol::Live), "/live");
        let target: Target = "ws://127.0.0.1/other".parse().unwrap();
        assert_eq!(target.address.port(), 80);
        assert_eq!(target.path(Protocol::Polling), "/other");
        assert_eq!(
            "https://127.0.0.1".parse::<Target>(),
            Err(TargetError::Scheme)
        );
        assert!("http://127.0.0.1:x".parse::<Target>().is_err());
    }

    #[test]
    fn one_member_in_ten_is_slow_and_no_publisher() {
        let mut plan = Plan::new(Scenario::Slow, "http://127.0.0.1:1".parse().unwrap());
        let slow = |plan: &Plan| (0..1000).filter(|&index| plan.is_slow(index)).count();
        assert_eq!(slow(&plan), 99);
        plan.rooms = 10;
        assert!((80..=100).contains(&slow(&plan)));
        assert!((0..10).all(|index| !plan.is_slow(index)));
    }
}

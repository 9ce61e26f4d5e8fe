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
    /// Whether TLS is spoken.
    pub(crate) tls: bool,
}

/// Why an address cannot be a target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TargetError {
    /// None of `http://`, `ws://`, `https://` and `wss://`.
    Scheme,
    /// The name does not resolve, or the port is no number.
    Unresolved(String),
}

impl fmt::Display for TargetError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Scheme => f.write_str(
                "write the address like http://127.0.0.1:8080 or https://127.0.0.1:8443",
            ),
            Self::Unresolved(why) => write!(f, "the address does not resolve: {why}"),
        }
    }
}

impl std::error::Error for TargetError {}

impl FromStr for Target {
    type Err = TargetError;

    fn from_str(url: &str) -> Result<Self, TargetError> {
        let (tls, rest) = [
            ("http://", false),
            ("ws://", false),
            ("https://", true),
            ("wss://", true),
        ]
        .into_iter()
        .find_map(|(scheme, tls)| Some((tls, url.strip_prefix(scheme)?)))
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
            format!("{authority}:{}", if tls { 443 } else { 80 })
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
            tls,
        })
    }
}

impl Target {
    /// The host without its port.
    pub(crate) fn host(&self) -> &str {
        let named = self.authority.rsplit_once(':');
        let host = match named {
            Some((host, port)) if !port.ends_with(']') => host,
            _ => &self.authority,
        };
        host.trim_start_matches('[').trim_end_matches(']')
    }

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
    /// Members of each room that take turns publishing, 1 or more.
    pub publishers: usize,
    /// Every event leaves as soon as it is due, in a write of its own. Otherwise
    /// what one turn has for a connection is one write.
    pub apart: bool,
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
            publishers: 1,
            apart: false,
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

    /// The connection that is publisher `number` of `room`. All of a room belong to
    /// the thread of its first member.
    pub(crate) fn publisher(&self, room: usize, number: usize) -> usize {
        room + self.rooms * self.threads * (number % self.publishers)
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
        let target: Target = "https://[::1]".parse().unwrap();
        assert_eq!(
            (target.address.port(), target.host(), target.tls),
            (443, "::1", true)
        );
        assert_eq!(
            "ftp://127.0.0.1".parse::<Target>(),
            Err(TargetError::Scheme)
        );
        assert!("http://127.0.0.1:x".parse::<Target>().is_err());
    }

    #[test]
    fn publishers_of_a_room_are_its_members_and_of_one_thread() {
        let mut plan = Plan::new(Scenario::Broadcast, "http://127.0.0.1:1".parse().unwrap());
        (plan.rooms, plan.threads, plan.publishers) = (5, 2, 4);
        for room in 0..5 {
            let all: Vec<usize> = (0..8).map(|number| plan.publisher(room, number)).collect();
            assert_eq!((all[0], &all[..4]), (room, &all[4..]));
            assert!(all.iter().all(|&index| plan.room(index) == Some(room)));
            assert!(all.iter().all(|&index| index % 2 == room % 2));
            assert!(all.iter().all(|&index| index < 5 * 2 * 4));
        }
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

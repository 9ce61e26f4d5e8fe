//! A hub from its clients' side, on the engine's harness: whole packets in and out, and no
//! moment that the test has not named.
//!
//! Handlers and what runs beside the shards are futures on a runtime whose clock stands
//! still; [`World`] moves it together with the shard's.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

mod connect;
mod conversations;
#[path = "../../../tests/support/conversations_of.rs"]
mod conversations_of;
mod data;
mod drain;
mod gaps;
mod grants;
#[path = "../../../tests/support/invites_of.rs"]
mod invites_of;
mod leaving;
mod limits;
mod lists;
mod logs;
mod moving;
mod order;
mod outside;
mod requests;
mod resume;
mod slow;
#[path = "../../../tests/support/stalled.rs"]
mod stalled;
mod sweep;
mod upgrade;
mod views;
mod watching;

use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use heartline_core::auth::{
    AuthError, Authenticator, BoxFuture, Credentials, Identity, RoomPattern, UserKey,
};
use heartline_core::policy::{Announce, LimitsConfig, NamespaceConfig};
use heartline_engine::clock::Clock;
use heartline_engine::failure::Failure;
use heartline_engine::harness::{Answer, Harness, Opening, Peer, Session, Told};
use heartline_engine::shard::request::Handshake;
use heartline_wire::reason::Reason;
use heartline_wire::time::Micros;
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinHandle;

use super::Hub;
use crate::builder::{GatewayBuilder, engine_settings};
use crate::config::{Config, HeartbeatConfig};
use crate::gateway::Gateway;
use crate::handler::LeftRooms;
use crate::socket::Socket;

/// Time passes in steps of at most this: what is due within one is due at its end.
const STEP: Duration = Duration::from_millis(10);
/// How often the runtime's tasks have their turn before the shard has its own: what one of
/// them asks of another is done within this.
const ROUNDS: usize = 8;

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// What tests start from: no hello, no limits, no news of users, two namespaces, and pings
/// once an hour.
fn config() -> Config {
    let namespace = || NamespaceConfig {
        limits: LimitsConfig {
            messages: None,
            events: None,
            joins: None,
        },
        announce: Announce::Off,
        ..NamespaceConfig::default()
    };
    Config {
        hello: false,
        namespaces: ["/", "/chat"].map(|name| (name.into(), namespace())).into(),
        heartbeat: HeartbeatConfig {
            interval: seconds(3600),
            timeout: seconds(3600),
            ..HeartbeatConfig::default()
        },
        ..Config::default()
    }
}

/// The same with something different about the namespace `/`.
fn config_with(change: impl FnOnce(&mut NamespaceConfig)) -> Config {
    let mut config = config();
    change(config.namespaces.get_mut("/").unwrap());
    config
}

/// The same where everybody in `/` hears of users who come and go.
fn announced() -> Config {
    config_with(|root| root.announce = Announce::Namespace)
}

/// Tokens say what they grant, `user=7/rider` also the type of user:
/// `user=ann tenant=acme device=phone rooms=a,b* publish=a ttl=5 after=2`. `ttl` is in
/// seconds from when it is looked at, `after` says how many seconds that takes; `boom=1`
/// panics.
struct PlainTokens(Clock);

impl Authenticator for PlainTokens {
    fn authenticate(&self, credentials: Credentials) -> BoxFuture<Result<Identity, AuthError>> {
        let clock = self.0;
        Box::pin(async move {
            let token = credentials.token.unwrap_or_default();
            match token.as_str() {
                "bad" => return Err(AuthError::Invalid),
                "old" => return Err(AuthError::Expired),
                "later" => return Err(AuthError::Unavailable),
                _ => {}
            }
            let mut identity = Identity::default();
            for (name, value) in token.split(' ').filter_map(|part| part.split_once('=')) {
                match name {
                    "user" => {
                        let (id, kind) = value.split_once('/').unwrap_or((value, ""));
                        identity.user = Some(Arc::new(UserKey {
                            tenant_id: None,
                            user_id: id.into(),
                            user_type: Some(kind.into()).filter(|_| !kind.is_empty()),
                        }));
                    }
                    "tenant" => {
                        let user = identity.user.take().expect("the user is named before");
                        identity.user = Some(Arc::new(UserKey {
                            tenant_id: Some(value.into()),
                            ..UserKey::clone(&user)
                        }));
                    }
                    "device" => identity.device_id = Some(value.into()),
                    "rooms" => {
                        identity.rooms = Some(value.split(',').map(RoomPattern::new).collect());
                    }
                    "publish" => {
                        identity.publish = Some(value.split(',').map(RoomPattern::new).collect());
                    }
                    "ttl" => {
                        let ttl = seconds(value.parse().unwrap());
                        identity.expires_at = Some(clock.unix_millis(clock.now() + ttl));
                    }
                    "after" => tokio::time::sleep(seconds(value.parse().unwrap())).await,
                    "boom" => panic!("an authenticator's fault"),
                    other => panic!("a token with {other}"),
                }
            }
            Ok(identity)
        })
    }
}

/// What disconnect handlers were told: `ann drained lobby,user:ann`.
type Farewells = Arc<Mutex<Vec<String>>>;

/// One node with one shard, whose clock is moved by hand.
struct World {
    harness: Harness<Hub>,
    gateway: Gateway,
    farewells: Farewells,
    runtime: Runtime,
}

impl World {
    fn new(config: Config) -> World {
        World::with(config, |builder| builder)
    }

    /// With handlers of an app.
    fn with(config: Config, app: impl FnOnce(GatewayBuilder) -> GatewayBuilder) -> World {
        World::made(config, Duration::ZERO, app)
    }

    /// One that begins so much later than it is.
    fn later(config: Config, later: Duration) -> World {
        World::made(config, later, |builder| builder)
    }

    fn made(
        config: Config,
        later: Duration,
        app: impl FnOnce(GatewayBuilder) -> GatewayBuilder,
    ) -> World {
        let runtime = Builder::new_current_thread()
            .enable_all()
            .start_paused(true)
            .build()
            .unwrap();
        let inside = runtime.enter();
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        let clock = Clock::start_at(since.unwrap() + later);
        // As much as has passed on the harness' clock.
        runtime.block_on(tokio::time::advance(seconds(1)));
        let farewells = Farewells::default();
        let told = farewells.clone();
        let note = move |socket: Socket, reason: Reason, LeftRooms(rooms): LeftRooms| {
            let who = socket.identity().user_id().unwrap_or("nobody");
            let farewell = format!("{who} {} {}", reason.as_str(), rooms.join(","));
            told.lock().unwrap().push(farewell);
            async {}
        };
        let settings = engine_settings(&config, None);
        let builder = app(Gateway::builder(config)
            .authenticator(PlainTokens(clock))
            .on_disconnect(note));
        let mut assembled = None;
        let mut harness = Harness::new(settings, |handle| {
            let parts = builder.assemble(clock, vec![handle.clone()]).unwrap();
            let hub = parts.hub(0);
            assembled = Some(parts);
            hub
        });
        let parts = assembled.unwrap();
        harness.engine().clock = clock;
        harness.count_in(parts.shared.slots.clone());
        let gateway = parts.gateway(Failure::default());
        drop(inside);
        World {
            harness,
            gateway,
            farewells,
            runtime,
        }
    }

    // --- time ------------------------------------------------------------

    /// Lets everybody finish what can be done at this moment.
    fn settle(&mut self) -> Option<Micros> {
        loop {
            let inside = self.runtime.enter();
            self.harness.settle();
            drop(inside);
            self.runtime.block_on(async {
                for _ in 0..ROUNDS {
                    tokio::task::yield_now().await;
                }
            });
            let _inside = self.runtime.enter();
            let turned = self.harness.turn();
            let busy = turned.until.is_some_and(|until| until <= self.now());
            if turned.stopped || (turned.heard == 0 && !busy) {
                return turned.until;
            }
        }
    }

    fn now(&self) -> Micros {
        self.harness.now()
    }

    /// Lets time pass for all.
    fn run(&mut self, time: Duration) {
        let end = self.now() + time;
        let mut due = self.settle();
        while self.now() < end {
            let left = end - self.now();
            let wake = due.map_or(left, |due| due - self.now());
            let step = STEP.min(left).min(wake.max(Duration::from_micros(1)));
            self.runtime.block_on(tokio::time::advance(step));
            self.harness.advance(step);
            due = self.settle();
        }
    }

    /// The gateway's time, Unix milliseconds.
    fn unix_millis(&self) -> u64 {
        let _inside = self.runtime.enter();
        self.gateway.unix_millis()
    }

    /// Begins something that goes on as time passes.
    fn begin<F>(&self, work: F) -> JoinHandle<F::Output>
    where
        F: Future<Output: Send> + Send + 'static,
    {
        self.runtime.spawn(work)
    }

    // --- clients ---------------------------------------------------------

    /// A WebSocket, opened by the time this returns.
    fn open(&mut self, opening: Opening) -> Client {
        let peer = self.harness.websocket(opening);
        self.settle();
        Client(peer)
    }

    /// An Engine.IO session over WebSocket that has joined nothing.
    fn engineio(&mut self) -> Client {
        let mut client = self.open(Opening::engineio());
        assert!(client.hears()[0].starts_with("0{"));
        client
    }

    /// A Socket.IO client in `/`.
    fn socketio(&mut self, token: &str) -> Client {
        let mut client = self.engineio();
        client.says(&connect(token));
        self.settle();
        let answer = client.hears();
        assert!(answer[0].starts_with("40{\"sid\""), "{answer:?}");
        client
    }

    /// A live client with its token in the query.
    fn live(&mut self, token: &str) -> Client {
        self.live_on(token, Opening::plain())
    }

    fn live_on(&mut self, token: &str, opening: Opening) -> Client {
        let handshake = Handshake {
            token: Some(token.into()),
            ..Handshake::default()
        };
        self.open(Opening {
            handshake,
            ..opening
        })
    }

    /// A Socket.IO client in `/` that polls.
    fn polling(&mut self, token: &str) -> Session {
        let session = self.harness.polling();
        self.post(session, &connect(token));
        let answer = self.get(session);
        assert!(answer.starts_with("40{\"sid\""), "{answer}");
        session
    }

    /// What a polling client finds now.
    fn get(&mut self, session: Session) -> String {
        let mut asked = self.harness.get(session);
        self.settle();
        match asked.answer() {
            Some(Answer::Payload(payload)) => payload,
            other => panic!("no payload: {other:?}"),
        }
    }

    /// A polling client says something.
    fn post(&mut self, session: Session, body: &str) {
        let mut asked = self.harness.post(session, body);
        self.settle();
        assert_eq!(asked.answer(), Some(Answer::Accepted));
    }

    /// A client says something, and this is all that it hears at this moment.
    fn ask(&mut self, client: &mut Client, text: &str) -> Vec<String> {
        client.says(text);
        self.settle();
        client.hears()
    }

    /// What disconnect handlers were told since this was last asked.
    fn farewells(&self) -> Vec<String> {
        std::mem::take(&mut *self.farewells.lock().unwrap())
    }

    /// A number of the metrics, which must be there.
    fn metric(&self, name: &str) -> u64 {
        let metrics = self.gateway.encode_metrics();
        let line = metrics.lines().find_map(|line| line.strip_prefix(name));
        let value = line.unwrap_or_else(|| panic!("there is no metric {name}"));
        value.trim().parse().unwrap()
    }
}

/// A CONNECT to `/`.
fn connect(token: &str) -> String {
    format!(r#"40{{"token":"{token}"}}"#)
}

/// The client's end of a WebSocket, above its frames.
struct Client(Peer);

impl Client {
    fn says(&mut self, text: &str) {
        self.0.text(text);
    }

    /// What has come since this was last asked: texts as they are, a close frame as
    /// `close CODE`, and `end` when the stream has ended.
    fn hears(&mut self) -> Vec<String> {
        let told = self.0.read().into_iter();
        told.map(|told| match told {
            Told::Text(text) => text,
            Told::Binary(bytes) => format!("{bytes:?}"),
            Told::Ping(_) => "ping".into(),
            Told::Pong(_) => "pong".into(),
            Told::Close(code) => format!("close {code}"),
            Told::End => "end".into(),
        })
        .collect()
    }
}

/// The same without the server's times, ids and spreads, each by `_`: for comparisons.
fn plain(said: Vec<String>) -> Vec<String> {
    const HIDDEN: [&str; 5] = [
        "\"at\":",
        "\"rev\":",
        "\"timestamp\":",
        "\"reconnectInMs\":",
        "\"retryAfterMs\":",
    ];
    let hide = |mut text: String| {
        for name in HIDDEN {
            if let Some(at) = text.find(name).map(|at| at + name.len()) {
                let end = text[at..].find(|one: char| !one.is_ascii_digit());
                text.replace_range(at..at + end.unwrap(), "_");
            }
        }
        text
    };
    said.into_iter().map(hide).collect()
}

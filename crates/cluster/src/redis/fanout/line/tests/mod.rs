//! The line on a real server: processes that say and hear, and the script by itself.

mod beside;
mod follow;
mod keeps;
mod phase;
mod prove;
mod say;
mod sessions;
mod status;

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use heartline_core::auth::{BoxFuture, UserKey};
use heartline_core::backplane::line::{
    Away, Changes, ChangesPart, Heard, Lost, Position, Reached, Scope, Session, SharedLine, Tail,
    Unclaimed,
};
use heartline_core::backplane::{
    Acknowledgement, Action, Message, Missed, Node, Peer, Probed, Target,
};
use heartline_core::entries::SocketEntry;
use heartline_core::line::ring::Extent;
use heartline_core::policy::DevicePolicy;
use heartline_core::presence::{Edge, SocketAddress};
use heartline_wire::id::Sid;
use heartline_wire::reason::Reason;
use redis::{Cmd, Value};
use serde_json::{Value as Json, json};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::Instant;

use super::super::super::socketio::{Adapter, SocketIoAdapter};
use super::super::super::tests::Redis;
use super::super::super::{Calls, Commands, RedisDriver, Server};
use super::super::Fanout;
use super::super::driver::{Driver, Listener, Outgoing, Unsent};
use super::{Line, LineSettings, target_of};
use crate::envelope::Origin;
use crate::kept;
use crate::locked::locked;
use crate::seal::Seal;

/// What a node was told, in the order in which it was.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Told {
    Event(Position, String, Option<String>),
    End(Scope, (u64, u64), Extent, Vec<(u64, String)>),
    Without(Scope),
    Reached(Reached),
    Alone(String),
    LostSession(SocketAddress, Lost),
    Missed(String),
}

#[derive(Default)]
struct Ears {
    told: Mutex<Vec<Told>>,
    followed: Mutex<Vec<Scope>>,
    /// What the namespace of its sockets allows; `None`: it has none.
    policy: Option<DevicePolicy>,
}

fn whom(target: &Target<'_>) -> String {
    match *target {
        Target::Room { room, .. } => room.into(),
        Target::User { user, .. } => format!("user {user}"),
        _ => "all".into(),
    }
}

impl Node for Ears {
    fn announce(&self, _: Vec<Edge>) {}
    fn replace(&self, _: SocketAddress, _: Reason, _: Option<Arc<str>>, _: &Arc<str>) {}
    fn deliver(&self, _: &Target<'_>, _: Message) {}

    fn probe(&self, _: Peer) -> BoxFuture<Probed> {
        unreachable!()
    }

    fn missed(&self, whose: Missed<'_>) {
        locked(&self.told).push(Told::Missed(format!("{whose:?}")));
    }

    fn hear(&self, heard: Heard<'_>) {
        let text = heard.message.map(|message| message.event.to_string());
        let whom = match heard.to {
            Some(_) => "socket".into(),
            None => whom(&heard.target),
        };
        locked(&self.told).push(Told::Event(heard.at, whom, text));
    }

    fn take_in(&self, scope: &Scope, tail: Tail<'_>) {
        let events = tail.events.into_iter();
        let events = events.map(|heard| {
            let text = heard.message.map_or("lost".into(), |message| message.event);
            (heard.at.id, text.to_string())
        });
        let numbers = (tail.epoch, tail.offset);
        let end = Told::End(scope.clone(), numbers, tail.known, events.collect());
        locked(&self.told).push(end);
    }

    fn go_without(&self, scope: &Scope) {
        locked(&self.told).push(Told::Without(scope.clone()));
    }

    fn reach(&self, reached: Reached) {
        locked(&self.told).push(Told::Reached(reached));
    }

    fn deliver_alone(&self, _: &Target<'_>, message: Message, _: Option<SocketAddress>) {
        locked(&self.told).push(Told::Alone(message.event.to_string()));
    }

    fn followed(&self) -> Vec<Scope> {
        locked(&self.followed).clone()
    }

    fn lose_session(&self, name: SocketAddress, how: Lost) {
        locked(&self.told).push(Told::LostSession(name, how));
    }

    fn is_overloaded(&self) -> bool {
        false
    }

    fn select(&self, _: &str, _: &[String], _: &[String], _: Action) {}

    fn find(
        &self,
        _: &str,
        _: &[String],
        _: &[String],
        _: usize,
    ) -> BoxFuture<Option<Vec<SocketEntry>>> {
        Box::pin(std::future::ready(None))
    }

    fn ask(&self, _: SocketAddress, _: Message) -> BoxFuture<Option<Acknowledgement>> {
        Box::pin(std::future::ready(None))
    }

    fn rooms(&self, _: &str, _: usize) -> BoxFuture<Vec<String>> {
        Box::pin(std::future::ready(Vec::new()))
    }

    fn namespaces(&self) -> Vec<Arc<str>> {
        vec!["/".into()]
    }

    fn namespace(&self, _: &SocketAddress) -> Option<Arc<str>> {
        self.policy.map(|_| "/".into())
    }

    fn device_policy(&self, _: &SocketAddress) -> Option<DevicePolicy> {
        self.policy
    }

    fn max_payload(&self) -> usize {
        1 << 20
    }

    fn unix_millis(&self) -> u64 {
        0
    }
}

fn settings() -> LineSettings {
    LineSettings {
        window: Duration::from_secs(60),
        age: Duration::from_secs(90),
        events: 256,
        bytes: 256 << 10,
        refuse: false,
        patience: Duration::from_secs(10),
    }
}

/// A way to a server, by which a test has a connection bring something.
struct Tapped(RedisDriver, Tap);

type Tap = Arc<Mutex<Option<Listener>>>;

impl Driver for Tapped {
    type Link = <RedisDriver as Driver>::Link;

    async fn send(&self, batch: &[Outgoing]) -> Result<(), Unsent> {
        self.0.send(batch).await
    }

    async fn listen(&self, listener: Listener) -> redis::RedisResult<Self::Link> {
        *locked(&self.1) = Some(listener.clone());
        self.0.listen(listener).await
    }
}

/// A process of a cluster, without sockets.
struct Process {
    fanout: Arc<Fanout>,
    line: Arc<Line>,
    /// One by which nothing is said but what a test says itself.
    raw: Arc<Line>,
    ears: Arc<Ears>,
    tap: Tap,
    commands: Commands,
    tag: u32,
    tasks: Vec<AbortHandle>,
}

impl Drop for Process {
    fn drop(&mut self) {
        self.tasks.iter().for_each(AbortHandle::abort);
    }
}

/// Waits until something is there, a minute at most.
async fn until<T>(mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "it does not come to be");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

impl Process {
    async fn start(redis: &Redis, tag: u32, settings: LineSettings) -> Process {
        let server = Arc::new(Server::parse(&redis.url).unwrap());
        let calls = Calls::new("p");
        let adapter = Adapter::new(SocketIoAdapter::Off, "socket.io", tag);
        let process: Arc<str> = format!("n.{tag:08x}").into();
        let make = |process: Arc<str>| {
            let commands = (Commands::new(server.clone()), false);
            Line::new(
                settings,
                calls.prefix(),
                (process, tag),
                commands,
                Arc::default(),
            )
        };
        let (line, raw) = (make(process.clone()), make("raw".into()));
        let prefix = calls.prefix().to_owned();
        let tap = Tap::default();
        let driver = RedisDriver::new(server.clone(), calls, process.clone(), &adapter);
        let driver = Tapped(driver, tap.clone());
        let own = (process, tag);
        let (fanout, queue) =
            Fanout::new(&prefix, own, adapter, Some(line.clone()), Arc::default());
        let ears: Arc<Ears> = Arc::default();
        let (running, following) = (fanout.clone(), (line.clone(), ears.clone()));
        let fanning = tokio::spawn(async move {
            let bounds = (1 << 20, &[][..]);
            let ignore = |_: super::super::Incoming<'_>| {};
            running.run(driver, queue, bounds, ignore, || false).await;
        });
        let following = tokio::spawn(async move {
            let (line, ears) = following;
            line.run(ears).await;
        });
        let process = Process {
            fanout,
            line,
            raw,
            ears,
            tap,
            commands: Commands::new(server),
            tag,
            tasks: vec![fanning.abort_handle(), following.abort_handle()],
        };
        until(|| locked(&process.line.phase).is_none().then_some(())).await;
        process
    }

    fn told(&self) -> Vec<Told> {
        locked(&self.ears.told).clone()
    }

    fn events(&self) -> Vec<(Position, String, Option<String>)> {
        let told = self.told().into_iter();
        let events = told.filter_map(|told| match told {
            Told::Event(at, whom, text) => Some((at, whom, text)),
            _ => None,
        });
        events.collect()
    }

    /// Says an event of this name, and waits for its offset.
    async fn say(&self, target: &Target<'_>, event: &str) -> Option<u64> {
        self.say_with(target, event, "1").await
    }

    async fn say_with(&self, target: &Target<'_>, event: &str, args: &str) -> Option<u64> {
        self.line
            .say(target, &Message::new(event, args), None)
            .await
    }

    /// The end of a scope, as it is now.
    async fn end(&self, scope: &Scope) -> ((u64, u64), Extent, Vec<(u64, String)>) {
        let before = self.told().len();
        assert!(self.line.follow(scope.clone()).await);
        let end = self.told().into_iter().skip(before);
        let mut ends = end.filter_map(|told| match told {
            Told::End(of, numbers, known, events) if of == *scope => Some((numbers, known, events)),
            _ => None,
        });
        ends.next().expect("the end has come")
    }

    /// The names of the events that are kept of a scope.
    async fn kept(&self, scope: &Scope) -> Vec<String> {
        let (_, _, events) = self.end(scope).await;
        events.into_iter().map(|(_, event)| event).collect()
    }

    /// What the script answers to a call as a process of another name may send it.
    async fn raw<T: redis::FromRedisValue>(&self, command: &Cmd) -> T {
        self.line.ask(command).await.unwrap()
    }

    async fn redis(&self, command: &[&str]) -> Value {
        let mut built = redis::cmd(command[0]);
        command[1..].iter().for_each(|part| {
            built.arg(*part);
        });
        self.commands.query(&built).await.unwrap()
    }

    /// A batch of another process, with the events' names.
    fn batch(&self, number: u64, flags: u8, scope: &Scope, events: &[&str], more: Json) -> Cmd {
        let mut arguments = json!({ "number": number, "age": 90_000, "events": 256,
            "bytes": 256 << 10 });
        for (name, value) in more.as_object().unwrap() {
            arguments[name] = value.clone();
        }
        let mut command = self.raw.call("say", arguments);
        for event in events {
            let origin = Origin {
                tag: 9,
                number: 1,
                after: 0,
            };
            let message = Message::new(event, "1");
            let body = kept::body(
                flags,
                None,
                origin,
                &target_of(scope),
                &message,
                &Seal::default(),
            );
            command
                .arg(self.line.name(scope))
                .arg(self.line.channel(scope));
            let key = match scope {
                Scope::User { user, .. } => format!(":{user}"),
                _ => String::new(),
            };
            command.arg(flags).arg(key).arg(body);
        }
        command
    }

    fn attend(&self, user: &str) -> bool {
        let user = UserKey {
            tenant_id: None,
            user_id: user.into(),
            user_type: None,
        };
        self.fanout.attend(&user).is_some()
    }
}

fn room(name: &str) -> Scope {
    Scope::Room {
        namespace: "/".into(),
        tenant: None,
        room: name.into(),
    }
}

fn user(name: &str) -> Scope {
    Scope::User {
        namespace: "/".into(),
        tenant: None,
        user: name.into(),
    }
}

fn keyed<'a>(room: &'a str, key: &'a str) -> Target<'a> {
    Target::Room {
        namespace: "/",
        tenant: None,
        room,
        key: Some(key),
    }
}

fn socket(tag: u32, number: u8) -> SocketAddress {
    let mut bytes = [number; 24];
    bytes[..4].copy_from_slice(&tag.to_be_bytes());
    SocketAddress(Sid::from_bytes(bytes))
}

fn session(owner: &str, record: &str, is_lost: bool) -> Session {
    Session {
        owner: owner.into(),
        is_lost,
        was_here: true,
        record: record.into(),
    }
}

/// Every connection that listens is killed.
fn killed() -> Cmd {
    let mut command = redis::cmd("CLIENT");
    command.arg("KILL").arg("TYPE").arg("pubsub");
    command
}

async fn hold(process: &Process, name: &str) -> Arc<dyn heartline_core::backplane::Subscription> {
    let held = process.fanout.hold("/", None, name);
    if let Some(ready) = held.ready() {
        ready.await;
    }
    held
}

fn alone(name: SocketAddress) -> Scope {
    Scope::Socket {
        namespace: "/".into(),
        name,
    }
}

fn everybody() -> Scope {
    Scope::All {
        namespace: "/".into(),
        tenant: None,
    }
}

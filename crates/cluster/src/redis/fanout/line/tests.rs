//! The line on a real server: processes that say and hear, and the script by itself.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use heartline_core::auth::{BoxFuture, UserKey};
use heartline_core::backplane::line::{
    Changes, ChangesPart, Heard, Position, Reached, Scope, Session, SharedLine, Tail, Unclaimed,
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
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::super::super::socketio::{Adapter, SocketIoAdapter};
use super::super::super::tests::Redis;
use super::super::super::{Calls, Commands, RedisDriver, Server};
use super::super::Fanout;
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
    LostSession(SocketAddress),
    Missed(String),
}

#[derive(Default)]
struct Ears {
    told: Mutex<Vec<Told>>,
    followed: Mutex<Vec<Scope>>,
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

    fn lose_session(&self, name: SocketAddress) {
        locked(&self.told).push(Told::LostSession(name));
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
        None
    }

    fn device_policy(&self, _: &SocketAddress) -> Option<DevicePolicy> {
        None
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

/// A process of a cluster, without sockets.
struct Process {
    fanout: Arc<Fanout>,
    line: Arc<Line>,
    /// One by which nothing is said but what a test says itself.
    raw: Arc<Line>,
    ears: Arc<Ears>,
    commands: Commands,
    tag: u32,
    tasks: Vec<AbortHandle>,
}

impl Drop for Process {
    fn drop(&mut self) {
        self.tasks.iter().for_each(AbortHandle::abort);
    }
}

/// Waits until something is there, ten seconds at most.
async fn until<T>(mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(10);
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
        let driver = RedisDriver::new(server.clone(), calls, process.clone(), &adapter);
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
        self.fanout.attend(&UserKey {
            tenant_id: None,
            user_id: user.into(),
            user_type: None,
        })
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

#[tokio::test(flavor = "multi_thread")]
async fn what_several_processes_say_comes_to_each_in_one_order_without_a_hole() {
    let redis = Redis::start();
    let mut all = Vec::new();
    for tag in 1..=3 {
        all.push(Process::start(&redis, tag, settings()).await);
    }
    let mut held = Vec::new();
    for process in &all {
        for name in ["r", "q"] {
            held.push(hold(process, name).await);
        }
    }
    let mut offsets = Vec::new();
    for number in 0..40 {
        for process in &all {
            let name = ["r", "r", "q"][number % 3];
            let scope = room(name);
            let event = format!("{name} {number} of {}", process.tag);
            let said = Message::new(&event, "1");
            offsets.push((name, process.line.say(&target_of(&scope), &said, None)));
        }
    }
    let mut told = Vec::new();
    for (name, offset) in offsets {
        told.push((name, offset.await.expect("it is in the line")));
    }
    for process in &all {
        until(|| (process.events().len() == 120).then_some(())).await;
        let events = process.events();
        assert_eq!(events, all[0].events(), "each hears the same");
        assert!(events.is_sorted_by(|a, b| a.0.id < b.0.id));
        for name in ["r", "q"] {
            let of = events.iter().filter(|event| event.1 == name);
            let mut before = (0, 0);
            for (at, _, _) in of {
                if before.1 == 0 {
                    // Nothing was said before it had members.
                    before.0 = at.epoch - 1;
                }
                assert_eq!((at.before, at.offset), (before.0, before.1 + 1));
                before = (at.id, at.offset);
            }
            let mut answers: Vec<u64> = told
                .iter()
                .filter(|one| one.0 == name)
                .map(|one| one.1)
                .collect();
            answers.sort_unstable();
            assert_eq!(answers, (1..=before.1).collect::<Vec<_>>());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_is_sent_again_is_done_once_and_answered_as_before() {
    type Answer = (String, String, String, Vec<u64>);
    let redis = Redis::start();
    let process = Process::start(&redis, 1, settings()).await;
    let held = hold(&process, "r").await;
    let batch = process.batch(7, 0, &room("r"), &["a", "b"], json!({}));
    let first: Answer = process.raw(&batch).await;
    let again: Answer = process.raw(&batch).await;
    assert_eq!(first.3, [1, 2]);
    assert_eq!(again, first, "whoever said it hears that it was said");
    let earlier = process.batch(6, 0, &room("r"), &["late"], json!({}));
    let late: Answer = process.raw(&earlier).await;
    assert_eq!(late.3, [0u64; 0]);
    let next = process.batch(8, 0, &room("r"), &["c"], json!({}));
    let next: Answer = process.raw(&next).await;
    assert_eq!(next.3, [3]);
    until(|| (process.events().len() == 3).then_some(())).await;
    assert_eq!(process.kept(&room("r")).await, ["a", "b", "c"]);
    drop(held);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_room_so_much_is_kept_and_the_last_that_is_not_is_known() {
    let redis = Redis::start();
    let few = LineSettings {
        events: 4,
        bytes: 4 << 10,
        ..settings()
    };
    let process = Process::start(&redis, 1, few).await;
    let held = hold(&process, "r").await;
    let (scope, r) = (room("r"), room("r"));
    let r = target_of(&r);
    for event in ["1", "2", "3", "4", "5", "6"] {
        process.say(&r, event).await.unwrap();
    }
    let id_of = |name: &str| {
        let events = process.events();
        let found = events.iter().find(|event| event.2.as_deref() == Some(name));
        found.map(|event| event.0.id)
    };
    let second = until(|| id_of("2")).await;
    until(|| id_of("6")).await;
    let (numbers, known, events) = process.end(&scope).await;
    assert_eq!(numbers.1, 6);
    assert_eq!((known.dropped, known.dropped_offset), (second, 2));
    assert_eq!(Some(known.last), id_of("6"));
    assert_eq!(events.len(), 4);
    // Heavy ones take the places of several.
    process.say_with(&r, "7", &"7".repeat(3_700)).await.unwrap();
    let (_, known, events) = process.end(&scope).await;
    assert_eq!(events.last().unwrap().1, "7");
    assert!(events.len() < 4);
    assert_eq!(Some(known.dropped), id_of(&(7 - events.len()).to_string()));
    // What is too heavy for the room alone.
    process.say_with(&r, "8", &"8".repeat(5_000)).await.unwrap();
    let (numbers, known, events) = process.end(&scope).await;
    assert_eq!((numbers.1, known.dropped_offset, events.len()), (8, 8, 0));
    assert_eq!(known.dropped, known.last);
    process.say(&r, "9").await.unwrap();
    let (_, known, events) = process.end(&scope).await;
    assert_eq!((known.dropped_offset, &*events[0].1), (8, "9"));
    drop(held);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_too_large_or_too_old_to_be_kept_is_known_to_be_missing() {
    let redis = Redis::start();
    let process = Process::start(&redis, 1, settings()).await;
    let held = hold(&process, "r").await;
    let (scope, r) = (room("r"), room("r"));
    let r = target_of(&r);
    process.say(&r, "1").await.unwrap();
    process
        .say_with(&r, "large", &"1".repeat(65_536))
        .await
        .unwrap();
    let (_, known, events) = process.end(&scope).await;
    assert_eq!((known.dropped, known.dropped_offset), (known.last, 2));
    assert!(events.is_empty());
    process.say(&r, "3").await.unwrap();
    // It is too old.
    let list = format!("{{p}}:ll:{}", process.line.name(&scope));
    process.redis(&["DEL", &list]).await;
    let (numbers, known, events) = process.end(&scope).await;
    assert_eq!((known.dropped, known.dropped_offset), (known.last, 3));
    assert_eq!((numbers.1, events.len()), (3, 0));
    process.say(&r, "4").await.unwrap();
    let (_, after, events) = process.end(&scope).await;
    assert_eq!((after.dropped, after.dropped_offset), (known.last, 3));
    assert_eq!(events[0].1, "4");
    let ttl = process.redis(&["PTTL", &list]).await;
    assert!(matches!(ttl, Value::Int(80_000..=90_000)), "{ttl:?}");
    drop(held);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_newest_of_each_key_outlasts_what_came_after_it() {
    let redis = Redis::start();
    let few = LineSettings {
        events: 4,
        ..settings()
    };
    let process = Process::start(&redis, 1, few).await;
    let held = hold(&process, "r").await;
    let scope = room("r");
    process.say(&keyed("r", "a"), "a1").await.unwrap();
    process.say(&keyed("r", "a"), "a2").await.unwrap();
    process.say(&keyed("r", "gone"), "gone").await.unwrap();
    for event in ["b1", "b2", "b3", "b4", "b5", "b6"] {
        process.say(&keyed("r", "b"), event).await.unwrap();
    }
    let (numbers, known, _) = process.end(&scope).await;
    assert_eq!(
        known.dropped,
        numbers.0 - 1,
        "nobody misses what a newer one of its key has replaced"
    );
    let all = ["a2", "gone", "b3", "b4", "b5", "b6"];
    assert_eq!(process.kept(&scope).await, all);
    process
        .say_with(&keyed("r", "gone"), "removed", "null")
        .await
        .unwrap();
    assert_eq!(
        process.kept(&scope).await,
        ["a2", "b4", "b5", "b6", "removed"]
    );
    for event in ["1", "2", "3", "4"] {
        process.say(&target_of(&scope), event).await.unwrap();
    }
    let (_, known, events) = process.end(&scope).await;
    let names: Vec<&str> = events.iter().map(|event| &*event.1).collect();
    assert_eq!(names, ["a2", "b6", "1", "2", "3", "4"]);
    // That a key was removed is an event that may be missed.
    assert_eq!(known.dropped_offset, 10);
    drop(held);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_too_many_is_kept_as_an_event_among_others() {
    let redis = Redis::start();
    let few = LineSettings {
        events: 4,
        ..settings()
    };
    let process = Process::start(&redis, 1, few).await;
    let held = hold(&process, "r").await;
    let scope = room("r");
    let mut said = Vec::new();
    for number in 0..=1_000 {
        let key = number.to_string();
        said.push(
            process
                .line
                .say(&keyed("r", &key), &Message::new("k", "1"), None),
        );
    }
    for said in said {
        said.await.unwrap();
    }
    let keys = format!("{{p}}:lk:{}", process.line.name(&scope));
    assert_eq!(process.redis(&["HLEN", &keys]).await, Value::Int(1_000));
    let (numbers, known, events) = process.end(&scope).await;
    assert_eq!((known.dropped, events.len()), (numbers.0 - 1, 1_001));
    for event in ["1", "2", "3", "4"] {
        process.say(&target_of(&scope), event).await.unwrap();
    }
    let (_, known, events) = process.end(&scope).await;
    assert_eq!((known.dropped_offset, events.len()), (1_001, 1_004));
    drop(held);
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_that_are_gone_take_no_place() {
    let redis = Redis::start();
    let few = LineSettings {
        bytes: 80 << 10,
        ..settings()
    };
    let process = Process::start(&redis, 1, few).await;
    let held = hold(&process, "r").await;
    let scope = room("r");
    let keys = format!("{{p}}:lk:{}", process.line.name(&scope));
    for round in 0..4 {
        let text = "1".repeat(30_000);
        process
            .say_with(&keyed("r", "a"), "a", &text)
            .await
            .unwrap();
        let there = process.redis(&["HLEN", &keys]).await;
        assert_eq!(there, Value::Int(1), "in round {round}");
        match round % 2 {
            // They were remembered for a day.
            0 => drop(process.redis(&["DEL", &keys]).await),
            // Something of the key is too large.
            _ => {
                let text = "1".repeat(70_000);
                process
                    .say_with(&keyed("r", "a"), "a", &text)
                    .await
                    .unwrap();
            }
        }
    }
    // What is remembered of a room is, with its keys, for as long as anything is said there.
    process.say(&keyed("r", "a"), "a").await.unwrap();
    process.redis(&["EXPIRE", &keys, "100"]).await;
    process.say(&target_of(&scope), "b").await.unwrap();
    let ttl = process.redis(&["TTL", &keys]).await;
    assert!(matches!(ttl, Value::Int(80_000..)), "{ttl:?}");
    drop(held);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gap_ends_what_was_kept_of_a_room_or_a_user() {
    let redis = Redis::start();
    let process = Process::start(&redis, 1, settings()).await;
    let held = hold(&process, "r").await;
    assert!(process.attend("ann"));
    process.fanout.remembered().await;
    for (at, scope) in [room("r"), user("ann")].iter().enumerate() {
        let number = 10 * at as u64 + 1;
        let said = process.batch(number, 0, scope, &["a", "b"], json!({}));
        let _: Value = process.raw(&said).await;
        let (before, _, _) = process.end(scope).await;
        let gap = process.batch(number + 1, kept::GAP, scope, &[""], json!({}));
        let _: Value = process.raw(&gap).await;
        let (numbers, known, events) = process.end(scope).await;
        assert_eq!(events, [], "{scope:?}");
        assert_eq!((known.dropped, known.dropped_offset), (known.last, 2));
        assert_eq!(numbers.1, before.1, "a gap has no number of its own");
        assert!(numbers.0 > before.0, "the offsets are of another epoch");
        let said = process.batch(number + 2, 0, scope, &["c"], json!({}));
        let _: Value = process.raw(&said).await;
        assert_eq!(process.kept(scope).await, ["c"]);
    }
    let gaps = process
        .events()
        .into_iter()
        .filter(|event| event.2.is_none());
    assert_eq!(
        gaps.map(|event| event.1).collect::<Vec<_>>(),
        ["r", "user ann"]
    );
    drop(held);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_ends_of_places_are_told_from_a_number_on_or_from_the_beginning() {
    let redis = Redis::start();
    let process = Process::start(&redis, 1, settings()).await;
    let held = [hold(&process, "r").await, hold(&process, "quiet").await];
    let scopes = vec![room("quiet"), room("r"), room("new")];
    process
        .say(&target_of(&room("quiet")), "before")
        .await
        .unwrap();
    process.say(&target_of(&room("r")), "1").await.unwrap();
    let (_, first, _) = process.end(&room("r")).await;
    process.say(&target_of(&room("r")), "2").await.unwrap();
    let ends = |told: Vec<Told>| {
        let ends = told.into_iter().filter_map(|told| match told {
            Told::End(scope, _, _, events) => {
                let names = events.into_iter().map(|event| event.1).collect::<Vec<_>>();
                Some((scope, names))
            }
            _ => None,
        });
        ends.collect::<Vec<_>>()
    };
    let before = process.told().len();
    assert!(process.line.collect(scopes.clone(), Some(first.last)).await);
    let all = [(room("r"), vec!["2".into()]), (room("new"), vec![])];
    assert_eq!(ends(process.told().split_off(before)), all);
    let before = process.told().len();
    assert!(process.line.collect(scopes, None).await);
    let told = process.told().split_off(before);
    assert!(
        matches!(told.last(), Some(Told::Reached(_))),
        "and how far the line is"
    );
    let all = [
        (room("quiet"), vec!["before".into()]),
        (room("r"), vec!["1".into(), "2".into()]),
        (room("new"), vec![]),
    ];
    assert_eq!(ends(told), all);
    drop(held);
}

#[tokio::test(flavor = "multi_thread")]
async fn another_run_of_the_server_is_another_line_in_which_rooms_begin_anew() {
    let redis = Redis::start();
    let process = Process::start(&redis, 1, settings()).await;
    let held = hold(&process, "r").await;
    let scope = room("r");
    for event in ["1", "2"] {
        process.say(&target_of(&scope), event).await.unwrap();
    }
    process.say(&keyed("r", "k"), "k").await.unwrap();
    assert!(process.attend("ann"));
    process.fanout.remembered().await;
    *locked(&process.ears.followed) = vec![scope.clone(), room("quiet")];
    let (before, known, _) = process.end(&scope).await;
    process.redis(&["HSET", "{p}:line", "run", "another"]).await;
    process.redis(&["DEL", "{p}:lw::ann"]).await;
    assert_eq!(process.say(&target_of(&scope), "3").await, Some(1));
    let (numbers, after, events) = process.end(&scope).await;
    assert!(numbers.0 > before.0, "its offsets are of another epoch");
    assert_eq!(
        events.iter().map(|event| &*event.1).collect::<Vec<_>>(),
        ["3"]
    );
    assert!(after.last > known.last);
    let events = process.events();
    let (last, _, _) = events.last().unwrap();
    assert_ne!(last.line, events[0].0.line);
    let is_told = |told: &Told| {
        matches!(told, Told::Reached(reached)
            if reached.line == last.line && reached.begin > known.last && reached.begin < last.id)
    };
    assert!(process.told().iter().any(is_told));
    // All are told, where nothing is said too, and users are heard of as before.
    let missed = Told::Missed("Anybody".into());
    let of_quiet = |told: &Told| matches!(told, Told::End(of, ..) if *of == room("quiet"));
    until(|| process.told().contains(&missed).then_some(())).await;
    until(|| process.told().iter().any(of_quiet).then_some(())).await;
    process
        .say(&target_of(&user("ann")), "hello")
        .await
        .unwrap();
    until(|| {
        process
            .events()
            .into_iter()
            .find(|event| event.1 == "user ann")
    })
    .await;
    // Also if the server has forgotten everything, and its clock goes back.
    process.redis(&["FLUSHALL"]).await;
    let future = 1u64 << 52;
    let said = process.batch(90, 0, &scope, &["4"], json!({}));
    let _: Value = process.raw(&said).await;
    process.redis(&["FLUSHALL"]).await;
    process
        .raw
        .last
        .store(future, std::sync::atomic::Ordering::Relaxed);
    let said = process.batch(91, 0, &scope, &["5"], json!({ "run": "yet another" }));
    let answer: (u32, u64, u64, Vec<u64>) = process.raw(&said).await;
    assert!(answer.1 > future && answer.2 > answer.1);
    drop(held);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_is_taken_up_by_whoever_asks_last_and_by_nobody_else() {
    let redis = Redis::start();
    let one = Process::start(&redis, 1, settings()).await;
    let other = Process::start(&redis, 2, settings()).await;
    let name = socket(1, 7);
    one.fanout
        .remember(name, Some(session("ann", "rooms", false)));
    one.fanout.remembered().await;
    assert_eq!(one.fanout.holder(name).await, Some(1));
    assert_eq!(other.line.claim(name, "bob").await, Err(Unclaimed::Foreign));
    assert_eq!(
        other.line.claim(socket(1, 8), "ann").await,
        Err(Unclaimed::Unknown)
    );
    let taken = other.line.claim(name, "ann").await.unwrap();
    assert_eq!(taken.record, b"rooms");
    assert_eq!(other.fanout.holder(name).await, Some(2));
    let lost = |process: &Process| process.told().contains(&Told::LostSession(name));
    until(|| lost(&one).then_some(())).await;
    // What the one that had it writes late changes nothing.
    one.fanout
        .remember(name, Some(session("ann", "late", true)));
    one.fanout
        .remember(socket(1, 9), Some(session("ann", "other", true)));
    one.fanout.remembered().await;
    one.fanout.remember(name, None);
    one.fanout.remembered().await;
    other
        .fanout
        .remember(name, Some(session("ann", "newer", true)));
    other.fanout.remembered().await;
    let again = one.line.claim(name, "ann").await.unwrap();
    assert_eq!(again.record, b"newer");
    assert!(!again.was_here, "another one has had it");
    assert!(one.line.claim(name, "ann").await.unwrap().was_here);
    until(|| lost(&other).then_some(())).await;
    assert!(one.line.has_claimed(name) && !other.line.has_claimed(name));
    one.fanout.remember(name, None);
    one.fanout.remembered().await;
    assert_eq!(other.line.claim(name, "ann").await, Err(Unclaimed::Unknown));
    assert_eq!(
        other.line.claim(socket(1, 9), "ann").await.unwrap().record,
        b"other"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_processes_that_race_for_a_session_one_keeps_it() {
    let redis = Redis::start();
    let all = [
        Process::start(&redis, 1, settings()).await,
        Process::start(&redis, 2, settings()).await,
        Process::start(&redis, 3, settings()).await,
    ];
    for round in 0..20 {
        let name = socket(1, round);
        all[0]
            .fanout
            .remember(name, Some(session("ann", "rooms", true)));
        all[0].fanout.remembered().await;
        let (a, b) = tokio::join!(
            all[1].line.claim(name, "ann"),
            all[2].line.claim(name, "ann")
        );
        assert!(
            a.is_ok() || b.is_ok(),
            "who is not last hears that before or later"
        );
        let holder = all[0].fanout.holder(name).await.unwrap();
        let winners = || {
            let have = all[1..]
                .iter()
                .filter(|process| process.line.has_claimed(name));
            have.map(|process| process.tag).collect::<Vec<_>>()
        };
        until(|| (winners() == [holder]).then_some(())).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_is_there_for_the_window_and_its_node_for_as_long_as_it_says_so() {
    let redis = Redis::start();
    let short = LineSettings {
        window: Duration::from_millis(50),
        ..settings()
    };
    let one = Process::start(&redis, 1, settings()).await;
    let other = Process::start(&redis, 2, short).await;
    let (lost, there) = (socket(1, 7), socket(1, 8));
    one.fanout
        .remember(lost, Some(session("ann", "rooms", true)));
    one.fanout
        .remember(there, Some(session("ann", "rooms", false)));
    one.fanout.remembered().await;
    tokio::time::sleep(Duration::from_millis(60)).await;
    assert_eq!(other.line.claim(lost, "ann").await, Err(Unclaimed::Unknown));
    assert!(other.line.claim(there, "ann").await.is_ok());
    let ttl = one.line.ttl() as i64;
    for key in ["{p}:z:1", "{p}:line:on:n.00000001"] {
        let left = one.redis(&["PTTL", key]).await;
        assert!(
            matches!(left, Value::Int(left) if left > ttl - 11_000),
            "{key}: {left:?}"
        );
    }
    // What a process has left behind goes, once nobody has seen it for long.
    let gone = socket(1, 9);
    let mut command = one.line.call("remember", json!({ "ttl": ttl }));
    command
        .arg("1")
        .arg(&gone.0.to_bytes()[..])
        .arg("0")
        .arg("ann")
        .arg("rooms");
    let _: Value = one.raw(&command).await;
    let refresh = |process: &Process| {
        let arguments = json!({ "tags": ["1"], "ttl": ttl, "cursors": ["0"] });
        process.line.call("refresh", arguments)
    };
    let _: Value = other.raw(&refresh(&other)).await;
    assert!(other.fanout.holder(gone).await.is_some());
    one.redis(&["DEL", "{p}:line:on:n.00000001"]).await;
    let _: Value = other.raw(&refresh(&other)).await;
    assert_eq!(other.fanout.holder(gone).await, None);
    assert_eq!(other.fanout.holder(there).await, Some(2));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_for_a_user_goes_to_the_processes_that_have_sockets_of_theirs() {
    let redis = Redis::start();
    let one = Process::start(&redis, 1, settings()).await;
    let other = Process::start(&redis, 2, settings()).await;
    let ann = user("ann");
    assert_eq!(one.say(&target_of(&ann), "to nobody").await, Some(0));
    assert!(other.attend("ann"));
    other.fanout.remembered().await;
    assert!(!other.attend("ann"), "it is known");
    assert_eq!(one.say(&target_of(&ann), "hello").await, Some(1));
    let heard = until(|| other.events().pop()).await;
    assert_eq!((&*heard.1, heard.2.as_deref()), ("user ann", Some("hello")));
    assert_eq!(one.kept(&ann).await, ["hello"]);
    // That has come behind whatever would have come before.
    assert_eq!(one.events(), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_cut_lost_is_told_in_its_order_before_anybody_counts_on_it() {
    let redis = Redis::start();
    let process = Process::start(&redis, 1, settings()).await;
    let held = [hold(&process, "r").await, hold(&process, "q").await];
    *locked(&process.ears.followed) = vec![room("r"), room("q")];
    process.say(&target_of(&room("r")), "0").await.unwrap();
    until(|| process.events().pop()).await;
    for round in 0..5u64 {
        let mut pipeline = vec![killed()];
        for (at, name) in ["r", "q", "r", "r", "q"].iter().enumerate() {
            let number = 100 + 10 * round + at as u64;
            let event = format!("{name} {round} {at}");
            pipeline.push(process.batch(number, 0, &room(name), &[&event], json!({})));
        }
        process.commands.pipeline(pipeline).await.unwrap();
        let count = 1 + 5 * (round as usize + 1);
        until(|| (process.events().len() >= count).then_some(())).await;
        assert_eq!(process.events().len(), count);
    }
    let mut last = (0, 0);
    for told in process.told() {
        match told {
            Told::Event(at, _, _) => {
                assert!(at.id > last.0, "{at:?} comes late");
                assert!(at.id > last.1, "{at:?} was thought to have come");
                last.0 = at.id;
            }
            Told::Reached(reached) => last.1 = reached.last,
            Told::Missed(whose) => panic!("nothing was missed: {whose}"),
            _ => {}
        }
    }
    drop(held);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_cut_lost_and_nobody_has_kept_is_a_gap_at_once() {
    let redis = Redis::start();
    let few = LineSettings {
        events: 2,
        ..settings()
    };
    let process = Process::start(&redis, 1, few).await;
    let held = hold(&process, "r").await;
    *locked(&process.ears.followed) = vec![room("r")];
    process.say(&target_of(&room("r")), "0").await.unwrap();
    until(|| process.events().pop()).await;
    let mut pipeline = vec![killed()];
    let said = ["1", "2", "3", "4"];
    let bounds = json!({ "events": 2 });
    pipeline.push(process.batch(100, 0, &room("r"), &said, bounds.clone()));
    pipeline.push(process.batch(101, kept::GAP, &room("r"), &[""], bounds));
    process.commands.pipeline(pipeline).await.unwrap();
    let gap = until(|| process.events().into_iter().find(|event| event.2.is_none())).await;
    let (numbers, known, _) = process.end(&room("r")).await;
    assert_eq!((gap.0.epoch, gap.0.offset), (numbers.0, 5));
    assert_eq!(gap.0.id, known.last);
    drop(held);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_said_in_time_is_told_here_and_a_gap_to_all_when_it_can() {
    let redis = Redis::start();
    let one = Process::start(&redis, 1, settings()).await;
    let other = Process::start(&redis, 2, settings()).await;
    let held = [hold(&one, "r").await, hold(&other, "r").await];
    *locked(&one.ears.followed) = vec![room("r")];
    *locked(&other.ears.followed) = vec![room("r")];
    one.say(&target_of(&room("r")), "before").await.unwrap();
    one.redis(&["CLIENT", "PAUSE", "4000", "WRITE"]).await;
    assert_eq!(one.say(&target_of(&room("r")), "alone").await, None);
    assert!(one.told().contains(&Told::Alone("alone".into())));
    let r = room("r");
    let after = one.say(&target_of(&r), "after").await;
    for process in [&one, &other] {
        let events = || {
            let events = process.events().into_iter();
            events
                .map(|event| event.2.unwrap_or("gap".into()))
                .collect::<Vec<_>>()
        };
        until(|| (events().len() >= 2).then_some(())).await;
        let expected: &[&str] = match after {
            Some(_) => &["before", "gap", "after"],
            None => &["before", "gap"],
        };
        until(|| (events() == expected).then_some(())).await;
    }
    drop(held);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_ends_has_said_that_something_is_missing() {
    let redis = Redis::start();
    let one = Process::start(&redis, 1, settings()).await;
    let other = Process::start(&redis, 2, settings()).await;
    let held = [hold(&one, "r").await, hold(&other, "r").await];
    one.redis(&["CLIENT", "PAUSE", "3500", "WRITE"]).await;
    assert_eq!(one.say(&target_of(&room("r")), "alone").await, None);
    one.line.finish().await;
    drop(one);
    until(|| {
        other
            .events()
            .iter()
            .any(|event| event.2.is_none())
            .then_some(())
    })
    .await;
    drop(held);
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

#[tokio::test(flavor = "multi_thread")]
async fn a_place_whose_numbers_the_store_has_lost_is_not_taken_for_one_in_which_nothing_was_said() {
    let redis = Redis::start();
    let process = Process::start(&redis, 1, settings()).await;
    let held = hold(&process, "r").await;
    assert!(process.attend("ann") && process.attend("bob"));
    process.fanout.remembered().await;
    let places = [room("r"), user("ann"), everybody()];
    for lost in [":lm:", ":ll:"] {
        for scope in &places {
            process.say(&target_of(scope), "lost").await.unwrap();
            let (_, known, _) = process.end(scope).await;
            let key = |kind: &str| format!("{{p}}{kind}{}", process.line.name(scope));
            process.redis(&["DEL", &key(lost)]).await;
            let (_, found, events) = process.end(scope).await;
            assert!(found.dropped >= known.last, "{scope:?} without {lost}");
            assert!(events.is_empty());
            // What comes next does not make it whole.
            process.say(&target_of(scope), "next").await.unwrap();
            let (_, after, events) = process.end(scope).await;
            assert!(after.dropped >= known.last && after.last > after.dropped);
            assert_eq!(events.len(), 1);
            // Also if nobody has asked in between.
            process.redis(&["DEL", &key(":lm:")]).await;
            process.say(&target_of(scope), "and next").await.unwrap();
            let (_, found, _) = process.end(scope).await;
            assert!(found.dropped >= after.last, "{scope:?}");
        }
    }
    // Of a user to whom nothing was said before, all is there.
    process
        .say(&target_of(&user("bob")), "first")
        .await
        .unwrap();
    let (_, known, _) = process.end(&user("bob")).await;
    assert_eq!(known.dropped, 0);
    // Who has a user's sockets may be forgotten too.
    process.redis(&["DEL", "{p}:lw::bob"]).await;
    process
        .say(&target_of(&user("bob")), "second")
        .await
        .unwrap();
    let second = |event: &(Position, String, Option<String>)| event.2.as_deref() == Some("second");
    until(|| process.events().iter().any(second).then_some(())).await;
    // And the newest events of keys.
    process.say(&keyed("r", "k"), "of a key").await.unwrap();
    let (_, before, _) = process.end(&room("r")).await;
    let keys = format!("{{p}}:lk:{}", process.line.name(&room("r")));
    process.redis(&["DEL", &keys]).await;
    let (_, after, _) = process.end(&room("r")).await;
    assert_eq!((before.last, after.dropped), (after.last, after.last));
    drop(held);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_said_to_a_socket_follows_it_until_it_has_come() {
    let redis = Redis::start();
    let one = Process::start(&redis, 1, settings()).await;
    let other = Process::start(&redis, 2, settings()).await;
    let name = socket(1, 7);
    one.fanout
        .remember(name, Some(session("ann", "rooms", false)));
    one.fanout.remembered().await;
    let say = |text: &str| {
        one.fanout
            .say_to(&"/".into(), name, &Message::new(text, "1"))
    };
    let heard = |process: &Process, text: &str| {
        let events = process.events().into_iter();
        let mut found = events.filter(|event| event.2.as_deref() == Some(text));
        found.next().map(|event| (event.0.id, event.1))
    };
    say("a");
    assert_eq!(until(|| heard(&one, "a")).await.1, "socket");
    other.line.claim(name, "ann").await.unwrap();
    say("b");
    let (second, _) = until(|| heard(&other, "b")).await;
    assert_eq!((heard(&one, "b"), heard(&other, "a")), (None, None));
    assert_eq!(other.kept(&alone(name)).await, ["a", "b"]);
    // What has come is kept no more, and nothing is missing.
    other.fanout.received(name, second - 1);
    until_kept(&other, &alone(name), &["b"]).await;
    other.fanout.received(name, second);
    until_kept(&other, &alone(name), &[]).await;
    let (_, known, _) = other.end(&alone(name)).await;
    assert_eq!(known, Extent::default());
    // What a cut loses is found, also if nothing comes after it.
    other.redis(&["CLIENT", "PAUSE", "200", "ALL"]).await;
    other
        .fanout
        .say_to(&"/".into(), name, &Message::new("c", "1"));
    let _: Result<Value, _> = other.commands.query(&killed()).await;
    until(|| heard(&other, "c")).await;
    // With the session all of it goes.
    other.fanout.remember(name, None);
    other.fanout.remembered().await;
    assert!(other.kept(&alone(name)).await.is_empty());
}

async fn until_kept(process: &Process, scope: &Scope, expected: &[&str]) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while process.kept(scope).await != expected {
        assert!(Instant::now() < deadline, "it is not {expected:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_of_presence_are_in_the_line_once_whichever_nodes_put_them_there() {
    let redis = Redis::start();
    let one = Process::start(&redis, 1, settings()).await;
    let other = Process::start(&redis, 2, settings()).await;
    let changes = |after: u64, to: u64| Changes {
        after,
        to,
        parts: vec![ChangesPart {
            namespace: "/".into(),
            tenant: None,
            count: (to - after) as usize,
            message: Message::new(&format!("up to {to}"), "[]"),
        }],
    };
    one.redis(&["SET", "{p}:edge", "9"]).await;
    for (process, after, to) in [(&one, 3, 5), (&other, 3, 5), (&other, 4, 6), (&one, 5, 6)] {
        assert!(process.fanout.say_changes(changes(after, to)).await);
    }
    let told = |process: &Process| -> Vec<_> {
        let events = process.events().into_iter();
        events.map(|(at, _, text)| (at, text.unwrap())).collect()
    };
    until(|| (told(&one).len() == 2 && told(&other).len() == 2).then_some(())).await;
    assert_eq!(told(&one), told(&other));
    let [first, second] = told(&one).try_into().unwrap();
    assert_eq!((&*first.1, &*second.1), ("up to 5", "up to 6"));
    assert_eq!(
        second.0.id - first.0.id,
        2,
        "each change has a number of its own"
    );
    assert_eq!(second.0.before, first.0.id);
    // Where some are gone for all, nobody is resumed over that.
    let line = first.0.line;
    assert!(one.fanout.say_changes(changes(8, 9)).await);
    assert!(one.fanout.say_changes(changes(8, 9)).await);
    let is_another = |told: &Told| matches!(told, Told::Reached(reached) if reached.line != line);
    until(|| one.told().iter().any(is_another).then_some(())).await;
    // The registry has forgotten, and counts anew.
    one.redis(&["SET", "{p}:edge", "1"]).await;
    assert!(other.fanout.say_changes(changes(0, 1)).await);
    until(|| {
        told(&one)
            .iter()
            .any(|(_, text)| text == "up to 1")
            .then_some(())
    })
    .await;
}

/// Has the server forget what the line was told last, as a replica does that takes over without it.
async fn lose(process: &Process, events: u64) {
    let Value::BulkString(last) = process.redis(&["HGET", "{p}:line", "i"]).await else {
        panic!("there is a line");
    };
    let last: u64 = str::from_utf8(&last).unwrap().parse().unwrap();
    let before = (last - events).to_string();
    process
        .redis(&["HSET", "{p}:line", "i", &before, "run", "another"])
        .await;
}

fn lines_told(process: &Process) -> usize {
    let told = process.told().into_iter();
    told.filter(|told| matches!(told, Told::Missed(whose) if whose == "Anybody"))
        .count()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_and_lost_in_a_failover_is_a_gap_also_for_who_knew_of_that_before() {
    // What the first said last is lost or not, and was said before the other one went over, when
    // that is told of a gap anyway, or after.
    for (lost, is_late, lines) in [(0, true, 1), (1, false, 1), (1, true, 2)] {
        let redis = Redis::start();
        let first = Process::start(&redis, 1, settings()).await;
        let second = Process::start(&redis, 2, settings()).await;
        let _held = [hold(&first, "r").await, hold(&second, "r").await];
        let scope = room("r");
        assert!(first.say(&target_of(&scope), "kept").await.is_some());
        assert!(first.say(&target_of(&scope), "last").await.is_some());
        if is_late && let Some(said) = &mut locked(&first.line.proof).current {
            said.at += Duration::from_secs(60);
        }
        lose(&second, lost).await;
        assert!(second.say(&target_of(&scope), "new").await.is_some());
        let is_told = || (lines_told(&second) > 0 && lines_told(&first) > 0).then_some(());
        until(is_told).await;
        assert!(first.say(&target_of(&scope), "more").await.is_some());
        until(|| locked(&first.line.proof).open.is_empty().then_some(())).await;
        assert!(first.say(&target_of(&scope), "and more").await.is_some());
        let ends = second.redis(&["HGET", "{p}:line", "p"]).await;
        let Value::BulkString(ends) = ends else {
            panic!("there were lines before");
        };
        let ends = ends.iter().filter(|byte| **byte == b':').count();
        assert_eq!(ends, lines, "{lost} lost, late: {is_late}");
        let last = first.events().last().map(|event| event.0.line);
        let hears_it = || (second.events().last().map(|event| event.0.line) == last).then_some(());
        until(hears_it).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_knows_less_of_the_line_than_others_begins_another() {
    let redis = Redis::start();
    let process = Process::start(&redis, 1, settings()).await;
    let scope = room("r");
    let _held = hold(&process, "r").await;
    for event in ["a", "b"] {
        assert!(process.say(&target_of(&scope), event).await.is_some());
    }
    let lines = lines_told(&process);
    // The same run, by its own word: a server that may not say which one it is has none.
    let Value::BulkString(run) = process.redis(&["HGET", "{p}:line", "run"]).await else {
        panic!("there is a line");
    };
    lose(&process, 1).await;
    process
        .redis(&["HSET", "{p}:line", "run", str::from_utf8(&run).unwrap()])
        .await;
    assert!(process.say(&target_of(&scope), "c").await.is_some());
    until(|| (lines_told(&process) > lines).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_master_that_is_none_any_more_is_not_heard() {
    let redis = Redis::start();
    let process = Process::start(&redis, 1, settings()).await;
    let scope = room("r");
    let _held = hold(&process, "r").await;
    assert!(process.say(&target_of(&scope), "old").await.is_some());
    let old = until(|| process.events().first().cloned()).await.0;
    lose(&process, 0).await;
    assert!(process.say(&target_of(&scope), "new").await.is_some());
    until(|| {
        process
            .events()
            .last()
            .is_some_and(|event| event.2.as_deref() == Some("new"))
            .then_some(())
    })
    .await;
    // What the earlier one goes on to say, by its numbers.
    let message = Message::new("stale", "1");
    let body = kept::body(
        0,
        None,
        Origin {
            tag: 9,
            number: 1,
            after: 0,
        },
        &target_of(&scope),
        &message,
        &Seal::default(),
    );
    let numbers = [old.id + 1, old.id, old.epoch, old.offset + 1];
    let mut event = vec![3];
    event.extend(old.line.to_be_bytes());
    numbers
        .iter()
        .for_each(|number| event.extend(number.to_be_bytes()));
    event.extend(body);
    let mut publish = redis::cmd("PUBLISH");
    publish.arg(process.line.channel(&scope)).arg(event);
    let heard: u64 = process.commands.query(&publish).await.unwrap();
    assert_eq!(heard, 1);
    assert!(process.say(&target_of(&scope), "newer").await.is_some());
    until(|| {
        process
            .events()
            .last()
            .is_some_and(|event| event.2.as_deref() == Some("newer"))
            .then_some(())
    })
    .await;
    let names: Vec<_> = process
        .events()
        .into_iter()
        .filter_map(|event| event.2)
        .collect();
    assert!(!names.contains(&"stale".into()), "{names:?}");
}

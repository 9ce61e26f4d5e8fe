//! Nodes of two builds on a real server: one after the other is replaced.

use std::sync::Arc;
use std::time::{Duration, Instant};

use redis::Value;
use tokio::task::AbortHandle;

use super::by_hand::{Table, user};
use super::tests::Redis;
use super::{Calls, Commands, RedisRegistry, Server};
use crate::locked::locked;
use crate::member::{Member, Timing};
use crate::registry::{Doubts, Entry, Newcomer, NodeInfo, Policy, Versions};

/// A lease that outlasts whatever keeps a busy machine from renewing it.
const TIMING: Timing = Timing {
    ttl: Duration::from_secs(30),
    refresh: Duration::from_millis(250),
    grace: Duration::ZERO,
    failure: None,
};

struct Build {
    member: Arc<Member<RedisRegistry, Arc<Table>>>,
    table: Arc<Table>,
    running: AbortHandle,
}

impl Drop for Build {
    fn drop(&mut self) {
        self.running.abort();
    }
}

impl Build {
    /// A node that can read these versions.
    fn start(redis: &Redis, tag: u32, min: u32, max: u32) -> Build {
        let server = Arc::new(Server::parse(&redis.url).unwrap());
        let doubts = Doubts::new(TIMING.ttl, TIMING.refresh);
        let registry = RedisRegistry::new(server, Calls::new("builds"), doubts);
        let table = Arc::new(Table {
            is_asked: true,
            ..Table::default()
        });
        let info = NodeInfo {
            node_id: format!("n{tag}").into(),
            tag,
            proto: Versions { min, max },
            ..NodeInfo::default()
        };
        let (member, requests) = Member::new(registry, table.clone(), info, TIMING);
        let running = tokio::spawn(member.clone().run(requests)).abort_handle();
        Build {
            member,
            table,
            running,
        }
    }

    /// A user comes, on a device of its own.
    async fn comes(&self, name: &str, device: &str) {
        let entry = Entry {
            socket: format!("{name} {device}").into(),
            namespace: "/".into(),
            device: device.into(),
            since: 1,
            policy: Policy::Unlimited,
            rooms: Vec::new(),
        };
        let newcomer = Newcomer {
            who: user(name),
            entry: entry.clone(),
            max_sockets: 10,
            instead_of: None,
        };
        let enter = |_| -> Result<(), ()> {
            let mut users = locked(&self.table.users);
            users.entry(user(name)).or_default().push(entry);
            Ok(())
        };
        self.member.connect(newcomer, enter).await.unwrap();
    }

    /// On how many devices a user is, as the registry is asked.
    async fn devices_of(&self, name: &str) -> usize {
        let known = self.member.look_up(&[user(name).user]).await.unwrap();
        known[0].sockets.len()
    }

    /// It is gone, and its lease is over.
    async fn dies(self, redis: &Redis) {
        let incarnation = self.member.incarnation().unwrap();
        drop(self);
        let commands = Commands::new(Arc::new(Server::parse(&redis.url).unwrap()));
        let mut command = redis::cmd("ZADD");
        command
            .arg("{builds}:nodes")
            .arg("XX")
            .arg(1)
            .arg(&*incarnation);
        commands.query::<Value>(&command).await.unwrap();
    }

    fn told_of(&self, name: &str) -> Vec<bool> {
        let heard = locked(&self.table.heard);
        let theirs = heard.iter().filter(|edge| edge.who == user(name));
        theirs.map(|edge| edge.online).collect()
    }

    fn devices_told(&self) -> Vec<(String, Option<u32>)> {
        locked(&self.table.devices).clone()
    }
}

async fn until(what: &str, condition: impl Fn() -> bool) {
    until_it_is(what, async || condition()).await;
}

async fn until_it_is(what: &str, condition: impl AsyncFn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !condition().await {
        assert!(Instant::now() < deadline, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn what_nodes_of_two_builds_say_is_right_on_both_until_the_last_old_one_is_gone() {
    let redis = Redis::start();
    let old = Build::start(&redis, 1, 1, 1);
    until("the old one is there", || old.member.is_trusted()).await;
    let new = Build::start(&redis, 2, 1, 2);
    until("the new one is there", || new.member.is_trusted()).await;
    assert_eq!([&old, &new].map(|build| build.member.version()), [1, 1]);
    // Each knows the other's users.
    old.comes("ann", "phone").await;
    new.comes("bob", "phone").await;
    for build in [&old, &new] {
        let both = || ["ann", "bob"].map(|name| build.told_of(name)) == [[true], [true]];
        until("both have come", both).await;
        assert_eq!(build.devices_of("ann").await, 1);
    }
    // Who was asked about comes on another device, at either.
    old.comes("bob", "desk").await;
    new.comes("ann", "desk").await;
    for (build, name) in [(&old, "ann"), (&new, "bob"), (&old, "bob")] {
        let both = async || build.devices_of(name).await == 2;
        until_it_is("both devices are known", both).await;
    }
    // One that has nothing in common with them stays out.
    let other = Build::start(&redis, 3, 2, 3);
    until("it is refused", || other.member.refused().is_some()).await;
    let why = other.member.refused().unwrap();
    assert!(
        why.contains("n1") && why.contains("versions 2 to 3"),
        "{why}"
    );
    new.comes("marker", "phone").await;
    until("the last has come", || old.told_of("marker") == [true]).await;
    // Devices are told of already, and not relied on.
    assert_eq!(new.member.standing().map(|now| now.version), Some(1));
    locked(&new.table.devices).clear();
    // The old one dies: what it has written is swept by a build that can read more, which goes
    // over to that, and the other one may come.
    old.dies(&redis).await;
    until("ann's phone is gone", || new.member.version() == 2).await;
    until("the other one is let in", || other.member.version() == 2).await;
    for name in ["ann", "bob"] {
        let one = async || new.devices_of(name).await == 1;
        until_it_is("one device is left", one).await;
    }
    other.comes("ann", "tablet").await;
    let of_ann = (user("ann").user.to_string(), Some(2));
    until("that is told", || new.devices_told().contains(&of_ann)).await;
    // Nobody has gone.
    for name in ["ann", "bob", "marker"] {
        assert_eq!(new.told_of(name), [true], "{name}");
    }
}

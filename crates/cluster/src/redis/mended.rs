//! A member on a real server in which somebody changes things by hand.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use redis::FromRedisValue;

use super::by_hand::Table;
use super::server::Commands;
use super::tests::Redis;
use super::{Calls, RedisRegistry, Server, by_hand};
use crate::locked::locked;
use crate::member::{Member, Timing};
use crate::registry::{Doubts, Entry, Millis, NodeInfo, Policy, TypedUser};

/// A short lease, so that everything is compared within seconds.
const TIMING: Timing = Timing {
    ttl: Duration::from_secs(3),
    refresh: Duration::from_millis(500),
    grace: Duration::ZERO,
    failure: None,
};
/// A generous time for what takes about one and a half leases.
const SOON: Duration = Duration::from_secs(30);

fn user(number: usize) -> TypedUser {
    by_hand::user(&format!("u{number}"))
}

fn entry(number: usize, since: Millis) -> Entry {
    Entry {
        socket: format!("s{number}").into(),
        namespace: "/".into(),
        device: "".into(),
        since,
        policy: Policy::Unlimited,
        rooms: vec!["/\nhall".into()],
    }
}

struct Place {
    _redis: Redis,
    member: Arc<Member<RedisRegistry, Arc<Table>>>,
    table: Arc<Table>,
    hand: Commands,
}

impl Place {
    /// A node with so many users, all of whom are registered and announced.
    async fn with(users: usize) -> Place {
        let redis = Redis::start();
        let server = Arc::new(Server::parse(&redis.url).unwrap());
        let registry = RedisRegistry::new(server.clone(), Calls::new("hand"), Doubts::default());
        let table: Arc<Table> = Arc::default();
        for number in 0..users {
            let entries = vec![entry(number, 1_700_000_000_000)];
            locked(&table.users).insert(user(number), entries);
        }
        let info = NodeInfo {
            node_id: "n".into(),
            tag: 1,
            address: "".into(),
            version: "".into(),
            ..NodeInfo::default()
        };
        let (member, requests) = Member::new(registry, table.clone(), info, TIMING);
        tokio::spawn(member.clone().run(requests));
        let place = Place {
            _redis: redis,
            member,
            table,
            hand: Commands::new(server),
        };
        place.until(async |place| place.heard() == users).await;
        place
    }

    fn heard(&self) -> usize {
        locked(&self.table.heard).len()
    }

    async fn run<T: FromRedisValue>(&self, command: &[&str]) -> T {
        let mut built = redis::cmd(command[0]);
        for argument in &command[1..] {
            built.arg(*argument);
        }
        self.hand.query(&built).await.unwrap()
    }

    async fn has(&self, number: usize, socket: &str) -> bool {
        let (key, field) = (format!("{{hand}}:u::u{number}"), format!("s:{socket}"));
        self.run::<bool>(&["HEXISTS", &key, &field]).await
    }

    async fn until(&self, condition: impl AsyncFn(&Place) -> bool) {
        let deadline = Instant::now() + SOON;
        while !condition(self).await {
            assert!(Instant::now() < deadline, "it does not come to be");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

#[tokio::test]
async fn what_was_taken_out_of_redis_or_put_into_it_by_hand_is_mended() {
    let place = Place::with(300).await;
    let entry: String = place.run(&["HGET", "{hand}:u::u9", "s:s9"]).await;
    // One that is missing, its user's whole memory, one too many, and a user whom nobody has.
    let _: u64 = place.run(&["HDEL", "{hand}:u::u7", "s:s7"]).await;
    let _: u64 = place.run(&["DEL", "{hand}:u::u8"]).await;
    let ghost = ["HSET", "{hand}:u::u9", "s:ghost", &entry];
    let _: u64 = place.run(&ghost).await;
    let bucket = user(1000).bucket();
    let incarnation = place.member.incarnation().unwrap();
    let index = format!("{{hand}}:i:{incarnation}:{bucket:02x}");
    let _: u64 = place
        .run(&["HSET", "{hand}:u::u1000", "s:gone", &entry])
        .await;
    let _: u64 = place.run(&["HSET", &index, "gone", "::u1000"]).await;
    place
        .until(async |place| {
            place.has(7, "s7").await
                && place.has(8, "s8").await
                && place.has(9, "s9").await
                && !place.has(9, "ghost").await
                && !place.has(1000, "gone").await
        })
        .await;
    let repairs = place.member.counters().repairs.load(Ordering::Relaxed);
    assert_eq!(repairs, 4);
    assert_eq!(place.heard(), 300, "nobody came or went");
    // Nodes that asked meanwhile were told that nobody is there.
    place
        .until(async |place| *locked(&place.table.reminded) == [user(8)])
        .await;
    // They are counted as they should be: who goes now is offline.
    for number in [7, 8, 9] {
        locked(&place.table.users).remove(&user(number));
        let socket = format!("s{number}").into();
        place
            .member
            .disconnect(user(number), socket, Duration::ZERO);
    }
    place.until(async |place| place.heard() == 303).await;
    let heard = locked(&place.table.heard);
    assert!(heard[300..].iter().all(|edge| !edge.online));
}

/// Writes so many changes of one user's in one step, who is online before.
const MANY: &str = "for i = 1, tonumber(ARGV[1]) do redis.call('XADD', KEYS[1], '*', 'n', \
                    redis.call('INCR', KEYS[2]), 'w', '::u2', 'o', (i + 1) % 2, 'r', 9e12 + i) end";

#[tokio::test]
async fn changes_that_cannot_be_read_or_are_gone_are_counted_and_those_after_them_are_told() {
    let place = Place::with(3).await;
    assert!(locked(&place.table.missed).is_empty());
    let number: u64 = place.run(&["INCR", "{hand}:edge"]).await;
    let nonsense = [
        "XADD",
        "{hand}:edges",
        "*",
        "n",
        &number.to_string(),
        "w",
        "nonsense",
    ];
    let _: String = place.run(&nonsense).await;
    // What it said is missing, and nothing else says so.
    place
        .until(async |place| *locked(&place.table.missed) == [3])
        .await;
    let _: u64 = place.run(&["INCRBY", "{hand}:edge", "5"]).await;
    locked(&place.table.users).remove(&user(1));
    place
        .member
        .disconnect(user(1), "s1".into(), Duration::ZERO);
    place.until(async |place| place.heard() == 4).await;
    let counters = place.member.counters();
    assert_eq!(counters.unreadable_edges.load(Ordering::Relaxed), 1);
    assert_eq!(counters.missed_edges.load(Ordering::Relaxed), 5);
    assert_eq!(counters.errors.load(Ordering::Relaxed), 0);
    assert_eq!(*locked(&place.table.missed), [3, 3]);
}

#[tokio::test]
async fn who_may_not_read_changes_says_so_and_hears_them_when_it_may() {
    let place = Place::with(2).await;
    let _: String = place.run(&["ACL", "SETUSER", "default", "-xread"]).await;
    place.until(async |place| place.member.is_deaf()).await;
    assert!(place.member.is_trusted() && !place.member.is_complete());
    let _: String = place.run(&["ACL", "SETUSER", "default", "+xread"]).await;
    place.until(async |place| place.member.is_complete()).await;
    assert!(!place.member.is_deaf());
}

#[tokio::test]
async fn it_is_not_said_that_all_is_heard_before_what_waits_is_read_to_its_end() {
    let place = Place::with(3).await;
    let many = ["EVAL", MANY, "2", "{hand}:edges", "{hand}:edge", "9000"];
    let _: Option<u64> = place.run(&many).await;
    place
        .until(async |place| locked(&place.table.all_heard).contains(&9003))
        .await;
    let said = locked(&place.table.all_heard).clone();
    let between = said.iter().filter(|heard| (4..9003).contains(*heard));
    assert_eq!(between.count(), 0, "{said:?}");
    assert!(locked(&place.table.missed).is_empty());
}

#[tokio::test]
async fn changes_that_a_new_master_with_a_slow_clock_writes_before_the_readers_place_are_missed() {
    let place = Place::with(3).await;
    // What the new master has when the old one is lost.
    let dump: Vec<u8> = place.run(&["DUMP", "{hand}:edges"]).await;
    let number: u64 = place.run(&["GET", "{hand}:edge"]).await;
    // A change that it has not; its id is ten minutes ahead of the new master's clock.
    let [seconds, _]: [u64; 2] = place.run(&["TIME"]).await;
    let id = format!("{}-0", (seconds + 600) * 1000);
    let next = (number + 1).to_string();
    let lost = ["n", &next, "w", "::u2", "o", "0", "r", "9000000000000"];
    let lost = [&["XADD", "{hand}:edges", &id][..], &lost[..]].concat();
    let _: String = place.run(&lost).await;
    place.until(async |place| place.heard() == 4).await;
    let mut restore = redis::cmd("RESTORE");
    restore.arg("{hand}:edges").arg(0).arg(dump).arg("REPLACE");
    let _: String = place.hand.query(&restore).await.unwrap();
    let _: String = place
        .run(&["SET", "{hand}:edge", &number.to_string()])
        .await;
    // Whoever was connected to the old one is not any more.
    let _: u64 = place.run(&["CLIENT", "KILL", "TYPE", "normal"]).await;
    place
        .until(async |place| *locked(&place.table.missed) == [4])
        .await;
    locked(&place.table.users).remove(&user(1));
    place
        .member
        .disconnect(user(1), "s1".into(), Duration::ZERO);
    place.until(async |place| place.heard() == 5).await;
    assert_eq!(*locked(&place.table.missed), [4], "once");
}

#[tokio::test]
async fn a_connection_that_ends_puts_nothing_in_doubt_that_the_stream_still_has() {
    let place = Place::with(9).await;
    place
        .until(async |place| place.member.standing().is_some())
        .await;
    let before = place.member.standing();
    for number in 0..5 {
        let _: u64 = place.run(&["CLIENT", "KILL", "TYPE", "normal"]).await;
        locked(&place.table.users).remove(&user(number));
        let socket = format!("s{number}").into();
        place
            .member
            .disconnect(user(number), socket, Duration::ZERO);
        place
            .until(async |place| place.heard() == 10 + number)
            .await;
    }
    let all_heard = locked(&place.table.all_heard).len();
    place
        .until(async |place| locked(&place.table.all_heard).len() > all_heard)
        .await;
    assert_eq!(place.member.standing(), before);
    assert!(locked(&place.table.missed).is_empty());
}

#[tokio::test]
async fn a_stream_that_is_gone_is_noticed_when_a_connection_ends_and_once() {
    let place = Place::with(3).await;
    let _: u64 = place.run(&["DEL", "{hand}:edges"]).await;
    for _ in 0..3 {
        let _: u64 = place.run(&["CLIENT", "KILL", "TYPE", "normal"]).await;
        let all_heard = locked(&place.table.all_heard).len();
        place
            .until(async |place| locked(&place.table.all_heard).len() > all_heard + 1)
            .await;
        assert_eq!(*locked(&place.table.missed), [3]);
    }
    locked(&place.table.users).remove(&user(1));
    place
        .member
        .disconnect(user(1), "s1".into(), Duration::ZERO);
    place.until(async |place| place.heard() == 4).await;
    assert_eq!(*locked(&place.table.missed), [3], "what comes is told");
}

#[tokio::test]
async fn another_stream_whose_numbers_go_on_where_the_reader_stands_is_not_taken_for_the_same() {
    let place = Place::with(3).await;
    let dump: Vec<u8> = place.run(&["DUMP", "{hand}:edges"]).await;
    let number: u64 = place.run(&["GET", "{hand}:edge"]).await;
    let [seconds, _]: [u64; 2] = place.run(&["TIME"]).await;
    let add = async |minutes: u64, number: u64| {
        let id = format!("{}-0", (seconds + 60 * minutes) * 1000);
        // Later than anything that was told.
        let (number, rev) = (
            number.to_string(),
            (9_000_000_000_000 + minutes).to_string(),
        );
        let edge = ["n", &number, "w", "::u2", "o", "0", "r", &rev];
        let _: String = place
            .run(&[&["XADD", "{hand}:edges", &id][..], &edge[..]].concat())
            .await;
    };
    // A change that the new master has not, and two others that it has instead.
    add(10, number + 1).await;
    place.until(async |place| place.heard() == 4).await;
    let mut restore = redis::cmd("RESTORE");
    restore.arg("{hand}:edges").arg(0).arg(dump).arg("REPLACE");
    let _: String = place.hand.query(&restore).await.unwrap();
    add(5, number + 1).await;
    let _: u64 = place.run(&["CLIENT", "KILL", "TYPE", "normal"]).await;
    add(15, number + 2).await;
    place
        .until(async |place| *locked(&place.table.missed) == [4])
        .await;
}

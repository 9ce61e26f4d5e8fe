//! The script against the model that the simulation runs on, on a real server: the
//! same operations, the same answers.

use std::collections::BTreeMap;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use heartline_core::store::memory::MemoryStore;
use heartline_core::store::{Challenge, Challenges, Redeemed};

use super::{
    Calls, Commands, OnceBounds, OnceKnown, RedisChallenges, RedisOnce, RedisRegistry, Server,
};
use crate::registry::{
    Arrival, Audit, Departure, DevicesChange, Doubts, Edge, Edges, Entry, Fenced, Known, Mark,
    Millis, Newcomer, NodeInfo, Policy, Registry, Renewed, Restored, RoomName, Sum, Suspicion,
    Turn, TypedUser, UserName, Versions,
};
use crate::simulation::{Dice, Model};

/// A server of this test's own.
pub(super) struct Redis {
    child: Child,
    pub(super) url: String,
}

impl Redis {
    pub(super) fn start() -> Redis {
        Redis::start_with(&[])
    }

    /// The same with more on its command line.
    pub(super) fn start_with(arguments: &[&str]) -> Redis {
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = free.local_addr().unwrap().port();
        drop(free);
        let child = Command::new("redis-server")
            .args(["--port", &port.to_string(), "--bind", "127.0.0.1"])
            .args(["--save", "", "--appendonly", "no"])
            .args(arguments)
            .stdout(Stdio::null())
            .spawn()
            .expect("redis-server is needed for this test; scripts/install-test-tools installs it");
        let until = Instant::now() + Duration::from_secs(60);
        while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(Instant::now() < until, "redis-server does not answer");
            std::thread::yield_now();
        }
        Redis {
            child,
            url: format!("redis://127.0.0.1:{port}"),
        }
    }

    pub(super) fn port(&self) -> &str {
        self.url.rsplit_once(':').map_or("", |(_, port)| port)
    }

    /// Sends it a signal.
    pub(super) fn signal(&self, name: &str) {
        let id = self.child.id().to_string();
        let sent = Command::new("kill").args([name, &id]).status();
        assert!(sent.is_ok_and(|status| status.success()));
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

const TTL: Millis = 15_000;
const DOUBTS: Doubts = Doubts {
    lease_left: 7_500,
    again: 5_000,
};

struct Pair {
    registry: RedisRegistry,
    model: Model,
    dice: Dice,
    clock: Arc<Mutex<(Millis, u64)>>,
    incarnations: Vec<Arc<str>>,
    /// Sockets there were, and whose.
    sockets: Vec<(TypedUser, Arc<str>)>,
    policy: Policy,
    max_sockets: u32,
    /// To look at what the script keeps.
    commands: Commands,
    prefix: String,
    /// Of the last operation with a number.
    number: u64,
    /// The hold of which a renewal told.
    hold: Option<Millis>,
    /// What became of suspicions, and how often.
    verdicts: BTreeMap<String, u32>,
    /// How many nodes were not let join.
    refused: u32,
}

/// Says an operation with a number to both, and now and then a second time.
macro_rules! both {
    ($pair:ident, $turn:expr, $operation:ident, $what:expr) => {
        for _ in 0..=u64::from($pair.dice.chance(20)) {
            let real = $pair.registry.$operation($turn, $what).await.unwrap();
            let (now, _) = $pair.time();
            assert_eq!(real, $pair.model.$operation(now, $turn, $what));
        }
    };
}

fn sorted<T, K: Ord>(mut items: Vec<T>, key: impl Fn(&T) -> K) -> Vec<T> {
    items.sort_by_key(|item| key(item));
    items
}

impl Pair {
    fn new(server: &Arc<Server>, seed: u64) -> Pair {
        let clock = Arc::new(Mutex::new((1_700_000_000_000, 1)));
        let told = clock.clone();
        let calls = Calls::new(&format!("test{seed}"));
        let registry = RedisRegistry::new(server.clone(), calls, DOUBTS).with_clock(move || {
            let (now, run) = *told.lock().unwrap();
            (now, format!("{run:x}"))
        });
        let mut dice = Dice(seed);
        let policy = match dice.below(4) {
            0 => Policy::Replace,
            1 => Policy::Limit(2),
            2 => Policy::Evict(2),
            _ => Policy::Unlimited,
        };
        Pair {
            registry,
            model: Model::with_doubts(DOUBTS),
            max_sockets: if dice.chance(30) { 4 } else { u32::MAX },
            dice,
            clock,
            incarnations: Vec::new(),
            sockets: Vec::new(),
            policy,
            commands: Commands::new(server.clone()),
            prefix: format!("{{test{seed}}}"),
            number: 0,
            hold: None,
            verdicts: BTreeMap::new(),
            refused: 0,
        }
    }

    /// The number of the next operation; now and then one that comes too late.
    fn next_number(&mut self) -> u64 {
        self.number += 10;
        match self.dice.chance(5) {
            true => self.number.saturating_sub(15),
            false => self.number,
        }
    }

    /// The cluster's own time, and the run of the server.
    fn time(&mut self) -> (Millis, u64) {
        let (wall, run) = *self.clock.lock().unwrap();
        (self.model.tick(wall), run)
    }

    fn who(&mut self) -> TypedUser {
        TypedUser {
            user: format!("=t%3A:u{}", self.dice.below(4)).into(),
            kind: if self.dice.chance(20) { "=k" } else { "" }.into(),
        }
    }

    fn entry(&mut self) -> Entry {
        Entry {
            socket: format!("s{}", self.dice.below(1 << 40)).into(),
            namespace: if self.dice.chance(20) { "/x" } else { "/" }.into(),
            device: match self.dice.below(3) {
                0 => "".into(),
                device => format!("d\"{device}").into(),
            },
            since: self.time().0 - self.dice.below(100),
            policy: self.policy,
            rooms: self.rooms(),
        }
    }

    fn rooms(&mut self) -> Vec<RoomName> {
        (0..4)
            .filter(|_| self.dice.chance(30))
            .map(|room| format!("/\nr{room}").into())
            .collect()
    }

    /// The greatest revision that a node was told: now and then by a clock that was ahead.
    fn told_rev(&mut self) -> u64 {
        let (wall, _) = *self.clock.lock().unwrap();
        match self.dice.below(10) {
            0 => wall + self.dice.below(1000),
            1 => wall,
            _ => 0,
        }
    }

    fn incarnation(&mut self) -> Arc<str> {
        match self.incarnations.len() as u64 {
            0 => "n.00000000.x".into(),
            // Mostly a late one.
            count => {
                let back = self.dice.below(count.min(4));
                self.incarnations[(count - 1 - back) as usize].clone()
            }
        }
    }

    /// Now and then one that goes on with an earlier socket, or believes so.
    fn newcomer(&mut self) -> Newcomer {
        let (owner, earlier) = self.departed();
        let goes_on = self.dice.chance(40);
        Newcomer {
            max_sockets: self.max_sockets,
            who: match goes_on && self.dice.chance(90) {
                true => owner,
                false => self.who(),
            },
            entry: self.entry(),
            instead_of: goes_on.then_some(earlier),
        }
    }

    fn departed(&mut self) -> (TypedUser, Arc<str>) {
        match self.sockets.len() as u64 {
            0 => (self.who(), "nobody".into()),
            count => self.sockets[self.dice.below(count) as usize].clone(),
        }
    }

    async fn step(&mut self) {
        let grace = if self.dice.chance(50) { 3_000 } else { 0 };
        let (now, run) = self.time();
        match self.dice.below(24) {
            20..=22 => self.suspect().await,
            0 | 1 => {
                let number = self.dice.below(3);
                let min = 1 + u32::from(self.dice.chance(20));
                let info = NodeInfo {
                    proto: Versions {
                        min,
                        max: min + self.dice.below(3) as u32,
                    },
                    node_id: format!("n{number}").into(),
                    tag: self.dice.below(2) as u32,
                    address: "a:1".into(),
                    version: "1".into(),
                    ..NodeInfo::default()
                };
                let known = match self.dice.below(9) {
                    one @ 0..3 => Some(["another", "one-more", "a-third"][one as usize]),
                    _ => None,
                };
                let (living, rev) = (self.dice.below(4) as u32, self.told_rev());
                let joining = self.registry.join(&info, TTL, known, living, rev);
                let joined = joining.await.unwrap();
                let Ok(joined) = joined else {
                    let known = (known, living, rev);
                    let expected = self.model.join(now, run, &info, TTL, known, "x");
                    assert_eq!(joined.err(), expected.err());
                    self.refused += 1;
                    return self.compare().await;
                };
                let fresh = joined.incarnation.rsplit_once('.').unwrap().1;
                let known = (known, living, rev);
                let expected = self.model.join(now, run, &info, TTL, known, fresh);
                let expected = expected.expect("it may join");
                assert_eq!(joined.version, expected.version);
                assert_eq!(joined.incarnation, expected.incarnation);
                assert_eq!(joined.epoch, expected.epoch);
                assert_eq!(joined.edge_number, expected.edge_number);
                assert_eq!(joined.begun_after.1, expected.begun_after.1);
                self.incarnations.push(joined.incarnation);
            }
            2 | 3 => {
                let incarnation = self.incarnation();
                let (_, done) = self.departed();
                let complete = self.hold.filter(|_| self.dice.chance(50));
                let done = std::slice::from_ref(&done);
                let rev = self.told_rev();
                let renewing = self.registry.renew(&incarnation, TTL, done, complete, rev);
                let real = renewing.await.unwrap();
                let complete = (complete, rev);
                let expected = self
                    .model
                    .renew(now, run, &incarnation, TTL, done, complete);
                if let Ok(renewed) = &real {
                    self.hold = renewed.hold;
                }
                let tidy = |renewed: Renewed| Renewed {
                    displaced: sorted(renewed.displaced, |displaced| displaced.socket.clone()),
                    ..renewed
                };
                assert_eq!(real.map(tidy), expected.map(tidy));
            }
            4..=7 => {
                let incarnation = self.incarnation();
                let number = self.next_number();
                let turn = Turn {
                    incarnation: &incarnation,
                    number,
                };
                let newcomers: Vec<Newcomer> =
                    (0..=self.dice.below(3)).map(|_| self.newcomer()).collect();
                both!(self, turn, connect, &newcomers);
                let names = newcomers
                    .into_iter()
                    .map(|newcomer| (newcomer.who, newcomer.entry.socket));
                self.sockets.extend(names);
            }
            16 | 17 => {
                let incarnation = self.incarnation();
                let number = self.next_number();
                let turn = Turn {
                    incarnation: &incarnation,
                    number,
                };
                let arrivals: Vec<Arrival> = (0..=self.dice.below(2))
                    .map(|_| self.departed())
                    .map(|(who, socket)| Arrival { who, socket })
                    .collect();
                both!(self, turn, establish, &arrivals);
            }
            8 | 9 => {
                let incarnation = self.incarnation();
                let number = self.next_number();
                let turn = Turn {
                    incarnation: &incarnation,
                    number,
                };
                let (who, socket) = self.departed();
                let keep = [0, 0, 500, 9_000][self.dice.below(4) as usize];
                let grace = grace.max(keep);
                let announced = self.dice.chance(50);
                let departures = [Departure {
                    who,
                    socket,
                    grace,
                    announced,
                }];
                both!(self, turn, depart, &departures);
            }
            10 | 14 | 15 => {
                let incarnation = self.incarnation();
                let number = self.next_number();
                let turn = Turn {
                    incarnation: &incarnation,
                    number,
                };
                let (mut who, socket) = self.departed();
                if self.dice.chance(20) {
                    // Somebody of whom nothing is known.
                    who.user = format!("=t%3A:v{}", self.number).into();
                }
                let mut known = self.entry();
                known.socket = socket;
                let mut entries = Vec::new();
                if self.dice.chance(50) {
                    entries.extend([self.entry(), self.entry()]);
                }
                if self.dice.chance(50) {
                    entries.push(known);
                }
                let names: Vec<_> = entries
                    .iter()
                    .map(|entry| (who.clone(), entry.socket.clone()))
                    .collect();
                let users = [Restored {
                    who,
                    believed: self.dice.chance(30),
                    mended: self.dice.chance(30),
                    retold: self.dice.chance(30),
                    entries,
                }];
                both!(self, turn, restore, &users);
                self.sockets.extend(names);
            }
            11 => {
                let incarnation = self.incarnation();
                let all = [incarnation];
                self.registry.retire(&all).await.unwrap();
                self.model.retire(now, &all);
            }
            12 => {
                let real = self.registry.maintain(1000, grace, TTL).await.unwrap();
                let expected = self.model.maintain(now, run, 1000, grace, TTL);
                assert_eq!(real, expected);
            }
            13 => {
                let mut clock = self.clock.lock().unwrap();
                clock.0 += self.dice.below(12_000);
                match self.dice.below(8) {
                    0 => clock.0 -= 30_000,
                    1 => clock.0 += 3_600_000,
                    _ => {}
                }
                clock.1 += u64::from(self.dice.chance(10));
            }
            _ => self.clock.lock().unwrap().0 += self.dice.below(200),
        }
        self.compare().await;
    }

    /// A node is suspected by one or two others, some of them insisting.
    async fn suspect(&mut self) {
        let whom = self.incarnation();
        for _ in 0..=self.dice.below(5) {
            let (by, again) = (self.incarnation(), self.dice.chance(60));
            let suspicion = Suspicion {
                whom: &whom,
                again,
                window: 400,
            };
            let (now, _) = self.time();
            let real = self.registry.suspect(&by, suspicion).await.unwrap();
            assert_eq!(real, self.model.suspect(now, &by, suspicion));
            if let Ok(verdict) = real {
                *self.verdicts.entry(format!("{verdict:?}")).or_default() += 1;
            }
            self.clock.lock().unwrap().0 += self.dice.below(600);
        }
    }

    async fn compare(&mut self) {
        let (now, _) = self.time();
        let users: Vec<UserName> = (0..4).map(|user| format!("=t%3A:u{user}").into()).collect();
        let tidy = |known: Vec<Known>| -> Vec<Known> {
            let tidy = known.into_iter().map(|known| Known {
                sockets: sorted(known.sockets, |seen| seen.socket.clone()),
                announced: sorted(known.announced, Clone::clone),
                ..known
            });
            tidy.collect()
        };
        let grace = if self.dice.chance(50) { 3_000 } else { 0 };
        // By the last ones, until one of them is told.
        let asking = self.incarnations.iter().rev().take(6);
        for incarnation in asking.chain([&"n.00000000.x".into()]) {
            let real = self.registry.look_up(incarnation, grace, &users);
            let real = real.await.unwrap().map(tidy);
            let expected = self.model.look_up(now, incarnation, grace, &users);
            assert_eq!(real, expected.map(tidy));
            if real.is_ok() {
                break;
            }
        }
        let incarnation = self.incarnation();
        self.compare_entries(&incarnation, &users).await;
        assert_eq!(self.registry.nodes().await.unwrap(), self.model.nodes(now));
        for user in &users {
            self.compare_places(user).await;
        }
    }

    /// Who sends to a user is told of each process that has one of its sockets, and of no other.
    async fn compare_places(&self, user: &str) {
        let mut ask = redis::cmd("HGETALL");
        ask.arg(format!("{}:u:{user}", self.prefix));
        let kept: BTreeMap<String, String> = self.commands.query(&ask).await.unwrap();
        let mut expected: BTreeMap<&str, u32> = BTreeMap::new();
        for (_, entry) in kept.iter().filter(|(name, _)| name.starts_with("s:")) {
            let incarnation = entry.split('"').nth(1).unwrap();
            let (process, _) = incarnation.rsplit_once('.').unwrap();
            *expected.entry(process).or_default() += 1;
        }
        let told = kept.get("p").into_iter().flat_map(|told| told.split(' '));
        let told = told.filter_map(|one| one.split_once('='));
        let told: BTreeMap<&str, u32> = told
            .map(|(process, count)| (process, count.parse().unwrap()))
            .collect();
        assert_eq!(told, expected);
    }

    /// What there is of an incarnation: all of it, and that it has the sums that it should.
    async fn compare_entries(&self, incarnation: &str, users: &[UserName]) {
        let bucket = |user: &UserName| {
            let (user, kind) = (user.clone(), "".into());
            TypedUser { user, kind }.bucket()
        };
        let mut buckets: Vec<u8> = users.iter().map(bucket).collect();
        buckets.dedup();
        let wrong: Vec<(u8, Sum)> = buckets.iter().map(|&one| (one, Sum(1))).collect();
        let real = self.registry.audit(incarnation, &wrong).await.unwrap();
        let expected = self.model.audit(incarnation, &wrong);
        let tidy = |mut audit: Audit| {
            for (_, there) in &mut audit.differing {
                there.sort_unstable();
            }
            audit
        };
        let expected = tidy(expected);
        assert_eq!(tidy(real), expected);
        let sums = expected.differing.iter().map(|(bucket, there)| {
            let marks = there.iter().map(|marked| Mark {
                bucket: *bucket,
                number: marked.number,
            });
            (*bucket, marks.fold(Sum::default(), Sum::with))
        });
        let sums: Vec<(u8, Sum)> = sums.collect();
        let real = self.registry.audit(incarnation, &sums).await.unwrap();
        assert_eq!(real, self.model.audit(incarnation, &sums));
        assert_eq!(real.differing, []);
    }

    async fn compare_edges(&self) {
        let expected = self.model.edges("0", usize::MAX).edges;
        if expected.is_empty() && self.model.devices().is_empty() {
            return;
        }
        let key = |edge: &Edge| {
            let rooms = (edge.rooms.clone(), edge.others.clone());
            (edge.who.clone(), edge.rev, rooms)
        };
        let start = "0-0".into();
        let reading = self.registry.edges(&start, Duration::from_secs(1));
        let Edges {
            edges: real,
            devices,
            ..
        } = reading.await.unwrap();
        // A sweep has no order.
        let of = |change: &DevicesChange| (change.user.clone(), change.devices);
        let changes = |all: &[DevicesChange]| sorted(all.iter().map(of).collect(), Clone::clone);
        assert_eq!(changes(&devices), changes(self.model.devices()));
        assert!(
            devices
                .iter()
                .map(|change| change.number)
                .eq(1..=devices.len() as u64)
        );
        let numbers = |edges: &[(u64, Option<Edge>)]| -> Vec<u64> {
            edges.iter().map(|(number, _)| *number).collect()
        };
        assert_eq!(numbers(&real), numbers(&expected));
        let tidy = |edges: Vec<(u64, Option<Edge>)>| {
            sorted(
                edges.into_iter().filter_map(|(_, edge)| edge).collect(),
                key,
            )
        };
        assert_eq!(tidy(real), tidy(expected));
    }
}

/// Says where it was when a comparison fails.
struct RoomAddress(u64, u32);

impl Drop for RoomAddress {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("seed {}, step {}", self.0, self.1);
        }
    }
}

#[tokio::test(flavor = "current_thread")]
async fn the_script_does_what_the_model_says() {
    let redis = Redis::start();
    let server = Arc::new(Server::parse(&redis.url).unwrap());
    let (mut verdicts, mut refused) = (BTreeMap::<String, u32>::new(), 0);
    for seed in 0..20 {
        let mut pair = Pair::new(&server, seed);
        for step in 0..250 {
            let _place = RoomAddress(seed, step);
            pair.step().await;
        }
        pair.compare_edges().await;
        refused += pair.refused;
        for (verdict, count) in std::mem::take(&mut pair.verdicts) {
            *verdicts.entry(verdict).or_default() += count;
        }
    }
    assert!(refused > 5, "{refused}");
    for verdict in ["Ends", "Dead", "Open", "Refuted"] {
        assert!(verdicts.get(verdict) > Some(&5), "{verdicts:?}");
    }
}

fn bytes(number: u64) -> [u8; 32] {
    let mut bytes = [7; 32];
    bytes[..8].copy_from_slice(&number.to_be_bytes());
    bytes
}

#[tokio::test]
async fn challenges_in_redis_are_what_they_are_in_memory() {
    let server = Redis::start();
    for seed in 0..20 {
        let redis = RedisChallenges::new(&server.url, &format!("c{seed}")).unwrap();
        let model = MemoryStore::default();
        let (mut dice, mut now, mut issued) = (Dice(seed), 1_700_000_000_000, 0);
        for _ in 0..120 {
            now += dice.below(60);
            if dice.below(2) == 0 {
                issued += 1;
                let challenge = Challenge {
                    hash: bytes(issued),
                    wallet: bytes(dice.below(4)),
                    expires_at: now + 1_000,
                };
                model.issue(challenge.clone(), now).await.unwrap();
                redis.issue(challenge, now).await.unwrap();
            } else {
                let hash = bytes(1 + dice.below(issued + 1));
                let wallet = bytes(dice.below(4));
                let expected = model.redeem(hash, wallet, now).await;
                assert_eq!(redis.redeem(hash, wallet, now).await, expected);
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_nodes_that_race_for_a_challenge_one_gets_it() {
    let server = Redis::start();
    let node = || Arc::new(RedisChallenges::new(&server.url, "race").unwrap());
    let nodes = [node(), node()];
    for round in 0..100 {
        let challenge = Challenge {
            hash: bytes(round),
            wallet: bytes(1),
            expires_at: 2_000,
        };
        nodes[0].issue(challenge, 1_000).await.unwrap();
        let racers: Vec<_> = (0..16)
            .map(|racer| {
                let node = nodes[racer % 2].clone();
                tokio::spawn(async move { node.redeem(bytes(round), bytes(1), 1_500).await })
            })
            .collect();
        let mut taken = 0;
        for racer in racers {
            taken += usize::from(racer.await.unwrap() == Ok(Redeemed::Taken));
        }
        assert_eq!(taken, 1, "round {round}");
    }
}

const ONCE: OnceBounds = OnceBounds {
    kept_for: 10_000,
    runs_for: 1_000,
    requests: 10,
    bytes: 10_000,
};

#[tokio::test]
async fn a_request_is_done_by_one_node_and_its_answer_is_everybodys() {
    let server = Redis::start();
    let nodes = [(); 2].map(|()| RedisOnce::new(&server.url, "once", ONCE).unwrap());
    let claim = async |node: usize, fingerprint, now| {
        let (token, fingerprint) = (node as u64 + 1, bytes(fingerprint));
        let claimed = nodes[node].claim("k", &fingerprint, token, now).await;
        claimed.unwrap()
    };
    let finish = async |node: usize, answer: Option<&str>, now| {
        let answer = answer.map(str::as_bytes);
        let (token, fingerprint) = (node as u64 + 1, bytes(1));
        let finished = nodes[node].finish("k", &fingerprint, token, answer, now);
        finished.await.unwrap();
    };
    let known = |answer: Option<&str>| {
        Some(OnceKnown {
            fingerprint: bytes(1),
            answer: answer.map(Into::into),
        })
    };
    let now = 1_700_000_000_000;
    assert_eq!(claim(0, 1, now).await, None);
    // The same that asks again is no other.
    assert_eq!(claim(0, 1, now).await, None);
    assert_eq!(claim(1, 1, now).await, known(None));
    assert_eq!(claim(1, 2, now).await, known(None));
    // What is another's nobody ends.
    finish(1, Some("two"), now).await;
    finish(0, Some("o\0ne"), now + 500).await;
    // What was done is not done otherwise, and saying it again makes it no younger.
    finish(0, Some("other"), now + 600).await;
    finish(0, None, now + 600).await;
    for node in 0..2 {
        assert_eq!(claim(node, 1, now + 10_500).await, known(Some("o\0ne")));
    }
    assert_eq!(claim(1, 1, now + 10_501).await, None);
    // Without an answer it is done again.
    finish(1, None, now + 10_600).await;
    let now = now + 20_000;
    assert_eq!(claim(0, 1, now).await, None);
    // A node stands still: the same request is taken over, and whoever goes on late has nothing
    // to say of it.
    assert_eq!(claim(1, 1, now + 999).await, known(None));
    assert_eq!(claim(1, 2, now + 1_000).await, known(None));
    assert_eq!(claim(1, 1, now + 1_000).await, None);
    finish(0, Some("late"), now + 1_001).await;
    assert_eq!(claim(0, 1, now + 1_001).await, known(None));
    // What nobody could take up here is known once it is done; what came to nothing is not.
    let now = now + 40_000;
    assert_eq!(claim(1, 1, now).await, None);
    finish(1, None, now).await;
    finish(0, None, now).await;
    finish(0, Some("alone"), now).await;
    assert_eq!(claim(1, 1, now + 1).await, known(Some("alone")));
}

#[tokio::test]
async fn of_requests_that_are_done_once_the_oldest_are_forgotten_when_there_is_too_much() {
    let server = Redis::start();
    let once = RedisOnce::new(&server.url, "once", ONCE).unwrap();
    let start = 1_700_000_000_000;
    let answered = async |number: u64, size: usize| {
        let (key, now) = (format!("k{number:04}"), start + number);
        let claimed = once.claim(&key, &bytes(number), 1, now).await;
        assert_eq!(claimed.unwrap(), None);
        let answer = vec![b'x'; size];
        let (fingerprint, answer) = (bytes(number), Some(&*answer));
        let finished = once.finish(&key, &fingerprint, 1, answer, now);
        finished.await.unwrap();
    };
    let kept = async |number: u64| {
        let key = format!("k{number:04}");
        let known = once.claim(&key, &bytes(number), 2, start + 5_000).await;
        known.unwrap().is_some()
    };
    for number in 0..11 {
        answered(number, 10).await;
    }
    assert!(kept(1).await && kept(10).await);
    // Four of 2 086 bytes beside six small ones; a fifth is too much for more than itself.
    for number in 11..16 {
        answered(number, 2_000).await;
    }
    assert!(kept(15).await && kept(12).await && !kept(10).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_nodes_that_race_for_a_request_one_does_it() {
    let server = Redis::start();
    let node = || Arc::new(RedisOnce::new(&server.url, "race", ONCE).unwrap());
    let nodes = [node(), node()];
    for round in 0..50 {
        let racers: Vec<_> = (0..16)
            .map(|racer| {
                let node = nodes[racer % 2].clone();
                let key = format!("k{round}");
                tokio::spawn(async move { node.claim(&key, &bytes(1), racer as u64, 1_500).await })
            })
            .collect();
        let mut taken = 0;
        for racer in racers {
            taken += usize::from(racer.await.unwrap().unwrap().is_none());
        }
        assert_eq!(taken, 1, "round {round}");
    }
}

/// A registry of its own on a server.
fn registry_of(server: &Arc<Server>) -> RedisRegistry {
    RedisRegistry::new(server.clone(), Calls::new("v"), DOUBTS)
}

fn node_with(name: &str, min: u32, max: u32) -> NodeInfo {
    NodeInfo {
        node_id: name.into(),
        tag: 7,
        proto: Versions { min, max },
        ..NodeInfo::default()
    }
}

#[tokio::test]
async fn two_builds_in_one_cluster_write_what_both_can_read_and_a_third_is_refused() {
    let redis = Redis::start();
    let server = Arc::new(Server::parse(&redis.url).unwrap());
    let registry = registry_of(&server);
    let join = async |info: &NodeInfo| registry.join(info, TTL, None, 0, 0).await.unwrap();
    let old = join(&node_with("old", 1, 1)).await.unwrap();
    assert_eq!(old.version, 1);
    let new = join(&node_with("new", 1, 2)).await.unwrap();
    assert_eq!(new.version, 1, "the old one lives");
    let refused = join(&node_with("newest", 2, 3)).await.unwrap_err();
    assert_eq!((&*refused.node_id, refused.versions.max), ("old", 1));
    assert_eq!(
        registry.nodes().await.unwrap().len(),
        2,
        "nothing is left of it"
    );
    // The old one goes: what is written changes, and the newest may come.
    registry.retire(&[old.incarnation]).await.unwrap();
    let renewed = registry.renew(&new.incarnation, TTL, &[], None, 0).await;
    assert_eq!(renewed.unwrap().unwrap().version, 2);
    assert_eq!(join(&node_with("newest", 2, 3)).await.unwrap().version, 2);
}

#[tokio::test]
async fn whose_lease_is_over_has_no_say_in_the_version_until_a_hold_lets_them_go_on() {
    let redis = Redis::start();
    let server = Arc::new(Server::parse(&redis.url).unwrap());
    let time = Arc::new(Mutex::new((1_700_000_000_000, "1")));
    let clock = time.clone();
    let registry = registry_of(&server).with_clock(move || {
        let (now, run) = *clock.lock().unwrap();
        (now, run.to_owned())
    });
    let join = async |info: &NodeInfo| registry.join(info, TTL, None, 0, 0).await.unwrap();
    let renew = async |incarnation: &str| {
        let renewed = registry
            .renew(incarnation, TTL, &[], None, 0)
            .await
            .unwrap();
        renewed.map(|renewed| renewed.version)
    };
    let old = join(&node_with("old", 1, 1)).await.unwrap();
    let new = join(&node_with("new", 1, 2)).await.unwrap();
    assert_eq!(new.version, 1);
    // Its lease ends, and nobody has swept it yet when another one comes that could not live with it.
    for _ in 0..4 {
        time.lock().unwrap().0 += TTL / 3;
        assert_eq!(renew(&new.incarnation).await, Ok(1));
    }
    assert_eq!(registry.nodes().await.unwrap().len(), 2);
    let newest = join(&node_with("newest", 2, 3)).await.unwrap();
    assert_eq!(newest.version, 2);
    assert_eq!(renew(&new.incarnation).await, Ok(2));
    assert_eq!(renew(&old.incarnation).await, Err(Fenced));
    // The server starts again, and whoever was there may go on.
    time.lock().unwrap().1 = "2";
    assert_eq!(renew(&new.incarnation).await, Ok(1));
    assert_eq!(renew(&old.incarnation).await, Ok(1));
}

#[tokio::test]
async fn a_record_that_nobody_can_read_keeps_no_other_from_its_turn() {
    let redis = Redis::start();
    let server = Arc::new(Server::parse(&redis.url).unwrap());
    let registry = registry_of(&server);
    let joined = registry.join(&node_with("n", 1, 1), TTL, None, 0, 0).await;
    let incarnation = joined.unwrap().unwrap().incarnation;
    let commands = Commands::new(server.clone());
    let put = async |command: &[&str]| {
        let mut cmd = redis::cmd(command[0]);
        cmd.arg(&command[1..]);
        let done: redis::Value = commands.query(&cmd).await.unwrap();
        drop(done);
    };
    // Of three users one has an entry and a state that are nonsense, one is no hash at all.
    put(&["HSET", "{v}:u::a", "s:x", "nonsense", "t:", "[[]]"]).await;
    put(&["SET", "{v}:u::b", "nonsense"]).await;
    put(&["HSET", "{v}:x:n.00000007", "x", "nonsense"]).await;
    let newcomers: Vec<Newcomer> = ["a", "b", "c"]
        .iter()
        .map(|user| Newcomer {
            max_sockets: u32::MAX,
            instead_of: None,
            who: TypedUser {
                user: format!(":{user}").into(),
                kind: "".into(),
            },
            entry: Entry {
                socket: format!("s{user}").into(),
                namespace: "/".into(),
                device: "d".into(),
                since: 1,
                policy: Policy::Limit(3),
                rooms: Vec::new(),
            },
        })
        .collect();
    let turn = |number| Turn {
        incarnation: &incarnation,
        number,
    };
    let admitted = registry.connect(turn(1), &newcomers).await.unwrap();
    assert_eq!(admitted.unwrap().len(), 3, "a fault keeps nobody out");
    let asked = [":a".into(), ":c".into()];
    let known = registry
        .look_up(&incarnation, 0, &asked)
        .await
        .unwrap()
        .unwrap();
    assert!(
        known
            .iter()
            .all(|known| known.online && known.sockets.len() == 1)
    );
    let renewed = registry
        .renew(&incarnation, TTL, &[], None, 0)
        .await
        .unwrap();
    let renewed = renewed.unwrap();
    assert_eq!(renewed.displaced, []);
    assert!(renewed.set_aside >= 3, "{}", renewed.set_aside);
    // And they go, all but the one that was never there.
    let departures: Vec<Departure> = newcomers
        .iter()
        .map(|newcomer| Departure {
            who: newcomer.who.clone(),
            socket: newcomer.entry.socket.clone(),
            grace: 0,
            announced: true,
        })
        .collect();
    let departed = registry.depart(turn(2), &departures).await.unwrap();
    assert_eq!(departed, Ok(vec![false; 3]));
    let known = registry
        .look_up(&incarnation, 0, &asked)
        .await
        .unwrap()
        .unwrap();
    assert!(known.iter().all(|known| !known.online));
    let again = registry
        .renew(&incarnation, TTL, &[], None, 0)
        .await
        .unwrap();
    let now = again.unwrap().set_aside;
    let once_more = registry
        .renew(&incarnation, TTL, &[], None, 0)
        .await
        .unwrap();
    assert_eq!(
        once_more.unwrap().set_aside,
        now,
        "what was set aside is not met again"
    );
}

/// A lease that outlives what takes long on a slow machine, milliseconds.
const LONG: Millis = 600_000;

#[tokio::test]
async fn edges_that_name_rooms_are_bounded_by_bytes_and_what_goes_is_a_hole() {
    let redis = Redis::start();
    let server = Arc::new(Server::parse(&redis.url).unwrap());
    let registry = registry_of(&server);
    let joined = registry.join(&node_with("n", 1, 1), LONG, None, 0, 0).await;
    let incarnation = joined.unwrap().unwrap().incarnation;
    let names = |count: usize| -> Vec<RoomName> {
        let names = (0..count).map(|number| format!("/\n{number:04}{}", "x".repeat(252)).into());
        names.collect()
    };
    let mut number = 0;
    // The user's socket comes into rooms.
    let mut enter = async |rooms: Vec<RoomName>| {
        let entry = Entry {
            socket: "s".into(),
            namespace: "/".into(),
            device: "d".into(),
            since: 1,
            policy: Policy::Unlimited,
            rooms,
        };
        let user = Restored {
            who: TypedUser {
                user: ":a".into(),
                kind: "".into(),
            },
            believed: false,
            mended: false,
            retold: false,
            entries: vec![entry],
        };
        number += 1;
        let turn = Turn {
            incarnation: &incarnation,
            number,
        };
        let restored = registry.restore(turn, &[user]).await;
        assert_eq!(restored.unwrap(), Ok(Vec::new()));
    };
    // 50 MB of names.
    for _ in 0..200 {
        enter(names(1000)).await;
        enter(Vec::new()).await;
    }
    enter(names(999)).await;
    enter(names(1000)).await;
    let mut usage = redis::cmd("MEMORY");
    usage.arg("USAGE").arg("{v}:edges").arg("SAMPLES").arg(0);
    let commands = Commands::new(server);
    let bytes: u64 = commands.query(&usage).await.unwrap();
    assert!(bytes < 48 << 20, "{bytes}");
    let read = registry.edges(&"0-0".into(), Duration::from_secs(1)).await;
    let edges = read.unwrap().edges;
    assert!(edges.len() > 100, "{}", edges.len());
    let gone = edges[0].0 - 1;
    assert_eq!(gone + edges.len() as u64, 202, "a hole, and nothing else");
    // Who has heard of the user already is named as far as that is short.
    let last = edges[edges.len() - 1].1.as_ref().unwrap();
    assert_eq!(last.rooms.len(), 1);
    let named = last.others.iter().flatten().map(|name| name.len());
    assert!((2000..=4096).contains(&named.sum::<usize>()));
}

#[tokio::test]
async fn a_node_that_starts_reads_from_what_the_line_was_not_told_of() {
    let redis = Redis::start();
    let server = Arc::new(Server::parse(&redis.url).unwrap());
    let registry = registry_of(&server);
    let info = node_with("n", 1, 1);
    let joined = registry
        .join(&info, LONG, None, 0, 0)
        .await
        .unwrap()
        .unwrap();
    let users = ["a", "b", "c", "d"].map(|name| Restored {
        who: TypedUser {
            user: format!(":{name}").into(),
            kind: "".into(),
        },
        believed: false,
        mended: false,
        retold: false,
        entries: vec![Entry {
            socket: name.into(),
            namespace: "/".into(),
            device: "d".into(),
            since: 1,
            policy: Policy::Unlimited,
            rooms: Vec::new(),
        }],
    });
    let turn = Turn {
        incarnation: &joined.incarnation,
        number: 1,
    };
    let restored = registry.restore(turn, &users).await;
    assert_eq!(restored.unwrap(), Ok(Vec::new()));
    let commands = Commands::new(server.clone());
    // Up to which edge the line was told, whether the node starts, and behind which it reads.
    for (said, known, expected) in [
        (None, None, 4),
        (Some(2), None, 2),
        (Some(0), None, 0),
        (Some(4), None, 4),
        // Another life of the registry has counted further.
        (Some(7), None, 4),
        (Some(2), Some(&*joined.epoch), 4),
    ] {
        if let Some(said) = said {
            let mut tell = redis::cmd("HSET");
            tell.arg("{v}:line").arg("x").arg(said);
            let () = commands.query(&tell).await.unwrap();
        }
        let other = registry
            .join(&node_with("m", 1, 1), LONG, known, 1, 0)
            .await;
        let other = other.unwrap().unwrap();
        assert_eq!(other.edge_number, expected, "{said:?}");
        let wait = Duration::from_millis(1);
        let read = registry.edges(&other.last_edge, wait).await.unwrap();
        let numbers: Vec<u64> = read.edges.iter().map(|(number, _)| *number).collect();
        assert_eq!(numbers, Vec::from_iter(expected + 1..=4), "{said:?}");
    }
}

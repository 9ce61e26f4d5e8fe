//! The script against the model that the simulation runs on: the same operations, the same
//! answers.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::{DOUBTS, Redis, TTL};
use crate::redis::{Calls, Commands, RedisRegistry, Server};
use crate::registry::{
    Arrival, Audit, Departure, DevicesChange, Edge, Edges, Entry, Known, Mark, Millis, Newcomer,
    NodeInfo, Policy, Registry, Renewed, Restored, RoomName, Sum, Suspicion, Turn, TypedUser,
    UserName, Versions,
};
use crate::simulation::{Dice, Model};

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

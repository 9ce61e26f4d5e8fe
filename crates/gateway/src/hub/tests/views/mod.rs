//! What clients believe of users, against what is so, while everything goes wrong: the real
//! watches and a real shard on a backplane in memory, under a clock moved by hand.
//!
//! A run is decided by its seed, but for the order in which a hash table gives what is asked for: a
//! seed that failed may pass, and fail again after some times. `HEARTLINE_VIEWS` sets how many there are, `HEARTLINE_SEED` runs
//! a single one; a seed that failed is printed.
//!
//! At each step, 20 ms, it is checked that
//! - a picture that says that it is complete is wrong about nobody for longer than
//!   [`Pace::told`], and in a room for as long as other nodes may take to say so;
//! - each user whose sockets are of one type is what they were at some time since `asOf`, in a
//!   picture in doubt too, unless nothing is known of them there;
//! - changes have consecutive numbers, nothing comes of what has ended, and what is said of a user
//!   under one number is so, and does not go back.
//!
//! When nothing goes wrong any more and nothing happens, each picture is complete and equal to what
//! is so within [`Pace::healed`]; and when all clients have gone nothing is left.

mod cluster;
mod reader;
mod store;

use super::*;
use cluster::{Cluster, Shared, Side, bring};
use reader::{Reader, Subject};

const TICK: Duration = Duration::from_millis(20);
/// All users, and those whose sockets elsewhere are of two types.
const NAMES: [&str; 6] = ["ann", "bob", "cid", "dan", "eve", "fay"];
const OF_TWO_TYPES: [&str; 2] = ["bob", "cid"];
const TENANTS: [Option<&str>; 2] = [None, Some("acme")];
const LISTS: [&[&str]; 3] = [&["ann", "bob"], &["bob", "cid", "dan", "eve"], &NAMES];
const ROOMS: [&str; 2] = ["a", "b"];
const SUBJECTS: u64 = 5;

/// Chance that can be repeated: splitmix64.
#[derive(Clone)]
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.roll() % limit.max(1)
    }

    fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    fn one<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len() as u64) as usize]
    }
}

/// How long what is on its way takes at most, milliseconds.
#[derive(Debug, Clone, Copy)]
struct Pace {
    /// Between two readings of changes, also until it is told that some were lost, and until it is
    /// noticed that the store is not reached.
    edges: u64,
    /// An answer about users, and which nodes there are.
    answers: u64,
    lists: u64,
    /// A note of another node, and that one was lost.
    notes: u64,
}

impl Pace {
    /// For how long a turn of the watches takes: it asks for the list of nodes twice, about those
    /// who came into rooms, twice of each tenant, and sleeps after it.
    fn turn(&self) -> u64 {
        2 * self.lists + 4 * self.answers + 50
    }

    /// After how long readers know of what happened at the latest, or that it is not known. A
    /// change is read or missed, and that is told; a turn that has begun ends, another tells it;
    /// and a look for doubts every 250 ms may see a short one not at all.
    fn told(&self) -> u64 {
        2 * self.edges + 2 * self.turn() + 250 + 100
    }

    /// The same of a member of a room at another node: its note, or that one was lost.
    fn told_elsewhere(&self) -> u64 {
        self.told() + 2 * self.notes + 100
    }

    /// The same if that node is no more. Which nodes there are is asked for every five seconds, of
    /// which one may fail; its last note may come behind that.
    fn gone_elsewhere(&self) -> u64 {
        self.told_elsewhere() + 3 * (5_000 + self.lists)
    }

    /// After how long everything is known when nothing goes wrong any more: what was lost is
    /// noticed, which nodes there are is asked for, and those that owe an answer are asked for it
    /// every two seconds.
    fn healed(&self) -> u64 {
        self.gone_elsewhere() + 2 * (2_000 + 2 * self.notes + self.turn())
    }
}

struct Run {
    world: World,
    cluster: Shared,
    readers: Vec<Reader>,
    dice: Dice,
}

impl Run {
    fn new(seed: u64) -> Run {
        let mut dice = Dice(seed);
        let [edges, answers, lists, notes] = dice.one(&[
            [60, 40, 40, 60],
            [60, 200, 80, 60],
            [300, 120, 120, 200],
            [800, 400, 200, 600],
        ]);
        let pace = Pace {
            edges,
            answers,
            lists,
            notes,
        };
        let trouble = dice.one(&[0, 5, 5, 15]);
        let cluster: Shared = Arc::new(Mutex::new(Cluster::new(seed, pace, trouble)));
        let world = World::with(config(), |builder| builder.backplane(Side::of(&cluster)));
        let inside = world.runtime.enter();
        {
            let mut cluster = cluster.lock().unwrap();
            cluster.begin(world.gateway.shared.clock);
            cluster.node_comes();
        }
        drop(inside);
        let reader = |(tenant, user, namespace)| Reader::new(tenant, user, namespace);
        let readers = [
            (None, "ann", "/"),
            (None, "dan", "/chat"),
            (None, "bob", "/"),
            (Some("acme"), "eve", "/"),
            (Some("acme"), "ann", "/chat"),
        ];
        Run {
            world,
            cluster,
            readers: readers.map(reader).into(),
            dice,
        }
    }

    fn cluster<T>(&self, act: impl FnOnce(&mut Cluster) -> T) -> T {
        let _inside = self.world.runtime.enter();
        act(&mut self.cluster.lock().unwrap())
    }

    // --- time ------------------------------------------------------------

    fn tick(&mut self, by: Duration) {
        self.world.settle();
        self.world.runtime.block_on(tokio::time::advance(by));
        self.world.harness.advance(by);
        let inside = self.world.runtime.enter();
        bring(&self.cluster);
        drop(inside);
        self.world.settle();
        let _inside = self.world.runtime.enter();
        let mut cluster = self.cluster.lock().unwrap();
        let (now, pace, doubted) = (cluster.now(), cluster.pace, cluster.doubted);
        for reader in &mut self.readers {
            reader.hears(&mut cluster.store, &pace, now);
        }
        for reader in &mut self.readers {
            reader.is_right(&cluster.store, &pace, doubted, now);
        }
    }

    fn pass(&mut self, millis: u64) {
        for _ in 0..=millis / TICK.as_millis() as u64 {
            self.tick(TICK);
        }
    }

    // --- what happens ----------------------------------------------------

    fn subject(&mut self) -> Subject {
        match self.dice.below(SUBJECTS) as usize {
            list @ 0..=2 => Subject::List(list),
            room => Subject::Room(room - 3),
        }
    }

    fn happens(&mut self) {
        match self.dice.below(100) {
            0..=44 => self.elsewhere(),
            45..=48 if self.cluster(|cluster| cluster.trouble > 0) => self.mishap(),
            49..=51 => {
                let count = self.cluster(|cluster| cluster.peers.len());
                let which = self.dice.below(3) as usize;
                self.cluster(|cluster| match which < count {
                    true => cluster.node_goes(which),
                    false => cluster.node_comes(),
                });
            }
            _ => self.reader(),
        }
    }

    /// Something happens at another node.
    fn elsewhere(&mut self) {
        let count = self.cluster(|cluster| cluster.peers.len());
        if count == 0 {
            return;
        }
        let dice = &mut self.dice;
        let at = dice.below(count as u64) as usize;
        let user = dice.one(&NAMES);
        let is_of_type = OF_TWO_TYPES.contains(&user) && dice.chance(50);
        let user = Arc::new(UserKey {
            tenant_id: dice.one(&TENANTS).map(Into::into),
            user_id: user.into(),
            user_type: is_of_type.then(|| "rider".into()),
        });
        let socket = dice.below(1000) as usize;
        let place = (dice.one(&["/", "/chat"]), dice.one(&ROOMS));
        let what = dice.below(10);
        self.cluster(|cluster| match what {
            0..=3 => cluster.comes(at, user),
            4..=6 => cluster.goes(at, socket),
            _ => cluster.turns(at, socket, place),
        });
    }

    fn mishap(&mut self) {
        let is_hold = self.dice.chance(30);
        self.cluster(|cluster| {
            if is_hold {
                cluster.is_in_hold = !cluster.is_in_hold;
                cluster.holds += u64::from(cluster.is_in_hold);
            } else if cluster.is_cut() {
                cluster.mend();
            } else {
                cluster.cut();
            }
        });
    }

    /// A client does something.
    fn reader(&mut self) {
        let (subject, dice) = (self.subject(), &mut self.dice);
        let reader = &mut self.readers[dice.below(5) as usize];
        if !reader.is_there() {
            return reader.comes(&mut self.world, dice.chance(50));
        }
        match dice.below(20) {
            0 => self.is_cut_off(false),
            1 => self.is_cut_off(true),
            2 => reader.unwatches(Some(subject), dice.chance(50)),
            3 => {
                let all = dice.chance(30).then_some(subject);
                reader.unwatches(all, false);
            }
            4 => reader.loses(subject),
            5..=9 => reader.turns(dice.below(2) as usize),
            _ => reader.watches(subject),
        }
    }

    /// A client's connection is cut, perhaps in the middle of a question.
    fn is_cut_off(&mut self, asks: bool) {
        let subject = self.subject();
        let at = self.dice.below(5) as usize;
        let is_at_once = self.dice.chance(50);
        if !self.readers[at].is_there() {
            return;
        }
        if asks {
            self.readers[at].watches(subject);
            if !is_at_once {
                self.tick(TICK);
            }
        }
        let _inside = self.world.runtime.enter();
        let mut cluster = self.cluster.lock().unwrap();
        let known_by = cluster.now() + cluster.pace.told();
        self.readers[at].is_cut(&mut cluster.store, known_by);
    }

    // --- how it ends -----------------------------------------------------

    /// Nothing goes wrong or happens any more, and everybody watches everything.
    fn heals(&mut self) {
        self.cluster(Cluster::heal);
        for at in 0..self.readers.len() {
            if !self.readers[at].is_there() {
                self.readers[at].comes(&mut self.world, false);
            }
        }
        self.pass(200);
        for reader in &mut self.readers {
            (0..LISTS.len()).for_each(|list| reader.watches(Subject::List(list)));
            (0..ROOMS.len()).for_each(|room| reader.watches(Subject::Room(room)));
        }
        let healed = self.cluster(|cluster| cluster.pace.healed());
        for _ in 0..=healed / 60 {
            self.tick(3 * TICK);
        }
        self.cluster(|cluster| {
            for reader in &self.readers {
                reader.knows_all(&cluster.store);
            }
        });
    }

    fn ends(&mut self) {
        let known_by = self.cluster(|cluster| cluster.now() + cluster.pace.told());
        for reader in &mut self.readers {
            let mut cluster = self.cluster.lock().unwrap();
            reader.is_cut(&mut cluster.store, known_by);
        }
        // A log rests for a minute, and a room is wanted for as long.
        for _ in 0..140 {
            self.tick(seconds(1));
        }
        let left = self.world.gateway.shared.watches.left_over();
        assert_eq!(left, (true, 0, false), "nobody watches, and this is left");
    }
}

fn run(seed: u64) {
    let mut run = Run::new(seed);
    let events = 40 + run.dice.below(80);
    for _ in 0..events {
        run.happens();
        let pause = match run.dice.below(20) {
            0 => run.dice.below(4_000),
            1..=4 => run.dice.below(600),
            _ => run.dice.below(100),
        };
        run.pass(pause);
    }
    run.heals();
    run.ends();
}

/// More than so many runs that failed say nothing new.
const MAX_FAILED: usize = 10;

#[test]
fn what_clients_believe_is_so_or_they_know_that_it_may_not_be() {
    let number = |name: &str| std::env::var(name).ok()?.parse::<u64>().ok();
    let seeds = match number("HEARTLINE_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("HEARTLINE_VIEWS").unwrap_or(20),
    };
    let mut failed = Vec::new();
    for seed in seeds {
        let outcome = std::panic::catch_unwind(|| run(seed));
        if outcome.is_err() {
            eprintln!("the run with HEARTLINE_SEED={seed} failed");
            failed.push(seed);
        }
        if failed.len() >= MAX_FAILED {
            break;
        }
    }
    assert!(failed.is_empty(), "these seeds failed: {failed:?}");
}

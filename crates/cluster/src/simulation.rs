//! The whole protocol under a virtual clock: real members on a store in memory, and
//! everything that can go wrong on the way: crashes, processes that are stopped and go
//! on later, links that are cut, answers that get lost, commands that arrive after
//! their sender has given up, a store that is away, restarts, or comes back empty.
//!
//! A run is decided by its seed. `HEARTLINE_SIMULATIONS` sets how many there are,
//! `HEARTLINE_SEED` runs a single one. A seed that failed is printed; keep it in
//! `SEEDS`.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use crate::member::{Local, Member, Timing};
use crate::model::Model;
use crate::registry::{
    Admission, Audit, Departure, Edge, EdgeId, Edges, Entry, Guarded, Joined, Known, Loser, Millis,
    Newcomer, NodeInfo, NodeState, Policy, Registry, Renewed, Restored, RoomName, Tended,
    Unavailable, UserName, Who,
};

/// Seeds that failed once.
const SEEDS: &[u64] = &[
    (1 << 32) + 6,
    (1 << 32) + 69,
    (1 << 32) + 100,
    (1 << 32) + 249,
    (1 << 32) + 390,
    (1 << 32) + 435,
    (1 << 32) + 584,
    (1 << 32) + 1154,
    (1 << 32) + 1742,
    (1 << 32) + 2033,
    (2 << 32) + 268,
    (2 << 32) + 2676,
    (2 << 32) + 6066,
];

const TTL: Duration = Duration::from_secs(15);
const REFRESH: Duration = Duration::from_secs(5);

/// splitmix64.
#[derive(Clone)]
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    pub(crate) fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.roll() % limit.max(1)
    }

    pub(crate) fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
}

// --- the store -----------------------------------------------------------

struct Store {
    model: Model,
    /// Which run of its process this is.
    run: u64,
    up: bool,
    dice: Dice,
    /// All edges there ever were.
    edges: Vec<Edge>,
    changed: watch::Sender<u64>,
    started: Instant,
    snapshot: Option<Model>,
    /// Nothing gets lost any more.
    calm: bool,
}

impl Store {
    fn now(&self) -> Millis {
        // Not near zero, as no clock is.
        1_700_000_000_000 + self.started.elapsed().as_millis() as Millis
    }
}

#[derive(Clone)]
struct Link {
    store: Arc<Mutex<Store>>,
    cut: Arc<AtomicBool>,
    /// The node has been cut off, stopped, or left without an answer, and was not heard
    /// of since.
    in_doubt: Arc<AtomicBool>,
}

/// `HEARTLINE_TRACE` shows every operation.
fn is_traced() -> bool {
    std::env::var_os("HEARTLINE_TRACE").is_some()
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap()
}

impl Link {
    /// An operation on its way there and back. What was sent arrives, also if nobody
    /// waits for the answer any more.
    async fn call<T: std::fmt::Debug + Send + 'static>(
        &self,
        what: impl FnOnce() -> String,
        operation: impl FnOnce(&mut Model, Millis, u64, &mut Dice) -> T + Send + 'static,
    ) -> Result<T, Unavailable> {
        let (there, back, lost, late) = {
            let mut store = locked(&self.store);
            let dice = &mut store.dice;
            let there = 1 + dice.below(4);
            let back = 1 + dice.below(4);
            let (lost, late) = (dice.below(1000) < 3, dice.below(1000) < 3);
            (there, back, lost && !store.calm, late && !store.calm)
        };
        if lost || late {
            self.in_doubt.store(true, Ordering::Relaxed);
        }
        if self.cut.load(Ordering::Relaxed) {
            // Refused at once, or never answered.
            if there == 1 {
                return Err(Unavailable("refused".into()));
            }
            std::future::pending::<()>().await;
        }
        let store = self.store.clone();
        let cut = self.cut.clone();
        let what = is_traced().then(what);
        let work = tokio::spawn(async move {
            sleep(Duration::from_millis(if late { 4000 } else { there })).await;
            if cut.load(Ordering::Relaxed) {
                return None;
            }
            let result = {
                let mut store = locked(&store);
                if !store.up {
                    return None;
                }
                let (now, run) = (store.now(), store.run);
                let Store { model, dice, .. } = &mut *store;
                let result = operation(model, now, run, dice);
                if let Some(what) = what {
                    eprintln!("{} {what} -> {result:?}", now % 1_000_000);
                }
                let known = store.edges.len() as u64;
                let new = store.model.edges_from(known);
                if !new.is_empty() {
                    if is_traced() {
                        eprintln!("{} edges {new:?}", now % 1_000_000);
                    }
                    store.edges.extend(new);
                    let count = store.edges.len() as u64;
                    store.changed.send_replace(count);
                }
                result
            };
            sleep(Duration::from_millis(back)).await;
            Some(result)
        });
        match work.await {
            Ok(Some(result)) if !lost && !self.cut.load(Ordering::Relaxed) => Ok(result),
            _ => {
                if there == 1 {
                    return Err(Unavailable("closed".into()));
                }
                std::future::pending::<()>().await;
                unreachable!()
            }
        }
    }
}

impl Registry for Link {
    async fn join(
        &self,
        info: &NodeInfo,
        ttl: Millis,
        known: Option<&str>,
    ) -> Result<Joined, Unavailable> {
        let known = known.map(ToOwned::to_owned);
        let name = format!("join {}.{}", info.node_id, info.tag);
        let what = || name;
        let info = info.clone();
        self.call(what, move |model, now, run, dice| {
            let fresh = format!("{:x}", dice.roll());
            model.join(now, run, &info, ttl, known.as_deref(), &fresh)
        })
        .await
        .inspect(|_| self.in_doubt.store(false, Ordering::Relaxed))
    }

    async fn renew(&self, incarnation: &str, ttl: Millis, done: &[Arc<str>]) -> Guarded<Renewed> {
        let (incarnation, done) = (incarnation.to_owned(), done.to_vec());
        let name = format!("renew {incarnation} {done:?}");
        self.call(
            || name,
            move |model, now, run, _| model.renew(now, run, &incarnation, ttl, &done),
        )
        .await
        .inspect(|_| self.in_doubt.store(false, Ordering::Relaxed))
    }

    async fn connect(&self, incarnation: &str, newcomers: &[Newcomer]) -> Guarded<Vec<Admission>> {
        let (incarnation, newcomers) = (incarnation.to_owned(), newcomers.to_vec());
        let name = format!("connect {incarnation} {newcomers:?}");
        self.call(
            || name,
            move |model, now, _, _| model.connect(now, &incarnation, &newcomers),
        )
        .await
    }

    async fn depart(
        &self,
        incarnation: &str,
        departures: &[Departure],
        grace: Millis,
    ) -> Guarded<Vec<bool>> {
        let (incarnation, departures) = (incarnation.to_owned(), departures.to_vec());
        let name = format!("depart {incarnation} {departures:?}");
        self.call(
            || name,
            move |model, now, _, _| model.depart(now, &incarnation, &departures, grace),
        )
        .await
    }

    async fn restore(&self, incarnation: &str, users: &[Restored]) -> Guarded<Vec<Loser>> {
        let (incarnation, users) = (incarnation.to_owned(), users.to_vec());
        let name = format!("restore {incarnation} {users:?}");
        self.call(
            || name,
            move |model, now, _, _| model.restore(now, &incarnation, &users),
        )
        .await
    }

    async fn retire(&self, incarnations: &[Arc<str>]) -> Result<(), Unavailable> {
        let incarnations = incarnations.to_vec();
        let name = format!("retire {incarnations:?}");
        self.call(|| name, move |model, _, _, _| model.retire(&incarnations))
            .await
    }

    async fn tend(&self, limit: u32, grace: Millis, ttl: Millis) -> Result<Tended, Unavailable> {
        self.call(
            || "tend".into(),
            move |model, now, run, _| model.tend(now, run, limit.min(3), grace, ttl),
        )
        .await
    }

    async fn nodes(&self) -> Result<Vec<NodeState>, Unavailable> {
        self.call(|| "nodes".into(), |model, now, _, _| model.nodes(now))
            .await
    }

    async fn edges(&self, last: &EdgeId) -> Result<Edges, Unavailable> {
        let last = last.parse::<u64>().unwrap_or(0);
        let mut changed = locked(&self.store).changed.subscribe();
        let _ = changed.wait_for(|count| *count > last).await;
        if self.cut.load(Ordering::Relaxed) || !locked(&self.store).up {
            return Err(Unavailable("closed".into()));
        }
        let store = locked(&self.store);
        Ok(Edges {
            edges: store.edges[last as usize..].to_vec(),
            last: Some(store.edges.len().to_string().into()),
        })
    }

    async fn look_up(&self, users: &[UserName]) -> Result<Vec<Known>, Unavailable> {
        let users = users.to_vec();
        self.call(
            || "look up".into(),
            move |model, now, _, _| model.look_up(now, &users),
        )
        .await
    }

    async fn audit(
        &self,
        incarnation: &str,
        users: &[UserName],
        sample: u32,
    ) -> Result<Audit, Unavailable> {
        let (incarnation, users) = (incarnation.to_owned(), users.to_vec());
        self.call(
            || "audit".into(),
            move |model, _, _, _| model.audit(&incarnation, &users, sample),
        )
        .await
    }
}

// --- nodes ---------------------------------------------------------------

/// Stops what it wraps while `stopped`, as SIGSTOP does.
struct Stoppable<F> {
    future: Pin<Box<F>>,
    switch: Rc<RefCell<Switch>>,
}

#[derive(Default)]
struct Switch {
    stopped: bool,
    waiting: Vec<Waker>,
}

impl<F: Future> Future for Stoppable<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let mut switch = self.switch.borrow_mut();
        if switch.stopped {
            switch.waiting.push(context.waker().clone());
            return Poll::Pending;
        }
        drop(switch);
        self.future.as_mut().poll(context)
    }
}

#[derive(Default)]
struct Sockets {
    users: BTreeMap<Who, Vec<Entry>>,
    heard: Vec<Edge>,
    turn: usize,
    /// Ousted: told to go, and not gone yet.
    leaving: Vec<Arc<str>>,
    told: Arc<tokio::sync::Notify>,
}

struct Table(Arc<Mutex<Sockets>>);

impl Local for Table {
    fn users(&self) -> Vec<Who> {
        locked(&self.0).users.keys().cloned().collect()
    }

    fn some_users(&self, count: usize) -> Vec<Who> {
        let mut sockets = locked(&self.0);
        sockets.turn += 1;
        let skip = sockets.turn;
        let all = sockets.users.len().max(1);
        let users = sockets.users.keys();
        users
            .cycle()
            .skip(skip % all)
            .take(count.min(all))
            .cloned()
            .collect()
    }

    fn entries(&self, who: &Who) -> Vec<Entry> {
        locked(&self.0).users.get(who).cloned().unwrap_or_default()
    }

    fn has(&self, who: &Who, socket: &str) -> bool {
        self.entries(who)
            .iter()
            .any(|entry| *entry.socket == *socket)
    }

    fn oust(&self, loser: &Loser) {
        let mut sockets = locked(&self.0);
        sockets.leaving.push(loser.socket.clone());
        sockets.told.notify_one();
    }

    fn announce(&self, edges: &[Edge]) {
        locked(&self.0).heard.extend_from_slice(edges);
    }
}

struct Node {
    member: Arc<Member<Link, Table>>,
    sockets: Arc<Mutex<Sockets>>,
    link: Link,
    switch: Rc<RefCell<Switch>>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
    alive: bool,
    /// Edges before it began.
    from: usize,
}

impl Node {
    fn start(number: usize, tag: u32, store: &Arc<Mutex<Store>>, grace: Duration) -> Node {
        let link = Link {
            store: store.clone(),
            cut: Arc::default(),
            in_doubt: Arc::default(),
        };
        let sockets: Arc<Mutex<Sockets>> = Arc::default();
        let info = NodeInfo {
            node_id: format!("n{number}").into(),
            tag,
            address: "".into(),
            version: "".into(),
        };
        let timing = Timing {
            ttl: TTL,
            refresh: REFRESH,
            grace,
        };
        let (member, requests) = Member::new(link.clone(), Table(sockets.clone()), info, timing);
        let mut node = Node {
            member: member.clone(),
            sockets: sockets.clone(),
            link,
            switch: Rc::default(),
            tasks: Vec::new(),
            alive: true,
            from: locked(store).edges.len(),
        };
        node.spawn(member.clone().run(requests));
        // Ousted sockets go a moment later.
        node.spawn(async move {
            loop {
                let told = locked(&sockets).told.clone();
                told.notified().await;
                sleep(Duration::from_millis(7)).await;
                let leaving = std::mem::take(&mut locked(&sockets).leaving);
                for socket in leaving {
                    close(&member, &sockets, &socket);
                }
            }
        });
        node
    }

    fn spawn(&mut self, work: impl Future<Output = ()> + 'static) {
        self.tasks.push(tokio::task::spawn_local(Stoppable {
            future: Box::pin(work),
            switch: self.switch.clone(),
        }));
    }

    fn stop(&self) {
        self.switch.borrow_mut().stopped = true;
    }

    fn go_on(&self) {
        let waiting = {
            let mut switch = self.switch.borrow_mut();
            switch.stopped = false;
            std::mem::take(&mut switch.waiting)
        };
        waiting.into_iter().for_each(Waker::wake);
    }

    fn is_stopped(&self) -> bool {
        self.switch.borrow().stopped
    }

    fn kill(&mut self) {
        self.alive = false;
        self.go_on();
        for task in self.tasks.drain(..) {
            task.abort();
        }
    }

    fn is_calm(&self) -> bool {
        self.alive && !self.is_stopped() && !self.link.cut.load(Ordering::Relaxed)
    }
}

/// A socket ends.
fn close(member: &Member<Link, Table>, sockets: &Mutex<Sockets>, socket: &str) -> bool {
    let mut table = locked(sockets);
    let found = table
        .users
        .iter()
        .find(|(_, entries)| entries.iter().any(|entry| *entry.socket == *socket))
        .map(|(who, _)| who.clone());
    let Some(who) = found else {
        return false;
    };
    let entries = table.users.get_mut(&who).unwrap();
    let index = entries
        .iter()
        .position(|entry| *entry.socket == *socket)
        .unwrap();
    let entry = entries.remove(index);
    if entries.is_empty() {
        table.users.remove(&who);
    }
    drop(table);
    member.disconnect(who, entry.socket);
    true
}

/// Enters a socket that was admitted, or decides by what this node knows.
fn enter(
    sockets: &Mutex<Sockets>,
    newcomer: &Newcomer,
    admission: Option<Admission>,
) -> Result<(), ()> {
    let mut table = locked(sockets);
    match admission {
        Some(Admission::Refused) => return Err(()),
        Some(Admission::Admitted(losers)) => {
            let sockets = losers.into_iter().map(|loser| loser.socket);
            table.leaving.extend(sockets);
            table.told.notify_one();
        }
        None => {}
    }
    table
        .users
        .entry(newcomer.who.clone())
        .or_default()
        .push(newcomer.entry.clone());
    Ok(())
}

// --- runs ----------------------------------------------------------------

const USERS: u64 = 6;
const NODES: usize = 3;

struct World {
    dice: Dice,
    store: Arc<Mutex<Store>>,
    nodes: Vec<Node>,
    tags: u32,
    sockets: u64,
    grace: Duration,
    policy: Policy,
    /// Whether sockets leave rooms before they end.
    rooms_are_left: bool,
    /// The store has lost its memory: who has heard of whom was not told again.
    was_wiped: bool,
    /// Something happened that no protocol can announce rightly: the store forgot
    /// while a node could not speak, or went back in time.
    amnesia: bool,
}

impl World {
    fn new(seed: u64) -> World {
        let mut dice = Dice(seed);
        let store = Arc::new(Mutex::new(Store {
            model: Model::default(),
            run: 1,
            up: true,
            dice: Dice(dice.roll()),
            edges: Vec::new(),
            changed: watch::channel(0).0,
            started: Instant::now(),
            snapshot: None,
            calm: false,
        }));
        let grace = match dice.below(3) {
            0 => Duration::from_secs(3),
            _ => Duration::ZERO,
        };
        let policy = match dice.below(4) {
            0 => Policy::Replace,
            1 => Policy::Limit(2),
            2 => Policy::Evict(2),
            _ => Policy::Unlimited,
        };
        let rooms_are_left = dice.chance(50);
        let nodes = (0..NODES)
            .map(|number| Node::start(number, number as u32, &store, grace))
            .collect();
        World {
            dice,
            store,
            nodes,
            tags: NODES as u32,
            sockets: 0,
            grace,
            policy,
            rooms_are_left,
            was_wiped: false,
            amnesia: false,
        }
    }

    fn connect(&mut self) {
        let number = self.dice.below(NODES as u64) as usize;
        if !self.nodes[number].alive || self.nodes[number].is_stopped() {
            return;
        }
        self.sockets += 1;
        let device = match self.dice.below(3) {
            0 => String::new(),
            device => format!("d{device}"),
        };
        let newcomer = Newcomer {
            who: Who {
                user: format!(":u{}", self.dice.below(USERS)).into(),
                kind: if self.dice.chance(10) { "=k" } else { "" }.into(),
            },
            entry: Entry {
                socket: format!("s{}", self.sockets).into(),
                namespace: "/".into(),
                device: device.into(),
                since: locked(&self.store).now(),
                policy: self.policy,
                rooms: Vec::new(),
            },
        };
        let gives_up = self.dice.chance(5);
        let node = &mut self.nodes[number];
        let (member, sockets) = (node.member.clone(), node.sockets.clone());
        node.spawn(async move {
            let asked = newcomer.clone();
            let entering = member.connect(asked, |admission| enter(&sockets, &newcomer, admission));
            if gives_up {
                // As a client does that ends while it is admitted: it is entered, and
                // ends at once.
                if entering.await.is_ok() {
                    close(&member, &sockets, &newcomer.entry.socket);
                }
            } else {
                let _ = entering.await;
            }
        });
    }

    fn disconnect(&mut self) {
        let number = self.dice.below(NODES as u64) as usize;
        let node = &self.nodes[number];
        if !node.alive || node.is_stopped() {
            return;
        }
        let all: Vec<Arc<str>> = {
            let table = locked(&node.sockets);
            let entries = table.users.values().flatten();
            entries.map(|entry| entry.socket.clone()).collect()
        };
        if !all.is_empty() {
            let socket = all[self.dice.below(all.len() as u64) as usize].clone();
            close(&node.member, &node.sockets, &socket);
        }
    }

    /// A socket comes into a room, or leaves one.
    fn roam(&mut self) {
        let number = self.dice.below(NODES as u64) as usize;
        let node = &self.nodes[number];
        if !node.alive || node.is_stopped() {
            return;
        }
        let room: RoomName = format!("r{}", self.dice.below(3)).into();
        let mut table = locked(&node.sockets);
        let count = table.users.len().max(1) as u64;
        let chosen = self.dice.below(count) as usize;
        let Some((who, entries)) = table.users.iter_mut().nth(chosen) else {
            return;
        };
        let who = who.clone();
        let chosen = self.dice.below(entries.len() as u64) as usize;
        let rooms = &mut entries[chosen].rooms;
        match rooms.iter().position(|one| *one == room) {
            None => rooms.push(room),
            Some(index) if self.rooms_are_left => {
                rooms.remove(index);
            }
            Some(_) => return,
        }
        drop(table);
        node.member.roamed(who);
    }

    fn all_calm(&self) -> bool {
        self.nodes.iter().all(Node::is_calm)
    }

    fn restart_store(&mut self, wiped: bool) {
        // What was announced meanwhile, it has not heard of.
        let doubts = |node: &Node| node.alive && node.link.in_doubt.load(Ordering::Relaxed);
        let calm = self.all_calm() && !self.nodes.iter().any(doubts);
        let mut store = locked(&self.store);
        store.run += 1;
        if wiped {
            // A node that died within the last lease and was not swept: nobody is
            // left who knows of its users.
            let processes: BTreeSet<Arc<str>> = self
                .nodes
                .iter()
                .map(|node| process(&node.member))
                .collect();
            let ghosts = store
                .model
                .processes()
                .iter()
                .any(|one| !processes.contains(one));
            // A node that has not joined yet would take the empty store for a new one.
            let strangers = processes.contains("");
            // Who came during a hold was not announced, and nobody knows that.
            let held = store.model.is_held(store.now()) || store.model.has_unsettled();
            self.amnesia |= !calm || ghosts || strangers || held;
            self.was_wiped = true;
        }
        store.model.restarted(wiped);
    }

    /// Whether the store has lost its memory of a node, and nobody else could say who
    /// was online there.
    fn is_forgotten(&self, number: usize) -> bool {
        let node = &self.nodes[number];
        let store = locked(&self.store);
        let (model, now) = (&store.model, store.now());
        // It may have joined, and not said yet who is there.
        let is_held = self.was_wiped && model.is_held(now);
        let is_known = model.processes().contains(&process(&node.member));
        node.alive && (model.is_blank() || is_held || !is_known)
    }

    /// Something goes wrong.
    fn mishap(&mut self) {
        let number = self.dice.below(NODES as u64) as usize;
        let kind = self.dice.below(12);
        if is_traced() {
            let now = locked(&self.store).now() % 1_000_000;
            eprintln!("{now} mishap {kind} to node {number}");
        }
        match kind {
            0 | 1 => {
                if self.nodes[number].alive {
                    let store = locked(&self.store);
                    let held = store.model.is_held(store.now());
                    drop(store);
                    self.amnesia |= held || self.is_forgotten(number);
                    self.nodes[number].kill();
                }
            }
            2 | 3 => {
                if !self.nodes[number].alive {
                    self.amnesia |= locked(&self.store).model.is_blank();
                    self.tags += 1;
                    self.nodes[number] = Node::start(number, self.tags, &self.store, self.grace);
                }
            }
            4 => {
                self.amnesia |= self.is_forgotten(number);
                let node = &self.nodes[number];
                node.link.in_doubt.store(true, Ordering::Relaxed);
                node.stop();
            }
            5 | 6 => self.nodes[number].go_on(),
            7 => {
                self.amnesia |= self.is_forgotten(number);
                let link = &self.nodes[number].link;
                link.in_doubt.store(true, Ordering::Relaxed);
                link.cut.store(true, Ordering::Relaxed);
            }
            8 => {
                let cut = &self.nodes[number].link.cut;
                cut.store(false, Ordering::Relaxed);
            }
            9 => {
                let mut store = locked(&self.store);
                store.up = !store.up;
            }
            10 => {
                // Restarts: as it was, or empty.
                let wiped = self.dice.chance(50);
                self.restart_store(wiped);
                locked(&self.store).up = true;
            }
            _ => {
                // Goes back in time, as a replica may that was behind.
                let mut store = locked(&self.store);
                if let Some(snapshot) = store.snapshot.take() {
                    let edges = store.edges.len() as u64;
                    store.model = snapshot;
                    store.model.renumber_edges(edges);
                    store.run += 1;
                    self.amnesia = true;
                } else {
                    store.snapshot = Some(store.model.clone());
                }
            }
        }
    }

    fn heal(&mut self) {
        {
            let mut store = locked(&self.store);
            store.up = true;
            store.calm = true;
        }
        for number in 0..NODES {
            let node = &mut self.nodes[number];
            node.link.cut.store(false, Ordering::Relaxed);
            node.go_on();
            // Somebody has to be there to notice that nobody else is.
            if !node.alive && (number == 0 || self.dice.chance(50)) {
                self.tags += 1;
                self.nodes[number] = Node::start(number, self.tags, &self.store, self.grace);
            }
        }
    }

    /// What is true when everything works again.
    fn check(&self) {
        let mut there: BTreeMap<Who, Vec<Entry>> = BTreeMap::new();
        for node in self.nodes.iter().filter(|node| node.alive) {
            let table = locked(&node.sockets);
            for (who, entries) in &table.users {
                there
                    .entry(who.clone())
                    .or_default()
                    .extend(entries.clone());
            }
            assert!(node.member.is_trusted(), "a member is still out");
        }
        let store = locked(&self.store);
        let online: BTreeSet<Who> = there.keys().cloned().collect();
        let announced: BTreeSet<Who> = store.model.announced().into_iter().collect();
        assert_eq!(announced, online, "announced and there");
        let registered = store.model.sockets();
        let sockets: BTreeSet<Arc<str>> = there
            .values()
            .flatten()
            .map(|entry| entry.socket.clone())
            .collect();
        assert_eq!(registered, sockets, "registered and there");
        for (who, entries) in &there {
            self.check_devices(who, entries);
            let rooms = entries.iter().flat_map(|entry| entry.rooms.clone());
            let rooms: BTreeSet<RoomName> = rooms.collect();
            assert_eq!(store.model.rooms_of(who), rooms, "rooms of {who:?}");
        }
        self.check_rooms(&there, &store.edges);
        // Edges: revisions grow; each is a change; the last is the truth.
        let mut last: BTreeMap<&Who, &Edge> = BTreeMap::new();
        for edge in store.edges.iter().filter(|edge| edge.others.is_none()) {
            let before = last.insert(&edge.who, edge);
            if let Some(before) = before {
                assert!(
                    self.amnesia || before.rev < edge.rev,
                    "revisions grow: {before:?} {edge:?}"
                );
            }
            let was = before.is_some_and(|before| before.online);
            assert!(self.amnesia || was != edge.online, "a change: {edge:?}");
        }
        for who in users_and_kinds() {
            let said = last.get(&who).is_some_and(|edge| edge.online);
            assert!(
                self.amnesia || said == online.contains(&who),
                "the last edge of {who:?} is the truth"
            );
        }
        // Everybody heard all of them, in order, once.
        for node in self.nodes.iter().filter(|node| node.alive) {
            let heard = &locked(&node.sockets).heard;
            let all = &store.edges[store.edges.len() - heard.len()..];
            assert!(store.edges.len() - heard.len() >= node.from);
            assert_eq!(heard, all, "edges heard");
        }
    }

    /// The members of a room hear once that a user is online there, and once that it
    /// has gone.
    fn check_rooms(&self, there: &BTreeMap<Who, Vec<Entry>>, edges: &[Edge]) {
        if self.amnesia || self.was_wiped {
            return;
        }
        let mut told: BTreeMap<&Who, BTreeSet<&RoomName>> = BTreeMap::new();
        for edge in edges {
            let rooms = told.entry(&edge.who).or_default();
            if edge.online {
                for room in &edge.rooms {
                    let is_new = rooms.insert(room);
                    assert!(is_new || self.rooms_are_left, "told again: {edge:?}");
                }
            } else {
                let gone: BTreeSet<&RoomName> = edge.rooms.iter().collect();
                assert!(gone.is_subset(rooms), "never told: {edge:?}");
                assert!(
                    self.rooms_are_left || gone == *rooms,
                    "not told that it has gone: {edge:?} {rooms:?}"
                );
                rooms.clear();
            }
        }
        for (who, entries) in there {
            for room in entries.iter().flat_map(|entry| &entry.rooms) {
                let heard = told.get(who).is_some_and(|rooms| rooms.contains(room));
                assert!(heard, "{room} was not told of {who:?}");
            }
        }
    }

    fn check_devices(&self, who: &Who, entries: &[Entry]) {
        let mut devices = BTreeSet::new();
        for entry in entries.iter().filter(|entry| !entry.device.is_empty()) {
            assert!(
                devices.insert(entry.device.clone()),
                "two sockets of one device: {who:?} {entries:?}"
            );
        }
        let most = match self.policy {
            Policy::Unlimited => usize::MAX,
            Policy::Replace => 1,
            Policy::Limit(max) | Policy::Evict(max) => max as usize,
        };
        assert!(entries.len() <= most, "too many: {who:?} {entries:?}");
    }
}

fn process(member: &Member<Link, Table>) -> Arc<str> {
    member
        .incarnation()
        .map_or("".into(), |name| crate::model::process_of(&name).into())
}

fn users_and_kinds() -> Vec<Who> {
    (0..USERS)
        .flat_map(|user| {
            ["", "=k"].map(|kind| Who {
                user: format!(":u{user}").into(),
                kind: kind.into(),
            })
        })
        .collect()
}

/// One run. `trouble`: mishaps among a hundred events.
async fn run(seed: u64, trouble: u64) {
    let mut world = World::new(seed);
    let events = 40 + world.dice.below(160);
    for _ in 0..events {
        let pause = match world.dice.below(10) {
            0 => world.dice.below(20_000),
            1 | 2 => world.dice.below(3_000),
            _ => world.dice.below(100),
        };
        sleep(Duration::from_millis(pause)).await;
        if world.dice.chance(trouble) {
            world.mishap();
        } else if world.dice.chance(25) {
            world.roam();
        } else if world.dice.chance(60) {
            world.connect();
        } else {
            world.disconnect();
        }
    }
    world.heal();
    // Two leases: one for who is dead, one for a hold that began meanwhile.
    sleep(TTL * 3 + world.grace + Duration::from_secs(10)).await;
    world.check();
    for node in &mut world.nodes {
        node.kill();
    }
}

fn simulate(seed: u64, trouble: u64) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        tokio::task::LocalSet::new().block_on(&runtime, run(seed, trouble));
    }));
    if let Err(panic) = result {
        eprintln!("the run with HEARTLINE_SEED={seed} and {trouble} % of mishaps failed");
        std::panic::resume_unwind(panic);
    }
}

fn runs() -> u64 {
    std::env::var("HEARTLINE_SIMULATIONS")
        .ok()
        .and_then(|runs| runs.parse().ok())
        .unwrap_or(600)
}

fn run_many(first: u64, trouble: u64) {
    if let Ok(seed) = std::env::var("HEARTLINE_SEED") {
        return simulate(seed.parse().expect("HEARTLINE_SEED is a number"), trouble);
    }
    for &seed in SEEDS {
        simulate(seed, trouble);
    }
    for seed in first..first + runs() {
        simulate(seed, trouble);
        let done = seed - first + 1;
        if done.is_multiple_of(5000) {
            eprintln!("{done} of {} runs with {trouble} % of mishaps", runs());
        }
    }
}

#[test]
fn presence_is_right_in_calm_weather() {
    run_many(0, 0);
}

#[test]
fn presence_is_right_after_some_trouble() {
    run_many(1 << 32, 6);
}

#[test]
fn presence_is_right_after_much_trouble() {
    run_many(2 << 32, 25);
}

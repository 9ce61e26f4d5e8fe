//! Who comes and goes in a simulation, what goes wrong, and what must be true in the end.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::sleep;

use super::dice::Dice;
use super::model;
use super::net::Net;
use super::node::{Node, TTL, Table, close, enter};
use super::store::{Link, Store, is_traced, locked};
use crate::member::{Local, Member};
use crate::registry::{
    Admission, Edge, Entry, Millis, Newcomer, Policy, RoomName, TypedUser, Versions,
};

pub(super) const USERS: u64 = 6;
pub(super) const NODES: usize = 3;
/// `cluster.failure_timeout` where nodes ask each other whether they live: in so many of a
/// hundred runs, since most of what happens then is that.
pub(super) const FAILURE: Duration = Duration::from_millis(1200);
const PROBED: u64 = 5;
/// How long the user of a socket is waited for whose client goes on elsewhere.
pub(super) const TAKEN_OVER: Duration = Duration::from_secs(5);

pub(super) struct World {
    pub(super) dice: Dice,
    pub(super) store: Arc<Mutex<Store>>,
    pub(super) net: Arc<Mutex<Net>>,
    pub(super) nodes: Vec<Node>,
    pub(super) tags: u32,
    pub(super) sockets: u64,
    pub(super) grace: Duration,
    pub(super) policy: Policy,
    /// When users came or went, and at which node.
    acts: Vec<(Millis, TypedUser, usize)>,
    /// When the store lost its memory.
    lost_at: Vec<Millis>,
    /// Whether sockets leave rooms before they end.
    pub(super) rooms_are_left: bool,
    /// The store has lost its memory: who has heard of whom was not told again.
    pub(super) was_wiped: bool,
    /// The store's clock was set back: without its memory it gives out revisions that it has given.
    pub(super) was_set_back: bool,
    /// Something happened that no protocol can announce rightly: the store forgot
    /// while a node could not speak, or went back in time.
    pub(super) amnesia: bool,
}

impl World {
    /// Three nodes and a store, with what the seed makes of them.
    pub(super) fn new(seed: u64) -> World {
        let mut dice = Dice(seed);
        let store = Store::new(Dice(dice.roll()));
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
        let failure = dice.chance(PROBED).then_some(FAILURE);
        let net = Net::new(failure, Dice(dice.roll()));
        World {
            rooms_are_left,
            ..World::of_nodes(NODES, dice, (store, net), grace, policy)
        }
    }

    /// The same, where nothing happens by chance.
    pub(super) fn quiet(grace: Duration, policy: Policy) -> World {
        let mut store = Store::new(Dice(1));
        store.calm = true;
        let net = Net::new(None, Dice(3));
        World::of_nodes(NODES, Dice(2), (store, net), grace, policy)
    }

    /// The same with nodes that ask each other whether they live.
    pub(super) fn probed(nodes: usize, grace: Duration) -> World {
        let mut store = Store::new(Dice(1));
        store.calm = true;
        let net = Net::new(Some(FAILURE), Dice(3));
        World::of_nodes(nodes, Dice(2), (store, net), grace, Policy::Unlimited)
    }

    /// Many nodes with many users each, which they have when they join; on a store whose work
    /// takes as long as it does in Redis, from [`work_takes_time`](Self::work_takes_time) on.
    pub(super) fn crowd(nodes: usize, users_each: usize) -> World {
        let mut store = Store::new(Dice(1));
        store.calm = true;
        let policy = Policy::Unlimited;
        let net = Net::new(None, Dice(3));
        let mut world = World::of_nodes(nodes, Dice(2), (store, net), Duration::ZERO, policy);
        for number in 0..nodes {
            let mut table = locked(&world.nodes[number].sockets);
            table.is_deaf = true;
            for user in 0..users_each {
                world.sockets += 1;
                let who = TypedUser {
                    user: format!(":n{number}u{user}").into(),
                    kind: "".into(),
                };
                let entry = Entry {
                    socket: format!("s{}", world.sockets).into(),
                    namespace: "/".into(),
                    device: "".into(),
                    since: 1_700_000_000_000,
                    policy,
                    rooms: Vec::new(),
                };
                table.users.insert(who, vec![entry]);
            }
        }
        world
    }

    pub(super) fn work_takes_time(&self) {
        locked(&self.store).is_real = true;
    }

    fn of_nodes(
        count: usize,
        dice: Dice,
        (store, net): (Store, Arc<Mutex<Net>>),
        grace: Duration,
        policy: Policy,
    ) -> World {
        let store = Arc::new(Mutex::new(store));
        let nodes = (0..count)
            .map(|number| Node::start(number, number as u32, (&store, &net), grace))
            .collect();
        World {
            dice,
            store,
            net,
            nodes,
            tags: count as u32,
            sockets: 0,
            grace,
            policy,
            acts: Vec::new(),
            lost_at: Vec::new(),
            rooms_are_left: false,
            was_wiped: false,
            was_set_back: false,
            amnesia: false,
        }
    }

    /// A node is started that reads these versions.
    pub(super) fn start_build(&mut self, number: usize, versions: Versions) {
        self.tags += 1;
        let ways = (&self.store, &self.net);
        self.nodes[number] = Node::of_build(number, self.tags, ways, self.grace, versions);
    }

    pub(super) fn connect(&mut self) {
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
            max_sockets: u32::MAX,
            instead_of: None,
            who: TypedUser {
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
        let gives_up = self.dice.chance(10);
        self.note_act(&newcomer.who, number);
        self.enter(number, newcomer, gives_up);
    }

    /// A socket comes to a node. `gives_up`: its client ends while it is admitted.
    pub(super) fn enter(&mut self, number: usize, newcomer: Newcomer, gives_up: bool) {
        let node = &mut self.nodes[number];
        let (member, sockets) = (node.member.clone(), node.sockets.clone());
        node.spawn(async move {
            let asked = newcomer.clone();
            let entering = member.connect(asked, |admission| enter(&sockets, &newcomer, admission));
            let Ok(admission) = entering.await else {
                return;
            };
            let Newcomer { who, entry, .. } = newcomer;
            if gives_up {
                // It is entered, and ends at once.
                close(&member, &sockets, &entry.socket, Duration::ZERO);
            } else if admission == Some(Admission::Reserved) {
                // Its shard is to hear of it first, and finds it there or gone.
                sleep(Duration::from_millis(entry.since % 5)).await;
                if member.local().has(&who, &entry.socket) {
                    member.establish(who, entry.socket);
                }
            }
        });
    }

    pub(super) fn disconnect(&mut self) {
        let number = self.dice.below(NODES as u64) as usize;
        let node = &self.nodes[number];
        if !node.alive || node.is_stopped() {
            return;
        }
        let all: Vec<(TypedUser, Arc<str>)> = {
            let table = locked(&node.sockets);
            let users = table.users.iter();
            let of = |(who, entries): (&TypedUser, &Vec<Entry>)| -> Vec<_> {
                let sockets = entries.iter().map(|entry| entry.socket.clone());
                sockets.map(|socket| (who.clone(), socket)).collect()
            };
            users.flat_map(of).collect()
        };
        if !all.is_empty() {
            let (who, socket) = all[self.dice.below(all.len() as u64) as usize].clone();
            self.note_act(&who, number);
            let node = &self.nodes[number];
            // Now and then one that was told to come back.
            let keep = Duration::from_secs(4) * u32::from(self.dice.chance(20));
            close(&node.member, &node.sockets, &socket, keep);
        }
    }

    /// A client goes on at a node with a socket that is at another one: whose node ends it before
    /// the newcomer is registered, or after.
    pub(super) fn move_over(&mut self) {
        let [from, to] = [0; 2].map(|_| self.dice.below(NODES as u64) as usize);
        let works = |node: &Node| node.alive && !node.is_stopped();
        if !works(&self.nodes[from]) || !works(&self.nodes[to]) {
            return;
        }
        let all: Vec<(TypedUser, Entry)> = {
            let table = locked(&self.nodes[from].sockets);
            let users = table.users.iter();
            let of =
                users.map(|(who, entries)| entries.iter().map(|one| (who.clone(), one.clone())));
            of.flatten().collect()
        };
        if all.is_empty() {
            return;
        }
        let (who, earlier) = all[self.dice.below(all.len() as u64) as usize].clone();
        self.note_act(&who, from);
        self.note_act(&who, to);
        self.sockets += 1;
        let newcomer = Newcomer {
            max_sockets: u32::MAX,
            who,
            entry: Entry {
                socket: format!("s{}", self.sockets).into(),
                since: locked(&self.store).now(),
                rooms: Vec::new(),
                ..earlier.clone()
            },
            instead_of: Some(earlier.socket.clone()),
        };
        self.end_taken_over(from, earlier.socket);
        self.enter(to, newcomer, false);
    }

    /// A node hears within a moment that a socket's client has gone on elsewhere.
    fn end_taken_over(&mut self, number: usize, socket: Arc<str>) {
        let after = Duration::from_millis(self.dice.below(200));
        let node = &mut self.nodes[number];
        let (member, sockets) = (node.member.clone(), node.sockets.clone());
        node.spawn(async move {
            sleep(after).await;
            close(&member, &sockets, &socket, TAKEN_OVER);
        });
    }

    fn note_act(&mut self, who: &TypedUser, number: usize) {
        let now = locked(&self.store).now();
        self.acts.push((now, who.clone(), number));
    }

    /// Whether a user came or went on several nodes about when memory was lost: nobody can
    /// know then whose change came first.
    fn is_contested(&self, who: &TypedUser) -> bool {
        let about = TTL.as_millis() as Millis;
        self.lost_at.iter().any(|lost| {
            let near = self
                .acts
                .iter()
                .filter(|(at, one, _)| one == who && at.abs_diff(*lost) < about);
            let nodes: BTreeSet<usize> = near.map(|(_, _, number)| *number).collect();
            nodes.len() > 1
        })
    }

    /// A socket comes into a room, or leaves one.
    pub(super) fn change_rooms(&mut self) {
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
        node.member.rooms_changed(who);
    }

    pub(super) fn all_calm(&self) -> bool {
        self.nodes.iter().all(Node::is_calm)
    }

    pub(super) fn restart_store(&mut self, wiped: bool) {
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
            // A user who came during a hold was not announced, and nobody knows that.
            let held = store.model.is_held(store.time()) || store.model.has_unsettled();
            self.amnesia |= self.was_set_back || !calm || ghosts || strangers || held;
            self.was_wiped = true;
            self.lost_at.push(store.now());
        }
        store.model.restarted(wiped);
    }

    /// The store loses its memory some milliseconds later, unless it has just come to it again:
    /// within a lease of the last time, nobody can say of all what was announced.
    pub(super) async fn forget_everything(&mut self) {
        let is_settled = |store: &Store| {
            let model = &store.model;
            let members = model.processes().len();
            members == NODES && !model.is_held(store.time()) && !model.has_unsettled()
        };
        let ago = |at: &Millis| locked(&self.store).now().abs_diff(*at);
        let is_recent = |at| ago(at) < TTL.as_millis() as Millis;
        if self.lost_at.last().is_some_and(is_recent) {
            return;
        }
        if !is_settled(&locked(&self.store)) {
            return;
        }
        match self.dice.chance(50) {
            true => self.connect(),
            false => self.disconnect(),
        }
        let pause = self.dice.below(60);
        sleep(Duration::from_millis(pause)).await;
        if is_settled(&locked(&self.store)) {
            self.restart_store(true);
        }
    }

    /// Whether the store has lost its memory of a node, and nobody else could say who
    /// was online there.
    pub(super) fn is_forgotten(&self, number: usize) -> bool {
        let node = &self.nodes[number];
        let store = locked(&self.store);
        let (model, now) = (&store.model, store.time());
        // It may have joined, and not said yet who is there.
        let is_held = self.was_wiped && model.is_held(now);
        let is_known = model.processes().contains(&process(&node.member));
        node.alive && (model.is_blank() || is_held || !is_known)
    }

    /// The store's clock is set by so many milliseconds.
    pub(super) fn set_clock(&mut self, by: i64) {
        locked(&self.store).stepped += by;
        self.was_set_back |= by < 0;
        self.amnesia |= self.was_set_back && self.was_wiped;
    }

    /// Something goes wrong.
    pub(super) fn mishap(&mut self) {
        let number = self.dice.below(NODES as u64) as usize;
        let kind = self.dice.below(14);
        if is_traced() {
            let now = locked(&self.store).now() % 1_000_000;
            eprintln!("{now} mishap {kind} to node {number}");
        }
        match kind {
            0 | 1 => {
                if self.nodes[number].alive {
                    let store = locked(&self.store);
                    let held = store.model.is_held(store.time());
                    drop(store);
                    self.amnesia |= held || self.is_forgotten(number);
                    self.nodes[number].kill();
                }
            }
            2 | 3 => {
                if !self.nodes[number].alive {
                    self.amnesia |= locked(&self.store).model.is_blank();
                    self.tags += 1;
                    self.nodes[number] =
                        Node::start(number, self.tags, (&self.store, &self.net), self.grace);
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
            12 => {
                // Its clock is set, forward or back.
                let by = [2_000, 9_000, 40_000, 3_600_000][self.dice.below(4) as usize];
                let forward = self.dice.chance(60);
                self.set_clock(if forward { by } else { -by });
            }
            11 => {
                // One of them does not reach another, or does again.
                let tag = |number: usize| self.nodes[number].member.info().tag;
                let pair = (tag(number), tag(self.dice.below(NODES as u64) as usize));
                let cuts = &mut locked(&self.net).cuts;
                if !cuts.remove(&pair) {
                    cuts.insert(pair);
                }
            }
            _ => {
                // Goes back in time, as a replica may that was behind.
                let mut store = locked(&self.store);
                if let Some(snapshot) = store.snapshot.take() {
                    let edges = store.edges.len() as u64;
                    store.model = snapshot;
                    store.model.go_on_from(edges);
                    store.run += 1;
                    self.amnesia = true;
                } else {
                    store.snapshot = Some(store.model.clone());
                }
            }
        }
    }

    pub(super) fn heal(&mut self) {
        {
            let mut store = locked(&self.store);
            store.up = true;
            store.calm = true;
            locked(&self.net).cuts.clear();
        }
        for number in 0..self.nodes.len() {
            let node = &mut self.nodes[number];
            node.link.cut.store(false, Ordering::Relaxed);
            node.go_on();
            // Somebody has to be there to notice that nobody else is.
            if !node.alive && (number == 0 || self.dice.chance(50)) {
                self.tags += 1;
                self.nodes[number] =
                    Node::start(number, self.tags, (&self.store, &self.net), self.grace);
            }
        }
    }

    /// What is true when everything works again.
    pub(super) fn check(&self) {
        let mut there: BTreeMap<TypedUser, Vec<Entry>> = BTreeMap::new();
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
        let online: BTreeSet<TypedUser> = there.keys().cloned().collect();
        let announced: BTreeSet<TypedUser> = store.model.announced().into_iter().collect();
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
        self.check_edges(&online, &store.edges);
        for node in self.nodes.iter().filter(|node| node.alive) {
            self.check_heard(node, &online, &store.edges);
        }
    }

    /// Revisions grow; each edge is a change; the last is the truth. Where memory was lost, some
    /// may be written again: who has heard them does not tell them again.
    fn check_edges(&self, online: &BTreeSet<TypedUser>, edges: &[Edge]) {
        let mut last: BTreeMap<&TypedUser, &Edge> = BTreeMap::new();
        for edge in edges.iter().filter(|edge| edge.others.is_none()) {
            let before = last.insert(&edge.who, edge);
            if let Some(before) = before {
                assert!(
                    self.amnesia || before.rev < edge.rev,
                    "revisions grow: {before:?} {edge:?}"
                );
            }
            let was = before.is_some_and(|before| before.online);
            assert!(
                self.amnesia || self.was_wiped || was != edge.online,
                "a change: {edge:?}"
            );
        }
        for who in users_and_kinds() {
            let said = last.get(&who).is_some_and(|edge| edge.online);
            assert!(
                self.amnesia || self.was_wiped || said == online.contains(&who),
                "the last edge of {who:?} is the truth"
            );
        }
    }

    /// A node heard all edges, in order, once. What it had not read when memory was lost was
    /// lost; but what it tells is a change each time, and the truth in the end.
    fn check_heard(&self, node: &Node, online: &BTreeSet<TypedUser>, edges: &[Edge]) {
        let table = locked(&node.sockets);
        if table.is_deaf {
            return;
        }
        let heard = &table.heard;
        if !self.was_wiped && !self.amnesia {
            let all = &edges[edges.len() - heard.len()..];
            assert!(edges.len() - heard.len() >= node.from);
            assert_eq!(heard, all, "edges heard");
            return;
        }
        let mut all = edges.iter();
        for edge in heard {
            let is_it =
                |one: &Edge| (&one.who, one.rev, one.online) == (&edge.who, edge.rev, edge.online);
            assert!(all.any(is_it), "heard again, or late: {edge:?}");
        }
        if self.amnesia {
            return;
        }
        let number = &node.member.info().node_id;
        let mut told: BTreeMap<&TypedUser, bool> = BTreeMap::new();
        for edge in heard.iter().filter(|edge| edge.others.is_none()) {
            let before = told.insert(&edge.who, edge.online);
            // Of what there was before it began, a node was told nothing.
            let was = before.or((node.from == 0).then_some(false));
            assert!(
                was != Some(edge.online) || self.is_contested(&edge.who),
                "{number} tells it again: {edge:?}"
            );
        }
        let all: BTreeSet<&TypedUser> = edges.iter().map(|edge| &edge.who).chain(online).collect();
        for who in all {
            let said = told.get(who).copied();
            let said = said.or((node.from == 0).then_some(false));
            let is = online.contains(who);
            assert!(
                said.is_none_or(|said| said == is) || self.is_contested(who),
                "{number} has told of {who:?} what is not true any more, {is}"
            );
        }
    }

    /// The members of a room hear once that a user is online there, and once that it
    /// has gone.
    pub(super) fn check_rooms(&self, there: &BTreeMap<TypedUser, Vec<Entry>>, edges: &[Edge]) {
        if self.amnesia || self.was_wiped {
            return;
        }
        let mut told: BTreeMap<&TypedUser, BTreeSet<&RoomName>> = BTreeMap::new();
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

    pub(super) fn check_devices(&self, who: &TypedUser, entries: &[Entry]) {
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

pub(super) fn process(member: &Member<Link, Table>) -> Arc<str> {
    member
        .incarnation()
        .map_or("".into(), |name| model::process_of(&name).into())
}

pub(super) fn users_and_kinds() -> Vec<TypedUser> {
    (0..USERS)
        .flat_map(|user| {
            ["", "=k"].map(|kind| TypedUser {
                user: format!(":u{user}").into(),
                kind: kind.into(),
            })
        })
        .collect()
}

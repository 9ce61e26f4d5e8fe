//! The registry as a structure in memory, with time as an argument: what the
//! scripts are held to, and what the simulation runs on.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use crate::probes::neighbours;
use crate::registry::{
    Admission, Announced, Arrival, Audit, Departure, DevicesChange, Displaced, DisplacedBy, Doubts,
    Edge, Edges, Entry, Fenced, JURY, Joined, Known, Maintained, Mark, Marked, Millis, Newcomer,
    NodeInfo, NodeState, Policy, Renewed, Restored, RoomName, Seen, Stranger, Sum, Suspicion, Turn,
    TypedUser, UserName, Verdict, Versions,
};

/// Entries that one comparison reads, beyond those of one bucket: some milliseconds.
const MAX_COMPARED: usize = 2_000;
/// Entries that it answers, beyond those of one bucket.
const MAX_LISTED: usize = 1_000;
/// Edges that are kept for readers that fell behind.
pub(crate) const KEPT_EDGES: usize = 65_536;
/// Rooms of an online user, beyond which those that its ended sockets were in are not
/// told when it goes.
const KEPT_ROOMS: usize = 1000;
/// For how many milliseconds after a question changes of devices are told, and when that is said
/// anew.
const TOLD_FOR: Millis = 900_000;
const TOLD_AGAIN: Millis = 600_000;

#[derive(Debug, Clone)]
struct Held {
    entry: Entry,
    incarnation: Arc<str>,
    kind: Arc<str>,
    /// Others go once it is there; until then it takes no place.
    on_probation: bool,
}

/// How many are beyond the limit with one more, who displaces those of the same device. On
/// probation are some who will do the same to others.
fn excess(entry: &Entry, rivals: &[Held]) -> u32 {
    let (Policy::Limit(max) | Policy::Evict(max)) = entry.policy else {
        return 0;
    };
    let devices = rivals.iter().map(|held| &held.entry.device);
    let (unnamed, named): (Vec<_>, Vec<_>) = devices.partition(|device| device.is_empty());
    let named: BTreeSet<&Arc<str>> = named.into_iter().collect();
    let others = named.iter().filter(|device| ***device != entry.device);
    let count = (unnamed.len() + others.count()) as u32;
    (count + 1).saturating_sub(max.max(1))
}

/// Who of `rivals` has to go for a socket, and why.
fn losers_to(entry: &Entry, rivals: &[Held]) -> Vec<(Held, DisplacedBy)> {
    let mut excess = excess(entry, rivals);
    let mut losers = Vec::new();
    for held in rivals {
        let same = !entry.device.is_empty() && held.entry.device == entry.device;
        if same || entry.policy == Policy::Replace {
            losers.push((held.clone(), DisplacedBy::Replaced));
        } else if excess > 0 {
            excess -= 1;
            losers.push((held.clone(), DisplacedBy::Limit));
        }
    }
    losers
}

#[derive(Debug, Clone, Default)]
struct State {
    online: bool,
    rev: u64,
    count: u32,
    seen: Option<Millis>,
    /// The last socket was swept: no node knows of the grace that follows.
    swept: bool,
    /// Rooms whose members were told, or will be when the user is; and how many of its
    /// sockets are in each.
    rooms: BTreeMap<RoomName, u32>,
}

impl State {
    /// A socket has changed its rooms. Those that the user is new in.
    fn change_rooms(&mut self, before: &[RoomName], after: &[RoomName]) -> Vec<RoomName> {
        let mut new = Vec::new();
        let mut count = self.rooms.len();
        for room in after.iter().filter(|room| !before.contains(room)) {
            if !self.rooms.contains_key(room) {
                if count >= KEPT_ROOMS {
                    continue;
                }
                count += 1;
                new.push(room.clone());
            }
            let sockets = self.rooms.entry(room.clone()).or_insert(0);
            *sockets += 1;
        }
        for room in before.iter().filter(|room| !after.contains(room)) {
            self.drop_room(room, false);
        }
        new.sort_unstable();
        new
    }

    fn drop_room(&mut self, room: &RoomName, keep: bool) {
        if let Some(sockets) = self.rooms.get_mut(room) {
            *sockets = sockets.saturating_sub(1);
            if *sockets == 0 && !keep {
                self.rooms.remove(room);
            }
        }
    }
}

#[derive(Debug, Clone, Default)]
struct User {
    sockets: BTreeMap<Arc<str>, Held>,
    states: BTreeMap<Arc<str>, State>,
    /// Until when it is told that it is on other devices.
    told_until: Millis,
}

/// What the last operation of an incarnation was answered.
#[derive(Debug, Clone)]
enum Said {
    Admissions(Vec<Admission>),
    Displaced(Vec<Displaced>),
    Linger(Vec<bool>),
}

/// How an operation's answer is kept, and found again.
trait Answer: Sized + Clone {
    fn keep(self) -> Said;
    fn find(said: &Said) -> Option<Self>;
}

macro_rules! answer {
    ($of:ty, $kept:ident) => {
        impl Answer for $of {
            fn keep(self) -> Said {
                Said::$kept(self)
            }
            fn find(said: &Said) -> Option<Self> {
                match said {
                    Said::$kept(answer) => Some(answer.clone()),
                    _ => None,
                }
            }
        }
    };
}

answer!(Vec<Admission>, Admissions);
answer!(Vec<Displaced>, Displaced);
answer!(Vec<bool>, Linger);

/// An incarnation's sockets, by the buckets of their users.
type Index = BTreeMap<u8, BTreeMap<Arc<str>, TypedUser>>;

/// Takes a socket out of the index that it was in.
fn unlist(indexes: &mut BTreeMap<Arc<str>, Index>, held: &Held, bucket: u8) {
    let index = indexes.get_mut(&held.incarnation);
    if let Some(sockets) = index.and_then(|index| index.get_mut(&bucket)) {
        sockets.remove(&held.entry.socket);
    }
}

/// The cluster's own time: it never goes back, and between two operations no further than some.
#[derive(Debug, Clone, Copy)]
struct Clock {
    /// The time of day when it was noted last.
    last: Millis,
    /// How far the time of day is ahead.
    ahead: i64,
    /// How far it goes on at most without an operation.
    most: Millis,
}

impl Clock {
    fn at(self, wall: Millis) -> Clock {
        let passed = wall as i64 - self.last as i64;
        let most = self.most as i64;
        let jumped = if passed < 0 {
            passed
        } else {
            (passed - most).max(0)
        };
        let is_noted = passed < 0 || passed * 6 >= most;
        Clock {
            last: if is_noted { wall } else { self.last },
            ahead: self.ahead + jumped,
            ..self
        }
    }
}

/// The store's memory.
#[derive(Debug, Clone, Default)]
pub(crate) struct Model {
    clock: Option<Clock>,
    epoch: Option<Arc<str>>,
    /// Which run of the store the registry has seen last.
    run: Option<u64>,
    /// Until when nobody is taken for gone.
    hold: Millis,
    /// Until when nobody is taken for new either; 0: that is over, and was noticed.
    blind: Millis,
    /// Those who are complete in this hold.
    complete: BTreeSet<Arc<str>>,
    /// How many nodes there were before memory was lost.
    expected: u32,
    /// Somebody has said that this memory is not the one there was.
    is_successor: bool,
    /// Leases; 0: dead, whatever the hold.
    nodes: BTreeMap<Arc<str>, Millis>,
    infos: BTreeMap<Arc<str>, NodeInfo>,
    /// The incarnation that each process has now.
    owners: BTreeMap<Arc<str>, Arc<str>>,
    users: BTreeMap<UserName, User>,
    indexes: BTreeMap<Arc<str>, Index>,
    /// Who suspects whom, and when that was said first and last.
    suspicions: BTreeMap<Arc<str>, BTreeMap<Arc<str>, (Millis, Millis)>>,
    /// Counts changes of the incarnations there are.
    members: u64,
    /// Processes for which something waits here.
    pub(crate) nudged: BTreeSet<Arc<str>>,
    /// The last operation of each incarnation, and its answer.
    said: BTreeMap<Arc<str>, (u64, Said)>,
    inboxes: BTreeMap<Arc<str>, BTreeMap<Arc<str>, Displaced>>,
    due: BTreeSet<(Millis, TypedUser)>,
    dues: BTreeMap<TypedUser, Millis>,
    /// By their ids; each with its number.
    edges: VecDeque<(u64, u64, Edge)>,
    /// The last id, which grows over a loss of memory.
    edge_id: u64,
    edge_number: u64,
    /// Users of whom it is to be told that they are on other devices.
    moved: Vec<UserName>,
    /// What was told of that.
    devices: Vec<DevicesChange>,
    /// How many edges are kept, if not [`KEPT_EDGES`].
    pub(crate) kept_edges: Option<usize>,
    /// When a node is doubted.
    doubts: Doubts,
}

/// The process that an incarnation is a life of.
pub(crate) fn process_of(incarnation: &str) -> &str {
    incarnation
        .rsplit_once('.')
        .map_or(incarnation, |(process, _)| process)
}

/// Whether a suspicion was held to the end of the window, and still is.
fn is_firm(now: Millis, (first, last): (Millis, Millis), suspicion: Suspicion<'_>) -> bool {
    last >= first + suspicion.window && now <= last + suspicion.lasts()
}

fn node_of(incarnation: &str) -> &str {
    process_of(process_of(incarnation))
}

impl Model {
    /// Nothing is kept yet.
    pub(crate) fn with_doubts(doubts: Doubts) -> Model {
        Model {
            doubts,
            ..Model::default()
        }
    }

    /// The cluster's own time, at a time of day.
    pub(crate) fn time_at(&self, wall: Millis) -> Millis {
        let clock = self.clock.map(|clock| clock.at(wall));
        clock.map_or(wall, |clock| wall.saturating_add_signed(-clock.ahead))
    }

    /// The same for an operation, which is noted.
    pub(crate) fn tick(&mut self, wall: Millis) -> Millis {
        let now = self.time_at(wall);
        let before = self.clock;
        self.clock = self.clock.map(|clock| clock.at(wall));
        let expects_any = self.nodes.values().any(|&until| until > 0);
        // Nobody could reach the store for longer than nodes are silent for.
        if let Some(Clock { last, most, .. }) = before
            && wall > last + most
            && self.hold <= now
            && expects_any
        {
            self.begin_hold(now, most * 5 / 2, self.blind > 0);
            let there = self.nodes.iter().filter(|(_, until)| **until > 0);
            let there = there.map(|(name, _)| process_of(name).into());
            self.nudged.extend(there);
        }
        now
    }

    /// The time of day.
    fn wall(&self, now: Millis) -> Millis {
        now.saturating_add_signed(self.clock.map_or(0, |clock| clock.ahead))
    }

    fn alive(&self, now: Millis, incarnation: &str) -> bool {
        self.nodes
            .get(incarnation)
            .is_some_and(|&until| until >= now || (until > 0 && self.hold > now))
    }

    fn guard(&self, now: Millis, incarnation: &str) -> Result<(), Fenced> {
        let owner = self.owners.get(process_of(incarnation));
        let owns = owner.is_some_and(|owner| **owner == *incarnation);
        (owns && self.alive(now, incarnation))
            .then_some(())
            .ok_or(Fenced)
    }

    /// Does an operation once, and answers it again when it is said again.
    fn once<T: Answer>(
        &mut self,
        now: Millis,
        turn: Turn<'_>,
        operation: impl FnOnce(&mut Model) -> T,
    ) -> Result<T, Fenced> {
        self.guard(now, turn.incarnation)?;
        self.suspicions.remove(turn.incarnation);
        if let Some((last, said)) = self.said.get(turn.incarnation)
            && turn.number <= *last
        {
            let again = (turn.number == *last).then(|| T::find(said));
            return again.flatten().ok_or(Fenced);
        }
        let answer = operation(self);
        self.tell_moves(now);
        let said = (turn.number, answer.clone().keep());
        self.said.insert(turn.incarnation.into(), said);
        Ok(answer)
    }

    fn begin_hold(&mut self, now: Millis, ttl: Millis, is_blind: bool) {
        // Those who were there before memory was lost are waited for in this one too.
        if self.hold <= now {
            self.expected = 0;
        }
        self.hold = now + ttl;
        if is_blind {
            self.blind = now + ttl;
        }
        self.complete.clear();
    }

    /// A node is complete; if all are, nobody is waited for any more.
    fn complete(&mut self, now: Millis, incarnation: &str, hold: Option<Millis>) {
        if self.hold <= now || hold != Some(self.hold) {
            return;
        }
        self.complete.insert(incarnation.into());
        let living = self.nodes.values().filter(|&&until| until > 0).count();
        if self.complete.len() >= living.max(self.expected as usize) {
            self.hold = 0;
            self.blind = 0;
        }
    }

    fn schedule(&mut self, who: &TypedUser, at: Millis) {
        if let Some(before) = self.dues.insert(who.clone(), at) {
            self.due.remove(&(before, who.clone()));
        }
        self.due.insert((at, who.clone()));
    }

    /// At `at`, or when it was due before, whichever is later.
    fn postpone(&mut self, who: &TypedUser, at: Millis) {
        let before = self.dues.get(who).copied().unwrap_or(0);
        self.schedule(who, at.max(before));
    }

    /// Compares what was announced with who is there. True: a user who is gone is to
    /// be announced later.
    fn settle(&mut self, now: Millis, who: &TypedUser, grace: Millis) -> bool {
        let (hold, blind, wall) = (self.hold, self.blind, self.wall(now));
        let due = self.dues.get(who).copied().unwrap_or(0);
        let Some(user) = self.users.get_mut(&who.user) else {
            return false;
        };
        let Some(state) = user.states.get_mut(&who.kind) else {
            return false;
        };
        let online = state.count > 0;
        if online == state.online {
            return false;
        }
        if online && blind > now {
            self.schedule(who, now);
            return false;
        }
        // Nothing is worked off in a hold.
        if !online && (grace > 0 || due > now || hold > now) {
            self.postpone(who, now + grace);
            return true;
        }
        let sockets = user.sockets.values().filter(|held| held.kind == who.kind);
        state.count = sockets.count() as u32;
        if online != (state.count > 0) {
            return false;
        }
        state.online = online;
        state.rev = (state.rev + 1).max(wall);
        let edge = Edge {
            who: who.clone(),
            online,
            rev: state.rev,
            at: wall,
            rooms: state.rooms.keys().cloned().collect(),
            others: None,
        };
        if !online {
            state.rooms.clear();
        }
        self.moved.retain(|user| *user != who.user);
        self.push_edge(edge);
        false
    }

    /// A user who is announced as online may be on other devices.
    fn note_move(&mut self, who: &TypedUser) {
        let user = self.users.get(&who.user);
        let state = user.and_then(|user| user.states.get(&who.kind));
        if state.is_some_and(|state| state.online) && !self.moved.contains(&who.user) {
            self.moved.push(who.user.clone());
        }
    }

    /// Tells of users about whom somebody asked lately.
    fn tell_moves(&mut self, now: Millis) {
        for name in std::mem::take(&mut self.moved) {
            let Some(user) = self.users.get(&name).filter(|user| user.told_until >= now) else {
                continue;
            };
            let held = user.sockets.values();
            let held = held.filter(|held| self.alive(now, &held.incarnation));
            let devices: Vec<&Arc<str>> = held.map(|held| &held.entry.device).collect();
            let named: BTreeSet<&&Arc<str>> =
                devices.iter().filter(|one| !one.is_empty()).collect();
            let unnamed = devices.iter().filter(|one| one.is_empty()).count();
            let count = (named.len() + unnamed) as u32;
            self.devices.push(DevicesChange {
                user: name,
                number: self.devices.len() as u64 + 1,
                // Nobody has so many sockets here that they are not counted.
                devices: Some(count),
            });
        }
    }

    /// All that was told of devices.
    pub(crate) fn devices(&self) -> &[DevicesChange] {
        &self.devices
    }

    fn push_edge(&mut self, edge: Edge) {
        self.edge_id += 1;
        self.edge_number += 1;
        self.edges.push_back((self.edge_id, self.edge_number, edge));
        if self.edges.len() > self.kept_edges.unwrap_or(KEPT_EDGES) {
            self.edges.pop_front();
        }
    }

    /// `told`: the members of its rooms know of the user.
    fn add(
        &mut self,
        now: Millis,
        incarnation: &Arc<str>,
        who: &TypedUser,
        entry: &Entry,
        (told, on_probation): (bool, bool),
    ) {
        let wall = self.wall(now);
        let user = self.users.entry(who.user.clone()).or_default();
        let held = Held {
            entry: entry.clone(),
            incarnation: incarnation.clone(),
            kind: who.kind.clone(),
            on_probation,
        };
        let before = user.sockets.insert(entry.socket.clone(), held);
        let state = user.states.entry(who.kind.clone()).or_default();
        state.swept = false;
        let others: Vec<RoomName> = state.rooms.keys().cloned().collect();
        let rooms = before.as_ref().map_or(&[][..], |held| &held.entry.rooms);
        let new = state.change_rooms(rooms, &entry.rooms);
        let arrival = Edge {
            who: who.clone(),
            online: true,
            rev: state.rev,
            at: wall,
            rooms: new,
            others: Some(others),
        };
        let arrives = state.online && !told && !arrival.rooms.is_empty();
        let has_moved = match &before {
            None => true,
            Some(before) if before.incarnation == *incarnation => false,
            Some(before) => !self.alive(now, &before.incarnation),
        };
        let user = self.users.entry(who.user.clone()).or_default();
        let state = user.states.entry(who.kind.clone()).or_default();
        match before {
            None => {
                state.count += 1;
                // Whoever was to come back has.
                if let Some(at) = self.dues.remove(who) {
                    self.due.remove(&(at, who.clone()));
                }
            }
            Some(before) if before.incarnation != *incarnation => {
                unlist(&mut self.indexes, &before, who.bucket());
            }
            Some(_) => {}
        }
        self.indexes
            .entry(incarnation.clone())
            .or_default()
            .entry(who.bucket())
            .or_default()
            .insert(entry.socket.clone(), who.clone());
        if has_moved {
            self.note_move(who);
        }
        if arrives {
            self.push_edge(arrival);
        }
        self.settle(now, who, 0);
    }

    /// Takes a socket out, without settling.
    fn remove(&mut self, now: Millis, who: &TypedUser, socket: &str) -> Option<Held> {
        let wall = self.wall(now);
        let user = self.users.get_mut(&who.user)?;
        let held = user.sockets.remove(socket)?;
        let state = user.states.entry(held.kind.clone()).or_default();
        state.count = state.count.saturating_sub(1);
        state.seen = Some(wall);
        for room in &held.entry.rooms {
            // Its members are told when the user goes, if they heard that it came.
            let keep = state.online && state.rooms.len() <= KEPT_ROOMS;
            state.drop_room(room, keep);
        }
        let of = TypedUser {
            user: who.user.clone(),
            kind: held.kind.clone(),
        };
        self.note_move(&of);
        unlist(&mut self.indexes, &held, who.bucket());
        Some(held)
    }

    /// Others of the user in the same namespace whose leases live, and who have their places.
    fn rivals(&self, now: Millis, who: &TypedUser, entry: &Entry) -> Vec<Held> {
        let mut rivals = self.all_rivals(now, who, entry);
        rivals.retain(|held| !held.on_probation);
        rivals
    }

    /// The same, and those on probation.
    fn all_rivals(&self, now: Millis, who: &TypedUser, entry: &Entry) -> Vec<Held> {
        let Some(user) = self.users.get(&who.user) else {
            return Vec::new();
        };
        let mut rivals: Vec<Held> = user
            .sockets
            .values()
            .filter(|held| {
                held.kind == who.kind
                    && held.entry.namespace == entry.namespace
                    && held.entry.socket != entry.socket
                    && self.alive(now, &held.incarnation)
            })
            .cloned()
            .collect();
        rivals.sort_by_key(|held| (held.entry.since, held.entry.socket.clone()));
        rivals
    }

    /// A socket loses its place; told to its node, or answered if that asks.
    #[allow(clippy::too_many_arguments)]
    fn replace(
        &mut self,
        now: Millis,
        who: &TypedUser,
        held: &Held,
        why: DisplacedBy,
        by: &Entry,
        winner: &str,
        mine: &mut Vec<Displaced>,
    ) {
        self.remove(now, who, &held.entry.socket);
        let displaced = Displaced {
            socket: held.entry.socket.clone(),
            why,
            device: by.device.clone(),
            node: node_of(winner).into(),
        };
        let process = process_of(&held.incarnation);
        if process == process_of(winner) {
            mine.push(displaced);
        } else {
            self.inboxes
                .entry(process.into())
                .or_default()
                .insert(displaced.socket.clone(), displaced);
        }
    }

    /// The store has restarted, with its memory or without.
    pub(crate) fn restarted(&mut self, wiped: bool) {
        if wiped {
            *self = Model {
                edge_id: self.edge_id,
                kept_edges: self.kept_edges,
                doubts: self.doubts,
                ..Model::default()
            };
        }
    }

    fn watch_run(&mut self, now: Millis, run: u64, ttl: Millis) {
        if self.run.replace(run).is_some_and(|before| before != run) {
            self.begin_hold(now, ttl, true);
        }
        // Nobody could reach the store for so long that all leases are over.
        let live = |until: &Millis| *until >= now || (*until > 0 && self.hold > now);
        let expired = self.nodes.values().any(|&until| until > 0);
        if expired && !self.nodes.values().any(live) {
            self.begin_hold(now, ttl, self.blind > 0);
        }
    }

    pub(crate) fn join(
        &mut self,
        now: Millis,
        run: u64,
        info: &NodeInfo,
        ttl: Millis,
        (known, living): (Option<&str>, u32),
        fresh: &str,
    ) -> Result<Joined, Stranger> {
        self.admit(now, info, known.is_none())?;
        let (last, ahead) = (self.wall(now), self.clock.map_or(0, |clock| clock.ahead));
        self.clock = Some(Clock {
            last,
            ahead,
            most: ttl * 2 / 5,
        });
        self.watch_run(now, run, ttl);
        let process = info.process();
        let epoch = self.epoch.get_or_insert_with(|| fresh.into()).clone();
        if known.is_some_and(|known| *known != *epoch) {
            if !self.is_successor {
                self.is_successor = true;
                self.begin_hold(now, ttl, true);
            }
            if self.hold > now {
                self.expected = self.expected.max(living);
            }
        }
        for (incarnation, until) in &mut self.nodes {
            let before = process_of(incarnation) == &*process;
            if before || (known.is_none() && node_of(incarnation) == &*info.node_id) {
                self.complete.remove(incarnation);
            }
            if !before && known.is_none() && node_of(incarnation) == &*info.node_id {
                *until = 0;
            }
        }
        let incarnation: Arc<str> = format!("{process}.{fresh}").into();
        self.nodes.insert(incarnation.clone(), now + ttl);
        self.infos.insert(incarnation.clone(), info.clone());
        self.owners.insert(process, incarnation.clone());
        self.members += 1;
        self.nudge_neighbours(now, &incarnation);
        Ok(Joined {
            incarnation,
            epoch,
            secret: "".into(),
            last_edge: self.edge_id.to_string().into(),
            edge_number: self.edge_number,
            version: self.version(),
        })
    }

    /// Whether a node has a version in common with each that lives.
    fn admit(&self, now: Millis, info: &NodeInfo, is_new: bool) -> Result<(), Stranger> {
        let process = info.process();
        let there = self.nodes.iter().filter(|(_, until)| **until > 0);
        let mut there: Vec<_> = there.map(|(name, until)| (until, name)).collect();
        there.sort_unstable();
        for (_, incarnation) in there {
            let other = &self.infos[incarnation];
            let is_past = process_of(incarnation) == &*process
                || (is_new && node_of(incarnation) == &*info.node_id);
            let Versions { min, max } = other.proto;
            if !is_past
                && self.alive(now, incarnation)
                && (max < info.proto.min || min > info.proto.max)
            {
                return Err(Stranger {
                    node_id: node_of(incarnation).into(),
                    versions: other.proto,
                });
            }
        }
        Ok(())
    }

    /// The newest version that all can read.
    fn version(&self) -> u32 {
        let there = self.nodes.iter().filter(|(_, until)| **until > 0);
        let newest = there.map(|(name, _)| self.infos[name].proto.max);
        newest.min().unwrap_or(0)
    }

    /// Those who are to ask a newcomer whether it lives hear of it at once.
    fn nudge_neighbours(&mut self, now: Millis, incarnation: &str) {
        let living = self.nodes.iter().filter(|(_, until)| **until >= now);
        let living: Vec<Arc<str>> = living.map(|(name, _)| name.clone()).collect();
        let near = neighbours(&living, incarnation);
        let near = near.iter().map(|name| process_of(name).into());
        self.nudged.extend(near);
    }

    pub(crate) fn renew(
        &mut self,
        now: Millis,
        run: u64,
        incarnation: &str,
        ttl: Millis,
        done: &[Arc<str>],
        complete: Option<Millis>,
    ) -> Result<Renewed, Fenced> {
        self.watch_run(now, run, ttl);
        self.guard(now, incarnation)?;
        self.nodes.insert(incarnation.into(), now + ttl);
        self.suspicions.remove(incarnation);
        let process = process_of(incarnation);
        let mut displaced = Vec::new();
        if let Some(inbox) = self.inboxes.get_mut(process) {
            for socket in done {
                inbox.remove(socket);
            }
            displaced = inbox.values().cloned().collect();
        }
        self.complete(now, incarnation, complete);
        Ok(Renewed {
            displaced,
            next_due: self.next_due(now),
            rank: self.rank(incarnation),
            living: self.nodes.values().filter(|&&until| until >= now).count() as u32,
            hold: Some(self.hold).filter(|hold| *hold > now),
            members: self.members,
            version: self.version(),
            set_aside: 0,
        })
    }

    /// How many of those who live, and were not given up themselves, could suspect a process.
    fn jury(&self, now: Millis, accused: &str, suspicion: Suspicion<'_>) -> u32 {
        let could = |(name, until): &(&Arc<str>, &Millis)| {
            let process = process_of(name);
            let owns = self.owners.get(process) == Some(*name);
            let doubted = self.suspicions.get(*name).into_iter().flatten();
            let mut doubted = doubted.filter(|(_, said)| is_firm(now, **said, suspicion));
            **until >= now && owns && process != accused && doubted.next().is_none()
        };
        self.nodes.iter().filter(could).count() as u32
    }

    pub(crate) fn suspect(
        &mut self,
        now: Millis,
        by: &str,
        suspicion: Suspicion<'_>,
    ) -> Result<Verdict, Fenced> {
        self.guard(now, by)?;
        let whom = suspicion.whom;
        if self.hold > now {
            return Ok(Verdict::Refuted);
        }
        if self.nodes.get(whom).is_none_or(|&until| until < now) {
            return Ok(Verdict::Dead);
        }
        let said = self.suspicions.get(whom).and_then(|said| said.get(by));
        let said = said.copied();
        if suspicion.again && said.is_none() {
            return Ok(Verdict::Refuted);
        }
        let first = match said {
            Some((first, last)) if now <= last + suspicion.lasts() => first,
            _ => now,
        };
        let all = self.suspicions.entry(whom.into()).or_default();
        all.insert(by.into(), (first, now));
        let accused = process_of(whom).to_owned();
        self.nudged.insert(accused.as_str().into());
        let all = self.suspicions[whom].iter();
        let firm = all.filter(|(name, said)| {
            is_firm(now, **said, suspicion) && self.alive(now, name) && process_of(name) != accused
        });
        if (firm.count() as u32) < JURY.min(self.jury(now, &accused, suspicion)) {
            return Ok(Verdict::Open);
        }
        for (name, until) in &mut self.nodes {
            if process_of(name) == accused {
                *until = 0;
                self.complete.remove(name);
                self.suspicions.remove(name);
            }
        }
        self.members += 1;
        Ok(Verdict::Ends)
    }

    fn rank(&self, incarnation: &str) -> u32 {
        let mine = (self.nodes.get(incarnation), incarnation);
        self.nodes
            .iter()
            .filter(|(name, until)| (Some(*until), &***name) < mine)
            .count() as u32
    }

    fn next_due(&self, now: Millis) -> Option<Millis> {
        if self.hold > now {
            return Some(self.hold - now);
        }
        // The first moment at which the lease is no more.
        let lease = self.nodes.values().min().map(|&until| until + 1);
        let due = self.due.first().map(|(at, _)| *at);
        let first = match (lease, due) {
            (Some(a), Some(b)) => a.min(b),
            (a, b) => a.or(b)?,
        };
        Some(first.saturating_sub(now))
    }

    pub(crate) fn connect(
        &mut self,
        now: Millis,
        turn: Turn<'_>,
        newcomers: &[Newcomer],
    ) -> Result<Vec<Admission>, Fenced> {
        self.once(now, turn, |model| {
            model.do_connect(now, turn.incarnation, newcomers)
        })
    }

    fn do_connect(
        &mut self,
        now: Millis,
        incarnation: &str,
        newcomers: &[Newcomer],
    ) -> Vec<Admission> {
        let incarnation: Arc<str> = incarnation.into();
        let mut answers = Vec::new();
        for newcomer in newcomers {
            let Newcomer { who, entry, .. } = newcomer;
            let all = self.all_rivals(now, who, entry);
            let losers = losers_to(entry, &self.rivals(now, who, entry)).len();
            let room = self.room(newcomer, losers);
            if matches!(entry.policy, Policy::Limit(_)) && excess(entry, &all) > 0 {
                let kept = all.iter().filter(|held| self.doubt(now, held).is_none());
                let kept: Vec<Held> = kept.cloned().collect();
                let waits = all.iter().filter_map(|held| self.doubt(now, held));
                let again = waits.min().filter(|_| excess(entry, &kept) == 0);
                answers.push(Admission::Refused(again));
                continue;
            }
            if room < 1 {
                let user = self.users.get(&who.user).into_iter();
                let held = user.flat_map(|user| user.sockets.values());
                let waits: Vec<Millis> =
                    held.filter_map(|one| self.doubt_owner(now, one)).collect();
                let fits = room + waits.len() as i64 > 0;
                let again = waits.into_iter().min().filter(|_| fits);
                answers.push(Admission::Refused(again));
                continue;
            }
            let waits = losers > 0;
            self.add(now, &incarnation, who, entry, (false, waits));
            answers.push(match waits {
                true => Admission::Reserved,
                false => Admission::Admitted,
            });
        }
        answers
    }

    /// How many sockets more a newcomer's user may have.
    fn room(&self, newcomer: &Newcomer, losers: usize) -> i64 {
        let user = self.users.get(&newcomer.who.user);
        let state = user.and_then(|user| user.states.get(&newcomer.who.kind));
        let count = state.map_or(0, |state| i64::from(state.count));
        i64::from(newcomer.max_sockets) + losers as i64 - count
    }

    /// In how many milliseconds to look again whether a socket's incarnation has died, if it is
    /// doubted.
    fn doubt(&self, now: Millis, held: &Held) -> Option<Millis> {
        self.doubt_incarnation(now, &held.incarnation)
    }

    /// The same for what its process is now.
    fn doubt_owner(&self, now: Millis, held: &Held) -> Option<Millis> {
        let owner = self.owners.get(process_of(&held.incarnation));
        self.doubt_incarnation(now, owner.map_or("", |owner| owner))
    }

    fn doubt_incarnation(&self, now: Millis, incarnation: &str) -> Option<Millis> {
        let till = self.nodes.get(incarnation).copied().unwrap_or(0);
        let is_late = till < now + self.doubts.lease_left;
        let left = (till.max(self.hold) + 1).saturating_sub(now);
        is_late.then(|| left.min(self.doubts.again).max(1))
    }

    pub(crate) fn establish(
        &mut self,
        now: Millis,
        turn: Turn<'_>,
        arrivals: &[Arrival],
    ) -> Result<Vec<Displaced>, Fenced> {
        self.once(now, turn, |model| {
            model.do_establish(now, turn.incarnation, arrivals)
        })
    }

    fn do_establish(
        &mut self,
        now: Millis,
        incarnation: &str,
        arrivals: &[Arrival],
    ) -> Vec<Displaced> {
        let mut mine = Vec::new();
        for Arrival { who, socket } in arrivals {
            let user = self.users.get_mut(&who.user);
            let held = user.and_then(|user| user.sockets.get_mut(socket));
            let waits = |held: &&mut Held| {
                held.on_probation && *held.incarnation == *incarnation && held.kind == who.kind
            };
            let Some(held) = held.filter(waits) else {
                continue;
            };
            held.on_probation = false;
            let entry = held.entry.clone();
            let rivals = self.rivals(now, who, &entry);
            if let (Policy::Limit(_), Some(last)) = (entry.policy, rivals.last())
                && excess(&entry, &rivals) > 0
            {
                // Those that were said again meanwhile were there before.
                self.remove(now, who, socket);
                self.settle(now, who, 0);
                mine.push(Displaced {
                    socket: socket.clone(),
                    why: DisplacedBy::Limit,
                    device: last.entry.device.clone(),
                    node: node_of(&last.incarnation).into(),
                });
                continue;
            }
            for (held, why) in losers_to(&entry, &rivals) {
                self.replace(now, who, &held, why, &entry, incarnation, &mut mine);
            }
        }
        mine
    }

    fn believe(&mut self, now: Millis, who: &TypedUser) {
        let wall = self.wall(now);
        let user = self.users.entry(who.user.clone()).or_default();
        let state = user.states.entry(who.kind.clone()).or_default();
        if !state.online {
            state.online = true;
            state.rev = (state.rev + 1).max(wall);
        }
    }

    /// Nobody is told, but nodes that were told meanwhile that nobody is there know better.
    fn tell_that_there(&mut self, now: Millis, who: &TypedUser) {
        let user = self.users.get(&who.user);
        let state = user.and_then(|user| user.states.get(&who.kind));
        let rev = state.map_or(0, |state| state.rev);
        self.push_edge(Edge {
            who: who.clone(),
            online: true,
            rev,
            at: self.wall(now),
            rooms: Vec::new(),
            others: Some(Vec::new()),
        });
    }

    pub(crate) fn depart(
        &mut self,
        now: Millis,
        turn: Turn<'_>,
        departures: &[Departure],
    ) -> Result<Vec<bool>, Fenced> {
        self.once(now, turn, |model| model.do_depart(now, departures))
    }

    fn do_depart(&mut self, now: Millis, departures: &[Departure]) -> Vec<bool> {
        let mut linger = Vec::with_capacity(departures.len());
        for departure in departures {
            let Departure { who, socket, grace } = departure;
            let removed = self.remove(now, who, socket);
            if removed.is_none() {
                self.recount(who);
            } else if *grace > 0 {
                // For its other sockets, too, which may go sooner.
                self.postpone(who, now + grace);
            }
            linger.push(self.settle(now, who, *grace));
        }
        linger
    }

    pub(crate) fn restore(
        &mut self,
        now: Millis,
        turn: Turn<'_>,
        users: &[Restored],
    ) -> Result<Vec<Displaced>, Fenced> {
        self.once(now, turn, |model| {
            model.do_restore(now, turn.incarnation, users)
        })
    }

    fn do_restore(&mut self, now: Millis, incarnation: &str, users: &[Restored]) -> Vec<Displaced> {
        let incarnation: Arc<str> = incarnation.into();
        let process = process_of(&incarnation).to_owned();
        let mut lost = Vec::new();
        for Restored {
            who,
            believed,
            mended,
            entries,
        } in users
        {
            let user = self.users.get(&who.user);
            let is_unknown = !user.is_some_and(|user| user.states.contains_key(&who.kind));
            // When the hold is over, whoever was not said in it is offline for all others.
            let has_gone = is_unknown && entries.is_empty();
            let believed = *believed && (self.blind > now || has_gone);
            let believed = &(believed || (*mended && is_unknown));
            if *believed {
                self.believe(now, who);
                if *mended && is_unknown && self.hold <= now {
                    self.tell_that_there(now, who);
                }
            }
            for entry in entries {
                let told = self
                    .inboxes
                    .get(&*process)
                    .and_then(|inbox| inbox.get(&entry.socket));
                if let Some(displaced) = told {
                    lost.push(displaced.clone());
                    continue;
                }
                let user = self.users.get(&who.user);
                let held = user.and_then(|user| user.sockets.get(&entry.socket));
                let held = held.filter(|held| self.alive(now, &held.incarnation));
                let keeps = |held: &&Held| !held.on_probation || held.incarnation == incarnation;
                if let Some(on_probation) = held.filter(keeps).map(|held| held.on_probation) {
                    // It has kept its place, or its probation; only its incarnation or its
                    // rooms are new.
                    self.add(now, &incarnation, who, entry, (*believed, on_probation));
                    continue;
                }
                let mut mine = Vec::new();
                let stays = self.contend(now, &incarnation, who, entry, &mut mine);
                lost.append(&mut mine);
                if let Err(displaced) = stays {
                    lost.push(displaced);
                } else {
                    self.add(now, &incarnation, who, entry, (*believed, false));
                }
            }
            if *mended {
                self.recount(who);
            }
            self.settle(now, who, 0);
        }
        lost
    }

    /// Finds a place for a socket that lives already: the later one wins, as if all
    /// had come in the order in which they did.
    fn contend(
        &mut self,
        now: Millis,
        incarnation: &Arc<str>,
        who: &TypedUser,
        entry: &Entry,
        mine: &mut Vec<Displaced>,
    ) -> Result<(), Displaced> {
        let rivals = self.rivals(now, who, entry);
        let age = |entry: &Entry| (entry.since, entry.socket.clone());
        let lost = |why, by: &Held| Displaced {
            socket: entry.socket.clone(),
            why,
            device: by.entry.device.clone(),
            node: node_of(&by.incarnation).into(),
        };
        let same = |held: &Held| {
            entry.policy == Policy::Replace
                || (!entry.device.is_empty() && held.entry.device == entry.device)
        };
        if let Some(later) = rivals
            .iter()
            .find(|held| same(held) && age(&held.entry) > age(entry))
        {
            return Err(lost(DisplacedBy::Replaced, later));
        }
        let mut others: Vec<&Held> = rivals.iter().filter(|held| !same(held)).collect();
        let max = match entry.policy {
            Policy::Limit(max) | Policy::Evict(max) => max.max(1) as usize,
            _ => usize::MAX,
        };
        let mut out = Vec::new();
        while others.len() >= max {
            let index = match entry.policy {
                Policy::Evict(_) => 0,
                _ => others.len() - 1,
            };
            let rival = others[index];
            let rival_goes = match entry.policy {
                Policy::Evict(_) => age(&rival.entry) < age(entry),
                _ => age(&rival.entry) > age(entry),
            };
            if !rival_goes {
                return Err(lost(DisplacedBy::Limit, rival));
            }
            out.push(others.remove(index).clone());
        }
        for held in rivals.iter().filter(|held| same(held)) {
            self.replace(
                now,
                who,
                held,
                DisplacedBy::Replaced,
                entry,
                incarnation,
                mine,
            );
        }
        for held in &out {
            self.replace(now, who, held, DisplacedBy::Limit, entry, incarnation, mine);
        }
        Ok(())
    }

    pub(crate) fn retire(&mut self, incarnations: &[Arc<str>]) {
        for incarnation in incarnations {
            self.complete.remove(incarnation);
            if let Some(until) = self.nodes.get_mut(incarnation) {
                *until = 0;
            }
        }
        self.members += 1;
    }

    pub(crate) fn maintain(
        &mut self,
        now: Millis,
        run: u64,
        limit: u32,
        grace: Millis,
        ttl: Millis,
    ) -> Maintained {
        self.watch_run(now, run, ttl);
        let mut maintained = Maintained::default();
        if self.hold > now {
            maintained.next_due = Some(self.hold - now);
            return maintained;
        }
        self.blind = 0;
        let dead = self
            .nodes
            .iter()
            .filter(|(_, until)| **until < now)
            .min_by_key(|(name, until)| (**until, (*name).clone()))
            .map(|(name, _)| name.clone());
        if let Some(incarnation) = dead {
            let index = self.indexes.entry(incarnation.clone()).or_default();
            let batch: Vec<(Arc<str>, TypedUser)> = index
                .values()
                .flatten()
                .take(limit as usize)
                .map(|(socket, who)| (socket.clone(), who.clone()))
                .collect();
            for (socket, who) in &batch {
                self.remove(now, who, socket);
                if let Some(index) = self.indexes.get_mut(&incarnation)
                    && let Some(sockets) = index.get_mut(&who.bucket())
                {
                    sockets.remove(socket);
                }
                let user = self.users.get_mut(&who.user);
                if let Some(state) = user.and_then(|user| user.states.get_mut(&who.kind)) {
                    state.swept = true;
                }
                maintained.swept += 1;
            }
            // Once for all of a user that are gone with it.
            for (_, who) in &batch {
                self.settle(now, who, grace);
            }
            if maintained.swept < limit {
                self.indexes.remove(&incarnation);
                self.said.remove(&incarnation);
                self.nodes.remove(&incarnation);
                self.infos.remove(&incarnation);
                self.suspicions.remove(&incarnation);
                self.members += 1;
                let process = process_of(&incarnation);
                if self
                    .owners
                    .get(process)
                    .is_some_and(|owner| *owner == incarnation)
                {
                    self.owners.remove(process);
                    self.inboxes.remove(process);
                }
                maintained.ended.push(incarnation);
            }
        }
        for _ in 0..limit {
            let Some((at, who)) = self.due.first().cloned().filter(|(at, _)| *at <= now) else {
                break;
            };
            self.due.remove(&(at, who.clone()));
            self.dues.remove(&who);
            self.settle(now, &who, 0);
        }
        self.tell_moves(now);
        maintained.next_due = self.next_due(now);
        maintained
    }

    pub(crate) fn edges(&self, last: &str) -> Edges {
        let last: u64 = last.parse().unwrap_or(0);
        let new = self.edges.iter().rev().take_while(|(id, ..)| *id > last);
        let mut edges: Vec<_> = new
            .map(|(_, number, edge)| (*number, Some(edge.clone())))
            .collect();
        edges.reverse();
        Edges {
            last: (!edges.is_empty()).then(|| self.edge_id.to_string().into()),
            edges,
            devices: Vec::new(),
        }
    }

    pub(crate) fn look_up(
        &mut self,
        now: Millis,
        incarnation: &str,
        grace: Millis,
        users: &[UserName],
    ) -> Result<Vec<Known>, Fenced> {
        self.guard(now, incarnation)?;
        let mut all = Vec::with_capacity(users.len());
        for name in users {
            let known = self.known(now, grace, name);
            let is_told = known.announced.iter().any(|told| told.online);
            if let Some(user) = self.users.get_mut(name).filter(|_| is_told)
                && user.told_until < now + TOLD_AGAIN
            {
                user.told_until = now + TOLD_FOR;
            }
            let devices_from = is_told.then_some(self.devices.len() as u64);
            all.push(Known {
                devices_from,
                ..known
            });
        }
        Ok(all)
    }

    fn known(&self, now: Millis, grace: Millis, name: &UserName) -> Known {
        let Some(user) = self.users.get(name) else {
            return Known::default();
        };
        let held = user.sockets.values();
        let held = held.filter(|held| self.alive(now, &held.incarnation));
        let sockets: Vec<Seen> = held
            .map(|held| Seen {
                socket: held.entry.socket.clone(),
                process: process_of(&held.incarnation).into(),
                namespace: held.entry.namespace.clone(),
                device: held.entry.device.clone(),
                kind: held.kind.clone(),
            })
            .collect();
        // Announced, and to be looked at later; those of dead nodes count until they are swept.
        let lingers = user.states.iter().any(|(kind, state)| {
            let who = TypedUser {
                user: name.clone(),
                kind: kind.clone(),
            };
            let waits = |&at| at > now || self.hold > now;
            let is_unswept = state.count > 0 && grace > 0;
            state.online && (is_unswept || self.dues.get(&who).is_some_and(waits))
        });
        let announced = user.states.iter().map(|(kind, state)| Announced {
            kind: kind.clone(),
            online: state.online,
            rev: state.rev,
        });
        Known {
            online: !sockets.is_empty() || lingers,
            sockets,
            last_seen: user.states.values().filter_map(|state| state.seen).max(),
            announced: announced.collect(),
            devices_from: None,
        }
    }

    /// The sockets in an incarnation's index.
    fn sockets_of(&self, incarnation: &str) -> usize {
        let index = self.indexes.get(incarnation).into_iter().flatten();
        index.map(|(_, sockets)| sockets.len()).sum()
    }

    /// What there is in a bucket of an incarnation.
    fn bucket(&self, incarnation: &str, bucket: u8) -> Vec<Marked> {
        let index = self.indexes.get(incarnation);
        let sockets = index.and_then(|index| index.get(&bucket));
        let entries = sockets.into_iter().flatten();
        let entries = entries.filter_map(|(socket, who)| {
            let held = self.users.get(&who.user)?.sockets.get(socket)?;
            Some(Marked {
                socket: socket.clone(),
                who: who.clone(),
                number: held.entry.mark(who).number,
            })
        });
        entries.collect()
    }

    pub(crate) fn audit(&self, incarnation: &str, buckets: &[(u8, Sum)]) -> Audit {
        let mut audit = Audit::default();
        let (mut read, mut told) = (0, 0);
        for &(bucket, sum) in buckets {
            if audit.looked_at > 0 && (read >= MAX_COMPARED || told >= MAX_LISTED) {
                break;
            }
            audit.looked_at += 1;
            let there = self.bucket(incarnation, bucket);
            read += there.len();
            let add = |sum: Sum, marked: &Marked| {
                sum.with(Mark {
                    bucket,
                    number: marked.number,
                })
            };
            if there.iter().fold(Sum::default(), add) != sum {
                told += there.len();
                audit.differing.push((bucket, there));
            }
        }
        audit
    }

    pub(crate) fn nodes(&self, now: Millis) -> Vec<NodeState> {
        let mut nodes: Vec<NodeState> = self
            .nodes
            .iter()
            .map(|(incarnation, &until)| NodeState {
                incarnation: incarnation.clone(),
                lease: until as i64 - now as i64,
                info: self.infos[incarnation].clone(),
                sockets: self.sockets_of(incarnation) as u64,
            })
            .collect();
        nodes.sort_by_key(|node| (node.lease, node.incarnation.clone()));
        nodes
    }

    /// How many sockets there are.
    pub(crate) fn count(&self) -> usize {
        self.users.values().map(|user| user.sockets.len()).sum()
    }

    /// Loses a user's entries, and nothing else: what they are counted by is wrong then.
    pub(crate) fn lose(&mut self, who: &TypedUser) {
        if let Some(user) = self.users.get_mut(&who.user) {
            user.sockets.clear();
        }
    }

    /// An entry appears that nobody has said.
    pub(crate) fn haunt(&mut self, now: Millis, incarnation: &str, who: &TypedUser, socket: &str) {
        let entry = Entry {
            socket: socket.into(),
            namespace: "/".into(),
            device: "".into(),
            since: now,
            policy: Policy::Unlimited,
            rooms: Vec::new(),
        };
        self.add(now, &incarnation.into(), who, &entry, (false, false));
    }

    /// Counts a user's sockets.
    fn recount(&mut self, who: &TypedUser) {
        let Some(user) = self.users.get_mut(&who.user) else {
            return;
        };
        let sockets = user.sockets.values().filter(|held| held.kind == who.kind);
        let count = sockets.count() as u32;
        if let Some(state) = user.states.get_mut(&who.kind) {
            state.count = count;
        }
    }

    /// How many entries and verdicts `maintain` would work off.
    pub(crate) fn due_now(&self, now: Millis, limit: u32) -> u32 {
        if self.hold > now {
            return 0;
        }
        let dead = self.nodes.iter().filter(|(_, until)| **until < now);
        let swept: usize = dead.map(|(name, _)| self.sockets_of(name)).sum();
        let due = self.due.iter().take_while(|(at, _)| *at <= now);
        (swept.min(limit as usize) + due.take(limit as usize).count()) as u32
    }

    /// How many entries there are in buckets of an incarnation.
    pub(crate) fn entries_in(&self, incarnation: &str, buckets: &[(u8, Sum)]) -> usize {
        let index = self.indexes.get(incarnation);
        let all = buckets.iter().filter_map(|(bucket, _)| index?.get(bucket));
        all.map(BTreeMap::len).sum()
    }

    /// Whether not everybody has had the chance to say who is there.
    pub(crate) fn is_held(&self, now: Millis) -> bool {
        self.hold > now || self.blind > 0
    }

    /// Whether somebody is there who is not announced yet, or was swept and is in the
    /// grace.
    pub(crate) fn has_unsettled(&self) -> bool {
        let mut states = self.users.values().flat_map(|user| user.states.values());
        states.any(|state| match state.online {
            true => state.count == 0 && state.swept,
            false => state.count > 0,
        })
    }

    /// Whether nobody has joined since the memory was lost.
    pub(crate) fn is_blank(&self) -> bool {
        self.epoch.is_none()
    }

    /// Users that are announced as online.
    pub(crate) fn announced(&self) -> Vec<TypedUser> {
        let mut all = Vec::new();
        for (name, user) in &self.users {
            for (kind, state) in &user.states {
                if state.online {
                    all.push(TypedUser {
                        user: name.clone(),
                        kind: kind.clone(),
                    });
                }
            }
        }
        all
    }

    /// The rooms that a user is in, by its sockets.
    pub(crate) fn rooms_of(&self, who: &TypedUser) -> BTreeSet<RoomName> {
        let state = self.users.get(&who.user);
        let state = state.and_then(|user| user.states.get(&who.kind));
        let rooms = state.into_iter().flat_map(|state| &state.rooms);
        let taken = rooms.filter(|(_, sockets)| **sockets > 0);
        taken.map(|(room, _)| room.clone()).collect()
    }

    /// Sockets that are registered.
    pub(crate) fn sockets(&self) -> BTreeSet<Arc<str>> {
        let all = self.users.values().flat_map(|user| user.sockets.keys());
        all.cloned().collect()
    }

    /// Processes that have a lease or had one and were not swept yet.
    pub(crate) fn processes(&self) -> BTreeSet<Arc<str>> {
        let all = self.nodes.keys().map(|name| process_of(name).into());
        all.collect()
    }

    /// Edges after the one with this id.
    pub(crate) fn edges_from(&self, known: u64) -> Vec<Edge> {
        let new = self.edges(&known.to_string()).edges;
        new.into_iter().filter_map(|(_, edge)| edge).collect()
    }

    /// Goes on with the ids of edges from `known` on.
    pub(crate) fn renumber_edges(&mut self, known: u64) {
        self.edges.clear();
        self.edge_id = known;
    }
}

//! The registry as a structure in memory, with time as an argument: what the
//! scripts are held to, and what the simulation runs on.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::registry::{
    Admission, Announced, Arrival, Audit, Departure, Displaced, DisplacedBy, Edge, Edges, Entry,
    Fenced, Joined, Known, Maintained, Millis, Newcomer, NodeInfo, NodeState, Policy, Renewed,
    Restored, RoomName, Seen, TypedUser, UserName,
};

/// Edges that are kept for readers that fell behind.
pub(crate) const KEPT_EDGES: usize = 65_536;
/// Rooms of an online user, beyond which those that its ended sockets were in are not
/// told when it goes.
const KEPT_ROOMS: usize = 1000;

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
        for room in after.iter().filter(|room| !before.contains(room)) {
            let sockets = self.rooms.entry(room.clone()).or_insert_with(|| {
                new.push(room.clone());
                0
            });
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
}

/// The store's memory.
#[derive(Debug, Clone, Default)]
pub(crate) struct Model {
    epoch: Option<Arc<str>>,
    /// Which run of the store the registry has seen last.
    run: Option<u64>,
    /// Until when nobody is taken for gone.
    hold: Millis,
    /// Until when nobody is taken for new either; 0: that is over, and was noticed.
    blind: Millis,
    /// Somebody has said that this memory is not the one there was.
    is_successor: bool,
    /// Leases; 0: dead, whatever the hold.
    nodes: BTreeMap<Arc<str>, Millis>,
    infos: BTreeMap<Arc<str>, NodeInfo>,
    /// The incarnation that each process has now.
    owners: BTreeMap<Arc<str>, Arc<str>>,
    users: BTreeMap<UserName, User>,
    indexes: BTreeMap<Arc<str>, BTreeMap<Arc<str>, TypedUser>>,
    inboxes: BTreeMap<Arc<str>, BTreeMap<Arc<str>, Displaced>>,
    due: BTreeSet<(Millis, TypedUser)>,
    dues: BTreeMap<TypedUser, Millis>,
    edges: Vec<(u64, Edge)>,
    edge_number: u64,
}

/// The process that an incarnation is a life of.
pub(crate) fn process_of(incarnation: &str) -> &str {
    incarnation
        .rsplit_once('.')
        .map_or(incarnation, |(process, _)| process)
}

fn node_of(incarnation: &str) -> &str {
    process_of(process_of(incarnation))
}

impl Model {
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
        let (hold, blind) = (self.hold, self.blind);
        let due = self.dues.get(who).copied().unwrap_or(0);
        let Some(state) = self
            .users
            .get_mut(&who.user)
            .and_then(|user| user.states.get_mut(&who.kind))
        else {
            return false;
        };
        let online = state.count > 0;
        if online == state.online {
            return false;
        }
        if online && blind > now {
            self.schedule(who, blind);
            return false;
        }
        if !online && hold > now {
            self.postpone(who, hold.max(now + grace));
            return true;
        }
        if !online && (grace > 0 || due > now) {
            self.postpone(who, now + grace);
            return true;
        }
        state.online = online;
        state.rev = (state.rev + 1).max(now);
        let edge = Edge {
            who: who.clone(),
            online,
            rev: state.rev,
            at: now,
            rooms: state.rooms.keys().cloned().collect(),
            others: None,
        };
        if !online {
            state.rooms.clear();
        }
        self.push_edge(edge);
        false
    }

    fn push_edge(&mut self, edge: Edge) {
        self.edge_number += 1;
        self.edges.push((self.edge_number, edge));
        if self.edges.len() > KEPT_EDGES {
            self.edges.remove(0);
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
            at: now,
            rooms: new,
            others: Some(others),
        };
        let arrives = state.online && !told && !arrival.rooms.is_empty();
        match before {
            None => {
                state.count += 1;
                // Whoever was to come back has.
                if let Some(at) = self.dues.remove(who) {
                    self.due.remove(&(at, who.clone()));
                }
            }
            Some(before) if before.incarnation != *incarnation => {
                if let Some(index) = self.indexes.get_mut(&before.incarnation) {
                    index.remove(&entry.socket);
                }
            }
            Some(_) => {}
        }
        self.indexes
            .entry(incarnation.clone())
            .or_default()
            .insert(entry.socket.clone(), who.clone());
        if arrives {
            self.push_edge(arrival);
        }
        self.settle(now, who, 0);
    }

    /// Takes a socket out, without settling.
    fn remove(&mut self, now: Millis, who: &TypedUser, socket: &str) -> Option<Held> {
        let user = self.users.get_mut(&who.user)?;
        let held = user.sockets.remove(socket)?;
        let state = user.states.entry(held.kind.clone()).or_default();
        state.count = state.count.saturating_sub(1);
        state.seen = Some(now);
        for room in &held.entry.rooms {
            // Its members are told when the user goes, if they heard that it came.
            let keep = state.online && state.rooms.len() <= KEPT_ROOMS;
            state.drop_room(room, keep);
        }
        if let Some(index) = self.indexes.get_mut(&held.incarnation) {
            index.remove(socket);
        }
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
                edge_number: self.edge_number,
                ..Model::default()
            };
        }
    }

    fn watch_run(&mut self, now: Millis, run: u64, ttl: Millis) {
        if self.run.replace(run).is_some_and(|before| before != run) {
            self.blind = now + ttl;
            self.hold = now + ttl;
        }
        // Nobody could reach the store for so long that all leases are over.
        let live = |until: &Millis| *until >= now || (*until > 0 && self.hold > now);
        let expired = self.nodes.values().any(|&until| until > 0);
        if expired && !self.nodes.values().any(live) {
            self.hold = now + ttl;
            if self.blind > 0 {
                self.blind = now + ttl;
            }
        }
    }

    pub(crate) fn join(
        &mut self,
        now: Millis,
        run: u64,
        info: &NodeInfo,
        ttl: Millis,
        known: Option<&str>,
        fresh: &str,
    ) -> Joined {
        self.watch_run(now, run, ttl);
        let process = info.process();
        let epoch = self.epoch.get_or_insert_with(|| fresh.into()).clone();
        if known.is_some_and(|known| *known != *epoch) && !self.is_successor {
            self.is_successor = true;
            self.blind = now + ttl;
            self.hold = now + ttl;
        }
        let mut earlier = Vec::new();
        for (incarnation, until) in &mut self.nodes {
            if process_of(incarnation) == &*process {
                earlier.push(incarnation.clone());
            } else if known.is_none() && node_of(incarnation) == &*info.node_id {
                *until = 0;
            }
        }
        let incarnation: Arc<str> = format!("{process}.{fresh}").into();
        self.nodes.insert(incarnation.clone(), now + ttl);
        self.infos.insert(incarnation.clone(), info.clone());
        self.owners.insert(process, incarnation.clone());
        Joined {
            incarnation,
            epoch,
            secret: "".into(),
            last_edge: self.edge_number.to_string().into(),
            earlier,
        }
    }

    pub(crate) fn renew(
        &mut self,
        now: Millis,
        run: u64,
        incarnation: &str,
        ttl: Millis,
        done: &[Arc<str>],
    ) -> Result<Renewed, Fenced> {
        self.watch_run(now, run, ttl);
        self.guard(now, incarnation)?;
        self.nodes.insert(incarnation.into(), now + ttl);
        let process = process_of(incarnation);
        let mut displaced = Vec::new();
        if let Some(inbox) = self.inboxes.get_mut(process) {
            for socket in done {
                inbox.remove(socket);
            }
            displaced = inbox.values().cloned().collect();
        }
        let rank = self.rank(incarnation);
        Ok(Renewed {
            displaced,
            next_due: self.next_due(now),
            rank,
            hold: self.hold.saturating_sub(now),
        })
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
        incarnation: &str,
        newcomers: &[Newcomer],
    ) -> Result<Vec<Admission>, Fenced> {
        self.guard(now, incarnation)?;
        let incarnation: Arc<str> = incarnation.into();
        let mut answers = Vec::new();
        for Newcomer { who, entry } in newcomers {
            let all = self.all_rivals(now, who, entry);
            if matches!(entry.policy, Policy::Limit(_)) && excess(entry, &all) > 0 {
                answers.push(Admission::Refused);
                continue;
            }
            let waits = !losers_to(entry, &self.rivals(now, who, entry)).is_empty();
            self.add(now, &incarnation, who, entry, (false, waits));
            answers.push(match waits {
                true => Admission::Reserved,
                false => Admission::Admitted,
            });
        }
        Ok(answers)
    }

    pub(crate) fn establish(
        &mut self,
        now: Millis,
        incarnation: &str,
        arrivals: &[Arrival],
    ) -> Result<Vec<Displaced>, Fenced> {
        self.guard(now, incarnation)?;
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
        Ok(mine)
    }

    fn believe(&mut self, now: Millis, who: &TypedUser) {
        let user = self.users.entry(who.user.clone()).or_default();
        let state = user.states.entry(who.kind.clone()).or_default();
        if !state.online {
            state.online = true;
            state.rev = (state.rev + 1).max(now);
        }
    }

    pub(crate) fn depart(
        &mut self,
        now: Millis,
        incarnation: &str,
        departures: &[Departure],
    ) -> Result<Vec<bool>, Fenced> {
        self.guard(now, incarnation)?;
        let mut linger = Vec::with_capacity(departures.len());
        for departure in departures {
            let Departure { who, socket, grace } = departure;
            if self.remove(now, who, socket).is_some() && *grace > 0 {
                // For its other sockets, too, which may go sooner.
                self.postpone(who, now + grace);
            }
            linger.push(self.settle(now, who, *grace));
        }
        Ok(linger)
    }

    pub(crate) fn restore(
        &mut self,
        now: Millis,
        incarnation: &str,
        users: &[Restored],
    ) -> Result<Vec<Displaced>, Fenced> {
        self.guard(now, incarnation)?;
        let incarnation: Arc<str> = incarnation.into();
        let process = process_of(&incarnation).to_owned();
        let mut lost = Vec::new();
        for Restored {
            who,
            believed,
            entries,
        } in users
        {
            if *believed {
                self.believe(now, who);
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
            self.settle(now, who, 0);
        }
        Ok(lost)
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
            if let Some(until) = self.nodes.get_mut(incarnation) {
                *until = 0;
            }
        }
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
                .iter()
                .take(limit as usize)
                .map(|(socket, who)| (socket.clone(), who.clone()))
                .collect();
            for (socket, who) in &batch {
                self.remove(now, who, socket);
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
            if self
                .indexes
                .get(&incarnation)
                .is_none_or(BTreeMap::is_empty)
            {
                self.indexes.remove(&incarnation);
                self.nodes.remove(&incarnation);
                self.infos.remove(&incarnation);
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
        maintained.next_due = self.next_due(now);
        maintained
    }

    pub(crate) fn edges(&self, last: &str) -> Edges {
        let last: u64 = last.parse().unwrap_or(0);
        let new: Vec<&(u64, Edge)> = self
            .edges
            .iter()
            .filter(|(number, _)| *number > last)
            .collect();
        Edges {
            edges: new.iter().map(|(_, edge)| edge.clone()).collect(),
            last: new.last().map(|(number, _)| number.to_string().into()),
        }
    }

    pub(crate) fn look_up(&self, now: Millis, users: &[UserName]) -> Vec<Known> {
        users
            .iter()
            .map(|name| {
                let Some(user) = self.users.get(name) else {
                    return Known::default();
                };
                let sockets: Vec<Seen> = user
                    .sockets
                    .values()
                    .filter(|held| self.alive(now, &held.incarnation))
                    .map(|held| Seen {
                        socket: held.entry.socket.clone(),
                        process: process_of(&held.incarnation).into(),
                        namespace: held.entry.namespace.clone(),
                        device: held.entry.device.clone(),
                        kind: held.kind.clone(),
                    })
                    .collect();
                // Announced, and to be looked at later.
                let lingers = user.states.iter().any(|(kind, state)| {
                    let who = TypedUser {
                        user: name.clone(),
                        kind: kind.clone(),
                    };
                    state.online
                        && state.count == 0
                        && self.dues.get(&who).is_some_and(|&at| at > now)
                });
                Known {
                    online: !sockets.is_empty() || lingers,
                    sockets,
                    last_seen: user.states.values().filter_map(|state| state.seen).max(),
                    announced: user
                        .states
                        .iter()
                        .map(|(kind, state)| Announced {
                            kind: kind.clone(),
                            online: state.online,
                            rev: state.rev,
                        })
                        .collect(),
                }
            })
            .collect()
    }

    pub(crate) fn audit(&self, incarnation: &str, users: &[UserName], sample: u32) -> Audit {
        let asked = users
            .iter()
            .map(|name| {
                let sockets = self.users.get(name).into_iter().flat_map(|user| {
                    user.sockets
                        .iter()
                        .filter(|(_, held)| *held.incarnation == *incarnation)
                });
                let with_rooms = sockets.map(|(socket, held)| {
                    let rooms: BTreeSet<RoomName> = held.entry.rooms.iter().cloned().collect();
                    (socket.clone(), rooms.into_iter().collect())
                });
                with_rooms.collect()
            })
            .collect();
        let sample = self
            .indexes
            .get(incarnation)
            .into_iter()
            .flatten()
            .take(sample as usize)
            .map(|(socket, who)| (socket.clone(), who.clone()))
            .collect();
        Audit { asked, sample }
    }

    pub(crate) fn nodes(&self, now: Millis) -> Vec<NodeState> {
        let mut nodes: Vec<NodeState> = self
            .nodes
            .iter()
            .map(|(incarnation, &until)| NodeState {
                incarnation: incarnation.clone(),
                lease: until as i64 - now as i64,
                info: self.infos[incarnation].clone(),
                sockets: self.indexes.get(incarnation).map_or(0, BTreeMap::len) as u64,
            })
            .collect();
        nodes.sort_by_key(|node| (node.lease, node.incarnation.clone()));
        nodes
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

    /// Edges after the first `known`.
    pub(crate) fn edges_from(&self, known: u64) -> Vec<Edge> {
        let new = self.edges.iter().filter(|(number, _)| *number > known);
        new.map(|(_, edge)| edge.clone()).collect()
    }

    /// Goes on counting edges from `known` on.
    pub(crate) fn renumber_edges(&mut self, known: u64) {
        self.edges.clear();
        self.edge_number = known;
    }
}

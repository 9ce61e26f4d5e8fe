//! Which nodes live: incarnations, their leases, holds, suspicions, and what the dead leave behind.

use std::sync::Arc;

use super::{Clock, Model, node_of, process_of};
use crate::probes::neighbours;
use crate::registry::{
    Fenced, JURY, Joined, Maintained, Millis, NodeInfo, NodeState, Renewed, Stranger, Suspicion,
    TypedUser, Verdict, Versions,
};

/// Memories before this one that are known by their names.
const KEPT_NAMES: usize = 32;

/// Whether a suspicion was held to the end of the window, and still is.
fn is_firm(now: Millis, (first, last): (Millis, Millis), suspicion: Suspicion<'_>) -> bool {
    last >= first + suspicion.window && now <= last + suspicion.lasts()
}

impl Model {
    pub(super) fn begin_hold(&mut self, now: Millis, ttl: Millis, is_blind: bool) {
        // Those who were there before memory was lost are waited for in this one too.
        if self.hold <= now {
            self.expected = 0;
        }
        self.hold = now + ttl;
        if is_blind {
            self.blind = now + ttl;
        }
        self.complete.clear();
        self.agree_on_version(now);
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

    fn watch_run(&mut self, now: Millis, run: u64, ttl: Millis) {
        if self.run.replace(run).is_some_and(|before| before != run) {
            self.begin_anew(now);
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
        (known, living, rev): (Option<&str>, u32, u64),
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
        self.stay_above(now, rev);
        if let Some(known) = known.filter(|known| **known != *epoch) {
            // This may be an old memory that has come back.
            if !self.successor_of.iter().any(|before| **before == *known) {
                self.begin_hold(now, ttl, true);
                self.begin_life(now, known, fresh);
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
        let epoch = self.epoch.clone().unwrap_or(epoch);
        let incarnation: Arc<str> = format!("{process}.{fresh}").into();
        self.nodes.insert(incarnation.clone(), now + ttl);
        self.infos.insert(incarnation.clone(), info.clone());
        self.owners.insert(process, incarnation.clone());
        self.members_changed(now);
        self.nudge_neighbours(now, &incarnation);
        Ok(Joined {
            incarnation,
            epoch,
            secret: "".into(),
            last_edge: self.last_edge().to_string().into(),
            edge_number: self.edge_number,
            begun_after: (self.from.0.to_string().into(), self.from.1),
            version: self.version,
        })
    }

    /// Nothing of the stream is news that was written before now. A life has a name of its own: so it
    /// is known from one before when this memory comes back once more.
    fn begin_life(&mut self, now: Millis, known: &str, fresh: &str) {
        self.from = (self.last_edge(), self.edge_number);
        self.begin_anew(now);
        let before = self.epoch.replace(fresh.into());
        let before = before.filter(|before| **before != *fresh);
        for name in [Some(known.into()), before].into_iter().flatten() {
            self.successor_of.insert(0, name);
        }
        self.successor_of.truncate(KEPT_NAMES);
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

    /// The incarnations are others, and perhaps the version.
    fn members_changed(&mut self, now: Millis) {
        self.members += 1;
        self.agree_on_version(now);
    }

    /// The newest version that all can read who live: in a hold also those whose leases are over,
    /// as they may go on.
    fn agree_on_version(&mut self, now: Millis) {
        let living = self.nodes.keys().filter(|name| self.alive(now, name));
        let newest = living.map(|name| self.infos[name].proto.max);
        self.version = newest.min().unwrap_or(0);
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
        (complete, rev): (Option<Millis>, u64),
    ) -> Result<Renewed, Fenced> {
        self.watch_run(now, run, ttl);
        self.guard(now, incarnation)?;
        self.stay_above(now, rev);
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
            version: self.version,
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
        self.members_changed(now);
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

    pub(crate) fn retire(&mut self, now: Millis, incarnations: &[Arc<str>]) {
        for incarnation in incarnations {
            self.complete.remove(incarnation);
            if let Some(until) = self.nodes.get_mut(incarnation) {
                *until = 0;
            }
        }
        self.members_changed(now);
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
                self.members_changed(now);
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
}

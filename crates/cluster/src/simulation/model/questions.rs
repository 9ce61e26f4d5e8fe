//! What can be asked of the memory: by nodes, and by tests.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::{Model, process_of};
use crate::registry::{
    Announced, Audit, Entry, Fenced, Known, Mark, Marked, Millis, Policy, RoomName, Seen, Sum,
    TypedUser, UserName,
};

/// Entries that one comparison reads, beyond those of one bucket: some milliseconds.
const MAX_COMPARED: usize = 2_000;
/// Entries that it answers, beyond those of one bucket.
const MAX_LISTED: usize = 1_000;
/// For how many milliseconds after a question changes of devices are told, and when that is said
/// anew.
const TOLD_FOR: Millis = 900_000;
const TOLD_AGAIN: Millis = 600_000;

impl Model {
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
        let lingers = |kind: &Arc<str>| {
            let (user, kind) = (name.clone(), kind.clone());
            let waits = |&at| at > now || self.hold > now;
            let at = self.dues.get(&TypedUser { user, kind });
            at.is_some_and(waits)
        };
        let is_asked = sockets.is_empty() || user.states.len() > 1;
        let announced = user.states.iter().map(|(kind, state)| Announced {
            kind: kind.clone(),
            online: state.online,
            rev: state.rev,
            last_seen: state.seen,
            lingers: is_asked && state.online && ((state.count > 0 && grace > 0) || lingers(kind)),
        });
        let announced: Vec<Announced> = announced.collect();
        Known {
            online: !sockets.is_empty() || announced.iter().any(|told| told.lingers),
            sockets,
            last_seen: user.states.values().filter_map(|state| state.seen).max(),
            announced,
            devices_from: None,
        }
    }

    /// The sockets in an incarnation's index.
    pub(super) fn sockets_of(&self, incarnation: &str) -> usize {
        let index = self.indexes.get(incarnation).into_iter().flatten();
        index.map(|(_, sockets)| sockets.len()).sum()
    }

    /// What there is in a bucket of an incarnation.
    pub(super) fn bucket(&self, incarnation: &str, bucket: u8) -> Vec<Marked> {
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

    /// Loses all that is known of a user.
    pub(crate) fn evict(&mut self, who: &TypedUser) {
        self.users.remove(&who.user);
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
}

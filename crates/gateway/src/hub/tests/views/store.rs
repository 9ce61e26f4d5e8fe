//! What is so: who is online anywhere and who is in which room, and since when.

use std::collections::{BTreeMap, BTreeSet};

use heartline_core::entries::{TypePresence, UserPresence};
use heartline_core::presence::Edge;

use super::super::*;

/// A user of a tenant, of whichever type.
pub(super) type Name = (Option<Arc<str>>, Arc<str>);

/// A room of a tenant.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    pub(super) tenant: Option<Arc<str>>,
    pub(super) namespace: &'static str,
    pub(super) room: &'static str,
}

/// The number of this node among those that have members of rooms.
pub(super) const HERE: u32 = 1;

#[derive(Debug, Default)]
struct Kind {
    sockets: BTreeSet<String>,
    online: bool,
    rev: u64,
}

/// A user.
#[derive(Debug, Default)]
struct Truth {
    kinds: BTreeMap<Option<Arc<str>>, Kind>,
    /// When the user was online from, or offline, Unix milliseconds; offline before the first.
    history: Vec<(u64, bool)>,
    /// The number of each change, and what the user was after it.
    revs: BTreeMap<u64, bool>,
    last_seen: Option<u64>,
}

impl Truth {
    fn online(&self) -> bool {
        self.kinds.values().any(|kind| !kind.sockets.is_empty())
    }

    fn rev(&self) -> u64 {
        self.kinds.values().map(|kind| kind.rev).max().unwrap_or(0)
    }
}

/// A user in a room.
#[derive(Debug, Default)]
struct Membership {
    /// Sockets there, by node.
    sockets: BTreeMap<u32, usize>,
    /// From when on everybody has to know, Unix milliseconds.
    known_by: u64,
}

/// All there is.
#[derive(Debug, Default)]
pub(super) struct Store {
    users: BTreeMap<Name, Truth>,
    rooms: BTreeMap<Place, BTreeMap<Arc<str>, Membership>>,
    last_rev: u64,
}

impl Store {
    /// A user's socket has come, or has gone: what there is to announce.
    pub(super) fn change(
        &mut self,
        user: &Arc<UserKey>,
        socket: String,
        comes: bool,
        at: u64,
    ) -> Option<Edge> {
        let name = (user.tenant_id.clone(), user.user_id.clone());
        let truth = self.users.entry(name).or_default();
        let was_online = truth.online();
        let kind = truth.kinds.entry(user.user_type.clone()).or_default();
        match comes {
            true => kind.sockets.insert(socket),
            false => kind.sockets.remove(&socket),
        };
        if kind.online != kind.sockets.is_empty() {
            return None;
        }
        self.last_rev += 1;
        (kind.online, kind.rev) = (comes, self.last_rev);
        let online = truth.online();
        if online != was_online {
            truth.history.push((at, online));
        }
        truth.revs.insert(self.last_rev, online);
        if !comes {
            truth.last_seen = Some(at);
        }
        Some(Edge {
            user: user.clone(),
            online: comes,
            rev: self.last_rev,
            at,
            number: self.last_rev,
            rooms: Vec::new(),
            others: None,
        })
    }

    /// A socket of a user at a node has come into a room, or has left it; by when everybody has to
    /// know.
    pub(super) fn moves(
        &mut self,
        place: &Place,
        user: &Arc<str>,
        (node, enters): (u32, bool),
        known_by: u64,
    ) {
        let room = self.rooms.entry(place.clone()).or_default();
        let membership = room.entry(user.clone()).or_default();
        membership.known_by = membership.known_by.max(known_by);
        let sockets = membership.sockets.entry(node).or_default();
        match enters {
            true => *sockets += 1,
            false => *sockets -= 1,
        }
        if *sockets == 0 {
            membership.sockets.remove(&node);
        }
    }

    /// What is said of a user now.
    pub(super) fn presence(&self, name: &Name, now: u64) -> UserPresence {
        let none = Truth::default();
        let truth = self.users.get(name).unwrap_or(&none);
        let online = truth.online();
        let types = truth.kinds.iter().map(|(user_type, kind)| TypePresence {
            user_type: user_type.clone(),
            online: kind.online,
            rev: kind.rev,
            is_there: kind.online,
            devices: usize::from(kind.online),
            last_seen_at: if kind.online {
                Some(now)
            } else {
                truth.last_seen
            },
        });
        UserPresence {
            user_id: name.1.to_string(),
            online,
            devices: usize::from(online),
            last_seen_at: if online { Some(now) } else { truth.last_seen },
            rev: truth.rev(),
            stale: false,
            types: types.collect(),
        }
    }

    pub(super) fn is_online(&self, name: &Name) -> bool {
        self.users.get(name).is_some_and(Truth::online)
    }

    pub(super) fn rev(&self, name: &Name) -> u64 {
        self.users.get(name).map_or(0, Truth::rev)
    }

    pub(super) fn last_seen(&self, name: &Name) -> Option<u64> {
        self.users.get(name).and_then(|truth| truth.last_seen)
    }

    /// Whether the user was online, or offline, at some time from this one on.
    pub(super) fn was(&self, name: &Name, online: bool, from: u64) -> bool {
        let Some(truth) = self.users.get(name) else {
            return !online;
        };
        // What ended at this moment was so at it.
        let ended = truth.history.iter().rev();
        let mut ended = ended.take_while(|(at, _)| *at >= from);
        truth.online() == online || ended.any(|(_, state)| *state != online)
    }

    /// What the user was after the change of this number; `None`: it was no change of the user.
    /// It is what a picture says as well, where all sockets are of one type.
    pub(super) fn after(&self, name: &Name, rev: u64) -> Option<bool> {
        self.users.get(name)?.revs.get(&rev).copied()
    }

    /// Whether the user has sockets of one type alone.
    pub(super) fn is_of_one_type(&self, name: &Name) -> bool {
        self.users
            .get(name)
            .is_none_or(|truth| truth.kinds.len() <= 1)
    }

    /// Whether a user is in a room, and from when on everybody has to know.
    pub(super) fn is_in(&self, place: &Place, user: &str) -> (bool, u64) {
        let membership = self.rooms.get(place).and_then(|room| room.get(user));
        membership.map_or((false, 0), |membership| {
            (!membership.sockets.is_empty(), membership.known_by)
        })
    }
}

//! Who is announced as online, and who is to be told of that.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::{Held, Index, Model, State};
use crate::registry::{
    Departure, DevicesChange, Edge, Edges, Entry, Millis, RoomName, Stream, TypedUser,
};

/// Edges that are kept for readers that fell behind.
const KEPT_EDGES: usize = 65_536;
/// Rooms of an online user, beyond which those that its ended sockets were in are not
/// told when it goes.
const KEPT_ROOMS: usize = 1000;

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

/// Takes a socket out of the index that it was in.
fn unlist(indexes: &mut BTreeMap<Arc<str>, Index>, held: &Held, bucket: u8) {
    let index = indexes.get_mut(&held.incarnation);
    if let Some(sockets) = index.and_then(|index| index.get_mut(&bucket)) {
        sockets.remove(&held.entry.socket);
    }
}

impl Model {
    fn schedule(&mut self, who: &TypedUser, at: Millis) {
        if let Some(before) = self.dues.insert(who.clone(), at) {
            self.due.remove(&(before, who.clone()));
        }
        self.due.insert((at, who.clone()));
    }

    /// At `at`, or when it was due before, whichever is later.
    pub(super) fn postpone(&mut self, who: &TypedUser, at: Millis) {
        let before = self.dues.get(who).copied().unwrap_or(0);
        self.schedule(who, at.max(before));
    }

    /// Compares what was announced with who is there. True: a user who is gone is to
    /// be announced later.
    pub(super) fn settle(&mut self, now: Millis, who: &TypedUser, grace: Millis) -> bool {
        let (hold, blind, wall) = (self.hold, self.blind, self.wall(now));
        let least = self.least_rev(now);
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
        state.rev = (state.rev + 1).max(least);
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
    pub(super) fn tell_moves(&mut self, now: Millis) {
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
    pub(super) fn add(
        &mut self,
        now: Millis,
        incarnation: &Arc<str>,
        who: &TypedUser,
        entry: &Entry,
        (told, on_probation): (bool, bool),
    ) {
        let (wall, began, least) = (self.wall(now), self.began, self.least_rev(now));
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
        let arrives = state.online && !told && !new.is_empty();
        if arrives && state.rev <= began {
            // Nobody would believe what is older than what they were told.
            state.rev = (state.rev + 1).max(least);
        }
        let arrival = Edge {
            who: who.clone(),
            online: true,
            rev: state.rev,
            at: wall,
            rooms: new,
            others: Some(others),
        };
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
    pub(super) fn remove(&mut self, now: Millis, who: &TypedUser, socket: &str) -> Option<Held> {
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

    pub(super) fn believe(&mut self, now: Millis, who: &TypedUser) {
        let least = self.least_rev(now);
        let user = self.users.entry(who.user.clone()).or_default();
        let state = user.states.entry(who.kind.clone()).or_default();
        if !state.online {
            state.online = true;
            state.rev = (state.rev + 1).max(least);
        }
    }

    /// Nobody is told, but nodes that were told meanwhile that nobody is there know better.
    pub(super) fn tell_that_there(&mut self, now: Millis, who: &TypedUser) {
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

    /// All nodes are told what a user is, once that is settled: some may have read what is not so
    /// any more, before memory was lost.
    pub(super) fn tell_again(&mut self, now: Millis, who: &TypedUser) {
        let (wall, began, least) = (self.wall(now), self.began, self.least_rev(now));
        let user = self.users.entry(who.user.clone()).or_default();
        let state = user.states.entry(who.kind.clone()).or_default();
        if state.online != (state.count > 0) {
            return;
        }
        // What was said of who is gone in an earlier life of the registry is older, and what was
        // said of anybody just before this run.
        if state.rev <= began {
            state.rev = (state.rev + 1).max(least);
        }
        let edge = Edge {
            who: who.clone(),
            online: state.online,
            rev: state.rev,
            at: wall,
            rooms: Vec::new(),
            others: Some(state.rooms.keys().cloned().collect()),
        };
        self.push_edge(edge);
    }

    pub(crate) fn edges(&self, last: &str, most: usize) -> Edges {
        let last: u64 = last.parse().unwrap_or(0);
        let new = self.edges.iter().rev().take_while(|(id, ..)| *id > last);
        let mut new: Vec<_> = new.collect();
        new.reverse();
        let is_cut = new.len() > most;
        new.truncate(most);
        let edges = new.iter();
        Edges {
            last: new.last().map(|(id, ..)| id.to_string().into()),
            edges: edges
                .map(|(_, number, edge)| (*number, Some(edge.clone())))
                .collect(),
            is_cut,
            ..Edges::default()
        }
    }

    /// What the stream has at a place.
    pub(crate) fn stream(&self, place: &str) -> Stream {
        let is_there = |(id, ..): &&(u64, u64, Edge)| id.to_string() == place;
        Stream {
            last: self.edge_id.to_string().into(),
            number: self.edge_number,
            at: (self.edges.iter().find(is_there)).map(|(_, number, _)| *number),
        }
    }

    /// Counts a user's sockets.
    pub(super) fn recount(&mut self, who: &TypedUser) {
        let Some(user) = self.users.get_mut(&who.user) else {
            return;
        };
        let sockets = user.sockets.values().filter(|held| held.kind == who.kind);
        let count = sockets.count() as u32;
        if let Some(state) = user.states.get_mut(&who.kind) {
            state.count = count;
        }
    }

    /// Edges after the one with this id.
    pub(crate) fn edges_from(&self, known: u64) -> Vec<Edge> {
        let new = self.edges(&known.to_string(), usize::MAX).edges;
        new.into_iter().filter_map(|(_, edge)| edge).collect()
    }

    /// The last edge there is; 0: there is none.
    pub(super) fn last_edge(&self) -> u64 {
        self.edges.back().map_or(0, |(id, ..)| *id)
    }

    /// This memory is one of before: it goes on with ids of edges from `known` on, as ids are times,
    /// and has those that it had.
    pub(crate) fn go_on_from(&mut self, known: u64) {
        self.edge_id = known;
    }

    /// Whether somebody goes who was announced as online, and of whom that is lost: nothing is known
    /// of the user, or only what was so before.
    pub(super) fn is_lost(&self, departure: &Departure) -> bool {
        let user = self.users.get(&departure.who.user);
        let state = user.and_then(|user| user.states.get(&departure.who.kind));
        let is_older = |state: &State| !state.online && state.count == 0 && state.rev <= self.began;
        departure.announced && state.is_none_or(is_older)
    }
}

//! Who is in a room that is watched, on this node and on others.
//!
//! A node knows its own members of a room. For one that somebody watches, it asks the others to
//! say theirs: once all of them, then who came in and who left, with consecutive numbers. It
//! asks again every so often, by which they know that it still wants to hear; who sees a hole
//! asks for all.

use std::sync::Arc;
use std::time::Duration;

use hashbrown::{HashMap, HashSet};
use heartline_wire::time::Micros;
use serde::{Deserialize, Serialize};

use super::{Board, EXPIRES, MAX_FOLLOWED, MAX_IN_ROOM, Scope, What};

/// How often other nodes are told that a room is still watched: of three words two may be lost.
const ASKS: Duration = Duration::from_secs(20);
/// How long a node says who is in a room after it was asked; and how long one is believed to
/// have members which says nothing.
const WANTED: Duration = Duration::from_secs(65);
/// The same while a node owes an answer: as long as one takes that is on its way.
const ASKS_IN_DOUBT: Duration = Duration::from_secs(2);
/// How often it is asked which other nodes there are, while a room is watched; while any owes an
/// answer; and while that is not known.
const NODES: Duration = Duration::from_secs(5);
const NODES_IN_DOUBT: Duration = Duration::from_secs(1);
const NODES_UNKNOWN: Duration = Duration::from_millis(250);

/// What nodes tell each other of rooms that are watched.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Note {
    /// Somebody watches a room: who is in it there?
    Wanted {
        /// The room.
        room: PlaceOf,
        /// All are to be said, whatever was said before.
        all: bool,
    },
    /// Who is in a room.
    Roster(Roster),
    /// A node has begun: what is wanted of it?
    Begun,
}

/// A room in a note.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlaceOf {
    tenant: Option<String>,
    namespace: String,
    room: String,
}

/// Users of one node in a room.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Roster {
    room: PlaceOf,
    /// The number of what a node says of a room: one more than the last, or the same, if nothing
    /// has changed. The first is the time, microseconds since the process began: later than any
    /// that was said before the room was forgotten.
    number: u64,
    /// `entered` are all there are.
    is_all: bool,
    entered: Vec<Arc<str>>,
    left: Vec<Arc<str>>,
}

impl PlaceOf {
    fn new(scope: &Scope) -> Option<PlaceOf> {
        let What::Room(place) = &scope.what else {
            return None;
        };
        Some(PlaceOf {
            tenant: scope.tenant.as_deref().map(ToOwned::to_owned),
            namespace: place.namespace.to_string(),
            room: place.room.to_string(),
        })
    }

    fn scope(&self) -> Arc<Scope> {
        let tenant = self.tenant.as_deref().map(Into::into);
        let (namespace, room) = (&*self.namespace, &*self.room);
        Arc::new(Scope::room(tenant, namespace.into(), room.into()))
    }
}

/// The members of a room on another node.
#[derive(Debug)]
struct Elsewhere {
    number: u64,
    users: HashSet<Arc<str>>,
    heard: Micros,
    /// It has not said all of them yet, or something of that was missed.
    is_in_doubt: bool,
}

/// A room that is watched here or elsewhere.
#[derive(Debug, Default)]
pub(super) struct Follow {
    /// Sockets of each user, by shard; a shard is missing until it has said who is there.
    here: HashMap<u16, HashMap<Arc<str>, u32>>,
    elsewhere: HashMap<u32, Elsewhere>,
    /// It is known which other nodes there are.
    knows_nodes: bool,
    /// Until when other nodes want to hear of it.
    wanted_until: Micros,
    /// When other nodes are asked again.
    asks_at: Micros,
    /// What they were told, and its number; 0: nothing.
    told: HashSet<Arc<str>>,
    number: u64,
    /// Of whom they may have to be told.
    changed: HashSet<Arc<str>>,
    /// They are to be told all, or that nothing has changed.
    owes_all: bool,
    owes_word: bool,
}

impl Follow {
    fn is_here(&self, user: &Arc<str>) -> bool {
        self.here.values().any(|users| users.contains_key(user))
    }

    pub(super) fn is_in(&self, user: &Arc<str>) -> bool {
        self.is_here(user) || self.elsewhere.values().any(|all| all.users.contains(user))
    }

    /// Whether more users than can be watched are in the room, as far as is known.
    fn is_too_large(&self) -> bool {
        let elsewhere = self.elsewhere.values().flat_map(|all| &all.users);
        let here = self.here.values().flat_map(HashMap::keys);
        let mut users: HashSet<&Arc<str>> = HashSet::new();
        here.chain(elsewhere).any(|user| {
            users.insert(user);
            users.len() > MAX_IN_ROOM
        })
    }

    /// Whether somebody may be in the room of whom nothing is known here.
    pub(super) fn is_in_doubt(&self, shards: u16) -> bool {
        !self.knows_here(shards)
            || !self.knows_nodes
            || self.elsewhere.values().any(|all| all.is_in_doubt)
    }

    /// Whether all shards have said who is there.
    fn knows_here(&self, shards: u16) -> bool {
        self.here.len() >= usize::from(shards)
    }

    /// A node is to say who is in the room there, if it has not.
    fn expect(&mut self, node: u32, now: Micros) {
        if !self.elsewhere.contains_key(&node) {
            self.asks_at = Micros::ZERO;
            let unheard = Elsewhere {
                number: 0,
                users: HashSet::new(),
                heard: now,
                is_in_doubt: true,
            };
            self.elsewhere.insert(node, unheard);
        }
    }

    /// Nobody watches it here any more: what others say is not listened to.
    pub(super) fn let_be(&mut self) {
        self.elsewhere.clear();
        self.knows_nodes = false;
        self.asks_at = Micros::ZERO;
    }

    /// What other nodes are to be told: nothing before it is all.
    fn word(&mut self, scope: &Scope, shards: u16, now: Micros) -> Option<Note> {
        if !self.knows_here(shards) {
            return None;
        }
        let changed = std::mem::take(&mut self.changed);
        let is_all = std::mem::take(&mut self.owes_all);
        let owes_word = std::mem::take(&mut self.owes_word);
        if now >= self.wanted_until {
            self.told.clear();
            self.number = 0;
            return None;
        }
        let (mut entered, mut left) = (Vec::new(), Vec::new());
        for user in changed {
            match (self.is_here(&user), self.told.contains(&user)) {
                (true, false) => entered.push(user),
                (false, true) => left.push(user),
                _ => {}
            }
        }
        let is_change = !(entered.is_empty() && left.is_empty());
        for user in &left {
            self.told.remove(user);
        }
        self.told.extend(entered.iter().cloned());
        // Who has never said anything has nothing to confirm.
        let is_all = is_all || (is_change && self.number == 0);
        if !(is_change || is_all || (owes_word && self.number > 0)) {
            return None;
        }
        // Whoever has heard of it before it was forgotten sees a hole where the first word is lost.
        self.number = match self.number {
            0 => now.0.max(1),
            number => number + u64::from(is_change),
        };
        if is_all {
            left.clear();
            // One more than can be watched says that these are too many.
            entered = self.told.iter().take(MAX_IN_ROOM + 1).cloned().collect();
        }
        Some(Note::Roster(Roster {
            room: PlaceOf::new(scope)?,
            number: self.number,
            is_all,
            entered,
            left,
        }))
    }
}

impl Board {
    /// A room is to be followed. True: each shard has to [say](Self::seed_here) who is there.
    pub fn follow(&mut self, scope: &Arc<Scope>) -> bool {
        let is_new = !self.follows.contains_key(scope);
        let follow = self.follows.entry(scope.clone()).or_default();
        self.asks_at = Micros::ZERO;
        if !follow.knows_nodes && self.logs.contains_key(scope) {
            self.nodes_at = Micros::ZERO;
        }
        is_new
    }

    /// The users in a room whose sockets a shard holds, each as often as it has sockets there.
    pub fn seed_here(&mut self, scope: &Arc<Scope>, shard: u16, users: Vec<Arc<str>>) {
        let Some(follow) = self.follows.get_mut(scope) else {
            return;
        };
        let mut counts: HashMap<Arc<str>, u32> = HashMap::new();
        for user in users {
            *counts.entry(user).or_default() += 1;
        }
        let there: Vec<Arc<str>> = counts.keys().cloned().collect();
        follow.changed.extend(there.iter().cloned());
        follow.here.insert(shard, counts);
        self.speaking.insert(scope.clone());
        self.logs.soil(scope);
        self.touch_all(scope, there);
    }

    /// Users have come into a room or left it. Of a room of too many, whose picture nobody has
    /// had, nobody needs to be asked about.
    fn touch_all(&mut self, scope: &Arc<Scope>, users: impl IntoIterator<Item = Arc<str>>) {
        let follow = self.follows.get(scope);
        if let Some(log) = self.logs.get_mut(scope).filter(|log| !log.is_full) {
            log.is_too_large |= follow.is_some_and(Follow::is_too_large);
            if log.is_too_large {
                return;
            }
        }
        for user in users {
            self.touch(scope, &user);
        }
    }

    /// A socket of a user has come into a room or left it. Whether the room is followed.
    pub fn note(&mut self, scope: &Arc<Scope>, shard: u16, user: &Arc<str>, enters: bool) -> bool {
        let Some(follow) = self.follows.get_mut(scope) else {
            return false;
        };
        let Some(counts) = follow.here.get_mut(&shard) else {
            // It will be among those who are there when the shard says so.
            return false;
        };
        if enters {
            *counts.entry(user.clone()).or_default() += 1;
        } else if let Some(count) = counts.get_mut(user) {
            *count -= 1;
            if *count == 0 {
                counts.remove(user);
            }
        }
        follow.changed.insert(user.clone());
        if !self.speaking.contains(scope) {
            self.speaking.insert(scope.clone());
        }
        self.touch(scope, user);
        true
    }

    /// Whether other nodes owe an answer about a room that is watched.
    pub fn is_in_doubt(&self, scope: &Arc<Scope>) -> bool {
        let follow = self.follows.get(scope);
        follow.is_none_or(|follow| follow.is_in_doubt(self.shards))
    }

    /// Whether it is to be asked now which other nodes there are.
    pub fn wants_nodes(&mut self, now: Micros) -> bool {
        if now < self.nodes_at {
            return false;
        }
        let (logs, shards) = (&self.logs, self.shards);
        let all = self.follows.iter();
        let watched = all.filter(|(scope, _)| logs.contains_key(scope));
        let pauses = watched.map(|(_, follow)| match follow.is_in_doubt(shards) {
            true if !follow.knows_nodes => NODES_UNKNOWN,
            true => NODES_IN_DOUBT,
            false => NODES,
        });
        let pause = pauses.min();
        self.nodes_at = now + pause.unwrap_or(NODES);
        pause.is_some()
    }

    /// The other nodes that there were when somebody `asked`. Those that are no more have nobody
    /// in any room, and owe no answer; those that are new do. A list that is older than what made
    /// it necessary says nothing.
    pub fn know_nodes(&mut self, nodes: &[u32], asked: Micros) {
        if asked < self.nodes_lost {
            return;
        }
        let (mut changed, mut scopes) = (Vec::new(), Vec::new());
        let shards = self.shards;
        for (scope, follow) in &mut self.follows {
            if !self.logs.contains_key(scope) {
                continue;
            }
            let was_in_doubt = follow.is_in_doubt(shards);
            for node in nodes {
                follow.expect(*node, asked);
            }
            follow.elsewhere.retain(|node, all| {
                // Who has spoken since may have come since.
                let stays = nodes.contains(node) || all.heard > asked;
                if !stays {
                    changed.extend(all.users.drain().map(|user| (scope.clone(), user)));
                }
                stays
            });
            follow.knows_nodes = true;
            if follow.asks_at == Micros::ZERO {
                self.asks_at = Micros::ZERO;
            }
            if was_in_doubt != follow.is_in_doubt(shards) {
                scopes.push(scope.clone());
            }
        }
        for (scope, user) in changed {
            self.touch(&scope, &user);
        }
        for scope in scopes {
            self.logs.soil(&scope);
        }
    }

    /// What other nodes said may be lost, also that there are more of them: they are to say again
    /// who is in the rooms that are watched here.
    pub fn ask_again(&mut self, now: Micros) {
        (self.nodes_lost, self.nodes_at) = (now, Micros::ZERO);
        for (scope, follow) in &mut self.follows {
            follow.knows_nodes = false;
            if self.logs.contains_key(scope) {
                follow.asks_at = Micros::ZERO;
                for all in follow.elsewhere.values_mut() {
                    all.is_in_doubt = true;
                }
            }
        }
        self.asks_at = Micros::ZERO;
        self.logs.soil_all();
    }

    /// What other nodes are to be told now.
    pub fn notes(&mut self, now: Micros) -> Vec<Note> {
        let (mut notes, shards) = (Vec::new(), self.shards);
        for scope in self.speaking.drain() {
            let follow = self.follows.get_mut(&scope);
            notes.extend(follow.and_then(|follow| follow.word(&scope, shards, now)));
        }
        if now < self.asks_at {
            return notes;
        }
        self.asks_at = now + EXPIRES;
        for (scope, follow) in &mut self.follows {
            if self.logs.contains_key(scope) && now >= follow.asks_at {
                let is_in_doubt = follow.is_in_doubt(shards);
                let all = follow.asks_at == Micros::ZERO || is_in_doubt;
                follow.asks_at = now + if is_in_doubt { ASKS_IN_DOUBT } else { ASKS };
                notes.extend(PlaceOf::new(scope).map(|room| Note::Wanted { room, all }));
            }
        }
        notes
    }

    /// Another node has said something. The room that is to be followed from now on, if any:
    /// each shard has to say who is there.
    pub fn noted(&mut self, from: u32, note: Note, now: Micros) -> Option<Arc<Scope>> {
        match note {
            Note::Wanted { room, all } => {
                let scope = room.scope();
                if !self.follows.contains_key(&scope) && self.follows.len() >= MAX_FOLLOWED {
                    // Who asks knows that there is no answer.
                    return None;
                }
                let is_new = self.follow(&scope);
                self.speaking.insert(scope.clone());
                if let Some(follow) = self.follows.get_mut(&scope) {
                    follow.owes_all |= all || now >= follow.wanted_until;
                    follow.owes_word = true;
                    follow.wanted_until = now + WANTED;
                    let here = follow.here.values().flat_map(|users| users.keys());
                    let here: Vec<Arc<str>> = here.cloned().collect();
                    follow.changed.extend(here);
                }
                return is_new.then_some(scope);
            }
            Note::Roster(roster) => self.roster(from, roster, now),
            Note::Begun => {
                for (scope, follow) in &mut self.follows {
                    if self.logs.contains_key(scope) {
                        follow.expect(from, now);
                    }
                }
                self.asks_at = Micros::ZERO;
                self.logs.soil_all();
            }
        }
        None
    }

    fn roster(&mut self, from: u32, roster: Roster, now: Micros) {
        let scope = roster.room.scope();
        if !self.logs.contains_key(&scope) {
            return;
        }
        let Some(follow) = self.follows.get_mut(&scope) else {
            return;
        };
        let all = follow.elsewhere.entry(from).or_insert(Elsewhere {
            number: 0,
            users: HashSet::new(),
            heard: now,
            is_in_doubt: false,
        });
        all.heard = now;
        let is_change = !(roster.entered.is_empty() && roster.left.is_empty());
        let mut changed = HashSet::new();
        if roster.is_all {
            changed.extend(all.users.drain());
            all.users.extend(roster.entered.iter().cloned());
            changed.extend(roster.entered);
            (all.number, all.is_in_doubt) = (roster.number, false);
        } else if roster.number == all.number + u64::from(is_change) {
            for user in &roster.left {
                all.users.remove(user);
            }
            all.users.extend(roster.entered.iter().cloned());
            changed.extend(roster.entered.into_iter().chain(roster.left));
            all.number = roster.number;
        } else if roster.number > all.number {
            all.is_in_doubt = true;
            follow.asks_at = Micros::ZERO;
            self.asks_at = Micros::ZERO;
        }
        self.logs.soil(&scope);
        self.touch_all(&scope, changed);
    }

    /// Forgets nodes of which nothing was heard for long, and rooms that nobody wants to hear of.
    pub(super) fn expire_follows(&mut self, now: Micros) {
        let mut changed = Vec::new();
        for (scope, follow) in &mut self.follows {
            follow.elsewhere.retain(|_, all| {
                let is_over = now - all.heard >= WANTED;
                if is_over {
                    let users = all.users.drain();
                    changed.extend(users.map(|user| (scope.clone(), user)));
                }
                !is_over
            });
        }
        for (scope, user) in changed {
            self.touch(&scope, &user);
        }
        let logs = &self.logs;
        self.follows
            .retain(|scope, follow| logs.contains_key(scope) || now < follow.wanted_until);
    }
}

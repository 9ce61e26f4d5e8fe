//! What clients watch: pictures of users, each at a known place of its own history, complete up
//! to it, or said not to be.
//!
//! A [`Scope`] is what is watched: some users, or a room. All who watch one on this node share a
//! log. Its changes have consecutive numbers within an epoch, so a reader sees a hole, and asks
//! again from where it stands; a log rests for a while when its last reader has gone, for who
//! comes back. What is compared is not what happened but what is so: the state that readers were
//! told with the one that is known, user by user. So a change that came twice, or late, or not
//! at all and was made up for by asking, makes no difference.
//!
//! What is known of a user is a register for each type: online or not, by the number of the
//! change. A greater number wins, whether an edge or an answer brought it.

mod doubt;
mod known;
mod log;
mod roster;
mod scope;

use std::sync::Arc;
use std::time::Duration;

use hashbrown::{HashMap, HashSet};
use heartline_wire::time::Micros;
use serde::Serialize;

use self::known::{Register, UserName, name};
use self::log::{Log, Logs, Reader, Shown};
use self::roster::Follow;
use super::address::SocketAddress;
use super::edge::RoomAddress;
use crate::entries::Standing;

pub use self::roster::{Note, Roster};
pub use self::scope::{Scope, What};

/// Watches of one socket: as many rooms as it may be in, and some.
pub const MAX_WATCHES: usize = 128;
/// Users that one socket watches by their names, in all: ten questions of the most that one may
/// have.
pub const MAX_USERS: usize = 1_000;
/// Bytes of the names in all that one socket watches: as many users with long names.
pub const MAX_BYTES: usize = 64 << 10;
/// Users of a room that is watched: as many as a list of members has.
pub const MAX_IN_ROOM: usize = 1_000;
/// Users in all logs of a node together: some 200 MB.
const MAX_SHOWN: usize = 1_000_000;
/// Rooms that a node follows, for itself and for others: a hundred bytes each on every node.
const MAX_FOLLOWED: usize = 100_000;
/// How often is asked again about those of whom an answer was not to be believed.
const DOUBTS: Duration = Duration::from_millis(250);
/// How often it is looked what is over.
const EXPIRES: Duration = Duration::from_secs(1);
/// How long a log is kept for who comes back: a change of the network, or a node's restart.
const RESTS: Duration = Duration::from_secs(60);
/// For how long it is remembered that too many are in a room to watch it: to find that out costs
/// all nodes that have members in it.
const TOO_LARGE_FOR: Duration = Duration::from_secs(10);
/// Rooms of which that is remembered, some 200 bytes each. Of more it is found out anew, which
/// the asker pays for.
const MAX_LARGE: usize = 1_024;
/// Logs that rest: what one address could leave behind in a minute.
const MAX_RESTING: usize = 4_096;

/// Why something is not watched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// The socket watches so much already.
    TooMuch,
    /// More than [`MAX_IN_ROOM`] are in the room.
    TooManyInRoom,
    /// The node has to do with too much.
    Overloaded,
    /// It was given up meanwhile.
    Gone,
}

/// What a reader is answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Answer {
    /// Names the history: numbers of different epochs do not compare.
    pub epoch: String,
    /// The last change that is in there; the next one has the next number.
    pub rev: u64,
    /// The last change there is: whoever goes on has caught up when that has come.
    pub head: u64,
    /// The room, if one is watched.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub room: Option<Arc<str>>,
    /// The users; none if it goes on from where the reader stood.
    pub users: Vec<Watched>,
    /// It goes on: what came after the place that was named follows.
    pub recovered: bool,
    /// Unix milliseconds: until then nothing is missing.
    pub as_of: u64,
    /// What is said of users elsewhere is not to be believed at present.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub stale: bool,
}

/// A user in a picture.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Watched {
    /// The user.
    pub user_id: Arc<str>,
    /// Whether any connection of the user is live, or within its grace.
    pub online: bool,
    /// When the last one went, Unix milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_seen_at: Option<u64>,
    /// The number of the user's last change.
    pub rev: u64,
    /// `false`: not in the room any more.
    #[serde(rename = "in", skip_serializing_if = "Option::is_none")]
    pub is_in: Option<bool>,
}

/// A change on its way to readers.
#[derive(Debug)]
pub struct Post<'a> {
    /// Of what.
    pub scope: &'a Arc<Scope>,
    /// The argument of `presence:change`, JSON.
    pub change: &'a Arc<str>,
    /// The number of the change; `None`: these are the last words, which name nobody.
    pub rev: Option<u64>,
    /// To whom.
    pub readers: &'a [SocketAddress],
}

/// Takes changes; called while the board is locked, in the order of the changes.
pub type Poster<'a> = &'a mut dyn FnMut(Post<'_>);

/// Users that the backplane is to be asked about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// Whose.
    pub tenant: Option<Arc<str>>,
    /// They.
    pub users: Vec<Arc<str>>,
    /// What was heard since is newer than the answer.
    turn: u64,
}

/// All that is watched on a node.
#[derive(Debug)]
pub struct Board {
    run: u32,
    shards: u16,
    turn: u64,
    logs: Logs,
    readers: HashMap<SocketAddress, HashSet<Arc<Scope>>>,
    users: HashMap<UserName, Register>,
    follows: HashMap<Arc<Scope>, Follow>,
    /// Rooms of which other nodes may have to be told something.
    speaking: HashSet<Arc<Scope>>,
    /// When it is looked next which rooms other nodes are to be asked about, and what is over.
    asks_at: Micros,
    expires_at: Micros,
    /// When it is to be asked next which other nodes there are; and since when lists of them are
    /// of use.
    nodes_at: Micros,
    nodes_lost: Micros,
    /// Rooms in which too many are to be watched, and when that was found.
    large: HashMap<Arc<Scope>, Micros>,
    /// Users who came into rooms and were not asked about.
    unasked: Vec<UserName>,
    /// In all logs.
    shown: usize,
    resting: usize,
    /// Since when what is known is not to be believed, Unix milliseconds.
    distrusted: Option<u64>,
    /// Users of whom an answer was not to be believed, and when they are asked about again.
    doubtful: HashSet<UserName>,
    doubts_at: Micros,
    /// How often there was a reason to ask about all, and the last for which all were asked about.
    doubts: u64,
    answered: u64,
    /// Of what it is that is known.
    standing: Option<Standing>,
    /// Until when nothing was missing when it was looked last, Unix milliseconds.
    reached: Option<u64>,
    /// How many users were looked at, of all in their order.
    looked_at: usize,
}

impl Board {
    /// Nothing is watched. `run` tells this process' epochs from others'; `shards` is how many
    /// there are that [say](Self::seed_here) who is in a room.
    pub fn new(run: u32, shards: u16) -> Board {
        Board {
            run,
            shards,
            turn: 0,
            logs: Logs::default(),
            readers: HashMap::new(),
            users: HashMap::new(),
            follows: HashMap::new(),
            speaking: HashSet::new(),
            asks_at: Micros::ZERO,
            expires_at: Micros::ZERO,
            nodes_at: Micros::ZERO,
            nodes_lost: Micros::ZERO,
            large: HashMap::new(),
            unasked: Vec::new(),
            shown: 0,
            resting: 0,
            distrusted: None,
            doubtful: HashSet::new(),
            doubts_at: Micros::ZERO,
            doubts: 0,
            answered: 0,
            standing: None,
            reached: None,
            looked_at: 0,
        }
    }

    /// Whether anything is watched, or is to be told to other nodes.
    pub fn is_empty(&self) -> bool {
        self.logs.is_empty() && self.follows.is_empty()
    }

    /// Rooms whose comings and goings are to be [noted](Self::note).
    pub fn followed(&self) -> usize {
        self.follows.len()
    }

    /// Whether anybody watches this.
    pub fn has_readers(&self) -> bool {
        !self.readers.is_empty()
    }

    // --- readers ---------------------------------------------------------

    /// A socket is to hear of something. Nothing of it is told before the
    /// [answer](Self::answer). Whether the log is new: then it has to be filled.
    ///
    /// # Errors
    /// When the socket watches too much, or the node does; and when too many were in the room a
    /// moment ago.
    pub fn watch(
        &mut self,
        scope: &Arc<Scope>,
        reader: SocketAddress,
        now: Micros,
    ) -> Result<bool, Refused> {
        let is_large = |since: &Micros| now - *since < TOO_LARGE_FOR;
        if self.large.get(scope).is_some_and(is_large) {
            return Err(Refused::TooManyInRoom);
        }
        let watches = self.readers.get(&reader);
        let others = || {
            let all = watches.into_iter().flatten();
            all.filter(|other| *other != scope)
        };
        let users: usize = others().map(|other| other.len()).sum();
        let bytes: usize = others().map(|other| other.bytes()).sum();
        if others().count() >= MAX_WATCHES
            || users + scope.len() > MAX_USERS
            || bytes + scope.bytes() > MAX_BYTES
        {
            return Err(Refused::TooMuch);
        }
        let is_new_room = scope.room_name().is_some() && !self.follows.contains_key(scope);
        if self.shown + scope.len() > MAX_SHOWN
            || (is_new_room && self.follows.len() >= MAX_FOLLOWED)
        {
            return Err(Refused::Overloaded);
        }
        self.readers
            .entry(reader)
            .or_default()
            .insert(scope.clone());
        if let Some(log) = self.logs.get_mut(scope) {
            self.resting -= usize::from(log.rests_since.take().is_some());
            log.readers.insert(reader, Reader::Waits);
            return Ok(!log.is_full);
        }
        let log = self.logs.begin(scope);
        log.readers.insert(reader, Reader::Waits);
        let id = log.epoch;
        if let What::Users(users) = &scope.what {
            for user in users.iter() {
                self.touch_in(id, user);
            }
        }
        Ok(true)
    }

    /// Whether so many are in a room which is to be watched that nobody need be asked about them.
    /// It is remembered for a while, from `now` on.
    pub fn is_too_large(&mut self, scope: &Arc<Scope>, now: Micros) -> bool {
        let is_too_large = self.logs.get(scope).is_some_and(|log| log.is_too_large);
        if is_too_large {
            self.note_large(scope, now);
        }
        is_too_large
    }

    fn note_large(&mut self, scope: &Arc<Scope>, now: Micros) {
        self.large.retain(|_, since| now - *since < TOO_LARGE_FOR);
        if self.large.len() < MAX_LARGE {
            self.large.insert(scope.clone(), now);
        }
    }

    /// Whom of a scope nobody has asked about yet.
    pub fn unknown(&self, scope: &Arc<Scope>) -> Vec<Arc<str>> {
        let Some(log) = self.logs.get(scope) else {
            return Vec::new();
        };
        let all = log.users.keys().chain(&log.changed);
        let unknown = all.filter(|user| {
            let register = self.users.get(&name(scope, user));
            register.is_some_and(|register| !register.is_asked)
        });
        let unknown: HashSet<&Arc<str>> = unknown.collect();
        unknown.into_iter().cloned().collect()
    }

    /// What a reader who watches this is told first: the picture, or, if what came `after` a
    /// place is still there, where it goes on. What follows comes when the reader is
    /// [ready](Self::begin). `as_of`: until then nothing is missing in what is known, Unix
    /// milliseconds.
    ///
    /// # Errors
    /// [`Refused::Gone`] when it does not watch it any more, [`Refused::TooManyInRoom`].
    pub fn answer(
        &mut self,
        scope: &Arc<Scope>,
        reader: SocketAddress,
        after: Option<(&str, u64)>,
        (now, as_of): (Micros, u64),
        post: Poster<'_>,
    ) -> Result<Answer, Refused> {
        if self.is_too_large(scope, now) {
            return Err(Refused::TooManyInRoom);
        }
        if let Some(log) = self.logs.get(scope) {
            self.settle(log.epoch, (now, as_of), post);
        }
        let epoch = |log: &Log| format!("{:08x}-{:x}", self.run, log.epoch);
        let Some(log) = self.logs.get_mut(scope) else {
            return Err(Refused::TooManyInRoom);
        };
        let epoch = epoch(log);
        let Some(state) = log.readers.get_mut(&reader) else {
            return Err(Refused::Gone);
        };
        let goes_on = after.filter(|(of, rev)| *of == epoch && log.recent.reaches(*rev, log.rev));
        let rev = goes_on.map_or(log.rev, |(_, rev)| rev);
        *state = Reader::At(rev);
        let users = match goes_on {
            Some(_) => Vec::new(),
            None => log.picture(),
        };
        Ok(Answer {
            epoch,
            rev,
            head: log.rev,
            room: scope.room_name().cloned(),
            users,
            recovered: goes_on.is_some(),
            as_of: log.reach(as_of, self.distrusted),
            stale: log.stale,
        })
    }

    /// A reader has been answered: what came since is told, and what comes. If that cannot be, it
    /// is told that its watch has ended.
    pub fn begin(
        &mut self,
        scope: &Arc<Scope>,
        reader: SocketAddress,
        now: Micros,
        post: Poster<'_>,
    ) {
        let Some(log) = self.logs.get_mut(scope) else {
            return;
        };
        let Some(state) = log.readers.get_mut(&reader) else {
            return;
        };
        let Reader::At(rev) = *state else {
            return;
        };
        *state = Reader::Follows;
        if !log.recent.reaches(rev, log.rev) {
            // What came in between was too much to keep: it has to ask again.
            let change = log.ending(self.run, rev, "TIMEOUT");
            post(Post {
                scope,
                change: &change,
                rev: None,
                readers: &[reader],
            });
            self.unwatch(scope, reader, now);
            return;
        }
        for (rev, change) in log.recent.after(rev) {
            post(Post {
                scope,
                change,
                rev: Some(*rev),
                readers: &[reader],
            });
        }
    }

    /// What a socket watches.
    pub fn watches(&self, reader: &SocketAddress) -> Vec<Arc<Scope>> {
        let watches = self.readers.get(reader).into_iter().flatten();
        watches.cloned().collect()
    }

    /// The scope of an epoch that a socket watches.
    pub fn scope_of(&self, reader: &SocketAddress, epoch: &str) -> Option<Arc<Scope>> {
        let named = |scope: &&Arc<Scope>| {
            let log = self.logs.get(scope);
            log.is_some_and(|log| format!("{:08x}-{:x}", self.run, log.epoch) == epoch)
        };
        self.readers.get(reader)?.iter().find(named).cloned()
    }

    /// A socket is not to hear of something any more. Whether it did.
    pub fn unwatch(&mut self, scope: &Arc<Scope>, reader: SocketAddress, now: Micros) -> bool {
        let Some(watches) = self.readers.get_mut(&reader) else {
            return false;
        };
        if !watches.remove(scope) {
            return false;
        }
        if watches.is_empty() {
            self.readers.remove(&reader);
        }
        if let Some(log) = self.logs.get_mut(scope) {
            log.readers.remove(&reader);
            if log.readers.is_empty() {
                log.rests_since = Some(now);
                self.resting += 1;
                if self.resting > MAX_RESTING || !log.is_full {
                    self.drop_log(&scope.clone());
                }
            }
        }
        true
    }

    /// The watch of a socket of a room.
    pub fn watch_of_room(&self, reader: &SocketAddress, place: &RoomAddress) -> Option<Arc<Scope>> {
        let mut watches = self.readers.get(reader)?.iter();
        let of_room = watches.find(|scope| matches!(&scope.what, What::Room(of) if of == place));
        of_room.cloned()
    }

    /// A socket has ended.
    pub fn gone(&mut self, reader: SocketAddress, now: Micros) {
        for scope in self.watches(&reader) {
            self.unwatch(&scope, reader, now);
        }
    }

    /// Gives up what rested for too long, and what other nodes have not asked for any more.
    pub fn expire(&mut self, now: Micros) {
        if now < self.expires_at {
            return;
        }
        self.expires_at = now + EXPIRES;
        let over = |log: &Log| log.rests_since.is_some_and(|since| now - since >= RESTS);
        let rested = self.logs.iter().filter(|log| over(log));
        for scope in rested.map(|log| log.scope.clone()).collect::<Vec<_>>() {
            self.drop_log(&scope);
        }
        self.large.retain(|_, since| now - *since < TOO_LARGE_FOR);
        self.expire_follows(now);
    }

    fn drop_log(&mut self, scope: &Arc<Scope>) {
        let Some(log) = self.logs.remove(scope) else {
            return;
        };
        self.resting -= usize::from(log.rests_since.is_some());
        self.shown -= log.users.len();
        if let Some(follow) = self.follows.get_mut(scope) {
            follow.let_be();
        }
        let users: HashSet<&Arc<str>> = log.users.keys().chain(&log.changed).collect();
        for user in users {
            self.let_go(&log.scope, log.epoch, user);
        }
    }

    /// A log is not interested in a user any more.
    fn let_go(&mut self, scope: &Scope, id: u64, user: &Arc<str>) {
        let name = name(scope, user);
        if let Some(register) = self.users.get_mut(&name) {
            register.logs.remove(&id);
            if register.logs.is_empty() {
                self.doubtful.remove(&name);
                self.users.remove(&name);
            }
        }
    }

    /// Something about a user in a log may be different.
    fn touch(&mut self, scope: &Arc<Scope>, user: &Arc<str>) {
        if let Some(log) = self.logs.get(scope) {
            self.touch_in(log.epoch, user);
        }
    }

    /// The same of a log by its number.
    fn touch_in(&mut self, id: u64, user: &Arc<str>) {
        let Some(log) = self.logs.of(id) else {
            return;
        };
        let name = name(&log.scope, user);
        let register = self.users.entry(name).or_insert_with_key(|name| {
            self.unasked.push(name.clone());
            Register::default()
        });
        register.logs.insert(id);
        self.logs.note(id, user);
    }

    // --- what is told ----------------------------------------------------

    /// Tells what is different now. `as_of`: until then nothing is missing, Unix milliseconds.
    pub fn flush(&mut self, now: Micros, as_of: u64, post: Poster<'_>) {
        for id in self.logs.take_dirty() {
            let Some(log) = self.logs.of_mut(id) else {
                continue;
            };
            log.is_dirty = false;
            // What has no picture yet is still being asked about: the first answer gives it.
            if log.is_full {
                self.settle(id, (now, as_of), post);
            }
        }
        // Nobody is told where nothing is watched.
        self.reached = Some(as_of).filter(|as_of| *as_of > 0);
    }

    /// Compares what readers of a log were told with what is known.
    fn settle(&mut self, id: u64, (now, as_of): (Micros, u64), post: Poster<'_>) {
        let Some(log) = self.logs.of_mut(id) else {
            return;
        };
        log.is_dirty = false;
        let scope = &log.scope.clone();
        let is_room = scope.room_name().is_some();
        // The names of a list are many: they are not looked at for one of them.
        let follow = if is_room {
            self.follows.get(scope)
        } else {
            None
        };
        let is_said = follow.is_none_or(|follow| !follow.is_in_doubt(self.shards));
        let stale = self.distrusted.is_some() || !is_said;
        // What made it so came after it was looked at last.
        log.is_said(is_said, self.reached.unwrap_or(as_of).min(as_of));
        let (mut told, mut forgotten) = (Vec::new(), Vec::new());
        let shown = log.users.len();
        for user in std::mem::take(&mut log.changed) {
            let register = self.users.get(&name(scope, &user));
            let Some(register) = register.filter(|register| register.is_asked) else {
                // Told once it is known.
                log.changed.insert(user);
                continue;
            };
            let is_now = Shown {
                online: register.online(),
                rev: register.rev,
                last_seen: register.last_seen,
                is_in: follow.map_or(!is_room, |follow| follow.is_in(&user)),
            };
            let (is_told, is_over) = log.show(&user, is_now, register.doubted);
            told.extend(is_told);
            if is_over {
                forgotten.push(user);
            }
        }
        self.shown = self.shown + log.users.len() - shown;
        if log.users.len() > MAX_IN_ROOM && is_room {
            log.drop_who_left(&mut forgotten, &mut self.shown);
        }
        let is_too_much = is_room && log.users.len() > MAX_IN_ROOM;
        // Whoever is in a room again, and was not asked about yet, is missing in it.
        let stale = stale || !log.doubtful.is_empty() || (log.stale && !log.changed.is_empty());
        let is_new = !std::mem::replace(&mut log.is_full, true);
        let was_stale = std::mem::replace(&mut log.stale, stale);
        if !is_new && (!told.is_empty() || was_stale != stale) {
            log.rev += 1;
            let as_of = log.reach(as_of, self.distrusted);
            let change = log.say(self.run, told, as_of);
            let readers = log.followers();
            if !readers.is_empty() {
                post(Post {
                    scope,
                    change: &change,
                    rev: Some(log.rev),
                    readers: &readers,
                });
            }
        }
        for user in forgotten {
            self.let_go(scope, id, &user);
        }
        if is_too_much {
            self.note_large(scope, now);
            self.end(scope, post);
        }
    }

    /// More are in a room than can be watched: its readers are told that it ends.
    fn end(&mut self, scope: &Arc<Scope>, post: Poster<'_>) {
        let Some(log) = self.logs.get(scope) else {
            return;
        };
        let change: Arc<str> = log.ending(self.run, log.rev, "TOO_LARGE");
        let readers = log.followers();
        post(Post {
            scope,
            change: &change,
            rev: None,
            readers: &readers,
        });
        let all: Vec<SocketAddress> = log.readers.keys().copied().collect();
        self.drop_log(scope);
        for reader in all {
            if let Some(watches) = self.readers.get_mut(&reader) {
                watches.remove(scope);
                if watches.is_empty() {
                    self.readers.remove(&reader);
                }
            }
        }
    }

    /// The last words to a reader that may not watch something any more: why, as a code. `withheld`
    /// is the first change that it is not given; `None`: it is given all that there were.
    pub fn last_words(
        &self,
        scope: &Arc<Scope>,
        why: &str,
        withheld: Option<u64>,
    ) -> Option<Arc<str>> {
        let log = self.logs.get(scope)?;
        let told = withheld.map_or(log.rev, |rev| rev.saturating_sub(1));
        Some(log.ending(self.run, told, why))
    }
}

#[cfg(test)]
mod tests;

//! What readers of one scope were told, and the newest changes of it.

use std::collections::VecDeque;
use std::sync::Arc;

use hashbrown::{HashMap, HashSet};
use heartline_wire::time::Micros;
use serde::Serialize;

use super::{Scope, Watched};
use crate::presence::address::SocketAddress;

/// Changes that are kept for who has a hole: some seconds of a storm, as changes of one moment
/// are one.
const KEPT: usize = 256;
/// Bytes of them: beyond that a picture costs less than they do.
const KEPT_BYTES: usize = 64 << 10;

/// Where a reader stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reader {
    /// It has not been answered.
    Waits,
    /// It has been answered up to this change.
    At(u64),
    /// It gets each change.
    Follows,
}

/// A user as readers were told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Shown {
    pub(super) online: bool,
    pub(super) rev: u64,
    pub(super) last_seen: Option<u64>,
    /// In the room, or watched by name.
    pub(super) is_in: bool,
}

impl Shown {
    /// Whether the other would be told in the same words.
    pub(super) fn says(&self, other: &Shown) -> bool {
        let of = |shown: &Shown| (shown.online, shown.rev, shown.is_in);
        of(self) == of(other)
    }

    pub(super) fn watched(&self, user: &Arc<str>, is_room: bool) -> Watched {
        Watched {
            user_id: user.clone(),
            online: self.online,
            last_seen_at: self.last_seen.filter(|_| !self.online),
            rev: self.rev,
            is_in: (is_room && !self.is_in).then_some(false),
        }
    }
}

/// The newest changes, each with its number.
#[derive(Debug, Default)]
pub(super) struct Recent {
    changes: VecDeque<(u64, Arc<str>)>,
    bytes: usize,
}

impl Recent {
    fn push(&mut self, rev: u64, change: Arc<str>) {
        self.bytes += change.len();
        self.changes.push_back((rev, change));
        while self.changes.len() > KEPT || self.bytes > KEPT_BYTES {
            let Some((_, oldest)) = self.changes.pop_front() else {
                return;
            };
            self.bytes -= oldest.len();
        }
    }

    /// Whether all changes after this one are there; `last` is the last there was.
    pub(super) fn reaches(&self, rev: u64, last: u64) -> bool {
        let first = self.changes.front().map_or(last + 1, |(first, _)| *first);
        rev <= last && rev + 1 >= first
    }

    pub(super) fn after(&self, rev: u64) -> impl Iterator<Item = &(u64, Arc<str>)> {
        self.changes.iter().filter(move |(at, _)| *at > rev)
    }
}

#[derive(Debug)]
pub(super) struct Log {
    /// No other has had this number in this process.
    pub(super) epoch: u64,
    pub(super) scope: Arc<Scope>,
    /// The number of the last change.
    pub(super) rev: u64,
    pub(super) users: HashMap<Arc<str>, Shown>,
    /// Users of whom something may be different.
    pub(super) changed: HashSet<Arc<str>>,
    /// Users of whom what was answered last is not to be believed, and since when, Unix
    /// milliseconds.
    pub(super) doubtful: HashMap<Arc<str>, u64>,
    /// Since when somebody may be in the room of whom nothing is known, Unix milliseconds.
    pub(super) unsaid: Option<u64>,
    /// What readers were told of it.
    pub(super) stale: bool,
    pub(super) recent: Recent,
    pub(super) readers: HashMap<SocketAddress, Reader>,
    /// There was a picture.
    pub(super) is_full: bool,
    /// So many were found in the room, before it had a picture, that it gets none: not all of them
    /// were noted.
    pub(super) is_too_large: bool,
    /// Until when nothing is missing, as readers were told.
    pub(super) as_of: u64,
    /// It is in the list of those that may have something to tell.
    pub(super) is_dirty: bool,
    /// Since when it has no readers.
    pub(super) rests_since: Option<Micros>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Change<'a> {
    epoch: String,
    rev: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    room: Option<&'a str>,
    users: Vec<Watched>,
    #[serde(skip_serializing_if = "Option::is_none")]
    as_of: Option<u64>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    stale: bool,
    /// Why nothing follows.
    #[serde(skip_serializing_if = "Option::is_none")]
    ended: Option<&'a str>,
}

/// The logs there are. A user may be of interest to very many: those are known by their numbers.
#[derive(Debug, Default)]
pub(super) struct Logs {
    begun: u64,
    ids: HashMap<Arc<Scope>, u64>,
    logs: HashMap<u64, Log>,
    /// Those that may have something to tell.
    dirty: Vec<u64>,
}

impl Logs {
    pub(super) fn is_empty(&self) -> bool {
        self.logs.is_empty()
    }

    pub(super) fn contains_key(&self, scope: &Scope) -> bool {
        self.ids.contains_key(scope)
    }

    pub(super) fn get(&self, scope: &Scope) -> Option<&Log> {
        self.of(*self.ids.get(scope)?)
    }

    pub(super) fn get_mut(&mut self, scope: &Scope) -> Option<&mut Log> {
        self.of_mut(*self.ids.get(scope)?)
    }

    /// The log with this number.
    pub(super) fn of(&self, id: u64) -> Option<&Log> {
        self.logs.get(&id)
    }

    /// The same, to change it.
    pub(super) fn of_mut(&mut self, id: u64) -> Option<&mut Log> {
        self.logs.get_mut(&id)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Log> {
        self.logs.values()
    }

    /// A new log of what has none.
    pub(super) fn begin(&mut self, scope: &Arc<Scope>) -> &mut Log {
        self.begun += 1;
        self.ids.insert(scope.clone(), self.begun);
        let log = Log::new(self.begun, scope.clone());
        self.logs.entry(self.begun).insert(log).into_mut()
    }

    pub(super) fn remove(&mut self, scope: &Scope) -> Option<Log> {
        self.logs.remove(&self.ids.remove(scope)?)
    }

    /// Something about a user may be different.
    pub(super) fn note(&mut self, id: u64, user: &Arc<str>) {
        if let Some(log) = self.logs.get_mut(&id) {
            if !log.changed.contains(user) {
                log.changed.insert(user.clone());
            }
            soil(log, &mut self.dirty);
        }
    }

    /// Something may have to be told.
    pub(super) fn soil(&mut self, scope: &Scope) {
        let log = self.ids.get(scope).and_then(|id| self.logs.get_mut(id));
        if let Some(log) = log {
            soil(log, &mut self.dirty);
        }
    }

    pub(super) fn soil_all(&mut self) {
        for log in self.logs.values_mut() {
            soil(log, &mut self.dirty);
        }
    }

    /// Those that may have something to tell; they are looked at now.
    pub(super) fn take_dirty(&mut self) -> Vec<u64> {
        std::mem::take(&mut self.dirty)
    }
}

fn soil(log: &mut Log, dirty: &mut Vec<u64>) {
    if !std::mem::replace(&mut log.is_dirty, true) {
        dirty.push(log.epoch);
    }
}

impl Log {
    fn new(epoch: u64, scope: Arc<Scope>) -> Log {
        Log {
            epoch,
            scope,
            rev: 0,
            users: HashMap::new(),
            changed: HashSet::new(),
            doubtful: HashMap::new(),
            unsaid: None,
            stale: false,
            recent: Recent::default(),
            readers: HashMap::new(),
            is_full: false,
            is_too_large: false,
            as_of: 0,
            is_dirty: false,
            rests_since: None,
        }
    }

    /// The users, without those who have left the room.
    pub(super) fn picture(&self) -> Vec<Watched> {
        let all = self.users.iter().filter(|(_, shown)| shown.is_in);
        let mut users: Vec<Watched> = all
            .map(|(user, shown)| shown.watched(user, false))
            .collect();
        users.sort_unstable_by(|a, b| a.user_id.cmp(&b.user_id));
        users
    }

    pub(super) fn followers(&self) -> Vec<SocketAddress> {
        let all = self.readers.iter();
        let following = all.filter(|(_, state)| **state == Reader::Follows);
        following.map(|(reader, _)| *reader).collect()
    }

    /// Those who have left the room make place for those who are in it.
    pub(super) fn drop_who_left(&mut self, forgotten: &mut Vec<Arc<str>>, shown: &mut usize) {
        self.users.retain(|user, is| {
            if !is.is_in {
                *shown -= 1;
                self.doubtful.remove(user);
                forgotten.push(user.clone());
            }
            is.is_in
        });
    }

    /// Has a user as they are now, in doubt or not: what is to be told of that, and whether the user
    /// is of no interest any more.
    pub(super) fn show(
        &mut self,
        user: &Arc<str>,
        is_now: Shown,
        doubted: Option<u64>,
    ) -> (Option<Watched>, bool) {
        let is_room = self.scope.room_name().is_some();
        let before = self.users.get(user);
        let told = match before {
            Some(before) if before.says(&is_now) => None,
            None if !is_now.is_in => None,
            _ => Some(is_now.watched(user, is_room)),
        };
        // Who left a room and is online is of interest until the end of that.
        let is_over = match told {
            Some(_) => is_room && !is_now.is_in && !is_now.online,
            None => before.is_none(),
        };
        if is_over {
            self.users.remove(user);
        } else if told.is_some() {
            self.users.insert(user.clone(), is_now);
        }
        self.doubt(user, doubted.filter(|_| !is_over));
        (told, is_over)
    }

    /// Whether, and since when, a user is in doubt.
    fn doubt(&mut self, user: &Arc<str>, since: Option<u64>) {
        match since {
            Some(since) => {
                let first = self.doubtful.entry(user.clone()).or_insert(since);
                *first = since.min(*first);
            }
            None => {
                self.doubtful.remove(user);
            }
        }
    }

    /// Whether somebody may be in the room of whom nothing is known; if so now, it has been at
    /// `since` at the earliest, Unix milliseconds.
    pub(super) fn is_said(&mut self, is_all: bool, since: u64) {
        match is_all {
            true => self.unsaid = None,
            false => drop(self.unsaid.get_or_insert(self.as_of.max(since))),
        }
    }

    /// Until when nothing is missing: what was said once stays true, unless all or a user is
    /// `distrusted` since some time, or who is in the room is not known.
    pub(super) fn reach(&mut self, as_of: u64, distrusted: Option<u64>) -> u64 {
        let since = self.doubtful.values().copied();
        let since = since.chain(distrusted).chain(self.unsaid).min();
        self.as_of = since.unwrap_or(self.as_of.max(as_of));
        self.as_of
    }

    /// Puts a change at the end of the log.
    pub(super) fn say(&mut self, run: u32, users: Vec<Watched>, as_of: u64) -> Arc<str> {
        let change = Change {
            epoch: format!("{run:08x}-{:x}", self.epoch),
            rev: self.rev,
            room: self.scope.room_name().map(|room| &**room),
            users,
            as_of: Some(as_of),
            stale: self.stale,
            ended: None,
        };
        let change: Arc<str> = text(&change).into();
        self.recent.push(self.rev, change.clone());
        change
    }

    /// That nothing follows, and why: no change, so it has the number of the last one that the
    /// reader was told, `rev`.
    pub(super) fn ending(&self, run: u32, rev: u64, why: &str) -> Arc<str> {
        let change = Change {
            epoch: format!("{run:08x}-{:x}", self.epoch),
            rev,
            room: self.scope.room_name().map(|room| &**room),
            users: Vec::new(),
            as_of: None,
            stale: self.stale,
            ended: Some(why),
        };
        text(&change).into()
    }
}

fn text(change: &Change<'_>) -> String {
    serde_json::to_string(change).expect("numbers and names can be written as JSON")
}

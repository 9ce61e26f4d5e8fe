//! The registry as a structure in memory, with time as an argument: what the
//! scripts are held to, and what the simulation runs on.

mod nodes;
mod places;
mod questions;
mod users;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use crate::registry::{
    Admission, DevicesChange, Displaced, Doubts, Edge, Entry, Fenced, Millis, NodeInfo, RoomName,
    Turn, TypedUser, UserName,
};

#[derive(Debug, Clone)]
struct Held {
    entry: Entry,
    incarnation: Arc<str>,
    kind: Arc<str>,
    /// Others go once it is there; until then it takes no place.
    on_probation: bool,
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
    /// The memories that somebody knew before this one, the last first.
    successor_of: Vec<Arc<str>>,
    /// After which edge, and which number, this memory's life began anew.
    from: (u64, u64),
    /// What is told has a greater revision: it was reached before this run or life, or by a clock that
    /// was ahead of this one.
    floor: u64,
    /// What has this revision, or a smaller one, is of before this run or life: what was said since
    /// may be lost.
    began: u64,
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
    /// The newest that all nodes could read who lived when it was last looked at.
    version: u32,
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
    /// How many edges are kept, if a test wants fewer.
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

    /// A node was told of a revision: what is told from now on is later, whatever the clock says.
    fn stay_above(&mut self, now: Millis, rev: u64) {
        if rev > self.wall(now) {
            self.floor = self.floor.max(rev);
            // Where memory was lost, that may be what it was told.
            if self.blind > now {
                self.began = self.floor;
            }
        }
    }

    /// Another run or life begins: what was told just before may be lost.
    fn begin_anew(&mut self, now: Millis) {
        self.floor = self.floor.max(self.wall(now) - 1);
        self.began = self.floor;
    }

    /// The least revision that is given now.
    fn least_rev(&self, now: Millis) -> u64 {
        self.wall(now).max(self.floor + 1)
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
}

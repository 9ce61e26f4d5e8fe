//! The line that two nodes share, in memory: what is said gets its number, waits on its way to
//! each node until a test brings it there, and is found again after a cut.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};

use heartline_core::backplane::line::{
    Away as StoreAway, Changes, Heard, Lost, Position, Reached, Scope, Session as Written,
    SharedLine, Tail, Unclaimed,
};
use heartline_core::backplane::local::LocalBackplane;
use heartline_core::backplane::{Backplane, Message, NameList, Node, Subscription, Target};
use heartline_core::entries::UserPresence;
use heartline_core::line::ring::Extent;
use heartline_core::presence::{
    Admitted, DeviceLimitReached, Newcomer, Presence, RoomAddress, SocketAddress,
};
use heartline_core::time::Moment;
use tokio::sync::oneshot;

use super::super::*;

/// The line that all nodes follow at first.
pub(super) const LINE: u32 = 5;
/// The number from which on the nodes hear it.
const BEGIN: u64 = 100;
/// Events that are kept of a place.
pub(super) const KEPT: usize = 8;

/// An event of the line. Its target is that of its scope, but for some rooms' names.
#[derive(Clone)]
pub(super) struct Said {
    at: Position,
    scope: Scope,
    rooms: Option<(String, String)>,
    topic: Option<String>,
    instead_of: Option<String>,
    message: Option<Message>,
    skip: Option<SocketAddress>,
    edges_after: Option<u64>,
}

impl Said {
    fn heard(&self) -> Heard<'_> {
        let target = match &self.scope {
            Scope::Room {
                namespace,
                tenant,
                room,
            } => Target::Room {
                namespace,
                tenant: tenant.as_deref(),
                room,
                key: None,
            },
            Scope::User {
                namespace,
                tenant,
                user,
            } => Target::User {
                namespace,
                tenant: tenant.as_deref(),
                user,
                user_type: None,
                topic: self.topic.as_deref(),
                instead_of: self.instead_of.as_deref(),
                key: None,
            },
            Scope::All { namespace, tenant } => match &self.rooms {
                Some((rooms, except)) => Target::Rooms {
                    namespace,
                    tenant: tenant.as_deref(),
                    rooms: NameList(rooms),
                    except: NameList(except),
                },
                None => Target::All {
                    namespace,
                    tenant: tenant.as_deref(),
                },
            },
            Scope::Socket { namespace, .. } => Target::All {
                namespace,
                tenant: None,
            },
        };
        Heard {
            at: self.at,
            target,
            message: self.message.clone(),
            skip: self.skip,
            to: match &self.scope {
                Scope::Socket { name, .. } => Some(*name),
                _ => None,
            },
            edges_after: self.edges_after,
        }
    }
}

/// What the line keeps of one scope.
#[derive(Default, Clone)]
pub(super) struct Place {
    epoch: u64,
    offset: u64,
    known: Extent,
    events: VecDeque<Said>,
}

/// What is on its way to a node.
pub(super) enum Coming {
    Event(Said),
    End(Scope, Place, oneshot::Sender<bool>),
    Reached(u64),
    Lose(SocketAddress, Lost),
}

/// The way from the line to a node.
#[derive(Default)]
pub(super) struct Way {
    pub(super) node: Option<Arc<dyn Node>>,
    items: VecDeque<Coming>,
    /// Who waits until what was said here up to a number has come.
    waiting: Vec<(u64, oneshot::Sender<()>)>,
    is_cut: bool,
    delivered: u64,
    /// Another line than the one that all follow.
    line: Option<u32>,
    /// It has not joined the others yet.
    pub(super) is_alone: bool,
    /// Nothing of what it says gets into the line.
    pub(super) is_away: bool,
}

impl Way {
    fn is_coming(&self, number: u64) -> bool {
        let is_one = |item: &Coming| matches!(item, Coming::Event(said) if said.at.id <= number);
        self.items.iter().any(is_one)
    }

    /// Something has come: whoever has waited for it hears of it.
    fn tell_waiting(&mut self) {
        let (wait, done) = std::mem::take(&mut self.waiting)
            .into_iter()
            .partition(|(number, _)| self.is_coming(*number));
        self.waiting = wait;
        let done: Vec<(u64, oneshot::Sender<()>)> = done;
        for (_, came) in done {
            let _ = came.send(());
        }
    }
}

/// Where all nodes meet.
#[derive(Default)]
pub(super) struct Meeting {
    last: u64,
    places: HashMap<Scope, Place>,
    pub(super) sessions: HashMap<SocketAddress, (usize, Written)>,
    pub(super) ways: [Way; 2],
    /// Each node takes the other one for dead.
    pub(super) is_gone: bool,
    /// The last change of presence that was said.
    edges: u64,
    /// Users whose sessions were ended, and the number of that.
    ended: Vec<(String, Option<UserKey>, u64)>,
    /// Who came to which node, and with which earlier socket they go on.
    pub(super) came: Vec<(usize, SocketAddress, Option<SocketAddress>)>,
    /// The name that who came last keeps.
    pub(super) known_as: Option<SocketAddress>,
    /// Who left which node, and for how long their user is waited for.
    pub(super) went: Vec<(usize, SocketAddress, Duration)>,
}

fn scope_of(target: &Target<'_>) -> Scope {
    let tenant = |tenant: Option<&str>| tenant.map(Into::into);
    match *target {
        Target::Room {
            namespace,
            tenant: t,
            room,
            ..
        } => Scope::Room {
            namespace: namespace.into(),
            tenant: tenant(t),
            room: room.into(),
        },
        Target::User {
            namespace,
            tenant: t,
            user,
            ..
        } => Scope::User {
            namespace: namespace.into(),
            tenant: tenant(t),
            user: user.into(),
        },
        Target::All {
            namespace,
            tenant: t,
        }
        | Target::Rooms {
            namespace,
            tenant: t,
            ..
        } => Scope::All {
            namespace: namespace.into(),
            tenant: tenant(t),
        },
        Target::Users { .. } | Target::Nodes => unreachable!("nobody says that here"),
    }
}

impl Meeting {
    /// A line in which something was said before the nodes came.
    pub(super) fn begun() -> Shared {
        let mut meeting = Meeting {
            last: BEGIN,
            ..Meeting::default()
        };
        for way in &mut meeting.ways {
            way.items.push_back(Coming::Reached(BEGIN));
        }
        Arc::new(Mutex::new(meeting))
    }

    fn say(&mut self, target: &Target<'_>, message: &Message, skip: Option<SocketAddress>) -> u64 {
        self.last += 1;
        self.put(scope_of(target), target, message, skip)
    }

    /// An event has the last number; its own.
    fn put(
        &mut self,
        scope: Scope,
        target: &Target<'_>,
        message: &Message,
        skip: Option<SocketAddress>,
    ) -> u64 {
        let place = self.places.entry(scope.clone()).or_default();
        if place.epoch == 0 {
            place.epoch = self.last;
        }
        place.offset += 1;
        let said = Said {
            at: Position {
                line: LINE,
                id: self.last,
                before: place.known.last,
                epoch: place.epoch,
                offset: place.offset,
            },
            scope,
            rooms: match *target {
                Target::Rooms { rooms, except, .. } => Some((rooms.0.into(), except.0.into())),
                _ => None,
            },
            topic: match *target {
                Target::User { topic, .. } => topic.map(Into::into),
                _ => None,
            },
            instead_of: match *target {
                Target::User { instead_of, .. } => instead_of.map(Into::into),
                _ => None,
            },
            message: Some(message.clone()),
            skip,
            edges_after: (&*message.event == "presence:changes").then_some(self.edges),
        };
        place.known.last = self.last;
        place.events.push_back(said.clone());
        while place.events.len() > KEPT {
            let oldest = place.events.pop_front().unwrap();
            place.known.dropped = oldest.at.id;
            place.known.dropped_offset = oldest.at.offset;
        }
        let offset = place.offset;
        let holder = match &said.scope {
            Scope::Socket { name, .. } => self.sessions.get(name).map(|(node, _)| *node),
            _ => None,
        };
        for (node, way) in self.ways.iter_mut().enumerate() {
            if !way.is_cut && holder.is_none_or(|holder| holder == node) {
                way.items.push_back(Coming::Event(said.clone()));
            }
        }
        offset
    }

    /// What was said up to a number comes to a node; `None`: it has.
    fn back(&mut self, node: usize, number: u64) -> Option<BoxFuture<()>> {
        let way = &mut self.ways[node];
        way.is_coming(number).then(|| {
            let (came, coming) = oneshot::channel();
            way.waiting.push((number, came));
            let coming: BoxFuture<()> = Box::pin(async move { drop(coming.await) });
            coming
        })
    }

    fn follow(&mut self, node: usize, scope: Scope, done: oneshot::Sender<bool>) {
        if self.ways[node].is_cut {
            let _ = done.send(false);
            return;
        }
        let place = self.places.entry(scope.clone()).or_default();
        if place.epoch == 0 && matches!(scope, Scope::Room { .. }) {
            self.last += 1;
            place.epoch = self.last;
        }
        let (place, last) = (place.clone(), self.last);
        let way = &mut self.ways[node];
        way.items.push_back(Coming::End(scope, place, done));
        way.items.push_back(Coming::Reached(last));
    }

    /// The number that was given last.
    pub(super) fn last(&self) -> u64 {
        self.last
    }

    pub(super) fn cut(&mut self, node: usize) {
        let way = &mut self.ways[node];
        way.is_cut = true;
        for item in way.items.drain(..) {
            if let Coming::End(_, _, done) = item {
                let _ = done.send(false);
            }
        }
    }

    /// Takes what is on its way to a node, with the node.
    pub(super) fn take(&mut self, node: usize) -> (Arc<dyn Node>, VecDeque<Coming>) {
        let way = &mut self.ways[node];
        (way.node.clone().unwrap(), std::mem::take(&mut way.items))
    }

    /// A node hears of another line than it follows, or of the same again.
    pub(super) fn go_over(&mut self, node: usize, line: u32) {
        let way = &mut self.ways[node];
        way.line = Some(line);
        way.items.push_back(Coming::Reached(self.last));
    }

    /// What a cut has lost is found.
    pub(super) fn mend(&mut self, node: usize) {
        let way = &mut self.ways[node];
        if !std::mem::take(&mut way.is_cut) {
            return;
        }
        let mut followed = way.node.as_ref().unwrap().followed();
        // A node knows to whom it has said something that has not come back.
        followed.extend(self.places.keys().filter_map(|scope| match scope {
            Scope::Socket { name, .. } => {
                let (holder, _) = self.sessions.get(name)?;
                (*holder == node).then(|| scope.clone())
            }
            _ => None,
        }));
        let after = way.delivered;
        let mut missed: Vec<Said> = Vec::new();
        for scope in followed {
            let Some(place) = self.places.get(&scope) else {
                continue;
            };
            if place.known.dropped > after {
                let at = Position {
                    line: LINE,
                    id: place.known.dropped,
                    before: 0,
                    epoch: place.epoch,
                    offset: place.known.dropped_offset,
                };
                let (rooms, topic, message, skip) = (None, None, None, None);
                missed.push(Said {
                    at,
                    scope,
                    rooms,
                    topic,
                    instead_of: None,
                    message,
                    skip,
                    edges_after: None,
                });
            }
            missed.extend(
                place
                    .events
                    .iter()
                    .filter(|said| said.at.id > after)
                    .cloned(),
            );
        }
        missed.sort_by_key(|said| said.at.id);
        missed.dedup_by_key(|said| said.at.id);
        way.items.extend(missed.into_iter().map(Coming::Event));
        way.items.push_back(Coming::Reached(self.last));
    }
}

pub(super) type Shared = Arc<Mutex<Meeting>>;

/// A node's part in it.
#[derive(Clone)]
struct Line {
    meeting: Shared,
    node: usize,
}

struct Held {
    line: Line,
    scope: Scope,
    is_known: Arc<AtomicBool>,
}

impl Subscription for Held {
    fn ready(&self) -> Option<BoxFuture<()>> {
        if self.is_known.load(Ordering::Relaxed) {
            return None;
        }
        let (known, coming) = (self.is_known.clone(), self.line.follow(self.scope.clone()));
        Some(Box::pin(async move {
            known.store(coming.await, Ordering::Relaxed)
        }))
    }
}

impl SharedLine for Line {
    fn say(
        &self,
        target: &Target<'_>,
        message: &Message,
        skip: Option<SocketAddress>,
    ) -> BoxFuture<Option<u64>> {
        let mut meeting = self.meeting.lock().unwrap();
        let is_away = meeting.ways[self.node].is_away;
        let offset = (!is_away).then(|| meeting.say(target, message, skip));
        Box::pin(std::future::ready(offset))
    }

    fn last_said(&self) -> u64 {
        self.meeting.lock().unwrap().last
    }

    fn back(&self, number: u64) -> Option<BoxFuture<()>> {
        self.meeting.lock().unwrap().back(self.node, number)
    }

    fn say_to(&self, namespace: &Arc<str>, name: SocketAddress, message: &Message) {
        let target = Target::All {
            namespace,
            tenant: None,
        };
        let scope = Scope::Socket {
            namespace: namespace.clone(),
            name,
        };
        let mut meeting = self.meeting.lock().unwrap();
        meeting.last += 1;
        meeting.put(scope, &target, message, None);
    }

    fn received(&self, name: SocketAddress, id: u64) {
        let scope = Scope::Socket {
            namespace: "/".into(),
            name,
        };
        let mut meeting = self.meeting.lock().unwrap();
        let last = meeting.places.get(&scope).map(|place| place.known.last);
        if last.is_some_and(|last| last <= id) {
            meeting.places.remove(&scope);
        }
    }

    fn say_changes(&self, changes: Changes) -> BoxFuture<bool> {
        let mut meeting = self.meeting.lock().unwrap();
        if changes.to > meeting.edges {
            assert!(changes.after <= meeting.edges, "no node has missed one");
            for part in changes.parts {
                let target = Target::All {
                    namespace: &part.namespace,
                    tenant: part.tenant.as_deref(),
                };
                meeting.last += part.count as u64;
                meeting.put(scope_of(&target), &target, &part.message, None);
            }
            meeting.edges = changes.to;
        }
        Box::pin(std::future::ready(true))
    }

    fn hold(&self, namespace: &str, tenant: Option<&str>, room: &str) -> Arc<dyn Subscription> {
        Arc::new(Held {
            line: self.clone(),
            scope: Scope::Room {
                namespace: namespace.into(),
                tenant: tenant.map(Into::into),
                room: room.into(),
            },
            is_known: Arc::default(),
        })
    }

    fn follow(&self, scope: Scope) -> BoxFuture<bool> {
        let (done, answer) = oneshot::channel();
        let (meeting, node) = (self.meeting.clone(), self.node);
        Box::pin(async move {
            meeting.lock().unwrap().follow(node, scope, done);
            answer.await.unwrap_or(false)
        })
    }

    fn attend(&self, _: &UserKey) -> Option<BoxFuture<()>> {
        None
    }

    fn remember(&self, name: SocketAddress, session: Option<Written>) {
        let mut meeting = self.meeting.lock().unwrap();
        let holder = meeting.sessions.get(&name).map(|(node, _)| *node);
        if holder.is_none_or(|node| node == self.node) {
            match session {
                Some(session) => drop(meeting.sessions.insert(name, (self.node, session))),
                None => drop(meeting.sessions.remove(&name)),
            }
        }
    }

    fn remembered(&self) -> BoxFuture<()> {
        Box::pin(std::future::ready(()))
    }

    fn holder(&self, name: SocketAddress) -> BoxFuture<Result<Option<u32>, StoreAway>> {
        let meeting = self.meeting.lock().unwrap();
        let holder = meeting
            .sessions
            .get(&name)
            .map(|(node, _)| *node as u32 + 1);
        Box::pin(std::future::ready(Ok(holder)))
    }

    fn has_claimed(&self, name: SocketAddress) -> bool {
        let meeting = self.meeting.lock().unwrap();
        meeting
            .sessions
            .get(&name)
            .is_some_and(|(node, _)| *node == self.node)
    }

    fn claim(
        &self,
        name: SocketAddress,
        owner: String,
        user: Option<&UserKey>,
        begin: u64,
    ) -> BoxFuture<Result<Written, Unclaimed>> {
        let mut meeting = self.meeting.lock().unwrap();
        let meets = |ended: &(String, Option<UserKey>, u64)| {
            user.is_some_and(|user| {
                *user.user_id == *ended.0
                    && ended.1.as_ref().is_none_or(|only| only == user)
                    && begin < ended.2
            })
        };
        if meeting.ended.iter().any(meets) {
            meeting.sessions.remove(&name);
            return Box::pin(std::future::ready(Err(Unclaimed::Unknown)));
        }
        let taken = match meeting.sessions.get_mut(&name) {
            None => Err(Unclaimed::Unknown),
            Some((_, session)) if session.owner != owner => Err(Unclaimed::Foreign),
            Some((node, session)) => {
                let had = std::mem::replace(node, self.node);
                let was_here = had == self.node;
                let session = Written {
                    was_here,
                    ..session.clone()
                };
                if !was_here && !meeting.ways[had].is_cut {
                    let lost = Coming::Lose(name, Lost::TakenUp);
                    meeting.ways[had].items.push_back(lost);
                }
                Ok(session)
            }
        };
        Box::pin(std::future::ready(taken))
    }

    fn end(&self, name: SocketAddress) -> BoxFuture<Result<bool, StoreAway>> {
        let mut meeting = self.meeting.lock().unwrap();
        let was_there = meeting.sessions.remove(&name);
        if let Some((had, _)) = &was_there
            && !meeting.ways[*had].is_cut
        {
            let lost = Coming::Lose(name, Lost::Ended);
            meeting.ways[*had].items.push_back(lost);
        }
        Box::pin(std::future::ready(Ok(was_there.is_some())))
    }

    fn end_all(
        &self,
        _: Option<&str>,
        user: &str,
        only: Option<&UserKey>,
    ) -> BoxFuture<Result<(), StoreAway>> {
        let mut meeting = self.meeting.lock().unwrap();
        meeting.last += 1;
        let last = meeting.last;
        meeting.ended.push((user.into(), only.cloned(), last));
        for way in meeting.ways.iter_mut().filter(|way| !way.is_cut) {
            way.items.push_back(Coming::Reached(last));
        }
        Box::pin(std::future::ready(Ok(())))
    }
}

/// The backplane of a node that shares the line, and is alone in everything else.
pub(super) struct Meets {
    local: LocalBackplane,
    line: Line,
}

impl Meets {
    pub(super) fn at(meeting: &Shared, node: usize) -> Meets {
        let clock = Clock::start();
        let now = move || Moment {
            at: clock.now(),
            unix_millis: clock.unix_millis(clock.now()),
        };
        Meets {
            local: LocalBackplane::new(Duration::ZERO, Box::new(now)),
            line: Line {
                meeting: meeting.clone(),
                node,
            },
        }
    }
}

impl Backplane for Meets {
    fn attach(&self, node: Arc<dyn Node>) {
        self.line.meeting.lock().unwrap().ways[self.line.node].node = Some(node.clone());
        self.local.attach(node);
    }

    fn connect(&self, newcomer: Newcomer) -> BoxFuture<Result<Admitted, DeviceLimitReached>> {
        let came = (self.line.node, newcomer.socket, newcomer.instead_of);
        let mut meeting = self.line.meeting.lock().unwrap();
        meeting.came.push(came);
        meeting.known_as = newcomer.known_as;
        drop(meeting);
        self.local.connect(newcomer)
    }

    fn disconnect(&self, user: &Arc<UserKey>, socket: SocketAddress, keep: Duration) {
        let went = (self.line.node, socket, keep);
        self.line.meeting.lock().unwrap().went.push(went);
        self.local.disconnect(user, socket, keep);
    }

    fn enter_room(&self, user: &Arc<UserKey>, socket: SocketAddress, place: RoomAddress) {
        self.local.enter_room(user, socket, place);
    }

    fn leave_room(&self, user: &Arc<UserKey>, socket: SocketAddress, place: &RoomAddress) {
        self.local.leave_room(user, socket, place);
    }

    fn presence(
        &self,
        tenant: Option<Arc<str>>,
        users: Vec<String>,
    ) -> BoxFuture<Vec<UserPresence>> {
        self.local.presence(tenant, users)
    }

    fn local(&self) -> &Presence {
        self.local.local()
    }

    fn subscribe(
        &self,
        namespace: &str,
        tenant: Option<&str>,
        room: &str,
    ) -> Option<Arc<dyn Subscription>> {
        Some(self.line.hold(namespace, tenant, room))
    }

    fn line(&self) -> Option<Arc<dyn SharedLine>> {
        Some(Arc::new(self.line.clone()))
    }

    fn tag(&self) -> Option<u32> {
        Some(self.line.node as u32 + 1)
    }

    fn others(&self) -> BoxFuture<Option<(Vec<u32>, Duration)>> {
        let is_gone = self.line.meeting.lock().unwrap().is_gone;
        let other = (!is_gone).then_some(2 - self.line.node as u32);
        let others = (other.into_iter().collect(), Duration::ZERO);
        Box::pin(std::future::ready(Some(others)))
    }

    fn secret(&self) -> Option<Arc<str>> {
        let meeting = self.line.meeting.lock().unwrap();
        (!meeting.ways[self.line.node].is_alone).then(|| "of all".into())
    }
}

/// What was on its way to a node is there.
pub(super) fn bring(meeting: &Shared, at: usize, node: &dyn Node, item: Coming) {
    let reached = match &item {
        Coming::Event(said) => said.at.id,
        Coming::Reached(last) => *last,
        _ => 0,
    };
    let line = {
        let way = &mut meeting.lock().unwrap().ways[at];
        way.delivered = way.delivered.max(reached);
        way.line.unwrap_or(LINE)
    };
    match item {
        Coming::Event(mut said) => {
            said.at.line = line;
            node.hear(said.heard());
        }
        Coming::Reached(last) => node.reach(Reached {
            line,
            begin: BEGIN,
            last,
        }),
        Coming::Lose(name, how) => node.lose_session(name, how),
        Coming::End(scope, place, done) => {
            let tail = Tail {
                epoch: place.epoch,
                offset: place.offset,
                known: place.known,
                events: place.events.iter().map(Said::heard).collect(),
            };
            node.take_in(&scope, tail);
            let _ = done.send(true);
        }
    }
    meeting.lock().unwrap().ways[at].tell_waiting();
}

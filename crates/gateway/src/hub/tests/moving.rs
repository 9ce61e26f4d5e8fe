//! Two nodes that share one line, in memory, and a client that is lost and comes back at
//! either: it hears everything once and in order, or begins anew.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};

use heartline_core::backplane::line::{
    Away as StoreAway, Changes, Heard, Position, Reached, Scope, Session as Written, SharedLine,
    Tail, Unclaimed,
};
use heartline_core::backplane::local::LocalBackplane;
use heartline_core::backplane::{Backplane, Message, NameList, Node, Subscription, Target};
use heartline_core::entries::UserPresence;
use heartline_core::line::ring::Extent;
use heartline_core::presence::{
    Admitted, DeviceLimitReached, Edge, Newcomer, Presence, RoomAddress, SocketAddress,
};
use heartline_core::time::Moment;
use proptest::prelude::*;
use tokio::sync::oneshot;

use super::resume::{Handles, Tracking, kept, said};
use super::*;
use crate::api::{Broadcast, Publish, PublishError};

const LINE: u32 = 5;
/// Events that are kept of a place.
const KEPT: usize = 8;

/// An event of the line. Its target is that of its scope, but for some rooms' names.
#[derive(Clone)]
struct Said {
    at: Position,
    scope: Scope,
    rooms: Option<(String, String)>,
    topic: Option<String>,
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
                instead_of: None,
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

#[derive(Default, Clone)]
struct Place {
    epoch: u64,
    offset: u64,
    known: Extent,
    events: VecDeque<Said>,
}

/// What is on its way to a node.
enum Coming {
    Event(Said),
    End(Scope, Place, oneshot::Sender<bool>),
    Reached(u64),
    Lose(SocketAddress),
}

#[derive(Default)]
struct Way {
    node: Option<Arc<dyn Node>>,
    items: VecDeque<Coming>,
    is_cut: bool,
    delivered: u64,
    /// Another line than the one that all follow.
    line: Option<u32>,
    /// It has not joined the others yet.
    is_alone: bool,
    /// Nothing of what it says gets into the line.
    is_away: bool,
}

/// Where all nodes meet.
#[derive(Default)]
struct Meeting {
    last: u64,
    places: HashMap<Scope, Place>,
    sessions: HashMap<SocketAddress, (usize, Written)>,
    ways: [Way; 2],
    /// The last change of presence that was said.
    edges: u64,
    /// Users whose sessions were ended, and the number of that.
    ended: Vec<(String, Option<UserKey>, u64)>,
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

    fn cut(&mut self, node: usize) {
        let way = &mut self.ways[node];
        way.is_cut = true;
        for item in way.items.drain(..) {
            if let Coming::End(_, _, done) = item {
                let _ = done.send(false);
            }
        }
    }

    /// What a cut has lost is found.
    fn mend(&mut self, node: usize) {
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

type Shared = Arc<Mutex<Meeting>>;

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
                    meeting.ways[had].items.push_back(Coming::Lose(name));
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
            meeting.ways[*had].items.push_back(Coming::Lose(name));
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

struct Meets {
    local: LocalBackplane,
    line: Line,
}

impl Backplane for Meets {
    fn attach(&self, node: Arc<dyn Node>) {
        self.line.meeting.lock().unwrap().ways[self.line.node].node = Some(node.clone());
        self.local.attach(node);
    }

    fn connect(&self, newcomer: Newcomer) -> BoxFuture<Result<Admitted, DeviceLimitReached>> {
        self.local.connect(newcomer)
    }

    fn disconnect(&self, user: &Arc<UserKey>, socket: SocketAddress, keep: Duration) {
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

    fn secret(&self) -> Option<Arc<str>> {
        let meeting = self.line.meeting.lock().unwrap();
        (!meeting.ways[self.line.node].is_alone).then(|| "of all".into())
    }
}

/// Two nodes.
struct Cluster {
    worlds: [World; 2],
    meeting: Shared,
}

impl Cluster {
    fn new() -> Cluster {
        Cluster::with(&kept())
    }

    fn with(config: &Config) -> Cluster {
        Cluster::filled(config, |builder| builder)
    }

    fn filled(config: &Config, fill: impl Fn(GatewayBuilder) -> GatewayBuilder) -> Cluster {
        let meeting = Shared::default();
        let make = |node| {
            let mut config = config.clone();
            config.namespaces.get_mut("/").unwrap().announce = Announce::Namespace;
            World::with(config, |builder| {
                let clock = Clock::start();
                let now = move || Moment {
                    at: clock.now(),
                    unix_millis: clock.unix_millis(clock.now()),
                };
                let local = LocalBackplane::new(Duration::ZERO, Box::new(now));
                let line = Line {
                    meeting: meeting.clone(),
                    node,
                };
                fill(builder).backplane(Meets { local, line })
            })
        };
        let mut cluster = Cluster {
            worlds: [make(0), make(1)],
            meeting,
        };
        {
            let mut meeting = cluster.meeting.lock().unwrap();
            meeting.last = 100;
            for way in &mut meeting.ways {
                way.items.push_back(Coming::Reached(100));
            }
        }
        cluster.settle();
        cluster
    }

    /// What is on its way arrives, until nothing is.
    fn settle(&mut self) {
        loop {
            let mut is_quiet = true;
            for (at, world) in self.worlds.iter_mut().enumerate() {
                world.settle();
                let (node, items) = {
                    let mut meeting = self.meeting.lock().unwrap();
                    let way = &mut meeting.ways[at];
                    (way.node.clone().unwrap(), std::mem::take(&mut way.items))
                };
                is_quiet &= items.is_empty();
                let inside = world.runtime.enter();
                items
                    .into_iter()
                    .for_each(|item| bring(&self.meeting, at, &*node, item));
                drop(inside);
                world.settle();
            }
            if is_quiet {
                return;
            }
        }
    }

    /// A user comes online: all nodes read that, in one order or the other.
    fn comes_online(&mut self, number: u64, text: &str, first: usize) {
        for node in [first, 1 - first] {
            let edge = Edge {
                user: Arc::new(UserKey {
                    tenant_id: None,
                    user_id: format!("x{text}").into(),
                    user_type: None,
                }),
                online: true,
                rev: number,
                at: number,
                number,
                rooms: Vec::new(),
                others: None,
            };
            let there = self.meeting.lock().unwrap().ways[node].node.clone();
            there.unwrap().announce(vec![edge]);
            // What is told within a moment is told together.
            self.worlds[node].run(Duration::from_millis(60));
        }
    }

    /// Something is said to one socket, where it is or was.
    fn say_to(&mut self, node: usize, socket: &str, text: &str) {
        let name = SocketAddress::parse(socket).unwrap();
        let message = Message::new("news", &format!("{text:?}"));
        let world = &self.worlds[node];
        world.gateway.shared.fanout.emit(name, name, message);
    }

    /// Changes what is written down of a socket.
    fn rewrite(&self, socket: &str, change: impl FnOnce(&mut serde_json::Value)) {
        let name = SocketAddress::parse(socket).unwrap();
        let mut meeting = self.meeting.lock().unwrap();
        let (_, session) = meeting.sessions.get_mut(&name).unwrap();
        let mut record = serde_json::from_slice(&session.record).unwrap();
        change(&mut record);
        session.record = serde_json::to_vec(&record).unwrap();
    }

    fn mend(&mut self) {
        for node in 0..2 {
            self.meeting.lock().unwrap().mend(node);
        }
        self.settle();
    }
}

/// What was on its way to a node is there.
fn bring(meeting: &Shared, at: usize, node: &dyn Node, item: Coming) {
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
            begin: 100,
            last,
        }),
        Coming::Lose(name) => node.lose_session(name),
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
}

#[derive(Debug, Clone)]
enum Step {
    /// Something is said in a room, to all or to the user, at a node.
    Say(usize, usize),
    Broadcast(usize),
    ToUser(usize),
    /// To the socket, at the node that has it.
    ToSocket,
    /// A user comes online, which one of the nodes reads first.
    Online(usize),
    Join(usize),
    Leave(usize),
    /// So many of the texts that are on their way arrive.
    Arrive(usize),
    /// So many of them do, and the connection ends; or nobody notices that it has.
    Cut(usize),
    Abandon(usize),
    /// It comes back at a node.
    Return(usize),
    /// A node hears nothing of the line; or does again.
    CutLine(usize),
    Mend,
    Settle,
}

fn step() -> impl Strategy<Value = Step> {
    let node = || 0usize..2;
    prop_oneof![
        8 => (0usize..3, node()).prop_map(|(room, node)| Step::Say(room, node)),
        1 => node().prop_map(Step::Broadcast),
        1 => node().prop_map(Step::ToUser),
        3 => Just(Step::ToSocket),
        2 => node().prop_map(Step::Online),
        3 => (0usize..3).prop_map(Step::Join),
        1 => (0usize..3).prop_map(Step::Leave),
        2 => (0usize..5).prop_map(Step::Arrive),
        3 => (0usize..5).prop_map(Step::Cut),
        2 => (0usize..5).prop_map(Step::Abandon),
        5 => node().prop_map(Step::Return),
        1 => node().prop_map(Step::CutLine),
        1 => Just(Step::Mend),
        2 => Just(Step::Settle),
    ]
}

const ROOMS: [&str; 3] = ["a", "b", "c"];

fn news(ann: &mut Tracking) -> Vec<String> {
    let got = ann.got().into_iter();
    let named = got.map(|one| match one.split_once(r#""userId":"x"#) {
        Some((_, rest)) => format!(r#"["news","{}"]"#, rest.split('"').next().unwrap()),
        None => one,
    });
    named.filter(|one| one.starts_with(r#"["news""#)).collect()
}

/// A client comes to a node, for the first time or again.
fn come(cluster: &mut Cluster, ann: &mut Tracking, node: usize) {
    ann.client = cluster.worlds[node].engineio();
    let hello = ann.hello();
    ann.client.says(&hello);
    cluster.settle();
    ann.hear(usize::MAX);
}

/// One history; how often the client came back, and how often it went on.
fn tell(steps: Vec<Step>) -> Result<(), TestCaseError> {
    let mut cluster = Cluster::new();
    let mut ann = Tracking::lost(cluster.worlds[0].engineio(), "user=ann");
    come(&mut cluster, &mut ann, 0);
    // Bob keeps two of the rooms alive at one of the nodes.
    let mut bob = Tracking::lost(cluster.worlds[1].engineio(), "user=bob");
    come(&mut cluster, &mut bob, 1);
    for room in &ROOMS[..2] {
        bob.client.says(&format!(r#"42["join","{room}"]"#));
        cluster.settle();
    }
    let mut abandoned = Vec::new();
    let (mut rooms, mut expected, mut got) = ([false; 3], Vec::new(), Vec::new());
    let (mut is_there, mut at, mut may_refuse, mut is_line_cut) = (true, 0, false, false);
    let mut unread: Vec<String> = Vec::new();
    let (mut since, mut edges) = (0, 0);
    for (number, step) in steps.into_iter().enumerate() {
        let text = number.to_string();
        let mut is_for_ann = false;
        match step {
            Step::Say(room, node) => {
                said(&cluster.worlds[node], ROOMS[room], &text);
                is_for_ann = rooms[room];
                since += 1;
            }
            Step::Broadcast(node) => {
                let everybody = cluster.worlds[node].gateway.everybody("/", None).unwrap();
                everybody.emit("news", &text).unwrap();
                is_for_ann = true;
                since += 1;
            }
            Step::ToUser(node) => {
                said(&cluster.worlds[node], "user:ann", &text);
                is_for_ann = true;
                since += 1;
            }
            Step::ToSocket => {
                cluster.say_to(at, &ann.sid, &text);
                is_for_ann = true;
                since += 1;
            }
            Step::Online(first) => {
                edges += 1;
                cluster.comes_online(edges, &text, first);
                is_for_ann = true;
                since += 1;
            }
            Step::Join(room) if is_there && !is_line_cut => {
                cluster.settle();
                ann.client.says(&format!(r#"42["join","{}"]"#, ROOMS[room]));
                cluster.settle();
                rooms[room] = true;
            }
            Step::Leave(room) if is_there && !is_line_cut => {
                cluster.settle();
                ann.client
                    .says(&format!(r#"42["leave","{}"]"#, ROOMS[room]));
                cluster.settle();
                may_refuse |= rooms[room];
                rooms[room] = false;
            }
            Step::Arrive(most) if is_there => {
                unread.extend(ann.client.hears());
                let most = most.min(unread.len());
                ann.take(unread.drain(..most).collect::<Vec<_>>());
            }
            Step::Cut(most) | Step::Abandon(most) if is_there => {
                unread.extend(ann.client.hears());
                let most = most.min(unread.len());
                ann.take(unread.drain(..most).collect::<Vec<_>>());
                unread.clear();
                is_there = false;
                match step {
                    Step::Cut(_) => ann.is_cut(&mut cluster.worlds[at]),
                    _ => {
                        let next = cluster.worlds[at].engineio();
                        abandoned.push(std::mem::replace(&mut ann.client, next));
                    }
                }
                cluster.settle();
                since = 0;
            }
            Step::Return(node) if !is_there => {
                at = node;
                come(&mut cluster, &mut ann, node);
                is_there = true;
                if !ann.recovered {
                    // It was away for longer than is kept, or has left something.
                    prop_assert!(may_refuse || since > KEPT / 2, "a needless refusal");
                    cluster.mend();
                    is_line_cut = false;
                    ann.hear(usize::MAX);
                    rooms = [false; 3];
                    expected.clear();
                    got.clear();
                    ann.got();
                    may_refuse = false;
                }
            }
            Step::CutLine(node) => {
                cluster.meeting.lock().unwrap().cut(node);
                is_line_cut = true;
                may_refuse = true;
            }
            Step::Mend => {
                cluster.mend();
                is_line_cut = false;
            }
            Step::Settle => cluster.settle(),
            _ => {}
        }
        if is_for_ann {
            expected.push(format!(r#"["news","{text}"]"#));
        }
        got.extend(news(&mut ann));
        prop_assert!(expected.starts_with(&got), "{got:?} of {expected:?}");
    }
    cluster.mend();
    if !is_there {
        unread.clear();
        come(&mut cluster, &mut ann, 0);
        if !ann.recovered {
            return Ok(());
        }
    }
    let rest: Vec<String> = unread.drain(..).chain(ann.client.hears()).collect();
    let is_told_of_gap = rest.iter().any(|text| text.contains("room:gap"));
    ann.take(rest);
    got.extend(news(&mut ann));
    if !is_told_of_gap {
        prop_assert_eq!(got, expected);
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn a_client_that_moves_between_nodes_has_all_of_it_once_and_in_order(
        steps in prop::collection::vec(step(), 1..60)
    ) {
        tell(steps)?;
    }
}

#[test]
fn a_node_that_did_not_hear_where_a_client_went_takes_it_up_as_it_was_there() {
    let steps = vec![
        Step::Join(0),
        Step::CutLine(0),
        Step::Abandon(9),
        Step::Return(1),
        Step::Mend,
        Step::Join(1),
        Step::Cut(9),
        Step::Return(0),
        Step::Say(1, 1),
        Step::Settle,
    ];
    tell(steps).unwrap();
}

impl Cluster {
    /// A node hears of another line, or of the one that it knows.
    fn goes_over(&mut self, node: usize, line: u32) {
        {
            let mut meeting = self.meeting.lock().unwrap();
            let last = meeting.last;
            let way = &mut meeting.ways[node];
            way.line = Some(line);
            way.items.push_back(Coming::Reached(last));
        }
        self.settle();
    }
}

#[test]
fn who_began_in_a_line_that_a_node_does_not_follow_begins_afresh_there() {
    for line in [LINE, LINE + 1] {
        let mut cluster = Cluster::new();
        let mut ann = Tracking::lost(cluster.worlds[0].engineio(), "user=ann");
        // Her node is at a master that has gone on by itself.
        cluster.goes_over(0, line);
        come(&mut cluster, &mut ann, 0);
        said(&cluster.worlds[0], "user:ann", "1");
        cluster.settle();
        ann.hear(usize::MAX);
        assert_eq!(news(&mut ann), [r#"["news","1"]"#]);
        ann.is_cut(&mut cluster.worlds[0]);
        cluster.settle();
        come(&mut cluster, &mut ann, 1);
        assert_eq!(ann.recovered, line == LINE);
    }
}

#[test]
fn who_has_been_in_a_later_line_begins_afresh_at_a_node_that_has_not_heard_of_it() {
    for line in [LINE, LINE + 1] {
        let mut cluster = Cluster::new();
        let mut ann = Tracking::lost(cluster.worlds[0].engineio(), "user=ann");
        come(&mut cluster, &mut ann, 0);
        cluster.goes_over(0, line);
        said(&cluster.worlds[0], "user:ann", "1");
        cluster.settle();
        ann.hear(usize::MAX);
        assert_eq!(news(&mut ann), [r#"["news","1"]"#]);
        ann.is_cut(&mut cluster.worlds[0]);
        cluster.settle();
        come(&mut cluster, &mut ann, 1);
        assert_eq!(ann.recovered, line == LINE);
    }
}

#[test]
fn who_joined_a_room_before_a_failover_is_in_it_also_after_their_node_has_died() {
    let mut cluster = Cluster::new();
    let mut ann = Tracking::lost(cluster.worlds[0].engineio(), "user=ann");
    come(&mut cluster, &mut ann, 0);
    let before = cluster.meeting.lock().unwrap().sessions.clone();
    ann.client.says(r#"42["join","a"]"#);
    cluster.settle();
    // A replica takes over that has not heard of it.
    cluster.meeting.lock().unwrap().sessions = before;
    cluster.goes_over(0, LINE + 1);
    cluster.goes_over(1, LINE + 1);
    said(&cluster.worlds[0], "a", "1");
    cluster.settle();
    ann.hear(usize::MAX);
    cluster.meeting.lock().unwrap().cut(0);
    let next = cluster.worlds[0].engineio();
    let _dead = std::mem::replace(&mut ann.client, next);
    come(&mut cluster, &mut ann, 1);
    assert!(ann.recovered);
    said(&cluster.worlds[1], "a", "2");
    cluster.settle();
    ann.hear(usize::MAX);
    assert_eq!(news(&mut ann), [r#"["news","1"]"#, r#"["news","2"]"#]);
}

#[test]
fn what_is_said_to_a_user_waits_for_who_was_lost_on_another_node() {
    let mut cluster = Cluster::new();
    let mut ann = Tracking::lost(cluster.worlds[0].engineio(), "user=ann");
    come(&mut cluster, &mut ann, 0);
    ann.is_cut(&mut cluster.worlds[0]);
    cluster.settle();
    let gateway = cluster.worlds[1].gateway.clone();
    let emitted = async move {
        let ann = (None, "ann");
        gateway.emit_to_users(ann, None, "news", "\"1\"").await
    };
    assert_eq!(cluster.worlds[1].finish(emitted), Ok(0));
    cluster.settle();
    come(&mut cluster, &mut ann, 0);
    assert!(ann.recovered);
    assert_eq!(news(&mut ann), [r#"["news","1"]"#]);
}

/// How a client is sent away, by a node that reaches no other one.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Away {
    User,
    Type,
    Socket,
}

fn is_sent_away(cluster: &mut Cluster, node: usize, ann: &Tracking, how: Away) {
    let gateway = cluster.worlds[node].gateway.clone();
    let id = ann.sid.clone();
    let user = UserKey {
        tenant_id: None,
        user_id: "ann".into(),
        user_type: Some("rider".into()),
    };
    cluster.worlds[node].finish(async move {
        match how {
            Away::User => drop(gateway.disconnect_users((None, "ann")).await),
            Away::Type => drop(gateway.disconnect_user(&user).await),
            Away::Socket => assert_eq!(gateway.disconnect(&id).await.unwrap().sockets, 1),
        }
    });
    cluster.settle();
}

#[test]
fn who_is_sent_away_while_lost_begins_afresh_wherever_they_were_and_wherever_they_come() {
    for how in [Away::User, Away::Type, Away::Socket] {
        // Their node has them still, or hears nothing any more.
        for (to, is_dead) in [(0, false), (1, false), (1, true)] {
            let mut cluster = Cluster::new();
            let mut ann = Tracking::lost(cluster.worlds[0].engineio(), "user=ann/rider");
            come(&mut cluster, &mut ann, 0);
            // Another one with the same id, and the same node.
            let mut other = Tracking::lost(cluster.worlds[0].engineio(), "user=ann/driver");
            come(&mut cluster, &mut other, 0);
            if is_dead {
                cluster.meeting.lock().unwrap().cut(0);
            } else {
                ann.is_cut(&mut cluster.worlds[0]);
                other.is_cut(&mut cluster.worlds[0]);
            }
            cluster.settle();
            is_sent_away(&mut cluster, 1, &ann, how);
            let _dead = std::mem::replace(&mut ann.client, cluster.worlds[1].engineio());
            come(&mut cluster, &mut ann, to);
            assert!(!ann.recovered, "{how:?}, to {to}");
            let _dead = std::mem::replace(&mut other.client, cluster.worlds[1].engineio());
            come(&mut cluster, &mut other, to);
            assert_eq!(other.recovered, how != Away::User, "{how:?}, to {to}");
            // What begins after that is theirs.
            ann.is_cut(&mut cluster.worlds[to]);
            cluster.settle();
            come(&mut cluster, &mut ann, 1);
            assert!(ann.recovered, "{how:?}, to {to}");
        }
    }
}

#[test]
fn who_says_what_cannot_be_kept_hears_that_whomever_it_was_for() {
    let mut config = kept();
    config.recovery.refuse_unreachable = true;
    let mut cluster = Cluster::with(&config);
    let mut ann = Tracking::lost(cluster.worlds[0].engineio(), "user=ann");
    come(&mut cluster, &mut ann, 0);
    cluster.meeting.lock().unwrap().ways[0].is_away = true;
    let said = |cluster: &mut Cluster, room: Option<&str>, except: &[&str]| {
        let gateway = cluster.worlds[0].gateway.clone();
        let (namespace, event, data) = ("/".into(), "news".into(), "1".into());
        let except = except.iter().map(ToString::to_string).collect();
        let publish = room.map(ToOwned::to_owned);
        cluster.worlds[0].finish(async move {
            let Some(room) = publish else {
                return gateway
                    .broadcast(Broadcast {
                        tenant_id: None,
                        namespace,
                        event,
                        data,
                        except,
                    })
                    .await;
            };
            gateway
                .publish(Publish {
                    tenant_id: None,
                    namespace,
                    room,
                    event,
                    data,
                    key: None,
                    except,
                })
                .await
        })
    };
    for room in [Some("a"), Some("user:ann"), None] {
        for except in [&[][..], &["b"]] {
            let said = said(&mut cluster, room, except);
            assert_eq!(said.err(), Some(PublishError::Unreachable), "{room:?}");
        }
    }
    let gateway = cluster.worlds[0].gateway.clone();
    let emitted = async move {
        let ann = (None, "ann");
        gateway.emit_to_users(ann, None, "news", "1").await
    };
    let emitted = cluster.worlds[0].finish(emitted);
    assert_eq!(emitted, Err(PublishError::Unreachable));
    let publish = r#"421["publish",{"room":"user:ann","event":"news","data":1}]"#;
    let answer = cluster.worlds[0].ask(&mut ann.client, publish);
    assert!(answer[0].contains(r#""code":"SEND_FAILED""#), "{answer:?}");
}

#[test]
fn all_are_told_where_what_was_said_to_everybody_is_lost() {
    let mut cluster = Cluster::new();
    let mut ann = Tracking::lost(cluster.worlds[0].engineio(), "user=ann");
    come(&mut cluster, &mut ann, 0);
    let world = &mut cluster.worlds[0];
    let fanout = world.gateway.shared.fanout.clone();
    let target = Target::All {
        namespace: "/",
        tenant: None,
    };
    let at = Position {
        line: LINE,
        id: 101,
        before: 100,
        epoch: 1,
        offset: 1,
    };
    fanout.hear(Heard {
        at,
        target,
        message: None,
        skip: None,
        to: None,
        edges_after: None,
    });
    world.settle();
    let heard = ann.client.hears();
    assert!(heard[0].starts_with(r#"42["room:gap",{"room":"user:ann"}"#));
}

#[test]
fn a_live_client_whose_topic_cannot_be_reached_hears_so_and_keeps_its_connection() {
    let mut cluster = Cluster::new();
    let mut ann = cluster.worlds[0].live("user=ann");
    cluster.settle();
    ann.hears();
    let world = &mut cluster.worlds[0];
    // What all nodes have of it does not come.
    let subscribe = r#"{"type":"subscribe","topic":"a","id":1}"#;
    assert!(world.ask(&mut ann, subscribe).is_empty());
    // What it says meanwhile waits.
    ann.says(r#"{"type":"ping","id":2}"#);
    world.run(ms(7_900));
    assert!(ann.hears().is_empty());
    world.run(ms(200));
    let heard = ann.hears();
    let error = concat!(
        r#"{"type":"error","code":"INTERNAL","message":"The topic was not reached in time","#,
        r#""retryAfterMs":20000,"data":{"topic":"a"},"id":1}"#,
    );
    assert_eq!(heard[0], error);
    assert!(heard[1].contains(r#""pong","id":2"#), "{heard:?}");
    assert_eq!(heard.len(), 2);
    assert_eq!(world.gateway.connection_count(), 1);
}

#[test]
fn several_topics_that_cannot_be_reached_hold_up_a_live_client_no_longer_than_one() {
    let mut cluster = Cluster::new();
    let mut ann = cluster.worlds[0].live("user=ann");
    cluster.settle();
    ann.hears();
    let world = &mut cluster.worlds[0];
    for (id, topic) in ["a", "b", "c"].into_iter().enumerate() {
        ann.says(&format!(
            r#"{{"type":"subscribe","topic":"{topic}","id":{id}}}"#
        ));
    }
    ann.says(r#"{"type":"ping","id":3}"#);
    world.run(ms(8_100));
    let heard = ann.hears();
    for (id, told) in heard[..3].iter().enumerate() {
        let told: serde_json::Value = serde_json::from_str(told).unwrap();
        assert_eq!(told["code"], "INTERNAL", "{told}");
        assert_eq!(told["id"], id, "{told}");
        let pause = told["retryAfterMs"].as_u64().unwrap();
        assert!((19_000..=20_000).contains(&pause), "{told}");
    }
    assert!(heard[3].contains(r#""pong","id":3"#), "{heard:?}");
    // Later, what is left of the pause; and after it, one is waited for again.
    world.run(ms(10_000));
    let subscribe = r#"{"type":"subscribe","topic":"b","id":4}"#;
    let told = world.ask(&mut ann, subscribe);
    let told: serde_json::Value = serde_json::from_str(&told[0]).unwrap();
    let pause = told["retryAfterMs"].as_u64().unwrap();
    assert!((9_000..=10_000).contains(&pause), "{told}");
    world.run(ms(pause));
    ann.hears();
    assert!(world.ask(&mut ann, subscribe).is_empty());
    world.run(ms(8_100));
    assert!(ann.hears()[0].contains(r#""retryAfterMs":20000"#));
}

#[test]
fn nobody_is_taken_for_a_forger_by_a_node_that_has_not_joined_the_others() {
    let mut cluster = Cluster::new();
    let mut ann = Tracking::lost(cluster.worlds[0].engineio(), "user=ann");
    come(&mut cluster, &mut ann, 0);
    ann.is_cut(&mut cluster.worlds[0]);
    cluster.settle();
    cluster.meeting.lock().unwrap().ways[1].is_alone = true;
    come(&mut cluster, &mut ann, 1);
    assert!(!ann.recovered);
    let outcomes = |cluster: &Cluster, name| {
        let name = format!("heartline_resumes_total{{outcome=\"{name}\"}} ");
        cluster.worlds[1].metric(&name)
    };
    assert_eq!(outcomes(&cluster, "bad_token"), 0);
    assert_eq!(outcomes(&cluster, "unknown"), 1);
}

#[test]
fn what_the_app_remembers_of_a_socket_is_there_on_the_node_to_which_its_client_comes() {
    let handles = Handles::default();
    let mut cluster = Cluster::filled(&kept(), |builder| {
        let builder = builder.on_disconnect(|socket: Socket| async move {
            let times: u32 = socket.remembered("ends").unwrap_or(0);
            socket.remember("ends", &(times + 1)).unwrap();
        });
        handles.filled_by(builder)
    });
    let mut ann = Tracking::lost(cluster.worlds[0].engineio(), "user=ann");
    come(&mut cluster, &mut ann, 0);
    let socket = handles.find(&ann.sid, false);
    socket.remember("gone", &1).unwrap();
    cluster.settle();
    socket.remember("gone", &()).unwrap();
    socket.remember("bet", &("red\n\"", 10)).unwrap();
    socket.remember("bet", &("red\n\"", 20)).unwrap();
    socket.data().insert(7u32);
    cluster.settle();
    // Her node is killed: nothing of her end is written, nor heard.
    cluster.meeting.lock().unwrap().cut(0);
    let killed = std::mem::replace(&mut ann.client, cluster.worlds[0].engineio());
    let bet = Some(("red\n\"".to_owned(), 20));
    // Then she is cut off, and comes back to the same node, and to another.
    for (node, ends) in [(1, 0u32), (1, 1), (0, 2)] {
        come(&mut cluster, &mut ann, node);
        assert!(ann.recovered, "at {node} after {ends} ends");
        let socket = handles.find(&ann.sid, false);
        assert_eq!(socket.remembered("bet"), bet, "at {node}");
        assert_eq!(socket.remembered::<u32>("gone"), None);
        assert_eq!(socket.remembered("ends"), (ends > 0).then_some(ends));
        // What another node has is no JSON, and stays there.
        assert_eq!(socket.data().get::<u32>(), None);
        assert_eq!(socket.remembered("late"), ends.checked_sub(1));
        ann.is_cut(&mut cluster.worlds[node]);
        cluster.settle();
        // A handler that has not ended yet goes on.
        socket.remember("late", &ends).unwrap();
        cluster.settle();
        if ends == 1 {
            cluster.mend();
        }
    }
    drop(killed);
}

#[test]
fn what_another_build_has_written_of_a_socket_is_gone_on_with_or_set_aside() {
    type Change = fn(&mut serde_json::Value);
    let cases: [(bool, Option<u32>, Change); 5] = [
        (true, Some(7), |record| {
            record["new"] = serde_json::json!({ "of": "another" });
        }),
        // A build before this one wrote nothing of it.
        (true, None, |record| {
            record.as_object_mut().unwrap().remove("remembered");
        }),
        (false, None, |record| record["remembered"] = 7.into()),
        (false, None, |record| record["remembered"]["n"] = 7.into()),
        (false, None, |record| {
            record["remembered"]["long"] = "1".repeat(4_096).into();
        }),
    ];
    for (index, (recovers, remembered, change)) in cases.into_iter().enumerate() {
        let handles = Handles::default();
        let mut cluster = Cluster::filled(&kept(), |builder| handles.filled_by(builder));
        let mut ann = Tracking::lost(cluster.worlds[0].engineio(), "user=ann");
        come(&mut cluster, &mut ann, 0);
        let id = ann.sid.clone();
        handles.find(&id, false).remember("n", &7).unwrap();
        ann.is_cut(&mut cluster.worlds[0]);
        cluster.settle();
        cluster.rewrite(&id, change);
        come(&mut cluster, &mut ann, 1);
        assert_eq!((index, ann.recovered), (index, recovers));
        let socket = handles.find(&ann.sid, false);
        assert_eq!((index, socket.remembered("n")), (index, remembered));
        let name = SocketAddress::parse(&id).unwrap();
        let is_kept = cluster.meeting.lock().unwrap().sessions.contains_key(&name);
        assert_eq!((index, is_kept), (index, recovers));
    }
}

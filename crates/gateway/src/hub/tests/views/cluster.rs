//! The other nodes and the ways to them, where everything goes wrong that may: a backplane within
//! its contract, by the words of [`Backplane`] and [`Node`].
//!
//! Changes are read in their order, late and in batches. Some are lost: that is said before
//! [`heard_until`](Backplane::heard_until) goes past them, perhaps behind later ones. Answers are of
//! a moment between their question and their coming, so one that was asked for later may be of an
//! earlier moment. While the way to the store is cut, nothing is read and answers are stale;
//! `is_trusted` says so some time after, until what came meanwhile was read. Notes of one node come in
//! their order; whatever is lost of them is said to be, later.

use std::collections::{BTreeMap, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};

use heartline_core::backplane::{Backplane, ClusterStatus, Message, Missed, Node, Target};
use heartline_core::entries::{Standing, UserPresence};
use heartline_core::presence::watch::{Board, Note, Scope};
use heartline_core::presence::{
    Admitted, DeviceLimitReached, Edge, Newcomer, Presence, RoomAddress, SocketAddress,
};

use super::super::*;
use super::store::{Name, Place, Store};
use super::{Dice, Pace};

/// The event by which nodes speak of rooms that are watched.
const NOTE: &str = "presence:watched";

/// Something on its way to this node.
pub(super) enum Coming {
    Edges(Vec<Edge>),
    MissedEdges,
    Note(String),
    Missed,
}

/// Notes on their way, in their order; `None`: that some were lost.
type Way = VecDeque<(u64, Option<String>)>;

fn next(way: &mut Way, now: u64) -> Option<Option<String>> {
    way.front().filter(|(due, _)| *due <= now)?;
    way.pop_front().map(|(_, note)| note)
}

/// A user's socket at another node.
struct Socket {
    user: Arc<UserKey>,
    id: String,
    places: Vec<Place>,
}

/// Another node.
pub(super) struct Peer {
    tag: u32,
    board: Board,
    sockets: Vec<Socket>,
    inbox: Way,
}

impl Peer {
    /// Users in a room, as often as they have sockets there.
    fn members(&self, scope: &Scope) -> Vec<Arc<str>> {
        let is_there = |socket: &&Socket| {
            let mut places = socket.places.iter();
            places.any(|place| scope_of(place) == *scope)
        };
        let there = self.sockets.iter().filter(is_there);
        there.map(|socket| socket.user.user_id.clone()).collect()
    }
}

fn scope_of(place: &Place) -> Scope {
    Scope::room(
        place.tenant.clone(),
        place.namespace.into(),
        place.room.into(),
    )
}

pub(super) struct Cluster {
    pub(super) pace: Pace,
    /// Of a hundred things, so many go wrong.
    pub(super) trouble: u64,
    seed: u64,
    dice: Dice,
    clock: Option<Clock>,
    node: Option<Arc<dyn Node>>,
    pub(super) store: Store,
    /// Changes that were not read yet, and when it is read next.
    edges: VecDeque<Edge>,
    reads_at: u64,
    heard_until: u64,
    /// Times of changes that were lost, and when that is told.
    holes: Vec<(u64, u64)>,
    /// Until when more are lost: a loss rarely comes alone.
    loses_until: u64,
    /// Since when the store is not reached, and when that is noticed.
    cut: Option<(u64, u64)>,
    /// It is reached again, and what came meanwhile was not read yet.
    catches_up: bool,
    /// It was read, and not all of that has been given to the node.
    has_read: bool,
    /// Not everybody has come back to the store.
    pub(super) is_in_hold: bool,
    /// How often that was so: each time, what is known may be lost.
    pub(super) holds: u64,
    /// Since when nothing is believed.
    pub(super) doubted: Option<u64>,
    pub(super) peers: Vec<Peer>,
    tags: u32,
    sockets: u64,
    /// What other nodes said, on its way here.
    ways: BTreeMap<u32, Way>,
    has_failed: bool,
}

pub(super) type Shared = Arc<Mutex<Cluster>>;

impl Cluster {
    pub(super) fn new(seed: u64, pace: Pace, trouble: u64) -> Cluster {
        Cluster {
            pace,
            trouble,
            seed,
            dice: Dice(seed ^ 0x5eed),
            clock: None,
            node: None,
            store: Store::default(),
            edges: VecDeque::new(),
            reads_at: 0,
            heard_until: 0,
            holes: Vec::new(),
            loses_until: 0,
            cut: None,
            catches_up: false,
            has_read: false,
            is_in_hold: false,
            holds: 0,
            doubted: None,
            peers: Vec::new(),
            tags: super::store::HERE,
            sockets: 0,
            ways: BTreeMap::new(),
            has_failed: false,
        }
    }

    pub(super) fn begin(&mut self, clock: Clock) {
        self.clock = Some(clock);
        (self.reads_at, self.heard_until) = (self.now(), self.now());
    }

    /// Unix milliseconds.
    pub(super) fn now(&self) -> u64 {
        self.clock.map_or(0, |clock| clock.unix_millis(clock.now()))
    }

    fn is_trusted(&self) -> bool {
        let is_cut = self.cut.is_some_and(|(_, noticed)| self.now() >= noticed);
        !self.is_in_hold && !is_cut && !self.catches_up
    }

    /// Chance that is the same for the same question at the same time, in whatever order what is
    /// asked at once is asked.
    fn luck(&self, of: impl Hash) -> Dice {
        let mut hasher = DefaultHasher::new();
        let since_begin = self.clock.map(|clock| clock.now().0 / 1000);
        (self.seed, since_begin, of).hash(&mut hasher);
        Dice(hasher.finish())
    }

    /// The same of a note, in whatever order it names users.
    fn luck_of_note(&self, text: &str) -> Dice {
        let mut bytes = text.as_bytes().to_vec();
        bytes.sort_unstable();
        self.luck(bytes)
    }

    // --- users and rooms -------------------------------------------------

    fn change(&mut self, user: &Arc<UserKey>, socket: String, comes: bool) {
        let at = self.now();
        let edge = self.store.change(user, socket, comes, at);
        self.edges.extend(edge);
    }

    /// A user comes to another node.
    pub(super) fn comes(&mut self, at: usize, user: Arc<UserKey>) {
        self.sockets += 1;
        let id = format!("elsewhere {}", self.sockets);
        self.change(&user, id.clone(), true);
        let places = Vec::new();
        self.peers[at].sockets.push(Socket { user, id, places });
    }

    /// A socket at another node comes into a room or leaves it.
    pub(super) fn turns(&mut self, at: usize, socket: usize, place: (&'static str, &'static str)) {
        let sockets = &self.peers[at].sockets;
        let Some(there) = sockets.get(socket % sockets.len().max(1)) else {
            return;
        };
        let (user, index) = (there.user.clone(), socket % sockets.len());
        let place = Place {
            tenant: user.tenant_id.clone(),
            namespace: place.0,
            room: place.1,
        };
        let places = &there.places;
        let enters = !places.contains(&place);
        let places = &mut self.peers[at].sockets[index].places;
        match enters {
            true => places.push(place.clone()),
            false => places.retain(|one| *one != place),
        }
        self.moves(at, &place, &user, enters);
    }

    fn moves(&mut self, at: usize, place: &Place, user: &UserKey, enters: bool) {
        let known_by = self.now() + self.pace.told_elsewhere();
        let peer = &mut self.peers[at];
        let moved = (peer.tag, enters);
        self.store.moves(place, &user.user_id, moved, known_by);
        let scope = Arc::new(scope_of(place));
        peer.board.note(&scope, 0, &user.user_id, enters);
    }

    /// A socket at another node ends.
    pub(super) fn goes(&mut self, at: usize, socket: usize) {
        let sockets = &mut self.peers[at].sockets;
        if sockets.is_empty() {
            return;
        }
        let socket = sockets.swap_remove(socket % sockets.len());
        for place in &socket.places {
            self.moves(at, place, &socket.user, false);
        }
        self.change(&socket.user, socket.id, false);
    }

    /// A node comes, and says so.
    pub(super) fn node_comes(&mut self) {
        self.tags += 1;
        let tag = self.tags;
        self.peers.push(Peer {
            tag,
            board: Board::new(tag, 1),
            sockets: Vec::new(),
            inbox: Way::new(),
        });
        self.says(tag, &Note::Begun);
    }

    /// A node is no more.
    pub(super) fn node_goes(&mut self, at: usize) {
        let peer = self.peers.swap_remove(at);
        let known_by = self.now() + self.pace.gone_elsewhere();
        for socket in peer.sockets {
            for place in &socket.places {
                let moved = (peer.tag, false);
                self.store
                    .moves(place, &socket.user.user_id, moved, known_by);
            }
            self.change(&socket.user, socket.id, false);
        }
    }

    // --- what goes wrong -------------------------------------------------

    pub(super) fn is_cut(&self) -> bool {
        self.cut.is_some()
    }

    pub(super) fn cut(&mut self) {
        let now = self.now();
        let noticed = now + self.dice.below(self.pace.edges + 1);
        self.cut.get_or_insert((now, noticed));
    }

    pub(super) fn mend(&mut self) {
        if let Some((_, noticed)) = self.cut.take() {
            self.catches_up |= self.now() >= noticed;
            self.reads_at = self.now() + self.dice.below(self.pace.edges + 1);
        }
    }

    /// Nothing goes wrong any more.
    pub(super) fn heal(&mut self) {
        self.trouble = 0;
        self.is_in_hold = false;
        self.mend();
    }

    // --- what comes ------------------------------------------------------

    /// What is due by now; and up to when all changes were heard once it has come.
    fn due(&mut self) -> (Vec<Coming>, u64) {
        let now = self.now();
        if self.is_trusted() {
            self.doubted = None;
        } else {
            self.doubted.get_or_insert(now);
        }
        let (mut coming, mut heard) = (Vec::new(), self.heard_until);
        if now >= self.reads_at && self.cut.is_none() {
            self.read(&mut coming);
            heard = now;
        }
        let before = self.holes.len();
        self.holes.retain(|(_, told)| now < *told);
        if self.holes.len() < before || self.dice.below(20_000) < self.trouble {
            // Before the changes that follow, or behind them.
            let at = self.dice.below(coming.len() as u64 + 1) as usize;
            coming.insert(at, Coming::MissedEdges);
        }
        let lost = self.holes.iter().map(|(at, _)| *at).min();
        heard = lost.map_or(heard, |lost| heard.min(lost));
        self.let_peers_speak();
        for way in self.ways.values_mut() {
            while let Some(note) = next(way, now) {
                coming.push(note.map_or(Coming::Missed, Coming::Note));
            }
        }
        self.ways.retain(|_, way| !way.is_empty());
        (coming, heard)
    }

    fn read(&mut self, coming: &mut Vec<Coming>) {
        let now = self.now();
        self.has_read = true;
        let mut batch: Vec<Edge> = self.edges.drain(..).collect();
        let chance = match now < self.loses_until {
            true => 50,
            false => 2 * self.trouble,
        };
        if !batch.is_empty() && self.dice.chance(chance) {
            // The oldest are gone, or some in the middle of them.
            let count = batch.len() as u64;
            let from = self.dice.below(2) * self.dice.below(count);
            let to = from + 1 + self.dice.below(count - from);
            let told = now + self.dice.below(2) * self.dice.below(self.pace.edges + 1);
            let lost = batch.drain(from as usize..to as usize);
            self.holes.extend(lost.map(|edge| (edge.at, told)));
            if self.trouble > 0 && now >= self.loses_until {
                // As long as it takes to ask about everybody.
                self.loses_until = told + 300 + self.pace.lists + 2 * self.pace.answers;
            }
        }
        if !batch.is_empty() {
            coming.push(Coming::Edges(batch));
        }
        let most = match self.dice.chance(75) {
            true => self.pace.edges.min(50),
            false => self.pace.edges,
        };
        self.reads_at = now + self.dice.below(most + 1);
    }

    /// Something of a node is on its way here, or lost.
    fn says(&mut self, tag: u32, note: &Note) {
        let text = serde_json::to_string(&(tag, note)).unwrap();
        let mut luck = self.luck_of_note(&text);
        let now = self.now();
        let due = now + luck.below(self.pace.notes + 1);
        let way = self.ways.entry(tag).or_default();
        let due = way.back().map_or(due, |(last, _)| due.max(*last));
        if luck.chance(self.trouble) {
            return way.push_back((due.max(now + luck.below(self.pace.notes + 1)), None));
        }
        way.push_back((due, Some(text.clone())));
        if luck.chance(self.trouble) {
            way.push_back((due, Some(text)));
        }
    }

    fn let_peers_speak(&mut self) {
        let now = self.now();
        let at = self.clock.unwrap().now();
        let mut said = Vec::new();
        for peer in &mut self.peers {
            while let Some(note) = next(&mut peer.inbox, now) {
                let Some(note) = note else {
                    peer.board.ask_again(at);
                    continue;
                };
                let (from, note): (u32, Note) = serde_json::from_str(&note).unwrap();
                if let Some(scope) = peer.board.noted(from, note, at) {
                    let there = peer.members(&scope);
                    peer.board.seed_here(&scope, 0, there);
                }
            }
            peer.board.expire(at);
            let notes = peer.board.notes(at);
            said.extend(notes.into_iter().map(|note| (peer.tag, note)));
        }
        for (tag, note) in said {
            self.says(tag, &note);
        }
    }

    /// This node speaks to the others.
    fn hears(&mut self, said: &str) {
        let (now, trouble) = (self.now(), self.trouble);
        let mut luck = self.luck_of_note(said);
        for peer in &mut self.peers {
            let due = now + luck.below(self.pace.notes + 1);
            let last = peer.inbox.back().map_or(due, |(last, _)| *last);
            let is_lost = luck.chance(trouble);
            let said = (!is_lost).then(|| said.to_owned());
            peer.inbox.push_back((due.max(last), said));
        }
    }

    /// The answer about a user, as it is at this moment.
    fn answer(&self, name: &Name, own: UserPresence, luck: &mut Dice) -> UserPresence {
        let is_in_doubt = self.cut.is_some() || luck.chance(self.trouble / 3);
        let mut found = self.store.presence(name, self.now());
        if is_in_doubt && (self.cut.is_some() || luck.chance(50)) {
            // What this node has, whose numbers are others.
            found = UserPresence { rev: 0, ..own };
            for kind in &mut found.types {
                kind.rev = 0;
            }
        }
        found.stale = is_in_doubt;
        found
    }
}

/// Gives what is due to the node.
pub(super) fn bring(cluster: &Shared) {
    let locked = || cluster.lock().unwrap();
    let node = locked().node.clone().unwrap();
    let (coming, heard) = locked().due();
    for coming in coming {
        match coming {
            Coming::Edges(edges) => node.announce(edges),
            Coming::MissedEdges => node.missed_edges(),
            Coming::Note(text) => node.deliver(&Target::Nodes, Message::new(NOTE, &text)),
            Coming::Missed => node.missed(Missed::Anybody),
        }
    }
    let mut cluster = locked();
    cluster.heard_until = heard;
    if std::mem::take(&mut cluster.has_read) {
        cluster.catches_up = false;
        if cluster.is_trusted() {
            cluster.doubted = None;
        }
    }
}

/// The node's own side of it.
pub(super) struct Side {
    presence: Arc<Presence>,
    cluster: Shared,
}

impl Side {
    pub(super) fn of(cluster: &Shared) -> Side {
        Side {
            presence: Arc::new(Presence::of_one_node_of_many()),
            cluster: cluster.clone(),
        }
    }

    fn locked<T>(&self, act: impl FnOnce(&mut Cluster) -> T) -> T {
        act(&mut self.cluster.lock().unwrap())
    }
}

async fn pause(millis: u64) {
    if millis > 0 {
        tokio::time::sleep(ms(millis)).await;
    }
}

impl Backplane for Side {
    fn attach(&self, node: Arc<dyn Node>) {
        self.locked(|cluster| cluster.node = Some(node));
    }

    fn connect(&self, newcomer: Newcomer) -> BoxFuture<Result<Admitted, DeviceLimitReached>> {
        let (user, socket) = (newcomer.user.clone(), newcomer.socket.id());
        let now = self.locked(|cluster| {
            cluster.change(&user, socket, true);
            cluster.now()
        });
        self.presence.enter(newcomer, now);
        Box::pin(std::future::ready(Ok(Admitted::default())))
    }

    fn disconnect(&self, user: &Arc<UserKey>, socket: SocketAddress, _: Duration) {
        self.presence.leave(user, socket);
        self.locked(|cluster| cluster.change(user, socket.id(), false));
    }

    fn enter_room(&self, _: &Arc<UserKey>, _: SocketAddress, _: RoomAddress) {}

    fn leave_room(&self, _: &Arc<UserKey>, _: SocketAddress, _: &RoomAddress) {}

    fn presence(
        &self,
        tenant: Option<Arc<str>>,
        users: Vec<String>,
    ) -> BoxFuture<Vec<UserPresence>> {
        let (cluster, presence) = (self.cluster.clone(), self.presence.clone());
        Box::pin(async move {
            let locked = || cluster.lock().unwrap();
            let (mut luck, pace) = {
                let mut names = users.clone();
                names.sort();
                let cluster = locked();
                (cluster.luck((&tenant, names)), cluster.pace)
            };
            pause(luck.below(pace.answers / 2 + 1)).await;
            let found: Vec<UserPresence> = {
                let cluster = locked();
                let now = cluster.now();
                let of = |user: &String| {
                    let own = presence.get(tenant.as_deref(), user, now);
                    let mut luck = cluster.luck((luck.0, user));
                    cluster.answer(&(tenant.clone(), user.as_str().into()), own, &mut luck)
                };
                users.iter().map(of).collect()
            };
            pause(luck.below(pace.answers / 2 + 1)).await;
            let is_trusted = locked().is_trusted();
            let found = found.into_iter().map(|mut found| {
                found.stale |= !is_trusted;
                found
            });
            found.collect()
        })
    }

    fn is_trusted(&self) -> bool {
        self.locked(|cluster| cluster.is_trusted())
    }

    fn standing(&self) -> Option<Standing> {
        self.locked(|cluster| {
            let standing = Standing([cluster.holds, 0, 0]);
            cluster.is_trusted().then_some(standing)
        })
    }

    fn heard_until(&self) -> Option<u64> {
        self.locked(|cluster| Some(cluster.heard_until))
    }

    fn local(&self) -> &Presence {
        &self.presence
    }

    fn publish(&self, target: &Target<'_>, message: &Message) {
        if let (Target::Nodes, NOTE) = (target, &*message.event) {
            self.locked(|cluster| cluster.hears(&message.args));
        }
    }

    fn tag(&self) -> Option<u32> {
        Some(super::store::HERE)
    }

    fn others(&self) -> BoxFuture<Option<(Vec<u32>, Duration)>> {
        let cluster = self.cluster.clone();
        Box::pin(async move {
            let locked = || cluster.lock().unwrap();
            let mut luck = locked().luck("others");
            let pace = locked().pace;
            let asked = tokio::time::Instant::now();
            let early = luck.below(2) == 0;
            if early {
                pause(luck.below(pace.lists + 1)).await;
            }
            let found = {
                let mut cluster = locked();
                // Not twice in a row, as long as the store is reached.
                let fails = !cluster.has_failed && luck.chance(cluster.trouble);
                cluster.has_failed = fails;
                let tags = cluster.peers.iter().map(|peer| peer.tag).collect();
                (!fails && cluster.cut.is_none()).then_some(tags)
            };
            if !early {
                pause(luck.below(pace.lists + 1)).await;
            }
            found.map(|tags| (tags, asked.elapsed()))
        })
    }

    fn status(&self) -> Option<ClusterStatus> {
        self.locked(|cluster| {
            let since = cluster.cut.map(|(since, _)| cluster.now() - since);
            Some(ClusterStatus {
                lease_age: Some(ms(since.unwrap_or(0))),
                ..ClusterStatus::default()
            })
        })
    }
}

//! One node's part in the cluster.
//!
//! A member lives in the registry as one incarnation after the other. It joins,
//! says who is connected to it, renews its lease, and tells who comes and who goes.
//! Everything it tells goes through one loop, one operation at a time, in batches: so
//! nothing it says can overtake what it said before, and a storm of logins costs
//! little more than its bytes.
//!
//! **What is in doubt is said again.** An operation that failed or ran out of time may have
//! happened or may happen yet. It has a number, so it is said again until it is answered:
//! the registry does it once. A new incarnation begins where the lease is over or the store has
//! lost its memory: then the member joins again and registers everybody who is there.
//!
//! **Nothing is believed for ever.** All entries are compared with what there is, some at each
//! moment, and what differs is mended: whatever made it, it does not stay.
//!
//! **While the store is away**, sockets are admitted by what this node knows. They
//! are registered, and conflicts resolved, when it is back.
//!
//! At shutdown the member tells the last departures and retires its incarnation. At
//! a crash nothing is told: its lease ends, and any other member sweeps.

mod comparison;
mod departures;
mod edges;
mod incarnation;
mod life;
mod neighbours;
mod pace;
mod telling;
mod told;
mod unread;

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use hashbrown::HashSet;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::Instant;

use self::departures::{Departures, PendingDeparture};
use self::edges::Place;
use self::incarnation::Line;
pub use self::neighbours::Prober;
use self::unread::Unread;
use crate::locked::locked;
use crate::registry::{
    Admission, Arrival, Departure, DevicesChange, Displaced, Edge, Entry, Fenced, Known, Millis,
    Newcomer, NodeInfo, NodeState, Registry, TypedUser, Unavailable, UserName,
};

/// For how long changes cannot be read before the node says so.
const DEAF_AFTER: Duration = Duration::from_secs(5);

/// The longest pause between attempts to reach the store.
const MAX_PAUSE: Duration = Duration::from_secs(1);

/// The node's own knowledge of its sockets.
pub trait Local: Send + Sync + 'static {
    /// Everybody who has a socket here.
    fn users(&self) -> Vec<TypedUser>;
    /// A user's sockets.
    fn entries(&self, who: &TypedUser) -> Vec<Entry>;
    /// Whether the socket is here.
    fn has(&self, who: &TypedUser, socket: &str) -> bool;
    /// A socket lost its place. It may be gone already.
    fn replace(&self, displaced: &Displaced);
    /// Users came or went, somewhere in the cluster: each change with its number, 0 if it has
    /// none.
    fn announce(&self, edges: &[(u64, Edge)]);
    /// Whether it can be told of whom a change is.
    fn is_user(&self, _who: &TypedUser) -> bool {
        true
    }
    /// Some of that was gone before it was read, or could not be read.
    fn missed_edges(&self) {}
    /// Users are on other devices; `missed`: some who are were not told of before these.
    fn note_devices(&self, _changes: &[DevicesChange], _missed: bool) {}
    /// Whether anybody wants to know how new that is.
    fn is_asked(&self) -> bool {
        false
    }
    /// All of that has been announced which had happened so long ago.
    fn heard_until(&self, _ago: Duration) {}
}

/// The rhythm of a member.
#[derive(Debug, Clone, Copy)]
pub struct Timing {
    /// `cluster.lease_ttl`.
    pub ttl: Duration,
    /// `cluster.lease_refresh`.
    pub refresh: Duration,
    /// `presence.offline_grace`.
    pub grace: Duration,
    /// `cluster.failure_timeout`: how long a node may be silent before others suspect it; `None`:
    /// its lease alone decides.
    pub failure: Option<Duration>,
}

impl Timing {
    /// In how long all entries are compared once: what differs is mended within twice a lease.
    fn pass(&self) -> Duration {
        self.ttl * 8 / 5
    }

    /// After how long what differs is looked at again. It may just have been on its way.
    fn second_look(&self) -> Duration {
        self.refresh / 5
    }

    /// How long one operation may take before it counts as failed.
    fn patience(&self) -> Duration {
        (self.ttl.saturating_sub(self.refresh) / 3)
            .clamp(Duration::from_millis(50), Duration::from_secs(2))
    }
}

/// What happened so far; all of it grows.
#[derive(Debug, Default)]
pub struct Counters {
    /// Operations that failed or ran out of time.
    pub errors: AtomicU64,
    /// Incarnations begun.
    pub joins: AtomicU64,
    /// Entries that were missing or too many, and were mended.
    pub repairs: AtomicU64,
    /// Entries of dead nodes that this one swept.
    pub swept: AtomicU64,
    /// Edges announced here.
    pub edges: AtomicU64,
    /// Edges that were dropped by the store before they were read here.
    pub missed_edges: AtomicU64,
    /// Edges that could not be read.
    pub unreadable_edges: AtomicU64,
    /// Nodes that did not answer and were given up, by a word of this one.
    pub given_up: AtomicU64,
    /// Records of the registry that cannot be read, or not changed, in its life.
    pub set_aside: AtomicU64,
    /// Sockets admitted while the store was away.
    pub unregistered: AtomicU64,
    /// Departures that could not be kept until the store is back.
    pub forgotten: AtomicU64,
}

/// From when on what the registry says of users has held, as far as this node knows: another
/// one, and the registry may have come to know users otherwise without announcing it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// How often the node has joined.
    pub joins: u64,
    /// The last hold that it was told of.
    pub hold: Millis,
    /// The version that all nodes speak.
    pub version: u32,
}

struct Request {
    newcomer: Newcomer,
    reply: oneshot::Sender<Outcome>,
}

/// The answer and the incarnation's number, or whether the user was announced all the
/// same.
type Outcome = Result<(Admission, u64), bool>;

#[derive(Default)]
struct State {
    /// Since when changes cannot be read though the store answers.
    deaf_since: Option<Instant>,
    departures: Departures,
    /// Users with sockets that may be unregistered; whether they were announced all
    /// the same, for another socket.
    unregistered: BTreeMap<TypedUser, bool>,
    /// Those of them who are being registered, and were not announced.
    unannounced: BTreeSet<TypedUser>,
    /// Newcomers that are there, and for whom others have to go.
    arrivals: Vec<Arrival>,
    /// Users whose sockets have changed their rooms.
    rooms_changed: BTreeSet<TypedUser>,
    /// Users who were announced before the registry lost its memory, and whom it
    /// has not heard of since.
    believed: BTreeSet<TypedUser>,
    /// Users who are in their grace as far as this node knows, and until when that is
    /// remembered.
    in_grace: BTreeMap<TypedUser, Instant>,
    /// Users who are being registered, and whether they were announced meanwhile.
    asking: BTreeMap<TypedUser, bool>,
    /// What may be lost if the registry loses its memory.
    unread: Unread,
    /// Users of whom a change may be lost since it did: when everybody has said who is there, all
    /// nodes are told again what they are.
    retold: BTreeSet<TypedUser>,
    /// Users who were announced as offline although they have sockets here or had a
    /// moment ago: those had lost their places.
    offline: BTreeSet<TypedUser>,
    /// Until when the lease is good, by this node's clock.
    valid_until: Option<Instant>,
    incarnation: Option<Arc<str>>,
    secret: Option<Arc<str>>,
    /// When this node had said everything, and nobody was waited for any more.
    settled_at: Option<Instant>,
    /// Why this node may not join.
    refused: Option<Arc<str>>,
    /// Where the stream of edges is to be read from on.
    read_from: Option<Place>,
    nudged: bool,
    /// A node was given up: there is something to sweep.
    somebody_died: bool,
    leaving: bool,
}

impl State {
    /// Who is to be registered again with a new incarnation: `here`, users with sockets, and who may
    /// have left since they were announced. `forgot`: the store has lost its memory.
    fn say_again(&mut self, mut here: BTreeSet<TypedUser>, forgot: bool) -> Line {
        let doubtful = std::mem::take(&mut self.unregistered);
        self.rooms_changed.clear();
        // Who has arrived is there.
        self.arrivals.clear();
        let mut untold = BTreeSet::new();
        if forgot {
            self.believe_announced(&here, &doubtful);
            // Who was announced and has gone is told as believed.
            self.departures.void(|_| true);
            let is_untold = |who: &&TypedUser| !self.believed.contains(*who);
            untold.extend(here.iter().filter(is_untold).cloned());
        }
        here.extend(self.believed.iter().cloned());
        let line = Line::of(here, |who| {
            let doubt = doubtful.get(who).copied();
            doubt.or_else(|| untold.contains(who).then_some(false))
        });
        let unannounced = doubtful.into_iter().filter(|(_, announced)| !announced);
        self.unannounced = unannounced.map(|(who, _)| who).chain(untold).collect();
        line
    }

    /// When the hold is over, all nodes are told again what this user is.
    fn retell(&mut self, who: &TypedUser) {
        if self.retold.len() < MAX_RETOLD {
            self.retold.insert(who.clone());
        }
    }

    /// The store has lost its memory: users of whom it was told are believed to have been
    /// announced, unless that may be what was lost. `here`: users with sockets; `doubtful`: those
    /// of them that may never have been told.
    fn believe_announced(
        &mut self,
        here: &BTreeSet<TypedUser>,
        doubtful: &BTreeMap<TypedUser, bool>,
    ) {
        let before = self.unread.take();
        let left: HashSet<TypedUser> = self.departures.announced().cloned().collect();
        let was_announced = |who: &TypedUser| {
            if let Some(online) = before.get(who) {
                return *online;
            }
            let known = doubtful.get(who).copied().unwrap_or(true);
            (known || left.contains(who)) && !self.offline.contains(who)
        };
        // However long ago a grace began: no offline edge has been heard since.
        let in_grace = std::mem::take(&mut self.in_grace);
        let waited_for = in_grace.into_keys();
        let waited_for = waited_for.filter(|who| before.get(who).copied().unwrap_or(true));
        let all = here.iter().chain(&left).chain(before.keys());
        let announced = all.filter(|who| was_announced(who)).cloned();
        self.believed.extend(announced.chain(waited_for));
        self.retold.extend(before.into_keys());
    }
}

/// Users of whom all nodes are told again what they are, when a hold is over. Of more, who had
/// heard otherwise hears with their next change.
const MAX_RETOLD: usize = 65_536;

/// A node's membership of a cluster.
pub struct Member<R, L> {
    registry: R,
    local: L,
    info: NodeInfo,
    timing: Timing,
    state: Mutex<State>,
    requests: mpsc::UnboundedSender<Request>,
    /// Counts incarnations: what was answered under another may be void.
    generation: AtomicU64,
    /// Of the last operation that has one.
    number: AtomicU64,
    /// How many nodes lived at the last renewal.
    living: AtomicU32,
    /// The version that is written; 0 before the first join.
    version: AtomicU32,
    /// The greatest revision that was read.
    rev: AtomicU64,
    /// The number of the members at the last renewal.
    members: AtomicU64,
    /// The last hold that was told of; 0: none was.
    hold: AtomicU64,
    /// Chance, so that not all nodes do the same at the same time.
    drawn: AtomicU64,
    away: AtomicBool,
    /// All that this node has to say is said, and the hold is over.
    settled: AtomicBool,
    /// The stream of edges can be read.
    hears: AtomicBool,
    work: Notify,
    left: Notify,
    joined: Notify,
    counters: Counters,
}

/// What [`Member::run`] reads from.
pub struct Requests(mpsc::UnboundedReceiver<Request>);

impl<R: Registry, L: Local> Member<R, L> {
    /// A member that has not joined yet; give the requests to [`run`](Self::run).
    pub fn new(registry: R, local: L, info: NodeInfo, timing: Timing) -> (Arc<Self>, Requests) {
        let info = NodeInfo {
            probed: timing.failure.is_some(),
            ..info
        };
        let (requests, received) = mpsc::unbounded_channel();
        let member = Member {
            registry,
            local,
            info,
            timing,
            state: Mutex::default(),
            requests,
            generation: AtomicU64::new(0),
            number: AtomicU64::new(0),
            living: AtomicU32::new(0),
            version: AtomicU32::new(0),
            rev: AtomicU64::new(0),
            members: AtomicU64::new(0),
            hold: AtomicU64::new(0),
            drawn: AtomicU64::new(0),
            away: AtomicBool::new(true),
            settled: AtomicBool::new(false),
            hears: AtomicBool::new(true),
            work: Notify::new(),
            left: Notify::new(),
            joined: Notify::new(),
            counters: Counters::default(),
        };
        (Arc::new(member), Requests(received))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        locked(&self.state)
    }

    /// The node's knowledge of its own.
    pub fn local(&self) -> &L {
        &self.local
    }

    /// What happened so far.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Whether the lease is good: what this node believes of others may be believed.
    pub fn is_trusted(&self) -> bool {
        !self.away.load(Ordering::Relaxed)
            && self
                .state()
                .valid_until
                .is_some_and(|until| Instant::now() < until)
    }

    /// Whether what the registry says of users can be believed: nobody is still to be registered
    /// again, as far as this node knows, and changes arrive.
    pub fn is_complete(&self) -> bool {
        self.is_settled() && self.hears.load(Ordering::Relaxed) && self.is_trusted()
    }

    /// Whether changes could not be read for a while, though the store answers.
    pub fn is_deaf(&self) -> bool {
        let since = self.state().deaf_since;
        since.is_some_and(|since| since.elapsed() >= DEAF_AFTER)
    }

    /// Whether this node has joined and said everything, and nobody is waited for who may have been
    /// there before the registry was lost, or out of reach for all.
    pub fn is_settled(&self) -> bool {
        self.settled.load(Ordering::Relaxed)
    }

    /// From when on that has been so; `None`: it cannot be believed now.
    pub fn standing(&self) -> Option<Standing> {
        let standing = Standing {
            joins: self.counters.joins.load(Ordering::Relaxed),
            hold: self.hold.load(Ordering::Relaxed),
            version: self.version(),
        };
        self.is_complete().then_some(standing)
    }

    /// How old the lease is; `None` before there is one.
    pub fn lease_age(&self) -> Option<Duration> {
        let until = self.state().valid_until?;
        let renewed = until.checked_sub(self.timing.ttl)?;
        Some(Instant::now().saturating_duration_since(renewed))
    }

    /// The incarnation at present.
    pub fn incarnation(&self) -> Option<Arc<str>> {
        self.state().incarnation.clone()
    }

    /// What nodes show each other; `None` before the first join.
    pub fn secret(&self) -> Option<Arc<str>> {
        self.state().secret.clone()
    }

    /// The newest version that all nodes can read: what is written. 0 before the first join.
    pub fn version(&self) -> u32 {
        self.version.load(Ordering::Relaxed)
    }

    /// Why this node may not join, if a node lives that does not understand it.
    pub fn refused(&self) -> Option<Arc<str>> {
        self.state().refused.clone()
    }

    /// What this node says of itself.
    pub fn info(&self) -> &NodeInfo {
        &self.info
    }

    /// All nodes that the registry has.
    ///
    /// # Errors
    /// When it cannot be asked.
    pub async fn nodes(&self) -> Result<Vec<NodeState>, Unavailable> {
        if self.away.load(Ordering::Relaxed) {
            return Err(Unavailable("it was left alone".into()));
        }
        self.patiently(self.registry.nodes()).await
    }

    /// Asks for admission. `enter` puts the socket into the node's own table, and is
    /// called if it is admitted, or if nobody can be asked (`None`): then it decides
    /// by itself.
    ///
    /// # Errors
    /// What `enter` says.
    pub async fn connect<T, E>(
        &self,
        newcomer: Newcomer,
        enter: impl FnOnce(Option<Admission>) -> Result<T, E>,
    ) -> Result<T, E> {
        let who = newcomer.who.clone();
        let outcome = if self.away.load(Ordering::Relaxed) {
            Err(false)
        } else {
            let (reply, answer) = oneshot::channel();
            let request = Request { newcomer, reply };
            // Without a loop there is no answer either.
            let _ = self.requests.send(request);
            answer.await.unwrap_or(Err(false))
        };
        match outcome {
            Ok((admission, generation)) => {
                let entered = enter(Some(admission));
                if entered.is_ok() && generation != self.generation.load(Ordering::SeqCst) {
                    self.doubt(who, true);
                }
                entered
            }
            Err(announced) => {
                let entered = enter(None);
                if entered.is_ok() {
                    self.counters.unregistered.fetch_add(1, Ordering::Relaxed);
                    self.doubt(who, announced);
                }
                entered
            }
        }
    }

    /// The user's sockets may not be registered. The user may be announced as online
    /// nevertheless.
    pub fn doubt(&self, who: TypedUser, announced: bool) {
        let others = self.local.entries(&who).len() > 1;
        let mut state = self.state();
        *state.unregistered.entry(who).or_insert(others) |= announced;
        drop(state);
        self.work.notify_one();
    }

    /// A socket has left the node's own table. Its user is announced as offline after
    /// `keep` at the earliest.
    pub fn disconnect(&self, who: TypedUser, socket: Arc<str>, keep: Duration) {
        self.part(who, socket, keep, true);
    }

    /// A socket that was never entered here, or nobody knows of, is not to be in the registry.
    pub fn forget(&self, who: TypedUser, socket: Arc<str>) {
        self.part(who, socket, Duration::ZERO, false);
    }

    /// For how many milliseconds the user of a socket is waited for that was told to be back within
    /// `keep`.
    pub fn grace(&self, keep: Duration) -> Millis {
        millis(self.timing.grace.max(keep))
    }

    fn part(&self, who: TypedUser, socket: Arc<str>, keep: Duration, was_here: bool) {
        let grace = self.grace(keep);
        let mut state = self.state();
        let unannounced = state.unannounced.contains(&who);
        let announced = state.unregistered.get(&who).copied();
        let announced = announced.unwrap_or(!unannounced);
        let departure = Departure {
            who,
            socket,
            grace,
            announced: announced && was_here,
        };
        let is_kept = state.departures.push(PendingDeparture {
            announced,
            departure,
        });
        if !is_kept {
            self.counters.forgotten.fetch_add(1, Ordering::Relaxed);
        }
        drop(state);
        self.work.notify_one();
    }

    /// A socket is there that was [reserved](Admission::Reserved) a place: those go who have to.
    pub fn establish(&self, who: TypedUser, socket: Arc<str>) {
        self.state().arrivals.push(Arrival { who, socket });
        self.work.notify_one();
    }

    /// Sockets of the user have come into rooms or left them.
    pub fn rooms_changed(&self, who: TypedUser) {
        self.state().rooms_changed.insert(who);
        self.work.notify_one();
    }

    /// Something waits for this node in the registry.
    pub fn nudge(&self) {
        self.state().nudged = true;
        self.work.notify_one();
    }

    /// What the registry knows of users.
    ///
    /// # Errors
    /// When it cannot be asked, or does not know this node any more: then nothing that it says
    /// can be believed until the node has registered again, which it does at once.
    pub async fn look_up(&self, users: &[UserName]) -> Result<Vec<Known>, Unavailable> {
        if self.away.load(Ordering::Relaxed) {
            return Err(Unavailable("it was left alone".into()));
        }
        let Some(incarnation) = self.incarnation() else {
            return Err(Unavailable("it was not joined yet".into()));
        };
        let grace = millis(self.timing.grace);
        let asking = self.registry.look_up(&incarnation, grace, users);
        self.patiently(asking).await?.map_err(|Fenced| {
            self.nudge();
            Unavailable("it does not know this node any more".into())
        })
    }

    /// Tells the last departures, gives the lease back and ends [`run`](Self::run).
    pub async fn leave(&self) {
        let left = self.left.notified();
        self.state().leaving = true;
        self.work.notify_one();
        // The loop may be in a pause, or the store gone: the lease ends by itself.
        let _ = tokio::time::timeout(self.timing.patience() * 2, left).await;
    }

    async fn patiently<T>(
        &self,
        operation: impl Future<Output = Result<T, Unavailable>>,
    ) -> Result<T, Unavailable> {
        let result = within(self.timing.patience(), operation).await;
        if result.is_err() {
            self.counters.errors.fetch_add(1, Ordering::Relaxed);
        }
        result
    }

    /// Up to a quarter less than `pause`, by chance.
    fn about(&self, pause: Duration) -> Duration {
        let draw = self.drawn.fetch_add(1, Ordering::Relaxed);
        let mut hasher = DefaultHasher::new();
        (&self.info.node_id, self.info.tag, draw).hash(&mut hasher);
        pause - pause * (hasher.finish() as u32 % 256) / 1024
    }
}

async fn within<T>(
    patience: Duration,
    operation: impl Future<Output = Result<T, Unavailable>>,
) -> Result<T, Unavailable> {
    tokio::time::timeout(patience, operation)
        .await
        .unwrap_or_else(|_| Err(Unavailable("no answer in time".into())))
}

fn millis(duration: Duration) -> Millis {
    duration.as_millis() as Millis
}

/// How long to wait after so many failures in a row.
fn pause_after(failures: u32) -> Duration {
    (Duration::from_millis(20) * 2u32.pow(failures.min(8))).min(MAX_PAUSE)
}

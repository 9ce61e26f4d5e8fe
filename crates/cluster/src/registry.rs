//! What the nodes of a cluster keep together: leases, who is connected where, and
//! the edges of presence.
//!
//! A [`Registry`] is a handful of atomic operations on a store that all nodes reach.
//! [`RedisRegistry`](crate::redis::RedisRegistry) has them as scripts; the simulation
//! has them as a structure in memory, which is also what the scripts are compared
//! with. The rules they follow:
//!
//! * **A lease per incarnation.** An incarnation is one life of a node in the
//!   registry. It renews one lease; an entry is believed exactly as long as the lease
//!   of the incarnation that wrote it lives. No entry has a timer of its own.
//! * **The cluster's own time.** Leases end by it, and all that is due. It follows the store's
//!   clock, but never back, and from one operation to the next no further than nodes are silent
//!   for; so a clock that is set ends no lease, nor does a store that nobody reached.
//! * **Fencing.** Whoever writes names its incarnation. When a node has begun a new
//!   one, or its lease is over, what it still sends under the old is refused.
//! * **Numbers.** What an incarnation tells has a number that grows. Each number is done
//!   once: said again, it is answered as it was the first time; a smaller one comes too late
//!   and is refused. So whoever does not know whether something has happened says it again.
//! * **Marks.** An entry has a mark, which its node makes of all that it says of it. A node
//!   compares sums of marks, a bucket of users at a time, with what is really there; where
//!   they differ it is told the entries of the bucket.
//! * **Settling.** A user is online or offline as announced last. After each change
//!   the announced state and the entries are compared, and a difference becomes an
//!   edge: written to the stream of edges in the same step, with a revision that
//!   grows with each edge of a user, over a loss of the store too.
//! * **The hold.** When the store has restarted or failed over, it may have forgotten
//!   or remember what is long over. Nothing is settled and nobody is swept until all nodes
//!   that live have said that what is there of them is complete, and for one lease at most.
//!   Afterwards the differences become edges. A store that is empty and that nobody has
//!   known otherwise is a new one: there is nothing to wait for.
//! * **Two steps to a place.** Who connects is registered at once. If others have to go for
//!   that, it is on probation: nobody goes until its node says that it is there. When it has
//!   gone meanwhile, or its node has died, nobody was displaced. Of two that race, the later
//!   one to be there finds the other in its place, so never both stay.
//! * **Suspicions.** A node that others do not reach is not waited for until its lease ends. Each
//!   of them says so twice, with a window between, and the registry tells the node at once: any
//!   word of it refutes all that was said. If two have said so to the end of the window, or all
//!   who could, its incarnation ends. So nobody dies for a bad way between nodes, nor while
//!   the registry is out of reach, and in a hold nobody is suspected.
//! * **Versions.** A node says which it can read. Whoever has none in common with a node that lives
//!   does not join; what is written is the newest that all who live can read. A record that
//!   nobody can read, and a user of whom an operation fails, are set aside and counted: they
//!   keep no other from its turn.
//! * **Verdicts.** What is to be settled later (a grace, the hold's end) waits in one
//!   ordered list, which any node works off.

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A point of the cluster's own time, or of a clock, in milliseconds.
pub type Millis = u64;

/// A user within a tenant as the store names it; see
/// [`names`](crate::names).
pub type UserName = Arc<str>;

/// The store could not be asked, or nobody knows whether it has done it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unavailable(pub String);

impl fmt::Display for Unavailable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the cluster's store is unavailable: {}", self.0)
    }
}

impl std::error::Error for Unavailable {}

/// The incarnation that asked has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fenced;

/// Of what an incarnation tells, the one that is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Turn<'a> {
    /// Who tells it.
    pub incarnation: &'a str,
    /// Greater than those before.
    pub number: u64,
}

/// What becomes of an operation that only the holder of a lease may do.
pub type Guarded<T> = Result<Result<T, Fenced>, Unavailable>;

/// What a namespace allows of devices.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Policy {
    /// As many as there are.
    #[serde(rename = "u")]
    Unlimited,
    /// The newest only.
    #[serde(rename = "r")]
    Replace,
    /// So many; a socket beyond that is refused.
    #[serde(rename = "l")]
    Limit(u32),
    /// So many; the oldest goes.
    #[serde(rename = "e")]
    Evict(u32),
}

/// A user of one type: what presence is counted by.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct TypedUser {
    /// Tenant and user.
    #[serde(rename = "u")]
    pub user: UserName,
    /// The user's type, encoded; empty for none.
    #[serde(rename = "y")]
    pub kind: Arc<str>,
}

/// A room as the store names it, with its namespace; see [`names`](crate::names).
pub type RoomName = Arc<str>;

/// A socket of a user.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// The socket's id, unique in the cluster.
    #[serde(rename = "s")]
    pub socket: Arc<str>,
    /// Its namespace.
    #[serde(rename = "n")]
    pub namespace: Arc<str>,
    /// Its device; empty for none.
    #[serde(rename = "d")]
    pub device: Arc<str>,
    /// When it connected, by its node's clock.
    #[serde(rename = "a")]
    pub since: Millis,
    /// What its namespace allows.
    #[serde(rename = "p")]
    pub policy: Policy,
    /// Its rooms whose members are to know that the user is online.
    #[serde(rename = "r", default, skip_serializing_if = "Vec::is_empty")]
    pub rooms: Vec<RoomName>,
}

/// How many buckets the users of a node are compared in: with 50 000 of them, what differs
/// in one bucket is said again by one operation.
pub const BUCKETS: usize = 256;

/// A number for all that a node says of an entry. Only the process that made it compares it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mark {
    /// The user's bucket.
    pub bucket: u8,
    /// Of 48 bits: Lua adds two of them without loss.
    pub number: u64,
}

/// The sum of the marks of a bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Sum(pub u64);

impl Sum {
    /// The bits of a mark's number, and of a sum.
    const MASK: u64 = (1 << 48) - 1;

    /// The same with one entry more.
    #[must_use]
    pub fn with(self, mark: Mark) -> Sum {
        Sum((self.0 + mark.number) & Sum::MASK)
    }
}

impl TypedUser {
    /// The user's bucket, the same for all types.
    pub fn bucket(&self) -> u8 {
        let mut hasher = DefaultHasher::new();
        self.user.hash(&mut hasher);
        hasher.finish() as u8
    }
}

impl Entry {
    /// The entry's mark, whatever the order of its rooms.
    pub fn mark(&self, who: &TypedUser) -> Mark {
        let Entry {
            socket,
            namespace,
            device,
            since,
            // It is not kept with the entry.
            policy: _,
            rooms,
        } = self;
        let mut rooms: Vec<&RoomName> = rooms.iter().collect();
        rooms.sort_unstable();
        rooms.dedup();
        let mut hasher = DefaultHasher::new();
        (who, socket, namespace, device, since, rooms).hash(&mut hasher);
        Mark {
            bucket: who.bucket(),
            number: hasher.finish() & Sum::MASK,
        }
    }
}

impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:02x}{:012x}", self.bucket, self.number)
    }
}

/// A socket that is to be registered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Newcomer {
    /// The user it belongs to.
    #[serde(flatten)]
    pub who: TypedUser,
    /// The socket.
    #[serde(flatten)]
    pub entry: Entry,
    /// How many sockets its user and type may have, whatever the policy.
    #[serde(rename = "m")]
    pub max_sockets: u32,
    /// The socket of the same user with which its client goes on. That one leaves in the same
    /// step, whatever its node has said of it: so its user is never without both. `None` where
    /// the newcomer begins afresh.
    #[serde(rename = "f", skip_serializing_if = "Option::is_none")]
    pub instead_of: Option<Arc<str>>,
}

/// When a node is doubted that holds the place which a newcomer wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Doubts {
    /// With less than this left of its lease, milliseconds: it was due to renew it.
    pub lease_left: Millis,
    /// Who is refused because of it is told to try again after this many milliseconds, or
    /// when the lease ends, if that is sooner.
    pub again: Millis,
}

impl Doubts {
    /// After one renewal and a half was missed.
    pub fn new(ttl: Duration, refresh: Duration) -> Doubts {
        Doubts {
            lease_left: ttl.saturating_sub(refresh * 3 / 2).as_millis() as Millis,
            again: refresh.as_millis() as Millis,
        }
    }
}

/// Why a socket lost its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum DisplacedBy {
    /// A newer one of the same device, or of the same user under `replace`.
    #[serde(rename = "r")]
    Replaced,
    /// The device limit.
    #[serde(rename = "l")]
    Limit,
}

/// A socket that lost its place to another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Displaced {
    /// The socket's id.
    #[serde(rename = "s")]
    pub socket: Arc<str>,
    /// Why.
    #[serde(rename = "w")]
    pub why: DisplacedBy,
    /// The winner's device; empty for none.
    #[serde(rename = "d", default)]
    pub device: Arc<str>,
    /// The winner's node.
    #[serde(rename = "o", default)]
    pub node: Arc<str>,
}

/// What became of a newcomer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    /// It is registered and has its place; nobody has to go.
    Admitted,
    /// It is registered; others have to go, once it is [established](Registry::establish).
    /// Until then nobody has to go for these others, nor for itself.
    Reserved,
    /// The device limit is reached. `Some`: not if those nodes have died which are
    /// [doubted](Doubts); in how many milliseconds to ask again.
    Refused(Option<Millis>),
}

/// Versions of what nodes keep together and say to each other that a build can read; it can
/// write any of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Versions {
    /// The oldest.
    pub min: u32,
    /// The newest.
    pub max: u32,
}

impl Versions {
    /// Of this build. What a build cannot read is another version; what it ignores is none. Since
    /// version 2 nodes [tell](DevicesChange) when the devices of users are others.
    pub const OWN: Versions = Versions { min: 1, max: 2 };
}

/// Of builds that do not say.
impl Default for Versions {
    fn default() -> Versions {
        Versions { min: 1, max: 1 }
    }
}

/// A node that lives, with which another has no version in common.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stranger {
    /// `server.node_id` of the one that lives.
    pub node_id: Arc<str>,
    /// What it reads.
    pub versions: Versions,
}

/// What a node tells of itself.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeInfo {
    /// `server.node_id`.
    pub node_id: Arc<str>,
    /// The process's number, part of the ids of its connections.
    pub tag: u32,
    /// Where other nodes reach it; empty if they cannot.
    pub address: Arc<str>,
    /// The version it runs.
    pub version: Arc<str>,
    /// What it can read.
    #[serde(default)]
    pub proto: Versions,
    /// Whether it answers others who ask whether it lives, and asks them.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub probed: bool,
    /// Settings that all nodes should have alike, by their keys, as they were understood: in the
    /// member `alike`. Earlier builds have theirs in `settings` as they were written, which says
    /// nothing of what they mean, and is not compared.
    #[serde(rename = "alike", default, skip_serializing_if = "BTreeMap::is_empty")]
    pub settings: BTreeMap<Arc<str>, Arc<str>>,
}

impl NodeInfo {
    /// The process's name: unique for as long as it runs.
    pub fn process(&self) -> Arc<str> {
        format!("{}.{:08x}", self.node_id, self.tag).into()
    }
}

/// The tag of a process that [`NodeInfo::process`] names.
pub fn tag_of_process(process: &str) -> Option<u32> {
    u32::from_str_radix(process.rsplit_once('.')?.1, 16).ok()
}

/// The beginning of an incarnation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Joined {
    /// Its name.
    pub incarnation: Arc<str>,
    /// The registry's life: another after its memory was lost.
    pub epoch: Arc<str>,
    /// What nodes show each other, the same for all.
    pub secret: Arc<str>,
    /// The last edge there was.
    pub last_edge: EdgeId,
    /// Its number; 0 if there was none.
    pub edge_number: u64,
    /// The edge after which the registry's life began, and its number: those before are no news,
    /// and are there where an old memory has come back.
    pub begun_after: (EdgeId, u64),
    /// What is written: the newest version that all who live can read.
    pub version: u32,
}

/// What a renewal brings.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Renewed {
    /// Sockets of this node that lost their places.
    pub displaced: Vec<Displaced>,
    /// In how many milliseconds there will be something to maintain.
    pub next_due: Option<Millis>,
    /// This node's place among the living, from 0 on.
    pub rank: u32,
    /// How many nodes live.
    pub living: u32,
    /// The name of the hold, if there is one: all who live are waited for.
    pub hold: Option<Millis>,
    /// Another number where the incarnations are others than before.
    pub members: u64,
    /// What is written from now on, as in [`Joined`].
    pub version: u32,
    /// Records that could not be read, and operations on one user that failed, in the registry's
    /// life: they were set aside.
    pub set_aside: u64,
}

/// Says that a node may be dead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Suspicion<'a> {
    /// Its incarnation.
    pub whom: &'a str,
    /// Whether the same was said before, and not refuted.
    pub again: bool,
    /// How long the node has time to refute it, milliseconds.
    pub window: Millis,
}

impl Suspicion<'_> {
    /// For how long what was said counts if it is not said again, milliseconds.
    pub fn lasts(&self) -> Millis {
        self.window * 4
    }
}

/// How many nodes have to suspect another to the end of the window, unless fewer could.
pub const JURY: u32 = 2;

/// What becomes of a suspicion.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The incarnation ends by this.
    Ends,
    /// It had ended before.
    Dead,
    /// It is to be said again after the window.
    Open,
    /// The node was heard of meanwhile, or there is a hold.
    Refuted,
}

/// What maintenance came to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Maintained {
    /// Entries of dead incarnations that were removed.
    pub swept: u32,
    /// Incarnations that ended with that.
    pub ended: Vec<Arc<str>>,
    /// In how many milliseconds there will be something to maintain; 0: now.
    pub next_due: Option<Millis>,
}

/// A socket that has ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Departure {
    /// The user it belonged to.
    #[serde(flatten)]
    pub who: TypedUser,
    /// The socket's id.
    #[serde(rename = "s")]
    pub socket: Arc<str>,
    /// For how long its user is not announced as offline at least, unless it comes and goes
    /// meanwhile; milliseconds.
    #[serde(rename = "g")]
    pub grace: Millis,
    /// Whether the user was announced as online, as far as its node knows: a registry that does not
    /// know it has lost that, and announces that the user has gone all the same.
    #[serde(rename = "b", default, skip_serializing_if = "std::ops::Not::not")]
    pub announced: bool,
}

/// A newcomer that is there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Arrival {
    /// The user it belongs to.
    #[serde(flatten)]
    pub who: TypedUser,
    /// The socket's id.
    #[serde(rename = "s")]
    pub socket: Arc<str>,
}

/// A user's sockets, said again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Restored {
    /// The user.
    #[serde(flatten)]
    pub who: TypedUser,
    /// Whether the user was announced in an earlier life of the registry: then
    /// this is no change.
    #[serde(rename = "b")]
    pub believed: bool,
    /// Whether its sockets were found not to be as they should: they are counted anew, and if
    /// nothing is known of the user at all, it was announced before that was lost.
    #[serde(rename = "c", default, skip_serializing_if = "std::ops::Not::not")]
    pub mended: bool,
    /// Whether some nodes may know of the user what is not so any more: all are told what the user
    /// is, as no change.
    #[serde(rename = "t", default, skip_serializing_if = "std::ops::Not::not")]
    pub retold: bool,
    /// All sockets of the user at this node.
    #[serde(rename = "e")]
    pub entries: Vec<Entry>,
}

/// A place in the stream of edges.
pub type EdgeId = Arc<str>;

/// A change of a user's presence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Edge {
    /// The user.
    pub who: TypedUser,
    /// Online now, or offline now.
    pub online: bool,
    /// Grows with each edge of a user.
    pub rev: u64,
    /// When.
    pub at: Millis,
    /// The rooms that the user is in, or was in while online.
    pub rooms: Vec<RoomName>,
    /// `Some`: not a change; the user was online already and has come into `rooms`, or is what it
    /// was, without any. Members who share one of these other rooms with the user were told before.
    pub others: Option<Vec<RoomName>>,
}

/// The version from which on nodes tell of each [`DevicesChange`].
pub const DEVICES_ARE_TOLD: u32 = 2;

/// A user who is announced as online is on other devices than before. It is told of users about
/// whom was [asked](Registry::look_up) within some minutes, and not where an edge says more.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct DevicesChange {
    /// The user, of whatever type.
    pub user: UserName,
    /// It grows by one with each of these changes.
    pub number: u64,
    /// How many there are now; `None`: too many sockets to count them.
    pub devices: Option<u32>,
}

/// Edges in their order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Edges {
    /// These, each with its number: it grows by one with each edge. `None`: what cannot be
    /// read.
    pub edges: Vec<(u64, Option<Edge>)>,
    /// What was told of devices in between.
    pub devices: Vec<DevicesChange>,
    /// The last of them all; read on from here.
    pub last: Option<EdgeId>,
    /// There may be more: a read has its bound.
    pub is_cut: bool,
}

/// The stream of edges, as far as its store knows it: a new master may lack what was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stream {
    /// The last place that was given to anything; before all others if there is no stream.
    pub last: EdgeId,
    /// The number of the last edge.
    pub number: u64,
    /// The number of the edge at the place that was asked about, 0 of what is none; `None`: nothing
    /// is there.
    pub at: Option<u64>,
}

/// A socket as other nodes see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// The socket's id.
    pub socket: Arc<str>,
    /// The process that holds it.
    pub process: Arc<str>,
    /// Its namespace.
    pub namespace: Arc<str>,
    /// Its device; empty for none.
    pub device: Arc<str>,
    /// The user's type, encoded.
    pub kind: Arc<str>,
}

/// What is known of a user, of all types.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Known {
    /// Whether anybody is there, or was a moment ago (the grace).
    pub online: bool,
    /// The sockets that are believed.
    pub sockets: Vec<Seen>,
    /// When the last one went.
    pub last_seen: Option<Millis>,
    /// What was announced last of each type.
    pub announced: Vec<Announced>,
    /// Each [`DevicesChange`] of the user after this number is told for some minutes. `None`: it
    /// is not, as nobody is announced as online.
    pub devices_from: Option<u64>,
}

/// What was announced last of a user of one type.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Announced {
    /// The type, encoded.
    pub kind: Arc<str>,
    /// Online, or offline.
    pub online: bool,
    /// The number of that edge.
    pub rev: u64,
    /// When the last socket of this type went.
    pub last_seen: Option<Millis>,
    /// Whether it was there a moment ago (the grace). Known where somebody of another type is
    /// known, or nobody is there.
    pub lingers: bool,
}

/// An entry, for comparison.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Marked {
    /// The socket's id.
    pub socket: Arc<str>,
    /// Whose it is.
    pub who: TypedUser,
    /// Its mark's number.
    pub number: u64,
}

/// How an incarnation's entries compare with what its node says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Audit {
    /// How many of the buckets asked about were looked at, from the first on; one at least.
    pub looked_at: usize,
    /// Those of them that differ, and what there is in each.
    pub differing: Vec<(u8, Vec<Marked>)>,
}

/// An incarnation as the registry has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeState {
    /// Its name.
    pub incarnation: Arc<str>,
    /// For how many milliseconds it may be believed; negative when it may not.
    pub lease: i64,
    /// What it says of itself.
    pub info: NodeInfo,
    /// Sockets of users that it has registered.
    pub sockets: u64,
}

/// The operations. Each is atomic.
///
/// An error says that it may or may not have happened, or may happen yet. The caller then
/// says the same again, with the same number.
pub trait Registry: Send + Sync + 'static {
    /// Begins an incarnation. `known` is the life of the registry that the process was
    /// in last: another one now means that memory was lost. A process that was in
    /// none is new: other processes with its node id are taken for dead. `living`: how many
    /// nodes lived as far as it knows; after a loss of memory as many are waited for. `rev`: the
    /// greatest revision that it was told, 0 for none; later ones are greater in each life. Nothing
    /// has happened if a node lives that has no version in common with this one.
    fn join(
        &self,
        info: &NodeInfo,
        ttl: Millis,
        known: Option<&str>,
        living: u32,
        rev: u64,
    ) -> impl Future<Output = Result<Result<Joined, Stranger>, Unavailable>> + Send;

    /// Renews the lease. `done`: displaced sockets that were dealt with. `complete`: the hold
    /// in which this node has found that what the registry has of it is true. `rev`: as in
    /// [`join`](Registry::join).
    fn renew(
        &self,
        incarnation: &str,
        ttl: Millis,
        done: &[Arc<str>],
        complete: Option<Millis>,
        rev: u64,
    ) -> impl Future<Output = Guarded<Renewed>> + Send;

    /// Another node does not answer. It is told at once, and if it is not heard of within the
    /// window, and enough others say the same, its incarnation ends.
    fn suspect(
        &self,
        incarnation: &str,
        suspicion: Suspicion<'_>,
    ) -> impl Future<Output = Guarded<Verdict>> + Send;

    /// Registers sockets by their namespaces' device policies: says who is refused, and for
    /// whom others have to go.
    fn connect(
        &self,
        turn: Turn<'_>,
        newcomers: &[Newcomer],
    ) -> impl Future<Output = Guarded<Vec<Admission>>> + Send;

    /// Sockets that were [reserved](Admission::Reserved) under this incarnation are there, and
    /// take their places. Answers the sockets of this node that lost theirs; those of other
    /// nodes are told by the registry.
    fn establish(
        &self,
        turn: Turn<'_>,
        arrivals: &[Arrival],
    ) -> impl Future<Output = Guarded<Vec<Displaced>>> + Send;

    /// Removes sockets. After its grace without any, a user is offline. Answers for each
    /// whether its user is without a socket and announced as online still.
    fn depart(
        &self,
        turn: Turn<'_>,
        departures: &[Departure],
    ) -> impl Future<Output = Guarded<Vec<bool>>> + Send;

    /// Registers sockets that live already, or their rooms, which may have changed.
    /// Answers those that lost against others.
    fn restore(
        &self,
        turn: Turn<'_>,
        users: &[Restored],
    ) -> impl Future<Output = Guarded<Vec<Displaced>>> + Send;

    /// Ends incarnations: their entries may be swept.
    fn retire(
        &self,
        incarnations: &[Arc<str>],
    ) -> impl Future<Output = Result<(), Unavailable>> + Send;

    /// Sweeps what dead incarnations left and settles what is due, up to `limit`.
    fn maintain(
        &self,
        limit: u32,
        grace: Millis,
        ttl: Millis,
    ) -> impl Future<Output = Result<Maintained, Unavailable>> + Send;

    /// Edges after `last`, at once if there are any, else when there are, or none after `wait`.
    fn edges(
        &self,
        last: &EdgeId,
        wait: Duration,
    ) -> impl Future<Output = Result<Edges, Unavailable>> + Send;

    /// What the stream of edges has at a place of it; `None`: that cannot be found out.
    fn stream(
        &self,
        place: &EdgeId,
    ) -> impl Future<Output = Result<Option<Stream>, Unavailable>> + Send;

    /// What is known of users, of any number of them: no operation of the store takes long. Who
    /// does not hold its lease is told nothing: the registry may have forgotten everything.
    /// `grace`: what whoever was on a dead node has, once it is swept.
    fn look_up(
        &self,
        incarnation: &str,
        grace: Millis,
        users: &[UserName],
    ) -> impl Future<Output = Guarded<Vec<Known>>> + Send;

    /// Compares what there is of an incarnation with what its node says: of buckets, the sum
    /// of the marks in each.
    fn audit(
        &self,
        incarnation: &str,
        buckets: &[(u8, Sum)],
    ) -> impl Future<Output = Result<Audit, Unavailable>> + Send;

    /// All incarnations that were not swept yet.
    fn nodes(&self) -> impl Future<Output = Result<Vec<NodeState>, Unavailable>> + Send;
}

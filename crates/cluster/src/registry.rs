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
//! * **Fencing.** Whoever writes names its incarnation. When a node has begun a new
//!   one, or its lease is over, what it still sends under the old is refused.
//! * **Settling.** A user is online or offline as announced last. After each change
//!   the announced state and the entries are compared, and a difference becomes an
//!   edge: written to the stream of edges in the same step, with a revision that
//!   grows with each edge of a user, over a loss of the store too.
//! * **The hold.** When the store has restarted or failed over, it may have forgotten
//!   or remember what is long over. For one lease nothing is settled and nobody is
//!   swept: everybody can say again who is there. Afterwards the differences become
//!   edges. A store that is empty and that nobody has known otherwise is a new one:
//!   there is nothing to wait for.
//! * **Two steps to a place.** Who connects is registered at once. If others have to go for
//!   that, it is on probation: nobody goes until its node says that it is there. When it has
//!   gone meanwhile, or its node has died, nobody was displaced. Of two that race, the later
//!   one to be there finds the other in its place, so never both stay.
//! * **Verdicts.** What is to be settled later (a grace, the hold's end) waits in one
//!   ordered list, which any node works off.

use std::fmt;
use std::future::Future;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// A point of the store's own clock, in milliseconds.
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

/// A socket that is to be registered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Newcomer {
    /// The user it belongs to.
    #[serde(flatten)]
    pub who: TypedUser,
    /// The socket.
    #[serde(flatten)]
    pub entry: Entry,
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
    /// The device limit is reached.
    Refused,
}

/// What a node tells of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
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
    /// Incarnations of the same process that came before.
    pub earlier: Vec<Arc<str>>,
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
    /// `Some`: not a change; the user was online already and has come into `rooms`.
    /// Members who share one of these other rooms with the user were told before.
    pub others: Option<Vec<RoomName>>,
}

/// Edges in their order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Edges {
    /// These.
    pub edges: Vec<Edge>,
    /// The last of them; read on from here.
    pub last: Option<EdgeId>,
}

/// A socket as other nodes see it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Seen {
    /// The socket's id.
    #[serde(rename = "s")]
    pub socket: Arc<str>,
    /// The process that holds it.
    #[serde(rename = "i")]
    pub process: Arc<str>,
    /// Its namespace.
    #[serde(rename = "n")]
    pub namespace: Arc<str>,
    /// Its device; empty for none.
    #[serde(rename = "d")]
    pub device: Arc<str>,
    /// The user's type, encoded.
    #[serde(rename = "y")]
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
}

/// What the registry has of an incarnation, in part.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Audit {
    /// For each user asked about, its sockets under the incarnation, and their rooms in
    /// the order of their names.
    pub asked: Vec<Vec<(Arc<str>, Vec<RoomName>)>>,
    /// Some entries, by chance: sockets and whose they are.
    pub sample: Vec<(Arc<str>, TypedUser)>,
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
/// An error says that it may or may not have happened. The caller then begins a new
/// incarnation, which fences whatever is still on its way.
pub trait Registry: Send + Sync + 'static {
    /// Begins an incarnation. `known` is the life of the registry that the process was
    /// in last: another one now means that memory was lost. A process that was in
    /// none is new: other processes with its node id are taken for dead.
    fn join(
        &self,
        info: &NodeInfo,
        ttl: Millis,
        known: Option<&str>,
    ) -> impl Future<Output = Result<Joined, Unavailable>> + Send;

    /// Renews the lease. `done`: displaced sockets that were dealt with.
    fn renew(
        &self,
        incarnation: &str,
        ttl: Millis,
        done: &[Arc<str>],
    ) -> impl Future<Output = Guarded<Renewed>> + Send;

    /// Registers sockets by their namespaces' device policies: says who is refused, and for
    /// whom others have to go.
    fn connect(
        &self,
        incarnation: &str,
        newcomers: &[Newcomer],
    ) -> impl Future<Output = Guarded<Vec<Admission>>> + Send;

    /// Sockets that were [reserved](Admission::Reserved) under this incarnation are there, and
    /// take their places. Answers the sockets of this node that lost theirs; those of other
    /// nodes are told by the registry.
    fn establish(
        &self,
        incarnation: &str,
        arrivals: &[Arrival],
    ) -> impl Future<Output = Guarded<Vec<Displaced>>> + Send;

    /// Removes sockets. After its grace without any, a user is offline. Answers for each
    /// whether its user is without a socket and announced as online still.
    fn depart(
        &self,
        incarnation: &str,
        departures: &[Departure],
    ) -> impl Future<Output = Guarded<Vec<bool>>> + Send;

    /// Registers sockets that live already, or their rooms, which may have changed.
    /// Answers those that lost against others.
    fn restore(
        &self,
        incarnation: &str,
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

    /// Edges after `last`, at once if there are any, else when there are.
    fn edges(&self, last: &EdgeId) -> impl Future<Output = Result<Edges, Unavailable>> + Send;

    /// What is known of users.
    fn look_up(
        &self,
        users: &[UserName],
    ) -> impl Future<Output = Result<Vec<Known>, Unavailable>> + Send;

    /// What there is of an incarnation, for comparison.
    fn audit(
        &self,
        incarnation: &str,
        users: &[UserName],
        sample: u32,
    ) -> impl Future<Output = Result<Audit, Unavailable>> + Send;

    /// All incarnations that were not swept yet.
    fn nodes(&self) -> impl Future<Output = Result<Vec<NodeState>, Unavailable>> + Send;
}

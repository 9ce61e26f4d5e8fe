//! What nodes have to agree on, and say to each other: who is connected, which device
//! may stay, what is published.
//!
//! The gateway asks a [`Backplane`] and never looks at presence itself, so a
//! node alone and a node of a cluster run the same code. [`LocalBackplane`] is
//! the node alone. What a backplane hears from other nodes it gives to its
//! [`Node`].

use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use crate::auth::{BoxFuture, UserKey};
use crate::config::DevicePolicy;
use crate::engine::Clock;
use crate::entries::UserPresence;
use crate::hub::Op;
use crate::presence::{
    Admitted, DeviceLimitReached, Edge, Newcomer, Place, Presence, SocketAddress,
};
pub use crate::publication::{Message, MessageError, check, check_key};
use crate::reason::Reason;
use crate::shared::Shared;

/// Whom a publication is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target<'a> {
    /// The members of a room.
    Room {
        /// The room's namespace.
        namespace: &'a str,
        /// Its tenant.
        tenant: Option<&'a str>,
        /// Its name.
        room: &'a str,
        /// Set where only the newest per room and key matters to a slow reader.
        key: Option<&'a str>,
    },
    /// Everybody in a namespace and tenant.
    All {
        /// The namespace.
        namespace: &'a str,
        /// The tenant.
        tenant: Option<&'a str>,
    },
    /// A user's sockets in a namespace.
    User {
        /// The namespace.
        namespace: &'a str,
        /// The user's tenant.
        tenant: Option<&'a str>,
        /// The user's id.
        user: &'a str,
        /// Only this type of user, or only those without one.
        user_type: Option<Option<&'a str>>,
        /// The room as which clients know it.
        topic: Option<&'a str>,
        /// Not to sockets that are in this room.
        unless_in: Option<&'a str>,
    },
}

/// What becomes of sockets that are chosen by their rooms.
#[derive(Debug, Clone)]
pub enum Action {
    /// They are sent an event.
    Emit(Message),
    /// They join rooms, whatever their tokens say.
    Join(Vec<String>),
    /// They leave rooms.
    Leave(Vec<String>),
    /// They are disconnected.
    Disconnect,
}

/// Holds a room's publications of other nodes for as long as it lives.
pub trait Subscription: Send + Sync + 'static {
    /// Resolves when they arrive, or will not for now; `None`: they do already.
    fn ready(&self) -> Option<BoxFuture<()>>;
}

impl std::fmt::Debug for dyn Subscription {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Subscription")
    }
}

/// How a node fares in its cluster. What is counted grows from the node's start on.
#[derive(Debug, Clone, Default)]
pub struct ClusterStatus {
    /// What other nodes say does not arrive, or this node's lease is over.
    pub degraded: bool,
    /// Since the lease was renewed.
    pub lease_age: Option<Duration>,
    /// Errors of the cluster's store or the way to it.
    pub errors: u64,
    /// Times this node joined.
    pub incarnations: u64,
    /// Entries that were missing or too many, and were mended.
    pub repairs: u64,
    /// Entries of dead nodes that this one removed.
    pub swept: u64,
    /// Changes of presence heard of.
    pub edges: u64,
    /// Sockets admitted while the store was away.
    pub unregistered: u64,
    /// Publications sent to other nodes.
    pub sent: u64,
    /// Publications that came from other nodes.
    pub received: u64,
    /// Publications and departures that other nodes were not told of.
    pub undelivered: u64,
    /// Times this node was cut off from the others' publications.
    pub gaps: u64,
    /// Publications that wait to be sent.
    pub queued: usize,
}

/// Another node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// Its process's number, which the ids of its connections begin with.
    pub tag: u32,
    /// `server.node_id` there.
    pub node_id: Arc<str>,
    /// Host and port of its listener for nodes.
    pub address: Arc<str>,
    /// What it wants to be shown.
    pub secret: Arc<str>,
}

/// A user's socket, on whichever node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserSocket {
    /// Its id.
    pub id: Arc<str>,
    /// Its namespace.
    pub namespace: Arc<str>,
    /// Whose.
    pub user: Arc<UserKey>,
}

/// Presence, devices and fan-out, on this node or across a cluster.
pub trait Backplane: Send + Sync + 'static {
    /// Called once, before anything else and within a tokio runtime: what other
    /// nodes say, and changes of presence, are for `node`.
    fn attach(&self, node: Node);

    /// Registers a socket and applies its namespace's device policy, as one
    /// step: of two newcomers that race, the later sees the earlier.
    fn connect(&self, newcomer: Newcomer) -> BoxFuture<Result<Admitted, DeviceLimitReached>>;

    /// A socket is gone, or was admitted too late to live.
    fn disconnect(&self, user: &Arc<UserKey>, socket: SocketAddress);

    /// A user's socket has come into a room whose members are to know that the user is
    /// online.
    fn enter_room(&self, user: &Arc<UserKey>, socket: SocketAddress, place: Place);

    /// A socket has left such a room and goes on. One that ends leaves nothing.
    fn leave_room(&self, user: &Arc<UserKey>, socket: SocketAddress, place: &Place);

    /// Presence of many users at once, in the order asked.
    fn presence(
        &self,
        tenant: Option<Arc<str>>,
        users: Vec<String>,
    ) -> BoxFuture<Vec<UserPresence>>;

    /// The users of this node.
    fn local(&self) -> &Presence;

    /// A room has members here. `None`: there are no other nodes.
    fn subscribe(
        &self,
        _namespace: &str,
        _tenant: Option<&str>,
        _room: &str,
    ) -> Option<Arc<dyn Subscription>> {
        None
    }

    /// Gives a publication to other nodes; this one has had it. Never waits.
    fn publish(&self, _target: &Target<'_>, _message: &Message) {}

    /// What the ids of this node's connections begin with; `None`: there are no other
    /// nodes.
    fn tag(&self) -> Option<u32> {
        None
    }

    /// What other nodes have to show to this one.
    fn secret(&self) -> Option<Arc<str>> {
        None
    }

    /// The node with this tag.
    fn peer(&self, _tag: u32) -> BoxFuture<Option<Peer>> {
        Box::pin(std::future::ready(None))
    }

    /// All other nodes that are believed, and the ids of those that are not at present.
    fn peers(&self) -> BoxFuture<(Vec<Peer>, Vec<Arc<str>>)> {
        Box::pin(std::future::ready(Default::default()))
    }

    /// A user's sockets on all nodes, of all types; `None`: only this node's own are
    /// known.
    fn sockets(&self, _tenant: Option<&str>, _user: &str) -> BoxFuture<Option<Vec<UserSocket>>> {
        Box::pin(std::future::ready(None))
    }

    /// How the node fares in its cluster; `None`: there is none.
    fn status(&self) -> Option<ClusterStatus> {
        None
    }

    /// The node ends: its sockets have gone.
    fn close(&self) -> BoxFuture<()> {
        Box::pin(std::future::ready(()))
    }
}

/// What a backplane may ask of the node that it works for. Does nothing when the
/// node has gone.
#[derive(Clone)]
pub struct Node(Weak<Shared>);

impl Node {
    pub(crate) fn new(shared: &Arc<Shared>) -> Node {
        Node(Arc::downgrade(shared))
    }

    /// Tells those who are to know of changes of presence, in this order.
    pub fn announce(&self, edges: impl IntoIterator<Item = Edge>) {
        if let Some(shared) = self.0.upgrade() {
            shared.announcer.push(edges);
        }
    }

    /// A socket lost its place to one on another node.
    pub fn oust(
        &self,
        socket: SocketAddress,
        reason: Reason,
        device_id: Option<Arc<str>>,
        node_id: &Arc<str>,
    ) {
        if let Some(shared) = self.0.upgrade() {
            let op = Op::Replaced {
                to: socket,
                by: device_id,
                node: node_id.clone(),
                reason,
            };
            shared.post(socket.0.conn.shard, op);
        }
    }

    /// Gives a publication of another node to those it is for.
    pub fn deliver(&self, target: &Target<'_>, message: Message) {
        if let Some(shared) = self.0.upgrade() {
            shared.deliver(target, message);
        }
    }

    /// Does something to the sockets here that have no tenant and are in any of `rooms`
    /// (all, if there are none) but in none of `except`. A socket's id counts as a
    /// room that it is in, as in Socket.IO.
    pub fn select(&self, namespace: &str, rooms: &[String], except: &[String], action: Action) {
        if let Some(shared) = self.0.upgrade() {
            shared.select(namespace, rooms, except, action);
        }
    }

    /// A socket's namespace.
    pub fn namespace(&self, socket: &SocketAddress) -> Option<Arc<str>> {
        let shared = self.0.upgrade()?;
        let namespace = shared.namespaces.get(usize::from(socket.namespace()))?;
        Some(namespace.name.clone())
    }

    /// What a socket's namespace allows of devices.
    pub fn device_policy(&self, socket: &SocketAddress) -> Option<DevicePolicy> {
        let shared = self.0.upgrade()?;
        let namespace = shared.namespaces.get(usize::from(socket.namespace()))?;
        Some(namespace.config.devices)
    }

    /// Bytes that an event may have, as JSON text and attachments ([`check`]): what other
    /// nodes say is held to it too. Nothing, when the node has gone.
    pub fn max_payload(&self) -> usize {
        self.0
            .upgrade()
            .map_or(0, |shared| shared.config.max_payload)
    }

    /// The time by this node's clock.
    pub fn unix_millis(&self) -> u64 {
        self.0.upgrade().map_or(0, |shared| shared.unix_millis())
    }
}

/// One node on its own.
pub struct LocalBackplane {
    presence: Arc<OnceLock<Presence>>,
    grace: u64,
    clock: Clock,
}

impl LocalBackplane {
    pub(crate) fn new(grace: Duration, clock: Clock) -> Self {
        LocalBackplane {
            presence: Arc::default(),
            grace: grace.as_micros() as u64,
            clock,
        }
    }
}

impl Backplane for LocalBackplane {
    fn attach(&self, node: Node) {
        let sink = move |edge: &Edge| node.announce([edge.clone()]);
        let _ = self.presence.set(Presence::new(self.grace, Box::new(sink)));
    }

    fn connect(&self, newcomer: Newcomer) -> BoxFuture<Result<Admitted, DeviceLimitReached>> {
        let at = self.clock.unix_millis(self.clock.now());
        Box::pin(std::future::ready(self.local().connect(newcomer, at)))
    }

    fn disconnect(&self, user: &Arc<UserKey>, socket: SocketAddress) {
        let now = self.clock.now();
        self.local()
            .disconnect(user, socket, now, self.clock.unix_millis(now));
    }

    fn enter_room(&self, user: &Arc<UserKey>, socket: SocketAddress, place: Place) {
        let at = self.clock.unix_millis(self.clock.now());
        self.local().enter_room(user, socket, place, at);
    }

    fn leave_room(&self, user: &Arc<UserKey>, socket: SocketAddress, place: &Place) {
        self.local().leave_room(user, socket, place);
    }

    fn presence(
        &self,
        tenant: Option<Arc<str>>,
        users: Vec<String>,
    ) -> BoxFuture<Vec<UserPresence>> {
        let now = self.clock.unix_millis(self.clock.now());
        let local = self.local();
        let found = users
            .iter()
            .map(|user| local.get(tenant.as_deref(), user, now))
            .collect();
        Box::pin(std::future::ready(found))
    }

    fn local(&self) -> &Presence {
        self.presence
            .get()
            .expect("a gateway attaches its backplane before it uses it")
    }
}

//! What nodes have to agree on, and say to each other: who is connected, which device
//! may stay, what is published.
//!
//! The gateway asks a [`Backplane`] and never looks at presence itself, so a
//! node alone and a node of a cluster run the same code. [`LocalBackplane`](local::LocalBackplane) is
//! the node alone. What a backplane hears from other nodes it gives to its
//! [`Node`].

pub mod line;
pub mod local;
pub mod target;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use heartline_wire::reason::Reason;

use crate::auth::{BoxFuture, UserKey};
use crate::entries::{SocketEntry, Standing, UserPresence};
use crate::policy::DevicePolicy;
use crate::presence::audit::{Believed, Who};
use crate::presence::{
    Admitted, DeviceLimitReached, Edge, Newcomer, Presence, RoomAddress, SocketAddress,
};

pub use crate::message::{Message, MessageError, check, check_key};
pub use target::{NameList, Subscription, Target, named_user, user_name};

/// Most that nodes say to each other at once and no client hears, bytes, whatever
/// `server.max_payload` is: who is in a room that is watched, 1 001 users whose ids have 256 bytes
/// each of which is escaped, is half as much.
pub const MAX_TO_NODES: usize = 1 << 20;

/// Bytes that a node adds to what a client has said, or says of its own: a stored message as JSON
/// with its names, ids and times. What comes from another node may have so much more than what a
/// client may say.
pub const MAX_ADDED: usize = 64 << 10;

/// Of whom publications were lost on their way to this node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Missed<'a> {
    /// The members of a room.
    Room {
        /// The room's namespace.
        namespace: &'a str,
        /// Its tenant.
        tenant: Option<&'a str>,
        /// Its name.
        room: &'a str,
    },
    /// A user, in any namespace.
    User {
        /// The user's tenant.
        tenant: Option<&'a str>,
        /// The user's id.
        user: &'a str,
    },
    /// Users: any of them.
    Users,
    /// Whoever is spoken to by no single room: users, everybody of a namespace, sockets by their
    /// rooms; and the nodes themselves.
    Unaddressed,
    /// Anybody: these, and members of any room.
    Anybody,
    /// Whomever servers speak to that know of no line, also in rooms whose publications go by it.
    Foreign,
    /// Whoever hears by the line that all nodes share. What goes by it is not among the others.
    Line,
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

/// What a socket answered to an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Acknowledgement {
    /// The arguments: JSON values with commas between them.
    pub args: String,
    /// What the placeholders stand for.
    pub attachments: Vec<Bytes>,
}

/// How a node fares in its cluster. What is counted grows from the node's start on.
#[derive(Debug, Clone, Default)]
pub struct ClusterStatus {
    /// What other nodes say does not arrive, or this node's lease is over, or changes of presence
    /// cannot be read.
    pub degraded: bool,
    /// The same but for changes of presence, which may be missing though the store answers.
    pub unreachable: bool,
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
    /// Records of the cluster that cannot be read, or not changed: the same number on all nodes.
    pub set_aside: u64,
    /// What other nodes said in a version that this one does not know.
    pub newer: u64,
    /// What other nodes said and nobody can read.
    pub damaged: u64,
    /// Why this node may not join.
    pub refused: Option<Arc<str>>,
    /// Nodes that did not answer, and were given up by a word of this one.
    pub given_up: u64,
    /// Changes of presence that were gone before they could be read.
    pub missed_edges: u64,
    /// Changes of presence that could not be read.
    pub unreadable_edges: u64,
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
    /// Publications of other nodes that were dropped, as this one had too much to do.
    pub dropped: u64,
    /// Events of the line that could not be read.
    pub unread: u64,
    /// What was dropped as nobody had signed it, where a key is set.
    pub unsigned: u64,
    /// What was dropped as its signature was wrong.
    pub forged: u64,
    /// Times that somebody was told of publications lost on their way to this node.
    pub missed: u64,
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

/// The other nodes, as far as they are known.
#[derive(Debug, Clone, Default)]
pub struct Peers {
    /// Those that are believed.
    pub believed: Vec<Peer>,
    /// The ids of those that are not at present.
    pub suspect: Vec<Arc<str>>,
    /// There may be others: which nodes there are cannot be found out at present, or not all have
    /// come back to a store that had forgotten them.
    pub is_partial: bool,
}

/// What came of the question whether another node lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Probed {
    /// It has answered.
    Answered,
    /// Nobody is where it said that it is, or somebody else.
    Refused,
    /// Neither: an answer did not come, or not all of it.
    Failed,
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
    fn attach(&self, node: Arc<dyn Node>);

    /// Registers a socket under its namespace's device policy. Nobody loses a place to a
    /// newcomer that is not there: those who have to go, and are not in the answer, go when it
    /// is [`established`](Self::established). Of two newcomers that race, the later one to be
    /// so sees the earlier.
    fn connect(&self, newcomer: Newcomer) -> BoxFuture<Result<Admitted, DeviceLimitReached>>;

    /// A newcomer is there for whom others have to go ([`Admitted::reserved`]): they do.
    fn established(&self, _user: &Arc<UserKey>, _socket: SocketAddress) {}

    /// A socket is gone. Its user is not announced as offline for as long as `keep`, whatever
    /// the grace: it was told to come back. A new socket of the user ends that.
    fn disconnect(&self, user: &Arc<UserKey>, socket: SocketAddress, keep: Duration);

    /// A socket was admitted too late to live. Those whose places it was to take keep them.
    fn withdraw(&self, user: &Arc<UserKey>, socket: SocketAddress, _admitted: &Admitted) {
        self.disconnect(user, socket, Duration::ZERO);
    }

    /// A user's socket has come into a room whose members are to know that the user is
    /// online.
    fn enter_room(&self, user: &Arc<UserKey>, socket: SocketAddress, place: RoomAddress);

    /// A socket has left such a room and goes on. One that ends leaves nothing.
    fn leave_room(&self, user: &Arc<UserKey>, socket: SocketAddress, place: &RoomAddress);

    /// Presence of many users at once, in the order asked.
    fn presence(
        &self,
        tenant: Option<Arc<str>>,
        users: Vec<String>,
    ) -> BoxFuture<Vec<UserPresence>>;

    /// The same, of what this node knows already where it does: as of
    /// [`heard_until`](Self::heard_until), but for devices, which may be some seconds older.
    fn presence_known(
        &self,
        tenant: Option<Arc<str>>,
        users: Vec<String>,
    ) -> BoxFuture<Vec<UserPresence>> {
        self.presence(tenant, users)
    }

    /// What [`presence_known`](Self::presence_known) would say of users without asking: of
    /// those who are to be looked at `again`, and of `some` others, each time of others; and beside it
    /// what there is. It goes on to say the former.
    fn kept(&self, _again: Vec<Who>, _some: usize) -> BoxFuture<Vec<(Believed, UserPresence)>> {
        Box::pin(std::future::ready(Vec::new()))
    }

    /// Whether what [`presence`](Self::presence) says of users elsewhere can be believed now, and
    /// edges arrive.
    fn is_trusted(&self) -> bool {
        true
    }

    /// Names what is known of users elsewhere, as long as it can be [believed](Self::is_trusted).
    /// While it has the same name, also after a time in which it could not be believed, nothing of
    /// it is lost: what has changed since was given to the node, or [missed](Node::missed_edges).
    fn standing(&self) -> Option<Standing> {
        self.is_trusted().then(Standing::default)
    }

    /// All edges up to this time have been given to the node, Unix milliseconds; `None`: it has
    /// them as they come. Who asks is to be told of a time that is not long ago, next time.
    fn heard_until(&self) -> Option<u64> {
        None
    }

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

    /// The same for a publication to a room with a key. `here` gives it to this node's own
    /// members, and is called once: at a moment that leaves all nodes with the same last
    /// publication of each room and key.
    fn publish_keyed(&self, target: &Target<'_>, message: &Message, here: &mut dyn FnMut()) {
        self.publish(target, message);
        here();
    }

    /// The line of kept events that all nodes share, if they do.
    fn line(&self) -> Option<Arc<dyn line::SharedLine>> {
        None
    }

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

    /// All other nodes. While it cannot be found out which there are, those that were known last.
    fn peers(&self) -> BoxFuture<Peers> {
        Box::pin(std::future::ready(Default::default()))
    }

    /// The tags of all other nodes that are believed, also of those that nobody reaches; and how
    /// long ago that was asked at most. `None`: it is not known at present which there are.
    fn others(&self) -> BoxFuture<Option<(Vec<u32>, Duration)>> {
        Box::pin(std::future::ready(Some(Default::default())))
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

/// What a backplane may ask of the node that it works for.
///
/// Calls never wait, come in any number from any thread, and do nothing when the node has
/// gone. What is said of one user or room in one order is told in that order.
pub trait Node: Send + Sync + 'static {
    /// Tells those who are to know of changes of presence, in this order.
    fn announce(&self, edges: Vec<Edge>);

    /// Changes of presence were lost: what was told of presence may be wrong.
    fn missed_edges(&self) {}

    /// A socket of this node lost its place to one on another node, whose device and node
    /// these are.
    fn replace(
        &self,
        socket: SocketAddress,
        reason: Reason,
        device_id: Option<Arc<str>>,
        node_id: &Arc<str>,
    );

    /// Gives a publication of another node to those it is for.
    fn deliver(&self, target: &Target<'_>, message: Message);

    /// Tells those whose publications were lost, behind what was delivered before.
    fn missed(&self, whose: Missed<'_>);

    /// An event of the line that all nodes share, in the order of the line.
    fn hear(&self, _heard: line::Heard<'_>) {}

    /// Takes in the end of what all nodes have kept of a scope.
    fn take_in(&self, _scope: &line::Scope, _tail: line::Tail<'_>) {}

    /// The end of a scope does not come in time: what comes next there is behind a gap.
    fn go_without(&self, _scope: &line::Scope) {}

    /// How far the line is: all that is for this node up to there has come, or is lost.
    fn reach(&self, _reached: line::Reached) {}

    /// The line cannot be reached: an event is for those here, and is not kept.
    fn deliver_alone(&self, _target: &Target<'_>, _message: Message, _skip: Option<SocketAddress>) {
    }

    /// The same of an event to one socket.
    fn deliver_alone_to(&self, _name: SocketAddress, _message: Message) {}

    /// What this node follows of the line.
    fn followed(&self) -> Vec<line::Scope> {
        Vec::new()
    }

    /// Asks another node whether it lives. Whoever drops the future does not wait any more.
    fn probe(&self, node: Peer) -> BoxFuture<Probed>;

    /// Another node has taken a session up that this one had, or has ended it.
    fn lose_session(&self, _name: SocketAddress, _how: line::Lost) {}

    /// Whether more waits for the sockets here than should: whoever brings what other nodes
    /// say is to wait as well.
    fn is_overloaded(&self) -> bool;

    /// Does something to the sockets here that have no tenant and are in any of `rooms`
    /// (all, if there are none) but in none of `except`. A socket's id counts as a
    /// room that it is in, as in Socket.IO.
    fn select(&self, namespace: &str, rooms: &[String], except: &[String], action: Action);

    /// The sockets that [`select`](Self::select) would choose, at most `max` of them. `None`:
    /// there are more.
    fn find(
        &self,
        namespace: &str,
        rooms: &[String],
        except: &[String],
        max: usize,
    ) -> BoxFuture<Option<Vec<SocketEntry>>>;

    /// Gives an event to one socket here and waits for its acknowledgement; whoever drops
    /// the future waits no longer. `None`: it will not come.
    fn ask(&self, socket: SocketAddress, message: Message) -> BoxFuture<Option<Acknowledgement>>;

    /// Names of the rooms of a namespace that have members here without a tenant, at most
    /// `max` of them.
    fn rooms(&self, namespace: &str, max: usize) -> BoxFuture<Vec<String>>;

    /// Names of the namespaces there are.
    fn namespaces(&self) -> Vec<Arc<str>>;

    /// A socket's namespace; `None` once the node has gone.
    fn namespace(&self, socket: &SocketAddress) -> Option<Arc<str>>;

    /// What a socket's namespace allows of devices; `None` once the node has gone.
    fn device_policy(&self, socket: &SocketAddress) -> Option<DevicePolicy>;

    /// Bytes that a client's event may have, as JSON text and attachments ([`check`]): what
    /// Socket.IO servers say is held to it too, and what other nodes pass on to clients, with
    /// [`MAX_ADDED`] more. What is for nodes alone has [`MAX_TO_NODES`].
    fn max_payload(&self) -> usize;

    /// The time by this node's clock, Unix milliseconds.
    fn unix_millis(&self) -> u64;
}

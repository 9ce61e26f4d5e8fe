//! The line of kept events that all nodes share, so that a client that was lost on one goes on
//! on another.
//!
//! A kept event takes its number where all nodes meet, and comes back from there to each node
//! that wants it, its own included, in the order of the numbers. So a number is a place in all
//! rooms of all nodes at once. The end of each place's events stays there: a node that has not
//! followed a room from the beginning takes them in.

use std::sync::Arc;

use super::target::{Subscription, Target};
use crate::auth::{BoxFuture, UserKey};
use crate::line::ring::Extent;
use crate::message::Message;
use crate::presence::SocketAddress;

/// Whose events are kept together.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Scope {
    /// The members of a room.
    Room {
        /// The room's namespace.
        namespace: Arc<str>,
        /// Its tenant.
        tenant: Option<Arc<str>>,
        /// Its name.
        room: Arc<str>,
    },
    /// A user's sockets in a namespace.
    User {
        /// The namespace.
        namespace: Arc<str>,
        /// The user's tenant.
        tenant: Option<Arc<str>>,
        /// The user's id.
        user: Arc<str>,
    },
    /// All sockets of a namespace and tenant, and what is for those in several rooms.
    All {
        /// The namespace.
        namespace: Arc<str>,
        /// The tenant.
        tenant: Option<Arc<str>>,
    },
    /// What is said to one socket alone, until it has come.
    Socket {
        /// The namespace.
        namespace: Arc<str>,
        /// The id under which it is known.
        name: SocketAddress,
    },
}

/// Where an event stands in the line of all nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Position {
    /// Which line: another one after the store has forgotten.
    pub line: u32,
    /// Its number there.
    pub id: u64,
    /// The number of the event before it in its scope; 0: there was none.
    pub before: u64,
    /// The epoch of its offset.
    pub epoch: u64,
    /// Its number in its scope.
    pub offset: u64,
}

/// An event of the line.
#[derive(Debug)]
pub struct Heard<'a> {
    /// Where it stands.
    pub at: Position,
    /// Whom it is for.
    pub target: Target<'a>,
    /// What is said; `None`: events of the room were lost, and this stands for them.
    pub message: Option<Message>,
    /// Not for this socket: it has said it.
    pub skip: Option<SocketAddress>,
    /// For this socket alone, which is known by this id.
    pub to: Option<SocketAddress>,
    /// It says changes of presence, of which those up to this number were said before; as many
    /// numbers of the line as there are changes end with its own.
    pub edges_after: Option<u64>,
}

/// Changes of presence on their way into the line.
#[derive(Debug, Clone)]
pub struct Changes {
    /// The number of the one before them; all between are here.
    pub after: u64,
    /// The number of the last.
    pub to: u64,
    /// What is told of them to whom.
    pub parts: Vec<ChangesPart>,
}

/// What of some changes is for the sockets of a namespace and tenant.
#[derive(Debug, Clone)]
pub struct ChangesPart {
    /// The namespace.
    pub namespace: Arc<str>,
    /// The tenant.
    pub tenant: Option<Arc<str>>,
    /// How many changes.
    pub count: usize,
    /// All of them.
    pub message: Message,
}

/// The end of what all nodes together have kept of a scope.
#[derive(Debug)]
pub struct Tail<'a> {
    /// The epoch of its offsets.
    pub epoch: u64,
    /// How many events there were.
    pub offset: u64,
    /// From where to where nothing is missing.
    pub known: Extent,
    /// The events, by their numbers, the newest of each key among them.
    pub events: Vec<Heard<'a>>,
}

/// How far the line of all nodes is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reached {
    /// Which line.
    pub line: u32,
    /// What had a number up to this one may be missing: the store has forgotten.
    pub begin: u64,
    /// The last number that was taken.
    pub last: u64,
}

/// Why a session cannot be taken up here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unclaimed {
    /// There is none, or not any more.
    Unknown,
    /// It is another user's.
    Foreign,
    /// Nobody can say: the store is away.
    Unreachable,
}

/// The line, as a node uses it.
pub trait SharedLine: Send + Sync + 'static {
    /// Puts an event into the line. It is told here when it comes back. Never waits; the answer
    /// is its offset, or `None` if it is not in the line: the store is away.
    fn say(
        &self,
        target: &Target<'_>,
        message: &Message,
        skip: Option<SocketAddress>,
    ) -> BoxFuture<Option<u64>>;

    /// The number that this node gave to what was said here last, in whichever scope. They grow,
    /// and are no places in the line.
    fn last_said(&self) -> u64;

    /// Resolves when all that was said here up to such a number has come back and been told, or
    /// will not be told any more; after some seconds in any case. `None`: that is so already.
    fn back(&self, number: u64) -> Option<BoxFuture<()>>;

    /// Puts an event to one socket into the line, which is known by this id and was here a moment
    /// ago.
    fn say_to(&self, namespace: &Arc<str>, name: SocketAddress, message: &Message);

    /// What was said to a socket alone has come, up to a number.
    fn received(&self, name: SocketAddress, id: u64);

    /// Puts changes of presence into the line, once, whichever nodes do it. They are told here
    /// when they come back. False: the store is away.
    fn say_changes(&self, changes: Changes) -> BoxFuture<bool>;

    /// Holds a room. [`ready`](Subscription::ready) resolves when its end has been
    /// [taken in](super::Node::take_in), or will not be for now.
    fn hold(&self, namespace: &str, tenant: Option<&str>, room: &str) -> Arc<dyn Subscription>;

    /// Has the end of a scope [taken in](super::Node::take_in); false: it cannot be had now.
    fn follow(&self, scope: Scope) -> BoxFuture<bool>;

    /// This node has sockets of a user, or sessions that may come back: it is to hear what is
    /// said to them. `None`: it does already; else the future resolves when it does. If that is
    /// late, it resolves before, and what the user may have missed until then is told as a gap.
    fn attend(&self, user: &UserKey) -> Option<BoxFuture<()>>;

    /// Writes down what a socket has, soon; `None`: it is gone for good. `owner` names its
    /// user.
    fn remember(&self, name: SocketAddress, session: Option<Session>);

    /// Resolves when all of that is written, or will not be for now.
    fn remembered(&self) -> BoxFuture<()>;

    /// The tag of the node that has a socket which is known by this name; `None`: nobody says.
    ///
    /// # Errors
    /// The store is away: it is not known.
    fn holder(&self, name: SocketAddress) -> BoxFuture<Result<Option<u32>, Away>>;

    /// Takes a session up: of several nodes that try, one has it. The one that had it hears of
    /// [that](super::Node::lose_session). If the owner is a user, this node [attends](Self::attend)
    /// them from then on. `begin` is the number of the last event before the session began: one
    /// from before its user was [ended](Self::end_all) is not there any more.
    fn claim(
        &self,
        name: SocketAddress,
        owner: String,
        user: Option<&UserKey>,
        begin: u64,
    ) -> BoxFuture<Result<Session, Unclaimed>>;

    /// What a socket has is nobody's from here on, whichever node has it, and whatever has become
    /// of that. True: there was something, and its node hears that it has it
    /// [no more](super::Node::lose_session). It is done also when nobody waits for it.
    ///
    /// # Errors
    /// The store is away: it is done as soon as it is back.
    fn end(&self, name: SocketAddress) -> BoxFuture<Result<bool, Away>>;

    /// The same of all that the users with an id have, of one type or of any; what they begin at
    /// this node after that is theirs. Nodes are not told.
    ///
    /// # Errors
    /// As [`end`](Self::end): what they begin until the store is back is ended with it.
    fn end_all(
        &self,
        tenant: Option<&str>,
        user: &str,
        only: Option<&UserKey>,
    ) -> BoxFuture<Result<(), Away>>;

    /// Whether this node has taken a session up, and no other one has since.
    fn has_claimed(&self, name: SocketAddress) -> bool;
}

/// Why a node has a session no more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lost {
    /// Another node has taken it up: its client is there, or about to be.
    TakenUp,
    /// It is nobody's: it was ended.
    Ended,
}

/// The store that all nodes share cannot be reached at present.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Away;

/// What a socket has, as its node writes it down.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session {
    /// Whose it is: nobody else may take it up.
    pub owner: String,
    /// Whether its connection was lost: it may be taken up for as long as the window.
    pub is_lost: bool,
    /// Whether the node that takes it up has had it itself, and no other one since.
    pub was_here: bool,
    /// What the gateway knows of it.
    pub record: Vec<u8>,
}

//! What operators and an app's backend ask of a gateway: of this node (`here`), of all
//! nodes (`everywhere`; of users `users`, of the nodes themselves `nodes`), and what other nodes are
//! answered (`answers`). Of sockets that were lost and may come back, `suspended` tells.

mod answers;
mod conversations;
mod everywhere;
mod here;
mod in_turn;
mod invites;
mod nodes;
mod pages;
mod suspended;
mod users;
mod watching;

use std::fmt;
use std::sync::Arc;

use heartline_core::entries::Missing;
use heartline_wire::codes::Code;
use heartline_wire::json::MAX_DEPTH;

pub use invites::Welcome;
pub(crate) use pages::count_newcomer;

use crate::fanout::Unreachable;

/// An event for the members of a room.
#[derive(Debug, Clone)]
pub struct Publish {
    /// The room's tenant.
    pub tenant_id: Option<String>,
    /// The room's namespace.
    pub namespace: String,
    /// The room.
    pub room: String,
    /// The event's name.
    pub event: String,
    /// Its data, JSON text.
    pub data: String,
    /// Set where only the newest per room and key matters to a slow reader.
    pub key: Option<String>,
    /// Whoever is in one of these rooms is left out; a room may be a socket's id or
    /// `user:ID`. The publication has no offset then, and must have no key.
    pub except: Vec<String>,
}

/// An event for all sockets of a namespace and tenant.
#[derive(Debug, Clone)]
pub struct Broadcast {
    /// The tenant.
    pub tenant_id: Option<String>,
    /// The namespace.
    pub namespace: String,
    /// The event's name.
    pub event: String,
    /// Its data, JSON text.
    pub data: String,
    /// Whoever is in one of these rooms is left out; a room may be a socket's id or
    /// `user:ID`.
    pub except: Vec<String>,
}

/// What became of a wish about many sockets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Moved {
    /// Sockets that it was done to.
    pub sockets: usize,
    /// Nodes that did not answer: there it may have been done or not. And whether there may be others.
    pub missing: Missing,
}

/// What became of the wish to end sockets.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ended {
    /// Sockets that were ended, connected or lost.
    pub sockets: usize,
    /// Nodes that did not answer. It is partial also where the cluster's store is away: what they
    /// had may be taken up again until it is back, and is ended then; and while not all nodes have
    /// come back to a store that had forgotten them.
    pub missing: Missing,
}

/// Whom an event for a user was given to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reached {
    /// Sockets that are known to be there, on all nodes, and this node's that were lost and hear it
    /// when they come back.
    pub sockets: usize,
    /// There may be others, as it is not known at present what other nodes have.
    pub partial: bool,
}

/// Whether there is a socket cannot be found out at present.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NotKnown {
    /// The node that should have it, and does not answer; `None`: it is not known which that is.
    pub node_id: Option<Arc<str>>,
}

impl fmt::Display for NotKnown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.node_id {
            Some(node_id) => write!(f, "node {node_id} does not answer; try again"),
            None => f.write_str(
                "it is not known at present on which node it is, as this node does not reach Redis, \
                 or Redis has forgotten the nodes and not all have come back; try again",
            ),
        }
    }
}

impl std::error::Error for NotKnown {}

/// Users that a list of a room's members has at most.
pub(crate) const MAX_MEMBERS: usize = 1000;
/// So many of them count as an event of the client that asks: a full list as a hundred.
pub(crate) const MEMBERS_AN_EVENT: usize = 10;

/// What became of a publication.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Published {
    /// Sockets of this node that it was for; of a user's, also those that were lost and hear it when
    /// they come back.
    pub delivered: usize,
    /// Its number in its room; absent if the room has no members.
    pub offset: Option<u64>,
}

/// Why something could not be published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PublishError {
    /// There is no such namespace.
    UnknownNamespace(String),
    /// The room's name has no byte, more than 256, or control characters, or is a conversation's
    /// without an id.
    InvalidRoom,
    /// The room is a user's own: exactly its user's sockets are in it.
    UsersRoom,
    /// The event's name is empty, longer than 128 bytes, or one of the
    /// protocols' own.
    InvalidEvent,
    /// The data is no JSON.
    InvalidData,
    /// The data is nested too deep.
    TooDeep,
    /// The data has more bytes than `server.max_payload`, which is this.
    TooLarge(usize),
    /// The key has more than 256 bytes.
    InvalidKey,
    /// There is a key, and rooms that are left out.
    KeyWithExcept,
    /// The cluster's store is away, and `recovery.unreachable` is `refuse`.
    Unreachable,
}

impl PublishError {
    /// The code that clients have for the same.
    pub fn code(&self) -> Code {
        match self {
            PublishError::UnknownNamespace(_) => Code::InvalidNamespace,
            PublishError::InvalidRoom | PublishError::UsersRoom => Code::InvalidRoom,
            PublishError::InvalidEvent => Code::InvalidEvent,
            PublishError::TooLarge(_) => Code::PayloadTooLarge,
            PublishError::InvalidData
            | PublishError::TooDeep
            | PublishError::InvalidKey
            | PublishError::KeyWithExcept => Code::InvalidData,
            PublishError::Unreachable => Code::SendFailed,
        }
    }
}

impl From<Unreachable> for PublishError {
    fn from(Unreachable: Unreachable) -> Self {
        PublishError::Unreachable
    }
}

impl fmt::Display for PublishError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PublishError::UnknownNamespace(name) => write!(f, "there is no namespace {name}"),
            PublishError::InvalidRoom => f.write_str(Code::InvalidRoom.sentence()),
            PublishError::UsersRoom => f.write_str(
                "in user:ID are exactly this user's sockets: nobody else can be put into it, and \
                 nobody taken out",
            ),
            PublishError::InvalidEvent => f.write_str(
                "an event's name has 1 to 128 bytes and is none of the protocols' own types",
            ),
            PublishError::InvalidData => f.write_str("the data is no JSON"),
            PublishError::TooDeep => write!(
                f,
                "the data has at most {MAX_DEPTH} arrays and objects within each other"
            ),
            PublishError::TooLarge(max) => write!(f, "the data has at most {max} bytes"),
            PublishError::InvalidKey => f.write_str("a key has at most 256 bytes"),
            PublishError::KeyWithExcept => {
                f.write_str("a key is of a whole room: it does not go with except")
            }
            PublishError::Unreachable => {
                f.write_str("Redis is away, and recovery.unreachable is \"refuse\"; try again")
            }
        }
    }
}

impl std::error::Error for PublishError {}

/// Why a node lets no connections go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ShedError {
    /// There is no such node.
    UnknownNode,
    /// It does not answer.
    Unreachable,
    /// It is not known at present which nodes there are.
    NotKnown,
    /// It lets everybody go already.
    Draining,
}

impl fmt::Display for ShedError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ShedError::UnknownNode => "there is no such node",
            ShedError::Unreachable => "the node does not answer",
            ShedError::NotKnown => {
                "it is not known at present which nodes there are, as this node does not reach \
                 Redis, or Redis has forgotten them and not all have come back; try again"
            }
            ShedError::Draining => "the node lets everybody go already",
        })
    }
}

impl std::error::Error for ShedError {}

/// A cursor that this gateway did not make.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BadCursor;

impl fmt::Display for BadCursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the cursor is not one that this node gave out")
    }
}

impl std::error::Error for BadCursor {}

//! What may be asked of a shard's sockets: data, which any thread makes and only the
//! shard carries out.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use heartline_core::auth::{AuthError, Identity, UserKey};
use heartline_core::backplane::Subscription;
use heartline_core::backplane::line::Lost;
use heartline_core::entries::{MemberEntry, SocketEntry, SocketFilter};
use heartline_core::line::Place;
use heartline_core::message::Message;
use heartline_core::namespaces::NamespaceId;
use heartline_core::presence::watch::Scope;
use heartline_core::presence::{Admitted, Others, SocketAddress};
use heartline_core::rooms::{Gap, Room, RoomError};
use heartline_engine::tasks::TaskId;
use heartline_wire::codes::Code;
use heartline_wire::id::{ConnId, Slot};
use heartline_wire::json;
use heartline_wire::reason::Reason;
use heartline_wire::time::{Micros, micros};
use tokio::sync::oneshot;

use crate::event::{Args, ConnectRefused, EventError, OTHER_USER};
use crate::publication::{AckId, Publication, Told};
use crate::recovery::Turn;

/// Keeps a room's publications of other nodes coming; absent without other nodes.
pub(crate) type Held = Option<Arc<dyn Subscription>>;

/// Epoch and offset of the last event of a topic that a client has received.
pub(crate) type Recover = Option<(Box<str>, u64)>;

/// What an authentication came to.
pub(crate) struct Connecting {
    pub(crate) socket: SocketAddress,
    pub(crate) outcome: Outcome,
    /// The place in the line when it ended: what was said before is not for the socket.
    pub(crate) begin: Option<Place>,
    /// What it brought of an earlier socket is another user's.
    pub(crate) is_foreign: bool,
    /// Until then nobody else goes on with that.
    pub(crate) turn: Option<Turn>,
}

/// Whose place was taken, and by whom.
pub(crate) struct Replaced {
    pub(crate) to: SocketAddress,
    /// The newer one's device.
    pub(crate) by: Option<Arc<str>>,
    /// The newer one's node.
    pub(crate) node: Arc<str>,
    pub(crate) reason: Reason,
}

/// Which connection is over, if it is older than the one by which its client has come back.
pub(crate) struct Park {
    pub(crate) socket: SocketAddress,
    /// Whose the newer one is.
    pub(crate) user: Option<Arc<UserKey>>,
    /// When that one came.
    pub(crate) since: Micros,
    /// Whether it is still there.
    pub(crate) reply: oneshot::Sender<bool>,
}

/// What concerns the line of kept events, and what was lost.
pub(crate) enum LineOp {
    /// Publications were lost on their way to a room: its numbers go on in another epoch.
    Gap { room: Arc<Room>, gap: Gap },
    /// How far a room is, of which this node did not know it: members have heard nothing yet.
    Begin { room: Arc<Room>, from: Gap },
    /// Another node has taken up what a socket has, which is known by this name, or has ended it.
    Lose {
        socket: SocketAddress,
        name: SocketAddress,
        how: Lost,
    },
    /// The app has come to remember something of a socket, which is known by this name.
    Remember {
        socket: SocketAddress,
        name: SocketAddress,
    },
    /// What was written down of sockets may be forgotten.
    RememberAll,
    /// Answers when all before it is done.
    Settle(oneshot::Sender<()>),
    /// Publications to a user were lost, whose socket this is.
    UserGap { to: SocketAddress },
    /// Something was lost, for whichever socket.
    AnybodyGap(Doubtful),
    /// What was said to everybody of a namespace and tenant was lost.
    EverybodyGap {
        namespace: NamespaceId,
        tenant: Option<Arc<str>>,
    },
    /// All events up to this place in the line that are for this shard have been delivered.
    Reached { place: u64 },
    /// The client of a connection has come back by another one since this time, and wants to
    /// go on: the earlier one is over.
    Park(Park),
}

/// What is lost, where nobody knows whose it was. Members of rooms are told of what comes by these
/// rooms' own ways besides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Doubtful {
    /// What was said to users.
    Users,
    /// What was said to users, to everybody, or to sockets by their rooms.
    Unaddressed,
    /// What was said in rooms by those who do not know that it goes by the line.
    Foreign,
    /// What goes by the line that all nodes share.
    Line,
}

/// How something is said to one socket.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Manner {
    /// It is kept until it has come.
    Kept(Told),
    /// It is of use to this connection alone.
    Passing,
    /// It leaves at once or not at all.
    Volatile,
}

/// A live connection's wish to be in a topic.
pub(crate) struct TopicAsked {
    pub(crate) to: SocketAddress,
    pub(crate) topic: Box<str>,
    /// What it calls its question, if anything.
    pub(crate) id: Option<Box<str>>,
    pub(crate) recover: Recover,
    /// It wants to know who is there.
    pub(crate) members: bool,
}

/// What may be asked of a shard.
pub(crate) enum Op {
    /// Something has waited for its turn, which it is now.
    Due(Box<Op>),
    /// A future can go on.
    Wake(TaskId),
    /// An authentication has ended.
    Connecting(Connecting),
    Emit {
        to: SocketAddress,
        message: Message,
        how: Manner,
    },
    EmitWithAck {
        to: SocketAddress,
        message: Message,
        reply: oneshot::Sender<Result<Args, EventError>>,
    },
    /// Something that many get, to one of them.
    Send {
        to: SocketAddress,
        publication: Arc<Publication>,
        /// Only if the socket is not in this room and may join it.
        instead_of: Option<Arc<str>>,
    },
    Ack {
        to: SocketAddress,
        ack: AckId,
        args: Args,
    },
    Refuse {
        to: SocketAddress,
        ack: Option<AckId>,
        error: Box<EventError>,
    },
    /// A live connection is answered with this frame.
    Answer { to: SocketAddress, text: Box<str> },
    Join {
        to: SocketAddress,
        room: Box<str>,
        reply: oneshot::Sender<Result<Held, RoomError>>,
    },
    /// A client's own wish to join: counted by the limit on joins.
    TryJoin {
        to: SocketAddress,
        room: Box<str>,
        reply: oneshot::Sender<Result<Held, EventError>>,
    },
    /// A live connection wants to be in a topic, and what it has said before is done.
    SubscribeAsked(TopicAsked),
    /// A live connection joins a topic whose publications arrive from now on.
    Subscribe {
        to: SocketAddress,
        topic: Box<str>,
        id: Option<Box<str>>,
        recover: Recover,
        /// Who is there, where that was asked for.
        members: Option<Vec<MemberEntry>>,
        /// Kept until then; or why not.
        held: Result<Held, EventError>,
    },
    Leave {
        to: SocketAddress,
        room: Box<str>,
        reply: oneshot::Sender<()>,
    },
    /// A live connection leaves a topic, behind what it has said before.
    Unsubscribe {
        to: SocketAddress,
        topic: Box<str>,
        id: Option<Box<str>>,
    },
    /// A publication to the members of a room.
    Deliver {
        room: Arc<Room>,
        offset: u64,
        publication: Arc<Publication>,
        /// Not to this one of them.
        skip: Option<SocketAddress>,
    },
    /// Something of the line of kept events.
    Line(LineOp),
    /// A publication to a namespace's sockets of one tenant.
    Broadcast {
        namespace: NamespaceId,
        tenant: Option<Arc<str>>,
        publication: Arc<Publication>,
        /// Whom each of its events is about: users are not told of themselves.
        about: Option<Arc<[Arc<UserKey>]>>,
    },
    /// A publication about a user to whoever else is in any of the rooms, and in
    /// none of the others. With others, there is one room.
    DeliverAround {
        user: Arc<UserKey>,
        rooms: Vec<Arc<Room>>,
        others: Option<Others>,
        publication: Arc<Publication>,
    },
    /// About what sockets watch.
    Watch(WatchOp),
    /// Something happens to sockets that are chosen by their rooms.
    Select {
        selection: Arc<Selection>,
        action: SelectedAction,
    },
    Disconnect {
        to: SocketAddress,
        reason: Reason,
        reply: Option<oneshot::Sender<bool>>,
    },
    /// A newer connection took this one's place.
    Replaced(Replaced),
    /// The socket has a new token.
    Refresh {
        to: SocketAddress,
        who: Arc<Identity>,
        /// The rooms of conversations of which only the store knows whether they are still
        /// open.
        reply: oneshot::Sender<Vec<Arc<str>>>,
    },
    /// A socket leaves the room of a conversation, if it is there and not open to it any more.
    LookAgain { to: SocketAddress, room: Arc<str> },
    /// What a socket has asked for counts as so many events more.
    Charge { to: SocketAddress, events: usize },
    /// The node is going away: everybody is let go, over this many microseconds.
    Drain { spread: Duration },
    /// So many are let go over this time, and the node stays. They are of as many as this shard
    /// and those behind it have, each of which lets its part go.
    Shed {
        count: usize,
        of: usize,
        spread: Duration,
    },
    /// A connection that was only kept for its handlers can go.
    Finish(ConnId),
    /// Whoever has not gone yet goes now.
    Force,
    /// A question of the API's.
    Query(Query),
}

/// What is to be done about what sockets watch.
pub(crate) enum WatchOp {
    /// A change of it, and its number; without one, the last words.
    Changed {
        to: SocketAddress,
        scope: Arc<Scope>,
        rev: Option<u64>,
        publication: Arc<Publication>,
    },
    /// A socket has been answered: what follows may come.
    Begin {
        to: SocketAddress,
        scope: Arc<Scope>,
    },
    /// Who is in a room is to be said, and from then on who comes in and who leaves.
    Follow {
        scope: Arc<Scope>,
        reply: oneshot::Sender<()>,
    },
}

/// The word for a refusal by the app, which has a code of its own or none.
const REFUSED: &str = "REFUSED";

/// Why a socket was refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Refusal {
    Auth(AuthError),
    /// `Some`: a place may become free by itself; when it makes sense to try again.
    DeviceLimit(Option<Duration>),
    /// The authenticator or a decider of the app's has panicked.
    Failed,
    /// The app does not let it in.
    App(ConnectRefused),
    /// It is somebody already, and the token is another user's.
    OtherUser,
}

impl Refusal {
    /// The word for it in metrics, and the contract's code, where it has one.
    pub(crate) fn code(&self) -> &'static str {
        match self {
            Refusal::Auth(error) => error.code().as_str(),
            Refusal::DeviceLimit(_) => Code::DeviceLimit.as_str(),
            Refusal::Failed => Code::Internal.as_str(),
            Refusal::App(_) => REFUSED,
            Refusal::OtherUser => Code::Forbidden.as_str(),
        }
    }

    /// The code by which the client knows it: an app puts one of its own into `data.code`.
    pub(crate) fn code_told(&self) -> Cow<'_, str> {
        let data = match self {
            Refusal::App(refused) => refused.data.as_deref(),
            _ => None,
        };
        data.and_then(|data| json::unquote(json::field(data, "code")?))
            .unwrap_or(self.code().into())
    }

    /// CONNECT_ERROR's text.
    pub(crate) fn message(&self) -> &str {
        match self {
            Refusal::Auth(error) => error.message(),
            Refusal::DeviceLimit(_) => Code::DeviceLimit.sentence(),
            Refusal::Failed => "You could not be let in; try again",
            Refusal::App(refused) => &refused.message,
            Refusal::OtherUser => OTHER_USER,
        }
    }

    /// CONNECT_ERROR's data, JSON.
    pub(crate) fn data(&self) -> Option<String> {
        match self {
            Refusal::App(refused) => refused.data.clone(),
            Refusal::DeviceLimit(Some(wait)) => Some(format!(
                r#"{{"code":"{}","retryAfterMs":{}}}"#,
                self.code(),
                micros(*wait).div_ceil(1000)
            )),
            _ => Some(format!(r#"{{"code":"{}"}}"#, self.code())),
        }
    }

    /// Whether nothing is known against the client: tokens cannot be checked just now. It is
    /// not refused, since Socket.IO's clients would give up; its transport ends, and it
    /// comes back by itself.
    pub(crate) fn is_passing(&self) -> bool {
        matches!(self, Refusal::Auth(AuthError::Unavailable))
    }

    /// Whether a live client is told more than the close frame says.
    pub(crate) fn has_more_to_say(&self) -> bool {
        matches!(self, Refusal::App(_) | Refusal::DeviceLimit(Some(_)))
    }

    /// How a live connection is closed, and any that may come back at once: reason, code and
    /// text.
    pub(crate) fn closing(&self) -> (Reason, u16, &str) {
        let reason = match self {
            Refusal::Auth(AuthError::Expired) => Reason::TokenExpired,
            Refusal::Auth(_) | Refusal::Failed | Refusal::App(_) | Refusal::OtherUser => {
                Reason::AuthFailed
            }
            Refusal::DeviceLimit(_) => Reason::DeviceLimit,
        };
        match self {
            // A new token would not help.
            Refusal::App(refused) => (reason, 4403, &refused.message),
            Refusal::Auth(AuthError::Unavailable) | Refusal::DeviceLimit(Some(_)) => {
                (reason, 1013, self.code())
            }
            Refusal::Failed => (reason, 1011, self.code()),
            _ => (reason, reason.close_code(), self.code()),
        }
    }
}

/// What became of credentials.
pub(crate) type Outcome = Result<(Arc<Identity>, Admitted), Refusal>;

/// Rooms, and sockets that are named themselves.
#[derive(Default)]
pub(crate) struct Chosen {
    pub(crate) rooms: Vec<Arc<Room>>,
    pub(crate) sockets: Vec<SocketAddress>,
}

/// Sockets of a tenant, by where they are.
pub(crate) struct Selection {
    pub(crate) namespace: NamespaceId,
    /// `None`: those without one.
    pub(crate) tenant: Option<Arc<str>>,
    /// Wherever they are.
    pub(crate) all: bool,
    pub(crate) among: Chosen,
    pub(crate) except: Chosen,
    /// Not this one.
    pub(crate) skip: Option<SocketAddress>,
}

/// What becomes of them.
#[derive(Clone)]
pub(crate) enum SelectedAction {
    Send(Arc<Publication>),
    Join(Arc<[String]>),
    Leave(Arc<[String]>),
    Disconnect,
}

/// What the API wants to know of a shard's sockets.
pub(crate) enum Query {
    /// Entries that fit, at most `limit`, among some of the slots from a place on, each with its
    /// place; and the place to go on from.
    List {
        filter: SocketFilter,
        from: ListPlace,
        limit: usize,
        reply: oneshot::Sender<(Vec<(ListPlace, SocketEntry)>, Option<ListPlace>)>,
    },
    /// Some sockets by where they are, from a place on; and the place to go on from. A socket
    /// that is in several of the rooms is told of as often.
    Choose {
        selection: Arc<Selection>,
        from: ChoicePlace,
        reply: oneshot::Sender<(Vec<SocketAddress>, Option<ChoicePlace>)>,
    },
    /// The entries of those that are still there.
    Entries {
        sockets: Vec<SocketAddress>,
        reply: oneshot::Sender<Vec<SocketEntry>>,
    },
    /// The rooms that some sockets are in, of each the newest first.
    RecentRooms {
        sockets: Vec<SocketAddress>,
        reply: oneshot::Sender<Vec<String>>,
    },
    /// Some of a room's members, each with its slot, from the end of the list of members or
    /// `before` a place there; and the place to go on before.
    Members {
        room: Arc<Room>,
        before: Option<usize>,
        reply: oneshot::Sender<(Vec<(Slot, Arc<UserKey>)>, usize)>,
    },
    /// Some of who is in rooms of conversations as a member, each with the room, from a place on;
    /// and the place to go on from. Whose token opens a room is not there as a member.
    Guests {
        from: GuestPlace,
        reply: oneshot::Sender<(Vec<Guest>, Option<GuestPlace>)>,
    },
    /// The entry of one socket.
    Inspect {
        socket: SocketAddress,
        reply: oneshot::Sender<Option<SocketEntry>>,
    },
    /// Of some places in the list of rooms which have members here, the first `limit` and one
    /// more by name, with how many members; and the place to go on from.
    Rooms {
        filter: RoomFilter,
        from: usize,
        limit: usize,
        reply: oneshot::Sender<(Vec<RoomMembers>, Option<usize>)>,
    },
    /// How many members a room has here.
    Count {
        room: Arc<Room>,
        reply: oneshot::Sender<usize>,
    },
    /// How many sockets at some of the slots a broadcast to a namespace and tenant is for;
    /// and the slot to go on from.
    Population {
        namespace: NamespaceId,
        tenant: Option<Arc<str>>,
        from: Slot,
        reply: oneshot::Sender<(usize, Option<Slot>)>,
    },
    /// Remove some of what the timers missed, from a place on; the number of entries removed, and
    /// the place to go on from.
    Sweep {
        from: SweepPlace,
        reply: oneshot::Sender<(usize, Option<SweepPlace>)>,
    },
}

/// A place in a shard's sweep, which goes through its slots, then the parts of the table of who is
/// online, then those of what apps remember.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SweepPlace {
    Slot(Slot),
    Users(usize),
    Data(usize),
}

impl SweepPlace {
    /// Where a sweep begins.
    pub(crate) const FIRST: SweepPlace = SweepPlace::Slot(Slot(0));
}

/// A place in a shard's list of sockets: a slot, and there a namespace's number.
pub(crate) type ListPlace = (Slot, u16);

/// A room's name, its namespace's, and its tenant's.
pub(crate) type RoomPlace = (String, String, Option<String>);

/// A room and how many members it has.
pub(crate) type RoomMembers = (RoomPlace, usize);

/// A place in a selection: which of its rooms, and before which of the members there. Of a
/// selection of all, before which slot.
pub(crate) type ChoicePlace = (usize, usize);

/// Where a selection begins.
pub(crate) const FIRST_CHOICE: ChoicePlace = (0, usize::MAX);

/// The name of a conversation's room, and a user who is there as a member.
pub(crate) type Guest = (Arc<str>, Arc<UserKey>);

/// A place among these: which of the shard's rooms, and before which of the members there.
pub(crate) type GuestPlace = (usize, usize);

/// Where these begin.
pub(crate) const FIRST_GUEST: GuestPlace = (0, usize::MAX);

/// Which rooms are listed.
#[derive(Debug, Clone, Default)]
pub(crate) struct RoomFilter {
    pub(crate) namespace: Option<String>,
    pub(crate) tenant: Option<String>,
    /// Only those that come after this one.
    pub(crate) after: Option<RoomPlace>,
}

//! A handle to one socket, for handlers and whoever they share it with.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use heartline_core::auth::{BoxFuture, Credentials, Identity, UserKey};
use heartline_core::entries::SocketEntry;
use heartline_core::line::session::Session;
use heartline_core::message::{Message, check, check_key};
use heartline_core::presence::SocketAddress;
use heartline_core::rooms::{self, Grant, RoomError};
use heartline_core::store::{Bound, Channel, Checkpoint, Outcome, Patch, StoreError};
use heartline_wire::codes::Code;
use heartline_wire::handshake::without_scheme;
use heartline_wire::names::{self, Speaker};
use heartline_wire::reason::Reason;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::oneshot;

use crate::data::{MAX_REMEMBERED, SocketData};
use crate::event::{Args, EventError, OTHER_USER, PublishRequest, said, said_to_one};
use crate::fanout::{Published, ToRoom, ToUser, Unreachable};
use crate::in_order;
use crate::limits::Sender;
use crate::op::{LineOp, Manner, Op, Query};
use crate::shared::{OwnShared, Shared};
use crate::to::To;

/// One client's place in one namespace.
///
/// Cheap to clone and valid for ever: what is asked of a socket that has gone
/// does nothing, and what waits for its answer is told so.
#[derive(Clone)]
pub struct Socket {
    pub(crate) shared: OwnShared,
    pub(crate) address: SocketAddress,
    pub(crate) identity: Arc<Identity>,
    pub(crate) remote: IpAddr,
    /// The id under which it is known, if that is not where it is: it has come back.
    pub(crate) name: Option<Box<SocketAddress>>,
    /// Set in handles of a socket that has ended, if the app remembered something of it.
    pub(crate) ended: Option<SocketData>,
}

impl std::fmt::Debug for Socket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Socket")
            .field("id", &self.id())
            .field("namespace", &self.namespace())
            .finish_non_exhaustive()
    }
}

/// How long a client waits for the store.
const STORE_TIME: Duration = Duration::from_secs(10);

/// The token that a client presents, by whichever way. An empty one is none.
pub(crate) fn presented(token: &str) -> Option<String> {
    let token = without_scheme(token);
    (!token.is_empty()).then(|| token.to_owned())
}

fn too_large(bound: Bound) -> EventError {
    let error = EventError::new(Code::TooLarge, bound.to_string());
    error.with("size", bound.size()).with("max", bound.max())
}

fn gone() -> EventError {
    Code::Disconnected.into()
}

impl Socket {
    /// The socket's id.
    pub fn id(&self) -> String {
        self.known_as().id()
    }

    /// Whether this connection goes on where an earlier one was lost: the socket has its id,
    /// its rooms and its data, and its client got what it had missed.
    pub fn recovered(&self) -> bool {
        self.name.is_some()
    }

    /// The namespace's name.
    pub fn namespace(&self) -> &str {
        &self
            .shared
            .fanout
            .namespaces
            .get(self.address.namespace())
            .name
    }

    /// Whose it is, as of when this handle was made.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// The client's address.
    pub fn remote_addr(&self) -> IpAddr {
        self.remote
    }

    /// What the app remembers of the socket: what `socket.data` is on Node.
    pub fn data(&self) -> SocketData {
        let there = &self.shared.data;
        if let Some(data) = self.ended.clone().or_else(|| there.find(&self.address)) {
            return data;
        }
        // It may have been lost since this handle was made, and have come back since.
        let recovery = self.shared.fanout.recovery.as_ref();
        let lost = recovery.and_then(|recovery| {
            let keep = |session: &mut Session<Option<SocketData>>| {
                session.data.get_or_insert_default().clone()
            };
            recovery.sessions.look_at(self.known_as(), keep)
        });
        lost.unwrap_or_else(|| there.of(self.place()))
    }

    /// The address under which it is known.
    fn known_as(&self) -> &SocketAddress {
        self.name.as_deref().unwrap_or(&self.address)
    }

    /// Where it is now, if it is here.
    fn place(&self) -> SocketAddress {
        let name = *self.known_as();
        match self.shared.fanout.whereabouts(name) {
            same if same == name => self.address,
            other => other,
        }
    }

    /// Remembers a value of the socket under a name, as JSON; `null` forgets it. It is there again
    /// when the client goes on where it was lost ([`recovered`](Self::recovered)): on one node,
    /// also after the process was killed (with a
    /// [`journal`](crate::config::RecoveryConfig::journal)) or stopped in good order; in a cluster
    /// on whichever node it comes to. What is to outlive the socket belongs into a checkpoint.
    ///
    /// The journal has it when this returns. In a cluster it is written to Redis with all else
    /// that the socket has, at each change and behind this call: one write of a node is under way
    /// at a time, with the newest of up to 128 sockets, so it is there after a round trip or two.
    /// A node that is killed before that takes along what was remembered since the last write; so
    /// while Redis is away, all of that time. What must not be lost then is to be in a store or a
    /// checkpoint before the client is answered.
    ///
    /// # Errors
    /// `TOO_LARGE` when names and values of the socket would have more than 4 096 bytes;
    /// `INTERNAL` when the value cannot be written as JSON.
    pub fn remember<T: Serialize + ?Sized>(&self, name: &str, value: &T) -> Result<(), EventError> {
        let text = serde_json::to_string(value).map_err(EventError::unwritable)?;
        let text = Some(&*text).filter(|text| *text != "null");
        let fanout = &self.shared.fanout;
        let recovery = fanout.recovery.as_ref();
        let journal = recovery.and_then(|recovery| recovery.journal.as_ref());
        let known_as = *self.known_as();
        let note = || {
            if let Some(journal) = journal {
                journal.remembered(known_as, name, text);
            }
        };
        let is_first = self.data().remember(name, text, note).map_err(|size| {
            let error = format!("At most {MAX_REMEMBERED} bytes are remembered of a socket");
            let error = EventError::new(Code::TooLarge, error);
            error.with("size", size).with("max", MAX_REMEMBERED)
        })?;
        if is_first && fanout.common().is_some() {
            let (name, socket) = (known_as, self.place());
            let op = Op::Line(LineOp::Remember { socket, name });
            fanout.post(socket.0.conn.shard, op);
        }
        Ok(())
    }

    /// What was remembered under a name; `None`: nothing, or it is no such value.
    pub fn remembered<T: DeserializeOwned>(&self, name: &str) -> Option<T> {
        let text = self.data().remembered().get(name).cloned();
        serde_json::from_str(&text?).ok()
    }

    /// The registry's entry of the socket: its transport, rooms, times and more; `None` once
    /// it has gone.
    pub async fn entry(&self) -> Option<SocketEntry> {
        let (reply, answer) = oneshot::channel();
        let socket = self.address;
        self.post(Op::Query(Query::Inspect { socket, reply }));
        answer.await.ok()?
    }

    pub(crate) fn address(&self) -> SocketAddress {
        self.address
    }

    pub(crate) fn post(&self, op: Op) {
        self.shared.fanout.post(self.address.0.conn.shard, op);
    }

    /// The same for a change of the socket's rooms, which the client's next event is to
    /// find done.
    pub(crate) fn post_in_order(&self, op: Op) {
        in_order::ask();
        self.post(op);
    }

    /// Sends an event with one argument. With a
    /// [`window`](crate::config::RecoveryConfig::window) it is kept until it has come: a client
    /// that was cut off, and comes back in time, gets what it has missed. What a handler, or its
    /// client, has published before comes before it, if the socket hears that; a message that
    /// is being stored may come behind it.
    ///
    /// # Errors
    /// `INVALID_EVENT` when the name is one of Socket.IO's own (`connect`), empty or
    /// longer than 128 bytes; `INTERNAL` when `data` cannot be written as JSON.
    pub fn emit<T: Serialize + ?Sized>(&self, event: &str, data: &T) -> Result<(), EventError> {
        self.emit_kept(said_to_one(event, &Args::one(data)?)?);
        Ok(())
    }

    /// Answers something that the client has said, by an event with one argument. It is not kept:
    /// of a client that was cut off, another connection has no use for it. It waits for nothing:
    /// what was published before it, in a room whose events are kept, may come behind it.
    ///
    /// # Errors
    /// As [`emit`](Self::emit).
    pub fn answer<T: Serialize + ?Sized>(&self, event: &str, data: &T) -> Result<(), EventError> {
        self.emit_message(said_to_one(event, &Args::one(data)?)?, Manner::Passing);
        Ok(())
    }

    /// Answers a client's `ping` with the time: `pong` is a name that no other event has.
    pub fn pong(&self, timestamp: u64) {
        let data = format!(r#"{{"timestamp":{timestamp}}}"#);
        self.emit_message(Message::new("pong", &data), Manner::Passing);
    }

    /// Sends an event with the arguments as they are; kept as by [`emit`](Self::emit).
    ///
    /// # Errors
    /// `INVALID_EVENT`, as for [`emit`](Self::emit).
    pub fn emit_args(&self, event: &str, args: &Args) -> Result<(), EventError> {
        self.emit_kept(said_to_one(event, args)?);
        Ok(())
    }

    /// Sends an event only if it can leave at once: before what was published before it and is
    /// not heard yet.
    ///
    /// # Errors
    /// As [`emit`](Self::emit).
    pub fn emit_volatile<T: Serialize + ?Sized>(
        &self,
        event: &str,
        data: &T,
    ) -> Result<(), EventError> {
        self.emit_message(said_to_one(event, &Args::one(data)?)?, Manner::Volatile);
        Ok(())
    }

    fn emit_message(&self, message: Message, how: Manner) {
        self.post(Op::Emit {
            to: self.address,
            message,
            how,
        });
    }

    fn emit_kept(&self, message: Message) {
        let name = *self.known_as();
        self.shared.fanout.emit_in_turn(name, self.address, message);
    }

    /// Sends an event and waits for the client's acknowledgement. It is not kept: who asks
    /// hears that nobody has answered.
    ///
    /// # Errors
    /// `TIMEOUT` when none came in time, `DISCONNECTED` when the socket went, `TOO_MANY_ACKS`
    /// while 1 024 others are waited for, `NOT_SUPPORTED` on the live protocol, which has none,
    /// `INVALID_EVENT` as for [`emit`](Self::emit).
    pub async fn emit_with_ack(
        &self,
        event: &str,
        args: &Args,
        timeout: Duration,
    ) -> Result<Args, EventError> {
        let message = said_to_one(event, args)?;
        let (reply, answer) = oneshot::channel();
        self.post(Op::EmitWithAck {
            to: self.address,
            message,
            reply,
        });
        match tokio::time::timeout(timeout, answer).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => Err(gone()),
            Err(_) => Err(Code::Timeout.into()),
        }
    }

    /// Joins a room, whatever the socket's token says of it. Joining twice changes nothing. Whoever
    /// is put into the room of a conversation is a member of it from then on.
    ///
    /// # Errors
    /// `INVALID_ROOM`, `ROOM_LIMIT`, or `DISCONNECTED`.
    pub async fn join(&self, room: &str) -> Result<(), EventError> {
        if !rooms::is_valid_name(room) {
            return Err(RoomError::Invalid.into());
        }
        let (reply, answer) = oneshot::channel();
        self.post_in_order(Op::Join {
            to: self.address,
            room: room.into(),
            reply,
        });
        let held = answer.await.map_err(|_| gone())??;
        // Who is in the room and no member may be looked at meanwhile.
        self.takes_part_in(room).await;
        self.shared.fanout.settle(self.address, held).await;
        Ok(())
    }

    /// Leaves a room. Leaving one it is not in changes nothing.
    ///
    /// # Errors
    /// `DISCONNECTED`.
    pub async fn leave(&self, room: &str) -> Result<(), EventError> {
        let (reply, answer) = oneshot::channel();
        self.post_in_order(Op::Leave {
            to: self.address,
            room: room.into(),
            reply,
        });
        answer.await.map_err(|_| gone())?;
        self.shared.fanout.settle(self.address, None).await;
        Ok(())
    }

    /// Publishes an event to a room of the socket's tenant and namespace.
    ///
    /// # Errors
    /// `INVALID_ROOM`, `PAYLOAD_TOO_LARGE` for more than `max_payload`, or as for [`emit`](Self::emit).
    pub async fn publish<T: Serialize + ?Sized>(
        &self,
        room: &str,
        event: &str,
        data: &T,
    ) -> Result<(), EventError> {
        let message = said(event, &Args::one(data)?)?;
        self.publish_message(room, message, None, true).map(drop)
    }

    /// Whoever is in a room of the socket's tenant and namespace, but not the socket itself;
    /// on all nodes.
    ///
    /// ```
    /// # use heartline::{EventError, Socket};
    /// # fn handler(socket: &Socket) -> Result<(), EventError> {
    /// socket.to("lobby").except("muted").emit("moved", &[1, 2])?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn to(&self, room: &str) -> To {
        self.broadcast().to(room)
    }

    /// Everybody in the socket's tenant and namespace but the socket itself; on all nodes.
    pub fn broadcast(&self) -> To {
        let tenant = self.identity.tenant_id().cloned();
        let shared: &Arc<Shared> = &self.shared;
        To::new(
            shared.clone(),
            self.address.namespace(),
            tenant,
            Some(self.address),
        )
    }

    /// Joins a room at the client's own wish: if its token grants it and the limit on joins
    /// allows. Whoever joins the room of a conversation is a member of it from then on.
    ///
    /// # Errors
    /// `FORBIDDEN`, `INVALID_ROOM`, `ROOM_LIMIT`, `RATE_LIMITED` or `DISCONNECTED`.
    pub async fn ask_to_join(&self, room: &str) -> Result<(), EventError> {
        self.may_join(room).await?;
        let (reply, answer) = oneshot::channel();
        self.post_in_order(Op::TryJoin {
            to: self.address,
            room: room.into(),
            reply,
        });
        let held = answer.await.map_err(|_| gone())??;
        self.shared.fanout.settle(self.address, held).await;
        self.takes_part_in(room).await;
        Ok(())
    }

    /// The user is a member of the conversation whose room it has joined.
    async fn takes_part_in(&self, room: &str) {
        if let (Some(id), Some(user)) = (rooms::conversation_of(room), &self.identity.user) {
            self.shared.members.joined(id, user).await;
        }
    }

    /// Whether the client may join a room: its token grants it, or it is a conversation of
    /// which the user is a member. Where the store has to be asked, what the client says next
    /// waits.
    ///
    /// # Errors
    /// `FORBIDDEN`, `AUTH_REQUIRED` or `INVALID_ROOM`; `INTERNAL` when the store has no answer.
    pub async fn may_join(&self, room: &str) -> Result<(), EventError> {
        let members = &self.shared.members;
        if let Some(decided) = members.may_join_now(room, &self.identity) {
            return Ok(decided?);
        }
        in_order::ask();
        members.may_join(room, &self.identity).await
    }

    /// Whether the client may publish to a room. Who may join a conversation may, unless the
    /// token says where its bearer may publish.
    ///
    /// # Errors
    /// As for [`may_join`](Self::may_join).
    pub async fn may_publish(&self, room: &str) -> Result<(), EventError> {
        let members = &self.shared.members;
        if let Some(decided) = members.may_publish_now(room, &self.identity) {
            return Ok(decided?);
        }
        in_order::ask();
        members.may_publish(room, &self.identity).await
    }

    /// To be called by a handler before it stores something that is told in a room then: waits
    /// until what its client has published before is heard, where that would come behind it. What
    /// the client says behind this event is published, and joins and leaves rooms, when the handler
    /// has ended. So is what changes this socket's rooms by [`join`](Self::join),
    /// [`leave`](Self::leave) or [`refresh`](Self::refresh) from here on: a handler that awaits one
    /// of them itself waits for its own end, until `handler_timeout` refuses its event. It does
    /// so before this call, or has a task of its own do it.
    pub async fn in_turn(&self, room: &str) {
        if let Some(turn) = self.shared.fanout.turn(room) {
            turn.await;
        }
    }

    /// To be called first by a handler that reads what its client may have changed before: waits
    /// until what the client has published is heard and its messages are stored, or refused. Where
    /// it has to wait, what the client says behind this event waits until the handler has ended.
    pub async fn behind_own(&self) {
        if let Some(own) = self.shared.fanout.own() {
            own.await;
        }
    }

    /// The socket's user is a member of a conversation from now on, as after joining its room.
    /// The store is asked at once, before what it is asked next; the future resolves when that
    /// is kept, or takes too long.
    pub fn take_part(&self, conversation_id: &str) -> BoxFuture<()> {
        match &self.identity.user {
            Some(user) => self.shared.members.takes_part(conversation_id, user, None),
            None => Box::pin(std::future::ready(())),
        }
    }

    /// The same for who writes in a conversation, if its room is open to their token. Where it is
    /// open to members, the writer is one already, or their token opens the writing alone: that
    /// makes nobody a member. What they have `written` they have read, whose offset is said there.
    pub(crate) fn writes_in(
        &self,
        conversation_id: &str,
        written: oneshot::Receiver<u64>,
    ) -> BoxFuture<()> {
        let members = &self.shared.members;
        let room = rooms::of_conversation(conversation_id);
        match (members.grant(&room, &self.identity), &self.identity.user) {
            (Ok(Grant::Given), Some(user)) => {
                members.takes_part(conversation_id, user, Some(written))
            }
            _ => Box::pin(std::future::ready(())),
        }
    }

    /// Moves the user's read marker of a conversation forward to the message with this offset, at
    /// most to the last one. What is said of one marker within 200 ms is written once; the
    /// answer comes when it is kept, and says where the marker stands then. The user's other
    /// sockets are told, and with `conversations.receipts` the room. `None`: the user is no
    /// member, or nobody.
    ///
    /// # Errors
    /// What the store has.
    pub async fn mark_read(
        &self,
        conversation_id: &str,
        offset: u64,
    ) -> Result<Option<u64>, StoreError> {
        let Some(user) = &self.identity.user else {
            return Ok(None);
        };
        let place = (user, conversation_id);
        let mark = || self.shared.markers.mark(place, offset, self.address);
        let mut marked = mark().await?;
        if marked.is_none() && self.is_in(&rooms::of_conversation(conversation_id)).await {
            // It has only just joined.
            self.take_part(conversation_id).await;
            marked = mark().await?;
        }
        Ok(marked.map(|marked| marked.offset))
    }

    /// Whether it is in a room.
    async fn is_in(&self, room: &str) -> bool {
        let rooms = self.shared.fanout.recent_rooms(&[self.address]).await;
        rooms.iter().any(|one| one == room)
    }

    /// Publishes at the client's own wish: if its token grants it, and under a name that is
    /// not the gateway's. The only way on which a client's words reach a room, whatever its
    /// protocol; the publication's number in its room, if that has members on this node.
    ///
    /// # Errors
    /// `FORBIDDEN`, `INVALID_ROOM`, `INVALID_EVENT`, `INVALID_DATA` or `PAYLOAD_TOO_LARGE`, and
    /// as for [`may_join`](Self::may_join).
    pub async fn ask_to_publish(&self, request: PublishRequest) -> Result<Option<u64>, EventError> {
        self.may_publish(&request.room).await?;
        if !names::may_say(Speaker::Client, &request.event) {
            return Err(EventError::new(
                Code::InvalidEvent,
                "An event's name has 1 to 128 bytes and is neither the gateway's nor a protocol's own",
            ));
        }
        let message = Message {
            event: request.event.into(),
            args: request.data.json.into(),
            attachments: request.data.attachments,
        };
        let key = request.key.as_deref();
        let published = match &self.identity.user {
            Some(user) if request.room.starts_with(rooms::PRIVATE) => {
                self.may_pass(&request.room, &message, key)?;
                self.say_to_myself(user, (&request.room, key), message, request.to_self)
            }
            _ => self.publish_message(&request.room, message, key, request.to_self)?,
        };
        let offset = published.offset().await;
        offset.map_err(|Unreachable| {
            let sentence = "The event could not be published just now; try again";
            EventError::new(Code::SendFailed, sentence)
        })
    }

    /// Counts one more message of the user, or of the anonymous socket: a user's together in
    /// all namespaces with the same limit. Whoever is over the limit by far is let go.
    ///
    /// # Errors
    /// `RATE_LIMITED`, with the time after which trying again makes sense.
    pub fn take_message(&self) -> Result<(), EventError> {
        let namespace = self.shared.fanout.namespaces.get(self.address.namespace());
        let Some(limit) = namespace.config.limits.messages else {
            return Ok(());
        };
        let sender = match &self.identity.user {
            Some(user) => Sender::User(user.clone(), limit),
            None => Sender::Socket(self.address),
        };
        let now = self.shared.clock.now();
        let Err(over) = self.shared.limits.take_message(sender, limit, now) else {
            return Ok(());
        };
        if limit.is_far_over(over.refused) {
            self.post(Op::Disconnect {
                to: self.address,
                reason: Reason::RateLimited,
                reply: None,
            });
        }
        Err(EventError::from(Code::RateLimited).retry_after(over.retry_after_ms))
    }

    /// Whether a message of this name is in the store, or may be, and so has been counted.
    pub(crate) fn has_sent(&self, user: &UserKey, channel: &Channel, temp_id: &str) -> bool {
        self.shared.limits.was_sent((user, channel, temp_id))
    }

    /// A message that has been counted is in the store, or may be. Whether it was there at an
    /// earlier time.
    pub(crate) fn notes_sent(
        &self,
        user: &UserKey,
        channel: &Channel,
        temp_id: &str,
        is_stored: bool,
    ) -> bool {
        let message = (user, channel, temp_id);
        self.shared.limits.note_sent(message, is_stored)
    }

    /// What the client has asked for counts as so many events more (`limits.events`): for what
    /// costs more than one event does. It is not refused for that, but what comes next may be.
    pub fn charge(&self, events: usize) {
        if events > 0 {
            let to = self.address;
            self.post(Op::Charge { to, events });
        }
    }

    /// Merges a patch (RFC 7396: an object as JSON, in which `null` removes) into what is kept of
    /// the user; the version from which on it is in there, once that is kept. With
    /// `if_version`, only if that is the version there is; 0 is the one before the first.
    ///
    /// # Errors
    /// `AUTH_REQUIRED`; `INVALID_DATA` for what is no object; `TOO_LARGE` with `size` and `max`;
    /// `CONFLICT` with the `version` and the `metadata` there are; `OVERLOADED`; `SAVE_FAILED`.
    pub async fn checkpoint(
        &self,
        patch: &str,
        if_version: Option<u64>,
    ) -> Result<u64, EventError> {
        let user = self.user()?;
        let parsed = Patch::parse(patch, if_version).map_err(|bound| match bound {
            Some(bound) => too_large(bound),
            None => EventError::new(Code::InvalidData, "A checkpoint is an object of JSON"),
        })?;
        let changed = self.shared.sessions.change(user, parsed, patch.len());
        match tokio::time::timeout(STORE_TIME, changed).await {
            Ok(Ok(Outcome::Kept(version))) => Ok(version),
            Ok(Ok(Outcome::TooLarge(bound))) => Err(too_large(bound)),
            Ok(Ok(Outcome::Conflict { version, metadata })) => {
                let metadata: serde_json::Value =
                    serde_json::from_str(&metadata).unwrap_or_default();
                let error = EventError::from(Code::Conflict).with("version", version);
                Err(error.with("metadata", metadata))
            }
            Ok(Err(StoreError::Overloaded)) => Err(Code::Overloaded.into()),
            Ok(Err(StoreError::Failed(_))) | Err(_) => Err(Code::SaveFailed.into()),
        }
    }

    /// What is kept of the user, by whichever of their sockets; `None`: nothing.
    ///
    /// # Errors
    /// `AUTH_REQUIRED`, `OVERLOADED` when too many ask, or `SAVE_FAILED` when the store does not
    /// answer.
    pub async fn kept(&self) -> Result<Option<Checkpoint>, EventError> {
        self.found(None).await
    }

    /// What is kept of the user, for a socket that has just come: its own rooms do not count.
    pub(crate) async fn kept_before(&self) -> Result<Option<Checkpoint>, EventError> {
        self.found(Some(self.address)).await
    }

    async fn found(
        &self,
        newcomer: Option<SocketAddress>,
    ) -> Result<Option<Checkpoint>, EventError> {
        let kept = self.shared.sessions.checkpoint(self.user()?, newcomer);
        match tokio::time::timeout(STORE_TIME, kept).await {
            Ok(Ok(kept)) => Ok(kept),
            Ok(Err(StoreError::Overloaded)) => Err(Code::Overloaded.into()),
            Ok(Err(StoreError::Failed(reason))) => {
                tracing::warn!(reason, "a checkpoint could not be read");
                Err(Code::SaveFailed.into())
            }
            Err(_) => Err(Code::SaveFailed.into()),
        }
    }

    fn user(&self) -> Result<&Arc<UserKey>, EventError> {
        let user = self.identity.user.as_ref();
        user.ok_or_else(|| Code::AuthRequired.into())
    }

    /// Gives the socket a new token, which must be the same user's; when it expires, Unix
    /// milliseconds. Rooms that it does not grant any more are left. What the client says next
    /// is judged by the new one, however long that takes to be verified.
    ///
    /// # Errors
    /// `AUTH_REQUIRED` without a token, `FORBIDDEN`, `DISCONNECTED`, or what the authenticator
    /// says of it.
    pub async fn refresh(&self, token: String) -> Result<Option<u64>, EventError> {
        let Some(token) = presented(&token) else {
            return Err(Code::AuthRequired.into());
        };
        let credentials = Credentials {
            token: Some(token),
            payload: None,
            namespace: self.namespace().to_owned(),
            remote_addr: self.remote,
            handshake: None,
        };
        in_order::ask();
        let identity = self.shared.authenticate(credentials).await;
        let mut identity = identity.map_err(|error| EventError::from(error.code()))?;
        if identity.user != self.identity.user || identity.user.is_none() {
            return Err(EventError::new(Code::Forbidden, OTHER_USER));
        }
        // The registry knows this socket by its user and device; they stay.
        identity.user = self.identity.user.clone();
        identity.device_id = self.identity.device_id.clone();
        let expires_at = identity.expires_at;
        let who = Arc::new(identity);
        let (reply, answer) = oneshot::channel();
        self.post_in_order(Op::Refresh {
            to: self.address,
            who: who.clone(),
            reply,
        });
        let members = &self.shared.members;
        for room in answer.await.map_err(|_| gone())? {
            // It is known then, or cannot be found out and stays.
            let _ = members.may_join(&room, &who).await;
            let to = self.address;
            self.post_in_order(Op::LookAgain { to, room });
        }
        Ok(expires_at)
    }

    pub(crate) fn publish_message(
        &self,
        room: &str,
        message: Message,
        key: Option<&str>,
        to_self: bool,
    ) -> Result<Published, EventError> {
        self.may_pass(room, &message, key)?;
        let to = ToRoom {
            namespace: self.address.namespace(),
            tenant: self.identity.tenant_id().map(|tenant| &**tenant),
            room,
            key,
            skip: (!to_self).then_some(self.address),
        };
        Ok(self.shared.fanout.publish_to_room(&to, message))
    }

    /// What holds for every message to a room.
    fn may_pass(&self, room: &str, message: &Message, key: Option<&str>) -> Result<(), EventError> {
        if !rooms::is_valid_name(room) {
            return Err(RoomError::Invalid.into());
        }
        // Other nodes would drop it.
        check_key(key)?;
        let max = self.shared.config.max_payload;
        check(&message.args, &message.attachments, max)?;
        Ok(())
    }

    /// Publishes to the user's own room. It belongs to the user key: users of another type
    /// may have the same id, and are somebody else.
    fn say_to_myself(
        &self,
        user: &UserKey,
        (room, key): (&str, Option<&str>),
        message: Message,
        to_self: bool,
    ) -> Published {
        let to = ToUser {
            namespace: self.address.namespace(),
            tenant: user.tenant_id.as_deref(),
            user: &user.user_id,
            only: Some(user),
            topic: Some(room),
            instead_of: None,
            key,
            skip: (!to_self).then_some(self.address),
        };
        self.shared.fanout.send_to_user(&to, message).1
    }

    /// Ends the socket and tells its client not to come back. From within a handler this takes
    /// effect behind what the handler, and its client, have said before: what they have published is
    /// heard, also by this socket, and messages are stored and answered. The handler goes on, but
    /// its acknowledgement, and what it emits to this socket from here on, does not arrive. From
    /// anywhere else it takes effect at once.
    pub fn disconnect(&self) {
        self.shared.fanout.disconnect_in_turn(self.address);
    }
}

//! The ways to sockets: a room, a user, a namespace; on this node or on all.
//!
//! Whatever is said to somebody starts or arrives here, and is posted to the shards whose
//! sockets it is for.

use std::collections::BTreeSet;
use std::sync::Arc;

use hashbrown::HashSet;
use heartline_core::auth::{BoxFuture, UserKey};
use heartline_core::backplane::line::SharedLine;
use heartline_core::backplane::{
    Action, Backplane, Missed, NameList, Subscription, Target, named_user, user_name,
};
use heartline_core::entries::SocketEntry;
use heartline_core::line::ring::{Kept, Only};
use heartline_core::line::shelf::ScopeRef;
use heartline_core::message::Message;
use heartline_core::namespaces::{NamespaceId, Namespaces};
use heartline_core::presence::{RoomAddress, SocketAddress};
use heartline_core::rooms::{Gap, PRIVATE, Room, RoomDirectory, RoomRef};
use heartline_engine::clock::Clock;
use heartline_engine::shard::ShardHandle;
use heartline_engine::shard::outbound::ConflationKey;
use heartline_wire::codes::Code;
use heartline_wire::names::{self, Speaker};
use heartline_wire::socketio;
use tokio::sync::oneshot;

use crate::event::{Args, EventError};
use crate::op::{
    Chosen, FIRST_CHOICE, Held, LineOp, Manner, Op, Query, RoomFilter, RoomMembers, SelectedAction,
    Selection, WatchOp,
};
use crate::publication::{Publication, Told, may_mislead};
use crate::recovery::Recovery;

/// Entries asked for in one turn of a shard.
const ENTRIES_PER_QUESTION: usize = 128;

/// The members of a room.
#[derive(Clone, Copy)]
pub(crate) struct ToRoom<'a> {
    pub(crate) namespace: NamespaceId,
    pub(crate) tenant: Option<&'a str>,
    pub(crate) room: &'a str,
    /// Set where only the newest per room and key matters to a slow reader.
    pub(crate) key: Option<&'a str>,
    /// Not this one of them.
    pub(crate) skip: Option<SocketAddress>,
}

/// Sockets by where they are.
#[derive(Clone, Copy)]
pub(crate) struct ToRooms<'a> {
    pub(crate) namespace: NamespaceId,
    pub(crate) tenant: Option<&'a Arc<str>>,
    /// In any of these; in all of the namespace, if there are none.
    pub(crate) rooms: &'a [String],
    /// In none of these.
    pub(crate) except: &'a [String],
    /// Not this one.
    pub(crate) skip: Option<SocketAddress>,
}

/// A user's sockets in a namespace.
pub(crate) struct ToUser<'a> {
    pub(crate) namespace: NamespaceId,
    pub(crate) tenant: Option<&'a str>,
    pub(crate) user: &'a str,
    /// Only this type of user.
    pub(crate) only: Option<&'a UserKey>,
    /// The room as which clients know it.
    pub(crate) topic: Option<&'a str>,
    /// It is told instead of this room's events: only to sockets that are not in the room
    /// and may join it.
    pub(crate) instead_of: Option<&'a str>,
    /// Not this one of them.
    pub(crate) skip: Option<SocketAddress>,
}

impl<'a> ToUser<'a> {
    /// A user who is told of something instead of a room's events.
    fn instead_of(namespace: NamespaceId, user: &'a UserKey, room: &'a str) -> ToUser<'a> {
        ToUser {
            namespace,
            tenant: user.tenant_id.as_deref(),
            user: &user.user_id,
            only: Some(user),
            topic: None,
            instead_of: Some(room),
            skip: None,
        }
    }
}

/// What it takes to reach a socket.
pub(crate) struct Fanout {
    pub(crate) namespaces: Namespaces,
    /// The rooms that have members on this node.
    pub(crate) rooms: Arc<RoomDirectory>,
    /// The other nodes, and this node's users.
    pub(crate) backplane: Arc<dyn Backplane>,
    /// The ways to this node's shards.
    pub(crate) shards: Vec<ShardHandle<Op>>,
    /// Tells this run's rooms from another's.
    pub(crate) run: u32,
    /// What is kept for clients that come back, if anything is.
    pub(crate) recovery: Option<Recovery>,
    /// When an event is kept.
    pub(crate) clock: Clock,
}

/// What became of a publication.
pub(crate) enum Published {
    /// It has this offset, if the room has members here.
    Here(Option<u64>),
    /// It is on its way into the line that all nodes share.
    InLine {
        said: BoxFuture<Option<u64>>,
        /// It is not told to those here, should it not get there.
        refuse: bool,
    },
}

impl Published {
    /// Its offset, once it has one; `None`: it is not known.
    ///
    /// # Errors
    /// It was told to nobody: the line that all nodes share is away, and that is how the
    /// operator wants it.
    pub(crate) async fn offset(self) -> Result<Option<u64>, Unreachable> {
        match self {
            Published::Here(offset) => Ok(offset),
            Published::InLine { said, refuse } => match said.await {
                None if refuse => Err(Unreachable),
                offset => Ok(offset),
            },
        }
    }
}

/// The line that all nodes share cannot be reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Unreachable;

/// Whether what is said to several rooms, or to everybody, is kept.
fn keeps_any(recovery: &Recovery, rooms: &[String]) -> bool {
    match rooms {
        [] => recovery.keeps_all(),
        rooms => rooms.iter().any(|room| recovery.keeps(room)),
    }
}

/// Bytes of payload that something in a mailbox holds: arguments, attachments, keys.
/// A publication to many shards or sockets counts in each of their posts, though it is
/// there once: reading stops too early rather than too late.
fn payload(op: &Op) -> usize {
    match op {
        Op::Emit { message, .. } | Op::EmitWithAck { message, .. } => message.size(),
        Op::Ack { args, .. } => args.size(),
        Op::Send { publication, .. }
        | Op::Deliver { publication, .. }
        | Op::Broadcast { publication, .. }
        | Op::DeliverAround { publication, .. }
        | Op::Watch(WatchOp::Changed { publication, .. })
        | Op::Select {
            action: SelectedAction::Send(publication),
            ..
        } => publication.size(),
        _ => 0,
    }
}

impl Fanout {
    /// Those of the places that are rooms of this namespace and have members here.
    pub(crate) fn find_rooms(
        &self,
        namespace: NamespaceId,
        tenant: Option<&str>,
        places: &[RoomAddress],
    ) -> Vec<Arc<Room>> {
        let name = &self.namespaces.get(namespace).name;
        let here = places.iter().filter(|place| place.namespace == *name);
        here.filter_map(|place| {
            self.rooms.find(&RoomRef {
                namespace,
                tenant,
                name: &place.room,
            })
        })
        .collect()
    }

    /// Asks something of a shard.
    pub(crate) fn post(&self, shard: u16, op: Op) {
        if let Some(shard) = self.shards.get(usize::from(shard)) {
            let bytes = payload(&op);
            shard.post(op, bytes);
        }
    }

    /// The same for all shards.
    pub(crate) fn post_to_all(&self, op: impl Fn() -> Op) {
        for shard in 0..self.shard_count() {
            self.post(shard, op());
        }
    }

    /// Whether any shard has more to work off than it should.
    pub(crate) fn is_overloaded(&self) -> bool {
        self.shards.iter().any(ShardHandle::is_overloaded)
    }

    /// A room's epoch as clients know it: offsets of different epochs do not compare.
    pub(crate) fn epoch(&self, number: u64) -> String {
        let run = match self.common() {
            Some((recovery, _)) => recovery.line.epoch(),
            None => self.run,
        };
        format!("{run:08x}-{number:x}")
    }

    fn namespace_name(&self, namespace: NamespaceId) -> &Arc<str> {
        &self.namespaces.get(namespace).name
    }

    /// The line that all nodes share, and what this one has of it.
    pub(crate) fn common(&self) -> Option<(&Recovery, &Arc<dyn SharedLine>)> {
        let recovery = self.recovery.as_ref()?;
        Some((recovery, recovery.common.as_ref()?))
    }

    /// Gives members of a room something that has no number there.
    pub(crate) fn pass(
        &self,
        room: &Arc<Room>,
        message: Message,
        skip: Option<SocketAddress>,
        told: Option<Told>,
    ) {
        let name = self.namespaces.get(room.key.namespace).name.clone();
        let topic = Some(room.key.name.clone());
        let publication = Publication::new(name, message, topic, None, None).at(told);
        let publication = Arc::new(publication);
        room.pass(|shard, offset| {
            let op = Op::Deliver {
                room: room.clone(),
                offset,
                publication: publication.clone(),
                skip,
            };
            self.post(shard as u16, op);
        });
    }

    /// Has a room's publications of other nodes come for as long as it is held.
    pub(crate) fn hold(
        &self,
        namespace: &str,
        tenant: Option<&str>,
        room: &str,
    ) -> Option<Arc<dyn Subscription>> {
        match self.common() {
            Some((recovery, common)) if recovery.keeps(room) => {
                Some(common.hold(namespace, tenant, room))
            }
            _ => self.backplane.subscribe(namespace, tenant, room),
        }
    }

    /// The same for who is going to join the room. One whose publications are kept is there
    /// from now on, so that what is kept of it is.
    pub(crate) fn hold_room(
        &self,
        namespace: NamespaceId,
        tenant: Option<&Arc<str>>,
        name: &str,
    ) -> Held {
        let tenant_name = tenant.map(|tenant| &**tenant);
        match self.common() {
            Some((recovery, _)) if recovery.keeps(name) => {
                let room = RoomRef {
                    namespace,
                    tenant: tenant_name,
                    name,
                };
                self.rooms.open(&room, tenant).subscription().cloned()
            }
            _ => {
                let namespace = self.namespace_name(namespace);
                self.backplane.subscribe(namespace, tenant_name, name)
            }
        }
    }

    /// Waits until a socket's rooms are as it is told: what is said there arrives, and other
    /// nodes know that it is there.
    pub(crate) async fn settle(&self, socket: SocketAddress, held: Held) {
        let ready = held.and_then(|held| held.ready());
        let was_ready = ready.is_none();
        if let Some(ready) = ready {
            ready.await;
        }
        let Some((_, common)) = self.common() else {
            return;
        };
        if !was_ready {
            let (reply, done) = oneshot::channel();
            self.post(socket.0.conn.shard, Op::Line(LineOp::Settle(reply)));
            // An error: there is no such shard.
            let _ = done.await;
        }
        common.remembered().await;
    }

    /// Puts a publication into the line that all nodes share, if there is one and it is kept;
    /// `None`, and the message is as it was, if not.
    fn say_in_common(
        &self,
        target: &Target<'_>,
        is_kept: impl FnOnce(&Recovery) -> bool,
        message: &Message,
        skip: Option<SocketAddress>,
    ) -> Option<BoxFuture<Option<u64>>> {
        let (recovery, common) = self.common()?;
        is_kept(recovery).then(|| common.say(target, message, skip))
    }

    /// Gives a publication to the members of a room, on all nodes. Its offset, if the
    /// room has members here or its publications are kept.
    pub(crate) fn publish_to_room(&self, to: &ToRoom<'_>, message: Message) -> Published {
        if let Some(user) = to.room.strip_prefix(PRIVATE) {
            let to = ToUser {
                namespace: to.namespace,
                tenant: to.tenant,
                user,
                only: None,
                topic: Some(to.room),
                instead_of: None,
                skip: to.skip,
            };
            self.send_to_user(&to, message);
            return Published::Here(None);
        }
        let target = Target::Room {
            namespace: self.namespace_name(to.namespace),
            tenant: to.tenant,
            room: to.room,
            key: to.key,
        };
        let is_kept = |recovery: &Recovery| recovery.keeps(to.room);
        if let Some(said) = self.say_in_common(&target, is_kept, &message, to.skip) {
            let recovery = self.recovery.as_ref();
            let refuse = recovery.is_some_and(|recovery| recovery.refuse_unreachable);
            return Published::InLine { said, refuse };
        }
        if to.key.is_none() {
            self.backplane.publish(&target, &message);
            return Published::Here(self.publish_here(to, message));
        }
        let mut offset = None;
        self.backplane.publish_keyed(&target, &message, &mut || {
            offset = self.publish_here(to, message.clone());
        });
        Published::Here(offset)
    }

    fn publish_here(&self, to: &ToRoom<'_>, message: Message) -> Option<u64> {
        let room = self.rooms.find(&RoomRef {
            namespace: to.namespace,
            tenant: to.tenant,
            name: to.room,
        })?;
        let make = |offset, place: Option<Told>, message: Message| {
            let conflate = to.key.map(|key| ConflationKey {
                scope: room.incarnation,
                key: key.into(),
            });
            let name = self.namespace_name(to.namespace).clone();
            let topic = Some(room.key.name.clone());
            let publication = Publication::new(name, message, topic, Some(offset), conflate);
            (offset, Arc::new(publication.at(place)))
        };
        let to_shard = |shard: usize, (offset, publication): &(u64, Arc<Publication>)| {
            let op = Op::Deliver {
                room: room.clone(),
                offset: *offset,
                publication: publication.clone(),
                skip: to.skip,
            };
            self.post(shard as u16, op);
        };
        if self.common().is_some() && room.is_kept() {
            // Who does not know of the line has said it.
            let told = self.passing(&message);
            self.pass(&room, message, to.skip, told);
            return None;
        }
        let recovery = self.recovery.as_ref().filter(|_| room.is_kept());
        let Some(recovery) = recovery else {
            let make = |offset| make(offset, self.passing(&message), message);
            return Some(room.publish(make, to_shard));
        };
        let only = Only {
            skip: to.skip,
            ..Only::default()
        };
        let kept = Kept {
            key: to.key.map(Into::into),
            ..recovery.kept(&message, only, self.clock.now())
        };
        let make = |offset, id| {
            let place = recovery.line.place(id);
            let told = Told {
                place,
                is_own: true,
            };
            make(offset, Some(told), message)
        };
        let note = |event: &Kept| {
            if let Some(journal) = &recovery.journal {
                journal.room_event(&room, event);
            }
        };
        let offset = room.publish_kept(&recovery.line, kept, note, make, to_shard);
        Some(offset)
    }

    /// The place in the line that an event brings along which is not kept: that of what has
    /// been said before, where it would be taken for a place itself.
    pub(crate) fn passing(&self, message: &Message) -> Option<Told> {
        let recovery = self.recovery.as_ref()?;
        may_mislead(message).then(|| Told {
            place: recovery.line.place(recovery.line.last()),
            is_own: false,
        })
    }

    /// Says something to no single room: kept where that is done, with its place in the line.
    /// `post` puts it into the mailboxes.
    pub(crate) fn say(
        &self,
        scope: ScopeRef<'_>,
        is_kept: impl FnOnce(&Recovery) -> bool,
        message: Message,
        only: impl FnOnce() -> Only,
        post: impl FnOnce(Message, Option<Told>),
    ) {
        match &self.recovery {
            Some(recovery) if recovery.common.is_none() && is_kept(recovery) => {
                let event = recovery.kept(&message, only(), self.clock.now());
                recovery.keep(scope, vec![event], |place| post(message, place));
            }
            _ => {
                let place = self.passing(&message);
                post(message, place);
            }
        }
    }

    /// Gives a message to a user's sockets, on all nodes; to how many here.
    pub(crate) fn send_to_user(&self, to: &ToUser<'_>, message: Message) -> usize {
        let target = self.target(to);
        let is_kept = |recovery: &Recovery| recovery.keeps(&format!("{PRIVATE}{}", to.user));
        if let Some(said) = self.say_in_common(&target, is_kept, &message, to.skip) {
            drop(said);
            return self.sockets_of(to).len();
        }
        self.backplane.publish(&target, &message);
        self.send_here(to, message)
    }

    /// Tells users of something instead of a room's events, on all nodes: on their sockets that
    /// are not in the room and may join it. Of other nodes it is asked once which of the users
    /// have sockets at all.
    pub(crate) async fn send_instead_of_room(
        &self,
        (namespace, tenant, room): (NamespaceId, Option<Arc<str>>, &str),
        users: &[Arc<UserKey>],
        message: Message,
    ) {
        let to = |user| ToUser::instead_of(namespace, user, room);
        if self.common().is_some() {
            // Nodes that have nobody of a user's do not hear it.
            for user in users {
                self.send_to_user(&to(user), message.clone());
            }
            return;
        }
        if self.backplane.tag().is_some() {
            let ids = users.iter().map(|user| user.user_id.to_string()).collect();
            let there = self.backplane.presence(tenant.clone(), ids).await;
            let online = users.iter().zip(&there).filter(|(_, there)| there.online);
            let mut names = Vec::new();
            for (user, _) in online {
                match user_name(user) {
                    Some(name) => names.push(name),
                    None => self.backplane.publish(&self.target(&to(user)), &message),
                }
            }
            if !names.is_empty() {
                let target = Target::Users {
                    namespace: self.namespace_name(namespace),
                    tenant: tenant.as_deref(),
                    users: NameList(&NameList::text(&names)),
                    instead_of: room,
                };
                self.backplane.publish(&target, &message);
            }
        }
        self.send_to_users_here((namespace, room), users, message);
    }

    fn send_to_users_here(
        &self,
        (namespace, room): (NamespaceId, &str),
        users: impl IntoIterator<Item = impl AsRef<UserKey>>,
        message: Message,
    ) {
        let is_here = |user: &UserKey| {
            let (tenant, id) = (user.tenant_id.as_deref(), &*user.user_id);
            let parked = |recovery: &Recovery| recovery.sessions.has(tenant, id);
            self.recovery.as_ref().is_some_and(parked)
                || !self
                    .backplane
                    .local()
                    .sockets(tenant, id, Some(user))
                    .is_empty()
        };
        for user in users {
            let user = user.as_ref();
            if is_here(user) {
                let to = ToUser::instead_of(namespace, user, room);
                self.send_here(&to, message.clone());
            }
        }
    }

    fn target<'a>(&'a self, to: &ToUser<'a>) -> Target<'a> {
        Target::User {
            namespace: self.namespace_name(to.namespace),
            tenant: to.tenant,
            user: to.user,
            user_type: to.only.map(|only| only.user_type.as_deref()),
            topic: to.topic,
            instead_of: to.instead_of,
        }
    }

    fn send_here(&self, to: &ToUser<'_>, message: Message) -> usize {
        let ToUser {
            namespace,
            tenant,
            user,
            only,
            topic,
            instead_of,
            skip,
        } = *to;
        let scope = ScopeRef {
            namespace,
            tenant,
            user: Some(user),
        };
        let is_kept = |recovery: &Recovery| {
            recovery.keeps(&format!("{PRIVATE}{user}")) && self.has_anybody(tenant, user)
        };
        let instead_of: Option<Arc<str>> = instead_of.map(Into::into);
        let for_whom = || Only {
            skip,
            user: only.map(|only| Arc::new(only.clone())),
            instead_of: instead_of.clone(),
            topic: topic.map(Into::into),
            ..Only::default()
        };
        let mut reached = 0;
        self.say(scope, is_kept, message, for_whom, |message, place| {
            reached = self.post_to_user(to, message, place);
        });
        reached
    }

    fn sockets_of(&self, to: &ToUser<'_>) -> Vec<SocketAddress> {
        let ToUser {
            namespace,
            tenant,
            user,
            only,
            skip,
            ..
        } = *to;
        let mut sockets = self.backplane.local().sockets(tenant, user, only);
        sockets.retain(|socket| socket.namespace() == namespace && Some(*socket) != skip);
        sockets
    }

    /// Puts something into the mailboxes of a user's sockets; of how many.
    pub(crate) fn post_to_user(
        &self,
        to: &ToUser<'_>,
        message: Message,
        place: Option<Told>,
    ) -> usize {
        let name = self.namespace_name(to.namespace).clone();
        let topic = to.topic.map(Into::into);
        let publication = Publication::new(name, message, topic, None, None).at(place);
        let publication = Arc::new(publication);
        let instead_of: Option<Arc<str>> = to.instead_of.map(Into::into);
        let sockets = self.sockets_of(to);
        for &to in &sockets {
            let op = Op::Send {
                to,
                publication: publication.clone(),
                instead_of: instead_of.clone(),
            };
            self.post(to.0.conn.shard, op);
        }
        sockets.len()
    }

    /// Whether a user has sockets here, or had some that may come back. Who goes has a session
    /// before they have no socket; who comes back has a socket before they have no session.
    pub(crate) fn has_anybody(&self, tenant: Option<&str>, user: &str) -> bool {
        let has_sockets = || {
            !self
                .backplane
                .local()
                .sockets(tenant, user, None)
                .is_empty()
        };
        let sessions = self.recovery.as_ref().map(|recovery| &recovery.sessions);
        has_sockets() || sessions.is_some_and(|all| all.has(tenant, user)) || has_sockets()
    }

    /// Gives a message to all sockets of a namespace and tenant, on all nodes.
    pub(crate) fn broadcast(
        &self,
        namespace: NamespaceId,
        tenant: Option<Arc<str>>,
        message: Message,
    ) {
        let target = Target::All {
            namespace: self.namespace_name(namespace),
            tenant: tenant.as_deref(),
        };
        let said = self.say_in_common(&target, Recovery::keeps_all, &message, None);
        if said.is_some() {
            return;
        }
        self.backplane.publish(&target, &message);
        self.broadcast_here(namespace, tenant, message);
    }

    fn broadcast_here(&self, namespace: NamespaceId, tenant: Option<Arc<str>>, message: Message) {
        let scope = ScopeRef {
            namespace,
            tenant: tenant.as_deref(),
            user: None,
        };
        let everybody = Only::default;
        self.say(
            scope,
            Recovery::keeps_all,
            message,
            everybody,
            |message, place| self.post_to_everybody(namespace, tenant.clone(), message, place),
        );
    }

    /// Puts something into the mailboxes of all sockets of a namespace and tenant.
    pub(crate) fn post_to_everybody(
        &self,
        namespace: NamespaceId,
        tenant: Option<Arc<str>>,
        message: Message,
        place: Option<Told>,
    ) {
        let name = self.namespace_name(namespace).clone();
        let publication = Publication::new(name, message, None, None, None).at(place);
        let publication = Arc::new(publication);
        self.post_to_all(|| Op::Broadcast {
            namespace,
            tenant: tenant.clone(),
            publication: publication.clone(),
            about: None,
        });
    }

    /// Gives a message to sockets by where they are, on all nodes.
    pub(crate) fn send_to_rooms(&self, to: &ToRooms<'_>, message: Message) {
        let target = Target::Rooms {
            namespace: self.namespace_name(to.namespace),
            tenant: to.tenant.map(|tenant| &**tenant),
            rooms: NameList(&NameList::text(to.rooms)),
            except: NameList(&NameList::text(to.except)),
        };
        let is_kept = |recovery: &Recovery| keeps_any(recovery, to.rooms);
        let said = self.say_in_common(&target, is_kept, &message, to.skip);
        if said.is_some() {
            return;
        }
        self.backplane.publish(&target, &message);
        self.send_to_rooms_here(to, message);
    }

    fn send_to_rooms_here(&self, to: &ToRooms<'_>, message: Message) {
        let scope = ScopeRef {
            namespace: to.namespace,
            tenant: to.tenant.map(|tenant| &**tenant),
            user: None,
        };
        let is_kept = |recovery: &Recovery| keeps_any(recovery, to.rooms);
        // Live subscribers know an event's room; of several, there is none to tell.
        let topic: Option<Arc<str>> = match to.rooms {
            [only] => Some(only.as_str().into()),
            _ => None,
        };
        let for_whom = || Only {
            skip: to.skip,
            among: (!to.rooms.is_empty()).then(|| to.rooms.into()),
            except: to.except.into(),
            topic: topic.clone(),
            ..Only::default()
        };
        self.say(scope, is_kept, message, for_whom, |message, place| {
            self.post_to_rooms(to, message, place);
        });
    }

    /// Puts something into the mailboxes of sockets by where they are.
    pub(crate) fn post_to_rooms(&self, to: &ToRooms<'_>, message: Message, place: Option<Told>) {
        let name = self.namespace_name(to.namespace).clone();
        let topic = match to.rooms {
            [only] => Some(only.as_str().into()),
            _ => None,
        };
        let publication = Publication::new(name, message, topic, None, None).at(place);
        self.select_here(to, SelectedAction::Send(Arc::new(publication)));
    }

    fn deliver_to_rooms(
        &self,
        namespace: NamespaceId,
        tenant: Option<&str>,
        [rooms, except]: [NameList<'_>; 2],
        message: Message,
    ) {
        let names =
            |list: NameList<'_>| -> Vec<String> { list.iter().map(ToOwned::to_owned).collect() };
        let tenant: Option<Arc<str>> = tenant.map(Into::into);
        let to = ToRooms {
            namespace,
            tenant: tenant.as_ref(),
            rooms: &names(rooms),
            except: &names(except),
            skip: None,
        };
        self.send_to_rooms_here(&to, message);
    }

    fn selection(&self, to: &ToRooms<'_>) -> Arc<Selection> {
        let tenant = to.tenant.map(|tenant| &**tenant);
        Arc::new(Selection {
            namespace: to.namespace,
            tenant: to.tenant.cloned(),
            all: to.rooms.is_empty(),
            among: self.places(to.namespace, tenant, to.rooms),
            except: self.places(to.namespace, tenant, to.except),
            skip: to.skip,
        })
    }

    fn select_here(&self, to: &ToRooms<'_>, action: SelectedAction) {
        let selection = self.selection(to);
        self.post_to_all(|| Op::Select {
            selection: selection.clone(),
            action: action.clone(),
        });
    }

    /// Gives a publication of another node to those here whom it is for.
    pub(crate) fn deliver(&self, target: &Target<'_>, message: Message) {
        match names::may_say(Speaker::Backend, &message.event) {
            true => self.deliver_said(target, message),
            false => tracing::debug!("another server's event has a name of a protocol's own"),
        }
    }

    fn deliver_said(&self, target: &Target<'_>, message: Message) {
        // Nodes of another configuration may know more namespaces.
        let namespace = target.namespace();
        let Some(namespace) = namespace.and_then(|name| self.namespaces.find(name)) else {
            return;
        };
        let skip = None;
        match *target {
            Target::Room {
                tenant, room, key, ..
            } => {
                let to = ToRoom {
                    namespace,
                    tenant,
                    room,
                    key,
                    skip,
                };
                self.publish_here(&to, message);
            }
            Target::Rooms {
                tenant,
                rooms,
                except,
                ..
            } => self.deliver_to_rooms(namespace, tenant, [rooms, except], message),
            Target::All { tenant, .. } => {
                self.broadcast_here(namespace, tenant.map(Into::into), message);
            }
            Target::User {
                tenant,
                user,
                user_type,
                topic,
                instead_of,
                ..
            } => {
                let only = user_type.map(|user_type| UserKey {
                    tenant_id: tenant.map(Into::into),
                    user_id: user.into(),
                    user_type: user_type.map(Into::into),
                });
                let only = only.as_ref();
                let to = ToUser {
                    namespace,
                    tenant,
                    user,
                    only,
                    topic,
                    instead_of,
                    skip,
                };
                self.send_here(&to, message);
            }
            Target::Users {
                tenant,
                users,
                instead_of,
                ..
            } => {
                let users = users.iter().map(|name| Arc::new(named_user(tenant, name)));
                self.send_to_users_here((namespace, instead_of), users, message);
            }
            Target::Nodes => {}
        }
    }

    /// Tells those of this node whose publications were lost.
    pub(crate) fn missed(&self, whose: Missed<'_>) {
        match whose {
            Missed::Room {
                namespace,
                tenant,
                room,
            } => {
                let namespace = self.namespaces.find(namespace);
                let room = namespace.and_then(|namespace| {
                    self.rooms.find(&RoomRef {
                        namespace,
                        tenant,
                        name: room,
                    })
                });
                room.iter().for_each(|room| self.tell_gap(room));
            }
            Missed::User { tenant, user } => {
                let recovery = self.recovery.as_ref();
                // What goes by the line of all nodes is not lost unnoticed.
                if let Some(recovery) = recovery.filter(|recovery| recovery.common.is_none()) {
                    for (namespace, _) in self.namespaces.iter() {
                        let scope = ScopeRef {
                            namespace,
                            tenant,
                            user: Some(user),
                        };
                        recovery.shelf.lose(scope, &recovery.line, self.clock.now());
                    }
                }
                for to in self.backplane.local().sockets(tenant, user, None) {
                    self.post(to.0.conn.shard, Op::Line(LineOp::UserGap { to: Some(to) }));
                }
            }
            Missed::Users => {
                self.lose_all();
                let by_line = self.common().map(|(recovery, _)| recovery);
                let all = format!("{PRIVATE}*");
                // What goes by the line of all nodes is not lost unnoticed.
                if by_line.is_none_or(|recovery| !recovery.keeps(&all)) {
                    self.post_to_all(|| Op::Line(LineOp::UserGap { to: None }));
                }
            }
            Missed::Anybody => {
                self.lose_all();
                self.rooms.all().iter().for_each(|room| self.tell_gap(room));
                self.post_to_all(|| Op::Line(LineOp::UserGap { to: None }));
            }
        }
    }

    /// Nobody knows whose it was: nobody who comes back from before now has all.
    fn lose_all(&self) {
        if let Some(recovery) = &self.recovery {
            recovery.lose_all();
        }
    }

    fn tell_gap(&self, room: &Arc<Room>) {
        if self.common().is_some() && room.is_kept() {
            return room.doubts();
        }
        let recovery = self.recovery.as_ref();
        let journal = recovery.and_then(|recovery| recovery.journal.as_ref());
        let note = |gap: Gap| {
            if let Some(journal) = journal {
                journal.gap(room, gap);
            }
        };
        let line = recovery.map(|recovery| &recovery.line);
        self.rooms.begin_epoch(room, line, note, |shard, gap| {
            let room = room.clone();
            self.post(shard as u16, Op::Line(LineOp::Gap { room, gap }));
        });
    }

    /// Does something to sockets of this node that are chosen by their rooms.
    pub(crate) fn select(
        &self,
        namespace: &str,
        rooms: &[String],
        except: &[String],
        action: Action,
    ) {
        let Some(namespace) = self.namespaces.find(namespace) else {
            return;
        };
        let action = match action {
            Action::Emit(message) if socketio::RESERVED_EVENTS.contains(&&*message.event) => {
                // It would break every client that hears it.
                tracing::debug!("another server's event has a name of the protocol's own");
                return;
            }
            Action::Emit(message) => {
                let to = ToRooms {
                    namespace,
                    tenant: None,
                    rooms,
                    except,
                    skip: None,
                };
                return self.send_to_rooms_here(&to, message);
            }
            Action::Join(rooms) => SelectedAction::Join(rooms.into()),
            Action::Leave(rooms) => SelectedAction::Leave(rooms.into()),
            Action::Disconnect => SelectedAction::Disconnect,
        };
        let to = ToRooms {
            namespace,
            tenant: None,
            rooms,
            except,
            skip: None,
        };
        self.select_here(&to, action);
    }

    /// Asks one shard; `None` if it has ended.
    pub(crate) async fn query<T>(
        &self,
        shard: u16,
        question: impl FnOnce(oneshot::Sender<T>) -> Query,
    ) -> Option<T> {
        let (reply, answer) = oneshot::channel();
        self.post(shard, Op::Query(question(reply)));
        answer.await.ok()
    }

    /// Sockets of this node by where they are; none, if there is no such namespace.
    pub(crate) async fn choose(
        &self,
        namespace: &str,
        tenant: Option<&str>,
        rooms: &[String],
        except: &[String],
    ) -> Vec<SocketAddress> {
        let Some(namespace) = self.namespaces.find(namespace) else {
            return Vec::new();
        };
        let tenant: Option<Arc<str>> = tenant.map(Into::into);
        let selection = self.selection(&ToRooms {
            namespace,
            tenant: tenant.as_ref(),
            rooms,
            except,
            skip: None,
        });
        let mut chosen = Vec::new();
        for shard in 0..self.shard_count() {
            let (mut seen, mut place) = (HashSet::new(), Some(FIRST_CHOICE));
            while let Some(from) = place {
                let selection = selection.clone();
                let some = self.query(shard, |reply| Query::Choose {
                    selection,
                    from,
                    reply,
                });
                let (some, next) = some.await.unwrap_or_default();
                chosen.extend(some.into_iter().filter(|socket| seen.insert(*socket)));
                place = next;
            }
        }
        chosen
    }

    /// The first `limit` rooms by name that have members in one shard, and one more; with how
    /// many members there.
    pub(crate) async fn rooms_of(
        &self,
        shard: u16,
        filter: &RoomFilter,
        limit: usize,
    ) -> Vec<RoomMembers> {
        let (mut found, mut place) = (Vec::new(), Some(0));
        while let Some(from) = place {
            let filter = filter.clone();
            let some = self.query(shard, |reply| Query::Rooms {
                filter,
                from,
                limit,
                reply,
            });
            let (some, next) = some.await.unwrap_or_default();
            found.extend(some);
            if found.len() > limit.saturating_add(1) {
                found.sort_unstable();
                found.truncate(limit.saturating_add(1));
            }
            place = next;
        }
        found
    }

    /// The entries of sockets of this node, as far as they are still there.
    pub(crate) async fn entries(&self, sockets: &[SocketAddress]) -> Vec<SocketEntry> {
        let mut entries = Vec::with_capacity(sockets.len());
        for of_shard in sockets.chunk_by(|a, b| a.0.conn.shard == b.0.conn.shard) {
            // In several turns.
            for some in of_shard.chunks(ENTRIES_PER_QUESTION) {
                let (shard, sockets) = (some[0].0.conn.shard, some.to_vec());
                let here = self.query(shard, |reply| Query::Entries { sockets, reply });
                entries.extend(here.await.unwrap_or_default());
            }
        }
        entries
    }

    /// The rooms of sockets of this node, the newest first.
    pub(crate) async fn recent_rooms(&self, sockets: &[SocketAddress]) -> Vec<String> {
        let mut rooms = Vec::new();
        for of_shard in sockets
            .chunk_by(|a, b| a.0.conn.shard == b.0.conn.shard)
            .rev()
        {
            let sockets = of_shard.iter().rev().copied().collect();
            let shard = of_shard[0].0.conn.shard;
            let here = self.query(shard, |reply| Query::RecentRooms { sockets, reply });
            rooms.extend(here.await.unwrap_or_default());
        }
        rooms
    }

    /// Gives an event to the socket of this node that is known by a name, and is or was at an
    /// address: kept until it has come, where that is done.
    pub(crate) fn emit(&self, name: SocketAddress, at: SocketAddress, message: Message) {
        let post = |to: SocketAddress, message, how| {
            self.post(to.0.conn.shard, Op::Emit { to, message, how });
        };
        // Of another one nobody would find out that it is nowhere.
        let may_be_here = |recovery: &Recovery| {
            usize::from(name.0.conn.shard) < self.shards.len() || recovery.may_come_back(&name)
        };
        let recovery = self.recovery.as_ref();
        let keeps = |recovery: &Recovery| recovery.keeps_all() && may_be_here(recovery);
        let Some(recovery) = recovery.filter(|recovery| keeps(recovery)) else {
            return post(at, message, Manner::Passing);
        };
        if let Some(common) = &recovery.common {
            let namespace = self.namespace_name(name.namespace());
            return common.say_to(namespace, name, &message);
        }
        let kept = recovery.kept(&message, Only::default(), self.clock.now());
        recovery.keep_direct(name, kept, |told| {
            post(recovery.whereabouts(name), message, Manner::Kept(told));
        });
    }

    /// Gives an event to a socket of this node and waits for its acknowledgement.
    ///
    /// # Errors
    /// What [`Socket::emit_with_ack`](crate::Socket::emit_with_ack) has, but no `TIMEOUT`.
    pub(crate) async fn ask_socket(
        &self,
        to: SocketAddress,
        message: Message,
    ) -> Result<Args, EventError> {
        let (reply, answer) = oneshot::channel();
        let op = Op::EmitWithAck { to, message, reply };
        self.post(to.0.conn.shard, op);
        answer
            .await
            .unwrap_or_else(|_| Err(Code::Disconnected.into()))
    }

    /// Names of rooms of a namespace that have members here without a tenant, at most `max`.
    pub(crate) async fn room_names(&self, namespace: &str, max: usize) -> Vec<String> {
        let mut names = BTreeSet::new();
        for shard in 0..self.shard_count() {
            let filter = RoomFilter {
                namespace: Some(namespace.to_owned()),
                ..RoomFilter::default()
            };
            let here = self.rooms_of(shard, &filter, max).await.into_iter();
            names.extend(
                here.filter(|((.., tenant), _)| tenant.is_none())
                    .map(|((room, ..), _)| room),
            );
        }
        names.into_iter().take(max).collect()
    }

    /// Where a socket is, or was, that is known by this id.
    pub(crate) fn find_socket(&self, id: &str) -> Option<SocketAddress> {
        SocketAddress::parse(id).map(|name| self.whereabouts(name))
    }

    /// Where a socket is, or was, that is known by this name.
    pub(crate) fn whereabouts(&self, name: SocketAddress) -> SocketAddress {
        match &self.recovery {
            Some(recovery) => recovery.whereabouts(name),
            None => name,
        }
    }

    /// Rooms and sockets by the names that Socket.IO has for both.
    fn places(&self, namespace: NamespaceId, tenant: Option<&str>, names: &[String]) -> Chosen {
        let mut places = Chosen::default();
        for name in names {
            if let Some(user) = name.strip_prefix(PRIVATE) {
                let sockets = self.backplane.local().sockets(tenant, user, None);
                places.sockets.extend(sockets);
            } else if let Some(socket) = self.find_socket(name) {
                places.sockets.push(socket);
            }
            places.rooms.extend(self.rooms.find(&RoomRef {
                namespace,
                tenant,
                name,
            }));
        }
        places
    }

    /// The number of shards.
    pub(crate) fn shard_count(&self) -> u16 {
        self.shards.len() as u16
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_a_publication_holds_weighs_in_a_mailbox() {
        let mut message = Message::new("e", "123");
        message.attachments = vec![vec![0; 1000].into(), vec![0; 200].into()];
        let key = ConflationKey {
            scope: 1,
            key: "four".into(),
        };
        let publication = Arc::new(Publication::new("/".into(), message, None, None, Some(key)));
        let op = Op::Broadcast {
            namespace: NamespaceId::ROOT,
            tenant: None,
            publication,
            about: None,
        };
        assert_eq!(payload(&op), 1 + 3 + 1200 + 4);
    }
}

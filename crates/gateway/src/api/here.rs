//! The API of one node: who is there, and tell them this.

use std::sync::Arc;
use std::time::Duration;

use hashbrown::{HashMap, HashSet};
use heartline_core::auth::UserKey;
use heartline_core::entries::{
    ConnectionState, MemberEntry, Page, RoomEntry, SocketEntry, SocketFilter, UserPresence,
};
use heartline_core::line::MAX_EVENT;
use heartline_core::message::{Message, check_key};
use heartline_core::namespaces::NamespaceId;
use heartline_core::presence::SocketAddress;
use heartline_core::rooms::{self, PRIVATE};
use heartline_core::store::conversations::Added;
use heartline_wire::codes::Code;
use heartline_wire::id::Slot;
use heartline_wire::json;
use heartline_wire::names::{self, Speaker};
use heartline_wire::reason::Reason;
use tokio::sync::oneshot;

use super::pages::{
    DevicesByUser, RoomsByKey, SocketPlace, count_devices, decode_cursor, member_entries,
    rooms_page, sockets_page,
};
use super::{BadCursor, Broadcast, Publish, PublishError, Published, Reached};
use crate::fanout::{ToRoom, ToRooms, ToUser};
use crate::gateway::Gateway;
use crate::op::{ListPlace, Op, Query, RoomFilter};
use crate::peers::{EmitError, Emitted, Sockets, Users};
use crate::recovery::Recovery;

impl Gateway {
    /// Asks one shard; `None` if it has ended.
    async fn ask<T>(
        &self,
        shard: u16,
        question: impl FnOnce(oneshot::Sender<T>) -> Query,
    ) -> Option<T> {
        self.shared.fanout.query(shard, question).await
    }

    /// Sockets of this node that fit `filter`, at most `limit` of them from `cursor` on.
    pub(crate) async fn connections_here(
        &self,
        filter: SocketFilter,
        cursor: Option<String>,
        limit: usize,
    ) -> Result<Page<SocketEntry>, BadCursor> {
        let begin = match cursor {
            None => SocketPlace::FIRST,
            Some(cursor) => SocketPlace::parse(&cursor).ok_or(BadCursor)?,
        };
        // One more than is asked for: the next page begins with it.
        let wanted = limit.saturating_add(1);
        let mut found = Vec::new();
        let first_loss = match begin {
            SocketPlace::Connected(shard, from) => {
                if filter.takes(ConnectionState::Connected) {
                    let from = (shard, from);
                    self.list_connected(&filter, from, wanted, &mut found).await;
                }
                0
            }
            SocketPlace::Suspended(loss) => loss,
        };
        if filter.takes(ConnectionState::Suspended) {
            let filter = &filter;
            self.list_suspended(filter, first_loss, wanted, &mut found)
                .await;
        }
        Ok(sockets_page(found, limit))
    }

    /// Sockets that fit and have a connection, from a place on, until there are `wanted`.
    async fn list_connected(
        &self,
        filter: &SocketFilter,
        (mut shard, mut from): (u16, ListPlace),
        wanted: usize,
        found: &mut Vec<(SocketPlace, SocketEntry)>,
    ) {
        while shard < self.shared.fanout.shard_count() && found.len() < wanted {
            let (filter, limit) = (filter.clone(), wanted - found.len());
            let some = self
                .ask(shard, |reply| Query::List {
                    filter,
                    from,
                    limit,
                    reply,
                })
                .await;
            let (some, next) = some.unwrap_or_default();
            let places = some.into_iter();
            found
                .extend(places.map(|(place, entry)| (SocketPlace::Connected(shard, place), entry)));
            match next {
                Some(next) => from = next,
                None => (shard, from) = (shard + 1, (Slot(0), 0)),
            }
        }
    }

    /// One socket, if it is here or was lost here and may come back.
    pub(crate) async fn connection_here(&self, socket_id: &str) -> Option<SocketEntry> {
        let name = SocketAddress::parse(socket_id)?;
        let fanout = &self.shared.fanout;
        let place = fanout.whereabouts(name);
        let mut there = self.inspect(place).await;
        if there.is_none() {
            there = self.suspended(&name);
        }
        // Who takes up a session is at another place in the same step.
        let moved = Some(fanout.whereabouts(name)).filter(|moved| *moved != place);
        match moved.filter(|_| there.is_none()) {
            Some(moved) => self.inspect(moved).await,
            None => there,
        }
    }

    async fn inspect(&self, socket: SocketAddress) -> Option<SocketEntry> {
        let shard = socket.0.conn.shard;
        self.ask(shard, |reply| Query::Inspect { socket, reply })
            .await?
    }

    /// Ends a socket and tells its client not to come back; whether it was here.
    pub(crate) async fn disconnect_here(&self, socket_id: &str) -> bool {
        let Some(name) = SocketAddress::parse(socket_id) else {
            return false;
        };
        let fanout = &self.shared.fanout;
        let mut place = fanout.whereabouts(name);
        loop {
            if self.kick(place).await.unwrap_or(false) {
                return true;
            }
            // One that is lost at present will not find what it had.
            if let Some(recovery) = &fanout.recovery
                && recovery.sessions.give_up(&name)
            {
                recovery.give_up(vec![name]);
                return true;
            }
            // Who takes up a session is at another place in the same step.
            let moved = fanout.whereabouts(name);
            if moved == place {
                return false;
            }
            place = moved;
        }
    }

    /// Ends all sockets of users that are here, or were lost here; how many.
    pub(crate) async fn disconnect_users_here(&self, users: &Users) -> usize {
        let (tenant, user, only) = (users.tenant_id.as_deref(), &*users.user_id, users.key());
        let fanout = &self.shared.fanout;
        let end_suspended = || {
            fanout.recovery.as_ref().map_or(0, |recovery| {
                let names = recovery.sessions.end_all(tenant, user, only.as_ref());
                let count = names.len();
                recovery.give_up(names);
                count
            })
        };
        // First: whoever is on their way to what they had goes without it, or has a socket here.
        let mut ended = end_suspended();
        let local = fanout.backplane.local();
        let sockets = local.sockets(tenant, user, only.as_ref()).into_iter();
        // All shards are asked before one is waited for.
        let kicked: Vec<_> = sockets.map(|socket| self.kick(socket)).collect();
        for kicked in kicked {
            ended += usize::from(kicked.await.unwrap_or(false));
        }
        // And who was lost in between.
        ended + end_suspended()
    }

    /// Asks its shard to end a socket; whether it was there.
    fn kick(&self, to: SocketAddress) -> oneshot::Receiver<bool> {
        let (reply, answer) = oneshot::channel();
        self.shared.fanout.post(
            to.0.conn.shard,
            Op::Disconnect {
                to,
                reason: Reason::Kicked,
                reply: Some(reply),
            },
        );
        answer
    }

    /// Rooms of this node in the order of their names, at most `limit` from `cursor` on.
    pub(crate) async fn rooms_here(
        &self,
        namespace: Option<&str>,
        tenant: Option<&str>,
        cursor: Option<String>,
        limit: usize,
    ) -> Result<Page<RoomEntry>, BadCursor> {
        let after = match &cursor {
            None => None,
            Some(cursor) => {
                Some(serde_json::from_str(&decode_cursor(cursor)?).map_err(|_| BadCursor)?)
            }
        };
        let filter = RoomFilter {
            namespace: namespace.map(ToOwned::to_owned),
            tenant: tenant.map(ToOwned::to_owned),
            after,
        };
        let mut all = RoomsByKey::new();
        for shard in 0..self.shared.fanout.shard_count() {
            let found = self.shared.fanout.rooms_of(shard, &filter, limit);
            for (key, members) in found.await {
                *all.entry(key).or_default() += members;
            }
        }
        let more = all.len() > limit;
        Ok(rooms_page(all, limit, more))
    }

    fn message(
        &self,
        namespace: &str,
        event: &str,
        data: &str,
    ) -> Result<(NamespaceId, Message), PublishError> {
        let id = self
            .shared
            .fanout
            .namespaces
            .find(namespace)
            .ok_or_else(|| PublishError::UnknownNamespace(namespace.to_owned()))?;
        if !names::may_say(Speaker::Backend, event) {
            return Err(PublishError::InvalidEvent);
        }
        // As much as a client may say: to receivers it makes no difference who did.
        let max = self.shared.config.max_payload;
        if data.len() > max {
            return Err(PublishError::TooLarge(max));
        }
        if !json::is_valid(data) {
            return Err(PublishError::InvalidData);
        }
        if json::is_deeper_than(data, json::MAX_DEPTH) {
            return Err(PublishError::TooDeep);
        }
        Ok((id, Message::new(event, data.trim())))
    }

    /// Gives an event to the members of a room; `user:ID` is a user's devices.
    ///
    /// # Errors
    /// When the namespace, room, event, data or key is none, or the data is too large.
    pub async fn publish(&self, publish: Publish) -> Result<Published, PublishError> {
        let (namespace, message) =
            self.message(&publish.namespace, &publish.event, &publish.data)?;
        if !rooms::is_valid_name(&publish.room) {
            return Err(PublishError::InvalidRoom);
        }
        check_key(publish.key.as_deref()).map_err(|_| PublishError::InvalidKey)?;
        let tenant = publish.tenant_id.as_deref();
        if !publish.except.is_empty() {
            if publish.key.is_some() {
                return Err(PublishError::KeyWithExcept);
            }
            let rooms = std::slice::from_ref(&publish.room);
            let but = (&*publish.namespace, tenant, rooms, &*publish.except);
            return self.publish_but(namespace, but, message).await;
        }
        if let Some(user) = publish.room.strip_prefix(PRIVATE) {
            let to = ToUser {
                namespace,
                tenant,
                user,
                only: None,
                topic: Some(&publish.room),
                instead_of: None,
                key: publish.key.as_deref(),
                skip: None,
            };
            let waiting = self.count_waiting((tenant, user, None), Some(namespace), &message);
            let (delivered, told) = self.shared.fanout.send_to_user(&to, message);
            let delivered = delivered + waiting;
            told.offset().await?;
            return Ok(Published {
                delivered,
                offset: None,
            });
        }
        let delivered = self.members(namespace, tenant, &publish.room).await;
        let offset = {
            let to = ToRoom {
                namespace,
                tenant,
                room: &publish.room,
                key: publish.key.as_deref(),
                skip: None,
            };
            self.shared.fanout.publish_to_room(&to, message)
        };
        let offset = offset.offset().await?;
        Ok(Published { delivered, offset })
    }

    /// Gives an event to the sockets in any of `rooms`, or all if there are none, but to none
    /// in `except`.
    async fn publish_but(
        &self,
        id: NamespaceId,
        (namespace, tenant, rooms, except): (&str, Option<&str>, &[String], &[String]),
        message: Message,
    ) -> Result<Published, PublishError> {
        if !except.iter().all(|room| rooms::is_valid_name(room)) {
            return Err(PublishError::InvalidRoom);
        }
        let fanout = &self.shared.fanout;
        let here = fanout.choose(namespace, tenant, rooms, except).await;
        let tenant: Option<Arc<str>> = tenant.map(Into::into);
        let to = ToRooms {
            namespace: id,
            tenant: tenant.as_ref(),
            rooms,
            except,
            skip: None,
        };
        let told = fanout.send_to_rooms(&to, message);
        told.offset().await?;
        Ok(Published {
            delivered: here.len(),
            offset: None,
        })
    }

    /// Whether an event could be sent.
    ///
    /// # Errors
    /// When the namespace, event or data is none.
    pub fn check_event(
        &self,
        namespace: Option<&str>,
        event: &str,
        data: &str,
    ) -> Result<(), PublishError> {
        self.message(namespace.unwrap_or("/"), event, data)
            .map(drop)
    }

    /// How many sockets of this node are in a room of a namespace.
    pub(crate) async fn members_here(
        &self,
        namespace: &str,
        tenant: Option<&str>,
        room: &str,
    ) -> usize {
        let fanout = &self.shared.fanout;
        let Some(id) = fanout.namespaces.find(namespace) else {
            return 0;
        };
        match room.strip_prefix(PRIVATE) {
            // No list of members: the directory of users answers for it.
            Some(user) => {
                let sockets = fanout.backplane.local().sockets(tenant, user, None);
                sockets
                    .iter()
                    .filter(|socket| socket.namespace() == id)
                    .count()
            }
            None => self.members(id, tenant, room).await,
        }
    }

    /// How many sockets of this node are in a room.
    async fn members(&self, namespace: NamespaceId, tenant: Option<&str>, name: &str) -> usize {
        let room = self.shared.fanout.rooms.find(&rooms::RoomRef {
            namespace,
            tenant,
            name,
        });
        let Some(room) = room else {
            return 0;
        };
        let mut members = 0;
        for shard in
            (0..self.shared.fanout.shard_count()).filter(|&shard| room.local(shard).is_some())
        {
            let room = room.clone();
            let here = self.ask(shard, |reply| Query::Count { room, reply }).await;
            members += here.unwrap_or(0);
        }
        members
    }

    /// The users in a room of this node, at most [`MAX_MEMBERS`] of them.
    pub(crate) async fn room_members_here(
        &self,
        namespace: &str,
        tenant: Option<&str>,
        name: &str,
    ) -> Vec<MemberEntry> {
        let fanout = &self.shared.fanout;
        let Some(namespace) = fanout.namespaces.find(namespace) else {
            return Vec::new();
        };
        let mut users = DevicesByUser::new();
        if let Some(user) = name.strip_prefix(PRIVATE) {
            // No list of members: the directory of users answers for it.
            let local = fanout.backplane.local();
            for user in local.find(tenant, user) {
                let sockets = local.sockets(tenant, &user.user_id, Some(&user));
                let here = sockets
                    .iter()
                    .filter(|socket| socket.namespace() == namespace);
                count_devices(&mut users, &user, here.count());
            }
            return member_entries(users);
        }
        let room = rooms::RoomRef {
            namespace,
            tenant,
            name,
        };
        let Some(room) = fanout.rooms.find(&room) else {
            return Vec::new();
        };
        for shard in (0..fanout.shard_count()).filter(|&shard| room.local(shard).is_some()) {
            let (mut before, mut seen) = (None, HashSet::new());
            while before != Some(0) {
                let room = room.clone();
                let some = self.ask(shard, |reply| Query::Members {
                    room,
                    before,
                    reply,
                });
                let (some, start) = some.await.unwrap_or_default();
                before = Some(start);
                for (slot, user) in some {
                    if seen.insert(slot) {
                        count_devices(&mut users, &user, 1);
                    }
                }
            }
        }
        member_entries(users)
    }

    /// Makes the users of sockets members of a conversation, as who is in its room is one. Those
    /// that may be put there: who cannot be made a member, or is nobody, may not.
    async fn let_in(&self, id: &str, sockets: &[SocketAddress]) -> Vec<SocketAddress> {
        let mut of_users: HashMap<Arc<UserKey>, Vec<SocketAddress>> = HashMap::new();
        for entry in self.shared.fanout.entries(sockets).await {
            let socket = SocketAddress::parse(&entry.socket_id);
            let socket = socket.map(|name| self.shared.fanout.whereabouts(name));
            if let (Some(socket), Some(user_id)) = (socket, entry.user_id) {
                let user = UserKey {
                    tenant_id: entry.tenant_id.map(Into::into),
                    user_id: user_id.into(),
                    user_type: entry.user_type.map(Into::into),
                };
                of_users.entry(Arc::new(user)).or_default().push(socket);
            }
        }
        let users: Vec<Arc<UserKey>> = of_users.keys().cloned().collect();
        let added = self.add_members(id, &users).await;
        for (user, added) in users.iter().zip(added) {
            match added {
                Ok(Added::New | Added::Raised | Added::Known) => continue,
                Ok(Added::Full) => tracing::warn!("a conversation has no room for a member"),
                Err(error) => tracing::warn!(%error, "a conversation's member could not be stored"),
            }
            of_users.remove(user);
        }
        of_users.into_values().flatten().collect()
    }

    /// Puts sockets of this node into a room, or takes them out; how many. Who is put into the room
    /// of a conversation is a member of it; who is taken out stays one.
    pub(crate) async fn move_here(&self, which: &Sockets, room: &str, join: bool) -> usize {
        let fanout = &self.shared.fanout;
        let tenant = which.tenant_id.as_deref();
        let chosen = fanout.choose(&which.namespace, tenant, &which.rooms, &which.except);
        let mut chosen = chosen.await;
        if let Some(id) = rooms::conversation_of(room).filter(|_| join) {
            chosen = self.let_in(id, &chosen).await;
        }
        let (mut joining, mut leaving) = (Vec::new(), Vec::new());
        for to in chosen {
            let (shard, room) = (to.0.conn.shard, room.into());
            if join {
                let (reply, answer) = oneshot::channel();
                fanout.post(shard, Op::Join { to, room, reply });
                joining.push(answer);
            } else {
                let (reply, answer) = oneshot::channel();
                fanout.post(shard, Op::Leave { to, room, reply });
                leaving.push(answer);
            }
        }
        let (mut moved, mut held) = (0, None);
        for answer in joining {
            // A socket that is in too many rooms already, or has gone, is not in this one.
            if let Ok(Ok(subscription)) = answer.await {
                moved += 1;
                held = subscription;
            }
        }
        if let Some(ready) = held.and_then(|held| held.ready()) {
            ready.await;
        }
        if let Some((_, common)) = self.shared.fanout.common() {
            common.remembered().await;
        }
        for answer in leaving {
            moved += usize::from(answer.await.is_ok());
        }
        moved
    }

    /// Gives an event to all sockets of a namespace and tenant.
    ///
    /// # Errors
    /// When the namespace, event or data is none.
    pub async fn broadcast(&self, broadcast: Broadcast) -> Result<Published, PublishError> {
        let (namespace, message) =
            self.message(&broadcast.namespace, &broadcast.event, &broadcast.data)?;
        if !broadcast.except.is_empty() {
            let tenant = broadcast.tenant_id.as_deref();
            let but = (&*broadcast.namespace, tenant, &[][..], &*broadcast.except);
            return self.publish_but(namespace, but, message).await;
        }
        let tenant: Option<Arc<str>> = broadcast.tenant_id.map(Into::into);
        let mut delivered = 0;
        for shard in 0..self.shared.fanout.shard_count() {
            let mut place = Some(Slot(0));
            while let Some(from) = place {
                let tenant = tenant.clone();
                let some = self.ask(shard, |reply| Query::Population {
                    namespace,
                    tenant,
                    from,
                    reply,
                });
                let (some, next) = some.await.unwrap_or_default();
                delivered += some;
                place = next;
            }
        }
        let told = self.shared.fanout.broadcast(namespace, tenant, message);
        told.offset().await?;
        Ok(Published {
            delivered,
            offset: None,
        })
    }

    /// Gives an event to all of a user's sockets, in one namespace or in all;
    /// to how many. Where it is kept, it waits for those that were lost and may come back; of
    /// these, this node's are counted.
    ///
    /// # Errors
    /// When the namespace, event or data is none, or the cluster's store is away and
    /// `recovery.unreachable` is `refuse`.
    pub async fn emit_to_user(
        &self,
        user: UserKey,
        namespace: Option<&str>,
        event: &str,
        data: &str,
    ) -> Result<Reached, PublishError> {
        let to = (user.tenant_id.as_deref(), &*user.user_id, Some(&user));
        self.emit_to(to, namespace, event, data).await
    }

    /// The same for all users of a tenant with this id: one for each user type.
    ///
    /// # Errors
    /// As [`emit_to_user`](Self::emit_to_user).
    pub async fn emit_to_users(
        &self,
        (tenant, user_id): (Option<&str>, &str),
        namespace: Option<&str>,
        event: &str,
        data: &str,
    ) -> Result<Reached, PublishError> {
        let to = (tenant, user_id, None);
        self.emit_to(to, namespace, event, data).await
    }

    async fn emit_to(
        &self,
        (tenant, user, only): (Option<&str>, &str, Option<&UserKey>),
        namespace: Option<&str>,
        event: &str,
        data: &str,
    ) -> Result<Reached, PublishError> {
        let (id, message) = self.message(namespace.unwrap_or("/"), event, data)?;
        let namespaces = &self.shared.fanout.namespaces;
        let wanted = namespaces
            .iter()
            .map(|(id, _)| id)
            .filter(|other| namespace.is_none() || *other == id);
        // Nobody is looked for: who was lost on another node is found by what is kept.
        let (mut sockets, partial) = self.count_elsewhere(tenant, user, only, namespace).await;
        let in_one = namespace.map(|_| id);
        sockets += self.count_waiting((tenant, user, only), in_one, &message);
        let said: Vec<_> = wanted
            .map(|namespace| {
                let to = ToUser {
                    namespace,
                    tenant,
                    user,
                    only,
                    topic: None,
                    instead_of: None,
                    key: None,
                    skip: None,
                };
                self.shared.fanout.send_to_user(&to, message.clone())
            })
            .collect();
        // Each is waited for: what nobody waits for is delivered although it was refused.
        let mut refused = None;
        for (here, told) in said {
            refused = refused.or(told.offset().await.err());
            sockets += here;
        }
        match refused {
            Some(why) => Err(why.into()),
            None => Ok(Reached { sockets, partial }),
        }
    }

    /// How many of a user's sockets were lost here and hear this when they come back, in one
    /// namespace or in all.
    fn count_waiting(
        &self,
        (tenant, user, only): (Option<&str>, &str, Option<&UserKey>),
        namespace: Option<NamespaceId>,
        message: &Message,
    ) -> usize {
        let Some(recovery) = &self.shared.fanout.recovery else {
            return 0;
        };
        if !recovery.keeps(&format!("{PRIVATE}{user}")) || message.size() > MAX_EVENT {
            return 0;
        }
        let now = self.shared.clock.now();
        let sessions = &recovery.sessions;
        let mut users = sessions.users(tenant, user);
        users.retain(|user| only.is_none_or(|only| **user == *only));
        let names = users.iter().flat_map(|user| sessions.names(user));
        let waits = |name: &SocketAddress| {
            namespace.is_none_or(|namespace| name.namespace() == namespace)
                && sessions.look(name, now, |_| ()).is_some()
        };
        names.filter(waits).count()
    }

    /// Gives an event to one socket of this node; its acknowledgement, if one is
    /// waited for, with base64 in the place of binary.
    pub(crate) async fn emit_here(
        &self,
        socket_id: &str,
        event: &str,
        data: &str,
        ack_within: Option<Duration>,
    ) -> Emitted {
        let gone = || EmitError::from(Code::Disconnected);
        let fanout = &self.shared.fanout;
        let name = SocketAddress::parse(socket_id).ok_or_else(gone)?;
        let to = fanout.whereabouts(name);
        let message = Message::new(event, data);
        let Some(time) = ack_within else {
            fanout.emit(name, to, message);
            let is_there = self.inspect(to).await.is_some();
            // One that is lost at present hears it when it comes back.
            let waits = |recovery: &Recovery| recovery.may_come_back(&name);
            return match is_there || fanout.recovery.as_ref().is_some_and(waits) {
                true => Ok(None),
                false => Err(gone()),
            };
        };
        let answer = self.shared.fanout.ask_socket(to, message);
        match tokio::time::timeout(time, answer).await {
            Ok(Ok(args)) => Ok(Some(args.into_text())),
            Ok(Err(error)) => Err(EmitError::new(&error.code, &error.error)),
            Err(_) => Err(EmitError::from(Code::Timeout)),
        }
    }

    /// Presence of users of any type, of each once, in the order in which they are named first.
    pub async fn presence(&self, tenant: Option<&str>, users: &[String]) -> Vec<UserPresence> {
        self.shared
            .fanout
            .backplane
            .presence(tenant.map(Into::into), once_each(users))
            .await
    }

    /// The same, of what this node knows already where it does, which costs the cluster's store
    /// nothing; and [until when](Self::as_of) nothing is missing in it, Unix milliseconds.
    pub async fn presence_as_of(
        &self,
        tenant: Option<&str>,
        users: &[String],
    ) -> (Vec<UserPresence>, u64) {
        // What is answered later is newer.
        let as_of = self.as_of();
        let backplane = &self.shared.fanout.backplane;
        let asked = backplane.presence_known(tenant.map(Into::into), once_each(users));
        (self.aged(asked.await, as_of), as_of)
    }

    /// [`presence`](Self::presence), and [until when](Self::as_of) nothing is missing in it, Unix
    /// milliseconds.
    pub async fn presence_asked(
        &self,
        tenant: Option<&str>,
        users: &[String],
    ) -> (Vec<UserPresence>, u64) {
        let as_of = self.as_of();
        let found = self.presence(tenant, users).await;
        (self.aged(found, as_of), as_of)
    }

    /// What is said of users as of a time: if that is long ago, something may be missing.
    fn aged(&self, mut found: Vec<UserPresence>, as_of: u64) -> Vec<UserPresence> {
        if self.shared.watches.is_old(as_of) {
            found.iter_mut().for_each(|user| user.stale = true);
        }
        found
    }

    /// Up to `limit` of the users that are online on this node.
    pub fn online_users(&self, limit: usize) -> Vec<Arc<UserKey>> {
        self.shared.fanout.backplane.local().some(limit)
    }

    /// Looks for entries that the timers missed, and removes them; how many.
    pub async fn sweep(&self) -> usize {
        crate::housekeeping::sweep(&self.shared).await
    }
}

/// Names, of each the first.
fn once_each(names: &[String]) -> Vec<String> {
    let mut seen = HashSet::new();
    let first = names.iter().filter(|name| seen.insert(name.as_str()));
    first.cloned().collect()
}

//! The API over all nodes: who has it is asked, and who does not answer is named.

use std::sync::Arc;
use std::time::Duration;

use heartline_core::auth::{Identity, UserKey};
use heartline_core::backplane::line::Away;
use heartline_core::backplane::{Peer, Peers, Probed, UserSocket};
use heartline_core::entries::{
    MemberEntry, Missing, NodeEntry, Page, RoomEntry, SocketEntry, SocketFilter,
};
use heartline_core::presence::SocketAddress;
use heartline_core::rooms::{self, PRIVATE};
use heartline_wire::codes::Code;
use heartline_wire::id::Sid;
use tokio::task::JoinSet;

use super::in_turn::InTurn;
use super::pages::{
    DevicesByUser, RoomsByKey, count_newcomer, decode_cursor, member_entries, rooms_page,
};
use super::{BadCursor, Ended, MEMBERS_AN_EVENT, Moved, NotKnown, PublishError, ShedError};
use crate::gateway::Gateway;
use crate::op::Op;
use crate::peers::{self, Asked, EmitError, Emitted, Part, Silent, Sockets, Users};
use crate::socket::Socket;

/// How long an emit may look for its socket: some questions to Redis.
const FIND: Duration = Duration::from_secs(10);

impl Gateway {
    /// How long [`emit`](Gateway::emit) may take besides the wait for an acknowledgement.
    pub const EMIT_TAKES: Duration = FIND.saturating_add(peers::ANSWER_TIMEOUT);

    /// Asks all other nodes at once: answers, and what is missing in them.
    async fn ask_all<Q: Asked>(&self, asked: Q) -> (Vec<Q::Answer>, Missing) {
        let peers = self.shared.fanout.backplane.peers().await;
        let mut missing = missing_of(&peers);
        let asking: Vec<_> = peers
            .believed
            .into_iter()
            .map(|peer| {
                let (all, asked) = (self.ways.peers.clone(), asked.clone());
                let node = peer.node_id.clone();
                let answer = tokio::spawn(async move { all.ask(&peer, asked).await });
                (node, answer)
            })
            .collect();
        let mut answers = Vec::new();
        for (node, answer) in asking {
            match answer.await {
                Ok(Ok(answer)) => answers.push(answer),
                _ => missing.add(&node),
            }
        }
        (answers, missing)
    }

    /// Where a socket is.
    async fn holder(&self, socket_id: &str) -> Holder {
        let fanout = &self.shared.fanout;
        let Some(own) = fanout.backplane.tag() else {
            return Holder::Here;
        };
        let Some(name) = SocketAddress::parse(socket_id) else {
            return Holder::Here;
        };
        if fanout.whereabouts(name) != name {
            // It has come back to this node.
            return Holder::Here;
        }
        let (mut tag, mut is_certain) = (name.0.tag(), true);
        if let Some((_, common)) = fanout.common() {
            // It may have come back to another than the one that its id names.
            match common.holder(name).await {
                Ok(holder) => tag = holder.unwrap_or(tag),
                Err(Away) => is_certain = false,
            }
        }
        if tag == own {
            return match is_certain {
                true => Holder::Here,
                false => Holder::PerhapsHere,
            };
        }
        match fanout.backplane.peer(tag).await {
            Some(node) => Holder::At { node, is_certain },
            None if fanout.backplane.peers().await.is_partial => Holder::PerhapsHere,
            None => Holder::Here,
        }
    }

    /// Sockets that fit `filter`, at most `limit` of them from `cursor` on; those that were lost
    /// and may come back are among them.
    ///
    /// # Errors
    /// When the cursor is none.
    pub async fn connections(
        &self,
        filter: SocketFilter,
        cursor: Option<String>,
        limit: usize,
    ) -> Result<Page<SocketEntry>, BadCursor> {
        let Some(own) = self.shared.fanout.backplane.tag() else {
            return self.connections_here(filter, cursor, limit).await;
        };
        let (first, mut inner) = split_cursor(cursor.as_deref())?;
        let peers = self.shared.fanout.backplane.peers().await;
        let mut page = Page {
            items: Vec::new(),
            next_cursor: None,
            missing: missing_of(&peers),
        };
        let mut nodes = peers.believed;
        nodes.push(self.as_peer(own));
        nodes.retain(|node| node.tag >= first);
        nodes.sort_by_key(|node| node.tag);
        let mut asking = InTurn::new(self);
        let mut rest = nodes.as_slice();
        while let Some((node, after)) = rest.split_first() {
            rest = after;
            let asked = peers::Connections {
                filter: filter.clone(),
                // One for another node starts that from its beginning.
                cursor: inner.take().filter(|_| node.tag == first),
                // One more than is asked for, if this page is full: the next begins with it.
                limit: limit.saturating_sub(page.items.len()).max(1),
            };
            let found = if node.tag == own {
                let peers::Connections {
                    filter,
                    cursor,
                    limit,
                } = asked;
                self.connections_here(filter, cursor, limit).await?
            } else {
                match asking.ask(node, after, asked).await {
                    Ok(found) => found.ok_or(BadCursor)?,
                    Err(Silent) => {
                        page.missing.add(&node.node_id);
                        continue;
                    }
                }
            };
            if take_part(&mut page, found, node.tag, limit) {
                break;
            }
        }
        Ok(page)
    }

    /// This node, in a list of all.
    fn as_peer(&self, own: u32) -> Peer {
        Peer {
            tag: own,
            node_id: self.shared.node_id.clone(),
            address: "".into(),
            secret: "".into(),
        }
    }

    /// One socket, wherever it is, or was lost and may come back to.
    ///
    /// # Errors
    /// Whoever should know does not answer, or it is not known who that is.
    pub async fn connection(&self, socket_id: &str) -> Result<Option<SocketEntry>, NotKnown> {
        match self.holder(socket_id).await {
            Holder::Here => Ok(self.connection_here(socket_id).await),
            Holder::PerhapsHere => {
                let found = self.connection_here(socket_id).await;
                found.map(Some).ok_or_else(NotKnown::default)
            }
            Holder::At { node, is_certain } => {
                let socket_id = socket_id.to_owned();
                let asked = peers::Connection { socket_id };
                let found = self.ways.peers.ask(&node, asked).await;
                let found = found.map_err(|Silent| silent(&node))?;
                match found.is_some() || is_certain {
                    true => Ok(found),
                    false => Err(NotKnown::default()),
                }
            }
        }
    }

    /// Ends a socket, wherever it is, and tells its client not to come back. One that was lost
    /// does not find what it had, whatever has become of its node: where that cannot be made known
    /// at once, it is as soon as the cluster's store is back.
    ///
    /// # Errors
    /// Nobody has ended it, and whoever should know of it does not answer, or it is not known who
    /// that is.
    pub async fn disconnect(&self, socket_id: &str) -> Result<Ended, NotKnown> {
        let there = self.disconnect_at_holder(socket_id).await;
        let name = SocketAddress::parse(socket_id);
        let marked = match name.zip(self.shared.fanout.common()) {
            // Its node may be gone, or its client at another by now.
            Some((name, (_, common))) => common.end(name).await,
            None => Ok(false),
        };
        let mut ended = Ended::default();
        match (there, marked) {
            (Ok(was_there), Ok(had_something)) => {
                ended.sockets = usize::from(was_there || had_something);
            }
            (Ok(true), Err(Away)) => {
                ended.sockets = 1;
                ended.missing.partial = true;
            }
            // Nobody can go on with it. Its node, if it lives, hears of that.
            (Err(_), Ok(true)) => ended.sockets = 1,
            (Ok(false), Err(Away)) => return Err(NotKnown::default()),
            (Err(why), _) => return Err(why),
        }
        Ok(ended)
    }

    async fn disconnect_at_holder(&self, socket_id: &str) -> Result<bool, NotKnown> {
        match self.holder(socket_id).await {
            Holder::Here => Ok(self.disconnect_here(socket_id).await),
            Holder::PerhapsHere => match self.disconnect_here(socket_id).await {
                true => Ok(true),
                false => Err(NotKnown::default()),
            },
            Holder::At { node, is_certain } => {
                let socket_id = socket_id.to_owned();
                let asked = peers::Disconnect { socket_id };
                let done = self.ways.peers.ask(&node, asked).await;
                let done = done.map_err(|Silent| silent(&node))?;
                match done || is_certain {
                    true => Ok(done),
                    false => Err(NotKnown::default()),
                }
            }
        }
    }

    /// Gives an event to one socket, wherever it is. With `ack_within`, waits so long
    /// for its acknowledgement: the arguments as JSON with commas between them.
    ///
    /// # Errors
    /// When the event or data is none: `Ok(Err(_))` says what became of a good one.
    pub async fn emit(
        &self,
        socket_id: &str,
        event: &str,
        data: &str,
        ack_within: Option<Duration>,
    ) -> Result<Emitted, PublishError> {
        self.check_event(None, event, data)?;
        let unreachable = || Err(EmitError::from(Code::NodeUnreachable));
        let Ok(holder) = tokio::time::timeout(FIND, self.holder(socket_id)).await else {
            return Ok(unreachable());
        };
        let (peer, is_certain) = match holder {
            Holder::At { node, is_certain } => (node, is_certain),
            Holder::Here => return Ok(self.emit_here(socket_id, event, data, ack_within).await),
            Holder::PerhapsHere => {
                let emitted = self.emit_here(socket_id, event, data, ack_within).await;
                return Ok(unless_elsewhere(emitted, false));
            }
        };
        let asked = peers::Emit {
            socket_id: socket_id.to_owned(),
            event: event.to_owned(),
            data: data.to_owned(),
            ack_within: ack_within.map(|time| time.as_millis() as u64),
        };
        let emitted = self.ways.peers.ask(&peer, asked).await;
        let emitted = emitted.map(|emitted| unless_elsewhere(emitted, is_certain));
        Ok(emitted.unwrap_or_else(|Silent| unreachable()))
    }

    /// Rooms in the order of their names, at most `limit` from `cursor` on.
    ///
    /// # Errors
    /// When the cursor is none.
    pub async fn rooms(
        &self,
        namespace: Option<&str>,
        tenant: Option<&str>,
        cursor: Option<String>,
        limit: usize,
    ) -> Result<Page<RoomEntry>, BadCursor> {
        if let Some(cursor) = &cursor {
            decode_cursor(cursor)?;
        }
        let asked = peers::Rooms {
            namespace: namespace.map(ToOwned::to_owned),
            tenant: tenant.map(ToOwned::to_owned),
            cursor: cursor.clone(),
            limit,
        };
        let here = self.rooms_here(namespace, tenant, cursor, limit).await?;
        let (answers, missing) = self.ask_all(asked).await;
        let mut pages: Vec<Page<RoomEntry>> = answers.into_iter().flatten().collect();
        pages.push(here);
        Ok(merge_rooms(pages, limit, missing))
    }

    /// One room, if it has members; and what is missing in their number.
    pub async fn room(
        &self,
        namespace: &str,
        tenant: Option<&str>,
        room: &str,
    ) -> (Option<RoomEntry>, Missing) {
        let asked = peers::Members {
            namespace: namespace.to_owned(),
            tenant: tenant.map(ToOwned::to_owned),
            room: room.to_owned(),
        };
        let (elsewhere, missing) = self.ask_all(asked).await;
        let here = self.members_here(namespace, tenant, room).await;
        let members = here + elsewhere.iter().sum::<usize>();
        let entry = (members > 0).then(|| RoomEntry {
            room: room.to_owned(),
            namespace: namespace.to_owned(),
            tenant_id: tenant.map(ToOwned::to_owned),
            members,
        });
        (entry, missing)
    }

    /// The users in a room, on all nodes, in the order of their ids: at most 1 000; and
    /// what is missing among them.
    pub async fn room_members(
        &self,
        namespace: &str,
        tenant: Option<&str>,
        room: &str,
    ) -> (Vec<MemberEntry>, Missing) {
        let asked = peers::RoomMembers {
            namespace: namespace.to_owned(),
            tenant: tenant.map(ToOwned::to_owned),
            room: room.to_owned(),
        };
        let (elsewhere, missing) = self.ask_all(asked).await;
        let here = self.room_members_here(namespace, tenant, room).await;
        let mut users = DevicesByUser::new();
        for member in elsewhere.into_iter().flatten().chain(here) {
            *users.entry((member.user_id, member.user_type)).or_default() += member.devices;
        }
        (member_entries(users), missing)
    }

    /// The members of a room as one who may join it is told: of `user:ID` those of the user's own
    /// key, and of nodes that do not answer none.
    pub(crate) async fn members_told(
        &self,
        namespace: &str,
        identity: &Identity,
        room: &str,
    ) -> Vec<MemberEntry> {
        let tenant = identity.tenant_id().map(|tenant| &**tenant);
        let (mut members, _) = self.room_members(namespace, tenant, room).await;
        if let Some(user) = identity.user.as_ref().filter(|_| room.starts_with(PRIVATE)) {
            members.retain(|member| member.user_type.as_deref() == user.user_type.as_deref());
        }
        members
    }

    /// The members of a room, on all nodes, for a client that has joined it: at most 1 000, itself
    /// among them. Ten of them count as an event of the client's.
    pub async fn members_for(&self, socket: &Socket, room: &str) -> Vec<MemberEntry> {
        let identity = socket.identity();
        let members = self.members_told(socket.namespace(), identity, room);
        let mut members = members.await;
        socket.charge(members.len() / MEMBERS_AN_EVENT);
        if let Some(user) = &identity.user {
            count_newcomer(&mut members, user, false);
        }
        members
    }

    /// Puts sockets into a room, whatever their tokens say of it, on all nodes. A socket
    /// that is in as many rooms as it may be stays out.
    ///
    /// # Errors
    /// When the namespace or a room is none.
    pub async fn join_sockets(&self, which: &Sockets, room: &str) -> Result<Moved, PublishError> {
        self.move_sockets(which, room, true).await
    }

    /// Takes sockets out of a room, on all nodes. They are counted whether they were in it
    /// or not.
    ///
    /// # Errors
    /// As [`join_sockets`](Self::join_sockets).
    pub async fn leave_sockets(&self, which: &Sockets, room: &str) -> Result<Moved, PublishError> {
        self.move_sockets(which, room, false).await
    }

    async fn move_sockets(
        &self,
        which: &Sockets,
        room: &str,
        join: bool,
    ) -> Result<Moved, PublishError> {
        let namespaces = &self.shared.fanout.namespaces;
        if namespaces.find(&which.namespace).is_none() {
            return Err(PublishError::UnknownNamespace(which.namespace.clone()));
        }
        let all = which.rooms.iter().chain(&which.except).map(String::as_str);
        // Nobody else can be put into a user's own room, and nobody taken out of it.
        if room.starts_with(PRIVATE) || !all.chain([room]).all(rooms::is_valid_name) {
            return Err(PublishError::InvalidRoom);
        }
        let asked = peers::Move {
            which: which.clone(),
            room: room.to_owned(),
            join,
        };
        let (elsewhere, missing) = self.ask_all(asked).await;
        let here = self.move_here(which, room, join).await;
        Ok(Moved {
            sockets: here + elsewhere.iter().sum::<usize>(),
            missing,
        })
    }

    /// All nodes, this one first; those that do not answer are among them. True: there may be
    /// others, of which this one does not know at present.
    pub async fn nodes(&self) -> (Vec<NodeEntry>, bool) {
        let mut nodes = vec![self.node_here()];
        let (mut others, missing) = self.ask_all(peers::AboutNode {}).await;
        // Asked anew, it is what was found a moment ago.
        let is_partial = self.shared.fanout.backplane.peers().await.is_partial;
        others.sort_by(|a, b| a.node_id.cmp(&b.node_id));
        nodes.append(&mut others);
        nodes.extend(missing.unreachable.into_iter().map(|node_id| NodeEntry {
            node_id,
            state: "unreachable".into(),
            connections: None,
            users: None,
            uptime_seconds: None,
            version: None,
        }));
        (nodes, is_partial)
    }

    /// Lets some connections of a node go, each at some time within `over`: their clients are
    /// told when to come back, as at a drain, and the node stays. How many there will be.
    ///
    /// # Errors
    /// When there is no such node, or none that is known, or it lets everybody go, or does not
    /// answer.
    pub async fn shed(
        &self,
        node_id: &str,
        part: Part,
        over: Duration,
    ) -> Result<usize, ShedError> {
        let shed = if node_id == &*self.shared.node_id {
            self.shed_here(part, over)
        } else {
            let peers = self.shared.fanout.backplane.peers().await;
            let mut believed = peers.believed.iter();
            let Some(peer) = believed.find(|peer| &*peer.node_id == node_id) else {
                let known = peers.suspect.iter().any(|suspect| &**suspect == node_id);
                return Err(match (known, peers.is_partial) {
                    (true, _) => ShedError::Unreachable,
                    (false, true) => ShedError::NotKnown,
                    (false, false) => ShedError::UnknownNode,
                });
            };
            let over_ms = u64::try_from(over.as_millis()).unwrap_or(u64::MAX);
            let asked = peers::Shed { part, over_ms };
            let answer = self.ways.peers.ask(peer, asked).await;
            answer.map_err(|Silent| ShedError::Unreachable)?
        };
        shed.ok_or(ShedError::Draining)
    }

    /// `None`: everybody goes anyway.
    pub(crate) fn shed_here(&self, part: Part, over: Duration) -> Option<usize> {
        if self.is_draining() {
            return None;
        }
        let all = self.connection_count();
        let wanted = match part {
            Part::Share(share) => (all as f64 * share.clamp(0.0, 1.0)).round() as usize,
            Part::Connections(count) => count.min(all),
        };
        let (count, spread) = (wanted, over);
        self.shared.fanout.post(
            0,
            Op::Shed {
                count,
                of: all,
                spread,
            },
        );
        tracing::info!(
            connections = wanted,
            over_ms = over.as_millis() as u64,
            "shedding"
        );
        Some(wanted)
    }

    /// What this node says of itself.
    pub(crate) fn node_here(&self) -> NodeEntry {
        let degraded = self.cluster_status().is_some_and(|status| status.degraded);
        let state = match (self.is_draining(), degraded) {
            (true, _) => "draining",
            (false, true) => "degraded",
            (false, false) => "ready",
        };
        NodeEntry {
            node_id: self.shared.node_id.to_string(),
            state: state.into(),
            connections: Some(self.connection_count()),
            users: Some(self.users_online()),
            uptime_seconds: Some(self.uptime().as_secs()),
            version: Some(env!("CARGO_PKG_VERSION").to_owned()),
        }
    }

    // --- users -----------------------------------------------------------

    /// Sockets of the users with this id, of all types and on all nodes. True: those of other nodes
    /// may be missing, as the cluster's store is away.
    async fn sockets_of(&self, tenant: Option<&str>, user_id: &str) -> (Vec<UserSocket>, bool) {
        let backplane = &self.shared.fanout.backplane;
        if let Some(known) = backplane.sockets(tenant, user_id).await {
            return (known, !backplane.is_trusted());
        }
        let mut sockets = Vec::new();
        for user in backplane.local().find(tenant, user_id) {
            for socket in backplane.local().sockets(tenant, user_id, Some(&user)) {
                let namespace = self.shared.fanout.namespaces.get(socket.namespace());
                sockets.push(UserSocket {
                    id: socket.id().into(),
                    namespace: namespace.name.clone(),
                    user: user.clone(),
                });
            }
        }
        (sockets, backplane.tag().is_some())
    }

    /// The users with this id that have sockets, or may come back to some of this node: one for
    /// each user type.
    pub async fn find_users(&self, tenant: Option<&str>, user_id: &str) -> Vec<Arc<UserKey>> {
        let mut users: Vec<Arc<UserKey>> = Vec::new();
        for socket in self.sockets_of(tenant, user_id).await.0 {
            if !users.contains(&socket.user) {
                users.push(socket.user);
            }
        }
        if let Some(recovery) = &self.shared.fanout.recovery {
            let mut suspended = recovery.sessions.users(tenant, user_id);
            suspended.retain(|user| !users.contains(user));
            users.append(&mut suspended);
        }
        users
    }

    /// How many sockets of a user, or of all users with this id, other nodes have, in one
    /// namespace or in all. True: there may be others, as what other nodes have is not known at
    /// present.
    pub(crate) async fn count_elsewhere(
        &self,
        tenant: Option<&str>,
        user_id: &str,
        only: Option<&UserKey>,
        namespace: Option<&str>,
    ) -> (usize, bool) {
        let Some(own) = self.shared.fanout.backplane.tag() else {
            return (0, false);
        };
        let backplane = &self.shared.fanout.backplane;
        let sockets = backplane.sockets(tenant, user_id).await;
        let elsewhere = |socket: &&UserSocket| {
            only.is_none_or(|only| *socket.user == *only)
                && namespace.is_none_or(|namespace| *socket.namespace == *namespace)
                && Sid::decode(&socket.id).is_some_and(|name| name.tag() != own)
        };
        let is_partial = sockets.is_none() || !backplane.is_trusted();
        let sockets = sockets.unwrap_or_default();
        (sockets.iter().filter(elsewhere).count(), is_partial)
    }

    /// A user's sockets; of those that were lost and may come back, this node's. And what is
    /// missing among them.
    pub async fn user_connections(&self, user: &UserKey) -> (Vec<SocketEntry>, Missing) {
        let who = (user.tenant_id.as_deref(), &*user.user_id);
        self.users_connections(who, |other| other == user).await
    }

    /// The same of the users with an id that are `meant`.
    pub async fn users_connections(
        &self,
        (tenant, user_id): (Option<&str>, &str),
        meant: impl Fn(&UserKey) -> bool,
    ) -> (Vec<SocketEntry>, Missing) {
        let (known, partial) = self.sockets_of(tenant, user_id).await;
        let asked = self.for_each_socket(
            known.into_iter().filter(|socket| meant(&socket.user)),
            |gateway, id| async move { gateway.connection(&id).await },
        );
        let mut missing = Missing {
            partial,
            ..Missing::default()
        };
        let mut found: Vec<SocketEntry> = Vec::new();
        for entry in asked.await {
            match entry {
                Ok(entry) => found.extend(entry),
                Err(NotKnown { node_id: Some(id) }) => missing.add(&id),
                Err(NotKnown { node_id: None }) => missing.partial = true,
            }
        }
        let recovery = self.shared.fanout.recovery.as_ref();
        let lost = recovery.map(|recovery| recovery.sessions.users(tenant, user_id));
        for user in lost.unwrap_or_default().iter().filter(|user| meant(user)) {
            for lost in self.suspended_of(user) {
                // It may have been lost since it was found.
                if !found.iter().any(|entry| entry.socket_id == lost.socket_id) {
                    found.push(lost);
                }
            }
        }
        (found, missing)
    }

    /// Ends all of a user's sockets; how many there were. Those that were lost do not find what
    /// they had, whichever node they come to and whatever has become of theirs; of these, as many
    /// count as the nodes know that answer.
    pub async fn disconnect_user(&self, user: &UserKey) -> Ended {
        self.disconnect_all(Users::one(user)).await
    }

    /// The same of the users with this id, of all types.
    pub async fn disconnect_users(&self, (tenant, user_id): (Option<&str>, &str)) -> Ended {
        let users = Users {
            tenant_id: tenant.map(ToOwned::to_owned),
            user_id: user_id.to_owned(),
            only: None,
        };
        self.disconnect_all(users).await
    }

    async fn disconnect_all(&self, users: Users) -> Ended {
        let (tenant, user_id, only) = (users.tenant_id.as_deref(), &*users.user_id, users.key());
        let mut is_marked = true;
        if let Some((_, common)) = self.shared.fanout.common() {
            // From here on no node lets them go on, also not one that does not answer.
            let marked = common.end_all(tenant, user_id, only.as_ref()).await;
            is_marked = marked.is_ok();
        }
        let here = self.disconnect_users_here(&users).await;
        let asked = peers::DisconnectUsers {
            users: users.clone(),
        };
        let (elsewhere, mut missing) = self.ask_all(asked).await;
        let mut sockets = here + elsewhere.iter().sum::<usize>();
        if !missing.unreachable.is_empty() {
            sockets += self.disconnect_one_by_one(&users, &mut missing).await;
        }
        missing.partial |= !is_marked;
        Ended { sockets, missing }
    }

    /// Ends users' sockets at nodes that do not know how to end all of a user's, as they are of an
    /// older build; how many there were. Those nodes are not `missing` any more.
    async fn disconnect_one_by_one(&self, users: &Users, missing: &mut Missing) -> usize {
        let (tenant, user_id, only) = (users.tenant_id.as_deref(), &*users.user_id, users.key());
        let (known, is_partial) = self.sockets_of(tenant, user_id).await;
        let meant = |user: &UserKey| only.as_ref().is_none_or(|only| *user == *only);
        let theirs = known.into_iter().filter(|socket| meant(&socket.user));
        let act =
            |gateway: Gateway, id: Arc<str>| async move { gateway.disconnect_at_holder(&id).await };
        let ending = self.for_each_socket(theirs, act);
        let peers = self.shared.fanout.backplane.peers().await;
        let (done, living) = tokio::join!(ending, self.living(&peers, &missing.unreachable));
        let ended = done.iter().filter(|ended| **ended == Ok(true)).count();
        let failed = missing_of(&peers);
        let mut failed = done.into_iter().fold(failed, |mut failed, ended| {
            match ended {
                Ok(_) => {}
                Err(NotKnown { node_id: Some(id) }) => failed.add(&id),
                Err(NotKnown { node_id: None }) => failed.partial = true,
            }
            failed
        });
        // Of one that is silent, and of all if it is not known who has what, nothing is known.
        for node in &missing.unreachable {
            if is_partial || !living.contains(node) {
                failed.add(node);
            }
        }
        *missing = failed;
        ended
    }

    /// Which of some nodes say that they live.
    async fn living(&self, peers: &Peers, of: &[String]) -> Vec<String> {
        let mut probes = JoinSet::new();
        let believed = peers.believed.iter();
        for peer in believed.filter(|peer| of.iter().any(|id| **id == *peer.node_id)) {
            let (all, peer) = (self.ways.peers.clone(), peer.clone());
            probes.spawn(async move {
                let probed = tokio::time::timeout(peers::ANSWER_TIMEOUT, all.probe(&peer)).await;
                let lives = matches!(probed, Ok(Probed::Answered));
                lives.then(|| peer.node_id.to_string())
            });
        }
        probes.join_all().await.into_iter().flatten().collect()
    }

    /// Does something about each of some sockets, all at once: a node that does not answer is
    /// waited for once.
    async fn for_each_socket<T, F>(
        &self,
        sockets: impl Iterator<Item = UserSocket>,
        act: impl Fn(Gateway, Arc<str>) -> F,
    ) -> Vec<T>
    where
        T: Send + 'static,
        F: Future<Output = T> + Send + 'static,
    {
        let acting: Vec<_> = sockets
            .map(|socket| tokio::spawn(act(self.clone(), socket.id)))
            .collect();
        let mut done = Vec::with_capacity(acting.len());
        for one in acting {
            done.extend(one.await.ok());
        }
        done
    }
}

/// Where a socket is.
enum Holder {
    /// On this node, or nowhere.
    Here,
    /// On this node, or nobody knows where at present.
    PerhapsHere,
    /// On another one. It may have come back to a third, of which nobody knows, unless `is_certain`.
    At { node: Peer, is_certain: bool },
}

fn silent(node: &Peer) -> NotKnown {
    NotKnown {
        node_id: Some(node.node_id.clone()),
    }
}

/// That a socket is not at one node says nothing if it may be at another.
fn unless_elsewhere(emitted: Emitted, is_certain: bool) -> Emitted {
    match emitted {
        Err(error) if !is_certain && *error.code == *Code::Disconnected.as_str() => {
            Err(EmitError::from(Code::NodeUnreachable))
        }
        emitted => emitted,
    }
}

/// What is missing when all nodes that are believed have answered.
fn missing_of(peers: &Peers) -> Missing {
    let mut missing = Missing {
        partial: peers.is_partial,
        ..Missing::default()
    };
    peers.suspect.iter().for_each(|node| missing.add(node));
    missing
}

/// Puts a node's part into a page; true: the page ends there.
fn take_part(
    page: &mut Page<SocketEntry>,
    mut found: Page<SocketEntry>,
    tag: u32,
    limit: usize,
) -> bool {
    if page.items.len() >= limit {
        let is_more = !found.items.is_empty();
        page.next_cursor = is_more.then(|| format!("{tag:08x}."));
        return is_more;
    }
    page.items.append(&mut found.items);
    page.next_cursor = found.next_cursor.map(|inner| format!("{tag:08x}.{inner}"));
    page.next_cursor.is_some()
}

/// The tag of the node where a page begins, and that node's own cursor.
fn split_cursor(cursor: Option<&str>) -> Result<(u32, Option<String>), BadCursor> {
    let Some(cursor) = cursor else {
        return Ok((0, None));
    };
    let (tag, inner) = cursor.split_once('.').ok_or(BadCursor)?;
    let tag = u32::from_str_radix(tag, 16).map_err(|_| BadCursor)?;
    let inner = Some(inner.to_owned()).filter(|inner| !inner.is_empty());
    Ok((tag, inner))
}

/// One page of several nodes' pages. A node's page that was cut says nothing of the
/// rooms after its last one.
fn merge_rooms(pages: Vec<Page<RoomEntry>>, limit: usize, missing: Missing) -> Page<RoomEntry> {
    let key = |room: &RoomEntry| {
        (
            room.room.clone(),
            room.namespace.clone(),
            room.tenant_id.clone(),
        )
    };
    let known_to = pages
        .iter()
        .filter(|page| page.next_cursor.is_some())
        .filter_map(|page| page.items.last().map(key))
        .min();
    let mut all = RoomsByKey::new();
    for room in pages.iter().flat_map(|page| &page.items) {
        *all.entry(key(room)).or_default() += room.members;
    }
    let before = all.len();
    if let Some(known_to) = &known_to {
        all.retain(|key, _| key <= known_to);
    }
    let more = known_to.is_some() || before > limit;
    Page {
        missing,
        ..rooms_page(all, limit, more)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(rooms: &[(&str, usize)], more: bool) -> Page<RoomEntry> {
        Page {
            items: rooms
                .iter()
                .map(|(room, members)| RoomEntry {
                    room: (*room).to_owned(),
                    namespace: "/".to_owned(),
                    tenant_id: None,
                    members: *members,
                })
                .collect(),
            next_cursor: more.then(|| "c".to_owned()),
            missing: Missing::default(),
        }
    }

    fn names(page: &Page<RoomEntry>) -> Vec<(&str, usize)> {
        page.items
            .iter()
            .map(|room| (&*room.room, room.members))
            .collect()
    }

    #[test]
    fn rooms_of_several_nodes_are_one_list() {
        let pages = vec![
            page(&[("a", 1), ("c", 2)], false),
            page(&[("b", 1), ("c", 3)], false),
        ];
        let merged = merge_rooms(pages, 10, Missing::default());
        assert_eq!(names(&merged), [("a", 1), ("b", 1), ("c", 5)]);
        assert!(merged.next_cursor.is_none());
    }

    #[test]
    fn what_a_cut_page_does_not_say_waits_for_the_next() {
        let pages = vec![
            page(&[("a", 1), ("b", 1)], true),
            page(&[("b", 1), ("d", 1)], true),
        ];
        let merged = merge_rooms(pages, 2, Missing::default());
        assert_eq!(names(&merged), [("a", 1), ("b", 2)]);
        assert!(merged.next_cursor.is_some());
        let pages = vec![page(&[("a", 1), ("b", 1)], true), page(&[("c", 1)], false)];
        let merged = merge_rooms(pages, 2, Missing::default());
        assert_eq!(names(&merged), [("a", 1), ("b", 1)]);
        assert!(merged.next_cursor.is_some());
    }
}

//! The API over all nodes: who has it is asked, and who does not answer is named.

use std::time::Duration;

use heartline_core::auth::Identity;
use heartline_core::backplane::line::Away;
use heartline_core::backplane::{Peer, Peers};
use heartline_core::entries::{MemberEntry, Missing, Page, RoomEntry, SocketEntry, SocketFilter};
use heartline_core::presence::SocketAddress;
use heartline_core::rooms::{self, PRIVATE};
use heartline_wire::codes::Code;

use super::in_turn::InTurn;
use super::pages::{
    DevicesByUser, RoomsByKey, count_newcomer, decode_cursor, member_entries, rooms_page,
};
use super::{BadCursor, Ended, MEMBERS_AN_EVENT, Moved, NotKnown, PublishError};
use crate::gateway::Gateway;
use crate::peers::{self, Asked, EmitError, Emitted, Silent, Sockets};
use crate::socket::Socket;

/// How long an emit may look for its socket: some questions to Redis.
const FIND: Duration = Duration::from_secs(10);

impl Gateway {
    /// How long [`emit`](Gateway::emit) may take besides the wait for an acknowledgement.
    pub const EMIT_TAKES: Duration = FIND.saturating_add(peers::ANSWER_TIMEOUT);

    /// Asks all other nodes at once: answers, and what is missing in them.
    pub(super) async fn ask_all<Q: Asked>(&self, asked: Q) -> (Vec<Q::Answer>, Missing) {
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

    pub(super) async fn disconnect_at_holder(&self, socket_id: &str) -> Result<bool, NotKnown> {
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
    /// for its acknowledgement: the arguments as JSON with commas between them, binary as texts
    /// in base64.
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
        let mut page = merge_rooms(pages, limit, missing);
        for entry in &mut page.items {
            entry.kept = self.says_kept(&entry.room);
        }
        Ok(page)
    }

    /// What an entry says of whether a room's events are kept: that they are not.
    fn says_kept(&self, room: &str) -> Option<bool> {
        self.shared.fanout.leaves_out(room).then_some(false)
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
            kept: self.says_kept(room),
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
    /// that is in as many rooms as it may be stays out. Into that of a conversation its user comes as
    /// [a member](Self::add_members), who stays one when the socket leaves the room; sockets of users
    /// who cannot be made members stay out.
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
        if !all.chain([room]).all(rooms::is_valid_name) {
            return Err(PublishError::InvalidRoom);
        }
        if room.starts_with(PRIVATE) {
            return Err(PublishError::UsersRoom);
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
pub(super) fn missing_of(peers: &Peers) -> Missing {
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
                    kept: None,
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

//! What a client had before is brought here before its new socket is: its earlier connection is
//! ended, wherever that is, what another node has written down is taken up, and what the nodes
//! have kept of its rooms comes. Off the shard; what cannot be had makes a fresh start.

use std::net::IpAddr;
use std::sync::{Arc, PoisonError};

use heartline_core::auth::{Identity, UserKey};
use heartline_core::backplane::line::{Scope, Unclaimed};
use heartline_core::line::session::Session;
use heartline_core::line::shelf::ScopeRef;
use heartline_core::presence::SocketAddress;
use heartline_core::rooms::RoomRef;
use heartline_wire::time::Micros;
use tokio::sync::oneshot;
use tokio::task::JoinSet;

use super::Ticket;
use crate::common::{Record, owner};
use crate::data::SocketData;
use crate::op::{LineOp, Op, Park};
use crate::shared::Shared;

/// What a client brings of an earlier connection.
#[derive(Clone, Copy)]
pub(in crate::hub) struct Earlier {
    /// The socket that it had.
    pub(in crate::hub) name: SocketAddress,
    /// When it has come back.
    pub(in crate::hub) came_at: Micros,
    /// The place up to which it has heard everything, or before.
    place: u64,
    /// The place at which it began.
    begin: u64,
}

impl Earlier {
    /// What a ticket says of it; it is not looked at where its address has tried too often.
    pub(in crate::hub) fn of(
        ticket: &mut Ticket,
        shared: &Shared,
        remote: IpAddr,
        now: Micros,
    ) -> Option<Earlier> {
        if !shared.limits.may_resume(remote, now) {
            ticket.is_refused();
        }
        let recovery = shared.fanout.recovery.as_ref();
        ticket.comes(now, recovery.map_or(0, |recovery| recovery.sessions.ends()));
        Some(Earlier {
            name: ticket.name()?,
            came_at: now,
            place: ticket.place(),
            begin: ticket.begin()?.id,
        })
    }
}

/// How many of the conversations of a socket that comes back are asked about at once: many come back
/// together, and the store has many who wait.
const ASKED_AT_ONCE: usize = 8;

/// Where the socket was last with which a newcomer goes on: as another node has written it down, or
/// as it was lost here. That node may hear later than the backplane that it is over.
pub(in crate::hub) fn last_place(
    shared: &Shared,
    earlier: &Earlier,
    elsewhere: &Option<Record>,
) -> Option<SocketAddress> {
    if let Some(record) = elsewhere {
        let (last, _) = record.places.last()?;
        return SocketAddress::parse(last);
    }
    let recovery = shared.fanout.recovery.as_ref()?;
    let last = |session: &mut Session<_>| session.places.last().map(|(place, _)| *place);
    recovery.sessions.look_at(&earlier.name, last)?
}

/// Has an earlier connection of the client ended, if it is still there: it does not know yet
/// that it is lost. What it had waits for the new one then. True: it is there, and stays.
pub(in crate::hub) async fn take_over(
    shared: &Shared,
    name: SocketAddress,
    user: Option<Arc<UserKey>>,
    since: Micros,
) -> bool {
    let Some(recovery) = &shared.fanout.recovery else {
        return false;
    };
    let socket = recovery.whereabouts(name);
    let (reply, done) = oneshot::channel();
    let op = Op::Line(LineOp::Park(Park {
        socket,
        user,
        since,
        reply,
    }));
    shared.fanout.post(socket.0.conn.shard, op);
    // An error: there is no such shard.
    done.await.unwrap_or(false)
}

/// Takes up what another node, or this one, has written down of a socket: nobody else goes on
/// with it from here on. What this node does not have itself is returned.
pub(in crate::hub) async fn claim(
    shared: &Shared,
    &Earlier { name, begin, .. }: &Earlier,
    identity: &Identity,
) -> Result<Option<Record>, Unclaimed> {
    let Some((recovery, common)) = shared.fanout.common() else {
        return Ok(None);
    };
    if recovery.sessions.holds(&name) {
        // What this node has to say of it may be on its way.
        common.remembered().await;
    }
    let user = identity.user.as_deref();
    let session = common.claim(name, owner(user), user, begin).await?;
    // Another node may have had it since, and this one not have heard of that.
    if recovery.sessions.holds(&name) && session.was_here {
        return Ok(None);
    }
    let record = Record::read(&session);
    if record.is_none() {
        recovery.give_up(vec![name]);
    }
    record.map(Some).ok_or(Unclaimed::Unknown)
}

/// Brings here what a socket that comes back may have missed: what all nodes have kept of its
/// rooms, and of what was said to its user. What cannot be had makes a fresh start.
pub(in crate::hub) async fn gather(
    shared: &Shared,
    earlier: &Earlier,
    identity: &Identity,
    elsewhere: Option<Record>,
) {
    let fanout = &shared.fanout;
    let Some((recovery, common)) = fanout.common() else {
        return;
    };
    if let Some(record) = elsewhere {
        let of_user = ScopeRef {
            namespace: earlier.name.namespace(),
            tenant: identity.tenant_id().map(|tenant| &**tenant),
            user: identity.user_id(),
        };
        if let Some(ring) = recovery.shelf.find(of_user) {
            let mut ring = ring.lock().unwrap_or_else(PoisonError::into_inner);
            ring.is_for_others();
        }
        recovery.park(imported(shared, earlier.name, identity, &record));
    }
    let Some(rooms) = recovery.sessions.rooms(&earlier.name) else {
        return;
    };
    let mut coming = JoinSet::new();
    for room in &rooms {
        if let Some(ready) = room.subscription().and_then(|held| held.ready()) {
            coming.spawn(async move {
                ready.await;
                true
            });
        }
    }
    let namespace = fanout.namespaces.get(earlier.name.namespace()).name.clone();
    let tenant = identity.tenant_id().cloned();
    if let Some(user) = identity.user_id() {
        coming.spawn(common.follow(Scope::User {
            namespace: namespace.clone(),
            tenant: tenant.clone(),
            user: user.into(),
        }));
    }
    if recovery.keeps_all() {
        coming.spawn(common.follow(Scope::Socket {
            namespace: namespace.clone(),
            name: earlier.name,
        }));
    }
    // Something is asked for in any case: with the answer has come all that the client may have
    // heard elsewhere.
    if !recovery.has_followed_since(earlier.place) || coming.is_empty() {
        coming.spawn(common.follow(Scope::All { namespace, tenant }));
    }
    let mut is_all_here = true;
    while let Some(came) = coming.join_next().await {
        is_all_here &= came.unwrap_or(false);
    }
    if !is_all_here || rooms.iter().any(|room| room.is_awaited()) {
        recovery.sessions.give_up(&earlier.name);
        recovery.give_up(vec![earlier.name]);
    }
}

/// What another node has written down of a socket, as if it had been lost here.
fn imported(
    shared: &Shared,
    name: SocketAddress,
    identity: &Identity,
    record: &Record,
) -> Session<Option<SocketData>> {
    let fanout = &shared.fanout;
    let last = fanout
        .recovery
        .as_ref()
        .map_or(0, |recovery| recovery.line.last());
    let tenant = identity.tenant_id();
    let rooms = record.rooms.iter().map(|(room, since)| {
        let place = RoomRef {
            namespace: name.namespace(),
            tenant: tenant.map(|tenant| &**tenant),
            name: room,
        };
        (fanout.rooms.open(&place, tenant), *since)
    });
    let places = record.places.iter().filter_map(|(id, end)| {
        let place = SocketAddress::parse(id)?;
        Some((place, (*end).min(last)))
    });
    Session {
        name,
        places: places.collect(),
        identity: Arc::new(record.identity(identity.user.clone())),
        rooms: rooms.collect(),
        taken: Vec::new(),
        left: record.left,
        end: last,
        lost_at: shared.clock.now(),
        seen: None,
        data: (!record.remembered.is_empty()).then(|| SocketData::of(record.remembered.clone())),
    }
}

/// Asks who belongs to the conversations of a socket that comes back, and to those of which it may
/// be told without having been in them, so that it can be said at once which are still open to it.
/// What cannot be found out makes a fresh start, and so does what is not found out within a third of
/// `auth_timeout`: a store that hangs keeps nobody out.
pub(in crate::hub) async fn know_members(
    shared: &Shared,
    identity: &Arc<Identity>,
    earlier: &Earlier,
) {
    let recovery = shared.fanout.recovery.as_ref();
    let rooms = recovery.map(|recovery| recovery.sessions.conversations(&earlier.name));
    let told = recovery.zip(identity.user_id()).map(|(recovery, user)| {
        let of_user = ScopeRef {
            namespace: earlier.name.namespace(),
            tenant: identity.tenant_id().map(|tenant| &**tenant),
            user: Some(user),
        };
        recovery.told_instead_of(of_user, earlier.place)
    });
    let before = recovery.and_then(|recovery| {
        let identity = |session: &mut Session<_>| session.identity.clone();
        recovery.sessions.look_at(&earlier.name, identity)
    });
    // Another user's is not gone on with.
    let before = before.filter(|before| before.user == identity.user);
    let asks = |room: Arc<str>| {
        let is_unknown = |who: &&Arc<Identity>| shared.members.may_join_now(&room, who).is_none();
        let mut who = [Some(identity), before.as_ref()].into_iter().flatten();
        let who = who.find(is_unknown)?.clone();
        Some((room, who))
    };
    let told = told.into_iter().flatten();
    let rooms = rooms.into_iter().flatten().chain(told);
    let mut unknown = rooms.filter_map(asks);
    let mut asked = JoinSet::new();
    let ask = |asked: &mut JoinSet<()>, (room, who): (Arc<str>, Arc<Identity>)| {
        let members = shared.members.clone();
        asked.spawn(async move {
            let _ = members.may_join(&room, &who).await;
        });
    };
    for room in unknown.by_ref().take(ASKED_AT_ONCE) {
        ask(&mut asked, room);
    }
    let all = async {
        while asked.join_next().await.is_some() {
            if let Some(room) = unknown.next() {
                ask(&mut asked, room);
            }
        }
    };
    let in_time = tokio::time::timeout(shared.config.auth_timeout / 3, all).await;
    if in_time.is_err() {
        tracing::warn!("the store does not say in time who belongs to a conversation");
    }
}

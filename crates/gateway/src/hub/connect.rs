//! How a socket comes to be: credentials, identity, admission, hello.
//!
//! Nothing is registered, announced or counted before the identity is known
//! and the device policy has let the newcomer in. The connection's input
//! waits meanwhile, so what a client sends early is neither lost nor taken
//! for an anonymous socket's. Should the connection end first, nobody is asked to admit it;
//! should it end in that very moment, or what follows the admission run out of time, the
//! admission is taken back. Those who have to go for the newcomer go when it is there.

use std::net::IpAddr;
use std::sync::{Arc, PoisonError, Weak};
use std::time::Duration;

use heartline_core::auth::{AuthError, Credentials, Identity, UserKey};
use heartline_core::backplane::line::{Scope, Unclaimed};
use heartline_core::line::Place;
use heartline_core::line::session::Session;
use heartline_core::line::shelf::ScopeRef;
use heartline_core::namespaces::NamespaceId;
use heartline_core::policy::AuthMode;
use heartline_core::presence::{Admitted, DeviceLimitReached, Newcomer, SocketAddress};
use heartline_core::rooms::RoomRef;
use heartline_engine::shard::engine::Engine;
use heartline_engine::tasks::guarded;
use heartline_wire::codes::Code;
use heartline_wire::id::Slot;
use heartline_wire::live;
use heartline_wire::reason::Reason;
use heartline_wire::time::Micros;
use tokio::sync::oneshot;
use tokio::task::JoinSet;

use super::Hub;
use super::answers::{About, Called};
use super::link::{Displaced, Joining, SocketState};
use super::resume::{Missed, Ticket};
use super::tasks::TaskKind;
use crate::common::{Record, owner};
use crate::data::SocketData;
use crate::event::{EventError, OTHER_USER};
use crate::handler::{Arrival, Body, Event, Handle, Handlers};
use crate::op::{Connecting, LineOp, Op, Park, Refusal, Replaced};
use crate::publication::Encoding;
use crate::recovery::Turn;
use crate::shared::Shared;
use crate::socket::{Socket, presented};

/// What a client brings of an earlier connection.
#[derive(Clone, Copy)]
struct Earlier {
    /// The socket that it had.
    name: SocketAddress,
    /// When it has come back.
    came_at: Micros,
    /// The place up to which it has heard everything, or before.
    place: u64,
    /// The place at which it began.
    begin: u64,
}

impl Earlier {
    /// What a ticket says of it; it is not looked at where its address has tried too often.
    fn of(ticket: &mut Ticket, shared: &Shared, remote: IpAddr, now: Micros) -> Option<Earlier> {
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

/// The socket that is to be, and what its client has already.
struct Comer {
    socket: SocketAddress,
    earlier: Option<Earlier>,
    /// The same connection's socket in this namespace, and its user: the new one takes its place.
    before: Option<(SocketAddress, Arc<UserKey>)>,
}

/// How many of the conversations of a socket that comes back are asked about at once: many come back
/// together, and the store has many who wait.
const ASKED_AT_ONCE: usize = 8;

/// A newcomer that is let in, and of which its shard does not know that: the admission is taken back
/// if it is dropped.
struct LetIn<'a> {
    shared: &'a Shared,
    socket: SocketAddress,
    identity: Arc<Identity>,
    /// `None`: the shard is told.
    admitted: Option<Admitted>,
}

impl LetIn<'_> {
    /// For the shard, which takes it back from here on if it has to.
    fn hand_over(mut self) -> (Arc<Identity>, Admitted) {
        let admitted = self.admitted.take().unwrap_or_default();
        (self.identity.clone(), admitted)
    }
}

impl Drop for LetIn<'_> {
    fn drop(&mut self) {
        if let Some(admitted) = self.admitted.take() {
            take_back(self.shared, self.socket, &self.identity, &admitted);
        }
    }
}

/// Somebody who was let in is not there: the user is not online for it, and who was to go stays.
fn take_back(shared: &Shared, socket: SocketAddress, who: &Identity, admitted: &Admitted) {
    if let Some(user) = &who.user {
        shared.fanout.backplane.withdraw(user, socket, admitted);
    }
}

/// What an authentication came to.
struct Authenticated<'a> {
    outcome: Result<LetIn<'a>, Refusal>,
    /// What the newcomer brings of an earlier socket is another user's.
    is_foreign: bool,
    /// Nobody else goes on with that socket meanwhile.
    turn: Option<Turn>,
}

impl Authenticated<'_> {
    /// What the shard of the newcomer is told.
    fn told(self, shared: &Shared, socket: SocketAddress) -> Connecting {
        let recovery = shared.fanout.recovery.as_ref();
        Connecting {
            socket,
            outcome: self.outcome.map(LetIn::hand_over),
            begin: recovery.map(|recovery| recovery.line.place(recovery.line.last())),
            is_foreign: self.is_foreign,
            turn: self.turn,
        }
    }
}

/// Verifies credentials and asks the backplane for admission, if the newcomer is still
/// `here` then.
async fn authenticate<'a>(
    shared: &'a Shared,
    handlers: &Handlers,
    mode: AuthMode,
    credentials: Credentials,
    comer: Comer,
    here: Weak<()>,
) -> Option<Authenticated<'a>> {
    let identity = match identify(shared, handlers, mode, credentials, &comer).await {
        Ok(identity) => identity,
        Err(refusal) => {
            return Some(Authenticated {
                outcome: Err(refusal),
                is_foreign: false,
                turn: None,
            });
        }
    };
    let Comer {
        socket,
        earlier,
        before,
    } = comer;
    let mut elsewhere = Ok(None);
    let mut turn = None;
    if let Some(earlier) = &earlier {
        let Earlier { name, came_at, .. } = *earlier;
        if let Some(recovery) = &shared.fanout.recovery {
            turn = Some(recovery.turn(name).await);
        }
        let stays = take_over(shared, name, identity.user.clone(), came_at).await;
        elsewhere = match stays {
            true => Err(Unclaimed::Unknown),
            false => claim(shared, earlier, &identity).await,
        };
    }
    let is_foreign = elsewhere == Err(Unclaimed::Foreign);
    let instead_of = earlier.as_ref().zip(elsewhere.as_ref().ok());
    let last = instead_of.and_then(|(earlier, record)| last_place(shared, earlier, record));
    let known_as = instead_of.map(|(earlier, _)| earlier.name);
    // The connection's own socket was let in beside what its client had before.
    let instead_of = before.map(|(own, _)| own).or(last);
    let outcome = admit(shared, identity, (socket, instead_of, known_as), here).await?;
    if let Ok(LetIn { identity, .. }) = &outcome {
        if let (Some(user), Some((_, common))) = (&identity.user, shared.fanout.common())
            && let Some(attended) = common.attend(user)
        {
            attended.await;
        }
        if let Some(earlier) = earlier {
            if let Ok(elsewhere) = elsewhere {
                gather(shared, &earlier, identity, elsewhere).await;
            }
            know_members(shared, identity, &earlier.name).await;
        }
    }
    Some(Authenticated {
        outcome,
        is_foreign,
        turn,
    })
}

/// Where the socket was last with which a newcomer goes on: as another node has written it down, or
/// as it was lost here. That node may hear later than the backplane that it is over.
fn last_place(
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

/// Asks the backplane for admission; `None`: the newcomer has gone.
async fn admit<'a>(
    shared: &'a Shared,
    identity: Arc<Identity>,
    (socket, instead_of, known_as): (SocketAddress, Option<SocketAddress>, Option<SocketAddress>),
    here: Weak<()>,
) -> Option<Result<LetIn<'a>, Refusal>> {
    let let_in = |identity, admitted| LetIn {
        shared,
        socket,
        identity,
        admitted: Some(admitted),
    };
    let Some(user) = &identity.user else {
        return Some(Ok(let_in(identity, Admitted::default())));
    };
    let config = &shared.fanout.namespaces.get(socket.namespace()).config;
    let newcomer = Newcomer {
        user: user.clone(),
        socket,
        device_id: identity.device_id.clone(),
        policy: config.devices,
        max_sockets: config.max_sockets,
        instead_of,
        known_as,
    };
    // Nobody loses a place to who has gone.
    if here.strong_count() == 0 {
        return None;
    }
    Some(match shared.fanout.backplane.connect(newcomer).await {
        Ok(admitted) => Ok(let_in(identity, admitted)),
        Err(DeviceLimitReached { retry_after }) => Err(Refusal::DeviceLimit(retry_after)),
    })
}

/// Has an earlier connection of the client ended, if it is still there: it does not know yet
/// that it is lost. What it had waits for the new one then. True: it is there, and stays.
async fn take_over(
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
async fn claim(
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
async fn gather(
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

/// Asks who belongs to the conversations of a socket that comes back, so that it can be said
/// at once which are still open to it. What cannot be found out makes a fresh start, and so does
/// what is not found out within a third of `auth_timeout`: a store that hangs keeps nobody out.
async fn know_members(shared: &Shared, identity: &Arc<Identity>, name: &SocketAddress) {
    let recovery = shared.fanout.recovery.as_ref();
    let rooms = recovery.map(|recovery| recovery.sessions.conversations(name));
    let is_unknown = |room: &Arc<str>| shared.members.may_join_now(room, identity).is_none();
    let mut unknown = rooms.into_iter().flatten().filter(is_unknown);
    let mut asked = JoinSet::new();
    let ask = |asked: &mut JoinSet<()>, room: Arc<str>| {
        let (members, identity) = (shared.members.clone(), identity.clone());
        asked.spawn(async move {
            let _ = members.may_join(&room, &identity).await;
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

/// Finds out who it is, and whether the app lets them in.
async fn identify(
    shared: &Shared,
    handlers: &Handlers,
    mode: AuthMode,
    credentials: Credentials,
    comer: &Comer,
) -> Result<Arc<Identity>, Refusal> {
    let arrival = credentials.clone();
    let has_token = credentials.token.is_some();
    let verified = match mode {
        AuthMode::Off => Ok(None),
        _ if has_token || shared.authenticator.wants_handshake() => {
            shared.authenticate(credentials).await.map(Some)
        }
        _ => Err(AuthError::Required),
    };
    let identity = match verified {
        Ok(Some(identity)) => Arc::new(identity),
        Ok(None) => shared.anonymous.clone(),
        Err(AuthError::Required) if mode == AuthMode::Optional && !has_token => {
            shared.anonymous.clone()
        }
        Err(error) => return Err(Refusal::Auth(error)),
    };
    if let Some((_, user)) = &comer.before
        && identity.user.as_ref() != Some(user)
    {
        return Err(Refusal::OtherUser);
    }
    for decide in handlers.admissions(comer.socket.namespace()) {
        let arrival = Arrival {
            identity: identity.clone(),
            namespace: arrival.namespace.clone(),
            payload: arrival.payload.clone(),
            remote_addr: arrival.remote_addr,
            handshake: arrival.handshake.clone().unwrap_or_default(),
        };
        decide(arrival).await.map_err(Refusal::App)?;
    }
    Ok(identity)
}

impl Hub {
    /// Begins to let a socket into `namespace`.
    pub(super) fn connect(
        &mut self,
        engine: &mut Engine,
        slot: Slot,
        namespace: NamespaceId,
        token: Option<String>,
        payload: Option<String>,
        mut ticket: Option<Ticket>,
        id: Option<&str>,
    ) {
        let secret = engine.secret();
        let (Some(conn), Some(remote)) = (engine.id(slot), engine.conn(slot).map(|conn| conn.ip()))
        else {
            return;
        };
        let shared = self.shared.clone();
        let handlers = self.handlers.clone();
        let has_connect_handlers = handlers.connect(namespace).next().is_some();
        let before = self.somebody(engine, slot, namespace);
        let Some(link) = self.link_mut(slot) else {
            return;
        };
        let here = Arc::new(());
        let waits = Arc::downgrade(&here);
        // A turn may have begun before the earlier connection did, on another shard.
        let now = engine.now.max(shared.clock.now());
        let earlier = ticket.as_mut();
        let earlier = earlier.and_then(|ticket| Earlier::of(ticket, &shared, remote, now));
        link.joining = Some(Box::new(Joining {
            ticket: ticket.map(Box::new),
            namespace,
            secret,
            payload: payload.clone().filter(|_| has_connect_handlers),
            id: id.map(Into::into),
            _here: here,
            displaced: None,
        }));
        let handshake = link.handshake().cloned();
        engine.pause(slot);
        let mode = shared.fanout.namespaces.get(namespace).config.auth_mode;
        let credentials = Credentials {
            token,
            payload,
            namespace: shared.fanout.namespaces.get(namespace).name.to_string(),
            remote_addr: remote,
            handshake,
        };
        let socket = SocketAddress::new(conn, namespace, secret);
        let comer = Comer {
            socket,
            earlier,
            before,
        };
        let time = shared.config.auth_timeout;
        let work = async move {
            let outcome = authenticate(&shared, &handlers, mode, credentials, comer, waits);
            if let Some(authenticated) = outcome.await {
                let told = authenticated.told(&shared, socket);
                shared.fanout.post(conn.shard, Op::Connecting(told));
            }
        };
        self.start(engine, work, TaskKind::Connect(socket), time);
    }

    /// The socket that a connection has in a namespace, and its user, if it is somebody's.
    fn somebody(
        &self,
        engine: &Engine,
        slot: Slot,
        namespace: NamespaceId,
    ) -> Option<(SocketAddress, Arc<UserKey>)> {
        let socket = self.link(slot)?.socket(namespace)?;
        let user = socket.identity.user.clone()?;
        Some((self.address(engine, slot, namespace)?, user))
    }

    /// The authentication did not come to an end.
    pub(super) fn connect_failed(
        &mut self,
        engine: &mut Engine,
        socket: SocketAddress,
        refusal: Refusal,
    ) {
        self.connecting(
            engine,
            Connecting {
                socket,
                outcome: Err(refusal),
                begin: None,
                is_foreign: false,
                turn: None,
            },
        );
    }

    /// The authentication has ended.
    pub(super) fn connecting(
        &mut self,
        engine: &mut Engine,
        Connecting {
            socket,
            outcome,
            begin,
            is_foreign,
            turn: _turn,
        }: Connecting,
    ) {
        let slot = engine.find(socket.0.conn);
        let joining = slot.and_then(|slot| {
            let link = self.link_mut(slot)?;
            let joining = link
                .joining
                .take_if(|joining| joining.secret == socket.0.secret)?;
            Some((slot, joining))
        });
        let Some((slot, joining)) = joining else {
            // The connection ended meanwhile, or was refused for its slowness.
            if let Ok((identity, admitted)) = &outcome {
                take_back(&self.shared, socket, identity, admitted);
            }
            return;
        };
        match outcome {
            Ok((identity, admitted)) => {
                let mut joining = *joining;
                if let Some(ticket) = joining.ticket.as_mut().filter(|_| is_foreign) {
                    ticket.is_anothers();
                }
                let displaced = joining.displaced.take();
                self.establish(engine, slot, joining, identity.clone(), begin);
                self.close_displaced(&admitted, &identity);
                if let Some(user) = identity.user.as_ref().filter(|_| admitted.reserved) {
                    self.shared.fanout.backplane.established(user, socket);
                }
                if let Some(Displaced { by, node, reason }) = displaced {
                    self.replaced(engine, &socket, by.as_deref(), &node, reason);
                }
            }
            Err(refusal) => self.refuse_connection(engine, slot, &joining, refusal),
        }
        self.listen_again(engine, slot);
        self.rearm(engine, slot);
    }

    /// Those whose places the newcomer took are told and let go.
    fn close_displaced(&self, admitted: &Admitted, newcomer: &Identity) {
        let by = &newcomer.device_id;
        for (list, reason) in [
            (&admitted.replaced, Reason::Replaced),
            (&admitted.evicted, Reason::DeviceLimit),
        ] {
            for &to in list {
                let op = Op::Replaced(Replaced {
                    to,
                    by: by.clone(),
                    node: self.shared.node_id.clone(),
                    reason,
                });
                self.shared.fanout.post(to.0.conn.shard, op);
            }
        }
    }

    fn refuse_connection(
        &mut self,
        engine: &mut Engine,
        slot: Slot,
        joining: &Joining,
        refusal: Refusal,
    ) {
        if refusal == Refusal::OtherUser {
            // It stays who it is.
            let error = EventError::new(Code::Forbidden, OTHER_USER);
            return self.refuse_live(engine, slot, &error, None, joining.id.as_deref());
        }
        self.metrics.refused(refusal.code()).add(1);
        let live = self
            .link(slot)
            .is_some_and(|link| link.encoding == Encoding::Live);
        if live || refusal.is_passing() {
            let has_nothing = refusal == Refusal::Auth(AuthError::Required);
            if has_nothing && self.shared.authenticator.wants_handshake() {
                // There was nothing in the handshake; an `auth` frame may come yet.
                return;
            }
            if live && refusal.has_more_to_say() {
                // The close frame has room for 123 bytes, and none for data.
                let (code, id) = (refusal.code_told(), joining.id.as_deref());
                let data = refusal.data();
                self.send_live(engine, slot, |text| {
                    live::push_refusal(&code, refusal.message(), data.as_deref(), id, text);
                });
            }
            let (reason, code, text) = refusal.closing();
            engine.close_with(slot, reason, code, text);
            return;
        }
        let name = self.namespace_name(joining.namespace).clone();
        let data = refusal.data();
        self.connect_error(engine, slot, &name, refusal.message(), data.as_deref());
    }

    /// The socket exists from here on.
    fn establish(
        &mut self,
        engine: &mut Engine,
        slot: Slot,
        joining: Joining,
        identity: Arc<Identity>,
        begin: Option<Place>,
    ) {
        let namespace = joining.namespace;
        // A live connection that was anonymous so far becomes somebody: what the nobody had
        // joined is left behind, and what was counted is not.
        if let Some(link) = self.link_mut(slot) {
            link.keep_counts(namespace);
        }
        self.forget_socket(engine, slot, namespace, Reason::ClientLeft);
        self.add_socket(engine, slot, namespace, joining.secret, &identity);
        let ticket = joining.ticket.as_deref();
        let missed = ticket.and_then(|ticket| self.take_up(engine, slot, namespace, ticket));
        if missed.is_none() {
            self.note_open(engine, slot, namespace);
        }
        let Some(handle) = self.handle(engine, slot, namespace) else {
            return;
        };
        let socket_id = handle.id();
        tracing::debug!(
            socket_id,
            user_id = identity.user_id(),
            namespace = %self.namespace_name(namespace),
            "connected"
        );
        let name = *handle.name.as_deref().unwrap_or(&handle.address);
        let begin = match (&missed, ticket) {
            (Some(_), Some(ticket)) => ticket.begin(),
            _ => begin,
        };
        let pid = begin.and_then(|begin| self.resume_token(&name, begin));
        let is_live = self
            .link(slot)
            .is_some_and(|link| link.encoding == Encoding::Live);
        if !is_live {
            let reply = (&*socket_id, pid.as_deref());
            self.answer_connect(engine, slot, namespace, reply, missed.as_ref());
        }
        if self.shared.config.hello {
            let id = joining.id.as_deref();
            let pid = pid.as_deref().filter(|_| is_live);
            // What was missed comes after it, each event with its own place.
            let is_told_all = missed
                .as_ref()
                .is_none_or(|missed| missed.events.is_empty());
            let place = self.passing(slot, namespace).filter(|_| is_told_all);
            self.hello(
                engine, slot, namespace, &identity, &socket_id, pid, place, id,
            );
        }
        if let Some(missed) = &missed {
            if is_live {
                self.replay(engine, slot, namespace, missed);
            }
            self.tell_taken(engine, slot, namespace, missed);
        }
        if let Some(ticket) = ticket.filter(|_| is_live) {
            self.resume_topics(engine, slot, ticket);
        }
        self.note_memberships(engine, &identity);
        self.run_connect_handlers(engine, slot, &handle, joining.payload.as_deref());
    }

    /// Answers a CONNECT, and tells what was missed: first where that does no harm, as on Node.
    /// socket.io-client keeps what comes before the answer until that comes, even by another
    /// connection. Had this one broken between the two, it would hear twice what is sent again.
    fn answer_connect(
        &mut self,
        engine: &mut Engine,
        slot: Slot,
        namespace: NamespaceId,
        (socket_id, pid): (&str, Option<&str>),
        missed: Option<&Missed>,
    ) {
        let is_first = engine.is_heard_whole(slot);
        if let Some(missed) = missed.filter(|_| is_first) {
            self.replay(engine, slot, namespace, missed);
        }
        self.connect_reply(engine, slot, namespace, socket_id, pid);
        if let Some(missed) = missed.filter(|_| !is_first) {
            self.replay(engine, slot, namespace, missed);
        }
    }

    fn add_socket(
        &mut self,
        engine: &mut Engine,
        slot: Slot,
        namespace: NamespaceId,
        secret: [u8; 12],
        identity: &Arc<Identity>,
    ) {
        let now = engine.now;
        // Tokens of clients that came together do not expire together.
        let jitter = engine.random_time(Duration::from_secs(1));
        // Nor do they get their heartbeats together: the first comes a little earlier.
        let next_heartbeat = self.shared.config.heartbeat.app_interval;
        let next_heartbeat =
            next_heartbeat.map(|every| now + (every - engine.random_time(every / 2)));
        let Some(link) = self.link_mut(slot) else {
            return;
        };
        link.ever_joined = true;
        let counts = link.take_counts(namespace);
        engine.let_in(slot);
        // Almost always the only one.
        link.sockets.reserve_exact(1);
        let expires = identity.expires_at;
        let expires = expires.map_or(Micros::MAX, |at| engine.clock.at_unix_millis(at) + jitter);
        let identity = identity.clone();
        let mut socket = SocketState::new(namespace, secret, identity, expires, counts, now);
        if let Some(at) = next_heartbeat {
            socket.set_next_heartbeat(at);
        }
        link.sockets.push(socket);
        if let Some(transport) = engine.transport_name(slot) {
            self.metrics.connections(transport, namespace).add(1);
        }
    }

    fn run_connect_handlers(
        &mut self,
        engine: &mut Engine,
        slot: Slot,
        handle: &Socket,
        payload: Option<&str>,
    ) {
        let handlers = self.handlers.clone();
        let handshake = self.link(slot).and_then(|link| link.handshake().cloned());
        let socket = || handle.clone();
        for handler in handlers.connect(handle.address.namespace()) {
            let event = Event {
                socket: Handle::new(&socket),
                name: "connect",
                body: Body::Args(payload.unwrap_or("")),
                attachments: &[],
                gateway: &handlers.gateway,
                handshake: handshake.as_ref(),
                ending: None,
            };
            let called = Called::of(guarded(|| handler.call(&event)));
            let about = About {
                address: handle.address,
                name: event.name,
                body: event.body,
                ack: None,
            };
            self.handled(engine, slot, &about, called);
        }
    }

    /// A socket's token was renewed; `reply` is told when that is done.
    pub(super) fn refresh(
        &mut self,
        engine: &mut Engine,
        to: &SocketAddress,
        identity: Arc<Identity>,
        reply: oneshot::Sender<Vec<Arc<str>>>,
    ) {
        let Some(slot) = self.locate(engine, to) else {
            return;
        };
        let expires = identity
            .expires_at
            .map_or(Micros::MAX, |at| engine.clock.at_unix_millis(at));
        let Some(socket) = self
            .link_mut(slot)
            .and_then(|link| link.socket_mut(to.namespace()))
        else {
            return;
        };
        let before = std::mem::replace(&mut socket.identity, identity);
        socket.expires = expires;
        let in_doubt = self.leave_what_was_taken(engine, slot, to.namespace(), &before);
        self.rearm(engine, slot);
        let _ = reply.send(in_doubt);
    }

    /// A live connection has begun: who brought a token, or a handshake that the
    /// authenticator wants, is looked at; who may come without is let in; the others have
    /// `auth_timeout`.
    pub(super) fn live_opened(
        &mut self,
        engine: &mut Engine,
        slot: Slot,
        handshake: heartline_engine::shard::request::Handshake,
    ) {
        let token = handshake.token.and_then(|token| presented(&token));
        let mode = self
            .shared
            .fanout
            .namespaces
            .get(NamespaceId::ROOT)
            .config
            .auth_mode;
        let wants_handshake = self.shared.authenticator.wants_handshake();
        if token.is_some() || mode != AuthMode::Required || wants_handshake {
            self.connect(engine, slot, NamespaceId::ROOT, token, None, None, None);
        }
    }
}

//! The line that all nodes share, as this node follows it: what comes by it on its way to
//! sockets and rings, and what a session is to another node.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use heartline_core::auth::{Identity, RoomPattern, UserKey};
use heartline_core::backplane::line::{Heard, Lost, Reached, Scope, Session, Tail};
use heartline_core::backplane::{NameList, Target};
use heartline_core::line;
use heartline_core::line::ring::{Extent, Kept, Only};
use heartline_core::line::shelf::ScopeRef;
use heartline_core::message::Message;
use heartline_core::namespaces::NamespaceId;
use heartline_core::presence::{Edge, SocketAddress};
use heartline_core::rooms::{Followed, Gap, Numbered, Room, RoomRef};
use heartline_engine::shard::outbound::ConflationKey;
use heartline_wire::names::{self, Speaker};
use serde::{Deserialize, Serialize};

use crate::announcer;
use crate::data::{self, MAX_REMEMBERED, SocketData, Texts};
use crate::fanout::{Fanout, ToRoom, ToRooms, ToUser};
use crate::op::{LineOp, Manner, Op};
use crate::owed;
use crate::publication::{Publication, Told};
use crate::recovery::Recovery;

/// Changes of presence that follow each other in the line, with the number of the last.
enum Run {
    Read(u64, Vec<Edge>),
    /// So many that cannot be read.
    Unread(u64, u64),
}

/// Changes of which the first has this number, those that can be read and those that cannot apart.
fn numbered_runs(first: u64, edges: Vec<Option<Edge>>) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    for (number, edge) in (first..).zip(edges) {
        match (runs.last_mut(), edge) {
            (Some(Run::Read(last, edges)), Some(edge)) => {
                *last = number;
                edges.push(edge);
            }
            (Some(Run::Unread(last, count)), None) => (*last, *count) = (number, *count + 1),
            (_, Some(edge)) => runs.push(Run::Read(number, vec![edge])),
            (_, None) => runs.push(Run::Unread(number, 1)),
        }
    }
    runs
}

impl Fanout {
    /// Something of the line comes: for whom it is here, it is in their mailboxes then.
    pub(crate) fn hear(&self, heard: Heard<'_>) {
        let Some((recovery, _)) = self.common() else {
            return;
        };
        let at = heard.at;
        if at.line != recovery.line.epoch() {
            // Nobody here knows what came before.
            let before = at.id.saturating_sub(1);
            self.reach(Reached {
                line: at.line,
                begin: before,
                last: before,
            });
        }
        let may_say = |message: &Message| names::may_say(Speaker::Backend, &message.event);
        let is_ours = heard.edges_after.is_some();
        let message = heard.message.filter(|message| is_ours || may_say(message));
        let namespace = heard.target.namespace();
        let Some(namespace) = namespace.and_then(|name| self.namespaces.find(name)) else {
            return recovery.line.follow(at.id, || ());
        };
        if let Some(name) = heard.to {
            return self.hear_alone(recovery, name, (at.id, at.before), message);
        }
        if let (Some(after), Some(message), Target::All { tenant, .. }) =
            (heard.edges_after, &message, heard.target)
        {
            let tenant = tenant.map(Into::into);
            let scope = (namespace, tenant.as_ref());
            return self.hear_changes(recovery, scope, (at.id, at.before, after), message);
        }
        let numbered = Numbered {
            id: at.id,
            before: at.before,
            epoch: at.epoch,
            offset: at.offset,
        };
        match heard.target {
            Target::Room {
                tenant, room, key, ..
            } => {
                let to = ToRoom {
                    namespace,
                    tenant,
                    room,
                    key,
                    skip: heard.skip,
                };
                self.hear_in_room(recovery, &to, numbered, message);
            }
            target => self.hear_elsewhere(
                recovery,
                (namespace, target, heard.skip),
                (at.id, at.before),
                message,
            ),
        }
    }

    /// What is said to one socket comes, to where it is or is waited for.
    fn hear_alone(
        &self,
        recovery: &Recovery,
        name: SocketAddress,
        (id, before): (u64, u64),
        message: Option<Message>,
    ) {
        let Some(message) = message else {
            recovery.direct.follow_loss(name, &recovery.line, id);
            let to = recovery.whereabouts(name);
            let op = Op::Line(LineOp::UserGap { to });
            return self.post(to.0.conn.shard, op);
        };
        let line = &recovery.line;
        // Of one that is nowhere nobody would find out that it is.
        if usize::from(name.0.conn.shard) >= self.shards.len() && !recovery.may_come_back(&name) {
            return line.follow(id, || ());
        }
        let kept = Kept {
            id,
            ..recovery.kept(&message, Only::default(), self.clock.now())
        };
        let told = Told {
            place: line.place(id),
            is_own: true,
        };
        recovery.direct.follow(name, line, before, kept, || {
            let to = recovery.whereabouts(name);
            let how = Manner::Kept(told);
            self.post(to.0.conn.shard, Op::Emit { to, message, how });
        });
    }

    /// Changes of presence come. One that cannot be read is lost, and no other with it: nobody who
    /// comes back goes on over it.
    fn hear_changes(
        &self,
        recovery: &Recovery,
        (namespace, tenant): (NamespaceId, Option<&Arc<str>>),
        (id, before, after): (u64, u64, u64),
        message: &Message,
    ) {
        let edges = announcer::read(message, tenant);
        let scope = ScopeRef {
            namespace,
            tenant: tenant.map(|tenant| &**tenant),
            user: None,
        };
        let first = (id + 1).saturating_sub(edges.len() as u64);
        let mut before = before;
        for run in numbered_runs(first, edges) {
            let last = match run {
                Run::Read(last, edges) => {
                    let numbers = (last, before, after);
                    self.hear_run(recovery, (namespace, tenant), numbers, &edges);
                    last
                }
                Run::Unread(last, count) => {
                    self.unread.changes.fetch_add(count, Ordering::Relaxed);
                    recovery.shelf.follow_loss(scope, &recovery.line, last);
                    last
                }
            };
            before = last;
        }
    }

    /// Changes of presence that follow each other; the first two of the numbers are those of the
    /// last of them and of what was before them.
    fn hear_run(
        &self,
        recovery: &Recovery,
        (namespace, tenant): (NamespaceId, Option<&Arc<str>>),
        (id, before, after): (u64, u64, u64),
        edges: &[Edge],
    ) {
        let kept = announcer::kept(self, recovery, (namespace, edges), (id, after));
        let new = edges.len().saturating_sub(kept.len());
        let new = edges.get(new..).unwrap_or_default();
        if let Some(last) = new.last() {
            recovery.note_edges_told(last.number);
        }
        let Some(first) = kept.first().map(|event| event.id) else {
            return recovery.line.follow(id, || ());
        };
        let told = |index: usize| Told {
            place: recovery.line.place(first + index as u64),
            is_own: true,
        };
        let scope = ScopeRef {
            namespace,
            tenant: tenant.map(|tenant| &**tenant),
            user: None,
        };
        recovery
            .shelf
            .follow(scope, &recovery.line, before, kept, || {
                announcer::tell_here(self, namespace, tenant, new, told);
            });
    }

    fn hear_in_room(
        &self,
        recovery: &Recovery,
        to: &ToRoom<'_>,
        at: Numbered,
        message: Option<Message>,
    ) {
        let found = self.rooms.find(&RoomRef {
            namespace: to.namespace,
            tenant: to.tenant,
            name: to.room,
        });
        let Some(room) = found else {
            return recovery.line.follow(at.id, || ());
        };
        let gap = |shard: usize, gap: Gap| {
            let room = room.clone();
            self.post(shard as u16, Op::Line(LineOp::Gap { room, gap }));
        };
        let Some(message) = message else {
            self.note_lost(&room);
            return room.follow_gap(&recovery.line, at, gap);
        };
        let stored = self.stored_offset(&room, &message);
        let only = Only {
            skip: to.skip,
            ..Only::default()
        };
        let kept = Kept {
            key: to.key.map(Into::into),
            ..recovery.kept(&message, only, self.clock.now())
        };
        let name = self.namespaces.get(to.namespace).name.clone();
        let make = |offset, id| {
            let conflate = to.key.map(|key| ConflationKey {
                scope: room.incarnation,
                key: key.into(),
            });
            let topic = Some(room.key.name.clone());
            let told = Told {
                place: recovery.line.place(id),
                is_own: true,
            };
            let publication = Publication::new(name, message, topic, Some(offset), conflate);
            (offset, Arc::new(publication.at(Some(told))))
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
        if room.follow(&recovery.line, at, kept, make, to_shard, gap) == Followed::BehindGap {
            self.note_lost(&room);
        }
        self.note_offset(&room, stored);
    }

    /// The same of what goes to no single room.
    fn hear_elsewhere(
        &self,
        recovery: &Recovery,
        (namespace, target, skip): (NamespaceId, Target<'_>, Option<SocketAddress>),
        (id, before): (u64, u64),
        message: Option<Message>,
    ) {
        let Some((tenant, user)) = who_of(&target) else {
            return;
        };
        let scope = ScopeRef {
            namespace,
            tenant,
            user,
        };
        if user.is_some_and(|user| !self.has_anybody(tenant, user)) {
            return recovery.line.follow(id, || ());
        }
        let Some(message) = message else {
            recovery.shelf.follow_loss(scope, &recovery.line, id);
            let Some(user) = user else {
                let tenant: Option<Arc<str>> = tenant.map(Into::into);
                return self.post_to_all(|| {
                    let tenant = tenant.clone();
                    Op::Line(LineOp::EverybodyGap { namespace, tenant })
                });
            };
            for to in self.backplane.local().sockets(tenant, user, None) {
                self.post(to.0.conn.shard, Op::Line(LineOp::UserGap { to }));
            }
            return;
        };
        let only = only_of(&target, skip);
        if let (Some(user), Some(room)) = (user, &only.instead_of)
            && self.all_are_in(
                recovery,
                (namespace, tenant, user, only.user.as_deref()),
                room,
            )
        {
            return recovery.shelf.pass_over(scope, &recovery.line, before, id);
        }
        let kept = Kept {
            id,
            ..recovery.kept(&message, only, self.clock.now())
        };
        let told = Told {
            place: recovery.line.place(id),
            is_own: true,
        };
        recovery
            .shelf
            .follow(scope, &recovery.line, before, vec![kept], || {
                self.post_to(namespace, &target, skip, message, Some(told));
            });
    }

    /// Puts what goes to no single room into the mailboxes.
    fn post_to(
        &self,
        namespace: NamespaceId,
        target: &Target<'_>,
        skip: Option<SocketAddress>,
        message: Message,
        told: Option<Told>,
    ) {
        match *target {
            Target::User {
                tenant,
                user,
                user_type,
                topic,
                instead_of,
                key,
                ..
            } => {
                let only = user_type.map(|user_type| user_key(tenant, user, user_type));
                let to = ToUser {
                    namespace,
                    tenant,
                    user,
                    only: only.as_ref(),
                    topic,
                    instead_of,
                    key,
                    skip,
                };
                self.post_to_user(&to, message, told);
            }
            Target::All { tenant, .. } => {
                self.post_to_everybody(namespace, tenant.map(Into::into), message, told);
            }
            Target::Rooms {
                tenant,
                rooms,
                except,
                ..
            } => {
                let tenant: Option<Arc<str>> = tenant.map(Into::into);
                let to = ToRooms {
                    namespace,
                    tenant: tenant.as_ref(),
                    rooms: &list(rooms),
                    except: &list(except),
                    skip,
                };
                self.post_to_rooms(&to, message, told);
            }
            Target::Room { .. } | Target::Users { .. } | Target::Nodes => {}
        }
    }

    /// The line cannot be reached: what was to go by it is for those here, and is not kept.
    pub(crate) fn deliver_alone(
        &self,
        target: &Target<'_>,
        message: Message,
        skip: Option<SocketAddress>,
    ) {
        let namespace = target.namespace();
        let Some(namespace) = namespace.and_then(|name| self.namespaces.find(name)) else {
            return;
        };
        let told = self.passing(&message);
        let Target::Room { tenant, room, .. } = *target else {
            return self.post_to(namespace, target, skip, message, told);
        };
        let found = self.rooms.find(&RoomRef {
            namespace,
            tenant,
            name: room,
        });
        if let Some(room) = found {
            self.note_heard(&room, &message);
            self.pass(&room, message, skip, told);
        }
    }

    /// The same of what was to be said to one socket.
    pub(crate) fn deliver_alone_to(&self, name: SocketAddress, message: Message) {
        let at = self.whereabouts(name);
        let how = Manner::Passing;
        let op = Op::Emit {
            to: at,
            message,
            how,
        };
        self.post(at.0.conn.shard, op);
    }

    /// Changes of presence as they are kept, by the numbers that
    /// [`announcer::kept`] has. Who comes back from before one that cannot be read cannot be
    /// told of it: that is `dropped` then.
    fn kept_changes(
        &self,
        recovery: &Recovery,
        (namespace, tenant): (NamespaceId, Option<&Arc<str>>),
        (message, (id, after)): (&Message, (u64, u64)),
        dropped: &mut u64,
    ) -> Vec<Kept> {
        let edges = announcer::read(message, tenant);
        let first = (id + 1).saturating_sub(edges.len() as u64);
        let mut kept = Vec::with_capacity(edges.len());
        for run in numbered_runs(first, edges) {
            match run {
                Run::Read(last, edges) => {
                    let edges = (namespace, &*edges);
                    kept.extend(announcer::kept(self, recovery, edges, (last, after)));
                }
                Run::Unread(last, count) => {
                    self.unread.changes.fetch_add(count, Ordering::Relaxed);
                    *dropped = last.max(*dropped);
                }
            }
        }
        kept
    }

    /// Takes in what all nodes have kept of a scope.
    pub(crate) fn take_in(&self, scope: &Scope, tail: Tail<'_>) {
        let Some((recovery, _)) = self.common() else {
            return;
        };
        let now = self.clock.now();
        let (namespace, tenant) = match scope {
            Scope::All { namespace, tenant } => (self.namespaces.find(namespace), tenant.clone()),
            _ => (None, None),
        };
        let mut known = tail.known;
        let events = tail.events.into_iter().flat_map(|heard| {
            let Some(message) = heard.message else {
                // Who comes back from before it cannot be told of it.
                known.dropped = known.dropped.max(heard.at.id);
                known.dropped_offset = known.dropped_offset.max(heard.at.offset);
                return Vec::new();
            };
            if let (Some(after), Some(namespace)) = (heard.edges_after, namespace) {
                let scope = (namespace, tenant.as_ref());
                let at = (heard.at.id, after);
                return self.kept_changes(recovery, scope, (&message, at), &mut known.dropped);
            }
            let key = match heard.target {
                Target::Room { key, .. } => key.map(Into::into),
                _ => None,
            };
            vec![Kept {
                id: heard.at.id,
                offset: heard.at.offset,
                key,
                ..recovery.kept(&message, only_of(&heard.target, heard.skip), now)
            }]
        });
        let events: Vec<Kept> = events.collect();
        if let Scope::Socket { name, .. } = scope {
            return recovery
                .direct
                .take_in(*name, &recovery.line, known, events);
        }
        let Some((namespace, tenant, name)) = self.parts(scope) else {
            return;
        };
        if let Scope::Room { .. } = scope {
            if let Some(room) = self.room_of(scope) {
                let numbers = (tail.epoch, tail.offset);
                self.take_in_room(recovery, &room, numbers, known, events);
            }
            return;
        }
        let scope = ScopeRef {
            namespace,
            tenant,
            user: name,
        };
        recovery.shelf.take_in(scope, &recovery.line, known, events);
    }

    /// The same of a room.
    fn take_in_room(
        &self,
        recovery: &Recovery,
        room: &Arc<Room>,
        (epoch, offset): (u64, u64),
        known: Extent,
        events: Vec<Kept>,
    ) {
        let heard = self.stored_offsets(room, &events);
        // Where all is gone that was kept, and the numbers begin with the last of it, nodes were
        // told of a gap.
        let is_gap = known.last == epoch;
        let is_whole = known.dropped == 0 || (events.is_empty() && !is_gap);
        let was_silent = room.is_kept() && is_whole;
        let to_shard = |shard: usize, gap, is_late| {
            let room = room.clone();
            let op = match is_late {
                true => Op::Line(LineOp::Gap { room, gap }),
                false => Op::Line(LineOp::Begin { room, from: gap }),
            };
            self.post(shard as u16, op);
        };
        if room.take_in(&recovery.line, (epoch, offset), known, events, to_shard) {
            self.note_lost(room);
        }
        self.note_end(room, &heard, was_silent, recovery);
    }

    /// The offsets of the stored messages among events of a room, where they are looked for.
    fn stored_offsets(&self, room: &Room, events: &[Kept]) -> Vec<u64> {
        let events = events.iter().filter(|_| self.owed.is_on());
        let stored = events.filter_map(|event| owed::offset_of(&event.message, &room.key.name));
        stored.collect()
    }

    /// Notes which stored messages a room has `heard` of; or if of none, and nothing else was said
    /// in it, that it `was_silent` for as long as events are kept.
    fn note_end(&self, room: &Room, heard: &[u64], was_silent: bool, recovery: &Recovery) {
        if !self.owed.is_on() {
            return;
        }
        let (place, now) = (owed::place(&room.key), self.clock.now());
        self.owed.had(&place, heard, now);
        if heard.is_empty() && was_silent {
            let time = recovery.sessions.window();
            self.owed.was_silent(&place, now, time);
        }
    }

    /// The end of a scope does not come in time.
    pub(crate) fn go_without(&self, scope: &Scope) {
        if let Some(room) = self.room_of(scope) {
            room.goes_without();
        }
    }

    /// How far the line is: all that is for this node up to there has come.
    pub(crate) fn reach(&self, reached: Reached) {
        let Some((recovery, _)) = self.common() else {
            return;
        };
        if recovery.line.epoch() != reached.line {
            let window = recovery.sessions.window();
            self.owed.line_becomes(self.clock.now(), window);
            recovery.line.becomes(reached.line, reached.last);
            recovery.follows_from(reached.last);
            // Who joined a room last may be written down without it there.
            self.post_to_all(|| Op::Line(LineOp::RememberAll));
        }
        recovery.miss(reached.begin);
        recovery.line.follow(reached.last, || ());
    }

    /// What this node follows of the line.
    pub(crate) fn followed(&self) -> Vec<Scope> {
        let mut scopes = Vec::new();
        for room in self.rooms.all() {
            if room.is_kept() {
                scopes.push(Scope::Room {
                    namespace: self.namespaces.get(room.key.namespace).name.clone(),
                    tenant: room.key.tenant.clone(),
                    room: room.key.name.clone(),
                });
            }
        }
        let mut tenants: Vec<Option<Arc<str>>> = vec![None];
        let mut users: Vec<(Option<Arc<str>>, Arc<str>)> = Vec::new();
        self.backplane.local().each_user(|user| {
            tenants.push(user.tenant_id.clone());
            users.push((user.tenant_id.clone(), user.user_id.clone()));
        });
        tenants.sort_unstable();
        tenants.dedup();
        users.sort_unstable();
        users.dedup();
        let sockets = self.recovery.iter().flat_map(|all| all.direct.all());
        scopes.extend(sockets.map(|(name, _)| Scope::Socket {
            namespace: self.namespaces.get(name.namespace()).name.clone(),
            name,
        }));
        for (_, namespace) in self.namespaces.iter() {
            let namespace = &namespace.name;
            scopes.extend(tenants.iter().map(|tenant| Scope::All {
                namespace: namespace.clone(),
                tenant: tenant.clone(),
            }));
            scopes.extend(users.iter().map(|(tenant, user)| Scope::User {
                namespace: namespace.clone(),
                tenant: tenant.clone(),
                user: user.clone(),
            }));
        }
        scopes
    }

    /// Another node has taken up what a socket here had, or has ended it.
    pub(crate) fn lose_session(&self, name: SocketAddress, how: Lost) {
        let Some((recovery, _)) = self.common() else {
            return;
        };
        recovery.sessions.give_up(&name);
        let socket = self.whereabouts(name);
        let op = LineOp::Lose { socket, name, how };
        self.post(socket.0.conn.shard, Op::Line(op));
    }

    fn parts<'a>(
        &self,
        scope: &'a Scope,
    ) -> Option<(NamespaceId, Option<&'a str>, Option<&'a str>)> {
        let (namespace, tenant, name) = match scope {
            Scope::Room {
                namespace,
                tenant,
                room,
            } => (namespace, tenant, Some(&**room)),
            Scope::User {
                namespace,
                tenant,
                user,
            } => (namespace, tenant, Some(&**user)),
            Scope::All { namespace, tenant } => (namespace, tenant, None),
            Scope::Socket { .. } => return None,
        };
        Some((self.namespaces.find(namespace)?, tenant.as_deref(), name))
    }

    fn room_of(&self, scope: &Scope) -> Option<Arc<Room>> {
        let Scope::Room { .. } = scope else {
            return None;
        };
        let (namespace, tenant, name) = self.parts(scope)?;
        self.rooms.find(&RoomRef {
            namespace,
            tenant,
            name: name?,
        })
    }
}

fn list(names: NameList<'_>) -> Vec<String> {
    names.iter().map(ToOwned::to_owned).collect()
}

fn user_key(tenant: Option<&str>, user: &str, user_type: Option<&str>) -> UserKey {
    UserKey {
        tenant_id: tenant.map(Into::into),
        user_id: user.into(),
        user_type: user_type.map(Into::into),
    }
}

/// The tenant of a target that is no room, and the user, if it is one.
fn who_of<'a>(target: &Target<'a>) -> Option<(Option<&'a str>, Option<&'a str>)> {
    match *target {
        Target::User { tenant, user, .. } => Some((tenant, Some(user))),
        Target::All { tenant, .. } | Target::Rooms { tenant, .. } => Some((tenant, None)),
        Target::Room { .. } | Target::Users { .. } | Target::Nodes => None,
    }
}

/// Who of those in its scope a publication is for.
fn only_of(target: &Target<'_>, skip: Option<SocketAddress>) -> Only {
    let only = Only {
        skip,
        ..Only::default()
    };
    match *target {
        Target::User {
            tenant,
            user,
            user_type,
            topic,
            instead_of,
            ..
        } => Only {
            user: user_type.map(|user_type| Arc::new(user_key(tenant, user, user_type))),
            instead_of: instead_of.map(Into::into),
            topic: topic.map(Into::into),
            ..only
        },
        Target::Rooms { rooms, except, .. } => {
            let rooms = list(rooms);
            // Live subscribers know an event's room; of several, there is none to tell.
            let topic = match &*rooms {
                [one] => Some(one.as_str().into()),
                _ => None,
            };
            Only {
                among: (!rooms.is_empty()).then(|| rooms.into()),
                except: list(except).into(),
                topic,
                ..only
            }
        }
        Target::Room { .. } | Target::All { .. } | Target::Users { .. } | Target::Nodes => only,
    }
}

/// What a node writes down of a socket for the others.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    /// Its rooms, each with the number of the last event before it joined.
    pub(crate) rooms: Vec<(String, u64)>,
    /// The number of the last event before it left a room.
    pub(crate) left: u64,
    /// The ids that it had where it was, each with the number of the last event sent there.
    pub(crate) places: Vec<(String, u64)>,
    /// The patterns of rooms that its token granted.
    pub(crate) grants: Option<Vec<String>>,
    /// What the app remembers of it; builds that do not know of it leave it out.
    #[serde(default, skip_serializing_if = "Texts::is_empty")]
    pub(crate) remembered: Texts,
}

impl Record {
    /// The record as the store has it, for a socket of an identity.
    pub(crate) fn written(&self, identity: &Identity, is_lost: bool) -> Session {
        Session {
            owner: owner(identity.user.as_deref()),
            is_lost,
            was_here: true,
            record: serde_json::to_vec(self).unwrap_or_default(),
        }
    }

    /// What the store has of a socket that was lost.
    pub(crate) fn lost(session: &line::session::Session<Option<SocketData>>) -> Session {
        let rooms = session.rooms.iter();
        let places = session.places.iter();
        let grants = session.identity.rooms.as_ref();
        let data = session.data.as_ref();
        let record = Record {
            rooms: rooms
                .map(|(room, since)| (room.key.name.to_string(), *since))
                .collect(),
            left: session.left,
            places: places.map(|(place, end)| (place.id(), *end)).collect(),
            grants: grants.map(|all| all.iter().map(|one| one.text()).collect()),
            remembered: data.map(SocketData::to_write).unwrap_or_default(),
        };
        record.written(&session.identity, true)
    }

    /// Reads what a node has written; `None`: another build has, and this one cannot go on
    /// with it.
    pub(crate) fn read(session: &Session) -> Option<Record> {
        let record: Record = serde_json::from_slice(&session.record).ok()?;
        (data::size_of(&record.remembered) <= MAX_REMEMBERED).then_some(record)
    }

    /// As far as it is known what the socket was allowed.
    pub(crate) fn identity(&self, user: Option<Arc<UserKey>>) -> Identity {
        let grants = self.grants.as_ref();
        Identity {
            user,
            rooms: grants.map(|all| all.iter().map(|one| RoomPattern::new(one)).collect()),
            ..Identity::default()
        }
    }
}

/// How the owner of a session is named.
pub(crate) fn owner(user: Option<&UserKey>) -> String {
    user.map_or_else(String::new, |user| {
        let parts = (
            user.tenant_id.as_deref(),
            &*user.user_id,
            user.user_type.as_deref(),
        );
        serde_json::to_string(&parts).unwrap_or_default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_keep_their_numbers_in_the_line_whichever_cannot_be_read() {
        let edge = |number| Edge {
            user: Arc::new(UserKey {
                tenant_id: None,
                user_id: "u".into(),
                user_type: None,
            }),
            online: true,
            rev: 1,
            at: 1,
            number,
            rooms: Vec::new(),
            others: None,
        };
        let read = [Some(edge(1)), Some(edge(2)), None, None, Some(edge(5))];
        let runs = numbered_runs(101, read.to_vec());
        let runs: Vec<(u64, usize, bool)> = (runs.iter())
            .map(|run| match run {
                Run::Read(last, edges) => (*last, edges.len(), true),
                Run::Unread(last, count) => (*last, *count as usize, false),
            })
            .collect();
        assert_eq!(runs, [(102, 2, true), (104, 2, false), (105, 1, true)]);
    }
}

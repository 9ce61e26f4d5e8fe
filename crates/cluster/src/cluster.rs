//! The backplane of a node that is one of many.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hashbrown::HashMap;
use heartline_core::auth::{BoxFuture, UserKey};
use heartline_core::backplane::line::SharedLine;
use heartline_core::backplane::{
    Backplane, ClusterStatus, Message, Node, Peer, Peers, Probed, Subscription, Target, UserSocket,
};
use heartline_core::entries::{Standing, UserPresence};
use heartline_core::presence::audit::{Believed, Who};
use heartline_core::presence::{
    Admitted, DeviceLimitReached, Newcomer, Presence, RoomAddress, SocketAddress,
};
use tokio::task::AbortHandle;

use crate::answer;
use crate::local::Table;
use crate::locked::locked;
use crate::lookups::LookUps;
use crate::member::{Member, Prober, Requests, Timing};
use crate::names;
use crate::nodes::{Nodes, is_forgotten, peer};
use crate::redis::{
    Adapter, BadUrl, Calls, Commands, Fanout, Incoming, Line, LineSettings, OnceBounds, Queue,
    RedisChallenges, RedisDriver, RedisOnce, RedisRegistry, Server, SocketIoAdapter,
};
use crate::registry::{
    self, Admission, Doubts, Known, Millis, NodeInfo, TypedUser, Unavailable, UserName,
};
use crate::seal::{Also, Seal};
use crate::servers;
use crate::watch;

/// What a node of a cluster is told.
#[derive(Clone)]
pub struct Settings {
    /// `cluster.url`.
    pub url: String,
    /// `cluster.prefix`: clusters with different ones share a server.
    pub prefix: String,
    /// `cluster.lease_ttl`, `cluster.lease_refresh` and `presence.offline_grace`.
    pub timing: Timing,
    /// `server.node_id`.
    pub node_id: String,
    /// The process's number; see [`NodeInfo::tag`].
    pub tag: u32,
    /// Where other nodes reach this one; empty if they cannot.
    pub address: String,
    /// The version this node runs.
    pub version: String,
    /// `cluster.socketio_adapter`.
    pub socketio_adapter: SocketIoAdapter,
    /// Settings that all nodes should have alike, by their keys, in a form that is the same where
    /// they mean the same: others see them.
    pub alike: Vec<(String, String)>,
    /// `cluster.socketio_key`: what the names of the adapter's channels begin with.
    pub socketio_key: String,
    /// What is kept for clients that come back, if anything is.
    pub line: Option<LineSettings>,
    /// `cluster.key`: what nodes say to each other is signed with it.
    pub key: Option<String>,
    /// `cluster.key_previous`.
    pub key_previous: Option<Also>,
}

/// A socket on its way in: the registry may have it already. Tells the registry that it
/// has gone, unless it was entered or refused.
struct AdmissionGuard<'a> {
    member: &'a Member<RedisRegistry, Table>,
    socket: Option<(TypedUser, Arc<str>)>,
}

impl AdmissionGuard<'_> {
    fn disarm(mut self) {
        self.socket = None;
    }
}

impl Drop for AdmissionGuard<'_> {
    fn drop(&mut self) {
        if let Some((who, socket)) = self.socket.take() {
            self.member.forget(who, socket);
        }
    }
}

/// Asks other nodes as the gateway does.
#[derive(Clone)]
struct Ways(Arc<dyn Node>);

impl Prober for Ways {
    fn probe(
        &self,
        node: NodeInfo,
        secret: Arc<str>,
    ) -> impl Future<Output = Probed> + Send + 'static {
        let NodeInfo {
            tag,
            node_id,
            address,
            ..
        } = node;
        self.0.probe(Peer {
            tag,
            node_id,
            address,
            secret,
        })
    }
}

/// What starts when the gateway is there.
struct Parts {
    requests: Requests,
    driver: RedisDriver,
    queue: Queue,
    /// Where the streams adapter is looked for, and its stream's name; `None`: not at all.
    streams: Option<(Arc<Server>, String)>,
}

/// One node of a cluster on Redis.
pub struct Cluster {
    member: Arc<Member<RedisRegistry, Table>>,
    fanout: Arc<Fanout>,
    /// Its Sentinels are followed once for all that is asked of it.
    server: Arc<Server>,
    calls: Arc<Calls>,
    parts: Mutex<Option<Parts>>,
    tasks: Mutex<Vec<AbortHandle>>,
    nodes: Arc<Nodes>,
    look_ups: Arc<LookUps>,
    /// By which channels Socket.IO servers speak to each user's socket that was let in.
    spoken_to: Arc<Mutex<HashMap<SocketAddress, SpokenTo>>>,
}

/// The channels by which Socket.IO servers speak to a user's socket, by its own name and the one
/// that it has kept, and to its user.
type SpokenTo = [Option<Arc<dyn Subscription>>; 3];

impl Drop for Cluster {
    fn drop(&mut self) {
        for task in locked(&self.tasks).iter() {
            task.abort();
        }
    }
}

impl Cluster {
    /// A node that has not joined yet: it does when the gateway is built, and goes on
    /// trying for as long as there is no server.
    ///
    /// # Errors
    /// When the URL names no server.
    pub fn new(settings: Settings) -> Result<Cluster, BadUrl> {
        let server = Arc::new(Server::parse(&settings.url)?);
        let calls = Calls::new(&settings.prefix);
        let also = settings.key_previous.as_ref();
        let seal = Arc::new(Seal::new(calls.prefix(), settings.key.as_deref(), also));
        let info = NodeInfo {
            node_id: settings.node_id.into(),
            tag: settings.tag,
            address: settings.address.into(),
            version: settings.version.into(),
            probed: false,
            proto: registry::Versions::OWN,
            settings: settings
                .alike
                .into_iter()
                .map(|(key, value)| (key.into(), value.into()))
                .collect(),
        };
        let key = settings.socketio_key;
        let adapter = Adapter::new(settings.socketio_adapter, &key, settings.tag);
        let driver = RedisDriver::new(server.clone(), calls.clone(), info.process(), &adapter);
        let line = settings.line.map(|line| {
            let commands = (Commands::new(server.clone()), server.is_cluster());
            let own = (info.process(), settings.tag);
            Line::new(line, calls.prefix(), own, commands, seal.clone())
        });
        let own = (info.process(), settings.tag);
        let (fanout, queue) = Fanout::new(calls.prefix(), own, adapter, line, seal);
        let with_adapter = settings.socketio_adapter != SocketIoAdapter::Off;
        let streams = with_adapter.then(|| (server.clone(), key));
        let doubts = Doubts::new(settings.timing.ttl, settings.timing.refresh);
        let registry = RedisRegistry::new(server.clone(), calls.clone(), doubts);
        let (member, requests) = Member::new(registry, Table::new(), info, settings.timing);
        let asked = member.clone();
        let look_ups = LookUps::new(move |users| {
            let member = asked.clone();
            Box::pin(async move { Cluster::look_up(&member, &users).await })
        });
        Ok(Cluster {
            member,
            fanout,
            server,
            calls,
            parts: Mutex::new(Some(Parts {
                requests,
                driver,
                queue,
                streams,
            })),
            tasks: Mutex::default(),
            nodes: Arc::default(),
            look_ups,
            spoken_to: Arc::default(),
        })
    }

    /// Requests that are done once over all its nodes.
    pub fn once(&self, bounds: OnceBounds) -> RedisOnce {
        RedisOnce::on(self.server.clone(), self.calls.prefix(), bounds)
    }

    /// Challenges of wallets that all its nodes know.
    pub fn challenges(&self) -> RedisChallenges {
        RedisChallenges::on(self.server.clone(), self.calls.prefix())
    }

    /// The server it is on.
    #[cfg(test)]
    pub(crate) fn server(&self) -> &Arc<Server> {
        &self.server
    }

    /// Listens to what Socket.IO servers say to a newcomer, and to its user, for as long as the
    /// answer is kept; `None`: they say it elsewhere, or do not know it.
    fn listen_for(&self, newcomer: &Newcomer) -> Option<SpokenTo> {
        let Newcomer {
            user,
            socket,
            known_as,
            ..
        } = newcomer;
        let namespace = self.member.local().namespace(socket)?;
        if user.tenant_id.is_some() {
            return None;
        }
        let names = [
            Some(socket.id()),
            known_as.map(|name| name.id()),
            Some(format!("user:{}", user.user_id)),
        ];
        let held = names.map(|name| self.fanout.listen_to_servers(&namespace, &name?));
        held.iter().any(Option::is_some).then_some(held)
    }

    /// Changes the node's own table; and while the store cannot be told, what is known last of the
    /// user is otherwise by that. Who leaves is waited for until `at`.
    fn change_own<T>(
        member: &Member<RedisRegistry, Table>,
        user: &Arc<UserKey>,
        at: Millis,
        change: impl FnOnce(&Presence) -> T,
    ) -> T {
        let table = member.local();
        if member.is_complete() {
            return change(table.presence());
        }
        let count = || {
            let tenant = user.tenant_id.as_deref();
            let own = table.presence().get(tenant, &user.user_id, at);
            let mut types = own.types.into_iter();
            let own = types.find(|one| one.user_type == user.user_type);
            own.map_or(0, |own| own.devices)
        };
        let before = count();
        let changed = change(table.presence());
        let after = count();
        if before != after {
            let who = names::typed_user(user);
            table.replica().count_own(&who, (before, after), at);
        }
        changed
    }

    /// Asks the registry, and keeps what it says.
    async fn look_up(
        member: &Member<RedisRegistry, Table>,
        users: &[UserName],
    ) -> Result<Vec<Known>, Unavailable> {
        let now = member.local().now();
        let asked = member.local().replica().ask(member.standing(), users, now);
        let known = member.look_up(users).await;
        let found = users.iter().zip(known.iter().flatten());
        let found = found.map(|(name, known)| {
            let user = names::tenant_and_user(name).map_or("", |(_, user)| user);
            let found = answer::of_user(user, known, now);
            let announced = found.types.iter().any(|told| told.online);
            let agrees = announced == found.online;
            (found, agrees, known.devices_from)
        });
        let standing = member.standing();
        member.local().replica().learn(asked, standing, found);
        known
    }

    /// What is known of users: by the replica, if it `may_be_kept`, and by the registry; and while
    /// that cannot be asked, or is not to be believed, what was known last.
    async fn find(
        member: &Member<RedisRegistry, Table>,
        look_ups: &Arc<LookUps>,
        (tenant, users): (Option<&str>, &[String]),
        may_be_kept: bool,
    ) -> Vec<UserPresence> {
        let now = member.local().now();
        let names: Vec<UserName> = users
            .iter()
            .map(|user| names::user_name(tenant, user))
            .collect();
        let mut found: Vec<Option<UserPresence>> = vec![None; users.len()];
        if let Some(standing) = member.standing().filter(|_| may_be_kept) {
            let mut replica = member.local().replica();
            for (found, name) in found.iter_mut().zip(&names) {
                *found = replica.read(standing, name, now);
            }
        }
        let unknown = || (0..users.len()).filter(|&index| found[index].is_none());
        let missing: Vec<usize> = unknown().collect();
        if !missing.is_empty() {
            let asked: Vec<UserName> = missing.iter().map(|&index| names[index].clone()).collect();
            let known = look_ups.ask(&asked).await.unwrap_or_default();
            for (index, known) in missing.into_iter().zip(known) {
                found[index] = Some(answer::of_user(&users[index], &known, now));
            }
        }
        let is_trusted = member.is_complete();
        let own = member.local().presence();
        let all = users.iter().zip(&names).zip(found);
        let all = all.map(|((user, name), found)| {
            let found = match found {
                Some(found) if is_trusted => Some(found),
                found => member.local().replica().recall((name, user), found, now),
            };
            answer::with_own(own.get(tenant, user, now), found, is_trusted)
        });
        all.collect()
    }

    /// What the replica says of some users, and what there is: asked past it.
    async fn beside_kept(
        member: &Member<RedisRegistry, Table>,
        again: &[Who],
        some: usize,
    ) -> Vec<(Believed, UserPresence)> {
        let table = member.local();
        let now = table.now();
        let again = again.iter();
        let again: Vec<UserName> = again
            .map(|who| names::user_name(who.tenant.as_deref(), &who.user))
            .collect();
        let Some(standing) = member.standing() else {
            return Vec::new();
        };
        let kept = table.replica().sample(standing, &again, some, now);
        if kept.is_empty() {
            return Vec::new();
        }
        let (names, kept): (Vec<UserName>, Vec<UserPresence>) = kept.into_iter().unzip();
        let known = member.look_up(&names).await.unwrap_or_default();
        let is_trusted = member.is_complete();
        let all = names.iter().zip(kept).zip(known);
        let all = all.filter_map(|((name, kept), known)| {
            let (tenant, user) = names::tenant_and_user(name)?;
            let own = table.presence().get(tenant.as_deref(), user, now);
            let found = answer::of_user(user, &known, now);
            let found = answer::with_own(own, Some(found), is_trusted);
            let user = user.into();
            let believed = Believed {
                who: Who { tenant, user },
                online: kept.online,
                rev: kept.rev,
            };
            Some((believed, found))
        });
        all.collect()
    }
}

impl Backplane for Cluster {
    fn attach(&self, node: Arc<dyn Node>) {
        self.member.local().attach(node.clone());
        let follower = node.clone();
        let parts = locked(&self.parts).take();
        let Some(Parts {
            requests,
            driver,
            queue,
            streams,
        }) = parts
        else {
            return;
        };
        let member = self.member.clone();
        let (max_payload, namespaces) = (node.max_payload(), node.namespaces());
        let servers = self.fanout.clone();
        let shards = node.clone();
        let ways = Ways(node.clone());
        let is_busy = move || shards.is_overloaded();
        let deliver = move |incoming: Incoming<'_>| match incoming {
            Incoming::Nudge => member.nudge(),
            Incoming::Publication(target, message) => node.deliver(&target, message),
            Incoming::Missed(whose) => node.missed(whose),
            Incoming::Foreign(foreign) => servers::obey(&node, &servers, foreign),
        };
        let living = tokio::spawn(self.member.clone().run(requests));
        if let Some(line) = self.fanout.line().cloned() {
            let following = tokio::spawn(async move { line.run(follower).await });
            locked(&self.tasks).push(following.abort_handle());
        }
        let fanout = self.fanout.clone();
        let fanning = tokio::spawn(async move {
            fanout
                .run(driver, queue, (max_payload, &namespaces), deliver, is_busy)
                .await;
        });
        let followed = self.server.clone();
        let moving = tokio::spawn(async move { followed.follow().await });
        let watching = tokio::spawn(watch::watch(self.server.clone(), self.member.clone()));
        let near = tokio::spawn(self.member.clone().watch_neighbours(ways));
        let mut tasks = locked(&self.tasks);
        tasks.extend([
            living.abort_handle(),
            fanning.abort_handle(),
            moving.abort_handle(),
            watching.abort_handle(),
            near.abort_handle(),
        ]);
        if let Some((server, stream)) = streams {
            let looking = tokio::spawn(servers::look_for_streams(server, stream));
            tasks.push(looking.abort_handle());
        }
    }

    fn connect(&self, newcomer: Newcomer) -> BoxFuture<Result<Admitted, DeviceLimitReached>> {
        let (member, spoken_to) = (self.member.clone(), self.spoken_to.clone());
        // Given up with this, unless it is let in.
        let held = self.listen_for(&newcomer);
        Box::pin(async move {
            let table = member.local();
            // As coarse as the node's own table has it.
            let since = table.now() / 16 * 16;
            let socket = newcomer.socket;
            let Some(entry) = table.entry(socket, newcomer.device_id.as_ref(), since) else {
                return Err(DeviceLimitReached::default());
            };
            let who = names::typed_user(&newcomer.user);
            let guard = AdmissionGuard {
                member: &member,
                socket: Some((who.clone(), entry.socket.clone())),
            };
            let asked = registry::Newcomer {
                who,
                entry,
                max_sockets: u32::try_from(newcomer.max_sockets).unwrap_or(u32::MAX),
                instead_of: newcomer.instead_of.map(|earlier| earlier.id().into()),
            };
            let enter = |admission| match admission {
                None => Cluster::change_own(&member, &newcomer.user.clone(), since, |own| {
                    own.connect(newcomer, since)
                }),
                Some(Admission::Refused(again)) => Err(DeviceLimitReached {
                    retry_after: again.map(Duration::from_millis),
                }),
                Some(admission) => {
                    table.presence().enter(newcomer, since);
                    Ok(Admitted {
                        reserved: admission == Admission::Reserved,
                        ..Admitted::default()
                    })
                }
            };
            let name = asked.who.user.clone();
            let entered = member.connect(asked, enter).await;
            guard.disarm();
            member.local().replica().touch(&name);
            if let (Ok(_), Some(held)) = (&entered, held) {
                locked(&spoken_to).insert(socket, held);
            }
            entered
        })
    }

    fn established(&self, user: &Arc<UserKey>, socket: SocketAddress) {
        self.member
            .establish(names::typed_user(user), socket.id().into());
    }

    fn disconnect(&self, user: &Arc<UserKey>, socket: SocketAddress, keep: Duration) {
        locked(&self.spoken_to).remove(&socket);
        let at = self.member.local().now() + self.member.grace(keep);
        Cluster::change_own(&self.member, user, at, |own| own.leave(user, socket));
        let who = names::typed_user(user);
        self.member.local().replica().touch(&who.user);
        self.member.disconnect(who, socket.id().into(), keep);
    }

    fn withdraw(&self, user: &Arc<UserKey>, socket: SocketAddress, admitted: &Admitted) {
        self.disconnect(user, socket, Duration::ZERO);
        if !(admitted.replaced.is_empty() && admitted.evicted.is_empty()) {
            // They are not in the registry any more, and stay.
            self.member.doubt(names::typed_user(user), true);
        }
    }

    fn enter_room(&self, user: &Arc<UserKey>, socket: SocketAddress, place: RoomAddress) {
        let table = self.member.local();
        table
            .presence()
            .enter_room(user, socket, place, table.now());
        self.member.rooms_changed(names::typed_user(user));
    }

    fn leave_room(&self, user: &Arc<UserKey>, socket: SocketAddress, place: &RoomAddress) {
        self.member
            .local()
            .presence()
            .leave_room(user, socket, place);
        self.member.rooms_changed(names::typed_user(user));
    }

    fn presence(
        &self,
        tenant: Option<Arc<str>>,
        users: Vec<String>,
    ) -> BoxFuture<Vec<UserPresence>> {
        let (member, look_ups) = (self.member.clone(), self.look_ups.clone());
        Box::pin(async move {
            let asked = (tenant.as_deref(), &*users);
            Cluster::find(&member, &look_ups, asked, false).await
        })
    }

    fn presence_known(
        &self,
        tenant: Option<Arc<str>>,
        users: Vec<String>,
    ) -> BoxFuture<Vec<UserPresence>> {
        let (member, look_ups) = (self.member.clone(), self.look_ups.clone());
        Box::pin(async move {
            let asked = (tenant.as_deref(), &*users);
            Cluster::find(&member, &look_ups, asked, true).await
        })
    }

    fn kept(&self, again: Vec<Who>, some: usize) -> BoxFuture<Vec<(Believed, UserPresence)>> {
        let member = self.member.clone();
        Box::pin(async move { Cluster::beside_kept(&member, &again, some).await })
    }

    fn is_trusted(&self) -> bool {
        self.member.is_complete()
    }

    fn standing(&self) -> Option<Standing> {
        let now = self.member.standing()?;
        Some(Standing([now.joins, now.hold, u64::from(now.version)]))
    }

    fn heard_until(&self) -> Option<u64> {
        let table = self.member.local();
        let now = table.now();
        Some(table.replica().heard_until(now))
    }

    fn local(&self) -> &Presence {
        self.member.local().presence()
    }

    fn subscribe(
        &self,
        namespace: &str,
        tenant: Option<&str>,
        room: &str,
    ) -> Option<Arc<dyn Subscription>> {
        Some(self.fanout.subscribe(namespace, tenant, room))
    }

    fn publish(&self, target: &Target<'_>, message: &Message) {
        self.fanout.publish(target, message);
    }

    fn publish_keyed(&self, target: &Target<'_>, message: &Message, here: &mut dyn FnMut()) {
        self.fanout.publish_keyed(target, message, here);
    }

    fn line(&self) -> Option<Arc<dyn SharedLine>> {
        self.fanout.line()?;
        Some(self.fanout.clone())
    }

    fn tag(&self) -> Option<u32> {
        Some(self.member.info().tag)
    }

    fn secret(&self) -> Option<Arc<str>> {
        self.member.secret()
    }

    fn peer(&self, tag: u32) -> BoxFuture<Option<Peer>> {
        let (member, nodes) = (self.member.clone(), self.nodes.clone());
        Box::pin(async move {
            // A node that nobody knows may have come a moment ago.
            for newer in [false, true] {
                let known = nodes.get(&member, newer).await;
                let found = known.iter().find(|node| node.info.tag == tag);
                if let Some(found) = found {
                    return peer(found, member.secret()?);
                }
            }
            None
        })
    }

    fn peers(&self) -> BoxFuture<Peers> {
        let (member, nodes) = (self.member.clone(), self.nodes.clone());
        Box::pin(async move {
            let (known, age) = nodes.newest(&member).await;
            let mut peers = Peers {
                // Nodes may have come since, or not be back yet.
                is_partial: age.is_none() || !member.is_settled(),
                ..Peers::default()
            };
            // Without it, this node has never joined them.
            let secret = member.secret();
            for node in known.iter() {
                // A node that was gone for so long is no node any more.
                if node.info.tag == member.info().tag || is_forgotten(node) {
                    continue;
                }
                let known = secret.clone().and_then(|secret| peer(node, secret));
                match known.filter(|_| node.lease >= 0) {
                    Some(peer) => peers.believed.push(peer),
                    None => peers.suspect.push(node.info.node_id.clone()),
                }
            }
            peers
        })
    }

    fn others(&self) -> BoxFuture<Option<(Vec<u32>, Duration)>> {
        let (member, nodes) = (self.member.clone(), self.nodes.clone());
        Box::pin(async move {
            let (nodes, age) = nodes.newest(&member).await;
            let age = age?;
            let own = member.info().tag;
            let others = nodes.iter().filter(|node| node.lease >= 0);
            let tags = others.map(|node| node.info.tag).filter(|tag| *tag != own);
            Some((tags.collect(), age))
        })
    }

    fn sockets(&self, tenant: Option<&str>, user: &str) -> BoxFuture<Option<Vec<UserSocket>>> {
        let look_ups = self.look_ups.clone();
        let name = names::user_name(tenant, user);
        Box::pin(async move {
            let known = look_ups.ask(std::slice::from_ref(&name)).await;
            let known = known.ok()?;
            let sockets = known.iter().flat_map(|known| &known.sockets);
            let sockets = sockets.filter_map(|socket| {
                let who = TypedUser {
                    user: name.clone(),
                    kind: socket.kind.clone(),
                };
                Some(UserSocket {
                    id: socket.socket.clone(),
                    namespace: socket.namespace.clone(),
                    user: Arc::new(names::user_key(&who)?),
                })
            });
            Some(sockets.collect())
        })
    }

    fn status(&self) -> Option<ClusterStatus> {
        let member = self.member.counters();
        let fanout = self.fanout.counters();
        let (unsigned, forged) = self.fanout.not_believed();
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let unreachable = !self.member.is_trusted() || !self.fanout.is_connected();
        Some(ClusterStatus {
            degraded: unreachable || self.member.is_deaf(),
            unreachable,
            lease_age: self.member.lease_age(),
            errors: read(&member.errors) + read(&fanout.errors),
            incarnations: read(&member.joins),
            repairs: read(&member.repairs),
            swept: read(&member.swept),
            set_aside: read(&member.set_aside),
            newer: read(&fanout.newer),
            damaged: read(&fanout.damaged),
            unread: self.fanout.unread(),
            refused: self.member.refused(),
            given_up: read(&member.given_up),
            edges: read(&member.edges),
            missed_edges: read(&member.missed_edges),
            unreadable_edges: read(&member.unreadable_edges),
            unregistered: read(&member.unregistered),
            sent: read(&fanout.sent),
            received: read(&fanout.received),
            undelivered: read(&fanout.undelivered) + read(&member.forgotten),
            dropped: read(&fanout.dropped),
            unsigned,
            forged,
            gaps: read(&fanout.gaps),
            missed: read(&fanout.missed),
            queued: self.fanout.queued(),
        })
    }

    fn close(&self) -> BoxFuture<()> {
        let (member, fanout) = (self.member.clone(), self.fanout.clone());
        Box::pin(async move {
            fanout.finish().await;
            member.leave().await;
        })
    }
}

//! Publications between nodes: a channel for each room, one for each process, one for
//! all.
//!
//! A node subscribes to a room's channel while the room has members here. What it
//! publishes is delivered here at once and sent to the others in the background, in
//! order, many in one write. Each publication carries its sender and a running number, so
//! that a batch whose answer got lost can be sent again: a node that has had a part of it
//! drops that part. What is said to Socket.IO servers has none, and is not sent again then.
//!
//! Pub/sub keeps nothing, and both ends have bounds: what waits to be sent while the server is
//! away ([`send`]), and what waits for sockets that do not keep up ([`inbox`]). Whatever is
//! lost, there or on the way ([`numbers`]), is told to those whose it was. Publications with a
//! key end the same everywhere ([`keyed`]).
//!
//! [`Driver`] is all that is asked of pub/sub.

mod channels;
mod counters;
mod driver;
mod inbox;
mod keyed;
mod line;
mod numbers;
mod phase;
mod pubsub;
mod receive;
mod send;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use heartline_core::auth::{BoxFuture, UserKey};
use heartline_core::backplane::line::{Away, Changes, Scope, Session, SharedLine, Unclaimed};
use heartline_core::backplane::{Message, Subscription, Target};
use heartline_core::presence::SocketAddress;

use super::socketio::Adapter;
use crate::envelope::{self, Origin};
use crate::names;
use crate::seal::Seal;
use channels::Channels;
use keyed::Keyed;
use receive::{Outlet, Receiver};
use send::Outbox;

pub use counters::Counters;
pub use driver::{Driver, Heard, Link, Listener, Outgoing, Recipients, Unsent};
pub use line::{Line, LineSettings};
pub use pubsub::RedisDriver;
pub use receive::Incoming;
pub use send::Queue;

/// Two channels of one room.
struct Both([Arc<dyn Subscription>; 2]);

impl Subscription for Both {
    fn ready(&self) -> Option<BoxFuture<()>> {
        let [own, theirs] = self.0.each_ref().map(|held| held.ready());
        if own.is_none() && theirs.is_none() {
            return None;
        }
        Some(Box::pin(async move {
            for ready in [own, theirs].into_iter().flatten() {
                ready.await;
            }
        }))
    }
}

/// This node's part in the fan-out.
pub struct Fanout {
    prefix: String,
    process: Arc<str>,
    tag: u32,
    /// How Socket.IO servers on Node are spoken with.
    adapter: Adapter,
    outbox: Arc<Outbox>,
    channels: Arc<Channels>,
    keyed: Arc<Keyed>,
    line: Option<Arc<Line>>,
    /// What is kept comes by these.
    _held: Vec<Arc<dyn Subscription>>,
    counters: Arc<Counters>,
    seal: Arc<Seal>,
}

/// A room whose events are kept: its channel, and the way to what is kept of it.
struct KeptRoom {
    channel: Arc<dyn Subscription>,
    line: Arc<Line>,
    scope: Scope,
    is_known: Arc<AtomicBool>,
}

impl Subscription for KeptRoom {
    fn ready(&self) -> Option<BoxFuture<()>> {
        if self.is_known.load(Ordering::Relaxed) {
            return self.channel.ready();
        }
        let (channel, line) = (self.channel.clone(), self.line.clone());
        let (scope, is_known) = (self.scope.clone(), self.is_known.clone());
        Some(Box::pin(async move {
            if let Some(ready) = channel.ready() {
                ready.await;
            }
            if line.follow(scope).await {
                is_known.store(true, Ordering::Relaxed);
            }
        }))
    }
}

impl Fanout {
    /// Nothing is connected until [`run`](Self::run). `prefix` is that of all keys, with
    /// its hash tag; `process` and `tag` name the process as the registry does.
    pub fn new(
        prefix: &str,
        (process, tag): (Arc<str>, u32),
        adapter: Adapter,
        line: Option<Arc<Line>>,
        seal: Arc<Seal>,
    ) -> (Arc<Fanout>, Queue) {
        let counters: Arc<Counters> = match &line {
            Some(line) => line.counters().clone(),
            None => Arc::default(),
        };
        let (outbox, queue) = send::queue(
            tag,
            (everybody(prefix), processes(prefix)),
            seal.clone(),
            &counters,
        );
        let channels: Arc<Channels> = Arc::default();
        let own = line.iter().flat_map(|line| line.own_channels());
        let fanout = Fanout {
            prefix: prefix.to_owned(),
            process,
            tag,
            adapter,
            outbox,
            _held: own.map(|name| channels.hold(name.into())).collect(),
            channels,
            keyed: Arc::default(),
            line,
            counters,
            seal,
        };
        (Arc::new(fanout), queue)
    }

    /// What happened so far.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// What was dropped as nobody had signed it, and as the signature was wrong.
    pub fn not_believed(&self) -> (u64, u64) {
        self.seal.dropped()
    }

    /// Events of the line that could not be read.
    pub fn unread(&self) -> u64 {
        self.seal.unread()
    }

    /// Whether other nodes' publications arrive.
    pub fn is_connected(&self) -> bool {
        self.channels.is_connected()
    }

    /// Publications that wait to be sent.
    pub fn queued(&self) -> usize {
        self.outbox.queued()
    }

    /// What the names of rooms' channels begin with.
    fn rooms_prefix(&self) -> &str {
        self.prefix.trim_matches(['{', '}'])
    }

    fn room_channel(&self, namespace: &str, tenant: Option<&str>, room: &str) -> String {
        names::room_channel(self.rooms_prefix(), namespace, tenant, room)
    }

    /// The channel that all nodes hear.
    fn everybody(&self) -> String {
        everybody(&self.prefix)
    }

    /// Holds a room's channel.
    pub fn subscribe(
        &self,
        namespace: &str,
        tenant: Option<&str>,
        room: &str,
    ) -> Arc<dyn Subscription> {
        let channel = self.room_channel(namespace, tenant, room);
        let own = self.channels.hold(channel.into());
        let theirs = match tenant {
            None => self.listen_to_servers(namespace, room),
            Some(_) => None,
        };
        match theirs {
            Some(theirs) => Arc::new(Both([own, theirs])),
            None => own,
        }
    }

    /// Resolves when what is kept of this node is where other nodes find it.
    pub async fn finish(&self) {
        if let Some(line) = &self.line {
            line.finish().await;
        }
    }

    /// The line of kept events, if there is one.
    pub fn line(&self) -> Option<&Arc<Line>> {
        self.line.as_ref()
    }

    /// Holds the channel by which Socket.IO servers speak to a room, or to a socket by its
    /// id; `None`: they need none.
    pub fn listen_to_servers(&self, namespace: &str, room: &str) -> Option<Arc<dyn Subscription>> {
        let channel = self.adapter.room_channel(namespace, room)?;
        Some(self.channels.hold(channel.into()))
    }

    /// Sends a publication to other nodes, in the background.
    pub fn publish(&self, target: &Target<'_>, message: &Message) {
        let to = self.recipients(target);
        self.push(to, target, message);
    }

    /// The same for a publication to a room, which is delivered `here` as well: at once, and
    /// so that all nodes have the same last one of each key.
    pub fn publish_keyed(&self, target: &Target<'_>, message: &Message, here: &mut dyn FnMut()) {
        let to = self.recipients(target);
        let (Recipients::Room(channel), Target::Room { key: Some(key), .. }) = (&to, target) else {
            self.push(to, target, message);
            return here();
        };
        let channel = channel.clone();
        let comes_back = || self.channels.is_heard(&channel);
        let push = || self.push(to, target, message);
        self.keyed.publish((&channel, key), comes_back, push, here);
    }

    fn recipients(&self, target: &Target<'_>) -> Recipients {
        match *target {
            Target::Room {
                namespace,
                tenant,
                room,
                ..
            } => Recipients::Room(self.room_channel(namespace, tenant, room)),
            Target::All { .. } | Target::Rooms { .. } | Target::Users { .. } | Target::Nodes => {
                Recipients::Channel(self.everybody())
            }
            Target::User { tenant, user, .. } => Recipients::User(names::user_name(tenant, user)),
        }
    }

    /// Puts a publication in line; its number.
    fn push(&self, to: Recipients, target: &Target<'_>, message: &Message) -> u64 {
        // Its numbers are known once it is in line.
        let origin = Origin {
            tag: self.tag,
            number: 0,
            after: 0,
        };
        let envelope = envelope::encode(origin, target, message);
        let number = self.outbox.publish(to, envelope);
        if let Some((to, body)) = self.adapter.encode(target, message) {
            self.outbox.say(to, body);
        }
        number
    }

    /// Answers a Socket.IO server, in the background.
    pub fn answer(&self, channel: &str, bytes: Vec<u8>) {
        let to = Recipients::Channel(channel.to_owned());
        self.outbox.say(to, bytes);
    }

    /// Sends and receives until it is dropped. What clients of other nodes and Socket.IO servers
    /// say is held to `max_payload` bytes; the servers are heard in these namespaces. While
    /// `is_busy` what comes in waits.
    pub async fn run(
        self: Arc<Self>,
        driver: impl Driver,
        queue: Queue,
        (max_payload, namespaces): (usize, &[Arc<str>]),
        deliver: impl Fn(Incoming<'_>) + Send + Sync + 'static,
        is_busy: impl Fn() -> bool + Send + Sync + 'static,
    ) {
        let outlet = Outlet {
            deliver: Box::new(deliver),
            is_busy: Box::new(is_busy),
        };
        let receiver = Receiver::new(&self, namespaces, max_payload, outlet);
        let given_up = |channel: Option<&str>, last| receiver.given_up(channel, last);
        tokio::join!(
            queue.send_all(&driver, &given_up),
            receiver.receive_all(&driver),
            receiver.work_off()
        );
    }
}

impl SharedLine for Fanout {
    fn say(
        &self,
        target: &Target<'_>,
        message: &Message,
        skip: Option<SocketAddress>,
    ) -> BoxFuture<Option<u64>> {
        let Some(line) = &self.line else {
            return Box::pin(std::future::ready(None));
        };
        if let Some((to, body)) = self.adapter.encode(target, message) {
            self.outbox.say(to, body);
        }
        line.say(target, message, skip)
    }

    fn last_said(&self) -> u64 {
        self.line.as_ref().map_or(0, |line| line.last_said())
    }

    fn back(&self, number: u64) -> Option<BoxFuture<()>> {
        self.line.as_ref()?.back(number)
    }

    fn hold(&self, namespace: &str, tenant: Option<&str>, room: &str) -> Arc<dyn Subscription> {
        let Some(line) = &self.line else {
            return self.subscribe(namespace, tenant, room);
        };
        let channel = line.room_channel(namespace, tenant, room);
        let channel = self.channels.hold(channel.into());
        let theirs = match tenant {
            None => self.listen_to_servers(namespace, room),
            Some(_) => None,
        };
        let channel: Arc<dyn Subscription> = match theirs {
            Some(theirs) => Arc::new(Both([channel, theirs])),
            None => channel,
        };
        Arc::new(KeptRoom {
            channel,
            line: line.clone(),
            scope: Scope::Room {
                namespace: namespace.into(),
                tenant: tenant.map(Into::into),
                room: room.into(),
            },
            is_known: Arc::default(),
        })
    }

    fn say_to(&self, namespace: &Arc<str>, name: SocketAddress, message: &Message) {
        if let Some(line) = &self.line {
            line.say_to(namespace, name, message);
        }
    }

    fn received(&self, name: SocketAddress, id: u64) {
        if let Some(line) = &self.line {
            line.received(name, id);
        }
    }

    fn say_changes(&self, changes: Changes) -> BoxFuture<bool> {
        let line = self.line.clone();
        Box::pin(async move {
            match line {
                Some(line) => line.say_changes(changes).await,
                None => false,
            }
        })
    }

    fn follow(&self, scope: Scope) -> BoxFuture<bool> {
        match &self.line {
            Some(line) => line.follow(scope),
            None => Box::pin(std::future::ready(false)),
        }
    }

    fn attend(&self, user: &UserKey) -> Option<BoxFuture<()>> {
        self.line.as_ref()?.attend(user)
    }

    fn remember(&self, name: SocketAddress, session: Option<Session>) {
        if let Some(line) = &self.line {
            line.remember(name, session);
        }
    }

    fn remembered(&self) -> BoxFuture<()> {
        match &self.line {
            Some(line) => line.remembered(),
            None => Box::pin(std::future::ready(())),
        }
    }

    fn holder(&self, name: SocketAddress) -> BoxFuture<Result<Option<u32>, Away>> {
        let line = self.line.clone();
        Box::pin(async move {
            match line {
                Some(line) => line.holder(name).await,
                None => Ok(None),
            }
        })
    }

    fn has_claimed(&self, name: SocketAddress) -> bool {
        let line = self.line.as_ref();
        line.is_some_and(|line| line.has_claimed(name))
    }

    fn claim(
        &self,
        name: SocketAddress,
        owner: String,
        user: Option<&UserKey>,
        begin: u64,
    ) -> BoxFuture<Result<Session, Unclaimed>> {
        let line = self.line.clone();
        let user = user.cloned();
        Box::pin(async move {
            match line {
                Some(line) => line.claim(name, &owner, user.as_ref(), begin).await,
                None => Err(Unclaimed::Unknown),
            }
        })
    }

    fn end(&self, name: SocketAddress) -> BoxFuture<Result<bool, Away>> {
        match &self.line {
            Some(line) => line.end(name),
            None => Box::pin(std::future::ready(Ok(false))),
        }
    }

    fn end_all(
        &self,
        tenant: Option<&str>,
        user: &str,
        only: Option<&UserKey>,
    ) -> BoxFuture<Result<(), Away>> {
        let Some(line) = &self.line else {
            return Box::pin(std::future::ready(Ok(())));
        };
        let kind = only.map_or_else(|| "*".into(), |only| names::typed_user(only).kind);
        line.end_all(names::user_name(tenant, user).to_string(), kind.to_string())
    }
}

/// What the names of channels begin with by which processes are spoken to.
fn processes(prefix: &str) -> String {
    format!("{prefix}:n:")
}

/// The channel that all nodes hear.
fn everybody(prefix: &str) -> String {
    format!("{prefix}:all")
}

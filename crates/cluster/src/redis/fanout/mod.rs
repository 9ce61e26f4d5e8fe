//! Publications between nodes: a channel for each room, one for each process, one for
//! all.
//!
//! A node subscribes to a room's channel while the room has members here. What it
//! publishes is delivered here at once and sent to the others in the background, in
//! order, many in one write. Each publication carries its sender and a running number, so
//! that a batch whose answer got lost can be sent again: a node that has had a part of it
//! drops that part.
//!
//! While the server is away, a bounded queue holds what was published last; what does
//! not fit or grows too old is counted as undelivered. A subscriber that was cut off
//! has missed what was published meanwhile: pub/sub keeps nothing.
//!
//! [`Driver`] is all that is asked of pub/sub.

mod channels;
mod counters;
mod driver;
mod pubsub;
mod receive;
mod send;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use heartline_core::auth::BoxFuture;
use heartline_core::backplane::{Message, Subscription, Target};

use super::socketio::Adapter;
use crate::envelope::{self, Origin};
use crate::names;
use channels::Channels;
use receive::Receiver;
use send::Outbox;

pub use counters::Counters;
pub use driver::{Driver, Heard, Link, Listener, Outgoing, Recipients};
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
    /// The last publication's.
    number: AtomicU64,
    outbox: Outbox,
    channels: Arc<Channels>,
    counters: Arc<Counters>,
}

impl Fanout {
    /// Nothing is connected until [`run`](Self::run). `prefix` is that of all keys, with
    /// its hash tag; `process` and `tag` name the process as the registry does.
    pub fn new(
        prefix: &str,
        process: Arc<str>,
        tag: u32,
        adapter: Adapter,
    ) -> (Arc<Fanout>, Queue) {
        let counters: Arc<Counters> = Arc::default();
        let (outbox, queue) = send::queue(&counters);
        let fanout = Fanout {
            prefix: prefix.to_owned(),
            process,
            tag,
            adapter,
            number: AtomicU64::new(0),
            outbox,
            channels: Arc::default(),
            counters,
        };
        (Arc::new(fanout), queue)
    }

    /// What happened so far.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Whether other nodes' publications arrive.
    pub fn is_connected(&self) -> bool {
        self.channels.is_connected()
    }

    /// Publications that wait to be sent.
    pub fn queued(&self) -> usize {
        self.outbox.queued()
    }

    fn room_channel(&self, namespace: &str, tenant: Option<&str>, room: &str) -> String {
        // Without the hash tag: a cluster spreads rooms over its shards.
        let prefix = self.prefix.trim_matches(['{', '}']);
        let tenant = names::tenant_name(tenant);
        // A namespace has no colon unless it is its own doing; its length says where
        // it ends.
        format!("{prefix}:r:{}:{namespace}:{tenant}:{room}", namespace.len())
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

    /// Holds the channel by which Socket.IO servers speak to a room, or to a socket by its
    /// id; `None`: they need none.
    pub fn listen_to_servers(&self, namespace: &str, room: &str) -> Option<Arc<dyn Subscription>> {
        let channel = self.adapter.room_channel(namespace, room)?;
        Some(self.channels.hold(channel.into()))
    }

    /// Sends a publication to other nodes, in the background.
    pub fn publish(&self, target: &Target<'_>, message: &Message) {
        let number = self.number.fetch_add(1, Ordering::Relaxed) + 1;
        let origin = Origin {
            tag: self.tag,
            number,
        };
        let to = match *target {
            Target::Room {
                namespace,
                tenant,
                room,
                ..
            } => Recipients::Room(self.room_channel(namespace, tenant, room)),
            Target::All { .. } | Target::Rooms { .. } | Target::Users { .. } | Target::Nodes => {
                Recipients::Channel(format!("{}:all", self.prefix))
            }
            Target::User { tenant, user, .. } => Recipients::User(names::user_name(tenant, user)),
        };
        self.outbox
            .push(to, envelope::encode(origin, target, message));
        if let Some((to, body)) = self.adapter.encode(target, message) {
            self.outbox.push(to, body);
        }
    }

    /// Answers a Socket.IO server, in the background.
    pub fn answer(&self, channel: &str, bytes: Vec<u8>) {
        let to = Recipients::Channel(channel.to_owned());
        self.outbox.push(to, bytes);
    }

    /// Sends and receives until it is dropped. What comes in is held to `max_payload`
    /// bytes; Socket.IO servers are heard in these namespaces.
    pub async fn run(
        self: Arc<Self>,
        driver: impl Driver,
        queue: Queue,
        max_payload: usize,
        namespaces: &[Arc<str>],
        deliver: impl Fn(Incoming<'_>) + Send + Sync + 'static,
    ) {
        let receiver = Receiver::new(
            (&self.prefix, &self.process, self.tag),
            (&self.adapter, namespaces),
            self.channels.clone(),
            self.counters.clone(),
            max_payload,
            Box::new(deliver),
        );
        tokio::join!(queue.send_all(&driver), receiver.receive_all(&driver));
    }
}

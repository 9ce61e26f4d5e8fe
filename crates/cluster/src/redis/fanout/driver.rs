//! What the fan-out asks of pub/sub. [`RedisDriver`](super::RedisDriver) asks a server;
//! a test asks nobody.

use std::future::Future;
use std::sync::Arc;

use redis::{RedisError, RedisResult};
use tokio::time::Instant;

use crate::registry::UserName;

/// Who is to have a publication.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Recipients {
    /// Subscribers of a room's channel, which belongs to one shard of a Redis Cluster.
    Room(String),
    /// Subscribers of a channel that all shards know.
    Channel(String),
    /// Processes that hold sockets of this user, but not this one.
    User(UserName),
}

/// A publication on its way out.
#[derive(Debug, Clone)]
pub struct Outgoing {
    /// Who is to have it.
    pub to: Recipients,
    /// What they are to have.
    pub bytes: Vec<u8>,
    /// When it was published.
    pub at: Instant,
    /// Its number, by which others notice its loss, and that they have had it; `None`: they do not.
    pub number: Option<u64>,
}

/// A batch was not sent, or only a part of it, or nobody knows.
#[derive(Debug)]
pub struct Unsent {
    /// Why.
    pub error: RedisError,
    /// Some of it, or all, may have been sent.
    pub is_begun: bool,
}

/// What a subscriber hears.
#[derive(Debug)]
pub enum Heard {
    /// By a channel that was subscribed to by its name.
    Message {
        /// The channel.
        channel: Vec<u8>,
        /// What was published there.
        payload: Vec<u8>,
    },
    /// By a channel that one of the patterns is right for.
    Matched {
        /// The channel.
        channel: Vec<u8>,
        /// What was published there.
        payload: Vec<u8>,
    },
    /// A room's channel is not subscribed to any more: this node has asked for that, or the
    /// server has had to.
    Unsubscribed {
        /// The channel.
        channel: Vec<u8>,
    },
    /// The connection has ended.
    Ended,
}

/// What a subscriber does with it; it must not block.
pub type Listener = Arc<dyn Fn(Heard) + Send + Sync>;

/// A way to publish and to subscribe.
///
/// It may lose what is published while a subscriber is cut off. What it does not lose,
/// it brings in the order in which one node has sent it to one channel.
pub trait Driver: Send + Sync + 'static {
    /// A connection that listens.
    type Link: Link;

    /// Sends in the order of `batch`, and answers within a few seconds.
    ///
    /// # Errors
    /// When some may not have been sent: the caller sends again what may be heard twice.
    fn send(&self, batch: &[Outgoing]) -> impl Future<Output = Result<(), Unsent>> + Send;

    /// Connects; what is heard there, and its end, goes to `listener`.
    ///
    /// # Errors
    /// When it cannot.
    fn listen(&self, listener: Listener) -> impl Future<Output = RedisResult<Self::Link>> + Send;
}

/// A connection that listens, until it is dropped. An error says that it is of no use any
/// more.
pub trait Link: Send {
    /// Subscribes to channels that all shards know, and to patterns of their names.
    ///
    /// # Errors
    /// When the connection has ended.
    fn listen_always(
        &mut self,
        channels: &[String],
        patterns: &[String],
    ) -> impl Future<Output = RedisResult<()>> + Send;

    /// Subscribes to rooms' channels: what is published there after this is heard.
    ///
    /// # Errors
    /// When the connection has ended.
    fn subscribe(&mut self, rooms: &[Arc<str>]) -> impl Future<Output = RedisResult<()>> + Send;

    /// Unsubscribes from rooms' channels.
    ///
    /// # Errors
    /// When the connection has ended.
    fn unsubscribe(&mut self, rooms: &[Arc<str>]) -> impl Future<Output = RedisResult<()>> + Send;

    /// Asks whether the other side is there.
    ///
    /// # Errors
    /// When it does not answer in time.
    fn ping(&mut self) -> impl Future<Output = RedisResult<()>> + Send;
}

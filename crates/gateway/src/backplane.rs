//! What nodes have to agree on: who is connected, and which device may stay.
//!
//! The gateway asks a [`Backplane`] and never looks at presence itself, so a
//! node alone and a node of a cluster run the same code. [`LocalBackplane`] is
//! the node alone.

use std::sync::{Arc, OnceLock};

use crate::auth::{BoxFuture, UserKey};
use crate::engine::Clock;
use crate::entries::UserPresence;
use crate::presence::{Admitted, DeviceLimitReached, EdgeSink, Newcomer, Presence, SocketAddress};

/// Presence and devices, on this node or across a cluster.
pub trait Backplane: Send + Sync + 'static {
    /// Called once, before anything else: edges are to be told to `sink`.
    fn attach(&self, sink: EdgeSink);

    /// Registers a socket and applies its namespace's device policy, as one
    /// step: of two newcomers that race, the later sees the earlier.
    fn connect(&self, newcomer: Newcomer) -> BoxFuture<Result<Admitted, DeviceLimitReached>>;

    /// A socket is gone, or was admitted too late to live.
    fn disconnect(&self, user: &Arc<UserKey>, socket: SocketAddress);

    /// Presence of many users at once, in the order asked.
    fn presence(
        &self,
        tenant: Option<Arc<str>>,
        users: Vec<String>,
    ) -> BoxFuture<Vec<UserPresence>>;

    /// The users of this node.
    fn local(&self) -> &Presence;
}

/// One node on its own.
pub struct LocalBackplane {
    presence: Arc<OnceLock<Presence>>,
    grace: u64,
    clock: Clock,
}

impl LocalBackplane {
    pub(crate) fn new(grace: std::time::Duration, clock: Clock) -> Self {
        LocalBackplane {
            presence: Arc::default(),
            grace: grace.as_micros() as u64,
            clock,
        }
    }
}

impl Backplane for LocalBackplane {
    fn attach(&self, sink: EdgeSink) {
        let _ = self.presence.set(Presence::new(self.grace, sink));
    }

    fn connect(&self, newcomer: Newcomer) -> BoxFuture<Result<Admitted, DeviceLimitReached>> {
        let at = self.clock.unix_millis(self.clock.now());
        Box::pin(std::future::ready(self.local().connect(newcomer, at)))
    }

    fn disconnect(&self, user: &Arc<UserKey>, socket: SocketAddress) {
        let now = self.clock.now();
        self.local()
            .disconnect(user, socket, now, self.clock.unix_millis(now));
    }

    fn presence(
        &self,
        tenant: Option<Arc<str>>,
        users: Vec<String>,
    ) -> BoxFuture<Vec<UserPresence>> {
        let now = self.clock.unix_millis(self.clock.now());
        let local = self.local();
        let found = users
            .iter()
            .map(|user| local.get(tenant.as_deref(), user, now))
            .collect();
        Box::pin(std::future::ready(found))
    }

    fn local(&self) -> &Presence {
        self.presence
            .get()
            .expect("a gateway attaches its backplane before it uses it")
    }
}

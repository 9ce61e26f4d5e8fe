//! One node on its own.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use heartline_engine::clock::Clock;

use super::{Backplane, Node};
use crate::auth::{BoxFuture, UserKey};
use crate::entries::UserPresence;
use crate::presence::{
    Admitted, DeviceLimitReached, Edge, Newcomer, Place, Presence, SocketAddress,
};

/// One node on its own.
pub struct LocalBackplane {
    presence: Arc<OnceLock<Presence>>,
    grace: u64,
    clock: Clock,
}

impl LocalBackplane {
    pub(crate) fn new(grace: Duration, clock: Clock) -> Self {
        LocalBackplane {
            presence: Arc::default(),
            grace: grace.as_micros() as u64,
            clock,
        }
    }
}

impl Backplane for LocalBackplane {
    fn attach(&self, node: Arc<dyn Node>) {
        let sink = move |edge: &Edge| node.announce(vec![edge.clone()]);
        let _ = self.presence.set(Presence::new(self.grace, Box::new(sink)));
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

    fn enter_room(&self, user: &Arc<UserKey>, socket: SocketAddress, place: Place) {
        let at = self.clock.unix_millis(self.clock.now());
        self.local().enter_room(user, socket, place, at);
    }

    fn leave_room(&self, user: &Arc<UserKey>, socket: SocketAddress, place: &Place) {
        self.local().leave_room(user, socket, place);
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

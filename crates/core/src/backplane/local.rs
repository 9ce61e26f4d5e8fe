//! One node on its own.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use super::{Backplane, Node};
use crate::auth::{BoxFuture, UserKey};
use crate::entries::UserPresence;
use crate::presence::{
    Admitted, DeviceLimitReached, Edge, Newcomer, Presence, RoomAddress, SocketAddress,
};
use crate::time::{Moment, Now};

/// One node on its own.
pub struct LocalBackplane {
    presence: Arc<OnceLock<Presence>>,
    grace: Duration,
    now: Now,
}

impl LocalBackplane {
    /// A user stays online for `grace` after the last socket went. `now` tells the time of
    /// what happens.
    pub fn new(grace: Duration, now: Now) -> Self {
        LocalBackplane {
            presence: Arc::default(),
            grace,
            now,
        }
    }
}

impl Backplane for LocalBackplane {
    fn attach(&self, node: Arc<dyn Node>) {
        let sink = move |edge: &Edge| node.announce(vec![edge.clone()]);
        let _ = self.presence.set(Presence::new(self.grace, Box::new(sink)));
    }

    fn connect(&self, newcomer: Newcomer) -> BoxFuture<Result<Admitted, DeviceLimitReached>> {
        let at = (self.now)().unix_millis;
        Box::pin(std::future::ready(self.local().connect(newcomer, at)))
    }

    fn disconnect(&self, user: &Arc<UserKey>, socket: SocketAddress, keep: Duration) {
        let Moment { at, unix_millis } = (self.now)();
        if !keep.is_zero() {
            self.local().expect_back(user, at + keep);
        }
        self.local().disconnect(user, socket, at, unix_millis);
    }

    fn enter_room(&self, user: &Arc<UserKey>, socket: SocketAddress, place: RoomAddress) {
        let at = (self.now)().unix_millis;
        self.local().enter_room(user, socket, place, at);
    }

    fn leave_room(&self, user: &Arc<UserKey>, socket: SocketAddress, place: &RoomAddress) {
        self.local().leave_room(user, socket, place);
    }

    fn presence(
        &self,
        tenant: Option<Arc<str>>,
        users: Vec<String>,
    ) -> BoxFuture<Vec<UserPresence>> {
        let now = (self.now)().unix_millis;
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

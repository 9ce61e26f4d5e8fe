//! The device policy: who may stay when one more comes.

use std::sync::Arc;
use std::time::Duration;

use hashbrown::HashMap;
use heartline_wire::time::Micros;

use crate::auth::UserKey;
use crate::policy::{DevicePolicy, OnExcess};
use crate::presence::address::SocketAddress;
use crate::presence::scope::Scope;

/// A newcomer.
#[derive(Debug, Clone)]
pub struct Newcomer {
    /// Whose socket.
    pub user: Arc<UserKey>,
    /// Which.
    pub socket: SocketAddress,
    /// On which device.
    pub device_id: Option<Arc<str>>,
    /// What its namespace allows.
    pub policy: DevicePolicy,
    /// How many sockets its user may have, whatever the policy.
    pub max_sockets: usize,
    /// The socket with which its client goes on, or whose place on the same connection it takes:
    /// that one is over, whether or not the node that had it has said so, and counts no more.
    pub instead_of: Option<SocketAddress>,
    /// The name that it keeps of the socket with which its client goes on, if it has one beside its
    /// own: others know it by that.
    pub known_as: Option<SocketAddress>,
}

/// What letting a newcomer in means for others.
#[derive(Debug, Clone, Default)]
pub struct Admitted {
    /// Others have to go, wherever they are, and do as soon as the backplane is told that the
    /// newcomer is there ([`established`](crate::backplane::Backplane::established)).
    pub reserved: bool,
    /// Sockets whose place was taken: a newer one of the same device, or of the
    /// same user under `replace`.
    pub replaced: Vec<SocketAddress>,
    /// Sockets that went so that the newcomer fits under the limit.
    pub evicted: Vec<SocketAddress>,
}

/// Sockets that lost their places and have not gone yet, each with the one it goes for.
#[derive(Debug, Default)]
pub(super) struct Going(HashMap<SocketAddress, SocketAddress>);

impl Going {
    pub(super) fn includes(&self, socket: &SocketAddress) -> bool {
        self.0.contains_key(socket)
    }

    /// A socket has gone. Those who were to go for it stay.
    pub(super) fn end(&mut self, socket: SocketAddress) {
        if !self.0.is_empty() {
            self.0.remove(&socket);
            self.0.retain(|_, newcomer| *newcomer != socket);
        }
        if self.0.is_empty() {
            self.0.shrink_to_fit();
        }
    }
}

/// The device limit is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DeviceLimitReached {
    /// Set where a place is held by a node that may be dead: when it makes sense to try again.
    pub retry_after: Option<Duration>,
}

#[derive(Debug)]
pub(super) struct Entry {
    pub(super) socket: SocketAddress,
    /// When it connected, in units of [`SINCE_UNIT`]; fills what would be padding.
    pub(super) since: u32,
    pub(super) device_id: Option<Arc<str>>,
}

impl User {
    /// Applies the device rules: who has to go for the newcomer. They are in `going` from then
    /// on, and stay in the table until they have gone.
    pub(super) fn make_room(
        &self,
        socket: &SocketAddress,
        device: Option<&Arc<str>>,
        policy: DevicePolicy,
        max_sockets: usize,
        instead_of: Option<SocketAddress>,
        going: &mut Going,
    ) -> Result<Admitted, DeviceLimitReached> {
        let is_over = |entry: &Entry| Some(entry.socket) == instead_of;
        let here =
            |entry: &&Entry| entry.socket.namespace() == socket.namespace() && !is_over(entry);
        let same = |entry: &Entry| device.is_some() && entry.device_id.as_ref() == device;
        let stays = |entry: &Entry| !going.0.contains_key(&entry.socket);
        let others = self
            .sockets
            .iter()
            .filter(here)
            .filter(|entry| !same(entry) && stays(entry))
            .count();
        let mut admitted = Admitted::default();
        let mut excess = 0;
        if let DevicePolicy::Limit { max, on_excess } = policy {
            excess = (others + 1).saturating_sub(max.max(1));
            if excess > 0 && on_excess == OnExcess::Reject {
                return Err(DeviceLimitReached::default());
            }
        }
        for entry in self.sockets.iter().filter(here) {
            if same(entry) || policy == DevicePolicy::Replace {
                // Also one that is going for another newcomer, who may not live to see it.
                admitted.replaced.push(entry.socket);
            } else if excess > 0 && stays(entry) {
                excess -= 1;
                admitted.evicted.push(entry.socket);
            }
        }
        if self.sockets.len() >= max_sockets {
            let stay = self.sockets.iter();
            let stay = stay.filter(|entry| stays(entry) && !is_over(entry)).count();
            let go = admitted.replaced.iter().chain(&admitted.evicted);
            let go = go.filter(|old| !going.includes(old)).count();
            if stay + 1 > max_sockets + go {
                return Err(DeviceLimitReached::default());
            }
        }
        for &old in admitted.replaced.iter().chain(&admitted.evicted) {
            going.0.insert(old, *socket);
        }
        Ok(admitted)
    }
}

#[derive(Debug)]
pub(super) struct User {
    pub(super) key: Arc<UserKey>,
    /// Oldest first.
    pub(super) sockets: Vec<Entry>,
    /// When the grace of a user without sockets is over. With sockets: until when it has
    /// one at least, because one that went was told to come back.
    pub(super) grace: Option<Micros>,
    /// The number of the change by which it came online.
    pub(super) rev: u64,
    /// Only where presence is told to rooms.
    pub(super) scope: Option<Box<Scope>>,
}

//! The device policy: who may stay when one more comes.

use std::sync::Arc;

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
}

/// What letting a newcomer in means for others.
#[derive(Debug, Clone, Default)]
pub struct Admitted {
    /// Sockets whose place was taken: a newer one of the same device, or of the
    /// same user under `replace`.
    pub replaced: Vec<SocketAddress>,
    /// Sockets that went so that the newcomer fits under the limit.
    pub evicted: Vec<SocketAddress>,
}

/// The device limit is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeviceLimitReached;

#[derive(Debug)]
pub(super) struct Entry {
    pub(super) socket: SocketAddress,
    /// When it connected, in units of [`SINCE_UNIT`]; fills what would be padding.
    pub(super) since: u32,
    pub(super) device_id: Option<Arc<str>>,
}

impl User {
    /// Applies the device rules; takes out whoever has to go.
    pub(super) fn make_room(
        &mut self,
        socket: &SocketAddress,
        device: Option<&Arc<str>>,
        policy: DevicePolicy,
    ) -> Result<Admitted, DeviceLimitReached> {
        let here = |entry: &Entry| entry.socket.namespace() == socket.namespace();
        let same = |entry: &Entry| device.is_some() && entry.device_id.as_ref() == device;
        let others = self
            .sockets
            .iter()
            .filter(|entry| here(entry) && !same(entry))
            .count();
        let mut admitted = Admitted::default();
        let mut excess = 0;
        if let DevicePolicy::Limit { max, on_excess } = policy {
            excess = (others + 1).saturating_sub(max.max(1));
            if excess > 0 && on_excess == OnExcess::Reject {
                return Err(DeviceLimitReached);
            }
        }
        self.sockets.retain(|entry| {
            if !here(entry) {
                return true;
            }
            if same(entry) || policy == DevicePolicy::Replace {
                admitted.replaced.push(entry.socket);
                return false;
            }
            if excess > 0 {
                excess -= 1;
                admitted.evicted.push(entry.socket);
                return false;
            }
            true
        });
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
    /// Only where presence is told to rooms.
    pub(super) scope: Option<Box<Scope>>,
}

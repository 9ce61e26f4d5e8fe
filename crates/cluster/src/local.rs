//! This node's table of sockets, as a member of the cluster sees it: names of the
//! registry on one side, users and sockets of the gateway on the other.

use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::time::Duration;

use heartline_core::backplane::Node;
use heartline_core::policy::{DevicePolicy, OnExcess};
use heartline_core::presence::{Edge, Presence, RoomAddress, SocketAddress};
use heartline_wire::reason::Reason;

use crate::locked::locked;
use crate::member::Local;
use crate::names;
use crate::registry::{
    self, DevicesChange, Displaced, DisplacedBy, Entry, Millis, Policy, RoomName, TypedUser,
};
use crate::replica::Replica;

/// This node's table of sockets as the member sees it.
pub(crate) struct Table {
    /// The node; not there before the gateway is built.
    node: OnceLock<Arc<dyn Node>>,
    presence: Presence,
    replica: Mutex<Replica>,
}

impl Table {
    /// The table of a node whose gateway is not built yet, without sockets.
    pub(crate) fn new() -> Table {
        Table {
            node: OnceLock::new(),
            presence: Presence::of_one_node_of_many(),
            replica: Mutex::new(Replica::new()),
        }
    }

    /// The gateway is built.
    pub(crate) fn attach(&self, node: Arc<dyn Node>) {
        // It is built once.
        let _ = self.node.set(node);
    }

    /// Presence as this node alone knows it.
    pub(crate) fn presence(&self) -> &Presence {
        &self.presence
    }

    /// What is known of users without asking.
    pub(crate) fn replica(&self) -> MutexGuard<'_, Replica> {
        locked(&self.replica)
    }

    /// The node's clock, in milliseconds since 1970; 0 before the gateway is built.
    pub(crate) fn now(&self) -> Millis {
        self.node.get().map_or(0, |node| node.unix_millis())
    }

    /// A socket's namespace; `None` if this node has no such socket.
    pub(crate) fn namespace(&self, socket: &SocketAddress) -> Option<Arc<str>> {
        self.node.get()?.namespace(socket)
    }

    /// A socket as the registry has it, without rooms; `None` if this node has no such
    /// socket.
    pub(crate) fn entry(
        &self,
        socket: SocketAddress,
        device: Option<&Arc<str>>,
        since: Millis,
    ) -> Option<Entry> {
        let node = self.node.get()?;
        let namespace = node.namespace(&socket)?;
        Some(Entry {
            socket: socket.id().into(),
            policy: policy(node.device_policy(&socket)?),
            namespace,
            device: device.cloned().unwrap_or_default(),
            since,
            rooms: Vec::new(),
        })
    }
}

fn policy(policy: DevicePolicy) -> Policy {
    match policy {
        DevicePolicy::Unlimited => Policy::Unlimited,
        DevicePolicy::Replace => Policy::Replace,
        DevicePolicy::Limit { max, on_excess } => {
            let max = u32::try_from(max).unwrap_or(u32::MAX);
            match on_excess {
                OnExcess::Reject => Policy::Limit(max),
                OnExcess::EvictOldest => Policy::Evict(max),
            }
        }
    }
}

fn reason(why: DisplacedBy) -> Reason {
    match why {
        DisplacedBy::Replaced => Reason::Replaced,
        DisplacedBy::Limit => Reason::DeviceLimit,
    }
}

impl Local for Table {
    fn users(&self) -> Vec<TypedUser> {
        let mut users = Vec::new();
        self.presence
            .each_user(|user| users.push(names::typed_user(user)));
        users
    }

    fn entries(&self, who: &TypedUser) -> Vec<Entry> {
        let Some(user) = names::user_key(who) else {
            return Vec::new();
        };
        let mut entries = Vec::new();
        self.presence
            .each_socket(&user, self.now(), |socket, device, since| {
                entries.extend(self.entry(socket, device, since));
            });
        for (socket, place) in self.presence.rooms(&user) {
            let id = socket.id();
            let entry = entries.iter_mut().find(|entry| *entry.socket == *id);
            if let Some(entry) = entry {
                entry.rooms.push(names::room_name(&place));
            }
        }
        entries
    }

    fn has(&self, who: &TypedUser, socket: &str) -> bool {
        let (Some(user), Some(socket)) = (names::user_key(who), SocketAddress::parse(socket))
        else {
            return false;
        };
        let mut there = false;
        self.presence
            .each_socket(&user, self.now(), |one, _, _| there |= one == socket);
        there
    }

    fn replace(&self, displaced: &Displaced) {
        if let (Some(node), Some(socket)) =
            (self.node.get(), SocketAddress::parse(&displaced.socket))
        {
            let device = Some(&displaced.device).filter(|device| !device.is_empty());
            node.replace(
                socket,
                reason(displaced.why),
                device.cloned(),
                &displaced.node,
            );
        }
    }

    fn is_user(&self, who: &TypedUser) -> bool {
        names::user_key(who).is_some()
    }

    fn missed_edges(&self) {
        self.replica().forget();
        if let Some(node) = self.node.get() {
            node.missed_edges();
        }
    }

    fn is_asked(&self) -> bool {
        self.replica().is_asked(self.now())
    }

    fn heard_until(&self, ago: Duration) {
        let now = self.now();
        let until = now.saturating_sub(ago.as_millis() as Millis);
        self.replica().read_up_to(until, now);
    }

    fn note_devices(&self, changes: &[DevicesChange], missed: bool) {
        let mut replica = self.replica();
        if missed {
            replica.forget_devices();
        }
        replica.note_devices(changes);
    }

    fn announce(&self, edges: &[(u64, registry::Edge)]) {
        // Before anybody hears of it: who then asks is not answered what was before.
        self.replica().hear(edges);
        let Some(node) = self.node.get() else {
            return;
        };
        let known = edges.iter().filter_map(|(number, edge)| {
            Some(Edge {
                user: Arc::new(names::user_key(&edge.who)?),
                online: edge.online,
                rev: edge.rev,
                at: edge.at,
                number: *number,
                rooms: places(&edge.rooms).collect(),
                others: edge.others.as_deref().map(|rooms| places(rooms).collect()),
            })
        });
        node.announce(known.collect());
    }
}

fn places(rooms: &[RoomName]) -> impl Iterator<Item = RoomAddress> {
    rooms.iter().filter_map(|room| names::place(room))
}

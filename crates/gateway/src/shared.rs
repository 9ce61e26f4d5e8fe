//! What all shards and handles of a gateway have in common, and the ways by
//! which something reaches other sockets: a room, a user, a namespace.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use hashbrown::HashMap;
use tokio::sync::watch;

use crate::announcer::Announcer;
use crate::auth::{Authenticator, Identity, UserKey};
use crate::backplane::{Action, Backplane, Target};
use crate::config::{Announce, Config, ConnectLimit, Limit, NamespaceConfig};
use crate::engine::Clock;
use crate::engine::http::ConnectLimiter;
use crate::engine::outbound::ConflationKey;
use crate::engine::shard::{Door, Post};
use crate::engine::slots::ConnectionSlots;
use crate::handler::Handlers;
use crate::hub::select::{Deed, Places, Selection};
use crate::hub::{Hub, Op};
use crate::intern::Interner;
use crate::metrics::Metrics;
use crate::peers::Peers;
use crate::presence::{Edge, Place, SocketAddress};
use crate::publication::{Message, NsId, Publication};
use crate::rate_limit::{KeyedLimiter, Verdict};
use crate::rooms::{PRIVATE, Room, RoomDirectory, RoomRef};
use crate::socket::Socket;
use crate::store::MessageStore;

/// Changes of presence in one write: a bound on what a client has to take at once.
const MAX_BREATH: usize = 256;

/// A user's sockets in a namespace.
pub(crate) struct ToUser<'a> {
    pub(crate) namespace: NsId,
    pub(crate) tenant: Option<&'a str>,
    pub(crate) user: &'a str,
    /// Only this type of user.
    pub(crate) only: Option<&'a UserKey>,
    /// The room as which clients know it.
    pub(crate) topic: Option<&'a str>,
    /// Not those in this room.
    pub(crate) unless_in: Option<&'a str>,
}

/// A namespace that exists.
pub(crate) struct Namespace {
    pub(crate) name: Arc<str>,
    pub(crate) config: NamespaceConfig,
}

/// Whose messages are counted together.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Sender {
    User(Arc<UserKey>),
    Socket(crate::presence::SocketAddress),
}

/// What all shards and handles of a gateway have in common.
pub(crate) struct Shared {
    pub(crate) config: Config,
    pub(crate) clock: Clock,
    pub(crate) namespaces: Vec<Namespace>,
    pub(crate) handlers: Handlers,
    pub(crate) authenticator: Arc<dyn Authenticator>,
    pub(crate) backplane: Arc<dyn Backplane>,
    pub(crate) store: Arc<dyn MessageStore>,
    pub(crate) rooms: Arc<RoomDirectory>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) messages: KeyedLimiter<Sender>,
    pub(crate) connects: Arc<KeyedLimiter<IpAddr>>,
    pub(crate) tenants: Interner,
    pub(crate) user_agents: Interner,
    pub(crate) anonymous: Arc<Identity>,
    pub(crate) slots: Arc<ConnectionSlots>,
    pub(crate) draining: watch::Sender<bool>,
    pub(crate) doors: Vec<Door<Hub>>,
    /// Tells this run's rooms from another's.
    pub(crate) run: u32,
    pub(crate) announcer: Arc<Announcer>,
    /// `server.node_id`.
    pub(crate) node_id: Arc<str>,
    pub(crate) peers: Peers,
}

/// Bytes of payload that something in a mailbox holds: arguments, attachments, keys.
/// A publication to many shards or sockets counts in each of their posts, though it is
/// there once: reading stops too early rather than too late.
fn payload(op: &Op) -> usize {
    match op {
        Op::Emit { message, .. } | Op::EmitWithAck { message, .. } => message.size(),
        Op::Ack { args, .. } => args.size(),
        Op::Send { publication, .. }
        | Op::Deliver { publication, .. }
        | Op::Broadcast { publication, .. }
        | Op::DeliverAround { publication, .. }
        | Op::Select {
            deed: Deed::Send(publication),
            ..
        } => publication.size(),
        _ => 0,
    }
}

impl Shared {
    pub(crate) fn post(&self, shard: u16, op: Op) {
        if let Some(door) = self.doors.get(usize::from(shard)) {
            let bytes = payload(&op);
            door.push_with(Post::App(op), bytes);
        }
    }

    /// The same for all shards.
    fn post_to_all(&self, op: impl Fn() -> Op) {
        for shard in 0..self.shards() {
            self.post(shard, op());
        }
    }

    /// Whether any shard has more to work off than it should.
    pub(crate) fn is_overloaded(&self) -> bool {
        self.doors.iter().any(|door| door.is_high())
    }

    pub(crate) fn namespace_id(&self, name: &str) -> Option<NsId> {
        self.namespaces
            .iter()
            .position(|namespace| *namespace.name == *name)
            .map(|index| index as NsId)
    }

    pub(crate) fn is_draining(&self) -> bool {
        *self.draining.borrow()
    }

    /// Over how many milliseconds drained clients should come back: one for
    /// each connection, between 2 s and 60 s.
    pub(crate) fn reconnect_spread_ms(&self) -> u64 {
        (self.slots.total() as u64).clamp(2_000, 60_000)
    }

    /// The epoch of a room's incarnation: offsets of different epochs do not compare.
    pub(crate) fn epoch(&self, incarnation: u64) -> String {
        format!("{:08x}-{incarnation:x}", self.run)
    }

    fn namespace_name(&self, namespace: NsId) -> &Arc<str> {
        &self.namespaces[usize::from(namespace)].name
    }

    /// Gives a publication to the members of a room, on all nodes. Its offset, if the
    /// room has members here.
    pub(crate) fn publish_to_room(
        &self,
        namespace: NsId,
        tenant: Option<&str>,
        name: &str,
        message: Message,
        key: Option<&str>,
    ) -> Option<u64> {
        if let Some(user) = name.strip_prefix(PRIVATE) {
            let to = ToUser {
                namespace,
                tenant,
                user,
                only: None,
                topic: Some(name),
                unless_in: None,
            };
            self.send_to_user(&to, message);
            return None;
        }
        let target = Target::Room {
            namespace: self.namespace_name(namespace),
            tenant,
            room: name,
            key,
        };
        self.backplane.publish(&target, &message);
        self.publish_here(namespace, tenant, name, message, key)
    }

    fn publish_here(
        &self,
        namespace: NsId,
        tenant: Option<&str>,
        name: &str,
        message: Message,
        key: Option<&str>,
    ) -> Option<u64> {
        let room = self.rooms.find(&RoomRef {
            namespace,
            tenant,
            name,
        })?;
        let offset = room.publish(
            |offset| {
                let conflate = key.map(|key| ConflationKey {
                    room: room.incarnation,
                    key: key.into(),
                });
                let name = self.namespace_name(namespace).clone();
                let topic = Some(room.key.name.clone());
                (
                    offset,
                    Arc::new(Publication::new(
                        name,
                        message,
                        topic,
                        Some(offset),
                        conflate,
                    )),
                )
            },
            |shard, (offset, publication)| {
                let op = Op::Deliver {
                    room: room.clone(),
                    offset: *offset,
                    publication: publication.clone(),
                };
                self.post(shard as u16, op);
            },
        );
        Some(offset)
    }

    /// Gives a message to a user's sockets, on all nodes; to how many here.
    pub(crate) fn send_to_user(&self, to: &ToUser<'_>, message: Message) -> usize {
        let target = Target::User {
            namespace: self.namespace_name(to.namespace),
            tenant: to.tenant,
            user: to.user,
            user_type: to.only.map(|only| only.user_type.as_deref()),
            topic: to.topic,
            unless_in: to.unless_in,
        };
        self.backplane.publish(&target, &message);
        self.send_here(to, message)
    }

    fn send_here(&self, to: &ToUser<'_>, message: Message) -> usize {
        let ToUser {
            namespace,
            tenant,
            user,
            only,
            topic,
            unless_in,
        } = *to;
        let name = self.namespace_name(namespace).clone();
        let topic = topic.map(Into::into);
        let publication = Arc::new(Publication::new(name, message, topic, None, None));
        let unless_in: Option<Arc<str>> = unless_in.map(Into::into);
        let mut sockets = self.backplane.local().sockets(tenant, user, only);
        sockets.retain(|socket| socket.namespace() == namespace);
        for &to in &sockets {
            let op = Op::Send {
                to,
                publication: publication.clone(),
                unless_in: unless_in.clone(),
            };
            self.post(to.0.conn.shard, op);
        }
        sockets.len()
    }

    /// Gives a message to all sockets of a namespace and tenant, on all nodes.
    pub(crate) fn broadcast(&self, namespace: NsId, tenant: Option<Arc<str>>, message: Message) {
        let target = Target::All {
            namespace: self.namespace_name(namespace),
            tenant: tenant.as_deref(),
        };
        self.backplane.publish(&target, &message);
        self.broadcast_here(namespace, tenant, message);
    }

    fn broadcast_here(&self, namespace: NsId, tenant: Option<Arc<str>>, message: Message) {
        let name = self.namespace_name(namespace).clone();
        let publication = Arc::new(Publication::new(name, message, None, None, None));
        self.post_to_all(|| Op::Broadcast {
            namespace,
            tenant: tenant.clone(),
            publication: publication.clone(),
            about: None,
        });
    }

    /// Gives a publication of another node to those here whom it is for.
    pub(crate) fn deliver(&self, target: &Target<'_>, message: Message) {
        let (Target::Room { namespace, .. }
        | Target::All { namespace, .. }
        | Target::User { namespace, .. }) = *target;
        // Nodes of another configuration may know more namespaces.
        let Some(namespace) = self.namespace_id(namespace) else {
            return;
        };
        match *target {
            Target::Room {
                tenant, room, key, ..
            } => {
                self.publish_here(namespace, tenant, room, message, key);
            }
            Target::All { tenant, .. } => {
                self.broadcast_here(namespace, tenant.map(Into::into), message);
            }
            Target::User {
                tenant,
                user,
                user_type,
                topic,
                unless_in,
                ..
            } => {
                let only = user_type.map(|user_type| UserKey {
                    tenant_id: tenant.map(Into::into),
                    user_id: user.into(),
                    user_type: user_type.map(Into::into),
                });
                let to = ToUser {
                    namespace,
                    tenant,
                    user,
                    only: only.as_ref(),
                    topic,
                    unless_in,
                };
                self.send_here(&to, message);
            }
        }
    }

    /// Does something to sockets of this node that are chosen by their rooms.
    pub(crate) fn select(
        &self,
        namespace: &str,
        rooms: &[String],
        except: &[String],
        action: Action,
    ) {
        let Some(namespace) = self.namespace_id(namespace) else {
            return;
        };
        let selection = Arc::new(Selection {
            namespace,
            all: rooms.is_empty(),
            among: self.places(namespace, rooms),
            except: self.places(namespace, except),
        });
        let action = match action {
            Action::Emit(message) => {
                let name = self.namespace_name(namespace).clone();
                Deed::Send(Arc::new(Publication::new(name, message, None, None, None)))
            }
            Action::Join(rooms) => Deed::Join(rooms.into()),
            Action::Leave(rooms) => Deed::Leave(rooms.into()),
            Action::Disconnect => Deed::Disconnect,
        };
        self.post_to_all(|| Op::Select {
            selection: selection.clone(),
            deed: action.clone(),
        });
    }

    /// Rooms and sockets by the names that Socket.IO has for both.
    fn places(&self, namespace: NsId, names: &[String]) -> Places {
        let mut places = Places::default();
        for name in names {
            if let Some(user) = name.strip_prefix(PRIVATE) {
                let sockets = self.backplane.local().sockets(None, user, None);
                places.sockets.extend(sockets);
            } else if let Some(socket) = SocketAddress::parse(name) {
                places.sockets.push(socket);
            }
            places.rooms.extend(self.rooms.find(&RoomRef {
                namespace,
                tenant: None,
                name,
            }));
        }
        places
    }

    // --- presence --------------------------------------------------------

    fn edge_message(user: &UserKey, online: bool, at: u64) -> Message {
        let data = serde_json::json!({
            "userId": &*user.user_id,
            "userType": user.user_type.as_deref(),
            "at": at,
        });
        let event = if online {
            "user:online"
        } else {
            "user:offline"
        };
        Message::new(event, &data.to_string())
    }

    /// Tells those here who are to know of changes of presence: everybody but the
    /// user's own sockets.
    pub(crate) fn announce(&self, edges: &[Edge]) {
        let mut tenants: HashMap<Option<&Arc<str>>, Vec<&Edge>> = HashMap::new();
        for edge in edges.iter().filter(|edge| edge.others.is_none()) {
            let tenant = edge.user.tenant_id.as_ref();
            tenants.entry(tenant).or_default().push(edge);
        }
        for (index, namespace) in self.namespaces.iter().enumerate() {
            let id = index as NsId;
            match namespace.config.announce {
                Announce::Namespace => {
                    for (tenant, edges) in &tenants {
                        for edges in edges.chunks(MAX_BREATH) {
                            self.announce_some(id, &namespace.name, *tenant, edges);
                        }
                    }
                }
                Announce::Rooms => {
                    for edge in edges {
                        self.announce_around(id, &namespace.name, edge);
                    }
                }
                Announce::Off => {}
            }
        }
    }

    fn announce_some(
        &self,
        namespace: NsId,
        name: &Arc<str>,
        tenant: Option<&Arc<str>>,
        edges: &[&Edge],
    ) {
        let messages = edges
            .iter()
            .map(|edge| Shared::edge_message(&edge.user, edge.online, edge.at))
            .collect();
        let publication = Arc::new(Publication::of_many(name.clone(), messages));
        let about: Arc<[Arc<UserKey>]> = edges.iter().map(|edge| edge.user.clone()).collect();
        self.post_to_all(|| Op::Broadcast {
            namespace,
            tenant: tenant.cloned(),
            publication: publication.clone(),
            about: Some(about.clone()),
        });
    }

    /// Tells the members of the rooms that a change concerns.
    fn announce_around(&self, namespace: NsId, name: &Arc<str>, edge: &Edge) {
        let find = |places: &[Place]| -> Vec<Arc<Room>> {
            let here = places.iter().filter(|place| place.namespace == *name);
            here.filter_map(|place| {
                self.rooms.find(&RoomRef {
                    namespace,
                    tenant: edge.user.tenant_id.as_deref(),
                    name: &place.room,
                })
            })
            .collect()
        };
        let rooms = find(&edge.rooms);
        if rooms.is_empty() {
            return;
        }
        let except = edge.others.as_deref().map(find).unwrap_or_default();
        let message = Shared::edge_message(&edge.user, edge.online, edge.at);
        let publication = Arc::new(Publication::new(name.clone(), message, None, None, None));
        self.post_to_all(|| Op::DeliverAround {
            user: edge.user.clone(),
            rooms: rooms.clone(),
            except: except.clone(),
            publication: publication.clone(),
        });
    }

    // --- limits ----------------------------------------------------------

    /// Whether a sender may send one more message; else after how many
    /// milliseconds, and how many refusals in a row that makes.
    pub(crate) fn take_message(&self, socket: &Socket) -> Result<(), (u64, u32)> {
        let namespace = usize::from(socket.address().namespace());
        let Some(limit) = self.namespaces[namespace].config.limits.messages else {
            return Ok(());
        };
        let sender = match &socket.identity.user {
            Some(user) => Sender::User(user.clone()),
            None => Sender::Socket(socket.address()),
        };
        match self.messages.take(sender, limit, self.clock.now()) {
            Verdict::Allowed => Ok(()),
            Verdict::Refused { again_in, refused } => {
                self.metrics
                    .limited_messages
                    .fetch_add(1, Ordering::Relaxed);
                Err((again_in.div_ceil(1000), refused))
            }
        }
    }

    pub(crate) fn connect_limiter(self: &Arc<Self>) -> Option<ConnectLimiter> {
        let (limit, spare_loopback) = match self.config.connects_per_ip {
            ConnectLimit::Off => return None,
            ConnectLimit::Limit(limit) => (limit, false),
            ConnectLimit::Default => (Limit::per(1000, 10), true),
        };
        let shared = self.clone();
        Some(Arc::new(move |ip: IpAddr| {
            if spare_loopback && ip.is_loopback() {
                return Ok(());
            }
            match shared.connects.take(ip, limit, shared.clock.now()) {
                Verdict::Allowed => Ok(()),
                Verdict::Refused { again_in, .. } => {
                    shared
                        .metrics
                        .limited_connects
                        .fetch_add(1, Ordering::Relaxed);
                    Err(again_in.div_ceil(1000))
                }
            }
        }))
    }

    pub(crate) fn unix_millis(&self) -> u64 {
        self.clock.unix_millis(self.clock.now())
    }

    pub(crate) fn rate_limit_entries(&self) -> usize {
        self.messages.len() + self.connects.len()
    }

    /// The number of shards.
    pub(crate) fn shards(&self) -> u16 {
        self.doors.len() as u16
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_a_publication_holds_weighs_in_a_mailbox() {
        let mut message = Message::new("e", "123");
        message.attachments = vec![vec![0; 1000].into(), vec![0; 200].into()];
        let key = ConflationKey {
            room: 1,
            key: "four".into(),
        };
        let publication = Arc::new(Publication::new("/".into(), message, None, None, Some(key)));
        let op = Op::Broadcast {
            namespace: 0,
            tenant: None,
            publication,
            about: None,
        };
        assert_eq!(payload(&op), 1 + 3 + 1200 + 4);
    }
}

//! What an app backend asks of a gateway: who is there, and tell them this.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use heartline_wire::{json, live, socketio};
use tokio::sync::oneshot;

use crate::auth::UserKey;
use crate::engine::id::Name;
use crate::engine::{App, Engine};
use crate::entries::{Page, RoomEntry, SocketEntry, SocketFilter, UserPresence};
use crate::gateway::Gateway;
use crate::hub::{Hub, Op};
use crate::names::is_valid_key;
use crate::peers::{EmitError, Emitted};
use crate::presence::SocketAddress;
use crate::publication::{Message, NsId};
use crate::reason::Reason;
use crate::rooms::{self, PRIVATE};
use crate::shared::ToUser;

/// An event for the members of a room.
#[derive(Debug, Clone)]
pub struct Publish {
    /// The room's tenant.
    pub tenant_id: Option<String>,
    /// The room's namespace.
    pub namespace: String,
    /// The room.
    pub room: String,
    /// The event's name.
    pub event: String,
    /// Its data, JSON text.
    pub data: String,
    /// Set where only the newest per room and key matters to a slow reader.
    pub key: Option<String>,
}

/// An event for all sockets of a namespace and tenant.
#[derive(Debug, Clone)]
pub struct Broadcast {
    /// The tenant.
    pub tenant_id: Option<String>,
    /// The namespace.
    pub namespace: String,
    /// The event's name.
    pub event: String,
    /// Its data, JSON text.
    pub data: String,
}

/// What became of a publication.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Published {
    /// Sockets of this node that it was for.
    pub delivered: usize,
    /// Its number in its room; absent if the room has no members.
    pub offset: Option<u64>,
}

/// Why something could not be published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PublishError {
    /// There is no such namespace.
    UnknownNamespace(String),
    /// The room's name has no byte, more than 256, or control characters.
    InvalidRoom,
    /// The event's name is empty, longer than 128 bytes, or one of the
    /// protocols' own.
    InvalidEvent,
    /// The data is no JSON.
    InvalidData,
    /// The data has more bytes than `server.max_payload`, which is this.
    TooLarge(usize),
    /// The key has more than 256 bytes.
    InvalidKey,
}

impl fmt::Display for PublishError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PublishError::UnknownNamespace(name) => write!(f, "there is no namespace {name}"),
            PublishError::InvalidRoom => {
                f.write_str("a room's name has 1 to 256 bytes and no control characters")
            }
            PublishError::InvalidEvent => f.write_str(
                "an event's name has 1 to 128 bytes and is none of the protocols' own types",
            ),
            PublishError::InvalidData => f.write_str("the data is no JSON"),
            PublishError::TooLarge(max) => write!(f, "the data has at most {max} bytes"),
            PublishError::InvalidKey => f.write_str("a key has at most 256 bytes"),
        }
    }
}

impl std::error::Error for PublishError {}

/// A cursor that this gateway did not make.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BadCursor;

impl fmt::Display for BadCursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the cursor is not one that this node gave out")
    }
}

impl std::error::Error for BadCursor {}

/// Longest event name, bytes.
const MAX_EVENT: usize = 128;
/// Whether clients of both protocols can be sent an event of this name.
pub(crate) fn is_valid_event(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= MAX_EVENT
        && !live::is_reserved(name)
        && !socketio::RESERVED_EVENTS.contains(&name)
}

impl Gateway {
    /// Asks one shard.
    async fn ask<T: Send + 'static>(
        &self,
        shard: u16,
        question: impl FnOnce(&mut Hub, &mut Engine) -> T + Send + 'static,
    ) -> Option<T> {
        let (reply, answer) = oneshot::channel();
        self.shared.post(
            shard,
            Op::Ask(Box::new(move |hub, engine| {
                let _ = reply.send(question(hub, engine));
            })),
        );
        answer.await.ok()
    }

    /// Sockets of this node that fit `filter`, at most `limit` of them from `cursor` on.
    pub(crate) async fn connections_here(
        &self,
        filter: SocketFilter,
        cursor: Option<String>,
        limit: usize,
    ) -> Result<Page<SocketEntry>, BadCursor> {
        let (mut shard, mut slot) = match cursor {
            None => (0, 0),
            Some(cursor) => {
                let (shard, slot) = cursor.split_once('.').ok_or(BadCursor)?;
                let number = |text: &str| text.parse::<u32>().map_err(|_| BadCursor);
                (number(shard)? as u16, number(slot)?)
            }
        };
        let mut items = Vec::new();
        while shard < self.shared.shards() {
            let (filter, rest) = (filter.clone(), limit - items.len());
            let found = self
                .ask(shard, move |hub, engine| {
                    hub.list(engine, &filter, slot, rest)
                })
                .await;
            let (mut found, next) = found.unwrap_or_default();
            items.append(&mut found);
            match next {
                Some(next) => slot = next,
                None => (shard, slot) = (shard + 1, 0),
            }
            if items.len() >= limit {
                break;
            }
        }
        let more = shard < self.shared.shards();
        Ok(Page {
            items,
            next_cursor: more.then(|| format!("{shard}.{slot}")),
            unreachable: Vec::new(),
        })
    }

    /// One socket, if it is here.
    pub(crate) async fn connection_here(&self, socket_id: &str) -> Option<SocketEntry> {
        let name = Name::decode(socket_id)?;
        self.ask(name.conn.shard, move |hub, engine| {
            hub.inspect(engine, &SocketAddress(name))
        })
        .await?
    }

    /// Ends a socket and tells its client not to come back; whether it was here.
    pub(crate) async fn disconnect_here(&self, socket_id: &str) -> bool {
        match Name::decode(socket_id) {
            Some(name) => self.kick(SocketAddress(name)).await,
            None => false,
        }
    }

    async fn kick(&self, to: SocketAddress) -> bool {
        let (reply, answer) = oneshot::channel();
        self.shared.post(
            to.0.conn.shard,
            Op::Disconnect {
                to,
                reason: Reason::Kicked,
                reply: Some(reply),
            },
        );
        answer.await.unwrap_or(false)
    }

    /// Rooms of this node in the order of their names, at most `limit` from `cursor` on.
    pub(crate) async fn rooms_here(
        &self,
        namespace: Option<&str>,
        tenant: Option<&str>,
        cursor: Option<String>,
        limit: usize,
    ) -> Result<Page<RoomEntry>, BadCursor> {
        let after: Option<(String, String, Option<String>)> = match &cursor {
            None => None,
            Some(cursor) => {
                Some(serde_json::from_str(&decode_cursor(cursor)?).map_err(|_| BadCursor)?)
            }
        };
        let mut all = RoomsByKey::new();
        for shard in 0..self.shared.shards() {
            let (namespace, tenant) = (
                namespace.map(ToOwned::to_owned),
                tenant.map(ToOwned::to_owned),
            );
            let after = after.clone();
            let found = self
                .ask(shard, move |hub, _| {
                    let names = &hub.shared.namespaces;
                    let mut found: Vec<_> = hub
                        .rooms
                        .iter()
                        .map(|(room, members)| {
                            let space = names[usize::from(room.key.namespace)].name.to_string();
                            let tenant = room.key.tenant.as_ref().map(ToString::to_string);
                            ((room.key.name.to_string(), space, tenant), members.len())
                        })
                        .filter(|(key, _)| {
                            after.as_ref().is_none_or(|after| key > after)
                                && namespace.as_ref().is_none_or(|wanted| *wanted == key.1)
                                && tenant
                                    .as_ref()
                                    .is_none_or(|wanted| Some(wanted) == key.2.as_ref())
                        })
                        .collect();
                    // No more than one page and the beginning of the next.
                    if found.len() > limit + 1 {
                        found.select_nth_unstable(limit);
                        found.truncate(limit + 1);
                    }
                    found
                })
                .await;
            for (key, members) in found.unwrap_or_default() {
                *all.entry(key).or_default() += members;
            }
        }
        let more = all.len() > limit;
        Ok(rooms_page(all, limit, more))
    }

    fn message(
        &self,
        namespace: &str,
        event: &str,
        data: &str,
    ) -> Result<(NsId, Message), PublishError> {
        let id = self
            .shared
            .namespace_id(namespace)
            .ok_or_else(|| PublishError::UnknownNamespace(namespace.to_owned()))?;
        if !is_valid_event(event) {
            return Err(PublishError::InvalidEvent);
        }
        // As much as a client may say: to receivers it makes no difference who did.
        let max = self.shared.config.max_payload;
        if data.len() > max {
            return Err(PublishError::TooLarge(max));
        }
        if !json::is_valid(data) {
            return Err(PublishError::InvalidData);
        }
        Ok((id, Message::new(event, data.trim())))
    }

    /// Gives an event to the members of a room; `user:ID` is a user's devices.
    ///
    /// # Errors
    /// When the namespace, room, event, data or key is none, or the data is too large.
    pub async fn publish(&self, publish: Publish) -> Result<Published, PublishError> {
        let (namespace, message) =
            self.message(&publish.namespace, &publish.event, &publish.data)?;
        if !rooms::is_valid_name(&publish.room) {
            return Err(PublishError::InvalidRoom);
        }
        if !publish.key.as_deref().is_none_or(is_valid_key) {
            return Err(PublishError::InvalidKey);
        }
        let tenant = publish.tenant_id.as_deref();
        if let Some(user) = publish.room.strip_prefix(PRIVATE) {
            let to = ToUser {
                namespace,
                tenant,
                user,
                only: None,
                topic: Some(&publish.room),
                unless_in: None,
            };
            let delivered = self.shared.send_to_user(&to, message);
            return Ok(Published {
                delivered,
                offset: None,
            });
        }
        let delivered = self.members(namespace, tenant, &publish.room).await;
        let offset = self.shared.publish_to_room(
            namespace,
            tenant,
            &publish.room,
            message,
            publish.key.as_deref(),
        );
        Ok(Published { delivered, offset })
    }

    /// Whether an event could be sent.
    ///
    /// # Errors
    /// When the namespace, event or data is none.
    pub fn check_event(
        &self,
        namespace: Option<&str>,
        event: &str,
        data: &str,
    ) -> Result<(), PublishError> {
        self.message(namespace.unwrap_or("/"), event, data)
            .map(drop)
    }

    /// How many sockets of this node are in a room of a namespace.
    pub(crate) async fn members_here(
        &self,
        namespace: &str,
        tenant: Option<&str>,
        room: &str,
    ) -> usize {
        match self.shared.namespace_id(namespace) {
            Some(id) => self.members(id, tenant, room).await,
            None => 0,
        }
    }

    /// How many sockets of this node are in a room.
    async fn members(&self, namespace: NsId, tenant: Option<&str>, name: &str) -> usize {
        let room = self.shared.rooms.find(&rooms::RoomRef {
            namespace,
            tenant,
            name,
        });
        let Some(room) = room else {
            return 0;
        };
        let mut members = 0;
        for shard in (0..self.shared.shards()).filter(|&shard| room.local(shard).is_some()) {
            let room = room.clone();
            let here = self.ask(shard, move |hub, _| hub.rooms.count(&room)).await;
            members += here.unwrap_or(0);
        }
        members
    }

    /// Gives an event to all sockets of a namespace and tenant.
    ///
    /// # Errors
    /// When the namespace, event or data is none.
    pub async fn broadcast(&self, broadcast: Broadcast) -> Result<Published, PublishError> {
        let (namespace, message) =
            self.message(&broadcast.namespace, &broadcast.event, &broadcast.data)?;
        let tenant: Option<Arc<str>> = broadcast.tenant_id.map(Into::into);
        let mut delivered = 0;
        for shard in 0..self.shared.shards() {
            let tenant = tenant.clone();
            let here = self
                .ask(shard, move |hub, _| {
                    hub.population(namespace, tenant.as_deref())
                })
                .await;
            delivered += here.unwrap_or(0);
        }
        self.shared.broadcast(namespace, tenant, message);
        Ok(Published {
            delivered,
            offset: None,
        })
    }

    /// Gives an event to all of a user's sockets, in one namespace or in all;
    /// to how many.
    ///
    /// # Errors
    /// When the namespace, event or data is none.
    pub async fn emit_to_user(
        &self,
        user: UserKey,
        namespace: Option<&str>,
        event: &str,
        data: &str,
    ) -> Result<usize, PublishError> {
        let (id, message) = self.message(namespace.unwrap_or("/"), event, data)?;
        let namespaces = match namespace {
            Some(_) => id..id + 1,
            None => 0..self.shared.namespaces.len() as NsId,
        };
        let tenant = user.tenant_id.as_deref();
        let elsewhere = self.count_elsewhere(&user, namespace).await;
        let here: usize = namespaces
            .map(|namespace| {
                let to = ToUser {
                    namespace,
                    tenant,
                    user: &user.user_id,
                    only: Some(&user),
                    topic: None,
                    unless_in: None,
                };
                self.shared.send_to_user(&to, message.clone())
            })
            .sum();
        Ok(here + elsewhere)
    }

    /// Gives an event to one socket of this node; its acknowledgement, if one is
    /// waited for.
    pub(crate) async fn emit_here(
        &self,
        socket_id: &str,
        event: &str,
        data: &str,
        ack_within: Option<Duration>,
    ) -> Emitted {
        let gone = || EmitError::new("DISCONNECTED", "The socket is gone");
        let to = SocketAddress::parse(socket_id).ok_or_else(gone)?;
        let message = Message::new(event, data);
        let shard = to.0.conn.shard;
        let Some(time) = ack_within else {
            let there = self.ask(shard, move |hub, engine| {
                hub.op(
                    engine,
                    Op::Emit {
                        to,
                        message,
                        volatile: false,
                    },
                );
                hub.inspect(engine, &to).is_some()
            });
            return match there.await {
                Some(true) => Ok(None),
                _ => Err(gone()),
            };
        };
        let (reply, answer) = oneshot::channel();
        self.shared
            .post(shard, Op::EmitWithAck { to, message, reply });
        match tokio::time::timeout(time, answer).await {
            Ok(Ok(Ok(args))) => Ok(Some(args.json)),
            Ok(Ok(Err(error))) => Err(EmitError::new(&error.code, &error.error)),
            Ok(Err(_)) => Err(gone()),
            Err(_) => Err(EmitError::new("TIMEOUT", "No acknowledgement in time")),
        }
    }

    /// Presence of users of any type, in the order asked.
    pub async fn presence(&self, tenant: Option<&str>, users: &[String]) -> Vec<UserPresence> {
        self.shared
            .backplane
            .presence(tenant.map(Into::into), users.to_vec())
            .await
    }

    /// Up to `limit` of the users that are online on this node.
    pub fn online_users(&self, limit: usize) -> Vec<Arc<UserKey>> {
        self.shared.backplane.local().some(limit)
    }

    /// Looks for entries that the timers missed, and removes them; how many.
    pub async fn sweep(&self) -> usize {
        crate::housekeeping::sweep(&self.shared).await
    }
}

/// Rooms by name, namespace and tenant, and how many are in them.
pub(crate) type RoomsByKey = BTreeMap<(String, String, Option<String>), usize>;

/// The first rooms as a page; with `more`, there are others behind them.
pub(crate) fn rooms_page(all: RoomsByKey, limit: usize, more: bool) -> Page<RoomEntry> {
    let items: Vec<RoomEntry> = all
        .into_iter()
        .take(limit)
        .map(|((room, namespace, tenant_id), members)| RoomEntry {
            room,
            namespace,
            tenant_id,
            members,
        })
        .collect();
    let next_cursor = items.last().filter(|_| more).map(|last| {
        let key = (&last.room, &last.namespace, &last.tenant_id);
        encode_cursor(&serde_json::to_string(&key).unwrap_or_default())
    });
    Page {
        items,
        next_cursor,
        unreachable: Vec::new(),
    }
}

fn encode_cursor(key: &str) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(key)
}

pub(crate) fn decode_cursor(cursor: &str) -> Result<String, BadCursor> {
    use base64::Engine as _;
    let bytes = base64::engine::general_purpose::URL_SAFE_NO_PAD
        .decode(cursor)
        .map_err(|_| BadCursor)?;
    String::from_utf8(bytes).map_err(|_| BadCursor)
}

//! The API of one node: who is there, and tell them this.

use std::sync::Arc;
use std::time::Duration;

use heartline_core::auth::UserKey;
use heartline_core::entries::{Page, RoomEntry, SocketEntry, SocketFilter, UserPresence};
use heartline_core::message::{Message, check_key};
use heartline_core::namespaces::NamespaceId;
use heartline_core::presence::SocketAddress;
use heartline_core::rooms::{self, PRIVATE};
use heartline_wire::codes::Code;
use heartline_wire::id::Sid;
use heartline_wire::json;
use heartline_wire::names::{self, Speaker};
use heartline_wire::reason::Reason;
use tokio::sync::oneshot;

use super::pages::{RoomsByKey, decode_cursor, rooms_page};
use super::{BadCursor, Broadcast, Publish, PublishError, Published};
use crate::fanout::{ToRoom, ToUser};
use crate::gateway::Gateway;
use crate::op::{Op, Query, RoomFilter};
use crate::peers::{EmitError, Emitted};

impl Gateway {
    /// Asks one shard; `None` if it has ended.
    async fn ask<T>(
        &self,
        shard: u16,
        question: impl FnOnce(oneshot::Sender<T>) -> Query,
    ) -> Option<T> {
        let (reply, answer) = oneshot::channel();
        self.shared.fanout.post(shard, Op::Query(question(reply)));
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
        while shard < self.shared.fanout.shard_count() {
            let (filter, rest) = (filter.clone(), limit - items.len());
            let found = self
                .ask(shard, |reply| Query::List {
                    filter,
                    from: slot,
                    limit: rest,
                    reply,
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
        let more = shard < self.shared.fanout.shard_count();
        Ok(Page {
            items,
            next_cursor: more.then(|| format!("{shard}.{slot}")),
            unreachable: Vec::new(),
        })
    }

    /// One socket, if it is here.
    pub(crate) async fn connection_here(&self, socket_id: &str) -> Option<SocketEntry> {
        let socket = SocketAddress::parse(socket_id)?;
        self.inspect(socket).await
    }

    async fn inspect(&self, socket: SocketAddress) -> Option<SocketEntry> {
        let shard = socket.0.conn.shard;
        self.ask(shard, |reply| Query::Inspect { socket, reply })
            .await?
    }

    /// Ends a socket and tells its client not to come back; whether it was here.
    pub(crate) async fn disconnect_here(&self, socket_id: &str) -> bool {
        match Sid::decode(socket_id) {
            Some(name) => self.kick(SocketAddress(name)).await,
            None => false,
        }
    }

    async fn kick(&self, to: SocketAddress) -> bool {
        let (reply, answer) = oneshot::channel();
        self.shared.fanout.post(
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
        let after = match &cursor {
            None => None,
            Some(cursor) => {
                Some(serde_json::from_str(&decode_cursor(cursor)?).map_err(|_| BadCursor)?)
            }
        };
        let filter = RoomFilter {
            namespace: namespace.map(ToOwned::to_owned),
            tenant: tenant.map(ToOwned::to_owned),
            after,
        };
        let mut all = RoomsByKey::new();
        for shard in 0..self.shared.fanout.shard_count() {
            let filter = filter.clone();
            let found = self
                .ask(shard, |reply| Query::Rooms {
                    filter,
                    limit,
                    reply,
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
    ) -> Result<(NamespaceId, Message), PublishError> {
        let id = self
            .shared
            .fanout
            .namespaces
            .find(namespace)
            .ok_or_else(|| PublishError::UnknownNamespace(namespace.to_owned()))?;
        if !names::may_say(Speaker::Backend, event) {
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
        check_key(publish.key.as_deref()).map_err(|_| PublishError::InvalidKey)?;
        let tenant = publish.tenant_id.as_deref();
        if let Some(user) = publish.room.strip_prefix(PRIVATE) {
            let to = ToUser {
                namespace,
                tenant,
                user,
                only: None,
                topic: Some(&publish.room),
                instead_of: None,
                skip: None,
            };
            let delivered = self.shared.fanout.send_to_user(&to, message);
            return Ok(Published {
                delivered,
                offset: None,
            });
        }
        let delivered = self.members(namespace, tenant, &publish.room).await;
        let offset = {
            let to = ToRoom {
                namespace,
                tenant,
                room: &publish.room,
                key: publish.key.as_deref(),
                skip: None,
            };
            self.shared.fanout.publish_to_room(&to, message)
        };
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
        match self.shared.fanout.namespaces.find(namespace) {
            Some(id) => self.members(id, tenant, room).await,
            None => 0,
        }
    }

    /// How many sockets of this node are in a room.
    async fn members(&self, namespace: NamespaceId, tenant: Option<&str>, name: &str) -> usize {
        let room = self.shared.fanout.rooms.find(&rooms::RoomRef {
            namespace,
            tenant,
            name,
        });
        let Some(room) = room else {
            return 0;
        };
        let mut members = 0;
        for shard in
            (0..self.shared.fanout.shard_count()).filter(|&shard| room.local(shard).is_some())
        {
            let room = room.clone();
            let here = self.ask(shard, |reply| Query::Count { room, reply }).await;
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
        for shard in 0..self.shared.fanout.shard_count() {
            let tenant = tenant.clone();
            let here = self
                .ask(shard, |reply| Query::Population {
                    namespace,
                    tenant,
                    reply,
                })
                .await;
            delivered += here.unwrap_or(0);
        }
        self.shared.fanout.broadcast(namespace, tenant, message);
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
        let namespaces = &self.shared.fanout.namespaces;
        let wanted = namespaces
            .iter()
            .map(|(id, _)| id)
            .filter(|other| namespace.is_none() || *other == id);
        let tenant = user.tenant_id.as_deref();
        let elsewhere = self.count_elsewhere(&user, namespace).await;
        let here: usize = wanted
            .map(|namespace| {
                let to = ToUser {
                    namespace,
                    tenant,
                    user: &user.user_id,
                    only: Some(&user),
                    topic: None,
                    instead_of: None,
                    skip: None,
                };
                self.shared.fanout.send_to_user(&to, message.clone())
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
        let gone = || EmitError::from(Code::Disconnected);
        let to = SocketAddress::parse(socket_id).ok_or_else(gone)?;
        let message = Message::new(event, data);
        let shard = to.0.conn.shard;
        let Some(time) = ack_within else {
            self.shared.fanout.post(
                shard,
                Op::Emit {
                    to,
                    message,
                    volatile: false,
                },
            );
            let there = self.inspect(to);
            return match there.await {
                Some(_) => Ok(None),
                _ => Err(gone()),
            };
        };
        let (reply, answer) = oneshot::channel();
        self.shared
            .fanout
            .post(shard, Op::EmitWithAck { to, message, reply });
        match tokio::time::timeout(time, answer).await {
            Ok(Ok(Ok(args))) => Ok(Some(args.json)),
            Ok(Ok(Err(error))) => Err(EmitError::new(&error.code, &error.error)),
            Ok(Err(_)) => Err(gone()),
            Err(_) => Err(EmitError::from(Code::Timeout)),
        }
    }

    /// Presence of users of any type, in the order asked.
    pub async fn presence(&self, tenant: Option<&str>, users: &[String]) -> Vec<UserPresence> {
        self.shared
            .fanout
            .backplane
            .presence(tenant.map(Into::into), users.to_vec())
            .await
    }

    /// Up to `limit` of the users that are online on this node.
    pub fn online_users(&self, limit: usize) -> Vec<Arc<UserKey>> {
        self.shared.fanout.backplane.local().some(limit)
    }

    /// Looks for entries that the timers missed, and removes them; how many.
    pub async fn sweep(&self) -> usize {
        crate::housekeeping::sweep(&self.shared).await
    }
}

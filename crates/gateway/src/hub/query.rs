//! What the API wants to know of a shard's sockets.

use heartline_core::entries::{SocketEntry, SocketFilter};
use heartline_core::namespaces::NamespaceId;
use heartline_core::presence::SocketAddress;
use heartline_core::rooms::Room;
use heartline_engine::shard::engine::Engine;

use super::Hub;
use crate::op::{Query, RoomFilter, RoomPlace};
use crate::publication::address_text;

impl Hub {
    /// Answers a question of the API's. Nobody may be left who waits for it.
    pub(super) fn answer(&mut self, engine: &mut Engine, query: Query) {
        match query {
            Query::List {
                filter,
                from,
                limit,
                reply,
            } => drop(reply.send(self.list(engine, &filter, from, limit))),
            Query::Inspect { socket, reply } => drop(reply.send(self.inspect(engine, &socket))),
            Query::Rooms {
                filter,
                limit,
                reply,
            } => drop(reply.send(self.list_rooms(&filter, limit))),
            Query::Count { room, reply } => drop(reply.send(self.rooms.count(&room))),
            Query::Population {
                namespace,
                tenant,
                reply,
            } => drop(reply.send(self.population(namespace, tenant.as_deref()))),
            Query::Sweep { reply } => drop(reply.send(self.sweep(engine))),
        }
    }

    /// The first rooms that fit, in no order: one page and the beginning of the next.
    fn list_rooms(&self, filter: &RoomFilter, limit: usize) -> Vec<(RoomPlace, usize)> {
        let place = |room: &Room| -> RoomPlace {
            let namespace = self.namespace_name(room.key.namespace).to_string();
            let tenant = room.key.tenant.as_ref().map(ToString::to_string);
            (room.key.name.to_string(), namespace, tenant)
        };
        let fits = |place: &RoomPlace| {
            let (_, namespace, tenant) = place;
            filter.after.as_ref().is_none_or(|after| place > after)
                && filter
                    .namespace
                    .as_ref()
                    .is_none_or(|wanted| wanted == namespace)
                && (filter.tenant.is_none() || filter.tenant == *tenant)
        };
        let mut found: Vec<_> = self
            .rooms
            .iter()
            .map(|(room, members)| (place(room), members.len()))
            .filter(|(place, _)| fits(place))
            .collect();
        if found.len() > limit + 1 {
            found.select_nth_unstable(limit);
            found.truncate(limit + 1);
        }
        found
    }

    /// How many sockets a broadcast to a namespace and tenant is for.
    fn population(&self, namespace: NamespaceId, tenant: Option<&str>) -> usize {
        self.links
            .iter()
            .flatten()
            .filter_map(|link| link.socket(namespace))
            .filter(|socket| socket.identity.tenant_id().map(|tenant| &**tenant) == tenant)
            .count()
    }

    /// Entries from `from` on that fit, at most `limit`; and the slot to go on from.
    fn list(
        &self,
        engine: &Engine,
        filter: &SocketFilter,
        from: u32,
        limit: usize,
    ) -> (Vec<SocketEntry>, Option<u32>) {
        let mut found = Vec::new();
        for slot in from..self.links.len() as u32 {
            if found.len() >= limit {
                return (found, Some(slot));
            }
            let Some(link) = self.link(slot) else {
                continue;
            };
            for socket in &link.sockets {
                if let Some(entry) = self.entry(engine, slot, socket.namespace) {
                    if fits(&entry, filter) {
                        found.push(entry);
                    }
                }
            }
        }
        (found, None)
    }

    /// The entry of one socket.
    fn inspect(&self, engine: &Engine, address: &SocketAddress) -> Option<SocketEntry> {
        let slot = self.locate(engine, address)?;
        self.entry(engine, slot, address.namespace())
    }

    fn entry(&self, engine: &Engine, slot: u32, namespace: NamespaceId) -> Option<SocketEntry> {
        let conn = engine.conn(slot)?;
        let link = self.link(slot)?;
        let socket = link.socket(namespace)?;
        let identity = &socket.identity;
        let user = identity.user.as_deref();
        let text = |value: Option<&std::sync::Arc<str>>| value.map(ToString::to_string);
        let rooms = self.room_names(&socket.rooms, identity);
        let unix = |at| engine.clock.unix_millis(at);
        Some(SocketEntry {
            socket_id: self.address(engine, slot, namespace)?.0.encode(),
            user_id: user.map(|user| user.user_id.to_string()),
            user_type: text(user.and_then(|user| user.user_type.as_ref())),
            tenant_id: text(identity.tenant_id()),
            device_id: text(identity.device_id.as_ref()),
            wallet_address: text(identity.wallet_address.as_ref()),
            node_id: self.shared.config.node_id.clone(),
            transport: conn.transport_name().as_str().into(),
            namespace: self.namespace_name(namespace).to_string(),
            remote_addr: address_text(conn.ip()),
            user_agent: text(link.user_agent.as_ref()),
            state: "connected".into(),
            connected_at: unix(socket.connected_at),
            last_seen_at: unix(conn.last_seen),
            last_activity_at: unix(socket.last_activity),
            rtt_ms: (conn.rtt > 0).then(|| f64::from(conn.rtt) / 1000.0),
            rooms,
        })
    }
}

fn fits(entry: &SocketEntry, filter: &SocketFilter) -> bool {
    let same = |wanted: &Option<String>, value: Option<&String>| {
        wanted.is_none() || wanted.as_ref() == value
    };
    same(&filter.user_id, entry.user_id.as_ref())
        && same(&filter.user_type, entry.user_type.as_ref())
        && same(&filter.tenant_id, entry.tenant_id.as_ref())
        && same(&filter.namespace, Some(&entry.namespace))
        && filter
            .room
            .as_ref()
            .is_none_or(|room| entry.rooms.contains(room))
}

//! What the API wants to know of a shard's sockets.

use std::sync::Arc;

use heartline_core::auth::UserKey;
use heartline_core::entries::{ConnectionState, SocketEntry, SocketFilter};
use heartline_core::namespaces::NamespaceId;
use heartline_core::presence::SocketAddress;
use heartline_core::rooms::{self, Grant, Room};
use heartline_engine::shard::engine::Engine;
use heartline_wire::id::Slot;

use super::Hub;
use super::link::SocketState;
use crate::op::{Guest, GuestPlace, ListPlace, Query, RoomFilter, RoomMembers};
use crate::publication::{address_text, rtt_millis};

/// Slots that a question looks at in one turn, and members of a room: about as long as a
/// turn may take, a tenth of a millisecond.
pub(super) const SLICE: u32 = 1024;
/// Entries built in one turn: each costs a dozen allocations.
const ENTRIES_PER_TURN: usize = 128;

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
            Query::Choose {
                selection,
                from,
                reply,
            } => drop(reply.send(self.choose(engine, &selection, from))),
            Query::Entries { sockets, reply } => {
                let there = sockets.iter();
                let entries = there.filter_map(|socket| self.inspect(engine, socket));
                drop(reply.send(entries.collect()));
            }
            Query::RecentRooms { sockets, reply } => {
                let socket = |address: &SocketAddress| {
                    let slot = self.locate(engine, address)?;
                    self.link(slot)?.socket(address.namespace())
                };
                let there = sockets.iter().filter_map(socket);
                let rooms = there.flat_map(|socket| self.recent_rooms(&socket.rooms));
                drop(reply.send(rooms.collect()));
            }
            Query::Members {
                room,
                before,
                reply,
            } => drop(reply.send(self.members(&room, before))),
            Query::Guests { from, reply } => drop(reply.send(self.guests(from))),
            Query::Inspect { socket, reply } => drop(reply.send(self.inspect(engine, &socket))),
            Query::Rooms {
                filter,
                from,
                limit,
                reply,
            } => drop(reply.send(self.list_rooms(&filter, from, limit))),
            Query::Count { room, reply } => drop(reply.send(self.rooms.count(&room))),
            Query::Population {
                namespace,
                tenant,
                from,
                reply,
            } => drop(reply.send(self.population(namespace, tenant.as_deref(), from))),
            Query::Sweep { from, reply } => drop(reply.send(self.sweep(engine, from))),
        }
    }

    /// The first rooms that fit in a part of the list, in no order: one page and the beginning
    /// of the next.
    fn list_rooms(
        &self,
        filter: &RoomFilter,
        from: usize,
        limit: usize,
    ) -> (Vec<RoomMembers>, Option<usize>) {
        type Names<'a> = (&'a str, &'a str, Option<&'a str>);
        let after: Option<Names<'_>> = filter
            .after
            .as_ref()
            .map(|(room, namespace, tenant)| (&**room, &**namespace, tenant.as_deref()));
        let mut found: Vec<(Names<'_>, usize)> = Vec::new();
        let end = from.saturating_add(SLICE as usize);
        for (room, members) in self.rooms.at(from..end) {
            let namespace = &**self.namespace_name(room.key.namespace);
            let place = (&*room.key.name, namespace, room.key.tenant.as_deref());
            let (_, _, tenant) = place;
            if after.is_none_or(|after| place > after)
                && filter
                    .namespace
                    .as_deref()
                    .is_none_or(|wanted| wanted == namespace)
                && (filter.tenant.is_none() || filter.tenant.as_deref() == tenant)
            {
                found.push((place, members.len()));
            }
        }
        if found.len() > limit + 1 {
            found.select_nth_unstable(limit);
            found.truncate(limit + 1);
        }
        let owned = |((room, namespace, tenant), members): (Names<'_>, usize)| {
            let tenant = tenant.map(ToOwned::to_owned);
            ((room.to_owned(), namespace.to_owned(), tenant), members)
        };
        let found = found.into_iter().map(owned).collect();
        (found, (end < self.rooms.places()).then_some(end))
    }

    /// How many sockets at some of the slots a broadcast to a namespace and tenant is for.
    fn population(
        &self,
        namespace: NamespaceId,
        tenant: Option<&str>,
        from: Slot,
    ) -> (usize, Option<Slot>) {
        let all = self.links.len() as u32;
        let end = from.0.saturating_add(SLICE).min(all);
        let there = (from.0..end)
            .filter_map(|slot| self.link(Slot(slot))?.socket(namespace))
            .filter(|socket| socket.identity.tenant_id().map(|tenant| &**tenant) == tenant)
            .count();
        (there, (end < all).then_some(Slot(end)))
    }

    /// Entries that fit, at most `limit`, among a slice of the slots from `from` on, each with its
    /// place; and the place to go on from.
    fn list(
        &self,
        engine: &Engine,
        filter: &SocketFilter,
        from: ListPlace,
        limit: usize,
    ) -> (Vec<(ListPlace, SocketEntry)>, Option<ListPlace>) {
        let (first, from_namespace) = from;
        let all = self.links.len() as u32;
        let end = first.0.saturating_add(SLICE).min(all);
        let limit = limit.min(ENTRIES_PER_TURN);
        let mut found = Vec::new();
        for slot in (first.0..end).map(Slot) {
            let Some(link) = self.link(slot) else {
                continue;
            };
            let mut fitting: Vec<NamespaceId> = link
                .sockets
                .iter()
                .filter(|socket| self.fits(socket, filter))
                .map(|socket| socket.namespace)
                .filter(|namespace| slot != first || namespace.0 >= from_namespace)
                .collect();
            fitting.sort_unstable();
            for namespace in fitting {
                let place = (slot, namespace.0);
                if found.len() >= limit {
                    return (found, Some(place));
                }
                let entry = self.entry(engine, slot, namespace);
                found.extend(entry.map(|entry| (place, entry)));
            }
        }
        (found, (end < all).then_some((Slot(end), 0)))
    }

    /// Whether a socket is one of those that are asked for.
    fn fits(&self, socket: &SocketState, filter: &SocketFilter) -> bool {
        let identity = &socket.identity;
        let namespace = self.namespace_name(socket.namespace);
        filter.fits(identity, namespace, |room| {
            let named = |member| {
                let there = self.rooms.room(member);
                there.is_some_and(|there| *there.key.name == *room)
            };
            socket.rooms.iter().any(|member| named(*member))
                || Self::private_room(identity).as_deref() == Some(room)
        })
    }

    /// Some of a room's members that are users, from the end of the list: a member that
    /// leaves between two questions moves the last one, which was told of then, and nobody
    /// is missed.
    fn members(&self, room: &Room, before: Option<usize>) -> (Vec<(Slot, Arc<UserKey>)>, usize) {
        let all = self.rooms.members(room);
        let end = before.unwrap_or(all.len()).min(all.len());
        let start = end.saturating_sub(SLICE as usize);
        let user = |slot: &Slot| {
            let socket = self.link(*slot)?.socket(room.key.namespace)?;
            Some((*slot, socket.identity.user.clone()?))
        };
        (all[start..end].iter().filter_map(user).collect(), start)
    }

    /// Some of who is in rooms of conversations as a member, of a slice of the rooms and their
    /// members, and the place to go on from. Members are looked at from the end of a room's list, as
    /// by [`members`](Self::members).
    fn guests(&self, (first, before): GuestPlace) -> (Vec<Guest>, Option<GuestPlace>) {
        let (mut found, mut left) = (Vec::new(), SLICE as usize);
        for place in first..self.rooms.places() {
            if left == 0 {
                return (found, Some((place, usize::MAX)));
            }
            left -= 1;
            let Some((room, members)) = self.rooms.at(place..place + 1).next() else {
                continue;
            };
            let name = &room.key.name;
            if rooms::conversation_of(name).is_none() {
                continue;
            }
            let end = match place == first {
                true => before.min(members.len()),
                false => members.len(),
            };
            let start = end.saturating_sub(left);
            left -= end - start;
            let guest = |slot: &Slot| {
                let socket = self.link(*slot)?.socket(room.key.namespace)?;
                let grant = self.shared.members.grant(name, &socket.identity);
                let user = socket.identity.user.as_ref();
                let user = user.filter(|_| grant != Ok(Grant::Given))?;
                Some((name.clone(), user.clone()))
            };
            found.extend(members[start..end].iter().filter_map(guest));
            if start > 0 {
                return (found, Some((place, start)));
            }
        }
        (found, None)
    }

    /// The entry of one socket.
    fn inspect(&self, engine: &Engine, address: &SocketAddress) -> Option<SocketEntry> {
        let slot = self.locate(engine, address)?;
        self.entry(engine, slot, address.namespace())
    }

    fn entry(&self, engine: &Engine, slot: Slot, namespace: NamespaceId) -> Option<SocketEntry> {
        let conn = engine.conn(slot)?;
        let link = self.link(slot)?;
        let socket = link.socket(namespace)?;
        let id = match socket.back() {
            Some(back) => back.name.id(),
            None => self.address(engine, slot, namespace)?.id(),
        };
        let unix = |at| engine.clock.unix_millis(at);
        Some(SocketEntry {
            node_id: self.shared.config.node_id.clone(),
            transport: conn.transport_name().as_str().into(),
            namespace: self.namespace_name(namespace).to_string(),
            remote_addr: address_text(conn.ip()),
            user_agent: link.user_agent.as_ref().map(ToString::to_string),
            state: ConnectionState::Connected.as_str().into(),
            connected_at: unix(socket.connected_at),
            last_seen_at: unix(conn.last_seen),
            last_activity_at: unix(socket.last_activity),
            rtt_ms: rtt_millis(conn.rtt),
            rooms: self.room_names(&socket.rooms, &socket.identity),
            ..SocketEntry::of(id, &socket.identity)
        })
    }
}

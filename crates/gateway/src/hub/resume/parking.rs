//! What is kept of a connection that has ended, if its client may come back.

use heartline_core::line::session::{Seen, Session};
use heartline_core::namespaces::NamespaceId;
use heartline_engine::shard::engine::Engine;
use heartline_wire::id::Slot;
use heartline_wire::reason::Reason;

use crate::common::Record;
use crate::data::SocketData;
use crate::hub::Hub;
use crate::op::Park;
use crate::publication::Encoding;

pub(super) type Parked = Session<Option<SocketData>>;

/// Whether who was lost for this reason may come back to what it had.
fn is_resumable(reason: Reason) -> bool {
    match reason {
        // Without a DISCONNECT, and of live clients without a goodbye: see `park_all`.
        Reason::ClientLeft
        | Reason::TransportClosed
        | Reason::TransportError
        | Reason::HeartbeatTimeout
        | Reason::StaleSweep
        | Reason::TokenExpired
        | Reason::SlowConsumer
        | Reason::Drained
        | Reason::NodeLost => true,
        Reason::IdleTimeout
        | Reason::AuthFailed
        | Reason::Kicked
        | Reason::Replaced
        | Reason::DeviceLimit
        | Reason::RateLimited
        | Reason::PayloadTooLarge
        | Reason::ProtocolViolation => false,
    }
}

impl Hub {
    /// Keeps what the sockets of a connection had that has ended, if its client may come back.
    pub(in crate::hub) fn park_all(&mut self, engine: &Engine, slot: Slot, reason: Reason) {
        if self.recovery().is_none() || !is_resumable(reason) {
            return;
        }
        let Some(link) = self.link(slot) else {
            return;
        };
        // Of Socket.IO's clients, who says goodbye has sent a DISCONNECT before.
        if link.encoding == Encoding::Live && engine.said_goodbye(slot) {
            return;
        }
        let namespaces: Vec<NamespaceId> =
            link.sockets.iter().map(|socket| socket.namespace).collect();
        for namespace in namespaces {
            self.park(engine, slot, namespace);
        }
    }

    fn park(&mut self, engine: &Engine, slot: Slot, namespace: NamespaceId) {
        let (Some(recovery), Some(address)) =
            (self.recovery(), self.address(engine, slot, namespace))
        else {
            return;
        };
        let Some(socket) = self.link(slot).and_then(|link| link.socket(namespace)) else {
            return;
        };
        let members = socket.rooms.iter();
        let rooms = members.filter_map(|member| {
            let room = self.rooms.room(*member)?.clone();
            Some((room, self.rooms.since(*member)))
        });
        let (name, mut places) = match socket.back() {
            Some(back) => (back.name, back.places.clone()),
            None => (address, Vec::new()),
        };
        let seen = engine.known(slot).zip(self.link(slot)).map(|(conn, link)| {
            Box::new(Seen {
                transport: conn.transport_name().as_str(),
                remote_addr: conn.ip(),
                user_agent: link.user_agent.clone(),
                connected_at: socket.connected_at,
                last_seen: conn.last_seen,
                last_activity: socket.last_activity,
                rtt: conn.rtt,
            })
        });
        let end = self.place_of(slot, namespace);
        places.push((address, end));
        if let Some(journal) = &recovery.journal {
            journal.parked(name);
        }
        let session = Session {
            name,
            places,
            identity: socket.identity.clone(),
            rooms: rooms.collect(),
            taken: Vec::new(),
            left: socket.left(),
            end,
            lost_at: engine.now,
            seen,
            data: self.shared.data.find(&address),
        };
        // Whoever takes it up writes later.
        if let Some(common) = &recovery.common {
            common.remember(name, Some(Record::lost(&session)));
        }
        recovery.park(session);
    }

    /// The client of a connection has come back by another: if this one is older, it is over,
    /// and what it had is kept for the other.
    pub(in crate::hub) fn park_asked(
        &mut self,
        engine: &mut Engine,
        Park {
            socket,
            user,
            since,
            reply,
        }: Park,
    ) {
        let namespace = socket.namespace();
        let mut is_there = false;
        if let Some(slot) = self.locate(engine, &socket)
            && let Some(link) = self.link_mut(slot)
            && let Some(there) = link.socket(namespace)
        {
            is_there = true;
            // Of two that were on their way at once, the one that left later is wanted.
            let is_earlier = match there.back() {
                Some(back) => back.came_at <= since,
                None => there.connected_at < since,
            };
            if is_earlier && there.identity.user == user {
                is_there = false;
                link.note_taken_over(engine.now);
                self.link_closed(engine, slot, Reason::TransportClosed);
                self.leave_to_another(engine, slot);
            }
        }
        let _ = reply.send(is_there);
    }
}

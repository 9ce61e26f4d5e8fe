//! What the API tells of sockets whose connection was lost, while their clients may come back.

use heartline_core::auth::UserKey;
use heartline_core::entries::{ConnectionState, SocketEntry, SocketFilter};
use heartline_core::line::session::Session;
use heartline_core::presence::SocketAddress;
use heartline_core::rooms::PRIVATE;

use super::pages::SocketPlace;
use crate::data::SocketData;
use crate::gateway::Gateway;
use crate::publication::{address_text, rtt_millis};

/// Losses that are looked at in one breath, and entries made of them: the shards wait so long
/// who lose a connection, or have one that comes back. Each entry costs a dozen allocations.
const LOSSES: usize = 1024;
const ENTRIES: usize = 64;

impl Gateway {
    /// A socket that was lost here.
    pub(super) fn suspended(&self, name: &SocketAddress) -> Option<SocketEntry> {
        let sessions = &self.shared.fanout.recovery.as_ref()?.sessions;
        let now = self.shared.clock.now();
        sessions.look(name, now, |session| self.suspended_entry(session))
    }

    /// The sockets of a user that were lost here.
    pub(super) fn suspended_of(&self, user: &UserKey) -> Vec<SocketEntry> {
        let recovery = self.shared.fanout.recovery.as_ref();
        let names = recovery.map_or_else(Vec::new, |recovery| recovery.sessions.names(user));
        let there = names.iter().filter_map(|name| self.suspended(name));
        there.collect()
    }

    /// Sockets that fit and were lost here, in the order in which they were, from a loss on,
    /// until there are `wanted`.
    pub(super) async fn list_suspended(
        &self,
        filter: &SocketFilter,
        from: u64,
        wanted: usize,
        found: &mut Vec<(SocketPlace, SocketEntry)>,
    ) {
        let Some(recovery) = &self.shared.fanout.recovery else {
            return;
        };
        let mut place = Some(from);
        while let Some(from) = place
            && found.len() < wanted
        {
            let now = self.shared.clock.now();
            let enough = wanted.min(found.len() + ENTRIES);
            let sessions = &recovery.sessions;
            place = sessions.look_at_some(from, LOSSES, now, |loss, session| {
                if self.is_meant(filter, session) {
                    let entry = self.suspended_entry(session);
                    found.push((SocketPlace::Suspended(loss), entry));
                }
                found.len() < enough
            });
            tokio::task::yield_now().await;
        }
    }

    fn is_meant(&self, filter: &SocketFilter, session: &Session<Option<SocketData>>) -> bool {
        let namespaces = &self.shared.fanout.namespaces;
        let namespace = &namespaces.get(session.name.namespace()).name;
        filter.fits(&session.identity, namespace, |name| {
            let mut rooms = session.rooms.iter();
            let own = name.strip_prefix(PRIVATE);
            rooms.any(|(room, _)| *room.key.name == *name)
                || own.is_some() && own == session.identity.user_id()
        })
    }

    fn suspended_entry(&self, session: &Session<Option<SocketData>>) -> SocketEntry {
        let (identity, name) = (&session.identity, session.name);
        let rooms = session.rooms.iter();
        let mut rooms: Vec<String> = rooms.map(|(room, _)| room.key.name.to_string()).collect();
        rooms.extend(identity.user_id().map(|user| format!("{PRIVATE}{user}")));
        rooms.sort_unstable();
        let namespace = self.shared.fanout.namespaces.get(name.namespace());
        let entry = SocketEntry {
            node_id: self.shared.config.node_id.clone(),
            namespace: namespace.name.to_string(),
            state: ConnectionState::Suspended.as_str().into(),
            rooms,
            ..SocketEntry::of(name.id(), identity)
        };
        let Some(seen) = &session.seen else {
            return entry;
        };
        let unix = |at| self.shared.clock.unix_millis(at);
        SocketEntry {
            transport: seen.transport.into(),
            remote_addr: address_text(seen.remote_addr),
            user_agent: seen.user_agent.as_ref().map(ToString::to_string),
            connected_at: unix(seen.connected_at),
            last_seen_at: unix(seen.last_seen),
            last_activity_at: unix(seen.last_activity),
            rtt_ms: rtt_millis(seen.rtt),
            ..entry
        }
    }
}

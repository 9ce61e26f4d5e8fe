//! Questions to the shards, in parts that one turn answers.

use std::collections::BTreeSet;

use heartline_core::entries::SocketEntry;
use heartline_core::presence::SocketAddress;
use tokio::sync::oneshot;

use super::Fanout;
use crate::op::{Op, Query, RoomFilter, RoomMembers};

/// Entries asked for in one turn of a shard.
const ENTRIES_PER_QUESTION: usize = 128;

impl Fanout {
    /// Asks one shard; `None` if it has ended.
    pub(crate) async fn query<T>(
        &self,
        shard: u16,
        question: impl FnOnce(oneshot::Sender<T>) -> Query,
    ) -> Option<T> {
        let (reply, answer) = oneshot::channel();
        self.post(shard, Op::Query(question(reply)));
        answer.await.ok()
    }

    /// The first `limit` rooms by name that have members in one shard, and one more; with how
    /// many members there.
    pub(crate) async fn rooms_of(
        &self,
        shard: u16,
        filter: &RoomFilter,
        limit: usize,
    ) -> Vec<RoomMembers> {
        let (mut found, mut place) = (Vec::new(), Some(0));
        while let Some(from) = place {
            let filter = filter.clone();
            let some = self.query(shard, |reply| Query::Rooms {
                filter,
                from,
                limit,
                reply,
            });
            let (some, next) = some.await.unwrap_or_default();
            found.extend(some);
            if found.len() > limit.saturating_add(1) {
                found.sort_unstable();
                found.truncate(limit.saturating_add(1));
            }
            place = next;
        }
        found
    }

    /// The entries of sockets of this node, as far as they are still there.
    pub(crate) async fn entries(&self, sockets: &[SocketAddress]) -> Vec<SocketEntry> {
        let mut entries = Vec::with_capacity(sockets.len());
        for of_shard in sockets.chunk_by(|a, b| a.0.conn.shard == b.0.conn.shard) {
            // In several turns.
            for some in of_shard.chunks(ENTRIES_PER_QUESTION) {
                let (shard, sockets) = (some[0].0.conn.shard, some.to_vec());
                let here = self.query(shard, |reply| Query::Entries { sockets, reply });
                entries.extend(here.await.unwrap_or_default());
            }
        }
        entries
    }

    /// The rooms of sockets of this node, the newest first.
    pub(crate) async fn recent_rooms(&self, sockets: &[SocketAddress]) -> Vec<String> {
        let mut rooms = Vec::new();
        for of_shard in sockets
            .chunk_by(|a, b| a.0.conn.shard == b.0.conn.shard)
            .rev()
        {
            let sockets = of_shard.iter().rev().copied().collect();
            let shard = of_shard[0].0.conn.shard;
            let here = self.query(shard, |reply| Query::RecentRooms { sockets, reply });
            rooms.extend(here.await.unwrap_or_default());
        }
        rooms
    }

    /// Names of rooms of a namespace that have members here without a tenant, at most `max`.
    pub(crate) async fn room_names(&self, namespace: &str, max: usize) -> Vec<String> {
        let mut names = BTreeSet::new();
        for shard in 0..self.shard_count() {
            let filter = RoomFilter {
                namespace: Some(namespace.to_owned()),
                ..RoomFilter::default()
            };
            let here = self.rooms_of(shard, &filter, max).await.into_iter();
            names.extend(
                here.filter(|((.., tenant), _)| tenant.is_none())
                    .map(|((room, ..), _)| room),
            );
        }
        names.into_iter().take(max).collect()
    }
}

//! The ways to sockets: a room, a user, a namespace; on this node or on all.
//!
//! Whatever is said to somebody starts or arrives here, and is posted to the shards whose
//! sockets it is for: `room`, `user`, `everybody`, `selected` and `socket` are to whom, `kept`
//! is where it is kept first, `arrived` and `lost` are what comes and does not come from other
//! nodes, and `ask` puts questions to shards.

mod arrived;
mod ask;
mod everybody;
mod kept;
mod lost;
mod room;
mod selected;
mod socket;
mod user;

pub(crate) use room::{Published, ToRoom, Unreachable};
pub(crate) use selected::ToRooms;
pub(crate) use user::ToUser;

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use heartline_core::backplane::Backplane;
use heartline_core::backplane::line::SharedLine;
use heartline_core::namespaces::{NamespaceId, Namespaces};
use heartline_core::presence::{RoomAddress, SocketAddress};
use heartline_core::rooms::{Room, RoomDirectory, RoomRef};
use heartline_engine::clock::Clock;
use heartline_engine::shard::ShardHandle;

use crate::op::{Op, SelectedAction, WatchOp};
use crate::owed::Owed;
use crate::recovery::Recovery;

/// What it takes to reach a socket.
pub(crate) struct Fanout {
    pub(crate) namespaces: Namespaces,
    /// The rooms that have members on this node.
    pub(crate) rooms: Arc<RoomDirectory>,
    /// The other nodes, and this node's users.
    pub(crate) backplane: Arc<dyn Backplane>,
    /// The ways to this node's shards.
    pub(crate) shards: Vec<ShardHandle<Op>>,
    /// Tells this run's rooms from another's.
    pub(crate) run: u32,
    /// Tells what is watched of this process from what was of another: unlike rooms, nothing of
    /// it goes on.
    pub(crate) life: u32,
    /// What is kept for clients that come back, if anything is.
    pub(crate) recovery: Option<Recovery>,
    /// When an event is kept.
    pub(crate) clock: Clock,
    pub(crate) unread: Unread,
    /// Stored messages that rooms here may not have heard of, though a node has stored them.
    pub(crate) owed: Owed,
}

/// What came from other nodes and could not be read: it is lost, and taken for that.
#[derive(Debug, Default)]
pub(crate) struct Unread {
    /// What nodes say to each other.
    pub(crate) notes: AtomicU64,
    /// Changes of presence in the line.
    pub(crate) changes: AtomicU64,
}

/// Bytes of payload that something in a mailbox holds: arguments, attachments, keys.
/// A publication to many shards or sockets counts in each of their posts, though it is
/// there once: reading stops too early rather than too late.
fn payload(op: &Op) -> usize {
    match op {
        Op::Emit { message, .. } | Op::EmitWithAck { message, .. } => message.size(),
        Op::Ack { args, .. } => args.size(),
        Op::Answer { text, .. } => text.len(),
        Op::Send { publication, .. }
        | Op::Deliver { publication, .. }
        | Op::Broadcast { publication, .. }
        | Op::DeliverAround { publication, .. }
        | Op::Watch(WatchOp::Changed { publication, .. })
        | Op::Select {
            action: SelectedAction::Send(publication),
            ..
        } => publication.size(),
        _ => 0,
    }
}

impl Fanout {
    /// Those of the places that are rooms of this namespace and have members here.
    pub(crate) fn find_rooms(
        &self,
        namespace: NamespaceId,
        tenant: Option<&str>,
        places: &[RoomAddress],
    ) -> Vec<Arc<Room>> {
        let name = &self.namespaces.get(namespace).name;
        let here = places.iter().filter(|place| place.namespace == *name);
        here.filter_map(|place| {
            self.rooms.find(&RoomRef {
                namespace,
                tenant,
                name: &place.room,
            })
        })
        .collect()
    }

    /// Asks something of a shard.
    pub(crate) fn post(&self, shard: u16, op: Op) {
        if let Some(shard) = self.shards.get(usize::from(shard)) {
            let bytes = payload(&op);
            shard.post(op, bytes);
        }
    }

    /// Whether a shard has nothing waiting of what was posted before now, as far as the caller
    /// can know of it.
    pub(crate) fn is_quiet(&self, shard: u16) -> bool {
        let shard = self.shards.get(usize::from(shard));
        shard.is_none_or(ShardHandle::is_quiet)
    }

    /// The same for all shards.
    pub(crate) fn post_to_all(&self, op: impl Fn() -> Op) {
        for shard in 0..self.shard_count() {
            self.post(shard, op());
        }
    }

    /// The number of shards.
    pub(crate) fn shard_count(&self) -> u16 {
        self.shards.len() as u16
    }

    /// Whether any shard has more to work off than it should.
    pub(crate) fn is_overloaded(&self) -> bool {
        self.shards.iter().any(ShardHandle::is_overloaded)
    }

    /// A room's epoch as clients know it: offsets of different epochs do not compare.
    pub(crate) fn epoch(&self, number: u64) -> String {
        let run = match self.common() {
            Some((recovery, _)) => recovery.line.epoch(),
            None => self.run,
        };
        format!("{run:08x}-{number:x}")
    }

    fn namespace_name(&self, namespace: NamespaceId) -> &Arc<str> {
        &self.namespaces.get(namespace).name
    }

    /// The line that all nodes share, and what this one has of it.
    pub(crate) fn common(&self) -> Option<(&Recovery, &Arc<dyn SharedLine>)> {
        let recovery = self.recovery.as_ref()?;
        Some((recovery, recovery.common.as_ref()?))
    }

    /// Where a socket is, or was, that is known by this id.
    pub(crate) fn find_socket(&self, id: &str) -> Option<SocketAddress> {
        SocketAddress::parse(id).map(|name| self.whereabouts(name))
    }

    /// Where a socket is, or was, that is known by this name.
    pub(crate) fn whereabouts(&self, name: SocketAddress) -> SocketAddress {
        match &self.recovery {
            Some(recovery) => recovery.whereabouts(name),
            None => name,
        }
    }
}

#[cfg(test)]
mod tests {
    use heartline_core::message::Message;
    use heartline_engine::shard::outbound::ConflationKey;

    use super::*;
    use crate::publication::Publication;

    #[test]
    fn whatever_a_publication_holds_weighs_in_a_mailbox() {
        let mut message = Message::new("e", "123");
        message.attachments = vec![vec![0; 1000].into(), vec![0; 200].into()];
        let key = ConflationKey {
            scope: 1,
            key: "four".into(),
        };
        let publication = Arc::new(Publication::new("/".into(), message, None, None, Some(key)));
        let op = Op::Broadcast {
            namespace: NamespaceId::ROOT,
            tenant: None,
            publication,
            about: None,
        };
        assert_eq!(payload(&op), 1 + 3 + 1200 + 4);
    }
}

//! What is said in a room.

use std::sync::Arc;

use heartline_core::auth::BoxFuture;
use heartline_core::backplane::Target;
use heartline_core::line::ring::{Kept, Only};
use heartline_core::message::Message;
use heartline_core::namespaces::NamespaceId;
use heartline_core::presence::SocketAddress;
use heartline_core::rooms::{self, PRIVATE, Room, RoomKey, RoomRef};
use heartline_engine::shard::outbound::ConflationKey;
use tokio::sync::oneshot;

use super::{Fanout, ToUser};
use crate::in_doubt::Place;
use crate::in_order::Later;
use crate::op::Op;
use crate::owed;
use crate::publication::{Publication, Told};
use crate::recovery::Recovery;

/// The members of a room.
#[derive(Clone, Copy)]
pub(crate) struct ToRoom<'a> {
    pub(crate) namespace: NamespaceId,
    pub(crate) tenant: Option<&'a str>,
    pub(crate) room: &'a str,
    /// Set where only the newest per room and key matters to a slow reader.
    pub(crate) key: Option<&'a str>,
    /// Not this one of them.
    pub(crate) skip: Option<SocketAddress>,
}

/// What became of a publication.
#[must_use]
pub(crate) enum Published {
    /// It has this offset, if the room has members here.
    Here(Option<u64>),
    /// It is on its way into the line that all nodes share.
    InLine {
        said: BoxFuture<Option<u64>>,
        /// Its number is an offset that clients know.
        is_numbered: bool,
        /// It is not told to those here, should it not get there.
        refuse: bool,
    },
    /// It waits for what its connection has said before.
    Later(oneshot::Receiver<Published>),
}

impl Published {
    /// Publishes when it is time for it.
    pub(super) fn later(
        (later, kept): &(Arc<Later>, bool),
        message: &Message,
        publish: impl FnOnce() -> Published + Send + 'static,
    ) -> Published {
        let (reply, published) = oneshot::channel();
        // An error: nobody waits for what becomes of it.
        later.publish(message.size(), *kept, move || drop(reply.send(publish())));
        Published::Later(published)
    }

    /// Its offset, once it has one; `None`: it is not known.
    ///
    /// # Errors
    /// It was told to nobody: the line that all nodes share is away, and that is how the
    /// operator wants it.
    pub(crate) async fn offset(self) -> Result<Option<u64>, Unreachable> {
        let published = match self {
            // An error: the shard has ended.
            Published::Later(later) => later.await.unwrap_or(Published::Here(None)),
            published => published,
        };
        match published {
            // Nothing waits twice.
            Published::Later(_) => Ok(None),
            Published::Here(offset) => Ok(offset),
            Published::InLine {
                said,
                is_numbered,
                refuse,
            } => match said.await {
                None if refuse => Err(Unreachable),
                offset => Ok(offset.filter(|_| is_numbered)),
            },
        }
    }
}

/// The line that all nodes share cannot be reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Unreachable;

impl Fanout {
    /// Gives a publication to the members of a room, on all nodes. Its offset, if the
    /// room has members here or its publications are kept; a user's room numbers nothing.
    pub(crate) fn publish_to_room(
        self: &Arc<Self>,
        to: &ToRoom<'_>,
        message: Message,
    ) -> Published {
        if let Some(user) = to.room.strip_prefix(PRIVATE) {
            let to = ToUser {
                namespace: to.namespace,
                tenant: to.tenant,
                user,
                only: None,
                topic: Some(to.room),
                instead_of: None,
                key: to.key,
                skip: to.skip,
            };
            return self.send_to_user(&to, message).1;
        }
        let Some(later) = self.later(|recovery| recovery.keeps(to.room)) else {
            return self.publish_now(to, message);
        };
        let (fanout, namespace, skip) = (self.clone(), to.namespace, to.skip);
        let tenant = to.tenant.map(ToOwned::to_owned);
        let (room, key) = (to.room.to_owned(), to.key.map(ToOwned::to_owned));
        let said = message.clone();
        Published::later(&later, &message, move || {
            let to = ToRoom {
                namespace,
                tenant: tenant.as_deref(),
                room: &room,
                key: key.as_deref(),
                skip,
            };
            fanout.publish_now(&to, said)
        })
    }

    fn publish_now(&self, to: &ToRoom<'_>, message: Message) -> Published {
        let target = Target::Room {
            namespace: self.namespace_name(to.namespace),
            tenant: to.tenant,
            room: to.room,
            key: to.key,
        };
        let is_kept = |recovery: &Recovery| recovery.keeps(to.room);
        if let Some(said) = self.say_in_common(&target, is_kept, &message, to.skip) {
            return said;
        }
        if to.key.is_none() {
            self.backplane.publish(&target, &message);
            return Published::Here(self.publish_here(to, message));
        }
        let mut offset = None;
        self.backplane.publish_keyed(&target, &message, &mut || {
            offset = self.publish_here(to, message.clone());
        });
        Published::Here(offset)
    }

    /// Whether a room is here, in whichever namespace.
    pub(crate) fn has_room(&self, (tenant, name): &Place) -> bool {
        let tenant = tenant.as_deref();
        self.namespaces.iter().any(|(namespace, _)| {
            let room = RoomRef {
                namespace,
                tenant,
                name,
            };
            self.rooms.find(&room).is_some()
        })
    }

    /// Notes that a room has members here from now on, if it is that of a conversation.
    pub(crate) fn note_opened(&self, room: &RoomKey) {
        if self.owed.is_on() && rooms::conversation_of(&room.name).is_some() {
            let now = self.clock.now();
            let at = self.clock.unix_millis(now);
            self.owed.opened(|| owed::place(room), now, at);
        }
    }

    /// Notes that a room is not here any more, if it is that of a conversation.
    pub(crate) fn note_closed(&self, room: &RoomKey) {
        if self.owed.is_on() && rooms::conversation_of(&room.name).is_some() {
            self.owed.closed(&owed::place(room));
        }
    }

    /// Notes a stored message that a room hears of.
    pub(crate) fn note_heard(&self, room: &Room, message: &Message) {
        self.note_offset(room, self.stored_offset(room, message));
    }

    /// The offset of a stored message that a room hears of, where that is noted.
    pub(crate) fn stored_offset(&self, room: &Room, message: &Message) -> Option<u64> {
        let is_on = self.owed.is_on();
        is_on
            .then(|| owed::offset_of(message, &room.key.name))
            .flatten()
    }

    /// Notes such an offset.
    pub(crate) fn note_offset(&self, room: &Room, stored: Option<u64>) {
        if let Some(offset) = stored {
            let now = self.clock.now();
            self.owed.heard(|| owed::place(&room.key), offset, now);
        }
    }

    pub(super) fn publish_here(&self, to: &ToRoom<'_>, message: Message) -> Option<u64> {
        let room = self.rooms.find(&RoomRef {
            namespace: to.namespace,
            tenant: to.tenant,
            name: to.room,
        })?;
        let make = |offset, place: Option<Told>, message: Message| {
            let conflate = to.key.map(|key| ConflationKey {
                scope: room.incarnation,
                key: key.into(),
            });
            let name = self.namespace_name(to.namespace).clone();
            let topic = Some(room.key.name.clone());
            let publication = Publication::new(name, message, topic, Some(offset), conflate);
            (offset, Arc::new(publication.at(place)))
        };
        let to_shard = |shard: usize, (offset, publication): &(u64, Arc<Publication>)| {
            let op = Op::Deliver {
                room: room.clone(),
                offset: *offset,
                publication: publication.clone(),
                skip: to.skip,
            };
            self.post(shard as u16, op);
        };
        self.note_heard(&room, &message);
        if self.common().is_some() && room.is_kept() {
            // Who does not know of the line has said it.
            let told = self.passing(&message);
            self.pass(&room, message, to.skip, told);
            return None;
        }
        let recovery = self.recovery.as_ref().filter(|_| room.is_kept());
        let Some(recovery) = recovery else {
            let make = |offset| make(offset, self.passing(&message), message);
            return Some(room.publish(make, to_shard));
        };
        let only = Only {
            skip: to.skip,
            ..Only::default()
        };
        let kept = Kept {
            key: to.key.map(Into::into),
            ..recovery.kept(&message, only, self.clock.now())
        };
        let make = |offset, id| {
            let place = recovery.line.place(id);
            let told = Told {
                place,
                is_own: true,
            };
            make(offset, Some(told), message)
        };
        let note = |event: &Kept| {
            if let Some(journal) = &recovery.journal {
                journal.room_event(&room, event);
            }
        };
        let offset = room.publish_kept(&recovery.line, kept, note, make, to_shard);
        Some(offset)
    }
}

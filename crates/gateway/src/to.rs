//! Whom an app speaks to: rooms, a namespace, all but somebody.

use std::sync::Arc;

use heartline_core::auth::UserKey;
use heartline_core::backplane::MAX_ADDED;
use heartline_core::message::check;
use heartline_core::namespaces::NamespaceId;
use heartline_core::presence::SocketAddress;
use heartline_core::rooms::{self, PRIVATE, RoomError};
use heartline_core::store::StoredMessage;
use serde::Serialize;

use crate::event::{Args, EventError, said, to_json};
use crate::fanout::{ToRoom, ToRooms, ToUser};
use crate::in_doubt::{InTurn, Place};
use crate::in_order;
use crate::notices::Due;
use crate::recovery::Recovery;
use crate::shared::Shared;

/// Sockets by where they are, on all nodes: what `socket.to(…)` and `io.to(…).except(…)` are
/// on Node. Made by [`Socket::to`](crate::Socket::to),
/// [`Socket::broadcast`](crate::Socket::broadcast) and [`Gateway::to`](crate::Gateway::to).
///
/// Whoever is in several of the rooms hears an event once. A room may also be a socket's id,
/// or `user:ID`.
#[must_use = "it says nothing before an emit"]
#[derive(Clone)]
pub struct To {
    shared: Arc<Shared>,
    namespace: NamespaceId,
    tenant: Option<Arc<str>>,
    rooms: Vec<String>,
    except: Vec<String>,
    skip: Option<SocketAddress>,
    /// A client of this user says it: a room is no socket's id, and `user:ID` that of the user key.
    client: Option<Arc<UserKey>>,
}

/// A conversation's members who are not in its room are to hear of a message that was stored, as
/// `message:notification`. It is sent once: by whoever [sends](Self::send) it; or, where that is not
/// waited for, or the store does not say who the members are, by the gateway as soon as it can. So
/// nobody has to wait for the store for longer than they want to.
#[must_use = "it is sent later than it could be"]
pub struct Notice {
    shared: Arc<Shared>,
    /// `None`: it was sent.
    due: Option<Due>,
}

impl Notice {
    /// Sends it now.
    pub async fn send(mut self) {
        let Some(due) = &self.due else {
            return;
        };
        match self.shared.notify_of(due).await {
            Ok(()) => self.due = None,
            Err(error) => tracing::warn!(%error, "a conversation's members are told later"),
        }
    }
}

impl Drop for Notice {
    fn drop(&mut self) {
        if let Some(due) = self.due.take() {
            self.shared.notices.put(due);
        }
    }
}

impl To {
    pub(crate) fn new(
        shared: Arc<Shared>,
        namespace: NamespaceId,
        tenant: Option<Arc<str>>,
        skip: Option<SocketAddress>,
    ) -> To {
        To {
            shared,
            namespace,
            tenant,
            rooms: Vec::new(),
            except: Vec::new(),
            skip,
            client: None,
        }
    }

    /// What is said there is what a client of this user wants to say in a room.
    pub(crate) fn by_client(mut self, user: &Arc<UserKey>) -> To {
        self.client = Some(user.clone());
        self
    }

    /// And whoever is in this room.
    pub fn to(mut self, room: &str) -> To {
        self.rooms.push(room.to_owned());
        self
    }

    /// But not whoever is in this room.
    pub fn except(mut self, room: &str) -> To {
        self.except.push(room.to_owned());
        self
    }

    /// Sends an event with one argument.
    ///
    /// # Errors
    /// `INVALID_EVENT`, `INVALID_ROOM`, `PAYLOAD_TOO_LARGE`, or `INTERNAL` when `data` cannot
    /// be written as JSON.
    pub fn emit<T: Serialize + ?Sized>(&self, event: &str, data: &T) -> Result<(), EventError> {
        self.emit_args(event, &Args::one(data)?)
    }

    /// Tells a room of a message that was stored, as `message:new`: at once, or where messages
    /// before it may be there of which a killed process told nobody, after those. Of several
    /// rooms it is the first. That of a conversation is told in every namespace, as the store
    /// and the members are those of all. To be called as [`Tell`](heartline_core::store::Tell).
    ///
    /// The members of a conversation who are not in its room hear of it by what is returned. `None`:
    /// the room is no conversation's, or all of them were told: by another node, or as of a message
    /// that an earlier process has left.
    ///
    /// # Errors
    /// As [`emit`](Self::emit); a message may be longer than what a client may say by what the
    /// gateway has added.
    pub fn emit_stored(&self, message: &StoredMessage) -> Result<Option<Notice>, EventError> {
        let owed = &self.shared.fanout.owed;
        let at = self.shared.unix_millis();
        if self.is_of_conversation() && owed.was_told(|| self.place(), message, at) {
            // Another node has, as this one was so long about it.
            return Ok(None);
        }
        let args = Args {
            json: to_json(message)?,
            attachments: Vec::new(),
        };
        // In the order of the offsets, whoever has sent it.
        let emit = || in_order::at_once(|| self.emit_new(&args));
        match self.of_one_room() {
            None => emit()?,
            Some(recovery) => {
                let in_doubt = &recovery.in_doubt;
                let place = || self.place();
                match in_doubt.in_turn(self.namespace, place, message.offset, emit) {
                    InTurn::Now(told) => told?,
                    InTurn::FromStore => {}
                    InTurn::AsAnothers => return Ok(None),
                }
            }
        }
        let id = match self.rooms.first() {
            Some(room) if self.is_of_conversation() => rooms::conversation_of(room),
            _ => None,
        };
        Ok(id.map(|id| Notice {
            shared: self.shared.clone(),
            due: Some(Due::new(self.tenant.clone(), id, (message, &args.json))),
        }))
    }

    fn emit_new(&self, args: &Args) -> Result<(), EventError> {
        let event = "message:new";
        // What was accepted is told, with what was added to it.
        let max = self.shared.config.max_payload.saturating_add(MAX_ADDED);
        if !self.is_of_conversation() {
            return self.emit_in(self.namespace, event, args, max);
        }
        let mut all = self.shared.fanout.namespaces.iter();
        all.try_for_each(|(namespace, _)| self.emit_in(namespace, event, args, max))
    }

    /// A message was in the store already when it was to be stored: if a killed process stored
    /// it and told nobody, the room is told.
    pub fn was_stored(&self, message: &StoredMessage) {
        if let Some(recovery) = self.of_one_room() {
            recovery.in_doubt.is_there(|| self.place(), message.offset);
        }
        if self.is_of_conversation() {
            let fanout = &self.shared.fanout;
            let now = fanout.clock.now();
            fanout.owed.is_there(|| self.place(), message.offset, now);
        }
    }

    /// What is kept for clients that come back, if it says something to a room.
    fn of_one_room(&self) -> Option<&Recovery> {
        let recovery = self.shared.fanout.recovery.as_ref();
        recovery.filter(|_| !self.rooms.is_empty())
    }

    /// The first of the rooms.
    fn place(&self) -> Place {
        let room = self.rooms.first().map_or("", |room| room);
        (self.tenant.clone(), room.into())
    }

    /// Sends an event with the arguments as they are.
    ///
    /// # Errors
    /// As [`emit`](Self::emit).
    pub fn emit_args(&self, event: &str, args: &Args) -> Result<(), EventError> {
        self.emit_in(self.namespace, event, args, self.shared.config.max_payload)
    }

    /// Whether it is the room of a conversation.
    fn is_of_conversation(&self) -> bool {
        let is_one = |room: &String| rooms::conversation_of(room).is_some();
        self.rooms.len() == 1 && self.rooms.iter().all(is_one)
    }

    /// `max` bytes is what the arguments may have.
    fn emit_in(
        &self,
        namespace: NamespaceId,
        event: &str,
        args: &Args,
        max: usize,
    ) -> Result<(), EventError> {
        if !self
            .rooms
            .iter()
            .chain(&self.except)
            .all(|room| rooms::is_valid_name(room))
        {
            return Err(RoomError::Invalid.into());
        }
        let message = said(event, args)?;
        check(&message.args, &message.attachments, max)?;
        let fanout = &self.shared.fanout;
        match (&*self.rooms, &*self.except, &self.client) {
            ([room], [], Some(user)) if room.starts_with(PRIVATE) => {
                let to = ToUser {
                    namespace,
                    tenant: user.tenant_id.as_deref(),
                    user: &user.user_id,
                    only: Some(user),
                    topic: Some(room),
                    instead_of: None,
                    key: None,
                    skip: self.skip,
                };
                drop(fanout.send_to_user(&to, message));
            }
            // A room's own way: numbered, with its name for live subscribers.
            ([room], [], client) if client.is_some() || SocketAddress::parse(room).is_none() => {
                let to = ToRoom {
                    namespace,
                    tenant: self.tenant.as_deref(),
                    room,
                    key: None,
                    skip: self.skip,
                };
                drop(fanout.publish_to_room(&to, message));
            }
            (rooms, except, _) => {
                let to = ToRooms {
                    namespace,
                    tenant: self.tenant.as_ref(),
                    rooms,
                    except,
                    skip: self.skip,
                };
                drop(fanout.send_to_rooms(&to, message));
            }
        }
        Ok(())
    }
}

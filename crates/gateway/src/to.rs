//! Whom an app speaks to: rooms, a namespace, all but somebody.

use std::sync::Arc;

use heartline_core::message::check;
use heartline_core::namespaces::NamespaceId;
use heartline_core::presence::SocketAddress;
use heartline_core::rooms::{self, RoomError};
use serde::Serialize;

use crate::event::{Args, EventError, said};
use crate::fanout::{ToRoom, ToRooms};
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
        }
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

    /// Sends an event with the arguments as they are.
    ///
    /// # Errors
    /// As [`emit`](Self::emit).
    pub fn emit_args(&self, event: &str, args: &Args) -> Result<(), EventError> {
        if !self
            .rooms
            .iter()
            .chain(&self.except)
            .all(|room| rooms::is_valid_name(room))
        {
            return Err(RoomError::Invalid.into());
        }
        let message = said(event, args)?;
        check(
            &message.args,
            &message.attachments,
            self.shared.config.max_payload,
        )?;
        let fanout = &self.shared.fanout;
        match (&*self.rooms, &*self.except) {
            // A room's own way: numbered, with its name for live subscribers.
            ([room], []) if SocketAddress::parse(room).is_none() => {
                let to = ToRoom {
                    namespace: self.namespace,
                    tenant: self.tenant.as_deref(),
                    room,
                    key: None,
                    skip: self.skip,
                };
                fanout.publish_to_room(&to, message);
            }
            (rooms, except) => {
                let to = ToRooms {
                    namespace: self.namespace,
                    tenant: self.tenant.as_ref(),
                    rooms,
                    except,
                    skip: self.skip,
                };
                fanout.send_to_rooms(&to, message);
            }
        }
        Ok(())
    }
}

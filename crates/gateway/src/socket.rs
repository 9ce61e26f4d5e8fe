//! A handle to one socket, for handlers and whoever they share it with.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use heartline_core::auth::Identity;
use heartline_core::message::{Message, check, check_key};
use heartline_core::presence::SocketAddress;
use heartline_core::rooms::{self, RoomError};
use heartline_wire::names::{self, Speaker};
use heartline_wire::reason::Reason;
use serde::Serialize;
use tokio::sync::oneshot;

use crate::event::{Args, EventError, to_json};
use crate::in_order;
use crate::op::Op;
use crate::shared::OwnShared;

/// One client's place in one namespace.
///
/// Cheap to clone and valid for ever: what is asked of a socket that has gone
/// does nothing, and what waits for its answer is told so.
#[derive(Clone)]
pub struct Socket {
    pub(crate) shared: OwnShared,
    pub(crate) address: SocketAddress,
    pub(crate) identity: Arc<Identity>,
    pub(crate) remote: IpAddr,
}

impl std::fmt::Debug for Socket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Socket")
            .field("id", &self.id())
            .field("namespace", &self.namespace())
            .finish_non_exhaustive()
    }
}

fn gone() -> EventError {
    EventError::new("DISCONNECTED", "The socket is gone")
}

impl Socket {
    /// The socket's id.
    pub fn id(&self) -> String {
        self.address.0.encode()
    }

    /// The namespace's name.
    pub fn namespace(&self) -> &str {
        &self
            .shared
            .fanout
            .namespaces
            .get(self.address.namespace())
            .name
    }

    /// Whose it is, as of when this handle was made.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// The client's address.
    pub fn remote_addr(&self) -> IpAddr {
        self.remote
    }

    pub(crate) fn address(&self) -> SocketAddress {
        self.address
    }

    pub(crate) fn post(&self, op: Op) {
        self.shared.fanout.post(self.address.0.conn.shard, op);
    }

    /// The same for a change of the socket's rooms, which the client's next event is to
    /// find done.
    pub(crate) fn post_in_order(&self, op: Op) {
        in_order::ask();
        self.post(op);
    }

    /// Sends an event with one argument.
    ///
    /// # Errors
    /// `INVALID_EVENT` when the name is one of the protocols' own (`connect`), empty or
    /// longer than 128 bytes; `INTERNAL` when `data` cannot be written as JSON.
    pub fn emit<T: Serialize + ?Sized>(&self, event: &str, data: &T) -> Result<(), EventError> {
        self.emit_message(said(event, &to_json(data)?)?, false);
        Ok(())
    }

    /// The gateway's own word, under whatever name the contract gives it.
    pub(crate) fn emit_own<T: Serialize + ?Sized>(
        &self,
        event: &str,
        data: &T,
    ) -> Result<(), EventError> {
        self.emit_message(Message::new(event, &to_json(data)?), false);
        Ok(())
    }

    /// Sends an event with the arguments as they are.
    ///
    /// # Errors
    /// `INVALID_EVENT`, as for [`emit`](Self::emit).
    pub fn emit_args(&self, event: &str, args: &Args) -> Result<(), EventError> {
        self.emit_message(message(event, args)?, false);
        Ok(())
    }

    /// Sends an event only if it can leave at once.
    ///
    /// # Errors
    /// As [`emit`](Self::emit).
    pub fn emit_volatile<T: Serialize + ?Sized>(
        &self,
        event: &str,
        data: &T,
    ) -> Result<(), EventError> {
        self.emit_message(said(event, &to_json(data)?)?, true);
        Ok(())
    }

    fn emit_message(&self, message: Message, volatile: bool) {
        self.post(Op::Emit {
            to: self.address,
            message,
            volatile,
        });
    }

    /// Sends an event and waits for the client's acknowledgement.
    ///
    /// # Errors
    /// `TIMEOUT` when none came in time, `DISCONNECTED` when the socket went,
    /// `NOT_SUPPORTED` on the live protocol, which has none, `INVALID_EVENT` as for
    /// [`emit`](Self::emit).
    pub async fn emit_with_ack(
        &self,
        event: &str,
        args: &Args,
        timeout: Duration,
    ) -> Result<Args, EventError> {
        let message = message(event, args)?;
        let (reply, answer) = oneshot::channel();
        self.post(Op::EmitWithAck {
            to: self.address,
            message,
            reply,
        });
        match tokio::time::timeout(timeout, answer).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => Err(gone()),
            Err(_) => Err(EventError::new("TIMEOUT", "No acknowledgement in time")),
        }
    }

    /// Joins a room, whatever the socket's token says of it. Joining twice
    /// changes nothing.
    ///
    /// # Errors
    /// `INVALID_ROOM`, `ROOM_LIMIT`, or `DISCONNECTED`.
    pub async fn join(&self, room: &str) -> Result<(), EventError> {
        if !rooms::is_valid_name(room) {
            return Err(RoomError::Invalid.into());
        }
        let (reply, answer) = oneshot::channel();
        self.post_in_order(Op::Join {
            to: self.address,
            room: room.into(),
            reply,
        });
        let held = answer.await.map_err(|_| gone())??;
        if let Some(ready) = held.and_then(|held| held.ready()) {
            ready.await;
        }
        Ok(())
    }

    /// Leaves a room. Leaving one it is not in changes nothing.
    ///
    /// # Errors
    /// `DISCONNECTED`.
    pub async fn leave(&self, room: &str) -> Result<(), EventError> {
        let (reply, answer) = oneshot::channel();
        self.post_in_order(Op::Leave {
            to: self.address,
            room: room.into(),
            reply,
        });
        answer.await.map_err(|_| gone())
    }

    /// Publishes an event to a room of the socket's tenant and namespace.
    ///
    /// # Errors
    /// `INVALID_ROOM`, `PAYLOAD_TOO_LARGE` for more than `max_payload`, or as for [`emit`](Self::emit).
    pub async fn publish<T: Serialize + ?Sized>(
        &self,
        room: &str,
        event: &str,
        data: &T,
    ) -> Result<(), EventError> {
        let message = said(event, &to_json(data)?)?;
        self.publish_message(room, message, None).map(drop)
    }

    pub(crate) fn publish_message(
        &self,
        room: &str,
        message: Message,
        key: Option<&str>,
    ) -> Result<Option<u64>, EventError> {
        if !rooms::is_valid_name(room) {
            return Err(RoomError::Invalid.into());
        }
        // Other nodes would drop it.
        check_key(key)?;
        let max = self.shared.config.max_payload;
        check(&message.args, &message.attachments, max)?;
        let tenant = self.identity.tenant_id().map(|tenant| &**tenant);
        Ok(self
            .shared
            .fanout
            .publish_to_room(self.address.namespace(), tenant, room, message, key))
    }

    /// Ends the socket and tells its client not to come back.
    pub fn disconnect(&self) {
        self.post(Op::Disconnect {
            to: self.address,
            reason: Reason::Kicked,
            reply: None,
        });
    }
}

fn message(event: &str, args: &Args) -> Result<Message, EventError> {
    Ok(Message {
        attachments: args.attachments.clone(),
        ..said(event, &args.json)?
    })
}

/// An event of the app's: under any name but those that would break a client's parser.
fn said(event: &str, args: &str) -> Result<Message, EventError> {
    if !names::may_say(Speaker::Backend, event) {
        return Err(EventError::new(
            "INVALID_EVENT",
            "An event's name has 1 to 128 bytes and is none of the protocols' own",
        ));
    }
    Ok(Message::new(event, args))
}

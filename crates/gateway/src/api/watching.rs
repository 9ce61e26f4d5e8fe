//! What sockets watch, for handlers.

use std::sync::Arc;

use heartline_core::presence::watch::{Answer, MAX_BYTES, MAX_USERS, MAX_WATCHES, Refused, Scope};
use heartline_core::rooms::{self, PRIVATE, RoomError};
use heartline_wire::codes::Code;

use crate::event::EventError;
use crate::gateway::Gateway;
use crate::in_order;
use crate::socket::Socket;

impl From<Refused> for EventError {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::TooMuch => EventError::new(
                Code::TooLarge,
                format!(
                    "A socket watches at most {MAX_USERS} users and {MAX_WATCHES} rooms, whose \
                     names have {MAX_BYTES} bytes"
                ),
            ),
            Refused::TooManyInRoom => EventError::new(
                Code::TooLarge,
                "There are too many in the room to watch them",
            ),
            Refused::Overloaded => Code::Overloaded.into(),
            Refused::Gone => Code::Disconnected.into(),
        }
    }
}

impl Gateway {
    /// Has a socket watch users of its tenant: it is sent `presence:change` from here on. The
    /// answer is what a handler of `presence:watch` acknowledges with; with `after`, an epoch
    /// and a number, it goes on from there, if that is still known.
    ///
    /// # Errors
    /// `TOO_LARGE` when the socket watches too much, `OVERLOADED`, `DISCONNECTED`.
    pub async fn watch_users(
        &self,
        socket: &Socket,
        users: &[String],
        after: Option<(&str, u64)>,
    ) -> Result<Answer, EventError> {
        in_order::ask();
        let scope = users_of(socket, users);
        let watches = &self.shared.watches;
        Ok(watches.watch(scope, socket.address(), after).await?)
    }

    /// The same for whoever is in a room, which the client has to be in or to be allowed to join,
    /// also at each change. It ends when the socket leaves the room.
    ///
    /// # Errors
    /// As [`watch_users`](Self::watch_users), also when too many are in the room; and as
    /// [`Socket::may_join`].
    pub async fn watch_room(
        &self,
        socket: &Socket,
        room: &str,
        after: Option<(&str, u64)>,
    ) -> Result<Answer, EventError> {
        // What the client says next finds it done.
        in_order::ask();
        if room.starts_with(PRIVATE) {
            // Whoever may not join it hears that.
            socket.may_join(room).await?;
            let sentence = "A user's own room is not watched: watch { users }";
            return Err(EventError::new(Code::Forbidden, sentence));
        }
        let scope = room_of(socket, room)?;
        if let Err(refused) = socket.may_join(room).await {
            // The app may have put it there all the same.
            let entry = socket.entry().await;
            if !entry.is_some_and(|entry| entry.rooms.iter().any(|there| there == room)) {
                return Err(refused);
            }
        }
        let watches = &self.shared.watches;
        Ok(watches.watch(scope, socket.address(), after).await?)
    }

    /// Ends what [`watch_users`](Self::watch_users) began; whether there was anything.
    pub fn unwatch_users(&self, socket: &Socket, users: &[String]) -> bool {
        let scope = Arc::new(users_of(socket, users));
        self.shared.watches.unwatch(&scope, socket.address())
    }

    /// Ends what [`watch_room`](Self::watch_room) began; whether there was anything.
    pub fn unwatch_room(&self, socket: &Socket, room: &str) -> bool {
        let scope = room_of(socket, room).map(Arc::new);
        scope.is_ok_and(|scope| self.shared.watches.unwatch(&scope, socket.address()))
    }

    /// Ends the watch of this epoch; without one, all that the socket watches. How many there
    /// were.
    pub fn unwatch(&self, socket: &Socket, epoch: Option<&str>) -> usize {
        let watches = &self.shared.watches;
        watches.unwatch_some(socket.address(), epoch)
    }

    /// Until when nothing is missing in what this node says of users, Unix milliseconds: now; in a
    /// cluster, the time up to which it has heard of all changes, some seconds ago at most, or
    /// before it was cut off. It does not go back.
    pub fn as_of(&self) -> u64 {
        self.shared.watches.as_of()
    }
}

fn users_of(socket: &Socket, users: &[String]) -> Scope {
    let tenant = socket.identity().tenant_id().cloned();
    Scope::users(tenant, users.iter().map(|user| user.as_str().into()))
}

fn room_of(socket: &Socket, room: &str) -> Result<Scope, EventError> {
    if !rooms::is_valid_name(room) {
        return Err(RoomError::Invalid.into());
    }
    let tenant = socket.identity().tenant_id().cloned();
    Ok(Scope::room(tenant, socket.namespace().into(), room.into()))
}

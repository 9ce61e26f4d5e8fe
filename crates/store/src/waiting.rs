//! Messages on their way into a database, and how their senders hear of it.

use heartline_core::auth::BoxFuture;
use heartline_core::store::{Channel, NewMessage, StoreError, Stored, Tell};
use tokio::sync::oneshot;

use crate::queue::Refused;

/// What a message that waits costs besides its texts, about, bytes.
pub(crate) const OVERHEAD: usize = 512;

/// Who is to hear of a message that waits to be stored.
pub(crate) struct Reply {
    pub(crate) tell: Tell,
    pub(crate) sender: oneshot::Sender<Result<Stored, StoreError>>,
}

impl Reply {
    /// Says what storing it came to: others are told first, if it is new.
    pub(crate) fn answer(self, stored: Result<Stored, StoreError>) {
        if let Ok(Stored {
            message,
            duplicate: false,
        }) = &stored
        {
            let tell = || (self.tell)(message);
            if std::panic::catch_unwind(std::panic::AssertUnwindSafe(tell)).is_err() {
                tracing::error!(id = message.id, "telling of a message panicked");
            }
        }
        // Whoever asked may have gone.
        let _ = self.sender.send(stored);
    }
}

/// What a message weighs while it waits, about, bytes.
pub(crate) fn weight(message: &NewMessage) -> usize {
    let key = message.temp_id.as_ref().map_or(0, String::len);
    OVERHEAD + message.content.len() + message.channel.name().len() + key
}

/// The names that `conversation.kind` has in the tables.
pub(crate) fn kind(channel: &Channel) -> &'static str {
    match channel {
        Channel::Conversation(_) => "conversation",
        Channel::Room(_) => "room",
    }
}

/// The answer, once it is there.
pub(crate) fn answer<T: Send + 'static>(
    waits: Result<(), Refused>,
    answer: oneshot::Receiver<Result<T, StoreError>>,
) -> BoxFuture<Result<T, StoreError>> {
    let closed = || StoreError::Failed("the store is closed".into());
    match waits {
        Ok(()) => Box::pin(async move { answer.await.unwrap_or_else(|_| Err(closed())) }),
        Err(Refused::Full) => Box::pin(std::future::ready(Err(StoreError::Overloaded))),
        Err(Refused::Closed) => Box::pin(std::future::ready(Err(closed()))),
    }
}

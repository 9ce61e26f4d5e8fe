//! Invites: made and taken back by backends, used by backends and clients alike.

use std::net::IpAddr;
use std::sync::Arc;

use heartline_core::auth::UserKey;
use heartline_core::rooms;
use heartline_core::store::StoreError;
use heartline_core::store::invites::{Invite, NewInvite, Unusable};
use heartline_wire::codes::Code;
use heartline_wire::invite;

use crate::event::EventError;
use crate::gateway::Gateway;
use crate::in_order;
use crate::limits::Guesser;

/// Who has come by an invite is a member of this conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Welcome {
    /// The conversation.
    pub conversation_id: String,
    /// Its room.
    pub room: String,
}

impl From<Unusable> for EventError {
    fn from(why: Unusable) -> Self {
        match why {
            Unusable::NotFound => Code::InviteNotFound.into(),
            Unusable::Expired => Code::InviteExpired.into(),
            Unusable::Revoked => Code::InviteRevoked.into(),
            Unusable::Exhausted => Code::InviteExhausted.into(),
            Unusable::Full => EventError::new(
                Code::InviteExhausted,
                "The conversation has as many members as it may have, or you are in as many as \
                 you may be",
            ),
        }
    }
}

impl Gateway {
    /// Makes an invite to a conversation, under a code that nobody can guess.
    ///
    /// # Errors
    /// When the store cannot keep it.
    pub async fn create_invite(&self, new: NewInvite) -> Result<Invite, StoreError> {
        loop {
            let code = invite::make(heartline_engine::random::fill);
            // That there is one already happens never, or never twice.
            if self.store().create_invite(&code, new.clone()).await? {
                return Ok(Invite::new(code, new));
            }
        }
    }

    /// The address of an invite, where `invites.url` says what those look like.
    pub fn invite_url(&self, code: &str) -> Option<String> {
        let template = self.config().conversations.invite_url.as_ref()?;
        Some(invite::address(template, code))
    }

    /// Makes a user a member of the conversation to which an invite is, whatever the user's
    /// token says of it; `text` is the code, or an address with it. After ten within a minute that
    /// there are not, a user and an address have to wait. What the client says behind the event of
    /// a handler that calls this waits until the handler has ended: it finds the user a member.
    ///
    /// # Errors
    /// `INVALID_INVITE`, `INVITE_NOT_FOUND`, `INVITE_EXPIRED`, `INVITE_EXHAUSTED`,
    /// `INVITE_REVOKED`, `RATE_LIMITED`; `OVERLOADED` or `INTERNAL` when the store cannot do it.
    pub async fn join_by_invite(
        &self,
        text: &str,
        user: &Arc<UserKey>,
        address: Option<IpAddr>,
    ) -> Result<Welcome, EventError> {
        in_order::ask();
        let shared = &self.shared;
        let code = invite::parse(text).ok_or(Code::InvalidInvite)?;
        let mut who = vec![Guesser::User(user.clone())];
        who.extend(address.map(Guesser::at));
        let may = shared.limits.may_guess(&who, shared.clock.now());
        may.map_err(|wait| EventError::from(Code::RateLimited).retry_after(wait))?;
        let now = self.unix_millis();
        let used = self.store().use_invite(&code, user, now).await;
        let used = used.map_err(|error| match error {
            StoreError::Overloaded => Code::Overloaded.into(),
            StoreError::Failed(reason) => {
                tracing::error!(reason, "an invite could not be used");
                EventError::new(Code::Internal, "The store cannot do that now; try again")
            }
        })?;
        let used = used.map_err(|why| {
            // Whose invite is over has not guessed it.
            if why == Unusable::NotFound {
                shared.limits.guessed_wrong(who, shared.clock.now());
            }
            EventError::from(why)
        })?;
        let conversation_id = used.conversation_id;
        shared.members.added(&conversation_id, user, used.added);
        Ok(Welcome {
            room: rooms::of_conversation(&conversation_id),
            conversation_id,
        })
    }
}

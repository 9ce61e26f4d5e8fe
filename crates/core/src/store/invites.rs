//! Invites to conversations.

use std::sync::Arc;

use serde::Serialize;

use crate::auth::{BoxFuture, UserKey};
use crate::store::StoreError;
use crate::store::conversations::Added;

/// Most uses that an invite may have.
pub const MAX_USES: u32 = 100_000;

/// Longest label, bytes.
pub const MAX_LABEL: usize = 200;

/// Most invites in one part of a list.
pub const MAX_LIST: usize = 1_000;

/// An invite that is to be made.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NewInvite {
    /// The conversation's tenant.
    pub tenant_id: Option<Arc<str>>,
    /// The conversation.
    pub conversation_id: String,
    /// Who made it, as the app has it.
    pub created_by: Option<String>,
    /// Unix milliseconds.
    pub created_at: u64,
    /// Until when it can be used, Unix milliseconds; absent: for ever.
    pub expires_at: Option<u64>,
    /// How many users may come by it, at most [`MAX_USES`]; absent: any number.
    pub max_uses: Option<u32>,
    /// What it is for, at most [`MAX_LABEL`] bytes.
    pub label: Option<String>,
}

/// An invite.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Invite {
    /// Its code.
    pub code: String,
    /// The conversation.
    pub conversation_id: String,
    /// The conversation's tenant.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tenant_id: Option<String>,
    /// Who made it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created_by: Option<String>,
    /// Unix milliseconds.
    pub created_at: u64,
    /// Until when it can be used.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<u64>,
    /// How many users may come by it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_uses: Option<u32>,
    /// How many have.
    pub uses: u32,
    /// When it was taken back.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub revoked_at: Option<u64>,
    /// What it is for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
}

impl Invite {
    /// An invite that nobody has used.
    pub fn new(code: String, new: NewInvite) -> Invite {
        Invite {
            code,
            conversation_id: new.conversation_id,
            tenant_id: new.tenant_id.map(|tenant| tenant.to_string()),
            created_by: new.created_by,
            created_at: new.created_at,
            expires_at: new.expires_at,
            max_uses: new.max_uses,
            uses: 0,
            revoked_at: None,
            label: new.label,
        }
    }

    /// Since when, or from when on, nobody new comes by it whatever its uses, Unix milliseconds:
    /// since it was taken back or from its expiry on, whichever is first; `None`: without an end.
    pub fn ends_at(&self) -> Option<u64> {
        [self.expires_at, self.revoked_at]
            .into_iter()
            .flatten()
            .min()
    }

    /// Whether one more user may come by it at this time, Unix milliseconds.
    ///
    /// # Errors
    /// Why not.
    pub fn admits(&self, now: u64) -> Result<(), Unusable> {
        self.holds(now)?;
        match self.max_uses.is_some_and(|most| self.uses >= most) {
            true => Err(Unusable::Exhausted),
            false => Ok(()),
        }
    }

    /// Whether who has come by it may come again.
    ///
    /// # Errors
    /// Why not.
    pub fn holds(&self, now: u64) -> Result<(), Unusable> {
        if self.revoked_at.is_some() {
            return Err(Unusable::Revoked);
        }
        match self.expires_at.is_some_and(|until| now >= until) {
            true => Err(Unusable::Expired),
            false => Ok(()),
        }
    }
}

/// Why nobody comes by an invite.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unusable {
    /// There is none of this code for the user's tenant.
    NotFound,
    /// Its time is over.
    Expired,
    /// As many as may have come by it.
    Exhausted,
    /// It was taken back.
    Revoked,
    /// The conversation or the user's list of conversations is full.
    Full,
}

/// Somebody has come by an invite.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Used {
    /// The conversation.
    pub conversation_id: String,
    /// What became of the member.
    pub added: Added,
}

/// Which invites are listed.
#[derive(Debug, Clone, Default)]
pub struct InviteQuery {
    /// The conversations' tenant.
    pub tenant_id: Option<Arc<str>>,
    /// Only of this conversation.
    pub conversation_id: Option<String>,
    /// Only those whose codes come after this one.
    pub after: Option<String>,
    /// Most of them, 1 to [`MAX_LIST`].
    pub limit: usize,
}

/// Keeps invites. What it has answered is kept.
pub trait Invites: Send + Sync + 'static {
    /// Keeps a new invite under a code; `false`: another has it.
    fn create_invite(&self, code: &str, new: NewInvite) -> BoxFuture<Result<bool, StoreError>>;

    /// The invite of a code.
    fn invite(&self, code: &str) -> BoxFuture<Result<Option<Invite>, StoreError>>;

    /// Invites by their codes.
    fn invites(&self, query: InviteQuery) -> BoxFuture<Result<Vec<Invite>, StoreError>>;

    /// Takes an invite back; what there is then. `now` is in Unix milliseconds.
    fn revoke_invite(&self, code: &str, now: u64) -> BoxFuture<Result<Option<Invite>, StoreError>>;

    /// Makes a user who comes by an invite a member that was invited, as one step: of many who
    /// come at once no more get in than may. Who has come by it before does so again as long as it
    /// holds, also if that membership has ended; whoever is a member then, whatever has become of
    /// the invite, as the member that they are. Neither counts as a use.
    fn use_invite(
        &self,
        code: &str,
        user: &Arc<UserKey>,
        now: u64,
    ) -> BoxFuture<Result<Result<Used, Unusable>, StoreError>>;
}

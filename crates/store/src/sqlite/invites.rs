//! Invites in SQLite.

use std::sync::Arc;

use heartline_core::auth::{BoxFuture, UserKey};
use heartline_core::store::StoreError;
use heartline_core::store::invites::{Invite, InviteQuery, Invites, NewInvite, Unusable, Used};

use super::{SqliteStore, codes};

impl Invites for SqliteStore {
    fn create_invite(&self, code: &str, new: NewInvite) -> BoxFuture<Result<bool, StoreError>> {
        let code = code.to_owned();
        self.write(new.conversation_id.len(), move |tables, transaction| {
            codes::create(tables, transaction, &code, &new)
        })
    }

    fn invite(&self, code: &str) -> BoxFuture<Result<Option<Invite>, StoreError>> {
        let code = code.to_owned();
        self.read(move |connection| codes::get(connection, &code))
    }

    fn invites(&self, query: InviteQuery) -> BoxFuture<Result<Vec<Invite>, StoreError>> {
        self.read(move |connection| codes::list(connection, &query))
    }

    fn revoke_invite(&self, code: &str, now: u64) -> BoxFuture<Result<Option<Invite>, StoreError>> {
        let code = code.to_owned();
        self.write(code.len(), move |_, transaction| {
            codes::revoke(transaction, &code, now)
        })
    }

    fn use_invite(
        &self,
        code: &str,
        user: &Arc<UserKey>,
        now: u64,
    ) -> BoxFuture<Result<Result<Used, Unusable>, StoreError>> {
        let (code, user) = (code.to_owned(), user.clone());
        self.write(code.len(), move |tables, transaction| {
            codes::take(tables, transaction, &code, &user, now)
        })
    }
}

//! Invites in PostgreSQL.

use std::sync::Arc;

use heartline_core::auth::{BoxFuture, UserKey};
use heartline_core::store::StoreError;
use heartline_core::store::invites::{Invite, InviteQuery, Invites, NewInvite, Unusable, Used};

use super::{PostgresStore, codes};

impl Invites for PostgresStore {
    fn create_invite(&self, code: &str, new: NewInvite) -> BoxFuture<Result<bool, StoreError>> {
        let code: Arc<str> = code.into();
        self.ask(move |session| {
            let (code, new) = (code.clone(), new.clone());
            async move { codes::create(&session, &code, &new).await }
        })
    }

    fn invite(&self, code: &str) -> BoxFuture<Result<Option<Invite>, StoreError>> {
        let code: Arc<str> = code.into();
        self.ask(move |session| {
            let code = code.clone();
            async move { codes::get(&session, &code).await }
        })
    }

    fn invites(&self, query: InviteQuery) -> BoxFuture<Result<Vec<Invite>, StoreError>> {
        self.ask(move |session| {
            let query = query.clone();
            async move { codes::list(&session, &query).await }
        })
    }

    fn revoke_invite(&self, code: &str, now: u64) -> BoxFuture<Result<Option<Invite>, StoreError>> {
        let code: Arc<str> = code.into();
        self.ask(move |session| {
            let code = code.clone();
            async move { codes::revoke(&session, &code, now).await }
        })
    }

    fn use_invite(
        &self,
        code: &str,
        user: &Arc<UserKey>,
        now: u64,
    ) -> BoxFuture<Result<Result<Used, Unusable>, StoreError>> {
        let (code, user): (Arc<str>, _) = (code.into(), user.clone());
        self.ask(move |session| {
            let (code, user) = (code.clone(), user.clone());
            async move { codes::take(&session, &code, &user, now).await }
        })
    }
}

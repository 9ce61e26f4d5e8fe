//! Members and read markers in PostgreSQL.

use std::sync::Arc;

use heartline_core::auth::{BoxFuture, UserKey};
use heartline_core::store::StoreError;
use heartline_core::store::conversations::{
    Added, Conversations, Inbox, InboxQuery, Marked, Member, Membership,
};

use super::{PostgresStore, people};

impl Conversations for PostgresStore {
    fn add_member(
        &self,
        conversation_id: &str,
        user: &Arc<UserKey>,
        membership: Membership,
        now: u64,
    ) -> BoxFuture<Result<Added, StoreError>> {
        let (id, user): (Arc<str>, _) = (conversation_id.into(), user.clone());
        self.ask(move |session| {
            let (id, user) = (id.clone(), user.clone());
            async move { people::add(&session, &id, &user, membership, now).await }
        })
    }

    fn remove_member(
        &self,
        conversation_id: &str,
        user: &Arc<UserKey>,
    ) -> BoxFuture<Result<bool, StoreError>> {
        let (id, user): (Arc<str>, _) = (conversation_id.into(), user.clone());
        self.ask(move |session| {
            let (id, user) = (id.clone(), user.clone());
            async move { people::remove(&session, &id, &user).await }
        })
    }

    fn members(
        &self,
        tenant: Option<&str>,
        conversation_id: &str,
    ) -> BoxFuture<Result<Vec<Member>, StoreError>> {
        let tenant: Option<Arc<str>> = tenant.map(Into::into);
        let id: Arc<str> = conversation_id.into();
        self.ask(move |session| {
            let (tenant, id) = (tenant.clone(), id.clone());
            async move { people::members(&session, tenant.as_ref(), &id).await }
        })
    }

    fn mark_read(
        &self,
        conversation_id: &str,
        user: &Arc<UserKey>,
        offset: u64,
        now: u64,
    ) -> BoxFuture<Result<Option<Marked>, StoreError>> {
        let (id, user): (Arc<str>, _) = (conversation_id.into(), user.clone());
        self.ask(move |session| {
            let (id, user) = (id.clone(), user.clone());
            async move { people::mark_read(&session, &id, &user, offset, now).await }
        })
    }

    fn inbox(&self, query: InboxQuery) -> BoxFuture<Result<Inbox, StoreError>> {
        self.ask(move |session| {
            let query = query.clone();
            async move { people::inbox(&session, &query).await }
        })
    }
}

//! Members and read markers in SQLite.

use std::sync::Arc;

use heartline_core::auth::{BoxFuture, UserKey};
use heartline_core::store::StoreError;
use heartline_core::store::conversations::{
    Added, Conversations, Inbox, InboxQuery, Marked, Member, Membership,
};

use super::{SqliteStore, people};

impl Conversations for SqliteStore {
    fn add_member(
        &self,
        conversation_id: &str,
        user: &Arc<UserKey>,
        membership: Membership,
        now: u64,
    ) -> BoxFuture<Result<Added, StoreError>> {
        let (id, user) = (conversation_id.to_owned(), user.clone());
        self.write(id.len(), move |tables, transaction| {
            people::add(tables, transaction, (&id, &user), membership, now)
        })
    }

    fn remove_member(
        &self,
        conversation_id: &str,
        user: &Arc<UserKey>,
    ) -> BoxFuture<Result<bool, StoreError>> {
        let (id, user) = (conversation_id.to_owned(), user.clone());
        self.write(id.len(), move |_, transaction| {
            people::remove(transaction, &id, &user)
        })
    }

    fn members(
        &self,
        tenant: Option<&str>,
        conversation_id: &str,
    ) -> BoxFuture<Result<Vec<Member>, StoreError>> {
        let (tenant, id) = (tenant.map(Into::into), conversation_id.to_owned());
        self.read(move |connection| people::members(connection, tenant, id))
    }

    fn mark_read(
        &self,
        conversation_id: &str,
        user: &Arc<UserKey>,
        offset: u64,
        now: u64,
    ) -> BoxFuture<Result<Option<Marked>, StoreError>> {
        let (id, user) = (conversation_id.to_owned(), user.clone());
        self.write(id.len(), move |_, transaction| {
            people::mark_read(transaction, (&id, &user), offset, now)
        })
    }

    fn inbox(&self, query: InboxQuery) -> BoxFuture<Result<Inbox, StoreError>> {
        self.read(move |connection| people::inbox(connection, &query))
    }
}

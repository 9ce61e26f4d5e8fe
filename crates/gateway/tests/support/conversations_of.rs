//! Stores of tests that leave conversations to another.

/// A test's store that leaves conversations to another in one of its fields.
macro_rules! has_conversations_of {
    ($store:ty, $($field:tt).+) => {
        impl heartline::store::conversations::Conversations for $store {
            fn add_member(
                &self,
                conversation_id: &str,
                user: &std::sync::Arc<heartline::auth::UserKey>,
                membership: heartline::store::conversations::Membership,
                now: u64,
            ) -> heartline::auth::BoxFuture<Result<heartline::store::conversations::Added, heartline::store::StoreError>> {
                self.$($field).+.add_member(conversation_id, user, membership, now)
            }

            fn remove_member(
                &self,
                conversation_id: &str,
                user: &std::sync::Arc<heartline::auth::UserKey>,
            ) -> heartline::auth::BoxFuture<Result<bool, heartline::store::StoreError>> {
                self.$($field).+.remove_member(conversation_id, user)
            }

            fn members(
                &self,
                tenant: Option<&str>,
                conversation_id: &str,
            ) -> heartline::auth::BoxFuture<Result<Vec<heartline::store::conversations::Member>, heartline::store::StoreError>> {
                self.$($field).+.members(tenant, conversation_id)
            }

            fn mark_read(
                &self,
                conversation_id: &str,
                user: &std::sync::Arc<heartline::auth::UserKey>,
                offset: u64,
                now: u64,
            ) -> heartline::auth::BoxFuture<Result<Option<heartline::store::conversations::Marked>, heartline::store::StoreError>> {
                self.$($field).+.mark_read(conversation_id, user, offset, now)
            }

            fn inbox(&self, query: heartline::store::conversations::InboxQuery) -> heartline::auth::BoxFuture<Result<heartline::store::conversations::Inbox, heartline::store::StoreError>> {
                self.$($field).+.inbox(query)
            }
        }
    };
}
pub(crate) use has_conversations_of;

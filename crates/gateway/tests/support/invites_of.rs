//! Stores of tests that leave invites to another.

/// A test's store that leaves invites to another in one of its fields.
macro_rules! has_invites_of {
    ($store:ty, $($field:tt).+) => {
        impl heartline::store::invites::Invites for $store {
            fn create_invite(&self, code: &str, new: heartline::store::invites::NewInvite) -> heartline::auth::BoxFuture<Result<bool, heartline::store::StoreError>> {
                self.$($field).+.create_invite(code, new)
            }

            fn invite(&self, code: &str) -> heartline::auth::BoxFuture<Result<Option<heartline::store::invites::Invite>, heartline::store::StoreError>> {
                self.$($field).+.invite(code)
            }

            fn invites(&self, query: heartline::store::invites::InviteQuery) -> heartline::auth::BoxFuture<Result<Vec<heartline::store::invites::Invite>, heartline::store::StoreError>> {
                self.$($field).+.invites(query)
            }

            fn revoke_invite(&self, code: &str, now: u64) -> heartline::auth::BoxFuture<Result<Option<heartline::store::invites::Invite>, heartline::store::StoreError>> {
                self.$($field).+.revoke_invite(code, now)
            }

            fn use_invite(
                &self,
                code: &str,
                user: &std::sync::Arc<heartline::auth::UserKey>,
                now: u64,
            ) -> heartline::auth::BoxFuture<Result<Result<heartline::store::invites::Used, heartline::store::invites::Unusable>, heartline::store::StoreError>> {
                self.$($field).+.use_invite(code, user, now)
            }
        }
    };
}
pub(crate) use has_invites_of;

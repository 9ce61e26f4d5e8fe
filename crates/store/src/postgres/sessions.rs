//! Challenges and checkpoints in PostgreSQL.

use std::sync::Arc;

use heartline_core::auth::{BoxFuture, UserKey};
use heartline_core::store::{
    Challenge, Challenges, Changed, Changes, Checkpoint, Checkpoints, Redeemed, StoreError,
};

use super::{PostgresStore, challenges, checkpoints};

impl Challenges for PostgresStore {
    fn issue(&self, challenge: Challenge, now: u64) -> BoxFuture<Result<(), StoreError>> {
        self.ask(move |session| {
            let challenge = challenge.clone();
            async move { challenges::issue(&session, &challenge, now).await }
        })
    }

    fn redeem(
        &self,
        hash: [u8; 32],
        wallet: [u8; 32],
        now: u64,
    ) -> BoxFuture<Result<Redeemed, StoreError>> {
        self.ask(
            move |session| async move { challenges::redeem(&session, &hash, &wallet, now).await },
        )
    }
}

impl Checkpoints for PostgresStore {
    fn change(&self, changes: Changes) -> BoxFuture<Result<Changed, StoreError>> {
        let changes = Arc::new(changes);
        self.ask(move |session| {
            let changes = changes.clone();
            async move { checkpoints::change(&session, &changes).await }
        })
    }

    fn checkpoint(&self, user: &Arc<UserKey>) -> BoxFuture<Result<Option<Checkpoint>, StoreError>> {
        let user = user.clone();
        self.ask(move |session| {
            let user = user.clone();
            async move { checkpoints::find(&session, &user).await }
        })
    }
}

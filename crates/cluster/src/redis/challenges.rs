//! Challenges of wallets in Redis, for nodes that share no database.
//!
//! One script does each step at once, so of many nodes that race one gets a challenge. A server
//! that is replaced by a replica, or that forgets, may have lost the last steps: a challenge is
//! good once more then, until it expires.

use std::sync::Arc;

use heartline_core::auth::BoxFuture;
use heartline_core::store::{
    Challenge, Challenges, MAX_CHALLENGES, MAX_OPEN, Redeemed, StoreError,
};
use redis::{Cmd, RedisError};

use super::server::{Commands, Server};

const SCRIPT: &str = include_str!("challenges.lua");

/// [`Challenges`] in Redis 6.2 or later, or Valkey.
pub struct RedisChallenges {
    commands: Arc<Commands>,
    prefix: String,
}

impl RedisChallenges {
    /// Those of the cluster whose keys begin with `prefix`, which has its hash tag. Connects when
    /// it is first asked. Somebody has to [follow](Server::follow) the server: one that was
    /// demoted goes on answering.
    pub(crate) fn on(server: Arc<Server>, prefix: &str) -> RedisChallenges {
        RedisChallenges {
            commands: Arc::new(Commands::new(server)),
            prefix: prefix.to_owned(),
        }
    }

    /// The same of a server that nobody follows.
    #[cfg(test)]
    pub(super) fn new(url: &str, prefix: &str) -> Result<RedisChallenges, super::BadUrl> {
        let server = Arc::new(Server::parse(url)?);
        Ok(RedisChallenges::on(server, &format!("{{{prefix}}}")))
    }

    fn command(&self, operation: &str, now: u64, hash: &[u8; 32], wallet: &[u8; 32]) -> Cmd {
        let mut command = redis::cmd("EVAL");
        command.arg(SCRIPT).arg(1).arg(&self.prefix);
        command.arg(operation).arg(now);
        command.arg(hex(hash)).arg(hex(wallet));
        command
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn failed(error: RedisError) -> StoreError {
    StoreError::Failed(format!("Redis: {error}"))
}

impl Challenges for RedisChallenges {
    fn issue(&self, challenge: Challenge, now: u64) -> BoxFuture<Result<(), StoreError>> {
        let Challenge {
            hash,
            wallet,
            expires_at,
        } = challenge;
        let mut command = self.command("issue", now, &hash, &wallet);
        command.arg(expires_at).arg(MAX_OPEN).arg(MAX_CHALLENGES);
        let commands = self.commands.clone();
        Box::pin(async move {
            // Once more where the connection has ended since the last one: this does no harm.
            let issued = match commands.query::<i64>(&command).await {
                Err(_) => commands.query(&command).await,
                issued => issued,
            };
            issued.map(drop).map_err(failed)
        })
    }

    fn redeem(
        &self,
        hash: [u8; 32],
        wallet: [u8; 32],
        now: u64,
    ) -> BoxFuture<Result<Redeemed, StoreError>> {
        let command = self.command("redeem", now, &hash, &wallet);
        let commands = self.commands.clone();
        Box::pin(async move {
            match commands.query::<i64>(&command).await.map_err(failed)? {
                1 => Ok(Redeemed::Taken),
                2 => Ok(Redeemed::OtherWallet),
                _ => Ok(Redeemed::Unknown),
            }
        })
    }
}

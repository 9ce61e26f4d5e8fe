//! Requests that are done once over all nodes, in Redis: each has a key, and its answer is kept.
//!
//! One script does each step at once, so of many nodes that are sent the same request one does
//! it. A server that is replaced by a replica, or that forgets, may have lost the last steps: what
//! they were about is done again then.

use std::sync::Arc;

use redis::{Cmd, RedisResult};

use super::server::{Commands, Server};

const SCRIPT: &str = include_str!("once.lua");

/// How much is kept, and for how long.
#[derive(Debug, Clone, Copy)]
pub struct OnceBounds {
    /// For how long an answer is, milliseconds.
    pub kept_for: u64,
    /// After this time whoever was doing a request has died, milliseconds.
    pub runs_for: u64,
    /// Requests that are remembered; the oldest go when there are more.
    pub requests: usize,
    /// What they weigh together, bytes.
    pub bytes: usize,
}

/// What is known of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OnceKnown {
    /// What it is.
    pub fingerprint: [u8; 32],
    /// Its answer; `None`: it is being done.
    pub answer: Option<Vec<u8>>,
}

/// Requests and their answers, in Redis 6.2 or later, or Valkey.
pub struct RedisOnce {
    commands: Arc<Commands>,
    prefix: String,
    bounds: OnceBounds,
}

impl RedisOnce {
    /// Those of the cluster whose keys begin with `prefix`, which has its hash tag. Connects when
    /// it is first asked. Somebody has to [follow](Server::follow) the server: one that was
    /// demoted goes on answering.
    pub(crate) fn on(server: Arc<Server>, prefix: &str, bounds: OnceBounds) -> RedisOnce {
        RedisOnce {
            commands: Arc::new(Commands::new(server)),
            prefix: prefix.to_owned(),
            bounds,
        }
    }

    /// The same of a server that nobody follows.
    #[cfg(test)]
    pub(super) fn new(
        url: &str,
        prefix: &str,
        bounds: OnceBounds,
    ) -> Result<RedisOnce, super::BadUrl> {
        let server = Arc::new(Server::parse(url)?);
        Ok(RedisOnce::on(server, &format!("{{{prefix}}}"), bounds))
    }

    fn command(&self, operation: &str, now: u64, key: &str, token: u64) -> Cmd {
        let OnceBounds {
            kept_for,
            runs_for,
            requests,
            bytes,
        } = self.bounds;
        let mut command = redis::cmd("EVAL");
        command.arg(SCRIPT).arg(1).arg(&self.prefix);
        command.arg(operation).arg(now).arg(key);
        command.arg(format!("{token:016x}"));
        command.arg(kept_for).arg(runs_for).arg(requests).arg(bytes);
        command
    }

    /// Takes a request up, at this Unix time in milliseconds: whoever brings the same key and
    /// another token is told of it from now on. What is known of it already, if it is not taken
    /// up; asking again with the same token is no other request.
    ///
    /// # Errors
    /// When Redis does not answer: it may have been taken up.
    pub async fn claim(
        &self,
        key: &str,
        fingerprint: &[u8; 32],
        token: u64,
        now: u64,
    ) -> RedisResult<Option<OnceKnown>> {
        let mut command = self.command("claim", now, key, token);
        command.arg(hex(fingerprint));
        let known: Vec<u8> = self.run(&command).await?;
        Ok(read(&known))
    }

    /// A request that was taken up with this token is done, and its answer is kept; without one
    /// it can be taken up again. Of a request that nobody has taken up, or that was forgotten, the
    /// answer is kept too; another's stays as it is. Saying it again changes nothing.
    ///
    /// # Errors
    /// When Redis does not answer.
    pub async fn finish(
        &self,
        key: &str,
        fingerprint: &[u8; 32],
        token: u64,
        answer: Option<&[u8]>,
        now: u64,
    ) -> RedisResult<()> {
        let mut command = self.command("finish", now, key, token);
        command.arg(hex(fingerprint));
        command.arg(answer.unwrap_or_default());
        self.run(&command).await.map(|_: Vec<u8>| ())
    }

    /// Once more where the connection has ended since the last one: this does no harm.
    async fn run(&self, command: &Cmd) -> RedisResult<Vec<u8>> {
        match self.commands.query(command).await {
            Err(_) => self.commands.query(command).await,
            answer => answer,
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Reads what the script has of a request: a letter, 16 digits, a fingerprint, an answer.
fn read(known: &[u8]) -> Option<OnceKnown> {
    let (kind, rest) = known.split_first()?;
    let (fingerprint, answer) = rest.get(16..)?.split_at_checked(64)?;
    let mut bytes = [0; 32];
    for (byte, digits) in bytes.iter_mut().zip(fingerprint.chunks(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
    }
    Some(OnceKnown {
        fingerprint: bytes,
        answer: (*kind == b'd').then(|| answer.to_vec()),
    })
}

//! The registry's script, and the commands that call it.

use std::sync::Arc;

use redis::{Cmd, RedisResult, Script, Value};
use serde_json::json;

use super::server::Commands;
use crate::registry::Millis;

/// The script's text.
pub(super) const SOURCE: &str = include_str!("registry.lua");

/// The script and how it is called.
pub struct Calls {
    prefix: String,
    script: Script,
}

impl Calls {
    /// Calls about keys that begin with `{prefix}:`.
    pub fn new(prefix: &str) -> Arc<Calls> {
        Arc::new(Calls {
            prefix: format!("{{{prefix}}}"),
            script: Script::new(SOURCE),
        })
    }

    /// The name by which the server knows the script.
    pub(super) fn hash(&self) -> &str {
        self.script.get_hash()
    }

    /// The prefix of all keys, with its hash tag.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    pub(super) fn command(&self, name: &str, script: &str, operation: &str, now: Millis) -> Cmd {
        let mut command = redis::cmd(name);
        command.arg(script).arg(1).arg(&self.prefix);
        command.arg(operation).arg(now);
        command
    }

    /// Sends `bytes` to all processes but one that hold sockets of a user.
    pub(super) fn tell(&self, user: &str, except: &str, bytes: &[u8]) -> Cmd {
        let mut command = self.command("EVALSHA", self.hash(), "tell", 0);
        let arguments = json!({ "user": user, "except": except });
        command.arg(arguments.to_string()).arg(bytes);
        command
    }

    /// Makes the server know the script.
    pub(super) async fn load(&self, commands: &Commands) -> RedisResult<()> {
        let mut command = redis::cmd("SCRIPT");
        command.arg("LOAD").arg(SOURCE);
        commands.query::<Value>(&command).await.map(|_| ())
    }
}

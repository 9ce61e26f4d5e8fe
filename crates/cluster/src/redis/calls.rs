//! The registry's script, and the commands that call it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use redis::{Cmd, Script};

use crate::registry::Millis;

/// The script's text.
const SOURCE: &str = include_str!("registry.lua");
/// Its first line from Redis 7 on: a server that is full takes what nodes have to say all the
/// same. Otherwise all leases would end, for want of some bytes each.
const WHEN_FULL: &str = "#!lua flags=allow-oom\n";

/// A text, and the name by which a server knows it.
struct Text {
    text: String,
    script: Script,
}

impl Text {
    fn new(text: String) -> Text {
        let script = Script::new(&text);
        Text { text, script }
    }
}

/// The script and how it is called.
pub struct Calls {
    prefix: String,
    script: Text,
    /// As Redis 6 understands it.
    plain: Text,
    is_plain: AtomicBool,
}

impl Calls {
    /// Calls about keys that begin with `{prefix}:`.
    pub fn new(prefix: &str) -> Arc<Calls> {
        Arc::new(Calls {
            prefix: format!("{{{prefix}}}"),
            script: Text::new(format!("{WHEN_FULL}{SOURCE}")),
            plain: Text::new(SOURCE.to_owned()),
            is_plain: AtomicBool::new(false),
        })
    }

    fn script(&self) -> &Text {
        match self.is_plain.load(Ordering::Relaxed) {
            true => &self.plain,
            false => &self.script,
        }
    }

    /// The name by which the server knows the script.
    pub(super) fn hash(&self) -> &str {
        self.script().script.get_hash()
    }

    /// The script's text.
    pub(super) fn source(&self) -> &str {
        &self.script().text
    }

    /// The server has not understood the script. Whether there is another one for it.
    pub(super) fn try_plain(&self) -> bool {
        !self.is_plain.swap(true, Ordering::Relaxed)
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

    /// Asks which processes hold sockets of a user.
    pub(super) fn whereabouts(&self, user: &str) -> Cmd {
        let mut command = redis::cmd("HGET");
        command.arg(format!("{}:u:{user}", self.prefix)).arg("p");
        command
    }
}

//! This node's part in the line of kept events: what it [says](say), whether that has come
//! [`back`], whether it is still there ([`prove`]), what it [follows](follow), and what it writes
//! down of its
//! [sockets](sessions). `line.lua` is the other part.

mod back;
mod ends;
mod follow;
mod prove;
mod say;
mod sessions;
#[cfg(test)]
mod tests;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use hashbrown::{HashMap, HashSet};
use heartline_core::backplane::line::Scope;
use heartline_core::backplane::{Node, Target};
use heartline_core::presence::SocketAddress;
use redis::{Cmd, FromRedisValue, RedisError, RedisResult, Script, Value};
use serde_json::json;
use tokio::sync::{Notify, watch};

use super::super::server::{Commands, is_unknown_script};
use super::counters::Counters;
use super::phase::Phase;
use crate::locked::locked;
use crate::names;
use crate::seal::Seal;
use back::Back;
use follow::{Asked, Wanted};
use prove::Known;
use say::Queue;
use sessions::{MAX_WAIT_FOR_WRITING, Sessions};

/// The script's text.
pub(in super::super) const SOURCE: &str = include_str!("../../line.lua");

/// How long an answer may take, and the end of a scope.
const PATIENCE: Duration = Duration::from_secs(2);
/// Nobody has told yet which line it is.
pub(super) const NO_LINE: u64 = u64::MAX;
pub(super) const FIRST_PAUSE: Duration = Duration::from_millis(10);
const MAX_PAUSE: Duration = Duration::from_millis(250);

/// What a line may keep.
#[derive(Debug, Clone, Copy)]
pub struct LineSettings {
    /// How long a session may be taken up after it was lost.
    pub window: Duration,
    /// How old an event may become.
    pub age: Duration,
    /// Events of a room.
    pub events: usize,
    /// What these may weigh, bytes.
    pub bytes: usize,
    /// What cannot be said in time is told to nobody, rather than to those here alone.
    pub refuse: bool,
    /// How long the end of the node may wait until others know what they have missed of it.
    pub patience: Duration,
}

/// The line, as this node uses it.
pub struct Line {
    settings: LineSettings,
    prefix: String,
    process: Arc<str>,
    tag: u32,
    is_sharded: bool,
    script: Script,
    commands: Commands,
    counters: Arc<Counters>,
    pub(super) seal: Arc<Seal>,
    node: OnceLock<Arc<dyn Node>>,
    /// What was heard while it is found out what was not.
    pub(super) phase: Mutex<Option<Phase>>,
    /// The last number that was told to the node.
    pub(super) delivered: AtomicU64,
    queue: Mutex<Queue>,
    back: Back,
    work: Notify,
    known: Mutex<Known>,
    wanted: Mutex<Wanted>,
    wish: Notify,
    requests: Mutex<HashMap<u64, Asked>>,
    next_request: AtomicU64,
    /// Own events that were delivered here alone.
    alone: Mutex<HashSet<u64>>,
    sessions: Mutex<Sessions>,
    change: Notify,
    written: watch::Sender<u64>,
    attended: watch::Sender<u64>,
    /// Up to which number the node has heard all that is for it.
    pub(super) heard: watch::Sender<u64>,
    /// The line's epoch that the node follows.
    pub(super) followed_line: AtomicU64,
    /// Something of the line was lost on its way to this node.
    pub(super) behind: Notify,
}

/// Whom a scope is for.
pub(super) fn target_of(scope: &Scope) -> Target<'_> {
    match scope {
        Scope::Room {
            namespace,
            tenant,
            room,
        } => Target::Room {
            namespace,
            tenant: tenant.as_deref(),
            room,
            key: None,
        },
        Scope::User {
            namespace,
            tenant,
            user,
        } => Target::User {
            namespace,
            tenant: tenant.as_deref(),
            user,
            user_type: None,
            topic: None,
            instead_of: None,
            key: None,
        },
        Scope::All { namespace, tenant } => Target::All {
            namespace,
            tenant: tenant.as_deref(),
        },
        Scope::Socket { namespace, .. } => Target::All {
            namespace,
            tenant: None,
        },
    }
}

/// A socket's scope among the keys: `line.lua` makes the same of its bytes.
fn socket_scope(name: SocketAddress) -> String {
    let bytes = name.0.to_bytes();
    let hex = bytes.iter().map(|byte| format!("{byte:02x}"));
    std::iter::once("s:".to_owned()).chain(hex).collect()
}

impl Line {
    /// Nothing is asked of the store until it [runs](Self::run). `prefix` is that of all keys, with
    /// its hash tag; whether the channels of the store are sharded stands behind the way to it.
    pub fn new(
        settings: LineSettings,
        prefix: &str,
        (process, tag): (Arc<str>, u32),
        (commands, is_sharded): (Commands, bool),
        seal: Arc<Seal>,
    ) -> Arc<Line> {
        Arc::new(Line {
            settings,
            prefix: prefix.to_owned(),
            process,
            tag,
            is_sharded,
            script: Script::new(SOURCE),
            commands,
            counters: Arc::default(),
            seal,
            node: OnceLock::new(),
            // Until it is known how far the line is.
            phase: Mutex::new(Some(Phase::default())),
            delivered: AtomicU64::new(0),
            queue: Mutex::default(),
            back: Back::default(),
            work: Notify::new(),
            known: Mutex::default(),
            wanted: Mutex::default(),
            wish: Notify::new(),
            requests: Mutex::default(),
            next_request: AtomicU64::new(1),
            alone: Mutex::default(),
            sessions: Mutex::default(),
            change: Notify::new(),
            written: watch::Sender::new(0),
            attended: watch::Sender::new(0),
            heard: watch::Sender::new(0),
            followed_line: AtomicU64::new(NO_LINE),
            behind: Notify::new(),
        })
    }

    /// What happened so far.
    pub(super) fn counters(&self) -> &Arc<Counters> {
        &self.counters
    }

    /// The channel of a room.
    pub(super) fn room_channel(&self, namespace: &str, tenant: Option<&str>, room: &str) -> String {
        // With the hash tag: on a Redis Cluster all of the line is in one shard.
        names::room_channel(&self.prefix, namespace, tenant, room)
    }

    /// The channels that this node hears whatever rooms it has.
    pub(super) fn own_channels(&self) -> [String; 2] {
        [
            format!("{}:c:{}", self.prefix, self.process),
            self.everybody(),
        ]
    }

    fn everybody(&self) -> String {
        format!("{}:c", self.prefix)
    }

    /// Whether something that is kept comes by a channel.
    pub(super) fn is_of(&self, channel: &str) -> bool {
        let rest = channel.strip_prefix(&self.prefix);
        rest.is_some_and(|rest| rest.starts_with(":r:") || rest == ":c" || rest.starts_with(":c:"))
    }

    /// A scope's name among the keys.
    fn name(&self, scope: &Scope) -> String {
        match scope {
            Scope::Room {
                namespace,
                tenant,
                room,
            } => names::room_channel("", namespace, tenant.as_deref(), room)[1..].to_owned(),
            Scope::User {
                namespace,
                tenant,
                user,
            } => format!(
                "u:{}:{namespace}:{}",
                namespace.len(),
                names::user_name(tenant.as_deref(), user)
            ),
            Scope::All { namespace, tenant } => format!(
                "a:{}:{namespace}:{}",
                namespace.len(),
                names::tenant_name(tenant.as_deref())
            ),
            Scope::Socket { name, .. } => socket_scope(*name),
        }
    }

    fn channel(&self, scope: &Scope) -> String {
        match scope {
            Scope::Room {
                namespace,
                tenant,
                room,
            } => self.room_channel(namespace, tenant.as_deref(), room),
            Scope::User { .. } => String::new(),
            // Unless it is another node's by now.
            Scope::Socket { .. } => format!("{}:c:{}", self.prefix, self.process),
            Scope::All { .. } => self.everybody(),
        }
    }

    fn call(&self, operation: &str, mut arguments: serde_json::Value) -> Cmd {
        let mut command = redis::cmd("EVALSHA");
        command.arg(self.script.get_hash()).arg(1).arg(&self.prefix);
        arguments["process"] = json!(&*self.process);
        arguments["sharded"] = json!(self.is_sharded);
        arguments["last"] = json!(locked(&self.known).last);
        arguments["age"] = json!(self.settings.age.as_millis() as u64);
        command.arg(operation).arg(arguments.to_string());
        command
    }

    async fn ask<T: FromRedisValue>(&self, command: &Cmd) -> RedisResult<T> {
        self.ask_for(PATIENCE, command).await
    }

    async fn ask_for<T: FromRedisValue>(&self, time: Duration, command: &Cmd) -> RedisResult<T> {
        let answer = tokio::time::timeout(time, self.commands.query(command));
        let late = || {
            Err(RedisError::from((
                redis::ErrorKind::Io,
                "no answer in time",
            )))
        };
        let answer: RedisResult<T> = answer.await.unwrap_or_else(|_| late());
        match answer {
            Err(error) if is_unknown_script(&error) => {
                let mut load = redis::cmd("SCRIPT");
                load.arg("LOAD").arg(SOURCE);
                self.commands.query::<Value>(&load).await?;
                self.commands.query(command).await
            }
            answer => answer,
        }
    }

    fn complain(&self, error: &RedisError, what: &str) {
        self.counters.errors.fetch_add(1, Ordering::Relaxed);
        self.counters.complain(error, what);
    }

    /// The node that the line is told to.
    pub(super) fn node(&self) -> Option<&Arc<dyn Node>> {
        self.node.get()
    }

    /// This node's tag.
    pub(super) fn tag(&self) -> u32 {
        self.tag
    }

    /// Resolves when what was said is in the line and what was to be written is, or will not be
    /// for now: the node ends.
    pub(super) async fn finish(&self) {
        // Whoever is owed a gap would not hear of it from anybody else.
        let nothing_waits = async {
            while !self.has_said_all() {
                tokio::time::sleep(FIRST_PAUSE).await;
            }
        };
        let patience = self.settings.patience.max(MAX_WAIT_FOR_WRITING);
        if tokio::time::timeout(patience, nothing_waits).await.is_err() {
            tracing::warn!(
                "Redis was away to the end: what was published last may be missing elsewhere, \
                 where nobody is told of a gap"
            );
        }
        self.remembered().await;
        let nothing_ends = async {
            while !locked(&self.sessions).has_ended_all() {
                tokio::time::sleep(FIRST_PAUSE).await;
            }
        };
        // Whoever asked for an end that is late was told that it is not known to be done.
        let _ = tokio::time::timeout(MAX_WAIT_FOR_WRITING, nothing_ends).await;
    }

    /// Does all of this until it is dropped, for a node.
    pub async fn run(&self, node: Arc<dyn Node>) {
        let _ = self.node.set(node);
        tokio::join!(
            self.say_all(),
            self.follow_all(),
            self.write_all(),
            self.refresh_all()
        );
    }
}

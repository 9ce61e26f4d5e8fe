//! This node's part in the line of kept events: what it says, what it follows, and what it
//! writes down of its sockets. `line.lua` is the other part.
//!
//! One batch is on its way at a time, under a number: a batch whose answer got lost is sent
//! again, and done once. What cannot be said for too long is delivered here alone, and a gap
//! is said in its stead as soon as the store is back.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use hashbrown::{HashMap, HashSet};
use heartline_core::auth::{BoxFuture, UserKey};
use heartline_core::backplane::line::{Changes, ChangesPart, Reached, Scope, Session, Unclaimed};
use heartline_core::backplane::{Message, Node, Target};
use heartline_core::presence::SocketAddress;
use redis::{Cmd, FromRedisValue, RedisError, RedisResult, Script, Value};
use serde_json::json;
use tokio::sync::{Notify, oneshot, watch};
use tokio::time::Instant;

use super::super::server::{Commands, is_unknown_script};
use super::counters::Counters;
use super::phase::Phase;
use super::send::{MAX_QUEUED, MAX_QUEUED_BYTES, MAX_WAIT};
use crate::envelope::{self, Body, Origin};
use crate::kept;
use crate::locked::locked;
use crate::names;
use crate::registry::tag_of_process;
use crate::seal::Seal;

/// The script's text.
pub(in super::super) const SOURCE: &str = include_str!("../line.lua");

/// Events in one call: the store does nothing else meanwhile.
const MAX_PER_CALL: usize = 64;
/// And their bytes.
const MAX_BYTES_PER_CALL: usize = 1 << 20;
/// Scopes whose ends are asked for in one call: each may have as much as is kept of a room.
const SCOPES_PER_CALL: usize = 16;
/// Sessions in one call.
const SESSIONS_PER_CALL: usize = 128;
/// How long an answer may take, and the end of a scope.
const PATIENCE: Duration = Duration::from_secs(2);
/// The same of one that is asked for again, because there was none.
const SECOND_PATIENCE: Duration = Duration::from_millis(500);
/// How long a join waits until it is written down.
const MAX_WAIT_FOR_WRITING: Duration = Duration::from_secs(1);
/// Nobody has told yet which line it is.
pub(super) const NO_LINE: u64 = u64::MAX;
pub(super) const FIRST_PAUSE: Duration = Duration::from_millis(10);
const MAX_PAUSE: Duration = Duration::from_millis(250);
/// How often the store is told that this node is there.
const REFRESH: Duration = Duration::from_secs(10);
/// For how long it is remembered of whom this node has sessions, and when that is said anew.
const ATTENDED: Duration = Duration::from_secs(24 * 3600);
const ATTENDED_ANEW: Duration = Duration::from_secs(12 * 3600);
/// Users who are known to be attended. When there are more, all are said anew.
const MAX_ATTENDED: usize = 1 << 20;
/// Scopes that are owed a gap; when there are more, everybody's sessions end.
const MAX_OWED: usize = 4096;
/// Sessions that are known to be elsewhere: more than come back at once.
const MAX_LOST: usize = 65_536;
/// Own events that were delivered here alone, and may yet come back.
const MAX_ALONE: usize = 65_536;
/// Own events to sockets of which it is known that they have not come back; older ones among
/// more have been lost on purpose.
const MAX_UNHEARD: usize = 65_536;
/// Receipts in one call.
const RECEIPTS_PER_CALL: usize = 256;

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

/// An event on its way.
struct Saying {
    scope: Scope,
    /// The key, or the name of the user.
    key: Vec<u8>,
    flags: u8,
    body: Vec<u8>,
    at: Instant,
    number: u64,
    /// What is delivered here, should it not get into the line.
    said: Option<Said>,
    reply: Option<oneshot::Sender<u64>>,
}

/// An event, owned.
struct Said {
    target: OwnedTarget,
    message: Message,
    /// Who is left out, or the one whom it is for.
    named: Option<SocketAddress>,
}

/// A target that outlives its publisher, as an envelope.
struct OwnedTarget(Vec<u8>);

#[derive(Default)]
struct Queue {
    waiting: VecDeque<Saying>,
    bytes: usize,
    number: u64,
    /// Some of it is on its way.
    is_busy: bool,
    /// Whose events were given up; and whether there were more of them.
    owed: HashSet<Scope>,
    owes_all: bool,
    /// Own events to sockets, by their numbers, that have not come back yet.
    unheard: BTreeMap<u64, Scope>,
}

#[derive(Default)]
struct Sessions {
    /// What is to be written, the newest of each socket.
    changed: HashMap<SocketAddress, Option<Session>>,
    order: VecDeque<SocketAddress>,
    /// Users to be attended.
    users: Vec<String>,
    attended: HashMap<String, Instant>,
    /// Sockets here that other nodes have named.
    foreign: HashSet<SocketAddress>,
    /// Sockets that were taken up here, each with the number of the claim.
    taken: HashMap<SocketAddress, u64>,
    /// Sockets that were taken up elsewhere, each with the number of the claim: there is no more to
    /// be written of them here.
    lost: HashMap<SocketAddress, u64>,
    /// Up to which number sockets have received what was said to them alone.
    received: HashMap<SocketAddress, u64>,
    /// How many changes there were.
    count: u64,
}

/// What is to be written at once.
#[derive(Default)]
struct Writing {
    users: Vec<String>,
    sessions: Vec<Change>,
    receipts: Vec<(SocketAddress, u64)>,
}

impl Writing {
    fn is_empty(&self) -> bool {
        self.users.is_empty() && self.sessions.is_empty() && self.receipts.is_empty()
    }
}

/// What a socket has, or that it is gone for good.
type Change = (SocketAddress, Option<Session>);

/// Scopes of which somebody waits for the end.
#[derive(Default)]
struct Wanted {
    scopes: HashMap<Scope, Vec<oneshot::Sender<bool>>>,
    order: VecDeque<Scope>,
}

/// What a request has asked for.
struct Asked {
    scopes: Vec<Scope>,
    /// Whether it is asked what was missed.
    of_phase: bool,
    /// Scopes whose ends have come.
    taken_in: usize,
    done: oneshot::Sender<()>,
}

/// The end of what this node has said in a line: it was acknowledged.
#[derive(Debug, Clone, Copy)]
struct SaidUpTo {
    line: u32,
    id: u64,
    /// When it was known to be there.
    at: Instant,
}

/// What this node has said, as far as it may be lost: a master that stood still acknowledges,
/// though another one has taken its place.
#[derive(Default)]
struct Proof {
    /// In the line that is known.
    current: Option<SaidUpTo>,
    /// In lines before it, one for each: nobody has looked yet whether it is in what others have.
    open: Vec<SaidUpTo>,
}

impl Proof {
    fn is_open(&mut self, said: SaidUpTo) {
        match self.open.iter_mut().find(|one| one.line == said.line) {
            Some(one) if one.id < said.id => *one = said,
            Some(_) => {}
            None => self.open.push(said),
        }
    }
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
    work: Notify,
    proof: Mutex<Proof>,
    wanted: Mutex<Wanted>,
    wish: Notify,
    requests: Mutex<HashMap<u64, Asked>>,
    next_request: AtomicU64,
    /// Own events that were delivered here alone.
    alone: Mutex<HashSet<u64>>,
    sessions: Mutex<Sessions>,
    change: Notify,
    written: watch::Sender<u64>,
    /// The last number that is known.
    last: AtomicU64,
    /// The line's epoch, as it is known, and the one that the node follows.
    pub(super) epoch: AtomicU64,
    pub(super) followed_line: AtomicU64,
    /// Something of the line was lost on its way to this node.
    pub(super) behind: Notify,
}

/// Forgets a request that nobody waits for any more.
struct Forgets<'a>(&'a Line, u64);

impl Drop for Forgets<'_> {
    fn drop(&mut self) {
        locked(&self.0.requests).remove(&self.1);
    }
}

fn scope_of(target: &Target<'_>) -> Option<Scope> {
    Some(match *target {
        Target::Room {
            namespace,
            tenant,
            room,
            ..
        } => Scope::Room {
            namespace: namespace.into(),
            tenant: tenant.map(Into::into),
            room: room.into(),
        },
        Target::User {
            namespace,
            tenant,
            user,
            ..
        } => Scope::User {
            namespace: namespace.into(),
            tenant: tenant.map(Into::into),
            user: user.into(),
        },
        Target::All { namespace, tenant }
        | Target::Rooms {
            namespace, tenant, ..
        } => Scope::All {
            namespace: namespace.into(),
            tenant: tenant.map(Into::into),
        },
        Target::Users { .. } | Target::Nodes => return None,
    })
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

/// What the script looks a scope's people up by: a user's name, a socket's bytes.
fn key_of(scope: &Scope) -> Vec<u8> {
    match scope {
        Scope::User { tenant, user, .. } => names::user_name(tenant.as_deref(), user)
            .as_bytes()
            .to_vec(),
        Scope::Socket { name, .. } => name.0.to_bytes().to_vec(),
        Scope::Room { .. } | Scope::All { .. } => Vec::new(),
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
            work: Notify::new(),
            proof: Mutex::default(),
            wanted: Mutex::default(),
            wish: Notify::new(),
            requests: Mutex::default(),
            next_request: AtomicU64::new(1),
            alone: Mutex::default(),
            sessions: Mutex::default(),
            change: Notify::new(),
            written: watch::Sender::new(0),
            last: AtomicU64::new(0),
            epoch: AtomicU64::new(NO_LINE),
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
        arguments["last"] = json!(self.last.load(Ordering::Relaxed));
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

    /// The answers of the store say how far the line is.
    fn note_reached(&self, epoch: &str, begin: &str, last: &str) -> Reached {
        let read = |text: &str| text.parse::<u64>().unwrap_or_default();
        let reached = Reached {
            line: read(epoch) as u32,
            begin: read(begin),
            last: read(last),
        };
        self.note(reached);
        reached
    }

    /// What this node has said is in a line, up to there.
    fn note_said(&self, Reached { line, last, .. }: Reached) {
        let said = SaidUpTo {
            line,
            id: last,
            at: Instant::now(),
        };
        let mut proof = locked(&self.proof);
        if u64::from(line) == self.epoch.load(Ordering::Relaxed) {
            proof.current = Some(said);
        } else {
            proof.is_open(said);
        }
    }

    /// Looks whether what this node has said in earlier lines is in what others have. If it is not,
    /// and was said when this line was there already, some of those who were told of that have not
    /// heard it: another line begins for all.
    async fn prove(&self) -> RedisResult<()> {
        loop {
            let Some(said) = locked(&self.proof).open.first().copied() else {
                return Ok(());
            };
            let mut command = self.call("has", json!({ "line": said.line, "id": said.id }));
            let asked = Instant::now();
            type Answer = (u8, u64, String, String, String);
            let answer = self.ask::<Answer>(command.arg("")).await?;
            let (is_there, age, epoch, begin, last) = answer;
            let line = self.note_reached(&epoch, &begin, &last).line;
            if u64::from(line) != self.epoch.load(Ordering::Relaxed) {
                // What a master says that is none any more proves nothing.
                return Err((redis::ErrorKind::Io, "it is of another line").into());
            }
            let is_same = |one: &SaidUpTo| (one.line, one.id) == (said.line, said.id);
            locked(&self.proof).open.retain(|one| !is_same(one));
            // As old as the line may have been when the answer was received.
            let age = Duration::from_millis(age) + asked.elapsed();
            if is_there == 0 && said.at.elapsed() <= age {
                tracing::warn!(
                    "the Redis of cluster.url has lost publications that it had acknowledged: \
                     everybody is told of a gap"
                );
                locked(&self.queue).owes_all = true;
            }
        }
    }

    /// How far the line is. If it is another one, what was said and who hears it may be
    /// forgotten there: users are named anew, and what was missed is looked for.
    /// True: it is.
    pub(super) fn note(&self, reached: Reached) -> bool {
        let known = self.last.fetch_max(reached.last, Ordering::Relaxed);
        let line = u64::from(reached.line);
        let before = self.epoch.load(Ordering::Relaxed);
        // What is of an earlier line was on its way.
        if before == line || (before != NO_LINE && reached.last < known) {
            return false;
        }
        self.epoch.store(line, Ordering::Relaxed);
        if before == NO_LINE {
            return false;
        }
        {
            let mut proof = locked(&self.proof);
            if let Some(said) = proof.current.take() {
                proof.is_open(said);
            }
        }
        self.work.notify_one();
        {
            let mut sessions = locked(&self.sessions);
            let users = std::mem::take(&mut sessions.attended).into_keys();
            sessions.users.extend(users);
            sessions.count += 1;
        }
        self.change.notify_one();
        self.cut();
        self.behind.notify_one();
        true
    }

    // --- saying -----------------------------------------------------------

    /// Puts an event in line.
    pub(super) fn say(
        &self,
        target: &Target<'_>,
        message: &Message,
        skip: Option<SocketAddress>,
    ) -> BoxFuture<Option<u64>> {
        let Some(scope) = scope_of(target) else {
            return Box::pin(std::future::ready(None));
        };
        let key = match target {
            Target::Room { key: Some(key), .. } => key.as_bytes().to_vec(),
            _ => key_of(&scope),
        };
        let flags = match target {
            Target::Room { key: Some(_), .. } if &*message.args == "null" => kept::REMOVES,
            Target::Room { key: Some(_), .. } => kept::KEYED,
            _ => 0,
        };
        let answer = self.put_in_line((scope, key, flags), target, message, skip);
        Box::pin(async move { answer.await.ok() })
    }

    /// Puts an event to a socket in line.
    pub(super) fn say_to(&self, namespace: &Arc<str>, name: SocketAddress, message: &Message) {
        let scope = Scope::Socket {
            namespace: namespace.clone(),
            name,
        };
        let key = key_of(&scope);
        let target = Target::All {
            namespace,
            tenant: None,
        };
        let said = (scope, key, kept::DIRECT);
        drop(self.put_in_line(said, &target, message, Some(name)));
    }

    fn put_in_line(
        &self,
        (scope, key, flags): (Scope, Vec<u8>, u8),
        target: &Target<'_>,
        message: &Message,
        named: Option<SocketAddress>,
    ) -> oneshot::Receiver<u64> {
        let (reply, answer) = oneshot::channel();
        let mut queue = locked(&self.queue);
        queue.number += 1;
        let origin = Origin {
            tag: self.tag,
            number: queue.number,
            after: 0,
        };
        let body = kept::body(flags, named, origin, target, message, &self.seal);
        let said = Said {
            target: OwnedTarget(envelope::encode(origin, target, &Message::default())),
            message: message.clone(),
            named,
        };
        let number = queue.number;
        if flags == kept::DIRECT {
            while queue.unheard.len() >= MAX_UNHEARD {
                queue.unheard.pop_first();
            }
            queue.unheard.insert(number, scope.clone());
        }
        queue.bytes += body.len();
        queue.waiting.push_back(Saying {
            scope,
            key,
            flags,
            body,
            at: Instant::now(),
            number,
            said: Some(said),
            reply: Some(reply),
        });
        let is_full = queue.waiting.len() > MAX_QUEUED || queue.bytes > MAX_QUEUED_BYTES;
        let oldest = is_full.then(|| queue.waiting.pop_front()).flatten();
        if let Some(oldest) = &oldest {
            queue.bytes -= oldest.body.len();
        }
        drop(queue);
        if let Some(oldest) = oldest {
            self.give_up(oldest);
        }
        self.work.notify_one();
        answer
    }

    /// This node's tag.
    pub(super) fn tag(&self) -> u32 {
        self.tag
    }

    /// An own event to a socket has come back.
    pub(super) fn came_back(&self, number: u64) {
        locked(&self.queue).unheard.remove(&number);
    }

    /// The sockets to which something was said that has not come back.
    pub(super) fn unheard(&self) -> HashSet<Scope> {
        locked(&self.queue).unheard.values().cloned().collect()
    }

    /// Whether an own event that comes back has been delivered here already.
    pub(super) fn was_told_alone(&self, origin: Origin) -> bool {
        origin.tag == self.tag && locked(&self.alone).contains(&origin.number)
    }

    /// An event could not be said in time.
    fn give_up(&self, saying: Saying) {
        self.counters.undelivered.fetch_add(1, Ordering::Relaxed);
        if self.settings.refuse {
            // Who has said it hears that it was not. Should it be in the line after all, all
            // nodes have it.
            return;
        }
        {
            let mut alone = locked(&self.alone);
            if alone.len() >= MAX_ALONE {
                alone.clear();
            }
            alone.insert(saying.number);
        }
        self.owe(saying.scope);
        self.came_back(saying.number);
        if let Some(Said {
            target,
            message,
            named,
        }) = saying.said
            && let Some((_, Body::Said(said))) = envelope::read(&target.0)
            && let Some(node) = self.node()
        {
            match named.filter(|_| saying.flags == kept::DIRECT) {
                Some(to) => node.deliver_alone_to(to, message),
                None => node.deliver_alone(&said.target(), message, named),
            }
        }
    }

    /// What comes first in line.
    fn next_batch(&self, batch: &mut Vec<Saying>) {
        let mut queue = locked(&self.queue);
        let mut bytes = 0;
        while batch.len() < MAX_PER_CALL
            && bytes < MAX_BYTES_PER_CALL
            && let Some(saying) = queue.waiting.pop_front()
        {
            bytes += saying.body.len();
            queue.bytes -= saying.body.len();
            batch.push(saying);
        }
        queue.is_busy = !batch.is_empty();
    }

    /// An event was given up that others may not hear of: a gap is to be said in its place.
    fn owe(&self, scope: Scope) {
        let mut queue = locked(&self.queue);
        match queue.owed.len() < MAX_OWED {
            true => drop(queue.owed.insert(scope)),
            false => queue.owes_all |= !queue.owed.contains(&scope),
        }
    }

    /// Gaps that stand for what was given up.
    fn owed(&self) -> Vec<Saying> {
        let mut queue = locked(&self.queue);
        let owed: Vec<Scope> = queue.owed.iter().take(MAX_PER_CALL).cloned().collect();
        let mut gaps = Vec::new();
        for scope in owed {
            queue.owed.remove(&scope);
            queue.number += 1;
            let origin = Origin {
                tag: self.tag,
                number: queue.number,
                after: 0,
            };
            let target = target_of(&scope);
            let (flags, named) = match &scope {
                Scope::Socket { name, .. } => (kept::GAP | kept::DIRECT, Some(*name)),
                _ => (kept::GAP, None),
            };
            let none = Message::default();
            let body = kept::body(flags, named, origin, &target, &none, &self.seal);
            gaps.push(Saying {
                key: key_of(&scope),
                flags: kept::GAP,
                body,
                at: Instant::now(),
                number: queue.number,
                said: None,
                reply: None,
                scope,
            });
        }
        queue.is_busy = !gaps.is_empty();
        gaps
    }

    async fn say_all(&self) {
        let mut number = 0;
        loop {
            if let Err(error) = self.prove().await {
                self.complain(&error, "nobody knows what is lost of what was published");
                tokio::time::sleep(MAX_PAUSE).await;
            }
            if locked(&self.queue).owes_all {
                self.end_line().await;
            }
            // What is missing comes first: it is older than what waits.
            let mut batch = self.owed();
            if batch.is_empty() {
                self.next_batch(&mut batch);
            }
            if batch.is_empty() {
                // What could not be found out, or said, is tried again.
                let is_done = locked(&self.proof).open.is_empty() && !locked(&self.queue).owes_all;
                if is_done {
                    self.work.notified().await;
                }
                continue;
            }
            number += 1;
            self.say_batch(&mut batch, number).await;
        }
    }

    /// Nobody can be told of all that is missing: another line begins.
    async fn end_line(&self) {
        match self.ask::<Value>(&self.call("end_line", json!({}))).await {
            Ok(_) => locked(&self.queue).owes_all = false,
            Err(error) => {
                self.complain(&error, "that publications are missing is not in the line");
                tokio::time::sleep(MAX_PAUSE).await;
            }
        }
    }

    /// Says a batch, again and again until it is said or too old.
    async fn say_batch(&self, batch: &mut Vec<Saying>, number: u64) {
        let LineSettings { events, bytes, .. } = self.settings;
        let mut pause = FIRST_PAUSE;
        for attempt in 0u32.. {
            let mut command = self.call(
                "say",
                json!({
                    "number": number, "events": events, "bytes": bytes,
                }),
            );
            for saying in &*batch {
                command.arg(self.name(&saying.scope));
                command.arg(self.channel(&saying.scope));
                command.arg(saying.flags).arg(&saying.key).arg(&saying.body);
            }
            type Answer = (String, String, String, Vec<u64>);
            let time = if attempt == 0 {
                PATIENCE
            } else {
                SECOND_PATIENCE
            };
            match self.ask_for::<Answer>(time, &command).await {
                Ok((epoch, begin, last, offsets)) => {
                    self.note_said(self.note_reached(&epoch, &begin, &last));
                    let count = batch.len() as u64;
                    self.counters.sent.fetch_add(count, Ordering::Relaxed);
                    // Those at the front were given up since it was sent first.
                    let given_up = offsets.len().saturating_sub(batch.len());
                    let mut offsets = offsets.into_iter().skip(given_up);
                    for saying in batch.drain(..) {
                        if let (Some(reply), Some(offset)) = (saying.reply, offsets.next()) {
                            let _ = reply.send(offset);
                        }
                    }
                    return;
                }
                Err(error) => {
                    self.complain(&error, "kept publications are not in the line");
                    // It may have been this process that stood still: it asks again before it takes
                    // the store for away. All of it with the oldest: what is younger would come
                    // before its gap.
                    let is_old = |saying: &Saying| attempt > 0 && saying.at.elapsed() >= MAX_WAIT;
                    let old = batch.iter().any(is_old).then(|| std::mem::take(batch));
                    for old in old.into_iter().flatten() {
                        match old.said.is_some() {
                            true => self.give_up(old),
                            false => self.owe(old.scope),
                        }
                    }
                    if attempt > 0 {
                        self.drop_old_waiting();
                    }
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(MAX_PAUSE);
                    if batch.is_empty() {
                        return;
                    }
                }
            }
        }
    }

    fn drop_old_waiting(&self) {
        loop {
            let mut queue = locked(&self.queue);
            let is_old = |saying: &Saying| saying.at.elapsed() >= MAX_WAIT;
            if !queue.waiting.front().is_some_and(is_old) {
                return;
            }
            let Some(old) = queue.waiting.pop_front() else {
                return;
            };
            queue.bytes -= old.body.len();
            drop(queue);
            self.give_up(old);
        }
    }

    /// Has changes of presence in the line; false: nobody knows.
    pub(super) async fn say_changes(&self, changes: Changes) -> bool {
        let LineSettings { events, bytes, .. } = self.settings;
        let Changes { after, to, parts } = changes;
        let arguments = json!({ "after": after, "to": to, "events": events, "bytes": bytes });
        let mut command = self.call("changes", arguments);
        for part in parts {
            let ChangesPart {
                namespace,
                tenant,
                count,
                message,
            } = part;
            let scope = Scope::All { namespace, tenant };
            let origin = Origin {
                tag: self.tag,
                ..Origin::default()
            };
            let target = target_of(&scope);
            let body = kept::body(kept::CHANGES, None, origin, &target, &message, &self.seal);
            command.arg(self.name(&scope)).arg(self.channel(&scope));
            command.arg(count).arg(body);
        }
        match self.ask::<(String, String, String)>(&command).await {
            Ok((epoch, begin, last)) => {
                self.note_said(self.note_reached(&epoch, &begin, &last));
                self.work.notify_one();
                true
            }
            Err(error) => {
                self.complain(&error, "changes of presence are not in the line");
                false
            }
        }
    }

    // --- following --------------------------------------------------------

    /// Has the end of a scope taken in.
    pub(super) fn follow(&self, scope: Scope) -> BoxFuture<bool> {
        let (done, answer) = oneshot::channel();
        let mut wanted = locked(&self.wanted);
        match wanted.scopes.get_mut(&scope) {
            Some(waiting) => waiting.push(done),
            None => {
                wanted.scopes.insert(scope.clone(), vec![done]);
                wanted.order.push_back(scope);
            }
        }
        drop(wanted);
        self.wish.notify_one();
        Box::pin(async move { answer.await.unwrap_or(false) })
    }

    async fn follow_all(&self) {
        loop {
            let mut asked = Vec::new();
            {
                let mut wanted = locked(&self.wanted);
                while asked.len() < SCOPES_PER_CALL
                    && let Some(scope) = wanted.order.pop_front()
                {
                    let waiting = wanted.scopes.remove(&scope).unwrap_or_default();
                    asked.push((scope, waiting));
                }
            }
            if asked.is_empty() {
                self.wish.notified().await;
                continue;
            }
            let scopes = asked.iter().map(|(scope, _)| scope.clone()).collect();
            let has_come = self.collect(scopes, None).await;
            for (scope, waiting) in asked {
                if let Some(node) = self.node().filter(|_| !has_come) {
                    node.go_without(&scope);
                }
                for done in waiting {
                    let _ = done.send(has_come);
                }
            }
        }
    }

    /// Asks for the ends of scopes in which something came after a number; whether all have
    /// come.
    async fn collect(&self, scopes: Vec<Scope>, after: Option<u64>) -> bool {
        let request = self.next_request.fetch_add(1, Ordering::Relaxed);
        let names: Vec<String> = scopes.iter().map(|scope| self.name(scope)).collect();
        let (done, answer) = oneshot::channel();
        let asked = Asked {
            scopes,
            of_phase: after.is_some(),
            taken_in: 0,
            done,
        };
        locked(&self.requests).insert(request, asked);
        let _forgets = Forgets(self, request);
        let after = after.unwrap_or(0);
        let arguments = json!({ "request": request, "after": after, "scopes": names });
        match self.ask::<Value>(&self.call("collect", arguments)).await {
            Ok(_) => matches!(tokio::time::timeout(PATIENCE, answer).await, Ok(Ok(()))),
            Err(error) => {
                self.complain(&error, "what was kept of rooms cannot be read");
                false
            }
        }
    }

    /// Asks for the ends of all these scopes: in how many requests, if all were answered.
    pub(super) async fn collect_all(&self, scopes: Vec<Scope>, after: u64) -> Option<usize> {
        // At least one call: it says how far the line is.
        let mut chunks: Vec<Vec<Scope>> = scopes
            .chunks(SCOPES_PER_CALL * 16)
            .map(<[Scope]>::to_vec)
            .collect();
        if chunks.is_empty() {
            chunks.push(Vec::new());
        }
        let count = chunks.len();
        for chunk in chunks {
            if !self.collect(chunk, Some(after)).await {
                return None;
            }
        }
        Some(count)
    }

    /// The end of a scope of a request was taken in.
    pub(super) fn took_in(&self, request: u64) {
        if let Some(asked) = locked(&self.requests).get_mut(&request) {
            asked.taken_in += 1;
        }
    }

    /// A scope of a request.
    pub(super) fn asked(&self, request: u64, index: usize) -> Option<Scope> {
        let requests = locked(&self.requests);
        requests.get(&request)?.scopes.get(index).cloned()
    }

    /// Whether a request asks for what was missed.
    pub(super) fn is_of_phase(&self, request: u64) -> bool {
        let requests = locked(&self.requests);
        requests.get(&request).is_some_and(|asked| asked.of_phase)
    }

    /// All of a request has come, or was lost on its way.
    pub(super) fn came(&self, request: u64) {
        if let Some(asked) = locked(&self.requests).remove(&request)
            && (asked.of_phase || asked.taken_in == asked.scopes.len())
        {
            let _ = asked.done.send(());
        }
    }

    // --- sessions ---------------------------------------------------------

    /// Writes down what a socket has.
    pub(super) fn remember(&self, name: SocketAddress, session: Option<Session>) {
        let mut sessions = locked(&self.sessions);
        if name.0.tag() != self.tag {
            match &session {
                Some(session) if !session.is_lost => sessions.foreign.insert(name),
                _ => sessions.foreign.remove(&name),
            };
        }
        if sessions.lost.contains_key(&name) {
            if session.is_none() {
                sessions.lost.remove(&name);
            }
            return;
        }
        if session.is_none() {
            sessions.taken.remove(&name);
        }
        sessions.count += 1;
        if sessions.changed.insert(name, session).is_none() {
            sessions.order.push_back(name);
        }
        drop(sessions);
        self.change.notify_one();
    }

    /// A socket has received what was said to it alone, up to a number.
    pub(super) fn received(&self, name: SocketAddress, id: u64) {
        let mut sessions = locked(&self.sessions);
        let is_news = sessions.received.is_empty();
        sessions.received.insert(name, id);
        drop(sessions);
        if is_news {
            self.change.notify_one();
        }
    }

    /// This node has sessions of a user.
    pub(super) fn attend(&self, user: &UserKey) -> bool {
        let name = names::user_name(user.tenant_id.as_deref(), &user.user_id).to_string();
        let mut sessions = locked(&self.sessions);
        let known = sessions.attended.get(&name);
        if known.is_some_and(|at| at.elapsed() < ATTENDED_ANEW) {
            return false;
        }
        sessions.count += 1;
        sessions.users.push(name);
        drop(sessions);
        self.change.notify_one();
        true
    }

    /// Resolves when all that was to be written is, or will not be for now.
    pub(super) fn remembered(&self) -> BoxFuture<()> {
        let count = locked(&self.sessions).count;
        let mut written = self.written.subscribe();
        Box::pin(async move {
            let all = written.wait_for(|written| *written >= count);
            let _ = tokio::time::timeout(MAX_WAIT_FOR_WRITING, all).await;
        })
    }

    async fn write_all(&self) {
        let mut pause = FIRST_PAUSE;
        loop {
            let (count, writing) = self.next_writing();
            if writing.is_empty() {
                self.note_written(count);
                self.change.notified().await;
                continue;
            }
            match self.write(&writing).await {
                Ok(()) => {
                    pause = FIRST_PAUSE;
                    self.note_written(count);
                }
                Err(error) => {
                    self.complain(&error, "sessions are not written down");
                    self.write_again(writing);
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(MAX_PAUSE);
                }
            }
        }
    }

    fn note_written(&self, count: u64) {
        self.written.send_if_modified(|written| {
            let is_news = *written < count;
            *written = count.max(*written);
            is_news
        });
    }

    /// What is to be written, and which change is the last before which all is, then.
    fn next_writing(&self) -> (u64, Writing) {
        let mut sessions = locked(&self.sessions);
        let users = std::mem::take(&mut sessions.users);
        let receipts = sessions.received.iter().take(RECEIPTS_PER_CALL);
        let receipts: Vec<_> = receipts.map(|(name, id)| (*name, *id)).collect();
        for (name, _) in &receipts {
            sessions.received.remove(name);
        }
        let mut batch = Vec::new();
        while batch.len() < SESSIONS_PER_CALL
            && let Some(name) = sessions.order.pop_front()
        {
            if let Some(session) = sessions.changed.remove(&name) {
                batch.push((name, session));
            }
        }
        let writing = Writing {
            users,
            sessions: batch,
            receipts,
        };
        let is_all = sessions.order.is_empty();
        (if is_all { sessions.count } else { 0 }, writing)
    }

    async fn write(&self, writing: &Writing) -> RedisResult<()> {
        let Writing {
            users,
            sessions: batch,
            receipts,
        } = writing;
        for users in users.chunks(SESSIONS_PER_CALL) {
            let ttl = ATTENDED.as_millis() as u64;
            let command = self.call("attend", json!({ "users": users, "ttl": ttl }));
            self.ask::<Value>(&command).await?;
        }
        {
            let mut sessions = locked(&self.sessions);
            if sessions.attended.len() + users.len() > MAX_ATTENDED {
                sessions.attended.clear();
            }
            let now = Instant::now();
            let users = users.iter().map(|user| (user.clone(), now));
            sessions.attended.extend(users);
        }
        if !receipts.is_empty() {
            let mut command = self.call("receive", json!({}));
            for (name, id) in receipts {
                command.arg(&name.0.to_bytes()[..]).arg(*id);
            }
            self.ask::<Value>(&command).await?;
        }
        if batch.is_empty() {
            return Ok(());
        }
        let mut command = self.call("remember", json!({ "ttl": self.ttl() }));
        for (name, session) in batch {
            command.arg(name.0.tag()).arg(&name.0.to_bytes()[..]);
            match session {
                Some(session) => {
                    command.arg(if session.is_lost { "1" } else { "0" });
                    command.arg(&session.owner).arg(&session.record);
                }
                None => {
                    command.arg("-").arg("").arg("");
                }
            }
        }
        self.ask::<Value>(&command).await.map(drop)
    }

    fn write_again(&self, writing: Writing) {
        let mut sessions = locked(&self.sessions);
        sessions.users.extend(writing.users);
        for (name, id) in writing.receipts {
            let known = sessions.received.entry(name).or_default();
            *known = id.max(*known);
        }
        for (name, session) in writing.sessions {
            // What is newer stays.
            if !sessions.changed.contains_key(&name) {
                sessions.changed.insert(name, session);
                sessions.order.push_back(name);
            }
        }
    }

    /// For how long what this node has written stays there without it, milliseconds.
    fn ttl(&self) -> u64 {
        (2 * self.settings.window + 6 * REFRESH).as_millis() as u64
    }

    async fn refresh_all(&self) {
        let mut cursors: HashMap<u32, String> = HashMap::new();
        loop {
            let mut tags: Vec<u32> = {
                let sessions = locked(&self.sessions);
                let foreign = sessions.foreign.iter().map(|name| name.0.tag());
                foreign.chain([self.tag]).collect()
            };
            tags.sort_unstable();
            tags.dedup();
            cursors.retain(|tag, _| tags.contains(tag));
            let at: Vec<String> = tags
                .iter()
                .map(|tag| cursors.get(tag).cloned().unwrap_or_else(|| "0".into()))
                .collect();
            let names: Vec<String> = tags.iter().map(u32::to_string).collect();
            let arguments = json!({ "tags": names, "ttl": self.ttl(), "cursors": at });
            match self
                .ask::<Vec<String>>(&self.call("refresh", arguments))
                .await
            {
                Ok(next) => cursors = tags.into_iter().zip(next).collect(),
                Err(error) => self.complain(&error, "sessions are not kept alive"),
            }
            tokio::time::sleep(REFRESH).await;
        }
    }

    /// The node that has a socket of this name.
    pub(super) async fn holder(&self, name: SocketAddress) -> Option<u32> {
        let arguments = json!({ "tag": name.0.tag().to_string() });
        let mut command = self.call("holder", arguments);
        command.arg(&name.0.to_bytes()[..]);
        let process: String = self.ask(&command).await.ok()?;
        tag_of_process(&process)
    }

    /// Takes a session up.
    pub(super) async fn claim(
        &self,
        name: SocketAddress,
        owner: &str,
    ) -> Result<Session, Unclaimed> {
        let window = self.settings.window.as_millis() as u64;
        let tag = name.0.tag().to_string();
        let arguments = json!({ "tag": tag, "user": owner, "window": window });
        let mut command = self.call("claim", arguments);
        command.arg(&name.0.to_bytes()[..]);
        let answer = self.ask::<Vec<Value>>(&command).await;
        let answer = answer.map_err(|error| {
            self.complain(&error, "sessions cannot be taken up");
            Unclaimed::Unreachable
        })?;
        let text = |index: usize| -> String {
            let value = answer.get(index).cloned();
            value
                .and_then(|value| String::from_redis_value(value).ok())
                .unwrap_or_default()
        };
        match &*text(0) {
            "taken" => {
                self.note_reached(&text(2), &text(3), &text(4));
                let claim = text(5).parse().unwrap_or(0);
                let mut sessions = locked(&self.sessions);
                // What others do may be heard before the answer to what was done before.
                if sessions.lost.get(&name).is_some_and(|other| *other > claim) {
                    return Err(Unclaimed::Unknown);
                }
                sessions.lost.remove(&name);
                sessions.taken.insert(name, claim);
                drop(sessions);
                let record = answer.get(1).cloned();
                let record = record.and_then(|value| Vec::from_redis_value(value).ok());
                Ok(Session {
                    owner: owner.to_owned(),
                    is_lost: false,
                    was_here: text(6) == *self.process,
                    record: record.ok_or(Unclaimed::Unknown)?,
                })
            }
            "foreign" => Err(Unclaimed::Foreign),
            _ => Err(Unclaimed::Unknown),
        }
    }

    /// Resolves when what was said is in the line and what was to be written is, or will not be
    /// for now: the node ends.
    pub(super) async fn finish(&self) {
        // Whoever is owed a gap would not hear of it from anybody else.
        let has_said_all = || {
            let queue = locked(&self.queue);
            let is_proved = locked(&self.proof).open.is_empty();
            let owes = !queue.owed.is_empty() || queue.owes_all;
            is_proved && !owes && !queue.is_busy && queue.waiting.is_empty()
        };
        let nothing_waits = async {
            while !has_said_all() {
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
    }

    /// Whether this node has taken a session up, and no other one has since.
    pub(super) fn has_claimed(&self, name: SocketAddress) -> bool {
        locked(&self.sessions).taken.contains_key(&name)
    }

    /// Whether this node has a session no more that another one has taken up.
    pub(super) fn has_lost(&self, name: SocketAddress, claim: u64) -> bool {
        let mut sessions = locked(&self.sessions);
        let is_later = sessions.taken.get(&name).is_none_or(|mine| *mine < claim);
        if is_later {
            sessions.taken.remove(&name);
            sessions.foreign.remove(&name);
            sessions.changed.remove(&name);
            if sessions.lost.len() >= MAX_LOST {
                sessions.lost.clear();
            }
            sessions.lost.insert(name, claim);
        }
        is_later
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

#[cfg(test)]
mod tests;

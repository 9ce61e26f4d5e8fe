//! Publications between nodes: a channel for each room, one for each process, one for
//! all.
//!
//! A node subscribes to a room's channel while the room has members here. What it
//! publishes is delivered here at once and sent to the others in the background, in
//! order, many in one write. Each carries its sender and a running number, so that
//! a batch whose answer got lost can be sent again: who has had a part of it drops
//! that part.
//!
//! While the server is away, a bounded queue holds what was published last; what does
//! not fit or grows too old is counted as undelivered. A subscriber that was cut off
//! has missed what was published meanwhile: pub/sub keeps nothing.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::Duration;

use hashbrown::HashMap;
use heartline::auth::BoxFuture;
use heartline::backplane::{Message, Subscription, Target};
use redis::{Cmd, Pipeline, PushInfo, PushKind, RedisError, RedisResult, Value};
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::Instant;

use super::calls::Calls;
use super::server::{Commands, Connection, Server, is_unknown_script};
use super::socketio::{self, Foreign, PATTERNS};
use crate::envelope::{self, Origin, Seen};
use crate::names;

/// Bytes and publications that wait to be sent.
const MAX_BYTES: usize = 64 << 20;
const MAX_QUEUED: usize = 65_536;
/// Publications in one write.
const BATCH: usize = 256;
/// How long a publication may wait for the server.
const TOO_OLD: Duration = Duration::from_secs(2);
/// Channels in one command.
const CHANNELS: usize = 512;
/// How long a join waits for its subscription.
const READY: Duration = Duration::from_secs(1);
/// How often a connection that only listens is tried.
const PING: Duration = Duration::from_secs(3);
const PATIENCE: Duration = Duration::from_secs(2);
/// The longest pause between attempts to connect.
const MAX_PAUSE: Duration = Duration::from_secs(1);
/// How often errors are logged at most.
const COMPLAIN: Duration = Duration::from_secs(10);
/// Senders whose numbers are remembered.
const MAX_ORIGINS: usize = 1024;

/// What happened so far; all of it grows.
#[derive(Debug, Default)]
pub struct Counters {
    /// Publications sent to other nodes.
    pub sent: AtomicU64,
    /// Publications that came from other nodes.
    pub received: AtomicU64,
    /// Publications that could not be sent to other nodes.
    pub undelivered: AtomicU64,
    /// Times this node was cut off from the others' publications.
    pub gaps: AtomicU64,
    /// Errors of the server or the link to it.
    pub errors: AtomicU64,
}

/// What other nodes say to this one.
pub enum Incoming<'a> {
    /// Something waits in the registry.
    Nudge,
    /// A publication.
    Publication(Target<'a>, Message),
    /// A Socket.IO server's wish.
    Foreign(Foreign),
}

struct Outgoing {
    command: Cmd,
    size: usize,
    at: Instant,
}

#[derive(Default)]
struct Channel {
    users: usize,
    confirmed: bool,
    waiting: Vec<oneshot::Sender<()>>,
}

#[derive(Default)]
struct Table {
    connected: bool,
    channels: HashMap<Arc<str>, Channel>,
    /// Those to be looked at.
    changed: Vec<Arc<str>>,
}

/// This node's part in the fan-out.
pub struct Fanout {
    server: Arc<Server>,
    prefix: String,
    process: Arc<str>,
    tag: u32,
    /// Whether there are Socket.IO servers on Node beside.
    with_adapter: bool,
    calls: Arc<Calls>,
    number: AtomicU64,
    queue: mpsc::UnboundedSender<Outgoing>,
    queued: AtomicUsize,
    queued_bytes: AtomicUsize,
    table: Mutex<Table>,
    work: Notify,
    seen: Arc<Mutex<HashMap<u32, Seen>>>,
    counters: Arc<Counters>,
    complained: Mutex<Option<Instant>>,
}

/// What [`Fanout::run`] reads from.
pub struct Queue(mpsc::UnboundedReceiver<Outgoing>);

/// A room's channel, for as long as it is held.
struct RoomChannel {
    fanout: Arc<Fanout>,
    channel: Arc<str>,
}

impl Subscription for RoomChannel {
    fn ready(&self) -> Option<BoxFuture<()>> {
        let mut table = self.fanout.table();
        // Nobody waits for a server that is away.
        if !table.connected {
            return None;
        }
        let channel = table.channels.get_mut(&self.channel)?;
        if channel.confirmed {
            return None;
        }
        let (confirmed, confirmation) = oneshot::channel();
        channel.waiting.push(confirmed);
        Some(Box::pin(async move {
            let _ = tokio::time::timeout(READY, confirmation).await;
        }))
    }
}

impl Drop for RoomChannel {
    fn drop(&mut self) {
        let mut table = self.fanout.table();
        if let Some(channel) = table.channels.get_mut(&self.channel) {
            channel.users -= 1;
            if channel.users == 0 {
                table.changed.push(self.channel.clone());
                self.fanout.work.notify_one();
            }
        }
    }
}

impl Fanout {
    /// Nothing is connected until [`run`](Self::run). `process` and `tag` name the
    /// process as the registry does.
    pub fn new(
        server: Arc<Server>,
        calls: Arc<Calls>,
        process: Arc<str>,
        tag: u32,
        with_adapter: bool,
    ) -> (Arc<Fanout>, Queue) {
        let (queue, queued) = mpsc::unbounded_channel();
        let fanout = Fanout {
            server,
            prefix: calls.prefix().to_owned(),
            process,
            tag,
            with_adapter,
            calls,
            number: AtomicU64::new(0),
            queue,
            queued: AtomicUsize::new(0),
            queued_bytes: AtomicUsize::new(0),
            table: Mutex::default(),
            work: Notify::new(),
            seen: Arc::default(),
            counters: Arc::default(),
            complained: Mutex::default(),
        };
        (Arc::new(fanout), Queue(queued))
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What happened so far.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Whether other nodes' publications arrive.
    pub fn is_connected(&self) -> bool {
        self.table().connected
    }

    /// Publications that wait to be sent.
    pub fn queued(&self) -> usize {
        self.queued.load(Ordering::Relaxed)
    }

    fn room_channel(&self, namespace: &str, tenant: Option<&str>, room: &str) -> String {
        // Without the hash tag: a cluster spreads rooms over its shards.
        let prefix = self.prefix.trim_matches(['{', '}']);
        let tenant = names::tenant_name(tenant);
        // A namespace has no colon unless it is its own doing; its length says where
        // it ends.
        format!("{prefix}:r:{}:{namespace}:{tenant}:{room}", namespace.len())
    }

    /// Holds a room's channel.
    pub fn subscribe(
        self: &Arc<Self>,
        namespace: &str,
        tenant: Option<&str>,
        room: &str,
    ) -> Arc<dyn Subscription> {
        let channel: Arc<str> = self.room_channel(namespace, tenant, room).into();
        let mut table = self.table();
        let entry = table.channels.entry(channel.clone()).or_default();
        entry.users += 1;
        if entry.users == 1 {
            table.changed.push(channel.clone());
            self.work.notify_one();
        }
        drop(table);
        Arc::new(RoomChannel {
            fanout: self.clone(),
            channel,
        })
    }

    /// Sends a publication to other nodes, in the background.
    pub fn publish(&self, target: &Target<'_>, message: &Message) {
        let number = self.number.fetch_add(1, Ordering::Relaxed) + 1;
        let origin = Origin {
            tag: self.tag,
            number,
        };
        let bytes = envelope::encode(origin, target, message);
        let size = bytes.len();
        let command = match *target {
            Target::Room {
                namespace,
                tenant,
                room,
                ..
            } => {
                let name = match self.server.is_cluster() {
                    true => "SPUBLISH",
                    false => "PUBLISH",
                };
                let mut command = redis::cmd(name);
                command
                    .arg(self.room_channel(namespace, tenant, room))
                    .arg(bytes);
                command
            }
            Target::All { .. } => {
                let mut command = redis::cmd("PUBLISH");
                command.arg(format!("{}:all", self.prefix)).arg(bytes);
                command
            }
            Target::User { tenant, user, .. } => {
                let user = names::user_name(tenant, user);
                self.calls.tell(&user, &self.process, &bytes)
            }
        };
        self.enqueue(command, size);
        if self.with_adapter {
            if let Some((channel, body)) = socketio::encode(self.tag, target, message) {
                let size = body.len();
                let mut command = redis::cmd("PUBLISH");
                command.arg(channel).arg(body);
                self.enqueue(command, size);
            }
        }
    }

    fn enqueue(&self, command: Cmd, size: usize) {
        let queued = self.queued.fetch_add(1, Ordering::Relaxed);
        let bytes = self.queued_bytes.fetch_add(size, Ordering::Relaxed);
        let outgoing = Outgoing {
            command,
            size,
            at: Instant::now(),
        };
        if queued >= MAX_QUEUED || bytes >= MAX_BYTES || self.queue.send(outgoing).is_err() {
            self.queued.fetch_sub(1, Ordering::Relaxed);
            self.queued_bytes.fetch_sub(size, Ordering::Relaxed);
            self.counters.undelivered.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Sends and receives until it is dropped.
    pub async fn run(
        self: Arc<Self>,
        queue: Queue,
        deliver: impl Fn(Incoming<'_>) + Send + Sync + 'static,
    ) {
        let deliver: Arc<dyn Fn(Incoming<'_>) + Send + Sync> = Arc::new(deliver);
        tokio::join!(self.send_all(queue), self.receive_all(deliver));
    }

    // --- sending ---------------------------------------------------------

    async fn send_all(&self, Queue(mut queue): Queue) {
        let commands = Commands::new(self.server.clone());
        let mut batch: Vec<Outgoing> = Vec::with_capacity(BATCH);
        loop {
            if queue.recv_many(&mut batch, BATCH).await == 0 {
                return;
            }
            let mut pause = Duration::from_millis(10);
            loop {
                let sent = self.send(&commands, &batch).await;
                let Err(error) = sent else {
                    self.counters
                        .sent
                        .fetch_add(batch.len() as u64, Ordering::Relaxed);
                    break;
                };
                self.counters.errors.fetch_add(1, Ordering::Relaxed);
                let (mut lost, mut bytes) = (0, 0);
                batch.retain(|outgoing| {
                    let stays = outgoing.at.elapsed() < TOO_OLD;
                    if !stays {
                        (lost, bytes) = (lost + 1, bytes + outgoing.size);
                    }
                    stays
                });
                if lost > 0 {
                    self.counters
                        .undelivered
                        .fetch_add(lost as u64, Ordering::Relaxed);
                    self.complain(&error, "publications did not reach other nodes");
                }
                self.release(lost, bytes);
                if batch.is_empty() {
                    break;
                }
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(MAX_PAUSE / 4);
            }
            let bytes = batch.iter().map(|outgoing| outgoing.size).sum();
            self.release(batch.len(), bytes);
            batch.clear();
        }
    }

    /// Logs an error, unless one was logged a moment ago: all are counted.
    fn complain(&self, error: &RedisError, what: &str) {
        let mut complained = self
            .complained
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if complained.is_none_or(|at| at.elapsed() > COMPLAIN) {
            *complained = Some(Instant::now());
            tracing::warn!(%error, "{what}");
        }
    }

    fn release(&self, count: usize, bytes: usize) {
        self.queued.fetch_sub(count, Ordering::Relaxed);
        self.queued_bytes.fetch_sub(bytes, Ordering::Relaxed);
    }

    async fn send(&self, commands: &Commands, batch: &[Outgoing]) -> RedisResult<()> {
        let result = tokio::time::timeout(PATIENCE, async {
            if self.server.is_cluster() {
                return send_apart(commands, batch).await;
            }
            let mut pipeline = Pipeline::with_capacity(batch.len());
            for outgoing in batch {
                pipeline.add_command(outgoing.command.clone()).ignore();
            }
            commands.pipeline(&pipeline).await
        });
        let result = result
            .await
            .unwrap_or_else(|_| Err((redis::ErrorKind::Io, "no answer in time").into()));
        if result.as_ref().is_err_and(is_unknown_script) {
            self.calls.load(commands).await?;
        }
        result
    }

    // --- receiving -------------------------------------------------------

    async fn receive_all(&self, deliver: Arc<dyn Fn(Incoming<'_>) + Send + Sync>) {
        let mut pause = Duration::from_millis(20);
        loop {
            let started = Instant::now();
            if let Err(error) = self.receive(&deliver).await {
                self.counters.errors.fetch_add(1, Ordering::Relaxed);
                self.complain(&error, "other nodes' publications do not arrive");
            }
            let was_connected = {
                let mut table = self.table();
                for channel in table.channels.values_mut() {
                    channel.confirmed = false;
                    channel.waiting.clear();
                }
                std::mem::take(&mut table.connected)
            };
            if was_connected {
                self.counters.gaps.fetch_add(1, Ordering::Relaxed);
            }
            if started.elapsed() > MAX_PAUSE * 2 {
                pause = Duration::from_millis(20);
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(MAX_PAUSE);
        }
    }

    /// One connection, to its end.
    async fn receive(&self, deliver: &Arc<dyn Fn(Incoming<'_>) + Send + Sync>) -> RedisResult<()> {
        let broken = Arc::new((Notify::new(), AtomicBool::new(false)));
        let (on_break, to) = (broken.clone(), deliver.clone());
        let nodes_channel = format!("{}:n:", self.prefix);
        let (own, seen, counters) = (self.tag, self.seen.clone(), self.counters.clone());
        let mut connection = self
            .server
            .open(
                Some(PATIENCE),
                Some(Arc::new(move |push: PushInfo| match push.kind {
                    PushKind::Disconnection => {
                        on_break.1.store(true, Ordering::Relaxed);
                        on_break.0.notify_one();
                    }
                    PushKind::Message | PushKind::SMessage => {
                        let mut data = push.data.into_iter();
                        let (Some(Value::BulkString(channel)), Some(Value::BulkString(payload))) =
                            (data.next(), data.next())
                        else {
                            return;
                        };
                        if payload.is_empty() && channel.starts_with(nodes_channel.as_bytes()) {
                            to(Incoming::Nudge);
                        } else if let Some((origin, target, message)) = envelope::decode(&payload) {
                            if origin.tag != own && is_new(&seen, origin) {
                                counters.received.fetch_add(1, Ordering::Relaxed);
                                to(Incoming::Publication(target, message));
                            }
                        }
                    }
                    PushKind::PMessage => {
                        let mut data = push.data.into_iter().skip(1);
                        let (Some(Value::BulkString(channel)), Some(Value::BulkString(payload))) =
                            (data.next(), data.next())
                        else {
                            return;
                        };
                        if let Some(foreign) = socketio::decode(&channel, &payload) {
                            counters.received.fetch_add(1, Ordering::Relaxed);
                            to(Incoming::Foreign(foreign));
                        }
                    }
                    _ => {}
                })),
            )
            .await?;
        let always = [
            format!("{}:n:{}", self.prefix, self.process),
            format!("{}:all", self.prefix),
        ];
        subscribe_plain(&mut connection, &always).await?;
        if self.with_adapter {
            match &mut connection {
                Connection::Single(connection) => connection.psubscribe(&PATTERNS[..]).await?,
                Connection::Cluster(connection) => connection.psubscribe(&PATTERNS[..]).await?,
            }
        }
        let wanted: Vec<Arc<str>> = {
            let mut table = self.table();
            table.changed.clear();
            table.channels.retain(|_, channel| channel.users > 0);
            table.channels.keys().cloned().collect()
        };
        self.confirm(&mut connection, &wanted).await?;
        self.table().connected = true;
        tracing::debug!(rooms = wanted.len(), "other nodes' publications arrive");
        let mut next_ping = Instant::now() + PING;
        loop {
            tokio::select! {
                () = broken.0.notified() => {}
                () = self.work.notified() => {}
                () = tokio::time::sleep_until(next_ping) => {
                    let _: Value = redis::cmd("PING").query_async(&mut connection).await?;
                    next_ping = Instant::now() + PING;
                }
            }
            if broken.1.load(Ordering::Relaxed) {
                return Err((redis::ErrorKind::Io, "the connection ended").into());
            }
            self.follow_changes(&mut connection).await?;
        }
    }

    /// Subscribes and unsubscribes what has changed.
    async fn follow_changes(&self, connection: &mut Connection) -> RedisResult<()> {
        let (mut wanted, mut unwanted) = (Vec::new(), Vec::new());
        {
            let mut table = self.table();
            let mut changed = std::mem::take(&mut table.changed);
            changed.sort_unstable();
            changed.dedup();
            for name in changed {
                match table.channels.get(&name) {
                    Some(channel) if channel.users > 0 && !channel.confirmed => wanted.push(name),
                    Some(channel) if channel.users == 0 => {
                        table.channels.remove(&name);
                        unwanted.push(name);
                    }
                    _ => {}
                }
            }
        }
        for names in unwanted.chunks(CHANNELS) {
            switch(connection, names, false).await?;
        }
        self.confirm(connection, &wanted).await
    }

    async fn confirm(&self, connection: &mut Connection, wanted: &[Arc<str>]) -> RedisResult<()> {
        for names in wanted.chunks(CHANNELS) {
            switch(connection, names, true).await?;
            let mut table = self.table();
            for name in names {
                if let Some(channel) = table.channels.get_mut(name) {
                    channel.confirmed = true;
                    for waiting in channel.waiting.drain(..) {
                        let _ = waiting.send(());
                    }
                }
            }
        }
        Ok(())
    }
}

/// Sends each command to where its channel is, one behind the other but without
/// waiting for answers in between.
async fn send_apart(commands: &Commands, batch: &[Outgoing]) -> RedisResult<()> {
    let mut waiting: Vec<_> = batch
        .iter()
        .map(|outgoing| Box::pin(commands.query::<Value>(&outgoing.command)))
        .collect();
    let mut result = Ok(());
    std::future::poll_fn(|context| {
        waiting.retain_mut(|sent| match sent.as_mut().poll(context) {
            Poll::Pending => true,
            Poll::Ready(answer) => {
                if let Err(error) = answer {
                    result = Err(error);
                }
                false
            }
        });
        match waiting.is_empty() {
            true => Poll::Ready(()),
            false => Poll::Pending,
        }
    })
    .await;
    result
}

/// Whether a publication is new; it is not from here on.
fn is_new(seen: &Mutex<HashMap<u32, Seen>>, origin: Origin) -> bool {
    let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
    if seen.len() >= MAX_ORIGINS && !seen.contains_key(&origin.tag) {
        seen.clear();
    }
    seen.entry(origin.tag).or_default().is_new(origin.number)
}

async fn subscribe_plain(connection: &mut Connection, names: &[String]) -> RedisResult<()> {
    match connection {
        Connection::Single(connection) => connection.subscribe(names).await,
        Connection::Cluster(connection) => connection.subscribe(names).await,
    }
}

/// Subscribes to rooms' channels, or ends that.
async fn switch(connection: &mut Connection, names: &[Arc<str>], on: bool) -> RedisResult<()> {
    match connection {
        Connection::Single(connection) => {
            let names: Vec<&str> = names.iter().map(|name| &**name).collect();
            match on {
                true => connection.subscribe(names).await,
                false => connection.unsubscribe(names).await,
            }
        }
        Connection::Cluster(connection) => {
            // Channels of one command must be of one slot.
            for name in names {
                match on {
                    true => connection.ssubscribe(&**name).await?,
                    false => connection.sunsubscribe(&**name).await?,
                }
            }
            Ok(())
        }
    }
}

//! The fan-out's driver for Redis: pub/sub, on a Redis Cluster sharded pub/sub for rooms.

use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use hashbrown::HashMap;
use redis::{Cmd, Pipeline, PushInfo, PushKind, RedisResult, Value};
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::super::calls::Calls;
use super::super::server::{Commands, Connection, Server, refuse_replica};
use super::super::socketio::Adapter;
use super::super::whereabouts::{Processes, Whereabouts};
use super::driver::{Driver, Heard, Link, Listener, Outgoing, Recipients, Unsent};
use crate::registry::UserName;

/// How long the server may take for an answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

/// Publishes and subscribes on a server.
pub struct RedisDriver {
    server: Arc<Server>,
    calls: Arc<Calls>,
    commands: Arc<Commands>,
    /// The way of what a Redis Cluster is not asked for twice.
    once: Commands,
    whereabouts: Whereabouts,
    /// By which channel this process hears what users are told.
    own: OwnChannel,
    /// Channels whose names begin so are sharded wherever they are.
    sharded: Option<Arc<str>>,
}

/// A connection that listens.
pub struct RedisLink {
    connection: Connection,
    sharded: Option<Arc<str>>,
    own: OwnChannel,
    canary: Canary,
    _mover: Mover,
}

/// Ends what is heard of a master that is none any more, until it is dropped.
struct Mover(AbortHandle);

impl Drop for Mover {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// What goes the way of publications now and then: to the server that takes them, and back from
/// the one that is listened to. After a failover these may be two, each of them well.
struct Canary {
    commands: Arc<Commands>,
    channel: Arc<str>,
    sent: u64,
    heard: watch::Receiver<u64>,
}

impl Canary {
    async fn fly(&mut self) -> RedisResult<()> {
        self.sent += 1;
        let mut command = redis::cmd("PUBLISH");
        command.arg(&*self.channel).arg(self.sent);
        let flown = tokio::time::timeout(ANSWER_TIMEOUT, async {
            self.commands.query::<Value>(&command).await?;
            let back = self.heard.wait_for(|heard| *heard >= self.sent).await;
            back.map(|_| ())
                .map_err(|_| (redis::ErrorKind::Io, "the connection ended").into())
        });
        flown.await.unwrap_or_else(|_| {
            // Which of the two is wrong nobody can say.
            self.commands.give_up();
            Err((redis::ErrorKind::Io, "what is published does not come back").into())
        })
    }
}

/// A process's channel. On a Redis Cluster there is one beside it that belongs to one shard, so
/// that what is said there is not carried to all; others need not know by which it came.
#[derive(Clone)]
struct OwnChannel {
    /// What the names of such channels begin with.
    prefix: Arc<str>,
    /// This process's, and the one beside it.
    name: Arc<str>,
    canary: Arc<str>,
    of_one_shard: Option<Arc<str>>,
}

impl OwnChannel {
    fn new(calls: &Calls, process: &str, is_cluster: bool) -> OwnChannel {
        let prefix: Arc<str> = format!("{}:n:", calls.prefix()).into();
        // Without the hash tag: processes are spread over the shards.
        let prefix = match is_cluster {
            true => prefix.replace(['{', '}'], "").into(),
            false => prefix,
        };
        OwnChannel {
            name: format!("{}:n:{process}", calls.prefix()).into(),
            canary: format!("{}:canary:{process}", calls.prefix()).into(),
            of_one_shard: is_cluster.then(|| format!("{prefix}{process}").into()),
            prefix,
        }
    }

    /// What is heard, as if there were one channel. When the other is taken away, this process
    /// has to begin anew: nobody else asks for it again.
    fn unify(&self, heard: Heard) -> Heard {
        let Some(beside) = &self.of_one_shard else {
            return heard;
        };
        match heard {
            Heard::Message { channel, payload } if *channel == *beside.as_bytes() => {
                Heard::Message {
                    channel: self.name.as_bytes().to_vec(),
                    payload,
                }
            }
            Heard::Unsubscribed { channel } if *channel == *beside.as_bytes() => Heard::Ended,
            heard => heard,
        }
    }
}

/// Whether a channel is one of those that are sharded wherever they are.
fn is_sharded(sharded: Option<&Arc<str>>, channel: &str) -> bool {
    sharded.is_some_and(|prefix| channel.starts_with(&**prefix))
}

impl RedisDriver {
    /// Connects when it is first used. `process` names this process as the registry does.
    pub fn new(
        server: Arc<Server>,
        calls: Arc<Calls>,
        process: Arc<str>,
        adapter: &Adapter,
    ) -> RedisDriver {
        RedisDriver {
            sharded: adapter.sharded_prefix().map(Into::into),
            commands: Arc::new(Commands::new(server.clone())),
            once: Commands::once(server.clone()),
            own: OwnChannel::new(&calls, &process, server.is_cluster()),
            whereabouts: Whereabouts::new(process),
            server,
            calls,
        }
    }

    fn publish(&self, is_sharded: bool, channel: &str, bytes: &[u8]) -> Cmd {
        let mut command = redis::cmd(if is_sharded { "SPUBLISH" } else { "PUBLISH" });
        command.arg(channel).arg(bytes);
        command
    }

    /// Tells processes something.
    fn tell<'a>(
        &'a self,
        processes: &'a [Arc<str>],
        bytes: &'a [u8],
    ) -> impl Iterator<Item = Cmd> + 'a {
        processes.iter().map(move |process| {
            let channel = format!("{}{process}", self.own.prefix);
            self.publish(self.server.is_cluster(), &channel, bytes)
        })
    }

    /// Sends a batch; to users, where they were last, and then wherever else they are.
    async fn send_all(&self, batch: &[Outgoing]) -> RedisResult<()> {
        let mut users: HashMap<&UserName, Processes> = HashMap::new();
        let mut commands = Vec::with_capacity(batch.len());
        let mut ways: Vec<&Commands> = Vec::with_capacity(batch.len());
        for Outgoing {
            to, bytes, number, ..
        } in batch
        {
            match to {
                Recipients::User(user) => {
                    let last = users
                        .entry(user)
                        .or_insert_with(|| self.whereabouts.last(user));
                    commands.extend(self.tell(last, bytes));
                }
                Recipients::Room(channel) => {
                    commands.push(self.publish(self.server.is_cluster(), channel, bytes));
                }
                Recipients::Channel(channel) => {
                    let is_sharded = is_sharded(self.sharded.as_ref(), channel);
                    commands.push(self.publish(is_sharded, channel, bytes));
                }
            }
            let way = match (to, number) {
                // Who hears it does not know that it was heard before.
                (Recipients::Channel(_), None) => &self.once,
                _ => &*self.commands,
            };
            ways.resize(commands.len(), way);
        }
        let asked: Vec<&UserName> = users.keys().copied().collect();
        commands.extend(asked.iter().map(|user| self.calls.whereabouts(user)));
        let published = commands.len() - asked.len();
        let answers = self.run(commands, &ways).await?;
        for (user, answer) in asked.into_iter().zip(answers.into_iter().skip(published)) {
            if let Some(processes) = users.get_mut(user) {
                *processes = self.whereabouts.learn(user, processes, &answer);
            }
        }
        let missed = batch.iter().filter_map(|outgoing| match &outgoing.to {
            Recipients::User(user) => Some((users.get(user)?, &outgoing.bytes)),
            _ => None,
        });
        let missed: Vec<Cmd> = missed
            .flat_map(|(processes, bytes)| self.tell(processes, bytes))
            .collect();
        match missed.is_empty() {
            true => Ok(()),
            false => self.run(missed, &[]).await.map(|_| ()),
        }
    }

    /// Runs commands; their answers. On a Redis Cluster the first ones go by these ways.
    async fn run(&self, commands: Vec<Cmd>, ways: &[&Commands]) -> RedisResult<Vec<Value>> {
        match self.server.is_cluster() {
            true => self.run_apart(&commands, ways).await,
            false => self.commands.pipeline(commands).await,
        }
    }

    /// Sends each command to where its channel is, one behind the other but without
    /// waiting for answers in between.
    async fn run_apart(&self, commands: &[Cmd], ways: &[&Commands]) -> RedisResult<Vec<Value>> {
        let rest = std::iter::repeat(&*self.commands);
        let sent = commands.iter().zip(ways.iter().copied().chain(rest));
        let sent = sent.map(|(command, way)| way.query::<Value>(command));
        together(sent.collect()).await.into_iter().collect()
    }
}

impl Driver for RedisDriver {
    type Link = RedisLink;

    async fn send(&self, batch: &[Outgoing]) -> Result<(), Unsent> {
        let until = Instant::now() + ANSWER_TIMEOUT;
        let reached = in_time(until, self.commands.reach()).await;
        reached.map_err(|error| Unsent {
            error,
            is_begun: false,
        })?;
        let sent = in_time(until, self.send_all(batch)).await;
        sent.map_err(|error| Unsent {
            error,
            is_begun: true,
        })
    }

    async fn listen(&self, listener: Listener) -> RedisResult<RedisLink> {
        let own = self.own.clone();
        let (canary, heard) = watch::channel(0);
        let moved = self.server.moves_from(self.server.term());
        let ends = listener.clone();
        let mover = tokio::spawn(async move {
            moved.await;
            ends(Heard::Ended);
        });
        let mover = Mover(mover.abort_handle());
        let pushed = move |push: PushInfo| match read(push) {
            Some(Heard::Message { channel, payload }) if *channel == *own.canary.as_bytes() => {
                let number = str::from_utf8(&payload)
                    .ok()
                    .and_then(|text| text.parse().ok());
                canary.send_replace(number.unwrap_or_default());
            }
            Some(heard) => listener(own.unify(heard)),
            None => {}
        };
        let opened = self
            .server
            .open(Some(ANSWER_TIMEOUT), Some(Arc::new(pushed)));
        Ok(RedisLink {
            connection: opened.await?,
            sharded: self.sharded.clone(),
            own: self.own.clone(),
            canary: Canary {
                commands: self.commands.clone(),
                channel: self.own.canary.clone(),
                sent: 0,
                heard,
            },
            _mover: mover,
        })
    }
}

/// Runs some hundreds at once, and all of them to their ends; what each comes to, in their order.
async fn together<F: Future>(all: Vec<F>) -> Vec<F::Output> {
    let all = all.into_iter().map(Box::pin);
    let mut waiting: Vec<_> = all.enumerate().collect();
    let mut answers: Vec<Option<F::Output>> = Vec::new();
    answers.resize_with(waiting.len(), || None);
    std::future::poll_fn(|context| {
        waiting.retain_mut(|(place, one)| match one.as_mut().poll(context) {
            Poll::Pending => true,
            Poll::Ready(answer) => {
                answers[*place] = Some(answer);
                false
            }
        });
        match waiting.is_empty() {
            true => Poll::Ready(()),
            false => Poll::Pending,
        }
    })
    .await;
    answers.into_iter().flatten().collect()
}

/// What is answered until then, or that nothing is.
async fn in_time(until: Instant, answer: impl Future<Output = RedisResult<()>>) -> RedisResult<()> {
    let answered = tokio::time::timeout_at(until, answer).await;
    answered.unwrap_or_else(|_| Err((redis::ErrorKind::Io, "no answer in time").into()))
}

/// What a push says; `None` for one that says nothing, such as a confirmation.
fn read(push: PushInfo) -> Option<Heard> {
    let mut data = push.data.into_iter();
    let mut text = || match data.next() {
        Some(Value::BulkString(text)) => Some(text),
        _ => None,
    };
    match push.kind {
        PushKind::Disconnection => Some(Heard::Ended),
        PushKind::Unsubscribe | PushKind::SUnsubscribe => {
            Some(Heard::Unsubscribed { channel: text()? })
        }
        PushKind::Message | PushKind::SMessage => Some(Heard::Message {
            channel: text()?,
            payload: text()?,
        }),
        PushKind::PMessage => {
            let _pattern = text();
            Some(Heard::Matched {
                channel: text()?,
                payload: text()?,
            })
        }
        _ => None,
    }
}

impl RedisLink {
    /// Publications go to another server than the one that is listened to.
    #[cfg(test)]
    pub(crate) fn publish_by(&mut self, server: &Arc<Server>) {
        self.canary.commands = Arc::new(Commands::new(server.clone()));
    }

    fn is_sharded(&self, channel: &str) -> bool {
        is_sharded(self.sharded.as_ref(), channel)
    }

    /// Changes subscriptions to sharded channels.
    async fn change_sharded(&mut self, name: &str, channels: &[&str]) -> RedisResult<()> {
        match &mut self.connection {
            Connection::Single(connection) => {
                // One channel a command: each has one confirmation.
                let mut pipeline = Pipeline::with_capacity(channels.len());
                for channel in channels {
                    pipeline.cmd(name).arg(*channel).ignore();
                }
                match channels.is_empty() {
                    true => Ok(()),
                    false => pipeline.exec_async(connection).await,
                }
            }
            Connection::Cluster(connection) => {
                // Channels of one command must be of one slot. Each is confirmed by itself, and
                // none waits for the confirmation of another.
                let changes = channels.iter().map(|channel| {
                    let mut connection = connection.clone();
                    async move {
                        match name {
                            "SSUBSCRIBE" => connection.ssubscribe(*channel).await,
                            _ => connection.sunsubscribe(*channel).await,
                        }
                    }
                });
                together(changes.collect()).await.into_iter().collect()
            }
        }
    }

    /// Rooms' channels: those that are sharded, and the others.
    fn apart<'a>(&self, rooms: &'a [Arc<str>]) -> (Vec<&'a str>, Vec<&'a str>) {
        let is_cluster = matches!(self.connection, Connection::Cluster(_));
        let all = rooms.iter().map(|room| &**room);
        all.partition(|room| is_cluster || self.is_sharded(room))
    }
}

impl Link for RedisLink {
    async fn listen_always(&mut self, channels: &[String], patterns: &[String]) -> RedisResult<()> {
        let all = channels.iter().map(String::as_str);
        let (sharded, mut plain): (Vec<&str>, Vec<&str>) =
            all.partition(|channel| self.is_sharded(channel));
        let canary = self.own.canary.clone();
        plain.push(&canary);
        match &mut self.connection {
            Connection::Single(connection) => connection.subscribe(&plain).await?,
            Connection::Cluster(connection) => connection.subscribe(&plain).await?,
        }
        self.change_sharded("SSUBSCRIBE", &sharded).await?;
        if let Some(beside) = self.own.of_one_shard.clone() {
            self.change_sharded("SSUBSCRIBE", &[&*beside]).await?;
        }
        if patterns.is_empty() {
            return Ok(());
        }
        match &mut self.connection {
            Connection::Single(connection) => connection.psubscribe(patterns).await,
            Connection::Cluster(connection) => connection.psubscribe(patterns).await,
        }
    }

    async fn subscribe(&mut self, rooms: &[Arc<str>]) -> RedisResult<()> {
        let (sharded, plain) = self.apart(rooms);
        if let (Connection::Single(connection), false) = (&mut self.connection, plain.is_empty()) {
            connection.subscribe(&plain).await?;
        }
        self.change_sharded("SSUBSCRIBE", &sharded).await
    }

    async fn unsubscribe(&mut self, rooms: &[Arc<str>]) -> RedisResult<()> {
        let (sharded, plain) = self.apart(rooms);
        if let (Connection::Single(connection), false) = (&mut self.connection, plain.is_empty()) {
            connection.unsubscribe(&plain).await?;
        }
        self.change_sharded("SUNSUBSCRIBE", &sharded).await
    }

    async fn ping(&mut self) -> RedisResult<()> {
        refuse_replica(&mut self.connection).await?;
        self.canary.fly().await
    }
}

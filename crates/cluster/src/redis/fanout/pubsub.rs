//! The fan-out's driver for Redis: pub/sub, on a Redis Cluster sharded pub/sub for rooms.

use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use redis::{Cmd, Pipeline, PushInfo, PushKind, RedisResult, Value};

use super::super::calls::Calls;
use super::super::server::{Commands, Connection, Server, is_unknown_script};
use super::super::socketio::Adapter;
use super::driver::{Driver, Heard, Link, Listener, Outgoing, Recipients};

/// How long the server may take for an answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

/// Publishes and subscribes on a server.
pub struct RedisDriver {
    server: Arc<Server>,
    calls: Arc<Calls>,
    commands: Commands,
    /// This process, as the registry names it.
    process: Arc<str>,
    /// Channels whose names begin so are sharded wherever they are.
    sharded: Option<Arc<str>>,
}

/// A connection that listens.
pub struct RedisLink {
    connection: Connection,
    sharded: Option<Arc<str>>,
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
            commands: Commands::new(server.clone()),
            server,
            calls,
            process,
        }
    }

    fn command(&self, Outgoing { to, bytes, .. }: &Outgoing) -> Cmd {
        let (name, channel) = match to {
            Recipients::User(user) => return self.calls.tell(user, &self.process, bytes),
            Recipients::Room(channel) if self.server.is_cluster() => ("SPUBLISH", channel),
            Recipients::Channel(channel) if is_sharded(self.sharded.as_ref(), channel) => {
                ("SPUBLISH", channel)
            }
            Recipients::Room(channel) | Recipients::Channel(channel) => ("PUBLISH", channel),
        };
        let mut command = redis::cmd(name);
        command.arg(channel).arg(bytes);
        command
    }

    /// Sends each command to where its channel is, one behind the other but without
    /// waiting for answers in between.
    async fn send_apart(&self, batch: &[Outgoing]) -> RedisResult<()> {
        let commands: Vec<Cmd> = batch
            .iter()
            .map(|outgoing| self.command(outgoing))
            .collect();
        let mut waiting: Vec<_> = commands
            .iter()
            .map(|command| Box::pin(self.commands.query::<Value>(command)))
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
}

impl Driver for RedisDriver {
    type Link = RedisLink;

    async fn send(&self, batch: &[Outgoing]) -> RedisResult<()> {
        let sent = tokio::time::timeout(ANSWER_TIMEOUT, async {
            if self.server.is_cluster() {
                return self.send_apart(batch).await;
            }
            let mut pipeline = Pipeline::with_capacity(batch.len());
            for outgoing in batch {
                pipeline.add_command(self.command(outgoing)).ignore();
            }
            self.commands.pipeline(&pipeline).await
        });
        let result = sent
            .await
            .unwrap_or_else(|_| Err((redis::ErrorKind::Io, "no answer in time").into()));
        if result.as_ref().is_err_and(is_unknown_script) {
            self.calls.load(&self.commands).await?;
        }
        result
    }

    async fn listen(&self, listener: Listener) -> RedisResult<RedisLink> {
        let pushed = move |push: PushInfo| {
            if let Some(heard) = read(push) {
                listener(heard);
            }
        };
        let opened = self
            .server
            .open(Some(ANSWER_TIMEOUT), Some(Arc::new(pushed)));
        Ok(RedisLink {
            connection: opened.await?,
            sharded: self.sharded.clone(),
        })
    }
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
                // Channels of one command must be of one slot.
                for channel in channels {
                    match name {
                        "SSUBSCRIBE" => connection.ssubscribe(*channel).await?,
                        _ => connection.sunsubscribe(*channel).await?,
                    }
                }
                Ok(())
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
        let (sharded, plain): (Vec<&str>, Vec<&str>) =
            all.partition(|channel| self.is_sharded(channel));
        match &mut self.connection {
            Connection::Single(connection) => connection.subscribe(&plain).await?,
            Connection::Cluster(connection) => connection.subscribe(&plain).await?,
        }
        self.change_sharded("SSUBSCRIBE", &sharded).await?;
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
        redis::cmd("PING")
            .query_async::<Value>(&mut self.connection)
            .await
            .map(|_| ())
    }
}

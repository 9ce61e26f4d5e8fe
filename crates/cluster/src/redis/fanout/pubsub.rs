//! The fan-out's driver for Redis: pub/sub, on a Redis Cluster sharded pub/sub for rooms.

use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use redis::{Cmd, Pipeline, PushInfo, PushKind, RedisResult, Value};

use super::super::calls::Calls;
use super::super::server::{Commands, Connection, Server, is_unknown_script};
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
}

impl RedisDriver {
    /// Connects when it is first used. `process` names this process as the registry does.
    pub fn new(server: Arc<Server>, calls: Arc<Calls>, process: Arc<str>) -> RedisDriver {
        RedisDriver {
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
    type Link = Connection;

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

    async fn listen(&self, listener: Listener) -> RedisResult<Connection> {
        let pushed = move |push: PushInfo| {
            if let Some(heard) = read(push) {
                listener(heard);
            }
        };
        let opened = self
            .server
            .open(Some(ANSWER_TIMEOUT), Some(Arc::new(pushed)));
        opened.await
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

impl Link for Connection {
    async fn listen_always(&mut self, channels: &[String], patterns: &[&str]) -> RedisResult<()> {
        match self {
            Connection::Single(connection) => connection.subscribe(channels).await?,
            Connection::Cluster(connection) => connection.subscribe(channels).await?,
        }
        if patterns.is_empty() {
            return Ok(());
        }
        match self {
            Connection::Single(connection) => connection.psubscribe(patterns).await,
            Connection::Cluster(connection) => connection.psubscribe(patterns).await,
        }
    }

    async fn subscribe(&mut self, rooms: &[Arc<str>]) -> RedisResult<()> {
        match self {
            Connection::Single(connection) => connection.subscribe(texts(rooms)).await,
            Connection::Cluster(connection) => {
                // Channels of one command must be of one slot.
                for room in rooms {
                    connection.ssubscribe(&**room).await?;
                }
                Ok(())
            }
        }
    }

    async fn unsubscribe(&mut self, rooms: &[Arc<str>]) -> RedisResult<()> {
        match self {
            Connection::Single(connection) => connection.unsubscribe(texts(rooms)).await,
            Connection::Cluster(connection) => {
                for room in rooms {
                    connection.sunsubscribe(&**room).await?;
                }
                Ok(())
            }
        }
    }

    async fn ping(&mut self) -> RedisResult<()> {
        redis::cmd("PING")
            .query_async::<Value>(self)
            .await
            .map(|_| ())
    }
}

fn texts(names: &[Arc<str>]) -> Vec<&str> {
    names.iter().map(|name| &**name).collect()
}

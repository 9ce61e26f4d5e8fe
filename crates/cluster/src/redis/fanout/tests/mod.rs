//! The fan-out on pub/sub of the test's own: what is lost there, repeated or late is the
//! test's to say. The clock moves when everybody waits.

mod delivery;
mod gaps;
mod sealed;

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use heartline_core::backplane::{Message, Missed, Subscription, Target};
use redis::{RedisError, RedisResult};
use tokio::time::Instant;

use super::driver::{Driver, Heard, Link, Listener, Outgoing, Recipients, Unsent};
use super::{Counters, Fanout, Incoming, Queue};
use crate::locked::locked;
use crate::redis::socketio::{Adapter, SocketIoAdapter};
use crate::seal::Seal;

/// Pub/sub of which a test says what it does.
#[derive(Clone, Default)]
struct Stub(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    /// Refuses everything.
    is_away: bool,
    /// Sends, and says that it does not know.
    loses_answers: bool,
    /// Does not answer to subscriptions.
    is_slow: bool,
    /// Each write, with what was in it.
    writes: Vec<Vec<Outgoing>>,
    links: usize,
    listener: Option<Listener>,
    subscribed: BTreeSet<String>,
}

fn away() -> RedisError {
    (redis::ErrorKind::Io, "away").into()
}

impl Stub {
    fn state<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        change(&mut locked(&self.0))
    }

    fn answer(&self) -> RedisResult<()> {
        match self.state(|state| state.is_away) {
            true => Err(away()),
            false => Ok(()),
        }
    }

    /// The server goes, and with it the connection that listens.
    fn go(&self) {
        let listener = self.state(|state| {
            state.is_away = true;
            state.listener.take()
        });
        if let Some(listener) = listener {
            listener(Heard::Ended);
        }
    }

    fn come_back(&self) {
        self.state(|state| state.is_away = false);
    }

    /// What another node has sent arrives here.
    fn bring(&self, outgoing: &Outgoing) {
        let listener = self.state(|state| state.listener.clone()).unwrap();
        let channel = match &outgoing.to {
            Recipients::Room(channel) | Recipients::Channel(channel) => channel.clone(),
            Recipients::User(_) => "{p}:n:this.00000001".into(),
        };
        listener(Heard::Message {
            channel: channel.into(),
            payload: outgoing.bytes.clone(),
        });
    }

    /// All that was sent so far, also again.
    fn sent(&self) -> Vec<Outgoing> {
        self.state(|state| state.writes.concat())
    }
}

impl Driver for Stub {
    type Link = Stub;

    async fn send(&self, batch: &[Outgoing]) -> Result<(), Unsent> {
        let unsent = |is_begun| Unsent {
            error: away(),
            is_begun,
        };
        self.answer().map_err(|_| unsent(false))?;
        self.state(|state| {
            state.writes.push(batch.to_vec());
            match state.loses_answers {
                true => Err(unsent(true)),
                false => Ok(()),
            }
        })
    }

    async fn listen(&self, listener: Listener) -> RedisResult<Stub> {
        self.answer()?;
        self.state(|state| {
            state.links += 1;
            state.subscribed.clear();
            state.listener = Some(listener);
        });
        Ok(self.clone())
    }
}

impl Link for Stub {
    async fn listen_always(&mut self, channels: &[String], _: &[String]) -> RedisResult<()> {
        self.state(|state| state.subscribed.extend(channels.iter().cloned()));
        self.answer()
    }

    async fn subscribe(&mut self, rooms: &[Arc<str>]) -> RedisResult<()> {
        until(|| !self.state(|state| state.is_slow)).await;
        let rooms = rooms.iter().map(|room| room.to_string());
        self.state(|state| state.subscribed.extend(rooms));
        self.answer()
    }

    async fn unsubscribe(&mut self, rooms: &[Arc<str>]) -> RedisResult<()> {
        self.state(|state| {
            state
                .subscribed
                .retain(|name| !rooms.contains(&(**name).into()))
        });
        self.answer()
    }

    async fn ping(&mut self) -> RedisResult<()> {
        self.answer()
    }
}

/// Waits for a condition, a minute of the test's clock at most.
async fn until(mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !condition() {
        assert!(Instant::now() < deadline, "it does not come to be");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

fn room<'a>(room: &'a str, key: Option<&'a str>) -> Target<'a> {
    Target::Room {
        namespace: "/",
        tenant: None,
        room,
        key,
    }
}

/// A node's fan-out, and what it was told.
struct Node {
    fanout: Arc<Fanout>,
    queue: Option<Queue>,
    stub: Stub,
    heard: Arc<Mutex<Vec<String>>>,
    /// The shards have too much to do.
    busy: Arc<AtomicBool>,
}

impl Node {
    /// A node that neither sends nor receives yet.
    fn new(tag: u32) -> Node {
        Node::signing(tag, Arc::default())
    }

    /// The same with a key, perhaps.
    fn signing(tag: u32, seal: Arc<Seal>) -> Node {
        let adapter = Adapter::new(SocketIoAdapter::Off, "socket.io", tag);
        let (fanout, queue) = Fanout::new(
            "{p}",
            (format!("this.{tag:08x}").into(), tag),
            adapter,
            None,
            seal,
        );
        Node {
            fanout,
            queue: Some(queue),
            stub: Stub::default(),
            heard: Arc::default(),
            busy: Arc::default(),
        }
    }

    fn run(&mut self) {
        let heard = self.heard.clone();
        let deliver = move |incoming: Incoming<'_>| {
            locked(&heard).push(match incoming {
                Incoming::Nudge => "nudge".into(),
                Incoming::Publication(_, message) => message.event.to_string(),
                Incoming::Missed(Missed::Room { room, .. }) => format!("gap of {room}"),
                Incoming::Missed(Missed::User { user, .. }) => format!("gap of user {user}"),
                Incoming::Missed(Missed::Users) => "gap of users".into(),
                Incoming::Missed(Missed::Unaddressed) => "gap of users and all".into(),
                Incoming::Missed(Missed::Anybody) => "gap of all".into(),
                Incoming::Missed(Missed::Foreign) => "gap of servers' words".into(),
                Incoming::Missed(Missed::Line) => "gap in the line".into(),
                Incoming::Foreign(_) => "foreign".into(),
            });
        };
        let queue = self.queue.take().unwrap();
        let (fanout, stub) = (self.fanout.clone(), self.stub.clone());
        let busy = self.busy.clone();
        let is_busy = move || busy.load(Ordering::Relaxed);
        let run = async move {
            fanout
                .run(stub, queue, (1_000_000, &[]), deliver, is_busy)
                .await;
        };
        tokio::spawn(run);
    }

    /// A node that sends and receives.
    async fn connected(tag: u32) -> Node {
        Node::new(tag).connect().await
    }

    async fn connect(mut self) -> Node {
        let node = &mut self;
        node.run();
        until(|| node.fanout.is_connected()).await;
        self
    }

    fn publish(&self, event: &str) {
        self.publish_with(event, "");
    }

    fn publish_with(&self, event: &str, args: &str) {
        self.fanout
            .publish(&room("r", None), &Message::new(event, args));
    }

    fn publish_in(&self, name: &str, event: &str) {
        self.fanout
            .publish(&room(name, None), &Message::new(event, ""));
    }

    /// Publishes with the key `k`.
    fn publish_keyed(&self, event: &str) {
        let heard = self.heard.clone();
        let mut here = || locked(&heard).push(event.into());
        let message = Message::new(event, "");
        self.fanout
            .publish_keyed(&room("r", Some("k")), &message, &mut here);
    }

    /// All that it has sent up to now.
    async fn all_sent(&self) -> Vec<Outgoing> {
        until(|| self.fanout.queued() == 0).await;
        self.stub.sent()
    }

    /// Everything that others have sent so far and now comes.
    fn bring_all(&self, sent: &[Outgoing]) {
        sent.iter().for_each(|outgoing| self.stub.bring(outgoing));
    }

    fn hold(&self, room: &str) -> Arc<dyn Subscription> {
        self.fanout.subscribe("/", None, room)
    }

    fn is_subscribed(&self, room: &str) -> bool {
        let channel = format!("p:r:1:/::{room}");
        self.stub.state(|state| state.subscribed.contains(&channel))
    }

    fn heard(&self) -> Vec<String> {
        locked(&self.heard).clone()
    }

    fn count(&self, counter: impl Fn(&Counters) -> &AtomicU64) -> u64 {
        counter(self.fanout.counters()).load(Ordering::Relaxed)
    }
}

/// A node that listens to the room `r`.
async fn listening(tag: u32) -> (Node, Arc<dyn Subscription>) {
    let node = Node::connected(tag).await;
    let room = node.hold("r");
    until(|| room.ready().is_none()).await;
    (node, room)
}

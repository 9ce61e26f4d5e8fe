//! The fan-out on pub/sub of the test's own: what is lost there, repeated or late is the
//! test's to say. The clock moves when everybody waits.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use heartline_core::backplane::{Message, Subscription, Target};
use redis::{RedisError, RedisResult};
use tokio::time::Instant;

use super::super::socketio::{Adapter, SocketIoAdapter};
use super::driver::{Driver, Heard, Link, Listener, Outgoing, Recipients};
use super::send::{MAX_QUEUED, MAX_QUEUED_BYTES, MAX_WAIT};
use super::{Fanout, Incoming, Queue};
use crate::locked::locked;

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

    async fn send(&self, batch: &[Outgoing]) -> RedisResult<()> {
        self.answer()?;
        self.state(|state| {
            state.writes.push(batch.to_vec());
            match state.loses_answers {
                true => Err(away()),
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

/// A node's fan-out, and what it was told.
struct Node {
    fanout: Arc<Fanout>,
    queue: Option<Queue>,
    stub: Stub,
    heard: Arc<Mutex<Vec<String>>>,
}

impl Node {
    /// A node that neither sends nor receives yet.
    fn new(tag: u32) -> Node {
        let adapter = Adapter::new(SocketIoAdapter::Off, "socket.io", tag);
        let (fanout, queue) = Fanout::new("{p}", format!("this.{tag:08x}").into(), tag, adapter);
        Node {
            fanout,
            queue: Some(queue),
            stub: Stub::default(),
            heard: Arc::default(),
        }
    }

    fn run(&mut self) {
        let heard = self.heard.clone();
        let deliver = move |incoming: Incoming<'_>| {
            locked(&heard).push(match incoming {
                Incoming::Nudge => "nudge".into(),
                Incoming::Publication(_, message) => message.event.to_string(),
                Incoming::Foreign(_) => "foreign".into(),
            });
        };
        let queue = self.queue.take().unwrap();
        let (fanout, stub) = (self.fanout.clone(), self.stub.clone());
        tokio::spawn(async move { fanout.run(stub, queue, 1_000_000, &[], deliver).await });
    }

    /// A node that sends and receives.
    async fn connected(tag: u32) -> Node {
        let mut node = Node::new(tag);
        node.run();
        until(|| node.fanout.is_connected()).await;
        node
    }

    fn publish(&self, event: &str) {
        self.publish_with(event, "");
    }

    fn publish_with(&self, event: &str, args: &str) {
        let message = Message {
            event: event.into(),
            args: args.into(),
            attachments: Vec::new(),
        };
        let target = Target::Room {
            namespace: "/",
            tenant: None,
            room: "r",
            key: None,
        };
        self.fanout.publish(&target, &message);
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

    fn count(&self, counter: impl Fn(&super::Counters) -> &std::sync::atomic::AtomicU64) -> u64 {
        counter(self.fanout.counters()).load(std::sync::atomic::Ordering::Relaxed)
    }
}

#[tokio::test(start_paused = true)]
async fn a_batch_whose_answer_got_lost_is_sent_again_and_heard_once() {
    let (mut one, other) = (Node::new(1), Node::connected(2).await);
    one.stub.state(|state| state.loses_answers = true);
    for event in ["a", "b", "c"] {
        one.publish(event);
    }
    one.run();
    until(|| one.stub.state(|state| state.writes.len()) == 2).await;
    one.stub.state(|state| state.loses_answers = false);
    until(|| one.fanout.queued() == 0).await;
    let sent = one.stub.sent();
    assert!(sent.len() >= 9, "three times at least: {}", sent.len());
    for outgoing in &sent {
        other.stub.bring(outgoing);
    }
    assert_eq!(other.heard(), ["a", "b", "c"]);
    assert_eq!(other.count(|counters| &counters.received), 3);
    assert_eq!(one.count(|counters| &counters.sent), 3);
    assert_eq!(one.count(|counters| &counters.undelivered), 0);
}

#[tokio::test(start_paused = true)]
async fn what_a_node_published_itself_is_not_delivered_twice_there() {
    let node = Node::connected(1).await;
    node.publish("a");
    until(|| node.fanout.queued() == 0).await;
    for outgoing in node.stub.sent() {
        node.stub.bring(&outgoing);
    }
    assert!(node.heard().is_empty());
}

#[tokio::test(start_paused = true)]
async fn two_nodes_that_count_alike_are_told_apart() {
    let nodes = [Node::connected(1).await, Node::connected(2).await];
    let third = Node::connected(3).await;
    for node in &nodes {
        node.publish("a");
        until(|| node.fanout.queued() == 0).await;
        third.stub.bring(&node.stub.sent()[0]);
    }
    assert_eq!(third.heard(), ["a", "a"]);
}

#[tokio::test(start_paused = true)]
async fn a_nudge_is_no_publication() {
    let node = Node::connected(1).await;
    let listener = node.stub.state(|state| state.listener.clone()).unwrap();
    listener(Heard::Message {
        channel: "{p}:n:this.00000001".into(),
        payload: Vec::new(),
    });
    assert_eq!(node.heard(), ["nudge"]);
    assert_eq!(node.count(|counters| &counters.received), 0);
}

#[tokio::test(start_paused = true)]
async fn a_node_that_was_cut_off_counts_a_gap_and_listens_again_to_its_rooms() {
    let node = Node::connected(1).await;
    let _room = node.hold("r");
    until(|| node.is_subscribed("r")).await;
    node.stub.go();
    until(|| !node.fanout.is_connected()).await;
    let _later = node.hold("later");
    node.stub.come_back();
    until(|| node.fanout.is_connected()).await;
    assert!(node.is_subscribed("r") && node.is_subscribed("later"));
    assert_eq!(node.count(|counters| &counters.gaps), 1);
    assert_eq!(node.stub.state(|state| state.links), 2);
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_died_silently_is_noticed() {
    let node = Node::connected(1).await;
    node.stub.state(|state| state.is_away = true);
    until(|| !node.fanout.is_connected()).await;
    assert_eq!(node.count(|counters| &counters.gaps), 1);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_was_never_there_is_no_gap() {
    let mut node = Node::new(1);
    node.stub.go();
    node.run();
    until(|| node.count(|counters| &counters.errors) > 3).await;
    node.stub.come_back();
    until(|| node.fanout.is_connected()).await;
    assert_eq!(node.count(|counters| &counters.gaps), 0);
}

#[tokio::test(start_paused = true)]
async fn no_more_publications_wait_than_the_queue_has_room_for() {
    let mut node = Node::new(1);
    for _ in 0..MAX_QUEUED + 3 {
        node.publish("a");
    }
    assert_eq!(node.fanout.queued(), MAX_QUEUED);
    assert_eq!(node.count(|counters| &counters.undelivered), 3);
    // What was in line is sent, and there is room again.
    node.run();
    until(|| node.fanout.queued() == 0).await;
    assert_eq!(node.count(|counters| &counters.sent), MAX_QUEUED as u64);
    node.publish("b");
    until(|| node.stub.sent().len() == MAX_QUEUED + 1).await;
}

#[tokio::test(start_paused = true)]
async fn no_more_bytes_wait_than_the_queue_has_room_for() {
    let node = Node::new(1);
    let args = "1".repeat(MAX_QUEUED_BYTES / 4);
    for _ in 0..6 {
        node.publish_with("a", &args);
    }
    assert_eq!(node.fanout.queued(), 4);
    assert_eq!(node.count(|counters| &counters.undelivered), 2);
}

#[tokio::test(start_paused = true)]
async fn what_waited_too_long_for_the_server_is_given_up_and_counted() {
    let mut node = Node::new(1);
    node.stub.go();
    node.publish("old");
    node.run();
    let published = Instant::now();
    until(|| node.fanout.queued() == 0).await;
    assert!(published.elapsed() >= MAX_WAIT);
    assert_eq!(node.count(|counters| &counters.undelivered), 1);
    node.stub.come_back();
    node.publish("new");
    until(|| node.fanout.queued() == 0).await;
    assert_eq!(node.stub.sent().len(), 1, "the new one only");
    assert_eq!(node.count(|counters| &counters.sent), 1);
}

#[tokio::test(start_paused = true)]
async fn publications_leave_in_order_many_in_one_write() {
    let mut node = Node::new(1);
    let events: Vec<String> = (0..600).map(|number| format!("e{number}")).collect();
    events.iter().for_each(|event| node.publish(event));
    node.run();
    until(|| node.fanout.queued() == 0).await;
    assert_eq!(node.stub.state(|state| state.writes.len()), 3);
    let other = Node::connected(2).await;
    node.stub
        .sent()
        .iter()
        .for_each(|outgoing| other.stub.bring(outgoing));
    assert_eq!(other.heard(), events);
}

#[tokio::test(start_paused = true)]
async fn a_join_waits_for_its_rooms_subscription_but_not_for_ever() {
    let node = Node::connected(1).await;
    node.stub.state(|state| state.is_slow = true);
    let room = node.hold("r");
    let ready = room.ready().expect("nobody has confirmed it");
    let started = Instant::now();
    ready.await;
    assert!(!node.is_subscribed("r"));
    assert!(started.elapsed() <= Duration::from_secs(2));
    let ready = room.ready().expect("nobody has confirmed it");
    node.stub.state(|state| state.is_slow = false);
    ready.await;
    assert!(node.is_subscribed("r"));
    assert!(room.ready().is_none(), "it is confirmed now");
}

#[tokio::test(start_paused = true)]
async fn a_join_does_not_wait_for_a_server_that_is_away() {
    let node = Node::connected(1).await;
    node.stub.go();
    until(|| !node.fanout.is_connected()).await;
    assert!(node.hold("r").ready().is_none());
}

#[tokio::test(start_paused = true)]
async fn a_room_is_listened_to_while_somebody_holds_it() {
    let node = Node::connected(1).await;
    let (first, second) = (node.hold("r"), node.hold("r"));
    until(|| node.is_subscribed("r")).await;
    drop(first);
    let _other = node.hold("other");
    until(|| node.is_subscribed("other")).await;
    assert!(node.is_subscribed("r"));
    drop(second);
    until(|| !node.is_subscribed("r")).await;
}

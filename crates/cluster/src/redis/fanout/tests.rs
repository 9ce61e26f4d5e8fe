//! The fan-out on pub/sub of the test's own: what is lost there, repeated or late is the
//! test's to say. The clock moves when everybody waits.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use heartline_core::backplane::{Message, Missed, Subscription, Target};
use redis::{RedisError, RedisResult};
use tokio::time::Instant;

use super::super::socketio::{Adapter, SocketIoAdapter};
use super::driver::{Driver, Heard, Link, Listener, Outgoing, Recipients, Unsent};
use super::inbox::MAX_WAITING;
use super::receive::GATHER;
use super::send::{MAX_OWED, MAX_QUEUED, MAX_QUEUED_BYTES, MAX_WAIT};
use super::{Fanout, Incoming, Queue};
use crate::locked::locked;
use crate::seal::{Also, Seal};

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
    let args = "1".repeat(MAX_QUEUED_BYTES / 4 - 200);
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
    until(|| node.stub.sent().len() == 2).await;
    assert_eq!(node.count(|counters| &counters.sent), 1);
    let other = Node::connected(2).await;
    let _room = other.hold("r");
    until(|| other.is_subscribed("r")).await;
    other.bring_all(&node.stub.sent());
    let mut heard = other.heard();
    heard.sort_unstable();
    assert_eq!(heard, ["gap of r", "new"]);
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

/// A node that listens to the room `r`.
async fn listening(tag: u32) -> (Node, Arc<dyn Subscription>) {
    let node = Node::connected(tag).await;
    let room = node.hold("r");
    until(|| room.ready().is_none()).await;
    (node, room)
}

#[tokio::test(start_paused = true)]
async fn a_publication_that_does_not_arrive_is_told_before_the_next_one() {
    let (one, (other, _room)) = (Node::connected(1).await, listening(2).await);
    for event in ["a", "b", "c", "d"] {
        one.publish(event);
    }
    one.publish_in("elsewhere", "x");
    one.publish("e");
    let mut sent = one.all_sent().await;
    let room = sent[0].to.clone();
    sent.retain(|outgoing| outgoing.to == room);
    sent.remove(1);
    sent.remove(1);
    other.bring_all(&sent);
    other.bring_all(&sent);
    assert_eq!(other.heard(), ["a", "gap of r", "d", "e"]);
    assert_eq!(other.count(|counters| &counters.missed), 1);
}

/// Redis was away for both: the one has given up what it had to say, and the other may have
/// missed something.
#[tokio::test(start_paused = true)]
async fn what_both_ends_of_a_room_have_lost_is_told_in_one() {
    let (one, (other, _room)) = (Node::connected(1).await, listening(2).await);
    one.publish("a");
    other.bring_all(&one.all_sent().await);
    one.stub.go();
    other.stub.go();
    until(|| !one.fanout.is_connected() && !other.fanout.is_connected()).await;
    one.publish("lost");
    until(|| one.count(|counters| &counters.undelivered) == 1).await;
    let before = one.stub.sent().len();
    other.stub.come_back();
    until(|| other.fanout.is_connected()).await;
    one.stub.come_back();
    // A mark for the room.
    until(|| one.stub.sent().len() > before).await;
    let marks = one.stub.sent().split_off(before);
    other.bring_all(&marks);
    let gaps = |heard: &[String]| heard.iter().filter(|told| *told == "gap of r").count();
    until(|| gaps(&other.heard()) > 0).await;
    tokio::time::sleep(2 * GATHER).await;
    one.publish("b");
    other.bring_all(&one.all_sent().await);
    assert_eq!(gaps(&other.heard()), 1, "{:?}", other.heard());
    assert_eq!(other.heard().last().map(String::as_str), Some("b"));
}

/// A broadcast was lost beside what a room has lost: that all are told tells the room.
#[tokio::test(start_paused = true)]
async fn a_room_is_not_told_again_of_what_everybody_is_told() {
    let (one, (other, _room)) = (Node::connected(1).await, listening(2).await);
    let all = Target::All {
        namespace: "/",
        tenant: None,
    };
    one.publish("a");
    one.fanout.publish(&all, &Message::new("b", ""));
    other.bring_all(&one.all_sent().await);
    one.stub.go();
    let before = one.stub.sent().len();
    one.publish("lost");
    one.fanout.publish(&all, &Message::new("lost too", ""));
    until(|| one.count(|counters| &counters.undelivered) == 2).await;
    one.stub.come_back();
    until(|| one.stub.sent().len() == before + 2).await;
    let marks = one.stub.sent().split_off(before);
    other.bring_all(&marks);
    assert_eq!(other.heard(), ["a", "b", "gap of all"]);
    // What is lost later is told.
    one.publish("lost later");
    let lost = one.all_sent().await.len();
    one.publish("c");
    other.bring_all(&one.all_sent().await[lost..]);
    assert_eq!(other.heard()[3..], ["gap of r", "c"]);
}

/// Nobody says what was lost.
#[tokio::test(start_paused = true)]
async fn a_room_that_is_heard_again_is_told_when_nobody_says_more_and_before_what_comes() {
    let (one, (other, room)) = (Node::connected(1).await, listening(2).await);
    other.stub.go();
    until(|| !other.fanout.is_connected()).await;
    other.stub.come_back();
    let back = Instant::now();
    until(|| room.ready().is_none()).await;
    until(|| other.heard().len() == 2).await;
    assert!(back.elapsed() >= GATHER);
    assert_eq!(other.heard(), ["gap of users and all", "gap of r"]);
    other.stub.go();
    until(|| !other.fanout.is_connected()).await;
    other.stub.come_back();
    until(|| other.fanout.is_connected()).await;
    one.publish("b");
    other.bring_all(&one.all_sent().await);
    let expected = ["gap of users and all", "gap of r"].repeat(2);
    assert_eq!(other.heard()[..4], expected);
    assert_eq!(other.heard()[4..], ["b"]);
}

#[tokio::test(start_paused = true)]
async fn a_broadcast_that_does_not_arrive_is_told_to_all() {
    let (one, other) = (Node::connected(1).await, Node::connected(2).await);
    let all = Target::All {
        namespace: "/",
        tenant: None,
    };
    for event in ["a", "b", "c"] {
        one.fanout.publish(&all, &Message::new(event, ""));
    }
    let mut sent = one.all_sent().await;
    sent.remove(1);
    other.bring_all(&sent);
    assert_eq!(other.heard(), ["a", "gap of all", "c"]);
}

#[tokio::test(start_paused = true)]
async fn who_was_cut_off_tells_each_room_once_and_users_too() {
    let (one, (other, room)) = (Node::connected(1).await, listening(2).await);
    let quiet = other.hold("quiet");
    until(|| quiet.ready().is_none()).await;
    one.publish("a");
    other.bring_all(&one.all_sent().await);
    other.stub.go();
    until(|| !other.fanout.is_connected()).await;
    let late = other.hold("late");
    assert!(late.ready().is_none(), "nobody waits for it");
    one.publish("lost");
    let lost = one.all_sent().await.len();
    other.stub.come_back();
    until(|| {
        [&room, &quiet, &late]
            .iter()
            .all(|room| room.ready().is_none())
    })
    .await;
    until(|| other.heard().len() >= 5).await;
    one.publish("b");
    other.bring_all(&one.all_sent().await[lost..]);
    let mut heard = other.heard();
    heard[1..5].sort_unstable();
    let gaps = [
        "gap of late",
        "gap of quiet",
        "gap of r",
        "gap of users and all",
    ];
    assert_eq!(heard[0], "a");
    assert_eq!(heard[1..5], gaps);
    assert_eq!(heard[5..], ["b"]);
}

#[tokio::test(start_paused = true)]
async fn a_room_that_the_server_has_taken_away_is_asked_for_again_and_told() {
    let (node, room) = listening(1).await;
    let listener = node.stub.state(|state| state.listener.clone()).unwrap();
    node.stub.state(|state| state.subscribed.clear());
    listener(Heard::Unsubscribed {
        channel: "p:r:1:/::r".into(),
    });
    until(|| node.is_subscribed("r") && room.ready().is_none()).await;
    until(|| node.heard() == ["gap of r"]).await;
}

#[tokio::test(start_paused = true)]
async fn what_waited_out_an_outage_is_not_told_as_news_but_as_a_gap() {
    let (mut one, (other, _room)) = (Node::new(1), listening(2).await);
    one.publish("old");
    one.publish_in("elsewhere", "old too");
    let user = Target::User {
        namespace: "/",
        tenant: Some("t"),
        user: "ann",
        user_type: None,
        topic: None,
        instead_of: None,
        key: None,
    };
    one.fanout.publish(&user, &Message::new("old", ""));
    tokio::time::advance(MAX_WAIT).await;
    // The server was never away: they have waited for something else.
    one.run();
    until(|| one.stub.sent().len() == 3).await;
    assert_eq!(one.count(|counters| &counters.undelivered), 3);
    other.bring_all(&one.stub.sent());
    let mut heard = other.heard();
    heard.sort_unstable();
    assert_eq!(heard, ["gap of r", "gap of user ann"]);
}

#[tokio::test(start_paused = true)]
async fn a_full_queue_drops_the_oldest_and_tells_where_it_was_to_go() {
    let (mut one, (other, _room)) = (Node::new(1), listening(2).await);
    one.publish("first");
    for _ in 0..MAX_QUEUED {
        one.publish_in("busy", "x");
    }
    one.run();
    let busy = |outgoing: &Outgoing| outgoing.to == Recipients::Room("p:r:1:/::busy".into());
    let sent = one.all_sent().await;
    until(|| one.stub.sent().len() > MAX_QUEUED).await;
    assert_eq!(
        sent.iter().filter(|outgoing| busy(outgoing)).count(),
        MAX_QUEUED
    );
    one.stub
        .sent()
        .iter()
        .filter(|one| !busy(one))
        .for_each(|mark| other.stub.bring(mark));
    assert_eq!(other.heard(), ["gap of r"]);
}

#[tokio::test(start_paused = true)]
async fn where_too_many_rooms_have_lost_something_all_are_told() {
    let (mut one, other) = (Node::new(1), Node::connected(2).await);
    for number in 0..=MAX_OWED {
        one.publish_in(&format!("r{number}"), "x");
    }
    tokio::time::advance(MAX_WAIT).await;
    one.run();
    until(|| !one.stub.sent().is_empty()).await;
    other.bring_all(&one.stub.sent());
    assert_eq!(other.heard(), ["gap of all"]);
}

#[tokio::test(start_paused = true)]
async fn what_comes_while_the_shards_are_busy_waits_within_bounds_and_the_rest_is_told() {
    let (one, (other, _room)) = (Node::connected(1).await, listening(2).await);
    one.publish("before");
    other.bring_all(&one.all_sent().await);
    other.busy.store(true, Ordering::Relaxed);
    let listener = other.stub.state(|state| state.listener.clone()).unwrap();
    for _ in 0..MAX_WAITING / 256 + 1 {
        (0..256).for_each(|_| one.publish("x"));
        let more = one.all_sent().await;
        one.stub.state(|state| state.writes.clear());
        other.bring_all(&more[more.len().saturating_sub(256)..]);
        // The registry does not wait.
        listener(Heard::Message {
            channel: "{p}:n:this.00000002".into(),
            payload: Vec::new(),
        });
    }
    let told = other.heard();
    assert_eq!(
        told.iter().filter(|one| *one == "nudge").count(),
        told.len() - 1
    );
    let dropped = other.count(|counters| &counters.dropped);
    assert!((1..=256).contains(&dropped), "{dropped}");
    other.busy.store(false, Ordering::Relaxed);
    until(|| other.heard().last().is_some_and(|last| last == "gap of r")).await;
    let heard = other.heard().iter().filter(|one| *one == "x").count();
    assert_eq!(heard, MAX_WAITING);
    one.publish("after");
    other.bring_all(&one.all_sent().await);
    assert_eq!(other.heard().last().map(String::as_str), Some("after"));
    assert_eq!(other.count(|counters| &counters.missed), 1);
}

#[tokio::test(start_paused = true)]
async fn nodes_that_publish_under_one_key_at_once_end_with_the_same() {
    let ((one, _here), (other, _there)) = (listening(1).await, listening(2).await);
    one.publish_keyed("one");
    other.publish_keyed("other");
    let (first, second) = (one.all_sent().await, other.all_sent().await);
    for node in [&one, &other] {
        node.bring_all(&first);
        node.bring_all(&second);
    }
    assert_eq!(one.heard(), ["one", "other"]);
    assert_eq!(other.heard(), ["other"], "the other's came before it");
    one.publish_keyed("later");
    other.bring_all(&one.all_sent().await[1..]);
    assert_eq!(other.heard(), ["other", "later"]);
}

#[tokio::test(start_paused = true)]
async fn a_publication_with_a_key_that_is_never_sent_is_told_at_home_too() {
    let (one, _room) = listening(1).await;
    let (other, _there) = listening(2).await;
    one.stub.state(|state| state.is_away = true);
    one.publish_keyed("one");
    other.publish_keyed("other");
    one.bring_all(&other.all_sent().await);
    assert_eq!(one.heard(), ["one"]);
    until(|| one.heard().contains(&"gap of r".to_owned())).await;
    other.publish_keyed("later");
    one.stub.state(|state| state.is_away = false);
    until(|| one.fanout.is_connected()).await;
    one.bring_all(&other.all_sent().await[1..]);
    assert_eq!(one.heard().last().map(String::as_str), Some("later"));
}

const KEY: &str = "a key of thirty-two bytes, or so.";

/// A node with a key that listens to the room.
async fn signing(tag: u32, key: &str, also: Option<Also>) -> (Node, Arc<dyn Subscription>) {
    let seal = Arc::new(Seal::new("{p}", Some(key), also.as_ref()));
    let node = Node::signing(tag, seal).connect().await;
    let room = node.hold("r");
    until(|| node.is_subscribed("r")).await;
    (node, room)
}

fn to_user() -> Target<'static> {
    Target::User {
        namespace: "/",
        tenant: None,
        user: "ann",
        user_type: None,
        topic: None,
        instead_of: None,
        key: None,
    }
}

#[tokio::test(start_paused = true)]
async fn with_a_key_only_nodes_that_have_it_are_heard() {
    let (one, _room) = signing(1, KEY, None).await;
    let (other, _there) = signing(2, KEY, None).await;
    let stranger = Node::connected(3).await;
    let (forger, _room) = signing(4, "another key of the same length...", None).await;
    for node in [&one, &stranger, &forger] {
        node.publish("said");
        node.fanout.publish(&to_user(), &Message::new("to ann", ""));
        node.fanout
            .publish(&Target::Nodes, &Message::new("to all", ""));
        other.bring_all(&node.all_sent().await);
    }
    assert_eq!(other.heard(), ["said", "to ann", "to all"]);
    assert_eq!(other.fanout.not_believed(), (3, 3));
    // Whoever has none hears all of them.
    let (bare, _room) = listening(5).await;
    bare.bring_all(&one.all_sent().await);
    assert_eq!(bare.heard(), ["said", "to ann", "to all"]);
}

#[tokio::test(start_paused = true)]
async fn what_was_signed_is_heard_once_and_by_its_own_channel() {
    let (one, _room) = signing(1, KEY, None).await;
    let (other, _there) = signing(2, KEY, None).await;
    (0..5_000).for_each(|_| one.publish("x"));
    let sent = one.all_sent().await;
    other.bring_all(&sent);
    assert_eq!(other.heard().len(), 5_000);
    other.bring_all(&sent[..100]);
    let elsewhere = Outgoing {
        to: Recipients::Channel("{p}:all".into()),
        ..sent[4_999].clone()
    };
    other.stub.bring(&elsewhere);
    assert_eq!(other.heard().len(), 5_000);
    assert_eq!(other.fanout.not_believed(), (0, 1));
}

#[tokio::test(start_paused = true)]
async fn marks_of_what_was_lost_are_signed_as_well() {
    let (one, _room) = signing(1, KEY, None).await;
    let (other, _there) = signing(2, KEY, None).await;
    one.publish("before");
    other.bring_all(&one.all_sent().await);
    one.stub.state(|state| state.is_away = true);
    one.publish("lost");
    tokio::time::sleep(MAX_WAIT * 2).await;
    one.stub.state(|state| {
        state.writes.clear();
        state.is_away = false;
    });
    until(|| !one.stub.sent().is_empty()).await;
    other.bring_all(&one.stub.sent());
    assert_eq!(other.heard(), ["before", "gap of r"]);
    assert_eq!(other.fanout.not_believed(), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn one_envelope_with_an_absurd_number_mutes_nobody() {
    let (one, _room) = listening(1).await;
    let (other, _there) = listening(2).await;
    one.publish("before");
    let sent = one.all_sent().await;
    other.bring_all(&sent);
    let mut forged = sent[0].clone();
    crate::envelope::stamp(&mut forged.bytes, u64::MAX, 1);
    other.stub.bring(&forged);
    assert_eq!(other.heard(), ["before", "gap of r"]);
    one.publish("after");
    other.bring_all(&one.all_sent().await[1..]);
    assert_eq!(other.heard(), ["before", "gap of r", "after"]);
}

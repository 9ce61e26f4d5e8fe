//! What is published arrives once, in order and within bounds; rooms are listened to while
//! somebody holds them.

use super::*;
use crate::redis::fanout::send::{MAX_QUEUED, MAX_QUEUED_BYTES, MAX_WAIT};

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

//! What was lost is told as a gap: where it was to go, once, and before what comes after it.

use super::*;
use crate::redis::fanout::inbox::MAX_WAITING;
use crate::redis::fanout::receive::GATHER;
use crate::redis::fanout::send::{MAX_OWED, MAX_QUEUED, MAX_WAIT};

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

//! Nodes with a key believe those that have it, and what is forged harms nobody.

use super::*;
use crate::redis::fanout::send::MAX_WAIT;
use crate::seal::Also;

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

//! Members of a conversation who are not in its room, and a store that takes its time.

use std::sync::atomic::Ordering;

use super::stalled::Stalled;
use super::*;

/// Ann, who writes; Ben, who is in the room; Cid, who is a member and is not in it.
fn three(world: &mut World) -> [Client; 3] {
    let mut all = ["ann", "ben", "cid"]
        .map(|name| world.socketio(&format!("user={name} rooms=conversation:*")));
    for client in &mut all {
        world.ask(client, r#"421["join","conversation:1"]"#);
    }
    for at in [0, 2] {
        world.ask(&mut all[at], r#"422["leave","conversation:1"]"#);
    }
    for client in &mut all {
        client.hears();
    }
    all
}

fn write(text: &str) -> String {
    let data = format!(r#"{{"conversationId":"1","content":"{text}","tempId":"{text}"}}"#);
    format!(r#"427["message:send",{data}]"#)
}

/// Which messages have come, by which events.
fn heard(client: &mut Client) -> Vec<String> {
    let heard = client.hears().into_iter();
    let told = heard.filter_map(|event| {
        let event: serde_json::Value = serde_json::from_str(event.strip_prefix("42")?).ok()?;
        let message = match event[0].as_str()? {
            "message:new" => &event[1],
            _ => &event[1]["message"],
        };
        let content = message["content"].as_str()?;
        Some(format!("{} {content}", event[0].as_str()?))
    });
    told.collect()
}

fn is_refused(client: &mut Client) -> bool {
    let heard = client.hears();
    heard.iter().any(|one| one.contains("SEND_FAILED"))
        || heard
            .iter()
            .any(|one| one.starts_with("437") && one.contains("INTERNAL"))
}

#[test]
fn what_is_stored_after_its_sender_gave_up_is_told_to_everybody_once() {
    // The store's own bound, and a shorter one of all handlers.
    for handlers in [seconds(30), seconds(3)] {
        let store = Stalled::default();
        let config = Config {
            handler_timeout: handlers,
            ..config()
        };
        let mut world = World::with(config, |builder| builder.store(store.clone()));
        let [mut ann, mut ben, mut cid] = three(&mut world);
        *store.time.lock().unwrap() = seconds(11);
        ann.says(&write("one"));
        ann.says(&write("two"));
        world.run(ms(10_900));
        assert!(is_refused(&mut ann), "{handlers:?}");
        assert!(heard(&mut ben).is_empty() && heard(&mut cid).is_empty());
        world.run(ms(300));
        assert_eq!(
            heard(&mut ben),
            ["message:new one", "message:new two"],
            "{handlers:?}"
        );
        let expected = ["message:notification one", "message:notification two"];
        assert_eq!(heard(&mut cid), expected, "{handlers:?}");
        assert!(heard(&mut ann).is_empty());
        // The same again is answered, and told to nobody.
        *store.time.lock().unwrap() = ms(1);
        ann.says(&write("one"));
        world.run(seconds(30));
        assert_eq!(heard(&mut ann), ["message:sent one"]);
        assert!(heard(&mut ben).is_empty() && heard(&mut cid).is_empty());
    }
}

#[test]
fn members_are_told_when_the_store_says_again_who_they_are() {
    let store = Stalled::default();
    let mut world = World::with(config(), |builder| builder.store(store.clone()));
    let [mut ann, _ben, mut cid] = three(&mut world);
    // What is remembered of members is not believed any more.
    world.run(seconds(31));
    store.fails.store(9, Ordering::Relaxed);
    ann.says(&write("one"));
    world.run(seconds(1));
    assert_eq!(heard(&mut ann), ["message:sent one"]);
    assert!(heard(&mut cid).is_empty());
    world.run(seconds(6));
    assert_eq!(heard(&mut cid), ["message:notification one"]);
    world.run(seconds(20));
    assert!(heard(&mut cid).is_empty());
}

#[test]
fn a_store_that_panics_keeps_no_notification_back() {
    let store = Stalled::default();
    let mut world = World::with(config(), |builder| builder.store(store.clone()));
    let [mut ann, _ben, mut cid] = three(&mut world);
    world.run(seconds(31));
    store.fails.store(9, Ordering::Relaxed);
    store.panics.store(5, Ordering::Relaxed);
    ann.says(&write("one"));
    ann.says(&write("two"));
    world.run(seconds(1));
    // The store has not panicked yet, or one of them was not answered.
    assert_eq!(heard(&mut ann), ["message:sent one", "message:sent two"]);
    world.run(seconds(30));
    let expected = ["message:notification one", "message:notification two"];
    assert_eq!(heard(&mut cid), expected);
    assert_eq!(store.panics.load(Ordering::Relaxed), 0);
}

#[test]
fn a_member_who_is_read_for_longer_than_a_handler_may_take_is_told_once() {
    let store = Stalled::default();
    let config = Config {
        handler_timeout: seconds(3),
        ..config()
    };
    let mut world = World::with(config, |builder| builder.store(store.clone()));
    let [mut ann, mut ben, mut cid] = three(&mut world);
    world.run(seconds(31));
    *store.reads.lock().unwrap() = seconds(4);
    ann.says(&write("one"));
    world.run(ms(3_500));
    assert_eq!(heard(&mut ben), ["message:new one"]);
    world.run(seconds(20));
    assert_eq!(heard(&mut cid), ["message:notification one"]);
}

#[test]
fn a_drain_waits_for_what_is_still_to_be_told() {
    let store = Stalled::default();
    let mut world = World::with(config(), |builder| builder.store(store.clone()));
    let [mut ann, mut ben, mut cid] = three(&mut world);
    world.run(seconds(31));
    // Its sender is told; the others could not be told.
    store.fails.store(1, Ordering::Relaxed);
    *store.reads.lock().unwrap() = seconds(2);
    ann.says(&write("one"));
    world.run(ms(100));
    assert_eq!(heard(&mut ann), ["message:sent one"]);
    let gateway = world.gateway.clone();
    let draining = world.begin(async move { gateway.drain().await });
    world.settle();
    for client in [&mut ann, &mut ben, &mut cid] {
        client.0.close(1001);
    }
    world.run(seconds(1));
    assert_eq!(world.gateway.connection_count(), 0);
    assert!(!draining.is_finished());
    world.run(seconds(2));
    assert!(draining.is_finished());
}

#[test]
fn a_message_that_was_accepted_is_told_whatever_is_added_to_it() {
    let max = 1_000;
    let config = Config {
        max_payload: max,
        ..config()
    };
    let mut world = World::new(config);
    let [mut ann, mut ben, mut cid] = three(&mut world);
    // The longest frame that a client may send.
    let write = |content: &str| {
        format!(r#"427["message:send",{{"conversationId":"1","content":"{content}"}}]"#)
    };
    let content = "x".repeat(max - write("").len());
    ann.says(&write(&content));
    world.settle();
    assert_eq!(heard(&mut ann), [format!("message:sent {content}")]);
    assert_eq!(heard(&mut ben), [format!("message:new {content}")]);
    assert_eq!(heard(&mut cid), [format!("message:notification {content}")]);
    let history = world.ask(&mut ben, r#"429["history:get",{"conversationId":"1"}]"#);
    assert_eq!(history.len(), 1);
    assert!(history[0].contains(&content) && history[0].contains(r#""head":1"#));
    // It is no other in an open room.
    let room = "r".repeat(200);
    let mut dan = world.socketio("user=dan");
    world.ask(&mut dan, &format!(r#"421["join","{room}"]"#));
    let write =
        |content: &str| format!(r#"427["chat:send",{{"room":"{room}","content":"{content}"}}]"#);
    let content = "ä".repeat((max - write("").len()) / 2);
    let mut eve = world.socketio("user=eve");
    eve.says(&write(&content));
    world.settle();
    assert_eq!(heard(&mut dan), [format!("message:new {content}")]);
}

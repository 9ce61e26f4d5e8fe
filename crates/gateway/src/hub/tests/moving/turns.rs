//! What takes effect at once stands behind what its client has put into the line before.

use heartline_core::store::memory::MemoryStore;
use heartline_core::store::{
    History, HistoryQuery, MessageStore, NewMessage, StoreError, Stored, Tell,
};

use super::super::resume::{Handles, kept};
use super::super::*;
use super::Cluster;
use super::line::bring;
use crate::EventError;
use crate::hub::tests::{conversations_of, invites_of};

/// Two nodes that keep what is said in rooms whose names begin with a k.
fn cluster() -> Cluster {
    let mut config = kept();
    config.recovery.rooms = vec!["k*".into()];
    let say = |socket: Socket| async move {
        for (room, event) in [("k", "a"), ("u", "b"), ("k", "c"), ("u", "d")] {
            socket.to(room).emit(event, &1)?;
        }
        Ok::<_, EventError>(())
    };
    let slip_out = |socket: Socket| async move {
        socket.publish("k", "a", &1).await?;
        socket.leave("k").await?;
        socket.publish("k", "b", &1).await?;
        socket.join("k").await?;
        socket.publish("k", "c", &1).await
    };
    let echo = |socket: Socket| async move { socket.emit("e", &1) };
    let speak = |socket: Socket| async move {
        socket.to("k").emit("a", &1)?;
        socket.emit("e", &1)
    };
    let bye = |socket: Socket| async move {
        socket.to("k").emit("a", &1)?;
        socket.publish("k", "b", &1).await?;
        socket.disconnect();
        Ok::<_, EventError>(())
    };
    Cluster::filled(&config, move |builder| {
        let builder = builder.on("say", say).on("slip out", slip_out);
        builder.on("echo", echo).on("speak", speak).on("bye", bye)
    })
}

/// The names of one letter of the events that a client has heard.
fn letters(client: &mut Client) -> String {
    let heard = client.hears().into_iter();
    let names = heard.filter_map(|text| {
        let text = text.strip_prefix("42").unwrap_or(&text).to_owned();
        let said: serde_json::Value = serde_json::from_str(&text).ok()?;
        let name = said
            .get("type")
            .or_else(|| said.get(0))?
            .as_str()?
            .to_owned();
        match &*name {
            "message:new" => Some("m".into()),
            name => Some(name.to_owned()).filter(|name| name.len() == 1),
        }
    });
    names.collect()
}

fn publish(room: &str, event: &str) -> String {
    format!(r#"42["publish",{{"room":"{room}","event":"{event}","data":1}}]"#)
}

fn publish_live(room: &str, event: &str) -> String {
    format!(r#"{{"type":"publish","topic":"{room}","event":"{event}","data":1}}"#)
}

/// One that is in both rooms, at a node.
fn listener(cluster: &mut Cluster, node: usize) -> Client {
    let token = "user=bob rooms=conversation:c,k,u";
    let mut bob = cluster.worlds[node].socketio(token);
    for room in ["k", "u", "conversation:c"] {
        bob.says(&format!(r#"42["join","{room}"]"#));
        cluster.settle();
    }
    bob.hears();
    bob
}

#[test]
fn what_is_published_before_a_leave_is_heard_and_what_is_published_before_a_join_is_not() {
    let mut cluster = cluster();
    let mut ann = cluster.worlds[0].socketio("user=ann");
    for _ in 0..3 {
        ann.says(r#"42["join","k"]"#);
        ann.says(&publish("k", "a"));
        ann.says(r#"42["leave","k"]"#);
        ann.says(&publish("k", "b"));
        ann.says(r#"42["join","k"]"#);
        ann.says(&publish("k", "c"));
        ann.says(r#"42["leave","k"]"#);
        cluster.settle();
        assert_eq!(letters(&mut ann), "ac");
    }
}

#[test]
fn the_same_holds_for_a_live_client() {
    let mut cluster = cluster();
    let mut ann = cluster.worlds[0].live("user=ann");
    for _ in 0..3 {
        ann.says(r#"{"type":"subscribe","topic":"k"}"#);
        ann.says(&publish_live("k", "a"));
        ann.says(r#"{"type":"unsubscribe","topic":"k"}"#);
        ann.says(&publish_live("k", "b"));
        ann.says(r#"{"type":"subscribe","topic":"k"}"#);
        ann.says(&publish_live("k", "c"));
        ann.says(r#"{"type":"unsubscribe","topic":"k"}"#);
        cluster.settle();
        assert_eq!(letters(&mut ann), "ac");
    }
}

#[test]
fn the_same_holds_for_what_a_handler_of_an_app_does() {
    let mut cluster = cluster();
    let mut ann = cluster.worlds[0].socketio("user=ann");
    ann.says(r#"42["join","k"]"#);
    cluster.settle();
    ann.hears();
    ann.says(r#"42["slip out"]"#);
    cluster.settle();
    assert_eq!(letters(&mut ann), "ac");
}

#[test]
fn what_is_kept_and_what_is_not_comes_in_the_order_in_which_one_client_says_it() {
    let mut cluster = cluster();
    let mut bobs = [0, 1].map(|node| listener(&mut cluster, node));
    let mut ann = cluster.worlds[0].socketio("user=ann");
    let mut joe = cluster.worlds[0].live("user=joe");
    let said = [
        ("k", "a"),
        ("u", "b"),
        ("k", "c"),
        ("k", "d"),
        ("u", "e"),
        ("u", "f"),
    ];
    for (room, event) in said {
        ann.says(&publish(room, event));
    }
    cluster.settle();
    assert_eq!(letters(&mut bobs[0]), "abcdef");
    for (room, event) in said {
        joe.says(&publish_live(room, event));
    }
    cluster.settle();
    assert_eq!(letters(&mut bobs[0]), "abcdef");
    // In one step of a handler, which does not wait.
    ann.says(r#"42["say"]"#);
    ann.says(&publish("u", "e"));
    cluster.settle();
    assert_eq!(letters(&mut bobs[0]), "abcde");
}

#[test]
fn a_message_of_a_conversation_that_is_not_kept_comes_behind_what_is() {
    let mut cluster = cluster();
    let mut bob = listener(&mut cluster, 0);
    let mut ann = cluster.worlds[0].socketio("user=ann rooms=conversation:c,k,u");
    ann.says(&publish("k", "a"));
    ann.says(r#"42["message:send",{"conversationId":"c","content":"x"}]"#);
    ann.says(&publish("k", "b"));
    ann.says(&publish("u", "c"));
    cluster.settle();
    assert_eq!(letters(&mut bob), "ambc");
}

#[test]
fn what_a_handler_says_to_its_client_comes_behind_what_that_has_published() {
    let mut cluster = cluster();
    let mut ann = cluster.worlds[0].socketio("user=ann");
    ann.says(r#"42["join","k"]"#);
    cluster.settle();
    ann.hears();
    ann.says(&publish("k", "a"));
    ann.says(r#"42["echo"]"#);
    ann.says(&publish("k", "c"));
    cluster.settle();
    assert_eq!(letters(&mut ann), "aec");
    ann.says(r#"42["echo"]"#);
    cluster.worlds[0].settle();
    assert_eq!(letters(&mut ann), "e", "nothing is on its way");
}

#[test]
fn who_ends_a_socket_in_a_handler_lets_it_hear_what_was_published_before() {
    let mut cluster = cluster();
    let mut ann = cluster.worlds[0].socketio("user=ann");
    ann.says(r#"42["join","k"]"#);
    cluster.settle();
    ann.hears();
    ann.says(&publish("k", "c"));
    ann.says(r#"42["bye"]"#);
    cluster.worlds[0].settle();
    assert_eq!(letters(&mut ann), "");
    cluster.settle();
    let heard = ann.hears();
    let place = |part: &str| heard.iter().position(|text| text.contains(part));
    let places = [r#"["c""#, r#"["b""#, "connection:closed"].map(place);
    assert!(places.is_sorted() && places[0].is_some(), "{heard:?}");
}

#[test]
fn a_drain_waits_for_what_a_connection_has_still_to_do() {
    let mut cluster = cluster();
    let mut ann = cluster.worlds[0].live("user=ann");
    ann.says(r#"{"type":"subscribe","topic":"k"}"#);
    cluster.settle();
    ann.hears();
    ann.says(&publish_live("k", "a"));
    ann.says(r#"{"type":"unsubscribe","topic":"k","id":1}"#);
    cluster.worlds[0].settle();
    let gateway = cluster.worlds[0].gateway.clone();
    let _draining = cluster.worlds[0].begin(async move { gateway.drain().await });
    cluster.worlds[0].settle();
    let heard = ann.hears();
    assert!(
        heard.len() == 1 && heard[0].contains("server:drain"),
        "{heard:?}"
    );
    cluster.settle();
    let heard = ann.hears();
    assert_eq!(heard.len(), 3, "{heard:?}");
    assert!(
        heard[0].contains(r#""event":"a""#) || heard[0].contains(r#""type":"a""#),
        "{heard:?}"
    );
    assert!(
        heard[1].contains(r#""unsubscribed","topic":"k","id":1"#),
        "{heard:?}"
    );
    assert!(heard[2].contains("1001"), "{heard:?}");
}

#[test]
fn whose_turn_has_come_is_not_judged_by_what_was_said_since() {
    let calls = Arc::new(tokio::sync::Notify::new());
    let called = calls.clone();
    let late = move |socket: Socket| {
        let called = called.clone();
        async move {
            called.notified().await;
            socket.to("k").emit("b", &1)?;
            socket.emit("e", &1)
        }
    };
    let mut config = kept();
    config.recovery.rooms = vec!["k*".into()];
    let mut cluster = Cluster::filled(&config, |builder| builder.on("late", late.clone()));
    let mut ann = cluster.worlds[0].socketio("user=ann");
    ann.says(r#"42["join","k"]"#);
    cluster.settle();
    ann.says(r#"42["late"]"#);
    cluster.worlds[0].settle();
    ann.hears();
    ann.says(&publish("k", "a"));
    ann.says(r#"42["leave","k"]"#);
    ann.says(&publish("u", "c"));
    cluster.worlds[0].settle();
    // The publication comes back, and what waits for it is done in one turn with the other handler.
    let (node, items) = cluster.meeting.lock().unwrap().take(0);
    for item in items {
        bring(&cluster.meeting, 0, &*node, item);
    }
    calls.notify_one();
    cluster.worlds[0].settle();
    let heard = ann.hears();
    assert!(
        heard.iter().any(|text| text.contains("room:left")),
        "{heard:?}"
    );
    cluster.settle();
    assert_eq!(letters(&mut ann), "e");
}

#[test]
fn what_is_kept_waits_for_nothing() {
    let mut cluster = cluster();
    let mut ann = cluster.worlds[0].socketio("user=ann");
    let before = cluster.meeting.lock().unwrap().last();
    for _ in 0..100 {
        ann.says(&publish("k", "a"));
    }
    // Nothing comes back meanwhile.
    cluster.worlds[0].settle();
    assert_eq!(cluster.meeting.lock().unwrap().last(), before + 100);
}

#[test]
fn a_line_that_stands_still_holds_nobody_for_ever() {
    let mut cluster = cluster();
    let mut ann = cluster.worlds[0].live("user=ann");
    ann.says(r#"{"type":"subscribe","topic":"k"}"#);
    cluster.settle();
    ann.says(&publish_live("k", "a"));
    ann.says(r#"{"type":"unsubscribe","topic":"k","id":1}"#);
    ann.says(r#"{"type":"ping","id":2}"#);
    ann.hears();
    let world = &mut cluster.worlds[0];
    world.run(ms(7_900));
    assert!(ann.hears().is_empty());
    world.run(ms(400));
    let heard = ann.hears();
    assert!(
        heard[0].contains(r#""unsubscribed","topic":"k","id":1"#),
        "{heard:?}"
    );
    assert!(heard[1].contains(r#""pong","id":2"#), "{heard:?}");
}

#[test]
fn what_waits_is_said_also_if_its_client_goes() {
    let mut cluster = cluster();
    let mut bob = listener(&mut cluster, 0);
    let mut ann = cluster.worlds[0].socketio("user=ann");
    ann.says(&publish("k", "a"));
    ann.says(&publish("u", "b"));
    cluster.worlds[0].settle();
    ann.says("41");
    drop(ann);
    cluster.settle();
    assert_eq!(letters(&mut bob), "ab");
}

/// A store that takes some time for each message, a second by default.
struct Slow(Arc<MemoryStore>, std::time::Duration);

impl Default for Slow {
    fn default() -> Slow {
        Slow(Arc::default(), seconds(1))
    }
}

impl MessageStore for Slow {
    fn append(&self, new: NewMessage, tell: Tell) -> BoxFuture<Result<Stored, StoreError>> {
        let (store, time) = (self.0.clone(), self.1);
        Box::pin(async move {
            tokio::time::sleep(time).await;
            store.append(new, tell).await
        })
    }

    fn history(&self, query: HistoryQuery) -> BoxFuture<Result<History, StoreError>> {
        self.0.history(query)
    }
}

conversations_of::has_conversations_of!(Slow, 0);
invites_of::has_invites_of!(Slow, 0);

const MESSAGE: &str = r#"42["message:send",{"conversationId":"c","content":"x"}]"#;
const TOKEN: &str = "user=ann rooms=conversation:c,u";

#[test]
fn what_follows_a_message_waits_for_it_and_messages_do_not_wait_for_each_other() {
    let mut world = World::with(config(), |builder| builder.store(Slow::default()));
    let mut ann = world.socketio(TOKEN);
    for room in ["conversation:c", "u"] {
        world.ask(&mut ann, &format!(r#"42["join","{room}"]"#));
    }
    for _ in 0..3 {
        ann.says(MESSAGE);
    }
    ann.says(&publish("u", "a"));
    ann.says(r#"42["leave","u"]"#);
    ann.says(&publish("u", "b"));
    world.run(ms(900));
    assert_eq!(letters(&mut ann), "");
    world.run(ms(200));
    assert_eq!(letters(&mut ann), "mmma");
    // A leave waits for a message too.
    world.ask(&mut ann, r#"42["join","u"]"#);
    ann.says(MESSAGE);
    ann.says(r#"421["leave","conversation:c"]"#);
    world.run(ms(900));
    assert!(ann.hears().is_empty());
    world.run(ms(200));
    let heard = ann.hears();
    let place = |part: &str| heard.iter().position(|text| text.contains(part)).unwrap();
    assert!(place("message:new") < place("431["), "{heard:?}");
}

/// What a live client hears that sends a message, subscribes to a topic and pings, when so much
/// time has passed.
fn subscribed_behind_a_message(takes: std::time::Duration, times: [u64; 2]) -> [Vec<String>; 2] {
    let store = Slow(Arc::default(), takes);
    let mut world = World::with(config(), |builder| builder.store(store));
    let mut ann = world.live("user=ann rooms=conversation:c,u,v");
    let message = r#"{"conversationId":"c","content":"x"}"#;
    ann.says(&format!(
        r#"{{"type":"emit","event":"message:send","data":{message},"id":1}}"#
    ));
    ann.says(r#"{"type":"subscribe","topic":"u","id":2}"#);
    ann.says(r#"{"type":"subscribe","topic":"v","id":3,"members":true}"#);
    ann.says(r#"{"type":"ping","id":4}"#);
    times.map(|time| {
        world.run(ms(time));
        ann.hears()
    })
}

#[test]
fn a_slow_message_costs_its_client_no_topic() {
    let (says, is) = (
        |all: &[String], part: &str| all.iter().position(|one| one.contains(part)),
        Some,
    );
    let [before, after] = subscribed_behind_a_message(seconds(9), [8_900, 400]);
    assert!(before.is_empty(), "{before:?}");
    let places = [
        r#""ack","id":1"#,
        r#""u","id":2"#,
        r#""v","id":3"#,
        r#""pong","id":4"#,
    ];
    let places = places.map(|part| says(&after, part));
    assert!(places.is_sorted() && places[0] >= is(0), "{after:?}");
    // The message of a store that takes longer than anybody waits is lost, and nothing else.
    let [_, after] = subscribed_behind_a_message(seconds(60), [9_900, 400]);
    assert!(says(&after, "SEND_FAILED").is_some(), "{after:?}");
    for part in [r#""subscribed","topic":"u""#, r#""subscribed","topic":"v""#] {
        assert!(says(&after, part).is_some(), "{after:?}");
    }
}

#[test]
fn what_waits_for_a_message_is_said_also_if_its_client_is_sent_away() {
    let handles = Handles::default();
    let mut world = World::with(config(), |builder| {
        handles.filled_by(builder).store(Slow::default())
    });
    let mut ann = world.socketio(TOKEN);
    let mut bob = world.socketio("user=bob");
    world.ask(&mut bob, r#"42["join","u"]"#);
    ann.says(MESSAGE);
    world.settle();
    ann.says(&publish("u", "a"));
    world.settle();
    assert_eq!(letters(&mut bob), "");
    handles.first().disconnect();
    world.settle();
    assert_eq!(letters(&mut bob), "a");
}

#[test]
fn what_follows_a_message_that_is_kept_waits_until_it_is_heard() {
    let mut config = kept();
    config.recovery.rooms = vec!["conversation:*".into()];
    let mut cluster = Cluster::filled(&config, |builder| builder.store(Slow::default()));
    let mut ann = cluster.worlds[0].socketio(TOKEN);
    for room in ["conversation:c", "u"] {
        ann.says(&format!(r#"42["join","{room}"]"#));
        cluster.settle();
    }
    ann.hears();
    ann.says(MESSAGE);
    ann.says(&publish("u", "a"));
    cluster.worlds[0].run(ms(1_100));
    assert_eq!(letters(&mut ann), "", "nothing of the line has come");
    cluster.settle();
    assert_eq!(letters(&mut ann), "ma");
}

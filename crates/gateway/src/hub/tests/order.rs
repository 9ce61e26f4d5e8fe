//! Events of one client take effect in the order in which they were sent.

use super::*;
use heartline_core::policy::{AuthMode, Limit};
use heartline_core::store::memory::MemoryStore;
use heartline_core::store::{
    History, HistoryQuery, MessageStore, NewMessage, StoreError, Stored, Tell,
};
use serde_json::value::RawValue;
use tokio::sync::Semaphore;

use crate::{All, Args, EventError, Json};

/// Handlers of an app that take their time.
fn app(builder: GatewayBuilder) -> GatewayBuilder {
    builder
        // Asks for the room first, and works on.
        .on("enter", |socket: Socket| async move {
            socket.join("lobby").await?;
            tokio::time::sleep(seconds(2)).await;
            Ok::<_, EventError>(Json("entered"))
        })
        // Works first.
        .on("stroll", |socket: Socket| async move {
            tokio::time::sleep(seconds(2)).await;
            socket.join("lobby").await?;
            Ok::<_, EventError>(Json("strolled in"))
        })
        .on("work", || async {
            tokio::time::sleep(seconds(2)).await;
            Json("worked")
        })
        .on("panic", || async {
            if true {
                panic!("a handler's fault");
            }
        })
        .on("hang", std::future::pending::<()>)
}

#[test]
fn what_follows_a_join_finds_it_done_though_one_read_brought_both() {
    let mut world = World::new(config());
    let mut ann = world.socketio("user=ann");
    ann.says(r#"421["join","lobby"]"#);
    ann.says(r#"422["publish",{"room":"lobby","event":"said","data":"hello"}]"#);
    ann.says(r#"423["leave","lobby"]"#);
    ann.says(r#"424["publish",{"room":"lobby","event":"said","data":"anybody?"}]"#);
    world.settle();
    let expected = [
        r#"42["room:joined",{"room":"lobby"}]"#,
        r#"431[{"ok":true,"room":"lobby"}]"#,
        r#"42["said","hello"]"#,
        r#"432[{"ok":true,"room":"lobby","offset":1}]"#,
        r#"42["room:left",{"room":"lobby"}]"#,
        r#"433[{"ok":true,"room":"lobby"}]"#,
        r#"434[{"ok":true,"room":"lobby"}]"#,
    ];
    assert_eq!(ann.hears(), expected);
}

#[test]
fn one_request_of_a_polling_client_brings_a_join_and_what_follows_it() {
    let mut world = World::new(config());
    let ann = world.polling("user=ann");
    let said = r#"422["publish",{"room":"lobby","event":"said","data":1}]"#;
    world.post(ann, &[r#"421["join","lobby"]"#, said].join("\u{1e}"));
    let payload = world.get(ann);
    let heard: Vec<&str> = payload.split('\u{1e}').collect();
    let expected = [
        r#"42["room:joined",{"room":"lobby"}]"#,
        r#"431[{"ok":true,"room":"lobby"}]"#,
        r#"42["said",1]"#,
        r#"432[{"ok":true,"room":"lobby","offset":1}]"#,
    ];
    assert_eq!(heard, expected);
}

#[test]
fn a_handler_that_joins_holds_what_its_client_says_until_it_has_ended() {
    let mut world = World::with(config(), app);
    let mut ann = world.socketio("user=ann");
    let mut bob = world.socketio("user=bob");
    ann.says(r#"421["enter"]"#);
    ann.says(r#"422["join","next"]"#);
    world.run(ms(1_980));
    assert!(ann.hears().is_empty());
    // Only its own client waits, and that client hears what others say meanwhile.
    let said = r#"421["publish",{"room":"lobby","event":"said","data":1}]"#;
    assert_eq!(world.ask(&mut bob, said).len(), 1);
    assert_eq!(ann.hears(), [r#"42["said",1]"#]);
    world.run(ms(40));
    let expected = [
        r#"431["entered"]"#,
        r#"42["room:joined",{"room":"next"}]"#,
        r#"432[{"ok":true,"room":"next"}]"#,
    ];
    assert_eq!(ann.hears(), expected);
}

#[test]
fn a_handler_that_waits_for_something_else_holds_nothing() {
    let mut world = World::with(config(), app);
    let mut ann = world.socketio("user=ann");
    ann.says(r#"421["stroll"]"#);
    let heard = world.ask(&mut ann, r#"422["join","next"]"#);
    assert_eq!(heard[1], r#"432[{"ok":true,"room":"next"}]"#);
    world.run(ms(2_020));
    assert_eq!(ann.hears(), [r#"431["strolled in"]"#]);
}

#[test]
fn what_a_live_client_says_behind_a_subscription_finds_it_there() {
    let mut world = World::new(config());
    let mut ann = world.live("user=ann");
    ann.says(r#"{"type":"subscribe","topic":"lobby","id":1}"#);
    ann.says(r#"{"type":"publish","topic":"lobby","event":"said","data":1,"id":2}"#);
    ann.says(r#"{"type":"unsubscribe","topic":"lobby","id":3}"#);
    ann.says(r#"{"type":"publish","topic":"lobby","event":"said","data":2,"id":4}"#);
    world.settle();
    let heard = ann.hears();
    assert!(
        heard[0].contains(r#""type":"subscribed","topic":"lobby","id":1"#),
        "{heard:?}"
    );
    let expected = [
        r#"{"type":"said","topic":"lobby","data":1,"offset":1}"#,
        r#"{"type":"ack","id":2,"data":{"ok":true,"room":"lobby","offset":1}}"#,
        r#"{"type":"unsubscribed","topic":"lobby","id":3}"#,
        r#"{"type":"ack","id":4,"data":{"ok":true,"room":"lobby"}}"#,
    ];
    assert_eq!(heard[1..], expected);
}

#[test]
fn what_follows_a_new_token_is_judged_by_it_however_long_it_takes_to_verify() {
    for takes in [0, 2] {
        let mut world = World::new(config());
        let mut ann = world.socketio("user=ann publish=lobby");
        let mut bob = world.live("user=bob publish=lobby");
        for room in ["square", "lobby"] {
            let refresh = format!("user=ann publish={room} after={takes}");
            ann.says(&format!(r#"421["auth:refresh",{{"token":"{refresh}"}}]"#));
            let said = r#""event":"said","data":1"#;
            ann.says(&format!(r#"422["publish",{{"room":"square",{said}}}]"#));
            let refresh = format!("user=bob publish={room} after={takes}");
            bob.says(&format!(r#"{{"type":"auth","token":"{refresh}","id":1}}"#));
            bob.says(&format!(
                r#"{{"type":"publish","topic":"square",{said},"id":2}}"#
            ));
            world.run(seconds(takes) + ms(10));
            let fine = room == "square";
            for heard in [ann.hears(), bob.hears()] {
                let tells = |part: &str| heard[1].contains(part);
                assert_eq!(heard.len(), 2, "{heard:?}");
                assert!(heard[0].contains(r#""ok":true"#), "{heard:?}");
                assert!(tells(r#""ok":true"#) == fine && tells("FORBIDDEN") != fine);
            }
        }
    }
}

#[test]
fn more_handlers_than_one_client_may_have_wait_for_those_before_them() {
    let bounded = Config {
        max_handlers_in_flight: 2,
        ..config()
    };
    let mut world = World::with(bounded, app);
    let mut ann = world.socketio("user=ann");
    for number in 1..=5 {
        ann.says(&format!(r#"42{number}["work"]"#));
    }
    for round in [vec![1, 2], vec![3, 4], vec![5]] {
        world.run(ms(1_970));
        assert!(ann.hears().is_empty());
        world.run(ms(40));
        let answers = round
            .iter()
            .map(|number| format!(r#"43{number}["worked"]"#));
        assert_eq!(ann.hears(), answers.collect::<Vec<_>>());
    }
}

#[test]
fn what_nobody_asked_before_it_became_somebody_is_answered() {
    let optional = config_with(|root| root.auth_mode = AuthMode::Optional);
    let mut world = World::with(optional, |builder| {
        app(builder).on("refuse", || async {
            tokio::time::sleep(seconds(1)).await;
            Err::<(), _>(EventError::new("CLOSED", "not today"))
        })
    });
    let mut ann = world.open(Opening::plain());
    for (id, event) in [(1, "work"), (2, "refuse")] {
        ann.says(&format!(r#"{{"type":"emit","event":"{event}","id":{id}}}"#));
    }
    ann.says(r#"{"type":"emit","event":"refuse"}"#);
    ann.says(r#"{"type":"auth","token":"user=ann","id":3}"#);
    world.run(ms(2_100));
    let heard = ann.hears();
    for part in [
        r#"{"type":"ack","id":1,"data":"worked"}"#,
        r#"{"type":"ack","id":2,"data":{"ok":false"#,
        r#"{"type":"error","code":"CLOSED""#,
    ] {
        let count = heard.iter().filter(|text| text.starts_with(part)).count();
        assert_eq!(count, 1, "{part}: {heard:?}");
    }
    assert_eq!(world.gateway.users_online(), 1);
}

#[test]
fn a_handler_that_panics_or_hangs_costs_its_event_alone() {
    let mut world = World::with(config(), app);
    let mut ann = world.socketio("user=ann");
    let answer = world.ask(&mut ann, r#"421["panic"]"#);
    assert!(answer[0].contains(r#""code":"INTERNAL""#), "{answer:?}");
    ann.says(r#"422["hang"]"#);
    world.run(ms(29_900));
    assert!(ann.hears().is_empty());
    world.run(ms(500));
    let answer = ann.hears();
    assert!(answer[0].starts_with(r#"432[{"ok":false"#), "{answer:?}");
    assert!(answer[0].contains(r#""code":"INTERNAL""#), "{answer:?}");
    assert_eq!(world.ask(&mut ann, r#"423["join","a"]"#).len(), 2);
    assert_eq!(
        world.metric(r#"heartline_handler_failures_total{cause="panic"}"#),
        1
    );
    assert_eq!(
        world.metric(r#"heartline_handler_failures_total{cause="timeout"}"#),
        1
    );
}

/// Handlers that say something before they answer, and one that does not.
fn speakers(builder: GatewayBuilder) -> GatewayBuilder {
    app(builder)
        .on("plain", || async { Json("plain") })
        .on("emit", |socket: Socket| async move {
            socket.emit("said", &1)?;
            Ok::<_, EventError>(Json("emitted"))
        })
        .on("tell", |socket: Socket| async move {
            socket.publish("lobby", "told", &2).await?;
            Ok::<_, EventError>(Json("told"))
        })
}

/// What one read brings: an answer by itself, two behind what their handlers say, one that
/// takes its time, a refusal and a panic, and an answer by itself again.
const ONE_READ: [&str; 7] = ["plain", "emit", "tell", "work", "nobody", "panic", "plain"];

#[test]
fn what_a_handler_says_and_all_answers_come_in_the_order_of_their_events() {
    let mut world = World::with(config(), speakers);
    let mut ann = world.socketio("user=ann");
    world.ask(&mut ann, r#"42["join","lobby"]"#);
    for (number, event) in (1..).zip(ONE_READ) {
        ann.says(&format!(r#"42{number}["{event}"]"#));
    }
    world.settle();
    let expected = [
        r#"431["plain"]"#,
        r#"42["said",1]"#,
        r#"432["emitted"]"#,
        r#"42["told",2]"#,
        r#"433["told"]"#,
        r#"435[{"ok":false,"error":"Nobody here handles this event","code":"NOT_IMPLEMENTED"}]"#,
        r#"436[{"ok":false,"error":"The event could not be processed","code":"INTERNAL"}]"#,
        r#"437["plain"]"#,
    ];
    assert_eq!(ann.hears(), expected);
    world.run(ms(2_010));
    assert_eq!(ann.hears(), [r#"434["worked"]"#]);
}

#[test]
fn the_same_holds_for_a_live_client() {
    let mut world = World::with(config(), speakers);
    let mut ann = world.live("user=ann");
    world.ask(&mut ann, r#"{"type":"subscribe","topic":"lobby"}"#);
    for (number, event) in (1..).zip(ONE_READ) {
        ann.says(&format!(
            r#"{{"type":"emit","event":"{event}","id":{number}}}"#
        ));
    }
    world.settle();
    let expected = [
        r#"{"type":"ack","id":1,"data":"plain"}"#,
        r#"{"type":"said","data":1}"#,
        r#"{"type":"ack","id":2,"data":"emitted"}"#,
        r#"{"type":"told","topic":"lobby","data":2,"offset":1}"#,
        r#"{"type":"ack","id":3,"data":"told"}"#,
        r#"{"type":"ack","id":5,"data":{"ok":false,"error":"Nobody here handles this event","code":"not-implemented"}}"#,
        r#"{"type":"ack","id":6,"data":{"ok":false,"error":"The event could not be processed","code":"INTERNAL"}}"#,
        r#"{"type":"ack","id":7,"data":"plain"}"#,
    ];
    assert_eq!(ann.hears(), expected);
    world.run(ms(2_010));
    assert_eq!(ann.hears(), [r#"{"type":"ack","id":4,"data":"worked"}"#]);
}

#[test]
fn what_a_live_client_says_beside_events_is_answered_in_its_order_as_well() {
    let mut world = World::with(config(), speakers);
    let mut ann = world.live("user=ann");
    for frame in [
        r#"{"type":"emit","event":"emit","id":1}"#,
        "no JSON",
        r#"{"type":"nonsense","id":2}"#,
        r#"{"type":"ping","id":3}"#,
        r#"{"type":"subscribe","topic":"user:bob","id":4}"#,
        r#"{"type":"subscribe","topic":"lobby","id":5}"#,
        r#"{"type":"emit","event":"emit","id":6}"#,
        r#"{"type":"unsubscribe","topic":"user:ann","id":7}"#,
        r#"{"type":"emit","event":"plain","id":8}"#,
    ] {
        ann.says(frame);
    }
    world.settle();
    let heard = ann.hears();
    let expected = [
        r#"{"type":"said","data":1}"#,
        r#"{"type":"ack","id":1,"data":"emitted"}"#,
        r#"{"type":"error","code":"protocol-violation""#,
        r#""id":2}"#,
        r#"{"type":"pong","id":3"#,
        r#""id":4"#,
        r#"{"type":"subscribed","topic":"lobby","id":5"#,
        r#"{"type":"said","data":1}"#,
        r#"{"type":"ack","id":6,"data":"emitted"}"#,
        r#""id":7"#,
        r#"{"type":"ack","id":8,"data":"plain"}"#,
    ];
    assert_eq!(heard.len(), expected.len(), "{heard:#?}");
    for (heard, part) in heard.iter().zip(expected) {
        assert!(heard.contains(part), "{heard} is not {part}");
    }
}

#[test]
fn a_refusal_comes_behind_the_answers_to_what_was_said_before() {
    let limited = config_with(|root| {
        root.limits.events = Some(Limit {
            count: 2,
            window: seconds(10),
        });
    });
    let mut world = World::with(limited, speakers);
    let mut ann = world.socketio("user=ann");
    let mut bob = world.live("user=bob");
    for number in 1..=3 {
        ann.says(&format!(r#"42{number}["emit"]"#));
        bob.says(&format!(
            r#"{{"type":"emit","event":"emit","id":{number}}}"#
        ));
    }
    world.settle();
    for heard in [ann.hears(), bob.hears()] {
        let is_said = |index: usize| heard[index].contains(r#""said""#);
        assert!(heard.len() == 5 && is_said(0) && is_said(2), "{heard:?}");
        assert!(heard[3].contains("emitted"), "{heard:?}");
        assert!(heard[4].contains("RATE_LIMITED"), "{heard:?}");
    }
}

#[test]
fn an_answer_at_once_waits_for_no_mailbox_and_costs_no_handler_its_place() {
    let bounded = Config {
        max_handlers_in_flight: 1,
        ..config()
    };
    let mut world = World::with(bounded, speakers);
    let mut ann = world.socketio("user=ann");
    // The second works: what follows it waits, and what came before does not.
    for (number, event) in (1..).zip(["plain", "work", "plain"]) {
        ann.says(&format!(r#"42{number}["{event}"]"#));
    }
    world.settle();
    assert_eq!(ann.hears(), [r#"431["plain"]"#]);
    world.run(ms(2_010));
    assert_eq!(ann.hears(), [r#"432["worked"]"#, r#"433["plain"]"#]);
}

#[test]
fn whoever_ends_gets_the_answers_first_whatever_else_waits() {
    type End = (fn(&mut Peer), &'static [&'static str]);
    let ends: [End; 4] = [
        (Peer::end, &["end"]),
        (|peer| peer.close(1000), &["close 1000", "end"]),
        (|peer| peer.text("4?"), &["close 1008"]),
        (|peer| peer.raw(b"\x81\x02hi"), &["close 1002", "end"]),
    ];
    for (end, told) in ends {
        let mut world = World::with(config(), speakers);
        let mut bob = world.socketio("user=bob");
        let mut ann = world.socketio("user=ann");
        let mut lea = world.live("user=lea");
        // What it says stands in the mailbox when the others are heard.
        bob.says(r#"421["emit"]"#);
        ann.says(r#"421["nobody"]"#);
        lea.says(r#"{"type":"emit","event":"nobody","id":1}"#);
        end(&mut ann.0);
        end(&mut lea.0);
        world.settle();
        assert_eq!(bob.hears().len(), 2);
        let heard = ann.hears();
        assert!(heard[0].contains("NOT_IMPLEMENTED"), "{heard:?}");
        assert_eq!(heard[1..], *told);
        // To a live client that is one frame which fits nothing, and no end.
        if told != ["close 1008"] {
            let heard = lea.hears();
            assert!(heard[0].contains("not-implemented"), "{heard:?}");
            assert_eq!(heard[1..], *told);
        }
    }
}

#[test]
fn refusals_of_one_payload_are_as_many_as_fit_what_may_wait_for_its_client() {
    let limited = config_with(|root| {
        root.limits.events = Some(Limit {
            count: 5_000,
            window: seconds(1_000),
        });
    });
    let mut world = World::new(limited);
    let ann = world.polling("user=ann");
    // As many as would be far over the limit, did it come to that.
    let mut post = world
        .harness
        .post(ann, &[r#"42["x"]"#; 75_500].join("\u{1e}"));
    world.settle();
    assert!(post.answer().is_some());
    let slow = r#"heartline_disconnects_total{reason="slow_consumer"}"#;
    assert_eq!(world.metric(slow), 1);
    let refused = world.metric("heartline_rate_limited_total{limit=\"events\"}");
    assert!(refused < 40_000, "{refused} refusals");
}

#[test]
fn arguments_that_were_written_with_room_in_them_are_no_others_for_that() {
    for (written, socketio, live) in [
        ("[]", "", "null"),
        ("[ ]", "", "null"),
        ("[\t\n]", "", "null"),
        ("[ 1 ]", "1", "1"),
        ("[ 1,2\n]", "1,2", "[1,2]"),
    ] {
        let mut world = World::with(config(), |builder| {
            builder.on("ask", move |socket: Socket| async move {
                let value: Box<RawValue> = serde_json::from_str(written).unwrap();
                socket.emit_args("said", &Args::many(&value)?)?;
                Ok::<_, EventError>(All(value))
            })
        });
        let mut ann = world.socketio("user=ann");
        let heard = world.ask(&mut ann, r#"421["ask"]"#);
        let said = match socketio {
            "" => r#"42["said"]"#.into(),
            args => format!(r#"42["said",{args}]"#),
        };
        assert_eq!(heard, [said, format!("431[{socketio}]")]);
        let mut bob = world.live("user=bob");
        let heard = world.ask(&mut bob, r#"{"type":"emit","event":"ask","id":1}"#);
        let said = format!(r#"{{"type":"said","data":{live}}}"#);
        let ack = format!(r#"{{"type":"ack","id":1,"data":{live}}}"#);
        assert_eq!(heard, [said, ack]);
    }
}

/// A store that keeps a message when the test lets it.
#[derive(Clone)]
struct Gated(Arc<MemoryStore>, Arc<Semaphore>);

impl Gated {
    fn closed() -> Gated {
        Gated(Arc::default(), Arc::new(Semaphore::new(0)))
    }
}

impl MessageStore for Gated {
    fn append(&self, new: NewMessage, tell: Tell) -> BoxFuture<Result<Stored, StoreError>> {
        let Gated(store, gate) = self.clone();
        Box::pin(async move {
            gate.acquire().await.unwrap().forget();
            store.append(new, tell).await
        })
    }

    fn history(&self, query: HistoryQuery) -> BoxFuture<Result<History, StoreError>> {
        self.0.history(query)
    }
}

conversations_of::has_conversations_of!(Gated, 0);
invites_of::has_invites_of!(Gated, 0);

const MEMBER: &str = "user=ann rooms=conversation:*";

/// What a client asks at once, by its names: a message, and what shows it.
const SAYS_AND_LOOKS: [(&str, &str); 4] = [
    ("message:send", r#"{"conversationId":"1","content":"mine"}"#),
    ("history:get", r#"{"conversationId":"1"}"#),
    ("inbox:get", "null"),
    ("read", r#"{"conversationId":"1","offset":1}"#),
];

/// A client of either protocol that has said a message and looks for it.
fn looker(world: &mut World, is_live: bool) -> Client {
    let mut client = match is_live {
        true => world.live(MEMBER),
        false => world.socketio(MEMBER),
    };
    // Where there is nothing else to wait for.
    let answer = match is_live {
        true => world.ask(
            &mut client,
            r#"{"type":"subscribe","topic":"conversation:1"}"#,
        ),
        false => world.ask(&mut client, r#"429["join","conversation:1"]"#),
    };
    assert!(!answer.is_empty());
    for (id, (event, data)) in (1..).zip(SAYS_AND_LOOKS) {
        client.says(&match is_live {
            true => format!(r#"{{"type":"emit","event":"{event}","data":{data},"id":{id}}}"#),
            false => format!(r#"42{id}["{event}",{data}]"#),
        });
    }
    client
}

/// The answers to what it asked, in their order.
fn answers(client: &mut Client) -> Vec<String> {
    let heard = client.hears().into_iter();
    heard
        .filter(|text| text.starts_with("43") || text.contains(r#""type":"ack""#))
        .collect()
}

#[test]
fn who_looks_for_what_it_has_just_said_finds_it() {
    for is_live in [false, true] {
        let store = Gated::closed();
        let mut world = World::with(config(), |builder| builder.store(store.clone()));
        let mut ann = looker(&mut world, is_live);
        world.run(seconds(1));
        assert_eq!(answers(&mut ann), [""; 0]);
        store.1.add_permits(1);
        world.run(ms(300));
        let answers = answers(&mut ann);
        assert_eq!(answers.len(), 4, "{answers:?}");
        assert!(answers.iter().all(|one| one.contains(r#""ok":true"#)));
        assert!(answers[1].contains(r#""content":"mine""#), "{answers:?}");
        assert!(answers[2].contains(r#""content":"mine""#), "{answers:?}");
        assert!(answers[3].contains(r#""offset":1"#), "{answers:?}");
    }
}

#[test]
fn whose_message_is_not_stored_in_time_is_told_what_there_is() {
    let store = Gated::closed();
    let mut world = World::with(config(), |builder| builder.store(store.clone()));
    let mut ann = looker(&mut world, false);
    // As long as a sender waits for the store, and as markers are gathered.
    world.run(ms(10_300));
    let answers = answers(&mut ann);
    assert_eq!(answers.len(), 4, "{answers:?}");
    assert!(answers[0].contains("SEND_FAILED"), "{answers:?}");
    assert!(answers[1].contains(r#""messages":[]"#), "{answers:?}");
    // And whoever goes meanwhile leaves nothing behind that waits.
    drop(looker(&mut world, false));
    world.run(ms(10_300));
    assert_eq!(world.harness.app().tasks.waiting(), 0);
}

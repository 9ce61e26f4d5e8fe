//! How often clients may say something, how much at once, and what becomes of those who go on.

use std::sync::atomic::{AtomicBool, Ordering};

use heartline_core::policy::Limit;
use heartline_core::store::memory::MemoryStore;
use heartline_core::store::{
    History, HistoryQuery, MessageStore, NewMessage, StoreError, Stored, Tell,
};

use super::*;

#[test]
fn what_names_a_room_and_is_too_long_is_refused_before_it_is_understood() {
    let mut world = World::new(config());
    let mut ann = world.socketio("user=ann");
    let padded = |bytes: usize| {
        let rest = r#"{"roundId":7,"x":[]}"#.len();
        format!(r#"{{"roundId":7,"x":[{}]}}"#, " ".repeat(bytes - rest))
    };
    for event in ["join:round", "leave:round"] {
        let ask = |data: &str| format!(r#"421["{event}",{data}]"#);
        let answer = world.ask(&mut ann, &ask(&padded(4_096)));
        assert!(answer[1].contains(r#""room":"round:7""#), "{answer:?}");
        let answer = world.ask(&mut ann, &ask(&padded(4_097)));
        let is_said = answer[0].contains("INVALID_ROOM") && answer[0].contains("4096 bytes");
        assert!(is_said, "{answer:?}");
    }
    let kind = "k".repeat(4_097);
    for (event, data) in [
        (format!("join:{kind}"), "7".to_owned()),
        (
            "join".to_owned(),
            format!("[{}]", vec!["1"; 4_000].join(",")),
        ),
        (
            "leave".to_owned(),
            format!("{{\"x\":\"{}\"}}", "x".repeat(4_096)),
        ),
    ] {
        let answer = world.ask(&mut ann, &format!(r#"421["{event}",{data}]"#));
        let is_said = answer[0].contains("INVALID_ROOM") && answer[0].contains("4096 bytes");
        assert!(is_said, "{answer:?}");
    }
}

#[test]
fn a_room_too_many_is_refused_and_one_that_is_left_makes_place() {
    let mut world = World::new(Config {
        max_rooms_per_socket: 2,
        ..config()
    });
    let mut ann = world.socketio("user=ann");
    for room in ["a", "b", "a"] {
        let answer = world.ask(&mut ann, &format!(r#"421["join","{room}"]"#));
        assert!(answer[1].contains(r#""ok":true"#), "{answer:?}");
    }
    let answer = world.ask(&mut ann, r#"421["join","c"]"#);
    assert!(answer[0].contains(r#""code":"ROOM_LIMIT""#), "{answer:?}");
    world.ask(&mut ann, r#"42["leave","a"]"#);
    let answer = world.ask(&mut ann, r#"421["join","c"]"#);
    assert!(answer[1].contains(r#""ok":true"#), "{answer:?}");
}

#[test]
fn a_key_has_at_most_256_bytes_on_both_protocols() {
    let mut world = World::new(config());
    let mut ann = world.socketio("user=ann");
    let mut bob = world.live("user=bob");
    world.ask(&mut ann, r#"42["join","lobby"]"#);
    for (length, code) in [
        (256, None),
        (257, Some("INVALID_DATA")),
        (900_000, Some("INVALID_DATA")),
    ] {
        let key = "k".repeat(length);
        let publish =
            format!(r#"421["publish",{{"room":"lobby","event":"said","data":1,"key":"{key}"}}]"#);
        let frame = format!(
            r#"{{"type":"publish","topic":"lobby","event":"said","data":1,"key":"{key}","id":2}}"#
        );
        let answers = [world.ask(&mut ann, &publish), world.ask(&mut bob, &frame)];
        for answer in &answers {
            let said = answer.last().unwrap();
            match code {
                None => assert!(said.contains(r#""ok":true"#), "{length}: {said}"),
                Some(code) => assert!(said.contains(code), "{length}: {said}"),
            }
        }
        let delivered = ann.hears().len() + answers[0].len() - 1;
        assert_eq!(delivered, if code.is_none() { 2 } else { 0 });
    }
}

/// A message of `chat:send` with the number 5.
const CHAT: &str = r#"425["chat:send",{"content":"hi"}]"#;

#[test]
fn the_eleventh_message_in_ten_seconds_is_refused_on_whichever_connection_of_the_user() {
    let mut world = World::new(config_with(|root| {
        root.limits.messages = Some(Limit::per(10, 10));
    }));
    let mut phone = world.socketio("user=ann device=phone");
    let mut desk = world.socketio("user=ann device=desk");
    let mut bob = world.socketio("user=bob");
    let sent = |heard: &[String]| heard[1].starts_with(r#"435[{"ok":true"#);
    for _ in 0..5 {
        assert!(sent(&world.ask(&mut phone, CHAT)));
        world.run(ms(500));
        assert!(sent(&world.ask(&mut desk, CHAT)));
        world.run(ms(500));
    }
    bob.hears();
    let refusal = r#""error":"Rate limit exceeded. Please slow down.","code":"RATE_LIMITED""#;
    for refused in [&mut phone, &mut desk] {
        let heard = world.ask(refused, CHAT);
        // The first was sent five seconds ago.
        let rest = format!(r#"{refusal},"retryAfterMs":5000}}]"#);
        let error = format!(r#"42["message:error",{{{rest}"#);
        assert_eq!(heard, [error, format!(r#"435[{{"ok":false,{rest}"#)]);
    }
    assert!(bob.hears().is_empty());
    assert!(sent(&world.ask(&mut bob, CHAT)));
    world.run(ms(4_990));
    assert!(!sent(&world.ask(&mut phone, CHAT)));
    world.run(ms(10));
    assert!(sent(&world.ask(&mut phone, CHAT)));
    assert!(!sent(&world.ask(&mut desk, CHAT)));
    assert_eq!(
        world.metric(r#"heartline_rate_limited_total{limit="messages"}"#),
        4
    );
}

#[test]
fn a_message_that_comes_again_is_answered_again_and_counts_once() {
    let mut world = World::new(config_with(|root| {
        root.limits.messages = Some(Limit::per(2, 60));
    }));
    let mut ann = world.socketio("user=ann");
    let say = |temp_id: &str, room: &str| {
        format!(r#"425["chat:send",{{"content":"hi","room":"{room}","tempId":"{temp_id}"}}]"#)
    };
    let mut answer = |temp_id, room| world.ask(&mut ann, &say(temp_id, room)).pop().unwrap();
    let first = answer("t", "a");
    assert!(first.contains(r#""ok":true"#), "{first}");
    assert_eq!(answer("t", "a"), first);
    assert!(answer("t", "b").contains(r#""ok":true"#));
    // Two messages were said, whatever the number of tries.
    assert!(answer("u", "a").contains("RATE_LIMITED"));
    assert_eq!(answer("t", "a"), first);
    // Of one that was refused nothing is known.
    assert!(answer("u", "a").contains("RATE_LIMITED"));
}

/// A store that forgets at once what its senders call their messages, and fails when it is told to.
#[derive(Default, Clone)]
struct Forgetful(Arc<MemoryStore>, Arc<AtomicBool>);

impl MessageStore for Forgetful {
    fn append(&self, new: NewMessage, tell: Tell) -> BoxFuture<Result<Stored, StoreError>> {
        if self.1.load(Ordering::Relaxed) {
            return Box::pin(async { Err(StoreError::Failed("no disk".into())) });
        }
        let temp_id = None;
        self.0.append(NewMessage { temp_id, ..new }, tell)
    }

    fn history(&self, query: HistoryQuery) -> BoxFuture<Result<History, StoreError>> {
        self.0.history(query)
    }
}

conversations_of::has_conversations_of!(Forgetful, 0);
invites_of::has_invites_of!(Forgetful, 0);

#[test]
fn a_message_that_comes_again_counts_again_where_the_store_has_forgotten_the_first() {
    let config = config_with(|root| root.limits.messages = Some(Limit::per(3, 60)));
    let store = Forgetful::default();
    let fails = store.1.clone();
    let mut world = World::with(config, |builder| builder.store(store));
    let mut ann = world.socketio("user=ann");
    let mut say = |temp_id: &str| {
        let text = format!(r#"425["chat:send",{{"content":"hi","tempId":"{temp_id}"}}]"#);
        world.ask(&mut ann, &text).pop().unwrap()
    };
    // What may have been stored counts once, however often it is tried.
    fails.store(true, Ordering::Relaxed);
    for _ in 0..4 {
        assert!(say("t").contains("SEND_FAILED"));
    }
    fails.store(false, Ordering::Relaxed);
    // It is there now; then it is there, and said, once more, and that is one more.
    for offset in [1, 2, 3] {
        let answer = say("t");
        assert!(
            answer.contains(&format!(r#""offset":{offset},"#)),
            "{answer}"
        );
    }
    assert!(say("u").contains("RATE_LIMITED"));
}

#[test]
fn messages_in_a_namespace_with_a_limit_of_its_own_are_counted_by_that_alone() {
    let mut limited = config_with(|root| root.limits.messages = Some(Limit::per(2, 60)));
    let chat = limited.namespaces.get_mut("/chat").unwrap();
    chat.limits.messages = Some(Limit::per(4, 1));
    let mut world = World::new(limited);
    let mut ann = world.socketio("user=ann");
    world.ask(&mut ann, r#"40/chat,{"token":"user=ann"}"#);
    let sent = |heard: Vec<String>| heard.last().unwrap().contains(r#""ok":true"#);
    let in_chat = CHAT.replace("42", "42/chat,");
    // Four in the one are none in the other.
    for _ in 0..4 {
        assert!(sent(world.ask(&mut ann, &in_chat)));
    }
    assert!(sent(world.ask(&mut ann, CHAT)) && sent(world.ask(&mut ann, CHAT)));
    assert!(!sent(world.ask(&mut ann, CHAT)));
    // And what its shorter window forgets, the other one's remembers.
    world.run(seconds(2));
    assert!(sent(world.ask(&mut ann, &in_chat)));
    assert!(!sent(world.ask(&mut ann, CHAT)));
}

#[test]
fn senders_are_forgotten_when_they_have_been_quiet_for_long_enough() {
    let mut world = World::new(config_with(|root| {
        root.limits.messages = Some(Limit::per(10, 10));
    }));
    let mut ann = world.socketio("user=ann");
    world.ask(&mut ann, CHAT);
    world.run(seconds(9));
    assert_eq!(world.gateway.counts().rate_limit_entries, 1);
    world.run(seconds(7));
    assert_eq!(world.gateway.counts().rate_limit_entries, 0);
}

#[test]
fn each_user_who_is_asked_about_counts_as_an_event() {
    let mut world = World::new(config_with(|root| {
        root.limits.events = Some(Limit::per(100, 10));
    }));
    let mut ann = world.socketio("user=ann");
    let users: Vec<String> = (0..60).map(|number| format!("\"{number}\"")).collect();
    let ask = format!(r#"421["presence:get",{{"users":[{}]}}]"#, users.join(","));
    for _ in 0..2 {
        let answer = world.ask(&mut ann, &ask);
        assert!(answer[0].contains(r#""online":false"#), "{answer:?}");
    }
    let answer = world.ask(&mut ann, &ask);
    assert!(answer[0].contains("RATE_LIMITED"), "{answer:?}");
    world.run(seconds(7));
    let answer = world.ask(&mut ann, &ask);
    assert!(answer[0].contains(r#""online":false"#), "{answer:?}");
}

#[test]
fn each_namespace_counts_what_is_said_in_it_by_its_own_limits() {
    let mut limited = config_with(|root| root.limits.events = Some(Limit::per(6, 60)));
    let chat = limited.namespaces.get_mut("/chat").unwrap();
    chat.limits.events = Some(Limit::per(3, 60));
    chat.limits.joins = Some(Limit::per(1, 60));
    let mut world = World::new(limited);
    let mut ann = world.socketio("user=ann");
    let enter = r#"40/chat,{"token":"user=ann"}"#;
    assert!(world.ask(&mut ann, enter)[0].starts_with("40/chat,"));
    let said = |heard: Vec<String>| !heard.last().unwrap().contains("RATE_LIMITED");
    let in_chat = r#"42/chat,1["join","a"]"#;
    assert!(said(world.ask(&mut ann, in_chat)));
    assert!(!said(world.ask(&mut ann, in_chat)), "joins");
    assert!(said(world.ask(&mut ann, r#"42/chat,1["leave","a"]"#)));
    assert!(!said(world.ask(&mut ann, r#"42/chat,1["ping"]"#)));
    // Who leaves and comes back goes on with what was counted.
    world.ask(&mut ann, "41/chat,");
    assert!(world.ask(&mut ann, enter)[0].starts_with("40/chat,"));
    assert!(!said(world.ask(&mut ann, r#"42/chat,1["ping"]"#)));
    // What was said there is nothing to the other one.
    for _ in 0..6 {
        assert!(said(world.ask(&mut ann, r#"421["join","a"]"#)));
    }
    assert!(!said(world.ask(&mut ann, r#"421["join","a"]"#)));
}

#[test]
fn what_belongs_to_no_socket_counts_on_the_connection() {
    let limited = || config_with(|root| root.limits.events = Some(Limit::per(10, 60)));
    for kind in [
        "ping frame",
        "pong frame",
        "3",
        "6",
        "stray event",
        "stray ack",
    ] {
        let mut world = World::new(limited());
        let mut ann = world.socketio("user=ann");
        for _ in 0..120 {
            match kind {
                "ping frame" => ann.0.ping(b""),
                "pong frame" => ann.0.pong(),
                "3" | "6" => ann.0.text(kind),
                "stray event" => ann.says(r#"42/chat,["e"]"#),
                _ => ann.says("437[]"),
            }
        }
        world.settle();
        let heard = ann.hears();
        assert_eq!(
            heard.last().map(String::as_str),
            Some("close 4429"),
            "{kind}"
        );
    }
    // Within the limit nobody notices, and events have a count of their own.
    let mut world = World::new(limited());
    let mut ann = world.socketio("user=ann");
    for _ in 0..9 {
        ann.0.ping(b"");
    }
    world.settle();
    assert_eq!(ann.hears(), ["pong"; 9]);
    for _ in 0..10 {
        assert!(world.ask(&mut ann, r#"421["ping"]"#)[1].contains("timestamp"));
    }
}

#[test]
fn live_pings_count_as_events() {
    let mut world = World::new(config_with(|root| {
        root.limits.events = Some(Limit::per(10, 10));
    }));
    let mut ann = world.live("user=ann");
    for id in 0..200 {
        ann.says(&format!(r#"{{"type":"ping","id":{id}}}"#));
    }
    let heard = world.ask(&mut ann, r#"{"type":"ping","id":"last"}"#);
    assert!(
        heard[10].contains("rate-limited") || heard[10].contains("RATE_LIMITED"),
        "{heard:?}"
    );
    assert_eq!(
        heard.last().map(String::as_str),
        Some("close 4429"),
        "{heard:?}"
    );
}

#[test]
fn events_over_the_limit_are_refused_until_there_is_room_and_far_over_it_is_the_end() {
    let mut world = World::new(config_with(|root| {
        root.limits.events = Some(Limit::per(10, 10));
    }));
    let mut ann = world.socketio("user=ann");
    let ping = r#"423["ping"]"#;
    let answered = |heard: Vec<String>| heard.last().unwrap().contains("timestamp");
    for _ in 0..10 {
        assert!(answered(world.ask(&mut ann, ping)));
    }
    let refused = world.ask(&mut ann, ping);
    assert!(
        refused[0].contains(r#""code":"RATE_LIMITED","retryAfterMs":1000"#),
        "{refused:?}"
    );
    // Without a number there is an event in the answer's place.
    let refused = world.ask(&mut ann, r#"42["unheard"]"#);
    assert!(
        refused[0].starts_with(r#"42["message:error",{"#),
        "{refused:?}"
    );
    world.run(seconds(1));
    assert!(answered(world.ask(&mut ann, ping)));
    for _ in 0..98 {
        ann.says(ping);
    }
    assert_eq!(world.ask(&mut ann, "3").len(), 98);
    let last = world.ask(&mut ann, ping);
    assert!(last[0].contains(r#""code":"RATE_LIMITED""#), "{last:?}");
    assert_eq!(last[1..], ["close 4429"]);
    assert_eq!(world.farewells(), ["ann rate_limited user:ann"]);
}

#[test]
fn joins_over_the_limit_are_refused_until_there_is_room() {
    let mut world = World::new(config_with(|root| {
        root.limits.joins = Some(Limit::per(3, 3));
    }));
    let mut bob = world.live("user=bob");
    let subscribe = r#"{"type":"subscribe","topic":"a","id":1}"#;
    let mut ann = world.socketio("user=ann");
    // Socket.IO's CONNECT was a join of the connection, and none of this socket's.
    for room in ["a", "b", "b"] {
        assert!(world.ask(&mut ann, &format!(r#"421["join","{room}"]"#))[1].contains("true"));
    }
    let refused = world.ask(&mut ann, r#"421["join","c"]"#);
    assert!(
        refused[0].contains(r#""code":"RATE_LIMITED""#),
        "{refused:?}"
    );
    for _ in 0..3 {
        assert!(world.ask(&mut bob, subscribe)[0].contains("subscribed"));
    }
    let refused = world.ask(&mut bob, subscribe);
    assert!(
        refused[0].contains("RATE_LIMITED") && refused[0].contains(r#""retryAfterMs":"#),
        "{refused:?}"
    );
    world.run(seconds(1));
    assert!(world.ask(&mut ann, r#"421["join","c"]"#)[1].contains("true"));
    assert!(world.ask(&mut bob, subscribe)[0].contains("subscribed"));
}

#[test]
fn twenty_frames_that_fit_nothing_are_told_so_and_one_more_in_a_row_is_the_end() {
    let mut world = World::new(config());
    let mut ann = world.live("user=ann");
    let pong = |heard: Vec<String>| heard[0].contains("pong");
    for round in 0..2 {
        for _ in 0..20 {
            let answer = world.ask(&mut ann, "{\"type\":\"nonsense\"}");
            assert!(
                answer[0].contains(r#""code":"protocol-violation""#),
                "{answer:?}"
            );
        }
        if round == 0 {
            assert!(pong(world.ask(&mut ann, r#"{"type":"ping"}"#)));
        }
    }
    assert_eq!(world.ask(&mut ann, "no JSON"), ["close 1008"]);
}

#[test]
fn frames_that_fit_nothing_count_as_events() {
    let limited = || config_with(|root| root.limits.events = Some(Limit::per(10, 60)));
    let nonsense = r#"{"type":"nonsense","id":7}"#;
    let ping = r#"{"type":"ping","id":8}"#;
    let mut world = World::new(limited());
    let mut ann = world.live("user=ann");
    for _ in 0..5 {
        let answer = world.ask(&mut ann, nonsense);
        assert!(answer[0].contains("protocol-violation"), "{answer:?}");
        assert!(world.ask(&mut ann, ping)[0].contains("pong"));
    }
    for (frame, id) in [(nonsense, "7"), (ping, "8")] {
        let answer = world.ask(&mut ann, frame);
        assert!(
            answer[0].starts_with(r#"{"type":"error","code":"RATE_LIMITED","#),
            "{answer:?}"
        );
        let rest = format!(r#""retryAfterMs":6000,"id":{id}}}"#);
        assert!(answer[0].ends_with(&rest), "{answer:?}");
    }
    // Whoever goes on is closed, be it that every other frame is fine, before and after they
    // are let in.
    for mut client in [ann, world.open(Opening::plain())] {
        for _ in 0..60 {
            client.says(nonsense);
            client.says(ping);
        }
        world.settle();
        let heard = client.hears();
        assert_eq!(heard.last().unwrap(), "close 4429", "{heard:?}");
    }
    // In a row, twenty of them are enough, over the limit or not.
    let mut bob = world.live("user=bob");
    for _ in 0..20 {
        assert!(world.ask(&mut bob, "no JSON")[0].starts_with(r#"{"type":"error""#));
    }
    assert_eq!(world.ask(&mut bob, "no JSON"), ["close 1008"]);
}

#[test]
fn attachments_too_large_together_cost_the_event_and_not_the_connection() {
    let mut world = World::new(Config {
        max_payload: 1000,
        ..config()
    });
    let mut ann = world.socketio("user=ann");
    let event = r#"452-6["publish",{"room":"r","event":"e","data":[{"_placeholder":true,"num":0},{"_placeholder":true,"num":1}]}]"#;
    for (bytes, is_fine) in [(300, true), (600, false), (300, true)] {
        ann.says(event);
        ann.0.binary(&vec![0; bytes]);
        ann.0.binary(&vec![0; bytes]);
        world.settle();
        let answer = ann.hears();
        let said = if is_fine {
            r#""ok":true"#
        } else {
            r#""code":"PAYLOAD_TOO_LARGE""#
        };
        assert!(
            answer[0].starts_with("436[") && answer[0].contains(said),
            "{answer:?}"
        );
    }
}

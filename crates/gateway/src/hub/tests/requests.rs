//! What clients ask, and what they are answered.

use std::sync::atomic::{AtomicBool, Ordering};

use heartline_core::policy::{AuthMode, Limit, RoomsDefault};
use heartline_core::store::memory::MemoryStore;
use heartline_core::store::{
    History, HistoryQuery, MessageStore, NewMessage, StoreError, Stored, Tell,
};

use super::*;

#[test]
fn every_request_is_answered_under_its_own_number() {
    let mut world = World::new(config());
    let mut ann = world.socketio("user=ann");
    for text in [r#"4217["join","a"]"#, r#"422["leave","a"]"#] {
        ann.says(text);
    }
    let heard = world.ask(&mut ann, r#"4298765432109["join",{"room":"b"}]"#);
    let expected = [
        r#"42["room:joined",{"room":"a"}]"#,
        r#"4317[{"ok":true,"room":"a"}]"#,
        r#"42["room:left",{"room":"a"}]"#,
        r#"432[{"ok":true,"room":"a"}]"#,
        r#"42["room:joined",{"room":"b"}]"#,
        r#"4398765432109[{"ok":true,"room":"b"}]"#,
    ];
    assert_eq!(heard, expected);
    let mut bob = world.live("user=bob");
    let say = |id| format!(r#"{{"type":"emit","event":"leave","data":{{"room":"b"}},"id":{id}}}"#);
    for id in ["\"x\"", "7"] {
        let ack = format!(r#"{{"type":"ack","id":{id},"data":{{"ok":true,"room":"b"}}}}"#);
        let left = r#"{"type":"room:left","data":{"room":"b"}}"#;
        assert_eq!(world.ask(&mut bob, &say(id)), [left, &ack]);
    }
}

#[test]
fn an_event_that_nobody_handles_is_answered_if_an_answer_was_asked_for() {
    let mut world = World::new(config());
    let mut ann = world.socketio("user=ann");
    assert!(world.ask(&mut ann, r#"42["unheard",1]"#).is_empty());
    let answer = world.ask(&mut ann, r#"423["unheard",1]"#);
    assert!(answer[0].starts_with(r#"433[{"ok":false,"#), "{answer:?}");
    assert!(
        answer[0].contains(r#""code":"NOT_IMPLEMENTED""#),
        "{answer:?}"
    );
    let mut bob = world.live("user=bob");
    for (id, kind) in [("", "error"), (r#","id":9"#, "ack")] {
        let frame = format!(r#"{{"type":"emit","event":"unheard","data":1{id}}}"#);
        let answer = world.ask(&mut bob, &frame);
        assert!(
            answer[0].contains(&format!(r#""type":"{kind}"{id}"#)),
            "{answer:?}"
        );
        assert!(
            answer[0].contains(r#""code":"not-implemented""#),
            "{answer:?}"
        );
        assert_eq!(answer.len(), 1);
    }
}

#[test]
fn a_name_of_nothing_but_colons_is_looked_at_once() {
    let mut world = World::new(config());
    let mut ann = world.socketio("user=ann");
    let name = ":".repeat(900_000);
    let begun = std::time::Instant::now();
    let answer = world.ask(&mut ann, &format!(r#"421["{name}",1]"#));
    // Each colon may end a family's name: to look at all that stands before each takes minutes.
    assert!(begun.elapsed() < seconds(20), "{:?}", begun.elapsed());
    assert!(answer[0].contains("NOT_IMPLEMENTED"), "{answer:?}");
    let answer = world.ask(&mut ann, r#"422["join:round:x","7"]"#);
    assert!(answer[1].contains(r#""room":"round:x:7""#), "{answer:?}");
}

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
fn what_a_builtin_event_does_not_need_of_its_data_is_passed_over() {
    let mut world = World::new(config());
    let mut ann = world.socketio("user=ann");
    // As deep as data may be, and deeper than it is understood.
    let deep = format!("{}{}", "[".repeat(400), "]".repeat(400));
    let data = format!(r#"{{"timestamp":1,"x":{deep}}}"#);
    let answer = world.ask(&mut ann, &format!(r#"421["heartbeat:response",{data}]"#));
    let latency = answer[0].strip_prefix(r#"431[{"latencyMs":"#);
    assert!(
        latency.is_some_and(|millis| millis.starts_with(char::is_numeric)),
        "{answer:?}"
    );
    let users = format!(r#"{{"users":[{},7,{deep}]}}"#, vec!["\"x\""; 101].join(","));
    for event in ["presence:get", "presence:watch", "presence:unwatch"] {
        let answer = world.ask(&mut ann, &format!(r#"421["{event}",{users}]"#));
        assert!(
            answer[0].contains("at most 100 users"),
            "{event}: {answer:?}"
        );
    }
    let data = format!(r#"{{"conversationId":{deep},"content":"hi","tempId":5}}"#);
    let answer = world.ask(&mut ann, &format!(r#"421["message:send",{data}]"#));
    let why = "conversationId must be text that is not empty, or a number";
    assert!(answer.iter().all(|one| one.contains(why)), "{answer:?}");
    let data = format!(r#"{{"conversationId":{deep}}}"#);
    let answer = world.ask(&mut ann, &format!(r#"421["history:get",{data}]"#));
    assert!(answer[0].contains("none of the kinds"), "{answer:?}");
    // Deep, or greater than any number: it names no other room than the rest of the data does.
    for passed_over in [&*deep, "1e400"] {
        for event in ["join:team", "leave:team"] {
            let data = format!(r#"{{"teamId":"a","x":{passed_over}}}"#);
            let answer = world.ask(&mut ann, &format!(r#"421["{event}",{data}]"#));
            let answer = answer.last().unwrap();
            assert!(answer.contains(r#""room":"team:a""#), "{answer}");
            for data in [
                passed_over,
                &format!("[{passed_over}]"),
                &format!(r#"{{"x":{passed_over}}}"#),
                &format!(r#"{{"teamId":{passed_over}}}"#),
            ] {
                let answer = world.ask(&mut ann, &format!(r#"421["{event}",{data}]"#));
                assert!(answer[0].contains("INVALID_ROOM"), "{data}: {answer:?}");
            }
        }
        let data = format!(r#"{{"room":"a","members":{passed_over}}}"#);
        let answer = world.ask(&mut ann, &format!(r#"421["join",{data}]"#));
        assert!(
            answer[0].contains("members must be true or false"),
            "{answer:?}"
        );
    }
    let data = r#"{"conversationId":1e400,"content":"hi"}"#;
    let answer = world.ask(&mut ann, &format!(r#"421["message:send",{data}]"#));
    assert!(answer.iter().all(|one| one.contains(why)), "{answer:?}");
}

#[test]
fn an_id_in_digits_is_itself_however_many_there_are() {
    let mut world = World::new(config());
    let mut ann = world.socketio("user=ann rooms=*");
    // Each is the other's neighbour, and a machine's number would be both.
    let ids = ["18446744073709551617", "18446744073709551618"];
    for id in ids {
        let data = format!(r#"{{"conversationId":{id},"content":"in {id}"}}"#);
        let answer = world.ask(&mut ann, &format!(r#"421["message:send",{data}]"#));
        let named = format!(r#""conversationId":"{id}""#);
        assert!(answer.last().unwrap().contains(&named), "{answer:?}");
        for data in [id.to_owned(), format!(r#"{{"conversationId":{id}}}"#)] {
            let answer = world.ask(&mut ann, &format!(r#"421["join:conversation",{data}]"#));
            let room = format!(r#""room":"conversation:{id}""#);
            assert!(answer.last().unwrap().contains(&room), "{answer:?}");
        }
        for id in [id.to_owned(), format!("\"{id}\"")] {
            let data = format!(r#"{{"conversationId":{id}}}"#);
            let answer = world.ask(&mut ann, &format!(r#"421["history:get",{data}]"#));
            assert!(answer[0].contains(r#""head":1,"#), "{answer:?}");
        }
    }
    let answer = world.ask(&mut ann, r#"421["join:team",-0]"#);
    assert!(answer.last().unwrap().contains(r#""room":"team:0""#));
    // A number has no more digits than a text has bytes.
    let data = format!(r#"{{"conversationId":{},"content":"x"}}"#, "1".repeat(300));
    let answer = world.ask(&mut ann, &format!(r#"421["message:send",{data}]"#));
    assert!(answer[0].contains("INVALID_ROOM"), "{answer:?}");
}

#[test]
fn a_publication_is_counted_for_those_who_get_it() {
    let mut world = World::new(config());
    let mut clients: Vec<Client> = ["ann", "bob", "cat"]
        .map(|name| world.socketio(&format!("user={name}")))
        .into();
    for client in &mut clients {
        world.ask(client, r#"421["join","r"]"#);
    }
    let counted = |world: &World| {
        let outbound = r#"heartline_messages_outbound_total{type="event"}"#;
        ["heartline_deliveries_total", outbound].map(|name| world.metric(name))
    };
    for (to_self, count) in [("false", 2), ("true", 3)] {
        let before = counted(&world);
        let data = format!(r#"{{"room":"r","event":"e","data":1,"self":{to_self}}}"#);
        world.ask(&mut clients[0], &format!(r#"42["publish",{data}]"#));
        let heard = clients.iter_mut().map(|client| client.hears().len());
        // Whoever has said it has heard it with the answer.
        assert_eq!(heard.sum::<usize>(), 2);
        assert_eq!(
            counted(&world),
            before.map(|before| before + count),
            "{to_self}"
        );
    }
}

#[test]
fn a_live_event_with_an_id_is_acknowledged_whatever_refuses_it() {
    let limited = config_with(|root| root.limits.events = Some(Limit::per(5, 5)));
    let mut world = World::new(limited);
    let mut bob = world.live("user=bob rooms=a");
    for (event, data, code) in [
        ("unheard", "1", "not-implemented"),
        ("join", r#"{"room":"b"}"#, "FORBIDDEN"),
        ("presence:get", "7", "INVALID_DATA"),
        ("publish", r#"{"room":"a","event":"pong"}"#, "INVALID_EVENT"),
        ("heartbeat:response", "1", ""),
        ("join", r#"{"room":"a"}"#, "RATE_LIMITED"),
    ] {
        let frame = format!(r#"{{"type":"emit","event":"{event}","data":{data},"id":"i"}}"#);
        let answer = world.ask(&mut bob, &frame);
        assert!(
            answer[0].starts_with(r#"{"type":"ack","id":"i","#),
            "{answer:?}"
        );
        assert!(answer[0].contains(code) && answer.len() == 1, "{answer:?}");
    }
    // What is no event is answered by an error.
    let answer = world.ask(&mut bob, r#"{"type":"subscribe","topic":"a","id":4}"#);
    assert!(
        answer[0].starts_with(r#"{"type":"error","code":"RATE_LIMITED""#),
        "{answer:?}"
    );
    let rest = r#","retryAfterMs":1000,"id":4}"#;
    assert!(answer[0].ends_with(rest), "{answer:?}");
}

#[test]
fn where_nothing_is_open_by_default_only_what_a_token_names_is_joined_and_written_to() {
    let mut closed = config_with(|root| root.auth_mode = AuthMode::Optional);
    closed.rooms_default = RoomsDefault::Closed;
    let mut world = World::new(closed);
    let lobby = r#""room":"lobby""#;
    let say = |event: &str| format!(r#"{{{lobby},"event":"{event}","data":1,"content":"hi"}}"#);
    for (token, may_join, may_say) in [
        ("user=ann", false, false),
        ("", false, false),
        ("user=bob rooms=lobby", true, false),
        ("user=cleo publish=lobby", false, true),
        ("user=dan rooms=lobby publish=lobby", true, true),
    ] {
        let mut over_socketio = world.socketio(token);
        let mut over_live = world.live(token);
        for (event, may) in [
            ("join", may_join),
            ("presence:watch", may_join),
            ("publish", may_say),
            ("chat:send", may_say),
        ] {
            let code = match (may, event, token) {
                (true, ..) => None,
                (false, "chat:send", "") => Some("AUTH_REQUIRED"),
                (false, ..) => Some("FORBIDDEN"),
            };
            let heard = world.ask(
                &mut over_socketio,
                &format!(r#"421["{event}",{}]"#, say("e")),
            );
            let ack = heard.iter().find(|one| one.starts_with("431["));
            let emit = format!(
                r#"{{"type":"emit","event":"{event}","data":{},"id":1}}"#,
                say("e")
            );
            let told = world.ask(&mut over_live, &emit);
            let answer = told
                .iter()
                .find(|one| one.starts_with(r#"{"type":"ack","id":1"#));
            for answer in [ack.unwrap(), answer.unwrap()] {
                assert_eq!(answer.contains(r#""ok":false"#), code.is_some(), "{answer}");
                let code = code.unwrap_or_default();
                assert!(answer.contains(code), "{token} {event}: {answer}");
            }
        }
        let mut other = world.live(token);
        let subscribe = r#"{"type":"subscribe","topic":"lobby","id":1}"#;
        let heard = world.ask(&mut other, subscribe);
        let expected = if may_join { "subscribed" } else { "FORBIDDEN" };
        assert!(heard.last().unwrap().contains(expected), "{heard:?}");
        let publish = r#"{"type":"publish","topic":"lobby","event":"e","data":1,"id":2}"#;
        let heard = world.ask(&mut other, publish);
        let expected = if may_say { r#""ok":true"# } else { "FORBIDDEN" };
        assert!(heard.last().unwrap().contains(expected), "{heard:?}");
    }
    // A user's own room is open, and what a backend says comes to whoever is there.
    let mut dan = world.socketio("user=dan rooms=lobby");
    let own = r#"421["publish",{"room":"user:dan","event":"e","data":1}]"#;
    let heard = world.ask(&mut dan, own);
    assert!(heard.iter().any(|one| one == r#"42["e",1]"#), "{heard:?}");
    world.ask(&mut dan, r#"42["join","lobby"]"#);
    let to = world.gateway.to("/", None, "lobby").unwrap();
    to.emit("news", &1).unwrap();
    world.settle();
    assert_eq!(dan.hears(), [r#"42["news",1]"#]);
}

#[test]
fn who_joins_may_ask_who_is_there_and_is_among_them() {
    let mut world = World::new(config());
    let mut ann = world.socketio("user=ann");
    let ask = r#"421["join",{"room":"round:7","members":true}]"#;
    let expected = [
        r#"42["room:joined",{"room":"round:7"}]"#,
        r#"431[{"ok":true,"room":"round:7","members":[{"userId":"ann","devices":1}]}]"#,
    ];
    assert_eq!(world.ask(&mut ann, ask), expected);
    // Twice is once, and without the question there is no list.
    assert_eq!(world.ask(&mut ann, ask), expected);
    for quiet in [r#""round:7""#, r#"{"room":"round:7","members":false}"#] {
        let heard = world.ask(&mut ann, &format!(r#"421["join",{quiet}]"#));
        assert_eq!(heard[1], r#"431[{"ok":true,"room":"round:7"}]"#);
    }
    let mut phone = world.socketio("user=bob/rider device=phone");
    world.ask(&mut phone, r#"421["join:round","7"]"#);
    let mut tablet = world.live("user=bob/rider device=tablet");
    let subscribe = r#"{"type":"subscribe","topic":"round:7","id":1,"members":true}"#;
    let both = r#""members":[{"userId":"ann","devices":1},{"userId":"bob","userType":"rider","devices":2}]}"#;
    for _ in 0..2 {
        let heard = world.ask(&mut tablet, subscribe);
        assert_eq!(heard.len(), 1);
        assert!(
            heard[0].starts_with(r#"{"type":"subscribed","topic":"round:7","id":1,"#),
            "{heard:?}"
        );
        assert!(heard[0].ends_with(both), "{heard:?}");
    }
    let heard = world.ask(&mut ann, r#"421["join:round",{"id":7,"members":true}]"#);
    assert!(heard[1].contains(both.trim_end_matches('}')), "{heard:?}");
    // Before anybody else is there, on live too; nobody at all has no name.
    let mut cleo = world.live("user=cleo");
    let first = subscribe.replace("round:7", "round:8");
    let heard = world.ask(&mut cleo, &first);
    assert!(
        heard[0].ends_with(r#""members":[{"userId":"cleo","devices":1}]}"#),
        "{heard:?}"
    );
}

#[test]
fn members_of_an_apps_own_are_no_question_of_a_kind_and_nothing_to_who_leaves() {
    let mut world = World::new(config());
    let mut ann = world.socketio("user=ann");
    let refused = world.ask(&mut ann, r#"421["join",{"room":"a","members":["x"]}]"#);
    assert!(refused[0].contains("INVALID_DATA"), "{refused:?}");
    for own in [r#"["x"]"#, "5", r#""yes""#, "{}"] {
        let ask = format!(r#"421["join:round",{{"roundId":7,"members":{own}}}]"#);
        let heard = world.ask(&mut ann, &ask);
        assert_eq!(heard[1], r#"431[{"ok":true,"room":"round:7"}]"#, "{own}");
        for (event, name) in [("leave", "room"), ("leave:round", "id")] {
            world.ask(&mut ann, r#"421["join:round",7]"#);
            let id = if name == "room" { "round:7" } else { "7" };
            let ask = format!(r#"421["{event}",{{"{name}":"{id}","members":{own}}}]"#);
            let heard = world.ask(&mut ann, &ask);
            let left = [
                r#"42["room:left",{"room":"round:7"}]"#,
                r#"431[{"ok":true,"room":"round:7"}]"#,
            ];
            assert_eq!(heard, left, "{event} {own}");
        }
    }
}

#[test]
fn only_who_may_join_hears_who_is_there_and_of_a_users_own_room_the_users_own() {
    let mut world = World::new(config());
    let mut ann = world.socketio("user=ann");
    world.ask(&mut ann, r#"421["join","secret"]"#);
    let mut eve = world.socketio("user=eve rooms=lobby");
    let heard = world.ask(&mut eve, r#"421["join",{"room":"secret","members":true}]"#);
    assert!(
        heard[0].contains("FORBIDDEN") && !heard[0].contains("ann"),
        "{heard:?}"
    );
    let mut spy = world.live("user=eve rooms=lobby");
    let subscribe = r#"{"type":"subscribe","topic":"secret","id":1,"members":true}"#;
    let heard = world.ask(&mut spy, subscribe);
    assert!(
        heard[0].contains("FORBIDDEN") && !heard[0].contains("ann"),
        "{heard:?}"
    );
    let _driver = world.socketio("user=7/driver");
    let mut rider = world.socketio("user=7/rider");
    let heard = world.ask(
        &mut rider,
        r#"421["join",{"room":"user:7","members":true}]"#,
    );
    let own = r#""members":[{"userId":"7","userType":"rider","devices":1}]}"#;
    assert!(heard[1].contains(own), "{heard:?}");
    let mut tablet = world.live("user=7/rider");
    let subscribe = r#"{"type":"subscribe","topic":"user:7","members":true}"#;
    let heard = world.ask(&mut tablet, subscribe);
    let own = r#""members":[{"userId":"7","userType":"rider","devices":2}]}"#;
    assert!(heard[0].contains(own), "{heard:?}");
}

#[test]
fn names_of_the_gateway_cannot_be_published_and_nobody_hears_them() {
    let mut world = World::new(config());
    let mut ann = world.socketio("user=ann");
    let mut bob = world.live("user=bob");
    world.ask(&mut ann, r#"42["join","lobby"]"#);
    let subscribe = r#"{"type":"subscribe","topic":"lobby","id":1}"#;
    assert!(world.ask(&mut bob, subscribe)[0].contains("subscribed"));
    for event in [
        "server:hello",
        "user:online",
        "message:new",
        "pong",
        "",
        "connect",
        "hello",
    ] {
        let publish = format!(r#"425["publish",{{"room":"lobby","event":"{event}","data":1}}]"#);
        let answer = world.ask(&mut ann, &publish);
        assert!(
            answer[0].contains(r#""code":"INVALID_EVENT""#),
            "{event}: {answer:?}"
        );
        assert!(bob.hears().is_empty());
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

#[test]
fn what_a_token_does_not_grant_is_refused_on_both_protocols() {
    let mut world = World::new(config());
    let mut ann = world.socketio("user=ann rooms=lobby,round:*");
    for (room, code) in [
        ("lobby", None),
        ("round:7", None),
        ("user:ann", None),
        ("lobby2", Some("FORBIDDEN")),
        ("user:bob", Some("FORBIDDEN")),
        ("", Some("INVALID_ROOM")),
    ] {
        let answer = world.ask(&mut ann, &format!(r#"421["join","{room}"]"#));
        let said = answer.last().unwrap();
        match code {
            None => assert!(said.contains(r#""ok":true"#), "{room}: {said}"),
            Some(code) => assert!(said.contains(code) && answer.len() == 1, "{room}: {said}"),
        }
    }
    let mut live = world.live("user=ann rooms=lobby");
    let answer = world.ask(
        &mut live,
        r#"{"type":"subscribe","topic":"round:7","id":4}"#,
    );
    assert!(answer[0].contains(r#""code":"FORBIDDEN""#), "{answer:?}");
    assert!(answer[0].contains(r#""id":4"#), "{answer:?}");
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

/// Only messages are sent by clients that may listen to either.
#[test]
fn a_refusal_of_what_is_no_message_is_told_once() {
    let mut world = World::new(config());
    let mut ann = world.socketio("user=ann");
    let mut bob = world.live("user=bob");
    let events = [
        "metrics:request",
        "join",
        "publish",
        "history:get",
        "presence:get",
        "invite:join",
        "auth:refresh",
        "nothing",
    ];
    for event in events {
        let heard = world.ask(&mut ann, &format!(r#"421["{event}",1]"#));
        assert_eq!(heard.len(), 1, "{heard:?}");
        assert!(heard[0].starts_with(r#"431[{"ok":false"#), "{heard:?}");
        let heard = world.ask(&mut ann, &format!(r#"42["{event}",1]"#));
        if event != "nothing" {
            assert_eq!(heard.len(), 1, "{heard:?}");
            assert!(heard[0].starts_with(r#"42["message:error""#), "{heard:?}");
        }
        let emit = |id: &str| format!(r#"{{"type":"emit","event":"{event}","data":1{id}}}"#);
        let heard = world.ask(&mut bob, &emit(r#","id":7"#));
        assert_eq!(heard.len(), 1, "{heard:?}");
        assert!(heard[0].starts_with(r#"{"type":"ack","id":7"#), "{heard:?}");
        let heard = world.ask(&mut bob, &emit(""));
        assert_eq!(heard.len(), 1, "{heard:?}");
        assert!(heard[0].starts_with(r#"{"type":"error","#), "{heard:?}");
    }
}

#[test]
fn a_refusal_repeats_little_of_what_was_said() {
    let mut world = World::new(config());
    let mut ann = world.socketio("user=ann");
    // Each of them is seven bytes where serde quotes it.
    let long = "\u{7f}".repeat(100_000);
    let heard = world.ask(
        &mut ann,
        &format!(r#"421["presence:get",{{"users":"{long}"}}]"#),
    );
    assert!(heard[0].contains("INVALID_DATA"), "{:.200}", heard[0]);
    assert!(heard[0].len() < 2_000, "{}", heard[0].len());
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
fn presence_is_asked_of_a_hundred_users_and_of_no_more() {
    let mut world = World::new(config());
    let mut ann = world.socketio("user=ann");
    let ask = |count: usize| {
        let users: Vec<String> = (0..count).map(|number| format!("\"{number}\"")).collect();
        format!(r#"421["presence:get",{{"users":[{}]}}]"#, users.join(","))
    };
    let answer = world.ask(&mut ann, &ask(100));
    assert_eq!(answer[0].matches(r#""online":false"#).count(), 100);
    let answer = world.ask(&mut ann, &ask(101));
    assert!(answer[0].contains(r#""code":"INVALID_DATA""#), "{answer:?}");
    assert!(answer[0].contains("at most 100 users"), "{answer:?}");
}

#[test]
fn a_user_who_is_asked_about_twice_is_told_of_once() {
    let mut world = World::new(config());
    let mut ann = world.socketio("user=ann");
    let ask = r#"421["presence:get",{"users":["z","ann","z","a","ann"]}]"#;
    let answer = world.ask(&mut ann, ask);
    let told = answer[0].split(r#""userId":""#).skip(1);
    let told: Vec<&str> = told.filter_map(|text| text.split('"').next()).collect();
    assert_eq!(told, ["z", "ann", "a"]);
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
fn a_live_publisher_may_leave_itself_out() {
    let mut world = World::new(config());
    let mut ann = world.live("user=ann");
    let mut bob = world.live("user=bob");
    for client in [&mut ann, &mut bob] {
        world.ask(client, r#"{"type":"subscribe","topic":"a"}"#);
    }
    for (more, hears_itself) in [
        ("", true),
        (r#","self":true"#, true),
        (r#","self":false"#, false),
    ] {
        let say = format!(r#"{{"type":"publish","topic":"a","event":"e","data":1{more},"id":1}}"#);
        let heard = world.ask(&mut ann, &say);
        assert_eq!(heard.len(), 1 + usize::from(hears_itself), "{heard:?}");
        assert!(
            heard.last().unwrap().starts_with(r#"{"type":"ack""#),
            "{heard:?}"
        );
        assert_eq!(bob.hears().len(), 1);
    }
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
fn a_message_that_is_refused_is_told_of_twice_whatever_refuses_it() {
    let refusing = || async {
        if true {
            panic!("a handler's fault");
        }
    };
    let limited = Config {
        max_payload: 1000,
        ..config_with(|root| root.limits.events = Some(Limit::per(3, 60)))
    };
    let mut world = World::with(limited, |builder| builder.on("chat:send", refusing));
    let mut ann = world.socketio("user=ann");
    let mut bob = world.live("user=bob");
    let say = |event: &str, temp_id: &str| {
        format!(r#"427["{event}",{{"content":"","conversationId":"1","tempId":{temp_id}}}]"#)
    };
    let heard_twice = |heard: Vec<String>, code: &str, temp_id: &str| {
        let rest = format!(r#""tempId":{temp_id}}}]"#);
        assert!(
            heard[0].starts_with(r#"42["message:error",{"error":"#),
            "{heard:?}"
        );
        assert!(
            heard[1].starts_with(r#"437[{"ok":false,"error":"#),
            "{heard:?}"
        );
        for heard in &heard {
            assert!(heard.contains(code) && heard.ends_with(&rest), "{heard}");
        }
    };
    let heard = world.ask(&mut ann, &say("message:send", "\"t\""));
    heard_twice(heard, "INVALID_CONTENT", "\"t\"");
    heard_twice(world.ask(&mut ann, &say("chat:send", "7")), "INTERNAL", "7");
    let large = r#"452-7["message:send",{"tempId":"x","content":{"_placeholder":true,"num":0},"y":{"_placeholder":true,"num":1}}]"#;
    ann.says(large);
    for _ in 0..2 {
        ann.0.binary(&[0; 600]);
    }
    world.settle();
    heard_twice(ann.hears(), "PAYLOAD_TOO_LARGE", "\"x\"");
    let heard = world.ask(&mut ann, &say("message:send", "\"u\""));
    heard_twice(heard, "RATE_LIMITED", "\"u\"");
    let send = r#"{"type":"emit","event":"chat:send","data":{"tempId":"v"},"id":1}"#;
    let heard = world.ask(&mut bob, send);
    assert!(
        heard[0].starts_with(r#"{"type":"message:error","data":{"#),
        "{heard:?}"
    );
    assert!(
        heard[1].starts_with(r#"{"type":"ack","id":1,"#),
        "{heard:?}"
    );
    assert!(
        heard.iter().all(|one| one.contains(r#""tempId":"v""#)),
        "{heard:?}"
    );
}

#[test]
fn half_a_character_is_replaced_as_on_node() {
    let mut world = World::new(config());
    let mut ann = world.socketio("user=ann");
    let sent = world.ask(&mut ann, r#"425["chat:send",{"content":"\ud83c hi"}]"#);
    assert!(sent.last().unwrap().contains(r#""ok":true"#), "{sent:?}");
    let joined = world.ask(&mut ann, r#"426["join",{"room":"lobby\ude00"}]"#);
    let room = "\"room\":\"lobby\u{fffd}\"";
    assert!(
        joined.iter().any(|heard| heard.contains(room)),
        "{joined:?}"
    );
}

#[test]
fn what_a_rider_says_in_its_own_room_no_driver_with_that_id_hears() {
    let mut world = World::new(config());
    let mut rider = world.socketio("user=7/rider");
    let mut tablet = world.socketio("user=7/rider");
    let mut driver = world.socketio("user=7/driver");
    let news = r#"421["publish",{"room":"user:7","event":"news","data":1}]"#;
    let answer = world.ask(&mut rider, news);
    assert!(
        answer.iter().any(|heard| heard.starts_with("431[")),
        "{answer:?}"
    );
    let heard = tablet.hears();
    assert!(
        heard.iter().any(|heard| heard.contains("news")),
        "{heard:?}"
    );
    let heard = driver.hears();
    assert!(
        !heard.iter().any(|heard| heard.contains("news")),
        "{heard:?}"
    );
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
fn conversations_are_for_users_and_unknown_namespaces_count_as_events() {
    let mut world = World::new(config_with(|root| {
        root.auth_mode = AuthMode::Optional;
        root.limits.events = Some(Limit::per(10, 10));
    }));
    let mut nobody = world.socketio("");
    for room in ["conversation:1", "user:ann"] {
        let refused = world.ask(&mut nobody, &format!(r#"421["join",{{"room":"{room}"}}]"#));
        assert!(
            refused[0].contains(r#""code":"AUTH_REQUIRED""#),
            "{refused:?}"
        );
    }
    for _ in 0..200 {
        nobody.says("40/nowhere,");
    }
    let heard = world.ask(&mut nobody, "3");
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

#[test]
fn what_an_app_asks_of_a_client_is_answered_or_runs_out_of_time_or_ends_with_it() {
    let ask = |socket: Socket| async move {
        let time = seconds(5);
        let answer = socket
            .emit_with_ack("question", &crate::Args::one(&1)?, time)
            .await;
        let said = match answer {
            Ok(args) => args.read::<(String,)>()?.0,
            Err(error) => error.code().to_owned(),
        };
        Ok::<_, crate::EventError>(crate::Json(said))
    };
    let mut world = World::with(config(), |builder| builder.on("ask", ask));
    let mut ann = world.socketio("user=ann");
    assert_eq!(
        world.ask(&mut ann, r#"421["ask"]"#),
        [r#"420["question",1]"#]
    );
    assert_eq!(
        world.ask(&mut ann, r#"422["ask"]"#),
        [r#"421["question",1]"#]
    );
    assert_eq!(world.ask(&mut ann, r#"431["yes"]"#), [r#"432["yes"]"#]);
    // Of no question, and once more.
    assert!(world.ask(&mut ann, r#"439["yes"]"#).is_empty());
    assert!(world.ask(&mut ann, r#"431["no"]"#).is_empty());
    world.run(ms(4_900));
    assert!(ann.hears().is_empty());
    world.run(ms(120));
    assert_eq!(ann.hears(), [r#"431["TIMEOUT"]"#]);
    let mut bob = world.live("user=bob");
    let answer = world.ask(&mut bob, r#"{"type":"emit","event":"ask","data":1,"id":1}"#);
    assert_eq!(answer, [r#"{"type":"ack","id":1,"data":"NOT_SUPPORTED"}"#]);
}

//! What clients ask, and what they are answered.

use heartline_core::policy::Limit;

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

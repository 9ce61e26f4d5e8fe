//! What a token opens, what is open without one, and who hears of whom there.

use heartline_core::policy::{AuthMode, Limit, RoomsDefault};

use super::*;

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

//! Who is let in, who is not, and what they hear of it.

use heartline_core::policy::{AuthMode, DevicePolicy, NamespaceConfig, OnExcess};

use super::*;

#[test]
fn a_socket_is_greeted_on_both_protocols_and_others_hear_of_its_user() {
    let mut world = World::new(Config {
        hello: true,
        node_id: "n1".into(),
        ..announced()
    });
    let mut ann = world.engineio();
    let heard = world.ask(&mut ann, &connect("user=ann device=phone"));
    assert_eq!(heard.len(), 3);
    let id = heard[0].strip_prefix(r#"40{"sid":""#).unwrap();
    let id = id.strip_suffix(r#""}"#).unwrap();
    let now = world.unix_millis();
    let about = r#""authenticated":true,"userId":"ann","deviceId":"phone","nodeId":"n1""#;
    let pings = r#""pingInterval":3600000,"pingTimeout":3600000"#;
    let hello =
        format!(r#"{{"socketId":"{id}",{pings},{about},"serverTime":{now},"recovered":false}}"#);
    assert_eq!(heard[1], format!(r#"42["server:hello",{hello}]"#));
    let success =
        format!(r#"{{"userId":"ann","userType":null,"socketId":"{id}","serverTime":{now}}}"#);
    assert_eq!(heard[2], format!(r#"42["connection:success",{success}]"#));
    let mut bob = world.live("user=bob");
    let heard = bob.hears();
    assert!(
        heard[0].starts_with(r#"{"type":"hello","socketId":"#),
        "{heard:?}"
    );
    assert!(
        heard[1].starts_with(r#"{"type":"connection:success","#),
        "{heard:?}"
    );
    world.run(ms(60));
    let online = r#"42["user:online",{"at":_,"userId":"bob","userType":null}]"#;
    assert_eq!(plain(ann.hears()), [online]);
    assert!(bob.hears().is_empty());
}

#[test]
fn a_namespace_that_is_not_there_is_refused_and_one_that_is_can_be_tried_next() {
    let mut world = World::new(config());
    let mut client = world.engineio();
    let refused = r#"44/nowhere,{"message":"Invalid namespace"}"#;
    assert_eq!(world.ask(&mut client, "40/nowhere,"), [refused]);
    let answer = world.ask(&mut client, r#"40/chat,{"token":"user=ann"}"#);
    assert!(answer[0].starts_with("40/chat,{\"sid\":"), "{answer:?}");
}

#[test]
fn who_polls_while_tokens_cannot_be_checked_is_told_to_come_back_and_not_goodbye() {
    let mut world = World::new(config());
    for waits in [true, false] {
        let session = world.harness.polling();
        let mut get = waits.then(|| world.harness.get(session));
        world.settle();
        let mut post = world.harness.post(session, &connect("later"));
        world.settle();
        let mut get = get.take().unwrap_or_else(|| world.harness.get(session));
        world.settle();
        let later = Some(Answer::Status(503));
        assert_eq!((post.answer(), get.answer()), (later.clone(), later));
        assert!(!world.harness.exists(session));
    }
    let mut client = world.engineio();
    assert_eq!(world.ask(&mut client, &connect("later")), ["close 1013"]);
}

#[test]
fn who_has_no_good_token_is_told_why_and_may_try_again() {
    let mut world = World::new(config());
    let mut client = world.engineio();
    for (packet, code, message) in [
        ("40", "AUTH_REQUIRED", "Authentication required"),
        (
            r#"40{"token":""}"#,
            "AUTH_REQUIRED",
            "Authentication required",
        ),
        (
            &connect("bad"),
            "AUTH_TOKEN_INVALID",
            "The token is not valid",
        ),
        (
            &connect("old"),
            "AUTH_TOKEN_EXPIRED",
            "The token has expired",
        ),
    ] {
        let refused = format!(r#"44{{"message":"{message}","data":{{"code":"{code}"}}}}"#);
        assert_eq!(world.ask(&mut client, packet), [refused]);
    }
    let answer = world.ask(&mut client, &connect("user=ann"));
    assert!(answer[0].starts_with("40{\"sid\":"), "{answer:?}");
    assert_eq!(world.gateway.users_online(), 1);
}

#[test]
fn a_live_client_without_a_good_token_is_closed_with_4401() {
    let mut world = World::new(config());
    for token in ["bad", "old"] {
        let mut client = world.live(token);
        assert_eq!(client.hears(), ["close 4401"]);
    }
    // By the first frame as well, and by any frame in its place.
    for frame in [
        r#"{"type":"auth","token":"bad"}"#,
        r#"{"type":"subscribe","topic":"lobby"}"#,
    ] {
        let mut client = world.open(Opening::plain());
        assert_eq!(world.ask(&mut client, frame), ["close 4401"]);
    }
    assert_eq!(
        world.metric(r#"heartline_disconnects_total{reason="auth_failed"}"#),
        3
    );
    assert_eq!(
        world.metric(r#"heartline_disconnects_total{reason="token_expired"}"#),
        1
    );
}

#[test]
fn an_authorization_header_stands_in_for_the_token_of_a_packet() {
    let mut world = World::new(config());
    let mut client = world.open(Opening {
        handshake: Handshake {
            bearer: Some("user=ann".into()),
            ..Handshake::default()
        },
        ..Opening::engineio()
    });
    client.hears();
    let answer = world.ask(&mut client, "40");
    assert!(answer[0].starts_with("40{\"sid\":"), "{answer:?}");
    assert_eq!(world.gateway.users_online(), 1);
}

#[test]
fn who_joins_nothing_within_the_time_for_it_is_closed() {
    let mut world = World::new(config());
    let mut idle = world.engineio();
    let mut live = world.open(Opening::plain());
    let mut refused = world.engineio();
    let session = world.harness.polling();
    let mut last = world.harness.get(session);
    let mut joined = world.socketio("user=ann");
    world.run(ms(9_990));
    assert!(live.hears().is_empty());
    world.run(ms(20));
    assert_eq!(live.hears(), ["close 4401"]);
    // To be refused is no way to stay.
    world.run(seconds(30));
    world.ask(&mut refused, &connect("bad"));
    world.run(ms(4_970));
    assert!(idle.hears().is_empty());
    world.run(ms(30));
    assert_eq!(idle.hears(), ["close 4401"]);
    assert_eq!(refused.hears(), ["close 4401"]);
    assert_eq!(last.answer(), Some(Answer::Payload("1".into())));
    assert!(joined.hears().is_empty());
}

#[test]
fn a_token_that_takes_long_is_waited_for_and_one_that_takes_too_long_is_not() {
    let mut world = World::new(config());
    let mut slow = world.engineio();
    // What is said early is heard once it is known who says it.
    slow.says(&connect("user=ann after=9"));
    slow.says(r#"421["join","lobby"]"#);
    world.run(ms(8_900));
    assert!(slow.hears().is_empty());
    world.run(ms(110));
    let heard = slow.hears();
    assert!(heard[0].starts_with("40{\"sid\":"), "{heard:?}");
    assert_eq!(heard[2..], [r#"431[{"ok":true,"room":"lobby"}]"#]);
    let mut slower = world.engineio();
    slower.says(&connect("user=bob after=11"));
    world.run(ms(10_300));
    // Nothing is known against it: a refusal would make a stock client give up for good.
    assert_eq!(slower.hears(), ["close 1013"]);
    assert_eq!(world.gateway.users_online(), 1);
}

#[test]
fn who_goes_while_their_token_is_looked_at_is_not_there_afterwards() {
    let mut world = World::new(config());
    let mut client = world.engineio();
    client.says(&connect("user=ann after=2"));
    world.settle();
    drop(client);
    world.run(seconds(3));
    assert_eq!(world.gateway.users_online(), 0);
    assert_eq!(world.gateway.connection_count(), 0);
    // They were let in to be let go: nothing is read while that is open, their end neither.
    assert_eq!(world.farewells(), ["ann transport_closed user:ann"]);
}

#[test]
fn where_tokens_are_optional_a_bad_one_is_still_refused() {
    let mut world = World::new(config_with(|root| root.auth_mode = AuthMode::Optional));
    let mut client = world.engineio();
    let refused = world.ask(&mut client, &connect("bad"));
    assert!(refused[0].contains("AUTH_TOKEN_INVALID"), "{refused:?}");
    let answer = world.ask(&mut client, "40");
    assert!(answer[0].starts_with("40{\"sid\":"), "{answer:?}");
    assert_eq!(world.gateway.users_online(), 0);
}

#[test]
fn what_is_said_before_a_connect_or_in_its_place_ends_the_connection() {
    let mut world = World::new(config());
    for packet in ["42[\"early\"]", "41", "43[]", "49", "4", "40[]", "45-[]"] {
        let mut client = world.engineio();
        assert_eq!(world.ask(&mut client, packet), ["close 1008"], "{packet}");
    }
    // Twice into the same namespace.
    let mut client = world.socketio("user=ann");
    assert_eq!(world.ask(&mut client, &connect("user=ann")), ["close 1008"]);
}

#[test]
fn connects_are_joins_and_too_many_of_them_end_the_connection() {
    let limited = |root: &mut NamespaceConfig| {
        root.limits.joins = Some(heartline_core::policy::Limit::per(3, 10));
    };
    let mut world = World::new(config_with(limited));
    let mut client = world.engineio();
    for _ in 0..3 {
        assert!(world.ask(&mut client, &connect("bad"))[0].starts_with("44"));
    }
    // A third of the time makes room for one.
    world.run(ms(3_400));
    assert!(world.ask(&mut client, &connect("bad"))[0].starts_with("44"));
    assert_eq!(world.ask(&mut client, &connect("bad")), ["close 4429"]);
}

#[test]
fn the_same_device_takes_its_own_place_and_the_old_client_is_told_to_stay_away() {
    let mut world = World::new(Config {
        node_id: "n1".into(),
        ..config()
    });
    let mut old = world.socketio("user=ann device=phone");
    let mut live = world.live("user=ann device=desk");
    let mut desk = world.live("user=ann device=desk");
    let replaced = r#"{"message":"A newer connection took this one's place","by":{"#;
    assert_eq!(
        live.hears(),
        [
            format!(
                r#"{{"type":"connection:replaced","data":{replaced}"deviceId":"desk","nodeId":"n1"}}}}}}"#
            )
            .as_str(),
            "close 4409"
        ]
    );
    let mut new = world.socketio("user=ann device=phone");
    assert_eq!(
        old.hears(),
        [
            format!(r#"42["connection:replaced",{replaced}"deviceId":"phone","nodeId":"n1"}}}}]"#)
                .as_str(),
            "41",
            "close 4409"
        ]
    );
    assert!(new.hears().is_empty() && desk.hears().is_empty());
    assert_eq!(world.farewells(), ["ann replaced user:ann"; 2]);
}

#[test]
fn where_one_device_is_allowed_the_newcomer_takes_the_place_of_whichever_it_was() {
    let replace = |root: &mut NamespaceConfig| root.devices = DevicePolicy::Replace;
    let mut world = World::new(config_with(replace));
    let mut phone = world.socketio("user=ann device=phone");
    let mut other = world.socketio("user=bob");
    let mut desk = world.live("user=ann device=desk");
    let told = phone.hears();
    assert!(
        told[0].starts_with(r#"42["connection:replaced",{"#)
            && told[0].contains(r#""by":{"deviceId":"desk""#),
        "{told:?}"
    );
    assert_eq!(told[1..], ["41", "close 4409"]);
    let mut nameless = world.socketio("user=ann");
    let told = desk.hears();
    assert!(told[0].contains("connection:replaced"), "{told:?}");
    assert_eq!(told[1..], ["close 4409"]);
    assert!(nameless.hears().is_empty() && other.hears().is_empty());
    assert_eq!(world.gateway.users_online(), 2);
    assert_eq!(
        world.metric(r#"heartline_disconnects_total{reason="replaced"}"#),
        2
    );
}

#[test]
fn the_device_too_many_is_refused_or_the_oldest_goes() {
    for on_excess in [OnExcess::Reject, OnExcess::EvictOldest] {
        let limit = DevicePolicy::Limit { max: 2, on_excess };
        let mut world = World::new(config_with(|root| root.devices = limit));
        let mut first = world.socketio("user=ann");
        let mut second = world.socketio("user=ann");
        let mut third = world.engineio();
        let answer = world.ask(&mut third, &connect("user=ann"));
        let mut live = world.live("user=ann");
        assert!(second.hears().is_empty() == (on_excess == OnExcess::Reject));
        if on_excess == OnExcess::Reject {
            assert!(answer[0].contains(r#""code":"DEVICE_LIMIT""#), "{answer:?}");
            assert_eq!(live.hears(), ["close 4409"]);
            assert!(first.hears().is_empty());
            // A place that becomes free can be had.
            drop(first);
            world.settle();
            assert!(world.ask(&mut third, &connect("user=ann"))[0].starts_with("40"));
        } else {
            assert!(answer[0].starts_with("40{\"sid\":"), "{answer:?}");
            assert!(live.hears().is_empty());
            assert_eq!(first.hears()[1..], ["41", "close 4409"]);
            assert_eq!(world.farewells(), ["ann device_limit user:ann"; 2]);
        }
    }
}

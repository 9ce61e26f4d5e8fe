//! Connections of Socket.IO's clients that are cut and come back.

use heartline_wire::msgpack;

use super::*;

#[test]
fn what_the_app_comes_to_remember_of_a_socket_that_was_cut_off_is_there_when_it_goes_on() {
    // By a handler of its end, or by one that has not ended yet.
    for is_end in [true, false] {
        let handles = Handles::default();
        let mut world = World::with(kept(), |builder| {
            let builder = handles.filled_by(builder);
            builder.on_disconnect(move |socket: Socket| async move {
                if is_end {
                    socket.remember("late", &1).unwrap();
                }
            })
        });
        let mut ann = Tracking::new(&mut world, "user=ann");
        ann.is_cut(&mut world);
        let before = handles.find(&ann.sid, true);
        if !is_end {
            before.remember("late", &1).unwrap();
        }
        ann.return_to(&mut world);
        assert!(ann.recovered);
        let after = handles.find(&ann.sid, false);
        assert_eq!(after.remembered("late"), Some(1), "at its end: {is_end}");
        before.remember("later", &2).unwrap();
        assert_eq!(after.remembered("later"), Some(2));
    }
}

#[test]
fn a_client_that_was_cut_off_has_its_id_its_rooms_and_what_it_missed() {
    let mut world = World::new(kept());
    let mut ann = Tracking::new(&mut world, "user=ann");
    assert!(!ann.recovered && ann.pid.is_some());
    ann.asks(&mut world, r#"42["join","lobby"]"#);
    said(&world, "lobby", "one");
    world.settle();
    ann.hear(9);
    let sid = ann.sid.clone();
    ann.got();
    ann.is_cut(&mut world);
    assert_eq!(world.metric("heartline_suspended"), 1);
    said(&world, "lobby", "two");
    said(&world, "other", "never");
    said(&world, "user:ann", "three");
    said_to_all(&world, "four");
    world.settle();
    ann.return_to(&mut world);
    assert!(ann.recovered);
    assert_eq!(ann.sid, sid);
    let missed = ["two", "three", "four"].map(|text| format!(r#"["news","{text}"]"#));
    assert_eq!(ann.got(), missed);
    // It is in its room again, and known by its id.
    said(&world, "lobby", "five");
    said(&world, &sid, "six");
    world.settle();
    ann.hear(9);
    assert_eq!(ann.got(), [r#"["news","five"]"#, r#"["news","six"]"#]);
    assert_eq!(world.metric("heartline_suspended"), 0);
    assert_eq!(
        world.metric(r#"heartline_resumes_total{outcome="recovered"}"#),
        1
    );
}

#[test]
fn what_was_sent_and_did_not_arrive_comes_again_and_nothing_twice() {
    let mut world = World::new(kept());
    let mut ann = Tracking::new(&mut world, "user=ann");
    ann.asks(&mut world, r#"42["join","a"]"#);
    for text in ["one", "two", "three"] {
        said(&world, "a", text);
    }
    world.settle();
    ann.got();
    ann.hear(1);
    ann.is_cut(&mut world);
    ann.return_to(&mut world);
    let all = ["one", "two", "three"].map(|text| format!(r#"["news","{text}"]"#));
    assert_eq!(ann.got(), all);
    // Again, without anything new: nothing comes.
    ann.is_cut(&mut world);
    ann.return_to(&mut world);
    assert!(ann.recovered);
    assert_eq!(ann.got(), [] as [&str; 0]);
}

#[test]
fn who_says_goodbye_or_is_sent_away_begins_afresh() {
    let mut world = World::with(kept(), |builder| {
        builder.on("kick", |socket: Socket| async move { socket.disconnect() })
    });
    for goodbye in ["41", r#"42["kick"]"#] {
        let mut ann = Tracking::new(&mut world, "user=ann");
        ann.asks(&mut world, goodbye);
        ann.is_cut(&mut world);
        ann.return_to(&mut world);
        assert!(!ann.recovered, "{goodbye}");
    }
    // The transport's end alone is no goodbye.
    let mut ann = Tracking::new(&mut world, "user=ann");
    ann.client.says("1");
    world.settle();
    ann.return_to(&mut world);
    assert!(ann.recovered);
}

#[test]
fn a_session_is_its_users_and_once() {
    let mut world = World::new(kept());
    let mut ann = Tracking::new(&mut world, "user=ann");
    ann.is_cut(&mut world);
    let mut eve = Tracking::new(&mut world, "user=eve");
    (eve.pid, eve.offset) = (ann.pid.clone(), ann.offset.clone());
    eve.return_to(&mut world);
    assert!(!eve.recovered);
    ann.return_to(&mut world);
    assert!(ann.recovered);
    // A second one takes the place of the first, which may be half-open: never both.
    let mut again = Tracking::new(&mut world, "user=ann");
    (again.pid, again.offset) = (ann.pid.clone(), ann.offset.clone());
    world.run(seconds(1));
    again.return_to(&mut world);
    assert!(again.recovered);
    assert_eq!(again.sid, ann.sid);
    assert!(
        ann.client
            .hears()
            .iter()
            .any(|one| one.starts_with("close"))
    );
}

#[test]
fn after_the_window_or_with_nonsense_everything_is_fresh() {
    let mut world = World::new(kept());
    let mut ann = Tracking::new(&mut world, "user=ann");
    ann.asks(&mut world, r#"42["join","a"]"#);
    ann.is_cut(&mut world);
    world.run(seconds(61));
    ann.return_to(&mut world);
    assert!(!ann.recovered);
    for (pid, offset) in [
        (Some("x"), None),
        (None, Some("x")),
        (None, Some("hl.zzzzzz.1")),
        (None, Some("")),
        (Some(&*"A".repeat(59)), None),
    ] {
        let mut ann = Tracking::new(&mut world, "user=ann");
        ann.is_cut(&mut world);
        let is_of_another_run = offset.is_some_and(|offset| offset.starts_with("hl."));
        if let Some(pid) = pid {
            ann.pid = Some(pid.into());
        }
        ann.offset = offset.map(Into::into);
        ann.return_to(&mut world);
        assert_eq!(ann.recovered, is_of_another_run, "{pid:?} {offset:?}");
    }
}

#[test]
fn a_room_that_its_new_token_does_not_grant_is_left() {
    let mut world = World::new(kept());
    let mut ann = Tracking::new(&mut world, "user=ann rooms=a,b");
    for room in ["a", "b"] {
        ann.asks(&mut world, &format!(r#"42["join","{room}"]"#));
    }
    ann.is_cut(&mut world);
    said(&world, "a", "one");
    said(&world, "b", "two");
    world.settle();
    ann.got();
    ann.token = "user=ann rooms=a".into();
    ann.return_to(&mut world);
    assert!(ann.recovered);
    let left = r#"["room:left",{"reason":"forbidden","room":"b"}]"#;
    assert_eq!(ann.got(), [r#"["news","one"]"#, left]);
    said(&world, "b", "three");
    world.settle();
    ann.hear(9);
    assert_eq!(ann.got(), [] as [&str; 0]);
}

#[test]
fn more_than_is_kept_is_a_fresh_start() {
    let mut config = kept();
    config.recovery.events = 4;
    let mut world = World::new(config);
    for (count, recovers) in [(4, true), (5, false)] {
        let mut ann = Tracking::new(&mut world, "user=ann");
        ann.asks(&mut world, r#"42["join","a"]"#);
        ann.is_cut(&mut world);
        for number in 0..count {
            said(&world, "a", &number.to_string());
        }
        world.settle();
        ann.got();
        ann.return_to(&mut world);
        assert_eq!(ann.recovered, recovers, "{count}");
        assert_eq!(ann.got().len(), if recovers { 4 } else { 0 });
        ann.asks(&mut world, "41");
    }
    assert_eq!(
        world.metric(r#"heartline_resumes_total{outcome="trimmed"}"#),
        1
    );
}

#[test]
fn of_a_key_the_newest_is_told_and_the_publisher_does_not_hear_itself() {
    let mut world = World::new(kept());
    let mut ann = Tracking::new(&mut world, "user=ann");
    ann.asks(&mut world, r#"42["join","map"]"#);
    let publish = |key: &str, data: u32, to_self: bool| {
        format!(
            r#"42["publish",{{"room":"map","event":"at","data":{data},"key":"{key}","self":{to_self}}}]"#
        )
    };
    ann.asks(&mut world, &publish("x", 1, false));
    ann.got();
    ann.is_cut(&mut world);
    let mut bob = Tracking::new(&mut world, "user=bob");
    for (key, data) in [("y", 2), ("z", 3), ("y", 4)] {
        bob.asks(&mut world, &publish(key, data, true));
    }
    ann.offset = None;
    ann.return_to(&mut world);
    assert!(ann.recovered);
    assert_eq!(ann.got(), [r#"["at",3]"#, r#"["at",4]"#]);
}

#[test]
fn a_cut_within_what_was_missed_does_not_tell_it_twice() {
    let mut world = World::new(Config {
        hello: true,
        ..kept()
    });
    let mut ann = Tracking::new(&mut world, "user=ann");
    ann.asks(&mut world, r#"42["join","a"]"#);
    ann.is_cut(&mut world);
    for text in ["one", "two"] {
        said(&world, "a", text);
    }
    world.settle();
    ann.got();
    // socket.io-client keeps what comes before the answer to CONNECT, also over a cut.
    ann.client = world.engineio();
    ann.client.says(&format!(
        r#"40{{"token":"user=ann","pid":"{}","offset":"{}"}}"#,
        ann.pid.clone().unwrap(),
        ann.offset.clone().unwrap(),
    ));
    world.settle();
    let texts = ann.client.hears();
    let answer = texts
        .iter()
        .position(|text| text.starts_with("40"))
        .unwrap();
    let first = texts.iter().position(|text| text.contains("one")).unwrap();
    assert!(answer < first, "{texts:?}");
    // The hello says that all has come: it comes last.
    assert!(
        texts
            .iter()
            .position(|text| text.contains("hello"))
            .unwrap()
            > first
    );
}

#[test]
fn a_socket_that_has_come_back_is_sent_away_by_its_id() {
    let mut world = World::new(kept());
    let mut ann = Tracking::new(&mut world, "user=ann");
    ann.is_cut(&mut world);
    ann.return_to(&mut world);
    assert!(ann.recovered);
    assert!(sent_away(&mut world, &ann.sid));
    // One that is lost at present does not find what it had.
    let mut bob = Tracking::new(&mut world, "user=bob");
    bob.is_cut(&mut world);
    assert!(sent_away(&mut world, &bob.sid));
    bob.return_to(&mut world);
    assert!(!bob.recovered);
}

#[test]
fn nothing_changes_on_the_wire_where_nothing_is_kept() {
    let mut world = World::new(config());
    let mut ann = Tracking::new(&mut world, "user=ann");
    assert_eq!(ann.pid, None);
    ann.asks(&mut world, r#"42["join","a"]"#);
    said(&world, "a", "text");
    world.settle();
    let heard = ann.client.hears();
    assert_eq!(heard, [r#"42["news","text"]"#]);
}

#[test]
fn no_text_of_an_event_is_taken_for_a_place() {
    let mut config = kept();
    config.recovery.rooms = vec!["kept:*".into()];
    let mut world = World::with(config, |builder| {
        builder.on("volatile", |socket: Socket| async move {
            socket.emit_volatile("status", "connected")
        })
    });
    let mut ann = Tracking::new(&mut world, "user=ann");
    for room in ["kept:a", "loose"] {
        ann.asks(&mut world, &format!(r#"42["join","{room}"]"#));
    }
    said(&world, "kept:a", "one");
    said(&world, "loose", "two");
    ann.asks(&mut world, r#"42["volatile"]"#);
    ann.got();
    ann.is_cut(&mut world);
    said(&world, "loose", "lost");
    said(&world, "kept:a", "three");
    world.settle();
    ann.return_to(&mut world);
    assert!(ann.recovered);
    assert_eq!(ann.got(), [r#"["news","three"]"#]);
}

#[test]
fn two_connections_on_their_way_at_once_do_not_cost_a_client_its_session() {
    let mut world = World::new(kept());
    let mut ann = Tracking::new(&mut world, "user=ann");
    ann.asks(&mut world, r#"42["join","lobby"]"#);
    said(&world, "lobby", "one");
    let sid = ann.sid.clone();
    let hello = ann.hello();
    // The gateway stood still: the client has given the first of them up, and it does not know.
    let [mut earlier, mut later] = [world.engineio(), world.engineio()];
    earlier.says(&hello);
    later.says(&hello);
    world.settle();
    earlier.0.end();
    world.settle();
    // Whichever of them came up last had it: the client finds it by the next.
    ann.client = later;
    ann.hear(9);
    ann.is_cut(&mut world);
    ann.return_to(&mut world);
    assert!(ann.recovered && ann.sid == sid);
    said(&world, "lobby", "two");
    world.settle();
    ann.hear(9);
    let metrics = world.gateway.encode_metrics();
    assert!(metrics.contains("heartline_resumes_total{outcome=\"unknown\"} 0"));
    let got = ann.got();
    let news: Vec<_> = got.iter().filter(|one| one.contains("news")).collect();
    assert_eq!(news, [r#"["news","one"]"#, r#"["news","two"]"#]);
}

#[test]
fn an_offset_that_is_null_is_none() {
    let mut world = World::new(kept());
    let mut ann = Tracking::new(&mut world, "user=ann");
    ann.asks(&mut world, r#"42["join","lobby"]"#);
    let pid = ann.pid.clone().unwrap();
    for is_packed in [false, true] {
        ann.is_cut(&mut world);
        ann.client = world.engineio();
        let auth = format!(r#"{{"token":"user=ann","pid":"{pid}","offset":null}}"#);
        match is_packed {
            true => {
                let packet = format!(r#"{{"type":0,"data":{auth},"nsp":"/"}}"#);
                let mut bytes = Vec::new();
                msgpack::encode_value(&packet, &[], &mut bytes);
                ann.client.0.binary(&bytes);
            }
            false => ann.client.says(&format!("40{auth}")),
        }
        world.settle();
        let answer = ann.client.0.read();
        let data = match answer.last() {
            Some(Told::Text(text)) => text.clone(),
            Some(Told::Binary(bytes)) => {
                let packet = msgpack::decode(bytes, usize::MAX).unwrap();
                packet.data.unwrap_or_default()
            }
            other => panic!("no packet: {other:?}"),
        };
        assert!(data.contains(&pid), "{data}");
    }
    let forged = r#"heartline_resumes_total{outcome="bad_offset"}"#;
    assert_eq!(world.metric(forged), 0);
    // What is not null is still to be a place.
    ann.is_cut(&mut world);
    let mut forger = world.engineio();
    let auth = format!(r#"{{"token":"user=ann","pid":"{pid}","offset":0}}"#);
    let answer = world.ask(&mut forger, &format!("40{auth}"));
    assert!(!answer[0].contains(&pid), "{answer:?}");
    assert_eq!(world.metric(forged), 1);
}

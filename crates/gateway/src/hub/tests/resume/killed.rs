//! Gateways that are killed, and the journal that the next one reads.

use super::live::{asked, auth, subscribe};
use super::untold::Durable;
use super::*;

/// A gateway that writes down what it keeps, in a folder of its own.
pub(super) fn journaled(name: &str) -> (Config, std::path::PathBuf) {
    let folder = std::env::temp_dir().join(format!("heartline-{name}-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir(&folder).unwrap();
    let mut config = kept();
    config.recovery.journal = Some(folder.join("journal"));
    (config, folder)
}

/// What is left of a killed gateway: its files. Nobody is told anything, and nothing is
/// written any more.
pub(super) fn killed(world: World, folder: &std::path::Path) {
    let saved: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|file| file.unwrap().path())
        .map(|path| (path.clone(), std::fs::read(path).unwrap()))
        .collect();
    drop(world);
    for (path, bytes) in saved {
        std::fs::write(path, bytes).unwrap();
    }
}

#[test]
fn a_client_of_a_killed_gateway_goes_on_with_the_next() {
    let (config, folder) = journaled("killed");
    let mut world = World::new(config.clone());
    let mut ann = Tracking::new(&mut world, "user=ann rooms=a,b,c");
    for room in ["a", "b", "c"] {
        ann.asks(&mut world, &format!(r#"42["join","{room}"]"#));
    }
    ann.asks(&mut world, r#"42["leave","c"]"#);
    said(&world, "a", "one");
    world.settle();
    ann.hear(1);
    // Bob was lost before, and is expected back as well.
    let mut bob = Tracking::new(&mut world, "user=bob");
    bob.asks(&mut world, r#"42["join","a"]"#);
    bob.is_cut(&mut world);
    ann.got();
    said(&world, "a", "two");
    said(&world, "user:ann", "three");
    said(&world, "c", "never");
    said_to_all(&world, "four");
    world.settle();
    let sid = ann.sid.clone();
    killed(world, &folder);

    let mut world = World::new(config.clone());
    said(&world, "b", "five");
    ann.return_to(&mut world);
    assert!(ann.recovered);
    assert_eq!(ann.sid, sid);
    let missed = ["two", "three", "four", "five"].map(|text| format!(r#"["news","{text}"]"#));
    assert_eq!(ann.got(), missed);
    said(&world, "a", "six");
    world.settle();
    ann.hear(9);
    assert_eq!(ann.got(), [r#"["news","six"]"#]);
    bob.got();
    bob.return_to(&mut world);
    assert!(bob.recovered);
    let missed = ["two", "four", "six"].map(|text| format!(r#"["news","{text}"]"#));
    assert_eq!(bob.got(), missed);
    // And once more, with nothing said meanwhile.
    killed(world, &folder);
    let mut world = World::new(config);
    ann.return_to(&mut world);
    assert!(ann.recovered);
    assert_eq!(ann.got(), [] as [&str; 0]);
    said(&world, "b", "seven");
    world.settle();
    ann.hear(9);
    assert_eq!(ann.got(), [r#"["news","seven"]"#]);
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn who_was_just_coming_back_when_the_gateway_was_killed_is_still_in_all_their_rooms() {
    let (config, folder) = journaled("killed-coming");
    let file = folder.join("journal");
    let length = || std::fs::metadata(&file).unwrap().len() as usize;
    let mut world = World::new(config.clone());
    let mut ann = Tracking::new(&mut world, "user=ann");
    for room in ["a", "b"] {
        ann.asks(&mut world, &format!(r#"42["join","{room}"]"#));
    }
    said(&world, "a", "one");
    world.settle();
    ann.hear(9);
    ann.is_cut(&mut world);
    ann.got();
    let before = length();
    let hello = ann.hello();
    let mut other = world.engineio();
    other.says(&hello);
    world.settle();
    let journal = std::fs::read(&file).unwrap();
    assert!(journal.len() > before);
    killed(world, &folder);
    // She has heard nothing of it, as it was killed at any moment of that.
    for end in before..=journal.len() {
        std::fs::write(&file, &journal[..end]).unwrap();
        let mut world = World::new(config.clone());
        for room in ["a", "b"] {
            said(&world, room, room);
        }
        let mut again = world.engineio();
        again.says(&hello);
        world.settle();
        ann.take(again.hears());
        assert!(ann.recovered, "{end}");
        let missed = [r#"["news","a"]"#, r#"["news","b"]"#];
        assert_eq!(ann.got(), missed, "{end} of {}", journal.len());
        drop(world);
    }
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn a_live_topic_goes_on_over_a_kill_and_so_do_its_keys() {
    let (config, folder) = journaled("killed-live");
    let config = Config {
        hello: true,
        ..config
    };
    let mut world = World::new(config.clone());
    let mut ann = world.open(Opening::plain());
    let hello = asked(&mut world, &mut ann, &auth("user=ann"));
    let answer = asked(&mut world, &mut ann, &subscribe("map", None));
    ann.says(r#"{"type":"publish","topic":"map","event":"at","data":1,"key":"x"}"#);
    world.settle();
    said(&world, "map", "two");
    world.settle();
    killed(world, &folder);
    let mut world = World::new(config);
    let mut bob = world.open(Opening::plain());
    asked(&mut world, &mut bob, &auth("user=bob"));
    let told = asked(&mut world, &mut bob, &subscribe("map", None));
    assert_eq!(told[0]["snapshot"][0]["data"], 1);
    assert_eq!(
        (&told[0]["offset"], &told[0]["epoch"]),
        (&2.into(), &answer[0]["epoch"])
    );
    let mut again = world.open(Opening::plain());
    let frame = serde_json::json!({
        "type": "auth", "token": "user=ann", "resume": hello[0]["resume"],
        "topics": {"map": {"epoch": answer[0]["epoch"], "offset": 1}},
    });
    let told = asked(&mut world, &mut again, &frame);
    assert_eq!(
        (&told[0]["recovered"], &told[0]["socketId"]),
        (&true.into(), &hello[0]["socketId"])
    );
    assert_eq!(
        (&told[2]["recovered"], &told[3]["data"]),
        (&true.into(), &"two".into())
    );
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn a_journal_has_one_gateway_and_nothing_of_a_damaged_one_is_believed() {
    let (config, folder) = journaled("damaged");
    let mut world = World::new(config.clone());
    let mut ann = Tracking::new(&mut world, "user=ann");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    let second = runtime.block_on(async { GatewayBuilder::new(config.clone()).build() });
    let refused = second.map(drop).unwrap_err().to_string();
    assert!(refused.contains("another gateway"), "{refused}");
    killed(world, &folder);
    std::fs::write(folder.join("journal"), b"rubbish").unwrap();
    let mut world = World::new(config);
    ann.return_to(&mut world);
    assert!(!ann.recovered);
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn who_was_away_when_something_was_lost_between_nodes_begins_afresh() {
    use heartline_core::backplane::Missed;

    let lobby = Missed::Room {
        namespace: "/",
        tenant: None,
        room: "lobby",
    };
    let user = |user| Missed::User { tenant: None, user };
    let cases = [
        (lobby, false),
        (user("ann"), false),
        (user("bob"), true),
        (Missed::Users, false),
        (Missed::Anybody, false),
    ];
    let (config, folder) = journaled("lost");
    for (missed, recovers) in cases {
        for kill in [false, true] {
            let mut world = World::new(config.clone());
            let mut ann = Tracking::new(&mut world, "user=ann");
            ann.asks(&mut world, r#"42["join","lobby"]"#);
            ann.is_cut(&mut world);
            world.gateway.shared.fanout.missed(missed);
            world.settle();
            if kill && !matches!(missed, Missed::User { .. }) {
                killed(world, &folder);
                world = World::new(config.clone());
            }
            ann.return_to(&mut world);
            assert_eq!(ann.recovered, recovers, "{missed:?} {kill}");
            // What is said from here on is complete again.
            ann.is_cut(&mut world);
            ann.return_to(&mut world);
            assert!(ann.recovered);
            drop(world);
        }
    }
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn who_has_come_back_often_goes_on_after_a_kill_too() {
    let (config, folder) = journaled("often");
    let mut world = World::new(config.clone());
    let mut ann = Tracking::new(&mut world, "user=ann");
    ann.asks(&mut world, r#"42["join","a"]"#);
    for round in 0..60 {
        said(&world, "a", &round.to_string());
        world.settle();
        ann.hear(9);
        if round % 10 == 9 {
            killed(world, &folder);
            world = World::new(config.clone());
        } else {
            ann.is_cut(&mut world);
        }
        ann.return_to(&mut world);
        assert!(ann.recovered, "{round}");
    }
    drop(world);
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn the_newest_of_each_key_survives_kills_however_old_it_is() {
    let (config, folder) = journaled("keys");
    let mut world = World::new(config.clone());
    let publish = |world: &mut World, client: &mut Client, key: &str, data: &str| {
        client.says(&format!(
            r#"{{"type":"publish","topic":"map","event":"at","data":{data},"key":"{key}"}}"#
        ));
        world.settle();
    };
    let mut ann = world.open(Opening::plain());
    asked(&mut world, &mut ann, &auth("user=ann"));
    asked(&mut world, &mut ann, &subscribe("map", None));
    for (key, data) in [
        ("x", "1"),
        ("y", "2"),
        ("x", "3"),
        ("z", "4"),
        ("z", "null"),
    ] {
        publish(&mut world, &mut ann, key, data);
    }
    let snapshot = |world: &mut World| {
        let mut bob = world.open(Opening::plain());
        asked(world, &mut bob, &auth("user=bob"));
        asked(world, &mut bob, &subscribe("map", None))[0].clone()
    };
    let expected = |x: u64| {
        let x_offset = if x == 3 { 3 } else { 6 };
        serde_json::json!([
            {"key": "y", "event": "at", "data": 2, "offset": 2},
            {"key": "x", "event": "at", "data": x, "offset": x_offset},
        ])
    };
    let before = snapshot(&mut world);
    assert_eq!(before["snapshot"], expected(3));
    // Longer than any other event is kept; and once more, from what the next process wrote.
    for _ in 0..2 {
        for client in 0..2 {
            // Somebody is there all the time.
            let mut stays = world.open(Opening::plain());
            asked(
                &mut world,
                &mut stays,
                &auth(&format!("user=stays{client}")),
            );
            asked(&mut world, &mut stays, &subscribe("map", None));
        }
        killed(world, &folder);
        world = World::later(config.clone(), seconds(20_000));
        let after = snapshot(&mut world);
        assert_eq!(after["snapshot"], expected(3));
        assert_eq!(
            (&after["offset"], &after["epoch"]),
            (&5.into(), &before["epoch"])
        );
    }
    let mut ann = world.open(Opening::plain());
    asked(&mut world, &mut ann, &auth("user=ann"));
    asked(&mut world, &mut ann, &subscribe("map", None));
    publish(&mut world, &mut ann, "x", "5");
    killed(world, &folder);
    let mut world = World::new(config);
    assert_eq!(snapshot(&mut world)["snapshot"], expected(5));
    // What was said between is gone: who has not got it is told so, and the others go on.
    for (offset, recovered) in [(4, false), (5, true)] {
        let mut eve = world.open(Opening::plain());
        asked(&mut world, &mut eve, &auth("user=eve"));
        let epoch = before["epoch"].as_str().unwrap();
        let told = asked(
            &mut world,
            &mut eve,
            &subscribe("map", Some((epoch, offset))),
        );
        assert_eq!(told[0]["recovered"], recovered, "{offset}");
    }
    std::fs::remove_dir_all(folder).unwrap();
}

/// A client's token is another from now on, by `auth:refresh` or by coming back with it.
fn has_another_token(world: &mut World, ann: &mut Tracking, token: &str, by_refresh: bool) {
    if by_refresh {
        ann.asks(
            world,
            &format!(r#"42["auth:refresh",{{"token":"{token}"}}]"#),
        );
    } else {
        ann.is_cut(world);
        ann.token = token.into();
        ann.return_to(world);
        assert!(ann.recovered);
    }
}

#[test]
fn a_room_that_a_later_token_granted_is_left_over_a_kill_where_the_next_does_not() {
    for by_refresh in [true, false] {
        let (config, folder) = journaled("killed-granted");
        let mut world = World::new(config.clone());
        let mut ann = Tracking::new(&mut world, "user=ann rooms=a");
        ann.asks(&mut world, r#"42["join","a"]"#);
        has_another_token(&mut world, &mut ann, "user=ann rooms=a,b", by_refresh);
        ann.asks(&mut world, r#"42["join","b"]"#);
        ann.got();
        // What the next start has written down says it too.
        for _ in 0..2 {
            killed(world, &folder);
            world = World::new(config.clone());
        }
        said(&world, "a", "one");
        said(&world, "b", "two");
        ann.token = "user=ann rooms=a".into();
        ann.return_to(&mut world);
        assert!(ann.recovered);
        let left = r#"["room:left",{"reason":"forbidden","room":"b"}]"#;
        assert_eq!(ann.got(), [r#"["news","one"]"#, left], "{by_refresh}");
        said(&world, "b", "three");
        world.settle();
        ann.hear(9);
        assert_eq!(ann.got(), [] as [&str; 0], "{by_refresh}");
        std::fs::remove_dir_all(folder).unwrap();
    }
}

#[test]
fn what_a_later_token_lets_a_member_hear_is_not_missing_after_a_kill() {
    for by_refresh in [true, false] {
        let (config, folder) = journaled("killed-open");
        let store = Durable::default();
        let start = || World::with(config.clone(), |builder| builder.store(store.clone()));
        let mut world = start();
        // By the token of another device she is a member, and by her own hears nothing of it.
        let _device = world.socketio("user=ann rooms=conversation:9");
        let mut ann = Tracking::new(&mut world, "user=ann rooms=lobby");
        has_another_token(&mut world, &mut ann, "user=ann", by_refresh);
        ann.is_cut(&mut world);
        ann.got();
        let mut joe = world.socketio("user=joe rooms=conversation:*");
        let say = r#"42["message:send",{"conversationId":"9","content":"hello"}]"#;
        world.ask(&mut joe, say);
        killed(world, &folder);
        let mut world = start();
        ann.token = "user=ann".into();
        ann.return_to(&mut world);
        assert!(ann.recovered);
        let got = ann.got();
        assert!(
            matches!(&got[..], [one] if one.starts_with(r#"["message:notification""#)),
            "{by_refresh}: {got:?}"
        );
        std::fs::remove_dir_all(folder).unwrap();
    }
}

//! On a node alone: pictures and changes of users and of rooms, their bounds, and their ends.

use heartline_core::policy::Limit;

use super::*;

#[test]
fn users_are_watched_from_a_known_place_on_and_numbers_have_no_hole() {
    for is_live in [false, true] {
        let mut world = World::new(config());
        let mut ann = Watcher::new(&mut world, "user=ann", is_live);
        let watch = json!({ "users": ["bob", "ann", "bob"] });
        let picture = ann.ask(&mut world, "presence:watch", watch);
        assert_eq!(
            states(&picture),
            [("ann".into(), true), ("bob".into(), false)]
        );
        let first = picture["rev"].as_u64().unwrap();
        assert!(picture["asOf"].as_u64().unwrap() > 0 && picture.get("stale").is_none());
        let bob = world.live("user=bob");
        let came = ann.changes(&mut world);
        assert_eq!(states(&came[0]), [("bob".into(), true)]);
        drop(bob);
        let _eve = world.live("user=eve");
        let went = ann.changes(&mut world);
        assert_eq!((came.len(), went.len()), (1, 1));
        assert_eq!(states(&went[0]), [("bob".into(), false)]);
        assert!(went[0]["users"][0]["lastSeenAt"].as_u64().is_some());
        let rev = |change: &Value| change["users"][0]["rev"].as_u64().unwrap();
        assert!(rev(&went[0]) > rev(&came[0]) && rev(&came[0]) > rev(&picture));
        for (index, change) in came.iter().chain(&went).enumerate() {
            assert_eq!(change["epoch"], picture["epoch"]);
            assert_eq!(change["rev"], first + 1 + index as u64);
        }
        let ended = ann.ask(
            &mut world,
            "presence:unwatch",
            json!({ "users": ["ann", "bob"] }),
        );
        assert_eq!(ended, json!({ "ok": true, "ended": 1 }));
        let _bob = world.live("user=bob");
        assert!(ann.changes(&mut world).is_empty());
    }
}

#[test]
fn who_asks_from_a_place_goes_on_there_also_on_another_connection() {
    for is_live in [false, true] {
        let mut world = World::new(config());
        let mut ann = Watcher::new(&mut world, "user=ann", is_live);
        let picture = ann.ask(&mut world, "presence:watch", json!({ "users": ["bob"] }));
        drop(ann);
        world.run(ms(20));
        let mut ann = Watcher::new(&mut world, "user=ann", !is_live);
        let bob = world.live("user=bob");
        world.run(ms(200));
        drop(bob);
        world.run(ms(200));
        let after = json!({ "epoch": picture["epoch"], "rev": picture["rev"] });
        let watch = json!({ "users": ["bob"], "after": after });
        ann.client.says(&emit(!is_live, "presence:watch", &watch));
        world.run(ms(20));
        let heard: Vec<Value> = ann
            .client
            .hears()
            .iter()
            .filter_map(|text| told(text))
            .collect();
        assert_eq!(heard[0]["recovered"], true);
        assert_eq!(
            (&heard[0]["rev"], &heard[0]["head"]),
            (&json!(0), &json!(2))
        );
        assert_eq!(
            heard[1..].iter().map(states).collect::<Vec<_>>(),
            [[("bob".to_owned(), true)], [("bob".to_owned(), false)]]
        );
        let watch = json!({ "users": ["bob"], "after": { "epoch": "no", "rev": 1 } });
        let fresh = ann.ask(&mut world, "presence:watch", watch);
        assert_eq!(
            (&fresh["recovered"], &fresh["rev"]),
            (&json!(false), &json!(2))
        );
    }
}

#[test]
fn a_room_is_watched_by_who_is_in_it_or_may_be_until_they_leave() {
    for is_live in [false, true] {
        let mut world = World::new(config());
        let mut ann = Watcher::new(&mut world, "user=ann rooms=a,b", is_live);
        let refused = ann.ask(&mut world, "presence:watch", json!({ "room": "c" }));
        assert_eq!(refused["code"], "FORBIDDEN");
        let mut bob = world.socketio("user=bob");
        world.ask(&mut bob, r#"421["join","a"]"#);
        let picture = ann.ask(&mut world, "presence:watch", json!({ "room": "a" }));
        assert_eq!(states(&picture), [("bob".into(), true)]);
        ann.ask(&mut world, "join", json!({ "room": "a" }));
        let mut eve = world.live("user=eve");
        world.ask(&mut eve, r#"{"type":"subscribe","topic":"a"}"#);
        let came = ann.changes(&mut world);
        let who: Vec<_> = came.iter().flat_map(states).collect();
        assert!(who.contains(&("eve".into(), true)), "{came:?}");
        world.ask(&mut eve, r#"{"type":"unsubscribe","topic":"a"}"#);
        let left = ann.changes(&mut world);
        assert_eq!(left[0]["users"][0]["in"], false);
        drop(bob);
        let went = ann.changes(&mut world);
        assert_eq!(states(went.last().unwrap()), [("bob".into(), false)]);
        ann.ask(&mut world, "leave", json!({ "room": "a" }));
        let heard = ann.changes(&mut world);
        let _bob = world.socketio("user=bob");
        assert!(heard.is_empty() && ann.changes(&mut world).is_empty());
    }
}

#[test]
fn leaving_a_room_ends_its_watch_and_says_so() {
    let mut world = World::new(config());
    let mut ann = Watcher::new(&mut world, "user=ann", false);
    ann.ask(&mut world, "join", json!({ "room": "a" }));
    ann.ask(&mut world, "presence:watch", json!({ "room": "a" }));
    ann.client
        .says(&emit(false, "leave", &json!({ "room": "a" })));
    let ended = ann.changes(&mut world);
    assert_eq!(
        (&ended[0]["ended"], &ended[0]["rev"]),
        (&json!("LEFT"), &json!(0))
    );
    let mut bob = world.socketio("user=bob");
    world.ask(&mut bob, r#"421["join","a"]"#);
    assert!(ann.changes(&mut world).is_empty());
}

#[test]
fn a_grant_that_has_ended_is_seen_when_something_is_to_be_told() {
    for is_live in [false, true] {
        let mut world = World::new(config());
        let mut ann = Watcher::new(&mut world, "user=ann rooms=a", is_live);
        let picture = ann.ask(&mut world, "presence:watch", json!({ "room": "a" }));
        let mut bob = world.socketio("user=bob");
        world.ask(&mut bob, r#"421["join","a"]"#);
        let came = ann.changes(&mut world);
        assert_eq!(states(&came[0]), [("bob".into(), true)]);
        let token = json!({ "token": "user=ann rooms=b" });
        ann.ask(&mut world, "auth:refresh", token);
        let mut eve = world.socketio("user=eve");
        world.ask(&mut eve, r#"421["join","a"]"#);
        let heard = ann.changes(&mut world);
        assert!(!heard[0].to_string().contains("eve"));
        assert_eq!(heard[0]["ended"], "FORBIDDEN");
        // The change of eve is withheld: the one before it is the last that was heard.
        let heard_before = picture["rev"].as_u64().unwrap() + came.len() as u64;
        assert_eq!(came.last().unwrap()["rev"], heard_before);
        assert_eq!(heard[0]["rev"], heard_before);
        world.ask(&mut eve, r#"421["leave","a"]"#);
        assert!(ann.changes(&mut world).is_empty());
    }
}

#[test]
fn what_is_watched_has_bounds_and_counts_as_an_event() {
    let mut world = World::new(config());
    let mut ann = Watcher::new(&mut world, "user=ann", false);
    let many = |from: usize, count: usize| -> Value {
        let users = (from..from + count).map(|number| number.to_string());
        json!({ "users": users.collect::<Vec<_>>() })
    };
    let code = |world: &mut World, ann: &mut Watcher, watch| {
        let answer = ann.ask(world, "presence:watch", watch);
        answer["code"].as_str().unwrap_or_default().to_owned()
    };
    assert_eq!(code(&mut world, &mut ann, many(0, 101)), "INVALID_DATA");
    assert_eq!(code(&mut world, &mut ann, json!({})), "INVALID_DATA");
    let both = json!({ "users": ["a"], "room": "a" });
    assert_eq!(code(&mut world, &mut ann, both), "INVALID_DATA");
    let own = json!({ "room": "user:ann" });
    assert_eq!(code(&mut world, &mut ann, own), "FORBIDDEN");
    for part in 0..10 {
        assert_eq!(code(&mut world, &mut ann, many(part * 100, 100)), "");
    }
    assert_eq!(code(&mut world, &mut ann, many(2000, 1)), "TOO_LARGE");
    let several = [
        json!({ "users": ["0"], "room": "a" }),
        json!({ "users": ["0"], "epoch": "e" }),
        json!({ "room": "a", "epoch": "e" }),
        many(0, 101),
    ];
    for named in several {
        let refused = ann.ask(&mut world, "presence:unwatch", named);
        assert_eq!(refused["code"], "INVALID_DATA", "{refused}");
    }
    let ended = ann.ask(&mut world, "presence:unwatch", json!({}));
    assert_eq!(ended["ended"], 10);
    assert_eq!(code(&mut world, &mut ann, many(2000, 1)), "");

    let limited = config_with(|root| root.limits.events = Some(Limit::per(2, 60)));
    let mut world = World::new(limited);
    let mut ann = Watcher::new(&mut world, "user=ann", false);
    for expected in ["", "", "RATE_LIMITED"] {
        assert_eq!(code(&mut world, &mut ann, many(0, 1)), expected);
    }
}

#[test]
fn each_user_who_is_watched_counts_as_an_event_and_a_room_as_ten() {
    let users = json!({ "users": (0..10).map(|id| id.to_string()).collect::<Vec<_>>() });
    // A room that may not be joined costs as much, as does one of too many.
    for (watch, code) in [
        (users, ""),
        (json!({ "room": "a" }), ""),
        (json!({ "room": "c" }), "FORBIDDEN"),
    ] {
        let limited = config_with(|root| root.limits.events = Some(Limit::per(20, 600)));
        let mut world = World::new(limited);
        let mut ann = Watcher::new(&mut world, "user=ann rooms=a", true);
        for expected in [code, code, "RATE_LIMITED"] {
            let answer = ann.ask(&mut world, "presence:watch", watch.clone());
            let found = answer["code"].as_str().unwrap_or_default();
            assert_eq!(found, expected, "{watch}");
        }
    }
}

#[test]
fn who_asks_about_users_hears_until_when_nothing_is_missing() {
    let mut world = World::new(announced());
    let mut ann = Watcher::new(&mut world, "user=ann", false);
    let mut eve = world.socketio("user=eve");
    let bob = world.live("user=bob");
    world.run(ms(200));
    let online = eve.hears().concat();
    let rev = |text: &str| -> u64 {
        let at = text.rfind(r#""rev":"#).unwrap() + 6;
        text[at..]
            .split(|one: char| !one.is_ascii_digit())
            .next()
            .unwrap()
            .parse()
            .unwrap()
    };
    let answer = ann.ask(
        &mut world,
        "presence:get",
        json!({ "users": ["bob", "nobody"] }),
    );
    assert_eq!(answer["users"][0]["rev"], rev(&online));
    assert_eq!(answer["users"][1]["rev"], 0);
    assert!(answer["asOf"].as_u64().unwrap() <= world.unix_millis());
    drop(bob);
    world.run(ms(200));
    let offline = eve.hears().concat();
    assert!(offline.contains("user:offline") && rev(&offline) > rev(&online));
    let answer = ann.ask(&mut world, "presence:get", json!({ "users": ["bob"] }));
    assert_eq!(answer["users"][0]["rev"], rev(&offline));
}

#[test]
fn a_picture_that_is_wrong_is_counted_by_its_cause_until_it_is_right() {
    let mut world = World::new(config());
    let mut ann = Watcher::new(&mut world, "user=ann", true);
    let bob = world.live("user=bob");
    let picture = ann.ask(&mut world, "presence:watch", json!({ "users": ["bob"] }));
    let wrong = |world: &World, cause: &str| {
        let line = format!("heartline_presence_wrong_seconds_total{{cause=\"{cause}\"}}");
        let text = world.gateway.encode_metrics();
        let value = text.lines().find_map(|one| one.strip_prefix(&line));
        value.unwrap().trim().parse::<f64>().unwrap()
    };
    world.run(seconds(15));
    assert_eq!(wrong(&world, "lost"), 0.0);
    // Nobody has announced this.
    let rev = picture["users"][0]["rev"].as_u64().unwrap() + 1;
    let at = world.unix_millis();
    let edge = edge_of("bob", false, rev, at);
    world.gateway.shared.watches.heard(&[edge]);
    assert_eq!(states(&ann.changes(&mut world)[0]), [("bob".into(), false)]);
    world.run(seconds(20));
    let counted = wrong(&world, "lost");
    // A second look, one second later, found the same, and was believed.
    assert!((1.0..3.0).contains(&counted), "{counted}");
    assert_eq!(states(&ann.changes(&mut world)[0]), [("bob".into(), true)]);
    drop(bob);
    world.run(seconds(2));
    let counted = wrong(&world, "lost");
    world.run(seconds(20));
    assert_eq!(wrong(&world, "lost"), counted);
    for cause in ["late", "unannounced", "unswept"] {
        assert_eq!(wrong(&world, cause), 0.0);
    }
}

#[test]
fn a_socket_that_has_ended_when_it_is_to_watch_something_watches_nothing() {
    let go = Arc::new(tokio::sync::Notify::new());
    let waits = go.clone();
    let late = move |socket: Socket, gateway: Gateway| {
        let waits = waits.clone();
        async move {
            waits.notified().await;
            let users = ["bob".to_owned()];
            gateway
                .watch_users(&socket, &users, None)
                .await
                .map(crate::Json)
        }
    };
    let mut world = World::with(config(), |builder| builder.on("late", late));
    let mut ann = world.live("user=ann");
    ann.says(&emit(true, "late", &json!({})));
    world.run(ms(20));
    drop(ann);
    world.run(seconds(1));
    go.notify_one();
    world.run(seconds(1));
    assert!(!world.gateway.shared.watches.has_readers());
}

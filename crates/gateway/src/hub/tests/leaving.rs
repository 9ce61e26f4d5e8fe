//! How sockets go, what handlers are told of it, and when others hear that a user is gone.

use heartline_core::policy::Announce;

use super::*;

/// What a watcher hears of somebody's coming and going.
fn edges(client: &mut Client, user: &str) -> Vec<&'static str> {
    let about = format!(r#""userId":"{user}""#);
    let heard = client.hears().into_iter();
    heard
        .filter(|one| one.contains(&about))
        .map(|one| match one.contains("user:online") {
            true => "online",
            false => "offline",
        })
        .collect()
}

#[test]
fn each_way_to_go_has_its_reason_and_the_rooms_that_were_left() {
    let mut world = World::with(config(), |builder| {
        builder.on("kick", |socket: Socket| async move { socket.disconnect() })
    });
    let leave: [fn(&mut Client); 6] = [
        |client| client.says("41"),
        |client| client.says("1"),
        |client| client.0.close(1000),
        |client| client.0.end(),
        |client| client.says(r#"42["kick"]"#),
        |client| client.says("nonsense"),
    ];
    let reasons = [
        "client_left",
        "client_left",
        "client_left",
        "transport_closed",
        "kicked",
        "protocol_violation",
    ];
    for (leave, reason) in leave.into_iter().zip(reasons) {
        let mut ann = world.socketio("user=ann");
        for room in ["b", "a"] {
            world.ask(&mut ann, &format!(r#"42["join","{room}"]"#));
        }
        leave(&mut ann);
        world.settle();
        assert_eq!(world.farewells(), [format!("ann {reason} a,b,user:ann")]);
        let told = ann.hears();
        match reason {
            // Not to come back by itself.
            "kicked" => {
                let why = r#"42["connection:closed",{"reason":"kicked"}]"#;
                assert_eq!(told, [why, "41", "close 4403"]);
            }
            "protocol_violation" => assert_eq!(told, ["close 1008"]),
            _ => assert!(!told.contains(&"41".to_owned()), "{told:?}"),
        }
        // Nothing of it is left, and its end is told once.
        drop(ann);
        world.run(seconds(20));
        assert!(world.farewells().is_empty());
        assert_eq!(world.gateway.connection_count(), 0);
        assert_eq!(world.gateway.users_online(), 0);
        assert_eq!(world.metric("heartline_rooms"), 0);
    }
}

#[test]
fn who_leaves_one_namespace_stays_in_the_other_and_may_come_back() {
    let mut world = World::new(config());
    let mut ann = world.socketio("user=ann");
    let chat = r#"40/chat,{"token":"user=ann"}"#;
    assert!(world.ask(&mut ann, chat)[0].starts_with("40/chat,"));
    assert!(world.ask(&mut ann, "41/chat,").is_empty());
    assert_eq!(world.farewells(), ["ann client_left user:ann"]);
    // What was on its way to it is no violation.
    assert!(world.ask(&mut ann, r#"42/chat,1["join","a"]"#).is_empty());
    assert_eq!(world.ask(&mut ann, r#"421["join","a"]"#).len(), 2);
    assert!(world.ask(&mut ann, chat)[0].starts_with("40/chat,"));
    drop(ann);
    world.settle();
    let farewells = world.farewells();
    assert_eq!(farewells.len(), 2);
    assert!(farewells.contains(&"ann transport_closed a,user:ann".to_owned()));
}

#[test]
fn a_user_is_gone_with_the_last_of_their_connections() {
    let mut world = World::new(announced());
    let mut watcher = world.socketio("user=watcher");
    let phone = world.socketio("user=ann device=phone");
    let desk = world.live("user=ann device=desk");
    world.run(ms(100));
    assert_eq!(edges(&mut watcher, "ann"), ["online"]);
    drop(phone);
    world.run(ms(100));
    assert!(edges(&mut watcher, "ann").is_empty());
    drop(desk);
    world.run(ms(100));
    assert_eq!(edges(&mut watcher, "ann"), ["offline"]);
    assert_eq!(world.farewells().len(), 2);
}

#[test]
fn who_is_back_within_the_grace_was_never_away_and_who_is_not_is_gone_once() {
    let mut world = World::new(Config {
        offline_grace: seconds(5),
        ..announced()
    });
    let mut watcher = world.socketio("user=watcher");
    let ann = world.socketio("user=ann");
    world.run(ms(100));
    assert_eq!(edges(&mut watcher, "ann"), ["online"]);
    drop(ann);
    world.run(ms(4_800));
    assert_eq!(world.gateway.users_online(), 2);
    let ann = world.live("user=ann");
    world.run(seconds(20));
    assert!(edges(&mut watcher, "ann").is_empty());
    // Handlers hear of each socket at once, whatever the grace.
    assert_eq!(world.farewells(), ["ann transport_closed user:ann"]);
    drop(ann);
    world.run(ms(4_950));
    assert!(edges(&mut watcher, "ann").is_empty());
    world.run(ms(250));
    assert_eq!(edges(&mut watcher, "ann"), ["offline"]);
    assert_eq!(world.gateway.users_online(), 1);
    world.run(seconds(20));
    assert!(edges(&mut watcher, "ann").is_empty());
}

#[test]
fn only_those_who_share_a_room_hear_of_a_user_where_that_is_wanted() {
    let mut world = World::new(config_with(|root| root.announce = Announce::Rooms));
    let mut friend = world.socketio("user=friend");
    let mut live = world.live("user=live");
    let mut stranger = world.socketio("user=stranger");
    for room in ["a", "b"] {
        world.ask(&mut friend, &format!(r#"42["join","{room}"]"#));
    }
    world.ask(&mut live, r#"{"type":"subscribe","topic":"b"}"#);
    world.ask(&mut stranger, r#"42["join","c"]"#);
    let mut guest = world.socketio("user=guest");
    world.run(ms(100));
    assert!(edges(&mut friend, "guest").is_empty());
    for room in ["a", "b"] {
        world.ask(&mut guest, &format!(r#"42["join","{room}"]"#));
    }
    world.run(ms(200));
    assert_eq!(edges(&mut friend, "guest"), ["online"]);
    assert_eq!(edges(&mut live, "guest"), ["online"]);
    assert!(edges(&mut guest, "guest").is_empty());
    drop(guest);
    world.run(ms(200));
    assert_eq!(edges(&mut friend, "guest"), ["offline"]);
    assert_eq!(edges(&mut live, "guest"), ["offline"]);
    assert!(edges(&mut stranger, "guest").is_empty());
}

#[test]
fn a_crowd_that_comes_and_goes_leaves_nothing_behind() {
    let mut world = World::new(config());
    let mut stays = world.socketio("user=stays");
    world.ask(&mut stays, r#"42["join","crowd-3"]"#);
    for _ in 0..3 {
        let mut crowd: Vec<Client> = (0..100)
            .map(|number| world.live(&format!("user=u{number}")))
            .collect();
        for (number, client) in crowd.iter_mut().enumerate() {
            let topic = number % 7;
            let subscribe = format!(r#"{{"type":"subscribe","topic":"crowd-{topic}"}}"#);
            assert!(world.ask(client, &subscribe)[0].contains("subscribed"));
        }
        assert_eq!(world.metric("heartline_rooms"), 7);
        assert_eq!(world.gateway.users_online(), 101);
        for (number, mut client) in crowd.into_iter().enumerate() {
            // Half of them without a word.
            if number % 2 == 0 {
                client.0.close(1000);
            }
        }
        world.settle();
        assert_eq!(world.farewells().len(), 100);
        assert_eq!(world.metric("heartline_rooms"), 1);
        assert_eq!(world.gateway.users_online(), 1);
        assert_eq!(world.gateway.connection_count(), 1);
        let live = r#"heartline_connections{transport="live",namespace="/"}"#;
        assert_eq!(world.metric(live), 0);
    }
    let said = r#"421["publish",{"room":"crowd-3","event":"said","data":1}]"#;
    assert_eq!(world.ask(&mut stays, said)[0], r#"42["said",1]"#);
}

#[test]
fn who_has_gone_is_in_no_room_and_the_next_in_their_place_hears_nothing_of_it() {
    let mut world = World::new(config());
    let mut ann = world.socketio("user=ann");
    let mut bob = world.socketio("user=bob");
    for client in [&mut ann, &mut bob] {
        world.ask(client, r#"42["join","lobby"]"#);
    }
    drop(ann);
    world.settle();
    // Takes over the slot, and is nobody's heir.
    let mut cleo = world.socketio("user=cleo");
    world.run(ms(100));
    bob.hears();
    cleo.hears();
    let said = r#"421["publish",{"room":"lobby","event":"said","data":1}]"#;
    assert_eq!(world.ask(&mut bob, said)[0], r#"42["said",1]"#);
    assert!(cleo.hears().is_empty());
    // With the last member the room is gone, and one of its name begins anew.
    drop(bob);
    world.settle();
    assert_eq!(world.metric("heartline_rooms"), 0);
    let heard = world.ask(&mut cleo, r#"421["join","lobby"]"#);
    assert_eq!(heard.last().unwrap(), r#"431[{"ok":true,"room":"lobby"}]"#);
    let heard = world.ask(&mut cleo, said);
    assert_eq!(
        heard.last().unwrap(),
        r#"431[{"ok":true,"room":"lobby","offset":1}]"#
    );
}

#[test]
fn rooms_hear_of_a_user_once_whichever_of_them_it_comes_into_and_how_many_there_are() {
    for many in [2, 60] {
        let mut world = World::new(config_with(|root| root.announce = Announce::Rooms));
        let join = |world: &mut World, client: &mut Client, room: &str| {
            let answer = world.ask(client, &format!(r#"421["join","{room}"]"#));
            assert!(
                answer.iter().any(|said| said.contains("\"ok\":true")),
                "{answer:?}"
            );
        };
        let mut near = world.socketio("user=near");
        let mut both = world.socketio("user=both");
        for (client, rooms) in [(&mut near, &["last"][..]), (&mut both, &["room1", "last"])] {
            for room in rooms {
                join(&mut world, client, room);
            }
        }
        world.run(ms(200));
        near.hears();
        both.hears();
        let mut mover = world.socketio("user=mover");
        let online = r#"42["user:online",{"at":_,"rev":_,"userId":"mover","userType":null}]"#;
        for room in 0..many {
            join(&mut world, &mut mover, &format!("room{room}"));
            world.run(ms(60));
        }
        assert_eq!(plain(both.hears()), [online]);
        assert!(near.hears().is_empty());
        join(&mut world, &mut mover, "last");
        world.run(ms(60));
        assert!(both.hears().is_empty());
        assert_eq!(plain(near.hears()), [online]);
        mover.0.close(1000);
        world.run(ms(200));
        let offline = online.replace("online", "offline");
        assert_eq!(plain(both.hears()), [offline.as_str()]);
        assert_eq!(plain(near.hears()), [offline.as_str()]);
    }
}

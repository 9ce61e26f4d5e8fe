//! Users who were online when a gateway ended: whoever heard of them hears of it when they do not
//! come back.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::killed::{journaled, killed};
use super::live::{asked, auth, frames};
use super::stopped::{leaving, stopped};
use super::*;

type End = fn(World, &Path);

/// The ways in which a process ends that leaves something to the next.
fn ends(name: &str, announce: Announce) -> [(Config, PathBuf, End); 2] {
    let (killed_config, killed_folder) = journaled(&format!("{name}-killed"));
    let (left_config, left_folder) = leaving(&format!("{name}-left"));
    let with = |config: Config| {
        let mut config = Config {
            hello: true,
            ..config
        };
        config.namespaces.get_mut("/").unwrap().announce = announce;
        config
    };
    [
        (with(killed_config), killed_folder, killed),
        (with(left_config), left_folder, |world, _| stopped(world)),
    ]
}

/// What somebody heard of a user: online or not, with the numbers of the changes.
fn heard(got: &[String], user: &str) -> Vec<(bool, u64)> {
    let events = got.iter().filter_map(|text| {
        let event: Value = serde_json::from_str(text).ok()?;
        let name = event[0].as_str()?;
        let is_online = ["user:offline", "user:online"]
            .iter()
            .position(|one| *one == name)?;
        let is_of = event[1]["userId"] == user;
        is_of.then(|| (is_online == 1, event[1]["rev"].as_u64().unwrap()))
    });
    events.collect()
}

/// Asks something, and the acknowledgement.
fn answer(world: &mut World, client: &mut Client, event: &str, data: &Value) -> Value {
    let told = world.ask(client, &format!("427{}", json!([event, data])));
    let answer = told.iter().find_map(|text| text.strip_prefix("437"));
    let answer: Value = serde_json::from_str(answer.expect("an acknowledgement")).unwrap();
    answer[0].clone()
}

/// What a question says of a user: online, on how many devices, and the number of the change.
fn asked_about(world: &mut World, client: &mut Client, user: &str) -> (bool, u64, u64) {
    let said = answer(world, client, "presence:get", &json!({ "users": [user] }));
    let said = &said["users"][0];
    let number = |name: &str| said[name].as_u64().unwrap();
    (
        said["online"].as_bool().unwrap(),
        number("devices"),
        number("rev"),
    )
}

#[test]
fn a_user_who_does_not_come_back_after_a_restart_goes_offline_once() {
    for announce in [Announce::Namespace, Announce::Rooms] {
        for (config, folder, end) in ends("absent", announce) {
            let mut world = World::new(config.clone());
            let mut ann = Tracking::new(&mut world, "user=ann");
            ann.asks(&mut world, r#"42["join","a"]"#);
            let mut cat = Tracking::new(&mut world, "user=cat");
            cat.asks(&mut world, r#"42["join","a"]"#);
            let mut bob = Tracking::new(&mut world, "user=bob");
            bob.asks(&mut world, r#"42["join","a"]"#);
            world.run(ms(200));
            ann.hear(99);
            let got = ann.got();
            let [(true, came)] = heard(&got, "bob")[..] else {
                panic!("{got:?}");
            };
            end(world, &folder);

            // Nobody is told again of who is back, and who is not is expected for a while.
            let mut world = World::new(config.clone());
            ann.return_to(&mut world);
            cat.return_to(&mut world);
            assert!(ann.recovered && cat.recovered);
            let mut dan = world.socketio("user=dan");
            world.run(seconds(50));
            ann.hear(99);
            let got = ann.got();
            assert_eq!((heard(&got, "bob"), heard(&got, "cat")), (vec![], vec![]));
            assert_eq!(asked_about(&mut world, &mut dan, "bob"), (true, 0, came));
            assert!(asked_about(&mut world, &mut dan, "cat").0);
            world.run(seconds(20));
            ann.hear(99);
            let got = ann.got();
            let [(false, went)] = heard(&got, "bob")[..] else {
                panic!("{announce:?}: {got:?}");
            };
            assert!(went > came && heard(&got, "cat").is_empty());
            assert_eq!(asked_about(&mut world, &mut dan, "bob"), (false, 0, went));
            // It is told once, also when a third process goes on from there.
            end(world, &folder);
            let mut world = World::new(config);
            ann.return_to(&mut world);
            cat.return_to(&mut world);
            assert!(ann.recovered && cat.recovered);
            world.run(seconds(70));
            ann.hear(99);
            let got = ann.got();
            assert_eq!((heard(&got, "bob"), heard(&got, "cat")), (vec![], vec![]));
            std::fs::remove_dir_all(folder).unwrap();
        }
    }
}

#[test]
fn restarts_one_after_the_other_give_no_more_time_to_who_does_not_come_back() {
    for (config, folder, end) in ends("in-a-loop", Announce::Namespace) {
        let start = |at| World::later(config.clone(), seconds(at));
        let mut world = start(0);
        let mut ann = Tracking::new(&mut world, "user=ann");
        let mut cat = Tracking::new(&mut world, "user=cat");
        let _bob = Tracking::new(&mut world, "user=bob");
        world.run(ms(200));
        end(world, &folder);
        // Cat has been back, and is away since the end of the third process.
        for (at, is_back) in [(1, false), (20, true), (30, false), (50, false)] {
            let mut world = start(at);
            ann.return_to(&mut world);
            assert!(ann.recovered, "{at}");
            if is_back {
                cat.return_to(&mut world);
                assert!(cat.recovered);
            }
            world.run(ms(200));
            ann.hear(99);
            end(world, &folder);
        }
        let mut world = start(56);
        ann.return_to(&mut world);
        assert!(ann.recovered);
        world.run(seconds(1));
        ann.hear(99);
        let got = ann.got();
        let went = |got: &[String], user| {
            let heard = heard(got, user).into_iter();
            heard.filter(|(is_online, _)| !is_online).count()
        };
        assert_eq!((went(&got, "bob"), went(&got, "cat")), (0, 0), "{got:?}");
        // A stop takes some seconds itself.
        world.run(seconds(12));
        ann.hear(99);
        let got = ann.got();
        assert_eq!((went(&got, "bob"), went(&got, "cat")), (1, 0), "{got:?}");
        world.run(seconds(30));
        ann.hear(99);
        let got = ann.got();
        assert_eq!((went(&got, "bob"), went(&got, "cat")), (0, 1), "{got:?}");
        std::fs::remove_dir_all(folder).unwrap();
    }
}

#[test]
fn a_clock_that_was_ahead_before_a_restart_keeps_nobody_online() {
    let day = seconds(86_400);
    for (config, folder, end) in ends("ahead", Announce::Namespace) {
        let mut world = World::later(config.clone(), day);
        let mut ann = Tracking::new(&mut world, "user=ann");
        let _bob = Tracking::new(&mut world, "user=bob");
        world.run(ms(200));
        ann.hear(99);
        ann.got();
        end(world, &folder);
        let mut world = World::new(config);
        ann.return_to(&mut world);
        assert!(ann.recovered);
        world.run(seconds(120));
        ann.hear(99);
        let got = ann.got();
        let heard = heard(&got, "bob");
        assert!(matches!(heard[..], [(false, _)]), "{got:?}");
        std::fs::remove_dir_all(folder).unwrap();
    }
}

#[test]
fn who_had_gone_before_a_stop_is_online_for_the_grace_alone() {
    let [_, (config, folder, end)] = ends("in-a-grace", Announce::Namespace);
    let config = Config {
        offline_grace: seconds(20),
        ..config
    };
    let mut world = World::new(config.clone());
    let mut ann = Tracking::new(&mut world, "user=ann");
    let mut bob = Tracking::new(&mut world, "user=bob");
    world.run(ms(200));
    bob.is_cut(&mut world);
    world.run(seconds(5));
    ann.hear(99);
    ann.got();
    end(world, &folder);

    let mut world = World::later(config, seconds(6));
    ann.return_to(&mut world);
    assert!(ann.recovered);
    world.run(seconds(10));
    ann.hear(99);
    assert_eq!(heard(&ann.got(), "bob"), []);
    world.run(seconds(10));
    ann.hear(99);
    assert_eq!(heard(&ann.got(), "bob").len(), 1);
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn a_live_client_that_comes_back_after_a_restart_hears_who_did_not() {
    for (config, folder, end) in ends("absent-live", Announce::Namespace) {
        let mut world = World::new(config.clone());
        let mut ann = world.open(Opening::plain());
        let hello = asked(&mut world, &mut ann, &auth("user=ann"));
        let bob = world.live("user=bob");
        world.run(ms(200));
        let told = frames(&mut ann);
        let came = told.iter().find(|frame| frame["type"] == "user:online");
        let came = came.expect("it is told of bob");
        let (resume, place) = (hello[0]["resume"].clone(), came["place"].clone());
        end(world, &folder);
        drop(bob);

        let mut world = World::new(config);
        let mut ann = world.open(Opening::plain());
        let again = json!({
            "type": "auth", "token": "user=ann", "resume": resume, "place": place, "topics": {},
        });
        let hello = asked(&mut world, &mut ann, &again);
        assert_eq!(hello[0]["recovered"], true, "{hello:?}");
        world.run(seconds(70));
        let told = frames(&mut ann);
        let went: Vec<&Value> = told
            .iter()
            .filter(|frame| frame["type"] == "user:offline")
            .collect();
        assert_eq!(went.len(), 1, "{told:?}");
        assert_eq!(went[0]["data"]["userId"], "bob");
        assert!(went[0]["data"]["rev"].as_u64() > came["data"]["rev"].as_u64());
        std::fs::remove_dir_all(folder).unwrap();
    }
}

#[test]
fn a_departure_that_a_killed_gateway_has_told_nobody_is_told_by_the_next() {
    let [(config, folder, end), _] = ends("untold-departure", Announce::Namespace);
    let mut world = World::new(config.clone());
    let mut ann = Tracking::new(&mut world, "user=ann");
    let mut bob = Tracking::new(&mut world, "user=bob");
    world.run(ms(200));
    // The first change leaves at once, and what follows it waits for a moment.
    let _cat = Tracking::new(&mut world, "user=cat");
    bob.client.says("41");
    world.settle();
    ann.hear(99);
    let got = ann.got();
    assert_eq!(heard(&got, "cat").len(), 1);
    assert_eq!(heard(&got, "bob").len(), 1);
    end(world, &folder);

    let mut world = World::new(config);
    ann.return_to(&mut world);
    assert!(ann.recovered);
    world.run(seconds(70));
    ann.hear(99);
    let got = ann.got();
    let told = |user| {
        heard(&got, user)
            .iter()
            .map(|one| one.0)
            .collect::<Vec<_>>()
    };
    assert_eq!((told("bob"), told("cat")), (vec![false], vec![false]));
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn rooms_that_heard_of_a_user_hear_of_the_end_after_a_restart_and_others_do_not() {
    for (config, folder, end) in ends("absent-rooms", Announce::Rooms) {
        let mut world = World::new(config.clone());
        let mut watchers: Vec<Tracking> = ["ended", "there", "left"]
            .iter()
            .map(|room| {
                let mut one = Tracking::new(&mut world, &format!("user=in-{room}"));
                one.asks(&mut world, &format!(r#"42["join","{room}"]"#));
                one
            })
            .collect();
        // The first time that Bob is online has nothing to do with the second.
        let mut before = Tracking::new(&mut world, "user=bob");
        before.asks(&mut world, r#"42["join","left"]"#);
        before.is_cut(&mut world);
        world.run(ms(200));
        let mut bob = Tracking::new(&mut world, "user=bob");
        bob.asks(&mut world, r#"42["join","there"]"#);
        let mut other = Tracking::new(&mut world, "user=bob");
        other.asks(&mut world, r#"42["join","ended"]"#);
        other.asks(&mut world, r#"42["join","left"]"#);
        other.asks(&mut world, r#"42["leave","left"]"#);
        other.client.says("41");
        world.run(ms(200));
        for watcher in &mut watchers {
            watcher.hear(99);
            watcher.got();
        }
        end(world, &folder);

        let mut world = World::new(config);
        for watcher in &mut watchers {
            watcher.return_to(&mut world);
            assert!(watcher.recovered);
        }
        world.run(seconds(70));
        let told: Vec<usize> = watchers
            .iter_mut()
            .map(|watcher| {
                watcher.hear(99);
                heard(&watcher.got(), "bob").len()
            })
            .collect();
        assert_eq!(told, [1, 1, 0]);
        std::fs::remove_dir_all(folder).unwrap();
    }
}

#[test]
fn a_picture_of_an_earlier_process_is_not_gone_on_with() {
    for (config, folder, end) in ends("pictures", Announce::Off) {
        let mut world = World::new(config.clone());
        let mut ann = world.socketio("user=ann");
        let bob = Tracking::new(&mut world, "user=bob");
        let watch = json!({ "users": ["bob"] });
        let before = answer(&mut world, &mut ann, "presence:watch", &watch);
        assert_eq!(before["users"][0]["online"], true);
        world.run(ms(200));
        end(world, &folder);
        drop((ann, bob));

        let mut world = World::new(config);
        let mut ann = world.socketio("user=ann");
        let place = json!({ "epoch": before["epoch"], "rev": before["rev"] });
        let watch = json!({ "users": ["bob"], "after": place });
        let picture = answer(&mut world, &mut ann, "presence:watch", &watch);
        assert_eq!(picture["recovered"], false);
        assert_ne!(picture["epoch"], before["epoch"]);
        assert_eq!(picture["users"][0]["online"], true);
        assert_eq!(picture["users"][0]["rev"], before["users"][0]["rev"]);
        world.run(seconds(70));
        let told = ann.hears();
        let changes: Vec<&String> = told
            .iter()
            .filter(|text| text.contains("presence:change"))
            .collect();
        assert_eq!(changes.len(), 1, "{told:?}");
        assert!(changes[0].contains(r#""online":false"#), "{told:?}");
        std::fs::remove_dir_all(folder).unwrap();
    }
}

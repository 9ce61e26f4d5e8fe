//! Gateways that are stopped in good order, and the file that they leave to the next.

use heartline_core::store::{Channel, MessageStore, NewMessage};

use super::killed::{journaled, killed};
use super::untold::Durable;
use super::*;

/// A gateway that leaves what it keeps to the next when it is stopped.
pub(super) fn leaving(name: &str) -> (Config, std::path::PathBuf) {
    let (mut config, folder) = journaled(name);
    config.recovery.journal = None;
    config.recovery.stopped = Some(folder.join("left"));
    (config, folder)
}

/// Stops a gateway in good order.
fn drained(world: &mut World) {
    let gateway = world.gateway.clone();
    let drained = world.begin(async move { gateway.drain().await });
    while !drained.is_finished() {
        world.run(ms(100));
    }
}

/// The same, and its process ends.
pub(super) fn stopped(mut world: World) {
    drained(&mut world);
}

#[test]
fn what_the_app_remembers_of_a_socket_is_there_when_it_goes_on_also_at_the_next_process() {
    // Cut, killed twice, and stopped in good order twice.
    let (journaled, folder) = journaled("remembered");
    let (leaving, other) = leaving("remembered-left");
    for (config, end) in [
        (&journaled, killed as fn(World, &std::path::Path)),
        (&leaving, |world, _| stopped(world)),
    ] {
        let handles = Handles::default();
        let start = || {
            World::with(config.clone(), |builder| {
                let builder = builder.on_connect(|socket: Socket| async move {
                    let times: u32 = socket.remembered("times").unwrap_or(0);
                    socket.remember("times", &(times + 1)).unwrap();
                });
                handles.filled_by(builder)
            })
        };
        let mut world = start();
        let mut ann = Tracking::new(&mut world, "user=ann");
        ann.asks(&mut world, r#"42["join","a"]"#);
        let socket = handles.find(&ann.sid, false);
        socket.remember("bet", &("red", 20)).unwrap();
        socket.remember("gone", &1).unwrap();
        socket.remember("gone", &()).unwrap();
        ann.is_cut(&mut world);
        ann.return_to(&mut world);
        assert!(ann.recovered);
        drop(socket);
        for process in 3..5 {
            // Whoever has a handle holds the gateway.
            handles.0.lock().unwrap().clear();
            end(world, &folder);
            world = start();
            ann.return_to(&mut world);
            assert!(ann.recovered);
            let socket = handles.find(&ann.sid, false);
            assert_eq!(socket.remembered("bet"), Some(("red".to_owned(), 20)));
            assert_eq!(socket.remembered::<u32>("gone"), None);
            assert_eq!(socket.remembered("times"), Some(process));
        }
        // Another socket of the same user has nothing of it.
        let new = Tracking::new(&mut world, "user=ann");
        let socket = handles.find(&new.sid, false);
        assert_eq!(socket.remembered::<(String, u32)>("bet"), None);
        let refused = socket.remember("long", &"x".repeat(4_096)).unwrap_err();
        assert_eq!(refused.code(), "TOO_LARGE");
        assert_eq!(socket.remembered("times"), Some(1));
        drop(world);
    }
    std::fs::remove_dir_all(folder).unwrap();
    std::fs::remove_dir_all(other).unwrap();
}

#[test]
fn a_client_of_a_stopped_gateway_goes_on_with_the_next() {
    use std::os::unix::fs::PermissionsExt as _;

    let (config, folder) = leaving("stopped");
    let file = folder.join("left");
    let handles = Handles::default();
    let start = || World::with(config.clone(), |builder| handles.filled_by(builder));
    let mut world = start();
    let mut ann = Tracking::new(&mut world, "user=ann");
    ann.asks(&mut world, r#"42["join","a"]"#);
    let mut bob = Tracking::new(&mut world, "user=bob");
    bob.asks(&mut world, r#"42["join","a"]"#);
    let mut kicked = Tracking::new(&mut world, "user=eve");
    kicked.is_cut(&mut world);
    ann.got();
    bob.got();
    bob.is_cut(&mut world);
    said(&world, "a", "one");
    said(&world, "user:ann", "two");
    handles.find(&ann.sid, true).emit("news", "three").unwrap();
    said_to_all(&world, "four");
    world.settle();
    // None of it arrives.
    ann.client.hears();
    assert!(sent_away(&mut world, &kicked.sid));
    stopped(world);
    let mode = std::fs::metadata(&file).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);

    let mut world = start();
    assert!(!file.exists());
    ann.return_to(&mut world);
    bob.return_to(&mut world);
    kicked.return_to(&mut world);
    assert!(ann.recovered && bob.recovered && !kicked.recovered);
    let told = |texts: &[&str]| -> Vec<String> {
        texts
            .iter()
            .map(|text| format!(r#"["news","{text}"]"#))
            .collect()
    };
    assert_eq!(ann.got(), told(&["one", "two", "three", "four"]));
    assert_eq!(bob.got(), told(&["one", "four"]));
    said(&world, "a", "five");
    world.settle();
    ann.hear(9);
    assert_eq!(ann.got(), told(&["five"]));
    // Stopped again, and then killed: what only the file of the first stop knew is gone.
    stopped(world);
    drop(start());
    let mut world = start();
    ann.return_to(&mut world);
    assert!(!ann.recovered);
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn after_a_stop_no_message_is_told_again_and_one_of_which_nobody_was_told_is() {
    let (mut config, folder) = leaving("stopped-untold");
    config.recovery.bytes = 4_000;
    let store = Durable::default();
    let start = || World::with(config.clone(), |builder| builder.store(store.clone()));
    let mut world = start();
    let mut ann = Tracking::new(&mut world, "user=ann rooms=conversation:*");
    ann.asks(&mut world, r#"42["join","conversation:1"]"#);
    let say = |text: &str| {
        let data = format!(r#"{{"conversationId":"1","content":"{text}"}}"#);
        format!(r#"42["message:send",{data}]"#)
    };
    let messages = |ann: &mut Tracking| -> Vec<String> {
        let got = ann.got().into_iter();
        got.filter(|one| one.contains("message:new")).collect()
    };
    // The second is too large to be kept.
    ann.asks(&mut world, &say("one"));
    ann.asks(&mut world, &say(&"x".repeat(4_000)));
    assert_eq!(messages(&mut ann).len(), 2);
    stopped(world);
    let mut world = start();
    ann.return_to(&mut world);
    world.settle();
    ann.hear(9);
    assert!(ann.recovered);
    assert_eq!(messages(&mut ann), [""; 0]);
    ann.asks(&mut world, &say("three"));
    assert_eq!(messages(&mut ann).len(), 1);
    let new = NewMessage {
        sender: Arc::new(UserKey {
            tenant_id: None,
            user_id: "bob".into(),
            user_type: None,
        }),
        channel: Channel::Conversation("1".into()),
        content: "four".into(),
        temp_id: None,
        created_at: 7,
    };
    drop(store.append(new, Box::new(|_| ())));
    stopped(world);
    let mut world = start();
    ann.return_to(&mut world);
    world.settle();
    ann.hear(9);
    let told = messages(&mut ann);
    assert!(ann.recovered && told.len() == 1, "{told:?}");
    assert!(told[0].contains(r#""content":"four""#), "{told:?}");
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn what_was_left_too_long_ago_or_is_damaged_is_not_gone_on_with() {
    let (config, folder) = leaving("damaged-left");
    let file = folder.join("left");
    let other_namespaces = |config: &mut Config| {
        config.namespaces.remove("/chat");
    };
    let cases: [(&str, fn(&std::path::Path)); 4] = [
        ("as it is", |_| ()),
        ("cut short", |file| {
            let bytes = std::fs::read(file).unwrap();
            std::fs::write(file, &bytes[..bytes.len() - 1]).unwrap();
        }),
        ("changed", |file| {
            let mut bytes = std::fs::read(file).unwrap();
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
            std::fs::write(file, bytes).unwrap();
        }),
        ("foreign", |file| {
            std::fs::write(file, "something else").unwrap()
        }),
    ];
    for (case, change) in cases {
        for (later, is_other) in [(0, false), (61, false), (0, true)] {
            let mut world = World::new(config.clone());
            let mut ann = Tracking::new(&mut world, "user=ann");
            stopped(world);
            change(&file);
            let mut config = config.clone();
            if is_other {
                other_namespaces(&mut config);
            }
            let mut world = World::later(config, seconds(later));
            ann.return_to(&mut world);
            let recovers = case == "as it is" && later == 0 && !is_other;
            assert_eq!(ann.recovered, recovers, "{case} {later} {is_other}");
            let _ = std::fs::remove_file(&file);
        }
    }
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn what_happens_after_the_end_makes_all_begin_afresh() {
    let (config, folder) = leaving("late");
    let deeds: [fn(&mut World, &str); 2] = [
        |world, _| said(world, "a", "late"),
        |world, id| assert!(sent_away(world, id)),
    ];
    for deed in deeds {
        let mut world = World::new(config.clone());
        let mut ann = Tracking::new(&mut world, "user=ann");
        ann.asks(&mut world, r#"42["join","a"]"#);
        drained(&mut world);
        assert!(folder.join("left").exists());
        deed(&mut world, &ann.sid);
        assert!(!folder.join("left").exists());
        drop(world);
        let mut world = World::new(config.clone());
        ann.return_to(&mut world);
        assert!(!ann.recovered);
    }
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn who_missed_more_than_was_kept_before_a_stop_begins_afresh() {
    let (mut config, folder) = leaving("stopped-dropped");
    config.recovery.events = 2;
    // Of what goes to everybody more is kept.
    let ways: [(usize, fn(&World, &Socket)); 4] = [
        (3, |world, _| said(world, "a", "text")),
        (3, |world, _| said(world, "user:ann", "text")),
        (3, |_, socket| socket.emit("news", "text").unwrap()),
        (129, |world, _| said_to_all(world, "text")),
    ];
    for (index, (too_many, say)) in ways.into_iter().enumerate() {
        for times in [too_many - 1, too_many] {
            let handles = Handles::default();
            let start = || World::with(config.clone(), |builder| handles.filled_by(builder));
            let mut world = start();
            let mut ann = Tracking::new(&mut world, "user=ann");
            ann.asks(&mut world, r#"42["join","a"]"#);
            ann.got();
            ann.is_cut(&mut world);
            for _ in 0..times {
                say(&world, &handles.find(&ann.sid, true));
            }
            world.settle();
            handles.0.lock().unwrap().clear();
            stopped(world);
            let mut world = start();
            ann.return_to(&mut world);
            assert_eq!(ann.recovered, times < too_many, "{index} {times}");
            handles.0.lock().unwrap().clear();
        }
    }
    std::fs::remove_dir_all(folder).unwrap();
}

//! From polling to WebSocket while events come and go.

use super::*;

/// The numbers of the events `tick` in what was heard.
fn ticks<'a>(heard: impl Iterator<Item = &'a str>) -> Vec<u32> {
    heard
        .filter_map(|one| one.strip_prefix(r#"42["tick","#)?.strip_suffix(']'))
        .map(|number| number.parse().unwrap())
        .collect()
}

#[test]
fn an_upgrade_in_the_middle_of_events_loses_none_and_repeats_none() {
    let mut world = World::new(config());
    let ann = world.polling("user=ann");
    world.post(ann, r#"42["join","lobby"]"#);
    world.get(ann);
    let lobby = world.gateway.to("/", None, "lobby").unwrap();
    let mut number = 0;
    let mut tick = |world: &mut World| {
        number += 1;
        lobby.emit("tick", &number).unwrap();
        world.settle();
    };
    let mut polled = String::new();
    let mut poll = |world: &mut World| {
        polled += &world.get(ann);
        polled.push('\u{1e}');
    };
    tick(&mut world);
    poll(&mut world);
    tick(&mut world);
    let peer = world.harness.upgrade(ann, Opening::engineio());
    let mut socket = Client(peer);
    tick(&mut world);
    socket.says("2probe");
    tick(&mut world);
    assert_eq!(socket.hears(), ["3probe"]);
    // While it changes over, what waits can still be polled for.
    poll(&mut world);
    tick(&mut world);
    world.post(
        ann,
        r#"421["publish",{"room":"lobby","event":"tick","data":100}]"#,
    );
    tick(&mut world);
    assert!(socket.hears().is_empty());
    socket.says("5");
    socket.says(r#"422["publish",{"room":"lobby","event":"tick","data":200}]"#);
    world.settle();
    tick(&mut world);
    let heard = socket.hears();
    assert_eq!(ticks(polled.split('\u{1e}')), [1, 2, 3, 4]);
    assert_eq!(ticks(heard.iter().map(String::as_str)), [5, 100, 6, 200, 7]);
    let answers: Vec<_> = heard.iter().filter(|one| one.starts_with("43")).collect();
    let expected = [
        r#"431[{"ok":true,"room":"lobby","offset":6}]"#,
        r#"432[{"ok":true,"room":"lobby","offset":8}]"#,
    ];
    assert_eq!(answers, expected);
    let connections = |world: &World, transport| {
        let name = "heartline_connections";
        world.metric(&format!(
            r#"{name}{{transport="{transport}",namespace="/"}}"#
        ))
    };
    assert_eq!(connections(&world, "polling"), 0);
    assert_eq!(connections(&world, "websocket"), 1);
    assert!(world.farewells().is_empty());
    drop(socket);
    world.settle();
    assert_eq!(connections(&world, "websocket"), 0);
    assert_eq!(world.farewells(), ["ann transport_closed lobby,user:ann"]);
}

#[test]
fn a_handler_that_began_before_the_upgrade_answers_behind_it() {
    let mut world = World::with(config(), |builder| {
        builder.on("work", || async {
            tokio::time::sleep(seconds(2)).await;
            crate::Json("worked")
        })
    });
    let ann = world.polling("user=ann");
    world.post(ann, r#"421["work"]"#);
    let peer = world.harness.upgrade(ann, Opening::engineio());
    let mut socket = Client(peer);
    for text in ["2probe", "5"] {
        world.ask(&mut socket, text);
    }
    world.run(ms(2_020));
    assert_eq!(socket.hears(), [r#"431["worked"]"#]);
}

#[test]
fn who_is_let_go_in_the_middle_of_an_upgrade_hears_why() {
    let mut world = World::new(config());
    let ann = world.polling("user=ann");
    let peer = world.harness.upgrade(ann, Opening::engineio());
    let mut socket = Client(peer);
    socket.says("2probe");
    world.settle();
    let mut last = world.harness.get(ann);
    let gateway = world.gateway.clone();
    world.begin(async move { gateway.drain().await });
    world.settle();
    let mut heard = socket.hears().join("\u{1e}");
    if let Some(Answer::Payload(payload)) = last.answer() {
        heard += &payload;
    }
    if !heard.contains("server:drain") {
        socket.says("5");
        world.settle();
        heard += &socket.hears().join("\u{1e}");
    }
    assert!(heard.contains("server:drain"), "{heard}");
    assert_eq!(world.farewells(), ["ann drained user:ann"]);
}

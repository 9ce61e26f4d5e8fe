//! What is said to one socket alone, over a cut.

use super::live::{asked, auth, frames, live_config};
use super::story::PING;
use super::*;

#[test]
fn what_is_said_to_one_socket_comes_over_a_cut_once_and_in_its_place() {
    let handles = Handles::default();
    let mut world = World::with(kept(), |builder| handles.filled_by(builder));
    let mut ann = Tracking::new(&mut world, "user=ann");
    ann.asks(&mut world, r#"42["join","a"]"#);
    let socket = handles.find(&ann.sid, true);
    ann.got();
    socket.emit("news", "one").unwrap();
    world.settle();
    ann.hear(9);
    said(&world, "a", "two");
    socket.emit("news", "three").unwrap();
    world.settle();
    // Sent, and lost with the connection.
    ann.client.hears();
    ann.is_cut(&mut world);
    said(&world, "a", "four");
    socket.emit("news", "five").unwrap();
    let emit = |world: &mut World, id: &str, text: &str| {
        let (gateway, id, data) = (world.gateway.clone(), id.to_owned(), format!("{text:?}"));
        let asked =
            world.begin(async move { gateway.emit(&id, "news", &data, None).await.unwrap() });
        while !asked.is_finished() {
            world.settle();
        }
        world.runtime.block_on(asked).unwrap().is_ok()
    };
    let sid = ann.sid.clone();
    assert!(emit(&mut world, &sid, "six"));
    ann.return_to(&mut world);
    assert!(ann.recovered);
    let told = ["one", "two", "three", "four", "five", "six"];
    assert_eq!(ann.got(), told.map(|text| format!(r#"["news","{text}"]"#)));
    // The handle that it had before leads to where it is now.
    socket.emit("news", "seven").unwrap();
    assert!(emit(&mut world, &sid, "eight"));
    world.settle();
    ann.hear(9);
    assert_eq!(ann.got(), [r#"["news","seven"]"#, r#"["news","eight"]"#]);
    // Who is gone for good hears nothing, and nothing waits for them.
    ann.asks(&mut world, "41");
    socket.emit("news", "nine").unwrap();
    assert!(!emit(&mut world, &sid, "ten"));
    ann.return_to(&mut world);
    assert!(!ann.recovered && ann.got().is_empty());
    let recovery = world.gateway.shared.fanout.recovery.as_ref().unwrap();
    assert!(recovery.direct.is_empty());
}

#[test]
fn what_has_come_is_not_kept_any_longer() {
    let mut config = kept();
    config.heartbeat.interval = PING;
    let handles = Handles::default();
    let mut world = World::with(config, |builder| handles.filled_by(builder));
    let mut ann = Tracking::new(&mut world, "user=ann");
    let kept = |world: &World| world.metric("heartline_kept_bytes");
    // Answers are not kept at all.
    ann.asks(&mut world, r#"42["join","a"]"#);
    ann.asks(&mut world, r#"42["ping"]"#);
    assert_eq!(kept(&world), 0);
    handles.find(&ann.sid, true).emit("news", "one").unwrap();
    world.settle();
    assert!(kept(&world) > 0);
    world.run(PING + ms(20));
    assert!(kept(&world) > 0);
    // The event has come, and the ping after it, and is answered.
    ann.hear(9);
    world.settle();
    assert_eq!(kept(&world), 0);
    ann.is_cut(&mut world);
    ann.return_to(&mut world);
    assert!(ann.recovered);
}

#[test]
fn what_is_said_to_one_live_socket_comes_over_a_cut() {
    let handles = Handles::default();
    let mut world = World::with(live_config(), |builder| handles.filled_by(builder));
    let mut ann = world.open(Opening::plain());
    let hello = asked(&mut world, &mut ann, &auth("user=ann"));
    let id = hello[0]["socketId"].as_str().unwrap();
    let socket = handles.find(id, true);
    socket.emit("news", "one").unwrap();
    world.settle();
    let heard = frames(&mut ann);
    assert_eq!(heard[0]["data"], "one");
    socket.emit("news", "two").unwrap();
    world.settle();
    ann.0.end();
    world.settle();
    socket.emit("news", "three").unwrap();
    let mut again = world.open(Opening::plain());
    let frame = serde_json::json!({
        "type": "auth", "token": "user=ann", "resume": hello[0]["resume"],
        "place": heard[0]["place"], "topics": {},
    });
    let told = asked(&mut world, &mut again, &frame);
    assert_eq!(told[0]["recovered"], true);
    let data: Vec<_> = told
        .iter()
        .filter(|frame| frame["type"] == "news")
        .collect();
    assert_eq!(data.len(), 2, "{told:?}");
    assert_eq!(
        (&data[0]["data"], &data[1]["data"]),
        (&"two".into(), &"three".into())
    );
}

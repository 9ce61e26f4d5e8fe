//! What sockets hear of publications that were lost on their way from other nodes.

use heartline_core::backplane::Missed;

use super::*;

fn missed(world: &mut World, whose: Missed<'_>) {
    world.gateway.shared.fanout.missed(whose);
    world.settle();
}

const ROOM: Missed<'_> = Missed::Room {
    namespace: "/",
    tenant: None,
    room: "a",
};

#[test]
fn members_of_a_room_are_told_of_a_gap_and_go_on_in_a_new_epoch() {
    let mut world = World::new(config());
    let mut ann = world.socketio("user=ann");
    let mut bob = world.live("user=bob");
    let mut eve = world.live("user=eve");
    world.ask(&mut ann, r#"421["join","a"]"#);
    let subscribed = world.ask(&mut bob, r#"{"type":"subscribe","topic":"a"}"#);
    let epoch = |frame: &str| {
        let (_, rest) = frame.split_once(r#""epoch":""#).unwrap();
        rest.split('"').next().unwrap().to_owned()
    };
    let say = r#"{"type":"publish","topic":"a","event":"e","data":1}"#;
    world.ask(&mut bob, say);
    ann.hears();
    missed(&mut world, ROOM);
    assert_eq!(ann.hears(), [r#"42["room:gap",{"room":"a"}]"#]);
    let heard = bob.hears();
    let [gap] = &heard[..] else {
        panic!("{heard:?}");
    };
    assert!(gap.starts_with(r#"{"type":"gap","topic":"a","#), "{gap}");
    assert!(gap.ends_with(r#""offset":1}"#), "{gap}");
    assert_ne!(epoch(gap), epoch(&subscribed[0]));
    let again = world.ask(&mut eve, r#"{"type":"subscribe","topic":"a"}"#);
    assert_eq!(epoch(&again[0]), epoch(gap));
    let heard = world.ask(&mut bob, say);
    assert!(
        heard.iter().any(|frame| frame.contains(r#""offset":2"#)),
        "{heard:?}"
    );
    ann.hears();
    eve.hears();
    // A user's own room has no members: its sockets are told.
    let user = Missed::User {
        tenant: None,
        user: "ann",
    };
    missed(&mut world, user);
    assert_eq!(ann.hears(), [r#"42["room:gap",{"room":"user:ann"}]"#]);
    assert!(bob.hears().is_empty());
    missed(&mut world, Missed::Anybody);
    assert_eq!((ann.hears().len(), bob.hears().len()), (2, 2));
}

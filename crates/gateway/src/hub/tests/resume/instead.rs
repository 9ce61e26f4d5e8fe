//! What is told instead of a room's events takes no place from those who are in the room.

use super::*;

/// Ann is in three conversations, and comes back after so many messages in each of them.
fn comes_back_after(count: usize) -> (Vec<String>, bool) {
    let mut config = kept();
    config.recovery.events = 16;
    let mut world = World::new(config);
    let mut ann = Tracking::new(&mut world, "user=ann rooms=conversation:*");
    let mut bob = world.socketio("user=bob rooms=conversation:*");
    for id in 0..3 {
        ann.asks(&mut world, &format!(r#"42["join","conversation:{id}"]"#));
        bob.says(&format!(r#"42["join","conversation:{id}"]"#));
        world.settle();
    }
    ann.hear(99);
    ann.got();
    ann.is_cut(&mut world);
    for text in 0..count {
        for id in 0..3 {
            let data = format!(r#"{{"conversationId":"{id}","content":"{text}"}}"#);
            bob.says(&format!(r#"42["message:send",{data}]"#));
            world.settle();
        }
    }
    ann.return_to(&mut world);
    world.settle();
    ann.hear(99);
    let got = ann.got();
    (got, ann.recovered)
}

#[test]
fn who_is_in_the_rooms_is_told_of_all_that_each_of_them_keeps() {
    let (got, recovered) = comes_back_after(15);
    assert!(recovered);
    let new = got.iter().filter(|one| one.contains("message:new"));
    assert_eq!((new.count(), got.len()), (45, 45), "{got:?}");
    assert!(!comes_back_after(17).1);
}

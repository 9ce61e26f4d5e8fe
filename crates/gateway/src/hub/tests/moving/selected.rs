//! Sockets that are put into rooms by where they are, as Socket.IO servers on Node do: nobody waits
//! until that is done.

use heartline_core::backplane::Action;
use heartline_core::backplane::line::Scope;

use super::super::resume::{Tracking, said};
use super::line::{Coming, bring};
use super::{Cluster, come};

#[test]
fn who_is_put_into_a_room_that_is_new_here_hears_what_is_said_elsewhere() {
    let mut cluster = Cluster::new();
    let mut devices = ["phone", "laptop"].map(|device| {
        let token = format!("user=ann device={device}");
        let mut ann = Tracking::lost(cluster.worlds[0].engineio(), &token);
        come(&mut cluster, &mut ann, 0);
        ann.got();
        ann
    });
    let fanout = cluster.worlds[0].gateway.shared.fanout.clone();
    let rooms = vec!["k".to_owned(), "l".to_owned()];
    fanout.select("/", &["user:ann".to_owned()], &[], Action::Join(rooms));
    cluster.worlds[0].settle();
    // Each room is asked about once, however many are put there.
    let (node, items) = cluster.meeting.lock().unwrap().take(0);
    let is_asked = |item: &&Coming| matches!(item, Coming::End(Scope::Room { .. }, ..));
    assert_eq!(items.iter().filter(is_asked).count(), 2);
    let inside = cluster.worlds[0].runtime.enter();
    for item in items {
        bring(&cluster.meeting, 0, &*node, item);
    }
    drop(inside);
    cluster.settle();
    for (room, text) in [("k", "1"), ("l", "2"), ("k", "3")] {
        said(&cluster.worlds[1], room, text);
    }
    cluster.settle();
    for ann in &mut devices {
        ann.hear(usize::MAX);
        let all = ann.got();
        assert!(!all.iter().any(|one| one.contains("gap")), "{all:?}");
        let heard: Vec<&str> = all.iter().map(|one| &**one).collect();
        assert_eq!(
            heard,
            [r#"["news","1"]"#, r#"["news","2"]"#, r#"["news","3"]"#]
        );
    }
}

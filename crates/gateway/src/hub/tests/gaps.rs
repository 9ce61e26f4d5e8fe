//! What sockets hear of publications that were lost on their way from other nodes.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use heartline_core::auth::{BoxFuture, UserKey};
use heartline_core::backplane::local::LocalBackplane;
use heartline_core::backplane::{Backplane, Missed, Node};
use heartline_core::entries::UserPresence;
use heartline_core::presence::{
    Admitted, DeviceLimitReached, Newcomer, Presence, RoomAddress, SocketAddress,
};
use heartline_core::time::Moment;
use heartline_wire::time::Micros;

use super::*;

/// A node alone, to which a test says what others would.
struct Told(LocalBackplane, Arc<OnceLock<Arc<dyn Node>>>);

impl Backplane for Told {
    fn attach(&self, node: Arc<dyn Node>) {
        self.0.attach(node.clone());
        let _ = self.1.set(node);
    }
    fn connect(&self, newcomer: Newcomer) -> BoxFuture<Result<Admitted, DeviceLimitReached>> {
        self.0.connect(newcomer)
    }
    fn disconnect(&self, user: &Arc<UserKey>, socket: SocketAddress, keep: Duration) {
        self.0.disconnect(user, socket, keep);
    }
    fn enter_room(&self, _: &Arc<UserKey>, _: SocketAddress, _: RoomAddress) {}
    fn leave_room(&self, _: &Arc<UserKey>, _: SocketAddress, _: &RoomAddress) {}
    fn presence(&self, _: Option<Arc<str>>, _: Vec<String>) -> BoxFuture<Vec<UserPresence>> {
        Box::pin(std::future::ready(Vec::new()))
    }
    fn local(&self) -> &Presence {
        self.0.local()
    }
}

#[test]
fn members_of_a_room_are_told_of_a_gap_and_go_on_in_a_new_epoch() {
    let node = Arc::new(OnceLock::new());
    let now = || Moment {
        at: Micros::ZERO,
        unix_millis: 0,
    };
    let local = LocalBackplane::new(Duration::ZERO, Box::new(now));
    let told = Told(local, node.clone());
    let mut world = World::with(config(), |builder| builder.backplane(told));
    let node = node.get().unwrap().clone();
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
    node.missed(Missed::Room {
        namespace: "/",
        tenant: None,
        room: "a",
    });
    world.settle();
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
    node.missed(Missed::User {
        tenant: None,
        user: "ann",
    });
    world.settle();
    assert_eq!(ann.hears(), [r#"42["room:gap",{"room":"user:ann"}]"#]);
    assert!(bob.hears().is_empty());
    node.missed(Missed::Anybody);
    world.settle();
    assert_eq!((ann.hears().len(), bob.hears().len()), (2, 2));
}

//! Members of a conversation who are not in its room, and miss what is told instead of its events.

use heartline_core::backplane::local::LocalBackplane;
use heartline_core::backplane::{Backplane, Message, Node};
use heartline_core::entries::UserPresence;
use heartline_core::line::session::Session as Parked;
use heartline_core::line::shelf::ScopeRef;
use heartline_core::namespaces::NamespaceId;
use heartline_core::presence::{
    Admitted, DeviceLimitReached, Newcomer, Presence, RoomAddress, SocketAddress,
};
use heartline_core::time::Moment;

use super::*;

fn user(id: &str) -> Arc<UserKey> {
    Arc::new(UserKey {
        tenant_id: None,
        user_id: id.into(),
        user_type: None,
    })
}

/// A backend makes Ann a member of the conversation.
fn invites_ann(world: &mut World) {
    let gateway = world.gateway.clone();
    let added = world.finish(async move { gateway.add_members("1", &[user("ann")]).await });
    assert!(added.iter().all(Result::is_ok));
}

/// And not any more.
fn removes_ann(world: &mut World) {
    let gateway = world.gateway.clone();
    let removed = world.finish(async move { gateway.remove_member("1", &user("ann")).await });
    assert!(removed.unwrap());
}

fn writes(world: &mut World, bob: &mut Client, text: &str) {
    let data = format!(r#"{{"conversationId":"1","content":"{text}"}}"#);
    bob.says(&format!(r#"42["message:send",{data}]"#));
    world.settle();
}

/// The messages of which Ann was told as a member who is elsewhere.
fn notified(ann: &mut Tracking) -> Vec<String> {
    ann.hear(99);
    let got = ann.got().into_iter();
    let told = got.filter_map(|event| {
        let event: serde_json::Value = serde_json::from_str(&event).unwrap();
        let content = event[1]["message"]["content"].as_str()?.to_owned();
        (event[0] == "message:notification").then_some(content)
    });
    told.collect()
}

#[test]
fn who_was_invited_is_told_however_long_it_is_since_the_store_was_asked() {
    for after in ["rooms=lobby", "rooms=conversation:*"] {
        for away in [1, 31] {
            let mut world = World::new(kept());
            let mut bob = world.socketio("user=bob rooms=conversation:*");
            invites_ann(&mut world);
            let mut ann = Tracking::new(&mut world, "user=ann rooms=lobby");
            ann.is_cut(&mut world);
            writes(&mut world, &mut bob, "one");
            world.run(seconds(away));
            ann.token = format!("user=ann {after}");
            ann.return_to(&mut world);
            assert!(ann.recovered, "{after} {away}");
            assert_eq!(notified(&mut ann), ["one"]);
        }
    }
}

#[test]
fn a_conversation_that_is_not_open_to_it_any_more_is_not_told_of() {
    let cases = [
        // As who has joined, with a token that opens other rooms alone.
        ("rooms=conversation:*", "rooms=lobby", false),
        // Whose membership has ended.
        ("", "", true),
        ("rooms=lobby", "rooms=lobby", true),
    ];
    for (before, after, is_removed) in cases {
        let mut world = World::new(kept());
        let mut bob = world.socketio("user=bob rooms=conversation:*");
        let mut ann = Tracking::new(&mut world, &format!("user=ann {before}"));
        if is_removed {
            invites_ann(&mut world);
        } else {
            ann.asks(&mut world, r#"42["join","conversation:1"]"#);
            ann.asks(&mut world, r#"42["leave","conversation:1"]"#);
        }
        // There it is told.
        writes(&mut world, &mut bob, "one");
        assert_eq!(notified(&mut ann), ["one"], "{before}");
        ann.is_cut(&mut world);
        writes(&mut world, &mut bob, "two");
        if is_removed {
            removes_ann(&mut world);
        }
        ann.token = format!("user=ann {after}");
        ann.return_to(&mut world);
        assert!(ann.recovered, "{before}");
        assert_eq!(notified(&mut ann), [""; 0], "{before}");
        writes(&mut world, &mut bob, "three");
        assert_eq!(notified(&mut ann), [""; 0], "{before}");
    }
}

type Then = Arc<Mutex<Option<Box<dyn FnOnce() + Send>>>>;

/// A backplane of a node alone, before whose first answer about who is here something happens.
struct Before(LocalBackplane, Then);

impl Backplane for Before {
    fn attach(&self, node: Arc<dyn Node>) {
        self.0.attach(node);
    }

    fn connect(&self, newcomer: Newcomer) -> BoxFuture<Result<Admitted, DeviceLimitReached>> {
        self.0.connect(newcomer)
    }

    fn disconnect(&self, user: &Arc<UserKey>, socket: SocketAddress, keep: Duration) {
        self.0.disconnect(user, socket, keep);
    }

    fn enter_room(&self, user: &Arc<UserKey>, socket: SocketAddress, place: RoomAddress) {
        self.0.enter_room(user, socket, place);
    }

    fn leave_room(&self, user: &Arc<UserKey>, socket: SocketAddress, place: &RoomAddress) {
        self.0.leave_room(user, socket, place);
    }

    fn presence(
        &self,
        tenant: Option<Arc<str>>,
        users: Vec<String>,
    ) -> BoxFuture<Vec<UserPresence>> {
        self.0.presence(tenant, users)
    }

    fn local(&self) -> &Presence {
        let then = self.1.lock().unwrap().take();
        if let Some(then) = then {
            then();
        }
        self.0.local()
    }
}

#[test]
fn who_is_lost_while_it_is_looked_for_them_is_told_when_they_are_back() {
    let clock = Clock::start();
    let now = move || Moment {
        at: clock.now(),
        unix_millis: clock.unix_millis(clock.now()),
    };
    let then = Then::default();
    let local = LocalBackplane::new(Duration::ZERO, Box::new(now));
    let backplane = Before(local, then.clone());
    let mut world = World::with(kept(), |builder| builder.backplane(backplane));
    let ann = Tracking::new(&mut world, "user=ann rooms=conversation:*");
    let fanout = world.gateway.shared.fanout.clone();
    let (name, who) = (SocketAddress::parse(&ann.sid).unwrap(), user("ann"));
    let session = Parked {
        name,
        places: vec![(name, 0)],
        identity: Arc::new(Identity {
            user: Some(who.clone()),
            ..Identity::default()
        }),
        rooms: Vec::new(),
        taken: Vec::new(),
        left: 0,
        end: 0,
        lost_at: world.now(),
        seen: None,
        data: None,
    };
    // What its shard does when the connection ends.
    let (node, gone) = (fanout.clone(), who.clone());
    *then.lock().unwrap() = Some(Box::new(move || {
        let recovery = node.recovery.as_ref().unwrap();
        recovery.park(session);
        node.backplane.disconnect(&gone, name, Duration::ZERO);
    }));
    let place = (None, "conversation:1");
    let (users, message) = ([who], Message::new("message:notification", "{}"));
    let all = [NamespaceId::ROOT];
    let told = fanout.send_instead_of_room(&all, place, &users, message);
    world.runtime.block_on(told);
    let of_ann = ScopeRef {
        namespace: NamespaceId::ROOT,
        tenant: None,
        user: Some("ann"),
    };
    let recovery = fanout.recovery.as_ref().unwrap();
    let ring = recovery.shelf.find(of_ann);
    assert!(ring.is_some_and(|ring| !ring.lock().unwrap().is_empty()));
}

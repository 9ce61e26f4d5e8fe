//! On a node of many: until when changes have come, what is in doubt, and what the other nodes
//! say of rooms.

use std::sync::atomic::Ordering;

use heartline_core::backplane::local::LocalBackplane;
use heartline_core::backplane::{Backplane, Message, Node, Target};
use heartline_core::entries::{Standing, TypePresence, UserPresence};
use heartline_core::presence::watch::{Board, Note};
use heartline_core::presence::{
    Admitted, DeviceLimitReached, Newcomer, Presence, RoomAddress, SocketAddress,
};
use heartline_core::time::Moment;

use super::*;

/// What a node of many knows of users elsewhere.
#[derive(Clone, Default)]
struct Elsewhere {
    is_trusted: bool,
    /// Which knowledge that is.
    life: u64,
    heard_until: Option<u64>,
    /// What is said of whoever is asked about, and since when they were offline.
    rev: u64,
    /// The other nodes, if it is known which there are.
    nodes: Option<Vec<u32>>,
    node: Option<Arc<dyn Node>>,
    /// What this one has said to them.
    said: Vec<String>,
    /// Of whom it does not know for certain.
    doubtful: Vec<String>,
    /// About whom it was asked.
    asked: Vec<String>,
}

/// Another node answers what was said to it: these are in a room there.
fn answer_from_elsewhere(elsewhere: &Mutex<Elsewhere>, users: &[Arc<str>]) {
    let now = Micros::ZERO + seconds(9);
    let mut other = Board::new(2, 1);
    let Elsewhere { said, node, .. } = elsewhere.lock().unwrap().clone();
    for said in said {
        let (from, note): (u32, Note) = serde_json::from_str(&said).unwrap();
        if let Some(scope) = other.noted(from, note, now) {
            other.seed_here(&scope, 0, users.to_vec());
        }
    }
    for note in other.notes(now) {
        let message = Message::new("presence:watched", &json!([2, note]).to_string());
        node.as_ref().unwrap().deliver(&Target::Nodes, message);
    }
}

struct OneOfMany {
    local: LocalBackplane,
    elsewhere: Arc<Mutex<Elsewhere>>,
}

impl OneOfMany {
    fn elsewhere(&self) -> Elsewhere {
        self.elsewhere.lock().unwrap().clone()
    }

    /// A world with one, and what it knows.
    fn world(knows: Elsewhere) -> (World, Arc<Mutex<Elsewhere>>) {
        OneOfMany::app(knows, |builder| builder)
    }

    /// The same for an app.
    fn app(
        knows: Elsewhere,
        app: impl FnOnce(GatewayBuilder) -> GatewayBuilder,
    ) -> (World, Arc<Mutex<Elsewhere>>) {
        let now = || Moment {
            at: Micros::ZERO,
            unix_millis: 1_700_000_000_000,
        };
        let elsewhere = Arc::new(Mutex::new(knows));
        let backplane = OneOfMany {
            local: LocalBackplane::new(Duration::ZERO, Box::new(now)),
            elsewhere: elsewhere.clone(),
        };
        let world = World::with(config(), |builder| app(builder.backplane(backplane)));
        (world, elsewhere)
    }
}

impl Backplane for OneOfMany {
    fn attach(&self, node: Arc<dyn Node>) {
        self.elsewhere.lock().unwrap().node = Some(node.clone());
        self.local.attach(node);
    }
    fn tag(&self) -> Option<u32> {
        Some(1)
    }
    fn others(&self) -> BoxFuture<Option<(Vec<u32>, Duration)>> {
        let nodes = self.elsewhere().nodes;
        Box::pin(std::future::ready(
            nodes.map(|nodes| (nodes, Duration::ZERO)),
        ))
    }
    fn publish(&self, target: &Target<'_>, message: &Message) {
        if let Target::Nodes = target {
            let mut elsewhere = self.elsewhere.lock().unwrap();
            elsewhere.said.push(message.args.to_string());
        }
    }
    fn connect(&self, newcomer: Newcomer) -> BoxFuture<Result<Admitted, DeviceLimitReached>> {
        self.local.connect(newcomer)
    }
    fn disconnect(&self, user: &Arc<UserKey>, socket: SocketAddress, keep: Duration) {
        self.local.disconnect(user, socket, keep);
    }
    fn enter_room(&self, _: &Arc<UserKey>, _: SocketAddress, _: RoomAddress) {}
    fn leave_room(&self, _: &Arc<UserKey>, _: SocketAddress, _: &RoomAddress) {}
    fn presence(&self, _: Option<Arc<str>>, users: Vec<String>) -> BoxFuture<Vec<UserPresence>> {
        let Elsewhere {
            is_trusted,
            rev,
            doubtful,
            ..
        } = self.elsewhere();
        let mut elsewhere = self.elsewhere.lock().unwrap();
        elsewhere.asked.extend(users.iter().cloned());
        let found = users.into_iter().map(|user_id| UserPresence {
            stale: !is_trusted || doubtful.contains(&user_id),
            user_id,
            online: false,
            devices: 0,
            last_seen_at: None,
            rev,
            types: vec![TypePresence {
                user_type: None,
                online: false,
                rev,
                ..TypePresence::default()
            }],
        });
        Box::pin(std::future::ready(found.collect()))
    }
    fn is_trusted(&self) -> bool {
        self.elsewhere().is_trusted
    }
    fn standing(&self) -> Option<Standing> {
        let Elsewhere {
            is_trusted, life, ..
        } = self.elsewhere();
        is_trusted.then_some(Standing([life, 0, 0]))
    }
    fn heard_until(&self) -> Option<u64> {
        self.elsewhere().heard_until
    }
    fn local(&self) -> &Presence {
        self.local.local()
    }
}

#[test]
fn a_picture_in_doubt_is_what_is_known_at_its_place_and_changes_go_on_from_there() {
    let (mut world, elsewhere) = OneOfMany::world(Elsewhere {
        rev: u64::MAX / 4,
        ..Elsewhere::default()
    });
    let mut ann = Watcher::new(&mut world, "user=ann", true);
    let _bob = world.live("user=bob");
    let picture = ann.ask(&mut world, "presence:watch", json!({ "users": ["bob"] }));
    // A socket of theirs is here, but no change has said so: one that is told next would be
    // none for whoever was told otherwise.
    assert_eq!(picture["stale"], true);
    assert_eq!(states(&picture), [("bob".into(), false)]);
    assert!(ann.changes(&mut world).is_empty());
    elsewhere.lock().unwrap().is_trusted = true;
    world.run(seconds(1));
    let changes = ann.changes(&mut world);
    assert_eq!(changes.len(), 1, "{changes:?}");
    assert_eq!(
        (&changes[0]["rev"], changes[0].get("stale")),
        (&json!(1), None)
    );
    assert_eq!(changes[0]["users"], json!([]), "nothing else is different");
}

#[test]
fn a_room_is_complete_when_the_nodes_that_were_unknown_at_first_have_said_who_is_in_it() {
    // A node that was started while nobody could be asked.
    let (mut world, elsewhere) = OneOfMany::world(Elsewhere::default());
    let mut ann = Watcher::new(&mut world, "user=ann rooms=a", true);
    let picture = ann.ask(&mut world, "presence:watch", json!({ "room": "a" }));
    assert_eq!(
        (&picture["stale"], &picture["users"]),
        (&json!(true), &json!([]))
    );
    {
        let mut elsewhere = elsewhere.lock().unwrap();
        elsewhere.said.clear();
        elsewhere.is_trusted = true;
    }
    world.run(seconds(1));
    let whole = |changes: &[Value]| changes.iter().any(|change| change.get("stale").is_none());
    assert!(
        !whole(&ann.changes(&mut world)),
        "nobody knows who else there is"
    );
    elsewhere.lock().unwrap().nodes = Some(vec![2]);
    world.run(seconds(1));
    assert!(
        !whole(&ann.changes(&mut world)),
        "the other node has not answered"
    );
    // It does.
    answer_from_elsewhere(&elsewhere, &["bob".into()]);
    let changes = ann.changes(&mut world);
    assert_eq!(states(changes.last().unwrap()), [("bob".into(), false)]);
    assert!(
        changes.last().unwrap().get("stale").is_none(),
        "{changes:?}"
    );
}

#[test]
fn a_room_stands_at_what_is_certain_as_long_as_a_node_does_not_say_who_is_in_it_there() {
    for is_live in [false, true] {
        let (mut world, elsewhere) = OneOfMany::world(Elsewhere {
            is_trusted: true,
            nodes: Some(vec![2]),
            ..Elsewhere::default()
        });
        let mut ann = Watcher::new(&mut world, "user=ann rooms=a", is_live);
        let watch = json!({ "room": "a" });
        let asked = world.unix_millis();
        let text = emit(is_live, "presence:watch", &watch);
        ann.client.says(&text);
        // The other node is waited for.
        world.run(seconds(3));
        let heard = ann.client.hears();
        let picture = heard.iter().rev().find_map(|text| told(text)).unwrap();
        let as_of = |of: &Value| of["asOf"].as_u64().unwrap();
        let certain = as_of(&picture);
        assert_eq!(picture["stale"], true);
        assert!(certain >= asked && certain < asked + 3_000, "{picture}");
        world.run(seconds(10));
        let mut bob = world.live("user=bob rooms=a");
        bob.says(r#"{"type":"subscribe","topic":"a"}"#);
        world.run(seconds(1));
        let changes = ann.changes(&mut world);
        assert!(!changes.is_empty());
        for change in &changes {
            let said = (as_of(change), &change["stale"]);
            assert_eq!(said, (certain, &json!(true)), "{change}");
        }
        // So does a picture that is asked for now.
        let mut eve = Watcher::new(&mut world, "user=eve rooms=a", is_live);
        let picture = eve.ask(&mut world, "presence:watch", watch);
        assert_eq!(
            (as_of(&picture), &picture["stale"]),
            (certain, &json!(true))
        );
        answer_from_elsewhere(&elsewhere, &["cid".into()]);
        let last = ann.changes(&mut world).pop().unwrap();
        assert!(last.get("stale").is_none() && as_of(&last) >= certain + 10_000);
    }
}

#[test]
fn what_another_node_says_of_rooms_and_nobody_can_read_is_lost_and_asked_for_again() {
    let (mut world, elsewhere) = OneOfMany::world(Elsewhere {
        is_trusted: true,
        ..Elsewhere::default()
    });
    let mut ann = Watcher::new(&mut world, "user=ann rooms=a", true);
    let picture = ann.ask(&mut world, "presence:watch", json!({ "room": "a" }));
    assert_eq!(picture["stale"], true, "nobody knows who else there is");
    elsewhere.lock().unwrap().nodes = Some(vec![2]);
    world.run(seconds(1));
    let node = elsewhere.lock().unwrap().node.clone().unwrap();
    let hears = |note: Value| {
        let message = Message::new("presence:watched", &json!([2, note]).to_string());
        node.deliver(&Target::Nodes, message);
    };
    let place = json!({ "tenant": null, "namespace": "/", "room": "a" });
    hears(json!({ "Roster": {
        "room": place, "number": 1, "is_all": true, "entered": [], "left": []
    } }));
    world.run(seconds(1));
    let last = ann.changes(&mut world).pop().unwrap();
    assert_eq!(last.get("stale"), None, "{last}");
    elsewhere.lock().unwrap().said.clear();
    let asked = || {
        let said = std::mem::take(&mut elsewhere.lock().unwrap().said);
        let asked = said.iter().filter(|said| said.contains(r#""Wanted""#));
        asked.filter(|said| said.contains(r#""all":true"#)).count()
    };
    for _ in 0..9 {
        hears(json!({ "Unheard of": 7 }));
    }
    world.run(Duration::from_millis(500));
    assert_eq!(asked(), 1, "not for each of them");
    let last = ann.changes(&mut world).pop().unwrap();
    assert_eq!(last["stale"], true, "{last}");
    let unread = &world.gateway.shared.fanout.unread;
    assert_eq!(unread.notes.load(Ordering::Relaxed), 9);
}

#[test]
fn a_picture_says_until_when_changes_have_come() {
    let (mut world, elsewhere) = OneOfMany::world(Elsewhere {
        is_trusted: true,
        ..Elsewhere::default()
    });
    let heard = |world: &World, ago: u64| {
        let until = world.unix_millis() - ago;
        elsewhere.lock().unwrap().heard_until = Some(until);
        until
    };
    let mut ann = Watcher::new(&mut world, "user=ann", true);
    let mut eve = Watcher::new(&mut world, "user=eve", true);
    let until = heard(&world, 900);
    let watch = json!({ "users": ["bob"] });
    let as_of = |picture: &Value| picture["asOf"].as_u64().unwrap();
    let first = ann.ask(&mut world, "presence:watch", watch.clone());
    assert_eq!(as_of(&first), until);
    world.run(seconds(10));
    let until = heard(&world, 700);
    let picture = eve.ask(&mut world, "presence:watch", watch);
    assert_eq!(as_of(&picture), until);
    let until = heard(&world, 600);
    let edge = edge_of("bob", true, 7, until);
    world.gateway.shared.watches.heard(&[edge]);
    let changes = ann.changes(&mut world);
    assert_eq!(as_of(&changes[0]), until);
}

#[test]
fn questions_and_pictures_say_the_same_time_and_it_does_not_go_back() {
    let begun = 1_700_000_000_000;
    let (mut world, elsewhere) = OneOfMany::world(Elsewhere {
        is_trusted: true,
        heard_until: Some(begun),
        ..Elsewhere::default()
    });
    let mut ann = Watcher::new(&mut world, "user=ann", true);
    let ask = |ann: &mut Watcher, world: &mut World, event: &str, user: &str| {
        let answer = ann.ask(world, event, json!({ "users": [user] }));
        answer["asOf"].as_u64().unwrap()
    };
    let get = |ann: &mut Watcher, world: &mut World| ask(ann, world, "presence:get", "bob");
    world.run(seconds(2));
    let heard = world.unix_millis() - 300;
    elsewhere.lock().unwrap().heard_until = Some(heard);
    assert_eq!(get(&mut ann, &mut world), heard);
    assert_eq!(ask(&mut ann, &mut world, "presence:watch", "bob"), heard);
    // The store is away, which is noticed after a while: nothing more is heard.
    world.run(seconds(1));
    elsewhere.lock().unwrap().is_trusted = false;
    world.run(seconds(1));
    assert_eq!(get(&mut ann, &mut world), heard);
    for user in ["bob", "cid"] {
        let watched = ask(&mut ann, &mut world, "presence:watch", user);
        assert_eq!(watched, heard, "{user}");
    }
    world.run(seconds(1));
    elsewhere.lock().unwrap().heard_until = Some(heard - 100);
    assert_eq!(get(&mut ann, &mut world), heard);
    let until = world.unix_millis() - 100;
    let mut knows = elsewhere.lock().unwrap();
    (knows.is_trusted, knows.heard_until) = (true, Some(until));
    drop(knows);
    world.run(seconds(1));
    assert_eq!(get(&mut ann, &mut world), until);
}

#[test]
fn an_answer_of_what_was_so_more_than_five_seconds_ago_is_stale_whatever_is_believed_of_it() {
    let (mut world, elsewhere) = OneOfMany::world(Elsewhere {
        is_trusted: true,
        rev: 7,
        ..Elsewhere::default()
    });
    let mut ann = Watcher::new(&mut world, "user=ann", true);
    let mut ask = |world: &mut World| {
        let answer = ann.ask(world, "presence:get", json!({ "users": ["bob"] }));
        let as_of = answer["asOf"].as_u64().unwrap();
        (as_of, answer["users"][0].get("stale").is_some())
    };
    for (ago, is_stale) in [(6_000, true), (4_500, false)] {
        let until = world.unix_millis() - ago;
        elsewhere.lock().unwrap().heard_until = Some(until);
        assert_eq!(ask(&mut world), (until, is_stale));
    }
    // The store stands still, and answers again: as long as the time stands at what was known
    // before, as pictures are still compared, so is the answer.
    let until = world.unix_millis() - 100;
    elsewhere.lock().unwrap().heard_until = Some(until);
    assert_eq!(ask(&mut world), (until, false));
    elsewhere.lock().unwrap().is_trusted = false;
    world.run(seconds(8));
    assert_eq!(ask(&mut world), (until, true));
    let now = world.unix_millis();
    {
        let mut knows = elsewhere.lock().unwrap();
        (knows.is_trusted, knows.life, knows.heard_until) = (true, 1, Some(now));
    }
    assert_eq!(ask(&mut world), (until, true));
    world.run(seconds(2));
    let until = world.unix_millis();
    elsewhere.lock().unwrap().heard_until = Some(until);
    assert_eq!(ask(&mut world), (until, false));
}

#[test]
fn a_room_of_too_many_costs_other_nodes_one_answer_however_often_it_is_asked_for() {
    let (mut world, elsewhere) = OneOfMany::world(Elsewhere {
        is_trusted: true,
        nodes: Some(vec![2]),
        ..Elsewhere::default()
    });
    let mut ann = Watcher::new(&mut world, "user=ann rooms=a", true);
    let watch = json!({ "room": "a" });
    ann.client.says(&emit(true, "presence:watch", &watch));
    world.run(ms(20));
    let many: Vec<Arc<str>> = (0..=1_000).map(|id| id.to_string().into()).collect();
    answer_from_elsewhere(&elsewhere, &many);
    world.run(ms(20));
    let refused = ann.client.hears().concat();
    assert!(refused.contains("TOO_LARGE"), "{refused}");
    let wanted = || {
        let mut elsewhere = elsewhere.lock().unwrap();
        assert_eq!(elsewhere.asked, [""; 0], "they are too many to ask about");
        let said = std::mem::take(&mut elsewhere.said);
        said.iter().filter(|note| note.contains("Wanted")).count()
    };
    assert_eq!(wanted(), 1);
    for _ in 0..5 {
        let again = ann.ask(&mut world, "presence:watch", watch.clone());
        assert_eq!(again["code"], "TOO_LARGE");
        world.run(seconds(1));
    }
    assert_eq!(wanted(), 0);
    // Some seconds later it may be another matter.
    world.run(seconds(10));
    ann.client.says(&emit(true, "presence:watch", &watch));
    world.run(ms(20));
    answer_from_elsewhere(&elsewhere, &["bob".into()]);
    world.run(ms(20));
    let heard = ann.client.hears().concat();
    assert!(heard.contains(r#""userId":"bob""#), "{heard}");
}

#[test]
fn one_user_in_doubt_makes_pictures_with_them_stale_and_no_others() {
    let (mut world, elsewhere) = OneOfMany::world(Elsewhere {
        is_trusted: true,
        doubtful: vec!["bob".into()],
        ..Elsewhere::default()
    });
    let mut ann = Watcher::new(&mut world, "user=ann", true);
    let mut eve = Watcher::new(&mut world, "user=eve", true);
    let cid = eve.ask(&mut world, "presence:watch", json!({ "users": ["cid"] }));
    assert_eq!(cid.get("stale"), None);
    let bob = ann.ask(&mut world, "presence:watch", json!({ "users": ["bob"] }));
    assert_eq!(bob["stale"], true);
    world.run(seconds(2));
    assert!(ann.changes(&mut world).is_empty());
    elsewhere.lock().unwrap().doubtful.clear();
    let changes = ann.changes(&mut world);
    world.run(ms(200));
    let changes = [changes, ann.changes(&mut world)].concat();
    assert_eq!(changes.len(), 1, "{changes:?}");
    assert_eq!(changes[0].get("stale"), None);
    let heard = eve.changes(&mut world);
    assert!(heard.is_empty(), "{heard:?}");
    let asked = elsewhere.lock().unwrap().asked.clone();
    let about = |user: &str| asked.iter().filter(|of| *of == user).count();
    // For the picture, and once by the audit.
    assert!(about("cid") <= 2, "{asked:?}");
    assert!((5..16).contains(&about("bob")), "{asked:?}");
}

#[test]
fn nobody_is_asked_about_again_because_changes_did_not_come_for_a_while() {
    let (mut world, elsewhere) = OneOfMany::world(Elsewhere {
        is_trusted: true,
        ..Elsewhere::default()
    });
    let mut ann = Watcher::new(&mut world, "user=ann", true);
    let users: Vec<String> = (0..100).map(|user| format!("u{user}")).collect();
    ann.ask(&mut world, "presence:watch", json!({ "users": users }));
    let stale = |changes: &[Value]| -> Vec<bool> {
        let each = changes.iter();
        each.map(|change| change.get("stale").is_some()).collect()
    };
    let away = |world: &mut World, meanwhile: &dyn Fn()| {
        elsewhere.lock().unwrap().is_trusted = false;
        world.run(seconds(1));
        meanwhile();
        let mut elsewhere = elsewhere.lock().unwrap();
        elsewhere.is_trusted = true;
        elsewhere.asked.clear();
    };
    let asked = |world: &mut World| {
        world.run(seconds(1));
        elsewhere.lock().unwrap().asked.len()
    };
    away(&mut world, &|| {});
    // The audit looks at some of them now and then.
    assert!(asked(&mut world) < 50);
    assert_eq!(stale(&ann.changes(&mut world)), [true, false]);
    // What is lost meanwhile may be of anybody; and another life knows of nobody.
    let node = elsewhere.lock().unwrap().node.clone().unwrap();
    away(&mut world, &|| node.missed_edges());
    assert!(asked(&mut world) >= 100);
    assert_eq!(stale(&ann.changes(&mut world)), [true, false]);
    away(&mut world, &|| elsewhere.lock().unwrap().life += 1);
    assert!(asked(&mut world) >= 100);
    assert_eq!(stale(&ann.changes(&mut world)), [true, false]);
}

#[test]
fn who_is_not_answered_any_more_watches_nothing() {
    let (mut world, _) = {
        let hurried = |socket: Socket, gateway: Gateway| async move {
            // Another node owes an answer, for two seconds.
            let asked = gateway.watch_room(&socket, "a", None);
            drop(tokio::time::timeout(seconds(1), asked).await);
            Ok::<_, crate::EventError>(())
        };
        let knows = Elsewhere {
            is_trusted: true,
            nodes: Some(vec![2]),
            ..Elsewhere::default()
        };
        OneOfMany::app(knows, |builder| builder.on("hurried", hurried))
    };
    let mut ann = Watcher::new(&mut world, "user=ann rooms=a", true);
    ann.client.says(&emit(true, "hurried", &json!({})));
    world.run(ms(20));
    assert!(world.gateway.shared.watches.has_readers());
    world.run(seconds(4));
    assert!(!world.gateway.shared.watches.has_readers());
    let heard = ann.client.hears().concat();
    assert!(heard.contains("ack"), "{heard}");
}

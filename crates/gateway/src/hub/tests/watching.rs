//! What clients watch, on both protocols: a picture, and each change with the next number.

use std::sync::atomic::Ordering;

use heartline_core::backplane::local::LocalBackplane;
use heartline_core::backplane::{Backplane, Message, Node, Target};
use heartline_core::entries::{Standing, TypePresence, UserPresence};
use heartline_core::policy::Limit;
use heartline_core::presence::watch::{Board, Note};
use heartline_core::presence::{
    Admitted, DeviceLimitReached, Edge, Newcomer, Presence, RoomAddress, SocketAddress,
};
use heartline_core::time::Moment;
use serde_json::{Value, json};

use super::*;

/// What is said in a packet or a frame: the acknowledgement, or `presence:change`.
fn told(text: &str) -> Option<Value> {
    let from = text.find(['[', '{'])?;
    let value: Value = serde_json::from_str(&text[from..]).ok()?;
    match &value {
        Value::Array(parts) if parts[0] == "presence:change" => Some(parts[1].clone()),
        Value::Array(parts) => Some(parts[0].clone()),
        _ if value["type"] == "ack" || value["type"] == "presence:change" => {
            Some(value["data"].clone())
        }
        _ => None,
    }
}

/// The words of a protocol for an event with an acknowledgement.
fn emit(is_live: bool, event: &str, data: &Value) -> String {
    match is_live {
        true => json!({ "type": "emit", "event": event, "data": data, "id": "q" }).to_string(),
        false => format!("42{}{}", 7, json!([event, data])),
    }
}

struct Watcher {
    client: Client,
    is_live: bool,
}

impl Watcher {
    fn new(world: &mut World, token: &str, is_live: bool) -> Watcher {
        let client = match is_live {
            true => world.live(token),
            false => world.socketio(token),
        };
        Watcher { client, is_live }
    }

    fn ask(&mut self, world: &mut World, event: &str, data: Value) -> Value {
        let text = emit(self.is_live, event, &data);
        self.client.says(&text);
        world.run(ms(20));
        let heard = self.client.hears();
        // `room:joined` and the like come before it.
        let answer = heard.iter().rev().find_map(|text| told(text));
        answer.unwrap_or_else(|| panic!("no answer to {event}: {heard:?}"))
    }

    /// Changes that have come within a moment.
    fn changes(&mut self, world: &mut World) -> Vec<Value> {
        world.run(ms(200));
        let heard = self.client.hears();
        let changes = heard.iter().filter(|text| text.contains("presence:change"));
        changes.filter_map(|text| told(text)).collect()
    }
}

/// A user and what is said of it.
fn states(of: &Value) -> Vec<(String, bool)> {
    let users = of["users"].as_array().unwrap();
    let state = |user: &Value| {
        let online = user["online"].as_bool().unwrap();
        (user["userId"].as_str().unwrap().to_owned(), online)
    };
    users.iter().map(state).collect()
}

#[test]
fn users_are_watched_from_a_known_place_on_and_numbers_have_no_hole() {
    for is_live in [false, true] {
        let mut world = World::new(config());
        let mut ann = Watcher::new(&mut world, "user=ann", is_live);
        let watch = json!({ "users": ["bob", "ann", "bob"] });
        let picture = ann.ask(&mut world, "presence:watch", watch);
        assert_eq!(
            states(&picture),
            [("ann".into(), true), ("bob".into(), false)]
        );
        let first = picture["rev"].as_u64().unwrap();
        assert!(picture["asOf"].as_u64().unwrap() > 0 && picture.get("stale").is_none());
        let bob = world.live("user=bob");
        let came = ann.changes(&mut world);
        assert_eq!(states(&came[0]), [("bob".into(), true)]);
        drop(bob);
        let _eve = world.live("user=eve");
        let went = ann.changes(&mut world);
        assert_eq!((came.len(), went.len()), (1, 1));
        assert_eq!(states(&went[0]), [("bob".into(), false)]);
        assert!(went[0]["users"][0]["lastSeenAt"].as_u64().is_some());
        let rev = |change: &Value| change["users"][0]["rev"].as_u64().unwrap();
        assert!(rev(&went[0]) > rev(&came[0]) && rev(&came[0]) > rev(&picture));
        for (index, change) in came.iter().chain(&went).enumerate() {
            assert_eq!(change["epoch"], picture["epoch"]);
            assert_eq!(change["rev"], first + 1 + index as u64);
        }
        let ended = ann.ask(
            &mut world,
            "presence:unwatch",
            json!({ "users": ["ann", "bob"] }),
        );
        assert_eq!(ended, json!({ "ok": true, "ended": 1 }));
        let _bob = world.live("user=bob");
        assert!(ann.changes(&mut world).is_empty());
    }
}

#[test]
fn who_asks_from_a_place_goes_on_there_also_on_another_connection() {
    for is_live in [false, true] {
        let mut world = World::new(config());
        let mut ann = Watcher::new(&mut world, "user=ann", is_live);
        let picture = ann.ask(&mut world, "presence:watch", json!({ "users": ["bob"] }));
        drop(ann);
        world.run(ms(20));
        let mut ann = Watcher::new(&mut world, "user=ann", !is_live);
        let bob = world.live("user=bob");
        world.run(ms(200));
        drop(bob);
        world.run(ms(200));
        let after = json!({ "epoch": picture["epoch"], "rev": picture["rev"] });
        let watch = json!({ "users": ["bob"], "after": after });
        ann.client.says(&emit(!is_live, "presence:watch", &watch));
        world.run(ms(20));
        let heard: Vec<Value> = ann
            .client
            .hears()
            .iter()
            .filter_map(|text| told(text))
            .collect();
        assert_eq!(heard[0]["recovered"], true);
        assert_eq!(
            (&heard[0]["rev"], &heard[0]["head"]),
            (&json!(0), &json!(2))
        );
        assert_eq!(
            heard[1..].iter().map(states).collect::<Vec<_>>(),
            [[("bob".to_owned(), true)], [("bob".to_owned(), false)]]
        );
        let watch = json!({ "users": ["bob"], "after": { "epoch": "no", "rev": 1 } });
        let fresh = ann.ask(&mut world, "presence:watch", watch);
        assert_eq!(
            (&fresh["recovered"], &fresh["rev"]),
            (&json!(false), &json!(2))
        );
    }
}

#[test]
fn a_room_is_watched_by_who_is_in_it_or_may_be_until_they_leave() {
    for is_live in [false, true] {
        let mut world = World::new(config());
        let mut ann = Watcher::new(&mut world, "user=ann rooms=a,b", is_live);
        let refused = ann.ask(&mut world, "presence:watch", json!({ "room": "c" }));
        assert_eq!(refused["code"], "FORBIDDEN");
        let mut bob = world.socketio("user=bob");
        world.ask(&mut bob, r#"421["join","a"]"#);
        let picture = ann.ask(&mut world, "presence:watch", json!({ "room": "a" }));
        assert_eq!(states(&picture), [("bob".into(), true)]);
        ann.ask(&mut world, "join", json!({ "room": "a" }));
        let mut eve = world.live("user=eve");
        world.ask(&mut eve, r#"{"type":"subscribe","topic":"a"}"#);
        let came = ann.changes(&mut world);
        let who: Vec<_> = came.iter().flat_map(states).collect();
        assert!(who.contains(&("eve".into(), true)), "{came:?}");
        world.ask(&mut eve, r#"{"type":"unsubscribe","topic":"a"}"#);
        let left = ann.changes(&mut world);
        assert_eq!(left[0]["users"][0]["in"], false);
        drop(bob);
        let went = ann.changes(&mut world);
        assert_eq!(states(went.last().unwrap()), [("bob".into(), false)]);
        ann.ask(&mut world, "leave", json!({ "room": "a" }));
        let heard = ann.changes(&mut world);
        let _bob = world.socketio("user=bob");
        assert!(heard.is_empty() && ann.changes(&mut world).is_empty());
    }
}

#[test]
fn leaving_a_room_ends_its_watch_and_says_so() {
    let mut world = World::new(config());
    let mut ann = Watcher::new(&mut world, "user=ann", false);
    ann.ask(&mut world, "join", json!({ "room": "a" }));
    ann.ask(&mut world, "presence:watch", json!({ "room": "a" }));
    ann.client
        .says(&emit(false, "leave", &json!({ "room": "a" })));
    let ended = ann.changes(&mut world);
    assert_eq!(
        (&ended[0]["ended"], &ended[0]["rev"]),
        (&json!("LEFT"), &json!(0))
    );
    let mut bob = world.socketio("user=bob");
    world.ask(&mut bob, r#"421["join","a"]"#);
    assert!(ann.changes(&mut world).is_empty());
}

#[test]
fn a_grant_that_has_ended_is_seen_when_something_is_to_be_told() {
    for is_live in [false, true] {
        let mut world = World::new(config());
        let mut ann = Watcher::new(&mut world, "user=ann rooms=a", is_live);
        let picture = ann.ask(&mut world, "presence:watch", json!({ "room": "a" }));
        let mut bob = world.socketio("user=bob");
        world.ask(&mut bob, r#"421["join","a"]"#);
        let came = ann.changes(&mut world);
        assert_eq!(states(&came[0]), [("bob".into(), true)]);
        let token = json!({ "token": "user=ann rooms=b" });
        ann.ask(&mut world, "auth:refresh", token);
        let mut eve = world.socketio("user=eve");
        world.ask(&mut eve, r#"421["join","a"]"#);
        let heard = ann.changes(&mut world);
        assert!(!heard[0].to_string().contains("eve"));
        assert_eq!(heard[0]["ended"], "FORBIDDEN");
        // The change of eve is withheld: the one before it is the last that was heard.
        let heard_before = picture["rev"].as_u64().unwrap() + came.len() as u64;
        assert_eq!(came.last().unwrap()["rev"], heard_before);
        assert_eq!(heard[0]["rev"], heard_before);
        world.ask(&mut eve, r#"421["leave","a"]"#);
        assert!(ann.changes(&mut world).is_empty());
    }
}

#[test]
fn what_is_watched_has_bounds_and_counts_as_an_event() {
    let mut world = World::new(config());
    let mut ann = Watcher::new(&mut world, "user=ann", false);
    let many = |from: usize, count: usize| -> Value {
        let users = (from..from + count).map(|number| number.to_string());
        json!({ "users": users.collect::<Vec<_>>() })
    };
    let code = |world: &mut World, ann: &mut Watcher, watch| {
        let answer = ann.ask(world, "presence:watch", watch);
        answer["code"].as_str().unwrap_or_default().to_owned()
    };
    assert_eq!(code(&mut world, &mut ann, many(0, 101)), "INVALID_DATA");
    assert_eq!(code(&mut world, &mut ann, json!({})), "INVALID_DATA");
    let both = json!({ "users": ["a"], "room": "a" });
    assert_eq!(code(&mut world, &mut ann, both), "INVALID_DATA");
    let own = json!({ "room": "user:ann" });
    assert_eq!(code(&mut world, &mut ann, own), "FORBIDDEN");
    for part in 0..10 {
        assert_eq!(code(&mut world, &mut ann, many(part * 100, 100)), "");
    }
    assert_eq!(code(&mut world, &mut ann, many(2000, 1)), "TOO_LARGE");
    let several = [
        json!({ "users": ["0"], "room": "a" }),
        json!({ "users": ["0"], "epoch": "e" }),
        json!({ "room": "a", "epoch": "e" }),
        many(0, 101),
    ];
    for named in several {
        let refused = ann.ask(&mut world, "presence:unwatch", named);
        assert_eq!(refused["code"], "INVALID_DATA", "{refused}");
    }
    let ended = ann.ask(&mut world, "presence:unwatch", json!({}));
    assert_eq!(ended["ended"], 10);
    assert_eq!(code(&mut world, &mut ann, many(2000, 1)), "");

    let limited = config_with(|root| root.limits.events = Some(Limit::per(2, 60)));
    let mut world = World::new(limited);
    let mut ann = Watcher::new(&mut world, "user=ann", false);
    for expected in ["", "", "RATE_LIMITED"] {
        assert_eq!(code(&mut world, &mut ann, many(0, 1)), expected);
    }
}

#[test]
fn each_user_who_is_watched_counts_as_an_event_and_a_room_as_ten() {
    let users = json!({ "users": (0..10).map(|id| id.to_string()).collect::<Vec<_>>() });
    // A room that may not be joined costs as much, as does one of too many.
    for (watch, code) in [
        (users, ""),
        (json!({ "room": "a" }), ""),
        (json!({ "room": "c" }), "FORBIDDEN"),
    ] {
        let limited = config_with(|root| root.limits.events = Some(Limit::per(20, 600)));
        let mut world = World::new(limited);
        let mut ann = Watcher::new(&mut world, "user=ann rooms=a", true);
        for expected in [code, code, "RATE_LIMITED"] {
            let answer = ann.ask(&mut world, "presence:watch", watch.clone());
            let found = answer["code"].as_str().unwrap_or_default();
            assert_eq!(found, expected, "{watch}");
        }
    }
}

#[test]
fn who_asks_about_users_hears_until_when_nothing_is_missing() {
    let mut world = World::new(announced());
    let mut ann = Watcher::new(&mut world, "user=ann", false);
    let mut eve = world.socketio("user=eve");
    let bob = world.live("user=bob");
    world.run(ms(200));
    let online = eve.hears().concat();
    let rev = |text: &str| -> u64 {
        let at = text.rfind(r#""rev":"#).unwrap() + 6;
        text[at..]
            .split(|one: char| !one.is_ascii_digit())
            .next()
            .unwrap()
            .parse()
            .unwrap()
    };
    let answer = ann.ask(
        &mut world,
        "presence:get",
        json!({ "users": ["bob", "nobody"] }),
    );
    assert_eq!(answer["users"][0]["rev"], rev(&online));
    assert_eq!(answer["users"][1]["rev"], 0);
    assert!(answer["asOf"].as_u64().unwrap() <= world.unix_millis());
    drop(bob);
    world.run(ms(200));
    let offline = eve.hears().concat();
    assert!(offline.contains("user:offline") && rev(&offline) > rev(&online));
    let answer = ann.ask(&mut world, "presence:get", json!({ "users": ["bob"] }));
    assert_eq!(answer["users"][0]["rev"], rev(&offline));
}

#[test]
fn a_picture_that_is_wrong_is_counted_by_its_cause_until_it_is_right() {
    let mut world = World::new(config());
    let mut ann = Watcher::new(&mut world, "user=ann", true);
    let bob = world.live("user=bob");
    let picture = ann.ask(&mut world, "presence:watch", json!({ "users": ["bob"] }));
    let wrong = |world: &World, cause: &str| {
        let line = format!("heartline_presence_wrong_seconds_total{{cause=\"{cause}\"}}");
        let text = world.gateway.encode_metrics();
        let value = text.lines().find_map(|one| one.strip_prefix(&line));
        value.unwrap().trim().parse::<f64>().unwrap()
    };
    world.run(seconds(15));
    assert_eq!(wrong(&world, "lost"), 0.0);
    // Nobody has announced this.
    let edge = Edge {
        user: Arc::new(UserKey {
            tenant_id: None,
            user_id: "bob".into(),
            user_type: None,
        }),
        online: false,
        rev: picture["users"][0]["rev"].as_u64().unwrap() + 1,
        at: world.unix_millis(),
        number: 0,
        rooms: Vec::new(),
        others: None,
    };
    world.gateway.shared.watches.heard(&[edge]);
    assert_eq!(states(&ann.changes(&mut world)[0]), [("bob".into(), false)]);
    world.run(seconds(20));
    let counted = wrong(&world, "lost");
    // A second look, one second later, found the same, and was believed.
    assert!((1.0..3.0).contains(&counted), "{counted}");
    assert_eq!(states(&ann.changes(&mut world)[0]), [("bob".into(), true)]);
    drop(bob);
    world.run(seconds(2));
    let counted = wrong(&world, "lost");
    world.run(seconds(20));
    assert_eq!(wrong(&world, "lost"), counted);
    for cause in ["late", "unannounced", "unswept"] {
        assert_eq!(wrong(&world, cause), 0.0);
    }
}

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
    let edge = Edge {
        user: Arc::new(UserKey {
            tenant_id: None,
            user_id: "bob".into(),
            user_type: None,
        }),
        online: true,
        rev: 7,
        at: until,
        number: 0,
        rooms: Vec::new(),
        others: None,
    };
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
fn a_socket_that_has_ended_when_it_is_to_watch_something_watches_nothing() {
    let go = Arc::new(tokio::sync::Notify::new());
    let waits = go.clone();
    let late = move |socket: Socket, gateway: Gateway| {
        let waits = waits.clone();
        async move {
            waits.notified().await;
            let users = ["bob".to_owned()];
            gateway
                .watch_users(&socket, &users, None)
                .await
                .map(crate::Json)
        }
    };
    let mut world = World::with(config(), |builder| builder.on("late", late));
    let mut ann = world.live("user=ann");
    ann.says(&emit(true, "late", &json!({})));
    world.run(ms(20));
    drop(ann);
    world.run(seconds(1));
    go.notify_one();
    world.run(seconds(1));
    assert!(!world.gateway.shared.watches.has_readers());
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

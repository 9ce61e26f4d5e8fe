//! Live clients: topics and sessions.

use std::sync::atomic::{AtomicBool, Ordering};

use heartline_core::policy::{DevicePolicy, OnExcess};
use heartline_core::store::conversations::{
    Added, Conversations, Inbox, InboxQuery, Marked, Member, Membership,
};
use heartline_core::store::memory::MemoryStore;
use heartline_core::store::{
    History, HistoryQuery, MessageStore, NewMessage, StoreError, Stored, Tell,
};

use super::*;
use crate::config::ConversationsConfig;

/// What a live client is told, as JSON.
pub(super) fn frames(client: &mut Client) -> Vec<serde_json::Value> {
    let texts = client.hears().into_iter();
    texts
        .map(|text| serde_json::from_str(&text).unwrap_or(serde_json::Value::String(text)))
        .collect()
}

pub(super) fn asked(
    world: &mut World,
    client: &mut Client,
    frame: &serde_json::Value,
) -> Vec<serde_json::Value> {
    client.says(&frame.to_string());
    world.settle();
    frames(client)
}

pub(super) fn live_config() -> Config {
    Config {
        hello: true,
        ..kept()
    }
}

pub(super) fn auth(token: &str) -> serde_json::Value {
    serde_json::json!({"type": "auth", "token": token})
}

pub(super) fn subscribe(topic: &str, recover: Option<(&str, u64)>) -> serde_json::Value {
    let recover =
        recover.map(|(epoch, offset)| serde_json::json!({"epoch": epoch, "offset": offset}));
    serde_json::json!({"type": "subscribe", "topic": topic, "id": 1, "recover": recover})
}

#[test]
fn a_topic_is_gone_on_with_after_the_last_offset_that_came() {
    let mut world = World::new(live_config());
    let mut ann = world.open(Opening::plain());
    asked(&mut world, &mut ann, &auth("user=ann"));
    let answer = asked(&mut world, &mut ann, &subscribe("a", None));
    assert_eq!(answer[0]["recovered"], false);
    let epoch = answer[0]["epoch"].as_str().unwrap().to_owned();
    said(&world, "a", "one");
    world.settle();
    assert_eq!(frames(&mut ann)[0]["offset"], 1);
    ann.0.end();
    world.settle();
    for text in ["two", "three"] {
        said(&world, "a", text);
    }
    world.settle();
    let mut ann = world.open(Opening::plain());
    asked(&mut world, &mut ann, &auth("user=ann"));
    let answer = asked(&mut world, &mut ann, &subscribe("a", Some((&epoch, 1))));
    assert_eq!(answer[0]["recovered"], true);
    assert_eq!(answer[0]["offset"], 1);
    let told: Vec<_> = answer[1..]
        .iter()
        .map(|event| {
            (
                event["data"].as_str().unwrap(),
                event["offset"].as_u64().unwrap(),
            )
        })
        .collect();
    assert_eq!(told, [("two", 2), ("three", 3)]);
    said(&world, "a", "four");
    world.settle();
    assert_eq!(frames(&mut ann)[0]["offset"], 4);
    // From the future, or of another time: afresh, at the present.
    for recover in [(&*epoch, 99), ("x", 1)] {
        let mut other = world.open(Opening::plain());
        asked(&mut world, &mut other, &auth("user=bob"));
        let answer = asked(&mut world, &mut other, &subscribe("a", Some(recover)));
        assert_eq!(answer.len(), 1);
        assert_eq!(answer[0]["recovered"], false);
        assert_eq!(answer[0]["offset"], 4);
    }
}

#[test]
fn who_has_heard_on_another_shard_what_this_one_is_about_to_tell_goes_on() {
    let mut world = World::new(live_config());
    let [mut ann, mut bob] = ["user=ann", "user=bob"].map(|token| {
        let mut client = world.open(Opening::plain());
        asked(&mut world, &mut client, &auth(token));
        client
    });
    // Bob is in the topic here: the shard knows by itself how far it is.
    let answer = asked(&mut world, &mut bob, &subscribe("a", None));
    let epoch = answer[0]["epoch"].as_str().unwrap().to_owned();
    said(&world, "a", "one");
    // The event waits in the mailbox, and Ann, who comes from another shard, has it already.
    ann.says(&subscribe("a", Some((&epoch, 1))).to_string());
    world.settle();
    let answer = frames(&mut ann);
    assert_eq!(
        (&answer[0]["recovered"], &answer[0]["offset"]),
        (&true.into(), &1.into()),
        "{answer:?}"
    );
    assert_eq!(answer.len(), 1, "{answer:?}");
    said(&world, "a", "two");
    world.settle();
    assert_eq!(frames(&mut ann)[0]["offset"], 2);
}

#[test]
fn who_comes_new_to_a_topic_gets_the_newest_of_each_key() {
    let mut world = World::new(live_config());
    let mut ann = world.open(Opening::plain());
    asked(&mut world, &mut ann, &auth("user=ann"));
    asked(&mut world, &mut ann, &subscribe("map", None));
    for (key, data) in [
        ("x", "1"),
        ("y", "2"),
        ("x", "3"),
        ("z", "4"),
        ("z", "null"),
    ] {
        ann.says(&format!(
            r#"{{"type":"publish","topic":"map","event":"at","data":{data},"key":"{key}"}}"#
        ));
    }
    world.settle();
    let mut bob = world.open(Opening::plain());
    asked(&mut world, &mut bob, &auth("user=bob"));
    let answer = asked(&mut world, &mut bob, &subscribe("map", None));
    let snapshot = serde_json::json!([
        {"key": "y", "event": "at", "data": 2, "offset": 2},
        {"key": "x", "event": "at", "data": 3, "offset": 3},
    ]);
    assert_eq!(answer[0]["snapshot"], snapshot);
    assert_eq!(answer[0]["offset"], 5);
}

#[test]
fn a_live_session_goes_on_with_its_id_and_all_its_topics() {
    let mut world = World::new(live_config());
    let mut ann = world.open(Opening::plain());
    let hello = asked(&mut world, &mut ann, &auth("user=ann"));
    let (id, resume) = (&hello[0]["socketId"], &hello[0]["resume"]);
    assert_eq!(hello[0]["recovered"], false);
    let a = asked(&mut world, &mut ann, &subscribe("a", None));
    let b = asked(&mut world, &mut ann, &subscribe("b", None));
    said(&world, "a", "one");
    said(&world, "user:ann", "two");
    world.settle();
    let heard = frames(&mut ann);
    let place = heard[1]["place"].as_str().unwrap();
    ann.0.end();
    world.settle();
    said(&world, "user:ann", "three");
    said(&world, "b", "four");
    world.settle();
    let mut again = world.open(Opening::plain());
    let frame = serde_json::json!({
        "type": "auth", "token": "user=ann", "resume": resume, "place": place,
        "topics": {"a": {"epoch": a[0]["epoch"], "offset": 1}, "b": {"epoch": b[0]["epoch"], "offset": 0}},
    });
    let told = asked(&mut world, &mut again, &frame);
    assert_eq!(
        (&told[0]["type"], &told[0]["recovered"]),
        (&"hello".into(), &true.into())
    );
    assert_eq!(&told[0]["socketId"], id);
    assert_eq!(&told[0]["resume"], resume);
    let rest: Vec<String> = told[1..]
        .iter()
        .filter(|frame| frame["type"] != "connection:success")
        .map(|frame| {
            let data = frame["data"].as_str().unwrap_or("");
            let topic = frame["topic"].as_str().unwrap_or("");
            format!("{} {topic} {data}", frame["type"].as_str().unwrap())
        })
        .collect();
    assert_eq!(
        rest,
        [
            "news user:ann three",
            "subscribed a ",
            "subscribed b ",
            "news b four"
        ]
    );
}

#[test]
fn who_is_in_as_many_topics_as_it_may_goes_on_with_all_of_them() {
    const TOPICS: usize = 1000;
    let mut world = World::new(Config {
        max_rooms_per_socket: TOPICS,
        ..live_config()
    });
    let mut ann = world.open(Opening::plain());
    let hello = asked(&mut world, &mut ann, &auth("user=ann"));
    ann.0.end();
    world.settle();
    let at = serde_json::json!({"epoch": "0123456789abcdef", "offset": 1_000_000});
    let topics = (0..TOPICS).map(|number| (format!("{number:060}"), at.clone()));
    let topics: serde_json::Map<_, _> = topics.collect();
    let frame = serde_json::json!({
        "type": "auth", "token": "user=ann", "resume": hello[0]["resume"], "topics": topics,
    });
    assert!(frame.to_string().len() > 100_000);
    let mut again = world.open(Opening::plain());
    let told = asked(&mut world, &mut again, &frame);
    assert_eq!(told[0]["type"], "hello", "{}", told[0]);
    assert_eq!(told[0]["recovered"], true);
    let subscribed = told.iter().filter(|told| told["type"] == "subscribed");
    assert_eq!(subscribed.count(), TOPICS);
}

#[test]
fn one_more_auth_of_a_connection_takes_its_own_socket_s_place_and_nobody_else_s() {
    let mut config = live_config();
    config.namespaces.get_mut("/").unwrap().devices = DevicePolicy::Limit {
        max: 1,
        on_excess: OnExcess::Reject,
    };
    let mut world = World::new(config);
    let mut ann = world.open(Opening::plain());
    let hello = asked(&mut world, &mut ann, &auth("user=ann"));
    ann.0.end();
    world.settle();
    let mut brings = auth("user=ann");
    brings["resume"] = hello[0]["resume"].clone();
    brings["place"] = hello[0]["place"].clone();
    brings["topics"] = serde_json::json!({});
    // With its token in the query, as before, and then with what it had.
    let mut ann = world.live("user=ann");
    assert_eq!(frames(&mut ann)[0]["recovered"], false);
    let mut others = brings.clone();
    others["token"] = "user=bob".into();
    others["id"] = 7.into();
    let told = asked(&mut world, &mut ann, &others);
    assert_eq!(
        (&told[0]["code"], &told[0]["id"]),
        (&"FORBIDDEN".into(), &7.into())
    );
    assert_eq!(told.len(), 1, "{told:?}");
    let told = asked(&mut world, &mut ann, &brings);
    assert_eq!(told[0]["recovered"], true, "{told:?}");
    assert_eq!(told[0]["socketId"], hello[0]["socketId"]);
    assert_eq!(world.gateway.connection_count(), 1);
    // Another connection is another device as ever.
    let mut second = world.live("user=ann");
    assert_eq!(second.hears(), ["close 4409"]);
}

#[test]
fn each_auth_that_is_more_than_a_new_token_is_counted_as_a_join() {
    let mut config = live_config();
    config.namespaces.get_mut("/").unwrap().limits.joins =
        Some(heartline_core::policy::Limit::per(3, 60));
    let mut world = World::new(config);
    let mut ann = world.open(Opening::plain());
    asked(&mut world, &mut ann, &auth("user=ann"));
    let mut brings = auth("user=ann");
    // Of no use: each begins afresh.
    brings["resume"] = "none".into();
    for _ in 0..2 {
        assert_eq!(asked(&mut world, &mut ann, &brings)[0]["recovered"], false);
    }
    // What only brings a new token is not.
    let mut renews = auth("user=ann");
    renews["id"] = 1.into();
    for _ in 0..5 {
        assert_eq!(asked(&mut world, &mut ann, &renews)[0]["type"], "ack");
    }
    ann.says(&brings.to_string());
    world.settle();
    assert_eq!(ann.hears(), ["close 4429"]);
}

#[test]
fn a_connection_whose_session_goes_on_elsewhere_is_told_not_to_come_back() {
    let mut world = World::new(live_config());
    let mut ann = world.open(Opening::plain());
    let hello = asked(&mut world, &mut ann, &auth("user=ann"));
    let frame = serde_json::json!({
        "type": "auth", "token": "user=ann", "resume": hello[0]["resume"], "place": hello[0]["place"],
        "topics": {},
    });
    let mut copy = world.open(Opening::plain());
    let told = asked(&mut world, &mut copy, &frame);
    assert_eq!(told[0]["recovered"], true);
    assert_eq!(ann.hears(), ["close 4409"]);
}

#[test]
fn a_live_client_that_is_cut_twice_gets_all_that_was_said_to_no_topic() {
    let mut world = World::new(live_config());
    let mut ann = world.open(Opening::plain());
    let hello = asked(&mut world, &mut ann, &auth("user=ann"));
    let a = asked(&mut world, &mut ann, &subscribe("a", None));
    said(&world, "a", "zero");
    world.settle();
    frames(&mut ann);
    ann.0.end();
    world.settle();
    let frame = serde_json::json!({
        "type": "auth", "token": "user=ann", "resume": hello[0]["resume"], "place": hello[0]["place"],
        "topics": {"a": {"epoch": a[0]["epoch"], "offset": 1}},
    });
    // Of the answers to the first two attempts nothing comes.
    for text in ["one", "two", "three"] {
        said_to_all(&world, text);
        said(&world, "user:ann", text);
        let mut again = world.open(Opening::plain());
        let told = asked(&mut world, &mut again, &frame);
        assert_eq!(told[0]["recovered"], true);
        let news = told.iter().filter(|frame| frame["type"] == "news");
        ann = again;
        if text == "three" {
            let news: Vec<_> = news.map(|frame| &frame["data"]).collect();
            assert_eq!(news, ["one", "one", "two", "two", "three", "three"]);
            return;
        }
        ann.0.end();
        world.settle();
    }
}

#[test]
fn a_live_session_whose_last_events_may_be_lost_says_so() {
    let mut world = World::new(live_config());
    let topics = |epoch: &serde_json::Value, offset: u64| serde_json::json!({"a": {"epoch": epoch, "offset": offset}});
    // Without a place the topics tell what has come: what was said before an event of a topic
    // has come with it, and of what was said after it nobody knows.
    for (last, recovered) in [("a", true), ("user:ann", false)] {
        let mut ann = world.open(Opening::plain());
        let hello = asked(&mut world, &mut ann, &auth("user=ann"));
        let a = asked(&mut world, &mut ann, &subscribe("a", None));
        let before = a[0]["offset"].as_u64().unwrap();
        said(&world, "user:ann", "one");
        said(&world, last, "two");
        world.settle();
        ann.0.end();
        world.settle();
        let mut again = world.open(Opening::plain());
        let offset = before + u64::from(last == "a");
        let frame = serde_json::json!({
            "type": "auth", "token": "user=ann", "resume": hello[0]["resume"],
            "topics": topics(&a[0]["epoch"], offset),
        });
        let told = asked(&mut world, &mut again, &frame);
        assert_eq!(told[0]["recovered"], recovered, "{last}");
        let topic = told
            .iter()
            .find(|frame| frame["type"] == "subscribed")
            .unwrap();
        assert_eq!(topic["recovered"], true);
        again.0.close(1000);
        world.settle();
    }
    // A goodbye is one.
    let mut ann = world.open(Opening::plain());
    let hello = asked(&mut world, &mut ann, &auth("user=ann"));
    ann.0.close(1000);
    world.settle();
    let mut again = world.open(Opening::plain());
    let frame = serde_json::json!({
        "type": "auth", "token": "user=ann", "resume": hello[0]["resume"], "topics": {},
    });
    assert_eq!(asked(&mut world, &mut again, &frame)[0]["recovered"], false);
}

/// A store that has no answer of some conversations: it is stuck, or at fault. From a moment on it
/// may be stuck whichever it is asked about.
#[derive(Default)]
struct Moody(MemoryStore, Arc<AtomicBool>);

impl MessageStore for Moody {
    fn append(&self, new: NewMessage, tell: Tell) -> BoxFuture<Result<Stored, StoreError>> {
        self.0.append(new, tell)
    }

    fn history(&self, query: HistoryQuery) -> BoxFuture<Result<History, StoreError>> {
        self.0.history(query)
    }
}

impl Conversations for Moody {
    fn add_member(
        &self,
        id: &str,
        user: &Arc<UserKey>,
        membership: Membership,
        now: u64,
    ) -> BoxFuture<Result<Added, StoreError>> {
        self.0.add_member(id, user, membership, now)
    }

    fn remove_member(&self, id: &str, user: &Arc<UserKey>) -> BoxFuture<Result<bool, StoreError>> {
        self.0.remove_member(id, user)
    }

    fn members(
        &self,
        tenant: Option<&str>,
        id: &str,
    ) -> BoxFuture<Result<Vec<Member>, StoreError>> {
        match id {
            _ if self.1.load(Ordering::Relaxed) => Box::pin(std::future::pending()),
            "stuck" => Box::pin(std::future::pending()),
            "fault" => Box::pin(async { panic!("a store's fault") }),
            "fails" => Box::pin(async { Err(StoreError::Failed("no disk".into())) }),
            _ => self.0.members(tenant, id),
        }
    }

    fn mark_read(
        &self,
        id: &str,
        user: &Arc<UserKey>,
        offset: u64,
        now: u64,
    ) -> BoxFuture<Result<Option<Marked>, StoreError>> {
        self.0.mark_read(id, user, offset, now)
    }

    fn inbox(&self, query: InboxQuery) -> BoxFuture<Result<Inbox, StoreError>> {
        self.0.inbox(query)
    }
}

crate::hub::tests::invites_of::has_invites_of!(Moody, 0);

/// An error about a topic: its code, the topic, the id, and when it is worth asking again.
fn told(frame: &serde_json::Value) -> (&str, &str, Option<u64>, Option<u64>) {
    let text = |value: &'static str| frame[value].as_str().unwrap_or_default();
    let topic = frame["data"]["topic"].as_str().unwrap_or_default();
    assert_eq!(text("type"), "error", "{frame}");
    let (id, wait) = (&frame["id"], &frame["retryAfterMs"]);
    (text("code"), topic, id.as_u64(), wait.as_u64())
}

#[test]
fn a_topic_that_comes_to_nothing_costs_neither_the_connection_nor_the_other_topics() {
    let config = Config {
        conversations: ConversationsConfig::default(),
        ..live_config()
    };
    let mut world = World::with(config, |builder| builder.store(Moody::default()));
    let mut ann = world.open(Opening::plain());
    let hello = asked(&mut world, &mut ann, &auth("user=ann"));
    asked(&mut world, &mut ann, &subscribe("a", None));
    // What panics would panic again; what failed or is stuck is worth another try.
    let answer = asked(&mut world, &mut ann, &subscribe("conversation:fault", None));
    let expected = ("INTERNAL", "conversation:fault", Some(1), None);
    assert_eq!(told(&answer[0]), expected);
    let answer = asked(&mut world, &mut ann, &subscribe("conversation:fails", None));
    let expected = ("INTERNAL", "conversation:fails", Some(1), Some(1_000));
    assert_eq!(told(&answer[0]), expected);
    for _ in 0..2 {
        let stuck = subscribe("conversation:stuck", None);
        assert!(asked(&mut world, &mut ann, &stuck).is_empty());
        world.run(ms(9_100));
        let expected = ("INTERNAL", "conversation:stuck", Some(1), Some(20_000));
        assert_eq!(told(&frames(&mut ann)[0]), expected);
        // Before then it would not be waited for.
        world.run(ms(20_000));
        frames(&mut ann);
    }
    said(&world, "a", "one");
    world.settle();
    assert_eq!(frames(&mut ann)[0]["data"], "one");
    // Who comes back with them is told of each, goes on with the others, and stays.
    ann.0.end();
    world.settle();
    for round in 0..2 {
        let mut ann = world.open(Opening::plain());
        let again = serde_json::json!({
            "type": "auth", "token": "user=ann", "resume": hello[0]["resume"],
            "topics": {"a": null, "conversation:stuck": null, "conversation:fault": null},
        });
        let told_at_once = asked(&mut world, &mut ann, &again);
        let fault = ("INTERNAL", "conversation:fault", None, None);
        let errors: Vec<_> = told_at_once
            .iter()
            .filter(|f| f["type"] == "error")
            .collect();
        assert_eq!(errors.len(), 1, "{told_at_once:?}");
        assert_eq!(told(errors[0]), fault);
        assert!(
            told_at_once
                .iter()
                .any(|f| f["type"] == "subscribed" && f["topic"] == "a")
        );
        world.run(ms(9_100));
        let stuck = ("INTERNAL", "conversation:stuck", None, Some(20_000));
        assert_eq!(told(&frames(&mut ann)[0]), stuck);
        said(&world, "a", "two");
        world.settle();
        assert_eq!(frames(&mut ann)[0]["data"], "two", "{round}");
        ann.0.end();
        world.settle();
    }
}

/// A member of three conversations, by its token of none, who was in their rooms and is lost; and a
/// store that does not say any more who the members are.
fn lost_when_the_store_hangs() -> (World, Tracking) {
    let mut config = Config {
        conversations: ConversationsConfig::default(),
        heartbeat: HeartbeatConfig {
            sweep_interval: seconds(3600),
            ..kept().heartbeat
        },
        ..kept()
    };
    let on_excess = OnExcess::Reject;
    config.namespaces.get_mut("/").unwrap().devices = DevicePolicy::Limit { max: 1, on_excess };
    let hangs = Arc::new(AtomicBool::default());
    let store = Moody(MemoryStore::default(), hangs.clone());
    let mut world = World::with(config, |builder| builder.store(store));
    let mut ann = Tracking::new(&mut world, "user=ann");
    let user = Arc::new(UserKey {
        tenant_id: None,
        user_id: "ann".into(),
        user_type: None,
    });
    for id in ["1", "2", "3"] {
        let members = world.gateway.shared.members.clone();
        let added = members.add(id, &user, Membership::Joined);
        let added = world.begin(added);
        world.settle();
        world.runtime.block_on(added).unwrap().unwrap();
        ann.asks(&mut world, &format!(r#"42["join","conversation:{id}"]"#));
        assert!(ann.got().iter().any(|one| one.contains("room:joined")));
    }
    ann.is_cut(&mut world);
    // As after the time for which it is believed what was read.
    world.gateway.shared.members.forget_all();
    hangs.store(true, Ordering::Relaxed);
    (world, ann)
}

#[test]
fn a_store_that_hangs_keeps_nobody_out_who_was_lost() {
    let (mut world, mut ann) = lost_when_the_store_hangs();
    let before = ann.sid.clone();
    ann.client = world.engineio();
    let hello = ann.hello();
    ann.client.says(&hello);
    world.run(seconds(4));
    ann.hear(99);
    assert!(ann.sid != before && !ann.recovered, "{}", ann.sid);
    assert_eq!(world.gateway.users_online(), 1);
    assert!(ann.client.hears().is_empty());
}

#[test]
fn who_was_admitted_and_is_not_let_in_in_time_leaves_nothing_behind() {
    let (mut world, ann) = lost_when_the_store_hangs();
    let mut late = world.engineio();
    // Its token takes nearly all of the time that there is.
    late.says(&ann.hello().replace("user=ann", "user=ann device=a after=9"));
    world.run(ms(9_500));
    assert_eq!(world.gateway.users_online(), 1);
    world.run(ms(1_000));
    assert_eq!(late.hears(), ["close 1013"]);
    assert_eq!(world.gateway.users_online(), 0);
    // Its place is free.
    let _other = world.socketio("user=ann device=b");
    assert_eq!(world.gateway.users_online(), 1);
}

#[test]
fn what_is_not_kept_is_said_to_whoever_subscribes_and_asks_for_the_room() {
    let some = |rooms: &[&str]| Config {
        recovery: RecoveryConfig {
            rooms: rooms.iter().map(ToString::to_string).collect(),
            ..kept().recovery
        },
        ..kept()
    };
    for (config, left_out) in [
        (some(&["a", "user:*"]), &["map"][..]),
        (some(&[]), &["a", "map", "user:ann"][..]),
        (kept(), &[][..]),
        // Where nobody comes back, there is nothing to say.
        (super::config(), &[][..]),
    ] {
        let mut world = World::new(config);
        let mut ann = world.live("user=ann");
        for topic in ["a", "map", "user:ann"] {
            let kept = left_out.contains(&topic).then_some(false);
            for recover in [None, Some(("1-1", 0))] {
                let answer = asked(&mut world, &mut ann, &subscribe(topic, recover));
                assert_eq!(answer[0]["type"], "subscribed");
                let said = answer[0].get("kept").map(|kept| kept.as_bool().unwrap());
                assert_eq!(said, kept, "{answer:?}");
            }
            let gateway = world.gateway.clone();
            let room = world.finish(async move { gateway.room("/", None, topic).await });
            assert_eq!(room.0.unwrap().kept, kept, "{topic}");
        }
        let gateway = world.gateway.clone();
        let page = world.finish(async move { gateway.rooms(None, None, None, 9).await });
        for entry in page.unwrap().items {
            let kept = left_out.contains(&&*entry.room).then_some(false);
            assert_eq!(entry.kept, kept, "{entry:?}");
            let text = serde_json::to_string(&entry).unwrap();
            assert_eq!(text.contains(r#""kept":false"#), kept.is_some(), "{text}");
            assert_eq!(text.contains("kept"), kept.is_some(), "{text}");
        }
    }
}

/// A live client that the app has put into a topic which its token does not open, and what it brings
/// when it comes back.
fn put_into_staff(world: &mut World) -> (Client, serde_json::Value) {
    let token = "user=ann rooms=a";
    let mut ann = world.open(Opening::plain());
    let hello = asked(world, &mut ann, &auth(token));
    let put = serde_json::json!({"type": "emit", "event": "put", "id": 1});
    asked(world, &mut ann, &put);
    let brings = serde_json::json!({
        "type": "auth", "token": token, "resume": hello[0]["resume"], "place": hello[0]["place"],
        "topics": {},
    });
    (ann, brings)
}

fn world_that_puts() -> World {
    World::with(live_config(), |builder| {
        builder.on(
            "put",
            |socket: Socket| async move { socket.join("staff").await },
        )
    })
}

/// Topics, data and offsets of what was said in rooms.
fn news(frames: &[serde_json::Value]) -> Vec<String> {
    let news = frames.iter().filter(|frame| frame["type"] == "news");
    news.map(|frame| format!("{} {} {}", frame["topic"], frame["data"], frame["offset"]))
        .collect()
}

#[test]
fn who_was_put_into_a_topic_gets_what_was_said_there_meanwhile() {
    let mut world = world_that_puts();
    let (ann, brings) = put_into_staff(&mut world);
    drop(ann);
    world.settle();
    for (room, text) in [("staff", "one"), ("user:ann", "two"), ("staff", "three")] {
        said(&world, room, text);
    }
    world.settle();
    let mut ann = world.open(Opening::plain());
    let told = asked(&mut world, &mut ann, &brings);
    assert_eq!(told[0]["recovered"], true);
    // All up to its place has not come yet.
    assert!(told[0].get("place").is_none(), "{told:?}");
    let expected = [
        r#""staff" "one" 1"#,
        r#""user:ann" "two" null"#,
        r#""staff" "three" 2"#,
    ];
    assert_eq!(news(&told), expected);
    said(&world, "staff", "four");
    world.settle();
    assert_eq!(news(&frames(&mut ann)), [r#""staff" "four" 3"#]);
}

#[test]
fn who_may_have_heard_something_in_a_topic_that_it_was_put_into_begins_afresh() {
    for is_sure in [false, true] {
        let mut world = world_that_puts();
        let (mut ann, mut brings) = put_into_staff(&mut world);
        said(&world, "staff", "one");
        if is_sure {
            // What has a place says that all before it has come.
            said(&world, "user:ann", "two");
        }
        world.settle();
        let heard = frames(&mut ann);
        if is_sure {
            brings["place"] = heard[1]["place"].clone();
        }
        drop(ann);
        world.settle();
        said(&world, "staff", "three");
        world.settle();
        let mut ann = world.open(Opening::plain());
        let told = asked(&mut world, &mut ann, &brings);
        assert_eq!(told[0]["recovered"], is_sure);
        let expected: &[&str] = match is_sure {
            true => &[r#""staff" "three" 2"#],
            false => &[],
        };
        assert_eq!(news(&told), expected);
    }
}

#[test]
fn what_is_on_its_way_to_who_was_put_into_a_topic_comes_once_or_makes_a_fresh_start() {
    let mut world = world_that_puts();
    let (ann, brings) = put_into_staff(&mut world);
    // Somebody else is there, so that the shard knows by itself how far the topic is.
    let (_other, _) = put_into_staff(&mut world);
    drop(ann);
    world.settle();
    let mut ann = world.open(Opening::plain());
    ann.says(&brings.to_string());
    said(&world, "staff", "one");
    world.settle();
    let told = frames(&mut ann);
    let count = news(&told).len();
    assert_eq!(told[0]["recovered"], count == 1, "{told:?}");
}

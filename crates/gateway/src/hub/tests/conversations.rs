//! Conversations are those of all namespaces, and a message is known by its sender's name for it.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use heartline_core::backplane::{Message, Missed, Node, Target};
use heartline_core::store::conversations::{
    Added, Conversations, Inbox, InboxQuery, Marked, Member, Membership,
};
use heartline_core::store::memory::MemoryStore;
use heartline_core::store::{
    History, HistoryQuery, MessageStore, NewMessage, StoreError, Stored, Tell,
};

use super::invites_of::has_invites_of;
use super::resume::kept;
use super::*;
use crate::node::ThisNode;
use crate::peers::Peers;

/// One that may join conversations, in these namespaces on one connection.
fn member(world: &mut World, name: &str, namespaces: &[&str]) -> Client {
    let mut client = world.socketio(&format!("user={name} rooms=conversation:*"));
    for namespace in namespaces {
        let token = format!(r#"{{"token":"user={name} rooms=conversation:*"}}"#);
        world.ask(&mut client, &format!("40{namespace},{token}"));
    }
    client
}

const SAY: &str = r#"1["message:send",{"conversationId":"1","content":"hello"}]"#;

/// What has come of messages: before the data, and whether it is of `content`.
fn told(client: &mut Client, content: &str) -> Vec<String> {
    let heard = client
        .hears()
        .into_iter()
        .filter(|one| one.contains(content));
    let told = heard.filter_map(|one| {
        let (event, _) = one.split_once(",{")?;
        one.contains("\"message:").then(|| event.to_owned())
    });
    told.collect()
}

#[test]
fn a_message_is_told_in_every_namespace_and_on_no_socket_twice() {
    let mut world = World::new(config());
    let mut ann = member(&mut world, "ann", &["/chat"]);
    let mut ben = member(&mut world, "ben", &[]);
    let mut cid = member(&mut world, "cid", &["/chat"]);
    let mut dan = member(&mut world, "dan", &[]);
    let mut eve = world.live("user=eve rooms=conversation:*");
    let mut stranger = member(&mut world, "stranger", &["/chat"]);
    for client in [&mut ben, &mut dan] {
        world.ask(client, r#"421["join","conversation:1"]"#);
    }
    // In the one namespace in the room, and in the other not.
    world.ask(&mut cid, r#"42/chat,1["join","conversation:1"]"#);
    world.ask(&mut dan, r#"421["leave","conversation:1"]"#);
    world.ask(&mut eve, r#"{"type":"subscribe","topic":"conversation:1"}"#);
    ann.says(&format!("42/chat,{SAY}"));
    world.settle();
    assert_eq!(told(&mut ann, "hello"), [r#"42/chat,["message:sent""#]);
    assert_eq!(told(&mut ben, "hello"), [r#"42["message:new""#]);
    let mut heard = told(&mut cid, "hello");
    heard.sort();
    let expected = [r#"42/chat,["message:new""#, r#"42["message:notification""#];
    assert_eq!(heard, expected);
    assert_eq!(told(&mut dan, "hello"), [r#"42["message:notification""#]);
    let heard = eve.hears().into_iter();
    let heard: Vec<_> = heard.filter(|frame| frame.contains("hello")).collect();
    assert_eq!(heard.len(), 1, "{heard:?}");
    assert!(heard[0].starts_with(r#"{"type":"message:new","topic":"conversation:1""#));
    assert_eq!(told(&mut stranger, "hello"), Vec::<String>::new());
    // And the other way.
    ben.says(&format!("42{SAY}"));
    world.settle();
    let mut heard = told(&mut ben, "hello");
    heard.sort();
    assert_eq!(heard, [r#"42["message:new""#, r#"42["message:sent""#]);
    assert_eq!(
        told(&mut ann, "hello"),
        [
            r#"42["message:notification""#,
            r#"42/chat,["message:notification""#,
        ]
    );
}

#[test]
fn an_open_room_is_one_of_its_namespace() {
    let mut world = World::new(config());
    let mut ann = member(&mut world, "ann", &["/chat"]);
    let mut ben = world.socketio("user=ben");
    world.ask(&mut ben, r#"40/chat,{"token":"user=ben"}"#);
    world.ask(&mut ben, r#"421["join","lobby"]"#);
    world.ask(&mut ben, r#"42/chat,1["join","lobby"]"#);
    ann.says(r#"42/chat,1["chat:send",{"room":"lobby","content":"hello"}]"#);
    world.settle();
    assert_eq!(told(&mut ben, "hello"), [r#"42/chat,["message:new""#]);
}

#[test]
fn an_open_room_is_no_other_users_room_and_no_socket_of_the_same_name() {
    for config in [config(), kept()] {
        let mut world = World::new(config);
        let mut ann = world.socketio("user=7/driver");
        let mut tablet = world.live("user=7/driver");
        let mut rider = world.engineio();
        let answer = world.ask(&mut rider, &connect("user=7/rider"));
        let (_, rest) = answer[0].split_once(r#""sid":""#).unwrap();
        let sid = rest.split('"').next().unwrap();
        tablet.hears();
        // Her own room is that of her user key.
        let say = |room: &str| format!(r#"42["chat:send",{{"room":"{room}","content":"hello"}}]"#);
        ann.says(&say("user:7"));
        world.settle();
        let mut heard = told(&mut ann, "hello");
        heard.sort();
        assert_eq!(heard, [r#"42["message:new""#, r#"42["message:sent""#]);
        let heard = tablet.hears();
        let frame = r#"{"type":"message:new","topic":"user:7""#;
        assert!(
            matches!(&heard[..], [one] if one.starts_with(frame)),
            "{heard:?}"
        );
        assert_eq!(rider.hears(), [] as [&str; 0]);
        ann.says(&say("user:8"));
        world.settle();
        assert!(ann.hears()[0].contains("FORBIDDEN"));
        // A room may be called so: who is in it hears it, and not whom the name is of.
        let join = format!(r#"{{"type":"subscribe","topic":"{sid}"}}"#);
        world.ask(&mut tablet, &join);
        ann.says(&say(sid));
        world.settle();
        assert_eq!(told(&mut ann, "hello"), [r#"42["message:sent""#]);
        let heard = tablet.hears();
        let frame = format!(r#"{{"type":"message:new","topic":"{sid}""#);
        assert!(
            matches!(&heard[..], [one] if one.starts_with(&frame) && one.contains(r#""offset":1"#)),
            "{heard:?}"
        );
        assert_eq!(rider.hears(), [] as [&str; 0]);
    }
}

#[test]
fn a_temp_id_comes_back_as_it_was_given() {
    let mut world = World::new(config());
    let mut ann = member(&mut world, "ann", &[]);
    let mut ben = member(&mut world, "ben", &[]);
    for client in [&mut ann, &mut ben] {
        world.ask(client, r#"421["join","conversation:1"]"#);
    }
    ann.hears();
    let given = [
        "1795791863015",
        "5",
        "\"5\"",
        "9007199254740993",
        "1e400",
        "-0.5",
        "\"t\"",
        r#""\"5\"""#,
    ];
    let about = |data: &str, id: &str| {
        let name = format!(r#""tempId":{id},"#);
        assert!(data.contains(&name), "{data}");
    };
    for (number, id) in given.iter().enumerate() {
        let say = format!(
            r#"421["message:send",{{"conversationId":"1","content":"c{number}","tempId":{id}}}]"#
        );
        // Whoever sends it again is answered again.
        for _ in 0..2 {
            let heard = world.ask(&mut ann, &say);
            let (_, answers): (Vec<_>, Vec<_>) =
                heard.iter().partition(|one| one.contains("message:new"));
            assert_eq!(answers.len(), 2, "{heard:?}");
            for answer in answers {
                about(answer, id);
                assert_eq!(answer.matches(&format!(r#""tempId":{id},"#)).count(), 2);
                assert!(
                    answer.contains(&format!(r#""content":"c{number}""#)),
                    "{answer}"
                );
            }
        }
        let told = ben.hears();
        assert_eq!(told.len(), 1, "{told:?}");
        about(&told[0], id);
    }
    let history = world.ask(&mut ben, r#"421["history:get",{"conversationId":"1"}]"#);
    for id in given {
        about(&history[0], id);
    }
    let refused = world.ask(
        &mut ann,
        r#"421["message:send",{"conversationId":"1","content":"","tempId":5}]"#,
    );
    for refused in refused {
        assert!(refused.ends_with(r#""tempId":5}]"#), "{refused}");
    }
}

#[test]
fn a_list_of_where_to_publish_decides_about_writing_in_a_conversation_and_opens_no_reading() {
    let mut world = World::new(config());
    let mut ben = member(&mut world, "ben", &[]);
    world.ask(&mut ben, r#"421["join","conversation:1"]"#);
    let send = r#"{"type":"emit","event":"message:send","data":{"conversationId":"1","content":"hello"},"id":1}"#;
    let publish =
        r#"{"type":"publish","topic":"conversation:1","event":"e","data":"hello","id":1}"#;
    for (token, may_write) in [
        ("user=bot publish=conversation:*", true),
        ("user=bot publish=conversation:1", true),
        ("user=bot rooms=lobby publish=conversation:*", true),
        ("user=bot publish=lobby", false),
        ("user=bot", false),
        ("user=ben publish=lobby", false),
    ] {
        let mut over_socketio = world.socketio(token);
        let mut over_live = world.live(token);
        let heard = world.ask(&mut over_socketio, &format!("42{SAY}"));
        let ack = heard.iter().find(|one| one.starts_with("431["));
        let mut answers = vec![ack.unwrap().clone()];
        for frame in [send, publish] {
            let heard = world.ask(&mut over_live, frame);
            let ack = heard.iter().find(|one| one.contains(r#""type":"ack""#));
            answers.push(ack.unwrap().clone());
        }
        for answer in &answers {
            let expected = if may_write {
                r#""ok":true"#
            } else {
                r#""code":"FORBIDDEN""#
            };
            assert!(answer.contains(expected), "{token}: {answer}");
        }
        // Who is no member of it has not become one, and reads nothing.
        if token.starts_with("user=bot") {
            for ask in [
                r#"421["join","conversation:1"]"#,
                r#"421["history:get",{"conversationId":"1"}]"#,
                r#"421["read",{"conversationId":"1","offset":1}]"#,
            ] {
                let heard = world.ask(&mut over_socketio, ask);
                assert!(
                    heard[0].contains(r#""code":"FORBIDDEN""#),
                    "{token}: {heard:?}"
                );
            }
        }
        let told = ben.hears();
        let said = told.iter().filter(|one| one.contains("hello")).count();
        assert_eq!(said, if may_write { 3 } else { 0 }, "{token}: {told:?}");
        assert!(
            !told.iter().any(|one| one.contains("member:joined")),
            "{told:?}"
        );
    }
    let gateway = world.gateway.clone();
    let members = async move { gateway.conversation_members(None, "1", None, 9).await };
    let members = world.finish(members).unwrap().unwrap().items;
    let members: Vec<_> = members.into_iter().map(|member| member.user_id).collect();
    assert_eq!(members, ["ben"]);
    // Whose token opens the room too becomes a member by writing.
    let mut dan = world.socketio("user=dan rooms=conversation:* publish=conversation:*");
    world.ask(&mut dan, &format!("42{SAY}"));
    let told = ben.hears();
    let joined = r#"42["member:joined",{"conversationId":"1","userId":"dan"}]"#;
    assert!(told.iter().any(|one| one == joined), "{told:?}");
}

#[test]
fn a_renewed_token_that_names_a_conversation_makes_its_bearer_a_member() {
    let mut world = World::new(config());
    let mut ben = member(&mut world, "ben", &[]);
    let mut ann = world.socketio("user=ann");
    let mut cid = world.live("user=cid");
    let refresh = r#"421["auth:refresh",{"token":"user=ann rooms=lobby,conversation:1"}]"#;
    world.ask(&mut ann, refresh);
    let refresh = r#"{"type":"auth","token":"user=cid rooms=conversation:1"}"#;
    world.ask(&mut cid, refresh);
    ben.says(&format!("42{SAY}"));
    world.settle();
    assert_eq!(told(&mut ann, "hello"), [r#"42["message:notification""#]);
    let heard = cid.hears();
    let is_told = |frame: &String| frame.starts_with(r#"{"type":"message:notification""#);
    assert!(heard.iter().any(is_told), "{heard:?}");
    let gateway = world.gateway.clone();
    let members = async move { gateway.conversation_members(None, "1", None, 9).await };
    let members = world.finish(members).unwrap().unwrap().items;
    let members: Vec<_> = members.into_iter().map(|member| member.user_id).collect();
    assert_eq!(members, ["ann", "ben", "cid"]);
}

/// A store that nodes share.
#[derive(Clone, Default)]
struct OfNodes {
    store: Arc<MemoryStore>,
    /// So long it is about a new member.
    late: Duration,
    /// How often it was asked for members.
    asked: Arc<AtomicUsize>,
    /// It does not say who they are.
    is_away: Arc<AtomicBool>,
}

impl MessageStore for OfNodes {
    fn append(&self, new: NewMessage, tell: Tell) -> BoxFuture<Result<Stored, StoreError>> {
        self.store.append(new, tell)
    }

    fn history(&self, query: HistoryQuery) -> BoxFuture<Result<History, StoreError>> {
        self.store.history(query)
    }

    fn is_shared(&self) -> bool {
        true
    }
}

impl Conversations for OfNodes {
    fn add_member(
        &self,
        id: &str,
        user: &Arc<UserKey>,
        membership: Membership,
        now: u64,
    ) -> BoxFuture<Result<Added, StoreError>> {
        let (OfNodes { store, late, .. }, id, user) = (self.clone(), id.to_owned(), user.clone());
        Box::pin(async move {
            tokio::time::sleep(late).await;
            store.add_member(&id, &user, membership, now).await
        })
    }

    fn remove_member(&self, id: &str, user: &Arc<UserKey>) -> BoxFuture<Result<bool, StoreError>> {
        self.store.remove_member(id, user)
    }

    fn members(
        &self,
        tenant: Option<&str>,
        id: &str,
    ) -> BoxFuture<Result<Vec<Member>, StoreError>> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        match self.is_away.load(Ordering::Relaxed) {
            true => Box::pin(std::future::ready(Err(StoreError::Failed("away".into())))),
            false => self.store.members(tenant, id),
        }
    }

    fn mark_read(
        &self,
        id: &str,
        user: &Arc<UserKey>,
        offset: u64,
        now: u64,
    ) -> BoxFuture<Result<Option<Marked>, StoreError>> {
        self.store.mark_read(id, user, offset, now)
    }

    fn inbox(&self, query: InboxQuery) -> BoxFuture<Result<Inbox, StoreError>> {
        self.store.inbox(query)
    }
}

has_invites_of!(OfNodes, store);

#[test]
fn who_becomes_a_member_by_a_message_has_read_it_however_late_they_become_one() {
    // Later too than whoever waits for it does.
    for late in [ms(50), seconds(3)] {
        let store = OfNodes {
            late,
            ..OfNodes::default()
        };
        let mut world = World::with(config(), |builder| builder.store(store));
        let mut ann = member(&mut world, "ann", &[]);
        ann.says(&format!("42{SAY}"));
        world.run(seconds(4));
        let heard = told(&mut ann, "hello");
        assert_eq!(heard, [r#"42["message:sent""#], "{late:?}");
        let inbox = world.ask(&mut ann, r#"421["inbox:get",{}]"#);
        let read = r#""readOffset":1,"unread":0"#;
        assert!(inbox[0].contains(read), "{late:?}: {inbox:?}");
    }
}

/// This node as its backplane has it.
fn node_of(world: &World) -> ThisNode {
    let shared = &world.gateway.shared;
    ThisNode {
        fanout: Arc::downgrade(&shared.fanout),
        members: Arc::downgrade(&shared.members),
        watches: Arc::downgrade(&shared.watches),
        peers: Arc::new(Peers::new()),
        announcer: shared.announcer.clone(),
        clock: shared.clock,
        max_payload: shared.config.max_payload,
    }
}

/// What a client is told when it is put out of a conversation's room.
const PUT_OUT: &str = r#"42["room:left",{"room":"conversation:1","reason":"forbidden"}]"#;

/// Whether each of these was put out since this was last asked.
fn put_out(clients: &mut [Client]) -> Vec<bool> {
    let is_out = |client: &mut Client| client.hears().iter().any(|one| one == PUT_OUT);
    clients.iter_mut().map(is_out).collect()
}

#[test]
fn whose_membership_ended_leaves_the_room_though_the_nodes_hear_nothing_of_that() {
    let handles = resume::Handles::default();
    let store = OfNodes::default();
    let (filled, common) = (handles.clone(), store.clone());
    let mut world = World::with(config(), |builder| filled.filled_by(builder).store(common));
    let gateway = world.gateway.clone();
    let ann = Arc::new(UserKey {
        tenant_id: None,
        user_id: "ann".into(),
        user_type: None,
    });
    let members = [ann.clone()];
    world.finish(async move { gateway.add_members("1", &members).await });
    // A member; whom the app has put there; and who is there by a token.
    let tokens = [
        "user=eve rooms=lobby",
        "user=ann",
        "user=dan rooms=conversation:*",
    ];
    let mut clients = tokens.map(|token| world.socketio(token));
    let eve = handles.first();
    world.finish(async move { eve.join("conversation:1").await.unwrap() });
    for client in &mut clients[1..] {
        let heard = world.ask(client, r#"421["join","conversation:1"]"#);
        let is_in = heard.iter().any(|one| one.contains("room:joined"));
        assert!(is_in, "{heard:?}");
    }
    let removes = |world: &mut World, user: &str| {
        let user = Arc::new(UserKey {
            user_id: user.into(),
            ..UserKey::clone(&ann)
        });
        let removed = store.store.remove_member("1", &user);
        assert_eq!(world.finish(removed), Ok(true));
    };
    // Another node removes two, and what it says of it is lost, with much else in one moment. The
    // store answers later.
    removes(&mut world, "ann");
    removes(&mut world, "dan");
    let node = node_of(&world);
    let asked_since = || store.asked.swap(0, Ordering::Relaxed);
    asked_since();
    store.is_away.store(true, Ordering::Relaxed);
    node.missed(Missed::Anybody);
    world.run(seconds(11));
    assert_eq!(put_out(&mut clients), [false; 3]);
    let asked = asked_since();
    assert!((1..=3).contains(&asked), "{asked}");
    store.is_away.store(false, Ordering::Relaxed);
    for _ in 0..100 {
        node.missed(Missed::Unaddressed);
        world.settle();
    }
    world.run(seconds(11));
    assert_eq!(put_out(&mut clients), [false, true, false]);
    let asked = asked_since();
    assert!((1..=3).contains(&asked), "{asked}");
    // So it is where what a node says cannot be read.
    removes(&mut world, "eve");
    let unreadable = Message::new("members", r#"{"of":"another build"}"#);
    node.deliver(&Target::Nodes, unreadable);
    world.run(seconds(11));
    assert_eq!(put_out(&mut clients), [true, false, false]);
}

//! Who is a member, what is open to members alone, and what they are told.

use std::sync::OnceLock;

use heartline::auth::BoxFuture;
use heartline::backplane::local::LocalBackplane;
use heartline::backplane::{Backplane, Message, Node, Target};
use heartline::config::RecoveryConfig;
use heartline::entries::UserPresence;
use heartline::store::conversations::Conversations;
use heartline::{
    Admitted, DeviceLimitReached, Newcomer, Presence, RoomAddress, SocketAddress, Sockets,
};
use heartline_core::time::Moment;
use heartline_wire::time::Micros;

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_conversation_is_open_to_its_members_and_to_tokens_that_name_it() {
    let (gateway, address) = start(gateway()).await;
    for (token, open) in [
        ("ann", false),
        ("ann/lobby", false),
        ("ben/conversation:1", true),
        // He has come by his token, and this one says nothing against it.
        ("ben", true),
        ("ben/lobby", false),
        ("eve/conversation:*", true),
    ] {
        assert_eq!(is_open(&address, token).await, open, "{token}");
    }
    assert_eq!(members(&gateway).await, ["ben", "eve"]);
    add(&gateway, "ann").await;
    for token in ["ann", "ann/lobby"] {
        assert!(is_open(&address, token).await, "{token}");
    }
    assert_eq!(gateway.remove_member("1", &user("ann")).await, Ok(true));
    assert_eq!(gateway.remove_member("1", &user("ann")).await, Ok(false));
    for token in ["ann", "ann/lobby"] {
        assert!(!is_open(&address, token).await, "{token}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_joins_writes_or_has_a_token_for_it_is_a_member() {
    let (gateway, address) = start(gateway()).await;
    let mut joins = socketio(&address, "joins/conversation:*").await;
    ask(&mut joins, "join", r#""conversation:1""#).await;
    assert_eq!(members(&gateway).await, ["joins"]);
    let mut writes = socketio(&address, "writes/conversation:*").await;
    ask(&mut writes, "message:send", SAY).await;
    assert_eq!(members(&gateway).await, ["joins", "writes"]);
    let mut reads = socketio(&address, "reads/conversation:*").await;
    ask(&mut reads, "history:get", r#"{"conversationId":"1"}"#).await;
    let _named = socketio(&address, "named/conversation:1").await;
    let told = joins.hear(r#""userId":"named"}]"#).await;
    assert_eq!(
        told,
        r#"42["member:joined",{"conversationId":"1","userId":"named"}]"#
    );
    assert_eq!(members(&gateway).await, ["joins", "named", "writes"]);
    // Once is enough.
    ask(&mut joins, "join", r#""conversation:1""#).await;
    ask(&mut joins, "message:send", SAY).await;
    hears_nothing_of(&mut joins, "member:joined").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_no_member_any_more_leaves_the_room_and_is_told() {
    let (gateway, address) = start(gateway()).await;
    add(&gateway, "ann").await;
    add(&gateway, "ben").await;
    let mut ann = socketio(&address, "ann").await;
    let mut also_ann = live(&address, "ann/lobby").await;
    let mut by_token = socketio(&address, "ann/conversation:*").await;
    let mut ben = socketio(&address, "ben").await;
    for client in [&mut ann, &mut by_token, &mut ben] {
        ask(client, "join", r#""conversation:1""#).await;
    }
    let subscribe = r#"{"type":"subscribe","topic":"conversation:1","id":7}"#;
    also_ann.send(subscribe).await;
    also_ann.hear("subscribed").await;

    assert_eq!(gateway.remove_member("1", &user("ann")).await, Ok(true));
    assert_eq!(
        ben.hear("member:left").await,
        r#"42["member:left",{"conversationId":"1","userId":"ann"}]"#
    );
    ann.hear(r#"42["room:left",{"room":"conversation:1","reason":"forbidden"}]"#)
        .await;
    also_ann
        .hear(r#"{"type":"unsubscribed","topic":"conversation:1","reason":"forbidden"}"#)
        .await;
    ask(&mut ben, "message:send", SAY).await;
    assert!(by_token.hear("message:new").await.contains("hello"));
    hears_nothing_of(&mut ann, "hello").await;
    also_ann.send(r#"{"type":"ping","id":8}"#).await;
    loop {
        let frame = also_ann.next().await;
        assert!(!frame.contains("hello"), "{frame}");
        if frame.contains(r#""id":8"#) {
            break;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_was_removed_by_somebody_who_could_not_tell_leaves_when_that_is_asked_again() {
    let store = slow();
    let (gateway, address) = start(gateway().store(store.clone())).await;
    add(&gateway, "ann").await;
    add(&gateway, "ben").await;
    let mut ann = socketio(&address, "ann").await;
    let mut ben = socketio(&address, "ben").await;
    for client in [&mut ann, &mut ben] {
        ask(client, "join", r#""conversation:1""#).await;
    }
    // As a node does that is killed behind it, or a store whose answer is lost.
    let removed = store.remove_member("1", &user("ann")).await;
    assert_eq!(removed, Ok(true));
    assert_eq!(gateway.remove_member("1", &user("ann")).await, Ok(false));
    ann.hear(r#"42["room:left",{"room":"conversation:1","reason":"forbidden"}]"#)
        .await;
    ask(&mut ben, "message:send", SAY).await;
    hears_nothing_of(&mut ann, "hello").await;
    // Nobody else is looked at, and nobody is told twice.
    assert_eq!(gateway.remove_member("1", &user("eve")).await, Ok(false));
    hears_nothing_of(&mut ben, "left").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn members_hear_of_messages_wherever_they_are_and_others_do_not() {
    let (gateway, address) = start(gateway()).await;
    for id in ["ann", "ben", "eve"] {
        add(&gateway, id).await;
    }
    let mut ann = socketio(&address, "ann").await;
    let mut ben = socketio(&address, "ben/lobby").await;
    let mut eve = live(&address, "eve").await;
    let mut stranger = socketio(&address, "stranger").await;
    ask(&mut ann, "message:send", SAY).await;
    let heard = ben.hear("message:").await;
    assert!(heard.starts_with(r#"42["message:notification",{"conversationId":"1""#));
    assert!(eve.hear("message:").await.contains("notification"));
    hears_nothing_of(&mut ann, "notification").await;
    hears_nothing_of(&mut stranger, "hello").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_anonymous_socket_gets_into_no_conversation_whoever_puts_it_there() {
    let (gateway, address) = start(gateway()).await;
    let mut nobody = Client::connect(&address, "").await;
    let refused = ask(&mut nobody, "join", r#""conversation:1""#).await;
    assert!(refused.contains("AUTH_REQUIRED"), "{refused}");
    let mut ann = socketio(&address, "ann").await;
    let all = Sockets {
        tenant_id: None,
        namespace: "/".into(),
        rooms: Vec::new(),
        except: Vec::new(),
    };
    let moved = gateway.join_sockets(&all, "conversation:1").await.unwrap();
    assert_eq!(moved.sockets, 1);
    add(&gateway, "ben").await;
    let mut ben = socketio(&address, "ben").await;
    ask(&mut ben, "message:send", SAY).await;
    assert!(ann.hear("message:new").await.contains("hello"));
    hears_nothing_of(&mut nobody, "hello").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn events_keep_their_order_while_the_store_is_asked_for_members() {
    let (gateway, address) = start(gateway()).await;
    add(&gateway, "ann").await;
    let mut ann = socketio(&address, "ann").await;
    let say = |number: u8| {
        format!(r#"42{number}["message:send",{{"conversationId":"1","content":"{number}"}}]"#)
    };
    ann.send_all(&[
        &say(1),
        &say(2),
        r#"423["join","conversation:1"]"#,
        r#"424["publish",{"room":"conversation:1","event":"e","data":4}]"#,
        &say(5),
    ])
    .await;
    ann.hear("435[").await;
    let history = ask(&mut ann, "history:get", r#"{"conversationId":"1"}"#).await;
    let contents: Vec<&str> = history.split(r#""content":""#).skip(1).collect();
    let first = |text: &&str| text[..1].to_owned();
    assert_eq!(contents.iter().map(first).collect::<String>(), "125");
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_a_backend_puts_into_the_room_is_a_member() {
    let (gateway, address) = start(gateway()).await;
    let mut ann = socketio(&address, "ann").await;
    let mut other = socketio(&address, "eve/lobby").await;
    let which = |users: &[&str]| Sockets {
        tenant_id: None,
        namespace: "/".into(),
        rooms: users.iter().map(|user| format!("user:{user}")).collect(),
        except: Vec::new(),
    };
    let room = "conversation:1";
    let joined = gateway.join_sockets(&which(&["ann", "eve"]), room).await;
    assert_eq!(joined.unwrap().sockets, 2);
    assert_eq!(members(&gateway).await, ["ann", "eve"]);
    for client in [&mut ann, &mut other] {
        let answer = ask(client, "message:send", SAY).await;
        assert!(answer.contains(r#""ok":true"#), "{answer}");
    }
    // As with who leaves the room themselves, the membership stays.
    let left = gateway.leave_sockets(&which(&["ann"]), room).await;
    assert_eq!(left.unwrap().sockets, 1);
    assert_eq!(members(&gateway).await, ["ann", "eve"]);
    ask(&mut other, "message:send", SAY).await;
    ann.hear("message:notification").await;
}

/// One of two nodes, which hand each other at once what they publish.
struct Paired {
    own: LocalBackplane,
    node: Arc<OnceLock<Arc<dyn Node>>>,
    other: Arc<OnceLock<Arc<dyn Node>>>,
}

impl Paired {
    fn two() -> [Paired; 2] {
        let nodes: [Arc<OnceLock<Arc<dyn Node>>>; 2] = Default::default();
        [0, 1].map(|at| {
            let now = || Moment {
                at: Micros::ZERO,
                unix_millis: 1,
            };
            Paired {
                own: LocalBackplane::new(Duration::ZERO, Box::new(now)),
                node: nodes[at].clone(),
                other: nodes[1 - at].clone(),
            }
        })
    }
}

impl Backplane for Paired {
    fn attach(&self, node: Arc<dyn Node>) {
        let _ = self.node.set(node.clone());
        self.own.attach(node);
    }

    fn connect(&self, newcomer: Newcomer) -> BoxFuture<Result<Admitted, DeviceLimitReached>> {
        self.own.connect(newcomer)
    }

    fn disconnect(&self, user: &Arc<UserKey>, socket: SocketAddress, keep: Duration) {
        self.own.disconnect(user, socket, keep);
    }

    fn enter_room(&self, user: &Arc<UserKey>, socket: SocketAddress, place: RoomAddress) {
        self.own.enter_room(user, socket, place);
    }

    fn leave_room(&self, user: &Arc<UserKey>, socket: SocketAddress, place: &RoomAddress) {
        self.own.leave_room(user, socket, place);
    }

    fn presence(
        &self,
        tenant: Option<Arc<str>>,
        users: Vec<String>,
    ) -> BoxFuture<Vec<UserPresence>> {
        self.own.presence(tenant, users)
    }

    fn local(&self) -> &Presence {
        self.own.local()
    }

    fn publish(&self, target: &Target<'_>, message: &Message) {
        if let Some(other) = self.other.get() {
            other.deliver(target, message.clone());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_node_changes_holds_on_the_other_at_once() {
    let store = slow();
    let [one, two] = Paired::two();
    let (one, _) = start(gateway_with(false, store.clone()).backplane(one)).await;
    let (_two, address) = start(gateway_with(false, store).backplane(two)).await;
    let mut ann = socketio(&address, "ann").await;
    let join = r#""conversation:1""#;
    assert!(ask(&mut ann, "join", join).await.contains("FORBIDDEN"));
    // That is remembered there; and now it is not so any more.
    add(&one, "ann").await;
    assert!(ask(&mut ann, "join", join).await.contains(r#""ok":true"#));
    add(&one, "ben").await;
    assert!(ann.hear("member:joined").await.contains("ben"));
    assert_eq!(one.remove_member("1", &user("ann")).await, Ok(true));
    ann.hear(r#"42["room:left",{"room":"conversation:1","reason":"forbidden"}]"#)
        .await;
    assert!(ask(&mut ann, "join", join).await.contains("FORBIDDEN"));
}

/// The text of a member of a CONNECT's answer.
fn text_of(answer: &str, name: &str) -> String {
    let start = answer.find(&format!(r#""{name}":""#)).unwrap() + name.len() + 4;
    answer[start..].split('"').next().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn who_comes_back_is_in_the_conversations_that_are_still_open() {
    let config = Config {
        conversations: ConversationsConfig::default(),
        recovery: RecoveryConfig {
            window: Some(Duration::from_secs(60)),
            ..RecoveryConfig::default()
        },
        ..config()
    };
    let builder = Gateway::builder(config).authenticator(Names);
    let (gateway, address) = start(builder.store(slow())).await;
    for id in ["1", "2"] {
        let added = gateway.add_members(id, &[user("ann"), user("ben")]).await;
        assert_eq!(added, [Ok(Added::New), Ok(Added::New)]);
    }
    let mut ann = Client::open(&address).await;
    ann.send(r#"40{"token":"ann/lobby"}"#).await;
    let pid = text_of(&ann.hear("40{").await, "pid");
    for id in ["1", "2"] {
        ask(&mut ann, "join", &format!(r#""conversation:{id}""#)).await;
    }
    drop(ann);
    let sockets = || gateway.counts().sockets;
    until(|| sockets() == 0).await;
    assert_eq!(gateway.remove_member("2", &user("ann")).await, Ok(true));
    let mut ben = Client::connect(&address, r#"{"token":"ben"}"#).await;
    for id in ["1", "2"] {
        let say = format!(r#"{{"conversationId":"{id}","content":"in {id}"}}"#);
        assert!(
            ask(&mut ben, "message:send", &say)
                .await
                .contains(r#""ok":true"#)
        );
    }
    let mut ann = Client::open(&address).await;
    ann.send(&format!(r#"40{{"token":"ann/lobby","pid":"{pid}"}}"#))
        .await;
    let heard = ann.hear_until(r#"428["ping"]"#, "438[").await.join("\n");
    assert!(heard.contains(&pid), "it is the same: {heard}");
    assert!(heard.contains("in 1") && !heard.contains("in 2"), "{heard}");
    let left = r#"42["room:left",{"room":"conversation:2","reason":"forbidden"}"#;
    assert!(heard.contains(left), "{heard}");
}

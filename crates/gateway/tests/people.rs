//! Who belongs to a conversation, and what that opens.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use heartline::auth::{BoxFuture, UserKey};
use heartline::backplane::local::LocalBackplane;
use heartline::backplane::{Backplane, Message, Node, Target};
use heartline::config::{ConversationsConfig, RecoveryConfig};
use heartline::entries::UserPresence;
use heartline::store::conversations::{
    Added, Conversations, Inbox, InboxQuery, Marked, Member, Membership,
};
use heartline::store::invites::{Invite, InviteQuery, Invites, NewInvite, Unusable, Used};
use heartline::store::memory::MemoryStore;
use heartline::store::{History, HistoryQuery, MessageStore, NewMessage, StoreError, Stored, Tell};
use heartline::{
    Admitted, Config, DeviceLimitReached, Gateway, GatewayBuilder, Newcomer, Presence, RoomAddress,
    SocketAddress, Sockets,
};
use heartline_core::time::Moment;
use heartline_wire::time::Micros;
use support::{Client, Names, config, hears_nothing_of, live, socketio, start, until};
use tokio::sync::Semaphore;

#[path = "support/conversations_of.rs"]
mod conversations_of;
#[path = "support/invites_of.rs"]
mod invites_of;
mod support;

/// A store that takes its time to say who belongs to a conversation, and counts how often a
/// marker is written.
#[derive(Default, Clone)]
struct Slow(Arc<MemoryStore>, Arc<AtomicUsize>);

impl MessageStore for Slow {
    fn append(&self, message: NewMessage, tell: Tell) -> BoxFuture<Result<Stored, StoreError>> {
        self.0.append(message, tell)
    }

    fn history(&self, query: HistoryQuery) -> BoxFuture<Result<History, StoreError>> {
        self.0.history(query)
    }
}

impl Conversations for Slow {
    fn add_member(
        &self,
        conversation_id: &str,
        user: &Arc<UserKey>,
        membership: Membership,
        now: u64,
    ) -> BoxFuture<Result<Added, StoreError>> {
        self.0.add_member(conversation_id, user, membership, now)
    }

    fn remove_member(
        &self,
        conversation_id: &str,
        user: &Arc<UserKey>,
    ) -> BoxFuture<Result<bool, StoreError>> {
        self.0.remove_member(conversation_id, user)
    }

    fn members(
        &self,
        tenant: Option<&str>,
        conversation_id: &str,
    ) -> BoxFuture<Result<Vec<Member>, StoreError>> {
        let members = self.0.members(tenant, conversation_id);
        Box::pin(async {
            tokio::time::sleep(Duration::from_millis(20)).await;
            members.await
        })
    }

    fn mark_read(
        &self,
        conversation_id: &str,
        user: &Arc<UserKey>,
        offset: u64,
        now: u64,
    ) -> BoxFuture<Result<Option<Marked>, StoreError>> {
        self.1.fetch_add(1, Ordering::Relaxed);
        self.0.mark_read(conversation_id, user, offset, now)
    }

    fn inbox(&self, query: InboxQuery) -> BoxFuture<Result<Inbox, StoreError>> {
        self.0.inbox(query)
    }
}

invites_of::has_invites_of!(Slow, 0);

/// Where conversations are open to their members alone.
fn gateway() -> GatewayBuilder {
    let config = Config {
        hello: true,
        conversations: ConversationsConfig::default(),
        ..config()
    };
    Gateway::builder(config)
        .authenticator(Names)
        .store(Slow::default())
}

fn user(id: &str) -> Arc<UserKey> {
    Arc::new(UserKey {
        tenant_id: None,
        user_id: id.into(),
        user_type: None,
    })
}

async fn add(gateway: &Gateway, id: &str) {
    let added = gateway.add_members("1", &[user(id)]).await;
    assert_eq!(added, [Ok(Added::New)]);
}

async fn members(gateway: &Gateway) -> Vec<String> {
    let page = gateway.conversation_members(None, "1", None, 100).await;
    let members = page.unwrap().unwrap().items.into_iter();
    members.map(|member| member.user_id).collect()
}

/// The answer to an event of a Socket.IO client.
async fn ask(client: &mut Client, event: &str, data: &str) -> String {
    client.send(&format!(r#"429["{event}",{data}]"#)).await;
    client.hear("439[").await
}

const SAY: &str = r#"{"conversationId":"1","content":"hello"}"#;

/// Whether each way into conversation 1 is open to a client of either protocol.
async fn is_open(address: &str, token: &str) -> bool {
    let mut client = socketio(address, token).await;
    let mut opened = Vec::new();
    for (event, data) in [
        ("join", r#""conversation:1""#),
        ("join:conversation", r#"1"#),
        ("history:get", r#"{"conversationId":"1"}"#),
        ("message:send", SAY),
        (
            "publish",
            r#"{"room":"conversation:1","event":"e","data":1}"#,
        ),
    ] {
        let answer = ask(&mut client, event, data).await;
        let ok = answer.contains(r#""ok":true"#);
        assert!(ok || answer.contains("FORBIDDEN"), "{answer}");
        opened.push(ok);
    }
    let mut listener = live(address, token).await;
    let subscribe = r#"{"type":"subscribe","topic":"conversation:1","id":7}"#;
    listener.send(subscribe).await;
    let answer = listener.hear(r#""id":7"#).await;
    let ok = answer.contains("subscribed");
    assert!(ok || answer.contains("FORBIDDEN"), "{answer}");
    opened.push(ok);
    assert!(opened.iter().all(|one| *one == opened[0]), "{opened:?}");
    opened[0]
}

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
    let store = Slow::default();
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

fn gateway_with(receipts: bool, store: Slow) -> GatewayBuilder {
    let config = Config {
        hello: true,
        conversations: ConversationsConfig {
            receipts,
            ..ConversationsConfig::default()
        },
        ..config()
    };
    Gateway::builder(config).authenticator(Names).store(store)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_read_within_a_moment_is_written_once_and_told_to_the_users_other_sockets() {
    let writes = Arc::new(AtomicUsize::new(0));
    let store = Slow(Arc::default(), writes.clone());
    let (gateway, address) = start(gateway_with(false, store)).await;
    for id in ["ann", "ben"] {
        add(&gateway, id).await;
    }
    let mut ann = socketio(&address, "ann").await;
    let mut also_ann = live(&address, "ann").await;
    let mut ben = socketio(&address, "ben").await;
    for client in [&mut ann, &mut ben] {
        ask(client, "join", r#""conversation:1""#).await;
    }
    for _ in 0..5 {
        ask(&mut ben, "message:send", SAY).await;
    }
    let all: Vec<String> = [3, 1, 4, 2, 9]
        .iter()
        .map(|offset| format!(r#"42{offset}["read",{{"conversationId":1,"offset":{offset}}}]"#))
        .collect();
    let all: Vec<&str> = all.iter().map(String::as_str).collect();
    ann.send_all(&all).await;
    for _ in 0..5 {
        let answer = ann.hear(r#"[{"ok":true"#).await;
        // Nobody has read further than there is.
        let expected = r#"[{"ok":true,"conversationId":"1","offset":5}]"#;
        assert!(answer.ends_with(expected), "{answer}");
    }
    assert_eq!(writes.load(Ordering::Relaxed), 1);
    let read = r#"{"conversationId":"1","userId":"ann","offset":5}"#;
    let heard = also_ann.hear("message:read").await;
    assert!(heard.contains(read), "{heard}");
    // Backwards: nothing moves, and nobody is told.
    let answer = ask(&mut ann, "read", r#"{"conversationId":"1","offset":2}"#).await;
    assert!(answer.contains(r#""offset":5"#), "{answer}");
    for client in [&mut ann, &mut ben] {
        hears_nothing_of(client, "message:read").await;
    }
    for (token, data, code) in [
        ("eve", r#"{"conversationId":"1","offset":2}"#, "FORBIDDEN"),
        (
            "eve",
            r#"{"conversationId":"1","offset":-1}"#,
            "INVALID_DATA",
        ),
        ("eve", r#"{"offset":1}"#, "INVALID_DATA"),
    ] {
        let mut client = socketio(&address, token).await;
        let answer = ask(&mut client, "read", data).await;
        assert!(answer.contains(code), "{answer}");
    }
    let mut nobody = Client::connect(&address, "").await;
    for (event, data) in [
        ("read", r#"{"conversationId":"1","offset":2}"#),
        ("inbox:get", "{}"),
    ] {
        let answer = ask(&mut nobody, event, data).await;
        assert!(answer.contains("AUTH_REQUIRED"), "{answer}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_reads_is_a_member_or_is_refused_and_becomes_none_by_it() {
    let (gateway, address) = start(gateway()).await;
    add(&gateway, "ben").await;
    let mut ben = socketio(&address, "ben").await;
    ask(&mut ben, "message:send", SAY).await;
    // The token opens the conversation, and names none.
    let mut eve = socketio(&address, "eve/conversation:*").await;
    let read = r#"{"conversationId":"1","offset":1}"#;
    for (event, data) in [
        ("history:get", r#"{"conversationId":"1"}"#),
        ("presence:get", r#"{"users":["ben"]}"#),
    ] {
        ask(&mut eve, event, data).await;
    }
    let answer = ask(&mut eve, "read", read).await;
    assert!(answer.contains("FORBIDDEN"), "{answer}");
    assert_eq!(members(&gateway).await, ["ben"]);
    // Who has joined is one, also at once.
    let mut live_eve = live(&address, "eve/conversation:*").await;
    live_eve
        .send(r#"{"type":"subscribe","topic":"conversation:1"}"#)
        .await;
    let data = r#"{"type":"emit","event":"read","id":1,"data":{"conversationId":"1","offset":1}}"#;
    live_eve.send(data).await;
    let answer = live_eve.hear(r#""type":"ack""#).await;
    assert!(answer.contains(r#""ok":true"#), "{answer}");
    assert_eq!(members(&gateway).await, ["ben", "eve"]);
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

#[tokio::test(flavor = "multi_thread")]
async fn with_receipts_the_room_hears_how_far_others_have_read_each_once() {
    let (gateway, address) = start(gateway_with(true, Slow::default())).await;
    for id in ["ann", "ben"] {
        add(&gateway, id).await;
    }
    let mut ann = socketio(&address, "ann").await;
    let mut in_room = socketio(&address, "ann").await;
    let mut elsewhere = socketio(&address, "ann").await;
    let mut ben = socketio(&address, "ben").await;
    for client in [&mut ann, &mut in_room, &mut ben] {
        ask(client, "join", r#""conversation:1""#).await;
    }
    ask(&mut ben, "message:send", SAY).await;
    ask(&mut ann, "read", r#"{"conversationId":"1","offset":1}"#).await;
    for client in [&mut in_room, &mut elsewhere, &mut ben] {
        let heard = client.hear("message:read").await;
        assert!(heard.contains(r#""userId":"ann","offset":1"#), "{heard}");
        hears_nothing_of(client, "message:read").await;
    }
    hears_nothing_of(&mut ann, "message:read").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_inbox_has_what_is_new_and_nothing_that_the_token_closes() {
    let (gateway, address) = start(gateway()).await;
    let mut ben = socketio(&address, "ben/conversation:*").await;
    for id in ["1", "2", "3"] {
        let added = gateway.add_members(id, &[user("ann")]).await;
        assert_eq!(added, [Ok(Added::New)]);
    }
    let mut ann = socketio(&address, "ann").await;
    let say = async |client: &mut Client, id: &str, content: &str| {
        let data = format!(r#"{{"conversationId":"{id}","content":"{content}"}}"#);
        assert!(
            ask(client, "message:send", &data)
                .await
                .contains(r#""ok":true"#)
        );
        // Another moment, by which the newest is known.
        let before = gateway.unix_millis();
        until(|| gateway.unix_millis() > before).await;
    };
    for (id, content) in [("2", "a"), ("1", "b"), ("2", "c"), ("1", "d")] {
        say(&mut ben, id, content).await;
    }
    say(&mut ann, "1", "e").await;
    say(&mut ben, "1", "f").await;
    let inbox = ask(&mut ann, "inbox:get", "{}").await;
    let part = |id: &str, head: u64, read: u64, unread: u64| {
        format!(
            r#""conversationId":"{id}","head":{head},"readOffset":{read},"unread":{unread},"last":"#
        )
    };
    let place = |text: &str| inbox.find(text).unwrap_or_else(|| panic!("{inbox}"));
    // Who writes has read what was before.
    let newest_first = [
        &part("1", 4, 3, 1),
        &part("2", 2, 0, 2),
        &part("3", 0, 0, 0),
    ]
    .map(|it| place(it));
    assert!(newest_first.is_sorted(), "{inbox}");
    assert!(
        inbox.contains(r#""content":"f""#) && inbox.contains(r#""last":null"#),
        "{inbox}"
    );
    assert!(!inbox.contains(r#""next""#), "{inbox}");
    let first = ask(&mut ann, "inbox:get", r#"{"limit":1}"#).await;
    assert!(first.contains(&part("1", 4, 3, 1)), "{first}");
    let next = first
        .split(r#""next":""#)
        .nth(1)
        .unwrap()
        .split('"')
        .next()
        .unwrap();
    let second = ask(
        &mut ann,
        "inbox:get",
        &format!(r#"{{"limit":1,"cursor":"{next}"}}"#),
    )
    .await;
    assert!(second.contains(&part("2", 2, 0, 2)), "{second}");
    for wrong in [r#"{"limit":0}"#, r#"{"limit":101}"#, r#"{"cursor":"x"}"#] {
        let answer = ask(&mut ann, "inbox:get", wrong).await;
        assert!(answer.contains("INVALID_DATA"), "{answer}");
    }
    // Ben came by a token that names them all; this one names another room.
    for (token, many) in [("ben", 2), ("ben/lobby", 0)] {
        let mut ben = socketio(&address, token).await;
        ben.send(r#"429["inbox:get"]"#).await;
        let inbox = ben.hear("439[").await;
        assert_eq!(inbox.matches("readOffset").count(), many, "{inbox}");
    }
}

async fn invite(gateway: &Gateway, max_uses: Option<u32>, expires_at: Option<u64>) -> String {
    let new = NewInvite {
        conversation_id: "1".into(),
        max_uses,
        expires_at,
        ..NewInvite::default()
    };
    gateway.create_invite(new).await.unwrap().code
}

#[tokio::test(flavor = "multi_thread")]
async fn who_comes_by_an_invite_is_in_whatever_the_token_says_and_uses_one_place() {
    let (gateway, address) = start(gateway()).await;
    let code = invite(&gateway, Some(2), None).await;
    add(&gateway, "ben").await;
    let mut ben = socketio(&address, "ben").await;
    ask(&mut ben, "join", r#""conversation:1""#).await;
    let mut ann = socketio(&address, "ann/lobby").await;
    let paste = format!(r#"{{"code":" https://app.example/invite/{code}/?x=1#y "}}"#);
    for _ in 0..3 {
        let answer = ask(&mut ann, "invite:join", &paste).await;
        let expected = r#"[{"ok":true,"conversationId":"1","room":"conversation:1"}]"#;
        assert!(answer.ends_with(expected), "{answer}");
    }
    assert!(
        ben.hear("member:joined")
            .await
            .contains(r#""userId":"ann""#)
    );
    assert!(is_open(&address, "ann/lobby").await);
    let mut eve = live(&address, "eve").await;
    let frame = format!(r#"{{"type":"emit","event":"invite:join","data":"{code}","id":7}}"#);
    eve.send(&frame).await;
    assert!(eve.hear(r#""id":7"#).await.contains(r#""ok":true"#));
    let mut dan = socketio(&address, "dan").await;
    let answer = ask(&mut dan, "invite:join", &format!(r#""{code}""#)).await;
    assert!(answer.contains("INVITE_EXHAUSTED"), "{answer}");
    let used = gateway.store().invite(&code).await.unwrap().unwrap();
    assert_eq!(used.uses, 2);
    assert_eq!(members(&gateway).await, ["ann", "ben", "eve"]);
    // Who was put out comes back while the invite holds, and not when it is taken back.
    let put_out = async || assert_eq!(gateway.remove_member("1", &user("ann")).await, Ok(true));
    put_out().await;
    assert!(!is_open(&address, "ann/lobby").await);
    let answer = ask(&mut ann, "invite:join", &paste).await;
    assert!(answer.contains(r#""ok":true"#), "{answer}");
    assert_eq!(
        gateway.store().invite(&code).await.unwrap().unwrap().uses,
        2
    );
    // Who comes back by a token is no invited member, and is one again by the invite.
    put_out().await;
    assert!(is_open(&address, "ann/conversation:1").await);
    assert!(!is_open(&address, "ann/lobby").await);
    let answer = ask(&mut ann, "invite:join", &paste).await;
    assert!(answer.contains(r#""ok":true"#), "{answer}");
    assert!(is_open(&address, "ann/lobby").await);
    gateway.store().revoke_invite(&code, 1).await.unwrap();
    let answer = ask(&mut ann, "invite:join", &paste).await;
    assert!(answer.contains(r#""ok":true"#), "{answer}");
    let used = gateway.store().invite(&code).await.unwrap().unwrap();
    assert_eq!(used.uses, 2);
    put_out().await;
    let answer = ask(&mut ann, "invite:join", &paste).await;
    assert!(answer.contains("INVITE_REVOKED"), "{answer}");
}

/// A store in which an invite is used when the test lets it be.
#[derive(Clone)]
struct Gated {
    store: Arc<MemoryStore>,
    gate: Arc<Semaphore>,
    /// How many uses have been asked for.
    asked: Arc<AtomicUsize>,
}

impl MessageStore for Gated {
    fn append(&self, message: NewMessage, tell: Tell) -> BoxFuture<Result<Stored, StoreError>> {
        self.store.append(message, tell)
    }

    fn history(&self, query: HistoryQuery) -> BoxFuture<Result<History, StoreError>> {
        self.store.history(query)
    }
}

conversations_of::has_conversations_of!(Gated, store);

impl Invites for Gated {
    fn create_invite(&self, code: &str, new: NewInvite) -> BoxFuture<Result<bool, StoreError>> {
        self.store.create_invite(code, new)
    }

    fn invite(&self, code: &str) -> BoxFuture<Result<Option<Invite>, StoreError>> {
        self.store.invite(code)
    }

    fn invites(&self, query: InviteQuery) -> BoxFuture<Result<Vec<Invite>, StoreError>> {
        self.store.invites(query)
    }

    fn revoke_invite(&self, code: &str, now: u64) -> BoxFuture<Result<Option<Invite>, StoreError>> {
        self.store.revoke_invite(code, now)
    }

    fn use_invite(
        &self,
        code: &str,
        user: &Arc<UserKey>,
        now: u64,
    ) -> BoxFuture<Result<Result<Used, Unusable>, StoreError>> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        let (all, code, user) = (self.clone(), code.to_owned(), user.clone());
        Box::pin(async move {
            all.gate.acquire().await.unwrap().forget();
            all.store.use_invite(&code, &user, now).await
        })
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_client_says_behind_an_invite_finds_it_used() {
    let store = Gated {
        store: Arc::default(),
        gate: Arc::new(Semaphore::new(0)),
        asked: Arc::default(),
    };
    let gate = store.gate.clone();
    let asked = store.asked.clone();
    let config = Config {
        hello: true,
        conversations: ConversationsConfig::default(),
        ..config()
    };
    let builder = Gateway::builder(config).authenticator(Names).store(store);
    let (gateway, address) = start(builder).await;
    let code = invite(&gateway, None, None).await;
    let mut other = socketio(&address, "other").await;
    let mut ann = socketio(&address, "ann").await;
    ann.send_all(&[
        &format!(r#"421["invite:join","{code}"]"#),
        r#"422["join","conversation:1"]"#,
        &format!(r#"423["message:send",{SAY}]"#),
    ])
    .await;
    let mut bob = live(&address, "bob").await;
    bob.send_all(&[
        &format!(r#"{{"type":"emit","event":"invite:join","data":"{code}","id":1}}"#),
        r#"{"type":"subscribe","topic":"conversation:1","id":2}"#,
        &format!(r#"{{"type":"emit","event":"message:send","data":{SAY},"id":3}}"#),
    ])
    .await;
    until(|| asked.load(Ordering::SeqCst) == 2).await;
    // All that can be done is.
    ask(&mut other, "ping", "1").await;
    gate.add_permits(2);
    for _ in 0..3 {
        let answer = ann.hear(r#"[{"ok":"#).await;
        assert!(answer.contains(r#""ok":true"#), "{answer}");
    }
    let joined = bob.hear(r#""id":2"#).await;
    assert!(joined.contains("subscribed"), "{joined}");
    let answer = bob.hear(r#""id":3"#).await;
    assert!(answer.contains(r#""ok":true"#), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn invites_that_do_not_hold_say_why_and_guesses_are_limited() {
    let (gateway, address) = start(gateway()).await;
    let expired = invite(&gateway, None, Some(1)).await;
    let good = invite(&gateway, None, None).await;
    let mut nobody = Client::connect(&address, "").await;
    let answer = ask(&mut nobody, "invite:join", &format!(r#""{good}""#)).await;
    assert!(answer.contains("AUTH_REQUIRED"), "{answer}");
    let answer = ask(&mut nobody, "invite:join", "{}").await;
    assert!(answer.contains("AUTH_REQUIRED"), "{answer}");
    let mut ann = socketio(&address, "ann").await;
    for (pasted, code) in [
        (format!(r#""{expired}""#), "INVITE_EXPIRED"),
        (r#""no code""#.to_owned(), "INVALID_INVITE"),
        (r#"{"cod":"x"}"#.to_owned(), "INVALID_INVITE"),
        (r#"{"code":123}"#.to_owned(), "INVALID_INVITE"),
        ("null".to_owned(), "INVALID_INVITE"),
    ] {
        for _ in 0..12 {
            let answer = ask(&mut ann, "invite:join", &pasted).await;
            assert!(answer.contains(code), "{answer}");
        }
    }
    for _ in 0..10 {
        let answer = ask(&mut ann, "invite:join", r#""0123456789""#).await;
        assert!(answer.contains("INVITE_NOT_FOUND"), "{answer}");
    }
    // Neither she nor anybody at her address, until a minute is over.
    let mut ben = socketio(&address, "ben").await;
    for client in [&mut ann, &mut ben] {
        let answer = ask(client, "invite:join", &format!(r#""{good}""#)).await;
        assert!(
            answer.contains("RATE_LIMITED") && answer.contains("retryAfterMs"),
            "{answer}"
        );
    }
    // A backend's address is nobody's.
    let welcome = gateway.join_by_invite(&good, &user("ben"), None).await;
    assert_eq!(welcome.unwrap().room, "conversation:1");
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
    let store = Slow::default();
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
    let (gateway, address) = start(builder.store(Slow::default())).await;
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

//! How far members have read, and what is new to them.

use std::sync::atomic::Ordering;

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn what_is_read_within_a_moment_is_written_once_and_told_to_the_users_other_sockets() {
    let store = slow();
    let writes = store.marks.clone();
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
async fn with_receipts_the_room_hears_how_far_others_have_read_each_once() {
    let (gateway, address) = start(gateway_with(true, slow())).await;
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

//! Who may say what to whom, and in which order it takes effect.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

use heartline::{Config, Gateway, GatewayBuilder, Json, Socket};
use heartline_wire::{live, names, socketio};
use support::{Client, Names, config, hears_nothing_of, live, socketio, start};

mod support;

fn gateway() -> GatewayBuilder {
    Gateway::builder(Config {
        hello: true,
        ..config()
    })
    .authenticator(Names)
}

#[tokio::test(flavor = "multi_thread")]
async fn no_member_of_a_room_can_break_the_others_or_speak_as_the_gateway() {
    let (_gateway, address) = start(gateway()).await;
    let mut member = socketio(&address, "member").await;
    member.send(r#"421["join","r"]"#).await;
    member.hear("431[").await;
    let mut bad = live(&address, "bad").await;
    let mut also_bad = socketio(&address, "also-bad").await;
    let long = "x".repeat(names::MAX_EVENT + 1);
    let none = ["", &long];
    let gateways: Vec<&str> = names::GATEWAY_EVENTS.iter().map(|own| own.name).collect();
    let own = gateways
        .iter()
        .chain(&["server:anything", "presence:anything"])
        .chain(&socketio::RESERVED_EVENTS)
        .chain(live::RESERVED_TYPES)
        .chain(&none);
    for name in own {
        let frame =
            format!(r#"{{"type":"publish","topic":"r","event":"{name}","data":"forged","id":1}}"#);
        bad.send(&frame).await;
        let answer = bad.hear(r#""id":1"#).await;
        assert!(answer.contains("INVALID_EVENT"), "{name}: {answer}");
        let packet = format!(r#"421["publish",{{"room":"r","event":"{name}","data":"forged"}}]"#);
        also_bad.send(&packet).await;
        let answer = also_bad.hear("431[").await;
        assert!(answer.contains("INVALID_EVENT"), "{name}: {answer}");
    }
    hears_nothing_of(&mut member, "forged").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_has_a_bound_on_both_transports() {
    let (_gateway, address) = start(gateway()).await;
    let mut live = live(&address, "a").await;
    let mut socketio = socketio(&address, "b").await;
    for (length, answer) in [(256, r#""ok":true"#), (257, "INVALID_DATA")] {
        let key = "k".repeat(length);
        live.send(&format!(
            r#"{{"type":"publish","topic":"r","event":"e","data":1,"key":"{key}","id":1}}"#
        ))
        .await;
        assert!(live.hear(r#""id":1"#).await.contains(answer));
        socketio
            .send(&format!(
                r#"421["publish",{{"room":"r","event":"e","data":1,"key":"{key}"}}]"#
            ))
            .await;
        assert!(socketio.hear("431[").await.contains(answer));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_publishes_over_the_limit_by_far_is_closed_on_live_too() {
    let mut config = config();
    let root = config.namespaces.get_mut("/").unwrap();
    root.limits.events = Some(heartline::config::Limit::per(1, 1));
    let (_gateway, address) = start(Gateway::builder(config)).await;
    let mut client = Client::live(&address, "").await;
    let frame = r#"{"type":"publish","topic":"r","event":"e","data":1,"id":1}"#;
    client.send_all(&[frame; 110]).await;
    client.hear("RATE_LIMITED").await;
    assert_eq!(client.close_code().await, 4429);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_app_that_handles_publish_itself_gets_the_same_from_both_transports() {
    let builder = gateway().on(
        "publish",
        |Json(what): Json<serde_json::Value>| async move { Json(what) },
    );
    let (_gateway, address) = start(builder).await;
    let mut live = live(&address, "a").await;
    live.send(r#"{"type":"publish","topic":"a\"b","event":"e","data":{"x":1},"key":"k","id":1}"#)
        .await;
    assert_eq!(
        live.hear(r#""id":1"#).await,
        r#"{"type":"ack","id":1,"data":{"data":{"x":1},"event":"e","key":"k","room":"a\"b"}}"#
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_follows_a_join_finds_it_done() {
    let (_gateway, address) =
        start(gateway().on(
            "enter",
            |socket: Socket| async move { socket.join("own").await },
        ))
        .await;
    for round in 0..30 {
        let mut client = socketio(&address, &format!("s{round}")).await;
        client
            .send_all(&[
                r#"421["join",{"room":"x"}]"#,
                r#"422["publish",{"room":"x","event":"e","data":1}]"#,
                r#"423["join:round","7"]"#,
                r#"424["chat:send",{"room":"round:7","content":"hi"}]"#,
                r#"425["enter"]"#,
                r#"426["publish",{"room":"own","event":"e","data":2}]"#,
                r#"427["leave",{"room":"x"}]"#,
                r#"428["publish",{"room":"x","event":"e","data":3}]"#,
            ])
            .await;
        let mut heard = Vec::new();
        while heard
            .last()
            .is_none_or(|last: &String| !last.starts_with("438"))
        {
            heard.push(client.next().await);
        }
        let acks: Vec<&str> = heard
            .iter()
            .filter(|one| one.starts_with("43"))
            .map(|one| &one[..3])
            .collect();
        assert_eq!(
            acks,
            ["431", "432", "433", "434", "435", "436", "437", "438"]
        );
        let told: Vec<&String> = heard
            .iter()
            .filter(|one| one.contains(r#"["e","#))
            .collect();
        assert_eq!(told, [r#"42["e",1]"#, r#"42["e",2]"#], "round {round}");
        assert!(heard.iter().any(|one| one.contains("message:new")));

        let mut client = live(&address, &format!("l{round}")).await;
        client
            .send_all(&[
                r#"{"type":"emit","event":"join","data":"x","id":1}"#,
                r#"{"type":"publish","topic":"x","event":"e","data":1,"id":2}"#,
            ])
            .await;
        assert!(client.hear(r#""type":"ack""#).await.contains(r#""id":1"#));
        // Of those before, who may still be about to be announced as gone, nothing is said.
        let mut next = async || loop {
            let frame = client.hear(r#""type":"#).await;
            if !frame.contains(r#""type":"user:"#) {
                break frame;
            }
        };
        assert!(next().await.contains(r#""type":"e""#));
        assert!(next().await.contains(r#""id":2"#));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_socket_that_its_connect_handler_puts_into_a_room_is_there_at_its_first_event() {
    let builder = gateway().on_connect(|socket: Socket| async move { socket.join("all").await });
    let (_gateway, address) = start(builder).await;
    for _ in 0..30 {
        let mut client = Client::open(&address).await;
        client
            .send_all(&[
                "40",
                r#"421["publish",{"room":"all","event":"e","data":1}]"#,
            ])
            .await;
        client.hear(r#"42["e",1]"#).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn writing_in_an_open_room_opens_no_conversation() {
    let (_gateway, address) = start(gateway()).await;
    let mut writer = socketio(&address, "writer").await;
    let mut spy = socketio(&address, "spy/chat,42").await;
    spy.send(r#"421["join","conversation:42"]"#).await;
    assert!(spy.hear("431[").await.contains("FORBIDDEN"));
    spy.send(r#"422["chat:send",{"room":"42","content":"hello"}]"#)
        .await;
    assert!(spy.hear("432[").await.contains(r#""ok":true"#));
    spy.send(r#"423["chat:send",{"room":"conversation:42","content":"hello"}]"#)
        .await;
    assert!(spy.hear("433[").await.contains("INVALID_ROOM"));
    writer
        .send(r#"421["message:send",{"conversationId":"42","content":"a secret"}]"#)
        .await;
    assert!(writer.hear("431[").await.contains(r#""ok":true"#));
    hears_nothing_of(&mut spy, "a secret").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grant_that_is_gone_opens_nothing_more() {
    let (_gateway, address) = start(gateway()).await;
    let mut writer = socketio(&address, "writer").await;
    let mut reader = socketio(&address, "reader/conversation:*,r,s").await;
    let mut listener = live(&address, "listener/r,s").await;
    reader
        .send_all(&[
            r#"421["join","conversation:1"]"#,
            r#"422["join","r"]"#,
            r#"423["join","s"]"#,
        ])
        .await;
    assert!(reader.hear("433[").await.contains(r#""ok":true"#));
    for topic in ["r", "s"] {
        listener
            .send(&format!(r#"{{"type":"subscribe","topic":"{topic}"}}"#))
            .await;
        listener.hear("subscribed").await;
    }

    // A member that is not in the room hears of what is said there.
    reader.send(r#"424["leave","conversation:1"]"#).await;
    reader.hear("434[").await;
    let say = |content: &str| {
        format!(r#"421["message:send",{{"conversationId":"1","content":"{content}"}}]"#)
    };
    writer.send(&say("before")).await;
    assert!(reader.hear("message:notification").await.contains("before"));

    reader
        .send(r#"425["auth:refresh",{"token":"reader/s"}]"#)
        .await;
    assert_eq!(
        reader.hear("room:left").await,
        r#"42["room:left",{"room":"r","reason":"forbidden"}]"#
    );
    reader.hear("435[").await;
    listener
        .send(r#"{"type":"auth","token":"listener/s","id":9}"#)
        .await;
    assert_eq!(
        listener.hear("unsubscribed").await,
        r#"{"type":"unsubscribed","topic":"r","reason":"forbidden"}"#
    );
    writer
        .send_all(&[
            &say("after"),
            r#"422["publish",{"room":"r","event":"e","data":"after"}]"#,
            r#"423["publish",{"room":"s","event":"e","data":"still"}]"#,
        ])
        .await;
    for client in [&mut reader, &mut listener] {
        loop {
            let message = client.next().await;
            assert!(!message.contains("after"), "{message}");
            if message.contains("still") {
                break;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_temp_id_in_another_conversation_is_another_message() {
    let (_gateway, address) = start(gateway()).await;
    let mut client = socketio(&address, "writer").await;
    let mut ids = Vec::new();
    for conversation in [1, 2, 1] {
        client
            .send(&format!(
                r#"421["message:send",{{"conversationId":"{conversation}","content":"{conversation}","tempId":"t"}}]"#
            ))
            .await;
        let ack = client.hear("431[").await;
        let at = ack.find(r#""id":""#).unwrap() + 6;
        ids.push(ack[at..].split('"').next().unwrap().to_owned());
    }
    assert_ne!(ids[0], ids[1]);
    assert_eq!(ids[0], ids[2]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_id_that_is_none_is_refused_and_not_left_out() {
    let (_gateway, address) = start(gateway()).await;
    let long = format!("\"{}\"", "t".repeat(129));
    // Without it the same message would be stored once more each time.
    for event in ["message:send", "chat:send"] {
        let mut client = socketio(&address, event).await;
        for temp_id in ["true", "[]", "{}", "\"\\u0000\"", &long] {
            let data = format!(r#"{{"conversationId":"1","content":"hi","tempId":{temp_id}}}"#);
            client.send(&format!(r#"421["{event}",{data}]"#)).await;
            let ack = client.hear("431[").await;
            assert!(ack.contains("INVALID_DATA"), "{event} {temp_id}: {ack}");
            // Whoever waits for an answer knows it by its tempId.
            let is_named = ack.contains(&format!(r#""tempId":{temp_id}"#));
            assert_eq!(
                is_named,
                temp_id.starts_with('"'),
                "{event} {temp_id}: {ack}"
            );
        }
    }
    let mut client = socketio(&address, "writer").await;
    for temp_id in ["null", "7", "\"t\"", "\"\""] {
        let data = format!(r#"{{"content":"hi","tempId":{temp_id}}}"#);
        client.send(&format!(r#"421["chat:send",{data}]"#)).await;
        let ack = client.hear("431[").await;
        assert!(ack.contains(r#""ok":true"#), "{temp_id}: {ack}");
    }
    // What is meant for a room goes nowhere else.
    for room in ["true", "[\"r\"]", "{}", "\"\""] {
        let data = format!(r#"{{"content":"hi","room":{room}}}"#);
        client.send(&format!(r#"421["chat:send",{data}]"#)).await;
        let ack = client.hear("431[").await;
        assert!(ack.contains("INVALID_ROOM"), "{room}: {ack}");
    }
    let mut client = socketio(&address, "another").await;
    for id in ["true", "[]", "{\"id\":1}", "\"\""] {
        let data = format!(r#"{{"content":"hi","conversationId":{id}}}"#);
        client.send(&format!(r#"421["message:send",{data}]"#)).await;
        let ack = client.hear("431[").await;
        assert!(ack.contains("INVALID_ROOM"), "{id}: {ack}");
        assert!(ack.contains("conversationId must be"), "{id}: {ack}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_event_takes_a_list_for_an_object() {
    let (_gateway, address) = start(gateway()).await;
    let mut client = socketio(&address, "writer").await;
    let mut live = Client::live(&address, "?token=writer").await;
    live.hear("hello").await;
    for (event, data, code) in [
        ("join", r#"["r",true]"#, "INVALID_ROOM"),
        ("leave", r#"["r"]"#, "INVALID_ROOM"),
        ("publish", r#"["r","e",1,null,true]"#, "INVALID_DATA"),
        ("message:send", r#"["1",null,"x","t"]"#, "INVALID_CONTENT"),
        ("message:send", r#"["1",null,"x"]"#, "INVALID_CONTENT"),
        ("chat:send", r#"[null,"r","x",null]"#, "INVALID_CONTENT"),
        ("history:get", r#"["1",0,null,1]"#, "INVALID_DATA"),
        ("read", r#"["1",1]"#, "INVALID_DATA"),
        ("inbox:get", "[null,1]", "INVALID_DATA"),
        ("presence:get", r#"[["a"]]"#, "INVALID_DATA"),
        ("presence:watch", r#"[null,["a"],null]"#, "INVALID_DATA"),
        (
            "presence:watch",
            r#"{"users":["a"],"after":["e",1]}"#,
            "INVALID_DATA",
        ),
        ("presence:unwatch", "[null,null,null]", "INVALID_DATA"),
        ("invite:join", r#"["ABCDEFGHJK"]"#, "INVALID_INVITE"),
        ("auth:refresh", r#"["writer"]"#, "INVALID_DATA"),
        ("session:checkpoint", r#"[{"a":1},[0]]"#, "INVALID_DATA"),
    ] {
        client.send(&format!("421[\"{event}\",{data}]")).await;
        let ack = client.hear("431[").await;
        assert!(ack.contains(code), "{event} {data}: {ack}");
        live.send(&format!(
            r#"{{"type":"emit","event":"{event}","data":{data},"id":7}}"#
        ))
        .await;
        let ack = live.hear(r#""id":7"#).await;
        assert!(ack.contains(code), "{event} {data}: {ack}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_fit_is_said_in_words_of_the_sender() {
    let (_gateway, address) = start(gateway()).await;
    let mut client = socketio(&address, "writer").await;
    for (event, says) in [
        (r#"["publish",null]"#, "expected an object"),
        (r#"["publish","r"]"#, "expected an object"),
        (r#"["publish",[]]"#, "expected an object"),
        (r#"["publish",["r","e"]]"#, "expected an object"),
        (r#"["publish",{"room":1}]"#, "expected a string"),
        (r#"["publish",{"event":"e"}]"#, "missing field `room`"),
        (
            r#"["read",{"conversationId":"1","offset":-1}]"#,
            "expected a whole number",
        ),
        (
            r#"["read",{"conversationId":[],"offset":1}]"#,
            "none of the kinds",
        ),
        (
            r#"["history:get",{"conversationId":"1","limit":"x"}]"#,
            "expected a whole number",
        ),
        (r#"["presence:get",{"users":"x"}]"#, "expected a list"),
        (r#"["inbox:get",{"limit":-1}]"#, "a whole number from 0 to "),
        (r#"["inbox:get",{"cursor":"1.\u0000"}]"#, "cursor is none"),
    ] {
        client.send(&format!("421{event}")).await;
        let ack = client.hear("431[").await;
        assert!(
            ack.contains("INVALID_DATA") && ack.contains(says),
            "{event}: {ack}"
        );
        for inner in [" at line ", "struct", "enum", "usize", "u64"] {
            assert!(!ack.contains(inner), "{event}: {ack}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_conversation_has_an_id_and_nobody_leaves_their_own_room() {
    let (_gateway, address) = start(gateway()).await;
    let mut client = socketio(&address, "reader").await;
    for event in [
        r#"["join","conversation:"]"#,
        r#"["join:conversation",""]"#,
        r#"["history:get",{"conversationId":""}]"#,
        r#"["read",{"conversationId":"","offset":1}]"#,
        r#"["message:send",{"conversationId":"","content":"hi"}]"#,
        r#"["chat:send",{"room":"conversation:","content":"hi"}]"#,
        r#"["publish",{"room":"conversation:","event":"e"}]"#,
    ] {
        client.send(&format!("421{event}")).await;
        let ack = client.hear("431[").await;
        assert!(ack.contains("INVALID_ROOM"), "{event}: {ack}");
    }
    client.send(r#"421["join",{"room":42}]"#).await;
    let ack = client.hear("431[").await;
    assert!(ack.contains("room must be text"), "{ack}");
    let mut live = live(&address, "reader").await;
    live.send(r#"{"type":"subscribe","topic":"conversation:","id":1}"#)
        .await;
    let answer = live.hear(r#""id":1"#).await;
    assert!(answer.contains("INVALID_ROOM"), "{answer}");
    live.send(r#"{"type":"unsubscribe","topic":"user:reader","id":2}"#)
        .await;
    let answer = live.hear(r#""id":2"#).await;
    assert!(answer.contains("FORBIDDEN"), "{answer}");
    client
        .send(r#"421["publish",{"room":"user:reader","event":"still","data":1}]"#)
        .await;
    live.hear("still").await;
}

/// The offsets that stand in a message, in its order.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_a_room_is_said_as_it_is() {
    let (_gateway, address) = start(gateway()).await;
    let mut client = socketio(&address, "reader").await;
    for (event, code, says) in [
        (r#"["join:round",true]"#, "INVALID_ROOM", "An id must be"),
        (r#"["join:round",[1]]"#, "INVALID_ROOM", "An id must be"),
        (r#"["join:round",""]"#, "INVALID_ROOM", "roundId"),
        (
            r#"["join",{"room":"a","room":"b"}]"#,
            "INVALID_DATA",
            "twice",
        ),
        (r#"["join",7]"#, "INVALID_ROOM", "must be text"),
        (r#"["join",{}]"#, "INVALID_ROOM", "room is missing"),
        (r#"["presence:watch",{"room":"user:x"}]"#, "FORBIDDEN", ""),
        (
            r#"["presence:watch",{"room":"user:reader"}]"#,
            "FORBIDDEN",
            "{ users }",
        ),
        (
            r#"["presence:watch",{"room":""}]"#,
            "INVALID_ROOM",
            "256 bytes",
        ),
    ] {
        client.send(&format!("421{event}")).await;
        let ack = client.hear("431[").await;
        assert!(ack.contains(code) && ack.contains(says), "{event}: {ack}");
    }
    // Nothing, and what is null, name the kind alone.
    for data in [
        "",
        ",null",
        ",{}",
        r#",{"roundId":null}"#,
        r#",{"id":null,"members":true}"#,
    ] {
        client.send(&format!(r#"421["join:round"{data}]"#)).await;
        let ack = client.hear("431[").await;
        assert!(ack.contains(r#""room":"round""#), "{data}: {ack}");
    }
}

fn offsets(message: &str) -> Vec<u64> {
    let rest = message.split(r#","offset":"#).skip(1);
    rest.map(|rest| rest.split([',', '}']).next().unwrap().parse().unwrap())
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_are_numbered_and_told_in_their_order_whoever_sends_them() {
    let (_gateway, address) = start(gateway()).await;
    let mut reader = socketio(&address, "reader").await;
    reader.send(r#"421["join","conversation:1"]"#).await;
    reader.hear("431[").await;
    let mut listener = live(&address, "listener").await;
    listener
        .send(r#"{"type":"subscribe","topic":"conversation:1"}"#)
        .await;
    listener.hear("subscribed").await;
    let writers: Vec<_> = (0..4)
        .map(|writer| {
            let address = address.clone();
            tokio::spawn(async move {
                let mut client = socketio(&address, &format!("writer{writer}")).await;
                for number in 0..10 {
                    let say = format!(
                        r#"421["message:send",{{"conversationId":"1","content":"hi","tempId":"{number}"}}]"#
                    );
                    client.send(&say).await;
                    let ack = client.hear("431[").await;
                    assert!(ack.contains(r#""ok":true"#), "{ack}");
                    assert_eq!(offsets(&ack).len(), 1, "{ack}");
                }
            })
        })
        .collect();
    for place in 1..=40 {
        for client in [&mut reader, &mut listener] {
            let told = client.hear("message:new").await;
            assert_eq!(offsets(&told)[0], place, "{told}");
            assert!(told.contains(&format!(r#"-{place}","offset""#)), "{told}");
        }
    }
    for writer in writers {
        writer.await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_history_is_read_in_parts_by_whoever_may_join() {
    let (_gateway, address) = start(gateway()).await;
    let mut writer = socketio(&address, "writer").await;
    for number in 1..=5 {
        let say = format!(r#"421["message:send",{{"conversationId":"1","content":"m{number}"}}]"#);
        writer.send(&say).await;
        writer.hear("431[").await;
    }
    let mut reader = live(&address, "reader/conversation:1").await;
    for (question, places) in [
        ("", &[1, 2, 3, 4, 5][..]),
        (r#","limit":2"#, &[4, 5]),
        (r#","after":1,"limit":3"#, &[2, 3, 4]),
        (r#","before":4,"limit":2"#, &[2, 3]),
        (r#","after":5"#, &[]),
    ] {
        let question = format!(r#"{{"conversationId":1{question}}}"#);
        let ask = format!(r#"422["history:get",{question}]"#);
        writer.send(&ask).await;
        let answer = writer.hear("432[").await;
        assert_eq!(offsets(&answer), places, "{answer}");
        let ends = r#""head":5,"floor":0,"complete":true}"#;
        assert!(answer.contains(ends), "{answer}");
        let ask = format!(r#"{{"type":"emit","event":"history:get","data":{question},"id":7}}"#);
        reader.send(&ask).await;
        let answer = reader.hear(r#""id":7"#).await;
        assert_eq!(offsets(&answer), places, "{answer}");
        assert!(answer.contains(ends), "{answer}");
    }
    for (question, code) in [
        (
            r#"{"conversationId":1,"after":1,"before":2}"#,
            "INVALID_DATA",
        ),
        (r#"{"conversationId":1,"limit":201}"#, "INVALID_DATA"),
        (r#"{"after":1}"#, "INVALID_DATA"),
        (r#"{"conversationId":2}"#, "FORBIDDEN"),
    ] {
        let ask = format!(r#"{{"type":"emit","event":"history:get","data":{question},"id":7}}"#);
        reader.send(&ask).await;
        let answer = reader.hear(r#""id":7"#).await;
        assert!(answer.contains(code), "{answer}");
    }
    writer
        .send(r#"423["history:get",{"conversationId":1,"after":9}]"#)
        .await;
    let ahead = writer.hear("433[").await;
    assert!(ahead.contains(r#""complete":false"#), "{ahead}");
}

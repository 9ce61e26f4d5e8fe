//! What goes over the wire, in both dialects.

use heartline_core::backplane::Acknowledgement;

use super::*;

fn classic() -> Adapter {
    Adapter::new(SocketIoAdapter::Classic, "socket.io", 7)
}

fn sharded() -> Adapter {
    Adapter::new(SocketIoAdapter::Sharded, "app", 7)
}

const MAX: usize = 1_000_000;

#[test]
fn a_broadcast_looks_like_the_adapters() {
    let message = Message {
        event: "hi".into(),
        args: r#"{"a":{"_placeholder":true,"num":0}},2"#.into(),
        attachments: vec![Bytes::from_static(&[1, 2])],
    };
    let target = Target::Room {
        namespace: "/",
        tenant: None,
        room: "r",
        key: None,
    };
    let (Recipients::Channel(channel), body) = classic().encode(&target, &message).unwrap() else {
        panic!("a channel");
    };
    assert_eq!(channel, "socket.io#/#r#");
    // Our own nodes leave it alone.
    let heard = classic().decode(channel.as_bytes(), &body, MAX);
    assert_eq!(heard.unwrap_err(), Unread::Nothing);
    let (text, attachments) = msgpack::decode_value(&body, MAX).unwrap();
    assert_eq!(
        text,
        r#"["heartline-00000007",{"type":2,"data":["hi",{"a":{"_placeholder":true,"num":0}},2],"nsp":"/"},{"rooms":["r"],"except":[],"flags":{}}]"#
    );
    assert_eq!(attachments, message.attachments);
    // As a Node server would have sent it.
    let mut theirs = Vec::new();
    let text = text.replace("heartline-00000007", "nXPT41");
    msgpack::encode_value(&text, &attachments, &mut theirs);
    let foreign = classic().decode(channel.as_bytes(), &theirs, MAX).unwrap();
    assert_eq!(
        (&*foreign.namespace, &*foreign.rooms),
        ("/", &["r".to_owned()][..])
    );
    let Wish::Do(Action::Emit(heard)) = foreign.wish else {
        panic!("an event");
    };
    assert_eq!((heard.event, heard.args), (message.event, message.args));
    assert_eq!(heard.attachments, message.attachments);
}

#[test]
fn what_no_client_may_say_no_server_may_either() {
    let read = |args: &str, attachments: &[Bytes]| {
        let text = format!(
            r#"["nXPT41",{{"type":2,"data":["e",{args}],"nsp":"/"}},{{"rooms":["r"],"except":[]}}]"#
        );
        let mut body = Vec::new();
        msgpack::encode_value(&text, attachments, &mut body);
        classic().decode(b"socket.io#/#r#", &body, 200).map(drop)
    };
    let placeholder = r#"{"_placeholder":true,"num":0}"#;
    let bin = [Bytes::from_static(b"bin")];
    assert_eq!(read(placeholder, &bin), Ok(()));
    let twice = format!("{placeholder},{placeholder}");
    let refused = |why| Err(Unread::Refused(why));
    assert_eq!(
        read(&twice, &bin),
        refused(MessageError::RepeatedAttachment)
    );
    for length in [199, 10_000] {
        let long = format!("\"{}\"", "x".repeat(length));
        assert_eq!(read(&long, &[]), refused(MessageError::TooLarge(200)));
    }
}

#[test]
fn what_has_a_tenant_stays_here() {
    let message = Message::default();
    let target = Target::All {
        namespace: "/",
        tenant: Some("t"),
    };
    assert!(classic().encode(&target, &message).is_none());
}

#[test]
fn requests_are_read_and_others_left_alone() {
    let read = |body: &str| classic().decode(b"socket.io-request#/chat#", body.as_bytes(), MAX);
    let join = r#"{"type":2,"opts":{"rooms":["r1"],"except":[]},"rooms":["r2"]}"#;
    let foreign = read(join).unwrap();
    assert_eq!((&*foreign.namespace, &*foreign.rooms[0]), ("/chat", "r1"));
    assert!(matches!(foreign.wish, Wish::Do(Action::Join(rooms)) if rooms == ["r2"]));
    let leave = read(&join.replace("\"type\":2", "\"type\":3")).unwrap();
    assert!(matches!(leave.wish, Wish::Do(Action::Leave(_))));
    let end = read(r#"{"uid":"x","type":4,"opts":{"rooms":[],"except":["r"]},"close":true}"#);
    assert!(matches!(end.unwrap().wish, Wish::Do(Action::Disconnect)));
    let one = read(r#"{"requestId":"y","type":4,"sid":"s","close":true}"#).unwrap();
    assert_eq!(one.rooms, ["s"], "one socket, and not all");
    assert!(read(r#"{"uid":"x","type":4}"#).is_err());
    assert!(read("nonsense").is_err());
}

fn text(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).unwrap()
}

fn ask_of(foreign: Foreign) -> (Message, Duration, Reply) {
    match foreign.wish {
        Wish::Ask(message, time, reply) => (message, time, reply),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_broadcast_that_wants_acknowledgements_is_answered_in_the_askers_words() {
    let request = r#"{"uid":"nXPT41","requestId":"q","type":7,"packet":{"type":2,"data":["e",1],"nsp":"/"},"opts":{"rooms":["r"],"except":[],"flags":{"timeout":700}}}"#;
    let body = to_msgpack(request, &[]);
    let foreign = classic()
        .decode(b"socket.io-request#/#", &body, MAX)
        .unwrap();
    assert_eq!(foreign.rooms, ["r"]);
    let (message, time, reply) = ask_of(foreign);
    assert_eq!((&*message.event, &*message.args), ("e", "1"));
    assert_eq!(time, Duration::from_millis(700));
    assert_eq!(reply.channel(), "socket.io-response#/#nXPT41#");
    assert_eq!(
        text(reply.count(2)),
        r#"{"type":8,"requestId":"q","clientCount":2}"#
    );
    let answer = |args: &str| Acknowledgement {
        args: args.into(),
        attachments: Vec::new(),
    };
    assert_eq!(
        text(reply.acknowledged(&answer(r#"{"a":1},2"#))),
        r#"{"type":9,"requestId":"q","packet":{"a":1}}"#
    );
    assert_eq!(
        text(reply.acknowledged(&answer(""))),
        r#"{"type":9,"requestId":"q"}"#
    );
}

#[test]
fn the_sharded_adapters_words_are_read_and_spoken() {
    let message = Message {
        event: "e".into(),
        args: "1".into(),
        attachments: Vec::new(),
    };
    let target = Target::Room {
        namespace: "/chat",
        tenant: None,
        room: "r",
        key: None,
    };
    let Some((Recipients::Channel(channel), body)) = sharded().encode(&target, &message) else {
        panic!("a channel");
    };
    assert_eq!(channel, "app#/chat#");
    let own = sharded().decode(channel.as_bytes(), &body, MAX);
    assert_eq!(own.unwrap_err(), Unread::Nothing);
    let body = text(body);
    assert_eq!(
        body,
        r#"{"uid":"heartline-00000007","nsp":"/chat","type":3,"data":{"packet":{"type":2,"data":["e",1],"nsp":"/chat"},"opts":{"rooms":["r"],"except":[],"flags":{}}}}"#
    );
    let theirs = body.replace("heartline-00000007", "f00");
    let foreign = sharded()
        .decode(b"app#/chat#r#", theirs.as_bytes(), MAX)
        .unwrap();
    assert_eq!((&*foreign.namespace, &*foreign.rooms[0]), ("/chat", "r"));
    assert!(matches!(foreign.wish, Wish::Do(Action::Emit(_))));
    let asked = theirs.replace(r#""opts""#, r#""requestId":"q","opts""#);
    let foreign = sharded()
        .decode(b"app#/chat#", asked.as_bytes(), MAX)
        .unwrap();
    let (_, time, reply) = ask_of(foreign);
    assert_eq!((time, reply.channel()), (ACK_TIME, "app#/chat#f00#"));
    assert_eq!(
        text(reply.count(0)),
        r#"{"uid":"heartline-00000007","nsp":"/chat","type":11,"data":{"requestId":"q","clientCount":0}}"#
    );
}

#[test]
fn a_key_is_no_pattern() {
    let adapter = Adapter::new(SocketIoAdapter::Classic, "app[1]*", 7);
    let always = adapter.always(["/", "/chat"].into_iter());
    assert_eq!(always.patterns, [r"app\[1\]\*#*"]);
    assert_eq!(
        always.channels,
        ["app[1]*-request#/#", "app[1]*-request#/chat#"]
    );
    assert!(adapter.is_theirs(b"app[1]*#/#r#") && !adapter.is_theirs(b"app1#/#r#"));
}

/// What an adapter reads of a request of this type, as JSON and as msgpack; `more` are members of
/// what it says.
fn read_both(adapter: &Adapter, kind: [u8; 2], more: &str) -> [Foreign; 2] {
    let (channel, text) = match adapter.kind {
        SocketIoAdapter::Sharded => {
            let data = format!(r#""data":{{"requestId":"q",{more}}}"#);
            let text = format!(r#"{{"uid":"x","nsp":"/","type":{},{data}}}"#, kind[1]);
            ("app#/#", text)
        }
        _ => {
            let text = format!(r#"{{"uid":"x","requestId":"q","type":{},{more}}}"#, kind[0]);
            ("socket.io-request#/#", text)
        }
    };
    let both = [text.as_bytes().to_vec(), to_msgpack(&text, &[])];
    both.map(|body| adapter.decode(channel.as_bytes(), &body, MAX).unwrap())
}

#[test]
fn a_number_is_a_name_too_of_rooms_and_of_events() {
    let options = r#""opts":{"rooms":[42,"r",-1],"except":[7,1.5]}"#;
    let packet = r#""packet":{"type":2,"data":[3,"x"],"nsp":"/"}"#;
    for adapter in [classic(), sharded()] {
        // Sockets are fetched, an event is to be acknowledged, and some are moved and ended.
        let all = [
            ([5, 7], options.to_owned()),
            ([7, 3], format!("{options},{packet}")),
            ([2, 4], format!(r#"{options},"rooms":[8,"s"]"#)),
            ([3, 5], format!(r#"{options},"rooms":[8,"s"]"#)),
            ([4, 6], options.to_owned()),
        ];
        for (kind, more) in all {
            for foreign in read_both(&adapter, kind, &more) {
                assert_eq!(foreign.rooms, ["42", "r", "-1"]);
                assert_eq!(foreign.except, ["7", "1.5"]);
                match foreign.wish {
                    Wish::Ask(message, ..) => {
                        assert_eq!((&*message.event, &*message.args), ("3", r#""x""#));
                    }
                    Wish::Do(Action::Join(rooms) | Action::Leave(rooms)) => {
                        assert_eq!(rooms, ["8", "s"]);
                    }
                    Wish::Fetch(_) | Wish::Do(Action::Disconnect) => {}
                    other => panic!("{other:?}"),
                }
            }
        }
    }
    // As a broadcast of the classic adapter, and as programs said it before there were options.
    let text = r#"["x",{"type":2,"data":[3],"nsp":"/"},{"rooms":[42],"except":[]}]"#;
    let body = to_msgpack(text, &[]);
    let foreign = classic().decode(b"socket.io#/#42#", &body, MAX).unwrap();
    assert_eq!(foreign.rooms, ["42"]);
    let old = r#"{"type":2,"sid":5,"room":6}"#;
    let read = classic().decode(b"socket.io-request#/#", old.as_bytes(), MAX);
    let foreign = read.unwrap();
    assert_eq!(foreign.rooms, ["5"]);
    assert!(matches!(foreign.wish, Wish::Do(Action::Join(rooms)) if rooms == ["6"]));
}

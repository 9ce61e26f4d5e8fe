//! The live protocol.

use heartline_wire::json;
use heartline_wire::live::{
    ClientFrame, FrameError, RESERVED_TYPES, Resume, Subscribed, decode, is_reserved, push_ack,
    push_error, push_event, push_gap, push_hello, push_pong, push_refusal, push_subscribed,
    push_unsubscribed,
};
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::strategies;

#[test]
fn frames() {
    use ClientFrame::*;
    let cow = |text: &'static str| text.into();
    for (text, expected) in [
        (
            r#"{"type":"auth","token":"t"}"#,
            Auth {
                token: cow("t"),
                id: None,
                resume: None,
            },
        ),
        (
            r#" { "token" : "t\n" , "type" : "auth" , "id" : 1 } "#,
            Auth {
                token: cow("t\n"),
                id: Some("1"),
                resume: None,
            },
        ),
        (
            r#"{"type":"auth","token":"t","resume":"r","place":"p","topics":{"a":{"epoch":"e","offset":3},"b":null}}"#,
            Auth {
                token: cow("t"),
                id: None,
                resume: Some(Box::new(Resume {
                    token: cow("r"),
                    place: Some(cow("p")),
                    topics: vec![(cow("a"), Some((cow("e"), 3))), (cow("b"), None)],
                })),
            },
        ),
        (
            r#"{"type":"subscribe","topic":"a","id":"x"}"#,
            Subscribe {
                topic: cow("a"),
                id: Some("\"x\""),
                recover: None,
                members: false,
            },
        ),
        (
            r#"{"type":"subscribe","topic":"a","recover":{"epoch":"e","offset":7}}"#,
            Subscribe {
                topic: cow("a"),
                id: None,
                recover: Some((cow("e"), 7)),
                members: false,
            },
        ),
        (
            r#"{"type":"subscribe","topic":"a","members":true}"#,
            Subscribe {
                topic: cow("a"),
                id: None,
                recover: None,
                members: true,
            },
        ),
        // A position that is none recovers nothing.
        (
            r#"{"type":"subscribe","topic":"a","recover":{"epoch":null,"offset":7}}"#,
            Subscribe {
                topic: cow("a"),
                id: None,
                recover: None,
                members: false,
            },
        ),
        (
            r#"{"type":"subscribe","topic":"a","recover":{"epoch":"e","offset":-7}}"#,
            Subscribe {
                topic: cow("a"),
                id: None,
                recover: None,
                members: false,
            },
        ),
        (
            r#"{"type":"subscribe","topic":"a","recover":null}"#,
            Subscribe {
                topic: cow("a"),
                id: None,
                recover: None,
                members: false,
            },
        ),
        (
            r#"{"type":"unsubscribe","topic":"a","id":-1.5}"#,
            Unsubscribe {
                topic: cow("a"),
                id: Some("-1.5"),
            },
        ),
        (
            r#"{"type":"publish","topic":"a","event":"e","data":{"x":[1]},"key":"k","id":2}"#,
            Publish {
                topic: cow("a"),
                event: cow("e"),
                data: "{\"x\":[1]}",
                key: Some(cow("k")),
                to_self: true,
                id: Some("2"),
            },
        ),
        (
            r#"{"type":"publish","topic":"a","event":"e","key":null}"#,
            Publish {
                topic: cow("a"),
                event: cow("e"),
                data: "null",
                key: None,
                to_self: true,
                id: None,
            },
        ),
        (
            r#"{"type":"emit","event":"e","data": [ 1 ] }"#,
            Emit {
                event: cow("e"),
                data: "[ 1 ]",
                id: None,
            },
        ),
        (
            r#"{"type":"emit","event":"e"}"#,
            Emit {
                event: cow("e"),
                data: "null",
                id: None,
            },
        ),
        (r#"{"type":"ping"}"#, Ping { id: None }),
        // An id that is null is none; strangers are ignored.
        (r#"{"type":"ping","id":null,"foo":{}}"#, Ping { id: None }),
        // Numbers stay as they were written, also those that JavaScript cannot have.
        (
            r#"{"type":"ping","id":9007199254740993}"#,
            Ping {
                id: Some("9007199254740993"),
            },
        ),
        (r#"{"type":"ping","id":1e400}"#, Ping { id: Some("1e400") }),
        // So are strangers that come twice.
        (r#"{"type":"ping","foo":1,"foo":2}"#, Ping { id: None }),
        // Names and types may be escaped.
        (r#"{"ty\u0070e":"p\u0069ng"}"#, Ping { id: None }),
    ] {
        assert_eq!(decode(text), Ok(expected), "{text}");
    }
}

#[test]
fn wrong_frames() {
    use FrameError::*;
    let missing = |kind, field, id| Missing { kind, field, id };
    let no_type = |id| NoType { id };
    let unknown = |kind: &'static str, id| UnknownType {
        kind: kind.into(),
        id,
    };
    for (text, expected) in [
        ("", NotJson),
        ("hello", NotJson),
        ("[]", NotJson),
        ("null", NotJson),
        ("{", NotJson),
        (r#"{"type":"ping"}x"#, NotJson),
        (r#"{"type":"ping",}"#, NotJson),
        (r#"{"type":"emit","event":"e","data":[1,]}"#, NotJson),
        // Nothing comes back in an answer but a string or a number.
        (r#"{"type":"ping","id":{"a":1}}"#, WrongId),
        (r#"{"type":"subscribe","topic":"t","id":[1]}"#, WrongId),
        (r#"{"id":true,"type":"emit","event":"e"}"#, WrongId),
        (r#"{"type":"auth","token":"t","id":false}"#, WrongId),
        (r#"{"type":"nothing","id":{}}"#, WrongId),
        ("{}", no_type(None)),
        (r#"{"type":1}"#, no_type(None)),
        (r#"{"id":"a","type":null}"#, no_type(Some("\"a\""))),
        (r#"{"type":"hello"}"#, unknown("hello", None)),
        (r#"{"type":"Ping","id":7}"#, unknown("Ping", Some("7"))),
        (
            r#"{"type":"auth","id":1}"#,
            missing("auth", "token", Some("1")),
        ),
        (
            r#"{"type":"auth","token":5}"#,
            missing("auth", "token", None),
        ),
        (
            r#"{"type":"subscribe"}"#,
            missing("subscribe", "topic", None),
        ),
        (
            r#"{"type":"unsubscribe","id":"a"}"#,
            missing("unsubscribe", "topic", Some("\"a\"")),
        ),
        (
            r#"{"type":"publish","event":"e"}"#,
            missing("publish", "topic", None),
        ),
        (
            r#"{"type":"publish","topic":"t"}"#,
            missing("publish", "event", None),
        ),
        (
            r#"{"type":"publish","topic":"t","event":"e","key":1}"#,
            missing("publish", "key", None),
        ),
        (
            r#"{"type":"emit","event":null}"#,
            missing("emit", "event", None),
        ),
    ] {
        assert_eq!(decode(text), Err(expected), "{text}");
    }
}

#[test]
fn a_wish_is_true_or_false_or_none() {
    for (kind, field) in [("subscribe", "members"), ("publish", "self")] {
        let frame = |wish: &str| {
            format!(r#"{{"type":"{kind}","topic":"t","event":"e","id":7,"{field}":{wish}}}"#)
        };
        for wish in ["true", "false", "null"] {
            assert!(decode(&frame(wish)).is_ok(), "{field}: {wish}");
        }
        for wrong in ["5", "0", "\"yes\"", "\"true\"", "[]", "{}"] {
            let id = Some("7");
            let expected = FrameError::NoBool { kind, field, id };
            assert_eq!(decode(&frame(wrong)), Err(expected), "{field}: {wrong}");
        }
    }
    let frame = r#"{"type":"publish","topic":"t","event":"e","self":0}"#;
    let told = decode(frame).unwrap_err().message();
    assert_eq!(told, "self of publish must be true or false");
}

#[test]
fn a_member_that_is_given_twice_refuses_the_frame() {
    for (text, field, id) in [
        (r#"{"type":"auth","type":"ping","id":1}"#, "type", Some("1")),
        (
            r#"{"type":"emit","event":"a","ev\u0065nt":"a","id":"x"}"#,
            "event",
            Some("\"x\""),
        ),
        (r#"{"type":"ping","id":1,"id":2}"#, "id", Some("2")),
        (
            r#"{"type":"publish","topic":"a","event":"e","data":1,"data":1}"#,
            "data",
            None,
        ),
    ] {
        let field = field.into();
        assert_eq!(decode(text), Err(FrameError::Twice { field, id }), "{text}");
    }
    let twice = decode(r#"{"type":"auth","token":"a","token":"b"}"#).unwrap_err();
    assert_eq!(twice.message(), "the frame has token twice");
}

#[test]
fn errors_do_not_echo_payloads() {
    let long = format!(r#"{{"type":"{}"}}"#, "é".repeat(1000));
    let message = decode(&long).unwrap_err().message();
    assert!(message.starts_with(&format!("unknown type {};", "é".repeat(32))));
    assert_eq!(
        decode(r#"{"type":"emit"}"#).unwrap_err().message(),
        "emit needs event, which must be a string"
    );
    assert_eq!(
        FrameError::NotJson.message(),
        "the frame is not a JSON object"
    );
    assert_eq!(
        FrameError::WrongId.message(),
        "id must be a string or a number"
    );
    assert_eq!(
        FrameError::NoType { id: None }.message(),
        "the frame has no type"
    );
}

#[test]
fn reserved() {
    assert!(RESERVED_TYPES.iter().all(|name| is_reserved(name)));
    assert_eq!(RESERVED_TYPES.len(), 13);
    for name in ["position", "", "Hello", "pings"] {
        assert!(!is_reserved(name), "{name}");
    }
}

/// Runs an encoder on an empty string and checks that it wrote JSON.
fn encoded(push: impl FnOnce(&mut String)) -> String {
    let mut out = String::new();
    push(&mut out);
    assert!(json::is_valid(&out), "{out}");
    out
}

#[test]
fn encoders() {
    let subscribed = Subscribed {
        topic: "t",
        id: Some("1"),
        epoch: "e",
        offset: 3,
        snapshot: "[1]",
        recovered: true,
        members: None,
        is_left_out: false,
    };
    let afresh = Subscribed {
        id: None,
        snapshot: "[]",
        recovered: false,
        members: Some("[2]"),
        is_left_out: true,
        ..subscribed
    };
    for (text, expected) in [
        (
            encoded(|o| push_event("e", Some("t"), "{\"a\":1}", Some(9), None, o)),
            r#"{"type":"e","topic":"t","data":{"a":1},"offset":9}"#,
        ),
        (
            encoded(|o| push_event("e\"", None, "null", None, Some("hl.1.2"), o)),
            r#"{"type":"e\"","data":null,"place":"hl.1.2"}"#,
        ),
        (
            encoded(|o| push_subscribed(&subscribed, o)),
            r#"{"type":"subscribed","topic":"t","id":1,"epoch":"e","offset":3,"snapshot":[1],"recovered":true}"#,
        ),
        (
            encoded(|o| push_subscribed(&afresh, o)),
            r#"{"type":"subscribed","topic":"t","epoch":"e","offset":3,"snapshot":[],"recovered":false,"members":[2],"kept":false}"#,
        ),
        (
            encoded(|o| push_gap("t", "e", 7, o)),
            r#"{"type":"gap","topic":"t","epoch":"e","offset":7}"#,
        ),
        (
            encoded(|o| push_unsubscribed("t", None, Some("forbidden"), o)),
            r#"{"type":"unsubscribed","topic":"t","reason":"forbidden"}"#,
        ),
        (
            encoded(|o| push_unsubscribed("t", Some("\"x\""), None, o)),
            r#"{"type":"unsubscribed","topic":"t","id":"x"}"#,
        ),
        (
            encoded(|o| push_ack(Some("1"), "[]", o)),
            r#"{"type":"ack","id":1,"data":[]}"#,
        ),
        (
            encoded(|o| push_ack(None, "null", o)),
            r#"{"type":"ack","data":null}"#,
        ),
        (
            encoded(|o| push_pong(Some("1"), 17, o)),
            r#"{"type":"pong","id":1,"timestamp":17}"#,
        ),
        (
            encoded(|o| push_pong(None, 17, o)),
            r#"{"type":"pong","timestamp":17}"#,
        ),
        (
            encoded(|o| push_error("protocol-violation", "no \"x\"", None, None, None, o)),
            r#"{"type":"error","code":"protocol-violation","message":"no \"x\""}"#,
        ),
        (
            encoded(|o| push_error("c", "m", Some(70), None, Some("5"), o)),
            r#"{"type":"error","code":"c","message":"m","retryAfterMs":70,"id":5}"#,
        ),
        (
            encoded(|o| push_error("c", "m", Some(70), Some("\"t"), None, o)),
            r#"{"type":"error","code":"c","message":"m","retryAfterMs":70,"data":{"topic":"\"t"}}"#,
        ),
        (
            encoded(|o| push_refusal("c", "m", Some("[1]"), Some("5"), o)),
            r#"{"type":"error","code":"c","message":"m","data":[1],"id":5}"#,
        ),
        (
            encoded(|o| push_hello("\"a\":1,\"b\":2", Some("1"), o)),
            r#"{"type":"hello","a":1,"b":2,"id":1}"#,
        ),
        (encoded(|o| push_hello("", None, o)), r#"{"type":"hello"}"#),
    ] {
        assert_eq!(text, expected);
    }
}

proptest! {
    #[test]
    fn frames_round_trip(
        topic in strategies::text(),
        event in strategies::text(),
        data in strategies::value(),
        id in strategies::number(),
        epoch in strategies::text(),
        offset: u64,
    ) {
        let id = id.to_string();
        let data = data.to_string();
        let whole = |members: Value| {
            let mut text = members.to_string();
            text.pop();
            format!("{text},\"id\":{id},\"data\":{data}}}")
        };
        let text = whole(json!({
            "type": "publish", "topic": topic, "event": event, "key": epoch, "self": offset % 2 == 0
        }));
        let expected = ClientFrame::Publish {
            topic: topic.as_str().into(),
            event: event.as_str().into(),
            data: &data,
            key: Some(epoch.as_str().into()),
            to_self: offset % 2 == 0,
            id: Some(&id),
        };
        prop_assert_eq!(decode(&text), Ok(expected));

        let members = offset % 2 == 0;
        let text = whole(json!({"type": "subscribe", "topic": topic, "members": members, "recover": {"epoch": epoch, "offset": offset}}));
        let expected = ClientFrame::Subscribe {
            topic: topic.as_str().into(),
            id: Some(&id),
            recover: Some((epoch.as_str().into(), offset)),
            members,
        };
        prop_assert_eq!(decode(&text), Ok(expected));

        let text = whole(json!({"type": "emit", "event": event}));
        let expected = ClientFrame::Emit { event: event.as_str().into(), data: &data, id: Some(&id) };
        prop_assert_eq!(decode(&text), Ok(expected));
    }

    #[test]
    fn events_round_trip(
        event in strategies::text(),
        topic in prop::option::of(strategies::text()),
        data in strategies::value(),
        offset: Option<u64>,
    ) {
        let data = data.to_string();
        let text = encoded(|out| push_event(&event, topic.as_deref(), &data, offset, None, out));
        let unquoted = |key| json::field(&text, key).map(|raw| json::unquote(raw).unwrap().into_owned());
        prop_assert_eq!(unquoted("type"), Some(event));
        prop_assert_eq!(unquoted("topic"), topic);
        prop_assert_eq!(json::field(&text, "data"), Some(data.as_str()));
        prop_assert_eq!(json::field(&text, "offset").map(|raw| raw.parse().unwrap()), offset);
    }

    #[test]
    fn nothing_panics(text: String, json in strategies::almost_json(), kind in prop::sample::select(RESERVED_TYPES)) {
        let _ = decode(&text).map_err(|error| error.message());
        let _ = decode(&json).map_err(|error| error.message());
        let _ = decode(&format!("{{\"type\":\"{kind}\",{json}}}")).map_err(|error| error.message());
        let _ = decode(&format!("{{\"type\":\"{kind}\",\"topic\":{json}}}")).map_err(|error| error.message());
    }

    /// One pass finds what two would.
    #[test]
    fn only_objects_decode(json in strategies::almost_json()) {
        let object = json::is_valid(&json) && json.trim_start().starts_with('{');
        prop_assert_eq!(decode(&json) == Err(FrameError::NotJson), !object);
    }
}

//! Engine.IO protocol 4.

use heartline_wire::engineio::{
    DecodeError, Packet, PacketType, RequestError, SEPARATOR, decode_payload, decode_text,
    open_packet, push_base64,
};
use proptest::prelude::*;

#[test]
fn packets() {
    let binary = |bytes: &[u8]| Ok(Packet::Binary(bytes.to_vec().into()));
    for (text, expected) in [
        ("0{\"sid\":\"x\"}", Ok(Packet::Open("{\"sid\":\"x\"}"))),
        ("1", Ok(Packet::Close)),
        ("2", Ok(Packet::Ping(""))),
        ("2probe", Ok(Packet::Ping("probe"))),
        ("3", Ok(Packet::Pong(""))),
        ("3probe", Ok(Packet::Pong("probe"))),
        ("4", Ok(Packet::Message(""))),
        ("4hello", Ok(Packet::Message("hello"))),
        ("4€", Ok(Packet::Message("€"))),
        ("5", Ok(Packet::Upgrade)),
        ("6", Ok(Packet::Noop)),
        ("b", binary(&[])),
        ("bAQIDBA==", binary(&[1, 2, 3, 4])),
        ("bAQIDBA", binary(&[1, 2, 3, 4])),
        ("", Err(DecodeError)),
        ("7", Err(DecodeError)),
        ("abc", Err(DecodeError)),
        (" 4", Err(DecodeError)),
        ("€", Err(DecodeError)),
        ("b*", Err(DecodeError)),
        ("bA", Err(DecodeError)),
        ("bAQIDBA=x", Err(DecodeError)),
        ("B", Err(DecodeError)),
    ] {
        assert_eq!(decode_text(text), expected, "{text}");
    }
}

#[test]
fn digits() {
    assert_eq!(PacketType::Open.digit(), '0');
    assert_eq!(PacketType::Noop.digit(), '6');
}

#[test]
fn payloads() {
    // The document's example: "Payload encoding".
    let packets: Vec<_> = decode_payload("4hello\x1e2\x1e4world").collect();
    assert_eq!(
        packets,
        [
            Ok(Packet::Message("hello")),
            Ok(Packet::Ping("")),
            Ok(Packet::Message("world")),
        ]
    );
    let packets: Vec<_> = decode_payload("4hello\x1ebAQIDBA==").collect();
    assert_eq!(packets[1], Ok(Packet::Binary(vec![1, 2, 3, 4].into())));

    let errors = |body| decode_payload(body).collect::<Vec<_>>();
    assert_eq!(errors(""), [Err(DecodeError)]);
    assert_eq!(errors("\x1e"), [Err(DecodeError)]);
    // Nothing behind an error is looked at.
    assert_eq!(errors("x\x1e4a"), [Err(DecodeError)]);
    assert_eq!(
        errors("4a\x1e"),
        [Ok(Packet::Message("a")), Err(DecodeError)]
    );
}

#[test]
fn open() {
    assert_eq!(
        open_packet(
            "lv_VI97HAXpY6yYWAAAC",
            &["websocket"],
            25_000,
            20_000,
            1_000_000
        ),
        r#"0{"sid":"lv_VI97HAXpY6yYWAAAC","upgrades":["websocket"],"pingInterval":25000,"pingTimeout":20000,"maxPayload":1000000}"#
    );
    assert_eq!(
        open_packet("s", &[], 0, u64::MAX, 1),
        r#"0{"sid":"s","upgrades":[],"pingInterval":0,"pingTimeout":18446744073709551615,"maxPayload":1}"#
    );
    assert!(open_packet("s", &["a", "b"], 1, 1, 1).contains(r#"["a","b"]"#));
}

#[test]
fn refusals() {
    use RequestError::*;
    for (error, status, body) in [
        (
            UnknownTransport,
            400,
            r#"{"code":0,"message":"Transport unknown"}"#,
        ),
        (
            UnknownSid,
            400,
            r#"{"code":1,"message":"Session ID unknown"}"#,
        ),
        (
            BadHandshakeMethod,
            400,
            r#"{"code":2,"message":"Bad handshake method"}"#,
        ),
        (BadRequest, 400, r#"{"code":3,"message":"Bad request"}"#),
        (Forbidden, 403, r#"{"code":4,"message":"Forbidden"}"#),
        (
            UnsupportedProtocolVersion,
            400,
            r#"{"code":5,"message":"Unsupported protocol version"}"#,
        ),
    ] {
        assert_eq!((error.http_status(), error.body().as_str()), (status, body));
        assert_eq!(error.to_string(), error.message());
    }
}

proptest! {
    #[test]
    fn binary_round_trips(parts in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..50), 1..5)) {
        let mut body = String::new();
        for (index, part) in parts.iter().enumerate() {
            if index > 0 {
                body.push(SEPARATOR);
            }
            push_base64(part, &mut body);
        }
        let back: Vec<Vec<u8>> = decode_payload(&body)
            .map(|packet| match packet {
                Ok(Packet::Binary(bytes)) => bytes.into_owned(),
                other => panic!("{other:?}"),
            })
            .collect();
        prop_assert_eq!(back, parts);
    }

    #[test]
    fn messages_round_trip(parts in prop::collection::vec("[^\u{1e}]{0,20}", 1..5)) {
        let packets: Vec<String> = parts.iter().map(|part| format!("4{part}")).collect();
        let body = packets.join("\x1e");
        let back: Vec<_> = decode_payload(&body).collect();
        let expected: Vec<_> = parts.iter().map(|part| Ok(Packet::Message(part))).collect();
        prop_assert_eq!(back, expected);
    }

    #[test]
    fn nothing_panics(text: String) {
        let _ = decode_text(&text);
        let _ = decode_payload(&text).count();
        let _ = decode_text(&format!("b{text}"));
    }
}

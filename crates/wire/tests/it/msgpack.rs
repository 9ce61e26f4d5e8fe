//! Socket.IO packets in msgpack: what goes in comes out.

use bytes::Bytes;
use heartline_wire::json;
use heartline_wire::msgpack::{
    self, DecodeError, Fault, Packet, decode_value, encode_ack, encode_connect,
    encode_connect_error, encode_disconnect, encode_event, encode_value, packet_bound,
};
use heartline_wire::socketio::{self, PacketType, array_inside, split_event};
use proptest::prelude::*;
use serde_json::Value;

use crate::strategies::{self, same};

pub(crate) fn decode(bytes: &[u8]) -> Result<Packet, DecodeError> {
    msgpack::decode(bytes, usize::MAX)
}

fn encoded(push: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut out = Vec::new();
    push(&mut out);
    out
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn encoders_write_what_notepack_would() {
    // Recorded from socket.io-msgpack-parser.
    assert_eq!(
        hex(&encoded(|out| encode_disconnect("/", out))),
        "82a47479706501a36e7370a12f"
    );
    assert_eq!(
        hex(&encoded(|out| encode_connect("/", "ab", None, out))),
        "83a47479706500a46461746181a3736964a26162a36e7370a12f"
    );
    assert_eq!(
        hex(&encoded(|out| encode_event(
            "/",
            Some(7),
            "e",
            "1,null",
            &[],
            out
        ))),
        "84a47479706502a46461746193a16501c0a36e7370a12fa2696407"
    );
    assert_eq!(
        hex(&encoded(|out| encode_ack("/n", 300, "", &[], out))),
        "84a47479706503a46461746190a36e7370a22f6ea26964cd012c"
    );
    assert_eq!(
        hex(&encoded(|out| encode_connect_error(
            "/",
            "no",
            Some("[]"),
            out
        ))),
        "83a47479706504a46461746182a76d657373616765a26e6fa46461746190a36e7370a12f"
    );
}

#[test]
fn numbers_take_their_shortest_form() {
    for (text, expected) in [
        ("0", "00"),
        ("-0", "00"),
        ("127", "7f"),
        ("128", "cc80"),
        ("255", "ccff"),
        ("256", "cd0100"),
        ("65536", "ce00010000"),
        ("4294967296", "cf0000000100000000"),
        ("18446744073709551615", "cfffffffffffffffff"),
        ("-1", "ff"),
        ("-32", "e0"),
        ("-33", "d0df"),
        ("-128", "d080"),
        ("-129", "d1ff7f"),
        ("-32769", "d2ffff7fff"),
        ("-2147483649", "d3ffffffff7fffffff"),
        ("-9223372036854775808", "d38000000000000000"),
        ("0.5", "cb3fe0000000000000"),
        ("1.0", "cb3ff0000000000000"),
        ("1e2", "cb4059000000000000"),
        ("18446744073709551616", "cb43f0000000000000"),
        ("1e999", "cb7ff0000000000000"),
    ] {
        let bytes = hex(&encoded(|out| encode_ack("/", 0, text, &[], out)));
        assert_eq!(
            bytes,
            format!("84a47479706503a46461746191{expected}a36e7370a12fa2696400"),
            "{text}"
        );
    }
}

#[test]
fn bins_come_and_go() {
    let attachments = [Bytes::from_static(b"\x01"), Bytes::from(vec![7; 300])];
    let args = r#"{"b":{"_placeholder":true,"num":1},"a":[{"num":0,"_placeholder":true,"x":[{}]},5]},{"_placeholder":true,"num":2}"#;
    let bytes = encoded(|out| encode_event("/", None, "e", args, &attachments, out));
    // The placeholder beyond the attachments stays an object, and decoding
    // refuses it, as receivers would.
    assert!(decode(&bytes).is_err());
    let mut attachments = attachments.to_vec();
    attachments.push(Bytes::from_static(b"3"));
    let bytes = encoded(|out| encode_event("/", None, "e", args, &attachments, out));
    let packet = decode(&bytes).unwrap();
    assert_eq!(packet.kind, PacketType::Event);
    assert_eq!(
        packet.data.as_deref(),
        Some(
            r#"["e",{"b":{"_placeholder":true,"num":0},"a":[{"_placeholder":true,"num":1},5]},{"_placeholder":true,"num":2}]"#
        )
    );
    assert_eq!(
        packet.attachments,
        [&attachments[1], &attachments[0], &attachments[2]]
    );

    // More than the default parser's ten are fine.
    let args: Vec<_> = (0..20)
        .map(|n| format!("{{\"_placeholder\":true,\"num\":{n}}}"))
        .collect();
    let many = vec![Bytes::from_static(b"x"); 20];
    let bytes = encoded(|out| encode_ack("/", 1, &args.join(","), &many, out));
    assert_eq!(decode(&bytes).unwrap().attachments.len(), 20);
}

#[test]
fn an_attachment_is_written_once() {
    let attachments = [Bytes::from(vec![7; 10_000])];
    let args = vec![r#"{"_placeholder":true,"num":0}"#; 1000].join(",");
    let bytes = encoded(|out| encode_event("/", None, "e", &args, &attachments, out));
    assert!(bytes.len() <= packet_bound("/", "e", &args, &attachments));
    let packet = decode(&bytes).unwrap();
    assert_eq!(packet.attachments, attachments);
    // The others are objects; whoever takes the packet sees that they claim the bin too.
    let data = packet.data.unwrap();
    assert_eq!(
        socketio::check_placeholders(&data, 1),
        Err(socketio::PlaceholderError::Repeated)
    );
}

/// Each multiplies on its way to JSON: a control character, an empty bin, words, small
/// numbers, floats, an extension nobody knows.
#[test]
fn what_is_too_large_as_json_is_passed_over_and_its_sender_known() {
    let array = |element: &[u8]| [&[0xdd, 0, 0, 0x27, 0x10][..], &element.repeat(10_000)].concat();
    let mut text = vec![0xda, 0x27, 0x10];
    text.extend([1; 10_000]);
    let float = [&[0xcb][..], &0.000_001_234_567_890_123_45f64.to_be_bytes()].concat();
    for (value, least) in [
        (text, 60_002),
        (array(&[0xc4, 0]), 300_000),
        (array(&[0xc2]), 60_000),
        (array(&[0x64]), 40_000),
        (array(&float), 200_000),
        (array(&[0xd4, 5, 1]), 330_000),
    ] {
        let packet = [
            &[0x84, 0xa4][..],
            b"type\x02\xa4data\x92\xa1e",
            &value,
            b"\xa3nsp\xa1/\xa2id\x07",
        ]
        .concat();
        let whole = msgpack::decode(&packet, usize::MAX).unwrap();
        let size = whole.data.as_ref().unwrap().len()
            + whole.attachments.iter().map(Bytes::len).sum::<usize>();
        assert!(size >= least && whole.fault.is_none());
        assert_eq!(msgpack::decode(&packet, size).unwrap(), whole);
        for limit in [0, 1, 100, size / 2, size - 1] {
            let refused = msgpack::decode(&packet, limit).unwrap();
            assert_eq!(refused.fault, Some(Fault::TooLarge));
            assert!(refused.data.is_none());
            assert!(refused.attachments.is_empty());
            assert_eq!(
                (refused.kind, &*refused.namespace, refused.id),
                (PacketType::Event, "/", Some(7))
            );
        }
        let (json, bins) = decode_value(&value, usize::MAX).unwrap();
        let size = json.len() + bins.iter().map(Bytes::len).sum::<usize>();
        assert!(decode_value(&value, size).is_ok());
        assert_eq!(
            decode_value(&value, size - 1),
            Err(DecodeError::Unfit(Fault::TooLarge))
        );
    }
}

#[test]
fn long_things_have_long_heads() {
    for len in [0, 15, 16, 31, 32, 255, 256, 65_535, 65_536] {
        let text = "x".repeat(len);
        let array = vec!["1"; len].join(",");
        let members: Vec<_> = (0..len).map(|n| format!("\"{n}\":{n}")).collect();
        let args = format!("\"{text}\",[{array}],{{{}}}", members.join(","));
        let bin = [Bytes::from(vec![1; len])];
        let bytes = encoded(|out| {
            let args = format!("{args},{{\"_placeholder\":true,\"num\":0}}");
            encode_event("/", None, &text, &args, &bin, out)
        });
        let packet = decode(&bytes).unwrap();
        let data = packet.data.unwrap();
        let (name, rest) = split_event(&data).unwrap();
        assert_eq!(name, text);
        assert_eq!(rest, format!("{args},{{\"_placeholder\":true,\"num\":0}}"));
        assert_eq!(packet.attachments, bin);
    }
}

proptest! {
    #[test]
    fn events_round_trip(
        namespace in "/[a-z]{0,40}",
        id: Option<u64>,
        name in strategies::text(),
        args in prop::collection::vec(strategies::value(), 0..20),
    ) {
        let text = serde_json::to_string(&args).unwrap();
        let inside = array_inside(&text).unwrap();
        let bytes = encoded(|out| encode_event(&namespace, id, &name, inside, &[], out));
        let packet = match decode(&bytes) {
            Ok(packet) => packet,
            Err(error) => {
                prop_assert_eq!(error, DecodeError::Packet(socketio::DecodeError::ReservedName));
                return Ok(());
            }
        };
        prop_assert_eq!(packet.namespace, namespace);
        prop_assert_eq!(packet.id, id);
        let data = packet.data.unwrap();
        prop_assert!(json::is_valid(&data));
        let mut data: Vec<Value> = serde_json::from_str(&data).unwrap();
        let args: Vec<Value> = serde_json::from_str(&text).unwrap();
        prop_assert_eq!(data.remove(0), name);
        prop_assert!(same(&Value::Array(data), &Value::Array(args)));
    }

    #[test]
    fn errors_round_trip(message in strategies::text(), data in prop::option::of(strategies::value())) {
        let data = data.map(|data| data.to_string());
        let bytes = encoded(|out| encode_connect_error("/n", &message, data.as_deref(), out));
        let packet = decode(&bytes).unwrap();
        prop_assert_eq!((packet.kind, packet.namespace.as_str()), (PacketType::ConnectError, "/n"));
        let back: Value = serde_json::from_str(&packet.data.unwrap()).unwrap();
        prop_assert_eq!(back["message"].as_str(), Some(message.as_str()));
        let parsed = data.map(|data| serde_json::from_str::<Value>(&data).unwrap());
        prop_assert_eq!(back.get("data").is_some(), parsed.is_some());
        prop_assert!(parsed.is_none_or(|data| same(&back["data"], &data)));
    }

    #[test]
    fn connects_round_trip(sid in strategies::text()) {
        let packet = decode(&encoded(|out| encode_connect("/", &sid, None, out))).unwrap();
        prop_assert_eq!(packet.kind, PacketType::Connect);
        let data = packet.data.unwrap();
        prop_assert_eq!(json::unquote(json::field(&data, "sid").unwrap()).unwrap(), sid);
    }

    #[test]
    fn packets_keep_their_bound(
        name in strategies::text(),
        args in prop::collection::vec(
            prop_oneof![
                strategies::value().prop_map(|value| value.to_string()),
                Just("1e5".to_owned()),
                Just("[0.1,1e5,-0e0]".to_owned()),
                Just(r#"{"_placeholder":true,"num":0}"#.to_owned()),
                Just(r#"[{"_placeholder":true,"num":1}]"#.to_owned()),
            ],
            0..30,
        ),
        bins in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 0..3),
    ) {
        let args = args.join(",");
        let bins: Vec<Bytes> = bins.into_iter().map(Bytes::from).collect();
        let bytes = encoded(|out| encode_event("/", Some(u64::MAX), &name, &args, &bins, out));
        prop_assert!(bytes.len() <= packet_bound("/", &name, &args, &bins));
        let mut value = Vec::new();
        encode_value(&format!("[{args}]"), &bins, &mut value);
        prop_assert!(value.len() <= packet_bound("", "", &args, &bins));
    }

    #[test]
    fn no_limit_is_passed(value in strategies::value(), limit in 0usize..400) {
        let mut bytes = Vec::new();
        encode_value(&value.to_string(), &[], &mut bytes);
        match decode_value(&bytes, limit) {
            Ok((json, bins)) => prop_assert!(bins.is_empty() && json.len() <= limit),
            Err(error) => {
                prop_assert_eq!(error, DecodeError::Unfit(Fault::TooLarge));
                let (json, _) = decode_value(&bytes, usize::MAX).unwrap();
                prop_assert!(json.len() > limit);
            }
        }
    }

    /// The encoders take what was validated; on anything else they still must
    /// not panic.
    #[test]
    fn encoders_do_not_panic(args in strategies::almost_json(), text: String) {
        encoded(|out| encode_event("/", None, "e", &args, &[Bytes::new()], out));
        encoded(|out| encode_ack("/", 1, &text, &[Bytes::new()], out));
    }
}

//! msgpack from strangers: other encoders' forms, wrong packets, lies.

use heartline_wire::json::{self, MAX_DEPTH};
use heartline_wire::msgpack::{DecodeError, Fault};
use heartline_wire::socketio::{self, PacketType};
use proptest::prelude::*;

use crate::msgpack::decode;

fn bytes(hex: &str) -> Vec<u8> {
    let digits: Vec<u8> = hex
        .bytes()
        .filter(|byte| !byte.is_ascii_whitespace())
        .collect();
    digits
        .chunks(2)
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
        .collect()
}

/// `{type: kind, data: <hex>, nsp: "/"}`.
fn packet(kind: u8, data: &str) -> Vec<u8> {
    bytes(&format!(
        "83 a474797065 {kind:02x} a464617461 {data} a36e7370 a12f"
    ))
}

/// The JSON that an argument of an event becomes.
fn argument(hex: &str) -> Result<String, DecodeError> {
    let packet = decode(&packet(2, &format!("92 a165 {hex}")))?;
    let data = packet.data.unwrap();
    assert!(json::is_valid(&data), "{data}");
    Ok(data[5..data.len() - 1].to_owned())
}

#[test]
fn values() {
    for (hex, expected) in [
        ("00", "0"),
        ("7f", "127"),
        ("e0", "-32"),
        ("ff", "-1"),
        ("c0", "null"),
        ("c2", "false"),
        ("c3", "true"),
        ("ccff", "255"),
        ("cdffff", "65535"),
        ("ceffffffff", "4294967295"),
        ("cfffffffffffffffff", "18446744073709551615"),
        ("d080", "-128"),
        ("d18000", "-32768"),
        ("d280000000", "-2147483648"),
        ("d38000000000000000", "-9223372036854775808"),
        ("d07f", "127"),
        ("ca3fc00000", "1.5"),
        ("ca3dcccccd", "0.10000000149011612"),
        ("cb3ff0000000000000", "1"),
        ("cb3fb999999999999a", "0.1"),
        ("cb8000000000000000", "-0"),
        ("cb7ff0000000000000", "null"),
        ("cbfff0000000000000", "null"),
        ("cb7ff8000000000000", "null"),
        ("cb7fefffffffffffff", "1.7976931348623157e308"),
        ("cb0000000000000001", "5e-324"),
        ("cb3eb0c6f7a0b5ed8d", "0.000001"),
        ("cb3e7ad7f29abcaf48", "1e-7"),
        ("cb444b1ae4d6e2ef50", "1e21"),
        ("cb4415af1d78b58c40", "100000000000000000000"),
        ("a0", "\"\""),
        ("a161", "\"a\""),
        ("d90161", "\"a\""),
        ("da000161", "\"a\""),
        ("db0000000161", "\"a\""),
        ("a2220a", "\"\\\"\\n\""),
        ("90", "[]"),
        ("920102", "[1,2]"),
        ("dc0001c0", "[null]"),
        ("dd0000000190", "[[]]"),
        ("80", "{}"),
        ("81a16101", "{\"a\":1}"),
        ("de0001a16101", "{\"a\":1}"),
        ("df00000001a16180", "{\"a\":{}}"),
        ("810102", "{\"1\":2}"),
        ("81ff02", "{\"-1\":2}"),
        ("c400", r#"{"_placeholder":true,"num":0}"#),
        ("c5000101", r#"{"_placeholder":true,"num":0}"#),
        ("c60000000101", r#"{"_placeholder":true,"num":0}"#),
        // notepack's undefined and dates.
        ("d40000", "null"),
        ("d40001", "null"),
        ("d7000000000000000000", "\"1970-01-01T00:00:00.000Z\""),
        ("d700000001970a1b2c3d", "\"2025-05-26T01:00:42.429Z\""),
        ("d700ffffffffffffffff", "\"1969-12-31T23:59:59.999Z\""),
        ("d700001eb208c2dc0000", "\"+275760-09-13T00:00:00.000Z\""),
        ("d700ffe14df73d240000", "\"-271821-04-20T00:00:00.000Z\""),
        ("d700001eb208c2dc0001", "null"),
        ("d7007fffffffffffffff", "null"),
        ("d7008000000000000000", "null"),
        // msgpack's own timestamps.
        ("d6ff5f5e1000", "\"2020-09-13T12:26:40.000Z\""),
        ("d7ff774d6f005f5e1000", "\"2020-09-13T12:26:40.500Z\""),
        (
            "c70cff1dcd6500000000005f5e1000",
            "\"2020-09-13T12:26:40.500Z\"",
        ),
        (
            "c70cff00000000ffffffffffffffff",
            "\"1969-12-31T23:59:59.000Z\"",
        ),
        // notepack's ArrayBuffers and typed arrays, of the lengths of undefined and dates too.
        ("c70000", r#"{"_placeholder":true,"num":0}"#),
        ("c7010000", r#"{"_placeholder":true,"num":0}"#),
        ("c708000000000000000000", r#"{"_placeholder":true,"num":0}"#),
        ("c800010000", r#"{"_placeholder":true,"num":0}"#),
        ("c9000000010000", r#"{"_placeholder":true,"num":0}"#),
        // Extensions that nobody knows: type and bytes.
        ("d5000102", r#"[0,{"_placeholder":true,"num":0}]"#),
        ("d40501", r#"[5,{"_placeholder":true,"num":0}]"#),
        ("d5fe0102", r#"[-2,{"_placeholder":true,"num":0}]"#),
        (
            "d80700000000000000000000000000000000",
            r#"[7,{"_placeholder":true,"num":0}]"#,
        ),
        ("c70305010203", r#"[5,{"_placeholder":true,"num":0}]"#),
        ("c8000105ff", r#"[5,{"_placeholder":true,"num":0}]"#),
        ("c90000000105ff", r#"[5,{"_placeholder":true,"num":0}]"#),
    ] {
        assert_eq!(argument(hex).as_deref(), Ok(expected), "{hex}");
    }
}

/// `ArrayBuffer`s and typed arrays: what is attached are the bytes that were sent.
#[test]
fn array_buffers_are_attachments() {
    for (hex, expected) in [
        ("c70000", &[][..]),
        ("c7010000", &[0]),
        ("c7010007", &[7]),
        ("c70400 0000c03f", &[0, 0, 0xc0, 0x3f]),
        ("c7080001 02030405060708", &[1, 2, 3, 4, 5, 6, 7, 8]),
        ("c800020007ff", &[7, 0xff]),
        ("c900000002 0007ff", &[7, 0xff]),
    ] {
        let packet = decode(&packet(2, &format!("92 a165 81 a161 {hex}"))).unwrap();
        assert_eq!(
            packet.data.as_deref(),
            Some(r#"["e",{"a":{"_placeholder":true,"num":0}}]"#),
            "{hex}"
        );
        assert_eq!(packet.attachments, [expected], "{hex}");
    }
    // Undefined is a fixext 1 alone: neither data nor an id is absent otherwise.
    let empty = decode(&packet(0, "c7010000")).map(|packet| packet.data);
    assert!(!matches!(empty, Ok(None)), "{empty:?}");
    let id = "84 a474797065 02 a464617461 91a165 a36e7370 a12f a26964";
    assert_eq!(decode(&bytes(&format!("{id} d40000"))).unwrap().id, None);
    assert_eq!(
        decode(&bytes(&format!("{id} c7010000"))),
        Err(DecodeError::InvalidPacket)
    );
}

#[test]
fn dates_at_the_edges_of_months() {
    for (ms, expected) in [
        (951_782_400_000i64, "2000-02-29T00:00:00.000Z"),
        (951_868_799_999, "2000-02-29T23:59:59.999Z"),
        (951_868_800_000, "2000-03-01T00:00:00.000Z"),
        (4_107_542_400_000, "2100-03-01T00:00:00.000Z"),
        (1_735_689_599_999, "2024-12-31T23:59:59.999Z"),
        (1_735_689_600_000, "2025-01-01T00:00:00.000Z"),
        (-62_135_596_800_000, "0001-01-01T00:00:00.000Z"),
        (-62_167_219_200_001, "-000001-12-31T23:59:59.999Z"),
        (253_402_300_800_000, "+010000-01-01T00:00:00.000Z"),
    ] {
        let hex = format!("d700{ms:016x}");
        assert_eq!(argument(&hex), Ok(format!("\"{expected}\"")), "{ms}");
    }
}

#[test]
fn wrong_values() {
    use DecodeError::*;
    for (hex, expected) in [
        ("c1", InvalidValue),
        ("81c001", InvalidValue),
        ("81c40001", InvalidValue),
        ("819001", InvalidValue),
        ("a1ff", InvalidUtf8),
        ("a3eda080", InvalidUtf8),
        ("ddffffffff", Truncated),
        ("dfffffffff", Truncated),
        ("dbffffffff", Truncated),
        ("c6ffffffff", Truncated),
        ("c9ffffffff00", Truncated),
        ("9f", Truncated),
        // One too many.
        ("01 02", InvalidPacket),
    ] {
        assert_eq!(argument(hex), Err(expected), "{hex}");
    }
}

#[test]
fn packets() {
    // Recorded from the reference's client.
    let event = bytes(
        "84 a474797065 02 a464617461 92a165a161 a76f7074696f6e73 81a8636f6d7072657373c3 a36e7370 a12f",
    );
    let packet_ = decode(&event).unwrap();
    assert_eq!(packet_.kind, PacketType::Event);
    assert_eq!(packet_.namespace, "/");
    assert_eq!(packet_.data.as_deref(), Some(r#"["e","a"]"#));
    assert_eq!((packet_.id, packet_.attachments.len()), (None, 0));

    // Undefined counts as absent.
    let connect = decode(&packet(0, "d40000")).unwrap();
    assert_eq!((connect.kind, connect.data), (PacketType::Connect, None));
    let connect = decode(&bytes("82 a474797065 00 a36e7370 a42f613f62")).unwrap();
    assert_eq!((connect.namespace.as_str(), connect.data), ("/a", None));
    let id = decode(&bytes(
        "84 a474797065 02 a464617461 91a165 a36e7370 a12f a26964 d40000",
    ))
    .unwrap();
    assert_eq!(id.id, None);
    let id = decode(&bytes(
        "84 a26964 cc80 a474797065 02 a464617461 91a165 a36e7370 a12f",
    ))
    .unwrap();
    assert_eq!(id.id, Some(128));

    // Of equal members the last one counts.
    let twice = bytes("84 a474797065 02 a464617461 92a165c40101 a464617461 91a166 a36e7370 a12f");
    let packet_ = decode(&twice).unwrap();
    assert_eq!(packet_.data.as_deref(), Some("[\"f\"]"));
    assert!(packet_.attachments.is_empty());
}

#[test]
fn wrong_packets() {
    use DecodeError::*;
    use socketio::DecodeError as Rule;
    let rule = |kind| Packet(Rule::InvalidPayload(kind));
    for (message, expected) in [
        (vec![], Truncated),
        (bytes("80"), InvalidPacket),
        (bytes("90"), InvalidPacket),
        (bytes("01"), InvalidPacket),
        (bytes("82 a474797065 01"), Truncated),
        (bytes("81 a474797065 01"), InvalidPacket),
        (bytes("81 a36e7370 a12f"), InvalidPacket),
        (bytes("82 a474797065 a131 a36e7370 a12f"), InvalidPacket),
        (bytes("82 a474797065 ff a36e7370 a12f"), InvalidPacket),
        (bytes("82 a474797065 01 a36e7370 c0"), InvalidPacket),
        (bytes("82 01 01 a36e7370 a12f"), InvalidPacket),
        (
            bytes("83 a474797065 01 a36e7370 a12f a26964 a131"),
            InvalidPacket,
        ),
        (
            bytes("83 a474797065 01 a36e7370 a12f a26964 ff"),
            InvalidPacket,
        ),
        (bytes("82 a474797065 01 a36e7370 a12f 00"), TrailingBytes),
        // There are no binary kinds, and no seventh.
        (packet(5, "91a165"), InvalidPacket),
        (packet(6, "90"), InvalidPacket),
        (packet(7, "90"), InvalidPacket),
        (packet(0, "c0"), rule(PacketType::Connect)),
        (packet(0, "90"), rule(PacketType::Connect)),
        (packet(1, "80"), rule(PacketType::Disconnect)),
        (packet(2, "90"), rule(PacketType::Event)),
        (packet(2, "80"), rule(PacketType::Event)),
        (packet(2, "91c0"), rule(PacketType::Event)),
        (packet(2, "91c40101"), rule(PacketType::Event)),
        (packet(2, "d40000"), rule(PacketType::Event)),
        (packet(2, "91a7636f6e6e656374"), Packet(Rule::ReservedName)),
        (packet(3, "80"), rule(PacketType::Ack)),
        (packet(4, "90"), rule(PacketType::ConnectError)),
        // A map that claims to be the placeholder of a bin that is not there,
        // next to one that is.
        (
            packet(
                2,
                "93 a165 c40101 82 ac5f706c616365686f6c646572 c3 a36e756d 05",
            ),
            Packet(Rule::InvalidPlaceholder),
        ),
    ] {
        assert_eq!(decode(&message), Err(expected), "{message:02x?}");
        assert!(!expected.to_string().is_empty());
    }
}

#[test]
fn depth_is_limited() {
    let limit = MAX_DEPTH + 8;
    let nested = |depth: usize| packet(3, &format!("{}{}", "91".repeat(depth - 1), "90"));
    let maps = |depth: usize| packet(3, &format!("91{}01", "81a161".repeat(depth - 1)));
    // A bin becomes an object, which has a depth of its own.
    let bin = |depth: usize| packet(3, &format!("{}{}", "91".repeat(depth - 1), "c400"));
    for deep in [&nested as &dyn Fn(usize) -> Vec<u8>, &maps, &bin] {
        let deepest = decode(&deep(limit)).unwrap();
        assert_eq!(deepest.fault, None);
        assert!(json::is_valid(&deepest.data.unwrap()));
        for depth in [limit + 1, 300_000] {
            let refused = decode(&deep(depth)).unwrap();
            assert_eq!(refused.fault, Some(Fault::TooDeep));
            assert!(refused.data.is_none() && refused.attachments.is_empty());
            assert_eq!((refused.kind, &*refused.namespace), (PacketType::Ack, "/"));
        }
    }
    // What is passed over may be as deep as it likes.
    let options = format!(
        "83 a474797065 01 a36e7370 a12f a161 {}90",
        "91".repeat(100_000)
    );
    assert!(decode(&bytes(&options)).is_ok());
}

proptest! {
    #[test]
    fn nothing_panics(rubble: Vec<u8>, value in prop::collection::vec(any::<u8>(), 0..60)) {
        let _ = decode(&rubble);
        for kind in 0..5 {
            let mut message = packet(kind, "");
            let at = message.len() - 6;
            message.splice(at..at, value.iter().copied());
            if let Ok(packet) = decode(&message) {
                prop_assert!(packet.data.is_none_or(|data| json::is_valid(&data)));
            }
        }
    }

    #[test]
    fn prefixes_are_truncated(cut in 0usize..40) {
        let whole = packet(2, "95 a165 cd0100 c403010203 82a16101a16290 da000161");
        let cut = cut.min(whole.len() - 1);
        prop_assert_eq!(decode(&whole[..cut]), Err(DecodeError::Truncated));
    }
}

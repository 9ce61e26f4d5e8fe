//! Socket.IO protocol 5, default parser.

use bytes::Bytes;
use heartline_wire::socketio::{
    DecodeError, Packet, PacketType, PlaceholderError, array_inside, check_placeholders, decode,
    inline_attachments, push_ack, push_connect, push_connect_error, push_disconnect, push_event,
    split_event,
};

fn packet<'a>(
    kind: PacketType,
    namespace: &'a str,
    id: Option<u64>,
    attachments: usize,
    data: Option<&'a str>,
) -> Packet<'a> {
    Packet {
        kind,
        namespace,
        id,
        attachments,
        data,
    }
}

#[test]
fn valid_packets() {
    use PacketType::*;
    for (text, expected) in [
        ("0", packet(Connect, "/", None, 0, None)),
        ("0{}", packet(Connect, "/", None, 0, Some("{}"))),
        (
            "0/,{\"a\":1}",
            packet(Connect, "/", None, 0, Some("{\"a\":1}")),
        ),
        ("0/custom", packet(Connect, "/custom", None, 0, None)),
        ("0/custom,", packet(Connect, "/custom", None, 0, None)),
        (
            "0/admin,{\"token\":\"1\"}",
            packet(Connect, "/admin", None, 0, Some("{\"token\":\"1\"}")),
        ),
        ("0/a?b=c&d,{}", packet(Connect, "/a", None, 0, Some("{}"))),
        ("0/a?b", packet(Connect, "/a", None, 0, None)),
        ("0/é,{}", packet(Connect, "/é", None, 0, Some("{}"))),
        ("1", packet(Disconnect, "/", None, 0, None)),
        ("1/admin,", packet(Disconnect, "/admin", None, 0, None)),
        ("2[\"foo\"]", packet(Event, "/", None, 0, Some("[\"foo\"]"))),
        ("2[1,2]", packet(Event, "/", None, 0, Some("[1,2]"))),
        ("2[\"\"]", packet(Event, "/", None, 0, Some("[\"\"]"))),
        (
            "2 [ \"foo\" , 1 ] ",
            packet(Event, "/", None, 0, Some("[ \"foo\" , 1 ]")),
        ),
        (
            "2/admin,[\"bar\"]",
            packet(Event, "/admin", None, 0, Some("[\"bar\"]")),
        ),
        (
            "212[\"foo\"]",
            packet(Event, "/", Some(12), 0, Some("[\"foo\"]")),
        ),
        (
            "2/admin,456[\"a\"]",
            packet(Event, "/admin", Some(456), 0, Some("[\"a\"]")),
        ),
        (
            "218446744073709551615[\"a\"]",
            packet(Event, "/", Some(u64::MAX), 0, Some("[\"a\"]")),
        ),
        // A placeholder without attachments is an object like any other.
        (
            "2[\"a\",{\"_placeholder\":true,\"num\":9}]",
            packet(
                Event,
                "/",
                None,
                0,
                Some("[\"a\",{\"_placeholder\":true,\"num\":9}]"),
            ),
        ),
        (
            "3/admin,456[]",
            packet(Ack, "/admin", Some(456), 0, Some("[]")),
        ),
        (
            "312[\"bar\"]",
            packet(Ack, "/", Some(12), 0, Some("[\"bar\"]")),
        ),
        ("3[]", packet(Ack, "/", None, 0, Some("[]"))),
        (
            "4{\"message\":\"no\"}",
            packet(ConnectError, "/", None, 0, Some("{\"message\":\"no\"}")),
        ),
        (
            "4\"no\"",
            packet(ConnectError, "/", None, 0, Some("\"no\"")),
        ),
        (
            "51-[\"baz\",{\"_placeholder\":true,\"num\":0}]",
            packet(
                BinaryEvent,
                "/",
                None,
                1,
                Some("[\"baz\",{\"_placeholder\":true,\"num\":0}]"),
            ),
        ),
        (
            "510-/b,7[\"a\"]",
            packet(BinaryEvent, "/b", Some(7), 10, Some("[\"a\"]")),
        ),
        (
            "61-15[{\"_placeholder\":true,\"num\":0}]",
            packet(
                BinaryAck,
                "/",
                Some(15),
                1,
                Some("[{\"_placeholder\":true,\"num\":0}]"),
            ),
        ),
    ] {
        assert_eq!(decode(text), Ok(expected), "{text}");
    }
}

#[test]
fn invalid_packets() {
    use DecodeError::*;
    use PacketType::*;
    for (text, expected) in [
        ("", UnknownType),
        ("7", UnknownType),
        ("x", UnknownType),
        ("é", UnknownType),
        (" 2[\"a\"]", UnknownType),
        ("5", InvalidAttachments),
        ("5[\"a\"]", InvalidAttachments),
        ("5-[\"a\"]", InvalidAttachments),
        ("51[\"a\"]", InvalidAttachments),
        ("50-[\"a\"]", InvalidAttachments),
        ("511-[\"a\"]", InvalidAttachments),
        ("5-1-[\"a\"]", InvalidAttachments),
        ("51.5-[\"a\"]", InvalidAttachments),
        ("599999999999999999999999-[\"a\"]", InvalidAttachments),
        ("61", InvalidAttachments),
        ("218446744073709551616[\"a\"]", InvalidId),
        ("2[", InvalidJson),
        ("2[\"a\"", InvalidJson),
        ("2[\"a\",]", InvalidJson),
        ("2[\"a\"]x", InvalidJson),
        ("21.5[\"a\"]", InvalidJson),
        ("2-1[\"a\"]", InvalidJson),
        ("2/a[\"a\"]", InvalidPayload(Event)),
        ("0null", InvalidPayload(Connect)),
        ("0[]", InvalidPayload(Connect)),
        ("0\"a\"", InvalidPayload(Connect)),
        ("1{}", InvalidPayload(Disconnect)),
        ("1null", InvalidPayload(Disconnect)),
        ("1[]", InvalidPayload(Disconnect)),
        ("2", InvalidPayload(Event)),
        ("25", InvalidPayload(Event)),
        ("2/ns,", InvalidPayload(Event)),
        ("2{}", InvalidPayload(Event)),
        ("2[]", InvalidPayload(Event)),
        ("2[ ]", InvalidPayload(Event)),
        ("2[{}]", InvalidPayload(Event)),
        ("2[null]", InvalidPayload(Event)),
        ("2[true]", InvalidPayload(Event)),
        ("2[[\"a\"]]", InvalidPayload(Event)),
        ("2\"a\"", InvalidPayload(Event)),
        ("2[\"connect\"]", ReservedName),
        ("2[\"connect_error\",1]", ReservedName),
        ("2[\"disconnect\"]", ReservedName),
        ("2[\"disconnecting\"]", ReservedName),
        ("2[\"newListener\"]", ReservedName),
        ("2[\"removeListener\"]", ReservedName),
        ("2[ \"dis\\u0063onnect\" ]", ReservedName),
        ("51-[\"disconnect\"]", ReservedName),
        ("3", InvalidPayload(Ack)),
        ("31", InvalidPayload(Ack)),
        ("31{}", InvalidPayload(Ack)),
        ("31null", InvalidPayload(Ack)),
        ("4", InvalidPayload(ConnectError)),
        ("4[]", InvalidPayload(ConnectError)),
        ("41", InvalidPayload(ConnectError)),
        ("51-{}", InvalidPayload(BinaryEvent)),
        ("51-", InvalidPayload(BinaryEvent)),
        ("61-1{}", InvalidPayload(BinaryAck)),
        (
            "51-[\"a\",{\"_placeholder\":true,\"num\":1}]",
            InvalidPlaceholder,
        ),
        ("51-[\"a\",{\"_placeholder\":true}]", InvalidPlaceholder),
        (
            "51-[\"a\",{\"_placeholder\":true,\"num\":-1}]",
            InvalidPlaceholder,
        ),
        (
            "51-[\"a\",{\"_placeholder\":true,\"num\":\"splice\"}]",
            InvalidPlaceholder,
        ),
    ] {
        assert_eq!(decode(text), Err(expected), "{text}");
        assert!(!expected.to_string().is_empty());
    }
}

#[test]
fn placeholders() {
    const FINE: Result<(), PlaceholderError> = Ok(());
    const DANGLING: Result<(), PlaceholderError> = Err(PlaceholderError::Dangling);
    const REPEATED: Result<(), PlaceholderError> = Err(PlaceholderError::Repeated);
    for (data, attachments, expected) in [
        ("[]", 0, FINE),
        (r#"[{"_placeholder":true,"num":0}]"#, 1, FINE),
        (r#"[{"num":1,"_placeholder":true}]"#, 2, FINE),
        (
            r#"[{"_placeholder":true,"num":0},{"a":[{"_placeholder":true,"num":1}]}]"#,
            2,
            FINE,
        ),
        (
            r#"[{"_placeholder":true,"num":0},{"a":[{"_placeholder":true,"num":2}]}]"#,
            2,
            DANGLING,
        ),
        (r#"[{"_placeholder":false,"num":7}]"#, 1, FINE),
        (r#"[{"_placeholder":1,"num":7}]"#, 1, FINE),
        (r#"[{"_placeholder":"true","num":7}]"#, 1, FINE),
        (r#"[{"_placeholder":true,"num":null}]"#, 1, DANGLING),
        (r#"[{"_placeholder":true,"num":0.5}]"#, 1, DANGLING),
        (r#"[{"_placeholder":true,"num":[0]}]"#, 1, DANGLING),
        (r#"[{"_placeholder":true,"num":{"num":0}}]"#, 1, DANGLING),
        (
            r#"[{"_placeholder":true,"num":99999999999999999999999}]"#,
            1,
            DANGLING,
        ),
        // Each has an attachment of its own.
        (
            r#"[{"_placeholder":true,"num":0},{"_placeholder":true,"num":0}]"#,
            2,
            REPEATED,
        ),
        (
            r#"{"_placeholder":true,"num":1},[{"a":{"num":1,"_placeholder":true}}]"#,
            2,
            REPEATED,
        ),
        (
            r#"[{"_placeholder":true,"num":0,"a":{"_placeholder":true,"num":0}}]"#,
            1,
            REPEATED,
        ),
        (
            r#"[{"_placeholder":true,"num":0},{"_placeholder":true,"num":0},{"_placeholder":true,"num":1}]"#,
            1,
            DANGLING,
        ),
        // Escapes do not hide one.
        (r#"[{"\u005fplaceholder":true,"n\u0075m":3}]"#, 1, DANGLING),
        // Of equal names the last one counts.
        (
            r#"[{"_placeholder":true,"_placeholder":false,"num":3}]"#,
            1,
            FINE,
        ),
        (r#"[{"num":0,"_placeholder":true,"num":3}]"#, 1, DANGLING),
        // Names and values in strings and arrays are none.
        (r#"["_placeholder",true,"num",7]"#, 1, FINE),
        (r#"["{\"_placeholder\":true,\"num\":7}"]"#, 1, FINE),
        (r#"[{"a":"_placeholder"},true]"#, 1, FINE),
        // Not even valid: no panic.
        ("}}]]", 1, FINE),
    ] {
        assert_eq!(check_placeholders(data, attachments), expected, "{data}");
    }
}

#[test]
fn attachments_take_the_places_of_their_placeholders() {
    let bins = [
        Bytes::from_static(b"\x01\x02\x03"),
        Bytes::from_static(b"x"),
    ];
    for (data, expected) in [
        ("", ""),
        ("[1, 2e5]", "[1, 2e5]"),
        (r#"{"_placeholder":true,"num":0}"#, r#""AQID""#),
        (
            r#"[ {"a" : { "num":1, "_placeholder" : true, "b":[{}] } },"\u0001" ]"#,
            r#"[ {"a" : "eA==" },"\u0001" ]"#,
        ),
        // Once each, and what has no attachment is nothing.
        (
            r#"{"_placeholder":true,"num":1},{"_placeholder":true,"num":1},{"_placeholder":true,"num":2},{"_placeholder":true}"#,
            r#""eA==",null,null,null"#,
        ),
        // The outer one counts.
        (
            r#"[[{"_placeholder":true,"a":{"_placeholder":true,"num":1},"num":0}],{"_placeholder":true,"num":1}]"#,
            r#"[["AQID"],"eA=="]"#,
        ),
    ] {
        let inlined = encoded(|out| inline_attachments(data, &bins, out));
        assert_eq!(inlined, expected);
    }
}

#[test]
fn events_are_split() {
    for (array, expected) in [
        (r#"["a"]"#, Some(("a", ""))),
        (r#" [ "a" , 1 , {"b":2} ] "#, Some(("a", "1 , {\"b\":2}"))),
        (r#"["a\n",null]"#, Some(("a\n", "null"))),
        ("[12,3]", Some(("12", "3"))),
        ("[-1.5]", Some(("-1.5", ""))),
        ("[]", None),
        ("[null]", None),
        ("[[]]", None),
        ("{}", None),
        ("", None),
        ("[", None),
    ] {
        let split = split_event(array);
        let split = split.as_ref().map(|(name, args)| (name.as_ref(), *args));
        assert_eq!(split, expected, "{array}");
    }
    assert_eq!(array_inside(" [ 1, 2 ] "), Some("1, 2"));
    assert_eq!(array_inside("[]"), Some(""));
    assert_eq!(array_inside("1"), None);
    assert_eq!(array_inside("["), None);
}

/// Runs an encoder on an empty string.
pub(crate) fn encoded(push: impl FnOnce(&mut String)) -> String {
    let mut out = String::new();
    push(&mut out);
    out
}

#[test]
fn encoders() {
    for (text, expected) in [
        (
            encoded(|o| push_event("/", None, "foo", "", 0, o)),
            r#"2["foo"]"#,
        ),
        (
            encoded(|o| push_event("/", Some(12), "a\"b", "1,{}", 0, o)),
            r#"212["a\"b",1,{}]"#,
        ),
        (
            encoded(|o| push_event("/admin", Some(0), "bar", "1", 0, o)),
            r#"2/admin,0["bar",1]"#,
        ),
        (
            encoded(|o| push_event("/", None, "b", "{}", 2, o)),
            r#"52-["b",{}]"#,
        ),
        (
            encoded(|o| push_event("/n", Some(3), "b", "{}", 1, o)),
            r#"51-/n,3["b",{}]"#,
        ),
        (encoded(|o| push_ack("/", 5, "", 0, o)), "35[]"),
        (
            encoded(|o| push_ack("/n", 5, "true,1", 0, o)),
            "3/n,5[true,1]",
        ),
        (encoded(|o| push_ack("/n", 5, "{}", 1, o)), "61-/n,5[{}]"),
        (
            encoded(|o| push_connect("/", "abc", None, o)),
            r#"0{"sid":"abc"}"#,
        ),
        (
            encoded(|o| push_connect("/n", "abc", Some("p"), o)),
            r#"0/n,{"sid":"abc","pid":"p"}"#,
        ),
        (
            encoded(|o| push_connect_error("/x", "Invalid namespace", None, o)),
            r#"4/x,{"message":"Invalid namespace"}"#,
        ),
        (
            encoded(|o| push_connect_error("/", "no", Some("{\"a\":1}"), o)),
            r#"4{"message":"no","data":{"a":1}}"#,
        ),
        (encoded(|o| push_disconnect("/", o)), "1"),
        (encoded(|o| push_disconnect("/n", o)), "1/n,"),
    ] {
        assert_eq!(text, expected);
        decode(&text).unwrap();
    }
}

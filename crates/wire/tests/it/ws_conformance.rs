//! What Autobahn's fuzzing client checks, as tables: its sections 1 (framing),
//! 2 (pings), 3 (reserved bits), 4 (opcodes), 5 (fragmentation) and 7
//! (closing); 6 is in `ws_utf8`. Each case is decoded whole and byte by
//! byte, and must come out the same.

use heartline_wire::ws::{Decoder, Error, Message, OpCode, Role};

const MASK: [u8; 4] = [0x9a, 0x00, 0xff, 0x31];

/// A masked frame with any bits whatsoever.
pub(crate) fn raw(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut out = vec![first];
    match payload.len() {
        len @ 0..126 => out.push(0x80 | len as u8),
        len @ 126..65_536 => {
            out.push(0x80 | 126);
            out.extend_from_slice(&(len as u16).to_be_bytes());
        }
        len => {
            out.push(0x80 | 127);
            out.extend_from_slice(&(len as u64).to_be_bytes());
        }
    }
    out.extend_from_slice(&MASK);
    out.extend(
        payload
            .iter()
            .zip(MASK.iter().cycle())
            .map(|(byte, mask)| byte ^ mask),
    );
    out
}

pub(crate) fn frame(fin: bool, opcode: OpCode, payload: &[u8]) -> Vec<u8> {
    raw(u8::from(fin) << 7 | opcode as u8, payload)
}

/// What came out: one line for each message, and the error at the end.
pub(crate) fn decode_in(chunk: usize, bytes: &[u8], max: usize) -> (Vec<String>, Option<Error>) {
    let mut decoder = Decoder::default();
    let mut seen = Vec::new();
    for part in bytes.to_vec().chunks_mut(chunk.max(1)) {
        let mut rest = part;
        loop {
            match decoder.decode(&mut rest, Role::Server, max) {
                Ok(Some(message)) => seen.push(line(&message)),
                Ok(None) => break,
                Err(error) => return (seen, Some(error)),
            }
        }
        assert!(rest.is_empty());
    }
    (seen, None)
}

pub(crate) fn line(message: &Message<'_>) -> String {
    match message {
        Message::Text(text) => format!("text {text}"),
        Message::Binary(bytes) => format!("binary {bytes:?}"),
        Message::Compressed { text, payload } => format!("compressed {text} {payload:?}"),
        Message::Ping(bytes) => format!("ping {}", bytes.escape_ascii()),
        Message::Pong(bytes) => format!("pong {}", bytes.escape_ascii()),
        Message::Close(None) => "close".to_owned(),
        Message::Close(Some(frame)) => format!("close {} {}", frame.code, frame.reason),
    }
}

#[track_caller]
pub(crate) fn check(frames: &[Vec<u8>], expected: &[&str], error: Option<Error>) {
    let bytes = frames.concat();
    for chunk in [bytes.len(), 1, 2, 3, 7] {
        let (seen, failed) = decode_in(chunk, &bytes, 1 << 20);
        assert_eq!(seen, expected, "in chunks of {chunk}");
        match (&error, &failed) {
            // Reasons are for humans.
            (Some(Error::Protocol("")), Some(Error::Protocol(_))) => {}
            _ => assert_eq!(failed, error, "in chunks of {chunk}"),
        }
    }
}

const PROTOCOL: Option<Error> = Some(Error::Protocol(""));
pub(crate) const UTF8: Option<Error> = Some(Error::InvalidUtf8);

use OpCode::{Binary, Close, Continuation, Ping, Pong, Text};

/// 1.1 and 1.2.
#[test]
fn framing() {
    for len in [0, 1, 124, 125, 126, 127, 128, 65_535, 65_536] {
        let text = "*".repeat(len);
        check(
            &[frame(true, Text, text.as_bytes())],
            &[&format!("text {text}")],
            None,
        );
        let bytes = vec![0xfe; len];
        check(
            &[frame(true, Binary, &bytes)],
            &[&format!("binary {bytes:?}")],
            None,
        );
    }
}

/// 2.1 to 2.11.
#[test]
fn pings_and_pongs() {
    check(&[frame(true, Ping, b"")], &["ping "], None);
    check(&[frame(true, Ping, b"Hello")], &["ping Hello"], None);
    check(
        &[frame(true, Ping, b"\x00\xff\xfe")],
        &["ping \\x00\\xff\\xfe"],
        None,
    );
    let longest = "*".repeat(125);
    check(
        &[frame(true, Ping, longest.as_bytes())],
        &[&format!("ping {longest}")],
        None,
    );
    check(&[frame(true, Ping, &[0xfe; 126])], &[], PROTOCOL);
    check(&[frame(true, Pong, b"")], &["pong "], None);
    check(
        &[
            frame(true, Pong, b"unsolicited"),
            frame(true, Ping, b"ping"),
        ],
        &["pong unsolicited", "ping ping"],
        None,
    );
    let pings: Vec<_> = (0..10)
        .map(|n: u8| frame(true, Ping, &[b'0' + n]))
        .collect();
    let lines: Vec<_> = (0..10).map(|n| format!("ping {n}")).collect();
    let lines: Vec<_> = lines.iter().map(String::as_str).collect();
    check(&pings, &lines, None);
}

/// 3.1 to 3.7.
#[test]
fn reserved_bits() {
    for bits in 1..8u8 {
        for opcode in [Text, Binary, Ping, Close] {
            check(
                &[
                    frame(true, Text, b"ok"),
                    raw(0x80 | bits << 4 | opcode as u8, b"no"),
                ],
                &["text ok"],
                PROTOCOL,
            );
        }
    }
}

/// 4.1 and 4.2.
#[test]
fn reserved_opcodes() {
    for opcode in (3..=7).chain(11..=15) {
        check(&[raw(0x80 | opcode, b"")], &[], PROTOCOL);
        check(
            &[
                frame(true, Text, b"ok"),
                raw(0x80 | opcode, b"no"),
                frame(true, Ping, b""),
            ],
            &["text ok"],
            PROTOCOL,
        );
    }
}

/// 5.1 to 5.20.
#[test]
fn fragmentation() {
    // Control frames may not be fragmented.
    check(
        &[frame(false, Ping, b"a"), frame(true, Continuation, b"b")],
        &[],
        PROTOCOL,
    );
    check(
        &[frame(false, Pong, b"a"), frame(true, Continuation, b"b")],
        &[],
        PROTOCOL,
    );
    check(
        &[frame(false, Close, b""), frame(true, Continuation, b"b")],
        &[],
        PROTOCOL,
    );
    // Two fragments, and control frames between.
    check(
        &[frame(false, Text, b"ab"), frame(true, Continuation, b"cd")],
        &["text abcd"],
        None,
    );
    check(
        &[
            frame(false, Text, b"ab"),
            frame(true, Ping, b"!"),
            frame(true, Continuation, b"cd"),
        ],
        &["ping !", "text abcd"],
        None,
    );
    check(
        &[
            frame(false, Binary, &[1]),
            frame(true, Pong, b""),
            frame(false, Continuation, &[2, 3]),
            frame(true, Ping, b"x"),
            frame(true, Continuation, &[4]),
            frame(true, Text, b"next"),
        ],
        &["pong ", "ping x", "binary [1, 2, 3, 4]", "text next"],
        None,
    );
    // A close between fragments.
    check(
        &[frame(false, Text, b"ab"), frame(true, Close, b"\x03\xe8")],
        &["close 1000 "],
        None,
    );
    // Empty fragments.
    check(
        &[
            frame(false, Text, b""),
            frame(false, Continuation, b""),
            frame(true, Continuation, b""),
        ],
        &["text "],
        None,
    );
    check(
        &[
            frame(false, Text, b""),
            frame(false, Continuation, b"middle"),
            frame(true, Continuation, b""),
        ],
        &["text middle"],
        None,
    );
    // Continuation of nothing.
    check(&[frame(true, Continuation, b"a")], &[], PROTOCOL);
    check(&[frame(false, Continuation, b"a")], &[], PROTOCOL);
    check(
        &[
            frame(false, Text, b"a"),
            frame(true, Continuation, b"b"),
            frame(false, Continuation, b"c"),
        ],
        &["text ab"],
        PROTOCOL,
    );
    // A new message within one.
    check(
        &[frame(false, Text, b"a"), frame(true, Text, b"b")],
        &[],
        PROTOCOL,
    );
    check(
        &[frame(false, Text, b"a"), frame(false, Binary, b"b")],
        &[],
        PROTOCOL,
    );
}

/// 7.1 to 7.13.
#[test]
fn closing() {
    check(&[frame(true, Close, b"")], &["close"], None);
    check(&[frame(true, Close, b"\x03\xe8")], &["close 1000 "], None);
    check(
        &[frame(true, Close, b"\x03\xe8Hello")],
        &["close 1000 Hello"],
        None,
    );
    let reason = "*".repeat(123);
    let payload = [b"\x03\xe8", reason.as_bytes()].concat();
    check(
        &[frame(true, Close, &payload)],
        &[&format!("close 1000 {reason}")],
        None,
    );
    check(
        &[frame(true, Close, &[payload, b"*".to_vec()].concat())],
        &[],
        PROTOCOL,
    );
    check(&[frame(true, Close, b"\x03")], &[], PROTOCOL);
    check(
        &[frame(true, Close, b"\x03\xe8\xce\xba\xed\xa0\x80")],
        &[],
        UTF8,
    );
    for code in [
        1000u16, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 3000, 3999, 4000, 4999,
    ] {
        check(
            &[frame(true, Close, &code.to_be_bytes())],
            &[&format!("close {code} ")],
            None,
        );
    }
    for code in [
        0u16, 999, 1004, 1005, 1006, 1016, 1100, 2000, 2999, 5000, 65_535,
    ] {
        check(&[frame(true, Close, &code.to_be_bytes())], &[], PROTOCOL);
    }
}

#[test]
fn masking_follows_the_role() {
    let mut unmasked = [0x81, 1, b'a'];
    let mut decoder = Decoder::default();
    let result = decoder
        .decode(&mut &mut unmasked[..], Role::Server, 100)
        .map(|_| ());
    assert!(matches!(result, Err(Error::Protocol(_))));
    let mut masked = frame(true, Text, b"a");
    let result = decoder
        .decode(&mut &mut masked[..], Role::Client, 100)
        .map(|_| ());
    assert!(matches!(result, Err(Error::Protocol(_))));
    let mut unmasked = [0x81, 1, b'a'];
    let message = decoder.decode(&mut &mut unmasked[..], Role::Client, 100);
    assert_eq!(message, Ok(Some(Message::Text("a"))));
}

#[test]
fn lengths() {
    // The top bit of a 64-bit length (RFC 6455 §5.2).
    check(
        &[[&[0x82, 0xff, 0x80, 0, 0, 0, 0, 0, 0, 0][..], &MASK].concat()],
        &[],
        PROTOCOL,
    );
    // A length in more bytes than needed is let pass.
    check(
        &[[&[0x82, 0xfe, 0, 1][..], &MASK, &[0x9b]].concat()],
        &["binary [1]"],
        None,
    );
    // 126 in a control frame is no length but too long.
    check(
        &[[&[0x89, 0xfe, 0, 1][..], &MASK, &[0x9b]].concat()],
        &[],
        PROTOCOL,
    );
}

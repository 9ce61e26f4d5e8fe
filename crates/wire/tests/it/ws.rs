//! Writing frames, and where they end.

use heartline_wire::ws::{
    Decoder, Error, Message, OpCode, Role, frame_boundary, is_valid_close_code, push_close,
    push_frame, push_header, push_masked_frame,
};
use proptest::prelude::*;

fn written(push: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut out = Vec::new();
    push(&mut out);
    out
}

/// RFC 6455 §5.7, the examples.
#[test]
fn examples_of_the_rfc() {
    assert_eq!(
        written(|out| push_frame(OpCode::Text, b"Hello", out)),
        [0x81, 0x05, 0x48, 0x65, 0x6c, 0x6c, 0x6f]
    );
    assert_eq!(
        written(|out| push_masked_frame(OpCode::Text, b"Hello", [0x37, 0xfa, 0x21, 0x3d], out)),
        [
            0x81, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58
        ]
    );
    assert_eq!(
        written(|out| push_frame(OpCode::Ping, b"Hello", out)),
        [0x89, 0x05, 0x48, 0x65, 0x6c, 0x6c, 0x6f]
    );
    assert_eq!(
        written(|out| push_header(OpCode::Binary, 256, out)),
        [0x82, 0x7e, 0x01, 0x00]
    );
    assert_eq!(
        written(|out| push_header(OpCode::Binary, 65_536, out)),
        [0x82, 0x7f, 0, 0, 0, 0, 0, 1, 0, 0]
    );
}

#[test]
fn lengths_take_the_fewest_bytes() {
    for (len, header) in [(0, 2), (125, 2), (126, 4), (65_535, 4), (65_536, 10)] {
        let bytes = written(|out| push_header(OpCode::Binary, len, out));
        assert_eq!(bytes.len(), header, "{len}");
    }
}

#[test]
fn close_frames() {
    assert_eq!(
        written(|out| push_close(1001, "bye", out)),
        [0x88, 5, 0x03, 0xe9, b'b', b'y', b'e']
    );
    assert_eq!(
        written(|out| push_close(4409, "", out)),
        [0x88, 2, 0x11, 0x39]
    );
    // 123 bytes at most, and whole characters.
    let long = written(|out| push_close(1000, &"é".repeat(100), out));
    assert_eq!(long.len(), 2 + 2 + 122);
    assert!(std::str::from_utf8(&long[4..]).is_ok());
    let exact = written(|out| push_close(1000, &"x".repeat(123), out));
    assert_eq!(exact.len(), 2 + 125);
    let over = written(|out| push_close(1000, &"x".repeat(124), out));
    assert_eq!(over, exact);
}

#[test]
fn close_codes() {
    let valid = |code| is_valid_close_code(code);
    for code in [
        1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 3999, 4000,
        4999,
    ] {
        assert!(valid(code), "{code}");
    }
    for code in [
        0, 1, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65_535,
    ] {
        assert!(!valid(code), "{code}");
    }
}

#[test]
fn boundaries() {
    let mut bytes = Vec::new();
    let mut ends = vec![0];
    for len in [0, 1, 125, 126, 300, 65_535, 65_536, 7] {
        push_frame(OpCode::Binary, &vec![0xff; len], &mut bytes);
        ends.push(bytes.len());
    }
    for pair in ends.windows(2) {
        let (start, end) = (pair[0], pair[1]);
        assert_eq!(frame_boundary(&bytes, start), start);
        for written in [start + 1, end - 1, end] {
            assert_eq!(frame_boundary(&bytes, written), end);
        }
    }
    // What is no whole frame ends with the bytes.
    assert_eq!(frame_boundary(&bytes, usize::MAX), bytes.len());
    assert_eq!(frame_boundary(&[], 0), 0);
    assert_eq!(frame_boundary(&[], 5), 0);
    assert_eq!(frame_boundary(&[0x82], 1), 1);
    assert_eq!(frame_boundary(&[0x82, 10, 0], 1), 3);
    assert_eq!(
        frame_boundary(
            &[0x82, 127, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
            1
        ),
        10
    );
}

#[test]
fn errors_have_codes() {
    for (error, code) in [
        (Error::Protocol("x"), 1002),
        (Error::InvalidUtf8, 1007),
        (Error::TooBig, 1009),
    ] {
        assert_eq!(error.close_code(), code);
        assert!(!error.to_string().is_empty());
    }
}

proptest! {
    #[test]
    fn frames_round_trip(payload in prop::collection::vec(any::<u8>(), 0..300), mask: Option<[u8; 4]>) {
        let (role, mut bytes) = match mask {
            Some(mask) => (Role::Server, written(|out| push_masked_frame(OpCode::Binary, &payload, mask, out))),
            None => (Role::Client, written(|out| push_frame(OpCode::Binary, &payload, out))),
        };
        let mut decoder = Decoder::default();
        let mut rest = &mut bytes[..];
        let message = decoder.decode(&mut rest, role, 300).unwrap();
        prop_assert_eq!(message, Some(Message::Binary(&payload)));
        prop_assert!(rest.is_empty());
    }

    #[test]
    fn closes_round_trip(code: u16, reason: String) {
        let mut bytes = written(|out| push_close(code, &reason, out));
        let mut decoder = Decoder::default();
        let mut rest = &mut bytes[..];
        match decoder.decode(&mut rest, Role::Client, 0) {
            Ok(Some(Message::Close(Some(frame)))) => {
                prop_assert!(is_valid_close_code(code));
                prop_assert_eq!(frame.code, code);
                prop_assert!(reason.starts_with(frame.reason));
                prop_assert!(frame.reason.len() >= reason.len().min(120));
            }
            other => {
                prop_assert!(!is_valid_close_code(code));
                prop_assert!(matches!(other, Err(Error::Protocol(_))));
            }
        }
    }

    #[test]
    fn boundary_never_panics(bytes: Vec<u8>, written in 0usize..600) {
        let end = frame_boundary(&bytes, written);
        prop_assert!(end <= bytes.len());
        prop_assert!(end >= written.min(bytes.len()));
    }
}

//! Autobahn's section 6: text must be UTF-8, and what is not fails fast.

use heartline_wire::ws::OpCode::{Binary, Continuation, Text};

use crate::ws_conformance::{UTF8, check, frame};

/// 6.1 to 6.23: RFC 3629, with Markus Kuhn's examples.
#[test]
fn utf8_valid() {
    for text in [
        "κόσμε",
        "",
        "\u{0}",
        "\u{7f}",
        "\u{80}",
        "\u{7ff}",
        "\u{800}",
        "\u{d7ff}",
        "\u{e000}",
        "\u{fffd}",
        "\u{fffe}",
        "\u{ffff}",
        "\u{10000}",
        "\u{10ffff}",
        "Hello-µ@ßöäüàá-UTF-8!!",
        "\u{1fffe}",
        "\u{10fffe}",
        "𐀀é€",
    ] {
        let bytes = text.as_bytes();
        let expected = format!("text {text}");
        check(&[frame(true, Text, bytes)], &[&expected], None);
        // Fragments need not end at characters (6.2.3).
        let mut frames: Vec<_> = bytes
            .iter()
            .map(|byte| frame(false, Continuation, &[*byte]))
            .collect();
        frames.insert(0, frame(false, Text, b""));
        frames.push(frame(true, Continuation, b""));
        check(&frames, &[&expected], None);
    }
}

#[test]
fn utf8_invalid() {
    for bytes in [
        // Lone and missing continuation bytes.
        &b"\x80"[..],
        b"\xbf",
        b"\x80\xbf\x80",
        b"\xc0 ",
        b"\xdf ",
        b"\xe0 ",
        b"\xef ",
        b"\xf0 ",
        b"\xf4 ",
        b"\xc3",
        b"\xe2\x82",
        b"\xf0\x9f\x98",
        b"a\xe2\x82",
        b"\xe2\x82a",
        // Impossible bytes.
        b"\xfe",
        b"\xff",
        b"\xf8\x88\x80\x80\x80",
        b"\xfc\x84\x80\x80\x80\x80",
        // Overlong forms.
        b"\xc0\xaf",
        b"\xc1\xbf",
        b"\xe0\x80\xaf",
        b"\xe0\x9f\xbf",
        b"\xf0\x80\x80\xaf",
        b"\xf0\x8f\xbf\xbf",
        // Surrogates, alone and in pairs.
        b"\xed\xa0\x80",
        b"\xed\xbf\xbf",
        b"\xed\xa0\x80\xed\xb0\x80",
        // Beyond U+10FFFF.
        b"\xf4\x90\x80\x80",
        b"\xf5\x80\x80\x80",
        b"\xf7\xbf\xbf\xbf",
        // 6.3: one bad sequence in good text.
        b"\xce\xba\xe1\xbd\xb9\xcf\x83\xce\xbc\xce\xb5\xed\xa0\x80edited",
    ] {
        check(&[frame(true, Text, bytes)], &[], UTF8);
        let (first, second) = bytes.split_at(bytes.len() / 2);
        check(
            &[frame(false, Text, first), frame(true, Continuation, second)],
            &[],
            UTF8,
        );
        // The same bytes are fine as binary.
        check(
            &[frame(true, Binary, bytes)],
            &[&format!("binary {bytes:?}")],
            None,
        );
    }
}

/// 6.4: what cannot become valid any more fails at once, not at the end.
#[test]
fn utf8_fails_fast() {
    let good = "κόσμε".as_bytes();
    let bad = b"\xf4\x90";
    // In a fragment, with the message's end outstanding.
    check(
        &[frame(false, Text, good), frame(false, Continuation, bad)],
        &[],
        UTF8,
    );
    check(
        &[
            frame(false, Text, &[good, b"\xf4"].concat()),
            frame(false, Continuation, b"\x90"),
        ],
        &[],
        UTF8,
    );
    // In a frame whose end is outstanding.
    let mut part = frame(true, Text, &[good, bad, &[b'x'; 200][..]].concat());
    part.truncate(8 + good.len() + bad.len());
    check(&[part], &[], UTF8);
    // What may still become valid does not.
    let mut part = frame(true, Text, &[good, b"\xf4\x8f\xbf\xbf"].concat());
    part.truncate(part.len() - 1);
    check(&[part], &[], None);
}

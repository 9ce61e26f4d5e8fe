//! JSON as text.

use heartline_wire::json::{
    elements, field, is_deeper_than, is_valid, members, quote, skip_value, unquote,
};
use proptest::prelude::*;
use serde_json::Value;

use crate::strategies;

#[test]
fn valid_values() {
    for text in [
        "null",
        "true",
        "false",
        "0",
        "-0",
        "1",
        "-12",
        "0.5",
        "1e5",
        "1E+5",
        "1.25e-7",
        "\"\"",
        "\"a\"",
        "[]",
        "{}",
        "[ ]",
        "{ }",
        " [ 1 , 2 ] ",
        "\t{\"a\"\n:\r1}\n",
        "[[],{}]",
        r#"{"":0}"#,
        r#"{"a":{"b":[null,{"c":"d"}]}}"#,
        r#""\"\\\/\b\f\n\r\t\u00e9\uD83D\uDE00""#,
        r#""\ud800""#,
        "\"é😀\u{7f}\u{2028}\"",
        r#"{"a":1,"a":2}"#,
        "\"exactly8\"",
        "\"sixteencharacter\"",
        "123456789012345678901234567890",
    ] {
        assert!(is_valid(text), "{text}");
    }
}

#[test]
fn invalid_values() {
    for text in [
        "",
        " ",
        "nul",
        "nulll",
        "True",
        "01",
        "-",
        "-a",
        "+1",
        ".5",
        "1.",
        "1.e5",
        "1e",
        "1e+",
        "0x10",
        "NaN",
        "Infinity",
        "'a'",
        "\"",
        "\"a",
        "\"\\\"",
        "\"\\x\"",
        "\"\\u12\"",
        "\"\\u12g4\"",
        "\"\n\"",
        "\"\u{0}\"",
        "\"\u{1f}\"",
        "\"abcdefg\u{1}hijklmn\"",
        "[",
        "]",
        "[1",
        "[1,",
        "[1,]",
        "[,1]",
        "[1 2]",
        "[1}",
        "{",
        "}",
        "{1:2}",
        "{\"a\"}",
        "{\"a\":}",
        "{\"a\":1,}",
        "{\"a\":1 \"b\":2}",
        "{\"a\":1]",
        "{,}",
        "1 2",
        "[] []",
        "\u{a0}1",
        "é",
        "/**/1",
        "[1]//",
    ] {
        assert!(!is_valid(text), "{text}");
    }
}

#[test]
fn depth_is_limited() {
    let nest = |depth: usize, open: &str, close: &str| {
        format!("{}{}", open.repeat(depth), close.repeat(depth))
    };
    let object = |depth| format!("{}1{}", r#"{"a":"#.repeat(depth), "}".repeat(depth));
    for depth in [
        1, 2, 62, 63, 64, 65, 126, 127, 128, 129, 130, 255, 256, 257, 500, 1000, 300_000,
    ] {
        for text in [
            nest(depth, "[", "]"),
            object(depth),
            nest(depth, " [ ", "]\n"),
        ] {
            assert!(is_valid(&text), "{depth}");
            assert!(!is_deeper_than(&text, depth));
            assert!(is_deeper_than(&text, depth - 1));
            // One bracket more or less, or another one anywhere.
            assert!(!is_valid(&text.trim()[1..]) && !is_valid(&format!("{text}]")));
        }
        // Arrays and objects in turn, so that each must be remembered.
        let turns = format!("{}1{}", r#"[{"a":"#.repeat(depth), "}]".repeat(depth));
        assert!(is_valid(&turns), "{depth}");
        assert!(!is_valid(&turns.replacen("}]", "]}", 1)));
        assert!(is_deeper_than(&turns, 2 * depth - 1) && !is_deeper_than(&turns, 2 * depth));
        let end = turns.len() - 2 * depth;
        let broken = [&turns[..end], "]", &turns[end + 1..]].concat();
        assert!(!is_valid(&broken), "{depth}");
    }
    assert!(!is_valid(&"[".repeat(1_000_000)));
    // Depth counts what is open, not what was, nor what is in a string.
    let many = format!("[{}[]],\"{}\"", "[],".repeat(1000), "[\\\"".repeat(1000));
    assert!(!is_deeper_than(&many, 2) && is_deeper_than(&many, 1));
}

#[test]
fn skip_value_stops_behind_the_value() {
    assert_eq!(skip_value("  12,3", 0), Some(4));
    assert_eq!(skip_value("\"a\" :1", 0), Some(3));
    assert_eq!(skip_value("[1] ", 0), Some(3));
    assert_eq!(skip_value("1,2", 2), Some(3));
    assert_eq!(skip_value("1,2", 1), None);
    assert_eq!(skip_value("1", 1), None);
    assert_eq!(skip_value("1", 2), None);
    assert_eq!(skip_value("1", usize::MAX), None);
    // Within a character.
    assert_eq!(skip_value("é", 1), None);
}

#[test]
fn control_characters_are_found_at_every_offset() {
    for bad in ['\u{0}', '\u{1f}', '\n'] {
        for before in 0..20 {
            let text = format!("\"{}{bad}{}\"", "é".repeat(before), "x".repeat(20));
            assert!(!is_valid(&text), "{before}");
        }
    }
    // Bytes with the top bit set are no control characters.
    for text in ["\"\u{80}\u{9f}\u{a0}\"", "\"\u{1f}é\"", "\"ÿþýüûúùø\""] {
        assert_eq!(is_valid(text), !text.contains('\u{1f}'));
    }
}

#[test]
fn a_string_ends_where_it_ends_however_long_it_is() {
    for plain in [" ", "x", "~\u{7f}", "é", "\u{10ffff}", "]#["] {
        for (run, behind) in (0..100).flat_map(|run| [0, 1, 7, 8, 31, 32, 70].map(|n| (run, n))) {
            let (before, after) = (plain.repeat(run), plain.repeat(behind));
            let literal = format!("\"{before}\"");
            assert_eq!(
                skip_value(&format!("{literal}{after}"), 0),
                Some(literal.len())
            );
            for (escape, character) in [("\\\"", '"'), ("\\\\", '\\'), ("\\u0000", '\0')] {
                let literal = format!("\"{before}{escape}{after}\"");
                let text = format!("{before}{character}{after}");
                assert_eq!(unquote(&literal).as_deref(), Some(&*text));
                assert_eq!(quote(&text), literal);
            }
            assert_eq!(skip_value(&format!("\"{before}\u{1f}{after}\""), 0), None);
            assert_eq!(skip_value(&format!("\"{before}"), 0), None);
        }
    }
}

#[test]
fn unquote_table() {
    for (literal, expected) in [
        (r#""""#, Some("")),
        (r#""abc""#, Some("abc")),
        (r#""a\"b\\c\/d""#, Some("a\"b\\c/d")),
        (r#""\b\f\n\r\t""#, Some("\u{8}\u{c}\n\r\t")),
        (r#""\u00e9x""#, Some("éx")),
        (r#""\u0000""#, Some("\0")),
        (r#""\uD83D\uDE00!""#, Some("😀!")),
        (r#""\ud83d""#, Some("\u{fffd}")),
        (r#""\ude00""#, Some("\u{fffd}")),
        (r#""\ud83dx""#, Some("\u{fffd}x")),
        (r#""\ud83d\n""#, Some("\u{fffd}\n")),
        (r#""\ud83d\u0041""#, Some("\u{fffd}A")),
        (r#""\ud83d\ud83d\ude00""#, Some("\u{fffd}😀")),
        (r#""é\té""#, Some("é\té")),
        ("", None),
        ("\"", None),
        ("abc", None),
        ("\"a", None),
        ("\"a\"b\"", None),
        (" \"a\"", None),
        ("\"a\" ", None),
        ("\"\\x\"", None),
        ("1", None),
    ] {
        assert_eq!(unquote(literal).as_deref(), expected, "{literal}");
    }
    assert!(matches!(
        unquote("\"plain\""),
        Some(std::borrow::Cow::Borrowed("plain"))
    ));
}

#[test]
fn quote_escapes_what_must_be() {
    assert_eq!(quote("a\"b\\c\n\u{1}é/"), r#""a\"b\\c\n\u0001é/""#);
    assert_eq!(quote(""), "\"\"");
    assert_eq!(quote("\u{1f}\u{7f}"), "\"\\u001f\u{7f}\"");
}

#[test]
fn elements_table() {
    for (inside, expected) in [
        ("", vec![]),
        ("  ", vec![]),
        ("1", vec!["1"]),
        (
            r#" 1 , {"a":2,"b":[1,2]} ,"x,y",[ ] "#,
            vec!["1", r#"{"a":2,"b":[1,2]}"#, "\"x,y\"", "[ ]"],
        ),
        // Not valid: it ends.
        ("1,,2", vec!["1"]),
        ("1 2", vec!["1"]),
        ("x", vec![]),
    ] {
        assert_eq!(elements(inside).collect::<Vec<_>>(), expected, "{inside}");
    }
}

#[test]
fn field_table() {
    let object = r#" { "a" : 1 , "b":{"a":2}, "a":3, "c\n":"x", "\u0064":4 } "#;
    assert_eq!(field(object, "a"), Some("3"));
    assert_eq!(field(object, "b"), Some(r#"{"a":2}"#));
    assert_eq!(field(object, "c\n"), Some("\"x\""));
    assert_eq!(field(object, "d"), Some("4"));
    assert_eq!(field(object, "e"), None);
    for other in ["{}", "[]", "1", "", "\"a\"", "{"] {
        assert_eq!(field(other, "a"), None, "{other}");
    }
}

#[test]
fn members_validate_as_they_go() {
    let complete = |text| {
        let mut object = members(text);
        object.by_ref().for_each(drop);
        object.is_complete()
    };
    assert!(complete("{}"));
    assert!(complete(" { \"a\" : [1] , \"b\":2 } "));
    for text in [
        "",
        "[]",
        "{",
        "{\"a\"",
        "{\"a\":1",
        "{\"a\":1,",
        "{\"a\":1,}",
        "{\"a\":1}x",
        "{}}",
        "{\"a\" 1}",
        "{\"a\":1 \"b\":2}",
        "{\"a\":1]",
        "{a:1}",
        "{,}",
    ] {
        assert!(!complete(text), "{text}");
    }
}

/// serde_json's opinion, without a limit on depth and without decoding
/// surrogates, which a validator has no business with.
fn serde_accepts(text: &str) -> bool {
    serde_json::from_str::<serde::de::IgnoredAny>(text).is_ok()
}

proptest! {
    #[test]
    fn agrees_with_serde_on_values(value in strategies::value(), pretty: bool) {
        let text = if pretty {
            serde_json::to_string_pretty(&value)
        } else {
            serde_json::to_string(&value)
        }.unwrap();
        prop_assert!(is_valid(&text));
        prop_assert_eq!(skip_value(&text, 0), Some(text.len()));
    }

    #[test]
    fn agrees_with_serde_on_rubble(text in strategies::almost_json()) {
        prop_assert_eq!(is_valid(&text), serde_accepts(&text), "{}", text);
    }

    #[test]
    fn agrees_with_serde_on_damaged_values(
        value in strategies::value(),
        at: prop::sample::Index,
        with in "[\\x00-\\x7f]{0,2}",
    ) {
        let mut text = serde_json::to_string(&value).unwrap();
        let mut start = at.index(text.len());
        while !text.is_char_boundary(start) {
            start -= 1;
        }
        let len = text[start..].chars().next().map_or(0, char::len_utf8);
        text.replace_range(start..start + len, &with);
        prop_assert_eq!(is_valid(&text), serde_accepts(&text), "{}", text);
    }

    #[test]
    fn strings_round_trip(text in strategies::text()) {
        let literal = quote(&text);
        prop_assert!(is_valid(&literal));
        prop_assert_eq!(serde_json::from_str::<String>(&literal).unwrap(), text.as_str());
        prop_assert_eq!(unquote(&literal).unwrap(), text.as_str());
        let by_serde = serde_json::to_string(&text).unwrap();
        prop_assert_eq!(unquote(&by_serde).unwrap(), text);
    }

    #[test]
    fn elements_are_those_of_the_array(values in prop::collection::vec(strategies::value(), 0..6)) {
        let text = serde_json::to_string(&values).unwrap();
        let parts: Vec<Value> = elements(&text[1..text.len() - 1])
            .map(|part| serde_json::from_str(part).unwrap())
            .collect();
        let whole: Vec<Value> = serde_json::from_str(&text).unwrap();
        prop_assert_eq!(parts, whole);
    }

    #[test]
    fn fields_are_those_of_the_object(
        object in prop::collection::btree_map(strategies::text(), strategies::value(), 0..6),
    ) {
        let text = serde_json::to_string(&object).unwrap();
        let whole: Value = serde_json::from_str(&text).unwrap();
        for key in object.keys() {
            let part: Value = serde_json::from_str(field(&text, key).unwrap()).unwrap();
            prop_assert_eq!(&part, &whole[key]);
        }
    }

    #[test]
    fn nothing_panics(text: String, start in 0usize..50) {
        let _ = skip_value(&text, start);
        let _ = unquote(&text);
        let _ = unquote(&format!("\"{text}\""));
        let _ = field(&text, "a");
        let _ = elements(&text).count();
        let _ = members(&format!("{{{text}}}")).count();
    }

    #[test]
    fn nothing_panics_on_rubble(text in strategies::almost_json(), start in 0usize..50) {
        let _ = skip_value(&text, start);
        let _ = unquote(&text);
        let _ = field(&text, "a");
        let _ = elements(&text).count();
        let _ = members(&text).count();
    }
}

//! What does not fit, in words of who sent it.

use std::borrow::Cow;

/// What serde says of data that does not fit, without what means nothing to who sent it: the
/// names of types, and a place in a text that may never have been sent so.
pub fn in_words(why: &str) -> String {
    let why = why.rsplit_once(" at line ").map_or(why, |(why, _)| why);
    if [
        "data did not match any variant of untagged enum",
        "no variant of enum",
    ]
    .iter()
    .any(|start| why.starts_with(start))
    {
        return "a value is of none of the kinds that it may be".to_owned();
    }
    match why.rsplit_once("expected ") {
        Some((what, wanted)) => {
            format!("{}expected {}", without_long(what), wanted_in_words(wanted))
        }
        None => without_long(why).into_owned(),
    }
}

/// Most bytes of a text that is repeated to who sent it: a longer one may be a token in a wrong
/// place, and errors are logged.
const MOST_REPEATED: usize = 32;

/// What serde says, but for a long text that is quoted in it.
fn without_long(what: &str) -> Cow<'_, str> {
    for quote in ['"', '`'] {
        if let Some((before, rest)) = what.split_once(quote)
            && let Some((text, after)) = rest.rsplit_once(quote)
            && text.len() > MOST_REPEATED
        {
            return format!("{before}(a long one){after}").into();
        }
    }
    what.into()
}

/// What was wanted instead.
fn wanted_in_words(wanted: &str) -> String {
    if let Some(number) = number_in_words(wanted) {
        return number;
    }
    let mut words = wanted.split(' ');
    let named = matches!(words.next(), Some("a" | "an"));
    let rest = if named {
        &wanted[wanted.find(' ').map_or(0, |at| at + 1)..]
    } else {
        wanted
    };
    let starts = |kinds: &[&str]| {
        kinds
            .iter()
            .any(|kind| rest == *kind || rest.starts_with(&format!("{kind} ")))
    };
    // Only lists are wanted of a length.
    if starts(&["tuple", "sequence", "array"]) || starts(&["tuple struct"]) {
        let mut words = rest.split(' ').rev();
        let count: Option<usize> = words.find_map(|word| word.parse().ok());
        return match count {
            Some(1) => "a list of 1 element".to_owned(),
            Some(count) => format!("a list of {count} elements"),
            None => "a list".to_owned(),
        };
    }
    match () {
        () if starts(&["struct", "map", "internally tagged", "adjacently tagged"]) => "an object",
        () if starts(&["unit"]) => "null",
        () if starts(&["enum", "string or map"]) => "a text, or an object",
        () if starts(&["variant identifier", "field identifier", "identifier"]) => "a text",
        () => wanted,
    }
    .to_owned()
}

/// A number that was wanted, with its range where it has one.
fn number_in_words(wanted: &str) -> Option<String> {
    let (kind, is_nonzero) = match wanted.strip_prefix("a nonzero ") {
        Some(kind) => (kind, true),
        None => (wanted, false),
    };
    let range = |least: i128, most: u128| {
        // No unsigned number but zero is left out in the middle.
        let (least, zero) = match (is_nonzero, least) {
            (true, 0) => (1, ""),
            (true, _) => (least, ", and not 0"),
            (false, _) => (least, ""),
        };
        Some(format!("a whole number from {least} to {most}{zero}"))
    };
    match kind {
        "u8" => range(0, u8::MAX.into()),
        "u16" => range(0, u16::MAX.into()),
        "u32" => range(0, u32::MAX.into()),
        "u64" => range(0, u64::MAX.into()),
        "usize" => range(0, usize::MAX as u128),
        "i8" => range(i8::MIN.into(), i8::MAX as u128),
        "i16" => range(i16::MIN.into(), i16::MAX as u128),
        "i32" => range(i32::MIN.into(), i32::MAX as u128),
        "i64" | "isize" => range(i64::MIN.into(), i64::MAX as u128),
        "u128" => range(0, u128::MAX),
        "i128" => range(i128::MIN, i128::MAX as u128),
        "f32" | "f64" => Some("a number".to_owned()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;
    use serde::de::DeserializeOwned;

    fn why<T: DeserializeOwned>(json: &str) -> String {
        let error = serde_json::from_str::<T>(json).err();
        in_words(&error.map_or("it fits".to_owned(), |error| error.to_string()))
    }

    #[test]
    fn a_long_text_is_not_repeated() {
        let long = "eyJh.`\\\"x".repeat(10);
        assert_eq!(
            why::<u8>(&format!("\"{long}\"")),
            "invalid type: string (a long one), expected a whole number from 0 to 255"
        );
        #[derive(Debug, Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Nothing {}
        let name = "y".repeat(33);
        assert_eq!(
            why::<Nothing>(&format!("{{\"{name}\":1}}")),
            "unknown field (a long one), there are no fields"
        );
        let short = "y".repeat(32);
        let said = why::<u8>(&format!("\"{short}\""));
        assert!(said.starts_with(&format!("invalid type: string \"{short}\", ")));
    }

    #[test]
    fn a_number_is_wanted_with_its_range() {
        for (said, is) in [
            (
                why::<u8>("300"),
                "invalid value: integer `300`, expected a whole number from 0 to 255",
            ),
            (
                why::<u16>("-1"),
                "invalid value: integer `-1`, expected a whole number from 0 to 65535",
            ),
            (
                why::<i8>("128"),
                "invalid value: integer `128`, expected a whole number from -128 to 127",
            ),
            (
                why::<std::num::NonZeroU8>("0"),
                "invalid value: integer `0`, expected a whole number from 1 to 255",
            ),
            (
                why::<f64>("\"x\""),
                "invalid type: string \"x\", expected a number",
            ),
            (
                why::<u64>("1.5"),
                "invalid type: floating point `1.5`, expected a whole number from 0 to 18446744073709551615",
            ),
        ] {
            assert_eq!(said, is);
        }
    }

    #[test]
    fn no_type_is_named() {
        #[derive(Deserialize)]
        struct Zork;
        #[derive(Deserialize)]
        #[allow(dead_code)]
        struct ZorkPair(u8, u8);
        #[derive(Deserialize)]
        #[allow(dead_code)]
        struct ZorkPoint {
            x: u8,
        }
        #[derive(Deserialize)]
        #[serde(tag = "kind")]
        #[allow(dead_code)]
        enum ZorkInside {
            A { x: u8 },
        }
        #[derive(Deserialize)]
        #[serde(tag = "kind", content = "of")]
        #[allow(dead_code)]
        enum ZorkBeside {
            A { x: u8 },
            B(u8, u8),
        }
        #[derive(Deserialize)]
        #[serde(untagged)]
        #[allow(dead_code)]
        enum ZorkAny {
            A(u8),
        }
        #[derive(Deserialize)]
        #[allow(dead_code)]
        enum ZorkEither {
            A { x: u8 },
            B(u8, u8),
            C,
        }
        for (said, wanted) in [
            (why::<Zork>("1"), "expected null"),
            (why::<ZorkPair>("1"), "expected a list"),
            (why::<ZorkPair>("[1]"), "expected a list of 2 elements"),
            (why::<(u8, u8)>("[1]"), "expected a list of 2 elements"),
            (why::<[u8; 1]>("[]"), "expected a list of 1 element"),
            (why::<Vec<u8>>("1"), "expected a list"),
            (why::<ZorkPoint>("1"), "expected an object"),
            (why::<ZorkPoint>("[]"), "expected an object"),
            (why::<ZorkInside>("1"), "expected an object"),
            (why::<ZorkBeside>("1"), "expected an object"),
            (
                why::<ZorkBeside>(r#"{"kind":"A","of":1}"#),
                "expected an object",
            ),
            (
                why::<ZorkBeside>(r#"{"kind":"B","of":1}"#),
                "expected a list",
            ),
            (why::<ZorkAny>("true"), "none of the kinds"),
            (why::<ZorkEither>(r#"{"A":1}"#), "expected an object"),
            (
                why::<ZorkEither>(r#"{"B":[1]}"#),
                "expected a list of 2 elements",
            ),
            (why::<ZorkEither>(r#"{"C":1}"#), "expected null"),
            (why::<ZorkEither>(r#""D""#), "expected one of `A`, `B`, `C`"),
            (
                why::<std::collections::BTreeMap<String, u8>>("1"),
                "expected an object",
            ),
        ] {
            assert!(said.contains(wanted) && !said.contains("Zork"), "{said}");
        }
    }
}

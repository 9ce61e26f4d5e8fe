//! What is read of a client's data without the rest of it: however large what stands in the place of
//! a name is, it is passed over and not kept.

use std::fmt;

use heartline_wire::json;
use serde::de::{Error, IgnoredAny, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

/// A text, a number, or something else.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Given {
    Text(String),
    /// In digits as they were written, however many there are: an id may have more than a machine's
    /// number. With a point or an exponent, as the nearest of those is written.
    Number(String),
    Other,
}

impl Given {
    /// What a value's JSON says, without white space around it.
    pub(super) fn of(raw: &str) -> Given {
        match raw.bytes().next() {
            Some(b'"') => {
                json::unquote(raw).map_or(Given::Other, |text| Given::Text(text.into_owned()))
            }
            Some(b'-' | b'0'..=b'9') => number(raw).map_or(Given::Other, Given::Number),
            _ => Given::Other,
        }
    }
}

/// A number's one way to be written; `None`: it is greater than any that there is.
fn number(raw: &str) -> Option<String> {
    let digits = raw.strip_prefix('-').unwrap_or(raw);
    if digits.bytes().all(|digit| digit.is_ascii_digit()) {
        let written = if digits == "0" { digits } else { raw };
        return Some(written.to_owned());
    }
    let number = serde_json::Number::from_f64(raw.parse().ok()?)?;
    Some(number.to_string())
}

impl<'de> Deserialize<'de> for Given {
    fn deserialize<D: Deserializer<'de>>(value: D) -> Result<Given, D::Error> {
        <&RawValue>::deserialize(value).map(|raw| Given::of(raw.get()))
    }
}

/// An id as clients have it: numbers do as well.
#[derive(Debug)]
pub(super) struct Id(String);

impl<'de> Deserialize<'de> for Id {
    fn deserialize<D: Deserializer<'de>>(value: D) -> Result<Id, D::Error> {
        match Given::deserialize(value)? {
            Given::Text(id) | Given::Number(id) => Ok(Id(id)),
            Given::Other => {
                let sentence =
                    "a value is of none of the kinds that it may be: an id is a text or a number";
                Err(D::Error::custom(sentence))
            }
        }
    }
}

impl From<Id> for String {
    fn from(id: Id) -> String {
        id.0
    }
}

/// The first texts of a list: at most one more than `MOST`, by which it is seen that there are too
/// many.
#[derive(Debug, Default)]
pub(super) struct Few<const MOST: usize>(pub(super) Vec<String>);

impl<'de, const MOST: usize> Deserialize<'de> for Few<MOST> {
    fn deserialize<D: Deserializer<'de>>(value: D) -> Result<Few<MOST>, D::Error> {
        struct Counter<const MOST: usize>;
        impl<'de, const MOST: usize> Visitor<'de> for Counter<MOST> {
            type Value = Few<MOST>;

            fn expecting(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
                to.write_str("a sequence")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Few<MOST>, A::Error> {
                let mut texts = Vec::new();
                while texts.len() <= MOST {
                    match list.next_element()? {
                        Some(text) => texts.push(text),
                        None => return Ok(Few(texts)),
                    }
                }
                IgnoredAny.visit_seq(list).map(|_| Few(texts))
            }
        }
        value.deserialize_seq(Counter)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::objects;

    #[test]
    fn what_is_no_text_and_no_number_is_passed_over() {
        let deep = format!("{}{}", "[".repeat(500), "]".repeat(500));
        for (json, given) in [
            (r#""a\n""#, Given::Text("a\n".to_owned())),
            ("5", Given::Number("5".into())),
            ("-5", Given::Number("-5".into())),
            ("0.50", Given::Number("0.5".into())),
            ("1e3", Given::Number("1000.0".into())),
            ("-0", Given::Number("0".into())),
            (
                "18446744073709551617",
                Given::Number("18446744073709551617".into()),
            ),
            ("1e400", Given::Other),
            ("true", Given::Other),
            ("null", Given::Other),
            (r#"{"a":[1,{"b":"c"}],"d":1}"#, Given::Other),
            (&deep, Given::Other),
        ] {
            assert_eq!(objects::read::<Given>(json).unwrap(), given, "{json}");
        }
        assert_eq!(objects::read::<Option<Given>>("null").unwrap(), None);
    }

    #[test]
    fn of_a_list_no_more_is_kept_than_shows_that_it_is_too_long() {
        let some = |count: usize| {
            let list = vec!["\"x\""; count].join(",");
            let few = objects::read::<Few<3>>(&format!("[{list}]"));
            few.map(|few| few.0.len()).unwrap()
        };
        assert_eq!([0, 3, 4, 5, 90_000].map(some), [0, 3, 4, 4, 4]);
        assert!(objects::read::<Few<3>>("[1]").is_err());
        assert!(objects::read::<Few<3>>("7").is_err());
    }
}

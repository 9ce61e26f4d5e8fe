//! Names as programs in JavaScript have them: numbers are names too, of rooms and of events.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, Visitor};

/// The name of a room, a socket or an event. A number is its digits, as it is in the names of
/// channels, and for clients of Socket.IO, to which `on(42)` and `on("42")` are the same.
pub(super) struct Name(pub(super) String);

/// Names as they are here.
pub(super) fn names(names: Vec<Name>) -> Vec<String> {
    names.into_iter().map(|Name(name)| name).collect()
}

struct TextOrNumber;

impl Visitor<'_> for TextOrNumber {
    type Value = Name;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a name, or a number")
    }

    fn visit_str<E: Error>(self, name: &str) -> Result<Name, E> {
        Ok(Name(name.to_owned()))
    }

    fn visit_string<E: Error>(self, name: String) -> Result<Name, E> {
        Ok(Name(name))
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<Name, E> {
        Ok(Name(number.to_string()))
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<Name, E> {
        Ok(Name(number.to_string()))
    }

    fn visit_f64<E: Error>(self, number: f64) -> Result<Name, E> {
        Ok(Name(number.to_string()))
    }
}

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Name, D::Error> {
        deserializer.deserialize_any(TextOrNumber)
    }
}

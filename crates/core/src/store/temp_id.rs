//! A sender's own name for a message: text or a number, as stores keep it.
//!
//! Stores know it as text, by which the same is known again. A number is kept as it was written,
//! `5`, and so is text, but for the text that could be taken for a number or for another text:
//! `"5"` and what begins with a quote are kept as JSON strings. So `5` and `"5"` are two names,
//! and each comes back as it was given.

use std::borrow::Cow;

use heartline_wire::json;
use serde::{Serialize, Serializer};
use serde_json::value::RawValue;

/// Whether it is a JSON number and nothing around it.
fn is_number(text: &str) -> bool {
    let ends = |byte: Option<&u8>| byte.is_some_and(|byte| byte.is_ascii_digit() || *byte == b'-');
    let bytes = text.as_bytes();
    ends(bytes.first()) && ends(bytes.last()) && json::is_valid(text)
}

/// A text as stores keep it.
pub fn of_text(text: &str) -> Cow<'_, str> {
    match is_number(text) || text.starts_with('"') {
        true => Cow::Owned(json::quote(text)),
        false => Cow::Borrowed(text),
    }
}

/// A JSON string or number as stores keep it; `None`: it is neither.
pub fn of_json(raw: &str) -> Option<Cow<'_, str>> {
    let Some(text) = json::unquote(raw) else {
        return is_number(raw).then_some(Cow::Borrowed(raw));
    };
    let quoted = match of_text(&text) {
        Cow::Owned(quoted) => Some(quoted),
        Cow::Borrowed(_) => None,
    };
    Some(quoted.map_or(text, Cow::Owned))
}

/// What stores keep, as the JSON that was given: a string or a number.
pub fn to_json(kept: &str) -> Cow<'_, str> {
    match is_number(kept) || (kept.starts_with('"') && json::is_valid(kept)) {
        true => Cow::Borrowed(kept),
        false => Cow::Owned(json::quote(kept)),
    }
}

/// For serde's `serialize_with`, of what stores keep: the string or the number that was given.
///
/// # Errors
/// What the serializer says.
pub fn serialize<S: Serializer>(kept: &Option<String>, serializer: S) -> Result<S::Ok, S::Error> {
    let Some(kept) = kept else {
        return serializer.serialize_none();
    };
    match RawValue::from_string(to_json(kept).into_owned()) {
        Ok(json) => json.serialize(serializer),
        Err(error) => Err(serde::ser::Error::custom(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_and_numbers_come_back_as_they_were_given() {
        for (json, kept) in [
            ("5", "5"),
            ("\"5\"", "\"5\""),
            ("1795791863015", "1795791863015"),
            ("-0.5e+7", "-0.5e+7"),
            ("9007199254740993", "9007199254740993"),
            ("1e400", "1e400"),
            ("\"1e400\"", "\"1e400\""),
            ("\"t1\"", "t1"),
            ("\"05\"", "05"),
            ("\"5 \"", "5 "),
            ("\"-\"", "-"),
            (r#""\"5\"""#, r#""\"5\"""#),
            (r#""\"""#, r#""\"""#),
            ("\"null\"", "null"),
            ("\"ö\"", "ö"),
        ] {
            assert_eq!(of_json(json).as_deref(), Some(kept), "{json}");
            assert_eq!(to_json(kept), json, "{kept}");
        }
        for other in ["null", "true", "[]", "{}", "5 ", " 5", "05", "-", ""] {
            assert_eq!(of_json(other), None, "{other}");
        }
    }

    #[test]
    fn serde_writes_what_was_given() {
        #[derive(Serialize)]
        struct One {
            #[serde(serialize_with = "super::serialize")]
            id: Option<String>,
        }
        for (kept, json) in [
            (None, r#"{"id":null}"#),
            (Some("5"), r#"{"id":5}"#),
            (Some("\"5\""), r#"{"id":"5"}"#),
            (Some("a\"b"), r#"{"id":"a\"b"}"#),
        ] {
            let id = kept.map(str::to_owned);
            assert_eq!(serde_json::to_string(&One { id }).unwrap(), json);
        }
    }
}

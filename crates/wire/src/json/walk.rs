//! Taking validated arrays and objects apart, one level at a time.

use super::trim;
use super::validate::{skip_space, skip_string, skip_value};

/// Iterator over raw elements; see [`elements`].
#[derive(Clone, Debug)]
pub struct Elements<'a> {
    rest: &'a str,
}

/// The elements of an array, given the inside of its brackets.
///
/// `inside` is taken to be validated; on anything else the iterator ends
/// early.
///
/// ```
/// use heartline_wire::json::elements;
///
/// let parts: Vec<&str> = elements(r#"1, {"a":[2]},"x" "#).collect();
/// assert_eq!(parts, ["1", r#"{"a":[2]}"#, "\"x\""]);
/// ```
pub fn elements(inside: &str) -> Elements<'_> {
    Elements { rest: inside }
}

impl<'a> Iterator for Elements<'a> {
    type Item = &'a str;

    fn next(&mut self) -> Option<&'a str> {
        let bytes = self.rest.as_bytes();
        let start = skip_space(bytes, 0);
        let Some(end) = skip_value(self.rest, start) else {
            self.rest = "";
            return None;
        };
        let element = &self.rest[start..end];
        let comma = skip_space(bytes, end);
        self.rest = match bytes.get(comma) {
            Some(b',') => &self.rest[comma + 1..],
            _ => "",
        };
        Some(element)
    }
}

/// Iterator over an object's members; see [`members`].
#[derive(Clone, Debug)]
pub struct Members<'a> {
    text: &'a str,
    at: usize,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    First,
    More,
    /// The closing brace was met.
    Complete,
    Broken,
}

/// The members of an object as pairs of raw text: the name with its quotes,
/// and the value.
///
/// Every member that is yielded has been validated, and
/// [`Members::is_complete`] tells afterwards whether the whole text was one
/// valid object. So a frame can be checked and read in a single pass.
///
/// ```
/// use heartline_wire::json::members;
///
/// let mut object = members(r#"{"a":1,"b":[]}"#);
/// assert_eq!(object.next(), Some(("\"a\"", "1")));
/// assert_eq!(object.next(), Some(("\"b\"", "[]")));
/// assert_eq!(object.next(), None);
/// assert!(object.is_complete());
/// ```
pub fn members(object: &str) -> Members<'_> {
    let at = skip_space(object.as_bytes(), 0);
    let is_object = object.as_bytes().get(at) == Some(&b'{');
    Members {
        text: object,
        at: at + 1,
        state: if is_object {
            State::First
        } else {
            State::Broken
        },
    }
}

impl<'a> Members<'a> {
    /// After the last member: whether the text was one valid object.
    pub fn is_complete(&self) -> bool {
        self.state == State::Complete
    }

    /// Consumes the closing brace; nothing but whitespace may follow.
    fn close(&mut self) {
        let end = skip_space(self.text.as_bytes(), self.at + 1);
        self.state = if end == self.text.len() {
            State::Complete
        } else {
            State::Broken
        };
    }

    fn member(&mut self) -> Option<(&'a str, &'a str)> {
        let bytes = self.text.as_bytes();
        let name_end = skip_string(bytes, self.at)?;
        let name = self.text.get(self.at..name_end)?;
        let colon = skip_space(bytes, name_end);
        if bytes.get(colon) != Some(&b':') {
            return None;
        }
        let value_start = skip_space(bytes, colon + 1);
        let value_end = skip_value(self.text, value_start)?;
        self.at = skip_space(bytes, value_end);
        Some((name, self.text.get(value_start..value_end)?))
    }
}

impl<'a> Iterator for Members<'a> {
    type Item = (&'a str, &'a str);

    fn next(&mut self) -> Option<(&'a str, &'a str)> {
        let bytes = self.text.as_bytes();
        match self.state {
            State::Complete | State::Broken => return None,
            State::First => {
                self.at = skip_space(bytes, self.at);
                if bytes.get(self.at) == Some(&b'}') {
                    self.close();
                    return None;
                }
            }
            State::More => match bytes.get(self.at) {
                Some(b',') => self.at = skip_space(bytes, self.at + 1),
                Some(b'}') => {
                    self.close();
                    return None;
                }
                _ => {
                    self.state = State::Broken;
                    return None;
                }
            },
        }
        let member = self.member();
        self.state = if member.is_some() {
            State::More
        } else {
            State::Broken
        };
        member
    }
}

/// Raw value of the member called `key` in a validated object.
///
/// Of members with the same name the last one counts, as in JavaScript's
/// `JSON.parse`. `None` if there is none, or if `object` is no object.
pub fn field<'a>(object: &'a str, key: &str) -> Option<&'a str> {
    members(trim(object))
        .filter(|(name, _)| names(name, key))
        .last()
        .map(|(_, value)| value)
}

/// Whether the raw member name stands for `key`.
pub(crate) fn names(raw: &str, key: &str) -> bool {
    let inner = raw.get(1..raw.len().saturating_sub(1)).unwrap_or_default();
    inner == key || (inner.contains('\\') && super::unquote(raw).as_deref() == Some(key))
}

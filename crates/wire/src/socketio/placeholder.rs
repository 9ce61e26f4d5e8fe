//! Placeholders: where an attachment belongs in a payload.

use std::fmt;
use std::ops::Range;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;

use crate::json::{self, Token, Tokens};

/// Why the placeholders of a payload do not fit its attachments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PlaceholderError {
    /// One points at no attachment. A receiver that finds such a placeholder closes its
    /// connection ("illegal attachments").
    Dangling,
    /// Several point at the same attachment, which receivers would hold once and a
    /// relay would write once for each: 30 bytes that stand for a megabyte.
    /// `socket.io-parser` gives every attachment a placeholder of its own.
    Repeated,
}

impl fmt::Display for PlaceholderError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Dangling => "placeholder without attachment",
            Self::Repeated => "an attachment has several placeholders",
        })
    }
}

impl std::error::Error for PlaceholderError {}

/// Checks that every placeholder of a payload points at an attachment of its own.
///
/// `data` is validated JSON, one value or several with commas between them. A
/// placeholder is any object, however deep, whose `_placeholder` is `true`; its `num`
/// must be an integer below `attachments`, and no other placeholder's. Attachments
/// without a placeholder are allowed.
///
/// # Errors
///
/// [`PlaceholderError::Dangling`] where there is one of both kinds.
pub fn check_placeholders(data: &str, attachments: usize) -> Result<(), PlaceholderError> {
    let mut open: Vec<Candidate> = Vec::new();
    let mut named = Named::new(attachments);
    let mut repeated = false;
    for token in Tokens::new(data) {
        if let Token::Key(raw) = token {
            if let Some(object) = open.last_mut() {
                object.key(raw);
            }
            continue;
        }
        match token {
            Token::ObjectEnd | Token::ArrayEnd => {
                if let Some(num) = open.pop().and_then(Candidate::placeholder) {
                    let num = num
                        .filter(|num| *num < attachments)
                        .ok_or(PlaceholderError::Dangling)?;
                    repeated |= !named.first(num);
                }
            }
            value => {
                if let Some(object) = open.last_mut() {
                    object.value(&value);
                }
                if let Token::ObjectStart | Token::ArrayStart = value {
                    open.push(Candidate::default());
                }
            }
        }
    }
    match repeated {
        true => Err(PlaceholderError::Repeated),
        false => Ok(()),
    }
}

/// Appends a payload in which each placeholder has become its attachment, as a string in
/// base64; everything else stays as it is written.
///
/// `data` is validated JSON. An attachment is written once, whatever the payload says:
/// at its first placeholder. Others, and those that point at none, become `null`. So
/// what is appended has at most the bytes of `data`, and four for each three of the
/// attachments (and two quotes, which a placeholder is longer than).
pub fn inline_attachments(data: &str, attachments: &[Bytes], out: &mut String) {
    let places = places(data);
    let mut named = Named::new(attachments.len());
    let mut at = 0;
    out.reserve(data.len());
    for (place, num) in places {
        out.push_str(&data[at..place.start]);
        at = place.end;
        let attachment = num
            .and_then(|num| Some((num, attachments.get(num)?)))
            .filter(|(num, _)| named.first(*num));
        match attachment {
            Some((_, bytes)) => {
                out.push('"');
                STANDARD.encode_string(bytes, out);
                out.push('"');
            }
            None => out.push_str("null"),
        }
    }
    out.push_str(&data[at..]);
}

/// Where the placeholders of a payload stand, and their numbers. What is inside of a
/// placeholder is none, as for receivers.
fn places(data: &str) -> Vec<(Range<usize>, Option<usize>)> {
    let mut places: Vec<(Range<usize>, Option<usize>)> = Vec::new();
    let mut open: Vec<(usize, Candidate)> = Vec::new();
    let mut tokens = Tokens::new(data);
    while let Some(token) = tokens.next() {
        match token {
            Token::Key(raw) => {
                if let Some((_, object)) = open.last_mut() {
                    object.key(raw);
                }
            }
            Token::ObjectEnd | Token::ArrayEnd => {
                let Some((start, closed)) = open.pop() else {
                    continue;
                };
                if let Some(num) = closed.placeholder() {
                    let outside = |(place, _): &(Range<usize>, _)| place.start < start;
                    while places.last().is_some_and(|place| !outside(place)) {
                        places.pop();
                    }
                    places.push((start..tokens.position(), num));
                }
            }
            value => {
                if let Some((_, object)) = open.last_mut() {
                    object.value(&value);
                }
                if let Token::ObjectStart | Token::ArrayStart = value {
                    // The bracket is one byte, and the last that was read.
                    open.push((tokens.position() - 1, Candidate::default()));
                }
            }
        }
    }
    places
}

/// Which attachments have been named.
pub(crate) struct Named(Vec<bool>);

impl Named {
    /// Of so many attachments none has been named.
    pub(crate) fn new(attachments: usize) -> Self {
        Self(vec![false; attachments])
    }

    /// Whether this attachment is there and had not been named; from here on it is.
    pub(crate) fn first(&mut self, num: usize) -> bool {
        self.0
            .get_mut(num)
            .is_some_and(|named| !std::mem::replace(named, true))
    }
}

/// What is known of an open object: is it a placeholder?
///
/// Arrays have one too, to keep the callers' stacks simple; without keys it
/// never becomes one.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Candidate {
    member: Member,
    marked: bool,
    num: Option<usize>,
}

/// The member whose value comes next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Member {
    Marker,
    Num,
    #[default]
    Other,
}

impl Candidate {
    /// A member's name was met.
    pub(crate) fn key(&mut self, raw: &str) {
        self.member = if json::names(raw, "_placeholder") {
            Member::Marker
        } else if json::names(raw, "num") {
            Member::Num
        } else {
            Member::Other
        };
    }

    /// A member's value was met, or began. Of equal names the last one
    /// counts, as in `JSON.parse`.
    pub(crate) fn value(&mut self, token: &Token<'_>) {
        match (std::mem::take(&mut self.member), token) {
            (Member::Marker, token) => self.marked = *token == Token::True,
            (Member::Num, Token::Number(text)) => self.num = text.parse().ok(),
            (Member::Num, _) => self.num = None,
            (Member::Other, _) => {}
        }
    }

    /// At the object's end: `None` if it is no placeholder, otherwise its
    /// `num`, if that is an integer.
    pub(crate) fn placeholder(self) -> Option<Option<usize>> {
        self.marked.then_some(self.num)
    }
}

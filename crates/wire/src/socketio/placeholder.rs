//! Placeholders: where an attachment belongs in a payload.

use crate::json::{self, Token, Tokens};

/// Whether all placeholders of a binary packet point at its attachments.
///
/// `data` is validated JSON. A placeholder is any object, however deep, whose
/// `_placeholder` is `true`; its `num` must be an integer below `attachments`.
/// A receiver that finds another closes its connection ("illegal
/// attachments"), so such a packet must not be relayed. Attachments without a
/// placeholder are allowed.
pub fn check_placeholders(data: &str, attachments: usize) -> bool {
    let mut open: Vec<Candidate> = Vec::new();
    for token in Tokens::new(data) {
        if let Token::Key(raw) = token {
            if let Some(object) = open.last_mut() {
                object.key(raw);
            }
            continue;
        }
        match token {
            Token::ObjectEnd | Token::ArrayEnd => {
                let closed = open.pop().and_then(Candidate::placeholder);
                if closed.is_some_and(|num| num.is_none_or(|num| num >= attachments)) {
                    return false;
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
    true
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

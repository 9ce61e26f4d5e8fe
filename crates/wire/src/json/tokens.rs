//! A tokenizer for JSON that has already been validated.

use super::validate::{skip_space, skip_string};

/// One token; strings, keys and numbers as raw text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Token<'a> {
    ObjectStart,
    ObjectEnd,
    ArrayStart,
    ArrayEnd,
    /// A member's name, quotes included.
    Key(&'a str),
    /// A string value, quotes included.
    String(&'a str),
    Number(&'a str),
    True,
    False,
    Null,
}

/// Tokens of validated JSON, commas and colons left out.
///
/// It takes one pass over the text however deep the nesting is. On text that
/// is not valid it yields some tokens and ends.
#[derive(Clone)]
pub(crate) struct Tokens<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Tokens<'a> {
    pub(crate) fn new(text: &'a str) -> Self {
        Self { text, at: 0 }
    }

    /// Where the text goes on behind the last token.
    pub(crate) fn position(&self) -> usize {
        self.at
    }

    fn text_token(&mut self) -> Option<Token<'a>> {
        let bytes = self.text.as_bytes();
        let start = self.at;
        let end = skip_string(bytes, start)?;
        let raw = self.text.get(start..end)?;
        // In valid JSON a colon follows a member's name and nothing else.
        let next = skip_space(bytes, end);
        if bytes.get(next) == Some(&b':') {
            self.at = next + 1;
            Some(Token::Key(raw))
        } else {
            self.at = end;
            Some(Token::String(raw))
        }
    }
}

impl<'a> Iterator for Tokens<'a> {
    type Item = Token<'a>;

    fn next(&mut self) -> Option<Token<'a>> {
        let bytes = self.text.as_bytes();
        while let Some(b' ' | b'\t' | b'\n' | b'\r' | b',') = bytes.get(self.at) {
            self.at += 1;
        }
        let start = self.at;
        let (token, len) = match *bytes.get(start)? {
            b'"' => return self.text_token(),
            b'{' => (Token::ObjectStart, 1),
            b'}' => (Token::ObjectEnd, 1),
            b'[' => (Token::ArrayStart, 1),
            b']' => (Token::ArrayEnd, 1),
            b't' => (Token::True, 4),
            b'f' => (Token::False, 5),
            b'n' => (Token::Null, 4),
            b'-' | b'0'..=b'9' => {
                let len = bytes[start..]
                    .iter()
                    .take_while(|b| matches!(b, b'0'..=b'9' | b'-' | b'+' | b'.' | b'e' | b'E'))
                    .count();
                (Token::Number(self.text.get(start..start + len)?), len)
            }
            _ => return None,
        };
        self.at = start + len;
        Some(token)
    }
}

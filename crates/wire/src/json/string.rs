//! String literals (RFC 8259 §7).

use std::borrow::Cow;

use super::validate::{plain_until, skip_string};

/// Decodes a string literal, quotes included.
///
/// Borrows when the literal has no escapes. An escaped surrogate without its
/// partner cannot be expressed in UTF-8 and becomes U+FFFD. `None` if
/// `literal` is anything but one valid literal.
///
/// ```
/// use heartline_wire::json::unquote;
///
/// assert_eq!(unquote(r#""caf\u00e9""#).as_deref(), Some("café"));
/// assert_eq!(unquote("42"), None);
/// ```
#[inline]
pub fn unquote(literal: &str) -> Option<Cow<'_, str>> {
    let bytes = literal.as_bytes();
    if bytes.first() != Some(&b'"') {
        return None;
    }
    let plain = plain_until(bytes, 1);
    if bytes.get(plain) == Some(&b'"') {
        return (plain + 1 == bytes.len()).then(|| Cow::Borrowed(&literal[1..plain]));
    }
    if skip_string(bytes, 0)? != bytes.len() {
        return None;
    }
    let inner = &literal[1..literal.len() - 1];
    // The run of plain characters ended at the first escape.
    Some(Cow::Owned(unescape(inner, plain - 1)))
}

/// The same JSON with U+FFFD in place of escaped surrogates that have no partner: half a
/// character, which no UTF-8 text can hold. JavaScript's strings can, so clients send it.
///
/// Borrows when there is none, which one search tells for almost all texts.
///
/// ```
/// use heartline_wire::json::whole;
///
/// assert_eq!(whole(r#""\ud83c!""#), r#""\ufffd!""#);
/// assert_eq!(whole(r#""\ud83c\udf89""#), r#""\ud83c\udf89""#);
/// assert_eq!(whole(r#""\\ud83c""#), r#""\\ud83c""#);
/// ```
pub fn whole(text: &str) -> Cow<'_, str> {
    const REPLACEMENT: &str = "\\ufffd";
    if !text.contains("\\u") {
        return Cow::Borrowed(text);
    }
    let mut out = String::new();
    let (mut copied, mut at) = (0, 0);
    while let Some(found) = text[at..].find('\\') {
        at += found;
        if text.as_bytes().get(at + 1) != Some(&b'u') {
            // An escape of one character, which may be a backslash itself.
            at += 1 + text[at + 1..].chars().next().map_or(0, char::len_utf8);
            continue;
        }
        let (character, used) = unescape_unicode(&text[at + 1..]);
        let is_half = used == 5 && character == char::REPLACEMENT_CHARACTER;
        let end = (at + 1 + used).min(text.len());
        if is_half && text.is_char_boundary(end) {
            out.push_str(&text[copied..at]);
            out.push_str(REPLACEMENT);
            copied = end;
        }
        at = if text.is_char_boundary(end) {
            end
        } else {
            at + 1
        };
    }
    if copied == 0 {
        return Cow::Borrowed(text);
    }
    out.push_str(&text[copied..]);
    Cow::Owned(out)
}

/// Resolves the escapes of a valid literal's inside; `escape` is the first.
fn unescape(inner: &str, mut escape: usize) -> String {
    // An escape is never shorter than what it stands for.
    let mut out = String::with_capacity(inner.len());
    let mut rest = inner;
    loop {
        out.push_str(&rest[..escape]);
        rest = &rest[escape + 1..];
        let mut chars = rest.chars();
        match chars.next() {
            Some('b') => out.push('\u{8}'),
            Some('f') => out.push('\u{c}'),
            Some('n') => out.push('\n'),
            Some('r') => out.push('\r'),
            Some('t') => out.push('\t'),
            Some('u') => {
                let (character, used) = unescape_unicode(rest);
                out.push(character);
                chars = rest.get(used..).unwrap_or_default().chars();
            }
            Some(literal) => out.push(literal),
            None => return out,
        }
        rest = chars.as_str();
        match rest.find('\\') {
            Some(next) => escape = next,
            None => {
                out.push_str(rest);
                return out;
            }
        }
    }
}

/// Reads `uXXXX`, or `uXXXX\uXXXX` for a surrogate pair; returns the
/// character and how many bytes it took.
fn unescape_unicode(text: &str) -> (char, usize) {
    let unit = |at: usize| {
        let digits = text.get(at..at + 4)?;
        u32::from_str_radix(digits, 16).ok()
    };
    let Some(first) = unit(1) else {
        return (char::REPLACEMENT_CHARACTER, 5);
    };
    let is_high = (0xd800..0xdc00).contains(&first);
    if is_high
        && text.get(5..7) == Some("\\u")
        && let Some(second @ 0xdc00..0xe000) = unit(7)
    {
        let code = 0x1_0000 + ((first - 0xd800) << 10) + (second - 0xdc00);
        return (
            char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER),
            11,
        );
    }
    (
        char::from_u32(first).unwrap_or(char::REPLACEMENT_CHARACTER),
        5,
    )
}

/// Appends `text` as a string literal, quotes included.
///
/// Only what RFC 8259 §7 demands is escaped: the quote, the backslash and the
/// control characters below U+0020.
pub fn quote_into(text: &str, out: &mut String) {
    let bytes = text.as_bytes();
    out.reserve(bytes.len() + 2);
    out.push('"');
    let mut start = 0;
    loop {
        // A byte that needs an escape is ASCII, so both ends are boundaries.
        let end = plain_until(bytes, start);
        out.push_str(&text[start..end]);
        let Some(&byte) = bytes.get(end) else { break };
        push_escape(byte, out);
        start = end + 1;
    }
    out.push('"');
}

/// The most bytes that `text` can take as a string literal, without a look at it: a
/// control character takes six.
pub(crate) fn longest_quoted(text: &str) -> usize {
    text.len().saturating_mul(6).saturating_add(2)
}

/// How many bytes [`quote_into`] appends for `text`.
pub(crate) fn quoted_len(text: &str) -> usize {
    let escapes = |byte: u8| match byte {
        b'"' | b'\\' | b'\n' | b'\r' | b'\t' | 0x08 | 0x0c => 1,
        0..0x20 => 5,
        _ => 0,
    };
    2 + text.len() + text.bytes().map(escapes).sum::<usize>()
}

fn push_escape(byte: u8, out: &mut String) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let short = match byte {
        b'"' => '"',
        b'\\' => '\\',
        b'\n' => 'n',
        b'\r' => 'r',
        b'\t' => 't',
        0x08 => 'b',
        0x0c => 'f',
        _ => {
            out.push_str("\\u00");
            out.push(char::from(HEX[usize::from(byte >> 4)]));
            out.push(char::from(HEX[usize::from(byte & 15)]));
            return;
        }
    };
    out.push('\\');
    out.push(short);
}

/// `text` as a string literal; see [`quote_into`].
pub fn quote(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    quote_into(text, &mut out);
    out
}

//! JSON (RFC 8259) as text.
//!
//! Payloads pass through Heartline without being understood, so nothing here
//! builds a tree: a value is checked once with [`is_valid`] or [`skip_value`]
//! and is from then on a `&str` that [`elements`], [`members`] and [`field`]
//! take apart.
//!
//! ```
//! use heartline_wire::json;
//!
//! let text = r#"{"lat":52.5,"tags":["a","b"]}"#;
//! assert!(json::is_valid(text));
//! assert_eq!(json::field(text, "lat"), Some("52.5"));
//! assert_eq!(json::quote("a\"b"), r#""a\"b""#);
//! ```

mod string;
mod tokens;
mod validate;
mod walk;

pub(crate) use string::{longest_quoted, quoted_len};
pub use string::{quote, quote_into, unquote, whole};
pub(crate) use tokens::{Token, Tokens};
pub(crate) use validate::skip_string;
pub use validate::{MAX_DEPTH, is_deeper_than, is_valid, skip_value};
pub(crate) use walk::names;
pub use walk::{Elements, Members, elements, field, members};

/// JSON's whitespace (RFC 8259 §2), which is narrower than Unicode's.
#[inline]
pub(crate) fn trim(text: &str) -> &str {
    let bytes = text.as_bytes();
    // Nearly every text has none, and that is seen at its ends.
    match (bytes.first(), bytes.last()) {
        (Some(b'!'..), Some(b'!'..)) => text,
        _ => text.trim_matches([' ', '\t', '\n', '\r']),
    }
}

/// What text is appended to: a text, or the frames that leave for a peer.
pub trait Sink {
    /// Appends a text.
    fn push_text(&mut self, text: &str);
}

impl Sink for String {
    #[inline]
    fn push_text(&mut self, text: &str) {
        self.push_str(text);
    }
}

impl Sink for Vec<u8> {
    #[inline]
    fn push_text(&mut self, text: &str) {
        self.extend_from_slice(text.as_bytes());
    }
}

/// Appends a number in decimal.
pub(crate) fn push_u64(number: u64, out: &mut impl Sink) {
    let mut digits = [0u8; 20];
    let mut at = digits.len();
    let mut rest = number;
    loop {
        at -= 1;
        digits[at] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    out.push_text(std::str::from_utf8(&digits[at..]).unwrap_or_default());
}

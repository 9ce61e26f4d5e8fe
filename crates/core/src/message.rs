//! What is said, and what bounds hold for it, whoever says it.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use heartline_wire::json::{MAX_DEPTH, is_deeper_than};
use heartline_wire::socketio::{MAX_ATTACHMENTS, PlaceholderError, check_placeholders};

/// Longest conflation key, bytes. A key names a thing whose newest state matters, as a
/// room names a place, so it may be as long as a room's name; every connection that cannot
/// keep up holds the keys of what waits for it.
pub const MAX_KEY: usize = 256;

/// Most attachments of an event that goes no further than its handler: a msgpack client may
/// send so many, each of which is an allocation. Others get at most [`MAX_ATTACHMENTS`].
pub const MAX_HEARD_ATTACHMENTS: usize = 1_000;

/// What is said: a name and its arguments as the inside of a JSON array, with
/// placeholders for the binary attachments.
#[derive(Debug, Clone, Default)]
pub struct Message {
    /// The event's name.
    pub event: Arc<str>,
    /// The arguments: JSON values with commas between them.
    pub args: Arc<str>,
    /// What the placeholders stand for.
    pub attachments: Vec<Bytes>,
}

impl Message {
    /// Bytes of name, arguments and attachments.
    pub fn size(&self) -> usize {
        let attached: usize = self.attachments.iter().map(Bytes::len).sum();
        self.event.len() + self.args.len() + attached
    }

    /// An event without attachments. `args` is JSON: the inside of an array.
    pub fn new(event: &str, args: &str) -> Self {
        Message {
            event: event.into(),
            args: args.into(),
            attachments: Vec::new(),
        }
    }
}

/// Why a message is not passed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MessageError {
    /// Arguments and attachments have more bytes than this.
    TooLarge(usize),
    /// Arguments are nested deeper than [`MAX_DEPTH`]: clients whose parsers recurse close.
    TooDeep,
    /// There are more attachments than this. Clients refuse packets with more than
    /// [`MAX_ATTACHMENTS`], and close.
    TooManyAttachments(usize),
    /// Several placeholders are for the same attachment.
    RepeatedAttachment,
    /// A placeholder is for no attachment: clients close.
    MissingAttachment,
    /// The conflation key is too long.
    InvalidKey,
}

impl fmt::Display for MessageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLarge(max) => write!(
                f,
                "An event has at most {max} bytes, as JSON text and attachments"
            ),
            Self::TooDeep => write!(
                f,
                "An event's data has at most {MAX_DEPTH} arrays and objects within each other"
            ),
            Self::TooManyAttachments(MAX_ATTACHMENTS) => write!(
                f,
                "An event to others has at most {MAX_ATTACHMENTS} attachments: their parsers \
                 take no more"
            ),
            Self::TooManyAttachments(most) => write!(f, "An event has at most {most} attachments"),
            Self::RepeatedAttachment => f.write_str("An attachment has one placeholder"),
            Self::MissingAttachment => f.write_str("A placeholder has an attachment"),
            Self::InvalidKey => write!(f, "A key has at most {MAX_KEY} bytes"),
        }
    }
}

impl std::error::Error for MessageError {}

/// Whether a message of these parts may be passed on. `args` is JSON: the inside of an
/// array; `max` bytes is what all of it may have.
///
/// # Errors
/// See [`MessageError`].
pub fn check(args: &str, attachments: &[impl AsRef<[u8]>], max: usize) -> Result<(), MessageError> {
    if attachments.len() > MAX_ATTACHMENTS {
        return Err(MessageError::TooManyAttachments(MAX_ATTACHMENTS));
    }
    check_heard(args, attachments, max, 0)
}

/// Whether a message of these parts may go to its handler: as [`check`], with more
/// attachments. `around` objects stand around what is data, and are not counted.
///
/// # Errors
/// See [`MessageError`].
pub fn check_heard(
    args: &str,
    attachments: &[impl AsRef<[u8]>],
    max: usize,
    around: usize,
) -> Result<(), MessageError> {
    let attached = attachments.iter().map(|bytes| bytes.as_ref().len());
    if args.len() + attached.sum::<usize>() > max {
        return Err(MessageError::TooLarge(max));
    }
    if is_deeper_than(args, MAX_DEPTH + around) {
        return Err(MessageError::TooDeep);
    }
    if attachments.is_empty() {
        // Whatever looks like a placeholder is an object like any other.
        return Ok(());
    }
    if attachments.len() > MAX_HEARD_ATTACHMENTS {
        return Err(MessageError::TooManyAttachments(MAX_HEARD_ATTACHMENTS));
    }
    check_placeholders(args, attachments.len()).map_err(|error| match error {
        PlaceholderError::Repeated => MessageError::RepeatedAttachment,
        PlaceholderError::Dangling => MessageError::MissingAttachment,
    })
}

/// Whether publications may be conflated by this key, if there is one.
///
/// # Errors
/// [`MessageError::InvalidKey`] for more than 256 bytes.
pub fn check_key(key: Option<&str>) -> Result<(), MessageError> {
    match key.is_none_or(|key| key.len() <= MAX_KEY) {
        true => Ok(()),
        false => Err(MessageError::InvalidKey),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const P: &str = r#"{"_placeholder":true,"num":0}"#;

    #[test]
    fn an_attachment_that_is_named_twice_is_refused() {
        let bins = [Bytes::from_static(b"one")];
        assert_eq!(check(&format!("1,{P}"), &bins, 100), Ok(()));
        let twice = format!("{P},[{{\"deep\":{P}}}]");
        let refused = check(&twice, &bins, 1000).unwrap_err();
        assert_eq!(refused, MessageError::RepeatedAttachment);
        // Without attachments they are objects like any other.
        assert_eq!(check(&twice, &[] as &[Bytes], 1000), Ok(()));
        assert_eq!(
            check(&P.replace('0', "1"), &bins, 1000),
            Err(MessageError::MissingAttachment)
        );
        let many = vec![Bytes::new(); MAX_ATTACHMENTS + 1];
        let refused = check("1", &many, 1000).unwrap_err();
        assert_eq!(refused, MessageError::TooManyAttachments(MAX_ATTACHMENTS));
        assert_eq!(check_heard("1", &many, 1000, 0), Ok(()));
        let many = vec![Bytes::new(); MAX_HEARD_ATTACHMENTS + 1];
        let refused = check_heard("1", &many, 1000, 0).unwrap_err();
        assert_eq!(refused, MessageError::TooManyAttachments(1_000));
    }

    #[test]
    fn data_is_as_deep_as_receivers_take_it() {
        let nested = |levels: usize| format!("1,{}{}", "[".repeat(levels), "]".repeat(levels));
        let none: &[Bytes] = &[];
        assert_eq!(check(&nested(512), none, usize::MAX), Ok(()));
        let refused = check(&nested(513), none, usize::MAX).unwrap_err();
        assert_eq!(refused, MessageError::TooDeep);
        assert_eq!(check_heard(&nested(513), none, usize::MAX, 1), Ok(()));
        let refused = check_heard(&nested(514), none, usize::MAX, 1).unwrap_err();
        assert_eq!(refused, MessageError::TooDeep);
        let refused = check(&nested(400_000), &[Bytes::new()], usize::MAX).unwrap_err();
        assert_eq!(refused, MessageError::TooDeep);
    }

    #[test]
    fn arguments_and_attachments_have_one_bound() {
        let bins = [Bytes::from_static(b"four"), Bytes::from_static(b"bins")];
        assert_eq!(check("12", &bins, 10), Ok(()));
        let refused = check("123", &bins, 10).unwrap_err();
        assert_eq!(refused, MessageError::TooLarge(10));
    }

    #[test]
    fn keys_have_256_bytes() {
        assert_eq!(check_key(None), Ok(()));
        assert_eq!(check_key(Some(&"k".repeat(256))), Ok(()));
        let refused = check_key(Some(&"k".repeat(257)));
        assert_eq!(refused, Err(MessageError::InvalidKey));
    }
}

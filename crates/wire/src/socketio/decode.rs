//! From text to packets.

use std::borrow::Cow;

use super::placeholder::{PlaceholderError, check_placeholders};
use super::{DecodeError, MAX_ATTACHMENTS, Packet, PacketType, RESERVED_EVENTS};
use crate::json;

/// Decodes a packet, the Engine.IO message type already taken off.
///
/// A packet that passes is fit to be relayed: its payload is JSON of the
/// shape its type demands, an event's name is not reserved, and placeholders
/// point at attachments that follow. Several may point at the same, and the payload may be
/// nested deeper than [`json::MAX_DEPTH`]: the packet is well formed, so whoever takes it
/// refuses the event, and not the connection ([`check_placeholders`],
/// [`json::is_deeper_than`]). Placeholders of a payload that is so deep are not looked at: a
/// level of it is a byte, and what is known of an open object many more. `CONNECT_ERROR` decodes although no
/// client may send it; refusing it is the server's part. An ack without an id
/// decodes as well: it answers nothing and the reference ignores it.
///
/// # Errors
///
/// See [`DecodeError`].
pub fn decode(text: &str) -> Result<Packet<'_>, DecodeError> {
    let bytes = text.as_bytes();
    let kind = match bytes.first() {
        Some(digit @ b'0'..=b'6') => PacketType::from_number(u64::from(digit - b'0')),
        _ => None,
    };
    let kind = kind.ok_or(DecodeError::UnknownType)?;
    let mut rest = &text[1..];

    let mut attachments = 0;
    if kind.is_binary() {
        let (count, after) = take_number(rest)
            .filter(|(_, after)| after.starts_with('-'))
            .ok_or(DecodeError::InvalidAttachments)?;
        attachments = count
            .and_then(|count| usize::try_from(count).ok())
            .filter(|count| (1..=MAX_ATTACHMENTS).contains(count))
            .ok_or(DecodeError::InvalidAttachments)?;
        rest = &after[1..];
    }

    let mut namespace = "/";
    if rest.starts_with('/') {
        // The comma may be missing when nothing follows.
        let (name, after) = rest.split_once(',').unwrap_or((rest, ""));
        namespace = without_query(name);
        rest = after;
    }

    let mut id = None;
    if let Some((number, after)) = take_number(rest) {
        id = Some(number.ok_or(DecodeError::InvalidId)?);
        rest = after;
    }

    let data = match rest {
        "" => None,
        data if json::is_valid(data) => Some(json::trim(data)),
        _ => return Err(DecodeError::InvalidJson),
    };
    check_data(kind, data)?;
    if let Some(data) = data.filter(|_| attachments > 0)
        && !json::is_deeper_than(data, json::MAX_DEPTH)
        && check_placeholders(data, attachments) == Err(PlaceholderError::Dangling)
    {
        return Err(DecodeError::InvalidPlaceholder);
    }
    Ok(Packet {
        kind,
        namespace,
        id,
        attachments,
        data,
    })
}

/// Namespace names may carry a query string, which the reference cuts off
/// (`Client.ondecoded`).
pub(crate) fn without_query(namespace: &str) -> &str {
    namespace
        .split_once('?')
        .map_or(namespace, |(name, _)| name)
}

/// The digits at the front and what follows them. `None` if there are none;
/// the number is `None` if it does not fit.
#[inline]
fn take_number(text: &str) -> Option<(Option<u64>, &str)> {
    let bytes = text.as_bytes();
    let mut at = 0;
    let mut number = Some(0u64);
    while let Some(digit @ b'0'..=b'9') = bytes.get(at) {
        number = number
            .and_then(|number| number.checked_mul(10))
            .and_then(|number| number.checked_add(u64::from(digit - b'0')));
        at += 1;
    }
    (at > 0).then(|| (number, &text[at..]))
}

/// Checks the shape that a packet's type demands of its payload; `data` is
/// valid JSON without whitespace around it.
#[inline]
pub(crate) fn check_data(kind: PacketType, data: Option<&str>) -> Result<(), DecodeError> {
    let first = data.and_then(|data| data.as_bytes().first());
    let fits = match kind {
        PacketType::Connect => matches!(first, None | Some(b'{')),
        PacketType::Disconnect => first.is_none(),
        PacketType::ConnectError => matches!(first, Some(b'{' | b'"')),
        PacketType::Ack | PacketType::BinaryAck => first == Some(&b'['),
        PacketType::Event | PacketType::BinaryEvent => match data.and_then(split_event) {
            Some((name, _)) => {
                if RESERVED_EVENTS.contains(&name.as_ref()) {
                    return Err(DecodeError::ReservedName);
                }
                true
            }
            None => false,
        },
    };
    if fits {
        Ok(())
    } else {
        Err(DecodeError::InvalidPayload(kind))
    }
}

/// Splits an event's array into its name and its arguments.
///
/// `["name", a, b]` becomes the name and the raw text `a, b`, which
/// [`push_event`](super::push_event) takes back and
/// [`json::elements`] takes apart. A name that is a number is returned as its
/// text. `None` if `array` is no array that begins with a name.
///
/// ```
/// use heartline_wire::socketio::split_event;
///
/// let (name, args) = split_event(r#"["move", 1, 2]"#).unwrap();
/// assert_eq!((name.as_ref(), args), ("move", "1, 2"));
/// ```
#[inline]
pub fn split_event(array: &str) -> Option<(Cow<'_, str>, &str)> {
    let inside = array_inside(array)?;
    let (name, end) = match inside.as_bytes().first()? {
        b'"' => {
            let end = json::skip_string(inside.as_bytes(), 0)?;
            (json::unquote(&inside[..end])?, end)
        }
        b'-' | b'0'..=b'9' => {
            let end = json::skip_value(inside, 0)?;
            (Cow::Borrowed(&inside[..end]), end)
        }
        _ => return None,
    };
    let args = match json::trim(&inside[end..]) {
        "" => "",
        rest => json::trim(rest.strip_prefix(',')?),
    };
    Some((name, args))
}

/// The inside of an array, the arguments of an ack for one; `None` if `array`
/// is no array.
///
/// ```
/// use heartline_wire::socketio::array_inside;
///
/// assert_eq!(array_inside("[ 1,2 ]"), Some("1,2"));
/// assert_eq!(array_inside("{}"), None);
/// ```
#[inline]
pub fn array_inside(array: &str) -> Option<&str> {
    let inside = json::trim(array).strip_prefix('[')?.strip_suffix(']')?;
    Some(json::trim(inside))
}

//! From msgpack to a packet with JSON text.

use std::fmt::Write;

use bytes::Bytes;

use super::read::{Reader, Value};
use super::{DecodeError, Fault, Packet, date};
use crate::json;
use crate::socketio::{
    PacketType, PlaceholderError, check_data, check_placeholders, without_query,
};

/// Levels of arrays and objects around what is said: a packet's array, and an adapter's
/// envelope around the packet.
const AROUND: usize = 8;

/// Decodes a packet whose payload, as JSON text and bins, has at most `limit` bytes.
///
/// A longer one, or one that is nested too deep, is passed over: its packet says who sent it and what for, so that its
/// sender can be told, and never more than `limit` bytes are written for it (the text's
/// buffer may have twice that). An empty bin costs its placeholder's 29 bytes and more, so
/// the limit also bounds how many there are.
///
/// The payload is held to the same rules as
/// [`socketio::decode`](crate::socketio::decode) holds the default parser's,
/// except that any number of bins is allowed. A map may claim to be a placeholder, and
/// several may claim the same bin; see
/// [`check_placeholders`](crate::socketio::check_placeholders). `undefined` becomes `null` (and
/// counts as absent for `data` and `id`), a date its ISO 8601 string, and a
/// number that JSON cannot express `null`. An `ArrayBuffer` or a typed array (an ext 8, 16 or
/// 32 of type 0) is a bin. An extension nobody knows becomes
/// the array of its type and its bytes, as the reference reads it.
///
/// # Errors
///
/// See [`DecodeError`].
pub fn decode(bytes: &[u8], limit: usize) -> Result<Packet, DecodeError> {
    let mut source = Transcoder::new(bytes, limit);
    let fields = source.packet()?;
    if !source.reader.is_empty() {
        return Err(DecodeError::TrailingBytes);
    }
    let kind = fields
        .kind
        .and_then(PacketType::from_number)
        .filter(|kind| !kind.is_binary())
        .ok_or(DecodeError::InvalidPacket)?;
    let namespace = fields.namespace.ok_or(DecodeError::InvalidPacket)?;
    let data = fields.has_data.then_some(source.json);
    if fields.fault.is_none() {
        check_data(kind, data.as_deref())?;
    }
    // A map may claim to be a placeholder. Where it would be one to the
    // default parser's clients, it must at least be a valid one.
    let attachments = source.attachments;
    if !attachments.is_empty()
        && check_placeholders(data.as_deref().unwrap_or_default(), attachments.len())
            == Err(PlaceholderError::Dangling)
    {
        return Err(crate::socketio::DecodeError::InvalidPlaceholder.into());
    }
    Ok(Packet {
        kind,
        namespace: without_query(namespace).to_owned(),
        id: fields.id,
        data,
        attachments,
        fault: fields.fault,
    })
}

/// Decodes a value that is no packet: its JSON text, and the bins that its
/// placeholders stand for, together at most `limit` bytes.
///
/// # Errors
///
/// [`DecodeError::Unfit`] for more than that, or deeper nesting, and see [`DecodeError`].
pub fn decode_value(bytes: &[u8], limit: usize) -> Result<(String, Vec<Bytes>), DecodeError> {
    let mut source = Transcoder::new(bytes, limit);
    let value = source.reader.value()?;
    source.push(value)?;
    match source.reader.is_empty() {
        true => Ok((source.json, source.attachments)),
        false => Err(DecodeError::TrailingBytes),
    }
}

/// The packet's members, of equal ones the last.
#[derive(Default)]
struct Fields<'a> {
    kind: Option<u64>,
    namespace: Option<&'a str>,
    id: Option<u64>,
    has_data: bool,
    fault: Option<Fault>,
}

/// An open array or map.
struct Open {
    /// Elements to come.
    left: usize,
    begun: bool,
    /// The element to come has one before it.
    has_before: bool,
    close: char,
}

impl Open {
    /// Whether there is one more element.
    fn next(&mut self) -> bool {
        self.has_before = std::mem::replace(&mut self.begun, true);
        self.left = match self.left.checked_sub(1) {
            Some(left) => left,
            None => return false,
        };
        true
    }
}

struct Transcoder<'a> {
    reader: Reader<'a>,
    /// The payload's text so far.
    json: String,
    attachments: Vec<Bytes>,
    /// Bytes that the text and the attachments may have together.
    limit: usize,
    /// Bytes of the attachments.
    attached: usize,
}

/// `undefined` in notepack: a fixext 1 of type 0. Longer heads of type 0 are [`Value::Bin`].
fn is_undefined(value: &Value<'_>) -> bool {
    matches!(value, Value::Ext(0, [_]))
}

impl<'a> Transcoder<'a> {
    fn new(bytes: &'a [u8], limit: usize) -> Self {
        Self {
            reader: Reader::new(bytes),
            json: String::with_capacity(bytes.len().min(limit)),
            attachments: Vec::new(),
            limit,
            attached: 0,
        }
    }

    /// Room for `more` bytes of text or attachments.
    fn spend(&self, more: usize) -> Result<(), DecodeError> {
        match self.limit.checked_sub(self.json.len() + self.attached) {
            Some(left) if more <= left => Ok(()),
            _ => Err(DecodeError::Unfit(Fault::TooLarge)),
        }
    }

    fn packet(&mut self) -> Result<Fields<'a>, DecodeError> {
        let Value::Map(count) = self.reader.value()? else {
            return Err(DecodeError::InvalidPacket);
        };
        let mut fields = Fields::default();
        for _ in 0..count {
            let Value::Str(key) = self.reader.value()? else {
                return Err(DecodeError::InvalidPacket);
            };
            match key {
                "type" => match self.reader.value()? {
                    Value::Unsigned(kind) => fields.kind = Some(kind),
                    _ => return Err(DecodeError::InvalidPacket),
                },
                "nsp" => match self.reader.value()? {
                    Value::Str(namespace) => fields.namespace = Some(namespace),
                    _ => return Err(DecodeError::InvalidPacket),
                },
                "id" => match self.reader.value()? {
                    Value::Unsigned(id) => fields.id = Some(id),
                    value if is_undefined(&value) => fields.id = None,
                    _ => return Err(DecodeError::InvalidPacket),
                },
                "data" => {
                    self.forget();
                    let before = self.reader;
                    let value = self.reader.value()?;
                    fields.has_data = !is_undefined(&value);
                    fields.fault = None;
                    match self.push(value) {
                        Err(DecodeError::Unfit(fault)) => {
                            self.forget();
                            (fields.has_data, fields.fault) = (false, Some(fault));
                            self.reader = before;
                            self.skip()?;
                        }
                        pushed => pushed?,
                    }
                }
                // `options` of the reference's clients, for one.
                _ => self.skip()?,
            }
        }
        Ok(fields)
    }

    /// Drops the payload so far.
    fn forget(&mut self) {
        self.json.clear();
        self.attachments.clear();
        self.attached = 0;
    }

    /// Passes over a value of whatever depth.
    fn skip(&mut self) -> Result<(), DecodeError> {
        // Each count is bounded by the bytes that follow it, and their sum by
        // the loop's end at the first missing byte.
        let mut left = 1u64;
        while left > 0 {
            left -= 1;
            left = left.saturating_add(match self.reader.value()? {
                Value::Array(count) => count as u64,
                Value::Map(count) => count as u64 * 2,
                _ => 0,
            });
        }
        Ok(())
    }

    /// Appends a value, whose head has been read, to the JSON text.
    fn push(&mut self, head: Value<'a>) -> Result<(), DecodeError> {
        let mut open: Vec<Open> = Vec::new();
        let mut value = head;
        loop {
            match value {
                Value::Array(count) => self.open(&mut open, ('[', ']'), count)?,
                Value::Map(count) => self.open(&mut open, ('{', '}'), count)?,
                value => self.push_leaf(value, open.len())?,
            }
            // Texts and bins are measured before; of the others none has more than 64 bytes.
            self.spend(0)?;
            loop {
                let Some(innermost) = open.last_mut() else {
                    return Ok(());
                };
                if innermost.next() {
                    break;
                }
                self.json.push(innermost.close);
                open.pop();
                self.spend(0)?;
            }
            if let Some(innermost) = open.last() {
                if innermost.has_before {
                    self.json.push(',');
                }
                if innermost.close == '}' {
                    self.push_key()?;
                }
            }
            value = self.reader.value()?;
        }
    }

    /// Opens an array or a map of so many elements.
    fn open(
        &mut self,
        open: &mut Vec<Open>,
        (begin, close): (char, char),
        left: usize,
    ) -> Result<(), DecodeError> {
        check_depth(open.len() + 1)?;
        self.json.push(begin);
        open.push(Open {
            left,
            has_before: false,
            begun: false,
            close,
        });
        Ok(())
    }

    /// Appends what has no elements; `depth` arrays and maps are open.
    fn push_leaf(&mut self, value: Value<'a>, depth: usize) -> Result<(), DecodeError> {
        match value {
            Value::Ext(kind, bytes) => self.push_ext(kind, bytes, depth)?,
            Value::Bin(bytes) => {
                check_depth(depth + 1)?;
                self.push_bin(bytes)?;
            }
            Value::Bool(true) => self.json.push_str("true"),
            Value::Bool(false) => self.json.push_str("false"),
            Value::Unsigned(number) => json::push_u64(number, &mut self.json),
            Value::Signed(number) => self.push_display(number),
            Value::Float(number) => self.push_float(number),
            Value::Str(text) => self.push_text(text)?,
            Value::Nil | Value::Array(_) | Value::Map(_) => self.json.push_str("null"),
        }
        Ok(())
    }

    fn push_text(&mut self, text: &str) -> Result<(), DecodeError> {
        // Most are short enough whatever is in them, and need not be measured.
        if self.spend(json::longest_quoted(text)).is_err() {
            self.spend(json::quoted_len(text))?;
        }
        json::quote_into(text, &mut self.json);
        Ok(())
    }

    /// A member's name; JavaScript turns integers into strings.
    fn push_key(&mut self) -> Result<(), DecodeError> {
        match self.reader.value()? {
            Value::Str(key) => self.push_text(key)?,
            key @ (Value::Unsigned(_) | Value::Signed(_)) => {
                self.json.push('"');
                self.push_leaf(key, 0)?;
                self.json.push('"');
            }
            _ => return Err(DecodeError::InvalidValue),
        }
        self.json.push(':');
        Ok(())
    }

    fn push_bin(&mut self, bytes: &[u8]) -> Result<(), DecodeError> {
        self.spend(bytes.len())?;
        self.json.push_str("{\"_placeholder\":true,\"num\":");
        json::push_u64(self.attachments.len() as u64, &mut self.json);
        self.json.push('}');
        self.attached += bytes.len();
        self.attachments.push(Bytes::copy_from_slice(bytes));
        Ok(())
    }

    /// notepack 2 keeps `undefined` and dates in type 0, notepack 3 dates in
    /// msgpack's own timestamps of type -1.
    fn push_ext(&mut self, kind: i8, bytes: &[u8], depth: usize) -> Result<(), DecodeError> {
        match (kind, timestamp(kind, bytes)) {
            (0, _) if bytes.len() == 1 => self.json.push_str("null"),
            (_, Some(ms)) => date::push_iso(ms, &mut self.json),
            _ => {
                check_depth(depth + 2)?;
                self.json.push('[');
                self.push_display(kind);
                self.json.push(',');
                self.push_bin(bytes)?;
                self.json.push(']');
            }
        }
        Ok(())
    }

    /// As JavaScript writes numbers, except that the exponent has no plus:
    /// digits alone where they are few, an exponent beyond.
    fn push_float(&mut self, number: f64) {
        let size = number.abs();
        if !number.is_finite() {
            self.json.push_str("null");
        } else if size == 0.0 || (1e-6..1e21).contains(&size) {
            self.push_display(number);
        } else {
            // Writing to a string cannot fail.
            let _ = write!(self.json, "{number:e}");
        }
    }

    fn push_display(&mut self, number: impl std::fmt::Display) {
        // Writing to a string cannot fail.
        let _ = write!(self.json, "{number}");
    }
}

/// Whether so many arrays and objects may be open.
fn check_depth(depth: usize) -> Result<(), DecodeError> {
    match depth <= json::MAX_DEPTH + AROUND {
        true => Ok(()),
        false => Err(DecodeError::Unfit(Fault::TooDeep)),
    }
}

/// Milliseconds since 1970 of a date; `None` if the extension is none.
fn timestamp(kind: i8, bytes: &[u8]) -> Option<i64> {
    const NANOS_PER_MS: i64 = 1_000_000;
    let ms = |seconds: i64, nanos: u32| {
        seconds
            .saturating_mul(1000)
            .saturating_add(i64::from(nanos) / NANOS_PER_MS)
    };
    match kind {
        0 => Some(i64::from_be_bytes(bytes.try_into().ok()?)),
        -1 => match *bytes {
            [a, b, c, d] => Some(ms(u32::from_be_bytes([a, b, c, d]).into(), 0)),
            [_, _, _, _, _, _, _, _] => {
                // 30 bits of nanoseconds, 34 bits of seconds.
                let word = u64::from_be_bytes(bytes.try_into().ok()?);
                let seconds = i64::try_from(word & 0x3_ffff_ffff).ok()?;
                Some(ms(seconds, u32::try_from(word >> 34).ok()?))
            }
            [a, b, c, d, ref seconds @ ..] => {
                let seconds = i64::from_be_bytes(seconds.try_into().ok()?);
                Some(ms(seconds, u32::from_be_bytes([a, b, c, d])))
            }
            _ => None,
        },
        _ => None,
    }
}

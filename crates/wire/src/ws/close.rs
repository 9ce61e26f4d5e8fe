//! The payload of a close frame (RFC 6455 §5.5.1 and §7.4).

use super::header::push_header;
use super::{Error, MAX_CONTROL_PAYLOAD, OpCode};

/// Status code and reason of a close frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CloseFrame<'a> {
    /// The status code, one that [`is_valid_close_code`] accepts.
    pub code: u16,
    /// The reason, often empty.
    pub reason: &'a str,
}

/// Whether a close frame may carry this code.
///
/// RFC 6455 §7.4: 1004 is undefined, 1005, 1006 and 1015 never go over the
/// wire, and 3000 to 4999 belong to libraries and applications. 1012 to 1014
/// were registered with IANA later.
pub fn is_valid_close_code(code: u16) -> bool {
    matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999)
}

/// Appends an unmasked close frame.
///
/// The reason is cut at a character boundary so that it and the code fit into
/// a control frame: 123 bytes.
pub fn push_close(code: u16, reason: &str, out: &mut Vec<u8>) {
    let mut end = reason.len().min(MAX_CONTROL_PAYLOAD - 2);
    while !reason.is_char_boundary(end) {
        end -= 1;
    }
    let reason = &reason[..end];
    push_header(OpCode::Close, 2 + reason.len(), out);
    out.extend_from_slice(&code.to_be_bytes());
    out.extend_from_slice(reason.as_bytes());
}

/// Reads a close frame's payload.
pub(super) fn parse(payload: &[u8]) -> Result<Option<CloseFrame<'_>>, Error> {
    let Some((code, reason)) = payload.split_first_chunk::<2>() else {
        return if payload.is_empty() {
            Ok(None)
        } else {
            Err(Error::Protocol("close payload of one byte"))
        };
    };
    let code = u16::from_be_bytes(*code);
    if !is_valid_close_code(code) {
        return Err(Error::Protocol("invalid close code"));
    }
    let reason = std::str::from_utf8(reason).map_err(|_| Error::InvalidUtf8)?;
    Ok(Some(CloseFrame { code, reason }))
}

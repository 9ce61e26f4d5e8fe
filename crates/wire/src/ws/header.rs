//! Frame headers (RFC 6455 §5.2), read and written, and masking (§5.3).

use super::{Error, MAX_CONTROL_PAYLOAD, OpCode, Role};

/// Two bytes, eight of length, four of mask.
pub(super) const MAX_HEADER: usize = 14;

const FIN: u8 = 0x80;
const RESERVED: u8 = 0x70;
/// Marks a compressed message on its first frame (RFC 7692 §6).
pub(super) const COMPRESSED: u8 = 0x40;
const MASKED: u8 = 0x80;

/// What a header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) fin: bool,
    pub(super) compressed: bool,
    pub(super) opcode: OpCode,
    /// All zero for an unmasked frame.
    pub(super) mask: [u8; 4],
    /// Length of the payload, as the peer claims it.
    pub(super) len: u64,
}

/// Reads the header at the front of `bytes` and how long it is; `None` if it
/// is not all there. What can be refused is refused as early as its byte
/// arrives.
///
/// A length in more bytes than needed is accepted, as other servers do,
/// although §5.2 tells senders to be brief.
#[inline]
pub(super) fn parse(
    bytes: &[u8],
    role: Role,
    deflate: bool,
) -> Result<Option<(Header, usize)>, Error> {
    let Some(&first) = bytes.first() else {
        return Ok(None);
    };
    let compressed = deflate && first & RESERVED == COMPRESSED;
    if first & RESERVED != 0 && !compressed {
        return Err(Error::Protocol("reserved bits are set"));
    }
    let Some(opcode) = OpCode::from_bits(first & 0x0f) else {
        return Err(Error::Protocol("unknown opcode"));
    };
    if compressed && !matches!(opcode, OpCode::Text | OpCode::Binary) {
        return Err(Error::Protocol(
            "compression is marked on a first frame only",
        ));
    }
    let fin = first & FIN != 0;
    if opcode.is_control() && !fin {
        return Err(Error::Protocol("fragmented control frame"));
    }
    let Some(&second) = bytes.get(1) else {
        return Ok(None);
    };
    let masked = second & MASKED != 0;
    match (role, masked) {
        (Role::Server, false) => return Err(Error::Protocol("frame is not masked")),
        (Role::Client, true) => return Err(Error::Protocol("frame is masked")),
        _ => {}
    }
    let short = second & 0x7f;
    if opcode.is_control() && usize::from(short) > MAX_CONTROL_PAYLOAD {
        return Err(Error::Protocol("control frame is too long"));
    }
    let rest = &bytes[2..];
    let (len, rest) = match short {
        126 => match rest.split_first_chunk::<2>() {
            Some((len, rest)) => (u64::from(u16::from_be_bytes(*len)), rest),
            None => return Ok(None),
        },
        127 => match rest.split_first_chunk::<8>() {
            Some((len, rest)) => (u64::from_be_bytes(*len), rest),
            None => return Ok(None),
        },
        short => (u64::from(short), rest),
    };
    if len >> 63 != 0 {
        return Err(Error::Protocol("length has its top bit set"));
    }
    let (mask, rest) = if masked {
        match rest.split_first_chunk::<4>() {
            Some((mask, rest)) => (*mask, rest),
            None => return Ok(None),
        }
    } else {
        ([0; 4], rest)
    };
    let header = Header {
        fin,
        compressed,
        opcode,
        mask,
        len,
    };
    Ok(Some((header, bytes.len() - rest.len())))
}

/// Masks or unmasks, which is the same (RFC 6455 §5.3).
#[inline]
pub(super) fn apply_mask(payload: &mut [u8], mask: [u8; 4]) {
    let word = u32::from_ne_bytes(mask);
    let (words, rest) = payload.as_chunks_mut::<4>();
    for chunk in words {
        *chunk = (u32::from_ne_bytes(*chunk) ^ word).to_ne_bytes();
    }
    for (byte, mask) in rest.iter_mut().zip(mask) {
        *byte ^= mask;
    }
}

/// Appends the header of an unmasked, unfragmented frame of `len` bytes.
pub fn push_header(opcode: OpCode, len: usize, out: &mut Vec<u8>) {
    push_any_header(opcode, len, 0, out);
}

/// Appends an unmasked, unfragmented frame: what a server sends.
pub fn push_frame(opcode: OpCode, payload: &[u8], out: &mut Vec<u8>) {
    push_header(opcode, payload.len(), out);
    out.extend_from_slice(payload);
}

/// The same of a payload that `write` appends. `expected` is its length, or nearly: where the
/// length turns out to need another header, the payload is moved.
#[inline]
pub fn push_frame_with(
    opcode: OpCode,
    expected: usize,
    out: &mut Vec<u8>,
    write: impl FnOnce(&mut Vec<u8>),
) {
    let start = out.len();
    out.reserve(expected + MAX_HEADER);
    push_header(opcode, expected, out);
    let payload = out.len();
    write(out);
    let len = out.len() - payload;
    if len != expected {
        let (header, size) = header_of(opcode, len, 0);
        let header = &header[..size];
        match out
            .get_mut(start..payload)
            .filter(|guess| guess.len() == size)
        {
            Some(guess) => guess.copy_from_slice(header),
            None => drop(out.splice(start..payload, header.iter().copied())),
        }
    }
}

/// Appends a masked, unfragmented frame: what a client sends.
///
/// The mask must be unpredictable (RFC 6455 §10.3); choosing it is the
/// caller's part.
pub fn push_masked_frame(opcode: OpCode, payload: &[u8], mask: [u8; 4], out: &mut Vec<u8>) {
    push_any_header(opcode, payload.len(), MASKED, out);
    out.extend_from_slice(&mask);
    let start = out.len();
    out.extend_from_slice(payload);
    apply_mask(&mut out[start..], mask);
}

#[inline]
fn push_any_header(opcode: OpCode, len: usize, mask_bit: u8, out: &mut Vec<u8>) {
    let (header, size) = header_of(opcode, len, mask_bit);
    out.extend_from_slice(&header[..size]);
}

/// A header without its mask, and how long it is.
#[inline]
fn header_of(opcode: OpCode, len: usize, mask_bit: u8) -> ([u8; 10], usize) {
    let mut header = [0; 10];
    header[0] = FIN | opcode as u8;
    let size = if len <= 125 {
        header[1] = mask_bit | len as u8;
        2
    } else if let Ok(len) = u16::try_from(len) {
        header[1] = mask_bit | 126;
        header[2..4].copy_from_slice(&len.to_be_bytes());
        4
    } else {
        header[1] = mask_bit | 127;
        header[2..].copy_from_slice(&(len as u64).to_be_bytes());
        10
    };
    (header, size)
}

/// Where the frame in flight ends.
///
/// `bytes` begins at a frame boundary and holds whole unmasked frames, as the
/// `push_` functions wrote them. Given that `written` bytes of it have left,
/// the answer is the first boundary at or behind them: what lies before it
/// must still be sent, what lies behind it may be dropped or overtaken. Never
/// more than `bytes.len()`.
///
/// ```
/// use heartline_wire::ws::{OpCode, frame_boundary, push_frame};
///
/// let mut bytes = Vec::new();
/// push_frame(OpCode::Text, b"one", &mut bytes);
/// push_frame(OpCode::Text, b"three", &mut bytes);
/// assert_eq!(frame_boundary(&bytes, 0), 0);
/// assert_eq!(frame_boundary(&bytes, 2), 5);
/// assert_eq!(frame_boundary(&bytes, 5), 5);
/// assert_eq!(frame_boundary(&bytes, 6), 12);
/// ```
pub fn frame_boundary(bytes: &[u8], written: usize) -> usize {
    let mut at = 0;
    while at < written {
        let len = bytes
            .get(at..)
            .and_then(|frame| parse(frame, Role::Client, true).ok().flatten())
            .and_then(|(header, size)| usize::try_from(header.len).ok()?.checked_add(size));
        at = match len.and_then(|len| at.checked_add(len)) {
            Some(end) if end < bytes.len() => end,
            _ => return bytes.len(),
        };
    }
    at
}

#[cfg(test)]
mod tests {
    use super::super::{Decoder, Message};
    use super::*;

    /// Lengths on either side of those at which a header grows.
    const LENGTHS: [usize; 10] = [0, 1, 124, 125, 126, 127, 65_534, 65_535, 65_536, 65_537];

    #[test]
    fn a_frame_is_right_whatever_length_was_expected_of_it() {
        for before in [0, 1] {
            let mut earlier = Vec::new();
            for _ in 0..before {
                push_frame(OpCode::Binary, b"earlier", &mut earlier);
            }
            for len in LENGTHS {
                let payload: Vec<u8> = (0..len).map(|at| b'a' + (at % 23) as u8).collect();
                let mut right = earlier.clone();
                push_frame(OpCode::Text, &payload, &mut right);
                for expected in LENGTHS {
                    let mut out = earlier.clone();
                    push_frame_with(OpCode::Text, expected, &mut out, |out| {
                        out.extend_from_slice(&payload);
                    });
                    assert!(out == right, "{len} bytes, {expected} expected");
                }
                assert_eq!(decoded(&mut right), (before, payload));
            }
        }
    }

    /// How many binary messages there are before the text, and the text.
    fn decoded(mut frames: &mut [u8]) -> (usize, Vec<u8>) {
        let mut decoder = Decoder::default();
        let mut before = 0;
        loop {
            match decoder.decode_extended(&mut frames, Role::Client, false, usize::MAX) {
                Ok(Some(Message::Binary(_))) => before += 1,
                Ok(Some(Message::Text(text))) => {
                    let text = text.as_bytes().to_vec();
                    assert!(frames.is_empty());
                    return (before, text);
                }
                other => panic!("{other:?}"),
            }
        }
    }
}

//! What the decoder keeps when a message is not whole in one read.

use super::header::{Header, MAX_HEADER, apply_mask};
use super::{Error, OpCode};

/// A buffer that has grown beyond this is freed after use, not kept.
const KEEP: usize = 4096;

/// Boxed by the decoder while something is incomplete.
#[derive(Debug, Default)]
pub(super) struct State {
    /// The first bytes of a header that is not all there.
    header: [u8; MAX_HEADER],
    header_len: u8,
    /// The frame whose payload is arriving.
    frame: Option<Frame>,
    /// Text or binary, from the first fragment to the last.
    message: Option<OpCode>,
    /// The message is compressed, so its text cannot be checked as it comes.
    compressed: bool,
    /// The data message so far, unmasked.
    data: Vec<u8>,
    /// How much of `data` is known to be UTF-8; only kept for text. Less than
    /// `data.len()` by an incomplete character at most.
    valid: usize,
    /// The control frame so far: it may arrive between fragments.
    control: Vec<u8>,
    /// What was handed out and is to be cleared at the next call.
    handed_out: Option<OpCode>,
}

#[derive(Clone, Copy, Debug)]
struct Frame {
    opcode: OpCode,
    fin: bool,
    /// Rotated so that it fits the next byte to arrive.
    mask: [u8; 4],
    /// Payload bytes still to come.
    left: usize,
}

impl State {
    pub(super) fn is_idle(&self) -> bool {
        self.header_len == 0
            && self.frame.is_none()
            && self.message.is_none()
            && self.handed_out.is_none()
    }

    pub(super) fn buffered(&self) -> usize {
        usize::from(self.header_len) + self.data.len() + self.control.len()
    }

    /// Whether a fragmented message is in progress.
    pub(super) fn in_message(&self) -> bool {
        self.message.is_some()
    }

    /// Whether a frame's payload is arriving.
    pub(super) fn in_frame(&self) -> bool {
        self.frame.is_some()
    }

    /// Size of the data message so far.
    pub(super) fn message_len(&self) -> usize {
        self.data.len()
    }

    /// Clears what the last call handed out.
    #[inline]
    pub(super) fn release(&mut self) {
        match self.handed_out.take() {
            None => {}
            Some(opcode) if opcode.is_control() => self.control.clear(),
            Some(_) => {
                self.valid = 0;
                if self.data.capacity() > KEEP {
                    self.data = Vec::new();
                } else {
                    self.data.clear();
                }
            }
        }
    }

    /// The incomplete header.
    pub(super) fn header(&self) -> &[u8] {
        &self.header[..usize::from(self.header_len)]
    }

    /// Adds a byte to the incomplete header. The parser finds every header
    /// complete at [`MAX_HEADER`] bytes, so there is room.
    pub(super) fn push_header_byte(&mut self, byte: u8) {
        if let Some(slot) = self.header.get_mut(usize::from(self.header_len)) {
            *slot = byte;
            self.header_len += 1;
        }
    }

    pub(super) fn clear_header(&mut self) {
        self.header_len = 0;
    }

    /// Starts a frame whose header has been checked; `len` is its size.
    pub(super) fn begin(&mut self, header: &Header, len: usize) {
        if let OpCode::Text | OpCode::Binary = header.opcode {
            self.message = Some(header.opcode);
            self.compressed = header.compressed;
        }
        self.frame = Some(Frame {
            opcode: header.opcode,
            fin: header.fin,
            mask: header.mask,
            left: len,
        });
    }

    /// Takes payload from the front of `input`. Returns what has become
    /// complete: `Text`, `Binary` or a control opcode.
    pub(super) fn consume(&mut self, input: &mut &mut [u8]) -> Result<Option<OpCode>, Error> {
        let Some(frame) = &mut self.frame else {
            return Ok(None);
        };
        let take = frame.left.min(input.len());
        let (piece, rest) = std::mem::take(input).split_at_mut(take);
        *input = rest;
        apply_mask(piece, frame.mask);
        frame.mask.rotate_left(take % 4);
        frame.left -= take;
        let Frame {
            opcode, fin, left, ..
        } = *frame;

        if opcode.is_control() {
            self.control.extend_from_slice(piece);
        } else {
            self.data.extend_from_slice(piece);
            if self.message == Some(OpCode::Text) && !self.compressed {
                self.check_utf8()?;
            }
        }
        if left > 0 {
            return Ok(None);
        }
        self.frame = None;
        if opcode.is_control() {
            self.handed_out = Some(opcode);
        } else if fin {
            self.handed_out = self.message.take();
            let unchecked = self.compressed || self.handed_out != Some(OpCode::Text);
            if !unchecked && self.valid < self.data.len() {
                return Err(Error::InvalidUtf8);
            }
        }
        Ok(self.handed_out)
    }

    /// Checks what has been appended to a text message. A character that is
    /// cut off at the end may still become valid.
    fn check_utf8(&mut self) -> Result<(), Error> {
        match std::str::from_utf8(&self.data[self.valid..]) {
            Ok(text) => self.valid += text.len(),
            Err(error) if error.error_len().is_none() => self.valid += error.valid_up_to(),
            Err(_) => return Err(Error::InvalidUtf8),
        }
        Ok(())
    }

    /// Whether what [`State::consume`] reported complete is compressed.
    pub(super) fn is_compressed(&self, opcode: OpCode) -> bool {
        self.compressed && !opcode.is_control()
    }

    /// The payload of what [`State::consume`] reported complete.
    pub(super) fn completed(&self, opcode: OpCode) -> &[u8] {
        if opcode.is_control() {
            &self.control
        } else {
            &self.data
        }
    }
}

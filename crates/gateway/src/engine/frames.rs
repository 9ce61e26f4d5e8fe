//! Frames that many connections send, each in the shape it has agreed on.

use std::sync::OnceLock;

use bytes::Bytes;
use heartline_wire::ws::OpCode;
use heartline_wire::ws::deflate::{DEFAULT_WINDOW_BITS, Deflater};

use super::polling;

/// What becomes of a connection's data frames before they leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shape {
    /// Nothing.
    Plain,
    /// Binary messages travel as base64 text (`b64=1`).
    Base64,
    /// Large messages are compressed, with a window of this many bits.
    Deflated(u8),
}

/// Whole WebSocket frames, and the same compressed once somebody wants it so.
#[derive(Debug)]
pub(crate) struct Frames {
    plain: Bytes,
    deflated: OnceLock<Bytes>,
}

impl From<Vec<u8>> for Frames {
    fn from(frames: Vec<u8>) -> Self {
        Frames {
            plain: frames.into(),
            deflated: OnceLock::new(),
        }
    }
}

impl Frames {
    /// As they were made.
    pub(crate) fn plain(&self) -> &Bytes {
        &self.plain
    }
}

/// A shard's means to compress.
pub(crate) struct Shaper {
    /// Smallest payload that is compressed, bytes.
    threshold: usize,
    /// One for each window that is in use; almost always one.
    deflaters: Vec<Deflater>,
}

impl Shaper {
    pub(crate) fn new(threshold: usize) -> Self {
        Shaper {
            threshold,
            deflaters: Vec::new(),
        }
    }

    /// `frames` in `shape`, which is not the plain one.
    pub(crate) fn shape(&mut self, frames: &[u8], shape: Shape) -> Vec<u8> {
        let mut out = Vec::with_capacity(frames.len());
        match shape {
            Shape::Plain => out.extend_from_slice(frames),
            Shape::Base64 => polling::base64_frames(frames, &mut out),
            Shape::Deflated(bits) => self.deflate(frames, bits, &mut out),
        }
        out
    }

    /// Shared frames in `shape`: compressed once for all who use the usual window.
    pub(crate) fn shared(&mut self, frames: &Frames, shape: Shape) -> Bytes {
        match shape {
            Shape::Plain => frames.plain.clone(),
            // No frame in there is larger than all of them.
            Shape::Deflated(_) if frames.plain.len() < self.threshold => frames.plain.clone(),
            Shape::Deflated(DEFAULT_WINDOW_BITS) => frames
                .deflated
                .get_or_init(|| self.shape(&frames.plain, shape).into())
                .clone(),
            shape => self.shape(&frames.plain, shape).into(),
        }
    }

    fn deflate(&mut self, frames: &[u8], bits: u8, out: &mut Vec<u8>) {
        let known = self
            .deflaters
            .iter()
            .position(|deflater| deflater.window_bits() == bits);
        let index = known.unwrap_or_else(|| {
            self.deflaters.push(Deflater::new(bits));
            self.deflaters.len() - 1
        });
        let deflater = &mut self.deflaters[index];
        polling::each_frame(frames, |binary, payload| {
            let opcode = if binary { OpCode::Binary } else { OpCode::Text };
            if payload.len() >= self.threshold {
                deflater.push_frame(opcode, payload, out);
            } else {
                heartline_wire::ws::push_frame(opcode, payload, out);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use heartline_wire::ws::push_frame;

    fn frames(payload: &[u8]) -> Frames {
        let mut out = Vec::new();
        push_frame(OpCode::Text, payload, &mut out);
        out.into()
    }

    #[test]
    fn large_messages_are_compressed_and_that_once() {
        let mut shaper = Shaper::new(100);
        let large = frames(&[b'x'; 1000]);
        let first = shaper.shared(&large, Shape::Deflated(15));
        assert!(first.len() < 100 && first[0] == 0xc1);
        let second = shaper.shared(&large, Shape::Deflated(15));
        assert_eq!(first.as_ptr(), second.as_ptr());
        let small_window = shaper.shared(&large, Shape::Deflated(9));
        assert_ne!(first.as_ptr(), small_window.as_ptr());
        assert_eq!(shaper.deflaters.len(), 2);
    }

    #[test]
    fn small_ones_are_shared_as_they_are() {
        let mut shaper = Shaper::new(100);
        let small = frames(b"small");
        let sent = shaper.shared(&small, Shape::Deflated(15));
        assert_eq!(sent.as_ptr(), small.plain().as_ptr());
        assert!(shaper.deflaters.is_empty());
    }
}

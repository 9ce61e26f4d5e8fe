//! Frames that many connections send, each in the framing it has agreed on.

use std::sync::OnceLock;

use bytes::Bytes;
use heartline_wire::ws::OpCode;
use heartline_wire::ws::deflate::{DEFAULT_WINDOW_BITS, Deflater};
use heartline_wire::{engineio, ws};

/// Largest payload that is compressed, bytes: that takes a shard's thread less than a millisecond,
/// for which everybody else of the shard waits.
const COMPRESS_AT_MOST: usize = 64 << 10;

/// What becomes of a connection's data frames before they leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Framing {
    /// Nothing.
    Plain,
    /// Binary messages travel as base64 text (`b64=1`).
    Base64,
    /// Large messages are compressed.
    Deflated(Window),
}

/// What compressed messages are made for: at most two windows, however many different ones
/// clients ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Window {
    /// The usual one.
    Usual,
    /// The smallest, for all who want a smaller one than the usual: whoever unpacks with more
    /// can unpack this.
    Narrow,
}

impl Window {
    /// For a peer that unpacks with so many bits.
    fn within(bits: u8) -> Self {
        match bits {
            DEFAULT_WINDOW_BITS => Window::Usual,
            _ => Window::Narrow,
        }
    }

    fn bits(self) -> u8 {
        match self {
            Window::Usual => DEFAULT_WINDOW_BITS,
            Window::Narrow => 9,
        }
    }
}

/// Whole WebSocket frames, and the same in other framings once somebody wants them so.
#[derive(Debug)]
pub struct Frames {
    plain: Bytes,
    others: OnceLock<Box<Others>>,
}

/// What most frames are never made into.
#[derive(Debug, Default)]
struct Others {
    deflated: OnceLock<Bytes>,
    narrow: OnceLock<Bytes>,
    base64: OnceLock<Bytes>,
}

impl From<Vec<u8>> for Frames {
    fn from(frames: Vec<u8>) -> Self {
        Frames {
            plain: frames.into(),
            others: OnceLock::new(),
        }
    }
}

impl Frames {
    /// As they were made.
    pub fn plain(&self) -> &Bytes {
        &self.plain
    }
}

/// A shard's means to compress.
pub(crate) struct Framer {
    /// Smallest payload that is compressed, bytes.
    threshold: usize,
    /// One for each of the two windows, once it is in use.
    deflaters: Vec<Deflater>,
}

impl Framer {
    pub(crate) fn new(threshold: usize) -> Self {
        Framer {
            threshold,
            deflaters: Vec::new(),
        }
    }

    /// `frames` in `framing`, which is not the plain one.
    pub(crate) fn framing(&mut self, frames: &[u8], framing: Framing) -> Vec<u8> {
        let mut out = Vec::with_capacity(frames.len());
        match framing {
            Framing::Plain => out.extend_from_slice(frames),
            Framing::Base64 => base64_frames(frames, &mut out),
            Framing::Deflated(window) => self.deflate(frames, window, &mut out),
        }
        out
    }

    /// Shared frames in `framing`, made once: for all who want base64, for all who use the usual
    /// window, and for all who use a smaller one.
    pub(crate) fn shared(&mut self, frames: &Frames, framing: Framing) -> Bytes {
        if !self.alters(&frames.plain, framing) {
            return frames.plain.clone();
        }
        let others = frames.others.get_or_init(Box::default);
        let made = match framing {
            Framing::Plain => return frames.plain.clone(),
            Framing::Deflated(Window::Usual) => &others.deflated,
            Framing::Deflated(Window::Narrow) => &others.narrow,
            Framing::Base64 => &others.base64,
        };
        let make = || self.framing(&frames.plain, framing).into();
        made.get_or_init(make).clone()
    }

    /// Whether any of the frames is another one in `framing`.
    fn alters(&self, frames: &[u8], framing: Framing) -> bool {
        let mut alters = false;
        each_frame(frames, |binary, payload| {
            alters |= match framing {
                Framing::Plain => false,
                Framing::Base64 => binary,
                Framing::Deflated(_) => self.compresses(payload),
            }
        });
        alters
    }

    fn compresses(&self, payload: &[u8]) -> bool {
        (self.threshold..=COMPRESS_AT_MOST).contains(&payload.len())
    }

    fn deflate(&mut self, frames: &[u8], window: Window, out: &mut Vec<u8>) {
        let bits = window.bits();
        let known = self
            .deflaters
            .iter()
            .position(|deflater| deflater.window_bits() == bits);
        let index = known.unwrap_or_else(|| {
            self.deflaters.push(Deflater::new(bits));
            self.deflaters.len() - 1
        });
        each_frame(frames, |binary, payload| {
            let opcode = if binary { OpCode::Binary } else { OpCode::Text };
            if self.compresses(payload) {
                self.deflaters[index].push_frame(opcode, payload, out);
            } else {
                ws::push_frame(opcode, payload, out);
            }
        });
    }
}

/// How a connection's messages leave. Who asked for base64 gets text in all
/// its frames, compressed or not.
pub(crate) fn framing(base64: bool, deflate: Option<u8>) -> Framing {
    match (base64, deflate) {
        (true, _) => Framing::Base64,
        (false, Some(bits)) => Framing::Deflated(Window::within(bits)),
        (false, None) => Framing::Plain,
    }
}

/// Makes a polling payload of WebSocket frames that this side wrote: packets
/// joined by the separator, binary as base64.
pub(crate) fn payload_from_frames(frames: &[u8]) -> Vec<u8> {
    let mut payload = String::with_capacity(frames.len() + 16);
    each_frame(frames, |binary, data| {
        if !payload.is_empty() {
            payload.push(engineio::SEPARATOR);
        }
        if binary {
            engineio::push_base64(data, &mut payload);
        } else {
            payload.push_str(&String::from_utf8_lossy(data));
        }
    });
    payload.into_bytes()
}

/// Makes frames for a `b64=1` WebSocket: binary messages as base64 text.
pub(crate) fn base64_frames(frames: &[u8], out: &mut Vec<u8>) {
    each_frame(frames, |binary, data| {
        if binary {
            let mut text = String::new();
            engineio::push_base64(data, &mut text);
            ws::push_frame(ws::OpCode::Text, text.as_bytes(), out);
        } else {
            ws::push_frame(ws::OpCode::Text, data, out);
        }
    });
}

/// Walks over whole unmasked data frames.
pub(crate) fn each_frame(mut frames: &[u8], mut each: impl FnMut(bool, &[u8])) {
    while frames.len() >= 2 {
        let binary = frames[0] & 0x0f == 2;
        let (header, length) = match frames[1] & 0x7f {
            126 => (4, usize::from(u16::from_be_bytes([frames[2], frames[3]]))),
            127 => {
                let mut wide = [0; 8];
                wide.copy_from_slice(&frames[2..10]);
                (10, u64::from_be_bytes(wide) as usize)
            }
            short => (2, usize::from(short)),
        };
        let (frame, rest) = frames.split_at(header + length);
        each(binary, &frame[header..]);
        frames = rest;
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
        let mut shaper = Framer::new(100);
        let large = frames(&[b'x'; 1000]);
        let first = shaper.shared(&large, framing(false, Some(15)));
        assert!(first.len() < 100 && first[0] == 0xc1);
        let second = shaper.shared(&large, framing(false, Some(15)));
        assert_eq!(first.as_ptr(), second.as_ptr());
        let small_window = shaper.shared(&large, framing(false, Some(9)));
        assert_ne!(first.as_ptr(), small_window.as_ptr());
        assert_eq!(shaper.deflaters.len(), 2);
    }

    #[test]
    fn a_message_is_compressed_once_for_all_who_ask_for_a_window_of_their_own() {
        let mut shaper = Framer::new(100);
        let large = frames("who is really there? ".repeat(2000).as_bytes());
        let first = shaper.shared(&large, framing(false, Some(9)));
        for bits in 9..DEFAULT_WINDOW_BITS {
            let sent = shaper.shared(&large, framing(false, Some(bits)));
            assert_eq!(first.as_ptr(), sent.as_ptr(), "{bits} bits");
        }
        assert_eq!(shaper.deflaters.len(), 1);
    }

    #[test]
    fn binary_is_made_base64_once_for_all_who_ask_for_that() {
        let mut shaper = Framer::new(usize::MAX);
        let base64 = framing(true, None);
        let mut binary = Vec::new();
        push_frame(OpCode::Binary, &[7; 3000], &mut binary);
        let binary = Frames::from(binary);
        let first = shaper.shared(&binary, base64);
        assert_eq!(first[0], 0x81);
        assert_eq!(first.as_ptr(), shaper.shared(&binary, base64).as_ptr());
        // Text is the same for them as for everybody.
        let text = frames(b"hello");
        assert_eq!(shaper.shared(&text, base64).as_ptr(), text.plain().as_ptr());
    }

    #[test]
    fn what_takes_a_shard_long_to_compress_is_shared_as_it_is() {
        let mut shaper = Framer::new(100);
        let deflated = framing(false, Some(15));
        for (length, is_compressed) in [(COMPRESS_AT_MOST, true), (COMPRESS_AT_MOST + 1, false)] {
            let large = frames(&vec![b'x'; length]);
            let sent = shaper.shared(&large, deflated);
            assert_eq!(sent.len() < 1000, is_compressed);
            assert_eq!(sent.as_ptr() == large.plain().as_ptr(), !is_compressed);
        }
        // Beside others, which are.
        let mut both = Vec::new();
        push_frame(OpCode::Text, &vec![b'x'; COMPRESS_AT_MOST + 1], &mut both);
        push_frame(OpCode::Text, &[b'x'; 1000], &mut both);
        let sent = shaper.shared(&Frames::from(both), deflated);
        assert!((COMPRESS_AT_MOST..COMPRESS_AT_MOST + 100).contains(&sent.len()));
    }

    #[test]
    fn small_ones_are_shared_as_they_are() {
        let mut shaper = Framer::new(100);
        let small = frames(b"small");
        let sent = shaper.shared(&small, framing(false, Some(15)));
        assert_eq!(sent.as_ptr(), small.plain().as_ptr());
        assert!(shaper.deflaters.is_empty());
    }

    #[test]
    fn frames_become_packets() {
        let mut frames = Vec::new();
        ws::push_frame(ws::OpCode::Text, b"4hello", &mut frames);
        ws::push_frame(ws::OpCode::Binary, &[1, 2, 3], &mut frames);
        let long = "4".repeat(70_000);
        ws::push_frame(ws::OpCode::Text, long.as_bytes(), &mut frames);
        let payload = payload_from_frames(&frames);
        assert_eq!(payload, format!("4hello\x1ebAQID\x1e{long}").into_bytes());
    }
}

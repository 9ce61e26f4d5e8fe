//! Compression of messages: permessage-deflate (RFC 7692).
//!
//! Both sides begin each message with an empty window
//! (`server_no_context_takeover`, `client_no_context_takeover`). So a
//! connection needs no memory for it, one compressor serves a whole thread, and
//! a message for many is compressed once.

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

use super::header::COMPRESSED;
use super::{Error, OpCode, push_frame, push_header};

/// Window that is used if the client asks for none: 32 KiB.
pub const DEFAULT_WINDOW_BITS: u8 = 15;
/// Fast more than thorough: twice the speed of zlib's default for a tenth more bytes.
const LEVEL: Compression = Compression::new(3);
/// What a flushed block ends with; it does not travel (RFC 7692 §7.2.1).
const TAIL: [u8; 4] = [0, 0, 0xff, 0xff];
/// Bytes inflated in one step, and bytes that one step is given.
const STEP: usize = 16 * 1024;
/// How often a message may end its stream and begin another: once for each piece that its sender
/// has compressed by itself. Each costs a microsecond, for two bytes.
const MAX_ENDS: usize = 64;
/// Bytes of a message that may stand for nothing at all,
const MAX_VAIN: usize = 64 * 1024;
/// and for each of the first bytes that it inflates to: a sender who flushes behind every byte and
/// does not compress needs eleven. More is made to cost time alone.
const MAX_FOR_ONE: usize = 16;
/// How many these are. Nobody flushes like that for long; what is stored in blocks, or flushed
/// behind each event, needs a quarter more than it inflates to at most.
const FIRST: usize = 8 * 1024;

/// What both sides have agreed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Agreement {
    /// Base-2 logarithm of the window that the server compresses with, 9 to 15.
    pub server_window_bits: u8,
}

impl Agreement {
    /// The value of the response's `Sec-WebSocket-Extensions`.
    pub fn header(&self) -> String {
        let mut header =
            "permessage-deflate; server_no_context_takeover; client_no_context_takeover".to_owned();
        if self.server_window_bits != DEFAULT_WINDOW_BITS {
            header += &format!("; server_max_window_bits={}", self.server_window_bits);
        }
        header
    }
}

/// Chooses the first acceptable offer in the value of a request's
/// `Sec-WebSocket-Extensions` (RFC 7692 §5 and §7.1).
///
/// Offers with unknown, repeated or invalid parameters are declined, as they
/// must be. So is a server window of 8 bits, which zlib cannot write.
///
/// ```
/// use heartline_wire::ws::deflate::negotiate;
///
/// let agreed = negotiate("permessage-deflate; client_max_window_bits").unwrap();
/// assert_eq!(agreed.server_window_bits, 15);
/// assert_eq!(negotiate("permessage-deflate; shiny"), None);
/// ```
pub fn negotiate(offers: &str) -> Option<Agreement> {
    offers.split(',').find_map(accept)
}

fn accept(offer: &str) -> Option<Agreement> {
    let mut parts = offer.split(';').map(str::trim);
    if parts.next() != Some("permessage-deflate") {
        return None;
    }
    let mut agreed = Agreement {
        server_window_bits: DEFAULT_WINDOW_BITS,
    };
    let mut seen = [false; 4];
    for part in parts {
        let (name, value) = match part.split_once('=') {
            Some((name, value)) => (name.trim_end(), Some(value.trim().trim_matches('"'))),
            None => (part, None),
        };
        let number = match (name, value) {
            ("server_no_context_takeover", None) => 0,
            ("client_no_context_takeover", None) => 1,
            ("server_max_window_bits", Some(value)) => {
                agreed.server_window_bits = window_bits(value).filter(|bits| *bits >= 9)?;
                2
            }
            ("client_max_window_bits", None) => 3,
            ("client_max_window_bits", Some(value)) => {
                window_bits(value)?;
                3
            }
            _ => return None,
        };
        if std::mem::replace(&mut seen[number], true) {
            return None;
        }
    }
    Some(agreed)
}

/// 8 to 15, in digits without a leading zero (RFC 7692 §7.1.2.1).
fn window_bits(text: &str) -> Option<u8> {
    text.parse()
        .ok()
        .filter(|bits| (8..=15).contains(bits) && !text.starts_with(['0', '+']))
}

/// Compresses messages, one after another and independent of each other.
#[derive(Debug)]
pub struct Deflater {
    compress: Compress,
    window_bits: u8,
}

impl Deflater {
    /// A compressor with a window of 2 to the power of `window_bits`, which is
    /// put between 9 and 15.
    pub fn new(window_bits: u8) -> Self {
        let window_bits = window_bits.clamp(9, DEFAULT_WINDOW_BITS);
        Deflater {
            compress: Compress::new_with_window_bits(LEVEL, false, window_bits),
            window_bits,
        }
    }

    /// The window it was made with.
    pub fn window_bits(&self) -> u8 {
        self.window_bits
    }

    /// Appends an unmasked, unfragmented frame with `payload` compressed, or as
    /// it is where that is shorter.
    pub fn push_frame(&mut self, opcode: OpCode, payload: &[u8], out: &mut Vec<u8>) {
        let deflated = self.deflate(payload);
        if deflated.len() >= payload.len() && !payload.is_empty() {
            return push_frame(opcode, payload, out);
        }
        let start = out.len();
        push_header(opcode, deflated.len(), out);
        out[start] |= COMPRESSED;
        out.extend_from_slice(&deflated);
    }

    fn deflate(&mut self, payload: &[u8]) -> Vec<u8> {
        self.compress.reset();
        let mut out = Vec::with_capacity(payload.len() / 2 + 64);
        let mut rest = payload;
        loop {
            let before = self.compress.total_in();
            // Fails only on misuse, of which this is none.
            let status = self
                .compress
                .compress_vec(rest, &mut out, FlushCompress::Sync);
            rest = &rest[(self.compress.total_in() - before) as usize..];
            // Room that is left says that all is flushed.
            if status.is_err() || (rest.is_empty() && out.len() < out.capacity()) {
                break;
            }
            out.reserve(payload.len() / 2 + 64);
        }
        if out.ends_with(&TAIL) {
            out.truncate(out.len() - TAIL.len());
        }
        out
    }
}

/// Inflates messages, one after another and independent of each other.
#[derive(Debug)]
pub struct Inflater {
    decompress: Decompress,
}

impl Default for Inflater {
    fn default() -> Self {
        Inflater {
            decompress: Decompress::new(false),
        }
    }
}

impl Inflater {
    /// Appends what `payload` was before it was compressed.
    ///
    /// # Errors
    ///
    /// [`Error::TooBig`] as soon as `out` would be longer than `max` bytes;
    /// [`Error::Protocol`] if this is no compressed data, or as soon as far more of it has come
    /// than any sender needs for what it inflates to.
    pub fn inflate(&mut self, payload: &[u8], max: usize, out: &mut Vec<u8>) -> Result<(), Error> {
        self.decompress.reset(false);
        let before = out.len();
        let (mut taken, mut ends) = (0, 0);
        let mut step = [0; STEP];
        for part in payload.chunks(STEP).chain([&TAIL[..]]) {
            self.inflate_part(part, &mut step, max, out, &mut ends)?;
            taken += part.len();
            if taken > may_be_taken(out.len() - before) {
                return Err(Error::Protocol("a compressed message stands for nothing"));
            }
        }
        Ok(())
    }

    fn inflate_part(
        &mut self,
        mut rest: &[u8],
        step: &mut [u8; STEP],
        max: usize,
        out: &mut Vec<u8>,
        ends: &mut usize,
    ) -> Result<(), Error> {
        loop {
            let (taken, given) = (self.decompress.total_in(), self.decompress.total_out());
            let status = self
                .decompress
                .decompress(rest, step, FlushDecompress::Sync)
                .map_err(|_| Error::Protocol("this is no compressed message"))?;
            rest = &rest[(self.decompress.total_in() - taken) as usize..];
            let length = (self.decompress.total_out() - given) as usize;
            if out.len() + length > max {
                return Err(Error::TooBig);
            }
            out.extend_from_slice(&step[..length]);
            match status {
                // The sender ended its stream; another may follow (§7.2.3.4).
                Status::StreamEnd if *ends == MAX_ENDS => {
                    return Err(Error::Protocol("a compressed message ends too often"));
                }
                Status::StreamEnd => {
                    *ends += 1;
                    self.decompress.reset(false);
                }
                _ if length == STEP => continue,
                _ => {}
            }
            if rest.is_empty() || (status != Status::StreamEnd && length == 0) {
                return Ok(());
            }
        }
    }
}

/// Of how many bytes a message may be that inflates to so many.
fn may_be_taken(inflated: usize) -> usize {
    MAX_VAIN + inflated + inflated / 4 + (MAX_FOR_ONE - 1) * inflated.min(FIRST)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ws::{Decoder, Message, Role};
    use proptest::prelude::*;

    /// What a client of this extension reads in `frame`.
    fn read(mut frame: Vec<u8>) -> Vec<u8> {
        let mut decoder = Decoder::default();
        let mut input = &mut frame[..];
        match decoder.decode_extended(&mut input, Role::Client, true, 1 << 30) {
            Ok(Some(Message::Compressed { payload, .. })) => {
                let mut out = Vec::new();
                let mut inflater = Inflater::default();
                inflater.inflate(payload, 1 << 30, &mut out).unwrap();
                out
            }
            Ok(Some(Message::Binary(payload))) => payload.to_vec(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn offers() {
        let bits = |offer| negotiate(offer).map(|agreed| agreed.server_window_bits);
        for (offer, agreed) in [
            ("permessage-deflate", Some(15)),
            ("permessage-deflate; client_max_window_bits", Some(15)),
            ("permessage-deflate; client_max_window_bits=8", Some(15)),
            (
                "permessage-deflate; client_max_window_bits=\"10\"",
                Some(15),
            ),
            ("permessage-deflate; server_max_window_bits=9", Some(9)),
            (
                "permessage-deflate ;server_no_context_takeover; client_no_context_takeover",
                Some(15),
            ),
            (
                "permessage-deflate; server_max_window_bits=8, permessage-deflate",
                Some(15),
            ),
            ("x-webkit-deflate-frame, permessage-deflate", Some(15)),
            ("", None),
            ("permessage-bzip2", None),
            ("permessage-deflate; server_max_window_bits", None),
            ("permessage-deflate; server_max_window_bits=16", None),
            ("permessage-deflate; server_max_window_bits=09", None),
            ("permessage-deflate; server_max_window_bits=+9", None),
            ("permessage-deflate; client_max_window_bits=7", None),
            ("permessage-deflate; server_no_context_takeover=1", None),
            (
                "permessage-deflate; client_max_window_bits; client_max_window_bits",
                None,
            ),
            ("permessage-deflate; shiny", None),
        ] {
            assert_eq!(bits(offer), agreed, "{offer}");
        }
        let nine = negotiate("permessage-deflate; server_max_window_bits=9").unwrap();
        assert!(nine.header().ends_with("; server_max_window_bits=9"));
        assert_eq!(
            negotiate(&nine.header()),
            Some(nine),
            "our own words are good"
        );
    }

    #[test]
    fn the_examples_of_rfc_7692_7_2_3() {
        let hello = [
            &[0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00][..],
            // Without compression, and with a last block.
            &[
                0x00, 0x05, 0x00, 0xfa, 0xff, 0x48, 0x65, 0x6c, 0x6c, 0x6f, 0x00,
            ],
            &[0xf3, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00, 0x00],
            // Two blocks.
            &[
                0xf2, 0x48, 0x05, 0x00, 0x00, 0x00, 0xff, 0xff, 0xca, 0xc9, 0xc9, 0x07, 0x00,
            ],
        ];
        for payload in hello {
            let mut out = Vec::new();
            Inflater::default().inflate(payload, 5, &mut out).unwrap();
            assert_eq!(out, b"Hello", "{payload:02x?}");
        }
        let mut out = Vec::new();
        Inflater::default().inflate(&[0], 0, &mut out).unwrap();
        assert!(out.is_empty());
    }

    #[test]
    fn a_small_message_cannot_become_a_large_one() {
        let mut frame = Vec::new();
        Deflater::new(15).push_frame(OpCode::Binary, &vec![0; 10 << 20], &mut frame);
        assert!(frame.len() < 64 * 1024);
        let mut decoder = Decoder::default();
        let mut input = &mut frame[..];
        let message = decoder.decode_extended(&mut input, Role::Client, true, 1 << 20);
        let Ok(Some(Message::Compressed { payload, .. })) = message else {
            panic!("{message:?}");
        };
        let mut out = Vec::new();
        let result = Inflater::default().inflate(payload, 1_000_000, &mut out);
        assert_eq!(result, Err(Error::TooBig));
        assert!(out.len() <= 1_000_000);
    }

    #[test]
    fn what_stands_for_nothing_is_refused_before_it_has_cost_much() {
        let inflate = |payload: &[u8]| {
            let mut out = Vec::new();
            let result = Inflater::default().inflate(payload, 1_000_000, &mut out);
            result.map(|()| out.len())
        };
        // Streams that end at once, and blocks that are stored and empty.
        for (nothing, some) in [(&[3, 0][..], MAX_ENDS), (&[0, 0, 0, 0xff, 0xff], 10_000)] {
            assert_eq!(inflate(&nothing.repeat(some)), Ok(0));
            let result = inflate(&nothing.repeat(1_000_000 / nothing.len()));
            assert!(matches!(result, Err(Error::Protocol(_))), "{result:?}");
        }
        // Something between does not let much more pass.
        let some = [&[0, 0x10, 0x27, 0xef, 0xd8][..], &[b'x'; 10_000]].concat();
        let vain = [0, 0, 0, 0xff, 0xff].repeat(41_000);
        assert_eq!(inflate(&some), Ok(10_000));
        let result = inflate(&[some, vain].concat());
        assert!(matches!(result, Err(Error::Protocol(_))), "{result:?}");
        let often = Err(Error::Protocol("a compressed message ends too often"));
        assert_eq!(inflate(&[3, 0].repeat(MAX_ENDS + 1)), often);
    }

    #[test]
    fn what_was_flushed_behind_every_byte_is_no_waste() {
        let mut payload = Vec::new();
        let mut stored = Compress::new(Compression::none(), false);
        for byte in std::iter::repeat_n(b'x', 8_000) {
            payload.reserve(64);
            stored
                .compress_vec(&[byte], &mut payload, FlushCompress::Sync)
                .unwrap();
        }
        assert!(payload.len() > 10 * 8_000, "{}", payload.len());
        let mut out = Vec::new();
        let result = Inflater::default().inflate(&payload, 8_000, &mut out);
        assert_eq!((result, out.len()), (Ok(()), 8_000));
    }

    #[test]
    fn what_does_not_shrink_goes_as_it_is() {
        let mut frame = Vec::new();
        Deflater::new(15).push_frame(OpCode::Binary, &[7], &mut frame);
        assert_eq!(frame, [0x82, 1, 7]);
        frame.clear();
        Deflater::new(15).push_frame(OpCode::Text, b"", &mut frame);
        assert_eq!(frame, [0xc1, 1, 0]);
    }

    #[test]
    fn rubbish_is_an_error() {
        let mut out = Vec::new();
        let result = Inflater::default().inflate(&[0xff; 8], 100, &mut out);
        assert!(matches!(result, Err(Error::Protocol(_))));
    }

    #[test]
    fn one_compressor_many_messages_and_windows() {
        let text = include_bytes!("deflate.rs");
        for bits in 9..=15 {
            let mut deflater = Deflater::new(bits);
            for part in text.chunks(3_000) {
                let mut frame = Vec::new();
                deflater.push_frame(OpCode::Binary, part, &mut frame);
                assert!(frame.len() < part.len());
                assert_eq!(read(frame), part);
            }
        }
    }

    proptest! {
        #[test]
        fn inflate_undoes_deflate(
            words in proptest::collection::vec(0_u8..8, 0..40_000),
            bits in 9_u8..=15,
        ) {
            let mut frame = Vec::new();
            Deflater::new(bits).push_frame(OpCode::Binary, &words, &mut frame);
            prop_assert_eq!(read(frame), words);
        }

        #[test]
        fn no_input_panics_or_outgrows_its_bound(
            payload in proptest::collection::vec(any::<u8>(), 0..2_000),
        ) {
            let mut out = Vec::new();
            let _ = Inflater::default().inflate(&payload, 10_000, &mut out);
            prop_assert!(out.len() <= 10_000);
        }
    }
}

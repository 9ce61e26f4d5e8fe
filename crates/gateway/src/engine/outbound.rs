//! What waits to be written to one connection.
//!
//! Everything in here is whole WebSocket frames, also for a polling
//! connection (its payload is made from them when a GET asks for it), so an
//! upgrade takes the queue along as it is. Small frames are copied into one
//! buffer, large ones are shared. The first segment may be partly written;
//! what must jump the queue (a ping) goes in at the next frame boundary.

use std::collections::VecDeque;
use std::io::IoSlice;
use std::sync::Arc;

use bytes::Bytes;
use hashbrown::HashMap;
use heartline_wire::ws;

use super::wheel::Micros;

/// Frames up to this long are copied into the shared buffer: cheaper than a
/// reference count and another entry in the vector of one `writev`.
const COPY_BELOW: usize = 2048;
/// So much waits before keyed publications take each other's places although the
/// transport has not refused anything yet: within one turn more can be published than
/// it will take.
const CONFLATE_BEYOND: usize = 64 * 1024;
/// How long what a peer was sent at once may take to leave.
const BURST: Micros = 100_000;
/// A buffer that grew beyond this is not kept for reuse.
const KEEP_BUFFER: usize = 4096;

enum Segment {
    Buffer(Vec<u8>),
    Shared(Bytes),
    /// A keyed publication that a newer one may take the place of.
    Keyed(Bytes, ConflationKey),
    /// A keyed publication whose place was taken.
    Gone,
}

impl Segment {
    fn bytes(&self) -> &[u8] {
        match self {
            Segment::Buffer(buffer) => buffer,
            Segment::Shared(bytes) | Segment::Keyed(bytes, _) => bytes,
            Segment::Gone => &[],
        }
    }
}

/// Room and key of a publication of which only the newest is kept.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct ConflationKey {
    /// The room's incarnation number.
    pub(crate) room: u64,
    pub(crate) key: Arc<str>,
}

#[derive(Default)]
pub(crate) struct Outbound {
    /// What leaves before the first frame and is none; not counted as waiting.
    preface: Vec<u8>,
    segments: VecDeque<Segment>,
    /// How many bytes of the first segment have left.
    written: usize,
    /// Bytes that wait, all segments together.
    waiting: usize,
    /// The transport would block; a writable event continues.
    pub(crate) blocked: bool,
    /// When it last began to.
    blocked_at: Micros,
    /// Where the newest of each key stands: its number since the queue began.
    keyed: Option<Box<HashMap<ConflationKey, u64>>>,
    /// Number of the first segment.
    first: u64,
    spare: Vec<u8>,
    /// Places that were taken since the last tidying.
    gone: usize,
}

impl Outbound {
    /// Bytes that wait.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.waiting == 0 && self.preface.is_empty()
    }

    /// The transport has taken no more.
    pub(crate) fn block(&mut self, now: Micros) {
        if !self.blocked {
            self.blocked = true;
            self.blocked_at = now;
        }
    }

    /// Whether more than `bound` waits for a peer that does not keep up. A burst is not
    /// that peer's fault: for a moment, up to four times as much may wait.
    pub(crate) fn is_over(&self, bound: usize, now: Micros) -> bool {
        let is_burst = !self.blocked || now.saturating_sub(self.blocked_at) < BURST;
        self.waiting
            > if is_burst {
                bound.saturating_mul(4)
            } else {
                bound
            }
    }

    /// Puts `preface` before the first frame.
    pub(crate) fn set_preface(&mut self, preface: Vec<u8>) {
        self.preface = preface;
    }

    /// Lets `write` append whole frames to the buffer at the end.
    pub(crate) fn append(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        let buffer = self.tail();
        let before = buffer.len();
        write(buffer);
        let grown = buffer.len() - before;
        self.waiting += grown;
    }

    fn tail(&mut self) -> &mut Vec<u8> {
        if !matches!(self.segments.back(), Some(Segment::Buffer(_))) {
            let spare = std::mem::take(&mut self.spare);
            self.segments.push_back(Segment::Buffer(spare));
        }
        match self.segments.back_mut() {
            Some(Segment::Buffer(buffer)) => buffer,
            _ => unreachable!("a buffer was just pushed"),
        }
    }

    /// Appends whole frames that other connections share.
    pub(crate) fn push(&mut self, frames: &Bytes) {
        if frames.len() <= COPY_BELOW {
            self.append(|buffer| buffer.extend_from_slice(frames));
        } else {
            self.waiting += frames.len();
            self.segments.push_back(Segment::Shared(frames.clone()));
        }
    }

    /// Appends a keyed publication, in place of an older one that still waits.
    /// Returns whether one was replaced. While little waits and the transport takes
    /// everything, it is like [`push`](Self::push).
    pub(crate) fn push_keyed(&mut self, key: &ConflationKey, frames: &Bytes) -> bool {
        if !self.blocked && self.waiting < CONFLATE_BEYOND {
            self.push(frames);
            return false;
        }
        let number = self.first + self.segments.len() as u64;
        let keyed = self.keyed.get_or_insert_default();
        let older = keyed.insert(key.clone(), number);
        let mut replaced = false;
        if let Some(index) = older.and_then(|older| older.checked_sub(self.first)) {
            let begun = index == 0 && self.written > 0;
            if let (false, Some(segment)) = (begun, self.segments.get_mut(index as usize)) {
                self.waiting -= segment.bytes().len();
                *segment = Segment::Gone;
                self.gone += 1;
                replaced = true;
            }
        }
        self.waiting += frames.len();
        self.segments
            .push_back(Segment::Keyed(frames.clone(), key.clone()));
        if self.gone > 64 && self.gone > self.segments.len() / 2 {
            self.segments
                .retain(|segment| !matches!(segment, Segment::Gone));
            self.gone = 0;
            self.renumber();
        }
        replaced
    }

    /// Inserts a frame that waits for nothing but the frame in flight.
    pub(crate) fn push_urgent(&mut self, frame: &[u8]) {
        if self.written == 0 || self.segments.is_empty() {
            self.waiting += frame.len();
            self.segments.push_front(Segment::Buffer(frame.to_vec()));
            self.renumber();
            return;
        }
        let Some(front) = self.segments.pop_front() else {
            return;
        };
        let boundary = ws::frame_boundary(front.bytes(), self.written);
        let front = match front {
            Segment::Buffer(buffer) => Bytes::from(buffer),
            Segment::Shared(bytes) | Segment::Keyed(bytes, _) => bytes,
            Segment::Gone => Bytes::new(),
        };
        let rest = front.slice(boundary..);
        if !rest.is_empty() {
            self.segments.push_front(Segment::Shared(rest));
        }
        self.segments.push_front(Segment::Buffer(frame.to_vec()));
        self.segments
            .push_front(Segment::Shared(front.slice(..boundary)));
        self.waiting += frame.len();
        self.renumber();
    }

    /// Positions have moved: find the keyed ones again.
    fn renumber(&mut self) {
        if let Some(keyed) = &mut self.keyed {
            keyed.clear();
            for (index, segment) in self.segments.iter().enumerate() {
                if let Segment::Keyed(_, key) = segment {
                    keyed.insert(key.clone(), self.first + index as u64);
                }
            }
        }
    }

    /// Drops everything that has not begun to leave; the frame in flight stays.
    pub(crate) fn keep_frame_in_flight(&mut self) {
        let in_flight = match self.segments.front() {
            Some(front) if self.written > 0 => {
                let bytes = front.bytes();
                let boundary = ws::frame_boundary(bytes, self.written);
                Some(Bytes::copy_from_slice(&bytes[self.written..boundary]))
            }
            _ => None,
        };
        self.segments.clear();
        self.keyed = None;
        self.written = 0;
        self.waiting = 0;
        if let Some(rest) = in_flight.filter(|rest| !rest.is_empty()) {
            // The rest of a frame is no frame: marked as begun by a byte that
            // counts as written, so that nothing is put before it.
            let mut bytes = Vec::with_capacity(rest.len());
            bytes.extend_from_slice(&rest);
            self.waiting = bytes.len();
            self.segments.push_back(Segment::Buffer(bytes));
        }
    }

    /// The next bytes to write, as many slices as fit.
    pub(crate) fn gather<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        let mut count = 0;
        if let (false, Some(first)) = (self.preface.is_empty(), slices.first_mut()) {
            *first = IoSlice::new(&self.preface);
            count = 1;
        }
        let mut skip = self.written;
        for segment in &self.segments {
            let bytes = &segment.bytes()[skip..];
            skip = 0;
            if bytes.is_empty() {
                continue;
            }
            if count == slices.len() {
                break;
            }
            slices[count] = IoSlice::new(bytes);
            count += 1;
        }
        count
    }

    /// `n` bytes have left.
    pub(crate) fn advance(&mut self, mut n: usize) {
        if !self.preface.is_empty() {
            let first = n.min(self.preface.len());
            self.preface.drain(..first);
            n -= first;
        }
        self.waiting -= n;
        self.written += n;
        while let Some(front) = self.segments.front() {
            let length = front.bytes().len();
            if self.written < length {
                break;
            }
            self.written -= length;
            match self.segments.pop_front() {
                Some(Segment::Keyed(_, key)) => {
                    if let Some(keyed) = &mut self.keyed {
                        if keyed.get(&key) == Some(&self.first) {
                            keyed.remove(&key);
                        }
                    }
                }
                Some(Segment::Buffer(mut buffer)) if buffer.capacity() <= KEEP_BUFFER => {
                    buffer.clear();
                    self.spare = buffer;
                }
                _ => {}
            }
            self.first += 1;
        }
        if self.segments.is_empty() {
            self.written = 0;
            self.keyed = None;
        }
    }

    /// Takes all that waits as one contiguous run of frames.
    pub(crate) fn take_all(&mut self, out: &mut Vec<u8>) {
        let mut skip = self.written;
        for segment in &self.segments {
            out.extend_from_slice(&segment.bytes()[skip..]);
            skip = 0;
        }
        let waiting = self.waiting;
        self.advance(waiting);
    }

    /// Ready for another connection; whether it is worth keeping.
    pub(crate) fn recycle(&mut self) -> bool {
        self.preface = Vec::new();
        self.segments.clear();
        self.written = 0;
        self.waiting = 0;
        self.blocked = false;
        self.keyed = None;
        self.first = 0;
        self.gone = 0;
        self.segments.capacity() <= 16
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_preface_leaves_first_and_in_pieces() {
        let mut queue = Outbound::default();
        queue.set_preface(b"HTTP".to_vec());
        assert!(!queue.is_empty() && queue.waiting() == 0);
        queue.push(&frame("one"));
        queue.push_urgent(b"\x89\x00");
        let mut left = Vec::new();
        while !queue.is_empty() {
            let mut slices = [IoSlice::new(&[]); 4];
            let count = queue.gather(&mut slices);
            assert!(count > 0);
            let some = &slices[0][..slices[0].len().min(3)];
            left.extend_from_slice(some);
            let taken = some.len();
            queue.advance(taken);
        }
        assert_eq!(left, b"HTTP\x89\x00\x81\x03one");
    }

    fn frame(text: &str) -> Bytes {
        let mut out = Vec::new();
        ws::push_frame(ws::OpCode::Text, text.as_bytes(), &mut out);
        out.into()
    }

    fn drain(queue: &mut Outbound) -> Vec<u8> {
        let mut all = Vec::new();
        queue.take_all(&mut all);
        all
    }

    fn key(name: &str) -> ConflationKey {
        ConflationKey {
            room: 1,
            key: name.into(),
        }
    }

    #[test]
    fn small_frames_share_a_buffer_and_large_ones_are_not_copied() {
        let mut queue = Outbound::default();
        queue.push(&frame("a"));
        queue.push(&frame("b"));
        queue.push(&frame(&"x".repeat(5000)));
        let mut slices = [IoSlice::new(&[]); 8];
        assert_eq!(queue.gather(&mut slices), 2);
    }

    #[test]
    fn a_ping_goes_before_queued_data_at_a_frame_boundary() {
        let mut queue = Outbound::default();
        queue.push(&frame("first"));
        queue.push(&frame("second"));
        queue.advance(3);
        queue.push_urgent(&frame("2"));
        let all = drain(&mut queue);
        let expected = [&frame("first")[3..], &frame("2"), &frame("second")].concat();
        assert_eq!(all, expected);
    }

    #[test]
    fn only_the_newest_of_a_key_waits() {
        let mut queue = Outbound::default();
        queue.push(&frame("begin"));
        queue.blocked = true;
        assert!(!queue.push_keyed(&key("a"), &frame("a1")));
        assert!(!queue.push_keyed(&key("b"), &frame("b1")));
        assert!(queue.push_keyed(&key("a"), &frame("a2")));
        queue.push_urgent(&frame("2"));
        assert!(queue.push_keyed(&key("b"), &frame("b2")));
        let all = drain(&mut queue);
        let expected = ["2", "begin", "a2", "b2"]
            .map(|text| frame(text).to_vec())
            .concat();
        assert_eq!(all, expected);
        assert!(queue.is_empty());
    }

    #[test]
    fn a_reader_that_stopped_does_not_make_the_queue_grow() {
        let mut queue = Outbound::default();
        queue.push(&frame("begin"));
        queue.blocked = true;
        for _ in 0..10_000 {
            queue.push_keyed(&key("a"), &frame("a"));
            queue.push_keyed(&key("b"), &frame("b"));
        }
        assert!(queue.segments.len() < 300);
        let expected = ["begin", "a", "b"]
            .map(|text| frame(text).to_vec())
            .concat();
        assert_eq!(drain(&mut queue), expected);
    }

    #[test]
    fn a_burst_of_one_turn_does_not_make_the_queue_grow() {
        let mut queue = Outbound::default();
        let all = |text: &str| frame(&text.repeat(1000));
        for _ in 0..10_000 {
            queue.push_keyed(&key("a"), &all("a"));
            queue.push_keyed(&key("b"), &all("b"));
        }
        assert!(queue.waiting() < CONFLATE_BEYOND + 4000);
        queue.push_keyed(&key("a"), &all("c"));
        let left = drain(&mut queue);
        assert!(left.ends_with(&[all("b"), all("c")].concat()));
    }

    #[test]
    fn a_burst_may_leave_in_a_moment_and_a_slow_peer_may_not() {
        let mut queue = Outbound::default();
        queue.push(&frame(&"x".repeat(3000)));
        assert!(!queue.is_over(1000, 7));
        queue.block(7);
        assert!(!queue.is_over(1000, 7 + BURST - 1) && queue.is_over(1000, 7 + BURST));
        assert!(queue.is_over(700, 7));
        queue.block(BURST);
        assert!(queue.is_over(1000, 7 + BURST));
    }

    #[test]
    fn a_frame_in_flight_is_never_replaced_or_cut() {
        let mut queue = Outbound {
            blocked: true,
            ..Outbound::default()
        };
        queue.push_keyed(&key("a"), &frame("one"));
        queue.advance(2);
        assert!(!queue.push_keyed(&key("a"), &frame("two")));
        queue.keep_frame_in_flight();
        assert_eq!(drain(&mut queue), &frame("one")[2..]);
    }
}

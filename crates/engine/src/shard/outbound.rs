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
use std::time::Duration;

use bytes::Bytes;
use hashbrown::HashMap;
use heartline_wire::time::Micros;
use heartline_wire::ws;

/// Frames up to this long are copied into the shared buffer: cheaper than a
/// reference count and another entry in the vector of one `writev`.
const COPY_BELOW: usize = 2048;
/// So much waits before keyed publications take each other's places although the
/// transport has not refused anything yet: within one turn more can be published than
/// it will take.
const CONFLATE_BEYOND: usize = 64 * 1024;
/// Keys that may wait at once, each with its newest publication; one with another key
/// waits as if it had none. A ping that jumps the queue looks all of them up anew
/// ([`Outbound::renumber`]): so many take a millisecond. The usual bound of 1 MB has room
/// for some 6 000; this one is for those who raise it.
const MAX_KEYS: usize = 16_384;
/// The counts of references before a shared text.
const COUNTS: usize = 2 * size_of::<usize>();
/// What a segment costs besides its bytes and its key's text.
const SEGMENT: usize = size_of::<Segment>() + COUNTS;
/// What a key costs besides its text: its place in the map, with what that keeps free (an
/// eighth at least).
const KEY: usize = size_of::<(ConflationKey, u64)>() * 8 / 7 + COUNTS;
/// How long what a peer was sent at once may take to leave.
const BURST: Duration = Duration::from_millis(100);
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

    /// Bytes of its key's text.
    fn key_bytes(&self) -> usize {
        match self {
            Segment::Keyed(_, key) => key.key.len(),
            _ => 0,
        }
    }
}

/// What a publication is about, where only the newest is worth keeping.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ConflationKey {
    /// Keys of different scopes are different; a room's incarnation number, say.
    pub scope: u64,
    /// The key within its scope.
    pub key: Arc<str>,
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
    /// Bytes of the keys' texts: in the segments, and in `keyed`. The two may be equal and
    /// not the same, when the map has kept the one that came first.
    key_bytes: usize,
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
    /// Bytes that are held for the peer: those that wait, and what it costs to keep
    /// them (segments, keys, their map). What grows by doubling may keep as much again
    /// free. None if nothing waits.
    pub(crate) fn waiting(&self) -> usize {
        let keys = self.keyed.as_ref().map_or(0, |keyed| keyed.len());
        self.waiting + self.segments.len() * SEGMENT + keys * KEY + self.key_bytes
    }

    /// Whether anything at all is held, whatever it weighs.
    pub(crate) fn holds_any(&self) -> bool {
        !self.segments.is_empty()
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

    /// Whether more than `bound` is held for a peer that does not keep up. A burst is not
    /// that peer's fault: for a moment, up to four times as much may wait.
    pub(crate) fn is_over(&self, bound: usize, now: Micros) -> bool {
        let is_burst = !self.blocked || now < self.blocked_at + BURST;
        self.waiting()
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
    /// everything, it is like [`push`](Self::push), unless it `waits` in any case.
    pub(crate) fn push_keyed(&mut self, key: &ConflationKey, frames: &Bytes, waits: bool) -> bool {
        if !waits && !self.blocked && self.waiting < CONFLATE_BEYOND {
            self.push(frames);
            return false;
        }
        let number = self.first + self.segments.len() as u64;
        let keyed = self.keyed.get_or_insert_default();
        // Only a full map is asked twice.
        if keyed.len() >= MAX_KEYS && !keyed.contains_key(key) {
            self.push(frames);
            return false;
        }
        let older = keyed.insert(key.clone(), number);
        if older.is_none() {
            self.key_bytes += key.key.len();
        }
        let mut replaced = false;
        if let Some(index) = older.and_then(|older| older.checked_sub(self.first)) {
            let begun = index == 0 && self.written > 0;
            if let (false, Some(segment)) = (begun, self.segments.get_mut(index as usize)) {
                self.waiting -= segment.bytes().len();
                self.key_bytes -= segment.key_bytes();
                *segment = Segment::Gone;
                self.gone += 1;
                replaced = true;
            }
        }
        self.waiting += frames.len();
        self.key_bytes += key.key.len();
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
    pub(crate) fn push_urgent(&mut self, frame: Bytes) {
        if self.written == 0 || self.segments.is_empty() {
            self.waiting += frame.len();
            self.segments.push_front(Segment::Shared(frame));
            self.renumber();
            return;
        }
        let Some(front) = self.segments.pop_front() else {
            return;
        };
        let boundary = ws::frame_boundary(front.bytes(), self.written);
        self.key_bytes -= front.key_bytes();
        let front = match front {
            Segment::Buffer(buffer) => Bytes::from(buffer),
            Segment::Shared(bytes) | Segment::Keyed(bytes, _) => bytes,
            Segment::Gone => Bytes::new(),
        };
        let rest = front.slice(boundary..);
        if !rest.is_empty() {
            self.segments.push_front(Segment::Shared(rest));
        }
        self.waiting += frame.len();
        self.segments.push_front(Segment::Shared(frame));
        self.segments
            .push_front(Segment::Shared(front.slice(..boundary)));
        self.renumber();
    }

    /// Positions have moved: find the keyed ones again.
    fn renumber(&mut self) {
        if let Some(keyed) = &mut self.keyed {
            self.key_bytes -= keyed.keys().map(|key| key.key.len()).sum::<usize>();
            keyed.clear();
            for (index, segment) in self.segments.iter().enumerate() {
                if let Segment::Keyed(_, key) = segment {
                    if keyed
                        .insert(key.clone(), self.first + index as u64)
                        .is_none()
                    {
                        self.key_bytes += key.key.len();
                    }
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
        self.key_bytes = 0;
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
                    self.key_bytes -= key.key.len();
                    if let Some(keyed) = &mut self.keyed {
                        if keyed.get(&key) == Some(&self.first) {
                            keyed.remove(&key);
                            self.key_bytes -= key.key.len();
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
            self.key_bytes = 0;
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
        self.key_bytes = 0;
        self.first = 0;
        self.gone = 0;
        self.segments.capacity() <= 16
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_preface_leaves_first_and_in_pieces() {
        let mut queue = Outbound::default();
        queue.set_preface(b"HTTP".to_vec());
        assert!(!queue.is_empty() && queue.waiting() == 0);
        queue.push(&frame("one"));
        queue.push_urgent(Bytes::from_static(b"\x89\x00"));
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
            scope: 1,
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
        queue.push_urgent(frame("2"));
        let all = drain(&mut queue);
        let expected = [&frame("first")[3..], &frame("2"), &frame("second")].concat();
        assert_eq!(all, expected);
    }

    #[test]
    fn only_the_newest_of_a_key_waits() {
        let mut queue = Outbound::default();
        queue.push(&frame("begin"));
        queue.blocked = true;
        assert!(!queue.push_keyed(&key("a"), &frame("a1"), false));
        assert!(!queue.push_keyed(&key("b"), &frame("b1"), false));
        assert!(queue.push_keyed(&key("a"), &frame("a2"), false));
        queue.push_urgent(frame("2"));
        assert!(queue.push_keyed(&key("b"), &frame("b2"), false));
        let all = drain(&mut queue);
        let expected = ["2", "begin", "a2", "b2"]
            .map(|text| frame(text).to_vec())
            .concat();
        assert_eq!(all, expected);
        assert!(queue.is_empty());
    }

    #[test]
    fn what_waits_in_any_case_takes_the_place_of_an_older_one_at_once() {
        let mut queue = Outbound::default();
        assert!(!queue.push_keyed(&key("a"), &frame("a1"), true));
        queue.push(&frame("between"));
        assert!(queue.push_keyed(&key("a"), &frame("a2"), true));
        assert!(!queue.push_keyed(&key("a"), &frame("a3"), false));
        let expected = ["between", "a2", "a3"]
            .map(|text| frame(text).to_vec())
            .concat();
        assert_eq!(drain(&mut queue), expected);
    }

    #[test]
    fn a_reader_that_stopped_does_not_make_the_queue_grow() {
        let mut queue = Outbound::default();
        queue.push(&frame("begin"));
        queue.blocked = true;
        for _ in 0..10_000 {
            queue.push_keyed(&key("a"), &frame("a"), false);
            queue.push_keyed(&key("b"), &frame("b"), false);
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
            queue.push_keyed(&key("a"), &all("a"), false);
            queue.push_keyed(&key("b"), &all("b"), false);
        }
        assert!(queue.waiting() < CONFLATE_BEYOND + 10_000);
        queue.push_keyed(&key("a"), &all("c"), false);
        let left = drain(&mut queue);
        assert!(left.ends_with(&[all("b"), all("c")].concat()));
    }

    #[test]
    fn a_burst_may_leave_in_a_moment_and_a_slow_peer_may_not() {
        let mut queue = Outbound::default();
        queue.push(&frame(&"x".repeat(3000)));
        let blocked = Micros(7);
        assert!(!queue.is_over(1000, blocked));
        queue.block(blocked);
        let over = blocked + BURST;
        assert!(!queue.is_over(1000, Micros(over.0 - 1)) && queue.is_over(1000, over));
        assert!(queue.is_over(700, blocked));
        queue.block(over);
        assert!(queue.is_over(1000, over));
    }

    #[test]
    fn keys_count_as_much_as_what_they_are_for() {
        let mut queue = Outbound::default();
        queue.push(&frame("begin"));
        queue.block(Micros::ZERO);
        let mut published = 0;
        while !queue.is_over(1_000_000, Micros::ZERO + BURST) {
            let key = key(&format!("{published:0>250}"));
            queue.push_keyed(&key, &frame("1"), false);
            published += 1;
        }
        assert!(queue.waiting < 10_000 && published < 2000);
    }

    #[test]
    fn one_key_too_many_waits_as_if_it_had_none() {
        let mut queue = Outbound::default();
        queue.push(&frame("begin"));
        queue.block(Micros::ZERO);
        for number in 0..MAX_KEYS + 100 {
            queue.push_keyed(&key(&number.to_string()), &frame("1"), false);
        }
        let keys = |queue: &Outbound| queue.keyed.as_ref().unwrap().len();
        assert_eq!(keys(&queue), MAX_KEYS);
        let last = key(&(MAX_KEYS + 99).to_string());
        assert!(!queue.push_keyed(&last, &frame("2"), false));
        assert!(queue.push_keyed(&key("7"), &frame("3"), false));
        assert_eq!(keys(&queue), MAX_KEYS);
        let all = drain(&mut queue);
        let frames = MAX_KEYS + 101;
        assert_eq!(all.len(), frame("begin").len() + frames * frame("1").len());
        assert!(all.ends_with(&[frame("2"), frame("3")].concat()));
        assert_eq!(queue.waiting(), 0);
    }

    #[derive(Debug, Clone)]
    enum Step {
        Push(usize),
        Keyed(usize, usize),
        Urgent,
        Leave(usize),
        Cut,
    }

    impl Outbound {
        /// What is held, counted one by one.
        fn held(&self) -> usize {
            let segments = self.segments.iter().map(|segment| match segment {
                Segment::Keyed(bytes, key) => bytes.len() + key.key.len() + COUNTS,
                segment => segment.bytes().len(),
            });
            let keys = self.keyed.iter().flat_map(|keyed| keyed.keys());
            let keys = keys.map(|key| size_of_val(key) + size_of::<u64>() + COUNTS + key.key.len());
            segments.sum::<usize>() - self.written
                + self.segments.len() * size_of::<Segment>()
                + keys.sum::<usize>()
        }
    }

    proptest! {
        #[test]
        fn no_more_is_held_than_is_counted(
            steps in prop::collection::vec(
                prop_oneof![
                    2 => (0usize..5000).prop_map(Step::Push),
                    6 => (0usize..12, 0usize..300).prop_map(|(key, len)| Step::Keyed(key, len)),
                    1 => Just(Step::Urgent),
                    3 => (0usize..3000).prop_map(Step::Leave),
                    1 => Just(Step::Cut),
                ],
                0..300,
            ),
            bound in 0usize..20_000,
        ) {
            let mut queue = Outbound::default();
            for step in steps {
                queue.block(Micros::ZERO);
                match step {
                    Step::Push(len) => queue.push(&frame(&"x".repeat(len))),
                    Step::Keyed(number, len) => {
                        // The same texts, each time in a place of their own.
                        let key = key(&"k".repeat(number * 23));
                        queue.push_keyed(&key, &frame(&"x".repeat(len)), false);
                    }
                    Step::Urgent => queue.push_urgent(frame("2")),
                    Step::Leave(count) => queue.advance(count.min(queue.waiting)),
                    Step::Cut => {
                        if queue.written > 0 {
                            queue.keep_frame_in_flight();
                        }
                    }
                }
                prop_assert!(queue.held() <= queue.waiting());
                prop_assert!(queue.is_over(bound, Micros::ZERO + BURST) || queue.held() <= bound);
                prop_assert!(queue.waiting() <= 2 * queue.held());
                prop_assert_eq!(queue.is_empty(), queue.waiting() == 0);
            }
            drain(&mut queue);
            prop_assert_eq!(queue.waiting(), 0);
        }
    }

    #[test]
    fn a_frame_in_flight_is_never_replaced_or_cut() {
        let mut queue = Outbound {
            blocked: true,
            ..Outbound::default()
        };
        queue.push_keyed(&key("a"), &frame("one"), false);
        queue.advance(2);
        assert!(!queue.push_keyed(&key("a"), &frame("two"), false));
        queue.keep_frame_in_flight();
        assert_eq!(drain(&mut queue), &frame("one")[2..]);
    }
}

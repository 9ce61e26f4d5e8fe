//! Events that are kept for who comes back: one line of them, and a ring for each place.
//!
//! Every kept event has a number, its place in the line of this node. It takes it and is
//! posted to the shards in one step, so that each shard sees the numbers ascend, and a number
//! says what a client has received of everything. The events themselves are in rings, one for
//! each room, user, socket, and namespace: a busy one costs the others nothing, and to find what
//! somebody missed looks at theirs alone.
//!
//! ```
//! use heartline_core::line::Place;
//!
//! let place = Place { epoch: 7, id: 1_000 };
//! assert_eq!(place.to_string(), "hl.7.rs");
//! assert_eq!(Place::parse("hl.7.rs"), Some(place));
//! ```

pub mod direct;
pub mod ring;
pub mod session;
pub mod shelf;

use std::fmt;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// What may be kept.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// How old an event may become.
    pub age: Duration,
    /// Events of a room or user.
    pub events: usize,
    /// What these may weigh, bytes.
    pub bytes: usize,
    /// What all that is kept may weigh, bytes.
    pub buffer: usize,
}

/// Keys of a room of which the newest event is kept.
pub const MAX_KEYS: usize = 1_000;

/// The largest event that is kept, bytes: a larger one is a gap for who was not there.
pub const MAX_EVENT: usize = 64 << 10;

/// How much all rings hold, so that one bound is for all.
#[derive(Debug, Default)]
pub struct Account(AtomicUsize);

impl Account {
    pub(crate) fn add(&self, bytes: usize) {
        self.0.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn sub(&self, bytes: usize) {
        self.0.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Bytes that are kept.
    pub fn held(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

#[derive(Default)]
struct Last {
    id: u64,
    /// What is done before another one is taken, once.
    late: Option<Box<dyn FnOnce() + Send>>,
}

impl fmt::Debug for Last {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.id.fmt(f)
    }
}

/// The numbers of kept events.
#[derive(Debug)]
pub struct Line {
    /// The last number taken. Held while what has it is posted.
    last: Mutex<Last>,
    /// What is kept.
    pub account: Arc<Account>,
    /// What may be kept.
    pub bounds: Bounds,
    /// Tells this line from that of another process, or of another store.
    epoch: AtomicU32,
}

impl Line {
    /// A line in which nobody stands.
    pub fn new(bounds: Bounds, epoch: u32) -> Line {
        Line {
            last: Mutex::default(),
            account: Arc::default(),
            bounds,
            epoch: AtomicU32::new(epoch),
        }
    }

    /// Tells this line from that of another process, or of another store.
    pub fn epoch(&self) -> u32 {
        self.epoch.load(Ordering::Relaxed)
    }

    /// It is this line from now on, in which so many numbers are taken.
    pub fn becomes(&self, epoch: u32, last: u64) {
        let mut all = self.lock();
        self.epoch.store(epoch, Ordering::Relaxed);
        all.id = last;
    }

    /// An event has come whose number was taken elsewhere: `post` puts it into the shards'
    /// mailboxes.
    pub fn follow(&self, id: u64, post: impl FnOnce()) {
        let mut last = self.lock();
        post();
        last.id = last.id.max(id);
    }

    /// Takes the next numbers for so many events that `post` puts into the shards' mailboxes,
    /// and answers the first. Nobody else takes one meanwhile.
    pub fn take(&self, count: usize, post: impl FnOnce(u64)) -> u64 {
        let mut last = self.lock();
        if let Some(late) = last.late.take() {
            late();
        }
        let first = last.id + 1;
        post(first);
        last.id += count as u64;
        first
    }

    fn lock(&self) -> MutexGuard<'_, Last> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// If this is the last number still, has `late` called before another one is taken; whether
    /// it is.
    pub fn ends_at(&self, id: u64, late: impl FnOnce() + Send + 'static) -> bool {
        let mut last = self.lock();
        let is_last = last.id == id;
        if is_last {
            last.late = Some(Box::new(late));
        }
        is_last
    }

    /// Goes on after a number that was taken by an earlier process.
    pub fn go_on_after(&self, id: u64) {
        let mut last = self.lock();
        last.id = last.id.max(id);
    }

    /// The last number that was taken.
    pub fn last(&self) -> u64 {
        self.lock().id
    }

    /// A number as clients bring it back.
    pub fn place(&self, id: u64) -> Place {
        Place {
            epoch: self.epoch(),
            id,
        }
    }
}

/// A place in the line, as clients have it: Socket.IO's `offset` of connection state recovery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// Which line.
    pub epoch: u32,
    /// The number of the event.
    pub id: u64,
}

/// The longest text of a place, bytes.
pub const MAX_PLACE: usize = 3 + 7 + 1 + 13;

impl Place {
    /// Reads a place; `None` for what is none.
    pub fn parse(text: &str) -> Option<Place> {
        let (epoch, id) = text.strip_prefix("hl.")?.split_once('.')?;
        let fits = |part: &str, most: usize| {
            let digit = |byte: u8| byte.is_ascii_digit() || byte.is_ascii_lowercase();
            !part.is_empty() && part.len() <= most && part.bytes().all(digit)
        };
        if !fits(epoch, 7) || !fits(id, 13) {
            return None;
        }
        Some(Place {
            epoch: u32::from_str_radix(epoch, 36).ok()?,
            id: u64::from_str_radix(id, 36).ok()?,
        })
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("hl.")?;
        base36(self.epoch.into(), f)?;
        f.write_str(".")?;
        base36(self.id, f)
    }
}

fn base36(mut number: u64, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let mut digits = [0u8; 13];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b"0123456789abcdefghijklmnopqrstuvwxyz"[(number % 36) as usize];
        number /= 36;
        if number == 0 {
            break;
        }
    }
    f.write_str(std::str::from_utf8(&digits[at..]).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn places_survive_the_journey(epoch: u32, id: u64) {
            let place = Place { epoch, id };
            let text = place.to_string();
            prop_assert!(text.len() <= MAX_PLACE);
            prop_assert_eq!(Place::parse(&text), Some(place));
        }

        #[test]
        fn any_text_is_refused_or_read(text in "(hl)?[.0-9a-zA-Z+]{0,30}") {
            if let Some(place) = Place::parse(&text) {
                let (_, again) = (text, place.to_string());
                prop_assert_eq!(Place::parse(&again), Some(place));
            }
        }
    }
}

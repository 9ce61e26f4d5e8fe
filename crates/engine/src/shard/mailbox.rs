//! How other threads, and the shard's own handlers, reach a shard.
//!
//! One lock around a vector, taken for a push or a swap. A push wakes the
//! shard only if it sleeps, so what a shard says to itself, or what arrives
//! while it works, costs no system call.
//!
//! A mailbox has no bound of its own, for what is in it must not be lost. The
//! bound is upstream: while any shard's backlog is [`HIGH`], no shard reads from
//! its connections, so that what clients send waits in their kernels.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

/// The backlog at which reading stops: in units of a message, or of a KiB of a
/// message's payload (arguments, attachments, keys) where that is more.
pub(crate) const HIGH: usize = 16_384;

pub(crate) struct Mailbox<T> {
    items: Mutex<Vec<T>>,
    /// Weight of what waits, with what was taken and left for later.
    backlog: AtomicUsize,
    sleeping: AtomicBool,
    waker: mio::Waker,
    /// Connections the shard holds: new ones go where there are fewest.
    pub(crate) load: AtomicUsize,
}

/// What was taken of a mailbox and is being worked off, in order.
pub(crate) struct Batch<T> {
    items: VecDeque<T>,
    /// How many there were when it was taken, and their weight.
    count: usize,
    weight: usize,
    /// The part of its weight that is in the mailbox's backlog again.
    left: usize,
}

impl<T> Default for Batch<T> {
    fn default() -> Self {
        Batch {
            items: VecDeque::new(),
            count: 0,
            weight: 0,
            left: 0,
        }
    }
}

impl<T> Batch<T> {
    pub(crate) fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// The next that is to be done.
    pub(crate) fn next(&mut self) -> Option<T> {
        self.items.pop_front()
    }
}

impl<T> Mailbox<T> {
    pub(crate) fn new(waker: mio::Waker) -> Self {
        Mailbox {
            items: Mutex::new(Vec::new()),
            backlog: AtomicUsize::new(0),
            sleeping: AtomicBool::new(false),
            waker,
            load: AtomicUsize::new(0),
        }
    }

    pub(crate) fn push(&self, item: T) {
        self.push_with(item, 0);
    }

    /// Pushes something that holds `bytes` of payload.
    pub(crate) fn push_with(&self, item: T, bytes: usize) {
        {
            let mut items = self.items.lock().unwrap_or_else(PoisonError::into_inner);
            items.push(item);
            // Under the lock, like the reset in `take`.
            self.backlog.fetch_add(1 + bytes / 1024, Ordering::Relaxed);
        }
        self.wake();
    }

    /// Whether nothing waits: nothing at least of what the caller knows to have been pushed.
    pub(crate) fn is_empty(&self) -> bool {
        self.backlog.load(Ordering::Relaxed) == 0
    }

    /// Whether more waits than should.
    pub(crate) fn is_high(&self) -> bool {
        self.backlog.load(Ordering::Relaxed) >= HIGH
    }

    fn wake(&self) {
        if self.sleeping.swap(false, Ordering::SeqCst) {
            // Fails only if the poller is gone, and then nobody is to be woken.
            let _ = self.waker.wake();
        }
    }

    /// Takes what has come, with a `batch` that is worked off; false if nothing has. What others
    /// are about to push may be overlooked, and keeps the shard from sleeping.
    pub(crate) fn take(&self, batch: &mut Batch<T>) -> bool {
        if self.is_empty() {
            return false;
        }
        // Neither way are the items moved.
        let mut taken = Vec::from(std::mem::take(&mut batch.items));
        {
            let mut items = self.items.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::swap(&mut *items, &mut taken);
            batch.weight = self.backlog.swap(0, Ordering::Relaxed);
        }
        batch.count = taken.len();
        batch.items = taken.into();
        true
    }

    /// Has what is left of `batch` for later count as waiting, and no more of it than that: of its
    /// weight, the part that it is by number.
    pub(crate) fn keep(&self, batch: &mut Batch<T>) {
        let left = match batch.items.len() {
            0 => 0,
            items => (batch.weight as u64 * items as u64).div_ceil(batch.count as u64) as usize,
        };
        let before = std::mem::replace(&mut batch.left, left);
        if left > before {
            self.backlog.fetch_add(left - before, Ordering::Relaxed);
        } else if before > left {
            self.backlog.fetch_sub(before - left, Ordering::Relaxed);
        }
    }

    /// Announces that the shard is about to sleep. False: something has come
    /// meanwhile, and it must not.
    pub(crate) fn may_sleep(&self) -> bool {
        self.sleeping.store(true, Ordering::SeqCst);
        let empty = self
            .items
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .is_empty();
        if !empty {
            self.awake();
        }
        empty
    }

    /// The shard is awake.
    pub(crate) fn awake(&self) {
        self.sleeping.store(false, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backlog_is_high_by_number_or_by_payload_and_ends_when_taken() {
        let poll = mio::Poll::new().unwrap();
        let mailbox = Mailbox::new(mio::Waker::new(poll.registry(), mio::Token(0)).unwrap());
        for number in 0..HIGH {
            assert!(!mailbox.is_high() && mailbox.is_empty() == (number == 0));
            mailbox.push(number);
        }
        assert!(mailbox.is_high());
        let mut taken = Batch::default();
        assert!(mailbox.take(&mut taken) && !mailbox.is_high() && mailbox.is_empty());
        assert_eq!(taken.items.len(), HIGH);
        let mut taken = Batch::default();
        assert!(!mailbox.take(&mut taken));
        mailbox.push_with(1, HIGH * 1024);
        assert!(mailbox.is_high());
    }

    #[test]
    fn what_is_left_of_a_batch_counts_until_it_is_done() {
        let poll = mio::Poll::new().unwrap();
        let mailbox = Mailbox::new(mio::Waker::new(poll.registry(), mio::Token(0)).unwrap());
        for number in 0..4 {
            mailbox.push_with(number, HIGH * 1024 / 2);
        }
        let mut batch = Batch::default();
        assert!(mailbox.take(&mut batch) && mailbox.is_empty());
        for (number, is_high) in [(0, true), (1, true), (2, false)] {
            assert_eq!(batch.next(), Some(number));
            mailbox.keep(&mut batch);
            assert_eq!((mailbox.is_high(), mailbox.is_empty()), (is_high, false));
        }
        // What comes meanwhile is what is left when that is done.
        mailbox.push(4);
        assert_eq!(batch.next(), Some(3));
        mailbox.keep(&mut batch);
        assert!(batch.is_empty() && !mailbox.is_empty());
        assert!(mailbox.take(&mut batch) && mailbox.is_empty());
        assert_eq!((batch.next(), batch.next()), (Some(4), None));
    }
}

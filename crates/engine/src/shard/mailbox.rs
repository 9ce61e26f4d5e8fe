//! How other threads, and the shard's own handlers, reach a shard.
//!
//! One lock around a vector, taken for a push or a swap. A push wakes the
//! shard only if it sleeps, so what a shard says to itself, or what arrives
//! while it works, costs no system call.
//!
//! A mailbox has no bound of its own, for what is in it must not be lost. The
//! bound is upstream: while any shard's backlog is [`HIGH`], no shard reads from
//! its connections, so that what clients send waits in their kernels.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

/// The backlog at which reading stops: in units of a message, or of a KiB of a
/// message's payload (arguments, attachments, keys) where that is more.
pub(crate) const HIGH: usize = 16_384;

pub(crate) struct Mailbox<T> {
    items: Mutex<Vec<T>>,
    /// Weight of what waits.
    backlog: AtomicUsize,
    sleeping: AtomicBool,
    waker: mio::Waker,
    /// Connections the shard holds: new ones go where there are fewest.
    pub(crate) load: AtomicUsize,
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

    /// Swaps what has come with `empty`; false if nothing has.
    pub(crate) fn take(&self, empty: &mut Vec<T>) -> bool {
        let mut items = self.items.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::swap(&mut *items, empty);
        self.backlog.store(0, Ordering::Relaxed);
        !empty.is_empty()
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
        let mut taken = Vec::new();
        assert!(mailbox.take(&mut taken) && !mailbox.is_high() && mailbox.is_empty());
        assert_eq!(taken.len(), HIGH);
        mailbox.push_with(1, HIGH * 1024);
        assert!(mailbox.is_high());
    }
}

//! How other threads, and the shard's own handlers, reach a shard.
//!
//! One lock around a vector, taken for a push or a swap. A push wakes the
//! shard only if it sleeps, so what a shard says to itself, or what arrives
//! while it works, costs no system call.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

pub(crate) struct Mailbox<T> {
    items: Mutex<Vec<T>>,
    sleeping: AtomicBool,
    waker: mio::Waker,
    /// Connections the shard holds: new ones go where there are fewest.
    pub(crate) load: AtomicUsize,
}

impl<T> Mailbox<T> {
    pub(crate) fn new(waker: mio::Waker) -> Self {
        Mailbox {
            items: Mutex::new(Vec::new()),
            sleeping: AtomicBool::new(false),
            waker,
            load: AtomicUsize::new(0),
        }
    }

    pub(crate) fn push(&self, item: T) {
        self.items
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(item);
        self.wake();
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

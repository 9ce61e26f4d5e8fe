//! Which handlers the client's next event has to wait for.
//!
//! Events of one socket take effect in the order in which they were sent: what follows
//! a `join` finds it done. A change of rooms is an order to the shard and takes a moment,
//! so whoever gives one leaves a mark on its thread. The shard looks for that mark when a
//! handler's first step is over; if it is there and the handler is still at work, the
//! connection is not read until it has ended.
//!
//! A handler that first waits for something else, and then joins, holds nothing back, as
//! on Node.

use std::cell::Cell;
use std::marker::PhantomData;

thread_local! {
    static ASKED: Cell<bool> = const { Cell::new(false) };
}

/// A change of rooms has been asked for on this thread.
pub(crate) fn ask() {
    ASKED.set(true);
}

/// Looks for what is asked from now on, on this thread.
pub(crate) struct Watch(PhantomData<*const ()>);

impl Watch {
    pub(crate) fn begin() -> Self {
        ASKED.set(false);
        Watch(PhantomData)
    }

    /// Whether a change of rooms was asked for.
    pub(crate) fn anything(self) -> bool {
        ASKED.take()
    }
}

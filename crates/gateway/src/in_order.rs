//! What the client's next event has to wait for, and what of an event waits itself.
//!
//! Events of one socket take effect in the order in which they were sent: what follows
//! a `join` finds it done. A change of rooms is an order to the shard and takes a moment,
//! so whoever gives one leaves a mark on its thread. The shard looks for that mark when a
//! handler's first step is over; if it is there and the handler is still at work, the
//! connection is not read until it has ended.
//!
//! A handler that first waits for something else, and then joins, holds nothing back, as
//! on Node.
//!
//! What is put into the line that all nodes share takes effect when it comes back, a round trip
//! later. Several such publications keep their order there, and none waits for another. Whatever
//! takes effect at once waits for those before it: a join, a leave, a publication to a room that
//! is not kept. A message takes effect when it is stored; messages keep their order in the store,
//! and all else waits for those before it. So each step of a handler knows the number of what its
//! connection has put into the line last, and whether messages are on their way; what it may not
//! do yet goes into [`Later`], and the connection is not read before that is done.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::marker::PhantomData;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What may wait of one connection: bytes of publications, each with some more for itself. If it
/// is more, all of it goes on at once.
const MAX_WAITING: usize = 1 << 20;
/// What a publication holds besides its payload, about.
const BESIDES: usize = 256;

thread_local! {
    static STEP: Step = const { Step::none() };
}

/// What is known of the step of a handler that runs on this thread.
struct Step {
    /// There is one.
    is_open: Cell<bool>,
    asked: Cell<bool>,
    stores: Cell<bool>,
    said: Cell<u64>,
    /// Messages of the connection are on their way to the store.
    sends: Cell<bool>,
    later: RefCell<Option<Arc<Later>>>,
}

impl Step {
    const fn none() -> Step {
        Step {
            is_open: Cell::new(false),
            asked: Cell::new(false),
            stores: Cell::new(false),
            said: Cell::new(0),
            sends: Cell::new(false),
            later: RefCell::new(None),
        }
    }
}

/// A change of rooms has been asked for on this thread.
pub(crate) fn ask() {
    STEP.with(|step| step.asked.set(true));
}

/// The handler that runs on this thread stores something of which others are told then: nothing
/// that it does from here on waits for anything, and until it has ended, what comes behind it waits.
/// The number of what its connection has put into the line last; 0: nothing.
pub(crate) fn stores() -> u64 {
    STEP.with(|step| {
        step.stores.set(true);
        step.is_open.set(false);
        step.said.get()
    })
}

/// Something was put into the line that all nodes share, on this thread; all of this node up to
/// this number counts as the connection's.
pub(crate) fn says(number: u64) {
    STEP.with(|step| step.said.set(step.said.get().max(number)));
}

/// Where what is done now on this thread has to wait: in any case behind what waits already and
/// behind messages, and else if that is so behind the number of what the connection has put into
/// the line last.
pub(crate) fn later(waits: impl FnOnce(u64) -> bool) -> Option<Arc<Later>> {
    find_later(|sends, said| sends || said > 0 && waits(said))
}

/// The same of what does not wait for messages by itself: an answer to its client is not to take
/// as long as the store.
pub(crate) fn later_in_line(waits: impl FnOnce(u64) -> bool) -> Option<Arc<Later>> {
    find_later(|_, said| said > 0 && waits(said))
}

fn find_later(waits: impl FnOnce(bool, u64) -> bool) -> Option<Arc<Later>> {
    STEP.with(|step| {
        let said = step.said.get();
        if !step.is_open.get() {
            return None;
        }
        let mut later = step.later.borrow_mut();
        if let Some(later) = later.as_ref().filter(|later| !later.is_done()) {
            return Some(later.clone());
        }
        waits(step.sends.get(), said).then(|| later.insert(Arc::default()).clone())
    })
}

/// Does something of which the order with others' is decided already: nothing of it waits.
pub(crate) fn at_once<T>(act: impl FnOnce() -> T) -> T {
    let was_open = STEP.with(|step| step.is_open.replace(false));
    let done = act();
    STEP.with(|step| step.is_open.set(was_open));
    done
}

/// What was found of a step.
#[derive(Default)]
pub(crate) struct Found {
    /// A change of rooms was asked for.
    pub(crate) asked: bool,
    /// The handler stores something from here on.
    pub(crate) stores: bool,
    /// The number of what the connection has put into the line last; 0: nothing.
    pub(crate) said: u64,
    /// What waits for that.
    pub(crate) later: Option<Arc<Later>>,
}

/// Looks for what is asked and said from now on, on this thread.
pub(crate) struct Watch(PhantomData<*const ()>);

impl Watch {
    /// A step begins of a connection of which so much is known.
    pub(crate) fn begin(said: u64, sends: bool, later: Option<Arc<Later>>) -> Self {
        Watch::open(true, (said, sends), later)
    }

    /// The same of a step that waits for nothing.
    pub(crate) fn begin_at_once(said: u64) -> Self {
        Watch::open(false, (said, false), None)
    }

    fn open(is_open: bool, (said, sends): (u64, bool), later: Option<Arc<Later>>) -> Self {
        STEP.with(|step| {
            step.is_open.set(is_open);
            step.asked.set(false);
            step.stores.set(false);
            step.said.set(said);
            step.sends.set(sends);
            step.later.replace(later);
        });
        Watch(PhantomData)
    }

    /// The step is over.
    pub(crate) fn end(self) -> Found {
        STEP.with(|step| {
            step.is_open.set(false);
            Found {
                asked: step.asked.take(),
                stores: step.stores.take(),
                said: step.said.take(),
                later: step.later.take(),
            }
        })
    }
}

/// What a connection has to do, in its order, when all that it has put into the line before has
/// come back.
#[derive(Default)]
pub(crate) struct Later(Mutex<Waiting>);

struct Act {
    /// It is not to be done before all that was said before it is heard.
    waits: bool,
    act: Box<dyn FnOnce() + Send>,
}

#[derive(Default)]
struct Waiting {
    acts: VecDeque<Act>,
    bytes: usize,
    is_done: bool,
}

impl Later {
    /// Publishes something of so many bytes then, kept or not.
    pub(crate) fn publish(&self, bytes: usize, kept: bool, act: impl FnOnce() + Send + 'static) {
        let act = Box::new(act);
        self.put(bytes + BESIDES, Act { waits: !kept, act });
    }

    /// Does something then, for which somebody waits.
    pub(crate) fn act(&self, act: impl FnOnce() + Send + 'static) {
        let act = Box::new(act);
        self.put(0, Act { waits: true, act });
    }

    fn put(&self, bytes: usize, act: Act) {
        let is_over = {
            let mut waiting = self.lock();
            waiting.acts.push_back(act);
            waiting.bytes += bytes;
            waiting.is_done || waiting.bytes > MAX_WAITING
        };
        if is_over {
            while let Some(act) = self.next(|_| true) {
                act();
            }
        }
    }

    /// Does what may be done now: what waits, if all that the connection has said is heard, by the
    /// number of the last of it. Whether that was all; what comes later is done at once then.
    pub(crate) fn go_on(&self, is_heard: impl Fn(u64) -> bool) -> bool {
        let may = |act: &Act| !act.waits || is_heard(STEP.with(|step| step.said.get()));
        while let Some(act) = self.next(may) {
            act();
        }
        let mut waiting = self.lock();
        waiting.is_done |= waiting.acts.is_empty();
        waiting.is_done
    }

    fn next(&self, may: impl Fn(&Act) -> bool) -> Option<Box<dyn FnOnce() + Send>> {
        let mut waiting = self.lock();
        waiting.acts.front().filter(|act| may(act))?;
        let next = waiting.acts.pop_front()?;
        if waiting.acts.is_empty() {
            waiting.bytes = 0;
        }
        Some(next.act)
    }

    fn is_done(&self) -> bool {
        self.lock().is_done
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn notes(later: &Later, notes: &Arc<Mutex<Vec<u32>>>, bytes: usize, note: u32) {
        let notes = notes.clone();
        let act = move || notes.lock().unwrap().push(note);
        later.publish(bytes, note % 10 > 4, act);
    }

    #[test]
    fn what_waits_is_done_in_its_order_and_what_comes_later_at_once() {
        let (later, done) = (Later::default(), Arc::default());
        // Those from 5 on are kept, and wait for nothing but their turn.
        for note in [5, 0, 6, 7, 1, 8] {
            notes(&later, &done, 10, note);
        }
        assert!(done.lock().unwrap().is_empty());
        assert!(!later.go_on(|_| false) && !later.is_done());
        assert_eq!(*done.lock().unwrap(), [5]);
        let is_first = Cell::new(true);
        assert!(!later.go_on(|_| is_first.take()));
        assert_eq!(*done.lock().unwrap(), [5, 0, 6, 7]);
        assert!(later.go_on(|_| true));
        notes(&later, &done, 10, 2);
        assert_eq!(*done.lock().unwrap(), [5, 0, 6, 7, 1, 8, 2]);
    }

    #[test]
    fn more_than_may_wait_goes_on_at_once_in_its_order() {
        let (later, done) = (Later::default(), Arc::default());
        for note in 0..3 {
            notes(&later, &done, MAX_WAITING / 2, note);
        }
        assert_eq!(*done.lock().unwrap(), [0, 1]);
        assert!(later.go_on(|_| true));
        assert_eq!(*done.lock().unwrap(), [0, 1, 2]);
    }

    #[test]
    fn nothing_waits_outside_of_a_step_or_behind_nothing() {
        says(7);
        assert!(later(|_| true).is_none());
        let step = Watch::begin(0, false, None);
        assert!(later(|_| true).is_none());
        says(3);
        assert!(later(|said| said > 3).is_none());
        let waits = later(|said| said == 3);
        assert!(waits.is_some() && later(|_| false).is_some(), "behind that");
        let found = step.end();
        assert_eq!((found.asked, found.said), (false, 3));
        assert!(found.later.is_some() && later(|_| true).is_none());
        let step = Watch::begin(3, true, None);
        assert!(later(|_| false).is_some(), "behind messages");
        assert_eq!(stores(), 3);
        assert!(later(|_| true).is_none(), "one itself waits for nothing");
        assert!(step.end().stores);
    }
}

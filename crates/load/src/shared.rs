//! What the coordinator and the threads of a run share, and how they wake each other.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use mio::{Poll, Token};

use crate::flights::Flights;
use crate::plan::Plan;
use crate::report::{Progress, Stage};
use crate::tls::Tls;

/// The token under which a thread's poller tells that the thread was woken.
pub(crate) const WAKER: Token = Token(usize::MAX);

/// What threads do; the coordinator alone moves it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd)]
#[repr(u8)]
pub(crate) enum Phase {
    Connecting,
    Running,
    Measuring,
    Draining,
    Over,
}

impl Phase {
    fn from_number(number: u8) -> Self {
        [
            Self::Connecting,
            Self::Running,
            Self::Measuring,
            Self::Draining,
        ]
        .into_iter()
        .find(|phase| *phase as u8 == number)
        .unwrap_or(Self::Over)
    }
}

/// Gives the token of a connection by its number.
pub(crate) type Tokens<'a> = &'a (dyn Fn(usize) -> Option<String> + Sync);

/// What the threads share.
pub(crate) struct Shared<'a> {
    pub(crate) plan: &'a Plan,
    pub(crate) tokens: Tokens<'a>,
    /// For connections over TLS.
    pub(crate) tls: Option<Tls>,
    pub(crate) base: Instant,
    phase: AtomicU8,
    /// The next source to connect from.
    pub(crate) sources: AtomicUsize,
    /// Connections that may be begun.
    pub(crate) allowed: AtomicUsize,
    pub(crate) ready: AtomicUsize,
    pub(crate) failed: AtomicU64,
    pub(crate) disconnected: AtomicU64,
    /// Measured.
    pub(crate) operations: AtomicU64,
    /// Of the whole run: what should arrive, what has arrived.
    pub(crate) expected: AtomicU64,
    pub(crate) received: AtomicU64,
    pub(crate) flights: Flights,
    pub(crate) failures: Mutex<BTreeMap<String, u64>>,
    pub(crate) close_codes: Mutex<BTreeMap<u16, u64>>,
    /// Of the threads, by their number.
    pub(crate) mailboxes: Vec<Mailbox>,
}

impl<'a> Shared<'a> {
    /// Close codes of the connections that the server has ended.
    pub(crate) fn close_codes(&self) -> BTreeMap<u16, u64> {
        let codes = self.close_codes.lock();
        codes.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How many connections failed so far, by reason.
    pub(crate) fn failures(&self) -> BTreeMap<String, u64> {
        let failures = self.failures.lock();
        failures.unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn new(
        plan: &'a Plan,
        tokens: Tokens<'a>,
        tls: Option<Tls>,
        mailboxes: Vec<Mailbox>,
    ) -> Self {
        Shared {
            plan,
            tokens,
            tls,
            base: Instant::now(),
            phase: AtomicU8::new(Phase::Connecting as u8),
            // Runs that follow each other begin at different places.
            sources: AtomicUsize::new(std::process::id() as usize * 7_919),
            allowed: AtomicUsize::new(0),
            ready: AtomicUsize::new(0),
            failed: AtomicU64::new(0),
            disconnected: AtomicU64::new(0),
            operations: AtomicU64::new(0),
            expected: AtomicU64::new(0),
            received: AtomicU64::new(0),
            flights: Flights::new(plan.rooms, plan.in_flight.max(1)),
            failures: Mutex::default(),
            close_codes: Mutex::default(),
            mailboxes,
        }
    }

    pub(crate) fn phase(&self) -> Phase {
        Phase::from_number(self.phase.load(Ordering::Acquire))
    }

    /// Microseconds since the run began.
    pub(crate) fn now(&self) -> u64 {
        self.base.elapsed().as_micros() as u64
    }

    /// Begins a phase, and wakes the threads for it.
    pub(crate) fn enter(&self, phase: Phase) {
        self.phase.store(phase as u8, Ordering::Release);
        self.wake();
    }

    pub(crate) fn wake(&self) {
        for mailbox in &self.mailboxes {
            mailbox.wake();
        }
    }

    pub(crate) fn progress(&self, stage: Stage, done: f64) -> Progress {
        Progress {
            stage,
            done: done.clamp(0.0, 1.0),
            connected: self.ready.load(Ordering::Relaxed),
            operations: self.operations.load(Ordering::Relaxed),
            failed: self.failed.load(Ordering::Relaxed) + self.disconnected.load(Ordering::Relaxed),
        }
    }
}

/// What others leave for a thread, and how they wake it.
pub(crate) struct Mailbox {
    waker: mio::Waker,
    /// Places whose publication has arrived everywhere.
    landed: Mutex<Vec<usize>>,
}

impl Mailbox {
    /// The mailbox of the thread that waits with `poll`.
    ///
    /// # Errors
    /// The operating system has nothing to wake the thread with.
    pub(crate) fn new(poll: &Poll) -> io::Result<Self> {
        Ok(Mailbox {
            waker: mio::Waker::new(poll.registry(), WAKER)?,
            landed: Mutex::default(),
        })
    }

    fn wake(&self) {
        // Fails only where there is no thread to be woken.
        let _ = self.waker.wake();
    }

    /// Tells the thread that all have what is in `place`.
    pub(crate) fn post_landed(&self, place: usize) {
        self.landed().push(place);
        self.wake();
    }

    /// Takes what was told since the last time.
    pub(crate) fn take_landed(&self) -> Vec<usize> {
        std::mem::take(&mut *self.landed())
    }

    fn landed(&self) -> MutexGuard<'_, Vec<usize>> {
        self.landed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

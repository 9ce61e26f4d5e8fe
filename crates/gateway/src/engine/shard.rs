//! The loop of one shard: events, mailbox, deadlines, then everything that is
//! to leave leaves.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use mio::{Events, Poll, Token};

use super::conn::{Phase, Transport};
use super::failure::Failure;
use super::mailbox::Mailbox;
use super::requests::Request;
use super::tasks::guarded;
use super::websocket::PROBE;
use super::{App, Clock, Engine, Settings};

/// One read of a connection goes into this, whoever's it is.
pub(crate) const READ_BUFFER: usize = 64 * 1024;
const EVENTS: usize = 1024;
const WAKER: Token = Token(usize::MAX);
/// Rounds of mailbox and closures before output leaves; what comes later has
/// its turn next.
const ROUNDS: usize = 16;
/// How long an overloaded gateway's shard sleeps before it looks again.
const BREATH: Duration = Duration::from_millis(1);

/// A message to a shard.
pub(crate) enum Post<Op> {
    Http(Request),
    App(Op),
    Stop,
}

/// The way to a shard.
pub(crate) type Door<Op> = Arc<Mailbox<Post<Op>>>;

pub(crate) struct Shard<A: App> {
    pub(crate) engine: Engine,
    pub(crate) app: A,
    pub(crate) read_buffer: Vec<u8>,
    /// Connections whose peers broke the framing in this turn.
    pub(crate) failed: Vec<(u32, u32, heartline_wire::ws::Error)>,
    /// A message that came compressed.
    pub(crate) inflated: Vec<u8>,
    poll: Poll,
    door: Door<A::Op>,
}

/// A shard that has its poller and mailbox, but no thread yet.
pub(crate) struct Prepared<A: App> {
    poll: Poll,
    pub(crate) door: Door<A::Op>,
}

impl<A: App> Prepared<A> {
    pub(crate) fn new() -> io::Result<Self> {
        let poll = Poll::new()?;
        let waker = mio::Waker::new(poll.registry(), WAKER)?;
        Ok(Prepared {
            poll,
            door: Arc::new(Mailbox::new(waker)),
        })
    }

    /// Starts the shard's thread, within the control runtime's context so that
    /// handlers may use its timers and sockets. `failure` is told if a panic ends it.
    pub(crate) fn start(
        self,
        number: u16,
        clock: Clock,
        settings: Arc<Settings>,
        runtime: tokio::runtime::Handle,
        app: A,
        failure: &Failure,
    ) -> io::Result<std::thread::JoinHandle<()>> {
        let registry = self.poll.registry().try_clone()?;
        let mut shard = Shard {
            engine: Engine::new(number, clock, settings, registry),
            app,
            read_buffer: vec![0; READ_BUFFER],
            failed: Vec::new(),
            inflated: Vec::new(),
            poll: self.poll,
            door: self.door,
        };
        let failure = failure.clone();
        std::thread::Builder::new()
            .name(format!("shard-{number}"))
            .spawn(move || {
                let _runtime = runtime.enter();
                if guarded(|| shard.run()).is_none() {
                    // What the panic left behind may be broken: nothing of it is touched.
                    std::mem::forget(shard);
                    failure.report(number);
                }
            })
    }
}

impl<A: App> Shard<A> {
    fn run(&mut self) {
        let mut events = Events::with_capacity(EVENTS);
        let mut batch = Vec::new();
        let mut due = Vec::new();
        let mut again = Vec::new();
        loop {
            let timeout = self.timeout();
            let asked = self.engine.clock.now();
            if let Err(error) = self.poll.poll(&mut events, timeout) {
                if error.kind() == io::ErrorKind::Interrupted {
                    continue;
                }
                tracing::error!(%error, "the poller of a shard failed");
            }
            self.door.awake();
            self.engine.now = self.engine.clock.now();
            let overloaded = self.app.is_overloaded();

            for event in &events {
                let token = event.token().0;
                if event.token() == WAKER {
                    continue;
                }
                if token & PROBE != 0 {
                    self.probe_readable((token & !PROBE) as u32);
                    continue;
                }
                let slot = token as u32;
                if event.is_writable() {
                    self.engine.writable(slot);
                }
                if event.is_read_closed() || event.is_error() {
                    if let Some(conn) = self.engine.conns.get_mut(slot) {
                        conn.hup = true;
                    }
                }
                if event.is_readable() || event.is_read_closed() || event.is_error() {
                    if overloaded {
                        self.engine.again.push(slot);
                    } else {
                        self.readable(slot);
                    }
                }
            }
            if !overloaded && events.iter().count() < EVENTS {
                self.engine.heard_until = asked;
            }
            if !overloaded {
                again.append(&mut self.engine.again);
                for slot in again.drain(..) {
                    self.read_again(slot);
                }
            }

            self.engine.wheel.advance(self.engine.now, &mut due);
            for slot in due.drain(..) {
                self.engine.deadline(slot);
            }
            while let Some(slot) = self.engine.app_due.pop() {
                if self.engine.conn(slot).is_some() {
                    self.app.deadline(&mut self.engine, slot);
                }
            }

            for _ in 0..ROUNDS {
                let mut quiet = true;
                if self.door.take(&mut batch) {
                    quiet = false;
                    for post in batch.drain(..) {
                        match post {
                            Post::App(op) => self.app.op(&mut self.engine, op),
                            Post::Http(request) => self.request(request),
                            Post::Stop => return,
                        }
                    }
                }
                if !self.engine.closed.is_empty() {
                    quiet = false;
                    self.tell_closed();
                }
                if quiet {
                    break;
                }
            }
            self.close_failed();
            self.app.turn(&mut self.engine);

            let mut dirty = std::mem::take(&mut self.engine.dirty);
            for slot in dirty.drain(..) {
                self.engine.flush(slot);
            }
            // What flushing made dirty again waits for the next turn.
            std::mem::swap(&mut dirty, &mut self.engine.dirty);
            self.engine.dirty.append(&mut dirty);
            self.door
                .load
                .store(self.engine.len(), std::sync::atomic::Ordering::Relaxed);
        }
    }

    /// How long the poller may sleep.
    fn timeout(&mut self) -> Option<Duration> {
        let engine = &self.engine;
        let unread = !engine.again.is_empty();
        let busy = !engine.closed.is_empty() || !engine.dirty.is_empty();
        if busy || (unread && !self.app.is_overloaded()) || !self.door.may_sleep() {
            return Some(Duration::ZERO);
        }
        if unread {
            return Some(BREATH);
        }
        let wake = match (engine.wheel.next_wake(), self.app.next_wake()) {
            (Some(a), Some(b)) => a.min(b),
            (a, b) => a.or(b)?,
        };
        Some(Duration::from_micros(
            wake.saturating_sub(engine.clock.now()),
        ))
    }

    fn tell_closed(&mut self) {
        let mut closed = std::mem::take(&mut self.engine.closed);
        for (slot, reason) in closed.drain(..) {
            self.app.closed(&mut self.engine, slot, reason);
            if let Some(conn) = self.engine.conns.get_mut(slot) {
                conn.told = true;
                if conn.gone {
                    self.engine.forget(slot);
                }
            }
        }
    }

    fn read_again(&mut self, slot: u32) {
        let Some(conn) = self.engine.conns.get(slot) else {
            return;
        };
        match (&conn.transport, conn.phase) {
            (Transport::WebSocket(_), _) => self.readable(slot),
            (Transport::Polling(_), Phase::Open) => self.resume_polling(slot),
            (Transport::Polling(_), Phase::Closing(_)) => {}
        }
    }
}

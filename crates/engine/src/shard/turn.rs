//! One turn of a shard, as a function of what the poller tells and of the time; and the
//! loop that waits between turns.
//!
//! A turn hears (reads what is ready, decodes, runs handlers to their first wait), fires
//! deadlines, works off the mailbox, and writes to a slice of those who have something to
//! write ([`writes`](super::writes)). It is bounded in each of these, and reads no clock.

use std::io;
use std::ops::ControlFlow;
use std::time::Duration;

use heartline_wire::id::Slot;
use heartline_wire::time::Micros;
use mio::event::Event;
use mio::{Events, Poll};

use crate::app::App;
use crate::clock::Clock;
use crate::shard::arrivals::LISTENER;
use crate::shard::conn::{Phase, Transport};
use crate::shard::gather::Gather;
use crate::shard::probe::PROBE;
use crate::shard::writes::{LONG, SLICE};
use crate::shard::{Shard, ShardMessage, WAKER};

/// Most connections that one turn hears of.
pub(crate) const EVENTS: usize = 1024;
/// Rounds of mailbox and closures before output leaves; what comes later has
/// its turn next.
pub(super) const ROUNDS: usize = 16;
/// What is sent to connections for the mailbox before output leaves, in messages: they take some
/// milliseconds. One publication to a large room is as many, and a mailbox has room for sixteen
/// thousand; what is left is worked off first in the next turn.
pub(super) const GIVEN_PER_TURN: usize = 65_536;
/// How long an overloaded gateway's shard sleeps before it looks again.
const OVERLOAD_PAUSE: Duration = Duration::from_millis(1);

/// What the poller tells of one connection.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Readiness {
    pub(crate) token: usize,
    pub(crate) readable: bool,
    pub(crate) writable: bool,
    /// The peer has closed, or the socket has failed: told once.
    pub(crate) ended: bool,
}

impl From<&Event> for Readiness {
    fn from(event: &Event) -> Self {
        Readiness {
            token: event.token().0,
            readable: event.is_readable(),
            writable: event.is_writable(),
            ended: event.is_read_closed() || event.is_error(),
        }
    }
}

impl<A: App> Shard<A> {
    /// Turns until it is told to stop.
    pub(super) fn run(&mut self, poll: &mut Poll, clock: Clock) {
        let mut events = Events::with_capacity(EVENTS);
        let mut gather = Gather::default();
        loop {
            let asked = clock.now();
            let timeout = self.idle_until(asked).map(|until| until - asked);
            if let Err(error) = poll.poll(&mut events, timeout) {
                if error.kind() == io::ErrorKind::Interrupted {
                    continue;
                }
                tracing::error!(%error, "the poller of a shard failed");
            }
            let now = clock.now();
            let connections = events.iter().map(|event| event.token());
            let connections = connections.filter(|token| *token != WAKER);
            let goes_on = gather.told(connections.map(|token| token.0), asked, now);
            let told = events.iter().map(Readiness::from);
            if self.turn(told, asked, now).is_break() {
                return;
            }
            if let (Some(time), true) = (goes_on, self.engine.writes.is_empty()) {
                let until = clock.now() + time;
                while clock.now() < until {
                    std::hint::spin_loop();
                }
                gather.waited(time);
            }
        }
    }

    /// One turn. The poller was asked at `asked` and told `events`; it is `now`.
    pub(crate) fn turn(
        &mut self,
        events: impl Iterator<Item = Readiness>,
        asked: Micros,
        now: Micros,
    ) -> ControlFlow<()> {
        self.mailbox.0.awake();
        let had_line = self.engine.writes.many() > 0;
        self.engine.begin_turn(now);
        self.hear(events, asked);
        self.engine.conns.use_again();
        self.fire();
        self.work_off()?;
        self.app.turn(&mut self.engine);
        self.write_alone();
        // Who publishes more than once says so in the next microseconds: a long line that has
        // just formed waits for one look at the poller, and gets both in one write.
        if had_line || self.engine.writes.many() < LONG {
            self.write_to_many();
        }
        self.mailbox.0.load.store(
            self.engine.connections(),
            std::sync::atomic::Ordering::Relaxed,
        );
        ControlFlow::Continue(())
    }

    /// Reads what has come, unless too much waits to be worked off.
    fn hear(&mut self, events: impl Iterator<Item = Readiness>, asked: Micros) {
        self.go_on_with_newcomers();
        let overloaded = self.app.is_overloaded();
        // Whoever is among them is read once, also if an event tells of it as well.
        let mut again = match overloaded {
            true => Vec::new(),
            false => std::mem::take(&mut self.engine.again),
        };
        let mut told = 0;
        for event in events {
            told += 1;
            if event.token == WAKER.0 {
                continue;
            }
            if event.token & PROBE != 0 {
                self.probe_readable(Slot((event.token & !PROBE) as u32));
                continue;
            }
            if event.token & LISTENER != 0 {
                self.accept(event.token);
                continue;
            }
            let slot = Slot(event.token as u32);
            if event.writable {
                self.engine.writable(slot);
            }
            if event.ended {
                if let Some(conn) = self.engine.conns.get_mut(slot) {
                    conn.hup = true;
                }
            }
            if event.readable || event.ended {
                let Some(conn) = self.engine.conns.get_mut(slot) else {
                    self.arrival_readable(slot, event.ended);
                    continue;
                };
                if !overloaded && !conn.again {
                    self.readable(slot);
                    continue;
                }
                // Nobody tells of it again. The read to come may begin with bytes that were
                // kept, and one of these may pause the connection.
                conn.unread = true;
                self.engine.read_later(slot);
            }
        }
        if overloaded {
            return;
        }
        for slot in again.drain(..) {
            self.read_again(slot);
        }
        // What asks for one more read by now has it in the next turn.
        again.append(&mut self.engine.again);
        self.engine.again = again;
        // With a full list there may be more of which the poller has not told.
        if told < EVENTS && !self.has_enough() {
            self.engine.heard_until = asked;
        }
    }

    /// Whether what was heard in this turn has made the shard so much to do that it hears no
    /// more before it has done that.
    pub(super) fn has_enough(&self) -> bool {
        self.mailbox.is_overloaded()
    }

    /// Acts on the deadlines that have come.
    fn fire(&mut self) {
        self.engine.fire();
        while let Some(slot) = self.engine.nobody_due.pop() {
            self.has_not_asked(slot);
        }
        while let Some(slot) = self.engine.app_due.pop() {
            if self.engine.conn(slot).is_some() {
                self.app.deadline(&mut self.engine, slot);
            }
        }
    }

    /// Does what others ask, until the mailbox is quiet or has had its share of the turn.
    fn work_off(&mut self) -> ControlFlow<()> {
        self.engine.works_off = true;
        self.engine.given = 0;
        for _ in 0..ROUNDS {
            let mut quiet = true;
            let was_left = !self.batch.is_empty();
            if !was_left {
                // What these said before they ended is answered, or the answers are in the mailbox.
                self.answered = self.engine.endings.len();
            }
            if was_left || self.mailbox.0.take(&mut self.batch) {
                quiet = false;
                self.work_off_batch()?;
            }
            if !self.engine.closed.is_empty() {
                quiet = false;
                self.tell_closed();
            }
            if self.has_given_enough() || (quiet && self.answered == 0) {
                break;
            }
            // Whoever needs more than a turn keeps nobody from leaving.
            if quiet || was_left {
                self.end_the_answered();
            }
        }
        // Nor does whoever has a share of each turn.
        if self.batch.is_empty() {
            self.end_the_answered();
        }
        self.engine.works_off = !self.batch.is_empty();
        self.engine.is_behind = self.has_given_enough();
        ControlFlow::Continue(())
    }

    fn work_off_batch(&mut self) -> ControlFlow<()> {
        while let Some(message) = self.batch.next() {
            match message {
                ShardMessage::App(op) => self.app.op(&mut self.engine, op),
                ShardMessage::Http(request) => self.request(request),
                ShardMessage::Listen(listening) => self.listen(listening),
                ShardMessage::ListenNoMore(id, closed) => self.listen_no_more(id, closed),
                ShardMessage::Arrived(arrival) => self.arrived(arrival),
                ShardMessage::Stop => return ControlFlow::Break(()),
            }
            if self.has_given_enough() {
                break;
            }
        }
        self.mailbox.0.keep(&mut self.batch);
        ControlFlow::Continue(())
    }

    /// Whether connections were sent so much in this turn that it goes on before the mailbox does.
    fn has_given_enough(&self) -> bool {
        self.engine.given >= GIVEN_PER_TURN
    }

    /// Ends those whose peers have ended them, and who have been answered.
    fn end_the_answered(&mut self) {
        self.engine
            .end_the_ended(std::mem::take(&mut self.answered));
    }

    /// Writes to a slice of those who have something of their own to write.
    fn write_alone(&mut self) {
        let mut written = 0;
        while written < SLICE {
            match self.engine.writes.pop_alone() {
                Some(slot) => written += usize::from(self.engine.write_in_turn(slot)),
                None => break,
            }
        }
    }

    /// Writes to a slice of those who have to write what is for many.
    fn write_to_many(&mut self) {
        let mut written = 0;
        while written < SLICE {
            match self.engine.writes.pop_with_many() {
                Some(slot) => written += usize::from(self.engine.write_in_turn(slot)),
                None => break,
            }
        }
    }

    /// Until when the poller may sleep; `None`: until something comes.
    pub(crate) fn idle_until(&mut self, now: Micros) -> Option<Micros> {
        let engine = &self.engine;
        let unread = !engine.again.is_empty();
        let hears = unread || !engine.doubtful.is_empty();
        let ending = !engine.closed.is_empty() || !engine.endings.is_empty();
        let busy = ending || !engine.writes.is_empty() || !self.batch.is_empty();
        if busy || (hears && !self.app.is_overloaded()) || !self.mailbox.0.may_sleep() {
            return Some(now);
        }
        if unread {
            return Some(now + OVERLOAD_PAUSE);
        }
        let wakes = [
            engine.next_wake(),
            self.app.next_wake(),
            self.arrivals.next_wake(),
        ];
        wakes.into_iter().flatten().min()
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

    fn read_again(&mut self, slot: Slot) {
        let Some(conn) = self.engine.conns.get_mut(slot) else {
            return;
        };
        conn.again = false;
        match (&conn.transport, conn.phase) {
            (Transport::WebSocket(_), _) => self.readable(slot),
            (Transport::Polling(_), Phase::Open) => self.resume_polling(slot),
            (Transport::Polling(_), Phase::Closing(_)) => {}
        }
    }
}

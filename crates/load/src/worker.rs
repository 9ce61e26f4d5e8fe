//! One thread of the client: a poller and its share of the connections.

use std::io;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::time::Duration;

use hdrhistogram::Histogram;
use heartline_wire::ws::{Message, Role};
use mio::{Events, Interest, Poll, Token};

use crate::conn::{Conn, Link, Stage};
use crate::flights::Arrivals;
use crate::http;
use crate::plan::{Plan, Protocol, Scenario};
use crate::shared::{Phase, Shared, WAKER};
use crate::speech::{Heard, Speech};

const READ_BUFFER: usize = 256 * 1024;
const EVENTS: usize = 1024;
/// The largest message that is taken from a server.
const MAX_MESSAGE: usize = 64 << 20;
/// Longest wait for an event: deadlines are that coarse.
const MAX_SLEEP: Duration = Duration::from_millis(50);
/// A publication that is this old will not be received by all any more.
const STALLED: u64 = 5_000_000;
/// Longest latency that is told from longer ones, microseconds.
const LONGEST: u64 = 120_000_000;

pub(crate) fn histogram() -> Histogram<u64> {
    match Histogram::new_with_bounds(1, LONGEST, 3) {
        Ok(histogram) => histogram,
        Err(error) => unreachable!("these bounds are good: {error}"),
    }
}

/// Why a connection is no more.
enum End {
    Failed(String),
    Closed(Option<u16>),
}

pub(crate) struct Worker<'a> {
    shared: &'a Shared<'a>,
    plan: &'a Plan,
    speech: Speech,
    number: usize,
    poll: Poll,
    conns: Vec<Option<Conn>>,
    /// Slots that may be begun (churn uses them again).
    free: Vec<usize>,
    connecting: usize,
    begun: u64,
    dirty: Vec<usize>,
    phase: Phase,
    now: u64,
    buffer: Vec<u8>,
    text: String,
    arrivals: Arrivals,
    /// This thread's places: generation of their publications, and when they left.
    sent: Vec<(u64, u64)>,
    due: f64,
    turns: usize,
    checked: u64,
    histogram: Histogram<u64>,
    operations: u64,
    expected: u64,
    received: u64,
}

impl<'a> Worker<'a> {
    pub(crate) fn new(shared: &'a Shared<'a>, number: usize, poll: Poll) -> Self {
        let plan = shared.plan;
        let own = (number..plan.connections).step_by(plan.threads).count();
        Worker {
            shared,
            plan,
            speech: Speech::new(plan),
            number,
            poll,
            conns: (0..own).map(|_| None).collect(),
            free: (0..own).rev().collect(),
            connecting: 0,
            begun: 0,
            dirty: Vec::new(),
            phase: Phase::Connecting,
            now: 0,
            buffer: vec![0; READ_BUFFER],
            text: String::new(),
            arrivals: Arrivals::new(&shared.flights),
            sent: vec![(0, 0); shared.flights.places()],
            due: 0.0,
            turns: 0,
            checked: 0,
            histogram: histogram(),
            operations: 0,
            expected: 0,
            received: 0,
        }
    }

    /// Until the run is over; then what it has measured.
    pub(crate) fn run(mut self) -> Histogram<u64> {
        let mut events = Events::with_capacity(EVENTS);
        loop {
            // A poller that fails has nothing more to tell.
            if let Err(error) = self.poll.poll(&mut events, Some(self.sleep())) {
                if error.kind() != io::ErrorKind::Interrupted {
                    return self.histogram;
                }
            }
            self.now = self.shared.now();
            self.follow_phase();
            if self.phase == Phase::Over {
                return self.histogram;
            }
            for event in &events {
                if event.token() == WAKER {
                    continue;
                }
                let (slot, post) = (event.token().0 / 2, event.token().0 % 2 == 1);
                if event.is_writable() {
                    self.mark(slot);
                }
                if event.is_readable() || event.is_read_closed() || event.is_error() {
                    self.readable(slot, post);
                }
            }
            self.take_landed();
            self.publish_due();
            self.begin_some();
            self.check_deadlines();
            while let Some(slot) = self.dirty.pop() {
                self.flush(slot);
            }
            self.tell();
        }
    }

    fn sleep(&self) -> Duration {
        if self.publishes_by_rate() && self.phase >= Phase::Running {
            let left = (self.due - self.now as f64).max(0.0) / 1000.0;
            // Rounded down: the poller's clock has milliseconds.
            return Duration::from_millis(left as u64).min(MAX_SLEEP);
        }
        MAX_SLEEP
    }

    /// Adds what this turn has seen to what all have seen.
    fn tell(&mut self) {
        for (own, all) in [
            (&mut self.operations, &self.shared.operations),
            (&mut self.expected, &self.shared.expected),
            (&mut self.received, &self.shared.received),
        ] {
            if *own > 0 {
                all.fetch_add(std::mem::take(own), Ordering::Relaxed);
            }
        }
    }

    fn follow_phase(&mut self) {
        let phase = self.shared.phase();
        if phase == self.phase {
            return;
        }
        let before = std::mem::replace(&mut self.phase, phase);
        if before < Phase::Running && phase >= Phase::Running {
            self.due = self.now as f64;
            self.start();
        }
        if phase == Phase::Draining && self.plan.scenario == Scenario::Slow {
            // What became of those who did not read is read now.
            for slot in 0..self.conns.len() {
                if let Some(conn) = &mut self.conns[slot] {
                    if std::mem::take(&mut conn.deaf) {
                        self.readable(slot, false);
                    }
                }
            }
        }
    }

    /// The scenario begins.
    fn start(&mut self) {
        match self.plan.scenario {
            Scenario::Echo => {
                for slot in 0..self.conns.len() {
                    if self.is_ready(slot) {
                        for _ in 0..self.plan.in_flight {
                            self.send_echo(slot);
                        }
                    }
                }
            }
            Scenario::Broadcast if !self.publishes_by_rate() => {
                for room in self.own_rooms() {
                    let places = self.shared.flights.of_room(room);
                    let first = match self.plan.publishers {
                        1 => places.len(),
                        _ => 1,
                    };
                    places.take(first).for_each(|place| self.launch(place));
                }
            }
            _ => {}
        }
    }

    fn is_ready(&self, slot: usize) -> bool {
        self.conns[slot]
            .as_ref()
            .is_some_and(|conn| conn.stage == Stage::Ready)
    }

    // --- connections -----------------------------------------------------

    fn index(&self, slot: usize) -> usize {
        slot * self.plan.threads + self.number
    }

    fn begin_some(&mut self) {
        let churn = self.plan.scenario == Scenario::Churn;
        if self.phase >= Phase::Draining || (churn && self.phase < Phase::Running) {
            return;
        }
        let at_once = self.plan.concurrency.div_ceil(self.plan.threads);
        let rate = u64::from(self.plan.connect_rate);
        while self.connecting < at_once {
            if rate > 0 && self.begun * 1_000_000 * self.plan.threads as u64 / rate > self.now {
                return;
            }
            let Some(&slot) = self.free.last() else {
                return;
            };
            if self.index(slot) >= self.shared.allowed.load(Ordering::Relaxed) {
                return;
            }
            self.free.pop();
            self.begun += 1;
            self.begin(slot);
        }
    }

    fn begin(&mut self, slot: usize) {
        let index = self.index(slot);
        let token = (self.shared.tokens)(index);
        self.connecting += 1;
        let registry = self.poll.registry();
        let both = Interest::READABLE | Interest::WRITABLE;
        let sources = &self.shared.sources;
        let tls = self.shared.tls.as_ref();
        let conn = Conn::begin(self.plan, index, sources, tls, token.as_deref(), self.now);
        let begun = conn.and_then(|mut conn| {
            match &mut conn.link {
                Link::WebSocket(websocket) => {
                    registry.register(&mut websocket.channel.stream, Token(slot * 2), both)?;
                }
                Link::Polling(polling) => {
                    registry.register(&mut polling.get.stream, Token(slot * 2), both)?;
                    registry.register(&mut polling.post.stream, Token(slot * 2 + 1), both)?;
                }
            }
            Ok(conn)
        });
        match begun {
            Ok(conn) => self.conns[slot] = Some(conn),
            Err(error) => {
                self.connecting -= 1;
                self.failed(&error.to_string());
            }
        }
    }

    fn failed(&self, why: &str) {
        self.shared.failed.fetch_add(1, Ordering::Relaxed);
        let mut failures = self
            .shared
            .failures
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if failures.len() < 32 || failures.contains_key(why) {
            *failures.entry(why.to_owned()).or_default() += 1;
        }
    }

    fn end(&mut self, slot: usize, end: End) {
        let Some(conn) = self.conns[slot].take() else {
            return;
        };
        match (conn.stage, end) {
            (Stage::Connecting | Stage::Joining, end) => {
                self.connecting -= 1;
                self.failed(&match end {
                    End::Failed(why) => why,
                    End::Closed(Some(code)) => format!("closed with {code}"),
                    End::Closed(None) => "closed without a word".into(),
                });
                if self.plan.scenario == Scenario::Churn {
                    self.free.push(slot);
                }
            }
            (Stage::Ready, end) => {
                self.shared.ready.fetch_sub(1, Ordering::Relaxed);
                self.shared.disconnected.fetch_add(1, Ordering::Relaxed);
                if let Some(room) = self.plan.room(conn.index) {
                    if !self.plan.is_slow(conn.index) {
                        self.shared.flights.remove_member(room);
                        self.arrivals.remove_member(room);
                    }
                }
                if let End::Closed(Some(code)) = end {
                    let mut codes = self
                        .shared
                        .close_codes
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner);
                    *codes.entry(code).or_default() += 1;
                }
            }
            (Stage::Leaving, _) => {
                self.connecting -= 1;
                self.free.push(slot);
            }
        }
    }

    fn check_deadlines(&mut self) {
        if self.now < self.checked + 250_000 {
            return;
        }
        self.checked = self.now;
        let timeout = self.plan.connect_timeout.as_micros() as u64;
        if self.connecting > 0 {
            for slot in 0..self.conns.len() {
                let late = self.conns[slot]
                    .as_ref()
                    .filter(|conn| conn.begun + timeout < self.now)
                    .map(|conn| conn.stage);
                let missing = match late {
                    None | Some(Stage::Ready) => continue,
                    Some(Stage::Joining) => "join was not acknowledged in time",
                    Some(Stage::Connecting | Stage::Leaving) => "no answer in time",
                };
                self.end(slot, End::Failed(missing.into()));
            }
        }
        if matches!(self.phase, Phase::Running | Phase::Measuring)
            && self.plan.scenario == Scenario::Broadcast
            && !self.publishes_by_rate()
        {
            for room in self.own_rooms() {
                for place in self.shared.flights.of_room(room) {
                    let (generation, left) = self.sent[place];
                    if generation > 0 && left + STALLED < self.now {
                        self.launch(place);
                    }
                }
            }
        }
    }

    fn mark(&mut self, slot: usize) {
        if let Some(conn) = self.conns.get_mut(slot).and_then(Option::as_mut) {
            if !std::mem::replace(&mut conn.dirty, true) {
                self.dirty.push(slot);
            }
        }
    }

    fn say(&mut self, slot: usize) {
        if let Some(conn) = &mut self.conns[slot] {
            conn.say(&self.text);
        }
        self.mark(slot);
    }

    /// Says what is measured: it waits for nothing else if it is to be a write of its own.
    fn say_event(&mut self, slot: usize) {
        self.say(slot);
        if self.plan.apart {
            self.flush(slot);
        }
    }

    fn flush(&mut self, slot: usize) {
        let Some(conn) = &mut self.conns[slot] else {
            return;
        };
        conn.dirty = false;
        if let Err(error) = conn.flush(self.plan) {
            self.end(slot, End::Failed(error.to_string()));
        }
    }

    // --- what comes in ---------------------------------------------------

    fn readable(&mut self, slot: usize, post: bool) {
        let mut buffer = std::mem::take(&mut self.buffer);
        while let Some(conn) = self.conns.get_mut(slot).and_then(Option::as_mut) {
            if conn.deaf {
                break;
            }
            let channel = match &mut conn.link {
                Link::WebSocket(websocket) => &mut websocket.channel,
                Link::Polling(polling) if post => &mut polling.post,
                Link::Polling(polling) => &mut polling.get,
            };
            match channel.read(&mut buffer) {
                Ok(None) => {
                    if channel.wants_flush() {
                        self.mark(slot);
                    }
                    break;
                }
                Ok(Some((0, _))) => {
                    self.end(slot, End::Closed(None));
                    break;
                }
                Ok(Some((n, more))) => {
                    self.now = self.shared.now();
                    self.take_in(slot, post, &mut buffer[..n]);
                    if !more {
                        break;
                    }
                }
                Err(error) => {
                    self.end(slot, End::Failed(error.to_string()));
                    break;
                }
            }
        }
        self.buffer = buffer;
    }

    fn take_in(&mut self, slot: usize, post: bool, input: &mut [u8]) {
        let taken = match self.conns[slot].as_mut().map(|conn| &mut conn.link) {
            Some(Link::WebSocket(websocket)) if websocket.head.is_some() => {
                self.take_head(slot, input)
            }
            Some(Link::WebSocket(_)) => self.take_frames(slot, input),
            Some(Link::Polling(_)) => self.take_response(slot, post, input),
            None => Ok(()),
        };
        if let Err(end) = taken {
            self.end(slot, end);
        }
    }

    /// The response to a WebSocket's handshake.
    fn take_head(&mut self, slot: usize, input: &[u8]) -> Result<(), End> {
        let Some(Conn {
            link: Link::WebSocket(websocket),
            ..
        }) = &mut self.conns[slot]
        else {
            return Ok(());
        };
        let Some(mut head) = websocket.head.take() else {
            return Ok(());
        };
        head.extend_from_slice(input);
        match http::take(&mut head) {
            Ok(None) => {
                websocket.head = Some(head);
                Ok(())
            }
            Ok(Some(response)) if response.status == 101 => {
                if self.plan.protocol == Protocol::Raw {
                    self.connected(slot);
                }
                self.take_frames(slot, &mut head)
            }
            Ok(Some(response)) => Err(End::Failed(format!("HTTP {}", response.status))),
            Err(http::Malformed) => Err(End::Failed("the answer is no HTTP".into())),
        }
    }

    fn take_frames(&mut self, slot: usize, input: &mut [u8]) -> Result<(), End> {
        let Some(Conn {
            link: Link::WebSocket(websocket),
            ..
        }) = &mut self.conns[slot]
        else {
            return Ok(());
        };
        let mut decoder = std::mem::take(&mut websocket.decoder);
        let mut rest = input;
        let taken = loop {
            match decoder.decode(&mut rest, Role::Client, MAX_MESSAGE) {
                Ok(None) => break Ok(()),
                Ok(Some(Message::Text(text))) => {
                    if let Err(end) = self.message(slot, text) {
                        break Err(end);
                    }
                }
                Ok(Some(Message::Ping(payload))) => {
                    if let Some(Link::WebSocket(websocket)) =
                        self.conns[slot].as_mut().map(|conn| &mut conn.link)
                    {
                        websocket.pong(payload);
                    }
                    self.mark(slot);
                }
                Ok(Some(Message::Close(close))) => {
                    break Err(End::Closed(close.map(|close| close.code)));
                }
                Ok(Some(Message::Binary(_) | Message::Pong(_) | Message::Compressed { .. })) => {}
                Err(error) => break Err(End::Failed(error.to_string())),
            }
        };
        if let Some(Link::WebSocket(websocket)) =
            self.conns[slot].as_mut().map(|conn| &mut conn.link)
        {
            websocket.decoder = decoder;
        }
        taken
    }

    /// Responses to GETs and POSTs.
    fn take_response(&mut self, slot: usize, post: bool, input: &[u8]) -> Result<(), End> {
        let mut first = true;
        loop {
            let Some(Conn {
                link: Link::Polling(polling),
                stage,
                ..
            }) = &mut self.conns[slot]
            else {
                return Ok(());
            };
            let pending = if post {
                &mut polling.post_input
            } else {
                &mut polling.get_input
            };
            if std::mem::take(&mut first) {
                pending.extend_from_slice(input);
            }
            let response = match http::take(pending) {
                Ok(None) => return Ok(()),
                Ok(Some(response)) => response,
                Err(http::Malformed) => return Err(End::Failed("the answer is no HTTP".into())),
            };
            if response.status != 200 {
                return Err(End::Failed(format!("HTTP {}", response.status)));
            }
            if post {
                polling.posting = false;
                if *stage == Stage::Leaving && polling.packets.is_empty() {
                    return Err(End::Closed(None));
                }
                self.mark(slot);
                continue;
            }
            let Ok(payload) = String::from_utf8(response.body) else {
                return Err(End::Failed("a payload is not UTF-8".into()));
            };
            for packet in payload.split('\x1e') {
                self.message(slot, packet)?;
            }
            if let Some(Conn {
                link: Link::Polling(polling),
                ..
            }) = &mut self.conns[slot]
            {
                if polling.ask(self.plan).is_err() {
                    return Ok(());
                }
            }
            self.mark(slot);
        }
    }

    fn message(&mut self, slot: usize, text: &str) -> Result<(), End> {
        match self.speech.hear(text) {
            Heard::Event(number, due) => self.delivery(slot, number, due),
            Heard::Ack(left) => self.acknowledged(slot, left),
            Heard::Ping => {
                self.text.clear();
                self.text.push('3');
                self.say(slot);
            }
            Heard::Open(sid) => {
                if let Some(Conn {
                    index,
                    link: link @ Link::Polling(_) | link @ Link::WebSocket(_),
                    ..
                }) = &mut self.conns[slot]
                {
                    if let Link::Polling(polling) = link {
                        sid.clone_into(&mut polling.sid);
                    }
                    let token = (self.shared.tokens)(*index);
                    self.text.clear();
                    self.speech.connect(token.as_deref(), &mut self.text);
                    self.say(slot);
                }
            }
            Heard::Connected => self.connected(slot),
            Heard::Joined => {
                if self.conns[slot]
                    .as_ref()
                    .is_some_and(|conn| conn.stage == Stage::Joining)
                {
                    self.ready(slot);
                }
            }
            Heard::Refused(why) => {
                let ready = self.is_ready(slot);
                if !ready {
                    return Err(End::Failed(why));
                }
                self.failed(&why);
            }
            Heard::Closed => return Err(End::Closed(None)),
            Heard::Other => {}
        }
        Ok(())
    }

    // --- what it leads to ------------------------------------------------

    fn connected(&mut self, slot: usize) {
        let Some(conn) = &mut self.conns[slot] else {
            return;
        };
        if conn.stage != Stage::Connecting {
            return;
        }
        let churn = self.plan.scenario == Scenario::Churn;
        match self.plan.room(conn.index) {
            Some(room) if !churn => {
                conn.stage = Stage::Joining;
                self.text.clear();
                self.speech.join(room, &mut self.text);
                self.say(slot);
            }
            _ => self.ready(slot),
        }
    }

    fn ready(&mut self, slot: usize) {
        let Some(conn) = &mut self.conns[slot] else {
            return;
        };
        if self.plan.scenario == Scenario::Churn {
            let took = self.now.saturating_sub(conn.begun);
            conn.stage = Stage::Leaving;
            match &mut conn.link {
                Link::WebSocket(websocket) => websocket.close(),
                Link::Polling(_) => conn.say("1"),
            }
            self.mark(slot);
            self.measure(took);
            return;
        }
        conn.stage = Stage::Ready;
        conn.deaf = self.plan.is_slow(conn.index);
        self.connecting -= 1;
        self.shared.ready.fetch_add(1, Ordering::Relaxed);
        if let Some(room) = self.plan.room(conn.index) {
            if !conn.deaf {
                self.shared.flights.add_member(room);
                self.arrivals.add_member(room);
            }
        }
    }

    fn measure(&mut self, took: u64) {
        if self.phase == Phase::Measuring {
            self.operations += 1;
            self.histogram.saturating_record(took.max(1));
        }
    }

    fn send_echo(&mut self, slot: usize) {
        self.text.clear();
        self.speech.echo(self.now, &mut self.text);
        self.expected += 1;
        self.say_event(slot);
    }

    fn acknowledged(&mut self, slot: usize, left: u64) {
        self.received += 1;
        self.measure(self.now.saturating_sub(left));
        if self.plan.scenario == Scenario::Echo
            && matches!(self.phase, Phase::Running | Phase::Measuring)
        {
            self.send_echo(slot);
        }
    }

    fn delivery(&mut self, slot: usize, number: u64, due: u64) {
        // What a member that had stopped reading finds later is not counted.
        let slow = self.plan.scenario == Scenario::Slow
            && self.conns[slot]
                .as_ref()
                .is_some_and(|conn| self.plan.is_slow(conn.index));
        if slow {
            return;
        }
        self.received += 1;
        self.measure(self.now.saturating_sub(due));
        if self.publishes_by_rate() {
            return;
        }
        let flights = &self.shared.flights;
        let arrived = self.arrivals.delivery(flights, number);
        self.begin_next(number);
        if let Some((place, count)) = arrived {
            if flights.arrived(place, count) {
                let owner = flights.room(place) % self.plan.threads;
                if owner == self.number {
                    self.landed(place);
                } else {
                    self.shared.mailboxes[owner].post_landed(place);
                }
            }
        }
    }

    // --- publications ----------------------------------------------------

    /// Publishers who know nothing of each other do not begin together: the next place of
    /// a room begins when the one before it has reached its share of the members.
    fn begin_next(&mut self, number: u64) {
        let flights = &self.shared.flights;
        let place = (number % flights.places() as u64) as usize;
        let places = flights.of_room(flights.room(place));
        let next = place + 1;
        if self.plan.publishers == 1 || next == places.end || self.sent[next].0 > 0 {
            return;
        }
        let (reached, members) = self.arrivals.of_place(flights, place);
        let running = matches!(self.phase, Phase::Running | Phase::Measuring);
        let own = flights.room(place) % self.plan.threads == self.number;
        if running && own && reached as usize * places.len() >= members as usize {
            self.launch(next);
        }
    }

    fn publishes_by_rate(&self) -> bool {
        self.plan.publish_rate > 0.0
    }

    /// The rooms whose first member, their publisher, is of this thread.
    fn own_rooms(&self) -> impl Iterator<Item = usize> + use<> {
        (self.number..self.plan.rooms).step_by(self.plan.threads)
    }

    fn take_landed(&mut self) {
        for place in self.shared.mailboxes[self.number].take_landed() {
            self.landed(place);
        }
    }

    fn landed(&mut self, place: usize) {
        if matches!(self.phase, Phase::Running | Phase::Measuring) {
            self.launch(place);
        }
    }

    fn launch(&mut self, place: usize) {
        let flights = &self.shared.flights;
        let (generation, left) = &mut self.sent[place];
        *generation += 1;
        *left = self.now;
        let number = *generation * flights.places() as u64 + place as u64;
        self.expected += u64::from(flights.begin(place));
        let room = flights.room(place);
        let publisher = self
            .plan
            .publisher(room, place - flights.of_room(room).start);
        self.publish(room, publisher, number, self.now);
    }

    fn publish(&mut self, room: usize, publisher: usize, number: u64, due: u64) {
        self.text.clear();
        self.speech.publish(room, number, due, &mut self.text);
        self.say_event(publisher / self.plan.threads);
    }

    /// Publications that are due by the rate.
    fn publish_due(&mut self) {
        let running = matches!(self.phase, Phase::Running | Phase::Measuring);
        let scenario = matches!(self.plan.scenario, Scenario::Broadcast | Scenario::Slow);
        let rooms = self.own_rooms().count();
        if !running || !scenario || !self.publishes_by_rate() || rooms == 0 {
            return;
        }
        let share = rooms as f64 / self.plan.rooms as f64;
        let gap = 1e6 / (self.plan.publish_rate * share);
        while self.due <= self.now as f64 {
            let room = self.number + (self.turns % rooms) * self.plan.threads;
            self.turns += 1;
            self.expected += u64::from(self.shared.flights.members(room));
            let publisher = self.plan.publisher(room, self.turns / rooms);
            self.publish(room, publisher, self.turns as u64, self.due as u64);
            self.due += gap;
        }
    }
}

//! A shard without a thread, for tests: its connections are socket pairs, its clock is
//! moved by hand, and what HTTP would ask of it is asked directly.
//!
//! The poller is the real one, asked without waiting, so what a turn hears is what a
//! shard's thread would hear. Bytes go through the kernel's socket pairs, which deliver
//! at once: nothing in a test has to wait, and each test says which moment it is.
//!
//! What goes wrong in the harness itself panics: it stands in tests alone.

use std::cell::RefCell;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Shutdown};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use heartline_wire::engineio::RequestError;
use heartline_wire::id::Sid;
use heartline_wire::time::Micros;
use heartline_wire::ws::deflate::Inflater;
use heartline_wire::ws::{self, Decoder, Message, OpCode, Role};
use mio::{Events, Poll};
use socket2::{Domain, Socket, Type};
use tokio::sync::oneshot;
use tokio::sync::oneshot::error::TryRecvError;

use crate::app::App;
use crate::clock::Clock;
use crate::shard::engine::{Engine, Settings};
use crate::shard::heartbeat::HeartbeatTiming;
use crate::shard::request::{Handshake, PostStart, Protocol, Reply, Request, RequestId, Upgraded};
use crate::shard::turn::{EVENTS, Readiness};
use crate::shard::{Shard, ShardHandle};
use crate::slots::ConnectionSlots;

/// Turns without moving the clock after which something never comes to rest.
const RESTLESS: usize = 100_000;
/// Most that one read of a peer takes.
const CHUNK: usize = 1 << 20;

thread_local! {
    static BUFFER: RefCell<Vec<u8>> = RefCell::new(vec![0; CHUNK]);
}

/// What tests start from: a ping every 25 s with 20 s to answer it, messages and queues of
/// up to 1 MB, an upgrade within 10 s, no compression.
pub fn settings() -> Settings {
    Settings {
        heartbeat_timing: HeartbeatTiming {
            interval: Duration::from_secs(25),
            timeout: Duration::from_secs(20),
        },
        max_payload: 1_000_000,
        max_first_payload: 1_000_000,
        send_buffer: 1_000_000,
        upgrade_timeout: Duration::from_secs(10),
        compress_from: usize::MAX,
        tag: None,
    }
}

/// A shard without a thread.
pub struct Harness<A: App> {
    shard: Shard<A>,
    poll: Poll,
    events: Events,
    now: Micros,
    slots: Arc<ConnectionSlots>,
    requests: RequestId,
}

/// What one turn did.
#[derive(Debug, Clone, Copy)]
pub struct Turned {
    /// Connections (and the mailbox's waker) of which the poller told.
    pub heard: usize,
    /// Places in line of connections that are still to be written to.
    pub in_line: usize,
    /// Until when the shard would sleep now; `None`: until something comes.
    pub until: Option<Micros>,
    /// The shard has been told to stop.
    pub stopped: bool,
}

/// How a WebSocket comes to the shard.
#[derive(Debug)]
pub struct Opening {
    /// What it speaks.
    pub protocol: Protocol,
    /// Asked for binary as base64 (`b64=1`).
    pub base64: bool,
    /// The window of permessage-deflate, if that was negotiated.
    pub deflate: Option<u8>,
    /// What HTTP has still to say.
    pub preface: Vec<u8>,
    /// What HTTP has read too much.
    pub leftover: Vec<u8>,
    /// What is known of the client.
    pub handshake: Handshake,
    /// The client's address.
    pub ip: IpAddr,
    /// About so many bytes wait in the kernel for a peer that does not read; the
    /// kernel's default if `None`.
    pub kernel_buffer: Option<usize>,
    /// A socket that keeps each write apart, so that [`Peer::chunks`] counts writes. What
    /// is sent to it either way must be small.
    pub counts_writes: bool,
}

impl Opening {
    /// A plain WebSocket.
    pub fn plain() -> Self {
        Opening {
            protocol: Protocol::Plain,
            base64: false,
            deflate: None,
            preface: Vec::new(),
            leftover: Vec::new(),
            handshake: Handshake::default(),
            ip: Ipv4Addr::LOCALHOST.into(),
            kernel_buffer: None,
            counts_writes: false,
        }
    }

    /// An Engine.IO session over WebSocket from the beginning, or what upgrades one.
    pub fn engineio() -> Self {
        Opening {
            protocol: Protocol::EngineIo,
            ..Opening::plain()
        }
    }

    fn connect(&mut self) -> (Upgraded, Peer) {
        let kind = match self.counts_writes {
            true => Type::SEQPACKET,
            false => Type::STREAM,
        };
        let (near, far) = Socket::pair(Domain::UNIX, kind, None).expect("two descriptors");
        for socket in [&near, &far] {
            socket.set_nonblocking(true).expect("a fresh socket");
        }
        // As much as the kernel lets it be: a client may send faster than it is read.
        let _ = far.set_send_buffer_size(CHUNK);
        if let Some(bytes) = self.kernel_buffer {
            near.set_send_buffer_size(bytes).expect("a fresh socket");
        }
        let preface = std::mem::take(&mut self.preface);
        let peer = Peer {
            socket: far,
            preface: preface.clone(),
            decoder: Decoder::default(),
            inflater: Inflater::default(),
            deflate: self.deflate.is_some(),
            unsent: Vec::new(),
            chunks: 0,
            compressed: 0,
            ended: false,
        };
        let upgraded = Upgraded {
            tcp: OwnedFd::from(near).into(),
            tls: None,
            preface,
            leftover: std::mem::take(&mut self.leftover).into(),
            deflate: self.deflate,
        };
        (upgraded, peer)
    }
}

/// An Engine.IO session that began by polling.
#[derive(Debug, Clone, Copy)]
pub struct Session {
    /// Its name.
    pub name: Sid,
}

/// A request of the HTTP side and its answer, once there is one.
#[derive(Debug)]
pub struct Asked {
    id: RequestId,
    reply: oneshot::Receiver<Reply>,
}

/// What a polling request is answered with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// 200 and this payload.
    Payload(String),
    /// 200 `ok`, to a POST.
    Accepted,
    /// This status and no body.
    Status(u16),
    /// The protocol's own error.
    Error(RequestError),
    /// The session ended while the request waited: to HTTP, that of an unknown `sid`.
    Ended,
}

impl From<Reply> for Answer {
    fn from(reply: Reply) -> Self {
        match reply {
            Reply::Payload(payload) => {
                Answer::Payload(String::from_utf8(payload).expect("payloads are text"))
            }
            Reply::Accepted => Answer::Accepted,
            Reply::Status(status) => Answer::Status(status),
            Reply::Error(error) => Answer::Error(error),
        }
    }
}

impl Asked {
    /// The answer, `None` while there is none. It is told once.
    pub fn answer(&mut self) -> Option<Answer> {
        match self.reply.try_recv() {
            Ok(reply) => Some(reply.into()),
            Err(TryRecvError::Empty) => None,
            Err(TryRecvError::Closed) => Some(Answer::Ended),
        }
    }
}

/// A POST whose body has not come yet.
#[derive(Debug)]
pub struct Posting {
    id: RequestId,
    start: oneshot::Receiver<PostStart>,
    /// The answer, if the session ends before the body has come.
    ended: Option<oneshot::Receiver<Reply>>,
}

impl Posting {
    /// Whether the body may be read, or what the request is answered with; `None` while
    /// that is not decided. It is told once.
    pub fn start(&mut self) -> Option<Result<(), Answer>> {
        match self.start.try_recv() {
            Ok(PostStart::Read(_, ended)) => {
                self.ended = Some(ended);
                Some(Ok(()))
            }
            Ok(PostStart::Refuse(reply)) => Some(Err(reply.into())),
            Err(TryRecvError::Empty) => None,
            Err(TryRecvError::Closed) => Some(Err(Answer::Ended)),
        }
    }

    /// What HTTP answers before the body has come, because the session has ended; `None` while
    /// it is to be read. It is told once.
    pub fn answer(&mut self) -> Option<Answer> {
        match self.ended.as_mut()?.try_recv() {
            Ok(reply) => Some(reply.into()),
            Err(TryRecvError::Empty) => None,
            Err(TryRecvError::Closed) => Some(Answer::Ended),
        }
    }
}

impl<A: App> Harness<A> {
    /// A shard with the number 0 that carries what `make` makes of the way to it. A second
    /// has passed on its clock.
    pub fn new(settings: Settings, make: impl FnOnce(&ShardHandle<A::Op>) -> A) -> Self {
        let now = Micros(1_000_000);
        let poll = Poll::new().expect("a poller");
        let handle = ShardHandle::new(poll.registry()).expect("a waker");
        let registry = poll.registry().try_clone().expect("the poller again");
        let engine = Engine::new(0, Clock::start(), now, Arc::new(settings), registry);
        let app = make(&handle);
        Harness {
            shard: Shard::new(engine, app, handle),
            poll,
            events: Events::with_capacity(EVENTS),
            now,
            slots: ConnectionSlots::new(None, None),
            requests: 0,
        }
    }

    // --- what it consists of ---------------------------------------------

    /// What the shard carries.
    pub fn app(&mut self) -> &mut A {
        &mut self.shard.app
    }

    /// The connections.
    pub fn engine(&mut self) -> &mut Engine {
        self.both().0
    }

    /// The connections and what is above them, at the present moment.
    pub fn both(&mut self) -> (&mut Engine, &mut A) {
        self.shard.engine.now = self.now;
        (&mut self.shard.engine, &mut self.shard.app)
    }

    /// The way to the shard.
    pub fn handle(&self) -> ShardHandle<A::Op> {
        self.shard.mailbox.clone()
    }

    /// The places that its connections take.
    pub fn slots(&self) -> &Arc<ConnectionSlots> {
        &self.slots
    }

    /// Counts the connections from now on in `slots`, as a gateway's shards do in one.
    pub fn count_in(&mut self, slots: Arc<ConnectionSlots>) {
        self.slots = slots;
    }

    // --- time ------------------------------------------------------------

    /// The present moment.
    pub fn now(&self) -> Micros {
        self.now
    }

    /// Lets time pass, in which the shard does nothing.
    pub fn advance(&mut self, time: Duration) {
        self.now += time;
    }

    /// One turn.
    pub fn turn(&mut self) -> Turned {
        self.turn_after(Duration::ZERO)
    }

    /// One turn whose process stands still for `frozen` when the poller has told what
    /// there is.
    pub fn turn_after(&mut self, frozen: Duration) -> Turned {
        let asked = self.now;
        while let Err(error) = self.poll.poll(&mut self.events, Some(Duration::ZERO)) {
            assert_eq!(error.kind(), io::ErrorKind::Interrupted);
        }
        self.now += frozen;
        let events = self.events.iter().map(Readiness::from);
        let stopped = self.shard.turn(events, asked, self.now).is_break();
        Turned {
            heard: self.events.iter().count(),
            in_line: self.shard.engine.writes.len(),
            until: self.shard.idle_until(self.now),
            stopped,
        }
    }

    /// What the poller has to tell, which the shard does not hear.
    #[cfg(test)]
    pub(crate) fn told(&mut self) -> Vec<Readiness> {
        while let Err(error) = self.poll.poll(&mut self.events, Some(Duration::ZERO)) {
            assert_eq!(error.kind(), io::ErrorKind::Interrupted);
        }
        self.events.iter().map(Readiness::from).collect()
    }

    /// One turn that is told `events`, of a poller that was asked at `asked`.
    #[cfg(test)]
    pub(crate) fn turn_told(&mut self, events: impl Iterator<Item = Readiness>, asked: Micros) {
        let _ = self.shard.turn(events, asked, self.now);
    }

    /// Turns until there is nothing left to do at this moment; how often.
    pub fn settle(&mut self) -> usize {
        for turns in 1..=RESTLESS {
            let turned = self.turn();
            let busy = turned.until.is_some_and(|until| until <= self.now);
            if turned.stopped || (turned.heard == 0 && !busy) {
                return turns;
            }
        }
        panic!("it does not come to rest");
    }

    /// Lets time pass until the moment `end`, with a turn whenever the shard would wake.
    pub fn run_until(&mut self, end: Micros) {
        loop {
            self.settle();
            match self.shard.idle_until(self.now) {
                Some(until) if until <= end => self.now = until,
                _ => break,
            }
        }
        self.now = self.now.max(end);
        self.settle();
    }

    /// Lets `time` pass, with a turn whenever the shard would wake.
    pub fn run(&mut self, time: Duration) {
        self.run_until(self.now + time);
    }

    // --- what HTTP does --------------------------------------------------

    /// Opens a WebSocket as HTTP does; the shard takes it in its next turn.
    pub fn websocket(&mut self, mut opening: Opening) -> Peer {
        let (upgraded, peer) = opening.connect();
        let guard = self.slots.take(opening.ip).expect("there is no bound");
        self.shard.mailbox.request(Request::OpenWebSocket {
            protocol: opening.protocol,
            base64: opening.base64,
            upgraded,
            handshake: opening.handshake,
            guard,
        });
        peer
    }

    /// Asks for a polling session; the answer is its open packet.
    pub fn open_polling(&mut self, base64: bool, handshake: Handshake) -> Asked {
        let guard = self.slots.take(Ipv4Addr::LOCALHOST.into());
        let guard = guard.expect("there is no bound");
        self.ask(|reply, _| Request::OpenPolling {
            base64,
            handshake,
            guard,
            reply,
        })
    }

    /// Opens a polling session, in a turn.
    pub fn polling(&mut self) -> Session {
        let mut asked = self.open_polling(false, Handshake::default());
        self.turn();
        match asked.answer() {
            Some(Answer::Payload(payload)) => Session::of(&payload),
            other => panic!("no session: {other:?}"),
        }
    }

    /// A GET of the session.
    pub fn get(&mut self, session: Session) -> Asked {
        let name = session.name;
        self.ask(|reply, id| Request::Get { name, id, reply })
    }

    /// A POST of the session, its body at once.
    pub fn post(&mut self, session: Session, body: &str) -> Asked {
        let posting = self.post_begins(session);
        self.post_body(session, &posting, body.as_bytes())
    }

    /// The head of a POST.
    pub fn post_begins(&mut self, session: Session) -> Posting {
        self.requests += 1;
        let id = self.requests;
        let (reply, start) = oneshot::channel();
        let name = session.name;
        self.shard
            .mailbox
            .request(Request::PostBegins { name, id, reply });
        Posting {
            id,
            start,
            ended: None,
        }
    }

    /// The body of a POST that has begun.
    pub fn post_body(&mut self, session: Session, posting: &Posting, body: &[u8]) -> Asked {
        let (sender, reply) = oneshot::channel();
        self.shard.mailbox.request(Request::Post {
            name: session.name,
            id: posting.id,
            body: Bytes::copy_from_slice(body),
            reply: sender,
        });
        let id = posting.id;
        Asked { id, reply }
    }

    /// A POST that has begun is refused by its size.
    pub fn post_refused(&mut self, session: Session, posting: &Posting) {
        self.shard.mailbox.request(Request::PostRefused {
            name: session.name,
            id: posting.id,
        });
    }

    /// The connection of a request goes away, unanswered.
    pub fn abort(&mut self, session: Session, asked: Asked) {
        let id = asked.id;
        drop(asked);
        let name = session.name;
        self.shard.mailbox.request(Request::Aborted { name, id });
    }

    /// The connection of a POST goes away before its body has come.
    pub fn abort_post(&mut self, session: Session, posting: &Posting) {
        self.shard.mailbox.request(Request::Aborted {
            name: session.name,
            id: posting.id,
        });
    }

    /// Whether the session is there, in a turn.
    pub fn exists(&mut self, session: Session) -> bool {
        let (reply, mut exists) = oneshot::channel();
        let name = session.name;
        self.shard.mailbox.request(Request::Exists { name, reply });
        self.turn();
        exists.try_recv().expect("it is answered in one turn")
    }

    /// A WebSocket that wants to take over from the session's polling.
    pub fn upgrade(&mut self, session: Session, mut opening: Opening) -> Peer {
        let (upgraded, peer) = opening.connect();
        let name = session.name;
        self.shard
            .mailbox
            .request(Request::Upgrade { name, upgraded });
        peer
    }

    fn ask(&mut self, make: impl FnOnce(oneshot::Sender<Reply>, RequestId) -> Request) -> Asked {
        self.requests += 1;
        let id = self.requests;
        let (sender, reply) = oneshot::channel();
        self.shard.mailbox.request(make(sender, id));
        Asked { id, reply }
    }
}

impl Session {
    /// The session that an open packet tells of.
    ///
    /// # Panics
    /// When the payload is none.
    pub fn of(payload: &str) -> Self {
        let name = payload
            .strip_prefix("0{\"sid\":\"")
            .and_then(|rest| rest.split('"').next())
            .and_then(Sid::decode)
            .unwrap_or_else(|| panic!("no open packet: {payload}"));
        Session { name }
    }
}

/// What a peer was told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Told {
    /// A text message, inflated if it came compressed.
    Text(String),
    /// A binary message, inflated if it came compressed.
    Binary(Vec<u8>),
    /// A ping frame.
    Ping(Vec<u8>),
    /// A pong frame.
    Pong(Vec<u8>),
    /// A close frame with its code; 1005 if it has none.
    Close(u16),
    /// The stream has ended.
    End,
}

impl Told {
    /// A text message.
    pub fn text(text: impl Into<String>) -> Self {
        Told::Text(text.into())
    }
}

/// The client's end of a WebSocket. Dropping it closes the socket without a word.
pub struct Peer {
    socket: Socket,
    /// What HTTP has still to say to it.
    preface: Vec<u8>,
    decoder: Decoder,
    inflater: Inflater,
    /// permessage-deflate was negotiated.
    deflate: bool,
    /// What the kernel has not taken yet.
    unsent: Vec<u8>,
    chunks: usize,
    compressed: usize,
    ended: bool,
}

impl Peer {
    /// Says a text message.
    pub fn text(&mut self, text: &str) {
        self.frame(OpCode::Text, text.as_bytes());
    }

    /// Says a binary message.
    pub fn binary(&mut self, bytes: &[u8]) {
        self.frame(OpCode::Binary, bytes);
    }

    /// Sends a ping frame.
    pub fn ping(&mut self, payload: &[u8]) {
        self.frame(OpCode::Ping, payload);
    }

    /// Sends a pong frame.
    pub fn pong(&mut self) {
        self.frame(OpCode::Pong, b"");
    }

    /// Sends a close frame.
    pub fn close(&mut self, code: u16) {
        self.frame(OpCode::Close, &code.to_be_bytes());
    }

    fn frame(&mut self, opcode: OpCode, payload: &[u8]) {
        let mut bytes = Vec::new();
        ws::push_masked_frame(opcode, payload, MASK, &mut bytes);
        self.raw(&bytes);
    }

    /// Sends bytes as they are. What the kernel does not take now goes with the next call
    /// of the peer.
    pub fn raw(&mut self, bytes: &[u8]) {
        self.unsent.extend_from_slice(bytes);
        while !self.unsent.is_empty() {
            match (&self.socket).write(&self.unsent) {
                Ok(taken) => drop(self.unsent.drain(..taken)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                // Nobody is there any more, as reading will tell.
                Err(_) => self.unsent.clear(),
            }
        }
    }

    /// Bytes that the kernel has not taken yet.
    pub fn unsent(&self) -> usize {
        self.unsent.len()
    }

    /// Ends the stream to the server without a close frame; the other way stays.
    pub fn end(&mut self) {
        self.socket
            .shutdown(Shutdown::Write)
            .expect("the socket is connected");
    }

    /// What has come since it was last asked, without waiting.
    ///
    /// # Panics
    /// When it is not the HTTP response that was announced, and frames that are right.
    pub fn read(&mut self) -> Vec<Told> {
        let mut told = Vec::new();
        while self.read_some(&mut told) {}
        told
    }

    /// The same in at most one read.
    ///
    /// # Panics
    /// As [`Peer::read`].
    pub fn read_once(&mut self) -> Vec<Told> {
        let mut told = Vec::new();
        self.read_some(&mut told);
        told
    }

    /// What has come since it was last asked, which must be text messages alone.
    ///
    /// # Panics
    /// When something else has come.
    pub fn texts(&mut self) -> Vec<String> {
        let told = self.read().into_iter();
        told.map(|told| match told {
            Told::Text(text) => text,
            other => panic!("not a text message: {other:?}"),
        })
        .collect()
    }

    /// Reads so far that got something: writes, where [`Opening::counts_writes`].
    pub fn chunks(&self) -> usize {
        self.chunks
    }

    /// Messages so far that came compressed.
    pub fn compressed(&self) -> usize {
        self.compressed
    }

    fn read_some(&mut self, told: &mut Vec<Told>) -> bool {
        self.raw(&[]);
        if self.ended {
            return false;
        }
        BUFFER.with_borrow_mut(|buffer| match (&self.socket).read(buffer) {
            Ok(n) if n > 0 => {
                self.chunks += 1;
                let http = self.preface.len().min(n);
                assert_eq!(buffer[..http], self.preface[..http], "HTTP's last words");
                self.preface.drain(..http);
                self.decode(&mut buffer[http..n], told);
                true
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => false,
            _ => {
                self.ended = true;
                told.push(Told::End);
                false
            }
        })
    }

    fn decode(&mut self, mut bytes: &mut [u8], told: &mut Vec<Told>) {
        loop {
            let found =
                self.decoder
                    .decode_extended(&mut bytes, Role::Client, self.deflate, usize::MAX);
            told.push(match found.expect("frames are right") {
                None => return,
                Some(Message::Text(text)) => Told::text(text),
                Some(Message::Binary(bytes)) => Told::Binary(bytes.to_vec()),
                Some(Message::Ping(payload)) => Told::Ping(payload.to_vec()),
                Some(Message::Pong(payload)) => Told::Pong(payload.to_vec()),
                Some(Message::Close(frame)) => Told::Close(frame.map_or(1005, |frame| frame.code)),
                Some(Message::Compressed { text, payload }) => {
                    self.compressed += 1;
                    let mut whole = Vec::new();
                    let inflated = self.inflater.inflate(payload, usize::MAX, &mut whole);
                    inflated.expect("it was compressed");
                    match text {
                        true => Told::Text(String::from_utf8(whole).expect("text is UTF-8")),
                        false => Told::Binary(whole),
                    }
                }
            });
        }
    }
}

/// Masks need not be random where nothing is between the ends.
pub const MASK: [u8; 4] = [1, 2, 3, 4];

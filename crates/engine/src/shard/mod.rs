//! One shard: its connections, what it carries above them, its mailbox, and its thread.

pub(crate) mod arrivals;
pub mod conn;
mod deadlines;
mod ends;
pub mod engine;
pub mod frames;
pub(crate) mod gather;
pub mod heartbeat;
pub(crate) mod listener;
pub mod mailbox;
pub(crate) mod newcomers;
pub mod outbound;
pub(crate) mod pieces;
pub(crate) mod polling;
pub(crate) mod probe;
mod receipt;
pub mod request;
pub(crate) mod requests;
pub(crate) mod stream;
#[cfg(test)]
mod tests;
pub(crate) mod turn;
pub(crate) mod websocket;
pub(crate) mod wheel;
pub(crate) mod writes;

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use mio::{Poll, Registry, Token};
use tokio::sync::oneshot;

use crate::app::App;
use crate::clock::Clock;
use crate::failure::Failure;
use crate::shard::engine::{Engine, Settings};
use crate::shard::mailbox::{Batch, Mailbox};
use crate::shard::newcomers::{Arrival, Arrivals, Listening};
use crate::shard::request::Request;
use crate::tasks::guarded;

/// One read of a connection goes into this, whoever's it is.
pub(crate) const READ_BUFFER: usize = 64 * 1024;
/// What the mailbox's waker is called at the poller.
pub(crate) const WAKER: Token = Token(usize::MAX);

/// What other threads, and handlers, tell a shard.
pub(crate) enum ShardMessage<Op> {
    /// From the HTTP front.
    Http(Request),
    /// For what the shard carries.
    App(Op),
    /// One more socket to accept from.
    Listen(Listening),
    /// One less, by its id; the sender is dropped when its descriptor is closed.
    ListenNoMore(usize, oneshot::Sender<()>),
    /// Whom another shard has accepted.
    Arrived(Arrival),
    /// The thread ends; its connections with it.
    Stop,
}

/// The way to a shard, from any thread. Cheap to clone.
pub struct ShardHandle<Op>(pub(crate) Arc<Mailbox<ShardMessage<Op>>>);

impl<Op> Clone for ShardHandle<Op> {
    fn clone(&self) -> Self {
        ShardHandle(self.0.clone())
    }
}

impl<Op> ShardHandle<Op> {
    /// A mailbox whose pushes wake the poller of `registry`.
    pub(crate) fn new(registry: &Registry) -> io::Result<Self> {
        let mailbox = Mailbox::new(mio::Waker::new(registry, WAKER)?);
        Ok(ShardHandle(Arc::new(mailbox)))
    }

    /// Asks something of what the shard carries, which holds `bytes` of payload. Never
    /// waits, and is never refused: the bound is upstream ([`is_overloaded`](Self::is_overloaded)).
    #[inline]
    pub fn post(&self, op: Op, bytes: usize) {
        self.0.push_with(ShardMessage::App(op), bytes);
    }

    /// Whether nothing waits of what the caller knows to have been posted: by itself, or by
    /// whoever it has heard from since.
    #[inline]
    pub fn is_quiet(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether the shard has more to work off than it should: nobody is to read from
    /// clients while it has.
    #[inline]
    pub fn is_overloaded(&self) -> bool {
        self.0.is_high()
    }

    /// Hands a newcomer on.
    pub(crate) fn hand_on(&self, arrival: Arrival) {
        // Until the shard tells itself: of many who come at once, not all are for it.
        self.0.load.fetch_add(1, Ordering::Relaxed);
        self.0.push(ShardMessage::Arrived(arrival));
    }

    /// Connections that the shard had after its last turn, those included who have not asked for
    /// anything yet: most of them will.
    pub fn connections(&self) -> usize {
        self.0.load.load(Ordering::Relaxed)
    }

    /// Ends the shard's thread, its connections with it.
    pub fn stop(&self) {
        self.0.push(ShardMessage::Stop);
    }

    /// Asks on behalf of HTTP.
    pub(crate) fn request(&self, request: Request) {
        self.0.push(ShardMessage::Http(request));
    }
}

/// The connections of one thread and what they carry.
pub(crate) struct Shard<A: App> {
    pub(crate) engine: Engine,
    pub(crate) app: A,
    pub(crate) read_buffer: Vec<u8>,
    /// A message that came compressed.
    pub(crate) inflated: Vec<u8>,
    /// Bytes of such messages that the connection which is being read has brought in this
    /// turn.
    pub(crate) inflated_now: usize,
    pub(crate) mailbox: ShardHandle<A::Op>,
    pub(crate) arrivals: Arrivals,
    /// What the mailbox had, being worked off.
    batch: Batch<ShardMessage<A::Op>>,
    /// Of those whose peers have ended them, how many are answered when that is done.
    answered: usize,
}

impl<A: App> Shard<A> {
    pub(crate) fn new(engine: Engine, app: A, mailbox: ShardHandle<A::Op>) -> Self {
        Shard {
            engine,
            app,
            read_buffer: vec![0; READ_BUFFER],
            inflated: Vec::new(),
            inflated_now: 0,
            mailbox,
            arrivals: Arrivals::default(),
            batch: Batch::default(),
            answered: 0,
        }
    }
}

/// A shard that has its poller and mailbox, but no thread yet.
pub struct Prepared<A: App> {
    poll: Poll,
    /// The way to it.
    pub handle: ShardHandle<A::Op>,
}

impl<A: App> Prepared<A> {
    /// Makes the poller and the mailbox.
    ///
    /// # Errors
    /// When the operating system refuses.
    pub fn new() -> io::Result<Self> {
        let poll = Poll::new()?;
        let handle = ShardHandle::new(poll.registry())?;
        Ok(Prepared { poll, handle })
    }

    /// Starts the shard's thread, within the control runtime's context so that
    /// handlers may use its timers and sockets. `failure` is told if a panic ends it.
    ///
    /// # Errors
    /// When the operating system refuses a thread.
    pub fn start(
        self,
        number: u16,
        clock: Clock,
        settings: Arc<Settings>,
        runtime: tokio::runtime::Handle,
        app: A,
        failure: &Failure,
    ) -> io::Result<std::thread::JoinHandle<()>> {
        let registry = self.poll.registry().try_clone()?;
        let engine = Engine::new(number, clock, clock.now(), settings, registry);
        let mut shard = Shard::new(engine, app, self.handle);
        let mut poll = self.poll;
        let failure = failure.clone();
        std::thread::Builder::new()
            .name(format!("shard-{number}"))
            .spawn(move || {
                let _runtime = runtime.enter();
                if guarded(|| shard.run(&mut poll, clock)).is_none() {
                    // What the panic left behind may be broken: nothing of it is touched.
                    std::mem::forget(shard);
                    failure.report(number);
                }
            })
    }
}

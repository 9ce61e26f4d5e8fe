//! The transport layer by itself: Engine.IO 4 over polling and WebSocket, with
//! heartbeats, the upgrade, and bounded buffers, but no Socket.IO on top. Plain
//! WebSockets as well, where a path is given for them.
//!
//! ```no_run
//! # extern crate heartline_engine as heartline;
//! use heartline::engineio::{Connection, Handler, Message, Options, Server};
//!
//! struct Echo;
//! impl Handler for Echo {
//!     fn message(&self, connection: &Connection, message: Message) {
//!         connection.send(message);
//!     }
//! }
//!
//! # async fn run() -> Result<(), Box<dyn std::error::Error>> {
//! let server = Server::new(Options::default(), Echo)?;
//! let listener = tokio::net::TcpListener::bind("127.0.0.1:8080").await?;
//! server.serve(listener).await?;
//! # Ok(())
//! # }
//! ```

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use heartline_wire::handshake::Handshake;
use heartline_wire::id::{ConnId, Sid, Slot};
use heartline_wire::reason::Reason;
use heartline_wire::ws;
use hyper::header::HeaderMap;
use hyper::{Request, Response};
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::app::{App, Data};
use crate::clock::Clock;
use crate::failure::Failure;
use crate::http::cors::AllowedOrigins;
use crate::http::front::{Gatekeeper, HttpFront, HttpParts, HttpSettings};
use crate::http::token::TokenPlaces;
use crate::shard::engine::{Engine, Settings};
use crate::shard::heartbeat::HeartbeatTiming;
use crate::shard::request::{self, Protocol};
use crate::shard::{Prepared, ShardHandle};
use crate::slots::ConnectionSlots;
use crate::tasks::guarded;

/// Smallest response to a polling request that is compressed, bytes, as on Node.
const HTTP_COMPRESSION: usize = 1024;

/// A message of either kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// Text.
    Text(String),
    /// Binary.
    Binary(Bytes),
}

/// What an app does with connections. Calls about a connection come on the thread that owns
/// it, in order, and must not block it.
pub trait Handler: Send + Sync + 'static {
    /// Looks at the first request of a connection: lets it in, with headers for the
    /// response (cookies, say), or answers in its place. Called on the HTTP side; a panic is
    /// answered with 500.
    fn admits(&self, _request: &Request<()>) -> Result<HeaderMap, Box<Response<Bytes>>> {
        Ok(HeaderMap::new())
    }
    /// A connection has begun.
    fn opened(&self, _connection: &Connection) {}
    /// A message has come.
    fn message(&self, connection: &Connection, message: Message);
    /// The connection is over.
    fn closed(&self, _connection: &Connection, _reason: Reason) {}
}

/// Settings of a [`Server`].
#[derive(Debug, Clone)]
pub struct Options {
    /// Path of the endpoint, with both slashes.
    pub path: String,
    /// Path of plain WebSockets beside it: no Engine.IO packets, messages as they
    /// are, heartbeats by ping frames.
    pub websocket_path: Option<String>,
    /// Time between pings.
    pub ping_interval: Duration,
    /// Time a client has to answer one.
    pub ping_timeout: Duration,
    /// Largest message, bytes.
    pub max_payload: usize,
    /// Smallest message that is compressed, bytes, where the client offers
    /// permessage-deflate (RFC 7692); `None` to decline every offer.
    pub compression: Option<usize>,
    /// Bound on what waits for one slow client, bytes.
    pub send_buffer: usize,
    /// How long an upgrade may take.
    pub upgrade_timeout: Duration,
    /// Origins from which browsers may connect.
    pub allowed_origins: AllowedOrigins,
    /// Threads; 0 means one per core.
    pub worker_threads: usize,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            path: "/engine.io/".into(),
            websocket_path: None,
            ping_interval: Duration::from_secs(25),
            ping_timeout: Duration::from_secs(20),
            max_payload: 1_000_000,
            compression: None,
            send_buffer: 1_000_000,
            upgrade_timeout: Duration::from_secs(10),
            allowed_origins: AllowedOrigins::default(),
            worker_threads: 0,
        }
    }
}

/// A handle to one connection; cheap to clone, usable from any thread, and
/// without effect once the connection is over.
#[derive(Clone)]
pub struct Connection {
    handshake: Arc<Handshake>,
    shard: ShardHandle<Order>,
    id: ConnId,
    secret: [u8; 12],
    remote: IpAddr,
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection")
            .field("remote", &self.remote)
            .finish_non_exhaustive()
    }
}

impl Connection {
    /// The connection's `sid`. It is a secret of its client: whoever has it can
    /// act for it.
    pub fn sid(&self) -> String {
        let name = Sid {
            conn: self.id,
            namespace: 0,
            secret: self.secret,
        };
        name.encode()
    }

    /// The request by which it began.
    pub fn handshake(&self) -> &Handshake {
        &self.handshake
    }

    /// The client's address.
    pub fn remote_addr(&self) -> IpAddr {
        self.remote
    }

    /// Sends a message.
    pub fn send(&self, message: Message) {
        let bytes = match &message {
            Message::Text(text) => text.len(),
            Message::Binary(bytes) => bytes.len(),
        };
        self.shard.post(Order::Send(self.id, message), bytes);
    }

    /// Ends the connection.
    pub fn close(&self) {
        self.shard.post(Order::Close(self.id), 0);
    }
}

enum Order {
    Send(ConnId, Message),
    Close(ConnId),
}

/// Calls the app; a panic costs what it was called for alone.
fn call(handler: impl FnOnce()) {
    if guarded(handler).is_none() {
        tracing::error!("a handler of a connection panicked");
    }
}

/// Brings a shard's connections to the handler.
struct Relay {
    handler: Arc<dyn Handler>,
    shard: ShardHandle<Order>,
    connections: Vec<Option<Connection>>,
}

impl App for Relay {
    type Op = Order;

    fn opened(&mut self, engine: &mut Engine, slot: Slot, begun: request::Handshake) {
        let (Some(id), Some(conn)) = (engine.id(slot), engine.conn(slot)) else {
            return;
        };
        let connection = Connection {
            handshake: begun.request.unwrap_or_default(),
            shard: self.shard.clone(),
            id,
            secret: conn.secret,
            remote: conn.guard.ip(),
        };
        if self.connections.len() <= slot.index() {
            self.connections.resize_with(slot.index() + 1, || None);
        }
        call(|| self.handler.opened(&connection));
        self.connections[slot.index()] = Some(connection);
    }

    fn message(&mut self, _: &mut Engine, slot: Slot, data: Data<'_>) {
        if let Some(Some(connection)) = self.connections.get(slot.index()) {
            let message = match data {
                Data::Text(text) => Message::Text(text.to_owned()),
                Data::Binary(bytes) => Message::Binary(Bytes::copy_from_slice(bytes)),
            };
            call(|| self.handler.message(connection, message));
        }
    }

    fn closed(&mut self, _: &mut Engine, slot: Slot, reason: Reason) {
        let connection = self
            .connections
            .get_mut(slot.index())
            .and_then(Option::take);
        if let Some(connection) = connection {
            call(|| self.handler.closed(&connection, reason));
        }
    }

    fn deadline(&mut self, _: &mut Engine, _: Slot) {}

    fn plain_binary(&self) -> bool {
        true
    }

    fn op(&mut self, engine: &mut Engine, order: Order) {
        match order {
            Order::Send(id, message) => {
                if let Some(slot) = engine.find(id) {
                    let plain =
                        engine.conn(slot).map(|conn| conn.protocol) == Some(Protocol::Plain);
                    engine.send_with(slot, |out| match message {
                        Message::Text(text) if plain => {
                            ws::push_frame(ws::OpCode::Text, text.as_bytes(), out);
                        }
                        Message::Text(text) => {
                            ws::push_header(ws::OpCode::Text, text.len() + 1, out);
                            out.push(b'4');
                            out.extend_from_slice(text.as_bytes());
                        }
                        Message::Binary(bytes) => ws::push_frame(ws::OpCode::Binary, &bytes, out),
                    });
                }
            }
            Order::Close(id) => {
                if let Some(slot) = engine.find(id) {
                    engine.close(slot, Reason::Kicked);
                }
            }
        }
    }
}

/// An Engine.IO endpoint.
pub struct Server {
    front: Arc<HttpFront<Order>>,
    draining: watch::Sender<bool>,
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Server")
    }
}

impl Server {
    /// Starts the threads. Call it within a tokio runtime.
    ///
    /// # Errors
    /// When threads or pollers cannot be made.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn new(options: Options, handler: impl Handler) -> io::Result<Server> {
        let handler: Arc<dyn Handler> = Arc::new(handler);
        let settings = Arc::new(settings(&options));
        let threads = match options.worker_threads {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            threads => threads,
        };
        let clock = Clock::start();
        let runtime = tokio::runtime::Handle::current();
        let failure = Failure::default();
        let mut shards = Vec::new();
        for number in 0..threads {
            let prepared = Prepared::<Relay>::new()?;
            let relay = Relay {
                handler: handler.clone(),
                shard: prepared.handle.clone(),
                connections: Vec::new(),
            };
            shards.push(prepared.handle.clone());
            prepared.start(
                number as u16,
                clock,
                settings.clone(),
                runtime.clone(),
                relay,
                &failure,
            )?;
        }
        let gatekeeper: Gatekeeper = {
            let handler = handler.clone();
            Arc::new(move |request| {
                let admitted = handler.admits(&request).map_err(|answer| *answer);
                Box::pin(std::future::ready(admitted))
            })
        };
        let (draining, is_draining) = watch::channel(false);
        Ok(Server {
            front: Arc::new(HttpFront::new(
                HttpSettings {
                    engineio_path: options.path,
                    live_path: options.websocket_path,
                    origins: options.allowed_origins,
                    trusted_proxies: Vec::new(),
                    max_body: 0,
                    compression: options.compression.is_some(),
                    http_compression: Some(HTTP_COMPRESSION),
                    client_files: None,
                    keep_handshakes: true,
                    token_places: TokenPlaces::default(),
                },
                HttpParts {
                    shards,
                    slots: ConnectionSlots::new(None, None),
                    fallback: None,
                    connect_limiter: None,
                    gatekeeper: Some(gatekeeper),
                    clock,
                    draining: is_draining,
                    forwarder: None,
                    failure,
                },
            )),
            draining,
        })
    }

    /// Accepts connections until [`stop`](Server::stop).
    ///
    /// # Errors
    /// When a panic has ended one of the threads.
    pub async fn serve(&self, listener: TcpListener) -> io::Result<()> {
        self.front.clone().serve(listener, None).await
    }

    /// Accepts no more connections.
    pub fn stop(&self) {
        self.draining.send_replace(true);
    }
}

/// What the shards have to know of the options.
fn settings(options: &Options) -> Settings {
    Settings {
        heartbeat_timing: HeartbeatTiming {
            interval: options.ping_interval,
            timeout: options.ping_timeout,
        },
        max_payload: options.max_payload,
        // There is nobody here who would let them in.
        max_first_payload: options.max_payload,
        send_buffer: options.send_buffer,
        compress_from: options.compression.unwrap_or(usize::MAX),
        upgrade_timeout: options.upgrade_timeout,
        tag: None,
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.front.stop_shards();
    }
}

//! HTTP in front of the shards: what it is made of, what it knows of who asks, and which shard is
//! theirs. A TCP connection comes by `listen` (or `arrive`, from a shard) and its requests go by
//! `route` to `begin`, where they are to become a connection, or to `session`, where there is one;
//! after the upgrade a socket is HTTP's no more.

use std::io;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use heartline_wire::handshake::Handshake as Head;
use heartline_wire::id::Sid;
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::{Request as HttpRequest, Response};
use ipnet::IpNet;
use tokio::sync::watch;

use crate::clock::Clock;
use crate::failure::Failure;
use crate::http::accept::{AcceptFailures, Door};
use crate::http::client_files::ClientFiles;
use crate::http::cors::{self, AllowedOrigins, Origin};
use crate::http::forward::Forwarder;
use crate::http::remote::{client_address, client_scheme};
use crate::http::served::Asking;
use crate::http::token::{TokenPlaces, token};
use crate::http::upgrade::Reclaim;
use crate::http::visitor::Visitor;
use crate::seldom::Seldom;
use crate::shard::ShardHandle;
use crate::shard::request::Handshake;
use crate::slots::{ConnectionSlots, address_group, canonical_network};
use crate::tasks::BoxFuture;

/// Shortest time between two lines of the log about refused origins.
const ORIGINS_PERIOD: Duration = Duration::from_secs(5);

/// Answers what is neither Socket.IO nor live. The body has at most `max_body` bytes; the
/// extensions have a [`Visitor`].
pub type Fallback =
    Arc<dyn Fn(HttpRequest<Bytes>) -> BoxFuture<Response<Bytes>> + Send + Sync + 'static>;

/// Looks at the first request of a connection: lets it in, with headers for the response,
/// or answers in its place.
pub type Gatekeeper = Arc<
    dyn Fn(HttpRequest<()>) -> BoxFuture<Result<HeaderMap, Response<Bytes>>>
        + Send
        + Sync
        + 'static,
>;

/// Says whether an [address](address_group) may open one more connection now; else after how
/// many milliseconds. Where a shard asks, a refusal is none yet.
pub type ConnectLimiter = Arc<dyn Fn(IpAddr, Asker) -> Result<(), u64> + Send + Sync + 'static>;

/// Who asks whether a connection may be opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asker {
    /// A shard: whom it may not let in it leaves to HTTP, which asks once more.
    Shard,
    /// HTTP, which answers.
    Http,
}

/// What the front has to know of the configuration.
pub struct HttpSettings {
    /// Path of the Engine.IO endpoint, with both slashes.
    pub engineio_path: String,
    /// Path of plain WebSockets; none without it.
    pub live_path: Option<String>,
    /// From where browsers may come.
    pub origins: AllowedOrigins,
    /// Whose `X-Forwarded-For` is believed.
    pub trusted_proxies: Vec<IpNet>,
    /// Largest body of a request for the [`Fallback`], bytes. Whoever asks may be anybody.
    pub max_body: usize,
    /// Whether permessage-deflate is negotiated with clients that offer it.
    pub compression: bool,
    /// Smallest response to a polling request that is compressed, bytes, where the client
    /// takes that; `None` to compress none.
    pub http_compression: Option<usize>,
    /// Folder of the browser client's files; none are served without it.
    pub client_files: Option<PathBuf>,
    /// Whether the head of a connection's first request is kept for the app.
    pub keep_handshakes: bool,
    /// Where a token is looked for besides the `Authorization` header.
    pub token_places: TokenPlaces,
}

/// What the front works with.
pub struct HttpParts<Op> {
    /// Where connections go; at least one.
    pub shards: Vec<ShardHandle<Op>>,
    /// How many there may be.
    pub slots: Arc<ConnectionSlots>,
    /// Who answers what is neither of the two endpoints; 404 without.
    pub fallback: Option<Fallback>,
    /// Counts new connections by address.
    pub connect_limiter: Option<ConnectLimiter>,
    /// Looks at the first request of each connection.
    pub gatekeeper: Option<Gatekeeper>,
    /// Tells the time of handshakes.
    pub clock: Clock,
    /// True once nobody new is let in.
    pub draining: watch::Receiver<bool>,
    /// Where there are other nodes.
    pub forwarder: Option<Forwarder>,
    /// Ends the listener.
    pub failure: Failure,
}

/// The HTTP side of a gateway.
pub struct HttpFront<Op> {
    pub(super) settings: HttpSettings,
    pub(super) parts: HttpParts<Op>,
    /// Numbers requests.
    pub(super) requests: AtomicU64,
    /// Made with the first listener: by then the limit of descriptors is what it will be.
    pub(super) door: OnceLock<Arc<Door>>,
    pub(super) accept_failures: AcceptFailures,
    /// Numbers listeners.
    pub(super) listeners: AtomicUsize,
    pub(super) client_files: ClientFiles,
    foreign_origins: Seldom,
    /// Where the search for the shard with the fewest connections begins.
    next_shard: AtomicUsize,
}

/// Who sends a request.
#[derive(Clone, Copy)]
pub(super) struct Sender {
    pub(super) ip: IpAddr,
    /// A node that hands on what it was asked: this is the owner, or nobody is.
    pub(super) is_node: bool,
    pub(super) tls: bool,
    pub(super) take: Reclaim,
}

impl<Op: Send + 'static> HttpFront<Op> {
    /// A front that serves nobody yet.
    pub fn new(mut settings: HttpSettings, parts: HttpParts<Op>) -> Self {
        settings.origins = settings.origins.normalized();
        for network in &mut settings.trusted_proxies {
            *network = canonical_network(*network);
        }
        HttpFront {
            client_files: ClientFiles::new(settings.client_files.take()),
            settings,
            parts,
            requests: AtomicU64::new(1),
            door: OnceLock::new(),
            accept_failures: AcceptFailures::new(),
            listeners: AtomicUsize::new(0),
            foreign_origins: Seldom::every(ORIGINS_PERIOD),
            next_shard: AtomicUsize::new(0),
        }
    }

    /// Resolves when the thread of a shard has ended by a panic.
    pub async fn failure(&self) -> io::Error {
        self.parts.failure.happens().await
    }

    /// Ends the shards, their connections with them.
    pub fn stop_shards(&self) {
        for shard in &self.parts.shards {
            shard.stop();
        }
    }

    /// Who asks for something of the app's.
    pub(super) fn visitor(&self, request: &HttpRequest<Asking>, sender: Sender) -> Visitor {
        let (headers, trusted) = (request.headers(), &self.settings.trusted_proxies);
        Visitor {
            address: address_group(client_address(sender.ip, headers, trusted)),
            origin: self.judge(headers, sender),
        }
    }

    /// Judges from where a page has come.
    pub(super) fn judge(&self, headers: &HeaderMap, sender: Sender) -> Origin {
        let trusted = &self.settings.trusted_proxies;
        let scheme = client_scheme(sender.ip, sender.tls, headers, trusted);
        cors::judge(headers, &self.settings.origins, scheme)
    }

    /// The same. The log hears of foreign ones, now and then.
    pub(super) fn origin(&self, request: &HttpRequest<Asking>, sender: Sender) -> Origin {
        let origin = self.judge(request.headers(), sender);
        if let Origin::Foreign(name) = &origin {
            if let Some(refused) = self.foreign_origins.speaks_for(self.parts.clock.now()) {
                match name.as_deref().filter(|name| *name != "null") {
                    Some(name) => tracing::warn!(
                        refused,
                        "pages of a foreign origin were refused; \
                         server.allowed_origins = [\"{name:.200}\"] would let them in"
                    ),
                    None => tracing::warn!(
                        refused,
                        "pages without an origin (files, sandboxed frames) were refused; \
                         only server.allowed_origins = [\"*\"] would let all of them in"
                    ),
                }
            }
        }
        origin
    }

    /// What is told of a connection's first request.
    pub(super) fn handshake<B>(&self, request: &HttpRequest<B>, origin: &Origin) -> Handshake {
        let headers = request.headers();
        let agent = headers.get(header::USER_AGENT);
        let agent = agent.and_then(|value| value.to_str().ok());
        let mut handshake = Handshake {
            user_agent: agent.map(|agent| agent[..agent.len().min(256)].into()),
            token: token(request, origin, &self.settings.token_places),
            request: None,
        };
        if self.settings.keep_handshakes {
            let text = |(name, value): (&HeaderName, &HeaderValue)| {
                Some((name.as_str().to_owned(), value.to_str().ok()?.to_owned()))
            };
            let clock = self.parts.clock;
            handshake.request = Some(Arc::new(Head {
                query: request.uri().query().unwrap_or_default().to_owned(),
                headers: request.headers().iter().filter_map(text).collect(),
                at: clock.unix_millis(clock.now()),
            }));
        }
        handshake
    }

    /// The shard that has, or had, a session.
    pub(super) fn shard(&self, name: &Sid) -> Option<&ShardHandle<Op>> {
        self.parts.shards.get(usize::from(name.conn.shard))
    }

    /// The shard for a new connection.
    pub(super) fn least_loaded(&self) -> &ShardHandle<Op> {
        // Loads are told once a turn: among equals, the next in turn.
        let start = self.next_shard.fetch_add(1, Ordering::Relaxed);
        let count = self.parts.shards.len();
        let index = (0..count)
            .map(|step| (start + step) % count)
            .min_by_key(|&index| self.parts.shards[index].connections() / 16)
            .unwrap_or(0);
        &self.parts.shards[index]
    }
}

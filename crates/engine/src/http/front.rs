//! HTTP in front of the shards: handshakes, polling requests, and the upgrade
//! after which a socket is HTTP's no more.
//!
//! What can be refused is refused before the upgrade. Errors carry CORS headers
//! like everything else, or a browser would hide them from its page.

use std::borrow::Cow;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, RawFd};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use heartline_wire::engineio::RequestError;
use heartline_wire::handshake::Handshake as Head;
use heartline_wire::id::Sid;
use http_body_util::{BodyExt, Full};
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::{Method, Request as HttpRequest, Response, StatusCode, Version};
use ipnet::IpNet;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{oneshot, watch};
use tokio_rustls::TlsAcceptor;

use crate::clock::Clock;
use crate::descriptors;
use crate::failure::Failure;
use crate::http::accept::{AcceptFailures, Door, Inside};
use crate::http::answer::{Answer, problem, refusal, reply_to_answer, status, text};
use crate::http::client_files::{self, ClientFiles};
use crate::http::compress::{Coding, accepted, compressed};
use crate::http::cors;
use crate::http::cors::{AllowedOrigins, Origin};
use crate::http::forward::{Forwarder, forward};
use crate::http::remote::{client_address, client_scheme};
use crate::http::served::{self, AT_ONCE, Asking, OWED};
use crate::http::token::{TokenPlaces, token};
use crate::http::upgrade::{Reclaim, TLS, switch, too_old, upgrade_required, wants_upgrade};
use crate::http::visitor::Visitor;
use crate::seldom::Seldom;
use crate::shard::ShardHandle;
use crate::shard::newcomers::HEADER_TIMEOUT;
use crate::shard::request::{Handshake, PostStart, Protocol, Reply, Request, RequestId};
use crate::slots::{ConnectionSlots, Refused, SlotGuard, address_group, canonical_network};
use crate::tasks::{BoxFuture, guarded_wait};

/// How long a POST's body may take.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);
/// Shortest time between two lines of the log about refused origins, µs.
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
    requests: AtomicU64,
    /// Made with the first listener: by then the limit of descriptors is what it will be.
    door: OnceLock<Arc<Door>>,
    pub(super) accept_failures: AcceptFailures,
    /// Numbers listeners.
    pub(super) listeners: AtomicUsize,
    client_files: ClientFiles,
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

/// Bytes of a connection that may wait in the kernel to be sent. The megabytes more that it would take for who does not read are
/// better kept here, where newer events of the same key replace older ones and
/// `server.send_buffer` bounds them all.
const MAX_UNSENT: u32 = 128 << 10;

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

    /// Resolves when no connection speaks HTTP.
    pub async fn no_http(&self) {
        while self.door.get().is_some_and(|door| door.total() > 0) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Accepts connections until the drain begins, and as long as polling
    /// sessions are left: their clients come by new connections, to be told.
    pub async fn serve(
        self: Arc<Self>,
        listener: TcpListener,
        tls: Option<TlsAcceptor>,
    ) -> io::Result<()> {
        // Inherited by what it accepts. Without them, events only arrive later.
        let socket = socket2::SockRef::from(&listener);
        let _ = socket.set_tcp_nodelay(true);
        let _ = socket.set_tcp_notsent_lowat(MAX_UNSENT);
        let mut draining = self.parts.draining.clone();
        let slots = self.parts.slots.clone();
        let failure = self.parts.failure.clone();
        let drained = async move {
            // An error says that the gateway is gone.
            let _ = draining.wait_for(|draining| *draining).await;
            slots.no_polling().await;
        };
        let failed = failure.happens();
        tokio::pin!(drained, failed);
        let accepting = async {
            match tls {
                None => self.accept_by_shards(listener, drained).await,
                Some(tls) => self.accept_tls(listener, tls, drained).await,
            }
        };
        tokio::select! {
            biased;
            error = &mut failed => Err(error),
            done = accepting => done,
        }
    }

    /// Accepts connections that are encrypted: here, since a handshake takes its time.
    async fn accept_tls(
        self: &Arc<Self>,
        listener: TcpListener,
        tls: TlsAcceptor,
        mut drained: impl Future<Output = ()> + Unpin,
    ) -> io::Result<()> {
        loop {
            let accepted = tokio::select! {
                biased;
                () = &mut drained => return Ok(()),
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((tcp, peer)) => self.accepted(tcp, peer.ip(), tls.clone()),
                Err(error) => self.not_accepted(error, "public").await,
            }
        }
    }

    pub(super) async fn not_accepted(&self, error: io::Error, listener: &'static str) {
        let clock = self.parts.clock;
        self.accept_failures.after(error, listener, clock).await;
    }

    /// Lets a connection in with the descriptor `descriptor`, or tells the log why not.
    pub(super) fn let_in(&self, descriptor: RawFd, peer: IpAddr) -> Option<Inside> {
        let sessions = self.parts.slots.max_per_ip();
        let door = self
            .door
            .get_or_init(|| Door::new(descriptors::limit(), sessions));
        let descriptor = usize::try_from(descriptor).unwrap_or(usize::MAX);
        match door.enter(peer, descriptor, &self.settings.trusted_proxies) {
            Ok(inside) => Some(inside),
            Err(why) => {
                door.log(why, peer, self.parts.clock.now());
                None
            }
        }
    }

    fn accepted(self: &Arc<Self>, tcp: TcpStream, peer: IpAddr, tls: TlsAcceptor) {
        let Some(inside) = self.let_in(tcp.as_raw_fd(), peer) else {
            return;
        };
        let front = self.clone();
        tokio::spawn(async move {
            let handshake = tokio::time::timeout(HEADER_TIMEOUT, tls.accept(tcp));
            if let Ok(Ok(stream)) = handshake.await {
                let early = Bytes::new();
                front
                    .connection(stream, early, peer, TLS, inside, HEADER_TIMEOUT)
                    .await;
            }
        });
    }

    /// Speaks HTTP with a connection of which `early` was read. Its first request may take
    /// `patience`.
    pub(super) async fn connection<S>(
        self: &Arc<Self>,
        stream: S,
        early: Bytes,
        peer: IpAddr,
        take: Reclaim,
        inside: Inside,
        patience: Duration,
    ) where
        S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
    {
        let sender = Sender {
            ip: peer,
            is_node: false,
            tls: take.tls,
            take,
        };
        let idle = || inside.patience();
        let owed = |request: &HttpRequest<Asking>| self.owed(request);
        let answer = |request| self.clone().answer(request, sender);
        served::serve(stream, early, patience, idle, owed, answer).await;
    }

    /// How long a client that says no more is still answered. A poll's answer may be a minute in
    /// coming, and who has left meanwhile is to be missed at once.
    pub(super) fn owed<B>(&self, request: &HttpRequest<B>) -> Duration {
        let polls = request.method() == Method::GET
            && request.uri().path() == self.settings.engineio_path
            && Query::of(request).get("sid").is_some();
        match polls {
            true => AT_ONCE,
            false => OWED,
        }
    }

    async fn answer(self: Arc<Self>, request: HttpRequest<Asking>, sender: Sender) -> Answer {
        let front = self.clone();
        let mut answer = match names_its_host(&request) {
            true => front.route(request, sender).await,
            false => problem(
                StatusCode::BAD_REQUEST,
                "the header Host must be there once",
            ),
        };
        if *self.parts.draining.borrow() && answer.status() != StatusCode::SWITCHING_PROTOCOLS {
            answer
                .headers_mut()
                .insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        answer
    }

    pub(super) async fn route(
        self: Arc<Self>,
        request: HttpRequest<Asking>,
        sender: Sender,
    ) -> Answer {
        let path = request.uri().path();
        if path.starts_with(&self.settings.engineio_path) {
            let origin = self.origin(&request, sender);
            let file = client_files::name(&path[self.settings.engineio_path.len()..]);
            let mut answer = if request.method() == Method::OPTIONS {
                let mut answer = status(StatusCode::NO_CONTENT);
                origin.apply_preflight(request.headers(), answer.headers_mut());
                answer
            } else if let Some(name) = file {
                let files = &self.client_files;
                files
                    .answer(request.method(), request.headers(), name)
                    .await
            } else {
                self.engineio(request, sender, &origin).await
            };
            origin.apply(answer.headers_mut());
            return answer;
        }
        if self.settings.live_path.as_deref() == Some(path) {
            return self.live(request, sender).await;
        }
        let Some(fallback) = &self.parts.fallback else {
            return problem(StatusCode::NOT_FOUND, "there is nothing at this path");
        };
        let visitor = self.visitor(&request, sender);
        let unread = {
            let origin = visitor.origin.clone();
            move |code, why: &str| {
                let mut answer = problem(code, why);
                origin.apply(answer.headers_mut());
                answer
            }
        };
        let (mut parts, body) = request.into_parts();
        parts.extensions.insert(visitor);
        let reading = read_body(body, self.settings.max_body);
        let body = match tokio::time::timeout(BODY_TIMEOUT, reading).await {
            Ok(Ok(body)) => body,
            Ok(Err(BodyError::TooLarge)) => {
                let bound = self.settings.max_body;
                let why = format!("the body may have {bound} bytes at most");
                return unread(StatusCode::PAYLOAD_TOO_LARGE, &why);
            }
            Ok(Err(BodyError::Broken)) => {
                return unread(StatusCode::BAD_REQUEST, "the body ended early");
            }
            Err(_) => return unread(StatusCode::REQUEST_TIMEOUT, "the body took too long"),
        };
        let request = HttpRequest::from_parts(parts, body);
        match guarded_wait(|| fallback(request)).await {
            Some(answer) => answer.map(Full::new),
            None => unread(StatusCode::INTERNAL_SERVER_ERROR, panicked()),
        }
    }

    /// Who asks for something of the app's.
    fn visitor(&self, request: &HttpRequest<Asking>, sender: Sender) -> Visitor {
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
    fn origin(&self, request: &HttpRequest<Asking>, sender: Sender) -> Origin {
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

    /// Asks the app, which has to answer for what is within the limits only, whether a
    /// connection may begin so; headers for the response.
    async fn gatekeep(&self, request: &HttpRequest<Asking>) -> Result<HeaderMap, Answer> {
        let Some(gatekeeper) = &self.parts.gatekeeper else {
            return Ok(HeaderMap::new());
        };
        let mut head = HttpRequest::new(());
        *head.method_mut() = request.method().clone();
        *head.uri_mut() = request.uri().clone();
        *head.headers_mut() = request.headers().clone();
        match guarded_wait(|| gatekeeper(head)).await {
            Some(answer) => answer.map_err(|refused| refused.map(Full::new)),
            None => Err(problem(StatusCode::INTERNAL_SERVER_ERROR, panicked())),
        }
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

    // --- Engine.IO -------------------------------------------------------

    async fn engineio(
        self: &Arc<Self>,
        request: HttpRequest<Asking>,
        sender: Sender,
        origin: &Origin,
    ) -> Answer {
        let query = Query::of(&request);
        let websocket = match query.get("transport").as_deref() {
            Some("websocket") => true,
            Some("polling") => false,
            _ => return refusal(RequestError::UnknownTransport, wants_upgrade(&request)),
        };
        let upgrade = wants_upgrade(&request);
        match origin {
            Origin::Malformed => return refusal(RequestError::BadRequest, upgrade),
            Origin::Foreign(_) => return refusal(RequestError::Forbidden, upgrade),
            Origin::Absent | Origin::Allowed(_) => {}
        }
        if websocket
            && upgrade
            && let Some(answer) = too_old(&request)
        {
            return answer;
        }
        if let Some(sid) = query.get("sid") {
            let Some(name) = Sid::decode(&sid) else {
                return refusal(RequestError::UnknownSid, upgrade);
            };
            let transport = (websocket, upgrade);
            return self.in_session(request, name, transport, sender).await;
        }
        if request.method() != Method::GET {
            return refusal(RequestError::BadHandshakeMethod, upgrade);
        }
        if websocket != upgrade {
            return refusal(RequestError::BadRequest, upgrade);
        }
        if query.get("EIO").as_deref() != Some("4") {
            return refusal(RequestError::UnsupportedProtocolVersion, upgrade);
        }
        let guard = match self.admit(sender.ip, request.headers()) {
            Ok(guard) => guard,
            Err(answer) => return *answer,
        };
        let headers = match self.gatekeep(&request).await {
            Ok(headers) => headers,
            Err(answer) => return answer,
        };
        let base64 = query
            .get("b64")
            .is_some_and(|value| value == "1" || value == "true");
        let handshake = self.handshake(&request, origin);
        if websocket {
            let take = sender.take;
            let mut answer =
                self.open_websocket(request, Protocol::EngineIo, base64, handshake, guard, take);
            answer.headers_mut().extend(headers);
            return answer;
        }
        let (reply, answer) = oneshot::channel();
        self.least_loaded().request(Request::OpenPolling {
            base64,
            handshake,
            guard,
            reply,
        });
        let mut answer = reply_to_answer(answer.await);
        answer.headers_mut().extend(headers);
        answer
    }

    /// A request for a session that there is, or was, with this transport; whether it `upgrade`s.
    async fn in_session(
        self: &Arc<Self>,
        request: HttpRequest<Asking>,
        name: Sid,
        (websocket, upgrade): (bool, bool),
        sender: Sender,
    ) -> Answer {
        if let Some(forwarder) = self.forwarder(&name, sender) {
            return forward(forwarder, request, &name, sender.take).await;
        }
        match (websocket, upgrade) {
            (true, true) => self.upgrade(request, name, sender.take).await,
            (true, false) => refusal(RequestError::BadRequest, false),
            (false, _) => self.poll(request, name).await,
        }
    }

    /// Who hands a request on, if it is not for this node.
    fn forwarder(&self, name: &Sid, sender: Sender) -> Option<&Forwarder> {
        let forwarder = self.parts.forwarder.as_ref()?;
        (!sender.is_node && forwarder.is_foreign(name)).then_some(forwarder)
    }

    async fn poll(self: &Arc<Self>, request: HttpRequest<Asking>, name: Sid) -> Answer {
        let Some(shard) = self.shard(&name) else {
            return refusal(RequestError::UnknownSid, false);
        };
        match *request.method() {
            Method::GET => {
                let coding = accepted(request.headers());
                self.poll_get(shard, name, coding).await
            }
            Method::POST => self.poll_post(shard, request, name).await,
            _ => {
                let (reply, exists) = oneshot::channel();
                shard.request(Request::Exists { name, reply });
                match exists.await {
                    Ok(true) => status(StatusCode::METHOD_NOT_ALLOWED),
                    _ => refusal(RequestError::UnknownSid, false),
                }
            }
        }
    }

    async fn poll_get(&self, shard: &ShardHandle<Op>, name: Sid, coding: Option<Coding>) -> Answer {
        let id = self.requests.fetch_add(1, Ordering::Relaxed);
        let abort = Abort::new(shard, name, id);
        let (reply, answer) = oneshot::channel();
        shard.request(Request::Get { name, id, reply });
        let reply = answer.await;
        abort.disarm();
        let from = self.settings.http_compression.unwrap_or(usize::MAX);
        match (reply, coding) {
            (Ok(Reply::Payload(payload)), Some(coding)) if payload.len() >= from => {
                compressed(payload.into(), coding).await
            }
            (reply, _) => reply_to_answer(reply),
        }
    }

    async fn poll_post(
        &self,
        shard: &ShardHandle<Op>,
        request: HttpRequest<Asking>,
        name: Sid,
    ) -> Answer {
        let id = self.requests.fetch_add(1, Ordering::Relaxed);
        let abort = Abort::new(shard, name, id);
        let (reply, start) = oneshot::channel();
        shard.request(Request::PostBegins { name, id, reply });
        let (bound, mut ended) = match start.await {
            Ok(PostStart::Read(bound, ended)) => (bound, ended),
            Ok(PostStart::Refuse(reply)) => {
                abort.disarm();
                return reply_to_answer(Ok(reply));
            }
            Err(_) => return refusal(RequestError::UnknownSid, false),
        };
        let kind = request.headers().get(header::CONTENT_TYPE);
        if kind.is_some_and(|kind| kind == "application/octet-stream") {
            return status(StatusCode::BAD_REQUEST);
        }
        let too_large = || {
            abort.disarm();
            shard.request(Request::PostRefused { name, id });
            let mut answer = status(StatusCode::PAYLOAD_TOO_LARGE);
            // There may be more of the body than was read.
            answer
                .headers_mut()
                .insert(header::CONNECTION, HeaderValue::from_static("close"));
            answer
        };
        let body = tokio::select! {
            body = read_body(request.into_body(), bound) => body,
            // Ended meanwhile, by a second POST for instance.
            answer = &mut ended => return reply_to_answer(answer),
            () = tokio::time::sleep(BODY_TIMEOUT) => return status(StatusCode::REQUEST_TIMEOUT),
        };
        let body = match body {
            Ok(body) => body,
            Err(BodyError::TooLarge) => return too_large(),
            Err(BodyError::Broken) => return status(StatusCode::BAD_REQUEST),
        };
        let (reply, answer) = oneshot::channel();
        shard.request(Request::Post {
            name,
            id,
            body,
            reply,
        });
        let answer = answer.await;
        abort.disarm();
        reply_to_answer(answer)
    }

    async fn upgrade(
        self: &Arc<Self>,
        mut request: HttpRequest<Asking>,
        name: Sid,
        take: Reclaim,
    ) -> Answer {
        let Some(shard) = self.shard(&name).cloned() else {
            return refusal(RequestError::UnknownSid, true);
        };
        let (reply, exists) = oneshot::channel();
        shard.request(Request::Exists { name, reply });
        if !matches!(exists.await, Ok(true)) {
            return refusal(RequestError::UnknownSid, true);
        }
        switch(
            &mut request,
            self.settings.compression,
            take.raw,
            move |upgraded| {
                shard.request(Request::Upgrade { name, upgraded });
            },
        )
    }

    // --- live ------------------------------------------------------------

    async fn live(self: &Arc<Self>, request: HttpRequest<Asking>, sender: Sender) -> Answer {
        let origin = self.origin(&request, sender);
        match origin {
            Origin::Malformed => {
                return text(StatusCode::BAD_REQUEST, "the Origin header is malformed");
            }
            Origin::Foreign(_) => {
                return text(
                    StatusCode::FORBIDDEN,
                    "this origin is not in server.allowed_origins",
                );
            }
            Origin::Absent | Origin::Allowed(_) => {}
        }
        if !wants_upgrade(&request) {
            return upgrade_required("connect to this path with a WebSocket");
        }
        if let Some(answer) = too_old(&request) {
            return answer;
        }
        let guard = match self.admit(sender.ip, request.headers()) {
            Ok(guard) => guard,
            Err(answer) => return *answer,
        };
        let headers = match self.gatekeep(&request).await {
            Ok(headers) => headers,
            Err(answer) => return answer,
        };
        let handshake = self.handshake(&request, &origin);
        let take = sender.take;
        let mut answer =
            self.open_websocket(request, Protocol::Plain, false, handshake, guard, take);
        answer.headers_mut().extend(headers);
        answer
    }

    // --- both ------------------------------------------------------------

    fn open_websocket(
        self: &Arc<Self>,
        mut request: HttpRequest<Asking>,
        protocol: Protocol,
        base64: bool,
        handshake: Handshake,
        guard: SlotGuard,
        take: Reclaim,
    ) -> Answer {
        let front = self.clone();
        switch(
            &mut request,
            self.settings.compression,
            take.raw,
            move |upgraded| {
                front.least_loaded().request(Request::OpenWebSocket {
                    protocol,
                    base64,
                    upgraded,
                    handshake,
                    guard,
                });
            },
        )
    }

    /// A place for a new connection, or why not.
    fn admit(&self, peer: IpAddr, headers: &HeaderMap) -> Result<SlotGuard, Box<Answer>> {
        if *self.parts.draining.borrow() {
            let mut answer = text(StatusCode::SERVICE_UNAVAILABLE, "this node is going away");
            answer
                .headers_mut()
                .insert(header::RETRY_AFTER, HeaderValue::from_static("2"));
            return Err(Box::new(answer));
        }
        let client = client_address(peer, headers, &self.settings.trusted_proxies);
        if let Some(limiter) = &self.parts.connect_limiter {
            if let Err(wait) = limiter(address_group(client), Asker::Http) {
                let mut answer = text(
                    StatusCode::TOO_MANY_REQUESTS,
                    "too many new connections from this address",
                );
                answer
                    .headers_mut()
                    .insert(header::RETRY_AFTER, HeaderValue::from(wait.div_ceil(1000)));
                return Err(Box::new(answer));
            }
        }
        self.parts.slots.take(client).map_err(|refused| {
            Box::new(match refused {
                Refused::Full => text(StatusCode::SERVICE_UNAVAILABLE, "no more connections here"),
                Refused::Address => text(
                    StatusCode::TOO_MANY_REQUESTS,
                    "too many connections from this address",
                ),
            })
        })
    }

    fn shard(&self, name: &Sid) -> Option<&ShardHandle<Op>> {
        self.parts.shards.get(usize::from(name.conn.shard))
    }

    fn least_loaded(&self) -> &ShardHandle<Op> {
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

/// Tells the shard if the request it belongs to is dropped unanswered.
struct Abort<'a, Op> {
    shard: &'a ShardHandle<Op>,
    name: Sid,
    id: RequestId,
    armed: AtomicBool,
}

impl<'a, Op> Abort<'a, Op> {
    fn new(shard: &'a ShardHandle<Op>, name: Sid, id: RequestId) -> Self {
        Abort {
            shard,
            name,
            id,
            armed: AtomicBool::new(true),
        }
    }

    fn disarm(&self) {
        self.armed.store(false, Ordering::Relaxed);
    }
}

impl<Op> Drop for Abort<'_, Op> {
    fn drop(&mut self) {
        if *self.armed.get_mut() {
            self.shard.request(Request::Aborted {
                name: self.name,
                id: self.id,
            });
        }
    }
}

// --- small things --------------------------------------------------------

/// Why there is no body.
enum BodyError {
    TooLarge,
    Broken,
}

/// Reads a body of at most `limit` bytes.
async fn read_body(mut body: Asking, limit: usize) -> Result<Bytes, BodyError> {
    let mut kept = Vec::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| BodyError::Broken)?;
        let Ok(data) = frame.into_data() else {
            continue;
        };
        if data.len() > limit - kept.len() {
            return Err(BodyError::TooLarge);
        }
        kept.extend_from_slice(&data);
    }
    Ok(kept.into())
}

/// Whether a request names its host as it has to (RFC 9112 §3.2): once, but in HTTP/1.0.
pub(super) fn names_its_host<B>(request: &HttpRequest<B>) -> bool {
    let hosts = request.headers().get_all(header::HOST).iter().count();
    hosts == 1 || (hosts == 0 && request.version() != Version::HTTP_11)
}

struct Query<'a>(&'a str);

impl<'a> Query<'a> {
    fn of<B>(request: &'a HttpRequest<B>) -> Query<'a> {
        Query(request.uri().query().unwrap_or_default())
    }

    fn get(&self, name: &str) -> Option<Cow<'a, str>> {
        form_urlencoded::parse(self.0.as_bytes())
            .find(|(key, _)| key == name)
            .map(|(_, value)| value)
    }
}

/// Code that is not ours has panicked; what is said of that to who asked.
fn panicked() -> &'static str {
    tracing::error!("the app's answer to an HTTP request panicked");
    "the request could not be answered"
}

//! How a gateway is made: settings and handlers, then the parts put together.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::{fmt, io};

use heartline_core::auth::{Authenticator, BoxFuture, NoAuthenticator};
use heartline_core::backplane::Backplane;
use heartline_core::backplane::local::LocalBackplane;
use heartline_core::namespaces::Namespaces;
use heartline_core::policy::{Announce, ConnectLimit};
use heartline_core::presence::Online;
use heartline_core::rooms::RoomDirectory;
use heartline_core::store::memory::MemoryStore;
use heartline_core::store::offer::Store;
use heartline_core::time::Moment;
use heartline_engine::clock::Clock;
use heartline_engine::failure::Failure;
use heartline_engine::http::forward::{Forwarder, Owner};
use heartline_engine::http::front::{
    Asker, ConnectLimiter, Fallback, Gatekeeper, HttpFront, HttpParts, HttpSettings,
};
use heartline_engine::http::token::TokenPlaces;
use heartline_engine::seldom::Seldom;
use heartline_engine::shard::engine::Settings;
use heartline_engine::shard::heartbeat::HeartbeatTiming;
use heartline_engine::shard::{Prepared, ShardHandle};
use heartline_engine::slots::ConnectionSlots;
use hyper::StatusCode;
use tokio::runtime::Handle;
use tokio::sync::watch;

use crate::announcer::Announcer;
use crate::config::Config;
use crate::data::AllData;
use crate::event::ConnectRefused;
use crate::fanout::{Fanout, Unread};
use crate::gateway::{
    Gateway, GatewayCell, HandshakeRequest, HeaderMap, HttpRequest, HttpResponse, WeakGateway,
};
use crate::handler::{Arrival, Handler, HandlerSet, Handlers};
use crate::hub::Hub;
use crate::intern::Interner;
use crate::journal::stopped::Spot;
use crate::journal::{Found, Journal, Size, stopped};
use crate::markers::Markers;
use crate::members::Members;
use crate::metrics::Metrics;
use crate::node::ThisNode;
use crate::notices::Notices;
use crate::op::Op;
use crate::owed::Owed;
use crate::peers::Peers;
use crate::recovery::{Recovery, random_secret};
use crate::sessions::Sessions;
use crate::shared::{REFUSALS_PERIOD, Shared};
use crate::watches::Watches;

/// Largest message of a client that is in no namespace yet, bytes: a thousand strangers can
/// have 64 MB kept for them, not a thousand times `max_payload`. What comes with a CONNECT, or
/// with the live protocol's first frame, has to fit: the longest token that proxies let
/// through in a header is an eighth of it. For the bodies of an app's own HTTP the same holds:
/// they may be anybody's.
const MAX_FIRST_PAYLOAD: usize = 64 << 10;
/// What a live client may need in its first frame for each topic that it goes on with, bytes:
/// the longest name, epoch and offset, and what stands around them. Where `max_rooms_per_socket`
/// topics need more than [`MAX_FIRST_PAYLOAD`], that is the bound.
const TOPIC_IN_FIRST_PAYLOAD: usize = 400;

impl Gateway {
    /// Begins to make a gateway.
    pub fn builder(config: Config) -> GatewayBuilder {
        GatewayBuilder::new(config)
    }
}

/// Why a gateway could not be built.
#[derive(Debug)]
pub enum BuildError {
    /// The configuration contradicts itself.
    Config(String),
    /// The operating system refused threads or pollers.
    Io(io::Error),
    /// The journal cannot be used: a sentence that names it.
    Journal(String),
}

impl fmt::Display for BuildError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BuildError::Config(what) | BuildError::Journal(what) => f.write_str(what),
            BuildError::Io(error) => write!(f, "the shards could not be started: {error}"),
        }
    }
}

impl std::error::Error for BuildError {}

impl From<io::Error> for BuildError {
    fn from(error: io::Error) -> Self {
        BuildError::Io(error)
    }
}

/// Makes a [`Gateway`].
pub struct GatewayBuilder {
    config: Config,
    authenticator: Arc<dyn Authenticator>,
    backplane: Option<Arc<dyn Backplane>>,
    store: Arc<dyn Store>,
    handlers: HandlerSet,
    namespaces: Vec<(String, HandlerSet)>,
    fallback: Option<Fallback>,
    gatekeeper: Option<Gatekeeper>,
    /// The gateway, once it is built.
    gateway: GatewayCell,
}

impl GatewayBuilder {
    pub(crate) fn new(config: Config) -> Self {
        GatewayBuilder {
            config,
            authenticator: Arc::new(NoAuthenticator),
            backplane: None,
            store: Arc::new(MemoryStore::default()),
            handlers: HandlerSet::default(),
            namespaces: Vec::new(),
            fallback: None,
            gatekeeper: None,
            gateway: GatewayCell::default(),
        }
    }

    /// Who verifies tokens; without one, all are refused.
    pub fn authenticator(mut self, authenticator: impl Authenticator) -> Self {
        self.authenticator = Arc::new(authenticator);
        self
    }

    /// Where presence is kept; without one, on this node alone.
    pub fn backplane(mut self, backplane: impl Backplane) -> Self {
        self.backplane = Some(Arc::new(backplane));
        self
    }

    /// Where messages, and who belongs to conversations, are kept; without one, in memory.
    pub fn store(mut self, store: impl Store) -> Self {
        self.store = Arc::new(store);
        self
    }

    /// Handles an event, in every namespace and on both transports, as
    /// [`HandlerSet::on`] says.
    pub fn on<A: 'static>(self, event: &str, handler: impl Handler<A>) -> Self {
        self.in_all(|handlers| handlers.on(event, handler))
    }

    /// Runs for each socket that has connected, as [`HandlerSet::on_connect`] says.
    pub fn on_connect<A: 'static>(self, handler: impl Handler<A>) -> Self {
        self.in_all(|handlers| handlers.on_connect(handler))
    }

    /// Runs for each socket that has gone, as [`HandlerSet::on_disconnect`] says.
    pub fn on_disconnect<A: 'static>(self, handler: impl Handler<A>) -> Self {
        self.in_all(|handlers| handlers.on_disconnect(handler))
    }

    /// Decides about each socket before it connects, as [`HandlerSet::admit`] says.
    ///
    /// ```
    /// # use heartline::{Config, ConnectRefused, Gateway};
    /// let builder = Gateway::builder(Config::default()).admit(|arrival| async move {
    ///     match arrival.handshake.query("version").as_deref() {
    ///         Some("2") => Ok(()),
    ///         _ => Err(ConnectRefused::new("Please update the app").with_data(&2)),
    ///     }
    /// });
    /// ```
    pub fn admit<F, Fut>(self, decide: F) -> Self
    where
        F: Fn(Arrival) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<(), ConnectRefused>> + Send + 'static,
    {
        self.in_all(|handlers| handlers.admit(decide))
    }

    fn in_all(mut self, change: impl FnOnce(HandlerSet) -> HandlerSet) -> Self {
        self.handlers = change(self.handlers);
        self
    }

    /// Handlers for one namespace, which must exist. They come before those of all.
    ///
    /// ```
    /// # use heartline::{Config, Gateway, Json, Socket};
    /// let mut config = Config::default();
    /// config.namespaces.insert("/chat".into(), Default::default());
    /// let builder = Gateway::builder(config).of("/chat", |chat| {
    ///     chat.on("say", |socket: Socket, Json(text): Json<String>| async move {
    ///         socket.broadcast().emit("said", &text)
    ///     })
    /// });
    /// ```
    pub fn of(mut self, namespace: &str, handlers: impl FnOnce(HandlerSet) -> HandlerSet) -> Self {
        let handlers = handlers(HandlerSet::default());
        self.namespaces.push((namespace.to_owned(), handlers));
        self
    }

    /// Looks at the first request of each connection, on both transports: lets it in, with
    /// headers for the response (a cookie, say), or answers in its place. Who is not answered
    /// within `auth_timeout` gets 503, and 500 where it panics.
    pub fn allow_request<F, Fut>(mut self, allow: F) -> Self
    where
        F: Fn(HandshakeRequest) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<HeaderMap, HttpResponse>> + Send + 'static,
    {
        let time = self.config.auth_timeout;
        self.gatekeeper = Some(Arc::new(move |request| {
            let allowed = tokio::time::timeout(time, allow(request));
            Box::pin(async move {
                match allowed.await {
                    Ok(decided) => decided,
                    Err(_) => Err(unavailable()),
                }
            })
        }));
        self
    }

    /// Answers requests on the public port that are neither Socket.IO nor
    /// live; without it they get 404. Their bodies have at most 64 KB, and not more than
    /// `max_payload`: nobody has said yet who asks. An answer that
    /// panics is 500. From where the request comes is in its
    /// extensions, a [`Visitor`](crate::Visitor).
    ///
    /// ```
    /// # use heartline::{Config, Gateway, HttpResponse};
    /// let builder = Gateway::builder(Config::default())
    ///     .http_fallback(|gateway, request| async move {
    ///         if let Some(everybody) = gateway.everybody("/", None) {
    ///             let _ = everybody.emit("visited", request.uri().path());
    ///         }
    ///         HttpResponse::default()
    ///     });
    /// ```
    pub fn http_fallback<F, Fut>(mut self, answer: F) -> Self
    where
        F: Fn(Gateway, HttpRequest) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = HttpResponse> + Send + 'static,
    {
        let gateway = self.gateway.clone();
        self.fallback = Some(Arc::new(move |request| {
            match gateway.get().and_then(WeakGateway::upgrade) {
                Some(gateway) => Box::pin(answer(gateway, request)),
                // The last handle to it has gone.
                None => Box::pin(std::future::ready(unavailable())),
            }
        }));
        self
    }

    /// Starts the shards. Call it within a tokio runtime, which handlers and
    /// the HTTP side then use.
    ///
    /// # Errors
    /// When the configuration contradicts itself or has what no gateway can work with, when a
    /// handler would never be called (its namespace does not exist, or its event has one of
    /// Socket.IO's own names), when the journal cannot be used, or threads cannot be started.
    pub fn build(self) -> Result<Gateway, BuildError> {
        let runtime = Handle::try_current().map_err(|_| {
            BuildError::Config("build() must be called within a tokio runtime".into())
        })?;
        self.config.check().map_err(BuildError::Config)?;
        if self
            .backplane
            .as_ref()
            .is_some_and(|one| one.tag().is_some())
        {
            self.config.check_of_cluster().map_err(BuildError::Config)?;
        }
        let threads = match self.config.worker_threads {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            threads => threads,
        };
        let mut prepared = Vec::new();
        for _ in 0..threads {
            prepared.push(Prepared::<Hub>::new()?);
        }
        let shards = prepared.iter().map(|shard| shard.handle.clone()).collect();
        let clock = Clock::start();
        let parts = self.assemble(clock, shards)?;
        let shared = &parts.shared;
        let tag = shared.fanout.backplane.tag();
        let settings = Arc::new(engine_settings(&shared.config, tag));
        let failure = Failure::default();
        for (number, shard) in prepared.into_iter().enumerate() {
            let number = number as u16;
            shard.start(
                number,
                clock,
                settings.clone(),
                runtime.clone(),
                parts.hub(number),
                &failure,
            )?;
        }
        Ok(parts.gateway(failure))
    }

    /// Puts together what stands above these shards, none of which runs yet.
    pub(crate) fn assemble(
        mut self,
        clock: Clock,
        shards: Vec<ShardHandle<Op>>,
    ) -> Result<Parts, BuildError> {
        if self.config.builtin_events {
            self.handlers = crate::builtin::register(self.handlers);
        }
        self.check_handlers().map_err(BuildError::Config)?;
        let backplane = self
            .backplane
            .take()
            .unwrap_or_else(|| Arc::new(alone(&self.config, clock)));
        let is_shared = self.store.is_shared();
        let (fanout, before) = fanout(&self.config, shards, backplane, is_shared, clock)?;
        let announcer = Arc::new(Announcer::default());
        let members = Arc::new(Members::new(
            self.store.clone(),
            self.config.room_access(),
            fanout.clone(),
            clock,
        ));
        let watches = Arc::new(Watches::new(fanout.clone(), clock));
        fanout.backplane.attach(Arc::new(ThisNode {
            fanout: Arc::downgrade(&fanout),
            members: Arc::downgrade(&members),
            watches: Arc::downgrade(&watches),
            // Its connections are no others' questions'.
            peers: Arc::new(Peers::new()),
            announcer: announcer.clone(),
            clock,
            max_payload: self.config.max_payload,
        }));
        let users = fanout.backplane.local();
        before.into_iter().for_each(|one| users.expect(one));
        let handlers = Arc::new(self.take_handlers(&fanout));
        let (fallback, gatekeeper) = (self.fallback.take(), self.gatekeeper.take());
        let shared = self.shared(clock, fanout, (members, watches, announcer.clone()));
        let hooks = Hooks {
            fallback,
            gatekeeper,
            keep_handshakes: handlers.need_handshakes() || shared.authenticator.wants_handshake(),
        };
        Ok(Parts {
            shared,
            handlers,
            announcer,
            hooks,
        })
    }

    /// Handlers that would never be called are a mistake.
    fn check_handlers(&self) -> Result<(), String> {
        for (namespace, _) in &self.namespaces {
            if !self.config.namespaces.contains_key(namespace) {
                return Err(format!(
                    "there are handlers for {namespace}, which does not exist: insert it into \
                     config.namespaces"
                ));
            }
        }
        let own = self.namespaces.iter().map(|(_, handlers)| handlers);
        let mut all = own.chain(std::iter::once(&self.handlers));
        match all.find_map(HandlerSet::impossible) {
            Some(name) => Err(format!(
                "there is a handler for {name}, which is Socket.IO's own name and no client's \
                 event: on_connect and on_disconnect take handlers of a socket's begin and end"
            )),
            None => Ok(()),
        }
    }

    /// The handlers by the numbers of their namespaces.
    fn take_handlers(&mut self, fanout: &Fanout) -> Handlers {
        let mut handlers = Handlers {
            all: std::mem::take(&mut self.handlers),
            of: Vec::new(),
            gateway: self.gateway.clone(),
        };
        for (_, namespace) in fanout.namespaces.iter() {
            let mut own = self
                .namespaces
                .iter_mut()
                .filter(|(name, _)| **name == *namespace.name);
            let merged = own.by_ref().fold(HandlerSet::default(), |all, (_, set)| {
                all.merged_with(std::mem::take(set))
            });
            handlers.of.push(merged);
        }
        handlers
    }

    /// What the shards and the handles have in common.
    fn shared(
        self,
        clock: Clock,
        fanout: Arc<Fanout>,
        (members, watches, announcer): (Arc<Members>, Arc<Watches>, Arc<Announcer>),
    ) -> Arc<Shared> {
        let config = self.config;
        let receipts = config.conversations.receipts;
        let markers = Markers::new(self.store.clone(), fanout.clone(), clock, receipts);
        let markers = Arc::new(markers);
        let names = fanout
            .namespaces
            .iter()
            .map(|(_, namespace)| namespace.name.clone())
            .collect();
        Arc::new(Shared {
            clock,
            authenticator: self.authenticator,
            sessions: Arc::new(Sessions::new(
                self.store.clone(),
                fanout.clone(),
                clock,
                config.checkpoint_rooms.clone(),
            )),
            store: self.store,
            members,
            watches,
            markers,
            notices: Notices::default(),
            announcer,
            metrics: Arc::new(Metrics::new(fanout.shards.len(), names)),
            limits: Arc::default(),
            refusals: Seldom::every(REFUSALS_PERIOD),
            data: AllData::default(),
            tenants: Interner::default(),
            user_agents: Interner::default(),
            anonymous: Arc::default(),
            slots: ConnectionSlots::new(config.max_connections, config.max_connections_per_ip),
            draining: watch::Sender::new(false),
            node_id: config.node_id.as_str().into(),
            fanout,
            config,
        })
    }
}

fn unavailable() -> HttpResponse {
    let mut response = HttpResponse::default();
    *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    response
}

/// A gateway above its shards, which do not run yet.
pub(crate) struct Parts {
    pub(crate) shared: Arc<Shared>,
    handlers: Arc<Handlers>,
    announcer: Arc<Announcer>,
    hooks: Hooks,
}

impl Parts {
    /// What the shard with this number carries.
    pub(crate) fn hub(&self, number: u16) -> Hub {
        Hub::new(self.shared.clone(), self.handlers.clone(), number)
    }

    /// The gateway, and what runs beside its shards.
    pub(crate) fn gateway(self, failure: Failure) -> Gateway {
        let Parts {
            shared,
            handlers,
            announcer,
            hooks,
        } = self;
        let front = Arc::new(front(&shared, hooks, failure));
        let announcing = crate::announcer::run(announcer, Arc::downgrade(&shared.fanout));
        let tasks = [
            tokio::spawn(crate::housekeeping::run(shared.clone())).abort_handle(),
            tokio::spawn(announcing).abort_handle(),
            tokio::spawn(crate::watches::run(shared.watches.clone())).abort_handle(),
            tokio::spawn(crate::watches::audit(shared.watches.clone())).abort_handle(),
            tokio::spawn(crate::untold::tell_members(shared.clone())).abort_handle(),
            tokio::spawn(crate::untold::run(shared.clone())).abort_handle(),
        ];
        let gateway = Gateway::new(shared, front, tasks);
        let _ = handlers.gateway.set(gateway.downgrade());
        gateway
    }
}

/// The backplane of a node that is the whole cluster.
fn alone(config: &Config, clock: Clock) -> LocalBackplane {
    let now = move || {
        let at = clock.now();
        let unix_millis = clock.steady_millis(at);
        Moment { at, unix_millis }
    };
    LocalBackplane::new(config.offline_grace, Box::new(now))
}

/// How large each of a journal's two files becomes, bytes.
const JOURNAL: u64 = 64 << 20;

fn open_journal(
    path: &Path,
    config: &Config,
    identity: (u32, [u8; 32]),
    age: Duration,
    clock: Clock,
) -> Result<(Journal, Found), BuildError> {
    let now = Box::new(move || clock.unix_millis(clock.now()));
    let window = config.recovery.window.unwrap_or_default();
    let namespaces = Namespaces::new(&config.namespaces);
    let told = namespaces.iter();
    let told = told.filter(|(_, namespace)| namespace.config.announce == Announce::Rooms);
    let size = Size {
        segment: JOURNAL,
        age: age.as_millis() as u64,
        wait: window.max(config.offline_grace).as_millis() as u64,
        tells_rooms: told.map(|(id, _)| id).collect(),
    };
    Journal::open(path, config.namespace_list(), identity, size, now).map_err(|error| {
        BuildError::Journal(format!(
            "the journal {} cannot be used: {error}. Set recovery.journal to a file that this \
             gateway alone may write, or to \"off\"",
            path.display()
        ))
    })
}

/// Where something is left to the next process, if that is this one's part.
fn spot(config: &Config) -> Option<Spot> {
    let path = config.recovery.stopped.as_ref()?;
    match Spot::claim(path) {
        Ok(Some(spot)) => return Some(spot),
        Ok(None) => tracing::info!(
            path = %path.display(),
            "another gateway runs in this directory: this one leaves nothing there when it stops"
        ),
        Err(error) => tracing::warn!(
            %error,
            path = %path.display(),
            "nothing can be left there to the next process"
        ),
    }
    None
}

/// What an earlier process has left when it was stopped. Whoever starts takes it, whether or not
/// they go on with it: the next one would miss what was said meanwhile.
fn left_behind(spot: &Spot, config: &Config) -> Option<(stopped::Identity, Found)> {
    stopped::take(spot.path(), &config.namespace_list()).unwrap_or_else(|error| {
        tracing::warn!(
            error,
            path = %spot.path().display(),
            "what the last process has left for clients that come back cannot be used"
        );
        None
    })
}

/// The ways to sockets, and who was online with an earlier process; rooms that come to be are told
/// to the backplane.
fn fanout(
    config: &Config,
    shards: Vec<ShardHandle<Op>>,
    backplane: Arc<dyn Backplane>,
    is_store_shared: bool,
    clock: Clock,
) -> Result<(Arc<Fanout>, Vec<Online>), BuildError> {
    let mut run = [0; 4];
    heartline_engine::random::fill(&mut run);
    let life = u32::from_ne_bytes(run);
    let mut run = life;
    let (mut found, mut recovery) = (None, None);
    let spot = spot(config);
    let left = spot.as_ref().and_then(|spot| left_behind(spot, config));
    let left = left.filter(|_| backplane.tag().is_none());
    if let Some(window) = config.recovery.window {
        let mut secret = random_secret();
        let mut journal = None;
        if let Some(path) = &config.recovery.journal {
            let age = config.heartbeat.age_kept(window);
            let (opened, before) = open_journal(path, config, (run, secret), age, clock)?;
            (run, secret) = opened.identity();
            (journal, found) = (Some(opened), Some(before));
        } else if let Some((identity, before)) = left {
            ((run, secret), found) = (identity, Some(before));
        }
        let (settings, heartbeat) = (&config.recovery, &config.heartbeat);
        let identity = (run, secret);
        let kept = Recovery::new(window, settings, heartbeat, identity, journal, &backplane);
        recovery = Some(kept.leaving_at(spot));
    }
    let fanout = Arc::new(Fanout {
        namespaces: Namespaces::new(&config.namespaces),
        rooms: Arc::new(RoomDirectory::new(shards.len())),
        backplane,
        shards,
        run,
        life,
        recovery,
        clock,
        unread: Unread::default(),
        owed: Owed::new(is_store_shared, config.recovery.window),
    });
    let before = keep_rooms(&fanout, found, config.offline_grace);
    let subscriber = Arc::downgrade(&fanout);
    fanout.rooms.on_open(move |room| {
        let fanout = subscriber.upgrade()?;
        fanout.note_opened(room);
        let namespace = &fanout.namespaces.get(room.namespace).name;
        let tenant = room.tenant.as_deref();
        fanout.hold(namespace, tenant, &room.name)
    });
    let noting = Arc::downgrade(&fanout);
    fanout.rooms.on_close(move |room| {
        if let Some(fanout) = noting.upgrade() {
            fanout.note_closed(room);
        }
    });
    // Those of an earlier process were there before it was told which open.
    for room in fanout.rooms.all() {
        fanout.note_opened(&room.key);
    }
    Ok((fanout, before))
}

/// Keeps what is said in rooms, where that is wanted, and goes on with what was `found` of an earlier
/// process; who was online with it.
fn keep_rooms(fanout: &Arc<Fanout>, found: Option<Found>, grace: Duration) -> Vec<Online> {
    let Some(recovery) = &fanout.recovery else {
        return Vec::new();
    };
    let keeper = Arc::downgrade(fanout);
    let rule = move |room: &str| {
        let fanout = keeper.upgrade();
        let recovery = fanout.as_ref().and_then(|fanout| fanout.recovery.as_ref());
        recovery.is_some_and(|recovery| recovery.keeps(room))
    };
    let is_shared = recovery.common.is_some();
    let account = recovery.line.account.clone();
    fanout.rooms.keep(account, is_shared, rule);
    let Some(mut found) = found else {
        return Vec::new();
    };
    let users = std::mem::take(&mut found.users);
    let before = match fanout.backplane.tag() {
        None => {
            let longest = grace.max(recovery.sessions.window());
            Recovery::expected(users, &fanout.namespaces, &fanout.clock, longest)
        }
        Some(_) => Vec::new(),
    };
    recovery.restore(found, &fanout.rooms, &fanout.clock);
    before
}

/// What the engine has to know of the configuration.
pub(crate) fn engine_settings(config: &Config, tag: Option<u32>) -> Settings {
    Settings {
        heartbeat_timing: HeartbeatTiming {
            interval: config.heartbeat.interval,
            timeout: config.heartbeat.timeout,
        },
        max_payload: config.max_payload,
        max_first_payload: config
            .max_rooms_per_socket
            .saturating_mul(TOPIC_IN_FIRST_PAYLOAD)
            .max(MAX_FIRST_PAYLOAD),
        send_buffer: config.send_buffer,
        upgrade_timeout: config.upgrade_timeout,
        compress_from: config.compression.unwrap_or(usize::MAX),
        tag,
    }
}

/// What the app has to say on the HTTP side.
struct Hooks {
    fallback: Option<Fallback>,
    gatekeeper: Option<Gatekeeper>,
    keep_handshakes: bool,
}

/// The HTTP side.
fn front(shared: &Arc<Shared>, hooks: Hooks, failure: Failure) -> HttpFront<Op> {
    let config = &shared.config;
    let settings = HttpSettings {
        engineio_path: config.socketio_path.clone(),
        live_path: config.live_path.clone(),
        origins: config.allowed_origins.clone(),
        trusted_proxies: config.trusted_proxies.clone(),
        max_body: MAX_FIRST_PAYLOAD.min(config.max_payload),
        compression: config.compression.is_some(),
        http_compression: config.http_compression,
        client_files: config.client_files.clone(),
        keep_handshakes: hooks.keep_handshakes,
        token_places: TokenPlaces {
            query: config.token_query.clone(),
            cookie: config.token_cookie.clone(),
        },
    };
    let parts = HttpParts {
        shards: shared.fanout.shards.clone(),
        slots: shared.slots.clone(),
        fallback: hooks.fallback,
        connect_limiter: connect_limiter(shared),
        gatekeeper: hooks.gatekeeper,
        clock: shared.clock,
        draining: shared.draining.subscribe(),
        forwarder: forwarder(shared),
        failure,
    };
    HttpFront::new(settings, parts)
}

/// Hands on requests for sessions of other nodes, if there are other nodes.
fn forwarder(shared: &Arc<Shared>) -> Option<Forwarder> {
    let tag = shared.fanout.backplane.tag()?;
    let finder = Arc::downgrade(&shared.fanout);
    let find = move |tag| -> BoxFuture<Option<Owner>> {
        let finder = finder.clone();
        Box::pin(async move {
            let peer = finder.upgrade()?.backplane.peer(tag).await?;
            Some(Owner {
                node_id: peer.node_id,
                address: peer.address,
                secret: peer.secret,
            })
        })
    };
    Some(Forwarder::new(tag, Arc::new(find)))
}

/// Counts new connections by address, if there is a limit on them.
fn connect_limiter(shared: &Arc<Shared>) -> Option<ConnectLimiter> {
    let (limits, clock) = (shared.limits.clone(), shared.clock);
    let limit = match shared.config.connects_per_ip {
        ConnectLimit::Off => return None,
        limit => limit,
    };
    Some(Arc::new(move |ip, asker| {
        let taken = limits.take_connect(ip, limit, clock.now());
        if taken.is_err() && asker == Asker::Http {
            limits.refused_connects.fetch_add(1, Ordering::Relaxed);
        }
        taken.map_err(|over| over.retry_after_ms)
    }))
}

//! The gateway: its parts put together, and what the outside may ask of it.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;

use crate::auth::{Authenticator, BoxFuture, NoAuthenticator};
use crate::backplane::{Backplane, ClusterStatus, LocalBackplane, Node, Peer};
use crate::config::Config;
use crate::engine::failure::Failure;
use crate::engine::forward::Forwarder;
use crate::engine::heartbeat::Rhythm;
use crate::engine::http::{Fallback, Front, FrontSettings};
use crate::engine::shard::{Door, Post, Prepared};
use crate::engine::slots::ConnectionSlots;
use crate::engine::{Clock, Settings};
use crate::handler::{Erased, Handler, Handlers};
use crate::hub::{Hub, Op};
use crate::intern::Interner;
use crate::metrics::{Gauges, Metrics};
use crate::peers::Peers;
use crate::publication::NsId;
use crate::rate_limit::KeyedLimiter;
use crate::reason::Reason;
use crate::rooms::RoomDirectory;
use crate::shared::{Namespace, Shared};
use crate::socket::Socket;
use crate::store::{MemoryStore, MessageStore};

/// How long a drain waits for its last responses to leave.
const LAST_RESPONSES: Duration = Duration::from_millis(250);

/// A request on the public port that is neither Socket.IO nor live.
pub type HttpRequest = hyper::http::Request<()>;
/// Its answer.
pub type HttpResponse = hyper::http::Response<Bytes>;

/// A running gateway. Cheap to clone; all clones are the same gateway.
///
/// ```no_run
/// # use heartline::{Config, Gateway, Json, Socket};
/// # #[tokio::main]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let gateway = Gateway::builder(Config::default())
///     .on("shout", |socket: Socket, Json(text): Json<String>| async move {
///         socket.publish("lobby", "shouted", &text).await
///     })
///     .build()?;
/// let listener = tokio::net::TcpListener::bind("127.0.0.1:8080").await?;
/// gateway.serve(listener).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Gateway {
    pub(crate) shared: Arc<Shared>,
    front: Arc<Front<Hub>>,
    _stop: Arc<StopOnDrop>,
}

impl fmt::Debug for Gateway {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gateway")
            .field("node_id", &self.shared.config.node_id)
            .finish_non_exhaustive()
    }
}

/// Ends the shards when the last handle to the gateway goes.
struct StopOnDrop(Vec<Door<Hub>>, [tokio::task::AbortHandle; 2]);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        for task in &self.1 {
            task.abort();
        }
        for door in &self.0 {
            door.push(Post::Stop);
        }
    }
}

/// Why a gateway could not be built.
#[derive(Debug)]
pub enum BuildError {
    /// The configuration contradicts itself.
    Config(String),
    /// The operating system refused threads or pollers.
    Io(io::Error),
}

impl fmt::Display for BuildError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BuildError::Config(what) => f.write_str(what),
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
    store: Arc<dyn MessageStore>,
    handlers: Handlers,
    fallback: Option<Fallback>,
}

impl GatewayBuilder {
    pub(crate) fn new(config: Config) -> Self {
        GatewayBuilder {
            config,
            authenticator: Arc::new(NoAuthenticator),
            backplane: None,
            store: Arc::new(MemoryStore::default()),
            handlers: Handlers::default(),
            fallback: None,
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

    /// Where messages are kept; without one, in memory.
    pub fn store(mut self, store: impl MessageStore) -> Self {
        self.store = Arc::new(store);
        self
    }

    /// Handles an event, in every namespace and on both transports. A name
    /// that ends in `:*` handles all events that begin with what stands before,
    /// unless they have a handler of their own.
    pub fn on<A: 'static>(mut self, event: &str, handler: impl Handler<A>) -> Self {
        self.handlers.insert(event, Erased::boxed(handler));
        self
    }

    /// Runs for each socket that has connected. The CONNECT payload is the
    /// event's first argument.
    pub fn on_connect<A: 'static>(mut self, handler: impl Handler<A>) -> Self {
        self.handlers.connect.push(Erased::boxed(handler));
        self
    }

    /// Runs for each socket that has gone.
    pub fn on_disconnect<F, Fut>(mut self, handler: F) -> Self
    where
        F: Fn(Socket, Reason) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        self.handlers
            .disconnect
            .push(Box::new(move |socket, reason| {
                Box::pin(handler(socket, reason))
            }));
        self
    }

    /// Answers requests on the public port that are neither Socket.IO nor
    /// live; without it they get 404.
    pub fn http_fallback(
        mut self,
        fallback: impl Fn(HttpRequest) -> BoxFuture<HttpResponse> + Send + Sync + 'static,
    ) -> Self {
        self.fallback = Some(Arc::new(fallback));
        self
    }

    /// Starts the shards. Call it within a tokio runtime, which handlers and
    /// the HTTP side then use.
    ///
    /// # Errors
    /// When the configuration contradicts itself, or threads cannot be started.
    pub fn build(self) -> Result<Gateway, BuildError> {
        let config = self.config;
        check(&config).map_err(BuildError::Config)?;
        let runtime = tokio::runtime::Handle::try_current().map_err(|_| {
            BuildError::Config("build() must be called within a tokio runtime".into())
        })?;
        let mut handlers = self.handlers;
        if config.builtin_events {
            crate::builtin::register(&mut handlers);
        }
        let clock = Clock::start();
        let shards = match config.worker_threads {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            threads => threads,
        };
        let mut prepared = Vec::new();
        for _ in 0..shards {
            prepared.push(Prepared::<Hub>::new()?);
        }
        let doors: Vec<Door<Hub>> = prepared.iter().map(|shard| shard.door.clone()).collect();
        // `/` comes first: it is the namespace of live connections.
        let mut namespaces: Vec<Namespace> = config
            .namespaces
            .iter()
            .map(|(name, config)| Namespace {
                name: name.as_str().into(),
                config: config.clone(),
            })
            .collect();
        namespaces.sort_by_key(|namespace| &*namespace.name != "/");
        let names = namespaces
            .iter()
            .map(|namespace| namespace.name.clone())
            .collect();
        let backplane = self
            .backplane
            .unwrap_or_else(|| Arc::new(LocalBackplane::new(config.offline_grace, clock)));
        let (draining, is_draining) = watch::channel(false);
        let mut run = [0; 4];
        crate::random::fill(&mut run);
        let slots = ConnectionSlots::new(config.max_connections, config.max_connections_per_ip);
        let settings = Arc::new(Settings {
            rhythm: Rhythm {
                interval: micros(config.heartbeat.interval),
                timeout: micros(config.heartbeat.timeout),
            },
            max_payload: config.max_payload,
            send_buffer: config.send_buffer,
            upgrade_timeout: micros(config.upgrade_timeout),
            compress_from: config.compression.unwrap_or(usize::MAX),
            tag: backplane.tag(),
        });
        let front_settings = FrontSettings {
            engineio_path: config.socketio_path.clone(),
            live_path: config.live_path.clone(),
            origins: config.allowed_origins.clone(),
            trusted_proxies: config.trusted_proxies.clone(),
            max_payload: config.max_payload,
            compression: config.compression.is_some(),
        };
        let shared = Arc::new(Shared {
            clock,
            namespaces,
            handlers,
            authenticator: self.authenticator,
            backplane,
            store: self.store,
            rooms: Arc::new(RoomDirectory::new(shards)),
            metrics: Arc::new(Metrics::new(shards, names)),
            messages: KeyedLimiter::new(),
            connects: Arc::new(KeyedLimiter::new()),
            tenants: Interner::default(),
            user_agents: Interner::default(),
            anonymous: Arc::default(),
            slots: slots.clone(),
            draining,
            doors: doors.clone(),
            run: u32::from_ne_bytes(run),
            announcer: Arc::default(),
            node_id: config.node_id.as_str().into(),
            peers: Peers::new(),
            config,
        });
        shared.backplane.attach(Node::new(&shared));
        let subscriber = Arc::downgrade(&shared);
        shared.rooms.on_open(move |room| {
            let shared = subscriber.upgrade()?;
            let namespace = &shared.namespaces[usize::from(room.namespace)].name;
            let tenant = room.tenant.as_deref();
            shared.backplane.subscribe(namespace, tenant, &room.name)
        });
        let failure = Failure::new();
        for (number, shard) in prepared.into_iter().enumerate() {
            let number = number as u16;
            let hub = Hub::new(shared.clone(), number);
            shard.start(
                number,
                clock,
                settings.clone(),
                runtime.clone(),
                hub,
                &failure,
            )?;
        }
        let forwarder = shared.backplane.tag().map(|tag| {
            let finder = Arc::downgrade(&shared);
            let find = move |tag| -> BoxFuture<Option<Peer>> {
                match finder.upgrade() {
                    Some(shared) => shared.backplane.peer(tag),
                    None => Box::pin(std::future::ready(None)),
                }
            };
            Forwarder::new(tag, Arc::new(find))
        });
        let front = Arc::new(Front {
            failure,
            forwarder,
            settings: front_settings,
            doors: doors.clone(),
            slots,
            fallback: self.fallback,
            connect_limiter: shared.connect_limiter(),
            draining: is_draining,
            requests: AtomicU64::new(1),
            http_connections: AtomicUsize::new(0),
            next_door: AtomicUsize::new(0),
        });
        let keeper = tokio::spawn(crate::housekeeping::run(shared.clone()));
        let announcing = crate::announcer::run(shared.announcer.clone(), Arc::downgrade(&shared));
        let tasks = [
            keeper.abort_handle(),
            tokio::spawn(announcing).abort_handle(),
        ];
        Ok(Gateway {
            _stop: Arc::new(StopOnDrop(doors, tasks)),
            shared,
            front,
        })
    }
}

fn micros(duration: Duration) -> u64 {
    duration.as_micros() as u64
}

/// What no gateway can work with.
fn check(config: &Config) -> Result<(), String> {
    if !config.namespaces.contains_key("/") {
        return Err("the namespace / must exist".into());
    }
    if config.namespaces.len() > usize::from(NsId::MAX) {
        return Err("there are too many namespaces".into());
    }
    if config.namespaces.keys().any(|name| !name.starts_with('/')) {
        return Err("a namespace's name begins with a slash".into());
    }
    if config.heartbeat.interval.is_zero() || config.heartbeat.timeout.is_zero() {
        return Err("heartbeat.interval and heartbeat.timeout must be more than 0".into());
    }
    if config.max_payload == 0 || config.send_buffer == 0 {
        return Err("server.max_payload and server.send_buffer must be more than 0".into());
    }
    Ok(())
}

impl Gateway {
    /// Begins to make a gateway.
    pub fn builder(config: Config) -> GatewayBuilder {
        GatewayBuilder::new(config)
    }

    /// Accepts connections until the drain begins.
    ///
    /// # Errors
    /// When the thread of a shard has ended by a panic: the connections that it had are
    /// dead, and the process should end. A listener that fails is retried.
    pub async fn serve(&self, listener: TcpListener) -> io::Result<()> {
        self.front.clone().serve(listener, None).await
    }

    /// The same over TLS.
    ///
    /// # Errors
    /// As [`serve`](Self::serve).
    pub async fn serve_tls(&self, listener: TcpListener, tls: Arc<ServerConfig>) -> io::Result<()> {
        let tls = Some(TlsAcceptor::from(tls));
        self.front.clone().serve(listener, tls).await
    }

    /// Resolves when the gateway can work no more: the thread of a shard has ended by a
    /// panic. The error's sentence says so.
    pub async fn failure(&self) -> io::Error {
        self.front.failure.happens().await
    }

    /// Serves other nodes of the cluster on a listener of its own, until the runtime
    /// ends. Every request has to show the cluster's secret.
    pub async fn serve_nodes(&self, listener: TcpListener) {
        let shared = Arc::downgrade(&self.shared);
        let proof = move || shared.upgrade()?.backplane.secret();
        let gateway = self.clone();
        let answerer = move |question| -> BoxFuture<Vec<u8>> {
            Box::pin(crate::peers::answer(gateway.clone(), question))
        };
        self.front
            .clone()
            .serve_nodes(listener, proof, Arc::new(answerer))
            .await;
    }

    /// Lets everybody go: new connections are refused, clients are told when to
    /// come back, running handlers may finish. Resolves when all are gone, at
    /// the latest `drain_timeout` after the last was let go.
    pub async fn drain(&self) {
        let shared = &self.shared;
        let first = !shared.draining.send_replace(true);
        let spread = shared.config.drain_spread.unwrap_or_default();
        if first {
            for door in &shared.doors {
                door.push(Post::App(Op::Drain {
                    spread: micros(spread),
                }));
            }
        }
        let time = spread + shared.config.drain_timeout;
        if tokio::time::timeout(time, shared.slots.empty())
            .await
            .is_err()
        {
            for door in &shared.doors {
                door.push(Post::App(Op::Force));
            }
            // What is forced goes within a turn of each shard.
            let _ = tokio::time::timeout(Duration::from_millis(500), shared.slots.empty()).await;
        }
        // The last responses to polling clients are on their way: they tell of the
        // close, and each ends its connection.
        let _ = tokio::time::timeout(LAST_RESPONSES, self.front.no_http()).await;
        shared.backplane.close().await;
        shared.store.close().await;
    }

    /// Whether the drain has begun.
    pub fn is_draining(&self) -> bool {
        self.shared.is_draining()
    }

    /// The configuration it was built with.
    pub fn config(&self) -> &Config {
        &self.shared.config
    }

    /// Time since it was built.
    pub fn uptime(&self) -> Duration {
        Duration::from_micros(self.shared.clock.now())
    }

    /// Transport sessions there are.
    pub fn connection_count(&self) -> usize {
        self.shared.slots.total()
    }

    /// Users that are online.
    pub fn users_online(&self) -> usize {
        self.shared.backplane.local().online()
    }

    /// How this node fares in its cluster; `None`: it is alone.
    pub fn cluster_status(&self) -> Option<ClusterStatus> {
        self.shared.backplane.status()
    }

    /// All metrics as OpenMetrics text.
    pub fn encode_metrics(&self) -> String {
        let shared = &self.shared;
        shared.metrics.encode(Gauges {
            rooms: shared.rooms.len() as u64,
            users_online: self.users_online() as u64,
            transports: shared.slots.total() as u64,
            rate_limit_entries: shared.rate_limit_entries() as u64,
            uptime_seconds: self.uptime().as_secs(),
            draining: shared.is_draining(),
            limited_messages: shared.metrics.limited_messages.load(Ordering::Relaxed),
            limited_connects: shared.metrics.limited_connects.load(Ordering::Relaxed),
            cluster: self.cluster_status(),
        })
    }
}

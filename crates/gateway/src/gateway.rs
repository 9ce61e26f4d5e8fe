//! A running gateway: what the outside may ask of it as a whole.

use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;
use std::{fmt, io};

use bytes::Bytes;
use heartline_core::auth::UserKey;
use heartline_core::backplane::ClusterStatus;
use heartline_core::store::offer::Store;
use heartline_engine::http::front::HttpFront;
use heartline_wire::codes::Code;
use heartline_wire::time::Micros;
use serde::Serialize;
use tokio::net::TcpListener;
use tokio::task::AbortHandle;
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;

use crate::config::Config;
use crate::event::{Args, EventError, said};
use crate::fanout::Fanout;
use crate::metrics::{Gauges, as_prometheus};
use crate::op::Op;
use crate::peers::Peers;
use crate::shared::Shared;
use crate::to::To;

/// How long a drain waits for its last responses to leave.
const LAST_RESPONSES: Duration = Duration::from_millis(250);
/// How much longer than `drain_timeout` a drain takes at most: the process is to end within a
/// second, and what is left of that is its own.
const LAST_OF_ALL: Duration = Duration::from_millis(900);
/// How long a drain waits until the last changes of presence are told: they are gathered for
/// 50 ms.
const LAST_CHANGES: Duration = Duration::from_millis(250);
/// How much earlier than a stop a shard may take the time to be that lets clients go for it: it
/// looks at the clock once a turn.
const TURN: Duration = Duration::from_secs(1);

/// A request on the public port that is neither Socket.IO nor live, with its body: at most
/// 65 536 bytes, and not more than `max_payload`.
pub type HttpRequest = hyper::http::Request<Bytes>;

/// Its answer.
pub type HttpResponse = hyper::http::Response<Bytes>;
/// The first request of a connection, for [`allow_request`](crate::GatewayBuilder::allow_request).
pub type HandshakeRequest = hyper::http::Request<()>;
/// Headers of an HTTP message.
pub type HeaderMap = hyper::http::HeaderMap;

/// A running gateway. Cheap to clone; all clones are the same gateway. When the last of them goes,
/// its connections end without a word and handlers are dropped where they wait; whoever
/// [serves](Self::serve) has one. [`drain`](Self::drain) lets clients and handlers go in good order.
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
    pub(crate) ways: Arc<Ways>,
}

/// How a gateway is reached and reaches others. The last handle to it ends the shards.
pub(crate) struct Ways {
    pub(crate) front: Arc<HttpFront<Op>>,
    /// The way to other nodes' answers.
    pub(crate) peers: Arc<Peers>,
    fanout: Arc<Fanout>,
    tasks: [AbortHandle; 6],
}

impl fmt::Debug for Gateway {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gateway")
            .field("node_id", &self.shared.config.node_id)
            .finish_non_exhaustive()
    }
}

/// A node's numbers at a glance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counts {
    /// Users that are online on this node.
    pub users_online: usize,
    /// Sockets there are.
    pub sockets: u64,
    /// Pings answered since the start.
    pub heartbeats: u64,
    /// Senders and addresses that limiters remember.
    pub rate_limit_entries: usize,
    /// Time since the gateway was built.
    pub uptime: Duration,
}

/// A handle to a gateway that does not keep it running.
#[derive(Clone)]
pub(crate) struct WeakGateway {
    shared: Weak<Shared>,
    ways: Weak<Ways>,
}

/// Where handlers, which are there before their gateway, find it.
pub(crate) type GatewayCell = Arc<OnceLock<WeakGateway>>;

impl WeakGateway {
    /// The gateway, while anybody else has a handle to it.
    pub(crate) fn upgrade(&self) -> Option<Gateway> {
        Some(Gateway {
            shared: self.shared.upgrade()?,
            ways: self.ways.upgrade()?,
        })
    }
}

impl Drop for Ways {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
        for shard in &self.fanout.shards {
            shard.stop();
        }
    }
}

impl Gateway {
    /// `tasks` end with the last handle to the gateway.
    pub(crate) fn new(
        shared: Arc<Shared>,
        front: Arc<HttpFront<Op>>,
        tasks: [AbortHandle; 6],
    ) -> Self {
        Gateway {
            ways: Arc::new(Ways {
                front,
                peers: Arc::new(Peers::new()),
                fanout: shared.fanout.clone(),
                tasks,
            }),
            shared,
        }
    }

    pub(crate) fn downgrade(&self) -> WeakGateway {
        WeakGateway {
            shared: Arc::downgrade(&self.shared),
            ways: Arc::downgrade(&self.ways),
        }
    }

    /// Where messages, and who belongs to conversations, are kept.
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.shared.store
    }

    /// The present time, Unix milliseconds, as messages and events of this gateway have it.
    pub fn unix_millis(&self) -> u64 {
        self.shared.unix_millis()
    }

    /// Whoever is in a room, on all nodes; [`To::to`] adds rooms and [`To::except`] takes
    /// away. `None` if there is no such namespace.
    pub fn to(&self, namespace: &str, tenant_id: Option<&str>, room: &str) -> Option<To> {
        Some(self.everybody(namespace, tenant_id)?.to(room))
    }

    /// Everybody in a namespace and tenant, on all nodes. `None` if there is no such
    /// namespace.
    pub fn everybody(&self, namespace: &str, tenant_id: Option<&str>) -> Option<To> {
        let id = self.shared.fanout.namespaces.find(namespace)?;
        let tenant = tenant_id.map(Into::into);
        Some(To::new(self.shared.clone(), id, tenant, None))
    }

    /// Tells the members of a conversation of something that was said there, but not its
    /// speaker: on all sockets that are not in the conversation's room and may join it, of this
    /// namespace or, with `None`, of all. Of other nodes it is asked once which of the members
    /// have sockets.
    ///
    /// # Errors
    /// `INVALID_EVENT`; `INTERNAL` when `data` cannot be written as JSON, or the store does not
    /// say who the members are.
    pub async fn notify<T: Serialize + ?Sized>(
        &self,
        namespace: Option<&str>,
        conversation_id: &str,
        speaker: &UserKey,
        event: &str,
        data: &T,
    ) -> Result<(), EventError> {
        let message = said(event, &Args::one(data)?)?;
        let all = &self.shared.fanout.namespaces;
        let namespaces: Vec<_> = match namespace {
            Some(name) => all.find(name).into_iter().collect(),
            None => all.iter().map(|(id, _)| id).collect(),
        };
        let told = self
            .shared
            .notify(&namespaces, conversation_id, speaker, message);
        told.await
            .map_err(|error| EventError::new(Code::Internal, error.to_string()))
    }

    /// The node's numbers at a glance.
    pub fn counts(&self) -> Counts {
        let shared = &self.shared;
        Counts {
            users_online: self.users_online(),
            sockets: shared.metrics.sockets(),
            heartbeats: shared.metrics.heartbeats(),
            rate_limit_entries: shared.limits.entries(),
            uptime: self.uptime(),
        }
    }

    /// Accepts connections until the drain begins.
    ///
    /// # Errors
    /// When the thread of a shard has ended by a panic: the connections that it had are
    /// dead, and the process should end. A listener that fails is retried.
    pub async fn serve(&self, listener: TcpListener) -> io::Result<()> {
        self.ways.front.clone().serve(listener, None).await
    }

    /// The same over TLS.
    ///
    /// # Errors
    /// As [`serve`](Self::serve).
    pub async fn serve_tls(&self, listener: TcpListener, tls: Arc<ServerConfig>) -> io::Result<()> {
        let tls = Some(TlsAcceptor::from(tls));
        self.ways.front.clone().serve(listener, tls).await
    }

    /// Resolves when the gateway can work no more: the thread of a shard has ended by a
    /// panic. The error's sentence says so.
    pub async fn failure(&self) -> io::Error {
        self.ways.front.failure().await
    }

    /// Lets everybody go: new connections are refused, clients are told when to
    /// come back, running handlers may finish. Resolves when all are gone, at
    /// the latest `drain_timeout` after the last was let go, and what is to be kept is kept: that
    /// takes at most what is left of `drain_timeout` and a second.
    pub async fn drain(&self) {
        let begun = Instant::now();
        let shared = &self.shared;
        let stopped = shared.clock.now() - TURN;
        let first = !shared.draining.send_replace(true);
        let spread = shared.config.drain_spread.unwrap_or_default();
        if first {
            shared.fanout.post_to_all(|| Op::Drain { spread });
        }
        let time = spread + shared.config.drain_timeout;
        if tokio::time::timeout(time, shared.slots.empty())
            .await
            .is_err()
        {
            shared.fanout.post_to_all(|| Op::Force);
            // What is forced goes within a turn of each shard.
            let _ = tokio::time::timeout(Duration::from_millis(500), shared.slots.empty()).await;
        }
        // The last responses to polling clients are on their way: they tell of the
        // close, and each ends its connection.
        let _ = tokio::time::timeout(LAST_RESPONSES, self.ways.front.no_http()).await;
        let left = (time + LAST_OF_ALL).saturating_sub(begun.elapsed());
        self.finish(left).await;
        if first {
            let left = (time + LAST_OF_ALL).saturating_sub(begun.elapsed());
            self.leave(left.min(LAST_CHANGES), stopped).await;
        }
    }

    /// Tells whom nobody had the time to tell, lets the store keep what it was given and leaves the
    /// cluster, but waits for none of it longer than this.
    async fn finish(&self, patience: Duration) {
        let shared = &self.shared;
        // What is still to be told needs both: it has a half of the time.
        let begun = Instant::now();
        let _ = tokio::time::timeout(patience / 2, shared.notices.quiet()).await;
        let patience = patience.saturating_sub(begun.elapsed());
        let keeping = async {
            // What they have to write is for the store.
            shared.sessions.close().await;
            shared.store.close().await;
        };
        let all = async { tokio::join!(keeping, shared.fanout.backplane.close()) };
        if tokio::time::timeout(patience, all).await.is_err() {
            tracing::error!(
                "the store or the cluster's Redis is away: what waits for it, and was not \
                 acknowledged, is lost"
            );
        }
    }

    /// Leaves what is kept to the next process, where that is wanted and would be all. For so long
    /// it waits until those who have gone were told of: the next process does not say so. The stop
    /// began then.
    async fn leave(&self, patience: Duration, stopped: Micros) {
        let (fanout, config) = (&self.shared.fanout, &self.shared.config);
        let is_alone = fanout.backplane.tag().is_none();
        if let Some(recovery) = &fanout.recovery
            && is_alone
            && recovery.journal.is_none()
            && let Some(spot) = recovery.spot()
        {
            let told = self.shared.announcer.quiet();
            let _ = tokio::time::timeout(patience, told).await;
            let (clock, path) = (&self.shared.clock, spot.path());
            let to = (path, &*config.namespace_list());
            let all = (&fanout.namespaces, &*fanout.rooms, stopped);
            let left = recovery.leave(to, fanout.backplane.local(), all, clock);
            if let Err(error) = left {
                tracing::warn!(
                    %error,
                    path = %path.display(),
                    "what is kept for clients that come back cannot be left to the next process"
                );
            }
        }
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
        self.shared.clock.now() - Micros::ZERO
    }

    /// Transport sessions there are.
    pub fn connection_count(&self) -> usize {
        self.shared.slots.total()
    }

    /// Users that are online.
    pub fn users_online(&self) -> usize {
        self.shared.fanout.backplane.local().online()
    }

    /// How this node fares in its cluster; `None`: it is alone.
    pub fn cluster_status(&self) -> Option<ClusterStatus> {
        self.shared.fanout.backplane.status()
    }

    /// All metrics as OpenMetrics text (1.0.0).
    pub fn encode_metrics(&self) -> String {
        self.shared.metrics.encode(self.gauges())
    }

    /// The same as Prometheus' text (0.0.4), for who does not read OpenMetrics.
    pub fn encode_metrics_as_prometheus(&self) -> String {
        as_prometheus(&self.encode_metrics())
    }

    fn gauges(&self) -> Gauges {
        let shared = &self.shared;
        let recovery = shared.fanout.recovery.as_ref();
        Gauges {
            rooms: shared.fanout.rooms.count() as u64,
            users_online: self.users_online() as u64,
            transports: shared.slots.total() as u64,
            rate_limit_entries: shared.limits.entries() as u64,
            uptime_seconds: self.uptime().as_secs(),
            draining: shared.is_draining(),
            suspended: recovery.map_or(0, |recovery| recovery.sessions.len() as u64),
            kept_bytes: recovery.map_or(0, |recovery| recovery.line.account.held() as u64),
            limited_messages: shared.limits.refused_messages.load(Ordering::Relaxed),
            limited_connects: shared.limits.refused_connects.load(Ordering::Relaxed),
            presence_wrong: shared.watches.wrong(),
            unread_notes: shared.fanout.unread.notes.load(Ordering::Relaxed),
            unread_changes: shared.fanout.unread.changes.load(Ordering::Relaxed),
            cluster: self.cluster_status(),
        }
    }
}

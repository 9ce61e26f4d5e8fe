//! A running gateway: what the outside may ask of it as a whole.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::{fmt, io};

use bytes::Bytes;
use heartline_core::backplane::ClusterStatus;
use heartline_engine::clock::micros;
use heartline_engine::http::front::Front;
use tokio::net::TcpListener;
use tokio::task::AbortHandle;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;

use crate::config::Config;
use crate::fanout::Fanout;
use crate::metrics::Gauges;
use crate::op::Op;
use crate::peers::Peers;
use crate::shared::Shared;

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
    pub(crate) front: Arc<Front<Op>>,
    /// The way to other nodes' answers.
    pub(crate) peers: Arc<Peers>,
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
struct StopOnDrop(Arc<Fanout>, [AbortHandle; 2]);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        for task in &self.1 {
            task.abort();
        }
        for shard in &self.0.shards {
            shard.stop();
        }
    }
}

impl Gateway {
    /// `tasks` end with the last handle to the gateway.
    pub(crate) fn new(shared: Arc<Shared>, front: Arc<Front<Op>>, tasks: [AbortHandle; 2]) -> Self {
        Gateway {
            _stop: Arc::new(StopOnDrop(shared.fanout.clone(), tasks)),
            peers: Arc::new(Peers::new()),
            front,
            shared,
        }
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
        self.front.failure().await
    }

    /// Lets everybody go: new connections are refused, clients are told when to
    /// come back, running handlers may finish. Resolves when all are gone, at
    /// the latest `drain_timeout` after the last was let go.
    pub async fn drain(&self) {
        let shared = &self.shared;
        let first = !shared.draining.send_replace(true);
        let spread = shared.config.drain_spread.unwrap_or_default();
        if first {
            shared.fanout.post_to_all(|| Op::Drain {
                spread: micros(spread),
            });
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
        let _ = tokio::time::timeout(LAST_RESPONSES, self.front.no_http()).await;
        shared.fanout.backplane.close().await;
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
        self.shared.fanout.backplane.local().online()
    }

    /// How this node fares in its cluster; `None`: it is alone.
    pub fn cluster_status(&self) -> Option<ClusterStatus> {
        self.shared.fanout.backplane.status()
    }

    /// All metrics as OpenMetrics text.
    pub fn encode_metrics(&self) -> String {
        let shared = &self.shared;
        shared.metrics.encode(Gauges {
            rooms: shared.fanout.rooms.count() as u64,
            users_online: self.users_online() as u64,
            transports: shared.slots.total() as u64,
            rate_limit_entries: shared.limits.entries() as u64,
            uptime_seconds: self.uptime().as_secs(),
            draining: shared.is_draining(),
            limited_messages: shared.limits.refused_messages.load(Ordering::Relaxed),
            limited_connects: shared.limits.refused_connects.load(Ordering::Relaxed),
            cluster: self.cluster_status(),
        })
    }
}

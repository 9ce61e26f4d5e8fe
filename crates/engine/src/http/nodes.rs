//! What nodes of a cluster have to do with each other over HTTP: what they hand on, and
//! what they ask.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::header::HeaderMap;
use hyper::{Request as HttpRequest, Response, StatusCode};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use crate::http::answer::{Answer, status, text};
use crate::http::forward::PROOF;
use crate::http::front::{HttpFront, Sender};
use crate::http::served::{self, Asking};
use crate::http::upgrade::PLAIN;
use crate::tasks::BoxFuture;

/// Answers what another node asks.
pub type Answerer = Arc<dyn Fn(Bytes) -> BoxFuture<Vec<u8>> + Send + Sync>;

/// Where nodes ask each other.
pub const ASK: &str = "/heartline/ask";
/// Connections of other nodes at once; a forwarded WebSocket counts until it is upgraded.
const MAX_NODE_CONNECTIONS: usize = 4096;
/// How long another node's connection may wait for its next request: longer than the
/// other side keeps it.
const IDLE_NODE: Duration = Duration::from_secs(60);
impl<Op: Send + 'static> HttpFront<Op> {
    /// Serves other nodes: what they hand on, and what they ask, in at most `max_question` bytes.
    pub async fn serve_nodes(
        self: Arc<Self>,
        listener: TcpListener,
        proof: impl Fn() -> Option<Arc<str>> + Send + Sync + 'static,
        answerer: Answerer,
        max_question: usize,
    ) {
        let _ = socket2::SockRef::from(&listener).set_tcp_nodelay(true);
        let proof = Arc::new(proof);
        let room = Arc::new(Semaphore::new(MAX_NODE_CONNECTIONS));
        loop {
            // Whoever comes without the proof has a place only for as long as a request's
            // headers may take. The semaphore is never closed.
            let Ok(place) = room.clone().acquire_owned().await else {
                return;
            };
            let (tcp, peer) = match listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    self.not_accepted(error, "nodes").await;
                    continue;
                }
            };
            let (front, proof, answerer) = (self.clone(), proof.clone(), answerer.clone());
            tokio::spawn(async move {
                let sender = Sender {
                    ip: peer.ip(),
                    is_node: true,
                    tls: false,
                    take: PLAIN,
                };
                let answer = |request: HttpRequest<Asking>| {
                    let (front, answerer) = (front.clone(), answerer.clone());
                    let proven = is_proven(request.headers(), proof().as_deref());
                    async move {
                        match proven {
                            false => text(StatusCode::FORBIDDEN, "nodes of the cluster only"),
                            true if request.uri().path() == ASK => {
                                ask(request, &answerer, max_question).await
                            }
                            true => front.route(request, sender).await,
                        }
                    }
                };
                let (idle, early) = (|| IDLE_NODE, Bytes::new());
                let owed = |request: &HttpRequest<Asking>| front.owed(request);
                served::serve(tcp, early, IDLE_NODE, idle, owed, answer).await;
                drop(place);
            });
        }
    }
}

/// Whether a request comes from a node of the cluster.
fn is_proven(headers: &HeaderMap, secret: Option<&str>) -> bool {
    let (Some(given), Some(secret)) = (headers.get(PROOF), secret) else {
        return false;
    };
    let (given, secret) = (given.as_bytes(), secret.as_bytes());
    // As long for a wrong one as for the right one.
    let differs = given
        .iter()
        .zip(secret)
        .fold(0, |all, (a, b)| all | (a ^ b));
    !secret.is_empty() && given.len() == secret.len() && differs == 0
}

async fn ask(request: HttpRequest<Asking>, answerer: &Answerer, max: usize) -> Answer {
    let body = Limited::new(request.into_body(), max).collect();
    match body.await {
        Ok(body) => Response::new(Full::new(answerer(body.to_bytes()).await.into())),
        Err(_) => status(StatusCode::BAD_REQUEST),
    }
}

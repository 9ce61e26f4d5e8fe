//! What nodes of a cluster have to do with each other over HTTP: what they hand on, and
//! what they ask.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use heartline_wire::engineio::RequestError;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::header::HeaderMap;
use hyper::{Request as HttpRequest, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use super::forward::{self, Forwarder, Nobody, PROOF};
use super::http::{Answer, Front, HEADER_BYTES, Sender, WRITE_TIMEOUT, refusal, status, text};
use super::id::Name;
use super::served::Served;
use super::tasks::BoxFuture;
use super::upgrade::{PLAIN, TakeBack, wants_upgrade};

/// Answers what another node asks.
pub(crate) type Answerer = Arc<dyn Fn(Bytes) -> BoxFuture<Vec<u8>> + Send + Sync>;

/// Where nodes ask each other.
pub(crate) const ASK: &str = "/heartline/ask";
/// Connections of other nodes at once; a forwarded WebSocket counts until it is upgraded.
const MAX_NODE_CONNECTIONS: usize = 4096;
/// How long another node's connection may wait for its next request: longer than the
/// other side keeps it.
const IDLE_NODE: Duration = Duration::from_secs(60);
/// Longest question, bytes.
const MAX_QUESTION: usize = 1 << 20;

impl<Op: Send + 'static> Front<Op> {
    /// Serves other nodes: what they hand on, and what they ask.
    pub(crate) async fn serve_nodes(
        self: Arc<Self>,
        listener: TcpListener,
        proof: impl Fn() -> Option<Arc<str>> + Send + Sync + 'static,
        answerer: Answerer,
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
                    tracing::warn!(%error, "another node's connection could not be accepted");
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    continue;
                }
            };
            let (front, proof, answerer) = (self.clone(), proof.clone(), answerer.clone());
            tokio::spawn(async move {
                let service = hyper::service::service_fn(move |request| {
                    let (front, proof, answerer) = (front.clone(), proof.clone(), answerer.clone());
                    let sender = Sender {
                        ip: peer.ip(),
                        is_node: true,
                        take: PLAIN,
                    };
                    async move {
                        let answer = match is_proven(request.headers(), proof().as_deref()) {
                            false => text(StatusCode::FORBIDDEN, "nodes of the cluster only"),
                            true if request.uri().path() == ASK => ask(request, &answerer).await,
                            true => front.route(request, sender).await,
                        };
                        Ok::<_, Infallible>(answer)
                    }
                });
                let _ = hyper::server::conn::http1::Builder::new()
                    .timer(TokioTimer::new())
                    .header_read_timeout(IDLE_NODE)
                    .max_buf_size(HEADER_BYTES)
                    .serve_connection(TokioIo::new(Served::new(tcp, WRITE_TIMEOUT)), service)
                    .with_upgrades()
                    .await;
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

async fn ask(request: HttpRequest<Incoming>, answerer: &Answerer) -> Answer {
    let body = Limited::new(request.into_body(), MAX_QUESTION).collect();
    match body.await {
        Ok(body) => Response::new(Full::new(answerer(body.to_bytes()).await.into())),
        Err(_) => status(StatusCode::BAD_REQUEST),
    }
}

/// Has the owner of a session answer.
pub(super) async fn forward(
    forwarder: &Forwarder,
    mut request: HttpRequest<Incoming>,
    name: &Name,
    take: TakeBack,
) -> Answer {
    let upgrade = wants_upgrade(&request);
    let client = upgrade.then(|| hyper::upgrade::on(&mut request));
    let response = match forwarder.send(request, name).await {
        Ok(response) => response,
        Err(Nobody) => return refusal(RequestError::UnknownSid, upgrade),
    };
    match client {
        Some(client) if response.status() == StatusCode::SWITCHING_PROTOCOLS => {
            forward::splice(client, response, take.spliced)
        }
        _ => forward::relay(response)
            .await
            .unwrap_or_else(|Nobody| refusal(RequestError::UnknownSid, upgrade)),
    }
}

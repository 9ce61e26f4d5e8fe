//! Requests for sessions of other nodes: a session's id names its node, so whichever
//! node a proxy picks hands the request on to the one that has it.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use heartline_wire::engineio::RequestError;
use heartline_wire::id::Sid;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::header::{self, HeaderName, HeaderValue};
use hyper::{Request, Request as HttpRequest, Response, StatusCode, Uri};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::AsyncWriteExt;

use crate::http::answer::{Answer, refusal};
use crate::http::served::Asking;
use crate::http::upgrade::{Reclaim, Spliced, wants_upgrade};
use crate::tasks::BoxFuture;

/// What proves that a request comes from a node of the same cluster.
pub const PROOF: HeaderName = HeaderName::from_static("heartline-cluster");
/// How long a node may take to accept a connection.
const CONNECT: Duration = Duration::from_secs(1);
/// How long a connection to another node is kept for the next request.
const IDLE: Duration = Duration::from_secs(30);

/// The node that has a session.
#[derive(Debug, Clone)]
pub struct Owner {
    /// What operators call it.
    pub node_id: Arc<str>,
    /// Host and port of its listener for nodes.
    pub address: Arc<str>,
    /// What it wants to be shown.
    pub secret: Arc<str>,
}

/// Finds the node whose connections' ids begin with a tag.
pub type FindOwner = Arc<dyn Fn(u32) -> BoxFuture<Option<Owner>> + Send + Sync>;

/// Hands requests on to other nodes.
pub struct Forwarder {
    tag: u32,
    find: FindOwner,
    client: Client<HttpConnector, Asking>,
}

/// No node has the session (any more).
#[derive(Debug)]
pub struct Nobody;

impl Forwarder {
    /// `tag` is this node's own.
    pub fn new(tag: u32, find: FindOwner) -> Forwarder {
        Forwarder {
            tag,
            find,
            client: Client::builder(TokioExecutor::new())
                .pool_idle_timeout(IDLE)
                .pool_timer(TokioTimer::new())
                .build(connector()),
        }
    }

    /// Whether a session is another node's.
    pub fn is_foreign(&self, name: &Sid) -> bool {
        name.tag() != self.tag
    }

    /// The owner's response.
    async fn send(
        &self,
        mut request: Request<Asking>,
        name: &Sid,
    ) -> Result<Response<Incoming>, Nobody> {
        let owner = (self.find)(name.tag()).await.ok_or(Nobody)?;
        let path = request
            .uri()
            .path_and_query()
            .map_or("/", |path| path.as_str());
        let uri = format!("http://{}{path}", owner.address);
        *request.uri_mut() = uri.parse::<Uri>().map_err(|_| Nobody)?;
        let proof = HeaderValue::from_str(&owner.secret).map_err(|_| Nobody)?;
        request.headers_mut().insert(PROOF, proof);
        self.client.request(request).await.map_err(|error| {
            tracing::debug!(node_id = %owner.node_id, %error, "a request could not be handed on");
            Nobody
        })
    }
}

/// Connects to nodes.
pub fn connector() -> HttpConnector {
    let mut connector = HttpConnector::new();
    connector.set_connect_timeout(Some(CONNECT));
    connector.set_nodelay(true);
    connector
}

/// The owner's response as this node's.
pub(super) async fn relay(response: Response<Incoming>) -> Result<Response<Full<Bytes>>, Nobody> {
    let (mut parts, body) = response.into_parts();
    let body = body.collect().await.map_err(|_| Nobody)?.to_bytes();
    for name in [header::CONNECTION, header::TRANSFER_ENCODING, header::DATE] {
        parts.headers.remove(name);
    }
    Ok(Response::from_parts(parts, Full::new(body)))
}

/// Answers 101 as the owner did and lets bytes flow both ways.
pub(super) fn splice(
    client: hyper::upgrade::OnUpgrade,
    mut response: Response<Incoming>,
    take: fn(hyper::upgrade::Upgraded) -> io::Result<Spliced>,
) -> Response<Full<Bytes>> {
    let owner = hyper::upgrade::on(&mut response);
    let (parts, _) = response.into_parts();
    tokio::spawn(async move {
        let done = async {
            let upgraded = client.await.map_err(io::Error::other)?;
            let (mut near, preface, leftover) = take(upgraded)?;
            let mut far = TokioIo::new(owner.await.map_err(io::Error::other)?);
            near.write_all(&preface).await?;
            far.write_all(&leftover).await?;
            tokio::io::copy_bidirectional(&mut near, &mut far).await
        };
        if let Err(error) = done.await {
            tracing::debug!(%error, "a forwarded WebSocket ended");
        }
    });
    let mut answer = Response::new(Full::default());
    *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    *answer.headers_mut() = parts.headers;
    answer.headers_mut().remove(header::DATE);
    answer
}

/// Has the owner of a session answer.
pub(super) async fn forward(
    forwarder: &Forwarder,
    mut request: HttpRequest<Asking>,
    name: &Sid,
    take: Reclaim,
) -> Answer {
    let upgrade = wants_upgrade(&request);
    let client = upgrade.then(|| hyper::upgrade::on(&mut request));
    let response = match forwarder.send(request, name).await {
        Ok(response) => response,
        Err(Nobody) => return refusal(RequestError::UnknownSid, upgrade),
    };
    match client {
        Some(client) if response.status() == StatusCode::SWITCHING_PROTOCOLS => {
            splice(client, response, take.spliced)
        }
        _ => relay(response)
            .await
            .unwrap_or_else(|Nobody| refusal(RequestError::UnknownSid, upgrade)),
    }
}

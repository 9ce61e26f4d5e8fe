//! What nodes of a cluster ask each other, one question a request.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::Request;
use hyper::header::HeaderValue;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::backplane::Peer;
use crate::engine::forward::{PROOF, connector};
use crate::engine::nodes::ASK;
use crate::entries::SocketFilter;
use crate::gateway::Gateway;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(3);

/// A question to one node, about what is there.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum Question {
    Connections {
        filter: SocketFilter,
        cursor: Option<String>,
        limit: usize,
    },
    Connection {
        socket_id: String,
    },
    Disconnect {
        socket_id: String,
    },
    Emit {
        socket_id: String,
        event: String,
        data: String,
        /// Wait so many milliseconds for an acknowledgement.
        ack_within: Option<u64>,
    },
    Rooms {
        namespace: Option<String>,
        tenant: Option<String>,
        cursor: Option<String>,
        limit: usize,
    },
    Members {
        namespace: String,
        tenant: Option<String>,
        room: String,
    },
    Node,
}

/// A node did not answer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Silent;

/// Asks other nodes.
pub(crate) struct Peers {
    client: Client<HttpConnector, Full<Bytes>>,
}

impl Peers {
    pub(crate) fn new() -> Peers {
        Peers {
            client: Client::builder(TokioExecutor::new())
                .pool_idle_timeout(Duration::from_secs(30))
                .pool_timer(TokioTimer::new())
                .build(connector()),
        }
    }

    /// A node's answer.
    pub(crate) async fn ask<T: DeserializeOwned>(
        &self,
        peer: &Peer,
        question: &Question,
        extra: Duration,
    ) -> Result<T, Silent> {
        let asked = async {
            let body = serde_json::to_vec(question).map_err(|error| error.to_string())?;
            let proof = HeaderValue::from_str(&peer.secret).map_err(|error| error.to_string())?;
            let request = Request::post(format!("http://{}{ASK}", peer.address))
                .header(PROOF, proof)
                .body(Full::new(body.into()))
                .map_err(|error| error.to_string())?;
            let response = self.client.request(request).await;
            let response = response.map_err(|error| error.to_string())?;
            if !response.status().is_success() {
                return Err(format!("it answered {}", response.status()));
            }
            let body = response.into_body().collect().await;
            let body = body.map_err(|error| error.to_string())?.to_bytes();
            serde_json::from_slice(&body).map_err(|error| error.to_string())
        };
        let answered = tokio::time::timeout(PATIENCE + extra, asked);
        let answered = answered
            .await
            .unwrap_or_else(|_| Err("it did not answer in time".into()));
        answered.map_err(|error| {
            tracing::warn!(node_id = %peer.node_id, error, "another node could not be asked");
            Silent
        })
    }
}

/// Answers another node.
pub(crate) async fn answer(gateway: Gateway, question: Bytes) -> Vec<u8> {
    fn write<T: Serialize>(answer: &T) -> Vec<u8> {
        serde_json::to_vec(answer).unwrap_or_default()
    }
    let Ok(question) = serde_json::from_slice(&question) else {
        return Vec::new();
    };
    match question {
        Question::Connections {
            filter,
            cursor,
            limit,
        } => write(&gateway.connections_here(filter, cursor, limit).await.ok()),
        Question::Connection { socket_id } => write(&gateway.connection_here(&socket_id).await),
        Question::Disconnect { socket_id } => write(&gateway.disconnect_here(&socket_id).await),
        Question::Emit {
            socket_id,
            event,
            data,
            ack_within,
        } => {
            let ack_within = ack_within.map(Duration::from_millis);
            let emitted = gateway.emit_here(&socket_id, &event, &data, ack_within);
            write(&emitted.await)
        }
        Question::Rooms {
            namespace,
            tenant,
            cursor,
            limit,
        } => {
            let rooms = gateway.rooms_here(namespace.as_deref(), tenant.as_deref(), cursor, limit);
            write(&rooms.await.ok())
        }
        Question::Members {
            namespace,
            tenant,
            room,
        } => {
            let members = gateway.members_here(&namespace, tenant.as_deref(), &room);
            write(&members.await)
        }
        Question::Node => write(&gateway.node_here()),
    }
}

/// What a socket said to an event, or why nothing came of it.
pub(crate) type Emitted = Result<Option<String>, EmitError>;

/// Why an event did not reach a socket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EmitError {
    /// `DISCONNECTED`, `TIMEOUT`, `NOT_SUPPORTED`, `TOO_MANY_ACKS` or
    /// `NODE_UNREACHABLE`.
    pub code: String,
    /// The same in words.
    pub error: String,
}

impl EmitError {
    pub(crate) fn new(code: &str, error: &str) -> EmitError {
        EmitError {
            code: code.to_owned(),
            error: error.to_owned(),
        }
    }
}

impl std::fmt::Display for EmitError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.error)
    }
}

impl std::error::Error for EmitError {}

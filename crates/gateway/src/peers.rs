//! What nodes of a cluster ask each other, one question a request, each with the type of
//! its answer.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use heartline_core::auth::UserKey;
use heartline_core::backplane::{Peer, Probed};
use heartline_core::entries::{MemberEntry, NodeEntry, Page, RoomEntry, SocketEntry, SocketFilter};
use heartline_engine::http::forward::{PROOF, connector};
use heartline_engine::http::nodes::ASK;
use heartline_wire::codes::Code;
use http_body_util::{BodyExt, Full};
use hyper::Request;
use hyper::header::HeaderValue;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// How long an answer may take, besides what the question itself waits for.
pub(crate) const ANSWER_TIMEOUT: Duration = Duration::from_secs(3);

/// Sockets of one tenant by where they are, on all nodes. Another node takes a question of 2 MiB at
/// least: some thousand names.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Sockets {
    /// Their tenant.
    pub tenant_id: Option<String>,
    /// Their namespace.
    pub namespace: String,
    /// They are in any of these; none: wherever they are. A room may be a socket's id or
    /// `user:ID`.
    pub rooms: Vec<String>,
    /// They are in none of these.
    pub except: Vec<String>,
}

/// The users with an id, of one type or of any.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Users {
    pub(crate) tenant_id: Option<String>,
    pub(crate) user_id: String,
    /// Of this type alone, which may be none.
    pub(crate) only: Option<OneType>,
}

/// A type of users.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct OneType {
    pub(crate) user_type: Option<String>,
}

impl Users {
    /// One user.
    pub(crate) fn one(user: &UserKey) -> Users {
        let text = |text: &Arc<str>| text.to_string();
        let user_type = user.user_type.as_ref().map(text);
        Users {
            tenant_id: user.tenant_id.as_ref().map(text),
            user_id: text(&user.user_id),
            only: Some(OneType { user_type }),
        }
    }

    /// The user who is meant, if it is one.
    pub(crate) fn key(&self) -> Option<UserKey> {
        let OneType { user_type } = self.only.as_ref()?;
        Some(UserKey {
            tenant_id: self.tenant_id.as_deref().map(Into::into),
            user_id: (*self.user_id).into(),
            user_type: user_type.as_deref().map(Into::into),
        })
    }
}

/// Some of a node's connections.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub enum Part {
    /// This share of them: more than 0, at most 1.
    Share(f64),
    /// So many.
    Connections(usize),
}

/// A question to one node, about what is there.
pub(crate) trait Asked: Clone + Into<Question> + Send + Sync + 'static {
    /// What it is answered with.
    type Answer: Serialize + DeserializeOwned + Send + 'static;

    /// How long the answer waits for something besides the node.
    fn extra_time(&self) -> Duration {
        Duration::ZERO
    }
}

macro_rules! questions {
    ($($(#[$doc:meta])* $name:ident { $($field:ident: $type:ty),* $(,)? })*) => {
        $(
            $(#[$doc])*
            #[derive(Debug, Clone, Serialize, Deserialize)]
            pub(crate) struct $name {
                $(pub(crate) $field: $type,)*
            }

            impl From<$name> for Question {
                fn from(asked: $name) -> Question {
                    Question::$name(asked)
                }
            }
        )*

        /// All questions, as they travel.
        #[derive(Debug, Clone, Serialize, Deserialize)]
        pub(crate) enum Question {
            $($name($name),)*
        }
    };
}

questions! {
    /// Sockets that fit a filter, a page of them.
    Connections {
        filter: SocketFilter,
        cursor: Option<String>,
        limit: usize,
    }
    /// One socket.
    Connection {
        socket_id: String,
    }
    /// End a socket.
    Disconnect {
        socket_id: String,
    }
    /// End all sockets of users, and what they may come back to.
    DisconnectUsers {
        users: Users,
    }
    /// Give an event to a socket, and wait so many milliseconds for an acknowledgement.
    Emit {
        socket_id: String,
        event: String,
        data: String,
        ack_within: Option<u64>,
    }
    /// Rooms in the order of their names, a page of them.
    Rooms {
        namespace: Option<String>,
        tenant: Option<String>,
        cursor: Option<String>,
        limit: usize,
    }
    /// How many members a room has.
    Members {
        namespace: String,
        tenant: Option<String>,
        room: String,
    }
    /// The users in a room.
    RoomMembers {
        namespace: String,
        tenant: Option<String>,
        room: String,
    }
    /// Put sockets into a room, or take them out.
    Move {
        which: Sockets,
        room: String,
        join: bool,
    }
    /// Let some connections go within so many milliseconds.
    Shed {
        part: Part,
        over_ms: u64,
    }
    /// Whether the process lives that is meant.
    Alive {}
    /// The node itself.
    AboutNode {}
}

impl Asked for Connections {
    /// `None`: the cursor is not one that the node gave out.
    type Answer = Option<Page<SocketEntry>>;
}

impl Asked for Connection {
    type Answer = Option<SocketEntry>;
}

impl Asked for Disconnect {
    /// Whether it was there.
    type Answer = bool;
}

impl Asked for DisconnectUsers {
    /// How many.
    type Answer = usize;
}

impl Asked for Emit {
    type Answer = Emitted;

    fn extra_time(&self) -> Duration {
        Duration::from_millis(self.ack_within.unwrap_or(0))
    }
}

impl Asked for Rooms {
    /// `None`: the cursor is not one that a node gave out.
    type Answer = Option<Page<RoomEntry>>;
}

impl Asked for Members {
    type Answer = usize;
}

impl Asked for RoomMembers {
    type Answer = Vec<MemberEntry>;
}

impl Asked for Move {
    /// How many.
    type Answer = usize;
}

impl Asked for Shed {
    /// How many; `None`: the node lets everybody go anyway.
    type Answer = Option<usize>;
}

impl Asked for AboutNode {
    type Answer = NodeEntry;
}

impl Asked for Alive {
    /// Its tag.
    type Answer = Option<u32>;
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

    /// Whether a node lives.
    pub(crate) async fn probe(&self, peer: &Peer) -> Probed {
        let Ok(request) = request(peer, Alive {}) else {
            return Probed::Failed;
        };
        let response = match self.client.request(request).await {
            Ok(response) => response,
            Err(error) if was_refused(&error) => return Probed::Refused,
            Err(_) => return Probed::Failed,
        };
        let is_proven = response.status().is_success();
        let Ok(body) = response.into_body().collect().await else {
            return Probed::Failed;
        };
        match serde_json::from_slice::<Option<u32>>(&body.to_bytes()) {
            // It is another process's address now.
            Ok(Some(tag)) if is_proven && tag != peer.tag => Probed::Refused,
            _ => Probed::Answered,
        }
    }

    /// A node's answer.
    pub(crate) async fn ask<Q: Asked>(&self, peer: &Peer, asked: Q) -> Result<Q::Answer, Silent> {
        let time = ANSWER_TIMEOUT + asked.extra_time();
        let exchange = async {
            let request = request(peer, asked)?;
            let response = self.client.request(request).await;
            let response = response.map_err(|error| error.to_string())?;
            if !response.status().is_success() {
                return Err(format!("it answered {}", response.status()));
            }
            let body = response.into_body().collect().await;
            let body = body.map_err(|error| error.to_string())?.to_bytes();
            serde_json::from_slice(&body).map_err(|error| error.to_string())
        };
        let answered = tokio::time::timeout(time, exchange).await;
        let answered = answered.unwrap_or_else(|_| Err("it did not answer in time".into()));
        answered.map_err(|error| {
            tracing::warn!(node_id = %peer.node_id, error, "another node could not be asked");
            Silent
        })
    }
}

/// A question, as it is put to a node.
fn request(peer: &Peer, asked: impl Into<Question>) -> Result<Request<Full<Bytes>>, String> {
    let question: Question = asked.into();
    let body = serde_json::to_vec(&question).map_err(|error| error.to_string())?;
    let proof = HeaderValue::from_str(&peer.secret).map_err(|error| error.to_string())?;
    Request::post(format!("http://{}{ASK}", peer.address))
        .header(PROOF, proof)
        .body(Full::new(body.into()))
        .map_err(|error| error.to_string())
}

/// Whether nobody listens at an address: a kernel has said so.
fn was_refused(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut causes = std::iter::successors(Some(error), |error| error.source());
    causes.any(|cause| {
        let cause = cause.downcast_ref::<std::io::Error>();
        cause.is_some_and(|cause| cause.kind() == std::io::ErrorKind::ConnectionRefused)
    })
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

impl From<Code> for EmitError {
    fn from(code: Code) -> Self {
        EmitError::new(code.as_str(), code.sentence())
    }
}

impl std::fmt::Display for EmitError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.error)
    }
}

impl std::error::Error for EmitError {}

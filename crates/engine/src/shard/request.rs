//! What HTTP asks of a shard, and what it is answered.

use std::sync::Arc;

use bytes::Bytes;
use heartline_wire::engineio;
use heartline_wire::id::Sid;
use tokio::sync::oneshot;
use tokio_rustls::rustls::ServerConnection;

use crate::shard::stream::Stream;
use crate::slots::SlotGuard;

/// Which protocol a connection speaks below its messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// Engine.IO 4: packets with a type, text pings.
    EngineIo,
    /// Plain WebSocket: messages as they are, ping frames.
    Plain,
}

/// What is known of a connection when it begins.
#[derive(Debug, Default)]
pub struct Handshake {
    /// The `User-Agent` header.
    pub user_agent: Option<Box<str>>,
    /// The token that came with the request: by its header, its query or a cookie.
    pub token: Option<Box<str>>,
    /// All of the request's head, where that is kept.
    pub request: Option<Arc<heartline_wire::handshake::Handshake>>,
}

/// A socket that HTTP has let go, with what it had read ahead.
pub(crate) struct Upgraded {
    pub(crate) tcp: std::net::TcpStream,
    pub(crate) tls: Option<Box<ServerConnection>>,
    /// What must be written before the first frame: HTTP's last response.
    pub(crate) preface: Vec<u8>,
    pub(crate) leftover: Bytes,
    /// The window of permessage-deflate, if that was negotiated.
    pub(crate) deflate: Option<u8>,
}

impl Upgraded {
    pub(super) fn into_stream(self) -> (Stream, Bytes) {
        let tls = self.tls.map(|session| *session);
        (Stream::new(self.tcp, tls), self.leftover)
    }
}

/// Tells a session's requests apart.
pub(crate) type RequestId = u64;

/// What a polling request is answered with.
#[derive(Debug)]
pub(crate) enum Reply {
    /// 200 and this payload.
    Payload(Vec<u8>),
    /// 200 `ok`, to a POST.
    Accepted,
    /// This status and no body.
    Status(u16),
    /// The protocol's own error.
    Error(engineio::RequestError),
}

/// How the body of a POST may be read.
#[derive(Debug)]
pub(crate) enum PostStart {
    /// Go on, up to so many bytes. When the session ends, the receiver has the answer, or ends
    /// itself: to HTTP, that of an unknown `sid`.
    Read(usize, oneshot::Receiver<Reply>),
    /// Answer this.
    Refuse(Reply),
}

/// A request of the HTTP side.
pub(crate) enum Request {
    /// A new WebSocket connection.
    OpenWebSocket {
        protocol: Protocol,
        base64: bool,
        upgraded: Upgraded,
        handshake: Handshake,
        guard: SlotGuard,
    },
    /// A new polling session.
    OpenPolling {
        base64: bool,
        handshake: Handshake,
        guard: SlotGuard,
        reply: oneshot::Sender<Reply>,
    },
    /// Is this session there?
    Exists {
        name: Sid,
        reply: oneshot::Sender<bool>,
    },
    /// A WebSocket for an existing session.
    Upgrade { name: Sid, upgraded: Upgraded },
    Get {
        name: Sid,
        id: RequestId,
        reply: oneshot::Sender<Reply>,
    },
    PostBegins {
        name: Sid,
        id: RequestId,
        reply: oneshot::Sender<PostStart>,
    },
    Post {
        name: Sid,
        id: RequestId,
        body: Bytes,
        reply: oneshot::Sender<Reply>,
    },
    /// The POST was refused by its size; the session goes on.
    PostRefused { name: Sid, id: RequestId },
    /// The request's connection went away, or its body was no good.
    Aborted { name: Sid, id: RequestId },
}

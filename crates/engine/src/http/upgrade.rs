//! From an HTTP request to a WebSocket: the handshake of RFC 6455 §4.2, and taking the
//! socket back from HTTP.

use std::io;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use heartline_wire::ws::deflate::{Agreement, negotiate};
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::{Method, Request as HttpRequest, StatusCode, Version};
use hyper_util::rt::TokioIo;
use sha1::{Digest, Sha1};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use crate::http::answer::{Answer, status, text};
use crate::http::served::{Asking, HttpStream};
use crate::shard::request::Upgraded;

/// A stream to splice, what must be written to it first, and what was read already.
pub(crate) type Spliced = (Box<dyn Duplex>, Vec<u8>, Bytes);

/// What can be read and written.
pub(crate) trait Duplex: AsyncRead + AsyncWrite + Unpin + Send {}
impl<S: AsyncRead + AsyncWrite + Unpin + Send> Duplex for S {}

/// Takes the raw socket back from HTTP.
pub(super) type TakeRaw = fn(hyper::upgrade::Upgraded) -> io::Result<Upgraded>;

/// The ways to take a connection back from HTTP.
#[derive(Clone, Copy)]
pub(super) struct Reclaim {
    /// For a shard.
    pub(super) raw: TakeRaw,
    /// Whether it is encrypted.
    pub(super) tls: bool,
    /// For passing on what it says.
    pub(super) spliced: fn(hyper::upgrade::Upgraded) -> io::Result<Spliced>,
}

pub(super) const PLAIN: Reclaim = Reclaim {
    raw: take_plain,
    tls: false,
    spliced: take_spliced::<TcpStream>,
};
pub(super) const TLS: Reclaim = Reclaim {
    raw: take_tls,
    tls: true,
    spliced: take_spliced::<tokio_rustls::server::TlsStream<TcpStream>>,
};

fn take_spliced<S: Duplex + 'static>(upgraded: hyper::upgrade::Upgraded) -> io::Result<Spliced> {
    let parts = upgraded
        .downcast::<TokioIo<HttpStream<S>>>()
        .map_err(|_| io::Error::other("not the stream that was served"))?;
    let (stream, preface, leftover) = parts.io.into_inner().into_parts(parts.read_buf);
    Ok((Box::new(stream), preface, leftover))
}

fn take_plain(upgraded: hyper::upgrade::Upgraded) -> io::Result<Upgraded> {
    let parts = upgraded
        .downcast::<TokioIo<HttpStream<TcpStream>>>()
        .map_err(|_| io::Error::other("not the stream that was served"))?;
    let (tcp, preface, leftover) = parts.io.into_inner().into_parts(parts.read_buf);
    Ok(Upgraded {
        tcp: tcp.into_std()?,
        tls: None,
        preface,
        leftover,
        deflate: None,
    })
}

fn take_tls(upgraded: hyper::upgrade::Upgraded) -> io::Result<Upgraded> {
    let parts = upgraded
        .downcast::<TokioIo<HttpStream<tokio_rustls::server::TlsStream<TcpStream>>>>()
        .map_err(|_| io::Error::other("not the stream that was served"))?;
    let (stream, preface, leftover) = parts.io.into_inner().into_parts(parts.read_buf);
    let (tcp, session) = stream.into_inner();
    Ok(Upgraded {
        tcp: tcp.into_std()?,
        tls: Some(Box::new(session)),
        preface,
        leftover,
        deflate: None,
    })
}

pub(super) fn wants_upgrade<B>(request: &HttpRequest<B>) -> bool {
    let has = |name: HeaderName, word: &str| {
        request
            .headers()
            .get_all(name)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .any(|token| token.trim().eq_ignore_ascii_case(word))
    };
    has(header::UPGRADE, "websocket") && has(header::CONNECTION, "upgrade")
}

/// Why there can be no upgrade, where the request is of a version of HTTP that has none (RFC 9110
/// §7.8): a proxy has spoken it, as no client of WebSockets does.
pub(super) fn too_old<B>(request: &HttpRequest<B>) -> Option<Answer> {
    (request.version() < Version::HTTP_11).then(|| {
        upgrade_required(
            "this request came as HTTP/1.0, in which there are no WebSockets: a proxy in between \
             must speak HTTP/1.1 (nginx: proxy_http_version 1.1)",
        )
    })
}

/// Says that a WebSocket is wanted here.
pub(super) fn upgrade_required(what: &'static str) -> Answer {
    let mut answer = text(StatusCode::UPGRADE_REQUIRED, what);
    let headers = answer.headers_mut();
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    answer
}

/// What is agreed on of the extensions that a client offers.
fn offers(headers: &HeaderMap) -> Option<Agreement> {
    headers
        .get_all(header::SEC_WEBSOCKET_EXTENSIONS)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .find_map(negotiate)
}

/// The first subprotocol that a client offers. Which one means nothing here, but browsers end
/// a connection that takes none of those they offered.
fn subprotocol(headers: &HeaderMap) -> Option<HeaderValue> {
    let is_token = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
    headers
        .get_all(header::SEC_WEBSOCKET_PROTOCOL)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .find(|name| !name.is_empty() && name.chars().all(is_token))
        .and_then(|name| HeaderValue::from_str(name).ok())
}

/// What a handshake has led to.
pub(super) struct Agreed {
    /// `Sec-WebSocket-Accept`.
    accept: String,
    protocol: Option<HeaderValue>,
    extension: Option<Agreement>,
}

impl Agreed {
    /// The window of permessage-deflate, if that was negotiated.
    pub(super) fn deflate(&self) -> Option<u8> {
        self.extension.map(|agreed| agreed.server_window_bits)
    }

    /// The last response of HTTP, with these headers besides.
    pub(super) fn response(&self, besides: &HeaderMap) -> Vec<u8> {
        let mut out = Vec::with_capacity(256);
        out.extend_from_slice(
            b"HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: websocket\r\n",
        );
        let mut line = |name: &[u8], value: &[u8]| {
            for part in [name, b": ", value, b"\r\n"] {
                out.extend_from_slice(part);
            }
        };
        line(b"sec-websocket-accept", self.accept.as_bytes());
        if let Some(protocol) = &self.protocol {
            line(b"sec-websocket-protocol", protocol.as_bytes());
        }
        if let Some(extension) = &self.extension {
            line(b"sec-websocket-extensions", extension.header().as_bytes());
        }
        for (name, value) in besides {
            line(name.as_str().as_bytes(), value.as_bytes());
        }
        out.extend_from_slice(b"\r\n");
        out
    }
}

/// The server's side of the handshake (RFC 6455 §4.2.2), or what is wrong with the client's.
pub(super) fn agree<B>(request: &HttpRequest<B>, compression: bool) -> Result<Agreed, Box<Answer>> {
    if let Some(answer) = too_old(request) {
        return Err(Box::new(answer));
    }
    if request.method() != Method::GET {
        let answer = text(
            StatusCode::METHOD_NOT_ALLOWED,
            "a WebSocket begins with GET",
        );
        return Err(Box::new(answer));
    }
    let headers = request.headers();
    if headers
        .get(header::SEC_WEBSOCKET_VERSION)
        .is_none_or(|version| version != "13")
    {
        let mut answer = text(
            StatusCode::UPGRADE_REQUIRED,
            "WebSocket version 13 is spoken here",
        );
        answer.headers_mut().insert(
            header::SEC_WEBSOCKET_VERSION,
            HeaderValue::from_static("13"),
        );
        return Err(Box::new(answer));
    }
    let key = headers.get(header::SEC_WEBSOCKET_KEY);
    let Some(key) = key.filter(|key| STANDARD.decode(key).is_ok_and(|key| key.len() == 16)) else {
        let answer = text(
            StatusCode::BAD_REQUEST,
            "the Sec-WebSocket-Key header is missing or malformed",
        );
        return Err(Box::new(answer));
    };
    let mut hash = Sha1::new();
    hash.update(key.as_bytes());
    hash.update(b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    Ok(Agreed {
        accept: STANDARD.encode(hash.finalize()),
        protocol: subprotocol(headers),
        extension: compression.then(|| offers(headers)).flatten(),
    })
}

/// Answers 101 and gives the socket to `then`.
pub(super) fn switch(
    request: &mut HttpRequest<Asking>,
    compression: bool,
    take: TakeRaw,
    then: impl FnOnce(Upgraded) + Send + 'static,
) -> Answer {
    let agreed = match agree(request, compression) {
        Ok(agreed) => agreed,
        Err(answer) => return *answer,
    };
    let mut answer = status(StatusCode::SWITCHING_PROTOCOLS);
    let out = answer.headers_mut();
    out.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    out.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    let deflate = agreed.deflate();
    if let Ok(accept) = HeaderValue::from_str(&agreed.accept) {
        out.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
    }
    if let Some(protocol) = agreed.protocol {
        out.insert(header::SEC_WEBSOCKET_PROTOCOL, protocol);
    }
    if let Some(extension) = agreed.extension {
        if let Ok(value) = HeaderValue::from_str(&extension.header()) {
            out.insert(header::SEC_WEBSOCKET_EXTENSIONS, value);
        }
    }
    let upgrade = hyper::upgrade::on(request);
    tokio::spawn(async move {
        match upgrade.await.map_err(io::Error::other).and_then(take) {
            Ok(upgraded) => then(Upgraded {
                deflate,
                ..upgraded
            }),
            Err(error) => tracing::debug!(%error, "an upgrade was not completed"),
        }
    });
    answer
}

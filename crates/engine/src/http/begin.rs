//! Which requests begin a connection, of either protocol, and what is refused before the upgrade.

use std::net::IpAddr;
use std::sync::Arc;

use heartline_wire::engineio::RequestError;
use heartline_wire::id::Sid;
use http_body_util::Full;
use hyper::header::{self, HeaderMap, HeaderValue};
use hyper::{Method, Request as HttpRequest, StatusCode};
use tokio::sync::oneshot;

use crate::http::answer::{Answer, panicked, problem, refusal, reply_to_answer, text};
use crate::http::cors::Origin;
use crate::http::front::{Asker, HttpFront, Sender};
use crate::http::head::Query;
use crate::http::remote::client_address;
use crate::http::served::Asking;
use crate::http::upgrade::{Reclaim, switch, too_old, upgrade_required, wants_upgrade};
use crate::shard::request::{Handshake, Protocol, Request};
use crate::slots::{Refused, SlotGuard, address_group};
use crate::tasks::guarded_wait;

impl<Op: Send + 'static> HttpFront<Op> {
    /// A request to the endpoint of Engine.IO.
    pub(super) async fn engineio(
        self: &Arc<Self>,
        request: HttpRequest<Asking>,
        sender: Sender,
        origin: &Origin,
    ) -> Answer {
        let query = Query::of(&request);
        let websocket = match query.get("transport").as_deref() {
            Some("websocket") => true,
            Some("polling") => false,
            _ => return refusal(RequestError::UnknownTransport, wants_upgrade(&request)),
        };
        let upgrade = wants_upgrade(&request);
        match origin {
            Origin::Malformed => return refusal(RequestError::BadRequest, upgrade),
            Origin::Foreign(_) => return refusal(RequestError::Forbidden, upgrade),
            Origin::Absent | Origin::Allowed(_) => {}
        }
        if websocket
            && upgrade
            && let Some(answer) = too_old(&request)
        {
            return answer;
        }
        if let Some(sid) = query.get("sid") {
            let Some(name) = Sid::decode(&sid) else {
                return refusal(RequestError::UnknownSid, upgrade);
            };
            let transport = (websocket, upgrade);
            return self.in_session(request, name, transport, sender).await;
        }
        if request.method() != Method::GET {
            return refusal(RequestError::BadHandshakeMethod, upgrade);
        }
        if websocket != upgrade {
            return refusal(RequestError::BadRequest, upgrade);
        }
        if query.get("EIO").as_deref() != Some("4") {
            return refusal(RequestError::UnsupportedProtocolVersion, upgrade);
        }
        let guard = match self.admit(sender.ip, request.headers()) {
            Ok(guard) => guard,
            Err(answer) => return *answer,
        };
        let headers = match self.gatekeep(&request).await {
            Ok(headers) => headers,
            Err(answer) => return answer,
        };
        let base64 = query
            .get("b64")
            .is_some_and(|value| value == "1" || value == "true");
        let handshake = self.handshake(&request, origin);
        if websocket {
            let take = sender.take;
            let mut answer =
                self.open_websocket(request, Protocol::EngineIo, base64, handshake, guard, take);
            answer.headers_mut().extend(headers);
            return answer;
        }
        let (reply, answer) = oneshot::channel();
        self.least_loaded().request(Request::OpenPolling {
            base64,
            handshake,
            guard,
            reply,
        });
        let mut answer = reply_to_answer(answer.await);
        answer.headers_mut().extend(headers);
        answer
    }

    /// A request to the path of plain WebSockets.
    pub(super) async fn live(
        self: &Arc<Self>,
        request: HttpRequest<Asking>,
        sender: Sender,
    ) -> Answer {
        let origin = self.origin(&request, sender);
        match origin {
            Origin::Malformed => {
                return text(StatusCode::BAD_REQUEST, "the Origin header is malformed");
            }
            Origin::Foreign(_) => {
                return text(
                    StatusCode::FORBIDDEN,
                    "this origin is not in server.allowed_origins",
                );
            }
            Origin::Absent | Origin::Allowed(_) => {}
        }
        if !wants_upgrade(&request) {
            return upgrade_required("connect to this path with a WebSocket");
        }
        if let Some(answer) = too_old(&request) {
            return answer;
        }
        let guard = match self.admit(sender.ip, request.headers()) {
            Ok(guard) => guard,
            Err(answer) => return *answer,
        };
        let headers = match self.gatekeep(&request).await {
            Ok(headers) => headers,
            Err(answer) => return answer,
        };
        let handshake = self.handshake(&request, &origin);
        let take = sender.take;
        let mut answer =
            self.open_websocket(request, Protocol::Plain, false, handshake, guard, take);
        answer.headers_mut().extend(headers);
        answer
    }

    fn open_websocket(
        self: &Arc<Self>,
        mut request: HttpRequest<Asking>,
        protocol: Protocol,
        base64: bool,
        handshake: Handshake,
        guard: SlotGuard,
        take: Reclaim,
    ) -> Answer {
        let front = self.clone();
        switch(
            &mut request,
            self.settings.compression,
            take.raw,
            move |upgraded| {
                front.least_loaded().request(Request::OpenWebSocket {
                    protocol,
                    base64,
                    upgraded,
                    handshake,
                    guard,
                });
            },
        )
    }

    /// A place for a new connection, or why not.
    fn admit(&self, peer: IpAddr, headers: &HeaderMap) -> Result<SlotGuard, Box<Answer>> {
        if *self.parts.draining.borrow() {
            let mut answer = text(StatusCode::SERVICE_UNAVAILABLE, "this node is going away");
            answer
                .headers_mut()
                .insert(header::RETRY_AFTER, HeaderValue::from_static("2"));
            return Err(Box::new(answer));
        }
        let client = client_address(peer, headers, &self.settings.trusted_proxies);
        if let Some(limiter) = &self.parts.connect_limiter {
            if let Err(wait) = limiter(address_group(client), Asker::Http) {
                let mut answer = text(
                    StatusCode::TOO_MANY_REQUESTS,
                    "too many new connections from this address",
                );
                answer
                    .headers_mut()
                    .insert(header::RETRY_AFTER, HeaderValue::from(wait.div_ceil(1000)));
                return Err(Box::new(answer));
            }
        }
        self.parts.slots.take(client).map_err(|refused| {
            Box::new(match refused {
                Refused::Full => text(StatusCode::SERVICE_UNAVAILABLE, "no more connections here"),
                Refused::Address => text(
                    StatusCode::TOO_MANY_REQUESTS,
                    "too many connections from this address",
                ),
            })
        })
    }

    /// Asks the app, which has to answer for what is within the limits only, whether a
    /// connection may begin so; headers for the response.
    async fn gatekeep(&self, request: &HttpRequest<Asking>) -> Result<HeaderMap, Answer> {
        let Some(gatekeeper) = &self.parts.gatekeeper else {
            return Ok(HeaderMap::new());
        };
        let mut head = HttpRequest::new(());
        *head.method_mut() = request.method().clone();
        *head.uri_mut() = request.uri().clone();
        *head.headers_mut() = request.headers().clone();
        match guarded_wait(|| gatekeeper(head)).await {
            Some(answer) => answer.map_err(|refused| refused.map(Full::new)),
            None => Err(problem(StatusCode::INTERNAL_SERVER_ERROR, panicked())),
        }
    }
}

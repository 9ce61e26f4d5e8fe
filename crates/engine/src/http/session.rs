//! Requests for a session that there is, or was: polls, what is posted, and the upgrade.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use heartline_wire::engineio::RequestError;
use heartline_wire::id::Sid;
use hyper::header::{self, HeaderValue};
use hyper::{Method, Request as HttpRequest, StatusCode};
use tokio::sync::oneshot;

use crate::http::answer::{Answer, refusal, reply_to_answer, status};
use crate::http::body::{BODY_TIMEOUT, BodyError, read_body};
use crate::http::compress::{Coding, accepted, compressed};
use crate::http::forward::{Forwarder, forward};
use crate::http::front::{HttpFront, Sender};
use crate::http::served::Asking;
use crate::http::upgrade::{Reclaim, switch};
use crate::shard::ShardHandle;
use crate::shard::request::{PostStart, Reply, Request, RequestId};

impl<Op: Send + 'static> HttpFront<Op> {
    /// A request for a session that there is, or was, with this transport; whether it `upgrade`s.
    pub(super) async fn in_session(
        self: &Arc<Self>,
        request: HttpRequest<Asking>,
        name: Sid,
        (websocket, upgrade): (bool, bool),
        sender: Sender,
    ) -> Answer {
        if let Some(forwarder) = self.forwarder(&name, sender) {
            return forward(forwarder, request, &name, sender.take).await;
        }
        match (websocket, upgrade) {
            (true, true) => self.upgrade(request, name, sender.take).await,
            (true, false) => refusal(RequestError::BadRequest, false),
            (false, _) => self.poll(request, name).await,
        }
    }

    /// Who hands a request on, if it is not for this node.
    fn forwarder(&self, name: &Sid, sender: Sender) -> Option<&Forwarder> {
        let forwarder = self.parts.forwarder.as_ref()?;
        (!sender.is_node && forwarder.is_foreign(name)).then_some(forwarder)
    }

    async fn poll(self: &Arc<Self>, request: HttpRequest<Asking>, name: Sid) -> Answer {
        let Some(shard) = self.shard(&name) else {
            return refusal(RequestError::UnknownSid, false);
        };
        match *request.method() {
            Method::GET => {
                let coding = accepted(request.headers());
                self.poll_get(shard, name, coding).await
            }
            Method::POST => self.poll_post(shard, request, name).await,
            _ => {
                let (reply, exists) = oneshot::channel();
                shard.request(Request::Exists { name, reply });
                match exists.await {
                    Ok(true) => status(StatusCode::METHOD_NOT_ALLOWED),
                    _ => refusal(RequestError::UnknownSid, false),
                }
            }
        }
    }

    async fn poll_get(&self, shard: &ShardHandle<Op>, name: Sid, coding: Option<Coding>) -> Answer {
        let id = self.requests.fetch_add(1, Ordering::Relaxed);
        let abort = Abort::new(shard, name, id);
        let (reply, answer) = oneshot::channel();
        shard.request(Request::Get { name, id, reply });
        let reply = answer.await;
        abort.disarm();
        let from = self.settings.http_compression.unwrap_or(usize::MAX);
        match (reply, coding) {
            (Ok(Reply::Payload(payload)), Some(coding)) if payload.len() >= from => {
                compressed(payload.into(), coding).await
            }
            (reply, _) => reply_to_answer(reply),
        }
    }

    async fn poll_post(
        &self,
        shard: &ShardHandle<Op>,
        request: HttpRequest<Asking>,
        name: Sid,
    ) -> Answer {
        let id = self.requests.fetch_add(1, Ordering::Relaxed);
        let abort = Abort::new(shard, name, id);
        let (reply, start) = oneshot::channel();
        shard.request(Request::PostBegins { name, id, reply });
        let (bound, mut ended) = match start.await {
            Ok(PostStart::Read(bound, ended)) => (bound, ended),
            Ok(PostStart::Refuse(reply)) => {
                abort.disarm();
                return reply_to_answer(Ok(reply));
            }
            Err(_) => return refusal(RequestError::UnknownSid, false),
        };
        let kind = request.headers().get(header::CONTENT_TYPE);
        if kind.is_some_and(|kind| kind == "application/octet-stream") {
            return status(StatusCode::BAD_REQUEST);
        }
        let too_large = || {
            abort.disarm();
            shard.request(Request::PostRefused { name, id });
            let mut answer = status(StatusCode::PAYLOAD_TOO_LARGE);
            // There may be more of the body than was read.
            answer
                .headers_mut()
                .insert(header::CONNECTION, HeaderValue::from_static("close"));
            answer
        };
        let body = tokio::select! {
            body = read_body(request.into_body(), bound) => body,
            // Ended meanwhile, by a second POST for instance.
            answer = &mut ended => return reply_to_answer(answer),
            () = tokio::time::sleep(BODY_TIMEOUT) => return status(StatusCode::REQUEST_TIMEOUT),
        };
        let body = match body {
            Ok(body) => body,
            Err(BodyError::TooLarge) => return too_large(),
            Err(BodyError::Broken) => return status(StatusCode::BAD_REQUEST),
        };
        let (reply, answer) = oneshot::channel();
        shard.request(Request::Post {
            name,
            id,
            body,
            reply,
        });
        let answer = answer.await;
        abort.disarm();
        reply_to_answer(answer)
    }

    async fn upgrade(
        self: &Arc<Self>,
        mut request: HttpRequest<Asking>,
        name: Sid,
        take: Reclaim,
    ) -> Answer {
        let Some(shard) = self.shard(&name).cloned() else {
            return refusal(RequestError::UnknownSid, true);
        };
        let (reply, exists) = oneshot::channel();
        shard.request(Request::Exists { name, reply });
        if !matches!(exists.await, Ok(true)) {
            return refusal(RequestError::UnknownSid, true);
        }
        switch(
            &mut request,
            self.settings.compression,
            take.raw,
            move |upgraded| {
                shard.request(Request::Upgrade { name, upgraded });
            },
        )
    }
}

/// Tells the shard if the request it belongs to is dropped unanswered.
struct Abort<'a, Op> {
    shard: &'a ShardHandle<Op>,
    name: Sid,
    id: RequestId,
    armed: AtomicBool,
}

impl<'a, Op> Abort<'a, Op> {
    fn new(shard: &'a ShardHandle<Op>, name: Sid, id: RequestId) -> Self {
        Abort {
            shard,
            name,
            id,
            armed: AtomicBool::new(true),
        }
    }

    fn disarm(&self) {
        self.armed.store(false, Ordering::Relaxed);
    }
}

impl<Op> Drop for Abort<'_, Op> {
    fn drop(&mut self) {
        if *self.armed.get_mut() {
            self.shard.request(Request::Aborted {
                name: self.name,
                id: self.id,
            });
        }
    }
}

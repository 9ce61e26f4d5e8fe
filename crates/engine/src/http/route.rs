//! Which request is for whom: the endpoint of Engine.IO and the files beside it, the path of live,
//! and the app. Errors carry CORS headers like everything else, or a browser would hide them from
//! its page.

use std::sync::Arc;

use http_body_util::Full;
use hyper::header::{self, HeaderValue};
use hyper::{Method, Request as HttpRequest, StatusCode};

use crate::http::answer::{Answer, panicked, problem, status};
use crate::http::body::{BODY_TIMEOUT, BodyError, read_body};
use crate::http::client_files;
use crate::http::front::{HttpFront, Sender};
use crate::http::head::names_its_host;
use crate::http::served::Asking;
use crate::tasks::guarded_wait;

impl<Op: Send + 'static> HttpFront<Op> {
    pub(super) async fn answer(
        self: Arc<Self>,
        request: HttpRequest<Asking>,
        sender: Sender,
    ) -> Answer {
        let front = self.clone();
        let mut answer = match names_its_host(&request) {
            true => front.route(request, sender).await,
            false => problem(
                StatusCode::BAD_REQUEST,
                "the header Host must be there once",
            ),
        };
        if *self.parts.draining.borrow() && answer.status() != StatusCode::SWITCHING_PROTOCOLS {
            answer
                .headers_mut()
                .insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        answer
    }

    pub(super) async fn route(
        self: Arc<Self>,
        request: HttpRequest<Asking>,
        sender: Sender,
    ) -> Answer {
        let path = request.uri().path();
        if path.starts_with(&self.settings.engineio_path) {
            let origin = self.origin(&request, sender);
            let file = client_files::name(&path[self.settings.engineio_path.len()..]);
            let mut answer = if request.method() == Method::OPTIONS {
                let mut answer = status(StatusCode::NO_CONTENT);
                origin.apply_preflight(request.headers(), answer.headers_mut());
                answer
            } else if let Some(name) = file {
                let files = &self.client_files;
                files
                    .answer(request.method(), request.headers(), name)
                    .await
            } else {
                self.engineio(request, sender, &origin).await
            };
            origin.apply(answer.headers_mut());
            return answer;
        }
        if self.settings.live_path.as_deref() == Some(path) {
            return self.live(request, sender).await;
        }
        self.app(request, sender).await
    }

    /// What is neither Socket.IO nor live is the app's to answer.
    async fn app(&self, request: HttpRequest<Asking>, sender: Sender) -> Answer {
        let Some(fallback) = &self.parts.fallback else {
            return problem(StatusCode::NOT_FOUND, "there is nothing at this path");
        };
        let visitor = self.visitor(&request, sender);
        let unread = {
            let origin = visitor.origin.clone();
            move |code, why: &str| {
                let mut answer = problem(code, why);
                origin.apply(answer.headers_mut());
                answer
            }
        };
        let (mut parts, body) = request.into_parts();
        parts.extensions.insert(visitor);
        let reading = read_body(body, self.settings.max_body);
        let body = match tokio::time::timeout(BODY_TIMEOUT, reading).await {
            Ok(Ok(body)) => body,
            Ok(Err(BodyError::TooLarge)) => {
                let bound = self.settings.max_body;
                let why = format!("the body may have {bound} bytes at most");
                return unread(StatusCode::PAYLOAD_TOO_LARGE, &why);
            }
            Ok(Err(BodyError::Broken)) => {
                return unread(StatusCode::BAD_REQUEST, "the body ended early");
            }
            Err(_) => return unread(StatusCode::REQUEST_TIMEOUT, "the body took too long"),
        };
        let request = HttpRequest::from_parts(parts, body);
        match guarded_wait(|| fallback(request)).await {
            Some(answer) => answer.map(Full::new),
            None => unread(StatusCode::INTERNAL_SERVER_ERROR, panicked()),
        }
    }
}

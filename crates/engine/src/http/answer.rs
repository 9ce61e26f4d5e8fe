//! What HTTP requests are answered with.

use bytes::Bytes;
use heartline_wire::engineio::RequestError;
use heartline_wire::json;
use http_body_util::Full;
use hyper::header::{self, HeaderValue};
use hyper::{Response, StatusCode};
use tokio::sync::oneshot;

use crate::shard::request::Reply;

pub(super) type Answer = Response<Full<Bytes>>;

pub(super) fn reply_to_answer(reply: Result<Reply, oneshot::error::RecvError>) -> Answer {
    match reply {
        Ok(Reply::Payload(payload)) => payload_answer(payload.into()),
        Ok(Reply::Accepted) => accepted("ok".into(), "text/html"),
        Ok(Reply::Status(code)) => {
            status(StatusCode::from_u16(code).unwrap_or(StatusCode::BAD_REQUEST))
        }
        Ok(Reply::Error(error)) => refusal(error, false),
        // The session ended while the request waited.
        Err(_) => refusal(RequestError::UnknownSid, false),
    }
}

/// What a session had to say.
pub(super) fn payload_answer(payload: Bytes) -> Answer {
    accepted(payload, "text/plain; charset=UTF-8")
}

fn accepted(body: Bytes, kind: &'static str) -> Answer {
    let mut answer = Response::new(Full::new(body));
    let headers = answer.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    answer
}

/// The protocol's error: JSON to a polling request, text to an upgrade.
pub(super) fn refusal(error: RequestError, upgrade: bool) -> Answer {
    if upgrade {
        let code = if matches!(error, RequestError::Forbidden) {
            403
        } else {
            400
        };
        let mut answer = text(
            StatusCode::from_u16(code).unwrap_or(StatusCode::BAD_REQUEST),
            error.message(),
        );
        let headers = answer.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/html"));
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        return answer;
    }
    let mut answer = Response::new(Full::new(error.body().into()));
    *answer.status_mut() =
        StatusCode::from_u16(error.http_status()).unwrap_or(StatusCode::BAD_REQUEST);
    let headers = answer.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    );
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    answer
}

pub(super) fn status(status: StatusCode) -> Answer {
    let mut answer = Response::new(Full::default());
    *answer.status_mut() = status;
    answer
}

pub(super) fn text(code: StatusCode, body: &'static str) -> Answer {
    let mut answer = Response::new(Full::new(Bytes::from_static(body.as_bytes())));
    *answer.status_mut() = code;
    answer.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("text/plain; charset=UTF-8"),
    );
    answer
}

/// What an app's own HTTP is answered where it has no say: an object of JSON like its own errors,
/// `{ error, message }`.
pub(super) fn problem(code: StatusCode, why: &str) -> Answer {
    let mut body = String::from(r#"{"error":"#);
    json::quote_into(code.canonical_reason().unwrap_or("Error"), &mut body);
    body.push_str(r#","message":"#);
    json::quote_into(why, &mut body);
    body.push('}');
    let mut answer = Response::new(Full::new(body.into()));
    *answer.status_mut() = code;
    let headers = answer.headers_mut();
    for (name, value) in [
        (header::CONTENT_TYPE, "application/json"),
        (header::CACHE_CONTROL, "no-store"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    answer
}

/// Code that is not ours has panicked; what is said of that to who asked.
pub(super) fn panicked() -> &'static str {
    tracing::error!("the app's answer to an HTTP request panicked");
    "the request could not be answered"
}

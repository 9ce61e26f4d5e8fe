//! Errors as RFC 9457 problem details, each with a code: the one that clients have for the same
//! (`heartline_wire::codes`) or, where no client is told the like, one of the API's own.

use std::borrow::Cow;

use axum::Json;
use axum::extract::rejection::{JsonRejection, PathRejection, QueryRejection};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use heartline::{BadCursor, Code, NotKnown, PublishError};
use serde_json::json;

/// The code of a problem of which nothing closer than its status is known.
fn code_of(status: StatusCode) -> &'static str {
    match status {
        StatusCode::UNAUTHORIZED => Code::AuthRequired.as_str(),
        StatusCode::FORBIDDEN => Code::Forbidden.as_str(),
        StatusCode::NOT_FOUND => "NOT_FOUND",
        StatusCode::METHOD_NOT_ALLOWED => "METHOD_NOT_ALLOWED",
        StatusCode::CONFLICT => Code::Conflict.as_str(),
        StatusCode::PAYLOAD_TOO_LARGE => Code::PayloadTooLarge.as_str(),
        StatusCode::UNSUPPORTED_MEDIA_TYPE => "UNSUPPORTED_MEDIA_TYPE",
        StatusCode::BAD_GATEWAY => Code::NodeUnreachable.as_str(),
        StatusCode::GATEWAY_TIMEOUT => Code::Timeout.as_str(),
        other if other.is_server_error() => Code::Internal.as_str(),
        _ => Code::InvalidData.as_str(),
    }
}

/// What went wrong, in one sentence.
#[derive(Debug)]
pub(crate) struct Problem {
    status: StatusCode,
    detail: String,
    code: Cow<'static, str>,
    /// Milliseconds.
    retry_after: Option<u64>,
}

impl Problem {
    /// A problem with the code that its status comes to.
    pub(crate) fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        Problem {
            status,
            detail: detail.into(),
            code: code_of(status).into(),
            retry_after: None,
        }
    }

    /// The same with a code that says more than the status does.
    pub(crate) fn with_code(mut self, code: &str) -> Self {
        self.code = code.to_owned().into();
        self
    }

    /// A body that could not be taken, of which there may be `max` bytes.
    pub(super) fn of_body(status: StatusCode, max: usize) -> Self {
        match status {
            StatusCode::PAYLOAD_TOO_LARGE => {
                Problem::new(status, format!("The body has at most {max} bytes"))
            }
            _ => Problem::new(StatusCode::BAD_REQUEST, "The body did not come whole"),
        }
    }

    /// A body that is not JSON, or could not be taken, of which there may be `max` bytes.
    pub(super) fn of_json(error: JsonRejection, max: usize) -> Self {
        match error {
            JsonRejection::MissingJsonContentType(_) => Problem::new(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "The body is JSON: say so with the header Content-Type: application/json",
            ),
            JsonRejection::JsonDataError(_) | JsonRejection::JsonSyntaxError(_) => Problem::new(
                StatusCode::BAD_REQUEST,
                "The body must be an object of JSON",
            ),
            other => Problem::of_body(other.status(), max),
        }
    }

    /// The same with the time after which it is worth trying again, milliseconds.
    pub(crate) fn retry_after(mut self, milliseconds: Option<u64>) -> Self {
        self.retry_after = milliseconds;
        self
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let body = json!({
            "type": "about:blank",
            "title": self.status.canonical_reason().unwrap_or("Error"),
            "status": self.status.as_u16(),
            "detail": self.detail,
            "code": self.code,
        });
        let mut response = (self.status, Json(body)).into_response();
        let headers = response.headers_mut();
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/problem+json"),
        );
        if let Some(milliseconds) = self.retry_after {
            let seconds = HeaderValue::from(milliseconds.div_ceil(1000));
            headers.insert(header::RETRY_AFTER, seconds);
        }
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

impl From<BadCursor> for Problem {
    fn from(error: BadCursor) -> Self {
        Problem::new(StatusCode::BAD_REQUEST, error.to_string())
    }
}

impl From<NotKnown> for Problem {
    fn from(error: NotKnown) -> Self {
        Problem::new(StatusCode::BAD_GATEWAY, error.to_string())
    }
}

impl From<PublishError> for Problem {
    fn from(error: PublishError) -> Self {
        let status = match error {
            PublishError::TooLarge(_) => StatusCode::PAYLOAD_TOO_LARGE,
            PublishError::Unreachable => StatusCode::SERVICE_UNAVAILABLE,
            _ => StatusCode::BAD_REQUEST,
        };
        Problem::new(status, error.to_string()).with_code(error.code().as_str())
    }
}

impl From<PathRejection> for Problem {
    fn from(_: PathRejection) -> Self {
        Problem::new(
            StatusCode::BAD_REQUEST,
            "What the path names must be text in UTF-8",
        )
    }
}

impl From<QueryRejection> for Problem {
    /// Parameters are looked at before they are read: what each may be stands in the table of routes.
    fn from(_: QueryRejection) -> Self {
        Problem::new(
            StatusCode::BAD_REQUEST,
            "The query has a parameter that does not fit",
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_published_has_the_code_that_clients_have_for_it() {
        for (error, status, code) in [
            (PublishError::InvalidRoom, 400, "INVALID_ROOM"),
            (PublishError::InvalidEvent, 400, "INVALID_EVENT"),
            (PublishError::TooDeep, 400, "INVALID_DATA"),
            (PublishError::TooLarge(7), 413, "PAYLOAD_TOO_LARGE"),
            (PublishError::Unreachable, 503, "SEND_FAILED"),
        ] {
            let problem = Problem::from(error);
            assert_eq!(problem.status.as_u16(), status);
            assert_eq!(problem.code, code);
        }
    }
}

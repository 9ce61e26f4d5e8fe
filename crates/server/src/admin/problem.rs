//! Errors as RFC 9457 problem details.

use axum::Json;
use axum::extract::rejection::{JsonRejection, PathRejection, QueryRejection};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use heartline::{BadCursor, NotKnown, PublishError};
use serde_json::json;

/// What went wrong, in one sentence.
#[derive(Debug)]
pub(crate) struct Problem {
    status: StatusCode,
    detail: String,
    code: Option<String>,
    /// Milliseconds.
    retry_after: Option<u64>,
}

impl Problem {
    pub(crate) fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        Problem {
            status,
            detail: detail.into(),
            code: None,
            retry_after: None,
        }
    }

    /// The same with the code that clients have for it.
    pub(crate) fn with_code(mut self, code: &str) -> Self {
        self.code = Some(code.to_owned());
        self
    }

    /// The same with the time after which it is worth trying again, milliseconds.
    pub(crate) fn retry_after(mut self, milliseconds: Option<u64>) -> Self {
        self.retry_after = milliseconds;
        self
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut body = json!({
            "type": "about:blank",
            "title": self.status.canonical_reason().unwrap_or("Error"),
            "status": self.status.as_u16(),
            "detail": self.detail,
        });
        if let Some(code) = self.code {
            body["code"] = code.into();
        }
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

impl From<JsonRejection> for Problem {
    fn from(error: JsonRejection) -> Self {
        let status = match error.status() {
            StatusCode::PAYLOAD_TOO_LARGE => StatusCode::PAYLOAD_TOO_LARGE,
            _ => StatusCode::BAD_REQUEST,
        };
        Problem::new(status, error.body_text())
    }
}

impl From<PathRejection> for Problem {
    fn from(error: PathRejection) -> Self {
        Problem::new(StatusCode::BAD_REQUEST, error.body_text())
    }
}

impl From<QueryRejection> for Problem {
    fn from(error: QueryRejection) -> Self {
        Problem::new(StatusCode::BAD_REQUEST, error.body_text())
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
            assert_eq!(problem.code.as_deref(), Some(code));
        }
    }
}

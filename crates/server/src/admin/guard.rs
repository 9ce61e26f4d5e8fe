//! Who may use the operators' listener, and who `/v1`.

use axum::extract::{Request, State as With};
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use heartline::Code;
use subtle::ConstantTimeEq;

use super::problem::Problem;
use super::state::State;
use crate::hosts::is_local_request;

/// On a loopback listener: answers 403 to what a page from elsewhere, or under a foreign
/// name, can have made a browser ask, unless it has the token.
pub(super) async fn check_host(With(state): With<State>, request: Request, next: Next) -> Response {
    let headers = request.headers();
    let has_token = state
        .token
        .as_ref()
        .is_some_and(|token| bears(headers, token));
    match !state.loopback || has_token || is_local_request(headers) {
        true => next.run(request).await,
        false => Problem::new(
            StatusCode::FORBIDDEN,
            "Only requests from this machine are answered here, and their Host must say so",
        )
        .into_response(),
    }
}

/// For `/v1`: lets a request through, or answers 401 or 403. OPTIONS does nothing anywhere, and
/// browsers ask it without a token.
pub(super) async fn check(With(state): With<State>, request: Request, next: Next) -> Response {
    if request.method() == Method::OPTIONS {
        return next.run(request).await;
    }
    match refusal(&state, request.headers()) {
        Some(problem) => problem.into_response(),
        None => next.run(request).await,
    }
}

fn refusal(state: &State, headers: &HeaderMap) -> Option<Problem> {
    match &state.token {
        Some(token) => (!bears(headers, token)).then(|| {
            let code = match headers.contains_key(header::AUTHORIZATION) {
                true => Code::AuthTokenInvalid,
                false => Code::AuthRequired,
            };
            let what = "Send the header Authorization: Bearer with admin.token";
            Problem::new(StatusCode::UNAUTHORIZED, what).with_code(code.as_str())
        }),
        None => (!state.loopback).then(|| {
            Problem::new(
                StatusCode::FORBIDDEN,
                "Set admin.token: without one, /v1 answers only where admin.listen is a loopback address",
            )
        }),
    }
}

/// Whether a request brings this token. How long the answer takes says nothing of the token
/// but its length.
fn bears(headers: &HeaderMap, token: &str) -> bool {
    let given = headers
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.split_once(' '))
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
        .map_or("", |(_, given)| given.trim());
    token.as_bytes().ct_eq(given.as_bytes()).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_compared_whole() {
        let given = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::AUTHORIZATION, value.parse().unwrap());
            bears(&headers, "abc")
        };
        assert!(given("Bearer abc") && given("bearer  abc "));
        for other in [
            "Bearer abd",
            "Bearer ab",
            "Bearer abcd",
            "Bearer ",
            "abc",
            "Basic abc",
        ] {
            assert!(!given(other), "{other}");
        }
        assert!(!bears(&HeaderMap::new(), "abc"));
    }
}

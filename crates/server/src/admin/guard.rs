//! Who may use `/v1`.

use axum::extract::{Request, State as With};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::problem::Problem;
use super::state::State;
use crate::config::is_loopback;

/// Lets a request through, or answers 401 or 403.
pub(super) async fn check(With(state): With<State>, request: Request, next: Next) -> Response {
    match refusal(&state, request.headers()) {
        Some(problem) => problem.into_response(),
        None => next.run(request).await,
    }
}

fn refusal(state: &State, headers: &HeaderMap) -> Option<Problem> {
    if let Some(token) = &state.token {
        let given = headers
            .get(header::AUTHORIZATION)
            .and_then(|value| value.to_str().ok())
            .and_then(|value| value.split_once(' '))
            .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
            .map_or("", |(_, given)| given.trim());
        return match same(token.as_bytes(), given.as_bytes()) {
            true => None,
            false => Some(Problem::new(
                StatusCode::UNAUTHORIZED,
                "Send the header Authorization: Bearer with admin.token",
            )),
        };
    }
    if !state.loopback {
        return Some(Problem::new(
            StatusCode::FORBIDDEN,
            "Set admin.token: without one, /v1 answers only where admin.listen is a loopback address",
        ));
    }
    // No token to tell a friend by: a web page elsewhere, or a name that was
    // pointed at this machine, must not get through a browser running on it.
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    let local = |host: &str| is_loopback(host) || is_loopback(&format!("{host}:0"));
    let host = text(header::HOST).is_none_or(local);
    let origin = text(header::ORIGIN).is_none_or(|origin| {
        origin
            .split_once("://")
            .is_some_and(|(_, host)| local(host))
    });
    match host && origin {
        true => None,
        false => Some(Problem::new(
            StatusCode::FORBIDDEN,
            "Without admin.token only requests from this machine are answered",
        )),
    }
}

/// Whether two texts are the same, in time that depends on the first's length only.
fn same(expected: &[u8], given: &[u8]) -> bool {
    let mut difference = expected.len() ^ given.len();
    for (index, byte) in expected.iter().enumerate() {
        difference |= usize::from(byte ^ given.get(index).copied().unwrap_or(0));
    }
    std::hint::black_box(difference) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_compared_whole() {
        assert!(same(b"abc", b"abc"));
        for other in [&b"abd"[..], b"ab", b"abcd", b""] {
            assert!(!same(b"abc", other));
        }
    }
}

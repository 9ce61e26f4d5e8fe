//! What operators and backends ask over HTTP.
//!
//! Health and metrics are open to whoever reaches the listener. `/v1` wants
//! the bearer token `admin.token`; without one it answers only on a loopback
//! listener, and then only requests that no foreign web page can have sent.

mod connections;
mod guard;
mod openapi;
mod problem;
mod rooms;
mod state;
mod users;

use axum::extract::DefaultBodyLimit;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router, middleware};
use serde_json::json;
use tokio::net::TcpListener;

use problem::Problem;
pub(crate) use state::State;

/// Largest request body, bytes.
const MAX_BODY: usize = 2_000_000;

/// Answers until it is aborted.
pub(crate) async fn serve(listener: TcpListener, state: State) {
    if let Err(error) = axum::serve(listener, router(state)).await {
        tracing::error!(%error, "the operators' listener failed");
    }
}

fn router(state: State) -> Router {
    let v1 = Router::new()
        .route("/connections", get(connections::list))
        .route(
            "/connections/{socket_id}",
            get(connections::inspect).delete(connections::disconnect),
        )
        .route(
            "/connections/{socket_id}/disconnect",
            post(connections::disconnect),
        )
        .route("/connections/{socket_id}/emit", post(connections::emit))
        .route("/users/{user_id}", get(users::inspect))
        .route("/users/{user_id}/presence", get(users::presence))
        .route(
            "/users/{user_id}/connections",
            get(users::connections).delete(users::disconnect),
        )
        .route("/users/{user_id}/emit", post(users::emit))
        .route("/users/{user_id}/disconnect", post(users::disconnect))
        .route("/presence", post(users::presence_of_many))
        .route("/rooms", get(rooms::list))
        .route("/rooms/{room}", get(rooms::inspect))
        .route(
            "/rooms/{room}/members",
            get(rooms::members).post(rooms::join),
        )
        .route("/rooms/{room}/members/leave", post(rooms::leave))
        .route("/rooms/{room}/publish", post(rooms::publish))
        .route("/broadcast", post(rooms::broadcast))
        .route("/nodes", get(nodes))
        .route("/drain", post(drain))
        .layer(middleware::from_fn_with_state(state.clone(), guard::check))
        .layer(DefaultBodyLimit::max(MAX_BODY));
    Router::new()
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .route("/openapi.json", get(openapi::document))
        .nest("/v1", v1)
        .method_not_allowed_fallback(async || {
            Problem::new(
                StatusCode::METHOD_NOT_ALLOWED,
                "This path has other methods",
            )
        })
        .fallback(async || {
            Problem::new(
                StatusCode::NOT_FOUND,
                "There is nothing at this path; see /openapi.json",
            )
        })
        .with_state(state)
}

async fn healthz() -> Json<serde_json::Value> {
    Json(json!({ "status": "ok" }))
}

async fn readyz(axum::extract::State(state): axum::extract::State<State>) -> Response {
    let cluster = state.gateway.cluster_status();
    match state.gateway.is_draining() {
        // It goes on serving: a node taken out for its Redis would take all out.
        false if cluster.is_some_and(|cluster| cluster.degraded) => {
            Json(json!({ "status": "degraded", "cluster": "unreachable" })).into_response()
        }
        false => Json(json!({ "status": "ready" })).into_response(),
        true => (
            StatusCode::SERVICE_UNAVAILABLE,
            Json(json!({ "status": "draining" })),
        )
            .into_response(),
    }
}

async fn metrics(axum::extract::State(state): axum::extract::State<State>) -> Response {
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    (
        [(header::CONTENT_TYPE, kind)],
        state.gateway.encode_metrics(),
    )
        .into_response()
}

async fn nodes(
    axum::extract::State(state): axum::extract::State<State>,
) -> Json<serde_json::Value> {
    Json(json!({ "nodes": state.gateway.nodes().await }))
}

async fn drain(axum::extract::State(state): axum::extract::State<State>) -> Response {
    // Full means that it has been asked for already.
    let _ = state.drain.try_send(());
    (StatusCode::ACCEPTED, Json(json!({ "draining": true }))).into_response()
}

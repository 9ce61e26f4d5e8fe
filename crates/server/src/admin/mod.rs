//! What operators and backends ask over HTTP.
//!
//! Health and metrics are open to whoever reaches the listener. `/v1` wants
//! the bearer token `admin.token`; without one it answers only on a loopback
//! listener. Such a listener answers nothing that a foreign web page can have sent.

mod connections;
mod conversations;
mod guard;
mod idempotency;
mod invites;
mod listener;
mod metrics;
mod nodes;
mod openapi;
mod problem;
mod rooms;
mod schemas;
mod state;
mod strict;
mod users;

use std::future::Future;
use std::time::Duration;

use axum::extract::{DefaultBodyLimit, Request};
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get, post, put};
use axum::{Json, Router, middleware};
use heartline::Gateway;
use serde_json::json;
use tokio::net::TcpListener;

pub(crate) use idempotency::ONCE;
use listener::Bounded;
use problem::Problem;
pub(crate) use state::State;

/// How long the longest request that is allowed may take, once it has come: an emit under a key, in
/// a cluster, that waits for an acknowledgement.
const LONGEST: Duration = connections::MAX_ACK
    .saturating_add(Gateway::EMIT_TAKES)
    .saturating_add(idempotency::PATIENCE.saturating_mul(2));

/// The methods of what says how the node is, as `Allow` has them.
pub(crate) const HEALTH_METHODS: &str = "GET, HEAD, OPTIONS";

/// A request body may have so many bytes at least.
const MIN_BODY: usize = 2_000_000;

/// Largest request body where data may have `max_payload` bytes: with what stands around it, and
/// with each quotation mark of it as two.
const fn max_body(max_payload: usize) -> usize {
    let twice = max_payload.saturating_mul(2);
    if twice > MIN_BODY { twice } else { MIN_BODY }
}

/// Answers until it is aborted; or until `ended`, and then those who had asked by then.
pub(crate) async fn serve(
    listener: TcpListener,
    state: State,
    ended: impl Future<Output = ()> + Send + 'static,
) {
    let listener = Bounded::new(listener, state.max_body);
    if let Err(error) = listener::serve(listener, router(state), ended).await {
        tracing::error!(%error, "the operators' listener failed");
    }
}

fn router(state: State) -> Router {
    let v1 = Router::new()
        .route("/connections", get(connections::list))
        .route(
            "/connections/{socketId}",
            get(connections::inspect).delete(connections::disconnect),
        )
        .route(
            "/connections/{socketId}/disconnect",
            post(connections::disconnect),
        )
        .route("/connections/{socketId}/emit", post(connections::emit))
        .route("/users/{userId}", get(users::inspect))
        .route("/users/{userId}/presence", get(users::presence))
        .route(
            "/users/{userId}/connections",
            get(users::connections).delete(users::disconnect),
        )
        .route("/users/{userId}/emit", post(users::emit))
        .route("/users/{userId}/disconnect", post(users::disconnect))
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
        .merge(of_conversations())
        .route("/nodes", get(nodes::list))
        .route("/nodes/{nodeId}/shed", post(nodes::shed))
        .route("/drain", post(drain))
        // Who may not ask does not hear either what there is.
        .method_not_allowed_fallback(other_method)
        .fallback(nothing)
        .layer(middleware::from_fn_with_state(
            state.max_body,
            strict::check,
        ))
        .layer(middleware::from_fn_with_state(
            (state.answers.clone(), state.max_body),
            idempotency::obey,
        ))
        .layer(middleware::from_fn_with_state(state.clone(), guard::check))
        .layer(DefaultBodyLimit::max(state.max_body));
    Router::new()
        .route(
            "/healthz",
            asked_by_balancers(get(healthz).options(healthz)),
        )
        .route("/readyz", asked_by_balancers(get(readyz).options(readyz)))
        .route("/metrics", get(metrics::metrics))
        .route("/openapi.json", get(openapi::document))
        .nest("/v1", v1)
        .method_not_allowed_fallback(other_method)
        .fallback(nothing)
        .layer(middleware::from_fn_with_state(
            state.clone(),
            guard::check_host,
        ))
        .with_state(state)
}

async fn other_method() -> Problem {
    let what = "This path has other methods";
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, what)
}

async fn nothing() -> Problem {
    let what = "There is nothing at this path; see /openapi.json";
    Problem::new(StatusCode::NOT_FOUND, what)
}

fn of_conversations() -> Router<State> {
    Router::new()
        .route(
            "/conversations/{conversationId}/messages",
            get(conversations::messages),
        )
        .route(
            "/conversations/{conversationId}/members",
            get(conversations::members)
                .put(conversations::add_members)
                .delete(conversations::remove_members),
        )
        .route(
            "/conversations/{conversationId}/members/{userId}",
            put(conversations::add_member).delete(conversations::remove_member),
        )
        .route("/invites", get(invites::list).post(invites::create))
        .route("/invites/join", post(invites::join))
        .route(
            "/invites/{code}",
            get(invites::inspect).delete(invites::revoke),
        )
}

/// What a balancer asks for, HAProxy with OPTIONS unless it is told otherwise: that has the answer of
/// GET, and says which methods there are.
fn asked_by_balancers(route: MethodRouter<State>) -> MethodRouter<State> {
    route.layer(middleware::from_fn(async |request: Request, next: Next| {
        let is_options = request.method() == Method::OPTIONS;
        let mut response = next.run(request).await;
        if is_options {
            let methods = HeaderValue::from_static(HEALTH_METHODS);
            response.headers_mut().insert(header::ALLOW, methods);
        }
        response
    }))
}

async fn healthz() -> Json<serde_json::Value> {
    Json(json!({ "status": "ok" }))
}

/// A node that lacks something goes on serving, and says what with 200: taken out of the
/// balancer for its Redis, or for the issuer of its keys, all nodes would be out at once.
async fn readyz(axum::extract::State(state): axum::extract::State<State>) -> Response {
    if state.gateway.is_draining() {
        let body = Json(json!({ "status": "draining" }));
        return (StatusCode::SERVICE_UNAVAILABLE, body).into_response();
    }
    let mut body = json!({ "status": "ready" });
    if let Some(cluster) = state.gateway.cluster_status().filter(|it| it.degraded) {
        body["status"] = "degraded".into();
        // Where it answers, changes of presence cannot be read there.
        let trouble = if cluster.unreachable {
            "unreachable"
        } else {
            "unreadable"
        };
        body["cluster"] = trouble.into();
    }
    let keys = state.tokens.key_set();
    if keys.is_some_and(|keys| keys.trouble().is_some()) {
        body["status"] = "degraded".into();
        body["keys"] = "unreachable".into();
    }
    if state.gateway.store().is_in_trouble() {
        body["status"] = "degraded".into();
        body["store"] = "failing".into();
    }
    Json(body).into_response()
}

async fn drain(axum::extract::State(state): axum::extract::State<State>) -> Response {
    // Full means that it has been asked for already.
    let _ = state.drain.try_send(());
    (StatusCode::ACCEPTED, Json(json!({ "draining": true }))).into_response()
}

//! What `--dev` adds: a secret for the run, the demo page, ready-made tokens.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use heartline::{Gateway, HttpRequest, HttpResponse};
use serde_json::json;

use crate::auth::jwt::system_clock;
use crate::auth::sign::{Claims, sign};
use crate::config::{JwtSettings, Settings};
use crate::hosts::is_local_request;

const PAGE: &str = include_str!("../assets/demo.html");
/// How long the demo's tokens are good for, seconds.
const TOKEN_TTL: u64 = 12 * 3600;
/// Users listed by `/dev/online`.
const LISTED: usize = 500;

/// Gives the run a secret, unless it has a way to verify tokens already: `/dev/token` signs
/// with no other.
pub(crate) fn prepare(settings: &mut Settings) {
    if !settings.jwt.is_configured() {
        let mut secret = [0u8; 32];
        getrandom::fill(&mut secret).expect("the operating system gives randomness");
        settings.jwt.secret = Some(URL_SAFE_NO_PAD.encode(secret));
        settings.secret_of_the_run = true;
    }
}

/// A token for a user of the demo.
pub(crate) fn token(
    jwt: &JwtSettings,
    user: &str,
    device: Option<&str>,
) -> Result<(String, u64), String> {
    let expires = system_clock() + TOKEN_TTL;
    let claims = Claims {
        user: user.to_owned(),
        device: device.map(ToOwned::to_owned),
        ..Claims::default()
    };
    Ok((sign(jwt, &claims, expires)?, expires * 1000))
}

/// Answers `/`, `/dev/token` and `/dev/online`; `None` for other paths.
pub(crate) fn answer(
    settings: &Settings,
    gateway: &Gateway,
    request: &HttpRequest,
) -> Option<HttpResponse> {
    let path = request.uri().path();
    if path.starts_with("/dev/") && !is_local_request(request.headers()) {
        return Some(respond(
            403,
            "text/plain; charset=utf-8",
            "only requests from this machine are answered here, and their Host must say so".into(),
        ));
    }
    match path {
        "/" if settings.demo_page => {
            let live = settings.gateway.live_path.as_deref().unwrap_or("/live");
            let page = PAGE.replace("__LIVE_PATH__", live);
            Some(respond(200, "text/html; charset=utf-8", page))
        }
        "/dev/token" if !settings.secret_of_the_run => Some(respond(
            403,
            "text/plain; charset=utf-8",
            "auth.jwt is configured, and this signs no tokens that are good elsewhere: make them \
             with `heartline token --user NAME`, or leave auth.jwt out"
                .into(),
        )),
        "/dev/token" => {
            let parameter = |name: &str| {
                let query = request.uri().query().unwrap_or_default();
                form_urlencoded::parse(query.as_bytes())
                    .find(|(key, value)| key == name && !value.is_empty())
                    .map(|(_, value)| value.into_owned())
            };
            let Some(user) = parameter("user").filter(|user| user.len() <= 64) else {
                return Some(respond(
                    400,
                    "text/plain; charset=utf-8",
                    "give ?user=NAME of at most 64 bytes".into(),
                ));
            };
            let answer = match token(&settings.jwt, &user, parameter("device").as_deref()) {
                Ok((token, expires_at)) => json!({ "token": token, "expiresAt": expires_at }),
                Err(error) => return Some(respond(503, "text/plain; charset=utf-8", error)),
            };
            Some(respond(200, "application/json", answer.to_string()))
        }
        "/dev/online" => {
            let users: Vec<_> = gateway
                .online_users(LISTED)
                .iter()
                .map(|user| json!({ "userId": &*user.user_id }))
                .collect();
            Some(respond(
                200,
                "application/json",
                json!({ "users": users }).to_string(),
            ))
        }
        _ => None,
    }
}

/// What `--dev` prints once the node listens at these addresses.
pub(crate) fn greeting(settings: &Settings, address: &str, admin_address: &str) -> String {
    let tls = settings.tls_cert.is_some();
    let s = if tls { "s" } else { "" };
    let page = match settings.demo_page {
        true => format!("  demo page   http{s}://{address}/\n"),
        false => String::new(),
    };
    let live = settings.gateway.live_path.as_ref();
    let live = live.map_or(String::new(), |path| {
        format!("  live        ws{s}://{address}{path}\n")
    });
    let path = &settings.gateway.socketio_path;
    let version = env!("CARGO_PKG_VERSION");
    let others = match settings.secret_of_the_run {
        // The secret is nowhere but in this process: `heartline token` cannot sign with it.
        true => format!("curl \"http{s}://{address}/dev/token?user=bob\""),
        false => "`heartline token --user bob`, with the same configuration".to_owned(),
    };
    let token = match token(&settings.jwt, "alice", None) {
        Ok((token, _)) => format!(
            "a token for user alice, good for 12 hours:\n  {token}\n\n  for other users: {others}"
        ),
        Err(_) => "tokens are verified with your own key; sign one there".to_owned(),
    };
    format!(
        "Heartline {version} for development on this machine

{page}  Socket.IO   http{s}://{address}  (path {path})
{live}  API         http://{admin_address}/v1/connections
  metrics     http://{admin_address}/metrics

  {token}

  Ctrl-C stops it.
"
    )
}

/// A response of the public port.
pub(crate) fn respond(status: u16, kind: &'static str, body: String) -> HttpResponse {
    let mut response = HttpResponse::new(Bytes::from(body));
    *response.status_mut() = axum::http::StatusCode::from_u16(status).unwrap_or_default();
    let headers = response.headers_mut();
    headers.insert("content-type", axum::http::HeaderValue::from_static(kind));
    headers.insert(
        "cache-control",
        axum::http::HeaderValue::from_static("no-store"),
    );
    headers.insert(
        "x-content-type-options",
        axum::http::HeaderValue::from_static("nosniff"),
    );
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_greeting_names_what_there_is() {
        let greeted = |page: bool, live: Option<&str>| {
            let mut settings = Settings {
                demo_page: page,
                ..Settings::default()
            };
            settings.gateway.live_path = live.map(Into::into);
            prepare(&mut settings);
            greeting(&settings, "127.0.0.1:8080", "127.0.0.1:9090")
        };
        let all = greeted(true, Some("/live"));
        let page = "  demo page   http://127.0.0.1:8080/\n";
        let live = "  live        ws://127.0.0.1:8080/live\n";
        let socketio = "  Socket.IO   http://127.0.0.1:8080  (path /socket.io/)\n";
        assert!(
            all.contains(&format!("\n\n{page}{socketio}{live}  API ")),
            "{all}"
        );
        let bare = greeted(false, None);
        assert!(bare.contains(&format!("\n\n{socketio}  API ")), "{bare}");
        assert!(
            !bare.contains("demo page") && !bare.contains("live "),
            "{bare}"
        );
    }
}

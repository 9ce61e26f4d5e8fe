//! The app's side of HTTP: its own answers, and first requests that it answers itself.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use heartline::config::{ConnectLimit, Limit};
use heartline::{Config, HeaderMap, HttpResponse};
use hyper::header::{HeaderValue, SET_COOKIE};
use hyper::{Response, StatusCode};

use crate::support::{Client, DEADLINE, Http, Polling, start, until};
use crate::{app, config, heard, panics};

pub(crate) fn response(status: StatusCode, body: impl Into<Bytes>) -> HttpResponse {
    let mut response = Response::new(body.into());
    *response.status_mut() = status;
    response
}

#[tokio::test(flavor = "multi_thread")]
async fn an_app_answers_http_with_bodies_of_bounded_size() {
    let builder = app(Config {
        max_payload: 1000,
        ..config()
    })
    .http_fallback(|gateway, request| {
        let (parts, body) = request.into_parts();
        async move {
            match parts.uri.path() {
                "/panics" => panics(response(StatusCode::OK, "")),
                "/tell" => {
                    let everybody = gateway.everybody("/", None).unwrap();
                    everybody
                        .emit("told", &*String::from_utf8_lossy(&body))
                        .unwrap();
                    response(StatusCode::NO_CONTENT, "")
                }
                "/begins" => response(StatusCode::CREATED, "begun"),
                path => response(
                    StatusCode::OK,
                    format!("{} {path} {}", parts.method, body.len()),
                ),
            }
        }
    });
    let (gateway, address) = start(builder).await;
    let mut client = Client::connect(&address, "").await;
    let mut http = Http::open(&address).await;
    let answer = http.ask("GET /", "", b"").await;
    assert_eq!((answer.status, &*answer.body), (200, "GET / 0"));
    let answer = http.ask("POST /login", "", &[b'x'; 1000]).await;
    assert_eq!((answer.status, &*answer.body), (200, "POST /login 1000"));
    let answer = http
        .ask(
            "POST /login",
            "origin: https://elsewhere\r\n",
            &[b'x'; 1001],
        )
        .await;
    let why = r#"{"error":"Payload Too Large","message":"the body may have 1000 bytes at most"}"#;
    assert_eq!((answer.status, &*answer.body), (413, why));
    assert_eq!(answer.header("content-type"), ["application/json"]);
    // What little was too much is over with; the connection is good for more.
    let answer = http.ask("PUT /begins", "", b"x").await;
    assert_eq!((answer.status, &*answer.body), (201, "begun"));
    let mut large = Http::open(&address).await;
    let answer = large
        .try_ask("POST /login", "", &vec![b'x'; 5_000_000])
        .await;
    assert!(answer.is_none_or(|answer| answer.status == 413));
    assert_eq!(http.ask("POST /tell", "", b"all").await.status, 204);
    assert_eq!(client.next().await, r#"42["told","all"]"#);
    // A panic costs the request alone: also who shares the connection, behind a proxy, is answered.
    let answer = http.ask("GET /panics", "", b"").await;
    let why = r#"{"error":"Internal Server Error","message":"the request could not be answered"}"#;
    assert_eq!((answer.status, &*answer.body), (500, why));
    assert_eq!(http.ask("GET /", "", b"").await.status, 200);
    assert!(heard(&mut client).await.is_empty());
    drop(client);
    tokio::time::timeout(DEADLINE, gateway.drain())
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn without_an_app_there_is_nothing_and_that_is_said_in_json() {
    let (_gateway, address) = start(app(config())).await;
    let answer = Http::open(&address).await.ask("GET /x", "", b"").await;
    let why = r#"{"error":"Not Found","message":"there is nothing at this path"}"#;
    assert_eq!((answer.status, &*answer.body), (404, why));
    assert_eq!(answer.header("content-type"), ["application/json"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_strangers_send_to_an_apps_http_is_not_kept_beyond_64_kilobytes() {
    let builder = app(config()).http_fallback(|_, request| async move {
        response(StatusCode::OK, request.body().len().to_string())
    });
    let (_gateway, address) = start(builder).await;
    let mut http = Http::open(&address).await;
    let answer = http.ask("POST /login", "", &[b'x'; 65_536]).await;
    assert_eq!((answer.status, &*answer.body), (200, "65536"));
    let answer = http.ask("POST /login", "", &[b'x'; 65_537]).await;
    assert_eq!(answer.status, 413);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_app_looks_at_first_requests_and_answers_in_its_own_way() {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    let builder = app(config()).allow_request(move |request| {
        count.fetch_add(1, Ordering::SeqCst);
        let query = request.uri().query().unwrap_or_default().to_owned();
        async move {
            if query.contains("panics") {
                return panics(Ok(HeaderMap::new()));
            }
            if query.contains("teapot") {
                let mut answer = response(StatusCode::IM_A_TEAPOT, "no coffee");
                let why = HeaderValue::from_static("tea");
                answer.headers_mut().insert("x-why", why);
                return Err(answer);
            }
            let mut headers = HeaderMap::new();
            headers.append(SET_COOKIE, HeaderValue::from_static("a=1"));
            headers.append(SET_COOKIE, HeaderValue::from_static("b=2"));
            Ok(headers)
        }
    });
    let (gateway, address) = start(builder).await;
    let paths = [
        "/socket.io/?EIO=4&transport=polling",
        "/socket.io/?EIO=4&transport=websocket",
    ];
    let upgrade = "connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n\
        sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    for (path, headers) in [(paths[0], ""), (paths[1], upgrade), ("/live?", upgrade)] {
        let mut http = Http::open(&address).await;
        let refused = http.ask(&format!("GET {path}&teapot"), headers, b"").await;
        assert_eq!(
            (refused.status, &*refused.body),
            (418, "no coffee"),
            "{path}"
        );
        assert_eq!(refused.header("x-why"), ["tea"]);
        assert!(refused.header("set-cookie").is_empty());
        let failed = http.ask(&format!("GET {path}&panics"), headers, b"").await;
        assert_eq!(failed.status, 500, "{path}");
        let mut http = Http::open(&address).await;
        let allowed = http.ask(&format!("GET {path}"), headers, b"").await;
        assert_eq!(allowed.status, if headers.is_empty() { 200 } else { 101 });
        assert_eq!(allowed.header("set-cookie"), ["a=1", "b=2"], "{path}");
    }
    assert_eq!(asked.load(Ordering::SeqCst), 9);
    // Only handshakes are asked about.
    let mut polling = Polling::connect(&address, "").await;
    polling.send(r#"421["probe"]"#).await;
    assert_eq!(polling.next().await, "431[]");
    assert_eq!(asked.load(Ordering::SeqCst), 10);
    // Nothing of the requests that panicked is left.
    until(|| gateway.connection_count() == 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_app_is_not_asked_about_connections_over_the_limits() {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    let builder = app(Config {
        connects_per_ip: ConnectLimit::Limit(Limit::per(2, 3600)),
        ..config()
    });
    let builder = builder.allow_request(move |request| {
        count.fetch_add(1, Ordering::SeqCst);
        let refused = request
            .uri()
            .query()
            .is_some_and(|query| query.contains("no"));
        async move {
            match refused {
                true => Err(response(StatusCode::FORBIDDEN, "no")),
                false => Ok(HeaderMap::new()),
            }
        }
    });
    let (gateway, address) = start(builder).await;
    let mut http = Http::open(&address).await;
    let handshake = "GET /socket.io/?EIO=4&transport=polling";
    // Whom the app refuses counts as well: it had to be asked.
    let mut statuses = Vec::new();
    for target in [
        format!("{handshake}&no"),
        handshake.to_owned(),
        handshake.to_owned(),
    ] {
        statuses.push(http.ask(&target, "", b"").await.status);
    }
    assert_eq!(statuses, [403, 200, 429]);
    assert_eq!(asked.load(Ordering::SeqCst), 2);
    assert_eq!(gateway.connection_count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_over_the_limit_of_its_address_is_one_refusal_whichever_way_it_comes() {
    let (gateway, address) = start(app(Config {
        connects_per_ip: ConnectLimit::Limit(Limit::per(1, 3600)),
        ..config()
    }))
    .await;
    let refusals = || {
        let metrics = gateway.encode_metrics();
        let name = r#"heartline_rate_limited_total{limit="connects_per_ip"} "#;
        let mut lines = metrics.lines();
        let value = lines.find_map(|line| line.strip_prefix(name));
        value.and_then(|value| value.parse::<u64>().ok())
    };
    let upgrade = "connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n\
        sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    let engineio = "GET /socket.io/?EIO=4&transport=";
    for (target, headers, status, refused) in [
        (format!("{engineio}websocket"), upgrade, 101, 0),
        (format!("{engineio}websocket"), upgrade, 429, 1),
        ("GET /live".into(), upgrade, 429, 2),
        (format!("{engineio}polling"), "", 429, 3),
    ] {
        let mut http = Http::open(&address).await;
        let answer = http.ask(&target, headers, b"").await;
        assert_eq!(answer.status, status, "{target}");
        assert_eq!(refusals(), Some(refused), "{target}");
    }
}

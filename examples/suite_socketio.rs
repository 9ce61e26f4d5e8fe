//! The server that the tests of socket.io-client ask for; `tests/suites/run` runs them.
//!
//! `cargo run --example suite_socketio -- --listen 127.0.0.1:3210`

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use heartline::config::{AllowedOrigins, AuthMode, NamespaceConfig};
use heartline::{
    All, Args, Binary, Config, ConnectRefused, EventError, Gateway, HandlerSet, Handshake,
    HeaderMap, Json, NoAnswer, Socket,
};
use serde::Deserialize;
use serde_json::{Value, json};

#[path = "flags.rs"]
mod flags;

const NAMESPACES: [&str; 7] = [
    "/",
    "/foo",
    "/timeout_socket",
    "/valid",
    "/asd",
    "/abc",
    "/no",
];

/// Some day. Clients see that it is a date.
const DATE: &str = "2026-01-01T00:00:00.000Z";

/// The CONNECT payload, which is remembered for `getHandshake`.
struct Auth(Value);

/// Whether the first of two binary events has come.
struct FirstCame;

fn handshake(request: &Handshake, auth: &Value) -> Value {
    let query: BTreeMap<_, _> = request.parameters().collect();
    let headers: BTreeMap<_, _> = request.headers.iter().cloned().collect();
    json!({ "query": query, "auth": auth, "headers": headers, "issued": request.at })
}

/// On Node `auth` is an object even if the client gave none.
fn auth(payload: Value) -> Value {
    match payload {
        Value::Null => json!({}),
        payload => payload,
    }
}

async fn get_id(socket: Socket) -> Json<String> {
    Json(socket.id())
}

/// Asks, and is content with the right answer. The client's own question stays open.
async fn ack(socket: Socket) -> Result<NoAnswer, EventError> {
    #[derive(Deserialize)]
    struct Test {
        test: bool,
    }
    let nothing = Args::default();
    let asked = socket.emit_with_ack("ack", &nothing, Duration::from_secs(10));
    if let Ok(answer) = asked.await {
        let (five, Test { test }): (u8, Test) = answer.read()?;
        if five == 5 && test {
            socket.emit_args("got it", &nothing)?;
        }
    }
    Ok(NoAnswer)
}

async fn utf8(socket: Socket) -> Result<(), EventError> {
    for text in [
        "てすと",
        "Я Б Г Д Ж Й",
        "Ä ä Ü ü ß",
        "utf8 — string",
        "utf8 — string",
    ] {
        socket.emit("takeUtf8", text)?;
    }
    Ok(())
}

async fn json_with_binary(socket: Socket, Json(mixed): Json<Mixed>) -> Result<(), EventError> {
    match (&*mixed.hello, &*mixed.goodbye) {
        ("lol", "gotcha") => socket.emit_args("jsonbuff-ack", &Args::default()),
        _ => Err(EventError::new("DIFFERENT", "The text is another")),
    }
}

#[derive(Deserialize)]
struct Mixed {
    hello: String,
    #[serde(rename = "message")]
    _message: Binary,
    goodbye: String,
}

fn main_namespace(handlers: HandlerSet) -> HandlerSet {
    let nothing = |event: &'static str| {
        move |socket: Socket| async move { socket.emit_args(event, &Args::default()) }
    };
    let bytes = |event: &'static str| {
        move |socket: Socket| async move { socket.emit(event, &Binary::from("asdfasdf")) }
    };
    handlers
        .admit(|arrival| async move {
            match arrival.handshake.query("fail") {
                Some(_) => Err(ConnectRefused::new("Auth failed (main namespace)")),
                None => Ok(()),
            }
        })
        .on_connect(|socket: Socket, Json(payload): Json<Value>| async move {
            socket.data().insert(Auth(auth(payload)));
        })
        .on("hi", nothing("hi"))
        .on(
            "echo",
            |Json(value): Json<Value>| async move { Json(value) },
        )
        .on("ack", ack)
        .on("getAckDate", || async { Json(DATE) })
        .on("getDate", |socket: Socket| async move {
            socket.emit("takeDate", DATE)
        })
        .on("getDateObj", |socket: Socket| async move {
            socket.emit("takeDateObj", &json!({ "date": DATE }))
        })
        .on("getUtf8", utf8)
        .on("false", |socket: Socket| async move {
            socket.emit("false", &false)
        })
        .on("doge", bytes("doge"))
        .on("getbin", bytes("takebin"))
        .on("buffa", |socket: Socket, _: All<(Binary,)>| async move {
            socket.emit_args("buffack", &Args::default())
        })
        .on("jsonbuff", json_with_binary)
        .on("abuff1", |socket: Socket, _: All<(Binary,)>| async move {
            socket.data().insert(FirstCame);
        })
        .on("abuff2", |socket: Socket| async move {
            if socket.data().get::<FirstCame>().is_none() {
                return Err(EventError::new("OUT_OF_ORDER", "The first has not come"));
            }
            socket.emit_args("abuff2-ack", &Args::default())
        })
        .on(
            "getHandshake",
            |socket: Socket, request: Arc<Handshake>| async move {
                let auth = socket.data().get::<Auth>();
                let auth = auth.map_or(Value::Null, |auth| auth.0.clone());
                Json(handshake(&request, &auth))
            },
        )
        .on("getId", get_id)
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let flags = flags::Flags::read(&["--listen", "--recovery"]);
    let listen = flags.text("--listen", "127.0.0.1:3210");
    let mut open = NamespaceConfig {
        auth_mode: AuthMode::Off,
        ..NamespaceConfig::default()
    };
    open.limits.events = None;
    open.limits.joins = None;
    let mut config = Config {
        live_path: None,
        allowed_origins: AllowedOrigins::Any,
        namespaces: NAMESPACES
            .map(|name| (name.to_owned(), open.clone()))
            .into(),
        connects_per_ip: heartline::config::ConnectLimit::Off,
        hello: false,
        builtin_events: false,
        ..Config::default()
    };
    if flags.text("--recovery", "off") == "on" {
        config.recovery.window = Some(Duration::from_secs(120));
    }
    config.heartbeat.interval = Duration::from_secs(2);
    config.heartbeat.timeout = Duration::from_secs(20);
    let gateway = Gateway::builder(config)
        // Clients that give up on a connection at once are to find it not there yet.
        .allow_request(|_| async {
            tokio::time::sleep(Duration::from_millis(10)).await;
            Ok(HeaderMap::new())
        })
        .of("/", main_namespace)
        .of("/foo", |set| set.on("getId", get_id))
        .of("/abc", |abc| {
            abc.on_connect(
                |socket: Socket, Json(payload): Json<Value>, request: Arc<Handshake>| async move {
                    socket.emit("handshake", &handshake(&request, &auth(payload)))
                },
            )
        })
        .of("/no", |no| {
            no.admit(|_| async { Err(ConnectRefused::new("Auth failed (custom namespace)")) })
        })
        .build()?;
    let listener = tokio::net::TcpListener::bind(&listen)
        .await
        .unwrap_or_else(|error| flags::fail(&format!("cannot listen on {listen}: {error}")));
    println!("listening on {}", listener.local_addr()?);
    gateway.serve(listener).await?;
    Ok(())
}

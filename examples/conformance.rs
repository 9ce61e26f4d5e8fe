//! A Socket.IO server with nothing of Heartline's own: no authentication, no
//! hello, no built-in event. Protocol test suites run against it.
//!
//! - on connection, `auth` is emitted with the handshake's auth object;
//! - `message` is sent back as `message-back` with the same arguments;
//! - `message-with-ack` is acknowledged with the same arguments.
//!
//! `cargo run --release --example conformance -- --listen 127.0.0.1:3000`

use heartline::config::{AllowedOrigins, AuthMode, NamespaceConfig};
use heartline::{Args, Config, EventError, Gateway, Json, Socket};

#[path = "flags.rs"]
mod flags;

async fn connected(socket: Socket, Json(auth): Json<serde_json::Value>) -> Result<(), EventError> {
    // Without a payload the reference's auth object is an empty one.
    let auth = if auth.is_null() {
        serde_json::json!({})
    } else {
        auth
    };
    socket.emit("auth", &auth)
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let flags = flags::Flags::read(&[
        "--listen",
        "--ping-interval",
        "--ping-timeout",
        "--max-payload",
        "--connect-timeout",
    ]);
    let listen = flags.text("--listen", "127.0.0.1:3000");
    let open = NamespaceConfig {
        auth_mode: AuthMode::Off,
        ..NamespaceConfig::default()
    };
    let mut config = Config {
        live_path: None,
        allowed_origins: AllowedOrigins::Any,
        max_payload: flags.number("--max-payload", 1_000_000),
        connect_timeout: flags.duration("--connect-timeout", "45s"),
        namespaces: [("/".to_owned(), open.clone()), ("/custom".to_owned(), open)].into(),
        hello: false,
        builtin_events: false,
        ..Config::default()
    };
    config.heartbeat.interval = flags.duration("--ping-interval", "25s");
    config.heartbeat.timeout = flags.duration("--ping-timeout", "20s");
    let gateway = Gateway::builder(config)
        .on_connect(connected)
        .on("message", |socket: Socket, args: Args| async move {
            socket.emit_args("message-back", &args)
        })
        .on("message-with-ack", |args: Args| async move { args })
        .build()?;
    let listener = tokio::net::TcpListener::bind(&listen)
        .await
        .unwrap_or_else(|error| flags::fail(&format!("cannot listen on {listen}: {error}")));
    println!("Socket.IO on http://{}/socket.io/", listener.local_addr()?);
    gateway.serve(listener).await?;
    Ok(())
}

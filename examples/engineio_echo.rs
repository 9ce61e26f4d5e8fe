//! The transport layer alone: sends back each message, over Engine.IO, and as it
//! is over plain WebSockets at `/echo`. Protocol test suites run against it.
//!
//! `cargo run --release --example engineio_echo -- --listen 127.0.0.1:3000`

use heartline::config::AllowedOrigins;
use heartline::engineio::{Connection, Handler, Message, Options, Server};

#[path = "flags.rs"]
mod flags;

struct Echo;

impl Handler for Echo {
    fn message(&self, connection: &Connection, message: Message) {
        connection.send(message);
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let flags = flags::Flags::read(&[
        "--listen",
        "--ping-interval",
        "--ping-timeout",
        "--max-payload",
        "--send-buffer",
        "--compress-from",
    ]);
    let listen = flags.text("--listen", "127.0.0.1:3000");
    let options = Options {
        ping_interval: flags.duration("--ping-interval", "25s"),
        ping_timeout: flags.duration("--ping-timeout", "20s"),
        max_payload: flags.number("--max-payload", 1_000_000),
        send_buffer: flags.number("--send-buffer", 1_000_000),
        compression: flags.optional("--compress-from"),
        websocket_path: Some("/echo".into()),
        allowed_origins: AllowedOrigins::Any,
        ..Options::default()
    };
    let server = Server::new(options, Echo)?;
    let listener = tokio::net::TcpListener::bind(&listen)
        .await
        .unwrap_or_else(|error| flags::fail(&format!("cannot listen on {listen}: {error}")));
    println!(
        "Engine.IO echo on http://{}/engine.io/",
        listener.local_addr()?
    );
    server.serve(listener).await?;
    Ok(())
}

//! The server that the tests of engine.io-client ask for; `tests/suites/run` runs them.
//!
//! - on connection, `hi` is sent;
//! - `give binary` and `give utf8` are answered with some of each, `sendHeaders` with the
//!   headers of the connection's first request; all else is sent back;
//! - a handshake whose query has `deny` is refused, others get four cookies.
//!
//! `cargo run --example suite_engineio -- --listen 127.0.0.1:3000`

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use heartline::HeaderMap;
use heartline::config::AllowedOrigins;
use heartline::engineio::{Connection, Handler, Message, Options, Server};
use hyper::header::{HeaderValue, SET_COOKIE};
use hyper::{Request, Response, StatusCode};

#[path = "flags.rs"]
mod flags;

/// One that lasts, one that is for TLS alone, and two that are over at once.
const COOKIES: [&str; 4] = [
    "1=1; Max-Age=86400",
    "2=2; Path=/; HttpOnly; Secure; SameSite=Strict",
    "3=3; Max-Age=0",
    "4=4; Expires=Thu, 01 Jan 2026 00:00:00 GMT",
];

struct Suite;

impl Handler for Suite {
    fn admits(&self, request: &Request<()>) -> Result<HeaderMap, Box<Response<Bytes>>> {
        let query = request.uri().query().unwrap_or_default();
        if query.split('&').any(|pair| pair.starts_with("deny")) {
            let mut answer = Response::new(Bytes::from_static(b"denied"));
            *answer.status_mut() = StatusCode::FORBIDDEN;
            return Err(Box::new(answer));
        }
        let mut headers = HeaderMap::new();
        for cookie in COOKIES {
            headers.append(SET_COOKIE, HeaderValue::from_static(cookie));
        }
        Ok(headers)
    }

    fn opened(&self, connection: &Connection) {
        connection.send(Message::Text("hi".into()));
    }

    fn message(&self, connection: &Connection, message: Message) {
        let answer = match &message {
            Message::Text(text) if text == "give binary" => {
                Message::Binary(Bytes::from_static(&[0, 1, 2, 3, 4]))
            }
            Message::Text(text) if text == "give utf8" => {
                Message::Text("пойду спать всем спокойной ночи".into())
            }
            Message::Text(text) if text == "sendHeaders" => {
                let headers = &connection.handshake().headers;
                let headers: BTreeMap<&String, &String> =
                    headers.iter().map(|(name, value)| (name, value)).collect();
                Message::Text(serde_json::json!(headers).to_string())
            }
            _ => message,
        };
        connection.send(answer);
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let flags = flags::Flags::read(&["--listen"]);
    let listen = flags.text("--listen", "127.0.0.1:3000");
    let options = Options {
        ping_interval: Duration::from_millis(500),
        ping_timeout: Duration::from_secs(20),
        max_payload: 100,
        allowed_origins: AllowedOrigins::Any,
        ..Options::default()
    };
    let server = Server::new(options, Suite)?;
    let listener = tokio::net::TcpListener::bind(&listen)
        .await
        .unwrap_or_else(|error| flags::fail(&format!("cannot listen on {listen}: {error}")));
    println!("listening on {}", listener.local_addr()?);
    server.serve(listener).await?;
    Ok(())
}

//! A gateway under test, and a client made of frames.

#![allow(dead_code, reason = "each test program uses its part of this")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

use std::time::Duration;

use heartline::config::{AuthMode, NamespaceConfig};
use heartline::{Config, Gateway, GatewayBuilder};
use heartline_wire::ws::{Decoder, Message, OpCode, Role, push_masked_frame};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

pub(crate) const DEADLINE: Duration = Duration::from_secs(5);

pub(crate) fn config() -> Config {
    let open = NamespaceConfig {
        auth_mode: AuthMode::Optional,
        ..NamespaceConfig::default()
    };
    Config {
        namespaces: [("/".to_owned(), open)].into(),
        hello: false,
        worker_threads: 1,
        handler_timeout: Duration::from_millis(400),
        ..Config::default()
    }
}

pub(crate) async fn start(builder: GatewayBuilder) -> (Gateway, String) {
    let gateway = builder.build().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let serving = gateway.clone();
    tokio::spawn(async move { serving.serve(listener).await });
    (gateway, address)
}

/// A Socket.IO client made of text frames.
pub(crate) struct Client {
    stream: TcpStream,
    decoder: Decoder,
    unread: Vec<String>,
}

impl Client {
    pub(crate) async fn open(address: &str) -> Client {
        let mut client = Client::websocket(address, "/socket.io/?EIO=4&transport=websocket").await;
        assert!(client.next().await.starts_with('0'));
        client
    }

    /// A client of the live protocol, its `hello` (if there is one) still to come.
    pub(crate) async fn live(address: &str, query: &str) -> Client {
        Client::websocket(address, &format!("/live{query}")).await
    }

    async fn websocket(address: &str, target: &str) -> Client {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!(
            "GET {target} HTTP/1.1\r\nhost: {address}\r\nconnection: upgrade\r\n\
             upgrade: websocket\r\nsec-websocket-version: 13\r\n\
             sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.unwrap());
        }
        assert!(head.starts_with(b"HTTP/1.1 101"));
        Client {
            stream,
            decoder: Decoder::default(),
            unread: Vec::new(),
        }
    }

    pub(crate) async fn connect(address: &str, payload: &str) -> Client {
        let mut client = Client::open(address).await;
        client.send(&format!("40{payload}")).await;
        let reply = client.next().await;
        assert!(reply.starts_with("40{"), "{reply}");
        client
    }

    pub(crate) async fn send(&mut self, text: &str) {
        self.send_all(&[text]).await;
    }

    /// Several messages in one piece, as a peer finds them who reads late.
    pub(crate) async fn send_all(&mut self, texts: &[&str]) {
        let mut frames = Vec::new();
        for text in texts {
            push_masked_frame(OpCode::Text, text.as_bytes(), [1, 2, 3, 4], &mut frames);
        }
        self.stream.write_all(&frames).await.unwrap();
    }

    /// The next message that has `part` in it; what comes before it is dropped.
    pub(crate) async fn hear(&mut self, part: &str) -> String {
        loop {
            let message = self.next().await;
            if message.contains(part) {
                return message;
            }
        }
    }

    /// Reads to the end; the code that the server's close frame had.
    pub(crate) async fn close_code(&mut self) -> u16 {
        let reading = async {
            loop {
                let mut buffer = [0; 4096];
                let n = self.stream.read(&mut buffer).await.unwrap();
                assert!(n > 0, "the connection ended without a close frame");
                let mut rest = &mut buffer[..n];
                while let Some(message) = self
                    .decoder
                    .decode(&mut rest, Role::Client, 1 << 20)
                    .unwrap()
                {
                    if let Message::Close(close) = message {
                        return close.map_or(1005, |close| close.code);
                    }
                }
            }
        };
        tokio::time::timeout(DEADLINE, reading)
            .await
            .expect("a close frame in time")
    }

    pub(crate) async fn next(&mut self) -> String {
        let reading = async {
            loop {
                if !self.unread.is_empty() {
                    return self.unread.remove(0);
                }
                let mut buffer = [0; 4096];
                let n = self.stream.read(&mut buffer).await.unwrap();
                assert!(n > 0, "the connection ended");
                let mut rest = &mut buffer[..n];
                while let Some(message) = self
                    .decoder
                    .decode(&mut rest, Role::Client, 1 << 20)
                    .unwrap()
                {
                    if let Message::Text(text) = message {
                        self.unread.push(text.to_owned());
                    }
                }
            }
        };
        tokio::time::timeout(DEADLINE, reading)
            .await
            .expect("a message in time")
    }
}

/// Waits until `condition` holds.
pub(crate) async fn until(condition: impl Fn() -> bool) {
    let waiting = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(DEADLINE, waiting)
        .await
        .expect("the condition in time");
}

//! A gateway under test, and a client made of frames.

#![allow(dead_code, reason = "each test program uses its part of this")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use heartline::auth::{
    AuthError, Authenticator, BoxFuture, Credentials, Identity, RoomPattern, UserKey,
};
use heartline::config::{AuthMode, ConversationAccess, ConversationsConfig, NamespaceConfig};
use heartline::{Config, Gateway, GatewayBuilder};
use heartline_wire::ws::{Decoder, Message, OpCode, Role, push_masked_frame};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

pub(crate) const DEADLINE: Duration = Duration::from_secs(60);

pub(crate) fn config() -> Config {
    let open = NamespaceConfig {
        auth_mode: AuthMode::Optional,
        ..NamespaceConfig::default()
    };
    Config {
        namespaces: [("/".to_owned(), open)].into(),
        conversations: ConversationsConfig {
            access: ConversationAccess::Open,
            ..ConversationsConfig::default()
        },
        hello: false,
        worker_threads: 1,
        handler_timeout: Duration::from_secs(2),
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

/// What a client has heard.
enum Heard {
    Text(String),
    Binary(Vec<u8>),
    /// The code and the text of a close frame.
    Closed(u16, String),
}

/// A Socket.IO client made of frames.
pub(crate) struct Client {
    stream: TcpStream,
    decoder: Decoder,
    unread: VecDeque<Heard>,
}

impl Client {
    pub(crate) async fn open(address: &str) -> Client {
        Client::open_with(address, "", "").await
    }

    /// The same with more of a query and more headers: `&room=1`, `cookie: a=b\r\n`.
    pub(crate) async fn open_with(address: &str, query: &str, headers: &str) -> Client {
        let target = format!("/socket.io/?EIO=4&transport=websocket{query}");
        let (mut client, _) = Client::websocket(address, &target, headers).await;
        assert!(client.next().await.starts_with('0'));
        client
    }

    /// A client of the live protocol, its `hello` (if there is one) still to come.
    pub(crate) async fn live(address: &str, query: &str) -> Client {
        let (client, _) = Client::websocket(address, &format!("/live{query}"), "").await;
        client
    }

    /// A WebSocket, and the head of the response that it began with.
    pub(crate) async fn websocket(address: &str, target: &str, headers: &str) -> (Client, String) {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!(
            "GET {target} HTTP/1.1\r\nhost: {address}\r\nconnection: upgrade\r\n\
             upgrade: websocket\r\nsec-websocket-version: 13\r\n\
             sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n{headers}\r\n"
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.unwrap());
        }
        assert!(head.starts_with(b"HTTP/1.1 101"));
        let client = Client {
            stream,
            decoder: Decoder::default(),
            unread: VecDeque::new(),
        };
        (client, String::from_utf8(head).unwrap())
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

    /// Everything that comes before the answer to `question`, which ends in `answer`.
    pub(crate) async fn hear_until(&mut self, question: &str, answer: &str) -> Vec<String> {
        self.send(question).await;
        let mut heard = Vec::new();
        loop {
            let message = self.next().await;
            if message.contains(answer) {
                return heard;
            }
            heard.push(message);
        }
    }

    pub(crate) async fn send_binary(&mut self, bytes: &[u8]) {
        let mut frame = Vec::new();
        push_masked_frame(OpCode::Binary, bytes, [1, 2, 3, 4], &mut frame);
        self.stream.write_all(&frame).await.unwrap();
    }

    /// Reads to the end; the code that the server's close frame had.
    pub(crate) async fn close_code(&mut self) -> u16 {
        self.closed().await.0
    }

    /// Reads to the end; code and text of the server's close frame.
    pub(crate) async fn closed(&mut self) -> (u16, String) {
        loop {
            match self.unread.pop_front() {
                Some(Heard::Closed(code, text)) => return (code, text),
                Some(_) => {}
                None => self.read("a close frame in time").await,
            }
        }
    }

    /// The next text message.
    pub(crate) async fn next(&mut self) -> String {
        loop {
            match self.unread.pop_front() {
                Some(Heard::Text(text)) => return text,
                Some(Heard::Binary(_)) => {}
                Some(Heard::Closed(code, text)) => panic!("it closed: {code} {text}"),
                None => self.read("a message in time").await,
            }
        }
    }

    /// The next message, which is binary.
    pub(crate) async fn next_binary(&mut self) -> Vec<u8> {
        loop {
            match self.unread.pop_front() {
                Some(Heard::Binary(bytes)) => return bytes,
                Some(Heard::Text(text)) => panic!("text where binary was to come: {text}"),
                Some(Heard::Closed(code, text)) => panic!("it closed: {code} {text}"),
                None => self.read("a message in time").await,
            }
        }
    }

    /// Takes in what comes next.
    async fn read(&mut self, expected: &str) {
        let mut buffer = [0; 4096];
        let reading = tokio::time::timeout(DEADLINE, self.stream.read(&mut buffer));
        let n = reading.await.expect(expected).unwrap();
        assert!(n > 0, "the connection ended without a close frame");
        let mut rest = &mut buffer[..n];
        while let Some(message) = self
            .decoder
            .decode(&mut rest, Role::Client, 1 << 20)
            .unwrap()
        {
            self.unread.push_back(match message {
                Message::Text(text) => Heard::Text(text.to_owned()),
                Message::Binary(bytes) => Heard::Binary(bytes.to_vec()),
                Message::Close(Some(close)) => Heard::Closed(close.code, close.reason.to_owned()),
                Message::Close(None) => Heard::Closed(1005, String::new()),
                _ => continue,
            });
        }
    }
}

/// One connection of HTTP/1.1.
pub(crate) struct Http(TcpStream);

/// A response.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// Names in lower case.
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: String,
}

impl Answer {
    /// All values of a header.
    pub(crate) fn header(&self, name: &str) -> Vec<&str> {
        let named = self.headers.iter().filter(|(key, _)| key == name);
        named.map(|(_, value)| value.as_str()).collect()
    }
}

impl Http {
    pub(crate) async fn open(address: &str) -> Http {
        Http(TcpStream::connect(address).await.unwrap())
    }

    /// Asks and reads the whole answer; `None` if the connection ends instead.
    pub(crate) async fn try_ask(
        &mut self,
        request: &str,
        headers: &str,
        body: &[u8],
    ) -> Option<Answer> {
        let length = match body.len() {
            0 => String::new(),
            length => format!("content-length: {length}\r\n"),
        };
        let head = format!("{request} HTTP/1.1\r\nhost: test\r\n{length}{headers}\r\n");
        let asking = async {
            self.0.write_all(head.as_bytes()).await.ok()?;
            // Who is refused for a large body may be so before the end of it.
            let _ = self.0.write_all(body).await;
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(self.0.read_u8().await.ok()?);
            }
            let head = String::from_utf8(head).unwrap();
            let mut lines = head.lines();
            let status = lines.next()?.split(' ').nth(1)?.parse().ok()?;
            let headers: Vec<(String, String)> = lines
                .filter_map(|line| line.split_once(": "))
                .map(|(name, value)| (name.to_lowercase(), value.to_owned()))
                .collect();
            let length = headers.iter().find(|(name, _)| name == "content-length");
            let length = length.map_or(0, |(_, length)| length.parse().unwrap());
            let mut body = vec![0; length];
            self.0.read_exact(&mut body).await.ok()?;
            Some(Answer {
                status,
                headers,
                body: String::from_utf8(body).unwrap(),
            })
        };
        let answer = tokio::time::timeout(DEADLINE, asking).await;
        answer.expect("an answer in time")
    }

    pub(crate) async fn ask(&mut self, request: &str, headers: &str, body: &[u8]) -> Answer {
        let answer = self.try_ask(request, headers, body).await;
        answer.expect("an answer and no end")
    }
}

/// A Socket.IO client over polling; binary packets are `b` and base64, as on the wire.
pub(crate) struct Polling {
    http: Http,
    target: String,
    unread: VecDeque<String>,
}

impl Polling {
    pub(crate) async fn open(address: &str, query: &str, headers: &str) -> Polling {
        let mut http = Http::open(address).await;
        let target = "/socket.io/?EIO=4&transport=polling".to_owned();
        let answer = http
            .ask(&format!("GET {target}{query}"), headers, b"")
            .await;
        let sid = answer.body.split('"').nth(3).unwrap();
        Polling {
            target: format!("{target}&sid={sid}"),
            http,
            unread: VecDeque::new(),
        }
    }

    pub(crate) async fn connect(address: &str, payload: &str) -> Polling {
        let mut client = Polling::open(address, "", "").await;
        client.send(&format!("40{payload}")).await;
        let reply = client.next().await;
        assert!(reply.starts_with("40{"), "{reply}");
        client
    }

    pub(crate) async fn send(&mut self, packets: &str) {
        let request = format!("POST {}", self.target);
        let answer = self.http.ask(&request, "", packets.as_bytes()).await;
        assert_eq!(answer.status, 200, "{answer:?}");
    }

    pub(crate) async fn next(&mut self) -> String {
        loop {
            if let Some(packet) = self.unread.pop_front() {
                return packet;
            }
            let answer = self
                .http
                .ask(&format!("GET {}", self.target), "", b"")
                .await;
            assert_eq!(answer.status, 200, "{answer:?}");
            let packets = answer.body.split('\u{1e}').map(ToOwned::to_owned);
            self.unread.extend(packets);
        }
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

/// Tokens are `USER`, `USER@TENANT`, `USER~DEVICE` or `USER/ROOM,ROOM`.
pub(crate) struct Names;

impl Authenticator for Names {
    fn authenticate(&self, credentials: Credentials) -> BoxFuture<Result<Identity, AuthError>> {
        let token = credentials.token.unwrap_or_default();
        let split = |text: &str, at: char| match text.split_once(at) {
            Some((first, second)) => (first.to_owned(), Some(second.to_owned())),
            None => (text.to_owned(), None),
        };
        let (rest, rooms) = split(&token, '/');
        let (rest, device) = split(&rest, '~');
        let (user, tenant) = split(&rest, '@');
        let user = UserKey {
            tenant_id: tenant.map(Into::into),
            user_id: user.into(),
            user_type: None,
        };
        Box::pin(std::future::ready(Ok(Identity {
            user: Some(Arc::new(user)),
            device_id: device.map(Into::into),
            rooms: rooms.map(|rooms| rooms.split(',').map(RoomPattern::new).collect()),
            ..Identity::default()
        })))
    }
}

pub(crate) async fn socketio(address: &str, token: &str) -> Client {
    let mut client = Client::connect(address, &format!(r#"{{"token":"{token}"}}"#)).await;
    client.hear("connection:success").await;
    client
}

pub(crate) async fn live(address: &str, token: &str) -> Client {
    let mut client = Client::live(address, &format!("?token={token}")).await;
    client.hear("connection:success").await;
    client
}

/// Nothing that has `part` in it has come by the time a question is answered.
pub(crate) async fn hears_nothing_of(client: &mut Client, part: &str) {
    client.send(r#"4277["heartbeat:response",{}]"#).await;
    loop {
        let message = client.next().await;
        assert!(!message.contains(part), "{message}");
        if message.starts_with("4377[") {
            return;
        }
    }
}

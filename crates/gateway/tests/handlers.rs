//! The library from outside: handlers that behave and handlers that do not,
//! spoken to over a real socket.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use heartline::auth::{AuthError, Authenticator, BoxFuture, Credentials, Identity, UserKey};
use heartline::config::{AuthMode, NamespaceConfig};
use heartline::{Args, Config, EventError, Gateway, GatewayBuilder, Json, Reason, Socket};
use heartline_wire::ws::{Decoder, Message, OpCode, Role, push_masked_frame};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;

const DEADLINE: Duration = Duration::from_secs(5);

fn config() -> Config {
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

async fn start(builder: GatewayBuilder) -> (Gateway, String) {
    let gateway = builder.build().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let serving = gateway.clone();
    tokio::spawn(async move { serving.serve(listener).await });
    (gateway, address)
}

/// A Socket.IO client made of text frames.
struct Client {
    stream: TcpStream,
    decoder: Decoder,
    unread: Vec<String>,
}

impl Client {
    async fn open(address: &str) -> Client {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!(
            "GET /socket.io/?EIO=4&transport=websocket HTTP/1.1\r\nhost: {address}\r\nconnection: upgrade\r\n\
             upgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.unwrap());
        }
        assert!(head.starts_with(b"HTTP/1.1 101"));
        let mut client = Client {
            stream,
            decoder: Decoder::default(),
            unread: Vec::new(),
        };
        assert!(client.next().await.starts_with('0'));
        client
    }

    async fn connect(address: &str, payload: &str) -> Client {
        let mut client = Client::open(address).await;
        client.send(&format!("40{payload}")).await;
        let reply = client.next().await;
        assert!(reply.starts_with("40{"), "{reply}");
        client
    }

    async fn send(&mut self, text: &str) {
        let mut frame = Vec::new();
        push_masked_frame(OpCode::Text, text.as_bytes(), [1, 2, 3, 4], &mut frame);
        self.stream.write_all(&frame).await.unwrap();
    }

    async fn next(&mut self) -> String {
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
async fn until(condition: impl Fn() -> bool) {
    let waiting = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(DEADLINE, waiting)
        .await
        .expect("the condition in time");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handler_that_panics_or_never_returns_costs_its_own_event_only() {
    let builder = Gateway::builder(config())
        .on("panics", || async {
            assert_eq!(std::env::args().count(), 0, "a handler's fault");
        })
        .on("hangs", std::future::pending::<()>)
        .on("fails", || async {
            Err::<(), _>(EventError::new("NO", "not today"))
        })
        .on("echo", |args: Args| async move { args });
    let (_gateway, address) = start(builder).await;
    let mut client = Client::connect(&address, "").await;
    let mut other = Client::connect(&address, "").await;
    client.send("421[\"hangs\"]").await;
    client.send("422[\"panics\"]").await;
    client.send("423[\"fails\"]").await;
    client.send("424[\"echo\",1]").await;
    assert!(
        client.next().await.starts_with("432[{\"ok\":false"),
        "the panic is answered"
    );
    assert_eq!(
        client.next().await,
        r#"433[{"ok":false,"error":"not today","code":"NO"}]"#
    );
    assert_eq!(client.next().await, "434[1]");
    other.send("420[\"echo\",2]").await;
    assert_eq!(other.next().await, "430[2]");
    let late = client.next().await;
    assert!(
        late.starts_with("431[{\"ok\":false") && late.contains("INTERNAL"),
        "{late}"
    );
    client.send("425[\"echo\"]").await;
    assert_eq!(client.next().await, "435[]");
}

#[tokio::test(flavor = "multi_thread")]
async fn handlers_of_a_connection_start_in_order_and_are_bounded() {
    let running = Arc::new(AtomicUsize::new(0));
    let most = Arc::new(AtomicUsize::new(0));
    let open = Arc::new(Notify::new());
    let (count, peak, gate) = (running.clone(), most.clone(), open.clone());
    let builder = Gateway::builder(Config {
        max_handlers_in_flight: 4,
        handler_timeout: DEADLINE,
        ..config()
    })
    .on("wait", move |Json(number): Json<u32>| {
        let (count, peak, gate) = (count.clone(), peak.clone(), gate.clone());
        async move {
            let now = count.fetch_add(1, Ordering::SeqCst) + 1;
            peak.fetch_max(now, Ordering::SeqCst);
            gate.notified().await;
            count.fetch_sub(1, Ordering::SeqCst);
            Json(number)
        }
    });
    let (_gateway, address) = start(builder).await;
    let mut client = Client::connect(&address, "").await;
    for number in 0..12 {
        client.send(&format!("42{number}[\"wait\",{number}]")).await;
    }
    for number in 0..12 {
        until(|| running.load(Ordering::SeqCst) >= 1).await;
        // Notify wakes in the order of waiting: the answers show the order of starting.
        open.notify_one();
        assert_eq!(client.next().await, format!("43{number}[{number}]"));
    }
    assert!(most.load(Ordering::SeqCst) <= 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_server_asks_and_the_client_acknowledges() {
    let builder = Gateway::builder(config()).on("ask-me", |socket: Socket| async move {
        let question = Args::one("how are you?")?;
        let answer = socket
            .emit_with_ack("question", &question, DEADLINE)
            .await?;
        socket.emit("thanks", answer.json())
    });
    let (_gateway, address) = start(builder).await;
    let mut client = Client::connect(&address, "").await;
    client.send("42[\"ask-me\"]").await;
    assert_eq!(client.next().await, r#"420["question","how are you?"]"#);
    client.send("430[\"fine\",1]").await;
    assert_eq!(client.next().await, r#"42["thanks","\"fine\",1"]"#);
}

/// Says yes to everybody, once it is let go.
struct Slow(Arc<Notify>, Arc<AtomicUsize>);

impl Authenticator for Slow {
    fn authenticate(&self, credentials: Credentials) -> BoxFuture<Result<Identity, AuthError>> {
        let (gate, asked) = (self.0.clone(), self.1.clone());
        Box::pin(async move {
            asked.fetch_add(1, Ordering::SeqCst);
            gate.notified().await;
            let user = UserKey {
                tenant_id: None,
                user_id: credentials.token.ok_or(AuthError::Required)?.into(),
                user_type: None,
            };
            Ok(Identity {
                user: Some(Arc::new(user)),
                ..Identity::default()
            })
        })
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_leaves_during_authentication_leaves_no_ghost_and_early_events_wait() {
    let (gate, asked) = (Arc::new(Notify::new()), Arc::new(AtomicUsize::new(0)));
    let ended = Arc::new(AtomicUsize::new(0));
    let count = ended.clone();
    let builder = Gateway::builder(config())
        .authenticator(Slow(gate.clone(), asked.clone()))
        .on("who", |socket: Socket| async move {
            Json(socket.identity().user_id().map(str::to_owned))
        })
        .on_disconnect(move |_, _: Reason| {
            count.fetch_add(1, Ordering::SeqCst);
            async {}
        });
    let (gateway, address) = start(builder).await;

    let mut ghost = Client::open(&address).await;
    ghost.send("40{\"token\":\"ghost\"}").await;
    until(|| asked.load(Ordering::SeqCst) == 1).await;
    assert_eq!(gateway.users_online(), 0);
    drop(ghost);
    // The connection is not read while its token is verified; the answer comes,
    // the socket is made, and the end of the stream is seen right after.
    gate.notify_one();
    until(|| gateway.connection_count() == 0).await;
    until(|| gateway.users_online() == 0).await;
    assert!(!gateway.presence(None, &["ghost".to_owned()]).await[0].online);

    let mut early = Client::open(&address).await;
    early.send("40{\"token\":\"early\"}").await;
    early.send("421[\"who\"]").await;
    until(|| asked.load(Ordering::SeqCst) == 2).await;
    gate.notify_one();
    assert!(early.next().await.starts_with("40{"));
    assert_eq!(early.next().await, r#"431["early"]"#);
    assert_eq!(gateway.users_online(), 1);
    drop(early);
    until(|| gateway.users_online() == 0).await;
    until(|| ended.load(Ordering::SeqCst) == 2).await;
    assert_eq!(gateway.sweep().await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_lets_running_handlers_finish() {
    let gate = Arc::new(Notify::new());
    let (waiting, started) = (gate.clone(), Arc::new(AtomicUsize::new(0)));
    let begun = started.clone();
    let builder = Gateway::builder(Config {
        handler_timeout: DEADLINE,
        ..config()
    })
    .on("slow", move || {
        let (gate, begun) = (waiting.clone(), begun.clone());
        async move {
            begun.fetch_add(1, Ordering::SeqCst);
            gate.notified().await;
            Json("done")
        }
    });
    let (gateway, address) = start(builder).await;
    let mut client = Client::connect(&address, "").await;
    client.send("427[\"slow\"]").await;
    until(|| started.load(Ordering::SeqCst) == 1).await;
    let draining = gateway.clone();
    let drain = tokio::spawn(async move { draining.drain().await });
    assert!(client.next().await.contains("server:drain"));
    gate.notify_one();
    assert_eq!(client.next().await, r#"437["done"]"#);
    drop(client);
    tokio::time::timeout(DEADLINE, drain)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(gateway.connection_count(), 0);
}

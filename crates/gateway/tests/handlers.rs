//! The library from outside: handlers that behave and handlers that do not,
//! spoken to over a real socket.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use heartline::auth::{AuthError, Authenticator, BoxFuture, Credentials, Identity, UserKey};
use heartline::backplane::{Backplane, Node};
use heartline::entries::UserPresence;
use heartline::{
    Admitted, Args, Config, DeviceLimitReached, Event, EventError, FromEvent, Gateway, Json,
    Newcomer, Presence, RoomAddress, Socket, SocketAddress,
};
use support::{Client, DEADLINE, Names, config, start, until};
use tokio::sync::Notify;

mod support;

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

/// Panics when it is dropped, as no destructor should.
struct Bomb;

impl Drop for Bomb {
    fn drop(&mut self) {
        assert_eq!(std::env::args().count(), 0, "a destructor's fault");
    }
}

fn explode<T>(value: T) -> T {
    assert_eq!(std::env::args().count(), 0, "a handler's fault");
    value
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handler_that_panics_outside_of_its_future_costs_its_own_event_only() {
    struct Unreadable;
    impl FromEvent for Unreadable {
        fn from_event(_: &Event<'_>) -> Result<Self, EventError> {
            Ok(explode(Unreadable))
        }
    }
    let gone = Arc::new(AtomicUsize::new(0));
    let count = gone.clone();
    let builder = Gateway::builder(config())
        .on_connect(|| explode(std::future::ready(())))
        .on("begins", || explode(std::future::ready(())))
        .on("takes", |_: Unreadable| async {})
        .on("drops", || async {
            let _bomb = Bomb;
            std::future::pending::<()>().await;
        })
        .on("echo", |args: Args| async move { args })
        .on_disconnect(|| explode(std::future::ready(())))
        .on_disconnect(move || {
            count.fetch_add(1, Ordering::SeqCst);
            async {}
        });
    let (_gateway, address) = start(builder).await;
    // The only shard's thread takes them all, one after the other.
    for round in 1..=3 {
        let mut client = Client::connect(&address, "").await;
        assert!(client.next().await.contains("INTERNAL"), "on_connect");
        for name in ["begins", "takes", "drops"] {
            client.send(&format!("421[\"{name}\"]")).await;
            let refused = client.next().await;
            assert!(
                refused.starts_with("431[{\"ok\":false") && refused.contains("INTERNAL"),
                "{name}: {refused}"
            );
        }
        client.send("422[\"echo\",7]").await;
        assert_eq!(client.next().await, "432[7]");
        drop(client);
        until(|| gone.load(Ordering::SeqCst) == round).await;
    }
}

/// Presence on one node, which panics where the gateway cannot go on.
#[derive(Default)]
struct Broken(OnceLock<Presence>);

impl Backplane for Broken {
    fn attach(&self, _: Arc<dyn Node>) {
        let _ = self.0.set(Presence::of_one_node_of_many());
    }
    fn connect(&self, newcomer: Newcomer) -> BoxFuture<Result<Admitted, DeviceLimitReached>> {
        Box::pin(std::future::ready(self.local().connect(newcomer, 0)))
    }
    fn disconnect(&self, _: &Arc<UserKey>, _: SocketAddress, _: std::time::Duration) {
        explode(());
    }
    fn enter_room(&self, _: &Arc<UserKey>, _: SocketAddress, _: RoomAddress) {}
    fn leave_room(&self, _: &Arc<UserKey>, _: SocketAddress, _: &RoomAddress) {}
    fn presence(&self, _: Option<Arc<str>>, _: Vec<String>) -> BoxFuture<Vec<UserPresence>> {
        Box::pin(std::future::ready(Vec::new()))
    }
    fn local(&self) -> &Presence {
        self.0.get().unwrap()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_whose_thread_has_ended_says_so_instead_of_living_on_as_a_zombie() {
    let gate = Arc::new(Notify::new());
    let builder = Gateway::builder(config())
        .authenticator(Slow(gate.clone(), Arc::default()))
        .backplane(Broken::default());
    let gateway = builder.build().unwrap();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let serving = gateway.clone();
    let served = tokio::spawn(async move { serving.serve(listener).await });
    gate.notify_one();
    let client = Client::connect(&address, "{\"token\":\"somebody\"}").await;
    drop(client);
    let failed = tokio::time::timeout(DEADLINE, served).await.unwrap();
    let sentence = failed.unwrap().unwrap_err().to_string();
    assert!(sentence.contains("shard-0 ended by a panic"), "{sentence}");
    assert_eq!(gateway.failure().await.to_string(), sentence);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_app_cannot_send_what_would_break_its_clients() {
    let builder = Gateway::builder(config()).on("try", |socket: Socket| async move {
        let long = "x".repeat(129);
        let one = Args::one(&1)?;
        // A single client may have an event called so; members of a room may not.
        socket.emit("ack", &1)?;
        let refused = socket.publish("r", "ack", &1).await;
        assert_eq!(refused.unwrap_err().code(), "INVALID_EVENT");
        for name in ["connect", "disconnect", "newListener", "", &long] {
            let refusals = [
                socket.emit(name, &1),
                socket.emit_args(name, &one),
                socket.emit_volatile(name, &1),
                socket.emit_with_ack(name, &one, DEADLINE).await.map(drop),
                socket.publish("r", name, &1).await,
            ];
            for refused in refusals {
                assert_eq!(refused.unwrap_err().code(), "INVALID_EVENT", "{name:?}");
            }
        }
        Ok::<_, EventError>(Json("all refused"))
    });
    let (_gateway, address) = start(builder).await;
    let mut client = Client::connect(&address, "").await;
    client.send("421[\"try\"]").await;
    assert_eq!(client.next().await, r#"42["ack",1]"#);
    assert_eq!(client.next().await, r#"431["all refused"]"#);
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

#[tokio::test(flavor = "multi_thread")]
async fn bytes_that_a_client_acknowledges_with_are_base64_to_the_api() {
    let builder =
        Gateway::builder(config()).on(
            "who-am-i",
            |socket: Socket| async move { Json(socket.id()) },
        );
    let (gateway, address) = start(builder).await;
    let mut client = Client::connect(&address, "").await;
    client.send("421[\"who-am-i\"]").await;
    let id = client.next().await;
    let id = id
        .trim_start_matches("431[\"")
        .trim_end_matches("\"]")
        .to_owned();
    for (packet, attachments, expected) in [
        (r#"43{}["no bytes",1]"#, &[][..], r#""no bytes",1"#),
        (
            r#"461-{}[{"_placeholder":true,"num":0}]"#,
            &[&b"abc"[..]][..],
            r#""YWJj""#,
        ),
        (
            r#"462-{}["x",{"a":[{"_placeholder":true,"num":1}]},{"_placeholder":true,"num":0}]"#,
            &[b"abc", b""],
            r#""x",{"a":[""]},"YWJj""#,
        ),
    ] {
        let asked = gateway.emit(&id, "ask", "1", Some(DEADLINE));
        let answers = async {
            let heard = client.next().await;
            let number = heard.trim_start_matches("42").split('[').next().unwrap();
            client.send(&packet.replace("{}", number)).await;
            for bytes in attachments {
                client.send_binary(bytes).await;
            }
        };
        let (emitted, ()) = tokio::join!(asked, answers);
        assert_eq!(emitted.unwrap().unwrap().as_deref(), Some(expected));
    }
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
        .on_disconnect(move || {
            count.fetch_add(1, Ordering::SeqCst);
            async {}
        });
    let (gateway, address) = start(builder).await;

    let mut ghost = Client::open(&address).await;
    ghost.send("40{\"token\":\"ghost\"}").await;
    until(|| asked.load(Ordering::SeqCst) == 1).await;
    assert_eq!(gateway.users_online(), 0);
    drop(ghost);
    // The connection is not read while its token is verified; its end is seen all the same.
    until(|| gateway.connection_count() == 0).await;
    gate.notify_one();
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
    until(|| ended.load(Ordering::SeqCst) == 1).await;
    assert_eq!(gateway.sweep().await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_authenticator_of_an_app_gives_nobody_an_id_that_is_none() {
    let (_gateway, address) = start(Gateway::builder(config()).authenticator(Names)).await;
    let long = "a".repeat(257);
    for (json, query) in [(r"a\u0000", "a%00"), (r"\n", "%0a"), (&*long, &*long)] {
        let mut client = Client::open(&address).await;
        client.send(&format!(r#"40{{"token":"{json}"}}"#)).await;
        let refused = client.next().await;
        assert!(refused.contains("AUTH_TOKEN_INVALID"), "{refused}");
        let mut live = Client::live(&address, &format!("?token={query}")).await;
        assert_eq!(live.close_code().await, 4401, "{query}");
    }
    let mut client = Client::open(&address).await;
    client
        .send(&format!(r#"40{{"token":"{}"}}"#, &long[1..]))
        .await;
    assert!(client.next().await.starts_with("40{"));
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

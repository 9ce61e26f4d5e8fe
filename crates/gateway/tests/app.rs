//! What an app builds on: its handlers' scopes and arguments, who is let in, whom it speaks
//! to, what it remembers, and its side of HTTP; over real sockets.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use bytes::Bytes;
use heartline::auth::{
    AuthError, Authenticator, BoxFuture, Credentials, Identity, RoomPattern, UserKey,
};
use heartline::config::{Announce, AuthMode, ConnectLimit, DevicePolicy, Limit};
use heartline::engineio::{self, Connection, Options, Server};
use heartline::{
    All, Args, Binary, BuildError, Config, ConnectRefused, Event, EventError, EventName, FromEvent,
    Gateway, GatewayBuilder, Handshake, HeaderMap, HttpResponse, Json, LeftRooms, NoAnswer,
    PublishRequest, Reason, Socket,
};
use heartline_wire::msgpack;
use heartline_wire::socketio::PacketType;
use hyper::header::{HeaderValue, SET_COOKIE};
use hyper::{Request, Response, StatusCode};
use serde_json::{Value, json};
use support::{Client, Http, Polling, start, until};

mod support;

/// Tokens are `USER`, `USER@TENANT`, `USER~DEVICE` or `USER/ROOM,ROOM`.
struct Names;

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

/// Nobody hears of users who come and go.
fn config() -> Config {
    let mut config = support::config();
    config.namespaces.get_mut("/").unwrap().announce = Announce::Off;
    config
}

/// A configuration with these namespaces and `/`.
fn with_namespaces(names: &[&str]) -> Config {
    let mut config = config();
    let open = config.namespaces["/"].clone();
    for name in names {
        config.namespaces.insert((*name).to_owned(), open.clone());
    }
    config
}

/// A gateway whose clients can ask whether they have heard all, and can join rooms.
fn app(config: Config) -> GatewayBuilder {
    Gateway::builder(config)
        .authenticator(Names)
        .on("probe", || async {})
        .on(
            "enter",
            |socket: Socket, Json(room): Json<String>| async move { socket.join(&room).await },
        )
}

async fn user(address: &str, token: &str) -> Client {
    Client::connect(address, &format!(r#"{{"token":"{token}"}}"#)).await
}

async fn enter(client: &mut Client, room: &str) {
    let answered = client
        .hear_until(&format!(r#"4288["enter","{room}"]"#), "4388[]")
        .await;
    assert!(answered.iter().all(|heard| heard.contains("room:joined")));
}

/// What has come so far.
async fn heard(client: &mut Client) -> Vec<String> {
    client.hear_until(r#"4299["probe"]"#, "4399[").await
}

/// What a live client has heard so far.
async fn live_heard(client: &mut Client) -> Vec<String> {
    let probe = r#"{"type":"emit","event":"probe","id":99}"#;
    client.hear_until(probe, r#""id":99"#).await
}

fn panics<T>(value: T) -> T {
    assert_eq!(std::env::args().count(), 0, "the app's fault");
    value
}

// --- scopes ----------------------------------------------------------------------------

#[tokio::test(flavor = "multi_thread")]
async fn handlers_for_a_namespace_that_does_not_exist_are_told_of_at_once() {
    let built = app(config()).of("/chta", |chat| chat.on("say", || async {}));
    match built.build() {
        Err(BuildError::Config(what)) => assert!(what.contains("/chta"), "{what}"),
        _ => panic!("it was built"),
    }
    assert!(
        app(with_namespaces(&["/chat"]))
            .of("/chat", |chat| chat)
            .build()
            .is_ok()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_goes_to_the_nearest_handler_whatever_its_name_is() {
    let say = |what: &'static str| {
        move |EventName(name): EventName| async move { Json(format!("{what}: {name}")) }
    };
    let builder = app(with_namespaces(&["/chat"]))
        .on("who", say("all"))
        .on("room:*", say("all's family"))
        .of("/chat", |chat| {
            chat.on("who", say("chat"))
                .on("room:shut", say("chat"))
                .on("*", say("chat's any"))
                .or_on("*", say("too late"))
                .or_on("who", say("too late"))
                .or_on("hello", say("chat"))
        });
    let (_gateway, address) = start(builder).await;
    let mut client = Client::connect(&address, "").await;
    client.send("40/chat,").await;
    client.hear("40/chat,").await;
    let mut asks = async |packet: &str, answer: &str| {
        let heard = client.hear_until(packet, answer).await;
        assert!(heard.is_empty(), "{packet}: {heard:?}");
    };
    for (name, answer) in [
        ("who", "chat"),
        ("hello", "chat"),
        ("room:open", "all's family"),
        ("room:shut", "chat"),
        ("room:*", "all's family"),
        ("*", "chat's any"),
        ("constructor", "chat's any"),
        ("__proto__", "chat's any"),
        ("connect2", "chat's any"),
        ("", "chat's any"),
        ("a:b", "chat's any"),
    ] {
        let packet = format!(r#"42/chat,1["{name}"]"#);
        asks(&packet, &format!(r#"43/chat,1["{answer}: {name}"]"#)).await;
    }
    asks(r#"421["who"]"#, r#"431["all: who"]"#).await;
    // In `/` there is no catch-all, and the built-in events are there.
    asks(r#"421["*"]"#, "NOT_IMPLEMENTED").await;
    asks(r#"421["constructor"]"#, "NOT_IMPLEMENTED").await;
    // A namespace that is not joined: nobody hears it, nothing comes of it.
    client.send(r#"42/nowhere,1["who"]"#).await;
    assert!(heard(&mut client).await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_wants_no_answer_sends_none() {
    let silent = app(Config {
        builtin_events: false,
        ..config()
    });
    let builder =
        silent
            .on("shy", || async { NoAnswer })
            .on("torn", |Json(fine): Json<bool>| async move {
                match fine {
                    true => Ok(NoAnswer),
                    false => Err(EventError::new("NO", "Not so")),
                }
            });
    let (_gateway, address) = start(builder).await;
    let mut client = Client::connect(&address, "").await;
    client
        .send_all(&[r#"421["shy"]"#, r#"422["nobody"]"#, r#"423["torn",true]"#])
        .await;
    client.send(r#"424["torn",false]"#).await;
    let answers = heard(&mut client).await;
    assert_eq!(
        answers,
        [r#"434[{"ok":false,"error":"Not so","code":"NO"}]"#]
    );
    // The live protocol knows no silence about its own frames.
    let mut live = Client::live(&address, "").await;
    live.send(r#"{"type":"emit","event":"nobody","id":1}"#)
        .await;
    assert!(live.next().await.contains("not-implemented"));
}

// --- who is let in ---------------------------------------------------------------------

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_arrives_as_the_app_put_it_and_nothing_else_happens() {
    let mut config = with_namespaces(&["/chat"]);
    config.namespaces.get_mut("/").unwrap().devices = DevicePolicy::Replace;
    let connected = Arc::new(AtomicUsize::new(0));
    let count = connected.clone();
    let long = "ü".repeat(100);
    let text = long.clone();
    let builder = app(config)
        .admit(move |arrival| {
            let text = text.clone();
            async move {
                assert_eq!(arrival.identity.user_id(), Some("ann"));
                match arrival.handshake.query("blocked").as_deref() {
                    None => Ok(()),
                    Some("long") => Err(ConnectRefused::new(text)),
                    Some(_) => Err(ConnectRefused::new("Not \"you\"").with_data(&json!({
                        "code": "NOT_YOU", "in": arrival.namespace, "s": arrival.payload
                    }))),
                }
            }
        })
        .admit(|arrival| async move {
            match arrival.payload.as_deref() {
                Some(payload) if payload.contains("second") => Err(ConnectRefused::new("Second")),
                _ => Ok(()),
            }
        })
        .on_connect(move || {
            count.fetch_add(1, Ordering::SeqCst);
            async {}
        })
        .on_disconnect(|| async { panics(()) });
    let (gateway, address) = start(builder).await;
    let mut first = user(&address, "ann~phone").await;

    let mut client = Client::open_with(&address, "&blocked=1", "").await;
    client.send(r#"40{"token":"ann~tablet"}"#).await;
    assert_eq!(
        client.next().await,
        r#"44{"message":"Not \"you\"","data":{"code":"NOT_YOU","in":"/","s":"{\"token\":\"ann~tablet\"}"}}"#
    );
    // What was refused has no place for events, and may ask again.
    client.send(r#"40/chat,{"token":"ann~tablet"}"#).await;
    assert!(
        client
            .next()
            .await
            .starts_with(r#"44/chat,{"message":"Not"#)
    );

    let mut msgpacked = Client::open_with(&address, "&blocked=1", "").await;
    let mut packet = Vec::new();
    let connect = r#"{"type":0,"nsp":"/","data":{"token":"ann~tablet"}}"#;
    msgpack::encode_value(connect, &[], &mut packet);
    msgpacked.send_binary(&packet).await;
    let refused = msgpacked.next_binary().await;
    let refused = msgpack::decode_value(&refused, 1000).unwrap().0;
    assert!(refused.contains(r#""message":"Not \"you\"""#), "{refused}");
    assert!(refused.contains(r#""in":"/""#), "{refused}");

    let mut polling = Polling::open(&address, "&blocked=1", "").await;
    polling.send(r#"40{"token":"ann~tablet"}"#).await;
    assert!(polling.next().await.starts_with(r#"44{"message":"Not"#));

    let mut live = Client::live(&address, "?token=ann~tablet&blocked=1").await;
    assert_eq!(
        live.next().await,
        r#"{"type":"error","code":"NOT_YOU","message":"Not \"you\"","data":{"code":"NOT_YOU","in":"/","s":null}}"#
    );
    assert_eq!(live.closed().await, (4403, "Not \"you\"".to_owned()));
    // A close frame's text has at most 123 bytes, and whole characters.
    let mut live = Client::live(&address, "?token=ann~tablet&blocked=long").await;
    let whole = format!(r#"{{"type":"error","code":"REFUSED","message":"{long}"}}"#);
    assert_eq!(live.next().await, whole);
    assert_eq!(live.closed().await, (4403, long[..122].to_owned()));

    let mut client = Client::open(&address).await;
    client.send(r#"40{"token":"ann~tablet","second":1}"#).await;
    assert_eq!(client.next().await, r#"44{"message":"Second"}"#);

    assert!(heard(&mut first).await.is_empty());
    assert_eq!(connected.load(Ordering::SeqCst), 1);
    assert_eq!(gateway.counts().sockets, 1);
    assert_eq!(gateway.users_online(), 1);
    // The same device, let in: the other one goes now.
    client.send(r#"40{"token":"ann~tablet"}"#).await;
    first.hear("connection:replaced").await;
    assert_eq!(connected.load(Ordering::SeqCst), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_decision_that_panics_or_never_comes_costs_its_own_socket_only() {
    let builder = app(Config {
        auth_timeout: Duration::from_millis(300),
        ..with_namespaces(&["/begins", "/waits", "/hangs"])
    });
    let builder = builder
        .of("/begins", |set| {
            set.admit(|_| panics(std::future::ready(Ok(()))))
        })
        .of("/waits", |set| {
            set.admit(|_| async {
                tokio::task::yield_now().await;
                panics(Ok(()))
            })
        })
        .of("/hangs", |set| set.admit(|_| std::future::pending()));
    let (gateway, address) = start(builder).await;
    let mut other = user(&address, "other").await;
    for name in ["/begins", "/waits", "/hangs"] {
        let mut client = user(&address, "client").await;
        client
            .send(&format!(r#"40{name},{{"token":"client"}}"#))
            .await;
        if name == "/hangs" {
            // Nothing is known against the client, which comes back by itself.
            let (code, text) = client.closed().await;
            assert_eq!((code, &*text), (1013, "AUTH_UNAVAILABLE"), "{name}");
        } else {
            let refused = client.next().await;
            assert!(refused.starts_with(&format!("44{name},{{")), "{refused}");
            assert!(
                refused.contains(r#""data":{"code":"INTERNAL"}"#),
                "{refused}"
            );
            // The namespace that it is in has nothing to do with it.
            client.send(r#"421["probe"]"#).await;
            assert_eq!(client.next().await, "431[]");
        }
    }
    let _ = heard(&mut other).await;
    until(|| gateway.counts().sockets == 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_holds_for_all_namespaces_is_decided_first() {
    let order = Arc::new(std::sync::Mutex::new(Vec::new()));
    let note = |word: &'static str, refuses: bool| {
        let order = order.clone();
        move |_: heartline::handler::Arrival| {
            order.lock().unwrap().push(word);
            std::future::ready(match refuses {
                true => Err(ConnectRefused::new(word)),
                false => Ok(()),
            })
        }
    };
    let builder = app(with_namespaces(&["/chat"]))
        .of("/chat", |set| set.admit(note("chat", true)))
        .admit(note("first", false))
        .admit(note("second", false));
    let (_gateway, address) = start(builder).await;
    let mut client = user(&address, "ann").await;
    client.send("40/chat,").await;
    assert_eq!(client.next().await, r#"44/chat,{"message":"chat"}"#);
    let order = order.lock().unwrap();
    assert_eq!(*order, ["first", "second", "first", "second", "chat"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_request_that_is_never_judged_is_refused_in_time() {
    let builder = app(Config {
        auth_timeout: Duration::from_millis(100),
        ..config()
    });
    let builder = builder.allow_request(|_| std::future::pending());
    let (gateway, address) = start(builder).await;
    let mut http = Http::open(&address).await;
    let path = "GET /socket.io/?EIO=4&transport=polling";
    assert_eq!(http.ask(path, "", b"").await.status, 503);
    assert_eq!(gateway.connection_count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_live_client_that_is_thrown_out_reads_why_in_the_close_frame() {
    let builder = app(config()).on("out", |socket: Socket| async move { socket.disconnect() });
    let (_gateway, address) = start(builder).await;
    let mut live = Client::live(&address, "").await;
    live.send(r#"{"type":"emit","event":"out"}"#).await;
    assert_eq!(live.closed().await, (4403, "kicked".to_owned()));
    let mut client = user(&address, "ann").await;
    client.send(r#"42["out"]"#).await;
    assert_eq!(
        client.next().await,
        r#"42["connection:closed",{"reason":"kicked"}]"#
    );
    assert_eq!(client.next().await, "41");
    assert_eq!(client.close_code().await, 4403);
}

/// Knows people by their cookie, and else by their token.
struct Cookies;

impl Authenticator for Cookies {
    fn authenticate(&self, credentials: Credentials) -> BoxFuture<Result<Identity, AuthError>> {
        let handshake = credentials.handshake.unwrap_or_default();
        let session = handshake.cookie("session").map(ToOwned::to_owned);
        let known = session.or(credentials.token).ok_or(AuthError::Required);
        Box::pin(std::future::ready(known.map(|user| Identity {
            user: Some(Arc::new(UserKey {
                tenant_id: None,
                user_id: user.into(),
                user_type: None,
            })),
            ..Identity::default()
        })))
    }

    fn wants_handshake(&self) -> bool {
        true
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_a_cookie_needs_no_token() {
    for mode in [AuthMode::Required, AuthMode::Optional] {
        let mut config = config();
        config.namespaces.get_mut("/").unwrap().auth_mode = mode;
        let builder = Gateway::builder(config)
            .authenticator(Cookies)
            .on("probe", || async {})
            .on("who", |socket: Socket| async move {
                Json(socket.identity().user_id().map(str::to_owned))
            });
        let (_gateway, address) = start(builder).await;
        let cookie = "cookie: theme=dark; session=ann\r\n";
        let mut client = Client::open_with(&address, "", cookie).await;
        client.send("40").await;
        client.hear("40{").await;
        client.send(r#"421["who"]"#).await;
        assert_eq!(client.next().await, r#"431["ann"]"#);
        let mut polling = Polling::open(&address, "", cookie).await;
        polling.send("40").await;
        assert!(polling.next().await.starts_with("40{"));
        polling.send(r#"421["who"]"#).await;
        assert_eq!(polling.next().await, r#"431["ann"]"#);

        let who = r#"{"type":"emit","event":"who","id":1}"#;
        let (mut live, _) = Client::websocket(&address, "/live", cookie).await;
        live.send(who).await;
        assert_eq!(live.next().await, r#"{"type":"ack","id":1,"data":"ann"}"#);

        // Without one, things are as they are without cookies.
        let mut nobody = Client::open(&address).await;
        nobody.send("40").await;
        let answer = nobody.next().await;
        let mut late = Client::live(&address, "").await;
        if mode == AuthMode::Required {
            assert!(answer.contains("AUTH_REQUIRED"), "{answer}");
        } else {
            assert!(answer.starts_with("40{"), "{answer}");
            late.send(who).await;
            assert_eq!(late.next().await, r#"{"type":"ack","id":1,"data":null}"#);
        }
        late.send(r#"{"type":"auth","token":"bob"}"#).await;
        late.send(who).await;
        assert_eq!(late.next().await, r#"{"type":"ack","id":1,"data":"bob"}"#);
        if mode == AuthMode::Required {
            let mut early = Client::live(&address, "").await;
            early.send(who).await;
            assert_eq!(early.closed().await, (4401, "AUTH_REQUIRED".to_owned()));
        }
    }
}

// --- whom an app speaks to -------------------------------------------------------------

#[tokio::test(flavor = "multi_thread")]
async fn an_app_speaks_to_whom_it_means_once_and_to_no_other_tenant() {
    let builder = app(Config {
        worker_threads: 3,
        ..with_namespaces(&["/chat"])
    });
    let builder = builder.on("speak", |socket: Socket, gateway: Gateway| async move {
        let me = socket.id();
        let tenant = socket.identity().tenant_id().map(|tenant| &**tenant);
        let to = |room: &str| gateway.to("/", tenant, room).unwrap();
        assert!(gateway.to("/nowhere", tenant, "a").is_none());
        assert!(gateway.everybody("/nowhere", tenant).is_none());
        to("a").to("b").emit("a-or-b", &1)?;
        to("a").except("b").emit("a-not-b", &1)?;
        to("a")
            .to("b")
            .except("a")
            .except("c")
            .emit("b-not-a-not-c", &1)?;
        to("a").except(&me).emit("a-not-me-by-id", &1)?;
        to(&me).emit("me-by-id", &1)?;
        to("user:bob").emit("bob", &1)?;
        to("user:bob").to("a").to(&me).emit("a-or-bob-or-me", &1)?;
        gateway
            .everybody("/", tenant)
            .unwrap()
            .except("a")
            .emit("all-not-a", &1)?;
        gateway
            .everybody("/chat", tenant)
            .unwrap()
            .emit("in-chat", &1)?;
        socket.to("a").emit("a-not-me", &1)?;
        socket.to("a").to("b").emit("a-or-b-not-me", &1)?;
        socket.to("user:ann").emit("ann-not-me", &1)?;
        socket.to(&me).emit("nobody", &1)?;
        socket.broadcast().emit("all-not-me", &1)?;
        socket
            .broadcast()
            .except("b")
            .emit("all-not-b-not-me", &1)?;
        to("empty").emit("nobody", &1)?;
        for (event, room, code) in [
            ("connect", "a", "INVALID_EVENT"),
            ("", "a", "INVALID_EVENT"),
            ("fine", "", "INVALID_ROOM"),
            ("fine", "a\n", "INVALID_ROOM"),
        ] {
            let refused = socket.to(room).emit(event, &1).unwrap_err();
            assert_eq!(refused.code(), code, "{event:?} {room:?}");
        }
        let refused = to("a").except("").emit("fine", &1).unwrap_err();
        assert_eq!(refused.code(), "INVALID_ROOM");
        let refused = to("a").emit("fine", &"x".repeat(2_000_000)).unwrap_err();
        assert_eq!(refused.code(), "PAYLOAD_TOO_LARGE");
        Ok::<_, EventError>(())
    });
    let (_gateway, address) = start(builder).await;
    let mut ann = user(&address, "ann@t").await;
    let mut ann_too = user(&address, "ann@t").await;
    let mut bob = user(&address, "bob@t").await;
    let mut cat = user(&address, "cat@t").await;
    let mut stranger = user(&address, "bob@u").await;
    let mut anonymous = Client::connect(&address, "").await;
    let mut live = Client::live(&address, "?token=dan@t").await;
    for (client, rooms) in [
        (&mut ann, &["a", "b"][..]),
        (&mut bob, &["a", "b"]),
        (&mut cat, &["b", "c"]),
        (&mut stranger, &["a", "b", "c"]),
        (&mut anonymous, &["a", "b"]),
    ] {
        for room in rooms {
            enter(client, room).await;
        }
    }
    live.send(r#"{"type":"subscribe","topic":"a"}"#).await;
    live.hear("subscribed").await;

    let said = ann.hear_until(r#"421["speak"]"#, "431[]").await;
    let names = |said: &[String]| -> Vec<String> {
        said.iter()
            .map(|text| text.split('"').nth(1).unwrap().to_owned())
            .filter(|name| name != "room:joined")
            .collect()
    };
    assert_eq!(names(&said), ["a-or-b", "me-by-id", "a-or-bob-or-me"]);
    assert_eq!(
        names(&heard(&mut ann_too).await),
        ["all-not-a", "ann-not-me", "all-not-me", "all-not-b-not-me"]
    );
    assert_eq!(
        names(&heard(&mut bob).await),
        [
            "a-or-b",
            "a-not-me-by-id",
            "bob",
            "a-or-bob-or-me",
            "a-not-me",
            "a-or-b-not-me",
            "all-not-me"
        ]
    );
    assert_eq!(
        names(&heard(&mut cat).await),
        ["a-or-b", "all-not-a", "a-or-b-not-me", "all-not-me"]
    );
    for other in [&mut stranger, &mut anonymous] {
        assert!(names(&heard(other).await).is_empty());
    }
    let frames = live_heard(&mut live).await;
    let types = |name: &str| frames.iter().filter(|frame| frame.contains(name)).count();
    for name in [
        "a-or-b",
        "a-not-b",
        "a-not-me-by-id",
        "a-not-me",
        "all-not-b-not-me",
    ] {
        assert_eq!(
            types(&format!(r#""type":"{name}""#)),
            1,
            "{name}: {frames:?}"
        );
    }
    // The room is told where the event went to one; the offset, where all of it heard.
    let frame = |name: &str| {
        let found = frames.iter().find(|frame| frame.contains(name));
        serde_json::from_str::<Value>(found.unwrap()).unwrap()
    };
    assert_eq!(frame("a-not-b")["topic"], "a");
    assert_eq!(frame("a-or-b").get("topic"), None);
    assert_eq!(types(r#""type":"bob""#), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_hears_a_handlers_words_in_the_order_in_which_they_were_said() {
    let builder = app(Config {
        worker_threads: 4,
        ..config()
    });
    let builder = builder.on("speak", |socket: Socket, gateway: Gateway| async move {
        for round in 0..20 {
            gateway.to("/", None, "r").unwrap().emit("1", &round)?;
            socket.emit("2", &round)?;
            socket.to("r").emit("3", &round)?;
            gateway.everybody("/", None).unwrap().emit("4", &round)?;
            gateway
                .to("/", None, "r")
                .unwrap()
                .to("s")
                .emit("5", &round)?;
            gateway
                .to("/", None, &socket.id())
                .unwrap()
                .emit("6", &round)?;
            socket.publish("r", "7", &round).await?;
            socket.broadcast().emit("8", &round)?;
        }
        Ok::<_, EventError>(())
    });
    let (_gateway, address) = start(builder).await;
    let mut speaker = Client::connect(&address, "").await;
    let mut members = Vec::new();
    for _ in 0..4 {
        members.push(Client::connect(&address, "").await);
    }
    for client in members.iter_mut().chain([&mut speaker]) {
        enter(client, "r").await;
    }
    let order = |names: &[&str]| -> Vec<String> {
        let round = |round| {
            names
                .iter()
                .map(move |name| format!(r#"42["{name}",{round}]"#))
        };
        (0..20).flat_map(round).collect()
    };
    let said = speaker.hear_until(r#"421["speak"]"#, "431[]").await;
    assert_eq!(said, order(&["1", "2", "4", "5", "6", "7"]));
    for member in &mut members {
        assert_eq!(heard(member).await, order(&["1", "3", "4", "5", "7", "8"]));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_client_asks_for_is_held_against_its_token() {
    let builder =
        app(config())
            .on(
                "ask",
                |socket: Socket, Json(room): Json<String>| async move {
                    socket.ask_to_join(&room).await
                },
            )
            .on(
                "pass-on",
                |socket: Socket, request: PublishRequest| async move {
                    let number = socket.ask_to_publish(request).await?;
                    Ok::<_, EventError>(Json(number.is_some()))
                },
            );
    let (_gateway, address) = start(builder).await;
    let mut ann = user(&address, "ann/open,also").await;
    let mut asks = async |packet: &str, answer: &str| {
        let heard = ann.hear_until(packet, "431[").await;
        ann.send(packet).await;
        let again = ann.hear("431[").await;
        assert!(again.contains(answer), "{packet}: {again} {heard:?}");
    };
    asks(r#"421["ask","open"]"#, "[]").await;
    asks(r#"421["ask","shut"]"#, "FORBIDDEN").await;
    asks(r#"421["ask","user:bob"]"#, "FORBIDDEN").await;
    asks(r#"421["ask",""]"#, "INVALID_ROOM").await;
    // The app's own word counts for more.
    asks(r#"421["enter","shut"]"#, "[]").await;
    asks(
        r#"421["pass-on",{"room":"open","event":"e","data":1}]"#,
        "[true]",
    )
    .await;
    asks(
        r#"421["pass-on",{"room":"user:bob","event":"e"}]"#,
        "FORBIDDEN",
    )
    .await;
    asks(
        r#"421["pass-on",{"room":"open","event":"message:new"}]"#,
        "INVALID_EVENT",
    )
    .await;
    asks(r#"421["pass-on",{"room":"open"}]"#, "INVALID_DATA").await;
}

// --- what is remembered ----------------------------------------------------------------

struct Note(&'static str);

#[tokio::test(flavor = "multi_thread")]
async fn data_lasts_as_long_as_its_socket() {
    let last: Arc<Mutex<Option<(Weak<Note>, &str)>>> = Arc::default();
    let kept: Arc<Mutex<Option<Socket>>> = Arc::default();
    let (keep, tell) = (kept.clone(), last.clone());
    let builder = app(with_namespaces(&["/chat"]))
        .on("note", move |socket: Socket| {
            let before = socket.data().insert(Note("first"));
            assert!(before.is_none());
            *keep.lock().unwrap() = Some(socket);
            async {}
        })
        .on("read", |socket: Socket| async move {
            Json(socket.data().get::<Note>().map(|note| note.0))
        })
        .on_disconnect(move |socket: Socket| {
            let note = socket.data().get::<Note>();
            *tell.lock().unwrap() = note.map(|note| (Arc::downgrade(&note), note.0));
            async {}
        });
    let (gateway, address) = start(builder).await;
    let mut client = Client::connect(&address, "").await;
    client.send("40/chat,").await;
    client.hear("40/chat,").await;
    client.send(r#"421["note"]"#).await;
    client.hear("431[]").await;
    client.send(r#"422["read"]"#).await;
    assert_eq!(client.next().await, r#"432["first"]"#);
    // Each namespace's socket has its own, as each connection.
    client.send(r#"42/chat,3["read"]"#).await;
    assert_eq!(client.next().await, "43/chat,3[null]");
    let mut other = Client::connect(&address, "").await;
    other.send(r#"422["read"]"#).await;
    assert_eq!(other.next().await, "432[null]");

    client.send("41").await;
    until(|| last.lock().unwrap().is_some()).await;
    let (note, text) = last.lock().unwrap().take().unwrap();
    assert_eq!(text, "first");
    until(|| note.upgrade().is_none()).await;
    // Whoever comes back is somebody else.
    client.send("40").await;
    client.hear("40{").await;
    client.send(r#"422["read"]"#).await;
    assert_eq!(client.next().await, "432[null]");
    // A handler that is late finds nothing, and leaves nothing.
    let late = kept.lock().unwrap().take().unwrap();
    assert!(late.data().get::<Note>().is_none());
    late.data().insert(Note("late"));
    let note = Arc::downgrade(&late.data().get::<Note>().unwrap());
    gateway.sweep().await;
    assert!(note.upgrade().is_none());
    assert!(late.entry().await.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn data_may_be_asked_for_while_data_is_made_or_dropped() {
    struct Outer(Arc<Note>);
    /// Asks for data when it is dropped.
    struct Last(Option<Socket>);
    impl Drop for Last {
        fn drop(&mut self) {
            if let Some(socket) = self.0.take() {
                socket.data().remove::<Note>();
            }
        }
    }
    let kept: Arc<Mutex<Option<Socket>>> = Arc::default();
    let keep = kept.clone();
    let builder = app(config()).on("make", move |socket: Socket| {
        *keep.lock().unwrap() = Some(socket.clone());
        let data = socket.data();
        let outer = data.get_or_insert_with(|| Outer(data.get_or_insert_with(|| Note("inner"))));
        let again = data.get_or_insert_with(|| Outer(Arc::new(Note("another"))));
        async move { Json((outer.0.0, again.0.0)) }
    });
    let (gateway, address) = start(builder).await;
    let mut client = Client::connect(&address, "").await;
    client.send(r#"421["make"]"#).await;
    assert_eq!(client.next().await, r#"431[["inner","inner"]]"#);
    client.send("41").await;
    assert!(client.hear_until("40", "40{").await.is_empty());
    let late = kept.lock().unwrap().take().unwrap();
    late.data().insert(Last(Some(late.clone())));
    let swept = tokio::time::timeout(support::DEADLINE, gateway.sweep()).await;
    swept.expect("a sweep that ends");
    assert!(heard(&mut client).await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_live_nobody_who_becomes_somebody_ends_as_every_socket_does() {
    let log: Arc<Mutex<Vec<String>>> = Arc::default();
    let (connects, ends) = (log.clone(), log.clone());
    let who = |socket: &Socket| socket.identity().user_id().unwrap_or("nobody").to_owned();
    let builder = app(config())
        .on_connect(move |socket: Socket| {
            socket.data().insert(Note("kept"));
            connects.lock().unwrap().push(format!("+{}", who(&socket)));
            async {}
        })
        .on_disconnect(move |socket: Socket, LeftRooms(rooms): LeftRooms| {
            let note = socket.data().get::<Note>().is_some();
            let end = format!(
                "-{} {note} {}",
                who(&socket),
                rooms.contains(&"r".to_owned())
            );
            ends.lock().unwrap().push(end);
            async {}
        });
    let (gateway, address) = start(builder).await;
    let mut live = Client::live(&address, "").await;
    live.send(r#"{"type":"subscribe","topic":"r"}"#).await;
    live.hear("subscribed").await;
    live.send(r#"{"type":"auth","token":"ann"}"#).await;
    assert!(live_heard(&mut live).await.is_empty());
    assert_eq!(gateway.counts().sockets, 1);
    drop(live);
    let all = ["+nobody", "-nobody true true", "+ann", "-ann true false"];
    until(|| log.lock().unwrap().len() == all.len()).await;
    assert_eq!(*log.lock().unwrap(), all);
    assert_eq!(gateway.counts().sockets, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_a_socket_tells_why_and_which_rooms_it_was_in() {
    let ends: Arc<Mutex<Vec<(Reason, Vec<String>, bool)>>> = Arc::default();
    let tell = ends.clone();
    let builder = app(config())
        .on("entry", |socket: Socket| async move {
            let entry = socket.entry().await.unwrap();
            Json((entry.transport, entry.rooms))
        })
        .on("why", |_: Reason| async {})
        .on(
            "leave-me",
            |socket: Socket| async move { socket.disconnect() },
        )
        .on_disconnect(
            move |socket: Socket, reason: Reason, LeftRooms(mut rooms): LeftRooms| {
                let tell = tell.clone();
                async move {
                    rooms.sort();
                    let is_there = socket.entry().await.is_some();
                    tell.lock().unwrap().push((reason, rooms, is_there));
                }
            },
        );
    let (_gateway, address) = start(builder).await;
    let mut client = user(&address, "ann").await;
    enter(&mut client, "a").await;
    enter(&mut client, "b").await;
    client.send(r#"421["entry"]"#).await;
    let entry = client.next().await;
    assert!(entry.starts_with(r#"431[["websocket",["#), "{entry}");
    assert!(
        entry.contains(r#""a""#) && entry.contains(r#""b""#),
        "{entry}"
    );
    client.send(r#"421["why"]"#).await;
    assert!(client.next().await.contains("INTERNAL"));
    client.send("41").await;
    until(|| ends.lock().unwrap().len() == 1).await;
    let mut kicked = Client::connect(&address, "").await;
    kicked.send(r#"42["leave-me"]"#).await;
    assert!(kicked.next().await.contains("connection:closed"));
    assert_eq!(kicked.next().await, "41");
    until(|| ends.lock().unwrap().len() == 2).await;
    let dropped = Client::connect(&address, "").await;
    drop(dropped);
    until(|| ends.lock().unwrap().len() == 3).await;
    let ends = ends.lock().unwrap();
    assert_eq!(ends[0].0, Reason::ClientLeft);
    assert!(ends[0].1.iter().any(|room| room == "a") && ends[0].1.iter().any(|room| room == "b"));
    assert_eq!(ends[1], (Reason::Kicked, Vec::new(), false));
    assert_eq!(ends[2], (Reason::TransportClosed, Vec::new(), false));
    assert!(!ends[0].2, "an entry of a socket that has gone");
}

// --- arguments -------------------------------------------------------------------------

/// `pic` is answered with its bytes turned round, `twice` says them back before.
fn pictures(builder: GatewayBuilder) -> GatewayBuilder {
    builder
        .on(
            "pic",
            |socket: Socket, All((name, Binary(bytes))): All<(String, Binary)>| async move {
                let back: Vec<u8> = bytes.iter().rev().copied().collect();
                socket.emit_args("got", &Args::many(&(&name, 1, Binary(bytes)))?)?;
                Ok::<_, EventError>(All((name, Binary::from(back))))
            },
        )
        .on(
            "mixed",
            |socket: Socket, Json(said): Json<Value>| async move {
                // What a client said, beside bytes of the app's.
                let both = Args::many(&(&said, Binary::from("app")))?;
                socket.emit_args("both", &both)
            },
        )
}

#[tokio::test(flavor = "multi_thread")]
async fn binary_comes_and_goes_in_every_wire_form() {
    let (_gateway, address) = start(pictures(app(config()))).await;
    let event = r#"["pic","a",{"_placeholder":true,"num":0}]"#;
    let mut text = Client::connect(&address, "").await;
    text.send(&format!("451-7{event}")).await;
    text.send_binary(&[1, 2, 3]).await;
    assert_eq!(
        text.next().await,
        r#"451-["got","a",1,{"_placeholder":true,"num":0}]"#
    );
    assert_eq!(text.next_binary().await, [1, 2, 3]);
    assert_eq!(
        text.next().await,
        r#"461-7["a",{"_placeholder":true,"num":0}]"#
    );
    assert_eq!(text.next_binary().await, [3, 2, 1]);

    let mut polling = Polling::connect(&address, "").await;
    polling.send(&format!("451-7{event}\u{1e}bAQID")).await;
    for packet in [
        r#"451-["got","a",1,{"_placeholder":true,"num":0}]"#,
        "bAQID",
        r#"461-7["a",{"_placeholder":true,"num":0}]"#,
        "bAwIB",
    ] {
        assert_eq!(polling.next().await, packet);
    }

    let mut packed = Client::open(&address).await;
    let pack = |json: &str, bins: &[Bytes]| {
        let mut packet = Vec::new();
        msgpack::encode_value(json, bins, &mut packet);
        packet
    };
    packed
        .send_binary(&pack(r#"{"type":0,"nsp":"/"}"#, &[]))
        .await;
    packed.next_binary().await;
    let packet = pack(
        &format!(r#"{{"type":2,"nsp":"/","id":7,"data":{event}}}"#),
        &[Bytes::from_static(&[1, 2, 3])],
    );
    packed.send_binary(&packet).await;
    let got = msgpack::decode(&packed.next_binary().await, 1000).unwrap();
    assert_eq!(
        (got.kind, &*got.attachments[0]),
        (PacketType::Event, &[1u8, 2, 3][..])
    );
    let answer = msgpack::decode(&packed.next_binary().await, 1000).unwrap();
    assert_eq!(
        (answer.kind, &*answer.attachments[0]),
        (PacketType::Ack, &[3u8, 2, 1][..])
    );

    // Live clients have one argument and hear base64.
    let mut live = Client::live(&address, "").await;
    live.send(r#"{"type":"emit","event":"mixed","data":"x","id":1}"#)
        .await;
    let both = live.next().await;
    assert!(both.contains("YXBw"), "{both}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_fit_is_refused_and_lies_about_attachments_end_no_one_else() {
    let (_gateway, address) = start(pictures(app(config()))).await;
    let mut client = Client::connect(&address, "").await;
    let attached = [
        r#"451-7["pic","a",{"_placeholder":true,"num":0},1]"#,
        r#"451-7["pic",{"_placeholder":true,"num":0}]"#,
        r#"451-7["pic",1,{"_placeholder":true,"num":0}]"#,
        r#"451-7["pic","a",{"_placeholder":false,"num":0}]"#,
    ];
    for packet in attached {
        client.send(packet).await;
        client.send_binary(&[1]).await;
        let answer = client.next().await;
        assert!(answer.starts_with("437["), "{packet}: {answer}");
        assert!(answer.contains("INVALID_DATA"), "{packet}: {answer}");
    }
    for args in [
        r#""a",{"_placeholder":true,"num":0}"#,
        r#""a",{"_placeholder":true,"num":-1}"#,
        r#""a",{"_placeholder":true,"num":1e99}"#,
        r#""a",{"_placeholder":true,"num":"0"}"#,
        r#""a","AQID""#,
        r#""a""#,
    ] {
        client.send(&format!(r#"427["pic",{args}]"#)).await;
        let answer = client.next().await;
        assert!(answer.contains("INVALID_DATA"), "{args}: {answer}");
    }
    // Beside the app's own attachment a client's object would be taken for a placeholder.
    for number in ["0", "99"] {
        let lie = format!(r#"427["mixed",{{"x":[{{"_placeholder":true,"num":{number}}}]}}]"#);
        client.send(&lie).await;
        let answer = client.next().await;
        assert!(answer.contains("INVALID_DATA"), "{answer}");
    }
    client.send(r#"427["mixed",{"_placeholder":true}]"#).await;
    client.hear("437[").await;
    assert!(heard(&mut client).await.is_empty());
}

// --- the connection's first request ----------------------------------------------------

/// The first request, for which no handler has asked.
struct Sly(bool);

impl FromEvent for Sly {
    fn from_event(event: &Event<'_>) -> Result<Self, EventError> {
        let handshake = Arc::<Handshake>::from_event(event)?;
        Ok(Sly(!handshake.headers.is_empty()))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn first_requests_are_kept_only_if_somebody_asks() {
    let sly = |Sly(kept): Sly| async move { Json(kept) };
    let asks = |_: Arc<Handshake>| async {};
    for (builder, kept) in [
        (app(config()).on("sly", sly), false),
        (app(config()).on("sly", sly).on("other", asks), true),
        (app(config()).on("sly", sly).on("any:*", asks), true),
        (app(config()).on("sly", sly).on("*", asks), true),
        (app(config()).on("sly", sly).on_disconnect(asks), true),
        (
            app(config()).on("sly", sly).admit(|_| async { Ok(()) }),
            true,
        ),
        (
            app(config())
                .on("sly", sly)
                .of("/", |set| set.on_connect(asks)),
            true,
        ),
    ] {
        let (_gateway, address) = start(builder).await;
        let mut client = Client::connect(&address, "").await;
        client.send(r#"421["sly"]"#).await;
        assert_eq!(client.next().await, format!("431[{kept}]"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn handlers_see_the_first_request_on_every_transport() {
    let ends: Arc<Mutex<Vec<String>>> = Arc::default();
    let tell = ends.clone();
    let read = |handshake: &Handshake| {
        let room = handshake.query("room").map(String::from);
        let color = handshake.header("X-Color").map(str::to_owned);
        let session = handshake.cookie("session").map(str::to_owned);
        assert!(handshake.at > 1_600_000_000_000);
        (room, color, session, handshake.header("x-bytes").is_some())
    };
    let builder = app(config())
        .on("read", move |handshake: Arc<Handshake>| {
            let seen = read(&handshake);
            async move { Json(seen) }
        })
        .on_disconnect(move |handshake: Arc<Handshake>| {
            tell.lock()
                .unwrap()
                .extend(handshake.query("room").map(String::from));
            async {}
        });
    let (gateway, address) = start(builder).await;
    let query = "&room=a%20b%26&room=second&token2=%ff";
    let headers = "x-color: red\r\nx-color: blue\r\ncookie: a=b; session=s1\r\n";
    let seen = r#"[["a b&","red","s1",false]]"#;
    let mut client = Client::open_with(&address, query, headers).await;
    client.send("40").await;
    client.hear("40{").await;
    client.send(r#"421["read"]"#).await;
    assert_eq!(client.next().await, format!("431{seen}"));
    let mut polling = Polling::open(&address, query, headers).await;
    polling.send("40").await;
    polling.next().await;
    polling.send(r#"421["read"]"#).await;
    assert_eq!(polling.next().await, format!("431{seen}"));
    let (mut live, _) = Client::websocket(&address, &format!("/live?{query}"), headers).await;
    live.send(r#"{"type":"emit","event":"read","id":1}"#).await;
    let data = &seen[1..seen.len() - 1];
    assert_eq!(
        live.next().await,
        format!(r#"{{"type":"ack","id":1,"data":{data}}}"#)
    );
    drop((client, live));
    until(|| ends.lock().unwrap().len() == 2).await;

    // A head without bounds is nobody's first request.
    let huge = format!(
        "GET /socket.io/?EIO=4&transport=polling&x={}",
        "x".repeat(10_000_000)
    );
    let answer = Http::open(&address).await.try_ask(&huge, "", b"").await;
    assert!(answer.is_none_or(|answer| (400..500).contains(&answer.status)));
    polling.send(r#"421["read"]"#).await;
    assert_eq!(polling.next().await, format!("431{seen}"));
    assert_eq!(gateway.connection_count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_header_that_is_no_text_is_left_out() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let looked: Arc<Mutex<Option<Handshake>>> = Arc::default();
    let keep = looked.clone();
    let builder = app(config()).admit(move |arrival| {
        *keep.lock().unwrap() = Some((*arrival.handshake).clone());
        async { Ok(()) }
    });
    let (_gateway, address) = start(builder).await;
    let mut stream = tokio::net::TcpStream::connect(&address).await.unwrap();
    let head = b"GET /live HTTP/1.1\r\nhost: test\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
        sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
        x-empty:\r\nx-bytes: \xff\xfe\r\nx-fine: yes\r\n\r\n";
    stream.write_all(head).await.unwrap();
    assert_eq!(stream.read_u8().await.unwrap(), b'H');
    until(|| looked.lock().unwrap().is_some()).await;
    let handshake = looked.lock().unwrap().take().unwrap();
    assert_eq!(handshake.header("x-fine"), Some("yes"));
    assert_eq!(handshake.header("x-empty"), Some(""));
    assert_eq!(handshake.header("x-bytes"), None);
    let shown = format!("{handshake:?}");
    assert!(
        shown.contains("x-fine") && !shown.contains("yes"),
        "{shown}"
    );
}

// --- the app's side of HTTP ------------------------------------------------------------

fn response(status: StatusCode, body: impl Into<Bytes>) -> HttpResponse {
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
    let answer = http.ask("POST /login", "", &[b'x'; 1001]).await;
    assert_eq!(answer.status, 413);
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
    assert!(http.try_ask("GET /panics", "", b"").await.is_none());
    let answer = Http::open(&address).await.ask("GET /", "", b"").await;
    assert_eq!(answer.status, 200);
    assert!(heard(&mut client).await.is_empty());
    drop(client);
    tokio::time::timeout(support::DEADLINE, gateway.drain())
        .await
        .unwrap();
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
        let ended = http
            .try_ask(&format!("GET {path}&panics"), headers, b"")
            .await;
        assert!(ended.is_none(), "{path}: {ended:?}");
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

// --- Engine.IO by itself ---------------------------------------------------------------

/// Tells of connections that have ended.
struct Plain(Arc<AtomicBool>);

impl engineio::Handler for Plain {
    fn admits(&self, request: &Request<()>) -> Result<HeaderMap, Box<Response<Bytes>>> {
        let query = request.uri().query().unwrap_or_default();
        if query.contains("panics") {
            return panics(Ok(HeaderMap::new()));
        }
        if query.contains("deny") {
            return Err(Box::new(response(StatusCode::FORBIDDEN, "denied")));
        }
        Ok(HeaderMap::from_iter([(
            SET_COOKIE,
            HeaderValue::from_static("a=1"),
        )]))
    }

    fn message(&self, connection: &Connection, _: engineio::Message) {
        let said = connection.handshake().query("said").unwrap_or_default();
        connection.send(engineio::Message::Text(said.into_owned()));
    }

    fn closed(&self, connection: &Connection, _: Reason) {
        let is_there = connection.handshake().query("said").is_some();
        self.0.store(is_there, Ordering::SeqCst);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_io_app_decides_by_first_requests_and_knows_them_later() {
    let closed = Arc::new(AtomicBool::new(false));
    let options = Options {
        path: "/socket.io/".into(),
        websocket_path: Some("/plain".into()),
        worker_threads: 1,
        ..Options::default()
    };
    let server = Arc::new(Server::new(options, Plain(closed.clone())).unwrap());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let serving = server.clone();
    tokio::spawn(async move { serving.serve(listener).await });
    let mut http = Http::open(&address).await;
    let handshake = "GET /socket.io/?EIO=4&transport=polling";
    let answer = http.ask(&format!("{handshake}&deny=1"), "", b"").await;
    assert_eq!((answer.status, &*answer.body), (403, "denied"));
    let answer = http.ask(handshake, "", b"").await;
    assert_eq!(answer.header("set-cookie"), ["a=1"]);
    assert!(
        http.try_ask(&format!("{handshake}&panics"), "", b"")
            .await
            .is_none()
    );
    let target = "/socket.io/?EIO=4&transport=websocket&said=hello%20there";
    let (mut client, head) = Client::websocket(&address, target, "").await;
    assert!(
        head.to_lowercase().contains("set-cookie: a=1\r\n"),
        "{head}"
    );
    client.next().await;
    client.send("4?").await;
    assert_eq!(client.next().await, "4hello there");
    drop(client);
    until(|| closed.load(Ordering::SeqCst)).await;
    let (mut plain, _) = Client::websocket(&address, "/plain?said=plainly", "").await;
    plain.send("?").await;
    assert_eq!(plain.next().await, "plainly");
}

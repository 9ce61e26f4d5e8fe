//! Who is let in, and how a refusal arrives.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use heartline::auth::{AuthError, Authenticator, BoxFuture, Credentials, Identity, UserKey};
use heartline::config::{AuthMode, DevicePolicy};
use heartline::{Config, ConnectRefused, Gateway, Json, Socket};
use heartline_wire::msgpack;
use serde_json::json;

use crate::support::{Client, Http, Polling, start, until};
use crate::{app, config, heard, panics, user, with_namespaces};

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
        auth_timeout: Duration::from_secs(4),
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

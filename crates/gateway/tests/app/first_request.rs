//! The first request of a connection, as handlers see it.

use std::sync::{Arc, Mutex};

use heartline::{Event, EventError, FromEvent, Handshake, Json};

use crate::support::{Client, Http, Polling, start, until};
use crate::{app, config};

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

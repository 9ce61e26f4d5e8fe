//! Engine.IO by itself, as an app of its own.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use heartline::engineio::{Connection, Options, Server};
use heartline::{HeaderMap, Reason, engineio};
use hyper::header::{HeaderValue, SET_COOKIE};
use hyper::{Request, Response, StatusCode};

use crate::http::response;
use crate::panics;
use crate::support::{Client, Http, until};

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
    let failed = http.ask(&format!("{handshake}&panics"), "", b"").await;
    assert_eq!(failed.status, 500);
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

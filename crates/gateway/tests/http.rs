//! The HTTP side as clients, proxies and browsers meet it, over real sockets.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

use std::io::Read;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use heartline::{Config, Gateway};
use support::{Client, DEADLINE, config, start, until};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

mod support;

const HANDSHAKE: &str = "/socket.io/?EIO=4&transport=polling";
const UPGRADE: &str = "connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n\
                       sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

/// A response, its body as it came.
struct Response {
    head: String,
    body: Vec<u8>,
}

impl Response {
    fn status(&self) -> u16 {
        self.head[9..12].parse().unwrap()
    }

    fn header(&self, name: &str) -> Option<&str> {
        let line = self.head.lines().filter_map(|line| line.split_once(": "));
        line.into_iter()
            .find(|(other, _)| other.eq_ignore_ascii_case(name))
            .map(|(_, value)| value)
    }

    fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }
}

/// One HTTP connection, kept for the next request.
struct Http {
    stream: TcpStream,
}

impl Http {
    async fn to(address: &str) -> Http {
        Http {
            stream: TcpStream::connect(address).await.unwrap(),
        }
    }

    /// From another address of this machine.
    async fn from(source: &str, address: &str) -> Http {
        let socket = TcpSocket::new_v4().unwrap();
        let source: SocketAddr = format!("{source}:0").parse().unwrap();
        socket.bind(source).unwrap();
        let stream = socket.connect(address.parse().unwrap()).await.unwrap();
        Http { stream }
    }

    async fn send(&mut self, method: &str, target: &str, headers: &str, body: &str) {
        let length = match method {
            "POST" => format!("content-length: {}\r\n", body.len()),
            _ => String::new(),
        };
        let request = format!(
            "{method} {target} HTTP/1.1\r\nhost: app.example\r\n{length}{headers}\r\n{body}"
        );
        self.stream.write_all(request.as_bytes()).await.unwrap();
    }

    async fn response(&mut self) -> Response {
        let reading = async {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(self.stream.read_u8().await.unwrap());
            }
            let mut response = Response {
                head: String::from_utf8(head).unwrap(),
                body: Vec::new(),
            };
            let length = response.header("content-length").unwrap_or("0");
            response.body = vec![0; length.parse().unwrap()];
            self.stream.read_exact(&mut response.body).await.unwrap();
            response
        };
        tokio::time::timeout(DEADLINE, reading)
            .await
            .expect("a response in time")
    }

    async fn ask(&mut self, method: &str, target: &str, headers: &str, body: &str) -> Response {
        self.send(method, target, headers, body).await;
        self.response().await
    }

    /// Whether the server has ended it by `DEADLINE`.
    async fn ends(&mut self) -> bool {
        let mut byte = [0; 1];
        let reading = tokio::time::timeout(DEADLINE, self.stream.read(&mut byte));
        matches!(reading.await, Ok(Ok(0) | Err(_)))
    }
}

async fn get(address: &str, target: &str, headers: &str) -> Response {
    Http::to(address)
        .await
        .ask("GET", target, headers, "")
        .await
}

/// A polling client in the namespace `/`, its name as a query.
async fn polling(http: &mut Http) -> String {
    let target = opened(http).await;
    assert_eq!(http.ask("POST", &target, "", "40").await.text(), "ok");
    let reply = http.ask("GET", &target, "", "").await;
    assert!(reply.text().starts_with("40{"), "{}", reply.text());
    target
}

/// A polling session that has joined nothing.
async fn opened(http: &mut Http) -> String {
    opened_by(http.ask("GET", HANDSHAKE, "", "").await.text())
}

/// Where the session is asked for that a response tells of.
fn opened_by(response: &str) -> String {
    let (_, rest) = response.split_once("\"sid\":\"").unwrap();
    format!("{HANDSHAKE}&sid={}", rest.split('"').next().unwrap())
}

fn repeating() -> heartline::GatewayBuilder {
    let mut config = config();
    // None of its polling clients answers a ping, however long what they look for takes.
    config.heartbeat.interval = Duration::from_secs(3600);
    Gateway::builder(config).on(
        "repeat",
        |socket: heartline::Socket, heartline::Json(text): heartline::Json<String>| async move {
            socket.emit("repeated", &text)
        },
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_connections_of_one_address_keep_nobody_else_out() {
    let (_gateway, address) = start(Gateway::builder(Config {
        max_connections_per_ip: Some(4),
        ..config()
    }))
    .await;
    let mut idle = Vec::new();
    for _ in 0..300 {
        idle.push(Http::from("127.0.0.7", &address).await);
    }
    let mut last = idle.pop().unwrap();
    assert!(last.ends().await, "an idle connection too many was kept");
    let mut first = idle.remove(0);
    assert_eq!(first.ask("GET", HANDSHAKE, "", "").await.status(), 200);
    let mut other = Http::from("127.0.0.8", &address).await;
    assert_eq!(other.ask("GET", HANDSHAKE, "", "").await.status(), 200);
    drop(idle);
    let again = async {
        loop {
            let mut http = Http::from("127.0.0.7", &address).await;
            http.send("GET", HANDSHAKE, "", "").await;
            if http.stream.read_u8().await.is_ok() {
                return;
            }
        }
    };
    tokio::time::timeout(DEADLINE, again)
        .await
        .expect("the address to be let in again");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_burst_over_the_bound_of_an_address_everybody_is_answered() {
    let (_gateway, address) = start(Gateway::builder(Config {
        max_connections_per_ip: Some(2),
        ..config()
    }))
    .await;
    let mut burst = Vec::new();
    for _ in 0..100 {
        burst.push(Http::from("127.0.0.9", &address).await);
    }
    for (number, http) in burst.iter_mut().enumerate() {
        let (target, headers) = match number % 2 {
            0 => (HANDSHAKE, ""),
            _ => ("/live", UPGRADE),
        };
        http.send("GET", target, headers, "").await;
    }
    let mut refused = 0;
    for http in &mut burst {
        let status = http.response().await.status();
        assert!([101, 200, 429].contains(&status), "{status}");
        refused += usize::from(status == 429);
    }
    assert_eq!(refused, 98);
}

/// All that comes back when nothing is said behind a request.
async fn last_word(address: &str, asked: [&str; 4]) -> String {
    let mut http = Http::to(address).await;
    let [method, target, headers, body] = asked;
    http.send(method, target, headers, body).await;
    http.stream.shutdown().await.unwrap();
    let mut told = Vec::new();
    let reading = tokio::time::timeout(DEADLINE, http.stream.read_to_end(&mut told));
    reading.await.expect("an end in time").unwrap();
    String::from_utf8_lossy(&told).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn who_asks_and_says_no_more_is_answered_whatever_they_ask_for() {
    let (gateway, address) = start(repeating()).await;
    let address = &*address;
    for _ in 0..10 {
        let opened = last_word(address, ["GET", HANDSHAKE, "", ""]).await;
        assert!(
            opened.contains("200 OK") && opened.contains("\"sid\""),
            "{opened:?}"
        );
        let not_there = last_word(address, ["GET", "/nothing", "", ""]).await;
        assert!(not_there.starts_with("HTTP/1.1 404"), "{not_there:?}");
        let hello = last_word(address, ["GET", "/live", UPGRADE, ""]).await;
        assert!(hello.starts_with("HTTP/1.1 101"), "{hello:?}");
        let mut http = Http::to(address).await;
        let session = opened_by(&opened);
        let posted = last_word(address, ["POST", &session, "", "40"]).await;
        assert!(posted.ends_with("\r\n\r\nok"), "{posted:?}");
        // What waits already comes, and a response that does not is not waited for.
        let polled = last_word(address, ["GET", &session, "", ""]).await;
        assert!(polled.contains("\r\n\r\n40{"), "{polled:?}");
        let said = http
            .ask("POST", &session, "", "42[\"repeat\",\"hi\"]")
            .await;
        assert_eq!(said.text(), "ok");
        let heard = http.ask("GET", &session, "", "").await;
        assert_eq!(heard.text(), "42[\"repeated\",\"hi\"]");
        assert_eq!(last_word(address, ["GET", &session, "", ""]).await, "");
        until(|| gateway.connection_count() == 0).await;
    }
}

/// What a newcomer is answered, on each endpoint.
async fn newcomers(address: &str) -> [u16; 2] {
    let live = get(address, "/live", UPGRADE).await;
    [get(address, HANDSHAKE, "").await.status(), live.status()]
}

/// Waits until a newcomer is answered so.
async fn until_newcomers(address: &str, expected: u16) {
    let waiting = async { while get(address, HANDSHAKE, "").await.status() != expected {} };
    tokio::time::timeout(DEADLINE, waiting)
        .await
        .expect("another answer in time");
}

#[tokio::test(flavor = "multi_thread")]
async fn more_connections_than_there_may_be_are_refused_until_one_ends() {
    let (_gateway, address) = start(Gateway::builder(Config {
        max_connections: Some(2),
        ..config()
    }))
    .await;
    let first = Client::connect(&address, "").await;
    let _second = Client::connect(&address, "").await;
    assert_eq!(newcomers(&address).await, [503; 2]);
    drop(first);
    until_newcomers(&address, 200).await;
    assert_eq!(newcomers(&address).await, [503; 2]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_drains_refuses_newcomers_and_keeps_whoever_is_there() {
    let (gateway, address) = start(Gateway::builder(Config {
        drain_spread: Some(Duration::from_secs(3600)),
        ..config()
    }))
    .await;
    let mut there = Client::connect(&address, "").await;
    assert_eq!(newcomers(&address).await, [200, 101]);
    let draining = gateway.clone();
    tokio::spawn(async move { draining.drain().await });
    until_newcomers(&address, 503).await;
    assert_eq!(newcomers(&address).await, [503; 2]);
    there.send(r#"421["heartbeat:response",{}]"#).await;
    assert!(there.next().await.starts_with("431["));
}

/// On a clock that jumps to what is waited for next, whenever nothing can be done. What comes
/// first on a connection is read by a shard, which has a clock of its own.
#[tokio::test]
async fn headers_that_trickle_in_are_given_up_on_after_ten_seconds() {
    let (_gateway, address) = start(Gateway::builder(config())).await;
    let mut http = Http::to(&address).await;
    http.send("GET", "/nothing", "", "").await;
    assert_eq!(http.response().await.status(), 404);
    tokio::time::pause();
    let begun = tokio::time::Instant::now();
    http.stream
        .write_all(b"GET /live HTTP/1.1\r\n")
        .await
        .unwrap();
    let mut byte = [0; 1];
    let ended = loop {
        let read = tokio::time::timeout(Duration::from_secs(1), http.stream.read(&mut byte));
        match read.await {
            Err(_) => http.stream.write_all(b"x").await.unwrap(),
            Ok(read) => break read,
        }
        assert!(begun.elapsed() < Duration::from_secs(60), "still open");
    };
    assert!(matches!(ended, Ok(0) | Err(_)), "{ended:?}");
    let lasted = begun.elapsed().as_secs();
    assert!((9..=11).contains(&lasted), "{lasted} s");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_has_room_for_both_requests_of_all_its_polling_clients() {
    let (_gateway, address) = start(Gateway::builder(Config {
        max_connections_per_ip: Some(10),
        ..config()
    }))
    .await;
    let mut clients = Vec::new();
    for _ in 0..10 {
        let (mut gets, mut posts) = (Http::to(&address).await, Http::to(&address).await);
        let target = polling(&mut posts).await;
        gets.send("GET", &target, "", "").await;
        clients.push((gets, posts, target));
    }
    for (gets, posts, target) in &mut clients {
        let event = r#"421["heartbeat:response",{}]"#;
        assert_eq!(posts.ask("POST", target, "", event).await.text(), "ok");
        assert!(gets.response().await.text().starts_with("431["));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_may_not_have_a_megabyte_kept_and_a_client_may() {
    let (_gateway, address) = start(repeating()).await;
    let large = "x".repeat(200_000);
    let event = format!(r#"42["repeat","{large}"]"#);

    let mut http = Http::to(&address).await;
    let stranger = opened(&mut http).await;
    assert_eq!(http.ask("POST", &stranger, "", &event).await.status(), 413);
    let mut http = Http::to(&address).await;
    let client = polling(&mut http).await;
    assert_eq!(http.ask("POST", &client, "", &event).await.status(), 200);
    assert!(http.ask("GET", &client, "", "").await.body.len() > 200_000);

    let mut stranger = Client::open(&address).await;
    stranger.send(&event).await;
    assert_eq!(stranger.close_code().await, 1009);
    let mut client = Client::connect(&address, "").await;
    client.send(&event).await;
    assert!(client.hear("repeated").await.len() > 200_000);
    let mut live = Client::live(&address, "").await;
    let frame = format!(r#"{{"type":"emit","event":"repeat","data":"{large}","id":1}}"#);
    live.send(&frame).await;
    assert!(live.hear("repeated").await.len() > 200_000);
}

/// Sends what need not be HTTP, to its end; all that is answered.
async fn said(address: &str, request: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request).await.unwrap();
    let mut answer = Vec::new();
    let reading = tokio::time::timeout(DEADLINE, stream.read_to_end(&mut answer));
    reading.await.expect("an answer in time").unwrap();
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn who_sends_more_than_is_looked_at_hears_the_answer() {
    let (_gateway, address) = start(Gateway::builder(config())).await;
    for (target, status) in [
        ("/socket.io/?EIO=4&transport=polling&sid=nobody", "400"),
        ("/socket.io/?EIO=4&transport=polling", "400"),
        ("/live", "426"),
        ("/nothing", "404"),
    ] {
        let length = 6_000_000;
        let mut request = format!(
            "POST {target} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n"
        );
        request.push_str(&"x".repeat(length));
        let answer = said(&address, request.as_bytes()).await;
        assert_eq!(answer.split(' ').nth(1), Some(status), "{target}: {answer}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_names_its_host_once() {
    let (_gateway, address) = start(Gateway::builder(config())).await;
    let upgrade = "upgrade: websocket\r\nsec-websocket-version: 13\r\n\
                   sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\nconnection: upgrade\r\n";
    for target in ["/socket.io/?EIO=4&transport=polling", "/nothing", "/live"] {
        let more = match target {
            "/live" => upgrade,
            _ => "connection: close\r\n",
        };
        for hosts in ["", "host: x\r\nhost: x\r\n", "host: x\r\nHost: y\r\n"] {
            // What is refused here is not kept for a next request.
            let request = format!("GET {target} HTTP/1.1\r\n{hosts}{more}\r\n");
            let mut http = Http::to(&address).await;
            http.stream.write_all(request.as_bytes()).await.unwrap();
            let answer = http.response().await;
            assert_eq!(answer.status(), 400, "{target} {hosts:?}");
            assert!(answer.text().contains("Host"), "{}", answer.text());
        }
    }
    let answer = said(&address, b"GET /nothing HTTP/1.0\r\n\r\n").await;
    assert!(answer.contains(" 404 "), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_of_60_000_bytes_may_come_with_the_first_packet() {
    let (_gateway, address) = start(Gateway::builder(config())).await;
    let auth = format!(r#"40{{"page":"{}"}}"#, "x".repeat(60_000));
    let mut http = Http::to(&address).await;
    let target = opened(&mut http).await;
    assert_eq!(http.ask("POST", &target, "", &auth).await.text(), "ok");
    let reply = http.ask("GET", &target, "", "").await;
    assert!(reply.text().starts_with("40{"), "{}", reply.text());
    let mut client = Client::open(&address).await;
    client.send(&auth).await;
    assert!(client.next().await.starts_with("40{"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_token_is_none_on_either_transport() {
    let (_gateway, address) = start(Gateway::builder(Config {
        hello: true,
        ..config()
    }))
    .await;
    let mut live = Client::live(&address, "?token=").await;
    assert!(
        live.hear("hello")
            .await
            .contains(r#""authenticated":false"#)
    );
    let mut socketio = Client::connect(&address, r#"{"token":""}"#).await;
    assert!(
        socketio
            .hear("hello")
            .await
            .contains(r#""authenticated":false"#)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_websocket_subprotocol_is_answered_with_the_first_one_offered() {
    let (_gateway, address) = start(Gateway::builder(config())).await;
    for target in ["/socket.io/?EIO=4&transport=websocket", "/live"] {
        for (offered, answered) in [
            ("sec-websocket-protocol: chat, superchat\r\n", Some("chat")),
            (
                "sec-websocket-protocol: v1.json\r\nsec-websocket-protocol: b\r\n",
                Some("v1.json"),
            ),
            ("sec-websocket-protocol: , \r\n", None),
            ("", None),
        ] {
            let response = get(&address, target, &format!("{UPGRADE}{offered}")).await;
            assert_eq!(response.status(), 101, "{}", response.head);
            assert_eq!(response.header("sec-websocket-protocol"), answered);
        }
    }
    let mut http = Http::to(&address).await;
    let sid = opened(&mut http).await.replace("polling", "websocket");
    let headers = format!("{UPGRADE}sec-websocket-protocol: chat\r\n");
    let response = get(&address, &sid, &headers).await;
    assert_eq!(response.header("sec-websocket-protocol"), Some("chat"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upgrade_by_a_proxy_that_speaks_http_1_0_is_told_why_there_is_none() {
    let (_gateway, address) = start(Gateway::builder(config())).await;
    let mut http = Http::to(&address).await;
    let known = opened(&mut http).await.replace("polling", "websocket");
    let new = "/socket.io/?EIO=4&transport=websocket";
    for target in ["/live", new, &known] {
        let mut asks = Http::to(&address).await;
        let request = format!("GET {target} HTTP/1.0\r\n{UPGRADE}\r\n");
        asks.stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        let reading = asks.stream.read_to_string(&mut answer);
        tokio::time::timeout(DEADLINE, reading)
            .await
            .unwrap()
            .unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let head = head.to_ascii_lowercase();
        assert_eq!(head.get(8..12), Some(" 426"), "{target}: {answer}");
        assert!(head.contains("\r\nupgrade: websocket"), "{answer}");
        assert!(head.contains("\r\nconnection: upgrade"), "{answer}");
        assert!(body.contains("proxy_http_version 1.1"), "{answer}");
    }
    // The session is there as before.
    let polling = known.replace("websocket", "polling");
    assert_eq!(http.ask("POST", &polling, "", "40").await.status(), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_of_the_listed_origins_may_come_however_they_are_written() {
    let (_gateway, address) = start(Gateway::builder(Config {
        allowed_origins: heartline::config::AllowedOrigins::List(vec![
            "https://App.Example:443/".into(),
        ]),
        trusted_proxies: vec!["::ffff:127.0.0.1/128".parse().unwrap()],
        ..config()
    }))
    .await;
    for (headers, expected) in [
        ("origin: https://app.example\r\n", 200),
        ("origin: https://evil.example\r\n", 403),
        ("origin: https://app.example:444\r\n", 403),
        ("origin: http://app.example\r\n", 200),
        (
            "origin: http://app.example\r\nx-forwarded-proto: http\r\n",
            200,
        ),
        (
            "origin: http://app.example\r\nx-forwarded-proto: https\r\n",
            403,
        ),
    ] {
        let response = get(&address, HANDSHAKE, headers).await;
        assert_eq!(response.status(), expected, "{headers}");
        let live = get(&address, "/live", &format!("{UPGRADE}{headers}")).await;
        let expected = if expected == 200 { 101 } else { 403 };
        assert_eq!(live.status(), expected, "{headers}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_behind_a_proxy_that_writes_ports_are_told_apart() {
    let (gateway, address) = start(Gateway::builder(Config {
        max_connections_per_ip: Some(1),
        trusted_proxies: vec!["127.0.0.0/8".parse().unwrap()],
        ..config()
    }))
    .await;
    let mut http = Http::to(&address).await;
    for (forwarded, expected) in [
        ("203.0.113.7:51234", 200),
        ("203.0.113.7:51235", 429),
        ("203.0.113.8", 200),
        ("[2001:db8::1]:443", 200),
        ("\"[2001:db8::2]\"", 429),
        ("[2001:db8:0:1::1]", 200),
        ("unknown", 200),
        ("203.0.113.9, unknown", 429),
    ] {
        let headers = format!("x-forwarded-for: {forwarded}\r\n");
        let response = http.ask("GET", HANDSHAKE, &headers, "").await;
        assert_eq!(response.status(), expected, "{forwarded}");
    }
    let forwarded = "x-forwarded-for: 192.0.2.7:4711\r\n";
    let mut client = Client::open_with(&address, "", forwarded).await;
    client.send("40").await;
    assert!(client.next().await.starts_with("40{"));
    let page = gateway.connections(<_>::default(), None, 9).await.unwrap();
    assert_eq!(page.items[0].remote_addr, "192.0.2.7");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_response_whose_data_look_like_http_arrives_whole() {
    let (_gateway, address) = start(repeating()).await;
    let mut http = Http::to(&address).await;
    let target = polling(&mut http).await;
    // Where a write ends for a client that reads late is the system's choice; one of these
    // has the rest begin like the end of HTTP.
    const LIKE_HTTP: &str = "HTTP/1.1 101 ";
    for shift in 0..LIKE_HTTP.len() {
        let text = "x".repeat(shift) + &LIKE_HTTP.repeat(70_000);
        let event = format!(r#"42["repeat","{text}"]"#);
        assert_eq!(http.ask("POST", &target, "", &event).await.text(), "ok");
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(4096).unwrap();
        let stream = socket.connect(address.parse().unwrap()).await.unwrap();
        let mut slow = Http { stream };
        slow.send("GET", &target, "", "").await;
        let response = slow.response().await;
        assert_eq!(response.text(), format!(r#"42["repeated","{text}"]"#));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn long_polling_responses_come_compressed_to_who_takes_that() {
    let (_gateway, address) = start(repeating()).await;
    let mut http = Http::to(&address).await;
    let target = polling(&mut http).await;
    for length in [500, 5000, 200_000] {
        let text = "who is there? ".repeat(length / 14);
        let plain = format!(r#"42["repeated","{text}"]"#);
        for (accepts, coding) in [
            ("gzip, deflate, br", Some("gzip")),
            ("deflate", Some("deflate")),
            ("br", None),
            ("gzip;q=0", None),
        ] {
            let event = format!(r#"42["repeat","{text}"]"#);
            assert_eq!(http.ask("POST", &target, "", &event).await.text(), "ok");
            let headers = format!("accept-encoding: {accepts}\r\n");
            let response = http.ask("GET", &target, &headers, "").await;
            let coding = coding.filter(|_| length > 1024);
            assert_eq!(response.header("content-encoding"), coding);
            assert_eq!(
                response.header("content-type"),
                Some("text/plain; charset=UTF-8")
            );
            let mut body = Vec::new();
            let packed = &response.body[..];
            match coding {
                Some("gzip") => {
                    flate2::read::GzDecoder::new(packed)
                        .read_to_end(&mut body)
                        .unwrap();
                }
                Some(_) => {
                    flate2::read::ZlibDecoder::new(packed)
                        .read_to_end(&mut body)
                        .unwrap();
                }
                None => body = response.body.clone(),
            }
            assert_eq!(String::from_utf8(body).unwrap(), plain);
            assert!(coding.is_none() || packed.len() < plain.len() / 10);
        }
    }
}

/// A folder that is gone afterwards.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Folder {
        let name = format!("heartline-client-{}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&folder).unwrap();
        Folder(folder)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_clients_script_comes_from_beside_the_endpoint() {
    let folder = Folder::new();
    let script = folder.0.join("socket.io.js");
    std::fs::write(&script, "io = 1;").unwrap();
    std::fs::write(folder.0.join("socket.io.min.js.map"), "{}").unwrap();
    std::fs::write(folder.0.join("secret.js"), "secret").unwrap();
    let (_gateway, address) = start(Gateway::builder(Config {
        client_files: Some(folder.0.clone()),
        ..config()
    }))
    .await;
    let mut http = Http::to(&address).await;
    let first = http.ask("GET", "/socket.io/socket.io.js", "", "").await;
    assert_eq!((first.status(), first.text()), (200, "io = 1;"));
    let kind = first.header("content-type");
    assert_eq!(kind, Some("application/javascript; charset=utf-8"));
    let tag = first.header("etag").unwrap().to_owned();
    for known in [tag.clone(), format!("W/{tag}"), format!("\"other\", {tag}")] {
        let headers = format!("if-none-match: {known}\r\n");
        let second = http
            .ask("GET", "/socket.io/socket.io.js", &headers, "")
            .await;
        assert_eq!((second.status(), second.body.len()), (304, 0), "{known}");
    }
    let map = http
        .ask("GET", "/socket.io/socket.io.min.js.map?x", "", "")
        .await;
    assert_eq!(
        map.header("content-type"),
        Some("application/json; charset=utf-8")
    );

    std::fs::write(&script, "io = 2; // newer").unwrap();
    let headers = format!("if-none-match: {tag}\r\n");
    let newer = http
        .ask("GET", "/socket.io/socket.io.js", &headers, "")
        .await;
    assert_eq!((newer.status(), newer.text()), (200, "io = 2; // newer"));
    assert_eq!(
        http.ask("POST", "/socket.io/socket.io.js", "", "")
            .await
            .status(),
        405
    );

    let missing = http
        .ask("GET", "/socket.io/socket.io.esm.min.js", "", "")
        .await;
    assert_eq!(missing.status(), 404);
    assert!(missing.text().contains("server.client_files"));
    for other in [
        "secret.js",
        "../secret.js",
        "%2e%2e/secret.js",
        "socket.io.js/../secret.js",
    ] {
        let answer = get(&address, &format!("/socket.io/{other}"), "").await;
        assert_eq!(answer.status(), 400, "{other}");
        assert!(!answer.text().contains("secret"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn where_the_clients_script_is_not_served_the_answer_says_what_to_do() {
    let (_gateway, address) = start(Gateway::builder(config())).await;
    let answer = get(&address, "/socket.io/socket.io.min.js", "").await;
    assert_eq!(answer.status(), 404);
    assert!(
        answer.text().contains("set server.client_files"),
        "{}",
        answer.text()
    );
}

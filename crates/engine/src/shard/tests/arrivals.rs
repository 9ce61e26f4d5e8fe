//! Newcomers: real sockets, and an HTTP side that notes what it is given.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use bytes::Bytes;
use tokio::sync::oneshot;

use super::*;
use crate::http::accept::{Door, Inside};
use crate::shard::ShardMessage;
use crate::shard::newcomers::{Arrival, Doorman, HEADER_TIMEOUT, Listening, Opening as Begun};
use crate::slots::ConnectionSlots;

const REQUEST: &[u8] = b"GET / HTTP/1.1\r\n\r\n";
const ANSWER: &[u8] = b"HTTP/1.1 101 \r\n\r\n";

/// What HTTP was given: what was read, and how long the rest may take.
type Given = (Bytes, Duration);

struct Notes {
    door: Arc<Door>,
    slots: Arc<ConnectionSlots>,
    given: Mutex<Vec<Given>>,
}

impl Doorman for Notes {
    fn enter(&self, _: &mio::net::TcpStream, peer: std::net::IpAddr) -> Option<Inside> {
        self.door.enter(peer, 10, &[]).ok()
    }

    fn hand_on(&self, arrival: Arrival, _: u16, _: usize) -> Option<Arrival> {
        Some(arrival)
    }

    fn open(&self, read: &[u8], peer: std::net::IpAddr) -> Option<Begun> {
        read.starts_with(REQUEST).then(|| Begun {
            protocol: Protocol::Plain,
            base64: false,
            preface: ANSWER.to_vec(),
            deflate: None,
            handshake: Handshake::default(),
            guard: self.slots.take(peer).expect("there is no bound"),
            head: REQUEST.len(),
        })
    }

    fn serve(
        self: Arc<Self>,
        _: TcpStream,
        _: std::net::IpAddr,
        _: Inside,
        read: Bytes,
        patience: Duration,
    ) {
        self.given.lock().unwrap().push((read, patience));
    }

    fn not_accepted(&self, _: &io::Error) -> bool {
        true
    }
}

/// A shard that listens, where, and the HTTP side.
fn listening() -> (Harness<Recorder>, SocketAddr, Arc<Notes>) {
    let mut harness = Harness::new(settings(), |_| Recorder::default());
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    listener.set_nonblocking(true).unwrap();
    let address = listener.local_addr().unwrap();
    let doorman = Arc::new(Notes {
        door: Door::new(10_000, None),
        slots: harness.slots().clone(),
        given: Mutex::default(),
    });
    harness.handle().0.push(ShardMessage::Listen(Listening {
        id: 7,
        listener: mio::net::TcpListener::from_std(listener),
        doorman: doorman.clone(),
    }));
    harness.turn();
    (harness, address, doorman)
}

/// Turns at this moment until `is_so`; the kernel may take its time to bring what was sent.
fn turn_until(
    harness: &mut Harness<Recorder>,
    mut is_so: impl FnMut(&mut Harness<Recorder>) -> bool,
) {
    let end = Instant::now() + Duration::from_secs(5);
    while !is_so(harness) {
        assert!(Instant::now() < end);
        harness.turn();
    }
}

fn connect(address: SocketAddr) -> TcpStream {
    let client = TcpStream::connect(address).unwrap();
    let patience = Some(Duration::from_secs(5));
    client.set_read_timeout(patience).unwrap();
    client
}

fn hears(client: &mut TcpStream, what: &[u8]) {
    let mut heard = vec![0; what.len()];
    client.read_exact(&mut heard).unwrap();
    assert_eq!(heard, what);
}

#[test]
fn who_asks_at_once_is_answered_and_heard() {
    let (mut harness, address, doorman) = listening();
    let mut client = connect(address);
    let mut said = REQUEST.to_vec();
    ws::push_masked_frame(OpCode::Text, b"echo hello", [1, 2, 3, 4], &mut said);
    client.write_all(&said).unwrap();
    turn_until(&mut harness, |harness| !harness.app().heard.is_empty());
    harness.settle();
    hears(&mut client, ANSWER);
    hears(&mut client, b"\x81\x05hello");
    assert_eq!((harness.slots().total(), doorman.door.total()), (1, 0));
}

#[test]
fn who_takes_a_while_is_waited_for() {
    let (mut harness, address, doorman) = listening();
    let mut client = connect(address);
    turn_until(&mut harness, |_| doorman.door.total() == 1);
    assert_eq!(harness.handle().connections(), 0);
    harness.run(HEADER_TIMEOUT - Duration::from_secs(1));
    client.write_all(REQUEST).unwrap();
    turn_until(&mut harness, |harness| !harness.app().opened.is_empty());
    harness.turn();
    assert_eq!(harness.handle().connections(), 1);
    // The time for a request is over, and nobody waits for one.
    harness.run(Duration::from_secs(2));
    hears(&mut client, ANSWER);
    let mut said = Vec::new();
    ws::push_masked_frame(OpCode::Text, b"echo here", [1, 2, 3, 4], &mut said);
    client.write_all(&said).unwrap();
    turn_until(&mut harness, |harness| !harness.app().heard.is_empty());
    harness.settle();
    hears(&mut client, b"\x81\x04here");
}

#[test]
fn who_never_asks_is_let_go_and_leaves_nothing() {
    let (mut harness, address, doorman) = listening();
    let mut clients = [connect(address), connect(address)];
    turn_until(&mut harness, |_| doorman.door.total() == 2);
    harness.run(HEADER_TIMEOUT - Duration::from_secs(1));
    assert_eq!(doorman.door.total(), 2);
    harness.run(Duration::from_secs(2));
    for client in &mut clients {
        assert_eq!(client.read(&mut [0]).unwrap(), 0);
    }
    assert_eq!(doorman.door.total(), 0);
    let left = connect(address);
    turn_until(&mut harness, |_| doorman.door.total() == 1);
    drop(left);
    turn_until(&mut harness, |_| doorman.door.total() == 0);
    // Their places are used again.
    let mut client = connect(address);
    client.write_all(REQUEST).unwrap();
    turn_until(&mut harness, |harness| !harness.app().opened.is_empty());
    assert!(harness.app().opened[0].index() < 2);
}

#[test]
fn what_is_no_websocket_goes_to_http_with_what_was_read_and_the_time_left() {
    let (mut harness, address, doorman) = listening();
    let given = || doorman.given.lock().unwrap().clone();
    let (mut early, mut late) = (connect(address), connect(address));
    early.write_all(b"POST / HTTP/1.1\r\n").unwrap();
    turn_until(&mut harness, |_| {
        given().len() == 1 && doorman.door.total() == 1
    });
    assert_eq!(&*given()[0].0, b"POST / HTTP/1.1\r\n");
    assert!(given()[0].1 <= HEADER_TIMEOUT);
    harness.run(Duration::from_secs(4));
    late.write_all(b"GET / HT").unwrap();
    turn_until(&mut harness, |_| given().len() == 2);
    assert_eq!(
        given()[1],
        (Bytes::from_static(b"GET / HT"), Duration::from_secs(6))
    );
    assert_eq!(doorman.door.total(), 0);
}

#[test]
fn a_listener_that_is_closed_takes_nobody() {
    let (mut harness, address, _) = listening();
    let (closed, mut is_closed) = oneshot::channel();
    harness
        .handle()
        .0
        .push(ShardMessage::ListenNoMore(7, closed));
    harness.turn();
    assert_eq!(
        is_closed.try_recv(),
        Err(oneshot::error::TryRecvError::Closed)
    );
    assert!(TcpStream::connect(address).is_err());
}

//! Newcomers: real sockets, and an HTTP side that notes what it is given.

use std::collections::HashSet;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use bytes::Bytes;
use tokio::sync::oneshot;

use super::*;
use crate::http::accept::{Door, Inside};
use crate::shard::ShardMessage;
use crate::shard::arrivals::LISTENER;
use crate::shard::listener::Listener;
use crate::shard::newcomers::{
    Arrival, Caller, Doorman, HEADER_TIMEOUT, Listening, NEWCOMERS, Opening as Begun,
};
use crate::shard::turn::Readiness;
use crate::slots::ConnectionSlots;

const REQUEST: &[u8] = b"GET / HTTP/1.1\r\n\r\n";
const ANSWER: &[u8] = b"HTTP/1.1 101 \r\n\r\n";

/// What HTTP was given: what was read, and how long the rest may take.
type Given = (Bytes, Duration);

struct Notes {
    door: Arc<Door>,
    slots: Arc<ConnectionSlots>,
    given: Mutex<Vec<Given>>,
    /// How many connections the shard had for each whom it might have handed on.
    loads: Mutex<Vec<usize>>,
    /// Another shard has fewer connections. (It loses them.)
    hands_on: bool,
}

impl Doorman for Notes {
    fn enter(&self, _: &mio::net::TcpStream, peer: std::net::IpAddr) -> Option<Inside> {
        self.door.enter(peer, 10, &[]).ok()
    }

    fn hand_on(&self, arrival: Arrival, _: u16, connections: usize) -> Option<Arrival> {
        self.loads.lock().unwrap().push(connections);
        Some(arrival).filter(|_| !self.hands_on)
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

    fn serve(self: Arc<Self>, caller: Caller) {
        let given = (caller.read, caller.patience);
        self.given.lock().unwrap().push(given);
    }

    fn not_accepted(&self, _: &io::Error) -> bool {
        true
    }
}

/// A shard that listens, where, and the HTTP side.
fn listening() -> (Harness<Recorder>, SocketAddr, Arc<Notes>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    let (harness, doorman) = listening_on(listener);
    (harness, address, doorman)
}

fn listening_on(listener: TcpListener) -> (Harness<Recorder>, Arc<Notes>) {
    listening_beside(listener, false)
}

/// The same beside another shard, which `has_fewer` connections.
fn listening_beside(listener: TcpListener, has_fewer: bool) -> (Harness<Recorder>, Arc<Notes>) {
    let mut harness = Harness::new(settings(), |_| Recorder::default());
    listener.set_nonblocking(true).unwrap();
    let doorman = Arc::new(Notes {
        door: Door::new(10_000, None),
        slots: harness.slots().clone(),
        given: Mutex::default(),
        loads: Mutex::default(),
        hands_on: has_fewer,
    });
    harness.handle().0.push(ShardMessage::Listen(Listening {
        id: 7,
        listener: Listener::new(mio::net::TcpListener::from_std(listener)),
        doorman: doorman.clone(),
    }));
    harness.turn();
    (harness, doorman)
}

/// Turns at this moment until `is_so`; the kernel may take its time to bring what was sent.
fn turn_until(
    harness: &mut Harness<Recorder>,
    mut is_so: impl FnMut(&mut Harness<Recorder>) -> bool,
) {
    let end = Instant::now() + Duration::from_secs(60);
    while !is_so(harness) {
        assert!(Instant::now() < end);
        harness.turn();
    }
}

/// Asks the poller until it tells something that `is_it`; the shard hears nothing of all that.
fn tells_until(harness: &mut Harness<Recorder>, mut is_it: impl FnMut(&Readiness) -> bool) {
    let end = Instant::now() + Duration::from_secs(60);
    while !harness.told().iter().any(&mut is_it) {
        assert!(Instant::now() < end);
    }
}

/// Whom another shard has accepted.
fn arrival(
    harness: &Harness<Recorder>,
    doorman: &Arc<Notes>,
    (tcp, peer): (TcpStream, SocketAddr),
) -> Arrival {
    tcp.set_nonblocking(true).unwrap();
    Arrival {
        tcp: mio::net::TcpStream::from_std(tcp),
        peer: peer.ip(),
        inside: doorman.door.enter(peer.ip(), 10, &[]).ok().unwrap(),
        doorman: doorman.clone(),
        until: harness.now() + HEADER_TIMEOUT,
    }
}

fn connect(address: SocketAddr) -> TcpStream {
    let client = TcpStream::connect(address).unwrap();
    let patience = Some(Duration::from_secs(60));
    client.set_read_timeout(patience).unwrap();
    client
}

/// A request, and a message behind it that is answered with `hello`.
fn asks_and_says_hello() -> Vec<u8> {
    let mut said = REQUEST.to_vec();
    ws::push_masked_frame(OpCode::Text, b"echo hello", [1, 2, 3, 4], &mut said);
    said
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
    client.write_all(&asks_and_says_hello()).unwrap();
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
    harness.run(HEADER_TIMEOUT - Duration::from_secs(1));
    client.write_all(REQUEST).unwrap();
    turn_until(&mut harness, |harness| !harness.app().opened.is_empty());
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

#[test]
fn who_asks_and_says_no_more_is_answered_and_gone_at_once() {
    let hello = asks_and_says_hello();
    for (said, answer) in [(REQUEST, &b""[..]), (&hello, b"\x81\x05hello")] {
        for waits in [false, true] {
            let (mut harness, address, doorman) = listening();
            let mut client = connect(address);
            if waits {
                turn_until(&mut harness, |_| doorman.door.total() == 1);
            }
            client.write_all(said).unwrap();
            client.shutdown(Shutdown::Write).unwrap();
            turn_until(&mut harness, |harness| !harness.app().closed.is_empty());
            hears(&mut client, ANSWER);
            hears(&mut client, answer);
            assert_eq!(client.read(&mut [0]).unwrap(), 0);
        }
    }
}

#[test]
fn many_who_ask_in_one_moment_are_heard_a_few_in_each_turn() {
    let (mut harness, address, doorman) = listening();
    let many = 2 * NEWCOMERS + 1;
    let mut clients: Vec<_> = (0..many).map(|_| connect(address)).collect();
    turn_until(&mut harness, |_| doorman.door.total() == many);
    for client in &mut clients {
        client.write_all(REQUEST).unwrap();
        client.shutdown(Shutdown::Write).unwrap();
    }
    let mut before = 0;
    turn_until(&mut harness, |harness| {
        let opened = harness.app().opened.len();
        assert!(opened - before <= NEWCOMERS, "{before} and then {opened}");
        before = opened;
        // Not one of them is forgotten, nor that they have said all they have to say.
        harness.app().closed.len() == many
    });
    for client in &mut clients {
        hears(client, ANSWER);
    }
    assert_eq!(harness.slots().total(), 0);
}

#[test]
fn who_has_spoken_first_is_heard_before_others_who_go_on_coming() {
    let (mut harness, address, doorman) = listening();
    let (first, later) = (3 * NEWCOMERS, 2 * NEWCOMERS);
    let mut clients = Vec::new();
    while clients.len() < first + later {
        // No more than may wait to be accepted.
        clients.extend((0..NEWCOMERS).map(|_| connect(address)));
        turn_until(&mut harness, |_| doorman.door.total() == clients.len());
    }
    for client in &mut clients[..first] {
        client.write_all(b"first").unwrap();
    }
    // All of them have been told of, and some heard.
    harness.turn();
    let heard = doorman.given.lock().unwrap().len();
    assert!((1..=NEWCOMERS).contains(&heard), "{heard}");
    harness.turn_told(std::iter::empty(), harness.now());
    for client in &mut clients[first..] {
        client.write_all(b"later").unwrap();
    }
    let all = first + later;
    turn_until(&mut harness, |_| doorman.given.lock().unwrap().len() == all);
    let given = doorman.given.lock().unwrap();
    let spoke = |said: &'static str| given.iter().filter(move |(read, _)| read == said);
    assert_eq!(
        (spoke("first").count(), spoke("later").count()),
        (first, later)
    );
    let last = given.iter().rposition(|(read, _)| read == "first").unwrap();
    assert_eq!(last + 1, first);
}

#[test]
fn who_speaks_in_time_is_heard_although_there_is_no_time_for_them() {
    let (mut harness, address, doorman) = listening();
    let many = 2 * NEWCOMERS;
    let mut clients: Vec<_> = (0..many).map(|_| connect(address)).collect();
    turn_until(&mut harness, |_| doorman.door.total() == many);
    for client in &mut clients {
        client.write_all(b"GET").unwrap();
    }
    harness.advance(HEADER_TIMEOUT + Duration::from_secs(1));
    turn_until(&mut harness, |_| doorman.door.total() == 0);
    assert_eq!(doorman.given.lock().unwrap().len(), many);
    harness.settle();
    assert_eq!(harness.handle().connections(), 0);
}

#[test]
fn what_the_poller_tells_of_one_newcomer_is_not_taken_for_the_next_in_the_same_place() {
    let (mut harness, address, doorman) = listening();
    harness.app().impatient = true;
    let many = NEWCOMERS + 1;
    let mut clients: Vec<_> = (0..many).map(|_| connect(address)).collect();
    turn_until(&mut harness, |_| doorman.door.total() == many);
    for client in &mut clients {
        client.write_all(b"POST").unwrap();
    }
    let mut speaking = HashSet::new();
    tells_until(&mut harness, |event| {
        speaking.extend(Some(event.token).filter(|_| event.readable));
        speaking.len() == many
    });
    let of = |token, ended| Readiness {
        token,
        readable: true,
        writable: false,
        ended,
    };
    // For the last there is no time in this turn.
    let all = (0..many).map(|slot| of(slot, false));
    harness.turn_told(all, harness.now());
    assert_eq!(doorman.given.lock().unwrap().len(), NEWCOMERS);
    let mut next = connect(address);
    tells_until(&mut harness, |event| event.token == LISTENER | 7);
    // Of whom the next turn begins with them, and is told that they are gone.
    let told = [of(LISTENER | 7, false), of(NEWCOMERS, true)];
    harness.turn_told(told.into_iter(), harness.now());
    assert_eq!(doorman.given.lock().unwrap().len(), many);
    let mut said = REQUEST.to_vec();
    ws::push_masked_frame(OpCode::Text, b"pause", [1, 2, 3, 4], &mut said);
    next.write_all(&said).unwrap();
    turn_until(&mut harness, |harness| !harness.app().heard.is_empty());
    harness.settle();
    assert_eq!(harness.closed(), []);
}

#[test]
fn whose_silence_is_in_doubt_leaves_nothing_of_that_to_a_newcomer_in_the_same_place() {
    let (mut harness, _, doorman) = listening();
    let (slot, peer) = harness.join(Opening::plain());
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let mut client = connect(listener.local_addr().unwrap());
    let (tcp, from) = listener.accept().unwrap();
    harness.run(seconds(44) + ms(990));
    // Their time is over, and what they have said by now has not been heard. They go meanwhile,
    // and another comes.
    let arrival = arrival(&harness, &doorman, (tcp, from));
    let handle = harness.handle();
    harness.post_order(move |engine, _| {
        drop(peer);
        for _ in 0..2 {
            say(engine, slot, &"x".repeat(1_000_000));
        }
        handle.hand_on(arrival);
    });
    harness.turn_after(ms(30));
    assert_eq!(harness.closed().len(), 1);
    harness.turn();
    assert_eq!(doorman.door.total(), 1);
    client.write_all(&asks_and_says_hello()).unwrap();
    turn_until(&mut harness, |harness| !harness.app().heard.is_empty());
    harness.settle();
    hears(&mut client, ANSWER);
    hears(&mut client, b"\x81\x05hello");
}

#[test]
fn who_has_not_asked_yet_counts_where_newcomers_are_spread() {
    let (mut harness, address, doorman) = listening();
    let _clients = [connect(address), connect(address), connect(address)];
    turn_until(&mut harness, |_| doorman.door.total() == 3);
    assert_eq!(*doorman.loads.lock().unwrap(), [0, 1, 2]);
}

#[test]
fn who_hands_newcomers_on_goes_to_the_end_of_the_line_for_the_next() {
    for has_fewer in [true, false] {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let (mut harness, doorman) = listening_beside(listener, has_fewer);
        let _clients: Vec<_> = (0..=NEWCOMERS).map(|_| connect(address)).collect();
        harness.turn();
        assert_eq!(doorman.loads.lock().unwrap().len(), NEWCOMERS);
        // Who stands anew in line is told anew of those who wait there.
        let tells = |event: &Readiness| event.token == LISTENER | 7;
        let told = harness.told().into_iter().filter(tells).count();
        assert_eq!(told, usize::from(has_fewer));
    }
}

#[test]
fn who_is_handed_on_counts_before_the_other_shard_has_seen_them() {
    let (mut harness, _, doorman) = listening();
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let client = connect(listener.local_addr().unwrap());
    let arrival = arrival(&harness, &doorman, listener.accept().unwrap());
    let handle = harness.handle();
    handle.hand_on(arrival);
    assert_eq!(handle.connections(), 1);
    harness.turn();
    assert_eq!(handle.connections(), 1);
    drop(client);
    turn_until(&mut harness, |harness| harness.handle().connections() == 0);
}

#[test]
fn who_came_before_a_listener_is_closed_is_answered() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    let mut same = mio::net::TcpListener::from_std(listener.try_clone().unwrap());
    let (mut harness, _) = listening_on(listener);
    let mut client = connect(address);
    client.write_all(REQUEST).unwrap();
    let mut poll = mio::Poll::new().unwrap();
    let interest = mio::Interest::READABLE;
    poll.registry()
        .register(&mut same, mio::Token(0), interest)
        .unwrap();
    let patience = Some(Duration::from_secs(60));
    poll.poll(&mut mio::Events::with_capacity(1), patience)
        .unwrap();
    drop(same);
    let (closed, _) = oneshot::channel();
    // Told of the end before it hears of the newcomer.
    let end = ShardMessage::ListenNoMore(7, closed);
    harness.handle().0.push(end);
    harness.turn_told(std::iter::empty(), harness.now());
    turn_until(&mut harness, |harness| !harness.app().opened.is_empty());
    harness.settle();
    hears(&mut client, ANSWER);
}

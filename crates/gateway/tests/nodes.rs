//! A node of many that are silent, and one that does not know which others there are.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

mod support;

use std::sync::Arc;
use std::time::{Duration, Instant};

use heartline::auth::{BoxFuture, UserKey};
use heartline::backplane::local::LocalBackplane;
use heartline::backplane::{Backplane, Node, Peer, Peers, UserSocket};
use heartline::entries::UserPresence;
use heartline::{
    Admitted, BuildError, DeviceLimitReached, Gateway, Newcomer, NotKnown, Part, Presence, Reached,
    RoomAddress, ShedError, SocketAddress, Sockets,
};
use heartline_core::time::Moment;
use heartline_wire::id::Sid;
use heartline_wire::time::Micros;
use support::{Client, config, start};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// This node's tag: others are before and behind it.
const OWN: u32 = 4;

/// One node of a cluster, whose others are told.
struct OneOf {
    tag: u32,
    local: LocalBackplane,
    peers: Peers,
    /// What all nodes have of any user; `None`: that is not known.
    sockets: Option<Vec<UserSocket>>,
}

impl OneOf {
    fn these(peers: Peers) -> OneOf {
        let now = || Moment {
            at: Micros::ZERO,
            unix_millis: 1,
        };
        OneOf {
            tag: OWN,
            local: LocalBackplane::new(Duration::ZERO, Box::new(now)),
            peers,
            sockets: None,
        }
    }
}

impl Backplane for OneOf {
    fn attach(&self, node: Arc<dyn Node>) {
        self.local.attach(node);
    }

    fn connect(&self, newcomer: Newcomer) -> BoxFuture<Result<Admitted, DeviceLimitReached>> {
        self.local.connect(newcomer)
    }

    fn disconnect(&self, user: &Arc<UserKey>, socket: SocketAddress, keep: Duration) {
        self.local.disconnect(user, socket, keep);
    }

    fn enter_room(&self, user: &Arc<UserKey>, socket: SocketAddress, place: RoomAddress) {
        self.local.enter_room(user, socket, place);
    }

    fn leave_room(&self, user: &Arc<UserKey>, socket: SocketAddress, place: &RoomAddress) {
        self.local.leave_room(user, socket, place);
    }

    fn presence(
        &self,
        tenant: Option<Arc<str>>,
        users: Vec<String>,
    ) -> BoxFuture<Vec<UserPresence>> {
        self.local.presence(tenant, users)
    }

    fn local(&self) -> &Presence {
        self.local.local()
    }

    fn tag(&self) -> Option<u32> {
        Some(self.tag)
    }

    fn secret(&self) -> Option<Arc<str>> {
        Some("of all".into())
    }

    fn peer(&self, tag: u32) -> BoxFuture<Option<Peer>> {
        let peer = self.peers.believed.iter().find(|peer| peer.tag == tag);
        Box::pin(std::future::ready(peer.cloned()))
    }

    fn peers(&self) -> BoxFuture<Peers> {
        Box::pin(std::future::ready(self.peers.clone()))
    }

    fn sockets(&self, _: Option<&str>, _: &str) -> BoxFuture<Option<Vec<UserSocket>>> {
        Box::pin(std::future::ready(self.sockets.clone()))
    }
}

/// A node that takes connections and says nothing, for as long as its listener is there.
async fn silent(tag: u32) -> (TcpListener, Peer) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let peer = Peer {
        tag,
        node_id: format!("n{tag}").into(),
        address: listener.local_addr().unwrap().to_string().into(),
        secret: "of all".into(),
    };
    (listener, peer)
}

/// A node that answers some questions: those that have a text in them, each with its answer. Without
/// an answer it ends the connection; what is not among them it leaves open.
async fn answering(tag: u32, answers: &'static [(&'static str, Option<&'static str>)]) -> Peer {
    let (listener, peer) = silent(tag).await;
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(answer_all(stream, answers));
        }
    });
    peer
}

async fn answer_all(
    mut stream: TcpStream,
    answers: &'static [(&'static str, Option<&'static str>)],
) {
    let (mut request, mut some) = (String::new(), [0; 4096]);
    while let Ok(count @ 1..) = stream.read(&mut some).await {
        request.push_str(&String::from_utf8_lossy(&some[..count]));
        let asked = answers.iter().find(|(asked, _)| request.contains(asked));
        let Some((_, answer)) = asked else {
            continue;
        };
        let Some(answer) = answer else {
            return;
        };
        let head = format!("content-length: {}\r\n\r\n", answer.len());
        let answer = format!("HTTP/1.1 200 OK\r\n{head}{answer}");
        if stream.write_all(answer.as_bytes()).await.is_err() {
            return;
        }
        request.clear();
    }
}

async fn gateway_among(peers: Peers) -> (Gateway, String) {
    start(Gateway::builder(config()).backplane(OneOf::these(peers))).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_waits_for_all_silent_nodes_together() {
    let mut peers = Peers::default();
    let mut listeners = Vec::new();
    for tag in [1, 2, 3, 5, 6, 7] {
        let (listener, peer) = silent(tag).await;
        listeners.push(listener);
        peers.believed.push(peer);
    }
    let (gateway, address) = gateway_among(peers).await;
    let mut client = Client::open(&address).await;
    client.send("40").await;
    assert!(client.next().await.starts_with("40{"));
    let asked = Instant::now();
    let page = gateway.connections(<_>::default(), None, 9).await.unwrap();
    let took = asked.elapsed();
    assert!(took < Duration::from_secs(6), "a page took {took:?}");
    assert_eq!(page.items.len(), 1);
    let missing = page.missing;
    assert_eq!(missing.unreachable, ["n1", "n2", "n3", "n5", "n6", "n7"]);
    assert!(missing.partial);
    drop(listeners);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_waits_once_for_all_nodes_that_live_and_do_not_answer() {
    let mut peers = Peers::default();
    for (tag, alive) in [(1, "1"), (2, "2"), (3, "3"), (5, "5"), (6, "6")] {
        let answers = Box::leak(Box::new([("\"Alive\"", Some(alive))]));
        peers.believed.push(answering(tag, answers).await);
    }
    let (gateway, _) = gateway_among(peers).await;
    let asked = Instant::now();
    let page = gateway.connections(<_>::default(), None, 9).await.unwrap();
    let took = asked.elapsed();
    assert!(took < Duration::from_secs(6), "a page took {took:?}");
    let missing = page.missing;
    assert_eq!(missing.unreachable, ["n1", "n2", "n3", "n5", "n6"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_connection_that_fails_costs_no_node_its_part_of_a_page() {
    let mut peers = Peers::default();
    let (_listener, first) = silent(1).await;
    let answers = &[
        ("\"Alive\"", None),
        ("\"Connections\"", Some(r#"{"items":[]}"#)),
    ];
    peers.believed = vec![first, answering(2, answers).await];
    let (gateway, _) = gateway_among(peers).await;
    let page = gateway.connections(<_>::default(), None, 9).await.unwrap();
    assert_eq!(page.missing.unreachable, ["n1"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn as_much_as_a_message_may_have_reaches_a_socket_of_another_node() {
    let (listener, other) = silent(1).await;
    let there = OneOf {
        tag: other.tag,
        ..OneOf::these(Peers::default())
    };
    let mut set = config();
    set.send_buffer = 4 * set.max_payload;
    let most = set.max_payload;
    let (there, address) = start(Gateway::builder(set).backplane(there)).await;
    tokio::spawn(async move { there.serve_nodes(listener).await });
    let peers = Peers {
        believed: vec![other],
        ..Peers::default()
    };
    let (gateway, _) = gateway_among(peers).await;
    let mut client = Client::open(&address).await;
    client.send("40").await;
    let sid = client.next().await.split('"').nth(3).unwrap().to_owned();
    let names = format!("[\"a\"{}]", ",\"a\"".repeat(230_000 - 1));
    // Nothing is longer on its way than what is all quotation marks.
    let quotes = format!("\"{}\"", "\\\"".repeat((most - 2) / 2));
    for data in [&names, &quotes] {
        let emitted = gateway.emit(&sid, "news", data, None).await;
        assert_eq!(emitted, Ok(Ok(None)), "{} bytes", data.len());
        assert!(client.hear("news").await.contains(data));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_of_older_builds_that_are_asked_for_each_socket_are_not_missing() {
    let mut peers = Peers::default();
    // What they do not know, they do not take.
    let old = &[
        ("\"DisconnectUsers\"", Some("no answer")),
        ("\"Disconnect\"", Some("true")),
        ("\"Alive\"", Some("1")),
    ];
    let other = &[
        ("\"DisconnectUsers\"", Some("no answer")),
        ("\"Alive\"", Some("2")),
    ];
    let (_listener, dead) = silent(3).await;
    peers.believed = vec![answering(1, old).await, answering(2, other).await, dead];
    let ann = UserKey {
        tenant_id: None,
        user_id: "ann".into(),
        user_type: None,
    };
    let mut name = [0; 24];
    name[3] = 1;
    let name = Sid::from_bytes(name);
    let theirs = UserSocket {
        id: name.encode().as_str().into(),
        namespace: "/".into(),
        user: Arc::new(ann.clone()),
    };
    let backplane = OneOf {
        sockets: Some(vec![theirs]),
        ..OneOf::these(peers)
    };
    let (gateway, _) = start(Gateway::builder(config()).backplane(backplane)).await;
    let ended = gateway.disconnect_user(&ann).await;
    assert_eq!(ended.sockets, 1);
    assert_eq!(ended.missing.unreachable, ["n3"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_know_which_nodes_there_are_says_so_in_every_answer() {
    let peers = Peers {
        is_partial: true,
        ..Peers::default()
    };
    let (gateway, address) = gateway_among(peers).await;
    let mut client = Client::open(&address).await;
    client.send("40").await;
    let hello = client.next().await;
    let sid = hello.split('"').nth(3).unwrap().to_owned();
    let page = gateway.connections(<_>::default(), None, 9).await.unwrap();
    assert!(page.missing.partial && page.missing.unreachable.is_empty());
    assert_eq!(page.items[0].socket_id, sid);
    let rooms = gateway.rooms(None, None, None, 9).await.unwrap();
    assert!(rooms.missing.partial);
    let (room, missing) = gateway.room("/", None, "lobby").await;
    assert!(room.is_none() && missing.partial);
    assert!(gateway.room_members("/", None, "lobby").await.1.partial);
    let (nodes, partial) = gateway.nodes().await;
    assert!(nodes.len() == 1 && partial);
    let whoever = Sockets {
        tenant_id: None,
        namespace: "/".into(),
        rooms: Vec::new(),
        except: Vec::new(),
    };
    let moved = gateway.join_sockets(&whoever, "lobby").await.unwrap();
    assert!(moved.sockets == 1 && moved.missing.partial);
    let ann = UserKey {
        tenant_id: None,
        user_id: "ann".into(),
        user_type: None,
    };
    assert!(gateway.user_connections(&ann).await.1.partial);
    assert!(gateway.disconnect_user(&ann).await.missing.partial);
    let reached = gateway.emit_to_user(ann, None, "news", "1").await;
    let nobody = Reached {
        sockets: 0,
        partial: true,
    };
    assert_eq!(reached, Ok(nobody));
    let shed = gateway.shed("n9", Part::Connections(1), Duration::ZERO);
    assert_eq!(shed.await, Err(ShedError::NotKnown));
    // One that is not here may be on a node that nobody knows of.
    let mut elsewhere = Sid::decode(&sid).unwrap();
    elsewhere.secret[3] += 1;
    let elsewhere = elsewhere.encode();
    let found = gateway.connection(&elsewhere).await;
    assert_eq!(found.map(|entry| entry.is_some()), Err(NotKnown::default()));
    let ended = gateway.disconnect(&elsewhere).await;
    assert_eq!(ended, Err(NotKnown::default()));
    // One that is here is known all the same.
    assert!(gateway.connection(&sid).await.unwrap().is_some());
    assert_eq!(gateway.disconnect(&sid).await.unwrap().sockets, 1);
    assert!(gateway.connection(&sid).await.unwrap().is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_of_a_cluster_is_refused_whose_name_is_not_for_one() {
    for name in ["eu-1.example.org", &"long".repeat(20), "a b", ""] {
        let mut config = config();
        config.node_id = name.into();
        let builder = Gateway::builder(config).backplane(OneOf::these(Peers::default()));
        match builder.build() {
            Err(BuildError::Config(why)) => {
                assert!(why.contains("node_id must have 1 to 32"), "{why}");
            }
            _ => panic!("{name:?}: it was built"),
        }
    }
}

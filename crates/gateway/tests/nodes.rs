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
    Admitted, DeviceLimitReached, Gateway, Newcomer, NotKnown, Part, Presence, RoomAddress,
    ShedError, SocketAddress, Sockets,
};
use heartline_core::time::Moment;
use heartline_wire::id::Sid;
use heartline_wire::time::Micros;
use support::{Client, config, start};
use tokio::net::TcpListener;

/// This node's tag: others are before and behind it.
const OWN: u32 = 4;

/// One node of a cluster, whose others are told.
struct OneOf {
    local: LocalBackplane,
    peers: Peers,
}

impl OneOf {
    fn these(peers: Peers) -> OneOf {
        let now = || Moment {
            at: Micros::ZERO,
            unix_millis: 1,
        };
        OneOf {
            local: LocalBackplane::new(Duration::ZERO, Box::new(now)),
            peers,
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
        Some(OWN)
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
        Box::pin(std::future::ready(None))
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

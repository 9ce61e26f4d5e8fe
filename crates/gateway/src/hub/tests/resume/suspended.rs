//! What operators are shown of connections that are lost, while their clients may come back.

use std::collections::{BTreeMap, BTreeSet};

use heartline_core::entries::{ConnectionState, SocketEntry, SocketFilter};

use super::stopped::{leaving, stopped};
use super::*;

/// What comes of a question of the API's.
fn told<T: Send + 'static>(
    world: &mut World,
    asking: impl Future<Output = T> + Send + 'static,
) -> T {
    let asked = world.begin(asking);
    while !asked.is_finished() {
        world.settle();
    }
    world.runtime.block_on(asked).unwrap()
}

fn entry(world: &mut World, id: &str) -> Option<SocketEntry> {
    let (gateway, id) = (world.gateway.clone(), id.to_owned());
    told(world, async move { gateway.connection(&id).await.unwrap() })
}

fn json(entry: &SocketEntry) -> serde_json::Value {
    serde_json::to_value(entry).unwrap()
}

/// The whole list, in parts of `limit`: ids and states.
fn listed(world: &mut World, filter: &SocketFilter, limit: usize) -> Vec<(String, String)> {
    let (mut all, mut cursor) = (Vec::new(), None);
    loop {
        let (gateway, filter) = (world.gateway.clone(), filter.clone());
        let page = told(world, async move {
            gateway.connections(filter, cursor, limit).await
        });
        let page = page.unwrap();
        assert!(page.items.len() <= limit && all.len() < 1_000, "{all:?}");
        let items = page.items.into_iter();
        all.extend(items.map(|entry| (entry.socket_id, entry.state.into_owned())));
        cursor = page.next_cursor;
        if cursor.is_none() {
            return all;
        }
    }
}

fn in_state(state: ConnectionState) -> SocketFilter {
    SocketFilter {
        state: Some(state),
        ..SocketFilter::default()
    }
}

#[test]
fn a_socket_that_was_lost_is_shown_as_it_was_until_it_is_there_again() {
    let mut world = World::new(kept());
    let handshake = Handshake {
        user_agent: Some("a browser".into()),
        ..Handshake::default()
    };
    let client = world.open(Opening {
        handshake,
        ..Opening::engineio()
    });
    let mut ann = Tracking::lost(client, "user=ann/rider device=phone");
    ann.connect(&mut world);
    world.run(seconds(2));
    ann.asks(&mut world, r#"42["join","lobby"]"#);
    world.run(seconds(3));
    ann.client.says("3");
    world.settle();
    let sid = ann.sid.clone();
    let before = entry(&mut world, &sid).unwrap();
    assert_eq!(before.state, "connected");
    assert!(before.connected_at < before.last_activity_at);
    assert!(before.last_activity_at < before.last_seen_at);
    ann.is_cut(&mut world);
    world.run(seconds(4));
    let lost = entry(&mut world, &sid).unwrap();
    let as_it_was = SocketEntry {
        state: "suspended".into(),
        ..before.clone()
    };
    assert_eq!(json(&lost), json(&as_it_was));
    assert_eq!(lost.user_agent.as_deref(), Some("a browser"));
    assert_eq!(lost.device_id.as_deref(), Some("phone"));
    assert_eq!(lost.rooms, ["lobby", "user:ann"]);
    let user = ann.token.split(['=', '/']).nth(1).unwrap().to_owned();
    let gateway = world.gateway.clone();
    let theirs = told(&mut world, async move {
        let users = gateway.find_users(None, &user).await;
        gateway.user_connections(&users[0]).await.0
    });
    assert_eq!(theirs.iter().map(json).collect::<Vec<_>>(), [json(&lost)]);
    // Nobody is there, as far as numbers go.
    let there = r#"heartline_connections{transport="websocket",namespace="/"}"#;
    assert_eq!(world.metric(there), 0);
    ann.return_to(&mut world);
    assert!(ann.recovered);
    assert_eq!(entry(&mut world, &sid).unwrap().state, "connected");
    let all = listed(&mut world, &SocketFilter::default(), 10);
    assert_eq!(all, [(sid.clone(), "connected".into())]);
    // It is gone when its time is over, and when it is sent away.
    ann.is_cut(&mut world);
    world.run(seconds(59));
    assert_eq!(entry(&mut world, &sid).unwrap().state, "suspended");
    world.run(seconds(2));
    assert!(entry(&mut world, &sid).is_none());
    assert!(listed(&mut world, &SocketFilter::default(), 10).is_empty());
    let mut ann = Tracking::new(&mut world, "user=ann");
    ann.is_cut(&mut world);
    assert!(entry(&mut world, &ann.sid).is_some());
    assert!(sent_away(&mut world, &ann.sid));
    assert!(entry(&mut world, &ann.sid).is_none());
}

#[test]
fn what_is_kept_for_those_that_were_lost_is_counted() {
    let mut world = World::new(kept());
    let mut ann = Tracking::new(&mut world, "user=ann");
    let mut there = world.socketio("user=ann");
    there.hears();
    let counted = |world: &mut World, size: usize| {
        let gateway = world.gateway.clone();
        let data = format!("\"{}\"", "x".repeat(size));
        let (data, publish) = (
            data.clone(),
            crate::Publish {
                tenant_id: None,
                namespace: "/".into(),
                room: "user:ann".into(),
                event: "e".into(),
                data,
                key: None,
                except: Vec::new(),
            },
        );
        told(world, async move {
            let users = (None, "ann");
            let all = gateway
                .emit_to_users(users, None, "e", &data)
                .await
                .unwrap();
            let other = gateway.emit_to_users((None, "bob"), None, "e", &data).await;
            let room = gateway.publish(publish).await.unwrap();
            [all.sockets, other.unwrap().sockets, room.delivered]
        })
    };
    assert_eq!(counted(&mut world, 1), [2, 0, 2]);
    ann.is_cut(&mut world);
    assert_eq!(counted(&mut world, 1), [2, 0, 2]);
    // What is too large to be kept they do not hear.
    assert_eq!(counted(&mut world, 70_000), [1, 0, 1]);
    drop(there);
    world.run(seconds(61));
    assert_eq!(counted(&mut world, 1), [0, 0, 0]);
}

#[test]
fn lists_have_those_that_were_lost_and_those_that_came_back_each_once() {
    let mut world = World::new(kept());
    let (mut expected, mut clients) = (BTreeMap::new(), Vec::new());
    for number in 0..40 {
        let mut one = Tracking::new(&mut world, &format!("user=u{}", number % 4));
        if number % 5 == 0 {
            one.asks(&mut world, r#"42["join","lobby"]"#);
        }
        let state = match number % 3 {
            0 => "connected",
            1 => {
                one.is_cut(&mut world);
                one.return_to(&mut world);
                assert!(one.recovered);
                "connected"
            }
            _ => {
                one.is_cut(&mut world);
                "suspended"
            }
        };
        expected.insert(one.sid.clone(), state.to_owned());
        clients.push(one);
    }
    let list = |world: &mut World, filter: &SocketFilter, limit| {
        let all = listed(world, filter, limit);
        let sockets: BTreeMap<_, _> = all.iter().cloned().collect();
        assert_eq!(sockets.len(), all.len(), "each once: {all:?}");
        sockets
    };
    for limit in [1, 7, 1000] {
        let all = list(&mut world, &SocketFilter::default(), limit);
        assert_eq!(all, expected);
        for state in [ConnectionState::Connected, ConnectionState::Suspended] {
            let some = list(&mut world, &in_state(state), limit);
            let meant = expected.iter().filter(|(_, is)| **is == state.as_str());
            assert!(some.iter().eq(meant), "{state:?}: {some:?}");
        }
    }
    // Of those that are away: 2, 5, 8 … 38.
    let ids = |world: &mut World, change: &dyn Fn(&mut SocketFilter)| {
        let mut filter = in_state(ConnectionState::Suspended);
        change(&mut filter);
        list(world, &filter, 5).into_keys().collect::<BTreeSet<_>>()
    };
    let of =
        |user: &'static str| move |filter: &mut SocketFilter| filter.user_id = Some(user.into());
    let by_user: usize = ["u0", "u1", "u2", "u3"]
        .map(|user| ids(&mut world, &of(user)).len())
        .iter()
        .sum();
    assert_eq!((by_user, ids(&mut world, &of("u9")).len()), (13, 0));
    let in_room =
        |room: &'static str| move |filter: &mut SocketFilter| filter.room = Some(room.into());
    let own = ids(&mut world, &in_room("user:u1"));
    assert_eq!(own, ids(&mut world, &of("u1")));
    // 5, 20 and 35.
    assert_eq!(ids(&mut world, &in_room("lobby")).len(), 3);
    let elsewhere = ids(&mut world, &|filter| {
        filter.namespace = Some("/chat".into())
    });
    assert!(elsewhere.is_empty());
}

#[test]
fn of_a_socket_that_an_earlier_process_lost_its_connection_is_not_known() {
    let (config, folder) = leaving("suspended");
    let mut world = World::new(config.clone());
    let mut ann = Tracking::new(&mut world, "user=ann");
    ann.asks(&mut world, r#"42["join","lobby"]"#);
    stopped(world);
    let mut world = World::new(config);
    let lost = json(&entry(&mut world, &ann.sid).unwrap());
    let node = &world.gateway.shared.config.node_id;
    assert_eq!(
        lost,
        serde_json::json!({
            "socketId": ann.sid,
            "userId": "ann",
            "nodeId": node,
            "namespace": "/",
            "state": "suspended",
            "rooms": ["lobby", "user:ann"],
        })
    );
    drop(world);
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn who_is_sent_away_while_its_client_comes_back_is_gone() {
    let mut world = World::new(kept());
    let mut ann = Tracking::new(&mut world, "user=ann");
    let sid = ann.sid.clone();
    ann.is_cut(&mut world);
    ann.client = world.engineio();
    let (gateway, id) = (world.gateway.clone(), sid.clone());
    let asked = world.begin(async move { gateway.disconnect(&id).await.unwrap().sockets });
    // It asks the shard where the socket was; in one turn with that, the client comes.
    world.runtime.block_on(async {
        for _ in 0..ROUNDS {
            tokio::task::yield_now().await;
        }
    });
    let hello = ann.hello();
    ann.client.says(&hello);
    while !asked.is_finished() {
        world.settle();
    }
    assert_eq!(world.runtime.block_on(asked).unwrap(), 1);
    assert!(ann.client.hears().iter().any(|text| text == "41"));
    assert!(entry(&mut world, &sid).is_none());
}

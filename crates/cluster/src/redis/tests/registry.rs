//! The registry where builds differ in their version, where records cannot be read, and where
//! there are more edges than are kept.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::{DOUBTS, Redis, TTL};
use crate::redis::{Calls, Commands, RedisRegistry, Server};
use crate::registry::{
    Departure, Entry, Fenced, Millis, Newcomer, NodeInfo, Policy, Registry, Restored, RoomName,
    Turn, TypedUser, Versions,
};

/// A registry of its own on a server.
fn registry_of(server: &Arc<Server>) -> RedisRegistry {
    RedisRegistry::new(server.clone(), Calls::new("v"), DOUBTS)
}

fn node_with(name: &str, min: u32, max: u32) -> NodeInfo {
    NodeInfo {
        node_id: name.into(),
        tag: 7,
        proto: Versions { min, max },
        ..NodeInfo::default()
    }
}

#[tokio::test]
async fn two_builds_in_one_cluster_write_what_both_can_read_and_a_third_is_refused() {
    let redis = Redis::start();
    let server = Arc::new(Server::parse(&redis.url).unwrap());
    let registry = registry_of(&server);
    let join = async |info: &NodeInfo| registry.join(info, TTL, None, 0, 0).await.unwrap();
    let old = join(&node_with("old", 1, 1)).await.unwrap();
    assert_eq!(old.version, 1);
    let new = join(&node_with("new", 1, 2)).await.unwrap();
    assert_eq!(new.version, 1, "the old one lives");
    let refused = join(&node_with("newest", 2, 3)).await.unwrap_err();
    assert_eq!((&*refused.node_id, refused.versions.max), ("old", 1));
    assert_eq!(
        registry.nodes().await.unwrap().len(),
        2,
        "nothing is left of it"
    );
    // The old one goes: what is written changes, and the newest may come.
    registry.retire(&[old.incarnation]).await.unwrap();
    let renewed = registry.renew(&new.incarnation, TTL, &[], None, 0).await;
    assert_eq!(renewed.unwrap().unwrap().version, 2);
    assert_eq!(join(&node_with("newest", 2, 3)).await.unwrap().version, 2);
}

#[tokio::test]
async fn whose_lease_is_over_has_no_say_in_the_version_until_a_hold_lets_them_go_on() {
    let redis = Redis::start();
    let server = Arc::new(Server::parse(&redis.url).unwrap());
    let time = Arc::new(Mutex::new((1_700_000_000_000, "1")));
    let clock = time.clone();
    let registry = registry_of(&server).with_clock(move || {
        let (now, run) = *clock.lock().unwrap();
        (now, run.to_owned())
    });
    let join = async |info: &NodeInfo| registry.join(info, TTL, None, 0, 0).await.unwrap();
    let renew = async |incarnation: &str| {
        let renewed = registry
            .renew(incarnation, TTL, &[], None, 0)
            .await
            .unwrap();
        renewed.map(|renewed| renewed.version)
    };
    let old = join(&node_with("old", 1, 1)).await.unwrap();
    let new = join(&node_with("new", 1, 2)).await.unwrap();
    assert_eq!(new.version, 1);
    // Its lease ends, and nobody has swept it yet when another one comes that could not live with it.
    for _ in 0..4 {
        time.lock().unwrap().0 += TTL / 3;
        assert_eq!(renew(&new.incarnation).await, Ok(1));
    }
    assert_eq!(registry.nodes().await.unwrap().len(), 2);
    let newest = join(&node_with("newest", 2, 3)).await.unwrap();
    assert_eq!(newest.version, 2);
    assert_eq!(renew(&new.incarnation).await, Ok(2));
    assert_eq!(renew(&old.incarnation).await, Err(Fenced));
    // The server starts again, and whoever was there may go on.
    time.lock().unwrap().1 = "2";
    assert_eq!(renew(&new.incarnation).await, Ok(1));
    assert_eq!(renew(&old.incarnation).await, Ok(1));
}

#[tokio::test]
async fn a_record_that_nobody_can_read_keeps_no_other_from_its_turn() {
    let redis = Redis::start();
    let server = Arc::new(Server::parse(&redis.url).unwrap());
    let registry = registry_of(&server);
    let joined = registry.join(&node_with("n", 1, 1), TTL, None, 0, 0).await;
    let incarnation = joined.unwrap().unwrap().incarnation;
    let commands = Commands::new(server.clone());
    let put = async |command: &[&str]| {
        let mut cmd = redis::cmd(command[0]);
        cmd.arg(&command[1..]);
        let done: redis::Value = commands.query(&cmd).await.unwrap();
        drop(done);
    };
    // Of three users one has an entry and a state that are nonsense, one is no hash at all.
    put(&["HSET", "{v}:u::a", "s:x", "nonsense", "t:", "[[]]"]).await;
    put(&["SET", "{v}:u::b", "nonsense"]).await;
    put(&["HSET", "{v}:x:n.00000007", "x", "nonsense"]).await;
    let newcomers: Vec<Newcomer> = ["a", "b", "c"]
        .iter()
        .map(|user| Newcomer {
            max_sockets: u32::MAX,
            instead_of: None,
            who: TypedUser {
                user: format!(":{user}").into(),
                kind: "".into(),
            },
            entry: Entry {
                socket: format!("s{user}").into(),
                namespace: "/".into(),
                device: "d".into(),
                since: 1,
                policy: Policy::Limit(3),
                rooms: Vec::new(),
            },
        })
        .collect();
    let turn = |number| Turn {
        incarnation: &incarnation,
        number,
    };
    let admitted = registry.connect(turn(1), &newcomers).await.unwrap();
    assert_eq!(admitted.unwrap().len(), 3, "a fault keeps nobody out");
    let asked = [":a".into(), ":c".into()];
    let known = registry
        .look_up(&incarnation, 0, &asked)
        .await
        .unwrap()
        .unwrap();
    assert!(
        known
            .iter()
            .all(|known| known.online && known.sockets.len() == 1)
    );
    let renewed = registry
        .renew(&incarnation, TTL, &[], None, 0)
        .await
        .unwrap();
    let renewed = renewed.unwrap();
    assert_eq!(renewed.displaced, []);
    assert!(renewed.set_aside >= 3, "{}", renewed.set_aside);
    // And they go, all but the one that was never there.
    let departures: Vec<Departure> = newcomers
        .iter()
        .map(|newcomer| Departure {
            who: newcomer.who.clone(),
            socket: newcomer.entry.socket.clone(),
            grace: 0,
            announced: true,
        })
        .collect();
    let departed = registry.depart(turn(2), &departures).await.unwrap();
    assert_eq!(departed, Ok(vec![false; 3]));
    let known = registry
        .look_up(&incarnation, 0, &asked)
        .await
        .unwrap()
        .unwrap();
    assert!(known.iter().all(|known| !known.online));
    let again = registry
        .renew(&incarnation, TTL, &[], None, 0)
        .await
        .unwrap();
    let now = again.unwrap().set_aside;
    let once_more = registry
        .renew(&incarnation, TTL, &[], None, 0)
        .await
        .unwrap();
    assert_eq!(
        once_more.unwrap().set_aside,
        now,
        "what was set aside is not met again"
    );
}

/// A lease that outlives what takes long on a slow machine, milliseconds.
const LONG: Millis = 600_000;

#[tokio::test]
async fn edges_that_name_rooms_are_bounded_by_bytes_and_what_goes_is_a_hole() {
    let redis = Redis::start();
    let server = Arc::new(Server::parse(&redis.url).unwrap());
    let registry = registry_of(&server);
    let joined = registry.join(&node_with("n", 1, 1), LONG, None, 0, 0).await;
    let incarnation = joined.unwrap().unwrap().incarnation;
    let names = |count: usize| -> Vec<RoomName> {
        let names = (0..count).map(|number| format!("/\n{number:04}{}", "x".repeat(252)).into());
        names.collect()
    };
    let mut number = 0;
    // The user's socket comes into rooms.
    let mut enter = async |rooms: Vec<RoomName>| {
        let entry = Entry {
            socket: "s".into(),
            namespace: "/".into(),
            device: "d".into(),
            since: 1,
            policy: Policy::Unlimited,
            rooms,
        };
        let user = Restored {
            who: TypedUser {
                user: ":a".into(),
                kind: "".into(),
            },
            believed: false,
            mended: false,
            retold: false,
            entries: vec![entry],
        };
        number += 1;
        let turn = Turn {
            incarnation: &incarnation,
            number,
        };
        let restored = registry.restore(turn, &[user]).await;
        assert_eq!(restored.unwrap(), Ok(Vec::new()));
    };
    // 50 MB of names.
    for _ in 0..200 {
        enter(names(1000)).await;
        enter(Vec::new()).await;
    }
    enter(names(999)).await;
    enter(names(1000)).await;
    let mut usage = redis::cmd("MEMORY");
    usage.arg("USAGE").arg("{v}:edges").arg("SAMPLES").arg(0);
    let commands = Commands::new(server);
    let bytes: u64 = commands.query(&usage).await.unwrap();
    assert!(bytes < 48 << 20, "{bytes}");
    let read = registry.edges(&"0-0".into(), Duration::from_secs(1)).await;
    let edges = read.unwrap().edges;
    assert!(edges.len() > 100, "{}", edges.len());
    let gone = edges[0].0 - 1;
    assert_eq!(gone + edges.len() as u64, 202, "a hole, and nothing else");
    // Who has heard of the user already is named as far as that is short.
    let last = edges[edges.len() - 1].1.as_ref().unwrap();
    assert_eq!(last.rooms.len(), 1);
    let named = last.others.iter().flatten().map(|name| name.len());
    assert!((2000..=4096).contains(&named.sum::<usize>()));
}

#[tokio::test]
async fn a_node_that_starts_reads_from_what_the_line_was_not_told_of() {
    let redis = Redis::start();
    let server = Arc::new(Server::parse(&redis.url).unwrap());
    let registry = registry_of(&server);
    let info = node_with("n", 1, 1);
    let joined = registry
        .join(&info, LONG, None, 0, 0)
        .await
        .unwrap()
        .unwrap();
    let users = ["a", "b", "c", "d"].map(|name| Restored {
        who: TypedUser {
            user: format!(":{name}").into(),
            kind: "".into(),
        },
        believed: false,
        mended: false,
        retold: false,
        entries: vec![Entry {
            socket: name.into(),
            namespace: "/".into(),
            device: "d".into(),
            since: 1,
            policy: Policy::Unlimited,
            rooms: Vec::new(),
        }],
    });
    let turn = Turn {
        incarnation: &joined.incarnation,
        number: 1,
    };
    let restored = registry.restore(turn, &users).await;
    assert_eq!(restored.unwrap(), Ok(Vec::new()));
    let commands = Commands::new(server.clone());
    // Up to which edge the line was told, whether the node starts, and behind which it reads.
    for (said, known, expected) in [
        (None, None, 4),
        (Some(2), None, 2),
        (Some(0), None, 0),
        (Some(4), None, 4),
        // Another life of the registry has counted further.
        (Some(7), None, 4),
        (Some(2), Some(&*joined.epoch), 4),
    ] {
        if let Some(said) = said {
            let mut tell = redis::cmd("HSET");
            tell.arg("{v}:line").arg("x").arg(said);
            let () = commands.query(&tell).await.unwrap();
        }
        let other = registry
            .join(&node_with("m", 1, 1), LONG, known, 1, 0)
            .await;
        let other = other.unwrap().unwrap();
        assert_eq!(other.edge_number, expected, "{said:?}");
        let wait = Duration::from_millis(1);
        let read = registry.edges(&other.last_edge, wait).await.unwrap();
        let numbers: Vec<u64> = read.edges.iter().map(|(number, _)| *number).collect();
        assert_eq!(numbers, Vec::from_iter(expected + 1..=4), "{said:?}");
    }
}

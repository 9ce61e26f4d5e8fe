//! The end of a node, step by step as the page about it has them.

use heartline_core::store::memory::MemoryStore;
use heartline_core::store::{
    History, HistoryQuery, MessageStore, NewMessage, StoreError, Stored, Tell,
};
use heartline_wire::engineio::RequestError;

use super::*;
use crate::{EventError, Json};

/// A store that never comes to its end.
#[derive(Default)]
struct Away(MemoryStore);

impl MessageStore for Away {
    fn append(&self, new: NewMessage, tell: Tell) -> BoxFuture<Result<Stored, StoreError>> {
        self.0.append(new, tell)
    }

    fn history(&self, query: HistoryQuery) -> BoxFuture<Result<History, StoreError>> {
        self.0.history(query)
    }

    fn close(&self) -> BoxFuture<()> {
        Box::pin(std::future::pending())
    }
}

conversations_of::has_conversations_of!(Away, 0);
invites_of::has_invites_of!(Away, 0);

/// A node whose event `work` takes two seconds, and `ask` waits for the client.
fn world(config: Config) -> World {
    World::with(config, |builder| {
        builder
            .on("work", || async {
                tokio::time::sleep(seconds(2)).await;
                Json("worked")
            })
            .on("ask", |socket: Socket| async move {
                let nothing = crate::Args::one(&())?;
                socket
                    .emit_with_ack("question", &nothing, seconds(9))
                    .await?;
                Ok::<_, EventError>(Json("answered"))
            })
    })
}

/// Begins the end.
fn drain(world: &mut World) -> JoinHandle<()> {
    let gateway = world.gateway.clone();
    let draining = world.begin(async move { gateway.drain().await });
    world.settle();
    draining
}

/// The time that a `server:drain` names, milliseconds.
fn comes_back_in(said: &str) -> u64 {
    let (_, rest) = said.split_once(r#"{"reconnectInMs":"#).unwrap();
    let digits = rest.split('}').next().unwrap();
    digits.parse().unwrap()
}

#[test]
fn everybody_is_told_when_to_come_back_and_closed_as_one_who_may() {
    let mut world = world(config());
    let mut ann = world.socketio("user=ann");
    world.ask(&mut ann, r#"42["join","lobby"]"#);
    let mut bob = world.live("user=bob");
    let cleo = world.polling("user=cleo");
    let mut nobody = world.engineio();
    let draining = drain(&mut world);
    assert!(world.gateway.is_draining());
    let told = ann.hears();
    assert!(told[0].starts_with(r#"42["server:drain",{"#), "{told:?}");
    assert!((250..2_250).contains(&comes_back_in(&told[0])));
    // No DISCONNECT: that would keep them away.
    assert_eq!(told[1..], ["close 1001"]);
    let told = bob.hears();
    assert!(
        told[0].starts_with(r#"{"type":"server:drain","data":{"#),
        "{told:?}"
    );
    assert_eq!(told[1..], ["close 1001"]);
    assert_eq!(nobody.hears(), ["close 1001"]);
    let payload = world.get(cleo);
    assert!(payload.starts_with(r#"42["server:drain",{"#), "{payload}");
    // No close packet: some clients take that for a goodbye for good.
    assert!(payload.ends_with("}]"), "{payload}");
    assert!(!world.harness.exists(cleo));
    let mut farewells = world.farewells();
    farewells.sort_unstable();
    let expected = [
        "ann drained lobby,user:ann",
        "bob drained user:bob",
        "cleo drained user:cleo",
    ];
    assert_eq!(farewells, expected);
    assert_eq!(
        world.metric(r#"heartline_disconnects_total{reason="drained"}"#),
        4
    );
    // Who has answered the close is gone, and with the last of them the drain is over.
    for client in [&mut ann, &mut bob, &mut nobody] {
        client.0.close(1001);
    }
    world.run(ms(300));
    assert!(draining.is_finished());
    assert_eq!(world.gateway.connection_count(), 0);
    // They are expected back.
    assert_eq!(world.gateway.users_online(), 3);
    world.run(seconds(8));
    assert_eq!(world.gateway.users_online(), 0);
}

#[test]
fn a_handshake_that_was_under_way_is_closed_as_soon_as_it_opens() {
    let mut world = world(config());
    let mut ann = world.socketio("user=ann");
    world.ask(&mut ann, r#"421["work"]"#);
    drain(&mut world);
    let mut late = world.open(Opening::engineio());
    let told = late.hears();
    assert!(told[0].starts_with("0{"), "{told:?}");
    assert_eq!(told[1..], ["close 1001"]);
    assert_eq!(world.live("user=late").hears(), ["close 1001"]);
}

#[test]
fn one_more_namespace_is_refused_to_whoever_is_still_there() {
    let mut world = world(config());
    let mut ann = world.socketio("user=ann");
    world.ask(&mut ann, r#"421["work"]"#);
    drain(&mut world);
    ann.hears();
    let refused = world.ask(&mut ann, r#"40/chat,{"token":"user=ann"}"#);
    let expected = r#"44/chat,{"message":"This node is going away","data":{"code":"DRAINING"}}"#;
    assert_eq!(refused, [expected]);
}

#[test]
fn a_connection_that_is_in_no_namespace_is_closed_for_its_connect_and_not_refused() {
    let mut world = world(Config {
        drain_spread: Some(seconds(3600)),
        ..config()
    });
    let mut ann = world.engineio();
    let mut left = world.socketio("user=left");
    let [poller, waiting] = [(); 2].map(|()| world.harness.polling());
    drain(&mut world);
    // A refusal would keep them away for good.
    assert_eq!(world.ask(&mut ann, &connect("user=ann")), ["close 1001"]);
    assert!(world.ask(&mut left, "41").is_empty());
    assert_eq!(world.ask(&mut left, &connect("user=left")), ["close 1001"]);
    let unknown = Some(Answer::Error(RequestError::UnknownSid));
    world.post(poller, &connect("user=bob"));
    let mut get = world.harness.get(poller);
    world.settle();
    assert_eq!(get.answer(), unknown);
    let mut get = world.harness.get(waiting);
    world.post(waiting, &connect("user=cleo"));
    assert_eq!(get.answer(), unknown);
    assert_eq!(
        world.metric(r#"heartline_disconnects_total{reason="drained"}"#),
        3
    );
}

#[test]
fn one_more_namespace_is_refused_to_whoever_is_shed_and_still_there() {
    let mut world = world(config());
    let mut ann = world.socketio("user=ann");
    world.ask(&mut ann, r#"421["work"]"#);
    let part = crate::Part::Connections(1);
    assert_eq!(world.gateway.shed_here(part, Duration::ZERO), Some(1));
    world.settle();
    assert!(ann.hears()[0].contains("server:drain"));
    let refused = world.ask(&mut ann, r#"40/chat,{"token":"user=ann"}"#);
    let expected = r#"44/chat,{"message":"This node is going away","data":{"code":"DRAINING"}}"#;
    assert_eq!(refused, [expected]);
    world.run(ms(2_020));
    assert_eq!(ann.hears(), [r#"431["worked"]"#, "close 1001"]);
}

#[test]
fn who_has_a_handler_at_work_is_told_at_once_and_closed_behind_its_answer() {
    let mut world = world(config());
    let mut ann = world.socketio("user=ann");
    let mut bob = world.socketio("user=bob");
    world.ask(&mut ann, r#"421["work"]"#);
    world.ask(&mut bob, r#"421["ask"]"#);
    drain(&mut world);
    for client in [&mut ann, &mut bob] {
        let told = client.hears();
        assert!(
            told.len() == 1 && told[0].contains("server:drain"),
            "{told:?}"
        );
    }
    // What a handler asks of its client can still be answered.
    let told = world.ask(&mut bob, "430[]");
    assert_eq!(told, [r#"431["answered"]"#, "close 1001"]);
    world.run(ms(1_980));
    assert!(ann.hears().is_empty());
    world.run(ms(40));
    assert_eq!(ann.hears(), [r#"431["worked"]"#, "close 1001"]);
}

#[test]
fn who_was_told_starts_nothing_new() {
    let mut world = world(config());
    let mut ann = world.socketio("user=ann");
    let mut bob = world.live("user=bob");
    let work = r#"{"type":"emit","event":"work","data":1,"id":1}"#;
    world.ask(&mut ann, r#"421["work"]"#);
    world.ask(&mut bob, work);
    drain(&mut world);
    ann.hears();
    bob.hears();
    world.run(seconds(1));
    let publish = r#"422["publish",{"room":"user:bob","event":"late","data":1}]"#;
    assert!(world.ask(&mut ann, r#"422["work"]"#).is_empty());
    assert!(world.ask(&mut ann, publish).is_empty());
    assert!(world.ask(&mut bob, work).is_empty());
    world.run(ms(1_020));
    assert_eq!(ann.hears(), [r#"431["worked"]"#, "close 1001"]);
    let ack = r#"{"type":"ack","id":1,"data":"worked"}"#;
    assert_eq!(bob.hears(), [ack, "close 1001"]);
}

#[test]
fn whoever_is_still_there_when_the_time_is_up_is_closed_all_the_same() {
    let mut world = world(Config {
        drain_timeout: seconds(1),
        ..config()
    });
    let mut busy = world.socketio("user=busy");
    world.ask(&mut busy, r#"421["work"]"#);
    let deaf = world.live_on(
        "user=deaf",
        Opening {
            kernel_buffer: Some(4096),
            ..Opening::plain()
        },
    );
    let to = world.gateway.everybody("/", None).unwrap();
    to.emit("long", &"x".repeat(100_000)).unwrap();
    world.settle();
    busy.hears();
    let draining = drain(&mut world);
    assert!(busy.hears()[0].contains("server:drain"));
    world.run(ms(980));
    assert!(busy.hears().is_empty());
    assert_eq!(world.gateway.connection_count(), 2);
    assert!(!draining.is_finished());
    world.run(ms(40));
    assert_eq!(busy.hears(), ["close 1001", "end"]);
    assert_eq!(world.gateway.connection_count(), 0);
    world.run(ms(300));
    assert!(draining.is_finished());
    drop(deaf);
}

#[test]
fn a_store_that_is_away_keeps_a_node_for_a_second_at_most() {
    for (work, spread) in [(false, None), (true, Some(seconds(3)))] {
        let config = Config {
            drain_timeout: seconds(2),
            drain_spread: spread,
            ..config()
        };
        let mut world = World::with(config, |builder| {
            builder
                .store(Away::default())
                .on("work", || tokio::time::sleep(seconds(9)))
        });
        let mut ann = world.socketio("user=ann");
        if work {
            world.ask(&mut ann, r#"421["work"]"#);
        }
        let draining = drain(&mut world);
        world.run(spread.unwrap_or_default() + ms(2_850));
        assert!(!draining.is_finished(), "there may be time left for it");
        world.run(ms(100));
        assert!(draining.is_finished());
    }
}

#[test]
fn a_drain_that_is_spread_lets_one_after_the_other_go() {
    let mut world = world(Config {
        drain_spread: Some(seconds(10)),
        drain_timeout: seconds(2),
        ..config()
    });
    let mut clients: Vec<Client> = (0..40)
        .map(|number| world.live(&format!("user=u{number}")))
        .collect();
    world.run(ms(100));
    for client in &mut clients {
        client.hears();
    }
    let draining = drain(&mut world);
    let mut delays = Vec::new();
    let mut gone = Vec::new();
    // A deadline may be noticed a moment late: the last of them behind the tenth second.
    for second in 0..11 {
        // Who is still there is served as before.
        world.run(seconds(1));
        for client in &mut clients {
            let told = client.hears();
            let told: Vec<_> = told.iter().filter(|&one| one != "end").collect();
            if let [drain, end] = told[..] {
                assert_eq!(end, "close 1001");
                delays.push(comes_back_in(drain));
                gone.push(second);
                client.0.close(1001);
            } else {
                assert!(told.is_empty(), "{told:?}");
            }
        }
    }
    assert_eq!(gone.len(), 40);
    // Nobody chose who goes when: in each half some went, but not nearly all.
    let early = gone.iter().filter(|&&second| second < 5).count();
    assert!((6..=34).contains(&early), "{gone:?}");
    delays.sort_unstable();
    delays.dedup();
    assert!(delays.len() > 25, "{delays:?}");
    world.run(ms(300));
    assert!(draining.is_finished());
}

#[test]
fn before_their_turn_in_a_spread_drain_clients_are_served_as_ever() {
    let mut world = world(Config {
        drain_spread: Some(seconds(3600)),
        ..config()
    });
    let mut ann = world.socketio("user=ann");
    drain(&mut world);
    assert_eq!(world.ask(&mut ann, r#"421["join","a"]"#).len(), 2);
    ann.says(r#"422["work"]"#);
    world.run(ms(2_020));
    assert_eq!(ann.hears(), [r#"432["worked"]"#]);
}

#[test]
fn shedding_lets_some_go_over_its_time_and_the_node_stays() {
    let mut world = world(config());
    let mut clients: Vec<_> = (0..10)
        .map(|number| world.socketio(&format!("user=u{number}")))
        .collect();
    world.run(ms(20));
    let shed = world
        .gateway
        .shed_here(crate::Part::Share(0.4), seconds(10));
    assert_eq!(shed, Some(4));
    world.settle();
    let mut gone = 0;
    let mut steps = 0;
    for _ in 0..11 {
        world.run(seconds(1));
        let before = gone;
        for client in &mut clients {
            let heard = client.hears();
            if heard.iter().any(|said| said.contains("server:drain")) {
                assert_eq!(heard.last().map(String::as_str), Some("close 1001"));
                client.0.close(1001);
                gone += 1;
            }
        }
        steps += usize::from(gone > before);
    }
    assert_eq!(gone, 4);
    assert!(steps > 1, "they went one after the other");
    assert!(!world.gateway.is_draining());
    world.run(ms(300));
    assert_eq!(world.gateway.connection_count(), 6);
    world.socketio("user=newcomer");
}

#[test]
fn who_was_let_go_is_online_until_it_is_late() {
    let mut world = world(config());
    let mut ann = world.socketio("user=ann");
    world.run(ms(20));
    let part = crate::Part::Connections(1);
    assert_eq!(world.gateway.shed_here(part, Duration::ZERO), Some(1));
    world.settle();
    let told = comes_back_in(&ann.hears()[0]);
    world.run(ms(told + 4_900));
    assert_eq!(world.gateway.users_online(), 1);
    world.run(ms(300));
    assert_eq!(world.gateway.users_online(), 0);
}

//! What time takes away: tokens, grants, patience.

use heartline_core::backplane::Backplane;
use heartline_core::namespaces::NamespaceId;
use heartline_core::policy::DevicePolicy;
use heartline_core::presence::{Newcomer, SocketAddress};
use heartline_wire::id::{ConnId, Slot};

use super::*;

const EXPIRED: &str =
    r#"{"code":"AUTH_TOKEN_EXPIRED","message":"The token has expired; come back with a new one"}"#;

#[test]
fn a_token_that_expires_ends_its_connection_as_one_that_may_come_back() {
    let mut world = World::new(announced());
    let mut ann = world.socketio("user=ann ttl=60");
    let mut bob = world.live("user=bob ttl=60");
    let mut forever = world.socketio("user=ann device=desk");
    world.run(ms(100));
    for client in [&mut ann, &mut bob] {
        client.hears();
    }
    world.run(ms(59_800));
    assert!(ann.hears().is_empty() && bob.hears().is_empty());
    // Those that came together do not all go at once: a second is for that.
    world.run(ms(1_200));
    let error = format!(r#"42["auth:error",{EXPIRED}]"#);
    // No DISCONNECT: that would keep the client away.
    let heard = ann.hears().into_iter();
    let heard: Vec<_> = heard.filter(|one| !one.contains("user:offline")).collect();
    assert_eq!(heard, [&error, "close 4401"]);
    let error = format!(r#"{{"type":"auth:error","data":{EXPIRED}}}"#);
    assert_eq!(bob.hears(), [&error, "close 4401"]);
    assert_eq!(world.farewells().len(), 2);
    assert_eq!(
        world.metric(r#"heartline_disconnects_total{reason="token_expired"}"#),
        2
    );
    world.run(ms(100));
    let bobs = r#"42["user:offline",{"at":_,"rev":_,"userId":"bob","userType":null}]"#;
    // Ann has another connection.
    assert_eq!(plain(forever.hears())[1..], [bobs]);
}

#[test]
fn tokens_of_who_is_there_expire_by_the_clock_as_it_is_set() {
    let mut world = World::new(config());
    let mut ann = world.socketio("user=ann ttl=3600");
    let mut bob = world.live("user=bob ttl=7260");
    bob.hears();
    let mut cleo = world.socketio("user=cleo");
    let set = |world: &mut World, change: fn(Duration) -> Duration| {
        let unix = Duration::from_millis(world.unix_millis());
        let shared = world.gateway.shared.clone();
        let inside = world.runtime.enter();
        assert!(shared.clock.set(change(unix)).is_some());
        drop(inside);
        world.finish(async move { crate::housekeeping::clock_was_set(&shared).await });
    };
    set(&mut world, |unix| unix + seconds(7200));
    world.run(ms(1_100));
    let error = format!(r#"42["auth:error",{EXPIRED}]"#);
    assert_eq!(ann.hears(), [&error, "close 4401"]);
    // A minute is left of Bob's.
    world.run(ms(58_000));
    assert!(bob.hears().is_empty());
    world.run(ms(2_500));
    assert_eq!(bob.hears().last().map(String::as_str), Some("close 4401"));
    let mut dan = world.socketio("user=dan ttl=5");
    set(&mut world, |unix| unix - seconds(60));
    world.run(seconds(10));
    assert!(dan.hears().is_empty() && cleo.hears().is_empty());
}

#[test]
fn a_new_token_of_the_same_user_keeps_the_connection() {
    let mut world = World::new(config());
    let mut ann = world.socketio("user=ann ttl=60");
    let mut bob = world.live("user=bob ttl=60");
    let refresh = |token: &str| format!(r#"421["auth:refresh",{{"token":"{token}"}}]"#);
    for (token, code) in [
        ("user=bob", "FORBIDDEN"),
        ("", "AUTH_REQUIRED"),
        ("bad", "AUTH_TOKEN_INVALID"),
        ("old", "AUTH_TOKEN_EXPIRED"),
    ] {
        let answer = world.ask(&mut ann, &refresh(token));
        let said = answer.last().unwrap();
        assert!(
            said.contains(&format!(r#""code":"{code}""#)),
            "{token}: {said}"
        );
    }
    world.run(seconds(50));
    let answer = world.ask(&mut ann, &refresh("user=ann ttl=60"));
    assert!(
        answer
            .last()
            .unwrap()
            .starts_with(r#"431[{"ok":true,"expiresAt":"#),
        "{answer:?}"
    );
    let again = r#"{"type":"auth","token":"user=bob","id":8}"#;
    let answer = world.ask(&mut bob, again);
    assert!(
        answer
            .last()
            .unwrap()
            .contains(r#""id":8,"data":{"ok":true}"#),
        "{answer:?}"
    );
    world.run(seconds(59));
    assert!(ann.hears().is_empty() && bob.hears().is_empty());
    world.run(seconds(3));
    assert_eq!(ann.hears().last().unwrap(), "close 4401");
    assert!(bob.hears().is_empty());
}

#[test]
fn rooms_that_a_new_token_does_not_grant_are_left_and_nothing_more_is_heard_of_them() {
    let mut world = World::new(config());
    let mut ann = world.socketio("user=ann rooms=a,b");
    let mut bob = world.live("user=bob rooms=a,b");
    for room in ["a", "b"] {
        world.ask(&mut ann, &format!(r#"42["join","{room}"]"#));
        world.ask(
            &mut bob,
            &format!(r#"{{"type":"subscribe","topic":"{room}"}}"#),
        );
    }
    let heard = world.ask(
        &mut ann,
        r#"421["auth:refresh",{"token":"user=ann rooms=b"}]"#,
    );
    let left = r#"42["room:left",{"room":"a","reason":"forbidden"}]"#;
    assert!(heard.contains(&left.to_owned()), "{heard:?}");
    let heard = world.ask(&mut bob, r#"{"type":"auth","token":"user=bob rooms=b"}"#);
    let left = r#"{"type":"unsubscribed","topic":"a","reason":"forbidden"}"#;
    assert!(heard.contains(&left.to_owned()), "{heard:?}");
    for room in ["a", "b"] {
        let to = world.gateway.to("/", None, room).unwrap();
        to.emit("said", room).unwrap();
    }
    world.settle();
    assert_eq!(ann.hears(), [r#"42["said","b"]"#]);
    assert_eq!(
        bob.hears(),
        [r#"{"type":"said","topic":"b","data":"b","offset":1}"#]
    );
}

#[test]
fn who_says_nothing_for_too_long_is_closed_and_pongs_are_nothing() {
    let mut world = World::new(Config {
        heartbeat: HeartbeatConfig {
            interval: seconds(7),
            timeout: seconds(5),
            idle_timeout: Some(seconds(60)),
            ..HeartbeatConfig::default()
        },
        ..config()
    });
    let mut idle = world.socketio("user=idle");
    let mut live = world.live("user=live");
    let mut busy = world.socketio("user=busy");
    for second in 0..60 {
        world.run(if second == 59 { ms(980) } else { seconds(1) });
        for client in [&mut idle, &mut busy] {
            assert!(client.hears().iter().all(|one| one == "2"));
            client.says("3");
        }
        assert!(live.hears().iter().all(|one| one == "ping"));
        live.0.pong();
        if second % 20 == 19 {
            world.ask(&mut busy, r#"42["unheard"]"#);
        }
    }
    world.run(ms(40));
    assert_eq!(idle.hears(), ["close 4408"]);
    assert_eq!(live.hears(), ["close 4408"]);
    assert!(busy.hears().is_empty());
    assert_eq!(
        world.metric(r#"heartline_disconnects_total{reason="idle_timeout"}"#),
        2
    );
    assert_eq!(world.farewells().len(), 2);
}

/// Where who says nothing for a minute is closed.
fn impatient() -> Config {
    Config {
        heartbeat: HeartbeatConfig {
            idle_timeout: Some(seconds(60)),
            ..config().heartbeat
        },
        ..config()
    }
}

#[test]
fn a_connection_is_idle_when_nothing_is_said_in_any_of_its_namespaces() {
    let mut world = World::new(impatient());
    let mut ann = world.socketio("user=ann");
    let enter = r#"40/chat,{"token":"user=ann"}"#;
    assert!(world.ask(&mut ann, enter)[0].starts_with("40/chat,"));
    for event in [r#"42/chat,["unheard"]"#, r#"42["unheard"]"#] {
        for _ in 0..3 {
            world.run(seconds(40));
            assert!(world.ask(&mut ann, event).is_empty());
        }
    }
    // The last word was said in one, and the other one has been quiet for longer.
    world.run(ms(59_980));
    assert!(ann.hears().is_empty());
    world.run(ms(40));
    assert_eq!(ann.hears(), ["close 4408"]);
}

#[test]
fn signs_of_life_are_no_activity() {
    let mut world = World::new(impatient());
    let mut ann = world.socketio("user=ann");
    let mut bob = world.live("user=bob");
    for _ in 0..5 {
        world.run(seconds(11));
        assert!(world.ask(&mut ann, r#"42["ping"]"#)[0].contains("pong"));
        ann.says(r#"42["heartbeat:response",{"timestamp":1}]"#);
        let ping = r#"{"type":"emit","event":"ping","id":1}"#;
        assert_eq!(world.ask(&mut bob, ping).len(), 2);
        assert!(world.ask(&mut bob, r#"{"type":"ping"}"#)[0].contains("pong"));
    }
    assert!(ann.hears().is_empty());
    world.run(ms(4_980));
    assert!(ann.hears().is_empty() && bob.hears().is_empty());
    world.run(ms(40));
    assert_eq!(ann.hears(), ["close 4408"]);
    assert_eq!(bob.hears(), ["close 4408"]);
}

#[test]
fn whoever_renews_their_token_by_themselves_has_done_nothing() {
    let mut world = World::new(impatient());
    let mut ann = world.socketio("user=ann");
    let mut bob = world.live("user=bob");
    let mut cid = world.live("user=cid");
    for token in ["", "bad", "user=other", "ok"] {
        world.run(seconds(14));
        for (client, ask) in [
            (&mut ann, r#"421["auth:refresh",{"token":"TOKEN"}]"#),
            (&mut bob, r#"{"type":"auth","token":"TOKEN","id":8}"#),
            (
                &mut cid,
                r#"{"type":"emit","event":"auth:refresh","data":{"token":"TOKEN"},"id":8}"#,
            ),
        ] {
            let user = match ask {
                _ if ask.starts_with("42") => "user=ann",
                _ if ask.contains("emit") => "user=cid",
                _ => "user=bob",
            };
            let token = if token == "ok" { user } else { token };
            let heard = world.ask(client, &ask.replace("TOKEN", token));
            let is_fine = heard.last().unwrap().contains(r#""ok":true"#);
            assert_eq!(is_fine, token == user, "{heard:?}");
        }
        // An answer is no event of the client's own either.
        ann.says("437[]");
    }
    let gateway = world.gateway.clone();
    let page = world.finish(async move { gateway.connections(<_>::default(), None, 9).await });
    for entry in page.unwrap().items {
        assert_eq!(entry.last_activity_at, entry.connected_at, "{entry:?}");
        let seen_after = entry.last_seen_at - entry.connected_at;
        assert!(seen_after >= 55_000, "{seen_after} ms");
    }
    world.run(ms(3_900));
    for client in [&mut ann, &mut bob, &mut cid] {
        assert!(client.hears().is_empty());
    }
    world.run(ms(120));
    for client in [&mut ann, &mut bob, &mut cid] {
        assert_eq!(client.hears(), ["close 4408"]);
    }
}

#[test]
fn those_who_came_together_do_not_get_their_heartbeats_together_nor_after_a_freeze() {
    let mut world = World::new(Config {
        heartbeat: HeartbeatConfig {
            app_interval: Some(seconds(20)),
            ..config().heartbeat
        },
        ..config()
    });
    let mut clients: Vec<Client> = (0..100)
        .map(|user| world.socketio(&format!("user={user}")))
        .collect();
    world.run(seconds(21));
    for frozen in [0, 50] {
        world.harness.advance(seconds(frozen));
        world.settle();
        for client in &mut clients {
            client.hears();
        }
        let mut all = 0;
        for _ in 0..20 {
            world.run(seconds(1));
            let beats: usize = clients.iter_mut().map(|one| one.hears().len()).sum();
            // The first ones were spread over ten seconds.
            assert!(beats <= 30, "{beats} of them in a second");
            all += beats;
        }
        assert!((95..=105).contains(&all), "{all}");
    }
}

#[test]
fn heartbeats_are_also_events_where_that_is_wanted() {
    let mut world = World::new(Config {
        heartbeat: HeartbeatConfig {
            app_interval: Some(seconds(20)),
            ..config().heartbeat
        },
        ..config()
    });
    let mut ann = world.socketio("user=ann");
    let mut live = world.live("user=ann device=desk");
    // The first of each comes in the second half of the interval.
    world.run(ms(9_900));
    assert!(ann.hears().is_empty() && live.hears().is_empty());
    world.run(ms(10_200));
    for _ in 0..3 {
        assert_eq!(plain(ann.hears()), [r#"42["heartbeat",{"timestamp":_}]"#]);
        let beat = r#"{"type":"heartbeat","data":{"timestamp":_}}"#;
        assert_eq!(plain(live.hears()), [beat]);
        world.run(seconds(20));
    }
    let sent = world.unix_millis();
    world.run(ms(150));
    let echo = format!(r#"421["heartbeat:response",{{"timestamp":{sent}}}]"#);
    let heard = world.ask(&mut ann, &echo);
    assert_eq!(heard.last().unwrap(), r#"431[{"latencyMs":150}]"#);
}

#[test]
fn who_does_not_answer_pings_is_found_out_and_others_hear_that_they_are_gone() {
    let mut world = World::new(Config {
        heartbeat: HeartbeatConfig::default(),
        ..announced()
    });
    let mut silent = world.socketio("user=silent");
    let mut live = world.live("user=live");
    let mut ann = world.socketio("user=ann");
    let mut heard = Vec::new();
    for _ in 0..36 {
        world.run(seconds(1));
        heard.extend(ann.hears());
        ann.says("3");
    }
    for (client, ping) in [(&mut silent, "2"), (&mut live, "ping")] {
        let told = client.hears();
        assert!(told.contains(&ping.to_owned()), "{told:?}");
        assert_eq!(told.last().unwrap(), "close 4408");
    }
    for user in ["silent", "live"] {
        let gone =
            format!(r#"42["user:offline",{{"at":_,"rev":_,"userId":"{user}","userType":null}}]"#);
        assert_eq!(
            plain(heard.clone())
                .iter()
                .filter(|one| **one == gone)
                .count(),
            1
        );
    }
    assert_eq!(
        world.metric(r#"heartline_disconnects_total{reason="heartbeat_timeout"}"#),
        2
    );
    assert_eq!(world.farewells().len(), 2);
}

#[test]
fn who_answers_pings_stays_however_quiet_and_is_shown_with_a_round_trip() {
    let mut world = World::new(Config {
        heartbeat: HeartbeatConfig {
            interval: seconds(5),
            timeout: seconds(3),
            stale_after: Some(seconds(8)),
            sweep_interval: seconds(1),
            ..HeartbeatConfig::default()
        },
        ..config()
    });
    let mut quiet = world.socketio("user=quiet");
    let mut live = world.live("user=live");
    let mut pings = 0;
    for _ in 0..60 {
        world.run(seconds(1));
        for (client, ping, pong) in [(&mut quiet, "2", "3"), (&mut live, "ping", "pong")] {
            for heard in client.hears() {
                assert_eq!(heard, ping);
                pings += 1;
                match pong {
                    "3" => client.says(pong),
                    _ => client.0.pong(),
                }
            }
        }
    }
    world.settle();
    // Each has had one every five seconds.
    assert!((22..=26).contains(&pings), "{pings}");
    assert_eq!(world.metric("heartline_heartbeats_total"), pings);
    assert!(world.farewells().is_empty());
    let gateway = world.gateway.clone();
    let asked = world.begin(async move { gateway.connections(<_>::default(), None, 9).await });
    world.settle();
    let page = world.runtime.block_on(asked).unwrap().unwrap();
    assert_eq!(page.items.len(), 2);
    for entry in page.items {
        let rtt = entry.rtt_ms.unwrap();
        assert!(rtt > 0.0 && rtt < 1_050.0, "{rtt} ms");
        let quiet_for = entry.last_seen_at - entry.last_activity_at;
        assert!(quiet_for > 50_000, "{quiet_for} ms");
    }
}

#[test]
fn the_sweep_ends_connections_that_nothing_was_heard_of_and_no_others() {
    let mut world = World::new(Config {
        heartbeat: HeartbeatConfig {
            stale_after: Some(seconds(10)),
            sweep_interval: seconds(4),
            ..config().heartbeat
        },
        auth_timeout: seconds(30),
        ..config()
    });
    let mut stale = world.socketio("user=stale");
    let mut pongs = world.socketio("user=pongs");
    // Whom the gateway does not listen to cannot be heard from.
    let mut paused = world.engineio();
    paused.says(&connect("user=paused after=14"));
    for _ in 0..11 {
        pongs.says("3");
        world.run(seconds(1));
    }
    assert!(stale.hears().is_empty());
    pongs.says("3");
    world.run(ms(1_100));
    assert_eq!(stale.hears(), ["close 4408"]);
    // What it has sent meanwhile is heard as soon as that can be.
    paused.says("3");
    for _ in 0..7 {
        pongs.says("3");
        world.run(seconds(1));
    }
    assert!(paused.hears()[0].starts_with("40{"));
    assert!(pongs.hears().is_empty());
    assert_eq!(
        world.metric(r#"heartline_disconnects_total{reason="stale_sweep"}"#),
        1
    );
    assert_eq!(world.farewells(), ["stale stale_sweep user:stale"]);
}

#[test]
fn nobody_is_swept_out_because_the_process_stood_still() {
    let mut world = World::new(Config {
        heartbeat: HeartbeatConfig {
            interval: seconds(1),
            timeout: seconds(1),
            stale_after: Some(seconds(2)),
            sweep_interval: ms(200),
            ..config().heartbeat
        },
        ..config()
    });
    let mut ann = world.socketio("user=ann");
    let mut bob = world.live("user=bob");
    for frozen in [0, 5, 60] {
        world
            .runtime
            .block_on(tokio::time::advance(seconds(frozen)));
        world.harness.advance(seconds(frozen));
        for _ in 0..30 {
            world.run(ms(100));
            for heard in ann.hears() {
                assert_eq!(heard, "2");
                ann.says("3");
            }
            for heard in bob.hears() {
                assert_eq!(heard, "ping");
                bob.0.pong();
            }
        }
    }
    assert!(world.farewells().is_empty());
}

#[test]
fn the_sweep_takes_out_users_whose_connection_is_not_there() {
    let mut world = World::new(Config {
        heartbeat: HeartbeatConfig {
            sweep_interval: seconds(4),
            ..config().heartbeat
        },
        ..announced()
    });
    let mut ann = world.socketio("user=ann");
    let ghost = Newcomer {
        max_sockets: usize::MAX,
        instead_of: None,
        known_as: None,
        user: Arc::new(UserKey {
            tenant_id: None,
            user_id: "ghost".into(),
            user_type: None,
        }),
        socket: SocketAddress::new(
            ConnId {
                shard: 0,
                slot: Slot(77),
                generation: 1,
            },
            NamespaceId::ROOT,
            [7; 12],
        ),
        device_id: None,
        policy: DevicePolicy::Unlimited,
    };
    let backplane: Arc<dyn Backplane> = world.gateway.shared.fanout.backplane.clone();
    let admitted = world.begin(async move { backplane.connect(ghost).await.is_ok() });
    world.run(seconds(1));
    assert!(admitted.is_finished());
    assert_eq!(world.gateway.users_online(), 2);
    assert_eq!(ann.hears().len(), 1);
    world.run(ms(3_100));
    assert_eq!(world.gateway.users_online(), 1);
    let offline = r#"42["user:offline",{"at":_,"rev":_,"userId":"ghost","userType":null}]"#;
    assert_eq!(plain(ann.hears()), [offline]);
}

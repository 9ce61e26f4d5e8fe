//! Who is let in, who is not, and what they hear of it.

use std::sync::atomic::{AtomicUsize, Ordering};

use heartline_core::backplane::local::LocalBackplane;
use heartline_core::backplane::{Backplane, Node};
use heartline_core::entries::UserPresence;
use heartline_core::policy::{AuthMode, DevicePolicy, Limit, NamespaceConfig, OnExcess};
use heartline_core::presence::{
    Admitted, DeviceLimitReached, Newcomer, Presence, RoomAddress, SocketAddress,
};
use heartline_core::time::Moment;

use super::*;

#[test]
fn a_socket_is_greeted_on_both_protocols_and_others_hear_of_its_user() {
    let mut world = World::new(Config {
        hello: true,
        node_id: "n1".into(),
        ..announced()
    });
    let mut ann = world.engineio();
    let heard = world.ask(&mut ann, &connect("user=ann device=phone"));
    assert_eq!(heard.len(), 3);
    let id = heard[0].strip_prefix(r#"40{"sid":""#).unwrap();
    let id = id.strip_suffix(r#""}"#).unwrap();
    let now = world.unix_millis();
    let about = r#""authenticated":true,"userId":"ann","deviceId":"phone","nodeId":"n1""#;
    let pings = r#""pingInterval":3600000,"pingTimeout":3600000"#;
    let hello = format!(
        r#"{{"socketId":"{id}",{pings},{about},"serverTime":{now},"recovered":false,"maxPayload":1000000}}"#
    );
    assert_eq!(heard[1], format!(r#"42["server:hello",{hello}]"#));
    let success =
        format!(r#"{{"userId":"ann","userType":null,"socketId":"{id}","serverTime":{now}}}"#);
    assert_eq!(heard[2], format!(r#"42["connection:success",{success}]"#));
    let mut bob = world.live("user=bob");
    let heard = bob.hears();
    assert!(
        heard[0].starts_with(r#"{"type":"hello","socketId":"#),
        "{heard:?}"
    );
    assert!(
        heard[1].starts_with(r#"{"type":"connection:success","#),
        "{heard:?}"
    );
    world.run(ms(60));
    let online = r#"42["user:online",{"at":_,"rev":_,"userId":"bob","userType":null}]"#;
    assert_eq!(plain(ann.hears()), [online]);
    assert!(bob.hears().is_empty());
}

#[test]
fn a_namespace_that_is_not_there_is_refused_and_one_that_is_can_be_tried_next() {
    let mut world = World::new(config());
    let mut client = world.engineio();
    let refused = r#"44/nowhere,{"message":"Invalid namespace"}"#;
    assert_eq!(world.ask(&mut client, "40/nowhere,"), [refused]);
    let answer = world.ask(&mut client, r#"40/chat,{"token":"user=ann"}"#);
    assert!(answer[0].starts_with("40/chat,{\"sid\":"), "{answer:?}");
}

#[test]
fn who_polls_while_tokens_cannot_be_checked_is_told_to_come_back_and_not_goodbye() {
    let mut world = World::new(config());
    for waits in [true, false] {
        let session = world.harness.polling();
        let mut get = waits.then(|| world.harness.get(session));
        world.settle();
        let mut post = world.harness.post(session, &connect("later"));
        world.settle();
        let mut get = get.take().unwrap_or_else(|| world.harness.get(session));
        world.settle();
        let later = Some(Answer::Status(503));
        assert_eq!((post.answer(), get.answer()), (later.clone(), later));
        assert!(!world.harness.exists(session));
    }
    let mut client = world.engineio();
    assert_eq!(world.ask(&mut client, &connect("later")), ["close 1013"]);
}

#[test]
fn who_has_no_good_token_is_told_why_and_may_try_again() {
    let mut world = World::new(config());
    let mut client = world.engineio();
    for (packet, code, message) in [
        ("40", "AUTH_REQUIRED", "Authentication required"),
        (
            r#"40{"token":""}"#,
            "AUTH_REQUIRED",
            "Authentication required",
        ),
        (
            &connect("bad"),
            "AUTH_TOKEN_INVALID",
            "The token is not valid",
        ),
        (
            &connect("old"),
            "AUTH_TOKEN_EXPIRED",
            "The token has expired",
        ),
    ] {
        let refused = format!(r#"44{{"message":"{message}","data":{{"code":"{code}"}}}}"#);
        assert_eq!(world.ask(&mut client, packet), [refused]);
    }
    let answer = world.ask(&mut client, &connect("user=ann"));
    assert!(answer[0].starts_with("40{\"sid\":"), "{answer:?}");
    assert_eq!(world.gateway.users_online(), 1);
}

#[test]
fn a_live_client_without_a_good_token_is_closed_with_4401() {
    let mut world = World::new(config());
    for token in ["bad", "old"] {
        let mut client = world.live(token);
        assert_eq!(client.hears(), ["close 4401"]);
    }
    // By the first frame as well, and by any frame in its place.
    for frame in [
        r#"{"type":"auth","token":"bad"}"#,
        r#"{"type":"subscribe","topic":"lobby"}"#,
    ] {
        let mut client = world.open(Opening::plain());
        assert_eq!(world.ask(&mut client, frame), ["close 4401"]);
    }
    assert_eq!(
        world.metric(r#"heartline_disconnects_total{reason="auth_failed"}"#),
        3
    );
    assert_eq!(
        world.metric(r#"heartline_disconnects_total{reason="token_expired"}"#),
        1
    );
}

#[test]
fn an_authorization_header_stands_in_for_the_token_of_a_packet() {
    let mut world = World::new(config());
    let mut client = world.open(Opening {
        handshake: Handshake {
            token: Some("user=ann".into()),
            ..Handshake::default()
        },
        ..Opening::engineio()
    });
    client.hears();
    let answer = world.ask(&mut client, "40");
    assert!(answer[0].starts_with("40{\"sid\":"), "{answer:?}");
    assert_eq!(world.gateway.users_online(), 1);
}

#[test]
fn who_joins_nothing_within_the_time_for_it_is_closed() {
    let mut world = World::new(config());
    let mut idle = world.engineio();
    let mut live = world.open(Opening::plain());
    let mut refused = world.engineio();
    let session = world.harness.polling();
    let mut last = world.harness.get(session);
    let mut joined = world.socketio("user=ann");
    world.run(ms(9_990));
    assert!(live.hears().is_empty());
    world.run(ms(20));
    assert_eq!(live.hears(), ["close 4401"]);
    // To be refused is no way to stay.
    world.run(seconds(30));
    world.ask(&mut refused, &connect("bad"));
    world.run(ms(4_970));
    assert!(idle.hears().is_empty());
    world.run(ms(30));
    assert_eq!(idle.hears(), ["close 4401"]);
    assert_eq!(refused.hears(), ["close 4401"]);
    assert_eq!(last.answer(), Some(Answer::Payload("1".into())));
    assert!(joined.hears().is_empty());
}

#[test]
fn who_leaves_the_last_namespace_and_joins_none_is_closed_after_the_time_for_it() {
    let mut world = World::new(config());
    let mut gone = world.socketio("user=gone");
    let mut back = world.socketio("user=back");
    let mut stays = world.socketio("user=stays");
    world.ask(&mut stays, r#"40/chat,{"token":"user=stays"}"#);
    // It is counted from the moment at which it left, not from the beginning.
    world.run(seconds(100));
    for client in [&mut gone, &mut back, &mut stays] {
        assert!(world.ask(client, "41").is_empty());
    }
    world.run(seconds(30));
    let answer = world.ask(&mut back, &connect("user=back"));
    assert!(answer[0].starts_with("40{"), "{answer:?}");
    world.run(ms(14_900));
    assert!(gone.hears().is_empty());
    world.run(ms(200));
    assert_eq!(gone.hears(), ["close 4401"]);
    world.run(seconds(100));
    assert!(back.hears().is_empty() && stays.hears().is_empty());
    // It may go and come as often as it likes, and has as long each time.
    for _ in 0..2 {
        assert!(world.ask(&mut back, "41").is_empty());
        world.run(seconds(44));
        let answer = world.ask(&mut back, &connect("user=back"));
        assert!(answer[0].starts_with("40{"), "{answer:?}");
    }
}

#[test]
fn a_token_that_takes_long_is_waited_for_and_one_that_takes_too_long_is_not() {
    let mut world = World::new(config());
    let mut slow = world.engineio();
    // What is said early is heard once it is known who says it.
    slow.says(&connect("user=ann after=9"));
    slow.says(r#"421["join","lobby"]"#);
    world.run(ms(8_900));
    assert!(slow.hears().is_empty());
    world.run(ms(110));
    let heard = slow.hears();
    assert!(heard[0].starts_with("40{\"sid\":"), "{heard:?}");
    assert_eq!(heard[2..], [r#"431[{"ok":true,"room":"lobby"}]"#]);
    let mut slower = world.engineio();
    slower.says(&connect("user=bob after=11"));
    world.run(ms(10_300));
    // Nothing is known against it: a refusal would make a stock client give up for good.
    assert_eq!(slower.hears(), ["close 1013"]);
    assert_eq!(world.gateway.users_online(), 1);
}

#[test]
fn who_goes_while_their_token_is_looked_at_is_not_there_afterwards() {
    let mut world = World::new(config());
    let mut client = world.engineio();
    client.says(&connect("user=ann after=2"));
    world.settle();
    drop(client);
    world.settle();
    assert_eq!(world.gateway.connection_count(), 0);
    // All of it in one read, the end included.
    let mut hasty = world.engineio();
    hasty.says(&connect("user=bob after=2"));
    hasty.0.end();
    world.settle();
    assert_eq!(world.gateway.connection_count(), 0);
    world.run(seconds(3));
    assert_eq!(world.gateway.users_online(), 0);
    // Nobody was let in, so nobody has gone.
    assert!(world.farewells().is_empty());
    assert_eq!(
        world.metric(r#"heartline_disconnects_total{reason="transport_closed"}"#),
        2
    );
}

#[test]
fn what_was_said_before_the_end_counts_while_a_handler_is_waited_for() {
    let enter = |socket: Socket| async move {
        let joined = socket.join("lobby").await;
        tokio::time::sleep(seconds(2)).await;
        joined
    };
    let mut world = World::with(config(), |builder| builder.on("enter", enter));
    let mut bob = world.socketio("user=bob");
    world.ask(&mut bob, r#"42["join","lobby"]"#);
    let mut ann = world.socketio("user=ann");
    ann.says(r#"42["enter"]"#);
    ann.says(r#"42["publish",{"room":"lobby","event":"said","data":1}]"#);
    drop(ann);
    world.run(seconds(1));
    assert!(bob.hears().is_empty());
    world.run(ms(1_100));
    assert_eq!(bob.hears(), [r#"42["said",1]"#]);
    assert_eq!(world.farewells(), ["ann transport_closed lobby,user:ann"]);
}

/// The policies under which a newcomer takes the place of `user=ann device=phone`.
fn jealous() -> [DevicePolicy; 3] {
    let on_excess = OnExcess::EvictOldest;
    [
        DevicePolicy::Unlimited,
        DevicePolicy::Replace,
        DevicePolicy::Limit { max: 1, on_excess },
    ]
}

#[test]
fn a_newcomer_that_dies_while_its_token_is_looked_at_throws_nobody_out() {
    for policy in jealous() {
        let mut world = World::new(config_with(|root| root.devices = policy));
        let mut old = world.socketio("user=ann device=phone");
        let mut newcomer = world.engineio();
        newcomer.says(&connect("user=ann device=phone after=2"));
        let live = world.live("user=ann device=phone after=2");
        world.settle();
        drop((newcomer, live));
        world.run(seconds(3));
        assert!(old.hears().is_empty(), "{policy:?}");
        assert_eq!(world.gateway.counts().sockets, 1);
        assert_eq!(world.ask(&mut old, r#"421["join","a"]"#).len(), 2);
        // One that lives takes the place.
        let mut third = world.socketio("user=ann device=phone");
        assert_eq!(old.hears()[1..], ["41", "close 4409"]);
        assert!(third.hears().is_empty());
        assert_eq!(world.gateway.users_online(), 1);
    }
}

/// A node alone, whose answer to a newcomer takes a second. Counts the questions, and the
/// newcomers that it is told are there.
struct Slow(LocalBackplane, Arc<[AtomicUsize; 2]>);

impl Backplane for Slow {
    fn attach(&self, node: Arc<dyn Node>) {
        self.0.attach(node);
    }
    fn connect(&self, newcomer: Newcomer) -> BoxFuture<Result<Admitted, DeviceLimitReached>> {
        self.1[0].fetch_add(1, Ordering::SeqCst);
        let decided = self.0.connect(newcomer);
        Box::pin(async move {
            let decided = decided.await;
            tokio::time::sleep(seconds(1)).await;
            decided.map(|admitted| Admitted {
                reserved: true,
                ..admitted
            })
        })
    }
    fn established(&self, _: &Arc<UserKey>, _: SocketAddress) {
        self.1[1].fetch_add(1, Ordering::SeqCst);
    }
    fn disconnect(&self, user: &Arc<UserKey>, socket: SocketAddress, keep: Duration) {
        self.0.disconnect(user, socket, keep);
    }
    fn withdraw(&self, user: &Arc<UserKey>, socket: SocketAddress, admitted: &Admitted) {
        assert_eq!(admitted.replaced.len(), 1);
        self.0.withdraw(user, socket, admitted);
    }
    fn enter_room(&self, _: &Arc<UserKey>, _: SocketAddress, _: RoomAddress) {}
    fn leave_room(&self, _: &Arc<UserKey>, _: SocketAddress, _: &RoomAddress) {}
    fn presence(&self, _: Option<Arc<str>>, _: Vec<String>) -> BoxFuture<Vec<UserPresence>> {
        Box::pin(std::future::ready(Vec::new()))
    }
    fn local(&self) -> &Presence {
        self.0.local()
    }
}

#[test]
fn a_newcomer_that_dies_while_it_is_admitted_throws_nobody_out_either() {
    let counts = Arc::new([AtomicUsize::new(0), AtomicUsize::new(0)]);
    let counted = || counts.each_ref().map(|count| count.load(Ordering::SeqCst));
    let now = || Moment {
        at: Micros::ZERO,
        unix_millis: 0,
    };
    let slow = Slow(
        LocalBackplane::new(Duration::ZERO, Box::new(now)),
        counts.clone(),
    );
    let mut world = World::with(config(), |builder| builder.backplane(slow));
    let mut old = world.engineio();
    old.says(&connect("user=ann device=phone"));
    world.run(ms(1_010));
    assert!(old.hears()[0].starts_with("40{"));
    let mut newcomer = world.engineio();
    newcomer.says(&connect("user=ann device=phone"));
    world.run(ms(500));
    drop(newcomer);
    world.run(seconds(1));
    assert!(old.hears().is_empty());
    assert_eq!(world.gateway.counts().sockets, 1);
    assert_eq!(counted(), [2, 1]);
    // Who has gone before is not even asked about.
    let mut newcomer = world.engineio();
    newcomer.says(&connect("user=ann device=phone after=1"));
    world.settle();
    drop(newcomer);
    world.run(seconds(3));
    assert_eq!(counted(), [2, 1]);
    // And the place can still be taken: by who is there when the old one goes.
    let mut third = world.engineio();
    third.says(&connect("user=ann device=phone"));
    world.run(ms(990));
    assert!(old.hears().is_empty());
    world.run(ms(30));
    assert!(third.hears()[0].starts_with("40{"));
    assert_eq!(old.hears()[1..], ["41", "close 4409"]);
    assert_eq!(counted(), [3, 2]);
}

#[test]
fn an_empty_token_is_none_by_whichever_way_it_comes() {
    let bearer = |text: &str| Handshake {
        token: Some(text.into()),
        ..Handshake::default()
    };
    for mode in [AuthMode::Optional, AuthMode::Required] {
        let mut world = World::new(config_with(|root| root.auth_mode = mode));
        let is_fine = mode == AuthMode::Optional;
        for token in ["", "Bearer "] {
            let mut client = world.engineio();
            let answer = world.ask(&mut client, &connect(token));
            let expected = if is_fine { "40{" } else { "44{" };
            assert!(answer[0].starts_with(expected), "{token}: {answer:?}");
            assert!(!answer[0].contains("INVALID"), "{token}: {answer:?}");
        }
        let mut live = world.live("");
        let mut headed = world.open(Opening {
            handshake: bearer(""),
            ..Opening::plain()
        });
        for client in [&mut live, &mut headed] {
            let frame = r#"{"type":"auth","token":"","id":1}"#;
            let heard = world.ask(client, frame);
            match is_fine {
                true => assert!(heard.is_empty(), "{heard:?}"),
                false => assert_eq!(heard, ["close 4401"]),
            }
        }
        // What a user has, an empty token does not take away.
        let mut ann = world.live("user=ann");
        let frame = r#"{"type":"auth","token":"","id":1}"#;
        let heard = world.ask(&mut ann, frame);
        assert!(heard[0].contains(r#""code":"AUTH_REQUIRED""#), "{heard:?}");
        assert!(heard[0].contains(r#""id":1"#), "{heard:?}");
    }
}

#[test]
fn the_scheme_before_a_token_is_none_of_it_by_whichever_way_it_comes() {
    let mut world = World::new(config());
    for token in ["Bearer user=ann", "bearer user=ann", "BEARER  user=ann"] {
        let mut client = world.engineio();
        let answer = world.ask(&mut client, &connect(token));
        assert!(answer[0].starts_with("40{"), "{token}: {answer:?}");
        let again = format!(r#"421["auth:refresh",{{"token":"{token}"}}]"#);
        let answer = world.ask(&mut client, &again);
        assert!(answer[0].contains(r#""ok":true"#), "{token}: {answer:?}");
        let mut live = world.live("");
        for id in [1, 2] {
            let frame = format!(r#"{{"type":"auth","token":"{token}","id":{id}}}"#);
            let heard = world.ask(&mut live, &frame);
            assert!(
                !heard.iter().any(|frame| frame.contains("AUTH")),
                "{heard:?}"
            );
            assert!(
                !heard.iter().any(|frame| frame.contains("close")),
                "{heard:?}"
            );
        }
    }
    let mut client = world.socketio("user=ann");
    let answer = world.ask(&mut client, r#"421["auth:refresh",{"token":"Bearer "}]"#);
    assert!(answer[0].contains("AUTH_REQUIRED"), "{answer:?}");
}

/// Believes no token.
struct Sceptic;

impl Authenticator for Sceptic {
    fn authenticate(&self, credentials: Credentials) -> BoxFuture<Result<Identity, AuthError>> {
        let refused = credentials
            .token
            .map_or(AuthError::Required, |_| AuthError::Invalid);
        Box::pin(std::future::ready(Err(refused)))
    }
}

#[test]
fn a_token_that_is_no_text_is_no_good_and_no_token_is_none() {
    for (auth, code) in [
        (r#"{"token":5}"#, "AUTH_TOKEN_INVALID"),
        (r#"{"token":{}}"#, "AUTH_TOKEN_INVALID"),
        (r#"{"token":false}"#, "AUTH_TOKEN_INVALID"),
        (r#"{"token":null}"#, "AUTH_REQUIRED"),
        (r#"{"token":""}"#, "AUTH_REQUIRED"),
        ("{}", "AUTH_REQUIRED"),
    ] {
        let mut world = World::with(config(), |builder| builder.authenticator(Sceptic));
        let mut client = world.engineio();
        let answer = world.ask(&mut client, &format!("40{auth}"));
        assert!(answer[0].contains(code), "{auth}: {answer:?}");
    }
}

#[test]
fn a_live_nobody_who_shows_nothing_stays_who_they_are() {
    let mut world = World::new(Config {
        hello: true,
        ..config_with(|root| root.auth_mode = AuthMode::Optional)
    });
    let mut live = world.open(Opening::plain());
    let hello = live.hears();
    let id = hello[0].split('"').nth(7).unwrap().to_owned();
    world.ask(&mut live, r#"{"type":"subscribe","topic":"a"}"#);
    let heard = world.ask(&mut live, r#"{"type":"auth","token":"","id":1}"#);
    assert!(
        heard[0].contains(&id) && heard[0].ends_with(r#""id":1}"#),
        "{heard:?}"
    );
    let say = r#"{"type":"publish","topic":"a","event":"e","data":1}"#;
    let heard = world.ask(&mut live, say);
    assert!(heard[0].contains(r#""type":"e""#), "{heard:?}");
}

#[test]
fn an_authenticator_that_panics_costs_the_connect_alone() {
    let mut world = World::new(config());
    let mut client = world.engineio();
    let chat = r#"40/chat,{"token":"user=ann"}"#;
    assert!(world.ask(&mut client, chat)[0].starts_with("40/chat,"));
    let refused = world.ask(&mut client, &connect("boom=1"));
    assert!(refused[0].starts_with(r#"44{"message":"#), "{refused:?}");
    assert!(refused[0].contains(r#""code":"INTERNAL""#), "{refused:?}");
    assert_eq!(world.ask(&mut client, r#"42/chat,1["join","a"]"#).len(), 2);
    assert!(world.ask(&mut client, &connect("user=ann"))[0].starts_with("40{"));
    assert_eq!(world.live("boom=1").hears(), ["close 1011"]);
    assert_eq!(
        world.metric(r#"heartline_connect_refusals_total{code="INTERNAL"}"#),
        2
    );
}

#[test]
fn where_tokens_are_optional_a_bad_one_is_still_refused() {
    let mut world = World::new(config_with(|root| root.auth_mode = AuthMode::Optional));
    let mut client = world.engineio();
    let refused = world.ask(&mut client, &connect("bad"));
    assert!(refused[0].contains("AUTH_TOKEN_INVALID"), "{refused:?}");
    let answer = world.ask(&mut client, "40");
    assert!(answer[0].starts_with("40{\"sid\":"), "{answer:?}");
    assert_eq!(world.gateway.users_online(), 0);
}

#[test]
fn what_is_said_before_a_connect_or_in_its_place_ends_the_connection() {
    let mut world = World::new(config());
    let binary = r#"451-["x",{"_placeholder":true,"num":0}]"#;
    let ack = r#"461-1[{"_placeholder":true,"num":0}]"#;
    let early = ["42[\"early\"]", "41", "43[]", "49", "4", "40[]", "45-[]"];
    for packet in early.into_iter().chain([binary, ack]) {
        let mut client = world.engineio();
        assert_eq!(world.ask(&mut client, packet), ["close 1008"], "{packet}");
    }
    // Twice into the same namespace.
    let mut client = world.socketio("user=ann");
    assert_eq!(world.ask(&mut client, &connect("user=ann")), ["close 1008"]);
}

#[test]
fn connects_are_joins_and_too_many_of_them_end_the_connection() {
    let limited = |root: &mut NamespaceConfig| {
        root.limits.joins = Some(Limit::per(3, 10));
    };
    let mut world = World::new(config_with(limited));
    let mut client = world.engineio();
    for _ in 0..3 {
        assert!(world.ask(&mut client, &connect("bad"))[0].starts_with("44"));
    }
    // A third of the time makes room for one.
    world.run(ms(3_400));
    assert!(world.ask(&mut client, &connect("bad"))[0].starts_with("44"));
    assert_eq!(world.ask(&mut client, &connect("bad")), ["close 4429"]);
}

#[test]
fn a_connect_over_the_limit_on_events_leaves_no_client_waiting_for_its_answer() {
    let limited = || config_with(|root| root.limits.events = Some(Limit::per(3, 60)));
    let mut world = World::new(limited());
    let mut client = world.engineio();
    for _ in 0..3 {
        assert!(world.ask(&mut client, &connect("bad"))[0].starts_with("44"));
    }
    // What there is not is not there later either.
    let nowhere = r#"44/nowhere,{"message":"Invalid namespace"}"#;
    assert_eq!(world.ask(&mut client, "40/nowhere,"), [nowhere]);
    assert_eq!(world.ask(&mut client, &connect("bad")), ["close 4429"]);
    // Also of who is in another namespace.
    let mut ann = world.socketio("user=ann");
    for _ in 0..3 {
        assert_eq!(world.ask(&mut ann, "40/nowhere,"), [nowhere]);
    }
    let chat = r#"40/chat,{"token":"user=ann"}"#;
    assert_eq!(world.ask(&mut ann, chat), ["close 4429"]);
    assert_eq!(world.farewells(), ["ann rate_limited user:ann"]);
    // And by polling.
    let session = world.polling("user=bob");
    for _ in 0..2 {
        world.post(session, "40/nowhere,");
        assert_eq!(world.get(session), nowhere);
    }
    world.post(session, r#"40/chat,{"token":"user=bob"}"#);
    assert_eq!(world.farewells(), ["bob rate_limited user:bob"]);
}

#[test]
fn the_same_device_takes_its_own_place_and_the_old_client_is_told_to_stay_away() {
    let mut world = World::new(Config {
        node_id: "n1".into(),
        ..config()
    });
    let mut old = world.socketio("user=ann device=phone");
    let mut live = world.live("user=ann device=desk");
    let mut desk = world.live("user=ann device=desk");
    let replaced = r#"{"message":"A newer connection took this one's place","by":{"#;
    assert_eq!(
        live.hears(),
        [
            format!(
                r#"{{"type":"connection:replaced","data":{replaced}"deviceId":"desk","nodeId":"n1"}}}}}}"#
            )
            .as_str(),
            "close 4409"
        ]
    );
    let mut new = world.socketio("user=ann device=phone");
    assert_eq!(
        old.hears(),
        [
            format!(r#"42["connection:replaced",{replaced}"deviceId":"phone","nodeId":"n1"}}}}]"#)
                .as_str(),
            "41",
            "close 4409"
        ]
    );
    assert!(new.hears().is_empty() && desk.hears().is_empty());
    assert_eq!(world.farewells(), ["ann replaced user:ann"; 2]);
}

#[test]
fn who_polls_and_was_replaced_hears_that_before_anything_else() {
    let mut world = World::new(config());
    let old = world.polling("user=ann device=phone");
    let mut new = world.socketio("user=ann device=phone");
    // A refusal would have it come back, and take the place of who took its own.
    world.post(old, r#"42["join","a"]"#);
    let last = world.get(old);
    assert!(
        last.contains("connection:replaced") && last.ends_with("\u{1e}41"),
        "{last}"
    );
    assert_eq!(world.get(old), "1");
    assert!(!world.harness.exists(old) && new.hears().is_empty());
}

#[test]
fn where_one_device_is_allowed_the_newcomer_takes_the_place_of_whichever_it_was() {
    let replace = |root: &mut NamespaceConfig| root.devices = DevicePolicy::Replace;
    let mut world = World::new(config_with(replace));
    let mut phone = world.socketio("user=ann device=phone");
    let mut other = world.socketio("user=bob");
    let mut desk = world.live("user=ann device=desk");
    let told = phone.hears();
    assert!(
        told[0].starts_with(r#"42["connection:replaced",{"#)
            && told[0].contains(r#""by":{"deviceId":"desk""#),
        "{told:?}"
    );
    assert_eq!(told[1..], ["41", "close 4409"]);
    let mut nameless = world.socketio("user=ann");
    let told = desk.hears();
    assert!(told[0].contains("connection:replaced"), "{told:?}");
    assert_eq!(told[1..], ["close 4409"]);
    assert!(nameless.hears().is_empty() && other.hears().is_empty());
    assert_eq!(world.gateway.users_online(), 2);
    assert_eq!(
        world.metric(r#"heartline_disconnects_total{reason="replaced"}"#),
        2
    );
}

/// A node of many: every place is held by one that may be dead.
struct Doubtful(LocalBackplane);

impl Backplane for Doubtful {
    fn attach(&self, node: Arc<dyn Node>) {
        self.0.attach(node);
    }
    fn connect(&self, _: Newcomer) -> BoxFuture<Result<Admitted, DeviceLimitReached>> {
        let retry_after = Some(ms(900));
        Box::pin(std::future::ready(Err(DeviceLimitReached { retry_after })))
    }
    fn disconnect(&self, _: &Arc<UserKey>, _: SocketAddress, _: Duration) {}
    fn enter_room(&self, _: &Arc<UserKey>, _: SocketAddress, _: RoomAddress) {}
    fn leave_room(&self, _: &Arc<UserKey>, _: SocketAddress, _: &RoomAddress) {}
    fn presence(&self, _: Option<Arc<str>>, _: Vec<String>) -> BoxFuture<Vec<UserPresence>> {
        Box::pin(std::future::ready(Vec::new()))
    }
    fn local(&self) -> &Presence {
        self.0.local()
    }
}

#[test]
fn who_is_over_the_limit_for_the_moment_alone_is_told_when_to_come_again() {
    let now = || Moment {
        at: Micros::ZERO,
        unix_millis: 0,
    };
    let doubtful = Doubtful(LocalBackplane::new(Duration::ZERO, Box::new(now)));
    let mut world = World::with(config(), |builder| builder.backplane(doubtful));
    let data = r#""data":{"code":"DEVICE_LIMIT","retryAfterMs":900}"#;
    let mut ann = world.engineio();
    let answer = world.ask(&mut ann, &connect("user=ann"));
    assert!(answer[0].contains(data), "{answer:?}");
    let mut live = world.live("user=ann");
    let heard = live.hears();
    assert!(heard[0].contains(data), "{heard:?}");
    assert_eq!(heard[1..], ["close 1013"]);
}

#[test]
fn the_device_too_many_is_refused_or_the_oldest_goes() {
    for on_excess in [OnExcess::Reject, OnExcess::EvictOldest] {
        let limit = DevicePolicy::Limit { max: 2, on_excess };
        let mut world = World::new(config_with(|root| root.devices = limit));
        let mut first = world.socketio("user=ann");
        let mut second = world.socketio("user=ann");
        let mut third = world.engineio();
        let answer = world.ask(&mut third, &connect("user=ann"));
        let mut live = world.live("user=ann");
        assert!(second.hears().is_empty() == (on_excess == OnExcess::Reject));
        if on_excess == OnExcess::Reject {
            assert!(answer[0].contains(r#""code":"DEVICE_LIMIT""#), "{answer:?}");
            assert_eq!(live.hears(), ["close 4409"]);
            assert!(first.hears().is_empty());
            // A place that becomes free can be had.
            drop(first);
            world.settle();
            assert!(world.ask(&mut third, &connect("user=ann"))[0].starts_with("40"));
        } else {
            assert!(answer[0].starts_with("40{\"sid\":"), "{answer:?}");
            assert!(live.hears().is_empty());
            assert_eq!(first.hears()[1..], ["41", "close 4409"]);
            assert_eq!(world.farewells(), ["ann device_limit user:ann"; 2]);
        }
    }
}

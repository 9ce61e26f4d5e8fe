//! A reader that is too slow costs itself, and nobody else.

use super::*;
use heartline_core::policy::DevicePolicy;

const SEND_BUFFER: usize = 50_000;

/// A room with one who reads and one who does not, and who publishes to it.
fn crowd() -> (World, Client, Client, Client) {
    let mut world = World::new(Config {
        send_buffer: SEND_BUFFER,
        ..config()
    });
    let mut reader = world.socketio("user=reader");
    let mut slow = world.live_on(
        "user=slow",
        Opening {
            kernel_buffer: Some(4096),
            ..Opening::plain()
        },
    );
    let mut publisher = world.socketio("user=publisher");
    world.ask(&mut reader, r#"42["join","lobby"]"#);
    world.ask(&mut slow, r#"{"type":"subscribe","topic":"lobby","id":1}"#);
    world.run(ms(100));
    for client in [&mut reader, &mut slow, &mut publisher] {
        client.hears();
    }
    (world, reader, slow, publisher)
}

fn publish(number: u32, key: &str) -> String {
    let data = "x".repeat(5_000);
    format!(
        r#"42{number}["publish",{{"room":"lobby","event":"tick","data":[{number},"{data}"]{key}}}]"#
    )
}

#[test]
fn a_reader_that_stopped_is_closed_with_4413_and_nobody_else_misses_anything() {
    let (mut world, mut reader, mut slow, mut publisher) = crowd();
    for number in 1..=30 {
        // Nobody waits for the slow one: the answer is there at once.
        let answer = world.ask(&mut publisher, &publish(number, ""));
        let ok = format!(r#"43{number}[{{"ok":true,"room":"lobby","offset":{number}}}]"#);
        assert_eq!(answer[0], ok);
        let heard = reader.hears();
        assert!(heard[0].starts_with(&format!(r#"42["tick",[{number},"#)));
        world.run(ms(30));
    }
    let bad = r#"heartline_disconnects_total{reason="slow_consumer"}"#;
    assert_eq!(world.metric(bad), 1);
    assert_eq!(world.farewells(), ["slow slow_consumer lobby,user:slow"]);
    // What had begun to leave is whole and in order; then comes the reason.
    let mut heard = Vec::new();
    for _ in 0..100 {
        heard.extend(slow.hears());
        world.settle();
    }
    let close = heard.pop().unwrap();
    assert_eq!(close, "close 4413");
    for (index, one) in heard.iter().enumerate() {
        assert!(
            one.contains(&format!(r#""data":[{},"#, index + 1)),
            "{index}"
        );
    }
    // About as much as it may hold did not reach it.
    assert!(heard.len() < 20, "{}", heard.len());
}

#[test]
fn a_reader_that_stops_for_a_moment_hears_all_of_it_afterwards() {
    let (mut world, _reader, mut slow, mut publisher) = crowd();
    for number in 1..=8 {
        world.ask(&mut publisher, &publish(number, ""));
        world.run(ms(200));
    }
    let mut heard = Vec::new();
    for _ in 0..100 {
        heard.extend(slow.hears());
        world.settle();
    }
    assert_eq!(heard.len(), 8);
    assert!(world.farewells().is_empty());
}

#[test]
fn of_what_has_a_key_a_slow_reader_gets_the_newest_and_stays() {
    let (mut world, mut reader, mut slow, mut publisher) = crowd();
    for number in 1..=60 {
        let key = format!(r#","key":"car {}""#, number % 2);
        world.ask(&mut publisher, &publish(number, &key));
        assert_eq!(reader.hears().len(), 1);
        world.run(ms(30));
    }
    let mut heard = Vec::new();
    for _ in 0..100 {
        heard.extend(slow.hears());
        world.settle();
    }
    let last: Vec<_> = heard.iter().rev().take(2).rev().collect();
    assert!(last[0].contains(r#""data":[59,"#) && last[0].contains(r#""offset":59"#));
    assert!(last[1].contains(r#""data":[60,"#) && last[1].contains(r#""offset":60"#));
    assert!(heard.len() < 10, "{}", heard.len());
    assert!(world.farewells().is_empty());
}

/// Says a number with a key to the user `slow`, whose own live connection does not read.
type Speaks = fn(&mut World, &mut Client, u32, &str, &str);

fn by_socketio(world: &mut World, other: &mut Client, number: u32, key: &str, data: &str) {
    let said = format!(
        r#"42{number}["publish",{{"room":"user:slow","event":"tick","data":[{number},"{data}"],"key":"{key}"}}]"#
    );
    let answer = world.ask(other, &said);
    assert!(
        answer.iter().any(|one| one.contains(r#""ok":true"#)),
        "{answer:?}"
    );
}

fn by_live(world: &mut World, other: &mut Client, number: u32, key: &str, data: &str) {
    let what = format!(r#""event":"tick","data":[{number},"{data}"],"key":"{key}""#);
    let said = format!(r#"{{"type":"publish","topic":"user:slow",{what},"id":{number}}}"#);
    let answer = world.ask(other, &said);
    assert!(
        answer.iter().any(|one| one.contains(r#""type":"ack""#)),
        "{answer:?}"
    );
}

fn by_the_api(world: &mut World, other: &mut Client, number: u32, key: &str, data: &str) {
    let publish = crate::Publish {
        tenant_id: None,
        namespace: "/".into(),
        room: "user:slow".into(),
        event: "tick".into(),
        data: format!(r#"[{number},"{data}"]"#),
        key: Some(key.into()),
        except: Vec::new(),
    };
    let gateway = world.gateway.clone();
    world.begin(async move { gateway.publish(publish).await.unwrap() });
    world.settle();
    assert_eq!(other.hears().len(), 1);
}

#[test]
fn of_what_has_a_key_a_users_own_room_keeps_the_newest_too() {
    let ways: [(&str, Speaks); 3] = [
        ("user=slow", by_socketio),
        ("live user=slow", by_live),
        ("user=slow", by_the_api),
    ];
    for (token, speaks) in ways {
        let mut world = World::new(Config {
            send_buffer: SEND_BUFFER,
            ..config_with(|root| root.devices = DevicePolicy::Unlimited)
        });
        let tight = Opening {
            kernel_buffer: Some(4096),
            ..Opening::plain()
        };
        let mut slow = world.live_on("user=slow", tight);
        let mut other = match token.strip_prefix("live ") {
            Some(token) => world.live(token),
            None => world.socketio(token),
        };
        world.run(ms(100));
        slow.hears();
        other.hears();
        let data = "x".repeat(5_000);
        for number in 1..=60 {
            let key = format!("car {}", number % 2);
            speaks(&mut world, &mut other, number, &key, &data);
            world.run(ms(30));
        }
        let mut heard = Vec::new();
        for _ in 0..100 {
            heard.extend(slow.hears());
            world.settle();
        }
        let last: Vec<_> = heard.iter().rev().take(2).rev().collect();
        assert!(last[0].contains(r#""data":[59,"#), "{}", heard.len());
        assert!(last[1].contains(r#""data":[60,"#), "{}", heard.len());
        assert!(heard.len() < 10, "{}", heard.len());
        assert!(world.farewells().is_empty());
    }
}

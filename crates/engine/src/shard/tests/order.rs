//! What one connection is sent comes in order, each of it once.

use heartline_wire::reason::Reason;
use proptest::prelude::*;

use super::*;

/// Members of the room: more than one slice of the writes.
const MEMBERS: usize = 80;

#[derive(Debug, Clone)]
enum Step {
    /// One member is sent a message of so many bytes.
    Say(usize, usize),
    /// All are.
    Publish(usize),
    /// A member pings and says something that is answered.
    Ask(usize),
    /// A member reads what has come, once.
    Read(usize),
    Turn,
    Flush,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..MEMBERS, 0usize..6000).prop_map(|(member, len)| Step::Say(member, len)),
        3 => (0usize..6000).prop_map(Step::Publish),
        3 => (0..MEMBERS).prop_map(Step::Ask),
        4 => (0..MEMBERS).prop_map(Step::Read),
        4 => Just(Step::Turn),
        1 => Just(Step::Flush),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn everybody_reads_what_they_were_sent_in_order_and_once(
        steps in prop::collection::vec(step(), 1..120),
    ) {
        let mut harness = harness(Settings {
            send_buffer: usize::MAX / 8,
            ..settings()
        });
        let mut peers = Vec::new();
        let mut slots = Vec::new();
        for number in 0..MEMBERS {
            // Some take little at once, so that writes are short.
            let kernel_buffer = (number % 3 == 0).then_some(4096);
            let (slot, peer) = harness.join(Opening { kernel_buffer, ..Opening::plain() });
            slots.push(slot);
            peers.push(peer);
        }
        let mut sent = vec![Vec::new(); MEMBERS];
        let mut read = vec![Vec::new(); MEMBERS];
        let mut pongs = vec![0; MEMBERS];
        let mut take = |member: usize, told: Vec<Told>| {
            for told in told {
                match told {
                    Told::Text(text) => read[member].push(text),
                    Told::Pong(_) => pongs[member] -= 1,
                    other => panic!("{other:?}"),
                }
            }
        };
        for (number, step) in steps.into_iter().enumerate() {
            let (engine, _) = harness.both();
            match step {
                Step::Say(member, len) => {
                    let text = format!("{number}:{}", "x".repeat(len));
                    say(engine, slots[member], &text);
                    sent[member].push(text);
                }
                Step::Publish(len) => {
                    let text = format!("{number}:{}", "y".repeat(len));
                    publish(engine, &slots, &text);
                    sent.iter_mut().for_each(|sent| sent.push(text.clone()));
                }
                Step::Ask(member) => {
                    peers[member].ping(b"");
                    peers[member].text(&format!("echo {number}"));
                    harness.turn();
                    sent[member].push(number.to_string());
                    take(member, peers[member].read_once());
                }
                Step::Read(member) => take(member, peers[member].read_once()),
                Step::Turn => drop(harness.turn()),
                Step::Flush => engine.flush_all(),
            }
        }
        loop {
            harness.settle();
            let before: usize = peers.iter().map(Peer::chunks).sum();
            for (member, peer) in peers.iter_mut().enumerate() {
                take(member, peer.read());
            }
            if peers.iter().map(Peer::chunks).sum::<usize>() == before {
                break;
            }
        }
        // Told in short: which, and how long.
        let short = |all: &[Vec<String>]| -> Vec<Vec<(String, usize)>> {
            let of = |text: &String| (text.chars().take(6).collect(), text.len());
            all.iter().map(|texts| texts.iter().map(of).collect()).collect()
        };
        prop_assert_eq!(short(&read), short(&sent));
        prop_assert!(read == sent);
        prop_assert!(harness.closed().is_empty());
        prop_assert_eq!(harness.engine().pieces.len(), 0);
    }
}

#[test]
fn what_many_were_to_be_sent_is_forgotten_with_the_last_of_them() {
    let mut harness = harness(settings());
    let (slots, peers): (Vec<_>, Vec<_>) = (0..3).map(|_| harness.join(Opening::plain())).unzip();
    for text in ["first", "second"] {
        publish(harness.engine(), &slots, text);
    }
    assert_eq!(harness.engine().pieces.len(), 1);
    for &slot in &slots {
        harness.engine().close(slot, Reason::Kicked);
    }
    assert_eq!(harness.engine().pieces.len(), 0);
    harness.settle();
    for mut peer in peers {
        assert_eq!(peer.read()[..2], texts(&["first", "second"]));
    }
}

#[test]
fn what_a_slow_reader_has_not_taken_comes_when_they_read_on() {
    let mut harness = harness(settings());
    let (slot, mut peer) = harness.join(Opening {
        kernel_buffer: Some(4096),
        ..Opening::plain()
    });
    let long = "x".repeat(200_000);
    say(harness.engine(), slot, &long);
    harness.settle();
    let mut told = Vec::new();
    // Nothing more is sent: the socket's being free again is all there is to go on.
    for _ in 0..1000 {
        told.extend(peer.read());
        harness.settle();
        if !told.is_empty() {
            break;
        }
    }
    assert!(told == [Told::Text(long)]);
    assert_eq!(harness.turn().in_line, 0);
}

#[test]
fn who_is_closed_in_line_gets_what_they_were_sent_before_and_the_close() {
    let mut harness = harness(settings());
    let (slots, mut peers): (Vec<_>, Vec<_>) =
        (0..100).map(|_| harness.join(Opening::plain())).unzip();
    publish(harness.engine(), &slots, "to all");
    harness.engine().close(slots[90], Reason::Kicked);
    harness.settle();
    let close = Told::Close(Reason::Kicked.close_code());
    assert_eq!(peers[90].read(), [Told::text("to all"), close]);
    assert_eq!(peers[91].read(), texts(&["to all"]));
    assert_eq!(harness.closed(), [(slots[90], Reason::Kicked)]);
}

#[test]
fn who_takes_the_place_of_one_that_stood_in_line_gets_what_is_theirs_alone() {
    let mut harness = harness(settings());
    let (slots, mut peers): (Vec<_>, Vec<_>) =
        (0..100).map(|_| harness.join(Opening::plain())).unzip();
    publish(harness.engine(), &slots, "to all");
    // The last goes without a word before the turn comes to them, and another comes.
    drop(peers.pop());
    harness.turn();
    assert_eq!(harness.closed(), [(slots[99], Reason::TransportClosed)]);
    let mut late = harness.websocket(Opening::plain());
    harness.turn();
    assert_eq!(harness.app().opened.last(), slots.last());
    harness.settle();
    assert_eq!(late.read(), []);
    publish(harness.engine(), &slots, "again");
    harness.settle();
    assert_eq!(late.read(), texts(&["again"]));
    for peer in &mut peers {
        assert_eq!(peer.texts(), ["to all", "again"]);
    }
}

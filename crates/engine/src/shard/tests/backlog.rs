//! What is answered by way of the shard's own mailbox: it has a bound, and comes before an end.

use std::ops::RangeInclusive;

use super::*;
use crate::shard::ShardHandle;
use crate::shard::mailbox::HIGH;
use crate::shard::requests::PAYLOAD_PER_TURN;

/// Answers each message with itself, by way of the mailbox.
struct Answerer {
    shard: ShardHandle<(Slot, String)>,
    /// Answers in the mailbox, and the most of them that there have been.
    waiting: usize,
    most: usize,
    closed: Vec<Reason>,
}

impl App for Answerer {
    type Op = (Slot, String);

    fn opened(&mut self, _: &mut Engine, _: Slot, _: Handshake) {}

    fn message(&mut self, _: &mut Engine, slot: Slot, data: Data<'_>) {
        if let Data::Text(text) = data {
            self.waiting += 1;
            self.most = self.most.max(self.waiting);
            self.shard.post((slot, text.to_owned()), 0);
        }
    }

    fn closed(&mut self, _: &mut Engine, _: Slot, reason: Reason) {
        self.closed.push(reason);
    }

    fn deadline(&mut self, _: &mut Engine, _: Slot) {}

    fn op(&mut self, engine: &mut Engine, (slot, text): (Slot, String)) {
        self.waiting -= 1;
        say(engine, slot, &text);
    }
}

fn answering() -> Harness<Answerer> {
    let roomy = Settings {
        send_buffer: 100_000_000,
        ..settings()
    };
    Harness::new(roomy, |shard| Answerer {
        shard: shard.clone(),
        waiting: 0,
        most: 0,
        closed: Vec::new(),
    })
}

/// Enough to be over the bound several times.
const MANY: RangeInclusive<usize> = 100_000..=160_000;

fn packets() -> Vec<String> {
    MANY.map(|number| format!("4{number}")).collect()
}

#[test]
fn payloads_of_very_many_packets_are_heard_as_fast_as_they_are_worked_off() {
    let mut harness = answering();
    let body = packets().join("\u{1e}");
    let sessions = [harness.polling(), harness.polling()];
    let mut posts = sessions.map(|session| harness.post(session, &body));
    harness.settle();
    for (session, post) in sessions.into_iter().zip(&mut posts) {
        assert_eq!(post.answer(), Some(Answer::Accepted));
        let mut get = harness.get(session);
        harness.settle();
        assert_eq!(get.answer(), Some(Answer::Payload(body.clone())));
    }
    // One packet for each who finds that there is enough.
    let most = harness.app().most;
    assert!(most <= HIGH + sessions.len(), "{most} answers at once");
}

#[test]
fn the_same_holds_for_websockets() {
    let mut harness = answering();
    let mut peers = [(); 3].map(|()| harness.websocket(Opening::engineio()));
    harness.settle();
    let packets = packets();
    for peer in &mut peers {
        peer.read();
        for packet in &packets {
            peer.text(packet);
        }
    }
    let mut heard = [(); 3].map(|()| Vec::new());
    let mut goes_on = true;
    while goes_on {
        harness.settle();
        goes_on = peers.iter().any(|peer| peer.unsent() > 0);
        for (peer, heard) in peers.iter_mut().zip(&mut heard) {
            let told = peer.texts();
            goes_on |= !told.is_empty();
            heard.extend(told);
        }
    }
    for heard in &heard {
        assert!(*heard == packets, "{} answers", heard.len());
    }
    let most = harness.app().most;
    assert!(most <= HIGH + peers.len(), "{most} answers at once");
}

#[test]
fn a_payload_has_a_share_of_each_turn_and_is_accepted_when_all_of_it_was_heard() {
    let mut harness = harness(settings());
    let session = harness.polling();
    let said: Vec<String> = MANY.map(|number| number.to_string()).collect();
    let body = packets().join("\u{1e}");
    let mut post = harness.post(session, &body);
    harness.turn();
    let mut heard = harness.heard();
    assert!(heard.len() * 8 < PAYLOAD_PER_TURN + 8 && post.answer().is_none());
    harness.settle();
    heard.append(&mut harness.heard());
    assert!(heard == said, "{} messages", heard.len());
    assert_eq!(post.answer(), Some(Answer::Accepted));
}

#[test]
fn a_payload_waits_while_too_much_is_to_be_worked_off_elsewhere() {
    let mut harness = harness(settings());
    let session = harness.polling();
    harness.app().overloaded = true;
    let mut post = harness.post(session, "4one\u{1e}4two");
    harness.settle();
    assert_eq!((post.answer(), harness.heard()), (None, vec![]));
    harness.app().overloaded = false;
    harness.settle();
    assert_eq!(post.answer(), Some(Answer::Accepted));
    assert_eq!(harness.heard(), ["one", "two"]);
}

#[test]
fn whoever_ends_their_websocket_gets_the_answers_to_what_they_said_first() {
    type End = (fn(&mut Peer), Reason, &'static [Told]);
    let ends: [End; 6] = [
        (Peer::end, Reason::TransportClosed, &[Told::End]),
        (
            |peer| peer.close(1000),
            Reason::ClientLeft,
            &[Told::Close(1000), Told::End],
        ),
        (
            |peer| peer.text("1"),
            Reason::ClientLeft,
            &[Told::Close(1000)],
        ),
        (
            |peer| peer.text("nonsense"),
            Reason::ProtocolViolation,
            &[Told::Close(1008)],
        ),
        (
            |peer| peer.text("2"),
            Reason::ProtocolViolation,
            &[Told::Close(1008)],
        ),
        // Framing that is broken, and the end right behind it.
        (
            |peer| {
                peer.raw(b"\x81\x02hi");
                peer.end();
            },
            Reason::ProtocolViolation,
            &[Told::Close(1002), Told::End],
        ),
    ];
    for (end, reason, told) in ends {
        let mut harness = answering();
        let mut peer = harness.websocket(Opening::engineio());
        harness.settle();
        peer.read();
        peer.text("4one");
        peer.text("4two");
        end(&mut peer);
        peer.text("4three");
        harness.settle();
        let mut expected = texts(&["4one", "4two"]);
        expected.extend_from_slice(told);
        assert_eq!(peer.read(), expected);
        assert_eq!(harness.app().closed, [reason]);
    }
}

#[test]
fn whoever_ends_their_polling_session_gets_them_in_the_get_that_waits() {
    const ANSWERS: &str = "4one\u{1e}4two";
    for (end, accepted, heard, reason) in [
        // Its client has closed, and takes no events any more.
        ("1", Answer::Accepted, "6", Reason::ClientLeft),
        ("2", Answer::Accepted, ANSWERS, Reason::ProtocolViolation),
        (
            "nonsense",
            Answer::Status(400),
            ANSWERS,
            Reason::ProtocolViolation,
        ),
    ] {
        let mut harness = answering();
        let session = harness.polling();
        let mut get = harness.get(session);
        let mut post = harness.post(session, &["4one", "4two", end, "4three"].join("\u{1e}"));
        harness.settle();
        assert_eq!(post.answer(), Some(accepted));
        assert_eq!(get.answer(), Some(Answer::Payload(heard.into())), "{end}");
        assert_eq!(harness.app().closed, [reason]);
    }
}

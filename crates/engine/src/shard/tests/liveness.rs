//! Pings, and when silence is death.

use heartline_wire::engineio::RequestError;
use heartline_wire::id::Slot;

use super::*;
use crate::harness::MASK;
use crate::shard::heartbeat::HeartbeatTiming;
use crate::shard::turn::GIVEN_PER_TURN;

const PING: Told = Told::Ping(Vec::new());

fn closed_for_silence(harness: &mut Harness<Recorder>) -> bool {
    let closed = harness.closed();
    assert!(closed.len() <= 1);
    closed
        .iter()
        .all(|&(_, reason)| reason == Reason::HeartbeatTimeout)
        && !closed.is_empty()
}

/// Joins, and lets time pass until the first ping has come.
fn pinged(harness: &mut Harness<Recorder>) -> (Slot, Peer) {
    let (slot, mut peer) = harness.join(Opening::plain());
    harness.run(seconds(25) + ms(8));
    assert_eq!(peer.read(), [PING]);
    (slot, peer)
}

#[test]
fn a_client_is_pinged_at_the_interval_and_not_before() {
    let mut harness = harness(settings());
    let (_, mut plain) = harness.join(Opening::plain());
    let (_, mut engineio) = harness.join(Opening::engineio());
    harness.run(ms(24_999));
    assert_eq!((plain.read(), engineio.read()), (vec![], vec![]));
    // A tick of the wheel late at most.
    harness.run(ms(1 + 8));
    assert_eq!((plain.read(), engineio.read()), (vec![PING], texts(&["2"])));
    plain.pong();
    engineio.text("3");
    harness.run(ms(24_991));
    assert_eq!((plain.read(), engineio.read()), (vec![], vec![]));
    harness.run(ms(17));
    assert_eq!((plain.read(), engineio.read()), (vec![PING], texts(&["2"])));
}

#[test]
fn who_answers_pings_lives_and_their_round_trip_is_known() {
    let mut harness = harness(settings());
    let (slot, mut peer) = harness.join(Opening::plain());
    let start = harness.now();
    for interval in 1..=10 {
        harness.run_until(start + seconds(interval * 25) + TICK);
        assert_eq!(peer.read(), [PING]);
        harness.run(ms(30));
        peer.pong();
        harness.settle();
    }
    let rtt = harness.engine().conn(slot).unwrap().rtt;
    assert!((30_000..=38_200).contains(&rtt), "{rtt} µs");
    assert!(harness.closed().is_empty());
}

#[test]
fn who_does_not_answer_is_gone_at_the_timeout_and_not_before() {
    let mut harness = harness(settings());
    let (_, mut peer) = pinged(&mut harness);
    // The ping left up to a tick before this moment.
    harness.run(ms(20_000 - 9));
    assert!(harness.closed().is_empty());
    // What is sent otherwise is no answer.
    peer.text("hello");
    harness.run(ms(9 + 8));
    assert!(closed_for_silence(&mut harness));
    assert_eq!(peer.read(), [Told::Close(4408)]);
    // Nor does it answer the close.
    harness.run(seconds(5) + ms(8));
    assert_eq!(peer.read(), [Told::End]);
    assert_eq!(harness.slots().total(), 0);
}

/// A large message of a peer who says it in `pieces`, one each 100 ms.
fn in_pieces(pieces: usize) -> Vec<Vec<u8>> {
    let mut frame = Vec::new();
    let payload = "x".repeat(100_000);
    ws::push_masked_frame(OpCode::Text, payload.as_bytes(), MASK, &mut frame);
    let pieces = frame.chunks(frame.len().div_ceil(pieces));
    pieces.map(<[u8]>::to_vec).collect()
}

#[test]
fn who_is_in_the_middle_of_a_large_message_lives_and_its_pong_may_come_behind_it() {
    let mut harness = harness(settings());
    let (first, mut peer) = pinged(&mut harness);
    let pieces = in_pieces(400);
    for piece in &pieces {
        peer.raw(piece);
        harness.run(ms(100));
    }
    // Twice the time for a pong has passed, and all of it has come.
    assert_eq!(harness.heard().len(), 1);
    harness.run(seconds(9));
    assert!(harness.closed().is_empty());
    peer.pong();
    harness.run(seconds(10));
    assert!(harness.closed().is_empty());
    // The rest never comes: the last piece was the last sign of life.
    let (_, mut other) = pinged(&mut harness);
    for piece in &pieces[..300] {
        other.raw(piece);
        harness.run(ms(100));
    }
    assert_eq!(harness.closed(), [(first, Reason::HeartbeatTimeout)]);
    harness.run(seconds(20) - ms(110));
    assert!(harness.closed().is_empty());
    harness.run(ms(30));
    assert!(closed_for_silence(&mut harness));
}

#[test]
fn who_says_much_and_answers_no_ping_is_gone_all_the_same() {
    // Each message whole, and each in two pieces.
    for (pieces, patience) in [(1, seconds(20)), (2, seconds(30))] {
        let mut harness = harness(settings());
        let (_, mut peer) = pinged(&mut harness);
        let end = harness.now() - ms(8) + patience;
        harness.run(ms(100));
        let messages = in_pieces(pieces);
        while harness.now() + ms(500) < end {
            for piece in &messages {
                peer.raw(piece);
                harness.run(ms(10));
            }
            harness.run(ms(500 - 10 * pieces as u64));
            assert!(harness.closed().is_empty(), "{pieces}");
            peer.read();
        }
        harness.run(ms(600));
        assert!(closed_for_silence(&mut harness), "{pieces}");
    }
}

#[test]
fn who_is_in_the_middle_of_a_post_lives_and_its_pong_may_come_behind_it() {
    let mut harness = harness(settings());
    let session = harness.polling();
    let mut get = harness.get(session);
    harness.run(seconds(25) + ms(8));
    assert_eq!(get.answer(), Some(Answer::Payload("2".into())));
    let _get = harness.get(session);
    let mut posting = harness.post_begins(session);
    harness.run(seconds(19) + ms(980));
    assert_eq!(posting.start(), Some(Ok(())));
    // It is over just before the time is.
    let mut post = harness.post_body(session, &posting, b"4long");
    harness.settle();
    assert_eq!(post.answer(), Some(Answer::Accepted));
    harness.run(seconds(9));
    let mut pong = harness.post(session, "3");
    harness.settle();
    assert_eq!(pong.answer(), Some(Answer::Accepted));
    // One that takes longer, and is refused for its size: the session goes on.
    harness.run(seconds(25) - seconds(9));
    let mut posting = harness.post_begins(session);
    harness.run(seconds(29));
    assert_eq!(posting.start(), Some(Ok(())));
    harness.post_refused(session, &posting);
    harness.run(seconds(9));
    assert!(harness.closed().is_empty());
    // What follows and is no pong does not count.
    for _ in 0..3 {
        harness.post(session, "4more");
        harness.run(seconds(4));
    }
    assert!(closed_for_silence(&mut harness));
}

#[test]
fn a_pong_that_lies_in_the_socket_after_a_freeze_saves_its_client() {
    let mut harness = harness(settings());
    let (_, mut peer) = pinged(&mut harness);
    peer.pong();
    // The poller tells of it after a long time.
    harness.advance(seconds(60));
    harness.settle();
    assert!(harness.closed().is_empty());
}

#[test]
fn a_freeze_between_the_poller_and_the_turn_is_nobodys_silence() {
    let mut harness = harness(settings());
    let (_, mut peer) = pinged(&mut harness);
    // Nothing has come when the poller answers; then the process stands still, and the
    // pong comes.
    harness.turn_after(seconds(60));
    assert!(harness.closed().is_empty());
    peer.pong();
    harness.settle();
    harness.run(seconds(1));
    assert!(harness.closed().is_empty());
}

#[test]
fn a_freeze_does_not_save_who_stays_silent() {
    let mut harness = harness(settings());
    let _peer = pinged(&mut harness);
    harness.turn_after(seconds(60));
    harness.run(ms(9));
    assert!(closed_for_silence(&mut harness));
}

#[test]
fn silence_during_an_overload_does_not_count() {
    let mut harness = harness(settings());
    let (_, mut peer) = pinged(&mut harness);
    harness.app().overloaded = true;
    peer.pong();
    harness.run(seconds(60));
    assert!(harness.closed().is_empty());
    harness.app().overloaded = false;
    harness.run(seconds(1));
    assert!(harness.closed().is_empty());
    // The next ping is answered by nobody.
    harness.run(seconds(46));
    assert!(closed_for_silence(&mut harness));
}

#[test]
fn who_is_paused_cannot_be_heard_and_is_not_dead() {
    let mut harness = harness(settings());
    let (slot, mut peer) = pinged(&mut harness);
    harness.engine().pause(slot);
    peer.pong();
    harness.run(seconds(120));
    assert!(harness.closed().is_empty());
    harness.engine().resume(slot);
    harness.run(seconds(1));
    assert!(harness.closed().is_empty());
    assert!(harness.engine().conn(slot).unwrap().rtt > 0);
}

#[test]
fn those_who_came_together_are_not_pinged_together() {
    let mut harness = harness(settings());
    let start = harness.now();
    let mut peers: Vec<Peer> = (0..200)
        .map(|_| harness.websocket(Opening::plain()))
        .collect();
    harness.settle();
    harness.run(ms(12_499));
    let mut most = 0;
    let mut all = 0;
    while all < peers.len() {
        harness.run(ms(8));
        let pinged = peers.iter_mut().map(|peer| peer.read().len()).sum();
        most = most.max(pinged);
        all += pinged;
    }
    assert!(most < 20, "{most} of them in 8 ms");
    assert!(harness.now() < start + ms(25_020));
}

#[test]
fn those_whose_pings_are_spread_stay_so_after_a_freeze() {
    let mut harness = harness(settings());
    let mut peers = Vec::new();
    for _ in 0..100 {
        peers.push(harness.websocket(Opening::plain()));
        harness.run(ms(250));
    }
    // One interval of pings and pongs, and the process stands still for more than another.
    harness.advance(seconds(40));
    for _ in 0..2 {
        harness.settle();
        for peer in &mut peers {
            peer.read();
            peer.pong();
        }
    }
    harness.run(ms(50));
    let mut most = 0;
    for _ in 0..250 {
        harness.run(ms(100));
        let mut now = 0;
        for peer in &mut peers {
            if peer.read().contains(&PING) {
                peer.pong();
                now += 1;
            }
        }
        most = most.max(now);
    }
    assert!(harness.closed().is_empty());
    assert!(most <= 3, "{most} of them in 100 ms");
}

#[test]
fn clients_are_pinged_after_years() {
    let mut harness = harness(settings());
    harness.advance(Duration::from_secs(86_400 * 1000));
    harness.settle();
    let (_, mut peer) = pinged(&mut harness);
    peer.pong();
    harness.run(seconds(25));
    assert_eq!(peer.read(), [PING]);
    harness.run(seconds(20) + ms(8));
    assert!(closed_for_silence(&mut harness));
}

#[test]
fn a_silent_polling_session_is_gone_at_the_very_moment() {
    for late in [0, 1, 4] {
        for posts in [false, true] {
            let mut harness = harness(Settings {
                heartbeat_timing: HeartbeatTiming {
                    interval: ms(300),
                    timeout: ms(200),
                },
                ..settings()
            });
            // Anywhere between two ticks of the wheel.
            harness.run(Duration::from_micros(late * 2_000 + 700));
            let session = harness.polling();
            harness.run(ms(499));
            assert!(harness.exists(session));
            harness.advance(ms(1));
            let unknown = Answer::Error(RequestError::UnknownSid);
            if posts {
                let mut posting = harness.post_begins(session);
                harness.settle();
                assert_eq!(posting.start(), Some(Err(unknown)));
            } else {
                let mut get = harness.get(session);
                harness.settle();
                assert_eq!(get.answer(), Some(unknown));
            }
            assert!(closed_for_silence(&mut harness));
            assert_eq!(harness.slots().total(), 0);
        }
    }
}

#[test]
fn a_polling_session_may_answer_after_a_freeze_of_the_process() {
    let mut harness = harness(settings());
    let session = harness.polling();
    let mut get = harness.get(session);
    harness.run(seconds(25) + ms(8));
    assert_eq!(get.answer(), Some(Answer::Payload("2".into())));
    // The pong waits in HTTP's part of the process while all of it stands still.
    harness.advance(seconds(60));
    harness.settle();
    assert!(harness.closed().is_empty());
    let mut post = harness.post(session, "3");
    harness.settle();
    assert_eq!(post.answer(), Some(Answer::Accepted));
    let _get = harness.get(session);
    harness.run(seconds(1));
    assert!(harness.closed().is_empty());
}

#[test]
fn a_polling_session_whose_pong_waits_in_the_mailbox_lives() {
    let mut harness = harness(settings());
    let session = harness.polling();
    let _get = harness.get(session);
    harness.run(seconds(44) + ms(990));
    let mut posting = harness.post_begins(session);
    harness.turn();
    assert_eq!(posting.start(), Some(Ok(())));
    for _ in 0..3 {
        harness.post_order(|engine, _| {
            let frames = Frames::from(Vec::new());
            for _ in 0..GIVEN_PER_TURN {
                engine.send(Slot(9), &frames);
            }
        });
    }
    let mut post = harness.post_body(session, &posting, b"3");
    for _ in 0..3 {
        harness.turn();
        assert_eq!(post.answer(), None);
        harness.advance(ms(20));
    }
    harness.settle();
    assert_eq!(post.answer(), Some(Answer::Accepted));
    assert!(harness.closed().is_empty());
}

#[test]
fn a_polling_session_that_stays_away_ends_at_the_timeout() {
    let mut harness = harness(settings());
    let session = harness.polling();
    harness.run(seconds(44));
    assert!(harness.closed().is_empty());
    harness.run(seconds(1) + ms(17));
    assert!(closed_for_silence(&mut harness));
    assert!(!harness.exists(session));
    assert_eq!(harness.slots().total(), 0);
}

#[test]
fn a_polling_session_hears_the_ping_in_its_get_and_lives_by_its_pong() {
    let mut harness = harness(settings());
    let session = harness.polling();
    for _ in 0..4 {
        let mut get = harness.get(session);
        harness.run(seconds(24));
        assert_eq!(get.answer(), None);
        harness.run(seconds(1) + ms(8));
        assert_eq!(get.answer(), Some(Answer::Payload("2".into())));
        let mut post = harness.post(session, "3");
        harness.settle();
        assert_eq!(post.answer(), Some(Answer::Accepted));
    }
    assert!(harness.closed().is_empty());
}

#[test]
fn a_ping_goes_before_what_waits_for_a_slow_reader_at_the_next_whole_frame() {
    let mut harness = harness(settings());
    let (slot, mut peer) = harness.join(Opening {
        kernel_buffer: Some(4096),
        ..Opening::plain()
    });
    let long = "x".repeat(60_000);
    for _ in 0..3 {
        say(harness.engine(), slot, &long);
        harness.settle();
    }
    harness.run(seconds(25) + ms(8));
    let mut told = Vec::new();
    while told.len() < 4 {
        let before = peer.chunks();
        told.extend(peer.read());
        harness.settle();
        assert!(peer.chunks() > before);
    }
    let place = told.iter().position(|told| *told == PING);
    assert_eq!(place, Some(1));
}

#[test]
fn the_answer_to_a_ping_says_once_that_what_was_sent_before_has_come() {
    let mut harness = harness(settings());
    let (slot, mut peer) = harness.join(Opening::engineio());
    let answered = |harness: &mut Harness<Recorder>, peer: &mut Peer| {
        harness.run(seconds(25) + TICK);
        peer.read();
        harness.run(ms(30));
        peer.text("3");
        harness.settle();
        std::mem::take(&mut harness.app().received)
    };
    // Nobody has asked.
    assert_eq!(answered(&mut harness, &mut peer), []);
    say(harness.engine(), slot, "one");
    let sent = harness.now();
    harness.engine().want_receipt(slot);
    harness.settle();
    // A pong to no ping says nothing.
    peer.text("3");
    harness.settle();
    let received = answered(&mut harness, &mut peer);
    assert_eq!(received.len(), 1);
    // What is sent after the ping may still be on its way when the answer comes.
    assert!(received[0] > sent && received[0] < harness.now() - ms(29));
    assert_eq!(answered(&mut harness, &mut peer), []);
}

#[test]
fn a_ping_that_overtakes_what_waits_says_nothing_of_it() {
    let mut harness = harness(settings());
    let (slot, mut peer) = harness.join(Opening::engineio());
    harness.engine().want_receipt(slot);
    // More than the kernel takes.
    let large = "x".repeat(400_000);
    while harness.engine().is_writable(slot) {
        say(harness.engine(), slot, &large);
        harness.settle();
        assert!(harness.closed().is_empty());
    }
    harness.run(seconds(25) + TICK);
    while peer.read().is_empty() {
        harness.settle();
    }
    peer.text("3");
    harness.settle();
    assert_eq!(harness.app().received, []);
    peer.read();
    harness.settle();
    harness.run(seconds(25) + TICK);
    peer.read();
    peer.text("3");
    harness.settle();
    assert_eq!(harness.app().received.len(), 1);
}

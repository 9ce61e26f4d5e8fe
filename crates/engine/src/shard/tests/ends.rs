//! The end of all connections, and of single ones in the middle of things.

use super::*;

#[test]
fn before_the_end_everybody_is_written_to_without_a_turn() {
    let mut harness = harness(settings());
    let (slots, mut peers): (Vec<_>, Vec<_>) =
        (0..150).map(|_| harness.join(Opening::plain())).unzip();
    let session = harness.polling();
    let poller = *harness.app().opened.last().unwrap();
    let mut get = harness.get(session);
    harness.settle();
    let engine = harness.engine();
    publish(engine, &slots, "goodbye");
    say(engine, poller, "goodbye");
    for slot in slots {
        engine.close(slot, Reason::Drained);
    }
    engine.flush_all();
    for peer in &mut peers {
        assert_eq!(peer.read(), [Told::text("goodbye"), Told::Close(1001)]);
    }
    assert_eq!(get.answer(), Some(Answer::Payload("4goodbye".into())));
    harness.settle();
    assert!(peers.iter_mut().all(|peer| peer.read().is_empty()));
    assert_eq!(harness.closed().len(), 150);
}

#[test]
fn those_who_do_not_finish_their_close_can_be_ended_and_the_others_stay() {
    let mut harness = harness(settings());
    let (closing, mut gone) = harness.join(Opening::plain());
    let (_, mut stays) = harness.join(Opening::plain());
    let session = harness.polling();
    let poller = *harness.app().opened.last().unwrap();
    harness.engine().close(closing, Reason::Drained);
    harness.engine().close(poller, Reason::Drained);
    harness.engine().force_closing();
    harness.settle();
    assert_eq!(gone.read(), [Told::End]);
    assert!(!harness.exists(session));
    assert_eq!(harness.closed().len(), 2);
    assert_eq!(harness.slots().total(), 1);
    stays.text("echo hello");
    harness.settle();
    assert_eq!(stays.texts(), ["hello"]);
}

#[test]
fn the_end_of_a_paused_connection_is_told_at_once_or_when_its_last_words_were_heard() {
    for impatient in [false, true] {
        for in_one_read in [false, true] {
            let mut harness = harness(settings());
            harness.app().impatient = impatient;
            let (slot, mut peer) = harness.join(Opening::plain());
            peer.text("pause");
            peer.text("my last words");
            if !in_one_read {
                harness.settle();
            }
            drop(peer);
            harness.settle();
            let gone = (slot, Reason::TransportClosed);
            let told = harness.closed();
            assert_eq!(told.len(), usize::from(impatient));
            harness.engine().resume(slot);
            harness.settle();
            let heard = if impatient { 1 } else { 2 };
            assert_eq!(harness.app().heard.len(), heard);
            let later = harness.closed();
            assert_eq!([told, later].concat(), [gone]);
            assert_eq!(harness.slots().total(), 0);
        }
    }
}

#[test]
fn pings_are_answered_and_told_of() {
    let mut harness = harness(settings());
    let (_, mut peer) = harness.join(Opening::plain());
    for payload in [b"1", b"2"] {
        peer.ping(payload);
    }
    harness.settle();
    assert_eq!(
        peer.read(),
        [Told::Pong(b"1".to_vec()), Told::Pong(b"2".to_vec())]
    );
    assert_eq!(harness.app().pings, 2);
}

#[test]
fn an_end_is_told_once_whatever_else_happens_to_the_connection() {
    let mut harness = harness(settings());
    let (slot, mut peer) = harness.join(Opening::plain());
    peer.text("kick");
    peer.close(1000);
    drop(peer);
    harness.engine().set_app_deadline(slot, Micros(1));
    harness.settle();
    harness.engine().close(slot, Reason::Drained);
    harness.run(seconds(60));
    assert_eq!(harness.closed(), [(slot, Reason::Kicked)]);
    assert_eq!(harness.slots().total(), 0);
}

#[test]
fn who_ends_their_half_of_the_stream_is_gone() {
    let mut harness = harness(settings());
    let (slot, mut peer) = harness.join(Opening::plain());
    peer.text("echo last words");
    peer.end();
    harness.settle();
    assert_eq!(harness.heard(), ["echo last words"]);
    assert_eq!(harness.closed(), [(slot, Reason::TransportClosed)]);
    assert_eq!(peer.read(), [Told::text("last words"), Told::End]);
}

#[test]
fn a_deadline_of_the_application_comes_once_and_not_early() {
    let mut harness = harness(settings());
    let (slot, _peer) = harness.join(Opening::plain());
    let deadline = harness.now() + seconds(3);
    harness.engine().set_app_deadline(slot, deadline);
    harness.run(seconds(10));
    let due = harness.app().due.clone();
    let [(who, at)] = due[..] else {
        panic!("{due:?}");
    };
    assert_eq!(who, slot);
    assert!((deadline..deadline + TICK).contains(&at));
}

#[test]
fn an_order_to_stop_ends_the_turn() {
    let mut harness = harness(settings());
    let (_, mut peer) = harness.join(Opening::plain());
    harness.handle().stop();
    harness.post_order(|_, app| app.heard.push("too late".into()));
    peer.text("echo too late");
    assert!(harness.turn().stopped);
    assert_eq!(harness.heard(), ["echo too late"]);
}

//! From polling to WebSocket.

use std::future::Future;
use std::task::{Context, Waker};

use heartline_wire::id::Slot;

use super::*;
use crate::harness::Session;

struct Changing {
    harness: Harness<Recorder>,
    slot: Slot,
    session: Session,
    peer: Peer,
}

/// A session whose WebSocket has probed, and whose poll was let go.
fn probed() -> Changing {
    let mut harness = harness(settings());
    let session = harness.polling();
    let slot = harness.app().opened[0];
    let mut get = harness.get(session);
    let mut peer = harness.upgrade(session, Opening::engineio());
    harness.settle();
    assert_eq!(get.answer(), None);
    peer.text("2probe");
    harness.settle();
    assert_eq!(peer.read(), texts(&["3probe"]));
    assert_eq!(get.answer(), Some(Answer::Payload("6".into())));
    Changing {
        harness,
        slot,
        session,
        peer,
    }
}

#[test]
fn what_is_sent_during_an_upgrade_comes_in_order_wherever_it_comes() {
    let Changing {
        mut harness,
        slot,
        session,
        mut peer,
    } = probed();
    // While it changes over, a further poll is answered at once.
    say(harness.engine(), slot, "one");
    let mut get = harness.get(session);
    harness.settle();
    assert_eq!(get.answer(), Some(Answer::Payload("4one".into())));
    let mut get = harness.get(session);
    harness.settle();
    assert_eq!(get.answer(), Some(Answer::Payload("6".into())));
    say(harness.engine(), slot, "two");
    harness.settle();
    publish(harness.engine(), &[slot], "three");
    harness.settle();
    assert_eq!(peer.read(), []);
    peer.text("5");
    harness.settle();
    // Nothing else is sent that would push them out.
    assert_eq!(peer.read(), texts(&["4two", "4three"]));
    assert_eq!(harness.app().upgraded, [slot]);
    say(harness.engine(), slot, "four");
    harness.settle();
    assert_eq!(peer.read(), texts(&["4four"]));
}

#[test]
fn what_the_client_says_behind_the_upgrade_is_heard() {
    let Changing {
        mut harness,
        session,
        mut peer,
        ..
    } = probed();
    let mut post = harness.post(session, "4posted");
    harness.settle();
    assert_eq!(post.answer(), Some(Answer::Accepted));
    peer.text("5");
    peer.text("4echo one");
    peer.text("4echo two");
    harness.settle();
    assert_eq!(harness.heard(), ["posted", "echo one", "echo two"]);
    assert_eq!(peer.read(), texts(&["4one", "4two"]));
    peer.close(1000);
    harness.settle();
    assert_eq!(peer.read(), [Told::Close(1000), Told::End]);
    assert_eq!(harness.slots().total(), 0);
}

#[test]
fn an_upgrade_in_one_breath_works_too() {
    let mut harness = harness(settings());
    let session = harness.polling();
    let mut leftover = Vec::new();
    for text in ["2probe", "5", "4echo early"] {
        let mask = crate::harness::MASK;
        ws::push_masked_frame(OpCode::Text, text.as_bytes(), mask, &mut leftover);
    }
    let mut peer = harness.upgrade(
        session,
        Opening {
            preface: b"HTTP/1.1 101 Switching Protocols\r\n\r\n".into(),
            leftover,
            ..Opening::engineio()
        },
    );
    harness.settle();
    assert_eq!(peer.read(), texts(&["3probe", "4early"]));
}

#[test]
fn a_session_that_is_paused_is_still_so_after_its_upgrade() {
    let Changing {
        mut harness,
        slot,
        mut peer,
        ..
    } = probed();
    harness.engine().pause(slot);
    peer.text("5");
    peer.text("4hello");
    harness.settle();
    assert!(harness.heard().is_empty());
    harness.engine().resume(slot);
    harness.settle();
    assert_eq!(harness.heard(), ["hello"]);
}

#[test]
fn a_probe_that_never_finishes_ends_at_its_deadline_and_polling_goes_on() {
    let Changing {
        mut harness,
        slot,
        session,
        mut peer,
    } = probed();
    harness.run(seconds(10) - ms(10));
    assert_eq!(peer.read(), []);
    harness.run(ms(20));
    assert_eq!(peer.read(), [Told::End]);
    let mut get = harness.get(session);
    harness.settle();
    assert_eq!(get.answer(), None);
    say(harness.engine(), slot, "hello");
    harness.settle();
    assert_eq!(get.answer(), Some(Answer::Payload("4hello".into())));
    assert!(harness.closed().is_empty());
}

#[test]
fn a_probe_whose_client_waits_for_the_answer_to_its_post_has_its_time_from_then_on() {
    for is_held in [true, false] {
        let Changing {
            mut harness,
            slot,
            session,
            mut peer,
        } = probed();
        let posting = harness.post_begins(session);
        let early = is_held.then(|| harness.post_body(session, &posting, b"4pause\x1e4posted"));
        harness.run(seconds(19));
        assert_eq!(peer.read(), []);
        let mut post = early.unwrap_or_else(|| harness.post_body(session, &posting, b"4posted"));
        harness.settle();
        harness.engine().resume(slot);
        harness.settle();
        assert_eq!(post.answer(), Some(Answer::Accepted));
        harness.run(seconds(9));
        peer.text("5");
        peer.text("4behind");
        harness.settle();
        let heard = harness.heard();
        assert_eq!(heard[heard.len() - 2..], ["posted", "behind"]);
        assert_eq!(harness.app().upgraded, [slot]);
        assert!(harness.closed().is_empty());
    }
    // That it does not come is found out behind an answer as well.
    let Changing {
        mut harness,
        session,
        mut peer,
        ..
    } = probed();
    harness.run(seconds(5));
    harness.post(session, "4posted");
    harness.run(seconds(10) - ms(10));
    assert_eq!(peer.read(), []);
    harness.run(ms(20));
    assert_eq!(peer.read(), [Told::End]);
}

#[test]
fn a_probe_that_says_anything_else_is_dropped_and_polling_goes_on() {
    for says in ["2prob", "5", "4hello", "2probe2probe", ""] {
        let mut harness = harness(settings());
        let session = harness.polling();
        let mut get = harness.get(session);
        let mut peer = harness.upgrade(session, Opening::engineio());
        peer.text(says);
        harness.settle();
        assert_eq!(peer.read(), [Told::End], "{says}");
        assert_eq!(get.answer(), None);
        // Another may try.
        let mut peer = harness.upgrade(session, Opening::engineio());
        peer.text("2probe");
        harness.settle();
        assert_eq!(peer.read(), texts(&["3probe"]));
        assert!(harness.heard().is_empty());
    }
}

#[test]
fn a_second_probe_beside_the_first_is_sent_away() {
    let Changing {
        mut harness,
        session,
        mut peer,
        ..
    } = probed();
    let mut second = harness.upgrade(session, Opening::engineio());
    second.text("2probe");
    harness.settle();
    assert_eq!(second.read(), [Told::Close(1000), Told::End]);
    peer.text("5");
    peer.text("4hello");
    harness.settle();
    assert_eq!(harness.heard(), ["hello"]);
}

#[test]
fn who_is_closed_during_an_upgrade_hears_the_last_of_it_on_the_websocket() {
    let Changing {
        mut harness,
        slot,
        mut peer,
        ..
    } = probed();
    say(harness.engine(), slot, "last words");
    harness.engine().close(slot, Reason::Drained);
    harness.settle();
    assert_eq!(peer.read(), []);
    peer.text("5");
    harness.settle();
    assert_eq!(peer.read(), [Told::text("4last words"), Told::Close(1001)]);
    assert_eq!(harness.closed(), [(slot, Reason::Drained)]);
    assert!(harness.app().upgraded.is_empty());
    peer.close(1001);
    harness.settle();
    assert_eq!(harness.slots().total(), 0);
}

#[test]
fn who_is_closed_in_the_moment_of_an_upgrade_ends_as_a_websocket_of_which_the_app_was_told() {
    let Changing {
        mut harness,
        slot,
        mut peer,
        ..
    } = probed();
    harness.engine().close(slot, Reason::Kicked);
    peer.text("5");
    harness.settle();
    assert_eq!(peer.read(), [Told::Close(4403)]);
    assert_eq!(harness.closed(), [(slot, Reason::Kicked)]);
    assert_eq!(harness.app().upgraded, [slot]);
    assert_eq!(harness.app().travelled, [TransportName::WebSocket]);
}

#[test]
fn a_session_that_has_ended_is_upgraded_no_more() {
    let mut harness = harness(settings());
    let session = harness.polling();
    let slot = harness.app().opened[0];
    let get = harness.get(session);
    let mut peer = harness.upgrade(session, Opening::engineio());
    harness.settle();
    // It ends in the turn's last part: the app hears of that in the next.
    drop(get);
    say(harness.engine(), slot, "hello");
    harness.turn();
    assert_eq!(harness.closed(), []);
    peer.text("2probe");
    peer.text("5");
    harness.settle();
    assert_eq!(peer.read(), [Told::End]);
    assert_eq!(harness.closed(), [(slot, Reason::TransportClosed)]);
    assert_eq!(harness.app().travelled, [TransportName::Polling]);
    assert_eq!(harness.app().upgraded, []);
    assert_eq!(harness.slots().total(), 0);
}

#[test]
fn who_is_closed_during_an_upgrade_has_five_seconds_to_answer_on_the_websocket() {
    let Changing {
        mut harness,
        slot,
        mut peer,
        ..
    } = probed();
    harness.engine().close(slot, Reason::Drained);
    harness.settle();
    peer.text("5");
    harness.run(seconds(4) + ms(990));
    assert_eq!(peer.read(), [Told::Close(1001)]);
    harness.run(ms(20));
    assert_eq!(peer.read(), [Told::End]);
    assert_eq!(harness.slots().total(), 0);
}

#[test]
fn a_session_that_is_upgraded_needs_no_http_any_more() {
    let Changing {
        mut harness,
        mut peer,
        ..
    } = probed();
    let slots = harness.slots().clone();
    let mut no_polling = std::pin::pin!(slots.no_polling());
    let mut context = Context::from_waker(Waker::noop());
    assert!(no_polling.as_mut().poll(&mut context).is_pending());
    peer.text("5");
    harness.settle();
    assert!(no_polling.as_mut().poll(&mut context).is_ready());
}

#[test]
fn who_goes_during_an_upgrade_leaves_the_polling_session() {
    let Changing {
        mut harness,
        session,
        peer,
        ..
    } = probed();
    drop(peer);
    harness.settle();
    assert!(harness.exists(session));
    assert!(harness.closed().is_empty());
}

#[test]
fn an_upgraded_session_is_pinged_on_its_websocket_in_its_old_rhythm() {
    let Changing {
        mut harness,
        mut peer,
        ..
    } = probed();
    harness.run(seconds(5));
    peer.text("5");
    harness.settle();
    harness.run(seconds(19) + ms(990));
    assert_eq!(peer.read(), []);
    harness.run(ms(18));
    assert_eq!(peer.read(), texts(&["2"]));
}

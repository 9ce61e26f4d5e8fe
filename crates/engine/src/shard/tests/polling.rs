//! Sessions over HTTP long-polling.

use heartline_wire::engineio::RequestError;
use heartline_wire::id::Slot;

use super::*;
use crate::harness::{Asked, Session};
use crate::shard::outbound::ConflationKey;

fn payload(text: &str) -> Option<Answer> {
    Some(Answer::Payload(text.into()))
}

impl Harness<Recorder> {
    /// A polling session and its slot.
    fn poller(&mut self) -> (Slot, Session) {
        let session = self.polling();
        (*self.app().opened.last().unwrap(), session)
    }

    /// The answer to a request, if there is one when all is done.
    fn settled(&mut self, mut asked: Asked) -> Option<Answer> {
        self.settle();
        asked.answer()
    }
}

#[test]
fn a_get_waits_until_there_is_something_to_say() {
    let mut harness = harness(settings());
    let (slot, session) = harness.poller();
    let mut get = harness.get(session);
    harness.run(seconds(10));
    assert_eq!(get.answer(), None);
    say(harness.engine(), slot, "one");
    say(harness.engine(), slot, "two");
    harness.turn();
    assert_eq!(get.answer(), payload("4one\u{1e}4two"));
}

#[test]
fn what_is_said_between_two_gets_waits_for_the_second() {
    let mut harness = harness(settings());
    let (slot, session) = harness.poller();
    say(harness.engine(), slot, "one");
    harness.settle();
    publish(harness.engine(), &[slot], "two");
    harness.settle();
    let get = harness.get(session);
    assert_eq!(harness.settled(get), payload("4one\u{1e}4two"));
    let get = harness.get(session);
    assert_eq!(harness.settled(get), None);
}

#[test]
fn of_what_waits_for_a_poll_only_the_newest_of_a_key_is_kept() {
    let mut harness = harness(settings());
    let (slot, session) = harness.poller();
    let position = |scope| ConflationKey {
        scope,
        key: "x".into(),
    };
    let publish = |harness: &mut Harness<Recorder>, scope, text| {
        let engine = harness.engine();
        let frames = Frames::from(frame_for(engine, slot, text));
        engine.send_keyed(slot, &position(scope), &frames);
        harness.turn();
    };
    for text in ["one", "two", "three"] {
        publish(&mut harness, 1, text);
    }
    publish(&mut harness, 2, "elsewhere");
    let get = harness.get(session);
    assert_eq!(harness.settled(get), payload("4three\u{1e}4elsewhere"));
    // Who waits gets each.
    for text in ["four", "five"] {
        let mut get = harness.get(session);
        harness.turn();
        publish(&mut harness, 1, text);
        assert_eq!(get.answer(), payload(&format!("4{text}")));
    }
    assert_eq!(harness.engine().stats.conflated, 2);
}

#[test]
fn two_gets_at_once_end_the_session() {
    let mut harness = harness(settings());
    let (slot, session) = harness.poller();
    let mut first = harness.get(session);
    harness.settle();
    let second = harness.get(session);
    assert_eq!(harness.settled(second), Some(Answer::Status(400)));
    assert_eq!(first.answer(), payload("1"));
    assert_eq!(harness.closed(), [(slot, Reason::TransportError)]);
    let get = harness.get(session);
    assert_eq!(
        harness.settled(get),
        Some(Answer::Error(RequestError::UnknownSid))
    );
    assert_eq!(harness.slots().total(), 0);
}

#[test]
fn the_packets_of_a_post_are_heard_in_order_and_then_it_is_answered() {
    let mut harness = harness(settings());
    let (_, session) = harness.poller();
    let mut get = harness.get(session);
    let post = harness.post(session, "4echo one\u{1e}bAQID\u{1e}4echo two");
    assert_eq!(harness.settled(post), Some(Answer::Accepted));
    assert_eq!(harness.heard(), ["echo one", "[1, 2, 3]", "echo two"]);
    assert_eq!(get.answer(), payload("4one\u{1e}4two"));
}

#[test]
fn a_post_that_is_paused_in_the_middle_is_answered_when_all_of_it_is_heard() {
    let mut harness = harness(settings());
    let (slot, session) = harness.poller();
    let mut post = harness.post(session, "4pause\u{1e}4two\u{1e}4pause\u{1e}4three");
    harness.settle();
    assert_eq!(
        (post.answer(), harness.heard()),
        (None, vec!["pause".into()])
    );
    harness.engine().resume(slot);
    harness.settle();
    assert_eq!(post.answer(), None);
    assert_eq!(harness.heard(), ["two", "pause"]);
    harness.engine().resume(slot);
    harness.settle();
    assert_eq!(post.answer(), Some(Answer::Accepted));
    assert_eq!(harness.heard(), ["three"]);
}

#[test]
fn a_post_beside_one_that_is_held_ends_the_session() {
    let mut harness = harness(settings());
    let (slot, session) = harness.poller();
    let mut held = harness.post(session, "4pause\u{1e}4two");
    harness.settle();
    let mut second = harness.post_begins(session);
    harness.settle();
    assert_eq!(second.start(), Some(Err(Answer::Status(400))));
    assert_eq!(held.answer(), Some(Answer::Ended));
    assert_eq!(harness.closed(), [(slot, Reason::TransportError)]);
    assert_eq!(harness.heard(), ["pause"]);
}

#[test]
fn a_payload_over_the_bound_costs_its_post_and_not_the_session() {
    let mut harness = harness(settings());
    let (_, session) = harness.poller();
    let mut posting = harness.post_begins(session);
    harness.settle();
    assert_eq!(posting.start(), Some(Ok(())));
    harness.post_refused(session, &posting);
    let late = harness.post_body(session, &posting, b"4late");
    assert_eq!(harness.settled(late), Some(Answer::Status(400)));
    let post = harness.post(session, "4hello");
    assert_eq!(harness.settled(post), Some(Answer::Accepted));
    assert_eq!(harness.heard(), ["hello"]);
    assert!(harness.closed().is_empty());
}

#[test]
fn a_body_that_is_no_payload_ends_the_session() {
    for body in [&b"4fine\x1e9"[..], b"", b"4\xff", b"4fine\x1e"] {
        let mut harness = harness(settings());
        let (slot, session) = harness.poller();
        let posting = harness.post_begins(session);
        let post = harness.post_body(session, &posting, body);
        assert_eq!(harness.settled(post), Some(Answer::Status(400)));
        assert_eq!(harness.closed(), [(slot, Reason::ProtocolViolation)]);
        assert_eq!(harness.slots().total(), 0);
    }
}

#[test]
fn a_request_whose_connection_goes_away_takes_its_session_with_it() {
    let mut harness = harness(settings());
    let (slot, session) = harness.poller();
    let get = harness.get(session);
    harness.settle();
    harness.abort(session, get);
    harness.settle();
    assert_eq!(harness.closed(), [(slot, Reason::TransportClosed)]);
    let (slot, session) = harness.poller();
    let posting = harness.post_begins(session);
    harness.settle();
    harness.abort_post(session, &posting);
    harness.settle();
    assert_eq!(harness.closed(), [(slot, Reason::TransportClosed)]);
    assert_eq!(harness.slots().total(), 0);
}

#[test]
fn a_request_that_goes_away_after_its_answer_changes_nothing() {
    let mut harness = harness(settings());
    let (slot, session) = harness.poller();
    let mut get = harness.get(session);
    say(harness.engine(), slot, "one");
    harness.settle();
    assert_eq!(get.answer(), payload("4one"));
    harness.abort(session, get);
    harness.settle();
    assert!(harness.closed().is_empty() && harness.exists(session));
}

#[test]
fn an_answer_that_nobody_takes_ends_the_session_as_there_is_a_hole_in_it() {
    let mut harness = harness(settings());
    let (slot, session) = harness.poller();
    drop(harness.get(session));
    harness.settle();
    say(harness.engine(), slot, "lost");
    harness.settle();
    assert_eq!(harness.closed(), [(slot, Reason::TransportClosed)]);
}

#[test]
fn who_is_closed_while_a_get_waits_hears_the_events_in_it_and_the_close_in_the_next() {
    let mut harness = harness(settings());
    let (slot, session) = harness.poller();
    let mut get = harness.get(session);
    harness.settle();
    say(harness.engine(), slot, "last words");
    harness.engine().close(slot, Reason::Kicked);
    harness.settle();
    assert_eq!(get.answer(), payload("4last words"));
    assert_eq!(harness.closed(), [(slot, Reason::Kicked)]);
    assert!(harness.exists(session));
    let get = harness.get(session);
    assert_eq!(harness.settled(get), payload("1"));
    assert!(!harness.exists(session));
    assert_eq!(harness.slots().total(), 0);
}

#[test]
fn a_post_to_who_is_closed_is_told_so_and_the_last_words_can_still_be_had() {
    let unknown = Answer::Error(RequestError::UnknownSid);
    let mut harness = harness(settings());
    let (slot, session) = harness.poller();
    let half = harness.post_begins(session);
    harness.settle();
    say(harness.engine(), slot, "last words");
    harness.engine().close(slot, Reason::RateLimited);
    harness.settle();
    for _ in 0..3 {
        let mut post = harness.post_begins(session);
        harness.settle();
        assert_eq!(post.start(), Some(Err(unknown.clone())));
    }
    // One whose body was on its way is not heard either.
    let late = harness.post_body(session, &half, b"4late");
    assert_eq!(harness.settled(late), Some(unknown));
    for expected in ["4last words", "1"] {
        let get = harness.get(session);
        assert_eq!(harness.settled(get), payload(expected));
    }
    assert!(harness.heard().is_empty() && !harness.exists(session));
    assert_eq!(harness.closed(), [(slot, Reason::RateLimited)]);
}

#[test]
fn a_post_to_who_is_closed_for_good_is_accepted_until_the_last_words_are_had() {
    let last = |harness: &mut Harness<Recorder>, slot| {
        say(harness.engine(), slot, "last words");
        harness.engine().close(slot, Reason::Replaced);
        harness.settle();
    };
    // One that is new, and one whose body was on its way.
    let mut harness = harness(settings());
    let (slot, session) = harness.poller();
    let mut half = harness.post_begins(session);
    harness.settle();
    assert_eq!(half.start(), Some(Ok(())));
    assert_eq!(half.answer(), None);
    last(&mut harness, slot);
    assert_eq!(half.answer(), Some(Answer::Accepted));
    let late = harness.post_body(session, &half, b"4late");
    assert_eq!(harness.settled(late), Some(Answer::Accepted));
    let accepted = |harness: &mut Harness<Recorder>| {
        let mut post = harness.post_begins(session);
        harness.settle();
        assert_eq!(post.start(), Some(Err(Answer::Accepted)));
    };
    accepted(&mut harness);
    let get = harness.get(session);
    assert_eq!(harness.settled(get), payload("4last words"));
    // The words may still be on their way to it.
    accepted(&mut harness);
    let get = harness.get(session);
    assert_eq!(harness.settled(get), payload("1"));
    assert!(harness.heard().is_empty() && !harness.exists(session));
    // One that is held.
    let (slot, session) = harness.poller();
    let mut held = harness.post(session, "4pause\u{1e}4more");
    harness.settle();
    last(&mut harness, slot);
    assert_eq!(held.answer(), Some(Answer::Accepted));
    assert_eq!(harness.heard(), ["pause"]);
    for expected in ["4last words", "1"] {
        let get = harness.get(session);
        assert_eq!(harness.settled(get), payload(expected));
    }
    assert_eq!(harness.slots().total(), 0);
}

#[test]
fn who_is_closed_between_two_gets_has_thirty_seconds_to_hear_of_it() {
    for comes in [true, false] {
        let mut harness = harness(settings());
        let (slot, session) = harness.poller();
        harness.engine().close(slot, Reason::Kicked);
        harness.run(seconds(29) + ms(980));
        assert!(harness.exists(session));
        if comes {
            let get = harness.get(session);
            assert_eq!(harness.settled(get), payload("1"));
        } else {
            harness.run(ms(30));
        }
        assert!(!harness.exists(session));
        assert_eq!(harness.slots().total(), 0);
    }
}

#[test]
fn who_is_drained_hears_the_events_and_is_then_unknown() {
    let unknown = Some(Answer::Error(RequestError::UnknownSid));
    for waits in [true, false] {
        let mut harness = harness(settings());
        let (slot, session) = harness.poller();
        let mut get = waits.then(|| harness.get(session));
        harness.settle();
        say(harness.engine(), slot, "last words");
        harness.engine().close(slot, Reason::Drained);
        harness.settle();
        let mut get = get.take().unwrap_or_else(|| harness.get(session));
        harness.settle();
        assert_eq!(get.answer(), payload("4last words"));
        let get = harness.get(session);
        assert_eq!(harness.settled(get), unknown);
        assert_eq!(harness.closed(), [(slot, Reason::Drained)]);
        assert_eq!(harness.slots().total(), 0);
    }
}

#[test]
fn who_is_drained_and_has_nothing_to_hear_is_unknown_at_once() {
    let unknown = Some(Answer::Error(RequestError::UnknownSid));
    let mut harness = harness(settings());
    let (waiting, session) = harness.poller();
    let mut get = harness.get(session);
    harness.settle();
    harness.engine().close(waiting, Reason::Drained);
    harness.settle();
    assert_eq!(get.answer(), unknown);
    let (slot, session) = harness.poller();
    harness.engine().close(slot, Reason::Drained);
    harness.settle();
    assert!(!harness.exists(session));
    assert_eq!(harness.slots().total(), 0);
}

#[test]
fn who_cannot_be_let_in_just_now_gets_503_in_whatever_request_waits() {
    let later = Some(Answer::Status(503));
    let close =
        |engine: &mut Engine, slot| engine.close_with(slot, Reason::AuthFailed, 1013, "LATER");
    // A GET that waits, and a POST that is held until it is known who is there.
    let mut harness = harness(settings());
    let (slot, session) = harness.poller();
    let mut get = harness.get(session);
    let mut post = harness.post(session, "4pause\u{1e}4more");
    harness.settle();
    close(harness.engine(), slot);
    harness.settle();
    assert_eq!(
        (get.answer(), post.answer()),
        (later.clone(), later.clone())
    );
    assert!(!harness.exists(session));
    // A GET that comes afterwards.
    let (slot, session) = harness.poller();
    close(harness.engine(), slot);
    harness.settle();
    let get = harness.get(session);
    assert_eq!(harness.settled(get), later);
    assert!(!harness.exists(session));
    assert_eq!(harness.slots().total(), 0);
}

#[test]
fn a_client_that_says_close_has_its_get_let_go() {
    let mut harness = harness(settings());
    let (slot, session) = harness.poller();
    let mut get = harness.get(session);
    let post = harness.post(session, "4hello\u{1e}1");
    assert_eq!(harness.settled(post), Some(Answer::Accepted));
    assert_eq!(get.answer(), payload("6"));
    assert_eq!(harness.closed(), [(slot, Reason::ClientLeft)]);
    assert_eq!(harness.heard(), ["hello"]);
}

#[test]
fn a_poller_who_stays_away_too_long_for_what_is_sent_is_a_slow_consumer() {
    let mut harness = harness(Settings {
        send_buffer: 1000,
        ..settings()
    });
    let (slot, session) = harness.poller();
    say(harness.engine(), slot, &"x".repeat(900));
    harness.settle();
    assert!(harness.closed().is_empty());
    say(harness.engine(), slot, &"x".repeat(900));
    harness.settle();
    assert_eq!(harness.closed(), [(slot, Reason::SlowConsumer)]);
    let get = harness.get(session);
    assert_eq!(harness.settled(get), payload("1"));
}

#[test]
fn a_session_that_is_over_or_another_in_its_place_answers_to_its_own_name_alone() {
    let mut harness = harness(settings());
    let (slot, first) = harness.poller();
    harness.post(first, "1");
    harness.settle();
    let (again, second) = harness.poller();
    assert_eq!(slot, again);
    assert!(!harness.exists(first) && harness.exists(second));
    let mut guessed = second;
    guessed.name.secret[11] ^= 1;
    for wrong in [first, guessed] {
        let get = harness.get(wrong);
        let unknown = Answer::Error(RequestError::UnknownSid);
        assert_eq!(harness.settled(get), Some(unknown));
    }
}

#[test]
fn a_websocket_session_answers_no_polling_requests() {
    let mut harness = harness(settings());
    let mut peer = harness.websocket(Opening::engineio());
    harness.settle();
    let told = peer.read();
    let [Told::Text(open)] = &told[..] else {
        panic!("{told:?}");
    };
    let session = Session::of(open);
    let get = harness.get(session);
    let bad = Some(Answer::Error(RequestError::BadRequest));
    assert_eq!(harness.settled(get), bad);
    let post = harness.post(session, "4hello");
    assert_eq!(harness.settled(post), bad);
    assert!(harness.heard().is_empty() && harness.closed().is_empty());
}

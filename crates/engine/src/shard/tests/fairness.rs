//! A turn is bounded, and one large room keeps nobody else waiting.

use std::sync::{Mutex, MutexGuard, PoisonError};

use heartline_wire::id::Slot;

use super::*;
use crate::shard::WAKER;
use crate::shard::mailbox::HIGH;
use crate::shard::turn::{EVENTS, GIVEN_PER_TURN, ROUNDS, Readiness};
use crate::shard::writes::{LONG, SLICE};

/// One large room at a time: each of its members takes two descriptors.
static ROOM: Mutex<()> = Mutex::new(());

struct Room {
    harness: Harness<Recorder>,
    slots: Vec<Slot>,
    peers: Vec<Peer>,
    _alone: MutexGuard<'static, ()>,
}

/// As many members as there may be descriptors for, 2 000 at most.
fn room() -> Room {
    let alone = ROOM.lock().unwrap_or_else(PoisonError::into_inner);
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let open_files = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"))
        .and_then(|line| line.split_whitespace().next()?.parse().ok())
        .unwrap_or(1024_usize);
    let members = (open_files.saturating_sub(400) / 2).min(2000);
    assert!(members > 4 * SLICE, "too few descriptors for a room");
    let mut harness = harness(settings());
    let mut peers: Vec<_> = (0..members)
        .map(|_| {
            harness.websocket(Opening {
                counts_writes: true,
                ..Opening::plain()
            })
        })
        .collect();
    harness.settle();
    assert!(peers.iter_mut().all(|peer| peer.read().is_empty()));
    Room {
        slots: std::mem::take(&mut harness.app().opened),
        harness,
        peers,
        _alone: alone,
    }
}

impl Room {
    /// Publishes from another thread.
    fn publish(&self, text: &'static str) {
        let slots = self.slots.clone();
        self.harness
            .post_order(move |engine, _| publish(engine, &slots, text));
    }

    /// The same, and the turn that hears of it: the next one begins to write.
    fn publish_and_hear(&mut self, text: &'static str) {
        self.publish(text);
        self.harness.turn();
    }

    /// How many have been written to, of those that are not read meanwhile.
    fn written(&mut self) -> usize {
        let read = self.peers.iter_mut().map(Peer::read);
        read.filter(|told| !told.is_empty()).count()
    }
}

#[test]
fn an_answer_leaves_in_the_turn_that_begins_a_publication_to_a_large_room() {
    let mut room = room();
    let (_, mut other) = room.harness.join(Opening::plain());
    room.publish("to all");
    other.text("echo hello");
    let turned = room.harness.turn();
    assert_eq!(other.read(), texts(&["hello"]));
    assert_eq!(turned.until, Some(room.harness.now()));
    let turned = room.harness.turn();
    assert_eq!(room.written(), SLICE);
    assert_eq!(turned.in_line, room.slots.len() - SLICE);
    assert_eq!(turned.until, Some(room.harness.now()));
}

#[test]
fn a_member_who_pings_meanwhile_is_answered_before_the_others_are_written_to() {
    let mut room = room();
    let mut last = room.peers.pop().unwrap();
    room.publish_and_hear("to all");
    room.harness.turn();
    last.ping(b"?");
    room.harness.turn();
    // In the order in which they were sent, and in one write.
    assert_eq!(last.read(), [Told::text("to all"), Told::Pong(b"?".into())]);
    assert_eq!(last.chunks(), 1);
    assert_eq!(room.written(), 2 * SLICE);
    room.harness.settle();
    assert_eq!(last.read(), []);
    assert_eq!(room.written(), room.peers.len() - 2 * SLICE);
}

#[test]
fn a_ping_never_waits_for_more_than_a_slice_however_much_is_published() {
    let mut room = room();
    let (_, mut other) = room.harness.join(Opening::plain());
    room.publish_and_hear("to all");
    // More is published than can be written between two pings.
    for _ in 0..20 {
        room.publish("to all");
        room.publish("to all again");
        other.ping(b"?");
        room.harness.turn();
        assert_eq!(other.read(), [Told::Pong(b"?".into())]);
        assert_eq!(room.written(), SLICE);
    }
}

#[test]
fn deadlines_and_the_mailbox_have_their_turn_between_two_slices() {
    let mut room = room();
    room.publish_and_hear("to all");
    let deadline = room.harness.now() + ms(50);
    let last = *room.slots.last().unwrap();
    room.harness.engine().set_app_deadline(last, deadline);
    room.harness.turn();
    assert!(room.harness.app().due.is_empty());
    room.harness.advance(ms(60));
    room.harness
        .post_order(|_, app| app.heard.push("asked".into()));
    let turned = room.harness.turn();
    let now = room.harness.now();
    assert_eq!(room.harness.app().due, [(last, now)]);
    assert_eq!(room.harness.heard(), ["asked"]);
    assert_eq!(turned.in_line, room.slots.len() - 2 * SLICE);
}

#[test]
fn what_is_published_right_after_leaves_in_the_same_writes() {
    let mut room = room();
    let twice = [("first", "second"), ("third", "fourth")];
    for (round, (text, again)) in twice.into_iter().enumerate() {
        room.publish_and_hear(text);
        room.publish(again);
        room.harness.settle();
        for peer in &mut room.peers {
            assert_eq!(peer.texts(), [text, again]);
            assert_eq!(peer.chunks(), round + 1);
        }
    }
}

#[test]
fn a_short_line_leaves_in_the_turn_that_hears_of_it() {
    let mut room = room();
    room.slots.truncate(LONG - 1);
    room.publish_and_hear("to some");
    assert_eq!(room.written(), LONG - 1);
}

#[test]
fn who_still_waits_gets_the_next_publication_in_the_same_write() {
    let mut room = room();
    room.publish_and_hear("first");
    room.harness.turn();
    room.publish("second");
    room.harness.settle();
    let mut writes = [0; 3];
    for peer in &mut room.peers {
        assert_eq!(peer.texts(), ["first", "second"]);
        writes[peer.chunks()] += 1;
    }
    assert_eq!(writes, [0, room.slots.len() - SLICE, SLICE]);
}

#[test]
fn those_who_were_left_come_before_those_who_are_new_in_line() {
    let mut room = room();
    room.publish_and_hear("first");
    room.harness.turn();
    room.publish("second");
    room.harness.turn();
    for (number, peer) in room.peers.iter_mut().enumerate().take(3 * SLICE) {
        let expected: &[&str] = match number / SLICE {
            0 => &["first"],
            1 => &["first", "second"],
            _ => &[],
        };
        assert_eq!(peer.texts(), expected);
    }
}

#[test]
fn a_turn_writes_to_a_slice_of_each_queue_and_no_more() {
    let mut room = room();
    for &slot in &room.slots[..2 * SLICE] {
        say(room.harness.engine(), slot, "own");
    }
    let many = room.slots[2 * SLICE..].to_vec();
    publish(room.harness.engine(), &many, "to many");
    room.harness.turn();
    assert_eq!(room.written(), 2 * SLICE);
    room.harness.turn();
    assert_eq!(room.written(), 2 * SLICE);
    room.harness.turn();
    assert_eq!(room.written(), SLICE.min(many.len() - 2 * SLICE));
}

#[test]
fn members_who_were_written_to_out_of_turn_cost_the_others_nothing() {
    let mut room = room();
    publish(room.harness.engine(), &room.slots, "to all");
    for &slot in &room.slots[..SLICE] {
        say(room.harness.engine(), slot, "own");
    }
    room.harness.turn();
    assert_eq!(room.written(), 2 * SLICE);
}

#[test]
fn one_who_is_sent_very_much_at_once_takes_one_place_in_line() {
    let mut harness = harness(Settings {
        send_buffer: 10_000,
        ..settings()
    });
    let (slot, mut busy) = harness.join(Opening::plain());
    let (other, mut patient) = harness.join(Opening::plain());
    let engine = harness.engine();
    for _ in 0..1000 {
        say(engine, slot, &"x".repeat(6000));
        busy.read();
    }
    say(engine, other, "hello");
    let turned = harness.turn();
    assert_eq!(patient.read(), texts(&["hello"]));
    assert_eq!(turned.in_line, 0);
    assert!(harness.closed().is_empty());
}

#[test]
fn sockets_that_are_free_again_are_written_to_in_slices_too() {
    let mut harness = harness(settings());
    let (slots, mut peers): (Vec<_>, Vec<_>) = (0..2 * SLICE)
        .map(|_| {
            harness.join(Opening {
                kernel_buffer: Some(4096),
                ..Opening::plain()
            })
        })
        .unzip();
    publish(harness.engine(), &slots, &"x".repeat(100_000));
    harness.settle();
    let before: Vec<_> = peers
        .iter_mut()
        .map(|peer| {
            peer.read();
            peer.chunks()
        })
        .collect();
    harness.turn();
    let more = peers.iter_mut().zip(before).filter_map(|(peer, before)| {
        peer.read();
        (peer.chunks() > before).then_some(())
    });
    assert_eq!(more.count(), SLICE);
}

#[test]
fn what_answers_itself_through_the_mailbox_lets_output_leave_in_between() {
    fn again(engine: &mut Engine, app: &mut Recorder, handle: crate::shard::ShardHandle<Order>) {
        app.heard.push("round".into());
        say(engine, Slot(0), "round");
        let next = handle.clone();
        handle.post(Box::new(|engine, app| again(engine, app, next)), 0);
    }
    let mut harness = harness(settings());
    let (_, mut peer) = harness.join(Opening::plain());
    let handle = harness.handle();
    harness.post_order(|engine, app| again(engine, app, handle));
    let turned = harness.turn();
    assert_eq!(harness.heard().len(), ROUNDS);
    assert_eq!(peer.texts().len(), ROUNDS);
    assert_eq!(turned.until, Some(harness.now()));
}

/// Enough for several turns.
const MANY: usize = 200;

/// Publishes that often from another thread. Each is noted when that is done.
fn publish_many(room: &Room) {
    for number in 0..MANY {
        let slots = room.slots.clone();
        room.harness.post_order(move |engine, app| {
            publish(engine, &slots, &number.to_string());
            app.heard.push(number.to_string());
        });
    }
}

fn numbers() -> Vec<String> {
    (0..MANY).map(|number| number.to_string()).collect()
}

#[test]
fn publications_that_come_all_at_once_have_a_share_of_each_turn() {
    let mut room = room();
    let (_, mut other) = room.harness.join(Opening::plain());
    publish_many(&room);
    let share = GIVEN_PER_TURN.div_ceil(room.slots.len());
    assert!(3 * share < MANY);
    let mut done = Vec::new();
    while done.len() < MANY {
        other.ping(b"?");
        let turned = room.harness.turn();
        assert_eq!(other.read(), [Told::Pong(b"?".into())]);
        assert_eq!(turned.until, Some(room.harness.now()));
        let heard = room.harness.heard();
        assert_eq!(heard.len(), share.min(MANY - done.len()));
        done.extend(heard);
        // What is left waits where others look before they say that nothing does.
        assert_eq!(room.harness.handle().is_quiet(), done.len() == MANY);
    }
    assert_eq!(done, numbers());
    room.harness.settle();
    for peer in &mut room.peers {
        assert_eq!(peer.texts(), done);
    }
    assert!(room.harness.closed().is_empty());
}

#[test]
fn who_ends_while_publications_have_their_share_is_answered_first_and_kept_no_longer() {
    let mut room = room();
    let (slot, mut other) = room.harness.join(Opening::plain());
    publish_many(&room);
    room.harness
        .post_order(move |engine, _| say(engine, slot, "answer"));
    other.end();
    let mut turns = 0;
    while room.harness.closed().is_empty() {
        // There is always more for the next turn.
        if turns > 0 {
            publish_many(&room);
        }
        room.harness.turn();
        turns += 1;
        assert!(turns < MANY, "it is never over");
    }
    assert!(turns > 1);
    assert_eq!(other.read(), [Told::text("answer"), Told::End]);
}

#[test]
fn what_is_left_for_the_next_turn_counts_where_clients_wait_for_it() {
    let mut harness = harness(settings());
    harness.post_order(|engine, _| {
        let frames = Frames::from(Vec::new());
        for _ in 0..GIVEN_PER_TURN {
            engine.send(Slot(0), &frames);
        }
    });
    for _ in 0..HIGH {
        harness.post_order(|_, app| app.heard.push(String::new()));
    }
    harness.turn();
    assert!(harness.heard().is_empty());
    assert!(harness.handle().is_overloaded());
    harness.turn();
    assert_eq!(harness.heard().len(), HIGH);
    assert!(!harness.handle().is_overloaded() && harness.handle().is_quiet());
}

#[test]
fn a_full_list_of_events_is_no_proof_of_silence() {
    let mut harness = harness(settings());
    let event = Readiness {
        token: WAKER.0,
        readable: true,
        writable: false,
        ended: false,
    };
    let heard = |harness: &mut Harness<Recorder>, told: usize, at| {
        harness.turn_told(std::iter::repeat_n(event, told), at);
        harness.engine().heard_until
    };
    assert_eq!(
        heard(&mut harness, EVENTS - 1, Micros(5_000)),
        Micros(5_000)
    );
    assert_eq!(heard(&mut harness, EVENTS, Micros(6_000)), Micros(5_000));
    assert_eq!(heard(&mut harness, 0, Micros(7_000)), Micros(7_000));
}

#[test]
fn one_who_sends_without_end_is_read_a_bounded_number_of_times_a_turn() {
    let mut harness = harness(settings());
    let (slot, mut loud) = harness.join(Opening::plain());
    let mut frame = Vec::new();
    ws::push_masked_frame(
        OpCode::Text,
        &[b'x'; 1000],
        crate::harness::MASK,
        &mut frame,
    );
    let megabytes = frame.repeat(1000);
    let mut most = 0;
    for _ in 0..40 {
        // There is always more, and always an event that tells of it.
        while loud.unsent() < megabytes.len() {
            loud.raw(&megabytes);
        }
        harness.turn();
        most = most.max(harness.heard().len());
        loud.raw(&[]);
    }
    let bound = crate::shard::websocket::READS_PER_TURN * crate::shard::READ_BUFFER / frame.len();
    assert!(most > 0 && most <= bound + 1, "{most} messages in one turn");
    assert!(harness.engine().conn(slot).is_some());
}

#[test]
fn one_who_goes_on_sending_during_an_overload_is_remembered_once() {
    let mut harness = harness(settings());
    let (_, mut peer) = harness.join(Opening::plain());
    harness.app().overloaded = true;
    for number in 0..100 {
        peer.text(&number.to_string());
        harness.turn();
    }
    assert!(harness.heard().is_empty());
    assert_eq!(harness.engine().again.len(), 1);
    harness.app().overloaded = false;
    harness.settle();
    assert_eq!(harness.heard().len(), 100);
}

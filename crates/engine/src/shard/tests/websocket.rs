//! Frames in, frames out, and how a WebSocket ends.

use heartline_wire::ws::deflate::Deflater;

use super::*;
use crate::harness::MASK;
use crate::shard::ends::CLOSE_WAIT;

fn masked(opcode: OpCode, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    ws::push_masked_frame(opcode, payload, MASK, &mut frame);
    frame
}

/// A frame that is not the last of its message.
fn unfinished(opcode: OpCode, payload: &[u8]) -> Vec<u8> {
    let mut frame = masked(opcode, payload);
    frame[0] &= 0x7f;
    frame
}

#[test]
fn a_message_in_fragments_is_one_however_its_bytes_arrive() {
    let mut harness = harness(settings());
    let (_, mut peer) = harness.join(Opening::plain());
    let bytes = [
        unfinished(OpCode::Text, b"one "),
        masked(OpCode::Ping, b"between"),
        unfinished(OpCode::Continuation, b"message "),
        masked(OpCode::Continuation, b"in pieces"),
    ]
    .concat();
    for byte in bytes.chunks(1) {
        peer.raw(byte);
        harness.turn();
    }
    assert_eq!(harness.heard(), ["one message in pieces"]);
    assert_eq!(peer.read(), [Told::Pong(b"between".into())]);
}

#[test]
fn the_answers_to_what_came_in_one_read_leave_in_one_write() {
    let mut harness = harness(settings());
    let (_, mut peer) = harness.join(Opening {
        counts_writes: true,
        ..Opening::plain()
    });
    let bytes: Vec<_> = ["echo a", "echo b", "echo c"]
        .iter()
        .flat_map(|text| masked(OpCode::Text, text.as_bytes()))
        .collect();
    peer.raw(&bytes);
    harness.turn();
    assert_eq!(peer.texts(), ["a", "b", "c"]);
    assert_eq!(peer.chunks(), 1);
}

#[test]
fn http_has_the_first_word_and_what_it_read_too_much_is_heard_first() {
    let mut harness = harness(settings());
    let mut peer = harness.websocket(Opening {
        preface: b"HTTP/1.1 101 Switching Protocols\r\n\r\n".into(),
        leftover: masked(OpCode::Text, b"echo early"),
        counts_writes: true,
        ..Opening::plain()
    });
    peer.text("echo late");
    harness.turn();
    harness.settle();
    assert_eq!(harness.heard(), ["echo early", "echo late"]);
    assert_eq!(peer.texts(), ["early", "late"]);
}

#[test]
fn what_came_while_input_was_paused_is_heard_after_it_in_order() {
    let mut harness = harness(settings());
    let (slot, mut peer) = harness.join(Opening::plain());
    for text in ["first", "pause", "second", "pause", "third"] {
        peer.text(text);
    }
    harness.settle();
    peer.text("fourth");
    harness.settle();
    assert_eq!(harness.heard(), ["first", "pause"]);
    harness.engine().resume(slot);
    harness.settle();
    assert_eq!(harness.heard(), ["second", "pause"]);
    peer.text("fifth");
    harness.settle();
    assert!(harness.heard().is_empty());
    harness.engine().resume(slot);
    harness.settle();
    assert_eq!(harness.heard(), ["third", "fourth", "fifth"]);
}

#[test]
fn what_comes_just_when_input_goes_on_and_pauses_again_is_heard_as_well() {
    for overloaded in [false, true] {
        let mut harness = harness(settings());
        let (slot, mut peer) = harness.join(Opening::plain());
        peer.raw(
            &[
                masked(OpCode::Text, b"pause"),
                masked(OpCode::Text, b"pause"),
            ]
            .concat(),
        );
        harness.settle();
        harness.engine().resume(slot);
        peer.text("last");
        // The event that tells of it comes in the turn that hears the second pause.
        harness.app().overloaded = overloaded;
        harness.turn();
        harness.app().overloaded = false;
        harness.settle();
        harness.engine().resume(slot);
        harness.settle();
        assert_eq!(harness.heard(), ["pause", "pause", "last"]);
    }
}

#[test]
fn a_frame_that_is_half_there_when_input_pauses_is_heard_whole() {
    let mut harness = harness(settings());
    let (slot, mut peer) = harness.join(Opening::plain());
    let rest = masked(OpCode::Text, b"half and half");
    peer.raw(&[&masked(OpCode::Text, b"pause")[..], &rest[..9]].concat());
    harness.settle();
    peer.raw(&rest[9..]);
    harness.settle();
    harness.engine().resume(slot);
    harness.settle();
    assert_eq!(harness.heard(), ["pause", "half and half"]);
}

#[test]
fn who_leaves_while_their_input_is_paused_is_heard_to_the_end_first() {
    let mut harness = harness(settings());
    let (slot, mut peer) = harness.join(Opening::plain());
    peer.text("pause");
    peer.text("last words");
    drop(peer);
    harness.settle();
    assert!(harness.closed().is_empty());
    harness.engine().resume(slot);
    harness.settle();
    assert_eq!(harness.heard(), ["pause", "last words"]);
    assert_eq!(harness.closed(), [(slot, Reason::TransportClosed)]);
}

#[test]
fn what_was_said_before_broken_framing_is_answered_and_nothing_after_it() {
    let mut harness = harness(settings());
    let (slot, mut peer) = harness.join(Opening::plain());
    let unmasked = b"\x81\x02hi";
    let after = masked(OpCode::Text, b"echo after");
    peer.raw(&[&masked(OpCode::Text, b"echo before")[..], unmasked, &after].concat());
    harness.settle();
    assert_eq!(harness.heard(), ["echo before"]);
    let closed = [Told::text("before"), Told::Close(1002), Told::End];
    assert_eq!(peer.read(), closed);
    assert_eq!(harness.closed(), [(slot, Reason::ProtocolViolation)]);
    // The client goes on sending, and then ends the stream as well.
    peer.raw(&[0xff; 1000]);
    harness.settle();
    assert_eq!(harness.slots().total(), 1);
    drop(peer);
    harness.settle();
    assert_eq!(harness.slots().total(), 0);
}

#[test]
fn each_way_to_break_the_framing_has_its_code() {
    let big = Settings {
        max_payload: 100,
        ..settings()
    };
    let mut header = masked(OpCode::Text, &[b'x'; 101]);
    header.truncate(8);
    let cases: [(&[u8], u16, Reason); 4] = [
        (b"\x83\x80\x00\x00\x00\x00", 1002, Reason::ProtocolViolation),
        (
            &masked(OpCode::Text, b"\xff"),
            1007,
            Reason::ProtocolViolation,
        ),
        // Its header is enough.
        (&header, 1009, Reason::PayloadTooLarge),
        (
            &masked(OpCode::Continuation, b"of nothing"),
            1002,
            Reason::ProtocolViolation,
        ),
    ];
    let mut harness = harness(big);
    for (bytes, code, reason) in cases {
        let (slot, mut peer) = harness.join(Opening::plain());
        peer.raw(bytes);
        harness.settle();
        assert_eq!(peer.read(), [Told::Close(code), Told::End]);
        assert_eq!(harness.closed(), [(slot, reason)]);
    }
}

#[test]
fn who_breaks_the_framing_and_stays_is_gone_after_the_wait_for_a_close() {
    let mut harness = harness(settings());
    let (_, mut peer) = harness.join(Opening::plain());
    peer.raw(b"\x83\x80\x00\x00\x00\x00");
    harness.settle();
    harness.run(CLOSE_WAIT - ms(1));
    assert_eq!(harness.slots().total(), 1);
    harness.run(ms(10));
    assert_eq!(harness.slots().total(), 0);
}

#[test]
fn a_close_is_answered_with_its_code_behind_what_was_said_and_the_stream_ends() {
    let mut harness = harness(settings());
    let (slot, mut peer) = harness.join(Opening::plain());
    peer.text("echo bye");
    peer.close(4321);
    peer.text("echo too late");
    harness.settle();
    assert_eq!(
        peer.read(),
        [Told::text("bye"), Told::Close(4321), Told::End]
    );
    assert_eq!(harness.heard(), ["echo bye"]);
    assert_eq!(harness.closed(), [(slot, Reason::ClientLeft)]);
    assert_eq!(harness.slots().total(), 0);
}

#[test]
fn a_close_to_a_slow_reader_comes_behind_all_that_waits() {
    let mut harness = harness(settings());
    let (slot, mut peer) = harness.join(Opening {
        kernel_buffer: Some(4096),
        ..Opening::plain()
    });
    let long = "x".repeat(100_000);
    say(harness.engine(), slot, &long);
    harness.settle();
    peer.close(1000);
    harness.settle();
    assert_eq!(harness.closed(), [(slot, Reason::ClientLeft)]);
    let mut told = Vec::new();
    for _ in 0..1000 {
        told.extend(peer.read());
        harness.settle();
    }
    assert!(told == [Told::Text(long), Told::Close(1000), Told::End]);
    // The client ends the stream when it has read that.
    drop(peer);
    harness.settle();
    assert_eq!(harness.slots().total(), 0);
}

#[test]
fn who_is_closed_is_told_why_and_has_five_seconds_to_answer() {
    for answers in [true, false] {
        let mut harness = harness(settings());
        let (slot, mut peer) = harness.join(Opening::plain());
        peer.text("kick");
        peer.text("echo ignored");
        harness.settle();
        assert_eq!(harness.closed(), [(slot, Reason::Kicked)]);
        assert_eq!(peer.read(), [Told::Close(4403)]);
        assert_eq!(harness.slots().total(), 1);
        if answers {
            peer.close(4403);
            harness.settle();
        } else {
            harness.run(seconds(4) + ms(990));
            assert_eq!(peer.read(), []);
            harness.run(ms(20));
        }
        assert_eq!(peer.read(), [Told::End]);
        assert_eq!(harness.slots().total(), 0);
        assert!(harness.closed().is_empty());
    }
}

#[test]
fn what_is_left_of_a_full_read_is_read_when_input_goes_on() {
    let mut harness = harness(settings());
    let (slot, mut peer) = harness.join(Opening::plain());
    // The pause ends where the first read does.
    let pause = masked(OpCode::Text, b"pause");
    let filler = "x".repeat(crate::shard::READ_BUFFER - pause.len() - 8);
    let filler = masked(OpCode::Text, filler.as_bytes());
    let after = masked(OpCode::Text, b"after");
    peer.raw(&[filler, pause, after].concat());
    harness.settle();
    assert_eq!(harness.heard().len(), 2);
    harness.engine().resume(slot);
    harness.settle();
    assert_eq!(harness.heard(), ["after"]);
}

#[test]
fn who_broke_the_framing_and_left_while_paused_is_gone_at_once_when_that_is_read() {
    let mut harness = harness(settings());
    let (slot, mut peer) = harness.join(Opening::plain());
    peer.text("pause");
    peer.raw(b"\x83\x80\x00\x00\x00\x00");
    peer.end();
    harness.settle();
    harness.engine().resume(slot);
    harness.settle();
    assert_eq!(harness.closed().len(), 1);
    assert_eq!(harness.slots().total(), 0);
}

#[test]
fn one_who_says_goodbye_while_paused_and_is_closed_then_need_not_say_it_again() {
    let mut harness = harness(settings());
    let (slot, mut peer) = harness.join(Opening::plain());
    harness.engine().pause(slot);
    peer.close(1000);
    harness.settle();
    harness.engine().close(slot, Reason::Kicked);
    harness.settle();
    assert_eq!(peer.read(), [Told::Close(4403), Told::End]);
    drop(peer);
    harness.settle();
    assert_eq!(harness.slots().total(), 0);
}

#[test]
fn one_who_is_closed_while_paused_has_their_answer_heard() {
    let mut harness = harness(settings());
    let (slot, mut peer) = harness.join(Opening::plain());
    harness.engine().pause(slot);
    harness.engine().close(slot, Reason::Kicked);
    harness.settle();
    assert_eq!(peer.read(), [Told::Close(4403)]);
    peer.close(4403);
    harness.settle();
    assert_eq!(harness.slots().total(), 0);
}

#[test]
fn a_slow_consumer_is_told_so_behind_a_whole_frame() {
    let mut harness = harness(Settings {
        send_buffer: 100_000,
        ..settings()
    });
    let (slot, mut peer) = harness.join(Opening {
        kernel_buffer: Some(4096),
        ..Opening::plain()
    });
    let long = "x".repeat(30_000);
    while harness.closed().is_empty() {
        say(harness.engine(), slot, &long);
        harness.settle();
        // A burst would be borne with.
        harness.advance(ms(200));
    }
    // What begun to leave is whole, what had not is gone.
    let mut told = Vec::new();
    for _ in 0..100 {
        told.extend(peer.read());
        harness.settle();
    }
    assert!(told == [Told::Text(long), Told::Close(4413)]);
    peer.close(4413);
    harness.settle();
    assert_eq!(harness.slots().total(), 0);
}

#[test]
fn who_takes_no_more_is_not_asked_again_before_the_poller_says_that_they_do() {
    // Over the bound, and far from it.
    for send_buffer in [100_000, 1_000_000] {
        let mut harness = harness(Settings {
            send_buffer,
            ..settings()
        });
        let (slot, mut peer) = harness.join(Opening {
            kernel_buffer: Some(4096),
            ..Opening::plain()
        });
        let long = "x".repeat(30_000);
        for _ in 0..5 {
            say(harness.engine(), slot, &long);
            harness.settle();
        }
        let mut told = peer.read();
        let before = peer.chunks();
        for _ in 0..3 {
            say(harness.engine(), slot, &long);
            publish(harness.engine(), &[slot], &long);
            let now = harness.now();
            harness.turn_told(std::iter::empty(), now);
            assert!(peer.read().is_empty());
        }
        assert_eq!(peer.chunks(), before);
        for _ in 0..1000 {
            harness.settle();
            told.extend(peer.read());
        }
        assert!(told == vec![Told::Text(long); 11]);
        assert!(harness.closed().is_empty());
    }
}

#[test]
fn who_takes_more_of_which_the_poller_has_not_told_yet_is_no_slow_consumer() {
    let mut harness = harness(Settings {
        send_buffer: 100_000,
        ..settings()
    });
    let (slot, mut peer) = harness.join(Opening::plain());
    for _ in 0..2 {
        say(harness.engine(), slot, &"x".repeat(200_000));
    }
    for _ in 0..20 {
        peer.read();
        say(harness.engine(), slot, &"x".repeat(100_000));
    }
    harness.settle();
    assert!(harness.closed().is_empty());
}

#[test]
fn a_slow_consumer_who_reads_nothing_more_is_gone_after_fifteen_seconds() {
    let mut harness = harness(Settings {
        send_buffer: 100_000,
        ..settings()
    });
    let (slot, _peer) = harness.join(Opening {
        kernel_buffer: Some(4096),
        ..Opening::plain()
    });
    while harness.closed().is_empty() {
        say(harness.engine(), slot, &"x".repeat(30_000));
        harness.settle();
        harness.advance(ms(200));
    }
    harness.run(seconds(14));
    assert_eq!(harness.slots().total(), 1);
    harness.run(seconds(1) + ms(10));
    assert_eq!(harness.slots().total(), 0);
}

#[test]
fn one_large_message_alone_makes_nobody_a_slow_consumer() {
    let mut harness = harness(Settings {
        send_buffer: 1000,
        ..settings()
    });
    let (slot, mut peer) = harness.join(Opening {
        kernel_buffer: Some(4096),
        ..Opening::plain()
    });
    say(harness.engine(), slot, &"x".repeat(100_000));
    harness.run(seconds(10));
    let mut read = 0;
    for _ in 0..1000 {
        read += peer.read().len();
        harness.settle();
    }
    assert_eq!(read, 1);
    assert!(harness.closed().is_empty());
}

#[test]
fn large_messages_are_compressed_both_ways_where_that_was_agreed() {
    let mut harness = harness(Settings {
        compress_from: 100,
        ..settings()
    });
    let deflate = |deflate| Opening {
        deflate,
        ..Opening::plain()
    };
    let (a, mut with) = harness.join(deflate(Some(15)));
    let (b, mut small) = harness.join(deflate(Some(10)));
    let (c, mut without) = harness.join(deflate(None));
    let long = "to all ".repeat(100);
    publish(harness.engine(), &[a, b, c], &long);
    publish(harness.engine(), &[a, b, c], "short");
    harness.settle();
    for (peer, compressed) in [(&mut with, 1), (&mut small, 1), (&mut without, 0)] {
        assert_eq!(peer.texts(), [long.as_str(), "short"]);
        assert_eq!(peer.compressed(), compressed);
    }
    let mut frame = Vec::new();
    let echo = format!("echo {long}");
    Deflater::new(15).push_frame(OpCode::Text, echo.as_bytes(), &mut frame);
    with.raw(&mask(&frame));
    without.raw(&mask(&frame));
    harness.settle();
    assert_eq!(with.texts(), [long]);
    assert_eq!(without.read(), [Told::Close(1002), Told::End]);
}

#[test]
fn a_message_that_grows_beyond_the_bound_when_inflated_is_refused() {
    let mut harness = harness(settings());
    let (slot, mut peer) = harness.join(Opening {
        deflate: Some(15),
        ..Opening::plain()
    });
    let mut frame = Vec::new();
    Deflater::new(15).push_frame(OpCode::Text, &vec![b'x'; 1_000_001], &mut frame);
    peer.raw(&mask(&frame));
    harness.settle();
    assert_eq!(peer.read(), [Told::Close(1009), Told::End]);
    assert_eq!(harness.closed(), [(slot, Reason::PayloadTooLarge)]);
    assert!(harness.heard().is_empty());
}

#[test]
fn small_messages_that_grow_large_when_inflated_share_the_time_with_others() {
    let mut harness = harness(settings());
    let (_, mut peer) = harness.join(Opening {
        deflate: Some(15),
        ..Opening::plain()
    });
    let mut frame = Vec::new();
    Deflater::new(15).push_frame(OpCode::Text, &[b'x'; 100_000], &mut frame);
    peer.raw(&[mask(&frame).repeat(50), masked(OpCode::Text, b"last")].concat());
    let mut turns = Vec::new();
    while turns.iter().sum::<usize>() < 51 {
        harness.turn();
        turns.push(harness.heard().len());
        assert!(turns.len() < 100, "{turns:?}");
    }
    assert!(turns.iter().all(|&heard| heard <= 3), "{turns:?}");
    assert_eq!(turns[turns.len() - 1], 3);
}

/// A server's frame (of less than 64 KiB) as a client would send it.
fn mask(frame: &[u8]) -> Vec<u8> {
    let header = match frame[1] {
        126 => 4,
        _ => 2,
    };
    let mut masked = frame[..header].to_vec();
    masked[1] |= 0x80;
    masked.extend(MASK);
    let payload = frame[header..].iter().zip(MASK.iter().cycle());
    masked.extend(payload.map(|(byte, mask)| byte ^ mask));
    masked
}

#[test]
fn binary_comes_as_it_is_or_as_base64_where_that_was_asked() {
    for (base64, expected) in [
        (false, Told::Binary(vec![1, 2, 3])),
        (true, Told::text("bAQID")),
    ] {
        let mut harness = harness(settings());
        let (slot, mut peer) = harness.join(Opening {
            base64,
            ..Opening::engineio()
        });
        harness.engine().send_with(slot, |out| {
            ws::push_frame(OpCode::Binary, &[1, 2, 3], out);
        });
        peer.ping(b"?");
        peer.text("bAQID");
        harness.settle();
        assert_eq!(peer.read(), [expected, Told::Pong(b"?".into())]);
        assert_eq!(harness.heard(), ["[1, 2, 3]"]);
    }
}

#[test]
fn engineio_packets_that_no_client_sends_end_the_session() {
    for packet in ["2", "9", "", "bad", "\u{1e}"] {
        let mut harness = harness(settings());
        let (slot, mut peer) = harness.join(Opening::engineio());
        peer.text("4echo before");
        peer.text(packet);
        peer.text("4echo after");
        harness.settle();
        assert_eq!(peer.read(), [Told::text("4before"), Told::Close(1008)]);
        assert_eq!(harness.closed(), [(slot, Reason::ProtocolViolation)]);
    }
}

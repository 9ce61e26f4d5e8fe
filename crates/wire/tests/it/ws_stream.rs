//! The decoder and its caller: borrowing, limits, memory, chunks.

use heartline_wire::ws::{Decoder, Error, Message, OpCode, Role, push_masked_frame};
use proptest::prelude::*;

use crate::ws_conformance::{decode_in, frame, line};

#[test]
fn quiet_connections_cost_eight_bytes() {
    assert_eq!(size_of::<Decoder>(), 8);
}

/// A connection as the gateway keeps one.
struct Connection {
    decoder: Decoder,
    seen: Vec<String>,
}

impl Connection {
    fn read(&mut self, buffer: &mut [u8]) -> Result<(), Error> {
        let mut rest = &mut buffer[..];
        while let Some(message) = self.decoder.decode(&mut rest, Role::Server, 100)? {
            self.seen.push(line(&message));
        }
        Ok(())
    }
}

#[test]
fn several_messages_in_one_buffer() {
    let mut buffer = Vec::new();
    for text in ["one", "two", "three"] {
        push_masked_frame(OpCode::Text, text.as_bytes(), [1, 2, 3, 4], &mut buffer);
    }
    let tail = buffer.len() - 2;
    let mut connection = Connection {
        decoder: Decoder::default(),
        seen: Vec::new(),
    };
    connection.read(&mut buffer[..tail]).unwrap();
    assert_eq!(connection.seen, ["text one", "text two"]);
    assert_eq!(connection.decoder.buffered(), 3);
    assert!(!connection.decoder.is_idle() && connection.decoder.is_inside());
    connection.read(&mut buffer[tail..]).unwrap();
    assert_eq!(connection.seen.len(), 3);
    assert!(connection.decoder.is_idle() && !connection.decoder.is_inside());
    assert_eq!(connection.decoder.buffered(), 0);
}

#[test]
fn whole_messages_are_borrowed() {
    let mut buffer = frame(true, OpCode::Text, b"borrowed");
    let range = buffer.as_ptr_range();
    let mut decoder = Decoder::default();
    let mut rest = &mut buffer[..];
    let Ok(Some(Message::Text(text))) = decoder.decode(&mut rest, Role::Server, 100) else {
        panic!()
    };
    assert!(range.contains(&text.as_ptr()));
    assert!(decoder.is_idle());

    // And so is a ping between fragments.
    let mut buffer = [
        frame(false, OpCode::Text, b"a"),
        frame(true, OpCode::Ping, b"p"),
    ]
    .concat();
    let range = buffer.as_ptr_range();
    let mut rest = &mut buffer[..];
    let Ok(Some(Message::Ping(payload))) = decoder.decode(&mut rest, Role::Server, 100) else {
        panic!()
    };
    assert!(range.contains(&payload.as_ptr()));
    assert!(!decoder.is_idle() && decoder.is_inside());
    assert_eq!(decoder.buffered(), 1);
    // The rest comes in two parts, the first of them no more than a part of its header.
    let mut rest = frame(true, OpCode::Continuation, b"bc");
    let (mut some, mut others) = rest.split_at_mut(1);
    let none = decoder.decode(&mut some, Role::Server, 100);
    assert!(matches!(none, Ok(None)) && decoder.is_inside());
    let text = decoder.decode(&mut others, Role::Server, 100);
    assert!(matches!(text, Ok(Some(Message::Text("abc")))));
    // What is handed out has come.
    assert!(!decoder.is_inside() && !decoder.is_idle());
}

#[test]
fn limits() {
    let whole = |bytes: &[u8], max| {
        let results: Vec<_> = [bytes.len(), 1, 5]
            .map(|chunk| decode_in(chunk, bytes, max))
            .into_iter()
            .collect();
        assert!(results.windows(2).all(|pair| pair[0] == pair[1]));
        results[0].clone()
    };
    assert_eq!(whole(&frame(true, OpCode::Binary, &[0; 10]), 10).1, None);
    assert_eq!(
        whole(&frame(true, OpCode::Binary, &[0; 11]), 10).1,
        Some(Error::TooBig)
    );
    // The header is enough.
    let header = &frame(true, OpCode::Binary, &[0; 200])[..8];
    assert_eq!(whole(header, 199).1, Some(Error::TooBig));
    let claim = [
        0x82, 0xff, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0,
    ];
    assert_eq!(whole(&claim, 1 << 30).1, Some(Error::TooBig));
    // Fragments count together.
    let fragments = [
        frame(false, OpCode::Binary, &[0; 6]),
        frame(false, OpCode::Continuation, &[0; 4]),
        frame(true, OpCode::Continuation, &[0; 1]),
    ]
    .concat();
    assert_eq!(whole(&fragments, 11).1, None);
    assert_eq!(whole(&fragments, 10).1, Some(Error::TooBig));
    // Control frames do not.
    let ping = [
        frame(false, OpCode::Binary, &[0; 6]),
        frame(true, OpCode::Ping, &[b'p'; 100]),
        frame(true, OpCode::Continuation, &[0; 4]),
    ]
    .concat();
    assert_eq!(whole(&ping, 10).1, None);
    assert_eq!(whole(&ping, 0).1, Some(Error::TooBig));
    // The next message starts from zero.
    let twice = frame(true, OpCode::Binary, &[0; 10]).repeat(3);
    assert_eq!(whole(&twice, 10).0.len(), 3);
}

#[test]
fn claims_are_not_allocated() {
    let mut decoder = Decoder::default();
    // One gigabyte is claimed and allowed, three bytes have come.
    let mut bytes = vec![0x82, 0xff, 0, 0, 0, 0, 0x40, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3];
    let result = decoder.decode(&mut &mut bytes[..], Role::Server, 1 << 31);
    assert_eq!(result, Ok(None));
    assert_eq!(decoder.buffered(), 3);
}

#[test]
fn an_assembled_message_lives_until_the_next_call() {
    let bytes = frame(true, OpCode::Text, b"assembled");
    let mut decoder = Decoder::default();
    let (mut first, mut second) = (bytes[..9].to_vec(), bytes[9..].to_vec());
    assert_eq!(
        decoder.decode(&mut &mut first[..], Role::Server, 100),
        Ok(None)
    );
    let mut rest = &mut second[..];
    let message = decoder.decode(&mut rest, Role::Server, 100);
    assert_eq!(message, Ok(Some(Message::Text("assembled"))));
    assert_eq!(decoder.buffered(), 9);
    assert_eq!(decoder.decode(&mut rest, Role::Server, 100), Ok(None));
    assert_eq!(decoder.buffered(), 0);
    assert!(decoder.is_idle());
}

#[test]
fn an_error_frees_what_was_buffered() {
    let mut bytes = [
        frame(false, OpCode::Text, b"ab"),
        frame(true, OpCode::Text, b"c"),
    ]
    .concat();
    let mut decoder = Decoder::default();
    assert!(
        decoder
            .decode(&mut &mut bytes[..], Role::Server, 100)
            .is_err()
    );
    assert!(decoder.is_idle());
}

#[test]
fn no_input_is_no_message() {
    let mut decoder = Decoder::default();
    assert_eq!(
        decoder.decode(&mut &mut [][..], Role::Server, 100),
        Ok(None)
    );
    assert!(decoder.is_idle());
}

#[derive(Clone, Debug)]
enum Sent {
    Data {
        text: Option<String>,
        binary: Vec<u8>,
        cuts: Vec<prop::sample::Index>,
    },
    Control(OpCode, Vec<u8>),
}

fn sent() -> impl Strategy<Value = Sent> {
    let control = prop::sample::select(vec![OpCode::Ping, OpCode::Pong]);
    let short = prop::collection::vec(any::<u8>(), 0..126);
    let long = prop::collection::vec(any::<u8>(), 0..400);
    let cuts = prop::collection::vec(any::<prop::sample::Index>(), 0..4);
    prop_oneof![
        (any::<String>(), cuts.clone()).prop_map(|(text, cuts)| Sent::Data {
            text: Some(text),
            binary: vec![],
            cuts
        }),
        (long, cuts).prop_map(|(binary, cuts)| Sent::Data {
            text: None,
            binary,
            cuts
        }),
        (control, short).prop_map(|(opcode, payload)| Sent::Control(opcode, payload)),
    ]
}

/// Frames of the messages, a ping after each fragment, and what is to come out.
fn stream(messages: &[Sent]) -> (Vec<u8>, Vec<String>) {
    let (mut bytes, mut lines) = (Vec::new(), Vec::new());
    for message in messages {
        match message {
            Sent::Control(opcode, payload) => {
                bytes.extend(frame(true, *opcode, payload));
                lines.push(line(&match opcode {
                    OpCode::Ping => Message::Ping(payload),
                    _ => Message::Pong(payload),
                }));
            }
            Sent::Data { text, binary, cuts } => {
                let payload = text.as_ref().map_or(&binary[..], |text| text.as_bytes());
                let mut ends: Vec<_> = cuts
                    .iter()
                    .map(|cut| cut.index(payload.len() + 1))
                    .collect();
                ends.sort_unstable();
                let mut opcode = if text.is_some() {
                    OpCode::Text
                } else {
                    OpCode::Binary
                };
                let mut start = 0;
                for end in ends {
                    bytes.extend(frame(false, opcode, &payload[start..end]));
                    bytes.extend(frame(true, OpCode::Ping, b"between"));
                    lines.push("ping between".to_owned());
                    opcode = OpCode::Continuation;
                    start = end;
                }
                bytes.extend(frame(true, opcode, &payload[start..]));
                lines.push(line(&match text {
                    Some(text) => Message::Text(text),
                    None => Message::Binary(binary),
                }));
            }
        }
    }
    (bytes, lines)
}

/// Decodes in pieces of the given sizes, over and over.
fn decode_chunks(bytes: &[u8], sizes: &[usize]) -> (Vec<String>, Option<Error>, Decoder) {
    let mut decoder = Decoder::default();
    let mut seen = Vec::new();
    let mut left = bytes.to_vec();
    let mut left = &mut left[..];
    for size in sizes.iter().cycle() {
        if left.is_empty() {
            break;
        }
        let size = (*size).min(left.len());
        let (mut rest, after) = left.split_at_mut(size);
        left = after;
        loop {
            match decoder.decode(&mut rest, Role::Server, 1 << 16) {
                Ok(Some(message)) => seen.push(line(&message)),
                Ok(None) => break,
                Err(error) => return (seen, Some(error), decoder),
            }
        }
    }
    (seen, None, decoder)
}

proptest! {
    #[test]
    fn chunks_do_not_matter(
        messages in prop::collection::vec(sent(), 0..6),
        sizes in prop::collection::vec(1usize..40, 1..8),
    ) {
        let (bytes, lines) = stream(&messages);
        let (seen, error, decoder) = decode_chunks(&bytes, &sizes);
        prop_assert_eq!(error, None);
        prop_assert_eq!(&seen, &lines);
        prop_assert!(decoder.is_idle());
        let (whole, error, decoder) = decode_chunks(&bytes, &[usize::MAX]);
        prop_assert_eq!(error, None);
        prop_assert_eq!(whole, lines);
        prop_assert!(decoder.is_idle());
    }

    /// On damaged streams as well: the same messages and the same error.
    #[test]
    fn chunks_do_not_matter_when_damaged(
        messages in prop::collection::vec(sent(), 1..4),
        sizes in prop::collection::vec(1usize..40, 1..8),
        at: prop::sample::Index,
        xor in 1u8..,
    ) {
        let (mut bytes, _) = stream(&messages);
        let at = at.index(bytes.len());
        bytes[at] ^= xor;
        let (one, first, decoder) = decode_chunks(&bytes, &sizes);
        prop_assert!(decoder.buffered() <= bytes.len());
        let (other, second, _) = decode_chunks(&bytes, &[usize::MAX]);
        prop_assert_eq!(one, other);
        prop_assert_eq!(first.is_some(), second.is_some());
    }

    #[test]
    fn nothing_panics(bytes: Vec<u8>, server: bool, max in 0usize..200) {
        let role = if server { Role::Server } else { Role::Client };
        let mut decoder = Decoder::default();
        let mut bytes = bytes;
        let mut rest = &mut bytes[..];
        while let Ok(Some(_)) = decoder.decode(&mut rest, role, max) {}
    }
}

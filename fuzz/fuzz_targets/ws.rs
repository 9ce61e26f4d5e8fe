//! The same stream in one piece and in pieces: the same messages.
//!
//! The first byte chooses the role and the size of the pieces.

#![no_main]

use heartline_wire::ws::{Decoder, Error, Role, frame_boundary};
use libfuzzer_sys::fuzz_target;

const MAX: usize = 4096;

fn decode(bytes: &[u8], role: Role, size: usize) -> (Vec<String>, Option<Error>) {
    let mut decoder = Decoder::default();
    let mut seen = Vec::new();
    for chunk in bytes.to_vec().chunks_mut(size) {
        let mut rest = chunk;
        loop {
            match decoder.decode(&mut rest, role, MAX) {
                Ok(Some(message)) => seen.push(format!("{message:?}")),
                Ok(None) => break,
                Err(error) => return (seen, Some(error)),
            }
        }
        assert!(rest.is_empty());
        // A message, a control frame and a header at most.
        assert!(decoder.buffered() <= MAX + 125 + 14);
        assert!(decoder.is_idle() || decoder.buffered() <= bytes.len());
    }
    (seen, None)
}

fuzz_target!(|data: &[u8]| {
    let Some((&choice, bytes)) = data.split_first() else {
        return;
    };
    let role = if choice & 1 == 0 {
        Role::Server
    } else {
        Role::Client
    };
    let (whole, failed) = decode(bytes, role, bytes.len().max(1));
    let (pieces, failed_too) = decode(bytes, role, usize::from(choice >> 1) % 32 + 1);
    assert_eq!(whole, pieces);
    // Which error comes first may depend on the cut, that one comes must not.
    assert_eq!(failed.is_some(), failed_too.is_some());

    let end = frame_boundary(bytes, usize::from(choice));
    assert!(end <= bytes.len() && end >= usize::from(choice).min(bytes.len()));
});

//! Packets and polling payloads; binary survives a second trip.

#![no_main]

use heartline_wire::engineio::{Packet, decode_payload, decode_text, push_base64};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    assert!(decode_payload(text).count() > 0);
    for packet in decode_payload(text).flatten() {
        if let Packet::Binary(bytes) = packet {
            let mut again = String::new();
            push_base64(&bytes, &mut again);
            assert_eq!(decode_text(&again), Ok(Packet::Binary(bytes)));
        }
    }
});

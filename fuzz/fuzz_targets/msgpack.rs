//! What decodes is JSON, can be relayed to either parser's clients, and is
//! the same after a second trip.

#![no_main]

use heartline_wire::socketio::{self, PacketType, check_placeholders, split_event};
use heartline_wire::{json, msgpack};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(packet) = msgpack::decode(bytes) else {
        return;
    };
    let Some(data) = &packet.data else { return };
    assert!(json::is_valid(data));
    // Every bin became its placeholder, and no other is in the way.
    let count = packet.attachments.len();
    assert!(count == 0 || check_placeholders(data, count));
    if packet.kind != PacketType::Event {
        return;
    }
    let (name, args) = split_event(data).expect("an event has a name");

    let mut text = String::new();
    let namespace = format!(
        "/{}",
        packet
            .namespace
            .trim_matches(['/', ',', '?'])
            .replace([',', '?'], "")
    );
    socketio::push_event(&namespace, packet.id, &name, args, count, &mut text);
    assert!(socketio::decode(&text).is_ok() || count > socketio::MAX_ATTACHMENTS);

    let mut again = Vec::new();
    msgpack::encode_event(
        &packet.namespace,
        packet.id,
        &name,
        args,
        &packet.attachments,
        &mut again,
    );
    let back = msgpack::decode(&again).expect("what was relayed decodes");
    assert_eq!(back.namespace, packet.namespace);
    assert_eq!(back.id, packet.id);
});

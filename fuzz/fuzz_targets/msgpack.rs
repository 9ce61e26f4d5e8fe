//! What decodes is JSON within the limit, can be relayed to either parser's clients and
//! to live ones, in each form within its bound, and is the same after a second trip.

#![no_main]

use heartline_wire::socketio::{
    self, PacketType, PlaceholderError, check_placeholders, split_event,
};
use heartline_wire::{json, msgpack};
use libfuzzer_sys::fuzz_target;

/// Small enough to be passed by what the fuzzer makes.
const LIMIT: usize = 200;

fuzz_target!(|bytes: &[u8]| {
    let limited = msgpack::decode(bytes, LIMIT);
    let Ok(packet) = msgpack::decode(bytes, usize::MAX) else {
        return;
    };
    let bins: usize = packet.attachments.iter().map(|bytes| bytes.len()).sum();
    let size = packet.data.as_ref().map_or(0, String::len) + bins;
    let limited = limited.expect("a limit passes over what is too large");
    if limited.fault.is_some() {
        assert!(limited.data.is_none() && limited.attachments.is_empty());
        assert_eq!(limited.namespace, packet.namespace);
    } else {
        assert!(size <= LIMIT && limited == packet);
    }
    let Some(data) = &packet.data else { return };
    assert!(json::is_valid(data));
    // Every bin became its placeholder; at most a map claims to be one of them too.
    let count = packet.attachments.len();
    let placeholders = check_placeholders(data, count);
    assert!(count == 0 || placeholders != Err(PlaceholderError::Dangling));
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

    let mut inlined = String::new();
    socketio::inline_attachments(args, &packet.attachments, &mut inlined);
    assert!(json::is_valid(&format!("[{inlined}]")));
    assert!(inlined.len() <= args.len() + bins.div_ceil(3) * 4 + count * 4);

    let mut again = Vec::new();
    msgpack::encode_event(
        &packet.namespace,
        packet.id,
        &name,
        args,
        &packet.attachments,
        &mut again,
    );
    let bound = msgpack::packet_bound(&packet.namespace, &name, args, &packet.attachments);
    assert!(again.len() <= bound);
    let back = msgpack::decode(&again, usize::MAX).expect("what was relayed decodes");
    assert_eq!(back.namespace, packet.namespace);
    assert_eq!(back.id, packet.id);
});

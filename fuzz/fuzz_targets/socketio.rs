//! What decodes can be relayed: encoded again it decodes to the same and is as long, and
//! in the other forms it keeps their bounds.

#![no_main]

use bytes::Bytes;
use heartline_wire::socketio::{
    PacketType, PlaceholderError, array_inside, check_placeholders, decode, inline_attachments,
    push_ack, push_event, split_event,
};
use heartline_wire::{json, msgpack};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let _ = split_event(text);
    let _ = array_inside(text);
    let _ = check_placeholders(text, 2);
    let Ok(packet) = decode(text) else { return };
    let data = packet.data.unwrap_or("null");
    assert!(json::is_valid(data));
    assert!(
        packet.attachments == 0
            || check_placeholders(data, packet.attachments) != Err(PlaceholderError::Dangling)
    );
    let bins = vec![Bytes::from_static(&[7; 100]); packet.attachments];
    let attached = 100 * bins.len();
    let mut inlined = String::new();
    inline_attachments(data, &bins, &mut inlined);
    assert!(json::is_valid(&inlined));
    assert!(inlined.len() <= data.len() + attached.div_ceil(3) * 4 + 4 * bins.len());

    let mut again = String::new();
    match packet.kind {
        PacketType::Event | PacketType::BinaryEvent => {
            let (name, args) = split_event(data).expect("an event has a name");
            let mut packed = Vec::new();
            msgpack::encode_event(packet.namespace, None, &name, args, &bins, &mut packed);
            assert!(packed.len() <= msgpack::packet_bound(packet.namespace, &name, args, &bins));
            push_event(
                packet.namespace,
                packet.id,
                &name,
                args,
                packet.attachments,
                &mut again,
            );
        }
        PacketType::Ack | PacketType::BinaryAck => {
            let Some(id) = packet.id else { return };
            let args = array_inside(data).expect("an ack has an array");
            push_ack(packet.namespace, id, args, packet.attachments, &mut again);
        }
        _ => return,
    }
    // Only the name is quoted anew, and whatever needs an escape had one.
    assert!(again.len() <= text.len() + 32);
    let back = decode(&again).expect("what was relayed decodes");
    assert_eq!(
        (back.kind, back.namespace, back.id, back.attachments),
        (packet.kind, packet.namespace, packet.id, packet.attachments)
    );
});

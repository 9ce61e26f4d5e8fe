//! What decodes can be relayed: encoded again it decodes to the same.

#![no_main]

use heartline_wire::json;
use heartline_wire::socketio::{
    PacketType, array_inside, check_placeholders, decode, push_ack, push_event, split_event,
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let _ = split_event(text);
    let _ = array_inside(text);
    let _ = check_placeholders(text, 2);
    let Ok(packet) = decode(text) else { return };
    let data = packet.data.unwrap_or("null");
    assert!(json::is_valid(data));
    assert!(packet.attachments == 0 || check_placeholders(data, packet.attachments));

    let mut again = String::new();
    match packet.kind {
        PacketType::Event | PacketType::BinaryEvent => {
            let (name, args) = split_event(data).expect("an event has a name");
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
    let back = decode(&again).expect("what was relayed decodes");
    assert_eq!(
        (back.kind, back.namespace, back.id, back.attachments),
        (packet.kind, packet.namespace, packet.id, packet.attachments)
    );
});

//! Socket.IO protocol 5, default parser: what goes in comes out.

use bytes::Bytes;
use heartline_wire::json;
use heartline_wire::socketio::{
    DecodeError, PacketType, array_inside, check_placeholders, decode, inline_attachments,
    push_ack, push_connect, push_connect_error, push_event, split_event,
};
use proptest::prelude::*;
use serde_json::Value;

use crate::socketio::encoded;
use crate::strategies;

fn namespace() -> impl Strategy<Value = String> {
    prop_oneof![Just("/".to_owned()), "/[a-zA-Z0-9é_/-]{1,12}"]
}

proptest! {
    #[test]
    fn events_round_trip(
        namespace in namespace(),
        id: Option<u64>,
        name in strategies::text(),
        args in prop::collection::vec(strategies::value(), 0..4),
        attachments in 0usize..=10,
    ) {
        let args = serde_json::to_string(&args).unwrap();
        let args = array_inside(&args).unwrap();
        let text = encoded(|out| push_event(&namespace, id, &name, args, attachments, out));
        match decode(&text) {
            Ok(packet) => {
                prop_assert_eq!(packet.namespace, namespace.as_str());
                prop_assert_eq!(packet.id, id);
                prop_assert_eq!(packet.attachments, attachments);
                let (back, rest) = split_event(packet.data.unwrap()).unwrap();
                prop_assert_eq!(back.as_ref(), name.as_str());
                prop_assert_eq!(rest, args);
            }
            Err(error) => prop_assert_eq!(error, DecodeError::ReservedName),
        }
    }

    #[test]
    fn acks_round_trip(
        namespace in namespace(),
        id: u64,
        args in prop::collection::vec(strategies::value(), 0..4),
    ) {
        let args = serde_json::to_string(&args).unwrap();
        let args = array_inside(&args).unwrap();
        let text = encoded(|out| push_ack(&namespace, id, args, 0, out));
        let packet = decode(&text).unwrap();
        prop_assert_eq!((packet.namespace, packet.id), (namespace.as_str(), Some(id)));
        prop_assert_eq!(array_inside(packet.data.unwrap()).unwrap(), args);
    }

    #[test]
    fn connections_round_trip(
        namespace in namespace(),
        sid in strategies::text(),
        pid in prop::option::of(strategies::text()),
        data in prop::option::of(strategies::value()),
    ) {
        let text = encoded(|out| push_connect(&namespace, &sid, pid.as_deref(), out));
        let packet = decode(&text).unwrap();
        let json: Value = serde_json::from_str(packet.data.unwrap()).unwrap();
        prop_assert_eq!(packet.namespace, namespace.as_str());
        prop_assert_eq!(json["sid"].as_str(), Some(sid.as_str()));
        prop_assert_eq!(json["pid"].as_str(), pid.as_deref());

        let data = data.map(|data| data.to_string());
        let text = encoded(|out| push_connect_error(&namespace, &sid, data.as_deref(), out));
        let packet = decode(&text).unwrap();
        let error = packet.data.unwrap();
        prop_assert_eq!(packet.namespace, namespace.as_str());
        prop_assert_eq!(json::unquote(json::field(error, "message").unwrap()).unwrap(), sid);
        prop_assert_eq!(json::field(error, "data"), data.as_deref());
    }

    #[test]
    fn nothing_panics(text: String, json in strategies::almost_json(), head in "[0-9/,?-]{0,6}") {
        let _ = decode(&text);
        let _ = decode(&format!("{head}{json}"));
        let _ = decode(&format!("{head}{text}"));
        let _ = split_event(&json);
        let _ = array_inside(&json);
        let _ = check_placeholders(&json, 1);
        let _ = check_placeholders(&text, 1);
        let bins = [Bytes::from_static(b"x")];
        for data in [&text, &json] {
            let inlined = encoded(|out| inline_attachments(data, &bins, out));
            prop_assert!(inlined.len() <= data.len() + 4);
        }
    }

    /// Whatever decodes can be relayed: it is valid JSON of the right shape.
    #[test]
    fn what_decodes_is_sound(json in strategies::almost_json(), head in "[0-6][0-9/,-]{0,4}") {
        if let Ok(packet) = decode(&format!("{head}{json}")) {
            let data = packet.data.unwrap_or("null");
            prop_assert!(json::is_valid(data));
            if matches!(packet.kind, PacketType::Event | PacketType::BinaryEvent) {
                let (name, args) = split_event(data).unwrap();
                let again = encoded(|out| push_event(packet.namespace, packet.id, &name, args, packet.attachments, out));
                prop_assert!(decode(&again).is_ok());
            }
        }
    }
}

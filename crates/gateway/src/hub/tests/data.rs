//! What events may hold: how deep, how many attachments, in which parser.

use heartline_wire::msgpack;
use heartline_wire::socketio::PacketType;

use super::*;
use crate::event::Args;

/// A client of the msgpack parser.
struct Packed(Client);

impl Packed {
    /// Says an event whose payload is this JSON, with these attachments in it.
    fn says(&mut self, json: &str, bins: &[bytes::Bytes]) {
        let packet = format!(r#"{{"type":2,"data":{json},"nsp":"/","id":7}}"#);
        self.packet(&packet, bins);
    }

    fn packet(&mut self, json: &str, bins: &[bytes::Bytes]) {
        let mut packet = Vec::new();
        msgpack::encode_value(json, bins, &mut packet);
        self.0.0.binary(&packet);
    }

    /// What has come: the payloads as JSON, each with the number of its attachments.
    fn hears(&mut self) -> Vec<(PacketType, String, usize)> {
        let told = self.0.0.read().into_iter();
        told.map(|told| match told {
            Told::Binary(bytes) => {
                let packet = msgpack::decode(&bytes, usize::MAX).unwrap();
                let bins = packet.attachments.len();
                (packet.kind, packet.data.unwrap_or_default(), bins)
            }
            other => panic!("no packet: {other:?}"),
        })
        .collect()
    }
}

impl World {
    fn packed(&mut self, token: &str) -> Packed {
        let mut client = Packed(self.engineio());
        let connect = format!(r#"{{"type":0,"data":{{"token":"{token}"}},"nsp":"/"}}"#);
        client.packet(&connect, &[]);
        self.settle();
        assert_eq!(client.hears()[0].0, PacketType::Connect);
        client
    }
}

/// So many arrays and objects within each other.
fn nested(levels: usize) -> String {
    let half = levels / 2;
    let inside = "[".repeat(levels % 2) + &"]".repeat(levels % 2);
    let inside = if inside.is_empty() { "1" } else { &inside };
    format!("{}{inside}{}", "[{\"a\":".repeat(half), "}]".repeat(half))
}

/// In a room with a client of each kind.
fn world_of_three() -> (World, Client, Client, Packed) {
    let mut world = World::with(config(), |builder| {
        builder.on("echo", |args: Args| async move { args })
    });
    let mut text = world.socketio("user=text");
    let mut live = world.live("user=live");
    let mut packed = world.packed("user=packed");
    world.ask(&mut text, r#"421["join","r"]"#);
    world.ask(&mut live, r#"{"type":"subscribe","topic":"r"}"#);
    packed.says(r#"["join","r"]"#, &[]);
    world.settle();
    packed.hears();
    live.hears();
    (world, text, live, packed)
}

#[test]
fn data_that_is_nested_five_hundred_levels_reaches_everybody_from_everybody() {
    let (mut world, mut text, mut live, mut packed) = world_of_three();
    let deep = nested(500);
    for speaker in 0..4 {
        match speaker {
            0 => text.says(&format!(
                r#"425["publish",{{"room":"r","event":"e","data":{deep}}}]"#
            )),
            1 => live.says(&format!(
                r#"{{"type":"publish","topic":"r","event":"e","data":{deep},"id":1}}"#
            )),
            2 => packed.says(
                &format!(r#"["publish",{{"room":"r","event":"e","data":{deep}}}]"#),
                &[],
            ),
            _ => {
                let publish = crate::Publish {
                    tenant_id: None,
                    namespace: "/".into(),
                    room: "r".into(),
                    event: "e".into(),
                    data: deep.clone(),
                    key: None,
                    except: Vec::new(),
                };
                let gateway = world.gateway.clone();
                world.begin(async move { gateway.publish(publish).await.unwrap() });
            }
        }
        world.settle();
        let said = text.hears();
        assert!(
            said.contains(&format!(r#"42["e",{deep}]"#)),
            "{speaker}: {said:?}"
        );
        let said = live.hears();
        let data = format!(r#""data":{deep}"#);
        assert!(said.iter().any(|frame| frame.contains(&data)), "{speaker}");
        let said = packed.hears();
        let event = (PacketType::Event, format!(r#"["e",{deep}]"#), 0);
        assert!(said.contains(&event), "{speaker}: {said:?}");
    }
    // An answer is as deep as the question.
    let answer = world.ask(&mut text, &format!(r#"426["echo",{deep}]"#));
    assert_eq!(answer, [format!("436[{deep}]")]);
    packed.says(&format!(r#"["echo",{deep}]"#), &[]);
    world.settle();
    assert_eq!(packed.hears()[0].1, format!("[{deep}]"));
}

#[test]
fn data_that_is_nested_too_deep_costs_the_event_alone_and_its_sender_hears_why() {
    let (mut world, mut text, mut live, mut packed) = world_of_three();
    for levels in [513, 514, 5_000, 200_000] {
        let deep = nested(levels);
        let why = "at most 512 arrays and objects within each other";
        let is_true = |said: &str| said.contains(r#""code":"INVALID_DATA""#) && said.contains(why);
        for (event, binary) in [
            (format!(r#"425["echo",{deep}]"#), false),
            (
                format!(r#"425["publish",{{"room":"r","event":"e","data":{deep}}}]"#),
                false,
            ),
            (
                format!(r#"451-5["echo",{deep},{{"_placeholder":true,"num":0}}]"#),
                true,
            ),
        ] {
            text.says(&event);
            if binary {
                text.0.binary(b"bin");
            }
            world.settle();
            let answer = text.hears();
            assert!(
                answer[0].starts_with("435[") && is_true(&answer[0]),
                "{levels}"
            );
        }
        for frame in [
            format!(r#"{{"type":"publish","topic":"r","event":"e","data":{deep},"id":1}}"#),
            format!(r#"{{"type":"emit","event":"echo","data":{deep},"id":1}}"#),
            format!(r#"{{"data":{deep},"id":1,"type":"emit","event":"echo"}}"#),
        ] {
            let answer = world.ask(&mut live, &frame);
            assert!(
                answer[0].contains(r#""id":1"#) && is_true(&answer[0]),
                "{answer:?}"
            );
        }
        let frame = format!(r#"{{"type":"emit","event":"echo","data":{deep}}}"#);
        let answer = world.ask(&mut live, &frame);
        assert!(
            answer[0].contains(r#""type":"error""#) && is_true(&answer[0]),
            "{answer:?}"
        );
        packed.says(&format!(r#"["echo",{deep}]"#), &[]);
        world.settle();
        let (kind, answer, _) = packed.hears().remove(0);
        assert!(
            kind == PacketType::Ack && is_true(&answer),
            "{levels}: {answer}"
        );
        let gateway = world.gateway.clone();
        let checked = gateway.check_event(None, "e", &deep);
        assert!(checked.unwrap_err().to_string().contains(why));
    }
    assert_eq!(world.ask(&mut text, r#"421["echo",1]"#), ["431[1]"]);
}

#[test]
fn a_msgpack_client_may_send_its_handler_more_attachments_than_others_can_get() {
    let (mut world, mut text, _live, mut packed) = world_of_three();
    let bins = |count: usize| vec![bytes::Bytes::from_static(b"bin"); count];
    let places = |count: usize| {
        let place = |num| format!(r#"{{"_placeholder":true,"num":{num}}}"#);
        (0..count).map(place).collect::<Vec<_>>().join(",")
    };
    for count in [10, 11, 1_000] {
        packed.says(&format!(r#"["echo",{}]"#, places(count)), &bins(count));
        world.settle();
        let (kind, _, bins) = packed.hears().remove(0);
        assert_eq!((kind, bins), (PacketType::Ack, count));
    }
    packed.says(&format!(r#"["echo",{}]"#, places(1_001)), &bins(1_001));
    world.settle();
    assert!(packed.hears()[0].1.contains("at most 1000 attachments"));
    let publish = |count: usize| {
        let places = places(count);
        format!(r#"["publish",{{"room":"r","event":"e","data":[{places}]}}]"#)
    };
    packed.says(&publish(10), &bins(10));
    world.settle();
    assert!(text.hears()[0].starts_with("4510-[\"e\""));
    packed.hears();
    packed.says(&publish(11), &bins(11));
    world.settle();
    let (kind, answer, _) = packed.hears().remove(0);
    assert_eq!(kind, PacketType::Ack);
    assert!(answer.contains(r#""code":"INVALID_DATA""#), "{answer}");
    assert!(answer.contains("at most 10 attachments"), "{answer}");
    assert!(text.hears().is_empty());
}

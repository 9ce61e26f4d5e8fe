//! What handlers are given: binary in every form, and their own extractors.

use bytes::Bytes;
use heartline::{All, Args, Binary, EventError, GatewayBuilder, Json, Socket};
use heartline_wire::msgpack;
use heartline_wire::socketio::PacketType;
use serde_json::Value;

use crate::support::{Client, Polling, start};
use crate::{app, config, heard};

/// `pic` is answered with its bytes turned round, `twice` says them back before.
fn pictures(builder: GatewayBuilder) -> GatewayBuilder {
    builder
        .on(
            "pic",
            |socket: Socket, All((name, Binary(bytes))): All<(String, Binary)>| async move {
                let back: Vec<u8> = bytes.iter().rev().copied().collect();
                socket.emit_args("got", &Args::many(&(&name, 1, Binary(bytes)))?)?;
                Ok::<_, EventError>(All((name, Binary::from(back))))
            },
        )
        .on(
            "mixed",
            |socket: Socket, Json(said): Json<Value>| async move {
                // What a client said, beside bytes of the app's.
                let both = Args::many(&(&said, Binary::from("app")))?;
                socket.emit_args("both", &both)
            },
        )
}

#[tokio::test(flavor = "multi_thread")]
async fn binary_comes_and_goes_in_every_wire_form() {
    let (_gateway, address) = start(pictures(app(config()))).await;
    let event = r#"["pic","a",{"_placeholder":true,"num":0}]"#;
    let mut text = Client::connect(&address, "").await;
    text.send(&format!("451-7{event}")).await;
    text.send_binary(&[1, 2, 3]).await;
    assert_eq!(
        text.next().await,
        r#"451-["got","a",1,{"_placeholder":true,"num":0}]"#
    );
    assert_eq!(text.next_binary().await, [1, 2, 3]);
    assert_eq!(
        text.next().await,
        r#"461-7["a",{"_placeholder":true,"num":0}]"#
    );
    assert_eq!(text.next_binary().await, [3, 2, 1]);

    let mut polling = Polling::connect(&address, "").await;
    polling.send(&format!("451-7{event}\u{1e}bAQID")).await;
    for packet in [
        r#"451-["got","a",1,{"_placeholder":true,"num":0}]"#,
        "bAQID",
        r#"461-7["a",{"_placeholder":true,"num":0}]"#,
        "bAwIB",
    ] {
        assert_eq!(polling.next().await, packet);
    }

    let mut packed = Client::open(&address).await;
    let pack = |json: &str, bins: &[Bytes]| {
        let mut packet = Vec::new();
        msgpack::encode_value(json, bins, &mut packet);
        packet
    };
    packed
        .send_binary(&pack(r#"{"type":0,"nsp":"/"}"#, &[]))
        .await;
    packed.next_binary().await;
    let packet = pack(
        &format!(r#"{{"type":2,"nsp":"/","id":7,"data":{event}}}"#),
        &[Bytes::from_static(&[1, 2, 3])],
    );
    packed.send_binary(&packet).await;
    let got = msgpack::decode(&packed.next_binary().await, 1000).unwrap();
    assert_eq!(
        (got.kind, &*got.attachments[0]),
        (PacketType::Event, &[1u8, 2, 3][..])
    );
    let answer = msgpack::decode(&packed.next_binary().await, 1000).unwrap();
    assert_eq!(
        (answer.kind, &*answer.attachments[0]),
        (PacketType::Ack, &[3u8, 2, 1][..])
    );

    // Live clients have one argument and hear base64.
    let mut live = Client::live(&address, "").await;
    live.send(r#"{"type":"emit","event":"mixed","data":"x","id":1}"#)
        .await;
    let both = live.next().await;
    assert!(both.contains("YXBw"), "{both}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_fit_is_refused_and_lies_about_attachments_end_no_one_else() {
    let (_gateway, address) = start(pictures(app(config()))).await;
    let mut client = Client::connect(&address, "").await;
    let attached = [
        r#"451-7["pic","a",{"_placeholder":true,"num":0},1]"#,
        r#"451-7["pic",{"_placeholder":true,"num":0}]"#,
        r#"451-7["pic",1,{"_placeholder":true,"num":0}]"#,
        r#"451-7["pic","a",{"_placeholder":false,"num":0}]"#,
    ];
    for packet in attached {
        client.send(packet).await;
        client.send_binary(&[1]).await;
        let answer = client.next().await;
        assert!(answer.starts_with("437["), "{packet}: {answer}");
        assert!(answer.contains("INVALID_DATA"), "{packet}: {answer}");
    }
    for args in [
        r#""a",{"_placeholder":true,"num":0}"#,
        r#""a",{"_placeholder":true,"num":-1}"#,
        r#""a",{"_placeholder":true,"num":1e99}"#,
        r#""a",{"_placeholder":true,"num":"0"}"#,
        r#""a","AQID""#,
        r#""a""#,
    ] {
        client.send(&format!(r#"427["pic",{args}]"#)).await;
        let answer = client.next().await;
        assert!(answer.contains("INVALID_DATA"), "{args}: {answer}");
    }
    // Beside the app's own attachment a client's object would be taken for a placeholder.
    for number in ["0", "99"] {
        let lie = format!(r#"427["mixed",{{"x":[{{"_placeholder":true,"num":{number}}}]}}]"#);
        client.send(&lie).await;
        let answer = client.next().await;
        assert!(answer.contains("INVALID_DATA"), "{answer}");
    }
    client.send(r#"427["mixed",{"_placeholder":true}]"#).await;
    client.hear("437[").await;
    assert!(heard(&mut client).await.is_empty());
}

#[test]
fn an_errors_details_cannot_say_that_all_is_well() {
    let error = EventError::new("NO", "Not so")
        .retry_after(7)
        .about(Some("t".into()))
        .with("ok", true)
        .with("error", "All is well")
        .with("code", "YES")
        .with("retryAfterMs", 1)
        .with("tempId", "u")
        .with("max", 3);
    assert_eq!(
        serde_json::to_string(&error).unwrap(),
        r#"{"ok":false,"error":"Not so","code":"NO","retryAfterMs":7,"tempId":"t","max":3}"#
    );
}

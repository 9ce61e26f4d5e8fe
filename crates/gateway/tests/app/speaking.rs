//! Whom an app speaks to, and in which order it is heard.

use heartline::{Config, EventError, Gateway, Json, PublishRequest, Socket};
use serde_json::Value;

use crate::support::{Client, start};
use crate::{app, config, enter, heard, live_heard, user, with_namespaces};

#[tokio::test(flavor = "multi_thread")]
async fn an_app_speaks_to_whom_it_means_once_and_to_no_other_tenant() {
    let builder = app(Config {
        worker_threads: 3,
        ..with_namespaces(&["/chat"])
    });
    let builder = builder.on("speak", |socket: Socket, gateway: Gateway| async move {
        let me = socket.id();
        let tenant = socket.identity().tenant_id().map(|tenant| &**tenant);
        let to = |room: &str| gateway.to("/", tenant, room).unwrap();
        assert!(gateway.to("/nowhere", tenant, "a").is_none());
        assert!(gateway.everybody("/nowhere", tenant).is_none());
        to("a").to("b").emit("a-or-b", &1)?;
        to("a").except("b").emit("a-not-b", &1)?;
        to("a")
            .to("b")
            .except("a")
            .except("c")
            .emit("b-not-a-not-c", &1)?;
        to("a").except(&me).emit("a-not-me-by-id", &1)?;
        to(&me).emit("me-by-id", &1)?;
        to("user:bob").emit("bob", &1)?;
        to("user:bob").to("a").to(&me).emit("a-or-bob-or-me", &1)?;
        gateway
            .everybody("/", tenant)
            .unwrap()
            .except("a")
            .emit("all-not-a", &1)?;
        gateway
            .everybody("/chat", tenant)
            .unwrap()
            .emit("in-chat", &1)?;
        socket.to("a").emit("a-not-me", &1)?;
        socket.to("a").to("b").emit("a-or-b-not-me", &1)?;
        socket.to("user:ann").emit("ann-not-me", &1)?;
        socket.to(&me).emit("nobody", &1)?;
        socket.broadcast().emit("all-not-me", &1)?;
        socket
            .broadcast()
            .except("b")
            .emit("all-not-b-not-me", &1)?;
        to("empty").emit("nobody", &1)?;
        for (event, room, code) in [
            ("connect", "a", "INVALID_EVENT"),
            ("", "a", "INVALID_EVENT"),
            ("fine", "", "INVALID_ROOM"),
            ("fine", "a\n", "INVALID_ROOM"),
        ] {
            let refused = socket.to(room).emit(event, &1).unwrap_err();
            assert_eq!(refused.code(), code, "{event:?} {room:?}");
        }
        let refused = to("a").except("").emit("fine", &1).unwrap_err();
        assert_eq!(refused.code(), "INVALID_ROOM");
        let refused = to("a").emit("fine", &"x".repeat(2_000_000)).unwrap_err();
        assert_eq!(refused.code(), "PAYLOAD_TOO_LARGE");
        Ok::<_, EventError>(())
    });
    let (_gateway, address) = start(builder).await;
    let mut ann = user(&address, "ann@t").await;
    let mut ann_too = user(&address, "ann@t").await;
    let mut bob = user(&address, "bob@t").await;
    let mut cat = user(&address, "cat@t").await;
    let mut stranger = user(&address, "bob@u").await;
    let mut anonymous = Client::connect(&address, "").await;
    let mut live = Client::live(&address, "?token=dan@t").await;
    for (client, rooms) in [
        (&mut ann, &["a", "b"][..]),
        (&mut bob, &["a", "b"]),
        (&mut cat, &["b", "c"]),
        (&mut stranger, &["a", "b", "c"]),
        (&mut anonymous, &["a", "b"]),
    ] {
        for room in rooms {
            enter(client, room).await;
        }
    }
    live.send(r#"{"type":"subscribe","topic":"a"}"#).await;
    live.hear("subscribed").await;

    let said = ann.hear_until(r#"421["speak"]"#, "431[]").await;
    let names = |said: &[String]| -> Vec<String> {
        said.iter()
            .map(|text| text.split('"').nth(1).unwrap().to_owned())
            .filter(|name| name != "room:joined")
            .collect()
    };
    assert_eq!(names(&said), ["a-or-b", "me-by-id", "a-or-bob-or-me"]);
    assert_eq!(
        names(&heard(&mut ann_too).await),
        ["all-not-a", "ann-not-me", "all-not-me", "all-not-b-not-me"]
    );
    assert_eq!(
        names(&heard(&mut bob).await),
        [
            "a-or-b",
            "a-not-me-by-id",
            "bob",
            "a-or-bob-or-me",
            "a-not-me",
            "a-or-b-not-me",
            "all-not-me"
        ]
    );
    assert_eq!(
        names(&heard(&mut cat).await),
        ["a-or-b", "all-not-a", "a-or-b-not-me", "all-not-me"]
    );
    for other in [&mut stranger, &mut anonymous] {
        assert!(names(&heard(other).await).is_empty());
    }
    let frames = live_heard(&mut live).await;
    let types = |name: &str| frames.iter().filter(|frame| frame.contains(name)).count();
    for name in [
        "a-or-b",
        "a-not-b",
        "a-not-me-by-id",
        "a-not-me",
        "all-not-b-not-me",
    ] {
        assert_eq!(
            types(&format!(r#""type":"{name}""#)),
            1,
            "{name}: {frames:?}"
        );
    }
    // The room is told where the event went to one; the offset, where all of it heard.
    let frame = |name: &str| {
        let found = frames.iter().find(|frame| frame.contains(name));
        serde_json::from_str::<Value>(found.unwrap()).unwrap()
    };
    assert_eq!(frame("a-not-b")["topic"], "a");
    assert_eq!(frame("a-or-b").get("topic"), None);
    assert_eq!(types(r#""type":"bob""#), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_hears_a_handlers_words_in_the_order_in_which_they_were_said() {
    let builder = app(Config {
        worker_threads: 4,
        ..config()
    });
    let builder = builder.on("speak", |socket: Socket, gateway: Gateway| async move {
        for round in 0..20 {
            gateway.to("/", None, "r").unwrap().emit("1", &round)?;
            socket.emit("2", &round)?;
            socket.to("r").emit("3", &round)?;
            gateway.everybody("/", None).unwrap().emit("4", &round)?;
            gateway
                .to("/", None, "r")
                .unwrap()
                .to("s")
                .emit("5", &round)?;
            gateway
                .to("/", None, &socket.id())
                .unwrap()
                .emit("6", &round)?;
            socket.publish("r", "7", &round).await?;
            socket.broadcast().emit("8", &round)?;
        }
        Ok::<_, EventError>(())
    });
    let (_gateway, address) = start(builder).await;
    let mut speaker = Client::connect(&address, "").await;
    let mut members = Vec::new();
    for _ in 0..4 {
        members.push(Client::connect(&address, "").await);
    }
    for client in members.iter_mut().chain([&mut speaker]) {
        enter(client, "r").await;
    }
    let order = |names: &[&str]| -> Vec<String> {
        let round = |round| {
            names
                .iter()
                .map(move |name| format!(r#"42["{name}",{round}]"#))
        };
        (0..20).flat_map(round).collect()
    };
    let said = speaker.hear_until(r#"421["speak"]"#, "431[]").await;
    assert_eq!(said, order(&["1", "2", "4", "5", "6", "7"]));
    for member in &mut members {
        assert_eq!(heard(member).await, order(&["1", "3", "4", "5", "7", "8"]));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_client_asks_for_is_held_against_its_token() {
    let builder =
        app(config())
            .on(
                "ask",
                |socket: Socket, Json(room): Json<String>| async move {
                    socket.ask_to_join(&room).await
                },
            )
            .on(
                "pass-on",
                |socket: Socket, request: PublishRequest| async move {
                    let number = socket.ask_to_publish(request).await?;
                    Ok::<_, EventError>(Json(number.is_some()))
                },
            );
    let (_gateway, address) = start(builder).await;
    let mut ann = user(&address, "ann/open,also").await;
    let mut asks = async |packet: &str, answer: &str| {
        let heard = ann.hear_until(packet, "431[").await;
        ann.send(packet).await;
        let again = ann.hear("431[").await;
        assert!(again.contains(answer), "{packet}: {again} {heard:?}");
    };
    asks(r#"421["ask","open"]"#, "[]").await;
    asks(r#"421["ask","shut"]"#, "FORBIDDEN").await;
    asks(r#"421["ask","user:bob"]"#, "FORBIDDEN").await;
    asks(r#"421["ask",""]"#, "INVALID_ROOM").await;
    // The app's own word counts for more.
    asks(r#"421["enter","shut"]"#, "[]").await;
    asks(
        r#"421["pass-on",{"room":"open","event":"e","data":1}]"#,
        "[true]",
    )
    .await;
    asks(
        r#"421["pass-on",{"room":"user:bob","event":"e"}]"#,
        "FORBIDDEN",
    )
    .await;
    asks(
        r#"421["pass-on",{"room":"open","event":"message:new"}]"#,
        "INVALID_EVENT",
    )
    .await;
    asks(r#"421["pass-on",{"room":"open"}]"#, "INVALID_DATA").await;
}

//! Which handler an event goes to.

use heartline::{BuildError, Config, EventError, EventName, Json, NoAnswer};

use crate::support::{Client, start};
use crate::{app, config, heard, with_namespaces};

#[tokio::test(flavor = "multi_thread")]
async fn handlers_for_a_namespace_that_does_not_exist_are_told_of_at_once() {
    let built = app(config()).of("/chta", |chat| chat.on("say", || async {}));
    match built.build() {
        Err(BuildError::Config(what)) => {
            assert!(
                what.contains("/chta") && what.contains("config.namespaces"),
                "{what}"
            );
        }
        _ => panic!("it was built"),
    }
    assert!(
        app(with_namespaces(&["/chat"]))
            .of("/chat", |chat| chat)
            .build()
            .is_ok()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handler_that_no_event_can_reach_is_told_of_at_once() {
    for name in ["connect", "connect_error", "disconnect", "disconnecting"] {
        let everywhere = app(config()).on(name, || async {});
        let in_one = app(config()).of("/", |root| root.on(name, || async {}));
        for builder in [everywhere, in_one] {
            match builder.build() {
                Err(BuildError::Config(what)) => {
                    assert!(what.contains(name) && what.contains("on_connect"), "{what}");
                }
                _ => panic!("{name}: it was built"),
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_family_may_have_several_parts_and_the_longest_that_fits_counts() {
    let say = |what: &'static str| move || async move { Json(what) };
    let builder = app(config())
        .on("game:*", say("game"))
        .on("game:move:*", say("game:move"))
        .on("shop:cart:*", say("shop:cart"));
    let (_gateway, address) = start(builder).await;
    let mut client = Client::connect(&address, "").await;
    for (name, answer) in [
        ("game:end", "[\"game\"]"),
        ("game:move", "[\"game\"]"),
        ("game:move:", "[\"game:move\"]"),
        ("game:move:left:up", "[\"game:move\"]"),
        ("game:moved:left", "[\"game\"]"),
        ("shop:cart:add", "[\"shop:cart\"]"),
        ("shop:cart", "NOT_IMPLEMENTED"),
        ("shop:carts:add", "NOT_IMPLEMENTED"),
    ] {
        let heard = client
            .hear_until(&format!(r#"421["{name}"]"#), answer)
            .await;
        assert!(heard.is_empty(), "{name}: {heard:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_goes_to_the_nearest_handler_whatever_its_name_is() {
    let say = |what: &'static str| {
        move |EventName(name): EventName| async move { Json(format!("{what}: {name}")) }
    };
    let builder = app(with_namespaces(&["/chat"]))
        .on("who", say("all"))
        .on("room:*", say("all's family"))
        .of("/chat", |chat| {
            chat.on("who", say("chat"))
                .on("room:shut", say("chat"))
                .on("*", say("chat's any"))
                .or_on("*", say("too late"))
                .or_on("who", say("too late"))
                .or_on("hello", say("chat"))
        });
    let (_gateway, address) = start(builder).await;
    let mut client = Client::connect(&address, "").await;
    client.send("40/chat,").await;
    client.hear("40/chat,").await;
    let mut asks = async |packet: &str, answer: &str| {
        let heard = client.hear_until(packet, answer).await;
        assert!(heard.is_empty(), "{packet}: {heard:?}");
    };
    for (name, answer) in [
        ("who", "chat"),
        ("hello", "chat"),
        ("room:open", "all's family"),
        ("room:shut", "chat"),
        ("room:*", "all's family"),
        ("*", "chat's any"),
        ("constructor", "chat's any"),
        ("__proto__", "chat's any"),
        ("connect2", "chat's any"),
        ("", "chat's any"),
        ("a:b", "chat's any"),
    ] {
        let packet = format!(r#"42/chat,1["{name}"]"#);
        asks(&packet, &format!(r#"43/chat,1["{answer}: {name}"]"#)).await;
    }
    asks(r#"421["who"]"#, r#"431["all: who"]"#).await;
    // In `/` there is no catch-all, and the built-in events are there.
    asks(r#"421["*"]"#, "NOT_IMPLEMENTED").await;
    asks(r#"421["constructor"]"#, "NOT_IMPLEMENTED").await;
    // A namespace that is not joined: nobody hears it, nothing comes of it.
    client.send(r#"42/nowhere,1["who"]"#).await;
    assert!(heard(&mut client).await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_wants_no_answer_sends_none() {
    let silent = app(Config {
        builtin_events: false,
        ..config()
    });
    let builder =
        silent
            .on("shy", || async { NoAnswer })
            .on("torn", |Json(fine): Json<bool>| async move {
                match fine {
                    true => Ok(NoAnswer),
                    false => Err(EventError::new("NO", "Not so")),
                }
            });
    let (_gateway, address) = start(builder).await;
    let mut client = Client::connect(&address, "").await;
    client
        .send_all(&[r#"421["shy"]"#, r#"422["nobody"]"#, r#"423["torn",true]"#])
        .await;
    client.send(r#"424["torn",false]"#).await;
    let answers = heard(&mut client).await;
    assert_eq!(
        answers,
        [r#"434[{"ok":false,"error":"Not so","code":"NO"}]"#]
    );
    // The live protocol knows no silence about its own frames.
    let mut live = Client::live(&address, "").await;
    live.send(r#"{"type":"emit","event":"nobody","id":1}"#)
        .await;
    assert!(live.next().await.contains("not-implemented"));
}

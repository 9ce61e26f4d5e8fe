//! What an app builds on: its handlers' scopes and arguments, who is let in, whom it speaks
//! to, what it remembers, and its side of HTTP; over real sockets.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

mod admission;
mod arguments;
mod engineio;
mod first_request;
mod http;
mod memory;
mod scopes;
mod settings;
mod speaking;
#[path = "../support/mod.rs"]
mod support;

use heartline::config::Announce;
use heartline::{Config, Gateway, GatewayBuilder, Json, Socket};
use support::{Client, Names};

/// Nobody hears of users who come and go.
fn config() -> Config {
    let mut config = support::config();
    config.namespaces.get_mut("/").unwrap().announce = Announce::Off;
    config
}

/// A configuration with these namespaces and `/`.
fn with_namespaces(names: &[&str]) -> Config {
    let mut config = config();
    let open = config.namespaces["/"].clone();
    for name in names {
        config.namespaces.insert((*name).to_owned(), open.clone());
    }
    config
}

/// A gateway whose clients can ask whether they have heard all, and can join rooms.
fn app(config: Config) -> GatewayBuilder {
    Gateway::builder(config)
        .authenticator(Names)
        .on("probe", || async {})
        .on(
            "enter",
            |socket: Socket, Json(room): Json<String>| async move { socket.join(&room).await },
        )
}

async fn user(address: &str, token: &str) -> Client {
    Client::connect(address, &format!(r#"{{"token":"{token}"}}"#)).await
}

async fn enter(client: &mut Client, room: &str) {
    let answered = client
        .hear_until(&format!(r#"4288["enter","{room}"]"#), "4388[]")
        .await;
    assert!(answered.iter().all(|heard| heard.contains("room:joined")));
}

/// What has come so far.
async fn heard(client: &mut Client) -> Vec<String> {
    client.hear_until(r#"4299["probe"]"#, "4399[").await
}

/// What a live client has heard so far.
async fn live_heard(client: &mut Client) -> Vec<String> {
    let probe = r#"{"type":"emit","event":"probe","id":99}"#;
    client.hear_until(probe, r#""id":99"#).await
}

fn panics<T>(value: T) -> T {
    assert_eq!(std::env::args().count(), 0, "the app's fault");
    value
}

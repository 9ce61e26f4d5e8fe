//! Who belongs to a conversation, what that opens, how far members have read, and how they come
//! by an invite.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

#[path = "../support/conversations_of.rs"]
mod conversations_of;
mod invites;
#[path = "../support/invites_of.rs"]
mod invites_of;
mod members;
mod reading;
#[path = "../support/stalled.rs"]
mod stalled;
#[path = "../support/mod.rs"]
mod support;

use std::sync::Arc;
use std::time::Duration;

use heartline::auth::UserKey;
use heartline::config::ConversationsConfig;
use heartline::store::conversations::Added;
use heartline::{Config, Gateway, GatewayBuilder};
use stalled::Stalled;
use support::{Client, Names, config, hears_nothing_of, live, socketio, start, until};

/// A store that takes its time to say who belongs to a conversation.
fn slow() -> Stalled {
    let store = Stalled::default();
    *store.reads.lock().unwrap() = Duration::from_millis(20);
    store
}

/// Where conversations are open to their members alone.
fn gateway() -> GatewayBuilder {
    gateway_with(false, slow())
}

/// The same, in which readers may be told to the room.
fn gateway_with(receipts: bool, store: Stalled) -> GatewayBuilder {
    let config = Config {
        hello: true,
        conversations: ConversationsConfig {
            receipts,
            ..ConversationsConfig::default()
        },
        ..config()
    };
    Gateway::builder(config).authenticator(Names).store(store)
}

fn user(id: &str) -> Arc<UserKey> {
    Arc::new(UserKey {
        tenant_id: None,
        user_id: id.into(),
        user_type: None,
    })
}

async fn add(gateway: &Gateway, id: &str) {
    let added = gateway.add_members("1", &[user(id)]).await;
    assert_eq!(added, [Ok(Added::New)]);
}

async fn members(gateway: &Gateway) -> Vec<String> {
    let page = gateway.conversation_members(None, "1", None, 100).await;
    let members = page.unwrap().unwrap().items.into_iter();
    members.map(|member| member.user_id).collect()
}

/// The answer to an event of a Socket.IO client.
async fn ask(client: &mut Client, event: &str, data: &str) -> String {
    client.send(&format!(r#"429["{event}",{data}]"#)).await;
    client.hear("439[").await
}

const SAY: &str = r#"{"conversationId":"1","content":"hello"}"#;

/// Whether each way into conversation 1 is open to a client of either protocol.
async fn is_open(address: &str, token: &str) -> bool {
    let mut client = socketio(address, token).await;
    let mut opened = Vec::new();
    for (event, data) in [
        ("join", r#""conversation:1""#),
        ("join:conversation", r#"1"#),
        ("history:get", r#"{"conversationId":"1"}"#),
        ("message:send", SAY),
        (
            "publish",
            r#"{"room":"conversation:1","event":"e","data":1}"#,
        ),
    ] {
        let answer = ask(&mut client, event, data).await;
        let ok = answer.contains(r#""ok":true"#);
        assert!(ok || answer.contains("FORBIDDEN"), "{answer}");
        opened.push(ok);
    }
    let mut listener = live(address, token).await;
    let subscribe = r#"{"type":"subscribe","topic":"conversation:1","id":7}"#;
    listener.send(subscribe).await;
    let answer = listener.hear(r#""id":7"#).await;
    let ok = answer.contains("subscribed");
    assert!(ok || answer.contains("FORBIDDEN"), "{answer}");
    opened.push(ok);
    assert!(opened.iter().all(|one| *one == opened[0]), "{opened:?}");
    opened[0]
}

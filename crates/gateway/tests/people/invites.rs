//! Who comes by an invite, and which invites do not hold.

use std::sync::atomic::{AtomicUsize, Ordering};

use heartline::auth::BoxFuture;
use heartline::store::invites::{Invite, InviteQuery, Invites, NewInvite, Unusable, Used};
use heartline::store::memory::MemoryStore;
use heartline::store::{History, HistoryQuery, MessageStore, NewMessage, StoreError, Stored, Tell};
use tokio::sync::Semaphore;

use super::*;

async fn invite(gateway: &Gateway, max_uses: Option<u32>, expires_at: Option<u64>) -> String {
    let new = NewInvite {
        conversation_id: "1".into(),
        max_uses,
        expires_at,
        ..NewInvite::default()
    };
    gateway.create_invite(new).await.unwrap().code
}

#[tokio::test(flavor = "multi_thread")]
async fn who_comes_by_an_invite_is_in_whatever_the_token_says_and_uses_one_place() {
    let (gateway, address) = start(gateway()).await;
    let code = invite(&gateway, Some(2), None).await;
    add(&gateway, "ben").await;
    let mut ben = socketio(&address, "ben").await;
    ask(&mut ben, "join", r#""conversation:1""#).await;
    let mut ann = socketio(&address, "ann/lobby").await;
    let paste = format!(r#"{{"code":" https://app.example/invite/{code}/?x=1#y "}}"#);
    for _ in 0..3 {
        let answer = ask(&mut ann, "invite:join", &paste).await;
        let expected = r#"[{"ok":true,"conversationId":"1","room":"conversation:1"}]"#;
        assert!(answer.ends_with(expected), "{answer}");
    }
    assert!(
        ben.hear("member:joined")
            .await
            .contains(r#""userId":"ann""#)
    );
    assert!(is_open(&address, "ann/lobby").await);
    let mut eve = live(&address, "eve").await;
    let frame = format!(r#"{{"type":"emit","event":"invite:join","data":"{code}","id":7}}"#);
    eve.send(&frame).await;
    assert!(eve.hear(r#""id":7"#).await.contains(r#""ok":true"#));
    let mut dan = socketio(&address, "dan").await;
    let answer = ask(&mut dan, "invite:join", &format!(r#""{code}""#)).await;
    assert!(answer.contains("INVITE_EXHAUSTED"), "{answer}");
    let used = gateway.store().invite(&code).await.unwrap().unwrap();
    assert_eq!(used.uses, 2);
    assert_eq!(members(&gateway).await, ["ann", "ben", "eve"]);
    // Who was put out comes back while the invite holds, and not when it is taken back.
    let put_out = async || assert_eq!(gateway.remove_member("1", &user("ann")).await, Ok(true));
    put_out().await;
    assert!(!is_open(&address, "ann/lobby").await);
    let answer = ask(&mut ann, "invite:join", &paste).await;
    assert!(answer.contains(r#""ok":true"#), "{answer}");
    assert_eq!(
        gateway.store().invite(&code).await.unwrap().unwrap().uses,
        2
    );
    // Who comes back by a token is no invited member, and is one again by the invite.
    put_out().await;
    assert!(is_open(&address, "ann/conversation:1").await);
    assert!(!is_open(&address, "ann/lobby").await);
    let answer = ask(&mut ann, "invite:join", &paste).await;
    assert!(answer.contains(r#""ok":true"#), "{answer}");
    assert!(is_open(&address, "ann/lobby").await);
    gateway.store().revoke_invite(&code, 1).await.unwrap();
    let answer = ask(&mut ann, "invite:join", &paste).await;
    assert!(answer.contains(r#""ok":true"#), "{answer}");
    let used = gateway.store().invite(&code).await.unwrap().unwrap();
    assert_eq!(used.uses, 2);
    put_out().await;
    let answer = ask(&mut ann, "invite:join", &paste).await;
    assert!(answer.contains("INVITE_REVOKED"), "{answer}");
}

/// A store in which an invite is used when the test lets it be.
#[derive(Clone)]
struct Gated {
    store: Arc<MemoryStore>,
    gate: Arc<Semaphore>,
    /// How many uses have been asked for.
    asked: Arc<AtomicUsize>,
}

impl MessageStore for Gated {
    fn append(&self, message: NewMessage, tell: Tell) -> BoxFuture<Result<Stored, StoreError>> {
        self.store.append(message, tell)
    }

    fn history(&self, query: HistoryQuery) -> BoxFuture<Result<History, StoreError>> {
        self.store.history(query)
    }
}

conversations_of::has_conversations_of!(Gated, store);

impl Invites for Gated {
    fn create_invite(&self, code: &str, new: NewInvite) -> BoxFuture<Result<bool, StoreError>> {
        self.store.create_invite(code, new)
    }

    fn invite(&self, code: &str) -> BoxFuture<Result<Option<Invite>, StoreError>> {
        self.store.invite(code)
    }

    fn invites(&self, query: InviteQuery) -> BoxFuture<Result<Vec<Invite>, StoreError>> {
        self.store.invites(query)
    }

    fn revoke_invite(&self, code: &str, now: u64) -> BoxFuture<Result<Option<Invite>, StoreError>> {
        self.store.revoke_invite(code, now)
    }

    fn use_invite(
        &self,
        code: &str,
        user: &Arc<UserKey>,
        now: u64,
    ) -> BoxFuture<Result<Result<Used, Unusable>, StoreError>> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        let (all, code, user) = (self.clone(), code.to_owned(), user.clone());
        Box::pin(async move {
            all.gate.acquire().await.unwrap().forget();
            all.store.use_invite(&code, &user, now).await
        })
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_client_says_behind_an_invite_finds_it_used() {
    let store = Gated {
        store: Arc::default(),
        gate: Arc::new(Semaphore::new(0)),
        asked: Arc::default(),
    };
    let gate = store.gate.clone();
    let asked = store.asked.clone();
    let config = Config {
        hello: true,
        conversations: ConversationsConfig::default(),
        ..config()
    };
    let builder = Gateway::builder(config).authenticator(Names).store(store);
    let (gateway, address) = start(builder).await;
    let code = invite(&gateway, None, None).await;
    let mut other = socketio(&address, "other").await;
    let mut ann = socketio(&address, "ann").await;
    ann.send_all(&[
        &format!(r#"421["invite:join","{code}"]"#),
        r#"422["join","conversation:1"]"#,
        &format!(r#"423["message:send",{SAY}]"#),
    ])
    .await;
    let mut bob = live(&address, "bob").await;
    bob.send_all(&[
        &format!(r#"{{"type":"emit","event":"invite:join","data":"{code}","id":1}}"#),
        r#"{"type":"subscribe","topic":"conversation:1","id":2}"#,
        &format!(r#"{{"type":"emit","event":"message:send","data":{SAY},"id":3}}"#),
    ])
    .await;
    until(|| asked.load(Ordering::SeqCst) == 2).await;
    // All that can be done is.
    ask(&mut other, "ping", "1").await;
    gate.add_permits(2);
    for _ in 0..3 {
        let answer = ann.hear(r#"[{"ok":"#).await;
        assert!(answer.contains(r#""ok":true"#), "{answer}");
    }
    let joined = bob.hear(r#""id":2"#).await;
    assert!(joined.contains("subscribed"), "{joined}");
    let answer = bob.hear(r#""id":3"#).await;
    assert!(answer.contains(r#""ok":true"#), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn invites_that_do_not_hold_say_why_and_guesses_are_limited() {
    let (gateway, address) = start(gateway()).await;
    let expired = invite(&gateway, None, Some(1)).await;
    let good = invite(&gateway, None, None).await;
    let mut nobody = Client::connect(&address, "").await;
    let answer = ask(&mut nobody, "invite:join", &format!(r#""{good}""#)).await;
    assert!(answer.contains("AUTH_REQUIRED"), "{answer}");
    let answer = ask(&mut nobody, "invite:join", "{}").await;
    assert!(answer.contains("AUTH_REQUIRED"), "{answer}");
    let mut ann = socketio(&address, "ann").await;
    for (pasted, code) in [
        (format!(r#""{expired}""#), "INVITE_EXPIRED"),
        (r#""no code""#.to_owned(), "INVALID_INVITE"),
        (r#"{"cod":"x"}"#.to_owned(), "INVALID_INVITE"),
        (r#"{"code":123}"#.to_owned(), "INVALID_INVITE"),
        ("null".to_owned(), "INVALID_INVITE"),
    ] {
        for _ in 0..12 {
            let answer = ask(&mut ann, "invite:join", &pasted).await;
            assert!(answer.contains(code), "{answer}");
        }
    }
    for _ in 0..10 {
        let answer = ask(&mut ann, "invite:join", r#""0123456789""#).await;
        assert!(answer.contains("INVITE_NOT_FOUND"), "{answer}");
    }
    // Neither she nor anybody at her address, until a minute is over.
    let mut ben = socketio(&address, "ben").await;
    for client in [&mut ann, &mut ben] {
        let answer = ask(client, "invite:join", &format!(r#""{good}""#)).await;
        assert!(
            answer.contains("RATE_LIMITED") && answer.contains("retryAfterMs"),
            "{answer}"
        );
    }
    // A backend's address is nobody's.
    let welcome = gateway.join_by_invite(&good, &user("ben"), None).await;
    assert_eq!(welcome.unwrap().room, "conversation:1");
}

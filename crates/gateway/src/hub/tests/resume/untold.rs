//! Messages that were stored by a killed process, and of which nobody was told.

use std::sync::atomic::{AtomicBool, Ordering};

use heartline_core::store::memory::MemoryStore;
use heartline_core::store::{
    Channel, History, HistoryQuery, MessageStore, NewMessage, StoreError, Stored, StoredMessage,
    Tell,
};
use tokio::sync::oneshot;

use super::killed::{journaled, killed};
use super::*;
use crate::hub::tests::{conversations_of, invites_of};

/// A store that outlives its gateway, and lets nobody read while it is held.
#[derive(Clone)]
pub(super) struct Durable(Arc<MemoryStore>, Arc<tokio::sync::Semaphore>);

impl Default for Durable {
    fn default() -> Self {
        let open = tokio::sync::Semaphore::new(1);
        Durable(Arc::default(), Arc::new(open))
    }
}

impl Durable {
    /// Another way into the store, of which nobody hears: so it is when a process ends there.
    fn stores(&self, temp_id: &str) {
        let new = NewMessage {
            sender: Arc::new(UserKey {
                tenant_id: None,
                user_id: "ann".into(),
                user_type: None,
            }),
            channel: Channel::Conversation("1".into()),
            content: temp_id.into(),
            temp_id: Some(temp_id.into()),
            created_at: 7,
        };
        drop(self.append(new, Box::new(|_| ())));
    }
}

/// Ann writes a message, which is its own name.
fn writes(ann: &mut Tracking, world: &mut World, text: &str) {
    let data = format!(r#"{{"conversationId":"1","content":"{text}","tempId":"{text}"}}"#);
    ann.asks(world, &format!(r#"42["message:send",{data}]"#));
}

/// The messages of which Ann was told.
fn messages(ann: &mut Tracking) -> Vec<String> {
    let got = ann.got().into_iter();
    let told = got.filter_map(|event| {
        let event: serde_json::Value = serde_json::from_str(&event).unwrap();
        let content = event[1]["content"].as_str()?.to_owned();
        (event[0] == "message:new").then_some(content)
    });
    told.collect()
}

impl MessageStore for Durable {
    fn append(&self, new: NewMessage, tell: Tell) -> BoxFuture<Result<Stored, StoreError>> {
        self.0.append(new, tell)
    }

    fn history(&self, query: HistoryQuery) -> BoxFuture<Result<History, StoreError>> {
        let (store, open) = (self.0.clone(), self.1.clone());
        Box::pin(async move {
            let _open = open.acquire().await.unwrap();
            store.history(query).await
        })
    }
}

conversations_of::has_conversations_of!(Durable, 0);
invites_of::has_invites_of!(Durable, 0);

/// A store whose messages can be read some time before whoever stored them hears of it, while it is
/// told to be slow.
#[derive(Clone, Default)]
struct Slow {
    store: Durable,
    is_slow: Arc<AtomicBool>,
    untold: Arc<Mutex<Vec<(Tell, StoredMessage, oneshot::Sender<()>)>>>,
}

impl Slow {
    /// Whoever has stored something hears of it.
    fn tells(&self) {
        let untold = std::mem::take(&mut *self.untold.lock().unwrap());
        for (tell, message, told) in untold {
            tell(&message);
            let _ = told.send(());
        }
    }
}

impl MessageStore for Slow {
    fn append(&self, new: NewMessage, tell: Tell) -> BoxFuture<Result<Stored, StoreError>> {
        if !self.is_slow.load(Ordering::Relaxed) {
            return self.store.append(new, tell);
        }
        let (untold, (told, is_told)) = (self.untold.clone(), oneshot::channel());
        let later = move |message: &StoredMessage| {
            let mut untold = untold.lock().unwrap();
            untold.push((tell, message.clone(), told));
        };
        let stored = self.store.append(new, Box::new(later));
        Box::pin(async move {
            let stored = stored.await;
            let _ = is_told.await;
            stored
        })
    }

    fn history(&self, query: HistoryQuery) -> BoxFuture<Result<History, StoreError>> {
        self.store.history(query)
    }
}

conversations_of::has_conversations_of!(Slow, store.0);
invites_of::has_invites_of!(Slow, store.0);

#[test]
fn a_message_that_is_read_before_its_own_process_hears_of_it_is_notified_of_once() {
    let (config, folder) = journaled("read-before");
    let store = Slow::default();
    let start = || World::with(config.clone(), |builder| builder.store(store.clone()));
    let mut world = start();
    let mut ann = Tracking::new(&mut world, "user=ann rooms=conversation:*");
    ann.asks(&mut world, r#"42["join","conversation:1"]"#);
    // Bob belongs to it, and is in no room.
    let mut bob = Tracking::new(&mut world, "user=bob rooms=conversation:*");
    bob.asks(&mut world, r#"42["join","conversation:1"]"#);
    bob.asks(&mut world, r#"42["leave","conversation:1"]"#);
    writes(&mut ann, &mut world, "one");
    bob.hear(9);
    bob.got();
    killed(world, &folder);
    ann.got();

    let mut world = start();
    ann.return_to(&mut world);
    bob.return_to(&mut world);
    assert!(ann.recovered && bob.recovered);
    let mut cat = Tracking::new(&mut world, "user=cat rooms=conversation:*");
    store.is_slow.store(true, Ordering::Relaxed);
    writes(&mut ann, &mut world, "two");
    store.is_slow.store(false, Ordering::Relaxed);
    // It is found to be missing, and told from the store.
    writes(&mut cat, &mut world, "three");
    ann.hear(9);
    assert_eq!(messages(&mut ann), ["two", "three"]);
    let inside = world.runtime.enter();
    store.tells();
    drop(inside);
    world.settle();
    bob.hear(9);
    let got = bob.got();
    let told = |text| got.iter().filter(|one| one.contains(text)).count();
    assert_eq!((told("\"two\""), told("\"three\"")), (1, 1), "{got:?}");
    ann.hear(9);
    assert_eq!(messages(&mut ann), [""; 0]);
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn a_message_that_was_stored_and_not_told_of_is_told_after_the_kill() {
    let (config, folder) = journaled("untold");
    let store = Durable::default();
    let start = || World::with(config.clone(), |builder| builder.store(store.clone()));
    let mut world = start();
    let mut ann = Tracking::new(&mut world, "user=ann rooms=conversation:*");
    ann.asks(&mut world, r#"42["join","conversation:1"]"#);
    // Bob belongs to it, and is in no room.
    let mut bob = Tracking::new(&mut world, "user=bob rooms=conversation:*");
    bob.asks(&mut world, r#"42["join","conversation:1"]"#);
    bob.asks(&mut world, r#"42["leave","conversation:1"]"#);
    writes(&mut ann, &mut world, "one");
    bob.hear(9);
    let notified = |bob: &mut Tracking| -> Vec<String> {
        let got = bob.got().into_iter();
        got.filter(|one| one.contains("message:notification"))
            .collect()
    };
    assert_eq!(notified(&mut bob).len(), 1);
    store.stores("two");
    killed(world, &folder);
    ann.got();
    let mut world = start();
    ann.return_to(&mut world);
    assert!(ann.recovered);
    world.settle();
    ann.hear(9);
    assert_eq!(messages(&mut ann), ["two"]);
    bob.return_to(&mut world);
    assert!(bob.recovered);
    bob.hear(9);
    let told = notified(&mut bob);
    assert_eq!(told.len(), 1, "{told:?}");
    let expected = r#"["message:notification",{"conversationId":"1","message":{"content":"two","#;
    assert!(told[0].starts_with(expected), "{told:?}");
    // It is told once.
    killed(world, &folder);
    let mut world = start();
    ann.return_to(&mut world);
    world.settle();
    ann.hear(9);
    assert!(ann.recovered && ann.got().is_empty());
    world.settle();
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn messages_of_a_killed_process_and_those_of_the_next_are_told_once_and_in_order() {
    let (config, folder) = journaled("in-doubt");
    let store = Durable::default();
    let start = || World::with(config.clone(), |builder| builder.store(store.clone()));
    let mut world = start();
    let mut ann = Tracking::new(&mut world, "user=ann rooms=conversation:*");
    ann.asks(&mut world, r#"42["join","conversation:1"]"#);
    writes(&mut ann, &mut world, "one");
    store.stores("two");
    killed(world, &folder);
    ann.got();

    // The next has not read yet what the one before has left, and writes already.
    let held = store.1.clone().try_acquire_owned().unwrap();
    let mut world = start();
    ann.return_to(&mut world);
    assert!(ann.recovered);
    writes(&mut ann, &mut world, "three");
    assert_eq!(messages(&mut ann), Vec::<String>::new());
    drop(held);
    world.settle();
    ann.hear(9);
    assert_eq!(messages(&mut ann), ["two", "three"]);
    writes(&mut ann, &mut world, "four");
    assert_eq!(messages(&mut ann), ["four"]);

    // The database is still storing what the killed one had sent to it.
    store.stores("five");
    writes(&mut ann, &mut world, "six");
    world.settle();
    ann.hear(9);
    assert_eq!(messages(&mut ann), ["five", "six"]);
    // Who sends it again is told that it is there; so are the others.
    store.stores("seven");
    writes(&mut ann, &mut world, "seven");
    world.settle();
    ann.hear(9);
    assert_eq!(messages(&mut ann), ["seven"]);
    world.run(Duration::from_secs(61));
    writes(&mut ann, &mut world, "eight");
    assert_eq!(messages(&mut ann), ["eight"]);
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn a_store_that_has_lost_its_messages_tells_of_new_ones() {
    let (config, folder) = journaled("another-store");
    let start = |store: &Durable| {
        let store = store.clone();
        World::with(config.clone(), |builder| builder.store(store))
    };
    let mut world = start(&Durable::default());
    let mut ann = Tracking::new(&mut world, "user=ann rooms=conversation:*");
    ann.asks(&mut world, r#"42["join","conversation:1"]"#);
    for text in ["one", "two", "three"] {
        writes(&mut ann, &mut world, text);
    }
    killed(world, &folder);
    ann.got();
    let store = Durable::default();
    let held = store.1.clone().try_acquire_owned().unwrap();
    let mut world = start(&store);
    ann.return_to(&mut world);
    writes(&mut ann, &mut world, "new");
    drop(held);
    world.settle();
    ann.hear(9);
    writes(&mut ann, &mut world, "newer");
    assert_eq!(messages(&mut ann), ["new", "newer"]);
    std::fs::remove_dir_all(folder).unwrap();
}

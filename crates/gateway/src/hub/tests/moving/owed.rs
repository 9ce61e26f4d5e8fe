//! Messages that a node has stored, and was killed before it told anybody of them: another tells.

use heartline_core::store::memory::MemoryStore;
use heartline_core::store::{
    Channel, History, HistoryQuery, MessageStore, NewMessage, StoreError, Stored, Tell,
};

use super::super::resume::{Tracking, kept};
use super::super::*;
use super::{Cluster, come};
use crate::hub::tests::{conversations_of, invites_of};

/// A store that both nodes have.
#[derive(Clone, Default)]
struct Common(Arc<MemoryStore>);

impl Common {
    /// A node stores a message, and ends there.
    fn stores(&self, text: &str) {
        self.stores_in("1", text);
    }

    /// The same in another conversation.
    fn stores_in(&self, conversation: &str, text: &str) {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let new = NewMessage {
            sender: Arc::new(UserKey {
                tenant_id: None,
                user_id: "joe".into(),
                user_type: None,
            }),
            channel: Channel::Conversation(conversation.into()),
            content: text.into(),
            temp_id: Some(text.into()),
            created_at: since.as_millis() as u64 + 60_000,
        };
        drop(self.append(new, Box::new(|_| ())));
    }
}

impl MessageStore for Common {
    fn append(&self, new: NewMessage, tell: Tell) -> BoxFuture<Result<Stored, StoreError>> {
        self.0.append(new, tell)
    }

    fn history(&self, query: HistoryQuery) -> BoxFuture<Result<History, StoreError>> {
        self.0.history(query)
    }

    fn take_job(
        &self,
        name: &'static str,
        owner: &str,
        now: u64,
        until: u64,
    ) -> BoxFuture<Result<(Option<u64>, bool), StoreError>> {
        self.0.take_job(name, owner, now, until)
    }

    fn end_job(
        &self,
        name: &'static str,
        owner: &str,
        done: Option<u64>,
    ) -> BoxFuture<Result<(), StoreError>> {
        self.0.end_job(name, owner, done)
    }

    fn is_shared(&self) -> bool {
        true
    }
}

conversations_of::has_conversations_of!(Common, 0);
invites_of::has_invites_of!(Common, 0);

const TOKEN: &str = "user=joe rooms=conversation:*";

/// Two nodes with one store; what is said in all rooms is kept, or in none.
fn cluster(is_kept: bool) -> (Cluster, Common) {
    let (mut config, store) = (kept(), Common::default());
    if !is_kept {
        config.recovery.rooms = Vec::new();
    }
    let common = store.clone();
    let cluster = Cluster::filled(&config, move |builder| builder.store(common.clone()));
    (cluster, store)
}

fn write(text: &str) -> String {
    let data = format!(r#"{{"conversationId":"1","content":"{text}","tempId":"{text}"}}"#);
    format!(r#"42["message:send",{data}]"#)
}

/// The texts of the messages among what was heard.
fn texts(heard: Vec<String>) -> Vec<String> {
    let told = heard.into_iter().filter_map(|event| {
        let event = event.strip_prefix("42").unwrap_or(&event).to_owned();
        let event: serde_json::Value = serde_json::from_str(&event).ok()?;
        let content = event[1]["content"].as_str()?.to_owned();
        (event[0] == "message:new").then_some(content)
    });
    told.collect()
}

/// So much time passes, for both nodes.
fn pass(cluster: &mut Cluster, seconds: u64) {
    for _ in 0..seconds * 2 {
        for world in &mut cluster.worlds {
            world.run(Duration::from_millis(500));
        }
        cluster.settle();
    }
}

fn member(cluster: &mut Cluster, node: usize) -> Client {
    let mut bob = cluster.worlds[node].socketio("user=bob rooms=conversation:*");
    bob.says(r#"42["join","conversation:1"]"#);
    cluster.settle();
    bob.hears();
    bob
}

#[test]
fn what_a_killed_node_has_stored_is_told_when_its_sender_repeats_it_elsewhere() {
    for is_kept in [true, false] {
        let (mut cluster, store) = cluster(is_kept);
        let mut bob = member(&mut cluster, 1);
        let mut joe = cluster.worlds[1].socketio(TOKEN);
        joe.says(&write("one"));
        cluster.settle();
        assert_eq!(texts(bob.hears()), ["one"], "{is_kept}");
        store.stores("two");
        joe.says(&write("two"));
        pass(&mut cluster, 7);
        assert_eq!(texts(bob.hears()), ["two"], "{is_kept}");
        // It is told once.
        joe.says(&write("two"));
        pass(&mut cluster, 14);
        assert!(texts(bob.hears()).is_empty(), "{is_kept}");
    }
}

#[test]
fn what_a_killed_node_has_stored_is_told_when_the_next_message_shows_that_it_is_missing() {
    for is_kept in [true, false] {
        let (mut cluster, store) = cluster(is_kept);
        let mut bob = member(&mut cluster, 1);
        let mut joe = cluster.worlds[1].socketio(TOKEN);
        // What is said within moments of its opening a room may have been told before it.
        pass(&mut cluster, 4);
        joe.says(&write("one"));
        store.stores("two");
        joe.says(&write("three"));
        pass(&mut cluster, 8);
        assert_eq!(texts(bob.hears()), ["one", "three", "two"], "{is_kept}");
        pass(&mut cluster, 14);
        assert!(texts(bob.hears()).is_empty(), "{is_kept}");
    }
}

#[test]
fn what_a_killed_node_has_stored_is_told_when_nobody_says_anything_any_more() {
    for is_kept in [true, false] {
        let (mut cluster, store) = cluster(is_kept);
        // What is not kept goes from node to node by another way, which is not there.
        let nodes = if is_kept { 0..2 } else { 1..2 };
        let mut bobs: Vec<_> = nodes.map(|node| member(&mut cluster, node)).collect();
        pass(&mut cluster, 2);
        store.stores("one");
        cluster.meeting.lock().unwrap().is_gone = true;
        pass(&mut cluster, 9);
        for bob in &mut bobs {
            assert_eq!(texts(bob.hears()), ["one"], "{is_kept}");
        }
        pass(&mut cluster, 20);
        for bob in &mut bobs {
            assert!(texts(bob.hears()).is_empty(), "{is_kept}");
        }
    }
}

#[test]
fn who_goes_on_where_nobody_was_before_hears_what_their_node_told_nobody() {
    let (mut cluster, store) = cluster(true);
    let mut ann = Tracking::new(&mut cluster.worlds[0], "user=ann rooms=conversation:*");
    ann.asks(&mut cluster.worlds[0], r#"42["join","conversation:1"]"#);
    cluster.settle();
    ann.hear(9);
    store.stores("one");
    cluster.meeting.lock().unwrap().is_gone = true;
    pass(&mut cluster, 1);
    come(&mut cluster, &mut ann, 1);
    assert!(ann.recovered);
    pass(&mut cluster, 9);
    ann.hear(9);
    assert_eq!(texts(ann.got()), ["one"]);
}

#[test]
fn a_room_that_is_not_here_any_more_is_owed_nothing() {
    let (mut cluster, store) = cluster(false);
    let mut bob = member(&mut cluster, 1);
    let mut joe = cluster.worlds[1].socketio(TOKEN);
    // Who has written is a member, and hears of what is told as somebody who is not in the room.
    let mut ann = cluster.worlds[1].socketio("user=ann rooms=conversation:*");
    ann.says(&write("one"));
    cluster.settle();
    store.stores("two");
    joe.says(&write("three"));
    cluster.settle();
    assert_eq!(texts(bob.hears()), ["one", "three"]);
    ann.hears();
    bob.says(r#"42["leave","conversation:1"]"#);
    cluster.settle();
    joe.says(&write("four"));
    pass(&mut cluster, 30);
    let heard = ann.hears();
    let told = heard
        .iter()
        .filter(|event| event.contains("message:notification"));
    let told: Vec<&String> = told.collect();
    assert!(told.len() == 1 && told[0].contains("four"), "{told:?}");
}

#[test]
fn who_comes_back_into_a_room_that_was_closed_is_owed_nothing_of_what_was_said_meanwhile() {
    let (mut cluster, _) = cluster(false);
    let mut bob = member(&mut cluster, 1);
    let mut joe = cluster.worlds[1].socketio(TOKEN);
    joe.says(&write("one"));
    cluster.settle();
    bob.says(r#"42["leave","conversation:1"]"#);
    cluster.settle();
    joe.says(&write("two"));
    cluster.settle();
    bob.says(r#"42["join","conversation:1"]"#);
    cluster.settle();
    joe.says(&write("three"));
    pass(&mut cluster, 20);
    assert_eq!(texts(bob.hears()), ["one", "three"]);
}

#[test]
fn what_many_rooms_are_owed_is_told_together() {
    let (mut cluster, store) = cluster(false);
    let mut bob = cluster.worlds[1].socketio("user=bob rooms=conversation:*");
    let all: Vec<String> = (1..=40).map(|id| id.to_string()).collect();
    for id in &all {
        bob.says(&format!(r#"42["join","conversation:{id}"]"#));
    }
    pass(&mut cluster, 2);
    bob.hears();
    for id in &all {
        store.stores_in(id, id);
    }
    cluster.meeting.lock().unwrap().is_gone = true;
    pass(&mut cluster, 14);
    let mut told = texts(bob.hears());
    told.sort_by_key(|text| text.parse::<u32>().ok());
    assert_eq!(told, all);
}

#[test]
fn what_a_database_stores_that_had_been_given_up_is_told_on_a_node_alone() {
    let store = Common::default();
    let common = store.clone();
    let mut world = World::with(kept(), move |builder| builder.store(common.clone()));
    let mut bob = world.socketio("user=bob rooms=conversation:*");
    bob.says(r#"42["join","conversation:1"]"#);
    world.settle();
    bob.hears();
    let mut joe = world.socketio(TOKEN);
    joe.says(&write("one"));
    world.settle();
    store.stores("two");
    joe.says(&write("two"));
    // For a minute after its start it looks for what an earlier process has left behind.
    for _ in 0..150 {
        world.run(Duration::from_millis(500));
    }
    assert_eq!(texts(bob.hears()), ["one", "two"]);
}

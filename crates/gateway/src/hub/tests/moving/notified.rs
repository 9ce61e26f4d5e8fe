//! What is told instead of a room's events, and waits until the store has said whether it is for the
//! socket: meanwhile later things are told, and the client may be cut off.

use std::sync::atomic::{AtomicUsize, Ordering};

use heartline_core::store::conversations::{
    Added, Conversations, Inbox, InboxQuery, Marked, Member, Membership,
};
use heartline_core::store::memory::MemoryStore;
use heartline_core::store::{
    History, HistoryQuery, MessageStore, NewMessage, StoreError, Stored, Tell,
};
use tokio::sync::Semaphore;

use super::super::resume::{Tracking, kept, said};
use super::super::*;
use super::{Cluster, come};

/// A store that says who the members are as often as its gate lets it, and fails when that is closed.
struct Gated(Arc<MemoryStore>, Arc<Semaphore>);

impl MessageStore for Gated {
    fn append(&self, new: NewMessage, tell: Tell) -> BoxFuture<Result<Stored, StoreError>> {
        self.0.append(new, tell)
    }

    fn history(&self, query: HistoryQuery) -> BoxFuture<Result<History, StoreError>> {
        self.0.history(query)
    }
}

impl Conversations for Gated {
    fn add_member(
        &self,
        id: &str,
        user: &Arc<UserKey>,
        membership: Membership,
        now: u64,
    ) -> BoxFuture<Result<Added, StoreError>> {
        self.0.add_member(id, user, membership, now)
    }

    fn remove_member(&self, id: &str, user: &Arc<UserKey>) -> BoxFuture<Result<bool, StoreError>> {
        self.0.remove_member(id, user)
    }

    fn members(
        &self,
        tenant: Option<&str>,
        id: &str,
    ) -> BoxFuture<Result<Vec<Member>, StoreError>> {
        let (gate, members) = (self.1.clone(), self.0.members(tenant, id));
        Box::pin(async move {
            match gate.acquire().await {
                Ok(permit) => permit.forget(),
                Err(_) => return Err(StoreError::Failed("no disk".into())),
            }
            members.await
        })
    }

    fn mark_read(
        &self,
        id: &str,
        user: &Arc<UserKey>,
        offset: u64,
        now: u64,
    ) -> BoxFuture<Result<Option<Marked>, StoreError>> {
        self.0.mark_read(id, user, offset, now)
    }

    fn inbox(&self, query: InboxQuery) -> BoxFuture<Result<Inbox, StoreError>> {
        self.0.inbox(query)
    }
}

crate::hub::tests::invites_of::has_invites_of!(Gated, 0);

/// Two nodes with one store, of which the second has no answer before its gate lets it; Ann, who
/// was made a member of two conversations, is there, and Joe is at the first.
struct Scene {
    cluster: Cluster,
    gate: Arc<Semaphore>,
    ann: Tracking,
    joe: Client,
}

impl Scene {
    fn new(token: &str) -> Scene {
        let store = Arc::new(MemoryStore::default());
        let gates = [99, 0].map(|count| Arc::new(Semaphore::new(count)));
        let made = AtomicUsize::new(0);
        let mut cluster = Cluster::filled(&kept(), |builder| {
            let gate = gates[made.fetch_add(1, Ordering::Relaxed)].clone();
            builder.store(Gated(store.clone(), gate))
        });
        let ann = Arc::new(UserKey {
            tenant_id: None,
            user_id: "ann".into(),
            user_type: None,
        });
        for id in ["1", "2"] {
            drop(store.add_member(id, &ann, Membership::Invited, 1));
        }
        let mut ann = Tracking::lost(cluster.worlds[1].engineio(), token);
        come(&mut cluster, &mut ann, 1);
        let joe = cluster.worlds[0].socketio("user=joe rooms=conversation:*");
        let [_, gate] = gates;
        Scene {
            cluster,
            gate,
            ann,
            joe,
        }
    }

    /// Joe writes something in a conversation.
    fn writes(&mut self, id: &str, text: &str) {
        let data = format!(r#"{{"conversationId":"{id}","content":"{text}"}}"#);
        self.joe.says(&format!(r#"42["message:send",{data}]"#));
        self.cluster.settle();
    }

    /// Something is said to Ann, whatever the store says.
    fn says(&mut self, text: &str) {
        said(&self.cluster.worlds[0], "user:ann", text);
        self.cluster.settle();
    }

    /// The store answers so many questions more.
    fn answers(&mut self, count: usize) {
        self.gate.add_permits(count);
        self.cluster.settle();
    }

    /// What Ann has heard since this was last asked: texts, and that something is lost.
    fn heard(&mut self) -> Vec<String> {
        self.ann.hear(usize::MAX);
        let got = self.ann.got().into_iter();
        let heard = got.filter_map(|event| {
            let event: serde_json::Value = serde_json::from_str(&event).unwrap();
            let text = match event[0].as_str()? {
                "news" => &event[1],
                "message:notification" => &event[1]["message"]["content"],
                "room:gap" => &event[0],
                _ => return None,
            };
            Some(text.as_str().unwrap().to_owned())
        });
        heard.collect()
    }

    /// Ann is cut off, which her node notices or not, and comes to the other one.
    fn moves(&mut self, is_noticed: bool) {
        if is_noticed {
            self.ann.is_cut(&mut self.cluster.worlds[1]);
        }
        come(&mut self.cluster, &mut self.ann, 0);
    }
}

const INVITED: &str = "user=ann rooms=lobby";

#[test]
fn who_is_cut_off_while_the_store_is_asked_begins_afresh() {
    for is_noticed in [true, false] {
        let mut scene = Scene::new(INVITED);
        scene.writes("1", "one");
        scene.says("two");
        assert_eq!(scene.heard(), ["two"]);
        scene.moves(is_noticed);
        assert!(!scene.ann.recovered, "{is_noticed}");
    }
}

#[test]
fn what_comes_late_does_not_bring_back_what_came_before_it() {
    for is_noticed in [true, false] {
        let mut scene = Scene::new(INVITED);
        scene.writes("1", "one");
        scene.says("two");
        scene.answers(1);
        assert_eq!(scene.heard(), ["two", "one"]);
        // Whether the late one has come, its place does not tell.
        scene.moves(is_noticed);
        assert_eq!(scene.heard(), [""; 0], "{is_noticed}");
        assert!(!scene.ann.recovered);
    }
    // What comes behind it does.
    for is_noticed in [true, false] {
        let mut scene = Scene::new(INVITED);
        scene.writes("1", "one");
        scene.says("two");
        scene.answers(1);
        scene.says("three");
        assert_eq!(scene.heard(), ["two", "one", "three"]);
        scene.moves(is_noticed);
        assert!(scene.ann.recovered, "{is_noticed}");
        assert_eq!(scene.heard(), [""; 0]);
    }
}

#[test]
fn of_several_that_wait_each_has_to_come() {
    for answers in [1, 2] {
        let mut scene = Scene::new(INVITED);
        scene.writes("1", "one");
        scene.writes("2", "two");
        scene.says("three");
        scene.answers(answers);
        scene.says("four");
        let all = ["three", "one", "two", "four"];
        let heard = scene.heard();
        let expected = all.iter().filter(|one| answers == 2 || **one != "two");
        assert!(heard.iter().eq(expected), "{heard:?}");
        scene.moves(true);
        assert_eq!(scene.ann.recovered, answers == 2);
        assert_eq!(scene.heard(), [""; 0]);
    }
}

#[test]
fn what_the_store_has_no_answer_about_is_told_as_lost() {
    let mut scene = Scene::new(INVITED);
    scene.writes("1", "one");
    scene.says("two");
    scene.gate.close();
    scene.cluster.settle();
    assert_eq!(scene.heard(), ["two", "room:gap"]);
    scene.says("three");
    assert_eq!(scene.heard(), ["three"]);
    scene.moves(true);
    assert!(scene.ann.recovered);
    assert_eq!(scene.heard(), [""; 0]);

    // One that hangs is not waited for.
    let mut scene = Scene::new(INVITED);
    scene.writes("1", "one");
    scene.cluster.worlds[1].run(seconds(11));
    assert_eq!(scene.heard(), ["room:gap"]);
}

#[test]
fn who_needs_no_invitation_is_told_at_once() {
    let mut scene = Scene::new("user=ann");
    scene.writes("1", "one");
    scene.says("two");
    assert_eq!(scene.heard(), ["one", "two"]);
}

#[test]
fn who_was_invited_goes_on_at_a_node_that_was_not_asked_before() {
    let mut scene = Scene::new(INVITED);
    scene.says("one");
    assert_eq!(scene.heard(), ["one"]);
    scene.ann.is_cut(&mut scene.cluster.worlds[1]);
    scene.writes("1", "two");
    scene.gate.add_permits(1);
    come(&mut scene.cluster, &mut scene.ann, 1);
    assert!(scene.ann.recovered);
    assert_eq!(scene.heard(), ["two"]);
}

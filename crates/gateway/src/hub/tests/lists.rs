//! Lists of the operators' API are made in many turns, and miss nobody.

use heartline_core::entries::RoomEntry;
use heartline_core::namespaces::NamespaceId;
use tokio::sync::oneshot;

use super::*;
use crate::op::{Chosen, FIRST_CHOICE, Op, Query, RoomFilter, Selection};

/// More than a turn looks at.
const MANY: usize = 2_500;

impl World {
    /// What comes of something that waits for the shard's turns.
    pub(super) fn finish<T: Send + 'static>(
        &mut self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> T {
        let mut begun = self.begin(work);
        self.run(ms(1));
        assert!(begun.is_finished(), "it waits for something else");
        self.runtime.block_on(&mut begun).unwrap()
    }

    /// What one turn answers.
    fn in_one_turn<T>(&mut self, question: impl FnOnce(oneshot::Sender<T>) -> Query) -> T {
        let (reply, mut answer) = oneshot::channel();
        let fanout = self.gateway.shared.fanout.clone();
        fanout.post(0, Op::Query(question(reply)));
        self.harness.turn();
        answer.try_recv().expect("an answer in one turn")
    }
}

#[test]
fn many_rooms_are_listed_in_several_turns_by_name_and_each_once() {
    let enter = |socket: Socket| async move {
        for number in 0..MANY {
            socket.join(&format!("{number:05}")).await?;
        }
        Ok::<_, crate::EventError>(())
    };
    let mut world = World::with(
        Config {
            max_rooms_per_socket: MANY,
            ..config()
        },
        |builder| builder.on("enter", enter),
    );
    let mut ann = world.socketio("user=ann");
    world.ask(&mut ann, r#"42["enter"]"#);
    let (some, next) = world.in_one_turn(|reply| Query::Rooms {
        filter: RoomFilter::default(),
        from: 0,
        limit: MANY,
        reply,
    });
    assert!(some.len() < MANY && next == Some(some.len()), "{next:?}");
    let (mut names, mut cursor) = (Vec::new(), None);
    loop {
        let gateway = world.gateway.clone();
        let page = world.finish(async move { gateway.rooms(None, None, cursor, 999).await });
        let page = page.unwrap();
        names.extend(page.items.into_iter().map(|RoomEntry { room, .. }| room));
        cursor = page.next_cursor;
        if cursor.is_none() {
            break;
        }
    }
    let expected: Vec<String> = (0..MANY).map(|number| format!("{number:05}")).collect();
    assert_eq!(names, expected);
}

#[test]
fn many_sockets_are_chosen_in_several_turns_and_each_once() {
    let mut world = World::new(config());
    let join = |room: &str| format!(r#"42["join","{room}"]"#);
    let mut muted = 0;
    for number in 0..MANY {
        let session = world.polling(&format!("user=u{}", number / 100));
        world.post(session, &join("lobby"));
        if number % 2 == 0 {
            world.post(session, &join("other"));
        }
        if number % 5 == 0 {
            world.post(session, &join("muted"));
            muted += 1;
        }
    }
    for rooms in [vec![], vec!["lobby".to_owned(), "other".to_owned()]] {
        let fanout = world.gateway.shared.fanout.clone();
        let chosen = world.finish(async move {
            let except = ["muted".to_owned()];
            fanout.choose("/", None, &rooms, &except).await
        });
        assert_eq!(chosen.len(), MANY - muted);
        let different: std::collections::HashSet<_> = chosen.into_iter().collect();
        assert_eq!(different.len(), MANY - muted);
    }
    let selection = Arc::new(Selection {
        namespace: NamespaceId::ROOT,
        tenant: None,
        all: true,
        among: Chosen::default(),
        except: Chosen::default(),
        skip: None,
    });
    let (some, next) = world.in_one_turn(|reply| Query::Choose {
        selection,
        from: FIRST_CHOICE,
        reply,
    });
    assert!(some.len() < MANY && next.is_some());
    let gateway = world.gateway.clone();
    let said = crate::Broadcast {
        tenant_id: None,
        namespace: "/".into(),
        event: "e".into(),
        data: "1".into(),
        except: Vec::new(),
    };
    let published = world.finish(async move { gateway.broadcast(said).await });
    assert_eq!(published.unwrap().delivered, MANY);
}

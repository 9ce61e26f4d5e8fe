//! Lists of the operators' API are made in many turns, and miss nobody.

use heartline_core::entries::RoomEntry;
use heartline_core::namespaces::NamespaceId;
use heartline_core::policy::DevicePolicy;
use heartline_core::presence::{Newcomer, SocketAddress};
use heartline_wire::id::{ConnId, Slot};
use tokio::sync::oneshot;

use super::*;
use crate::op::{Chosen, FIRST_CHOICE, FIRST_GUEST, Op, Query, RoomFilter, Selection, SweepPlace};

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

/// A socket that is not there.
fn ghost(slot: u32) -> SocketAddress {
    let conn = ConnId {
        shard: 0,
        slot: Slot(slot),
        generation: 1_000,
    };
    SocketAddress::new(conn, NamespaceId::ROOT, [7; 12])
}

#[test]
fn a_sweep_among_many_takes_several_turns_and_finds_whatever_is_to_be_found() {
    let mut world = World::new(Config {
        heartbeat: HeartbeatConfig {
            stale_after: Some(seconds(10)),
            sweep_interval: seconds(3600),
            ..config().heartbeat
        },
        ..config()
    });
    let mut stale: Vec<Client> = (0..5)
        .map(|number| world.socketio(&format!("user=stale{number}")))
        .collect();
    world.run(seconds(11));
    let sessions: Vec<Session> = (0..2 * MANY)
        .map(|number| world.polling(&format!("user=u{number}")))
        .collect();
    let ghosts: Vec<SocketAddress> = (0..10).map(|number| ghost(number * 100)).collect();
    for (number, &socket) in ghosts.iter().enumerate() {
        let ghost = Newcomer {
            max_sockets: usize::MAX,
            instead_of: None,
            known_as: None,
            user: Arc::new(UserKey {
                tenant_id: None,
                user_id: format!("ghost{number}").into(),
                user_type: None,
            }),
            socket,
            device_id: None,
            policy: DevicePolicy::Unlimited,
        };
        let admitted = world.gateway.shared.fanout.backplane.connect(ghost);
        assert!(world.finish(admitted).is_ok());
        world.gateway.shared.data.of(socket);
    }
    assert_eq!(world.gateway.users_online(), 2 * MANY + 15);
    let (mut removed, mut turns, mut place) = (0, 0, Some(SweepPlace::FIRST));
    while let Some(from) = place {
        let (some, next) = world.in_one_turn(|reply| Query::Sweep { from, reply });
        (removed, turns, place) = (removed + some, turns + 1, next);
    }
    world.settle();
    // Five for the slots, about as many for the users, and one for the data.
    assert!(
        removed == 15 && (10..=13).contains(&turns),
        "{removed}, {turns}"
    );
    for client in &mut stale {
        assert_eq!(client.hears(), ["close 4408"]);
    }
    assert!(
        sessions
            .iter()
            .all(|session| world.harness.exists(*session))
    );
    assert_eq!(world.gateway.users_online(), 2 * MANY);
    let data = &world.gateway.shared.data;
    assert!(ghosts.iter().all(|socket| data.find(socket).is_none()));
    // The gateway's own sweep does the same.
    let admitted = world.gateway.shared.fanout.backplane.connect(Newcomer {
        max_sockets: usize::MAX,
        instead_of: None,
        known_as: None,
        user: Arc::new(UserKey {
            tenant_id: None,
            user_id: "ghost".into(),
            user_type: None,
        }),
        socket: ghosts[0],
        device_id: None,
        policy: DevicePolicy::Unlimited,
    });
    assert!(world.finish(admitted).is_ok());
    for removed in [1, 0] {
        let gateway = world.gateway.clone();
        assert_eq!(world.finish(async move { gateway.sweep().await }), removed);
    }
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

#[test]
fn many_guests_of_conversations_are_looked_at_in_several_turns_and_each_once() {
    let enter = |socket: Socket| async move {
        let own = socket.identity().user_id().unwrap_or_default().to_owned();
        for room in ["lobby", "conversation:all", &format!("conversation:{own}")] {
            socket.join(room).await?;
        }
        Ok::<_, crate::EventError>(())
    };
    let mut world = World::with(config(), |builder| builder.on_connect(enter));
    // Nobody has to be told of each.
    let user = |number: usize| UserKey {
        tenant_id: None,
        user_id: format!("u{number}").into(),
        user_type: None,
    };
    let users: Vec<_> = (0..MANY).map(|number| Arc::new(user(number))).collect();
    let gateway = world.gateway.clone();
    world.finish(async move { gateway.add_members("all", &users).await });
    for number in 0..MANY {
        world.polling(&format!("user=u{number}"));
    }
    // To whom their token opens them, these are open whoever is a member.
    world.polling("user=owner rooms=conversation:*");
    let (mut guests, mut turns, mut place) = (Vec::new(), 0, Some(FIRST_GUEST));
    while let Some(from) = place {
        let (some, next) = world.in_one_turn(|reply| Query::Guests { from, reply });
        guests.extend(some);
        (turns, place) = (turns + 1, next);
    }
    let different: std::collections::HashSet<_> = guests.iter().collect();
    assert_eq!((guests.len(), different.len()), (2 * MANY, 2 * MANY));
    // As many looks as there are rooms, and members of those that are conversations'.
    let looks = 3 * (MANY + 1) + 1;
    assert!(
        (looks / 1024..=looks / 1024 + 3).contains(&turns),
        "{turns}"
    );
}

use super::*;
use crate::policy::{DevicePolicy, OnExcess};
use heartline_wire::id::{ConnId, Sid, Slot};
use proptest::prelude::*;

type Edges = Arc<Mutex<Vec<(String, bool)>>>;

fn presence(grace: Duration) -> (Presence, Edges) {
    let edges = Edges::default();
    let heard = edges.clone();
    let sink: EdgeSink = Box::new(move |edge| {
        heard
            .lock()
            .unwrap()
            .push((edge.user.user_id.to_string(), edge.online));
    });
    (Presence::new(grace, sink), edges)
}

fn user(id: &str) -> Arc<UserKey> {
    Arc::new(UserKey {
        tenant_id: None,
        user_id: id.into(),
        user_type: None,
    })
}

fn socket(slot: u32) -> SocketAddress {
    SocketAddress(Sid {
        conn: ConnId {
            shard: 0,
            slot: Slot(slot),
            generation: 0,
        },
        namespace: 0,
        secret: [0; 12],
    })
}

fn newcomer(id: &str, slot: u32, device: Option<&str>, policy: DevicePolicy) -> Newcomer {
    Newcomer {
        user: user(id),
        socket: socket(slot),
        device_id: device.map(Into::into),
        policy,
        max_sockets: usize::MAX,
        instead_of: None,
        known_as: None,
    }
}

const LIMIT_2: DevicePolicy = DevicePolicy::Limit {
    max: 2,
    on_excess: OnExcess::Reject,
};
const EVICT_2: DevicePolicy = DevicePolicy::Limit {
    max: 2,
    on_excess: OnExcess::EvictOldest,
};

#[test]
fn two_devices_are_one_user_until_the_last_leaves() {
    let (presence, edges) = presence(Duration::ZERO);
    for slot in [1, 2] {
        presence
            .connect(newcomer("a", slot, None, DevicePolicy::Unlimited), 0)
            .unwrap();
    }
    presence.disconnect(&user("a"), socket(1), Micros(0), 0);
    assert_eq!(presence.get(None, "a", 0).devices, 1);
    presence.disconnect(&user("a"), socket(2), Micros(0), 9);
    presence.disconnect(&user("a"), socket(2), Micros(0), 9);
    assert_eq!(
        *edges.lock().unwrap(),
        [("a".into(), true), ("a".into(), false)]
    );
    assert_eq!(presence.get(None, "a", 0).last_seen_at, Some(9));
    assert_eq!(presence.online(), 0);
}

#[test]
fn an_old_sockets_end_does_not_remove_its_replacement() {
    let (presence, edges) = presence(Duration::ZERO);
    presence
        .connect(newcomer("a", 1, Some("d"), DevicePolicy::Unlimited), 0)
        .unwrap();
    let admitted = presence
        .connect(newcomer("a", 2, Some("d"), DevicePolicy::Unlimited), 0)
        .unwrap();
    assert_eq!(admitted.replaced, [socket(1)]);
    presence.disconnect(&user("a"), socket(1), Micros(0), 0);
    assert!(presence.get(None, "a", 0).online);
    assert_eq!(edges.lock().unwrap().len(), 1);
}

#[test]
fn the_limit_refuses_or_evicts_the_oldest() {
    let (presence, _) = presence(Duration::ZERO);
    for slot in [1, 2] {
        presence
            .connect(newcomer("a", slot, None, LIMIT_2), 0)
            .unwrap();
    }
    assert_eq!(
        presence.connect(newcomer("a", 3, None, LIMIT_2), 0).err(),
        Some(DeviceLimitReached::default())
    );
    let admitted = presence
        .connect(newcomer("a", 3, None, EVICT_2), 0)
        .unwrap();
    assert_eq!(admitted.evicted, [socket(1)]);
    assert_eq!(presence.get(None, "a", 0).devices, 2);
}

#[test]
fn a_user_has_so_many_sockets_and_no_more_whatever_the_policy() {
    let (presence, _) = presence(Duration::ZERO);
    let come = |slot, device| {
        let newcomer = Newcomer {
            max_sockets: 3,
            ..newcomer("a", slot, device, DevicePolicy::Unlimited)
        };
        presence.connect(newcomer, 0)
    };
    for (slot, device) in [(1, Some("phone")), (2, None), (3, None)] {
        come(slot, device).unwrap();
    }
    assert_eq!(come(4, None).err(), Some(DeviceLimitReached::default()));
    assert_eq!(come(5, Some("phone")).unwrap().replaced, [socket(1)]);
    // One of the four is going already.
    assert!(come(6, None).is_err());
    presence.disconnect(&user("a"), socket(2), Micros::ZERO, 0);
    assert!(come(7, None).is_ok());
}

#[test]
fn the_socket_whose_place_a_newcomer_takes_counts_no_more() {
    for (device, policy, max_sockets) in [
        (None, LIMIT_2, usize::MAX),
        (None, EVICT_2, usize::MAX),
        (None, DevicePolicy::Unlimited, 2),
        (Some("phone"), DevicePolicy::Unlimited, 2),
    ] {
        let (presence, edges) = presence(Duration::ZERO);
        let come = |slot, device, instead_of| {
            let newcomer = Newcomer {
                max_sockets,
                instead_of,
                ..newcomer("a", slot, device, policy)
            };
            presence.connect(newcomer, 0)
        };
        come(1, Some("desk"), None).unwrap();
        come(2, device, None).unwrap();
        let admitted = come(3, device, Some(socket(2))).unwrap();
        // It is over by itself, and nobody else goes.
        assert_eq!((admitted.replaced, admitted.evicted), (vec![], vec![]));
        presence.disconnect(&user("a"), socket(2), Micros::ZERO, 0);
        assert_eq!(presence.get(None, "a", 0).devices, 2);
        assert_eq!(*edges.lock().unwrap(), [("a".into(), true)]);
    }
}

#[test]
fn who_was_to_go_for_a_newcomer_that_has_gone_itself_keeps_the_place() {
    let (presence, edges) = presence(Duration::ZERO);
    for (slot, device) in [(1, "phone"), (2, "desk")] {
        let newcomer = newcomer("a", slot, Some(device), EVICT_2);
        presence.connect(newcomer, 0).unwrap();
    }
    for (device, replaced, evicted) in [("phone", vec![1], vec![]), ("pad", vec![], vec![1])] {
        let admitted = presence.connect(newcomer("a", 3, Some(device), EVICT_2), 0);
        let admitted = admitted.unwrap();
        let sockets = |slots: Vec<u32>| slots.into_iter().map(socket).collect::<Vec<_>>();
        assert_eq!(admitted.replaced, sockets(replaced));
        assert_eq!(admitted.evicted, sockets(evicted));
        assert_eq!(presence.get(None, "a", 0).devices, 2);
        presence.disconnect(&user("a"), socket(3), Micros::ZERO, 0);
        assert_eq!(presence.sockets(None, "a", None), [socket(1), socket(2)]);
    }
    // The place is taken all the same: who is not to go counts.
    let third = presence.connect(newcomer("a", 4, None, LIMIT_2), 0);
    assert_eq!(third.err(), Some(DeviceLimitReached::default()));
    assert_eq!(edges.lock().unwrap().len(), 1);
}

#[test]
fn of_two_newcomers_on_one_device_the_later_takes_the_place_even_if_the_first_dies() {
    let (presence, _) = presence(Duration::ZERO);
    let mut admitted = Admitted::default();
    for slot in [1, 2, 3] {
        let newcomer = newcomer("a", slot, Some("d"), DevicePolicy::Unlimited);
        admitted = presence.connect(newcomer, 0).unwrap();
    }
    presence.disconnect(&user("a"), socket(2), Micros::ZERO, 0);
    assert_eq!(admitted.replaced, [socket(1), socket(2)]);
    assert_eq!(presence.get(None, "a", 0).devices, 1);
    presence.disconnect(&user("a"), socket(1), Micros::ZERO, 0);
    assert_eq!(presence.sockets(None, "a", None), [socket(3)]);
}

#[test]
fn names_of_who_was_here_are_remembered_within_a_bound_of_bytes() {
    let (presence, _) = presence(Duration::ZERO);
    for number in 0..3000 {
        let id = format!("{number}{}", "x".repeat(10_000));
        let newcomer = newcomer(&id, 1, None, DevicePolicy::Unlimited);
        presence.connect(newcomer, 0).unwrap();
        presence.disconnect(&user(&id), socket(1), Micros::ZERO, 7);
    }
    let bytes = |part: &Mutex<Part>| part.lock().unwrap().remembered_bytes;
    assert!(
        presence
            .parts
            .iter()
            .all(|part| bytes(part) <= REMEMBERED_BYTES)
    );
    let last = format!("2999{}", "x".repeat(10_000));
    assert_eq!(presence.get(None, &last, 0).last_seen_at, Some(7));
}

#[test]
fn a_user_of_one_type_is_told_from_those_of_others() {
    let (presence, _) = presence(Duration::ZERO);
    let key = |user_type: Option<&str>| {
        Arc::new(UserKey {
            user_type: user_type.map(Into::into),
            ..(*user("a")).clone()
        })
    };
    let come = |slot, user_type| {
        let newcomer = Newcomer {
            user: key(user_type),
            ..newcomer("a", slot, None, DevicePolicy::Unlimited)
        };
        presence.connect(newcomer, 1).unwrap();
    };
    let go = |slot, user_type, at| {
        presence.disconnect(&key(user_type), socket(slot), Micros(0), at);
    };
    let told = |user_type| {
        let found = presence.get(None, "a", 90).of_type(user_type);
        (found.online, found.devices, found.last_seen_at)
    };
    come(1, Some("driver"));
    come(2, None);
    come(3, Some("rider"));
    come(4, Some("rider"));
    assert_eq!(presence.get(None, "a", 90).devices, 4);
    assert_eq!(told("driver"), (true, 1, Some(90)));
    assert_eq!(told("rider"), (true, 2, Some(90)));
    assert_eq!(told("none"), (false, 0, None));
    go(1, Some("driver"), 10);
    go(3, Some("rider"), 20);
    go(4, Some("rider"), 30);
    assert_eq!(told("driver"), (false, 0, Some(10)));
    assert_eq!(told("rider"), (false, 0, Some(30)));
    go(2, None, 20);
    let all = presence.get(None, "a", 90);
    assert_eq!((all.online, all.last_seen_at), (false, Some(30)));
    come(5, Some("driver"));
    assert_eq!(told("driver"), (true, 1, Some(90)));
}

#[test]
fn a_refused_first_device_leaves_no_ghost_user() {
    let (presence, edges) = presence(Duration::ZERO);
    presence
        .connect(newcomer("a", 1, None, LIMIT_2), 0)
        .unwrap();
    presence.disconnect(&user("a"), socket(1), Micros(0), 0);
    assert_eq!(edges.lock().unwrap().len(), 2);
    assert!(presence.some(10).is_empty());
}

#[test]
fn racing_devices_never_both_stay() {
    let (presence, _) = presence(Duration::ZERO);
    let presence = Arc::new(presence);
    let threads: Vec<_> = (0..8)
        .map(|slot| {
            let presence = presence.clone();
            std::thread::spawn(move || {
                presence
                    .connect(newcomer("a", slot, None, LIMIT_2), 0)
                    .is_ok()
            })
        })
        .collect();
    let admitted = threads.into_iter().map(|thread| thread.join().unwrap());
    assert_eq!(admitted.filter(|admitted| *admitted).count(), 2);
}

#[test]
fn who_is_back_within_the_grace_was_never_away() {
    let (presence, edges) = presence(Duration::from_micros(100));
    presence
        .connect(newcomer("a", 1, None, DevicePolicy::Unlimited), 0)
        .unwrap();
    presence.disconnect(&user("a"), socket(1), Micros(0), 0);
    assert_eq!(presence.expire(Micros(50), 0), Some(Micros(100)));
    presence
        .connect(newcomer("a", 2, None, DevicePolicy::Unlimited), 0)
        .unwrap();
    assert_eq!(presence.expire(Micros(150), 0), None);
    assert_eq!(edges.lock().unwrap().len(), 1);
    presence.disconnect(&user("a"), socket(2), Micros(200), 0);
    presence.expire(Micros(300), 0);
    assert_eq!(edges.lock().unwrap().len(), 2);
}

#[test]
fn who_was_told_to_come_back_is_not_away_before_that() {
    let (presence, edges) = presence(Duration::ZERO);
    let him = user("a");
    let come = |slot| {
        let newcomer = newcomer("a", slot, None, DevicePolicy::Unlimited);
        presence.connect(newcomer, 0).unwrap();
    };
    let go = |slot, now| presence.disconnect(&him, socket(slot), Micros(now), 0);
    let heard = || edges.lock().unwrap().len();
    come(1);
    come(2);
    // One is told to come back; the other goes before that time.
    presence.expect_back(&him, Micros(100));
    go(1, 0);
    go(2, 10);
    assert_eq!(presence.expire(Micros(50), 0), Some(Micros(100)));
    assert_eq!(heard(), 1);
    // Whoever is back may go like everybody else.
    come(3);
    go(3, 60);
    assert_eq!(heard(), 2);
    come(4);
    presence.expect_back(&him, Micros(170));
    go(4, 70);
    presence.expire(Micros(169), 0);
    assert_eq!(heard(), 3);
    presence.expire(Micros(170), 0);
    assert_eq!(heard(), 4);
}

#[test]
fn rooms_hear_of_a_user_once_until_it_goes() {
    let heard: Arc<Mutex<Vec<String>>> = Arc::default();
    let log = heard.clone();
    let sink: EdgeSink = Box::new(move |edge| {
        let names = |places: &[RoomAddress]| -> String {
            places.iter().map(|place| &*place.room).collect()
        };
        let others = edge.others.as_ref().map(|others| names(&others.list()));
        let line = format!("{} {} {others:?}", edge.online, names(&edge.rooms));
        log.lock().unwrap().push(line);
    });
    let presence = Presence::new(Duration::ZERO, sink);
    let him = user("a");
    let place = |room: &str| RoomAddress {
        namespace: "/".into(),
        room: room.into(),
    };
    for slot in [1, 2] {
        let newcomer = newcomer("a", slot, None, DevicePolicy::Unlimited);
        presence.connect(newcomer, 0).unwrap();
    }
    assert!(presence.enter_room(&him, socket(1), place("x"), 0));
    assert!(!presence.enter_room(&him, socket(2), place("x"), 0));
    assert!(presence.enter_room(&him, socket(2), place("y"), 0));
    presence.enter_room(&him, socket(2), place("z"), 0);
    presence.leave_room(&him, socket(2), &place("z"));
    presence.disconnect(&him, socket(2), Micros(0), 0);
    // Its members have heard of the user, and not that it has gone.
    assert!(!presence.enter_room(&him, socket(1), place("y"), 0));
    presence.leave_room(&him, socket(1), &place("x"));
    assert!(!presence.enter_room(&him, socket(9), place("q"), 0));
    presence.disconnect(&him, socket(1), Micros(0), 0);
    let expected = [
        "true  None",
        "true x Some(\"\")",
        "true y Some(\"x\")",
        "true z Some(\"xy\")",
        "false y None",
    ];
    assert_eq!(*heard.lock().unwrap(), expected);
}

#[test]
fn ages_survive_their_rounding() {
    for now in [0, 15, 16, 1 << 36, 1_700_000_000_000] {
        for age in [0, 1, 17, 1_000_000, 3_000_000_000] {
            let since: u64 = now.max(age) - age;
            let kept = since_millis((since / SINCE_UNIT) as u32, now.max(age));
            assert_eq!(kept, since / SINCE_UNIT * SINCE_UNIT);
        }
    }
}

#[test]
fn who_is_left_to_another_process_is_online_there_until_the_time_to_come_back_is_over() {
    let (before, _) = presence(Duration::ZERO);
    for (id, slot) in [("ann", 1), ("bob", 2)] {
        let newcomer = newcomer(id, slot, None, DevicePolicy::Unlimited);
        before.connect(newcomer, 1_000).unwrap();
    }
    let place = RoomAddress {
        namespace: "/".into(),
        room: "a".into(),
    };
    before.enter_room(&user("bob"), socket(2), place.clone(), 1_000);
    let left = before.all();
    assert_eq!(left.len(), 2);

    let heard: Arc<Mutex<Vec<Edge>>> = Arc::default();
    let told = heard.clone();
    let sink: EdgeSink = Box::new(move |edge| told.lock().unwrap().push(edge.clone()));
    let after = Presence::new(Duration::ZERO, sink);
    let until = Micros(5_000_000);
    for online in left {
        after.expect(Online { until, ..online });
    }
    assert_eq!(after.online(), 2);
    let newcomer = newcomer("ann", 1, None, DevicePolicy::Unlimited);
    after.connect(newcomer, 900).unwrap();
    assert_eq!(after.expire(Micros(4_999_999), 900), Some(until));
    assert!(heard.lock().unwrap().is_empty());
    assert_eq!(after.expire(until, 900), None);
    // The clock has gone back meanwhile, and numbers have not.
    let heard = heard.lock().unwrap();
    let [went] = &heard[..] else {
        panic!("{heard:?}");
    };
    assert!(!went.online && went.rev > 1_000);
    assert_eq!(
        (&*went.user.user_id, &went.rooms[..]),
        ("bob", &[place][..])
    );
    assert_eq!(after.online(), 1);
}

proptest! {
    #[test]
    fn edges_alternate_and_agree_with_the_sockets(ops in prop::collection::vec((0u32..6, 0usize..2, prop::bool::ANY, 0u64..80), 1..120)) {
        let (presence, edges) = presence(Duration::from_micros(100));
        let mut there = std::collections::HashSet::new();
        let mut now = Micros::ZERO;
        for (slot, who, connect, gap) in ops {
            now += Duration::from_micros(gap);
            presence.expire(now, 0);
            let id = ["a", "b"][who];
            if connect && there.insert((slot, who)) {
                presence.connect(newcomer(id, slot * 2 + who as u32, None, DevicePolicy::Unlimited), 0).unwrap();
            } else if there.remove(&(slot, who)) {
                presence.disconnect(&user(id), socket(slot * 2 + who as u32), now, 0);
            }
        }
        presence.expire(now + Duration::from_millis(1), 0);
        for (who, id) in ["a", "b"].into_iter().enumerate() {
            let mine: Vec<bool> = edges.lock().unwrap().iter().filter(|e| e.0 == id).map(|e| e.1).collect();
            prop_assert!(mine.iter().enumerate().all(|(i, online)| *online == (i % 2 == 0)));
            let online = there.iter().any(|(_, w)| *w == who);
            prop_assert_eq!(mine.last().copied().unwrap_or(false), online);
            prop_assert_eq!(presence.get(None, id, 0).online, online);
        }
    }
}

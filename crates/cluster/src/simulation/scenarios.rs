//! What failing runs have taught, told step by step: a seed means nothing any more once
//! the order of draws changes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::dice::Dice;
use super::node::{Node, TTL, close};
use super::paused::paused;
use super::store::locked;
use super::world::World;
use crate::registry::{Admission, Entry, Newcomer, Policy, RoomName, TypedUser};

/// A grace, where there is one.
const GRACE: Duration = Duration::from_secs(3);
/// Enough for nodes to join, and to notice what has changed.
const MOMENT: Duration = Duration::from_secs(2);

/// Three nodes that have joined, on a store that loses nothing by chance.
async fn three_nodes(grace: Duration, policy: Policy) -> World {
    let world = World::quiet(grace, policy);
    sleep(MOMENT).await;
    world
}

pub(super) fn user(name: &str) -> TypedUser {
    TypedUser {
        user: format!(":{name}").into(),
        kind: "".into(),
    }
}

impl Node {
    /// What was announced of a user here, in order, with the revisions.
    fn told_of(&self, name: &str) -> Vec<(u64, bool)> {
        let table = locked(&self.sockets);
        let store = locked(&self.link.store);
        let heard = match table.is_deaf {
            true => &store.edges,
            false => &table.heard,
        };
        let edges = heard.iter().filter(|edge| edge.others.is_none());
        let edges = edges.filter(|edge| edge.who == user(name));
        edges.map(|edge| (edge.rev, edge.online)).collect()
    }
}

impl World {
    /// A socket of a user comes to a node.
    pub(super) fn come(&mut self, number: usize, name: &str, device: &str) {
        let newcomer = self.newcomer(name, device);
        self.enter(number, newcomer, false);
    }

    pub(super) fn newcomer(&mut self, name: &str, device: &str) -> Newcomer {
        self.sockets += 1;
        Newcomer {
            max_sockets: u32::MAX,
            instead_of: None,
            who: user(name),
            entry: Entry {
                socket: format!("s{}", self.sockets).into(),
                namespace: "/".into(),
                device: device.into(),
                since: locked(&self.store).now(),
                policy: self.policy,
                rooms: Vec::new(),
            },
        }
    }

    /// All sockets of a user at a node end.
    pub(super) fn go(&self, number: usize, name: &str) {
        self.go_for(number, name, Duration::ZERO);
    }

    /// They are told to be back within this time.
    pub(super) fn go_for(&self, number: usize, name: &str, keep: Duration) {
        let node = &self.nodes[number];
        for socket in self.sockets_at(number, name) {
            close(&node.member, &node.sockets, &socket, keep);
        }
    }

    /// All sockets of a user at a node come into a room.
    pub(super) fn come_into(&self, number: usize, name: &str, room: &str) {
        let who = user(name);
        let node = &self.nodes[number];
        for entry in locked(&node.sockets).users.get_mut(&who).unwrap() {
            entry.rooms.push(room.into());
        }
        node.member.rooms_changed(who);
    }

    pub(super) fn sockets_at(&self, number: usize, name: &str) -> Vec<Arc<str>> {
        let table = locked(&self.nodes[number].sockets);
        let entries = table.users.get(&user(name)).into_iter().flatten();
        entries.map(|entry| entry.socket.clone()).collect()
    }

    pub(super) fn cut(&self, number: usize, is_cut: bool) {
        self.nodes[number].link.cut.store(is_cut, Ordering::Relaxed);
    }

    pub(super) fn store_is_up(&self, up: bool) {
        locked(&self.store).up = up;
    }

    /// What was announced of a user on any node: online or offline, in order.
    pub(super) fn told_of(&self, name: &str) -> Vec<bool> {
        let mut told = BTreeMap::new();
        for node in &self.nodes {
            told.extend(node.told_of(name));
        }
        told.into_values().collect()
    }

    /// The same on one node.
    pub(super) fn told_at(&self, number: usize, name: &str) -> Vec<bool> {
        let told = self.nodes[number].told_of(name);
        told.into_iter().map(|(_, online)| online).collect()
    }

    /// Two leases, after which everything is settled; and what is true then.
    pub(super) async fn settle(&self) {
        sleep(TTL * 3 + self.grace + MOMENT).await;
        self.check();
    }
}

pub(super) async fn until(mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !condition() {
        assert!(Instant::now() < deadline, "it does not come to be");
        sleep(Duration::from_millis(1)).await;
    }
}

#[test]
fn a_user_of_a_crashed_node_is_offline_after_its_lease() {
    paused(async {
        let mut world = three_nodes(Duration::ZERO, Policy::Unlimited).await;
        world.come(0, "ann", "");
        sleep(MOMENT).await;
        world.nodes[0].kill();
        world.settle().await;
        assert_eq!(world.told_of("ann"), [true, false]);
    });
}

#[test]
fn a_user_of_a_node_that_was_stopped_past_its_lease_is_online_again_when_it_goes_on() {
    paused(async {
        let mut world = three_nodes(Duration::ZERO, Policy::Unlimited).await;
        world.come(0, "ann", "");
        sleep(MOMENT).await;
        world.nodes[0].stop();
        sleep(TTL * 2).await;
        assert_eq!(world.told_of("ann"), [true, false]);
        world.nodes[0].go_on();
        world.settle().await;
        assert_eq!(world.told_of("ann"), [true, false, true]);
    });
}

#[test]
fn a_socket_replaced_while_its_node_was_stopped_ends_when_it_goes_on() {
    paused(async {
        let mut world = three_nodes(Duration::ZERO, Policy::Unlimited).await;
        world.come(0, "ann", "phone");
        sleep(MOMENT).await;
        world.nodes[0].stop();
        world.come(1, "ann", "phone");
        sleep(TTL * 2).await;
        world.nodes[0].go_on();
        world.settle().await;
        assert!(world.sockets_at(0, "ann").is_empty());
        assert_eq!(world.sockets_at(1, "ann").len(), 1);
        assert_eq!(world.told_of("ann"), [true]);
    });
}

#[test]
fn a_place_that_was_given_after_a_lease_is_not_taken_back_because_the_store_was_away_then() {
    for policy in DISPLACING {
        for restarts in [false, true] {
            paused(async move {
                let mut world = three_nodes(Duration::ZERO, policy).await;
                world.come(0, "ann", "phone");
                sleep(MOMENT).await;
                world.nodes[0].stop();
                // Its lease is over, and nobody has swept it yet.
                let over = || {
                    let store = locked(&world.store);
                    let nodes = store.model.nodes(store.time());
                    nodes.iter().any(|node| node.lease < 0)
                };
                until(over).await;
                world.come(1, "ann", "phone");
                until(|| locked(&world.store).model.sockets().len() == 2).await;
                world.store_is_up(false);
                sleep(TTL / 2).await;
                if restarts {
                    world.restart_store(false);
                }
                world.store_is_up(true);
                world.nodes[0].go_on();
                world.settle().await;
                assert_eq!(world.sockets_at(1, "ann").len(), 1);
                assert!(world.sockets_at(0, "ann").is_empty());
            });
        }
    }
}

#[test]
fn two_sockets_of_a_device_that_came_while_the_store_was_away_become_the_later_one() {
    paused(async {
        let mut world = three_nodes(Duration::ZERO, Policy::Unlimited).await;
        world.store_is_up(false);
        sleep(TTL).await;
        world.come(1, "ann", "phone");
        sleep(MOMENT).await;
        world.come(0, "ann", "phone");
        sleep(MOMENT).await;
        world.store_is_up(true);
        world.settle().await;
        assert!(world.sockets_at(1, "ann").is_empty());
        assert_eq!(world.sockets_at(0, "ann").len(), 1);
        assert_eq!(world.told_of("ann"), [true]);
    });
}

#[test]
fn a_socket_whose_admission_was_never_answered_is_registered_and_announced_once() {
    paused(async {
        let mut world = three_nodes(Duration::ZERO, Policy::Unlimited).await;
        world.come(0, "ann", "");
        until(|| !locked(&world.store).model.sockets().is_empty()).await;
        assert!(
            world.sockets_at(0, "ann").is_empty(),
            "the answer is on its way"
        );
        world.cut(0, true);
        sleep(MOMENT * 2).await;
        assert_eq!(
            world.sockets_at(0, "ann").len(),
            1,
            "its node let it in by itself"
        );
        world.cut(0, false);
        world.settle().await;
        assert_eq!(world.told_of("ann"), [true]);
        world.go(0, "ann");
        world.settle().await;
        assert_eq!(world.told_of("ann"), [true, false]);
    });
}

#[test]
fn a_user_who_went_while_the_store_was_away_is_offline_also_if_it_forgot_everything() {
    paused(async {
        let mut world = three_nodes(Duration::ZERO, Policy::Unlimited).await;
        world.come(0, "ann", "");
        sleep(MOMENT).await;
        world.store_is_up(false);
        sleep(MOMENT).await;
        world.go(0, "ann");
        world.restart_store(true);
        world.store_is_up(true);
        world.settle().await;
        assert_eq!(world.told_of("ann"), [true, false]);
    });
}

#[test]
fn a_grace_ends_also_if_the_store_forgets_it() {
    paused(async {
        let mut world = three_nodes(GRACE, Policy::Unlimited).await;
        world.come(0, "ann", "");
        sleep(MOMENT).await;
        world.go(0, "ann");
        sleep(GRACE / 3).await;
        world.restart_store(true);
        world.settle().await;
        assert_eq!(world.told_of("ann"), [true, false]);
    });
}

#[test]
fn who_was_told_to_come_back_is_expected_wherever_it_comes_and_others_of_it_may_go() {
    paused(async {
        let mut world = three_nodes(Duration::ZERO, Policy::Unlimited).await;
        for name in ["ann", "bob", "cleo"] {
            world.come(0, name, "");
            world.come(1, name, "");
        }
        sleep(MOMENT).await;
        // Node 0 lets all go; their other sockets end by themselves.
        for name in ["ann", "bob", "cleo"] {
            world.go_for(0, name, MOMENT * 4);
        }
        sleep(MOMENT).await;
        for name in ["ann", "bob", "cleo"] {
            world.go(1, name);
        }
        sleep(MOMENT).await;
        world.come(2, "ann", "");
        world.come(2, "cleo", "");
        sleep(MOMENT / 2).await;
        assert_eq!(world.told_of("bob"), [true]);
        // Who is back goes like everybody else.
        world.go(2, "cleo");
        sleep(MOMENT / 4).await;
        assert_eq!(world.told_of("cleo"), [true, false]);
        world.settle().await;
        assert_eq!(world.told_of("ann"), [true]);
        assert_eq!(world.told_of("bob"), [true, false]);
    });
}

#[test]
fn users_who_stay_are_not_told_again_after_the_store_forgot_everything() {
    paused(async {
        let mut world = three_nodes(Duration::ZERO, Policy::Unlimited).await;
        world.come(0, "ann", "");
        world.come(1, "bob", "");
        sleep(MOMENT).await;
        world.restart_store(true);
        world.settle().await;
        assert_eq!(world.told_of("ann"), [true]);
        assert_eq!(world.told_of("bob"), [true]);
    });
}

#[test]
fn users_who_stay_are_not_told_again_if_the_store_restarts_before_all_nodes_are_back_in_it() {
    paused(async {
        let mut world = three_nodes(Duration::ZERO, Policy::Unlimited).await;
        world.come(1, "ann", "");
        world.come(2, "bob", "");
        // In the middle between two renewals.
        sleep(TTL).await;
        world.restart_store(true);
        // The first node notices it, and is the only one that the store knows.
        world.come(0, "cleo", "");
        until(|| locked(&world.store).model.processes().len() == 1).await;
        world.restart_store(false);
        world.settle().await;
        assert!(!world.amnesia);
        for name in ["ann", "bob", "cleo"] {
            assert_eq!(world.told_of(name), [true], "{name}");
        }
    });
}

#[test]
fn nobody_hears_twice_of_who_came_while_a_node_found_that_the_store_had_forgotten_everything() {
    for is_old_memory_back in [false, true] {
        // At each moment of a node's joining anew.
        for phase in 0..40 {
            paused(async move {
                let mut world = three_nodes(Duration::ZERO, Policy::Unlimited).await;
                world.come(0, "ann", "");
                sleep(TTL).await;
                let before = locked(&world.store).model.clone();
                world.restart_store(true);
                if is_old_memory_back {
                    sleep(TTL).await;
                    world.amnesia = true;
                    let mut store = locked(&world.store);
                    let edges = store.edges.len() as u64;
                    store.model = before;
                    store.model.go_on_from(edges);
                    store.run += 1;
                }
                world.come(0, "bob", "");
                sleep(MOMENT / 40).await;
                // Node 1 learns of it now, and Ann comes into a room at node 0.
                world.come(1, "cleo", "");
                sleep(Duration::from_millis(phase)).await;
                world.come_into(0, "ann", "r");
                world.settle().await;
            });
        }
    }
}

#[test]
fn who_comes_back_after_the_others_have_been_told_that_they_are_all_is_announced() {
    paused(async {
        let mut world = three_nodes(Duration::ZERO, Policy::Unlimited).await;
        for name in ["ann", "bob", "cleo"] {
            world.come(0, name, "");
        }
        sleep(MOMENT).await;
        world.cut(0, true);
        world.restart_store(true);
        sleep(MOMENT).await;
        world.go(0, "bob");
        sleep(TTL * 2).await;
        // Cleo has been seen elsewhere, and is there still.
        world.come(1, "cleo", "");
        sleep(MOMENT).await;
        world.cut(0, false);
        world.settle().await;
        assert_eq!(world.told_of("ann"), [true, true]);
        assert_eq!(world.told_of("bob"), [true, false]);
        assert_eq!(world.told_of("cleo"), [true, true]);
    });
}

#[test]
fn whoever_comes_back_late_when_the_store_was_away_is_not_taken_for_gone() {
    for phase in 0..10 {
        paused(async move {
            let mut world = three_nodes(Duration::ZERO, Policy::Unlimited).await;
            world.come(2, "ann", "");
            sleep(TTL + Duration::from_millis(500 * phase)).await;
            world.store_is_up(false);
            sleep(TTL * 2 / 3).await;
            world.store_is_up(true);
            world.cut(2, true);
            sleep(TTL * 2 / 3).await;
            world.cut(2, false);
            sleep(MOMENT * 2).await;
            {
                let store = locked(&world.store);
                assert!(!store.model.is_held(store.time()), "all are back");
            }
            world.settle().await;
            assert_eq!(world.told_of("ann"), [true]);
        });
    }
}

#[test]
fn whoever_does_not_come_back_when_the_store_was_away_is_gone_a_lease_later() {
    paused(async {
        let mut world = three_nodes(Duration::ZERO, Policy::Unlimited).await;
        world.come(1, "ann", "");
        world.come(2, "bob", "");
        sleep(MOMENT).await;
        world.store_is_up(false);
        world.nodes[1].kill();
        world.nodes[2].kill();
        sleep(TTL * 2 / 3).await;
        world.store_is_up(true);
        sleep(TTL + MOMENT).await;
        assert_eq!(world.told_of("ann"), [true, false]);
        assert_eq!(world.told_of("bob"), [true, false]);
        world.settle().await;
    });
}

#[test]
fn the_last_node_does_not_take_its_own_pauses_for_an_absence_of_the_store() {
    for phase in 0..20 {
        paused(async move {
            let mut world = three_nodes(Duration::ZERO, Policy::Unlimited).await;
            world.come(1, "ann", "");
            sleep(TTL + Duration::from_millis(250 * phase)).await;
            world.nodes[1].kill();
            world.nodes[2].kill();
            sleep(TTL + Duration::from_millis(100)).await;
            assert_eq!(world.told_of("ann"), [true, false]);
            world.settle().await;
        });
    }
}

impl World {
    /// What a node says of a user from now on: online or offline, each once and in order, of
    /// what is not told to be uncertain.
    async fn said_of(&self, number: usize, name: &str, watched: Duration) -> Vec<bool> {
        let (begun, mut said) = (Instant::now(), Vec::new());
        let member = &self.nodes[number].member;
        while begun.elapsed() < watched {
            let known = member.look_up(&[user(name).user]).await;
            if let Ok([known]) = known.as_deref()
                && member.is_complete()
                && said.last() != Some(&known.online)
            {
                said.push(known.online);
            }
            sleep(Duration::from_millis(1)).await;
        }
        said
    }
}

#[test]
fn nobody_is_said_to_be_offline_because_the_store_has_forgotten_everything() {
    paused(async {
        let mut world = three_nodes(Duration::ZERO, Policy::Unlimited).await;
        world.come(1, "ann", "");
        // In the middle between two renewals.
        sleep(TTL).await;
        world.restart_store(true);
        let soon = world.said_of(0, "ann", MOMENT / 4).await;
        let joins = &world.nodes[0].member.counters().joins;
        assert_eq!(joins.load(Ordering::Relaxed), 2, "it registers at once");
        assert!(!soon.contains(&false));
        assert_eq!(world.said_of(0, "ann", TTL * 2).await, [true]);
        world.settle().await;
        assert_eq!(world.told_of("ann"), [true]);
    });
}

#[test]
fn who_is_waited_for_after_a_crash_is_online_until_the_end_of_the_grace() {
    paused(async {
        let mut world = three_nodes(GRACE, Policy::Unlimited).await;
        world.come(1, "ann", "");
        sleep(MOMENT).await;
        world.nodes[1].kill();
        let said = world.said_of(0, "ann", TTL * 2).await;
        assert_eq!(said, [true, false]);
        assert_eq!(world.told_of("ann"), [true, false]);
        world.settle().await;
    });
}

#[test]
fn who_was_told_to_come_back_is_online_until_then_also_if_another_of_its_nodes_crashes() {
    paused(async {
        let mut world = three_nodes(Duration::ZERO, Policy::Unlimited).await;
        world.come(1, "ann", "");
        world.come(2, "ann", "");
        sleep(MOMENT).await;
        world.go_for(2, "ann", TTL + GRACE);
        world.nodes[1].kill();
        let said = world.said_of(0, "ann", TTL * 2).await;
        assert_eq!(said, [true, false]);
        assert_eq!(world.told_of("ann"), [true, false]);
        world.settle().await;
    });
}

#[test]
fn a_room_that_a_user_came_into_while_its_node_was_cut_off_hears_of_the_user() {
    paused(async {
        let mut world = three_nodes(Duration::ZERO, Policy::Unlimited).await;
        world.come(0, "ann", "");
        sleep(MOMENT).await;
        world.cut(0, true);
        sleep(MOMENT).await;
        world.come_into(0, "ann", "r");
        sleep(MOMENT).await;
        world.cut(0, false);
        world.settle().await;
        let store = locked(&world.store);
        let edges = store.edges.iter().filter(|edge| edge.others.is_some());
        let rooms: Vec<_> = edges.flat_map(|edge| edge.rooms.clone()).collect();
        assert_eq!(rooms, [RoomName::from("r")]);
    });
}

/// Policies under which a second socket of one device, or of one user, takes the first one's
/// place.
const DISPLACING: [Policy; 3] = [Policy::Replace, Policy::Evict(1), Policy::Unlimited];

#[test]
fn a_newcomer_that_goes_while_it_is_admitted_displaces_nobody() {
    for policy in DISPLACING {
        paused(async move {
            let mut world = three_nodes(Duration::ZERO, policy).await;
            world.come(0, "ann", "phone");
            sleep(MOMENT).await;
            let there = world.sockets_at(0, "ann");
            for number in [0, 1] {
                let newcomer = world.newcomer("ann", "phone");
                world.enter(number, newcomer, true);
                sleep(MOMENT).await;
                assert_eq!(world.sockets_at(0, "ann"), there);
            }
            world.settle().await;
            assert_eq!(world.sockets_at(0, "ann"), there);
            assert_eq!(world.told_of("ann"), [true]);
            // One that stays takes the place.
            world.come(1, "ann", "phone");
            world.settle().await;
            assert!(world.sockets_at(0, "ann").is_empty());
            assert_eq!(world.sockets_at(1, "ann").len(), 1);
            assert_eq!(world.told_of("ann"), [true]);
        });
    }
}

#[test]
fn a_newcomer_whose_node_dies_while_it_is_admitted_displaces_nobody() {
    for policy in DISPLACING {
        paused(async move {
            let mut world = three_nodes(Duration::ZERO, policy).await;
            world.come(0, "ann", "phone");
            sleep(MOMENT).await;
            let newcomer = world.newcomer("ann", "phone");
            let member = world.nodes[1].member.clone();
            let admitted = member.connect(newcomer, |admission| admission.ok_or(()));
            assert_eq!(admitted.await, Ok(Admission::Reserved));
            world.nodes[1].kill();
            world.settle().await;
            assert_eq!(world.sockets_at(0, "ann").len(), 1);
            assert_eq!(world.told_of("ann"), [true]);
        });
    }
}

#[test]
fn of_those_that_race_one_stays() {
    for policy in DISPLACING {
        for seed in 0..20 {
            paused(async move {
                let mut world = three_nodes(Duration::ZERO, policy).await;
                locked(&world.store).dice = Dice(seed);
                world.come(0, "ann", "phone");
                sleep(MOMENT).await;
                for number in [0, 1, 2, 1, 0] {
                    world.come(number, "ann", "phone");
                    sleep(Duration::from_millis(seed % 4)).await;
                }
                sleep(MOMENT).await;
                let left = [0, 1, 2].map(|number| world.sockets_at(number, "ann").len());
                assert_eq!(left.iter().sum::<usize>(), 1, "{policy:?} {seed}");
                world.check();
            });
        }
    }
}

//! How soon a crash is known, and what is not taken for one.

use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::node::TTL;
use super::paused::paused;
use super::scenarios::until;
use super::store::locked;
use super::world::World;

/// Enough for nodes to join and to know each other.
const MOMENT: Duration = Duration::from_secs(2);
/// In how long a crash is to be known.
const SOON: Duration = Duration::from_secs(2);

impl World {
    fn given_up(&self) -> u64 {
        let counts = self.nodes.iter().map(|node| {
            let counters = node.member.counters();
            counters.given_up.load(Ordering::Relaxed)
        });
        counts.sum()
    }

    fn incarnations(&self) -> u64 {
        let joins = |node: &super::node::Node| node.member.counters().joins.load(Ordering::Relaxed);
        self.nodes.iter().map(joins).sum()
    }

    fn tag(&self, number: usize) -> u32 {
        self.nodes[number].member.info().tag
    }

    /// Whether node `from` reaches node `to`.
    fn reaches(&self, from: usize, to: usize, does: bool) {
        let pair = (self.tag(from), self.tag(to));
        let cuts = &mut locked(&self.net).cuts;
        match does {
            true => cuts.remove(&pair),
            false => cuts.insert(pair),
        };
    }
}

/// Nodes that know each other, with Ann at the second and Bob at the first.
async fn probed(nodes: usize) -> World {
    let mut world = World::probed(nodes, Duration::ZERO);
    sleep(MOMENT).await;
    world.come(1, "ann", "");
    world.come(0, "bob", "");
    sleep(MOMENT).await;
    world
}

#[test]
fn the_users_of_a_node_that_crashed_are_offline_within_two_seconds() {
    for nodes in [2, 3, 7] {
        paused(async move {
            let mut world = probed(nodes).await;
            let killed = Instant::now();
            world.nodes[1].kill();
            until(|| world.told_of("ann") == [true, false]).await;
            assert!(killed.elapsed() < SOON, "{nodes}: {:?}", killed.elapsed());
            world.settle().await;
            assert_eq!(world.told_of("ann"), [true, false]);
            assert_eq!(world.told_of("bob"), [true]);
        });
    }
}

#[test]
fn two_of_three_nodes_that_crash_at_once_are_missed_by_the_third() {
    paused(async {
        let mut world = probed(3).await;
        world.come(2, "cleo", "");
        sleep(MOMENT).await;
        let killed = Instant::now();
        world.nodes[1].kill();
        world.nodes[2].kill();
        until(|| world.told_of("ann").len() == 2 && world.told_of("cleo").len() == 2).await;
        assert!(killed.elapsed() < SOON * 2, "{:?}", killed.elapsed());
        world.settle().await;
        assert_eq!(world.told_of("bob"), [true]);
    });
}

#[test]
fn a_node_that_vanished_with_its_machine_is_missed_within_two_seconds_and_a_half() {
    paused(async {
        let mut world = probed(3).await;
        let lost = Instant::now();
        world.nodes[1].stop();
        until(|| world.told_of("ann") == [true, false]).await;
        assert!(lost.elapsed() < SOON + SOON / 4, "{:?}", lost.elapsed());
        // It was only asleep: it is told that it was given up, and who is there is back.
        sleep(MOMENT * 5).await;
        world.nodes[1].go_on();
        world.settle().await;
        assert_eq!(world.told_of("ann"), [true, false, true]);
        world.nodes[1].kill();
    });
}

#[test]
fn a_node_that_stands_still_for_a_second_is_not_missed() {
    for nodes in [2, 3, 5] {
        paused(async move {
            let world = probed(nodes).await;
            let joins = world.incarnations();
            for _ in 0..20 {
                world.nodes[1].stop();
                sleep(Duration::from_secs(1)).await;
                world.nodes[1].go_on();
                sleep(Duration::from_millis(1_370)).await;
            }
            assert_eq!(world.told_of("ann"), [true]);
            assert_eq!((world.given_up(), world.incarnations()), (0, joins));
        });
    }
}

#[test]
fn a_node_that_some_others_do_not_reach_lives() {
    for nodes in [2, 3] {
        paused(async move {
            let world = probed(nodes).await;
            let joins = world.incarnations();
            for from in (0..nodes).filter(|from| *from != 1) {
                // First one of them, then all: it is heard of in the registry.
                world.reaches(from, 1, false);
                sleep(MOMENT * 20).await;
            }
            assert_eq!((world.given_up(), world.incarnations()), (0, joins));
            assert_eq!(world.told_of("ann"), [true]);
        });
    }
}

#[test]
fn nobody_is_given_up_while_the_store_is_away_nor_when_it_is_back() {
    paused(async {
        let world = probed(3).await;
        let joins = world.incarnations();
        for seconds in [1, 3, 5, 9] {
            // The ways between the nodes are cut as well.
            world.store_is_up(false);
            for (from, to) in [(0, 1), (1, 0), (0, 2), (2, 0), (1, 2), (2, 1)] {
                world.reaches(from, to, false);
            }
            sleep(Duration::from_secs(seconds)).await;
            world.store_is_up(true);
            sleep(Duration::from_millis(900)).await;
            for (from, to) in [(0, 1), (1, 0), (0, 2), (2, 0), (1, 2), (2, 1)] {
                world.reaches(from, to, true);
            }
            sleep(TTL).await;
        }
        assert_eq!((world.given_up(), world.incarnations()), (0, joins));
        assert_eq!(world.told_of("ann"), [true]);
    });
}

#[test]
fn a_node_that_stops_in_good_order_is_not_given_up() {
    paused(async {
        let mut world = probed(3).await;
        world.go(1, "ann");
        let leaving = world.nodes[1].member.clone();
        world.nodes[1].spawn(async move { leaving.leave().await });
        sleep(Duration::from_millis(100)).await;
        world.nodes[1].kill();
        sleep(MOMENT * 5).await;
        assert_eq!(world.given_up(), 0);
        assert_eq!(world.told_of("ann"), [true, false]);
    });
}

#[test]
fn without_it_a_crash_is_known_when_the_lease_ends() {
    paused(async {
        let mut world = World::quiet(Duration::ZERO, crate::registry::Policy::Unlimited);
        sleep(MOMENT).await;
        world.come(1, "ann", "");
        sleep(MOMENT).await;
        world.nodes[1].kill();
        sleep(TTL / 2).await;
        assert_eq!(world.told_of("ann"), [true]);
        sleep(TTL).await;
        assert_eq!(world.told_of("ann"), [true, false]);
    });
}

#[test]
fn nobody_is_given_up_in_an_hour_of_stalls_on_a_bad_network() {
    paused(async {
        let mut world = probed(3).await;
        locked(&world.net).loss = 1;
        locked(&world.store).calm = false;
        let joins = world.incarnations();
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(3600) {
            let number = world.dice.below(3) as usize;
            world.nodes[number].stop();
            sleep(Duration::from_millis(500)).await;
            world.nodes[number].go_on();
            let pause = 200 + world.dice.below(3_000);
            sleep(Duration::from_millis(pause)).await;
        }
        assert_eq!((world.given_up(), world.incarnations()), (0, joins));
        assert_eq!(world.told_of("ann"), [true]);
    });
}

#[test]
fn nothing_is_asked_of_the_store_for_it_while_nobody_is_suspected() {
    let operations_in_a_minute = |mut world: World| async move {
        sleep(TTL).await;
        let before = locked(&world.store).operations;
        sleep(Duration::from_secs(600)).await;
        let count = locked(&world.store).operations - before;
        world.nodes.iter_mut().for_each(super::node::Node::kill);
        count
    };
    paused(async move {
        let without = World::quiet(Duration::ZERO, crate::registry::Policy::Unlimited);
        let without = operations_in_a_minute(without).await;
        let with = operations_in_a_minute(World::probed(3, Duration::ZERO)).await;
        assert!(with <= without + without / 20, "{with} for {without}");
    });
}

//! What happens to changes that not all nodes have read when the store loses its memory.

use std::time::Duration;

use tokio::time::sleep;

use super::node::TTL;
use super::paused::paused;
use super::scenarios::{until, user};
use super::store::locked;
use super::world::World;
use crate::registry::Policy;

/// Enough for nodes to join, and for all that has happened to be read everywhere.
const MOMENT: Duration = Duration::from_secs(20);
/// How long nodes take at most to read what has happened, in milliseconds, and a little.
const READ_WITHIN: u64 = 50;

/// Three nodes that have just read a change, and read no further one for a moment. Dora has been
/// there for long, at the first.
async fn about_to_read(grace: Duration) -> World {
    let mut world = World::quiet(grace, Policy::Unlimited);
    sleep(MOMENT).await;
    world.come(0, "dora", "");
    sleep(MOMENT).await;
    world.come(2, "bob", "");
    until(|| (0..3).all(|number| world.told_at(number, "bob") == [true])).await;
    world
}

impl World {
    fn is_announced(&self, name: &str) -> bool {
        locked(&self.store).model.announced().contains(&user(name))
    }

    /// All nodes have announced the same of a user.
    fn assert_told(&self, name: &str, expected: &[bool], when: &str) {
        for number in 0..3 {
            let told = self.told_at(number, name);
            assert_eq!(told, expected, "of {name} at node {number}, {when}");
        }
    }
}

#[test]
fn who_came_just_before_the_store_forgot_everything_is_announced_though_nobody_has_read_it() {
    paused(async {
        let mut world = about_to_read(Duration::ZERO).await;
        world.come(0, "ann", "");
        until(|| world.is_announced("ann") && !world.sockets_at(0, "ann").is_empty()).await;
        assert!(world.told_of("ann").is_empty(), "it was not read");
        world.restart_store(true);
        world.settle().await;
        world.assert_told("ann", &[true], "in the end");
        world.assert_told("dora", &[true], "in the end");
    });
}

#[test]
fn who_went_just_before_the_store_forgot_everything_is_announced_though_nobody_has_read_it() {
    paused(async {
        let mut world = about_to_read(Duration::ZERO).await;
        world.go(0, "dora");
        until(|| !world.is_announced("dora")).await;
        // It was answered.
        sleep(Duration::from_millis(5)).await;
        assert_eq!(world.told_of("dora"), [true], "it was not read");
        world.restart_store(true);
        world.settle().await;
        world.assert_told("dora", &[true, false], "in the end");
    });
}

/// Somebody does something, and memory is lost at each moment from then on: before it was
/// answered, before anybody has read it, when some have, and when all have.
fn at_each_moment(grace: Duration, act: fn(&mut World), expected: &'static [(&str, &[bool])]) {
    for phase in 0..READ_WITHIN * 2 {
        paused(async move {
            let mut world = about_to_read(grace).await;
            act(&mut world);
            sleep(Duration::from_millis(phase)).await;
            world.restart_store(true);
            sleep(TTL * 2).await;
            world.settle().await;
            for (name, expected) in expected {
                world.assert_told(name, expected, &format!("after {phase} ms"));
            }
        });
    }
}

#[test]
fn who_comes_is_announced_once_on_each_node_whenever_the_store_forgets_everything() {
    let come = |world: &mut World| world.come(1, "ann", "");
    at_each_moment(Duration::ZERO, come, &[("ann", &[true]), ("dora", &[true])]);
}

#[test]
fn who_goes_is_announced_once_on_each_node_whenever_the_store_forgets_everything() {
    let go = |world: &mut World| world.go(0, "dora");
    at_each_moment(Duration::ZERO, go, &[("dora", &[true, false])]);
}

#[test]
fn a_grace_ends_once_on_each_node_whenever_the_store_forgets_everything() {
    // Milliseconds: it ends while memory is lost.
    let grace = Duration::from_millis(READ_WITHIN);
    let go = |world: &mut World| world.go(0, "dora");
    at_each_moment(grace, go, &[("dora", &[true, false])]);
}

#[test]
fn who_comes_where_another_socket_is_is_not_announced_again() {
    let come = |world: &mut World| world.come(1, "dora", "");
    at_each_moment(Duration::ZERO, come, &[("dora", &[true])]);
}

/// Changes of a user that follow each other at once: a node may have read the first alone, and
/// then tells the second; who has read none tells none.
#[test]
fn who_moves_from_node_to_node_is_where_it_was_or_announced_in_turn() {
    for phase in 0..READ_WITHIN * 2 {
        paused(async move {
            let mut world = about_to_read(Duration::ZERO).await;
            world.go(0, "dora");
            sleep(Duration::from_millis(phase % 12)).await;
            world.come(1, "dora", "");
            sleep(Duration::from_millis(phase)).await;
            world.restart_store(true);
            sleep(TTL * 2).await;
            // What each node has told alternates, and ends with the truth.
            world.settle().await;
        });
    }
}

#[test]
fn who_comes_and_goes_at_once_or_the_other_way_round_is_announced_in_turn() {
    for phase in 0..READ_WITHIN * 2 {
        paused(async move {
            let mut world = about_to_read(Duration::ZERO).await;
            world.come(1, "ann", "");
            world.go(0, "dora");
            sleep(Duration::from_millis(10 + phase % 12)).await;
            world.go(1, "ann");
            world.come(0, "dora", "");
            sleep(Duration::from_millis(phase)).await;
            world.restart_store(true);
            sleep(TTL * 2).await;
            world.settle().await;
        });
    }
}

//! What happens when the store's memory goes back to what it was, or loses a part.

use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::sleep;

use super::model::Model;
use super::node::TTL;
use super::paused::paused;
use super::scenarios::{until, user};
use super::store::locked;
use super::world::World;
use crate::registry::{Policy, RoomName};

/// Enough for nodes to join, and for all that has happened to be read everywhere.
const MOMENT: Duration = Duration::from_secs(1);

/// Three nodes that have joined.
async fn three_nodes() -> World {
    let world = World::quiet(Duration::ZERO, Policy::Unlimited);
    sleep(TTL).await;
    world
}

impl World {
    fn memory(&self) -> Model {
        locked(&self.store).model.clone()
    }

    /// The store is away for a moment, and comes back with the memory of another time.
    async fn comes_back_with(&mut self, memory: Model) {
        self.store_is_up(false);
        locked(&self.store).break_reads();
        sleep(MOMENT / 10).await;
        let mut store = locked(&self.store);
        let edges = store.edges.len() as u64;
        store.model = memory;
        store.model.go_on_from(edges);
        store.run += 1;
        store.up = true;
        self.was_wiped = true;
    }

    /// A user comes to a node, and all have heard of it.
    async fn comes(&mut self, number: usize, name: &str) {
        self.come(number, name, "");
        self.is_told(name, true).await;
        until(|| !self.sockets_at(number, name).is_empty()).await;
    }

    /// A user leaves a node, and all have heard of it.
    async fn goes(&mut self, number: usize, name: &str) {
        self.go(number, name);
        self.is_told(name, false).await;
    }

    async fn is_told(&self, name: &str, online: bool) {
        let is_told = |number| self.told_at(number, name).last() == Some(&online);
        until(|| (0..3).all(is_told)).await;
    }

    /// The store's clock is set: by so many milliseconds it is ahead of the time of day.
    fn clock_is_ahead(&self, by: i64) {
        locked(&self.store).stepped = by;
    }

    /// All nodes have told these rooms, in this order, that a user is there.
    fn rooms_were_told(&self, name: &str, expected: &[&str]) {
        let expected: Vec<RoomName> = expected.iter().map(|&room| room.into()).collect();
        for node in &self.nodes {
            let table = locked(&node.sockets);
            let edges = table.heard.iter().filter(|edge| edge.who == user(name));
            let rooms = edges.filter(|edge| edge.online);
            let rooms: Vec<RoomName> = rooms.flat_map(|edge| edge.rooms.clone()).collect();
            assert_eq!(rooms, expected, "rooms of {name}");
        }
    }

    /// All nodes have announced these changes of a user, in this order.
    fn was_told(&self, name: &str, expected: &[bool]) {
        for number in 0..3 {
            assert_eq!(self.told_at(number, name), expected, "{name} at {number}");
        }
    }
}

#[test]
fn who_goes_when_the_store_has_an_old_memory_is_announced_though_it_knows_nothing_of_that() {
    // Milliseconds: before nodes have noticed, in the hold, and after it.
    for phase in [0, 1, 20, 1_000, 5_000, 30_000] {
        paused(async move {
            let mut world = three_nodes().await;
            world.comes(0, "ann").await;
            world.comes(2, "cleo").await;
            world.goes(2, "cleo").await;
            let old = world.memory();
            sleep(MOMENT).await;
            world.comes(1, "bob").await;
            world.comes(2, "cleo").await;
            sleep(MOMENT * 5).await;
            world.comes_back_with(old).await;
            sleep(Duration::from_millis(phase)).await;
            world.go(1, "bob");
            world.go(2, "cleo");
            world.settle().await;
            world.was_told("ann", &[true]);
            world.was_told("bob", &[true, false]);
            world.was_told("cleo", &[true, false, true, false]);
        });
    }
}

#[test]
fn who_comes_when_the_store_has_an_old_memory_is_announced_though_it_takes_them_for_there() {
    for phase in [0, 1, 20, 1_000, 5_000, 30_000] {
        paused(async move {
            let mut world = three_nodes().await;
            world.comes(0, "ann").await;
            world.comes(1, "bob").await;
            let old = world.memory();
            sleep(MOMENT).await;
            world.goes(0, "ann").await;
            world.goes(1, "bob").await;
            sleep(MOMENT * 5).await;
            world.comes_back_with(old).await;
            sleep(Duration::from_millis(phase)).await;
            world.come(2, "ann", "");
            world.come(1, "bob", "");
            world.settle().await;
            world.was_told("ann", &[true, false, true]);
            world.was_told("bob", &[true, false, true]);
        });
    }
}

#[test]
fn changes_of_long_ago_are_not_told_when_an_old_memory_comes_back_after_an_empty_one() {
    for phase in [0, 1, 20, 1_000, 5_000, 30_000] {
        paused(async move {
            let mut world = three_nodes().await;
            for name in ["ann", "bob", "cleo"] {
                world.comes(0, name).await;
            }
            world.goes(0, "cleo").await;
            world.comes(1, "dora").await;
            let old = world.memory();
            world.restart_store(true);
            sleep(TTL * 2).await;
            world.goes(0, "bob").await;
            world.comes(2, "cleo").await;
            world.comes(2, "eve").await;
            world.comes_back_with(old).await;
            sleep(Duration::from_millis(phase)).await;
            world.go(2, "eve");
            world.come(1, "frank", "");
            world.come(2, "bob", "");
            world.settle().await;
            world.was_told("ann", &[true]);
            world.was_told("bob", &[true, false, true]);
            world.was_told("cleo", &[true, false, true]);
            world.was_told("dora", &[true]);
            world.was_told("eve", &[true, false]);
            world.was_told("frank", &[true]);
        });
    }
}

#[test]
fn who_goes_after_the_store_has_lost_what_it_knew_of_them_is_announced() {
    paused(async {
        let mut world = three_nodes().await;
        world.comes(1, "ann").await;
        locked(&world.store).model.evict(&user("ann"));
        world.goes(1, "ann").await;
        world.comes(0, "ann").await;
        world.settle().await;
        world.was_told("ann", &[true, false, true]);
    });
}

#[test]
fn a_master_that_lacks_the_last_changes_is_not_taken_for_one_that_has_lost_them_all() {
    paused(async {
        let mut world = three_nodes().await;
        for _ in 0..20 {
            world.comes(0, "ann").await;
            world.goes(0, "ann").await;
        }
        let replica = world.memory();
        world.comes(1, "bob").await;
        world.comes_back_with(replica).await;
        world.comes(2, "cleo").await;
        world.settle().await;
        world.was_told("bob", &[true]);
        world.was_told("cleo", &[true]);
        for node in &world.nodes {
            let missed = node.member.counters().missed_edges.load(Ordering::Relaxed);
            assert_eq!(missed, 0);
        }
    });
}

const HOUR: i64 = 3_600_000;

#[test]
fn a_room_hears_of_who_comes_into_it_when_the_store_has_a_memory_of_minutes_ago() {
    for phase in [0, 1, 20, 1_000, 5_000, 30_000] {
        // By how many milliseconds the clock was ahead before, and is then.
        for (before, then) in [(0, 0), (HOUR, 0), (0, -HOUR), (0, HOUR)] {
            paused(async move {
                let mut world = three_nodes().await;
                world.clock_is_ahead(before);
                world.comes(0, "ann").await;
                let old = world.memory();
                sleep(TTL * 8).await;
                world.goes(0, "ann").await;
                world.comes(0, "ann").await;
                sleep(TTL).await;
                world.clock_is_ahead(then);
                world.comes_back_with(old).await;
                sleep(Duration::from_millis(phase)).await;
                world.come_into(0, "ann", "r");
                world.settle().await;
                world.was_told("ann", &[true, false, true]);
                world.rooms_were_told("ann", &["r"]);
            });
        }
    }
}

#[test]
fn who_goes_when_the_store_has_an_old_memory_is_announced_whatever_its_clock_was() {
    for phase in [0, 1, 20, 1_000, 5_000, 30_000] {
        for (before, then) in [(HOUR, 0), (0, -HOUR), (0, HOUR)] {
            paused(async move {
                let mut world = three_nodes().await;
                world.clock_is_ahead(before);
                for _ in 0..2 {
                    world.comes(2, "cleo").await;
                    world.goes(2, "cleo").await;
                }
                let old = world.memory();
                sleep(MOMENT).await;
                world.comes(2, "cleo").await;
                sleep(MOMENT * 5).await;
                world.clock_is_ahead(then);
                world.comes_back_with(old.clone()).await;
                sleep(Duration::from_millis(phase)).await;
                world.go(2, "cleo");
                world.settle().await;
                world.was_told("cleo", &[true, false, true, false, true, false]);
                // The same once more. Whoever stays for longer than nodes remember what they told
                // before the loss may be announced once more by then.
                if phase > 5_000 {
                    return;
                }
                world.comes(2, "cleo").await;
                sleep(MOMENT * 5).await;
                world.comes_back_with(old).await;
                sleep(Duration::from_millis(phase)).await;
                world.go(2, "cleo");
                world.settle().await;
                let all = [true, false].repeat(4);
                world.was_told("cleo", &all);
            });
        }
    }
}

impl World {
    fn is_held(&self) -> bool {
        let store = locked(&self.store);
        store.model.is_held(store.time())
    }

    /// How often a node has joined.
    fn joins_of(&self, number: usize) -> u64 {
        let counters = self.nodes[number].member.counters();
        counters.joins.load(Ordering::Relaxed)
    }
}

#[test]
fn nodes_that_lost_different_memories_begin_no_life_anew_for_each_other() {
    paused(async {
        let mut world = three_nodes().await;
        world.cut(2, true);
        world.restart_store(true);
        sleep(TTL * 2).await;
        world.cut(1, true);
        world.restart_store(true);
        sleep(TTL * 2).await;
        // It knew another memory than the first one did.
        world.cut(2, false);
        sleep(TTL * 2).await;
        world.come(0, "ann", "");
        until(|| [0, 2].map(|number| world.told_at(number, "ann")) == [[true], [true]]).await;
        // And this one the same as the first.
        let joins = world.joins_of(1);
        world.cut(1, false);
        until(|| world.joins_of(1) > joins).await;
        assert!(!world.is_held(), "who was there is known");
        world.settle().await;
        world.was_told("ann", &[true]);
    });
}

#[test]
fn a_memory_that_comes_back_a_second_time_has_another_life() {
    paused(async {
        let mut world = three_nodes().await;
        world.comes(0, "ann").await;
        let first = (world.memory(), locked(&world.store).run);
        world.restart_store(true);
        sleep(TTL * 2).await;
        world.comes(1, "bob").await;
        let second = (world.memory(), locked(&world.store).run);
        for (memory, run) in [&first, &second, &first, &second] {
            // It is away, and was not started anew.
            world.comes_back_with(memory.clone()).await;
            locked(&world.store).run = *run;
            until(|| world.is_held()).await;
            world.settle().await;
            world.comes(2, "cleo").await;
            world.goes(2, "cleo").await;
            sleep(MOMENT * 5).await;
        }
        world.was_told("ann", &[true]);
        world.was_told("bob", &[true]);
        world.was_told("cleo", &[true, false].repeat(4));
    });
}

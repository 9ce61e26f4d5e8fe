//! A store whose clock is set.

use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::node::TTL;
use super::paused::paused;
use super::scenarios::until;
use super::store::locked;
use super::world::World;
use crate::registry::Policy;

/// Enough for nodes to join, and to notice what has changed.
const MOMENT: Duration = Duration::from_secs(2);
const HOUR: i64 = 3_600_000;

impl World {
    /// Incarnations that nodes have begun.
    fn lives(&self) -> u64 {
        let lives = self.nodes.iter().map(|node| {
            let counters = node.member.counters();
            counters.joins.load(Ordering::Relaxed)
        });
        lives.sum()
    }
}

async fn with_users() -> World {
    let mut world = World::quiet(Duration::from_secs(3), Policy::Unlimited);
    sleep(MOMENT).await;
    world.come(0, "ann", "");
    world.come(1, "bob", "");
    sleep(MOMENT).await;
    world
}

#[test]
fn nobody_is_taken_for_gone_because_the_clock_of_the_store_was_set() {
    // At each place between two renewals.
    for phase in 0..20 {
        paused(async move {
            let mut world = with_users().await;
            for by in [9_000, 15_000, HOUR, -HOUR, 24 * HOUR, -30_000] {
                sleep(TTL + Duration::from_millis(250 * phase)).await;
                world.set_clock(by);
            }
            world.settle().await;
            assert_eq!(world.lives(), 3, "no lease has ended");
            assert_eq!(world.told_of("ann"), [true]);
            assert_eq!(world.told_of("bob"), [true]);
        });
    }
}

#[test]
fn a_crash_is_known_as_soon_as_ever_after_the_clock_was_set_back() {
    paused(async {
        let mut world = with_users().await;
        world.set_clock(-HOUR);
        sleep(MOMENT).await;
        world.nodes[1].kill();
        let killed = Instant::now();
        until(|| world.told_of("bob") == [true, false]).await;
        let took = killed.elapsed();
        assert!(took < TTL + world.grace + MOMENT, "{took:?}");
        world.settle().await;
    });
}

#[test]
fn who_goes_is_told_after_the_grace_whatever_the_clock_does() {
    for by in [HOUR, -HOUR] {
        paused(async move {
            let mut world = with_users().await;
            world.go(0, "ann");
            sleep(Duration::from_millis(500)).await;
            world.set_clock(by);
            let begun = Instant::now();
            until(|| world.told_of("ann") == [true, false]).await;
            assert!(begun.elapsed() < world.grace + MOMENT);
            world.settle().await;
        });
    }
}

#[test]
fn a_store_that_nobody_reached_for_a_minute_has_ended_no_lease() {
    paused(async {
        let world = with_users().await;
        world.store_is_up(false);
        sleep(TTL * 4).await;
        world.store_is_up(true);
        world.settle().await;
        assert_eq!(world.lives(), 3);
        assert_eq!(world.told_of("ann"), [true]);
        let store = locked(&world.store);
        assert!(!store.model.is_held(store.time()));
    });
}

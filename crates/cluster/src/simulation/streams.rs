//! What becomes of a node that cannot read the stream of changes for a while, and of what it knows.

use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::node::TTL;
use super::paused::paused;
use super::scenarios::until;
use super::store::locked;
use super::world::World;
use crate::member::Standing;
use crate::registry::Policy;

/// Enough for nodes to join, and for all that has happened to be read everywhere.
const MOMENT: Duration = Duration::from_secs(2);

impl World {
    /// What the first node knows of others, if it can be believed.
    fn standing(&self) -> Option<Standing> {
        self.nodes[0].member.standing()
    }

    /// How many changes it has missed, and how many it has heard.
    fn missed_and_heard(&self) -> (u64, usize) {
        let missed = &self.nodes[0].member.counters().missed_edges;
        let heard = locked(&self.nodes[0].sockets).heard_count;
        (missed.load(Ordering::Relaxed), heard)
    }

    async fn so_many_come(&mut self, names: std::ops::Range<u32>) {
        for name in names {
            self.come(1, &format!("u{name}"), "");
            sleep(Duration::from_millis(5)).await;
        }
    }
}

async fn three_that_know() -> (World, Standing) {
    let mut world = World::quiet(Duration::ZERO, Policy::Unlimited);
    sleep(MOMENT).await;
    world.so_many_come(0..3).await;
    sleep(MOMENT).await;
    let standing = world.standing().unwrap();
    (world, standing)
}

#[test]
fn what_is_known_while_nobody_asks_is_less_than_five_seconds_old() {
    paused(async {
        let world = World::quiet(Duration::ZERO, Policy::Unlimited);
        sleep(TTL).await;
        for _ in 0..600 {
            sleep(Duration::from_millis(97)).await;
            for node in &world.nodes {
                let until = locked(&node.sockets).heard_until.unwrap();
                assert!(until.elapsed() < Duration::from_millis(4_500));
            }
        }
    });
}

#[test]
fn a_read_that_breaks_puts_nothing_in_doubt_and_what_came_meanwhile_is_read() {
    paused(async {
        let (mut world, before) = three_that_know().await;
        world.cut(0, true);
        world.so_many_come(3..30).await;
        until(|| world.standing().is_none()).await;
        world.cut(0, false);
        let mended = Instant::now();
        until(|| world.standing().is_some()).await;
        // A pause between two attempts, and no read that waits for something to come.
        assert!(mended.elapsed() < Duration::from_millis(1_500));
        assert_eq!(world.standing(), Some(before));
        assert_eq!(world.missed_and_heard(), (0, 30));
    });
}

#[test]
fn nothing_is_believed_before_what_came_meanwhile_is_read_to_its_end() {
    paused(async {
        let (mut world, before) = three_that_know().await;
        locked(&world.store).most_per_read = 10;
        world.cut(0, true);
        world.so_many_come(3..203).await;
        until(|| world.standing().is_none()).await;
        world.cut(0, false);
        until(|| world.standing().is_some()).await;
        assert_eq!(world.missed_and_heard(), (0, 203));
        assert_eq!(world.standing(), Some(before));
    });
}

#[test]
fn what_the_stream_has_lost_while_it_could_not_be_read_is_missed() {
    paused(async {
        let (mut world, _) = three_that_know().await;
        locked(&world.store).model.kept_edges = Some(10);
        world.cut(0, true);
        world.so_many_come(3..30).await;
        world.cut(0, false);
        until(|| world.standing().is_some()).await;
        assert_eq!(world.missed_and_heard(), (17, 13));
    });
}

#[test]
fn another_stream_is_noticed_though_nothing_comes_by_it() {
    paused(async {
        let (mut world, before) = three_that_know().await;
        world.cut(0, true);
        world.so_many_come(3..4).await;
        until(|| world.standing().is_none()).await;
        world.restart_store(true);
        world.cut(0, false);
        // Before anybody knows of the loss.
        until(|| world.missed_and_heard().0 == 1).await;
        sleep(TTL * 3).await;
        assert!(world.standing().is_some_and(|now| now != before));
        assert_eq!(world.missed_and_heard().0, 1);
    });
}

#[test]
fn who_could_not_read_all_that_is_told_again_after_a_loss_knows_that_some_is_missing() {
    for kept in [None, Some(10)] {
        paused(async move {
            let (mut world, _) = three_that_know().await;
            locked(&world.store).model.kept_edges = kept;
            for name in 3..43 {
                world.come(1, &format!("u{name}"), "");
            }
            until(|| locked(&world.store).model.sockets().len() == 43).await;
            world.restart_store(true);
            // Who has missed a change has not told the truth.
            world.amnesia = kept.is_some();
            world.settle().await;
            for (number, node) in world.nodes.iter().enumerate() {
                let names = (0..43).map(|name| format!("u{name}"));
                let told = names.filter(|name| world.told_at(number, name) == [true]);
                let told = told.count();
                let missed = &node.member.counters().missed_edges;
                let missed = missed.load(Ordering::Relaxed);
                assert!(
                    told == 43 || missed > 0,
                    "{told} at {number}, with {kept:?}"
                );
                assert!(told == 43 || kept.is_some(), "{told} at {number}");
            }
        });
    }
}

//! Nodes of different builds in one cluster.

use std::time::Duration;

use tokio::time::sleep;

use super::node::TTL;
use super::paused::paused;
use super::scenarios::until;
use super::world::World;
use crate::registry::{Policy, Versions};

/// Enough for nodes to join, and to notice what has changed.
const MOMENT: Duration = Duration::from_secs(2);

/// A rolling upgrade: one node after the other goes, and comes back as another build.
#[test]
fn nodes_of_two_builds_are_one_cluster_and_write_what_all_can_read() {
    paused(async {
        let mut world = World::quiet(Duration::ZERO, Policy::Unlimited);
        sleep(MOMENT).await;
        world.come(2, "ann", "");
        for number in 0..2 {
            world.nodes[number].kill();
            world.start_build(number, Versions { min: 2, max: 3 });
        }
        sleep(MOMENT).await;
        world.come(0, "bob", "");
        sleep(MOMENT).await;
        let version = |world: &World, number: usize| world.nodes[number].member.version();
        assert_eq!([0, 1, 2].map(|number| version(&world, number)), [2; 3]);
        // The last old one goes.
        world.nodes[2].kill();
        world.start_build(2, Versions { min: 3, max: 3 });
        sleep(TTL * 3).await;
        assert_eq!([0, 1, 2].map(|number| version(&world, number)), [3; 3]);
        assert_eq!(world.told_of("bob"), [true]);
        assert_eq!(world.told_of("ann"), [true, false]);
        world.settle().await;
    });
}

#[test]
fn a_build_that_a_living_node_does_not_understand_stays_out_and_says_why() {
    paused(async {
        let mut world = World::quiet(Duration::ZERO, Policy::Unlimited);
        sleep(MOMENT).await;
        world.nodes[0].kill();
        world.start_build(0, Versions { min: 3, max: 4 });
        sleep(MOMENT).await;
        let member = world.nodes[0].member.clone();
        let why = member.refused().expect("it is refused");
        assert!(
            why.contains("versions 3 to 4") && why.contains("1 to 2"),
            "{why}"
        );
        assert!(!member.is_trusted());
        // When the others are gone, it may come.
        world.nodes[1].kill();
        world.nodes[2].kill();
        until(|| member.is_trusted()).await;
        assert_eq!(member.refused(), None);
        until(|| member.version() == 4).await;
    });
}

//! Clients that go on at another node with a socket that is there still, in each order in which the
//! registry may hear of it: their users were never away.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;

use super::node::TTL;
use super::paused::paused;
use super::scenarios::until;
use super::store::locked;
use super::world::{TAKEN_OVER, World};
use crate::registry::{Newcomer, Policy};

/// Enough for nodes to join, and for all that is said to be heard.
const MOMENT: Duration = Duration::from_secs(2);

/// Whom the registry hears first.
#[derive(Debug, Clone, Copy)]
enum First {
    Old,
    New,
    /// The newcomer, while what the old node says is on its way for long.
    OldIsLate,
}

const ORDERS: [First; 3] = [First::Old, First::New, First::OldIsLate];

impl World {
    /// A user's client goes on at a node with the socket that it has at another one.
    async fn goes_on(&mut self, (from, to): (usize, usize), name: &str, first: First) {
        let earlier: Arc<str> = self.sockets_at(from, name)[0].clone();
        let newcomer = Newcomer {
            instead_of: Some(earlier.clone()),
            ..self.newcomer(name, "")
        };
        match first {
            First::Old => {
                self.go_for(from, name, TAKEN_OVER);
                until(|| !locked(&self.store).model.sockets().contains(&earlier)).await;
                self.enter(to, newcomer, false);
            }
            First::New | First::OldIsLate => {
                self.enter(to, newcomer, false);
                until(|| !self.sockets_at(to, name).is_empty()).await;
                if matches!(first, First::OldIsLate) {
                    sleep(MOMENT).await;
                }
                self.go_for(from, name, TAKEN_OVER);
            }
        }
        until(|| !self.sockets_at(to, name).is_empty()).await;
    }
}

#[test]
fn who_goes_on_at_another_node_is_not_gone_in_between_and_goes_at_once_then() {
    for policy in [Policy::Unlimited, Policy::Replace, Policy::Limit(1)] {
        for first in ORDERS {
            paused(async move {
                let mut world = World::quiet(Duration::ZERO, policy);
                sleep(MOMENT).await;
                world.come(0, "ann", "");
                sleep(MOMENT).await;
                for (from, to) in [(0, 1), (1, 2), (2, 0)] {
                    world.goes_on((from, to), "ann", first).await;
                    sleep(MOMENT / 10).await;
                    let there = locked(&world.store).model.sockets().len();
                    assert_eq!(there, 1, "{policy:?} {first:?}");
                }
                world.go(0, "ann");
                // Nobody waits for who has come and gone.
                sleep(MOMENT / 2).await;
                let told = world.told_of("ann");
                assert_eq!(told, [true, false], "{policy:?} {first:?}");
                world.settle().await;
                assert_eq!(world.told_of("ann"), [true, false]);
            });
        }
    }
}

#[test]
fn who_does_not_come_after_all_is_gone_when_they_are_not_waited_for_any_more() {
    paused(async {
        let mut world = World::quiet(Duration::ZERO, Policy::Unlimited);
        sleep(MOMENT).await;
        world.come(0, "ann", "");
        sleep(MOMENT).await;
        world.go_for(0, "ann", TAKEN_OVER);
        sleep(TAKEN_OVER - MOMENT).await;
        assert_eq!(world.told_of("ann"), [true]);
        sleep(MOMENT + TTL).await;
        assert_eq!(world.told_of("ann"), [true, false]);
    });
}

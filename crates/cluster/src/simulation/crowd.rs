//! Many nodes with many users, on a store whose work takes time: what recovery costs.
//!
//! `HEARTLINE_CROWD=NODES,USERS` (users of each node) makes the crowd that all links of are
//! cut larger; it is told what that cost.

use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::node::TTL;
use super::paused::paused;
use super::scenarios::{until, user};
use super::store::locked;
use super::world::World;
use crate::registry::Policy;

/// Enough for nodes to join, and to notice what has changed.
const MOMENT: Duration = Duration::from_secs(2);

impl World {
    /// Everybody is registered and nothing waits; from here on, work takes time.
    async fn crowd_is_there(&self) {
        let users: usize = self.nodes.iter().map(|node| node.users()).sum();
        until(|| locked(&self.store).model.count() == users).await;
        sleep(MOMENT).await;
        self.work_takes_time();
        // Renewals and comparisons do not come all at once any more.
        sleep(TTL).await;
    }

    fn edges(&self) -> usize {
        locked(&self.store).edges.len()
    }

    fn operations(&self) -> u64 {
        locked(&self.store).operations
    }

    fn joins(&self) -> u64 {
        let joins = |node: &super::node::Node| node.member.counters().joins.load(Ordering::Relaxed);
        self.nodes.iter().map(joins).sum()
    }

    fn repairs(&self) -> u64 {
        let repairs =
            |node: &super::node::Node| node.member.counters().repairs.load(Ordering::Relaxed);
        self.nodes.iter().map(repairs).sum()
    }

    fn all_are_trusted(&self) -> bool {
        self.nodes.iter().all(|node| node.member.is_trusted())
    }

    fn cut_all(&self, is_cut: bool) {
        for number in 0..self.nodes.len() {
            self.cut(number, is_cut);
        }
    }

    /// How long it takes until all are trusted, and remain so for as long as it is watched.
    async fn until_trusted(&self, watched: Duration) -> Duration {
        let begun = Instant::now();
        let mut trusted = begun;
        while begun.elapsed() < watched {
            sleep(Duration::from_millis(10)).await;
            if !self.all_are_trusted() {
                trusted = Instant::now();
            }
        }
        trusted - begun
    }
}

fn crowd_size() -> (usize, usize) {
    let said = std::env::var("HEARTLINE_CROWD").ok();
    let parsed = said.as_deref().map(|said| {
        let (nodes, users) = said.split_once(',').expect("NODES,USERS");
        let number = |text: &str| text.parse().expect("HEARTLINE_CROWD has numbers");
        (number(nodes), number(users))
    });
    parsed.unwrap_or((50, 200))
}

#[test]
fn a_cut_of_a_second_costs_what_was_in_doubt_and_nobody_is_told_of_it() {
    paused(async {
        let (nodes, users) = crowd_size();
        let world = World::crowd(nodes, users);
        world.crowd_is_there().await;
        let (edges, joins, operations) = (world.edges(), world.joins(), world.operations());
        world.cut_all(true);
        sleep(Duration::from_secs(1)).await;
        world.cut_all(false);
        let trusted = world.until_trusted(MOMENT * 2).await;
        let cost = world.operations() - operations;
        eprintln!(
            "{nodes} nodes with {users} users each, cut for a second: {} false edges, {} new \
             incarnations, trusted after {trusted:?}, {cost} operations in five seconds",
            world.edges() - edges,
            world.joins() - joins,
        );
        assert!(
            trusted <= Duration::from_secs(2),
            "trusted after {trusted:?}"
        );
        assert_eq!(world.until_trusted(TTL * 2).await, Duration::ZERO);
        assert_eq!(world.edges(), edges, "nobody came or went");
        assert_eq!(world.joins(), joins, "everybody is registered still");
        assert!(cost <= 25 * nodes as u64, "{cost} operations");
        assert_eq!(world.repairs(), 0);
        world.check();
    });
}

#[test]
fn a_store_that_stands_still_for_five_seconds_costs_no_incarnation() {
    paused(async {
        let world = World::crowd(50, 200);
        world.crowd_is_there().await;
        let (edges, joins) = (world.edges(), world.joins());
        locked(&world.store).busy_until = Instant::now() + Duration::from_secs(5);
        sleep(Duration::from_secs(5)).await;
        let trusted = world.until_trusted(TTL * 2).await;
        assert!(
            trusted < Duration::from_secs(2),
            "trusted after {trusted:?}"
        );
        assert_eq!(world.edges(), edges);
        assert_eq!(world.joins(), joins);
        world.check();
    });
}

#[test]
fn a_crowd_that_a_store_has_forgotten_is_registered_again_and_nobody_is_told_of_it() {
    paused(async {
        let mut world = World::crowd(50, 200);
        world.crowd_is_there().await;
        let edges = world.edges();
        world.restart_store(true);
        let restarted = Instant::now();
        let all = 50 * 200;
        until(|| locked(&world.store).model.count() == all).await;
        until(|| {
            let store = locked(&world.store);
            !store.model.is_held(store.time())
        })
        .await;
        let took = restarted.elapsed();
        assert!(
            took < TTL,
            "nobody waits longer than until all have come: {took:?}"
        );
        sleep(TTL * 2).await;
        assert_eq!(world.edges(), edges);
        world.check();
    });
}

#[test]
fn who_goes_after_a_restart_is_offline_as_soon_as_all_nodes_are_complete() {
    paused(async {
        let mut world = World::quiet(Duration::ZERO, Policy::Unlimited);
        sleep(MOMENT).await;
        world.come(0, "ann", "");
        sleep(MOMENT).await;
        world.restart_store(false);
        sleep(MOMENT).await;
        world.go(0, "ann");
        sleep(TTL / 2).await;
        assert_eq!(world.told_of("ann"), [true, false]);
        world.settle().await;
    });
}

#[test]
fn a_node_that_is_cut_off_is_waited_for_in_a_hold() {
    paused(async {
        let mut world = World::quiet(Duration::ZERO, Policy::Unlimited);
        sleep(MOMENT).await;
        world.come(0, "ann", "");
        world.come(1, "bob", "");
        sleep(MOMENT).await;
        world.cut(0, true);
        world.restart_store(true);
        sleep(TTL - MOMENT).await;
        {
            let store = locked(&world.store);
            assert!(store.model.is_held(store.time()));
        }
        world.cut(0, false);
        world.settle().await;
        assert_eq!(world.told_of("ann"), [true]);
        assert_eq!(world.told_of("bob"), [true]);
    });
}

#[test]
fn who_goes_is_offline_at_once_however_many_come_into_rooms() {
    paused(async {
        let mut world = World::crowd(1, 500);
        world.crowd_is_there().await;
        world.come(0, "ann", "");
        sleep(MOMENT).await;
        for join in 0..3_000 {
            // A thousand joins a second.
            world.come_into(
                0,
                &format!("n0u{}", join % 500),
                &format!("r{}", join / 500),
            );
            sleep(Duration::from_millis(1)).await;
            if join == 1_000 {
                world.go(0, "ann");
            }
            if join == 1_500 {
                assert_eq!(world.told_of("ann"), [true, false]);
            }
        }
    });
}

#[test]
fn what_the_store_has_otherwise_is_mended_within_half_a_minute() {
    paused(async {
        let world = World::crowd(3, 4_000);
        world.crowd_is_there().await;
        let edges = world.edges();
        let ghost = {
            let mut store = locked(&world.store);
            let now = store.time();
            store.model.lose(&user("n0u17"));
            store.model.lose(&user("n2u3999"));
            let incarnation = world.nodes[1].member.incarnation().unwrap();
            store.model.haunt(now, &incarnation, &user("n1u5"), "ghost");
            let all = store.model.sockets();
            assert_eq!(all.len(), 3 * 4_000 - 1);
            all.contains("ghost")
        };
        assert!(ghost);
        sleep(Duration::from_secs(30)).await;
        assert_eq!(world.repairs(), 3);
        assert_eq!(world.edges(), edges);
        world.check();
    });
}

#[test]
fn nothing_is_mended_where_users_come_and_go_all_the_time() {
    paused(async {
        let mut world = World::crowd(3, 100);
        world.crowd_is_there().await;
        for second in 0..60u32 {
            for user in 0..20 {
                let number = (user % 3) as usize;
                world.come(number, &format!("c{second}u{user}"), "");
                sleep(Duration::from_millis(25)).await;
                world.go(number, &format!("c{}u{user}", second.saturating_sub(2)));
                world.come_into(number, &format!("n{number}u{user}"), &format!("r{second}"));
                sleep(Duration::from_millis(25)).await;
            }
        }
        sleep(MOMENT).await;
        assert_eq!(world.repairs(), 0);
    });
}

#[test]
fn changes_that_the_store_dropped_before_a_node_read_them_are_counted() {
    paused(async {
        let mut world = World::quiet(Duration::ZERO, Policy::Unlimited);
        locked(&world.store).model.kept_edges = Some(10);
        sleep(MOMENT).await;
        world.cut(0, true);
        sleep(MOMENT / 10).await;
        for number in 0..50 {
            world.come(1, &format!("u{number}"), "");
            sleep(Duration::from_millis(50)).await;
        }
        world.cut(0, false);
        sleep(MOMENT * 2).await;
        let missed = |number: usize| {
            let counters = world.nodes[number].member.counters();
            counters.missed_edges.load(Ordering::Relaxed)
        };
        assert!(missed(0) > 0, "{}", missed(0));
        assert_eq!(missed(1), 0);
        let heard = locked(&world.nodes[0].sockets).heard_count as u64;
        assert_eq!(heard + missed(0), 50);
    });
}

#[test]
fn changes_are_read_many_at_a_time_however_many_there_are() {
    paused(async {
        let mut world = World::quiet(Duration::ZERO, Policy::Unlimited);
        sleep(MOMENT).await;
        for number in 0..400 {
            world.come(number % 3, &format!("u{number}"), "");
            sleep(Duration::from_millis(5)).await;
        }
        // Each node reads every 30 milliseconds at most.
        let reads = locked(&world.store).reads;
        assert!(reads <= 3 * 2_000 / 30 + 3, "{reads} reads");
        sleep(MOMENT).await;
        for node in &world.nodes {
            assert_eq!(locked(&node.sockets).heard_count, 400);
        }
    });
}

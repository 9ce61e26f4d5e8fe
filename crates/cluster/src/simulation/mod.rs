//! The whole protocol under a virtual clock: real members on a store in memory, and
//! everything that can go wrong on the way: crashes, processes that are stopped and go
//! on later, links that are cut, answers that get lost, commands that arrive after
//! their sender has given up, a store that is away, restarts, or comes back empty.
//!
//! A run is decided by its seed. `HEARTLINE_SIMULATIONS` sets how many there are,
//! `HEARTLINE_SEED` runs a single one. A seed that failed is printed; what it has taught is
//! told as a scenario.

mod back;
mod builds;
mod clocks;
mod crashes;
mod crowd;
mod dice;
mod model;
mod moved;
mod net;
mod node;
mod paused;
mod scenarios;
mod store;
mod streams;
mod unread;
mod world;

use std::time::Duration;

use node::TTL;
use paused::paused;
use store::locked;
use tokio::time::sleep;
use world::World;

pub(crate) use dice::Dice;
pub(crate) use model::Model;

/// What goes wrong in a run.
#[derive(Debug, Clone, Copy)]
enum Mishaps {
    /// So many of a hundred events are mishaps of any kind.
    Any(u64),
    /// So many are losses of the store's memory, and nothing else is wrong.
    Losses(u64),
}

/// One run.
async fn run(seed: u64, mishaps: Mishaps) {
    let mut world = World::new(seed);
    if matches!(mishaps, Mishaps::Losses(_)) {
        locked(&world.store).calm = true;
    }
    let events = 40 + world.dice.below(160);
    for _ in 0..events {
        let pause = match world.dice.below(10) {
            0 => world.dice.below(20_000),
            1 | 2 => world.dice.below(3_000),
            _ => world.dice.below(100),
        };
        sleep(Duration::from_millis(pause)).await;
        let (Mishaps::Any(some) | Mishaps::Losses(some)) = mishaps;
        if world.dice.chance(some) {
            match mishaps {
                Mishaps::Any(_) => world.mishap(),
                Mishaps::Losses(_) => world.forget_everything().await,
            }
        } else if world.dice.chance(25) {
            world.change_rooms();
        } else if world.dice.chance(10) {
            world.move_over();
        } else if world.dice.chance(60) {
            world.connect();
        } else {
            world.disconnect();
        }
    }
    world.heal();
    // Two leases: one for who is dead, one for a hold that began meanwhile.
    sleep(TTL * 3 + world.grace + Duration::from_secs(10)).await;
    world.check();
    for node in &mut world.nodes {
        node.kill();
    }
}

/// Whether everything that has to be true was.
fn simulate(seed: u64, mishaps: Mishaps) -> bool {
    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        paused(run(seed, mishaps));
    }));
    if result.is_err() {
        eprintln!("the run with HEARTLINE_SEED={seed} and {mishaps:?} % failed");
    }
    result.is_ok()
}

fn runs() -> u64 {
    std::env::var("HEARTLINE_SIMULATIONS")
        .ok()
        .and_then(|runs| runs.parse().ok())
        .unwrap_or(300)
}

/// More than so many runs that failed say nothing new.
const MAX_FAILED: usize = 10;

/// So many runs, from this seed on, or the one that is asked for.
fn run_many(first: u64, mishaps: Mishaps) {
    // A loss of memory takes a run long.
    let runs = match mishaps {
        Mishaps::Any(_) => runs(),
        Mishaps::Losses(_) => runs() / 3,
    };
    let seeds = match std::env::var("HEARTLINE_SEED") {
        Ok(seed) => {
            let seed: u64 = seed.parse().expect("HEARTLINE_SEED is a number");
            seed..seed + 1
        }
        Err(_) => first..first + runs,
    };
    let mut failed = Vec::new();
    for seed in seeds.clone() {
        if !simulate(seed, mishaps) {
            failed.push(seed);
        }
        if failed.len() >= MAX_FAILED {
            break;
        }
        let done = seed - seeds.start + 1;
        if done.is_multiple_of(5000) {
            eprintln!("{done} of {runs} runs with {mishaps:?} %");
        }
    }
    assert!(failed.is_empty(), "these seeds failed: {failed:?}");
}

#[test]
fn presence_is_right_in_calm_weather() {
    run_many(0, Mishaps::Any(0));
}

#[test]
fn presence_is_right_after_some_trouble() {
    run_many(1 << 32, Mishaps::Any(6));
}

#[test]
fn presence_is_right_after_much_trouble() {
    run_many(2 << 32, Mishaps::Any(25));
}

#[test]
fn what_nodes_tell_is_right_whenever_memory_is_lost() {
    run_many(3 << 32, Mishaps::Losses(4));
}

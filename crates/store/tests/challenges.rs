//! Challenges of wallets, on every store.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

mod suite;

use std::sync::Arc;

use heartline_core::store::{
    Challenge, Challenges, MAX_CHALLENGES, MAX_OPEN, MessageStore, Redeemed,
};
use suite::{on_each, on_each_here, on_each_kept};

fn bytes(number: usize) -> [u8; 32] {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&(number as u64).to_be_bytes());
    bytes
}

fn of(store: &Arc<dyn MessageStore>) -> &dyn Challenges {
    store.challenges().unwrap()
}

/// Gives out the challenge with this number, good for a thousand milliseconds.
async fn issue(store: &Arc<dyn MessageStore>, number: usize, wallet: usize, now: u64) {
    let challenge = Challenge {
        hash: bytes(number),
        wallet: bytes(wallet),
        expires_at: now + 1_000,
    };
    of(store).issue(challenge, now).await.unwrap();
}

async fn redeem(store: &Arc<dyn MessageStore>, number: usize, wallet: usize, now: u64) -> Redeemed {
    let redeemed = of(store).redeem(bytes(number), bytes(wallet), now);
    redeemed.await.unwrap()
}

#[test]
fn a_challenge_is_good_once_and_until_it_expires() {
    on_each(async |store| {
        issue(&store, 1, 7, 5_000).await;
        issue(&store, 2, 7, 5_000).await;
        assert_eq!(redeem(&store, 3, 7, 5_000).await, Redeemed::Unknown);
        assert_eq!(redeem(&store, 1, 7, 5_999).await, Redeemed::Taken);
        assert_eq!(redeem(&store, 1, 7, 5_999).await, Redeemed::Unknown);
        assert_eq!(redeem(&store, 2, 7, 6_000).await, Redeemed::Unknown);
    });
}

#[test]
fn a_stranger_cannot_use_up_somebody_elses_challenge() {
    on_each(async |store| {
        issue(&store, 1, 7, 5_000).await;
        assert_eq!(redeem(&store, 1, 8, 5_001).await, Redeemed::OtherWallet);
        assert_eq!(redeem(&store, 1, 7, 5_001).await, Redeemed::Taken);
        assert_eq!(redeem(&store, 1, 8, 5_001).await, Redeemed::Unknown);
    });
}

#[test]
fn of_many_who_race_for_one_challenge_one_gets_it() {
    on_each(async |store| {
        for round in 0..200 {
            issue(&store, round, 7, 5_000).await;
            let racers: Vec<_> = (0..64)
                .map(|_| {
                    let store = store.clone();
                    tokio::spawn(async move { redeem(&store, round, 7, 5_001).await })
                })
                .collect();
            let mut taken = 0;
            for racer in racers {
                taken += usize::from(racer.await.unwrap() == Redeemed::Taken);
            }
            assert_eq!(taken, 1, "round {round}");
        }
    });
}

#[test]
fn one_more_than_a_wallet_may_have_open_takes_the_oldest_ones_place() {
    on_each(async |store| {
        issue(&store, 100, 8, 5_000).await;
        for number in 0..=MAX_OPEN {
            issue(&store, number, 7, 5_000).await;
        }
        assert_eq!(redeem(&store, 0, 7, 5_001).await, Redeemed::Unknown);
        for number in 1..=MAX_OPEN {
            assert_eq!(redeem(&store, number, 7, 5_001).await, Redeemed::Taken);
        }
        assert_eq!(redeem(&store, 100, 8, 5_001).await, Redeemed::Taken);
    });
}

#[test]
fn however_many_strangers_ask_the_newest_challenges_are_open() {
    on_each_here(async |store| {
        // As many at once as a store's queue takes.
        let all: Vec<usize> = (0..MAX_CHALLENGES + 2).collect();
        for some in all.chunks(10_000) {
            let issued: Vec<_> = some
                .iter()
                .map(|number| {
                    let challenge = Challenge {
                        hash: bytes(*number),
                        wallet: bytes(*number),
                        expires_at: 6_000,
                    };
                    of(&store).issue(challenge, 5_000)
                })
                .collect();
            for issued in issued {
                issued.await.unwrap();
            }
        }
        assert_eq!(redeem(&store, 0, 0, 5_001).await, Redeemed::Unknown);
        assert_eq!(redeem(&store, 1, 1, 5_001).await, Redeemed::Unknown);
        assert_eq!(redeem(&store, 2, 2, 5_001).await, Redeemed::Taken);
    });
}

#[test]
fn a_challenge_that_was_used_stays_used_when_the_process_comes_back() {
    on_each_kept(async |kept| {
        let store = kept.open();
        issue(&store, 1, 7, 5_000).await;
        issue(&store, 2, 7, 5_000).await;
        assert_eq!(redeem(&store, 1, 7, 5_001).await, Redeemed::Taken);
        drop(store);
        let store = kept.open();
        assert_eq!(redeem(&store, 1, 7, 5_002).await, Redeemed::Unknown);
        assert_eq!(redeem(&store, 2, 7, 5_002).await, Redeemed::Taken);
    });
}

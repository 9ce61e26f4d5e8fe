//! What is done once however many nodes try: a challenge is redeemed, a request answered.

use std::sync::Arc;

use heartline_core::store::memory::MemoryStore;
use heartline_core::store::{Challenge, Challenges, Redeemed};

use super::Redis;
use crate::redis::{OnceBounds, OnceKnown, RedisChallenges, RedisOnce};
use crate::simulation::Dice;

fn bytes(number: u64) -> [u8; 32] {
    let mut bytes = [7; 32];
    bytes[..8].copy_from_slice(&number.to_be_bytes());
    bytes
}

#[tokio::test]
async fn challenges_in_redis_are_what_they_are_in_memory() {
    let server = Redis::start();
    for seed in 0..20 {
        let redis = RedisChallenges::new(&server.url, &format!("c{seed}")).unwrap();
        let model = MemoryStore::default();
        let (mut dice, mut now, mut issued) = (Dice(seed), 1_700_000_000_000, 0);
        for _ in 0..120 {
            now += dice.below(60);
            if dice.below(2) == 0 {
                issued += 1;
                let challenge = Challenge {
                    hash: bytes(issued),
                    wallet: bytes(dice.below(4)),
                    expires_at: now + 1_000,
                };
                model.issue(challenge.clone(), now).await.unwrap();
                redis.issue(challenge, now).await.unwrap();
            } else {
                let hash = bytes(1 + dice.below(issued + 1));
                let wallet = bytes(dice.below(4));
                let expected = model.redeem(hash, wallet, now).await;
                assert_eq!(redis.redeem(hash, wallet, now).await, expected);
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_nodes_that_race_for_a_challenge_one_gets_it() {
    let server = Redis::start();
    let node = || Arc::new(RedisChallenges::new(&server.url, "race").unwrap());
    let nodes = [node(), node()];
    for round in 0..100 {
        let challenge = Challenge {
            hash: bytes(round),
            wallet: bytes(1),
            expires_at: 2_000,
        };
        nodes[0].issue(challenge, 1_000).await.unwrap();
        let racers: Vec<_> = (0..16)
            .map(|racer| {
                let node = nodes[racer % 2].clone();
                tokio::spawn(async move { node.redeem(bytes(round), bytes(1), 1_500).await })
            })
            .collect();
        let mut taken = 0;
        for racer in racers {
            taken += usize::from(racer.await.unwrap() == Ok(Redeemed::Taken));
        }
        assert_eq!(taken, 1, "round {round}");
    }
}

const ONCE: OnceBounds = OnceBounds {
    kept_for: 10_000,
    runs_for: 1_000,
    requests: 10,
    bytes: 10_000,
};

#[tokio::test]
async fn a_request_is_done_by_one_node_and_its_answer_is_everybodys() {
    let server = Redis::start();
    let nodes = [(); 2].map(|()| RedisOnce::new(&server.url, "once", ONCE).unwrap());
    let claim = async |node: usize, fingerprint, now| {
        let (token, fingerprint) = (node as u64 + 1, bytes(fingerprint));
        let claimed = nodes[node].claim("k", &fingerprint, token, now).await;
        claimed.unwrap()
    };
    let finish = async |node: usize, answer: Option<&str>, now| {
        let answer = answer.map(str::as_bytes);
        let (token, fingerprint) = (node as u64 + 1, bytes(1));
        let finished = nodes[node].finish("k", &fingerprint, token, answer, now);
        finished.await.unwrap();
    };
    let known = |answer: Option<&str>| {
        Some(OnceKnown {
            fingerprint: bytes(1),
            answer: answer.map(Into::into),
        })
    };
    let now = 1_700_000_000_000;
    assert_eq!(claim(0, 1, now).await, None);
    // The same that asks again is no other.
    assert_eq!(claim(0, 1, now).await, None);
    assert_eq!(claim(1, 1, now).await, known(None));
    assert_eq!(claim(1, 2, now).await, known(None));
    // What is another's nobody ends.
    finish(1, Some("two"), now).await;
    finish(0, Some("o\0ne"), now + 500).await;
    // What was done is not done otherwise, and saying it again makes it no younger.
    finish(0, Some("other"), now + 600).await;
    finish(0, None, now + 600).await;
    for node in 0..2 {
        assert_eq!(claim(node, 1, now + 10_500).await, known(Some("o\0ne")));
    }
    assert_eq!(claim(1, 1, now + 10_501).await, None);
    // Without an answer it is done again.
    finish(1, None, now + 10_600).await;
    let now = now + 20_000;
    assert_eq!(claim(0, 1, now).await, None);
    // A node stands still: the same request is taken over, and whoever goes on late has nothing
    // to say of it.
    assert_eq!(claim(1, 1, now + 999).await, known(None));
    assert_eq!(claim(1, 2, now + 1_000).await, known(None));
    assert_eq!(claim(1, 1, now + 1_000).await, None);
    finish(0, Some("late"), now + 1_001).await;
    assert_eq!(claim(0, 1, now + 1_001).await, known(None));
    // What nobody could take up here is known once it is done; what came to nothing is not.
    let now = now + 40_000;
    assert_eq!(claim(1, 1, now).await, None);
    finish(1, None, now).await;
    finish(0, None, now).await;
    finish(0, Some("alone"), now).await;
    assert_eq!(claim(1, 1, now + 1).await, known(Some("alone")));
}

#[tokio::test]
async fn of_requests_that_are_done_once_the_oldest_are_forgotten_when_there_is_too_much() {
    let server = Redis::start();
    let once = RedisOnce::new(&server.url, "once", ONCE).unwrap();
    let start = 1_700_000_000_000;
    let answered = async |number: u64, size: usize| {
        let (key, now) = (format!("k{number:04}"), start + number);
        let claimed = once.claim(&key, &bytes(number), 1, now).await;
        assert_eq!(claimed.unwrap(), None);
        let answer = vec![b'x'; size];
        let (fingerprint, answer) = (bytes(number), Some(&*answer));
        let finished = once.finish(&key, &fingerprint, 1, answer, now);
        finished.await.unwrap();
    };
    let kept = async |number: u64| {
        let key = format!("k{number:04}");
        let known = once.claim(&key, &bytes(number), 2, start + 5_000).await;
        known.unwrap().is_some()
    };
    for number in 0..11 {
        answered(number, 10).await;
    }
    assert!(kept(1).await && kept(10).await);
    // Four of 2 086 bytes beside six small ones; a fifth is too much for more than itself.
    for number in 11..16 {
        answered(number, 2_000).await;
    }
    assert!(kept(15).await && kept(12).await && !kept(10).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_nodes_that_race_for_a_request_one_does_it() {
    let server = Redis::start();
    let node = || Arc::new(RedisOnce::new(&server.url, "race", ONCE).unwrap());
    let nodes = [node(), node()];
    for round in 0..50 {
        let racers: Vec<_> = (0..16)
            .map(|racer| {
                let node = nodes[racer % 2].clone();
                let key = format!("k{round}");
                tokio::spawn(async move { node.claim(&key, &bytes(1), racer as u64, 1_500).await })
            })
            .collect();
        let mut taken = 0;
        for racer in racers {
            taken += usize::from(racer.await.unwrap().unwrap().is_none());
        }
        assert_eq!(taken, 1, "round {round}");
    }
}

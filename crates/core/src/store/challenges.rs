//! Challenges that wallets sign: each is open for a while, and is used once.

use std::collections::{BTreeMap, VecDeque};

use hashbrown::HashMap;

use crate::auth::BoxFuture;
use crate::store::error::StoreError;

/// Open challenges of one wallet; one more takes the oldest one's place. Anybody may ask for
/// another's wallet, so a few must be open beside the one that is being signed.
pub const MAX_OPEN: usize = 5;

/// Challenges in all, each of about 200 bytes; one more takes the oldest one's place, so that
/// whoever has just asked can sign in, however many strangers ask.
pub const MAX_CHALLENGES: usize = 100_000;

/// A challenge that is given out.
#[derive(Debug, Clone)]
pub struct Challenge {
    /// SHA-256 of its text.
    pub hash: [u8; 32],
    /// The public key that is to sign it.
    pub wallet: [u8; 32],
    /// Unix milliseconds; it is no good from then on.
    pub expires_at: u64,
}

/// What came of using a challenge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Redeemed {
    /// It was open, and is no more.
    Taken,
    /// There is none: it was never given out, was used, has expired or made room for others.
    Unknown,
    /// It is another wallet's, and stays open.
    OtherWallet,
}

/// Keeps challenges, at most [`MAX_OPEN`] of a wallet and [`MAX_CHALLENGES`] in all.
pub trait Challenges: Send + Sync {
    /// Gives a challenge out at `now`, Unix milliseconds.
    fn issue(&self, challenge: Challenge, now: u64) -> BoxFuture<Result<(), StoreError>>;

    /// Uses the challenge with this hash for this wallet. Of all that try it, at whatever
    /// moment and on whichever node, one hears [`Redeemed::Taken`], and by then it is gone for
    /// good.
    fn redeem(
        &self,
        hash: [u8; 32],
        wallet: [u8; 32],
        now: u64,
    ) -> BoxFuture<Result<Redeemed, StoreError>>;
}

/// Challenges in memory.
#[derive(Debug, Default)]
pub(super) struct OpenChallenges {
    /// By hash, each with its number.
    all: HashMap<[u8; 32], (u64, Challenge)>,
    /// Hashes by the numbers in which they were given out.
    order: BTreeMap<u64, [u8; 32]>,
    /// The numbers of each wallet's, oldest first.
    of: HashMap<[u8; 32], VecDeque<u64>>,
    issued: u64,
}

impl OpenChallenges {
    pub(super) fn issue(&mut self, challenge: Challenge, now: u64) {
        while let Some((_, hash)) = self.order.first_key_value() {
            let hash = *hash;
            let open = self.all.get(&hash);
            let expired = open.is_none_or(|(_, open)| open.expires_at <= now);
            if !expired && self.order.len() < MAX_CHALLENGES {
                break;
            }
            self.remove(&hash);
        }
        let own = self.of.get(&challenge.wallet);
        let oldest = own.filter(|own| own.len() >= MAX_OPEN);
        let oldest = oldest.and_then(|own| self.order.get(own.front()?).copied());
        if let Some(oldest) = oldest {
            self.remove(&oldest);
        }
        self.remove(&challenge.hash);
        self.issued += 1;
        let number = self.issued;
        self.order.insert(number, challenge.hash);
        let own = self.of.entry(challenge.wallet).or_default();
        own.push_back(number);
        self.all.insert(challenge.hash, (number, challenge));
    }

    pub(super) fn redeem(&mut self, hash: &[u8; 32], wallet: &[u8; 32], now: u64) -> Redeemed {
        match self.all.get(hash) {
            Some((_, open)) if open.expires_at > now => {
                if open.wallet != *wallet {
                    return Redeemed::OtherWallet;
                }
                self.remove(hash);
                Redeemed::Taken
            }
            _ => Redeemed::Unknown,
        }
    }

    fn remove(&mut self, hash: &[u8; 32]) {
        let Some((number, challenge)) = self.all.remove(hash) else {
            return;
        };
        self.order.remove(&number);
        if let Some(own) = self.of.get_mut(&challenge.wallet) {
            own.retain(|one| *one != number);
            if own.is_empty() {
                self.of.remove(&challenge.wallet);
            }
        }
    }
}

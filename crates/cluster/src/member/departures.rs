//! Departures that the registry is to be told of.

use std::collections::VecDeque;

use hashbrown::HashMap;

use crate::registry::{Departure, TypedUser};

/// Departures that wait for the store. Those beyond it are found when this node's entries are
/// compared with the registry's.
pub(super) const MAX_DEPARTURES: usize = 262_144;

/// A departure that is to be told.
pub(super) struct PendingDeparture {
    pub(super) departure: Departure,
    /// Whether the user was announced when the socket left, as far as is known.
    pub(super) announced: bool,
}

/// They wait in their order, and are known by their users.
#[derive(Default)]
pub(super) struct Departures {
    waiting: VecDeque<PendingDeparture>,
    /// Those that are being told.
    telling: Vec<PendingDeparture>,
    /// How many of a user are in both.
    of: HashMap<TypedUser, u32>,
}

impl Departures {
    /// False: the oldest was given up for it.
    pub(super) fn push(&mut self, pending: PendingDeparture) -> bool {
        *self.of.entry(pending.departure.who.clone()).or_default() += 1;
        self.waiting.push_back(pending);
        if self.waiting.len() <= MAX_DEPARTURES {
            return true;
        }
        if let Some(oldest) = self.waiting.pop_front() {
            self.forget(&oldest.departure.who);
        }
        false
    }

    fn forget(&mut self, who: &TypedUser) {
        if let Some(count) = self.of.get_mut(who) {
            *count -= 1;
            if *count == 0 {
                self.of.remove(who);
            }
        }
    }

    /// Up to `limit` for one operation, the oldest first; they are being told from here on.
    pub(super) fn take(&mut self, limit: usize) -> Vec<Departure> {
        let count = self.waiting.len().min(limit);
        self.telling.extend(self.waiting.drain(..count));
        let batch = self.telling.iter().map(|pending| pending.departure.clone());
        batch.collect()
    }

    /// They were told.
    pub(super) fn told(&mut self) {
        for pending in std::mem::take(&mut self.telling) {
            self.forget(&pending.departure.who);
        }
    }

    /// They were not told, or nobody knows.
    pub(super) fn put_back(&mut self) {
        for pending in self.telling.drain(..).rev() {
            self.waiting.push_front(pending);
        }
    }

    /// Of these users nobody may have been told that they were online: if the registry knows nothing
    /// of them, there is nothing to announce.
    pub(super) fn void(&mut self, of: impl Fn(&TypedUser) -> bool) {
        for pending in self.waiting.iter_mut().chain(&mut self.telling) {
            pending.departure.announced &= !of(&pending.departure.who);
        }
    }

    /// Whether some socket of the user's has left and the registry was not told yet.
    pub(super) fn include(&self, who: &TypedUser) -> bool {
        self.of.contains_key(who)
    }

    /// Users of whom a socket has left.
    pub(super) fn users(&self) -> impl Iterator<Item = &TypedUser> {
        self.of.keys()
    }

    /// Those of them who were announced, as far as is known.
    pub(super) fn announced(&self) -> impl Iterator<Item = &TypedUser> {
        let all = self.waiting.iter().chain(&self.telling);
        all.filter(|pending| pending.announced)
            .map(|pending| &pending.departure.who)
    }
}

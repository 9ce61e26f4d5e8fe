//! What the registry has of this node, compared with what there is: a few buckets of users at a
//! time, all of them again and again.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use hashbrown::HashSet;
use tokio::time::Instant;

use super::incarnation::{End, Incarnation, Why};
use super::pace::MAX_PER_OPERATION;
use super::{Local, Member};
use crate::registry::{BUCKETS, Marked, Registry, Sum, TypedUser};

/// Buckets compared at once, so that a node with few users asks as seldom as it renews.
const MAX_BUCKETS_AT_ONCE: usize = BUCKETS / 4;
/// Users compared at once: some milliseconds of the store's time.
const MAX_USERS_AT_ONCE: usize = 2_000;
/// How far the comparison is.
pub(super) struct Comparison {
    /// When to go on.
    pub(super) at: Instant,
    /// Buckets that are not compared yet.
    left: VecDeque<u8>,
    /// Buckets that differed at the last look, and the sockets that did.
    suspects: BTreeMap<u8, HashSet<Arc<str>>>,
    /// Everything is compared as fast as it can be: nobody is waited for longer than that.
    is_urgent: bool,
}

impl Comparison {
    pub(super) fn new(at: Instant) -> Comparison {
        Comparison {
            at,
            left: VecDeque::new(),
            suspects: BTreeMap::new(),
            is_urgent: false,
        }
    }

    /// Compares everything now.
    pub(super) fn begin_urgently(&mut self, now: Instant) {
        self.left = (0..=u8::MAX).collect();
        self.is_urgent = true;
        self.at = now;
    }

    /// Whether everything that was to be compared at once has been.
    pub(super) fn is_done(&self) -> bool {
        !self.is_urgent
    }

    /// The buckets to look at next: those in doubt, and some further ones.
    fn next(&mut self, users: usize) -> Vec<u8> {
        if self.left.is_empty() {
            self.left = (0..=u8::MAX).collect();
        }
        let count = Comparison::at_once(users).min(self.left.len());
        let mut buckets: Vec<u8> = self.suspects.keys().copied().collect();
        buckets.extend(self.left.drain(..count));
        buckets.sort_unstable();
        buckets.dedup();
        buckets
    }

    fn at_once(users: usize) -> usize {
        (MAX_USERS_AT_ONCE * BUCKETS / users.max(1)).clamp(1, MAX_BUCKETS_AT_ONCE)
    }
}

/// Sockets of this node in a bucket, whose they are, and their marks.
type Here = BTreeMap<Arc<str>, (TypedUser, u64)>;

impl<R: Registry, L: Local> Member<R, L> {
    /// Compares some, if it is time.
    pub(super) async fn compare(&self, incarnation: &mut Incarnation<'_>) -> Result<(), End> {
        let now = Instant::now();
        // Of those who wait to be registered, it is known that they are missing.
        let is_restoring = incarnation.restore.len() > MAX_PER_OPERATION;
        if now < incarnation.comparison.at {
            return Ok(());
        }
        if is_restoring {
            incarnation.comparison.at = now + self.timing.second_look();
            return Ok(());
        }
        let users = self.local.users();
        let buckets = incarnation.comparison.next(users.len());
        let asked = self.sums(&users, &buckets);
        let name = incarnation.name.clone();
        let (audit, _) = self
            .repeat(incarnation, || async {
                self.registry.audit(&name, &asked).await.map(Ok)
            })
            .await?;
        let mut suspects = self.mend_all(incarnation, audit.differing);
        let comparison = &mut incarnation.comparison;
        for bucket in buckets[audit.looked_at.min(buckets.len())..].iter().rev() {
            comparison.left.push_front(*bucket);
            suspects.extend(comparison.suspects.remove_entry(bucket));
        }
        comparison.suspects = suspects;
        let all = Comparison::at_once(users.len()) as u32;
        let pause = match (comparison.is_urgent, comparison.left.is_empty()) {
            (true, false) => Duration::ZERO,
            _ if !comparison.suspects.is_empty() => self.timing.second_look(),
            _ => self.timing.pass() * all / BUCKETS as u32,
        };
        comparison.is_urgent &= !comparison.left.is_empty();
        comparison.at = Instant::now() + pause;
        Ok(())
    }

    /// The sums of this node's entries in buckets.
    fn sums(&self, users: &[TypedUser], buckets: &[u8]) -> Vec<(u8, Sum)> {
        let empty = buckets.iter().map(|&bucket| (bucket, Sum::default()));
        let mut sums: BTreeMap<u8, Sum> = empty.collect();
        for who in users {
            if let Some(sum) = sums.get_mut(&who.bucket()) {
                for entry in self.local.entries(who) {
                    *sum = sum.with(entry.mark(who));
                }
            }
        }
        sums.into_iter().collect()
    }

    /// Mends what differs. Returns what was seen for the first time.
    fn mend_all(
        &self,
        incarnation: &mut Incarnation<'_>,
        differing: Vec<(u8, Vec<Marked>)>,
    ) -> BTreeMap<u8, HashSet<Arc<str>>> {
        let mut suspects = BTreeMap::new();
        if differing.is_empty() {
            return suspects;
        }
        let mut here: BTreeMap<u8, Here> = BTreeMap::new();
        here.extend(differing.iter().map(|(bucket, _)| (*bucket, Here::new())));
        for who in self.local.users() {
            if let Some(here) = here.get_mut(&who.bucket()) {
                for entry in self.local.entries(&who) {
                    let number = entry.mark(&who).number;
                    here.insert(entry.socket, (who.clone(), number));
                }
            }
        }
        let on_the_way = self.on_the_way();
        for (bucket, there) in differing {
            let here = here.remove(&bucket).unwrap_or_default();
            let found = self.mend(incarnation, bucket, (here, there), &on_the_way);
            if !found.is_empty() {
                suspects.insert(bucket, found);
            }
        }
        suspects
    }

    /// Says again what differs in a bucket, if it is not on its way, and was seen before.
    /// Returns what was seen for the first time.
    fn mend(
        &self,
        incarnation: &mut Incarnation<'_>,
        bucket: u8,
        (mut here, there): (Here, Vec<Marked>),
        on_the_way: &HashSet<TypedUser>,
    ) -> HashSet<Arc<str>> {
        let mut differing = Vec::new();
        for Marked {
            socket,
            who,
            number,
        } in there
        {
            match here.remove(&socket) {
                Some((_, said)) if said == number => {}
                Some((whose, _)) => differing.push((socket, whose, true)),
                None => differing.push((socket, who, false)),
            }
        }
        let missing = here.into_iter();
        differing.extend(missing.map(|(socket, (who, _))| (socket, who, true)));
        differing
            .retain(|(_, who, _)| !on_the_way.contains(who) && !incarnation.restore.contains(who));
        let before = incarnation.comparison.suspects.remove(&bucket);
        let before = before.unwrap_or_default();
        let is_urgent = incarnation.comparison.is_urgent;
        let mut found = HashSet::new();
        for (socket, who, is_here) in differing {
            // One that is not here may be just being admitted.
            let is_sure = before.contains(&socket) || (is_urgent && is_here);
            if !is_sure {
                found.insert(socket);
                continue;
            }
            self.counters.repairs.fetch_add(1, Ordering::Relaxed);
            if is_here {
                let why = Why {
                    mended: true,
                    ..Why::default()
                };
                incarnation.restore.push(who, why);
            } else {
                self.forget(who, socket);
            }
        }
        found
    }

    /// Users of whom the registry will be told anyway.
    fn on_the_way(&self) -> HashSet<TypedUser> {
        let state = self.state();
        let departing = state.departures.users();
        let changed = state.rooms_changed.iter().chain(state.unregistered.keys());
        departing.chain(changed).cloned().collect()
    }
}

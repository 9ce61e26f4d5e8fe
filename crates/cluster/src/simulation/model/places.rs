//! Who comes and who goes, and who has a place under the device policy.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::{Held, Model, node_of, process_of};
use crate::registry::{
    Admission, Arrival, Departure, Displaced, DisplacedBy, Entry, Fenced, Millis, Newcomer, Policy,
    Restored, Turn, TypedUser,
};

/// How many are beyond the limit with one more, who displaces those of the same device. On
/// probation are some who will do the same to others.
fn excess(entry: &Entry, rivals: &[Held]) -> u32 {
    let (Policy::Limit(max) | Policy::Evict(max)) = entry.policy else {
        return 0;
    };
    let devices = rivals.iter().map(|held| &held.entry.device);
    let (unnamed, named): (Vec<_>, Vec<_>) = devices.partition(|device| device.is_empty());
    let named: BTreeSet<&Arc<str>> = named.into_iter().collect();
    let others = named.iter().filter(|device| ***device != entry.device);
    let count = (unnamed.len() + others.count()) as u32;
    (count + 1).saturating_sub(max.max(1))
}

/// Who of `rivals` has to go for a socket, and why.
fn losers_to(entry: &Entry, rivals: &[Held]) -> Vec<(Held, DisplacedBy)> {
    let mut excess = excess(entry, rivals);
    let mut losers = Vec::new();
    for held in rivals {
        let same = !entry.device.is_empty() && held.entry.device == entry.device;
        if same || entry.policy == Policy::Replace {
            losers.push((held.clone(), DisplacedBy::Replaced));
        } else if excess > 0 {
            excess -= 1;
            losers.push((held.clone(), DisplacedBy::Limit));
        }
    }
    losers
}

impl Model {
    /// Others of the user in the same namespace whose leases live, and who have their places.
    fn rivals(&mut self, now: Millis, who: &TypedUser, entry: &Entry) -> Vec<Held> {
        let mut rivals = self.all_rivals(now, who, entry);
        rivals.retain(|held| !held.on_probation);
        rivals
    }

    /// The same, and those on probation. Who is passed over, since their lease is over, is dead
    /// from then on: no hold gives back a place that another one may have now.
    fn all_rivals(&mut self, now: Millis, who: &TypedUser, entry: &Entry) -> Vec<Held> {
        let Some(user) = self.users.get(&who.user) else {
            return Vec::new();
        };
        let others = user.sockets.values().filter(|held| {
            held.kind == who.kind
                && held.entry.namespace == entry.namespace
                && held.entry.socket != entry.socket
        });
        let (mut rivals, over): (Vec<Held>, Vec<Held>) = others
            .cloned()
            .partition(|held| self.alive(now, &held.incarnation));
        for held in over {
            let same = !entry.device.is_empty() && held.entry.device == entry.device;
            if (same || entry.policy != Policy::Unlimited)
                && let Some(until) = self.nodes.get_mut(&held.incarnation)
            {
                *until = 0;
            }
        }
        rivals.sort_by_key(|held| (held.entry.since, held.entry.socket.clone()));
        rivals
    }

    /// A socket loses its place; told to its node, or answered if that asks.
    #[allow(clippy::too_many_arguments)]
    pub(super) fn replace(
        &mut self,
        now: Millis,
        who: &TypedUser,
        held: &Held,
        why: DisplacedBy,
        by: &Entry,
        winner: &str,
        mine: &mut Vec<Displaced>,
    ) {
        self.remove(now, who, &held.entry.socket);
        let displaced = Displaced {
            socket: held.entry.socket.clone(),
            why,
            device: by.device.clone(),
            node: node_of(winner).into(),
        };
        let process = process_of(&held.incarnation);
        if process == process_of(winner) {
            mine.push(displaced);
        } else {
            self.inboxes
                .entry(process.into())
                .or_default()
                .insert(displaced.socket.clone(), displaced);
        }
    }

    pub(crate) fn connect(
        &mut self,
        now: Millis,
        turn: Turn<'_>,
        newcomers: &[Newcomer],
    ) -> Result<Vec<Admission>, Fenced> {
        self.once(now, turn, |model| {
            model.do_connect(now, turn.incarnation, newcomers)
        })
    }

    fn do_connect(
        &mut self,
        now: Millis,
        incarnation: &str,
        newcomers: &[Newcomer],
    ) -> Vec<Admission> {
        let incarnation: Arc<str> = incarnation.into();
        let mut answers = Vec::new();
        for newcomer in newcomers {
            let Newcomer { who, entry, .. } = newcomer;
            let earlier = self.earlier(newcomer);
            let mut all = self.all_rivals(now, who, entry);
            let mut rivals = self.rivals(now, who, entry);
            for list in [&mut all, &mut rivals] {
                list.retain(|held| earlier.as_ref() != Some(&held.entry.socket));
            }
            let losers = losers_to(entry, &rivals).len();
            let room = self.room(newcomer, losers) + i64::from(earlier.is_some());
            if matches!(entry.policy, Policy::Limit(_)) && excess(entry, &all) > 0 {
                let kept = all.iter().filter(|held| self.doubt(now, held).is_none());
                let kept: Vec<Held> = kept.cloned().collect();
                let waits = all.iter().filter_map(|held| self.doubt(now, held));
                let again = waits.min().filter(|_| excess(entry, &kept) == 0);
                answers.push(Admission::Refused(again));
                continue;
            }
            if room < 1 {
                let user = self.users.get(&who.user).into_iter();
                let held = user.flat_map(|user| user.sockets.values());
                let waits: Vec<Millis> =
                    held.filter_map(|one| self.doubt_owner(now, one)).collect();
                let fits = room + waits.len() as i64 > 0;
                let again = waits.into_iter().min().filter(|_| fits);
                answers.push(Admission::Refused(again));
                continue;
            }
            let waits = losers > 0;
            self.add(now, &incarnation, who, entry, (false, waits));
            if let Some(earlier) = earlier {
                self.remove(now, who, &earlier);
            }
            answers.push(match waits {
                true => Admission::Reserved,
                false => Admission::Admitted,
            });
        }
        answers
    }

    /// The socket with which a newcomer's client goes on, if it is there.
    fn earlier(&self, newcomer: &Newcomer) -> Option<Arc<str>> {
        let earlier = newcomer.instead_of.as_ref()?;
        let held = self.users.get(&newcomer.who.user)?.sockets.get(earlier)?;
        (held.kind == newcomer.who.kind).then(|| earlier.clone())
    }

    /// How many sockets more a newcomer's user may have.
    fn room(&self, newcomer: &Newcomer, losers: usize) -> i64 {
        let user = self.users.get(&newcomer.who.user);
        let state = user.and_then(|user| user.states.get(&newcomer.who.kind));
        let count = state.map_or(0, |state| i64::from(state.count));
        i64::from(newcomer.max_sockets) + losers as i64 - count
    }

    /// In how many milliseconds to look again whether a socket's incarnation has died, if it is
    /// doubted.
    fn doubt(&self, now: Millis, held: &Held) -> Option<Millis> {
        self.doubt_incarnation(now, &held.incarnation)
    }

    /// The same for what its process is now.
    fn doubt_owner(&self, now: Millis, held: &Held) -> Option<Millis> {
        let owner = self.owners.get(process_of(&held.incarnation));
        self.doubt_incarnation(now, owner.map_or("", |owner| owner))
    }

    fn doubt_incarnation(&self, now: Millis, incarnation: &str) -> Option<Millis> {
        let till = self.nodes.get(incarnation).copied().unwrap_or(0);
        let is_late = till < now + self.doubts.lease_left;
        let left = (till.max(self.hold) + 1).saturating_sub(now);
        is_late.then(|| left.min(self.doubts.again).max(1))
    }

    pub(crate) fn establish(
        &mut self,
        now: Millis,
        turn: Turn<'_>,
        arrivals: &[Arrival],
    ) -> Result<Vec<Displaced>, Fenced> {
        self.once(now, turn, |model| {
            model.do_establish(now, turn.incarnation, arrivals)
        })
    }

    fn do_establish(
        &mut self,
        now: Millis,
        incarnation: &str,
        arrivals: &[Arrival],
    ) -> Vec<Displaced> {
        let mut mine = Vec::new();
        for Arrival { who, socket } in arrivals {
            let user = self.users.get_mut(&who.user);
            let held = user.and_then(|user| user.sockets.get_mut(socket));
            let waits = |held: &&mut Held| {
                held.on_probation && *held.incarnation == *incarnation && held.kind == who.kind
            };
            let Some(held) = held.filter(waits) else {
                continue;
            };
            held.on_probation = false;
            let entry = held.entry.clone();
            let rivals = self.rivals(now, who, &entry);
            if let (Policy::Limit(_), Some(last)) = (entry.policy, rivals.last())
                && excess(&entry, &rivals) > 0
            {
                // Those that were said again meanwhile were there before.
                self.remove(now, who, socket);
                self.settle(now, who, 0);
                mine.push(Displaced {
                    socket: socket.clone(),
                    why: DisplacedBy::Limit,
                    device: last.entry.device.clone(),
                    node: node_of(&last.incarnation).into(),
                });
                continue;
            }
            for (held, why) in losers_to(&entry, &rivals) {
                self.replace(now, who, &held, why, &entry, incarnation, &mut mine);
            }
        }
        mine
    }

    pub(crate) fn depart(
        &mut self,
        now: Millis,
        turn: Turn<'_>,
        departures: &[Departure],
    ) -> Result<Vec<bool>, Fenced> {
        self.once(now, turn, |model| model.do_depart(now, departures))
    }

    fn do_depart(&mut self, now: Millis, departures: &[Departure]) -> Vec<bool> {
        let mut linger = Vec::with_capacity(departures.len());
        for departure in departures {
            let Departure {
                who, socket, grace, ..
            } = departure;
            let removed = self.remove(now, who, socket);
            if removed.is_none() && self.is_lost(departure) {
                self.believe(now, who);
            } else if removed.is_none() {
                self.recount(who);
            } else if *grace > 0 {
                // For its other sockets, too, which may go sooner.
                self.postpone(who, now + grace);
            }
            linger.push(self.settle(now, who, *grace));
        }
        linger
    }

    pub(crate) fn restore(
        &mut self,
        now: Millis,
        turn: Turn<'_>,
        users: &[Restored],
    ) -> Result<Vec<Displaced>, Fenced> {
        self.once(now, turn, |model| {
            model.do_restore(now, turn.incarnation, users)
        })
    }

    fn do_restore(&mut self, now: Millis, incarnation: &str, users: &[Restored]) -> Vec<Displaced> {
        let incarnation: Arc<str> = incarnation.into();
        let process = process_of(&incarnation).to_owned();
        let mut lost = Vec::new();
        for Restored {
            who,
            believed,
            mended,
            retold,
            entries,
        } in users
        {
            let user = self.users.get(&who.user);
            let is_unknown = !user.is_some_and(|user| user.states.contains_key(&who.kind));
            // When the hold is over, whoever was not said in it is offline for all others.
            let has_gone = is_unknown && entries.is_empty();
            let believed = *believed && (self.blind > now || has_gone);
            let believed = &(believed || (*mended && is_unknown));
            if *believed {
                self.believe(now, who);
                if *mended && is_unknown && self.hold <= now {
                    self.tell_that_there(now, who);
                }
            }
            for entry in entries {
                let told = self
                    .inboxes
                    .get(&*process)
                    .and_then(|inbox| inbox.get(&entry.socket));
                if let Some(displaced) = told {
                    lost.push(displaced.clone());
                    continue;
                }
                let user = self.users.get(&who.user);
                let held = user.and_then(|user| user.sockets.get(&entry.socket));
                let held = held.filter(|held| self.alive(now, &held.incarnation));
                let keeps = |held: &&Held| !held.on_probation || held.incarnation == incarnation;
                if let Some(on_probation) = held.filter(keeps).map(|held| held.on_probation) {
                    // It has kept its place, or its probation; only its incarnation or its
                    // rooms are new.
                    self.add(now, &incarnation, who, entry, (*believed, on_probation));
                    continue;
                }
                let mut mine = Vec::new();
                let stays = self.contend(now, &incarnation, who, entry, &mut mine);
                lost.append(&mut mine);
                if let Err(displaced) = stays {
                    lost.push(displaced);
                } else {
                    self.add(now, &incarnation, who, entry, (*believed, false));
                }
            }
            if *mended {
                self.recount(who);
            }
            self.settle(now, who, 0);
            if *retold {
                self.tell_again(now, who);
            }
        }
        lost
    }

    /// Finds a place for a socket that lives already: the later one wins, as if all
    /// had come in the order in which they did.
    fn contend(
        &mut self,
        now: Millis,
        incarnation: &Arc<str>,
        who: &TypedUser,
        entry: &Entry,
        mine: &mut Vec<Displaced>,
    ) -> Result<(), Displaced> {
        let rivals = self.rivals(now, who, entry);
        let age = |entry: &Entry| (entry.since, entry.socket.clone());
        let lost = |why, by: &Held| Displaced {
            socket: entry.socket.clone(),
            why,
            device: by.entry.device.clone(),
            node: node_of(&by.incarnation).into(),
        };
        let same = |held: &Held| {
            entry.policy == Policy::Replace
                || (!entry.device.is_empty() && held.entry.device == entry.device)
        };
        if let Some(later) = rivals
            .iter()
            .find(|held| same(held) && age(&held.entry) > age(entry))
        {
            return Err(lost(DisplacedBy::Replaced, later));
        }
        let mut others: Vec<&Held> = rivals.iter().filter(|held| !same(held)).collect();
        let max = match entry.policy {
            Policy::Limit(max) | Policy::Evict(max) => max.max(1) as usize,
            _ => usize::MAX,
        };
        let mut out = Vec::new();
        while others.len() >= max {
            let index = match entry.policy {
                Policy::Evict(_) => 0,
                _ => others.len() - 1,
            };
            let rival = others[index];
            let rival_goes = match entry.policy {
                Policy::Evict(_) => age(&rival.entry) < age(entry),
                _ => age(&rival.entry) > age(entry),
            };
            if !rival_goes {
                return Err(lost(DisplacedBy::Limit, rival));
            }
            out.push(others.remove(index).clone());
        }
        for held in rivals.iter().filter(|held| same(held)) {
            self.replace(
                now,
                who,
                held,
                DisplacedBy::Replaced,
                entry,
                incarnation,
                mine,
            );
        }
        for held in &out {
            self.replace(now, who, held, DisplacedBy::Limit, entry, incarnation, mine);
        }
        Ok(())
    }
}

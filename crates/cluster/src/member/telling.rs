//! What a member tells the registry: who comes, who goes, and who is there.

use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::Instant;

use super::departures::MAX_DEPARTURES;
use super::incarnation::{End, Incarnation, Why};
use super::{Local, Member};
use crate::registry::{Admission, Arrival, Departure, Newcomer, Registry, Restored, TypedUser};

/// Rooms in one operation, beyond those of one user.
const MAX_ROOMS_PER_OPERATION: usize = 5_000;

impl<R: Registry, L: Local> Member<R, L> {
    /// Registers sockets that are not entered yet.
    pub(super) async fn register(&self, incarnation: &mut Incarnation<'_>) -> Result<(), End> {
        let newcomers: Vec<Newcomer> = incarnation
            .newcomers
            .iter()
            .map(|request| request.newcomer.clone())
            .collect();
        incarnation.asking = std::mem::take(&mut incarnation.newcomers);
        let generation = self.generation.load(Ordering::SeqCst);
        let asking = newcomers.iter().map(|newcomer| newcomer.who.clone());
        self.state().asking = asking.map(|who| (who, false)).collect();
        let name = incarnation.name.clone();
        let turn = self.next_turn(&name);
        let told = self
            .insist(incarnation, || self.registry.connect(turn, &newcomers))
            .await;
        let admissions = match told {
            Ok(admissions) => admissions,
            Err(end) => {
                self.give_up_on_answers(incarnation);
                return Err(end);
            }
        };
        // If the answer was late, nobody waits for it: they were let in by what this node
        // knows, and are said again.
        for (request, admission) in incarnation.asking.drain(..).zip(admissions) {
            // Who has others that have to go is announced.
            if admission == Admission::Admitted {
                self.note_arrival(&request.newcomer.who, incarnation.hold.is_some());
            }
            // Its caller has given up: nobody will ever say that it ended.
            let unheard = request.reply.send(Ok((admission, generation))).is_err();
            if unheard && !matches!(admission, Admission::Refused(_)) {
                let Newcomer { who, entry, .. } = request.newcomer;
                self.forget(who, entry.socket);
            }
        }
        Ok(())
    }

    /// The registry has announced a user, unless there are other sockets of it, or it was waited
    /// for. If that was elsewhere, a node there knows that it was announced before.
    fn note_arrival(&self, who: &TypedUser, is_held: bool) {
        let is_here = !self.local.entries(who).is_empty();
        let mut state = self.state();
        if is_held {
            // It may take the user for announced, by what was so long ago.
            state.retell(who);
        }
        if !is_here && !state.departures.include(who) {
            let before = state.in_grace.contains_key(who);
            state.unread.push(Instant::now(), who.clone(), before);
        }
    }

    /// Those who wait for admission are not answered: each decides by what this node knows.
    pub(super) fn give_up_on_answers(&self, incarnation: &mut Incarnation<'_>) {
        // It may have happened, and been heard of.
        let asked = std::mem::take(&mut self.state().asking);
        let announced = asked.into_iter().filter(|(_, announced)| *announced);
        incarnation.give_up_on_answers(&announced.map(|(who, _)| who).collect());
    }

    /// Tells of some who have arrived. False: there were none. Should the incarnation end, all
    /// who are there are registered anew, and those have their places who came last.
    pub(super) async fn tell_arrivals(
        &self,
        incarnation: &mut Incarnation<'_>,
    ) -> Result<bool, End> {
        let batch: Vec<Arrival> = {
            let arrivals = &mut self.state().arrivals;
            let count = arrivals.len().min(incarnation.pace.size());
            arrivals.drain(..count).collect()
        };
        if batch.is_empty() {
            return Ok(false);
        }
        let name = incarnation.name.clone();
        let turn = self.next_turn(&name);
        let displaced = self
            .insist(incarnation, || self.registry.establish(turn, &batch))
            .await?;
        for displaced in &displaced {
            self.local.replace(displaced);
        }
        Ok(true)
    }

    /// Tells some departures. False: there were none.
    pub(super) async fn tell_departures(
        &self,
        incarnation: &mut Incarnation<'_>,
    ) -> Result<bool, End> {
        let batch = {
            let mut state = self.state();
            // The registry has to know of users who were online before it lost its memory,
            // before it can be told that they went.
            if !state.believed.is_empty() {
                return Ok(false);
            }
            let mut batch = state.departures.take(incarnation.pace.size());
            for departure in &mut batch {
                departure.announced &= !state.offline.contains(&departure.who);
            }
            batch
        };
        if batch.is_empty() {
            return Ok(false);
        }
        let name = incarnation.name.clone();
        let turn = self.next_turn(&name);
        let told = self
            .insist(incarnation, || self.registry.depart(turn, &batch))
            .await;
        let linger = match told {
            Ok(linger) => linger,
            Err(end) => {
                self.state().departures.put_back();
                return Err(end);
            }
        };
        self.state().departures.told();
        self.forget_offline(&batch);
        let shortest = batch.iter().map(|departure| departure.grace);
        let shortest = shortest.filter(|grace| *grace > 0).min();
        let departed = batch.into_iter().zip(linger);
        let (waited_for, gone): (Vec<_>, Vec<_>) = departed.partition(|(_, lingers)| *lingers);
        // Who came in a hold was not announced yet.
        if incarnation.hold.is_none() {
            self.note_gone(gone.into_iter().map(|(departure, _)| departure));
        }
        self.remember_graces(waited_for.into_iter().map(|(departure, _)| departure));
        if let Some(grace) = shortest {
            let verdict = Instant::now() + Duration::from_millis(grace);
            let earliest = incarnation
                .maintain_at
                .map_or(verdict, |at| at.min(verdict));
            incarnation.maintain_at = Some(earliest);
        }
        Ok(true)
    }

    /// Users who were announced as offline, and are gone now: no more has to be known of
    /// them.
    fn forget_offline(&self, told: &[Departure]) {
        let mut state = self.state();
        for Departure { who, .. } in told {
            if state.offline.contains(who)
                && !state.departures.include(who)
                && self.local.entries(who).is_empty()
            {
                state.offline.remove(who);
            }
        }
    }

    /// The registry has announced that they went, unless there are other sockets of them: then
    /// their node will say so, and may not know that they were announced before.
    fn note_gone(&self, gone: impl Iterator<Item = Departure>) {
        let now = Instant::now();
        for Departure { who, announced, .. } in gone {
            let is_here = !self.local.entries(&who).is_empty();
            let mut state = self.state();
            if !is_here && !state.departures.include(&who) {
                let before = announced && !state.unread.is_expected(&who);
                state.unread.push(now, who, before);
            }
        }
    }

    /// Should the store lose its memory now, nobody else would end these graces.
    fn remember_graces(&self, departed: impl Iterator<Item = Departure>) {
        let now = Instant::now();
        let until = now + self.timing.ttl;
        let mut state = self.state();
        state.in_grace.retain(|_, until| *until > now);
        let room = MAX_DEPARTURES.saturating_sub(state.in_grace.len());
        let graces = departed.map(|departure| {
            let grace = Duration::from_millis(departure.grace);
            (departure.who, until + grace)
        });
        state.in_grace.extend(graces.take(room));
    }

    /// Registers some of the users that the registry may not know, or not in all their
    /// rooms. False: there were none.
    pub(super) async fn restore(&self, incarnation: &mut Incarnation<'_>) -> Result<bool, End> {
        self.take_unregistered(incarnation);
        let (taken, batch) = self.next_restored(incarnation);
        if batch.is_empty() {
            return Ok(false);
        }
        let name = incarnation.name.clone();
        let turn = self.next_turn(&name);
        let told = self
            .insist(incarnation, || self.registry.restore(turn, &batch))
            .await;
        let displaced = match told {
            Ok(displaced) => displaced,
            Err(end) => {
                self.put_back_unregistered(incarnation, taken);
                return Err(end);
            }
        };
        let ends = Instant::now() + self.timing.ttl;
        let mut state = self.state();
        for (who, why) in taken {
            state.believed.remove(&who);
            state.unannounced.remove(&who);
            if incarnation.hold.is_some() && why.doubt == Some(false) {
                state.retell(&who);
                state.unread.expect(who, ends);
            }
        }
        drop(state);
        for displaced in displaced {
            self.local.replace(&displaced);
        }
        Ok(true)
    }

    /// Puts those in line who came while they could not be registered, and those whose
    /// rooms have changed.
    fn take_unregistered(&self, incarnation: &mut Incarnation<'_>) {
        let (doubtful, changed) = {
            let mut state = self.state();
            let state = &mut *state;
            (
                std::mem::take(&mut state.unregistered),
                std::mem::take(&mut state.rooms_changed),
            )
        };
        for (who, announced) in doubtful {
            // Whom the registry took on probation meanwhile, it is to give a place.
            let sockets = self.local.entries(&who).into_iter();
            let arrivals = sockets.map(|entry| Arrival {
                who: who.clone(),
                socket: entry.socket,
            });
            self.state().arrivals.extend(arrivals);
            if !announced {
                self.state().unannounced.insert(who.clone());
            }
            let why = Why {
                doubt: Some(announced),
                ..Why::default()
            };
            incarnation.restore.push(who, why);
        }
        if incarnation.hold.is_none() {
            for who in std::mem::take(&mut self.state().retold) {
                let why = Why {
                    retold: true,
                    ..Why::default()
                };
                incarnation.restore.push(who, why);
            }
        }
        for who in changed {
            if !self.local.entries(&who).is_empty() {
                incarnation.restore.push(who, Why::default());
            }
        }
    }

    /// The first users in line, as many as fit into one operation.
    fn next_restored(
        &self,
        incarnation: &mut Incarnation<'_>,
    ) -> (Vec<(TypedUser, Why)>, Vec<Restored>) {
        let (mut taken, mut batch) = (Vec::new(), Vec::new());
        let mut rooms = 0;
        while batch.len() < incarnation.pace.size() && rooms <= MAX_ROOMS_PER_OPERATION {
            let Some((who, why)) = incarnation.restore.pop() else {
                break;
            };
            let entries = self.local.entries(&who);
            rooms += entries.iter().map(|entry| entry.rooms.len()).sum::<usize>();
            batch.push(Restored {
                who: who.clone(),
                believed: self.state().believed.contains(&who),
                mended: why.mended,
                retold: why.retold,
                entries,
            });
            taken.push((who, why));
        }
        (taken, batch)
    }

    /// The incarnation is over: its users are as much in doubt as before.
    fn put_back_unregistered(
        &self,
        incarnation: &mut Incarnation<'_>,
        taken: Vec<(TypedUser, Why)>,
    ) {
        let mut state = self.state();
        let waiting = std::iter::from_fn(|| incarnation.restore.pop());
        for (who, why) in taken.into_iter().chain(waiting) {
            if why.retold {
                state.retold.insert(who.clone());
            }
            state.unannounced.remove(&who);
            if let Some(announced) = why.doubt {
                state.unregistered.entry(who).or_insert(announced);
            }
        }
    }
}

//! What a member tells the registry: who comes, who goes, and who is there.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::Instant;

use super::incarnation::{End, Incarnation, Pending};
use super::{Local, MAX_DEPARTURES, MAX_PER_OPERATION, Member, PendingDeparture, Request};
use crate::registry::{
    Admission, Arrival, Departure, Fenced, Newcomer, Registry, Restored, Unavailable,
};

/// Rooms in one operation, beyond those of one user.
const MAX_ROOMS_PER_OPERATION: usize = 5_000;

impl<R: Registry, L: Local> Member<R, L> {
    /// Registers sockets that are not entered yet.
    pub(super) async fn register(
        &self,
        incarnation: &Incarnation,
        requests: &mut Vec<Request>,
    ) -> Result<(), End> {
        let newcomers: Vec<Newcomer> = requests
            .iter()
            .map(|request| request.newcomer.clone())
            .collect();
        let generation = self.generation.load(Ordering::SeqCst);
        let asking = newcomers.iter().map(|newcomer| newcomer.who.clone());
        self.state().asking = asking.map(|who| (who, false)).collect();
        let result = self
            .patiently(self.registry.connect(&incarnation.name, &newcomers))
            .await;
        let end = match result {
            Ok(Ok(admissions)) => {
                for (request, admission) in requests.drain(..).zip(admissions) {
                    // Its caller has given up: nobody will ever say that it ended.
                    let unheard = request.reply.send(Ok((admission, generation))).is_err();
                    if unheard && !matches!(admission, Admission::Refused(_)) {
                        let Newcomer { who, entry, .. } = request.newcomer;
                        self.disconnect(who, entry.socket, Duration::ZERO);
                    }
                }
                return Ok(());
            }
            Ok(Err(Fenced)) => End::Fenced,
            Err(error) => End::Unavailable(error),
        };
        // It may have happened, and been heard of.
        let asked = std::mem::take(&mut self.state().asking);
        for request in requests.drain(..) {
            let announced = asked.get(&request.newcomer.who).copied();
            let _ = request.reply.send(Err(announced.unwrap_or(false)));
        }
        Err(end)
    }

    /// Tells of some who have arrived. False: there were none. Should it fail, all who are there
    /// are registered anew, and those have their places who came last.
    pub(super) async fn tell_arrivals(&self, incarnation: &Incarnation) -> Result<bool, End> {
        let batch: Vec<Arrival> = {
            let arrivals = &mut self.state().arrivals;
            let count = arrivals.len().min(MAX_PER_OPERATION);
            arrivals.drain(..count).collect()
        };
        if batch.is_empty() {
            return Ok(false);
        }
        let told = self
            .patiently(self.registry.establish(&incarnation.name, &batch))
            .await;
        let Ok(Ok(displaced)) = told else {
            return Err(End::of(told));
        };
        for displaced in &displaced {
            self.local.replace(displaced);
        }
        Ok(true)
    }

    /// Tells some departures. False: there were none.
    pub(super) async fn tell_departures(&self, incarnation: &mut Incarnation) -> Result<bool, End> {
        let batch = self.state().take_departures();
        if batch.is_empty() {
            return Ok(false);
        }
        let told = self
            .patiently(self.registry.depart(&incarnation.name, &batch))
            .await;
        let telling = std::mem::take(&mut self.state().telling);
        let linger = match told {
            Ok(Ok(linger)) => linger,
            failed => {
                self.state().put_back_departures(telling);
                return Err(End::of(failed));
            }
        };
        self.forget_offline(&batch);
        let shortest = batch.iter().map(|departure| departure.grace);
        let shortest = shortest.filter(|grace| *grace > 0).min();
        let departed = batch.into_iter().zip(linger);
        self.remember_graces(departed.filter(|(_, lingers)| *lingers));
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
            let more = |pending: &PendingDeparture| pending.departure.who == *who;
            if state.offline.contains(who)
                && !state.departures.iter().any(more)
                && self.local.entries(who).is_empty()
            {
                state.offline.remove(who);
            }
        }
    }

    /// Should the store lose its memory now, nobody else would end these graces.
    fn remember_graces(&self, departed: impl Iterator<Item = (Departure, bool)>) {
        let now = Instant::now();
        let until = now + self.timing.ttl;
        let mut state = self.state();
        state.in_grace.retain(|_, until| *until > now);
        let room = MAX_DEPARTURES.saturating_sub(state.in_grace.len());
        let graces = departed.map(|(departure, _)| {
            let grace = Duration::from_millis(departure.grace);
            (departure.who, until + grace)
        });
        state.in_grace.extend(graces.take(room));
    }

    /// Registers some of the users that the registry may not know, or not in all their
    /// rooms. False: there were none.
    pub(super) async fn restore(&self, incarnation: &mut Incarnation) -> Result<bool, End> {
        self.take_unregistered(incarnation);
        if incarnation.restore.is_empty() {
            return self.retire_earlier(incarnation).await;
        }
        let batch = self.next_restored(incarnation);
        let count = batch.len();
        let result = self
            .patiently(self.registry.restore(&incarnation.name, &batch))
            .await;
        let displaced = match result {
            Ok(Ok(displaced)) => displaced,
            failed => {
                self.put_back_unregistered(incarnation);
                return Err(End::of(failed));
            }
        };
        let mut state = self.state();
        for pending in incarnation.restore.drain(..count) {
            state.believed.remove(&pending.who);
        }
        drop(state);
        for displaced in displaced {
            self.local.replace(&displaced);
        }
        Ok(true)
    }

    /// Puts those in line who came while they could not be registered, and those whose
    /// rooms have changed.
    fn take_unregistered(&self, incarnation: &mut Incarnation) {
        let (doubtful, changed) = {
            let mut state = self.state();
            let state = &mut *state;
            (
                std::mem::take(&mut state.unregistered),
                std::mem::take(&mut state.rooms_changed),
            )
        };
        let changed = changed.into_iter();
        let there = changed.filter(|who| !self.local.entries(who).is_empty());
        incarnation
            .restore
            .extend(there.map(|who| Pending { who, doubt: None }));
        let doubtful = doubtful.into_iter().map(|(who, announced)| Pending {
            who,
            doubt: Some(announced),
        });
        incarnation.restore.extend(doubtful);
    }

    /// All users are registered: what earlier incarnations had beyond that may be swept.
    async fn retire_earlier(&self, incarnation: &mut Incarnation) -> Result<bool, End> {
        if incarnation.earlier.is_empty() {
            return Ok(false);
        }
        let earlier = std::mem::take(&mut incarnation.earlier);
        self.registry_retire(&earlier).await?;
        incarnation.maintain_at = Some(Instant::now());
        Ok(true)
    }

    /// The first users in line, as many as fit into one operation.
    fn next_restored(&self, incarnation: &Incarnation) -> Vec<Restored> {
        let mut batch: Vec<Restored> = Vec::new();
        let mut rooms = 0;
        for Pending { who, .. } in incarnation.restore.iter().take(MAX_PER_OPERATION) {
            let entries = self.local.entries(who);
            rooms += entries.iter().map(|entry| entry.rooms.len()).sum::<usize>();
            batch.push(Restored {
                entries,
                who: who.clone(),
                believed: self.state().believed.contains(who),
            });
            if rooms > MAX_ROOMS_PER_OPERATION {
                break;
            }
        }
        batch
    }

    /// The incarnation is over: its users are as much in doubt as before.
    fn put_back_unregistered(&self, incarnation: &mut Incarnation) {
        let mut state = self.state();
        for pending in incarnation.restore.drain(..) {
            if let Some(announced) = pending.doubt {
                state.unregistered.entry(pending.who).or_insert(announced);
            }
        }
    }

    pub(super) async fn registry_retire(
        &self,
        incarnations: &[Arc<str>],
    ) -> Result<(), Unavailable> {
        self.patiently(self.registry.retire(incarnations)).await
    }
}

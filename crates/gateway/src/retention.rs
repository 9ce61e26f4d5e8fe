//! What is removed every so often: when, by which node, and in steps that keep nobody waiting.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use heartline_core::store::{Cleaned, Cleaning, MessageStore, StoreError};
use tokio::time::{Instant, sleep};

use crate::gateway::Gateway;
use crate::metrics::Runs;

/// The job's name in stores.
const JOB: &str = "retention";

/// How long a node that says nothing has the job.
const LEASE: Duration = Duration::from_secs(120);

/// How long after its start a node makes up for a run that was missed: what a start brings is
/// over by then.
const SETTLE: Duration = Duration::from_secs(60);

/// How long a node sleeps at most, because a clock may be set and a machine stopped; and how long
/// before it tries again what failed, or looks for what another node does.
const LOOK: Duration = Duration::from_secs(60);

/// How long it leaves a store alone for which too much waits.
const BUSY: Duration = Duration::from_secs(1);

/// When something is done every so often. Moments are Unix milliseconds.
pub struct Schedule {
    /// What time it is.
    pub clock: Box<dyn Fn() -> u64 + Send + Sync>,
    /// The first time after a moment at which it is due; `None`: there is none.
    pub next: Box<dyn Fn(u64) -> Option<u64> + Send + Sync>,
}

impl std::fmt::Debug for Schedule {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Schedule")
    }
}

/// What has to be done at a moment, Unix milliseconds.
pub type Tasks = Box<dyn Fn(u64) -> Vec<Cleaning> + Send + Sync>;

/// Does it on one node.
struct Keeper {
    store: Arc<dyn MessageStore>,
    node: String,
    schedule: Schedule,
    tasks: Tasks,
    runs: Arc<Runs>,
    is_over: Box<dyn Fn() -> bool + Send + Sync>,
}

impl Gateway {
    /// Removes from the store what `tasks` say, as often as the schedule says, until the gateway
    /// drains. Of all nodes with one store one does it. What was missed while no node ran is
    /// made up for a minute after the start; where it was never done, nothing was missed.
    pub async fn keep_clean(&self, schedule: Schedule, tasks: Tasks) {
        let gateway = self.downgrade();
        let is_over = move || {
            gateway
                .upgrade()
                .is_none_or(|gateway| gateway.is_draining())
        };
        let keeper = Keeper {
            store: self.shared.store.clone(),
            node: self.config().node_id.clone(),
            schedule,
            tasks,
            runs: self.shared.metrics.retention.clone(),
            is_over: Box::new(is_over),
        };
        keeper.run().await;
    }
}

/// When it is due after it was done at `last`, on a node that runs since `started`.
fn due(last: u64, started: u64, schedule: &Schedule) -> Option<u64> {
    let settled = started + SETTLE.as_millis() as u64;
    (schedule.next)(last).map(|at| at.max(settled))
}

impl Keeper {
    async fn run(&self) {
        let started = (self.schedule.clock)();
        while !(self.is_over)() {
            match self.turn(started).await {
                Ok(Some(at)) => self.wait_until(at).await,
                Ok(None) => return,
                Err(error) => {
                    self.runs.errors.fetch_add(1, Ordering::Relaxed);
                    tracing::warn!(%error, "what is old could not be removed");
                    sleep(LOOK).await;
                }
            }
        }
    }

    async fn wait_until(&self, at: u64) {
        loop {
            let now = (self.schedule.clock)();
            if now >= at || (self.is_over)() {
                return;
            }
            sleep(Duration::from_millis(at - now).min(LOOK)).await;
        }
    }

    /// Does it if it is due; when to look again.
    async fn turn(&self, started: u64) -> Result<Option<u64>, StoreError> {
        let now = (self.schedule.clock)();
        let (last, is_ours) = self.take(now).await?;
        if !is_ours {
            return Ok(Some(now + LOOK.as_millis() as u64));
        }
        let Some(last) = last else {
            self.store.end_job(JOB, &self.node, Some(now)).await?;
            return Ok(due(now, started, &self.schedule));
        };
        // A clock that was wrong once does not put it off for ever.
        let last = last.min(now);
        let at = due(last, started, &self.schedule);
        if at.is_none_or(|at| at > now) {
            self.store.end_job(JOB, &self.node, None).await?;
            return Ok(at);
        }
        let begin = Instant::now();
        let done = self.clean(now).await;
        let micros = begin.elapsed().as_micros() as u64;
        self.runs.micros.fetch_add(micros, Ordering::Relaxed);
        let is_done = done.as_ref().is_ok_and(|(_, is_whole)| *is_whole);
        self.store
            .end_job(JOB, &self.node, is_done.then_some(now))
            .await?;
        let (rows, is_whole) = done?;
        if is_whole {
            self.runs.runs.fetch_add(1, Ordering::Relaxed);
            self.runs
                .last_at
                .store((self.schedule.clock)(), Ordering::Relaxed);
            tracing::info!(rows, seconds = micros / 1_000_000, "retention is done");
        }
        Ok(due(now, started, &self.schedule))
    }

    async fn take(&self, now: u64) -> Result<(Option<u64>, bool), StoreError> {
        let until = now + LEASE.as_millis() as u64;
        self.store.take_job(JOB, &self.node, now, until).await
    }

    /// All that has to be done, step by step: how many rows were removed, and whether all was
    /// done.
    async fn clean(&self, now: u64) -> Result<(u64, bool), StoreError> {
        let (mut rows, mut taken) = (0, now);
        for task in (self.tasks)(now) {
            let mut from = Some(0);
            while let Some(start) = from {
                let begin = Instant::now();
                let Cleaned { rows: gone, next } = self.step(task, start).await?;
                rows += gone;
                self.runs.rows.fetch_add(gone, Ordering::Relaxed);
                from = next;
                // Half of the time is for others.
                sleep(begin.elapsed()).await;
                let now = (self.schedule.clock)();
                if (self.is_over)() {
                    return Ok((rows, false));
                }
                if now >= taken + LEASE.as_millis() as u64 / 4 {
                    taken = now;
                    if !self.take(now).await?.1 {
                        return Ok((rows, false));
                    }
                }
            }
        }
        Ok((rows, true))
    }

    async fn step(&self, task: Cleaning, from: u64) -> Result<Cleaned, StoreError> {
        loop {
            match self.store.clean(task, from).await {
                Err(StoreError::Overloaded) if !(self.is_over)() => sleep(BUSY).await,
                done => return done,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

    use super::*;
    use heartline_core::auth::UserKey;
    use heartline_core::store::invites::{Invites, NewInvite};
    use heartline_core::store::memory::MemoryStore;
    use heartline_core::store::{Channel, HistoryQuery, NewMessage, Retention, Start};
    use std::sync::atomic::AtomicBool;

    const HOUR: u64 = 3_600_000;
    const DAY: u64 = 24 * HOUR;

    /// A store, nodes that keep it clean every day at two, and a clock moved by hand.
    struct World {
        store: Arc<MemoryStore>,
        start: Instant,
        /// What the clock showed at the start.
        zero: u64,
    }

    struct Node {
        runs: Arc<Runs>,
        is_over: Arc<AtomicBool>,
    }

    impl Node {
        fn runs(&self) -> u64 {
            self.runs.runs.load(Ordering::Relaxed)
        }
    }

    impl World {
        fn at(zero: u64) -> World {
            let store = Arc::new(MemoryStore::default());
            let start = Instant::now();
            World { store, start, zero }
        }

        fn clock(&self) -> impl Fn() -> u64 + Send + Sync + use<> {
            let (start, zero) = (self.start, self.zero);
            move || zero + start.elapsed().as_millis() as u64
        }

        fn node(&self, name: &str) -> Node {
            let next = |after: u64| Some((after + DAY - 2 * HOUR) / DAY * DAY + 2 * HOUR);
            let next = move |after| next(after).map(|at| if at <= after { at + DAY } else { at });
            let runs = Arc::new(Runs::default());
            let is_over = Arc::new(AtomicBool::new(false));
            let over = is_over.clone();
            let keeper = Keeper {
                store: self.store.clone(),
                node: name.into(),
                schedule: Schedule {
                    clock: Box::new(self.clock()),
                    next: Box::new(next),
                },
                tasks: Box::new(|now| {
                    let kept = Retention {
                        messages: Some(Duration::from_millis(DAY)),
                        per_conversation: None,
                    };
                    kept.cleanings(now)
                }),
                runs: runs.clone(),
                is_over: Box::new(move || over.load(Ordering::Relaxed)),
            };
            tokio::spawn(async move { keeper.run().await });
            Node { runs, is_over }
        }

        async fn say(&self) {
            let new = NewMessage {
                sender: Arc::new(UserKey {
                    tenant_id: None,
                    user_id: "u".into(),
                    user_type: None,
                }),
                channel: Channel::Conversation("c".into()),
                content: "hello".into(),
                temp_id: None,
                created_at: self.clock()(),
            };
            self.store.append(new, Box::new(|_| ())).await.unwrap();
        }

        async fn floor(&self) -> u64 {
            let query = HistoryQuery {
                tenant: None,
                channel: Channel::Conversation("c".into()),
                from: Start::End,
                limit: 1,
                bytes: 1_000,
            };
            self.store.history(query).await.unwrap().floor
        }
    }

    fn hours(hours: u64) -> Duration {
        Duration::from_millis(hours * HOUR)
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_old_enough_goes_once_a_day_whichever_node_does_it() {
        let world = World::at(20_000 * DAY + HOUR);
        world.say().await;
        let (a, b) = (world.node("a"), world.node("b"));
        sleep(hours(3)).await;
        world.say().await;
        assert_eq!((a.runs() + b.runs(), world.floor().await), (1, 0));
        sleep(hours(24)).await;
        assert_eq!((a.runs() + b.runs(), world.floor().await), (2, 1));
        sleep(hours(24)).await;
        assert_eq!((a.runs() + b.runs(), world.floor().await), (3, 2));
        let rows = |node: &Node| node.runs.rows.load(Ordering::Relaxed);
        assert_eq!(rows(&a) + rows(&b), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn an_invite_that_has_expired_is_known_for_thirty_days_more() {
        let world = World::at(20_000 * DAY + HOUR);
        let invite = NewInvite {
            conversation_id: "c".into(),
            expires_at: Some(world.clock()() + DAY),
            ..NewInvite::default()
        };
        assert_eq!(world.store.create_invite("code", invite).await, Ok(true));
        let node = world.node("a");
        sleep(hours(31 * 24)).await;
        assert_eq!(node.runs(), 31);
        assert!(world.store.invite("code").await.unwrap().is_some());
        sleep(hours(24)).await;
        assert_eq!(world.store.invite("code").await, Ok(None));
    }

    #[tokio::test(start_paused = true)]
    async fn a_run_that_was_missed_is_made_up_for_within_five_minutes_of_the_start() {
        let world = World::at(20_000 * DAY + HOUR);
        let first = world.node("a");
        sleep(hours(2)).await;
        assert_eq!(first.runs(), 1);
        first.is_over.store(true, Ordering::Relaxed);
        sleep(hours(40)).await;
        let second = world.node("a");
        sleep(Duration::from_secs(30)).await;
        assert_eq!(second.runs(), 0);
        sleep(Duration::from_secs(270)).await;
        assert_eq!(second.runs(), 1);
        second.is_over.store(true, Ordering::Relaxed);
        sleep(hours(1)).await;
        // Nothing was missed this time.
        let third = world.node("a");
        sleep(Duration::from_secs(300)).await;
        assert_eq!(third.runs(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_node_began_that_is_gone_another_does_after_its_lease() {
        let world = World::at(20_000 * DAY + HOUR);
        let now = world.clock()();
        let before = now - DAY;
        let store = &world.store;
        assert!(store.take_job(JOB, "gone", before, now).await.unwrap().1);
        let done = store.end_job(JOB, "gone", Some(before));
        done.await.unwrap();
        let until = now + LEASE.as_millis() as u64;
        assert!(
            world
                .store
                .take_job(JOB, "gone", now, until)
                .await
                .unwrap()
                .1
        );
        let node = world.node("a");
        sleep(LEASE).await;
        assert_eq!(node.runs(), 0);
        sleep(LOOK * 2).await;
        assert_eq!(node.runs(), 1);
    }
}

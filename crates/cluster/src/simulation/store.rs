//! The store of a simulation, and the ways to it: links that are slow, lose answers, or
//! are cut.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::{broadcast, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::dice::Dice;
use super::model::Model;
use crate::registry::{
    Admission, Arrival, Audit, Departure, Displaced, Edge, EdgeId, Edges, Fenced, Guarded, Joined,
    Known, Maintained, Millis, Newcomer, NodeInfo, NodeState, Registry, Renewed, Restored,
    Stranger, Stream, Sum, Suspicion, Turn, Unavailable, UserName, Verdict,
};

/// What operations cost, as they were measured on Redis: microseconds of its one core.
mod cost {
    use super::Restored;

    /// Of any operation.
    pub(super) const EACH: u64 = 40;
    pub(super) const CONNECT: u64 = 49;
    pub(super) const ESTABLISH: u64 = 60;
    pub(super) const DEPART: u64 = 56;
    pub(super) const SWEEP: u64 = 61;
    pub(super) const LOOK_UP: u64 = 18;
    /// An entry that is compared, and one that is told because its bucket differs.
    pub(super) const COMPARE: u64 = 2;
    pub(super) const TELL: u64 = 3;

    /// 47, 94, 158 and 382 for 0, 5, 20 and 100 rooms.
    pub(super) fn restore(user: &Restored) -> u64 {
        let rooms = |rooms: usize| 47 + (rooms as u64 * 8).min(40) + rooms as u64 * 3;
        let entries = user.entries.iter().map(|entry| rooms(entry.rooms.len()));
        entries.sum::<u64>().max(20)
    }
}

pub(super) struct Store {
    pub(super) model: Model,
    /// Which run of its process this is.
    pub(super) run: u64,
    /// By how many milliseconds its clock was set since it began.
    pub(super) stepped: i64,
    pub(super) up: bool,
    pub(super) dice: Dice,
    /// All edges there ever were.
    pub(super) edges: Vec<Edge>,
    pub(super) changed: watch::Sender<u64>,
    /// Processes that are to look at what waits for them.
    pub(super) nudges: broadcast::Sender<Arc<str>>,
    pub(super) started: Instant,
    pub(super) snapshot: Option<Model>,
    /// Nothing gets lost any more.
    pub(super) calm: bool,
    /// Work takes time: operations wait for each other.
    pub(super) is_real: bool,
    /// Until when there is work.
    pub(super) busy_until: Instant,
    /// So many edges are read at once.
    pub(super) most_per_read: usize,
    /// How often reads of edges were broken.
    breaks: u64,
    /// How often edges were read.
    pub(super) reads: u64,
    /// Operations there were, and the microseconds that they took.
    pub(super) operations: u64,
    pub(super) worked: u64,
}

impl Store {
    /// An empty store that has just started.
    pub(super) fn new(dice: Dice) -> Store {
        Store {
            model: Model::default(),
            run: 1,
            stepped: 0,
            up: true,
            dice,
            edges: Vec::new(),
            changed: watch::channel(0).0,
            nudges: broadcast::channel(1024).0,
            started: Instant::now(),
            snapshot: None,
            calm: false,
            is_real: false,
            busy_until: Instant::now(),
            most_per_read: usize::MAX,
            breaks: 0,
            reads: 0,
            operations: 0,
            worked: 0,
        }
    }

    /// Connections end on which edges are read.
    pub(super) fn break_reads(&mut self) {
        self.breaks += 1;
        self.changed.send_modify(|_| {});
    }

    /// An operation that takes so many microseconds has come: when it is done.
    fn queue(&mut self, cost: u64) -> Instant {
        let now = Instant::now();
        self.operations += 1;
        self.worked += cost;
        if !self.is_real {
            return now;
        }
        self.busy_until = self.busy_until.max(now) + Duration::from_micros(cost);
        self.busy_until
    }

    /// The time of day by a clock that is right, as those of the nodes are.
    pub(super) fn now(&self) -> Millis {
        // Not near zero, as no clock is.
        1_700_000_000_000 + self.started.elapsed().as_millis() as Millis
    }

    /// The time of day by the store's clock.
    fn wall(&self) -> Millis {
        self.now().saturating_add_signed(self.stepped)
    }

    /// The cluster's own time.
    pub(super) fn time(&self) -> Millis {
        self.model.time_at(self.wall())
    }
}

#[derive(Clone)]
pub(super) struct Link {
    pub(super) store: Arc<Mutex<Store>>,
    pub(super) cut: Arc<AtomicBool>,
    /// The node has been cut off, stopped, or left without an answer, and was not heard
    /// of since.
    pub(super) in_doubt: Arc<AtomicBool>,
}

/// `HEARTLINE_TRACE` shows every operation.
pub(super) fn is_traced() -> bool {
    std::env::var_os("HEARTLINE_TRACE").is_some()
}

/// Locks; a holder that panicked has found a fault, which must end the run.
pub(super) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap()
}

impl Link {
    /// An operation with a number.
    async fn tell<A, T>(
        &self,
        name: &str,
        turn: Turn<'_>,
        cost: u64,
        what: Vec<A>,
        operation: fn(&mut Model, Millis, Turn<'_>, &[A]) -> Result<T, Fenced>,
    ) -> Guarded<T>
    where
        A: std::fmt::Debug + Send + 'static,
        T: std::fmt::Debug + Send + 'static,
    {
        let (incarnation, number) = (turn.incarnation.to_owned(), turn.number);
        let said = is_traced().then(|| format!("{name} {incarnation} {number} {what:?}"));
        self.call(
            cost,
            || said.unwrap_or_default(),
            move |model, now, _, _| {
                let incarnation = &incarnation;
                operation(
                    model,
                    now,
                    Turn {
                        incarnation,
                        number,
                    },
                    &what,
                )
            },
        )
        .await
    }

    /// An operation on its way there and back. What was sent arrives, also if nobody
    /// waits for the answer any more.
    pub(super) async fn call<T: std::fmt::Debug + Send + 'static>(
        &self,
        cost: u64,
        what: impl FnOnce() -> String,
        operation: impl FnOnce(&mut Model, Millis, u64, &mut Dice) -> T + Send + 'static,
    ) -> Result<T, Unavailable> {
        let (there, back, lost, late) = {
            let mut store = locked(&self.store);
            let dice = &mut store.dice;
            let there = 1 + dice.below(4);
            let back = 1 + dice.below(4);
            let (lost, late) = (dice.below(1000) < 3, dice.below(1000) < 3);
            (there, back, lost && !store.calm, late && !store.calm)
        };
        if lost || late {
            self.in_doubt.store(true, Ordering::Relaxed);
        }
        if self.cut.load(Ordering::Relaxed) {
            // Refused at once, or never answered.
            if there == 1 {
                return Err(Unavailable("refused".into()));
            }
            std::future::pending::<()>().await;
        }
        let store = self.store.clone();
        let cut = self.cut.clone();
        let what = is_traced().then(what);
        let work = tokio::spawn(async move {
            sleep(Duration::from_millis(if late { 4000 } else { there })).await;
            if cut.load(Ordering::Relaxed) {
                return None;
            }
            let done = locked(&store).queue(cost::EACH + cost);
            sleep_until(done).await;
            let result = {
                let mut store = locked(&store);
                if !store.up {
                    return None;
                }
                let (wall, run) = (store.wall(), store.run);
                let now = store.model.tick(wall);
                let Store { model, dice, .. } = &mut *store;
                let result = operation(model, now, run, dice);
                if let Some(what) = what {
                    eprintln!("{} {what} -> {result:?}", now % 1_000_000);
                }
                for process in std::mem::take(&mut store.model.nudged) {
                    let _ = store.nudges.send(process);
                }
                let known = store.edges.len() as u64;
                let new = store.model.edges_from(known);
                if !new.is_empty() {
                    if is_traced() {
                        eprintln!("{} edges {new:?}", now % 1_000_000);
                    }
                    store.edges.extend(new);
                    let count = store.edges.len() as u64;
                    store.changed.send_replace(count);
                }
                result
            };
            sleep(Duration::from_millis(back)).await;
            Some(result)
        });
        match work.await {
            Ok(Some(result)) if !lost && !self.cut.load(Ordering::Relaxed) => Ok(result),
            _ => {
                if there == 1 {
                    return Err(Unavailable("closed".into()));
                }
                std::future::pending::<()>().await;
                unreachable!()
            }
        }
    }
}

impl Registry for Link {
    async fn join(
        &self,
        info: &NodeInfo,
        ttl: Millis,
        known: Option<&str>,
        living: u32,
        rev: u64,
    ) -> Result<Result<Joined, Stranger>, Unavailable> {
        let known = known.map(ToOwned::to_owned);
        let name = format!("join {}.{}", info.node_id, info.tag);
        let what = || name;
        let info = info.clone();
        self.call(0, what, move |model, now, run, dice| {
            let fresh = format!("{:x}", dice.roll());
            let known = (known.as_deref(), living, rev);
            model.join(now, run, &info, ttl, known, &fresh)
        })
        .await
        .inspect(|_| self.in_doubt.store(false, Ordering::Relaxed))
    }

    async fn renew(
        &self,
        incarnation: &str,
        ttl: Millis,
        done: &[Arc<str>],
        complete: Option<Millis>,
        rev: u64,
    ) -> Guarded<Renewed> {
        let (incarnation, done) = (incarnation.to_owned(), done.to_vec());
        let name = format!("renew {incarnation} {done:?} {complete:?}");
        self.call(
            0,
            || name,
            move |model, now, run, _| {
                model.renew(now, run, &incarnation, ttl, &done, (complete, rev))
            },
        )
        .await
        .inspect(|_| self.in_doubt.store(false, Ordering::Relaxed))
    }

    async fn suspect(&self, incarnation: &str, suspicion: Suspicion<'_>) -> Guarded<Verdict> {
        let (by, whom) = (incarnation.to_owned(), suspicion.whom.to_owned());
        let Suspicion { again, window, .. } = suspicion;
        let name = format!("suspect {by} {suspicion:?}");
        self.call(
            0,
            || name,
            move |model, now, _, _| {
                let whom = &whom;
                model.suspect(
                    now,
                    &by,
                    Suspicion {
                        whom,
                        again,
                        window,
                    },
                )
            },
        )
        .await
    }

    async fn connect(&self, turn: Turn<'_>, newcomers: &[Newcomer]) -> Guarded<Vec<Admission>> {
        let cost = cost::CONNECT * newcomers.len() as u64;
        let newcomers = newcomers.to_vec();
        self.tell("connect", turn, cost, newcomers, Model::connect)
            .await
    }

    async fn establish(&self, turn: Turn<'_>, arrivals: &[Arrival]) -> Guarded<Vec<Displaced>> {
        let cost = cost::ESTABLISH * arrivals.len() as u64;
        let arrivals = arrivals.to_vec();
        self.tell("establish", turn, cost, arrivals, Model::establish)
            .await
    }

    async fn depart(&self, turn: Turn<'_>, departures: &[Departure]) -> Guarded<Vec<bool>> {
        let cost = cost::DEPART * departures.len() as u64;
        let departures = departures.to_vec();
        self.tell("depart", turn, cost, departures, Model::depart)
            .await
    }

    async fn restore(&self, turn: Turn<'_>, users: &[Restored]) -> Guarded<Vec<Displaced>> {
        let cost = users.iter().map(cost::restore).sum();
        let users = users.to_vec();
        self.tell("restore", turn, cost, users, Model::restore)
            .await
    }

    async fn retire(&self, incarnations: &[Arc<str>]) -> Result<(), Unavailable> {
        let incarnations = incarnations.to_vec();
        let name = format!("retire {incarnations:?}");
        self.call(
            0,
            || name,
            move |model, now, _, _| model.retire(now, &incarnations),
        )
        .await
    }

    async fn maintain(
        &self,
        limit: u32,
        grace: Millis,
        ttl: Millis,
    ) -> Result<Maintained, Unavailable> {
        let (limit, cost) = {
            let store = locked(&self.store);
            let limit = if store.is_real { limit } else { limit.min(3) };
            let due = store.model.due_now(store.time(), limit);
            (limit, cost::SWEEP * u64::from(due))
        };
        self.call(
            cost,
            || "maintain".into(),
            move |model, now, run, _| model.maintain(now, run, limit, grace, ttl),
        )
        .await
    }

    async fn nodes(&self) -> Result<Vec<NodeState>, Unavailable> {
        self.call(0, || "nodes".into(), |model, now, _, _| model.nodes(now))
            .await
    }

    async fn edges(&self, last: &EdgeId, wait: Duration) -> Result<Edges, Unavailable> {
        let after = last.parse::<u64>().unwrap_or(0);
        let (mut changed, known, breaks) = {
            let store = locked(&self.store);
            let is_any = !store.model.edges(last, 1).edges.is_empty();
            let known = if is_any { 0 } else { store.edges.len() as u64 };
            (store.changed.subscribe(), known.max(after), store.breaks)
        };
        let is_broken = || locked(&self.store).breaks != breaks;
        let is_over = |count: &u64| *count > known || is_broken();
        // Late or not, there is an answer.
        let _ = timeout(wait, changed.wait_for(is_over)).await;
        if is_broken() {
            return Err(Unavailable("closed".into()));
        }
        let arrived = {
            let mut store = locked(&self.store);
            if self.cut.load(Ordering::Relaxed) || !store.up {
                return Err(Unavailable("closed".into()));
            }
            let read = store.model.edges(last, store.most_per_read).edges.len() as u64;
            store.reads += 1;
            store.queue(cost::EACH + read.min(4096) / 2)
        };
        sleep_until(arrived).await;
        let store = locked(&self.store);
        Ok(store.model.edges(last, store.most_per_read))
    }

    async fn stream(&self, place: &EdgeId) -> Result<Option<Stream>, Unavailable> {
        if self.cut.load(Ordering::Relaxed) || !locked(&self.store).up {
            return Err(Unavailable("closed".into()));
        }
        Ok(Some(locked(&self.store).model.stream(place)))
    }

    async fn look_up(
        &self,
        incarnation: &str,
        grace: Millis,
        users: &[UserName],
    ) -> Guarded<Vec<Known>> {
        let (incarnation, users) = (incarnation.to_owned(), users.to_vec());
        self.call(
            cost::LOOK_UP * users.len() as u64,
            || "look up".into(),
            move |model, now, _, _| model.look_up(now, &incarnation, grace, &users),
        )
        .await
    }

    async fn audit(&self, incarnation: &str, buckets: &[(u8, Sum)]) -> Result<Audit, Unavailable> {
        let (incarnation, buckets) = (incarnation.to_owned(), buckets.to_vec());
        let cost = {
            let store = locked(&self.store);
            let audit = store.model.audit(&incarnation, &buckets);
            let told = audit.differing.iter().map(|(_, there)| there.len());
            let compared = store.model.entries_in(&incarnation, &buckets);
            cost::COMPARE * compared as u64 + cost::TELL * told.sum::<usize>() as u64
        };
        self.call(
            cost,
            || "audit".into(),
            move |model, _, _, _| model.audit(&incarnation, &buckets),
        )
        .await
    }
}

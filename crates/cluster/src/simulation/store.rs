//! The store of a simulation, and the ways to it: links that are slow, lose answers, or
//! are cut.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use super::dice::Dice;
use super::model::Model;
use crate::registry::{
    Admission, Arrival, Audit, Departure, Displaced, Edge, EdgeId, Edges, Guarded, Joined, Known,
    Maintained, Millis, Newcomer, NodeInfo, NodeState, Registry, Renewed, Restored, Unavailable,
    UserName,
};

pub(super) struct Store {
    pub(super) model: Model,
    /// Which run of its process this is.
    pub(super) run: u64,
    pub(super) up: bool,
    pub(super) dice: Dice,
    /// All edges there ever were.
    pub(super) edges: Vec<Edge>,
    pub(super) changed: watch::Sender<u64>,
    pub(super) started: Instant,
    pub(super) snapshot: Option<Model>,
    /// Nothing gets lost any more.
    pub(super) calm: bool,
}

impl Store {
    /// An empty store that has just started.
    pub(super) fn new(dice: Dice) -> Store {
        Store {
            model: Model::default(),
            run: 1,
            up: true,
            dice,
            edges: Vec::new(),
            changed: watch::channel(0).0,
            started: Instant::now(),
            snapshot: None,
            calm: false,
        }
    }

    pub(super) fn now(&self) -> Millis {
        // Not near zero, as no clock is.
        1_700_000_000_000 + self.started.elapsed().as_millis() as Millis
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
    /// An operation on its way there and back. What was sent arrives, also if nobody
    /// waits for the answer any more.
    pub(super) async fn call<T: std::fmt::Debug + Send + 'static>(
        &self,
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
            let result = {
                let mut store = locked(&store);
                if !store.up {
                    return None;
                }
                let (now, run) = (store.now(), store.run);
                let Store { model, dice, .. } = &mut *store;
                let result = operation(model, now, run, dice);
                if let Some(what) = what {
                    eprintln!("{} {what} -> {result:?}", now % 1_000_000);
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
    ) -> Result<Joined, Unavailable> {
        let known = known.map(ToOwned::to_owned);
        let name = format!("join {}.{}", info.node_id, info.tag);
        let what = || name;
        let info = info.clone();
        self.call(what, move |model, now, run, dice| {
            let fresh = format!("{:x}", dice.roll());
            model.join(now, run, &info, ttl, known.as_deref(), &fresh)
        })
        .await
        .inspect(|_| self.in_doubt.store(false, Ordering::Relaxed))
    }

    async fn renew(&self, incarnation: &str, ttl: Millis, done: &[Arc<str>]) -> Guarded<Renewed> {
        let (incarnation, done) = (incarnation.to_owned(), done.to_vec());
        let name = format!("renew {incarnation} {done:?}");
        self.call(
            || name,
            move |model, now, run, _| model.renew(now, run, &incarnation, ttl, &done),
        )
        .await
        .inspect(|_| self.in_doubt.store(false, Ordering::Relaxed))
    }

    async fn connect(&self, incarnation: &str, newcomers: &[Newcomer]) -> Guarded<Vec<Admission>> {
        let (incarnation, newcomers) = (incarnation.to_owned(), newcomers.to_vec());
        let name = format!("connect {incarnation} {newcomers:?}");
        self.call(
            || name,
            move |model, now, _, _| model.connect(now, &incarnation, &newcomers),
        )
        .await
    }

    async fn establish(&self, incarnation: &str, arrivals: &[Arrival]) -> Guarded<Vec<Displaced>> {
        let (incarnation, arrivals) = (incarnation.to_owned(), arrivals.to_vec());
        let name = format!("establish {incarnation} {arrivals:?}");
        self.call(
            || name,
            move |model, now, _, _| model.establish(now, &incarnation, &arrivals),
        )
        .await
    }

    async fn depart(&self, incarnation: &str, departures: &[Departure]) -> Guarded<Vec<bool>> {
        let (incarnation, departures) = (incarnation.to_owned(), departures.to_vec());
        let name = format!("depart {incarnation} {departures:?}");
        self.call(
            || name,
            move |model, now, _, _| model.depart(now, &incarnation, &departures),
        )
        .await
    }

    async fn restore(&self, incarnation: &str, users: &[Restored]) -> Guarded<Vec<Displaced>> {
        let (incarnation, users) = (incarnation.to_owned(), users.to_vec());
        let name = format!("restore {incarnation} {users:?}");
        self.call(
            || name,
            move |model, now, _, _| model.restore(now, &incarnation, &users),
        )
        .await
    }

    async fn retire(&self, incarnations: &[Arc<str>]) -> Result<(), Unavailable> {
        let incarnations = incarnations.to_vec();
        let name = format!("retire {incarnations:?}");
        self.call(|| name, move |model, _, _, _| model.retire(&incarnations))
            .await
    }

    async fn maintain(
        &self,
        limit: u32,
        grace: Millis,
        ttl: Millis,
    ) -> Result<Maintained, Unavailable> {
        self.call(
            || "maintain".into(),
            move |model, now, run, _| model.maintain(now, run, limit.min(3), grace, ttl),
        )
        .await
    }

    async fn nodes(&self) -> Result<Vec<NodeState>, Unavailable> {
        self.call(|| "nodes".into(), |model, now, _, _| model.nodes(now))
            .await
    }

    async fn edges(&self, last: &EdgeId) -> Result<Edges, Unavailable> {
        let last = last.parse::<u64>().unwrap_or(0);
        let mut changed = locked(&self.store).changed.subscribe();
        let _ = changed.wait_for(|count| *count > last).await;
        if self.cut.load(Ordering::Relaxed) || !locked(&self.store).up {
            return Err(Unavailable("closed".into()));
        }
        let store = locked(&self.store);
        Ok(Edges {
            edges: store.edges[last as usize..].to_vec(),
            last: Some(store.edges.len().to_string().into()),
        })
    }

    async fn look_up(&self, users: &[UserName]) -> Result<Vec<Known>, Unavailable> {
        let users = users.to_vec();
        self.call(
            || "look up".into(),
            move |model, now, _, _| model.look_up(now, &users),
        )
        .await
    }

    async fn audit(
        &self,
        incarnation: &str,
        users: &[UserName],
        sample: u32,
    ) -> Result<Audit, Unavailable> {
        let (incarnation, users) = (incarnation.to_owned(), users.to_vec());
        self.call(
            || "audit".into(),
            move |model, _, _, _| model.audit(&incarnation, &users, sample),
        )
        .await
    }
}

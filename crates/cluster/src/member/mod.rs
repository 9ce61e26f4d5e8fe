//! One node's part in the cluster.
//!
//! A member lives in the registry as one incarnation after the other. It joins,
//! says who is connected to it, renews its lease, and tells who comes and who goes.
//! Everything it tells goes through one loop, one operation at a time, in batches: so
//! nothing it says can overtake what it said before, and a storm of logins costs
//! little more than its bytes.
//!
//! **When anything is in doubt, it begins a new incarnation.** An operation that
//! failed or ran out of time may have happened or may happen yet; a lease may have
//! run out while the process was stopped; the store may have lost its memory. In all
//! of these cases the member joins again, which fences whatever is still on its way,
//! registers its live sockets under the new name, and then retires the old one, whose
//! leftovers are swept. There is no other way of recovery.
//!
//! **While the store is away**, sockets are admitted by what this node knows. They
//! are registered, and conflicts resolved, when it is back.
//!
//! At shutdown the member tells the last departures and retires its incarnation. At
//! a crash nothing is told: its lease ends, and any other member sweeps.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hashbrown::HashSet;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::Instant;

use crate::registry::{
    Admission, Departure, Edge, EdgeId, Entry, Fenced, Joined, Known, Loser, Millis, Newcomer,
    NodeInfo, NodeState, Registry, Restored, Tended, Unavailable, UserName, Who,
};

/// Newcomers, departures or users in one operation: a few milliseconds of the store's
/// time at most.
const BATCH: usize = 200;
/// Rooms in one operation, beyond those of one user.
const ROOMS: usize = 5_000;
/// Entries swept, and verdicts worked off, in one operation.
const TEND: u32 = 200;
/// Departures that wait for the store. Those beyond it are found by the sweep.
const MAX_DEPARTURES: usize = 262_144;
/// Users compared with the registry at each renewal.
const AUDITED: usize = 16;
/// The longest pause between attempts to join.
const MAX_PAUSE: Duration = Duration::from_secs(1);
/// How much later each further node tends what is due: almost always the first has
/// done it then.
const STAGGER: Duration = Duration::from_millis(50);

/// The node's own knowledge of its sockets.
pub trait Local: Send + Sync + 'static {
    /// Everybody who has a socket here.
    fn users(&self) -> Vec<Who>;
    /// Up to `count` of them, others at each call.
    fn some_users(&self, count: usize) -> Vec<Who>;
    /// A user's sockets.
    fn entries(&self, who: &Who) -> Vec<Entry>;
    /// Whether the socket is here.
    fn has(&self, who: &Who, socket: &str) -> bool;
    /// A socket lost its place. It may be gone already.
    fn oust(&self, loser: &Loser);
    /// Users came or went, somewhere in the cluster.
    fn announce(&self, edges: &[Edge]);
}

/// The rhythm of a member.
#[derive(Debug, Clone, Copy)]
pub struct Timing {
    /// `cluster.lease_ttl`.
    pub ttl: Duration,
    /// `cluster.lease_refresh`.
    pub refresh: Duration,
    /// `presence.offline_grace`.
    pub grace: Duration,
}

impl Timing {
    /// How long one operation may take before it counts as failed.
    fn patience(&self) -> Duration {
        (self.ttl.saturating_sub(self.refresh) / 3)
            .clamp(Duration::from_millis(50), Duration::from_secs(2))
    }
}

/// What happened so far; all of it grows.
#[derive(Debug, Default)]
pub struct Counters {
    /// Operations that failed or ran out of time.
    pub errors: AtomicU64,
    /// Incarnations begun.
    pub joins: AtomicU64,
    /// Entries that were missing or too many, and were mended.
    pub repairs: AtomicU64,
    /// Entries of dead nodes that this one swept.
    pub swept: AtomicU64,
    /// Edges announced here.
    pub edges: AtomicU64,
    /// Sockets admitted while the store was away.
    pub unregistered: AtomicU64,
    /// Departures that could not be kept until the store is back.
    pub forgotten: AtomicU64,
}

/// A departure that is to be told.
struct Leaving {
    departure: Departure,
    /// Whether the user was announced when the socket left, as far as is known.
    announced: bool,
}

struct Request {
    newcomer: Newcomer,
    reply: oneshot::Sender<Outcome>,
}

/// The answer and the incarnation's number, or whether the user was announced all the
/// same.
type Outcome = Result<(Admission, u64), bool>;

#[derive(Default)]
struct State {
    departures: VecDeque<Leaving>,
    /// Those that are being told.
    telling: Vec<Leaving>,
    /// Users with sockets that may be unregistered; whether they were announced all
    /// the same, for another socket.
    unregistered: BTreeMap<Who, bool>,
    /// Users whose sockets have changed their rooms.
    roamed: BTreeSet<Who>,
    /// Users who were announced before the registry lost its memory, and whom it
    /// has not heard of since.
    believed: BTreeSet<Who>,
    /// Users who are in their grace as far as this node knows, and until when that is
    /// remembered.
    in_grace: BTreeMap<Who, Instant>,
    /// Users who are being registered, and whether they were announced meanwhile.
    asking: BTreeMap<Who, bool>,
    /// Users who were announced as offline although they have sockets here or had a
    /// moment ago: those had lost their places.
    offline: BTreeSet<Who>,
    /// Until when the lease is good, by this node's clock.
    valid_until: Option<Instant>,
    incarnation: Option<Arc<str>>,
    secret: Option<Arc<str>>,
    first_edge: Option<EdgeId>,
    nudged: bool,
    leaving: bool,
}

/// A node's membership of a cluster.
pub struct Member<R, L> {
    registry: R,
    local: L,
    info: NodeInfo,
    timing: Timing,
    state: Mutex<State>,
    requests: mpsc::UnboundedSender<Request>,
    /// Counts incarnations: what was answered under another may be void.
    generation: AtomicU64,
    away: AtomicBool,
    work: Notify,
    left: Notify,
    joined: Notify,
    counters: Counters,
}

/// What [`Member::run`] reads from.
pub struct Requests(mpsc::UnboundedReceiver<Request>);

/// Why an incarnation ended.
enum End {
    Fenced,
    Unavailable(Unavailable),
    Left,
}

impl From<Unavailable> for End {
    fn from(error: Unavailable) -> Self {
        End::Unavailable(error)
    }
}

impl From<Fenced> for End {
    fn from(Fenced: Fenced) -> Self {
        End::Fenced
    }
}

/// One incarnation's state.
struct Life {
    incarnation: Arc<str>,
    renew_at: Instant,
    tend_at: Option<Instant>,
    rank: u32,
    /// Whom to register.
    restore: VecDeque<Pending>,
    /// To be retired as soon as all are registered.
    earlier: Vec<Arc<str>>,
    done: Vec<Arc<str>>,
    suspects: HashSet<Arc<str>>,
}

struct Pending {
    who: Who,
    /// What [`State::unregistered`] knew.
    doubt: Option<bool>,
}

impl<R: Registry, L: Local> Member<R, L> {
    /// A member that has not joined yet; give the requests to [`run`](Self::run).
    pub fn new(registry: R, local: L, info: NodeInfo, timing: Timing) -> (Arc<Self>, Requests) {
        let (requests, received) = mpsc::unbounded_channel();
        let member = Member {
            registry,
            local,
            info,
            timing,
            state: Mutex::default(),
            requests,
            generation: AtomicU64::new(0),
            away: AtomicBool::new(true),
            work: Notify::new(),
            left: Notify::new(),
            joined: Notify::new(),
            counters: Counters::default(),
        };
        (Arc::new(member), Requests(received))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The node's knowledge of its own.
    pub fn local(&self) -> &L {
        &self.local
    }

    /// What happened so far.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Whether the lease is good: what this node believes of others may be believed.
    pub fn is_trusted(&self) -> bool {
        !self.away.load(Ordering::Relaxed)
            && self
                .state()
                .valid_until
                .is_some_and(|until| Instant::now() < until)
    }

    /// How old the lease is; `None` before there is one.
    pub fn lease_age(&self) -> Option<Duration> {
        let until = self.state().valid_until?;
        let renewed = until.checked_sub(self.timing.ttl)?;
        Some(Instant::now().saturating_duration_since(renewed))
    }

    /// The incarnation at present.
    pub fn incarnation(&self) -> Option<Arc<str>> {
        self.state().incarnation.clone()
    }

    /// What nodes show each other; `None` before the first join.
    pub fn secret(&self) -> Option<Arc<str>> {
        self.state().secret.clone()
    }

    /// What this node says of itself.
    pub fn info(&self) -> &NodeInfo {
        &self.info
    }

    /// All nodes that the registry has.
    ///
    /// # Errors
    /// When it cannot be asked.
    pub async fn nodes(&self) -> Result<Vec<NodeState>, Unavailable> {
        if self.away.load(Ordering::Relaxed) {
            return Err(Unavailable("it was left alone".into()));
        }
        self.patiently(self.registry.nodes()).await
    }

    /// Asks for admission. `enter` puts the socket into the node's own table, and is
    /// called if it is admitted, or if nobody can be asked (`None`): then it decides
    /// by itself.
    ///
    /// # Errors
    /// What `enter` says.
    pub async fn connect<T, E>(
        &self,
        newcomer: Newcomer,
        enter: impl FnOnce(Option<Admission>) -> Result<T, E>,
    ) -> Result<T, E> {
        let who = newcomer.who.clone();
        let outcome = if self.away.load(Ordering::Relaxed) {
            Err(false)
        } else {
            let (reply, answer) = oneshot::channel();
            let request = Request { newcomer, reply };
            // Without a loop there is no answer either.
            let _ = self.requests.send(request);
            answer.await.unwrap_or(Err(false))
        };
        match outcome {
            Ok((admission, generation)) => {
                let entered = enter(Some(admission));
                if entered.is_ok() && generation != self.generation.load(Ordering::SeqCst) {
                    self.doubt(who, true);
                }
                entered
            }
            Err(announced) => {
                let entered = enter(None);
                if entered.is_ok() {
                    self.counters.unregistered.fetch_add(1, Ordering::Relaxed);
                    self.doubt(who, announced);
                }
                entered
            }
        }
    }

    /// The user's sockets may not be registered. The user may be announced as online
    /// nevertheless.
    fn doubt(&self, who: Who, announced: bool) {
        let others = self.local.entries(&who).len() > 1;
        let mut state = self.state();
        *state.unregistered.entry(who).or_insert(others) |= announced;
        drop(state);
        self.work.notify_one();
    }

    /// A socket has left the node's own table.
    pub fn disconnect(&self, who: Who, socket: Arc<str>) {
        let mut state = self.state();
        let announced = state.unregistered.get(&who).copied().unwrap_or(true);
        state.departures.push_back(Leaving {
            announced,
            departure: Departure { who, socket },
        });
        if state.departures.len() > MAX_DEPARTURES {
            state.departures.pop_front();
            self.counters.forgotten.fetch_add(1, Ordering::Relaxed);
        }
        drop(state);
        self.work.notify_one();
    }

    /// Sockets of the user have come into rooms or left them.
    pub fn roamed(&self, who: Who) {
        self.state().roamed.insert(who);
        self.work.notify_one();
    }

    /// Something waits for this node in the registry.
    pub fn nudge(&self) {
        self.state().nudged = true;
        self.work.notify_one();
    }

    /// What the registry knows of users.
    ///
    /// # Errors
    /// When it cannot be asked.
    pub async fn look_up(&self, users: &[UserName]) -> Result<Vec<Known>, Unavailable> {
        if self.away.load(Ordering::Relaxed) {
            return Err(Unavailable("it was left alone".into()));
        }
        self.patiently(self.registry.look_up(users)).await
    }

    /// Tells the last departures, gives the lease back and ends [`run`](Self::run).
    pub async fn leave(&self) {
        let left = self.left.notified();
        self.state().leaving = true;
        self.work.notify_one();
        // The loop may be in a pause, or the store gone: the lease ends by itself.
        let _ = tokio::time::timeout(self.timing.patience() * 2, left).await;
    }

    async fn patiently<T>(
        &self,
        operation: impl Future<Output = Result<T, Unavailable>>,
    ) -> Result<T, Unavailable> {
        let result = tokio::time::timeout(self.timing.patience(), operation)
            .await
            .unwrap_or_else(|_| Err(Unavailable("no answer in time".into())));
        if result.is_err() {
            self.counters.errors.fetch_add(1, Ordering::Relaxed);
        }
        result
    }

    /// Lives until [`leave`](Self::leave).
    pub async fn run(self: Arc<Self>, mut requests: Requests) {
        let reader = self.clone();
        tokio::select! {
            biased;
            () = self.live(&mut requests.0) => {}
            () = reader.follow_edges() => {}
        }
        self.away.store(true, Ordering::Relaxed);
        self.left.notify_waiters();
    }

    async fn live(&self, requests: &mut mpsc::UnboundedReceiver<Request>) {
        let mut epoch: Option<Arc<str>> = None;
        let mut failures = 0u32;
        loop {
            let end = match self.patiently(self.begin(&mut epoch)).await {
                Ok(mut life) => {
                    if failures > 0 {
                        tracing::info!("this node is one of its cluster again");
                    }
                    let begun = Instant::now();
                    self.away.store(false, Ordering::Relaxed);
                    let end = self.go_on(&mut life, requests).await;
                    // A short life is one more failure: it costs a pause, and no
                    // further line in the log.
                    if begun.elapsed() > MAX_PAUSE {
                        failures = 0;
                    }
                    match end {
                        Ok(()) => End::Left,
                        Err(end) => end,
                    }
                }
                Err(error) => End::Unavailable(error),
            };
            match end {
                End::Left => return,
                End::Fenced if failures == 0 => {
                    tracing::warn!("this node's lease was over; its sockets register again");
                    failures = 1;
                    continue;
                }
                End::Fenced => {}
                End::Unavailable(error) => {
                    self.away.store(true, Ordering::Relaxed);
                    if failures == 0 {
                        tracing::error!(%error, "presence and rooms are this node's own until it is back");
                    }
                }
            }
            failures += 1;
            let pause = (Duration::from_millis(20) * 2u32.pow(failures.min(8))).min(MAX_PAUSE);
            if self.wait_alone(requests, pause).await {
                return;
            }
        }
    }

    /// A pause without the store: nobody waits for it. True: leave.
    async fn wait_alone(
        &self,
        requests: &mut mpsc::UnboundedReceiver<Request>,
        pause: Duration,
    ) -> bool {
        let until = Instant::now() + pause;
        loop {
            if self.state().leaving {
                return true;
            }
            tokio::select! {
                biased;
                () = tokio::time::sleep_until(until) => return false,
                () = self.work.notified() => {}
                Some(request) = requests.recv() => {
                    let _ = request.reply.send(Err(false));
                }
            }
        }
    }

    /// Joins, and finds out who is to be registered.
    async fn begin(&self, epoch: &mut Option<Arc<str>>) -> Result<Life, Unavailable> {
        let asked = Instant::now();
        let ttl = millis(self.timing.ttl);
        let joined: Joined = self
            .registry
            .join(&self.info, ttl, epoch.as_deref())
            .await?;
        self.counters.joins.fetch_add(1, Ordering::Relaxed);
        // From here on, what was answered under the last incarnation is in doubt; and
        // only then is looked who is there.
        self.generation.fetch_add(1, Ordering::SeqCst);
        let forgot = epoch
            .replace(joined.epoch.clone())
            .is_some_and(|before| before != joined.epoch);
        if forgot {
            tracing::warn!("the cluster's store lost its memory; all nodes register again");
        }
        let mut state = self.state();
        state.valid_until = Some(asked + self.timing.ttl);
        state.incarnation = Some(joined.incarnation.clone());
        state.secret = Some(joined.secret);
        state.first_edge.get_or_insert(joined.last_edge);
        let doubtful = std::mem::take(&mut state.unregistered);
        state.roamed.clear();
        let mut here: BTreeSet<Who> = self.local.users().into_iter().collect();
        if forgot {
            let State {
                in_grace,
                departures,
                offline,
                believed,
                ..
            } = &mut *state;
            let left: HashSet<Who> = departures
                .iter()
                .filter(|leaving| leaving.announced)
                .map(|leaving| leaving.departure.who.clone())
                .collect();
            let was_announced = |who: &Who| {
                let known = doubtful.get(who).copied().unwrap_or(true);
                (known || left.contains(who)) && !offline.contains(who)
            };
            let all = here.iter().chain(&left);
            believed.extend(all.filter(|who| was_announced(who)).cloned());
            // However long ago: no offline edge has been heard since.
            believed.extend(std::mem::take(in_grace).into_keys());
        }
        // Some may have left since they were announced.
        here.extend(state.believed.iter().cloned());
        drop(state);
        self.joined.notify_one();
        let restore = here
            .into_iter()
            .map(|who| Pending {
                doubt: doubtful.get(&who).copied(),
                who,
            })
            .collect();
        Ok(Life {
            incarnation: joined.incarnation,
            renew_at: asked + self.timing.refresh,
            tend_at: None,
            rank: 0,
            restore,
            earlier: joined.earlier,
            done: Vec::new(),
            suspects: HashSet::new(),
        })
    }

    /// One incarnation, to its end.
    async fn go_on(
        &self,
        life: &mut Life,
        requests: &mut mpsc::UnboundedReceiver<Request>,
    ) -> Result<(), End> {
        let mut newcomers: Vec<Request> = Vec::new();
        // To learn what is due.
        self.renew(life).await?;
        loop {
            let now = Instant::now();
            let nudged = std::mem::take(&mut self.state().nudged);
            if nudged || now >= life.renew_at {
                self.renew(life).await?;
                if !nudged {
                    self.audit(life).await?;
                }
            }
            if life.tend_at.is_some_and(|at| now >= at) {
                self.tend(life).await?;
            }
            newcomers.retain(|request| !request.reply.is_closed());
            while newcomers.len() < BATCH {
                match requests.try_recv() {
                    Ok(request) => newcomers.push(request),
                    Err(_) => break,
                }
            }
            let mut idle = true;
            if !newcomers.is_empty() {
                idle = false;
                self.register(life, &mut newcomers).await?;
            }
            // Who was online before the store lost its memory has to be known before
            // it can be told that somebody went.
            if self.restore(life).await? || self.tell_departures(life).await? {
                idle = false;
            }
            if !idle {
                continue;
            }
            if self.state().leaving {
                self.registry_retire(std::slice::from_ref(&life.incarnation))
                    .await?;
                self.tend(life).await?;
                return Ok(());
            }
            let next = life
                .tend_at
                .map_or(life.renew_at, |at| at.min(life.renew_at));
            tokio::select! {
                biased;
                () = tokio::time::sleep_until(next) => {}
                () = self.work.notified() => {}
                Some(request) = requests.recv() => newcomers.push(request),
            }
        }
    }

    async fn renew(&self, life: &mut Life) -> Result<(), End> {
        let asked = Instant::now();
        let done = std::mem::take(&mut life.done);
        let renewed = self
            .patiently(
                self.registry
                    .renew(&life.incarnation, millis(self.timing.ttl), &done),
            )
            .await??;
        self.state().valid_until = Some(asked + self.timing.ttl);
        life.renew_at = asked + self.timing.refresh;
        life.rank = renewed.rank;
        self.schedule(life, renewed.next_due);
        for loser in renewed.losers {
            self.local.oust(&loser);
            life.done.push(loser.socket);
        }
        Ok(())
    }

    fn schedule(&self, life: &mut Life, due: Option<Millis>) {
        life.tend_at = due.map(|due| {
            let stagger = STAGGER * life.rank.min(10);
            Instant::now() + Duration::from_millis(due) + stagger
        });
    }

    async fn tend(&self, life: &mut Life) -> Result<(), End> {
        let grace = millis(self.timing.grace);
        let Tended {
            swept,
            ended,
            next_due,
        } = self
            .patiently(self.registry.tend(TEND, grace, millis(self.timing.ttl)))
            .await?;
        self.counters
            .swept
            .fetch_add(u64::from(swept), Ordering::Relaxed);
        for incarnation in ended {
            tracing::info!(%incarnation, "swept what a node left behind");
        }
        self.schedule(life, next_due);
        // What is left over is due now.
        if next_due == Some(0) {
            life.tend_at = Some(Instant::now());
        }
        Ok(())
    }

    async fn register(&self, life: &Life, requests: &mut Vec<Request>) -> Result<(), End> {
        let newcomers: Vec<Newcomer> = requests
            .iter()
            .map(|request| request.newcomer.clone())
            .collect();
        let generation = self.generation.load(Ordering::SeqCst);
        let asking = newcomers.iter().map(|newcomer| newcomer.who.clone());
        self.state().asking = asking.map(|who| (who, false)).collect();
        let result = self
            .patiently(self.registry.connect(&life.incarnation, &newcomers))
            .await;
        let end = match result {
            Ok(Ok(admissions)) => {
                for (request, admission) in requests.drain(..).zip(admissions) {
                    // Its caller has given up: nobody will ever say that it ended.
                    if let Err(Ok((Admission::Admitted(_), _))) =
                        request.reply.send(Ok((admission, generation)))
                    {
                        self.disconnect(request.newcomer.who, request.newcomer.entry.socket);
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

    /// Tells some of those who went. False: there was nobody.
    async fn tell_departures(&self, life: &mut Life) -> Result<bool, End> {
        let batch: Vec<Departure> = {
            let mut state = self.state();
            let State {
                departures,
                telling,
                ..
            } = &mut *state;
            let count = departures.len().min(BATCH);
            telling.extend(departures.drain(..count));
            let batch = telling.iter().map(|leaving| leaving.departure.clone());
            batch.collect()
        };
        if batch.is_empty() {
            return Ok(false);
        }
        let grace = millis(self.timing.grace);
        let told = self
            .patiently(self.registry.depart(&life.incarnation, &batch, grace))
            .await;
        let telling = std::mem::take(&mut self.state().telling);
        let linger = match told {
            Ok(Ok(linger)) => linger,
            failed => {
                let mut state = self.state();
                for leaving in telling.into_iter().rev() {
                    state.departures.push_front(leaving);
                }
                drop(state);
                return Err(match failed {
                    Err(error) => error.into(),
                    Ok(_) => End::Fenced,
                });
            }
        };
        {
            let mut state = self.state();
            for Departure { who, .. } in &batch {
                let more = |leaving: &Leaving| leaving.departure.who == *who;
                if state.offline.contains(who)
                    && !state.departures.iter().any(more)
                    && self.local.entries(who).is_empty()
                {
                    state.offline.remove(who);
                }
            }
        }
        let departed = batch.into_iter().zip(linger);
        self.remember_graces(departed.filter(|(_, lingers)| *lingers));
        if !self.timing.grace.is_zero() {
            let verdict = Instant::now() + self.timing.grace;
            life.tend_at = Some(life.tend_at.map_or(verdict, |at| at.min(verdict)));
        }
        Ok(true)
    }

    /// Should the store lose its memory now, nobody else would end these graces.
    fn remember_graces(&self, departed: impl Iterator<Item = (Departure, bool)>) {
        let now = Instant::now();
        let until = now + self.timing.grace + self.timing.ttl;
        let mut state = self.state();
        state.in_grace.retain(|_, until| *until > now);
        let room = MAX_DEPARTURES.saturating_sub(state.in_grace.len());
        let graces = departed.map(|(departure, _)| (departure.who, until));
        state.in_grace.extend(graces.take(room));
    }

    /// Registers some of those who are not. False: there was nobody.
    async fn restore(&self, life: &mut Life) -> Result<bool, End> {
        let (doubtful, roamed) = {
            let mut state = self.state();
            let state = &mut *state;
            (
                std::mem::take(&mut state.unregistered),
                std::mem::take(&mut state.roamed),
            )
        };
        let roamed = roamed.into_iter();
        let there = roamed.filter(|who| !self.local.entries(who).is_empty());
        life.restore
            .extend(there.map(|who| Pending { who, doubt: None }));
        life.restore
            .extend(doubtful.into_iter().map(|(who, announced)| Pending {
                who,
                doubt: Some(announced),
            }));
        if life.restore.is_empty() {
            if life.earlier.is_empty() {
                return Ok(false);
            }
            let earlier = std::mem::take(&mut life.earlier);
            self.registry_retire(&earlier).await?;
            life.tend_at = Some(Instant::now());
            return Ok(true);
        }
        let mut batch: Vec<Restored> = Vec::new();
        let mut rooms = 0;
        for Pending { who, .. } in life.restore.iter().take(BATCH) {
            let entries = self.local.entries(who);
            rooms += entries.iter().map(|entry| entry.rooms.len()).sum::<usize>();
            batch.push(Restored {
                entries,
                who: who.clone(),
                believed: self.state().believed.contains(who),
            });
            if rooms > ROOMS {
                break;
            }
        }
        let count = batch.len();
        let result = self
            .patiently(self.registry.restore(&life.incarnation, &batch))
            .await;
        let losers = match result {
            Ok(Ok(losers)) => losers,
            failed => {
                // They are as much in doubt as before.
                let mut state = self.state();
                for pending in life.restore.drain(..) {
                    if let Some(announced) = pending.doubt {
                        state.unregistered.entry(pending.who).or_insert(announced);
                    }
                }
                drop(state);
                return Err(match failed {
                    Err(error) => error.into(),
                    Ok(_) => End::Fenced,
                });
            }
        };
        let mut state = self.state();
        for pending in life.restore.drain(..count) {
            state.believed.remove(&pending.who);
        }
        drop(state);
        for loser in losers {
            self.local.oust(&loser);
        }
        Ok(true)
    }

    async fn registry_retire(&self, incarnations: &[Arc<str>]) -> Result<(), Unavailable> {
        self.patiently(self.registry.retire(incarnations)).await
    }

    /// Compares a few users with what the registry has of them.
    async fn audit(&self, life: &mut Life) -> Result<(), End> {
        if !life.restore.is_empty() {
            return Ok(());
        }
        let asked = self.local.some_users(AUDITED);
        let names: Vec<UserName> = asked.iter().map(|who| who.user.clone()).collect();
        let audit = self
            .patiently(
                self.registry
                    .audit(&life.incarnation, &names, AUDITED as u32),
            )
            .await?;
        for (who, there) in asked.into_iter().zip(audit.asked) {
            let differs = |mut entry: Entry| {
                entry.rooms.sort_unstable();
                let known = there.iter().find(|(socket, _)| *socket == entry.socket);
                known.is_none_or(|(_, rooms)| *rooms != entry.rooms)
            };
            let missing = self.local.entries(&who).into_iter().any(differs);
            // Who roams is said again in a moment.
            if missing && !self.state().roamed.contains(&who) {
                self.counters.repairs.fetch_add(1, Ordering::Relaxed);
                life.restore.push_back(Pending { who, doubt: None });
            }
        }
        let mut suspects = HashSet::new();
        for (socket, who) in audit.sample {
            if self.local.has(&who, &socket) {
                continue;
            }
            // Seen twice: it is not just being admitted.
            if life.suspects.contains(&socket) {
                self.counters.repairs.fetch_add(1, Ordering::Relaxed);
                self.disconnect(who, socket);
            } else {
                suspects.insert(socket);
            }
        }
        life.suspects = suspects;
        Ok(())
    }

    /// What may have to be told if the store loses its memory.
    fn note_edges(&self, edges: &[Edge]) {
        let mut state = self.state();
        for Edge { who, online, .. } in edges {
            // The registry knows better by now.
            state.believed.remove(who);
            if *online {
                state.offline.remove(who);
                if let Some(announced) = state.asking.get_mut(who) {
                    *announced = true;
                }
                continue;
            }
            state.in_grace.remove(who);
            let leaves = |leaving: &Leaving| leaving.departure.who == *who;
            let mut leaving = state.departures.iter().chain(&state.telling);
            if leaving.any(leaves) || !self.local.entries(who).is_empty() {
                state.offline.insert(who.clone());
            }
        }
    }

    /// Reads the stream of edges, from the first join on.
    async fn follow_edges(&self) {
        let mut last = loop {
            let first = self.state().first_edge.clone();
            match first {
                Some(first) => break first,
                None => self.joined.notified().await,
            }
        };
        let mut failures = 0u32;
        loop {
            match self.registry.edges(&last).await {
                Ok(edges) => {
                    failures = 0;
                    if let Some(id) = edges.last {
                        last = id;
                    }
                    if !edges.edges.is_empty() {
                        self.note_edges(&edges.edges);
                        self.counters
                            .edges
                            .fetch_add(edges.edges.len() as u64, Ordering::Relaxed);
                        self.local.announce(&edges.edges);
                    }
                }
                Err(_) => {
                    self.counters.errors.fetch_add(1, Ordering::Relaxed);
                    failures += 1;
                    let pause = Duration::from_millis(20) * 2u32.pow(failures.min(8));
                    tokio::time::sleep(pause.min(MAX_PAUSE)).await;
                }
            }
        }
    }
}

fn millis(duration: Duration) -> Millis {
    duration.as_millis() as Millis
}

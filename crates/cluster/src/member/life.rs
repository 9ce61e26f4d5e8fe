//! A member's life: one incarnation after the other, each to its end.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use hashbrown::HashSet;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::incarnation::{End, Incarnation, Pending};
use super::{Local, MAX_PAUSE, MAX_PER_OPERATION, Member, Request, Requests, millis, pause_after};
use crate::registry::{
    Entry, Joined, Maintained, Millis, NodeState, Registry, TypedUser, Unavailable, UserName,
};

/// Entries swept, and verdicts worked off, in one operation.
const MAX_MAINTAINED_PER_OPERATION: u32 = 200;
/// Users compared with the registry at each renewal.
const USERS_PER_AUDIT: usize = 16;
/// How much later each further node maintains what is due: almost always the first has
/// done it then.
const MAINTENANCE_STAGGER: Duration = Duration::from_millis(50);
/// How many nodes are told apart by that.
const MAX_STAGGERED: u32 = 10;

impl<R: Registry, L: Local> Member<R, L> {
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
                Ok(mut incarnation) => {
                    if failures > 0 {
                        tracing::info!("this node is one of its cluster again");
                    }
                    let begun = Instant::now();
                    self.away.store(false, Ordering::Relaxed);
                    let end = self.go_on(&mut incarnation, requests).await;
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
                    self.say_why_fenced().await;
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
            let pause = pause_after(failures);
            if self.wait_alone(requests, pause).await {
                return;
            }
        }
    }

    /// Logs why the lease is over: the node was away for too long, or another process has
    /// taken its name.
    async fn say_why_fenced(&self) {
        let nodes = self.patiently(self.registry.nodes()).await;
        let is_twin = |node: &NodeState| {
            node.info.node_id == self.info.node_id
                && node.info.tag != self.info.tag
                && node.lease > 0
        };
        match nodes.unwrap_or_default().iter().find(|node| is_twin(node)) {
            Some(twin) => tracing::error!(
                node_id = %self.info.node_id,
                address = %self.info.address,
                other = %twin.info.address,
                "this node's lease was over, since another live node has the same server.node_id \
                 and took this one for its own past; give each node an id of its own"
            ),
            None => tracing::warn!("this node's lease was over; its sockets register again"),
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
    async fn begin(&self, epoch: &mut Option<Arc<str>>) -> Result<Incarnation, Unavailable> {
        let asked = Instant::now();
        let ttl = millis(self.timing.ttl);
        let joined: Joined = self
            .registry
            .join(&self.info, ttl, epoch.as_deref())
            .await?;
        self.counters.joins.fetch_add(1, Ordering::Relaxed);
        // From here on, what was answered under the last incarnation is in doubt; and
        // only then is looked who is there.
        self.settled.store(false, Ordering::Relaxed);
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
        state.rooms_changed.clear();
        // Who has arrived is there.
        state.arrivals.clear();
        let mut here: BTreeSet<TypedUser> = self.local.users().into_iter().collect();
        if forgot {
            state.believe_announced(&here, &doubtful);
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
        Ok(Incarnation {
            name: joined.incarnation,
            renew_at: asked + self.timing.refresh,
            maintain_at: None,
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
        incarnation: &mut Incarnation,
        requests: &mut mpsc::UnboundedReceiver<Request>,
    ) -> Result<(), End> {
        let mut newcomers: Vec<Request> = Vec::new();
        // Later on, users are said again one by one.
        let mut is_restored = false;
        // To learn what is due.
        self.renew(incarnation).await?;
        loop {
            self.do_what_is_due(incarnation).await?;
            is_restored |= incarnation.restore.is_empty();
            let is_held = self
                .state()
                .hold_until
                .is_some_and(|at| at > Instant::now());
            self.settled
                .store(is_restored && !is_held, Ordering::Relaxed);
            take_newcomers(requests, &mut newcomers);
            if self.tell(incarnation, &mut newcomers).await? {
                continue;
            }
            if self.state().leaving {
                return self.give_back(incarnation).await;
            }
            let next = incarnation.next_deadline();
            tokio::select! {
                biased;
                () = tokio::time::sleep_until(next) => {}
                () = self.work.notified() => {}
                Some(request) = requests.recv() => newcomers.push(request),
            }
        }
    }

    /// Renews the lease and maintains the registry, if it is time or was asked for.
    async fn do_what_is_due(&self, incarnation: &mut Incarnation) -> Result<(), End> {
        let now = Instant::now();
        let nudged = std::mem::take(&mut self.state().nudged);
        if nudged || now >= incarnation.renew_at {
            self.renew(incarnation).await?;
            if !nudged {
                self.audit(incarnation).await?;
            }
        }
        if incarnation.maintain_at.is_some_and(|at| now >= at) {
            self.maintain(incarnation).await?;
        }
        Ok(())
    }

    /// Tells the registry some of what it does not know. False: there was nothing.
    async fn tell(
        &self,
        incarnation: &mut Incarnation,
        newcomers: &mut Vec<Request>,
    ) -> Result<bool, End> {
        let anybody_new = !newcomers.is_empty();
        if anybody_new {
            self.register(incarnation, newcomers).await?;
        }
        // The registry has to know of users who were online before it lost its memory,
        // before it can be told that they went.
        let arrived = self.tell_arrivals(incarnation).await?;
        let told = self.restore(incarnation).await? || self.tell_departures(incarnation).await?;
        Ok(told || arrived || anybody_new)
    }

    /// Ends an incarnation of which everything is told.
    async fn give_back(&self, incarnation: &mut Incarnation) -> Result<(), End> {
        self.registry_retire(std::slice::from_ref(&incarnation.name))
            .await?;
        self.maintain(incarnation).await
    }

    async fn renew(&self, incarnation: &mut Incarnation) -> Result<(), End> {
        let asked = Instant::now();
        let done = std::mem::take(&mut incarnation.done);
        let renewed = self
            .patiently(
                self.registry
                    .renew(&incarnation.name, millis(self.timing.ttl), &done),
            )
            .await??;
        let mut state = self.state();
        state.valid_until = Some(asked + self.timing.ttl);
        let hold = Duration::from_millis(renewed.hold);
        state.hold_until = (!hold.is_zero()).then(|| Instant::now() + hold);
        drop(state);
        incarnation.renew_at = asked + self.timing.refresh;
        incarnation.rank = renewed.rank;
        self.schedule(incarnation, renewed.next_due);
        for displaced in renewed.displaced {
            self.local.replace(&displaced);
            incarnation.done.push(displaced.socket);
        }
        Ok(())
    }

    fn schedule(&self, incarnation: &mut Incarnation, due: Option<Millis>) {
        incarnation.maintain_at = due.map(|due| {
            let stagger = MAINTENANCE_STAGGER * incarnation.rank.min(MAX_STAGGERED);
            Instant::now() + Duration::from_millis(due) + stagger
        });
    }

    async fn maintain(&self, incarnation: &mut Incarnation) -> Result<(), End> {
        let grace = millis(self.timing.grace);
        let Maintained {
            swept,
            ended,
            next_due,
        } = self
            .patiently(self.registry.maintain(
                MAX_MAINTAINED_PER_OPERATION,
                grace,
                millis(self.timing.ttl),
            ))
            .await?;
        self.counters
            .swept
            .fetch_add(u64::from(swept), Ordering::Relaxed);
        for incarnation in ended {
            tracing::info!(%incarnation, "swept what a node left behind");
        }
        self.schedule(incarnation, next_due);
        // What is left over is due now.
        if next_due == Some(0) {
            incarnation.maintain_at = Some(Instant::now());
        }
        Ok(())
    }

    /// Compares a few users with what the registry has of them.
    async fn audit(&self, incarnation: &mut Incarnation) -> Result<(), End> {
        if !incarnation.restore.is_empty() {
            return Ok(());
        }
        let asked = self.local.some_users(USERS_PER_AUDIT);
        let names: Vec<UserName> = asked.iter().map(|who| who.user.clone()).collect();
        let audit = self
            .patiently(
                self.registry
                    .audit(&incarnation.name, &names, USERS_PER_AUDIT as u32),
            )
            .await?;
        for (who, there) in asked.into_iter().zip(audit.asked) {
            let differs = |mut entry: Entry| {
                entry.rooms.sort_unstable();
                let known = there.iter().find(|(socket, _)| *socket == entry.socket);
                known.is_none_or(|(_, rooms)| *rooms != entry.rooms)
            };
            let missing = self.local.entries(&who).into_iter().any(differs);
            // A user whose rooms have changed is said again in a moment.
            if missing && !self.state().rooms_changed.contains(&who) {
                self.counters.repairs.fetch_add(1, Ordering::Relaxed);
                incarnation.restore.push_back(Pending { who, doubt: None });
            }
        }
        let mut suspects = HashSet::new();
        for (socket, who) in audit.sample {
            if self.local.has(&who, &socket) {
                continue;
            }
            // Seen twice: it is not just being admitted.
            if incarnation.suspects.contains(&socket) {
                self.counters.repairs.fetch_add(1, Ordering::Relaxed);
                self.disconnect(who, socket, Duration::ZERO);
            } else {
                suspects.insert(socket);
            }
        }
        incarnation.suspects = suspects;
        Ok(())
    }
}

/// Takes what fits into one operation; nobody waits any more for some.
fn take_newcomers(requests: &mut mpsc::UnboundedReceiver<Request>, newcomers: &mut Vec<Request>) {
    newcomers.retain(|request| !request.reply.is_closed());
    while newcomers.len() < MAX_PER_OPERATION {
        match requests.try_recv() {
            Ok(request) => newcomers.push(request),
            Err(_) => break,
        }
    }
}

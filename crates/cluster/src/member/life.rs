//! A member's life: one incarnation after the other, each to its end.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use heartline_wire::reason::Reason;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::comparison::Comparison;
use super::edges::Place;
use super::incarnation::{End, Incarnation, Why};
use super::pace::Pace;
use super::{Local, MAX_PAUSE, Member, Request, Requests, millis, pause_after, within};
use crate::registry::{
    Fenced, Guarded, Joined, Maintained, Millis, NodeState, Registry, Renewed, Stranger, Turn,
    TypedUser, Unavailable,
};

/// Entries swept, and verdicts worked off, in one operation.
const MAX_MAINTAINED_PER_OPERATION: u32 = 200;
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
            let fenced = match self.begin(&mut epoch, requests).await {
                Ok(mut incarnation) => {
                    if failures > 0 {
                        tracing::info!("this node is one of its cluster again");
                    }
                    let begun = Instant::now();
                    self.away.store(false, Ordering::Relaxed);
                    let end = self.go_on(&mut incarnation).await;
                    self.give_up_on_answers(&mut incarnation);
                    // A short life is one more failure: it costs a pause, and no
                    // further line in the log.
                    if begun.elapsed() > MAX_PAUSE {
                        failures = 0;
                    }
                    match end {
                        Ok(()) | Err(End::Left) => return,
                        Err(End::Fenced) => true,
                    }
                }
                Err(error) => {
                    self.be_alone(failures, &error);
                    false
                }
            };
            failures += 1;
            if fenced && failures == 1 {
                self.say_why_fenced().await;
                continue;
            }
            let pause = self.about(pause_after(failures));
            if self.wait_alone(requests, pause).await {
                return;
            }
        }
    }

    /// The store does not answer.
    fn be_alone(&self, failures: u32, error: &Unavailable) {
        self.away.store(true, Ordering::Relaxed);
        if failures == 0 {
            tracing::error!(%error, "presence and rooms are this node's own until it is back");
        }
    }

    /// Whether this node may join: not if a node lives that does not understand it, or the other
    /// way round.
    fn admitted(&self, answer: Result<Joined, Stranger>) -> Result<Joined, Unavailable> {
        let stranger = match answer {
            Ok(joined) => {
                self.state().refused = None;
                self.note_version(joined.version);
                return Ok(joined);
            }
            Err(stranger) => stranger,
        };
        let (own, theirs) = (self.info.proto, stranger.versions);
        let what = format!(
            "this build speaks the cluster's protocol in versions {} to {}, and node {}, which lives, \
             in {} to {}: run a build that has one in common with both on all nodes first, or stop \
             that node",
            own.min, own.max, stranger.node_id, theirs.min, theirs.max
        );
        self.state().refused = Some(what.as_str().into());
        Err(Unavailable(what))
    }

    fn note_version(&self, version: u32) {
        let before = self.version.swap(version, Ordering::Relaxed);
        if before != 0 && before != version {
            tracing::info!(
                version,
                "all nodes of the cluster speak another version now"
            );
        }
    }

    /// What the registry could not read or do for one user is told, when there is more of it.
    fn note_set_aside(&self, count: u64) {
        let before = self.counters.set_aside.swap(count, Ordering::Relaxed);
        if count > before {
            tracing::error!(
                more = count - before,
                "records of the cluster cannot be read, or not changed; they are left out, and the \
                 last of them are in the hash PREFIX:aside"
            );
        }
    }

    fn rev(&self) -> u64 {
        self.rev.load(Ordering::Relaxed)
    }

    /// The next operation with a number.
    pub(super) fn next_turn<'a>(&self, incarnation: &'a str) -> Turn<'a> {
        Turn {
            incarnation,
            number: self.number.fetch_add(1, Ordering::Relaxed) + 1,
        }
    }

    /// Says the same until it is answered: what was done already is not done again.
    pub(super) async fn insist<T, F: Future<Output = Guarded<T>>>(
        &self,
        incarnation: &mut Incarnation<'_>,
        operation: impl Fn() -> F,
    ) -> Result<T, End> {
        let (answer, _) = self.repeat(incarnation, operation).await?;
        Ok(answer)
    }

    /// The same; and when that was asked.
    pub(super) async fn repeat<T, F: Future<Output = Guarded<T>>>(
        &self,
        incarnation: &mut Incarnation<'_>,
        operation: impl Fn() -> F,
    ) -> Result<(T, Instant), End> {
        let begun = Instant::now();
        let most = self.timing.patience();
        let (mut attempts, mut late, mut failures) = (0u32, 0u32, 0u32);
        loop {
            let asked = Instant::now();
            let patience = incarnation.pace.patience(late, most);
            match within(patience, operation()).await {
                Ok(answer) => {
                    incarnation.pace.answered(asked.elapsed());
                    if self.away.swap(false, Ordering::Relaxed) {
                        tracing::info!("this node is one of its cluster again");
                    }
                    let answer = answer.map_err(|Fenced| End::Fenced)?;
                    return Ok((answer, asked));
                }
                Err(error) => {
                    attempts += 1;
                    // It may be another store by now: that is to be known before it is told anything.
                    incarnation.renew_at = Instant::now();
                    incarnation.pace.shrink();
                    self.counters.errors.fetch_add(1, Ordering::Relaxed);
                    // An answer that is late is no sign yet that there is nobody.
                    let was_refused = asked.elapsed() < patience;
                    late += u32::from(!was_refused);
                    if was_refused || begun.elapsed() >= most {
                        self.be_alone(failures, &error);
                        failures += 1;
                        self.give_up_on_answers(incarnation);
                    }
                }
            }
            let pause = self.about(pause_after(attempts));
            if self.wait_alone_if_away(incarnation, pause).await {
                return Err(End::Left);
            }
            if Instant::now() >= incarnation.renew_at
                && let Ok(Err(Fenced)) = self.renew_once(incarnation, patience).await
            {
                return Err(End::Fenced);
            }
        }
    }

    /// A pause in which nobody is kept waiting, if the store is away. True: leave.
    async fn wait_alone_if_away(&self, incarnation: &mut Incarnation<'_>, pause: Duration) -> bool {
        if self.away.load(Ordering::Relaxed) {
            return self.wait_alone(incarnation.requests, pause).await;
        }
        tokio::time::sleep(pause).await;
        false
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
    async fn begin<'a>(
        &self,
        epoch: &mut Option<Arc<str>>,
        requests: &'a mut mpsc::UnboundedReceiver<Request>,
    ) -> Result<Incarnation<'a>, Unavailable> {
        let asked = Instant::now();
        let ttl = millis(self.timing.ttl);
        let living = self.living.load(Ordering::Relaxed);
        let joining = self
            .registry
            .join(&self.info, ttl, epoch.as_deref(), living, self.rev());
        let joined = self.admitted(self.patiently(joining).await?)?;
        self.counters.joins.fetch_add(1, Ordering::Relaxed);
        // From here on, what was answered under the last incarnation is in doubt; and
        // only then is looked who is there.
        self.settled.store(false, Ordering::Relaxed);
        self.generation.fetch_add(1, Ordering::SeqCst);
        let is_first = epoch.is_none();
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
        if is_first || forgot {
            state.read_from = Some(Place {
                id: joined.last_edge,
                number: joined.edge_number,
                devices: 0,
                is_read: true,
                begun_after: forgot.then_some(joined.begun_after),
                began_again: false,
                at: asked,
            });
        }
        let here = self.local.users().into_iter().collect();
        let restore = state.say_again(here, forgot);
        drop(state);
        self.joined.notify_one();
        Ok(Incarnation {
            name: joined.incarnation,
            renew_at: asked + self.timing.refresh,
            maintain_at: None,
            swept: 0,
            rank: 0,
            restored: false,
            restore,
            done: Vec::new(),
            hold: None,
            compared_for: None,
            complete: None,
            comparison: Comparison::new(asked + self.timing.refresh),
            pace: Pace::default(),
            requests,
            newcomers: Vec::new(),
            asking: Vec::new(),
        })
    }

    /// One incarnation, to its end.
    async fn go_on(&self, incarnation: &mut Incarnation<'_>) -> Result<(), End> {
        // To learn what is due.
        self.renew(incarnation).await?;
        if incarnation.hold.is_none() {
            self.be_late(incarnation);
        }
        loop {
            self.do_what_is_due(incarnation).await?;
            let is_settled = incarnation.is_settled();
            if !self.settled.swap(is_settled, Ordering::Relaxed) && is_settled {
                self.state().settled_at = Some(Instant::now());
            }
            incarnation.take_newcomers();
            if self.tell(incarnation).await? || self.completes(incarnation) {
                continue;
            }
            if self.state().leaving {
                self.give_back(incarnation).await;
                return Ok(());
            }
            let next = incarnation.next_deadline();
            tokio::select! {
                biased;
                () = tokio::time::sleep_until(next) => {}
                () = self.work.notified() => {}
                Some(request) = incarnation.requests.recv() => incarnation.newcomers.push(request),
            }
        }
    }

    /// Nobody has waited for this node. If memory was lost, that is long ago, and what was told just
    /// before is forgotten everywhere: who has gone is told as if everybody had read that it came.
    fn be_late(&self, incarnation: &mut Incarnation<'_>) {
        let mut state = self.state();
        let state = &mut *state;
        let retold = std::mem::take(&mut state.retold).into_iter();
        let (here, gone): (BTreeSet<_>, BTreeSet<_>) =
            retold.partition(|who| !self.local.entries(who).is_empty());
        state.retold = here;
        for who in gone {
            incarnation.restore.push(who.clone(), Why::default());
            state.believed.insert(who);
        }
    }

    /// In a hold, everything is compared as soon as everything was told; and when that is
    /// done, the others are not to wait for this node any more. False: nothing is to be done
    /// for that now.
    fn completes(&self, incarnation: &mut Incarnation<'_>) -> bool {
        let Some(hold) = incarnation.hold else {
            return false;
        };
        let now = Instant::now();
        if incarnation.compared_for != Some(hold) {
            incarnation.compared_for = Some(hold);
            incarnation.comparison.begin_urgently(now);
            return true;
        }
        if incarnation.complete == Some(hold) || !incarnation.comparison.is_done() {
            return false;
        }
        incarnation.complete = Some(hold);
        incarnation.renew_at = now;
        true
    }

    /// Renews the lease, maintains the registry and compares, if it is time or was asked for.
    async fn do_what_is_due(&self, incarnation: &mut Incarnation<'_>) -> Result<(), End> {
        let nudged = std::mem::take(&mut self.state().nudged);
        if nudged || Instant::now() >= incarnation.renew_at {
            self.renew(incarnation).await?;
        }
        self.compare(incarnation).await?;
        let now = Instant::now();
        if std::mem::take(&mut self.state().somebody_died) {
            incarnation.maintain_at = Some(now);
        }
        if incarnation.maintain_at.is_some_and(|at| now >= at) {
            self.maintain(incarnation).await?;
        }
        Ok(())
    }

    /// Tells the registry some of what it does not know. False: there was nothing.
    async fn tell(&self, incarnation: &mut Incarnation<'_>) -> Result<bool, End> {
        let anybody_new = !incarnation.newcomers.is_empty();
        if anybody_new {
            self.register(incarnation).await?;
        }
        // Each in every turn: whatever there is much of, the others are told nevertheless.
        let arrived = self.tell_arrivals(incarnation).await?;
        let restored = self.restore(incarnation).await?;
        let departed = self.tell_departures(incarnation).await?;
        Ok(anybody_new || arrived || restored || departed)
    }

    /// Ends an incarnation of which everything is told. If that fails, the lease ends by itself.
    async fn give_back(&self, incarnation: &mut Incarnation<'_>) {
        let retired = self
            .patiently(
                self.registry
                    .retire(std::slice::from_ref(&incarnation.name)),
            )
            .await;
        if retired.is_ok() {
            let _ = self.patiently(self.maintain_once()).await;
        }
    }

    async fn renew(&self, incarnation: &mut Incarnation<'_>) -> Result<(), End> {
        let (name, ttl) = (incarnation.name.clone(), millis(self.timing.ttl));
        let (done, complete) = (incarnation.done.clone(), incarnation.complete);
        let (renewed, asked) = self
            .repeat(incarnation, || {
                self.registry.renew(&name, ttl, &done, complete, self.rev())
            })
            .await?;
        self.renewed(incarnation, asked, renewed);
        Ok(())
    }

    /// Renews the lease while something else is in doubt.
    async fn renew_once(
        &self,
        incarnation: &mut Incarnation<'_>,
        patience: Duration,
    ) -> Guarded<()> {
        let asked = Instant::now();
        let ttl = millis(self.timing.ttl);
        let renewing = self.registry.renew(
            &incarnation.name,
            ttl,
            &incarnation.done,
            incarnation.complete,
            self.rev(),
        );
        let renewed = within(patience, renewing).await?;
        Ok(renewed.map(|renewed| self.renewed(incarnation, asked, renewed)))
    }

    fn renewed(&self, incarnation: &mut Incarnation<'_>, asked: Instant, renewed: Renewed) {
        self.state().valid_until = Some(asked + self.timing.ttl);
        self.living.store(renewed.living, Ordering::Relaxed);
        self.members.store(renewed.members, Ordering::Relaxed);
        self.note_version(renewed.version);
        self.note_set_aside(renewed.set_aside);
        // Who is waited for in a hold may be complete at any moment.
        let pause = match renewed.hold {
            Some(_) => self.timing.second_look(),
            None => self.timing.refresh,
        };
        incarnation.renew_at = asked + self.about(pause);
        incarnation.rank = renewed.rank;
        incarnation.hold = renewed.hold;
        if let Some(hold) = renewed.hold
            && self.hold.swap(hold, Ordering::Relaxed) != hold
        {
            self.doubt_unread(incarnation);
        }
        // A renewal shows whether the store is the same, with all that it knew.
        self.state().unread.be_sure(asked);
        self.schedule(incarnation, renewed.next_due);
        incarnation.done.clear();
        for displaced in renewed.displaced {
            self.local.replace(&displaced);
            incarnation.done.push(displaced.socket);
        }
    }

    /// There is a hold: the store may have an old memory, without what happened just before. Who came
    /// then is announced once more if it does not know it; who went, if it knows nothing of the user;
    /// and all nodes are told again what these users are.
    fn doubt_unread(&self, incarnation: &mut Incarnation<'_>) {
        let mut state = self.state();
        let unread = state.unread.take();
        let is_new = |who: &TypedUser| unread.get(who) == Some(&false);
        state.departures.void(is_new);
        for (who, was_online) in unread {
            state.retell(&who);
            let why = Why {
                mended: was_online,
                ..Why::default()
            };
            incarnation.restore.push(who, why);
        }
    }

    fn schedule(&self, incarnation: &mut Incarnation<'_>, due: Option<Millis>) {
        incarnation.maintain_at = due.map(|due| {
            let stagger = MAINTENANCE_STAGGER * incarnation.rank.min(MAX_STAGGERED);
            Instant::now() + Duration::from_millis(due) + stagger
        });
    }

    async fn maintain(&self, incarnation: &mut Incarnation<'_>) -> Result<(), End> {
        let (maintained, _) = self
            .repeat(incarnation, || async { self.maintain_once().await.map(Ok) })
            .await?;
        let Maintained {
            swept,
            ended,
            next_due,
        } = maintained;
        self.counters
            .swept
            .fetch_add(u64::from(swept), Ordering::Relaxed);
        incarnation.swept = incarnation.swept.saturating_add(swept);
        for lost in ended {
            let sockets = std::mem::take(&mut incarnation.swept);
            let reason = Reason::NodeLost;
            tracing::info!(incarnation = %lost, %reason, sockets, "swept what a node left behind");
        }
        self.schedule(incarnation, next_due);
        // What is left over is due now.
        if next_due == Some(0) {
            incarnation.maintain_at = Some(Instant::now());
        }
        Ok(())
    }

    async fn maintain_once(&self) -> Result<Maintained, Unavailable> {
        let (grace, ttl) = (millis(self.timing.grace), millis(self.timing.ttl));
        self.registry
            .maintain(MAX_MAINTAINED_PER_OPERATION, grace, ttl)
            .await
    }
}

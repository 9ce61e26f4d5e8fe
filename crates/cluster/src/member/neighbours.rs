//! A member's neighbours: asked again and again whether they live, and given up with the registry's
//! consent.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use heartline_core::backplane::Probed;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::{Local, Member, millis};
use crate::probes::{Probes, Rhythm, neighbours};
use crate::registry::{NodeInfo, NodeState, Registry, Suspicion, Verdict};

/// Between two questions who the neighbours are.
const BETWEEN_QUESTIONS: Duration = Duration::from_secs(1);
/// For how long this is asked again and again by a node that has joined: of those that join
/// beside it, it may not hear yet.
const JOINING: Duration = Duration::from_secs(3);

/// Asks another node whether it lives.
pub trait Prober: Clone + Send + Sync + 'static {
    /// What came of it; `secret` is what nodes show each other.
    fn probe(
        &self,
        node: NodeInfo,
        secret: Arc<str>,
    ) -> impl Future<Output = Probed> + Send + 'static;
}

/// What was waited for, and has come.
enum Done {
    Nodes(u64, Option<Vec<NodeState>>),
    Probed(Arc<str>, u64, Probed),
    /// `None`: the store could not be asked, or this node has no incarnation of its own.
    Said(Arc<str>, Option<Verdict>),
}

/// The neighbours as they are known.
struct Neighbours {
    all: Vec<NodeState>,
    /// For which number of the members, and which incarnation of this node.
    known_for: Option<(u64, Arc<str>)>,
    /// This node's incarnation, and since when.
    own: Option<(Arc<str>, Instant)>,
    asked_at: Option<Instant>,
    is_asking: bool,
}

impl<R: Registry, L: Local> Member<R, L> {
    /// Watches over this node's neighbours for as long as it is polled; at once over, where that
    /// is not wanted.
    pub async fn watch_neighbours(self: Arc<Self>, prober: impl Prober) {
        let Some(rhythm) = self.timing.failure.map(Rhythm::new) else {
            return;
        };
        let mut probes = Probes::new(rhythm);
        let mut neighbours = Neighbours {
            all: Vec::new(),
            known_for: None,
            own: None,
            asked_at: None,
            is_asking: false,
        };
        let mut doing = JoinSet::new();
        loop {
            self.ask_for_neighbours(&mut neighbours, &mut doing);
            self.do_turn(&mut probes, rhythm, (&neighbours, &prober), &mut doing);
            let due = probes.due(Instant::now());
            tokio::select! {
                () = tokio::time::sleep_until(due) => {}
                Some(Ok(done)) = doing.join_next(), if !doing.is_empty() => {
                    self.take_in(done, &mut neighbours, &mut probes);
                }
            }
        }
    }

    /// Asks who the neighbours are, if they may be others than before.
    fn ask_for_neighbours(self: &Arc<Self>, known: &mut Neighbours, doing: &mut JoinSet<Done>) {
        let now = Instant::now();
        let is_early = known
            .asked_at
            .is_some_and(|asked| now < asked + BETWEEN_QUESTIONS);
        let Some(own) = self.incarnation() else {
            return;
        };
        let own_before = known.own.as_ref().filter(|(before, _)| *before == own);
        let since = own_before.map_or(now, |(_, since)| *since);
        known.own = Some((own.clone(), since));
        let members = self.members.load(Ordering::Relaxed);
        let is_known =
            known.known_for.as_ref() == Some(&(members, own.clone())) && now >= since + JOINING;
        if is_known || known.is_asking || is_early || self.away.load(Ordering::Relaxed) {
            return;
        }
        known.asked_at = Some(now);
        known.is_asking = true;
        known.known_for = Some((members, own));
        let member = self.clone();
        doing.spawn(async move { Done::Nodes(members, member.nodes().await.ok()) });
    }

    /// Asks those whose turn it is, and says who is suspected.
    fn do_turn<P: Prober>(
        self: &Arc<Self>,
        probes: &mut Probes,
        rhythm: Rhythm,
        (neighbours, prober): (&Neighbours, &P),
        doing: &mut JoinSet<Done>,
    ) {
        let now = Instant::now();
        // Whoever has only just begun has not failed to reach it.
        let has_failed = self.counters.errors.load(Ordering::Relaxed) > 0;
        if self.away.load(Ordering::Relaxed) && has_failed {
            probes.store_failed(now);
        }
        let turn = probes.turn(now);
        let secret = self.secret();
        for (name, number) in turn.ask {
            let known = neighbours.all.iter().find(|one| one.incarnation == name);
            if let (Some(node), Some(secret)) = (known, secret.clone()) {
                let asked = prober.probe(node.info.clone(), secret);
                doing.spawn(async move {
                    let answer = tokio::time::timeout(rhythm.patience(), asked).await;
                    Done::Probed(name, number, answer.unwrap_or(Probed::Failed))
                });
            }
        }
        for (whom, again) in turn.suspect {
            let (member, window) = (self.clone(), millis(rhythm.window()));
            doing.spawn(async move {
                let verdict = member.suspect(&whom, again, window).await;
                Done::Said(whom, verdict)
            });
        }
    }

    async fn suspect(&self, whom: &str, again: bool, window: u64) -> Option<Verdict> {
        let own = self.incarnation()?;
        let suspicion = Suspicion {
            whom,
            again,
            window,
        };
        self.patiently(self.registry.suspect(&own, suspicion))
            .await
            .ok()?
            .ok()
    }

    fn take_in(&self, done: Done, known: &mut Neighbours, probes: &mut Probes) {
        let now = Instant::now();
        match done {
            Done::Nodes(members, Some(nodes)) => {
                known.is_asking = false;
                let own = self.incarnation().unwrap_or_default();
                let names = names_of(nodes.iter(), &own);
                known.all = nodes;
                known.known_for = Some((members, own));
                probes.ask_only(&names, now);
            }
            Done::Nodes(_, None) => {
                known.is_asking = false;
                known.known_for = None;
            }
            Done::Probed(name, number, probed) => probes.probed(&name, number, probed, now),
            Done::Said(name, Some(verdict @ (Verdict::Ends | Verdict::Dead))) => {
                probes.died(&name);
                known.known_for = None;
                if verdict == Verdict::Ends {
                    let node = known.all.iter().find(|one| one.incarnation == name);
                    let node = node.map_or(&*name, |node| &*node.info.node_id);
                    tracing::warn!(node, "a node is gone: it is not reached and not heard of");
                    self.counters.given_up.fetch_add(1, Ordering::Relaxed);
                }
                self.state().somebody_died = true;
                self.work.notify_one();
            }
            Done::Said(_, Some(Verdict::Open)) => {}
            Done::Said(name, Some(Verdict::Refuted)) => probes.refuted(&name, now),
            Done::Said(_, None) => probes.store_failed(now),
        }
    }
}

/// Whom this node asks: of each process its last incarnation counts.
fn names_of<'a>(nodes: impl Iterator<Item = &'a NodeState>, own: &str) -> Vec<Arc<str>> {
    let mut living: Vec<&NodeState> = nodes
        .filter(|node| node.lease > 0 && node.info.probed && !node.info.address.is_empty())
        .collect();
    living.sort_by_key(|node| (node.info.process(), -node.lease));
    living.dedup_by_key(|node| node.info.process());
    let names: Vec<Arc<str>> = living.iter().map(|node| node.incarnation.clone()).collect();
    neighbours(&names, own)
}

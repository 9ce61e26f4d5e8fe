//! Changes of presence in the whole cluster, as the registry's stream has them.

use std::sync::atomic::Ordering;

use super::{Local, Member, PendingDeparture, pause_after};
use crate::registry::{Edge, Registry};

impl<R: Registry, L: Local> Member<R, L> {
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
            let departs = |pending: &PendingDeparture| pending.departure.who == *who;
            let mut departures = state.departures.iter().chain(&state.telling);
            if departures.any(departs) || !self.local.entries(who).is_empty() {
                state.offline.insert(who.clone());
            }
        }
    }

    /// Reads the stream of edges, from the first join on.
    pub(super) async fn follow_edges(&self) {
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
                    self.hears.store(true, Ordering::Relaxed);
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
                    self.hears.store(false, Ordering::Relaxed);
                    tokio::time::sleep(pause_after(failures)).await;
                }
            }
        }
    }
}

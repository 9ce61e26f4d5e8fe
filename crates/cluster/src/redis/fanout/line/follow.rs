//! What this node follows: the ends of places, which come at their place among the events.

use std::collections::VecDeque;
use std::sync::atomic::Ordering;

use hashbrown::HashMap;
use heartline_core::auth::BoxFuture;
use heartline_core::backplane::line::Scope;
use serde_json::json;
use tokio::sync::oneshot;

use super::{Line, PATIENCE};
use crate::locked::locked;

/// Scopes whose ends are asked for in one call: each may have as much as is kept of a room. The
/// script ends a call sooner that has sent much.
const SCOPES_PER_CALL: usize = 16;

/// Scopes of which somebody waits for the end.
#[derive(Default)]
pub(super) struct Wanted {
    scopes: HashMap<Scope, Vec<oneshot::Sender<bool>>>,
    order: VecDeque<Scope>,
}

/// What a request has asked for.
pub(super) struct Asked {
    scopes: Vec<Scope>,
    /// Whether it is asked what was missed.
    of_phase: bool,
    /// Scopes whose ends have come.
    taken_in: usize,
    /// Hears how many have.
    done: oneshot::Sender<usize>,
}

/// Forgets a request that nobody waits for any more.
struct Forgets<'a>(&'a Line, u64);

impl Drop for Forgets<'_> {
    fn drop(&mut self) {
        locked(&self.0.requests).remove(&self.1);
    }
}

impl Line {
    /// Has the end of a scope taken in.
    pub(in super::super) fn follow(&self, scope: Scope) -> BoxFuture<bool> {
        let (done, answer) = oneshot::channel();
        let mut wanted = locked(&self.wanted);
        match wanted.scopes.get_mut(&scope) {
            Some(waiting) => waiting.push(done),
            None => {
                wanted.scopes.insert(scope.clone(), vec![done]);
                wanted.order.push_back(scope);
            }
        }
        drop(wanted);
        self.wish.notify_one();
        Box::pin(async move { answer.await.unwrap_or(false) })
    }

    pub(super) async fn follow_all(&self) {
        loop {
            let mut asked = Vec::new();
            {
                let mut wanted = locked(&self.wanted);
                while asked.len() < SCOPES_PER_CALL
                    && let Some(scope) = wanted.order.pop_front()
                {
                    let waiting = wanted.scopes.remove(&scope).unwrap_or_default();
                    asked.push((scope, waiting));
                }
            }
            if asked.is_empty() {
                self.wish.notified().await;
                continue;
            }
            while !asked.is_empty() {
                let scopes = asked.iter().map(|(scope, _)| scope.clone()).collect();
                let done = self.collect_some(scopes, None).await;
                let has_come = done.is_some();
                for (scope, waiting) in asked.drain(..done.unwrap_or(asked.len())) {
                    if let Some(node) = self.node().filter(|_| !has_come) {
                        node.go_without(&scope);
                    }
                    for done in waiting {
                        let _ = done.send(has_come);
                    }
                }
            }
        }
    }

    /// A request for the ends of scopes. When what it asks for has come, it is answered of how many
    /// scopes an end was taken in.
    pub(super) fn begin_request(
        &self,
        scopes: Vec<Scope>,
        of_phase: bool,
    ) -> (u64, oneshot::Receiver<usize>) {
        let request = self.next_request.fetch_add(1, Ordering::Relaxed);
        let (done, answer) = oneshot::channel();
        let asked = Asked {
            scopes,
            of_phase,
            taken_in: 0,
            done,
        };
        locked(&self.requests).insert(request, asked);
        (request, answer)
    }

    /// Asks for the ends of scopes in which something came after a number: of how many of them, from
    /// the first on, they have come. It is at least one, where there is one. `None`: not all came that
    /// were sent.
    async fn collect_some(&self, scopes: Vec<Scope>, after: Option<u64>) -> Option<usize> {
        let count = scopes.len();
        let names: Vec<String> = scopes.iter().map(|scope| self.name(scope)).collect();
        let of_phase = after.is_some();
        let (request, answer) = self.begin_request(scopes, of_phase);
        let _forgets = Forgets(self, request);
        let after = after.unwrap_or(0);
        let arguments = json!({ "request": request, "after": after, "scopes": names });
        let done = match self.ask::<usize>(&self.call("collect", arguments)).await {
            Ok(done) => done,
            Err(error) => {
                self.complain(&error, "what was kept of rooms cannot be read");
                return None;
            }
        };
        let taken_in = tokio::time::timeout(PATIENCE, answer).await.ok()?.ok()?;
        // What was missed waits until all of it is there, and is taken in then.
        let have_come = of_phase || taken_in == done;
        (have_come && done <= count && done >= count.min(1)).then_some(done)
    }

    /// The same of all of them: in how many requests, if all have come. Each waits until what the one
    /// before it asked for has come, so that the store never has more than a part waiting for this
    /// node.
    pub(super) async fn collect(
        &self,
        mut scopes: Vec<Scope>,
        after: Option<u64>,
    ) -> Option<usize> {
        let mut requests = 0;
        loop {
            let done = self.collect_some(scopes.clone(), after).await?;
            requests += 1;
            scopes.drain(..done);
            if scopes.is_empty() {
                return Some(requests);
            }
        }
    }

    /// Asks for the ends of all these scopes: in how many requests, if all were answered.
    pub(in super::super) async fn collect_all(
        &self,
        scopes: Vec<Scope>,
        after: u64,
    ) -> Option<usize> {
        // At least one call: it says how far the line is.
        let mut chunks: Vec<Vec<Scope>> = scopes
            .chunks(SCOPES_PER_CALL * 16)
            .map(<[Scope]>::to_vec)
            .collect();
        if chunks.is_empty() {
            chunks.push(Vec::new());
        }
        let mut requests = 0;
        for chunk in chunks {
            requests += self.collect(chunk, Some(after)).await?;
        }
        Some(requests)
    }

    /// Of what was asked for since it was missed, some has come, and is gone with the rest: all of
    /// it is asked for again.
    pub(in super::super) fn forget_what_was_missed(&self) {
        locked(&self.requests).retain(|_, asked| !asked.of_phase);
    }

    /// The end of a scope of a request was taken in.
    pub(in super::super) fn took_in(&self, request: u64) {
        if let Some(asked) = locked(&self.requests).get_mut(&request) {
            asked.taken_in += 1;
        }
    }

    /// A scope of a request.
    pub(in super::super) fn asked(&self, request: u64, index: usize) -> Option<Scope> {
        let requests = locked(&self.requests);
        requests.get(&request)?.scopes.get(index).cloned()
    }

    /// Whether a request asks for what was missed.
    pub(in super::super) fn is_of_phase(&self, request: u64) -> bool {
        let requests = locked(&self.requests);
        requests.get(&request).is_some_and(|asked| asked.of_phase)
    }

    /// All of a request has come, or was lost on its way.
    pub(in super::super) fn came(&self, request: u64) {
        if let Some(asked) = locked(&self.requests).remove(&request) {
            let _ = asked.done.send(asked.taken_in);
        }
    }
}

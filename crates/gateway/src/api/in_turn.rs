//! Nodes that are asked one after the other, as each is asked for what is left of a page. Those
//! that do not answer are waited for once, all together.

use std::time::Duration;

use hashbrown::HashMap;
use heartline_core::backplane::Peer;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::gateway::Gateway;
use crate::peers::{ANSWER_TIMEOUT, Asked, Silent};

/// How long a node may take to answer before those after it are asked whether they live. One that
/// is well has answered by then.
const HESITATION: Duration = Duration::from_millis(250);
/// For how long, once all patience with those that hesitate is used up, the others are still asked.
const REST: Duration = Duration::from_secs(1);

/// Asks nodes in their order.
pub(super) struct InTurn<'a> {
    gateway: &'a Gateway,
    /// Whether nodes live that are asked later, by their tags; `None`: nobody has looked, as all
    /// have answered at once so far.
    calls: Option<JoinSet<(u32, bool)>>,
    found: HashMap<u32, bool>,
    /// Until when those that hesitate are waited for, all of them; known when one does.
    deadline: Option<Instant>,
}

impl<'a> InTurn<'a> {
    pub(super) fn new(gateway: &'a Gateway) -> InTurn<'a> {
        InTurn {
            gateway,
            calls: None,
            found: HashMap::new(),
            deadline: None,
        }
    }

    /// Asks a node. When it hesitates, those `after` it are asked whether they live, all at once
    /// and of nothing else: whoever does not answer that in time is silent when its turn comes. All
    /// that hesitate, those among them that live and do not answer the question, are waited for
    /// [`ANSWER_TIMEOUT`] together. After that each has [`HESITATION`], and after [`REST`] nobody is
    /// asked: so long a page takes at most, however many nodes there are.
    ///
    /// # Errors
    /// It does not answer, or is not asked any more.
    pub(super) async fn ask<Q: Asked>(
        &mut self,
        node: &Peer,
        after: &[Peer],
        asked: Q,
    ) -> Result<Q::Answer, Silent> {
        let begun = Instant::now();
        if self.deadline.is_some_and(|until| begun >= until + REST) {
            tracing::warn!(node_id = %node.node_id, "another node is not asked: others were late");
            return Err(Silent);
        }
        let gateway = self.gateway;
        let asking = gateway.ways.peers.ask(node, asked);
        tokio::pin!(asking);
        let deadline = match self.deadline {
            Some(deadline) => deadline,
            None => {
                if let Ok(answer) = tokio::time::timeout(HESITATION, &mut asking).await {
                    return answer;
                }
                self.call(after);
                *self.deadline.insert(begun + ANSWER_TIMEOUT)
            }
        };
        let answered = async {
            tokio::select! {
                biased;
                answer = &mut asking => return answer,
                lives = self.lives(node.tag) => if !lives {
                    return Err(Silent);
                },
            }
            asking.await
        };
        let until = deadline.max(begun + HESITATION);
        let answered = tokio::time::timeout_at(until, answered).await;
        answered.unwrap_or(Err(Silent)).inspect_err(|Silent| {
            tracing::warn!(node_id = %node.node_id, "another node is silent");
        })
    }

    fn call(&mut self, nodes: &[Peer]) {
        let deadline = Instant::now() + ANSWER_TIMEOUT.saturating_sub(HESITATION);
        let mut calls = JoinSet::new();
        for node in nodes.iter().cloned() {
            let peers = self.gateway.ways.peers.clone();
            calls.spawn(async move {
                let probed = tokio::time::timeout_at(deadline, peers.probe(&node)).await;
                // Where nobody listens, or a connection fails, the question finds that out itself,
                // or is answered on another one.
                (node.tag, probed.is_ok())
            });
        }
        self.calls = Some(calls);
    }

    /// False: a node has been silent for too long. One that was not asked has not.
    async fn lives(&mut self, tag: u32) -> bool {
        while !self.found.contains_key(&tag)
            && let Some(calls) = &mut self.calls
            && let Some(found) = calls.join_next().await
        {
            self.found.extend(found.ok());
        }
        self.found.get(&tag).copied().unwrap_or(true)
    }
}

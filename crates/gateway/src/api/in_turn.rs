//! Nodes that are asked one after the other, as each is asked for what is left of a page. Those
//! that do not answer are waited for once, all together.

use std::time::Duration;

use hashbrown::HashMap;
use heartline_core::backplane::{Peer, Probed};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::gateway::Gateway;
use crate::peers::{ANSWER_TIMEOUT, Asked, Silent};

/// How long a node may take to answer before those after it are asked whether they live. One that
/// is well has answered by then.
const HESITATION: Duration = Duration::from_millis(250);

/// Asks nodes in their order.
pub(super) struct InTurn<'a> {
    gateway: &'a Gateway,
    /// Whether nodes live that are asked later, by their tags; `None`: nobody has looked, as all
    /// have answered at once so far.
    calls: Option<JoinSet<(u32, bool)>>,
    found: HashMap<u32, bool>,
}

impl<'a> InTurn<'a> {
    pub(super) fn new(gateway: &'a Gateway) -> InTurn<'a> {
        InTurn {
            gateway,
            calls: None,
            found: HashMap::new(),
        }
    }

    /// Asks a node. When it hesitates, those `after` it are asked whether they live, all at once
    /// and of nothing else: whoever does not answer that within [`ANSWER_TIMEOUT`] is silent when
    /// its turn comes. So silent nodes cost that time once, however many there are, but for those
    /// that stop in between.
    ///
    /// # Errors
    /// It does not answer.
    pub(super) async fn ask<Q: Asked>(
        &mut self,
        node: &Peer,
        after: &[Peer],
        asked: Q,
    ) -> Result<Q::Answer, Silent> {
        let gateway = self.gateway;
        let asking = gateway.ways.peers.ask(node, asked);
        tokio::pin!(asking);
        if self.calls.is_none() {
            if let Ok(answer) = tokio::time::timeout(HESITATION, &mut asking).await {
                return answer;
            }
            self.call(after);
        }
        tokio::select! {
            answer = &mut asking => return answer,
            lives = self.lives(node.tag) => if !lives {
                tracing::warn!(node_id = %node.node_id, "another node is silent");
                return Err(Silent);
            },
        }
        asking.await
    }

    fn call(&mut self, nodes: &[Peer]) {
        let deadline = Instant::now() + ANSWER_TIMEOUT.saturating_sub(HESITATION);
        let mut calls = JoinSet::new();
        for node in nodes.iter().cloned() {
            let peers = self.gateway.ways.peers.clone();
            calls.spawn(async move {
                let probed = tokio::time::timeout_at(deadline, peers.probe(&node)).await;
                (node.tag, matches!(probed, Ok(Probed::Answered)))
            });
        }
        self.calls = Some(calls);
    }

    /// Whether a node has said that it lives; one that was not asked does.
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

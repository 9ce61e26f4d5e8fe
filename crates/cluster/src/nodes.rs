//! The other nodes, as the registry knows them.

use std::sync::Arc;
use std::time::Duration;

use heartline_core::backplane::Peer;
use tokio::time::Instant;

use crate::member::{Local, Member};
use crate::registry::{NodeInfo, NodeState, Registry};

/// For how many milliseconds after the end of its lease a node is asked nevertheless: it
/// may only be cut off from the store.
const ASKED_AFTER_LEASE: i64 = 60_000;
/// For how long the last answer of the registry is good enough for a question that wants
/// a new one.
const NEWEST_FOR: Duration = Duration::from_millis(200);

/// The nodes of the last answer, so that not every request asks the store.
#[derive(Default)]
pub(crate) struct Nodes(tokio::sync::Mutex<Option<Known>>);

struct Known {
    nodes: Arc<Vec<NodeState>>,
    /// When the question that has this answer was asked; `None`: the last one has none.
    asked: Option<Instant>,
    /// When the last one was over.
    tried: Instant,
}

impl Nodes {
    /// The nodes; with `newer`, not older than a moment. The last known ones while the
    /// store is away.
    pub(crate) async fn get<R: Registry, L: Local>(
        &self,
        member: &Member<R, L>,
        newer: bool,
    ) -> Arc<Vec<NodeState>> {
        self.ask(member, newer).await.0
    }

    /// The nodes of a moment ago, and how long ago they were asked for at most. `None` beside the
    /// last known ones while the store is away.
    pub(crate) async fn newest<R: Registry, L: Local>(
        &self,
        member: &Member<R, L>,
    ) -> (Arc<Vec<NodeState>>, Option<Duration>) {
        let (nodes, asked) = self.ask(member, true).await;
        (nodes, asked.map(|asked| asked.elapsed()))
    }

    async fn ask<R: Registry, L: Local>(
        &self,
        member: &Member<R, L>,
        newer: bool,
    ) -> (Arc<Vec<NodeState>>, Option<Instant>) {
        let mut known = self.0.lock().await;
        if let Some(known) = &*known
            && (!newer || known.tried.elapsed() < NEWEST_FOR)
        {
            return (known.nodes.clone(), known.asked);
        }
        let asking = Instant::now();
        let (nodes, asked) = match member.nodes().await {
            Ok(nodes) => (Arc::new(nodes), Some(asking)),
            Err(_) => (
                known.take().map(|known| known.nodes).unwrap_or_default(),
                None,
            ),
        };
        let tried = Instant::now();
        *known = Some(Known {
            nodes: nodes.clone(),
            asked,
            tried,
        });
        (nodes, asked)
    }
}

/// Whether a node's lease ended so long ago that it is not taken for a node any more.
pub(crate) fn is_forgotten(node: &NodeState) -> bool {
    node.lease <= -ASKED_AFTER_LEASE
}

/// How a node is reached, with the `secret` that it wants to be shown; `None` if it cannot
/// be reached, or is forgotten.
pub(crate) fn peer(node: &NodeState, secret: Arc<str>) -> Option<Peer> {
    let NodeInfo {
        tag,
        node_id,
        address,
        ..
    } = &node.info;
    (!address.is_empty() && !is_forgotten(node)).then(|| Peer {
        tag: *tag,
        node_id: node_id.clone(),
        address: address.clone(),
        secret,
    })
}

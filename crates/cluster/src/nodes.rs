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
pub(crate) struct Nodes(tokio::sync::Mutex<Option<(Instant, Arc<Vec<NodeState>>)>>);

impl Nodes {
    /// The nodes; with `newer`, not older than a moment. The last known ones while the
    /// store is away.
    pub(crate) async fn get<R: Registry, L: Local>(
        &self,
        member: &Member<R, L>,
        newer: bool,
    ) -> Arc<Vec<NodeState>> {
        let mut known = self.0.lock().await;
        if let Some((at, nodes)) = &*known {
            if !newer || at.elapsed() < NEWEST_FOR {
                return nodes.clone();
            }
        }
        let before = known.as_ref().map(|(_, nodes)| nodes.clone());
        let nodes = match member.nodes().await {
            Ok(nodes) => Arc::new(nodes),
            Err(_) => before.unwrap_or_default(),
        };
        *known = Some((Instant::now(), nodes.clone()));
        nodes
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

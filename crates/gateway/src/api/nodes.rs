//! The nodes of a cluster: what each says of itself, and what one lets go.

use std::time::Duration;

use heartline_core::entries::NodeEntry;

use super::ShedError;
use crate::gateway::Gateway;
use crate::op::Op;
use crate::peers::{self, Part, Silent};

impl Gateway {
    /// All nodes, this one first; those that do not answer are among them. True: there may be
    /// others, of which this one does not know at present.
    pub async fn nodes(&self) -> (Vec<NodeEntry>, bool) {
        let mut nodes = vec![self.node_here()];
        let (mut others, missing) = self.ask_all(peers::AboutNode {}).await;
        // Asked anew, it is what was found a moment ago.
        let is_partial = self.shared.fanout.backplane.peers().await.is_partial;
        others.sort_by(|a, b| a.node_id.cmp(&b.node_id));
        nodes.append(&mut others);
        nodes.extend(missing.unreachable.into_iter().map(|node_id| NodeEntry {
            node_id,
            state: "unreachable".into(),
            connections: None,
            users: None,
            uptime_seconds: None,
            version: None,
        }));
        (nodes, is_partial)
    }

    /// Lets some connections of a node go, each at some time within `over`: their clients are
    /// told when to come back, as at a drain, and the node stays. How many there will be.
    ///
    /// # Errors
    /// When there is no such node, or none that is known, or it lets everybody go, or does not
    /// answer.
    pub async fn shed(
        &self,
        node_id: &str,
        part: Part,
        over: Duration,
    ) -> Result<usize, ShedError> {
        let shed = if node_id == &*self.shared.node_id {
            self.shed_here(part, over)
        } else {
            let peers = self.shared.fanout.backplane.peers().await;
            let mut believed = peers.believed.iter();
            let Some(peer) = believed.find(|peer| &*peer.node_id == node_id) else {
                let known = peers.suspect.iter().any(|suspect| &**suspect == node_id);
                return Err(match (known, peers.is_partial) {
                    (true, _) => ShedError::Unreachable,
                    (false, true) => ShedError::NotKnown,
                    (false, false) => ShedError::UnknownNode,
                });
            };
            let over_ms = u64::try_from(over.as_millis()).unwrap_or(u64::MAX);
            let asked = peers::Shed { part, over_ms };
            let answer = self.ways.peers.ask(peer, asked).await;
            answer.map_err(|Silent| ShedError::Unreachable)?
        };
        shed.ok_or(ShedError::Draining)
    }

    /// `None`: everybody goes anyway.
    pub(crate) fn shed_here(&self, part: Part, over: Duration) -> Option<usize> {
        if self.is_draining() {
            return None;
        }
        let all = self.connection_count();
        let wanted = match part {
            Part::Share(share) => (all as f64 * share.clamp(0.0, 1.0)).round() as usize,
            Part::Connections(count) => count.min(all),
        };
        let (count, spread) = (wanted, over);
        self.shared.fanout.post(
            0,
            Op::Shed {
                count,
                of: all,
                spread,
            },
        );
        tracing::info!(
            connections = wanted,
            over_ms = over.as_millis() as u64,
            "shedding"
        );
        Some(wanted)
    }

    /// What this node says of itself.
    pub(crate) fn node_here(&self) -> NodeEntry {
        let degraded = self.cluster_status().is_some_and(|status| status.degraded);
        let state = match (self.is_draining(), degraded) {
            (true, _) => "draining",
            (false, true) => "degraded",
            (false, false) => "ready",
        };
        NodeEntry {
            node_id: self.shared.node_id.to_string(),
            state: state.into(),
            connections: Some(self.connection_count()),
            users: Some(self.users_online()),
            uptime_seconds: Some(self.uptime().as_secs()),
            version: Some(env!("CARGO_PKG_VERSION").to_owned()),
        }
    }
}

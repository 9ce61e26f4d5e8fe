//! What a backplane may ask of this node.

use std::sync::{Arc, Weak};

use heartline_core::auth::BoxFuture;
use heartline_core::backplane::line::{Heard, Lost, Reached, Scope, Tail};
use heartline_core::backplane::{
    Acknowledgement, Action, Message, Missed, Node, Peer, Probed, Target,
};
use heartline_core::entries::SocketEntry;
use heartline_core::policy::DevicePolicy;
use heartline_core::presence::{Edge, SocketAddress};
use heartline_engine::clock::Clock;
use heartline_wire::reason::Reason;

use crate::announcer::Announcer;
use crate::fanout::Fanout;
use crate::members::Members;
use crate::op::{Op, Replaced};
use crate::peers::Peers;
use crate::watches::{self, Watches};

/// The node as its backplane knows it. Does not keep the node alive, which owns the
/// backplane.
pub(crate) struct ThisNode {
    pub(crate) fanout: Weak<Fanout>,
    pub(crate) members: Weak<Members>,
    pub(crate) watches: Weak<Watches>,
    pub(crate) peers: Arc<Peers>,
    pub(crate) announcer: Arc<Announcer>,
    pub(crate) clock: Clock,
    pub(crate) max_payload: usize,
}

impl Node for ThisNode {
    fn announce(&self, edges: Vec<Edge>) {
        if let Some(watches) = self.watches.upgrade() {
            watches.heard(&edges);
        }
        self.announcer.push(edges);
    }

    fn missed_edges(&self) {
        if let Some(watches) = self.watches.upgrade() {
            watches.missed_edges();
        }
        self.announcer.missed();
    }

    fn replace(
        &self,
        socket: SocketAddress,
        reason: Reason,
        device_id: Option<Arc<str>>,
        node_id: &Arc<str>,
    ) {
        if let Some(fanout) = self.fanout.upgrade() {
            let op = Op::Replaced(Replaced {
                to: socket,
                by: device_id,
                node: node_id.clone(),
                reason,
            });
            fanout.post(socket.0.conn.shard, op);
        }
    }

    fn deliver(&self, target: &Target<'_>, message: Message) {
        if let (Target::Nodes, watches::NOTE) = (target, &*message.event) {
            if let Some(watches) = self.watches.upgrade() {
                watches.noted(&message);
            }
        } else if let (Target::Nodes, Some(members)) = (target, self.members.upgrade()) {
            members.changed_elsewhere(&message);
        } else if let Some(fanout) = self.fanout.upgrade() {
            fanout.deliver(target, message);
        }
    }

    fn missed(&self, whose: Missed<'_>) {
        // Another line is another store's, perhaps: what nodes say to each other may be lost with it.
        let is_nodes = matches!(whose, Missed::Unaddressed | Missed::Anybody | Missed::Line);
        if let Some(members) = self.members.upgrade().filter(|_| is_nodes) {
            // Other nodes' changes may be among what was lost.
            members.changes_lost();
            if let Some(watches) = self.watches.upgrade() {
                watches.missed();
            }
        }
        if let Some(fanout) = self.fanout.upgrade() {
            fanout.missed(whose);
        }
    }

    fn hear(&self, heard: Heard<'_>) {
        if let Some(fanout) = self.fanout.upgrade() {
            fanout.hear(heard);
        }
    }

    fn take_in(&self, scope: &Scope, tail: Tail<'_>) {
        if let Some(fanout) = self.fanout.upgrade() {
            fanout.take_in(scope, tail);
        }
    }

    fn go_without(&self, scope: &Scope) {
        if let Some(fanout) = self.fanout.upgrade() {
            fanout.go_without(scope);
        }
    }

    fn reach(&self, reached: Reached) {
        if let Some(fanout) = self.fanout.upgrade() {
            fanout.reach(reached);
        }
    }

    fn deliver_alone(&self, target: &Target<'_>, message: Message, skip: Option<SocketAddress>) {
        if let Some(fanout) = self.fanout.upgrade() {
            fanout.deliver_alone(target, message, skip);
        }
    }

    fn deliver_alone_to(&self, name: SocketAddress, message: Message) {
        if let Some(fanout) = self.fanout.upgrade() {
            fanout.deliver_alone_to(name, message);
        }
    }

    fn followed(&self) -> Vec<Scope> {
        let fanout = self.fanout.upgrade();
        fanout.map_or_else(Vec::new, |fanout| fanout.followed())
    }

    fn probe(&self, node: Peer) -> BoxFuture<Probed> {
        let peers = self.peers.clone();
        Box::pin(async move { peers.probe(&node).await })
    }

    fn lose_session(&self, name: SocketAddress, how: Lost) {
        if let Some(fanout) = self.fanout.upgrade() {
            fanout.lose_session(name, how);
        }
    }

    fn is_overloaded(&self) -> bool {
        let fanout = self.fanout.upgrade();
        fanout.is_some_and(|fanout| fanout.is_overloaded())
    }

    fn select(&self, namespace: &str, rooms: &[String], except: &[String], action: Action) {
        if let Some(fanout) = self.fanout.upgrade() {
            fanout.select(namespace, rooms, except, action);
        }
    }

    fn find(
        &self,
        namespace: &str,
        rooms: &[String],
        except: &[String],
        max: usize,
    ) -> BoxFuture<Option<Vec<SocketEntry>>> {
        let fanout = self.fanout.upgrade();
        let (namespace, rooms) = (namespace.to_owned(), rooms.to_vec());
        let except = except.to_vec();
        Box::pin(async move {
            let Some(fanout) = fanout else {
                return Some(Vec::new());
            };
            let sockets = fanout.choose(&namespace, None, &rooms, &except).await;
            match sockets.len() <= max {
                true => Some(fanout.entries(&sockets).await),
                false => None,
            }
        })
    }

    fn ask(&self, socket: SocketAddress, message: Message) -> BoxFuture<Option<Acknowledgement>> {
        let fanout = self.fanout.upgrade();
        Box::pin(async move {
            let answered = fanout?.ask_socket(socket, message).await.ok()?;
            Some(Acknowledgement {
                args: answered.json,
                attachments: answered.attachments,
            })
        })
    }

    fn rooms(&self, namespace: &str, max: usize) -> BoxFuture<Vec<String>> {
        let fanout = self.fanout.upgrade();
        let namespace = namespace.to_owned();
        Box::pin(async move {
            match fanout {
                Some(fanout) => fanout.room_names(&namespace, max).await,
                None => Vec::new(),
            }
        })
    }

    fn namespaces(&self) -> Vec<Arc<str>> {
        let Some(fanout) = self.fanout.upgrade() else {
            return Vec::new();
        };
        let named = fanout.namespaces.iter();
        named.map(|(_, there)| there.name.clone()).collect()
    }

    fn namespace(&self, socket: &SocketAddress) -> Option<Arc<str>> {
        let fanout = self.fanout.upgrade()?;
        Some(fanout.namespaces.get(socket.namespace()).name.clone())
    }

    fn device_policy(&self, socket: &SocketAddress) -> Option<DevicePolicy> {
        let fanout = self.fanout.upgrade()?;
        Some(fanout.namespaces.get(socket.namespace()).config.devices)
    }

    fn max_payload(&self) -> usize {
        self.max_payload
    }

    fn unix_millis(&self) -> u64 {
        // What is known of users is ordered by it.
        self.clock.steady_millis(self.clock.now())
    }
}

//! Two nodes that share one line, in memory, and a client that is lost and comes back at
//! either: it hears everything once and in order, or begins anew.

mod histories;
mod line;
mod losses;
mod notified;
mod owed;
mod selected;
mod sessions;
mod turns;
mod unreachable;

use heartline_core::backplane::Message;
use heartline_core::presence::{Edge, SocketAddress};

use super::resume::{Tracking, kept};
use super::*;
use line::{Meeting, Meets, Shared, bring};

/// Two nodes.
struct Cluster {
    worlds: [World; 2],
    meeting: Shared,
}

impl Cluster {
    fn new() -> Cluster {
        Cluster::with(&kept())
    }

    fn with(config: &Config) -> Cluster {
        Cluster::filled(config, |builder| builder)
    }

    fn filled(config: &Config, fill: impl Fn(GatewayBuilder) -> GatewayBuilder) -> Cluster {
        let meeting = Meeting::begun();
        let make = |node| {
            let mut config = config.clone();
            config.namespaces.get_mut("/").unwrap().announce = Announce::Namespace;
            World::with(config, |builder| {
                fill(builder).backplane(Meets::at(&meeting, node))
            })
        };
        let mut cluster = Cluster {
            worlds: [make(0), make(1)],
            meeting,
        };
        cluster.settle();
        cluster
    }

    /// What is on its way arrives, until nothing is.
    fn settle(&mut self) {
        loop {
            let mut is_quiet = true;
            for (at, world) in self.worlds.iter_mut().enumerate() {
                world.settle();
                let (node, items) = self.meeting.lock().unwrap().take(at);
                is_quiet &= items.is_empty();
                let inside = world.runtime.enter();
                items
                    .into_iter()
                    .for_each(|item| bring(&self.meeting, at, &*node, item));
                drop(inside);
                world.settle();
            }
            if is_quiet {
                return;
            }
        }
    }

    /// A user comes online: all nodes read that, in one order or the other.
    fn comes_online(&mut self, number: u64, text: &str, first: usize) {
        for node in [first, 1 - first] {
            let edge = Edge {
                user: Arc::new(UserKey {
                    tenant_id: None,
                    user_id: format!("x{text}").into(),
                    user_type: None,
                }),
                online: true,
                rev: number,
                at: number,
                number,
                rooms: Vec::new(),
                others: None,
            };
            let there = self.meeting.lock().unwrap().ways[node].node.clone();
            there.unwrap().announce(vec![edge]);
            // What is told within a moment is told together.
            self.worlds[node].run(Duration::from_millis(60));
        }
    }

    /// Something is said to one socket, where it is or was.
    fn say_to(&mut self, node: usize, socket: &str, text: &str) {
        let name = SocketAddress::parse(socket).unwrap();
        let message = Message::new("news", &format!("{text:?}"));
        let world = &self.worlds[node];
        world.gateway.shared.fanout.emit(name, name, message);
    }

    /// Changes what is written down of a socket.
    fn rewrite(&self, socket: &str, change: impl FnOnce(&mut serde_json::Value)) {
        let name = SocketAddress::parse(socket).unwrap();
        let mut meeting = self.meeting.lock().unwrap();
        let (_, session) = meeting.sessions.get_mut(&name).unwrap();
        let mut record = serde_json::from_slice(&session.record).unwrap();
        change(&mut record);
        session.record = serde_json::to_vec(&record).unwrap();
    }

    /// A node hears of another line, or of the one that it knows.
    fn goes_over(&mut self, node: usize, line: u32) {
        self.meeting.lock().unwrap().go_over(node, line);
        self.settle();
    }

    fn mend(&mut self) {
        for node in 0..2 {
            self.meeting.lock().unwrap().mend(node);
        }
        self.settle();
    }
}

/// The events that a client has got, a user who came online among them.
fn news(ann: &mut Tracking) -> Vec<String> {
    let got = ann.got().into_iter();
    let named = got.map(|one| match one.split_once(r#""userId":"x"#) {
        Some((_, rest)) => format!(r#"["news","{}"]"#, rest.split('"').next().unwrap()),
        None => one,
    });
    named.filter(|one| one.starts_with(r#"["news""#)).collect()
}

/// A client comes to a node, for the first time or again.
fn come(cluster: &mut Cluster, ann: &mut Tracking, node: usize) {
    ann.client = cluster.worlds[node].engineio();
    let hello = ann.hello();
    ann.client.says(&hello);
    cluster.settle();
    ann.hear(usize::MAX);
}

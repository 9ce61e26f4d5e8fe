//! What goes wrong in a cluster without an error anywhere: a server that may throw things away,
//! nodes that cannot be reached, nodes with other settings. Each is said once.

use std::sync::Arc;
use std::time::Duration;

use hashbrown::HashSet;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::member::{Local, Member};
use crate::redis::{Server, examine};
use crate::registry::{NodeInfo, NodeState, Registry};

/// How often is looked.
const INTERVAL: Duration = Duration::from_secs(30);
/// The first time: when nodes that start together have joined.
const FIRST: Duration = Duration::from_secs(3);
/// How long a node may take to take a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// Nodes whose addresses are tried at a time, each once in its life.
const MAX_TRIED: usize = 16;
/// Processes that were tried, and things that were said: then all may be tried and said again.
const MAX_REMEMBERED: usize = 4096;

/// What was looked at, and said.
#[derive(Default)]
struct Seen {
    /// Processes whose addresses have answered, or were spoken of.
    reached: HashSet<Arc<str>>,
    /// Those that did not answer the last time: they may just be starting, or ending.
    doubted: HashSet<Arc<str>>,
    said: HashSet<String>,
}

impl Seen {
    /// Whether something is news.
    fn is_new(&mut self, key: String) -> bool {
        if self.said.len() >= MAX_REMEMBERED {
            self.said.clear();
        }
        self.said.insert(key)
    }
}

/// The settings that another node has otherwise: its key, what is set here, and what there. Where
/// `/` differs in the same way as another namespace, that is one difference.
fn differences<'a>(
    own: &'a NodeInfo,
    other: &'a NodeInfo,
) -> impl Iterator<Item = (&'a str, &'a str, &'a str)> {
    let difference = move |key: &str| {
        let (here, there) = (own.settings.get(key)?, other.settings.get(key)?);
        (here != there).then_some((&**here, &**there))
    };
    own.settings.keys().filter_map(move |key| {
        // A node of another version may not have it.
        let (here, there) = difference(key)?;
        let is_of_all = key_of_root(key).is_some_and(|key| difference(key) == Some((here, there)));
        (!is_of_all).then_some((&**key, here, there))
    })
}

/// The key of `/` for that of another namespace, `auth.mode` for `namespaces."/chat".auth.mode`.
fn key_of_root(key: &str) -> Option<&str> {
    let (_, of_root) = key.strip_prefix("namespaces.\"")?.split_once("\".")?;
    Some(of_root)
}

/// The same as sentences, each with its key. `own` are the settings of `this`.
pub(crate) fn different<'a>(
    own: &'a NodeInfo,
    other: &'a NodeInfo,
    this: &str,
) -> impl Iterator<Item = (&'a str, String)> {
    differences(own, other).map(move |(key, here, there)| {
        let sentence = format!(
            "{key} is {here} {this} and {there} on node {}: the nodes of a cluster do not behave \
             as one then",
            other.node_id
        );
        (key, sentence)
    })
}

fn compare(own: &NodeInfo, others: &[NodeState], seen: &mut Seen) {
    for other in others {
        for (key, sentence) in different(own, &other.info, "on this node") {
            if seen.is_new(format!("setting {key}")) {
                tracing::warn!("{sentence}");
            }
        }
    }
}

/// Tries the addresses of nodes: each, and why it is not reached.
pub(crate) async fn try_all(
    nodes: impl Iterator<Item = NodeInfo>,
) -> Vec<(NodeInfo, Option<String>)> {
    let mut tries = JoinSet::new();
    for info in nodes
        .filter(|info| !info.address.is_empty())
        .take(MAX_TRIED)
    {
        tries.spawn(async move {
            let connecting = TcpStream::connect(&*info.address);
            let tried = tokio::time::timeout(CONNECT_TIMEOUT, connecting).await;
            let error = match tried {
                Ok(Ok(_)) => None,
                Ok(Err(error)) => Some(error.to_string()),
                Err(_) => Some("no answer in time".to_owned()),
            };
            (info, error)
        });
    }
    tries.join_all().await
}

/// Tries the addresses of nodes that are new here.
async fn reach(others: &[NodeState], seen: &mut Seen) {
    if seen.reached.len() >= MAX_REMEMBERED {
        seen.reached.clear();
    }
    let infos = others.iter().map(|other| &other.info);
    let untried = infos.filter(|info| !seen.reached.contains(&info.process()));
    let tried = try_all(untried.cloned()).await;
    let mut doubted = HashSet::new();
    for (info, error) in tried {
        let process = info.process();
        match error {
            Some(_) if !seen.doubted.contains(&process) => {
                doubted.insert(process);
                continue;
            }
            Some(error) => tracing::warn!(
                node = %info.node_id,
                address = %info.address,
                %error,
                "this node does not reach another where that says it is: clients are not handed \
                 on to it, and the API misses it; set cluster.advertise (or cluster.listen) there"
            ),
            None => {}
        }
        seen.reached.insert(process);
    }
    seen.doubted = doubted;
}

async fn look_at_server(server: &Arc<Server>, seen: &mut Seen) {
    let Ok(condition) = examine(server).await else {
        return;
    };
    for finding in condition.findings {
        if seen.is_new(format!("server {}", finding.key)) {
            tracing::warn!("the Redis of cluster.url {finding}");
        }
    }
}

/// Looks every so often, until it is dropped.
pub(crate) async fn watch<R: Registry, L: Local>(server: Arc<Server>, member: Arc<Member<R, L>>) {
    let mut seen = Seen::default();
    tokio::time::sleep(FIRST).await;
    loop {
        look_at_server(&server, &mut seen).await;
        if let Ok(nodes) = member.nodes().await {
            let tag = member.info().tag;
            let is_living = |node: &NodeState| node.lease > 0 && node.info.tag != tag;
            let others: Vec<NodeState> = nodes.into_iter().filter(is_living).collect();
            compare(member.info(), &others, &mut seen);
            reach(&others, &mut seen).await;
        }
        let is_sure = seen.doubted.is_empty();
        tokio::time::sleep(if is_sure { INTERVAL } else { FIRST }).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_setting_that_another_node_has_otherwise_is_named() {
        let with = |settings: &[(&str, &str)]| NodeInfo {
            settings: settings
                .iter()
                .map(|(key, value)| ((*key).into(), (*value).into()))
                .collect(),
            ..NodeInfo::default()
        };
        let own = with(&[("a", "1"), ("b", "2"), ("c", "3")]);
        let other = with(&[("a", "1"), ("b", "4")]);
        let all: Vec<_> = differences(&own, &other).collect();
        assert_eq!(all, [("b", "2", "4")]);
    }

    #[test]
    fn what_is_otherwise_in_all_namespaces_is_named_once() {
        const OTHER: &str = "namespaces.\"/a\".mode";
        let with = |root: &str, other: &str| NodeInfo {
            settings: [("mode", root), (OTHER, other)]
                .map(|(key, value)| (key.into(), value.into()))
                .into(),
            ..NodeInfo::default()
        };
        let named = |own: &NodeInfo, other: &NodeInfo| -> Vec<String> {
            let all = differences(own, other);
            all.map(|(key, _, _)| key.to_owned()).collect()
        };
        let own = with("x", "x");
        assert_eq!(named(&own, &with("x", "x")), <[&str; 0]>::default());
        assert_eq!(named(&own, &with("y", "y")), ["mode"]);
        assert_eq!(named(&own, &with("x", "y")), [OTHER]);
        assert_eq!(named(&own, &with("y", "z")), ["mode", OTHER]);
    }

    #[test]
    fn what_an_earlier_build_tells_as_it_was_written_is_not_compared() {
        let earlier =
            r#"{"nodeId":"n","tag":1,"address":"","version":"0","settings":{"a":"\"1\""}}"#;
        let earlier: NodeInfo = serde_json::from_str(earlier).unwrap();
        let own = NodeInfo {
            settings: [("a".into(), "1".into())].into(),
            ..NodeInfo::default()
        };
        assert_eq!(differences(&own, &earlier).count(), 0);
        // Nor does an earlier build compare what is told here.
        assert!(!serde_json::to_string(&own).unwrap().contains("settings"));
    }
}

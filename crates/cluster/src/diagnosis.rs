//! What an operator asks before there is a node: whether the server would do, whether this
//! machine may use it, and what the nodes that live there say.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use hashbrown::HashSet;
use redis::{Cmd, RedisError, Value};

use crate::redis::{
    ANSWER_TIMEOUT, Calls, Condition, Connection, Finding, RedisRegistry, Server, examine,
    forbidden, misnamed,
};
use crate::registry::{Doubts, NodeInfo, Registry};
use crate::watch::{different, try_all};

/// How many times the way to the server is measured.
const PINGS: usize = 9;

/// What was found.
#[derive(Debug, Default)]
pub struct Diagnosis {
    /// Where the server is that a node writes to, without what is secret in the URL: of Sentinels,
    /// the master that they name.
    pub place: Option<String>,
    /// The server, as a node that starts sees it.
    pub condition: Condition,
    /// The middle of some round trips.
    pub round_trip: Duration,
    /// How far the server's clock is ahead of this machine's, milliseconds.
    pub ahead: i64,
    /// Commands that a node needs and the user of the URL may not give, or not with the keys and channels of this
    /// prefix.
    pub forbidden: Vec<String>,
    /// Names of the nodes that live.
    pub nodes: Vec<String>,
    /// What of their settings is not as it is here, a sentence for each key.
    pub different: Vec<String>,
    /// Nodes whose address does not answer: name, address, and why.
    pub unreached: Vec<(String, String, String)>,
}

/// Why a server cannot be used at all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unusable {
    /// In a few words, none of them of the URL.
    pub why: String,
    /// What to do, if that is known: the server is of another kind than the URL says.
    pub todo: Option<&'static str>,
}

impl Unusable {
    fn new(why: String) -> Unusable {
        Unusable { why, todo: None }
    }
}

/// An error, in a few words: none of them are of the URL.
fn words(error: &RedisError) -> String {
    match (error.code(), error.detail()) {
        (Some(code), Some(detail)) => format!("{code} {detail}"),
        _ => error.to_string(),
    }
}

fn unix_millis() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(0, |now| now.as_millis() as i64)
}

async fn ask(connection: &mut Connection, command: &Cmd) -> Result<Value, RedisError> {
    command.query_async(connection).await
}

impl Diagnosis {
    async fn measure(&mut self, connection: &mut Connection) -> Result<(), RedisError> {
        let mut times = Vec::with_capacity(PINGS);
        for _ in 0..PINGS {
            let start = Instant::now();
            ask(connection, &redis::cmd("PING")).await?;
            times.push(start.elapsed());
        }
        times.sort_unstable();
        self.round_trip = times[PINGS / 2];
        let before = unix_millis();
        let time = redis::cmd("TIME")
            .query_async::<(i64, i64)>(connection)
            .await;
        if let Ok((seconds, micros)) = time {
            // It was said in between.
            let here = i64::midpoint(before, unix_millis());
            self.ahead = seconds * 1000 + micros / 1000 - here;
        }
        Ok(())
    }

    async fn look_at_nodes(&mut self, registry: &RedisRegistry, own: &NodeInfo) {
        let Ok(nodes) = registry.nodes().await else {
            return;
        };
        let living = nodes.into_iter().filter(|node| node.lease > 0);
        let infos: Vec<NodeInfo> = living.map(|node| node.info).collect();
        let mut told = HashSet::new();
        for other in &infos {
            // Once for each key: where one node differs, others do.
            let news =
                different(own, other, "here").filter(|(key, _)| told.insert(key.to_string()));
            self.different.extend(news.map(|(_, sentence)| sentence));
        }
        self.nodes = infos.iter().map(|info| info.node_id.to_string()).collect();
        for (info, error) in try_all(infos.into_iter()).await {
            if let Some(error) = error {
                let (name, address) = (info.node_id.to_string(), info.address.to_string());
                self.unreached.push((name, address, error));
            }
        }
    }
}

/// Where a server is, without what is secret in its URL.
pub fn place(url: &str) -> Option<String> {
    Server::parse(url).ok()?.some_address().map(in_words)
}

fn in_words((host, port): (String, u16)) -> String {
    format!("{host}:{port}")
}

/// Looks at the server of `cluster.url`, as a node with this prefix and these settings would use
/// it. Joins nothing, and changes nothing.
///
/// # Errors
/// Why it cannot be used at all.
pub async fn diagnose(
    url: &str,
    prefix: &str,
    alike: &[(String, String)],
) -> Result<Diagnosis, Unusable> {
    let server = Server::parse(url).map_err(|error| Unusable::new(error.to_string()))?;
    let server = std::sync::Arc::new(server);
    let look = async {
        let mut connection = server.open_any(ANSWER_TIMEOUT).await?;
        let mut found = Diagnosis {
            place: server.master().map(in_words),
            ..Diagnosis::default()
        };
        found.measure(&mut connection).await?;
        // Who may not ask is told of that below.
        found.condition = examine(&server).await.unwrap_or_default();
        let calls = Calls::new(prefix);
        let is_known = |finding: &Finding| finding.key != "kind";
        if found.condition.findings.iter().all(is_known) {
            found.forbidden = forbidden(&mut connection, calls.prefix()).await;
        }
        let is_usable = found
            .condition
            .findings
            .iter()
            .all(|finding| !finding.is_fatal);
        if is_usable && found.forbidden.is_empty() {
            let settings = alike.iter();
            let own = NodeInfo {
                settings: settings
                    .map(|(key, value)| (key.as_str().into(), value.as_str().into()))
                    .collect(),
                ..NodeInfo::default()
            };
            let registry = RedisRegistry::new(server.clone(), calls, Doubts::default());
            found.look_at_nodes(&registry, &own).await;
        }
        Ok::<_, RedisError>(found)
    };
    let looked = tokio::time::timeout(ANSWER_TIMEOUT * 3, look).await;
    let why = match looked {
        Ok(Ok(found)) => return Ok(found),
        Ok(Err(error)) => words(&error),
        Err(_) => "it does not answer in time".to_owned(),
    };
    Err(match misnamed(&server).await {
        Some(finding) => Unusable {
            why: format!("it {}", finding.sentence),
            todo: Some(finding.todo),
        },
        None => Unusable::new(why),
    })
}

//! Whether a cluster can live on a server: what the server says of itself, in sentences for
//! operators.

use std::fmt;
use std::time::Duration;

use redis::RedisResult;

use super::server::{Kind, Server, Tries};

/// How long a server may take to say what it is.
pub(crate) const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);
/// A share of its `maxmemory`, in percent, beyond which a server is nearly full.
const NEARLY_FULL: u64 = 90;
/// The first version that takes what nodes say of users when it is full: it knows the flag of
/// scripts that says so.
const TAKES_WHEN_FULL: (u64, u64) = (7, 0);

/// Something about a server that its operator should know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Names it: one that was told is not told again.
    pub key: &'static str,
    /// The cluster cannot work so.
    pub is_fatal: bool,
    /// One sentence about "the Redis".
    pub sentence: String,
    /// What to do.
    pub todo: &'static str,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.sentence, self.todo)
    }
}

/// What a server is, and what there is to be said of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Condition {
    /// Its name and version, if it says them.
    pub what: Option<String>,
    /// What its operator should know.
    pub findings: Vec<Finding>,
}

/// What a server says of itself: `INFO`, as names and values.
struct Info<'a>(&'a str);

impl<'a> Info<'a> {
    fn get(&self, name: &str) -> Option<&'a str> {
        let mut lines = self.0.lines().filter_map(|line| line.split_once(':'));
        Some(lines.find(|(found, _)| *found == name)?.1.trim())
    }

    fn number(&self, name: &str) -> u64 {
        let found = self.get(name).and_then(|value| value.parse().ok());
        found.unwrap_or(0)
    }

    /// Its name and version.
    fn what(&self) -> Option<String> {
        match self.get("valkey_version") {
            Some(version) => Some(format!("Valkey {version}")),
            None => Some(format!("Redis {}", self.get("redis_version")?)),
        }
    }

    /// What kind of server it is, if it says so.
    fn kind(&self) -> Option<Kind> {
        Some(match self.get("redis_mode")? {
            "standalone" => Kind::Alone,
            "sentinel" => Kind::Sentinel,
            "cluster" => Kind::Cluster,
            _ => return None,
        })
    }

    /// Major and minor version of Redis, also where it is Valkey.
    fn version(&self) -> Option<(u64, u64)> {
        let mut parts = self.get("redis_version")?.split('.');
        let mut part = || parts.next()?.parse().ok();
        Some((part()?, part()?))
    }
}

/// What is to be said of a server that the URL takes for another kind.
fn misfit(is: Kind, said: Kind) -> Option<Finding> {
    let (key, sentence, todo) = match (is, said) {
        (Kind::Alone, Kind::Cluster) => (
            "kind",
            "is no Redis Cluster, but one Redis",
            "write redis:// in cluster.url",
        ),
        (Kind::Alone, Kind::Sentinel) => (
            "kind",
            "is no Sentinel, but a Redis",
            "write redis://HOST:PORT in cluster.url, or the addresses of its Sentinels",
        ),
        (Kind::Sentinel, Kind::Alone | Kind::Cluster) => (
            "kind",
            "is a Sentinel, which keeps nothing itself",
            "write redis+sentinel://HOST:PORT/MASTER in cluster.url, with the master's name as \
             redis-cli -h HOST -p PORT sentinel masters has it",
        ),
        (Kind::Cluster, Kind::Alone | Kind::Sentinel) => (
            "cluster",
            "is one of a Redis Cluster",
            "write redis+cluster:// in cluster.url",
        ),
        (Kind::Alone, Kind::Alone)
        | (Kind::Sentinel, Kind::Sentinel)
        | (Kind::Cluster, Kind::Cluster) => return None,
    };
    Some(Finding {
        key,
        is_fatal: true,
        sentence: sentence.into(),
        todo,
    })
}

/// What is to be said of the first server that the URL names, if it is of another kind than the URL
/// says and tells so.
pub(crate) async fn misnamed(server: &Server) -> Option<Finding> {
    let info = server.info_of_first(ANSWER_TIMEOUT).await.ok()?;
    misfit(Info(&info).kind()?, server.kind())
}

/// What is to be said of a server that answers `INFO` so. `is_cluster`: it is spoken to as one of
/// a Redis Cluster.
pub(super) fn judge(info: &str, is_cluster: bool) -> Vec<Finding> {
    let info = Info(info);
    if !is_cluster && info.kind() == Some(Kind::Sentinel) {
        // Nothing else that it says is of a server that keeps something.
        return misfit(Kind::Sentinel, Kind::Alone).into_iter().collect();
    }
    let mut findings = Vec::new();
    let mut find = |key, is_fatal, sentence: String, todo| {
        findings.push(Finding {
            key,
            is_fatal,
            sentence,
            todo,
        });
    };
    let (needed, kind) = match is_cluster {
        true => ((7, 0), "a Redis Cluster"),
        false => ((6, 2), "Redis"),
    };
    if let Some((major, minor)) = info.version().filter(|version| *version < needed) {
        let what = format!(
            "is version {major}.{minor}, and {kind} is needed from {}.{} on",
            needed.0, needed.1
        );
        let todo = "install a newer one, or name another one in cluster.url";
        find("version", true, what, todo);
    }
    // Of a Cluster, whichever answers: commands find the right one.
    if !is_cluster && matches!(info.get("role"), Some("slave" | "replica")) {
        let todo = "name its master in cluster.url, or let its Sentinels find that \
                    (redis+sentinel://)";
        find(
            "role",
            true,
            "is a replica, which takes no writes".into(),
            todo,
        );
    }
    if !is_cluster && info.get("cluster_enabled") == Some("1") {
        let todo = "write redis+cluster:// in cluster.url";
        find("cluster", true, "is one of a Redis Cluster".into(), todo);
    }
    findings.extend(judge_memory(&info));
    findings
}

/// The same of the bound of its memory.
fn judge_memory(info: &Info<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut find = |key, sentence: String, todo| {
        findings.push(Finding {
            key,
            is_fatal: false,
            sentence,
            todo,
        });
    };
    let max = info.number("maxmemory");
    let policy = info.get("maxmemory_policy").unwrap_or_default();
    if max > 0 && policy.starts_with("allkeys") {
        let what = format!(
            "may throw away leases and users when it is full, since its maxmemory-policy is \
             {policy}"
        );
        let todo = "set noeviction, in its configuration and by redis-cli CONFIG SET \
                    maxmemory-policy noeviction";
        find("evicts", what, todo);
    }
    let takes_when_full = info
        .version()
        .is_none_or(|version| version >= TAKES_WHEN_FULL);
    if max > 0 && !takes_when_full {
        let what = "has a maxmemory, and before version 7 takes nothing when that is full, not even \
                    that nodes live: all of them would serve alone";
        let todo = "install Redis 7 or newer, or set no limit, in its configuration and by redis-cli \
                    CONFIG SET maxmemory 0";
        find("limited", what.into(), todo);
    }
    let used = info.number("used_memory");
    if max > 0 && used.saturating_mul(100) > max.saturating_mul(NEARLY_FULL) {
        let takes = match takes_when_full {
            true => "what nodes say of users, and nothing else",
            false => "nothing",
        };
        let what = format!(
            "is nearly full: {} MB of the {} MB that its maxmemory allows are used; beyond that it \
             takes {takes}",
            used >> 20,
            max >> 20
        );
        let todo = "give it more, by redis-cli CONFIG SET maxmemory, or see by redis-cli --bigkeys \
                    what else it keeps";
        find("full", what, todo);
    }
    findings
}

/// Asks a server what there is to be said of it.
///
/// # Errors
/// When it does not answer, or may not be asked.
pub(crate) async fn examine(server: &Server) -> RedisResult<Condition> {
    let mut connection = server
        .connect(Some(ANSWER_TIMEOUT), None, Tries::Many)
        .await?;
    let mut ask = redis::cmd("INFO");
    ask.arg("everything");
    let is_cluster = server.is_cluster();
    let infos = match ask.query_async(&mut connection).await? {
        // Of a Cluster, each says it.
        redis::Value::Map(nodes) => nodes.into_iter().map(|(_, info)| info).collect(),
        one => vec![one],
    };
    let mut condition = Condition::default();
    let findings = &mut condition.findings;
    for info in infos {
        let info: String = redis::from_redis_value(info)?;
        condition.what = condition.what.or_else(|| Info(&info).what());
        for finding in judge(&info, is_cluster) {
            if !findings.iter().any(|known| known.key == finding.key) {
                findings.push(finding);
            }
        }
    }
    Ok(condition)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(info: &str, is_cluster: bool) -> Vec<(&'static str, bool)> {
        let findings = judge(info, is_cluster).into_iter();
        findings
            .map(|finding| (finding.key, finding.is_fatal))
            .collect()
    }

    #[test]
    fn a_server_that_fits_is_not_spoken_of() {
        let fits = "# Server\r\nredis_version:7.0.15\r\nrole:master\r\ncluster_enabled:0\r\n\
                    maxmemory:0\r\nmaxmemory_policy:allkeys-lru\r\nused_memory:1000\r\n";
        assert_eq!(keys(fits, false), []);
        assert_eq!(keys("", false), [], "who may not say is not blamed");
    }

    #[test]
    fn a_server_of_another_kind_is_called_by_its_name() {
        let kinds = [Kind::Alone, Kind::Sentinel, Kind::Cluster];
        for (is, said) in kinds.iter().flat_map(|is| kinds.map(|said| (*is, said))) {
            let found = misfit(is, said);
            assert_eq!(found.is_some(), is != said, "{is:?} {said:?}");
            let todo = found.map_or("", |finding| finding.todo);
            let scheme = match is {
                Kind::Alone => "redis://",
                Kind::Sentinel => "redis+sentinel://",
                Kind::Cluster => "redis+cluster://",
            };
            assert!(
                is == said || todo.contains(scheme),
                "{is:?} {said:?}: {todo}"
            );
        }
        let sentinel = "redis_version:5.0.1\r\nredis_mode:sentinel\r\nrole:slave";
        assert_eq!(keys(sentinel, false), [("kind", true)]);
    }

    #[test]
    fn a_server_that_loses_what_it_is_told_is_spoken_of() {
        let says = |line: &str| format!("redis_version:7.2.4\r\n{line}\r\n");
        for (line, expected) in [
            ("role:slave", ("role", true)),
            ("cluster_enabled:1", ("cluster", true)),
            (
                "maxmemory:1\r\nmaxmemory_policy:allkeys-lfu",
                ("evicts", false),
            ),
            ("maxmemory:100\r\nused_memory:91", ("full", false)),
        ] {
            assert_eq!(keys(&says(line), false), [expected], "{line}");
        }
        let limited = "redis_version:6.2.14\r\nmaxmemory:100\r\nused_memory:91\r\n";
        let found = judge(limited, false);
        let all: Vec<&str> = found.iter().map(|finding| finding.key).collect();
        assert_eq!(all, ["limited", "full"]);
        assert!(found[1].sentence.ends_with("it takes nothing"));
        let unlimited = "redis_version:6.2.14\r\nmaxmemory:0\r\nused_memory:91\r\n";
        assert_eq!(keys(unlimited, false), []);
        assert_eq!(keys("redis_version:6.0.16", false), [("version", true)]);
        let old = judge("redis_version:6.2.1", true);
        let expected = "is version 6.2, and a Redis Cluster is needed from 7.0 on";
        assert_eq!(old[0].sentence, expected);
        assert!(old[0].to_string().ends_with("in cluster.url"));
        assert_eq!(keys(&says("cluster_enabled:1\r\nrole:slave"), true), []);
        let volatile = "maxmemory:1\r\nmaxmemory_policy:volatile-lru";
        assert_eq!(
            keys(&says(volatile), false),
            [],
            "it costs what is remembered of who left"
        );
    }
}

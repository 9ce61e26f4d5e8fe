//! Whether a cluster can live on a server: what the server says of itself, in sentences for
//! operators.

use std::time::Duration;

use redis::RedisResult;

use super::server::{Server, Tries};

/// How long a server may take to say what it is.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);
/// A share of its `maxmemory`, in percent, beyond which a server is nearly full.
const NEARLY_FULL: u64 = 90;

/// Something about a server that its operator should know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Names it: one that was told is not told again.
    pub key: &'static str,
    /// The cluster cannot work so.
    pub is_fatal: bool,
    /// One sentence, with what to do.
    pub sentence: String,
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

    /// Major and minor version of Redis, also where it is Valkey.
    fn version(&self) -> Option<(u64, u64)> {
        let mut parts = self.get("redis_version")?.split('.');
        let mut part = || parts.next()?.parse().ok();
        Some((part()?, part()?))
    }
}

/// What is to be said of a server that answers `INFO` so. `is_cluster`: it is spoken to as one of
/// a Redis Cluster.
pub(super) fn judge(info: &str, is_cluster: bool) -> Vec<Finding> {
    let info = Info(info);
    let mut findings = Vec::new();
    let mut find = |key, is_fatal, sentence: String| {
        findings.push(Finding {
            key,
            is_fatal,
            sentence,
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
        find("version", true, what);
    }
    // Of a Cluster, whichever answers: commands find the right one.
    if !is_cluster && matches!(info.get("role"), Some("slave" | "replica")) {
        let what = "is a replica, which takes no writes: name its master, or let its Sentinels \
                    find that (redis+sentinel://)";
        find("role", true, what.into());
    }
    if !is_cluster && info.get("cluster_enabled") == Some("1") {
        let what = "is one of a Redis Cluster: write redis+cluster://";
        find("cluster", true, what.into());
    }
    let max = info.number("maxmemory");
    let policy = info.get("maxmemory_policy").unwrap_or_default();
    if max > 0 && policy.starts_with("allkeys") {
        let what = format!(
            "may throw away leases and users when it is full, since its maxmemory-policy is \
             {policy}: set noeviction"
        );
        find("evicts", false, what);
    }
    let used = info.number("used_memory");
    if max > 0 && used.saturating_mul(100) > max.saturating_mul(NEARLY_FULL) {
        let what = format!(
            "is nearly full: {} MB of the {} MB that its maxmemory allows are used; beyond that it \
             takes what nodes say of users, and nothing else",
            used >> 20,
            max >> 20
        );
        find("full", false, what);
    }
    findings
}

/// Asks a server what there is to be said of it.
///
/// # Errors
/// When it does not answer, or may not be asked.
pub(crate) async fn examine(server: &Server) -> RedisResult<Vec<Finding>> {
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
    let mut findings: Vec<Finding> = Vec::new();
    for info in infos {
        let info: String = redis::from_redis_value(info)?;
        for finding in judge(&info, is_cluster) {
            if !findings.iter().any(|known| known.key == finding.key) {
                findings.push(finding);
            }
        }
    }
    Ok(findings)
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
        assert_eq!(keys("redis_version:6.0.16", false), [("version", true)]);
        let old = judge("redis_version:6.2.1", true);
        let expected = "is version 6.2, and a Redis Cluster is needed from 7.0 on";
        assert_eq!(old[0].sentence, expected);
        assert_eq!(keys(&says("cluster_enabled:1\r\nrole:slave"), true), []);
        let volatile = "maxmemory:1\r\nmaxmemory_policy:volatile-lru";
        assert_eq!(
            keys(&says(volatile), false),
            [],
            "it costs what is remembered of who left"
        );
    }
}

//! What the kernel allows, as far as `/proc` tells.

use std::fs;

use super::ports::Running;
use super::report::{Check, grouped};
use crate::config::Settings;

/// Descriptors that a node needs besides its connections: listeners, threads, files, Redis or
/// PostgreSQL, requests of operators.
const SPARE: u64 = 256;
/// So many descriptors are few, where nobody has said how many connections there may be.
const FEW: u64 = 4096;
/// So many connections that wait to be accepted are few, when all clients come back at once.
const SHORT_BACKLOG: u64 = 1024;

pub(super) fn look(settings: &Settings, running: Option<Running>) -> Vec<Check> {
    let max = settings.gateway.max_connections.map(|max| max as u64);
    let process = running.map_or("self".into(), |running| running.pid.to_string());
    let limits = fs::read_to_string(format!("/proc/{process}/limits"));
    let limit = limits.ok().and_then(|limits| open_files(&limits));
    // A node raises its limit as far as it may; one that runs has done so.
    let whose = match running {
        Some(Running { pid }) => format!("the running node (process {pid})"),
        None => "a node that is started here".to_owned(),
    };
    let mut checks = vec![judge_descriptors(limit, max, &whose)];
    let number = |path: &str| fs::read_to_string(path).ok()?.trim().parse::<u64>().ok();
    if let Some(backlog) = number("/proc/sys/net/core/somaxconn") {
        checks.push(judge_backlog(backlog));
    }
    if let (Some(count), Some(most)) = (
        number("/proc/sys/net/netfilter/nf_conntrack_count"),
        number("/proc/sys/net/netfilter/nf_conntrack_max"),
    ) {
        checks.push(judge_conntrack(count, most, max));
    }
    checks
}

/// The hard limit of descriptors, as `/proc/PID/limits` has it.
fn open_files(limits: &str) -> Option<u64> {
    let line = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"))?;
    match line.split_whitespace().nth(1)? {
        "unlimited" => Some(u64::MAX),
        hard => hard.parse().ok(),
    }
}

fn judge_descriptors(limit: Option<u64>, max: Option<u64>, whose: &str) -> Check {
    const NAME: &str = "descriptors";
    let Some(limit) = limit else {
        return Check::ok(NAME, "how many there may be is not known on this system");
    };
    let has = match limit {
        u64::MAX => format!("{whose} may have any number"),
        limit => format!("{whose} may have {}", grouped(limit)),
    };
    let raise = |to: u64| {
        Some(format!(
            "LimitNOFILE={to} under [Service] (systemctl edit heartline), or ulimit -Hn {to} in \
             the shell that starts it; in a container --ulimit nofile={to}"
        ))
    };
    match max {
        Some(max) if limit < max.saturating_add(SPARE) => {
            let found = format!(
                "{has}, and server.max_connections is {}: each connection takes one",
                grouped(max)
            );
            Check::problem(NAME, found, raise(max.saturating_add(SPARE)))
        }
        Some(max) => Check::ok(NAME, format!("{has}, for {} connections", grouped(max))),
        None if limit < FEW => {
            let found = format!("{has}, and each connection takes one");
            Check::warning(NAME, found, raise(65_536))
        }
        None => Check::ok(NAME, has),
    }
}

fn judge_backlog(most: u64) -> Check {
    const NAME: &str = "backlog";
    let found = format!("{} connections may wait to be accepted", grouped(most));
    match most < SHORT_BACKLOG {
        true => Check::warning(
            NAME,
            format!("{found}, and all clients come back at once after an outage"),
            Some(
                "sysctl -w net.core.somaxconn=4096, and the same in a file of /etc/sysctl.d".into(),
            ),
        ),
        false => Check::ok(NAME, found),
    }
}

/// The firewall's table of connections, which refuses new ones when it is full.
fn judge_conntrack(count: u64, most: u64, max: Option<u64>) -> Check {
    const NAME: &str = "conntrack";
    let found = format!(
        "the firewall remembers {} of at most {} connections",
        grouped(count),
        grouped(most)
    );
    let needed = max.unwrap_or(0).saturating_mul(2);
    let is_nearly_full = count.saturating_mul(5) > most.saturating_mul(4);
    match is_nearly_full || most < needed {
        true => {
            let more = most.saturating_mul(4).max(needed);
            let todo = format!("sysctl -w net.netfilter.nf_conntrack_max={more}");
            let why = match is_nearly_full {
                true => ", and refuses all others",
                false => ", which is too few for server.max_connections",
            };
            Check::warning(NAME, format!("{found}{why}"), Some(todo))
        }
        false => Check::ok(NAME, found),
    }
}

#[cfg(test)]
mod tests {
    use super::super::report::Status;
    use super::*;

    #[test]
    fn the_limit_of_descriptors_is_read_and_compared() {
        let text = "Limit                     Soft Limit           Hard Limit           Units\n\
                    Max processes             15424                15424                processes\n\
                    Max open files            1024                 524288               files\n";
        assert_eq!(open_files(text), Some(524_288));
        assert_eq!(
            open_files("Max open files  unlimited  unlimited  files"),
            Some(u64::MAX)
        );
        assert_eq!(open_files(""), None);
        for (limit, max, expected) in [
            (Some(524_288), None, Status::Ok),
            (Some(1024), None, Status::Warning),
            (Some(10_256), Some(10_000), Status::Ok),
            (Some(10_255), Some(10_000), Status::Problem),
            (Some(u64::MAX), Some(u64::MAX), Status::Ok),
            (None, Some(10_000), Status::Ok),
        ] {
            let check = judge_descriptors(limit, max, "a node");
            assert_eq!(check.status, expected, "{check:?}");
        }
        let todo = judge_descriptors(Some(1024), Some(50_000), "a node")
            .todo
            .unwrap();
        assert!(todo.contains("LimitNOFILE=50256"), "{todo}");
    }

    #[test]
    fn short_queues_and_full_tables_are_warned_of() {
        assert_eq!(judge_backlog(128).status, Status::Warning);
        assert_eq!(judge_backlog(4096).status, Status::Ok);
        for (count, most, max, expected) in [
            (100, 65_536, None, Status::Ok),
            (60_000, 65_536, None, Status::Warning),
            (100, 65_536, Some(50_000), Status::Warning),
        ] {
            assert_eq!(judge_conntrack(count, most, max).status, expected);
        }
    }
}

//! The Redis of `cluster.url`, and the nodes that live there.

use std::net::IpAddr;
use std::time::Duration;

use heartline_cluster::{Diagnosis, Unusable, diagnose, own_address, place};

use super::report::Check;
use crate::config::Settings;

const NAME: &str = "cluster";
/// From where on the way to Redis is long: the first socket of a user waits for it.
const FAR: Duration = Duration::from_millis(20);

/// The checks, and how far the clock of Redis is ahead, milliseconds.
pub(super) async fn look(settings: &Settings) -> (Vec<Check>, Option<i64>) {
    let Some(url) = &settings.cluster_url else {
        let check = Check::ok(NAME, "none (cluster.url): this node is all there is");
        return (vec![check], None);
    };
    let at = place(url).unwrap_or("its address".into());
    let found = diagnose(url, &settings.cluster_prefix, &settings.alike).await;
    let mut checks = match &found {
        Ok(found) => {
            let at = found.place.as_deref().unwrap_or(&at);
            judge(at, &settings.cluster_prefix, found)
        }
        Err(why) => vec![judge_unreached(&at, why)],
    };
    checks.extend(judge_key(settings));
    let is_set = settings.cluster_listen.is_some() || settings.cluster_advertise.is_some();
    if found.is_ok() && !is_set {
        checks.extend(judge_address(own_address(url).await));
    }
    (checks, found.ok().map(|found| found.ahead))
}

fn judge_unreached(at: &str, Unusable { why, todo }: &Unusable) -> Check {
    let todo = match (todo, why) {
        (Some(todo), _) => (*todo).to_owned(),
        (None, why) if why.starts_with("NOAUTH") || why.starts_with("WRONGPASS") => {
            "name user and password in cluster.url: redis://USER:PASSWORD@HOST:PORT".to_owned()
        }
        _ => {
            let (host, port) = at.rsplit_once(':').unwrap_or((at, "6379"));
            format!("redis-cli -h {host} -p {port} ping, on this machine: is it running, and open?")
        }
    };
    Check::problem(
        NAME,
        format!("the Redis at {at} cannot be used: {why}"),
        Some(todo),
    )
}

fn judge(at: &str, prefix: &str, found: &Diagnosis) -> Vec<Check> {
    let mut checks = Vec::new();
    let what = found.condition.what.as_deref().unwrap_or("Redis");
    let took = found.round_trip.as_secs_f64() * 1e3;
    let nodes = match &found.nodes[..] {
        [] => "no node lives there yet".to_owned(),
        [one] => format!("one node lives there: {one}"),
        all => format!("{} nodes live there: {}", all.len(), some_of(all)),
    };
    let answers = format!("{what} at {at} answers in {took:.1} ms; {nodes}");
    checks.push(match found.round_trip > FAR {
        true => Check::warning(
            NAME,
            format!("{answers}. A user's first connection waits for that"),
            Some("put the nodes and their Redis into one place".into()),
        ),
        false => Check::ok(NAME, answers),
    });
    for finding in &found.condition.findings {
        let told = format!("the Redis of cluster.url {}", finding.sentence);
        let todo = Some(finding.todo.to_owned());
        checks.push(match finding.is_fatal {
            true => Check::problem(NAME, told, todo),
            false => Check::warning(NAME, told, todo),
        });
    }
    if !found.forbidden.is_empty() {
        let told = format!(
            "the user of cluster.url may not do {}, which a node needs",
            found.forbidden.join(", ")
        );
        let todo = format!(
            "ACL SETUSER USER ~{{{prefix}}}* &{{{prefix}}}:* &{prefix}:* +@read +@write +@pubsub \
             +@scripting +@connection -@dangerous +info +role +time"
        );
        checks.push(Check::problem(NAME, told, Some(todo)));
    }
    for sentence in &found.different {
        let todo = "give all nodes the same, and restart those that differ";
        checks.push(Check::warning(NAME, sentence, Some(todo.into())));
    }
    for (node, address, why) in &found.unreached {
        let told = format!("node {node} is not reached from here at {address}: {why}");
        let todo =
            "set cluster.advertise (or cluster.listen) there to an address that others reach";
        checks.push(Check::warning(NAME, told, Some(todo.into())));
    }
    checks
}

/// The first few of many names.
fn some_of(all: &[String]) -> String {
    const SHOWN: usize = 5;
    let shown = all
        .iter()
        .take(SHOWN)
        .cloned()
        .collect::<Vec<_>>()
        .join(", ");
    match all.len() > SHOWN {
        true => format!("{shown}, …"),
        false => shown,
    }
}

fn judge_key(settings: &Settings) -> Option<Check> {
    settings.cluster_key_previous.as_ref().map(|_| {
        Check::warning(
            NAME,
            "cluster.key_previous is set: what is not signed with cluster.key is believed too",
            Some("when all nodes have the key, take cluster.key_previous out and restart".into()),
        )
    })
}

/// The address that other nodes would be told.
fn judge_address(own: Option<IpAddr>) -> Option<Check> {
    own.filter(IpAddr::is_loopback).map(|own| {
        Check::warning(
            NAME,
            format!(
                "other nodes would be told {own}, by which this one reaches Redis: on other \
                 machines that is not this node"
            ),
            Some(
                "with nodes on other machines, set cluster.listen to an address that they reach"
                    .into(),
            ),
        )
    })
}

#[cfg(test)]
mod tests {
    use heartline_cluster::{Condition, Finding};

    use super::super::report::Status;
    use super::*;

    fn statuses(checks: &[Check]) -> Vec<Status> {
        checks.iter().map(|check| check.status).collect()
    }

    #[test]
    fn what_a_node_would_not_start_with_is_a_problem_and_the_rest_a_warning() {
        let finding = |is_fatal| Finding {
            key: "k",
            is_fatal,
            sentence: "is so".into(),
            todo: "do that",
        };
        let found = Diagnosis {
            condition: Condition {
                what: Some("Redis 7.2".into()),
                findings: vec![finding(true), finding(false)],
            },
            forbidden: vec!["PUBLISH".into()],
            nodes: vec!["n1".into(), "n2".into()],
            different: vec!["auth.mode is …".into()],
            unreached: vec![("n2".into(), "10.0.0.2:7000".into(), "refused".into())],
            ..Diagnosis::default()
        };
        let checks = judge("redis:6379", "hl", &found);
        use Status::{Ok, Problem, Warning};
        assert_eq!(
            statuses(&checks),
            [Ok, Problem, Warning, Problem, Warning, Warning]
        );
        assert!(checks[0].found.contains("2 nodes live there: n1, n2"));
        assert!(
            checks[3]
                .todo
                .as_ref()
                .unwrap()
                .contains("~{hl}* &{hl}:* &hl:*")
        );
        let far = Diagnosis {
            round_trip: Duration::from_millis(21),
            ..Diagnosis::default()
        };
        assert_eq!(statuses(&judge("redis:6379", "hl", &far)), [Warning]);
    }

    #[test]
    fn a_server_that_lets_nobody_in_is_told_from_one_that_is_not_there() {
        let todo = |why: &str| {
            let unusable = Unusable {
                why: why.to_owned(),
                todo: None,
            };
            judge_unreached("redis:6380", &unusable).todo.unwrap()
        };
        assert!(todo("NOAUTH Authentication required.").contains("USER:PASSWORD"));
        assert!(todo("Connection refused").contains("redis-cli -h redis -p 6380 ping"));
        assert!(judge_address(Some([127, 0, 0, 1].into())).is_some());
        assert!(judge_address(Some([10, 0, 0, 1].into())).is_none());
    }
}

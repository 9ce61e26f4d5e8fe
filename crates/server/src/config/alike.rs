//! What the nodes of a cluster should have alike: each setting as it was understood, in the form
//! in which one would write it. However it was written, it is the same then where it means the same.

use std::time::Duration;

use heartline::config::{
    Announce, AuthMode, ConversationAccess, DevicePolicy, Limit, NamespaceConfig, OnExcess,
    RoomsDefault,
};
use heartline_cluster::SocketIoAdapter;
use heartline_cluster::seal::fingerprint;
use toml::Value;

use super::names::NAMESPACES;
use super::settings::Settings;

/// Most namespaces whose keys other nodes are told: each takes some hundred bytes, of each node.
const MAX_TOLD: usize = 100;

/// What nodes of a cluster that differ in it would not do as one.
const OF_NODE: [(&str, fn(&Settings) -> String); 11] = [
    ("server.max_payload", |s| s.gateway.max_payload.to_string()),
    ("presence.offline_grace", |s| time(s.gateway.offline_grace)),
    ("rooms.default", |s| {
        quoted(match s.gateway.rooms_default {
            RoomsDefault::Open => "open",
            RoomsDefault::Closed => "none",
        })
    }),
    ("conversations.access", |s| {
        quoted(match s.gateway.conversations.access {
            ConversationAccess::Members => "members",
            ConversationAccess::Open => "open",
        })
    }),
    ("recovery.window", |s| {
        or_off(s.gateway.recovery.window.map(time))
    }),
    ("recovery.rooms", |s| list(&s.gateway.recovery.rooms)),
    ("cluster.lease_ttl", |s| time(s.lease_ttl)),
    ("cluster.lease_refresh", |s| time(s.lease_refresh)),
    ("cluster.failure_timeout", |s| {
        or_off(s.failure_timeout.map(time))
    }),
    ("cluster.socketio_adapter", |s| {
        quoted(match s.socketio_adapter {
            SocketIoAdapter::Off => "off",
            SocketIoAdapter::Classic => "classic",
            SocketIoAdapter::Sharded => "sharded",
        })
    }),
    ("cluster.socketio_key", |s| quoted(&s.socketio_key)),
];

/// The same of each namespace; `None` where it has no effect.
const OF_NAMESPACE: [(&str, fn(&NamespaceConfig) -> Option<String>); 7] = [
    ("auth.mode", |n| {
        Some(quoted(match n.auth_mode {
            AuthMode::Required => "required",
            AuthMode::Optional => "optional",
            AuthMode::Off => "off",
        }))
    }),
    ("devices.policy", |n| {
        Some(quoted(match n.devices {
            DevicePolicy::Unlimited => "unlimited",
            DevicePolicy::Replace => "replace",
            DevicePolicy::Limit { .. } => "limit",
        }))
    }),
    ("devices.max", |n| match n.devices {
        DevicePolicy::Limit { max, .. } => Some(max.to_string()),
        _ => None,
    }),
    ("devices.on_excess", |n| match n.devices {
        DevicePolicy::Limit { on_excess, .. } => Some(quoted(match on_excess {
            OnExcess::Reject => "reject",
            OnExcess::EvictOldest => "evict_oldest",
        })),
        _ => None,
    }),
    ("devices.max_sockets", |n| Some(n.max_sockets.to_string())),
    ("limits.messages", |n| {
        Some(or_off(n.limits.messages.map(limit)))
    }),
    ("presence.announce", |n| {
        Some(quoted(match n.announce {
            Announce::Namespace => "namespace",
            Announce::Rooms => "rooms",
            Announce::Off => "off",
        }))
    }),
];

/// These settings, those of `/` under the keys' own names; which namespaces there are, and which key
/// the cluster has.
pub(super) fn alike(settings: &Settings) -> Vec<(String, String)> {
    let of_node = OF_NODE
        .iter()
        .map(|(name, read)| ((*name).to_owned(), read(settings)));
    let namespaces = &settings.gateway.namespaces;
    let of_each = namespaces.iter().take(MAX_TOLD).flat_map(|(name, config)| {
        let before = match &**name {
            "/" => String::new(),
            name => format!("{NAMESPACES}\"{name}\"."),
        };
        let keys = OF_NAMESPACE.iter();
        keys.filter_map(move |(key, read)| Some((format!("{before}{key}"), read(config)?)))
    });
    let names: Vec<String> = namespaces.keys().cloned().collect();
    let which = match names.len() > MAX_TOLD {
        false => list(&names),
        true => {
            let which = fingerprint(&list(&names));
            format!("{} of fingerprint {which}", names.len())
        }
    };
    let others = [
        ("namespaces".into(), which),
        ("cluster.key".into(), key_of_cluster(settings)),
    ];
    of_node.chain(of_each).chain(others).collect()
}

/// Which key the nodes of a cluster sign with. Another node sees whether it has the same, and
/// whoever reads Redis does not see the key.
fn key_of_cluster(settings: &Settings) -> String {
    let key = settings.cluster_key.as_deref();
    let name = key.map(|key| format!("the one of fingerprint {}", fingerprint(key)));
    name.unwrap_or("off".into())
}

fn quoted(text: &str) -> String {
    Value::from(text).to_string()
}

fn or_off(text: Option<String>) -> String {
    text.unwrap_or_else(|| quoted("off"))
}

fn time(time: Duration) -> String {
    quoted(&humantime::format_duration(time).to_string())
}

fn limit(Limit { count, window }: Limit) -> String {
    format!("{{ count = {count}, window = {} }}", time(window))
}

/// A list in which neither order nor repetition means anything.
fn list(texts: &[String]) -> String {
    let mut texts = texts.to_vec();
    texts.sort_unstable();
    texts.dedup();
    Value::from(texts).to_string()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::config::keys::Apply;
    use crate::config::names::find;
    use crate::config::tests::set;

    fn told(pairs: &[&str]) -> BTreeMap<String, String> {
        let loaded = set(pairs).unwrap_or_else(|errors| panic!("{errors}"));
        loaded.settings.alike.into_iter().collect()
    }

    #[test]
    fn what_means_the_same_is_told_alike_however_it_is_written() {
        for (one, other) in [
            ("server.max_payload=1MB", "server.max_payload=1_000_000"),
            ("presence.offline_grace=60s", "presence.offline_grace=1m"),
            ("presence.offline_grace=off", "presence.offline_grace=0s"),
            ("recovery.window=off", "recovery.window=false"),
            ("recovery.rooms=a,b", "recovery.rooms=[\"b\", \"a\", \"b\"]"),
            ("devices.max_sockets=1_000", "devices.max_sockets=1000"),
            (
                "limits.messages=10/10s",
                "limits.messages={ count = 10, window = \"10000ms\" }",
            ),
            ("limits.messages=off", "limits.messages=false"),
            ("presence.announce=ROOMS", "presence.announce=rooms"),
            (
                "cluster.socketio_adapter=true",
                "cluster.socketio_adapter=classic",
            ),
            ("auth.mode=Optional", "namespaces.\"/\".auth.mode=optional"),
            ("devices.max=7", "devices.max=8"),
        ] {
            assert_eq!(told(&[one]), told(&[other]), "{one} and {other}");
        }
        let grace = told(&["presence.offline_grace=90s"]);
        assert_eq!(grace["presence.offline_grace"], "\"1m 30s\"");
    }

    #[test]
    fn what_is_told_is_what_one_would_write() {
        let pairs = ["devices.policy=limit", "recovery.window=2m"];
        let all = told(&pairs);
        for (name, text) in &all {
            if let Some(key) = find(name) {
                let again = told(&[pairs[0], pairs[1], &format!("{}={text}", key.name)]);
                assert_eq!(all, again, "{name} = {text}");
            }
        }
        for (name, _) in OF_NODE {
            assert!(matches!(find(name).unwrap().apply, Apply::Node(_)));
            assert!(all.contains_key(name), "{name}");
        }
        for (name, _) in OF_NAMESPACE {
            assert!(matches!(find(name).unwrap().apply, Apply::Namespace(_)));
            assert!(all.contains_key(name), "{name}");
        }
    }

    #[test]
    fn the_keys_of_each_namespace_are_told_whoever_set_them() {
        const MODE: &str = "namespaces.\"/chat\".auth.mode";
        let with = told(&["namespaces./chat.auth.mode=optional"]);
        let without = told(&["namespaces./chat=true"]);
        assert_eq!(with[MODE], "\"optional\"");
        assert_eq!(without[MODE], "\"required\"");
        assert_eq!(with["namespaces"], "[\"/\", \"/chat\"]");
        assert_eq!(told(&[])["namespaces"], "[\"/\"]");
        let limit = ["namespaces./chat.devices.policy=limit"];
        assert_eq!(told(&limit)["namespaces.\"/chat\".devices.max"], "5");
        assert!(!told(&limit).contains_key("devices.max"));
    }

    #[test]
    fn what_is_told_has_a_bound() {
        let many = |count: usize| {
            let named = |number: usize| format!("namespaces./n{number}=true");
            let named: Vec<String> = (1..count).map(named).collect();
            told(&named.iter().map(String::as_str).collect::<Vec<_>>())
        };
        let (most, more, others) = (many(MAX_TOLD), many(MAX_TOLD + 1), many(MAX_TOLD + 2));
        assert_eq!(most.len(), more.len());
        assert!(most["namespaces"].starts_with('['));
        assert!(more["namespaces"].starts_with("101 of fingerprint "));
        assert_ne!(more["namespaces"], others["namespaces"]);
    }
}

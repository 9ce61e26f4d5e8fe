//! What the nodes of a cluster should have alike.

use heartline_cluster::seal::fingerprint;

use super::names::{find, namespace_key};
use super::settings::Settings;
use super::sources::All;

/// What nodes of a cluster that differ in it would not do as one.
const ALIKE: [&str; 18] = [
    "server.max_payload",
    "auth.mode",
    "devices.policy",
    "devices.max",
    "devices.max_sockets",
    "devices.on_excess",
    "limits.messages",
    "presence.announce",
    "presence.offline_grace",
    "rooms.default",
    "conversations.access",
    "recovery.window",
    "recovery.rooms",
    "cluster.lease_ttl",
    "cluster.lease_refresh",
    "cluster.failure_timeout",
    "cluster.socketio_adapter",
    "cluster.socketio_key",
];

/// The values of these, in namespaces too, and which key the cluster has.
pub(super) fn alike(settings: &Settings, given: &All) -> Vec<(String, String)> {
    let of_all = ALIKE.iter().filter_map(|name| {
        let key = find(name)?;
        let value = given.get(key.name).map(|given| key.masked(&given.value));
        Some((key.name.to_owned(), value.unwrap_or(key.default.to_owned())))
    });
    let of_one = given.iter().filter_map(|(name, given)| {
        let (_, key) = namespace_key(name)?;
        let key = find(key).filter(|key| ALIKE.contains(&key.name))?;
        Some((name.clone(), key.masked(&given.value)))
    });
    let key_of_cluster = std::iter::once(key_of_cluster(settings));
    of_all.chain(of_one).chain(key_of_cluster).collect()
}

/// Which key the nodes of a cluster sign with. Another node sees whether it has the same, and
/// whoever reads Redis does not see the key.
fn key_of_cluster(settings: &Settings) -> (String, String) {
    let key = settings.cluster_key.as_deref();
    let name = key.map(|key| format!("the one of fingerprint {}", fingerprint(key)));
    ("cluster.key".into(), name.unwrap_or("off".into()))
}

//! From keys and values to settings, by the table of keys.

use std::collections::BTreeMap;

use heartline::config::NamespaceConfig;
use toml::Value;

use super::keys::{self, Apply, Key};
use super::names::{find, is_bare_namespace, namespace_key, not_a_namespace, unknown};
use super::settings::Settings;
use super::sources::{All, Sourced};
use super::value;

/// Whether there are such keys.
fn check_names(given: &All, errors: &mut Vec<String>) {
    for (name, Sourced { origin, value }) in given {
        if let Some(what) = not_a_namespace(name) {
            errors.push(format!("{what} (from {origin})"));
        } else if is_bare_namespace(name) {
            if value.as_bool() != Some(true) && value.as_str() != Some("true") {
                let name = name.trim_end_matches('.');
                errors.push(format!(
                    "{name} has keys of its own, like {name}.auth.mode, or is true (from {origin})"
                ));
            }
        } else if find(name).is_none() {
            errors.push(unknown(name, origin));
        }
    }
}

/// Whether what `config show` prints in place of secrets stands where it would be taken for one.
fn check_masks(given: &All, errors: &mut Vec<String>) {
    for (name, Sourced { origin, value }) in given {
        if find(name).is_some_and(|key| key.is_masked(value)) {
            errors.push(format!(
                "{name} has the mask that `config show` prints in place of a secret: write the \
                 secret itself, or leave the key out (from {origin})"
            ));
        }
    }
}

/// What the values mean, one by one.
pub(super) fn understand(given: &All, errors: &mut Vec<String>) -> Settings {
    let mut settings = Settings::default();
    check_names(given, errors);
    check_masks(given, errors);
    let mut wrong = |name: &str, origin: &str, what: String| {
        errors.push(format!("{name} {what} (from {origin})"));
    };
    let value_of = |key: &Key| match given.get(key.name) {
        Some(Sourced { value, origin }) => (value.clone(), origin.clone()),
        None => (value::literal(key.default), "the defaults".to_owned()),
    };
    // In the order of the table: `devices.policy` comes before its details.
    for key in keys::all() {
        let (value, origin) = value_of(key);
        let mut put = |value: &Value| match key.apply {
            Apply::Node(apply) => apply(&mut settings, value),
            Apply::Namespace(apply) => apply(&mut settings.namespace, value),
        };
        if let Err(what) = put(&value) {
            wrong(key.name, &origin, what);
            // What is compared with it is not wrong as well.
            let _ = put(&value::literal(key.default));
        }
    }
    let mut namespaces = BTreeMap::from([("/".to_owned(), settings.namespace.clone())]);
    for (name, _) in given.keys().filter_map(|name| namespace_key(name)) {
        namespaces
            .entry(name)
            .or_insert_with(|| settings.namespace.clone());
    }
    for key in keys::all() {
        let Apply::Namespace(apply) = key.apply else {
            continue;
        };
        for (name, Sourced { value, origin }) in given {
            let Some((namespace, of)) = namespace_key(name) else {
                continue;
            };
            let config: Option<&mut NamespaceConfig> = namespaces.get_mut(&namespace);
            if let (true, Some(config)) = (of == key.name, config) {
                if let Err(what) = apply(config, value) {
                    wrong(name, origin, what);
                }
                // A policy set here brings the limit's details from outside along.
                if key.name == "devices.policy" {
                    for detail in keys::all()
                        .filter(|key| ["devices.max", "devices.on_excess"].contains(&key.name))
                    {
                        if let Apply::Namespace(apply) = detail.apply {
                            let _ = apply(config, &value_of(detail).0);
                        }
                    }
                }
            }
        }
    }
    settings.gateway.namespaces = namespaces;
    if !given.contains_key("store.url") {
        settings.store = settings.store.unset();
    }
    settings
}

#[cfg(test)]
mod tests {
    use crate::config::tests::set;
    use heartline::config::{Announce, AuthMode, DevicePolicy, Limit, OnExcess};
    use std::time::Duration;

    #[test]
    fn the_defaults_are_the_contracts() {
        let settings = set(&[])
            .unwrap_or_else(|errors| panic!("{errors}"))
            .settings;
        assert_eq!(settings.listen, "0.0.0.0:8080");
        assert_eq!(settings.gateway.max_payload, 1_000_000);
        assert_eq!(settings.gateway.heartbeat.interval, Duration::from_secs(25));
        assert_eq!(settings.gateway.heartbeat.timeout, Duration::from_secs(10));
        assert_eq!(
            settings.gateway.namespaces["/"].limits.messages,
            Some(Limit::per(10, 10))
        );
        assert_eq!(
            settings.gateway.namespaces["/"].auth_mode,
            AuthMode::Required
        );
        assert_eq!(settings.gateway.max_rooms_per_socket, 100);
        assert_eq!(settings.jwt.claims.user, "sub");
        assert_eq!(settings.jwt.leeway, Duration::from_secs(5));
    }

    #[test]
    fn each_time_that_is_set_is_the_one_that_is_meant() {
        let loaded = set(&[
            "heartbeat.interval=1s",
            "heartbeat.timeout=2s",
            "heartbeat.app_interval=3s",
            "heartbeat.stale_after=4s",
            "heartbeat.sweep_interval=5s",
            "heartbeat.idle_timeout=6s",
            "presence.offline_grace=7s",
            "server.auth_timeout=8s",
            "server.connect_timeout=9s",
            "server.drain_spread=10s",
            "server.drain_timeout=11s",
            "server.handler_timeout=12s",
            "server.upgrade_timeout=13s",
        ]);
        let heartline::Config {
            heartbeat,
            offline_grace,
            auth_timeout,
            connect_timeout,
            drain_spread,
            drain_timeout,
            handler_timeout,
            upgrade_timeout,
            ..
        } = loaded
            .unwrap_or_else(|errors| panic!("{errors}"))
            .settings
            .gateway;
        let times = [
            Some(heartbeat.interval),
            Some(heartbeat.timeout),
            heartbeat.app_interval,
            heartbeat.stale_after,
            Some(heartbeat.sweep_interval),
            heartbeat.idle_timeout,
            Some(offline_grace),
            Some(auth_timeout),
            Some(connect_timeout),
            drain_spread,
            Some(drain_timeout),
            Some(handler_timeout),
            Some(upgrade_timeout),
        ];
        for (seconds, time) in (1..).zip(times) {
            assert_eq!(time, Some(Duration::from_secs(seconds)));
        }
    }

    #[test]
    fn namespaces_override() {
        let loaded = set(&[
            "limits.messages=off",
            "namespaces.\"/chat\".auth.mode=optional",
            "namespaces.\"/chat\".devices.policy=limit",
            "namespaces.\"/chat\".devices.max=2",
            "devices.on_excess=evict_oldest",
            "namespaces./bare.devices.policy=replace",
            "namespaces./bare.presence.announce=rooms",
            "namespaces./bare.limits.joins={count=1,window=\"1s\"}",
        ]);
        let namespaces = loaded
            .unwrap_or_else(|errors| panic!("{errors}"))
            .settings
            .gateway
            .namespaces;
        let chat = &namespaces["/chat"];
        assert_eq!(chat.auth_mode, AuthMode::Optional);
        let policy = DevicePolicy::Limit {
            max: 2,
            on_excess: OnExcess::EvictOldest,
        };
        assert_eq!(chat.devices, policy);
        assert_eq!(chat.limits.messages, None);
        assert_eq!(namespaces["/bare"].limits.joins, Some(Limit::per(1, 1)));
        assert_eq!(namespaces["/bare"].devices, DevicePolicy::Replace);
        assert_eq!(namespaces["/bare"].announce, Announce::Rooms);
        assert_eq!(namespaces["/"].auth_mode, AuthMode::Required);
    }

    #[test]
    fn all_errors_are_told_at_once() {
        let Err(errors) = set(&[
            "heartbeat.interval=soon",
            "server.max_payload=big",
            "devices.policy=some",
        ]) else {
            panic!("it was accepted");
        };
        assert_eq!(errors.0.len(), 3);
    }
}

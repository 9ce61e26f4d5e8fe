//! What is allowed and unwise, or has no effect.

use heartline::config::{DevicePolicy, NamespaceConfig};
use heartline_cluster::SocketIoAdapter::Off;
use heartline_wire::invite;

use super::check::GOOD_SECRET;
use super::keys::{self, Key};
use super::settings::{Settings, StoreUrl};
use super::sources::{All, WITH_CLUSTER};
use super::value;
use crate::hosts::is_loopback;

/// What is allowed and unwise, or has no effect.
pub(super) fn warnings(settings: &Settings, given: &All) -> Vec<String> {
    let mut all = unsafe_or_shut(settings);
    let gateway = &settings.gateway;
    if gateway.max_payload > gateway.send_buffer {
        all.push(format!(
            "server.max_payload is more than server.send_buffer ({} bytes): whoever is sent a \
             message of that size, and does not read at once, is closed as too slow (4413)",
            gateway.send_buffer
        ));
    }
    if settings.lease_refresh > settings.lease_ttl / 2 {
        all.push(
            "cluster.lease_refresh is more than half of cluster.lease_ttl: a node that is late \
             once is taken for dead"
                .into(),
        );
    }
    all.extend(kept_in_memory(settings, given));
    all.extend(not_kept(settings));
    all.extend(not_found_in_its_address(settings));
    // What is as it is anyway need not have an effect.
    let set = |key: &Key| {
        let given = given.get(key.name);
        given.is_some_and(|given| !value::are_alike(&given.value, &value::literal(key.default)))
    };
    let first_set = |names: fn(&str) -> bool| keys::all().find(|key| names(key.name) && set(key));
    let limited = |config: &NamespaceConfig| matches!(config.devices, DevicePolicy::Limit { .. });
    let of_limit = first_set(|name| ["devices.max", "devices.on_excess"].contains(&name));
    if let (Some(key), false) = (of_limit, gateway.namespaces.values().any(limited)) {
        all.push(format!(
            "{} has no effect without devices.policy = \"limit\"",
            key.name
        ));
    }
    let of_recovery = first_set(|name| name.starts_with("recovery.") && name != "recovery.window");
    if let (Some(key), None) = (of_recovery, gateway.recovery.window) {
        all.push(format!(
            "{} has no effect without recovery.window",
            key.name
        ));
    }
    let of_wallets =
        first_set(|name| name.starts_with("auth.wallet.") && name != "auth.wallet.enabled");
    if let (Some(key), false) = (of_wallets, settings.wallet.enabled) {
        all.push(format!(
            "{} has no effect without auth.wallet.enabled",
            key.name
        ));
    }
    let of_cluster = first_set(|name| name.starts_with("cluster.") && name != "cluster.url");
    if let (None, Some(key)) = (&settings.cluster_url, of_cluster) {
        all.push(format!("{} has no effect without cluster.url", key.name));
    }
    all
}

/// What lets strangers in, or nobody.
fn unsafe_or_shut(settings: &Settings) -> Vec<String> {
    let mut all = Vec::new();
    all.extend(several_keys(settings));
    all.extend(short_secret(settings));
    let proxies = &settings.gateway.trusted_proxies;
    if proxies.iter().any(|net| net.prefix_len() == 0) {
        all.push(
            "server.trusted_proxies holds every address: clients can claim to have any".into(),
        );
    }
    if let Some(url) = settings
        .jwt
        .jwks_url
        .as_ref()
        .filter(|url| url.starts_with("http://"))
    {
        let host = url["http://".len()..]
            .split(['/', '@'])
            .next()
            .unwrap_or_default();
        if !is_loopback(host) && host != "localhost" {
            all.push(
                "auth.jwt.jwks_url is not https: whoever is on the way can give out keys".into(),
            );
        }
    }
    all.extend(exposed(settings));
    all
}

/// What is to be said of several keys: whatever is signed with either is let in. That is meant
/// while an issuer changes, and where wallets' tokens are signed here beside a key set.
fn several_keys(settings: &Settings) -> Option<String> {
    let jwt = &settings.jwt;
    let keys = [
        ("auth.jwt.secret", jwt.secret.is_some()),
        ("auth.jwt.public_key", jwt.public_key.is_some()),
        ("auth.jwt.jwks_url", jwt.jwks_url.is_some()),
    ];
    let set = keys
        .iter()
        .filter_map(|(name, is_set)| is_set.then_some(*name));
    let set: Vec<&str> = set.collect();
    let is_meant = set.len() < 2 || (settings.wallet.enabled && jwt.secret.is_some());
    (!is_meant).then(|| {
        format!(
            "{} are set together, and tokens signed with either are let in: keep the one that \
             your issuer signs with",
            set.join(" and ")
        )
    })
}

/// That the secret is short, if it is.
pub(crate) fn short_secret(settings: &Settings) -> Option<String> {
    let secret = settings.jwt.secret.as_deref();
    let short = secret.filter(|secret| secret.len() < GOOD_SECRET)?;
    Some(format!(
        "auth.jwt.secret has {} bytes; HS256 wants {GOOD_SECRET} or more (RFC 7518)",
        short.len()
    ))
}

/// That the operators' listener is reached from elsewhere and has no token, if so.
pub(crate) fn exposed(settings: &Settings) -> Option<String> {
    (settings.admin_token.is_none() && !is_loopback(&settings.admin_listen)).then(|| {
        "admin.token is off, and admin.listen is no loopback address: /v1 will answer nobody".into()
    })
}

/// That clients go on without what other servers have emitted, if they do.
fn not_kept(settings: &Settings) -> Option<String> {
    let is_beside = settings.cluster_url.is_some() && settings.socketio_adapter != Off;
    (is_beside && settings.gateway.recovery.window.is_some()).then(|| {
        "recovery.window is set beside cluster.socketio_adapter: what Socket.IO servers on Node \
         emit is not kept, so a client that was away for a moment goes on without it, and is \
         told of no gap"
            .into()
    })
}

/// That `invite:join` does not find the code in the addresses of invites.
fn not_found_in_its_address(settings: &Settings) -> Option<String> {
    let template = settings.gateway.conversations.invite_url.as_deref();
    (!template.is_none_or(invite::is_template)).then(|| {
        "invites.url has {code} where invite:join does not find it: clients have to give the code \
         alone; at the end of the path, like \"https://app.example/invite/{code}\", it is found"
            .into()
    })
}

/// That messages are in memory, where nobody has said that they should be.
fn kept_in_memory(settings: &Settings, given: &All) -> Option<String> {
    let origin = given.get("store.url").map(|given| &*given.origin);
    let is_unset = origin.is_none_or(|origin| origin == WITH_CLUSTER);
    (is_unset && settings.store == StoreUrl::Memory).then(|| {
        "messages are kept in memory, by each node for itself and until it ends (store.url)".into()
    })
}

#[cfg(test)]
mod tests {
    use super::several_keys;
    use crate::config::load::load;
    use crate::config::sources::Sources;
    use crate::config::tests::set;

    #[test]
    fn of_several_keys_that_let_tokens_in_somebody_is_told() {
        let secret = "auth.jwt.secret=0123456789abcdef0123456789abcdef";
        let (key, keys) = (
            "auth.jwt.public_key=key.pem",
            "auth.jwt.jwks_url=https://issuer.example/keys",
        );
        let told = |sets: &[&str]| several_keys(&set(sets).unwrap().settings);
        for pair in [[secret, key], [secret, keys], [key, keys]] {
            let told = told(&pair).unwrap();
            let names = pair.map(|pair| pair.split('=').next().unwrap());
            assert!(told.contains(&names.join(" and ")), "{told}");
        }
        for alone in [secret, key, keys] {
            assert_eq!(told(&[alone]), None);
        }
        // What a file sets can be switched off above it.
        assert_eq!(told(&[secret, "auth.jwt.secret=off", keys]), None);
        // Wallets' tokens are signed here.
        let wallets = ["auth.wallet.enabled=true", "auth.wallet.domain=app.example"];
        assert_eq!(told(&[secret, keys, wallets[0], wallets[1]]), None);
    }

    #[test]
    fn what_has_no_effect_or_is_unwise_is_warned_about() {
        let warned = |pairs: &[&str]| {
            let loaded = set(pairs).unwrap_or_else(|errors| panic!("{errors}"));
            loaded.warnings.join("; ")
        };
        assert_eq!(warned(&[]), "");
        for (pair, says) in [
            ("devices.max=3", "no effect"),
            ("recovery.journal=/tmp/journal", "without recovery.window"),
            ("cluster.prefix=x", "without cluster.url"),
            ("server.max_payload=2MB", "4413"),
            ("server.trusted_proxies=0.0.0.0/0", "every address"),
            ("server.trusted_proxies=::ffff:0:0/96", "every address"),
            ("cluster.lease_refresh=14s", "half"),
            ("auth.jwt.jwks_url=http://issuer.example/keys", "not https"),
            ("admin.listen=0.0.0.0:9090", "admin.token"),
        ] {
            assert!(
                warned(&[pair]).contains(says),
                "{pair}: {}",
                warned(&[pair])
            );
        }
        assert_eq!(
            warned(&["devices.max=3", "namespaces./chat.devices.policy=limit"]),
            ""
        );
        assert_eq!(warned(&["auth.jwt.jwks_url=http://127.0.0.1:1/keys"]), "");
        let beside = [
            "cluster.url=redis://127.0.0.1",
            "cluster.socketio_adapter=sharded",
        ];
        assert!(!warned(&beside).contains("not kept"));
        let recovers = [beside[0], beside[1], "recovery.window=2m"];
        assert!(warned(&recovers).contains("on Node emit is not kept"));
    }

    #[test]
    fn what_config_show_prints_is_checked_without_a_warning() {
        let file = std::env::temp_dir().join(format!("heartline-show-{}", std::process::id()));
        for set_too in [&[][..], &["devices.max=5"], &["auth.wallet.enabled=false"]] {
            let shown = set(set_too).unwrap_or_else(|errors| panic!("{errors}"));
            std::fs::write(&file, shown.show()).unwrap();
            let sources = Sources {
                file: file.to_str().map(Into::into),
                ..Sources::default()
            };
            let again = load(&sources, std::iter::empty());
            let again = again.unwrap_or_else(|errors| panic!("{errors}"));
            assert_eq!(again.warnings, Vec::<String>::new());
        }
        let _ = std::fs::remove_file(file);
    }
}

//! What cannot work, as far as no single key can know it.

use heartline::config::AllowedOrigins;

use super::place;
use super::settings::Settings;
use super::sources::Sources;
use crate::hosts::is_loopback;

/// Shortest secret that is accepted, bytes.
const MIN_SECRET: usize = 16;

/// What HS256 wants (RFC 7518 §3.2), bytes.
pub(super) const GOOD_SECRET: usize = 32;

/// What the public port answers elsewhere.
const OWN_PATHS: &[&str] = &[
    "/healthz",
    "/dev/token",
    "/dev/online",
    "/auth/challenge",
    "/auth/connect",
];

/// What no single key can know.
pub(super) fn check(settings: &Settings, sources: &Sources, errors: &mut Vec<String>) {
    if settings.lease_refresh >= settings.lease_ttl {
        errors.push("cluster.lease_refresh must be shorter than cluster.lease_ttl".into());
    }
    if settings.cluster_key.is_none() && settings.cluster_key_previous.is_some() {
        errors.push(
            "cluster.key_previous is what is believed beside cluster.key, and that is off: set both"
                .into(),
        );
    }
    if settings.tls_cert.is_some() != settings.tls_key.is_some() {
        errors.push("server.tls.cert and server.tls.key belong together: set both or none".into());
    }
    check_files(settings, errors);
    check_listeners(settings, sources.dev, errors);
    check_paths(settings, errors);
    let any = settings.gateway.allowed_origins == AllowedOrigins::Any;
    if any && settings.gateway.token_cookie.is_some() {
        errors.push(
            "auth.jwt.cookie does not go with server.allowed_origins = [\"*\"], or any page could \
             connect as its visitor: name the origins of your pages, like \
             server.allowed_origins = [\"https://app.example\"]"
                .into(),
        );
    }
    let heartbeat = &settings.gateway.heartbeat;
    let shortest = heartbeat.interval + heartbeat.timeout;
    if heartbeat.stale_after() < shortest {
        errors.push(format!(
            "heartbeat.stale_after must be at least heartbeat.interval + heartbeat.timeout \
             ({shortest:?}), or clients that answer every ping in time would be swept away"
        ));
    }
    let secret = settings.jwt.secret.as_deref();
    if let Some(secret) = secret.filter(|secret| secret.len() < MIN_SECRET) {
        errors.push(format!(
            "auth.jwt.secret has {} bytes, and whoever has one token can try so few out: use at \
             least {GOOD_SECRET} random bytes (`openssl rand -base64 32` makes such)",
            secret.len()
        ));
    }
    check_wallets(settings, sources.dev, errors);
}

/// Each listener has a place of its own, and with `--dev` none is reached from elsewhere.
fn check_listeners(settings: &Settings, dev: bool, errors: &mut Vec<String>) {
    let listeners = [
        ("server.listen", Some(&settings.listen)),
        ("admin.listen", Some(&settings.admin_listen)),
        ("cluster.listen", settings.cluster_listen.as_ref()),
    ];
    let listeners = listeners.map(|(key, address)| Some((key, address?)));
    let listeners: Vec<(&str, &String)> = listeners.into_iter().flatten().collect();
    for (index, (key, address)) in listeners.iter().enumerate() {
        for (other_key, other) in &listeners[..index] {
            if place::collide(address, other) {
                errors.push(format!(
                    "{key} and {other_key} cannot both be {address}: set one to another port"
                ));
            }
        }
        if dev && !is_loopback(address) {
            errors.push(format!(
                "--dev listens on this machine only, and {key} is {address:?}: use 127.0.0.1, or \
                 leave --dev out"
            ));
        }
    }
}

/// Files are one node's.
fn check_files(settings: &Settings, errors: &mut Vec<String>) {
    if settings.cluster_url.is_none() {
        return;
    }
    if settings.gateway.recovery.journal.is_some() {
        errors.push(
            "recovery.journal is for a node alone: what other nodes say while this one is down is \
             in no journal, and clients that it lets go on would never know. Set it to \"off\", or \
             leave cluster.url out"
                .into(),
        );
    }
    // In place of an address that was refused stands what nobody has asked for.
    let is_refused = errors.iter().any(|error| error.starts_with("store.url"));
    if settings.store.is_file() && !is_refused {
        errors.push(
            "store.url does not go with cluster.url: nodes cannot share a file. Set it to \
             postgres://USER:PASSWORD@HOST/DATABASE, or to memory:"
                .into(),
        );
    }
}

/// What sign-in with wallets needs. With `--dev` a secret is made where there is no key at all.
fn check_wallets(settings: &Settings, dev: bool, errors: &mut Vec<String>) {
    if !settings.wallet.enabled {
        return;
    }
    if settings.wallet.domain.is_empty() {
        errors.push(
            "auth.wallet.enabled needs auth.wallet.domain: where people sign in, like \
             \"app.example\", so that they can read it in what their wallet shows them"
                .into(),
        );
    }
    let verifies = settings.jwt.is_configured();
    if !settings.jwt.signs() && (verifies || !dev) {
        let there_is = match verifies {
            true => "auth.jwt only has one that verifies them",
            false => "there is none",
        };
        errors.push(format!(
            "auth.wallet.enabled needs a key that signs tokens, and {there_is}: either set \
             auth.jwt.secret (HS256), or auth.wallet.key to the PEM of an Ed25519 private key \
             (`openssl genpkey -algorithm ed25519` makes one)"
        ));
    }
}

/// Each path leads to one place.
fn check_paths(settings: &Settings, errors: &mut Vec<String>) {
    let socketio = &settings.gateway.socketio_path;
    if let Some(own) = OWN_PATHS
        .iter()
        .find(|own| format!("{own}/").starts_with(&**socketio))
    {
        errors.push(format!(
            "server.socketio_path {socketio:?} takes {own}, which the gateway answers itself: use \
             another"
        ));
    }
    let Some(live) = &settings.gateway.live_path else {
        return;
    };
    if format!("{live}/").starts_with(socketio) {
        errors.push(format!(
            "server.live_path {live:?} must not be server.socketio_path {socketio:?} or below it: \
             Socket.IO would answer there"
        ));
    }
    if OWN_PATHS.contains(&live.as_str()) {
        errors.push(format!(
            "server.live_path {live:?} is a path that the gateway answers itself: use another"
        ));
    }
}

#[cfg(test)]
mod tests {
    use crate::config::load::{Loaded, load};
    use crate::config::sources::Sources;
    use crate::config::tests::{set, wrong};

    #[test]
    fn what_cannot_be_listened_on_is_found_before_it_is_tried() {
        for key in [
            "server.listen",
            "admin.listen",
            "cluster.listen",
            "cluster.advertise",
        ] {
            let wrong = wrong(&[&format!("{key}=127.0.0.1:99999")]);
            assert!(wrong.starts_with(key) && wrong.contains("65535"), "{wrong}");
        }
        assert!(wrong(&["admin.listen=0.0.0.0:8080"]).contains("admin.listen and server.listen"));
    }

    #[test]
    fn paths_that_hide_each_other_are_refused() {
        for live in [
            "/socket.io/",
            "/socket.io",
            "socket.io",
            "/socket.io/live",
            "/healthz",
        ] {
            let wrong = wrong(&[&format!("server.live_path={live}")]);
            assert!(wrong.contains("server.live_path"), "{wrong}");
        }
        assert!(set(&["server.live_path=/socket.iolive"]).is_ok());
        let loaded = set(&["server.socketio_path=ws"]);
        let path = loaded
            .ok()
            .map(|loaded| loaded.settings.gateway.socketio_path);
        assert_eq!(path.as_deref(), Some("/ws/"));
    }

    #[test]
    fn nobody_is_swept_away_who_answers_in_time() {
        let beat = |stale| {
            let stale = format!("heartbeat.stale_after={stale}");
            set(&["heartbeat.interval=3s", "heartbeat.timeout=2s", &stale])
        };
        assert!(beat("4999ms").is_err());
        assert!(beat("5s").is_ok());
    }

    #[test]
    fn a_short_secret_is_refused_and_a_weak_one_warned_about() {
        let secret = |length| format!("auth.jwt.secret={}", "x".repeat(length));
        assert!(wrong(&[&secret(1)]).contains("has 1 bytes"));
        assert!(wrong(&[&secret(15)]).contains("openssl"));
        for (length, warnings) in [(16, 1), (31, 1), (32, 0)] {
            let loaded = set(&[&secret(length)]);
            assert_eq!(
                loaded.ok().map(|loaded| loaded.warnings.len()),
                Some(warnings)
            );
        }
    }

    #[test]
    fn wallets_need_a_domain_and_a_key_that_signs() {
        const ON: &str = "auth.wallet.enabled=true";
        const AT: &str = "auth.wallet.domain=App.example:443";
        const SECRET: &str = "auth.jwt.secret=0123456789abcdef0123456789abcdef";
        const JWKS: &str = "auth.jwt.jwks_url=https://issuer.example/keys";
        let refused = |pairs: &[&str]| {
            let refused = set(pairs).err();
            refused.map_or_else(String::new, |errors| errors.to_string())
        };
        assert_eq!(refused(&[ON, AT, SECRET]), "");
        assert_eq!(refused(&[ON, AT, JWKS, "auth.wallet.key=key.pem"]), "");
        assert_eq!(refused(&[ON, AT, JWKS, SECRET]), "");
        assert!(refused(&[ON, SECRET]).contains("needs auth.wallet.domain"));
        for (keys, there_is) in [(&[JWKS][..], "one that verifies"), (&[], "there is none")] {
            // Also where nobody needs a token to come in.
            for mode in ["required", "optional", "off"] {
                let mode = format!("auth.mode={mode}");
                let why = refused(&[&[ON, AT, &mode][..], keys].concat());
                assert!(why.contains(there_is), "{why}");
                assert!(why.contains("either set auth.jwt.secret"), "{why}");
                assert!(why.contains("or auth.wallet.key"), "{why}");
            }
        }
        assert_eq!(
            refused(&[ON, AT, SECRET, "cluster.url=redis://localhost"]),
            ""
        );
        for domain in [
            "https://a.example",
            "a.example/path",
            "a b",
            "*",
            "me@a.example",
        ] {
            let why = refused(&[&format!("auth.wallet.domain={domain}")]);
            assert!(why.contains("must be a host"), "{domain}: {why}");
        }
        let loaded = set(&[AT]).unwrap_or_else(|errors| panic!("{errors}"));
        assert_eq!(loaded.settings.wallet.domain, "app.example");
        assert!(
            loaded
                .warnings
                .iter()
                .any(|what| what.contains("auth.wallet.domain has no effect"))
        );
    }

    #[test]
    fn dev_makes_the_key_of_wallets_unless_another_verifies() {
        let refused = |more: &[&str]| {
            let sets = ["auth.wallet.enabled=true", "auth.wallet.domain=app.example"];
            let sources = Sources {
                set: sets.iter().chain(more).map(ToString::to_string).collect(),
                dev: true,
                ..Sources::default()
            };
            let refused = load(&sources, std::iter::empty()).err();
            refused.map_or_else(String::new, |errors| errors.to_string())
        };
        assert_eq!(refused(&[]), "");
        let why = refused(&["auth.jwt.jwks_url=https://issuer.example/keys"]);
        assert!(why.contains("one that verifies"), "{why}");
    }

    #[test]
    fn the_key_of_a_cluster_is_long_and_shown_to_nobody() {
        const AT: &str = "cluster.url=redis://localhost";
        const KEY: &str = "cluster.key=hunter2 and thirty-two bytes in all";
        const OTHER: &str = "cluster.key_previous=hunter2, another key of some length";
        let loaded = set(&[AT, KEY, OTHER]).unwrap();
        let of_key = |loaded: &Loaded| {
            let mut all = loaded.settings.alike.iter();
            all.find(|(key, _)| key == "cluster.key").unwrap().1.clone()
        };
        let told = of_key(&loaded);
        assert!(told.contains("fingerprint"), "{told}");
        assert!(!format!("{told}{}", loaded.show()).contains("hunter2"));
        assert_eq!(of_key(&set(&[AT]).unwrap()), "off");
        assert!(set(&[AT, KEY, "cluster.key_previous=unsigned"]).is_ok());
        for (wrong, says) in [
            (&[AT, "cluster.key=hunter2"][..], "at least 32 bytes, not 7"),
            (
                &[AT, KEY, "cluster.key_previous=hunter2"],
                "at least 32 bytes",
            ),
            (&[AT, OTHER], "set both"),
        ] {
            let refused = set(wrong).err().unwrap().to_string();
            assert!(refused.contains(says), "{refused}");
            assert!(!refused.contains("hunter2"), "{refused}");
        }
    }

    #[test]
    fn dev_stays_at_home() {
        let with = |set: String| {
            let sources = Sources {
                set: vec![set],
                dev: true,
                ..Sources::default()
            };
            load(&sources, std::iter::empty())
        };
        for key in ["server.listen", "admin.listen", "cluster.listen"] {
            for elsewhere in ["0.0.0.0:81", "[::]:81", "10.0.0.7:81", "node-1:81"] {
                let refused = with(format!("{key}={elsewhere}")).err().unwrap();
                let refused = refused.to_string();
                assert!(
                    refused.contains("--dev") && refused.contains(key),
                    "{refused}"
                );
            }
            for here in ["127.0.0.1:81", "localhost:81", "[::1]:81"] {
                assert!(with(format!("{key}={here}")).is_ok(), "{key}={here}");
            }
        }
    }
}

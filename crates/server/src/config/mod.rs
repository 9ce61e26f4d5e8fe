//! Configuration: a file, then the environment, then `--set`; the later wins.
//!
//! All sources become one list of keys and values; the table in [`keys`] says
//! what each means. All that is wrong is said at once, a sentence each.

pub(crate) mod given;
mod keys;
mod place;
mod settings;
mod value;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt::Write as _;

use heartline::config::NamespaceConfig;
use toml::Value;

use keys::{Apply, KEYS, Key};
pub(crate) use settings::{ClaimNames, JwtSettings, LogFormat, Settings};
pub(crate) use value::parse_duration;

use crate::hosts::is_loopback;

/// Where configuration comes from.
#[derive(Debug, Clone, Default)]
pub(crate) struct Sources {
    pub(crate) file: Option<String>,
    pub(crate) set: Vec<String>,
    /// `--dev`: other defaults, and loopback only.
    pub(crate) dev: bool,
}

/// What is wrong with it, a sentence each.
#[derive(Debug)]
pub(crate) struct Errors(pub(crate) Vec<String>);

impl std::fmt::Display for Errors {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0.join("\n"))
    }
}

/// A value, and the source that it is from.
struct Sourced {
    value: Value,
    origin: String,
}

type All = BTreeMap<String, Sourced>;

/// The configuration, understood, and as text for `config show`.
pub(crate) struct Loaded {
    pub(crate) settings: Settings,
    /// What is allowed and unwise, a sentence each.
    pub(crate) warnings: Vec<String>,
    given: All,
}

const ENVIRONMENT: &str = "HEARTLINE__";
const NAMESPACES: &str = "namespaces.";

/// Reads all sources.
///
/// # Errors
/// All that is wrong.
pub(crate) fn load(
    sources: &Sources,
    environment: impl Iterator<Item = (OsString, OsString)>,
) -> Result<Loaded, Errors> {
    let mut errors = Vec::new();
    let mut given = All::new();
    if sources.dev {
        for (key, value) in [
            ("server.listen", "\"127.0.0.1:8080\""),
            ("server.allowed_origins", "[\"*\"]"),
            ("auth.mode", "\"optional\""),
        ] {
            put(&mut given, key, value::literal(value), "--dev");
        }
    }
    if let Some(file) = &sources.file {
        match std::fs::read_to_string(file) {
            Ok(text) => match text.parse::<toml::Table>() {
                Ok(table) => flatten("", &table, file, &mut given),
                Err(error) => errors.push(format!("{file} is not TOML: {error}")),
            },
            Err(error) => errors.push(format!("{file} cannot be read: {error}")),
        }
    }
    // Variables that are not ours may be of any bytes.
    let ours = environment.filter(|(name, _)| {
        let name = name.as_encoded_bytes();
        name.starts_with(ENVIRONMENT.as_bytes())
    });
    for (name, text) in ours {
        let (Some(name), Some(text)) = (name.to_str(), text.to_str()) else {
            let name = name.to_string_lossy();
            errors.push(format!("the environment variable {name} is not UTF-8"));
            continue;
        };
        let key = name[ENVIRONMENT.len()..].to_ascii_lowercase();
        put_text(&mut given, &key.replace("__", "."), text, name);
    }
    for pair in &sources.set {
        match pair.split_once('=') {
            Some((key, text)) => put_text(&mut given, key.trim(), text.trim(), "--set"),
            None => errors.push(format!("--set {pair} must be KEY=VALUE")),
        }
    }
    let settings = understand(&given, &mut errors);
    check(&settings, sources, &mut errors);
    if errors.is_empty() {
        let warnings = warnings(&settings);
        Ok(Loaded {
            settings,
            warnings,
            given,
        })
    } else {
        Err(Errors(errors))
    }
}

fn put(given: &mut All, key: &str, value: Value, origin: &str) {
    let origin = origin.to_owned();
    given.insert(key.to_owned(), Sourced { value, origin });
}

/// Puts a value that came as text. What looks like a list or a table is one only where the
/// key takes such: a secret may look like anything.
fn put_text(given: &mut All, key: &str, text: &str, origin: &str) {
    let mut value = value::literal(text);
    if value.is_array() || value.is_table() {
        let takes = |value: &Value| match find(key).map(|key| &key.apply) {
            Some(Apply::Node(apply)) => apply(&mut Settings::default(), value).is_ok(),
            Some(Apply::Namespace(apply)) => apply(&mut NamespaceConfig::default(), value).is_ok(),
            None => true,
        };
        let plain = Value::String(text.to_owned());
        if !takes(&value) && takes(&plain) {
            value = plain;
        }
    }
    put(given, key, value, origin);
}

/// Turns nested tables into dotted names, down to the keys that are known.
fn flatten(prefix: &str, table: &toml::Table, origin: &str, given: &mut All) {
    for (name, value) in table {
        let name = match name.starts_with('/') {
            true => format!("{prefix}\"{name}\""),
            false => format!("{prefix}{name}"),
        };
        match value {
            Value::Table(members) if find(&name).is_none() => {
                if members.is_empty() && name.starts_with(NAMESPACES) {
                    // A namespace that is named exists, even if nothing differs in it.
                    put(given, &format!("{name}."), Value::Boolean(true), origin);
                }
                flatten(&format!("{name}."), members, origin, given);
            }
            value => put(given, &name, value.clone(), origin),
        }
    }
}

/// The namespace and the key of `namespaces."/chat".auth.mode`.
fn namespace_key(name: &str) -> Option<(String, &str)> {
    let rest = name.strip_prefix(NAMESPACES)?;
    let (namespace, key) = match rest.strip_prefix('"') {
        Some(quoted) => quoted.split_once('"')?,
        // Shells eat quotes: the name then ends at the first dot.
        None => rest.split_at(rest.find('.').unwrap_or(rest.len())),
    };
    let key = key.strip_prefix('.').unwrap_or(key);
    namespace
        .starts_with('/')
        .then(|| (namespace.to_owned(), key))
}

/// The key of this name, in a namespace or not.
fn find(name: &str) -> Option<&'static Key> {
    let by_name = |name: &str| KEYS.iter().find(|key| key.name == name);
    by_name(name).or_else(|| {
        let (_, key) = namespace_key(name)?;
        by_name(key).filter(|key| matches!(key.apply, Apply::Namespace(_)))
    })
}

fn understand(given: &All, errors: &mut Vec<String>) -> Settings {
    let mut settings = Settings::default();
    for (name, Sourced { origin, .. }) in given {
        if let Some(what) = not_a_namespace(name) {
            errors.push(format!("{what} (from {origin})"));
        } else if find(name).is_none() && !is_bare_namespace(name) {
            errors.push(unknown(name, origin));
        }
    }
    let mut wrong = |name: &str, origin: &str, what: String| {
        errors.push(format!("{name} {what} (from {origin})"));
    };
    let value_of = |key: &Key| match given.get(key.name) {
        Some(Sourced { value, origin }) => (value.clone(), origin.clone()),
        None => (value::literal(key.default), "the defaults".to_owned()),
    };
    // In the order of the table: `devices.policy` comes before its details.
    for key in KEYS {
        let (value, origin) = value_of(key);
        let applied = match key.apply {
            Apply::Node(apply) => apply(&mut settings, &value),
            Apply::Namespace(apply) => apply(&mut settings.namespace, &value),
        };
        if let Err(what) = applied {
            wrong(key.name, &origin, what);
        }
    }
    let mut namespaces = BTreeMap::from([("/".to_owned(), settings.namespace.clone())]);
    for (name, _) in given.keys().filter_map(|name| namespace_key(name)) {
        namespaces
            .entry(name)
            .or_insert_with(|| settings.namespace.clone());
    }
    for key in KEYS {
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
                    for detail in KEYS
                        .iter()
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
    settings
}

/// What is wrong with the namespace of a key, if it is of one.
fn not_a_namespace(name: &str) -> Option<String> {
    let rest = name.strip_prefix(NAMESPACES)?;
    let (namespace, _) = match rest.strip_prefix('"') {
        Some(quoted) => quoted.split_once('"').unwrap_or((quoted, "")),
        None => rest.split_once('.').unwrap_or((rest, "")),
    };
    // What makes a pattern in one language of patterns or another; a query and the comma
    // behind a name belong to the protocol.
    if namespace.contains(|c: char| "*?^$()[]{}|+\\".contains(c)) {
        return Some(format!(
            "namespaces.\"{namespace}\" looks like a pattern: a namespace is named in full, and \
             every one that is to exist has a name of its own here"
        ));
    }
    if !namespace.starts_with('/') {
        return Some(format!(
            "namespaces.\"{namespace}\" is no namespace: did you mean namespaces.\"/{namespace}\"?"
        ));
    }
    let fits = |c: char| !c.is_control() && c != ',' && c != '#' && c != ' ';
    (!namespace.chars().all(fits))
        .then(|| format!("namespaces.\"{namespace}\" holds a character that no namespace can have"))
}

fn is_bare_namespace(name: &str) -> bool {
    namespace_key(name).is_some_and(|(_, key)| key.is_empty())
}

/// An unknown key, and the one that was probably meant.
fn unknown(name: &str, origin: &str) -> String {
    let (prefix, asked) = match namespace_key(name) {
        Some((namespace, key)) => (format!("{NAMESPACES}\"{namespace}\"."), key.to_owned()),
        None => (String::new(), name.to_owned()),
    };
    let candidates = KEYS
        .iter()
        .filter(|key| prefix.is_empty() || matches!(key.apply, Apply::Namespace(_)));
    let nearest = candidates.min_by_key(|key| strsim::damerau_levenshtein(key.name, &asked));
    let hint = nearest.map_or(String::new(), |key| {
        format!("; did you mean {prefix}{}?", key.name)
    });
    format!("unknown key {name} (from {origin}){hint}")
}

/// What no single key can know.
fn check(settings: &Settings, sources: &Sources, errors: &mut Vec<String>) {
    if settings.lease_refresh >= settings.lease_ttl {
        errors.push("cluster.lease_refresh must be shorter than cluster.lease_ttl".into());
    }
    if settings.tls_cert.is_some() != settings.tls_key.is_some() {
        errors.push("server.tls.cert and server.tls.key belong together: set both or none".into());
    }
    let listeners = [
        ("server.listen", Some(&settings.listen)),
        ("admin.listen", Some(&settings.admin_listen)),
        ("cluster.listen", settings.cluster_listen.as_ref()),
    ];
    for (index, (key, address)) in listeners.iter().enumerate() {
        for (other_key, other) in &listeners[..index] {
            if let (Some(address), Some(other)) = (address, other) {
                if place::collide(address, other) {
                    errors.push(format!(
                        "{key} and {other_key} cannot both be {address}: set one to another port"
                    ));
                }
            }
        }
    }
    check_paths(settings, errors);
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
    if sources.dev && !is_loopback(&settings.listen) {
        errors.push(format!(
            "--dev listens on this machine only, and server.listen is {:?}: use 127.0.0.1, or leave --dev out",
            settings.listen
        ));
    }
}

/// Shortest secret that is accepted, bytes.
const MIN_SECRET: usize = 16;
/// What HS256 wants (RFC 7518 §3.2), bytes.
const GOOD_SECRET: usize = 32;

/// What the public port answers elsewhere.
const OWN_PATHS: &[&str] = &["/healthz", "/dev/token", "/dev/online"];

/// Each path leads to one place.
fn check_paths(settings: &Settings, errors: &mut Vec<String>) {
    let Some(live) = &settings.gateway.live_path else {
        return;
    };
    let socketio = &settings.gateway.socketio_path;
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

fn warnings(settings: &Settings) -> Vec<String> {
    let secret = settings.jwt.secret.as_deref();
    let short = secret.filter(|secret| secret.len() < GOOD_SECRET);
    let short = short.map(|secret| {
        format!(
            "auth.jwt.secret has {} bytes; HS256 wants {GOOD_SECRET} or more (RFC 7518)",
            secret.len()
        )
    });
    short.into_iter().collect()
}

impl Loaded {
    /// The effective configuration as TOML, secrets masked.
    pub(crate) fn show(&self) -> String {
        let mut out = String::new();
        let mut section = "";
        for key in KEYS {
            let (head, name) = key.name.rsplit_once('.').unwrap_or(("", key.name));
            if head != section {
                section = head;
                let gap = if out.is_empty() { "" } else { "\n" };
                let _ = writeln!(out, "{gap}[{section}]");
            }
            let (value, note) = match self.given.get(key.name) {
                Some(given) => (
                    masked(key, &given.value),
                    format!("  # from {}", given.origin),
                ),
                None if key.name == "server.node_id" => (
                    format!("{:?}", self.settings.gateway.node_id),
                    String::new(),
                ),
                None => (key.default.to_owned(), String::new()),
            };
            let _ = writeln!(out, "{name} = {value}{note}");
        }
        let mut namespace = String::new();
        for (name, given) in &self.given {
            let (Some((of, key)), Some(found)) = (namespace_key(name), find(name)) else {
                continue;
            };
            if of != namespace {
                let _ = writeln!(out, "\n[namespaces.\"{of}\"]");
                namespace = of;
            }
            let _ = writeln!(
                out,
                "{key} = {}  # from {}",
                masked(found, &given.value),
                given.origin
            );
        }
        out
    }
}

fn masked(key: &Key, value: &Value) -> String {
    if key.secret && !value::is_off(value) {
        return "\"********\"".into();
    }
    if let Some((scheme, rest)) = value.as_str().and_then(|text| text.split_once("://")) {
        if let Some((_, host)) = rest.rsplit_once('@') {
            return format!("\"{scheme}://********@{host}\"");
        }
    }
    value.to_string()
}

/// What every token needs, as a part of the reference.
const TOKENS: &str = "
## What a token needs

A JSON Web Token, signed with the secret or key of `auth.jwt.*`. `heartline token check TOKEN`
explains one in words, and a node's log says why it refused one.

| part | what it must be |
|---|---|
| `alg` | HS256, HS384 or HS512 for a secret; RS*, PS*, ES256, ES384 or EdDSA, as the key is, for a public key or a key set |
| `kid` | with `auth.jwt.jwks_url`: the id of a key in the set; without it all keys that fit `alg` are tried |
| `exp` | always: when it expires, Unix seconds; `auth.jwt.leeway` is added |
| `sub` | always (or `userId`): the user's id, text of 1 to 256 bytes or a number |
| `nbf` | if it is there: from when it is good, Unix seconds |
| `iss`, `aud` | those of `auth.jwt.issuer` and `auth.jwt.audience`, where these are set |
| `userType`, `tenantId`, `deviceId`, `walletAddress` | may be there: text of 1 to 256 bytes or a number |
| `rooms`, `publish` | may be there: lists of at most 1000 rooms or prefixes (`conversation:*`) that may be joined and written to; `null` is an empty list |
| `admin` | `true` lets it ask for metrics |

A token has at most 16 KB. The names of claims are those of `auth.jwt.claims.*`.
";

/// The reference, in Markdown.
pub(crate) fn reference() -> String {
    let mut out = String::from(
        "# Configuration\n\n\
         A TOML file (`--config FILE`), then the environment, then `--set KEY=VALUE`; the later\n\
         wins. In the environment `server.max_payload` is `HEARTLINE__SERVER__MAX_PAYLOAD`.\n\
         Durations are `\"25s\"`, sizes `\"1MB\"` (a million bytes); `\"off\"` switches off what can be.\n\n\
         Keys marked † can differ from namespace to namespace: `namespaces.\"/chat\".auth.mode`.\n\
         Only `/` and the namespaces that are named exist.\n\n\
         This page is printed by `heartline config docs`.\n\n\
         | key | default | meaning |\n|---|---|---|\n",
    );
    for key in KEYS {
        let mark = if matches!(key.apply, Apply::Namespace(_)) {
            " †"
        } else {
            ""
        };
        let _ = writeln!(
            out,
            "| `{}`{mark} | `{}` | {} |",
            key.name, key.default, key.help
        );
    }
    out.push_str(TOKENS);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use heartline::Config;
    use heartline::config::{Announce, AuthMode, DevicePolicy, Limit, OnExcess};
    use std::time::Duration;

    fn set(pairs: &[&str]) -> Result<Loaded, Errors> {
        let sources = Sources {
            set: pairs.iter().map(ToString::to_string).collect(),
            ..Sources::default()
        };
        load(&sources, std::iter::empty())
    }

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
        let Config {
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
    fn an_unknown_key_names_the_nearest() {
        let Err(errors) = set(&["heartbeat.intervall=5s"]) else {
            panic!("it was accepted");
        };
        assert!(errors.0[0].contains("heartbeat.interval?"), "{errors}");
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
    fn later_sources_win() {
        let sources = Sources {
            set: vec!["server.send_buffer=3KB".into()],
            ..Sources::default()
        };
        let environment = [
            ("HEARTLINE__SERVER__SEND_BUFFER", "2KB"),
            ("HEARTLINE__AUTH__JWT__SECRET", "0123456789012345"),
        ]
        .map(|(name, text)| (name.into(), text.into()));
        let loaded =
            load(&sources, environment.into_iter()).unwrap_or_else(|errors| panic!("{errors}"));
        assert_eq!(loaded.settings.gateway.send_buffer, 3000);
        assert!(!loaded.show().contains("0123"));
        assert_eq!(loaded.warnings.len(), 1);
    }

    #[cfg(unix)]
    #[test]
    fn only_our_own_variables_must_be_utf_8() {
        use std::os::unix::ffi::OsStringExt as _;
        let broken = || OsString::from_vec(b"\xff".to_vec());
        let ours = |rest: OsString| {
            let mut name = OsString::from("HEARTLINE__");
            name.push(rest);
            name
        };
        let others = [
            (broken(), "1".into()),
            ("PATH".into(), broken()),
            ("HEARTLINE_X".into(), broken()),
        ];
        assert!(load(&Sources::default(), others.into_iter()).is_ok());
        for (name, text) in [
            (ours("LOG__LEVEL".into()), broken()),
            (ours(broken()), "1".into()),
        ] {
            let Err(errors) = load(&Sources::default(), [(name, text)].into_iter()) else {
                panic!("it was accepted");
            };
            assert!(errors.0[0].contains("is not UTF-8"), "{errors}");
        }
    }

    /// The only thing that is wrong with these pairs.
    fn wrong(pairs: &[&str]) -> String {
        let Err(errors) = set(pairs) else {
            panic!("{pairs:?} was accepted");
        };
        assert_eq!(errors.0.len(), 1, "{errors}");
        errors.to_string()
    }

    #[test]
    fn a_secret_is_text_whatever_it_looks_like() {
        for secret in [
            "[1,2,3,4,5,6,7,8]",
            "1234567890123456",
            "{a='b', c = 'def'}",
            "[[[[[[[[[",
        ] {
            let secret = format!("{secret:<16}").replace(' ', "_");
            let environment = [("HEARTLINE__AUTH__JWT__SECRET".into(), (&secret).into())];
            let loaded = load(&Sources::default(), environment.into_iter());
            let settings = loaded.unwrap_or_else(|errors| panic!("{errors}")).settings;
            assert_eq!(settings.jwt.secret, Some(secret));
        }
        let token = set(&["admin.token=[1]"]).map(|loaded| loaded.settings.admin_token);
        assert_eq!(token.ok().flatten().as_deref(), Some("[1]"));
        // Where a list is wanted, it is one.
        assert!(wrong(&["server.trusted_proxies=[1]"]).contains("\"1\""));
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
    fn origins_are_kept_as_browsers_send_them_or_refused() {
        let loaded = set(&["server.allowed_origins=[\"https://App.example:443/\"]"]);
        let origins = loaded
            .ok()
            .map(|loaded| loaded.settings.gateway.allowed_origins);
        let kept = vec!["https://app.example".to_owned()];
        assert_eq!(origins, Some(heartline::config::AllowedOrigins::List(kept)));
        // Also beside a star, and where a comma separates them.
        for bad in ["[\"*\", \"app.example\"]", "https://a.example,b.example"] {
            let wrong = wrong(&[&format!("server.allowed_origins={bad}")]);
            assert!(wrong.contains("https://"), "{wrong}");
        }
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
    fn a_namespace_is_named_in_full() {
        for pattern in [
            "*",
            "/*",
            "/room-*",
            "/^\\/room-\\d+$/",
            "/room-[0-9]",
            "/(a|b)",
        ] {
            let wrong = wrong(&[&format!("namespaces.\"{pattern}\".auth.mode=off")]);
            assert!(wrong.contains("pattern"), "{wrong}");
        }
        assert!(wrong(&["namespaces.chat.auth.mode=off"]).contains("\"/chat\""));
        assert!(wrong(&["namespaces.\"/a,b\".auth.mode=off"]).contains("character"));
    }

    #[test]
    fn dev_stays_at_home() {
        let sources = Sources {
            set: vec!["server.listen=0.0.0.0:80".into()],
            dev: true,
            ..Sources::default()
        };
        assert!(load(&sources, std::iter::empty()).is_err());
    }

    #[test]
    fn the_reference_is_up_to_date() {
        let written = include_str!("../../../../docs/configuration.md");
        assert!(
            written == reference(),
            "run: cargo run -p heartline-server -- config docs > docs/configuration.md"
        );
    }
}

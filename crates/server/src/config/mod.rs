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

use heartline::config::{AllowedOrigins, DevicePolicy, NamespaceConfig};
use toml::Value;

use heartline_cluster::seal::fingerprint;
use keys::{Apply, KEYS, Key};
pub(crate) use settings::{ClaimNames, JwtSettings, LogFormat, Settings, StoreUrl, WalletSettings};
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

/// From where `store.url` is what it is, when nobody has set it for a cluster.
const WITH_CLUSTER: &str = "cluster.url";

/// What is otherwise with `--dev`, where nobody has set it.
const WITH_DEV: [(&str, &str); 5] = [
    ("server.listen", "\"127.0.0.1:8080\""),
    ("server.allowed_origins", "[\"*\"]"),
    ("auth.mode", "\"optional\""),
    ("store.url", "\"memory:\""),
    ("conversations.access", "\"open\""),
];

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
        for (key, value) in WITH_DEV {
            put(&mut given, key, value::literal(value), "--dev");
        }
    }
    if let Some(file) = &sources.file {
        match std::fs::read_to_string(file) {
            Ok(text) => match text.parse::<toml::Table>() {
                Ok(table) => flatten("", &table, file, &mut given),
                Err(error) => errors.push(format!(
                    "{file} is not TOML, in which a key looks like server.listen = \
                     \"0.0.0.0:8080\", with the quotes: {}",
                    error.to_string().trim_end()
                )),
            },
            Err(error) => errors.push(format!("{file} cannot be read: {error}")),
        }
    }
    // Variables that are not ours may be of any bytes.
    let (ours, others): (Vec<_>, Vec<_>) = environment.partition(|(name, _)| {
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
            Some((key, text)) if !key.trim().is_empty() => {
                put_text(&mut given, key.trim(), text.trim(), "--set");
            }
            _ => errors.push(format!("--set {pair} must be KEY=VALUE")),
        }
    }
    keep_in_memory_with_a_cluster(&mut given);
    let mut settings = understand(&given, &mut errors);
    if !given.contains_key("store.url") {
        settings.store = settings.store.unset();
    }
    settings.alike = alike(&given);
    settings.alike.push(key_of_cluster(&settings));
    check(&settings, sources, &mut errors);
    if errors.is_empty() {
        let mut warnings = warnings(&settings, &given);
        let others = others.iter().filter_map(|(name, _)| name.to_str());
        warnings.extend(others.filter_map(not_read));
        Ok(Loaded {
            settings,
            warnings,
            given,
        })
    } else {
        Err(Errors(errors))
    }
}

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

/// The values of these, in namespaces too.
fn alike(given: &All) -> Vec<(String, String)> {
    let of_all = ALIKE.iter().filter_map(|name| {
        let key = find(name)?;
        let value = given.get(key.name).map(|given| masked(key, &given.value));
        Some((key.name.to_owned(), value.unwrap_or(key.default.to_owned())))
    });
    let of_one = given.iter().filter_map(|(name, given)| {
        let (_, key) = namespace_key(name)?;
        let key = find(key).filter(|key| ALIKE.contains(&key.name))?;
        Some((name.clone(), masked(key, &given.value)))
    });
    of_all.chain(of_one).collect()
}

/// Which key the nodes of a cluster sign with. Another node sees whether it has the same, and
/// whoever reads Redis does not see the key.
fn key_of_cluster(settings: &Settings) -> (String, String) {
    let key = settings.cluster_key.as_deref();
    let name = key.map(|key| format!("the one of fingerprint {}", fingerprint(key)));
    ("cluster.key".into(), name.unwrap_or("off".into()))
}

/// A file is one node's alone: it is no default where there may be several.
fn keep_in_memory_with_a_cluster(given: &mut All) {
    let url = given.get("cluster.url").map(|given| &given.value);
    let has_cluster = url.is_some_and(|url| !value::is_off(url));
    if has_cluster && !given.contains_key("store.url") {
        put(given, "store.url", "memory:".into(), WITH_CLUSTER);
    }
}

fn put(given: &mut All, key: &str, value: Value, origin: &str) {
    // A namespace's name may be quoted or not: the later wins all the same.
    let key = match namespace_key(key) {
        Some((namespace, rest)) => format!("{NAMESPACES}\"{namespace}\".{rest}"),
        None => key.to_owned(),
    };
    let origin = origin.to_owned();
    given.insert(key, Sourced { value, origin });
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
        let name = match prefix == NAMESPACES && !name.starts_with('"') {
            true => format!("{prefix}\"{name}\""),
            false => format!("{prefix}{name}"),
        };
        match value {
            Value::Table(members) if find(&name).is_none() => {
                let is_namespace = name.starts_with(NAMESPACES);
                if members.is_empty() && (is_namespace || !is_section(&name)) {
                    // A namespace that is named exists, even if nothing differs in it.
                    put(given, &name, Value::Boolean(true), origin);
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

/// Whether keys begin with this name and a dot.
fn is_section(name: &str) -> bool {
    let below = |key: &Key| {
        key.name
            .strip_prefix(name)
            .is_some_and(|rest| rest.starts_with('.'))
    };
    name == "namespaces" || KEYS.iter().any(below)
}

/// The key of this name, in a namespace or not.
fn find(name: &str) -> Option<&'static Key> {
    let by_name = |name: &str| KEYS.iter().find(|key| key.name == name);
    by_name(name).or_else(|| {
        let (_, key) = namespace_key(name)?;
        by_name(key).filter(|key| matches!(key.apply, Apply::Namespace(_)))
    })
}

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

fn understand(given: &All, errors: &mut Vec<String>) -> Settings {
    let mut settings = Settings::default();
    check_names(given, errors);
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
    let bare = namespace.trim().trim_matches('"');
    let path = bare.split_once("://").map_or(bare, |(_, rest)| {
        rest.find('/').map_or("/", |path| &rest[path..])
    });
    // A query and the comma behind a name belong to the protocol.
    let end = path.find(['?', ',', '#']).unwrap_or(path.len());
    let meant = format!("/{}", path[..end].trim_start_matches('/'));
    let is_pattern = |c: char| "*^$()[]{}|+\\<>".contains(c);
    let is_name = |rest: &str| !rest.is_empty() && rest.chars().all(|c| c.is_ascii_alphanumeric());
    let query = path[end..].strip_prefix('?');
    if namespace.contains(is_pattern)
        || namespace.contains("/:")
        || query.is_some_and(|query| !query.contains('=') && !is_name(query))
    {
        return Some(format!(
            "namespaces.\"{namespace}\" looks like a pattern: a namespace is named in full, and \
             every one that is to exist has a name of its own here, like namespaces.\"/room-1\""
        ));
    }
    let fits = |c: char| !c.is_control() && !c.is_whitespace() && !"?,#\"".contains(c);
    let is_whole = namespace.starts_with('/') && !namespace.contains("//");
    (!is_whole || !namespace.chars().all(fits)).then(|| {
        let meant: String = meant
            .replace("//", "/")
            .chars()
            .filter(|c| fits(*c))
            .collect();
        format!(
            "namespaces.\"{namespace}\" cannot be a namespace: did you mean namespaces.\"{meant}\"?"
        )
    })
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
    if prefix.is_empty() && is_section(name) {
        let below = KEYS
            .iter()
            .find(|key| key.name.starts_with(&format!("{name}.")));
        let like = below.map_or("namespaces.\"/chat\".auth.mode", |key| key.name);
        return format!("{name} is a section (from {origin}): its keys have values, like {like}");
    }
    if let Some(key) = KEYS
        .iter()
        .find(|key| !prefix.is_empty() && key.name == asked)
    {
        let key = key.name;
        return format!(
            "{key} is of the whole node, not of a namespace: it cannot be {name} (from {origin})"
        );
    }
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
    check_wallets(settings, errors);
    if sources.dev && !is_loopback(&settings.listen) {
        errors.push(format!(
            "--dev listens on this machine only, and server.listen is {:?}: use 127.0.0.1, or leave --dev out",
            settings.listen
        ));
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
    if settings.store.is_file() {
        errors.push(
            "store.url does not go with cluster.url: nodes cannot share a file. Set it to \
             postgres://USER:PASSWORD@HOST/DATABASE, or to memory:"
                .into(),
        );
    }
}

/// What sign-in with wallets needs.
fn check_wallets(settings: &Settings, errors: &mut Vec<String>) {
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
    // Without any key `serve` says what is missing, and `--dev` makes a secret.
    if settings.jwt.is_configured() && !settings.jwt.signs() {
        errors.push(
            "auth.wallet.enabled needs a key that signs tokens, and auth.jwt only has one that \
             verifies them: either set auth.jwt.secret (HS256), or auth.wallet.key to the PEM of \
             an Ed25519 private key (`openssl genpkey -algorithm ed25519` makes one)"
                .into(),
        );
    }
}

/// Shortest secret that is accepted, bytes.
const MIN_SECRET: usize = 16;
/// What HS256 wants (RFC 7518 §3.2), bytes.
const GOOD_SECRET: usize = 32;

/// What the public port answers elsewhere.
const OWN_PATHS: &[&str] = &[
    "/healthz",
    "/dev/token",
    "/dev/online",
    "/auth/challenge",
    "/auth/connect",
];

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

/// What is to be said of a variable that is named as a key is, but for the second underscore.
fn not_read(name: &str) -> Option<String> {
    let rest = name.strip_prefix("HEARTLINE_")?.to_ascii_lowercase();
    let key = KEYS.iter().find(|key| key.name.replace('.', "_") == rest)?;
    let meant = key.name.replace('.', "__").to_ascii_uppercase();
    Some(format!(
        "the environment variable {name} is not read: two underscores stand for a dot, so it is \
         {ENVIRONMENT}{meant}"
    ))
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

/// What is allowed and unwise, or has no effect.
fn warnings(settings: &Settings, given: &All) -> Vec<String> {
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
    // What is as it is anyway need not have an effect.
    let set = |key: &Key| {
        let given = given.get(key.name);
        given.is_some_and(|given| given.value != value::literal(key.default))
    };
    let first_set = |names: fn(&str) -> bool| KEYS.iter().find(|key| names(key.name) && set(key));
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
    let of_wallets = first_set(|name| name.starts_with("auth.wallet."));
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

/// That messages are in memory, where nobody has said that they should be.
fn kept_in_memory(settings: &Settings, given: &All) -> Option<String> {
    let origin = given.get("store.url").map(|given| &*given.origin);
    let is_unset = origin.is_none_or(|origin| origin == WITH_CLUSTER);
    (is_unset && settings.store == StoreUrl::Memory).then(|| {
        "messages are kept in memory, by each node for itself and until it ends (store.url)".into()
    })
}

impl Loaded {
    /// Files that secrets are from.
    pub(crate) fn secret_files(&self) -> std::collections::BTreeSet<&str> {
        let of_secret = |name: &str| find(name).is_some_and(|key| key.secret);
        let secrets = self.given.iter().filter(|(name, _)| of_secret(name));
        let secrets = secrets.filter(|(_, given)| !value::is_off(&given.value));
        let origins = secrets.map(|(_, given)| &*given.origin);
        origins
            .filter(|origin| std::path::Path::new(origin).is_file())
            .collect()
    }

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

    #[cfg(feature = "postgres")]
    #[test]
    fn a_postgres_url_is_for_nodes_too_and_its_password_is_never_shown() {
        let loaded = set(&[
            "store.url=postgresql://u:hunter2@db/x?sslmode=require",
            "cluster.url=redis://localhost",
        ]);
        let loaded = loaded.unwrap();
        assert!(!loaded.warnings.iter().any(|one| one.contains("store.url")));
        let shown = loaded.show();
        assert!(shown.contains("postgresql://********@db/x"), "{shown}");
        assert!(!format!("{:?}{shown}", loaded.settings.store).contains("hunter2"));
        for wrong in [
            "store.url=postgres://u:hunter2@db/x?sslmode=verify-ca",
            "store.url=postgres://u@db/x?password=hunter2",
            "store.url=postgres://u:hunter2@db:port/x",
        ] {
            let refused = set(&[wrong]).err().unwrap().to_string();
            assert!(!refused.contains("hunter2"), "{refused}");
        }
    }

    #[cfg(not(feature = "postgres"))]
    #[test]
    fn a_build_without_postgres_says_what_to_build() {
        let refused = set(&["store.url=postgres://u:hunter2@db/x"]);
        let refused = refused.err().unwrap().to_string();
        assert!(refused.contains("cargo build --release"), "{refused}");
        assert!(!refused.contains("hunter2"), "{refused}");
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
        let why = refused(&[ON, AT, JWKS]);
        assert!(why.contains("either set auth.jwt.secret") && why.contains("or auth.wallet.key"));
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

    #[cfg(not(feature = "sqlite"))]
    #[test]
    fn a_build_without_sqlite_says_what_to_build() {
        let refused = set(&["store.url=sqlite://a.db"])
            .err()
            .map(|errors| errors.to_string())
            .unwrap_or_default();
        assert!(refused.contains("cargo build --release"), "{refused}");
    }

    #[cfg(feature = "sqlite")]
    #[test]
    fn messages_are_in_a_file_unless_nodes_would_have_to_share_it() {
        let store = |pairs: &[&str], dev| {
            let sources = Sources {
                set: pairs.iter().map(ToString::to_string).collect(),
                dev,
                ..Sources::default()
            };
            let loaded = load(&sources, std::iter::empty());
            loaded
                .map(|loaded| {
                    let warned = loaded.warnings.iter().any(|one| one.contains("store.url"));
                    (loaded.settings.store, warned)
                })
                .map_err(|errors| errors.to_string())
        };
        let file = |path: &str| StoreUrl::Sqlite(path.into());
        let cluster = "cluster.url=redis://localhost";
        let memory = "store.url=memory:";
        let usual = StoreUrl::Usual("heartline.db".into());
        assert_eq!(store(&[], false), Ok((usual, false)));
        assert_eq!(store(&[], true), Ok((StoreUrl::Memory, false)));
        assert_eq!(store(&[memory], false), Ok((StoreUrl::Memory, false)));
        assert_eq!(
            store(&["store.url=sqlite:///var/lib/x.db"], true),
            Ok((file("/var/lib/x.db"), false))
        );
        assert_eq!(store(&[cluster], false), Ok((StoreUrl::Memory, true)));
        assert_eq!(
            store(&[cluster, memory], false),
            Ok((StoreUrl::Memory, false))
        );
        let shared = store(&[cluster, "store.url=sqlite://x.db"], false);
        assert!(shared.unwrap_err().contains("nodes cannot share a file"));
        for wrong in [
            "store.url=sqlite://",
            "store.url=sqlite:x.db",
            "store.url=x.db",
        ] {
            assert!(store(&[wrong], false).is_err(), "{wrong}");
        }
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
        assert!(
            loaded.warnings[0].contains("16 bytes"),
            "{:?}",
            loaded.warnings
        );
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
        for pattern in ["/:id", "/room/:id", "/<id>", "/dyn-{id}", "/rooms?"] {
            let wrong = wrong(&[&format!("namespaces.\"{pattern}\".auth.mode=off")]);
            assert!(wrong.contains("pattern"), "{wrong}");
        }
        assert!(wrong(&["namespaces.chat.auth.mode=off"]).contains("mean namespaces.\"/chat\"?"));
        for almost in [
            "chat",
            " /chat",
            "/chat,",
            "/chat?token=x",
            "/chat#top",
            "//chat",
            "https://app.example/chat",
            "\t/chat",
        ] {
            let wrong = wrong(&[&format!("namespaces.\"{almost}\".auth.mode=off")]);
            assert!(wrong.contains("mean namespaces.\"/chat\"?"), "{wrong}");
        }
    }

    /// The same from a file.
    fn file(text: &str) -> Result<Loaded, Errors> {
        static NUMBER: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let name = format!("heartline-config-{}-{number}.toml", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::write(&path, text).unwrap();
        let sources = Sources {
            file: path.to_str().map(ToOwned::to_owned),
            ..Sources::default()
        };
        let loaded = load(&sources, std::iter::empty());
        let _ = std::fs::remove_file(path);
        loaded
    }

    #[test]
    fn sections_that_are_none_are_named_even_if_they_are_empty() {
        let wrong = |text: &str| match file(text) {
            Ok(_) => panic!("{text} was accepted"),
            Err(errors) => errors.to_string(),
        };
        assert!(wrong("[serverr]").contains("unknown key serverr"));
        assert!(wrong("server = 1").contains("section"));
        assert!(wrong("namespaces = [\"/chat\"]").contains("section"));
        assert!(wrong("[namespaces.\".*\"]").contains("pattern"));
        assert!(wrong("[namespaces.chat]").contains("\"/chat\""));
        assert!(wrong("[namespaces]\n\"/chat\" = 5").contains("auth.mode"));
        let foreign = wrong("[namespaces.\"/chat\".server]\nlisten = \"x\"");
        assert!(foreign.contains("of the whole node"), "{foreign}");
        for good in [
            "[server]",
            "[namespaces.\"/chat\"]",
            "[namespaces]\n\"/chat\" = true",
        ] {
            assert!(file(good).is_ok(), "{good}");
        }
    }

    #[test]
    fn the_later_wins_however_a_namespace_is_written() {
        for pairs in [
            [
                "namespaces./chat.auth.mode=off",
                "namespaces.\"/chat\".auth.mode=optional",
            ],
            [
                "namespaces.\"/chat\".auth.mode=off",
                "namespaces./chat.auth.mode=optional",
            ],
        ] {
            let loaded = set(&pairs).unwrap_or_else(|errors| panic!("{errors}"));
            let chat = &loaded.settings.gateway.namespaces["/chat"];
            assert_eq!(chat.auth_mode, AuthMode::Optional);
        }
    }

    #[test]
    fn what_cannot_work_is_refused_with_the_right_form() {
        for (pair, says) in [
            ("server.listen=8080", "\"0.0.0.0:8080\""),
            ("server.listen=*:8080", "\"0.0.0.0:8080\""),
            ("server.socketio_path=/healthz", "/healthz"),
            ("server.socketio_path=/dev/", "/dev/token"),
            ("server.socketio_path=off", "\"/socket.io/\""),
            ("server.live_path=/../live", "\"/live\""),
            ("server.max_payload=1", "128"),
            ("server.send_buffer=1", "1024"),
            ("server.max_connections=0", "\"off\""),
            ("server.compression=on", "\"off\""),
            ("server.connect_timeout=45", "\"45s\""),
            ("server.trusted_proxies=[[\"10.0.0.0/8\"]]", "list of texts"),
            ("server.trusted_proxies=10.0.0.0/33", "10.0.0.0/8"),
            ("admin.token=Bearer abc", "leave"),
            ("admin.token=\u{e4}", "ASCII"),
            (
                "admin.listen=localhost:8080",
                "admin.listen and server.listen",
            ),
            (
                "auth.jwt.secret=-----BEGIN PUBLIC KEY----- MFkwEw",
                "auth.jwt.public_key",
            ),
            ("auth.jwt.jwks_url=http://", "https://issuer.example"),
            ("auth.jwt.jwks_url=https://x y/", "https://issuer.example"),
            ("auth.jwt.jwks_url=https://x:99999/", "port"),
            ("auth.jwt.jwks_url=ftp://x/", "https://issuer.example"),
            ("auth.jwt.audience=[\"a\",\"b\"]", "not a list"),
            ("auth.jwt.leeway=2d", "1d"),
            ("auth.jwt.claims.user=", "name of a claim"),
            ("auth.jwt.query=sid", "Engine.IO"),
            ("auth.jwt.query=a=b", "\"token\""),
            ("auth.jwt.cookie=a;b", "\"session\""),
            ("devices.max=0", "at least 1"),
            ("limits.messages={count=0,window=\"10s\"}", "at least 1"),
            ("presence.offline_grace=999999d", "366d"),
            ("cluster.advertise=0.0.0.0:7000", "10.0.0.7:7000"),
            ("cluster.socketio_key=", "socket.io"),
            ("cluster.url=localhost:6379", "redis://"),
            ("cluster.lease_ttl=off", "duration"),
            ("cluster.lease_ttl=5s", "lease_refresh"),
            ("cluster.failure_timeout=100ms", "300ms"),
            ("cluster.failure_timeout=0s", "off"),
            ("=x", "KEY=VALUE"),
        ] {
            let wrong = wrong(&[pair]);
            assert!(wrong.contains(says), "{pair}: {wrong}");
        }
        let cookie = ["auth.jwt.cookie=session", "server.allowed_origins=*"];
        assert!(wrong(&cookie).contains("name the origins"));
    }

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
    fn what_can_be_understood_is_understood() {
        for pair in [
            "server.listen=localhost:80",
            "server.allowed_origins=off",
            "server.trusted_proxies=off",
            "server.trusted_proxies=10.0.0.1/8, ::1",
            "server.max_payload=1.5 MB",
            "server.send_buffer=2_000_000",
            "server.max_connections=1_000",
            "server.compression=false",
            "server.client_files=OFF",
            "server.drain_spread=0s",
            "server.connect_timeout=45 sec",
            "auth.mode=Optional",
            "auth.jwt.leeway=off",
            "auth.jwt.jwks_url=HTTPS://issuer.example/keys",
            "devices.on_excess=evict-oldest",
            "limits.messages=10/10s",
            "limits.connects_per_ip=1_000/1m",
            "presence.offline_grace=off",
            "cluster.url=valkey://x",
            "log.level=INFO",
            "log.format=JSON",
            "dev.builtin_page=no",
        ] {
            let loaded = set(&[pair]);
            assert!(loaded.is_ok(), "{pair}: {}", loaded.err().unwrap());
        }
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
    }

    #[test]
    fn a_variable_with_one_underscore_for_a_dot_is_told_of() {
        let warned = |name: &str| {
            let variable = (OsString::from(name), OsString::from("x"));
            let loaded = load(&Sources::default(), std::iter::once(variable));
            loaded.map(|loaded| loaded.warnings.join("; "))
        };
        for (name, meant) in [
            ("HEARTLINE_SERVER_LISTEN", "HEARTLINE__SERVER__LISTEN"),
            (
                "HEARTLINE_AUTH_JWT_JWKS_URL",
                "HEARTLINE__AUTH__JWT__JWKS_URL",
            ),
        ] {
            let said = warned(name).unwrap_or_else(|errors| panic!("{errors}"));
            assert!(said.contains(name) && said.ends_with(meant), "{said}");
        }
        // What else begins so, such as what Kubernetes sets for a service of this name.
        for name in ["HEARTLINE_PORT", "HEARTLINE_SERVICE_HOST", "SERVER_LISTEN"] {
            assert_eq!(warned(name).ok().as_deref(), Some(""), "{name}");
        }
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

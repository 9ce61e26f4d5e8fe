//! What is set, and where: a file, then the environment, then `--set`; the later wins. All
//! sources become one list of keys and values.

use std::collections::BTreeMap;
use std::ffi::OsString;

use toml::Value;

use super::keys;
use super::names::{NAMESPACES, find, is_section, namespace_key, namespace_of_section};
use super::value;

/// Where configuration comes from.
#[derive(Debug, Clone, Default)]
pub(crate) struct Sources {
    pub(crate) file: Option<String>,
    pub(crate) set: Vec<String>,
    /// `--dev`: other defaults, and loopback only.
    pub(crate) dev: bool,
}

/// A value, and the source that it is from.
pub(super) struct Sourced {
    pub(super) value: Value,
    pub(super) origin: String,
}

pub(super) type All = BTreeMap<String, Sourced>;

/// From where `store.url` is what it is, when nobody has set it for a cluster.
pub(super) const WITH_CLUSTER: &str = "cluster.url";

/// What is otherwise with `--dev`, where nobody has set it.
const WITH_DEV: [(&str, &str); 5] = [
    ("server.listen", "\"127.0.0.1:8080\""),
    ("server.allowed_origins", "[\"*\"]"),
    ("auth.mode", "\"optional\""),
    ("store.url", "\"memory:\""),
    ("conversations.access", "\"open\""),
];

const ENVIRONMENT: &str = "HEARTLINE__";

/// Reads all sources. With what is given come the names of the variables that are not ours.
pub(super) fn gather(
    sources: &Sources,
    environment: impl Iterator<Item = (OsString, OsString)>,
    errors: &mut Vec<String>,
) -> (All, Vec<OsString>) {
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
                // The error by itself quotes the line, which may be a secret's.
                Err(error) => errors.push(format!(
                    "{file} is not TOML, in which a key looks like server.listen = \
                     \"0.0.0.0:8080\", with the quotes: line {}: {}",
                    line_of(&text, error.span().map_or(0, |span| span.start)),
                    error.message().lines().collect::<Vec<_>>().join(", ")
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
    (given, others.into_iter().map(|(name, _)| name).collect())
}

/// The number of the line in which a byte stands.
fn line_of(text: &str, byte: usize) -> usize {
    let before = text.as_bytes().iter().take(byte);
    1 + before.filter(|byte| **byte == b'\n').count()
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

/// Puts a value that came as text. What looks like a list or a table is one, but for secrets:
/// these may look like anything.
fn put_text(given: &mut All, key: &str, text: &str, origin: &str) {
    let mut value = value::literal(text);
    if value.is_array() || value.is_table() {
        if find(key).is_some_and(|key| key.secret) {
            value = Value::String(text.to_owned());
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
                    let named = namespace_of_section(&name).unwrap_or(name.clone());
                    put(given, &named, Value::Boolean(true), origin);
                }
                flatten(&format!("{name}."), members, origin, given);
            }
            value => put(given, &name, value.clone(), origin),
        }
    }
}

/// What is to be said of a variable that is named as a key is, but for the case of its beginning
/// or the second underscore.
pub(super) fn not_read(name: &str) -> Option<String> {
    let lower = name.to_ascii_lowercase().replace("__", "_");
    let rest = lower.strip_prefix("heartline_")?;
    let key = keys::all().find(|key| key.name.replace('.', "_") == rest)?;
    let meant = key.name.replace('.', "__").to_ascii_uppercase();
    let why = match name.starts_with("HEARTLINE_") {
        true => "two underscores stand for a dot",
        false => "its name begins with capitals",
    };
    Some(format!(
        "the environment variable {name} is not read: {why}, so it is {ENVIRONMENT}{meant}"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::load::load;
    use crate::config::tests::{set, wrong};
    use heartline::config::AuthMode;

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

    #[test]
    fn a_line_that_is_not_toml_is_named_by_its_number_and_not_said_again() {
        let file = std::env::temp_dir().join(format!("heartline-toml-{}", std::process::id()));
        std::fs::write(&file, "[auth.jwt]\n\nsecret = s3cr3tWithoutQuotes\n").unwrap();
        let sources = Sources {
            file: file.to_str().map(Into::into),
            ..Sources::default()
        };
        let refused = load(&sources, std::iter::empty())
            .err()
            .unwrap()
            .to_string();
        let _ = std::fs::remove_file(file);
        assert!(
            refused.contains("is not TOML") && refused.contains("line 3"),
            "{refused}"
        );
        assert!(!refused.contains("s3cr3t"), "{refused}");
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

    #[test]
    fn a_variable_with_one_underscore_for_a_dot_is_told_of() {
        let warned = |name: &str| {
            let variable = (OsString::from(name), OsString::from("x"));
            let loaded = load(&Sources::default(), std::iter::once(variable));
            loaded.map(|loaded| loaded.warnings.join("; "))
        };
        for (name, meant) in [
            ("HEARTLINE_SERVER_LISTEN", "HEARTLINE__SERVER__LISTEN"),
            ("HEARTLINE_SERVER__LISTEN", "HEARTLINE__SERVER__LISTEN"),
            ("heartline__server__listen", "HEARTLINE__SERVER__LISTEN"),
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
}

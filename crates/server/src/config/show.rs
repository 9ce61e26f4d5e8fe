//! The effective configuration, as `config show` prints it.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use super::keys::KEYS;
use super::load::Loaded;
use super::names::{find, namespace_key};
use super::value;

impl Loaded {
    /// Files that secrets are from.
    pub(crate) fn secret_files(&self) -> BTreeSet<&str> {
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
                    key.masked(&given.value),
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
                found.masked(&given.value),
                given.origin
            );
        }
        out
    }
}

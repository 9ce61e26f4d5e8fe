//! The effective configuration, as `config show` prints it.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use super::keys;
use super::load::Loaded;
use super::names::{find, namespace_key};
use super::value;

/// The value that stands for one which depends on something else.
const AUTO: &str = "auto";

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

    /// What there is in place of a default that depends on something else.
    fn in_effect(&self, name: &str) -> Option<String> {
        let gateway = &self.settings.gateway;
        match name {
            "server.node_id" => Some(format!("{:?}", gateway.node_id)),
            "heartbeat.stale_after" => {
                let after = gateway.heartbeat.stale_after();
                Some(format!("\"{}\"", humantime::format_duration(after)))
            }
            _ => None,
        }
    }

    /// The effective configuration as TOML, secrets masked.
    pub(crate) fn show(&self) -> String {
        let mut out = String::new();
        let mut section = "";
        for key in keys::all() {
            let (head, name) = key.name.rsplit_once('.').unwrap_or(("", key.name));
            if head != section {
                section = head;
                let gap = if out.is_empty() { "" } else { "\n" };
                let _ = writeln!(out, "{gap}[{section}]");
            }
            let (value, note) = match self.given.get(key.name) {
                Some(given) => (
                    self.in_effect(key.name)
                        .filter(|_| given.value.as_str() == Some(AUTO))
                        .unwrap_or_else(|| key.masked(&given.value)),
                    format!("  # from {}", given.origin),
                ),
                None => (
                    self.in_effect(key.name)
                        .unwrap_or_else(|| key.default.to_owned()),
                    String::new(),
                ),
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

//! What a key is, and how its row in the table is written.

use std::path::Path;

use heartline::config::NamespaceConfig;
use toml::Value;

use crate::config::settings::Settings;
use crate::config::value::{MASK, Wrong, is_masked_url, is_off, masked_url};

/// Puts a value where it belongs.
pub(crate) enum Apply {
    /// For the whole node.
    Node(fn(&mut Settings, &Value) -> Result<(), Wrong>),
    /// For all namespaces, and for one as `namespaces."/name".KEY`.
    Namespace(fn(&mut NamespaceConfig, &Value) -> Result<(), Wrong>),
}

/// One key.
pub(crate) struct Key {
    pub(crate) name: &'static str,
    /// As one would write it in the file.
    pub(crate) default: &'static str,
    pub(crate) help: &'static str,
    pub(crate) apply: Apply,
    /// Its value is not for other people's eyes.
    pub(crate) secret: bool,
}

impl Key {
    /// A value as it may be shown.
    pub(crate) fn masked(&self, value: &Value) -> String {
        if self.secret && !is_off(value) {
            return format!("\"{MASK}\"");
        }
        match value.as_str().and_then(masked_url) {
            Some(url) => Value::from(url).to_string(),
            None => value.to_string(),
        }
    }

    /// Whether something of a value is not for other people's eyes. The name of a file with a key
    /// is for them; what is in the file is not.
    pub(crate) fn hides(&self, value: &Value) -> bool {
        let is_file = value.as_str().is_some_and(|text| Path::new(text).is_file());
        !is_file && self.masked(value) != value.to_string()
    }

    /// Whether a value is, or holds, what [`masked`](Self::masked) gives in place of a secret.
    pub(crate) fn is_masked(&self, value: &Value) -> bool {
        match value {
            Value::String(text) => (self.secret && text.trim() == MASK) || is_masked_url(text),
            Value::Array(items) => items.iter().any(|item| self.is_masked(item)),
            _ => false,
        }
    }
}

/// A key of the whole node.
pub(super) const fn node(
    name: &'static str,
    default: &'static str,
    help: &'static str,
    apply: fn(&mut Settings, &Value) -> Result<(), Wrong>,
) -> Key {
    Key {
        name,
        default,
        help,
        apply: Apply::Node(apply),
        secret: false,
    }
}

/// A key of the whole node whose value is not for other people's eyes; `off` unless it is set.
pub(super) const fn secret(
    name: &'static str,
    help: &'static str,
    apply: fn(&mut Settings, &Value) -> Result<(), Wrong>,
) -> Key {
    Key {
        name,
        default: "\"off\"",
        help,
        apply: Apply::Node(apply),
        secret: true,
    }
}

/// A key of each namespace.
pub(super) const fn space(
    name: &'static str,
    default: &'static str,
    help: &'static str,
    apply: fn(&mut NamespaceConfig, &Value) -> Result<(), Wrong>,
) -> Key {
    Key {
        name,
        default,
        help,
        apply: Apply::Namespace(apply),
        secret: false,
    }
}

//! The effective configuration, as `config show` prints it.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use super::keys::{self, Key};
use super::load::Loaded;
use super::names::{find, namespace_key};

/// The value that stands for one which depends on something else.
const AUTO: &str = "auto";

impl Loaded {
    /// Files that secrets are from, a URL's password among them.
    pub(crate) fn secret_files(&self) -> BTreeSet<&str> {
        let secrets = self.given.iter().filter(|(name, given)| {
            let key = find(name);
            key.is_some_and(|key| key.hides(&given.value))
        });
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

    /// A key's line: its value in effect, and where it is from.
    fn line(&self, key: &Key) -> String {
        let (_, name) = parts(key.name);
        let in_effect = self.in_effect(key.name);
        match self.given.get(key.name) {
            Some(given) => {
                let is_auto = given.value.as_str() == Some(AUTO);
                let value = in_effect.filter(|_| is_auto);
                let value = value.unwrap_or_else(|| key.masked(&given.value));
                format!("{name} = {value}  # from {}", given.origin)
            }
            None => {
                let value = in_effect.unwrap_or_else(|| key.default.to_owned());
                format!("{name} = {value}")
            }
        }
    }

    /// The effective configuration as TOML, secrets masked. A section stands where its first key
    /// does: TOML takes each once.
    pub(crate) fn show(&self) -> String {
        let mut out = String::new();
        let mut sections: Vec<&str> = Vec::new();
        for key in keys::all() {
            let (section, _) = parts(key.name);
            if !sections.contains(&section) {
                sections.push(section);
            }
        }
        for section in sections {
            let gap = if out.is_empty() { "" } else { "\n" };
            let _ = writeln!(out, "{gap}[{section}]");
            for key in keys::all().filter(|key| parts(key.name).0 == section) {
                let _ = writeln!(out, "{}", self.line(key));
            }
        }
        self.show_namespaces(&mut out);
        out
    }

    fn show_namespaces(&self, out: &mut String) {
        let mut namespace = String::new();
        for (name, given) in &self.given {
            let Some((of, key)) = namespace_key(name) else {
                continue;
            };
            if of != namespace {
                let _ = writeln!(out, "\n[namespaces.\"{of}\"]");
                namespace = of;
            }
            // One that has no keys of its own is named, and no more.
            let Some(found) = find(name) else {
                continue;
            };
            let value = found.masked(&given.value);
            let _ = writeln!(out, "{key} = {value}  # from {}", given.origin);
        }
    }
}

/// A key's section, and its name there.
fn parts(name: &str) -> (&str, &str) {
    name.rsplit_once('.').unwrap_or(("", name))
}

#[cfg(test)]
mod tests {
    use crate::config::load::load;
    use crate::config::sources::Sources;

    #[test]
    fn a_file_holds_secrets_where_something_of_it_is_masked() {
        let name = format!("heartline-secrets-{}.toml", std::process::id());
        let path = std::env::temp_dir().join(name);
        let key = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/keys/ed.pem");
        for (text, is_secret) in [
            ("cluster.url = \"redis://u:PW@redis:6379\"", true),
            ("cluster.url = \"redis://redis:6379\"", false),
            (
                "auth.jwt.jwks_url = \"https://idp.example/keys?api_key=k\"",
                true,
            ),
            ("auth.jwt.jwks_url = \"https://idp.example/keys\"", false),
            ("admin.token = \"sesame\"", true),
            ("admin.token = \"off\"", false),
            (
                "auth.wallet.key = \"-----BEGIN PRIVATE KEY----- MC4C\"",
                true,
            ),
            (&*format!("auth.wallet.key = {key:?}"), false),
        ] {
            std::fs::write(&path, text).unwrap();
            let sources = Sources {
                file: path.to_str().map(Into::into),
                ..Sources::default()
            };
            let loaded = load(&sources, std::iter::empty());
            let loaded = loaded.unwrap_or_else(|errors| panic!("{errors}"));
            assert_eq!(!loaded.secret_files().is_empty(), is_secret, "{text}");
        }
        let _ = std::fs::remove_file(path);
    }

    #[cfg(feature = "postgres")]
    #[test]
    fn the_password_of_a_database_is_a_secret() {
        use crate::config::names::find;
        let key = find("store.url").unwrap();
        assert!(key.hides(&"postgres://u:PW@db/x".into()));
        assert!(!key.hides(&"sqlite://heartline.db".into()));
    }
}

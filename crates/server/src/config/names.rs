//! The names of keys: which there are, in namespaces too, and what was probably meant.

use super::keys::{self, Apply, Key};

pub(super) const NAMESPACES: &str = "namespaces.";

/// The namespace and the key of `namespaces."/chat".auth.mode`.
pub(super) fn namespace_key(name: &str) -> Option<(String, &str)> {
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
pub(super) fn is_section(name: &str) -> bool {
    let below = |key: &Key| {
        key.name
            .strip_prefix(name)
            .is_some_and(|rest| rest.starts_with('.'))
    };
    name == "namespaces" || keys::all().any(below)
}

/// The namespace, as it is written, of a section of one: `namespaces."/chat"` for
/// `namespaces."/chat".auth`.
pub(super) fn namespace_of_section(name: &str) -> Option<String> {
    let (namespace, section) = namespace_key(name)?;
    let below = |key: &Key| {
        let rest = key.name.strip_prefix(section);
        rest.is_some_and(|rest| rest.starts_with('.')) && matches!(key.apply, Apply::Namespace(_))
    };
    let is_section = keys::all().any(below);
    is_section.then(|| format!("{NAMESPACES}\"{namespace}\""))
}

/// The key of this name, in a namespace or not.
pub(super) fn find(name: &str) -> Option<&'static Key> {
    let by_name = |name: &str| keys::all().find(|key| key.name == name);
    by_name(name).or_else(|| {
        let (_, key) = namespace_key(name)?;
        by_name(key).filter(|key| matches!(key.apply, Apply::Namespace(_)))
    })
}

/// What is wrong with the namespace of a key, if it is of one.
pub(super) fn not_a_namespace(name: &str) -> Option<String> {
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

pub(super) fn is_bare_namespace(name: &str) -> bool {
    namespace_key(name).is_some_and(|(_, key)| key.is_empty())
}

/// An unknown key, and the one that was probably meant.
pub(super) fn unknown(name: &str, origin: &str) -> String {
    let (prefix, asked) = match namespace_key(name) {
        Some((namespace, key)) => (format!("{NAMESPACES}\"{namespace}\"."), key.to_owned()),
        None => (String::new(), name.to_owned()),
    };
    if prefix.is_empty() && is_section(name) {
        let below = keys::all().find(|key| key.name.starts_with(&format!("{name}.")));
        let like = below.map_or("namespaces.\"/chat\".auth.mode", |key| key.name);
        return format!("{name} is a section (from {origin}): its keys have values, like {like}");
    }
    if let Some(key) = keys::all().find(|key| !prefix.is_empty() && key.name == asked) {
        let key = key.name;
        return format!(
            "{key} is of the whole node, not of a namespace: it cannot be {name} (from {origin})"
        );
    }
    let candidates =
        keys::all().filter(|key| prefix.is_empty() || matches!(key.apply, Apply::Namespace(_)));
    // Case is no distance, and neither is the line that some write for the other.
    let asked = asked.to_lowercase().replace('-', "_");
    let nearest = candidates.min_by_key(|key| strsim::damerau_levenshtein(key.name, &asked));
    let hint = nearest.map_or(String::new(), |key| {
        format!("; did you mean {prefix}{}?", key.name)
    });
    format!("unknown key {name} (from {origin}){hint}")
}

#[cfg(test)]
mod tests {
    use crate::config::tests::{file, set, wrong};

    #[test]
    fn an_unknown_key_names_the_nearest() {
        let Err(errors) = set(&["heartbeat.intervall=5s"]) else {
            panic!("it was accepted");
        };
        assert!(errors.0[0].contains("heartbeat.interval?"), "{errors}");
        for other in ["LIMITS.MESSAGES=off", "Limits.Messages=off"] {
            let wrong = wrong(&[other]);
            assert!(wrong.contains("mean limits.messages?"), "{wrong}");
        }
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
        for foreign in ["server", "auth.jwt", "auht"] {
            let section = format!("[namespaces.\"/chat\".{foreign}]");
            assert!(wrong(&section).contains("unknown key"), "{section}");
        }
        for section in ["auth", "devices", "limits", "presence"] {
            let loaded = file(&format!("[namespaces.\"/chat\".{section}]"));
            let loaded = loaded.unwrap_or_else(|errors| panic!("{errors}"));
            assert!(loaded.settings.gateway.namespaces.contains_key("/chat"));
        }
        for good in [
            "[server]",
            "[namespaces.\"/chat\"]",
            "[namespaces]\n\"/chat\" = true",
        ] {
            assert!(file(good).is_ok(), "{good}");
        }
    }
}

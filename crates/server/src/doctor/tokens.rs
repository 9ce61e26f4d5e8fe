//! The keys that tokens are verified with.

use std::path::Path;
use std::time::Instant;

use super::open_file;
use super::report::Check;
use crate::auth::jwks::KeySet;
use crate::auth::key::Key;
use crate::config::{Settings, short_secret};

const NAME: &str = "tokens";
/// What shows a public key, and what a private one; neither prints a private key.
const SHOW: &str = "openssl pkey -pubin -in FILE -noout -text";
const SHOW_OWN: &str = "openssl pkey -in FILE -noout -text_pub";
const MAKE: &str = "openssl rand -base64 32 makes one for HEARTLINE__AUTH__JWT__SECRET";

/// `missing`: that there is no way to tell sockets apart, if there is none.
pub(super) async fn look(settings: &Settings, missing: Option<&str>) -> Vec<Check> {
    let jwt = &settings.jwt;
    let mut checks = Vec::new();
    if let Some(missing) = missing {
        checks.push(Check::problem(NAME, missing, Some(MAKE.into())));
    }
    if let Some(secret) = &jwt.secret {
        checks.push(match short_secret(settings) {
            Some(what) => Check::warning(NAME, what, Some(MAKE.into())),
            None => Check::ok(NAME, format!("auth.jwt.secret has {} bytes", secret.len())),
        });
    }
    if let Some(public) = &jwt.public_key {
        checks.push(judge_key("auth.jwt.public_key", SHOW, Key::public(public)));
    }
    if let Some(own) = &jwt.wallet_key {
        let key = Key::ed25519_pair(own).map(|(key, _)| key);
        checks.push(judge_key("auth.wallet.key", SHOW_OWN, key));
        checks.extend(open_file(NAME, Path::new(own), "the private key"));
    }
    if let Some(url) = &jwt.jwks_url {
        let set = KeySet::new(url.clone());
        let fetched = set.renew(Instant::now()).await;
        checks.push(judge_set(fetched.map(|()| set.count())));
    }
    if checks.is_empty() {
        checks.push(Check::ok(
            NAME,
            "none are asked for (auth.mode), or the run has a secret",
        ));
    }
    checks
}

/// `show`: what to type to see what kind of key there is.
fn judge_key(name: &str, show: &str, key: Result<Key, String>) -> Check {
    match key {
        Ok(key) => {
            let algorithms = key.algorithms.iter().map(|one| format!("{one:?}"));
            let algorithms: Vec<String> = algorithms.collect();
            Check::ok(
                NAME,
                format!("{name} is a key for {}", algorithms.join(", ")),
            )
        }
        Err(what) => {
            let todo = format!("{show} shows what a file holds");
            Check::problem(NAME, what, Some(todo))
        }
    }
}

/// How many keys a set has, or why it could not be fetched.
fn judge_set(fetched: Result<usize, impl std::fmt::Display>) -> Check {
    let todo = "see that curl gets a key set (RFC 7517) from auth.jwt.jwks_url on this machine";
    match fetched {
        Ok(0) => Check::problem(
            NAME,
            "the key set of auth.jwt.jwks_url has no key for signatures: all tokens are refused",
            Some(todo.into()),
        ),
        Ok(1) => Check::ok(NAME, "the key set of auth.jwt.jwks_url has a key"),
        Ok(count) => Check::ok(
            NAME,
            format!("the key set of auth.jwt.jwks_url has {count} keys"),
        ),
        Err(why) => Check::problem(
            NAME,
            format!("the key set of auth.jwt.jwks_url could not be fetched: {why}"),
            Some(todo.into()),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::super::report::Status;
    use super::*;
    use crate::config::JwtSettings;

    #[tokio::test]
    async fn keys_are_read_and_never_shown() {
        let pem = include_str!("../../tests/keys/ed.pub.pem");
        for (secret, public, expected) in [
            (
                Some("a secret that has its thirty-two bytes"),
                None,
                Status::Ok,
            ),
            (Some("a secret, but short"), None, Status::Warning),
            (None, Some(pem), Status::Ok),
            (None, Some("/there/is/none.pem"), Status::Problem),
        ] {
            let jwt = JwtSettings {
                secret: secret.map(Into::into),
                public_key: public.map(Into::into),
                ..JwtSettings::default()
            };
            let settings = Settings {
                jwt,
                ..Settings::default()
            };
            let checks = look(&settings, None).await;
            assert_eq!(checks.len(), 1);
            assert_eq!(checks[0].status, expected, "{checks:?}");
            assert!(!format!("{checks:?}").contains("a secret"), "{checks:?}");
        }
    }

    #[cfg(unix)]
    #[tokio::test]
    async fn a_private_key_is_shown_as_one_and_read_by_its_owner_alone() {
        use std::fs::Permissions;
        use std::os::unix::fs::PermissionsExt as _;
        let file = std::env::temp_dir().join(format!("heartline-key-{}.pem", std::process::id()));
        let looked = async |pem: &str, mode: u32| {
            std::fs::write(&file, pem).unwrap();
            std::fs::set_permissions(&file, Permissions::from_mode(mode)).unwrap();
            let jwt = JwtSettings {
                wallet_key: file.to_str().map(Into::into),
                ..JwtSettings::default()
            };
            let settings = Settings {
                jwt,
                ..Settings::default()
            };
            look(&settings, None).await
        };
        let pem = include_str!("../../tests/keys/ed.pem");
        let checks = looked(pem, 0o640).await;
        assert!(checks.len() == 1 && checks[0].status == Status::Ok);
        let checks = looked(pem, 0o644).await;
        assert_eq!(checks[1].status, Status::Warning, "{checks:?}");
        assert!(checks[1].found.contains("the private key"), "{checks:?}");
        let checks = looked(include_str!("../../tests/keys/ec.pem"), 0o600).await;
        assert_eq!(checks[0].status, Status::Problem, "{checks:?}");
        let todo = checks[0].todo.as_deref().unwrap();
        assert!(todo.starts_with("openssl pkey -in FILE -noout"), "{todo}");
        let _ = std::fs::remove_file(file);
    }

    #[tokio::test]
    async fn without_a_way_to_tell_sockets_apart_there_is_a_problem() {
        let checks = look(&Settings::default(), Some("none is configured")).await;
        assert_eq!(checks[0].status, Status::Problem);
        assert_eq!(look(&Settings::default(), None).await[0].status, Status::Ok);
    }

    #[test]
    fn a_key_set_without_a_key_lets_nobody_in() {
        assert_eq!(judge_set(Ok::<_, String>(0)).status, Status::Problem);
        assert_eq!(judge_set(Ok::<_, String>(2)).status, Status::Ok);
        assert_eq!(judge_set(Err("no route")).status, Status::Problem);
    }
}

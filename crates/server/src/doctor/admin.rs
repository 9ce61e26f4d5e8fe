//! Who can ask operators' questions.

use super::report::Check;
use crate::config::{Settings, exposed};
use crate::hosts::is_loopback;

/// Shortest token that cannot be tried out, bytes.
const GOOD_TOKEN: usize = 16;

pub(super) fn judge(settings: &Settings) -> Check {
    const NAME: &str = "admin";
    const MAKE: &str = "openssl rand -base64 32 makes one for HEARTLINE__ADMIN__TOKEN";
    let listen = &settings.admin_listen;
    let token = settings.admin_token.as_deref();
    let is_local = is_loopback(listen);
    if let Some(what) = exposed(settings) {
        let todo = format!("{MAKE}; or set admin.listen to 127.0.0.1:9090");
        return Check::warning(NAME, what, Some(todo));
    }
    match token {
        Some(token) if !is_local && token.len() < GOOD_TOKEN => Check::warning(
            NAME,
            format!(
                "admin.token has {} bytes, and whoever reaches {listen} can try it out",
                token.len()
            ),
            Some(MAKE.into()),
        ),
        Some(_) if is_local => Check::ok(
            NAME,
            format!("{listen} is reached from this machine, with the token"),
        ),
        Some(_) => Check::ok(
            NAME,
            format!("{listen} wants the token, which comes unencrypted: keep it in your network"),
        ),
        None => Check::ok(NAME, format!("{listen} is reached from this machine alone")),
    }
}

#[cfg(test)]
mod tests {
    use super::super::report::Status;
    use super::*;

    #[test]
    fn a_listener_for_operators_that_strangers_reach_wants_a_token() {
        for (listen, token, expected) in [
            ("127.0.0.1:9090", None, Status::Ok),
            ("127.0.0.1:9090", Some("short"), Status::Ok),
            ("0.0.0.0:9090", None, Status::Warning),
            ("0.0.0.0:9090", Some("short"), Status::Warning),
            (
                "0.0.0.0:9090",
                Some("a token that is long enough"),
                Status::Ok,
            ),
        ] {
            let settings = Settings {
                admin_listen: listen.into(),
                admin_token: token.map(Into::into),
                ..Settings::default()
            };
            let check = judge(&settings);
            assert_eq!(check.status, expected, "{listen} {token:?}");
            assert!(!format!("{check:?}").contains("short"), "it is a secret");
        }
    }
}

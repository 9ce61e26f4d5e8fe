//! The reference in docs/configuration.md, printed from the table of keys.

use std::fmt::Write as _;

use super::keys::{self, Apply};

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
| `sub` | always (or `userId`): the user's id, text of 1 to 256 bytes without control characters, or a number |
| `nbf` | if it is there: from when it is good, Unix seconds |
| `iss`, `aud` | those of `auth.jwt.issuer` and `auth.jwt.audience`, where these are set |
| `userType`, `tenantId`, `deviceId`, `walletAddress` | may be there: text of the same kind, or a number |
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
    for key in keys::all() {
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

    #[test]
    fn the_reference_is_up_to_date() {
        let written = include_str!("../../../../docs/configuration.md");
        assert!(
            written == reference(),
            "run: cargo run -p heartline-server -- config docs > docs/configuration.md"
        );
    }
}

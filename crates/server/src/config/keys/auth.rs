//! `auth`: who may come in, by tokens and by wallets.

#![expect(clippy::unit_arg, reason = "in the table a setter is one line")]

use std::time::Duration;

use heartline::auth::{MAX_ID, is_id};
use heartline::config::AuthMode;
use toml::Value;

use super::key::{Key, node, secret, space};
use crate::config::place;
use crate::config::value::{
    Wrong, duration_or_none, is_off, one_of, optional, positive_duration, text, truth,
};

/// Longest name of a host (RFC 1035), and a port.
const MAX_DOMAIN: usize = 253 + 6;
/// Largest `auth.wallet.ttl`: as long as somebody may look for their wallet.
const MAX_CHALLENGE_TTL: Duration = Duration::from_secs(3_600);
/// Smallest `auth.wallet.token_ttl`.
const MIN_TOKEN_TTL: Duration = Duration::from_secs(1);
/// Largest `auth.jwt.leeway`: clocks do not differ by more, and tokens should expire.
const MAX_LEEWAY: Duration = Duration::from_secs(86_400);

/// A parameter of the query that Engine.IO does not use itself.
fn query_name(value: &Value) -> Result<String, Wrong> {
    let name = text(value)?;
    if ["EIO", "transport", "sid", "t", "b64", "j"].contains(&name.as_str()) {
        return Err(format!("cannot be {name:?}: Engine.IO uses that itself"));
    }
    let fits = |c: char| c.is_ascii_alphanumeric() || "_-.".contains(c);
    match name.chars().all(fits) {
        true => Ok(name),
        false => Err(format!(
            "must be the name of a parameter, like \"token\", not {name:?}"
        )),
    }
}

/// The name of a cookie (RFC 6265 §4.1.1).
fn cookie_name(value: &Value) -> Result<String, Wrong> {
    let name = text(value)?;
    let fits = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
    match name.chars().all(fits) {
        true => Ok(name),
        false => Err(format!(
            "must be the name of a cookie, like \"session\", not {name:?}"
        )),
    }
}

fn hmac_secret(value: &Value) -> Result<String, Wrong> {
    let secret = text(value)?;
    // Whoever has a public key could sign with it otherwise.
    match secret.contains("-----BEGIN") {
        true => Err("is a PEM: a public key belongs into auth.jwt.public_key".into()),
        false => Ok(secret),
    }
}

/// A URL that can be fetched. It is not repeated: it may hold a password.
fn web_url(value: &Value) -> Result<String, Wrong> {
    let given = text(value)?;
    let like = "must be a URL like \"https://issuer.example/.well-known/jwks.json\"";
    let url = reqwest::Url::parse(&given).map_err(|error| format!("{like}: {error}"))?;
    let fits = |c: char| c.is_ascii_graphic();
    match ["http", "https"].contains(&url.scheme()) && given.chars().all(fits) {
        true => Ok(url.into()),
        false => Err(like.into()),
    }
}

/// One text, and not what looks like a list of several.
fn one_text(value: &Value) -> Result<String, Wrong> {
    let given = text(value).ok().filter(|given| !given.starts_with('['));
    given.ok_or_else(|| "must be one text, not a list".into())
}

/// A host, with a port perhaps, as it stands in a URL.
fn domain(value: &Value) -> Result<String, Wrong> {
    let given = text(value)?;
    let origin = place::origin(&format!("https://{given}"));
    let origin = origin.ok().filter(|_| !given.contains(['/', '*', '@']));
    let domain = origin
        .as_deref()
        .and_then(|origin| origin.strip_prefix("https://"));
    match domain.filter(|domain| domain.len() <= MAX_DOMAIN && domain.is_ascii()) {
        Some(domain) => Ok(domain.to_owned()),
        None => Err("must be a host as in a URL, like \"app.example\"".into()),
    }
}

/// A kind of user as a token can have it: tokens with another are refused.
fn user_type(value: &Value) -> Result<String, Wrong> {
    let given = one_text(value)?;
    match is_id(&given) {
        true => Ok(given),
        false => Err(format!(
            "must be text of at most {MAX_ID} bytes, without control characters, like \"player\""
        )),
    }
}

/// How long a token is good: tokens count in whole seconds.
fn token_ttl(value: &Value) -> Result<Duration, Wrong> {
    let ttl = positive_duration(value)?;
    match ttl < MIN_TOKEN_TTL {
        true => Err("must be at least 1s, or tokens would be over at once".into()),
        false => Ok(ttl),
    }
}

fn claim_name(value: &Value) -> Result<String, Wrong> {
    match is_off(value) {
        true => Err("must be the name of a claim, like \"sub\"".into()),
        false => text(value),
    }
}

macro_rules! claim {
    ($name:literal, $default:literal, $field:ident) => {
        node(
            concat!("auth.jwt.claims.", $name),
            $default,
            concat!("the claim that carries this: ", $name),
            |settings, value| Ok(settings.jwt.claims.$field = claim_name(value)?),
        )
    };
}

/// The keys of `auth`, in the order of the reference.
pub(super) const KEYS: &[Key] = &[
    space(
        "auth.mode",
        "\"required\"",
        "`required`, `optional` (anonymous sockets allowed) or `off`",
        |n, v| {
            let modes = [
                ("required", AuthMode::Required),
                ("optional", AuthMode::Optional),
                ("off", AuthMode::Off),
            ];
            Ok(n.auth_mode = one_of(v, &modes)?)
        },
    ),
    secret(
        "auth.jwt.secret",
        "secret of HS256, HS384 and HS512 tokens: 16 bytes at least, and 32 to be safe",
        |s, v| Ok(s.jwt.secret = optional(v, hmac_secret)?),
    ),
    node(
        "auth.jwt.public_key",
        "\"off\"",
        "PEM file (or PEM text, its line ends may be written `\\n`) of the public key of RS*, PS*, ES* and EdDSA tokens",
        |s, v| Ok(s.jwt.public_key = optional(v, text)?),
    ),
    node(
        "auth.jwt.jwks_url",
        "\"off\"",
        "URL of a key set; fetched at start, again after its `Cache-Control: max-age` (30 s to 1 h, else 5 min), and for a token that none of its keys has signed. Where it cannot be reached, its keys are good for an hour more",
        |s, v| Ok(s.jwt.jwks_url = optional(v, web_url)?),
    ),
    node(
        "auth.jwt.issuer",
        "\"off\"",
        "the `iss` that tokens must have",
        |s, v| Ok(s.jwt.issuer = optional(v, one_text)?),
    ),
    node(
        "auth.jwt.audience",
        "\"off\"",
        "the `aud` that tokens must have",
        |s, v| Ok(s.jwt.audience = optional(v, one_text)?),
    ),
    node(
        "auth.jwt.leeway",
        "\"5s\"",
        "how far clocks may differ; a connection whose token expires stays for as long",
        |s, v| match duration_or_none(v)? {
            leeway if leeway <= MAX_LEEWAY => Ok(s.jwt.leeway = leeway),
            _ => Err("must be at most 1d, or tokens would hardly expire".into()),
        },
    ),
    node(
        "auth.jwt.query",
        "\"token\"",
        "the parameter of a connection's query that may bring a token (`?token=`), where neither the client's `auth` nor the header `Authorization` does; `off` for none",
        |s, v| Ok(s.gateway.token_query = optional(v, query_name)?),
    ),
    node(
        "auth.jwt.cookie",
        "\"off\"",
        "the cookie that may bring a token, where nothing else does; believed only of the server's own pages and those of `server.allowed_origins`, which cannot be `[\"*\"]` then",
        |s, v| Ok(s.gateway.token_cookie = optional(v, cookie_name)?),
    ),
    node(
        "auth.wallet.enabled",
        "false",
        "people sign in with a Stellar or ed25519 key: `POST /auth/challenge` and `POST /auth/connect` on the public port ([wallets](wallets.md))",
        |s, v| Ok(s.wallet.enabled = truth(v)?),
    ),
    node(
        "auth.wallet.domain",
        "\"off\"",
        "where people sign in, like `\"app.example\"`: their wallets show it to them; needed for that",
        |s, v| Ok(s.wallet.domain = optional(v, domain)?.unwrap_or_default()),
    ),
    node(
        "auth.wallet.ttl",
        "\"5m\"",
        "how long a challenge can be signed, at most `\"1h\"`",
        |s, v| match positive_duration(v)? {
            ttl if ttl <= MAX_CHALLENGE_TTL => Ok(s.wallet.ttl = ttl),
            _ => Err("must be at most 1h: a challenge is signed at once, or not at all".into()),
        },
    ),
    node(
        "auth.wallet.token_ttl",
        "\"12h\"",
        "how long the token is good that a wallet gets, at least `\"1s\"`",
        |s, v| Ok(s.wallet.token_ttl = token_ttl(v)?),
    ),
    node(
        "auth.wallet.user_type",
        "\"off\"",
        "the `userType` of who signs in with a wallet",
        |s, v| Ok(s.wallet.user_type = optional(v, user_type)?),
    ),
    secret(
        "auth.wallet.key",
        "PEM file (or PEM text) of an Ed25519 private key that signs these tokens (EdDSA); without it `auth.jwt.secret` does (HS256)",
        |s, v| Ok(s.jwt.wallet_key = optional(v, text)?),
    ),
    claim!("user", "\"sub\"", user),
    claim!("user_type", "\"userType\"", user_type),
    claim!("tenant", "\"tenantId\"", tenant),
    claim!("device", "\"deviceId\"", device),
    claim!("wallet", "\"walletAddress\"", wallet),
    claim!("rooms", "\"rooms\"", rooms),
    claim!("publish", "\"publish\"", publish),
];

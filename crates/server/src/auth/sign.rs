//! Tokens signed with the configured secret, for people and for `--dev`.

use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde_json::{Map, Value};

use super::crypto;
use crate::config::JwtSettings;

/// What a token is to say.
#[derive(Debug, Clone, Default)]
pub(crate) struct Claims {
    pub(crate) user: String,
    pub(crate) user_type: Option<String>,
    pub(crate) tenant: Option<String>,
    pub(crate) device: Option<String>,
    pub(crate) wallet: Option<String>,
    pub(crate) rooms: Vec<String>,
    pub(crate) publish: Vec<String>,
    pub(crate) admin: bool,
}

/// A token that expires at `expires`, Unix seconds.
///
/// # Errors
/// A sentence, when no secret is configured.
pub(crate) fn sign(
    settings: &JwtSettings,
    claims: &Claims,
    expires: u64,
) -> Result<String, String> {
    let secret = settings
        .secret
        .as_ref()
        .ok_or("a token is signed with auth.jwt.secret, and none is configured: set it with --config, --set or HEARTLINE__AUTH__JWT__SECRET")?;
    crypto::install();
    let names = &settings.claims;
    let mut body = Map::new();
    let mut put = |name: &str, value: Option<&String>| {
        if let Some(value) = value {
            body.insert(name.to_owned(), Value::String(value.clone()));
        }
    };
    put(&names.user, Some(&claims.user));
    put(&names.user_type, claims.user_type.as_ref());
    put(&names.tenant, claims.tenant.as_ref());
    put(&names.device, claims.device.as_ref());
    put(&names.wallet, claims.wallet.as_ref());
    put("iss", settings.issuer.as_ref());
    put("aud", settings.audience.as_ref());
    for (name, patterns) in [
        (&names.rooms, &claims.rooms),
        (&names.publish, &claims.publish),
    ] {
        if !patterns.is_empty() {
            body.insert(name.clone(), Value::from(patterns.clone()));
        }
    }
    if claims.admin {
        body.insert("admin".into(), Value::Bool(true));
    }
    body.insert("exp".into(), Value::from(expires));
    let key = EncodingKey::from_secret(secret.as_bytes());
    encode(&Header::new(Algorithm::HS256), &Value::Object(body), &key)
        .map_err(|error| format!("the token could not be signed: {error}"))
}

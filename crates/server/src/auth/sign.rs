//! Tokens that are signed here: for people, for `--dev`, and for wallets.

use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde_json::{Map, Value};

use super::crypto;
use super::key::Key;
use crate::config::{ClaimNames, JwtSettings};

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

/// Signs tokens that this gateway believes.
pub(crate) struct Signer {
    key: EncodingKey,
    algorithm: Algorithm,
    names: ClaimNames,
    issuer: Option<String>,
    audience: Option<String>,
}

impl Signer {
    /// One that signs with the configured secret.
    ///
    /// # Errors
    /// A sentence, when there is none.
    pub(crate) fn with_secret(settings: &JwtSettings) -> Result<Signer, String> {
        let secret = settings
            .secret
            .as_ref()
            .ok_or("a token is signed with auth.jwt.secret, and none is configured: set it with --config, --set or HEARTLINE__AUTH__JWT__SECRET")?;
        let key = EncodingKey::from_secret(secret.as_bytes());
        Ok(Signer::new(settings, key, Algorithm::HS256))
    }

    /// One that signs what wallets get: with `auth.wallet.key` where it is set, else with the
    /// secret.
    ///
    /// # Errors
    /// A sentence, when there is neither, or the key is none.
    pub(crate) fn for_wallets(settings: &JwtSettings) -> Result<Signer, String> {
        let Some(key) = &settings.wallet_key else {
            return Signer::with_secret(settings);
        };
        let (_, private) = Key::ed25519_pair(key)?;
        let key = EncodingKey::from_ed_der(&private);
        Ok(Signer::new(settings, key, Algorithm::EdDSA))
    }

    fn new(settings: &JwtSettings, key: EncodingKey, algorithm: Algorithm) -> Signer {
        crypto::install();
        Signer {
            key,
            algorithm,
            names: settings.claims.clone(),
            issuer: settings.issuer.clone(),
            audience: settings.audience.clone(),
        }
    }

    /// A token that expires at `expires`, Unix seconds.
    ///
    /// # Errors
    /// A sentence, when the key cannot sign.
    pub(crate) fn sign(&self, claims: &Claims, expires: u64) -> Result<String, String> {
        let names = &self.names;
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
        put("iss", self.issuer.as_ref());
        put("aud", self.audience.as_ref());
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
        encode(
            &Header::new(self.algorithm),
            &Value::Object(body),
            &self.key,
        )
        .map_err(|error| format!("the token could not be signed: {error}"))
    }
}

/// A token, signed with the configured secret, that expires at `expires`, Unix seconds.
///
/// # Errors
/// A sentence, when no secret is configured.
pub(crate) fn sign(
    settings: &JwtSettings,
    claims: &Claims,
    expires: u64,
) -> Result<String, String> {
    Signer::with_secret(settings)?.sign(claims, expires)
}

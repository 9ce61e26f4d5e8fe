//! Keys that verify signatures, each with the algorithms that it is for.

use jsonwebtoken::{Algorithm, DecodingKey};

/// A key and the algorithms that it may be used with.
#[derive(Clone)]
pub(crate) struct Key {
    pub(crate) key: DecodingKey,
    pub(crate) algorithms: Vec<Algorithm>,
}

impl Key {
    /// A secret, for HMAC.
    pub(crate) fn secret(secret: &str) -> Self {
        Key {
            key: DecodingKey::from_secret(secret.as_bytes()),
            algorithms: vec![Algorithm::HS256, Algorithm::HS384, Algorithm::HS512],
        }
    }

    /// A public key from PEM text or from the file of that name.
    ///
    /// # Errors
    /// A sentence that begins with the configuration's key.
    pub(crate) fn public(given: &str) -> Result<Self, String> {
        let pem = match given.contains("-----BEGIN") {
            true => given.as_bytes().to_vec(),
            false => std::fs::read(given)
                .map_err(|error| format!("auth.jwt.public_key: {given} cannot be read: {error}"))?,
        };
        use Algorithm::{ES256, ES384, EdDSA, PS256, PS384, PS512, RS256, RS384, RS512};
        let rsa = DecodingKey::from_rsa_pem(&pem)
            .map(|key| (key, vec![RS256, RS384, RS512, PS256, PS384, PS512]));
        let ec = || DecodingKey::from_ec_pem(&pem).map(|key| (key, vec![ES256, ES384]));
        let ed = || DecodingKey::from_ed_pem(&pem).map(|key| (key, vec![EdDSA]));
        let (key, algorithms) = rsa.or_else(|_| ec()).or_else(|_| ed()).map_err(|_| {
            "auth.jwt.public_key must be the PEM of an RSA, EC (P-256, P-384) or Ed25519 public key"
                .to_owned()
        })?;
        Ok(Key { key, algorithms })
    }
}

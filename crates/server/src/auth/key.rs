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
            true => unfolded(given).into_bytes(),
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

    /// Whether this key made the signature of a token, `head.signature`.
    pub(crate) fn verifies(&self, head: &str, signature: &str, algorithm: Algorithm) -> bool {
        self.algorithms.contains(&algorithm)
            && jsonwebtoken::crypto::verify(signature, head.as_bytes(), &self.key, algorithm)
                .unwrap_or(false)
    }
}

/// PEM text with its lines. Where environment variables come from files or dashboards, its
/// line ends are often written out as `\n`, or are spaces.
fn unfolded(pem: &str) -> String {
    let pem = pem.replace("\\r", "").replace("\\n", "\n");
    let mut out = String::with_capacity(pem.len() + 16);
    // Between the dashes stand the labels and, with nothing but white space, the body.
    for (index, part) in pem.trim().split("-----").enumerate() {
        match index % 2 {
            1 => {
                let part = part.trim();
                out.push_str(&format!("-----{part}-----\n"));
            }
            _ => {
                for word in part.split_whitespace() {
                    out.push_str(word);
                    out.push('\n');
                }
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_that_lost_its_line_ends_on_the_way_is_read() {
        for pem in [
            include_str!("../../tests/keys/rsa.pub.pem"),
            include_str!("../../tests/keys/ec.pub.pem"),
            include_str!("../../tests/keys/ed.pub.pem"),
        ] {
            for ends in ["\n", "\\n", "\\r\\n", "\r\n", " ", "\\n\n"] {
                let folded = pem.replace('\n', ends);
                assert!(Key::public(&folded).is_ok(), "{folded:?}");
            }
            assert!(Key::public(pem.trim()).is_ok());
        }
        assert!(
            Key::public("-----BEGIN PUBLIC KEY-----\\nAAAA\\n-----END PUBLIC KEY-----").is_err()
        );
    }
}

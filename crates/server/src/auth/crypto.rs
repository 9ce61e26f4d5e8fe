//! What `jsonwebtoken` asks of a cryptographic library, by `ring`.
//!
//! `ring` is what TLS uses here too, so that the binary holds one such library; those that
//! `jsonwebtoken` comes with are a second one (RustCrypto) or one that takes minutes to
//! build (aws-lc).

use std::sync::Once;

use jsonwebtoken::crypto::{CryptoProvider, JwtSigner, JwtVerifier, KeyUtils};
use jsonwebtoken::errors::{Error, ErrorKind, Result};
use jsonwebtoken::signature::{self, Signer, Verifier};
use jsonwebtoken::{Algorithm, AlgorithmFamily, DecodingKey, DecodingKeyKind, EncodingKey};
use ring::hmac;
use ring::signature as asymmetric;

/// Makes `ring` what verifies and signs in this process, tokens and TLS alike. The first
/// call does it, further ones do nothing.
pub(crate) fn install() {
    static INSTALLED: Once = Once::new();
    static TOKENS: CryptoProvider = CryptoProvider {
        signer_factory: signer,
        verifier_factory: verifier,
        // For making key sets out of keys; they are only read here.
        key_utils: KeyUtils::new_unimplemented(),
    };
    INSTALLED.call_once(|| {
        // Both refuse when something stands there already, and then that serves as well.
        let _ = TOKENS.install_default();
        let _ = heartline::rustls::crypto::ring::default_provider().install_default();
    });
}

/// The HMAC of an algorithm.
fn hmac_of(algorithm: Algorithm) -> Option<hmac::Algorithm> {
    match algorithm {
        Algorithm::HS256 => Some(hmac::HMAC_SHA256),
        Algorithm::HS384 => Some(hmac::HMAC_SHA384),
        Algorithm::HS512 => Some(hmac::HMAC_SHA512),
        _ => None,
    }
}

/// An algorithm that signs; the gateway signs with its secret, and with a key for wallets.
struct Signs {
    algorithm: Algorithm,
    key: EncodingKey,
}

fn signer(algorithm: &Algorithm, key: &EncodingKey) -> Result<Box<dyn JwtSigner>> {
    of_one_family(*algorithm, key.family())?;
    Ok(Box::new(Signs {
        algorithm: *algorithm,
        key: key.clone(),
    }))
}

impl Signer<Vec<u8>> for Signs {
    fn try_sign(&self, message: &[u8]) -> std::result::Result<Vec<u8>, signature::Error> {
        match hmac_of(self.algorithm) {
            Some(hash) => {
                let key = hmac::Key::new(hash, self.key.as_bytes());
                Ok(hmac::sign(&key, message).as_ref().to_vec())
            }
            None => asymmetric_signature(self.algorithm, self.key.as_bytes(), message),
        }
    }
}

impl JwtSigner for Signs {
    fn algorithm(&self) -> Algorithm {
        self.algorithm
    }
}

/// An algorithm that verifies, with the key that it was made for.
struct Verifies {
    algorithm: Algorithm,
    key: DecodingKey,
}

fn verifier(algorithm: &Algorithm, key: &DecodingKey) -> Result<Box<dyn JwtVerifier>> {
    of_one_family(*algorithm, key.family())?;
    Ok(Box::new(Verifies {
        algorithm: *algorithm,
        key: key.clone(),
    }))
}

/// An algorithm is never used with a key of another family: a public key that is taken for
/// an HMAC's secret is the classic forgery.
fn of_one_family(algorithm: Algorithm, key: AlgorithmFamily) -> Result<()> {
    match algorithm.family() == key {
        true => Ok(()),
        false => Err(Error::from(ErrorKind::InvalidKeyFormat)),
    }
}

impl Verifier<Vec<u8>> for Verifies {
    fn verify(
        &self,
        message: &[u8],
        signature: &Vec<u8>,
    ) -> std::result::Result<(), signature::Error> {
        let bytes = || self.key.try_get_as_bytes().map_err(failed);
        if let Some(hash) = hmac_of(self.algorithm) {
            let key = hmac::Key::new(hash, bytes()?);
            return hmac::verify(&key, message, signature).map_err(failed);
        }
        let verified = match (rsa_of(self.algorithm), self.key.kind()) {
            (Some(rsa), DecodingKeyKind::RsaModulusExponent { n, e }) => {
                asymmetric::RsaPublicKeyComponents { n, e }.verify(rsa, message, signature)
            }
            (Some(rsa), DecodingKeyKind::SecretOrDer(key)) => {
                asymmetric::UnparsedPublicKey::new(rsa, key).verify(message, signature)
            }
            (None, _) => {
                let curve: &'static dyn asymmetric::VerificationAlgorithm = match self.algorithm {
                    Algorithm::ES256 => &asymmetric::ECDSA_P256_SHA256_FIXED,
                    Algorithm::ES384 => &asymmetric::ECDSA_P384_SHA384_FIXED,
                    Algorithm::EdDSA => &asymmetric::ED25519,
                    _ => return Err(signature::Error::new()),
                };
                asymmetric::UnparsedPublicKey::new(curve, bytes()?).verify(message, signature)
            }
        };
        verified.map_err(failed)
    }
}

impl JwtVerifier for Verifies {
    fn algorithm(&self) -> Algorithm {
        self.algorithm
    }
}

/// The RSA of an algorithm, for keys of 2048 to 8192 bits.
fn rsa_of(algorithm: Algorithm) -> Option<&'static asymmetric::RsaParameters> {
    match algorithm {
        Algorithm::RS256 => Some(&asymmetric::RSA_PKCS1_2048_8192_SHA256),
        Algorithm::RS384 => Some(&asymmetric::RSA_PKCS1_2048_8192_SHA384),
        Algorithm::RS512 => Some(&asymmetric::RSA_PKCS1_2048_8192_SHA512),
        Algorithm::PS256 => Some(&asymmetric::RSA_PSS_2048_8192_SHA256),
        Algorithm::PS384 => Some(&asymmetric::RSA_PSS_2048_8192_SHA384),
        Algorithm::PS512 => Some(&asymmetric::RSA_PSS_2048_8192_SHA512),
        _ => None,
    }
}

/// `ring` does not say what was wrong, on purpose: a signature is good or not.
fn failed<E>(_: E) -> signature::Error {
    signature::Error::new()
}

/// A signature with a private Ed25519 key; tests sign as the issuers of tokens do, with keys of
/// all kinds.
fn asymmetric_signature(
    algorithm: Algorithm,
    key: &[u8],
    message: &[u8],
) -> std::result::Result<Vec<u8>, signature::Error> {
    if algorithm == Algorithm::EdDSA {
        let pair = asymmetric::Ed25519KeyPair::from_pkcs8_maybe_unchecked(key);
        return Ok(pair.map_err(failed)?.sign(message).as_ref().to_vec());
    }
    #[cfg(not(test))]
    return Err(signature::Error::new());
    #[cfg(test)]
    of_issuers(algorithm, key, message)
}

#[cfg(test)]
fn of_issuers(
    algorithm: Algorithm,
    key: &[u8],
    message: &[u8],
) -> std::result::Result<Vec<u8>, signature::Error> {
    use asymmetric::{EcdsaKeyPair, RsaKeyPair};
    let random = ring::rand::SystemRandom::new();
    let with_curve = |curve| {
        let pair = EcdsaKeyPair::from_pkcs8(curve, key, &random).map_err(failed)?;
        let signature = pair.sign(&random, message).map_err(failed)?;
        Ok(signature.as_ref().to_vec())
    };
    let padding: &'static dyn asymmetric::RsaEncoding = match algorithm {
        Algorithm::ES256 => return with_curve(&asymmetric::ECDSA_P256_SHA256_FIXED_SIGNING),
        Algorithm::ES384 => return with_curve(&asymmetric::ECDSA_P384_SHA384_FIXED_SIGNING),
        Algorithm::RS256 => &asymmetric::RSA_PKCS1_SHA256,
        Algorithm::RS384 => &asymmetric::RSA_PKCS1_SHA384,
        Algorithm::RS512 => &asymmetric::RSA_PKCS1_SHA512,
        Algorithm::PS256 => &asymmetric::RSA_PSS_SHA256,
        Algorithm::PS384 => &asymmetric::RSA_PSS_SHA384,
        Algorithm::PS512 => &asymmetric::RSA_PSS_SHA512,
        _ => return Err(signature::Error::new()),
    };
    let pair = RsaKeyPair::from_der(key).map_err(failed)?;
    let mut signature = vec![0; pair.public().modulus_len()];
    pair.sign(padding, &random, message, &mut signature)
        .map_err(failed)?;
    Ok(signature)
}

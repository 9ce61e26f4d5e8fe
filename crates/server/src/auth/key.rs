//! Keys that verify signatures, each with the algorithms that it is for.

use std::path::Path;

use heartline::rustls::pki_types::CertificateDer;
use jsonwebtoken::{Algorithm, DecodingKey};
use ring::signature::{Ed25519KeyPair, KeyPair as _};
use spki::ObjectIdentifier;

// RFC 8017 appendix A.1, RFC 5480 section 2.1.1, RFC 8410 section 3.
const RSA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.1");
const EC: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.2.1");
const P256: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.3.1.7");
const P384: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.132.0.34");
const ED25519: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.101.112");

/// What names of files with keys end with.
const ENDINGS: &[&str] = &["pem", "key", "pub", "crt", "cer", "der", "txt"];

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

    /// A public key from PEM text or from the file of that name: the key itself (RFC 5280
    /// `PUBLIC KEY`, PKCS #1 `RSA PUBLIC KEY`) or a certificate that holds it.
    ///
    /// # Errors
    /// A sentence that begins with the configuration's key.
    pub(crate) fn public(given: &str) -> Result<Self, String> {
        let text = read(given).map_err(|what| format!("auth.jwt.public_key: {what}"))?;
        Key::from_pem(&text).map_err(|what| format!("auth.jwt.public_key {what}"))
    }

    /// The key that verifies what a private Ed25519 key signs, and that key itself as PKCS #8
    /// (RFC 8410), from PEM text or from the file of that name.
    ///
    /// # Errors
    /// A sentence that begins with the configuration's key.
    pub(crate) fn ed25519_pair(given: &str) -> Result<(Self, Vec<u8>), String> {
        const KIND: &str = "auth.wallet.key must be the PEM of an Ed25519 private key \
                            (`openssl genpkey -algorithm ed25519` makes one)";
        let text = read(given).map_err(|what| format!("auth.wallet.key: {what}"))?;
        let pem = pem::parse(text).map_err(|_| KIND)?;
        let pair = Ed25519KeyPair::from_pkcs8_maybe_unchecked(pem.contents());
        let pair = pair.map_err(|_| KIND)?;
        let key = Key {
            key: DecodingKey::from_ed_der(pair.public_key().as_ref()),
            algorithms: vec![Algorithm::EdDSA],
        };
        Ok((key, pem.into_contents()))
    }

    fn from_pem(text: &[u8]) -> Result<Self, &'static str> {
        const KINDS: &str = "must be the PEM of an RSA, EC (P-256, P-384) or Ed25519 public key";
        let pem = pem::parse(text).map_err(|_| KINDS)?;
        match pem.tag() {
            "PUBLIC KEY" => Key::from_info(pem.contents()).unwrap_or(Err(KINDS)),
            "RSA PUBLIC KEY" => Key::rsa(pem.contents()),
            "CERTIFICATE" => {
                let der = CertificateDer::from(pem.contents());
                let certificate = webpki::EndEntityCert::try_from(&der).map_err(|_| KINDS)?;
                Key::from_info(&certificate.subject_public_key_info()).unwrap_or(Err(KINDS))
            }
            tag if tag.ends_with("PRIVATE KEY") => Err(
                "is a private key, which only the issuer of tokens should hold: give the public key that belongs to it (openssl pkey -in KEY -pubout)",
            ),
            _ => Err(KINDS),
        }
    }

    /// The key of a `SubjectPublicKeyInfo` (RFC 5280, section 4.1.2.7); `None`: of no kind
    /// that is known.
    fn from_info(der: &[u8]) -> Option<Result<Self, &'static str>> {
        let info = spki::SubjectPublicKeyInfoRef::try_from(der).ok()?;
        let key = info.subject_public_key.as_bytes()?;
        if info.algorithm.oid == RSA {
            return Some(Key::rsa(key));
        }
        let (key, algorithm) = match info.algorithm.oid {
            ED25519 => (DecodingKey::from_ed_der(key), Algorithm::EdDSA),
            EC => match info.algorithm.parameters_oid().ok()? {
                P256 => (DecodingKey::from_ec_der(key), Algorithm::ES256),
                P384 => (DecodingKey::from_ec_der(key), Algorithm::ES384),
                _ => return None,
            },
            _ => return None,
        };
        Some(Ok(Key {
            key,
            algorithms: vec![algorithm],
        }))
    }

    /// An RSA key by its modulus and exponent (RFC 8017, appendix A.1.1).
    fn rsa(der: &[u8]) -> Result<Self, &'static str> {
        use Algorithm::{PS256, PS384, PS512, RS256, RS384, RS512};
        // The modulus alone is that long; nothing that a shorter key signed is believed.
        if der.len() < 2048 / 8 {
            return Err("is an RSA key of less than 2048 bits: those are not safe");
        }
        Ok(Key {
            key: DecodingKey::from_rsa_der(der),
            algorithms: vec![RS256, RS384, RS512, PS256, PS384, PS512],
        })
    }

    /// Whether this key made the signature of a token, `head.signature`.
    pub(crate) fn verifies(&self, head: &str, signature: &str, algorithm: Algorithm) -> bool {
        self.algorithms.contains(&algorithm)
            && jsonwebtoken::crypto::verify(signature, head.as_bytes(), &self.key, algorithm)
                .unwrap_or(false)
    }
}

/// PEM text, or what is in the file of that name.
fn read(given: &str) -> Result<Vec<u8>, String> {
    if given.contains("-----BEGIN") {
        return Ok(unfolded(given).into_bytes());
    }
    // What is no file may be a key that has lost the lines around it: it is not said again.
    let is_there = std::fs::symlink_metadata(given).is_ok() || is_path(given);
    std::fs::read(given).map_err(|error| match is_there {
        true => format!("{given} cannot be read: {error}"),
        false => format!("it is neither PEM text nor the name of a file: {error}"),
    })
}

/// Whether this can only be the name of a file: no key ends like one, or begins with a folder that
/// is there.
fn is_path(given: &str) -> bool {
    let path = Path::new(given);
    let ending = path.extension().and_then(|ending| ending.to_str());
    let is_named = ending.is_some_and(|ending| ENDINGS.contains(&ending));
    let mut above = path.ancestors().skip(1);
    let is_within = above.any(|folder| {
        let is_root = folder.parent().is_none();
        !is_root && folder.is_absolute() && folder.is_dir()
    });
    is_named || is_within
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
    fn what_may_be_a_key_is_not_said_again() {
        // What stands between the lines of a PEM, as people paste it.
        let pasted = "MC4CAQAwBQYDK2VwBCIEIJ+DYvh6SEqVTm50DFtMDoQikTmiCqirVv9mWG9qfSnF";
        let own = Key::ed25519_pair(pasted).err().unwrap_or_default();
        let public = Key::public(pasted).err().unwrap_or_default();
        for (key, said) in [("auth.wallet.key", own), ("auth.jwt.public_key", public)] {
            assert!(said.starts_with(key) && !said.contains("MC4C"), "{said}");
        }
        for wrong in [
            "a.secret/of+ours",
            "/iqirVv9mWG9qfSnF/YvhA",
            "correct.horse",
        ] {
            let said = Key::public(wrong).err().unwrap_or_default();
            assert!(!said.contains(wrong), "{said}");
        }
        // What can be nothing but a path is named, and so is what is there.
        let inside = std::env::temp_dir().join("no-such-folder/key");
        for missing in ["keys/none.pem", "none.pub", inside.to_str().unwrap()] {
            let own = Key::ed25519_pair(missing).err().unwrap_or_default();
            let public = Key::public(missing).err().unwrap_or_default();
            for said in [own, public] {
                let named = format!(": {missing} cannot be read: ");
                assert!(said.contains(&named), "{said}");
            }
        }
        let here = std::env::current_exe().unwrap();
        let folder = here.parent().and_then(|folder| folder.to_str()).unwrap();
        let said = Key::public(folder).err().unwrap_or_default();
        assert!(said.contains(folder), "{said}");
    }

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
    #[test]
    fn a_key_is_read_from_whatever_pem_holds_it() {
        let rsa = |pem| Key::public(pem).unwrap().algorithms;
        let usual = rsa(include_str!("../../tests/keys/rsa.pub.pem"));
        assert_eq!(usual.len(), 6);
        for pem in [
            include_str!("../../tests/keys/rsa.pkcs1.pub.pem"),
            include_str!("../../tests/keys/rsa.cert.pem"),
        ] {
            assert_eq!(rsa(pem), usual);
        }
    }

    #[test]
    fn a_key_that_cannot_serve_is_refused_with_the_reason() {
        for (pem, why) in [
            (include_str!("../../tests/keys/rsa.pem"), "private key"),
            (include_str!("../../tests/keys/ed.pem"), "private key"),
            (include_str!("../../tests/keys/short.pub.pem"), "2048 bits"),
            (
                include_str!("../../tests/keys/p521.pub.pem"),
                "P-256, P-384",
            ),
        ] {
            let refusal = Key::public(pem).err().unwrap();
            assert!(refusal.starts_with("auth.jwt.public_key "), "{refusal}");
            assert!(refusal.contains(why), "{refusal}");
        }
    }
}

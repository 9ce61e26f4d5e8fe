//! Verification of JSON Web Tokens (RFC 7519).
//!
//! Which algorithms are accepted follows from the key that is configured,
//! never from the token: a secret verifies HMAC only, a public key its own
//! family only, and `none` is no algorithm. `exp` must be there. Times are
//! checked here, against a clock that is handed in.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use heartline::auth::{
    AuthError, Authenticator, BoxFuture, Credentials, Identity, RoomPattern, UserKey,
};
use jsonwebtoken::{Algorithm, Validation, decode, decode_header};
use serde_json::{Map, Value};

use super::jwks::KeySet;
use super::key::Key;
use crate::config::{ClaimNames, JwtSettings};

/// Unix time in seconds.
pub(crate) type Clock = fn() -> u64;

/// The system's clock.
pub(crate) fn system_clock() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

/// Longest id in a token, bytes.
const MAX_ID: usize = 256;
/// Longest token, bytes.
const MAX_TOKEN: usize = 16 * 1024;
/// Most patterns in one claim.
const MAX_PATTERNS: usize = 1000;

/// Verifies tokens as the configuration says.
#[derive(Clone)]
pub(crate) struct JwtAuthenticator(Arc<Inner>);

struct Inner {
    secret: Option<Key>,
    public: Option<Key>,
    set: Option<KeySet>,
    issuer: Option<String>,
    audience: Option<String>,
    leeway: u64,
    claims: ClaimNames,
    clock: Clock,
}

impl JwtAuthenticator {
    /// Makes one; reads the public key's file.
    ///
    /// # Errors
    /// A sentence, when the key is none.
    pub(crate) fn new(settings: &JwtSettings, clock: Clock) -> Result<Self, String> {
        let secret = settings.secret.as_deref().map(Key::secret);
        let public = settings
            .public_key
            .as_deref()
            .map(Key::public)
            .transpose()?;
        Ok(JwtAuthenticator(Arc::new(Inner {
            secret,
            public,
            set: settings.jwks_url.clone().map(KeySet::new),
            issuer: settings.issuer.clone(),
            audience: settings.audience.clone(),
            leeway: settings.leeway.as_secs(),
            claims: settings.claims.clone(),
            clock,
        })))
    }
}

impl Authenticator for JwtAuthenticator {
    fn authenticate(&self, credentials: Credentials) -> BoxFuture<Result<Identity, AuthError>> {
        let inner = self.0.clone();
        Box::pin(async move {
            let token = credentials.token.ok_or(AuthError::Required)?;
            inner.verify(&token).await
        })
    }
}

impl Inner {
    async fn verify(&self, token: &str) -> Result<Identity, AuthError> {
        if token.len() > MAX_TOKEN {
            return Err(AuthError::Invalid);
        }
        let header = decode_header(token).map_err(|_| AuthError::Invalid)?;
        let fits = |key: &&Key| key.algorithms.contains(&header.alg);
        let known = self.secret.iter().chain(&self.public).find(fits);
        let fetched;
        let key = match (known, &self.set) {
            (Some(key), _) => key,
            (None, Some(set)) => {
                fetched = set.key(header.kid.as_deref(), header.alg).await?;
                &fetched
            }
            (None, None) => return Err(AuthError::Invalid),
        };
        let claims = self.open(token, key, header.alg)?;
        self.check_times(&claims)?;
        self.identity(&claims)
    }

    /// The claims of a token whose signature, issuer and audience are right.
    fn open(
        &self,
        token: &str,
        key: &Key,
        algorithm: Algorithm,
    ) -> Result<Map<String, Value>, AuthError> {
        if !key.algorithms.contains(&algorithm) {
            return Err(AuthError::Invalid);
        }
        let mut validation = Validation::new(algorithm);
        validation.validate_exp = false;
        validation.validate_nbf = false;
        validation.required_spec_claims.clear();
        validation.validate_aud = self.audience.is_some();
        if let Some(audience) = &self.audience {
            validation.set_audience(&[audience]);
            validation.required_spec_claims.insert("aud".into());
        }
        if let Some(issuer) = &self.issuer {
            validation.set_issuer(&[issuer]);
            validation.required_spec_claims.insert("iss".into());
        }
        decode::<Map<String, Value>>(token, &key.key, &validation)
            .map(|data| data.claims)
            .map_err(|_| AuthError::Invalid)
    }

    fn check_times(&self, claims: &Map<String, Value>) -> Result<(), AuthError> {
        let now = (self.clock)();
        let expires = seconds(claims.get("exp")).ok_or(AuthError::Invalid)?;
        if expires.saturating_add(self.leeway) <= now {
            return Err(AuthError::Expired);
        }
        match claims.get("nbf") {
            None => Ok(()),
            Some(begins) => match seconds(Some(begins)) {
                Some(begins) if begins <= now.saturating_add(self.leeway) => Ok(()),
                _ => Err(AuthError::Invalid),
            },
        }
    }

    fn identity(&self, claims: &Map<String, Value>) -> Result<Identity, AuthError> {
        let names = &self.claims;
        let id = |name: &str| -> Result<Option<Arc<str>>, AuthError> {
            match claims.get(name) {
                None | Some(Value::Null) => Ok(None),
                Some(Value::String(text)) if !text.is_empty() && text.len() <= MAX_ID => {
                    Ok(Some(text.as_str().into()))
                }
                Some(Value::Number(number)) => Ok(Some(number.to_string().into())),
                Some(_) => Err(AuthError::Invalid),
            }
        };
        let user_id = match id(&names.user)? {
            Some(user) => user,
            None => id("userId")?.ok_or(AuthError::Invalid)?,
        };
        let user = UserKey {
            tenant_id: id(&names.tenant)?,
            user_id,
            user_type: id(&names.user_type)?,
        };
        Ok(Identity {
            user: Some(Arc::new(user)),
            device_id: id(&names.device)?,
            wallet_address: id(&names.wallet)?,
            rooms: patterns(claims.get(&names.rooms))?,
            publish: patterns(claims.get(&names.publish))?,
            admin: claims.get("admin") == Some(&Value::Bool(true)),
            expires_at: seconds(claims.get("exp")).map(|seconds| seconds.saturating_mul(1000)),
        })
    }
}

/// A NumericDate (RFC 7519 §2), fractions cut off.
fn seconds(value: Option<&Value>) -> Option<u64> {
    let value = value?;
    value.as_u64().or_else(|| {
        value
            .as_f64()
            .filter(|at| *at >= 0.0 && *at < 1e15)
            .map(|at| at as u64)
    })
}

fn patterns(value: Option<&Value>) -> Result<Option<Arc<[RoomPattern]>>, AuthError> {
    let list = match value {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::Array(list)) if list.len() <= MAX_PATTERNS => list,
        Some(_) => return Err(AuthError::Invalid),
    };
    let patterns = list.iter().map(|pattern| {
        pattern
            .as_str()
            .map(RoomPattern::new)
            .ok_or(AuthError::Invalid)
    });
    patterns
        .collect::<Result<Vec<_>, _>>()
        .map(|patterns| Some(patterns.into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::sign::{Claims, sign};
    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    use jsonwebtoken::{EncodingKey, Header, encode};
    use serde_json::json;

    const NOW: u64 = 1_800_000_000;
    const RSA_PUBLIC: &str = include_str!("../../tests/keys/rsa.pub.pem");
    const RSA_PRIVATE: &str = include_str!("../../tests/keys/rsa.pem");
    const EC_PUBLIC: &str = include_str!("../../tests/keys/ec.pub.pem");
    const EC_PRIVATE: &str = include_str!("../../tests/keys/ec.pem");
    const ED_PUBLIC: &str = include_str!("../../tests/keys/ed.pub.pem");
    const ED_PRIVATE: &str = include_str!("../../tests/keys/ed.pem");

    fn settings() -> JwtSettings {
        JwtSettings {
            leeway: std::time::Duration::from_secs(5),
            claims: ClaimNames {
                user: "sub".into(),
                user_type: "userType".into(),
                tenant: "tenantId".into(),
                device: "deviceId".into(),
                wallet: "walletAddress".into(),
                rooms: "rooms".into(),
                publish: "publish".into(),
            },
            ..JwtSettings::default()
        }
    }

    fn with_secret() -> JwtSettings {
        JwtSettings {
            secret: Some("secret".into()),
            ..settings()
        }
    }

    fn with_public(pem: &str) -> JwtSettings {
        JwtSettings {
            public_key: Some(pem.into()),
            ..settings()
        }
    }

    fn verify(settings: &JwtSettings, token: &str) -> Result<Identity, AuthError> {
        let authenticator = JwtAuthenticator::new(settings, || NOW).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        runtime.block_on(authenticator.0.verify(token))
    }

    fn hmac(claims: &Value) -> String {
        encode(
            &Header::default(),
            claims,
            &EncodingKey::from_secret(b"secret"),
        )
        .unwrap()
    }

    fn good() -> Value {
        json!({ "sub": "7", "exp": NOW + 60 })
    }

    #[test]
    fn a_good_token_says_who_it_is() {
        let token = hmac(&json!({
            "sub": "7", "exp": NOW + 60, "userType": "driver", "tenantId": "acme", "deviceId": "d1",
            "walletAddress": "0x1", "rooms": ["conversation:*"], "admin": true,
        }));
        let identity = verify(&with_secret(), &token).unwrap();
        let user = identity.user.unwrap();
        assert_eq!(
            (
                &*user.user_id,
                user.user_type.as_deref(),
                user.tenant_id.as_deref()
            ),
            ("7", Some("driver"), Some("acme"))
        );
        assert_eq!(identity.device_id.as_deref(), Some("d1"));
        assert!(identity.rooms.unwrap()[0].matches("conversation:42"));
        assert!(identity.admin && identity.publish.is_none());
        assert_eq!(identity.expires_at, Some((NOW + 60) * 1000));
    }

    #[test]
    fn user_id_stands_in_for_sub_and_numbers_are_ids() {
        let identity = verify(
            &with_secret(),
            &hmac(&json!({ "userId": 42, "exp": NOW + 60 })),
        )
        .unwrap();
        assert_eq!(identity.user_id(), Some("42"));
    }

    #[test]
    fn alg_none_is_no_algorithm() {
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        for alg in ["none", "None", "NONE"] {
            let token = format!(
                "{}.{}.",
                part(&json!({ "alg": alg, "typ": "JWT" })),
                part(&good())
            );
            assert_eq!(
                verify(&with_secret(), &token).err(),
                Some(AuthError::Invalid)
            );
        }
    }

    #[test]
    fn a_public_key_is_no_hmac_secret() {
        let key = EncodingKey::from_secret(RSA_PUBLIC.as_bytes());
        let token = encode(&Header::default(), &good(), &key).unwrap();
        assert_eq!(
            verify(&with_public(RSA_PUBLIC), &token).err(),
            Some(AuthError::Invalid)
        );
    }

    #[test]
    fn each_kind_of_key_verifies_its_own() {
        let keys = [
            (
                RSA_PUBLIC,
                EncodingKey::from_rsa_pem(RSA_PRIVATE.as_bytes()).unwrap(),
                vec![Algorithm::RS256, Algorithm::PS384],
            ),
            (
                EC_PUBLIC,
                EncodingKey::from_ec_pem(EC_PRIVATE.as_bytes()).unwrap(),
                vec![Algorithm::ES256],
            ),
            (
                ED_PUBLIC,
                EncodingKey::from_ed_pem(ED_PRIVATE.as_bytes()).unwrap(),
                vec![Algorithm::EdDSA],
            ),
        ];
        for (public, private, algorithms) in &keys {
            for algorithm in algorithms {
                let token = encode(&Header::new(*algorithm), &good(), private).unwrap();
                for (other, _, _) in &keys {
                    assert_eq!(
                        verify(&with_public(other), &token).is_ok(),
                        other == public,
                        "{algorithm:?}"
                    );
                }
            }
        }
    }

    #[test]
    fn times_are_checked_within_the_leeway() {
        let at = |exp: u64| verify(&with_secret(), &hmac(&json!({ "sub": "7", "exp": exp }))).err();
        assert_eq!(at(NOW - 4), None);
        assert_eq!(at(NOW - 5), Some(AuthError::Expired));
        let begins = |nbf: u64| {
            verify(
                &with_secret(),
                &hmac(&json!({ "sub": "7", "exp": NOW + 60, "nbf": nbf })),
            )
            .err()
        };
        assert_eq!(begins(NOW + 5), None);
        assert_eq!(begins(NOW + 6), Some(AuthError::Invalid));
    }

    #[test]
    fn what_is_missing_or_wrong_is_refused() {
        let settings = JwtSettings {
            issuer: Some("us".into()),
            audience: Some("here".into()),
            ..with_secret()
        };
        let check = |claims: Value| verify(&settings, &hmac(&claims)).is_ok();
        assert!(check(
            json!({ "sub": "7", "exp": NOW + 60, "iss": "us", "aud": ["here", "there"] })
        ));
        assert!(!check(
            json!({ "sub": "7", "exp": NOW + 60, "iss": "them", "aud": "here" })
        ));
        assert!(!check(
            json!({ "sub": "7", "exp": NOW + 60, "iss": "us", "aud": "there" })
        ));
        assert!(!check(
            json!({ "sub": "7", "exp": NOW + 60, "aud": "here" })
        ));
        assert!(!check(json!({ "sub": "7", "exp": NOW + 60, "iss": "us" })));
        for claims in [
            json!({ "sub": "7" }),
            json!({ "exp": NOW + 60 }),
            json!({ "sub": "", "exp": NOW + 60 }),
            json!({ "sub": {}, "exp": NOW + 60 }),
            json!({ "sub": "7", "exp": "soon" }),
            json!({ "sub": "x".repeat(300), "exp": NOW + 60 }),
            json!({ "sub": "7", "exp": NOW + 60, "rooms": "all" }),
        ] {
            assert_eq!(
                verify(&with_secret(), &hmac(&claims)).err(),
                Some(AuthError::Invalid),
                "{claims}"
            );
        }
    }

    #[test]
    fn tampering_shows() {
        let token = hmac(&good());
        let (head, signature) = token.rsplit_once('.').unwrap();
        let (header, _) = head.split_once('.').unwrap();
        let other = URL_SAFE_NO_PAD.encode(json!({ "sub": "8", "exp": NOW + 60 }).to_string());
        for forged in [
            format!("{header}.{other}.{signature}"),
            format!("{head}."),
            "x".into(),
            String::new(),
            "a.b.c".into(),
        ] {
            assert_eq!(
                verify(&with_secret(), &forged).err(),
                Some(AuthError::Invalid)
            );
        }
        let elsewhere = JwtSettings {
            secret: Some("another".into()),
            ..settings()
        };
        assert_eq!(verify(&elsewhere, &token).err(), Some(AuthError::Invalid));
    }

    #[test]
    fn our_own_tokens_are_good() {
        let claims = Claims {
            user: "7".into(),
            device: Some("d".into()),
            ..Claims::default()
        };
        let token = sign(&with_secret(), &claims, NOW + 60).unwrap();
        let identity = verify(&with_secret(), &token).unwrap();
        assert_eq!(identity.device_id.as_deref(), Some("d"));
    }
}

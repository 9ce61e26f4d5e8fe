//! Verification of JSON Web Tokens (RFC 7519).
//!
//! Which algorithms are accepted follows from the keys that are configured,
//! never from the token: a secret verifies HMAC only, a public key its own
//! family only, and `none` is no algorithm. `exp` must be there. Times are
//! checked here, against a clock that is handed in.
//!
//! A client hears that its token is invalid, expired or could not be checked. Why, the
//! log says.

use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use heartline::auth::{
    AuthError, Authenticator, BoxFuture, Credentials, Identity, MAX_ID, RoomPattern, UserKey, is_id,
};
use heartline_wire::json::whole;
use jsonwebtoken::Algorithm;
use serde_json::{Map, Value};

use super::crypto;
use super::jwks::KeySet;
use super::key::Key;
use super::refusal::{RefusalLog, Refused};
use crate::config::{ClaimNames, JwtSettings};

/// Unix time in seconds.
pub(crate) type Clock = fn() -> u64;

/// The system's clock.
pub(crate) fn system_clock() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

/// Longest token, bytes.
const MAX_TOKEN: usize = 16 * 1024;
/// Most patterns in one claim.
const MAX_PATTERNS: usize = 1000;

/// Verifies tokens as the configuration says.
#[derive(Clone)]
pub(crate) struct JwtAuthenticator(Arc<Inner>);

struct Inner {
    /// The keys of the configuration itself, each with the setting it is from.
    keys: Vec<(&'static str, Key)>,
    set: Option<KeySet>,
    issuer: Option<String>,
    audience: Option<String>,
    /// Milliseconds.
    leeway: u64,
    claims: ClaimNames,
    clock: Clock,
    refusals: RefusalLog,
}

impl JwtAuthenticator {
    /// Makes one; reads the public key's file.
    ///
    /// # Errors
    /// A sentence, when the key is none.
    pub(crate) fn new(settings: &JwtSettings, clock: Clock) -> Result<Self, String> {
        crypto::install();
        let mut keys = Vec::new();
        if let Some(secret) = &settings.secret {
            keys.push(("auth.jwt.secret", Key::secret(secret)));
        }
        if let Some(public) = &settings.public_key {
            keys.push(("auth.jwt.public_key", Key::public(public)?));
        }
        if let Some(own) = &settings.wallet_key {
            keys.push(("auth.wallet.key", Key::ed25519_pair(own)?.0));
        }
        Ok(JwtAuthenticator(Arc::new(Inner {
            keys,
            set: settings.jwks_url.clone().map(KeySet::new),
            issuer: settings.issuer.clone(),
            audience: settings.audience.clone(),
            leeway: u64::try_from(settings.leeway.as_millis()).unwrap_or(u64::MAX),
            claims: settings.claims.clone(),
            clock,
            refusals: RefusalLog::new(),
        })))
    }

    /// Who a token is of.
    ///
    /// # Errors
    /// Why it is refused.
    pub(crate) async fn verify(&self, token: &str) -> Result<Identity, Refused> {
        self.0.verify(token).await
    }

    /// The key set, where there is one.
    pub(crate) fn key_set(&self) -> Option<&KeySet> {
        self.0.set.as_ref()
    }
}

impl Authenticator for JwtAuthenticator {
    fn authenticate(&self, credentials: Credentials) -> BoxFuture<Result<Identity, AuthError>> {
        let inner = self.0.clone();
        Box::pin(async move {
            let token = credentials.token.ok_or(AuthError::Required)?;
            let verified = inner.verify(&token).await;
            verified.map_err(|refused| {
                let (remote, namespace) = (credentials.remote_addr, &credentials.namespace);
                inner.refusals.note(&refused, remote, namespace);
                refused.error
            })
        })
    }
}

/// What a token's header says.
struct Header {
    algorithm: Algorithm,
    key_id: Option<String>,
}

/// A part of a token as an object. Half a character becomes U+FFFD: a name that was cut
/// within an emoji is no reason to lock its user out.
fn object(part: &str) -> Option<Map<String, Value>> {
    let json = String::from_utf8(URL_SAFE_NO_PAD.decode(part).ok()?).ok()?;
    serde_json::from_str(&whole(&json)).ok()
}

impl Header {
    /// Reads the first part of a token (RFC 7515 §4.1).
    fn read(part: &str) -> Result<Header, Refused> {
        let header = object(part).ok_or_else(|| {
            Refused::invalid("it is no JSON Web Token: its first part is no object")
        })?;
        let algorithm = header
            .get("alg")
            .and_then(Value::as_str)
            .and_then(|name| name.parse().ok())
            .ok_or_else(|| {
                Refused::invalid("its header names no algorithm (`alg`) that signs with a key")
            })?;
        // What must be understood, and is not, must be refused (§4.1.11).
        if header.contains_key("crit") {
            return Err(Refused::invalid(
                "its header asks for an extension (`crit`)",
            ));
        }
        let key_id = header.get("kid").and_then(|id| match id {
            Value::String(id) => Some(id.clone()),
            Value::Number(id) => Some(id.to_string()),
            _ => None,
        });
        Ok(Header { algorithm, key_id })
    }
}

impl Inner {
    async fn verify(&self, token: &str) -> Result<Identity, Refused> {
        if token.len() > MAX_TOKEN {
            return Err(Refused::invalid("it is longer than 16 KB"));
        }
        let parts: Vec<&str> = token.split('.').collect();
        let [header, body, signature] = parts[..] else {
            let why = "it is no JSON Web Token: those have three parts with dots between them";
            return Err(Refused::invalid(why));
        };
        let header = Header::read(header)?;
        let head = &token[..token.len() - signature.len() - 1];
        self.check_signature(&header, head, signature).await?;
        let claims =
            object(body).ok_or_else(|| Refused::invalid("its claims are no object of JSON"))?;
        self.check_party("iss", "auth.jwt.issuer", self.issuer.as_ref(), &claims)?;
        self.check_party("aud", "auth.jwt.audience", self.audience.as_ref(), &claims)?;
        self.check_times(&claims)?;
        self.identity(&claims)
    }

    /// Looks for a key that has made the signature.
    async fn check_signature(
        &self,
        header: &Header,
        head: &str,
        signature: &str,
    ) -> Result<(), Refused> {
        let algorithm = header.algorithm;
        let mut fits = false;
        for (_, key) in &self.keys {
            fits |= key.algorithms.contains(&algorithm);
            if key.verifies(head, signature, algorithm) {
                return Ok(());
            }
        }
        use Algorithm::{HS256, HS384, HS512};
        // A key set has no secrets: for those it needs not be fetched.
        let set = self.set.as_ref();
        let set = set.filter(|_| ![HS256, HS384, HS512].contains(&algorithm));
        if let Some(set) = set {
            let arrived = Instant::now();
            let id = header.key_id.as_deref();
            let mut keys = set.candidates(id, algorithm);
            let any = |keys: &[Key]| {
                keys.iter()
                    .any(|key| key.verifies(head, signature, algorithm))
            };
            if any(&keys) {
                return Ok(());
            }
            // It may be of a key that is new, under an id that another one had as well.
            set.renew(arrived).await.map_err(|why| Refused {
                error: AuthError::Unavailable,
                why: format!("the key set of auth.jwt.jwks_url could not be fetched: {why}").into(),
            })?;
            keys = set.candidates(id, algorithm);
            if any(&keys) {
                return Ok(());
            }
            fits |= !keys.is_empty();
        }
        Err(Refused::invalid(self.no_key(
            algorithm,
            fits,
            set.is_some(),
        )))
    }

    /// Why no key has made a signature; `fits` says that some could have.
    fn no_key(&self, algorithm: Algorithm, fits: bool, set: bool) -> String {
        let mut names: Vec<_> = self.keys.iter().map(|(name, _)| *name).collect();
        names.extend(self.set.as_ref().map(|_| "auth.jwt.jwks_url"));
        let names = names.join(" or ");
        match (fits, set) {
            (true, _) => {
                format!(
                    "its signature is not made with the key of {names} (another secret or key?)"
                )
            }
            (false, true) => format!(
                "it is signed with {algorithm:?} and a key (`kid`) that {names} does not hold"
            ),
            (false, false) => {
                format!("it is signed with {algorithm:?}, for which {names} is no key")
            }
        }
    }

    /// Checks the issuer or the audience, if there must be one (RFC 7519 §4.1).
    fn check_party(
        &self,
        claim: &str,
        key: &str,
        wanted: Option<&String>,
        claims: &Map<String, Value>,
    ) -> Result<(), Refused> {
        let Some(wanted) = wanted else {
            return Ok(());
        };
        let is = |value: &Value| value.as_str() == Some(wanted);
        match claims.get(claim) {
            Some(Value::Array(list)) if list.iter().any(is) => Ok(()),
            Some(value) if is(value) => Ok(()),
            Some(_) => Err(Refused::invalid(format!(
                "its claim `{claim}` is not {wanted:?}, as {key} wants it"
            ))),
            None => Err(Refused::invalid(format!(
                "it has no claim `{claim}`, which {key} wants to be {wanted:?}"
            ))),
        }
    }

    fn check_times(&self, claims: &Map<String, Value>) -> Result<(), Refused> {
        let now = (self.clock)().saturating_mul(1000);
        let at = |claim: &str| match claims.get(claim) {
            None => Ok(None),
            Some(value) => seconds(value)
                .map(|seconds| Some(seconds.saturating_mul(1000)))
                .ok_or_else(|| {
                    Refused::invalid(format!("its claim `{claim}` is no number of Unix seconds"))
                }),
        };
        let expires = at("exp")?
            .ok_or_else(|| Refused::invalid("it has no claim `exp`: every token must expire"))?;
        if expires.saturating_add(self.leeway) <= now {
            return Err(Refused {
                error: AuthError::Expired,
                why: format!("it expired {} s ago", (now - expires) / 1000).into(),
            });
        }
        match at("nbf")? {
            Some(begins) if begins > now.saturating_add(self.leeway) => Err(Refused::invalid(
                format!("it is good only in {} s (`nbf`)", (begins - now) / 1000),
            )),
            _ => Ok(()),
        }
    }

    fn identity(&self, claims: &Map<String, Value>) -> Result<Identity, Refused> {
        let names = &self.claims;
        let id = |name: &str| -> Result<Option<Arc<str>>, Refused> {
            match claims.get(name) {
                None | Some(Value::Null) => Ok(None),
                Some(Value::String(text)) if is_id(text) => Ok(Some(text.as_str().into())),
                // Others have been rounded, or may be written in more ways than one: users whose
                // ids differ would be the same.
                Some(Value::Number(number)) if number.is_u64() || number.is_i64() => {
                    Ok(Some(number.to_string().into()))
                }
                Some(Value::Number(_)) => Err(Refused::invalid(format!(
                    "its claim `{name}` is a number that is not whole, or of more than 64 bits: \
                     such an id must be text"
                ))),
                Some(_) => Err(Refused::invalid(format!(
                    "its claim `{name}` is no text of 1 to {MAX_ID} bytes and whole characters, \
                     none of them a control character"
                ))),
            }
        };
        let user_id = match id(&names.user)? {
            Some(user) => user,
            None => id("userId")?.ok_or_else(|| {
                Refused::invalid(format!(
                    "it has no claim `{}` that says who it is of",
                    names.user
                ))
            })?,
        };
        let user = UserKey {
            tenant_id: id(&names.tenant)?,
            user_id,
            user_type: id(&names.user_type)?,
        };
        let expires = claims.get("exp").and_then(seconds);
        Ok(Identity {
            user: Some(Arc::new(user)),
            device_id: id(&names.device)?,
            wallet_address: id(&names.wallet)?,
            rooms: patterns(&names.rooms, claims)?,
            publish: patterns(&names.publish, claims)?,
            admin: claims.get("admin") == Some(&Value::Bool(true)),
            // What the leeway has let in stays for as long as it would be let in.
            expires_at: expires
                .map(|seconds| seconds.saturating_mul(1000).saturating_add(self.leeway)),
        })
    }
}

/// A NumericDate (RFC 7519 §2), fractions cut off.
pub(crate) fn seconds(value: &Value) -> Option<u64> {
    value.as_u64().or_else(|| {
        value
            .as_f64()
            .filter(|at| *at >= 0.0 && *at < 1e15)
            .map(|at| at as u64)
    })
}

/// The patterns of a claim: `null` is an empty list, as a claim that is absent is not.
fn patterns(
    name: &str,
    claims: &Map<String, Value>,
) -> Result<Option<Arc<[RoomPattern]>>, Refused> {
    let list = match claims.get(name) {
        None => return Ok(None),
        Some(Value::Null) => return Ok(Some(Arc::default())),
        Some(Value::Array(list)) if list.len() <= MAX_PATTERNS => list,
        Some(_) => {
            return Err(Refused::invalid(format!(
                "its claim `{name}` is no list of at most {MAX_PATTERNS} names of rooms"
            )));
        }
    };
    let patterns = list.iter().map(|pattern| {
        let pattern = pattern.as_str().map(RoomPattern::new);
        pattern.ok_or_else(|| {
            Refused::invalid(format!(
                "its claim `{name}` holds something that is no text"
            ))
        })
    });
    patterns
        .collect::<Result<Vec<_>, _>>()
        .map(|patterns| Some(patterns.into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::sign::{Claims, sign};
    use jsonwebtoken::{EncodingKey, Header, encode};
    use serde_json::json;

    const NOW: u64 = 1_800_000_000;
    const RSA_PUBLIC: &str = include_str!("../../tests/keys/rsa.pub.pem");
    const RSA_PRIVATE: &str = include_str!("../../tests/keys/rsa.pkcs1.pem");
    const EC_PUBLIC: &str = include_str!("../../tests/keys/ec.pub.pem");
    const EC_PRIVATE: &str = include_str!("../../tests/keys/ec.pem");
    const ED_PUBLIC: &str = include_str!("../../tests/keys/ed.pub.pem");
    const ED_PRIVATE: &str = include_str!("../../tests/keys/ed.pem");

    /// What a PEM file holds, as signing takes it: PKCS #1 of RSA, PKCS #8 of the others.
    fn der(file: &str) -> Vec<u8> {
        pem::parse(file).unwrap().into_contents()
    }

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
        let verified = runtime.block_on(authenticator.verify(token));
        verified.map_err(|refused| refused.error)
    }

    fn why(settings: &JwtSettings, token: &str) -> String {
        let authenticator = JwtAuthenticator::new(settings, || NOW).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let refused = runtime.block_on(authenticator.verify(token)).unwrap_err();
        refused.why.into_owned()
    }

    fn hmac(claims: &Value) -> String {
        crypto::install();
        encode(
            &Header::default(),
            claims,
            &EncodingKey::from_secret(b"secret"),
        )
        .unwrap()
    }

    fn good() -> Value {
        crypto::install();
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
        assert_eq!(identity.expires_at, Some((NOW + 65) * 1000));
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
                EncodingKey::from_rsa_der(&der(RSA_PRIVATE)),
                vec![Algorithm::RS256, Algorithm::PS384],
            ),
            (
                EC_PUBLIC,
                EncodingKey::from_ec_der(&der(EC_PRIVATE)),
                vec![Algorithm::ES256],
            ),
            (
                ED_PUBLIC,
                EncodingKey::from_ed_der(&der(ED_PRIVATE)),
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
    fn an_id_that_is_a_number_is_a_whole_one_of_64_bits() {
        let said = |claim: &str, id: &str| {
            let mut claims = good();
            claims[claim] = "here".into();
            let body = claims.to_string().replace("\"here\"", id);
            let head = URL_SAFE_NO_PAD.encode(r#"{"alg":"HS256"}"#);
            let head = format!("{head}.{}", URL_SAFE_NO_PAD.encode(body));
            let key = EncodingKey::from_secret(b"secret");
            let signed = jsonwebtoken::crypto::sign(head.as_bytes(), &key, Algorithm::HS256);
            format!("{head}.{}", signed.unwrap())
        };
        for claim in ["sub", "userType", "tenantId", "deviceId", "walletAddress"] {
            for whole in ["0", "18446744073709551615", "-9223372036854775808"] {
                let identity = verify(&with_secret(), &said(claim, whole)).unwrap();
                let user = identity.user.unwrap();
                let ids = [
                    Some(&user.user_id),
                    user.user_type.as_ref(),
                    user.tenant_id.as_ref(),
                    identity.device_id.as_ref(),
                    identity.wallet_address.as_ref(),
                ];
                let is_there = ids.into_iter().flatten().any(|id| &**id == whole);
                assert!(is_there, "{claim}: {whole}");
            }
            for other in [
                "18446744073709551616",
                "1.5",
                "1.0",
                "1e3",
                "-9223372036854775809",
            ] {
                let token = said(claim, other);
                let refused = verify(&with_secret(), &token).unwrap_err();
                assert_eq!(refused, AuthError::Invalid, "{claim}: {other}");
                let why = why(&with_secret(), &token);
                assert!(why.contains(claim) && why.contains("must be text"), "{why}");
            }
        }
    }

    #[test]
    fn an_id_has_no_control_character() {
        for claim in ["sub", "userType", "tenantId", "deviceId", "walletAddress"] {
            for (id, fits) in [
                ("a b", true),
                ("a\0b", false),
                ("a\nb", false),
                ("\u{85}", false),
            ] {
                let mut claims = good();
                claims[claim] = id.into();
                let key = EncodingKey::from_secret(b"secret");
                let token = encode(&Header::default(), &claims, &key).unwrap();
                let verified = verify(&with_secret(), &token);
                assert_eq!(verified.is_ok(), fits, "{claim}: {id:?}");
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
    fn half_a_character_in_a_token_locks_nobody_out_unless_it_says_who_they_are() {
        let check = |sub: &str, name: &str| {
            let claims = format!(r#"{{"sub":"{sub}","exp":{},"name":"{name}"}}"#, NOW + 60);
            let claims = serde_json::value::RawValue::from_string(claims).unwrap();
            let key = EncodingKey::from_secret(b"secret");
            let token = encode(&Header::new(Algorithm::HS256), &claims, &key).unwrap();
            verify(&with_secret(), &token).map(|identity| identity.user.unwrap().user_id.clone())
        };
        assert_eq!(check("7", r"Ann \ud83c").ok().as_deref(), Some("7"));
        assert_eq!(
            check(r"\ud83c\udf89", "").ok().as_deref(),
            Some("\u{1f389}")
        );
        assert_eq!(check(r"\ud83c", "Ann").err(), Some(AuthError::Invalid));
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
    fn each_refusal_says_what_is_wrong_and_nothing_that_the_token_says() {
        let settings = JwtSettings {
            issuer: Some("us".into()),
            audience: Some("here".into()),
            ..with_secret()
        };
        let with = |name: &str, value: Value| {
            let mut claims = json!({ "sub": "7", "exp": NOW + 60, "iss": "us", "aud": "here" });
            claims[name] = value;
            if claims[name] == json!("absent") {
                claims.as_object_mut().unwrap().remove(name);
            }
            why(&settings, &hmac(&claims))
        };
        for (name, value, words) in [
            ("exp", json!("absent"), "no claim `exp`"),
            ("exp", json!("private"), "`exp` is no number"),
            ("exp", json!(NOW - 90), "expired 90 s ago"),
            ("nbf", json!(NOW + 90), "in 90 s"),
            ("sub", json!("absent"), "no claim `sub`"),
            ("sub", json!({ "private": 1 }), "`sub` is no text"),
            ("iss", json!("absent"), "no claim `iss`"),
            ("iss", json!("private"), "auth.jwt.issuer"),
            ("aud", json!(["private"]), "auth.jwt.audience"),
            ("tenantId", json!(["private"]), "`tenantId`"),
            ("rooms", json!("private"), "`rooms`"),
            ("publish", json!([1]), "`publish`"),
        ] {
            let why = with(name, value);
            assert!(why.contains(words), "{name}: {why}");
            assert!(!why.contains("private"), "{why}");
        }
        let other = encode(
            &Header::default(),
            &good(),
            &EncodingKey::from_secret(b"another"),
        );
        assert!(why(&settings, &other.unwrap()).contains("auth.jwt.secret"));
        assert!(why(&with_public(RSA_PUBLIC), &hmac(&good())).contains("HS256"));
        assert!(why(&settings, "private").contains("three parts"));
        let part = |value: Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let none = format!("{}.{}.", part(json!({ "alg": "none" })), part(good()));
        assert!(why(&settings, &none).contains("`alg`"));
        let crit = json!({ "alg": "HS256", "crit": ["b64"], "b64": false });
        assert!(why(&settings, &format!("{}.e30.x", part(crit))).contains("`crit`"));
    }

    #[test]
    fn whoever_the_leeway_lets_in_stays_as_long_as_it_would_let_them_in() {
        let late = |settings: &JwtSettings| {
            let token = hmac(&json!({ "sub": "7", "exp": NOW - 4 }));
            verify(settings, &token).map(|identity| identity.expires_at)
        };
        assert_eq!(late(&with_secret()), Ok(Some((NOW + 1) * 1000)));
        let half = JwtSettings {
            leeway: std::time::Duration::from_millis(4500),
            ..with_secret()
        };
        assert_eq!(late(&half), Ok(Some(NOW * 1000 + 500)));
    }

    #[test]
    fn a_claim_that_is_null_grants_no_room() {
        let token = hmac(&json!({ "sub": "7", "exp": NOW + 60, "rooms": null }));
        let identity = verify(&with_secret(), &token).unwrap();
        assert_eq!(identity.rooms.map(|rooms| rooms.len()), Some(0));
        assert!(identity.publish.is_none());
    }

    /// An Ed25519 key as an entry of a set.
    fn entry(kid: Value, x: &str) -> Value {
        json!({ "kty": "OKP", "crv": "Ed25519", "kid": kid, "x": x })
    }

    /// The `x` of the key that [`ED_PRIVATE`] belongs to.
    fn ed_x() -> String {
        let lines = ED_PUBLIC.lines().filter(|line| !line.starts_with('-'));
        let der = base64::engine::general_purpose::STANDARD.decode(lines.collect::<String>());
        let der = der.unwrap();
        URL_SAFE_NO_PAD.encode(&der[der.len() - 32..])
    }

    /// The `x` of another key.
    const OTHER_X: &str = "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo";

    /// An issuer that serves one set after the other, and the last of them from then on; what goes
    /// by it.
    async fn issued(sets: Vec<Value>) -> JwtAuthenticator {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        tokio::spawn(async move {
            let mut asked = 0;
            while let Ok((mut socket, _)) = listener.accept().await {
                let keys = &sets[asked.min(sets.len() - 1)];
                asked += 1;
                let set = json!({ "keys": keys }).to_string();
                let _ = socket.read(&mut [0; 2048]).await;
                let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n", set.len());
                let answer = format!("{head}connection: close\r\n\r\n{set}");
                let _ = socket.write_all(answer.as_bytes()).await;
            }
        });
        let with_set = JwtSettings {
            jwks_url: Some(url),
            ..settings()
        };
        JwtAuthenticator::new(&with_set, || NOW).unwrap()
    }

    /// A good token of [`ED_PRIVATE`] whose header names this key.
    fn of_key(kid: Option<Value>) -> String {
        let private = EncodingKey::from_ed_der(&der(ED_PRIVATE));
        let mut header = json!({ "alg": "EdDSA" });
        if let Some(kid) = kid {
            header["kid"] = kid;
        }
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let head = format!("{}.{}", part(&header), part(&good()));
        let signature = jsonwebtoken::crypto::sign(head.as_bytes(), &private, Algorithm::EdDSA);
        format!("{head}.{}", signature.unwrap())
    }

    #[tokio::test]
    async fn a_token_of_a_key_set_without_a_key_id_is_tried_with_all_of_its_keys() {
        let keys = json!([entry(json!("a"), OTHER_X), null, entry(json!(7), &ed_x())]);
        let authenticator = issued(vec![keys]).await;
        for (kid, is_good) in [
            (None, true),
            (Some(json!(7)), true),
            (Some(json!("a")), false),
        ] {
            let verified = authenticator.verify(&of_key(kid.clone())).await;
            assert_eq!(verified.is_ok(), is_good, "{kid:?}");
        }
    }

    #[tokio::test]
    async fn a_key_that_takes_another_one_s_place_under_its_id_is_found() {
        let sets = [OTHER_X, &ed_x()].map(|x| json!([entry(json!("x"), x)]));
        let authenticator = issued(sets.to_vec()).await;
        let set = authenticator.0.set.as_ref().unwrap();
        set.renew(Instant::now()).await.unwrap();
        assert_eq!(set.candidates(Some("x"), Algorithm::EdDSA).len(), 1);
        let verified = authenticator.verify(&of_key(Some(json!("x")))).await;
        let user = verified.map(|identity| identity.user_id().map(ToOwned::to_owned));
        assert_eq!(user.ok().flatten().as_deref(), Some("7"));
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

//! A key set over HTTP (RFC 7517): fetched when first needed, kept, and
//! fetched again when a token names a key that it does not hold.
//!
//! At most one fetch is under way, and at most one begins in ten seconds, so
//! that tokens with made-up key ids cannot make this node hammer the issuer.

use std::sync::Arc;
use std::time::{Duration, Instant};

use heartline::auth::AuthError;
use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, JwkSet, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey};
use tokio::sync::Mutex;

use super::key::Key;

const FETCH_TIMEOUT: Duration = Duration::from_secs(5);
const FETCH_INTERVAL: Duration = Duration::from_secs(10);
/// Largest key set, bytes.
const MAX_SET: usize = 1_000_000;

/// A cached key set.
pub(crate) struct KeySet {
    url: String,
    client: reqwest::Client,
    state: Mutex<State>,
    current: std::sync::RwLock<Arc<Vec<NamedKey>>>,
}

struct NamedKey {
    id: Option<String>,
    key: Key,
}

#[derive(Default)]
struct State {
    last_fetch: Option<Instant>,
}

impl KeySet {
    pub(crate) fn new(url: String) -> Self {
        KeySet {
            url,
            client: reqwest::Client::builder()
                .timeout(FETCH_TIMEOUT)
                .build()
                .unwrap_or_default(),
            state: Mutex::default(),
            current: std::sync::RwLock::default(),
        }
    }

    /// The key for a token's header.
    pub(crate) async fn key(
        &self,
        id: Option<&str>,
        algorithm: Algorithm,
    ) -> Result<Key, AuthError> {
        if let Some(key) = self.find(id, algorithm) {
            return Ok(key);
        }
        // Whoever waits here finds the set that the one before has fetched.
        let mut state = self.state.lock().await;
        if let Some(key) = self.find(id, algorithm) {
            return Ok(key);
        }
        if state
            .last_fetch
            .is_none_or(|last| last.elapsed() >= FETCH_INTERVAL)
        {
            state.last_fetch = Some(Instant::now());
            match self.fetch().await {
                Ok(keys) => {
                    let mut current = self
                        .current
                        .write()
                        .unwrap_or_else(std::sync::PoisonError::into_inner);
                    *current = Arc::new(keys);
                }
                Err(error) => {
                    tracing::warn!(%error, url = %self.url, "the key set could not be fetched; known keys stay")
                }
            }
        }
        match self.find(id, algorithm) {
            Some(key) => Ok(key),
            None if self.known().is_empty() => Err(AuthError::Unavailable),
            None => Err(AuthError::Invalid),
        }
    }

    fn known(&self) -> Arc<Vec<NamedKey>> {
        self.current
            .read()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .clone()
    }

    fn find(&self, id: Option<&str>, algorithm: Algorithm) -> Option<Key> {
        let known = self.known();
        let fits = |key: &&NamedKey| key.key.algorithms.contains(&algorithm);
        let named = |key: &&NamedKey| id.is_none() || key.id.as_deref() == id;
        known
            .iter()
            .filter(fits)
            .find(named)
            .map(|found| found.key.clone())
    }

    async fn fetch(&self) -> Result<Vec<NamedKey>, String> {
        let failed = |error: reqwest::Error| error.without_url().to_string();
        let mut response = self
            .client
            .get(&self.url)
            .send()
            .await
            .and_then(reqwest::Response::error_for_status)
            .map_err(failed)?;
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(failed)? {
            if body.len() + chunk.len() > MAX_SET {
                return Err("it is larger than a megabyte".into());
            }
            body.extend_from_slice(&chunk);
        }
        let set: JwkSet =
            serde_json::from_slice(&body).map_err(|error| format!("it is no key set: {error}"))?;
        Ok(set.keys.iter().filter_map(named_key).collect())
    }
}

/// A key of the set, if it is one that verifies signatures. A symmetric key has
/// no place in a public set.
fn named_key(jwk: &Jwk) -> Option<NamedKey> {
    if matches!(jwk.common.public_key_use, Some(PublicKeyUse::Encryption)) {
        return None;
    }
    use Algorithm::{ES256, ES384, EdDSA, PS256, PS384, PS512, RS256, RS384, RS512};
    let mut algorithms = match &jwk.algorithm {
        AlgorithmParameters::RSA(_) => vec![RS256, RS384, RS512, PS256, PS384, PS512],
        AlgorithmParameters::EllipticCurve(params) => match params.curve {
            EllipticCurve::P256 => vec![ES256],
            EllipticCurve::P384 => vec![ES384],
            _ => return None,
        },
        AlgorithmParameters::OctetKeyPair(_) => vec![EdDSA],
        _ => return None,
    };
    // A key that names its algorithm is for no other.
    if let Some(only) = jwk
        .common
        .key_algorithm
        .and_then(|named| named.to_string().parse::<Algorithm>().ok())
    {
        algorithms.retain(|algorithm| *algorithm == only);
    }
    let key = DecodingKey::from_jwk(jwk).ok()?;
    Some(NamedKey {
        id: jwk.common.key_id.clone(),
        key: Key { key, algorithms },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    /// Serves `body` and counts the requests.
    async fn serve(body: &'static str) -> (String, Arc<AtomicUsize>) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/keys", listener.local_addr().unwrap());
        let served = Arc::new(AtomicUsize::new(0));
        let count = served.clone();
        tokio::spawn(async move {
            loop {
                let (mut socket, _) = listener.accept().await.unwrap();
                count.fetch_add(1, Ordering::SeqCst);
                let mut request = [0; 2048];
                let _ = socket.read(&mut request).await;
                let length = body.len();
                let answer = format!(
                    "HTTP/1.1 200 OK\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}"
                );
                let _ = socket.write_all(answer.as_bytes()).await;
            }
        });
        (url, served)
    }

    const SET: &str = r#"{"keys":[
        {"kty":"OKP","crv":"Ed25519","kid":"a","alg":"EdDSA","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"},
        {"kty":"oct","kid":"b","k":"c2VjcmV0"}
    ]}"#;

    #[tokio::test]
    async fn keys_are_fetched_once_and_unknown_ids_do_not_hammer() {
        let (url, served) = serve(SET).await;
        let set = KeySet::new(url);
        for _ in 0..3 {
            assert!(set.key(Some("a"), Algorithm::EdDSA).await.is_ok());
            assert_eq!(
                set.key(Some("zzz"), Algorithm::EdDSA).await.err(),
                Some(AuthError::Invalid)
            );
        }
        assert_eq!(served.load(Ordering::SeqCst), 1);
    }

    #[tokio::test]
    async fn a_symmetric_key_in_a_public_set_verifies_nothing() {
        let (url, _) = serve(SET).await;
        let set = KeySet::new(url);
        assert_eq!(
            set.key(Some("b"), Algorithm::HS256).await.err(),
            Some(AuthError::Invalid)
        );
        assert_eq!(
            set.key(Some("a"), Algorithm::ES256).await.err(),
            Some(AuthError::Invalid)
        );
    }

    #[tokio::test]
    async fn without_any_key_it_is_unavailable() {
        let set = KeySet::new("http://127.0.0.1:1/keys".into());
        assert_eq!(
            set.key(None, Algorithm::RS256).await.err(),
            Some(AuthError::Unavailable)
        );
    }
}

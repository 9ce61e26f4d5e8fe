//! A key set over HTTP (RFC 7517): fetched when the node starts, then as often as its
//! issuer says, and when none of its keys has signed a token.
//!
//! A key that the issuer has withdrawn is trusted until the next fetch. Where the issuer
//! cannot be reached, known keys stay good for an hour longer, and no more.
//!
//! At most one fetch is under way, and few begin, so that tokens with made-up key ids or
//! signatures cannot make this node hammer the issuer: they wait for the next one together.

use std::error::Error as _;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey};
use reqwest::header::{CACHE_CONTROL, HeaderMap};
use serde_json::Value;
use tokio::sync::Mutex;

use super::crypto;
use super::key::Key;

const FETCH_TIMEOUT: Duration = Duration::from_secs(5);
/// Largest key set, bytes.
const MAX_SET: usize = 1_000_000;

/// How often a key set is fetched.
#[derive(Debug, Clone, Copy)]
struct Pace {
    /// Fetches that may follow each other at once, for tokens that no known key has signed.
    burst: u32,
    /// One more after so long. It is how long such a token waits at most before its
    /// fetch, and less than `server.auth_timeout`.
    refill: Duration,
    /// Until a set is fetched again whose issuer says nothing about it.
    usual: Duration,
    /// The same where the issuer says it, at least and at most.
    shortest: Duration,
    longest: Duration,
    /// Until a fetch that failed is tried again.
    retry: Duration,
    /// How much longer keys are trusted when their issuer cannot be reached.
    outage: Duration,
}

const PACE: Pace = Pace {
    burst: 3,
    refill: Duration::from_secs(5),
    usual: Duration::from_secs(300),
    shortest: Duration::from_secs(30),
    longest: Duration::from_secs(3600),
    retry: Duration::from_secs(15),
    outage: Duration::from_secs(3600),
};

/// A cached key set.
pub(crate) struct KeySet {
    url: String,
    client: reqwest::Client,
    pace: Pace,
    fetching: Mutex<Budget>,
    known: RwLock<Known>,
}

/// What is known of the set.
#[derive(Clone, Default)]
struct Known {
    keys: Arc<Vec<NamedKey>>,
    /// When the fetch began that they are from, and how long they are good.
    begun: Option<Instant>,
    good_for: Duration,
    /// When a fetch last failed, and why, if none has succeeded since.
    failed: Option<(Instant, Arc<str>)>,
}

impl Known {
    /// Whether the keys are still to be trusted.
    fn is_trusted(&self, now: Instant, outage: Duration) -> bool {
        self.begun.is_some_and(|begun| {
            now.saturating_duration_since(begun) < self.good_for.saturating_add(outage)
        })
    }
}

struct NamedKey {
    id: Option<String>,
    key: Key,
}

/// When a fetch may begin: [`Pace::burst`] at once, then one each [`Pace::refill`].
#[derive(Default)]
struct Budget {
    /// When all fetches of the burst may begin again.
    full: Option<Instant>,
}

impl Budget {
    /// How long to wait for the next.
    fn wait(&self, now: Instant, pace: &Pace) -> Duration {
        let allowed = pace.refill * pace.burst.saturating_sub(1);
        self.full.map_or(Duration::ZERO, |full| {
            full.saturating_duration_since(now).saturating_sub(allowed)
        })
    }

    fn take(&mut self, now: Instant, pace: &Pace) {
        self.full = Some(self.full.map_or(now, |full| full.max(now)) + pace.refill);
    }
}

impl KeySet {
    pub(crate) fn new(url: String) -> Self {
        KeySet::at(url, PACE)
    }

    fn at(url: String, pace: Pace) -> Self {
        crypto::install();
        KeySet {
            url,
            client: reqwest::Client::builder()
                .timeout(FETCH_TIMEOUT)
                .build()
                .unwrap_or_default(),
            pace,
            fetching: Mutex::default(),
            known: RwLock::default(),
        }
    }

    /// The keys that a token may be signed with: those of its key id, or all where it names
    /// none. They are as many as the issuer likes to have, and the issuer is trusted.
    pub(crate) fn candidates(&self, id: Option<&str>, algorithm: Algorithm) -> Vec<Key> {
        let known = self.known();
        if !known.is_trusted(Instant::now(), self.pace.outage) {
            return Vec::new();
        }
        let fits = |key: &&NamedKey| {
            key.key.algorithms.contains(&algorithm) && (id.is_none() || key.id.as_deref() == id)
        };
        known
            .keys
            .iter()
            .filter(fits)
            .map(|key| key.key.clone())
            .collect()
    }

    /// Sees to it that the set is not older than `since`.
    ///
    /// # Errors
    /// Why it could not be fetched.
    pub(crate) async fn renew(&self, since: Instant) -> Result<(), Arc<str>> {
        // Whoever waits here finds what the one before has fetched.
        let mut budget = self.fetching.lock().await;
        let known = self.known();
        if known.begun.is_some_and(|begun| begun >= since) {
            return Ok(());
        }
        if let Some((_, why)) = known.failed.filter(|(at, _)| *at >= since) {
            return Err(why);
        }
        tokio::time::sleep(budget.wait(Instant::now(), &self.pace)).await;
        budget.take(Instant::now(), &self.pace);
        self.update().await
    }

    /// Fetches the set now, and whenever it is due. Never ends.
    pub(crate) async fn keep_fresh(&self) {
        loop {
            let due = self.due();
            tokio::time::sleep(due.saturating_duration_since(Instant::now())).await;
            let mut budget = self.fetching.lock().await;
            // A token may have had it fetched meanwhile.
            if self.due() <= Instant::now() {
                budget.take(Instant::now(), &self.pace);
                let _ = self.update().await;
            }
        }
    }

    /// When the set is to be fetched next.
    fn due(&self) -> Instant {
        let known = self.known();
        match (known.failed, known.begun) {
            (Some((failed, _)), _) => failed + self.pace.retry,
            (None, Some(begun)) => begun + known.good_for,
            (None, None) => Instant::now(),
        }
    }

    /// How many keys for signatures it has.
    pub(crate) fn count(&self) -> usize {
        self.known().keys.len()
    }

    /// Why the set is not as new as it should be; `None` if it is.
    pub(crate) fn trouble(&self) -> Option<Arc<str>> {
        let known = self.known();
        match (known.failed, known.begun) {
            (Some((_, why)), _) => Some(why),
            (None, None) => Some("it has not been fetched yet".into()),
            (None, Some(_)) => None,
        }
    }

    /// Resolves when the first fetch has ended, well or not.
    pub(crate) async fn tried(&self) {
        while self.known().begun.is_none() && self.known().failed.is_none() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    fn known(&self) -> Known {
        self.known
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    async fn update(&self) -> Result<(), Arc<str>> {
        let begun = Instant::now();
        let before = self.known();
        let fetched = self.fetch().await;
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        match fetched {
            Ok((keys, good_for)) => {
                if before.failed.is_some() {
                    tracing::info!(
                        keys = keys.len(),
                        "the key set of auth.jwt.jwks_url is there"
                    );
                }
                if keys.is_empty() {
                    tracing::warn!("the key set of auth.jwt.jwks_url has no key for signatures");
                }
                *known = Known {
                    keys: Arc::new(keys),
                    begun: Some(begun),
                    good_for,
                    failed: None,
                };
                Ok(())
            }
            Err(error) => {
                tracing::warn!(
                    %error,
                    keys = before.keys.len(),
                    "the key set of auth.jwt.jwks_url could not be fetched"
                );
                let why: Arc<str> = error.into();
                known.failed = Some((Instant::now(), why.clone()));
                Err(why)
            }
        }
    }

    async fn fetch(&self) -> Result<(Vec<NamedKey>, Duration), String> {
        let mut response = self
            .client
            .get(&self.url)
            .send()
            .await
            .and_then(reqwest::Response::error_for_status)
            .map_err(reason)?;
        let good_for = good_for(response.headers(), &self.pace);
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(reason)? {
            if body.len() + chunk.len() > MAX_SET {
                return Err("it is larger than a megabyte".into());
            }
            body.extend_from_slice(&chunk);
        }
        Ok((read(&body)?, good_for))
    }
}

/// An error down to its first cause: the outermost says no more than that it failed. The
/// URL, which may hold a secret, is left out.
fn reason(error: reqwest::Error) -> String {
    let error = error.without_url();
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = cause.to_string();
        source = cause.source();
    }
    text
}

/// How long a set may be used, by its `Cache-Control` (RFC 9111 §5.2.2.1).
fn good_for(headers: &HeaderMap, pace: &Pace) -> Duration {
    let values = headers.get_all(CACHE_CONTROL).iter();
    let seconds = values
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|part| part.split_once('='))
        .find(|(name, _)| name.trim().eq_ignore_ascii_case("max-age"))
        .and_then(|(_, seconds)| seconds.trim().trim_matches('"').parse().ok());
    seconds.map_or(pace.usual, |seconds| {
        Duration::from_secs(seconds).clamp(pace.shortest, pace.longest)
    })
}

/// The keys of a set that verify signatures. What cannot be read costs nobody else.
fn read(body: &[u8]) -> Result<Vec<NamedKey>, String> {
    let set: Value =
        serde_json::from_slice(body).map_err(|error| format!("it is no key set: {error}"))?;
    let keys = set.get("keys").and_then(Value::as_array);
    let keys = keys.ok_or("it is no key set: it has no list of keys")?;
    Ok(keys.iter().filter_map(named_key).collect())
}

/// A key of the set, if it is one that verifies signatures. A symmetric key has
/// no place in a public set.
fn named_key(entry: &Value) -> Option<NamedKey> {
    let mut entry = entry.clone();
    // Some issuers number their keys; a token's id is read the same way.
    if let Some(id) = entry.get_mut("kid").filter(|id| id.is_number()) {
        *id = Value::String(id.to_string());
    }
    let jwk: Jwk = serde_json::from_value(entry).ok()?;
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
    let key = DecodingKey::from_jwk(&jwk).ok()?;
    Some(NamedKey {
        id: jwk.common.key_id.clone(),
        key: Key { key, algorithms },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex as Lock;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    /// An issuer: what it answers, and how often it was asked.
    #[derive(Clone, Default)]
    struct Issuer(Arc<Lock<(String, usize)>>);

    impl Issuer {
        /// Serves `{"keys":[...]}` with a header.
        async fn new(header: &'static str, keys: &[&str]) -> (Issuer, String) {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            let url = format!("http://{}/keys", listener.local_addr().unwrap());
            let issuer = Issuer::default();
            issuer.has(keys);
            let asked = issuer.clone();
            tokio::spawn(async move {
                loop {
                    let (mut socket, _) = listener.accept().await.unwrap();
                    let body = {
                        let mut state = asked.0.lock().unwrap();
                        state.1 += 1;
                        state.0.clone()
                    };
                    let mut request = [0; 2048];
                    let _ = socket.read(&mut request).await;
                    let length = body.len();
                    let answer = format!(
                        "HTTP/1.1 200 OK\r\n{header}content-length: {length}\r\nconnection: close\r\n\r\n{body}"
                    );
                    let _ = socket.write_all(answer.as_bytes()).await;
                }
            });
            (issuer, url)
        }

        fn has(&self, keys: &[&str]) {
            self.0.lock().unwrap().0 = format!(r#"{{"keys":[{}]}}"#, keys.join(","));
        }

        fn asked(&self) -> usize {
            self.0.lock().unwrap().1
        }
    }

    const A: &str = r#"{"kty":"OKP","crv":"Ed25519","kid":"a","alg":"EdDSA","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}"#;
    const B: &str = r#"{"kty":"OKP","crv":"Ed25519","kid":7,"x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}"#;
    const SYMMETRIC: &str = r#"{"kty":"oct","kid":"s","k":"c2VjcmV0"}"#;

    fn quick() -> Pace {
        Pace {
            refill: Duration::from_millis(60),
            usual: Duration::from_millis(40),
            retry: Duration::from_millis(20),
            ..PACE
        }
    }

    fn count(set: &KeySet, id: Option<&str>) -> usize {
        set.candidates(id, Algorithm::EdDSA).len()
    }

    #[tokio::test]
    async fn a_key_that_is_new_is_found_at_once_and_made_up_ids_do_not_hammer() {
        let (issuer, url) = Issuer::new("", &[A]).await;
        let set = KeySet::at(
            url,
            Pace {
                refill: Duration::from_secs(3600),
                ..PACE
            },
        );
        set.renew(Instant::now()).await.unwrap();
        assert_eq!((count(&set, Some("a")), count(&set, Some("7"))), (1, 0));
        issuer.has(&[A, B]);
        set.renew(Instant::now()).await.unwrap();
        assert_eq!((count(&set, Some("7")), issuer.asked()), (1, 2));
        // A third is allowed at once; the fourth would wait.
        set.renew(Instant::now()).await.unwrap();
        let since = Instant::now();
        let fourth = tokio::time::timeout(Duration::from_millis(50), set.renew(since)).await;
        assert!(fourth.is_err());
        assert_eq!(issuer.asked(), 3);
    }

    #[tokio::test]
    async fn tokens_that_wait_share_one_fetch() {
        let (issuer, url) = Issuer::new("", &[A]).await;
        let set = Arc::new(KeySet::at(url, quick()));
        let since = Instant::now();
        let waiting: Vec<_> = (0..50)
            .map(|_| {
                tokio::spawn({
                    let set = set.clone();
                    async move { set.renew(since).await }
                })
            })
            .collect();
        for one in waiting {
            one.await.unwrap().unwrap();
        }
        assert_eq!(issuer.asked(), 1);
    }

    #[tokio::test]
    async fn a_withdrawn_key_is_no_longer_trusted_soon_after() {
        let (issuer, url) = Issuer::new("", &[A, B]).await;
        let set = Arc::new(KeySet::at(url, quick()));
        let fresh = set.clone();
        tokio::spawn(async move { fresh.keep_fresh().await });
        set.tried().await;
        assert_eq!(count(&set, Some("7")), 1);
        issuer.has(&[A]);
        let until = Instant::now() + Duration::from_secs(60);
        while count(&set, Some("7")) > 0 {
            assert!(
                Instant::now() < until,
                "still trusted after {} fetches",
                issuer.asked()
            );
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        assert_eq!(count(&set, Some("a")), 1);
    }

    #[tokio::test]
    async fn keys_outlive_an_outage_of_their_issuer_but_not_for_ever() {
        let (_, url) = Issuer::new("", &[A]).await;
        let set = KeySet::at(url, PACE);
        set.renew(Instant::now()).await.unwrap();
        let known = set.known();
        let at = |after: u64| {
            let now = known.begun.unwrap() + Duration::from_secs(after);
            known.is_trusted(now, PACE.outage)
        };
        assert_eq!(
            (at(0), at(300), at(3899), at(3900)),
            (true, true, true, false)
        );
    }

    #[tokio::test]
    async fn a_set_with_broken_entries_keeps_the_others() {
        let broken = ["null", "7", r#"{"kty":"new"}"#, r#"{"kid":{}}"#, SYMMETRIC];
        let (_, url) = Issuer::new("", &[&broken[..], &[A, B]].concat()).await;
        let set = KeySet::new(url);
        set.renew(Instant::now()).await.unwrap();
        // Without an id all that fit are tried.
        assert_eq!((count(&set, None), count(&set, Some("7"))), (2, 1));
        assert!(set.candidates(Some("s"), Algorithm::HS256).is_empty());
        assert!(set.candidates(Some("a"), Algorithm::ES256).is_empty());
    }

    #[tokio::test]
    async fn an_issuer_that_cannot_be_reached_is_told_apart_from_an_unknown_key() {
        let set = KeySet::at("http://127.0.0.1:1/keys".into(), quick());
        assert_eq!(
            set.trouble().as_deref(),
            Some("it has not been fetched yet")
        );
        let why = set.renew(Instant::now()).await.unwrap_err();
        assert!(why.contains("refused"), "{why}");
        assert_eq!(set.trouble(), Some(why));
    }

    #[test]
    fn the_issuer_says_how_long_its_keys_are_good_within_reason() {
        let read = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(CACHE_CONTROL, value.parse().unwrap());
            good_for(&headers, &PACE).as_secs()
        };
        assert_eq!(read("public, max-age=600, must-revalidate"), 600);
        assert_eq!(read("Max-Age=\"60\""), 60);
        assert_eq!((read("max-age=0"), read("max-age=99999999")), (30, 3600));
        assert_eq!((read("no-store"), read("max-age=soon")), (300, 300));
    }
}

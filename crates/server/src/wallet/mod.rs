//! Sign-in with a wallet: it signs a text that was made for it, and gets a token.

mod address;
mod proof;

use std::fmt::Write as _;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, UNIX_EPOCH};

use axum::http::{HeaderValue, Method, StatusCode, header};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use heartline::config::Limit;
use heartline::store::{Challenge, Challenges, MessageStore, Redeemed, StoreError};
use heartline::{Gateway, HttpRequest, HttpResponse, Visitor};
use heartline_cluster::RedisChallenges;
use heartline_core::rate_limit::{KeyedLimiter, Verdict};
use heartline_wire::time::{Micros, micros};
use ring::digest::{SHA256, digest};
use serde_json::{Map, Value, json};

use crate::auth::sign::{Claims, Signer};
use crate::config::{Settings, StoreUrl, WalletSettings};
use address::Wallet;

/// Where challenges are asked for.
pub(crate) const CHALLENGE: &str = "/auth/challenge";
/// Where signatures are brought.
pub(crate) const CONNECT: &str = "/auth/connect";

/// Challenges for an address or a wallet: a person asks for one, and now and then for another.
const CHALLENGES: Limit = Limit::per(10, 900);
/// Signatures from an address, and for a wallet those that were wrong.
const CONNECTS: Limit = Limit::per(5, 900);

/// Longest challenge that is looked at, bytes: a domain has 253 at most, the rest 250.
const MAX_CHALLENGE: usize = 1024;

/// How often limits forget who has been quiet.
const FORGET_EVERY: Duration = Duration::from_secs(60);

/// What is counted, each by itself; loopback addresses are not: behind a local proxy that is not
/// in `server.trusted_proxies`, everybody has the same one.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Counted {
    ChallengeTo(IpAddr),
    ChallengeFor([u8; 32]),
    ConnectFrom(IpAddr),
    WrongFor([u8; 32]),
}

/// Signs people in by their wallets.
pub(crate) struct SignIn {
    settings: WalletSettings,
    signer: Signer,
    limits: KeyedLimiter<Counted>,
    /// Where nodes keep challenges together that have no database together; otherwise they are
    /// where messages are.
    together: Option<RedisChallenges>,
    start: Instant,
}

/// A moment by the two clocks.
#[derive(Clone, Copy)]
struct Now {
    at: Micros,
    unix_millis: u64,
}

/// What a request is refused with.
enum Refusal {
    /// What is wrong with the request.
    Invalid(String),
    /// Who brings no proof, in the contract's words.
    Unauthorized(&'static str),
    /// Too many; the next after this time.
    TooMany(Duration),
    /// The store does not answer.
    Store(StoreError),
}

impl SignIn {
    /// `None` where it is off. The nodes of a cluster have challenges `together` where they have
    /// no database together.
    ///
    /// # Errors
    /// A sentence, when nothing can sign tokens.
    pub(crate) fn new(
        settings: &Settings,
        together: Option<RedisChallenges>,
    ) -> Result<Option<Arc<SignIn>>, String> {
        if !settings.wallet.enabled {
            return Ok(None);
        }
        let apart = settings.store == StoreUrl::Memory;
        Ok(Some(Arc::new(SignIn {
            together: together.filter(|_| apart),
            settings: settings.wallet.clone(),
            signer: Signer::for_wallets(&settings.jwt)?,
            limits: KeyedLimiter::default(),
            start: Instant::now(),
        })))
    }

    /// Forgets who has been quiet, for ever.
    pub(crate) async fn keep_small(self: Arc<Self>) {
        loop {
            tokio::time::sleep(FORGET_EVERY).await;
            self.limits.forget_idle(self.at());
        }
    }

    fn at(&self) -> Micros {
        Micros(micros(self.start.elapsed()))
    }

    /// Answers what goes to [`CHALLENGE`] or [`CONNECT`].
    pub(crate) async fn answer(&self, gateway: Gateway, request: HttpRequest) -> HttpResponse {
        let visitor = request.extensions().get::<Visitor>();
        let Some(visitor) = visitor.cloned() else {
            // The front brings one with every request.
            return problem(StatusCode::INTERNAL_SERVER_ERROR, "Internal Error", None);
        };
        let mut response = self.answer_visitor(&gateway, &visitor, &request).await;
        let headers = response.headers_mut();
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        visitor.allow(headers);
        response
    }

    async fn answer_visitor(
        &self,
        gateway: &Gateway,
        visitor: &Visitor,
        request: &HttpRequest,
    ) -> HttpResponse {
        if *request.method() == Method::OPTIONS {
            let mut response = HttpResponse::default();
            *response.status_mut() = StatusCode::NO_CONTENT;
            visitor.allow_preflight(request.headers(), response.headers_mut());
            return response;
        }
        if visitor.is_foreign() {
            let why = "this page's origin is not in server.allowed_origins";
            return problem(StatusCode::FORBIDDEN, "Forbidden", Some(why));
        }
        if *request.method() != Method::POST {
            let why = Some("this path takes POST");
            let mut response = problem(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed", why);
            let allow = HeaderValue::from_static("POST, OPTIONS");
            response.headers_mut().insert(header::ALLOW, allow);
            return response;
        }
        let now = Now {
            at: self.at(),
            unix_millis: gateway.unix_millis(),
        };
        let (from, body) = (visitor.address(), request.body());
        let store = &**gateway.store();
        let answer = match request.uri().path() {
            CHALLENGE => self.challenge(store, from, body, now).await,
            _ => self.connect(store, from, body, now).await,
        };
        answer.map_or_else(Refusal::into_response, |body| {
            json_of(StatusCode::OK, &body)
        })
    }

    /// Makes a challenge for a wallet.
    async fn challenge(
        &self,
        store: &dyn MessageStore,
        from: IpAddr,
        body: &[u8],
        now: Now,
    ) -> Result<Value, Refusal> {
        let wallet = wallet_of(&object(body)?)?;
        let key = wallet.key().to_bytes();
        if !from.is_loopback() {
            self.count(Counted::ChallengeTo(from), CHALLENGES, now)?;
        }
        self.count(Counted::ChallengeFor(key), CHALLENGES, now)?;
        let expires_at = now.unix_millis + self.settings.ttl.as_millis() as u64;
        let text = self.text(&wallet, now.unix_millis, expires_at);
        let challenge = Challenge {
            hash: hash(&text),
            wallet: key,
            expires_at,
        };
        let challenges = self.challenges(store)?;
        let issued = challenges.issue(challenge, now.unix_millis);
        issued.await.map_err(Refusal::Store)?;
        Ok(json!({ "challenge": text, "expiresAt": expires_at }))
    }

    /// What a wallet is to sign; people can read in it where they sign in.
    fn text(&self, wallet: &Wallet, now: u64, expires_at: u64) -> String {
        let mut nonce = [0; 16];
        getrandom::fill(&mut nonce).expect("the operating system gives randomness");
        let nonce = URL_SAFE_NO_PAD.encode(nonce);
        let date = |millis| {
            let time = UNIX_EPOCH + Duration::from_millis(millis);
            humantime::format_rfc3339_millis(time)
        };
        let domain = &self.settings.domain;
        let scheme = match crate::hosts::is_loopback(domain) || domain.starts_with("localhost") {
            true => "http",
            false => "https",
        };
        let mut text = format!(
            "{domain} wants you to sign in with your Stellar account:\n{}\n\n",
            wallet.address()
        );
        let _ = write!(
            text,
            "URI: {scheme}://{domain}\nNonce: {nonce}\nIssued At: {}\nExpiration Time: {}",
            date(now),
            date(expires_at)
        );
        text
    }

    /// Gives a token for a signed challenge. Whose challenge it is not does not use it up; who
    /// signs wrongly does.
    async fn connect(
        &self,
        store: &dyn MessageStore,
        from: IpAddr,
        body: &[u8],
        now: Now,
    ) -> Result<Value, Refusal> {
        let body = object(body)?;
        let wallet = wallet_of(&body)?;
        let challenge = text_of(&body, "challenge")?;
        let signature = proof::parse(text_of(&body, "signature")?).ok_or_else(|| {
            Refusal::Invalid("signature must be of 64 bytes, as base64 or hex".into())
        })?;
        let key = wallet.key().to_bytes();
        if !from.is_loopback() {
            self.count(Counted::ConnectFrom(from), CONNECTS, now)?;
        }
        // Each guess uses a challenge up: who has none of the wallet's has not guessed.
        let wrong = Counted::WrongFor(key);
        if let Some(wait) = self.limits.wait(&wrong, CONNECTS, now.at) {
            return Err(Refusal::TooMany(wait));
        }
        let challenges = self.challenges(store)?;
        let redeemed = match challenge.len() {
            0..=MAX_CHALLENGE => {
                challenges
                    .redeem(hash(challenge), key, now.unix_millis)
                    .await
            }
            _ => Ok(Redeemed::Unknown),
        };
        match redeemed.map_err(Refusal::Store)? {
            Redeemed::Taken => {}
            Redeemed::Unknown => {
                return Err(Refusal::Unauthorized("Invalid or expired challenge"));
            }
            Redeemed::OtherWallet => {
                let what = "Challenge does not match wallet address";
                return Err(Refusal::Unauthorized(what));
            }
        }
        if !proof::is_signed(&wallet, challenge.as_bytes(), &signature) {
            self.limits.take(wrong, CONNECTS, now.at);
            return Err(Refusal::Unauthorized("Invalid signature"));
        }
        self.welcome(&wallet, now.unix_millis)
    }

    /// The token of who has proven to have the wallet.
    fn welcome(&self, wallet: &Wallet, now: u64) -> Result<Value, Refusal> {
        let address = wallet.address();
        let claims = Claims {
            user: address.clone(),
            user_type: self.settings.user_type.clone(),
            wallet: Some(address.clone()),
            ..Claims::default()
        };
        let expires = now / 1000 + self.settings.token_ttl.as_secs();
        let token = self.signer.sign(&claims, expires);
        let token = token.map_err(|error| Refusal::Store(StoreError::Failed(error)))?;
        let mut user = json!({ "userId": address, "walletAddress": address });
        if let Some(user_type) = &self.settings.user_type {
            user["userType"] = user_type.as_str().into();
        }
        Ok(json!({ "token": token, "expiresAt": expires * 1000, "user": user }))
    }

    fn challenges<'a>(
        &'a self,
        store: &'a dyn MessageStore,
    ) -> Result<&'a dyn Challenges, Refusal> {
        match &self.together {
            Some(challenges) => Ok(challenges),
            None => store.challenges().ok_or_else(no_challenges),
        }
    }

    fn count(&self, what: Counted, limit: Limit, now: Now) -> Result<(), Refusal> {
        match self.limits.take(what, limit, now.at) {
            Verdict::Allowed => Ok(()),
            Verdict::Refused { again_in, .. } => Err(Refusal::TooMany(again_in)),
        }
    }
}

fn no_challenges() -> Refusal {
    Refusal::Store(StoreError::Failed("it keeps no challenges".into()))
}

fn hash(text: &str) -> [u8; 32] {
    let hash = digest(&SHA256, text.as_bytes());
    std::array::from_fn(|index| hash.as_ref()[index])
}

fn object(body: &[u8]) -> Result<Map<String, Value>, Refusal> {
    let invalid = || Refusal::Invalid("the body must be an object of JSON".into());
    serde_json::from_slice(body).map_err(|_| invalid())
}

fn text_of<'a>(body: &'a Map<String, Value>, name: &str) -> Result<&'a str, Refusal> {
    let text = match body.get(name) {
        None | Some(Value::Null) => Err("is missing"),
        Some(Value::String(text)) if text.is_empty() => Err("is empty"),
        Some(Value::String(text)) => Ok(&**text),
        Some(_) => Err("must be text"),
    };
    text.map_err(|what| Refusal::Invalid(format!("{name} {what}")))
}

fn wallet_of(body: &Map<String, Value>) -> Result<Wallet, Refusal> {
    let wallet = Wallet::parse(text_of(body, "walletAddress")?);
    wallet.map_err(|what| Refusal::Invalid(format!("walletAddress {what}")))
}

impl Refusal {
    fn into_response(self) -> HttpResponse {
        let (status, error, why) = match &self {
            Refusal::Invalid(what) => (StatusCode::BAD_REQUEST, "Validation Error", Some(&**what)),
            Refusal::Unauthorized(what) => (StatusCode::UNAUTHORIZED, *what, None),
            Refusal::TooMany(_) => {
                let why = Some("too many tries from this address or with this wallet");
                (StatusCode::TOO_MANY_REQUESTS, "Too Many Requests", why)
            }
            Refusal::Store(error) => {
                tracing::warn!(%error, "a wallet could not be signed in");
                let why = Some("nobody can sign in at the moment: try again");
                (StatusCode::SERVICE_UNAVAILABLE, "Service Unavailable", why)
            }
        };
        let mut response = problem(status, error, why);
        let wait = match self {
            Refusal::TooMany(wait) => micros(wait).div_ceil(1_000_000),
            Refusal::Store(_) => 2,
            _ => return response,
        };
        let wait = HeaderValue::from(wait);
        response.headers_mut().insert(header::RETRY_AFTER, wait);
        response
    }
}

fn problem(status: StatusCode, error: &str, why: Option<&str>) -> HttpResponse {
    let mut body = json!({ "error": error });
    if let Some(why) = why {
        body["message"] = why.into();
    }
    json_of(status, &body)
}

fn json_of(status: StatusCode, body: &Value) -> HttpResponse {
    let mut response = HttpResponse::new(Bytes::from(body.to_string()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    let kind = HeaderValue::from_static("application/json");
    headers.insert(header::CONTENT_TYPE, kind);
    let plain = HeaderValue::from_static("nosniff");
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, plain);
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use base64::engine::general_purpose::STANDARD;
    use heartline::store::memory::MemoryStore;
    use ring::signature::{Ed25519KeyPair, KeyPair};

    use crate::config::JwtSettings;

    const NOW: Now = Now {
        at: Micros::ZERO,
        unix_millis: 1_000_000,
    };

    /// People who sign in, at a node without anything else.
    struct People {
        sign_in: SignIn,
        store: MemoryStore,
    }

    impl People {
        fn new() -> People {
            let jwt = JwtSettings {
                secret: Some("0123456789abcdef0123456789abcdef".into()),
                ..JwtSettings::default()
            };
            let settings = WalletSettings {
                enabled: true,
                domain: "app.example".into(),
                ttl: Duration::from_secs(300),
                token_ttl: Duration::from_secs(600),
                user_type: None,
            };
            People {
                sign_in: SignIn {
                    settings,
                    signer: Signer::for_wallets(&jwt).unwrap(),
                    limits: KeyedLimiter::default(),
                    together: None,
                    start: Instant::now(),
                },
                store: MemoryStore::default(),
            }
        }

        async fn challenge(&self, from: IpAddr, wallet: &Ed25519KeyPair) -> Option<String> {
            let body = json!({ "walletAddress": address(wallet) }).to_string();
            let given = self
                .sign_in
                .challenge(&self.store, from, body.as_bytes(), NOW);
            let given = given.await.ok()?;
            Some(given["challenge"].as_str()?.to_owned())
        }

        /// What becomes of a signature by `signer`: `in`, or why not.
        async fn connect(
            &self,
            from: IpAddr,
            wallet: &Ed25519KeyPair,
            challenge: &str,
            signer: &Ed25519KeyPair,
        ) -> String {
            let signature = STANDARD.encode(signer.sign(challenge.as_bytes()));
            let body = json!({
                "walletAddress": address(wallet), "challenge": challenge, "signature": signature,
            });
            let body = body.to_string();
            let connected = self
                .sign_in
                .connect(&self.store, from, body.as_bytes(), NOW);
            match connected.await {
                Ok(_) => "in".into(),
                Err(Refusal::Unauthorized(why)) => why.into(),
                Err(Refusal::TooMany(_)) => "too many".into(),
                Err(Refusal::Invalid(why)) => why,
                Err(Refusal::Store(error)) => error.to_string(),
            }
        }
    }

    fn wallet(seed: u8) -> Ed25519KeyPair {
        Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).unwrap()
    }

    fn address(wallet: &Ed25519KeyPair) -> String {
        STANDARD.encode(wallet.public_key())
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[tokio::test]
    async fn of_twenty_who_race_for_a_challenge_one_is_in_and_the_others_hear_why() {
        for from in ["127.0.0.1", "::1"] {
            let (people, own) = (People::new(), wallet(1));
            let challenge = people.challenge(ip(from), &own).await.unwrap();
            assert_eq!(people.connect(ip(from), &own, &challenge, &own).await, "in");
            for _ in 1..20 {
                let refused = people.connect(ip(from), &own, &challenge, &own).await;
                assert_eq!(refused, "Invalid or expired challenge");
            }
            // Nor are the challenges that many ask for from there too many.
            for seed in 2..40 {
                assert!(people.challenge(ip(from), &wallet(seed)).await.is_some());
            }
        }
    }

    #[tokio::test]
    async fn who_signs_wrongly_for_a_wallet_five_times_has_to_wait_wherever_they_are() {
        let (people, own, other) = (People::new(), wallet(1), wallet(2));
        for last in 0..5 {
            let from = ip(&format!("10.0.0.{last}"));
            let challenge = people.challenge(from, &own).await.unwrap();
            // Without a challenge of the wallet's nothing is guessed.
            let stray = people.connect(ip("127.0.0.1"), &own, "no challenge", &other);
            assert_eq!(stray.await, "Invalid or expired challenge");
            let wrong = people.connect(from, &own, &challenge, &other).await;
            assert_eq!(wrong, "Invalid signature");
        }
        let from = ip("127.0.0.1");
        let challenge = people.challenge(from, &own).await.unwrap();
        assert_eq!(
            people.connect(from, &own, &challenge, &own).await,
            "too many"
        );
        let challenge = people.challenge(from, &other).await.unwrap();
        assert_eq!(people.connect(from, &other, &challenge, &other).await, "in");
    }

    #[tokio::test]
    async fn an_address_has_five_tries() {
        let people = People::new();
        for seed in 1..=6 {
            let own = wallet(seed);
            let challenge = people.challenge(ip("10.0.0.1"), &own).await.unwrap();
            let became = people.connect(ip("10.0.0.1"), &own, &challenge, &own).await;
            assert_eq!(became, if seed < 6 { "in" } else { "too many" });
        }
    }
}

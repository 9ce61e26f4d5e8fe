//! `Idempotency-Key`: a POST that is sent again under its key is done once, and answered again.
//!
//! It is for callers that have waited in vain: what was begun under a key is finished, whoever
//! still waits for it, and its answer is there when they ask again. The nodes of a cluster keep
//! answers together; one that does not reach Redis goes by what it knows itself.
//!
//! Source: draft-ietf-httpapi-idempotency-key-header-07.

mod together;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use axum::body::{Body, Bytes, to_bytes};
use axum::extract::{FromRequest, Request, State as With};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use heartline::{Code, Gateway};
use heartline_cluster::{OnceBounds, RedisOnce};
use heartline_core::bounded::Bounded;
use ring::digest::{Context, SHA256};

use super::openapi::Route;
use super::problem::Problem;
use super::strict;
pub(super) use together::PATIENCE;
use together::{Ask, Claimed, InRedis, Together};

/// The header as it is written.
pub(super) const KEY: &str = "Idempotency-Key";

/// The header of answers that were given before.
const REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");

/// Longest key, characters: several UUIDs, and one allocation of a small size.
pub(super) const MAX_KEY: usize = 255;

/// How long an answer is kept: who has been away for longer will not ask again.
const KEPT_FOR: Duration = Duration::from_secs(24 * 3600);

/// Answers that are kept, of which each costs this many bytes besides its key and its body: the
/// usual ones, `{"delivered":3}`, have 30 MB.
const MAX_ANSWERS: usize = 100_000;
const OVERHEAD: usize = 256;

/// Bytes of all of them: twice as much, or a thousand of the largest.
const MAX_BYTES: usize = 64 << 20;

/// Largest body that is kept, bytes. Only an acknowledgement can have more: of a larger one it is
/// remembered that there was one.
const MAX_ANSWER: usize = 64 << 10;

/// Requests under keys that run at once, those included whose callers have gone: as many as the
/// listener has connections.
const MAX_RUNNING: usize = 1024;

/// In a cluster, a node that was doing a request for this long has died: longer than any may take
/// ([`LONGEST`](super::LONGEST)).
pub(super) const RUNS_FOR: Duration = Duration::from_secs(120);

/// What the nodes of a cluster keep together.
pub(crate) const ONCE: OnceBounds = OnceBounds {
    kept_for: KEPT_FOR.as_millis() as u64,
    runs_for: RUNS_FOR.as_millis() as u64,
    requests: MAX_ANSWERS,
    bytes: MAX_BYTES,
};

/// What a caller is told to wait whose first request still runs, milliseconds: most take less.
const RUNS: u64 = 1_000;

/// What tells requests apart: a hash of the method, path, query and body.
type Fingerprint = [u8; 32];

fn fingerprint(method: &Method, uri: &Uri, body: &[u8]) -> Fingerprint {
    let mut context = Context::new(&SHA256);
    let query = uri.query().unwrap_or_default();
    for part in [method.as_str(), uri.path(), query].map(str::as_bytes) {
        context.update(&(part.len() as u64).to_be_bytes());
        context.update(part);
    }
    context.update(body);
    let hash = context.finish();
    std::array::from_fn(|index| hash.as_ref()[index])
}

/// The key of a request, if it has one. A string as structured fields write it, in quotation
/// marks, is the key between them.
fn key(headers: &HeaderMap) -> Result<Option<Arc<str>>, Problem> {
    let mut values = headers.get_all(KEY).iter();
    let Some(value) = values.next() else {
        return Ok(None);
    };
    let value = value.as_bytes();
    let quoted = value.strip_prefix(b"\"");
    let key = quoted.and_then(|rest| rest.strip_suffix(b"\""));
    let key = key.unwrap_or(value);
    let is_good = values.next().is_none()
        && (1..=MAX_KEY).contains(&key.len())
        && key.iter().all(u8::is_ascii_graphic);
    let key = std::str::from_utf8(key).ok().filter(|_| is_good);
    key.map(|key| Some(key.into())).ok_or_else(|| {
        let what = "An Idempotency-Key has 1 to 255 visible characters of ASCII, and is there once";
        Problem::new(StatusCode::BAD_REQUEST, what).with_code("IDEMPOTENCY_KEY_INVALID")
    })
}

/// What a request was answered with.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Answer {
    status: StatusCode,
    kind: Option<HeaderValue>,
    /// `None`: too large to be kept.
    body: Option<Bytes>,
}

impl Answer {
    /// What is kept of an answer: that something was done, or is refused for good. After any other
    /// the same request, or a mended one, may be sent under its key: nothing was done (400, 409,
    /// 413, 429, whatever says `Retry-After`), or nobody knows (5xx).
    ///
    /// As Stripe has it, whose clients repeat 409, 429 and 5xx under the same key by themselves.
    fn kept(status: StatusCode, headers: &HeaderMap, body: &Bytes) -> Option<Answer> {
        let is_refused = matches!(
            status,
            StatusCode::FORBIDDEN | StatusCode::NOT_FOUND | StatusCode::GONE
        );
        let is_final = status.is_success() || is_refused;
        (is_final && !headers.contains_key(header::RETRY_AFTER)).then(|| Answer {
            status,
            kind: headers.get(header::CONTENT_TYPE).cloned(),
            body: Some(body.clone()).filter(|body| body.len() <= MAX_ANSWER),
        })
    }

    fn bytes(&self) -> usize {
        self.body.as_ref().map_or(0, Bytes::len)
    }

    /// For other nodes. All bodies are text.
    fn write(&self) -> Vec<u8> {
        let kind = self.kind.as_ref().and_then(|kind| kind.to_str().ok());
        let body = self.body.as_ref();
        let body = body.and_then(|body| std::str::from_utf8(body).ok());
        serde_json::to_vec(&(self.status.as_u16(), kind, body)).unwrap_or_default()
    }

    fn read(bytes: &[u8]) -> Option<Answer> {
        type Parts = (u16, Option<String>, Option<String>);
        let (status, kind, body): Parts = serde_json::from_slice(bytes).ok()?;
        Some(Answer {
            status: StatusCode::from_u16(status).ok()?,
            kind: kind.and_then(|kind| kind.try_into().ok()),
            body: body.map(Bytes::from),
        })
    }
}

impl IntoResponse for Answer {
    fn into_response(self) -> Response {
        let is_whole = self.body.is_some();
        let body = Body::from(self.body.unwrap_or_default());
        let mut response = (self.status, body).into_response();
        let headers = response.headers_mut();
        if let Some(kind) = self.kind.filter(|_| is_whole) {
            headers.insert(header::CONTENT_TYPE, kind);
        }
        headers.insert(REPLAYED, HeaderValue::from_static("true"));
        response
    }
}

struct Done {
    fingerprint: Fingerprint,
    answer: Answer,
    at: Instant,
}

/// What becomes of a request under a key.
#[derive(Debug, PartialEq, Eq)]
enum Claim {
    /// It is done now.
    Begun,
    /// It was done.
    Done(Answer),
    /// It is being done.
    Running,
    /// The key is another request's.
    Reused,
    /// Too many run.
    Full,
}

impl Claim {
    /// What is answered to a request that is not done.
    fn answered(self) -> Option<Response> {
        let problem = |status, code, what| Problem::new(status, what).with_code(code);
        let problem = match self {
            Claim::Begun => return None,
            Claim::Done(answer) => return Some(answer.into_response()),
            Claim::Running => {
                let what = "The first request under this Idempotency-Key still runs";
                let problem = problem(StatusCode::CONFLICT, "IDEMPOTENCY_KEY_IN_USE", what);
                problem.retry_after(Some(RUNS))
            }
            Claim::Reused => {
                let what = "This Idempotency-Key was sent with another request";
                let status = StatusCode::UNPROCESSABLE_ENTITY;
                problem(status, "IDEMPOTENCY_KEY_REUSED", what)
            }
            Claim::Full => {
                let what = "Too many requests under keys run; this one was not begun";
                let (status, code) = (StatusCode::SERVICE_UNAVAILABLE, Code::Overloaded);
                problem(status, code.as_str(), what).retry_after(Some(RUNS))
            }
        };
        Some(problem.into_response())
    }
}

/// Requests under keys, and their answers.
struct Table {
    running: HashMap<Arc<str>, Fingerprint>,
    done: Bounded<Arc<str>, Done>,
}

impl Table {
    fn new() -> Table {
        Table {
            running: HashMap::new(),
            done: Bounded::new(MAX_ANSWERS, MAX_BYTES),
        }
    }

    fn claim(&mut self, key: &Arc<str>, fingerprint: Fingerprint, now: Instant) -> Claim {
        while let Some(oldest) = self.done.oldest()
            && now.duration_since(oldest.at) > KEPT_FOR
        {
            self.done.take_oldest();
        }
        // Looking at an answer makes it no younger.
        match (self.running.get(key), self.done.peek(key)) {
            (Some(running), _) if *running == fingerprint => Claim::Running,
            (None, Some(done)) if done.fingerprint == fingerprint => {
                Claim::Done(done.answer.clone())
            }
            (Some(_), _) | (_, Some(_)) => Claim::Reused,
            (None, None) if self.running.len() >= MAX_RUNNING => Claim::Full,
            (None, None) => {
                self.running.insert(key.clone(), fingerprint);
                Claim::Begun
            }
        }
    }

    /// What was begun under a key is over. Without an answer it can be begun again.
    fn finish(&mut self, key: &Arc<str>, answer: Option<Answer>, now: Instant) {
        let fingerprint = self.running.remove(key);
        if let (Some(fingerprint), Some(answer)) = (fingerprint, answer) {
            let bytes = OVERHEAD + key.len() + answer.bytes();
            let done = Done {
                fingerprint,
                answer,
                at: now,
            };
            self.done.put(key.clone(), done, bytes);
        }
    }
}

/// What was answered under keys.
#[derive(Clone)]
pub(super) struct Answers {
    here: Arc<Mutex<Table>>,
    together: Option<Arc<Together>>,
}

impl Answers {
    /// Of a node that is alone, or one of many, which keep them together in `once`: nothing has
    /// been asked yet.
    pub(super) fn new(gateway: &Gateway, once: Option<RedisOnce>) -> Answers {
        let gateway = gateway.clone();
        Answers {
            together: once.map(|once| {
                let once = Arc::new(once);
                Arc::new(Together::on(InRedis { once, gateway }))
            }),
            ..Answers::alone()
        }
    }

    fn alone() -> Answers {
        Answers {
            here: Arc::new(Mutex::new(Table::new())),
            together: None,
        }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.here.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A request that runs under a key. Whatever becomes of it, the key does not stay taken.
struct Run {
    answers: Answers,
    ask: Ask,
    answer: Option<Answer>,
}

impl Run {
    /// Does the request, unless another node has, and keeps the answer.
    async fn finish(
        mut self,
        answering: impl Future<Output = Response> + Send + 'static,
    ) -> Result<Response, Problem> {
        let together = self.answers.together.clone();
        let mut claimed = Claimed::Not;
        if let Some(together) = &together {
            let (claim, known) = together.claim(&self.ask).await;
            if let Some(answered) = claim.answered() {
                return Ok(answered);
            }
            claimed = known;
        }
        // By itself: a panic is to give the key back.
        let response = match tokio::spawn(answering).await {
            Ok(response) => response,
            Err(_) => failed().into_response(),
        };
        let (parts, body) = response.into_parts();
        // It is in memory already.
        let body = to_bytes(body, usize::MAX).await.map_err(|_| failed())?;
        let answer = Answer::kept(parts.status, &parts.headers, &body);
        self.answer.clone_from(&answer);
        let ask = self.ask.clone();
        // Here it is known at once.
        drop(self);
        if let Some(together) = together {
            together.finish(ask, claimed, answer).await;
        }
        Ok(Response::from_parts(parts, Body::from(body)))
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        let answer = self.answer.take();
        let mut table = self.answers.table();
        table.finish(&self.ask.key, answer, Instant::now());
    }
}

fn failed() -> Problem {
    let what = "This failed, and nobody knows how far it came";
    Problem::new(StatusCode::INTERNAL_SERVER_ERROR, what).with_code(Code::Internal.as_str())
}

/// Does what a key was sent with once. Bodies have at most so many bytes.
pub(super) async fn obey(
    With((answers, max_body)): With<(Answers, usize)>,
    request: Request,
    next: Next,
) -> Response {
    let obeyed = obeyed(answers, max_body, request, next).await;
    obeyed.unwrap_or_else(Problem::into_response)
}

async fn obeyed(
    answers: Answers,
    max_body: usize,
    request: Request,
    next: Next,
) -> Result<Response, Problem> {
    if !strict::route_of(&request).is_some_and(Route::changes) {
        return Ok(next.run(request).await);
    }
    let Some(key) = key(request.headers())? else {
        return Ok(next.run(request).await);
    };
    let (parts, body) = request.into_parts();
    let body = Bytes::from_request(Request::from_parts(parts.clone(), body), &()).await;
    let body = body.map_err(|error| Problem::of_body(error.status(), max_body))?;
    let fingerprint = fingerprint(&parts.method, &parts.uri, &body);
    let mut token = [0; 8];
    getrandom::fill(&mut token).map_err(|_| failed())?;
    let claim = answers.table().claim(&key, fingerprint, Instant::now());
    if let Some(answered) = claim.answered() {
        return Ok(answered);
    }
    let ask = Ask {
        key,
        fingerprint,
        token: u64::from_ne_bytes(token),
        begun: tokio::time::Instant::now(),
    };
    let run = Run {
        answers,
        ask,
        answer: None,
    };
    let answering = next.run(Request::from_parts(parts, Body::from(body)));
    // By itself: it is finished even if the caller does not wait for it.
    let running = tokio::spawn(run.finish(answering));
    running.await.unwrap_or_else(|_| Err(failed()))
}

#[cfg(test)]
mod tests {
    use super::super::MIN_BODY;
    use super::together::tests::{Mood, Moody};
    use super::*;
    use std::net::SocketAddr;

    use axum::extract::State;
    use axum::routing::{get, post};
    use axum::{Router, middleware};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};
    use tokio::sync::Semaphore;

    /// An API whose routes answer what the body says, and a list of what they have done.
    #[derive(Clone)]
    struct Api {
        address: SocketAddr,
        done: Arc<Mutex<Vec<String>>>,
        /// What waits has a permit here when it has begun, and goes on when there is one there.
        begun: Arc<Semaphore>,
        wait: Arc<Semaphore>,
    }

    async fn within<T>(work: impl Future<Output = T>) -> T {
        let time = Duration::from_secs(20);
        tokio::time::timeout(time, work).await.expect("in time")
    }

    async fn act(State(api): State<Api>, body: String) -> Response {
        if let Some(rest) = body.strip_prefix("wait ") {
            api.begun.add_permits(1);
            drop(api.wait.acquire().await);
            api.done.lock().unwrap().push(rest.to_owned());
            return "waited".into_response();
        }
        let count = {
            let mut done = api.done.lock().unwrap();
            done.push(body.clone());
            done.len()
        };
        match &*body {
            "panic" => panic!("a handler's fault"),
            "large" => "x".repeat(MAX_ANSWER + 1).into_response(),
            "later" => {
                let later = [(header::RETRY_AFTER, "1")];
                (StatusCode::NOT_FOUND, later, "later").into_response()
            }
            status => {
                let status: StatusCode = status.parse().unwrap();
                (status, axum::Json(count)).into_response()
            }
        }
    }

    impl Api {
        async fn start() -> Api {
            Api::of(Answers::alone()).await
        }

        async fn of(answers: Answers) -> Api {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let api = Api {
                address: listener.local_addr().unwrap(),
                done: Arc::default(),
                begun: Arc::new(Semaphore::new(0)),
                wait: Arc::new(Semaphore::new(0)),
            };
            let v1 = Router::new()
                .route("/broadcast", post(act))
                .route("/rooms/{room}/publish", post(act))
                .route("/rooms", get(act))
                .route("/presence", post(act))
                .layer(middleware::from_fn_with_state((answers, MIN_BODY), obey));
            let app = Router::new().nest("/v1", v1).with_state(api.clone());
            tokio::spawn(async move { axum::serve(listener, app).await });
            api
        }

        async fn send(&self, line: &str, headers: &str, body: &str) -> TcpStream {
            let mut stream = TcpStream::connect(self.address).await.unwrap();
            let length = body.len();
            let request = format!(
                "{line} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {length}\r\n\
                 {headers}\r\n{body}"
            );
            stream.write_all(request.as_bytes()).await.unwrap();
            stream
        }

        /// The status, whether it was given before, and the body of an answer.
        async fn ask(&self, line: &str, headers: &str, body: &str) -> (u16, bool, String) {
            let mut stream = self.send(line, headers, body).await;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.unwrap();
            let (head, body) = answer.split_once("\r\n\r\n").unwrap();
            let status = head.split(' ').nth(1).unwrap().parse().unwrap();
            let is_again = head.contains("idempotency-replayed: true");
            assert_eq!(head.contains("content-type: "), !body.is_empty());
            (status, is_again, body.to_owned())
        }

        /// A broadcast under a key.
        async fn post(&self, key: &str, body: &str) -> (u16, bool, String) {
            let header = format!("idempotency-key: {key}\r\n");
            self.ask("POST /v1/broadcast", &header, body).await
        }

        fn done(&self) -> Vec<String> {
            std::mem::take(&mut *self.done.lock().unwrap())
        }
    }

    #[tokio::test]
    async fn a_request_that_is_sent_again_is_done_once_and_answered_as_it_was() {
        let api = Api::start().await;
        for status in [201, 403, 404, 410] {
            let (key, body) = (format!("k{status}"), status.to_string());
            let (first, again) = (api.post(&key, &body).await, api.post(&key, &body).await);
            assert_eq!(first, (status, false, "1".into()));
            assert_eq!(again, (status, true, "1".into()));
            // In quotation marks it is the same key.
            assert_eq!(api.post(&format!("\"{key}\""), &body).await, again);
            assert_eq!(api.done().len(), 1, "{status}");
        }
        // Without a key, and where nothing changes, each is done.
        let key = "idempotency-key: other\r\n";
        for (line, headers) in [
            ("POST /v1/broadcast", ""),
            ("POST /v1/presence", key),
            ("GET /v1/rooms", key),
        ] {
            for count in 1..=2 {
                let answer = api.ask(line, headers, "200").await;
                assert_eq!(answer, (200, false, count.to_string()));
            }
            api.done();
        }
    }

    #[tokio::test]
    async fn what_a_caller_is_to_try_again_is_done_again() {
        let api = Api::start().await;
        for status in [400, 408, 409, 413, 423, 425, 429, 500, 502, 503, 504] {
            let (key, body) = (format!("k{status}"), status.to_string());
            for count in 1..=2 {
                let answer = api.post(&key, &body).await;
                assert_eq!(answer, (status, false, count.to_string()));
            }
            api.done();
            // A mended request may have the same key.
            assert_eq!(api.post(&key, "200").await, (200, false, "1".into()));
            assert_eq!(api.post(&key, "200").await, (200, true, "1".into()));
            api.done();
        }
        // Whatever names a time is not final.
        for count in 1..=2 {
            let answer = api.post("later", "later").await;
            assert_eq!(answer, (404, false, "later".into()));
            assert_eq!(api.done().len(), 1, "{count}");
        }
        for _ in 0..2 {
            let (status, is_again, problem) = api.post("p", "panic").await;
            assert_eq!((status, is_again), (500, false));
            assert!(problem.contains(r#""code":"INTERNAL""#), "{problem}");
        }
        assert_eq!(api.done().len(), 2);
    }

    #[tokio::test]
    async fn another_request_under_the_same_key_is_refused() {
        let api = Api::start().await;
        let key = "idempotency-key: k\r\n";
        let line = "POST /v1/rooms/a/publish?x=1";
        assert_eq!(api.ask(line, key, "200").await.0, 200);
        for (line, body) in [
            (line, "201"),
            ("POST /v1/rooms/a/publish?x=2", "200"),
            ("POST /v1/rooms/a/publish", "200"),
            ("POST /v1/rooms/b/publish?x=1", "200"),
            ("POST /v1/broadcast?x=1", "200"),
        ] {
            let (status, is_again, problem) = api.ask(line, key, body).await;
            assert_eq!((status, is_again), (422, false), "{line} {body}");
            let code = r#""code":"IDEMPOTENCY_KEY_REUSED""#;
            assert!(problem.contains(code), "{problem}");
        }
        assert!(api.ask(line, key, "200").await.1);
        assert_eq!(api.done(), ["200"]);
    }

    #[tokio::test]
    async fn what_was_begun_is_finished_and_answered_though_its_caller_has_gone() {
        let api = Api::start().await;
        let key = "idempotency-key: k\r\n";
        let caller = api.send("POST /v1/broadcast", key, "wait 1").await;
        drop(within(api.begun.acquire()).await);
        assert_eq!(api.post("k", "wait 2").await.0, 422);
        drop(caller);
        let (status, is_again, problem) = api.post("k", "wait 1").await;
        assert_eq!((status, is_again), (409, false));
        let code = r#""code":"IDEMPOTENCY_KEY_IN_USE""#;
        assert!(problem.contains(code), "{problem}");
        assert!(api.done().is_empty());
        api.wait.add_permits(1);
        let answered = async {
            loop {
                let answer = api.post("k", "wait 1").await;
                if answer.0 != 409 {
                    return answer;
                }
            }
        };
        assert_eq!(within(answered).await, (200, true, "waited".into()));
        assert_eq!(api.done(), ["1"]);
    }

    #[tokio::test]
    async fn where_others_do_not_hear_of_an_answer_its_caller_does_and_is_answered_so_again() {
        let shelf = Moody::new(Mood::IsAway);
        let answers = Answers {
            together: Some(Arc::new(Together::on(shelf.clone()))),
            ..Answers::alone()
        };
        let api = Api::of(answers).await;
        // They are cut off before it is claimed, and after that.
        let first = within(api.post("away", "200")).await;
        assert_eq!(first, (200, false, "1".into()));
        shelf.is_now(Mood::Answers);
        let key = "idempotency-key: cut\r\n";
        let mut caller = api.send("POST /v1/broadcast", key, "wait 1").await;
        drop(within(api.begun.acquire()).await);
        shelf.is_now(Mood::Fails);
        api.wait.add_permits(1);
        let mut text = String::new();
        within(caller.read_to_string(&mut text)).await.unwrap();
        assert!(text.ends_with("waited"), "{text}");
        for (key, body) in [("away", "200"), ("cut", "wait 1")] {
            assert!(within(api.post(key, body)).await.1, "{key}");
        }
        shelf.is_now(Mood::Answers);
        let all_told = async {
            while !shelf.told().contains(&("cut".to_owned(), true)) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        within(all_told).await;
        assert_eq!(api.done(), ["200", "1"]);
    }

    #[tokio::test]
    async fn an_answer_that_is_too_large_is_remembered_without_its_body() {
        let api = Api::start().await;
        assert_eq!(api.post("k", "large").await.2.len(), MAX_ANSWER + 1);
        assert_eq!(api.post("k", "large").await, (200, true, String::new()));
        assert_eq!(api.done().len(), 1);
    }

    #[tokio::test]
    async fn a_key_is_a_word_of_visible_characters_and_there_once() {
        let api = Api::start().await;
        let longest = "k".repeat(MAX_KEY);
        for good in ["k", "~!", &longest, &format!("\"{longest}\"")] {
            assert_eq!(api.post(good, "200").await.0, 200, "{good}");
        }
        assert_eq!(api.done().len(), 3);
        for bad in [
            "",
            "\"\"",
            "a b",
            "a\tb",
            "caf\u{e9}",
            &format!("{longest}k"),
            "a\r\nidempotency-key: b",
        ] {
            let (status, _, problem) = api.post(bad, "200").await;
            assert_eq!(status, 400, "{bad}");
            let code = r#""code":"IDEMPOTENCY_KEY_INVALID""#;
            assert!(problem.contains(code), "{problem}");
        }
        assert!(api.done().is_empty());
    }

    fn answer(size: usize) -> Option<Answer> {
        let body = vec![b'x'; size].into();
        Answer::kept(StatusCode::OK, &HeaderMap::new(), &body)
    }

    /// Begins and ends a request.
    fn answered(table: &mut Table, number: usize, size: usize, now: Instant) {
        let key = number.to_string().into();
        assert_eq!(table.claim(&key, [0; 32], now), Claim::Begun);
        table.finish(&key, answer(size), now);
    }

    #[test]
    fn answers_are_kept_for_a_day_and_the_oldest_go_when_there_are_too_many() {
        let mut table = Table::new();
        let now = Instant::now();
        let claim = |table: &mut Table, number: usize, now| {
            table.claim(&number.to_string().into(), [0; 32], now)
        };
        let is_kept = |claim| matches!(claim, Claim::Done(_));
        answered(&mut table, 0, 10, now);
        assert!(is_kept(claim(&mut table, 0, now + KEPT_FOR)));
        // One that runs stays, however long it takes.
        assert_eq!(claim(&mut table, 1, now), Claim::Begun);
        let late = now + KEPT_FOR + Duration::from_secs(1);
        assert_eq!(claim(&mut table, 0, late), Claim::Begun);
        assert_eq!(claim(&mut table, 1, late), Claim::Running);
        for number in 2..MAX_ANSWERS + 3 {
            answered(&mut table, number, 10, late);
            // Asking for the oldest makes it no younger.
            if number < 10 {
                assert!(is_kept(claim(&mut table, 2, late)));
            }
        }
        assert_eq!(claim(&mut table, 2, late), Claim::Begun);
        assert!(is_kept(claim(&mut table, 3, late)));
        for number in 0..1_100 {
            answered(&mut table, MAX_ANSWERS + 3 + number, MAX_ANSWER, late);
        }
        assert_eq!(claim(&mut table, 3, late), Claim::Begun);
        let newest = MAX_ANSWERS + 3 + 1_099;
        assert!(is_kept(claim(&mut table, newest, late)));
        assert!(!is_kept(claim(&mut table, newest - 1_099, late)));
    }

    #[test]
    fn an_answer_is_the_same_at_another_node() {
        let mut headers = HeaderMap::new();
        let kind = HeaderValue::from_static("application/problem+json");
        headers.insert(header::CONTENT_TYPE, kind);
        for (headers, size) in [
            (&headers, 10),
            (&HeaderMap::new(), 0),
            (&headers, MAX_ANSWER + 1),
        ] {
            let body = "x".repeat(size).into();
            let answer = Answer::kept(StatusCode::NOT_FOUND, headers, &body).unwrap();
            assert_eq!(Answer::read(&answer.write()), Some(answer));
        }
        assert_eq!(Answer::read(b"what is this"), None);
    }

    #[test]
    fn no_more_run_under_keys_than_there_is_room_for() {
        let mut table = Table::new();
        let now = Instant::now();
        for number in 0..MAX_RUNNING {
            let key = number.to_string().into();
            assert_eq!(table.claim(&key, [0; 32], now), Claim::Begun);
        }
        let one_more = "one more".into();
        assert_eq!(table.claim(&one_more, [0; 32], now), Claim::Full);
        table.finish(&"0".into(), None, now);
        assert_eq!(table.claim(&one_more, [0; 32], now), Claim::Begun);
    }
}

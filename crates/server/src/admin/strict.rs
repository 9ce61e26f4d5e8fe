//! Requests to `/v1` that hold something unknown are refused: a filter with a mistake in
//! its name would otherwise be no filter. What is known stands in the table of routes.

use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::{
    DefaultBodyLimit, FromRequest, FromRequestParts, MatchedPath, Path, Request, State as With,
};
use axum::http::request::Parts;
use axum::http::{HeaderMap, Method, StatusCode, Uri, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use heartline::auth::{MAX_ID, is_id};
use heartline::{Code, rooms};
use heartline_core::misfit::in_words;
use heartline_wire::json::whole;
use serde::de::{DeserializeOwned, IgnoredAny};
use serde_json::Value;
use serde_json::value::RawValue;
use std::collections::{BTreeMap, BTreeSet};

use super::MIN_BODY;
use super::openapi::{ROUTES, Route};
use super::problem::Problem;

/// Largest body that is looked at where none is wanted, bytes.
const MAX_IDLE_BODY: usize = 64 * 1024;

/// Longest explanation of what does not fit, characters: it may quote the body.
const MAX_WHY: usize = 200;

/// The members that are what an app says, in which a NUL may stand: clients may say one there too.
const SAID: &[&str] = &["data", "event", "key"];

/// What names users, their kinds and tenants, wherever it stands.
const IDS: &[&str] = &["userId", "users", "userType", "tenantId"];

/// Lists of rooms' names: a socket's id is one.
const ROOMS: &[&str] = &["rooms", "sockets", "except"];

/// Lists that say who is meant.
const LISTS: &[&str] = &["users", "sockets", "rooms", "except"];

/// Longest of these lists: every node is asked for all that is in it.
pub(super) const MAX_LISTED: usize = 1000;

/// What a `Content-Encoding` can name under which a body is not what it says (RFC 9110 §8.4.1).
const CODINGS: &[&str] = &[
    "gzip",
    "x-gzip",
    "deflate",
    "br",
    "zstd",
    "compress",
    "x-compress",
];

/// The members that a request's body may have, and how many bytes.
#[derive(Clone, Copy)]
struct Allowed {
    members: &'static [&'static str],
    max_body: usize,
}

/// Checks the query, and that there is no body where none is wanted; others have at most `max_body`
/// bytes.
pub(super) async fn check(With(max_body): With<usize>, request: Request, next: Next) -> Response {
    passed(max_body, request, next)
        .await
        .unwrap_or_else(Problem::into_response)
}

async fn passed(max_body: usize, mut request: Request, next: Next) -> Result<Response, Problem> {
    // Without a route the answer is 404 or 405 anyway.
    let Some(route) = route_of(&request) else {
        return Ok(next.run(request).await);
    };
    check_escapes("The path", request.uri().path())?;
    // The one way in which a path may have one.
    if request.uri().path().contains("%00") {
        return Err(has_nul("The path"));
    }
    check_query(request.uri(), route)?;
    if !route.body.is_empty() {
        check_encoding(request.headers())?;
    }
    let members = route.body;
    request
        .extensions_mut()
        .insert(Allowed { members, max_body });
    if route.body.is_empty() && request.method() != Method::GET {
        request = without_body(request).await?;
    }
    Ok(next.run(request).await)
}

/// What the table of routes says of a request.
pub(super) fn route_of(request: &Request) -> Option<&'static Route> {
    let path = request.extensions().get::<MatchedPath>()?;
    // A HEAD is answered by the route of GET.
    let method = match *request.method() {
        Method::HEAD => "get",
        ref method => method.as_str(),
    };
    ROUTES
        .iter()
        .find(|route| route.path == path.as_str() && route.method.eq_ignore_ascii_case(method))
}

/// A request that wants no body, once it is known that there is nothing in it.
async fn without_body(request: Request) -> Result<Request, Problem> {
    let (parts, body) = request.into_parts();
    let mut reading = Request::new(body);
    DefaultBodyLimit::max(MAX_IDLE_BODY).apply(&mut reading);
    let body = Bytes::from_request(reading, &()).await;
    let body = body.map_err(|error| Problem::of_body(error.status(), MAX_IDLE_BODY))?;
    if !body.is_empty() {
        check_encoding(&parts.headers)?;
        let text = std::str::from_utf8(&body).unwrap_or_default();
        check_members(text, &[])?;
    }
    Ok(Request::from_parts(parts, Body::empty()))
}

fn bad(what: String) -> Problem {
    Problem::new(StatusCode::BAD_REQUEST, what)
}

fn unknown(kind: &str, name: &str, known: &[&str]) -> Problem {
    // The name is the sender's: a part of it says enough.
    let name: String = name.chars().take(64).collect();
    if known.is_empty() {
        return bad(format!("Unknown {kind} {name:?}; there is none here"));
    }
    let distance = |known: &str| strsim::damerau_levenshtein(known, &name);
    let nearest = known.iter().min_by_key(|known| distance(known));
    // What shares less than half with it was not meant.
    let meant = nearest.filter(|known| 2 * distance(known) <= known.len().max(name.len()));
    let hint = meant.map_or(".".to_owned(), |known| format!("; did you mean {known:?}?"));
    let all = known.join(", ");
    bad(format!("Unknown {kind} {name:?}{hint} Known are {all}"))
}

fn check_query(uri: &Uri, route: &Route) -> Result<(), Problem> {
    let query = uri.query().unwrap_or_default();
    check_escapes("The query", query)?;
    let mut seen = BTreeSet::new();
    for (name, value) in form_urlencoded::parse(query.as_bytes()) {
        if !route.query.contains(&&*name) {
            return Err(unknown("query parameter", &name, route.query));
        }
        if value.contains('\0') {
            return Err(has_nul(&format!("The query parameter {name:?}")));
        }
        if !seen.insert(name.clone()) {
            return Err(bad(format!("The query parameter {name:?} is there twice")));
        }
        if IDS.contains(&&*name) {
            check_id(&name, &value)?;
        }
        if name == "room" {
            room_name(&value)?;
        }
        if let Some(what) = route.misfit(&name, &value) {
            return Err(bad(format!("{name} must be {what}")));
        }
    }
    Ok(())
}

/// RFC 3986 §2.1: two digits of hex follow each percent sign. Decoders leave others as they are,
/// which names somebody else than was meant.
fn check_escapes(place: &str, text: &str) -> Result<(), Problem> {
    let is_whole = |rest: &str| {
        let digits = rest.as_bytes().get(..2);
        digits.is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit))
    };
    match text.split('%').skip(1).all(is_whole) {
        true => Ok(()),
        false => Err(bad(format!(
            "{place} has a % without two digits of hex behind it; % itself is %25"
        ))),
    }
}

/// Bodies are read as they come: one that says that it is compressed is refused. Whatever else
/// stands there, such as a charset, changes no byte.
fn check_encoding(headers: &HeaderMap) -> Result<(), Problem> {
    let values = headers.get_all(header::CONTENT_ENCODING).iter();
    let mut names = values.flat_map(|value| value.as_bytes().split(|&byte| byte == b','));
    let is_coding = |name: &[u8]| {
        let name = name.trim_ascii();
        CODINGS
            .iter()
            .any(|coding| name.eq_ignore_ascii_case(coding.as_bytes()))
    };
    match names.any(is_coding) {
        false => Ok(()),
        true => Err(Problem::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "A body is taken as it is, without a Content-Encoding",
        )),
    }
}

/// Whether a token could have this id.
fn check_id(name: &str, id: &str) -> Result<(), Problem> {
    match is_id(id) {
        true => Ok(()),
        false => Err(bad(format!(
            "{name} must be an id of 1 to {MAX_ID} bytes and whole characters, none of them a \
             control character"
        ))),
    }
}

/// An id, if there is one and a token could have it.
pub(super) fn checked(name: &str, id: Option<String>) -> Result<Option<String>, Problem> {
    id.as_deref().map_or(Ok(()), |id| check_id(name, id))?;
    Ok(id)
}

/// A room's name, if a room can have it.
pub(super) fn room_name(name: &str) -> Result<&str, Problem> {
    match rooms::is_valid_name(name) {
        true => Ok(name),
        false => {
            let (what, code) = (Code::InvalidRoom.sentence(), Code::InvalidRoom.as_str());
            Err(Problem::new(StatusCode::BAD_REQUEST, what).with_code(code))
        }
    }
}

/// Whether the ids are ids in a member that has one, or a list of them, of which the first that is
/// none is named by its place. A member that is neither text nor a list is not of its type, which is
/// said elsewhere.
fn check_ids(name: &str, value: &str) -> Result<(), Problem> {
    let check = |name: &str, id: &str| match id.contains('\0') {
        true => Err(has_nul(&format!("The member {name:?}"))),
        false => check_id(name, id),
    };
    let check_listed = |(place, id): (usize, &Value)| {
        let name = format!("{name}[{place}]");
        let not_text = || bad(format!("{name} must be text, an id"));
        check(&name, id.as_str().ok_or_else(not_text)?)
    };
    match serde_json::from_str(value) {
        Ok(Value::String(id)) => check(name, &id),
        Ok(Value::Array(ids)) => ids.iter().enumerate().try_for_each(check_listed),
        _ => Ok(()),
    }
}

fn check_members(body: &str, known: &[&str]) -> Result<(), Problem> {
    let members: BTreeMap<String, &RawValue> =
        serde_json::from_str(body).map_err(|_| bad("The body must be an object of JSON".into()))?;
    for (name, value) in members {
        if !known.contains(&name.as_str()) {
            return Err(unknown("member of the body", &name, known));
        }
        if LISTS.contains(&name.as_str()) {
            check_length(&name, value.get())?;
        }
        if IDS.contains(&name.as_str()) {
            check_ids(&name, value.get())?;
        }
        if !SAID.contains(&name.as_str()) && holds_nul(value.get()) {
            return Err(has_nul(&format!("The member {name:?}")));
        }
        if ROOMS.contains(&name.as_str()) {
            check_rooms(&name, value.get())?;
        }
    }
    Ok(())
}

/// Whether a list is no longer than one may be. What is no list is not of its type, which is said
/// elsewhere.
fn check_length(name: &str, value: &str) -> Result<(), Problem> {
    let length = serde_json::from_str::<Vec<IgnoredAny>>(value).map_or(0, |list| list.len());
    match length > MAX_LISTED {
        true => Err(bad(format!(
            "{name} has {length} entries: name at most {MAX_LISTED} at once"
        ))),
        false => Ok(()),
    }
}

/// Whether all in a list are names that rooms can have; the first that is none is named by its place.
/// What is not of its type is said elsewhere.
fn check_rooms(name: &str, value: &str) -> Result<(), Problem> {
    let Ok(names) = serde_json::from_str::<Vec<String>>(value) else {
        return Ok(());
    };
    match names.iter().position(|room| !rooms::is_valid_name(room)) {
        None => Ok(()),
        Some(place) => {
            let (what, code) = (Code::InvalidRoom.sentence(), Code::InvalidRoom.as_str());
            Err(bad(format!("{name}[{place}]: {what}")).with_code(code))
        }
    }
}

/// Names and ids have no NUL: not all databases keep it.
fn has_nul(what: &str) -> Problem {
    bad(format!("{what} has a NUL in it"))
}

/// Whether a text of this JSON has a NUL in it.
fn holds_nul(json: &str) -> bool {
    fn is_in(value: &Value) -> bool {
        match value {
            Value::String(text) => text.contains('\0'),
            Value::Array(items) => items.iter().any(is_in),
            Value::Object(members) => members.iter().any(|(name, value)| {
                let name_has = name.contains('\0');
                name_has || is_in(value)
            }),
            _ => false,
        }
    }
    json.contains("\\u0000") && serde_json::from_str(json).is_ok_and(|value| is_in(&value))
}

/// A body whose members are all known.
pub(super) struct Known<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Known<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        let allowed = request.extensions().get::<Allowed>();
        let (known, max_body) = allowed.map_or((&[][..], MIN_BODY), |allowed| {
            (allowed.members, allowed.max_body)
        });
        let body = Json::<Box<RawValue>>::from_request(request, state).await;
        let Json(body) = body.map_err(|error| Problem::of_json(error, max_body))?;
        // Half a character is one that is not known, as it is where clients say it.
        let body = whole(body.get());
        check_members(&body, known)?;
        serde_json::from_str(&body).map(Known).map_err(|error| {
            let why = in_words(&error.to_string());
            bad(format!("The body does not fit: {why:.MAX_WHY$}"))
        })
    }
}

/// What a request's path names.
pub(super) struct Named(pub(super) String);

impl<S: Send + Sync> FromRequestParts<S> for Named {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let Path(name) = Path::from_request_parts(parts, state).await?;
        Ok(Named(name))
    }
}

/// The user whom a request's path names.
pub(super) struct NamedUser(pub(super) String);

impl<S: Send + Sync> FromRequestParts<S> for NamedUser {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let Named(id) = Named::from_request_parts(parts, state).await?;
        check_id("userId", &id)?;
        Ok(NamedUser(id))
    }
}

/// The room that a request's path names.
pub(super) struct NamedRoom(pub(super) String);

impl<S: Send + Sync> FromRequestParts<S> for NamedRoom {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let Named(room) = Named::from_request_parts(parts, state).await?;
        room_name(&room)?;
        Ok(NamedRoom(room))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(path: &str) -> &'static Route {
        ROUTES.iter().find(|route| route.path == path).unwrap()
    }

    #[test]
    fn what_is_no_id_is_none_wherever_it_stands() {
        let long = "i".repeat(257);
        for (bad, escaped) in [
            ("", ""),
            ("a\n", "a%0A"),
            ("\u{7f}", "%7F"),
            (&*long, &*long),
        ] {
            for name in ["userId", "userType", "tenantId"] {
                let uri: Uri = format!("/?{name}={escaped}").parse().unwrap();
                assert!(
                    check_query(&uri, route("/v1/connections")).is_err(),
                    "{uri}"
                );
                let body = serde_json::json!({ name: bad }).to_string();
                assert!(check_members(&body, &[name]).is_err(), "{body}");
            }
            let body = serde_json::json!({ "users": ["a", bad] }).to_string();
            assert!(check_members(&body, &["users"]).is_err(), "{body}");
        }
        for good in [r#"{"users":["a"]}"#, r#"{"users":7}"#, r#"{"users":null}"#] {
            assert!(check_members(good, &["users"]).is_ok(), "{good}");
        }
    }

    #[test]
    fn which_of_many_ids_is_none_is_said() {
        for (bad, sentence) in [
            (r#""""#, "users[2] must be an id"),
            (r#""a\n""#, "users[2] must be an id"),
            (r#""\u0000""#, r#"users[2]\" has a NUL"#),
            ("7", "users[2] must be text"),
            ("null", "users[2] must be text"),
            (r#"{"\u0000":1}"#, "users[2] must be text"),
        ] {
            let body = format!(r#"{{"users":["a","b",{bad},""]}}"#);
            let refused = check_members(&body, &["users"]).unwrap_err();
            assert!(
                format!("{refused:?}").contains(sentence),
                "{body}: {refused:?}"
            );
        }
    }

    #[test]
    fn which_of_many_rooms_is_none_is_said() {
        for name in ["rooms", "sockets", "except"] {
            for bad in ["", "a\n", &"r".repeat(257), "conversation:"] {
                let body = serde_json::json!({ name: ["a", "b", "c", bad, ""] }).to_string();
                let refused = format!("{:?}", check_members(&body, &[name]).unwrap_err());
                let sentence = format!("{name}[3]: ");
                assert!(refused.contains(&sentence), "{body}: {refused}");
                assert!(refused.contains("INVALID_ROOM"), "{body}: {refused}");
            }
            let good = serde_json::json!({ name: ["a", "user:b"] }).to_string();
            assert!(check_members(&good, &[name]).is_ok(), "{good}");
        }
    }

    #[test]
    fn a_list_names_no_more_than_nodes_are_asked_for_at_once() {
        for name in LISTS {
            let read = |length: usize| {
                let body = serde_json::json!({ *name: vec!["a"; length] }).to_string();
                check_members(&body, LISTS).map_err(|problem| format!("{problem:?}"))
            };
            assert_eq!(read(1000), Ok(()));
            let refused = read(1001).unwrap_err();
            assert!(refused.contains("has 1001 entries"), "{refused}");
        }
    }

    #[test]
    fn only_a_body_that_is_coded_is_refused() {
        let asked = |values: &[&'static str]| {
            let named = values.iter().map(|value| {
                let value = axum::http::HeaderValue::from_static(value);
                (header::CONTENT_ENCODING, value)
            });
            check_encoding(&named.collect()).map_err(|problem| problem.into_response().status())
        };
        let plain: &[&[&str]] = &[
            &[],
            &[""],
            &["identity"],
            &["identity, Identity"],
            &["utf-8"],
            &["identity", ","],
            &["gzipped"],
        ];
        for values in plain {
            assert_eq!(asked(values), Ok(()), "{values:?}");
        }
        let coded: &[&[&str]] = &[
            &["gzip"],
            &["X-GZIP"],
            &["deflate"],
            &["br"],
            &["zstd"],
            &["compress"],
            &["identity,gzip"],
            &["utf-8 ,\tbr"],
            &["identity", "gzip"],
        ];
        for values in coded {
            assert_eq!(
                asked(values),
                Err(StatusCode::UNSUPPORTED_MEDIA_TYPE),
                "{values:?}"
            );
        }
    }

    #[test]
    fn a_parameter_of_another_type_is_said_in_words_of_the_sender() {
        let asked = |path: &str, query: &str| {
            let uri: Uri = format!("/?{query}").parse().unwrap();
            let asked = check_query(&uri, route(path));
            asked.map_err(|problem| format!("{problem:?}"))
        };
        let history = "/v1/conversations/{conversationId}/messages";
        for (path, query, sentence) in [
            (
                "/v1/connections",
                "limit=x",
                "a whole number from 1 to 1000",
            ),
            ("/v1/rooms", "limit=1001", "a whole number from 1 to 1000"),
            ("/v1/connections", "state=x", "connected or suspended"),
            (history, "limit=201", "a whole number from 1 to 200"),
            (history, "after=-1", "a whole number"),
            (history, "before=1.5", "a whole number"),
            ("/v1/connections", "cursor=%zz", "two digits of hex"),
        ] {
            let refused = asked(path, query).unwrap_err();
            assert!(refused.contains(sentence), "{query}: {refused}");
        }
        assert!(asked(history, "limit=200&after=0").is_ok());
        assert!(asked("/v1/connections", "limit=1&state=suspended&cursor=%7a").is_ok());
    }

    #[test]
    fn a_filter_with_a_mistake_is_not_taken_for_none() {
        let asked = |query: &str| {
            let uri: Uri = format!("/v1/connections{query}").parse().unwrap();
            check_query(&uri, route("/v1/connections")).map_err(|problem| format!("{problem:?}"))
        };
        assert!(asked("").is_ok() && asked("?userId=a&limit=1").is_ok());
        assert!(asked("?user=p1").unwrap_err().contains("did you mean"));
        assert!(asked("?userid=p1").unwrap_err().contains("userId"));
        assert!(asked("?userId=a&userId=b").unwrap_err().contains("twice"));
    }

    #[test]
    fn a_member_with_a_mistake_is_not_ignored() {
        let read = |body: &str| {
            check_members(body, &["data", "key"]).map_err(|problem| format!("{problem:?}"))
        };
        assert!(read(r#"{"data":{"dta":1}}"#).is_ok() && read("{}").is_ok());
        assert!(read(r#"{"dta":1}"#).unwrap_err().contains("data"));
        assert!(
            read(r#"{"data":1,"keyy":"k"}"#)
                .unwrap_err()
                .contains("key")
        );
        let far = read(r#"{"room":1}"#).unwrap_err();
        assert!(far.contains("Known are data, key") && !far.contains("did you mean"));
        assert!(read("[1]").is_err() && read("").is_err());
        assert!(check_members(r#"{"a":1}"#, &[]).is_err());
    }

    #[test]
    fn a_name_with_a_nul_is_refused_and_what_an_app_says_is_not() {
        let known = &["userId", "users", "data", "event", "key"];
        let asked = |query: &str| {
            let uri: Uri = format!("/v1/connections{query}").parse().unwrap();
            check_query(&uri, route("/v1/connections"))
        };
        let refused = asked("?userId=a%00b").map_err(|problem| format!("{problem:?}"));
        assert!(refused.unwrap_err().contains("NUL"));
        let read =
            |body: &str| check_members(body, known).map_err(|problem| format!("{problem:?}"));
        for good in [
            r#"{"data":"\u0000"}"#,
            r#"{"event":"a\u0000b","key":"\u0000"}"#,
            r#"{"userId":"\\u0000"}"#,
            r#"{"users":["a"],"data":{"x":"\u0000"}}"#,
        ] {
            assert!(read(good).is_ok(), "{good}");
        }
        for bad in [
            r#"{"userId":"a\u0000b"}"#,
            r#"{"users":["a","\u0000"]}"#,
            r#"{"users":{"\u0000":1}}"#,
        ] {
            assert!(read(bad).unwrap_err().contains("NUL"), "{bad}");
        }
    }

    /// A body, read into `T`, that may have the member `data`.
    async fn read<T: DeserializeOwned>(body: String) -> Result<T, String> {
        let mut request = Request::post("/").body(Body::from(body)).unwrap();
        let json = axum::http::HeaderValue::from_static("application/json");
        let headers = request.headers_mut();
        headers.insert(axum::http::header::CONTENT_TYPE, json);
        request.extensions_mut().insert(Allowed {
            members: &["data"],
            max_body: MIN_BODY,
        });
        let known = Known::<T>::from_request(request, &()).await;
        known
            .map(|Known(body)| body)
            .map_err(|problem| format!("{problem:?}"))
    }

    #[tokio::test]
    async fn a_body_that_nobody_wants_is_too_large_or_has_members_that_are_not_known() {
        for (body, status) in [
            (String::new(), None),
            ("{}".into(), None),
            (r#"{"a":1}"#.into(), Some(StatusCode::BAD_REQUEST)),
            ("[]".into(), Some(StatusCode::BAD_REQUEST)),
            (
                " ".repeat(MAX_IDLE_BODY + 1),
                Some(StatusCode::PAYLOAD_TOO_LARGE),
            ),
        ] {
            let length = body.len();
            let read = without_body(Request::new(Body::from(body))).await;
            let refused = read.err().map(|problem| problem.into_response().status());
            assert_eq!(refused, status, "{length}");
        }
    }

    #[tokio::test]
    async fn half_a_character_is_replaced_as_it_is_for_clients() {
        let body: BTreeMap<String, String> = read(r#"{"data":"\ud83c"}"#.into()).await.unwrap();
        assert_eq!(body["data"], "\u{fffd}");
    }

    #[tokio::test]
    async fn what_does_not_fit_is_said_in_words_of_the_sender() {
        let body = r#"{"data":-1}"#;
        let refused = read::<BTreeMap<String, u8>>(body.into()).await.unwrap_err();
        assert!(
            refused.contains("a whole number from 0 to 255"),
            "{refused}"
        );
        assert!(
            !refused.contains("u8") && !refused.contains(" at line "),
            "{refused}"
        );
    }

    #[tokio::test]
    async fn a_refusal_repeats_little_of_the_body() {
        let body = format!(r#"{{"data":"{}"}}"#, "\u{7f}".repeat(100_000));
        let refused = read::<BTreeMap<String, u64>>(body).await.unwrap_err();
        assert!(refused.contains("The body does not fit"), "{refused:.300}");
        assert!(refused.len() < 3_000, "{}", refused.len());
    }
}

//! A chat, written as one would write it on Socket.IO for Node; docs/library.md has the
//! whole table of what is called what.
//!
//! - `POST /login {"name":"ann"}` sets a cookie, and with it one may connect;
//! - in `/`: `enter`, `leave`, `say`, `typing`, `whisper` and `image`, in rooms;
//! - `/moderators` lets in those who were named by `--moderator`, who may `dismiss` people;
//! - `POST /announce`, with the password of `--backend`, tells everybody something;
//! - at ctrl-c clients are told to go, and when to come back.
//!
//! `cargo run --example chat -- --listen 127.0.0.1:3000 --moderator ann --backend secret`

use std::collections::HashMap;
use std::io::Read;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use heartline::auth::{AuthError, Authenticator, BoxFuture, Credentials, Identity, UserKey};
use heartline::entries::SocketFilter;
use heartline::{
    All, Args, Arrival, Binary, Config, ConnectRefused, EventError, EventName, Gateway, HandlerSet,
    HttpRequest, HttpResponse, Json, LeftRooms, NoAnswer, Reason, Socket,
};
use hyper::header::{AUTHORIZATION, HeaderValue, SET_COOKIE};
use hyper::{Method, StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::json;

#[path = "flags.rs"]
mod flags;

/// Everybody is here.
const LOBBY: &str = "lobby";
/// Most people at once: each login is remembered.
const MAX_SESSIONS: usize = 10_000;
/// Longest name, bytes: it is in every message.
const MAX_NAME: usize = 32;
/// Longest text, bytes.
const MAX_TEXT: usize = 2_000;
/// Largest image, bytes: everybody in the room gets it.
const MAX_IMAGE: usize = 500_000;
/// Most people that are listed to who enters a room.
const MAX_LISTED: usize = 200;

// --- who is who ------------------------------------------------------------------------

/// What the app knows, beside what the gateway does.
struct Chat {
    /// Names by session.
    sessions: Mutex<HashMap<String, String>>,
    moderator: String,
    /// The backend's password; without one there are no announcements.
    backend: Option<String>,
}

impl Chat {
    fn sessions(&self) -> std::sync::MutexGuard<'_, HashMap<String, String>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A new session; what to answer if there is none to be had.
    fn log_in(&self, name: &str) -> Result<String, StatusCode> {
        let is_fine = name.bytes().all(|byte| byte.is_ascii_alphanumeric());
        if name.is_empty() || name.len() > MAX_NAME || !is_fine {
            return Err(StatusCode::BAD_REQUEST);
        }
        let session = random_text().map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)?;
        let mut sessions = self.sessions();
        if sessions.len() >= MAX_SESSIONS {
            return Err(StatusCode::SERVICE_UNAVAILABLE);
        }
        // There are no passwords in this chat: a name is whose it was first.
        if sessions.values().any(|taken| taken == name) {
            return Err(StatusCode::CONFLICT);
        }
        sessions.insert(session.clone(), name.to_owned());
        Ok(session)
    }
}

/// 128 random bits.
fn random_text() -> std::io::Result<String> {
    let mut bytes = [0; 16];
    std::fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

fn key_of(name: &str) -> UserKey {
    UserKey {
        tenant_id: None,
        user_id: name.into(),
        user_type: None,
    }
}

/// Knows people by their cookie.
struct ByCookie(Arc<Chat>);

impl Authenticator for ByCookie {
    fn authenticate(&self, credentials: Credentials) -> BoxFuture<Result<Identity, AuthError>> {
        let handshake = credentials.handshake.unwrap_or_default();
        let name = match handshake.cookie("session") {
            Some(session) => self.0.sessions().get(session).cloned(),
            None => return Box::pin(std::future::ready(Err(AuthError::Required))),
        };
        let identity = name.map(|name| Identity {
            user: Some(Arc::new(key_of(&name))),
            ..Identity::default()
        });
        Box::pin(std::future::ready(identity.ok_or(AuthError::Invalid)))
    }

    fn wants_handshake(&self) -> bool {
        true
    }
}

fn name(socket: &Socket) -> &str {
    socket.identity().user_id().unwrap_or_default()
}

// --- HTTP ------------------------------------------------------------------------------

fn status(status: StatusCode) -> HttpResponse {
    let mut response = HttpResponse::default();
    *response.status_mut() = status;
    response
}

async fn http(chat: Arc<Chat>, gateway: Gateway, request: HttpRequest) -> HttpResponse {
    match (request.method(), request.uri().path()) {
        (&Method::POST, "/login") => log_in(&chat, &request),
        (&Method::POST, "/announce") => announce(&chat, &gateway, &request),
        _ => status(StatusCode::NOT_FOUND),
    }
}

fn log_in(chat: &Chat, request: &HttpRequest) -> HttpResponse {
    #[derive(Deserialize)]
    struct Login<'a> {
        name: &'a str,
    }
    let Ok(Login { name }) = serde_json::from_slice(request.body()) else {
        return status(StatusCode::BAD_REQUEST);
    };
    match chat.log_in(name) {
        Err(refused) => status(refused),
        Ok(session) => {
            let cookie = format!("session={session}; Path=/; HttpOnly; SameSite=Strict");
            let mut response = status(StatusCode::NO_CONTENT);
            if let Ok(cookie) = HeaderValue::try_from(cookie) {
                response.headers_mut().insert(SET_COOKIE, cookie);
            }
            response
        }
    }
}

fn announce(chat: &Chat, gateway: &Gateway, request: &HttpRequest) -> HttpResponse {
    let Some(password) = &chat.backend else {
        return status(StatusCode::NOT_FOUND);
    };
    let given = request.headers().get(AUTHORIZATION);
    if given.is_none_or(|given| given != format!("Bearer {password}").as_str()) {
        return status(StatusCode::UNAUTHORIZED);
    }
    let Ok(text) = std::str::from_utf8(request.body()) else {
        return status(StatusCode::BAD_REQUEST);
    };
    let everybody = gateway.everybody("/", None);
    match everybody.map(|everybody| everybody.emit("announced", text)) {
        Some(Ok(())) => status(StatusCode::NO_CONTENT),
        _ => status(StatusCode::BAD_REQUEST),
    }
}

// --- the chat --------------------------------------------------------------------------

/// What is remembered of a socket.
#[derive(Default)]
struct Visit {
    messages: AtomicU32,
}

#[derive(Serialize)]
struct Said<'a> {
    room: &'a str,
    name: &'a str,
    text: &'a str,
}

/// Whoever speaks in a room has to be in it.
async fn is_in(socket: &Socket, room: &str) -> Result<(), EventError> {
    let rooms = socket.entry().await.map(|entry| entry.rooms);
    match rooms.is_some_and(|rooms| rooms.iter().any(|there| there == room)) {
        true => Ok(()),
        false => Err(EventError::new("NOT_THERE", "Enter the room first")),
    }
}

fn check_text(text: &str) -> Result<(), EventError> {
    match text.trim().is_empty() || text.len() > MAX_TEXT {
        true => Err(EventError::new(
            "INVALID_TEXT",
            "Say something, in 2 000 bytes",
        )),
        false => Ok(()),
    }
}

async fn came(socket: Socket, gateway: Gateway) -> Result<(), EventError> {
    socket.join(LOBBY).await?;
    socket.emit_args(
        "welcome",
        &Args::many(&(name(&socket), gateway.users_online()))?,
    )?;
    socket.broadcast().emit("came", name(&socket))
}

/// The room's people, for who enters it.
async fn enter(
    socket: Socket,
    gateway: Gateway,
    Json(room): Json<String>,
) -> Result<Json<Vec<String>>, EventError> {
    if room.starts_with("user:") {
        return Err(EventError::new("PRIVATE", "That is somebody's own"));
    }
    socket.join(&room).await?;
    socket
        .to(&room)
        .emit_args("entered", &Args::many(&(&room, name(&socket)))?)?;
    let there = SocketFilter {
        namespace: Some("/".into()),
        room: Some(room),
        ..SocketFilter::default()
    };
    let found = gateway.connections(there, None, MAX_LISTED).await;
    let entries = found.map(|page| page.items).unwrap_or_default();
    let mut names: Vec<String> = entries
        .into_iter()
        .filter_map(|entry| entry.user_id)
        .collect();
    names.sort();
    names.dedup();
    Ok(Json(names))
}

async fn leave(socket: Socket, Json(room): Json<String>) -> Result<(), EventError> {
    is_in(&socket, &room).await?;
    socket.leave(&room).await?;
    let left = Args::many(&(&room, name(&socket)))?;
    socket.to(&room).emit_args("left", &left)
}

/// Everybody in the room hears it, the speaker as well, who is told how often they spoke.
async fn say(
    socket: Socket,
    All((room, text)): All<(String, String)>,
) -> Result<Json<u32>, EventError> {
    is_in(&socket, &room).await?;
    check_text(&text)?;
    let said = Said {
        room: &room,
        name: name(&socket),
        text: &text,
    };
    socket.publish(&room, "said", &said).await?;
    let visit = socket.data().get_or_insert_with(Visit::default);
    Ok(Json(visit.messages.fetch_add(1, Ordering::Relaxed) + 1))
}

/// The others see that somebody writes. Nobody waits for an answer to this.
async fn typing(
    socket: Socket,
    All((room, is_typing)): All<(String, bool)>,
) -> Result<NoAnswer, EventError> {
    is_in(&socket, &room).await?;
    let typing = Args::many(&(&room, name(&socket), is_typing))?;
    socket.to(&room).emit_args("typing", &typing)?;
    Ok(NoAnswer)
}

/// To all devices of one person, and to the speaker's other ones; whether they are there.
async fn whisper(
    socket: Socket,
    gateway: Gateway,
    All((whom, text)): All<(String, String)>,
) -> Result<Json<bool>, EventError> {
    check_text(&text)?;
    let whispered = Args::many(&(name(&socket), &whom, &text))?;
    socket
        .to(&format!("user:{whom}"))
        .to(&format!("user:{}", name(&socket)))
        .emit_args("whispered", &whispered)?;
    let presence = gateway.presence(None, &[whom]).await;
    Ok(Json(presence.iter().any(|user| user.online)))
}

/// An image goes through as it is; the answer is its size.
async fn image(
    socket: Socket,
    All((room, title, image)): All<(String, String, Binary)>,
) -> Result<Json<usize>, EventError> {
    is_in(&socket, &room).await?;
    let size = image.0.len();
    if size > MAX_IMAGE {
        return Err(EventError::new("TOO_LARGE", "An image has at most 500 kB"));
    }
    let shown = Args::many(&(&room, name(&socket), &title, image))?;
    socket.to(&room).emit_args("image", &shown)?;
    Ok(Json(size))
}

async fn unknown(EventName(name): EventName) -> Result<(), EventError> {
    Err(EventError::new("UNKNOWN", format!("There is no {name:?}")))
}

async fn went(
    socket: Socket,
    reason: Reason,
    LeftRooms(rooms): LeftRooms,
) -> Result<(), EventError> {
    for room in rooms.iter().filter(|room| !room.starts_with("user:")) {
        let left = Args::many(&(room, name(&socket)))?;
        socket.to(room).emit_args("left", &left)?;
    }
    let visit = socket.data().get::<Visit>();
    let messages = visit.map_or(0, |visit| visit.messages.load(Ordering::Relaxed));
    println!(
        "{} went ({reason}) after {messages} messages",
        name(&socket)
    );
    Ok(())
}

// --- moderators ------------------------------------------------------------------------

async fn is_moderator(chat: Arc<Chat>, arrival: Arrival) -> Result<(), ConnectRefused> {
    match arrival.identity.user_id() == Some(&*chat.moderator) {
        true => Ok(()),
        false => {
            let refused = ConnectRefused::new("You are no moderator");
            Err(refused.with_data(&json!({ "code": "NO_MODERATOR" })))
        }
    }
}

/// Ends all of a person's sockets, who may say something before; how many.
async fn dismiss(
    gateway: Gateway,
    All((whom, why)): All<(String, String)>,
) -> Result<Json<usize>, EventError> {
    let whom = key_of(&whom);
    let why = serde_json::to_string(&why).map_err(|_| EventError::new("NO", "No text"))?;
    let (entries, _) = gateway.user_connections(&whom).await;
    for entry in entries {
        // Whether or not they answer in time.
        let patience = Some(Duration::from_secs(1));
        let asked = gateway.emit(&entry.socket_id, "dismissed", &why, patience);
        if let Ok(Ok(Some(last_words))) = asked.await {
            println!("{} says {last_words}", whom.user_id);
        }
    }
    Ok(Json(gateway.disconnect_user(&whom).await.sockets))
}

// --- all of it -------------------------------------------------------------------------

fn config() -> Config {
    let mut config = Config {
        hello: false,
        builtin_events: false,
        max_payload: MAX_IMAGE + 10_000,
        ..Config::default()
    };
    config
        .namespaces
        .insert("/moderators".into(), Default::default());
    config
}

fn chat_events(handlers: HandlerSet) -> HandlerSet {
    handlers
        .on_connect(came)
        .on("enter", enter)
        .on("leave", leave)
        .on("say", say)
        .on("typing", typing)
        .on("whisper", whisper)
        .on("image", image)
        .on("*", unknown)
        .on_disconnect(went)
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let flags = flags::Flags::read(&["--listen", "--moderator", "--backend"]);
    let listen = flags.text("--listen", "127.0.0.1:3000");
    let chat = Arc::new(Chat {
        sessions: Mutex::default(),
        moderator: flags.text("--moderator", ""),
        backend: Some(flags.text("--backend", "")).filter(|password| !password.is_empty()),
    });
    let (for_http, for_moderators) = (chat.clone(), chat.clone());
    let gateway = Gateway::builder(config())
        .authenticator(ByCookie(chat))
        .http_fallback(move |gateway, request| http(for_http.clone(), gateway, request))
        .of("/", chat_events)
        .of("/moderators", |moderators| {
            moderators
                .admit(move |arrival| is_moderator(for_moderators.clone(), arrival))
                .on("dismiss", dismiss)
        })
        .build()?;
    let listener = tokio::net::TcpListener::bind(&listen)
        .await
        .unwrap_or_else(|error| flags::fail(&format!("cannot listen on {listen}: {error}")));
    println!("chat on http://{}", listener.local_addr()?);
    let serving = gateway.clone();
    let mut serving = tokio::spawn(async move { serving.serve(listener).await });
    tokio::select! {
        ended = &mut serving => ended??,
        _ = tokio::signal::ctrl_c() => {
            gateway.drain().await;
            serving.await??;
        }
    }
    Ok(())
}

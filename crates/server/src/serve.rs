//! Running a node: from settings to listeners, and from a signal to the end.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::http::{HeaderValue, Method, header};
use heartline::config::{AuthMode, RoomsDefault};
use heartline::rustls::pki_types::UnixTime;
use heartline::{Gateway, GatewayBuilder, HttpRequest, HttpResponse};
use heartline_cluster::{Cluster, LineSettings, RedisOnce, Timing};
use serde_json::json;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::admin;
use crate::auth::jwt::{JwtAuthenticator, system_clock};
use crate::config::{Loaded, Settings, StoreUrl};
use crate::dev;
use crate::exit::{Exit, refuse};
use crate::listen::listen;
use crate::out;
use crate::schedule;
use crate::signals::Signals;
use crate::tls::Certificate;
use crate::wallet::{self, SignIn};

/// Whether sockets can be told apart: `serve` refuses to start if not.
pub(crate) fn missing_authentication(settings: &Settings) -> Option<&'static str> {
    let needs_tokens = settings
        .gateway
        .namespaces
        .values()
        .any(|namespace| namespace.auth_mode != AuthMode::Off);
    (needs_tokens && !settings.jwt.is_configured()).then_some(
        "no authentication is configured. Either set auth.jwt.secret, auth.jwt.public_key or \
         auth.jwt.jwks_url, or run `heartline serve --dev` to try it on this machine",
    )
}

/// Looks at the keys and certificates that the configuration names; a warning if they are good
/// for now alone.
///
/// # Errors
/// The exit code; the reason is on standard error.
pub(crate) fn check(settings: &Settings) -> Result<Option<String>, Exit> {
    let bad = |what: String| refuse(Exit::BadConfiguration, what);
    JwtAuthenticator::new(&settings.jwt, system_clock).map_err(bad)?;
    SignIn::new(settings, None).map_err(bad)?;
    #[cfg(feature = "postgres")]
    if let StoreUrl::Postgres(url) = &settings.store {
        let unusable = |what| bad(format!("store.url: {what}"));
        url.check().map_err(unusable)?;
    }
    if let (Some(cert), Some(key)) = (&settings.tls_cert, &settings.tls_key) {
        let certificate = Certificate::load(cert, key).map_err(bad)?;
        return Ok(certificate.warning(UnixTime::now()));
    }
    Ok(None)
}

/// That the folder of `server.client_files` is not there, if so: `serve` refuses to start. Who only
/// reads the configuration may be on another machine.
pub(crate) fn missing_files(settings: &Settings) -> Option<String> {
    let folder = settings.gateway.client_files.as_ref();
    let missing = folder.filter(|folder| !folder.is_dir())?;
    Some(format!(
        "server.client_files must be a folder that is there, not {missing:?}"
    ))
}

/// Runs a node until a signal ends it.
///
/// # Errors
/// The exit code; the reason is on standard error.
pub(crate) fn run(loaded: Loaded, dev: bool) -> Result<(), Exit> {
    let Loaded {
        mut settings,
        mut warnings,
        ..
    } = loaded;
    if dev {
        dev::prepare(&mut settings);
    }
    if let Some(what) = missing_authentication(&settings) {
        return Err(refuse(Exit::BadConfiguration, what));
    }
    warnings.extend(check(&settings)?);
    if let Some(what) = missing_files(&settings) {
        return Err(refuse(Exit::BadConfiguration, what));
    }
    crate::logs::start(&settings);
    crate::logs::note_override(&settings);
    for warning in warnings {
        tracing::warn!("{warning}");
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(
            std::thread::available_parallelism()
                .map_or(2, usize::from)
                .min(4),
        )
        .thread_name("control")
        .enable_all()
        .build()
        .map_err(|error| {
            refuse(
                Exit::Failed,
                format!("the runtime could not be started: {error}"),
            )
        })?;
    let done = runtime.block_on(node(settings, dev));
    // Nothing that still runs is worth waiting for: the drain has done that.
    runtime.shutdown_background();
    done
}

/// How long a drain that has taken all of its time waits for the answers to what the API was asked.
const LAST_ANSWERS: Duration = Duration::from_secs(1);

/// How long a node that starts waits for its cluster.
const FIRST_JOIN: Duration = Duration::from_secs(2);

/// The backplane of a node that is one of many, and the listener for the others.
async fn cluster(settings: &Settings) -> Result<Option<(Cluster, TcpListener)>, Exit> {
    let Some(url) = settings.cluster_url.clone() else {
        return Ok(None);
    };
    let failed = |what: String| refuse(Exit::Failed, what);
    if let [fault, ..] = &heartline_cluster::faults(&url).await[..] {
        return Err(failed(format!("the Redis of cluster.url {fault}")));
    }
    let own = heartline_cluster::own_address(&url).await;
    let own = own.unwrap_or_else(|| std::net::Ipv4Addr::LOCALHOST.into());
    let any_port = SocketAddr::new(own, 0).to_string();
    let address = settings.cluster_listen.as_ref().unwrap_or(&any_port);
    let listener = listen("cluster.listen", address).await?;
    let advertise = match (&settings.cluster_advertise, listener.local_addr()) {
        (Some(address), _) => address.clone(),
        (None, Ok(address)) => told(address, own).to_string(),
        (None, Err(error)) => return Err(failed(error.to_string())),
    };
    let mut tag = [0; 4];
    getrandom::fill(&mut tag).map_err(|error| failed(error.to_string()))?;
    let cluster = Cluster::new(heartline_cluster::Settings {
        url,
        prefix: settings.cluster_prefix.clone(),
        timing: Timing {
            ttl: settings.lease_ttl,
            refresh: settings.lease_refresh,
            grace: settings.gateway.offline_grace,
            failure: settings.failure_timeout,
        },
        node_id: settings.gateway.node_id.clone(),
        tag: u32::from_ne_bytes(tag),
        address: advertise,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        alike: settings.alike.clone(),
        key: settings.cluster_key.clone(),
        key_previous: settings.cluster_key_previous.clone(),
        socketio_adapter: settings.socketio_adapter,
        socketio_key: settings.socketio_key.clone(),
        line: settings
            .gateway
            .kept_for()
            .map(|(window, age)| LineSettings {
                window,
                age,
                events: settings.gateway.recovery.events,
                bytes: settings.gateway.recovery.bytes,
                refuse: settings.gateway.recovery.refuse_unreachable,
                patience: settings.gateway.drain_timeout,
            }),
    });
    let cluster = cluster.map_err(|error| failed(error.to_string()))?;
    Ok(Some((cluster, listener)))
}

/// What other nodes are told of a listener: one that is everywhere is reached by the address
/// by which this node reaches Redis.
fn told(listener: SocketAddr, own: IpAddr) -> SocketAddr {
    match listener.ip().is_unspecified() {
        true => SocketAddr::new(own, listener.port()),
        false => listener,
    }
}

/// Runs a node from its first listener to the end of its drain.
async fn node(settings: Settings, dev: bool) -> Result<(), Exit> {
    let mut signals = Signals::listen()?;
    let settings = Arc::new(settings);
    let started = signals.until_ended(Node::start(&settings, dev)).await;
    let Some(node) = started.transpose()? else {
        tracing::info!("stopped while it started");
        return Ok(());
    };
    if signals.until_ended(joined(&node.gateway)).await.is_none() {
        return signals.drain(&node.gateway).await;
    }
    let status = node.gateway.cluster_status();
    if let Some(what) = status.and_then(|status| status.refused) {
        return Err(refuse(Exit::Failed, what));
    }
    if let Some(keys) = node.tokens.key_set() {
        // Not for long: without its keys the node serves who needs none.
        let tried = tokio::time::timeout(FIRST_JOIN, keys.tried());
        if signals.until_ended(tried).await.is_none() {
            return signals.drain(&node.gateway).await;
        }
    }
    let (drain_asked, mut drain_wanted) = mpsc::channel(1);
    let tokens = node.tokens.clone();
    let gateway = node.gateway.clone();
    let state = admin::State::new(gateway, tokens, node.once, &settings, drain_asked);
    let (ending, ended) = oneshot::channel::<()>();
    // An error: it ends.
    let ended = async { drop(ended.await) };
    let mut administering = tokio::spawn(admin::serve(node.operators, state, ended));
    tokio::select! {
        () = signals.until_told(node.certificate, &mut drain_wanted) => {}
        error = failure(node.serving) => return Err(refuse(Exit::Failed, error)),
    }
    // A drain takes no longer than this.
    let spread = settings.gateway.drain_spread.unwrap_or_default();
    let until = Instant::now() + spread + settings.gateway.drain_timeout + LAST_ANSWERS;
    signals.drain(&node.gateway).await?;
    // The public listener has closed by itself; the operators' stays to the
    // end, so that the drain can be watched. Who has asked by now is answered.
    drop(ending);
    let answered = tokio::time::timeout_at(until, &mut administering);
    match signals.until_ended(answered).await {
        Some(Ok(_)) => {}
        Some(Err(_)) => tracing::warn!("requests to the API are left without an answer"),
        None => return Err(refuse(Exit::Failed, "stopped at once by a second signal")),
    }
    administering.abort();
    Ok(())
}

/// A node whose clients can connect.
struct Node {
    gateway: Gateway,
    tokens: JwtAuthenticator,
    certificate: Option<Arc<Certificate>>,
    /// What is done once over all nodes of its cluster.
    once: Option<RedisOnce>,
    /// Nobody serves it yet: operators see a node that is one of its cluster.
    operators: TcpListener,
    /// What serves the public listener.
    serving: JoinHandle<io::Result<()>>,
}

impl Node {
    /// Opens the listeners, builds the gateway and serves the public listener and
    /// the one for other nodes.
    async fn start(settings: &Arc<Settings>, dev: bool) -> Result<Node, Exit> {
        let failed = |what: String| refuse(Exit::Failed, what);
        if let Err(error) = heartline::raise_descriptor_limit() {
            tracing::warn!(%error, "the limit of file descriptors cannot be raised");
        }
        let public = listen("server.listen", &settings.listen).await?;
        let operators = listen("admin.listen", &settings.admin_listen).await?;
        let (cluster, for_nodes) = cluster(settings).await?.unzip();
        let once = cluster.as_ref().map(|cluster| cluster.once(admin::ONCE));
        let tokens = JwtAuthenticator::new(&settings.jwt, system_clock).map_err(failed)?;
        let gateway = gateway(settings, cluster, tokens.clone(), dev).await?;
        tokio::spawn(keep_clean(gateway.clone(), settings.clone()));
        let fresh = tokens.clone();
        tokio::spawn(async move {
            if let Some(keys) = fresh.key_set() {
                keys.keep_fresh().await;
            }
        });
        let certificate = match (&settings.tls_cert, &settings.tls_key) {
            (Some(cert), Some(key)) => Some(Certificate::load(cert, key).map_err(failed)?),
            _ => None,
        };
        let tls = certificate.as_ref().map(Certificate::server_config);
        let tls = tls.transpose().map_err(failed)?;
        announce(settings, &public, &operators, dev);
        let serving = gateway.clone();
        let serving = tokio::spawn(async move {
            match tls {
                Some(config) => serving.serve_tls(public, config).await,
                None => serving.serve(public).await,
            }
        });
        if let Some(listener) = for_nodes {
            let gateway = gateway.clone();
            tokio::spawn(async move { gateway.serve_nodes(listener).await });
        }
        Ok(Node {
            gateway,
            tokens,
            certificate,
            once,
            operators,
            serving,
        })
    }
}

/// Waits until the public listener cannot be served any more, and says why. One that
/// is closed for a drain is not a failure.
async fn failure(serving: JoinHandle<io::Result<()>>) -> String {
    let error = match serving.await {
        Ok(Ok(())) => std::future::pending().await,
        Ok(Err(error)) => error.to_string(),
        Err(error) => error.to_string(),
    };
    format!("clients cannot be served any more: {error}")
}

/// The same with the store that is wanted; another process may have its file open. Who has not
/// asked for a file, and cannot have the usual one, keeps messages in memory and is told so: a
/// second node in one directory, or one that may not write there, is no mistake.
async fn with_store(builder: GatewayBuilder, store: &StoreUrl) -> Result<GatewayBuilder, Exit> {
    match store {
        StoreUrl::Memory => Ok(builder),
        #[cfg(feature = "postgres")]
        StoreUrl::Postgres(url) => match heartline_store::PostgresStore::open(url).await {
            Ok(store) => Ok(builder.store(store)),
            Err(error) => Err(refuse(Exit::Failed, error)),
        },
        #[cfg(feature = "sqlite")]
        StoreUrl::Sqlite(path) => match heartline_store::SqliteStore::open(path) {
            Ok(store) => Ok(builder.store(store)),
            Err(error) => Err(refuse(Exit::Failed, error)),
        },
        #[cfg(feature = "sqlite")]
        StoreUrl::Usual(path) => match heartline_store::SqliteStore::open(path) {
            Ok(store) => Ok(builder.store(store)),
            Err(error) if error.is_refused() => {
                tracing::warn!(
                    "{error}; so messages are kept in memory, until this node ends: set store.url \
                     to a file of its own, or to memory:"
                );
                Ok(builder)
            }
            Err(error) => Err(refuse(Exit::Failed, error)),
        },
    }
}

/// The gateway that the settings ask for.
async fn gateway(
    settings: &Arc<Settings>,
    cluster: Option<Cluster>,
    authenticator: JwtAuthenticator,
    dev: bool,
) -> Result<Gateway, Exit> {
    let failed = |what: String| refuse(Exit::Failed, what);
    let for_pages = settings.clone();
    let challenges = cluster.as_ref().map(Cluster::challenges);
    let sign_in = SignIn::new(settings, challenges).map_err(failed)?;
    if let Some(sign_in) = sign_in.clone() {
        tokio::spawn(sign_in.keep_small());
    }
    let mut config = settings.gateway.clone();
    config.recovery.stopped = Some(settings.store.stopped());
    let mut builder = Gateway::builder(config);
    if let Some(cluster) = cluster {
        builder = builder.backplane(cluster);
    }
    with_store(builder, &settings.store)
        .await?
        .authenticator(authenticator)
        .http_fallback(move |gateway, request| {
            let (settings, sign_in) = (for_pages.clone(), sign_in.clone());
            async move {
                let is_sign_in =
                    [wallet::CHALLENGE, wallet::CONNECT].contains(&request.uri().path());
                match sign_in.filter(|_| is_sign_in) {
                    Some(sign_in) => sign_in.answer(gateway, request).await,
                    None => page(&settings, &gateway, dev, &request),
                }
            }
        })
        .build()
        .map_err(|error| failed(error.to_string()))
}

/// Removes what has become old, as the settings say.
async fn keep_clean(gateway: Gateway, settings: Arc<Settings>) {
    let (retention, schedule) = (settings.retention, settings.schedule.clone());
    let schedule = heartline::Schedule {
        clock: Box::new(schedule::now),
        next: Box::new(move |after| schedule.next(after)),
    };
    let tasks = Box::new(move |now| retention.cleanings(now));
    gateway.keep_clean(schedule, tasks).await;
}

/// Says where the node listens.
fn announce(settings: &Settings, public: &TcpListener, operators: &TcpListener, dev: bool) {
    let address = |listener: &TcpListener, configured: &String| {
        let bound = listener.local_addr();
        bound.map_or(configured.clone(), |address| address.to_string())
    };
    tracing::info!("{}", what_rooms_are(settings));
    let listen_address = address(public, &settings.listen);
    let admin_address = address(operators, &settings.admin_listen);
    tracing::info!(
        node_id = %settings.gateway.node_id,
        listen = %listen_address,
        admin = %admin_address,
        version = env!("CARGO_PKG_VERSION"),
        "ready"
    );
    if dev {
        let greeting = dev::greeting(settings, &listen_address, &admin_address);
        // Not on this thread: nobody may be reading.
        tokio::task::spawn_blocking(move || drop(out::print(&greeting)));
    }
}

/// What rooms are to those whose tokens say nothing of them.
fn what_rooms_are(settings: &Settings) -> &'static str {
    match settings.gateway.rooms_default {
        RoomsDefault::Open => {
            "rooms.default is open: without a list of rooms a token may join and write to every \
             room that is no conversation and no user's own, and so may who has no token"
        }
        RoomsDefault::Closed => {
            "rooms.default is none: of rooms that are no conversation a token may join those in \
             its list and write to those in its list for that, and its user's own; without a token \
             nobody may do either"
        }
    }
}

/// Waits until the node is one of its cluster, but not for long: without Redis it serves
/// alone.
async fn joined(gateway: &Gateway) {
    let until = tokio::time::Instant::now() + FIRST_JOIN;
    while gateway
        .cluster_status()
        .is_some_and(|status| status.degraded && status.refused.is_none())
    {
        if tokio::time::Instant::now() > until {
            tracing::warn!("the cluster's Redis does not answer yet; this node serves alone");
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// What the public port serves besides Socket.IO and live.
fn page(settings: &Settings, gateway: &Gateway, dev: bool, request: &HttpRequest) -> HttpResponse {
    let is_health = request.uri().path() == "/healthz";
    let answered = match is_health {
        true => Some(health()),
        false if dev => dev::answer(settings, gateway, request),
        false => None,
    };
    let methods = match is_health {
        true => admin::HEALTH_METHODS,
        false => "GET, HEAD",
    };
    let with_methods = |mut response: HttpResponse| {
        let methods = HeaderValue::from_static(methods);
        response.headers_mut().insert(header::ALLOW, methods);
        response
    };
    match (answered, request.method()) {
        (Some(answer), &Method::GET | &Method::HEAD) => answer,
        // HAProxy's way to ask, unless it is told otherwise.
        (Some(answer), &Method::OPTIONS) if is_health => with_methods(answer),
        (Some(_), _) => {
            let what = format!("This path answers {methods}");
            with_methods(refused(405, "Method Not Allowed", &what))
        }
        (None, _) => refused(404, "Not Found", &what_is_here(settings)),
    }
}

/// That the process answers.
fn health() -> HttpResponse {
    dev::respond(200, "application/json", r#"{"status":"ok"}"#.into())
}

/// A refusal of the public port's pages, in its two words and a sentence.
fn refused(status: u16, error: &str, message: &str) -> HttpResponse {
    let body = json!({ "error": error, "message": message });
    dev::respond(status, "application/json", body.to_string())
}

/// For who asked for something else, often by a path with a mistake in it.
fn what_is_here(settings: &Settings) -> String {
    let socketio = &settings.gateway.socketio_path;
    let live = settings.gateway.live_path.as_ref();
    let live = live.map_or(String::new(), |path| format!(", live at {path}"));
    format!(
        "There is nothing at this path: Socket.IO is at {socketio}{live}; the API and metrics are \
         on admin.listen"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_has_to_be_there_where_it_is_served() {
        let missing = |folder: Option<std::path::PathBuf>| {
            let mut settings = Settings::default();
            settings.gateway.client_files = folder;
            missing_files(&settings)
        };
        assert_eq!(missing(None), None);
        assert_eq!(missing(Some(std::env::temp_dir())), None);
        let refused = missing(Some("/nowhere/dist".into())).unwrap_or_default();
        assert!(refused.contains("not \"/nowhere/dist\""), "{refused}");
    }

    #[test]
    fn other_nodes_are_told_an_address_and_not_all_of_them() {
        let own: IpAddr = [10, 0, 0, 7].into();
        for (listener, expected) in [
            ("0.0.0.0:7000", "10.0.0.7:7000"),
            ("[::]:7000", "10.0.0.7:7000"),
            ("192.168.0.1:7000", "192.168.0.1:7000"),
        ] {
            let listener = listener.parse().expect("an address");
            assert_eq!(told(listener, own).to_string(), expected);
        }
    }
}

//! Running a node: from settings to listeners, and from a signal to the end.

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use heartline::config::AuthMode;
use heartline::{Gateway, HttpRequest, HttpResponse};
use heartline_cluster::{Cluster, Timing};
use tokio::net::{TcpListener, TcpSocket};
use tokio::signal::unix::{SignalKind, signal};

use crate::Exit;
use crate::admin;
use crate::auth::jwt::{JwtAuthenticator, system_clock};
use crate::config::Settings;
use crate::dev;
use crate::tls::Certificate;

/// One sentence on standard error, and the code to end with.
fn refuse(exit: Exit, what: impl std::fmt::Display) -> Exit {
    eprintln!("heartline: {what}");
    exit
}

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

/// Looks at the files that the configuration names.
///
/// # Errors
/// The exit code; the reason is on standard error.
pub(crate) fn check(settings: &Settings) -> Result<(), Exit> {
    let bad = |what: String| refuse(Exit::BadConfiguration, what);
    JwtAuthenticator::new(&settings.jwt, system_clock).map_err(bad)?;
    if let (Some(cert), Some(key)) = (&settings.tls_cert, &settings.tls_key) {
        Certificate::load(cert, key).map_err(bad)?;
    }
    Ok(())
}

/// Runs a node until a signal ends it.
///
/// # Errors
/// The exit code; the reason is on standard error.
pub(crate) fn run(mut settings: Settings, dev: bool) -> Result<(), Exit> {
    if dev {
        dev::prepare(&mut settings);
    }
    if let Some(what) = missing_authentication(&settings) {
        return Err(refuse(Exit::BadConfiguration, what));
    }
    check(&settings)?;
    crate::logs::start(&settings);
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

/// How long a node that starts waits for its cluster.
const FIRST_JOIN: Duration = Duration::from_secs(2);

/// Connections that may wait to be accepted; the kernel takes the smaller of this
/// and `net.core.somaxconn`. Everybody comes back at once after an outage.
const BACKLOG: u32 = 65_535;

/// Listens on the first address of `address` that can be listened on.
async fn bind(address: &str) -> std::io::Result<TcpListener> {
    let mut error = std::io::ErrorKind::AddrNotAvailable.into();
    for address in tokio::net::lookup_host(address).await? {
        let socket = match address {
            SocketAddr::V4(_) => TcpSocket::new_v4()?,
            SocketAddr::V6(_) => TcpSocket::new_v6()?,
        };
        // Or a restart would have to wait for what the last run has closed.
        socket.set_reuseaddr(true)?;
        match socket.bind(address).and_then(|()| socket.listen(BACKLOG)) {
            Ok(listener) => return Ok(listener),
            Err(failed) => error = failed,
        }
    }
    Err(error)
}

async fn listen(key: &str, address: &str) -> Result<TcpListener, Exit> {
    bind(address).await.map_err(|error| {
        let advice = match error.kind() {
            std::io::ErrorKind::AddrInUse => {
                format!("another program has it; stop that, or set {key} to another port")
            }
            std::io::ErrorKind::PermissionDenied => {
                format!("ports below 1024 need a privilege; set {key} to a higher one")
            }
            std::io::ErrorKind::AddrNotAvailable => {
                format!("this machine has no such address; set {key} to one it has")
            }
            _ => error.to_string(),
        };
        refuse(
            Exit::Failed,
            format!("cannot listen on {address}: {advice}"),
        )
    })
}

/// The backplane of a node that is one of many, and the listener for the others.
async fn cluster(settings: &Settings) -> Result<Option<(Cluster, TcpListener)>, Exit> {
    let Some(url) = settings.cluster_url.clone() else {
        return Ok(None);
    };
    let failed = |what: String| refuse(Exit::Failed, what);
    let address = match &settings.cluster_listen {
        Some(address) => address.clone(),
        None => {
            let own = heartline_cluster::own_address(&url).await;
            let own = own.unwrap_or_else(|| std::net::Ipv4Addr::LOCALHOST.into());
            SocketAddr::new(own, 0).to_string()
        }
    };
    let listener = listen("cluster.listen", &address).await?;
    let advertise = match (&settings.cluster_advertise, listener.local_addr()) {
        (Some(address), _) => address.clone(),
        (None, Ok(address)) => address.to_string(),
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
        },
        node_id: settings.gateway.node_id.clone(),
        tag: u32::from_ne_bytes(tag),
        address: advertise,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        socketio_adapter: settings.socketio_adapter,
    });
    let cluster = cluster.map_err(|error| failed(error.to_string()))?;
    Ok(Some((cluster, listener)))
}

async fn node(settings: Settings, dev: bool) -> Result<(), Exit> {
    let settings = Arc::new(settings);
    let failed = |what: String| refuse(Exit::Failed, what);
    let public = listen("server.listen", &settings.listen).await?;
    let operators = listen("admin.listen", &settings.admin_listen).await?;
    let authenticator = JwtAuthenticator::new(&settings.jwt, system_clock).map_err(failed)?;
    let handle: Arc<OnceLock<Gateway>> = Arc::default();
    let (for_pages, known) = (settings.clone(), handle.clone());
    let mut builder = Gateway::builder(settings.gateway.clone());
    let mut for_nodes = None;
    if let Some((cluster, listener)) = cluster(&settings).await? {
        builder = builder.backplane(cluster);
        for_nodes = Some(listener);
    }
    let gateway = builder
        .authenticator(authenticator)
        .http_fallback(move |request| {
            let response = page(&for_pages, known.get(), dev, &request);
            Box::pin(std::future::ready(response))
        })
        .build()
        .map_err(|error| failed(error.to_string()))?;
    let _ = handle.set(gateway.clone());

    let certificate = match (&settings.tls_cert, &settings.tls_key) {
        (Some(cert), Some(key)) => Some(Certificate::load(cert, key).map_err(failed)?),
        _ => None,
    };
    let address = public
        .local_addr()
        .map_or(settings.listen.clone(), |address| address.to_string());
    let admin_address = operators
        .local_addr()
        .map_or(settings.admin_listen.clone(), |address| address.to_string());
    tracing::info!(
        node_id = %settings.gateway.node_id,
        listen = %address,
        admin = %admin_address,
        version = env!("CARGO_PKG_VERSION"),
        "ready"
    );
    if dev {
        greet(&settings, &address, &admin_address, certificate.is_some());
    }
    let serving = {
        let gateway = gateway.clone();
        let config = certificate
            .as_ref()
            .map(Certificate::server_config)
            .transpose()
            .map_err(failed)?;
        tokio::spawn(async move {
            match config {
                Some(config) => gateway.serve_tls(public, config).await,
                None => gateway.serve(public).await,
            }
        })
    };
    if let Some(listener) = for_nodes {
        let serving = gateway.clone();
        tokio::spawn(async move { serving.serve_nodes(listener).await });
        joined(&gateway).await;
    }
    let (drain_asked, mut drain_wanted) = tokio::sync::mpsc::channel::<()>(1);
    let state = admin::State::new(gateway.clone(), &settings, drain_asked);
    let administering = tokio::spawn(admin::serve(operators, state));

    let done = until_told(&gateway, certificate, &mut drain_wanted).await;
    // The public listener has closed by itself; the operators' stays to the
    // end, so that the drain can be watched.
    serving.abort();
    administering.abort();
    done
}

/// Waits until the node is one of its cluster, but not for long: without Redis it serves
/// alone.
async fn joined(gateway: &Gateway) {
    let until = tokio::time::Instant::now() + FIRST_JOIN;
    while gateway
        .cluster_status()
        .is_some_and(|status| status.degraded)
    {
        if tokio::time::Instant::now() > until {
            tracing::warn!("the cluster's Redis does not answer yet; this node serves alone");
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Waits for a signal (or the API) and drains; a second signal ends at once.
async fn until_told(
    gateway: &Gateway,
    certificate: Option<Arc<Certificate>>,
    drain_wanted: &mut tokio::sync::mpsc::Receiver<()>,
) -> Result<(), Exit> {
    let signals = || -> std::io::Result<_> {
        Ok((
            signal(SignalKind::terminate())?,
            signal(SignalKind::interrupt())?,
            signal(SignalKind::hangup())?,
        ))
    };
    let (mut terminate, mut interrupt, mut hangup) = signals()
        .map_err(|error| refuse(Exit::Failed, format!("signals cannot be heard: {error}")))?;
    loop {
        tokio::select! {
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            Some(()) = drain_wanted.recv() => break,
            _ = hangup.recv() => match certificate.as_ref().map(|certificate| certificate.reload()) {
                None => tracing::info!("SIGHUP: there are no certificates to read again"),
                Some(Ok(())) => tracing::info!("SIGHUP: certificates were read again"),
                Some(Err(error)) => tracing::error!(%error, "SIGHUP: the old certificates stay in use"),
            },
        }
    }
    tracing::info!(connections = gateway.connection_count(), "draining");
    tokio::select! {
        () = gateway.drain() => {
            tracing::info!("stopped");
            Ok(())
        }
        _ = terminate.recv() => Err(refuse(Exit::Failed, "stopped at once by a second signal")),
        _ = interrupt.recv() => Err(refuse(Exit::Failed, "stopped at once by a second signal")),
    }
}

/// What the public port serves besides Socket.IO and live.
fn page(
    settings: &Settings,
    gateway: Option<&Gateway>,
    dev: bool,
    request: &HttpRequest,
) -> HttpResponse {
    if request.uri().path() == "/healthz" {
        return dev::respond(200, "application/json", r#"{"status":"ok"}"#.into());
    }
    let answered = gateway
        .filter(|_| dev)
        .and_then(|gateway| dev::answer(settings, gateway, request));
    answered.unwrap_or_else(|| dev::respond(404, "text/plain; charset=utf-8", "not found\n".into()))
}

/// What `--dev` prints.
fn greet(settings: &Settings, address: &str, admin_address: &str, tls: bool) {
    let (http, ws) = if tls {
        ("https", "wss")
    } else {
        ("http", "ws")
    };
    let live = settings.gateway.live_path.as_deref().unwrap_or("(off)");
    println!(
        "Heartline {} for development on this machine\n",
        env!("CARGO_PKG_VERSION")
    );
    println!("  demo page   {http}://{address}/");
    println!(
        "  Socket.IO   {http}://{address}  (path {})",
        settings.gateway.socketio_path
    );
    println!("  live        {ws}://{address}{live}");
    println!("  API         http://{admin_address}/v1/connections");
    println!("  metrics     http://{admin_address}/metrics\n");
    match dev::token(&settings.jwt, "alice", None) {
        Ok((token, _)) => println!("  a token for user alice, good for 12 hours:\n  {token}\n"),
        Err(_) => println!("  tokens are verified with your own key; sign one there\n"),
    }
    println!("  Ctrl-C stops it.");
}

//! The configuration once it is understood.

use std::time::Duration;

use heartline::config::NamespaceConfig;
use heartline::store::Retention;
use heartline_cluster::SocketIoAdapter;
use heartline_cluster::seal::Also;

use crate::schedule::Schedule;

/// Where messages are kept.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) enum StoreUrl {
    /// In memory.
    #[default]
    Memory,
    /// In PostgreSQL.
    #[cfg(feature = "postgres")]
    Postgres(Box<heartline_store::PostgresUrl>),
    /// In a file of SQLite.
    #[cfg(feature = "sqlite")]
    Sqlite(std::path::PathBuf),
    /// The same, because nobody has said otherwise: where that file cannot be had, in memory.
    #[cfg(feature = "sqlite")]
    Usual(std::path::PathBuf),
}

/// What a stopped node leaves to the next for clients that come back.
const STOPPED: &str = "heartline.resume";

impl StoreUrl {
    /// Where that is: beside the store's file, or in the working directory.
    pub(crate) fn stopped(&self) -> std::path::PathBuf {
        match self {
            #[cfg(feature = "sqlite")]
            StoreUrl::Sqlite(path) | StoreUrl::Usual(path) => path.with_file_name(STOPPED),
            _ => STOPPED.into(),
        }
    }

    /// Whether it is a file, which one node has alone.
    pub(crate) fn is_file(&self) -> bool {
        match self {
            #[cfg(feature = "sqlite")]
            StoreUrl::Sqlite(_) | StoreUrl::Usual(_) => true,
            _ => false,
        }
    }

    /// What is meant where nobody has set it.
    pub(crate) fn unset(self) -> Self {
        match self {
            #[cfg(feature = "sqlite")]
            StoreUrl::Sqlite(path) => StoreUrl::Usual(path),
            other => other,
        }
    }
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum LogFormat {
    #[default]
    Text,
    Json,
}

/// Everything a node is told.
#[derive(Clone, Default)]
pub(crate) struct Settings {
    /// What the gateway itself needs.
    pub(crate) gateway: heartline::Config,
    /// What namespaces have that say nothing else.
    pub(crate) namespace: NamespaceConfig,
    pub(crate) listen: String,
    pub(crate) admin_listen: String,
    pub(crate) admin_token: Option<String>,
    pub(crate) tls_cert: Option<String>,
    pub(crate) tls_key: Option<String>,
    pub(crate) jwt: JwtSettings,
    pub(crate) wallet: WalletSettings,
    pub(crate) store: StoreUrl,
    pub(crate) retention: Retention,
    /// When it is done.
    pub(crate) schedule: Schedule,
    pub(crate) cluster_url: Option<String>,
    pub(crate) cluster_prefix: String,
    pub(crate) cluster_key: Option<String>,
    pub(crate) cluster_key_previous: Option<Also>,
    pub(crate) socketio_adapter: SocketIoAdapter,
    pub(crate) socketio_key: String,
    pub(crate) cluster_listen: Option<String>,
    pub(crate) cluster_advertise: Option<String>,
    /// Settings that all nodes of a cluster should have alike, by their keys.
    pub(crate) alike: Vec<(String, String)>,
    pub(crate) lease_ttl: Duration,
    pub(crate) lease_refresh: Duration,
    pub(crate) failure_timeout: Option<Duration>,
    pub(crate) log_format: LogFormat,
    pub(crate) log_level: String,
    pub(crate) demo_page: bool,
    /// The secret is of this run of `--dev` alone.
    pub(crate) secret_of_the_run: bool,
}

/// How tokens are verified.
#[derive(Clone, Default)]
pub(crate) struct JwtSettings {
    pub(crate) secret: Option<String>,
    pub(crate) public_key: Option<String>,
    pub(crate) jwks_url: Option<String>,
    /// The private key of the tokens that wallets get.
    pub(crate) wallet_key: Option<String>,
    pub(crate) issuer: Option<String>,
    pub(crate) audience: Option<String>,
    pub(crate) leeway: Duration,
    pub(crate) claims: ClaimNames,
}

impl std::fmt::Debug for JwtSettings {
    /// Without key material.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("JwtSettings")
            .field("has_secret", &self.secret.is_some())
            .field("has_public_key", &self.public_key.is_some())
            .field("jwks_url", &self.jwks_url)
            .field("has_wallet_key", &self.wallet_key.is_some())
            .finish_non_exhaustive()
    }
}

impl JwtSettings {
    /// Whether this node can sign tokens that it believes.
    pub(crate) fn signs(&self) -> bool {
        self.secret.is_some() || self.wallet_key.is_some()
    }

    /// Whether any way to verify a token is configured.
    pub(crate) fn is_configured(&self) -> bool {
        self.signs() || self.public_key.is_some() || self.jwks_url.is_some()
    }
}

/// Sign-in with a wallet.
#[derive(Debug, Clone, Default)]
pub(crate) struct WalletSettings {
    pub(crate) enabled: bool,
    /// Where people sign in, as the text names it that they sign: a host, with a port perhaps.
    pub(crate) domain: String,
    /// How long a challenge is good.
    pub(crate) ttl: Duration,
    /// How long a token is good.
    pub(crate) token_ttl: Duration,
    pub(crate) user_type: Option<String>,
}

/// Which claim carries what.
#[derive(Debug, Clone, Default)]
pub(crate) struct ClaimNames {
    pub(crate) user: String,
    pub(crate) user_type: String,
    pub(crate) tenant: String,
    pub(crate) device: String,
    pub(crate) wallet: String,
    pub(crate) rooms: String,
    pub(crate) publish: String,
}

//! Which server the URL names, and connections to it.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use redis::aio::{ConnectionLike, MultiplexedConnection};
use redis::cluster::ClusterClient;
use redis::cluster_async::ClusterConnection;
use redis::sentinel::{SentinelClient, SentinelClientBuilder, SentinelServerType};
use redis::{
    AsyncConnectionConfig, Client, Cmd, ConnectionAddr, ConnectionInfo, FromRedisValue,
    IntoConnectionInfo, Pipeline, ProtocolVersion, PushInfo, RedisConnectionInfo, RedisError,
    RedisFuture, RedisResult, Value,
};

use super::sentinels::Sentinels;
use crate::locked::locked;

/// How long a connection may take to be established.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// How long any answer may take, unless the caller waits for less.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// A URL that names no server. Its text never repeats the URL, which may hold a
/// password.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadUrl(String);

impl fmt::Display for BadUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}; expected redis://[USER:PASSWORD@]HOST:PORT[/DB], \
             redis+sentinel://HOST:PORT,HOST:PORT/MASTER[/DB] or \
             redis+cluster://HOST:PORT,HOST:PORT, with rediss for TLS",
            self.0
        )
    }
}

impl std::error::Error for BadUrl {}

/// A Redis or Valkey: one server, one behind Sentinels, or a Cluster.
pub struct Server(Target);

/// A kind of server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// One Redis, or its replica.
    Alone,
    /// One that says where another is.
    Sentinel,
    /// One of a Redis Cluster.
    Cluster,
}

enum Target {
    Single(Box<ConnectionInfo>),
    Sentinel(Arc<Sentinels>),
    Cluster(Vec<ConnectionInfo>),
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            Target::Single(_) => "Server(single)",
            Target::Sentinel(_) => "Server(sentinel)",
            Target::Cluster(_) => "Server(cluster)",
        })
    }
}

/// How often a command is tried on a Redis Cluster by the crate that speaks with it, which does so
/// too where it may have been done already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tries {
    /// Once: whoever sends it looks after the rest.
    One = 0,
    /// Twice more.
    Many = 2,
}

/// What pushed messages are given to; it must not block.
pub type Pushed = Arc<dyn Fn(PushInfo) + Send + Sync>;

/// A URL in parts, as far as all kinds have the same.
struct Url<'a> {
    /// `redis`, `valkey`, or one of them with an `s` for TLS.
    family: &'a str,
    /// Nothing, `cluster` or `sentinel`.
    kind: &'a str,
    /// Nothing, or `USER:PASSWORD@`.
    credentials: &'a str,
    /// Hosts, and what comes behind them.
    place: &'a str,
}

fn bad(what: &str) -> BadUrl {
    BadUrl(what.to_owned())
}

impl<'a> Url<'a> {
    fn parse(url: &'a str) -> Result<Url<'a>, BadUrl> {
        let (scheme, rest) = url.split_once("://").ok_or_else(|| bad("no URL"))?;
        let (family, kind) = scheme.split_once('+').unwrap_or((scheme, ""));
        if !matches!(family, "redis" | "rediss" | "valkey" | "valkeys") {
            return Err(bad("unknown scheme"));
        }
        // An @ behind the authority is none before a host (RFC 3986 §3.2).
        let authority = &rest[..rest.find(['/', '?', '#']).unwrap_or(rest.len())];
        let (credentials, place) = rest.split_at(authority.rfind('@').map_or(0, |at| at + 1));
        let query = place.split_once('?').map(|(_, query)| query);
        let is_known = |pair: &str| pair.starts_with("protocol=");
        if query.is_some_and(|query| !query.split('&').all(is_known)) || place.contains('#') {
            // It would be dropped without a word, be it a password.
            return Err(bad(
                "a ? or #, and what comes behind it, has no meaning there (in a password they are \
                 written %3F and %23)",
            ));
        }
        Ok(Url {
            family,
            kind,
            credentials,
            place,
        })
    }

    fn is_secure(&self) -> bool {
        matches!(self.family, "rediss" | "valkeys")
    }

    /// One server of those that the URL names; `path` is a slash and a database, or
    /// nothing.
    fn server(&self, host: &str, path: &str) -> Result<ConnectionInfo, BadUrl> {
        let Url {
            family,
            credentials,
            ..
        } = self;
        let url = format!("{family}://{credentials}{host}{path}");
        let info = url.into_connection_info();
        // The crate's own words may repeat what is in the URL.
        let info = info.map_err(|_| bad("no host, port or database that could be understood"))?;
        let redis = info.redis_settings().clone();
        if redis.db() < 0 {
            return Err(bad("no database that there can be"));
        }
        Ok(info.set_redis_settings(redis.set_protocol(ProtocolVersion::RESP3)))
    }

    /// `HOST:PORT[/DB]`.
    fn single(&self) -> Result<Target, BadUrl> {
        if self.place.split('/').next().is_none_or(str::is_empty) {
            return Err(bad("no host"));
        }
        Ok(Target::Single(Box::new(self.server(self.place, "")?)))
    }

    /// `HOST:PORT,HOST:PORT`.
    fn cluster(&self) -> Result<Target, BadUrl> {
        let (hosts, path) = self.place.split_once('/').unwrap_or((self.place, ""));
        if !matches!(path, "" | "0") {
            return Err(bad("a Redis Cluster has only database 0"));
        }
        Ok(Target::Cluster(self.servers(hosts)?))
    }

    /// `HOST:PORT,HOST:PORT/MASTER[/DB]`.
    fn sentinel(&self) -> Result<Target, BadUrl> {
        let (hosts, path) = self.place.split_once('/').unwrap_or((self.place, ""));
        let (master, db) = path.split_once('/').unwrap_or((path, "0"));
        if master.is_empty() {
            return Err(bad("no master's name"));
        }
        let sentinels = self.servers(hosts)?;
        let database = self.server("unused", &format!("/{db}"))?;
        let client = self.sentinel_client(&sentinels, master, database.redis_settings());
        let client = client.map_err(|_| bad("no Sentinels"))?;
        // They have passwords of their own, if any: the URL's is the master's.
        let open = RedisConnectionInfo::default().set_protocol(ProtocolVersion::RESP3);
        let each = sentinels.into_iter();
        let each = each
            .map(|one| one.set_redis_settings(open.clone()))
            .collect();
        let sentinels = Sentinels::new(client, each, master, database);
        Ok(Target::Sentinel(Arc::new(sentinels)))
    }

    fn servers(&self, hosts: &str) -> Result<Vec<ConnectionInfo>, BadUrl> {
        hosts.split(',').map(|host| self.server(host, "")).collect()
    }

    /// A client that asks the Sentinels for the master, and connects there with
    /// `settings`.
    fn sentinel_client(
        &self,
        sentinels: &[ConnectionInfo],
        master: &str,
        settings: &RedisConnectionInfo,
    ) -> RedisResult<SentinelClient> {
        let addresses: Vec<_> = sentinels.iter().map(|node| node.addr().clone()).collect();
        let mut builder =
            SentinelClientBuilder::new(addresses, master, SentinelServerType::Master)?
                .set_client_to_redis_db(settings.db())
                .set_client_to_redis_protocol(ProtocolVersion::RESP3);
        if self.is_secure() {
            builder = builder
                .set_client_to_redis_tls_mode(redis::TlsMode::Secure)
                .set_client_to_sentinel_tls_mode(redis::TlsMode::Secure);
        }
        if let Some(user) = settings.username() {
            builder = builder.set_client_to_redis_username(user);
        }
        if let Some(password) = settings.password() {
            builder = builder.set_client_to_redis_password(password);
        }
        builder.build()
    }
}

impl Server {
    /// Reads a URL, connects to nothing.
    ///
    /// # Errors
    /// When it names no server.
    pub fn parse(url: &str) -> Result<Server, BadUrl> {
        let url = Url::parse(url)?;
        let target = match url.kind {
            "" => url.single(),
            "cluster" => url.cluster(),
            "sentinel" => url.sentinel(),
            _ => Err(bad("unknown scheme")),
        };
        target.map(Server)
    }

    /// Whether it is a Redis Cluster.
    pub fn is_cluster(&self) -> bool {
        matches!(self.0, Target::Cluster(_))
    }

    /// Its Sentinels.
    #[cfg(test)]
    pub(super) fn sentinels(&self) -> &Sentinels {
        match &self.0 {
            Target::Sentinel(sentinels) => sentinels,
            Target::Single(_) | Target::Cluster(_) => panic!("it has some"),
        }
    }

    /// How often its Sentinels have named another master.
    pub(super) fn term(&self) -> u64 {
        match &self.0 {
            Target::Sentinel(sentinels) => sentinels.term(),
            Target::Single(_) | Target::Cluster(_) => 0,
        }
    }

    /// Resolves when its Sentinels have named another master than in that term: what was opened
    /// then is of no use any more, however well it answers.
    pub(super) fn moves_from(&self, term: u64) -> impl Future<Output = ()> + Send + use<> {
        let sentinels = match &self.0 {
            Target::Sentinel(sentinels) => Some(sentinels.clone()),
            Target::Single(_) | Target::Cluster(_) => None,
        };
        async move {
            match sentinels {
                Some(sentinels) => sentinels.moves_from(term).await,
                None => std::future::pending().await,
            }
        }
    }

    /// Listens to its Sentinels, if it has any, until it is dropped.
    pub(crate) async fn follow(&self) {
        if let Target::Sentinel(sentinels) = &self.0 {
            sentinels.clone().follow().await;
        }
    }

    /// Where it is, for one to find out by which of its own addresses it is reached.
    pub fn some_address(&self) -> Option<(String, u16)> {
        let info = match &self.0 {
            Target::Single(info) => &**info,
            Target::Cluster(nodes) => nodes.first()?,
            Target::Sentinel(sentinels) => sentinels.first()?,
        };
        place_of(info.addr()).map(|(host, port)| (host.to_owned(), port))
    }

    /// Where the server is that is written to: of Sentinels, the master that they have named.
    pub fn master(&self) -> Option<(String, u16)> {
        match &self.0 {
            Target::Sentinel(sentinels) => {
                let address = sentinels.address()?;
                place_of(&address).map(|(host, port)| (host.to_owned(), port))
            }
            Target::Single(_) | Target::Cluster(_) => self.some_address(),
        }
    }

    /// The kind of server that the URL says.
    pub(super) fn kind(&self) -> Kind {
        match &self.0 {
            Target::Single(_) => Kind::Alone,
            Target::Sentinel(_) => Kind::Sentinel,
            Target::Cluster(_) => Kind::Cluster,
        }
    }

    /// What the first server that the URL names says of itself, whatever kind it is: the section
    /// `server` of its `INFO`. It is asked with the name and password of the URL, and then without:
    /// Sentinels mostly have none.
    ///
    /// # Errors
    /// When it does not answer, or lets nobody in.
    pub(super) async fn info_of_first(&self, answer_timeout: Duration) -> RedisResult<String> {
        let first = match &self.0 {
            Target::Single(info) => Some(&**info),
            Target::Sentinel(sentinels) => sentinels.first(),
            Target::Cluster(nodes) => nodes.first(),
        };
        let Some(first) = first else {
            return Err((redis::ErrorKind::InvalidClientConfig, "no server").into());
        };
        let known = first.redis_settings();
        let mut named = RedisConnectionInfo::default();
        if let Some(user) = known.username() {
            named = named.set_username(user);
        }
        if let Some(password) = known.password() {
            named = named.set_password(password);
        }
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECT_TIMEOUT))
            .set_response_timeout(Some(answer_timeout));
        let ask = async |settings: RedisConnectionInfo| {
            let client = Client::open(first.clone().set_redis_settings(settings))?;
            let opened = client.get_multiplexed_async_connection_with_config(&config);
            let mut connection = opened.await?;
            let mut info = redis::cmd("INFO");
            info.arg("server").query_async(&mut connection).await
        };
        match ask(named).await {
            Ok(info) => Ok(info),
            Err(_) => ask(RedisConnectionInfo::default()).await,
        }
    }

    /// A new connection, by which can be written. `answer_timeout`: how long answers may take;
    /// `None` for commands that wait at the server.
    ///
    /// # Errors
    /// When there is no server, it does not let this one in, or it is a replica.
    pub async fn open(
        &self,
        answer_timeout: Option<Duration>,
        pushed: Option<Pushed>,
    ) -> RedisResult<Connection> {
        let mut connection = self.connect(answer_timeout, pushed, Tries::Many).await?;
        refuse_replica(&mut connection).await?;
        Ok(connection)
    }

    /// A new connection to whatever is there, a replica as well.
    ///
    /// # Errors
    /// When there is no server, or it does not let this one in.
    pub(crate) async fn open_any(&self, answer_timeout: Duration) -> RedisResult<Connection> {
        self.connect(Some(answer_timeout), None, Tries::One).await
    }

    /// A new connection. `answer_timeout`: how long answers may take; `None` for commands
    /// that wait at the server.
    ///
    /// # Errors
    /// When there is no server, or it does not let this one in.
    pub(super) async fn connect(
        &self,
        answer_timeout: Option<Duration>,
        pushed: Option<Pushed>,
        tries: Tries,
    ) -> RedisResult<Connection> {
        let mut config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECT_TIMEOUT))
            .set_response_timeout(answer_timeout);
        let push = pushed.map(|pushed| {
            move |info: PushInfo| -> Result<(), ()> {
                pushed(info);
                Ok(())
            }
        });
        if let (Some(push), false) = (push.clone(), self.is_cluster()) {
            config = config.set_push_sender(push);
        }
        match &self.0 {
            Target::Single(info) => {
                let client = Client::open((**info).clone())?;
                let connection = client.get_multiplexed_async_connection_with_config(&config);
                Ok(Connection::Single(connection.await?))
            }
            Target::Sentinel(sentinels) => {
                Ok(Connection::Single(sentinels.connect(&config).await?))
            }
            Target::Cluster(nodes) => {
                let mut builder = ClusterClient::builder(nodes.clone())
                    .use_protocol(ProtocolVersion::RESP3)
                    .connection_timeout(CONNECT_TIMEOUT)
                    .retries(tries as u32);
                if let Some(timeout) = answer_timeout {
                    builder = builder.response_timeout(timeout);
                }
                if let Some(push) = push {
                    builder = builder.push_sender(push);
                }
                let connection = builder.build()?.get_async_connection().await?;
                Ok(Connection::Cluster(connection))
            }
        }
    }
}

/// Host and port of an address that has them.
pub(super) fn place_of(address: &ConnectionAddr) -> Option<(&str, u16)> {
    match address {
        ConnectionAddr::Tcp(host, port) | ConnectionAddr::TcpTls { host, port, .. } => {
            Some((host, *port))
        }
        _ => None,
    }
}

/// Asks whether the other side is there, and takes publications and writes: a master that was
/// demoted goes on answering. Of a Cluster, commands find the master by themselves.
///
/// # Errors
/// When it does not answer, or is a replica.
pub(super) async fn refuse_replica(connection: &mut Connection) -> RedisResult<()> {
    match connection {
        Connection::Single(connection) => refuse_replica_on(connection).await,
        Connection::Cluster(connection) => redis::cmd("PING").query_async(connection).await,
    }
}

/// The same of one server.
///
/// # Errors
/// When it does not answer, or is a replica.
pub(super) async fn refuse_replica_on(connection: &mut MultiplexedConnection) -> RedisResult<()> {
    match redis::cmd("ROLE").query_async::<Value>(connection).await {
        Ok(Value::Array(role)) if matches!(role.first(), Some(Value::BulkString(name)) if name == b"slave") => {
            Err((redis::ErrorKind::Io, "it is a replica").into())
        }
        // Who may not ask is not kept out.
        Err(error) if error.code() == Some("NOPERM") => Ok(()),
        answer => answer.map(|_| ()),
    }
}

/// A connection that many may use at once.
#[derive(Clone)]
pub enum Connection {
    /// To one server.
    Single(MultiplexedConnection),
    /// To all of a Redis Cluster.
    Cluster(ClusterConnection),
}

impl ConnectionLike for Connection {
    fn req_packed_command<'a>(&'a mut self, command: &'a Cmd) -> RedisFuture<'a, Value> {
        match self {
            Connection::Single(connection) => connection.req_packed_command(command),
            Connection::Cluster(connection) => connection.req_packed_command(command),
        }
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        pipeline: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        match self {
            Connection::Single(connection) => {
                connection.req_packed_commands(pipeline, offset, count)
            }
            Connection::Cluster(connection) => {
                connection.req_packed_commands(pipeline, offset, count)
            }
        }
    }

    fn get_db(&self) -> i64 {
        match self {
            Connection::Single(connection) => connection.get_db(),
            Connection::Cluster(connection) => connection.get_db(),
        }
    }
}

/// A connection in use.
#[derive(Clone)]
struct Current {
    number: u64,
    /// The server's term when it was opened.
    term: u64,
    connection: Connection,
}

/// Commands over one connection, which is opened when it is needed and given up at
/// the first doubt: an error, or a caller that did not wait for the answer.
pub struct Commands {
    server: Arc<Server>,
    tries: Tries,
    answer_timeout: Option<Duration>,
    current: Mutex<Option<Current>>,
    opening: tokio::sync::Mutex<()>,
    number: AtomicU64,
}

/// Gives a connection up unless it has proved good.
struct Doubt<'a> {
    commands: &'a Commands,
    number: u64,
}

impl Doubt<'_> {
    fn unless(self, error: Option<&RedisError>) {
        if error.is_none_or(is_harmless) {
            std::mem::forget(self);
        }
    }
}

impl Drop for Doubt<'_> {
    fn drop(&mut self) {
        let mut current = self.commands.current();
        if current
            .as_ref()
            .is_some_and(|current| current.number == self.number)
        {
            *current = None;
        }
    }
}

impl Commands {
    /// Nothing is opened yet.
    pub fn new(server: Arc<Server>) -> Commands {
        Commands {
            server,
            tries: Tries::Many,
            answer_timeout: Some(ANSWER_TIMEOUT),
            current: Mutex::default(),
            opening: tokio::sync::Mutex::default(),
            number: AtomicU64::new(0),
        }
    }

    /// The same for commands that must not be done twice.
    pub fn once(server: Arc<Server>) -> Commands {
        Commands {
            tries: Tries::One,
            ..Commands::new(server)
        }
    }

    /// The same for commands that wait at the server.
    pub fn that_wait(server: Arc<Server>) -> Commands {
        Commands {
            answer_timeout: None,
            ..Commands::new(server)
        }
    }

    /// The connection is of no use any more: the next command has a new one.
    pub(super) fn give_up(&self) {
        *self.current() = None;
    }

    /// The connection, unless it is to a master that was.
    fn current(&self) -> MutexGuard<'_, Option<Current>> {
        let mut current = locked(&self.current);
        let term = self.server.term();
        current.take_if(|current| current.term != term);
        current
    }

    /// Opens the connection, if there is none.
    ///
    /// # Errors
    /// When there is no server, or it does not let this one in.
    pub(super) async fn reach(&self) -> RedisResult<()> {
        self.connection().await.map(drop)
    }

    async fn connection(&self) -> RedisResult<Current> {
        if let Some(current) = self.current().clone() {
            return Ok(current);
        }
        let _one_at_a_time = self.opening.lock().await;
        if let Some(current) = self.current().clone() {
            return Ok(current);
        }
        let opened = self.open().await?;
        *self.current() = Some(opened.clone());
        Ok(opened)
    }

    /// A new connection. It is begun anew when another server becomes the master meanwhile, since
    /// it may be to either: each time takes another failover.
    async fn open(&self) -> RedisResult<Current> {
        loop {
            let term = self.server.term();
            let opening = async {
                let opened = self.server.connect(self.answer_timeout, None, self.tries);
                let mut connection = opened.await?;
                refuse_replica(&mut connection).await?;
                Ok(connection)
            };
            let opened: RedisResult<Connection> = tokio::select! {
                biased;
                () = self.server.moves_from(term) => continue,
                opened = opening => opened,
            };
            return opened.map(|connection| Current {
                number: self.number.fetch_add(1, Ordering::Relaxed),
                term,
                connection,
            });
        }
    }

    /// What `answer` gives, unless another server becomes the master meanwhile: what an earlier
    /// one says then is worth nothing.
    async fn unless_moved<T>(
        &self,
        term: u64,
        answer: impl Future<Output = RedisResult<T>>,
    ) -> RedisResult<T> {
        tokio::select! {
            biased;
            () = self.server.moves_from(term) => {
                Err((redis::ErrorKind::Io, "another server became the master").into())
            }
            answer = answer => answer,
        }
    }

    /// Runs a command.
    ///
    /// # Errors
    /// When it failed, or nobody knows.
    pub async fn query<T: FromRedisValue>(&self, command: &Cmd) -> RedisResult<T> {
        let result = self.query_once(command).await;
        match &result {
            // It was not begun, and a new connection knows where the slot is.
            Err(error) if was_elsewhere(error) => self.query_once(command).await,
            _ => result,
        }
    }

    async fn query_once<T: FromRedisValue>(&self, command: &Cmd) -> RedisResult<T> {
        let Current {
            number,
            term,
            mut connection,
        } = self.connection().await?;
        let doubt = Doubt {
            commands: self,
            number,
        };
        let answer = command.query_async(&mut connection);
        let result = self.unless_moved(term, answer).await;
        doubt.unless(result.as_ref().err());
        result
    }

    /// Runs commands in one write; their answers.
    ///
    /// # Errors
    /// When one failed, or nobody knows.
    pub async fn pipeline(&self, commands: Vec<Cmd>) -> RedisResult<Vec<Value>> {
        let mut pipeline = Pipeline::with_capacity(commands.len());
        for command in commands {
            pipeline.add_command(command);
        }
        let Current {
            number,
            term,
            mut connection,
        } = self.connection().await?;
        let doubt = Doubt {
            commands: self,
            number,
        };
        let answer = pipeline.query_async(&mut connection);
        let result = self.unless_moved(term, answer).await;
        doubt.unless(result.as_ref().err());
        result
    }
}

/// Whether the connection is as good as before.
fn is_harmless(error: &RedisError) -> bool {
    is_unknown_script(error) || is_not_understood(error)
}

/// Whether the server could not read a script: then it has not begun it.
pub(super) fn is_not_understood(error: &RedisError) -> bool {
    let what = error.detail().unwrap_or_default();
    error.code() == Some("ERR") && what.starts_with("Error compiling script")
}

/// Whether one of a Cluster has said that another has the slot.
fn was_elsewhere(error: &RedisError) -> bool {
    error.kind() == redis::ErrorKind::Server(redis::ServerErrorKind::Moved)
}

/// Whether the server does not know the script (any more).
pub(super) fn is_unknown_script(error: &RedisError) -> bool {
    error.kind() == redis::ErrorKind::Server(redis::ServerErrorKind::NoScript)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_name_servers() {
        for (url, cluster) in [
            ("redis://127.0.0.1:6379", false),
            ("redis://localhost", false),
            ("rediss://user:p%40ss@redis.example:6380/3", false),
            ("valkey://[::1]:6379/0", false),
            ("redis+cluster://a:1,b:2,c:3", true),
            ("rediss+cluster://:secret@a:1,b:2/0", true),
            ("redis+sentinel://a:26379,b:26379/main", false),
            ("redis+sentinel://u:p@a:26379/main/2", false),
        ] {
            let server = Server::parse(url).unwrap_or_else(|error| panic!("{url}: {error}"));
            assert_eq!(server.is_cluster(), cluster, "{url}");
        }
    }

    #[test]
    fn other_urls_are_refused_without_repeating_them() {
        for url in [
            "",
            "localhost:6379",
            "http://a",
            "redis://",
            "redis://:hunter2@a/x",
            "redis://a/-1",
            "redis://a?password=hunter2",
            "redis://a:1?password=hunter2@x",
            "redis://a?protocol=resp3&password=hunter2",
            "redis://a#hunter2",
            "redis://u:hunter2#x@a",
            "redis+sentinel://a:1/m?sentinel_password=hunter2",
            "redis+cluster://a:1,b:2?password=hunter2",
            "redis+sentinel://a:1",
            "redis+cluster://a:1/4",
            "redis+ring://hunter2@a",
        ] {
            let error = Server::parse(url).expect_err(url).to_string();
            assert!(!error.contains("hunter2"), "{error}");
            assert!(error.contains("redis+sentinel://"), "{error}");
        }
    }
}

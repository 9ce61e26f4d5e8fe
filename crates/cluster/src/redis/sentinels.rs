//! Which server is the master, as Sentinels say it.
//!
//! A master that stood still for a while does not know that another took its place: it goes on
//! answering, and what it is told is lost. Only Sentinels know (<https://redis.io/docs/latest/develop/reference/sentinel-clients/>).
//! So each of them is listened to, and whatever was opened to an earlier master ends at once.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::sentinel::SentinelClient;
use redis::{
    AsyncConnectionConfig, Client, ConnectionAddr, ConnectionInfo, PushInfo, PushKind, RedisResult,
};
use tokio::sync::{Notify, watch};

use super::server::refuse_replica_on;
use crate::locked::locked;

/// How often a Sentinel is asked who is the master, should its word be lost on its way.
const INTERVAL: Duration = Duration::from_secs(1);
/// How long a Sentinel may take for its answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);
/// The pause before a Sentinel is looked for again.
const PAUSE: Duration = Duration::from_secs(1);

/// The master that Sentinels have named.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Master {
    /// Counts failovers: of two that are named, the one with more is right.
    epoch: u64,
    host: String,
    port: u16,
}

/// The Sentinels of one master.
pub(super) struct Sentinels {
    client: tokio::sync::Mutex<SentinelClient>,
    /// How each of them is reached.
    each: Vec<ConnectionInfo>,
    name: String,
    /// How the master is reached, but for its address.
    way: ConnectionInfo,
    known: Mutex<Option<Master>>,
    /// Each of them is listened to.
    is_followed: AtomicBool,
    /// A master was found by other means before one was named.
    is_found: AtomicBool,
    /// How often another was named.
    term: watch::Sender<u64>,
}

impl Sentinels {
    /// Those of the master `name`; its connections are like `way`, but for the address.
    pub(super) fn new(
        client: SentinelClient,
        each: Vec<ConnectionInfo>,
        name: &str,
        way: ConnectionInfo,
    ) -> Sentinels {
        Sentinels {
            client: client.into(),
            each,
            name: name.to_owned(),
            way,
            known: Mutex::default(),
            is_followed: AtomicBool::new(false),
            is_found: AtomicBool::new(false),
            term: watch::Sender::new(0),
        }
    }

    /// The first of them.
    pub(super) fn first(&self) -> Option<&ConnectionInfo> {
        self.each.first()
    }

    /// How often another master was named so far.
    pub(super) fn term(&self) -> u64 {
        *self.term.borrow()
    }

    /// Resolves when another master was named than in that term.
    pub(super) async fn moves_from(&self, term: u64) {
        // The sender lives as long as this does.
        let _ = self.term.subscribe().wait_for(|now| *now != term).await;
    }

    /// A connection to the master: the one that was named last, or whichever is found.
    ///
    /// # Errors
    /// When there is none.
    pub(super) async fn connect(
        &self,
        config: &AsyncConnectionConfig,
    ) -> RedisResult<MultiplexedConnection> {
        if self.address().is_none() || !self.is_followed.load(Ordering::Relaxed) {
            // Before anything is opened: what is named later is compared with it.
            self.ask_any().await;
        }
        if let Some(address) = self.address() {
            let client = Client::open(self.way.clone().set_addr(address))?;
            let opened = client.get_multiplexed_async_connection_with_config(config);
            if let Ok(mut connection) = opened.await
                && refuse_replica_on(&mut connection).await.is_ok()
            {
                return Ok(connection);
            }
        }
        self.is_found.store(true, Ordering::Relaxed);
        let mut client = self.client.lock().await;
        client.get_async_connection_with_config(config).await
    }

    fn address(&self) -> Option<ConnectionAddr> {
        let Master { host, port, .. } = locked(&self.known).clone()?;
        Some(match self.way.addr().clone() {
            ConnectionAddr::TcpTls {
                insecure,
                tls_params,
                ..
            } => ConnectionAddr::TcpTls {
                host,
                port,
                insecure,
                tls_params,
            },
            _ => ConnectionAddr::Tcp(host, port),
        })
    }

    /// A Sentinel names a master. One that has not heard of the last failover is not believed.
    fn named(&self, master: Master) {
        let mut known = locked(&self.known);
        if known
            .as_ref()
            .is_some_and(|known| known.epoch > master.epoch)
        {
            return;
        }
        let is_another = match &*known {
            Some(known) => (&known.host, known.port) != (&master.host, master.port),
            None => self.is_found.load(Ordering::Relaxed),
        };
        let Master { host, port, .. } = &master;
        if is_another {
            tracing::info!(address = %format_args!("{host}:{port}"), "the Sentinels name another master");
        }
        *known = Some(master);
        drop(known);
        if is_another {
            self.term.send_modify(|term| *term += 1);
        }
    }

    /// Opens a connection to one of them; `news` are when it says something by itself.
    async fn open(
        &self,
        sentinel: &ConnectionInfo,
        news: Arc<Notify>,
    ) -> RedisResult<MultiplexedConnection> {
        let pushed = move |push: PushInfo| -> Result<(), ()> {
            if push.kind == PushKind::Message {
                news.notify_one();
            }
            Ok(())
        };
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(ANSWER_TIMEOUT))
            .set_response_timeout(Some(ANSWER_TIMEOUT))
            .set_push_sender(pushed);
        let client = Client::open(sentinel.clone())?;
        let opened = client.get_multiplexed_async_connection_with_config(&config);
        opened.await
    }

    /// Has one of them name the master.
    async fn ask(&self, connection: &mut MultiplexedConnection) -> RedisResult<()> {
        // While a failover is under way, `MASTER` has the new epoch with the old address. So the
        // address is asked for by itself, and is right if it is the same before and after.
        let before = self.ask_address(connection).await?;
        let mut known = redis::cmd("SENTINEL");
        known.arg("MASTER").arg(&self.name);
        let known: HashMap<String, String> = known.query_async(connection).await?;
        let epoch = known
            .get("config-epoch")
            .and_then(|epoch| epoch.parse().ok());
        let address = self.ask_address(connection).await?;
        if let (Some((host, port)), Some(epoch)) =
            (address.filter(|now| before.as_ref() == Some(now)), epoch)
        {
            self.named(Master { epoch, host, port });
        }
        Ok(())
    }

    async fn ask_address(
        &self,
        connection: &mut MultiplexedConnection,
    ) -> RedisResult<Option<(String, u16)>> {
        let mut asked = redis::cmd("SENTINEL");
        asked.arg("GET-MASTER-ADDR-BY-NAME").arg(&self.name);
        asked.query_async(connection).await
    }

    /// Asks one after the other until one has answered.
    async fn ask_any(&self) {
        for sentinel in &self.each {
            let opened = self.open(sentinel, Arc::default()).await;
            if let Ok(mut connection) = opened
                && self.ask(&mut connection).await.is_ok()
            {
                return;
            }
        }
    }

    /// Listens to one of them for as long as it answers.
    async fn listen(&self, sentinel: &ConnectionInfo) -> RedisResult<Infallible> {
        let news = Arc::new(Notify::new());
        let mut connection = self.open(sentinel, news.clone()).await?;
        connection.subscribe("+switch-master").await?;
        loop {
            self.ask(&mut connection).await?;
            let _ = tokio::time::timeout(INTERVAL, news.notified()).await;
        }
    }

    /// Listens to all of them, until it is dropped.
    pub(super) async fn follow(self: Arc<Self>) {
        self.is_followed.store(true, Ordering::Relaxed);
        let mut listening = tokio::task::JoinSet::new();
        for index in 0..self.each.len() {
            let all = self.clone();
            listening.spawn(async move {
                loop {
                    let Err(error) = all.listen(&all.each[index]).await;
                    tracing::debug!(%error, index, "a Sentinel does not answer");
                    tokio::time::sleep(PAUSE).await;
                }
            });
        }
        while listening.join_next().await.is_some() {}
    }
}

#[cfg(test)]
mod tests {
    use redis::IntoConnectionInfo;
    use redis::sentinel::{SentinelClientBuilder, SentinelServerType};

    use super::*;

    fn sentinels() -> Sentinels {
        let sentinel = "redis://127.0.0.1:1".into_connection_info().unwrap();
        let kind = SentinelServerType::Master;
        let builder = SentinelClientBuilder::new([sentinel.addr().clone()], "main", kind).unwrap();
        let client = builder.build().unwrap();
        Sentinels::new(client, vec![sentinel.clone()], "main", sentinel)
    }

    fn master(epoch: u64, port: u16) -> Master {
        Master {
            epoch,
            host: "10.0.0.1".into(),
            port,
        }
    }

    #[test]
    fn a_sentinel_that_has_not_heard_of_a_failover_takes_nobody_back_to_the_old_master() {
        let sentinels = sentinels();
        sentinels.named(master(0, 1));
        assert_eq!(sentinels.term(), 0, "the first one is no other one");
        sentinels.named(master(1, 2));
        assert_eq!(sentinels.term(), 1);
        sentinels.named(master(0, 1));
        sentinels.named(master(1, 2));
        assert_eq!(sentinels.term(), 1);
        // In the middle of a failover the epoch may come with the old address.
        sentinels.named(master(2, 2));
        sentinels.named(master(2, 3));
        assert_eq!(sentinels.term(), 2);
        assert_eq!(
            sentinels.address(),
            Some(ConnectionAddr::Tcp("10.0.0.1".into(), 3))
        );
    }
}

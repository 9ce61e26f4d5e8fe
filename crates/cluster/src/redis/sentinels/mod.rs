//! Which server is the master, as Sentinels say it.
//!
//! A master that stood still for a while does not know that another took its place: it goes on
//! answering, and what it is told is lost. Only Sentinels know (<https://redis.io/docs/latest/develop/reference/sentinel-clients/>).
//! So each of them is listened to, and whatever was opened to an earlier master ends at once. Those
//! that the URL names are looked for again and again, by their names; they tell of others, which
//! may be all that is left of them one day.

mod named;

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use redis::aio::MultiplexedConnection;
use redis::sentinel::SentinelClient;
use redis::{
    AsyncConnectionConfig, Client, ConnectionAddr, ConnectionInfo, PushInfo, PushKind, RedisResult,
};
use tokio::sync::{Notify, watch};

use self::named::{MAX_LEARNED, Master, Named, PACE, Told};
use super::server::{place_of, refuse_replica_on};
use crate::locked::locked;

/// How often a Sentinel is asked who is the master, should its word be lost on its way.
const INTERVAL: Duration = Duration::from_secs(1);
/// How long a Sentinel may take for its answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);
/// The pause before a Sentinel is looked for again.
const PAUSE: Duration = Duration::from_secs(1);

/// The Sentinels of one master.
pub(super) struct Sentinels {
    client: tokio::sync::Mutex<SentinelClient>,
    /// How each of them is reached.
    each: Vec<ConnectionInfo>,
    name: String,
    /// How the master is reached, but for its address.
    way: ConnectionInfo,
    known: Mutex<Named>,
    /// Each of them is listened to.
    is_followed: AtomicBool,
    /// How often another was named.
    term: watch::Sender<u64>,
    /// How often others were told of.
    learned: watch::Sender<u64>,
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
            known: Mutex::new(Named::new(PACE)),
            is_followed: AtomicBool::new(false),
            term: watch::Sender::new(0),
            learned: watch::Sender::new(0),
        }
    }

    /// Has all of it go faster than anybody wants it.
    #[cfg(test)]
    pub(super) fn hurry(&self) {
        locked(&self.known).pace = named::Pace {
            fresh: Duration::from_millis(500),
            clear: Duration::from_millis(300),
            gone: Duration::from_secs(1),
            learn: Duration::from_millis(100),
        };
    }

    /// Has one of them name a master on this machine, after so many failovers.
    #[cfg(test)]
    pub(super) fn name(&self, epoch: u64, port: u16) {
        let host = "127.0.0.1".into();
        self.named(0, Master { epoch, host, port }, Instant::now());
    }

    /// Whether others were told of.
    #[cfg(test)]
    pub(super) fn has_learned(&self) -> bool {
        let known = locked(&self.known);
        let now = Instant::now();
        let mut places = self.each.len()..self.each.len() + MAX_LEARNED;
        places.any(|place| known.is_heard(place, now))
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
        let named = self.address();
        if let Some(address) = named.clone() {
            let opened = self.open_master(address, config).await;
            self.note_reached(opened.is_ok(), Instant::now());
            // Who listens to all of them goes to nobody whom an old one names instead.
            if opened.is_ok() || self.is_followed.load(Ordering::Relaxed) {
                return opened;
            }
        }
        let found = self.client.lock().await.async_get_client().await?;
        if named.is_none()
            && let Some(address) = self.named_beside(&found)
        {
            return self.open_master(address, config).await;
        }
        let opened = found.get_multiplexed_async_connection_with_config(config);
        opened.await
    }

    /// A master was found by other means, since none was named: `None`, or one is by now.
    fn named_beside(&self, found: &Client) -> Option<ConnectionAddr> {
        let (host, port) = place_of(found.get_connection_info().addr())?;
        let is_noted = locked(&self.known).find(host, port);
        if is_noted { None } else { self.address() }
    }

    async fn open_master(
        &self,
        address: ConnectionAddr,
        config: &AsyncConnectionConfig,
    ) -> RedisResult<MultiplexedConnection> {
        let client = Client::open(self.way.clone().set_addr(address))?;
        let opened = client.get_multiplexed_async_connection_with_config(config);
        let mut connection = opened.await?;
        refuse_replica_on(&mut connection).await?;
        Ok(connection)
    }

    /// Where the master is that was named last.
    pub(super) fn address(&self) -> Option<ConnectionAddr> {
        let Master { host, port, .. } = locked(&self.known).master.clone()?;
        Some(self.address_of(host, port))
    }

    /// An address, to be reached like the master.
    fn address_of(&self, host: String, port: u16) -> ConnectionAddr {
        match self.way.addr().clone() {
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
        }
    }

    /// The master that was named can be reached, or not.
    fn note_reached(&self, is_there: bool, now: Instant) {
        let mut known = locked(&self.known);
        let since = known.away_since.unwrap_or(now);
        known.away_since = (!is_there).then_some(since);
    }

    /// A Sentinel, by its place among all, names a master.
    fn named(&self, index: usize, master: Master, now: Instant) {
        let mut known = locked(&self.known);
        let is_behind = known.is_behind(index, &master);
        if !known.believes((index, self.each.len()), &master, now) {
            return;
        }
        if is_behind {
            tracing::warn!("most Sentinels have forgotten the last failover, and are believed");
        }
        let is_another = known.is_another(&master);
        let Master { host, port, .. } = &master;
        if is_another {
            tracing::info!(address = %format_args!("{host}:{port}"), "the Sentinels name another master");
        }
        if known.master.as_ref() != Some(&master) {
            (known.master, known.by) = (Some(master), index);
        }
        if is_another {
            known.away_since = None;
            // Before anybody can be told of the address: whoever goes there in the term of before
            // would be sent away from the right one.
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
    async fn ask(&self, index: usize, connection: &mut MultiplexedConnection) -> RedisResult<()> {
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
        let (Some((host, port)), Some(epoch)) =
            (address.filter(|now| before.as_ref() == Some(now)), epoch)
        else {
            return Ok(());
        };
        let master = Master { epoch, host, port };
        let is_behind = locked(&self.known).is_behind(index, &master);
        // One that is cut off from the others does not know what they have decided since.
        if !is_behind || self.sees_most(connection).await {
            self.named(index, master, Instant::now());
        }
        Ok(())
    }

    /// Whether a Sentinel reaches most of the others.
    async fn sees_most(&self, connection: &mut MultiplexedConnection) -> bool {
        let mut quorum = redis::cmd("SENTINEL");
        quorum.arg("CKQUORUM").arg(&self.name);
        let answer: RedisResult<String> = quorum.query_async(connection).await;
        answer.is_ok()
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
        for (index, sentinel) in self.each.iter().enumerate() {
            let opened = self.open(sentinel, Arc::default()).await;
            if let Ok(mut connection) = opened
                && self.ask(index, &mut connection).await.is_ok()
            {
                return;
            }
        }
    }

    /// Finds out who one of them is: one that the URL names may be told of by another name.
    async fn meet(&self, index: usize, connection: &mut MultiplexedConnection) -> RedisResult<()> {
        let mut asked = redis::cmd("SENTINEL");
        let id: RedisResult<String> = asked.arg("MYID").query_async(connection).await;
        let known = id.is_ok_and(|id| {
            let mut known = locked(&self.known);
            known.is_at((index, self.each.len()), &id, Instant::now())
        });
        match known || index < self.each.len() {
            true => Ok(()),
            false => Err((redis::ErrorKind::Io, "it is not the one that was told of").into()),
        }
    }

    /// Has one of them tell of others.
    async fn learn(&self, connection: &mut MultiplexedConnection) -> RedisResult<()> {
        let mut asked = redis::cmd("SENTINEL");
        asked.arg("SENTINELS").arg(&self.name);
        let others: Vec<HashMap<String, String>> = asked.query_async(connection).await?;
        let others = others.iter().filter_map(Told::read).collect();
        let count = self.each.len();
        if locked(&self.known).learn(count, others, Instant::now()) {
            self.learned.send_modify(|times| *times += 1);
        }
        Ok(())
    }

    /// Listens to one of them for as long as it answers.
    async fn listen(&self, index: usize, sentinel: &ConnectionInfo) -> RedisResult<Infallible> {
        let news = Arc::new(Notify::new());
        let mut connection = self.open(sentinel, news.clone()).await?;
        self.meet(index, &mut connection).await?;
        connection.subscribe("+switch-master").await?;
        let pause = locked(&self.known).pace.learn;
        let mut learns_at = Instant::now() + pause;
        loop {
            self.ask(index, &mut connection).await?;
            if Instant::now() >= learns_at {
                self.meet(index, &mut connection).await?;
                self.learn(&mut connection).await?;
                learns_at = Instant::now() + pause;
            }
            let _ = tokio::time::timeout(INTERVAL.min(pause), news.notified()).await;
        }
    }

    /// How one of them is reached, by its place among all.
    fn way_to(&self, index: usize) -> Option<ConnectionInfo> {
        if let Some(named) = self.each.get(index) {
            return Some(named.clone());
        }
        let slot = index - self.each.len();
        let (told, _) = locked(&self.known).told[slot].clone()?;
        let address = self.address_of(told.host, told.port);
        Some(self.first()?.clone().set_addr(address))
    }

    /// Listens to all of them, until it is dropped.
    pub(super) async fn follow(self: Arc<Self>) {
        self.is_followed.store(true, Ordering::Relaxed);
        let mut listening = tokio::task::JoinSet::new();
        for index in 0..self.each.len() + MAX_LEARNED {
            let all = self.clone();
            listening.spawn(async move {
                let mut learned = all.learned.subscribe();
                loop {
                    let Some(way) = all.way_to(index) else {
                        // The sender lives as long as this does.
                        let _ = learned.changed().await;
                        continue;
                    };
                    let Err(error) = all.listen(index, &way).await;
                    tracing::debug!(%error, index, "a Sentinel does not answer");
                    tokio::time::sleep(PAUSE).await;
                }
            });
        }
        while listening.join_next().await.is_some() {}
    }
}

#[cfg(test)]
mod tests;

//! Which server is the master, as Sentinels say it.
//!
//! A master that stood still for a while does not know that another took its place: it goes on
//! answering, and what it is told is lost. Only Sentinels know (<https://redis.io/docs/latest/develop/reference/sentinel-clients/>).
//! So each of them is listened to, and whatever was opened to an earlier master ends at once. Those
//! that the URL names are looked for again and again, by their names; they tell of others, which
//! may be all that is left of them one day.

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

use super::server::{place_of, refuse_replica_on};
use crate::locked::locked;

/// How often a Sentinel is asked who is the master, should its word be lost on its way.
const INTERVAL: Duration = Duration::from_secs(1);
/// How long a Sentinel may take for its answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);
/// The pause before a Sentinel is looked for again.
const PAUSE: Duration = Duration::from_secs(1);
/// Sentinels that are listened to besides those that the URL names: as many as anybody has.
const MAX_LEARNED: usize = 8;

/// How long things take with Sentinels.
#[derive(Debug, Clone, Copy)]
struct Pace {
    /// For how long a Sentinel's word stands for it that is not said again: some answers may be
    /// late.
    fresh: Duration,
    /// How long Sentinels must agree that a failover never was. They tell each other of one every
    /// two seconds, and put servers right that disagree after eight.
    clear: Duration,
    /// Who was away for so long may be gone for good: longer than a restart takes.
    gone: Duration,
    /// How often a Sentinel is asked which others there are. Before the first time, those of the
    /// URL have said who they are.
    learn: Duration,
}

const PACE: Pace = Pace {
    fresh: Duration::from_secs(5),
    clear: Duration::from_secs(10),
    gone: Duration::from_secs(30),
    learn: Duration::from_secs(10),
};

/// The master that Sentinels have named.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Master {
    /// Counts failovers: of two that are named, the one with more is right.
    epoch: u64,
    host: String,
    port: u16,
}

/// What a Sentinel says that seems to know less than others.
#[derive(Debug)]
struct Word {
    master: Master,
    /// It has said so since then, and the last time then.
    since: Instant,
    at: Instant,
}

/// A Sentinel that another one has told of.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Told {
    id: String,
    host: String,
    port: u16,
}

impl Told {
    /// Reads what a Sentinel says of another one; `None`: it does not answer that one either.
    fn read(said: &HashMap<String, String>) -> Option<Told> {
        let is_down = said.get("flags")?.split(',').any(|flag| flag == "s_down");
        (!is_down).then_some(Told {
            id: said.get("runid")?.clone(),
            host: said.get("ip")?.clone(),
            port: said.get("port")?.parse().ok()?,
        })
    }
}

/// Masters that were found by other means before one was named.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
enum Found {
    #[default]
    Nobody,
    One(String, u16),
    Several,
}

/// What was named.
#[derive(Debug)]
struct Named {
    pace: Pace,
    master: Option<Master>,
    found: Found,
    /// Who has named it first, by its place among all: those of the URL, then those that were told
    /// of.
    by: usize,
    /// Who names another one that seems to be of before.
    behind: HashMap<usize, Word>,
    /// When each was last heard, and who it was.
    heard: HashMap<usize, Instant>,
    ids: HashMap<usize, String>,
    /// Those that were told of, each since when.
    told: [Option<(Told, Instant)>; MAX_LEARNED],
    /// Since when the master cannot be reached.
    away_since: Option<Instant>,
}

impl Named {
    fn new(pace: Pace) -> Named {
        Named {
            pace,
            master: None,
            found: Found::Nobody,
            by: 0,
            behind: HashMap::new(),
            heard: HashMap::new(),
            ids: HashMap::new(),
            told: Default::default(),
            away_since: None,
        }
    }

    /// A master was found by other means. False: one is named by now, which is the right one.
    fn find(&mut self, host: &str, port: u16) -> bool {
        if self.master.is_some() {
            return false;
        }
        let one = Found::One(host.to_owned(), port);
        let is_first = self.found == Found::Nobody || self.found == one;
        self.found = if is_first { one } else { Found::Several };
        true
    }

    /// Whether somebody may have been at another master than this one.
    fn is_another(&self, master: &Master) -> bool {
        let Master { host, port, .. } = master;
        match (&self.master, &self.found) {
            (Some(known), _) => (&known.host, known.port) != (host, *port),
            (None, Found::Nobody) => false,
            (None, Found::One(found, at)) => (found, at) != (host, port),
            (None, Found::Several) => true,
        }
    }

    fn is_recent(&self, at: Instant, now: Instant) -> bool {
        now.saturating_duration_since(at) < self.pace.gone
    }

    fn is_heard(&self, place: usize, now: Instant) -> bool {
        let heard = self.heard.get(&place);
        heard.is_some_and(|at| self.is_recent(*at, now))
    }

    /// Of how many Sentinels most are needed: of those of the URL, `count`, and of all others that
    /// are heard. Where the master itself has been away for long, whoever is away as long does
    /// not count any more: else nobody would be believed again.
    fn electorate(&self, count: usize, now: Instant) -> usize {
        let is_away = self.away_since.is_some_and(|at| !self.is_recent(at, now));
        let counts = |place: usize| (place < count && !is_away) || self.is_heard(place, now);
        let all = 0..count + MAX_LEARNED;
        all.filter(|place| counts(*place)).count()
    }

    /// Whether a Sentinel that names a master is believed; the URL names `count` of them. One that
    /// has not heard of the last failover is not. If most of them have not, and nobody knows it
    /// otherwise for long enough, there was none: they were made to forget.
    fn believes(&mut self, (index, count): (usize, usize), master: &Master, now: Instant) -> bool {
        self.heard.insert(index, now);
        if !self.is_behind(index, master) {
            self.behind.clear();
            return true;
        }
        let Pace { fresh, clear, .. } = self.pace;
        let is_said =
            |word: &Word| word.master == *master && now.saturating_duration_since(word.at) < fresh;
        match self.behind.get_mut(&index).filter(|word| is_said(word)) {
            Some(word) => word.at = now,
            None => {
                let (master, since, at) = (master.clone(), now, now);
                self.behind.insert(index, Word { master, since, at });
            }
        }
        let is_old = |word: &&Word| now.saturating_duration_since(word.since) >= clear;
        let agree = self.behind.values().filter(|word| is_said(word));
        let agree = agree.filter(is_old);
        let is_clear = agree.count() * 2 > self.electorate(count, now);
        if is_clear {
            self.behind.clear();
        }
        is_clear
    }

    /// A Sentinel has said who it is. False: it is not the one that was told of at this place, or
    /// is listened to at another one already.
    fn is_at(&mut self, (index, count): (usize, usize), id: &str, now: Instant) -> bool {
        self.ids.insert(index, id.to_owned());
        let is_it =
            |told: &Option<(Told, Instant)>| told.as_ref().is_some_and(|(told, _)| told.id == id);
        let is_named = |place: usize| {
            let known = self.ids.get(&place);
            known.is_some_and(|known| known == id) && self.is_heard(place, now)
        };
        let wanted = (index < count).then_some(index);
        let wanted = wanted.or_else(|| (0..count).find(|place| is_named(*place)));
        let places = self.told.iter().enumerate();
        let twice = places.filter(|(slot, told)| {
            let place = count + slot;
            // Whom the URL names is listened to there.
            (is_it(told) && wanted.is_some()) || (place == index && !is_it(told))
        });
        let twice: Vec<usize> = twice.map(|(slot, _)| slot).collect();
        for slot in &twice {
            self.told[*slot] = None;
            self.heard.remove(&(count + slot));
            self.behind.remove(&(count + slot));
        }
        index < count || !twice.contains(&(index - count))
    }

    /// A Sentinel tells of others. True: some are new.
    fn learn(&mut self, count: usize, others: Vec<Told>, now: Instant) -> bool {
        let mut is_news = false;
        for other in others {
            let mut known = self.ids.iter().filter(|(_, id)| **id == other.id);
            let is_here = known.any(|(place, _)| self.is_heard(*place, now));
            let is_same = |told: &Option<(Told, Instant)>| {
                told.as_ref().is_some_and(|(told, _)| *told == other)
            };
            if is_here || self.told.iter().any(is_same) {
                continue;
            }
            // A place of one that is gone is free.
            let is_free = |slot: usize| {
                let told = self.told[slot].as_ref();
                let is_new = told.is_some_and(|(_, since)| self.is_recent(*since, now));
                !is_new && !self.is_heard(count + slot, now)
            };
            let Some(slot) = (0..MAX_LEARNED).find(|slot| is_free(*slot)) else {
                continue;
            };
            let place = count + slot;
            self.ids.remove(&place);
            if self.by == place {
                // Another one is to be there.
                self.by = usize::MAX;
            }
            self.told[slot] = Some((other, now));
            is_news = true;
        }
        is_news
    }

    /// Whether a Sentinel seems to have missed a failover: by its count, or by the address. That
    /// may come after the count, from the one that sees to the failover.
    fn is_behind(&self, index: usize, master: &Master) -> bool {
        let Some(known) = &self.master else {
            return false;
        };
        known.epoch > master.epoch
            || (known.epoch == master.epoch && index != self.by && known != master)
    }
}

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
        locked(&self.known).pace = Pace {
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
mod tests {
    use redis::IntoConnectionInfo;
    use redis::sentinel::{SentinelClientBuilder, SentinelServerType};

    use super::*;

    /// So many of them.
    fn sentinels(count: usize) -> Sentinels {
        let sentinel = "redis://127.0.0.1:1".into_connection_info().unwrap();
        let kind = SentinelServerType::Master;
        let builder = SentinelClientBuilder::new([sentinel.addr().clone()], "main", kind).unwrap();
        let client = builder.build().unwrap();
        Sentinels::new(client, vec![sentinel.clone(); count], "main", sentinel)
    }

    fn master(epoch: u64, port: u16) -> Master {
        Master {
            epoch,
            host: "10.0.0.1".into(),
            port,
        }
    }

    fn port(sentinels: &Sentinels) -> u16 {
        match sentinels.address() {
            Some(ConnectionAddr::Tcp(_, port)) => port,
            other => panic!("no address: {other:?}"),
        }
    }

    #[test]
    fn a_sentinel_that_has_not_heard_of_a_failover_takes_nobody_back_to_the_old_master() {
        let sentinels = sentinels(3);
        let now = Instant::now();
        sentinels.named(0, master(0, 1), now);
        assert_eq!(sentinels.term(), 0, "the first one is no other one");
        sentinels.named(0, master(1, 2), now);
        assert_eq!(sentinels.term(), 1);
        sentinels.named(1, master(0, 1), now);
        sentinels.named(0, master(1, 2), now);
        assert_eq!(sentinels.term(), 1);
        // In the middle of a failover the epoch may come with the old address.
        sentinels.named(0, master(2, 2), now);
        sentinels.named(0, master(2, 3), now);
        assert_eq!(sentinels.term(), 2);
        assert_eq!(port(&sentinels), 3);
    }

    #[test]
    fn the_first_master_that_is_named_is_another_one_only_for_who_was_elsewhere() {
        let now = Instant::now();
        let found = |ports: &[u16]| {
            let sentinels = sentinels(1);
            for port in ports {
                assert!(locked(&sentinels.known).find("10.0.0.1", *port));
            }
            sentinels.named(0, master(0, 1), now);
            assert!(!locked(&sentinels.known).find("10.0.0.1", 2));
            sentinels.term()
        };
        assert_eq!(found(&[]), 0);
        assert_eq!(found(&[1, 1]), 0);
        assert_eq!(found(&[2]), 1);
        assert_eq!(found(&[1, 2]), 1);
        assert_eq!(found(&[2, 1, 1]), 1);
    }

    #[test]
    fn whoever_is_told_of_another_master_is_told_of_its_term() {
        const FAILOVERS: u16 = 20_000;
        let sentinels = sentinels(1);
        let now = Instant::now();
        sentinels.named(0, master(0, 0), now);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for count in 1..=FAILOVERS {
                    sentinels.named(0, master(count.into(), count), now);
                }
            });
            while sentinels.term() < FAILOVERS.into() {
                let told = port(&sentinels);
                let term = sentinels.term();
                assert!(term >= told.into(), "{told} in the term {term}");
            }
        });
    }

    /// Sentinels that name the same every second, from a second on and until another; the first
    /// at which something else is believed than before.
    fn say(
        sentinels: &Sentinels,
        words: &[(usize, Master)],
        start: Instant,
        seconds: std::ops::Range<u64>,
    ) -> Option<u64> {
        let before = port(sentinels);
        seconds.into_iter().find(|second| {
            for (index, master) in words {
                let now = start + Duration::from_secs(*second);
                sentinels.named(*index, master.clone(), now);
            }
            port(sentinels) != before
        })
    }

    #[test]
    fn sentinels_that_were_made_to_count_anew_are_believed_without_a_restart() {
        let sentinels = sentinels(3);
        let start = Instant::now();
        sentinels.named(0, master(5, 1), start);
        let anew = [(0, master(0, 2)), (1, master(0, 2))];
        assert_eq!(say(&sentinels, &anew, start, 0..60), Some(10));
        assert_eq!(sentinels.term(), 1);
        // The next failover is known at once.
        let later = start + Duration::from_secs(11);
        sentinels.named(2, master(1, 3), later);
        assert_eq!((port(&sentinels), sentinels.term()), (3, 2));
        // The same where the master stayed, but not the count.
        sentinels.named(0, master(9, 3), later);
        let same = [(1, master(0, 3)), (2, master(0, 3))];
        assert_eq!(say(&sentinels, &same, later, 0..60), None);
        sentinels.named(0, master(1, 4), later + Duration::from_secs(61));
        assert_eq!((port(&sentinels), sentinels.term()), (4, 3));
    }

    #[test]
    fn sentinels_that_are_told_of_another_master_one_by_one_send_nobody_to_and_fro() {
        // Whichever is told first.
        for order in [[0, 1, 2], [1, 2, 0], [2, 0, 1]] {
            let sentinels = sentinels(3);
            let start = Instant::now();
            (0..3).for_each(|index| sentinels.named(index, master(0, 1), start));
            for count in 0..=3 {
                let told = order[..count].iter().map(|index| (*index, master(0, 2)));
                let others = order[count..].iter().map(|index| (*index, master(0, 1)));
                let words: Vec<_> = told.chain(others).collect();
                let from = 60 * count as u64;
                say(&sentinels, &words, start, from..from + 60);
            }
            assert_eq!((port(&sentinels), sentinels.term()), (2, 1));
        }
    }

    #[test]
    fn sentinels_that_are_left_and_were_reset_are_believed_once_the_master_is_gone_with_the_others()
    {
        let sentinels = sentinels(3);
        let start = Instant::now();
        (0..3).for_each(|index| sentinels.named(index, master(5, 1), start));
        let anew = [(0, master(0, 2))];
        assert_eq!(say(&sentinels, &anew, start, 0..600), None);
        let later = start + Duration::from_secs(600);
        sentinels.note_reached(false, later);
        sentinels.note_reached(false, later + Duration::from_secs(20));
        // Not while another one that is there says what was known.
        let other = [(0, master(0, 2)), (1, master(5, 1))];
        assert_eq!(say(&sentinels, &other, later, 0..60), None);
        // Nor while the master is.
        sentinels.note_reached(true, later);
        assert_eq!(say(&sentinels, &anew, later, 60..120), None);
        let gone = later + Duration::from_secs(120);
        sentinels.note_reached(false, gone);
        assert_eq!(say(&sentinels, &anew, gone, 0..60), Some(30));
        assert_eq!((port(&sentinels), sentinels.term()), (2, 1));
        // A failover that it hears of later is known at once.
        sentinels.named(0, master(1, 3), gone + Duration::from_secs(31));
        assert_eq!((port(&sentinels), sentinels.term()), (3, 2));
    }

    fn told(id: &str, port: u16) -> Told {
        Told {
            id: id.into(),
            host: "10.0.0.9".into(),
            port,
        }
    }

    #[test]
    fn sentinels_that_others_tell_of_are_listened_to_once_and_within_bounds() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut known = Named::new(PACE);
        let (all, of_url) = (2, |place| (place, 2));
        let ports = |known: &Named| -> Vec<u16> {
            let told = known.told.iter().flatten();
            told.map(|(told, _)| told.port).collect()
        };
        known.believes(of_url(0), &master(1, 1), start);
        assert!(known.is_at(of_url(0), "a", start));
        // One that the URL names is told of, before it has said who it is.
        let others = vec![told("a", 1), told("b", 2), told("c", 3)];
        assert!(known.learn(all, others.clone(), start));
        assert!(!known.learn(all, others.clone(), at(1)));
        assert_eq!(ports(&known), [2, 3]);
        assert!(known.is_at((2, 2), "b", at(1)));
        known.believes((2, 2), &master(1, 1), at(1));
        assert_eq!(known.electorate(all, at(1)), 3);
        known.believes(of_url(1), &master(1, 1), at(2));
        assert!(known.is_at(of_url(1), "b", at(2)));
        assert_eq!((ports(&known), known.electorate(all, at(2))), (vec![3], 2));
        assert!(!known.is_at((2, 2), "b", at(2)));
        // Another one has come to be where one was.
        assert!(!known.is_at((3, 2), "x", at(3)) && ports(&known).is_empty());
        // Of too many the first are listened to, until they are gone.
        let many = |from: u16| (from..from + 9).map(|port| told(&port.to_string(), port));
        assert!(known.learn(all, many(10).collect(), at(4)));
        assert!(!known.learn(all, many(20).collect(), at(5)));
        assert_eq!(ports(&known), (10..18).collect::<Vec<_>>());
        known.believes((4, 2), &master(1, 1), at(20));
        assert!(known.learn(all, many(20).collect(), at(40)));
        assert_eq!(ports(&known), [20, 21, 12, 22, 23, 24, 25, 26]);
    }

    #[test]
    fn a_sentinel_that_does_not_answer_others_is_not_told_of() {
        let said = |flags: &str| {
            let fields = [
                ("runid", "a"),
                ("ip", "10.0.0.9"),
                ("port", "1"),
                ("flags", flags),
            ];
            let fields = fields.map(|(name, text)| (name.to_owned(), text.to_owned()));
            Told::read(&HashMap::from(fields))
        };
        assert_eq!(said("sentinel"), Some(told("a", 1)));
        assert_eq!(said("s_down,sentinel,disconnected"), None);
    }

    #[test]
    fn an_old_word_is_not_believed_however_long_it_is_said() {
        let sentinels = sentinels(3);
        let start = Instant::now();
        sentinels.named(0, master(5, 1), start);
        let old = |index| (index, master(4, 2));
        // By one alone.
        assert_eq!(say(&sentinels, &[old(0)], start, 0..600), None);
        // By two, while one knows it otherwise.
        let all = [old(0), old(1), (2, master(5, 1))];
        assert_eq!(say(&sentinels, &all, start, 600..1200), None);
        // By two that do not name the same.
        let each = [old(0), (1, master(4, 3))];
        assert_eq!(say(&sentinels, &each, start, 1200..1800), None);
        // By one, and by another that does not answer any more.
        assert_eq!(say(&sentinels, &[old(0), old(1)], start, 1800..1804), None);
        assert_eq!(say(&sentinels, &[old(1)], start, 1804..2400), None);
        // For a moment, now and then.
        for round in 0..60 {
            let at = 2400 + 20 * round;
            assert_eq!(say(&sentinels, &[old(0), old(1)], start, at..at + 9), None);
        }
        assert_eq!(sentinels.term(), 0);
    }
}

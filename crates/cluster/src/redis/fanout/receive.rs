//! Other nodes' publications on their way in: a connection that listens, is given up at
//! the first doubt and opened again.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hashbrown::HashMap;
use heartline_core::backplane::{Message, Target};
use redis::RedisResult;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::super::socketio::{Adapter, Foreign};
use super::channels::Channels;
use super::counters::Counters;
use super::driver::{Driver, Heard, Link, Listener};
use crate::envelope::{self, Origin, Seen, Unread};
use crate::locked::locked;

/// Channels in one command.
const MAX_CHANNELS_PER_COMMAND: usize = 512;
/// How often a connection that only listens is tried.
const PING_INTERVAL: Duration = Duration::from_secs(3);
/// Pauses between attempts to connect.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const MAX_PAUSE: Duration = Duration::from_secs(1);
/// Senders whose numbers are remembered: more than a cluster has nodes, with those that
/// were restarted.
const MAX_SENDERS: usize = 1024;

/// What other nodes say to this one.
pub enum Incoming<'a> {
    /// Something waits in the registry.
    Nudge,
    /// A publication.
    Publication(Target<'a>, Message),
    /// A Socket.IO server's wish.
    Foreign(Foreign),
}

/// Where it goes.
pub(super) type Deliver = dyn Fn(Incoming<'_>) + Send + Sync;

/// Tells what is heard apart, and drops what was heard before.
struct Ear {
    /// This node's tag: it does not listen to itself.
    tag: u32,
    /// What the names of channels begin with by which processes are nudged.
    processes: String,
    /// What each sender's publications were heard of.
    seen: Mutex<HashMap<u32, Seen>>,
    counters: Arc<Counters>,
    adapter: Adapter,
    /// Bytes that what is heard may have.
    max_payload: usize,
    deliver: Box<Deliver>,
}

impl Ear {
    fn hear_message(&self, channel: &[u8], payload: &[u8]) {
        if payload.is_empty() && channel.starts_with(self.processes.as_bytes()) {
            (self.deliver)(Incoming::Nudge);
            return;
        }
        if self.adapter.is_theirs(channel) {
            self.hear_server(channel, payload);
            return;
        }
        match envelope::decode(payload, self.max_payload) {
            Ok((origin, target, message)) => {
                if origin.tag != self.tag && self.is_new(origin) {
                    self.counters.received.fetch_add(1, Ordering::Relaxed);
                    (self.deliver)(Incoming::Publication(target, message));
                }
            }
            Err(Unread::Refused(error)) => {
                let refused = &self.counters.refused;
                refused.warn(&error, "another node's publication was dropped");
            }
            Err(Unread::Nothing) => {}
        }
    }

    fn hear_server(&self, channel: &[u8], payload: &[u8]) {
        match self.adapter.decode(channel, payload, self.max_payload) {
            Ok(foreign) => {
                self.counters.received.fetch_add(1, Ordering::Relaxed);
                (self.deliver)(Incoming::Foreign(foreign));
            }
            Err(Unread::Refused(error)) => {
                let refused = &self.counters.refused;
                refused.warn(&error, "a Socket.IO server's event was dropped");
            }
            Err(Unread::Nothing) => {}
        }
    }

    /// Whether a publication is new; it is not from here on.
    fn is_new(&self, origin: Origin) -> bool {
        let mut seen = locked(&self.seen);
        if seen.len() >= MAX_SENDERS && !seen.contains_key(&origin.tag) {
            seen.clear();
        }
        seen.entry(origin.tag).or_default().is_new(origin.number)
    }
}

/// A connection's end, as it is heard.
#[derive(Default)]
struct Ending {
    ended: AtomicBool,
    noticed: Notify,
}

pub(super) struct Receiver {
    ear: Arc<Ear>,
    channels: Arc<Channels>,
    counters: Arc<Counters>,
    /// Channels that are listened to whatever rooms there are.
    always: Vec<String>,
    patterns: Vec<String>,
}

impl Receiver {
    /// `prefix`, `process` and `tag`: as in [`Fanout::new`](super::Fanout::new).
    pub(super) fn new(
        (prefix, process, tag): (&str, &str, u32),
        (adapter, namespaces): (&Adapter, &[Arc<str>]),
        channels: Arc<Channels>,
        counters: Arc<Counters>,
        max_payload: usize,
        deliver: Box<Deliver>,
    ) -> Receiver {
        let processes = format!("{prefix}:n:");
        let servers = adapter.always(namespaces.iter().map(|name| &**name));
        let mut always = vec![format!("{processes}{process}"), format!("{prefix}:all")];
        always.extend(servers.channels);
        Receiver {
            ear: Arc::new(Ear {
                tag,
                processes,
                seen: Mutex::default(),
                counters: counters.clone(),
                adapter: adapter.clone(),
                max_payload,
                deliver,
            }),
            channels,
            counters,
            always,
            patterns: servers.patterns,
        }
    }

    /// Receives until it is dropped.
    pub(super) async fn receive_all(&self, driver: &impl Driver) {
        let mut pause = FIRST_PAUSE;
        loop {
            let started = Instant::now();
            if let Err(error) = self.receive(driver).await {
                self.counters.errors.fetch_add(1, Ordering::Relaxed);
                self.counters
                    .complain(&error, "other nodes' publications do not arrive");
            }
            if self.channels.set_disconnected() {
                self.counters.gaps.fetch_add(1, Ordering::Relaxed);
            }
            if started.elapsed() > MAX_PAUSE * 2 {
                pause = FIRST_PAUSE;
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(MAX_PAUSE);
        }
    }

    /// One connection, to its end.
    async fn receive(&self, driver: &impl Driver) -> RedisResult<()> {
        let ending: Arc<Ending> = Arc::default();
        let mut link = driver.listen(self.listener(ending.clone())).await?;
        link.listen_always(&self.always, &self.patterns).await?;
        let wanted = self.channels.all_wanted();
        self.subscribe(&mut link, &wanted).await?;
        self.channels.set_connected();
        tracing::debug!(rooms = wanted.len(), "other nodes' publications arrive");
        let mut next_ping = Instant::now() + PING_INTERVAL;
        loop {
            tokio::select! {
                () = ending.noticed.notified() => {}
                () = self.channels.changed() => {}
                () = tokio::time::sleep_until(next_ping) => {
                    link.ping().await?;
                    next_ping = Instant::now() + PING_INTERVAL;
                }
            }
            if ending.ended.load(Ordering::Relaxed) {
                return Err((redis::ErrorKind::Io, "the connection ended").into());
            }
            self.follow_changes(&mut link).await?;
        }
    }

    /// What is done with all that a connection brings.
    fn listener(&self, ending: Arc<Ending>) -> Listener {
        let ear = self.ear.clone();
        Arc::new(move |heard| match heard {
            Heard::Message { channel, payload } => ear.hear_message(&channel, &payload),
            Heard::Matched { channel, payload } => ear.hear_server(&channel, &payload),
            Heard::Ended => {
                ending.ended.store(true, Ordering::Relaxed);
                ending.noticed.notify_one();
            }
        })
    }

    /// Subscribes to rooms that have got users and unsubscribes from those that have none.
    async fn follow_changes(&self, link: &mut impl Link) -> RedisResult<()> {
        let changes = self.channels.take_changes();
        for names in changes.unwanted.chunks(MAX_CHANNELS_PER_COMMAND) {
            link.unsubscribe(names).await?;
        }
        self.subscribe(link, &changes.wanted).await
    }

    async fn subscribe(&self, link: &mut impl Link, wanted: &[Arc<str>]) -> RedisResult<()> {
        for names in wanted.chunks(MAX_CHANNELS_PER_COMMAND) {
            link.subscribe(names).await?;
            self.channels.confirm(names);
        }
        Ok(())
    }
}

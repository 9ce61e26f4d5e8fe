//! Other nodes' publications on their way in: a connection that listens, is given up at
//! the first doubt and opened again. Whatever may have been missed is told to those whose it
//! was.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hashbrown::HashMap;
use heartline_core::backplane::{Message, Missed, Target};
use redis::RedisResult;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::super::socketio::{Adapter, Foreign};
use super::channels::Channels;
use super::counters::Counters;
use super::driver::{Driver, Heard, Link, Listener};
use super::inbox::{Inbox, Item, Worker};
use super::keyed::{Foreign as Verdict, Keyed};
use super::line::Line;
use super::numbers::{MAX_BEHIND, Numbers};
use crate::envelope::{self, Body, Origin, Said, Seen, Unread};
use crate::locked::locked;
use crate::names;
use crate::seal::Seal;

/// How long after a room's channel is heard again its members are told of what was missed.
/// Other nodes were cut off by the same, mostly, and say within it what they have lost, which is
/// told in one. If more comes in the room, it is told before that.
pub(super) const GATHER: Duration = Duration::from_millis(250);
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
    /// Publications were lost.
    Missed(Missed<'a>),
    /// A Socket.IO server's wish.
    Foreign(Foreign),
}

/// Where it goes.
pub(super) struct Outlet {
    /// Takes it; it never waits.
    pub(super) deliver: Box<dyn Fn(Incoming<'_>) + Send + Sync>,
    /// Whether there is too much to do already.
    pub(super) is_busy: Box<dyn Fn() -> bool + Send + Sync>,
}

/// Tells what is heard apart, drops what was heard before, and notices what was not.
pub(super) struct Ear {
    /// This node's tag.
    tag: u32,
    /// What the names of rooms' channels begin with.
    rooms: String,
    /// What the names of channels begin with by which processes are nudged.
    processes: String,
    /// The channel that all nodes hear, and its numbers.
    everybody: String,
    everybody_numbers: Mutex<Numbers>,
    /// The number with which each sender said last that everybody has lost something.
    everybody_told: Mutex<HashMap<u32, u64>>,
    /// What each sender's publications were heard of.
    seen: Mutex<HashMap<u32, Seen>>,
    channels: Arc<Channels>,
    keyed: Arc<Keyed>,
    counters: Arc<Counters>,
    seal: Arc<Seal>,
    adapter: Adapter,
    /// What is kept comes by it, if anything is.
    line: Option<Arc<Line>>,
    /// Bytes that what other nodes' clients and Socket.IO servers say may have.
    max_payload: usize,
    outlet: Outlet,
}

impl Worker for Ear {
    fn is_busy(&self) -> bool {
        (self.outlet.is_busy)()
    }

    fn is_urgent(&self, item: &Item) -> bool {
        matches!(item, Item::Said { channel, payload } if self.is_nudge(channel, payload))
    }

    fn work(&self, item: Item) {
        match item {
            item if self.is_urgent(&item) => self.deliver(Incoming::Nudge),
            Item::Said { channel, payload } if self.adapter.is_theirs(&channel) => {
                self.hear_server(&channel, &payload);
            }
            Item::Said { channel, payload } => self.hear_message(&channel, &payload),
            Item::SaidByServer { channel, payload } => self.hear_server(&channel, &payload),
            Item::Found => {
                if let Some(line) = &self.line {
                    line.goes_on(self.max_payload);
                }
            }
            Item::Cut => {
                if let Some(line) = &self.line {
                    line.cut();
                }
                self.channels.cut();
                locked(&self.everybody_numbers).forget();
                self.keyed.forget_all();
            }
            Item::Heard { channel } => self.goes_on(text(&channel)),
            Item::Gathered => self.tell_gathered(),
            Item::NotHeard { channel } => {
                let channel = text(&channel);
                if self.channels.taken_away(channel)
                    && let Some(line) = self.line_of(channel)
                {
                    // It is found when the channel is heard again.
                    line.cut();
                }
            }
            Item::Lost { channel } => self.tell_lost(&channel),
            Item::LostUnaddressed => self.tell(Missed::Unaddressed),
            Item::LostOfServers => self.tell_lost_of_servers(),
            Item::LostForAnybody => {
                if let Some(line) = &self.line {
                    line.falls_behind();
                }
                self.tell(Missed::Anybody);
                self.tell_lost_of_servers();
            }
        }
    }
}

impl Ear {
    fn deliver(&self, incoming: Incoming<'_>) {
        (self.outlet.deliver)(incoming);
    }

    /// The line, if what is kept comes by a channel.
    fn line_of(&self, channel: &str) -> Option<&Arc<Line>> {
        self.line.as_ref().filter(|line| line.is_of(channel))
    }

    fn is_nudge(&self, channel: &[u8], payload: &[u8]) -> bool {
        payload.is_empty() && channel.starts_with(self.processes.as_bytes())
    }

    fn tell(&self, whose: Missed<'_>) {
        self.counters.missed.fetch_add(1, Ordering::Relaxed);
        self.deliver(Incoming::Missed(whose));
    }

    /// A channel is heard from here on. A room has one of its own beside those by which
    /// Socket.IO servers speak to it, and is told once.
    fn goes_on(&self, channel: &str) {
        if self.channels.is_back(channel)
            && let Some(line) = self.line_of(channel)
        {
            line.falls_behind();
        }
        if names::room_of_channel(&self.rooms, channel).is_none() {
            return;
        }
        if self.line.is_none() {
            self.channels.is_heard_again(channel);
        } else if self.channels.goes_on(channel) {
            // What comes by the line does not come by the room's channel, and is not to come
            // before.
            self.tell_lost_of(channel);
        }
    }

    /// Tells what was missed in channels that are heard again, unless it was told since.
    fn tell_gathered(&self) {
        for channel in self.channels.take_again() {
            self.tell_lost_of(&channel);
        }
    }

    /// Tells who was to hear what this node has lost in a channel: whatever its numbers say
    /// of that is told herewith.
    fn tell_lost(&self, channel: &[u8]) {
        let channel = text(channel);
        if let Some(line) = self.line_of(channel) {
            return line.falls_behind();
        }
        self.channels.told(channel);
        if channel == self.everybody {
            locked(&self.everybody_numbers).forget();
        }
        self.tell_lost_of(channel);
    }

    /// The same; the channel's numbers go on.
    fn tell_lost_of(&self, channel: &str) {
        if let Some((namespace, tenant, room)) = names::room_of_channel(&self.rooms, channel) {
            self.tell(Missed::Room {
                namespace,
                tenant: tenant.as_deref(),
                room,
            });
        } else if channel.starts_with(&self.processes) {
            self.tell(Missed::Users);
        } else {
            // Rooms that are heard again are told herewith.
            drop(self.channels.take_again());
            self.tell(Missed::Anybody);
            if self.adapter.is_theirs(channel.as_bytes()) {
                self.tell_lost_of_servers();
            }
        }
    }

    /// Socket.IO servers may have said something in whichever room. Where all rooms come by
    /// channels of their own, that is told with what these have lost.
    fn tell_lost_of_servers(&self) {
        if self.line.is_some() && self.adapter.is_on() {
            self.tell(Missed::Foreign);
        }
    }

    fn hear_message(&self, channel: &[u8], payload: &[u8]) {
        let name = text(channel);
        if let Some(line) = self.line_of(name) {
            return line.hear(payload, self.max_payload);
        }
        let place = match name.starts_with(&self.processes) {
            true => &self.processes,
            false => name,
        };
        let Some(payload) = self.seal.open(place, payload, 0) else {
            // Nobody is told of it: whoever forges could have all rooms read their history.
            return;
        };
        match envelope::read(payload) {
            Some((origin, body)) if origin.tag == self.tag => self.hear_own(name, origin, body),
            Some((origin, _)) if !self.is_new(origin) => {}
            Some((origin, Body::Lost(user))) => self.hear_mark(name, origin, user),
            Some((origin, Body::Said(said))) => self.hear_publication(name, origin, said),
            None => {
                let what = "another node's publication cannot be read";
                let (count, why) = match envelope::is_of_another_version(payload) {
                    true => (&self.counters.newer, "it is of another version"),
                    false => (&self.counters.damaged, "it is damaged"),
                };
                count.fetch_add(1, Ordering::Relaxed);
                self.counters.refused.warn(&why, what);
                self.tell_lost(channel);
            }
        }
    }

    /// What this node has published itself comes back.
    fn hear_own(&self, channel: &str, origin: Origin, body: Body<'_>) {
        let Body::Said(said) = body else {
            return;
        };
        let Target::Room { key: Some(key), .. } = said.target else {
            return;
        };
        if self.is_new(origin) {
            let deliver = || {
                if let Ok((target, message)) = said.check(self.max_payload) {
                    self.deliver(Incoming::Publication(target, message));
                }
            };
            self.keyed.came_back(channel, key, origin.number, deliver);
        }
    }

    fn hear_mark(&self, channel: &str, origin: Origin, user: Option<&str>) {
        if let Some((tenant, user)) = user.and_then(names::tenant_and_user) {
            return self.tell(Missed::User {
                tenant: tenant.as_deref(),
                user,
            });
        }
        let is_news = match channel == self.everybody {
            true => locked(&self.everybody_numbers).lost(origin.tag, origin.after),
            false => self.channels.lost(channel, origin) && !self.was_told_to_all(origin),
        };
        if is_news {
            self.tell_lost_of(channel);
            self.note_told(channel, origin);
        }
    }

    /// Whether everybody was told of a loss by the same sender after what this one has lost was
    /// said. A number that is far ahead is no sender's own.
    fn was_told_to_all(&self, origin: Origin) -> bool {
        let told = locked(&self.everybody_told).get(&origin.tag).copied();
        let ahead = told.and_then(|told| told.checked_sub(origin.after));
        ahead.is_some_and(|ahead| (1..=MAX_BEHIND).contains(&ahead))
    }

    fn note_told(&self, channel: &str, origin: Origin) {
        if channel != self.everybody {
            return;
        }
        let mut told = locked(&self.everybody_told);
        if told.len() >= MAX_SENDERS && !told.contains_key(&origin.tag) {
            told.clear();
        }
        told.insert(origin.tag, origin.number);
    }

    fn hear_publication(&self, channel: &str, origin: Origin, said: Said<'_>) {
        let Origin { tag, number, after } = origin;
        let is_hole = match channel == self.everybody {
            true => locked(&self.everybody_numbers).came(tag, number, after),
            false => self.channels.came(channel, origin),
        };
        if is_hole {
            self.tell_lost_of(channel);
        }
        let key = match said.target {
            Target::Room { key, .. } => key,
            _ => None,
        };
        let to = said.target;
        match said.check(self.max_payload) {
            Ok((target, message)) => {
                self.counters.received.fetch_add(1, Ordering::Relaxed);
                let deliver = || self.deliver(Incoming::Publication(target, message));
                let Some(key) = key else {
                    return deliver();
                };
                if self.keyed.came(channel, key, deliver) == Verdict::Overdue {
                    self.tell_lost_of(channel);
                }
            }
            Err(error) => {
                let refused = &self.counters.refused;
                refused.warn(&error, "another node's publication was dropped");
                match to {
                    Target::User { tenant, user, .. } => self.tell(Missed::User { tenant, user }),
                    _ => self.tell_lost_of(channel),
                }
            }
        }
    }

    fn hear_server(&self, channel: &[u8], payload: &[u8]) {
        // It has no number, and may be for any room.
        self.tell_gathered();
        match self.adapter.decode(channel, payload, self.max_payload) {
            Ok(foreign) => {
                self.counters.received.fetch_add(1, Ordering::Relaxed);
                self.deliver(Incoming::Foreign(foreign));
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
        let seen = seen.entry(origin.tag).or_default();
        seen.is_new(origin.number, self.seal.is_strict())
    }
}

/// A channel's name; those of other programs may be no text, and are none of ours.
fn text(channel: &[u8]) -> &str {
    str::from_utf8(channel).unwrap_or_default()
}

/// Returns at a moment, if there is one.
async fn at(moment: Option<Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment).await,
        None => std::future::pending().await,
    }
}

/// A connection's end, as it is heard.
#[derive(Default)]
struct Ending {
    ended: AtomicBool,
    noticed: Notify,
}

pub(super) struct Receiver {
    inbox: Arc<Inbox<Ear>>,
    channels: Arc<Channels>,
    keyed: Arc<Keyed>,
    counters: Arc<Counters>,
    line: Option<Arc<Line>>,
    /// Channels that are listened to whatever rooms there are.
    always: Vec<String>,
    patterns: Vec<String>,
}

impl Receiver {
    /// What clients of other nodes and Socket.IO servers say is held to `max_payload` bytes; the
    /// servers are heard in these namespaces.
    pub(super) fn new(
        fanout: &super::Fanout,
        namespaces: &[Arc<str>],
        max_payload: usize,
        outlet: Outlet,
    ) -> Receiver {
        let processes = super::processes(&fanout.prefix);
        let servers = fanout.adapter.always(namespaces.iter().map(|name| &**name));
        let everybody = fanout.everybody();
        let mut always = vec![format!("{processes}{}", fanout.process), everybody.clone()];
        always.extend(servers.channels);
        let ear = Ear {
            tag: fanout.tag,
            rooms: fanout.rooms_prefix().to_owned(),
            processes,
            everybody,
            everybody_numbers: Mutex::default(),
            everybody_told: Mutex::default(),
            seen: Mutex::default(),
            channels: fanout.channels.clone(),
            keyed: fanout.keyed.clone(),
            counters: fanout.counters.clone(),
            seal: fanout.seal.clone(),
            adapter: fanout.adapter.clone(),
            line: fanout.line.clone(),
            max_payload,
            outlet,
        };
        Receiver {
            inbox: Arc::new(Inbox::new(ear, fanout.counters.clone())),
            channels: fanout.channels.clone(),
            keyed: fanout.keyed.clone(),
            counters: fanout.counters.clone(),
            line: fanout.line.clone(),
            always,
            patterns: servers.patterns,
        }
    }

    /// This node's own publications up to this number will not be sent: who counted on one of
    /// them may have missed another's.
    pub(super) fn given_up(&self, channel: Option<&str>, last: u64) {
        for channel in self.keyed.give_up(channel, last) {
            let channel = channel.as_bytes().to_vec();
            self.inbox.take_in(Item::Lost { channel });
        }
    }

    /// Works off what had to wait, until it is dropped.
    pub(super) async fn work_off(&self) {
        self.inbox.work_off().await;
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
        let number = self.inbox.next_link();
        let mut link = driver.listen(self.listener(number, ending.clone())).await?;
        link.listen_always(&self.always, &self.patterns).await?;
        if number > 1 {
            self.inbox.take_in(Item::LostUnaddressed);
        }
        let wanted = self.channels.all_wanted();
        self.subscribe(&mut link, &wanted).await?;
        if number > 1 {
            self.inbox.take_in(Item::LostOfServers);
        }
        let mut gathered = None;
        self.channels.set_connected();
        tracing::debug!(rooms = wanted.len(), "other nodes' publications arrive");
        let mut next_ping = Instant::now() + PING_INTERVAL;
        let mut finding: Pin<Box<dyn Future<Output = ()> + Send + '_>> = Box::pin(self.find());
        let mut finds = self.line.is_some();
        loop {
            tokio::select! {
                () = &mut finding, if finds => {
                    finds = false;
                    self.inbox.take_in(Item::Found);
                }
                () = self.is_behind() => {
                    finding = Box::pin(self.find());
                    finds = true;
                }
                () = self.channels.heard_again(), if gathered.is_none() => {
                    gathered = Some(Instant::now() + GATHER);
                }
                () = at(gathered) => {
                    gathered = None;
                    self.inbox.take_in(Item::Gathered);
                }
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

    /// Returns when something of the line was dropped here.
    async fn is_behind(&self) {
        match &self.line {
            Some(line) => line.behind.notified().await,
            None => std::future::pending().await,
        }
    }

    /// Finds what was missed of the line.
    async fn find(&self) {
        if let Some(line) = &self.line {
            line.catch_up().await;
        }
    }

    /// What is done with all that a connection brings.
    fn listener(&self, link: u64, ending: Arc<Ending>) -> Listener {
        let inbox = self.inbox.clone();
        Arc::new(move |heard| match heard {
            Heard::Message { channel, payload } => {
                inbox.bring(link, Item::Said { channel, payload });
            }
            Heard::Matched { channel, payload } => {
                inbox.bring(link, Item::SaidByServer { channel, payload });
            }
            Heard::Unsubscribed { channel } => inbox.bring(link, Item::NotHeard { channel }),
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
            names.iter().for_each(|name| self.keyed.forget(name));
            link.unsubscribe(names).await?;
        }
        self.subscribe(link, &changes.wanted).await
    }

    async fn subscribe(&self, link: &mut impl Link, wanted: &[Arc<str>]) -> RedisResult<()> {
        for names in wanted.chunks(MAX_CHANNELS_PER_COMMAND) {
            link.subscribe(names).await?;
            self.channels.confirm(names);
            for name in names {
                let channel = name.as_bytes().to_vec();
                self.inbox.take_in(Item::Heard { channel });
            }
        }
        Ok(())
    }
}

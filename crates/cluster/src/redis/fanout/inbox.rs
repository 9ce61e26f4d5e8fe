//! What other nodes say, between the connection that brings it and the sockets it is for.
//!
//! Whatever is heard is worked off at once, as long as the shards keep up. While they have
//! more to do than they should, it waits here, within bounds. What does not fit is dropped,
//! and whose it was is told when there is room again, at the place where it is missing.

use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hashbrown::HashSet;
use tokio::sync::Notify;

use super::counters::Counters;
use crate::locked::locked;

/// What waits, and its bytes: as much as may wait to be sent.
pub(super) const MAX_WAITING: usize = 65_536;
pub(super) const MAX_WAITING_BYTES: usize = 64 << 20;
/// Channels in which something was dropped. When there are more, it counts as all.
const MAX_LOST: usize = 4096;
/// What is worked off in one go; between two the connection has its turn.
const MAX_PER_TURN: usize = 64;
/// When it is looked again whether the shards keep up.
const BUSY_PAUSE: Duration = Duration::from_millis(1);

/// Something that was heard, or is to be told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Item {
    /// Published in a channel.
    Said { channel: Vec<u8>, payload: Vec<u8> },
    /// By a pattern: only Socket.IO servers are listened to so.
    SaidByServer { channel: Vec<u8>, payload: Vec<u8> },
    /// The connection had ended: whatever was published until the next one listens is lost.
    Cut,
    /// From here on a channel is heard again, or for the first time.
    Heard { channel: Vec<u8> },
    /// The channels that are heard again have been for a while: what was missed is told.
    Gathered,
    /// From here on it is not heard any more.
    NotHeard { channel: Vec<u8> },
    /// Publications in a channel were lost.
    Lost { channel: Vec<u8> },
    /// Some were that go to no single room.
    LostUnaddressed,
    /// Some of Socket.IO servers were.
    LostOfServers,
    /// Some were, in whichever channel.
    LostForAnybody,
    /// What was missed of the line is there.
    Found,
}

impl Item {
    fn size(&self) -> usize {
        match self {
            Item::Said { channel, payload } | Item::SaidByServer { channel, payload } => {
                channel.len() + payload.len()
            }
            Item::Heard { channel } | Item::NotHeard { channel } | Item::Lost { channel } => {
                channel.len()
            }
            Item::Cut
            | Item::Gathered
            | Item::LostUnaddressed
            | Item::LostOfServers
            | Item::LostForAnybody
            | Item::Found => 0,
        }
    }
}

/// Works things off. It never waits, and is called by one at a time, but for what is urgent.
pub(super) trait Worker: Send + Sync {
    /// Whether it has too much to do already.
    fn is_busy(&self) -> bool;
    /// Whether something may overtake what waits.
    fn is_urgent(&self, item: &Item) -> bool;
    /// Works something off.
    fn work(&self, item: Item);
}

#[derive(Default)]
struct Waiting {
    /// The connection's number: an earlier one brings nothing any more.
    link: u64,
    items: VecDeque<Item>,
    bytes: usize,
    /// Things are dropped until there is room for half as much again.
    drops: bool,
    lost: HashSet<Vec<u8>>,
    /// There were more.
    lost_more: bool,
}

pub(super) struct Inbox<W> {
    worker: W,
    waiting: Mutex<Waiting>,
    arrived: Notify,
    counters: Arc<Counters>,
}

impl Waiting {
    fn push(&mut self, item: Item) {
        self.bytes += item.size();
        self.items.push_back(item);
    }

    fn has_room(&self, share: usize) -> bool {
        self.items.len() < MAX_WAITING / share && self.bytes < MAX_WAITING_BYTES / share
    }

    /// What was dropped is told behind what waits.
    fn push_lost(&mut self) {
        self.drops = false;
        let lost = std::mem::take(&mut self.lost);
        match std::mem::take(&mut self.lost_more) {
            true => self.push(Item::LostForAnybody),
            false => lost
                .into_iter()
                .for_each(|channel| self.push(Item::Lost { channel })),
        }
    }

    /// Puts something in line; false: it was dropped.
    fn take_in(&mut self, item: Item) -> bool {
        let (Item::Said { channel, .. } | Item::SaidByServer { channel, .. }) = &item else {
            // A few for each channel and connection: they have no bound of their own.
            self.push(item);
            return true;
        };
        if self.drops && self.has_room(2) {
            self.push_lost();
        }
        if !self.drops && self.has_room(1) {
            self.push(item);
            return true;
        }
        self.drops = true;
        if self.lost.len() < MAX_LOST {
            self.lost.insert(channel.clone());
        } else {
            self.lost_more |= !self.lost.contains(channel);
        }
        false
    }

    fn next(&mut self) -> Option<Item> {
        if self.items.is_empty() && self.drops {
            self.push_lost();
        }
        let item = self.items.pop_front()?;
        self.bytes -= item.size();
        Some(item)
    }
}

impl<W: Worker> Inbox<W> {
    pub(super) fn new(worker: W, counters: Arc<Counters>) -> Inbox<W> {
        Inbox {
            worker,
            waiting: Mutex::default(),
            arrived: Notify::new(),
            counters,
        }
    }

    /// A new connection; its number.
    pub(super) fn next_link(&self) -> u64 {
        let mut waiting = locked(&self.waiting);
        waiting.link += 1;
        if waiting.link > 1 {
            self.take(&mut waiting, Item::Cut);
        }
        waiting.link
    }

    /// A connection has brought something. Never waits.
    pub(super) fn bring(&self, link: u64, item: Item) {
        if self.worker.is_urgent(&item) {
            return self.worker.work(item);
        }
        let mut waiting = locked(&self.waiting);
        if waiting.link == link {
            self.take(&mut waiting, item);
        }
    }

    /// Something is to be told, behind what has come before. Never waits.
    pub(super) fn take_in(&self, item: Item) {
        self.take(&mut locked(&self.waiting), item);
    }

    fn take(&self, waiting: &mut Waiting, item: Item) {
        if waiting.items.is_empty() && !waiting.drops && !self.worker.is_busy() {
            return self.worker.work(item);
        }
        if !waiting.take_in(item) {
            self.counters.dropped.fetch_add(1, Ordering::Relaxed);
        }
        self.arrived.notify_one();
    }

    /// Works off what had to wait, until it is dropped.
    pub(super) async fn work_off(&self) {
        loop {
            self.arrived.notified().await;
            while self.work_off_some() {
                match self.worker.is_busy() {
                    true => tokio::time::sleep(BUSY_PAUSE).await,
                    false => tokio::task::yield_now().await,
                }
            }
        }
    }

    /// False: nothing waits any more.
    fn work_off_some(&self) -> bool {
        let mut waiting = locked(&self.waiting);
        for _ in 0..MAX_PER_TURN {
            if self.worker.is_busy() {
                return true;
            }
            let Some(item) = waiting.next() else {
                return false;
            };
            self.worker.work(item);
        }
        true
    }
}

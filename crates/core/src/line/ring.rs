//! What is kept of one place: the newest events, and the newest of each key.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use hashbrown::HashMap;
use heartline_wire::time::Micros;

use crate::auth::UserKey;
use crate::line::{Account, Bounds, MAX_EVENT, MAX_KEYS};
use crate::message::Message;
use crate::presence::address::SocketAddress;

/// What an event costs besides its texts, about, bytes.
const OVERHEAD: usize = 160;

/// What a condition costs, about, bytes.
const CONDITION: usize = 192;

/// An event that is kept.
#[derive(Debug, Clone)]
pub struct Kept {
    /// Its place in the line.
    pub id: u64,
    /// Its number in its room; 0 where it went to no room.
    pub offset: u64,
    /// When it was published.
    pub at: Micros,
    /// What was said.
    pub message: Message,
    /// Of events with the same key only the last one matters.
    pub key: Option<Box<str>>,
    /// Who of those in the place heard it; `None`: all.
    pub only: Option<Box<Only>>,
}

/// Who of those in a place hears an event.
#[derive(Debug, Clone, Default)]
pub struct Only {
    /// Not this socket: it has said it.
    pub skip: Option<SocketAddress>,
    /// This user alone, of all that have the id.
    pub user: Option<Arc<UserKey>>,
    /// Not this user: it is about them.
    pub about: Option<Arc<UserKey>>,
    /// Who may join this room and is not in it.
    pub instead_of: Option<Arc<str>>,
    /// Who is in any of these rooms, of which some are sockets' names; `None`: all.
    pub among: Option<Box<[String]>>,
    /// Who is in none of these.
    pub except: Box<[String]>,
    /// The room as which live clients know where it went.
    pub topic: Option<Arc<str>>,
}

impl Only {
    /// Whether everybody in the place hears it.
    pub fn is_for_all(&self) -> bool {
        self.skip.is_none()
            && self.user.is_none()
            && self.about.is_none()
            && self.instead_of.is_none()
            && self.among.is_none()
            && self.except.is_empty()
            && self.topic.is_none()
    }
}

impl Kept {
    fn size(&self) -> usize {
        let key = self.key.as_ref().map_or(0, |key| 2 * key.len());
        let only = self.only.as_ref().map_or(0, |only| {
            let names = |names: &[String]| names.iter().map(|name| 24 + name.len()).sum();
            let among: usize = only.among.as_deref().map_or(0, names);
            let except: usize = names(&only.except);
            CONDITION + among + except
        });
        OVERHEAD + self.message.size() + key + only
    }
}

/// How much is known of a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Extent {
    /// The number of the last event that is not kept any more; 0: all are.
    pub dropped: u64,
    /// The same as an offset.
    pub dropped_offset: u64,
    /// The number of the last event; 0: there was none.
    pub last: u64,
}

/// The newest events of a place.
#[derive(Debug)]
pub struct Ring {
    account: Arc<Account>,
    entries: VecDeque<Kept>,
    /// Those with keys, by their numbers.
    keyed: BTreeMap<u64, Kept>,
    keys: HashMap<Box<str>, u64>,
    /// What all weighs.
    bytes: usize,
    /// The number of the last event that is not kept any more: before it nothing is complete.
    dropped: u64,
    /// The same as an offset.
    dropped_offset: u64,
    /// The number of the last event.
    last: u64,
    /// When it was published.
    last_at: Micros,
    /// When an event was last lost on its way.
    lost_at: Option<Micros>,
}

impl Ring {
    /// An empty ring.
    pub fn new(account: Arc<Account>) -> Ring {
        Ring {
            account,
            entries: VecDeque::new(),
            keyed: BTreeMap::new(),
            keys: HashMap::new(),
            bytes: 0,
            dropped: 0,
            dropped_offset: 0,
            last: 0,
            last_at: Micros::ZERO,
            lost_at: None,
        }
    }

    /// The number of the last event; 0: there was none.
    pub fn last(&self) -> u64 {
        self.last
    }

    /// The number of the last event that is not kept any more; 0: all are.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    /// Whether nothing is kept, and nothing known to be lost.
    pub fn is_empty(&self) -> bool {
        self.lost_at.is_none() && self.entries.is_empty() && self.keyed.is_empty()
    }

    /// When the last event was published, kept or not.
    pub fn last_at(&self) -> Micros {
        self.last_at
    }

    /// Keeps an event, whose number is higher than all before. What is too much goes: of this
    /// ring, the oldest first.
    pub fn push(&mut self, event: Kept, bounds: &Bounds) {
        self.last = event.id;
        self.last_at = event.at;
        let size = event.size();
        if let Some(key) = &event.key {
            self.forget_key(&key.clone());
        }
        self.trim(event.at, bounds);
        if event.message.size() > MAX_EVENT || size > bounds.bytes {
            self.dropped = self.dropped.max(event.id);
            self.dropped_offset = self.dropped_offset.max(event.offset);
            return;
        }
        while self.bytes + size > bounds.bytes || self.account.held() + size > bounds.buffer {
            if !self.drop_oldest() {
                self.dropped = self.dropped.max(event.id);
                self.dropped_offset = self.dropped_offset.max(event.offset);
                return;
            }
        }
        let is_removal = &*event.message.args == "null";
        match &event.key {
            Some(_) if is_removal => {
                // Who missed it must hear of it; who comes new has nothing to hear.
                self.keep_plain(event, size, bounds);
            }
            Some(key) => {
                if self.keyed.len() >= MAX_KEYS {
                    self.drop_oldest_key();
                }
                self.keys.insert(key.clone(), event.id);
                self.keyed.insert(event.id, event);
                self.add(size);
            }
            None => self.keep_plain(event, size, bounds),
        }
    }

    fn keep_plain(&mut self, event: Kept, size: usize, bounds: &Bounds) {
        if self.entries.len() >= bounds.events {
            self.drop_oldest_plain();
        }
        self.entries.push_back(event);
        self.add(size);
    }

    fn add(&mut self, size: usize) {
        self.bytes += size;
        self.account.add(size);
    }

    fn gone(&mut self, event: &Kept) {
        let size = event.size();
        self.bytes -= size;
        self.account.sub(size);
    }

    fn note_dropped(&mut self, event: &Kept) {
        self.gone(event);
        self.dropped = self.dropped.max(event.id);
        self.dropped_offset = self.dropped_offset.max(event.offset);
    }

    fn drop_oldest_plain(&mut self) -> bool {
        let oldest = self.entries.pop_front();
        if let Some(oldest) = &oldest {
            self.note_dropped(oldest);
        }
        oldest.is_some()
    }

    fn drop_oldest_key(&mut self) -> bool {
        let Some((_, oldest)) = self.keyed.pop_first() else {
            return false;
        };
        if let Some(key) = &oldest.key {
            self.keys.remove(key);
        }
        self.note_dropped(&oldest);
        true
    }

    fn drop_oldest(&mut self) -> bool {
        let plain = self.entries.front().map(|event| event.id);
        let keyed = self.keyed.first_key_value().map(|(id, _)| *id);
        match (plain, keyed) {
            (Some(plain), Some(keyed)) if keyed < plain => self.drop_oldest_key(),
            (None, _) => self.drop_oldest_key(),
            _ => self.drop_oldest_plain(),
        }
    }

    /// A newer event of the key makes this one unneeded: nobody misses it.
    fn forget_key(&mut self, key: &str) {
        let known = self.keys.remove(key);
        if let Some(event) = known.and_then(|id| self.keyed.remove(&id)) {
            self.gone(&event);
        }
    }

    /// All up to a number has come: nobody misses it.
    pub fn forget_up_to(&mut self, id: u64) {
        let kept = self.entries.partition_point(|event| event.id <= id);
        for event in self.entries.drain(..kept).collect::<Vec<_>>() {
            self.gone(&event);
        }
    }

    /// An event was not kept, or was lost on its way: who did not hear it cannot be told.
    pub fn skip(&mut self, id: u64, offset: u64) {
        self.last = self.last.max(id);
        self.dropped = self.dropped.max(id);
        self.dropped_offset = self.dropped_offset.max(offset);
    }

    /// The numbers in the room begin anew behind this one, and in the line behind that: of what
    /// is kept nobody can be told any more, and its numbers would be taken for those to come.
    pub fn begin_anew(&mut self, id: u64, offset: u64) {
        while self.drop_oldest() {}
        self.last = self.last.max(id);
        self.dropped = self.last;
        self.dropped_offset = offset;
    }

    /// The same of something that was lost now: it is remembered for as long as an event.
    pub fn lose(&mut self, id: u64, now: Micros) {
        self.skip(id, 0);
        self.lost_at = Some(now);
    }

    /// Takes in what all nodes together have kept of the place, up to what they knew: together
    /// with what is here, if there is nothing between the two.
    pub fn take_in(&mut self, known: Extent, events: Vec<Kept>, bounds: &Bounds) {
        let has_all = known.last <= self.last && known.dropped >= self.dropped;
        if has_all || known.last < self.dropped {
            return;
        }
        let mut all: BTreeMap<u64, Kept> = BTreeMap::new();
        all.extend(events.into_iter().map(|event| (event.id, event)));
        let meets = known.dropped <= self.last && self.dropped <= known.last;
        let mut ring = Ring::new(self.account.clone());
        (ring.dropped, ring.dropped_offset) = (known.dropped, known.dropped_offset);
        ring.lost_at = self.lost_at;
        if meets {
            if self.dropped < known.dropped {
                (ring.dropped, ring.dropped_offset) = (self.dropped, self.dropped_offset);
            }
            let here = std::mem::take(&mut self.entries).into_iter();
            let keyed = std::mem::take(&mut self.keyed).into_values();
            all.extend(here.chain(keyed).map(|event| (event.id, event)));
            ring.last = self.last;
        }
        self.account.sub(std::mem::take(&mut self.bytes));
        let last = ring.last.max(known.last);
        for event in all.into_values() {
            ring.push(event, bounds);
        }
        ring.last = ring.last.max(last);
        ring.last_at = ring.last_at.max(self.last_at);
        *self = ring;
    }

    /// Drops what is older than it may be. What is newest of its key stays.
    pub fn trim(&mut self, now: Micros, bounds: &Bounds) {
        while let Some(oldest) = self.entries.front()
            && now - oldest.at > bounds.age
        {
            self.drop_oldest_plain();
        }
        if self.entries.is_empty() {
            self.entries.shrink_to_fit();
        }
        self.lost_at = self.lost_at.filter(|at| now - *at <= bounds.age);
    }

    /// Whether all that came after the number is kept.
    pub fn is_complete_after(&self, id: u64) -> bool {
        id >= self.dropped
    }

    /// The same for a number in the room.
    pub fn is_complete_after_offset(&self, offset: u64) -> bool {
        offset >= self.dropped_offset
    }

    /// What is kept after one number and up to another, by the numbers.
    pub fn between(&self, after: u64, to: u64) -> Vec<&Kept> {
        if after >= to {
            return Vec::new();
        }
        let from = self.entries.partition_point(|event| event.id <= after);
        let plain = self.entries.range(from..);
        let plain = plain.take_while(|event| event.id <= to);
        let keyed = self.keyed.range(after + 1..=to).map(|(_, event)| event);
        merged(plain, keyed)
    }

    /// What is kept after one number in the room and up to another, by the numbers.
    pub fn between_offsets(&self, after: u64, to: u64) -> Vec<&Kept> {
        let from = self.entries.partition_point(|event| event.offset <= after);
        let plain = self.entries.range(from..);
        let plain = plain.take_while(|event| event.offset <= to);
        let keyed = self.keyed.values();
        let keyed = keyed.filter(|event| event.offset > after && event.offset <= to);
        merged(plain, keyed)
    }

    /// The newest events of the keys, up to a number in the room.
    pub fn newest(&self, to: u64) -> impl Iterator<Item = &Kept> {
        self.keyed.values().filter(move |event| event.offset <= to)
    }

    /// The number, in the line, of the last event that is kept up to a number in the room.
    pub fn id_of(&self, offset: u64) -> Option<u64> {
        let plain = self.entries.partition_point(|event| event.offset <= offset);
        let plain = plain.checked_sub(1).and_then(|at| self.entries.get(at));
        let keyed = self
            .keyed
            .values()
            .rev()
            .find(|event| event.offset <= offset);
        plain.into_iter().chain(keyed).map(|event| event.id).max()
    }
}

fn merged<'a>(
    plain: impl Iterator<Item = &'a Kept>,
    keyed: impl Iterator<Item = &'a Kept>,
) -> Vec<&'a Kept> {
    let mut all: Vec<&Kept> = plain.collect();
    let before = all.len();
    all.extend(keyed);
    if all.len() > before {
        all.sort_unstable_by_key(|event| event.id);
    }
    all
}

impl Drop for Ring {
    fn drop(&mut self) {
        self.account.sub(self.bytes);
    }
}

#[cfg(test)]
mod tests;
